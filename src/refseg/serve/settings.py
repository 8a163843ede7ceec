"""What a server is started with: its models, its limits, and who may ask."""

from __future__ import annotations

from dataclasses import dataclass

from refseg.errors import ConfigError
from refseg.runtimes.choose import RuntimeName

__all__ = ["Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a server; they are sent to its worker processes.

    Raises:
        ConfigError: a limit is not above 0, no model is named, or one is named twice.
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

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int | float) and value <= 0:
                raise ConfigError(f"{name} must be above 0, got {value}")
        if not self.models:
            raise ConfigError("a server needs a model")
        if len(set(self.models)) != len(self.models):
            raise ConfigError(f"each model is named once, got {', '.join(self.models)}")
