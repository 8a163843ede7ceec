"""Compares what two runtimes of a model compute, and how long they take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from refseg.inputs.clip_bpe import END_TOKEN, START_TOKEN
from refseg.inputs.preprocessing import Inputs
from refseg.runtimes.base import Runtime, probabilities

__all__ = ["answer_seconds", "largest_deviation"]

TIMED_EXPRESSIONS, TIMED_ROUNDS = 8, 5


def largest_deviation(one: Runtime, other: Runtime, inputs: Inputs) -> float:
    """Compare two runtimes of a model on random images and expressions, in several numbers of both.

    Returns:
        The largest difference of a probability, or of a feature in relation to the largest one.
    """
    rng = np.random.default_rng(0)
    deviations = []
    for images, expressions, length in ((1, 1, inputs.word_length), (3, 5, min(3, inputs.word_length))):
        pixels, tokens, padding = _random_pixels(rng, images, inputs), *_random_tokens(rng, expressions, length, inputs)
        encoded = [runtime.encode(pixels) for runtime in (one, other)]
        deviations += [_relative(encoded[0][name], encoded[1][name]) for name in encoded[0]]
        both = [
            (runtime, {name: part[-1:] for name, part in arrays.items()})
            for runtime, arrays in zip((one, other), encoded, strict=True)
        ]
        expected, found = (probabilities(runtime.decode(image, tokens, padding)) for runtime, image in both)
        deviations.append(float(np.abs(expected - found).max()))
        if one.word_source == "attention":
            expected, found = (runtime.attend(image, tokens, padding) for runtime, image in both)
            deviations.append(float(np.abs(expected - found).max()))
    return float(np.max(deviations))  # not finite if one of them is not


def answer_seconds(runtimes: Sequence[Runtime], inputs: Inputs) -> list[float]:
    """Return how long each runtime takes to encode an image and to answer eight expressions about it.

    They are timed in turn, after a round that is not counted, so that a slow moment slows all of them. The median
    counts.
    """
    rng = np.random.default_rng(0)
    pixels = _random_pixels(rng, 1, inputs)
    tokens, padding = _random_tokens(rng, TIMED_EXPRESSIONS, inputs.word_length, inputs)
    seconds: list[list[float]] = [[] for _ in runtimes]
    for turn in range(1 + TIMED_ROUNDS):
        for runtime, taken in zip(runtimes, seconds, strict=True):
            begun = time.perf_counter()
            runtime.decode(runtime.encode(pixels), tokens, padding)
            if turn:
                taken.append(time.perf_counter() - begun)
    return [statistics.median(taken) for taken in seconds]


def _random_pixels(rng: np.random.Generator, images: int, inputs: Inputs) -> Float[ndarray, "{images} 3 S S"]:
    return rng.standard_normal((images, 3, inputs.image_size, inputs.image_size), dtype=np.float32)


def _relative(expected: Float[ndarray, "..."], found: Float[ndarray, "..."]) -> float:
    return float(np.abs(expected - found).max() / max(np.abs(expected).max(), 1e-6))


def _random_tokens(
    rng: np.random.Generator, count: int, length: int, inputs: Inputs
) -> tuple[Int64[ndarray, "{count} {length}"], Bool[ndarray, "{count} {length}"]]:
    """Return expressions of random tokens and of different lengths, and where they are padding."""
    tokens = np.zeros((count, length), np.int64)
    for row in tokens:
        end = rng.integers(1, length)
        if inputs.tokenizer == "words":
            row[:end] = rng.integers(1, len(inputs.vocabulary) + 1, end)
        else:
            row[: end + 1] = [START_TOKEN, *rng.integers(1, START_TOKEN, end - 1), END_TOKEN]
    return tokens, tokens == 0
