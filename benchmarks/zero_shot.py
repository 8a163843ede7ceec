"""Measure how often a CLIP of generated scenes names kind, colour and texture of an object, on held-out close-ups.

    python benchmarks/zero_shot.py runs/shapes-clip/last
    python benchmarks/zero_shot.py runs/shapes-easy-clip/last --scenes shapes-easy

The name of the highest cosine of image and text among all names of an attribute is chosen (CLIP, section 3.1).
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from refseg.data.shapes import COLOURS, EASY, KINDS, SHAPES, TEXTURES, CloseUps
from refseg.data.shapes.vocabulary import EASY_COLOURS, EASY_KINDS
from refseg.models.clip_map.model import CLIPMap
from refseg.models.folder import load_model

SIDE, BATCH = 64, 100
ATTRIBUTES = {
    SHAPES: {"kind": (KINDS, "{}"), "colour": (COLOURS, "{} one"), "texture": (TEXTURES, "{} one")},
    EASY: {"kind": (EASY_KINDS, "{}"), "colour": (EASY_COLOURS, "{} one")},
}


def main() -> None:
    """Print a line for each attribute."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the model folder of a CLIP")
    parser.add_argument("--scenes", choices=ATTRIBUTES, default=SHAPES, help="whose objects (default: %(default)s)")
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()
    model, data = load_model(arguments.model), CloseUps("val", arguments.scenes)
    assert isinstance(model, CLIPMap), "the model must be a CLIP"
    inputs, count = replace(model.inputs, image_size=SIDE), min(arguments.images, data.num_images)

    def sentences(texts: list[str]) -> Tensor:
        return model.embed(torch.zeros(1, 3, SIDE, SIDE), torch.from_numpy(inputs.tokens(texts).tokens))[1]

    with torch.inference_mode():
        embedded = []
        for start in range(0, count, BATCH):
            images = [data.samples_of(i)[0].load_image() for i in range(start, min(start + BATCH, count))]
            pixels = torch.from_numpy(np.stack([inputs.pixels(image)[0] for image in images]))
            embedded.append(model.embed(pixels, torch.from_numpy(inputs.tokens(["a thing"]).tokens))[0])
        for attribute, (names, template) in ATTRIBUTES[arguments.scenes].items():
            scores = torch.cat(embedded) @ sentences([template.format(name) for name in names]).mT
            true = torch.tensor([names.index(getattr(data.thing(i), attribute)) for i in range(count)])
            right = float((scores.argmax(dim=1) == true).float().mean())
            print(f"{attribute:8} {right:.3f} of {count} close-ups, by chance {1 / len(names):.3f}")


if __name__ == "__main__":
    main()
