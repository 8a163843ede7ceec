"""Unpacks untrusted archives: nothing leaves the folder, sizes are limited, and nothing but files is created."""

from __future__ import annotations

import filecmp
import gzip
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from refseg.download import is_disk_full, reason
from refseg.errors import DataError, RefsegError

__all__ = ["archive_type", "is_file_name", "magic_number", "unpack"]

MAGIC = {".zip": (0, b"PK\x03\x04"), ".tar.gz": (0, b"\x1f\x8b"), ".tgz": (0, b"\x1f\x8b"), ".tar": (257, b"ustar")}
"""The supported types, each with offset and content of its magic number."""
CHUNK = 2**16
LARGEST_CONTENT = 16 * 2**30
MOST_FILES = 200_000
MACOS = frozenset({"__MACOSX", ".DS_Store"})
"""What macOS adds to its archives; left out."""


def archive_type(name: str) -> str | None:
    """Return the type of an archive by its file name, such as `.tar.gz`; None if it is not a supported archive."""
    return next((suffix for suffix in MAGIC if name.lower().endswith(suffix)), None)


def magic_number(name: str) -> tuple[int, bytes] | None:
    """Return offset and content of the magic number that an archive of this file name has; None for other files."""
    suffix = archive_type(name)
    return None if suffix is None else MAGIC[suffix]


def is_file_name(name: str) -> bool:
    """Return whether a string can be the name of one file in a folder, on any operating system."""
    return bool(re.fullmatch(r"[^\x00-\x1f/\\:]{1,240}", name)) and name not in (".", "..")


def unpack(
    archive: str | Path,
    folder: str | Path,
    *,
    top: str = "",
    largest: int = LARGEST_CONTENT,
    most: int = MOST_FILES,
    remedy: str = "replace it and run it again",
) -> int:
    """Unpack an untrusted archive and return its number of files; they are moved into the folder when all are unpacked.

    Nothing is written outside the folder, and nothing but files and folders is created. An existing file is never
    overwritten by a different one.

    Args:
        archive: A .zip, .tar, .tar.gz or .tgz.
        folder: Where its content is put.
        top: Folders that are removed when they are alone at the top of the archive: with `a/b`, `a`, `b` and `a/b`.
        largest: The most bytes that it may contain.
        most: The most files and folders that it may contain.
        remedy: What to do about a broken archive, for the error message.

    Raises:
        DataError: The archive is broken or unsafe, or its content cannot be written.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        archive.open("rb").close()
    except OSError as error:
        raise DataError(f"{archive}: cannot be read: {reason(error)}") from None
    # On the disk of the target folder, which may be a link to another one.
    temporary = (folder if folder.is_dir() else folder.parent) / f".{archive.name}.unpacking"
    try:
        if temporary.exists():  # from a run that was killed
            shutil.rmtree(temporary)
        content = temporary / "content"
        content.mkdir(parents=True)
        count = _write_members(archive, content, largest, most)
        content = _without_top(content, PurePosixPath(top).parts)
        if folder.is_dir():
            _merge(content, folder, archive)
        else:
            content.replace(folder)
        return count
    except RefsegError:
        raise
    except OSError as error:  # of writing: those of reading are `_BrokenError`
        then = "free some space and run it again" if is_disk_full(error) else "choose another folder"
        raise DataError(f"{archive}: cannot be unpacked into {folder}: {reason(error)}; {then}") from None
    # The parsers raise many kinds of exceptions on untrusted bytes.
    except Exception:
        raise DataError(f"{archive}: a broken archive; {remedy}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _BrokenError(Exception):
    """An archive cannot be read; zipfile and gzip raise an OSError for some faults in the content."""


def _write_members(archive: Path, folder: Path, largest: int, most: int) -> int:
    """Write all files of an archive into an empty folder and return their number."""
    count = written = 0
    for number, (name, size, read) in enumerate(_members(archive), 1):
        if number > most:
            raise DataError(f"{archive}: contains more than {most} files, which is too many")
        path = folder / _safe_path(name, archive)
        if MACOS & set(path.parts):
            continue
        if read is None:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("xb")
        except FileExistsError:
            raise DataError(f"{archive}: contains {name!r} twice") from None
        with file:
            # The size that an archive states may be wrong, so that the bytes are counted too.
            while written + size <= largest and (chunk := _chunk(read)):
                written, size = written + len(chunk), max(size - len(chunk), 0)
                file.write(chunk)
        if written + size > largest:
            raise DataError(f"{archive}: contains more than {largest} bytes, which is too much")
        count += 1
    return count


def _members(archive: Path) -> Iterator[tuple[str, int, Callable[[int], bytes] | None]]:
    """Yield names, sizes and functions that read the content; None for a folder."""
    try:
        yield from _zip_members(archive) if archive_type(archive.name) == ".zip" else _tar_members(archive)
    except OSError as error:
        if isinstance(error, RefsegError):
            raise
        raise _BrokenError from error


def _chunk(read: Callable[[int], bytes]) -> bytes:
    try:
        return read(CHUNK)
    except OSError as error:
        raise _BrokenError from error


def _zip_members(archive: Path) -> Iterator[tuple[str, int, Callable[[int], bytes] | None]]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(_special(archive, member.filename))
            if member.flag_bits & 1:
                raise DataError(f"{archive}: {member.filename!r} is encrypted")
            if member.is_dir():
                yield member.filename, 0, None
            else:
                with opened.open(member) as content:
                    yield member.filename, member.file_size, content.read


def _tar_members(archive: Path) -> Iterator[tuple[str, int, Callable[[int], bytes] | None]]:
    with (
        archive.open("rb") if archive_type(archive.name) == ".tar" else gzip.open(archive) as stream,
        tarfile.open(fileobj=stream, mode="r:") as opened,
    ):
        for member in opened:
            if member.isdir():
                yield member.name, 0, None
            elif member.isreg() and (content := opened.extractfile(member)) is not None:
                with content:
                    yield member.name, member.size, content.read
            else:
                raise DataError(_special(archive, member.name))
        # gzip's checksum follows the end of the tar.
        while stream.read(CHUNK):
            pass


def _special(archive: Path, name: str) -> str:
    return f"{archive}: {name!r} is a link or a device, which is not unpacked; nothing was unpacked"


def _safe_path(name: str, archive: Path) -> PurePosixPath:
    """Return the path of a member if it stays within the folder on any operating system.

    Raises:
        DataError: It does not.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not all(is_file_name(part) for part in path.parts):
        raise DataError(f"{archive}: {name!r} would be outside its folder; nothing was unpacked")
    return path


def _without_top(folder: Path, names: Sequence[str]) -> Path:
    """Return the folder below those that are alone at the top and have one of the names."""
    while len(inside := list(folder.iterdir())) == 1 and inside[0].is_dir() and inside[0].name in names:
        folder = inside[0]
    return folder


def _merge(content: Path, folder: Path, archive: Path) -> None:
    """Move files into an existing folder, without overwriting any that is different.

    Raises:
        DataError: One is different; none has been moved.
    """
    files = sorted(path.relative_to(content) for path in content.rglob("*") if path.is_file())
    for file in files:
        existing = folder / file
        if existing.exists() and not (existing.is_file() and filecmp.cmp(content / file, existing, shallow=False)):
            raise DataError(
                f"{existing} exists and differs from the one in {archive.name}; move it away and run it again"
            )
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (content / file).replace(folder / file)
