"""A log of answers in the memory of this process."""

from __future__ import annotations

import contextlib
import weakref
from queue import SimpleQueue
from typing import Any

from ..._runtime.clock import SYSTEM_CLOCK
from ..._runtime.fork import process_number
from ..._runtime.scope import NEVER
from ..._runtime.watchdog import shared_watchdog
from ..._settings.arguments import checked_count
from ...errors import ConfigurationError
from ..parts import Failure
from .base import (
    FULL,
    STOPPED,
    TOO_LONG,
    UNATTENDED,
    About,
    Claim,
    Cursor,
    End,
    Entry,
    LogError,
    checked_seconds,
    failed,
)

__all__ = ["MemoryLog"]

_MIB = 2**20
_OBJECT = 64  # bytes that a frame takes besides its own
_ANSWER = 2048  # bytes that an answer takes besides its frames
_COUNT = 256  # frames that are taken in one go
_LOOK = 64 * 1024  # an answer looks at the bound of all answers each time it has grown by this


class MemoryLog:
    """Answers in the memory of this process, for as long as they are made and `ttl` seconds more.

        log = relay.MemoryLog()

    Make one for the whole process, and share it between its threads. Another process does not know
    its answers: with several workers use `RedisLog`, or send all requests of an answer to the same
    worker. In a forked child, answers that were being made in the parent end with an error.

    Args:
        ttl: seconds that an answer is kept after its end.
        max_answer_bytes: an answer whose frames are more ends with an error, and its call is
            cancelled.
        max_bytes: of all answers together. When it is reached, answers that have ended and that
            nobody reads are forgotten, the oldest first. Where that is not enough, a new answer is
            refused with LogError, and one that grows ends with an error.

    Raises ConfigurationError for arguments that cannot work. Thread-safe.
    """

    def __init__(
        self,
        ttl: float = 600.0,
        *,
        max_answer_bytes: int = 16 * _MIB,
        max_bytes: int = 256 * _MIB,
    ) -> None:
        self.ttl = checked_seconds("ttl", ttl)
        self.max_answer_bytes = checked_count("max_answer_bytes", max_answer_bytes)
        self.max_bytes = checked_count("max_bytes", max_bytes, 2**50)
        # An operation on it is atomic, so there is no lock.
        self._answers: dict[str, _Answer] = {}

    def __repr__(self) -> str:
        return f"<MemoryLog answers={len(self._answers)} ttl={self.ttl:g}>"

    def claim(self, claim: Claim) -> _Writer | None:
        if self._known(claim.id) is not None:
            return None
        self._make_room(_ANSWER)
        answer = _Answer(self, claim)
        writer = claim.writer = _Writer(answer)
        if self._answers.setdefault(claim.id, answer) is not answer:
            return None
        answer.keep_watch()
        return writer

    def reader(self, id: str, after: Cursor | None) -> _Reader | None:
        answer = self._known(id)
        return None if answer is None else _Reader(answer, after)

    def stop(self, id: str, reason: str) -> bool:
        answer = self._known(id)
        return answer is not None and answer.stop(None, reason)

    def close(self) -> None:
        """Stop the answers that are being made, and forget all. Idempotent; the log may be used
        again."""
        while self._answers:
            with contextlib.suppress(KeyError):
                _, answer = self._answers.popitem()
                answer.forgotten()

    def __del__(self) -> None:
        # At interpreter exit parts of this may be gone already.
        with contextlib.suppress(Exception):
            self.close()

    def _known(self, id: str) -> _Answer | None:
        answer = self._answers.get(id)
        if answer is None:
            return None
        answer.look_for_producer()
        if SYSTEM_CLOCK.monotonic() >= answer.expires:  # the watchdog is late, or the parent's
            self.forget(answer)
            return None
        return answer

    def forget(self, answer: _Answer) -> None:
        if self._answers.get(answer.id) is answer:
            self._answers.pop(answer.id, None)

    def _make_room(self, wanted: int) -> None:
        """Raises LogError where so many bytes more are above the bound."""
        answers = list(self._answers.values())
        excess = sum(answer.size for answer in answers) + wanted - self.max_bytes
        if excess <= 0:
            return
        for answer in sorted(answers, key=lambda one: one.expires):
            if excess > 0 and answer.end is not None and not answer.seats:
                excess -= answer.size
                self.forget(answer)
        if excess > 0:
            raise LogError(
                f"the log is full: its answers have {self.max_bytes:,} bytes, all of them needed "
                "(MemoryLog(max_bytes=...) is greater, a shorter ttl keeps less)",
                shown=FULL,
            )

    def grow(self, answer: _Answer, size: int) -> None:
        """Raises LogError where an answer must not have so many bytes more."""
        if answer.size + size > self.max_answer_bytes:
            raise LogError(
                f"the answer has more than {self.max_answer_bytes:,} bytes, so it was stopped "
                "(MemoryLog(max_answer_bytes=...) is greater)",
                shown=TOO_LONG,
                retryable=False,
            )
        answer.unchecked += size
        if answer.unchecked >= _LOOK:
            self._make_room(size)
            answer.unchecked = 0
        answer.size += size


class _Answer:
    """The frames of one answer. One thread appends; all others only look. Also what the watchdog
    schedules (`watchdog.Timed`): it forgets an answer, and stops one that nobody reads."""

    def __init__(self, log: MemoryLog, claim: Claim) -> None:
        self.log = weakref.ref(log)
        self.id = claim.id
        self.about: About = claim.about
        self.generation = int(SYSTEM_CLOCK.time() * 1000)
        self.frames: list[bytes] = []
        self.end: End | None = None  # is set after the last frames are there
        self.size = _ANSWER
        self.unchecked = 0
        self.seats: set[weakref.ref[_Seat]] = set()  # of its readers
        self.left = SYSTEM_CLOCK.monotonic()  # when the last reader left
        self.expires = NEVER
        self.scheduled = NEVER
        self._stop: Any = claim.stop  # None once there is nobody to stop
        self._process = process_number()
        self._ttl = log.ttl

    # -- any thread

    def stop(self, failure: Failure | None, reason: str) -> bool:
        stop = self._stop
        if stop is None or self.end is not None:
            return False
        stop(failure, reason)
        return True

    def forgotten(self) -> None:
        """The log has no place for the answer any more. Who reads it reads on."""
        shared_watchdog().forget(self)
        self.stop(
            Failure(type="LogError", message=STOPPED, retryable=True),
            "the log of the answer was closed",
        )

    def look_for_producer(self) -> None:
        """In a forked child: the producer is a thread of the parent's, and does not exist here."""
        if self._process == process_number():
            return
        self._process = process_number()
        self.scheduled = NEVER  # by the parent's watchdog
        self.seats, self._stop = set(), None
        if self.end is None:
            frames, breaks = failed(
                self.about, Failure(type="LogError", message=STOPPED, retryable=True)
            )
            self.close(frames, breaks)

    def enter(self, seat: _Seat) -> None:
        # CPython itself takes out the seat of a reader that is gone: an interrupt may end a
        # finalizer before it has done that.
        self.seats.add(weakref.ref(seat, self.seats.discard))

    def leave(self, seat: _Seat) -> None:
        self.left = SYSTEM_CLOCK.monotonic()
        self.seats.discard(weakref.ref(seat))
        self.keep_watch()

    def ring(self) -> None:
        for found in self.seats.copy():
            if (seat := found()) is not None:
                seat.ring()

    def keep_watch(self) -> None:
        """The watchdog looks at the answer when something may be due."""
        at = self.tick(SYSTEM_CLOCK.monotonic(), acts=False)
        if at < NEVER:
            # Without a further thread nobody looks: then the answer goes on, which is no harm.
            with contextlib.suppress(ConfigurationError):
                shared_watchdog().schedule(self, at)

    # -- the watchdog

    def tick(self, now: float, *, acts: bool = True) -> float:
        if self.end is not None:
            if acts and now >= self.expires and (log := self.log()) is not None:
                log.forget(self)
                return NEVER
            return self.expires
        patience = self.about.unattended
        if patience is None:
            return NEVER
        if self.seats:
            self.left = max(self.left, now)  # one may have left since this look began
        if acts and now >= self.left + patience:
            self.stop(
                Failure(type="Cancelled", message=UNATTENDED, retryable=True),
                f"nobody has read the answer for {patience:g} s",
            )
            return NEVER
        return self.left + patience

    # -- the producer

    def append(self, frames: list[bytes]) -> None:
        self.frames += frames
        self.ring()

    def close(self, frames: list[bytes], breaks: bool) -> None:
        self.size += sum(map(len, frames))
        self.frames += frames
        self.expires = SYSTEM_CLOCK.monotonic() + self._ttl
        self.end = End(breaks)
        self._stop = None  # it keeps the stream alive
        self.ring()
        self.keep_watch()


class _Writer:
    """See `base.LogWriter`."""

    def __init__(self, answer: _Answer) -> None:
        self._answer = answer

    def append(self, frames: list[bytes]) -> None:
        log = self._answer.log()
        if log is not None:
            log.grow(self._answer, sum(map(len, frames)) + _OBJECT * len(frames))
        self._answer.append(frames)

    def end(self, frames: list[bytes], *, breaks: bool) -> None:
        self._answer.close(frames, breaks)

    def withdraw(self) -> None:
        log = self._answer.log()
        if log is not None:
            log.forget(self._answer)
        self.release()

    def release(self) -> None:
        if self._answer.end is None:
            with contextlib.suppress(Exception):
                self._answer.close(
                    *failed(
                        self._answer.about,
                        Failure(type="LogError", message=STOPPED, retryable=True),
                    )
                )


class _Seat:
    """A reader, as its answer knows it: it does not keep a reader that is dropped."""

    __slots__ = ("__weakref__", "bell", "is_waiting")

    def __init__(self) -> None:
        self.bell: SimpleQueue[None] = SimpleQueue()
        self.is_waiting = False

    def ring(self) -> None:
        if self.is_waiting:
            self.is_waiting = False  # one ring is enough, however many frames come
            self.bell.put(None)


class _Reader:
    """See `base.LogReader`. A waiting reader says so first, and looks once more; the producer
    appends first, and rings after it."""

    def __init__(self, answer: _Answer, after: Cursor | None) -> None:
        self.about = answer.about
        self.end: End | None = None
        self._answer: _Answer | None = answer
        self._generation = answer.generation
        self._at = 0
        # A number that was not reached yet was never sent: it is invented.
        if after is not None and after.generation == answer.generation:
            self._at = after.number if after.number <= len(answer.frames) else 0
        self._seat = _Seat()
        answer.enter(self._seat)

    def take(self, seconds: float) -> list[Entry]:
        answer = self._answer
        if answer is None:
            return []
        answer.look_for_producer()
        if seconds > 0 and not self._is_more(answer):
            self._wait(answer, seconds)
        end = answer.end  # before the look at the frames: none is appended after it is set
        frames = answer.frames[self._at : self._at + _COUNT]
        first = self._at + 1
        self._at += len(frames)
        if self._at == len(answer.frames):
            self.end = end
        return [
            Entry(f"{self._generation}-{number}", frame)
            for number, frame in enumerate(frames, first)
        ]

    def _is_more(self, answer: _Answer) -> bool:
        return answer.end is not None or len(answer.frames) > self._at

    def _wait(self, answer: _Answer, seconds: float) -> None:
        seat = self._seat
        seat.is_waiting = True
        try:
            if not self._is_more(answer) and self._answer is not None:
                SYSTEM_CLOCK.wait(seat.bell, seconds)
        finally:
            seat.is_waiting = False

    def close(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.leave(self._seat)
            self._seat.bell.put(None)

    def __del__(self) -> None:
        # At interpreter exit parts of this may be gone already.
        with contextlib.suppress(Exception):
            self.close()
