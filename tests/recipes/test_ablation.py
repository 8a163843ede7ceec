"""The ablation: every row is trained alike, stored, and not trained again."""

from __future__ import annotations

import json
import pickle
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from refseg.cli.main import main
from refseg.errors import ConfigError, UnknownNameError
from refseg.models.families import build
from refseg.models.folder import load_model
from refseg.training import ablation
from refseg.training.ablation import PARTS, SYSTEMS, Ablation, Cell, table
from refseg.training.recipes import ROWS, recipe

pytestmark = [pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"), pytest.mark.usefixtures("no_tensorboard")]

TINY = [
    'model.vision={"layers":[1,1,1,1],"width":4,"heads":2,"output_dim":16,"pretrained_size":64}',
    'model.text={"width":16,"heads":2,"layers":1,"output_dim":16}',
    "model.neck_channels=[8,16,32]",
    "model.decoder_heads=2",
    "model.decoder_hidden=32",
    "model.image_size=64",
    "sizes=[]",
    "epochs=1",
    "steps_per_epoch=2",
    "batch_size=2",
    "workers=0",
]


def test_the_rows_are_the_papers():
    assert len(ROWS) == 7
    config = recipe("cris-r50-refcoco", row="decoder", faithful=True).model.config
    assert (config.contrastive, config.decoder_layers) == (False, 1)
    assert recipe("shapes-ablation", row="both-4").model.config.decoder_layers == 4


def test_the_parts_have_equal_budgets():
    ablation = Ablation(dataset="shapes", table="parts", clip="runs")
    assert ablation.rows == tuple(PARTS)
    for row in ablation.rows:
        stages = ablation.stages(row, 3)
        trainings = [stage.recipe.training for stage in stages]
        assert sum(training.steps for training in trainings) == 1500
        assert {(t.batch_size, t.expressions_per_image, t.sizes, t.seed) for t in trainings} == {
            (8, 6, ((0.0, 96),), 3)
        }
        assert {stage.recipe.model.inputs.image_size for stage in stages} == {96}


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"dataset": "shape"}, UnknownNameError),
        ({"dataset": "refcoco", "table": "parts"}, ConfigError),
        ({"dataset": "shapes", "table": "part"}, UnknownNameError),
        ({"dataset": "shapes", "rows": ("both-9",)}, UnknownNameError),
        ({"dataset": "shapes-easy", "table": "systems", "rows": ("both-3",)}, UnknownNameError),
        ({"dataset": "shapes", "changes": {"epoch": 1}}, ConfigError),
        ({"dataset": "shapes", "faithful": True}, ConfigError),
    ],
)
def test_an_impossible_ablation_is_an_error_before_anything_is_trained(values, error):
    with pytest.raises(error):
        Ablation(**values)


@pytest.mark.slow
def test_rows_are_trained_once(tmp_path, capsys, monkeypatch):
    words = ["ablate", "shapes", *TINY, "--seeds", "1", "--limit", "2", "--out", str(tmp_path / "runs")]
    words += ["--device", "cpu", "--json", str(tmp_path / "cells.json")]
    assert main([*words, "--rows", "both-1,baseline"]) == 0
    first = capsys.readouterr().out
    assert first.count("\n") == 6
    monkeypatch.setattr(ablation, "train", None)
    assert main([*words, "--rows", "both-1,baseline"]) == 0
    assert capsys.readouterr().out == first
    kept = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert [cell["row"] for cell in kept] == ["both-1", "baseline"]
    assert kept[0]["parameters"] > kept[1]["parameters"]
    assert all(0 <= cell["chosen_mean_iou"] <= 1 and 0 <= cell["chosen_pointing"] <= 1 for cell in kept)
    assert main([*words, "--rows", "both-1", "learning_rate=0.5"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_the_table_by_hand():
    def cell(row, seed, iou):
        return Cell(
            row=row,
            seed=seed,
            mean_iou=iou,
            precision=(0.5, 0.4, 0.3, 0.2, 0.1),
            pointing=0.75,
            chosen_mean_iou=iou + 0.1,
            chosen_pointing=None,
            expressions=10,
            parameters=7_934_522,
            learnt=7_934_521,
            frames_per_second=20.0,
            seconds=1.0,
        )

    lines = table([cell("baseline", 0, 0.5), cell("baseline", 1, 0.52), cell("both-3", 0, 0.6)]).splitlines()
    precision = "50.00 | 40.00 | 30.00 | 20.00 | 10.00"
    assert lines[2] == f"| - | - | - | 51.00 ± 1.41 | {precision} | 75.00 | 61.00 | - | 7.93 | 20.0 | 2 |"
    assert lines[3].startswith("| yes | yes | 3 | 60.00 | 50.00")
    (line,) = table([cell("risclip", 0, 0.5)]).splitlines()[2:]
    assert line.startswith("| risclip | 7.93 | 50.00 | 50.00 |")


WORDS = ("text.embedding.", "text.token_embedding.")


def test_the_systems_have_equal_budgets_and_about_equal_sizes():
    """Of learnt parameters those of words are left out: they are in proportion to the vocabulary."""
    for dataset in ("shapes-easy", "refcoco"):
        ablation = Ablation(dataset=dataset, table="systems", clip="runs")
        assert ablation.rows == ("efn", "vlt", "mcn", "cris", "risclip", "cris-from-clip", "risclip-from-clip")
        for row in SYSTEMS:
            stages = ablation.stages(row, 2)
            assert {stage.recipe.data for stage in stages} == {f"{dataset}:train"}
            trainings = [stage.recipe.training for stage in stages]
            assert sum(training.steps for training in trainings) == 1600
            assert {(t.batch_size, t.expressions_per_image, t.seed) for t in trainings} == {(8, 6, 2)}
    for row in SYSTEMS:
        with torch.device("meta"):
            model = build(ablation.stages(row, 2)[-1].recipe.model)
        sizes = [p.numel() for name, p in model.named_parameters() if not name.startswith(WORDS)]
        assert 1.3e6 < sum(sizes) < 1.9e6, row
        assert bool(model.frozen_parts) == (row == "risclip-from-clip")


def test_the_clips_of_the_systems_have_their_encoders():
    for system, clip in (("shapes-easy", "shapes-easy-clip"), ("shapes-easy-risclip", "shapes-easy-clip-vit")):
        model, encoders = recipe(system).model.config, recipe(clip).model.config
        assert (encoders.vision, encoders.text) == (model.vision, model.text)


def test_rows_that_start_from_a_clip_are_left_out_or_an_error_without_one():
    from_clip = ("cris-from-clip", "risclip-from-clip")
    ablation = Ablation(dataset="shapes-easy", table="systems")
    assert ablation.left_out == from_clip
    assert set(ablation.rows) == set(SYSTEMS) - set(from_clip)
    assert Ablation(dataset="shapes", table="parts").rows == ("cris",)
    with pytest.raises(ConfigError, match=r"risclip-from-clip: start from a CLIP.*--clip"):
        Ablation(dataset="shapes-easy", table="systems", rows=("efn", "risclip-from-clip"))
    assert Ablation(dataset="shapes-easy", table="systems", rows=from_clip, clip="none").left_out == ()


EASY_STEPS = ["epochs=2", "steps_per_epoch=1", "batch_size=2", "expressions_per_image=2", "validation_images=2"]


@pytest.mark.slow
def test_the_systems_make_a_table_and_curves(tmp_path, capsys, monkeypatch):
    words = ["ablate", "shapes-easy", "--table", "systems", *EASY_STEPS, "precision=float32", "--seeds", "1"]
    words += ["--rows", "mcn,cris", "--split", "test", "--limit", "2", "--device", "cpu"]
    words += ["--out", str(tmp_path / "runs"), "--json", str(tmp_path / "cells.json")]
    words += ["--curves", str(tmp_path / "curves.svg")]
    assert main(words) == 0
    *lines, empty, without_words = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| mcn", "| cris"]
    record = json.loads((tmp_path / "cells.json").read_text())
    assert (record["split"], record["limit"], record["changes"]["epochs"]) == ("test", 2, 2)
    assert record["machine"]["torch"] == torch.__version__
    # Every scene has three or four objects of about one size, all targets but the fourth: the largest is one in three.
    assert 0.2 < record["largest_object"] < 0.5
    assert without_words.endswith(f"IoU {100 * record['largest_object']:.2f}")
    cells = record["cells"]
    assert [step for step, _ in cells[0]["curve"]] == [1, 2]
    chart = ElementTree.fromstring((tmp_path / "curves.svg").read_text())
    assert len(chart.findall("{http://www.w3.org/2000/svg}polyline")) == 2
    monkeypatch.setattr(ablation, "train", None)
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [*lines, empty, without_words]


@pytest.fixture
def refcoco(tmp_path):
    """A root with RefCOCO in REFER's layout: four images with one expression each."""
    images, annotations, references = [], [], []
    for number in range(1, 5):
        name = f"COCO_train2014_{number:012}.jpg"
        images.append({"id": number, "file_name": name, "height": 64, "width": 64})
        box = [[8, 8, 40, 8, 40, 40, 8, 40]]
        about = {"image_id": number, "category_id": 1}
        annotations.append(
            {"id": number, "segmentation": box, "bbox": [8, 8, 32, 32], "iscrowd": 0, "area": 1, **about}
        )
        said = {"sent_id": number, "sent": "left cup", "raw": "Left cup", "tokens": ["left", "cup"]}
        split = "val" if number == 4 else "train"
        reference = {"ref_id": number, "ann_id": number, "sent_ids": [number], "sentences": [said], "split": split}
        references.append({**reference, **about, "file_name": name})
        (tmp_path / "data" / "train2014").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (40 * number, 90, 90)).save(tmp_path / "data" / "train2014" / name)
    folder = tmp_path / "data" / "refcoco"
    folder.mkdir()
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(references))
    return tmp_path / "data"


@pytest.mark.slow
def test_the_systems_read_public_data(refcoco, tmp_path, capsys):
    """The vocabulary is that of the training data."""
    words = ["ablate", "refcoco", "--table", "systems", "--rows", "vlt", "--data", str(refcoco), *EASY_STEPS]
    words += ["precision=float32", "--seeds", "1", "--device", "cpu", "--out", str(tmp_path / "runs")]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("| vlt | ")
    config = json.loads((tmp_path / "runs" / "vlt-0" / "last" / "config.json").read_text())
    assert sorted(config["inputs"]["vocabulary"]) == ["<unk>", "cup", "left"]


def test_curves_need_validations(tmp_path, capsys):
    words = ["ablate", "shapes-easy", "validation_images=0", "--rows", "baseline", "--out", str(tmp_path / "runs")]
    assert main([*words, "--curves", str(tmp_path / "curves.svg")]) == 2
    assert "validation_images=50" in capsys.readouterr().err
    assert main([*words, "--curves", str(tmp_path / "curves.png")]) == 2
    assert ".svg" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_unknown_split_is_an_error_before_anything_is_trained(tmp_path, capsys):
    words = ["ablate", "shapes-easy", "--split", "tests", "--rows", "baseline", "--out", str(tmp_path / "runs")]
    assert main(words) == 2
    assert "tests" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_systems_start_from_their_clips(tmp_path, capsys):
    """RISCLIP's stays as it was trained, in both stages."""
    runs, short = tmp_path / "runs", ["epochs=1", "steps_per_epoch=2", "batch_size=2", "workers=0"]
    for name in ("shapes-easy-clip", "shapes-easy-clip-vit"):
        words = ["train", name, *short, "validation_images=0", "--device", "cpu", "--out", str(runs / name)]
        assert main(words) == 0
    words = ["ablate", "shapes-easy", "--table", "systems", "--rows", "cris-from-clip,risclip-from-clip"]
    words += ["--clip", str(runs), *EASY_STEPS, "precision=float32", "--seeds", "1", "--limit", "2", "--device", "cpu"]
    capsys.readouterr()
    words += ["--out", str(tmp_path / "out"), "--json", str(tmp_path / "cells.json")]
    assert main(words) == 0
    cells = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert [[step for step, _ in cell["curve"]] for cell in cells] == [[1, 2], [3, 4]]  # the second stage of two
    *lines, _, _ = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| cris-from-clip", "| risclip-from-clip"]
    clip = load_model(runs / "shapes-easy-clip-vit" / "last").state_dict()
    model = load_model(tmp_path / "out" / "risclip-from-clip-0" / "2" / "last").state_dict()
    shared = [name for name in model if name.startswith(("visual.", "text."))]
    assert len(shared) > 50
    assert all(torch.equal(model[name], clip[name]) for name in shared)


SMALL = ["epochs=1", "steps_per_epoch=2", "batch_size=2", "sizes=[[0,64]]", "workers=0", "precision=float32", "drill=0"]


@pytest.mark.slow
def test_parts_run_their_stages(tmp_path, capsys):
    """They start from the CLIPs that their recipes name, in the folder of runs."""
    runs = tmp_path / "runs"
    for name in ("shapes-clip", "shapes-clip-vit"):
        words = ["train", name, *SMALL, "validation_images=0", "--device", "cpu", "--out", str(runs / name)]
        assert main(words) == 0
    capsys.readouterr()
    words = ["ablate", "shapes", "--table", "parts", *SMALL, "--seeds", "1", "--limit", "2", "--device", "cpu"]
    words += ["--out", str(tmp_path / "out"), "--json", str(tmp_path / "cells.json"), "--clip", str(runs)]
    chosen = ["cris-from-clip", "risclip", "risclip-one-stage", "risclip-unfrozen"]
    assert main([*words, "--rows", ",".join(chosen)]) == 0
    lines = capsys.readouterr().out.splitlines()[2:-2]
    assert [line.split(" | ")[0] for line in lines] == [f"| {row}" for row in chosen]
    cells = {cell["row"]: cell for cell in json.loads((tmp_path / "cells.json").read_text())["cells"]}
    assert cells["risclip"]["learnt"] == cells["risclip-one-stage"]["learnt"] < cells["risclip"]["parameters"] / 4
    assert (
        cells["risclip-unfrozen"]["learnt"] == cells["risclip"]["parameters"] - 1
    )  # no gradient reaches CLIP's temperature
    assert (tmp_path / "out" / "risclip-0" / "2" / "last" / "config.json").exists()
    assert main([*words, "--rows", "both-3"]) == 2
    assert "both-3" in capsys.readouterr().err
