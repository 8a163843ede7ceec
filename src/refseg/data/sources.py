"""Where public data sets are downloaded from: the addresses and checksums of their files.

The checksums of these archives are not published, so that none is listed: `refseg.data.prepare` records the checksum of
the first download and compares later ones with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType

from refseg.archives import is_file_name
from refseg.download import check_sha256, check_url
from refseg.errors import ConfigError

__all__ = ["CATALOGUE", "COCO_IMAGES", "IMAGES", "Source"]

COCO_IMAGES = "http://images.cocodataset.org/train2014/"
"""The folder of COCO's images, which have no checksums."""
IMAGES = "images"
"""The folder of all images, below the root folder."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to download, and where it belongs."""

    name: str
    """Its file name. Archives (.zip, .tar, .tar.gz, .tgz) are unpacked, other files are stored as they are."""
    urls: tuple[str, ...] = ()
    """Its addresses, in order of preference."""
    sha256: str | None = None
    size: int | None = None
    unpack_to: str = ""
    """A folder below the root folder; `""` is the root folder itself. Images belong below `images`."""
    holds: tuple[str, ...] = ()
    """Files or folders below the root folder that are unpacked from it. If all exist, it is not downloaded."""

    def __post_init__(self) -> None:
        if not is_file_name(self.name):
            raise ConfigError(f"{self.name!r} is not a file name")
        for path in (self.unpack_to, *self.holds):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
                raise ConfigError(f"{self.name}: {path!r} is not below the root folder")
        if self.size is not None and self.size < 0:
            raise ConfigError(f"{self.name}: its size cannot be {self.size}")
        if self.sha256 is not None:
            check_sha256(self.sha256)
        for url in self.urls:
            check_url(url)

    @property
    def is_images(self) -> bool:
        """Whether it is an archive of images."""
        return PurePosixPath(self.unpack_to).parts[:1] == (IMAGES,)


def _annotations(name: str, capture: str, references: str) -> Source:
    # The authors' server has been answering 503 since 2022; the Internet Archive has copies.
    return Source(
        name=f"{name}.zip",
        urls=(f"https://web.archive.org/web/{capture}/https://bvisionweb1.cs.unc.edu/licheng/referit/data/{name}.zip",),
        unpack_to=name,
        holds=(f"{name}/instances.json", f"{name}/{references}"),
    )


CATALOGUE: MappingProxyType[str, tuple[Source, ...]] = MappingProxyType(
    {
        "refcoco": (_annotations("refcoco", "20220413011718", "refs(unc).p"),),
        "refcoco+": (_annotations("refcoco+", "20220413011656", "refs(unc).p"),),
        "refcocog": (_annotations("refcocog", "20220413012904", "refs(umd).p"),),
        "refclef": (
            _annotations("refclef", "20220413011817", "refs(unc).p"),
            Source(
                name="saiapr_tc-12.zip",
                urls=(
                    "https://web.archive.org/web/20220515000000/"
                    "http://bvisionweb1.cs.unc.edu/licheng/referit/data/images/saiapr_tc-12.zip",
                ),
                unpack_to="images/saiapr_tc-12",
                holds=("images/saiapr_tc-12",),
            ),
        ),
    }
)
"""The files of each data set, its annotations first. A set without an archive of images uses single COCO images."""
