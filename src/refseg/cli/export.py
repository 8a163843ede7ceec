"""Write a model for another runtime than PyTorch: two ONNX graphs, one for images and one for expressions.

The folder can be given wherever a model is named. It is computed by ONNX Runtime, on the processor, and needs no
PyTorch. What the graphs compute is compared with PyTorch first, in other numbers of images, expressions and tokens than
they were made with; if it differs, nothing is left. With --in-place the graphs are added to a model folder and use its
weights: then either runtime can compute it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from refseg.errors import ConfigError, DataError

if TYPE_CHECKING:
    from refseg.data.dataset import DataSet
    from refseg.runtimes.choose import RuntimeName

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "refseg export shapes --to onnx --out shapes-onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a name from `refseg models`, a model folder, or a Hub name such as user/name")
    parser.add_argument("--to", choices=("onnx",), default="onnx", help="the format of the graphs (default: onnx)")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, metavar="FOLDER", help="the new folder to write")
    where.add_argument(
        "--in-place",
        action="store_true",
        help="add the graphs to the model folder itself, whose weights they use",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="in which the weights are stored: float16 halves the files, int8 quarters them and rounds the factors of "
        "products too (default: float32)",
    )
    parser.add_argument(
        "--on",
        metavar="DATASET:SPLIT",
        help="then score the model and the exported one on a data set, and print the loss in mean IoU",
    )
    parser.add_argument(
        "--data", type=Path, metavar="ROOT", help="with --on: the folder that holds the public data sets"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="with --on: only the first N images")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    if arguments.on is None and (arguments.data is not None or arguments.limit is not None):
        raise ConfigError("--data and --limit need --on")
    if arguments.limit is not None and arguments.limit < 1:
        raise ConfigError(f"--limit must be at least 1, got {arguments.limit}")
    from refseg.runtimes.export import add_graphs

    if arguments.in_place:
        if arguments.on is not None or arguments.precision != "float32":
            raise ConfigError("--in-place takes neither --precision nor --on: the weights are those of the folder")
        deviation = add_graphs(arguments.model)
        print(f"{arguments.model}: has graphs now; they differ from PyTorch by {deviation:.1e} at most")
        return 0
    return _export(arguments)


def _export(arguments: argparse.Namespace) -> int:
    from refseg.models.exported import read_export
    from refseg.runtimes.export import export

    data = None
    if arguments.on is not None:  # whether there is such a data set, before the model is exported
        from refseg.data.catalogue import open_data

        data = open_data(arguments.on, arguments.data)
    folder = export(arguments.model, arguments.out, to=arguments.to, precision=arguments.precision)
    made = read_export(folder).about["export"]
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB; differs from PyTorch by {made['largest_deviation']:.1e} at most", flush=True)
    if data is not None:
        before = _mean_iou(arguments.model, "torch", data, arguments.limit)
        after = _mean_iou(folder, "onnx", data, arguments.limit)
        print(f"mean IoU on {arguments.on}: {before:.4f} by PyTorch, {after:.4f} exported; loss {before - after:.4f}")
    return 0


def _mean_iou(model: str | Path, runtime: RuntimeName, data: DataSet, limit: int | None) -> float:
    from refseg.evaluation.evaluate import evaluate
    from refseg.evaluation.metrics import summarise
    from refseg.predictor import load

    images = range(min(data.num_images, limit or data.num_images))
    segmenter = load(model, "cpu", runtime=runtime)
    mean_iou = summarise(evaluate(segmenter, data, images, progress=sys.stderr.isatty()))["mean_iou"]
    if mean_iou is None:
        raise DataError("no expression of these images has a target, so that there is no IoU")
    return float(mean_iou)
