"""What a server does not accept, and what cannot hold it up: each limit has its status and one clear sentence."""

from __future__ import annotations

import errno
import json
import logging
import socket
import struct
import tempfile
import time
import zlib
from io import BytesIO

import pytest
from PIL import Image

PNG = {"Content-Type": "image/png"}


def error(response):
    """Return the status and the sentence, which is one line without a traceback or a path."""
    (sentence,) = response.json().values()
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    return response.status_code, sentence


def ask(http, server, image, expression="level", **options):
    return http.post(f"{server.address}/v1/segment", files={"image": image}, data={"expression": expression}, **options)


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_too_many_bytes(http, serve, grey):
    server = serve(max_bytes=1000)
    sentence = "the request is larger than 0.000953674 MiB; send a smaller image"
    assert error(ask(http, server, bytes(2000))) == (413, sentence)
    chunks = iter([bytes(600), bytes(600)])  # without a length in the header
    assert error(http.post(f"{server.address}/v1/encode", content=chunks, headers=PNG)) == (413, sentence)
    assert ask(http, server, grey(1)).status_code == 200


def test_too_many_pixels(http, serve, grey):
    server = serve(max_pixels=100)
    status, sentence = error(ask(http, server, grey(1, (20, 10))))
    assert status == 413
    assert sentence.startswith("the given data is too large: 20x10 are 200 pixels, the limit is 100")


def test_too_many_and_too_long_expressions(http, serve, grey):
    server = serve(max_expressions=2, max_length=5)
    assert error(ask(http, server, grey(1), ["a", "b", "c"])) == (
        422,
        "3 expressions are too many; send 2 at most",
    )
    assert error(ask(http, server, grey(1), "abcdef")) == (
        422,
        "an expression of 6 characters is too long; send 5 at most",
    )
    assert ask(http, server, grey(1), ["abcde", "b"]).status_code == 200


@pytest.mark.parametrize(
    ("path", "request_", "status", "sentence"),
    [
        ("segment", {"json": {"image": "x"}}, 422, "expressions: Field required"),
        ("segment", {"json": {"image": "x", "expressions": []}}, 422, "expressions: List should have at least 1 item"),
        ("segment", {"json": {"image": "x", "expressions": "cat"}}, 422, "expressions: Input should be a valid array"),
        ("segment", {"json": {"image": "x", "expressions": ["a"], "mask": "png"}}, 422, "mask: Extra inputs"),
        ("segment", {"json": {"image": "../secret", "expressions": ["a"]}}, 404, "does not have this image"),
        ("segment", {"json": {"image": "http://x/y.png", "expressions": ["a"]}}, 404, "does not have this image"),
        ("segment?masks=png", {"json": {"image": "x", "expressions": ["a"]}}, 422, "has no query"),
        ("segment", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "Invalid JSON"),
        ("segment", {"content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 400, "Invalid JSON"),
        ("segment?expression=a&model=x", {"content": b"", "headers": PNG}, 404, "there is no model of this name"),
        ("segment?expression=+", {"content": b"", "headers": PNG}, 422, "blank"),
        ("segment?expression=a&masks=bmp", {"content": b"", "headers": PNG}, 422, "masks: Input should be 'rle'"),
        ("segment?expression=a&masks=rle&masks=png", {"content": b"", "headers": PNG}, 422, "masks: is given twice"),
        ("segment?expression=a", {"content": b"", "headers": PNG}, 422, "is empty (0 bytes)"),
        ("segment", {"content": b"", "headers": PNG}, 422, "expression: Field required"),
        ("segment", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "not as text/plain"),
        ("segment", {}, 415, "not as nothing"),
        ("segment", {"data": {"expression": "a"}, "files": {"photo": b""}}, 422, "the field image is a file"),
        ("segment", {"data": {"image": "photo.png"}, "files": {"image": b""}}, 422, "the field image is a file"),
        ("segment", {"files": {"expression": (None, "a")}}, 422, "no file in the field image"),
        ("segment", {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        ("encode", {"json": {"image": "x"}}, 415, "not as application/json"),
        ("encode?masks=png", {"content": b"", "headers": PNG}, 422, "masks: Extra inputs"),
        ("nothing", {}, 404, "Not Found"),
    ],
)
def test_malformed_requests(http, serve, path, request_, status, sentence):
    found = error(http.post(f"{serve().address}/v1/{path}", **request_))
    assert found[0] == status, found
    assert sentence in found[1]


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 black pixels in a few kilobytes; its header is true."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def frames(number: int) -> bytes:
    """A GIF of so many frames."""
    file = BytesIO()
    first, second = [Image.new("L", (12, 10), level) for level in (40, 41)]
    first.save(file, "GIF", save_all=True, append_images=[second])
    start, control, frame = file.getvalue().rpartition(b"\x21\xf9\x04")
    assert frame.endswith(b";")
    return start + (control + frame[:-1]) * (number - 1) + b";"


def test_hostile_images(http, serve, grey):
    server = serve()
    photo = grey(9, (200, 200), "JPEG")
    assert error(ask(http, server, photo[: len(photo) // 2]))[0] == 422
    assert error(ask(http, server, b"%!PS-Adobe-3.0\nshowpage"))[0] == 422
    assert error(
        ask(http, server, b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>")
    ) == (
        422,
        "the given data is not an image, or not of a kind that is read here; give JPEG, PNG, WebP, GIF, BMP, TIFF or "
        "another common kind",
    )
    assert error(ask(http, server, bomb()))[0] == 413
    animation = frames(100_000)
    with Image.open(BytesIO(animation[:10_000])) as start:
        start.seek(100)  # the frames are true ones
    assert ask(http, server, animation).status_code == 200  # the first one counts
    assert ask(http, server, grey(1)).status_code == 200


def test_a_broken_image_spoils_no_other(http, serve, grey, together):
    server = serve()
    images = [grey(1), b"nothing", grey(2), grey(3)[:40], grey(4)]
    assert together(lambda image: ask(http, server, image).status_code, images) == [200, 422, 200, 422, 200]


# ── load ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_too_many_requests(http, serve, stub, grey, together, wait_for):
    server = serve(queue=3)
    stub.gate.clear()

    def send(level):
        if level == 5:
            wait_for(lambda: metric(http, server, "refseg_requests_active") == 3)
            response = ask(http, server, grey(level))
            stub.gate.set()
            return response
        return ask(http, server, grey(level))

    *waited, late = together(send, [0, 1, 2, 5])
    assert [response.status_code for response in waited] == [200] * 3
    assert error(late) == (503, "the server has too many requests now; try again in a second")
    assert late.headers["Retry-After"] == "1"
    assert ask(http, server, grey(6)).status_code == 200


def test_too_many_requests_of_one_client(http, serve, stub, grey, together, wait_for):
    server = serve(per_client=1)
    stub.gate.clear()

    def send(level):
        if level:
            wait_for(lambda: metric(http, server, "refseg_requests_active") == 1)
            response = ask(http, server, grey(level))
            stub.gate.set()
            return response
        return ask(http, server, grey(level))

    first, second = together(send, [0, 1])
    assert first.status_code == 200
    assert error(second) == (429, "send 1 requests at once at most; try again in a second")
    assert second.headers["Retry-After"] == "1"


def metric(http, server, name):
    lines = http.get(f"{server.address}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_an_answer_that_takes_too_long(http, serve, stub, grey, wait_for):
    server = serve(seconds=0.3)
    stub.gate.clear()
    assert error(ask(http, server, grey(1))) == (504, "the answer took longer than 0.3 seconds; ask less, or later")
    stub.gate.set()
    wait_for(lambda: ask(http, server, grey(2)).status_code == 200)


def test_models_that_are_still_loaded(http, serve, stub):
    server = serve()
    server.config.app.state.service.engines.clear()
    for path in ("/ready", "/v1/models"):
        response = http.get(server.address + path)
        assert error(response) == (503, "the models are being loaded; try again in a second")
        assert response.headers["Retry-After"] == "1"
    assert http.get(f"{server.address}/health").json() == {"status": "ok"}


# ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────────


def opened(server, length, path="encode", kind="image/png"):
    """Open a connection, and send the head of a request with a body of this length."""
    connection = socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2])))
    connection.sendall(
        f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()
    )
    return connection


def test_a_slow_upload_holds_up_no_other_and_ends(http, serve, grey, wait_for):
    server = serve(seconds=0.5)
    with opened(server, 1000) as slow:
        slow.sendall(b"x")
        wait_for(lambda: ask(http, server, grey(1)).status_code == 200)
        slow.settimeout(60)
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_clients_that_are_gone_in_mid_upload_leave_nothing_behind(http, serve, grey, wait_for):
    server = serve(queue=2)
    for _ in range(5):
        with opened(server, 1000) as connection:
            connection.sendall(b"x")
            wait_for(lambda: metric(http, server, "refseg_requests_active") == 1)
        wait_for(lambda: metric(http, server, "refseg_requests_active") == 0)
    assert ask(http, server, grey(1)).status_code == 200
    assert metric(http, server, 'refseg_requests_total{path="/v1/encode",status="499"}') == 5


@pytest.mark.slow
def test_a_client_that_does_not_read_its_answer_ends(http, serve, stub, grey, wait_for):
    server = serve(seconds=3, max_length=10**7)
    image = http.post(f"{server.address}/v1/encode", files={"image": grey(1)}).json()["image"]
    question = json.dumps({"image": image, "expressions": ["a" * 10**6] * 12}).encode()
    with opened(server, len(question), "segment", "application/json") as connection:
        connection.sendall(question)
        wait_for(lambda: stub.answered)
        wait_for(lambda: metric(http, server, "refseg_requests_active") == 0)
    assert ask(http, server, grey(1)).status_code == 200


def test_what_was_received_is_answered_before_the_server_stops(http, serve, stub, grey, together, wait_for):
    server = serve()
    stub.gate.clear()

    def send(level):
        if level:
            wait_for(lambda: metric(http, server, "refseg_requests_active") == 1)
            server.end()
            time.sleep(0.3)
            stub.gate.set()
            return None
        return ask(http, server, grey(level)).status_code

    assert together(send, [0, 1])[0] == 200


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_that_fails(http, serve, stub, grey, caplog, wait_for):
    server = serve()
    stub.fault = RuntimeError("out of memory at /secret/path")
    with caplog.at_level(logging.ERROR):
        assert error(ask(http, server, grey(1))) == (500, "the server failed at this request; its log says why")
        wait_for(lambda: caplog.records)
    assert [record.getMessage().strip() for record in caplog.records] == ["Exception in ASGI application"]
    assert "out of memory" in caplog.text
    stub.fault = None
    assert ask(http, server, grey(1)).status_code == 200


def test_a_full_disk_fails_no_upload(http, serve, grey, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", full)
    image = grey(7, (1500, 1500), "BMP")
    assert len(image) > 2**21
    assert ask(http, serve(), image).status_code == 200


# ── who may ask ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token(http, serve, grey):
    server = serve(token="s3cret")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
        response = ask(http, server, grey(1), headers=headers)
        assert error(response) == (401, "send the token of this server: Authorization: Bearer TOKEN")
        assert response.headers["WWW-Authenticate"] == "Bearer"
        for path in ("/v1/models", "/metrics"):
            assert http.get(server.address + path, headers=headers).status_code == 401
    assert ask(http, server, grey(1), headers={"Authorization": "Bearer s3cret"}).status_code == 200
    for path in ("/health", "/ready", "/openapi.json"):
        assert http.get(server.address + path).status_code == 200


def test_pages_of_other_servers(http, serve):
    origin = {"Origin": "https://example.org"}
    closed, opened = serve(), serve(origins=("https://example.org",))
    assert "Access-Control-Allow-Origin" not in http.get(f"{closed.address}/v1/models", headers=origin).headers
    allowed = http.get(f"{opened.address}/v1/models", headers=origin).headers["Access-Control-Allow-Origin"]
    assert allowed == "https://example.org"
    other = http.get(f"{opened.address}/v1/models", headers={"Origin": "https://example.net"})
    assert "Access-Control-Allow-Origin" not in other.headers


def test_every_answer_restricts_the_browser(http, serve):
    address = serve().address
    for path in ("/health", "/nonsense", "/docs", "/page/../settings.py", "/page/%2e%2e/settings.py"):
        headers = http.get(address + path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src" in headers["Content-Security-Policy"]
    assert http.get(f"{address}/page/%2e%2e/settings.py").status_code == 404
