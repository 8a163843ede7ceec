"""Add a head for presence to a trained CRIS: it says whether anything in the image fits the expression.

    python scripts/fit_presence.py runs/photos-words runs/photos-presence --data PHOTOS:train

The model stays as it is: what the head reads of it is computed once, and the head learns from that in a minute. Where
the head finds too little evidence, all logits are lowered (`refseg.models.cris.presence`); masks of what is there stay.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from refseg.data.catalogue import DataSet, open_data
from refseg.models.cris.model import CRIS
from refseg.models.families import build
from refseg.models.folder import load_model, read_folder, save_model

HIDDEN = 256
"""Hidden channels of the head."""
EPOCHS, BATCH, RATE, DECAY = 20, 256, 2e-3, 0.05
"""Passes over the expressions, expressions of a step, greatest learning rate, and weight decay (AdamW)."""


LOWERED = 0.05
"""Share of the expressions that fit something whose logits are lowered all the same."""


class Features(NamedTuple):
    """What the head reads and learns, of N expressions, each about one image."""

    pooled: Float[Tensor, "N K"]
    sentence: Float[Tensor, "N E"]
    highest: Float[Tensor, "N"]
    """The highest logit of the model without the head."""
    present: Float[Tensor, "N"]
    """Whether anything fits, 0 or 1."""


@torch.no_grad()
def features_of(model: CRIS, data: DataSet) -> Features:
    """Compute what a head reads, for all images of a data set and each of their different expressions."""
    assert model.presence is not None
    found: list[Features] = []
    for index in tqdm(range(data.num_images), "features"):
        samples = data.samples_of(index)
        present = {one.text: sample.load_mask is not None for sample in samples for one in sample.expressions}
        if not present:
            continue
        pixels, _ = model.inputs.pixels(samples[0].load_image())
        read = model.inputs.tokens(list(present))
        tokens, padding = torch.from_numpy(read.tokens), torch.from_numpy(read.padding)
        image = model.encode_image(torch.from_numpy(pixels)[None])
        image = {name: values.expand(len(tokens), *values.shape[1:]) for name, values in image.items()}
        text = model.encode_text(tokens, padding)
        fused, sentence = model.fuse(image, text, padding), text["sentence"]
        highest = model.projector(fused, sentence).flatten(1).amax(dim=1)
        answers = torch.tensor(list(present.values()), dtype=torch.float32)
        found.append(Features(model.presence.pool(fused), sentence, highest, answers))
    return Features(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def fit(model: CRIS, features: Features, seed: int) -> None:
    """Train the head to say with the highest logit whether anything fits; both answers weigh the same in all."""
    head = model.presence
    assert head is not None
    torch.manual_seed(seed)
    total, absent = len(features.present), len(features.present) - features.present.sum()
    weights = torch.where(features.present > 0, 1.0, features.present.sum() / absent)
    steps = EPOCHS * -(-total // BATCH)
    optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    head.train()
    for _ in tqdm(range(EPOCHS), "epochs"):
        for chosen in torch.randperm(total).split(BATCH):
            pooled, sentence, highest, present = (values[chosen] for values in features)
            logits = head.judge(pooled, sentence) + highest
            loss = F.binary_cross_entropy_with_logits(logits, present, weights[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    head.eval()
    with torch.no_grad():
        evidence = head.judge(features.pooled, features.sentence) + features.highest
        head.logit.bias -= evidence[features.present > 0].quantile(LOWERED)


def add_presence(source: Path, out: Path, data: str, seed: int = 0) -> None:
    """Write a model folder with a head for presence.

    Args:
        source: the folder of the trained model.
        out: the folder to write.
        data: the data set that it was trained on, some of whose expressions fit nothing.
        seed: of the head's initial weights, and of the order of the expressions.
    """
    trained, stored = load_model(source), read_folder(source)
    torch.manual_seed(seed)
    model = build(trained.spec.changed(presence=HIDDEN))
    model.load_state_dict(model.state_dict() | trained.state_dict())
    features = features_of(model.eval(), open_data(data))
    fit(model, features, seed)
    counts = {"expressions": len(features.present), "present": int(features.present.sum()), "seed": seed}
    save_model(
        model, out, name=stored.about.get("name"), domain=stored.domain, extra={**stored.about, "presence": counts}
    )


def main() -> None:
    """Write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the folder of a trained CRIS")
    parser.add_argument("out", type=Path, help="the model folder to write")
    parser.add_argument("--data", required=True, metavar="DATASET:SPLIT", help="what it was trained on")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    add_presence(arguments.model, arguments.out, arguments.data, arguments.seed)


if __name__ == "__main__":
    main()
