"""Calibrate a model on a validation split, and write a model folder with the calibration.

Afterwards its score is the IoU to expect, and masks of low confidence are rejected: the answer is then that nothing
fits. The effect is measured on half of the images after fitting on the other half; the calibration is fitted on all
images, 100 expressions or more; on fewer than twice as many the effect is not measured. With --thresholds, the
thresholds are chosen on the same images first. With --forget nothing is measured, and the model is written without what
an earlier call measured: its score is then its own confidence, and no mask is rejected.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg.cli.options import add_device
from refseg.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from refseg.values import Decision

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "refseg calibrate shapes shapes:val --limit 20 --out calibrated"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a name from `refseg models`, a model folder, or a Hub name such as user/name")
    parser.add_argument(
        "dataset",
        nargs="?",
        metavar="DATASET:SPLIT",
        help="a validation split, not the one to be tested on; not with --forget",
    )
    parser.add_argument("--data", type=Path, metavar="ROOT", help="the folder that holds the public data sets")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the model folder to write")
    parser.add_argument(
        "--rejections",
        type=float,
        metavar="SHARE",
        help="share of the expressions with a target whose mask may be rejected (default: 0.05 if the split has "
        "expressions that fit nothing, otherwise no mask is rejected)",
    )
    parser.add_argument(
        "--thresholds",
        action="store_true",
        help="first choose the thresholds of the mask by the mean IoU (takes twice as long)",
    )
    parser.add_argument(
        "--forget",
        action="store_true",
        help="write the model without its calibration and its relative threshold",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    if arguments.out.exists() and not arguments.out.is_dir():
        raise OutputError(f"{arguments.out}: is a file, and a model is a folder; name another")
    if arguments.forget == (arguments.dataset is not None):
        raise ConfigError("name a validation split DATASET:SPLIT to calibrate on, or --forget and no split")
    if arguments.forget:
        return _forget(arguments.model, arguments.out)
    from refseg.config import to_dict
    from refseg.data.catalogue import open_data
    from refseg.evaluation.calibrate import calibrate
    from refseg.predictor import load

    _decision(arguments.model)  # whether it can be written again, before it is measured
    data = open_data(arguments.dataset, arguments.data)
    for note in data.notes():
        print(f"refseg: note: {note}", file=sys.stderr)
    calibrated = calibrate(
        load(arguments.model, arguments.device),
        data,
        rejections=arguments.rejections,
        thresholds=arguments.thresholds,
        limit=arguments.limit,
        progress=sys.stderr.isatty(),
    )
    _write(arguments.model, arguments.out, calibrated.decision, {"calibration": calibrated.measured})
    if calibrated.measured["on_the_other_half"] is None:
        print(
            "refseg: note: half of the images have too few expressions to fit on, so that the effect on the other half "
            "is not measured",
            file=sys.stderr,
        )
    fitted = {**calibrated.measured, "calibration": to_dict(calibrated.decision)["calibration"]}
    print(json.dumps(fitted, indent=2, allow_nan=False))
    return 0


def _forget(model: str, out: Path) -> int:
    decision = _decision(model).unmeasured()
    _write(model, out, decision, {"calibration": None})
    print(f"{out} is the model without a calibration; its threshold is {decision.threshold:g}")
    return 0


def _decision(model: str) -> Decision:
    """Return the stored decision of a model folder, or of a model of other people."""
    from refseg.models.folder import read_folder
    from refseg.models.hub import resolve
    from refseg.peers.stored import find_peer

    peer = find_peer(model)
    return (read_folder(resolve(model)).spec if peer is None else peer).decision


def _write(model: str, out: Path, decision: Decision, about: dict[str, Any]) -> None:
    """Write the model with another decision: a copy of its folder, or the name of a model of other people."""
    from refseg.models.folder import write_decision
    from refseg.models.hub import resolve
    from refseg.peers.stored import find_peer, write_peer

    peer = find_peer(model)
    if peer is None:
        write_decision(resolve(model), out, decision, about)
    else:
        kept = {name: value for name, value in about.items() if value is not None}
        write_peer(replace(peer, decision=decision, about=kept), out)
