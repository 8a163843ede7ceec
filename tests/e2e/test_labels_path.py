"""A user's path: photos are labelled, reviewed, corrected in another tool, read back, learnt from, and scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refseg.cli.main import main
from refseg.data.examples import EXAMPLES
from refseg.data.verdicts import Correction, Verdict, Verdicts
from refseg.masks import decode_rle, encode_rle
from refseg.models.folder import read_folder

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")]

PHOTOS, REVIEWED, CORRECTED = 30, 3, 1
BOX = (100, 80)
"""Width and height of the corrected masks, pixels."""
LEFT, RIGHT = "the cat on the left", "the cat on the right"
A_STEP = (
    *("epochs=1", "steps_per_epoch=1", "batch_size=2", "expressions_per_image=1", "sizes=[[0,64]]", "workers=0"),
    *("precision=float32", "warmup_steps=0", "validation_images=2"),
)


@pytest.fixture
def home(tmp_path, monkeypatch, no_tensorboard):
    """Thirty photos, each with a border of another width cut off, and a table of what is asked."""
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    lines = ["image,expression"]
    with Image.open(EXAMPLES / "cats.jpg") as photo:
        for number in range(PHOTOS):
            file = f"{number:02}.jpg"
            photo.crop((0, 0, photo.width - number, photo.height)).save(f"photos/{file}")
            lines += [f"{file},{LEFT}", f"{file},{RIGHT}"]
    Path("asked.csv").write_text("\n".join(lines), encoding="utf-8")


def run(capsys, *words, code=0):
    found = main([*words])
    out, err = capsys.readouterr()
    assert found == code, err
    return out, err


def review(folder, file):
    """Decide, as on the page of `refseg review`, that the first expression is about a box."""
    with Image.open(folder / "images" / file) as photo:
        mask = np.zeros((photo.height, photo.width), bool)
    mask[: BOX[1], : BOX[0]] = True
    answer = Correction(text=LEFT, score=1.0, rle=encode_rle(mask), threshold=None)
    Verdicts(folder).add(Verdict(image=file, text=LEFT, kept=True, correction=answer))


def correct(file):
    """Replace the mask of the first expression by a box, as a person would in LabelMe."""
    content = json.loads(file.read_text(encoding="utf-8"))
    kept = [shape for shape in content["shapes"] if shape["label"] != LEFT]
    (width, height), shape = BOX, {"label": LEFT, "group_id": None, "shape_type": "polygon"}
    shape["points"] = [[0, 0], [width, 0], [width, height], [0, height]]
    file.write_text(json.dumps(content | {"shapes": [shape, *kept]}), encoding="utf-8")


def test_thirty_photos_are_labelled_corrected_learnt_from_and_scored(home, capsys):
    label = ("label", "photos", "--expressions", "asked.csv", "--to", "labelme", "--out", "labelled")
    out, _ = run(capsys, *label)
    assert f"{PHOTOS} photos, {2 * PHOTOS} masks by photos" in out
    files = {path: path.read_bytes() for path in Path("labelled").rglob("*") if path.is_file()}
    assert run(capsys, *label)[0] == out
    assert {path: path.read_bytes() for path in files} == files, "the same again gives the same files"
    assert Path("labelled/contact.jpg") in files

    for number in range(REVIEWED):
        review(Path("labelled"), f"{number:02}.jpg")
    out, _ = run(capsys, "review", "labelled", "--write")
    assert f"{REVIEWED} reviewed" in out
    for number in range(REVIEWED, REVIEWED + CORRECTED):
        correct(Path(f"labelled/labelme/{number:02}.json"))
    _, err = run(capsys, *label, code=2)
    assert "was changed" in err

    run(capsys, "data", "convert", "labelled/labelme", "--images", "photos", "--out", "corrected")
    rows = [json.loads(line) for line in Path("corrected/data.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 2 * PHOTOS
    boxes = [row["image"] for row in rows if decode_rle(row["rle"]).sum() == BOX[0] * BOX[1]]
    assert boxes == [f"images/{number:02}.jpg" for number in range(REVIEWED + CORRECTED)]
    run(capsys, "evaluate", "photos", "corrected:all", "--limit", "6", "--out", "before.json")
    outcomes = [json.loads(line) for line in Path("before.jsonl").read_text(encoding="utf-8").splitlines()]
    same = [one for one in outcomes if one["intersection"] == one["union"]]
    assert len(same) == 2 * 6 - REVIEWED - CORRECTED, "all others are the answers of the model, pixel for pixel"

    train = ("train", "finetune", "--init", "photos", "data=corrected", *A_STEP, "--device", "cpu", "--out", "run")
    run(capsys, *train)
    assert read_folder(Path("run/last")).spec.decision.calibration is None
    run(capsys, "evaluate", "run/last", "corrected:all", "--limit", "2", "--device", "cpu", "--out", "after.json")
    assert 0 <= json.loads(Path("after.json").read_text(encoding="utf-8"))["mean_iou"] <= 1
