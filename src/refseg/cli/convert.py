"""Turn a checkpoint of the CRIS reference, or a CLIP, into a model folder; or a folder into such a checkpoint."""

from __future__ import annotations

import argparse

from refseg.errors import ConfigError

__all__ = ["add_arguments", "run"]

SETTINGS = ("image_size", "word_length", "threshold", "decoder_heads")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "source", help="a checkpoint (.pth) of DerrickWang005/CRIS.pytorch, a file of CLIP's weights, or a model folder"
    )
    parser.add_argument("target", help="the model folder, or the checkpoint, to write")
    parser.add_argument(
        "--to", choices=("refseg", "reference"), help="what to write (default: a file becomes a folder, and back)"
    )
    parser.add_argument(
        "--merge", action="store_true", help="write a folder that holds the CLIP too which the model borrows"
    )
    parser.add_argument("--clip", metavar="FILE", help="with --merge: that CLIP, where it is not found by itself")
    parser.add_argument("--image-size", type=int, metavar="S", help="side of the model's images (CRIS: 416)")
    parser.add_argument(
        "--word-length", type=int, metavar="L", help="tokens of an expression (CRIS: 17; RefCOCOg's models have 22)"
    )
    parser.add_argument("--threshold", type=float, metavar="P", help="probability above which a pixel is meant (0.35)")
    parser.add_argument("--decoder-heads", type=int, metavar="N", help="heads of the decoder's attention (default: 8)")


def run(arguments: argparse.Namespace) -> int:
    """Convert, and say what was written."""
    changes = {name: value for name in SETTINGS if (value := getattr(arguments, name)) is not None}
    if arguments.clip is not None and not arguments.merge:
        raise ConfigError("--clip is for --merge alone")
    if arguments.merge and (changes or arguments.to):
        raise ConfigError("--merge changes nothing else; leave the other settings out")
    # PyTorch comes with it: not before the arguments are known to be right.
    from refseg.models.folder import convert, merge

    if arguments.merge:
        print(merge(arguments.source, arguments.target, clip=arguments.clip))
    else:
        print(convert(arguments.source, arguments.target, to=arguments.to, **changes))
    return 0
