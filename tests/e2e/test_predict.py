"""`refseg predict`, and what the command line says to input that it cannot use. Mostly in process, which is faster."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from refseg.cli import predict as verb
from refseg.cli.main import VERBS, main
from refseg.predictor import Predictor

CUP = "the cup on the left"


@pytest.fixture
def command(capsys, model_folder, tmp_path, monkeypatch):
    """Runs `refseg predict` on the tiny model in an empty folder: returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words, model=model_folder, device="cpu"):
        code = main(["predict", *map(str, words), "--model", str(model), "--device", device])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def error_of(command):
    """Runs `refseg predict`, which must refuse: in one line, with exit code 2, writing nothing. Returns the line."""

    def run(*words, **options):
        code, out, err = command(*words, **options)
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        assert len(err.splitlines()) == 1, err
        assert err.endswith("\n")
        assert files_in(Path("predictions")) == []
        return err

    return run


@pytest.fixture
def stdin(monkeypatch):
    """Puts bytes on stdin."""
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def results(folder="predictions"):
    return [json.loads(line) for line in Path(folder, "results.jsonl").read_text(encoding="utf-8").splitlines()]


def result(name, folder="predictions"):
    """The line of an image and the number of an expression, such as `photo__000`."""
    (found,) = (one for one in results(folder) if one["mask"].startswith(f"{name}-"))
    return found


def mask(name, folder="predictions"):
    with Image.open(Path(folder, result(name, folder)["mask"])) as image:
        assert image.mode == "L"
        return np.asarray(image)


# ── what is written ──


def test_names_tell_the_image_and_the_words(command, photo):
    code, out, err = command(photo, CUP, "The 2nd ring, of/3!")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 2
    names = ("photo__000-the-cup-on-the-left", "photo__001-The-2nd-ring-of-3")
    files = [f"{name}{ending}" for name in names for ending in (".png", "_overlay.jpg")]
    assert files_in(Path("predictions")) == sorted([*files, "results.jsonl"])


def test_the_mask_is_black_and_white_at_the_photos_size(command, photo):
    command(photo, CUP, "the second ring", "blue square")
    masks = [mask(f"photo__{number:03d}") for number in range(3)]
    assert {one.shape for one in masks} == {(64, 96)}
    assert set(np.unique(masks)) == {0, 255}
    with Image.open(Path("predictions", result("photo__000")["overlay"])) as overlay:
        assert (overlay.mode, overlay.size) == ("RGB", (96, 64))


def test_overlays_can_be_left_out(command, photo):
    assert command(photo, CUP, "--no-overlay")[0] == 0
    assert files_in(Path("predictions")) == ["photo__000-the-cup-on-the-left.png", "results.jsonl"]
    assert result("photo__000")["overlay"] is None


def test_the_overlay_of_a_large_image_is_scaled_to_be_looked_at(command):
    Image.new("RGB", (3200, 40), "red").save("wide.png")
    command("wide.png", CUP)
    with Image.open(Path("predictions", result("wide__000")["overlay"])) as overlay:
        assert overlay.size == (1600, 20)
    assert mask("wide__000").shape == (40, 3200)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools, as it decodes
def test_the_json_says_what_the_mask_shows(command, photo, model_folder):
    command(photo, "the second ring")
    said, shown = result("photo__000"), mask("photo__000") > 0
    assert said.keys() == {
        *("image", "expression", "score", "empty", "box", "segmentation", "threshold", "truncated", "model", "runtime"),
        *("mask", "overlay"),
    }
    assert (coco.decode(said["segmentation"]) == shown).all()
    assert said["segmentation"]["size"] == [64, 96]
    rows, columns = np.nonzero(shown)
    assert said["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert 0 < said["score"] < 1
    assert (said["empty"], said["truncated"], said["threshold"]) == (False, False, 0.35)
    assert (said["image"], said["model"], said["runtime"]) == (str(photo), str(model_folder), "torch")
    name = "photo__000-the-second-ring"
    assert (said["mask"], said["overlay"]) == (f"{name}.png", f"{name}_overlay.jpg")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_where_nothing_fits_the_mask_is_black_and_there_is_no_box(command, photo):
    code, out, _ = command(photo, CUP, "--threshold", "0.999999")
    assert code == 0
    assert "nothing fits" in out
    assert not mask("photo__000").any()
    said = result("photo__000")
    assert (said["empty"], said["box"], said["score"]) == (True, None, 0)
    assert not coco.decode(said["segmentation"]).any()


@pytest.mark.parametrize(
    "expression",
    ["  the   cup ", "🟥 the 👍🏽 one", "🟥", "左边的杯子", "l'été\tdernier", '"quoted" \\ & <b>', "../../up"],
)
def test_expressions_are_kept_verbatim(command, photo, expression):
    code, out, _ = command(photo, expression, "--json")
    assert code == 0
    assert result("photo__000")["expression"] == expression
    assert json.loads(out)["expression"] == expression


def test_json_prints_the_lines_of_the_file(command, photo):
    code, out, err = command(photo, CUP, "blue square", "--json")
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == results()
    assert len(results()) == 2


def test_results_are_written_as_they_come(command, photo, monkeypatch):
    seen = []
    real = Predictor.encode
    monkeypatch.setattr(
        Predictor, "encode", lambda *words, **names: seen.append(files_in(Path("predictions"))) or real(*words, **names)
    )
    shutil.copy(photo, "other.png")
    command(photo, "other.png", CUP, "--no-overlay")
    assert seen == [[], ["photo__000-the-cup-on-the-left.png", "results.jsonl"]]


def test_each_image_is_decoded_once(command, photo, monkeypatch):
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda *words, **names: opened.append(words) or real(*words, **names))
    command(photo, CUP, "blue square")
    assert len(opened) == 1


def test_a_photo_is_turned_as_its_camera_noted(command, photo_pixels, tmp_path):
    noted = Image.Exif()
    noted[0x0112] = 6  # a quarter turn clockwise is still to be done
    Image.fromarray(np.ascontiguousarray(np.rot90(photo_pixels))).save(tmp_path / "turned.png", exif=noted)
    Image.fromarray(photo_pixels).save(tmp_path / "upright.png")
    assert command(tmp_path / "turned.png", tmp_path / "upright.png", "blue square")[0] == 0
    assert mask("turned__000").shape == (64, 96)
    assert (mask("turned__000") == mask("upright__000")).all()


def test_several_images_and_the_same_name_in_two_folders(command, photo_pixels):
    for folder, flip in (("a", photo_pixels), ("b", photo_pixels[:, ::-1])):
        Path(folder).mkdir()
        Image.fromarray(np.ascontiguousarray(flip)).save(f"{folder}/x.png")
    Image.fromarray(photo_pixels[:32]).save("y.png")
    code, out, _ = command("a/x.png", "b/x.png", "y.png", "blue square", "--json")
    assert code == 0
    assert [(one["image"], one["mask"]) for one in map(json.loads, out.splitlines())] == [
        ("a/x.png", "x__000-blue-square.png"),
        ("b/x.png", "x-2__000-blue-square.png"),
        ("y.png", "y__000-blue-square.png"),
    ]
    assert len(files_in(Path("predictions"))) == 7
    assert (mask("x__000") != mask("x-2__000")).any()
    assert mask("y__000").shape == (32, 96)


def test_asking_together_is_asking_alone(command, photo):
    command(photo, CUP, "blue square")
    command(photo, CUP, "--out", "first")
    command(photo, "blue square", "--out", "second")
    for together, folder in (("photo__000", "first"), ("photo__001", "second")):
        assert (mask(together) == mask("photo__000", folder)).all()
        assert result(together)["score"] == pytest.approx(result("photo__000", folder)["score"], abs=2e-6)


def test_the_same_command_gives_the_same_bytes(command, photo):
    def run(folder):
        command(photo, CUP, "--out", folder)
        return [hashlib.sha256(Path(folder, name).read_bytes()).hexdigest() for name in files_in(Path(folder))]

    assert run("one") == run("two")


def test_the_precision_is_passed_on(command, photo, monkeypatch, predictor):
    asked = []
    monkeypatch.setattr("refseg.predictor.load", lambda *_, **options: asked.append(options) or predictor)
    command(photo, CUP, "--precision", "fast")
    command(photo, CUP)
    assert [options["precision"] for options in asked] == ["fast", "exact"]


UNUSED = ("transformers", "pyarrow", "onnxruntime", "huggingface_hub", "torch._dynamo", "sympy", "ftfy", "onnx")
PREDICT = f"""
import sys
from refseg.cli.main import main
code = main(["predict", *sys.argv[1:], "--device", "cpu"])
print(code, [name for name in {UNUSED} if name in sys.modules])
"""


@pytest.mark.slow
def test_predicting_imports_only_what_it_needs(photo, model_folder, tmp_path):
    words = [photo, CUP, "--model", model_folder, "--runtime", "torch"]
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, *map(str, words)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_a_device_without_bfloat16_is_no_silent_fallback(error_of, photo, monkeypatch):
    monkeypatch.setattr("refseg.runtimes.torch.has_bfloat16", lambda device: False)
    assert "take exact" in error_of(photo, CUP, "--precision", "fast")


def test_a_threshold_moves_the_border(command, photo):
    areas = []
    for threshold in ("0.2", "0.35", "0.5"):
        command(photo, "blue square", "--threshold", threshold, "--out", threshold)
        areas.append(np.count_nonzero(mask("photo__000", threshold)))
        assert result("photo__000", threshold)["threshold"] == float(threshold)
    assert areas[0] > areas[1] > areas[2]


def test_the_bundled_model_is_the_default(tmp_path, photo, monkeypatch, model_folder):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr("refseg.models.hub.resolve", lambda name: asked.append(name) or model_folder)
    assert main(["predict", str(photo), CUP]) == 0
    assert asked == ["photos"]
    assert len(files_in(Path("predictions"))) == 3


def test_a_model_that_does_not_know_photos_says_so_once(command, photo, model_folder, tmp_path):
    for domain, said in (("generated scenes", 1), ("photos", 0)):
        folder = Path(shutil.copytree(model_folder, tmp_path / domain))
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, "domain": domain}))
        code, _, err = command(photo, photo, CUP, model=folder)
        assert code == 0
        assert len(err.splitlines()) == said
        assert domain in err or not said


# ── where expressions and images come from ──


def test_expressions_from_a_file(command, photo):
    Path("words.txt").write_bytes("\ufeffthe cup\r\n\n  左边\n   \nlast".encode())
    assert command(photo, "first", "--expressions", "words.txt")[0] == 0
    assert [result(f"photo__{i:03d}")["expression"] for i in range(4)] == ["first", "the cup", "  左边", "last"]


@pytest.mark.parametrize("words", [("-",), ("--expressions", "-")])
def test_expressions_from_stdin(command, photo, stdin, words):
    stdin(b"the cup\nthe ring\n")
    assert command(photo, *words)[0] == 0
    assert [result(f"photo__{i:03d}")["expression"] for i in range(2)] == ["the cup", "the ring"]


def test_an_image_from_stdin(command, photo, stdin):
    stdin(photo.read_bytes())
    assert command("-", photo, CUP)[0] == 0
    assert (mask("stdin__000") == mask("photo__000")).all()


def test_a_folder_of_images(command, photo):
    Path("photos/below").mkdir(parents=True)
    for name in ("b.png", "a.PNG", ".hidden.png", "below/c.png", "notes.txt"):
        shutil.copy(photo, f"photos/{name}")
    Path("more").mkdir()
    shutil.copy(photo, "more/d.png")
    assert command("photos", "more/", "photos")[0] == 0
    assert [(Path(one["image"]).name, one["expression"]) for one in results()] == [
        ("a.PNG", "photos"),
        ("b.png", "photos"),
        ("d.png", "photos"),
    ]


def test_a_folder_without_images(error_of):
    Path("photos").mkdir()
    assert "without images" in error_of("photos", CUP)


def test_an_image_whose_name_begins_with_a_dash(command, photo):
    shutil.copy(photo, "-x.png")
    assert command("--json", "--", "-x.png", "-1 cup")[0] == 0
    assert (results()[0]["image"], results()[0]["expression"]) == ("-x.png", "-1 cup")


def test_an_image_from_a_pipe_among_others(command, photo, tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    with subprocess.Popen(["cp", str(photo), str(pipe)]):
        assert command(pipe, photo, CUP)[0] == 0
    assert (mask("pipe__000") == mask("photo__000")).all()


@pytest.mark.parametrize("words", [("-", "-"), ("-", "-", CUP), ("-", CUP, "--expressions", "-")])
def test_stdin_is_for_one_thing(error_of, stdin, words):
    stdin(b"")
    assert "only once" in error_of(*words)


def test_closed_stdin(error_of, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert "stdin is closed" in error_of("-", CUP)


# ── unusual, and fine ──


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000)])
def test_odd_sizes_work(command, size):
    Image.new("RGB", size, "red").save("odd.png")
    assert command("odd.png", CUP)[0] == 0
    assert mask("odd__000").shape == size[::-1]


def test_a_long_expression_is_cut_with_a_warning(command, photo):
    long = "the cup " * 1250
    code, out, err = command(photo, long)
    assert code == 0
    assert len(err.splitlines()) == 1
    assert "longer than the model reads" in err
    assert len(err + out) < 500
    assert result("photo__000")["truncated"] is True
    assert result("photo__000")["expression"] == long


def test_one_enormous_word_is_no_trouble(command, photo):
    assert command(photo, "x" * 10_000)[0] == 0
    assert result("photo__000")["truncated"] is True


# ── errors: images ──


def tiny_png(width, height):
    """A PNG of a few bytes whose header declares any size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def test_a_missing_image(error_of):
    assert "there is no file 'nowhere.jpg'" in error_of("nowhere.jpg", CUP)


def test_a_folder_for_an_image(error_of):
    Path("photos.jpg").mkdir()
    assert "folder" in error_of("photos.jpg", CUP)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"this is text\n" * 100, "not an image"),
        (b"", "empty (0 bytes)"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, ""),
        (tiny_png(60_000, 60_000), "too large"),
        (tiny_png(2**31 - 1, 2**31 - 1), ""),
        (tiny_png(500, 500), "broken"),
    ],
    ids=["text", "empty", "start of a JPEG", "bomb", "enormous bomb", "missing pixels"],
)
def test_files_that_are_no_images(error_of, content, said):
    Path("file.jpg").write_bytes(content)
    assert said in error_of("file.jpg", CUP)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_jpeg(error_of, photo_pixels, share):
    whole = io.BytesIO()
    Image.fromarray(photo_pixels).save(whole, "JPEG", quality=95)
    Path("cut.jpg").write_bytes(whole.getvalue()[: int(len(whole.getvalue()) * share)])
    assert "cut.jpg" in error_of("cut.jpg", CUP)


def test_a_name_too_long_for_a_file(error_of):
    error_of("n" * 5000 + ".jpg", CUP)


def test_a_long_name_and_long_words_are_cut_in_the_names_of_files(command, photo):
    for name in ("n" * 250, "左" * 80):
        shutil.copy(photo, name)
        assert command(name, "杯" * 300)[0] == 0
    assert result("n" * 100 + "__000")["image"] == "n" * 250


def test_a_broken_image_does_not_stop_the_others(command, photo):
    Path("broken.jpg").write_bytes(b"")
    code, out, err = command("broken.jpg", photo, "missing.jpg", photo, CUP)
    assert code == 2
    assert len(out.splitlines()) == len(results()) == 2
    first, second = err.splitlines()
    assert "broken.jpg" in first
    assert "missing.jpg" in second


def test_an_image_above_the_limit(error_of, command, photo):
    assert "the limit is 6,143" in error_of(photo, CUP, "--max-pixels", 6143)
    assert "--max-pixels" in error_of(photo, CUP, "--max-pixels", 0)
    assert command(photo, CUP, "--max-pixels", 6144)[0] == 0


# ── errors: words and numbers ──


@pytest.mark.parametrize("expression", [" ", "\t\n \u3000"])
def test_a_blank_expression(error_of, photo, expression):
    assert "blank" in error_of(photo, expression)


@pytest.mark.parametrize(
    "words", [("", CUP), ("{photo}", ""), ("{photo}", CUP, "--out", ""), ("{photo}", CUP, "--expressions=")]
)
def test_an_empty_argument(error_of, photo, words):
    assert "empty" in error_of(*(word.format(photo=photo) for word in words))


@pytest.mark.parametrize("words", [("\udcff.png", CUP), ("{photo}", "\udcff"), ("{photo}", CUP, "--out", "\udcff")])
def test_bytes_that_are_not_utf_8(error_of, photo, words):
    assert "not UTF-8" in error_of(*(word.format(photo=photo) for word in words))


def test_no_expression(error_of, photo):
    assert "no expression" in error_of(photo)


def test_a_file_of_expressions_that_is_missing_empty_or_no_text(error_of, photo):
    assert "No such file" in error_of(photo, "--expressions", "missing.txt")
    Path("empty.txt").write_text("\n \n")
    assert "no expression" in error_of(photo, "--expressions", "empty.txt")
    assert "not UTF-8" in error_of(photo, "--expressions", photo)


@pytest.mark.parametrize("threshold", ["0", "1", "-0.1", "nan", "inf"])
def test_a_threshold_out_of_range(error_of, photo, threshold):
    assert "between 0 and 1" in error_of(photo, CUP, f"--threshold={threshold}")


def test_a_threshold_that_is_no_number(error_of, photo):
    assert "invalid float value: 'half'" in error_of(photo, CUP, "--threshold", "half")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(error_of, photo):
    assert "no cuda device" in error_of(photo, CUP, device="cuda")


# ── errors: models ──


def test_an_unknown_model(error_of, photo):
    assert "did you mean 'shapes'?" in error_of(photo, CUP, model="shape")


def test_a_folder_that_is_no_model(error_of, photo, tmp_path):
    (tmp_path / "folder").mkdir()
    assert "config.json" in error_of(photo, CUP, model=tmp_path / "folder")


def test_a_model_folder_without_weights_or_with_half_of_them(error_of, photo, model_folder, tmp_path):
    folder = Path(shutil.copytree(model_folder, tmp_path / "half"))
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for kept in (whole[: len(whole) // 2], whole[:100], whole[:4], b"", b"\xff" * 64):
        weights.write_bytes(kept)
        assert "model.safetensors" in error_of(photo, CUP, model=folder)
    weights.unlink()
    assert "missing" in error_of(photo, CUP, model=folder)


def test_weights_of_another_architecture(error_of, photo, model_folder, tmp_path):
    folder = Path(shutil.copytree(model_folder, tmp_path / "other"))
    values = json.loads((folder / "config.json").read_text())
    values["config"]["decoder_layers"] = 2
    (folder / "config.json").write_text(json.dumps(values))
    assert "decoder_layers" in error_of(photo, CUP, model=folder)


def test_a_checkpoint_for_a_model(error_of, photo, tmp_path):
    torch.save({}, tmp_path / "model.pth")
    assert "refseg convert" in error_of(photo, CUP, model=tmp_path / "model.pth")


class Trap:
    """Unpickling it runs code that leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.mark.parametrize("how", ["pickle", "torch", "legacy torch"])
def test_code_in_a_checkpoint_is_not_run(capsys, tmp_path, how):
    sprung, checkpoint = tmp_path / "sprung", tmp_path / "trap.pth"
    if how == "pickle":
        checkpoint.write_bytes(pickle.dumps({"state_dict": Trap(sprung)}))
    else:
        torch.save({"state_dict": Trap(sprung)}, checkpoint, _use_new_zipfile_serialization=how == "torch")
    assert main(["convert", str(checkpoint), str(tmp_path / "folder")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert not sprung.exists()
    assert not (tmp_path / "folder").exists()
    if how == "pickle":  # the trap itself works
        pickle.loads(checkpoint.read_bytes())
        assert sprung.exists()


# ── errors: where to write ──


def test_an_output_below_a_file(error_of, photo):
    Path("file").write_text("kept")
    assert "cannot be written" in error_of(photo, CUP, "--out", "file/below")
    assert "cannot be written" in error_of(photo, CUP, "--out", "file")
    assert Path("file").read_text() == "kept"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_an_output_where_no_file_can_be(error_of, photo):
    assert "cannot be written" in error_of(photo, CUP, "--out", "/proc/refseg")
    assert "has files already" in error_of(photo, CUP, "--out", "/proc")


@pytest.mark.parametrize("fails_at", ["cup.png", "cup_overlay.jpg"])
def test_a_full_disk_leaves_no_part_of_a_result(error_of, photo, monkeypatch, fails_at):
    real_save = Image.Image.save

    def save(self, path, *args, **kwargs):
        real_save(self, path, *args, **kwargs)
        if Path(path).name.endswith(fails_at):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    assert "No space left on device" in error_of(photo, "cup")


def test_a_run_never_mixes_with_another(command, photo):
    for _ in range(3):
        assert command(photo, CUP)[0] == 0
    assert files_in(Path("predictions")) == files_in(Path("predictions-2")) == files_in(Path("predictions-3"))
    Path("mine").mkdir()
    assert command(photo, CUP, "--out", "mine")[0] == 0
    before = {name: Path("mine", name).read_bytes() for name in files_in(Path("mine"))}
    code, out, err = command(photo, "blue square", "--out", "mine")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert {name: Path("mine", name).read_bytes() for name in files_in(Path("mine"))} == before


# ── the command line itself ──


def test_an_unknown_verb(capsys):
    assert main(["predikt", "x.jpg", CUP]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("refseg: unknown command 'predikt', did you mean 'predict'?")
    assert len(err.splitlines()) == 1


def test_no_arguments_show_the_help(capsys):
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name in VERBS:
        assert name in out


@pytest.mark.parametrize(
    "words", [["--nonsense"], ["predict", "a", "b", "--non\nsense"], ["predict"], ["train", "--x"]]
)
def test_arguments_that_do_not_exist(capsys, words):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "--help" in err


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_explains_itself(capsys, name):
    assert main([name, "--help"]) == 0
    assert f"usage: refseg {name}" in capsys.readouterr().out


def test_an_interrupt_is_one_line(capsys, monkeypatch):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "run", interrupt)
    assert main(["predict", "a", "b"]) == 130
    assert capsys.readouterr().err == "refseg: interrupted\n"


def python(*words, **options):
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, check=False, timeout=300, **options)


def test_as_a_process(photo, model_folder, tmp_path):
    done = python("-m", "refseg", "predict", photo, "左边 🟥", "--model", model_folder, "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["expression"] == "左边 🟥"
    assert len(files_in(tmp_path / "predictions")) == 3


def test_as_a_process_with_an_ascii_terminal(photo, model_folder, tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    words = ("-m", "refseg", "predict", photo, "été 🟥", "--model", model_folder, "--json")
    done = python(*words, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["expression"] == "été 🟥"


def test_as_a_process_that_refuses(tmp_path):
    done = python("-m", "refseg", "predict", "missing.jpg", CUP, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().splitlines() == ["refseg: there is no file 'missing.jpg'; check the path"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_or_closed_stdout_is_told_in_one_line_or_none(unbuffered):
    words = [sys.executable, "-m", "refseg", "models"]
    options = {"stderr": subprocess.PIPE, "check": False, "env": os.environ | {"PYTHONUNBUFFERED": unbuffered}}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(words, stdout=full, **options)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == ["refseg: [Errno 28] No space left on device"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, **options)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from refseg.cli.main import main; code = main(['--help']); "
        "heavy = {'torch', 'numpy', 'PIL', 'safetensors', 'tokenizers', 'jaxtyping'} & set(sys.modules); "
        "sys.exit(code or (print(heavy, file=sys.stderr) or 1 if heavy else 0))"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (0, b"")
