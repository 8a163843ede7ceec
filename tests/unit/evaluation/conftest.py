"""What tests of evaluation share: a segmenter of another project, and results of small data sets."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from refseg.evaluation.metrics import Outcome
from refseg.evaluation.protocols import PROTOCOLS
from refseg.evaluation.result import make_result

BY_COLOUR = runpy.run_path(str(Path(__file__).with_name("by_colour.py")))


@pytest.fixture
def by_colour():
    """Makes a segmenter that answers by colour: `by_colour(decision=Decision(threshold=0.35))`."""
    return BY_COLOUR["ByColour"]


@pytest.fixture
def squares():
    """Makes data that it can answer: `squares(num_images=4)`."""
    return BY_COLOUR["Squares"]


@pytest.fixture
def result_of(squares, make_outcome):
    """Makes a result of rows (image, IoU in hundredths), or of outcomes; `changes` are those of its data."""

    def result_of(rows, *, protocol="refseg", made_by="a model", **changes):
        outcomes = [row if isinstance(row, Outcome) else make_outcome(i, *row) for i, row in enumerate(rows)]
        result = make_result(outcomes, squares(), PROTOCOLS[protocol], made_by={"model": made_by}, whole=False)
        result.figures["data"] |= changes
        return result

    return result_of
