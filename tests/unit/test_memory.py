"""What a process frees, it uses again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from refseg.memory import keep_freed_memory

PROGRAM = """
import resource, sys, threading
from refseg.memory import keep_freed_memory
import numpy as np

if sys.argv[1] == "kept":
    keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def use():
    global used
    for number in range(60):
        if number == 10:
            before = faults()
        arrays = [np.ones(2**19) for _ in range(4)]
        del arrays
    used = faults() - before

thread = threading.Thread(target=use)
thread.start()
thread.join()
print(used)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_freed_memory_is_kept_for_the_next_array(monkeypatch):
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX"):
        monkeypatch.delenv(name, raising=False)
    usual, kept = (
        int(subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True).stdout)
        for how in ("usual", "kept")
    )
    assert usual > 5000  # pages of 4 KiB: four arrays of 4 MiB, 50 times, would be 204,800
    assert kept < 100


def test_variables_of_the_environment_decide(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("is changed"))
    keep_freed_memory()


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("is changed"))
    keep_freed_memory()


def test_a_python_without_ctypes_goes_on(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "ctypes", None)
    keep_freed_memory()
