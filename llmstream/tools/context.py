"""What a tool may know of the call that it was given: whether it is still wanted, above all."""

from __future__ import annotations

from contextvars import ContextVar
from queue import SimpleQueue

from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.scope import NEVER
from ..result import ToolCall

__all__ = ["ToolContext", "current_call"]


class ToolContext:
    """The call that a tool works on. Thread-safe.

    A thread cannot be ended from outside. A tool that takes long asks `cancelled` from time to
    time, or waits by `wait` instead of `time.sleep`.
    """

    __slots__ = ("_bell", "_deadline", "_over", "call", "seconds", "trace_id", "turn")

    def __init__(self, call: ToolCall, turn: int, trace_id: str, seconds: float | None) -> None:
        self.call = call  # its id, name and arguments
        self.turn = turn  # the number of the answer that has it, from 1
        self.trace_id = trace_id  # of the run
        self.seconds = seconds  # the time that the tool has; None: no limit
        self._deadline = NEVER if seconds is None else SYSTEM_CLOCK.monotonic() + seconds
        self._over = False
        self._bell: SimpleQueue[None] = SimpleQueue()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the result any more: the run has ended, or the tool's time
        has."""
        return self._over or self.remaining == 0.0

    @property
    def remaining(self) -> float | None:
        """The seconds that are left to the tool, 0.0 after its time; None without a limit."""
        if self._deadline == NEVER:
            return None
        return max(0.0, self._deadline - SYSTEM_CLOCK.monotonic())

    def wait(self, seconds: float) -> bool:
        """Wait `seconds`, but no longer than the result is wanted. Returns whether it still is."""
        until = min(SYSTEM_CLOCK.monotonic() + seconds, self._deadline)
        while not self._over and (left := until - SYSTEM_CLOCK.monotonic()) > 0:
            SYSTEM_CLOCK.wait(self._bell, left)
        if self._over:
            self._bell.put(None)  # for another thread of the tool that waits
        return not self.cancelled

    def end(self) -> None:
        """Nobody waits for the result any more. Any thread; idempotent; for the run."""
        self._over = True
        self._bell.put(None)


RUNNING: ContextVar[ToolContext | None] = ContextVar("llmstream_tool", default=None)


def current_call() -> ToolContext | None:
    """The call that the tool works on which asks; None outside of a tool. Also in threads that the
    tool starts, where it has copied its context into them (`contextvars.copy_context`)."""
    return RUNNING.get()
