"""Statistics of a data set that is small enough to count by hand."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from refseg.data.catalogue import open_data
from refseg.data.statistics import markdown, plot, statistics
from refseg.data.words import has_location_word
from refseg.errors import ConfigError


@pytest.fixture
def own(tmp_path):
    """Three images of 10 x 10; masks of 1, 4 and 25 pixels."""
    root = tmp_path / "own"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (10, 10)).save(root / "images" / f"{name}.png")
    for side in (1, 2, 5):
        mask = np.zeros((10, 10), dtype=np.uint8)
        mask[:side, :side] = 255
        Image.fromarray(mask).save(root / "masks" / f"{side}.png")
    rows = [
        {"image": "a.png", "mask": "1.png", "text": ["dog", "the dog, left"], "split": "val", "distractors": 2},
        {"image": "a.png", "mask": "2.png", "text": "big brown dog", "split": "val", "distractors": 0},
        {"image": "b.png", "mask": "5.png", "text": "cup " * 20, "split": "val"},
        {"image": "b.png", "text": "bottom plate", "split": "val", "distractors": 9},
        {"image": "c.png", "mask": "1.png", "text": "cat", "split": "train"},
    ]
    (root / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return root


def test_everything_is_counted(own):
    figures = statistics(open_data(f"{own}:val"), masks=True)
    assert figures["name"] == str(own)
    assert set(figures["splits"]) == {"val"}
    val = figures["splits"]["val"]
    histograms = val.pop("histograms")
    assert val == {
        "images": 2,
        "references": 4,
        "expressions": 5,
        "expressions_per_reference": 1.25,
        "words": {"min": 1, "mean": pytest.approx((1 + 3 + 3 + 20 + 2) / 5), "max": 20},
        "location_words": pytest.approx(0.4),
        "over_limit": pytest.approx(0.2),
        "no_target": 0.25,
        "distractors": {"known": 2, "mean": 1.0, "any": 0.5},
        "mask_area": {"masks": 3, "quartiles": pytest.approx([0.025, 0.04, 0.145])},
    }
    assert histograms["words"] == [1, 1, 2, *([0] * 12), 1]
    assert sum(histograms["mask_area"]) == 3
    assert json.loads(json.dumps(figures)) == figures


def test_splits_come_in_their_usual_order_and_are_summed(own):
    figures = statistics(open_data(f"{own}:all"), word_length=40)
    assert list(figures["splits"]) == ["train", "val", "total"]
    total = figures["splits"]["total"]
    assert (total["images"], total["references"], total["expressions"]) == (3, 5, 6)
    assert total["over_limit"] == 0
    assert total["mask_area"] is None
    with pytest.raises(ConfigError, match="word_length"):
        statistics(open_data(f"{own}:all"), word_length=100)


def test_skipped_rows_are_counted_apart(own):
    with (own / "data.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"image": "a.png", "text": "", "split": "val"}) + "\n")
    figures = statistics(open_data(f"{own}:val"))
    assert (figures["skipped"], figures["splits"]["val"]["references"]) == (1, 4)
    assert statistics(open_data(f"{own}:train"))["skipped"] == 0


def test_generated_scenes_are_counted_too(monkeypatch):
    monkeypatch.setattr("refseg.data.shapes.dataset.SPLITS", {"train": 9, "val": 3, "test": 4})
    val = statistics(open_data("shapes:val"), masks=True)["splits"]["val"]
    assert (val["images"], val["references"], val["no_target"]) == (3, 12, 0.25)
    assert val["distractors"]["known"] == 9
    assert val["mask_area"]["masks"] == 9


def test_location_words_are_whole_words():
    assert has_location_word("The LEFT, please")
    assert not has_location_word("leftover cake")


def test_the_table_has_a_column_for_each_split(own):
    lines = markdown(statistics(open_data(f"{own}:all"), masks=True)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[0].split("|")[2:-1]] == ["train", "val", "total"]
    assert set(lines[1]) == set("|-: ")
    cells = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in (line.split("|") for line in lines[2:])}
    assert cells["expressions"] == ["1", "5", "6"]
    assert cells["over 17 tokens"] == ["0.00%", "20.00%", "16.67%"]
    assert cells["others of the target's kind"][0] == "-"
    assert cells["mask area: median (quartiles)"][1] == "4.0% (2.5% to 14.5%)"


def test_a_name_cannot_break_the_table_or_the_plot(own):
    text = (own / "data.jsonl").read_text().replace('"train"', '"<b>|&x"')
    (own / "data.jsonl").write_text(text)
    figures = statistics(open_data(f"{own}:all"))
    assert "&lt;b>\\|&amp;x" in markdown(figures)
    drawing = ElementTree.fromstring(plot(figures))
    assert any(text.text == "<b>|&x" for text in drawing.iter("{http://www.w3.org/2000/svg}text"))


@pytest.mark.parametrize("masks", [False, True])
def test_the_plot_stays_within_its_bounds(own, masks):
    drawing = ElementTree.fromstring(plot(statistics(open_data(f"{own}:all"), masks=masks)))
    width, height = float(drawing.get("width")), float(drawing.get("height"))
    groups = drawing.findall("{http://www.w3.org/2000/svg}g")
    assert len(groups) == 1 + masks
    for number, group in enumerate(groups):
        offset = 30 + 260 * number
        assert group.get("transform") == f"translate(0 {offset})"
        bars = group.findall("{http://www.w3.org/2000/svg}rect")
        assert bars
        for bar in bars:
            left, top, wide, high = (float(bar.get(name)) for name in ("x", "y", "width", "height"))
            assert left >= 0
            assert left + wide <= width
            assert top >= 30
            assert offset + top + high <= height


@pytest.mark.real
def test_real_references_are_counted(real_data):
    splits = statistics(open_data("refcoco:all", real_data), masks=True)["splits"]
    assert {name: split["references"] for name, split in splits.items()} == {"testA": 10, "testB": 2, "total": 12}
    assert 0 < splits["total"]["mask_area"]["quartiles"][0] < 1
