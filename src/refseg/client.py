"""A client of `refseg serve`: the same questions as to a model in this process, answered by a server."""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image

from refseg.errors import ConfigError, ImageError, RefsegError, ServerError, one_line
from refseg.inputs.clip_bpe import expression_list
from refseg.inputs.read import BinaryFile, ImageSource, read_image
from refseg.masks import check_rle, decode_rle

__all__ = ["Answer", "Client", "SentImage", "WordAnswer"]

GONE = 404


@dataclass(frozen=True)
class SentImage:
    """An image that a server has encoded. It is kept here too, in case that the server drops it."""

    handle: str
    """By which the server knows it."""
    model: str
    width: int
    """Pixels."""
    height: int
    file: bytes = field(repr=False)


@dataclass(frozen=True)
class WordAnswer:
    """Where a word of an expression looks, by a server."""

    word: str
    """As written."""
    map: Float[ndarray, "h w"] = field(repr=False)
    """0..1, at the size of the image, or smaller: at most 512 pixels at its longer side."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer of a server to one expression; the fields are those of a `Prediction`."""

    expression: str
    score: float
    confidence: float
    empty: bool
    box: tuple[int, int, int, int] | None
    threshold: float
    rle: dict[str, Any] = field(repr=False)
    words: tuple[WordAnswer, ...] | None = field(default=None, repr=False)
    """Where each word looks; None: that was not asked."""

    @property
    def mask(self) -> Bool[ndarray, "H W"]:
        """The predicted mask at the size of the image; nothing where the answer is that nothing fits."""
        return decode_rle(self.rle)


class Client:
    """A connection to a server; its methods may be called from several threads at once.

    Args:
        address: of the server.
        token: of the server, if it wants one.
        seconds: after which a server that does not answer is an error.

    Raises:
        ConfigError: the library httpx2 is not installed.
    """

    def __init__(
        self, address: str = "http://127.0.0.1:8000", *, token: str | None = None, seconds: float = 120
    ) -> None:
        try:
            import httpx2
        except ImportError:
            raise ConfigError("the client needs the library httpx2: pip install 'refseg[client]'") from None
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        # A connection is kept for less time than the server keeps it, so that none is used that the server is closing.
        limits = httpx2.Limits(keepalive_expiry=60)
        self._http = httpx2.Client(base_url=address, headers=headers, timeout=seconds, limits=limits)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        """Return the models of the server, each with its name, family, domain and thresholds; the default one first.

        Raises:
            ServerError: the server cannot be reached, or does not answer.
        """
        values = self._json("GET", "/v1/models")
        with self._expecting():
            return sorted(values["models"], key=lambda model: bool(model["name"] != values["default"]))

    def encode(self, image: ImageSource, *, model: str | None = None) -> SentImage:
        """Send an image, to ask about it without sending it again.

        Args:
            image: a path, an open file, its bytes, a PIL image or an array (see `inputs.read.read_image`).
            model: of the server; None: its default one.

        Raises:
            ImageError: the image is missing or broken.
            ServerError: the server cannot be reached, or does not answer.
        """
        return self._send(_file(image), model)

    def segment(
        self,
        image: ImageSource | SentImage,
        expressions: Iterable[str],
        *,
        model: str | None = None,
        words: bool = False,
    ) -> list[Answer]:
        """Segment the image region that each expression refers to.

        Args:
            image: an image, or one that was sent before, which is sent again if the server has dropped it.
            expressions: a list of texts, one for each target.
            model: of the server; None: that of the image that was sent, or the server's default one.
            words: whether to ask where each word looks, too (see `BaseSegmenter.word_maps`).

        Returns:
            The answers, in the order of the expressions.

        Raises:
            ExpressionError: one text was given instead of a list.
            ImageError: the image is missing or broken.
            ServerError: the server cannot be reached, or does not answer.
        """
        texts = list(expression_list(expressions))
        if not texts:
            return []
        sent = image if isinstance(image, SentImage) else self.encode(image, model=model)
        name = model or sent.model
        question = {"image": sent.handle, "expressions": texts, "model": name, "words": words}
        try:
            values = self._json("POST", "/v1/segment", json=question)
        except ServerError as error:
            if error.status != GONE:
                raise
            question["image"] = self._send(sent.file, name).handle
            values = self._json("POST", "/v1/segment", json=question)
        with self._expecting():
            return [_answer(one, (sent.height, sent.width)) for one in values["predictions"]]

    def _send(self, file: bytes, model: str | None) -> SentImage:
        query = {} if model is None else {"model": model}
        headers = {"Content-Type": "application/octet-stream"}
        values = self._json("POST", "/v1/encode", content=file, params=query, headers=headers)
        with self._expecting():
            return SentImage(values["image"], values["model"], values["width"], values["height"], file)

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        import httpx2

        try:
            response = self._http.request(method, path, **options)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ServerError(f"{self._http.base_url}: cannot be reached: {one_line(error)}") from None
        with self._expecting():
            values = response.json()
            if response.is_success and isinstance(values, dict):
                return values
            raise ServerError(f"the server answers: {values['error']}", status=response.status_code)

    @contextmanager
    def _expecting(self) -> Iterator[None]:
        """Raise a `ServerError` for an answer that has other fields than the block reads."""
        try:
            yield
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, RefsegError):
                raise
            raise ServerError(f"{self._http.base_url}: does not answer as a server of refseg does") from None


def _file(image: ImageSource) -> bytes:
    """Return the bytes of an image file: those that were given, or of a PNG."""
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise ImageError(f"{os.fspath(image)!r} cannot be read: {error.strerror or error}") from None
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, BinaryFile) and not isinstance(image, Image.Image):
        return image.read()
    png = BytesIO()
    read_image(image).save(png, "PNG")
    return png.getvalue()


def _answer(values: dict[str, Any], size: tuple[int, int]) -> Answer:
    box, words = values["box"], values.get("words")
    return Answer(
        expression=values["expression"],
        score=values["score"],
        confidence=values["confidence"],
        empty=values["empty"],
        box=None if box is None else cast("tuple[int, int, int, int]", tuple(box)),
        threshold=values["threshold"],
        rle=check_rle(values["mask"], size=size),
        words=None if words is None else tuple(_word(one, values["words_highest"]) for one in words),
    )


def _word(values: dict[str, Any], highest: float) -> WordAnswer:
    # The largest map of an honest server has 512 x 512 pixels.
    grey = read_image(b64decode(values["map"], validate=True), max_pixels=512**2).convert("L")
    return WordAnswer(values["word"], np.asarray(grey, np.float32) * np.float32(highest / 255))
