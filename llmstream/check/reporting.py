"""Writes the results as text or as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TextIO

import msgspec

from .._runtime.clock import SYSTEM_CLOCK
from .result import CheckResult
from .runner import run
from .settings import CheckSettings
from .wording import counted

__all__ = ["report"]


def report(settings: CheckSettings, out: TextIO, *, as_json: bool = False) -> int:
    """Run all checks; write each result to `out` when it is known, and at the end a summary.

    With `as_json` every line is a JSON object, the summary too. Returns the exit code: 0 if no
    check failed, else 1.
    """
    begun = SYSTEM_CLOCK.monotonic()
    if not as_json:
        _write(out, f"llmstream check: {settings.summary()}")
    results = []
    for result in run(settings):
        results.append(result)
        _write(out, result.json().decode() if as_json else result.text())
    seconds = SYSTEM_CLOCK.monotonic() - begun
    _write(
        out, _json_summary(settings, results, seconds) if as_json else _summary(results, seconds)
    )
    return 0 if all(result.ok for result in results) else 1


def _write(out: TextIO, line: str) -> None:
    out.write(f"{line}\n")
    out.flush()


def _summary(results: Sequence[CheckResult], seconds: float) -> str:
    counts = Counter(result.status for result in results)
    each = ", ".join(f"{number} {status}" for status, number in counts.items())
    return f"{counted(len(results), 'check')}: {each} in {seconds:.1f} s"


def _json_summary(settings: CheckSettings, results: Sequence[CheckResult], seconds: float) -> str:
    summary = {
        "summary": True,
        "ok": all(result.ok for result in results),
        "checks": len(results),
        "failed": [result.name for result in results if not result.ok],
        "counts": Counter(result.status for result in results),
        "seconds": seconds,
        "settings": msgspec.structs.asdict(settings),
    }
    return msgspec.json.encode(summary).decode()
