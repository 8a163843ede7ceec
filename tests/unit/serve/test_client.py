"""The client answers as a model in this process does, and says what is wrong in one line."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from refseg.client import Client
from refseg.errors import DataError, ExpressionError, ImageError, ServerError

EXPRESSIONS = ["the red disc", "the blue square"]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_the_answers_are_those_of_the_model(serve, predictor, photo, photo_pixels):
    direct = predictor.segment(predictor.encode(photo), EXPRESSIONS)
    with Client(serve({"tiny": predictor}).address) as client:
        sources = [
            str(photo),
            photo,
            photo.read_bytes(),
            io.BytesIO(photo.read_bytes()),
            photo_pixels,
            Image.open(photo),
        ]
        for image in (*sources, client.encode(photo)):
            answers = client.segment(image, (text for text in EXPRESSIONS))
            for answer, prediction in zip(answers, direct, strict=True):
                assert (answer.expression, answer.box) == (prediction.expression, prediction.box)
                assert answer.score == pytest.approx(prediction.score, abs=1e-6)
                assert answer.confidence == pytest.approx(prediction.confidence, abs=1e-6)
                assert np.array_equal(answer.mask, prediction.mask)


def test_where_each_word_looks(serve, predictor, photo):
    expected = predictor.word_maps(predictor.encode(photo), EXPRESSIONS[0])
    with Client(serve({"tiny": predictor}).address) as client:
        (answer,) = client.segment(photo, EXPRESSIONS[:1], words=True)
        assert [one.word for one in answer.words] == EXPRESSIONS[0].split()
        for found, map_ in zip(answer.words, expected, strict=True):
            np.testing.assert_allclose(found.map, map_.map, atol=0.51 / 255)
        assert client.segment(photo, EXPRESSIONS[:1])[0].words is None


def test_an_image_that_the_server_has_dropped_is_sent_again(serve, stub, grey):
    with Client(serve(cache_bytes=1).address) as client:  # one encoding only
        first, second = client.encode(grey(200)), client.encode(grey(1))
        assert [client.segment(image, ["level"])[0].empty for image in (first, second, first)] == [False, True, False]
        assert len(stub.encoded) == 5


def test_the_default_model_is_first(serve, stub, predictor):
    with Client(serve({"z": stub, "a": predictor}).address) as client:
        assert [model["name"] for model in client.models()] == ["z", "a"]
        assert client.encode(np.zeros((4, 4, 3), np.uint8), model="a").model == "a"


def test_errors_are_one_line(serve, grey, tmp_path):
    server = serve(token="s3cret", max_expressions=1)
    with Client(server.address) as client, pytest.raises(ServerError, match="send the token") as caught:
        client.models()
    assert caught.value.status == 401
    with Client(server.address, token="s3cret") as client:
        with pytest.raises(ServerError, match=r"^the server answers: 2 expressions are too many; send 1 at most$"):
            client.segment(grey(1), ["a", "b"])
        with pytest.raises(ExpressionError):
            client.segment(grey(1), "the cat")
        with pytest.raises(ImageError, match=r"photo.png' cannot be read: No such file"):
            client.encode(tmp_path / "photo.png")
        assert client.segment(grey(1), []) == []
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServerError, match="cannot be reached") as caught:
        client.models()
    assert caught.value.status is None


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"{}", b'{"models": 3, "default": "a"}'])
def test_other_servers(site, content):
    with Client(site.address) as client:
        site.put("/v1/models", content)
        with pytest.raises(ServerError, match="does not answer as a server of refseg does"):
            client.models()


def test_a_mask_of_another_size_is_not_accepted(monkeypatch):
    client = Client("http://127.0.0.1:9")
    wrong = {"expression": "a", "score": 1.0, "confidence": 1.0, "empty": False, "box": None, "threshold": 0.5}
    wrong["mask"] = {"size": [10**5, 10**5], "counts": "0"}
    answers = iter([{"image": "x", "model": "m", "width": 4, "height": 4}, {"predictions": [wrong]}])
    monkeypatch.setattr(client, "_json", lambda *_, **__: next(answers))
    with pytest.raises(DataError, match="the mask is 100000 x 100000"):
        client.segment(b"", ["a"])
