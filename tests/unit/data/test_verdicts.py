"""What a person decides on a run of labels: nothing is lost, everything can be taken back, labels follow."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from refseg.data.asked import Photo
from refseg.data.label_files import write_labels
from refseg.data.label_run import ANSWERS, RUN, Labeller, LabelRun, add_answers, earlier_answers, open_run, save_run
from refseg.data.verdicts import VERDICTS, Correction, Verdict, Verdicts
from refseg.errors import DataError, OutputError
from refseg.masks import decode_rle, encode_rle

BY = Labeller(model="stand-in", refine="sam2", revision="a/b@123", licence="MIT")
SIZE = (30, 40)


def square(left):
    mask = np.zeros(SIZE, bool)
    mask[5:15, left : left + 10] = True
    return encode_rle(mask)


KEPT = Verdict(image="a.png", text="the cup", kept=True)
DROPPED = Verdict(image="a.png", text="the cup", kept=False)
REWORDED = Verdict(
    image="a.png",
    text="the fork",
    kept=True,
    correction=Correction(text="the left fork", score=0.7, rle=square(20), threshold=0.3),
)


@pytest.fixture
def out(tmp_path):
    """The folder of a run with four answers: two masks, one of a low score, and one that nothing fits."""
    (tmp_path / "photos").mkdir()
    Image.new("RGB", SIZE[::-1], "gray").save(tmp_path / "photos" / "a.png")
    texts = ("the cup", "the fork", "the plate", "the horse")
    photo = Photo(file="a.png", split="train", ids=tuple(f"a.png/{n}" for n in range(4)), expressions=texts)
    run = LabelRun(labeller=BY, photos=(photo,), formats=("coco",), least=0.4)
    folder = tmp_path / "run"
    earlier_answers(folder, BY)
    answers = [
        {"text": text, "score": score, "rle": square(left) if score else None}
        for text, score, left in zip(texts, (0.9, 0.8, 0.2, 0.0), (0, 10, 20, 0), strict=True)
    ]
    add_answers(folder, "a.png", answers)
    save_run(run, folder)
    write_labels(tmp_path / "photos", run, {"a.png": answers}, Verdicts(folder), folder)
    return folder


def rows(out):
    run, answers = open_run(out)
    write_labels(out / "images", run, answers, Verdicts(out), out)
    return {row["text"]: row for row in map(json.loads, (out / "data.jsonl").read_text().splitlines())}


def test_a_run_is_read_as_it_was_written(out):
    run, answers = open_run(out)
    assert (run.labeller, run.least, run.formats) == (BY, 0.4, ("coco",))
    assert run.photos[0].expressions == ("the cup", "the fork", "the plate", "the horse")
    assert [run.reason(answer) for answer in answers["a.png"]] == [None, None, "left out", "nothing fits"]


def test_verdicts_outlive_the_process_and_a_line_that_was_cut_off(out):
    verdicts = Verdicts(out)
    for verdict in (KEPT, REWORDED, DROPPED):
        verdicts.add(verdict)
    with (out / VERDICTS).open("a") as file:
        file.write('{"image": "a.pn')  # as if the process was killed
    again = Verdicts(out)
    assert (again.of("a.png", "the cup"), again.of("a.png", "the fork")) == (DROPPED, REWORDED)
    assert again.undo() == DROPPED
    assert again.of("a.png", "the cup") == KEPT  # the one before counts again
    again = Verdicts(out)
    assert [again.undo() for _ in range(3)] == [REWORDED, KEPT, None]
    assert len(Verdicts(out)) == 0
    assert (out / VERDICTS).read_text().count("\n") == 6  # nothing is ever removed


def test_labels_follow_the_verdicts(out):
    assert set(rows(out)) == {"the cup", "the fork"}
    verdicts = Verdicts(out)
    for verdict in (
        DROPPED,
        REWORDED,
        Verdict(image="a.png", text="the plate", kept=True),
        Verdict(image="a.png", text="the horse", kept=True),
    ):
        verdicts.add(verdict)
    found = rows(out)
    assert set(found) == {
        "the left fork",
        "the plate",
        "the horse",
    }  # a low score and an absence that a person confirms
    fork = found["the left fork"]
    assert (fork["id"], fork["split"], fork["threshold"], fork["reviewed"]) == ("a.png/1", "train", 0.3, True)
    assert np.array_equal(decode_rle(fork["rle"]), decode_rle(square(20)))
    assert fork["model"] == "stand-in, refined by sam2"
    assert "rle" not in found["the horse"]
    names = [one["name"] for one in json.loads((out / "coco/annotations.json").read_text())["categories"]]
    assert names == ["the left fork", "the plate"]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["reviewed"], summary["dropped"], summary["review"]) == (4, 1, 0)
    assert (out / "review.csv").read_text().splitlines() == ["image,expression,score,reason"]


@pytest.mark.parametrize(
    "line", ["no", "[]", "{}", '{"image": "a", "text": "b", "verdict": "maybe"}', '{"undo": true}', '{"undo": false}']
)
def test_a_file_of_verdicts_that_is_broken(out, line):
    (out / VERDICTS).write_text(line + "\n")
    with pytest.raises(DataError, match=r"verdicts\.jsonl: line 1"):
        Verdicts(out)


def test_a_verdict_that_cannot_be_written_does_not_count(out):
    verdicts = Verdicts(out)
    (out / VERDICTS).mkdir()
    with pytest.raises(OutputError):
        verdicts.add(KEPT)
    assert verdicts.of("a.png", "the cup") is None


def test_a_folder_that_is_none_of_a_run(out, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="refseg label"):
        open_run(tmp_path / "empty")
    content = json.loads((out / RUN).read_text())
    content["photos"][0]["file"] = "../a.png"
    (out / RUN).write_text(json.dumps(content))
    with pytest.raises(DataError, match="leads out"):
        open_run(out)
    (out / RUN).unlink()
    with pytest.raises(DataError, match="interrupted"):
        open_run(out)
    assert (out / ANSWERS).exists()
