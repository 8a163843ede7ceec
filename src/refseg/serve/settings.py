"""What a server is started with: its models, its limits, and who may ask."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from refseg.errors import ConfigError
from refseg.runtimes.choose import RuntimeName

__all__ = ["Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a server; they are sent to its worker processes.

    Raises:
        ConfigError: a limit is not above 0, no model is named, or one is named twice, or an address is none.
    """

    models: tuple[str, ...]
    """Names, folders or Hub names (see `refseg.load`); the first one answers if a request names none."""
    device: str = "auto"
    runtime: RuntimeName = "auto"
    refine: str | None = None
    """See `refseg.load`."""
    max_bytes: int = 16 * 2**20
    """Of a request."""
    max_pixels: int = 25_000_000
    """Of an image: width times height."""
    max_expressions: int = 64
    """Of a request."""
    max_length: int = 500
    """Characters of an expression."""
    queue: int = 64
    """Requests that are received, wait or are computed at once."""
    per_client: int = 16
    """Those of one network address."""
    batch: int = 8
    """Images encoded together; as many decoded images are in memory at most."""
    seconds: float = 60
    """For the upload of a request, and again for its answer."""
    cache_bytes: int = 256 * 2**20
    """Encodings of each model that are kept for questions without the image."""
    answer_bytes: int = 64 * 2**20
    """Answers of each model that are kept for the same question about the same image."""
    cache_seconds: float = 600
    """For which an encoding or an answer is kept after it was last used."""
    token: str | None = None
    """Which requests have to send; None: none."""
    origins: tuple[str, ...] = ()
    """Of web pages of other servers that may ask (CORS)."""
    label_studio: str | None = None
    """The address of a Label Studio whose tasks are pre-annotated; None: of none."""
    label_studio_key: str | None = None
    """Its access token, with which it gives images."""
    image_hosts: tuple[str, ...] = ()
    """Origins of other servers, from which images of its tasks are fetched."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int | float) and value <= 0:
                raise ConfigError(f"{name} must be above 0, got {value}")
        for address in (*filter(None, [self.label_studio]), *self.image_hosts):
            if not _is_server(address):
                raise ConfigError(f"{address}: is no address of a server; give one such as http://localhost:8080")
        if self.label_studio is None and self.image_hosts:
            raise ConfigError("hosts of images are for the tasks of a Label Studio; name that by --label-studio")
        if not self.models:
            raise ConfigError("a server needs a model")
        if len(set(self.models)) != len(self.models):
            raise ConfigError(f"each model is named once, got {', '.join(self.models)}")


def _is_server(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
