"""Give a trained model the image tower of a CLIP, and let it forget some words.

    python scripts/graft.py MODEL CLIP OUT WORD...

A model that never saw a difference has learnt that the words for it mean the same: their embeddings have fallen
together, and then no gradient tells the picture's side that there is one. Drawn anew, the words are apart again, and the
tower of a CLIP that was trained to tell pictures apart by these words shows the difference. The model has to be trained
after this (`refseg train ... --init OUT`); `docs/results.md` tells how the bundled model was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from refseg.checkpoint import load_model, read_folder, resolve, save_model
from refseg.inputs.text import Tokenizer

PLAIN_WORDS = ("red", "green", "blue", "star", "ring", "ball")
"""Their embeddings say how long one is that the model has learnt."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder, or a name of the zoo")
    parser.add_argument("clip", type=Path, help="the model folder of a CLIP with the same image tower")
    parser.add_argument("out", type=Path, help="the model folder to write")
    parser.add_argument("words", nargs="*", help="words whose embeddings are drawn anew")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    source = resolve(arguments.model)
    model, clip = load_model(source), load_model(arguments.clip)
    model.visual.load_state_dict(clip.visual.state_dict())
    generator = torch.Generator().manual_seed(arguments.seed)
    embedding = model.text.token_embedding.weight.data
    spread = embedding[pieces(PLAIN_WORDS)].std()
    forgotten = pieces(arguments.words)
    embedding[forgotten] = spread * torch.randn(len(forgotten), embedding.shape[1], generator=generator)
    save_model(model, arguments.out, extra={"grafted": {"words": arguments.words, "from": read_folder(source).about}})
    print(arguments.out)


def pieces(words: list[str] | tuple[str, ...]) -> list[int]:
    """Return the tokens that some words consist of, each once."""
    tokens = [Tokenizer(8)([word]) for word in words]
    return sorted({int(token) for one in tokens for token in one.tokens[0][1:][~one.padding[0][1:]][:-1]})


if __name__ == "__main__":
    main()
