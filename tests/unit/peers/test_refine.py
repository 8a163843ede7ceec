"""Masks of any model are refined by SAM or SAM 2; scores and decisions stay those of the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from refseg.cli.main import main
from refseg.errors import ConfigError, DownloadError, UnknownNameError
from refseg.evaluation.protocols import PROTOCOLS
from refseg.peers.table import REFINERS
from refseg.predictor import load
from refseg.values import Calibration, Decision, Encoding, Segmenter

pytestmark = pytest.mark.slow  # PyTorch networks of another library

WORDS = ["the red disc", "the blue square on the right"]


@pytest.fixture
def refined(hub_cache, model_folder):
    return load(model_folder, "cpu", refine="sam2")


@pytest.fixture
def sharp(refined, monkeypatch):
    """Lets the network answer with the left half of the image, and records what it is asked."""
    asked = []

    def redraw(levels, words, box, draft):
        asked.append((box, draft))
        found = torch.full((64, 64), -5.0)
        found[:, :48] = 5.0
        return found

    monkeypatch.setattr(refined.refiner.masks, "redraw", redraw)
    monkeypatch.setattr("refseg.peers.refine.SAME_OBJECT", 0.0)
    return asked


def above(answer, share):
    """The decision whose threshold is above a share of the probabilities."""
    return Decision(threshold=float(np.quantile(answer.unrefined.probability, share)))


@pytest.mark.parametrize("model", ["shapes", "florence-2", "tiny"])
@pytest.mark.parametrize("name", list(REFINERS))
def test_every_model_is_refined_and_its_scores_stay(hub_cache, photo, model_folder, tmp_path, model, name):
    own = load(model_folder if model == "tiny" else model, "cpu")
    refined = load(model_folder if model == "tiny" else model, "cpu", refine=name)
    assert isinstance(refined, Segmenter)
    assert (refined.decision, refined.domain, refined.device) == (own.decision, own.domain, own.device)
    assert refined.fingerprint != own.fingerprint
    scene = refined.encode(photo)
    scene.save(tmp_path / "scene.safetensors")
    answers = refined.segment(Encoding.load(tmp_path / "scene.safetensors"), WORDS)
    for answer, alone in zip(answers, own.segment(own.encode(photo), WORDS), strict=True):
        assert (answer.score, answer.confidence, answer.empty) == (alone.score, alone.confidence, alone.empty)
        assert answer.mask.shape == alone.mask.shape
        assert np.array_equal(answer.unrefined.mask, alone.mask)


def test_the_prompt_is_the_box_and_the_logits_of_the_mask(refined, photo, sharp):
    (answer,) = refined.segment(refined.encode(photo), WORDS[:1])
    answer = answer.decided_by(above(answer, 0.7))
    own = answer.unrefined
    assert 0 < own.mask.mean() < 1
    assert np.array_equal(answer.mask, np.arange(96)[None].repeat(64, 0) < 72)
    assert np.array_equal(answer.probability > answer.threshold, answer.mask)
    assert answer.box == (0, 0, 72, 64)
    (box, draft), *_ = sharp
    np.testing.assert_allclose(box * torch.tensor([96, 64, 96, 64]), own.box, rtol=1e-6)
    assert np.array_equal((draft > 0).numpy(), own.mask)


def test_the_photo_is_encoded_once_for_all_expressions(refined, photo, monkeypatch):
    encoded = []
    encode = refined.refiner.masks.encode
    monkeypatch.setattr(refined.refiner.masks, "encode", lambda image: encoded.append(image) or encode(image))
    scene = refined.encode(photo)
    for answer in refined.segment(scene, WORDS * 3):
        assert answer.mask.shape == (64, 96)
    assert len(encoded) == 1


def test_an_empty_mask_stays_empty_and_is_not_refined(refined, photo, sharp):
    (answer,) = refined.segment(refined.encode(photo), WORDS[:1])
    rejecting = Calibration(knots=((0.0, 0.0), (1.0, 1.0)), reject_below=1.0)
    for decision in (Decision(threshold=0.9999), Decision(threshold=0.35, calibration=rejecting)):
        nothing = answer.decided_by(decision)
        assert (nothing.empty, nothing.box, nothing.score) == (True, None, 0)
        assert not nothing.mask.any()
        assert nothing.probability.shape == (64, 96)
    assert sharp == []


def test_another_decision_is_another_prompt(refined, photo, sharp):
    (answer,) = refined.segment(refined.encode(photo), WORDS[:1])
    answer, higher = (answer.decided_by(above(answer, share)) for share in (0.5, 0.8))
    assert 0 < higher.unrefined.mask.sum() < answer.unrefined.mask.sum()
    assert np.array_equal(higher.mask, answer.mask)
    for (_, draft), asked in zip(sharp, (higher, answer), strict=True):
        assert np.array_equal((draft > 0).numpy(), asked.unrefined.mask)
    # Compared at another size, the border is interpolated.
    small = PROTOCOLS["lavt"].compared_mask(answer)
    assert small[:, :358].all()
    assert not small[:, 362:].any()


def test_a_mask_of_another_object_is_not_used(refined, photo, sharp, monkeypatch):
    monkeypatch.setattr("refseg.peers.refine.SAME_OBJECT", 0.5)
    monkeypatch.setattr(refined.refiner.masks, "redraw", lambda *_: torch.full((1, 1), -torch.inf))
    (answer,) = refined.segment(refined.encode(photo), WORDS[:1])
    assert np.array_equal(answer.mask, answer.unrefined.mask)
    assert np.array_equal(answer.probability, answer.unrefined.probability)


def test_what_is_missing_is_an_error_of_one_line(hub_cache, model_folder, monkeypatch, tmp_path):
    from huggingface_hub import constants

    with pytest.raises(UnknownNameError) as caught:
        load(model_folder, "cpu", refine="sam4")
    assert caught.value.known == sorted(REFINERS)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DownloadError) as offline:
        load(model_folder, "cpu", refine="sam2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"refseg\[peers\]") as lacking:
        load(model_folder, "cpu", refine="sam2")
    assert all("\n" not in str(error.value) for error in (offline, lacking))


def test_predict_and_evaluate_take_it(hub_cache, model_folder, photo, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model = ["--refine", "sam", "--model", str(model_folder)]
    assert main(["predict", str(photo), "the red disc", *model, "--json"]) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out)["model"] == f"{model_folder}, refined by sam"
    words = ["evaluate", str(model_folder), "shapes:val", "--limit", "1", "--refine", "sam2", "--out", "result.json"]
    assert main(words) == 0
    assert json.loads(Path("result.json").read_text())["made_by"]["model"] == f"{model_folder}, refined by sam2"
    assert main(["predict", str(photo), "the red disc", "--refine", "sam9"]) == 2
    assert "sam9" in capfd.readouterr().err.splitlines()[-1]
