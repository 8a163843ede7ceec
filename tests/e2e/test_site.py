"""The page as a static site: the exported model computes in the browser what Python computes."""

from __future__ import annotations

import json
import runpy
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import pytest

from refseg.data.examples import EXAMPLES
from refseg.errors import ConfigError
from refseg.inputs.preprocessing import Inputs
from refseg.masks import decode_rle, iou
from refseg.models.folder import save_model
from refseg.predictor import load

build = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "build_site.py"))["build"]
RUNTIME = Path(sys.prefix, "web", "node_modules", "onnxruntime-web")
"""Where `make test` puts it, if there is npm."""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of the site of the bundled model, on a server of files."""
    if not RUNTIME.is_dir():
        pytest.skip("onnxruntime-web is not installed: install npm, then `make browser`")
    site = tmp_path_factory.mktemp("web") / "site"
    build("photos", site, precision="float32", runtime=RUNTIME)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_the_browser_computes_the_masks_of_python(visit, address):
    segmenter = load("photos", "cpu")
    expressions = {
        "cats.jpg": ["the cat on the left", "the cat on the right", "the violin"],
        "horse.jpg": ["the person on the left", "the brown horse"],
        "room.jpg": ["the dog on the left", "the person on the right"],
    }
    for name, texts in expressions.items():
        page = visit("#" + urlencode([("example", name), *(("find", text) for text in texts)]))
        page.locator("li.row[aria-busy=false]").nth(len(texts) - 1).wait_for()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save COCO").click()
        made = {one["caption"]: one for one in json.loads(download.value.path().read_bytes())["annotations"]}
        for found in segmenter.segment(segmenter.encode(EXAMPLES / name), texts):
            assert (found.expression in made) == (not found.empty)
            if not found.empty:
                answer = made[found.expression]
                assert iou(decode_rle(answer["segmentation"]), found.mask) >= 0.99
                assert answer["score"] == pytest.approx(found.score, abs=0.01)


@pytest.mark.slow
def test_a_model_with_other_inputs_has_no_site(tmp_path, make_tiny):
    inputs = Inputs(image_size=64, word_length=17, fit="squash")
    folder = save_model(make_tiny(inputs=inputs), tmp_path / "model", name="squashed")
    with pytest.raises(ConfigError, match="squash"):
        build(folder, tmp_path / "site", runtime=tmp_path)
    assert not (tmp_path / "site").exists()
