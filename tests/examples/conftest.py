"""A real Chromium for the pages, and a service whose answers the tests choose."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from chat_page import ChatPage
from upstream import Upstream


def _unavailable(reason: str) -> Any:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The system's Chromium (or the one that LLMSTREAM_CHROMIUM names), driven by Playwright."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _unavailable("needs playwright (extra `browser`); its own browsers are not needed")
    names = (os.environ.get("LLMSTREAM_CHROMIUM", ""), "chromium", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        _unavailable("needs the program chromium (Debian: chromium)")
    with sync_playwright() as playwright:
        # As root, which CI is, Chromium wants to be told that it has no sandbox.
        options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., ChatPage]]:
    """`open_page(url, **settings of the browser's context)`: a page in a tab of its own. No page
    may raise an error, or do what its Content-Security-Policy forbids."""
    opened: list[ChatPage] = []

    def open_page(url: str, **settings: Any) -> ChatPage:
        context = chromium.new_context(**{"viewport": {"width": 1000, "height": 800}, **settings})
        page = ChatPage(context.new_page(), url)
        opened.append(page)
        return page

    yield open_page
    problems = [problem for page in opened for problem in page.problems]
    for page in opened:
        page.tab.context.close()
    assert not problems


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    service = Upstream()
    yield service
    service.close()
