"""A browser, a server that answers as a test says, and a page of it, each opened as for the first time."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.page.browser import Watch, chromium, visit, window
from tests.serve.page.scripted import Script, ScriptedServer


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def running() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.stop()


@pytest.fixture
def server(running: ScriptedServer) -> ScriptedServer:
    running.script = Script()
    running.script.hold.set()
    return running


@pytest.fixture(scope="module")
def desk(browser: Any, running: ScriptedServer) -> Iterator[tuple[Any, Watch]]:
    with window(browser, running.url, viewport={"width": 1200, "height": 800}) as (page, watch):
        yield page, watch


@pytest.fixture
def watch(desk: tuple[Any, Watch]) -> Watch:
    return desk[1]


@pytest.fixture
def page(desk: tuple[Any, Watch], server: ScriptedServer) -> Iterator[Any]:
    page, watch = desk
    visit(page, watch, server.url)
    yield page
    watch.check()
    page.goto("about:blank")  # What it would still ask, a moment after a token is looked at, is not the next test's.
