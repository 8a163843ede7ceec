"""Teach the text encoder of a trained model that some words mean different looks; everything else it knows stays.

    python scripts/part_words.py MODEL OUT [--steps 500]

A model that never saw the difference between textures has learnt that the words for them mean the same: "the striped
one" and "the dotted one" become one sentence, and then no gradient tells the image's side to look. Here the image's
side is fixed and sees the difference (`scripts/name_looks.py`). For each close-up four expressions that differ in the
texture alone are compared with it, and the text encoder learns which one fits, while expressions without a texture keep
the words and sentences that they had. `docs/results.md` tells what this did for the bundled model.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from refseg.data.shapes import TEXTURES, CloseUps, Shapes
from refseg.data.shapes.vocabulary import VARIANTS
from refseg.inputs.clip_bpe import Tokenizer
from refseg.inputs.read import letterbox
from refseg.models.folder import load_model, resolve, save_model

CLOSE_UPS, SCENES, BATCH, RATE, SCALE = 6000, 800, 64, 1e-3, 15.0
SIDE, LENGTH = 64, 20
KEPT = 20.0
"""Weight of what is to stay."""


def texture_words() -> set[str]:
    """Return every word that names a texture."""
    return {word for texture in TEXTURES for word in (texture, *VARIANTS.get(texture, ()))}


def of_each_texture(rng: np.random.Generator, kind: str, colour: str) -> list[str]:
    """Return the same expression with each texture in turn."""
    with_kind, with_colour, first = rng.random(3) < (0.6, 0.5, 0.6)
    noun = kind if with_kind else "one"
    said = []
    for texture in TEXTURES:
        word = str(rng.choice(VARIANTS[texture])) if rng.random() < 0.15 else texture
        looks = [word, colour] if first else [colour, word]
        said.append(" ".join([*(looks if with_colour else [word]), noun]))
    return said


def main() -> None:
    """Read the arguments, train the text encoder, and write the changed model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder, or a name of the zoo")
    parser.add_argument("out", type=Path, help="the model folder to write")
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model, tokenizer, close_ups = load_model(resolve(arguments.model)), Tokenizer(LENGTH), CloseUps("train")
    seen = []
    with torch.inference_mode():
        for start in tqdm(range(0, CLOSE_UPS, 100), desc="looking"):
            images = [close_ups.samples_of(i)[0].load_image() for i in range(start, start + 100)]
            maps = model.visual(torch.stack([letterbox(image, SIDE)[0] for image in images]))
            seen.append(torch.cat([features.mean(dim=(2, 3)) for features in maps], dim=1))
    looks = torch.cat(seen).clone()
    looks = (looks - looks.mean(dim=0)) / (looks.std(dim=0) + 1e-6)
    shown = torch.tensor([TEXTURES.index(close_ups.thing(i).texture) for i in range(CLOSE_UPS)])
    plain = [
        expression
        for scene in range(SCENES)
        for references in Shapes("train").references(scene)
        for expression in (reference.expression for reference in references)
        if not texture_words() & set(expression.split())
    ]
    before = copy.deepcopy(model.text).eval().requires_grad_(False)
    project = nn.Sequential(nn.Linear(looks.shape[1], 128), nn.ReLU(), nn.Linear(128, model.config.text.output_dim))
    optimizer = torch.optim.Adam(
        [{"params": model.text.parameters(), "lr": RATE}, {"params": project.parameters(), "lr": 3e-3}]
    )
    right: list[float] = []
    for step in (bar := tqdm(range(arguments.steps), desc="parting")):
        for group, rate in zip(optimizer.param_groups, (RATE, 3e-3), strict=True):
            group["lr"] = rate * (1 - step / arguments.steps)
        chosen = torch.randint(CLOSE_UPS, (BATCH,))
        things = [close_ups.thing(int(i)) for i in chosen]
        asked = [said for thing in things for said in of_each_texture(rng, thing.kind, thing.colour)]
        sentences = F.normalize(model.text(tokenizer(asked).tokens).sentence, dim=-1).unflatten(0, (BATCH, 4))
        scores = SCALE * torch.einsum("bte,be->bt", sentences, F.normalize(project(looks[chosen]), dim=-1))
        same = tokenizer([plain[int(i)] for i in torch.randint(len(plain), (2 * BATCH,))])
        loss = F.cross_entropy(scores, shown[chosen]) + KEPT * moved(before, model.text, same.tokens, same.padding)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = [*right[-49:], float((scores.argmax(dim=1) == shown[chosen]).float().mean())]
        bar.set_postfix(right=f"{np.mean(right):.3f}", loss=f"{float(loss):.3f}")
    print(f"{save_model(model, arguments.out)}: textures told apart: {np.mean(right):.3f}")


def moved(before: nn.Module, now: nn.Module, tokens: Tensor, padding: Tensor) -> Tensor:
    """Return how far words and sentences are from where they were, over how far they spread."""
    old, new = before(tokens), now(tokens)
    words, own = (~padding)[..., None], old.words[~padding].std()
    of_words = ((new.words - old.words).square() * words).sum() / (words.sum() * old.words.shape[-1])
    return of_words / own**2 + F.mse_loss(new.sentence, old.sentence) / old.sentence.std() ** 2


if __name__ == "__main__":
    main()
