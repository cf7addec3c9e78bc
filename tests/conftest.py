"""The fixtures that all tests share (they are in support.py), and what CI does not allow."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
from chromium import chromium  # noqa: F401 (a fixture)
from corpus import PROPERTY
from hypothesis import settings
from kernels import kernel  # noqa: F401 (a fixture)
from support import (  # noqa: F401 (fixtures)
    any_server,
    client_for,
    eventually,
    no_dns,
    nothing_left,
    raw_server,
    server,
    stuck_dns,
    tls_server,
    unanswering,
)

from llmstream.telemetry.context import _active, current_trace_id

# For tests that have no settings of their own: they would have chance, and 0.2 s for an example.
settings.register_profile("tests", settings(PROPERTY, max_examples=100))
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def no_call_left() -> Iterator[None]:
    """After a test no call runs in the context of its thread: whoever leaves one is named, and not
    the tests that follow in this process."""
    yield
    if current_trace_id() is None:
        return
    gc.collect()  # a stream in a cycle of references is freed by it
    try:
        eventually(lambda: current_trace_id() is None, "the calls of the test have ended")
    finally:
        _active.set(())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Any:
    """A part that a contributor's machine may lack has to be there in CI: a skip is a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: one worker more than cores, because many tests wait for a clock."""
    return (os.cpu_count() or 1) + 1
