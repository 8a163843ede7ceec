"""What all tests share: shapes and types are checked while they run, and there is a tiny model and a photo to use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jaxtyping

# Before anything imports refseg: the hook rewrites modules as they are loaded. As for mypy, an int is a float.
jaxtyping.install_import_hook("refseg", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from refseg.encoders.clip_resnet import ResNetConfig  # noqa: E402
from refseg.encoders.clip_text import TextConfig  # noqa: E402
from refseg.inputs.preprocessing import Inputs  # noqa: E402
from refseg.models.base import ModelSpec  # noqa: E402
from refseg.models.cris.model import CRIS, CRISConfig  # noqa: E402
from refseg.models.folder import save_model  # noqa: E402
from refseg.predictor import Predictor, load  # noqa: E402
from refseg.values import Decision  # noqa: E402

torch.set_num_threads(1)


def tiny_config() -> CRISConfig:
    """The smallest CRIS that has every part."""
    values = {
        "vision": ResNetConfig(layers=(1, 1, 1, 1), width=4, heads=2, output_dim=16, pretrained_size=64),
        "text": TextConfig(width=16, heads=2, layers=1, output_dim=16),
        "neck_channels": (8, 16, 32),
        "decoder_layers": 1,
        "decoder_heads": 2,
        "decoder_hidden": 32,
    }
    return CRISConfig(**values)


def tiny_spec(**changes) -> ModelSpec:
    inputs, decision = Inputs(image_size=64, word_length=17), Decision(threshold=0.35)
    return ModelSpec(config=tiny_config(), inputs=inputs, decision=decision).changed(**changes)


def tiny_model(seed: int = 0, **changes) -> CRIS:
    torch.manual_seed(seed)
    spec = tiny_spec(**changes)
    return CRIS(spec.config, spec.inputs, spec.decision)


def photo_array(height: int = 64, width: int = 96) -> np.ndarray:
    """A red disc and a blue square on noise."""
    rng = np.random.default_rng(7)
    image = rng.integers(90, 160, (height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    image[(y - height / 2) ** 2 + (x - width / 4) ** 2 < (height / 5) ** 2] = (220, 30, 30)
    image[height // 4 : height // 2, width // 2 : width * 3 // 4] = (30, 30, 220)
    return image


@pytest.fixture(scope="session", autouse=True)
def _no_cache_but_ours(tmp_path_factory):
    """Keeps tests, and the processes that they start, away from the user's cache and from measurements."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("REFSEG_RUNTIME", "onnx")  # measuring takes seconds, and the outcome is that of the machine
        yield


@pytest.fixture
def no_tensorboard(monkeypatch):
    """As if TensorBoard were not installed, whose import takes seconds."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)


@pytest.fixture
def unchecked():
    """Does not check types in a test: for what refseg itself says to arguments of a wrong type."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def make_tiny():
    """Builds a tiny CRIS: `make_tiny(seed=0, **changes)`."""
    return tiny_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A tiny CRIS with random weights, whose threshold splits an image in two."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return save_model(calibrated(tiny_model(seed=3)), folder, name="tiny")


def calibrated(model: CRIS) -> CRIS:
    """Give norms statistics that fit, so that random weights answer with more than one value; all in eval mode."""
    torch.manual_seed(1)
    model.train()
    tokens = torch.randint(1, 1000, (8, model.inputs.word_length))
    tokens[:, -1] = 49_407
    padding = torch.zeros_like(tokens, dtype=torch.bool)
    size = model.inputs.image_size
    with torch.no_grad():
        for _ in range(20):
            logits = model(torch.randn(8, 3, size, size), tokens, padding)
        # The middle of what it answers goes to the threshold.
        model.projector.kernel.bias[-1] -= logits.median() + 0.62
    return model.eval()


@pytest.fixture(scope="session")
def predictor(model_folder) -> Predictor:
    return load(model_folder, "cpu")


@pytest.fixture(scope="session")
def photo_pixels() -> np.ndarray:
    """The photo as an RGB array, (64, 96, 3)."""
    return photo_array()


@pytest.fixture(scope="session")
def photo(tmp_path_factory, photo_pixels) -> Path:
    """The photo as a PNG of 96 x 64."""
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(photo_pixels).save(path)
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photos and references that REFSEG_REAL_DATA names."""
    folder = os.environ.get("REFSEG_REAL_DATA")
    if not folder:
        pytest.skip("REFSEG_REAL_DATA is not set")
    return Path(folder)
