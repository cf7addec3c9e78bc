"""The worker threads of a batch."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any, Protocol

from .._runtime.threads import spawn
from ..errors import ConfigurationError, LLMStreamError
from ..readers.source import Source
from ..result import Result
from .failure import foreign
from .prompts import Ask
from .run import Run

__all__ = ["Calls", "Ended", "MakeStream", "Threads", "make_call"]


class MakeStream(Protocol):
    """`Client.stream`."""

    def __call__(self, prompt: Any, /, **options: Any) -> Source: ...


Ended = tuple[Result | None, LLMStreamError | None]


class Calls:
    """The calls of a batch that this process makes."""

    def __init__(self, run: Run, make_stream: MakeStream) -> None:
        self._run = run
        self._make_stream = make_stream
        self._streams: dict[int, Source] = {}

    def stop(self, reason: str | None) -> None:
        for stream in self._streams.copy().values():
            stream.cancel(reason)

    def make(self, ask: Ask) -> None:
        """Make a call, to its end, in a context of its own."""
        result, error = self._run.context.copy().run(self._outcome, ask)
        self._run.end(ask, result, error)
        self._streams.pop(ask.index, None)

    def has(self, index: int) -> bool:
        """Whether the call runs here."""
        return index in self._streams

    def _outcome(self, ask: Ask) -> Ended:
        run = self._run
        if run.stopped is not None:
            return None, run.stopped.error()
        return make_call(self._make_stream, ask, self._begun)

    def _begun(self, ask: Ask, stream: Source) -> None:
        self._streams[ask.index] = stream
        run = self._run
        if run.stopped is not None:  # in this order: `stop` ends it, or it is ended here
            stream.cancel(run.stopped.reason)
        if run.chunks is not None:
            for chunk in stream.chunks():
                run.pass_on(ask.index, chunk)


def make_call(make_stream: MakeStream, ask: Ask, begun: Any = None) -> Ended:
    """Make a call, to its end. Never raises."""
    stream: Source | None = None
    try:
        try:
            stream = make_stream(ask.prompt, **ask.options)
        except ConfigurationError as exc:
            exc.args = (f"prompts[{ask.index}]: {exc.message}", *exc.args[1:])
            raise
        if begun is not None:
            begun(ask, stream)
        return stream.result(), None
    except LLMStreamError as exc:
        return None, exc
    except BaseException as exc:  # an observer's, or the application's own
        return None, foreign(exc, stream)


class Threads:
    """The crew of a batch that has no executor: threads, which are daemons. They start as they are
    needed, and end with the batch."""

    ahead = 1  # so that a worker need not wait for a prompt

    def __init__(self, run: Run, make_stream: MakeStream) -> None:
        self._run = run
        self._calls = Calls(run, make_stream)
        self._asks: SimpleQueue[Ask | None] = SimpleQueue()
        self._threads = 0

    def begin(self, ask: Ask) -> None:
        if self._threads < min(len(self._run.running), self._run.max_workers):
            try:
                spawn(self._work, "worker")
                self._threads += 1
            except ConfigurationError:
                if not self._threads:
                    raise
        self._asks.put(ask)

    def check_chunks(self) -> None:
        """They can be had."""

    def stop(self, reason: str | None) -> None:
        self._calls.stop(reason)

    def finish(self) -> None:
        for _ in range(self._threads):
            self._asks.put(None)

    def _work(self) -> None:
        while (ask := self._asks.get()) is not None:
            self._calls.make(ask)
            del ask
