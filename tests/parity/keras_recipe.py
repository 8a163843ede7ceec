"""The weights and inputs of the values recorded from MCN and VLT, made by numpy instead of stored.

The seed of a weight is a checksum of its Keras name. Names and shapes are those of our models: that every one of them
has the recorded gradient shows that they are right.
"""

import zlib

import numpy as np
import torch

GAINS = {
    "mcn": {(512, 256): 48, (1, 1, 512, 1): 24, (1, 1, 1280, 1): 16, (1, 1, 512, 15): 4},
    "vlt": {(256, 1): 4, (3, 3, 256, 1): 32},
}
"""Factors of kernels of some shapes, so that no softmax is flat and no logit tiny."""


def weight(family, name, shape):
    """Return the weight of a Keras name, in Keras' layout."""
    r, last = np.random.default_rng(zlib.crc32(name.encode())), name.split("/")[-1]
    if last == "moving_variance:0":
        values = r.uniform(0.5, 1.5, shape)
    elif last.endswith("gamma:0"):
        values = r.uniform(0.5, 1.0, shape)
    elif len(shape) <= 1:
        values = 0.1 * r.standard_normal(shape)
    else:
        gain = 2 if family == "vlt" and last.endswith(("_Wq:0", "_Wk:0")) else GAINS[family].get(shape, 1)
        values = gain * r.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
    return torch.tensor(np.asarray(values, np.float32))


def weights(family, shapes):
    """Return the weights of the shapes, by Keras' names."""
    return {name: weight(family, name, tuple(shape)) for name, shape in shapes.items()}


def _image(r, batch, size):
    coarse = r.integers(0, 200, (batch, 3, size // 16, size // 16)).repeat(16, axis=2).repeat(16, axis=3)
    return (coarse + r.integers(0, 56, (batch, 3, size, size))).astype(np.float32) / np.float32(255)


def _vectors(r, batch, words):
    vectors = np.zeros((batch, words, 300), np.float32)
    for row in vectors:
        count = int(r.integers(2, words + 1))
        row[:count] = 0.4 * r.standard_normal((count, 300))
    return vectors


def _mask(r, batch, size, cell):
    mask = (r.random((batch, 1, size // cell, size // cell)) < 0.4).astype(np.float32)
    return mask.repeat(cell, axis=2).repeat(cell, axis=3)


def inputs(family, seed, batch, size, words):
    """Return pixels in 0..1, word vectors (zero after the last word), boxes in pixels (zeros for VLT), and the mask."""
    r = np.random.default_rng(seed)
    pixels, vectors = _image(r, batch, size), _vectors(r, batch, words)
    boxes = np.zeros((batch, 4), np.float32)
    for box in boxes if family == "mcn" else ():
        corner = r.integers(0, size // 2, 2)
        box[:] = [*corner, *(corner + r.integers(size // 5, size * 3 // 4, 2))]
    mask = _mask(r, batch, size // 8, 2) if family == "mcn" else _mask(r, batch, size // 2, 4)
    return tuple(map(torch.from_numpy, (pixels, vectors, boxes, mask)))
