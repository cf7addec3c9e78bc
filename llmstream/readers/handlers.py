"""handle: a stream that is read to its end, and an object that is told of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NoReturn

from .._core.checks import CENTURY, MANY, checked_range, shown
from .._runtime.clock import SYSTEM_CLOCK
from .._settings.arguments import checked_count
from ..errors import ConfigurationError, LLMStreamError
from ..result import Chunk, Result
from .progress import UNDONE, Progress
from .pump import BLOCK, Cursor, Lease, Pump
from .source import Chunks, Source, checked_source, chunks_of

__all__ = ["METHODS", "Handlers", "TimedChunks", "handle"]

METHODS = ("on_token", "on_progress", "on_complete", "on_error", "on_refusal", "on_restart")
_ASKED_FOR = METHODS[:-2]

_LIMIT = 256  # chunks that wait for a slow handler; then the stream is slowed
_LAST_WAIT = 1.0  # seconds that are given to a stream which has been ended, to free what it holds


class Handlers:
    """The methods of a handler; None for those that it does not have. Raises ConfigurationError
    for an object that has none of them."""

    def __init__(self, handler: Any) -> None:
        found = {name: _method(handler, name) for name in METHODS}
        if not any(found[name] for name in _ASKED_FOR):
            raise ConfigurationError(
                f"handler={shown(handler)}: pass an object with at least one of the methods "
                f"{', '.join(_ASKED_FOR)}"
            )
        self.on_token = found["on_token"]
        self.on_progress = found["on_progress"]
        self.on_complete = found["on_complete"]
        self.on_error = found["on_error"]
        self.on_refusal = found["on_refusal"]
        self.on_restart = found["on_restart"]

    @property
    def knows_restarts(self) -> bool:
        """Whether an answer that begins anew can be told to it, or need not be."""
        return self.on_token is None or self.on_restart is not None


def _method(handler: Any, name: str) -> Callable[..., Any] | None:
    if isinstance(handler, type):
        return None  # a class in the place of an object
    try:
        method = getattr(handler, name, None)
    except Exception as exc:  # whatever an attribute raises
        raise ConfigurationError(f"handler.{name} raises {type(exc).__name__}") from None
    if method is None:
        return None
    if not callable(method):
        raise ConfigurationError(f"handler.{name} is {shown(method)}: make it a method, or None")
    if inspect.iscoroutinefunction(method):
        raise ConfigurationError(f"handler.{name} is an async method, which nobody would await")
    found: Callable[..., Any] = method
    return found


def handle(
    stream: Source,
    handler: Any,
    every_chunks: int | None = 10,
    every_seconds: float | None = 1.0,
    expected_chars: int | None = None,
) -> Result:
    """Read the stream to its end and tell `handler`; returns the whole answer. See
    `Stream.handle`."""
    checked_source("handle", stream, "chunks", "result", "cancel")
    handlers = handler if isinstance(handler, Handlers) else Handlers(handler)
    chunks = None if every_chunks is None else checked_count("every_chunks", every_chunks)
    seconds = None
    if every_seconds is not None:
        seconds = checked_range("every_seconds", every_seconds, 0.01, CENTURY)
    expected = None if expected_chars is None else checked_count("expected_chars", expected_chars)
    return _Handling(stream, handlers, chunks, seconds, expected).run()


class _Handling:
    """One stream and the handler that is told of it. All of it in the thread of the caller."""

    def __init__(
        self,
        stream: Source,
        handlers: Handlers,
        every_chunks: int | None,
        every_seconds: float | None,
        expected_chars: int | None,
    ) -> None:
        self._stream = stream
        self._tell = handlers
        self._every_chunks = every_chunks or MANY
        self._every_seconds = every_seconds
        self._expected = expected_chars
        self._begun = self._told = SYSTEM_CLOCK.monotonic()
        self._chunks = self._chars = 0
        self._told_chunks = 0

    def run(self) -> Result:
        chunks = chunks_of(self._stream)
        # Only a thread can wait for the stream while this one waits for the next report.
        timed = self._tell.on_progress is not None and self._every_seconds is not None
        items = TimedChunks(chunks, self._stream, self._next_report) if timed else _Direct(chunks)
        try:
            result = self._read(items)
        except BaseException:
            # Of the handler, of Ctrl-C, or of the stream, which then has ended already.
            self._stream.cancel("the handler was left")
            items.close()
            raise
        self._report(result=result)
        if self._tell.on_complete is not None:
            self._tell.on_complete(result)
        return result

    def _read(self, items: _Direct | TimedChunks) -> Result:
        while True:
            try:
                chunk = items.get()
                if items.ended:
                    return self._stream.result()
            except LLMStreamError as error:
                self._fail(error)
            if chunk is not None:
                self._take(chunk)
            if self._is_due():
                self._report()

    def _fail(self, error: LLMStreamError) -> NoReturn:
        self._report(error=error)
        if self._tell.on_error is not None:
            self._tell.on_error(error)
        raise error

    def _take(self, chunk: Chunk) -> None:
        if chunk.type == "restart":
            if not self._tell.knows_restarts:
                raise ConfigurationError(
                    "the answer began anew (on_disconnect='restart'), and the handler could not be "
                    "told: give it a method on_restart(), or use another policy"
                )
            self._chunks = self._chars = self._told_chunks = 0
            if self._tell.on_restart is not None:
                self._tell.on_restart()
            return
        self._chunks += 1
        if chunk.type == "text" and self._is_answer(chunk):
            self._chars += len(chunk.text)
            if self._tell.on_token is not None:
                self._tell.on_token(chunk.text)
        elif chunk.type == "refusal" and self._is_answer(chunk) and self._tell.on_refusal:
            self._tell.on_refusal(chunk.text)

    def _is_answer(self, chunk: Chunk) -> bool:
        """Of several choices one is the answer: the one that iteration yields too."""
        only = getattr(getattr(self._stream, "state", None), "primary", None)
        return only is None or chunk.index == only

    # -- progress

    def _next_report(self) -> float:
        assert self._every_seconds is not None
        return self._told + self._every_seconds

    def _is_due(self) -> bool:
        return self._tell.on_progress is not None and (
            self._chunks - self._told_chunks >= self._every_chunks
            or (self._every_seconds is not None and SYSTEM_CLOCK.monotonic() >= self._next_report())
        )

    def _report(self, result: Result | None = None, error: LLMStreamError | None = None) -> None:
        if self._tell.on_progress is None:
            return
        now = SYSTEM_CLOCK.monotonic()
        elapsed = now - self._begun
        tokens = result.usage.output_tokens if result is not None else None
        fraction = None
        if self._expected is not None:
            fraction = min(UNDONE, self._chars / self._expected) if result is None else 1.0
        self._told, self._told_chunks = now, self._chunks
        self._tell.on_progress(
            Progress(
                chunks=self._chunks,
                chars=self._chars,
                elapsed=elapsed,
                chunks_per_second=self._chunks / elapsed if elapsed > 0 else 0.0,
                tokens_per_second=None if tokens is None or elapsed <= 0 else tokens / elapsed,
                fraction=fraction,
                done=result is not None,
                error=error,
            )
        )


class _Direct:
    """The chunks, read in this thread."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self.ended = False

    def get(self) -> Chunk | None:
        """The next chunk; None at the end, with `ended` set. Raises what ended the stream."""
        chunk = next(self._chunks, None)
        self.ended = chunk is None
        return chunk

    def close(self) -> None:
        self._chunks.close()


class TimedChunks:
    """The chunks, read in a thread of their own; `due` is when `get` returns without one."""

    def __init__(self, chunks: Chunks, stream: Source, due: Callable[[], float]) -> None:
        self._pump: Pump[Chunk] = Pump(chunks, stream, _LIMIT, "handle")
        self._cursor = Cursor(self._pump, BLOCK)
        self._lease = Lease(self._pump)  # an interrupt may fall into `close` too
        self._due = due
        self._follows = self.ended = False

    def get(self) -> Chunk | None:
        """The next chunk; None when a report is due, and at the end, with `ended` set. Raises what
        ended the stream."""
        pump, cursor = self._pump, self._cursor
        if not self._follows:
            self._follows = True
            pump.follow()
        while True:
            end = pump.end  # before the look at what is there: nothing comes after it
            if end is not None and end.at_once and end.error is not None:
                raise end.error
            stopped = end is None and pump.stopped  # how will be known soon
            chunk = cursor.take() if not stopped else None
            if chunk is not None:
                return chunk
            if end is not None:
                if end.error is not None:
                    raise end.error
                self.ended = True
                return None
            left = self._due() - SYSTEM_CLOCK.monotonic()
            if left <= 0:
                return None
            (cursor.pause if stopped else cursor.wait)(left)

    def close(self) -> None:
        """End the thread, and wait until it has freed the stream; not for long."""
        self._pump.close("the handler was left")
        until = SYSTEM_CLOCK.monotonic() + _LAST_WAIT
        while (left := until - SYSTEM_CLOCK.monotonic()) > 0 and self._pump.end is None:
            if not self._pump.begun:
                return
            self._cursor.pause(left)
