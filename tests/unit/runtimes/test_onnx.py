"""Exported models: the same `Predictor`, computed by ONNX Runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from refseg.cli.main import main
from refseg.errors import ConfigError, InputError, WeightsError
from refseg.models.exported import DESCRIPTION, find_export, read_export
from refseg.models.folder import load_model
from refseg.models.layout import EXPRESSION_GRAPH, IMAGE_GRAPH
from refseg.predictor import CHUNK, Predictor, load
from refseg.values import Encoding

WORDS = [f"thing number {number}" for number in range(CHUNK + 1)]


def test_it_is_a_predictor_of_its_description(exported, images):
    predictor = load(exported)
    assert isinstance(predictor, Predictor)
    assert (predictor.device, predictor.domain, predictor.inputs.word_length) == ("cpu", "photos", 8)
    found = predictor.segment(predictor.encode(images[1]), WORDS[:1])[0]
    assert found.probability.shape == (10, 24)
    assert found.decision == predictor.decision == read_export(exported).decision
    assert read_export(exported).about == {"name": "grey"}
    assert found.score == pytest.approx(0.1 + 0.8 * found.confidence)


def test_encodings_serve_in_any_order_and_grouping_and_from_a_file(exported, images, tmp_path):
    predictor = load(str(exported))
    together, second = [predictor.segment(scene, WORDS) for scene in predictor.encode(images)], load(exported)
    for image, expected in zip(images, together, strict=True):
        predictor.encode(image).save(tmp_path / "scene.safetensors")
        scene = Encoding.load(tmp_path / "scene.safetensors")
        for one in reversed(expected):
            (found,) = second.segment(scene, [one.expression])
            assert np.array_equal(found.scores, one.scores)
    assert len({one.scores.tobytes() for answers in together for one in answers}) > 3


def test_several_threads(exported, images):
    predictor = load(exported)
    scenes = predictor.encode(images) * 4
    expected = [predictor.segment(scene, WORDS)[3].scores for scene in scenes]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda scene: predictor.segment(scene, WORDS)[3].scores, scenes))
    assert all(map(np.array_equal, found, expected))


def test_an_encoding_of_other_graphs_is_an_error(exported, images, write_expression_graph):
    scene = load(exported).encode(images[0])
    load(exported).segment(scene, WORDS)
    write_expression_graph(exported / EXPRESSION_GRAPH, scale=2e-4)
    with pytest.raises(InputError, match="another model"):
        load(exported).segment(scene, WORDS)


def test_a_model_without_a_map_is_an_error(exported, images):
    predictor = load(exported)
    with pytest.raises(ConfigError, match="patch-level map"):
        predictor.ground(predictor.encode(images[0]), "the disc")


def test_an_older_graph_answers_and_says_that_it_has_no_maps_of_words(exported, images):
    predictor = load(exported)
    scene = predictor.encode(images[0])
    assert len(predictor.segment(scene, WORDS)) == len(WORDS)
    assert predictor.word_source is None
    with pytest.raises(ConfigError, match=r"^[^\n]*export it again$"):
        predictor.word_maps(scene, "the disc")


def test_values_that_overflow_are_errors(exported, images, write_expression_graph):
    write_expression_graph(exported / EXPRESSION_GRAPH, scale=float("nan"))
    predictor = load(exported)
    with pytest.raises(WeightsError, match="not finite"):
        predictor.segment(predictor.encode(images[0]), WORDS)


@pytest.mark.parametrize("device", ["cuda", "mps", "cpu:1", "nonsense"])
def test_it_is_computed_on_the_processor(exported, device):
    assert load(exported, "cpu").device == "cpu"
    with pytest.raises(ConfigError, match=device):
        load(exported, device)


def test_the_variable_of_pytorch_limits_the_threads(exported, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    runtime = Predictor.from_export(exported).runtime
    assert runtime._image._session.get_session_options().intra_op_num_threads == 3


@pytest.mark.parametrize("name", [IMAGE_GRAPH, EXPRESSION_GRAPH])
def test_a_missing_or_broken_graph_is_an_error(exported, name):
    (exported / name).write_bytes((exported / name).read_bytes()[:-40])
    with pytest.raises(WeightsError, match=name):
        load(exported)
    (exported / name).unlink()
    with pytest.raises(WeightsError, match=name):
        load(exported)


def test_graphs_of_two_models_are_an_error(exported, write_expression_graph):
    write_expression_graph(exported / EXPRESSION_GRAPH, feature="colour")
    with pytest.raises(WeightsError, match="not of one model"):
        load(exported)


def change(folder, **values):
    path = folder / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("values", [{"colour": 1}, {"format": "torch"}, {"inputs": {}}, {"precision": "int4"}])
def test_a_broken_description_is_an_error(exported, values):
    change(exported, **values)
    with pytest.raises(ConfigError, match=DESCRIPTION):
        load(exported)


def test_a_description_that_does_not_fit_the_graphs_is_an_error(exported, images):
    change(exported, inputs={"image_size": 32, "word_length": 8})
    with pytest.raises(WeightsError, match="cannot be computed"):
        load(exported).encode(images[0])


def test_a_name_comes_before_a_folder(exported, monkeypatch):
    exported.rename(exported.with_name("shapes"))
    monkeypatch.chdir(exported.parent)
    assert find_export("shapes") is None
    assert find_export("./shapes") is not None
    assert load("./shapes").domain == "photos"


def test_what_needs_a_model_folder_says_so(exported, tmp_path, capsys):
    with pytest.raises(WeightsError, match="exported model"):
        load_model(exported)
    assert main(["calibrate", str(exported), "shapes:val", "--out", str(tmp_path / "out")]) == 2
    assert "exported model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_the_library_it_says_what_to_install(exported, monkeypatch):
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="pip install refseg"):
        load(exported)


@pytest.mark.long
def test_openvino_computes_the_same_graphs(exported, images):
    one, other = (load(exported, runtime=runtime) for runtime in ("onnx", "openvino"))
    assert one.fingerprint == other.fingerprint
    for scene in other.encode(images):
        for count in (2, CHUNK + 1, 1):
            answers = [each.segment(scene, WORDS[:count]) for each in (one, other)]
            for expected, found in zip(*answers, strict=True):
                np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda image: other.segment(other.encode(image)[0], WORDS)[3].scores, [[i] for i in images] * 4)
        )
    expected = [one.segment(scene, WORDS)[3].scores for scene in one.encode(images)] * 4
    np.testing.assert_allclose(found, expected, atol=1e-5)


ALONE = """
import importlib.abc, os, socket, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnxscript"):
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

def refuse(*arguments, **settings):
    raise AssertionError("something reached for the network")

sys.meta_path.insert(0, Blocked())
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from refseg.cli.main import main
code = main(sys.argv[1:])
assert "onnxruntime" not in sys.modules or os.environ["ORT_DISABLE_TELEMETRY"] == "1"
assert {"onnxruntime", "openvino"} & set(sys.modules)
assert "openvino_telemetry" not in sys.modules
assert not os.listdir(os.environ["HOME"])
sys.exit(code)
"""


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_predicting_needs_neither_pytorch_nor_the_network(exported, images, tmp_path, runtime):
    Image.fromarray(images[2]).save(tmp_path / "image.png")
    (tmp_path / "home").mkdir()
    arguments = ("predict", tmp_path / "image.png", WORDS[0], "--model", exported, "--out", tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, arguments), "--runtime", runtime],
        env=os.environ | {"HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


def test_openvino_that_lacks_the_setting_for_what_is_kept_computes_too(exported, images, monkeypatch):
    expected = load(exported, runtime="openvino")
    monkeypatch.setattr("refseg.runtimes.openvino.KEPT", "NO_SUCH_SETTING")
    found = load(exported, runtime="openvino")
    for one, other in zip(*(each.segment(each.encode(images[0]), WORDS) for each in (found, expected)), strict=True):
        assert np.array_equal(one.scores, other.scores)
