"""Stored masks: found by expression, counted as an evaluation counts, and refused where they are wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from refseg.data.formats.regions import encode
from refseg.errors import DataError
from refseg.evaluation.evaluate import evaluate
from refseg.evaluation.predictions import Predictions, line_of, score
from refseg.evaluation.protocols import PROTOCOLS
from refseg.values import Sample

MASK = np.zeros((6, 8), dtype=bool)
MASK[1:4, 2:5] = True


class Data:
    """One image with a thing, of two expressions, and a reference that fits nothing."""

    images = 1

    def samples_of(self, index):
        image = {"load_image": lambda: Image.new("RGB", (8, 6)), "split": "x", "source": "x", "image_id": "25"}
        return (
            Sample(
                id="7", expressions=("cup", "the cup"), expression_ids=("70", "71"), load_mask=lambda: MASK, **image
            ),
            Sample(id="8", expressions=("pot",), expression_ids=("80",), load_mask=None, **image),
        )


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows(**changes):
    found = {
        "70": {"sent_id": 70, "rle": encode(MASK), "score": 0.9},
        "71": {"sent_id": "71", "rle": encode(~MASK), "score": 0.2},
        "80": {"sent_id": "80", "rle": None},
    }
    return [row for row in {**found, **changes}.values() if row is not None]


def test_masks_are_found_by_the_expressions_id(tmp_path):
    outcomes = score(Predictions(write(tmp_path / "p.jsonl", *rows())), Data(), PROTOCOLS["refseg"])
    assert [(one.id, one.iou, one.score, one.empty) for one in outcomes] == [
        ("70", 1.0, 0.9, False),
        ("71", 0.0, 0.2, False),
        ("80", 0.0, 0.0, True),
    ]


@pytest.mark.parametrize("image", [25, "25", "COCO_train2014_000000000025.jpg", "COCO_val2014_000000000025"])
def test_masks_are_found_by_image_and_words(tmp_path, image):
    named = {"image": image, "text": "pot", "rle": encode(MASK)}
    outcomes = score(Predictions(write(tmp_path / "p.jsonl", *rows(**{"80": named}))), Data(), PROTOCOLS["refseg"])
    assert (outcomes[2].found, outcomes[2].empty) == (9, False)


def test_masks_may_be_images(tmp_path):
    for id, mask in (("70", MASK), ("71", ~MASK), ("80", MASK & ~MASK)):
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"{id}.png")
    outcomes = score(Predictions(tmp_path), Data(), PROTOCOLS["refseg"])
    assert [one.iou for one in outcomes] == [1.0, 0.0, 0.0]
    table = write(tmp_path / "p.jsonl", *({"sent_id": id, "mask": f"{id}.png"} for id in (70, 71, 80)))
    assert score(Predictions(table), Data(), PROTOCOLS["refseg"]) == outcomes


def test_a_model_may_say_that_nothing_fits_and_leave_a_mask(tmp_path):
    said = {"sent_id": 80, "rle": encode(MASK), "empty": True}
    outcomes = score(Predictions(write(tmp_path / "p.jsonl", *rows(**{"80": said}))), Data(), PROTOCOLS["gres"])
    assert outcomes[2].empty


@pytest.mark.parametrize("name", ["refseg"])
def test_what_was_stored_scores_as_what_was_measured(predictor, tmp_path, name):
    from refseg.data.shapes import Shapes

    data = Shapes("val")
    lines = []
    measured = evaluate(
        predictor, data, range(2), protocol=PROTOCOLS[name], each=lambda *of: lines.append(line_of(*of))
    )
    (tmp_path / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")

    class First:
        images = 2
        samples_of = data.samples_of

    scored = score(Predictions(tmp_path / "p.jsonl"), First(), PROTOCOLS[name])
    assert [(one.id, one.intersection, one.union, one.empty) for one in scored] == [
        (one.id, one.intersection, one.union, one.empty) for one in measured
    ]
    assert [one.score for one in scored] == pytest.approx([one.score for one in measured], abs=1e-6)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"71": None}, "has no prediction for expression 71 ('the cup')"),
        ({"x": {"sent_id": 99, "rle": encode(MASK)}}, "1 predictions belong to no expression"),
        ({"70": {"sent_id": 70, "rle": encode(MASK[:5])}}, "expression 70: the mask is 8 x 5, its image 8 x 6"),
        ({"x": {"sent_id": 70, "rle": encode(MASK)}}, "line 4: there is a line of 70 already"),
        (
            {"70": {"sent_id": 70, "rle": {"size": [6, 8], "counts": "0"}}},
            "line 1: the run lengths do not add up",
        ),
        ({"70": {"sent_id": 70, "rle": {"size": [6, 8], "counts": [-1, 49]}}}, "line 1: the run lengths do not"),
        (
            {"70": {"sent_id": 70, "rle": {"size": [10**9, 10**9], "counts": []}}},
            "line 1: run lengths of an impossible",
        ),
        ({"70": {"sent_id": 70, "mask": "../secret.png"}}, "line 1: file name '../secret.png' leads out"),
        ({"70": {"sent_id": 70, "mask": "none.png"}}, "expression 70: there is no file"),
        ({"70": {"sent_id": 70, "rle": encode(MASK), "score": 7}}, "line 1: the score must lie in 0..1, got 7"),
        ({"70": {"rle": encode(MASK)}}, "line 1: has no field 'image'"),
        ({"70": ["70"]}, "line 1: expected an object"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(tmp_path, changed, says):
    with pytest.raises(DataError) as error:
        score(Predictions(write(tmp_path / "p.jsonl", *rows(**changed))), Data(), PROTOCOLS["refseg"])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("written", [b'{"sent_id": 1', b"\xff\xfe{", b"[" * 100_000])
def test_broken_files_are_refused(tmp_path, written):
    (tmp_path / "p.jsonl").write_bytes(written)
    with pytest.raises(DataError, match=r"p\.jsonl: (line 1|not UTF-8)"):
        Predictions(tmp_path / "p.jsonl")


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        Predictions(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"holds no masks \(\*\.png\)"):
        Predictions(tmp_path)
