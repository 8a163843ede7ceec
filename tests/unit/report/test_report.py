"""Reports: the numbers are those of the result, untrusted texts are escaped, and the file needs no other file."""

from __future__ import annotations

import dataclasses
import io
import re
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from refseg.errors import DataError
from refseg.evaluation.metrics import ratios
from refseg.evaluation.predictions import Predictions
from refseg.evaluation.protocols import PROTOCOLS
from refseg.evaluation.result import Result
from refseg.published import all_published
from refseg.report.charts import histogram_counts, precision_curve_values
from refseg.report.report import LIMIT, html, markdown

VOID = {"meta", "img", "br", "rect", "circle", "line", "polyline"}
HOSTILE = "</title><script>alert(1)</script>\"' onload=x |a| [b](c) \ud800\x00\u202e"


class Page(HTMLParser):
    """A parsed HTML page; tags must close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def all(self, tag, name):
        return [value for its, key, value in self.attributes if (its, key) == (tag, name)]

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def target(sample, index):
    return np.zeros((40, 60), dtype=bool) if sample.load_mask is None else sample.load_mask()


def shifted(sample, index):
    """The target mask moved by some pixels; one pixel where nothing fits."""
    mask = np.roll(target(sample, index), 3 + index, axis=1)
    mask[0, 0] = True
    return mask


@pytest.fixture
def stored(tmp_path):
    def stored(lines, name="masks.jsonl"):
        (tmp_path / name).write_text(lines, encoding="utf-8")
        return Predictions(tmp_path / name)

    return stored


# ── Markdown ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def row_of(text, start):
    """The cells of the one line of a table that starts so."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_our_numbers_by_hand(result_of):
    text = markdown(result_of([(0, 50), (0, 70), (1, 20), (1, 80), (2, None)]))
    assert row_of(text, "mean IoU")[1::2] == ["55.00", "4"]
    assert re.fullmatch(r"\d+\.\d\d to \d+\.\d\d", row_of(text, "mean IoU")[2])
    assert row_of(text, "overall IoU")[1] == "55.00"
    assert row_of(text, "precision: IoU ≥ 0.7")[1] == "50.00"
    assert row_of(text, "N-acc: no-target expressions answered so")[1::2] == ["0.00", "1"]
    assert row_of(text, "gIoU, over all expressions")[1::2] == ["44.00", "5"]
    assert row_of(text, "1-2 words")[1:3] == ["2", "35.00"]


def test_without_no_target_expressions_their_metrics_are_left_out(result_of):
    text = markdown(result_of([(0, 50), (1, 70)]))
    assert "N-acc" not in text
    assert "gIoU" not in text


def test_truncated_expressions_and_strict_precision_are_shown(result_of):
    result = result_of([(0, 50), (1, 70)], protocol="cris")
    result.figures["truncated"] = 1234
    text = markdown(result)
    assert row_of(text, "truncated expressions")[1] == "1,234"
    assert row_of(text, "precision: IoU > 0.5")[1] == "50.00"


def tables(text):
    """The tables of published numbers, by metric."""
    parts = re.split(r"\*\*(?:mean|overall) IoU in percent, and published (\w+) of [^*]*\*\*", text)
    return {metric: part.partition("\n## ")[0] for metric, part in zip(parts[1::2], parts[2::2], strict=True)}


def test_published_numbers_are_of_the_same_kind_of_iou(result_of):
    rows = [(0, 80), (1, 60), (2, 70)]
    result = result_of(rows, name="refcoco", split="val", references=3811)
    result.figures["whole"] = True
    found = tables(markdown(result))
    assert found.keys() == {"mIoU", "oIoU"}
    cris = [line for line in found["mIoU"].splitlines() if line.startswith("| CRIS | CLIP ResNet-101")]
    assert len(cris) == 1
    assert "| 70.47 | -0.47 | cris |" in cris[0]
    assert "(https://github.com/DerrickWang005/CRIS.pytorch)" in cris[0]
    assert "67.35" not in found["mIoU"]
    assert "| 67.35 | +2.65 | not known |" in found["oIoU"]
    for metric in ("mIoU", "oIoU"):
        of_it = [row for row in all_published() if (row.data, row.split, row.metric) == ("refcoco", "val", metric)]
        assert len(found[metric].strip().splitlines()) == 3 + len(of_it)
        assert "| **a model** |" in found[metric]


def test_a_part_of_a_split_is_not_comparable(result_of):
    part = result_of([(0, 80), (1, 60)], name="refcoco", split="val", references=3810)
    assert "Not comparable: only a part of the split was scored (2 images)." in markdown(part)
    assert "refcoco:val as published has 3,811 references, scored were 3,810." in markdown(part)
    assert "| 70.47 | - | cris |" in markdown(part)
    whole = result_of([(0, 80), (1, 60)], name="refcoco", split="val", references=3811)
    whole.figures["whole"] = True
    assert "Not comparable" not in markdown(whole)
    assert "Counted by refseg. Published numbers were counted by the code of their authors" in markdown(whole)


def test_files_of_the_reference_are_compared_with_the_same_numbers(result_of):
    text = markdown(result_of([(0, 80), (1, 60)], name="cris/refcocog_u", split="val", references=2573))
    assert "has 2,573 references" not in text
    assert tables(text).keys() == {"mIoU", "oIoU"}


def test_sets_without_published_numbers(result_of):
    assert "No published numbers of scenes:val are known." in markdown(result_of([(0, 80), (1, 60)]))


def test_untrusted_texts_do_not_become_markdown(result_of):
    result = result_of([(0, 80), (1, 60)], made_by="a|b\n# c <b> [d](e) `f` *g*")
    text = markdown(result)
    assert text.splitlines()[0] == r"# a\|b \# c &lt;b> \[d\](e) \`f\` \*g\* on scenes:val"
    assert all(line.startswith("|") == line.endswith("|") for line in text.splitlines())


def test_broken_results_are_an_error(result_of):
    result = result_of([(0, 80), (1, 60)])
    for name, value in [("data", {}), ("protocol", {"name": "x"}), ("by", {"size": {"x": 3}}), ("n", 7), ("n", "1")]:
        with pytest.raises(DataError, match="broken result"):
            markdown(Result(result.figures | {name: value}, result.outcomes))
    impossible = dataclasses.replace(result.outcomes[0], intersection=101)
    with pytest.raises(DataError, match="expression 0000 is impossible"):
        markdown(Result(result.figures, (impossible, result.outcomes[1])))
    with pytest.raises(DataError, match="expression 0001 occurs twice"):
        markdown(Result(result.figures, (result.outcomes[1], result.outcomes[1])))


# ── charts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_histogram_by_hand():
    counts = histogram_counts(np.array([0.0, 0.049, 0.05, 0.5, 0.999, 1.0]))
    assert counts.sum() == 6
    assert [counts[place] for place in (0, 1, 10, 19)] == [2, 1, 1, 2]


def test_the_curve_by_hand():
    ious, at = np.array([0.2, 0.5, 0.5, 0.9]), np.array([0.0, 0.5, 0.9, 1.0])
    assert precision_curve_values(ious, at, strict=False).tolist() == [1, 0.75, 0.25, 0]
    assert precision_curve_values(ious, at, strict=True).tolist() == [1, 0.25, 0, 0]


@pytest.mark.parametrize("protocol", ["refseg", "cris", "lavt", "gres"])
def test_the_curve_passes_through_the_precisions_of_the_table(result_of, protocol):
    rng = np.random.default_rng(0)
    result = result_of([(i, int(x)) for i, x in enumerate(rng.integers(0, 101, 50))], protocol=protocol)
    rule = PROTOCOLS[protocol]
    ious = ratios(result.outcomes, rule)["mean_iou"][0]
    ious = ious * np.array([protocol != "gres" or one.predicted_pixels >= rule.min_pixels for one in result.outcomes])
    shares = precision_curve_values(ious, np.array(rule.thresholds), strict=rule.strict)
    assert shares.tolist() == pytest.approx(list(result.figures["precision"].values()))
    dots = Page(html(result)).all("circle", "cy")[: len(rule.thresholds)]
    assert [float(dot) for dot in dots] == pytest.approx([12 + 244 * (1 - share) for share in shares], abs=0.06)


# ── HTML ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_needs_no_other_file(scenes, answer, stored):
    result, lines = answer(scenes(), shifted)
    result.figures["data"] |= {"name": "refcoco"}
    data = scenes()
    text = html(result, data=data, predictions=stored(lines))
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    links = [value for value in page.all("a", "href") if not value.startswith("#")]
    known = {source.url for row in all_published() for source in row.sources}
    assert links
    assert set(links) <= known
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.all("img", "src"))
    for address in re.findall(r"https?://[^\s\"<>]+", text):
        assert address in known
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in page.all("meta", "content")[0]


def test_the_page_is_accessible(scenes, answer, stored):
    result, lines = answer(scenes(), shifted)
    page = Page(html(result, data=scenes(), predictions=stored(lines)))
    assert page.all("html", "lang") == ["en"]
    assert len(page.all("img", "alt")) == page.tags.count("img") > 0
    assert all(page.all("img", "alt"))
    assert page.tags.count("svg") == page.tags.count("desc") == 3
    assert set(page.all("svg", "role")) == {"img"}
    assert page.tags.count("caption") == page.tags.count("table")
    assert set(page.all("th", "scope")) == {"col", "row"}
    assert len(set(page.all("figure", "id"))) == len(page.all("figure", "id"))
    for link in page.all("a", "href"):
        assert link.removeprefix("#") in page.all("figure", "id")
    assert "prefers-color-scheme: dark" in html(result)


def test_hostile_texts_are_escaped(scenes, answer, tmp_path):
    data = scenes(text=HOSTILE)
    result, _ = answer(data, shifted, made_by=HOSTILE)
    page = Page(html(result, data=data))
    assert "script" not in page.tags
    assert "onload" not in {name for _, name, _ in page.attributes}
    assert "<script>alert(1)</script>" in page.words
    html(result, data=data).encode()  # no lone surrogate is left
    assert "\x00" not in html(result)
    markdown(result).encode()


def test_panels_show_image_target_and_predictions(scenes, answer, stored):
    result, lines = answer(scenes(), shifted)
    _, others = answer(scenes(), target)
    page = Page(html(result, data=scenes(), predictions=stored(lines), other=stored(others, "other.jsonl")))
    panels = len(page.all("figure", "id"))
    assert page.words.count("second model") == panels == 8
    assert page.all("img", "alt").count("The target mask, tinted pink: right cup") == 2
    assert "Second model: IoU 100.00 %." in page.words
    assert "The stored mask has IoU" not in page.words
    with Image.open(io.BytesIO(b64decode(page.all("img", "src")[0].partition(",")[2]))) as image:
        assert (image.format, image.size) == ("JPEG", (60, 40))
    # All expressions with a target have errors within three pixels of the border.
    assert re.search(r"if the target is thicker than that\. [1-6] expressions", page.words)
    assert re.search(r"predicted mask is not empty\. The highest score first\. 2 expressions", page.words)


def test_both_models_are_named(scenes, answer, stored):
    result, lines = answer(scenes(), shifted, made_by="mine")
    others = lines.replace('"score": 0.75', '"score": 0.75, "model": "theirs"')
    page = Page(html(result, data=scenes(), predictions=stored(lines), other=stored(others, "other.jsonl")))
    assert page.words.count("first model: mine") == page.words.count("second model: theirs") == 8
    page = Page(html(result, data=scenes(), predictions=stored(lines), other=stored(lines, "other.jsonl")))
    assert "second model: other.jsonl" in page.words


def test_masks_of_another_model_or_file_than_the_results_are_an_error(scenes, answer, stored):
    result, lines = answer(scenes(), shifted)
    signed = {name: stored(lines.replace("}\n", f', "fingerprint": "{name}"}}\n'), f"{name}.jsonl") for name in "ab"}
    unsigned = stored(lines)
    result.figures["made_by"] = {"model": "a model", "fingerprint": "a"}
    assert html(result, data=scenes(), predictions=signed["a"], other=signed["b"])
    for wrong in (signed["b"], unsigned):
        with pytest.raises(DataError, match="--save"):
            html(result, data=scenes(), predictions=wrong)
    result.figures["made_by"] = {"predictions": "masks.jsonl", "sha256": unsigned.sha256}
    assert html(result, data=scenes(), predictions=unsigned)
    with pytest.raises(DataError, match="not the file that was scored"):
        html(result, data=scenes(), predictions=signed["a"])


def test_masks_that_were_not_scored_are_noted(scenes, answer, stored):
    result, _ = answer(scenes(), shifted)
    _, others = answer(scenes(), target)
    page = Page(html(result, data=scenes(), predictions=stored(others)))
    assert "The stored mask has IoU 100.00 %: it is of another threshold, size or model." in page.words


def test_large_images_are_reduced(scenes, answer, stored, monkeypatch):
    data = scenes()
    result, lines = answer(data, target)
    large = [
        tuple(
            dataclasses.replace(
                sample,
                load_image=lambda: Image.new("RGB", (1200, 800)),
                load_mask=None if sample.load_mask is None else lambda: np.ones((800, 1200), dtype=bool),
            )
            for sample in data.samples_of(image)
        )
        for image in range(2)
    ]
    monkeypatch.setattr(data, "samples_of", lambda image: large[image], raising=False)
    page = Page(html(result, data=data))
    assert set(page.all("img", "width")) == {"320"}
    with pytest.raises(DataError, match="the mask is 60 x 40, its image 1200 x 800"):
        html(result, data=data, predictions=stored(lines))


def test_the_file_stays_small(scenes, answer, stored):
    result, lines = answer(scenes(num_images=6), shifted)
    predictions = stored(lines)
    whole = html(result, data=scenes(num_images=6), predictions=predictions)
    bare = len(html(result))
    limit = (bare + len(whole)) // 2
    smaller = html(result, data=scenes(num_images=6), predictions=predictions, limit=limit)
    assert len(smaller.encode()) <= limit
    assert "left out to keep this file small" in smaller
    assert 0 < smaller.count('<figure class="panel"') < whole.count('<figure class="panel"')
    assert LIMIT == 3_000_000
    Page(smaller)


def test_other_data_and_missing_masks_are_an_error(scenes, answer, stored, monkeypatch):
    result, lines = answer(scenes(), shifted)
    data = scenes()
    with pytest.raises(DataError, match=r"masks\.jsonl: has no prediction for expression"):
        html(result, data=data, predictions=stored(lines.splitlines()[0]))
    with pytest.raises(DataError, match="scenes:val has no expression"):
        html(result, data=scenes(num_images=1))
    monkeypatch.setattr(data, "digest", lambda: "another", raising=False)
    with pytest.raises(DataError, match="not the data that was scored"):
        html(result, data=data)


def test_results_without_targets_have_no_charts(result_of):
    page = Page(html(result_of([(0, None), (1, None)])))
    assert "svg" not in page.tags
    assert "N-acc" in page.words


def test_scores_of_zero_and_one_are_noted(result_of):
    result = result_of([(0, 50), (1, 70)])
    ones = tuple(dataclasses.replace(one, score=1.0) for one in result.outcomes)
    assert "Every score is 0 or 1" in html(Result(result.figures, ones))
    assert "Expected calibration error 0.400" in html(Result(result.figures, ones))
    for score in (float("nan"), 1.5):
        broken = (dataclasses.replace(result.outcomes[0], score=score), result.outcomes[1])
        with pytest.raises(DataError, match="impossible"):
            html(Result(result.figures, broken))
