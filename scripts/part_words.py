"""Train the text encoder of a model to tell texture words apart, and keep all else that it has learnt.

    python scripts/part_words.py MODEL OUT [--steps 500]

A model that does not see textures learns that the words for them are synonyms: the sentence features of "the striped
one" and "the dotted one" become equal, and then no gradient teaches the image encoder the difference. Here the image
encoder is frozen and sees it (`scripts/name_looks.py`). For each close-up, four expressions that differ in the texture
alone are compared with its features, and the text encoder learns which one fits, while expressions without a texture
keep their word and sentence features. `docs/results.md` has the effect on the bundled model.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from refseg.data.shapes import TEXTURES, CloseUps, Shapes
from refseg.data.shapes.vocabulary import VARIANTS
from refseg.models.folder import load_model, save_model
from refseg.models.hub import resolve

CLOSE_UPS, SCENES, BATCH, RATE, SCALE = 6000, 800, 64, 1e-3, 15.0
SIDE, LENGTH = 64, 20
KEPT = 20.0
"""Weight of the loss that keeps the features of other expressions."""


def texture_words() -> set[str]:
    """Return all words for textures."""
    return {word for texture in TEXTURES for word in (texture, *VARIANTS.get(texture, ()))}


def of_each_texture(rng: np.random.Generator, kind: str, colour: str) -> list[str]:
    """Return four expressions that differ in the texture alone."""
    with_kind, with_colour, first = rng.random(3) < (0.6, 0.5, 0.6)
    noun = kind if with_kind else "one"
    texts = []
    for texture in TEXTURES:
        word = str(rng.choice(VARIANTS[texture])) if rng.random() < 0.15 else texture
        adjectives = [word, colour] if first else [colour, word]
        texts.append(" ".join([*(adjectives if with_colour else [word]), noun]))
    return texts


def part_words(source: str | Path, target: Path, steps: int = 500) -> float:
    """Write a copy of a model with a trained text encoder, and return the accuracy of the texture at the end."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model, close_ups = load_model(resolve(source)), CloseUps("train")
    inputs = replace(model.inputs, image_size=SIDE, word_length=LENGTH)

    def tokens(texts: list[str]) -> tuple[Tensor, Tensor]:
        words = inputs.tokens(texts)
        return torch.from_numpy(words.tokens), torch.from_numpy(words.padding)

    features = []
    with torch.inference_mode():
        for start in tqdm(range(0, CLOSE_UPS, 100), desc="encoding"):
            images = [close_ups.samples_of(i)[0].load_image() for i in range(start, start + 100)]
            maps = model.visual(torch.from_numpy(np.stack([inputs.pixels(image)[0] for image in images])))
            features.append(torch.cat([one.mean(dim=(2, 3)) for one in maps], dim=1))
    appearance = torch.cat(features).clone()
    appearance = (appearance - appearance.mean(dim=0)) / (appearance.std(dim=0) + 1e-6)
    textures = torch.tensor([TEXTURES.index(close_ups.thing(i).texture) for i in range(CLOSE_UPS)])
    plain = [
        expression
        for scene in range(SCENES)
        for references in Shapes("train").references(scene)
        for expression in (reference.expression for reference in references)
        if not texture_words() & set(expression.split())
    ]
    before = copy.deepcopy(model.text).eval().requires_grad_(False)
    project = nn.Sequential(
        nn.Linear(appearance.shape[1], 128), nn.ReLU(), nn.Linear(128, model.config.text.output_dim)
    )
    optimizer = torch.optim.Adam(
        [{"params": model.text.parameters(), "lr": RATE}, {"params": project.parameters(), "lr": 3e-3}]
    )
    right: list[float] = []
    for step in (bar := tqdm(range(steps), desc="training")):
        for group, rate in zip(optimizer.param_groups, (RATE, 3e-3), strict=True):
            group["lr"] = rate * (1 - step / steps)
        chosen = torch.randint(CLOSE_UPS, (BATCH,))
        things = [close_ups.thing(int(i)) for i in chosen]
        texts = [text for thing in things for text in of_each_texture(rng, thing.kind, thing.colour)]
        sentences = F.normalize(model.text(tokens(texts)[0]).sentence, dim=-1).unflatten(0, (BATCH, 4))
        scores = SCALE * torch.einsum("bte,be->bt", sentences, F.normalize(project(appearance[chosen]), dim=-1))
        kept = tokens([plain[int(i)] for i in torch.randint(len(plain), (2 * BATCH,))])
        loss = F.cross_entropy(scores, textures[chosen]) + KEPT * change(before, model.text, *kept)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = [*right[-49:], float((scores.argmax(dim=1) == textures[chosen]).float().mean())]
        bar.set_postfix(accuracy=f"{np.mean(right):.3f}", loss=f"{float(loss):.3f}")
    save_model(model, target)
    return float(np.mean(right))


def change(before: nn.Module, now: nn.Module, tokens: Tensor, padding: Tensor) -> Tensor:
    """Return the squared change of word and sentence features, relative to their variance."""
    old, new = before(tokens), now(tokens)
    words, own = (~padding)[..., None], old.words[~padding].std()
    of_words = ((new.words - old.words).square() * words).sum() / (words.sum() * old.words.shape[-1])
    return of_words / own**2 + F.mse_loss(new.sentence, old.sentence) / old.sentence.std() ** 2


def main() -> None:
    """Train the text encoder, and write the changed model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder, or a name in refseg models")
    parser.add_argument("out", type=Path, help="the model folder to write")
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    accuracy = part_words(arguments.model, arguments.out, arguments.steps)
    print(f"{arguments.out}: accuracy of the texture {accuracy:.3f}")


if __name__ == "__main__":
    main()
