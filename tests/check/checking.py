"""What the tests of the checks share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import llmstream
from llmstream import RetryPolicy
from llmstream.check import CHECKS, CheckResult, CheckSettings, run

BOUND = 60.0  # seconds for a run of the command; it takes about 3
KEY = "sk-a-real-key"
FAST = RetryPolicy(base=0.01, cap=0.02)  # no test is about long waits
MANY = ("50 streams", "100 streams", "100 TLS streams")
ONE_OF_EACH = [name for name in CHECKS if name not in MANY]
# Checks of a call that has to end after one request.
ONE_REQUEST = ["quota used up", "bad key", "context too long", "HTML page"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(llmstream.__file__).parents[1])}


def results(settings: CheckSettings, *names: str) -> dict[str, CheckResult]:
    """The results of some checks, by name."""
    return {result.name: result for result in run(settings, names)}


def only(settings: CheckSettings, name: str) -> CheckResult:
    """The result of one check."""
    return results(settings, name)[name]


def failed(settings: CheckSettings, *names: str) -> set[str]:
    """The names of those of the checks that fail."""
    return {result.name for result in run(settings, names) if not result.ok}


def command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`llmstream check`, as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "llmstream", "check", *arguments],
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        timeout=BOUND,
        check=False,
        env=ENVIRONMENT,
    )
