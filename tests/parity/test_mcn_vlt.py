"""MCN and VLT against values recorded from the authors' code: images of 128 pixels, 15 words."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from refseg.data.batches import Batch
from refseg.encoders.darknet import DarkNetConfig
from refseg.encoders.keras_file import to_keras
from refseg.encoders.word_gru import WordGRUConfig
from refseg.inputs.frame import Frame, pad
from refseg.masks import iou, iou_of_boxes
from refseg.models.families import MODELS, build
from refseg.models.keras_names import from_reference
from refseg.models.mcn import convert as mcn_convert
from refseg.models.mcn.detection import ANCHOR_SIDE, best_box
from refseg.models.mcn.model import MCNConfig, mcn
from refseg.models.vlt import convert as vlt_convert
from refseg.models.vlt.model import VLTConfig, vlt
from refseg.models.vlt.queries import located
from refseg.models.vlt.transformer import positioned
from refseg.runtimes.base import probabilities
from refseg.training.box_loss import box_targets, task_losses
from refseg.training.config import TrainingConfig
from refseg.training.engine import Objective
from refseg.training.families import TRAINING
from refseg.training.optim import freeze, set_mode
from refseg.values import Decision, DetectedBox, Prediction

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("keras_recipe", HERE / "keras_recipe.py")
recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipe)

FLOOR = 1e-6
"""Gradients whose norm is a smaller fraction of that of all are rounding: biases before a batch normalisation."""
NAMES = {"mcn": mcn_convert.NAMES, "vlt": vlt_convert.NAMES}
OBJECTIVES = {"mcn": "collaborative", "vlt": "pixel-sum"}
SEEDS = {"evaluation": ("seed", "batch"), "training": ("train_seed", "train_batch")}


@pytest.fixture(scope="module")
def golden():
    values = {}
    for family in NAMES:
        with np.load(HERE.parent / "data" / f"{family}_128.npz") as file:
            values[family] = {name: file[name] for name in file.files}
    return values


@cache
def state_of(family, shapes):
    """Return the weights of the recipe under our names; no test changes them."""
    return from_reference(recipe.weights(family, dict(shapes)), NAMES[family])


class Case:
    """A model with the weights of the recipe, and its inputs; each word of the inputs is a token of its own."""

    def __init__(self, family, golden, use):
        self.golden, self.size, words = golden, int(golden["size"]), int(golden["words"])
        seed, batch = (int(golden[name]) for name in SEEDS[use])
        self.pixels, vectors, self.boxes, self.mask = recipe.inputs(family, seed, batch, self.size, words)
        self.tokens = 1 + torch.arange(batch * words).reshape(batch, words)
        self.padding = (vectors == 0).all(dim=-1)
        text = WordGRUConfig(
            vocabulary_size=batch * words + 1, dropout=0.0, gates="hard-sigmoid" if family == "mcn" else "sigmoid"
        )
        if family == "mcn":
            spec = replace(mcn(), config=MCNConfig(vision=DarkNetConfig(debiased=True), text=text))
        else:
            spec = replace(vlt(), config=VLTConfig(vision=DarkNetConfig(), text=text, dropout=0.0))
        spec = spec.changed(image_size=self.size, word_length=words)
        with torch.device("meta"):
            self.model = build(spec)
        own = self.model.state_dict()
        shapes = {key: to_keras(own[ours]).shape for key, ours in NAMES[family].items()}
        state = dict(state_of(family, tuple(shapes.items())))
        state["text.vectors"] = torch.cat([torch.zeros(1, 300), vectors.flatten(0, 1)])
        state |= {key: torch.tensor(0) for key in own if key.endswith("num_batches_tracked")}
        self.model.load_state_dict(state, assign=True)
        if family == "mcn":
            self.model.anchors = torch.tensor(spec.config.anchors) / ANCHOR_SIDE
        self.model.eval()


def keep(found, module, name, *, given=False):
    """Keep what a module returns, or its first argument, whenever it is called."""

    def hook(_, received, returned):
        found[name] = received[0] if given else returned[0] if isinstance(returned, tuple) else returned

    module.register_forward_hook(hook)


def check(golden, stages):
    """Compare stages with their recorded shapes, moments and first values."""
    for name, stage in stages.items():
        assert tuple(stage.shape) == tuple(golden[f"{name}_shape"]), name
        head = stage.flatten(1)[:, :64].numpy()
        np.testing.assert_allclose(head, golden[f"{name}_head"], atol=1e-4, err_msg=name)
        np.testing.assert_allclose(stage.mean(), golden[f"{name}_mean"], atol=1e-5, err_msg=name)
        np.testing.assert_allclose(stage.std(correction=0), golden[f"{name}_std"], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("family", "trained"), [("mcn", 30_657_298), ("vlt", 38_235_398)])
def test_parameters(family, trained):
    with torch.device("meta"):
        model = build(MODELS[family].spec())
    assert sum(parameter.numel() for parameter in model.parameters()) == MODELS[family].parameters
    freeze(model, TrainingConfig(objective=OBJECTIVES[family]))
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == trained


@pytest.mark.slow
@pytest.mark.parametrize(("family", "penalty"), [("mcn", 4.60535908), ("vlt", 5.36378336)])
def test_the_penalty_of_kernels(family, penalty, golden):
    """Of the trained ones, as recorded; it is not part of the recorded loss."""
    model, config = Case(family, golden[family], "training").model, TrainingConfig(objective=OBJECTIVES[family])
    freeze(model, config)
    trained = [kernel.detach().double() for kernel in TRAINING[family].penalised(model) if kernel.requires_grad]
    assert 5e-4 * float(sum((kernel**2).sum() for kernel in trained)) == pytest.approx(penalty, rel=1e-6)


@pytest.mark.slow
@torch.no_grad()
def test_stages_of_mcn(golden):
    recorded = golden["mcn"]
    case = Case("mcn", recorded, "evaluation")
    model = case.model
    maps, language = model.visual(case.pixels), model.text(case.tokens, case.padding)
    image = model.encode_image(case.pixels)
    fused = model.fuse(image["f0"], language.sentence)
    stages = {}
    keep(stages, model.segmentation.attention, "D_before", given=True)
    keep(stages, model.detection.mix, "rec_mid", given=True)
    keep(stages, model.detection.attention, "rec_top_before", given=True)
    keep(stages, model.detection.attention, "rec_top_after")
    mask = model.segmentation(fused, image["f1"], image["f2"], language.sentence)
    box = model.detection(fused, mask, language.sentence)
    stages |= {"F0": maps.f0, "F1": maps.f1, "F2": maps.f2, "gru": language.sequence, "q": language.sentence}
    stages |= {"Fm": fused, "M": mask.middle, "D_after": mask.fine, "F_att_seg": mask.attended}
    stages |= {"aspp": model.segmentation.pyramid(mask.fine), "F_att_det": box.attended}
    assert {f"{name}_head" for name in stages} == {name for name in recorded if name.endswith("_head")}
    check(recorded, stages)
    of_mask, of_box, similarities = model.energy(mask.attended, box.attended)
    np.testing.assert_allclose(of_mask, recorded["E_s"], atol=1e-6)
    np.testing.assert_allclose(of_box, recorded["E_c"], atol=1e-6)
    extremes = (similarities.min(), similarities.max(), similarities.mean())
    np.testing.assert_allclose(extremes, [recorded[f"T_{name}"] for name in ("min", "max", "mean")], atol=1e-6)
    tasks = model.tasks(image, model.encode_text(case.tokens, case.padding))
    np.testing.assert_allclose(tasks.mask, recorded["mask_logits"], atol=1e-4)
    np.testing.assert_allclose(tasks.box, recorded["det_logits"], atol=1e-4)
    np.testing.assert_allclose(tasks.energy[:, None], recorded["co_energy"], atol=1e-6)
    assert torch.equal(model(case.pixels, case.tokens, case.padding), tasks.mask)
    boxes, scores = best_box(tasks.box, model.anchors)
    np.testing.assert_allclose(boxes[:, [1, 0, 3, 2]] * case.size, recorded["top_box"], atol=1e-3)
    np.testing.assert_allclose(scores[:, None], recorded["top_score"], atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_stages_of_vlt(golden):
    recorded = golden["vlt"]
    case = Case("vlt", recorded, "evaluation")
    model = case.model
    maps, language = model.visual(case.pixels), model.text(case.tokens, case.padding)
    image = model.encode_image(case.pixels)
    fused = model.fuse(image["f0"], language.sentence)
    stages = {}
    keep(stages, model.fusion.merge1, "A")
    keep(stages, model.fusion.narrow, "T", given=True)
    keep(stages, model.head.convolutions[0], "mask1")
    keep(stages, model.head.convolutions[2], "mask3")
    keep(stages, model.head.enlarge[0], "up1")
    keep(stages, model.head.enlarge[2], "up3")
    logits = model(case.pixels, case.tokens, case.padding)
    for_queries, features = model.fusion(fused, image["f1"], image["f2"])
    stages |= {"F0": maps.f0, "F1": maps.f1, "F2": maps.f2, "gru": language.sequence, "q": language.sentence}
    stages |= {"Fm": fused, "Q": for_queries, "F_tf": features, "coord": located(for_queries)}
    generate, queries = model.generate, model.generate(for_queries, language.sequence)
    query_maps = generate.maps(generate.convolutions(located(for_queries)))
    of_image = F.relu(generate.of_image(query_maps.flatten(2)))
    stages |= {"query_maps": query_maps, "V": of_image, "W": F.relu(generate.of_words(language.sequence))}
    stages |= {"query_att": queries - of_image, "queries": queries}
    first, second = model.transformer.encoder
    encoder_in, decoder_in = positioned(features.flatten(2).mT), positioned(queries)
    encoder1 = first(encoder_in)
    encoder = second(encoder1)
    stages |= {"encoder_in": encoder_in, "encoder1_att": first.attention(encoder_in, encoder_in, encoder_in)}
    stages |= {"encoder1": encoder1, "encoder": encoder, "decoder_in": decoder_in}
    block = model.transformer.decoder[0]
    attended = block.self_residual(decoder_in, block.self_attention(decoder_in, decoder_in, decoder_in, causal=True))
    crossed = block.cross_residual(attended, block.cross_attention(attended, encoder, encoder))
    stages |= {"decoder1_self": attended, "decoder1_cross": crossed, "decoder1": block(decoder_in, encoder)}
    responses = model.transformer(features.flatten(2).mT, queries)
    balance = model.balance(queries, responses)
    query_masks = F.relu(model.maps(responses * balance)).unflatten(-1, (model.side, model.side))
    stages |= {"decoder": responses, "weighted": responses * balance, "masks": query_masks}
    assert {f"{name}_head" for name in stages} == {name for name in recorded if name.endswith("_head")}
    check(recorded, stages)
    np.testing.assert_allclose(balance, recorded["balance"], atol=1e-5)
    np.testing.assert_allclose(logits[:, :, ::3, ::3], recorded["logits"], atol=1e-4)


KERAS_VARIANCE = {
    "batch_normalization_58/moving_variance:0": 64 / (64 - 1.001),
    "batch_normalization_61/moving_variance:0": (4 - 1) / (4 - 1.001),
}
"""What Keras 2.2 stores in units of the unbiased variance of n values: of maps n / (n - 1.001), as TensorFlow gives it
the unbiased one, which it takes for the biased one; of vectors (n - 1) / (n - 1.001). Here are four maps of 4 x 4, and
four sentences."""


def check_statistics(model, recorded):
    """Compare the stored statistics after a training step with those that are recorded."""
    names = [name.removeprefix("after_") for name in recorded if name.startswith("after_")]
    assert len(names) == 4
    for name in names:
        found = model.state_dict()[NAMES["mcn"][name]][:64] * KERAS_VARIANCE.get(name, 1.0)
        np.testing.assert_allclose(found, recorded[f"after_{name}"], atol=1e-4, rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("statistics", ["frozen64", "train64"])
@pytest.mark.parametrize("family", NAMES)
def test_losses_and_gradients(family, statistics, golden):
    """In double precision; gradients reach all that learns."""
    recorded = golden[family]
    case = Case(family, recorded, "training")
    model, config = case.model.double(), TrainingConfig(objective=OBJECTIVES[family])
    freeze(model, config)
    if statistics == "train64":
        set_mode(model, TrainingConfig(objective=OBJECTIVES[family], frozen_norm="batch"))
    mask = case.mask.double()
    batch = Batch(
        pixels=case.pixels.double(),
        tokens=case.tokens,
        padding=case.padding,
        image_index=torch.arange(len(mask)),
        target=mask,
        valid=torch.ones_like(mask),
        weight=torch.ones(len(mask), dtype=torch.float64),
        box=case.boxes.double(),
    )
    loss = Objective(model, config)(batch) / len(mask)
    loss.backward()
    assert loss.item() == pytest.approx(float(recorded[f"{statistics}_loss"]), rel=1e-6)
    if (family, statistics) == ("mcn", "train64"):
        check_statistics(model, recorded)
    norms = json.loads(str(recorded[f"{statistics}_grad_norms"]))
    keras = {ours: key for key, ours in NAMES[family].items()}
    found = {keras[name]: float(p.grad.norm()) for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == norms.keys()
    total = float(recorded[f"{statistics}_grad_norm"])
    assert sum(norm**2 for norm in found.values()) ** 0.5 == pytest.approx(total, rel=1e-5)
    for name, norm in norms.items():
        if norm > FLOOR * total:
            assert found[name] == pytest.approx(norm, rel=1e-4), name
    if (family, statistics) == ("mcn", "frozen64"):
        with torch.no_grad():
            tasks = model.tasks(model.encode_image(batch.pixels), model.encode_text(case.tokens, case.padding))
            parts = task_losses(tasks, mask, batch.box, model.anchors, batch.valid, case.size)
        for part, expected in zip(
            parts.values(), json.loads(str(recorded["frozen64_loss_parts"])).values(), strict=True
        ):
            assert float(part.mean()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("family", NAMES)
def test_logits_at_the_published_size(family, golden):
    recorded = golden[family]
    case = Case(
        family, recorded | {"size": recorded["full_size"], "seed": recorded["full_seed"], "batch": 1}, "evaluation"
    )
    seen = {}
    if family == "vlt":
        keep(seen, case.model.balance, "balance")
    logits = case.model(case.pixels, case.tokens, case.padding)
    if family == "vlt":
        np.testing.assert_allclose(seen["balance"], recorded["full_balance"], atol=1e-4)
    else:
        model = case.model
        tasks = model.tasks(model.encode_image(case.pixels), model.encode_text(case.tokens, case.padding))
        np.testing.assert_allclose(tasks.box[0, :, ::3, ::3], recorded["full_det"], atol=1e-4)
        moments = [tasks.box.mean(), tasks.box.std(correction=0)]
        np.testing.assert_allclose(moments, [recorded["full_det_mean"], recorded["full_det_std"]], atol=1e-4)
        np.testing.assert_allclose(tasks.energy[:, None], recorded["full_co_energy"], atol=1e-6)
    step, part = {"mcn": (4, "full_13x13"), "vlt": (13, "full_16x16")}[family]
    np.testing.assert_allclose(logits[0, 0, ::step, ::step], recorded[part], atol=1e-4)
    moments = [logits.mean(), logits.std(correction=0), logits.abs().max()]
    np.testing.assert_allclose(moments, [recorded[f"full_{name}"] for name in ("mean", "std", "absmax")], atol=1e-4)


def test_the_iou_of_a_mask(golden):
    recorded = golden["mcn"]
    target, mask = recorded["seg_gt"][..., 0] > 0, recorded["seg_prob"][..., 0] > mcn().decision.threshold
    assert iou(mask, target) == pytest.approx(float(recorded["seg_iou"]))
    empty = np.zeros_like(target)  # a deviation that the documentation names
    assert (iou(empty, empty), float(recorded["seg_iou_empty"])) == (0, 1)


def test_targets_of_boxes(golden):
    recorded = golden["mcn"]
    anchors = torch.tensor(MCNConfig.anchors) / ANCHOR_SIDE
    wanted = box_targets(torch.from_numpy(recorded["target_boxes"]), anchors, 13, 416)
    index = tuple(torch.from_numpy(recorded["target_index_b_row_col_anchor"]).T)
    np.testing.assert_allclose(wanted[index], recorded["target_values"], atol=1e-6)
    assert wanted[..., 4].sum() == len(recorded["target_boxes"])


def test_the_targets_of_a_batch(golden):
    recorded = golden["mcn"]
    size, batch = int(recorded["size"]), int(recorded["train_batch"])
    seed, words = int(recorded["train_seed"]), int(recorded["words"])
    boxes = recipe.inputs("mcn", seed, batch, size, words)[2]
    wanted = box_targets(boxes, torch.tensor(MCNConfig.anchors) / ANCHOR_SIDE, size // 32, size)
    np.testing.assert_allclose(wanted, recorded["y_true"], atol=1e-6)


@pytest.mark.parametrize(("family", "fit", "step"), [("mcn", "pad-antialiased", 8), ("vlt", "pad-cubic", 2)])
@pytest.mark.parametrize("number", [0, 1])
def test_inputs(family, fit, step, number, golden):
    """OpenCV computes in fixed point: a grey level may differ by one."""
    recorded, tolerance = golden[family], 1.001 if family == "vlt" else 1e-3
    image, mask = Image.fromarray(recorded[f"pre{number}_image"]), recorded[f"pre{number}_mask"] > 0
    expected = recorded[f"pre{number}_out"].transpose(2, 0, 1) * (1 if family == "mcn" else 255)
    np.testing.assert_allclose(pad(image, 64, fit) * 255, expected, atol=tolerance)
    frame = Frame(image.height, image.width, 64, fit)
    small = frame.place_mask(mask)[::step, ::step]
    np.testing.assert_allclose(small, recorded[f"pre{number}_out_mask"][..., 0], atol=tolerance / 255)
    if family == "mcn":
        box = frame.to_square(recorded[f"pre{number}_box"].astype(float))
        np.testing.assert_allclose(box[None], recorded[f"pre{number}_out_box"], atol=1e-5)


@pytest.mark.parametrize(("family", "logits"), [("mcn", "eval_net_seg"), ("vlt", "net")])
def test_restored_probabilities(family, logits, golden):
    recorded = golden[family]
    for number, (height, width) in enumerate(((45, 60), (45, 60), (80, 37), (80, 37))):
        frame = Frame(height, width, 64, "pad-cubic")
        restored = frame.restore(probabilities(recorded[logits][number, ..., 0]))
        name = f"eval_plain_prob{number}" if family == "mcn" else f"eval_prob{number}"
        np.testing.assert_allclose(restored, recorded[name], atol=2e-6)


def test_the_sigmoid_of_vlt_is_the_usual_one():
    """Recorded: (1 + 1e-9) / (1 + exp(-x) + 1e-9), which the authors' evaluation computes."""
    logits = np.array([-50, -20, -1, 0, 3, 20, 50], np.float32)
    recorded = [1.92874985e-22, 2.06115362e-09, 2.68941422e-01, 5.00000000e-01, 9.52574127e-01, 9.99999998e-01, 1]
    np.testing.assert_allclose(probabilities(logits[None])[0], recorded, atol=1e-7)


def test_probabilities_weighed_by_a_box(golden):
    recorded = golden["mcn"]
    for number, (y0, x0, y1, x1) in enumerate(recorded["nls_raw_box_yxyx"].tolist()):
        box = DetectedBox((x0, y0, x1, y1), float(recorded["nls_score"][number]))
        for weighting in ("soft", "hard"):
            expected = recorded[f"nls_{weighting}"][number]
            np.testing.assert_allclose(box.weigh(recorded["nls_prob"], weighting), expected, atol=1e-6)


@pytest.mark.parametrize(("weighting", "name"), [("soft", "nls"), (None, "plain")])
def test_evaluation_of_mcn(weighting, name, golden):
    """From what the network computes to probabilities of the image, IoU of masks, and boxes that are right."""
    recorded, hits, overlaps = golden["mcn"], [], []
    anchors = torch.tensor(MCNConfig.anchors) / ANCHOR_SIDE
    boxes, scores = best_box(torch.from_numpy(recorded["eval_net_det"]).permute(0, 3, 1, 2), anchors)
    np.testing.assert_allclose(scores[:, None], recorded["eval_top_score"], atol=1e-6)
    for number, (box, score) in enumerate(zip((boxes * 64).tolist(), scores.tolist(), strict=True)):
        target = recorded[f"eval{number // 2}_mask"] > 0
        frame = Frame(*target.shape, 64, "pad-antialiased")
        scored = probabilities(recorded["eval_net_seg"][number, ..., 0])
        decision = Decision(threshold=0.35, box_weighting=weighting)
        prediction = Prediction("", scored, frame, decision, detected=DetectedBox(tuple(box), score))
        expected = recorded[f"eval_{name}_prob{number}"]
        np.testing.assert_allclose(prediction.probability, np.clip(expected, 0, 1), atol=2e-6)
        overlaps.append((prediction.mask & target).sum() / (prediction.mask | target).sum())
        hits.append(iou_of_boxes(prediction.detected_box, recorded[f"eval{number // 2}_box"].tolist()) >= 0.5)
    np.testing.assert_allclose(overlaps, recorded[f"eval_{name}_iou"], atol=1e-6)
    assert np.mean(overlaps) == pytest.approx(float(recorded[f"eval_{name}_miou"]))
    assert np.mean(hits) == float(recorded[f"eval_{name}_det_acc"])
    assert hits == recorded["eval_hits"].astype(bool).tolist()


def test_boxes_that_are_right(golden):
    recorded = golden["mcn"]
    found = [iou_of_boxes(*pair) >= 0.5 for pair in recorded["det_pairs"].tolist()]
    assert found == recorded["det_hit"].astype(bool).tolist()
