"""What an annotator does: thirty untidy photos are checked, mended, learnt from twice, predicted and exported."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refseg.cli.main import main
from refseg.data.shapes import Shapes
from refseg.masks import decode_rle
from refseg.models.folder import read_folder

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")]

PHOTOS = 30
TRANSPOSED = 274
"""EXIF's tag of the orientation."""
FAST = (
    *("epochs=1", "steps_per_epoch=2", "batch_size=2", "expressions_per_image=2", "sizes=[[0,64]]", "workers=0"),
    *("precision=float32", "warmup_steps=0", "validation_images=2"),
)


@pytest.fixture
def home(tmp_path, monkeypatch, no_tensorboard):
    """Thirty photos and masks, a table as a spreadsheet exports it, and faults that must be mended by hand."""
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    data, lines = Shapes("train", scale=0.5), ["sep=;", "Image ;Mask;Text;Split"]
    for scene in range(PHOTOS):
        sample = data.samples_of(scene)[0]
        name, written = f"photo {scene}.jpg", f"photo {scene}.jpg"
        if scene == 1:
            name, written = "photo 1.jpg", "photo 1.JPG"
        if scene == 2:
            name, written = (unicodedata.normalize(form, "Fuß é.jpg") for form in ("NFC", "NFD"))
        image, mask = sample.load_image(), sample.load_mask().astype(np.uint8) * 255
        if scene == 3:  # as a phone stores it: the pixels lie on their side
            exif = Image.Exif()
            exif[TRANSPOSED] = 6
            image.transpose(Image.Transpose.ROTATE_90).save(folder / "images" / written, quality=90, exif=exif)
        else:
            image.save(folder / "images" / written, quality=90)
        Image.fromarray(mask).save(folder / "masks" / f"{scene}.png")
        split = ("Train", "Train", "Train", "validation")[scene % 4]
        lines.append(f"{name};{scene}.png;{sample.expressions[0].text}  ;{split}")
    lines += ["", lines[-1], "missing.jpg;0.png;the ring;Train", "photo 5.jpg;5.png; ;Train"]
    (folder / "images" / "photo 4.jpg").write_bytes(b"no image")
    Image.new("L", (7, 9)).save(folder / "masks" / "6.png")
    (folder / "data.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
    return folder


def run(capsys, *words, code=0):
    found = main([*map(str, words)])
    out, err = capsys.readouterr()
    assert found == code, err
    return out, err


def mend(folder):
    """Take out what `data check` names, as a person would."""
    path = folder / "data.csv"
    bad = ("photo 4.jpg;", "photo 6.jpg;", "missing.jpg;", "photo 5.jpg;5.png; ;")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith(bad)), encoding="utf-8")


def test_untidy_photos_are_checked_mended_learnt_predicted_and_exported(home, model_folder, capsys):
    out, _ = run(capsys, "data", "check", "photos", code=1)
    for fault in ("missing.jpg", "photo 4.jpg", "6.png"):
        assert fault in out
    mend(home)
    out, _ = run(capsys, "data", "check", "photos", "--json")
    assert not json.loads(out)["errors"]

    train = ("train", "finetune", "--init", model_folder, "data=photos", *FAST, "--device", "cpu", "--out")
    _, err = run(capsys, *train, "run")
    assert "images" in err
    last = Path("run/last")
    assert read_folder(last).spec.decision.calibration is None
    weights = (last / "model.safetensors").read_bytes()
    out, err = run(capsys, *train, "run")
    assert "finished" in out + err

    # Another photo: the run is of other data now.
    with (home / "data.csv").open("a", encoding="utf-8") as file:
        file.write("\nphoto 5.jpg;5.png;the thing;Train\n")
    _, err = run(capsys, *train, "run", code=2)
    assert "data" in err
    assert "--out" in err
    assert (last / "model.safetensors").read_bytes() == weights
    run(capsys, *train, "run-2")

    (home / "images" / "broken.jpg").write_bytes(b"no image")
    (home / "images" / "photo 4.jpg").unlink()
    _, err = run(capsys, "predict", "photos/images/", "the ring", "--model", "run-2/last", "--out", "found", code=2)
    assert "broken.jpg" in err
    rows = [json.loads(line) for line in Path("found/results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == PHOTOS - 1
    for row in rows:
        with Image.open(Path("found") / row["mask"]) as mask:
            assert np.array_equal(np.asarray(mask) > 0, decode_rle(row["segmentation"]))

    run(capsys, "convert", "run-2/last", "export.pth")
    assert Path("export.pth").stat().st_size > 0
