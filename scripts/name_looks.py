"""Train the image encoder of a model anew, to name what things look like, and put it into the model.

    python scripts/name_looks.py MODEL OUT [--minutes 2.5]

Things are cut out of the first scenes of `shapes:train`, and a line on top of the mean of each of the encoder's three
maps names their texture, colour and kind. Afterwards the lines are thrown away. This is how the bundled model's encoder
learnt to see textures, which it had not learnt from masks in four hours (`docs/results.md`). How many steps fit into
the minutes depends on the machine.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from refseg.data.shapes import COLOURS, KINDS, TEXTURES, Shapes
from refseg.encoders.clip_resnet import ModifiedResNet
from refseg.inputs.read import MEAN, STD
from refseg.models.folder import load_model, resolve, save_model

SCENES, SIDE, BATCH, RATE, WARMUP = 3000, 64, 96, 3e-3, 40
LEAST_PIXELS = 200
ROOM = (1.05, 2.6)
"""Side of a cut-out in sides of its thing."""
LOOKS = (TEXTURES, COLOURS, KINDS)
WEIGHTS = (1.0, 0.3, 0.3)
"""Texture is the hardest."""


class Names(nn.Module):
    """A line on top of the mean of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.lines = nn.ModuleList(nn.Linear(channels, len(names)) for names in LOOKS)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Return the scores of each texture, colour and kind."""
        mean = self.norm(features.float().mean(dim=(2, 3)))
        return [line(mean) for line in self.lines]


def cut_outs(scene: int) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """Yield each thing of a scene as a small image, with what it looks like."""
    data, rng = Shapes("train"), np.random.default_rng(scene)
    image, masks = data.samples_of(scene)[0].load_image(), data.masks(scene)
    width, height = image.size
    for thing, mask in zip(data.scene(scene).things, masks, strict=True):
        if mask.sum() < LEAST_PIXELS:
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        length = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
        side = length * rng.uniform(*ROOM)
        middle = [(ends[0] + ends[-1]) / 2 + rng.uniform(-0.2, 0.2) * (side - length) for ends in (columns, rows)]
        side = min(side, width, height)
        left, top = (min(max(0, at - side / 2), end - side) for at, end in zip(middle, (width, height), strict=True))
        part = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        looks = (thing.texture, thing.colour, thing.kind)
        yield np.asarray(part), tuple(names.index(look) for names, look in zip(LOOKS, looks, strict=True))


def train(encoder: ModifiedResNet, channels: tuple[int, ...], minutes: float) -> float:
    """Train a encoder, and return how often its deepest map named the texture right in the last hundred steps."""
    made = [pair for scene in tqdm(range(SCENES), desc="cutting out") for pair in cut_outs(scene)]
    images, looks = np.stack([image for image, _ in made]), torch.tensor([names for _, names in made])
    heads = nn.ModuleList(Names(count) for count in channels)
    encoder = encoder.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=RATE, weight_decay=0.02)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    begun, step, right = time.monotonic(), 0, []
    with tqdm(total=100, desc="training", unit="%") as bar:
        while (share := (time.monotonic() - begun) / (60 * minutes)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * share))
            chosen = torch.randint(len(images), (BATCH,))
            pixels = torch.from_numpy(images[chosen]).permute(0, 3, 1, 2).float() / 255
            pixels = pixels.flip([axis for axis in (2, 3) if torch.rand(()) < 0.5])
            with torch.autocast("cpu", torch.bfloat16):
                maps = encoder(((pixels - mean) / std).contiguous(memory_format=torch.channels_last))
            named = [head(features) for head, features in zip(heads, maps, strict=True)]
            losses = [
                weight * F.cross_entropy(guess, looks[chosen, look])
                for guesses in named
                for look, (guess, weight) in enumerate(zip(guesses, WEIGHTS, strict=True))
            ]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            step += 1
            right = [*right[-99:], float((named[-1][0].argmax(dim=1) == looks[chosen, 0]).float().mean())]
            bar.update(round(100 * share) - bar.n)
    return float(np.mean(right))


def main() -> None:
    """Read the arguments, train, and write the changed model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder, or a name of the zoo")
    parser.add_argument("out", type=Path, help="the model folder to write")
    parser.add_argument("--minutes", type=float, default=2.5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = load_model(resolve(arguments.model))
    config = model.config.vision
    encoder = ModifiedResNet(config)
    right = train(encoder, config.channels, arguments.minutes)
    model.visual.load_state_dict(encoder.state_dict())
    print(f"{save_model(model, arguments.out)}: textures named right: {right:.3f}")


if __name__ == "__main__":
    main()
