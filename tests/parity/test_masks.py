"""Masks of COCO's annotations against values recorded from pycocotools, and real data sets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from refseg.data.catalogue import open_data
from refseg.data.formats.refer import refer
from refseg.data.formats.regions import coco_parts, paint
from refseg.data.references import References
from refseg.inputs.read import read_mask
from refseg.masks import decode_rle, encode_rle

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "coco_masks.json").read_text())["masks"]
"""Size, area, box, run lengths and checksum of 108 annotations that RefCOCOg refers to, and of five crowds."""


@pytest.mark.parametrize("row", RECORDED, ids=[str(row["id"]) for row in RECORDED])
def test_run_lengths_equal_those_of_pycocotools(row):
    rle = {"size": row["size"], "counts": row["counts"]}
    mask = decode_rle(rle)
    assert hashlib.sha256(np.ascontiguousarray(mask, dtype=np.uint8).tobytes()).hexdigest() == row["sha256"]
    assert mask.sum() == row["area"]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top, width, height = row["box"]
    assert (columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1) == (left, top, width, height)
    assert encode_rle(mask) == rle


@pytest.mark.real
def test_polygons_equal_those_of_pycocotools(real_data):
    values = json.loads((real_data / "refcocog_umd_subset" / "instances.json").read_text())
    recorded = {row["id"]: row for row in RECORDED}
    compared = 0
    for annotation in values["annotations"]:
        row = recorded.get(annotation["id"])
        if row is not None:
            size = tuple(row["size"])
            mask = paint(coco_parts(annotation["segmentation"], size), *size).target
            assert np.array_equal(mask, decode_rle({"size": row["size"], "counts": row["counts"]}))
            compared += 1
    assert compared == 108


@pytest.mark.real
@pytest.mark.parametrize(
    ("data", "references", "expressions"),
    [
        ("refcoco:testA", 10, None),
        ("refcoco:testB", 2, None),
        ("refcocog-umd:train", 1, 2),
        ("refcocog-google:val", 3, None),
    ],
)
def test_real_references_have_their_images_and_masks(real_data, data, references, expressions):
    samples = open_data(data, real_data)
    assert len(samples) == references
    if expressions is not None:
        assert samples.totals()["expressions"] == expressions
    for sample in samples:
        mask = sample.load_mask()
        assert mask.shape == sample.load_image().size[::-1]
        assert mask.any()


@pytest.mark.real
def test_a_subset_of_refcocog_is_read(real_data):
    folder = real_data / "refcocog_umd_subset"
    samples = References(refer(folder, "refs(umd).p"), "refcocog-umd", "all")
    assert samples.totals() == {"images": 15, "references": 15, "expressions": 28}
    assert all(sample.load_mask().any() for sample in samples)


@pytest.mark.real
def test_masks_and_their_iou_equal_published_values(real_data):
    golden = real_data.parent / "golden" / "iou_golden.json"
    if not golden.is_file():
        pytest.skip("the published values are not next to the real data")
    read = {sample.id: sample for sample in open_data("refcoco:testA", real_data)}
    for row in json.loads(golden.read_text())["samples"]:
        target = read_mask(real_data / "masks" / row["gt_mask"])
        predicted = read_mask(real_data / "masks" / row["pred_mask"])
        both, either = int((target & predicted).sum()), int((target | predicted).sum())
        assert (int(target.sum()), int(predicted.sum()), both, either) == (
            *(row["gt_area"], row["pred_area"], row["inter"], row["union"]),
        )
        assert both / either == pytest.approx(row["stated_iou"], abs=0.01)
        assert np.array_equal(read[str(row["ref_id"])].load_mask(), target)
        assert row["text"] in {one.text for one in read[str(row["ref_id"])].expressions}
