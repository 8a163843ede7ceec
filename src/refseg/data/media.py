"""The image and mask files of a data set: where they lie, and reading them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path, PurePosixPath

from PIL import Image

from refseg.data.formats.record import Source
from refseg.data.formats.regions import Overlap, Painted, Part, paint
from refseg.errors import DataError, ImageError
from refseg.inputs.read import BinaryFile, read_image, read_size

__all__ = ["Media", "existing_folder", "visible_files"]


class Media:
    """Finds and reads the images and masks that records name.

    Files are looked up when they are read and nothing is remembered of where they were, so that files which are moved
    or added later are found. It is small: every sample takes one along to other processes.
    """

    def __init__(self, source: Source, *, images: Path | None = None, overlap: Overlap = "union") -> None:
        """Take the folders of a data set.

        Args:
            source: the data set.
            images: the folder of the images, if they are not with the data.
            overlap: how a pixel counts that several polygons of one annotation cover.

        Raises:
            DataError: there is no such folder of images.
        """
        self.folder, self.mask_folders, self.overlap = source.folder, source.mask_folders, overlap
        self.image_root = source.folder if images is None else existing_folder(images)
        self.image_folders = source.image_folders if images is None else ("", *source.image_folders)
        self.image_endings = source.image_endings
        self.open_image = source.image

    # ── images ──

    def find_image(self, file: str) -> Path:
        """Return the path of an image.

        Raises:
            DataError: there is no such file.
        """
        for name in self._image_names(file):
            for folder in self.image_folders:
                path = self.image_root / folder / name
                if os.path.isfile(path):  # unlike Path.is_file, false where permission is missing
                    return path
        tried = ", ".join(str(self.image_root / folder) for folder in self.image_folders[:3])
        raise DataError(f"image {file} is missing; looked in {tried}{' and more' * (len(self.image_folders) > 3)}")

    def image_name(self, file: str) -> str:
        """Return the name of an image relative to its folder, with the ending that its file has."""
        if not self.image_endings:
            return file
        try:
            return str(PurePosixPath(file).with_suffix(self.find_image(file).suffix))
        except DataError:
            return file

    def _image_names(self, file: str) -> list[str]:
        path = PurePosixPath(file)
        names = (file, *(str(path.with_suffix(end)) for end in self.image_endings if end != path.suffix))
        return [spelling for name in names for spelling in _spellings(name)]

    def read_image(self, file: str, size: tuple[int, int] | None = None) -> Image.Image:
        """Return an image as RGB.

        Raises:
            DataError: it is missing, cannot be read, or is not of the size, (height, width), that its record has.
        """
        path, source = self._image_source(file)
        try:
            image = read_image(source)
        except ImageError as error:
            raise DataError(f"{path}: {error}") from None
        if size is not None and (image.height, image.width) != size:
            raise DataError(f"{path}: is {image.width} x {image.height}, but the data say {size[1]} x {size[0]}")
        return image

    def image_size(self, file: str) -> tuple[int, int]:
        """Return height and width of an image, if possible without decoding it.

        Raises:
            DataError: it is missing or no image.
        """
        path, source = self._image_source(file)
        try:
            return read_size(source)
        except ImageError as error:
            raise DataError(f"{path}: {error}") from None

    def image_bytes(self, file: str) -> bytes:
        """Return the content of an image's file.

        Raises:
            DataError: it is missing.
        """
        if self.open_image is None:
            return self.find_image(file).read_bytes()
        return self.open_image(file).read()

    def _image_source(self, file: str) -> tuple[Path, Path | BinaryFile]:
        """Return the path of an image for messages, and the path or open file to read it from."""
        if self.open_image is None:
            path = self.find_image(file)
            return path, path
        return self.folder / file, self.open_image(file)

    # ── masks ──

    def find_mask(self, name: str, image: str) -> Path:
        """Return the path of a mask.

        Args:
            name: of the mask's file.
            image: the file of the image that it is a mask of. The image itself is never taken for its mask.

        Raises:
            DataError: there is no such file.
        """
        is_image = False
        for folder, spelling in product(self.mask_folders, _spellings(name)):
            path = self.folder / folder / spelling
            if os.path.isfile(path):
                if not self._is_image(path, image):
                    return path
                is_image = True
        if is_image:
            raise DataError(f"the file of its mask, {name}, is that of its image; name another")
        tried = ", ".join(str(self.folder / folder) for folder in self.mask_folders)
        raise DataError(f"mask {name} is missing; looked in {tried}")

    def mask_name(self, name: str, image: str) -> str:
        """Return the name of a mask relative to the data set's folder; in its likeliest place where it is missing."""
        try:
            return self.find_mask(name, image).relative_to(self.folder).as_posix()
        except DataError:
            likely = PurePosixPath(self.mask_folders[0])
            path = PurePosixPath(name)
            return str(path if path.is_relative_to(likely) else likely / path)

    def _is_image(self, path: Path, image: str) -> bool:
        try:
            return self.find_image(image).samefile(path)
        except (DataError, OSError):
            return False

    def paint(
        self, parts: Iterable[Part], height: int, width: int, *, image: str, warnings: list[str] | None = None
    ) -> Painted:
        """Return the masks of a region: of the target, and of the ignored pixels.

        Args:
            parts: the region (see `formats.regions`).
            height: of the image, pixels.
            width: of the image, pixels.
            image: the image's file.
            warnings: is given a message for each mask file that is not black and white.

        Raises:
            DataError: a part is malformed, of another size than the image, or its file is missing.
            ImageError: the file of a mask cannot be read.
        """
        found = [
            {**part, "file": str(self.find_mask(part["file"], image).absolute())} if "file" in part else part
            for part in parts
        ]
        return paint(found, height, width, folder=self.folder, overlap=self.overlap, warnings=warnings)


def existing_folder(path: Path) -> Path:
    """Return a path if it is a folder.

    Raises:
        DataError: it is a file, or does not exist.
    """
    if not path.is_dir():
        raise DataError(f"{path}: is a file, and a folder is needed" if path.exists() else f"{path}: no such folder")
    return path


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and the folders below it, relative to it; hidden ones are left out."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if not any(part.startswith(".") for part in name.parts) and path.is_file():
            yield name


def _spellings(name: str) -> list[str]:
    """Return a file name as written, then in forms that file systems, cameras and archives make of it.

    These are the ending in lower or upper case, and accents as part of their letter or as characters of their own.
    """
    names = []
    for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        path = PurePosixPath(form)
        names += [form, *(str(path.with_suffix(end)) for end in (path.suffix.lower(), path.suffix.upper()))]
    return list(dict.fromkeys(names))
