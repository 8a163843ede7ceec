"""`refseg serve` as a process: it starts, answers, stops, and says in one line what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from subprocess import PIPE

import httpx2
import psutil
import pytest

from refseg.cli.main import main

TIMEOUT = 240


@contextmanager
def server(*words):
    """Start the command, and return its process and address."""
    command = [sys.executable, "-m", "refseg", "serve", "--port", "0", *map(str, words)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with subprocess.Popen(command, env=environment, stdout=PIPE, stderr=PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip()
            if address:
                end = time.monotonic() + TIMEOUT
                while not ready(address) and process.poll() is None:
                    assert time.monotonic() < end, "it does not start"
                    time.sleep(0.05)
            yield process, address
        finally:
            process.kill()


def ready(address) -> bool:
    try:
        return httpx2.get(f"{address}/ready", trust_env=False, timeout=5).is_success
    except httpx2.TransportError:
        return False


def ask(address, photo, **options):
    form = {"expression": ["the red disc"]}
    files = {"image": photo.read_bytes()}
    return httpx2.post(f"{address}/v1/segment", files=files, data=form, trust_env=False, timeout=30, **options)


def answered(address, photo):
    """What one of the processes answers; while one has not loaded its models, it answers 503."""
    end = time.monotonic() + TIMEOUT
    while (answer := ask(address, photo)).status_code == 503:
        assert time.monotonic() < end, "it does not start"
        time.sleep(0.1)
    return answer.json()


@pytest.mark.slow
def test_it_starts_answers_and_stops(model_folder, photo, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret\n", encoding="utf-8")
    with server("--model", model_folder, "--token-file", token) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        assert ask(address, photo).status_code == 401
        values = ask(address, photo, headers={"Authorization": "Bearer s3cret"}).json()
        assert values["model"] == "tiny"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
        assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_several_processes(model_folder, photo):
    with server("--model", model_folder, "--workers", "2") as (process, address):
        threads = {child.environ()["OMP_NUM_THREADS"] for child in psutil.Process(process.pid).children()}
        assert str(max(1, os.cpu_count() // 2)) in threads
        images = {answered(address, photo)["image"] for _ in range(20)}
        assert len(images) <= 2  # each process has its own names of images
        text = httpx2.get(f"{address}/metrics", trust_env=False).text
        assert 'refseg_requests_total{path="/v1/segment",status="200"} 20.0' in text
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.slow
def test_a_process_that_is_killed_under_load_is_replaced(model_folder, photo):
    with server("--model", model_folder, "--workers", "2") as (parent, address):
        expected = answered(address, photo)["predictions"]
        children = psutil.Process(parent.pid).children
        before = {child.pid for child in children()}
        victim = max(children(), key=lambda child: child.create_time())
        stop, wrong, lost = threading.Event(), [], []

        def client():
            while not stop.is_set():
                try:
                    answer = ask(address, photo)
                except httpx2.TransportError:  # it was with the process that is gone
                    lost.append(time.monotonic())
                else:
                    right = answer.status_code == 503 or answer.json().get("predictions") == expected
                    wrong.extend([] if right else [answer.text])

        clients = [threading.Thread(target=client) for _ in range(4)]
        for one in clients:
            one.start()
        victim.kill()
        killed, end = time.monotonic(), time.monotonic() + TIMEOUT
        while {child.pid for child in children()} <= before:
            assert time.monotonic() < end, "it is not replaced"
            time.sleep(0.1)
        replaced = time.monotonic()
        while not ready(address):
            time.sleep(0.1)
        stop.set()
        for one in clients:
            one.join(30)
        assert not wrong
        assert all(killed - 1 <= moment <= replaced + 15 for moment in lost), "answers are lost though none died"
        assert answered(address, photo)["predictions"] == expected
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(20) == 0


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_it(tmp_path):
    for workers in ("1", "2"):
        with server("--model", tmp_path, "--workers", workers) as (process, _):
            assert process.wait(TIMEOUT) == 2
            lines = process.stderr.read().splitlines()
            assert [line for line in lines if line.startswith("refseg: ")] == lines[-1:]
            assert not any("Traceback" in line for line in lines)


COUNTING = """
import os, pathlib, resource, sys
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
from refseg.serve import run
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    run._try_start(None)
run.Metrics()
files = [path.stat() for path in pathlib.Path(sys.argv[1]).iterdir()]
print(len(files), all(512 * file.st_blocks >= file.st_size for file in files))
"""


def test_what_several_processes_count_has_its_place_on_the_disk_from_the_start(tmp_path):
    command = [sys.executable, "-c", COUNTING, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "3 True\n"
    done = subprocess.run([*command, "full"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"ConfigError: {tmp_path}: several processes add up there what they count" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0"], "refseg: --workers must be at least 1, got 0"),
        (["--queue", "0"], "refseg: queue must be above 0, got 0"),
        (["--model", "photos", "--model", "photos"], "refseg: each model is named once, got photos, photos"),
        (["--host", "203.0.113.1"], "refseg: cannot listen at 203.0.113.1, port 8000: Cannot assign requested address"),
        (["--token-file", "nowhere"], "refseg: nowhere: cannot be read: No such file or directory"),
        (["--port", "x"], "refseg serve: argument --port: invalid int value: 'x'"),
    ],
)
def test_wrong_arguments(capsys, words, message):
    assert main(["serve", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(message)
    assert printed.err.count("\n") == 1


def test_an_empty_token_is_an_error(capsys, monkeypatch):
    monkeypatch.setenv("REFSEG_TOKEN", "")
    assert main(["serve"]) == 2
    assert capsys.readouterr().err.startswith("refseg: the token is empty; write one")
