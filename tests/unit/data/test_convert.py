"""Labels of other tools, as the tools themselves write them, and hostile ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from refseg.data.convert import convert_labels
from refseg.data.formats.label_studio import brush_mask
from refseg.errors import DataError, OutputError
from refseg.masks import decode_rle
from refseg.writers.label_studio import brush_runs

SQUARE = np.zeros((40, 50), bool)
SQUARE[10:30, 5:25] = True


@pytest.fixture
def labels(tmp_path):
    """A folder with a photo in each of two folders of the same structure."""
    for file in ("train/images/a.jpg", "images/a.jpg"):
        (tmp_path / "labels" / file).parent.mkdir(parents=True)
        Image.new("RGB", (50, 40)).save(tmp_path / "labels" / file)
    return tmp_path / "labels"


def converted(folder, out, **options):
    report = convert_labels(folder, out, **options)
    rows = [json.loads(line) for line in (out / "data.jsonl").read_text().splitlines()]
    return report, [(row["image"], row["text"], decode_rle(row["rle"])) for row in rows]


def yolo(folder, *lines, names='["dog", "the cup"]'):
    (folder / "train/labels").mkdir(exist_ok=True)
    (folder / "train/labels/a.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text(f"train: ../train/images\nnames: {names}\n")


def test_yolo_with_a_folder_for_each_split(labels, tmp_path):
    yolo(labels, "1 0.1 0.25 0.5 0.25 0.5 0.75 0.1 0.75", "", "0 0 0 0.1 0 0.1 0.1")
    report, rows = converted(labels, tmp_path / "out")
    assert report.problems == ()
    assert [(file, text) for file, text, _ in rows] == [
        ("images/train/images/a.jpg", "the cup"),
        ("images/train/images/a.jpg", "dog"),
    ]
    assert np.array_equal(rows[0][2], SQUARE)


@pytest.mark.parametrize(
    "line", ["1 0.5 0.5 0.2 0.2", "7 0 0 1 0 1 1", "cup 0 0 1 0 1 1", "0 0 0 nan 0 1 1", "0 0 0 1", "0"]
)
def test_yolo_rows_that_are_no_segments(labels, tmp_path, line):
    yolo(labels, line)
    with pytest.raises(DataError, match="line 1"):
        convert_labels(labels, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", ["dog", "{a: b}", "[1]", "!!python/object/apply:os.getcwd []", "["])
def test_yolo_without_names(labels, tmp_path, names):
    yolo(labels, "0 0 0 1 0 1 1", names=names)
    with pytest.raises(DataError, match=r"data\.yaml"):
        convert_labels(labels, tmp_path / "out")


def task(value, kind="brushlabels", **changes):
    sides = {"original_width": 50, "original_height": 40}
    result = {"type": kind, "value": value | {kind: ["the cup"]}, **sides}
    return {"data": {"image": "/data/upload/3/images/a.jpg"}, "annotations": [{"result": [result]}]} | changes


BRUSH = {"format": "rle", "rle": brush_runs(SQUARE)}
POLYGON = {"points": [[10, 25], [50, 25], [50, 75], [10, 75]]}


def test_label_studio(labels, tmp_path):
    other = task(POLYGON, "polygonlabels")["annotations"]
    choice = {"type": "choices", "value": {"choices": ["good"]}}
    tasks = [
        task(BRUSH),
        task(POLYGON, "polygonlabels", data={"image": "/data/local-files/?d=x/train/images/a.jpg"}),
        task({"rle": [1]}, annotations=[{"was_cancelled": True, "result": [choice]}], predictions=other),
    ]
    (labels / "export.json").write_text(json.dumps(tasks))
    report, rows = converted(labels, tmp_path / "out")
    assert report.problems == ()
    files = ["images/images/a.jpg", "images/train/images/a.jpg", "images/images/a.jpg"]
    assert [(file, text) for file, text, _ in rows] == [(file, "the cup") for file in files]
    assert all(np.array_equal(mask, SQUARE) for *_, mask in rows)


def broken(**changes):
    result = task(BRUSH)["annotations"][0]["result"][0] | changes
    return task(BRUSH, annotations=[{"result": [result]}])


@pytest.mark.parametrize(
    "value",
    [
        task({"rle": [0, 0, 31, 64]}),
        task({"rle": brush_runs(SQUARE)[:-4]}),
        task({"rle": [256]}),
        task({"rle": "text"}),
        task(POLYGON | {"points": [[0, 0], [1]]}, "polygonlabels"),
        task({}, "polygonlabels"),
        task(BRUSH, data={"image": "/data/upload/none.jpg"}),
        task(BRUSH, data={"image": "/data/local-files/?d=../../../etc/passwd"}),
        task(BRUSH, data=[]),
        task(BRUSH, annotations=[1]),
        task(BRUSH, annotations=[]),
        broken(original_width=10**9),
        broken(original_width="50"),
        broken(value={"brushlabels": ["a", "b"], "rle": []}),
        broken(value={"brushlabels": [" "], "rle": brush_runs(SQUARE)}),
    ],
)
def test_label_studio_tasks_that_cannot_be_used(labels, tmp_path, value):
    (labels / "export.json").write_text(json.dumps([value]))
    with pytest.raises(DataError):
        convert_labels(labels, tmp_path / "out")


def packed(*numbers):
    """Bytes of numbers, each with its bits."""
    bits = "".join(f"{number:0{width}b}" for number, width in numbers)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


HEAD = ((8, 32), (7, 5), (2, 4), (3, 4), (7, 4), (15, 4))


def test_a_brush_with_values_that_do_not_repeat():
    runs = packed(
        *HEAD, (0, 1), (0, 2), (4, 3), *[(value, 8) for value in (9, 9, 9, 0, 9)], (1, 1), (1, 2), (2, 4), (5, 8)
    )
    assert brush_mask(runs, (1, 2)).tolist() == [[False, True]]


def test_a_run_beyond_the_image_of_a_brush():
    with pytest.raises(DataError):
        brush_mask(packed(*HEAD, (1, 1), (3, 2), (8, 16), (255, 8)), (1, 2))


def test_labelme_beside_a_folder_of_the_same_name(labels, tmp_path):
    shape = {"label": "the cup", "points": [[5, 10], [25, 10], [25, 30], [5, 30]], "shape_type": "polygon"}
    content = {"imagePath": "../images/a.jpg", "imageHeight": 40, "imageWidth": 50, "shapes": [shape, shape]}
    (labels / "train/a.json").write_text(json.dumps(content | {"imagePath": "images\\a.jpg"}))
    (labels / "other").mkdir()
    (labels / "other/a.json").write_text(json.dumps(content))
    (labels / "other/broken.json").write_text('{"shapes": [')
    report, rows = converted(labels, tmp_path / "out", copy=True)
    assert len(report.problems) == 1
    assert [file for file, *_ in rows] == ["images/images/a.jpg", "images/train/images/a.jpg"]
    assert all(np.array_equal(mask, SQUARE) for *_, mask in rows)
    assert (tmp_path / "out/images/train/images/a.jpg").is_file()
    with pytest.raises(OutputError, match="exists"):
        convert_labels(labels, tmp_path / "out")


def test_a_folder_without_labels(labels, tmp_path):
    for folder in (labels, labels / "none"):
        with pytest.raises(DataError):
            convert_labels(folder, tmp_path / "out")
