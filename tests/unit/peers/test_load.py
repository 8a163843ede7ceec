"""Other people's models answer through the same call, from the cache only, and say in one line what they lack."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import refseg
from refseg.errors import ConfigError, DownloadError, ExpressionError, InputError, UnknownNameError, WeightsError
from refseg.peers import library
from refseg.peers import load as load_module
from refseg.peers.load import load_peer
from refseg.peers.stored import StoredPeer, find_peer, write_peer
from refseg.peers.table import PEERS, REFINERS, peer_entry
from refseg.predictor import load
from refseg.values import Calibration, Decision, Encoding, Segmenter

pytestmark = pytest.mark.slow  # PyTorch networks of another library

WORDS = ["the red disc", "the blue square on the right"]


@pytest.fixture
def peer(request, hub_cache):
    return load(request.param, "cpu")


# florence-2-large is florence-2 in another size.
every_peer = pytest.mark.parametrize("peer", [name for name in PEERS if name != "florence-2-large"], indirect=True)


# ── the same call ──


@every_peer
def test_it_is_a_segmenter_whose_encodings_are_stored(peer, photo, photo_pixels, tmp_path):
    assert isinstance(peer, Segmenter)
    assert (peer.device, peer.domain) == ("cpu", "photos")
    scene = peer.encode(photo)
    first, second = peer.encode([photo, photo_pixels[::-1].copy()])
    assert (scene.frame, scene.fingerprint) == (first.frame, peer.fingerprint)
    assert any(np.abs(first.arrays[name] - second.arrays[name]).max() > 1e-3 for name in first.arrays)
    scene.save(tmp_path / "scene.safetensors")
    for one, again in zip(
        peer.segment(scene, WORDS), peer.segment(Encoding.load(tmp_path / "scene.safetensors"), WORDS), strict=True
    ):
        assert np.array_equal(one.scores, again.scores)
        assert one.object_score == again.object_score


@every_peer
def test_answers_do_not_depend_on_what_else_is_asked_or_on_threads(peer, photo):
    scene = peer.encode(photo)
    together = peer.segment(scene, WORDS * 5)
    assert [one.expression for one in together] == WORDS * 5
    with ThreadPoolExecutor(2) as threads:
        alone = [one for (one,) in threads.map(lambda word: peer.segment(scene, [word]), WORDS * 2)]
    for one, same in zip(together[:4], alone, strict=True):
        assert one.mask.shape == (64, 96)
        assert one.box == same.box
        assert one.confidence == pytest.approx(same.confidence, abs=1e-3)
        assert 0 < one.object_score < 1.001
    assert peer.segment(scene, []) == []


@every_peer
def test_a_bad_call_is_an_error(peer, photo, predictor):
    scene = peer.encode(photo)
    for wrong in ([" "], "the red disc"):
        with pytest.raises(ExpressionError):
            peer.segment(scene, wrong)
    with pytest.raises(InputError):
        peer.segment(predictor.encode(photo), WORDS)
    with pytest.raises(ConfigError):
        peer.segment(scene, WORDS, threshold=2)
    with pytest.raises(ConfigError):
        peer.ground(scene, WORDS[0])


@every_peer
def test_the_end_of_a_long_expression_is_cut_off(peer, photo):
    short, long = peer.segment(peer.encode(photo), ["the red disc", "the red disc on the left " * 40])
    assert not short.truncated
    assert long.truncated


@pytest.mark.parametrize("peer", ["grounding-dino-sam"], indirect=True)
def test_where_no_box_is_found_nothing_fits(peer, photo, monkeypatch):
    monkeypatch.setattr("refseg.peers.grounding_dino.BOX_THRESHOLD", 1.0)
    (answer,) = peer.segment(peer.encode(photo), WORDS[:1])
    assert (answer.empty, answer.object_score, answer.box) == (True, 0, None)


@pytest.mark.parametrize("peer", ["sam3"], indirect=True)
def test_where_no_object_is_found_nothing_fits(peer, photo, monkeypatch):
    monkeypatch.setattr("refseg.peers.sam3.INSTANCE_THRESHOLD", 1.0)
    (answer,) = peer.segment(peer.encode(photo), WORDS[:1])
    assert (answer.empty, answer.object_score, answer.box) == (True, 0, None)


@pytest.mark.parametrize("peer", ["grounding-dino-sam"], indirect=True)
def test_the_threshold_says_how_much_weaker_another_referent_may_be(peer, photo, monkeypatch):
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.5]])
    maps = torch.zeros(3, 64, 96)
    maps[0, :, :48], maps[1, :, 48:], maps[2, :32] = 0.99, 0.99, 0.2
    monkeypatch.setattr(peer.detector, "boxes", lambda *_: (boxes, torch.tensor([0.8, 0.6, 0.5])))
    monkeypatch.setattr(peer.masks, "masks", lambda *_: (maps, torch.tensor([0.9, 0.8, 1.0])))
    scene = peer.encode(photo)
    (both,) = peer.segment(scene, WORDS[:1])
    assert both.object_score == pytest.approx(0.72)
    assert both.box == (0, 0, 96, 64)
    (best,) = peer.segment(scene, WORDS[:1], threshold=0.7)
    assert best.box == (0, 0, 48, 64)


@pytest.mark.parametrize("peer", ["florence-2"], indirect=True)
def test_an_answer_without_polygons_is_that_nothing_fits(peer, photo, monkeypatch):
    monkeypatch.setattr(peer, "_written", lambda *_: [(["</s>", "<s>", "no", "</s>"], 0.9, False)])
    (answer,) = peer.segment(peer.encode(photo), WORDS[:1])
    assert (answer.empty, answer.confidence) == (True, 0)


@pytest.mark.parametrize("peer", ["florence-2"], indirect=True)
def test_a_number_without_a_token_is_no_location(peer, photo, monkeypatch):
    monkeypatch.setattr(type(peer.tokenizer), "convert_ids_to_tokens", lambda _, ids: [None] * len(ids))
    (answer,) = peer.segment(peer.encode(photo), WORDS[:1])
    assert answer.empty


@every_peer
@pytest.mark.parametrize("shape", [(1, 300, 3), (300, 1, 3), (1, 1, 3)])
def test_an_image_of_any_proportions(peer, shape):
    (answer,) = peer.segment(peer.encode(np.full(shape, 90, np.uint8)), WORDS[:1])
    assert answer.mask.shape == shape[:2]


# ── files ──


def test_every_part_is_pinned():
    for entry in PEERS.values():
        for part in entry.parts:
            assert len(bytes.fromhex(part.revision)) == 20
            assert not [name for name in part.files if not name.endswith((".json", ".safetensors"))]


def test_the_page_lists_what_the_table_says():
    page = (Path(__file__).parents[3] / "docs" / "peers.md").read_text(encoding="utf-8")
    rows = {
        row.split("`")[1]: row
        for row in page.splitlines()
        if row.startswith("| `") and " MB | " in row and row.count("|") == 6
    }
    assert list(rows) == list(PEERS)
    for name, entry in PEERS.items():
        _, _, size, licence, _, trained, _ = (cell.strip() for cell in rows[name].split("|"))
        assert (size, licence) == (f"{entry.megabytes} MB", entry.licence)
        assert trained.strip("*") == {True: "yes", False: "no", None: "not known"}[entry.trained_on_refcoco]
        assert all(part.repository in page for part in entry.parts)
    for name, part in REFINERS.items():
        assert f"| `{name}` | `{part.repository}` | {part.megabytes} MB | {part.licence} |" in page


def test_no_look_up_leaves_the_machine(hub_cache, photo, monkeypatch):
    from huggingface_hub import constants

    # With the network allowed, the fixture `no_network` fails at the first connection.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    peer = load_peer(StoredPeer(peer="grounding-dino-sam"), "cpu")
    assert len(peer.segment(peer.encode(photo), WORDS)) == 2


def test_what_is_missing_is_announced_and_downloaded_at_its_revision(hub_cache, folder_of, monkeypatch, caplog):
    calls = []

    def download(repository, files, *, revision):
        calls.append((repository, revision, tuple(files)))
        return folder_of(repository)

    entry = peer_entry("grounding-dino-sam")
    monkeypatch.setattr(load_module, "cached_files", lambda *_, **__: None)
    monkeypatch.setattr(load_module, "download_files", download)
    with caplog.at_level(logging.WARNING):
        load_peer(StoredPeer(peer=entry.name), "cpu")
    assert calls == [(part.repository, part.revision, part.files) for part in entry.parts]
    lines = [record.getMessage() for record in caplog.records if record.name == load_module.__name__]
    for line, part in zip(lines, entry.parts, strict=True):
        assert all(word in line for word in (str(part.megabytes), part.licence, part.revision, part.repository))


def test_files_that_their_owners_do_not_give_out_are_an_error_with_what_to_do(hub_cache, tmp_path, monkeypatch):
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError

    def gated(*_, local_files_only, **__):
        if local_files_only:
            raise FileNotFoundError
        raise GatedRepoError("403\nnot you", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("refseg.models.hub._connection_error", lambda: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", gated)
    for load_it in (lambda: load("sam3", "cpu"), lambda: load("shapes", "cpu", refine="sam3")):
        with pytest.raises(DownloadError) as caught:
            load_it()
        assert "https://huggingface.co/facebook/sam3" in str(caught.value)
        assert "hf auth login" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_a_model_does_not_read_is_said_once_when_it_is_loaded(hub_cache, photo, caplog):
    peer = load("sam3", "cpu")
    peer.segment(peer.encode(photo), WORDS)
    lines = [record.getMessage() for record in caplog.records if record.name == load_module.__name__]
    assert lines == [f"sam3: {PEERS['sam3'].caution}"]


def test_without_files_and_network_is_an_error(hub_cache, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DownloadError) as caught:
        load("florence-2", "cpu")
    assert "florence-2" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_library_nothing_is_downloaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(load_module, "download_files", lambda *_, **__: pytest.fail("downloads"))
    with pytest.raises(ConfigError, match=r"refseg\[peers\]"):
        load("grounding-dino-sam", "cpu")


@pytest.mark.parametrize("how", ["cut off", "of another architecture", "without a weight", "without a tokenizer"])
def test_broken_files_are_an_error(hub_cache, folder_of, tmp_path, monkeypatch, how):
    from safetensors.torch import load_file, save_file

    repository = "IDEA-Research/grounding-dino-tiny"
    broken = shutil.copytree(folder_of(repository), tmp_path / "broken")
    if how == "cut off":
        (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:1000])
    elif how == "of another architecture":
        shutil.copy(folder_of("facebook/sam-vit-base") / "model.safetensors", broken)
    elif how == "without a weight":
        weights = load_file(broken / "model.safetensors")
        del weights["model.text_projection.weight"]
        save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    else:
        (broken / "tokenizer.json").write_text("{")
    real = load_module.cached_files
    monkeypatch.setattr(
        load_module, "cached_files", lambda name, *a, **b: broken if name == repository else real(name, *a, **b)
    )
    with pytest.raises(WeightsError) as caught:
        load("grounding-dino-sam", "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), "gpu"])
def test_a_memory_that_does_not_suffice_is_an_error(error):
    error = torch.OutOfMemoryError("CUDA out of memory") if error == "gpu" else error
    with pytest.raises(WeightsError), library.enough_memory():
        raise error
    with pytest.raises(RuntimeError, match="other"), library.enough_memory():
        raise RuntimeError("other")


def test_an_unknown_name_is_an_error_that_knows_all_names():
    with pytest.raises(UnknownNameError) as caught:
        load("florence-3")
    assert {"shapes", "florence-2"} <= set(caught.value.known)


def test_the_large_florence_is_loaded_from_its_own_files(hub_cache, folder_of):
    peer = load("florence-2-large", "cpu")
    (part,) = peer.entry.parts
    assert part.repository == "florence-community/Florence-2-large-ft"
    assert peer.network.config._name_or_path == str(folder_of(part.repository))


# ── decisions ──


def test_a_calibrated_decision_is_kept_in_a_folder(hub_cache, photo, tmp_path):
    calibration = Calibration(knots=((0.0, 0.1), (1.0, 0.2)), reject_below=0.01)
    stored = StoredPeer(peer="florence-2", decision=Decision(calibration=calibration), about={"on": "shapes:val"})
    write_peer(stored, tmp_path / "own")
    assert find_peer(tmp_path / "own") == stored
    peer = load(tmp_path / "own", "cpu")
    (answer,) = peer.segment(peer.encode(photo), WORDS[:1])
    assert answer.score == pytest.approx(calibration.score(answer.confidence))
    assert answer.rejected == (answer.confidence < 0.01)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"peer": "florence-3"}, UnknownNameError),
        ({"peer": 3}, ConfigError),
        ({"peer": "florence-2", "decision": {"threshold": 7}}, ConfigError),
        ({"peer": "florence-2", "weights": "x"}, ConfigError),
    ],
)
def test_a_broken_folder_is_an_error(tmp_path, values, error):
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(error):
        find_peer(tmp_path)


def test_names_and_folders_that_are_no_peers(model_folder, tmp_path):
    assert [find_peer(name) for name in ("shapes", "user/name", model_folder, tmp_path, "./florence-2")] == [None] * 5


def test_the_library_is_imported_only_for_its_models():
    code = (
        "import sys, refseg; from refseg.cli.main import main; main(['models']); refseg.load(); "
        "print('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert refseg.load is load
