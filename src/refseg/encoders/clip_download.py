"""Downloads OpenAI's archives of CLIP."""

from __future__ import annotations

from pathlib import Path

from refseg.download import Expected, Retries, download
from refseg.encoders.clip_sizes import clip_sizes
from refseg.files import user_cache

__all__ = ["archive_name", "clip_folder", "download_clip"]

ADDRESS = "https://openaipublic.azureedge.net/clip/models"
# SHA-256 of each archive; it is part of OpenAI's address.
CHECKSUMS = {
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
    "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
    "RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
    "RN50x64": "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "ViT-L/14@336px": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
}
LARGEST_ARCHIVE = 4 * 2**30


def archive_name(name: str) -> str:
    """Return OpenAI's file name of a CLIP: `ViT-L-14-336px.pt` for `ViT-L/14@336px`."""
    return name.replace("/", "-").replace("@", "-") + ".pt"


def clip_folder() -> Path:
    """Return the folder of downloaded archives: `clip` in the user's cache (see `user_cache`)."""
    return user_cache("clip")


def download_clip(
    name: str,
    folder: str | Path | None = None,
    *,
    address: str = ADDRESS,
    retries: Retries = Retries(),  # noqa: B008  (immutable)
) -> Path:
    """Download OpenAI's archive of a CLIP, unless it is already present, and return its path.

    Args:
        name: OpenAI's name, such as `RN50` or `ViT-B/16`.
        folder: Where it is stored; by default `clip_folder()`.
        address: The address of a mirror with the files `<address>/<checksum>/<archive_name(name)>`.
        retries: Time limits and number of attempts.

    Raises:
        UnknownNameError: There is no such CLIP.
        DownloadError: It cannot be downloaded or stored, or is not the expected file.
    """
    clip_sizes(name)
    path = (clip_folder() if folder is None else Path(folder)) / archive_name(name)
    sha256 = CHECKSUMS[name]
    expected = Expected(sha256=sha256, origin="as OpenAI published", limit=LARGEST_ARCHIVE)
    download([f"{address}/{sha256}/{path.name}"], path, expected, retries=retries)
    return path
