"""The server's page, in a real browser: what a person does, and what they get."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

pytest.importorskip("playwright", reason="the browser is driven by playwright: pip install 'refseg[dev]'")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from refseg.config import to_dict
from refseg.data.examples import EXAMPLES
from refseg.inputs.clip_bpe import Tokenizer
from refseg.inputs.frame import Frame, letterbox
from refseg.masks import decode_rle, iou
from refseg.predictor import load
from refseg.serve.app import create_app
from refseg.serve.settings import Settings
from refseg.values import Calibration, Decision, Prediction

CATS = EXAMPLES / "cats.jpg"
LEFT, RIGHT, ABSENT = "the cat on the left", "the cat on the right", "the horse"


@pytest.fixture(scope="module")
def segmenter():
    return load("photos", "cpu", runtime="torch")


@pytest.fixture(scope="module")
def address(serving, segmenter):
    """The address of a running server of the bundled model."""
    with serving(create_app(Settings(models=("photos",)), lambda: {"photos": segmenter}, failed=pytest.fail)) as found:
        yield found


def choose(page, path=CATS):
    page.get_by_label("Choose a photo").set_input_files(path)


def ask(page, *expressions):
    for text in expressions:
        page.get_by_label("What to find").fill(text)
        page.get_by_label("What to find").press("Enter")
        row(page, text).and_(page.locator("[aria-busy=false]")).wait_for()


def row(page, text):
    return page.locator("li.row").filter(has=page.get_by_text(text, exact=True))


@pytest.fixture
def cats(visit):
    """The page with a photo and two expressions that are answered."""
    page = visit()
    choose(page)
    ask(page, LEFT, ABSENT)
    return page


def saved(page, name):
    with page.expect_download() as download:
        page.get_by_role("button", name=name).click()
    return download.value.suggested_filename, download.value.path().read_bytes()


def shown(page):
    """The pixels of the canvas, RGB."""
    data = page.evaluate("document.getElementById('canvas').toDataURL()").partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def move_threshold(page, value):
    page.get_by_label("Threshold").fill(str(value))
    page.evaluate("new Promise(requestAnimationFrame)")  # the next image


def questions_of(page):
    """The paths of the interface that are asked from now on."""
    seen = []
    page.on("request", lambda request: seen.append(urlsplit(request.url).path) if "/v1/" in request.url else None)
    return seen


def test_an_upload_and_two_expressions_give_masks_scores_and_nothing_fits(cats, segmenter):
    found, absent = segmenter.segment(segmenter.encode(CATS), [LEFT, ABSENT])
    assert not found.empty
    assert absent.empty
    expect(row(cats, LEFT)).to_contain_text(f"score {100 * found.score:.0f} %")
    expect(row(cats, ABSENT)).to_contain_text("nothing fits")
    expect(cats.locator("#status")).to_have_text(f"{ABSENT}: nothing fits")
    expect(cats.locator("#canvas")).to_have_attribute("aria-label", re.compile(f"cats.jpg. 1, {LEFT}: score"))
    # Outside of the mask the photo is darkened; inside it is coloured.
    pixels = shown(cats)
    photo = np.asarray(Image.open(CATS).resize(pixels.shape[1::-1])).astype(int)
    mask = np.asarray(Image.fromarray(found.mask).resize(pixels.shape[1::-1]))
    assert pixels[~mask].mean() < 0.8 * photo[~mask].mean()
    assert pixels[mask].mean() > photo[mask].mean()


def test_expressions_are_removed(cats):
    cats.get_by_label(f"Remove {LEFT}").click()
    expect(row(cats, LEFT)).to_have_count(0)
    expect(row(cats, ABSENT)).to_have_count(1)
    expect(row(cats, ABSENT).get_by_role("button").first).to_be_focused()


def test_the_threshold_is_applied_at_once_and_without_a_request(cats, segmenter):
    (found,) = segmenter.segment(segmenter.encode(CATS), [LEFT])
    questions, before = questions_of(cats), shown(cats)
    for threshold in (0.2, 0.7):
        move_threshold(cats, threshold)
        assert (shown(cats) != before).any()
        _, data = saved(cats, "Save COCO")
        made = {one["caption"]: decode_rle(one["segmentation"]) for one in json.loads(data)["annotations"]}
        assert iou(made[LEFT], found.probability > threshold) > 0.99
    expect(cats.locator("#threshold-value")).to_have_text("70 %")
    cats.get_by_role("button", name="Reset").click()
    expect(cats.locator("#threshold-value")).to_have_text("the model's own")
    assert (shown(cats) == before).all()
    assert questions == []


def test_a_click_on_a_mask_or_its_row_shows_the_heat_map(cats, segmenter):
    (found,) = segmenter.segment(segmenter.encode(CATS), [LEFT])
    masks = shown(cats)
    height, width = found.mask.shape
    y, x = np.argwhere(found.probability > 0.9).mean(axis=0)
    box = cats.locator("#canvas").bounding_box()
    cats.mouse.click(box["x"] + x * box["width"] / width, box["y"] + y * box["height"] / height)
    select = row(cats, LEFT).get_by_role("button").first
    expect(select).to_have_attribute("aria-pressed", "true")
    expect(cats.locator("#legend")).to_contain_text(LEFT)
    heat = shown(cats)
    probability = np.asarray(Image.fromarray(found.probability).resize(heat.shape[1::-1]))
    assert heat[probability > 0.9, 0].mean() > 3 * heat[probability < 0.05, 0].mean()
    cats.keyboard.press("Escape")
    expect(select).to_have_attribute("aria-pressed", "false")
    cats.evaluate("new Promise(requestAnimationFrame)")
    assert (shown(cats) == masks).all()
    select.click()
    expect(cats.locator("#legend")).to_be_visible()


def test_a_word_of_the_chosen_expression_shows_where_it_looks(cats, segmenter):
    maps = segmenter.word_maps(segmenter.encode(CATS), LEFT)
    highest = max(one.map.max() for one in maps)
    select = row(cats, LEFT).get_by_role("button").first
    select.click()
    words = cats.get_by_role("group", name=f"Words of {LEFT}").get_by_role("button")
    words.first.wait_for()
    expect(words).to_have_text(LEFT.split())
    expect(cats.locator("#legend")).to_have_text(f"0 %100 %probability of “{LEFT}”")
    heat, colours, values = shown(cats), [], []
    for place in (1, 4):
        words.nth(place).hover()
        expect(words.nth(place)).to_have_attribute("aria-pressed", "true")
        expect(cats.locator("#legend")).to_have_text(f"0 %{100 * highest:.0f} %attention to “{maps[place].word}”")
        cats.evaluate("new Promise(requestAnimationFrame)")
        colours.append(shown(cats)[..., 0])  # the scale gets redder all the way
        values.append(np.asarray(Image.fromarray(maps[place].map).resize(heat.shape[1::-1])))
    # The photo and the outline of the mask are the same in both.
    (one, other), (first, second) = colours, values
    assert np.corrcoef((one - other).ravel(), (first - second).ravel())[0, 1] > 0.8
    cats.mouse.move(1, 1)
    expect(cats.locator("#legend")).to_contain_text("probability of")
    cats.evaluate("new Promise(requestAnimationFrame)")
    assert (shown(cats) == heat).all()
    # By keyboard; the map is there as long as the focus is, wherever the pointer goes.
    select.focus()
    for _ in range(3):  # past the button that removes it
        cats.keyboard.press("Tab")
    expect(words.nth(1)).to_be_focused()
    expect(cats.locator("#status")).to_have_text("Heat map: attention to “cat”.")
    words.nth(2).hover()
    expect(cats.locator("#legend")).to_contain_text("“on”")
    cats.keyboard.press("Escape")
    expect(cats.locator("#legend")).to_be_hidden()
    expect(words).to_have_count(0)


def test_the_files_that_are_saved_hold_the_models_own_masks(cats, segmenter):
    (found,) = segmenter.segment(segmenter.encode(CATS), [LEFT])
    name, data = saved(cats, "Save COCO")
    assert name == "cats-coco.json"
    content = json.loads(data)
    (annotation,) = content["annotations"]  # what fits nothing has none
    assert annotation["segmentation"] == found.rle
    assert annotation["area"] == coco.area(found.rle)
    assert annotation["bbox"] == coco.toBbox(found.rle).tolist()
    assert content["images"] == [{"id": 1, "file_name": "cats.jpg", "width": 400, "height": 232}]

    row(cats, LEFT).get_by_role("button").first.click()
    name, data = saved(cats, "Mask, PNG")
    assert name == "the-cat-on-the-left.png"
    assert (np.asarray(Image.open(io.BytesIO(data)).convert("L")) == found.mask * 255).all()

    name, data = saved(cats, "Cut-out, SVG")
    assert name == "the-cat-on-the-left.svg"
    svg = ElementTree.fromstring(data)
    assert svg.find("{*}title").text == LEFT
    assert svg.find("{*}clipPath/{*}path").get("d").startswith("M")
    left, top, width, height = map(float, svg.get("viewBox").split())
    assert np.abs(np.array(found.box) - (left, top, left + width, top + height)).max() <= 2
    image = Image.open(io.BytesIO(base64.b64decode(svg.find("{*}image").get("href").partition(",")[2])))
    assert image.size == (width, height)

    name, data = saved(cats, "Save image")
    assert name == "cats-masks.png"
    assert Image.open(io.BytesIO(data)).size == (400, 232)


def test_everything_by_keyboard_alone(visit):
    page = visit()

    def tab_to(name):
        for _ in range(20):
            page.keyboard.press("Tab")
            if (
                page.evaluate(
                    "document.activeElement.innerText || document.activeElement.title || "
                    "document.activeElement.labels?.[0]?.innerText || document.activeElement.ariaLabel"
                )
                == name
            ):
                return
        pytest.fail(f"Tab does not reach {name}")

    held = []  # the question for the example's own expressions
    page.route("**/v1/segment", lambda route: held.append(route), times=1)
    tab_to("two cats")
    with page.expect_request("**/v1/segment"):
        page.keyboard.press("Enter")
    expect(page.get_by_label("What to find")).to_be_focused()
    page.keyboard.type("the shoe")
    page.keyboard.press("Enter")
    row(page, "the shoe").and_(page.locator("[aria-busy=false]")).wait_for()
    page.keyboard.press("Tab")  # the button Find
    page.keyboard.press("Tab")
    page.keyboard.press("Space")  # before the row is answered
    select = row(page, LEFT).get_by_role("button").first
    expect(select).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#legend")).to_be_hidden()
    held[0].continue_()
    expect(page.locator("#legend")).to_contain_text(LEFT)
    tab_to("Mask, PNG")
    with page.expect_download():
        page.keyboard.press("Enter")
    page.keyboard.press("Escape")  # it hides the button that has the focus
    expect(select).to_be_focused()
    tab_to("Threshold")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("button", name="Reset")).to_be_visible()
    tab_to("Another photo")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Choose a photo")).to_be_focused()


def test_a_phone(visit):
    page = visit(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, device_scale_factor=2)
    camera = page.get_by_label("Take a photo")
    expect(camera).to_be_visible()
    assert camera.get_attribute("capture") == "environment"
    camera.set_input_files(CATS)
    ask(page, LEFT, "a very long expression about " + "something" * 12)
    row(page, LEFT).get_by_role("button").first.tap()
    expect(page.locator("#legend")).to_be_visible()
    page.get_by_role("button", name="left", exact=True).tap()
    expect(page.locator("#legend")).to_contain_text("attention to “left”")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    canvas = page.locator("#canvas").bounding_box()
    assert 300 < canvas["width"] <= 390
    for button in page.get_by_role("button").all():
        if button.is_visible():
            assert button.bounding_box()["height"] >= 36, button.inner_text()


def test_errors_are_one_clear_sentence(visit, tmp_path):
    page = visit()
    alert = page.get_by_role("alert")
    page.get_by_role("button", name="Find").click()
    expect(alert).to_have_text("Type what to find, such as “the cat on the left”.")
    (tmp_path / "notes.jpg").write_text("no image")
    choose(page, tmp_path / "notes.jpg")
    expect(alert).to_have_text("notes.jpg is not an image that this browser can show. Use a JPEG, PNG or WebP file.")
    choose(page)
    expect(alert).to_have_text("")

    answer = {"status": 503, "json": {"error": "the server has too many requests now; try again in a second"}}
    page.route("**/v1/segment", lambda route: route.fulfill(**answer), times=1)
    page.get_by_label("What to find").fill(LEFT)
    page.keyboard.press("Enter")
    expect(alert).to_have_text("The server has too many requests now; try again in a second.")
    expect(row(page, LEFT)).to_contain_text("ask again")
    row(page, LEFT).get_by_role("button").first.click()
    expect(row(page, LEFT)).to_contain_text("score")
    expect(alert).to_have_text("")

    page.route("**/v1/*", lambda route: route.abort())
    page.get_by_label("What to find").fill(RIGHT)
    page.keyboard.press("Enter")
    expect(alert).to_have_text("The server does not answer. Check that it runs, then try again.")


def test_an_image_that_the_server_has_dropped_is_sent_again(cats):
    gone = {"status": 404, "json": {"error": "the image is not kept any more; send it again"}}
    cats.route("**/v1/segment", lambda route: route.fulfill(**gone), times=1)
    questions = questions_of(cats)
    ask(cats, RIGHT)
    expect(row(cats, RIGHT)).to_contain_text("score")
    assert questions == ["/v1/segment", "/v1/encode", "/v1/segment"]


def test_a_server_with_a_token_is_asked_with_it(visit):
    page = visit()

    def guard(route):
        allowed = route.request.headers.get("authorization") == "Bearer secret"
        route.fallback() if allowed else route.fulfill(status=401, json={"error": "send the token"})

    page.route("**/v1/*", guard)
    choose(page)
    page.get_by_label("What to find").fill(LEFT)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_have_text("This server answers only with its token.")
    row(page, LEFT).get_by_role("button").first.click()
    page.get_by_label("Token", exact=True).fill("secret")
    page.keyboard.press("Enter")
    expect(row(page, LEFT)).to_contain_text("score")


def test_another_model_is_asked_while_a_heat_map_is_shown(cats):
    select = row(cats, LEFT).get_by_role("button").first
    select.click()
    held = []
    cats.route("**/v1/segment", lambda route: held.append(route), times=1)
    with cats.expect_request("**/v1/segment"):
        cats.evaluate("document.getElementById('model').dispatchEvent(new Event('change'))")
    expect(cats.locator("#legend")).to_be_hidden()
    held[0].continue_()
    expect(cats.locator("#legend")).to_contain_text(LEFT)
    expect(select).to_have_attribute("aria-pressed", "true")


def test_photos_are_pasted_and_dropped(visit):
    page = visit()
    code = """([kind, data]) => {
        const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], `${kind}.jpg`, {type: "image/jpeg"}));
        const given = {clipboardData: transfer, dataTransfer: transfer, bubbles: true, cancelable: true};
        document.body.dispatchEvent(kind === "paste" ? new ClipboardEvent(kind, given) : new DragEvent(kind, given));
    }"""
    for kind in ("paste", "drop"):
        page.evaluate(code, [kind, base64.b64encode(CATS.read_bytes()).decode()])
        expect(page.get_by_title(f"{kind}.jpg, 0 expressions")).to_have_attribute("aria-current", "true")


def test_one_click_returns_to_an_earlier_photo_and_its_answers(cats):
    cats.get_by_role("button", name="Another photo").click()
    cats.get_by_title("a woman and a horse").click()
    row(cats, "the horse").and_(cats.locator("[aria-busy=false]")).wait_for()
    expect(row(cats, LEFT)).to_have_count(0)
    questions = questions_of(cats)
    cats.get_by_title("cats.jpg, 2 expressions").click()
    expect(row(cats, LEFT)).to_contain_text("score")
    expect(row(cats, ABSENT)).to_contain_text("nothing fits")
    assert questions == []


def test_a_link_holds_the_settings(visit):
    page = visit("#find=the+horse&find=%3Cb%3E+%26+c&threshold=0.4&example=horse.jpg")
    row(page, "the horse").and_(page.locator("[aria-busy=false]")).wait_for()
    expect(row(page, "<b> & c")).to_have_count(1)
    expect(page.locator("#threshold-value")).to_have_text("40 %")
    page.get_by_label("Remove <b> & c").click()
    ask(page, "the person")
    assert page.evaluate("location.hash") == "#find=the+horse&find=the+person&threshold=0.4&example=horse.jpg"
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#status")).to_have_text("Link copied.")
    assert page.evaluate("navigator.clipboard.readText()") == page.url


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(visit, scheme):
    page = visit(color_scheme=scheme)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", colour))) < 200) == (scheme == "dark")

    def check():
        found = Axe().run(page).response["violations"]
        assert [(one["id"], node["html"]) for one in found for node in one["nodes"]] == []

    check()
    choose(page)
    ask(page, LEFT, ABSENT)
    check()
    row(page, LEFT).get_by_role("button").first.click()
    move_threshold(page, 0.9)
    page.get_by_label("What to find").fill(" ")
    page.keyboard.press("Enter")
    check()


# ── the scripts compute what the package computes ────────────────────────────────────────────────────────────────────


def test_run_lengths_equal_those_of_pycocotools(visit):
    rng = np.random.default_rng(0)
    masks = [np.zeros((3, 4), bool), np.ones((3, 4), bool), rng.random((50, 70)) < 0.5, rng.random((90, 60)) < 0.001]
    code = """async ([mask, width, height]) => {
        const {encodeRle, decodeRle} = await import("./page/rle.js");
        const rle = encodeRle(mask, width, height);
        return [rle, [...decodeRle(rle)]];
    }"""
    page = visit()
    for mask in masks:
        height, width = mask.shape
        rle, again = page.evaluate(code, [mask.ravel().astype(int).tolist(), width, height])
        assert rle["counts"] == coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()
        assert again == mask.ravel().tolist()


def test_tokens_equal_those_of_the_package(visit):
    golden = json.loads((Path(__file__).parents[1] / "data/clip_bpe_golden.json").read_text(encoding="utf-8"))
    texts = [one["text"] for kind in ("real_expressions", "edge_cases") for one in golden[kind]]
    # What ftfy and HTML change is not repaired in the browser.
    texts = [text for text in texts if text.isascii() and text.isprintable() and "&" not in text]
    assert len(texts) > 600
    texts += ["der Hund über dem Stuhl", "Ärger", "l\u2019homme à gauche", "左の猫", "🐈 cat"]
    code = """async ([merges, texts, length]) => {
        const {Tokenizer} = await import("./page/clip_bpe.js");
        const {tokens, padding} = new Tokenizer(merges, length).encode(texts);
        return [Array.from(tokens, Number), Array.from(padding, Boolean)];
    }"""
    merges = gzip.decompress((resources.files("refseg.inputs") / "bpe_merges.txt.gz").read_bytes()).decode()
    page = visit()
    for length in (5, 22):
        expected = Tokenizer(length)(texts)
        tokens, padding = page.evaluate(code, [merges, texts, length])
        differ = (np.reshape(tokens, expected.tokens.shape) != expected.tokens).any(axis=1)
        assert [text for text, one in zip(texts, differ, strict=True) if one] == []
        assert padding == expected.padding.ravel().tolist()


@pytest.mark.parametrize(("height", "width"), [(37, 53), (150, 90), (64, 64), (1, 40)])
def test_an_image_lies_in_the_square_as_in_the_package(visit, height, width):
    rng = np.random.default_rng(height)
    image = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    scores = rng.random((16, 16), dtype=np.float32)
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    square, frame = letterbox(Image.fromarray(image[..., :3].copy()), 64, mean=mean, std=std)
    code = """async ([rgba, scores, height, width, mean, std]) => {
        const {Frame} = await import("./page/frame.js");
        const frame = new Frame(height, width, 64);
        return [[...frame.letterbox(rgba, mean, std)], [...frame.restore(Float32Array.from(scores), 16, 16)]];
    }"""
    given = [image.ravel().tolist(), scores.ravel().tolist(), height, width, mean, std]
    made, restored = visit().evaluate(code, given)
    difference = np.abs(np.reshape(made, square.shape) - square)
    assert difference.max() <= 1.01 / 255 / min(std)  # one grey level, where rounding differs
    assert (difference > 1e-5).mean() < 0.001
    assert np.abs(np.reshape(restored, (height, width)) - frame.restore(scores)).max() < 1e-5


CALIBRATION = Calibration(knots=((0.2, 0.1), (0.5, 0.4), (0.9, 0.8)), reject_below=0.3)


@pytest.mark.parametrize("relative", [None, 0.6])
@pytest.mark.parametrize(
    "calibration", [None, Calibration(knots=((0.2, 0.1), (0.5, 0.4), (0.9, 0.8)), reject_below=0.3)]
)
def test_verdicts_equal_those_of_the_package(visit, relative, calibration):
    decision = Decision(threshold=0.4, relative_threshold=relative, calibration=calibration)
    y, x = np.mgrid[:32, :32] / 31 - 0.5
    page = visit()
    for peak in (0.1, 0.41, 0.6, 0.8, 0.99):
        scores = (peak * np.exp(-6 * (x**2 + y**2))).astype(np.float32)
        found = Prediction("it", scores, Frame(32, 32, 32), decision)
        code = """async ([values, decision]) => {
            const {decide} = await import("./page/decision.js");
            const {mask, ...rest} = decide(Float32Array.from(values), decision);
            return [[...mask], rest];
        }"""
        mask, rest = page.evaluate(code, [found.probability.ravel().tolist(), to_dict(decision)])
        assert rest["empty"] == found.empty
        assert rest["score"] == pytest.approx(found.score, abs=1e-6)
        assert rest["threshold"] == pytest.approx(found.threshold)
        assert found.empty or (np.reshape(mask, (32, 32)) == found.mask).all()
