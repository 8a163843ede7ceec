"""Stored masks: matched with expressions, counted as an evaluation counts them, and an error where they are wrong."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from refseg.data.shapes import Shapes
from refseg.errors import DataError
from refseg.evaluation.evaluate import evaluate
from refseg.evaluation.predictions import Predictions, line_of, score
from refseg.evaluation.protocols import PROTOCOLS
from refseg.masks import decode_rle, encode_rle
from refseg.values import Expression, Sample

REFSEG = PROTOCOLS["refseg"]
MASK = np.zeros((6, 8), dtype=bool)
MASK[1:4, 2:5] = True


class Data:
    """One image with a target, of two expressions, and a reference that fits nothing."""

    name, split, num_images, skipped_count = "x", "val", 1, 0
    image_id, paths = "25", {}

    def samples_of(self, index):
        image = {"load_image": lambda: Image.new("RGB", (8, 6)), "split": "x", "source": "x"}
        cup = (Expression(text="cup", id="70"), Expression(text="the cup", id="71"))
        return (
            Sample(id="7", image_id=self.image_id, expressions=cup, load_mask=lambda: MASK, **image),
            Sample(
                id="8",
                image_id=self.image_id,
                expressions=(Expression(text="pot", id="80"),),
                load_mask=None,
                **image,
            ),
        )

    def files(self):
        return self.paths

    def notes(self):
        return ()

    def totals(self):
        return {}

    def digest(self):
        return "x"

    def objects(self, index):
        return None


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows(**changes):
    found = {
        "70": {"sent_id": 70, "rle": encode_rle(MASK), "score": 0.9},
        "71": {"sent_id": "71", "rle": encode_rle(~MASK), "score": 0.2},
        "80": {"sent_id": "80", "rle": None},
    }
    return [row for row in {**found, **changes}.values() if row is not None]


def test_masks_are_matched_by_the_expressions_id(tmp_path):
    outcomes = score(Predictions(write(tmp_path / "p.jsonl", *rows())), Data(), REFSEG)
    assert [(one.id, one.iou, one.score, one.empty) for one in outcomes] == [
        ("70", 1.0, 0.9, False),
        ("71", 0.0, 0.2, False),
        ("80", 0.0, 0.0, True),
    ]


@pytest.mark.parametrize("image", [25, "25", "COCO_train2014_000000000025.jpg", "000000000025", "25.jpg"])
def test_masks_are_matched_by_image_and_text(tmp_path, image):
    named = {"image": image, "text": "pot", "rle": encode_rle(MASK)}
    outcomes = score(Predictions(write(tmp_path / "p.jsonl", *rows(**{"80": named}))), Data(), REFSEG)
    assert (outcomes[2].predicted_pixels, outcomes[2].empty) == (9, False)


@pytest.mark.parametrize("image", ["photos/x/a.b.png", "photos/x/a.b", "a.b.png", "a.b", "./photos/x/a.b.png"])
def test_masks_are_matched_by_the_names_of_image_files(tmp_path, image):
    data = Data()
    data.paths = {"25": ["photos/x/a.b.png"], "26": ["photos/x/a.c.png"]}
    named = {"image": image, "text": "pot", "rle": encode_rle(MASK)}
    assert (
        score(Predictions(write(tmp_path / "p.jsonl", *rows(**{"80": named}))), data, REFSEG)[2].predicted_pixels == 9
    )


@pytest.mark.parametrize("image", ["photos/y/a.b.png", "photos/x/a.c.png", "a", "a.b.jpg", "x/a.b.png"])
def test_masks_of_other_images_are_an_error(tmp_path, image):
    data = Data()
    data.paths = {"25": ["photos/x/a.b.png"], "26": ["photos/x/a.c.png"]}
    named = {"image": image, "text": "pot", "rle": encode_rle(MASK)}
    with pytest.raises(DataError, match="no prediction for expression 80"):
        score(Predictions(write(tmp_path / "p.jsonl", *rows(**{"80": named}))), data, REFSEG)


class TwoFolders(Data):
    """Images of the same name in two folders, with the same expression and different masks."""

    num_images = 2
    ids = ("s/001.png", "t/001.png")

    def samples_of(self, index):
        return (
            Sample(
                id=str(index),
                image_id=self.ids[index],
                expressions=(Expression(text="the cup", id=str(index)),),
                load_image=lambda: Image.new("RGB", (8, 6)),
                load_mask=lambda: np.roll(MASK, 3 * index, axis=1),
                split="x",
                source="x",
            ),
        )


def named_rows(*images):
    return [
        {"image": image, "text": "the cup", "rle": encode_rle(np.roll(MASK, 3 * number, axis=1))}
        for number, image in enumerate(images)
    ]


def test_images_of_the_same_name_in_two_folders_are_different(tmp_path):
    predictions = Predictions(write(tmp_path / "p.jsonl", *named_rows("s/001.png", "t/001.png")))
    assert [one.iou for one in score(predictions, TwoFolders(), REFSEG)] == [1.0, 1.0]


def test_a_bare_name_of_two_images_is_an_error(tmp_path):
    for name in ("001.png", "001"):
        predictions = Predictions(write(tmp_path / "p.jsonl", *named_rows("s/001.png", name)))
        with pytest.raises(DataError, match=r"line 2: .*s/001\.png or t/001\.png"):
            score(predictions, TwoFolders(), REFSEG)


def test_a_row_of_an_image_in_another_folder_is_an_error(tmp_path):
    class One(TwoFolders):
        num_images, ids = 1, ("t/001.png",)

    with pytest.raises(DataError, match="no prediction"):
        score(Predictions(write(tmp_path / "p.jsonl", *named_rows("s/001.png"))), One(), REFSEG)


def test_dots_are_part_of_a_name(tmp_path):
    class Scenes(TwoFolders):
        ids = ("scene.1", "scene.2")

    predictions = Predictions(write(tmp_path / "p.jsonl", *named_rows("scene.1", "scene.2.jpg")))
    assert [one.iou for one in score(predictions, Scenes(), REFSEG)] == [1.0, 1.0]


def test_rows_may_repeat_each_other_but_not_contradict(tmp_path):
    first, second, third = named_rows("s/001.png", "t/001.png", "s/001")
    other_name = {**first, "image": third["image"]}
    repeated = Predictions(write(tmp_path / "p.jsonl", first, second, first, other_name))
    assert [one.iou for one in score(repeated, TwoFolders(), REFSEG)] == [1.0, 1.0]
    with pytest.raises(DataError, match="line 3: contradicts line 1"):
        score(Predictions(write(tmp_path / "p.jsonl", first, second, third)), TwoFolders(), REFSEG)
    with pytest.raises(DataError, match="line 2: contradicts line 1"):
        Predictions(write(tmp_path / "p.jsonl", first, {**first, "score": 0.3}))


@pytest.mark.parametrize("kind", ["rle", "mask"])
def test_masks_may_be_of_the_size_at_which_a_protocol_compares(tmp_path, kind):
    lavt = PROTOCOLS["lavt"]
    data = TwoFolders()
    stored = []
    for image in range(2):
        mask = lavt.resize_mask(np.roll(MASK, 3 * image, axis=1))
        Image.fromarray(mask).save(tmp_path / f"{image}.png")
        stored.append(
            {"sent_id": image, "rle": encode_rle(mask)} if kind == "rle" else {"sent_id": image, "mask": f"{image}.png"}
        )
    predictions = Predictions(write(tmp_path / "p.jsonl", *stored))
    data.objects = lambda index: np.stack([~np.roll(MASK, 3 * index, axis=1), np.roll(MASK, 3 * index, axis=1)])
    outcomes = score(predictions, data, lavt, objects=data.objects)
    assert [(one.iou, one.image_pixels) for one in outcomes] == [(1.0, 480 * 480)] * 2
    with pytest.raises(DataError, match="480 x 480, its image 8 x 6"):
        score(predictions, data, REFSEG)


def test_a_row_that_answers_nothing_is_an_error_even_if_another_answers_twice(tmp_path):
    class Twice(TwoFolders):
        ids = ("s/001.png", "s/001.png")

    answer, unused = named_rows("s/001.png", "s/002.png")
    outcomes = score(Predictions(write(tmp_path / "p.jsonl", answer)), Twice(), REFSEG)
    assert len(outcomes) == 2
    with pytest.raises(DataError, match="1 prediction belongs to no expression of the data, as line 2"):
        score(Predictions(write(tmp_path / "p.jsonl", answer, unused)), Twice(), REFSEG)


def test_masks_may_be_image_files(tmp_path):
    for id, mask in (("70", MASK), ("71", ~MASK), ("80", MASK & ~MASK)):
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"{id}.png")
    outcomes = score(Predictions(tmp_path), Data(), REFSEG)
    assert [one.iou for one in outcomes] == [1.0, 0.0, 0.0]
    table = write(tmp_path / "p.jsonl", *({"sent_id": id, "mask": f"{id}.png"} for id in (70, 71, 80)))
    assert score(Predictions(table), Data(), REFSEG) == outcomes


def test_a_row_may_have_a_mask_and_say_that_nothing_fits(tmp_path):
    row = {"sent_id": 80, "rle": encode_rle(MASK), "empty": True}
    outcomes = score(Predictions(write(tmp_path / "p.jsonl", *rows(**{"80": row}))), Data(), PROTOCOLS["gres"])
    assert outcomes[2].empty


class First(Shapes):
    """The first two scenes."""

    @property
    def num_images(self):
        return 2


@pytest.mark.parametrize("name", ["refseg", "cris"])
def test_stored_masks_score_as_they_were_measured(by_colour, squares, tmp_path, name):
    data, lines = squares(3), []
    if name == "cris":  # it has no rule for expressions that fit nothing
        samples_of = data.samples_of
        data.samples_of = lambda index: samples_of(index)[:2]
    save = partial(line_of, model="by colour", fingerprint="f")
    measured = evaluate(
        by_colour(), data, protocol=PROTOCOLS[name], each=lambda *prediction: lines.append(save(*prediction))
    )
    (tmp_path / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    predictions = Predictions(tmp_path / "p.jsonl")
    assert (predictions.model, predictions.fingerprint) == ("by colour", "f")
    scored = score(predictions, data, PROTOCOLS[name])
    assert [(one.id, one.intersection, one.union, one.empty) for one in scored] == [
        (one.id, one.intersection, one.union, one.empty) for one in measured
    ]
    assert [one.score for one in scored] == pytest.approx([one.score for one in measured], abs=1e-6)


def test_the_line_of_a_prediction(predictor):
    data = First("val")
    sample = data.samples_of(0)[0]
    (encoding,) = predictor.encode([sample.load_image()])
    (prediction,) = predictor.segment(encoding, [sample.expressions[0].text])
    line = json.loads(line_of(sample, sample.expressions[0], prediction, model="m", fingerprint="f"))
    assert list(line) == ["sent_id", "image", "text", "rle", "score", "empty", "model", "fingerprint"]
    assert (line["model"], line["fingerprint"]) == ("m", "f")
    assert (line["sent_id"], line["image"]) == (sample.expressions[0].id, sample.image_id)
    assert np.array_equal(decode_rle(line["rle"]), prediction.mask)


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"71": None}, "expression 71"),
        ({"x": {"sent_id": 99, "rle": encode_rle(MASK)}}, "line 4"),
        ({"70": {"sent_id": 70, "rle": encode_rle(MASK[:5])}}, "line 1"),
        ({"x": {"sent_id": 70, "rle": encode_rle(MASK)}}, "line 4"),
        ({"70": {"sent_id": 70, "rle": {"size": [6, 8], "counts": "0"}}}, "line 1"),
        ({"70": {"sent_id": 70, "rle": {"size": [6, 8], "counts": [-1, 49]}}}, "line 1"),
        ({"70": {"sent_id": 70, "rle": {"size": [10**9, 10**9], "counts": []}}}, "line 1"),
        ({"70": {"sent_id": 70, "mask": "../secret.png"}}, "line 1"),
        ({"70": {"sent_id": 70, "mask": "none.png"}}, "line 1"),
        ({"71": {"sent_id": 71, "rle": encode_rle(MASK), "score": 7}}, "line 2"),
        ({"71": {"sent_id": 71, "rle": encode_rle(MASK), "score": True}}, "line 2"),
        ({"70": {"rle": encode_rle(MASK)}}, "line 1"),
        ({"70": ["70"]}, "line 1"),
    ],
)
def test_wrong_rows_are_an_error_of_one_line(tmp_path, changed, place):
    with pytest.raises(DataError) as error:
        score(Predictions(write(tmp_path / "p.jsonl", *rows(**changed))), Data(), REFSEG)
    assert str(error.value).startswith(f"{tmp_path / 'p.jsonl'}: ")
    assert place in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_scores_that_are_not_finite_are_an_error(tmp_path, number):
    (tmp_path / "p.jsonl").write_text(f'\n{{"sent_id": 1, "rle": null, "score": {number}}}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"p\.jsonl: line 2: "):
        Predictions(tmp_path / "p.jsonl")


@pytest.mark.parametrize("written", [b'{"sent_id": 1', b"\xff\xfe{", b"[" * 100_000])
def test_broken_files_are_an_error(tmp_path, written):
    (tmp_path / "p.jsonl").write_bytes(written)
    with pytest.raises(DataError, match=r"p\.jsonl: (line 1|not UTF-8)"):
        Predictions(tmp_path / "p.jsonl")


def test_missing_files_are_an_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        Predictions(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no masks"):
        Predictions(tmp_path)
