"""The parts of a server alone: kept encodings, batches, settings and sockets."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from socket import IPPROTO_TCP

import pytest

from refseg.errors import ConfigError
from refseg.serve.batching import Batcher
from refseg.serve.kept import Kept
from refseg.serve.run import listen, load_models
from refseg.serve.settings import Settings


def test_the_least_recently_used_values_are_dropped():
    kept: Kept[str, bytes] = Kept(len, 100, 600)
    for name in "abc":
        kept.add(name, bytes(30))
    assert kept.get("a")
    kept.add("d", bytes(30))
    assert [name for name in "abcd" if kept.get(name)] == ["a", "c", "d"]
    assert kept.bytes == 90
    kept.add("e", bytes(500))  # the newest one, whatever its size
    assert [name for name in "abcde" if kept.get(name)] == ["e"]
    kept.add("e", bytes(10))
    assert kept.bytes == 10


def test_values_expire():
    now = 0.0
    kept: Kept[str, bytes] = Kept(len, 100, 10, clock=lambda: now)
    kept.add("a", bytes(1))
    kept.add("b", bytes(1))
    now = 9
    assert kept.get("a")
    now = 15
    assert kept.get("b") is None
    assert kept.get("a")
    now = 26
    assert kept.get("a") is None
    assert kept.bytes == 0


def test_items_are_computed_in_batches_of_those_that_are_alike():
    batches, kept, gate = [], {}, threading.Event()

    def compute(items):
        batches.append(list(items))
        gate.wait(10)
        return [10 * item for item in items]

    async def main():
        batcher = Batcher(compute, executor, 2, key=str, alike=lambda item: item % 2, keep=kept.__setitem__)
        asking = [batcher(item) for item in (1, 2, 3, 4, 5, 6, 8, 8)]
        while not batches:
            await asyncio.sleep(0)
        asking += [batcher(item) for item in (3, 5)]  # one of them is computed already
        asking[3].cancel()  # its caller is gone
        gate.set()
        return await asyncio.gather(*asking, return_exceptions=True)

    with ThreadPoolExecutor(1) as executor:
        found = asyncio.run(main())
    found = [value if isinstance(value, int) else None for value in found]
    assert found == [10, 20, 30, None, 50, 60, 80, 80, 30, 50]
    assert batches == [[1, 3], [2, 6], [5], [8]]
    assert kept == {item: 10 * item for batch in batches for item in batch}


def test_an_error_is_that_of_its_item_alone():
    def compute(items):
        return [1 / item for item in items]

    async def main():
        batcher = Batcher(compute, executor, 8, key=str)
        return await asyncio.gather(*map(batcher, (1, 0, 2)), return_exceptions=True)

    with ThreadPoolExecutor(1) as executor:
        first, second, third = asyncio.run(main())
    assert (first, third) == (1, 0.5)
    assert isinstance(second, ZeroDivisionError)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"models": ()}, "a server needs a model"),
        ({"models": ("a", "a")}, "each model is named once, got a, a"),
        ({"models": ("a",), "queue": 0}, "queue must be above 0, got 0"),
        ({"models": ("a",), "seconds": -1.0}, "seconds must be above 0, got -1.0"),
    ],
)
def test_settings_are_checked(values, message):
    with pytest.raises(ConfigError, match=message):
        Settings(**values)


def test_clients_see_the_names_of_model_folders_without_their_paths(model_folder, tmp_path):
    assert list(load_models(Settings(models=(str(model_folder),), device="cpu"))) == ["tiny"]
    (tmp_path / "tiny").mkdir()
    with pytest.raises(ConfigError, match="need different names, got tiny, tiny"):
        load_models(Settings(models=(str(model_folder), str(tmp_path / "tiny"))))


def test_small_packets_are_not_held_back():
    with listen("127.0.0.1", 0) as socket:
        assert socket.proto == IPPROTO_TCP


def test_an_address_that_cannot_be_used():
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1, port {port}: Address already in use"):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"^cannot listen at no.such.host.invalid, port 0: "):
        listen("no.such.host.invalid", 0)
    for port in (-1, 65_536):
        with pytest.raises(ConfigError, match=f"--port must be from 0 to 65535, got {port}"):
            listen("127.0.0.1", port)
