"""EFN: its files, its words, and where it splits; `tests/parity/test_efn.py` compares what it computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refseg.encoders.resnet import WideResNet, WideResNetConfig, without_classifier
from refseg.errors import ConfigError, WeightsError
from refseg.models.convert import convert, read_foreign
from refseg.models.efn.convert import to_reference
from refseg.models.efn.fusion import coordinates, word_map
from refseg.models.efn.model import EFNConfig, default_spec
from refseg.models.families import build
from refseg.models.folder import load_model, read_folder
from refseg.predictor import load

CONFIG = EFNConfig(
    vision=WideResNetConfig(layers=(1, 2, 1, 1), width=8, factor=2),
    vocabulary_size=6,
    width=12,
    coattention_width=8,
    decoder_widths=(4, 8, 12, 16, 24),
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build(default_spec(CONFIG)).eval()


@pytest.fixture
def checkpoint(model, tmp_path):
    """The weights as the authors' code stores them."""
    path = tmp_path / "efn.pth"
    torch.save(to_reference(model.state_dict()), path)
    return path


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("<pad>\nthe\ncup\nleft\non\n<unk>\n")
    return path


def test_weights_of_the_authors_become_a_model_folder_and_go_back(model, checkpoint, words, tmp_path):
    folder = convert(checkpoint, tmp_path / "model", vocabulary=words)
    loaded = load_model(folder)
    assert loaded.spec == default_spec(CONFIG).changed(vocabulary=("the", "cup", "left", "on", "<unk>"))
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    back = torch.load(convert(folder, tmp_path / "back.pth"), weights_only=True)
    stored = torch.load(checkpoint, weights_only=True)
    assert list(back) == list(stored)
    assert all(torch.equal(value, stored[key]) for key, value in back.items())


def test_a_converted_model_answers_texts(checkpoint, words, tmp_path, photo):
    predictor = load(convert(checkpoint, tmp_path / "model", vocabulary=words, image_size=64), "cpu")
    image = predictor.encode(photo)
    first, second = predictor.segment(image, ["the cup on the left", "the saucer"])
    assert first.scores.shape == (64, 64)
    assert first.probability.shape == (64, 96)
    assert not np.array_equal(first.scores, second.scores)


def test_without_its_words_a_model_reads_tokens_alone(checkpoint, tmp_path, photo):
    folder = convert(checkpoint, tmp_path / "model", image_size=64)
    assert read_folder(folder).spec.inputs.vocabulary == ()
    predictor = load(folder, "cpu")
    with pytest.raises(ConfigError, match="--vocabulary"):
        predictor.segment(predictor.encode(photo), ["the cup"])


def test_files_that_do_not_fit_are_errors(model, checkpoint, words, tmp_path):
    words.write_text("the\ncup\n")
    with pytest.raises(ConfigError, match=r"2 lines.*6 tokens"):
        read_foreign(checkpoint, vocabulary=words)
    state = to_reference(model.state_dict())
    torch.save({**state, "lang_c6_1.conv.weight": torch.zeros(1)}, checkpoint)
    with pytest.raises(WeightsError, match="lang_c6_1"):
        read_foreign(checkpoint)
    state.pop("reduced_c3.conv.weight")
    torch.save(state, checkpoint)
    with pytest.raises(WeightsError, match=r"lateral\.2\.conv\.weight"):
        read_foreign(checkpoint)
    assert not (tmp_path / "model").exists()


def test_more_words_than_embeddings_are_an_error():
    with pytest.raises(ConfigError, match=r"7 tokens.*vocabulary_size is 6"):
        build(default_spec(CONFIG).changed(vocabulary=("a", "b", "c", "d", "e", "f")))
    with pytest.raises(ConfigError, match="49408 tokens"):
        build(default_spec(CONFIG).changed(tokenizer="clip"))
    assert build(default_spec(CONFIG).changed(tokenizer="clip", vocabulary_size=49_408)).inputs.tokenizer == "clip"


def test_padding_gets_no_weight():
    torch.manual_seed(0)
    queries, vectors = torch.randn(1, 4, 2, 3), torch.randn(1, 5, 4)
    padding = torch.tensor([[False, False, True, True, True]])
    expected = word_map(queries, vectors[:, :2], padding[:, :2])
    torch.testing.assert_close(word_map(queries, vectors, padding), expected)


def test_coordinates_are_edges_centres_and_sizes():
    found = coordinates(torch.zeros(2, 3, 4, 4))
    assert found.shape == (2, 8, 4, 4)
    # Rows first: the second row of four lies between -0.5 and 0, the last column between 0.5 and 1.
    assert found[1, :, 1, 3].tolist() == [-0.5, 0.5, 0, 1, -0.25, 0.75, 0.25, 0.25]


def test_the_first_warp_is_the_identity(model):
    split = model.train().decoder.split[0]
    x = torch.randn(2, 16, 6, 6)
    body, edge = split(x)
    torch.testing.assert_close(body, x, atol=1e-5, rtol=0)
    assert edge.abs().max() < 1e-5


def test_torchvisions_names_are_those_of_the_image_encoder():
    """The names are those of torchvision's `wide_resnet101_2`, whose file has a classifier too."""
    encoder = WideResNet(CONFIG.vision)
    state = {**encoder.state_dict(), "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    encoder.load_state_dict(without_classifier(state))
    assert {"conv1.weight", "bn1.running_mean", "layer2.1.conv3.weight", "layer3.0.downsample.1.bias"} <= set(state)
