"""The fixtures that all tests share (they are in support.py), and what CI does not allow."""

from __future__ import annotations

import os
from typing import Any

import pytest
from support import (  # noqa: F401 (fixtures)
    any_server,
    client_for,
    nothing_left,
    raw_server,
    server,
    stuck_dns,
    tls_server,
    unanswering,
)


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
