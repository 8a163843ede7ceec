"""Memory that is freed and needed again."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

__all__ = ["keep_freed_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of settings of `mallopt` in glibc's malloc.h."""
KEPT = 2**27
"""Bytes of freed memory at the end of a heap, at most."""
LARGEST = 2**25
"""Bytes of the arrays that this is for: the most that glibc accepts."""


def keep_freed_memory() -> None:
    """Let the C library keep what this process frees for what it needs next.

    By default glibc gives the arrays of an answer, a few MiB each, back to the system, which has to fill the pages of
    the next ones with zeros: a tenth of the time of an answer. It is for processes of our own, since it changes the
    whole process. It has no effect with other C libraries, or where variables of the environment
    (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`) decide.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(ImportError, OSError, AttributeError):  # a Python without ctypes, or another C library
        import ctypes

        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, KEPT)
