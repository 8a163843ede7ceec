"""Sheets and pages of samples, also of samples with odd texts, sizes and missing files."""

from __future__ import annotations

import base64
import html
import io
import re

import numpy as np
import pytest
from PIL import Image

from refseg.data.show import beyond_font, check_kind, choose, named, page, save, sheet
from refseg.errors import ConfigError, DataError, OutputError
from refseg.values import Expression, Sample
from refseg.writers.overlay import COLOUR


def sample(id="1", words=("a cup",), size=(60, 90), box=(10, 10, 40, 40), image=None, mask=None, split="val"):
    """A grey image of (height, width) with a mask; without a target where box is None."""

    def load_image():
        return Image.new("RGB", size[::-1], (100, 100, 100))

    def load_mask():
        meant = np.zeros(size, dtype=bool)
        left, top, right, bottom = box
        meant[top:bottom, left:right] = True
        return meant

    return Sample(
        id=id,
        image_id=f"image {id}",
        expressions=tuple(Expression(text=text, id=f"{id}/{n}") for n, text in enumerate(words)),
        load_image=image or load_image,
        load_mask=None if box is None else mask or load_mask,
        split=split,
        source="made",
    )


class Made:
    """A data set of some images, each with so many samples."""

    name, split, skipped_count = "made", "val", 0

    def __init__(self, counts):
        self.counts = counts

    @property
    def num_images(self):
        return len(self.counts)

    def samples_of(self, index):
        return tuple(sample(id=f"{index}.{n}") for n in range(self.counts[index]))

    def totals(self):
        return {}

    def digest(self):
        return ""

    def objects(self, index):
        return None

    def files(self):
        return {}

    def notes(self):
        return ()


def broken():
    raise DataError("image x.jpg is not there")


def ids(samples):
    return [one.id for one in samples]


def test_random_samples_are_of_different_images_and_the_same_each_time():
    data = Made([3] * 20)
    chosen = ids(choose(data, 12, seed=5))
    assert len({id.partition(".")[0] for id in chosen}) == 12
    assert chosen == sorted(chosen, key=lambda id: [int(part) for part in id.split(".")])
    assert ids(choose(data, 12, seed=5)) == chosen
    assert ids(choose(data, 12, seed=6)) != chosen


def test_a_image_is_drawn_again_only_if_there_are_no_others():
    assert len(set(ids(choose(Made([2, 1, 4]), 5)))) == 5
    assert len(ids(choose(Made([2, 1, 4]), 100))) == 7


@pytest.mark.parametrize("given", [{"n": 0}, {"n": -3}, {"n": 1, "seed": -1}])
def test_numbers_out_of_range_are_errors(given):
    with pytest.raises(ConfigError):
        choose(Made([1]), **given)


def test_named_samples_come_in_the_order_of_their_names():
    assert ids(named(Made([2, 2]), ["1.1", "0.0"])) == ["1.1", "0.0"]
    with pytest.raises(DataError, match=r"made:val has no reference '7\.7'"):
        named(Made([2, 2]), ["1.1", "7.7"])


def has_mask(image):
    return bool((np.abs(np.asarray(image, dtype=int) - COLOUR).max(axis=2) < 60).any())


def test_a_sheet_shows_the_mask_and_one_without_a_target_shows_none():
    assert has_mask(sheet([sample()]))
    assert not has_mask(sheet([sample(box=None)]))
    assert has_mask(sheet([sample(size=(2000, 3000), box=(1500, 900, 1504, 904))])), "a small thing is lost"


def test_a_sheet_has_as_many_columns_as_asked_for_and_no_more_than_samples():
    one, three = sheet([sample()]), sheet([sample(id=str(n)) for n in range(7)], columns=3)
    assert three.width > 2.5 * one.width
    assert three.height > 2.5 * one.height
    assert sheet([sample()], columns=20).size == one.size
    for columns in (0, 21):
        with pytest.raises(ConfigError, match="columns"):
            sheet([sample()], columns=columns)


def test_images_of_all_shapes_fit():
    shapes = [(1, 1), (1, 3000), (3000, 1), (400, 20), (33, 44)]
    assert sheet([sample(id=str(n), size=size) for n, size in enumerate(shapes)]).width < 2000


WORDS = (
    *("左边的杯子", "الكأس على اليسار", "чашка слева", "צלחת", "🐕 dog", "a\x00b\x1b[2J", "half \ud83d", "é" * 3000),
    *("W" * 500, "word " * 300, " ", "\u202e reversed", "<script>alert('x')</script>", "a\nb\tc"),
)


@pytest.mark.parametrize("words", WORDS, ids=range(len(WORDS)))
def test_no_expression_breaks_a_sheet_or_a_page(words):
    drawn = sheet([sample(words=[words] * 3, id=words[:9])])
    assert drawn.width < 400
    assert drawn.height < 800
    page([sample(words=[words], id=words[:9])], words[:9]).encode()


def test_characters_that_the_font_lacks_are_found():
    assert [beyond_font([sample(words=["a cup", words])]) for words in ("café", "чашка", "左")] == [False, True, True]


def test_a_page_escapes_what_it_shows_and_needs_no_other_file():
    attack = "\"><img src=x onerror='a()'>"
    text = page([sample(id=attack, words=[attack, "mug"], split=attack)], attack)
    assert "<img src=x" not in text
    assert text.count(html.escape(attack)) == 5
    assert "://" not in text
    (source,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert Image.open(io.BytesIO(base64.b64decode(source))).size == (320, 213)
    assert '<li dir="auto">mug</li>' in text


def test_a_sample_without_a_target_is_marked():
    assert "1 (val), nothing fits" in page([sample(box=None)], "x")
    assert "nothing fits" not in page([sample()], "x")


def test_an_image_that_cannot_be_drawn_leaves_a_gap_with_the_reason():
    samples = [sample(), sample(id="2", image=broken), sample(id="3", mask=lambda: np.zeros((5, 4), dtype=bool))]
    text = page(samples, "x")
    assert "image x.jpg is not there" in text
    assert "the mask of 3 is 4 x 5, its image 90 x 60" in text
    assert sheet(samples).width > 900
    with pytest.raises(DataError, match=r"x\.jpg is not there"):
        sheet([sample(image=broken), sample(image=broken)])


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("b.jpeg", "JPEG")])
def test_the_name_says_what_is_written(tmp_path, name, kind):
    save([sample()], tmp_path / name, title="x")
    with Image.open(tmp_path / name) as image:
        assert image.format == kind
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_is_written_completely_or_not_at_all(tmp_path):
    save([sample()], tmp_path / "a.html", title="x")
    before = (tmp_path / "a.html").read_bytes()
    with pytest.raises(DataError):
        save([sample(image=broken)], tmp_path / "a.html", title="x")
    assert (tmp_path / "a.html").read_bytes() == before
    with pytest.raises(OutputError, match="cannot be written"):
        save([sample()], tmp_path / "nowhere" / "a.png", title="x")
    with pytest.raises(OutputError, match=r"must end with one of \.png"):
        check_kind(tmp_path / "a.pdf")


def test_a_sheet_that_would_be_too_high_is_an_error():
    small = sample(size=(300, 100))
    with pytest.raises(OutputError, match=r"show fewer, or write \.html"):
        sheet([small] * 200, columns=1)
