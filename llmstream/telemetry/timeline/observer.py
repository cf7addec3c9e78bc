"""The observer: keeps what it draws, and writes the page."""

from __future__ import annotations

import os
from collections import deque

from ..._runtime.files import replace_file
from ..._runtime.fork import renew_in_child
from ..._runtime.threads import RLock
from ..._settings.arguments import checked_count, checked_path
from ...errors import ConfigurationError
from ..records import AttemptRecord, CallRecord
from .history import CallHistory
from .page import page

__all__ = ["TimelineObserver"]

_MOST_CALLS = 10_000


class TimelineObserver:
    """Draws the calls of its clients as timelines on one HTML page.

    Args:
        path: the file of the page, written anew at the end of every call. Default: no file is
            written, see `write` and `html`. It is replaced, never half-written.
        calls: how many calls are kept, the latest; default 20, at most 10,000. A page of one call
            is about 20 KB, a page of 20 long ones less than 1 MB.

    Raises ConfigurationError for `calls` that is not from 1 to 10,000, and for a path that cannot
    be one.

    For diagnosis: the observer keeps what it draws in memory. One observer serves many clients.
    Thread-safe, and usable after a fork.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, calls: int = 20) -> None:
        calls = checked_count("calls", calls, _MOST_CALLS)
        self._path = None if path is None else checked_path("path", path)
        self._lock = RLock()  # guards _running, _ended and _total
        self._running: dict[int, CallHistory] = {}
        self._ended: deque[CallHistory] = deque(maxlen=calls)
        self._total = 0
        self._writing = RLock()  # held while the page is made and written
        renew_in_child(self, _lock=RLock, _writing=RLock, _running=dict)

    @property
    def calls(self) -> int:
        """How many calls have ended."""
        return self._total

    def html(self) -> str:
        """The page of the calls that have ended."""
        with self._lock:
            shown, total, running = list(self._ended), self._total, len(self._running)
        return page(shown, total, running)

    def write(self, path: str | os.PathLike[str] | None = None) -> None:
        """Put the page in the place of the file `path`; default: the observer's own. The file is
        replaced: a reader sees the old page or the new one, whole. Its folder has to be writable.
        Raises OSError, and ConfigurationError where neither has a path."""
        target = checked_path("path", path) if path is not None else self._path
        if target is None:
            raise ConfigurationError("write(): give a path, here or to the observer")
        with self._writing:
            replace_file(target, self.html().encode("utf-8", "replace"))

    # -- the hooks; for one call they are called by one thread at a time

    def on_start(self, call: CallRecord) -> None:
        with self._lock:
            self._running.setdefault(call.id, CallHistory(call))

    def on_phase(self, call: CallRecord, phase: str, at_ms: float) -> None:
        history = self._running.get(call.id)
        if history is not None:
            history.phase(phase, at_ms)

    def on_tokens(self, call: CallRecord, at_ms: float, gap_ms: float | None, chunks: int) -> None:
        history = self._running.get(call.id)
        if history is not None:
            history.arrivals.add(at_ms, gap_ms, chunks)

    def on_attempt(self, call: CallRecord, attempt: AttemptRecord) -> None:
        history = self._running.get(call.id)
        if history is not None:
            history.attempt(attempt)

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        with self._lock:
            history = self._running.get(call.id)
            if history is not None:
                history.end(end)
                if history not in self._ended:  # told again after an interrupt
                    self._ended.append(history)
                    self._total += 1
                self._running.pop(call.id, None)
        if self._path is not None:
            self.write()
