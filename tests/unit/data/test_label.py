"""Photos are labelled with the masks of a model: what is kept, what is stored with it, and interrupted runs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from refseg.cli.main import main
from refseg.data.asked import asked_of_all, asked_of_each
from refseg.data.catalogue import open_data
from refseg.data.label import label, labeller
from refseg.data.label_run import ANSWERS, Labeller
from refseg.errors import ConfigError, DataError, OutputError, UnknownNameError
from refseg.inputs.frame import Frame
from refseg.masks import decode_rle
from refseg.models.exported import Exported, write_export
from refseg.models.families import MODELS
from refseg.segmenter import BaseSegmenter
from refseg.values import Decision, Encoding, Prediction
from refseg.writers.formats import FORMATS

BY = Labeller(model="stand-in", revision="a/b@123", licence="MIT")
SCORES = {"red": 0.9, "blue": 0.6, "green": 0.0}


class StandIn(BaseSegmenter):
    """Finds the pixels of a colour, with a score of its own; nothing is green."""

    device, fingerprint = "cpu", "stand-in"

    def __init__(self):
        super().__init__(Decision(), domain="photos")
        self.seen = 0

    def _encode(self, images, max_pixels):
        (image,) = images
        self.seen += 1
        return [Encoding("stand-in", Frame(64, 64, 64), {"pixels": np.asarray(image)})]

    def _answer(self, image, expressions, decision):
        red, _, blue = image.arrays["pixels"].transpose(2, 0, 1).astype(int)
        masks = {"red": red > blue + 50, "blue": blue > red + 50, "green": np.zeros((64, 64), bool)}
        colours = [next(colour for colour in masks if colour in text) for text in expressions]
        return [
            Prediction(text, masks[colour].astype(np.float32), image.frame, decision, object_score=SCORES[colour])
            for text, colour in zip(expressions, colours, strict=True)
        ]


@pytest.fixture
def photos(tmp_path):
    """Two photos, one of them in a folder `images` of its own, and no table."""
    pixels = np.full((64, 64, 3), 90, np.uint8)
    pixels[10:30, 10:30], pixels[40:60, 30:50] = (220, 30, 30), (30, 30, 220)
    folder = tmp_path / "photos"
    (folder / "images").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[::-1]).save(folder / "images" / "b.png")
    (folder / ".thumbnails").mkdir()
    Image.fromarray(pixels).save(folder / ".thumbnails" / "a.png")
    return folder


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("the red square\n\nthe blue square\nthe green one\nthe red square\n")
    return path


def rows(out):
    return [json.loads(line) for line in (out / "data.jsonl").read_text().splitlines()]


def test_each_mask_says_what_made_it(photos, words, tmp_path):
    out = tmp_path / "out"
    labels = label(StandIn(), BY, photos, asked_of_all(photos, words), out)
    assert (labels.photos, labels.masks, labels.absent, labels.nothing_fits, labels.below) == (2, 4, 0, 2, 0)
    first, *_ = rows(out)
    assert first["image"] == "images/a.png"
    assert (first["text"], first["score"]) == ("the red square", 0.9)
    assert [first[name] for name in ("model", "revision", "licence")] == ["stand-in", "a/b@123", "MIT"]
    assert np.argwhere(decode_rle(first["rle"])).tolist()[0] == [10, 10]
    data = open_data(f"{out}:all")
    assert data.skipped_count == 0
    assert data.totals() == {"images": 2, "references": 4, "expressions": 4}
    sample = data.samples_of(1)[0]
    assert sample.image_id == "images/images/b.png"
    assert np.argwhere(sample.load_mask()).min(axis=0).tolist() == [34, 10]
    assert np.asarray(sample.load_image())[40, 20].tolist() == [220, 30, 30]


def test_large_photos_are_asked_tile_by_tile(words, tmp_path):
    pixels = np.full((64, 112, 3), 90, np.uint8)
    pixels[10:30, 40:70] = (220, 30, 30)  # across the edges of both tiles
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos" / "wide.png")
    model, out, asked = StandIn(), tmp_path / "out", asked_of_all(tmp_path / "photos", words)
    label(model, replace(BY, tile=64), tmp_path / "photos", asked, out)
    assert model.seen == 2
    (row,) = rows(out)
    assert np.array_equal(decode_rle(row["rle"]), pixels[..., 0] == 220)
    with pytest.raises(OutputError, match="new folder"):
        label(model, BY, tmp_path / "photos", asked, out)
    with pytest.raises(ConfigError, match="at least 64 pixels"):
        label(model, replace(BY, tile=10), tmp_path / "photos", asked, out)


def test_low_scores_are_left_out_and_what_fits_nothing_is_kept_on_request(photos, words, tmp_path):
    model, out = StandIn(), tmp_path / "out"
    asked = asked_of_all(photos, words)
    label(model, BY, photos, asked, out)
    labels = label(model, BY, photos, asked, out, least=0.7, keep_absent=True)
    assert (labels.masks, labels.absent, labels.nothing_fits, labels.below) == (2, 2, 0, 2)
    assert model.seen == 2  # the answers of the first run are chosen from again
    assert {(row["text"], "rle" in row) for row in rows(out)} == {("the red square", True), ("the green one", False)}
    assert [sample.load_mask is None for sample in open_data(f"{out}:all")] == [False, True] * 2
    with pytest.raises(DataError, match="no mask"):
        label(model, BY, photos, asked, out, least=0.95)


def test_what_a_person_should_look_at_is_listed(photos, words, tmp_path):
    out, asked = tmp_path / "out", asked_of_all(photos, words)
    labels = label(StandIn(), BY, photos, asked, out, least=0.3, review_below=0.7, formats=["coco", "yolo"])
    lines = (out / "review.csv").read_text().splitlines()
    assert lines == ["image,expression,score,reason"] + [
        line
        for file in ("a.png", "images/b.png")
        for line in (f"{file},the blue square,0.6,low score", f"{file},the green one,0.0,nothing fits")
    ]
    assert labels.review == 4
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["photos"], summary["masks"], summary["review"], summary["model"]) == (2, 4, 4, "stand-in")
    with Image.open(out / "contact.jpg") as sheet:
        assert sheet.format == "JPEG"
    coco = json.loads((out / "coco" / "annotations.json").read_text())
    assert [one["name"] for one in coco["categories"]] == ["the red square", "the blue square"]
    assert (out / "yolo" / "images" / "images" / "b.png").is_file()


def test_the_same_run_again_changes_no_file(photos, words, tmp_path):
    out, asked = tmp_path / "out", asked_of_all(photos, words)
    files = []
    for _ in range(2):
        label(StandIn(), BY, photos, asked, out, formats=list(FORMATS))
        files.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert files[0] == files[1]


def test_an_interrupted_run_goes_on_where_it_stopped(photos, words, tmp_path, monkeypatch):
    out, asked = tmp_path / "out", asked_of_all(photos, words)
    model = StandIn()
    answer = model._answer
    monkeypatch.setattr(model, "_answer", lambda *given: answer(*given) if model.seen == 1 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        label(model, BY, photos, asked, out)
    assert sorted(path.name for path in out.iterdir()) == [ANSWERS]
    with (out / ANSWERS).open("a") as file:
        file.write('{"image": "images/b.p')  # as if the process was killed
    again = StandIn()
    labels = label(again, BY, photos, asked, out)
    assert (again.seen, labels.photos, labels.masks) == (1, 2, 4)
    whole = tmp_path / "whole"
    label(StandIn(), BY, photos, asked, whole)
    for name in (ANSWERS, "data.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_other_expressions_are_asked_again(photos, words, tmp_path):
    model, out = StandIn(), tmp_path / "out"
    label(model, BY, photos, asked_of_all(photos, words), out)
    words.write_text("a blue thing\n")
    assert label(model, BY, photos, asked_of_all(photos, words), out).masks == 2
    assert model.seen == 4
    assert {row["text"] for row in rows(out)} == {"a blue thing"}


def test_a_folder_of_something_else_is_not_written_to(photos, words, tmp_path):
    out, asked = tmp_path / "out", asked_of_all(photos, words)
    label(StandIn(), BY, photos, asked, out)
    other = Labeller(model="stand-in", revision="a/b@456", licence="MIT")
    before = (out / ANSWERS).read_bytes()
    with pytest.raises(OutputError):
        label(StandIn(), other, photos, asked, out)
    assert (out / ANSWERS).read_bytes() == before
    (out / ANSWERS).write_text("{}\n[]\n")
    with pytest.raises(OutputError):
        label(StandIn(), BY, photos, asked, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError):
        label(StandIn(), BY, photos, asked, tmp_path / "full")
    with pytest.raises(ConfigError):
        label(StandIn(), BY, photos, asked, photos / "labelled")
    for wrong in ({"least": 2}, {"review_below": -1}, {"formats": ["coc"]}):
        with pytest.raises((ConfigError, UnknownNameError)):
            label(StandIn(), BY, photos, asked, tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


def test_a_table_says_what_is_asked_of_each_photo(photos, tmp_path):
    lines = [
        {"image": "a.png", "text": ["the red square", "the blue square"], "split": "Training"},
        {"image": "b.png", "text": "the blue square", "split": "val", "mask": "not-made.png"},
        {"image": "a.png", "text": "the red one"},
        {"image": "gone.png", "text": "the red square"},
        {"image": "a.png", "text": " "},
    ]
    (photos / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    problems = []
    asked = asked_of_each(photos, problems)
    assert [(one.file, one.split, len(one.expressions)) for one in asked] == [
        ("a.png", "train", 3),
        ("images/b.png", "val", 1),
    ]
    assert len([one for one in problems if one.kind != "note"]) == 2
    label(StandIn(), BY, photos, asked, tmp_path / "out")
    assert open_data(f"{tmp_path / 'out'}:val").totals()["expressions"] == 1


def test_a_broken_photo_is_left_out(photos, words, tmp_path):
    (photos / "c.png").write_bytes(b"no photo")
    labels = label(StandIn(), BY, photos, asked_of_all(photos, words), tmp_path / "out")
    assert (labels.photos, len(labels.problems)) == (2, 1)
    assert "c.png" in str(labels.problems[0])


def test_photos_are_copied_on_request(photos, words, tmp_path):
    out, asked = tmp_path / "out", asked_of_all(photos, words)
    label(StandIn(), BY, photos, asked, out)
    assert (out / "images").is_symlink()
    label(StandIn(), BY, photos, asked, out, copy=True)
    assert not (out / "images").is_symlink()
    assert (out / "images" / "images" / "b.png").read_bytes() == (photos / "images" / "b.png").read_bytes()


def test_what_cannot_be_asked_is_an_error(photos, words, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, file in ((tmp_path / "empty", words), (tmp_path / "no", words), (photos, tmp_path / "no.txt")):
        with pytest.raises(DataError):
            asked_of_all(folder, file)
    with pytest.raises(DataError):
        asked_of_each(photos, [])  # it has no table
    words.write_text(" \n")
    with pytest.raises(DataError):
        asked_of_all(photos, words)


def test_what_labels_is_named_with_its_revision_and_licence(predictor, model_folder, tmp_path):
    own = labeller("shapes", None, predictor)
    assert (own.name, own.revision, own.licence) == ("shapes", predictor.fingerprint, MODELS["shapes"].licence)
    assert labeller(str(model_folder), None, predictor).licence == "not stated"
    inputs, decision = predictor.inputs, predictor.decision
    exported = Exported(format="onnx", family="cris", inputs=inputs, decision=decision, about={"licence": "MIT"})
    write_export(exported, tmp_path)
    assert labeller(str(tmp_path), None, predictor).licence == "MIT"
    peer = labeller("grounding-dino-sam2", None, predictor)
    assert peer.licence == "Apache-2.0"
    assert [len(source.partition("@")[2]) for source in peer.revision.split()] == [40, 40]
    refined = labeller("florence-2", "sam2", predictor)
    assert (refined.name, refined.licence) == ("florence-2, refined by sam2", "MIT, Apache-2.0")
    assert "facebook/sam2.1-hiera-tiny@" in refined.revision


def test_the_command(photos, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("refseg.predictor.load", lambda *_, **__: StandIn())
    out = tmp_path / "out"
    given = ["label", str(photos), "--model", "florence-2", "--out", str(out)]
    assert main([*given, "--expressions", str(words), "--min-score", "0.7", "--keep-absent"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "2 photos, 2 masks by florence-2 (MIT)" in shown.out
    assert main(["data", "check", str(out)]) == 0
    assert main(given) == 2  # without a table or --expressions
    assert capsys.readouterr().err.count("\n") == 1
