"""One training step: accumulation, clipping, recomputation, frozen parts and learning rates."""

from __future__ import annotations

import copy

import pytest
import torch

from refseg.data.batches import Shard, TrainOrder, TrainTransform, batches
from refseg.data.shapes import Shapes
from refseg.errors import ConfigError
from refseg.inputs.preprocessing import Inputs
from refseg.training.config import TrainingConfig, in_full
from refseg.training.engine import Engine
from refseg.training.optim import learning_rate_factor, set_learning_rates
from refseg.training.processes import Processes

ALONE = Processes(torch.device("cpu"))


def settings(**changes):
    values = {
        "epochs": 2,
        "steps_per_epoch": 3,
        "batch_size": 4,
        "expressions_per_image": 3,
        "learning_rate": 1e-2,
        "backbone_factor": 1.0,
    }
    return TrainingConfig(**values | changes)


def drawn(config, steps=1):
    order = TrainOrder(
        num_images=10, batch_size=config.batch_size, expressions=config.expressions_per_image, sizes=((0, 64),), seed=3
    )
    transform = TrainTransform(Shapes("train"), Inputs(image_size=64, word_length=17))
    pieces = list(batches(transform, order, range(steps), shard=Shard(pieces=config.accumulate)))
    return [pieces[i : i + config.accumulate] for i in range(0, len(pieces), config.accumulate)]


def learn(model, config, steps=1):
    engine = Engine(copy.deepcopy(model), config, ALONE)
    made = [float(engine.step(pieces, number)) for number, pieces in enumerate(drawn(config, steps))]
    return engine.model, made


def assert_near(one, other, atol=1e-6):
    for (key, value), found in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(value, found, rtol=0, atol=atol, msg=key)


@pytest.mark.parametrize("max_norm", [0.0, 1e-3])
@pytest.mark.parametrize("pieces", [2, 4])
def test_accumulated_pieces_give_the_weights_of_the_whole_step(make_tiny, pieces, max_norm):
    """Also where pieces have unequal numbers of expressions, and where gradients are clipped."""
    model = make_tiny(seed=1, dropout=0.0)
    changes = {"freeze_norm": True, "max_norm": max_norm, "optimizer": "adamw", "learning_rate": 1e-3}
    changes["expressions_per_image"] = 20  # all there are: images differ in how many they have
    whole, loss = learn(model, settings(**changes))
    cut, loss_of_pieces = learn(model, settings(**changes, accumulate=pieces))
    assert loss_of_pieces == pytest.approx(loss, rel=1e-5)
    # Adam's first step is the sign of the gradient, so that rounding shows where a gradient is nearly nothing.
    close = [
        (a - b).abs().max() < 2e-6 or (a - b).abs().mean() < 1e-4
        for a, b in zip(whole.parameters(), cut.parameters(), strict=True)
    ]
    assert all(close)


def test_gradients_are_those_of_the_mean_over_all_expressions(make_tiny):
    model = make_tiny(seed=1, dropout=0.0)
    found = []
    for pieces in (1, 2, 4):
        config = settings(freeze_norm=True, accumulate=pieces, expressions_per_image=20)
        engine = Engine(copy.deepcopy(model), config, ALONE)
        gradients: dict[str, torch.Tensor] = {}

        def keep(engine=engine, gradients=gradients):
            gradients.update({n: p.grad.clone() for n, p in engine.model.named_parameters() if p.grad is not None})

        engine.optimizer.register_step_pre_hook(lambda *_, keep=keep: keep())
        engine.step(drawn(config)[0], 0)
        found.append(gradients)
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for name, value in found[0].items():
        for other in found[1:]:
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-6, msg=name)


def test_clipping_bounds_the_gradient_of_the_whole_step(make_tiny):
    norms = []
    for pieces in (1, 2):
        config = settings(accumulate=pieces, max_norm=1e-2, freeze_norm=True)
        engine = Engine(make_tiny(seed=1, dropout=0.0), config, ALONE)

        def measure(optimizer, *_):
            parts = [p.grad.norm() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norms.append(float(torch.stack(parts).norm()))

        engine.optimizer.register_step_pre_hook(measure)
        engine.step(drawn(config)[0], 0)
    assert norms == pytest.approx([1e-2, 1e-2], rel=1e-3)


def test_recomputing_changes_nothing(make_tiny):
    """Neither weights nor statistics, with dropout on: the same numbers are drawn again."""
    model = make_tiny(seed=1, dropout=0.2)
    usual, losses = learn(model, settings(), steps=3)
    again, losses_again = learn(model, settings(checkpointing=True), steps=3)
    assert losses_again == pytest.approx(losses, rel=1e-6)
    assert_near(again, usual)


def test_a_step_depends_only_on_its_number(make_tiny):
    config = settings()
    (pieces,) = drawn(config)
    first, second = (Engine(make_tiny(seed=1, dropout=0.3), config, ALONE) for _ in range(2))
    torch.rand(100)
    assert float(first.step(pieces, 5)) == float(second.step(pieces, 5))
    third = Engine(make_tiny(seed=1, dropout=0.3), config, ALONE)
    assert float(third.step(pieces, 6)) != float(Engine(make_tiny(seed=1, dropout=0.3), config, ALONE).step(pieces, 5))


@pytest.mark.slow
def test_half_precision_scales_its_loss(make_tiny):
    config = settings(precision="float16", max_norm=1.0)
    engine = Engine(make_tiny(seed=1), config, ALONE)
    assert engine.scaler.is_enabled()
    before = [parameter.detach().clone() for parameter in engine.model.parameters()]
    scales = []
    for number, pieces in enumerate(drawn(config, 16)):
        assert torch.isfinite(engine.step(pieces, number))
        scales.append(engine.scaler.get_scale())
    # A step whose gradients are too large for half precision is left out, and the scale halved.
    assert scales[-1] == scales[-2] < 2**16
    changed = [not torch.equal(a, b) for a, b in zip(before, engine.model.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    assert all(parameter.isfinite().all() for parameter in engine.model.parameters())


# ── parameters ──


def test_frozen_parts_keep_their_weights(make_tiny):
    model = make_tiny(seed=1)
    learnt, _ = learn(model, settings(freeze=("visual", "text")), steps=2)
    before = model.state_dict()
    for key, value in learnt.state_dict().items():
        part = key.partition(".")[0]
        if part in ("visual", "text"):
            assert torch.equal(value, before[key]), key
    assert any(not torch.equal(v, before[k]) for k, v in learnt.state_dict().items() if k.startswith("decoder."))


def test_frozen_norms_keep_their_statistics_and_learn_their_scale(make_tiny):
    model = make_tiny(seed=1)
    learnt, _ = learn(model, settings(freeze_norm=True), steps=2)
    before = model.state_dict()
    for key, value in learnt.state_dict().items():
        if "running_" in key or "num_batches" in key:
            assert torch.equal(value, before[key]), key
    assert not torch.equal(learnt.visual.bn1.weight, model.visual.bn1.weight)


@pytest.mark.parametrize("freeze", [("encoder",), ("visual", "text", "neck", "decoder", "projector")])
def test_impossible_freezes_are_errors(make_tiny, freeze):
    with pytest.raises(ConfigError, match=r"its parts are visual|no parameter would learn"):
        Engine(make_tiny(), settings(freeze=freeze), ALONE)


def test_layer_decay_lowers_the_rate_of_lower_layers(make_tiny):
    config = settings(layer_decay=0.5, learning_rate=1.0, backbone_factor=0.5)
    engine = Engine(make_tiny(), config, ALONE)
    names = {id(parameter): name for name, parameter in engine.model.named_parameters()}
    rates = {names[id(p)]: group["initial_lr"] for group in engine.optimizer.param_groups for p in group["params"]}
    assert rates["visual.attnpool.k_proj.weight"] == 0.5
    assert rates["visual.layer4.0.conv1.weight"] == 0.25
    assert rates["visual.conv1.weight"] == 0.5 * 0.5**5
    assert rates["text.ln_final.weight"] == 0.5
    assert rates["text.transformer.resblocks.0.ln_1.weight"] == 0.25
    assert rates["text.token_embedding.weight"] == 0.125
    assert rates["projector.mix.weight"] == rates["text.positional_embedding"] == 1.0
    assert len(rates) == len(names) - 1  # no gradient reaches CLIP's temperature


def test_the_first_epoch_can_be_at_the_full_rate(make_tiny):
    """As in the published runs: a bug of the reference."""
    config = settings(first_epoch_at_full_rate=True, learning_rate=1e-4, backbone_factor=0.1, milestones=(1,))
    engine = Engine(make_tiny(), config, ALONE)
    seen = []
    for step in range(config.steps):
        assert set_learning_rates(engine.optimizer, config, step) == max(g["lr"] for g in engine.optimizer.param_groups)
        seen.append([group["lr"] for group in engine.optimizer.param_groups])
    assert seen[:3] == [[1e-4, 1e-4]] * 3
    assert seen[3:] == [pytest.approx([1e-6, 1e-5])] * 3
    assert learning_rate_factor(config, 3) == pytest.approx(0.1)


# ── shards and pieces ──


def test_the_shards_together_are_the_step():
    order = TrainOrder(num_images=10, batch_size=8, expressions=2, sizes=((0, 64),), seed=3)
    whole = order.at(4)
    parts = [draw for rank in range(2) for piece in Shard(rank, 2, 2).of(whole) for draw in piece]
    assert parts == whole


@pytest.mark.parametrize(("accumulate", "size"), [(3, 1), (2, 4)])
def test_a_batch_that_cannot_be_divided_is_an_error(make_tiny, accumulate, size):
    with pytest.raises(ConfigError, match="multiple of processes x accumulate"):
        Engine(make_tiny(), settings(accumulate=accumulate), Processes(torch.device("cpu"), 0, size))


def test_an_epoch_is_a_pass_by_default():
    assert in_full(TrainingConfig(batch_size=8), 30).steps_per_epoch == 3
    assert in_full(settings(), 1).steps_per_epoch == 3
    with pytest.raises(ConfigError, match="batch_size is 8, but the data has 7"):
        in_full(TrainingConfig(batch_size=8), 7)


def test_the_weights_of_one_process_cannot_be_sharded(make_tiny):
    with pytest.raises(ConfigError, match="one process"):
        Engine(make_tiny(), settings(), ALONE, shard=True)
