"""Makes the calls of an answer: side by side in threads, each with its time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any

from .._outputs import output_of
from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.scope import NEVER
from .._runtime.threads import spawn
from ..errors import ConfigurationError
from ..telemetry.context import ActiveCall
from .context import RUNNING, ToolContext
from .entries import Entry
from .failures import ToolTimeout
from .function import ToolError
from .items import ToolFinished, ToolStarted
from .returned import Unwanted, drained
from .telling import Telling

__all__ = ["MOST_THREADS", "Calling"]

MOST_THREADS = 32  # tools that run at the same time, in one run; the others wait for their turn
# Windows lets no Ctrl-C through while a thread waits at a lock.
_LONGEST_WAIT = 0.1 if os.name == "nt" else NEVER


class Calling:
    """The calls of one answer at work. One thread, the reader, iterates `items`.

    Args:
        entries: the calls, in their order. Those that have an outcome are left alone.
        check: returns the seconds that are left to the run, or raises what has ended it.
        telling: what tells the observers.
        bell: rung for everything that the reader may wait for.
        number: of the answer, from 1.
        side_by_side: whether calls may run at the same time.
        seconds: the time of a tool that has none of its own; None: no limit.
        raises: whether what a tool raises ends the run.
    """

    def __init__(
        self,
        entries: list[Entry],
        check: Callable[[], float],
        telling: Telling,
        bell: SimpleQueue[None],
        number: int,
        *,
        side_by_side: bool,
        seconds: float | None,
        raises: bool,
    ) -> None:
        self._entries = entries
        self._check = check
        self._telling = telling
        self._bell = bell
        self._number = number
        self._most = MOST_THREADS if side_by_side else 1
        self._seconds = seconds
        self._raises = raises
        self._running: list[Entry] = []
        self._ended: deque[Entry] = deque()  # their ToolFinished was not yielded yet

    def items(self) -> Iterator[ToolStarted | ToolFinished]:
        """Make the calls, to their end. A tool starts when the item after its ToolStarted is asked
        for. With `raises`, what a tool has raised is raised once the tools beside it have ended."""
        waiting = deque(
            entry for entry in self._entries if entry.outcome is None and entry.bound is not None
        )
        failure: BaseException | None = None
        while waiting or self._running:
            beginning: list[Entry] = []
            while failure is None and waiting and self._may_begin(waiting[0], beginning):
                self._check()
                entry = waiting.popleft()
                entry.announced = True
                beginning.append(entry)
                yield ToolStarted(entry.call)
            self._check()
            for entry in beginning:
                self._begin(entry)
            if not self._running:
                break
            self._wait()
            while self._ended:
                entry = self._ended.popleft()
                self._running.remove(entry)
                if self._raises and failure is None:
                    failure = _failure(entry)
                yield entry.finished()
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """The run has ended: the tools that run may see it. Any thread."""
        for entry in self._entries:
            if entry.context is not None:
                entry.context.end()

    def _may_begin(self, entry: Entry, beginning: list[Entry]) -> bool:
        """Whether a call may begin: one that is sequential, only alone."""
        beside = [*self._running, *beginning]
        if not beside:
            return True
        alone = any(_is_sequential(one) for one in (entry, *beside))
        return not alone and len(beside) < self._most

    def _begin(self, entry: Entry) -> None:
        assert entry.tool is not None
        seconds = self._seconds if entry.tool.timeout is None else entry.tool.timeout
        context = ToolContext(entry.call, self._number, self._telling.trace_id, seconds)
        entry.context = context
        entry.deadline = NEVER if seconds is None else SYSTEM_CLOCK.monotonic() + seconds
        self._telling.begins(entry)
        entry.begun = True  # before it is: an interrupt may come in between
        self._running.append(entry)
        try:
            spawn(partial(copy_context().run, self._work, entry, context), "tool")
        except ConfigurationError:  # there is no thread for it
            entry.begun = False
            raise

    def _wait(self) -> None:
        """Wait until one of the calls that run has ended, or its time has."""
        while not self._ended:
            left = min(self._check(), _LONGEST_WAIT)
            now = SYSTEM_CLOCK.monotonic()
            for entry in self._running:
                left = min(left, entry.deadline - now)
                if entry.deadline <= now and entry.claim():
                    self._out_of_time(entry)
            if not self._ended:
                SYSTEM_CLOCK.wait(self._bell, None if left == NEVER else max(0.0, left))

    def _out_of_time(self, entry: Entry) -> None:
        assert entry.context is not None
        entry.context.end()
        limit = entry.context.seconds or 0.0
        entry.fail(ToolTimeout(limit), limit)
        self._ended.append(entry)
        self._telling.ended(entry, self._number)

    # -- the thread of a tool

    def _work(self, entry: Entry, context: ToolContext) -> None:
        ActiveCall(context.trace_id).enter()
        RUNNING.set(context)
        begun = SYSTEM_CLOCK.monotonic()
        value: Any = None
        output: str | list[Any] = ""
        error: BaseException | None = None
        try:
            self._telling.began(entry)
            assert entry.bound is not None
            value = drained(entry.bound(), lambda: not context.cancelled)
            output = output_of(value)
        except Unwanted as exc:
            # Nobody knows how far it would have come: it remains a call that was begun.
            self._telling.came_late(entry, self._number, exc, SYSTEM_CLOCK.monotonic() - begun)
            return
        except BaseException as exc:  # SystemExit, too: it would end this thread only
            error = exc.with_traceback(exc.__traceback__ and exc.__traceback__.tb_next)
        seconds = SYSTEM_CLOCK.monotonic() - begun
        if not entry.claim():
            self._telling.came_late(entry, self._number, error, seconds)
            return
        if error is None:
            entry.finish(value, output, seconds)
        else:
            entry.fail(error, seconds)
        try:
            self._telling.ended(entry, self._number)
        finally:
            self._ended.append(entry)
            self._bell.put(None)


def _is_sequential(entry: Entry) -> bool:
    return entry.tool is not None and entry.tool.sequential


def _failure(entry: Entry) -> BaseException | None:
    """What ends a run that raises: what a tool has raised, and the end of its time. Words for the
    model, a ToolError, do not."""
    error = entry.error
    if isinstance(error, ToolError) and not isinstance(error, ToolTimeout):
        return None
    return error
