"""A real Chromium, for the tests of the suite `browser`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

__all__ = ["chromium"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The system's Chromium (or the one that LLMSTREAM_CHROMIUM names), driven by Playwright: a
    Browser of its synchronous API. (One a module: as long as it runs, the thread has a loop of
    asyncio, and cannot run another.)"""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
    names = (os.environ.get("LLMSTREAM_CHROMIUM", ""), "chromium", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("needs the program chromium (Debian: chromium)")
    with playwright.sync_playwright() as started:
        # As root, which CI is, Chromium wants to be told that it has no sandbox.
        options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=program, args=options, timeout=120_000)
        yield browser
        browser.close()
