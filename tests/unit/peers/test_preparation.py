"""Photos are prepared as the library's own image processors prepare them, without torchvision."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from refseg.errors import WeightsError
from refseg.peers.preparation import Preparation

STATED = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SIZES = [(64, 96), (96, 64), (50, 50), (48, 203), (300, 200), (7, 640), (33, 47)]


@pytest.fixture
def read(tmp_path):
    def prepared(**stated):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(STATED | stated))
        return Preparation.read(tmp_path)

    return prepared


@pytest.mark.parametrize(
    ("kind", "stated"),
    [
        ("GroundingDinoImageProcessorPil", {"size": {"shortest_edge": 80, "longest_edge": 133}, "resample": 2}),
        ("SamImageProcessorPil", {"size": {"longest_edge": 128}, "resample": 2}),
        ("CLIPImageProcessorPil", {"size": {"height": 76, "width": 76}, "resample": 3}),
    ],
)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pixels_equal_those_of_the_librarys_processor(read, kind, stated, height, width):
    library = pytest.importorskip("transformers", exc_type=ImportError)
    rng = np.random.default_rng(height * width)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    processor = getattr(library, kind)(**STATED, **stated, do_pad=False, do_center_crop=False)
    (expected,) = processor(images=[image], return_tensors="np")["pixel_values"]
    found = read(**stated).pixels(image)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pixels_of_sam_3_are_those_of_its_processor_on_torchvision(tmp_path, height, width):
    """Its processor needs torchvision, which resizes bytes by this call of PyTorch."""
    size = {"height": 56, "width": 56}
    stated = {"image_processor": {"size": size, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}}
    (tmp_path / "processor_config.json").write_text(json.dumps(stated))
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    channels = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(channels, (56, 56), mode="bilinear", antialias=True)[0]
    found = Preparation.read(tmp_path).pixels(Image.fromarray(pixels))
    np.testing.assert_allclose(found, (resized.float().numpy() / 255 - 0.5) / 0.5, atol=2 / 255 + 1e-6)


def test_no_side_vanishes(read):
    assert read(size={"longest_edge": 64}, resample=2).resized(1, 1000) == (1, 64)
    assert read(size={"longest_edge": 64, "shortest_edge": 32}, resample=2).resized(1000, 1) == (64, 1)


@pytest.mark.parametrize(
    "broken", ["", "[]", "{}", json.dumps(STATED | {"size": {"height": 8}, "resample": 99}), json.dumps(STATED)]
)
def test_a_broken_file_is_an_error(tmp_path, broken):
    (tmp_path / "preprocessor_config.json").write_text(broken)
    with pytest.raises(WeightsError):
        Preparation.read(tmp_path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(WeightsError):
        Preparation.read(tmp_path)
