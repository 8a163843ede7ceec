"""The server of a review: what comes first, what is stored, and who may ask."""

from __future__ import annotations

import asyncio
import json

import httpx2
import numpy as np
import pytest
from PIL import Image

from refseg.cli.main import main
from refseg.data.asked import Photo
from refseg.data.label import label
from refseg.data.label_run import Labeller
from refseg.data.verdicts import VERDICTS
from refseg.errors import ConfigError
from refseg.inputs.frame import Frame
from refseg.masks import decode_rle
from refseg.review.app import create_review_app
from refseg.review.queue import Queue
from refseg.review.run import load_model, review_settings
from refseg.segmenter import BaseSegmenter
from refseg.values import Decision, Encoding, Prediction

BY = Labeller(model="stand-in", revision="1", licence="MIT")
SCORES = {"sure": 0.9, "unsure": 0.3, "absent": 0.0, "other": 0.8}


class StandIn(BaseSegmenter):
    """Finds a square whose probability falls from left to right, with a score by the expression."""

    device, fingerprint = "cpu", "stand-in"

    def __init__(self):
        super().__init__(Decision(), domain="photos")

    def _encode(self, images, max_pixels):
        return [Encoding("stand-in", Frame(32, 32, 32), {}) for _ in images]

    def _answer(self, image, expressions, decision):
        scores = np.zeros((32, 32), np.float32)
        scores[8:24, 8:24] = np.linspace(1, 0.1, 16)
        return [
            Prediction(text, scores * (SCORES[text] > 0), image.frame, decision, object_score=SCORES[text])
            for text in expressions
        ]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (32, 32), "gray").save(tmp_path / "photos" / "a.png")
    texts = ("sure", "unsure", "absent", "sure")
    photo = Photo(file="a.png", split=None, ids=tuple("0123"), expressions=texts)
    label(StandIn(), BY, tmp_path / "photos", [photo], tmp_path / "run")
    return tmp_path / "run"


def asked(folder, *requests, base="http://127.0.0.1:8000", **settings):
    """The answers of an application to requests, each (method, path, options)."""

    async def run():
        queue = Queue(folder)
        app = create_review_app(queue, "127.0.0.1", review_settings(queue, **settings), dict, failed=pytest.fail)
        app.state.service.start({"stand-in": StandIn()})
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=base) as client:
            return [await client.request(method, path, **options) for method, path, options in requests]

    return asyncio.run(run())


def post(path, **values):
    return "POST", f"/review/{path}", {"json": values}


def get(path):
    return "GET", f"/review/{path}", {}


def keep(item, expression, threshold=None):
    return post("verdicts", item=item, verdict="keep", expression=expression, threshold=threshold)


def test_what_should_be_looked_at_comes_first(folder):
    queue = Queue(folder)
    assert [(one.text, one.reason) for one in queue.items] == [
        ("unsure", "low score"),
        ("absent", "nothing fits"),
        ("sure", None),  # which was asked twice
    ]
    overview = {"name": "run", "count": 3, "to_review": 2, "verdicts": "---"}
    assert [one.json() for one in asked(folder, get("run"))] == [overview]


def test_a_threshold_and_other_words_are_stored_with_their_masks(folder):
    *_, about, same, written = asked(
        folder, keep(0, "unsure", 0.7), keep(2, "other", 0.3), get("items/2"), keep(2, "other", 0.3), post("labels")
    )
    values = about.json()
    assert [values[name] for name in ("asked", "expression", "threshold", "verdict")] == ["sure", "other", 0.3, "k"]
    assert same.status_code == 200
    assert written.json()["reviewed"] == 3  # the one that was asked twice counts twice
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    assert [(row["id"], row["text"]) for row in rows] == [("0", "other"), ("1", "unsure"), ("3", "other")]
    columns = {row["text"]: decode_rle(row["rle"]).any(axis=0).sum() for row in rows}
    assert columns["other"] > columns["unsure"] > 0
    lines = [json.loads(line) for line in (folder / VERDICTS).read_text().splitlines()]
    assert lines[1] == lines[2]  # kept again as it was, without the model


def test_a_kept_answer_can_be_returned_to_that_of_the_run(folder):
    asked(folder, keep(2, "other"), keep(2, "sure"))
    assert "correction" not in json.loads((folder / VERDICTS).read_text().splitlines()[-1])


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("items/3"), 404),
        (get("items/-1"), 404),
        (get("photos/..%2F..%2Frun.json"), 404),
        (keep(3, "sure"), 404),
        (keep(0, " "), 422),
        (keep(0, "x" * 501), 422),
        (keep(0, "sure", 1.5), 422),
        (post("verdicts", item=0, verdict="maybe", expression="sure", threshold=None), 422),
        (("POST", "/review/undo", {"content": "{}", "headers": {"Content-Type": "text/plain"}}), 415),
        (post("undo"), 409),
    ],
)
def test_a_wrong_request_is_one_sentence(folder, request_, status):
    (answer,) = asked(folder, request_)
    assert answer.status_code == status
    if "photos" not in request_[1]:
        assert list(answer.json()) in (["error"], ["detail"])
    assert not (folder / VERDICTS).exists()


def test_another_name_of_the_host_and_a_missing_token_are_not_answered(folder):
    (answer,) = asked(folder, get("run"), base="http://rebound.example:8000")
    assert answer.status_code == 400
    (local,) = asked(folder, get("run"), base="http://localhost:8000")
    assert local.status_code == 200
    for request in (get("run"), get("items/0"), get("photos/0"), post("undo")):
        (answer,) = asked(folder, request, token="secret")
        assert answer.status_code == 401


def test_labels_of_tiles_are_kept_and_not_asked_again(folder, tmp_path):
    photo = Photo(file="a.png", split=None, ids=("0",), expressions=("sure",))
    by = Labeller(model="stand-in", revision="1", licence="MIT", tile=64)
    label(StandIn(), by, tmp_path / "photos", [photo], tmp_path / "tiles")
    again, kept = asked(tmp_path / "tiles", post("ask", item=0, expression="other"), keep(0, "sure"))
    assert (again.status_code, kept.status_code) == (409, 200)
    assert "tiles" in again.json()["error"]


def test_the_command_writes_labels_and_wants_the_model_of_the_run(folder, monkeypatch, capsys):
    asked(folder, post("verdicts", item=0, verdict="drop", expression="unsure", threshold=None))
    assert main(["review", str(folder), "--write"]) == 0
    assert "2 masks, 1 dropped, 1 reviewed; to review: 1" in capsys.readouterr().out
    assert main(["review", str(folder / "images")]) != 0
    assert capsys.readouterr().err.count("\n") == 1
    queue = Queue(folder)
    monkeypatch.setattr("refseg.serve.run.load", lambda *_, **__: StandIn())
    with pytest.raises(ConfigError, match="not the model of"):
        load_model(queue, review_settings(queue, model="photos"))
