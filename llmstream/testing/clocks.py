"""Clocks for tests: time that passes when a test says so, and time that passes faster."""

from __future__ import annotations

import contextlib
import threading
from queue import Empty, SimpleQueue

from .._core.checks import is_number, shown
from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.scope import NEVER, CancelScope
from .._runtime.threads import RLock, spawn

__all__ = ["FakeClock", "ScaledClock", "let_pass"]


class FakeClock:
    """Time that passes only by `advance`, or when the library waits.

    Given to a Client, it stands in for the machine's clock and for the watchdog: when time moves,
    the streams whose clocks run out meanwhile are ended, in order. Thread-safe.

    Args:
        start: the first value of `monotonic()`, in seconds.
        unix: the first value of `time()`, in Unix seconds.

    Attributes:
        slept: the waits between attempts so far (backoffs), in seconds.
    """

    def __init__(self, start: float = 1000.0, unix: float = 1_800_000_000.0) -> None:
        # Guards what is below. Reentrant: a finalizer may call `forget` in the thread that holds
        # it.
        self._lock = RLock()
        self._now = start
        self._offset = unix - start
        self._scopes: dict[int, tuple[float, CancelScope]] = {}
        self.slept: list[float] = []

    @property
    def scheduler(self) -> FakeClock:
        """The stand-in for the watchdog: the clock itself."""
        return self

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment."""
        return self._now

    def time(self) -> float:
        """Unix time in seconds."""
        return self._now + self._offset

    def wait(self, bell: SimpleQueue[None], seconds: float | None) -> None:
        """Take what is in `bell`, or else let `seconds` pass at once.

        `None` waits for another thread to put something in, for at most one real second.
        """
        if seconds is None:
            # Other threads need real time. The wait may be short: callers wait in a loop.
            with contextlib.suppress(Empty):
                bell.get(timeout=1.0)
            return
        try:
            bell.get(block=False)  # an earlier ring ends the wait at once, as with a real clock
        except Empty:
            self.slept.append(seconds)
            self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass; streams whose clocks run out are ended before it returns."""
        target = self._now + seconds
        while True:
            with self._lock:
                at, scope = min(
                    self._scopes.values(), key=lambda due: due[0], default=(NEVER, None)
                )
                if scope is None or at > target:
                    self._now = max(self._now, target)  # another thread may have moved it further
                    return
                self._now = max(self._now, at)
                self.forget(scope)
            again = scope.tick(self._now)
            if again < NEVER:
                self.schedule(scope, again)

    def schedule(self, scope: CancelScope, at: float) -> None:
        """Call `scope.tick` when this clock reaches `at`."""
        with self._lock:
            self._scopes[id(scope)] = (at, scope)
            scope.scheduled = at

    def forget(self, scope: CancelScope) -> None:
        """Do not call `scope.tick` any more."""
        with self._lock:
            self._scopes.pop(id(scope), None)
            scope.scheduled = NEVER


class ScaledClock:
    """The machine's clock, `speed` times as fast: long clocks run out after a short real time.

    Given to a Client, it stands in for the machine's clock and for the watchdog. It starts one
    thread, which ends with `close()` or the `with` block; after that no clock of a stream runs out
    any more. What the network and the program do stays as slow as it is: a clock that is `speed`
    times as fast also makes every real delay look `speed` times as long. Thread-safe.

    Args:
        speed: seconds of this clock in a real second.

    Raises ValueError for a speed that is not a number above 0.
    """

    def __init__(self, speed: float) -> None:
        if not is_number(speed) or not 0.0 < speed <= 1e18:
            raise ValueError(f"speed={shown(speed)}: give a number above 0 and at most 1e18")
        self.speed = speed
        self._origin = SYSTEM_CLOCK.monotonic()
        # Guards what is below. Reentrant: a finalizer may call `forget` in the thread that holds
        # it.
        self._changed = threading.Condition(RLock())
        self._due: dict[int, tuple[float, CancelScope]] = {}
        self._closed = False
        self._thread = spawn(self._run, "scaled-clock")

    def __enter__(self) -> ScaledClock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def scheduler(self) -> ScaledClock:
        """The stand-in for the watchdog: the clock itself."""
        return self

    def monotonic(self) -> float:
        """Seconds that pass `speed` times as fast as real ones."""
        return self._origin + (SYSTEM_CLOCK.monotonic() - self._origin) * self.speed

    def time(self) -> float:
        """Unix time in seconds. It is right when the clock is made, and runs as fast as it."""
        return SYSTEM_CLOCK.time() + self.monotonic() - SYSTEM_CLOCK.monotonic()

    def wait(self, bell: SimpleQueue[None], seconds: float | None) -> None:
        """Wait until something is put into `bell`, and take it; at most `seconds` of this clock."""
        SYSTEM_CLOCK.wait(bell, None if seconds is None else seconds / self.speed)

    def schedule(self, scope: CancelScope, at: float) -> None:
        """Call `scope.tick` when this clock reaches `at`."""
        with self._changed:
            if scope.scheduled > at:
                self._due[id(scope)] = (at, scope)
                scope.scheduled = at
                self._changed.notify()

    def forget(self, scope: CancelScope) -> None:
        """Do not call `scope.tick` any more."""
        with self._changed:
            self._due.pop(id(scope), None)
            scope.scheduled = NEVER

    def close(self) -> None:
        """End the thread and wait for it. A second call has no effect."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (scope := self._next()) is not None:
            self.schedule(scope, scope.tick(self.monotonic()))

    def _next(self) -> CancelScope | None:
        """Wait until a scope is due and take it out; None once the clock is closed."""
        with self._changed:
            while not self._closed:
                at, scope = min(self._due.values(), key=lambda due: due[0], default=(NEVER, None))
                left = at - self.monotonic()
                if scope is not None and left <= 0:
                    self.forget(scope)
                    return scope
                # A wait that is too long for the platform is cut; then it looks once for nothing.
                self._changed.wait(None if scope is None else min(left / self.speed, 1e6))
            return None


def let_pass(scope: CancelScope, seconds: float) -> None:
    """Wait `seconds` of the scope's clock, with which a FakeClock moves on. Raises Stopped at the
    moment at which the scope is stopped; for doubles of the transport."""
    clock = scope.clock
    until = clock.monotonic() + seconds
    while (left := until - clock.monotonic()) > 0:
        if isinstance(clock, FakeClock):
            # In steps, so that time stands still at the moment when a clock runs out.
            clock.advance(min(left, max(0.0, scope.timers.at - clock.monotonic())))
            scope.check()
        else:
            scope.pause(left)
    scope.check()
