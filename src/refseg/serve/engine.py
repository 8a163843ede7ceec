"""One model of a server: bytes of images and expressions of many clients in, predictions out."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Hashable, Sequence
from concurrent.futures import Executor

from PIL import Image

from refseg.inputs.read import read_image
from refseg.segmenter import BaseSegmenter
from refseg.serve.batching import Batcher
from refseg.serve.kept import Kept
from refseg.serve.metrics import Metrics, Timings
from refseg.serve.settings import Settings
from refseg.values import Encoding, Prediction, WordMap

__all__ = ["Engine"]


class Engine:
    """A model that answers many clients: images are encoded together, and expressions about one image together.

    The same image is encoded once, and the same expression about it answered once, as long as the result is kept.

    Args:
        name: of the model.
        segmenter: the model.
        settings: of the server.
        computer: the one thread in which all models compute; PyTorch uses the cores itself.
        workers: the threads in which images are decoded.
        decoded: is held for each decoded image.
        metrics: of the server.
    """

    def __init__(
        self,
        name: str,
        segmenter: BaseSegmenter,
        settings: Settings,
        computer: Executor,
        workers: Executor,
        decoded: asyncio.Semaphore,
        metrics: Metrics,
    ) -> None:
        self.name, self.segmenter = name, segmenter
        self.kept: Kept[str, Encoding] = Kept(_encoding_bytes, settings.cache_bytes, settings.cache_seconds)
        self._answers: Kept[Hashable, Prediction] = Kept(_answer_bytes, settings.answer_bytes, settings.cache_seconds)
        self._coming: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._max_pixels, self._workers, self._decoded, self._metrics = settings.max_pixels, workers, decoded, metrics
        self._encode = Batcher(self._encode_images, computer, settings.batch, key=id)
        self._segment = Batcher(
            self._answer_texts,
            computer,
            settings.max_expressions,
            key=_itself,
            alike=lambda question: question[0],
            keep=lambda question, answer: self._answers.add(_answer_key(*question), answer),
        )
        self._look = Batcher(self._word_maps, computer, settings.batch, key=_itself)

    async def encode(self, handle: str, data: bytes, timings: Timings) -> Encoding:
        """Return the encoding of an image, and keep it.

        Args:
            handle: of the image.
            data: an image file.
            timings: is given the stages `decode` and `encode`.

        Raises:
            ImageError: the file is no image, broken or too large.
        """
        if (encoding := self.kept.get(handle)) is not None:
            return encoding
        async with self._coming.setdefault(handle, asyncio.Lock()):  # who sends the same image waits for the first one
            if (encoding := self.kept.get(handle)) is not None:
                return encoding
            async with self._decoded:
                with timings("decode"):
                    loop = asyncio.get_running_loop()
                    image = await loop.run_in_executor(self._workers, self._decode, data)
                with timings("encode"):
                    encoding = await self._encode(image)
                self.kept.add(handle, encoding)
                self._metrics.cache.labels(self.name).set(self.kept.bytes)
        return encoding

    async def segment(self, encoding: Encoding, expressions: Sequence[str]) -> list[Prediction]:
        """Return the predictions, in the order of the expressions.

        Raises:
            ExpressionError: an expression is blank.
        """
        found = {text: self._answers.get(_answer_key(encoding, text)) for text in expressions}
        missing = [text for text, answer in found.items() if answer is None]
        answers = await asyncio.gather(*(self._segment((encoding, text)) for text in missing))
        found |= zip(missing, answers, strict=True)
        return [answer for text in expressions if (answer := found[text]) is not None]

    async def word_maps(self, encoding: Encoding, expression: str) -> list[WordMap]:
        """Return where each word of an expression looks, from a model that can tell.

        Raises:
            ExpressionError: the expression is blank.
            ConfigError: the model cannot tell.
        """
        return await self._look((encoding, expression))

    def _decode(self, data: bytes) -> Image.Image:
        return read_image(data, max_pixels=self._max_pixels)

    def _encode_images(self, images: Sequence[Image.Image]) -> list[Encoding]:
        self._metrics.batch("encode", len(images))
        return self.segmenter.encode(list(images), max_pixels=self._max_pixels)

    def _answer_texts(self, questions: Sequence[tuple[Encoding, str]]) -> list[Prediction]:
        """Answer expressions about one image."""
        self._metrics.batch("answer", len(questions))
        return self.segmenter.segment(questions[0][0], [text for _, text in questions])

    def _word_maps(self, questions: Sequence[tuple[Encoding, str]]) -> list[list[WordMap]]:
        return [self.segmenter.word_maps(encoding, expression) for encoding, expression in questions]


def _answer_key(encoding: Encoding, text: str) -> Hashable:
    """Return the key of an answer, which does not hold the encoding: it would stay in memory uncounted."""
    return weakref.ref(encoding), text


def _itself(question: tuple[Encoding, str]) -> Hashable:
    return question


def _encoding_bytes(encoding: Encoding) -> int:
    return sum(array.nbytes for array in encoding.arrays.values())


def _answer_bytes(answer: Prediction) -> int:
    """Return the bytes of the scores, beside which the run lengths of a mask are small."""
    return answer.scores.nbytes
