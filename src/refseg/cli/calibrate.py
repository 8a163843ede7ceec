"""Measure what a model's score is worth on a validation split, and store that with the model.

Afterwards the score is the IoU to expect, and masks of so little confidence that they are better taken for nothing are
refused: `empty` follows. Half of the images choose, the other half says how good the choice is; then all choose.
Before that, thresholds may be chosen on the same images.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg.errors import ConfigError, DataError, OutputError

if TYPE_CHECKING:
    from refseg.evaluation.metrics import Outcome
    from refseg.values import Calibration

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a zoo name, a model folder, or a Hub name such as user/name")
    parser.add_argument("dataset", metavar="DATASET:SPLIT", help="what to measure on; not what is tested on later")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="the folder that holds the public data sets")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the model folder to write")
    parser.add_argument(
        "--rejections",
        type=float,
        metavar="SHARE",
        help="share of good expressions that may be refused to tell those that fit nothing (default: 0.05 where the "
        "split has some that fit nothing, else none)",
    )
    parser.add_argument(
        "--thresholds",
        action="store_true",
        help="first choose what makes a pixel part of the mask, by the mean IoU (takes twice as long)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    if arguments.rejections is not None and not 0 <= arguments.rejections < 1:
        raise ConfigError(f"--rejections must lie in 0..1, 1 excluded, got {arguments.rejections}")
    if arguments.limit is not None and arguments.limit < 1:
        raise DataError(f"--limit must be at least 1, got {arguments.limit}")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise OutputError(f"{arguments.out}: is a file, and a model is a folder; name another")
    import torch

    from refseg.config import replace, to_dict
    from refseg.data.catalogue import open_data
    from refseg.evaluation.calibration import fit
    from refseg.evaluation.evaluate import evaluate
    from refseg.evaluation.thresholds import Thresholds
    from refseg.models.folder import read_folder, resolve, save_model, stored_in_half
    from refseg.predictor import load

    data = open_data(arguments.dataset, arguments.data)
    folder = resolve(arguments.model)
    predictor = load(folder, arguments.device)
    about = read_folder(folder).about
    predictor.model.config = replace(predictor.model.config, calibration=None)
    images = range(min(arguments.limit or data.num_images, data.num_images))
    chosen: dict[str, Any] = {}
    if arguments.thresholds:
        tried = Thresholds()
        evaluate(predictor, data, images, progress=sys.stderr.isatty(), each=tried.add)
        best = tried.choose()
        chosen["thresholds"] = to_dict(best)
        predictor.model.config = replace(
            predictor.model.config, threshold=best.threshold, relative_threshold=best.relative_threshold
        )
    outcomes = evaluate(predictor, data, images, progress=sys.stderr.isatty())
    rejections = arguments.rejections
    if rejections is None and not all(one.present for one in outcomes):
        rejections = 0.05
    names = {name: number % 2 for number, name in enumerate(sorted({one.image for one in outcomes}))}
    halves = [[one for one in outcomes if names[one.image] == half] for half in (0, 1)]
    measured = {
        "data": arguments.dataset,
        "digest": data.digest(),
        "images": len(names),
        "expressions": len(outcomes),
        **chosen,
        "rejections": rejections,
        "on_the_other_half": _measure(halves[1], fit(halves[0], rejections=rejections)),
    }
    calibration = fit(outcomes, rejections=rejections)
    predictor.model.config = replace(predictor.model.config, calibration=calibration)
    dtype = torch.float16 if stored_in_half(folder) else None  # weights are stored as they were
    about["calibration"] = measured
    save_model(predictor.model, arguments.out, dtype=dtype, extra=about)
    print(json.dumps({**measured, "calibration": to_dict(calibration)}, indent=2))
    return 0


def _measure(outcomes: list[Outcome], calibration: Calibration) -> dict[str, Any]:
    """Return what a calibration does to outcomes that it was not made from."""
    import numpy as np

    from refseg.evaluation.calibration import expected_calibration_error

    confidences = np.array([one.score for one in outcomes])
    ious = np.array([one.iou for one in outcomes])
    scores = np.array([calibration.score(confidence) if confidence else 0.0 for confidence in confidences])
    present = np.array([one.present for one in outcomes])
    told_before = np.array([one.empty for one in outcomes])
    told = told_before | (confidences < calibration.reject_below)
    figures: dict[str, Any] = {
        "expected_calibration_error": {
            "before": expected_calibration_error(confidences, ious),
            "after": expected_calibration_error(scores, ious),
        }
    }
    for name, which, before, after in (
        ("n_acc", ~present, told_before, told),
        ("t_acc", present, ~told_before, ~told),
    ):
        if which.any():
            figures[name] = {"before": float(before[which].mean()), "after": float(after[which].mean())}
    return figures
