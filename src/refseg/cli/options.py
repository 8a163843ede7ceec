"""The options that several commands share."""

from __future__ import annotations

import argparse

from refseg.predictor import BUNDLED
from refseg.runtimes.choose import RUNTIMES

__all__ = ["MODEL_HELP", "add_device", "add_model", "add_precision", "add_refine", "add_runtime", "model_name"]


MODEL_HELP = "a name from `refseg models`, a model folder, or a Hub name such as user/name"


def add_model(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Declare `--model`; `more` is said of the default."""
    parser.add_argument("--model", default=BUNDLED, help=f"{MODEL_HELP} (default: {BUNDLED}{more})")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Declare `--device`."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto (a CUDA GPU, else Apple's, else the processor), cpu, cuda, cuda:1, mps (default: auto)",
    )


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Declare `--runtime`."""
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default="auto",
        help=(
            "PyTorch, or ONNX Runtime or OpenVINO for the models in the package and exported ones; auto takes one of "
            "these two on a processor where the model has graphs, the faster one if both are installed (default: auto)"
        ),
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Declare `--precision`."""
    parser.add_argument(
        "--precision",
        choices=("exact", "fast"),
        default="exact",
        help=(
            "exact computes in float32; fast multiplies numbers of bfloat16 in PyTorch, on a device that has them "
            "(default: exact)"
        ),
    )


def add_refine(parser: argparse.ArgumentParser) -> None:
    """Declare `--refine`."""
    parser.add_argument(
        "--refine",
        metavar="NAME",
        help="sam, sam2 or sam3: sharpens the borders of the masks; needs the extra refseg[peers] (default: none)",
    )


def model_name(arguments: argparse.Namespace) -> str:
    """Return the name of a model in results: with what refines its masks, if anything does."""
    return arguments.model if arguments.refine is None else f"{arguments.model}, refined by {arguments.refine}"
