"""The images of Label Studio's tasks: from the task itself, or from a server that the operator has named.

An address in a task is the word of a client: any other server, this machine included, is never asked.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from types import TracebackType
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx2

from refseg.errors import ImageError, InputError
from refseg.serve.settings import Settings

__all__ = ["TaskImages"]

INLINE = "data:"
MOST_REDIRECTS = 5
"""One after the other: storage in a cloud is often reached by one."""
PARTS_OF_JWT = 3


class TaskImages:
    """Fetches images while its block lasts.

    Args:
        settings: of the server; `label_studio` is named.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.label_studio is not None
        self._base, self._key = settings.label_studio.rstrip("/") + "/", settings.label_studio_key
        self._most = settings.max_bytes
        self._own = _origin(self._base)
        self._allowed = {self._own, *map(_origin, settings.image_hosts)}
        self._at_once = asyncio.Semaphore(settings.batch)
        # Neither a proxy nor a password of the operator's environment is used for addresses that clients send.
        self._http = httpx2.AsyncClient(follow_redirects=False, timeout=settings.seconds, trust_env=False)
        self._headers: dict[str, str] | None = None

    async def __aenter__(self) -> TaskImages:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def fetch(self, address: str) -> bytes:
        """Return the file of an image.

        Args:
            address: as the data of a task has it: a `data:` address, a path of Label Studio, or an address of a server
                that the operator has named.

        Raises:
            ImageError: it is of another server, cannot be fetched, or is too large.
        """
        if address.startswith(INLINE):
            return _inline(address)
        async with self._at_once:
            try:
                return await self._fetch(urljoin(self._base, address))
            except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
                if isinstance(error, InputError):
                    raise
                raise ImageError(f"{_shown(address)}: cannot be fetched: {error or type(error).__name__}") from None

    async def _fetch(self, address: str) -> bytes:
        for _ in range(MOST_REDIRECTS + 1):
            if _origin(address) not in self._allowed:
                raise ImageError(
                    f"{_shown(address)}: is not of a server that this one may ask; --image-host names others"
                )
            headers = await self._authorization() if _origin(address) == self._own else {}
            async with self._http.stream("GET", address, headers=headers) as answer:
                if answer.is_redirect:
                    address = urljoin(address, answer.headers["location"])
                    continue
                if not answer.is_success:
                    raise ImageError(f"{_shown(address)}: cannot be fetched: status {answer.status_code}")
                content = bytearray()
                async for chunk in answer.aiter_bytes():
                    content += chunk
                    if len(content) > self._most:
                        raise ImageError(f"{_shown(address)}: is larger than {self._most / 2**20:g} MiB")
                return bytes(content)
        raise ImageError(f"{_shown(address)}: leads to another address again and again")

    async def _authorization(self) -> dict[str, str]:
        """Return the header with the access token; a personal one is exchanged for one of some minutes.

        https://labelstud.io/guide/access_tokens
        """
        if self._key is None:
            return {}
        if self._headers is None:
            if len(self._key.split(".")) == PARTS_OF_JWT:
                answer = await self._http.post(urljoin(self._base, "api/token/refresh"), json={"refresh": self._key})
                answer.raise_for_status()
                self._headers = {"Authorization": f"Bearer {answer.json()['access']}"}
            else:
                self._headers = {"Authorization": f"Token {self._key}"}
        return self._headers


def _inline(address: str) -> bytes:
    head, _, content = address.partition(",")
    if not head.endswith(";base64"):
        raise ImageError("an image in a task must be in base64: data:image/png;base64,...")
    try:
        return b64decode(content, validate=True)
    except ValueError:
        raise ImageError("an image in a task is not base64") from None


def _origin(address: str) -> tuple[Any, ...]:
    """Return scheme, host and port of an address.

    Raises:
        ValueError: it is malformed.
    """
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _shown(address: str) -> str:
    """Return an address for messages, without its query, which may hold a signature."""
    return address.partition("?")[0][:200]
