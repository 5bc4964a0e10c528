"""Chromium, driven by playwright, and a page in it that notes everything that should not happen."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# Quiet ones: nothing that phones home, no GPU, and no sandbox, which containers do not allow.
_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--mute-audio",
]
# Runs before a document's own scripts.
_CLEAN = """if (location.search === "?first") {
    localStorage.clear();
    sessionStorage.clear();
    history.replaceState(null, "", "/");
}"""
PATIENCE = 20_000  # Milliseconds that playwright waits for what should happen at once.


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser. Skips the tests where there is none, and says so."""
    playwright = pytest.importorskip("playwright.sync_api", reason='no playwright: pip install -e ".[test]"')
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None:
        pytest.skip("no Chromium on the PATH: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Watch:
    """Notes what a page should not do. allowed: parts of messages that are no fault, such as one about an error status."""

    def __init__(self, page: Any, url: str) -> None:
        self.allowed: tuple[str, ...] = ()
        self.faults: list[str] = []
        page.on("console", lambda message: self.faults.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on(
            "request", lambda request: self.faults.append(request.url) if not request.url.startswith((url, "data:")) else None
        )

    def check(self) -> None:
        """Nothing was in the console, no policy was violated, no other host was asked."""
        assert [fault for fault in self.faults if not any(part in fault for part in self.allowed)] == []


@contextmanager
def window(browser: Any, url: str, **options: Any) -> Iterator[tuple[Any, Watch]]:
    """A page in a window with storage of its own."""
    context = browser.new_context(reduced_motion="reduce", **options)
    context.set_default_timeout(PATIENCE)
    context.add_init_script(_CLEAN)
    page = context.new_page()
    watch = Watch(page, url)
    try:
        yield page, watch
    finally:
        context.close()


def visit(page: Any, watch: Watch, url: str) -> None:
    """Opens the playground as for the first time."""
    page.goto(f"{url}?first")
    watch.allowed = ()
    watch.faults.clear()


def continue_text(page: Any, text: str) -> None:
    page.fill("#draft", text)
    page.click("#go")
    page.wait_for_selector("#status:has-text('token')")


def tokens(page: Any) -> list[str]:
    return page.locator("#text .token").all_text_contents()


def token(page: Any, text: str) -> Any:
    return page.locator("#text .token").filter(has_text=text).first


def alternative(page: Any, text: str) -> Any:
    return page.locator("#alternatives button.row").filter(has_text=text).first


def shows(elements: Any, texts: list[str]) -> None:
    """The elements have these texts, or get them: the page draws once a frame."""
    from playwright.sync_api import expect

    expect(elements).to_have_text(texts, timeout=PATIENCE)
