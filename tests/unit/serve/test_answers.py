"""Answers over HTTP equal those of the model in this process, in every form of the request and of the mask."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from http.client import HTTPConnection
from io import BytesIO
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from refseg.masks import decode_rle, polygon_mask
from refseg.predictor import Predictor
from refseg.serve.answer import word_values
from refseg.values import Decision

EXPRESSIONS = ["the red disc", "the blue square", "the red disc"]


@pytest.fixture(scope="module")
def tiny(predictor, photo):
    """A model with random weights, whose threshold is in the middle of what it answers."""
    (first,) = predictor.segment(predictor.encode(photo), EXPRESSIONS[:1])
    decision = Decision(threshold=float(np.median(first.probability)))
    return Predictor(predictor.runtime, predictor.inputs, decision, family="cris")


@pytest.fixture
def direct(tiny, photo):
    return tiny.segment(tiny.encode(photo), EXPRESSIONS)


@pytest.fixture
def address(serve, tiny):
    return serve({"tiny": tiny}).address


def ask(http, address, photo, **fields):
    form = {"expression": EXPRESSIONS, **fields}
    response = http.post(f"{address}/v1/segment", files={"image": photo.read_bytes()}, data=form)
    assert response.status_code == 200, response.text
    return response.json()


def array(png: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(b64decode(png))))


def test_everything_but_the_mask_is_that_of_the_model(http, address, photo, direct):
    values = ask(http, address, photo, masks="none")
    assert (values["model"], values["width"], values["height"]) == ("tiny", 96, 64)
    assert set(values["timings"]) == {"decode", "encode", "answer", "masks"}
    for one, prediction in zip(values["predictions"], direct, strict=True):
        assert one == {
            "expression": prediction.expression,
            "score": round(prediction.score, 6),
            "confidence": round(prediction.confidence, 6),
            "empty": prediction.empty,
            "box": None if prediction.box is None else list(prediction.box),
            "threshold": prediction.threshold,
        }


def test_a_mask_as_run_lengths(http, address, photo, direct):
    values = ask(http, address, photo)
    assert [one["mask"] for one in values["predictions"]] == [prediction.rle for prediction in direct]
    assert 0.1 < direct[0].mask.mean() < 0.9


def test_a_mask_as_png(http, address, photo, direct):
    values = ask(http, address, photo, masks="png")
    for one, prediction in zip(values["predictions"], direct, strict=True):
        assert np.array_equal(array(one["mask"]), prediction.mask * np.uint8(255))


def test_a_mask_as_polygons(http, address, photo, direct):
    values = ask(http, address, photo, masks="polygons")
    for one, prediction in zip(values["predictions"], direct, strict=True):
        found = polygon_mask(one["mask"], size=(64, 96))
        assert np.array_equal(found | prediction.mask, found)  # holes are filled
        assert np.count_nonzero(found & ~prediction.mask) <= 0.1 * np.count_nonzero(prediction.mask)


def test_probabilities(http, address, photo, direct):
    values = ask(http, address, photo, masks="none", probability="true")
    for one, prediction in zip(values["predictions"], direct, strict=True):
        assert np.abs(array(one["probability"]) / 255 - prediction.probability).max() <= 0.5 / 255 + 1e-6


def test_probabilities_of_a_large_image_are_at_most_512_wide(http, serve, grey):
    address = serve().address
    form = {"expression": "level", "probability": "true"}
    values = http.post(f"{address}/v1/segment", files={"image": grey(200, (1024, 300))}, data=form).json()
    assert array(values["predictions"][0]["probability"]).shape == (150, 512)
    assert np.median(array(values["predictions"][0]["probability"])) == 205


def test_nothing_fits(http, serve, grey):
    address = serve().address
    values = http.post(f"{address}/v1/segment?expression=x", content=grey(10), headers={"Content-Type": "image/png"})
    (one,) = values.json()["predictions"]
    assert (one["empty"], one["box"], one["score"]) == (True, None, 0.0)
    assert not decode_rle(one["mask"]).any()


def test_an_image_may_come_as_a_form_as_bytes_or_by_its_handle(http, address, photo):
    file = photo.read_bytes()
    form = ask(http, address, photo, probability="true")
    query = {"expression": EXPRESSIONS, "probability": "true", "model": "tiny"}
    kind = {"Content-Type": "application/octet-stream"}
    raw = http.post(f"{address}/v1/segment", params=query, content=file, headers=kind).json()
    image = http.post(f"{address}/v1/encode", content=file, headers={"Content-Type": "image/png"}).json()["image"]
    question = {"image": image, "expressions": EXPRESSIONS, "probability": True}
    by_handle = http.post(f"{address}/v1/segment", json=question).json()
    assert form["predictions"] == raw["predictions"] == by_handle["predictions"]
    assert form["image"] == raw["image"] == image == by_handle["image"]
    assert by_handle["timings"]["encode"] == 0


def test_an_image_is_encoded_once(http, serve, stub, grey):
    address = serve().address
    first = http.post(f"{address}/v1/encode", files={"image": grey(9)}).json()
    http.post(f"{address}/v1/segment", files={"image": grey(9)}, data={"expression": "level"})
    again = http.post(f"{address}/v1/segment", json={"image": first["image"], "expressions": ["level"]})
    assert again.json()["predictions"][0]["threshold"] == 0.5
    assert stub.encoded == [1]
    assert first["expires_in"] == 600


def test_the_same_question_is_computed_once(serve, http, stub, grey, together, wait_for):
    address = serve().address
    stub.gate.clear()

    def send(number):
        if number == 5:
            wait_for(lambda: stub.encoded)
            stub.gate.set()
        form = {"expression": ["level", "x"]}
        answer = http.post(f"{address}/v1/segment", files={"image": grey(200)}, data=form).json()
        return [one["confidence"] for one in answer["predictions"]]

    first, *others = together(send, range(6))
    assert others == [first] * 5
    assert send(0) == first  # after all of them
    assert stub.encoded == [1]
    assert sorted(text for batch in stub.answered for text in batch) == ["level", "x"]


def test_an_answer_on_a_kept_connection_is_not_held_back(serve, grey):
    """Its body waited for the client's acknowledgement of its headers, which takes 40 ms."""
    connection = HTTPConnection(urlsplit(serve().address).netloc)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        connection.request("POST", "/v1/segment?expression=level", grey(3), {"Content-Type": "image/png"})
        assert json.loads(connection.getresponse().read())["predictions"]
        times.append(time.perf_counter() - start)
    connection.close()
    assert min(times) < 0.03


def test_an_answer_is_kept_as_long_as_its_image(serve, http, stub, grey):
    address = serve(cache_bytes=1).address  # the newest encoding only
    for level in (1, 2, 1, 1):
        http.post(f"{address}/v1/segment", files={"image": grey(level)}, data={"expression": "level"})
    assert (len(stub.encoded), len(stub.answered)) == (3, 3)


def test_a_handle_that_is_not_known_any_more(http, serve, stub, grey):
    address = serve(cache_bytes=1).address  # the newest encoding only
    first, _ = (http.post(f"{address}/v1/encode", files={"image": grey(level)}).json() for level in (1, 2))
    gone = http.post(f"{address}/v1/segment", json={"image": first["image"], "expressions": ["level"]})
    assert gone.status_code == 404
    assert gone.json() == {"error": "the model stub does not have this image, or no longer; send the image"}


def test_several_models(http, serve, stub, predictor, photo):
    address = serve({"stub": stub, "tiny": predictor}).address
    assert http.get(f"{address}/v1/models").json() == {
        "default": "stub",
        "models": [
            *({"name": "stub", "family": "stub", "domain": "tests", "words": None} | plain(0.5) for _ in (1,)),
            *({"name": "tiny", "family": "cris", "domain": None, "words": "attention"} | plain(0.35) for _ in (1,)),
        ],
    }
    assert ask(http, address, photo)["model"] == "stub"
    named = ask(http, address, photo, model="tiny")
    assert named["model"] == "tiny"
    # The other model has not encoded this image.
    form = {"image": named["image"], "expressions": ["level"], "model": "stub"}
    assert http.post(f"{address}/v1/segment", json=form).status_code == 200  # it has: it was asked first
    assert http.post(f"{address}/v1/segment", json=form | {"model": "other"}).json() == {
        "error": "there is no model of this name; there are: stub, tiny"
    }


def plain(threshold):
    return {"threshold": threshold, "relative_threshold": None, "calibrated": False}


def test_where_each_word_looks(http, address, tiny, photo):
    expected = [tiny.word_maps(tiny.encode(photo), text) for text in EXPRESSIONS]
    values = ask(http, address, photo, words="true")
    question = {"image": values["image"], "expressions": EXPRESSIONS, "words": True}
    again = http.post(f"{address}/v1/segment", json=question).json()
    assert again["predictions"] == values["predictions"]
    for one, maps in zip(values["predictions"], expected, strict=True):
        assert [found["word"] for found in one["words"]] == ["the", *one["expression"].split()[1:]]
        assert one["words_highest"] == pytest.approx(max(map_.map.max() for map_ in maps))
        for found, map_ in zip(one["words"], maps, strict=True):
            shown = array(found["map"]) * one["words_highest"] / 255
            assert np.abs(shown - map_.map).max() <= 0.51 * one["words_highest"] / 255
        assert max(array(found["map"]).max() for found in one["words"]) == 255
    assert "words" not in ask(http, address, photo)["predictions"][0]


def test_maps_of_words_of_a_large_image_are_at_most_512_wide(tiny):
    scene = tiny.encode(np.zeros((300, 1024, 3), np.uint8))
    values = word_values(tiny.word_maps(scene, "the disc"))
    assert [array(one["map"]).shape for one in values["words"]] == [(150, 512)] * 2
    assert word_values([]) == {"words": [], "words_highest": 0.0}


def test_a_model_that_cannot_tell_where_words_look_says_so(http, serve, grey):
    address = serve().address
    assert http.get(f"{address}/v1/models").json()["models"][0]["words"] is None
    form = {"expression": "level", "words": "true"}
    answer = http.post(f"{address}/v1/segment", files={"image": grey(9)}, data=form)
    assert answer.status_code == 422
    assert answer.json() == {"error": "the model stub cannot tell where each word looks; ask without words"}


def test_clients_at_once_get_their_own_answers(serve, http, stub, grey, together):
    address = serve().address
    stub.gate.clear()

    def asked(number):
        level, text = 10 * (number % 20), "a" * (1 + number % 7)
        form = {"expression": [text, "level"], "probability": "true"}
        if number == 15:  # all others wait by now, or come later
            stub.gate.set()
        values = http.post(f"{address}/v1/segment", files={"image": grey(level)}, data=form).json()
        return [(one["expression"], int(np.median(array(one["probability"])))) for one in values["predictions"]]

    found = together(asked, range(16))
    for number, answers in enumerate(found):
        level, length = 10 * (number % 20), 1 + number % 7
        assert answers == [("a" * length, level + length), ("level", level + 5)]


def test_images_are_encoded_together(serve, http, stub, grey, together, wait_for):
    address = serve(batch=4).address
    stub.gate.clear()

    def send(level):
        if level == 5:
            wait_for(lambda: stub.encoded)  # the first batch is one image, or some of those that came early
            stub.gate.set()
        return http.post(f"{address}/v1/encode", files={"image": grey(level)}).status_code

    assert together(send, range(6)) == [200] * 6
    assert sum(stub.encoded) == 6
    assert len(stub.encoded) < 6


def test_expressions_about_one_image_are_answered_together(serve, http, stub, grey, together, wait_for):
    address = serve().address
    image = http.post(f"{address}/v1/encode", files={"image": grey(7)}).json()["image"]
    stub.gate.clear()

    def send(number):
        if number == 5:
            wait_for(lambda: stub.answered)
            stub.gate.set()
        question = {"image": image, "expressions": ["level", "x" * (number % 3 + 1)]}
        return [one["expression"] for one in http.post(f"{address}/v1/segment", json=question).json()["predictions"]]

    assert together(send, range(6)) == [["level", "x" * (number % 3 + 1)] for number in range(6)]
    assert len(stub.answered) < 6
    assert all(len(set(texts)) == len(texts) for texts in stub.answered)  # each expression once


def test_the_description_of_the_interface_is_served_without_the_internet(serve, http):
    address = serve().address
    page = http.get(f"{address}/docs")
    assert page.status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/static-offline-docs/{asset}" in page.text
        assert http.get(f"{address}/static-offline-docs/{asset}").status_code == 200
    paths = json.loads(http.get(f"{address}/openapi.json").text)["paths"]
    assert {"/v1/models", "/v1/encode", "/v1/segment", "/health", "/ready"} <= set(paths)


def test_metrics(serve, http, grey):
    address = serve().address
    http.post(f"{address}/v1/segment", files={"image": grey(7)}, data={"expression": ["a", "b"]})
    http.get(f"{address}/nonsense")
    text = http.get(f"{address}/metrics").text
    assert 'refseg_requests_total{path="/v1/segment",status="200"} 1.0' in text
    assert 'refseg_requests_total{path="other",status="404"} 1.0' in text
    assert 'refseg_batch_size_sum{stage="answer"} 2.0' in text
    assert 'refseg_stage_seconds_count{stage="encode"} 1.0' in text
    assert "refseg_requests_active 0.0" in text
    assert 'refseg_cache_bytes{model="stub"} 8.0' in text
