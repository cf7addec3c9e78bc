"""Run, the caller's handle of answers and the calls of tools between them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Any

from .._runtime.deferred import defer
from ..errors import ConfigurationError
from ..result import Chunk, Result, ToolCall, Usage
from .loop import Item, Loop
from .saved import SavedRun, copied, fill, saved_answer

__all__ = ["Run"]


class Run:
    """A conversation in which the model calls tools until it answers. Made by `Client.run`; nothing
    is sent and no tool runs before its first use.

    Iterate it for a `Chunk` of each piece of each answer, a `Turn` for each answer that is whole,
    a `ToolStarted` and a `ToolFinished` for each call, and a `ToolProgress` where the service
    reports of a tool that it runs itself; or call `result()`, which reads what is
    left. One thread reads it. Everything else may be called from any thread at any time. Used as a
    context manager, leaving it ends the run; so does dropping it. Leaving early is not an error.

    What ends a run is raised: what ends a stream, and RunError. `state()` has how far it is at any
    moment, also after an error, and `Client.resume_run` goes on from there.

    A tool that runs cannot be ended from outside. Where the run ends before it, its thread (a
    daemon) goes on, and what it returns is still in `state()`. See `current_call` for tools that
    look.

    A run that has begun belongs to its process: in a forked child reading it raises
    ConfigurationError, and `cancel` has no effect on the parent's run.

    Attributes:
        trace_id: of all requests of the run; `current_trace_id()` has it in the tools, too.
    """

    def __init__(self, loop: Loop, describe: Callable[[], SavedRun]) -> None:
        self._loop = loop
        self._describe = describe  # the fields of the state that never change
        self._end_when_dropped = _EndWhenDropped(loop)
        self.trace_id = loop.trace_id

    def __repr__(self) -> str:
        loop = self._loop
        how = "ended" if loop.ended else "running" if loop.started else "not started"
        return f"<Run {how} turns={loop.place.conversation.turns} trace_id={self.trace_id}>"

    # -- reading

    def __iter__(self) -> Run:
        """Always the same iterator: after a `break` another loop goes on with it."""
        return self

    def __next__(self) -> Item:
        loop = self._loop
        loop.check_reader()
        with loop.reader:
            return loop.next()

    def result(self) -> Result:
        """Read what is left, and return the last answer. Raises what has ended the run; may be
        called again.

        Its `finish` says how it ended: an answer that a limit has cut is one ("length"). It is
        "tool_calls" where the model has called tools that were declared without a function: these
        calls are the caller's to run (see `open_calls`). Of a run that had ended before it was
        resumed, the answer has no items and no attempts.
        """
        for _ in self:
            pass
        latest = self._loop.place.latest
        if latest is None:  # only a state that somebody has written has none
            raise ConfigurationError("this run has no answer: its state had none")
        return latest

    def call_of(self, chunk: Chunk) -> Any:
        """The tool call that a chunk of type "tool_call" is a piece of, see `Stream.call_of`. For
        the thread that reads the run, and the chunks of the answer that arrives."""
        stream = self._loop.stream
        return None if stream is None else stream.call_of(chunk)

    # -- what there is so far

    @property
    def text(self) -> str:
        """The text so far of the answer that arrives, else of the latest one."""
        stream = self._loop.stream
        if stream is not None:
            return stream.text
        latest = self._loop.place.latest
        return latest.text if latest is not None else ""

    @property
    def messages(self) -> list[Any]:
        """The conversation so far in the form of the API, the prompt included: what a next prompt
        begins with, ``client.stream([*run.messages, {"role": "user", "content": ...}])``. An answer
        is in it once all of its calls have their outcome. Of a run that was resumed with another
        API, what was before is in the form of the first one; every API takes both."""
        messages: list[Any] = copied(self._loop.place.conversation.messages)
        return messages

    @property
    def turns(self) -> tuple[Result, ...]:
        """The answers so far; of a resumed run those since then."""
        return tuple(self._loop.results)

    @property
    def usage(self) -> Usage:
        """The sum of what the service has reported for the answers so far, those before the run was
        resumed included."""
        return self._loop.place.usage

    @property
    def open_calls(self) -> tuple[ToolCall, ...]:
        """The calls of the latest answer that have no outcome yet. After the end of a run, those of
        tools that were declared without a function: the caller runs them, and goes on by
        ``client.resume_run(run.state(), tools, outcomes={call.id: ...})``."""
        turn = self._loop.place.turn
        entries = turn.entries if turn is not None else []
        return tuple(entry.call for entry in entries if entry.outcome is None)

    @property
    def late_results(self) -> int:
        """How many tools have returned after their time. What they returned was dropped."""
        return self._loop.late

    @property
    def ended(self) -> bool:
        """Whether the run has ended, in whatever way."""
        return self._loop.ended

    def state(self) -> dict[str, Any]:
        """How far the run is, as plain data (dicts, lists, strings, numbers), for JSON, pickle or a
        database; `Client.resume_run` goes on from there. It has the prompt and all that was said.

        Kept after each item that is no chunk (a chunk changes nothing in it), it is enough to go on
        after the process has died, and no call that was finished runs again. Nor does one that had
        started and has no outcome: the model is told that nobody knows whether it ran. It has no
        key, no headers and no `extra_body`.
        """
        loop = self._loop
        ended, place = loop.ended, loop.place  # in this order
        saved = self._describe()
        fill(saved, place.conversation, place.turn, ended=ended)
        saved.latest = None if place.latest is None else saved_answer(place.latest)
        saved.usage = place.usage
        state: dict[str, Any] = copied(saved)
        return state

    # -- ending it

    def cancel(self, reason: str | None = None) -> None:
        """End the run now, in whatever phase it is. The reader gets Cancelled, tools that run may
        see it (`current_call().cancelled`). Returns at once; idempotent; no effect once the run has
        ended."""
        self._loop.cancel(reason)

    def close(self) -> None:
        """End the run if it has not ended, and free what it holds. Does not wait for tools.
        Idempotent."""
        self._loop.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _EndWhenDropped:
    """Held by a run: when it is dropped, the run ends. It does not refer to the handle, and the
    loop refers to neither, so that needs no garbage collector."""

    __slots__ = ("__weakref__", "_loop")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def __del__(self) -> None:
        # At interpreter exit parts of this may be gone already.
        with contextlib.suppress(Exception):
            loop = self._loop
            if loop.started and not loop.ended:
                loop.cancel("the run was dropped before its end")
                defer(loop.close)  # which tells observers
