"""What the observers of a run are told of its calls."""

from __future__ import annotations

from ..telemetry.tool_reporter import ToolReporter
from .entries import Entry
from .failures import ToolInterrupted, ToolRefused, ToolTimeout
from .returned import Unwanted

__all__ = ["Telling"]

_OUTCOMES: dict[type[BaseException], str] = {
    ToolTimeout: "timeout",
    ToolRefused: "refused",
    ToolInterrupted: "interrupted",
}


class Telling:
    """Tells the observers of each call. Thread-safe.

    Attributes:
        late: the results that have come after the time of their tool.
    """

    def __init__(self, reporter: ToolReporter) -> None:
        self._reporter = reporter
        self.trace_id = reporter.trace_id
        self.late = 0

    def begins(self, entry: Entry) -> None:
        """A tool is about to begin. In the reader's thread: its time may be over before `began`."""
        turn = entry.context.turn if entry.context is not None else 0
        entry.record = self._reporter.tool_record(entry.call.name, entry.call.id, turn)

    def began(self, entry: Entry) -> None:
        """A tool begins. In its thread."""
        self._reporter.tool_began(entry.record)

    def ended(self, entry: Entry, turn: int) -> None:
        """A call has its outcome. In the tool's thread; in the reader's where its time is over, or
        it was not run."""
        outcome = "success" if entry.error is None else "error"
        for kind, word in _OUTCOMES.items():
            if isinstance(entry.error, kind):
                outcome = word
        self._tell(entry, turn, outcome, entry.error, entry.seconds)

    def came_late(
        self, entry: Entry, turn: int, error: BaseException | None, seconds: float
    ) -> None:
        """A tool has returned after its time. In its thread."""
        if not isinstance(error, Unwanted):
            self.late += 1
        self._tell(entry, turn, "late", error, seconds)

    def _tell(
        self, entry: Entry, turn: int, outcome: str, error: BaseException | None, seconds: float
    ) -> None:
        self._reporter.tool_ended(
            entry.record,
            entry.call.name,
            entry.call.id,
            turn,
            outcome,
            error,
            seconds,
            known=entry.tool is not None,
        )
