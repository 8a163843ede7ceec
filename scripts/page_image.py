"""Take the images of the server's page and of a review's that docs/serve.md and docs/review.md show.

    refseg serve &
    python scripts/page_image.py http://127.0.0.1:8000 docs/images/page.jpg
    refseg label src/refseg/data/examples --expressions WORDS --out labelled; refseg review labelled &
    python scripts/page_image.py http://127.0.0.1:8000 docs/images/review.jpg --review 7

Needs `refseg[dev]` and Chromium (`make browser`).
"""

from __future__ import annotations

import argparse
import shutil
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

EXPRESSIONS = ("the cat on the left", "the cat on the right", "the horse")
WORD = "cat"
"""Of the first expression: where it looks is shown on the phone."""
GAP, PAPER = 24, "#e4e2dc"


def main() -> None:
    """Carry out the command: a screen and a phone, side by side."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("address", help="of a running server")
    parser.add_argument("image", type=Path, help="the JPEG to write")
    parser.add_argument("--review", type=int, metavar="N", help="the server is that of a review; show its label N")
    arguments = parser.parse_args()
    find = "&".join(f"find={text.replace(' ', '+')}" for text in EXPRESSIONS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        screen = browser.new_page(viewport={"width": 1180, "height": 640})
        phone = browser.new_page(viewport={"width": 390, "height": 640}, color_scheme="dark")
        for page in (screen, phone):
            if arguments.review is None:
                _ask(page, f"{arguments.address}/#example=cats.jpg&{find}")
            else:
                _review(page, arguments.address, arguments.review)
        if arguments.review is None:
            phone.locator("li.row button").first.click()
            phone.get_by_role("button", name=WORD, exact=True).hover()
        images = [_image(page) for page in (screen, phone)]
        browser.close()
    sheet = Image.new("RGB", (sum(one.width + GAP for one in images) + GAP, images[0].height + 2 * GAP), PAPER)
    left = GAP
    for one in images:
        sheet.paste(one, (left, GAP))
        left += one.width + GAP
    sheet.save(arguments.image, quality=85, optimize=True)


def _ask(page: Page, address: str) -> None:
    page.goto(address)
    page.locator("li.row[aria-busy=false]").nth(len(EXPRESSIONS) - 1).wait_for()
    page.locator("#expression").blur()


def _review(page: Page, address: str, number: int) -> None:
    page.goto(address)
    page.locator("body[data-ready]").wait_for()
    page.get_by_label("Number of the label").fill(str(number))
    page.locator(f"#canvas[data-number='{number}']").wait_for()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


def _image(page: Page) -> Image.Image:
    page.wait_for_timeout(500)  # the last image is shown
    return Image.open(BytesIO(page.screenshot()))


if __name__ == "__main__":
    main()
