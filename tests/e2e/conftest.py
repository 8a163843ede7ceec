"""A browser for the pages, and what a person does with them."""

from __future__ import annotations

import shutil
from urllib.parse import urlsplit

import pytest

OPTIONS = [
    "--no-sandbox",  # containers run as root, where Chromium's sandbox cannot start
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'refseg[dev]'")
    installed = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=installed, args=OPTIONS)
        except playwright.Error as error:
            pytest.skip(f"no browser can be started; install Debian's package chromium: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page in an empty profile: `visit(fragment, **options)`. Nothing may fail, or leave this machine."""
    contexts, faults = [], []

    def note_request(request):
        if urlsplit(request.url).scheme not in ("blob", "data") and not request.url.startswith(address):
            faults.append(f"requests {request.url}")

    def note_message(message):
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            faults.append(message.text)

    def open_page(fragment="", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", note_request)
        page.on("console", note_message)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address + fragment)
        page.locator("body[data-ready]").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults
