"""Write a model for another runtime than PyTorch: two ONNX graphs, one for images and one for expressions.

The folder can be given wherever a model is named. It is computed by ONNX Runtime, on the processor, and needs no
PyTorch. What the graphs compute is compared with PyTorch first, in other numbers of images, expressions and tokens than
they were made with; if it differs, nothing is left.
"""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "refseg export shapes --to onnx --out shapes-onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a name from `refseg models`, a model folder, or a Hub name such as user/name")
    parser.add_argument("--to", choices=("onnx",), default="onnx", help="the format of the graphs (default: onnx)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the new folder to write")
    parser.add_argument(
        "--precision",
        choices=("float32", "float16"),
        default="float32",
        help="in which the weights are stored: float16 halves the files; all values are computed in float32 (default: "
        "float32)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from refseg.models.exported import read_export
    from refseg.runtimes.export import export

    folder = export(arguments.model, arguments.out, to=arguments.to, precision=arguments.precision)
    made = read_export(folder).about["export"]
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB; differs from PyTorch by {made['largest_deviation']:.1e} at most")
    return 0
