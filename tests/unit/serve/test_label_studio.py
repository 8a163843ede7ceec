"""Tasks of Label Studio are pre-annotated as it expects, and no address is asked that the operator has not named."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.etree import ElementTree

import numpy as np
import pytest

from refseg.data.formats.label_studio import brush_mask
from refseg.errors import ConfigError, InputError
from refseg.masks import polygon_mask
from refseg.serve.label_studio import read_project
from refseg.serve.settings import Settings

BRUSH = """<View><!-- a comment --><Image name="photo" value="$image"/><Text name="words" value="$text"/>
  <BrushLabels name="mask" toName="photo"><Label value="target"/></BrushLabels></View>"""
CONFIGS = {
    "brushlabels": BRUSH,
    "polygonlabels": BRUSH.replace("BrushLabels", "PolygonLabels"),
    "brush": BRUSH.replace(
        '<BrushLabels name="mask" toName="photo"><Label value="target"/></BrushLabels>',
        '<Brush name="mask" toName="photo"/>',
    ),
}
LABELS = """<View><Image name="image" value="$image"/><BrushLabels name="label" toName="image">
  <Label value="it"/><Label value="them"/></BrushLabels></View>"""
SIZE = (10, 12)
JWT = "head.body.signature"


class Studio(ThreadingHTTPServer):
    """Gives images to those with its key, as Label Studio does, and notes what it is asked."""

    daemon_threads = True

    def __init__(self, image):
        super().__init__(("127.0.0.1", 0), Handler)
        self.image, self.seen, self.redirect, self.key = image, [], None, "Token secret"
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append((self.path, self.headers["Authorization"]))
        if self.path.startswith("/away"):
            self.send_response(303)
            self.send_header("Location", self.server.redirect)
            self.end_headers()
        elif self.headers["Authorization"] != self.server.key:
            self.send_error(401)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.image)

    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200 if given == {"refresh": JWT} and self.path == "/api/token/refresh" else 401)
        self.end_headers()
        self.wfile.write(b'{"access": "short"}')

    def log_message(self, *_):
        pass


@pytest.fixture
def studio(grey):
    server = Studio(grey(200, SIZE[::-1]))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def predict(http, serve, studio):
    """Asks a backend: `predict(config, *data)` returns the predictions."""
    started = []

    def ask(config, *data, **settings):
        if not started or settings:
            started.append(serve(**{"label_studio": studio.address, "label_studio_key": "secret"} | settings))
        tasks = [{"id": number, "data": one, "meta": {}} for number, one in enumerate(data, 1)]
        request = {"tasks": tasks, "project": "1.2", "label_config": config, "params": {"login": None, "context": None}}
        answer = http.post(f"{started[-1].address}/label-studio/predict", json=request)
        assert answer.status_code == 200, answer.text
        return answer.json()["results"]

    return ask


def checked(config, prediction):
    """What label-studio-sdk finds wrong with a prediction, where it is installed."""
    interface = pytest.importorskip("label_studio_sdk.label_interface").LabelInterface(config)
    return interface.validate_prediction(prediction, return_errors=True)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_task_is_annotated_from_its_text(predict, kind):
    (found,) = predict(CONFIGS[kind], {"image": "/data/upload/1/a b.png", "text": "the thing"})
    assert found["model_version"] == "stub-stub"
    (result,) = found["result"]
    assert found["score"] == result["score"] == pytest.approx(209 / 255, abs=0.01)
    assert (result["type"], result["from_name"], result["to_name"]) == (kind, "mask", "photo")
    assert (result["original_height"], result["original_width"], result["image_rotation"]) == (*SIZE, 0)
    assert result["value"].get(kind) == (["target"] if kind.endswith("labels") else None)
    if kind == "polygonlabels":
        points = [number for x, y in result["value"]["points"] for number in (x * SIZE[1] / 100, y * SIZE[0] / 100)]
        assert polygon_mask([points], size=SIZE).all()
    else:
        assert brush_mask(result["value"]["rle"], SIZE).all()


@pytest.mark.parametrize("config", [*CONFIGS.values(), LABELS])
def test_label_studio_accepts_the_prediction(predict, config):
    (found,) = predict(config, {"image": "/data/upload/1/a.png", "text": "the thing"})
    assert found["result"]
    assert checked(config, found) == []


def test_without_a_text_each_label_is_asked(predict, grey):
    image = "data:image/png;base64," + base64.b64encode(grey(200, SIZE[::-1])).decode()
    (found,) = predict(LABELS, {"image": image})
    assert [one["value"]["brushlabels"] for one in found["result"]] == [["it"], ["them"]]
    assert len({one["id"] for one in found["result"]}) == 2
    assert found["score"] == pytest.approx(np.mean([202, 204]) / 255, abs=0.01)


def test_what_fits_nothing_has_no_result(predict, studio, grey):
    studio.image = grey(10, SIZE[::-1])
    (found,) = predict(BRUSH, {"image": "/a.png", "text": "it"})
    assert (found["result"], found["score"]) == ([], 0.0)
    assert "error" not in found


def test_a_task_that_cannot_be_answered_costs_no_other(predict, studio):
    tasks = [
        {"image": "/a.png", "text": "it"},
        {"image": "/a.png"},
        {"image": "/a.png", "text": "x" * 600},
        {"image": "http://169.254.169.254/latest/meta-data", "text": "it"},
        {"image": "http://[", "text": "it"},
        {"image": "file:///etc/passwd", "text": "it"},
        {"image": "data:image/png;base64,AAAA", "text": "it"},
        {"image": "data:,AAAA", "text": "it"},
    ]
    found = predict(BRUSH, *tasks)
    assert [bool(one["result"]) for one in found] == [True] + 7 * [False]
    assert all(one["error"] for one in found[1:])
    assert "--image-host" in found[3]["error"]
    assert studio.seen == [("/a.png", "Token secret")]


def test_a_redirect_is_followed_to_named_servers_only(predict, studio, grey):
    other = Studio(grey(200, SIZE[::-1]))
    other.key = None  # it is not sent the key
    thread = threading.Thread(target=other.serve_forever, args=(0.05,))
    thread.start()
    try:
        studio.redirect = f"{other.address}/signed?key=1"
        (found,) = predict(BRUSH, {"image": "/away", "text": "it"})
        assert other.address in found["error"]
        assert "key=1" not in found["error"]
        assert other.seen == []
        (found,) = predict(BRUSH, {"image": "/away", "text": "it"}, image_hosts=(other.address,))
        assert found["result"]
        assert other.seen == [("/signed?key=1", None)]
    finally:
        other.shutdown()
        thread.join()
        other.server_close()
    studio.redirect = "/away"
    (found,) = predict(BRUSH, {"image": "/away", "text": "it"})
    assert "again and again" in found["error"]


def test_images_that_are_too_large_or_forbidden(predict, studio):
    (found,) = predict(BRUSH, {"image": "/a.png", "text": "it"}, label_studio_key=None)
    assert "status 401" in found["error"]
    studio.key = "Bearer short"
    (found,) = predict(BRUSH, {"image": "/a.png", "text": "it"}, label_studio_key=JWT)
    assert found["result"]  # a personal token is exchanged
    studio.image = bytes(3000)
    (found,) = predict(BRUSH, {"image": "/a.png", "text": "it"}, label_studio_key=JWT, max_bytes=2000)
    assert "larger than" in found["error"]


def test_setup_and_health(http, serve, studio):
    plain, server = serve(), serve(label_studio=studio.address, token="secret")
    assert http.get(f"{plain.address}/label-studio/health").status_code == 404
    assert http.get(f"{server.address}/label-studio/health").json() == {"status": "UP", "model_class": "refseg"}
    setup = {"project": "1.2", "schema": BRUSH, "hostname": "http://evil.example", "access_token": "x"}

    def ask(**options):
        answer = http.post(
            f"{server.address}/label-studio/setup", **{"json": setup, "auth": ("any", "secret")} | options
        )
        return answer.status_code, answer.json()

    assert ask() == (200, {"model_version": "stub-stub"})
    assert ask(auth=("any", "wrong"))[0] == 401
    assert ask(auth=None)[0] == 401
    assert ask(json=setup | {"schema": "<View/>"})[0] == 422
    assert ask(json={})[0] == 422


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("<View", "no XML"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View/>', "document type"),
        ("<View/>", "no image"),
        (BRUSH.replace('toName="photo"', 'toName="other"'), "no image"),
        (LABELS.replace("<Label ", "<Other "), "neither a Text tag nor labels"),
    ],
)
def test_a_configuration_that_does_not_suit(config, reason):
    with pytest.raises(InputError, match=reason):
        read_project(config)


def test_the_label_of_an_expression():
    two = ElementTree.tostring(ElementTree.fromstring(LABELS.replace("</View>", '<Text value="$text"/></View>')))
    project = read_project(two.decode())
    assert project.label("them") == "them"
    with pytest.raises(InputError, match="none of the 2 labels"):
        project.label("the thing")


def test_addresses_of_servers():
    for wrong in ("localhost:8080", "ftp://a", "http://", "http://["):
        with pytest.raises(ConfigError, match="address"):
            Settings(models=("photos",), label_studio=wrong)
    with pytest.raises(ConfigError, match="--label-studio"):
        Settings(models=("photos",), image_hosts=("http://a",))
