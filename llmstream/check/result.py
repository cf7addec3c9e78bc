"""The result of one check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

__all__ = ["CheckResult", "result"]


class CheckResult(Struct, frozen=True):
    """What one check expected and what it saw.

    Attributes:
        name: the check's name, a key of `CHECKS`.
        status: "ok", "FAIL", "off" (the setting is switched off, and that is a choice) or "n/a"
            (cannot be checked here).
        expected: what the settings promise, in words.
        seen: what happened, in words.
        seconds: how long the check took, in real seconds.
        figures: what was measured, for programs: requests, waits in seconds, speed and others.
    """

    name: str
    status: str
    expected: str
    seen: str
    seconds: float = 0.0
    figures: Mapping[str, Any] = {}

    @property
    def ok(self) -> bool:
        """Whether the check did not fail."""
        return self.status != "FAIL"

    def text(self) -> str:
        """The result as one line for a terminal."""
        speed = self.figures.get("speed", 1.0)
        faster = f", clock ran {speed:.3g}x faster" if speed > 1.0 else ""
        return (
            f"{self.status:<4}  {self.name:<22}  expected {self.expected}; saw {self.seen}  "
            f"({self.seconds:.1f} s{faster})"
        )

    def json(self) -> bytes:
        """The result as one JSON object, with `ok` beside the attributes."""
        return msgspec.json.encode({**msgspec.structs.asdict(self), "ok": self.ok})


def result(status: str, expected: str, seen: str, **figures: Any) -> CheckResult:
    """A result without its name and duration: the runner adds them."""
    return CheckResult("", status, expected, seen, figures=figures)
