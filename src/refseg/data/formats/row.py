"""What all readers of instance annotations share: where a photo lies, and an instance of a row."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from refseg.data.formats.record import safe_name, shown
from refseg.data.formats.regions import Part, paint
from refseg.errors import DataError
from refseg.masks import encode_rle

__all__ = ["find_image", "painted_instance"]

IMAGE_FOLDERS = ("", "images", "train", "val", "test", "train2017", "val2017", "train2014", "val2014", "JPEGImages")


def find_image(photos: Path, written: Any, *, beside: Path | None = None) -> str:
    """Return the path of a photo relative to the folder of the photos.

    Tools write its path from the folder of the annotations, within another folder or on another machine. If it does not
    lead from the annotations into the folder of the photos, its longest end that names a file there is taken.

    Args:
        photos: the folder of the photos.
        written: a path, as read from a file.
        beside: the folder of the annotations of the photo.

    Raises:
        DataError: it is no path, or there is no such photo.
    """
    if not isinstance(written, str):
        raise DataError(f"expected a file name, got {shown(written)}")
    path = PurePosixPath(written.replace("\\", "/"))
    if beside is not None and not path.is_absolute() and "\0" not in written:
        here, root = (beside / path).resolve(), photos.resolve()
        if here.is_relative_to(root) and here.is_file():
            return here.relative_to(root).as_posix()
    parts = [part for part in path.parts if part not in ("/", "..") and not part.endswith(":")]
    places = [photos / place for place in IMAGE_FOLDERS]
    for start in range(len(parts)):
        file = safe_name("/".join(parts[start:]))
        for place in places:
            if (place / file).is_file():
                return (place / file).relative_to(photos).as_posix()
    raise DataError(f"image {shown(written)} is missing; looked in {photos} and its usual folders of images")


def painted_instance(name: str, kind: str, parts: Iterable[Part], size: tuple[int, int]) -> dict[str, Any]:
    """Return an instance of a row (see `formats.photos`).

    Args:
        name: of its category.
        kind: such as `instance`.
        parts: its region.
        size: height and width of the photo.

    Raises:
        DataError: a part is malformed, or of another size.
    """
    return {"category": name, "kind": kind, "rle": encode_rle(paint(parts, *size).target)}
