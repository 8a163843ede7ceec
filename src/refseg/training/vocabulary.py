"""The words of the training data, for models that read whole words."""

from __future__ import annotations

import dataclasses
from collections import Counter

from refseg.config import replace
from refseg.data.dataset import ImageData
from refseg.data.shapes import Shapes
from refseg.encoders.word_gru import WordGRUConfig
from refseg.errors import ConfigError
from refseg.inputs.words import UNKNOWN, split_words
from refseg.models.base import ModelSpec
from refseg.training.recipes import Recipe

__all__ = ["vocabulary_of", "with_vocabulary", "with_words"]

RARE = 1
"""Words that occur so often at most are not known to the model, which so learns what to do with unknown words."""
ENOUGH_SCENES = 2_000
"""Generated scenes whose expressions have all words of the generator."""


def vocabulary_of(data: ImageData) -> tuple[str, ...]:
    """Return the words of the expressions of a data set, the most frequent first, and the entry for unknown words."""
    images = min(data.num_images, ENOUGH_SCENES) if isinstance(data, Shapes) else data.num_images
    counts = Counter(
        word
        for image in range(images)
        for sample in data.samples_of(image)
        for expression in sample.expressions
        for word in split_words(expression.text)
    )
    known = sorted((word for word, count in counts.items() if count > RARE), key=lambda word: (-counts[word], word))
    return (UNKNOWN, *known)


def with_vocabulary(recipe: Recipe, data: ImageData) -> Recipe:
    """Return a recipe whose model knows the words of its training data, if it reads whole words and knows none yet.

    Raises:
        ConfigError: No word occurs more than once.
    """
    spec = recipe.model
    if spec is None or spec.inputs.tokenizer != "words" or spec.inputs.vocabulary:
        return recipe
    words = vocabulary_of(data)
    if len(words) == 1:
        raise ConfigError(f"{recipe.data}: no word occurs more than {RARE} time; a model of words needs more text")
    return dataclasses.replace(recipe, model=with_words(spec, words))


def with_words(spec: ModelSpec, words: tuple[str, ...], **sizes: int) -> ModelSpec:
    """Return a spec whose model reads these words.

    Args:
        spec: of a model that reads whole words.
        words: the vocabulary.
        **sizes: further fields of `WordGRUConfig`, for a model that has word vectors.
    """
    text = getattr(spec.config, "text", None)
    if isinstance(text, WordGRUConfig):
        return spec.changed(vocabulary=words, text=replace(text, vocabulary_size=len(words) + 1, **sizes))
    return spec.changed(vocabulary=words, vocabulary_size=len(words) + 1)
