"""Published numbers: each of a known data set and split, with one kind of IoU and a source that can be found."""

from __future__ import annotations

import re

import pytest

from refseg.data.catalogue import DATA_SETS
from refseg.evaluation.protocols import PROTOCOLS
from refseg.published import all_published, catalogue_name, published, published_scores


def test_every_number_is_of_a_split_that_the_catalogue_has():
    for row in all_published():
        assert row.split in DATA_SETS[row.data].splits, row
        assert row.split != "train"
        assert 25 < row.value < 90, "in percent"


def test_every_number_occurs_once():
    keys = [(row.system, row.backbone, row.metric, row.data, row.split) for row in all_published()]
    assert len(keys) == len(set(keys))


def test_every_number_has_a_source_that_can_be_read():
    for row in all_published():
        assert row.sources, row
        for source in row.sources:
            assert len(source.name) > 3
            assert not re.fullmatch(r"S\d+", source.name)
            assert source.url == "" or source.url.startswith("https://")
        assert row.counted_by is None or row.counted_by in PROTOCOLS


def value(system, backbone, metric, data, split):
    found = [row.value for row in published(data, split, metric) if row.system == system and row.backbone == backbone]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("system", "backbone", "metric", "data", "split", "expected"),
    [
        ("CRIS", "CLIP ResNet-101", "mIoU", "refcoco", "val", 70.47),
        ("CRIS", "CLIP ResNet-101", "oIoU", "refcoco", "val", 67.35),
        ("CRIS", "CLIP ResNet-50", "mIoU", "refcoco+", "testB", 52.48),
        ("CRIS", "CLIP ResNet-50", "mIoU", "refcocog-umd", "test", 59.39),
        ("EFN", "Wide ResNet-101 + GRU", "oIoU", "refcocog-google", "val", 51.93),
        ("LAVT", "Swin-B + BERT", "oIoU", "refcoco", "testA", 75.82),
        ("LAVT", "Swin-B + BERT", "mIoU", "refcoco", "testA", 76.89),
        ("RISCLIP-L", "CLIP ViT-L", "mIoU", "refcoco+", "testA", 78.77),
        ("DETRIS-L", "DINOv2-L + CLIP text", "mIoU", "refcocog-google", "val", 67.9),
        ("LENS-3B", "Qwen2.5-VL-3B + SAM 2-L", "oIoU", "refcocog-umd", "val", 81.2),
    ],
)
def test_numbers_as_printed(system, backbone, metric, data, split, expected):
    assert value(system, backbone, metric, data, split) == expected


def test_kinds_of_iou_do_not_mix():
    assert {row.metric for row in published("refcoco", "val", "mIoU")} == {"mIoU"}
    assert {row.metric for row in published("refcoco", "val", "oIoU")} == {"oIoU"}
    assert {row.metric for row in all_published() if row.system == "EFN"} == {"oIoU"}


def test_numbers_without_a_source_are_left_out():
    systems = {row.system for row in all_published()}
    assert not any("HyperSeg" in system or "VIRST" in system for system in systems)
    assert not [
        row for row in all_published() if row.system.startswith(("VLT", "CGFormer")) and row.data.endswith("google")
    ]


def test_inferred_numbers_have_a_note():
    assert all("[inferred]" in row.note for row in all_published() if row.system in ("BarLeRIa", "PolyFormer-B"))
    assert all("official code" in row.note for row in all_published() if row.system in ("MCN", "VLT (2021)"))
    derived = [row for row in all_published() if "derived" in row.note]
    assert [(row.system, row.data, row.split, row.metric) for row in derived] == [
        ("RISCLIP-B", "refcoco", "testB", "mIoU")
    ]


def test_systems_trained_on_the_set_come_first_and_the_best_first():
    found = published("refcocog-umd", "val", "oIoU")
    groups = [row.trained_on for row in found]
    assert groups == sorted(groups, key=["per set", "mixed", "zero-shot"].index)
    for group in set(groups):
        values = [row.value for row in found if row.trained_on == group]
        assert values == sorted(values, reverse=True)


def test_other_names_of_a_set_and_sets_without_published_numbers():
    assert catalogue_name("cris/refcocog_u") == "refcocog-umd"
    assert catalogue_name("shapes") == "shapes"
    assert published("cris/refcoco", "testA", "mIoU") == published("refcoco", "testA", "mIoU") != ()
    assert published("shapes", "test", "mIoU") == ()
    assert published("refcoco", "train", "mIoU") == ()


def test_the_numbers_of_one_system_in_a_line():
    line = published_scores("CRIS", "CLIP ResNet-50")
    assert line == "mean IoU: refcoco 69.52/72.72/64.70, refcoco+ 61.39/67.10/52.48, refcocog-umd 59.35/59.39"
    assert published_scores("RISCLIP-B", "CLIP ViT-B/16, frozen", "oIoU").startswith("overall IoU: refcoco 73.57")
    with pytest.raises(LookupError):
        published_scores("CRIS", "another backbone")
