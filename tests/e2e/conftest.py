"""A folder with the files that the documentation names; a browser for the pages, and what a person does with them."""

from __future__ import annotations

import csv
import json
import shutil
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
import uvicorn
from PIL import Image

from refseg.data.examples import EXAMPLES
from refseg.data.shapes import EXAMPLE
from refseg.masks import encode_rle

SCORED = 4
"""Images of the data set `my-data`."""

OPTIONS = [
    "--no-sandbox",  # containers run as root, where Chromium's sandbox cannot start
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def write_clip(path):
    """A video of four frames in which the photo of the cats moves."""
    with Image.open(EXAMPLES / "cats.jpg") as photo, av.open(path, "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height = photo.width // 4 * 2, photo.height // 4 * 2
        for step in range(4):
            moved = photo.crop((4 * step, 0, photo.width, photo.height)).resize((stream.width, stream.height))
            file.mux(stream.encode(av.VideoFrame.from_image(moved)))
        file.mux(stream.encode(None))


@pytest.fixture
def place(tmp_path, monkeypatch, model_folder):
    """A folder with the files that the pages, and the examples of the commands' help, name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "cache"))
    shutil.copy(EXAMPLE, "scene.png")
    for name in ("cats.jpg", "horse.jpg"):
        shutil.copy(EXAMPLES / name, name)
    shutil.copy(EXAMPLES / "cats.jpg", "photo.jpg")
    shutil.copytree(model_folder, "my-model")
    write_clip("clip.mp4")
    Path("words.txt").write_text("the cat on the left\n", encoding="utf-8")
    Path("asked.csv").write_text("image,expression\nimages/a.png,the cat on the right\n", encoding="utf-8")
    Path("my-data/images").mkdir(parents=True)
    Path("my-data/masks").mkdir()
    with Path("my-data/data.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "mask", "text", "split"])
        for number in range(SCORED):
            shutil.copy(EXAMPLE, f"my-data/images/{number}.png")
            mask = np.zeros((480, 640), np.uint8)
            mask[100:200, 100 : 200 + number] = 255
            Image.fromarray(mask).save(f"my-data/masks/{number}.png")
            table.writerow([f"{number}.png", f"{number}.png", "the leftmost ring", "train"])
    Path("trained.txt").write_text("0.png\n", encoding="utf-8")
    Path("my-photos/images").mkdir(parents=True)
    masks = np.zeros((2, 200, 300), dtype=bool)
    masks[0, 40:160, 20:100] = masks[1, 40:160, 180:280] = True
    with Image.open(EXAMPLES / "cats.jpg") as photo:
        photo.resize((300, 200)).save("my-photos/images/a.png")
    objects = [{"category": "dog", "rle": encode_rle(mask)} for mask in masks]
    line = {"image": "images/a.png", "width": 300, "height": 200, "instances": objects}
    Path("my-photos/annotations.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="session")
def serving():
    """Serves an application while its block lasts: `with serving(app) as address`."""

    @contextmanager
    def serve(app):
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        listening = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join()

    return serve


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'refseg[dev]'")
    installed = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=installed, args=OPTIONS)
        except playwright.Error as error:
            pytest.skip(f"no browser can be started; install Debian's package chromium: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page in an empty profile: `visit(fragment, **options)`. Nothing may fail, or leave this machine."""
    contexts, faults = [], []

    def note_request(request):
        if urlsplit(request.url).scheme not in ("blob", "data") and not request.url.startswith(address):
            faults.append(f"requests {request.url}")

    def note_message(message):
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            faults.append(message.text)

    def open_page(fragment="", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", note_request)
        page.on("console", note_message)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address + fragment)
        page.locator("body[data-ready]").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults
