"""Train the image encoder of a model from random weights to classify appearance, and put it into the model.

    python scripts/name_looks.py MODEL OUT [--minutes 2.5]

Objects are cropped from the first scenes of `shapes:train`. Linear classifiers on the mean of each of the encoder's
three feature maps predict their texture, colour and kind, and are discarded afterwards. The encoder of the bundled
model learnt textures this way, which it had not learnt from masks in four hours (`docs/results.md`). The number of
steps in the given minutes depends on the machine.
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
from refseg.inputs.preprocessing import Inputs
from refseg.models.folder import load_model, save_model
from refseg.models.hub import resolve

SCENES, SIDE, BATCH, RATE, WARMUP = 3000, 64, 96, 3e-3, 40
LEAST_PIXELS = 200
CROP = (1.05, 2.6)
"""Least and greatest side of a crop, in sides of its object."""
ATTRIBUTES = (TEXTURES, COLOURS, KINDS)
WEIGHTS = (1.0, 0.3, 0.3)
"""Of the losses; texture is the hardest."""


class Classifiers(nn.Module):
    """Linear classifiers on the mean of a feature map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.linear = nn.ModuleList(nn.Linear(channels, len(names)) for names in ATTRIBUTES)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Return the scores of each texture, colour and kind."""
        mean = self.norm(features.float().mean(dim=(2, 3)))
        return [linear(mean) for linear in self.linear]


def crops(scene: int) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """Yield a crop around each object of a scene, with the indices of its attributes."""
    data, rng = Shapes("train"), np.random.default_rng(scene)
    image, masks = data.samples_of(scene)[0].load_image(), data.objects(scene)
    width, height = image.size
    for thing, mask in zip(data.scene(scene).things, masks, strict=True):
        if mask.sum() < LEAST_PIXELS:
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        length = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
        side = length * rng.uniform(*CROP)
        middle = [(ends[0] + ends[-1]) / 2 + rng.uniform(-0.2, 0.2) * (side - length) for ends in (columns, rows)]
        side = min(side, width, height)
        left, top = (min(max(0, at - side / 2), end - side) for at, end in zip(middle, (width, height), strict=True))
        part = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        attributes = (thing.texture, thing.colour, thing.kind)
        yield np.asarray(part), tuple(names.index(name) for names, name in zip(ATTRIBUTES, attributes, strict=True))


def train(encoder: ModifiedResNet, channels: tuple[int, ...], inputs: Inputs, minutes: float) -> float:
    """Train an encoder, and return the accuracy of the texture by its last feature map over the last hundred steps."""
    pairs = [pair for scene in tqdm(range(SCENES), desc="cropping") for pair in crops(scene)]
    images, classes = np.stack([image for image, _ in pairs]), torch.tensor([indices for _, indices in pairs])
    heads = nn.ModuleList(Classifiers(count) for count in channels)
    encoder = encoder.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=RATE, weight_decay=0.02)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (inputs.mean, inputs.std))
    started, step, right = time.monotonic(), 0, list[float]()
    with tqdm(total=100, desc="training", unit="%") as bar:
        while (elapsed := (time.monotonic() - started) / (60 * minutes)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * elapsed))
            chosen = torch.randint(len(images), (BATCH,))
            pixels = torch.from_numpy(images[chosen]).permute(0, 3, 1, 2).float() / 255
            pixels = pixels.flip([axis for axis in (2, 3) if torch.rand(()) < 0.5])
            with torch.autocast("cpu", torch.bfloat16):
                maps = encoder(((pixels - mean) / std).contiguous(memory_format=torch.channels_last))
            scores = [head(features) for head, features in zip(heads, maps, strict=True)]
            losses = [
                weight * F.cross_entropy(score, classes[chosen, attribute])
                for of_map in scores
                for attribute, (score, weight) in enumerate(zip(of_map, WEIGHTS, strict=True))
            ]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            step += 1
            right = [*right[-99:], float((scores[-1][0].argmax(dim=1) == classes[chosen, 0]).float().mean())]
            bar.update(round(100 * elapsed) - bar.n)
    return float(np.mean(right))


def name_looks(source: str | Path, target: Path, minutes: float = 2.5) -> float:
    """Write a copy of a model with a new image encoder, and return the accuracy of the texture."""
    torch.manual_seed(0)
    model = load_model(resolve(source))
    config = model.config.vision
    encoder = ModifiedResNet(config)
    accuracy = train(encoder, config.channels, model.inputs, minutes)
    model.visual.load_state_dict(encoder.state_dict())
    save_model(model, target)
    return accuracy


def main() -> None:
    """Train, and write the changed model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder, or a name in refseg models")
    parser.add_argument("out", type=Path, help="the model folder to write")
    parser.add_argument("--minutes", type=float, default=2.5)
    arguments = parser.parse_args()
    accuracy = name_looks(arguments.model, arguments.out, arguments.minutes)
    print(f"{arguments.out}: accuracy of the texture {accuracy:.3f}")


if __name__ == "__main__":
    main()
