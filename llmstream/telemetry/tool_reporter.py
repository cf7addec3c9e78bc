"""Reports one run, and the tools of it, to the observers."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.fork import process_number
from .._runtime.ids import call_numbers
from ..errors import Cancelled
from .observer import Dispatcher
from .records import RunRecord, ToolRecord

__all__ = ["ToolReporter"]

_LONGEST = 128  # characters of a tool's name, or an id: the model, or a gateway, may choose them


class ToolReporter:
    """Makes the records of a run, and passes them to the observers. `tool_began` and `tool_ended`
    may be called in any thread, the others in the one that reads the run.

    Attributes:
        trace_id: of the run.
    """

    def __init__(
        self, dispatcher: Dispatcher, *, trace_id: str, api: str, model: str, host: str
    ) -> None:
        self._dispatcher = dispatcher
        self._hooks = dispatcher.run_hooks()
        self._tells = any(self._hooks.values())
        self._run = RunRecord(
            id=next(call_numbers), trace_id=trace_id, api=api, model=model, host=host
        )
        self._begun = 0.0
        self._ended = False
        self._pid = process_number()
        self.trace_id = trace_id

    def start(self) -> None:
        """The run begins."""
        self._begun = SYSTEM_CLOCK.monotonic()
        self._pid = process_number()
        if self._tells:
            self._run = replace(self._run, started=SYSTEM_CLOCK.time())
            self._notify("on_run_start", self._run)

    def end(self, error: BaseException | None, turns: int, late: int) -> None:
        """The run has ended. Only the first time counts."""
        if not self._tells or self._ended:
            return
        self._ended = True
        outcome = "success" if error is None else "error"
        end = replace(
            self._run,
            outcome="cancelled" if isinstance(error, Cancelled) else outcome,
            error_type=None if error is None else type(error).__name__,
            turns=turns,
            late_results=late,
            total_ms=(SYSTEM_CLOCK.monotonic() - self._begun) * 1000.0,
        )
        self._notify("on_run_end", self._run, end)

    def tool_record(self, name: str, call_id: str | None, turn: int) -> ToolRecord | None:
        """The record of a tool that is about to begin. None where nobody is told."""
        return self._record(name, call_id, turn) if self._tells else None

    def tool_began(self, record: ToolRecord | None) -> None:
        """A tool begins, in this thread; `record` is that of `tool_record`."""
        if record is not None:
            self._notify("on_tool_start", record)

    def tool_ended(
        self,
        begun: ToolRecord | None,
        name: str,
        call_id: str | None,
        turn: int,
        outcome: str,
        error: BaseException | None,
        seconds: float,
        *,
        known: bool = True,
    ) -> None:
        """A call has its outcome. `begun` is what `tool_record` has returned, None for a call that
        was not run."""
        if not self._tells:
            return
        start = begun or self._record(name, call_id, turn, known=known)
        end = replace(
            start,
            outcome=outcome,
            error_type=None if error is None else type(error).__name__,
            total_ms=seconds * 1000.0,
        )
        self._notify("on_tool_end", start, end)

    def _record(
        self, name: str, call_id: str | None, turn: int, *, known: bool = True
    ) -> ToolRecord:
        run = self._run
        return ToolRecord(
            id=next(call_numbers),
            run=run.id,
            trace_id=run.trace_id,
            api=run.api,
            model=run.model,
            name=name[:_LONGEST],
            call_id=call_id and call_id[:_LONGEST],
            known=known,
            turn=turn,
            started=SYSTEM_CLOCK.time(),
        )

    def _notify(self, hook: str, *what: Any) -> None:
        listeners = self._hooks[hook]
        if listeners and self._pid == process_number():  # in a forked child it is the parent's run
            self._dispatcher.notify(listeners, *what)
