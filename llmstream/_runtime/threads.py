"""Locks and threads for the whole package: with the watchdog, the only file that imports
`threading`.

An interrupt (Ctrl-C, a signal handler that raises, an exception that another thread sets) can fall
between most Python instructions. It cannot fall between the acquire of a lock that is written in C
and the body of its `with`, because CPython looks for interrupts only at calls, at the start of
functions, and at the end of loops. Hence the rules for whatever several threads share:

- a lock is a bare `Lock` or `RLock`, and is entered by `with`. `acquire` in a statement of its own,
  `threading.Condition`, `threading.Event`, `queue.LifoQueue` and context managers that are written
  in Python leave a gap;
- where one operation of a built-in type will do (`deque.append`, `dict.pop`, `set.add`,
  `SimpleQueue.put`), there is no lock. That also holds in signal handlers and finalizers;
- whatever must happen is written down before it is tried, and is struck out after it has happened.

When the interpreter ends, daemon threads end wherever they are, and what they have locked stays
locked. Whatever a finalizer, or a generator that is closed then, may call looks at `is_finalizing`
before it takes a lock, also one of another library.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any

from ..errors import ConfigurationError

__all__ = ["Local", "Lock", "RLock", "Thread", "is_finalizing", "spawn", "thread_number"]

Lock = threading.Lock
RLock = threading.RLock
Local = threading.local
thread_number = threading.get_ident  # of the current thread
is_finalizing = sys.is_finalizing  # whether the interpreter ends: there are no other threads


class Thread(threading.Thread):
    """A thread that can be joined again after an interrupt of `join`. (Before 3.13 CPython then
    takes it for one that has ended, while it runs.)"""

    def __init__(self, work: Callable[[], object], name: str, *, daemon: bool) -> None:
        super().__init__(target=work, name=name, daemon=daemon)
        self._over = False
        self._bell: SimpleQueue[None] = SimpleQueue()

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._over = True
            self._bell.put(None)

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most `timeout` seconds (None: without a limit)."""
        if self.is_alive() and self is not threading.current_thread():
            try:
                if not self._over:
                    self._bell.get(timeout=None if timeout is None else max(0.0, timeout))
            except queue.Empty:
                return
            finally:
                if self._over:
                    self._bell.put(None)  # for others that wait
        super().join(timeout)  # what is left of it takes no time


def spawn(work: Callable[[], object], name: str, *, daemon: bool = True) -> Thread:
    """Do `work` in a thread named `llmstream-{name}`. An interpreter that exits does not wait for a
    daemon. Raises ConfigurationError if no further thread can be started."""
    if queue.SimpleQueue is not SimpleQueue:  # threads that are greenlets would wait in real queues
        raise ConfigurationError(
            "gevent has replaced the queues and threads of the standard library after llmstream "
            "was imported, and every wait would block all of its greenlets: call "
            "gevent.monkey.patch_all() before anything else is imported (with gunicorn --preload: "
            "at the top of its configuration file)"
        )
    thread = Thread(work, f"llmstream-{name}", daemon=daemon)
    answers: SimpleQueue[BaseException | None] = SimpleQueue()
    # `Thread.start` waits for the new thread at a Condition. An interrupt there would leave the new
    # thread behind a lock for ever. So it is called where no signal handler runs.
    try:
        _begin(partial(_start, thread, answers.put))
        failure = answers.get()
    except RuntimeError as exc:
        failure = exc
    if failure is not None:
        raise ConfigurationError(
            f"the system starts no further thread ({failure}), and llmstream needs one for its "
            f"{name}: end other threads, or raise the limits of threads and memory (ulimit -u, -v)"
        )
    return thread


def _begin(work: Callable[[], None]) -> None:
    """Do `work` in a thread that only the interpreter knows. One call, that waits for nothing."""
    begin: Any = getattr(threading, "_start_joinable_thread", None)  # since CPython 3.13
    if begin is not None:
        begin(work)
    else:
        begin = getattr(threading, "_start_new_thread", None)
        begin(work, ())


def _start(thread: Thread, answer: Callable[[BaseException | None], None]) -> None:
    try:
        thread.start()
    except BaseException as exc:
        answer(exc)
    else:
        answer(None)
