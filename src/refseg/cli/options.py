"""The options that several commands share."""

from __future__ import annotations

import argparse

__all__ = ["add_device"]


def add_device(parser: argparse.ArgumentParser) -> None:
    """Declare `--device`."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto (a CUDA GPU, else Apple's, else the processor), cpu, cuda, cuda:1, mps (default: auto)",
    )
