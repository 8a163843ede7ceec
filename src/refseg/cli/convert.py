"""Convert weights of CRIS, CLIP, CLIPSeg, EFN, MCN or VLT to a model folder; or a folder to a checkpoint."""

from __future__ import annotations

import argparse

from refseg.errors import ConfigError

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "refseg convert my-model checkpoint.pth"

SETTINGS = ("image_size", "word_length", "threshold", "decoder_heads")
TABLES = ("vectors", "vocabulary")
"""Files of words that some weights do not contain."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source",
        help="a checkpoint (.pth) of DerrickWang005/CRIS.pytorch, weights (.pth) of EFN by fengguang94/CEFNet, a file "
        "of CLIP's weights, weights (.h5) of MCN or VLT, a file or folder of transformers' CLIPSeg, or a model folder",
    )
    parser.add_argument("target", help="the model folder, or the checkpoint (.pth), to write; nothing is replaced")
    parser.add_argument(
        "--to",
        choices=("refseg", "reference"),
        help="what to write (default: a checkpoint of a model folder, a model folder of all else)",
    )
    parser.add_argument(
        "--merge", action="store_true", help="write a copy of a model folder that contains the CLIP that it needs"
    )
    parser.add_argument(
        "--vectors",
        metavar="FILE",
        help="word vectors for the weights of MCN and VLT (.h5): a text file of GloVe, or the folder of a spaCy model",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="FILE",
        help="for the weights of EFN: the words that it was trained with, one a line, the first one padding; without "
        "them the model reads no texts",
    )
    parser.add_argument("--clip", metavar="FILE", help="with --merge: the file or model folder of that CLIP")
    parser.add_argument(
        "--image-size", type=int, metavar="S", help="side of the model's images in pixels (CRIS: 416; CLIPSeg: 352)"
    )
    parser.add_argument(
        "--word-length", type=int, metavar="L", help="tokens of an expression (CRIS: 17, on RefCOCOg 22; CLIPSeg: 77)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="probability above which a pixel is in the mask (CRIS: 0.35; CLIPSeg: 0.3)",
    )
    parser.add_argument(
        "--decoder-heads", type=int, metavar="N", help="heads of the decoder's attention (CRIS: 8; CLIPSeg: 4)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    changes = {name: value for name in SETTINGS if (value := getattr(arguments, name)) is not None}
    if arguments.clip is not None and not arguments.merge:
        raise ConfigError("--clip needs --merge")
    if arguments.merge and (changes or arguments.to):
        raise ConfigError("--merge changes nothing else; omit the other settings")
    # They import torch, which is slow: not before the arguments are known to be right.
    from refseg.models.convert import convert, merge

    if arguments.merge:
        print(merge(arguments.source, arguments.target, clip=arguments.clip))
    else:
        given = {name: value for name in TABLES if (value := getattr(arguments, name)) is not None}
        print(convert(arguments.source, arguments.target, to=arguments.to, **given, **changes))
    return 0
