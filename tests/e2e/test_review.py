"""The page of a review, in a real browser: what a person decides, and what is on the disk afterwards."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from PIL import Image

pytest.importorskip("playwright", reason="the browser is driven by playwright: pip install 'refseg[dev]'")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from refseg.data.asked import Photo
from refseg.data.examples import EXAMPLES
from refseg.data.label import label
from refseg.data.label_run import Labeller, LabelRun, add_answers, earlier_answers, save_run
from refseg.data.verdicts import Verdicts
from refseg.errors import OutputError
from refseg.masks import decode_rle, encode_rle, iou
from refseg.predictor import load
from refseg.review.app import create_review_app
from refseg.review.queue import Queue
from refseg.review.run import review_settings

BY = Labeller(model="photos", revision="any", licence="Apache-2.0")
LEFT, RIGHT, ABSENT, BOTH = "the cat on the left", "the cat on the right", "the horse", "the cat"


@pytest.fixture(scope="module")
def segmenter():
    return load("photos", "cpu")


@pytest.fixture
def reviewing(serving, segmenter):
    """Serves a review while its block lasts: `with reviewing(folder) as address`."""

    def review(folder):
        queue = Queue(folder)
        settings = review_settings(queue)
        return serving(
            create_review_app(queue, "127.0.0.1", settings, lambda: {"photos": segmenter}, failed=pytest.fail)
        )

    return review


@pytest.fixture
def folder(tmp_path, segmenter):
    """A run with three answers: that which nothing fits comes first."""
    (tmp_path / "photos").mkdir()
    shutil.copy(EXAMPLES / "cats.jpg", tmp_path / "photos")
    texts = (LEFT, RIGHT, ABSENT)
    photo = Photo(file="cats.jpg", split=None, ids=("0", "1", "2"), expressions=texts)
    label(segmenter, BY, tmp_path / "photos", [photo], tmp_path / "run", formats=["coco"])
    return tmp_path / "run"


@pytest.fixture
def address(folder, reviewing):
    with reviewing(folder) as address:
        yield address


def names(folder):
    content = json.loads((folder / "coco" / "annotations.json").read_text())
    return {one["id"]: one["name"] for one in content["categories"]}


def rows(folder):
    return {row["id"]: row for row in map(json.loads, (folder / "data.jsonl").read_text().splitlines())}


def shows(page, number, expression, verdict):
    expect(page.locator("#number")).to_have_text(f"{number} of 3")
    expect(page.locator("#main")).to_have_attribute("aria-busy", "false")
    expect(page.get_by_label("Expression")).to_have_value(expression)
    expect(page.locator("#verdict")).to_have_text(verdict)


def no_space(*_):
    raise OutputError("verdicts.jsonl: cannot be written: no space left")


def check_axe(page):
    found = Axe().run(page).response["violations"]
    assert [(one["id"], node["html"]) for one in found for node in one["nodes"]] == []


@pytest.mark.slow
def test_a_review_by_keyboard_alone(visit, folder, segmenter, reviewing, monkeypatch):
    """Keep, drop, threshold, reword, undo, an error, a reload, and the labels that follow."""
    found = dict(
        zip(
            (LEFT, RIGHT, BOTH),
            segmenter.segment(segmenter.encode(EXAMPLES / "cats.jpg"), [LEFT, RIGHT, BOTH]),
            strict=True,
        )
    )
    page = visit(color_scheme="dark")
    keys = page.keyboard
    shows(page, 1, ABSENT, "undecided")
    expect(page.locator("#score")).to_have_text("nothing fits")
    check_axe(page)
    keys.press("d")
    shows(page, 2, LEFT, "undecided")
    expect(page.locator("#score")).to_have_text(f"score {100 * found[LEFT].score:.0f} %")
    keys.press("u")
    shows(page, 1, ABSENT, "undecided")
    keys.press("d")
    shows(page, 2, LEFT, "undecided")

    keys.press("ArrowUp")
    expect(page.locator("#threshold-value")).to_have_text(f"{100 * found[LEFT].threshold + 4:.0f} %")
    keys.press("ArrowUp")
    expect(page.locator("#threshold-value")).to_have_text(f"{100 * found[LEFT].threshold + 8:.0f} %")
    threshold = page.get_by_label("Threshold").input_value()
    check_axe(page)
    keys.press("k")
    shows(page, 3, RIGHT, "undecided")

    keys.press("r")
    expect(page.get_by_label("Expression")).to_be_focused()
    keys.type(BOTH)
    keys.press("Enter")
    expect(page.locator("#asked")).to_have_text(f"Was: {RIGHT}")
    expect(page.locator("#score")).to_contain_text("changed")
    with monkeypatch.context() as patched:
        patched.setattr(Verdicts, "add", no_space)
        keys.press("k")
        expect(page.get_by_role("alert")).to_have_text("Verdicts.jsonl: cannot be written: no space left.")
        shows(page, 3, BOTH, "undecided")
    keys.press("k")
    shows(page, 3, BOTH, "kept")

    page.reload()  # everything is on the disk
    page.locator("body[data-ready]").wait_for()
    expect(page.locator("#progress")).to_have_text("3 of 3 decided, 0 to look at")
    page.get_by_role("button", name="Write labels").click()
    expect(page.locator("#progress")).to_have_text("Written: 2 masks, 1 dropped")
    made = rows(folder)
    assert {id: row["text"] for id, row in made.items()} == {"0": LEFT, "1": BOTH}
    assert made["0"]["threshold"] == float(threshold)
    assert iou(decode_rle(made["0"]["rle"]), found[LEFT].probability > float(threshold)) == 1
    assert made["1"]["rle"] == found[BOTH].rle
    assert set(names(folder).values()) == {LEFT, BOTH}
    with reviewing(folder):  # another process would go on here
        again = Queue(folder)
    assert again.overview()["verdicts"] == "dkk"
    assert again.about(2)["expression"] == BOTH
    (folder / "coco" / "annotations.json").write_text("{}")
    page.get_by_role("button", name="Write labels").click()
    expect(page.get_by_role("alert")).to_contain_text("was changed after it was written")


@pytest.mark.slow
def test_a_phone_and_errors(visit, folder):
    page = visit(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, device_scale_factor=2)
    shows(page, 1, ABSENT, "undecided")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for button in page.get_by_role("button").all():
        if button.is_visible():
            assert button.bounding_box()["height"] >= 36, button.inner_text()
    page.get_by_role("button", name="Keep").tap()
    shows(page, 2, LEFT, "undecided")
    check_axe(page)
    page.get_by_role("button", name="Undo").tap()
    shows(page, 1, ABSENT, "undecided")
    page.get_by_role("button", name="Undo").tap()
    expect(page.get_by_role("alert")).to_have_text("There is nothing to undo.")
    page.get_by_label("Expression").fill(" ")
    page.get_by_role("button", name="Ask again").tap()
    expect(page.get_by_role("alert")).to_contain_text("Type what to find")
    (folder / "images").unlink()
    page = visit()  # with an empty cache
    expect(page.get_by_role("alert")).to_have_text(re.compile("There is no file .*cats.jpg"))


@pytest.fixture
def many(tmp_path):
    """A run of 10,000 answers about 20 small photos."""
    folder, photos = tmp_path / "many", []
    earlier_answers(folder, BY)
    (folder / "images").mkdir()
    rle = encode_rle(decode_rle({"size": [24, 32], "counts": [300, 40, 428]}))
    for number in range(20):
        Image.new("RGB", (32, 24), (12 * number, 90, 90)).save(folder / "images" / f"{number}.png")
        texts = tuple(f"thing {one}" for one in range(500))
        photos.append(Photo(file=f"{number}.png", split=None, ids=texts, expressions=texts))
        add_answers(folder, f"{number}.png", [{"text": text, "score": 0.9, "rle": rle} for text in texts])
    save_run(LabelRun(labeller=BY, photos=tuple(photos)), folder)
    return folder


@pytest.mark.slow
def test_ten_thousand_labels_are_neither_fetched_nor_listed_at_once(browser, many, reviewing):
    with reviewing(many) as address:
        page = browser.new_page()
        seen = []
        page.on("request", lambda request: seen.append(request.url))
        page.goto(address)
        page.locator("body[data-ready]").wait_for()
        expect(page.locator("#number")).to_have_text("1 of 10,000")
        assert len([url for url in seen if "/items/" in url]) <= 6
        seen.clear()
        for number in range(2, 12):
            page.keyboard.press("k")
            page.locator(f"#canvas[data-number='{number}']").wait_for()
        expect(page.locator("#progress")).to_have_text("10 of 10,000 decided, 0 to look at")
        assert len(seen) <= 40  # of each label its values, its photo and its verdict
        page.get_by_label("Number of the label").fill("9000")
        page.locator("#canvas[data-number='9000']").wait_for()
        assert page.locator("*").count() < 120
        page.close()
