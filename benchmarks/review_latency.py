"""Time from a key press to the next label in the page of `refseg review`, with many labels, in Chromium.

    python benchmarks/review_latency.py --labels 10000 --out review_latency.json

Every label has a photo of its own, of noise, so that none is in any cache. The page is driven by playwright; the time
is taken in the page itself, from the event of the key to the first frame that shows the next label. A second part
measures what a new threshold costs: the answer of the model on a photo of the package, beside the bytes that stored
probabilities would take.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import httpx2
import numpy as np
import uvicorn
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from refseg.data.asked import Photo
from refseg.data.examples import EXAMPLES
from refseg.data.label_run import Labeller, LabelRun, add_answers, earlier_answers, save_run
from refseg.masks import encode_rle
from refseg.predictor import load
from refseg.review.app import create_review_app
from refseg.review.queue import Queue
from refseg.review.run import review_settings

SIZE = (480, 640)
WATCH = """(key) => new Promise((resolve) => {
  const canvas = document.getElementById("canvas");
  const start = performance.now();
  const before = canvas.dataset.number;
  const look = () => {
    if (canvas.dataset.number === before) requestAnimationFrame(look);
    else resolve(performance.now() - start);
  };
  document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  look();
})"""


def make_run(folder: Path, count: int) -> None:
    """Write a run of `count` labels, each of a photo of its own; the last one is of a photo of the package."""
    by = Labeller(model="photos", revision="any", licence="any")
    earlier_answers(folder, by)
    (folder / "images").mkdir()
    rng, mask, photos = np.random.default_rng(0), np.zeros(SIZE, bool), []
    mask[100:300, 200:500] = True
    rle = encode_rle(mask)
    for number in range(count):
        small = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
        name = f"{number}.jpg"
        if number < count - 1:
            Image.fromarray(small).resize(SIZE[::-1], Image.Resampling.BICUBIC).save(folder / "images" / name)
        else:
            shutil.copy(EXAMPLES / "cats.jpg", folder / "images" / name)
        photos.append(Photo(file=name, split=None, ids=(name,), expressions=("the cat on the left",)))
        add_answers(folder, name, [{"text": "the cat on the left", "score": 0.8, "rle": rle}])
    save_run(LabelRun(labeller=by, photos=tuple(photos)), folder)


def press(page: Page, key: str, count: int, pause: float) -> list[float]:
    """Return the milliseconds from each press to the next label, with a pause before each."""
    times = []
    for _ in range(count):
        page.wait_for_timeout(1000 * pause)
        times.append(page.evaluate(WATCH, key))
    return times


def shown(times: list[float]) -> dict[str, float]:
    """Return the median, the 95th of 100 and the longest of some times."""
    return {
        "median": round(median(times), 1),
        "p95": round(quantiles(times, n=20, method="inclusive")[-1], 1),
        "longest": round(max(times), 1),
    }


def main() -> None:
    """Carry out the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--labels", type=int, default=10_000)
    parser.add_argument("--presses", type=int, default=40)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds that a person looks at a label")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "run")
        make_run(folder, arguments.labels)
        start = time.perf_counter()
        queue = Queue(folder)
        opened = time.perf_counter() - start
        model, settings = load("photos", "cpu"), review_settings(queue)
        app = create_review_app(queue, "127.0.0.1", settings, lambda: {"photos": model}, failed=print)
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=partial(server.run, [listening]))
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(60_000)
            page.goto(address)
            page.locator("body[data-ready]").wait_for()
            keep = press(page, "k", arguments.presses, arguments.pause)
            jump = press(page, "ArrowRight", arguments.presses, 0)
            browser.close()
        question = {"item": arguments.labels - 1, "expression": "the cat on the left"}
        asks = []
        with httpx2.Client(base_url=address, timeout=60, trust_env=False) as client:
            for _ in range(2):  # the second one finds the image encoded
                start = time.perf_counter()
                answer = client.post("/review/ask", json=question).raise_for_status().json()
                asks.append(1000 * (time.perf_counter() - start))
        server.should_exit = True
        thread.join()
    result = {
        "labels": arguments.labels,
        "presses": arguments.presses,
        "pause_seconds": arguments.pause,
        "open_run_seconds": round(opened, 2),
        "keep_milliseconds": shown(keep),
        "next_without_pause_milliseconds": shown(jump),
        "first_threshold_milliseconds": round(asks[0], 1),
        "ask_again_milliseconds": round(asks[1], 1),
        "stored_probability_bytes": len(answer["probability"]) * 3 // 4,
        "load": round(os.getloadavg()[0], 1),
        "machine": platform.processor() or platform.machine(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
