"""One call: it starts once, has one reader, ends once, frees what it holds, then tells."""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .._runtime.deferred import defer
from .._runtime.fork import in_child
from .._runtime.frames import forget_variables
from .._runtime.scope import Stopped, StopReason
from .._runtime.threads import Lock, is_finalizing
from ..errors import ConfigurationError, LLMStreamError
from ..events.base import AnyEvent
from ..telemetry.context import ActiveCall
from .context import CallContext
from .exchange import EventBatches
from .retrying import Retrying
from .telling import Telling

if TYPE_CHECKING:
    from .limiter import Limiter

T = TypeVar("T")

__all__ = ["Call", "Progress", "close_dropped"]

_TWO_READERS = "this stream is being read by another thread: a stream has one reader"
_OTHER_PROCESS = (
    "this stream was begun by the parent process, which goes on with it: in a forked child make a "
    "stream of its own, or begin to read only after the fork"
)


class Progress(Enum):
    """How far a call is."""

    NEW = "not started"
    RUNNING = "running"
    ENDED = "ended"


_ENDED = Progress.ENDED


class Call:
    """One call. Unless marked "any thread", members may be used only by the thread that holds the
    reader lock. `begin_report` gives a call that begins its reporter.
    """

    progress = Progress.NEW  # any thread, to read
    _handle: weakref.ref[Any] | None = None
    _outcome: tuple[LLMStreamError | None] | None = None  # once it is known
    _tell: Telling | None = None  # what has to be told of the end, until it is
    _batches: EventBatches | None = None
    _active: ActiveCall | None = None
    _error: LLMStreamError | None = None

    def __init__(
        self,
        ctx: CallContext,
        retrying: Retrying,
        begin_report: Callable[[CallContext], None],
    ) -> None:
        self.ctx = ctx  # any thread, to read
        self._scope = ctx.scope
        self.readable_as_text = retrying.readable_as_text  # any thread, to read
        self.model = retrying.model  # any thread, to read
        self._retrying: Retrying | None = retrying  # None: ended, and the request let go
        self._begin_report: Callable[[CallContext], None] | None = begin_report
        self.reader = Lock()  # held by the one thread that reads; see `check_reader`

    # -- any thread

    @property
    def ended(self) -> bool:
        return self.progress is _ENDED

    def cancel(self, reason: str | None) -> None:
        """End the call with Cancelled, in whatever phase it is. Returns at once, never raises."""
        self.ctx.scope.stop(StopReason(cancelled=True, reason=reason))

    def close(self, *, dropped: bool = False) -> None:
        """End the call if it still runs, and free everything it holds. Idempotent. `dropped`: in
        a finalizer."""
        if (self.ended and self._tell is None) or is_finalizing():
            _unsettled.pop(id(self), None)
            return
        self.cancel("closed before the end")
        # A reader in another thread holds the lock: it wakes up and frees everything itself.
        if not self.reader.locked():
            with self.reader:
                error: LLMStreamError | None = None
                try:
                    if not self.ended:
                        error = self._left_early(dropped)
                finally:
                    self._end(error, dropped)

    def _left_early(self, dropped: bool) -> LLMStreamError | None:
        ctx = self.ctx
        if not ctx.session.complete:
            return ctx.stop_error()
        return None if dropped else ctx.settle()  # nobody asks for the value of a dropped stream

    def check_reader(self) -> None:
        """Before `with call.reader`: raises ConfigurationError where another thread has it, or
        where this is a signal handler of the one that has it."""
        if self.reader.locked():
            raise ConfigurationError(_TWO_READERS)

    def pull(self) -> list[AnyEvent] | None:
        """The next events (perhaps none), or None at the end. Raises what ended the call."""
        self.check_reader()
        with self.reader:
            return self.next_batch()

    def reading(self, step: Callable[[], T]) -> T:
        """What `step` returns, which reads by `next_batch`. Raises what it raises."""
        self.check_reader()
        with self.reader:
            return step()

    def read_to_end(self) -> None:
        """Read what is left, and drop it. Raises what ended the call."""
        self.check_reader()
        with self.reader:
            while self.next_batch() is not None:
                pass

    def leave_to_parent(self) -> None:
        """In a forked child: the call is the parent's, and so are its connection and its telling.
        The connection is closed here, which the parent's end of it does not notice."""
        self.reader = Lock()  # a thread of the parent may hold it, for ever
        self.ctx.scope.leave_to_parent()
        self._error = ConfigurationError(_OTHER_PROCESS)
        self._outcome, self._tell = (self._error,), None
        self.progress = Progress.ENDED
        if self._active is not None:
            self._active.over = True
        self._batches = self._retrying = self._begin_report = None

    def limit_by(self, limiter: Limiter) -> None:
        """Every request of this call passes `limiter`. Before the call starts; it starts, and its
        clocks with it, once the first request may be sent."""
        if self._retrying is not None:
            self._retrying.limit_by(limiter)

    def tell_retries(self) -> None:
        """Show among the events that a request is made again."""
        if self._retrying is not None:
            self._retrying.tells = True

    def held_by(self, handle: Any) -> None:
        """When `handle` is dropped, the call is closed: by the handle's finalizer or, where an
        interrupt has cut that short, by the next call."""
        self._handle = weakref.ref(handle)

    # -- the reader

    def next_batch(self) -> list[AnyEvent] | None:
        """What `pull` does, for the thread that holds the reader lock."""
        if self.progress is _ENDED:
            self._raise_again()
            return None
        error: LLMStreamError | None = None
        try:
            try:
                if self._scope.stop_reason is not None and self.ctx.cancelled:
                    raise Stopped
                if self._batches is None:
                    self._start()
                    assert self._batches is not None
                batch = next(self._batches, None)
                if batch is not None:
                    return batch
            except Stopped:
                error = self.ctx.stop_error()
            except LLMStreamError as exc:
                error = exc
            self._end(error)
        except BaseException as exc:  # Ctrl-C above all: free the stream, and let it through
            self.cancel("interrupted")
            # Where it has ended already, how it ended stands, and the scope says nothing of it.
            self._end(self.ctx.stop_error() if self._outcome is None else None)
            forget_variables(exc)
            raise
        self._raise_again()
        return None

    def fail(self, error: LLMStreamError) -> None:
        """End the call with `error`, which its reader has found, and raise it. (Where the call has
        ended, it is only raised.) For the thread that holds the reader lock."""
        if not self.ended:
            self._end(error)
        elif error.trace_id is None:
            self.ctx.seal(error)
        raise error

    def _raise_again(self) -> None:
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        close_dropped()
        ctx = self.ctx
        ctx.scope.bind_to_process()
        assert self._retrying is not None
        self._retrying.wait_for_place()
        ctx.meter.begun = now = ctx.clock.monotonic()
        ctx.scope.timers.start(now)
        self._batches = self._retrying.batches()
        self.progress = Progress.RUNNING
        handle = self._handle() if self._handle is not None else None
        if handle is not None:
            unsettled = _Unsettled(handle, _dropped.append)
            unsettled.call = self
            _unsettled[id(self)] = unsettled
        self._active = ActiveCall(ctx.trace_id)
        self._active.enter()
        assert self._begin_report is not None
        self._begin_report(ctx)
        if ctx.reporter is not None:
            ctx.scope.listener = ctx.reporter.phase
            ctx.reporter.start()

    def _end(self, error: LLMStreamError | None, dropped: bool = False) -> None:
        """Free everything, then let it be known how the call ended. What an interrupt has cut short
        is done all the same, before the interrupt goes on: each step may be done twice."""
        if self._outcome is None:
            self._outcome = (error,)  # from now on it is this one
        try:
            self._settle(dropped)
        except BaseException:
            self._settle(dropped)
            raise

    def _settle(self, dropped: bool) -> None:
        if not self.ended:
            assert self._outcome is not None
            self._free(*self._outcome)
        tell = self._tell
        if tell is not None:
            if dropped:
                defer(tell)
            else:
                tell()
            self._tell = None
        _unsettled.pop(id(self), None)

    def _free(self, error: LLMStreamError | None) -> None:
        ctx = self.ctx
        if self._batches is not None:
            ctx.meter.end(ctx.clock.monotonic())
            self._batches.close()
        ctx.scope.finish()
        if error is not None:
            forget_variables(error)
            ctx.session.flush()  # what was held back is in .partial
        if ctx.meter.attempts[1]:
            ctx.end_attempt(error)
        if error is not None:
            ctx.seal(error)
        ctx.session.state.compact()
        self._error = error
        retrying = self._retrying
        if retrying is not None:
            retrying.leave_place()
        if self._active is not None:  # it has started
            self._active.over = True
            if ctx.scope.forked:
                pass  # the call is our parent's
            elif error is not None or ctx.reporter is not None:
                assert retrying is not None
                self._tell = Telling(ctx, error, retrying.cancel_response)
        self.progress = _ENDED
        self._retrying = self._begin_report = ctx.make_reporter = None


class _Unsettled(weakref.ref[Any]):
    """A call that has begun, and whose end has not been told. It keeps the call, and refers to its
    handle. When the handle goes, CPython itself puts it into `_dropped`: an interrupt that comes in
    the handle's finalizer ends the finalizer, and goes no further."""

    __slots__ = ("call",)
    call: Call


_unsettled: dict[int, _Unsettled] = {}  # by the id of the call
_dropped: deque[_Unsettled] = deque()


def _leave_to_parent() -> None:
    while _unsettled:
        _unsettled.popitem()[1].call.leave_to_parent()
    _dropped.clear()


in_child(_leave_to_parent)


def close_dropped() -> None:
    """Close the calls whose finalizer an interrupt has cut short."""
    while _dropped:
        with contextlib.suppress(IndexError, ValueError):  # another thread was faster
            unsettled = _dropped[0]
            defer(partial(unsettled.call.close, dropped=True))
            _dropped.remove(unsettled)  # not before: an interrupt would lose it
