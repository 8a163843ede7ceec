"""What several rooms' tests share: an http server on this machine, and outcomes with given IoUs."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from urllib.parse import unquote

import pytest

from refseg.evaluation.metrics import Outcome

PAGE = b"<!DOCTYPE html>\n<html><body>Please log in.</body></html>\n"


class Site:
    """A server of the `files` by path; `behaviour` says for each path how its next requests are answered."""

    page = PAGE

    def __init__(self):
        self.files, self.behaviour, self.requests = {}, {}, []
        self.stalled, self.closing = 0, threading.Event()
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                site.answer(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def put(self, path, content, behaviour=()):
        """Serve a file and return its address."""
        self.files[path], self.behaviour[path] = content, iter(behaviour)
        return self.address + path

    @property
    def ranges(self):
        return [requested for _, requested, _ in self.requests]

    @property
    def paths(self):
        return [path for path, _, _ in self.requests]

    def answer(self, request):
        path = unquote(request.path)
        requested, version = request.headers.get("Range"), request.headers.get("If-Range")
        self.requests.append((path, requested, version))
        content = self.files.get(path)
        how, _, detail = next(self.behaviour.get(path, iter(())), "correct").partition(" ")
        if content is None or how.isdigit():
            request.send_response(int(how) if content is not None else 404)
            if detail:
                request.send_header("Retry-After", detail)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if how == "redirect":
            request.send_response(302)
            request.send_header("Location", detail)
            request.end_headers()
            return
        if how == "html":
            content = PAGE
        if how == "corrupt":
            content = content[:1000] + bytes(len(content) - 1000)
        tag = f'"{hashlib.sha256(content).hexdigest()[:12]}"'
        start = int(re.fullmatch(r"bytes=(\d+)-", requested)[1]) if requested and how != "rangeless" else 0
        if version not in (None, tag) and how != "ignores-if-range":
            start = 0
        if start and start >= len(content):
            request.send_response(416)
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if how != "untagged":
            request.send_header("ETag", tag)
        if how != "lengthless":
            request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        body = content[start:]
        if how in ("breaks", "untagged", "stalls"):
            body = body[: len(body) // 2]
        request.wfile.write(body)
        if how == "stalls":
            self.stalled += 1
            self.closing.wait(60)
            self.stalled -= 1


@pytest.fixture
def site(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    site = Site()
    yield site
    site.close()


@pytest.fixture
def make_outcome():
    """Makes an outcome from its number, its image and its IoU in hundredths, None where nothing fits."""

    def outcome(number, image, hundredths):
        return Outcome(
            id=f"{number:04}",
            reference=f"{number:04}",
            image=str(image),
            expression="the left cup" if number % 2 else "cup",
            present=hundredths is not None,
            intersection=hundredths or 0,
            union=100,
            predicted_pixels=100 if hundredths is None else hundredths,
            target_pixels=0 if hundredths is None else 100,
            image_pixels=10_000,
            score=0.5,
            empty=hundredths == 0,
        )

    return outcome
