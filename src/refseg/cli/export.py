"""Write a model for another runtime than PyTorch: two graphs, one for images and one for expressions.

The folder can be given wherever a model is named. It is computed by ONNX Runtime or OpenVINO, on the processor, and
needs no PyTorch. What the graphs compute is compared with PyTorch first, in other numbers of images, expressions and
tokens than they were made with; if it differs, nothing is left. With --in-place the graphs are added to a model folder
and use its weights: then each of these runtimes can compute it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy import ndarray

    from refseg.data.dataset import DataSet
    from refseg.runtimes.choose import RuntimeName
    from refseg.values import Expression, Prediction, Sample

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLES = 64
"""Images of a data set from which the ranges of int8 are taken."""
EXAMPLE = "refseg export shapes --to onnx --out shapes-onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a name from `refseg models`, a model folder, or a Hub name such as user/name")
    parser.add_argument(
        "--to",
        choices=("onnx", "openvino"),
        default="onnx",
        help="the format of the graphs; openvino needs the extra refseg[openvino] (default: onnx)",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, metavar="FOLDER", help="the new folder to write")
    where.add_argument(
        "--in-place",
        action="store_true",
        help="add the graphs to the model folder itself, whose weights they use",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "bfloat16", "int8"),
        default="float32",
        help="in which the weights are stored: float16 halves the files; bfloat16, of openvino, halves them and "
        "multiplies numbers of bfloat16; int8 quarters those of the encoders, or all, and rounds the factors of their "
        "products too (default: float32)",
    )
    parser.add_argument(
        "--examples",
        metavar="DATASET:SPLIT",
        help=f"with int8: take the ranges that are rounded from {EXAMPLES} images of a data set; without, they are "
        "taken of each call, which openvino cannot do",
    )
    parser.add_argument(
        "--on",
        metavar="DATASET:SPLIT",
        help="then score the model and the exported one on a data set, and print the loss in mean IoU, and the mean "
        "IoU of the masks of both",
    )
    parser.add_argument(
        "--data", type=Path, metavar="ROOT", help="with --on or --examples: the folder that holds the public data sets"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="with --on: only the first N images")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    if arguments.on is None and arguments.limit is not None:
        raise ConfigError("--limit needs --on")
    if arguments.on is None and arguments.examples is None and arguments.data is not None:
        raise ConfigError("--data needs --on or --examples")
    if arguments.limit is not None and arguments.limit < 1:
        raise ConfigError(f"--limit must be at least 1, got {arguments.limit}")
    from refseg.runtimes.export import add_graphs

    if arguments.in_place:
        if (arguments.on, arguments.examples, arguments.precision, arguments.to) != (None, None, "float32", "onnx"):
            raise ConfigError("--in-place takes no --to, --precision, --examples or --on: the folder has the weights")
        deviation = add_graphs(arguments.model)
        print(f"{arguments.model}: has graphs now; they differ from PyTorch by {deviation:.1e} at most")
        return 0
    return _export(arguments)


def _export(arguments: argparse.Namespace) -> int:
    from refseg.masks import agreement, decode_rle
    from refseg.models.exported import read_export
    from refseg.runtimes.export import export

    # Whether there are such data sets is known before the model is exported.
    data, shown = (_opened(name, arguments.data) for name in (arguments.on, arguments.examples))
    folder = export(
        arguments.model,
        arguments.out,
        to=arguments.to,
        precision=arguments.precision,
        examples=() if shown is None else _examples(shown),
    )
    made = read_export(folder).about["export"]
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB; differs from PyTorch by {made['largest_deviation']:.1e} at most", flush=True)
    if data is not None:
        before, masks = _scored(arguments.model, "torch", data, arguments.limit)
        after, exported_masks = _scored(folder, arguments.to, data, arguments.limit)
        print(f"mean IoU on {arguments.on}: {before:.4f} by PyTorch, {after:.4f} exported; loss {before - after:.4f}")
        same = agreement(map(decode_rle, masks), map(decode_rle, exported_masks))
        print(f"mean IoU of the masks of both: {same:.4f}")
    return 0


def _opened(name: str | None, root: Path | None) -> DataSet | None:
    from refseg.data.catalogue import open_data

    return None if name is None else open_data(name, root)


def _examples(data: DataSet) -> Iterator[tuple[ndarray, list[str]]]:
    """Yield images at equal distances in a data set, each with its expressions."""
    import numpy as np

    for index in range(0, data.num_images, max(1, data.num_images // EXAMPLES))[:EXAMPLES]:
        sample = next(iter(data.samples_of(index)))
        yield np.asarray(sample.load_image()), [one.text for one in sample.expressions]


def _scored(
    model: str | Path, runtime: RuntimeName, data: DataSet, limit: int | None
) -> tuple[float, list[dict[str, Any]]]:
    """Return the mean IoU of a model on the first images of a data set, and the run lengths of all its masks."""
    from refseg.evaluation.evaluate import evaluate
    from refseg.evaluation.metrics import summarise
    from refseg.masks import encode_rle
    from refseg.predictor import load

    images = range(min(data.num_images, limit or data.num_images))
    masks = []

    def keep(_sample: Sample, _expression: Expression, prediction: Prediction) -> None:
        masks.append(encode_rle(prediction.mask))

    outcomes = evaluate(load(model, "cpu", runtime=runtime), data, images, progress=sys.stderr.isatty(), each=keep)
    mean_iou = summarise(outcomes)["mean_iou"]
    if mean_iou is None:
        raise DataError("no expression of these images has a target, so that there is no IoU")
    return float(mean_iou), masks
