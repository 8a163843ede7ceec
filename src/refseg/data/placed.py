"""The photos of a folder that is written: a link to where they are, or copies."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from refseg.files import replacing

__all__ = ["place_photos"]


def place_photos(folder: Path, files: Iterable[str], out: Path, *, copy: bool) -> None:
    """Make `images` in a folder a link to the folder of the photos, or copy them there; an earlier link is replaced.

    Args:
        folder: of the photos.
        files: which of them are copied, relative to it.
        out: an existing folder.
        copy: whether they are copied.

    Raises:
        OSError: the link or a copy cannot be written.
    """
    images = out / "images"
    if not copy:
        if not images.exists():
            images.symlink_to(folder.resolve(), target_is_directory=True)
        return
    if images.is_symlink():  # of an earlier run
        images.unlink()
    for file in files:
        if not (images / file).exists():
            (images / file).parent.mkdir(parents=True, exist_ok=True)
            with replacing(images / file) as draft:
                draft.write_bytes((folder / file).read_bytes())
