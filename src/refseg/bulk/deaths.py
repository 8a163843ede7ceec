"""Which row a process computed when it died: an image that kills processes again and again is left out.

A decoder may crash, and an image may need more memory than there is. What starts dead processes anew would otherwise do
so forever.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from refseg.files import write_text

__all__ = ["MOST_DEATHS", "Deaths"]

MOST_DEATHS = 3


class Deaths:
    """What is known of the processes that died while they computed one shard.

    The first process notes only that it began. After it died, the next ones note each row before they compute it, one
    at a time.

    Args:
        path: a file of this shard alone; without it, no process began the shard.

    Raises:
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._died: Counter[int] = Counter()
        self.careful = path.exists()
        """Whether a process died, so that `note` has to be called before each row."""
        if self.careful:
            try:
                known = json.loads(path.read_bytes())
                self._died.update({int(row): int(times) for row, times in known["died"].items()})
                if known["row"] is not None:
                    self._died[int(known["row"])] += 1
            except (ValueError, KeyError, TypeError, AttributeError):
                self._died.clear()  # written by hand: the file is replaced whole or not at all
        self._write(None)

    def note(self, row: int) -> bool:
        """Note the row that is computed next, and return whether it may be: not where too many processes died at it.

        Raises:
            OutputError: it cannot be noted.
        """
        if self._died[row] >= MOST_DEATHS:
            return False
        self._write(row)
        return True

    def _write(self, row: int | None) -> None:
        write_text(self._path, json.dumps({"row": row, "died": self._died}))
