"""`refseg data`: its verbs on tiny data sets, and its errors for unusable arguments."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from refseg.cli.data import VERBS
from refseg.cli.main import main
from refseg.data import prepare as fetching
from refseg.data.catalogue import open_data
from refseg.evaluation.metrics import Outcome
from refseg.evaluation.protocols import PROTOCOLS
from refseg.evaluation.result import make_result, save_result


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    """Runs `refseg data` in an empty folder: returns exit code, stdout and stderr."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*words):
        code = main(["data", *map(str, words)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def error_of(command):
    """Runs `refseg data`, which must refuse: in one line, with exit code 2, writing nothing. Returns the line."""

    def run(*words):
        code, out, err = command(*words)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1, err
        assert "Traceback" not in err
        assert list(Path().iterdir()) == []
        return err

    return run


def image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def own(tmp_path):
    """A sound folder of one's own data."""
    root = tmp_path / "own"
    for seed, name in enumerate(("a", "b")):
        image(root / "images" / f"{name}.png", seed)
    (root / "masks").mkdir()
    mask = np.zeros((24, 32), dtype=np.uint8)
    mask[4:9, 4:9] = 255
    Image.fromarray(mask).save(root / "masks" / "1.png")
    (root / "data.csv").write_text(
        "image,mask,text,split\na.png,1.png,the left cup,train\nb.png,,a dog,val\n", encoding="utf-8"
    )
    return root


@pytest.fixture
def sets(tmp_path):
    """RefCOCO: images 1 to 3 of val and 4 of train; RefCOCOg: images 2 and 9 of train."""
    root = tmp_path / "sets"
    write(root, "refcoco", "refs(unc).p", {1: "val", 2: "val", 3: "val", 4: "train"})
    write(root, "refcocog", "refs(umd).p", {2: "train", 9: "train"})
    return root


def write(root, name, references, splits):
    (root / name).mkdir(parents=True)
    images, annotations, rows = [], [], []
    for i, split in splits.items():
        images.append({"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": 24, "width": 32})
        annotations.append({"id": i, "image_id": i, "category_id": 1, "segmentation": [[2, 2, 20, 2, 20, 20, 2, 20]]})
        sentence = {"sent_id": i, "sent": f"thing {i}", "raw": f"Thing {i}"}
        rows.append(
            {"ref_id": i, "ann_id": i, "image_id": i, "category_id": 1, "split": split, "sentences": [sentence]}
        )
        image(root / "images" / "train2014" / images[-1]["file_name"], i)
    (root / name / references).write_bytes(pickle.dumps(rows, protocol=2))
    values = {"images": images, "annotations": annotations, "categories": []}
    (root / name / "instances.json").write_text(json.dumps(values), encoding="utf-8")


# ── the command ──


def test_help_imports_no_slow_library():
    script = (
        "import contextlib, sys; from refseg.cli.main import main\n"
        "for words in (['data', '--help'], ['data', 'show', '--help'], ['data', 'prepare', '--help']):\n"
        "    assert main(words) == 0\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(verb in done.stdout for verb in VERBS)


def test_arguments_that_make_no_sense_are_errors_in_one_line(error_of, own, sets):
    rejections = {
        (): "VERB",
        ("chekc",): "did you mean 'data check'",
        ("check",): "DATASET",
        ("check", own, "--rows", "0"): "--rows",
        ("check", own, "--rows", "many"): "invalid int",
        ("check", own, "--words", "1"): "word_length",
        ("check", own, "--nonsense"): "unrecognized",
        ("check", "refcok"): "did you mean 'refcoco'",
        ("check", "refcoco"): "--data ROOT",
        ("check", "refcoco:testC", "--data", sets): "has no split 'testC'",
        ("check", "refcoco", "--data", own): "no such file",
        ("check", "shapes:val"): "nothing to check",
        ("check", "./nowhere"): "no such folder",
        ("stats", f"{own}:test"): "has no split 'test'",
        ("stats", "shapes:all"): "unknown split 'all'",
        ("stats", own, "--plot", "plot.png"): ".svg",
        ("stats", own, "--plot", "nowhere/plot.svg"): "there is no folder",
        ("leak", f"{own}:val"): "--against",
        ("leak", f"{own}:val", "--against", "ids.txt"): "ids.txt: no such file",
        ("leak", f"{own}:val", "--against", "coco-train2014"): "give a list",
        ("leak", f"{own}:val", "--against", "refcoco"): "which split of refcoco?",
        ("leak", own, "--against", f"{own}:train"): "which split",
        ("leak", f"{own}:val", "--against", f"{own}:train", "--result", "r.json"): "r.json",
        ("show", own): "--out",
        ("show", own, "--out", "sheet.pdf"): "must end with one of",
        ("show", own, "--out", "nowhere/sheet.png"): "there is no folder",
        ("show", own, "--out", "s.png", "--n", "0"): "at least 1",
        ("show", own, "--out", "s.png", "--seed", "-1"): "negative",
        ("show", own, "--out", "s.png", "--columns", "0"): "columns",
        ("show", own, "--out", "s.png", "--ids", "77"): "no reference '77'",
        ("prepare", "refcoco"): "--data",
        ("prepare", "refcok", "--data", "x"): "did you mean 'refcoco'",
        ("prepare", "phrasecut", "--data", "x"): "cannot be fetched",
        ("prepare", "refcocog", "--data", "x", "--split", "val"): "refcocog-umd or refcocog-google",
        ("prepare", "refcoco", "--data", "x", "--split", "test"): "unknown split 'test'",
        ("prepare", "refcoco", "--data", "x", "--sha256", "abc"): "FILE=SUM",
    }
    for words, says in rejections.items():
        assert says in error_of(*words), words


# ── check ──


def test_sound_data_pass(command, own):
    assert command("check", own) == (
        0,
        f"{own}:all: 0 errors and 0 warnings in 2 images, 2 references, 2 expressions\n",
        "",
    )
    assert command("check", f"{own}:val")[1].endswith("in 1 image, 1 reference, 1 expression\n")


def test_errors_fail_and_warnings_do_not(command, own):
    with (own / "data.csv").open("a") as file:
        file.write("b.png,1.png,23,val\n")
    code, out, err = command("check", own)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "warning  odd  data.csv: line 4  '23' holds no letters"
    with (own / "data.csv").open("a") as file:
        file.writelines(f"{number}.png,1.png,a cup,val\n" for number in range(9))
    code, out, err = command("check", own, "--rows", "2", "--quick")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [["error", "missing"]] * 3 + [["warning", "odd"]]
    assert lines[2].endswith("and 7 more")
    assert "9 errors and 1 warning in" in lines[-1]


def test_faults_as_json(command, own):
    with (own / "data.csv").open("a") as file:
        file.write("b.png,2.png,a cup,val\n")
    code, out, _ = command("check", own, "--json")
    told = json.loads(out)
    assert (code, told["errors"], told["warnings"], told["references"]) == (1, 1, 0, 3)
    (problem,) = told["problems"]
    assert (problem["severity"], problem["kind"], problem["row"]) == ("error", "mask", "line 4")
    assert problem["file"] == str(own / "data.csv")


def test_images_may_lie_elsewhere(command, sets, tmp_path):
    (sets / "images" / "train2014").rename(tmp_path / "photos")
    assert command("check", "refcoco", "--data", sets)[0] == 1
    assert command("check", "refcoco", "--data", sets, "--images", tmp_path / "photos")[0] == 0


def test_rows_that_cannot_be_used_are_noted_once_and_listed_by_check(command, own):
    with (own / "data.csv").open("a") as file:
        file.write("b.png,1.png,,val\n../b.png,1.png,a dog,val\n")
    for words in (("stats", f"{own}:val"), ("stats", f"{own}:val", "--json"), ("show", f"{own}:val", "--out", "x.png")):
        code, out, err = command(*words)
        assert code == 0
        (line,) = err.splitlines()
        assert "2 rows were skipped" in line
        assert "line 4" in line
    assert command("stats", f"{own}:train")[2] == ""
    assert json.loads(command("stats", f"{own}:val", "--json")[1])["skipped"] == 2
    code, out, err = command("check", f"{own}:val")
    assert (code, err) == (1, "")
    assert [line.split()[:2] for line in out.splitlines()[:2]] == [["error", "row"], ["error", "blank"]]


def test_without_a_home_folder_the_remedy_is_one_line(command, own, monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    for name in ("REFSEG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    code, out, err = command("stats", own)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "REFSEG_CACHE" in err


# ── stats ──


def test_statistics_are_a_table_and_a_plot(command, own):
    code, out, err = command("stats", own, "--masks", "--plot", "plot.svg")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split()[3::2] == ["train", "val", "total"]
    assert ElementTree.fromstring(Path("plot.svg").read_text(encoding="utf-8")) is not None
    code, out, _ = command("stats", f"{own}:val", "--json", "--words", "4")
    assert json.loads(out)["splits"]["val"]["no_target"] == 1
    assert json.loads(out)["word_length"] == 4


# ── leak ──


def test_images_of_a_folder_and_of_a_spreadsheet_are_counted(command, sets):
    Path("list.csv").write_text("Image;n\nCOCO_train2014_000000000003.jpg;1\n")
    Path("photos").mkdir()
    Path("photos/000000000002.png").touch()
    code, out, err = command("leak", "refcoco:val", "--data", sets, "--against", "list.csv", "photos", "--json")
    assert (code, err) == (0, "")
    leaks = [(one["against"], one["listed"], one["ids"]) for one in json.loads(out)["leaks"]]
    assert leaks[:2] == [("list.csv", 1, ["3"]), ("photos", 1, ["2"])]


def test_shared_images_are_counted(command, sets):
    Path("ids.txt").write_text("3\n")
    code, out, err = command(
        *("leak", "refcoco:val", "--data", sets, "--against", "refcocog-umd:train", "--against", "ids.txt"),
        *("--ids", "leaked.txt"),
    )
    assert (code, err) == (0, "")
    rows = [line.split("  ") for line in out.splitlines()]
    assert [row[0] for row in rows] == [
        "refcoco:val in",
        "refcocog-umd:train (2 images)",
        "ids.txt (1 image)",
        "any of them",
    ]
    assert [row[-1].strip() for row in rows[1:]] == ["1 of 3 (33.3%)", "1 of 3 (33.3%)", "2 of 3 (66.7%)"]
    assert Path("leaked.txt").read_text() == "2\n3\n"


def test_all_of_refcoco_is_of_one_part_of_coco(command, sets):
    code, out, _ = command("leak", "refcoco:val", "--data", sets, "--against", "coco-train2014", "--json")
    told = json.loads(out)
    assert (code, told["images"], told["leaks"][0]["images"], told["leaks"][0]["ids"]) == (0, 3, 3, ["1", "2", "3"])


def outcomes(data):
    for index in range(data.num_images):
        for sample in data.samples_of(index):
            yield Outcome(
                id=sample.expressions[0].id,
                reference=sample.id,
                image=sample.image_id,
                expression=sample.expressions[0].text,
                present=True,
                intersection=10 * int(sample.image_id),
                union=100,
                predicted_pixels=90,
                target_pixels=90,
                image_pixels=768,
                score=0.5,
                empty=False,
            )


def test_the_clean_part_is_scored_by_itself(command, sets, error_of):
    data = open_data("refcoco:val", sets, text_field="raw")
    result = make_result(list(outcomes(data)), data, PROTOCOLS["lavt"], made_by={"model": "x"})
    save_result(result, sets / "result.json")
    words = ("leak", "refcoco:val", "--data", sets, "--against", "refcocog-umd:train", "--result", sets / "result.json")
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    scores = {line.split()[0]: line.split()[1:4] for line in out.splitlines()[-3:]}
    assert scores == {"all": ["3", "3", "20.00"], "clean": ["2", "2", "20.00"], "leaked": ["1", "1", "20.00"]}
    told = json.loads(command(*words, "--json")[1])["scores"]
    assert told["clean"]["mean_iou"] == pytest.approx(0.2)
    assert told["clean"]["overall_iou"] == pytest.approx(0.2)
    other = ("leak", "refcoco:train", *words[2:])
    assert "the result is of refcoco:val, not of refcoco:train" in error_of(*other)


def test_json_has_no_numbers_that_json_does_not_know(command, sets, monkeypatch):
    monkeypatch.setattr("refseg.data.statistics.statistics", lambda *_, **__: {"a": [float("nan")], "b": float("inf")})
    code, out, _ = command("stats", "refcoco:val", "--data", sets, "--json")
    assert (code, json.loads(out)) == (0, {"a": [None], "b": None})


def test_a_result_without_clean_images_is_valid_json(command, sets):
    data = open_data("refcoco:val", sets, text_field="raw")
    result = make_result(list(outcomes(data)), data, PROTOCOLS["lavt"], made_by={"model": "x"})
    save_result(result, sets / "result.json")
    Path("ids.txt").write_text("1\n2\n3\n")
    words = ("leak", "refcoco:val", "--data", sets, "--against", "ids.txt", "--result", sets / "result.json", "--json")

    def unknown(name):
        raise AssertionError(f"{name} is not JSON")

    scores = json.loads(command(*words)[1], parse_constant=unknown)["scores"]
    assert scores["clean"]["images"] == 0
    assert scores["leaked"]["images"] == 3


# ── show ──


def test_photos_are_described(command, own):
    runs = {"size": [24, 32], "counts": [192, 192, 384]}
    instances = [{"category": "dog", "rle": runs}]
    row = {"image": "images/a.png", "height": 24, "width": 32, "instances": instances}
    (own / "data.csv").unlink()
    (own / "annotations.jsonl").write_text(json.dumps(row), encoding="utf-8")
    code, out, err = command("describe", own, "--out", "described", "--copy")
    assert (code, err) == (0, "")
    assert out.startswith("1 image, ")
    assert command("check", "described")[0] == 0
    assert command("check", own)[0] == 0


def test_what_cannot_be_described_is_an_error_in_one_line(error_of, own, tmp_path):
    error_of("describe", own, "--out", "described")  # neither COCO's nor LabelMe's annotations
    error_of("describe", tmp_path / "none", "--out", "described")
    error_of("describe", own, "--out", own)
    error_of("describe", own, "--out", "described", "--seed", "-1")


def test_samples_are_drawn(command, own):
    for name in ("sheet.png", "sheet.jpg", "sheet.html"):
        code, out, err = command("show", own, "--out", name)
        assert (code, out, err) == (0, f"2 of 2 references -> {name}\n", "")
        assert Path(name).stat().st_size > 1000
    code, out, _ = command("show", f"{own}:train", "--out", "one.png", "--ids", "2", "--columns", "1")
    assert (code, out) == (0, "1 of 1 references -> one.png\n")


def test_letters_that_a_sheet_cannot_show_are_noted(command, own):
    text = (own / "data.csv").read_text(encoding="utf-8").replace("a dog", "собака")
    (own / "data.csv").write_text(text, encoding="utf-8")
    assert "write .html to read them" in command("show", own, "--out", "sheet.png")[2]
    assert command("show", own, "--out", "sheet.html")[2] == ""
    assert "собака" in Path("sheet.html").read_text(encoding="utf-8")


# ── prepare ──


def test_only_the_images_of_the_splits_are_fetched(command, sets, monkeypatch):
    asked = {}

    def prepare(name, root, *, needed, **options):
        asked.update(name=name, root=root, files=needed(root), **options)
        return fetching.Report(name=name, folder=root, fetched=3, kept=1, size=2_500_000, unverified=("refcoco.zip",))

    monkeypatch.setattr(fetching, "prepare", prepare)
    code, out, err = command(
        *("prepare", "refcoco", "--data", sets, "--split", "val", "testA", "--workers", "2"),
        *("--mirror", "http://localhost/x", "--sha256", "refcoco.zip=" + "0" * 64),
    )
    assert (code, out) == (0, "refcoco: fetched 3 files (2.5 MB), kept 1\n")
    assert "no checksum of refcoco.zip is known" in err
    assert asked["files"] == [f"COCO_train2014_{i:012d}.jpg" for i in (1, 2, 3)]
    assert (asked["name"], asked["splits"], asked["mirrors"]) == ("refcoco", ("val", "testA"), ["http://localhost/x"])
    assert (asked["images"], asked["workers"], asked["sha256"]) == (True, 2, {"refcoco.zip": "0" * 64})


def test_a_set_that_was_split_in_several_ways_comes_in_one_archive(command, sets, monkeypatch):
    asked = {}

    def prepare(name, root, *, needed, **options):
        asked.update(name=name, files=needed(root), **options)
        return fetching.Report(name=name, folder=root)

    monkeypatch.setattr(fetching, "prepare", prepare)
    assert command("prepare", "refcocog-umd", "--data", sets, "--no-images")[0] == 0
    assert (asked["name"], asked["images"], asked["splits"]) == ("refcocog", False, ())
    assert asked["files"] == [f"COCO_train2014_{i:012d}.jpg" for i in (2, 9)]


def test_existing_files_are_not_fetched_again(command, sets):
    code, out, err = command("prepare", "refcoco", "--data", sets, "--split", "val")
    assert (code, out, err) == (0, "refcoco: fetched 0 files (0.0 MB), kept 4\n", "")


@pytest.mark.real
def test_real_references_are_looked_at(command, real_data):
    assert command("check", "refcoco", "--data", real_data)[0] == 0
    assert command("stats", "refcoco", "--data", real_data, "--masks")[0] == 0
    assert command("show", "refcoco", "--data", real_data, "--out", "sheet.png")[0] == 0
    assert command("leak", "refcoco:testA", "--data", real_data, "--against", "coco-train2014")[0] == 0
