"""The weights and inputs of the recorded values of the reference, drawn by numpy instead of stored.

The seed of a weight is a checksum of its name.
"""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent.parent / "data"


def reference_shapes(backbone):
    """Return the shape of each weight in the reference's state dict by name, for `r50` or `r101`."""
    return json.loads(gzip.decompress((DATA / f"cris_{backbone}_state_dict.json.gz").read_bytes()))


def draw(key, shape):
    """Return the weight of a name."""
    r = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if key.endswith("running_var"):
        values = r.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean"):
        values = 0.1 * r.standard_normal(shape)
    elif len(shape) == 1 and key.endswith("weight"):
        values = r.uniform(0.5, 1.0, shape)
    elif len(shape) <= 1:
        values = 0.1 * r.standard_normal(shape)
    elif "token_embedding" in key or "positional_embedding" in key:
        values = 0.05 * r.standard_normal(shape)
    else:
        fan_in = shape[0] if key == "backbone.text_projection" else int(np.prod(shape[1:]))
        values = r.standard_normal(shape) / np.sqrt(fan_in)
    return torch.tensor(np.asarray(values, dtype=np.float32))


def weights(shapes):
    """Return the state dict of the shapes."""
    return {key: draw(key, tuple(shape)) for key, shape in shapes.items()}


def inputs(seed, batch, size, length):
    """Return pixels, tokens and the target."""
    r = np.random.default_rng(seed)
    pixels = torch.tensor(r.standard_normal((batch, 3, size, size)).astype(np.float32))
    tokens = np.zeros((batch, length), np.int64)
    for row in tokens:
        n = int(r.integers(1, length - 2))
        row[: n + 2] = [49406, *r.integers(1, 49000, n), 49407]
    target = torch.tensor((r.random((batch, 1, size // 4, size // 4)) < 0.3).astype(np.float32))
    return pixels, torch.tensor(tokens), target
