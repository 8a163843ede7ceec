"""MCN's and VLT's recipes: published numbers, word vectors, frozen layers, penalised kernels, and steps that learn."""

from __future__ import annotations

import pytest
import torch

from refseg.cli.main import main
from refseg.config import replace
from refseg.data.batches import TrainOrder, TrainTransform, batches
from refseg.data.shapes import EASY, Shapes
from refseg.encoders.darknet import DarkNetConfig
from refseg.encoders.word_gru import WordGRUConfig
from refseg.errors import ConfigError
from refseg.models.families import build
from refseg.training.config import TrainingConfig
from refseg.training.engine import Engine
from refseg.training.families import training_spec
from refseg.training.loop import Validation, train
from refseg.training.optim import build_optimizer, freeze, learning_rate_factor, set_mode
from refseg.training.processes import Processes
from refseg.training.recipes import recipe
from refseg.training.start import start_of, with_vectors
from refseg.training.vocabulary import with_vocabulary

VISION = DarkNetConfig(width=2, depths=(1, 1, 1, 1, 1))
TEXT = WordGRUConfig(vocabulary_size=1, vector_width=6, width=8)
TINY = {
    "mcn": {"model.vision": VISION, "model.text": TEXT, "model.width": 8, "model.image_size": 64},
    "vlt": {
        "model.vision": VISION,
        "model.text": TEXT,
        "model.width": 8,
        "model.heads": 2,
        "model.queries": 2,
        "model.hidden": 8,
        "model.image_size": 64,
    },
}
VECTORS = "the 1 2 3 4\nred 5 6 7 8\nball 9 10 11 12\n"


def tiny(family, **changes):
    return recipe(f"{family}-refcoco", faithful=True, **TINY[family], **changes)


@pytest.mark.parametrize(
    ("family", "batch_size", "epochs", "falls", "expected"),
    [("mcn", 35, 45, (29, 34, 39), "62.44 on val"), ("vlt", 128, 50, (39, 44, 49), "65.65 on val")],
)
def test_the_published_numbers(family, batch_size, epochs, falls, expected):
    found = recipe(f"{family}-refcoco", faithful=True)
    config = replace(found.training, steps_per_epoch=10)
    assert (config.batch_size, config.epochs, config.optimizer) == (batch_size, epochs, "adam")
    for times, epoch in enumerate(falls, start=1):
        before, after = (learning_rate_factor(config, step) for step in (10 * epoch - 1, 10 * epoch))
        assert (before, after) == pytest.approx((0.1 ** (times - 1), 0.1**times))
    assert (config.learning_rate, config.backbone_factor, config.kernel_penalty) == (1e-3, 1, 5e-4)
    assert (config.target, config.frozen_norm, config.precision) == ("strided", "batch", "float32")
    assert config.chosen_by == ("box_accuracy" if family == "mcn" else "mean_iou")
    assert recipe(f"{family}-refcoco").training.frozen_norm == "stored"
    assert recipe(f"{family}-refcocog-umd").model.inputs.word_length == 20
    assert expected in found.expected


@pytest.mark.parametrize("family", TINY)
def test_the_gradient_of_the_penalty(family):
    """That of the factor times the sum of the squares, for the kernels that the authors penalise and for no others."""
    torch.manual_seed(0)
    model = build(tiny(family).model)
    config = TrainingConfig(
        objective="collaborative" if family == "mcn" else "pixel-sum",
        optimizer="sgd",
        momentum=0.0,
        learning_rate=0.5,
        backbone_factor=1.0,
        kernel_penalty=0.1,
    )
    freeze(model, config)
    optimizer = build_optimizer(model, config)
    kernels = [kernel for kernel in training_spec(model).penalised(model) if kernel.requires_grad]
    sum((0.1 * kernel**2).sum() for kernel in kernels).backward()
    expected = {name: p - 0.5 * p.grad if p.grad is not None else p.clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], msg=name)


def test_a_penalty_needs_kernels_and_a_loss():
    model = build(recipe("shapes").model)
    with pytest.raises(ConfigError, match="family cris have none"):
        build_optimizer(model, TrainingConfig(kernel_penalty=1e-4))
    with pytest.raises(ConfigError, match="adamw"):
        TrainingConfig(kernel_penalty=1e-4, optimizer="adamw")


@pytest.mark.parametrize("statistics", ["stored", "batch"])
def test_frozen_layers_normalise_as_asked_and_keep_their_statistics(statistics):
    torch.manual_seed(0)
    run = tiny("mcn", frozen_norm=statistics)
    model = build(run.model)
    freeze(model, run.training)
    before = {name: value.clone() for name, value in model.visual.stem.norm.named_buffers()}
    set_mode(model, run.training)
    stem = model.visual.stem.norm(3 + 2 * torch.randn(4, 2, 8, 8))
    assert (stem.mean().abs() < 1e-5) == (statistics == "batch")
    for name in ("running_mean", "running_var"):
        assert torch.equal(getattr(model.visual.stem.norm, name), before[name])
    last = model.visual.top[-1].norm
    old = last.running_mean.clone()
    last(torch.randn(4, last.num_features, 2, 2))
    assert not torch.equal(last.running_mean, old)


def test_vectors_become_words_and_a_weight(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text(VECTORS)
    run, vectors = with_vectors(tiny("vlt"), "vlt-refcoco", str(path))
    assert run.model.inputs.vocabulary == ("the", "red", "ball")
    assert run.model.config.text == replace(TEXT, vocabulary_size=4, vector_width=4)
    model, digests = start_of(run, "vlt-refcoco", backbone="none", vectors=vectors)
    assert model.text.vectors.tolist() == [[0] * 4, [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    assert "vectors" in digests


def test_vectors_are_asked_for_first(tmp_path, capsys):
    words = ["train", "mcn-refcoco", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "--vectors" in error
    assert error.count("\n") == 1
    assert main([*words, "--vectors", str(tmp_path / "missing.txt")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["train", "shapes", "--vectors", str(tmp_path / "missing.txt"), "--dry-run"]) == 2
    assert "reads no word vectors" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="has its own"):
        with_vectors(recipe("vlt-refcoco"), "vlt-refcoco", "vectors.txt", init="folder")
    assert not list(tmp_path.iterdir())


class Few:
    """The first easy scenes."""

    num_images = 8

    def samples_of(self, index):
        return Shapes("train", name=EASY).samples_of(index)


@pytest.mark.slow
@pytest.mark.parametrize("family", TINY)
def test_a_run_learns_and_chooses_its_best(family, tmp_path):
    """Without anything frozen, as the compact models; MCN chooses by its boxes."""
    changes = {"model.frozen": False, "epochs": 2, "steps_per_epoch": 8, "batch_size": 4, "precision": "float32"}
    changes |= {"workers": 0, "validation_images": 2, "kernel_penalty": 0.0, "learning_rate": 0.01}
    changes["chosen_by"] = "box_accuracy" if family == "mcn" else "mean_iou"
    run = recipe(f"{family}-refcoco", **TINY[family], **changes)
    run = with_vocabulary(run, Few())
    torch.manual_seed(0)
    model = build(run.model)
    train(model, run.training, Few(), Validation(data=Few()), tmp_path / "run", device="cpu", show=False)
    assert (tmp_path / "run" / "best").is_dir()
    losses = _losses(build(run.model), run.training)
    assert losses[-1] < 0.9 * losses[0]
    if family == "vlt":
        with pytest.raises(ConfigError, match="no boxes"):
            train(model, replace(run.training, chosen_by="box_accuracy"), Few(), Validation(data=Few()), tmp_path)


def _losses(model, config):
    """Return the losses of repeated steps on one batch."""
    order = TrainOrder(num_images=4, batch_size=4, expressions=2, sizes=((0, 64),), seed=0)
    transform = TrainTransform(Few(), model.inputs, config.target, stride=model.stride)
    (batch,) = batches(transform, order, range(1))
    engine = Engine(model, config, Processes(torch.device("cpu")))
    return [float(engine.step([batch], step)) for step in range(12)]
