"""The page as a static site: the exported model computes in the browser what Python computes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest

from refseg.data.examples import EXAMPLES
from refseg.masks import decode_rle, iou
from refseg.models.folder import save_model
from refseg.predictor import load

SCRIPT = Path(__file__).parents[2] / "scripts" / "build_site.py"
RUNTIME = Path(sys.prefix, "web", "node_modules", "onnxruntime-web")
"""Where `make test` puts it, if there is npm."""


WORDS = """async (text) => {
    const {Engine} = await import("./page/engine.js");
    const engine = new Engine();
    const {models: [{words: source}]} = await engine.models();
    const image = await engine.encode(await (await fetch("page/examples/cats.jpg")).blob());
    const {highest, words} = await engine.words(image, text);
    return [source, highest, words.map(({word, map}) => [word, [...map.values]])];
}"""


def build(*words):
    """Runs the script in a process of its own, since a model whose types are checked cannot be exported."""
    return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of the site of the bundled model, on a server of files."""
    if not RUNTIME.is_dir():
        pytest.skip("onnxruntime-web is not installed: install npm, then `make browser`")
    site = tmp_path_factory.mktemp("web") / "site"
    done = build("photos", site, "--runtime", RUNTIME)
    assert done.returncode == 0, done.stderr
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
        "cats.jpg": ["the cat on the left", "the cat on the right", "the horse"],
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
    # Where words look; a word of several tokens has the sum of theirs.
    text = "the cat nearest to the refrigerator's door"
    maps = segmenter.word_maps(segmenter.encode(EXAMPLES / "cats.jpg"), text)
    source, highest, words = page.evaluate(WORDS, text)
    assert source == "attention"
    assert highest == pytest.approx(max(one.map.max() for one in maps), rel=0.02)
    assert [word for word, _ in words] == [one.word for one in maps]
    for (_, values), one in zip(words, maps, strict=True):
        assert np.abs(np.reshape(values, one.map.shape) * (highest / 255) - one.map).max() < 0.01


@pytest.mark.slow
@pytest.mark.long
def test_a_model_with_other_inputs_has_no_site(tmp_path, make_tiny):
    folder = save_model(make_tiny(fit="squash"), tmp_path / "model", name="squashed")
    done = build(folder, tmp_path / "site", "--runtime", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "squash" in done.stderr
    assert not (tmp_path / "site").exists()
