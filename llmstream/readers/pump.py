"""A thread that reads a source into a bounded log, and cursors that read the log.

The source blocks in its `next()`, and only a thread of its own can wait for it while somebody else
waits for the time, or for nobody. One thread reads; any number of cursors follow, each at its own
speed, in a thread of its own.

The log is a linked list. The thread appends at one end and cuts off at the other; a cursor holds
the last node it has delivered. So there is no lock that an interrupt, a signal handler or a
finalizer could leave behind: each step is one operation on an attribute, a set or a SimpleQueue.
A waiting side says so first, and looks once more; the other side changes first, and rings after it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from .._core.checks import has_method
from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.fork import in_child, renew_in_child
from .._runtime.threads import spawn
from ..errors import Cancelled, ConfigurationError
from ..result import Result
from ..telemetry.context import ActiveCall

__all__ = ["BLOCK", "CLOSE", "DROP", "PART", "Cursor", "Lease", "Missed", "Pump"]

T = TypeVar("T")

BLOCK, DROP, CLOSE = "block", "drop", "close"

PART = 1024  # characters of one item that count as one place in the log
_POLL = 0.1  # seconds: how soon a thread that waits for a cursor sees that its stream was stopped

_OTHER_PROCESS = (
    "this stream is read by a thread of the parent process, which does not exist here: in a forked "
    "child make a stream of its own, or begin to read only after the fork"
)


def weight(item: Any) -> int:
    """The places that an item takes in a log."""
    return 1 + len(item if isinstance(item, str) else item.text) // PART


class Bell(Protocol):
    """What wakes a reader: a SimpleQueue, or whatever an event loop is woken by."""

    def put(self, item: None) -> None: ...


class Node(Generic[T]):
    """An item and its number, from 1. `next` is None at the end so far, and `_GONE` where the log
    was cut off after this node."""

    __slots__ = ("item", "next", "number")

    def __init__(self, item: T | None, number: int) -> None:
        self.item = item
        self.number = number
        self.next: Node[T] | None = None


_GONE: Node[Any] = Node(None, -1)


class Missed(Exception):
    """A cursor's next item is no longer in the log. Never leaves this room."""


class Cursor(Generic[T]):
    """A place in a pump's log. One thread reads it; any thread may close it.

    `missed` counts the items that were cut off before this cursor had read them.
    """

    __slots__ = ("__weakref__", "_at", "_bell", "_pump", "_rung", "_waiting", "missed", "slow")

    def __init__(self, pump: Pump[T], slow: str) -> None:
        self._pump = pump
        self._at = pump.oldest
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._rung: Bell = self._bell  # or that of an event loop, see `arm`
        self._waiting = False
        self.slow = slow
        pump.cursors.add(self)  # after `_at` is set; what is cut off in between was missed
        # A text that began anew has nothing from before that.
        self.missed = max(0, self._at.number - pump.restarted)

    @property
    def number(self) -> int:
        """The number of the last item that this cursor has passed."""
        return self._at.number

    @property
    def behind(self) -> int:
        """How many items were cut off before this cursor has passed them."""
        return max(0, self._pump.oldest.number - self._at.number)

    def take(self) -> T | None:
        """The next item, or None where none is there just now. Raises Missed."""
        at = self._at
        following = at.next
        if following is None:
            return None
        item = following.item
        if item is None:  # `_GONE`, or a node that is being cut off
            raise Missed
        self._at = following
        self._pump.ring()
        return item

    def skip(self) -> bool:
        """After Missed: go on with the oldest item that is there. Returns whether the answer began
        anew among the items that are skipped: what was missed before that counts no more."""
        pump, before = self._pump, self._at.number
        self._at = oldest = pump.oldest
        if restarted := before < pump.restarted <= oldest.number:
            before, self.missed = pump.restarted, 0
        self.missed += oldest.number - before
        return restarted

    def wait(self, seconds: float | None = None) -> None:
        """Wait until something has changed, at most `seconds` (None: without a limit). May return
        early. Raises ConfigurationError in a forked child, where nothing will change."""
        if self._pump.forked:
            raise ConfigurationError(_OTHER_PROCESS)
        self._waiting = True
        try:
            if self._at.next is None and self._pump.end is None:
                SYSTEM_CLOCK.wait(self._bell, seconds)
        finally:
            self._waiting = False

    def arm(self, bell: Bell) -> bool:
        """For a reader that must not be blocked: `bell` is rung once something has changed, in any
        thread. Returns whether there is nothing to be read yet, else it is not rung. Raises what
        `wait` does."""
        if self._pump.forked:
            raise ConfigurationError(_OTHER_PROCESS)
        self._rung = bell
        self._waiting = True
        return self._at.next is None and self._pump.end is None

    def pause(self, seconds: float | None = None) -> None:
        """Wait until the log ends, at most `seconds` (None: without a limit); new items do not end
        it. May return early. Raises what `wait` does."""
        if self._pump.forked:
            raise ConfigurationError(_OTHER_PROCESS)
        if self._pump.end is None:
            SYSTEM_CLOCK.wait(self._bell, seconds)

    def ring(self, *, always: bool = False) -> None:
        if always or self._waiting:
            self._waiting = False  # one ring is enough, however many items come
            self._rung.put(None)

    def close(self) -> None:
        """Give up the place in the log. Any thread, also in finalizers. Idempotent."""
        self._pump.cursors.discard(self)
        self._pump.ring()
        self._rung.put(None)  # a thread that waits here looks at what has changed


class End:
    """How a log has ended. `at_once`: the stream was cancelled, and nothing more is delivered."""

    __slots__ = ("at_once", "error", "result")

    def __init__(self, error: BaseException | None, result: Result | None) -> None:
        self.error = error
        self.result = result
        self.at_once = isinstance(error, Cancelled)


class Pump(Generic[T]):
    """The thread, and its log of at most `limit` places.

    Args:
        items: what is read, in a thread that starts with `begin`.
        owner: where `items` came from: it is cancelled to end the thread, asked for `stopped` while
            the thread waits for a cursor, and for `result()` at the end, as far as it has these.
        limit: the places of the log, see `weight`. One item may be above it.
        name: of the thread.
        weigh: the places that an item takes; `weight` by default.
        replays: whether the log keeps what all of its cursors have passed, for those that come
            late, as far as it has room.
    """

    def __init__(
        self,
        items: Iterator[T],
        owner: Any,
        limit: int,
        name: str,
        *,
        weigh: Callable[[T], int] = weight,
        replays: bool = True,
    ) -> None:
        self._items = items
        self._owner = owner
        self._limit = limit
        self._name = name
        self._weigh = weigh
        self._replays = replays
        self._turn: SimpleQueue[None] = SimpleQueue()
        self._turn.put(None)  # for the first thread that begins; a second one has nothing to do
        self._size = 0
        self._reason: str | None = None
        self._last: Node[T] = Node(None, 0)
        self.oldest = self._last  # the node before the first that is there
        self.restarted = 0  # the number of the latest "restart" chunk that was cut off
        self.cursors: set[Cursor[T]] = set()
        self.bell: SimpleQueue[None] = SimpleQueue()
        self.waiting = False  # whether the thread waits for a cursor
        self.begun = self.closing = self.forked = False
        self._active: list[ActiveCall] = []  # the call, in the contexts of its readers
        given = getattr(owner, "trace_id", None)
        self.trace_id: str | None = given if isinstance(given, str) else None
        self.lease: weakref.ref[Lease] | None = None
        self._unsettled: _Unsettled | None = None
        self.end: End | None = None

    # -- any thread

    def begin(self) -> None:
        """Start the thread, once, in the context of the caller (contextvars). Raises
        ConfigurationError if the system starts no thread."""
        if not self.begun and not self.forked:
            _close_dropped()
            renew_in_child(self, forked=_true)
            lease = self.lease() if self.lease is not None else None
            if lease is not None:
                self._unsettled = _Unsettled(lease, _dropped.append)
                self._unsettled.pump = self
            spawn(_run_in(copy_context().run, self), self._name)
            self.begun = True

    def follow(self) -> None:
        """`begin`, for a reader: the call runs in its context too, so that `current_trace_id` knows
        it there (as in a loop over the stream itself)."""
        self.begin()
        if self.trace_id is not None and self.end is None:
            active = ActiveCall(self.trace_id)
            self._active.append(active)
            active.enter()
            active.over = self.end is not None  # it may have ended meanwhile

    def close(self, reason: str | None) -> None:
        """End the thread, wherever it is, and cancel the stream. Returns at once; also in
        finalizers. Idempotent."""
        if self.end is not None:
            return
        if not self.closing:
            self._reason = reason
            self.closing = True
        # A generator cannot be closed while it runs: the thread does that when it next has an item.
        owner = self._owner  # read once: the thread gives it up at the end
        if has_method(owner, "cancel"):
            owner.cancel(reason)
        self.bell.put(None)
        for cursor in self.cursors.copy():
            cursor.ring(always=True)  # who waits need not wait for the source, see `left`

    def settle(self) -> None:
        """The thread has ended, or will: nobody has to see to it any more."""
        self._unsettled = None

    def ring(self) -> None:
        """Wake the thread, if it waits for a cursor."""
        if self.waiting:
            self.waiting = False
            self.bell.put(None)

    @property
    def stopped(self) -> bool:
        """Whether nothing more is to be read: `close`, or a cancel or a clock of the stream."""
        return self.closing or getattr(self._owner, "stopped", False) is True

    def left(self) -> Cancelled | None:
        """What a reader gets if the log was closed, and the thread waits for a source that nobody
        can wake: it may wait for ever."""
        owner = self._owner  # before the look at the end, after which the thread gives it up
        if self.closing and self.end is None and not has_method(owner, "cancel"):
            return self._cancelled()
        return None

    # -- the thread

    def run(self) -> None:
        try:
            self._turn.get_nowait()
        except Empty:
            return
        error: BaseException | None = None
        result: Result | None = None
        try:
            self._read()
            if has_method(self._owner, "result"):
                result = self._owner.result()
        except BaseException as exc:  # whatever ends the source ends its readers
            error = exc
        # A generator, or a view: frees what it holds. (After the end it holds nothing.)
        if has_method(self._items, "close"):
            with contextlib.suppress(BaseException):
                self._items.close()  # type: ignore[attr-defined]
        for active in self._active:
            active.over = True
        self.end = End(error, result)
        for active in self._active:  # of those that came meanwhile
            active.over = True
        self._items, self._owner = iter(()), None
        self.settle()
        for cursor in self.cursors.copy():
            cursor.ring(always=True)

    def _read(self) -> None:
        for item in self._room():
            node = Node(item, self._last.number + 1)
            self._last.next = node
            self._last = node
            self._size += self._weigh(item)
            while (self._size > self._limit or not self._replays) and self._cut():
                pass
            for cursor in self.cursors.copy():
                cursor.ring()

    def _room(self) -> Iterator[T]:
        """The items; each is asked for when there is room for it."""
        while True:
            while not self._has_room() and not self.stopped:
                self.waiting = True
                try:
                    if not self._has_room() and not self.closing:
                        SYSTEM_CLOCK.wait(self.bell, _POLL)
                finally:
                    self.waiting = False
            if self.closing and not has_method(self._owner, "cancel"):
                raise self._cancelled()
            try:
                item = next(self._items)
            except StopIteration:
                return
            if self.closing:  # the source was not ended by its cancel, or has none
                raise self._cancelled()
            yield item

    def _cancelled(self) -> Cancelled:
        return Cancelled("the stream was closed before its end", reason=self._reason)

    def _has_room(self) -> bool:
        return self._size < self._limit or self._may_cut()

    def _may_cut(self) -> bool:
        number = self.oldest.number
        return not any(c.slow == BLOCK and c.number == number for c in self.cursors.copy())

    def _cut(self) -> bool:
        """Cut the oldest node off, unless a cursor that blocks has not read it, or it is the only
        one. Returns whether it did."""
        oldest = self.oldest
        following = oldest.next
        if following is None or following is self._last or not self._may_cut():
            return False
        item = following.item
        assert item is not None  # only this thread cuts off
        if getattr(item, "type", None) == "restart":
            self.restarted = following.number
        self._size -= self._weigh(item)
        self.oldest = following
        following.item, oldest.next = None, _GONE
        return True


def _true() -> bool:
    return True


def _run_in(run: Callable[..., Any], pump: Pump[Any]) -> Callable[[], None]:
    def work() -> None:
        run(pump.run)

    return work


class Lease:
    """Held by all that reads a pump, and by nothing else: when the last of them is dropped, the
    thread ends and the stream is cancelled, without the garbage collector."""

    __slots__ = ("__weakref__", "_pump")

    def __init__(self, pump: Pump[Any]) -> None:
        self._pump = pump
        pump.lease = weakref.ref(self)

    def __del__(self) -> None:
        # At interpreter exit parts of this may be gone already.
        with contextlib.suppress(Exception):
            self._pump.close("dropped before the end")
            self._pump.settle()
            self._pump.cursors.clear()  # a cycle, which would keep a stream that was not read yet


class _Unsettled(weakref.ref[Lease]):
    """A thread that runs, and its lease. When the lease goes, CPython itself puts this into
    `_dropped`: an interrupt that comes in the lease's finalizer ends the finalizer, and goes no
    further. Then the next thread that begins ends this one."""

    __slots__ = ("pump",)
    pump: Pump[Any]


_dropped: deque[_Unsettled] = deque()
in_child(_dropped.clear)  # the threads are the parent's


def _close_dropped() -> None:
    while _dropped:
        with contextlib.suppress(IndexError, ValueError):  # another thread was faster
            unsettled = _dropped[0]
            unsettled.pump.close("dropped before the end")
            _dropped.remove(unsettled)  # not before: an interrupt would lose it
