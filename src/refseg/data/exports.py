"""Writes labels in the formats of other tools, each in a folder of its own; what somebody corrected is not replaced."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from refseg.data.placed import place_photos
from refseg.errors import OutputError, RefsegError
from refseg.files import unwritable, write_text
from refseg.writers.formats import FORMATS
from refseg.writers.labelled import LabelledImage

__all__ = ["export"]

WRITTEN = "formats.json"
"""The file with the checksums that each format's folder may have, as it was written."""
WITH_IMAGES = frozenset({"yolo"})
"""Formats whose readers look for the images in the format's own folder."""


def export(images: Sequence[LabelledImage], formats: Sequence[str], photos: Path, out: Path, *, copy: bool) -> None:
    """Write images in some formats, each into a folder of its name in `out`, completely or not at all.

    Args:
        images: what is written.
        formats: names, of `FORMATS`.
        photos: the folder of the images.
        out: an existing folder. A format's folder of an earlier run is replaced.
        copy: whether photos are copied where a format needs them beside it; otherwise it has a link to them.

    Raises:
        OutputError: a format's folder was changed since it was written, it cannot be written, or two images would have
            the same file in it.
        ConfigError: a format needs a library that is not installed.
    """
    record = out / WRITTEN
    try:
        written: dict[str, list[str]] = json.loads(record.read_bytes()) if record.exists() else {}
        for name in formats:
            folder = out / name
            if folder.exists() and _checksum(folder) not in written.get(name, ()):
                raise OutputError(f"{folder}: was changed after it was written; move it elsewhere to write it anew")
        for name in formats:
            folder, new, old = out / name, out / f".{name}.new", out / f".{name}.old"
            for left in (new, old):  # of a run that was killed
                shutil.rmtree(left, ignore_errors=True)
            new.mkdir()
            try:
                FORMATS[name](images, photos, new)
                if name in WITH_IMAGES:
                    place_photos(photos, [image.file for image in images], new, copy=copy)
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise
            # Both are known until the new folder is in its place, so that a killed run is not taken for a correction.
            known = [_checksum(folder)] if folder.exists() else []
            write_text(record, json.dumps(written | {name: [*known, _checksum(new)]}, indent=2))
            if folder.exists():
                folder.replace(old)
            new.replace(folder)
            written[name] = [_checksum(folder)]
            write_text(record, json.dumps(written, indent=2))
            shutil.rmtree(old, ignore_errors=True)
    except RefsegError:
        raise
    except (OSError, ValueError) as error:
        raise unwritable(out, error) from None


def _checksum(folder: Path) -> str:
    """Return a checksum of the names and the content of all files of a folder, apart from its images."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] != "images" and path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{name.as_posix()}\0{content}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()
