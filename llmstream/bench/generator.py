"""The load generator: threads that make requests at their moments, and measure each."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from queue import SimpleQueue

from .._runtime.clock import SYSTEM_CLOCK, Clock
from .._runtime.threads import Lock, spawn
from ..errors import ConfigurationError, LLMStreamError
from ..stream import Stream
from .arrivals import Arrivals
from .statistics import Gaps, Sample

__all__ = ["Generator"]

_PATIENCE = 10.0  # seconds until threads that were stopped are left to end by themselves
# So many requests in a row from the first on that are refused for good end a level: a service that
# refuses a key refuses it always.
_MOST_REFUSED = 50
_STOPPED = "the benchmark was stopped"


class Generator:
    """Plays one level of load: `run`, once, then the figures are in `samples`.

    Each thread takes the next arrival, waits for its moment, makes the request, and takes the next.
    A request whose moment has come when all threads are busy is sent by the first that is free, and
    counts from its moment. Threads are started as they are needed: with a request that leaves none
    to wait for the next arrival.

    Args:
        ask: makes the stream of the request with a number, without sending it.
        arrivals: when requests are due, in seconds from the begin.
        streams: at most so many at once.
        at_once: start a thread for each stream at the begin.
        patience: a request that could not be sent within so many seconds after its moment is not
            sent at all, and counted in `unsent`.
        clock: the clock of the client.
    """

    def __init__(
        self,
        ask: Callable[[int], Stream],
        arrivals: Arrivals,
        streams: int,
        *,
        at_once: bool,
        patience: float = math.inf,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._ask = ask
        self._arrivals = arrivals
        self._streams = streams
        self._at_once = at_once
        self._patience = patience
        self._clock = clock
        # Guards what is below, down to `failed`.
        self._lock = Lock()
        self._number = 0
        self._started = 0  # threads
        self._done = 0  # of them have ended
        self._waiting = 0  # threads that make no request: they wait for the moment of one
        self.unsent = 0
        self.samples: list[Sample] = []
        self.gaps = Gaps()  # of the answered requests
        self.failed = 0
        self._over = False  # no further arrival is taken
        self._bells: list[SimpleQueue[None]] = []  # of the threads
        self._bell: SimpleQueue[None] = SimpleQueue()  # of the caller: a thread has ended
        self._running: set[Stream] = set()
        self._stopped = False
        self._passed = False  # a request was answered, or failed in a way that may pass
        self.error: BaseException | None = None  # not a measurement: a fault of the settings
        self.stopped: str | None = None  # why it has ended before its time
        self.begun = self.ended = 0.0

    def run(self, each: Callable[[Generator], object] | None = None) -> None:
        """Make all requests and wait for their ends. `each` is called about twice a second.

        Raises ConfigurationError for settings that cannot work. After an interrupt the requests
        that run are cancelled and marked, and the exception goes on.
        """
        self.begun = self._clock.monotonic()
        try:
            for _ in range(self._streams if self._at_once else 1):
                self._spawn()
            self._wait(each)
        except BaseException:
            self.stop()
            self._wait_for_stopped()
            raise
        finally:
            self.ended = max([self.begun, *(sample.ended for sample in self.samples)])
            if self._stopped:
                with self._lock:
                    self.unsent += self._arrivals.due(self.ended - self.begun)
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """Take no further arrival, and cancel what runs. Returns at once."""
        self._stopped = True
        self._over = True
        for bell in list(self._bells):
            bell.put(None)
        for stream in list(self._running):
            stream.cancel(_STOPPED)

    @property
    def running(self) -> int:
        return len(self._running)

    # -- the caller's thread

    def _wait(self, each: Callable[[Generator], object] | None) -> None:
        while self._lives():
            SYSTEM_CLOCK.wait(self._bell, 0.5)
            if each is not None:
                each(self)

    def _lives(self) -> bool:
        with self._lock:
            return self._done < self._started

    def _wait_for_stopped(self) -> None:
        until = SYSTEM_CLOCK.monotonic() + _PATIENCE
        while self._lives() and (left := until - SYSTEM_CLOCK.monotonic()) > 0:
            SYSTEM_CLOCK.wait(self._bell, left)

    # -- the threads

    def _spawn(self) -> None:
        with self._lock:
            if self._started >= self._streams or self._over:
                return
            self._started += 1
            self._waiting += 1
        try:
            spawn(self._work, "bench")
        except ConfigurationError:  # there can be no further thread
            with self._lock:
                self._started -= 1
            raise

    def _work(self) -> None:
        bell: SimpleQueue[None] = SimpleQueue()
        self._bells.append(bell)
        try:
            while (arrival := self._take()) is not None:
                number, at = arrival
                if not self._sleep(at, bell):
                    break
                if self._leaves_none():
                    self._spawn()
                self._measure(number, at)
                with self._lock:
                    self._waiting += 1
        except BaseException as error:
            self.error = self.error or error
            self.stop()
        finally:
            with self._lock:
                self._done += 1
            self._bell.put(None)

    def _take(self) -> tuple[int, float] | None:
        """The number of the next request, and its moment."""
        with self._lock:
            now = self._clock.monotonic() - self.begun
            while (at := None if self._over else self._arrivals.next(now)) is not None:
                if now - at <= self._patience:
                    break
                self.unsent += 1
            if at is None:
                self._over = True
                return None
            number = self._number
            self._number += 1
            return number, self.begun + at

    def _leaves_none(self) -> bool:
        """This thread makes a request now; returns whether no other one waits for an arrival. (Not
        before its moment has come: each thread that is started takes an arrival.)"""
        with self._lock:
            self._waiting -= 1
            return self._waiting == 0

    def _sleep(self, at: float, bell: SimpleQueue[None]) -> bool:
        """Wait for a moment. Returns False if the generator was stopped meanwhile."""
        while not self._stopped:
            left = at - self._clock.monotonic()
            if left <= 0:
                return True
            self._clock.wait(bell, left)
        return False

    def _measure(self, number: int, at: float) -> None:
        sample = Sample(number=number, scheduled=at, sent=self._clock.monotonic())
        stream = self._ask(number)
        self._running.add(stream)
        if self._stopped:  # in this order: `stop` cancels it, or it is not begun
            stream.cancel(_STOPPED)
        try:
            gaps = read(stream, sample, self._clock)
        finally:
            self._running.discard(stream)
            stream.close()
        sample.interrupted = self._stopped and sample.error == "Cancelled"
        sample.longest_gap = max(gaps, default=None)
        with self._lock:
            self._note(sample, gaps)

    def _note(self, sample: Sample, gaps: array[float]) -> None:
        self.samples.append(sample)
        if sample.ok:
            self.gaps.add(gaps)
        self.failed += sample.failed
        if sample.error not in _FOR_GOOD:
            self._passed = True
        elif not self._passed and len(self.samples) >= _MOST_REFUSED:
            self.stopped = _REFUSED
            self._over = True


_REFUSED = f"the first {_MOST_REFUSED} requests were refused for a reason that does not pass"
_FOR_GOOD = frozenset(
    {
        "AuthenticationError",
        "InvalidRequestError",
        "PermissionDeniedError",
        "QuotaExceededError",
    }
)


def read(stream: Stream, sample: Sample, clock: Clock) -> array[float]:
    """Read a stream to its end, and note the moments in `sample`. Returns the seconds between its
    chunks, in their order. Raises ConfigurationError."""
    monotonic = clock.monotonic
    gaps = array("d")
    last = 0.0
    error: LLMStreamError | None = None
    try:
        for event in stream.events():
            now = monotonic()
            sample.ended = now  # if it is the last one
            for chunk in event.chunks:
                if chunk.type == "restart":
                    continue
                if sample.first is None:
                    sample.first = now
                else:
                    gaps.append(now - last)
                last = now
                sample.chunks += 1
                if chunk.type == "thinking":
                    sample.thought = True
                elif sample.first_output is None:
                    sample.first_output = now
    except ConfigurationError:
        raise
    except LLMStreamError as exc:
        error = exc
    now = monotonic()
    if error is None and sample.ended:
        sample.lingered = now - sample.ended
    else:
        sample.ended = now
    sample.usage = stream.usage
    attempts = stream.attempts
    sample.received = sum(attempt.bytes for attempt in attempts)
    sample.retried = tuple(
        type(attempt.error).__name__ for attempt in attempts[:-1] if attempt.error is not None
    )
    if error is not None:
        sample.error, sample.message = type(error).__name__, error.message
    return gaps
