"""Files of Keras of MCN and VLT to model folders and back."""

from __future__ import annotations

import re

import h5py
import numpy as np
import pytest
import torch

from refseg.cli.main import main
from refseg.encoders.darknet import DarkNetConfig
from refseg.encoders.keras_file import read_keras, renumbered
from refseg.encoders.word_gru import WordGRUConfig
from refseg.errors import ConfigError, WeightsError
from refseg.models.convert import convert
from refseg.models.families import build
from refseg.models.folder import load_model
from refseg.models.keras_names import from_reference, to_reference
from refseg.models.mcn import convert as mcn_convert
from refseg.models.mcn import model as mcn_model
from refseg.models.vlt import convert as vlt_convert
from refseg.models.vlt import model as vlt_model
from refseg.predictor import Predictor
from refseg.training.start import load_backbone

DARKNET, WORDS = DarkNetConfig(width=1), {"vocabulary_size": 4, "vector_width": 3, "width": 8}
MCN = mcn_model.MCNConfig(
    vision=DarkNetConfig(width=1, debiased=True), text=WordGRUConfig(**WORDS, gates="hard-sigmoid"), width=4
)
VLT = vlt_model.VLTConfig(vision=DARKNET, text=WordGRUConfig(**WORDS), queries=2, width=8, hidden=6)
KINDS = {
    "mcn": (mcn_model.default_spec(MCN), mcn_convert.NAMES),
    "vlt": (vlt_model.default_spec(VLT).changed(image_size=64), vlt_convert.NAMES),
}


def write_keras(state, path):
    """Write weights in the layout of Keras' `save_weights`: a group for each layer, which names its weights."""
    layers = {}
    for name in state:
        layers.setdefault(name.split("/")[0], []).append(name)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, names in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name in names:
                group[name] = state[name].numpy()


@pytest.fixture(params=KINDS)
def kind(request):
    torch.manual_seed(0)
    spec, names = KINDS[request.param]
    model = build(spec).eval()
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return request.param, model, names


@pytest.fixture
def glove(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("the 1 2 3\nleft 4 5 6\ncup 7 8 9\n")
    return path


def test_weights_of_keras_become_a_model_folder_and_return(kind, glove, tmp_path):
    name, model, names = kind
    state = to_reference(model.state_dict(), names)
    write_keras(state, tmp_path / "weights.h5")
    folder = convert(tmp_path / "weights.h5", tmp_path / "model", vectors=glove)
    loaded = load_model(folder)
    assert loaded.family == name
    assert loaded.inputs.vocabulary == ("the", "left", "cup")
    assert loaded.config == model.config
    assert (loaded.inputs.image_size, loaded.inputs.word_length) == (model.inputs.image_size, 15)
    back = to_reference(loaded.state_dict(), names)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    np.testing.assert_array_equal(loaded.text.vectors, [[0, 0, 0], [1, 2, 3], [4, 5, 6], [7, 8, 9]])
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    predictor = Predictor.from_model(loaded, "cpu")
    known, unknown = predictor.segment(predictor.encode(image), ["the cup", "zebra"])
    assert not np.array_equal(known.scores, unknown.scores)


def later(name):
    """Return the name of a layer in a session that has made a hundred layers of its kind already."""
    return re.sub(r"^(conv2d|dense|batch_normalization)_(\d+)", lambda match: f"{match[1]}_{int(match[2]) + 100}", name)


def test_layers_are_counted_from_one(kind):
    _, model, names = kind
    state = to_reference(model.state_dict(), names)
    renamed = {later(key): value for key, value in state.items()}
    assert renamed.keys() != state.keys()
    assert renumbered(renamed).keys() == state.keys()
    found = from_reference(renamed, names)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in found.items())


def test_missing_vectors_are_one_line(kind, tmp_path, capsys):
    _, model, names = kind
    write_keras(to_reference(model.state_dict(), names), tmp_path / "weights.h5")
    assert main(["convert", str(tmp_path / "weights.h5"), str(tmp_path / "model")]) != 0
    error = capsys.readouterr().err
    assert "--vectors" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "model").exists()


def test_weights_of_another_model_are_errors(kind, glove, tmp_path):
    _, model, names = kind
    state = to_reference(model.state_dict(), names)
    path = tmp_path / "weights.h5"
    write_keras({key: value for key, value in state.items() if not key.startswith("conv2d_61/")}, path)
    with pytest.raises(WeightsError):
        convert(path, tmp_path / "model", vectors=glove)
    write_keras({key: value for key, value in state.items() if key.startswith("conv2d_")}, path)
    with pytest.raises(WeightsError, match="neither an MCN nor a VLT"):
        convert(path, tmp_path / "model", vectors=glove)


def test_vectors_without_a_file_of_keras_are_an_error(glove, tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="only needed"):
        convert(tmp_path / "weights.pth", tmp_path / "model", vectors=glove)


def test_broken_files_and_those_that_refer_to_others_are_errors(tmp_path):
    path = tmp_path / "weights.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(WeightsError, match="broken"):
        read_keras(path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.ones(3, np.float32)
    for link, message in (
        (h5py.ExternalLink("other.h5", "secret"), "lies in another file"),
        (np.ones(3, np.int64), "floating-point"),
        (np.full(3, np.nan, np.float32), "not finite"),
    ):
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"layer"]
            group = file.create_group("layer")
            group.attrs["weight_names"] = [b"weight:0"]
            group["weight:0"] = link
        with pytest.raises(WeightsError, match=message):
            read_keras(path)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"layer"]
        group = file.create_group("layer")
        group.attrs["weight_names"] = [b"weight:0"]
        group.create_dataset("weight:0", shape=(10**9,), dtype="f4", chunks=(1000,))
    with pytest.raises(WeightsError, match="larger than the file"):
        read_keras(path)


def test_the_image_encoder_of_a_yolo_is_loaded(kind, tmp_path):
    """Of YOLOv3, whose other layers are left out."""
    _, model, names = kind
    source = build(model.spec)
    keras = to_reference(source.state_dict(), names)
    state = {key: value for key, value in keras.items() if key.startswith(("conv2d_", "batch_normalization_"))}
    darknet = {key: ours.removeprefix("visual.") for key, ours in names.items() if ours.startswith("visual.")}
    path = tmp_path / "yolo.h5"
    write_keras(state, path)
    load_backbone(model, "DarkNet-53", str(path), "mcn-refcoco")
    own, wanted = model.visual.state_dict(), source.visual.state_dict()
    assert len(darknet) == len([key for key in own if not key.endswith("num_batches_tracked")])
    assert all(torch.equal(own[key], wanted[key]) for key in darknet.values())
    write_keras({key: value for key, value in state.items() if not key.startswith("batch_")}, path)
    with pytest.raises(WeightsError, match="missing"):
        load_backbone(model, "DarkNet-53", str(path), "mcn-refcoco")
    with pytest.raises(ConfigError, match=r"YOLOv3 of Keras, \.h5"):
        load_backbone(model, "DarkNet-53", None, "mcn-refcoco")
