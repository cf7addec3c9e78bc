"""What is kept of a call: its attempts with their phases, the waits, the arrivals of content.

Everything here is bounded: of a long answer the arrivals get coarser, of a call with many attempts
the middle ones are left out.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from ..._core.phase import Phase
from ..records import AttemptRecord, CallRecord

__all__ = ["MOST_ATTEMPTS", "Arrivals", "AttemptHistory", "CallHistory", "Gap", "Span"]

_MOST_ARRIVALS = 2000  # arrivals that are kept for an attempt; more are merged in time
_MOST_GAPS = 3  # the longest gaps that are kept for an attempt
_MOST_WAITS = 500  # waits between attempts that are kept for a call
MOST_ATTEMPTS = 60  # attempts that are kept of a call: the first half and the last


class Gap(NamedTuple):
    ms: float  # the wait for the network
    at: float  # when it ended, ms since the start of the call


class Arrivals:
    """When content arrived: exact to 0.01 ms, and coarser once there are too many."""

    def __init__(self) -> None:
        self.width = 0.01  # ms
        self.last = 0.0  # when content arrived last, ms since the start of the call
        self._counts: dict[int, int] = {}
        self._gaps: list[Gap] = []  # a heap, the shortest first

    def add(self, at: float, gap: float | None, chunks: int) -> None:
        self.last = at
        key = int(at / self.width)
        self._counts[key] = self._counts.get(key, 0) + chunks
        if len(self._counts) > _MOST_ARRIVALS:
            self._coarsen()
        if gap is not None:
            push = heapq.heappush if len(self._gaps) < _MOST_GAPS else heapq.heappushpop
            push(self._gaps, Gap(gap, at))

    def _coarsen(self) -> None:
        self.width *= 2
        merged: dict[int, int] = {}
        for key, count in self._counts.items():
            merged[key // 2] = merged.get(key // 2, 0) + count
        self._counts = merged

    @property
    def gaps(self) -> list[Gap]:
        """The longest gaps, the longest first."""
        return sorted(self._gaps, reverse=True)

    def __len__(self) -> int:
        return len(self._counts)

    def __iter__(self) -> Iterator[tuple[float, int]]:
        """(ms, chunks), in order."""
        return ((key * self.width, count) for key, count in sorted(self._counts.items()))


class Span(NamedTuple):
    """A phase, or a wait: ms since the start of the call."""

    name: str
    start: float
    end: float

    @property
    def ms(self) -> float:
        return self.end - self.start


class AttemptHistory(NamedTuple):
    """An attempt: its record, and when its content arrived."""

    record: AttemptRecord
    arrivals: Arrivals

    @property
    def start(self) -> float:
        return self.record.started_ms

    @property
    def end(self) -> float:
        return self.record.started_ms + self.record.total_ms

    @property
    def spans(self) -> list[Span]:
        """Its phases, each until the next one."""
        phases = self.record.phases
        ends = [*(at for _, at in phases[1:]), self.end]
        return [Span(name, at, max(at, end)) for (name, at), end in zip(phases, ends, strict=True)]


class CallHistory:
    """A call as far as it has been reported. Written by one thread at a time."""

    def __init__(self, call: CallRecord) -> None:
        self.call = call
        self.attempts: list[AttemptHistory] = []
        self.waits: list[Span] = []  # "backoff" and "throttled"
        self.left_out = 0  # attempts
        self.arrivals = Arrivals()  # of the attempt that runs
        self._wait: tuple[str, float] | None = None  # the wait that runs, and its start

    def phase(self, phase: str, at: float) -> None:
        self._end_wait(at)
        if phase in (Phase.BACKOFF, Phase.THROTTLED):
            self._wait = phase, at

    def attempt(self, attempt: AttemptRecord) -> None:
        self.attempts.append(AttemptHistory(attempt, self.arrivals))
        self.arrivals = Arrivals()
        if len(self.attempts) > MOST_ATTEMPTS:
            del self.attempts[MOST_ATTEMPTS // 2]
            self.left_out += 1

    def end(self, end: CallRecord) -> None:
        self._end_wait(end.total_ms)
        self.call = end

    def _end_wait(self, at: float) -> None:
        if self._wait is not None and len(self.waits) < _MOST_WAITS:
            self.waits.append(Span(*self._wait, at))
        self._wait = None
