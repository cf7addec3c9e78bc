"""Pages in a real Chromium, and a service whose answers the tests choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from chat_page import ChatPage
from upstream import Upstream


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
