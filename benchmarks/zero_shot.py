"""How often a CLIP of generated scenes names a thing's looks, of close-ups that it was not trained on.

    python benchmarks/zero_shot.py runs/shapes-clip/last

Each look is chosen among all of its kind by the cosine of image and words, as in CLIP's paper (section 3.1).
"""

from __future__ import annotations

import argparse

import torch

from refseg.data.shapes import COLOURS, KINDS, TEXTURES, CloseUps
from refseg.inputs.clip_bpe import Tokenizer
from refseg.inputs.read import letterbox
from refseg.models.clip_map.model import CLIPMap
from refseg.models.folder import load_model

SIDE, STEP = 64, 100
LOOKS = {"kind": (KINDS, "{}"), "colour": (COLOURS, "{} one"), "texture": (TEXTURES, "{} one")}


def main() -> None:
    """Read the arguments, and print a line for each kind of look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the model folder of a CLIP")
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()
    model, data = load_model(arguments.model), CloseUps("val")
    assert isinstance(model, CLIPMap), "a CLIP has to be given"
    tokenizer, count = Tokenizer(model.config.word_length), min(arguments.num_images, data.num_images)
    with torch.inference_mode():
        images = []
        for start in range(0, count, STEP):
            images = [data.samples_of(i)[0].load_image() for i in range(start, min(start + STEP, count))]
            pixels = torch.stack([letterbox(image, SIDE)[0] for image in images])
            images.append(model.embed(pixels, tokenizer(["a thing"]).tokens)[0])
        seen = torch.cat(images)
        for look, (names, template) in LOOKS.items():
            words = tokenizer([template.format(name) for name in names]).tokens
            sentences = model.embed(torch.zeros(1, 3, SIDE, SIDE), words)[1]
            shown = torch.tensor([names.index(getattr(data.thing(i), look)) for i in range(count)])
            right = ((seen @ sentences.mT).argmax(dim=1) == shown).float().mean()
            print(f"{look:8} {float(right):.3f} of {count} close-ups, by chance {1 / len(names):.3f}")


if __name__ == "__main__":
    main()
