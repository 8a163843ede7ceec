"""The authors' CRIS, built from a clone of their repository, and their steps around it, re-implemented with OpenCV.

Nothing of https://github.com/DerrickWang005/CRIS.pytorch is part of this package.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.inputs.preprocessing import Inputs
from refseg.models.base import Model
from refseg.models.cris.convert import to_reference

__all__ = ["WIDTHS", "authors_model", "authors_pixels", "authors_scores"]

WIDTHS = {"cris-r50": (1024, [512, 1024, 1024]), "cris-r101": (512, [512, 1024, 512])}


def authors_model(clone: Path, model: Model, name: str) -> nn.Module:
    """Build their model, with the weights of ours, in training mode."""
    sys.path.insert(0, str(clone))
    state = {key.removeprefix("module."): value for key, value in to_reference(model.state_dict()).items()}
    clip = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    clip = {key: value for key, value in clip.items() if "connect" not in key}
    archive = SimpleNamespace(eval=lambda: archive, state_dict=lambda: dict(clip))
    width, channels = WIDTHS[name]
    settings = SimpleNamespace(
        clip_pretrain="",
        word_len=model.inputs.word_length,
        fpn_in=channels,
        fpn_out=[256, 512, 1024],
        num_layers=3,
        vis_dim=512,
        num_head=8,
        dim_ffn=2048,
        dropout=0.0,
        intermediate=False,
        word_dim=width,
    )
    # Their package imports a logger that its model does not use.
    with (
        mock.patch("torch.jit.load", return_value=archive),
        mock.patch.dict(sys.modules, {"loguru": SimpleNamespace(logger=None)}),
    ):
        built: nn.Module = importlib.import_module("model.segmenter").CRIS(settings)
    built.load_state_dict(state)
    return built.train()


def authors_pixels(path: Path, inputs: Inputs) -> tuple[Tensor, np.ndarray, tuple[int, int]]:
    """Read an image as they do: decode, warp with cubic interpolation, normalise.

    Returns:
        The pixels (3, S, S), the matrix of the warp, and width and height of the image.
    """
    import cv2

    image = cv2.cvtColor(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    (height, width), side = image.shape[:2], inputs.image_size
    scale = min(side / height, side / width)
    x, y = (side - width * scale) / 2, (side - height * scale) / 2
    matrix = np.array([[scale, 0, x], [0, scale, y]], np.float32)
    border = [255 * value for value in inputs.mean]
    warped = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_CUBIC, borderValue=border)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (inputs.mean, inputs.std))
    return (torch.from_numpy(warped.transpose(2, 0, 1)).float() / 255 - mean) / std, matrix, (width, height)


def authors_scores(logits: Tensor, side: int, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the probabilities of one answer at the size of the image, as they compute them."""
    import cv2

    probability = F.interpolate(logits.sigmoid(), size=(side, side), mode="bicubic", align_corners=True)
    return cv2.warpAffine(
        probability[0, 0].numpy(), cv2.invertAffineTransform(matrix), size, flags=cv2.INTER_CUBIC, borderValue=0.0
    )
