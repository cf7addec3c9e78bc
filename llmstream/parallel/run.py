"""A batch at work: who draws the prompts, who makes the calls, and where their outcomes go.

One thread, the conductor, asks the caller's iterator for the prompts, and hands each to the crew
once a worker is free, or will be soon. Whoever has news for the conductor puts it into its inbox, a
SimpleQueue: there is no lock that an interrupt could leave behind, and `put` may be called in
signal handlers and finalizers.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections import deque
from collections.abc import Iterator
from contextvars import Context
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from .._runtime.fork import process_number
from .._runtime.frames import forget_variables
from .._runtime.threads import Lock, is_finalizing, spawn
from ..errors import Cancelled, ConfigurationError, LLMStreamError
from ..readers.outcome import Outcome
from ..result import Chunk, Result
from .bar import Bar
from .failure import foreign
from .prompts import Ask, Prompts

__all__ = ["Crew", "Run", "Stop"]

# Windows lets no Ctrl-C through while a thread waits at a lock.
_LONGEST_WAIT = 0.1 if os.name == "nt" else None
_GRACE = 10  # times 10 ms, at most: from a prompt that was drawn to its outcome, after a cancel
_CHUNKS = 64  # of each worker, that may wait for the reader


class Crew(Protocol):
    """Who makes the calls. Every call that has begun ends with `Run.end`. `ahead` is the number of
    calls beyond the number of workers that may wait for one."""

    ahead: int

    def begin(self, ask: Ask) -> None:
        """Make a call soon. The conductor's thread. Raises an error of the library where no further
        call can be made."""

    def check_chunks(self) -> None:
        """Raises ConfigurationError where chunks cannot be had."""

    def stop(self, reason: str | None) -> None:
        """End the calls that run. Any thread; returns at once."""

    def finish(self) -> None:
        """No further call will come. The conductor's thread."""


class _News(Enum):
    """What the conductor is told."""

    FREE = "a call has ended"
    TAKEN = "the reader has taken an outcome"
    STOP = "the batch was cancelled"


class Stop:
    """Why a batch was cancelled."""

    def __init__(self, reason: str | None) -> None:
        self.reason = reason

    def error(self) -> Cancelled:
        """For a call that had not begun."""
        why = f" ({self.reason})" if self.reason else ""
        return Cancelled(
            f"the batch was cancelled{why} before this call had begun", reason=self.reason
        )


class Run:
    """The state of a batch.

    Attributes, which any thread may read:
        ended: the outcomes that the reader has not taken, in the order in which the calls ended.
            Whoever ends a call appends, the reader takes.
        running: the calls that have no outcome yet, by index. The conductor adds, whoever ends a
            call removes.
        chunks: what the streams have brought and the reader has not taken, if it wants chunks.
        keeps: whether outcomes are kept for the end of the batch, and never taken.
        stopped: why the batch was cancelled, or None. Written by any thread.
        over: whether every call has ended, and no further one begins. Written by the conductor.
        exhausted: whether the iterator of prompts has come to its end. Written by the conductor.
        failure: what the iterator of prompts has raised. Written by the conductor.
        reader: held by the one thread that reads.
        bell: an item for each change that the reader may wait for.
    """

    def __init__(self, prompts: Prompts, max_workers: int, context: Context, bar: Bar) -> None:
        self.prompts = prompts
        self.max_workers = max_workers
        self.context = context
        self.bar = bar  # the reader's
        self.crew: Crew
        self.bell: SimpleQueue[None] = SimpleQueue()
        self.ended: deque[Outcome] = deque()
        self.running: dict[int, Ask] = {}
        self.chunks: deque[tuple[int, Chunk]] | None = None
        self.keeps = self.started = self.over = self.exhausted = False
        self.stopped: Stop | None = None
        self.failure: BaseException | None = None
        self.reader = Lock()
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._unclaimed: dict[int, Ask] = {}
        self._rest: Iterator[tuple[int, Any]] = iter(())  # the prompts that were not drawn
        self._places: SimpleQueue[None] = SimpleQueue()  # an item for each chunk that may be made
        self._free = max_workers  # calls that may begin
        self._room = 2 * max_workers  # outcomes that may be made and not be taken
        self._conductors = deque([None])  # one item: one conductor
        self._handle: weakref.ref[Any] | None = None
        self._pid = process_number()

    # -- the reader

    def check_reader(self) -> None:
        """Raises ConfigurationError where the batch has another reader."""
        if self.is_parents:
            raise ConfigurationError(
                "this batch was begun by the parent process, which goes on with it: in a forked "
                "child make a batch of its own"
            )
        if self.reader.locked():
            raise ConfigurationError(
                "this batch is being read by another thread: a batch has one reader"
            )

    def start(self) -> None:
        """Begin, unless it has begun. Raises ConfigurationError if there is no thread for it."""
        if self.started:
            return
        self.bar.open()
        self._pid = process_number()
        spawn(self._conduct, "prompts")
        self.started = True

    def want_chunks(self) -> None:
        """The reader takes chunks. Before the start."""
        places: SimpleQueue[None] = SimpleQueue()
        for _ in range(_CHUNKS * self.max_workers):
            places.put(None)
        self._places = places
        self.chunks = deque()

    def taken(self) -> None:
        """The reader has taken an outcome: a prompt may be drawn for it."""
        self._inbox.put(_News.TAKEN)

    def take_chunk(self) -> tuple[int, Chunk] | None:
        """The next chunk, if there is one."""
        if not self.chunks:
            return None
        chunk = self.chunks.popleft()
        self._places.put(None)
        return chunk

    def listen(self) -> None:
        """Forget what the bell has said. What has changed is looked at next."""
        with contextlib.suppress(Empty):
            while not self.bell.empty():
                self.bell.get_nowait()

    def wait(self) -> None:
        """Wait for the bell. May return early."""
        with contextlib.suppress(Empty):
            self.bell.get(timeout=_LONGEST_WAIT)

    def is_done(self) -> bool:
        """Whether nothing more will come. A prompt that may still come is not waited for after a
        cancel: the caller's iterator may wait for ever."""
        if self.over or self.stopped is None or self.prompts.is_list:  # a list does not wait
            return self.over
        for _ in range(_GRACE):  # it may have drawn one just now
            if not self._may_draw():
                break
            self.listen()
            with contextlib.suppress(Empty):
                self.bell.get(timeout=0.01)
        return not self.running

    def _may_draw(self) -> bool:
        return not (self.over or self.running)

    def rest(self) -> Iterator[Outcome]:
        """The outcomes of the prompts that were not drawn. Once it is done."""
        stopped = self.stopped
        if stopped is not None:
            for index, given in self._rest:
                yield Outcome(index, given, None, stopped.error())

    # -- any thread

    def cancel(self, reason: str | None) -> None:
        """End all calls. Returns at once, never raises; idempotent."""
        if self.is_parents or self.over or is_finalizing():
            return
        if self.stopped is None:
            self.stopped = Stop(reason)
        self._inbox.put(_News.STOP)
        self.crew.stop(reason)
        for _ in range(self.max_workers if self.chunks is not None else 0):
            self._places.put(None)  # who waits for one goes on
        self.bell.put(None)

    def cancel_when_dropped(self, handle: Any) -> None:
        """Tell the conductor when `handle` is dropped: with one call of a built-in method, which no
        interrupt cuts short."""
        self._handle = weakref.ref(handle, self._inbox.put)

    @property
    def is_parents(self) -> bool:
        """Whether this is a forked child, and the batch is its parent's."""
        return self.started and self._pid != process_number()

    # -- the conductor

    def _conduct(self) -> None:
        try:
            self._conductors.pop()
        except IndexError:  # an interrupt has cut `start` short, and it was called again
            return
        self._free += self.crew.ahead
        try:
            self.context.copy().run(self._hand_out)
        except BaseException as exc:  # of the caller's iterator
            self.failure = exc
        while self.running:
            self._hear()
        self.crew.finish()
        self.over = True
        self.bell.put(None)

    def _hand_out(self) -> None:
        prompts = iter(self.prompts)
        while True:
            while self.stopped is None and not (self._free > 0 and self._room > 0):
                self._hear()
            if self.stopped is not None:
                self._leave(prompts)
                return
            try:
                index, given = next(prompts)
            except StopIteration:
                self.exhausted = True
                return
            self._free -= 1
            self._room -= 1
            self._hand_over(index, given)

    def _leave(self, prompts: Iterator[tuple[int, Any]]) -> None:
        """Of a list all prompts are known, and have an outcome each."""
        if self.prompts.is_list:
            self._rest = prompts
            self.exhausted = True

    def _hear(self) -> None:
        """Wait for news."""
        news = self._inbox.get()
        if news is _News.FREE:
            self._free += 1
            self._room += self.keeps
        elif news is _News.TAKEN:
            self._room += 1
        elif news is not _News.STOP:  # the reference to a handle that is gone
            self.cancel("the batch was dropped before its end")

    def _hand_over(self, index: int, given: Any) -> None:
        refused: BaseException | None = None
        try:
            ask = self.prompts.ask(index, given)
        except BaseException as exc:  # a Mapping of the caller's own may raise anything
            ask, refused = Ask(index, given, None, {}), exc
        self.running[index] = self._unclaimed[index] = ask
        if refused is not None:
            self.end(ask, None, foreign(refused))
            return
        try:
            self.crew.begin(ask)
        except BaseException as exc:
            self.end(ask, None, foreign(exc))
            if not self.prompts.is_list:  # the further ones are better left in their iterator
                raise

    # -- who makes the calls

    def pass_on(self, index: int, chunk: Chunk) -> None:
        """Hand a chunk to the reader, once there is a place for it."""
        self._places.get()
        if self.stopped is None and self.chunks is not None:
            self.chunks.append((index, chunk))
            self.bell.put(None)

    def end(self, ask: Ask, result: Result | None, error: LLMStreamError | None) -> None:
        """A call has ended. Only the first end of a call counts."""
        begun = self._unclaimed.pop(ask.index, None)
        if begun is None:
            return
        if error is not None:
            forget_variables(error)
        self.ended.append(Outcome(begun.index, begun.given, result, error))
        self.running.pop(ask.index, None)
        self._inbox.put(_News.FREE)
        self.bell.put(None)
