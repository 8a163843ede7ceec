"""The folder of the results: which shards are done, what made them, and writing one completely or not at all.

```
SINK/
  run.json                what the run is of: its source, model and settings
  masks/000000.parquet    or .tar; a shard for each of the source
  failed/000000.parquet   questions that could not be answered, with the reason; only where there are some
  done/000000.json        the counts of a shard, written when its other files are complete
```
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from refseg.bulk.rows import Failed
from refseg.bulk.shard_files import FORMATS, AddRow, write_failed
from refseg.config import from_dict
from refseg.errors import ConfigError, OutputError
from refseg.files import replacing, unwritable, write_text

__all__ = ["FAILED", "MASKS", "Counts", "Sink"]

MANIFEST = "run.json"
DONE, FAILED, MASKS, DEATHS = "done", "failed", "masks", "deaths"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a shard holds."""

    images: int = 0
    """With answers."""
    masks: int = 0
    nothing_fits: int = 0
    """Answers that nothing in the image fits."""
    failed: int = 0
    """Questions that could not be answered."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})


@dataclass(frozen=True)
class Sink:
    """A folder that shards are written into, by several processes."""

    folder: Path
    format: str
    """A name of `shard_files.FORMATS`."""

    def begin(self, manifest: Mapping[str, Any]) -> None:
        """Begin a run, or go on with one that has the same manifest.

        Args:
            manifest: all that the results depend on, as JSON values.

        Raises:
            OutputError: the folder has other files, or cannot be written.
            ConfigError: it was begun with another manifest.
        """
        path = self.folder / MANIFEST
        try:
            if not path.exists():
                if self.folder.exists() and any(self.folder.iterdir()):
                    raise OutputError(f"{self.folder}: has files already, and no {MANIFEST}; name a new folder")
                for name in (MASKS, FAILED, DONE, DEATHS):
                    (self.folder / name).mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
            begun = json.loads(path.read_bytes())
            if not isinstance(begun, dict):
                raise ValueError
        except ValueError:
            raise OutputError(f"{path}: is broken; name a new folder") from None
        except OSError as error:
            raise unwritable(self.folder, error) from None
        if other := sorted(key for key in begun.keys() | manifest.keys() if begun.get(key) != manifest.get(key)):
            values = ", ".join(f"{key} {_short(begun.get(key))}, not {_short(manifest.get(key))}" for key in other)
            raise ConfigError(f"{path}: was begun with {values}; give the same, or name a new folder")

    def counts(self, number: int) -> Counts | None:
        """Return what a shard holds; None: it is not done.

        Raises:
            OutputError: the file that says so is broken.
        """
        path = self._path(DONE, number, ".json")
        try:
            return from_dict(Counts, json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, OSError):
            raise OutputError(f"{path}: is broken; remove it, and the shard is computed again") from None

    def deaths(self, number: int) -> Path:
        """Return the path of the file in which a shard's process notes what it computes (see `deaths`)."""
        return self._path(DEATHS, number, ".json")

    @contextmanager
    def masks(self, number: int) -> Iterator[AddRow]:
        """Yield a function that adds an image to a shard, whose file is put in its place at the end.

        Raises:
            OutputError: it cannot be written.
        """
        path = self._path(MASKS, number, f".{self.format}")
        try:
            with replacing(path) as draft, FORMATS[self.format](draft, number) as add:
                yield add
        except OSError as error:
            raise unwritable(path, error) from None

    def finish(self, number: int, failed: Sequence[Failed], counts: Counts) -> None:
        """Write what could not be answered, and that a shard is done, whose masks are complete.

        Raises:
            OutputError: it cannot be written.
        """
        path = self._path(FAILED, number, ".parquet")
        try:
            if failed:
                with replacing(path) as draft:
                    write_failed(failed, draft)
            write_text(self._path(DONE, number, ".json"), json.dumps(asdict(counts)) + "\n")
            self.deaths(number).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(path, error) from None

    def clean(self) -> None:
        """Remove the unfinished files of killed processes, once all shards are done.

        Raises:
            OutputError: one cannot be removed.
        """
        try:
            for name in (MASKS, FAILED, DONE, DEATHS):
                for path in (self.folder / name).glob(".*"):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.folder, error) from None

    def _path(self, kind: str, number: int, suffix: str) -> Path:
        return self.folder / kind / f"{number:06d}{suffix}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
