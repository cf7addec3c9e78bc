"""Signals that end the command."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from queue import SimpleQueue
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, TypeAlias

from .._runtime.threads import Thread, spawn, thread_number

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

__all__ = ["Stopping", "Terminated", "die_with", "hand_back", "hangup"]


class Terminated(BaseException):
    """A signal asks the command to end. `number` is the signal's.

    Like KeyboardInterrupt it is a BaseException, so that no `except Exception` keeps it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_Hook: TypeAlias = "Callable[[UnraisableHookArgs], object]"
_Handler: TypeAlias = "Callable[[int, FrameType | None], object] | int | None"

# What `die_with` has set for a signal, and what had been set before it.
_taken: dict[signal.Signals, tuple[_Handler, _Handler]] = {}
# What `die_with` has set as `sys.unraisablehook`, and what had been there before it.
_hooks: list[tuple[_Hook, _Hook]] = []
# Threads that have a signal to send.
_senders: list[Thread] = []


def _ignore(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN: of a signal that is already on its way then, CPython prints a traceback."""


def hangup() -> list[signal.Signals]:
    """SIGHUP, which a terminal sends when it is closed: none on Windows, nor where `nohup` has seen
    to it that the command goes on."""
    found = getattr(signal, "SIGHUP", None)
    return [] if found is None or signal.getsignal(found) is signal.SIG_IGN else [found]


def die_with(*signals: signal.Signals) -> None:
    """From now on these signals raise `Terminated` in the main thread, wherever it waits.

    The exception closes the stream on its way out. A second signal meanwhile has no effect.

    A signal may come while a finalizer or the callback of a weak reference runs. What is raised
    there CPython gives to `sys.unraisablehook`, which prints it, and the program goes on. The
    signal is raised anew then, as soon as that is over. So is one that comes while the hook runs.
    """
    before_hook = sys.unraisablehook

    def end(number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code is hook.__code__:
                _raise_later(number)
                return
            frame = frame.f_back
        for one in signals:
            signal.signal(one, _ignore)
        raise Terminated(number)

    def hook(lost: UnraisableHookArgs, /) -> None:
        if not isinstance(lost.exc_value, Terminated):
            before_hook(lost)
            return
        for one in signals:
            signal.signal(one, end)
        _raise_later(lost.exc_value.number)

    for one in signals:
        before = signal.getsignal(one)
        _taken[one] = (end, before)
        signal.signal(one, end)
    _hooks.append((hook, before_hook))
    sys.unraisablehook = hook


def _raise_later(number: int) -> None:
    """Another thread sends the signal to this one, and not before this is about to return."""
    returns: SimpleQueue[None] = SimpleQueue()
    main = thread_number()

    def send() -> None:
        returns.get()
        if hasattr(signal, "pthread_kill"):  # it ends a wait of that thread, too
            signal.pthread_kill(main, number)
        else:
            signal.raise_signal(number)

    try:
        _senders.append(spawn(send, "signal"))
    finally:
        returns.put(None)


def hand_back(*, process_ends: bool) -> None:
    """The command is done: its handlers are gone.

    `process_ends`: a signal now ends the process at once, instead of raising in whatever the
    interpreter does at its exit. Otherwise (a program called the command as a function) the
    handlers are those from before it, also where a signal has ended the command.
    """
    try:
        _hand_back(process_ends)
    except BaseException:  # a signal, which raises once: the rest is handed back, too
        _hand_back(process_ends)
        raise


def _hand_back(process_ends: bool) -> None:
    while _senders:  # what comes late would come to those from before
        _senders[-1].join()
        _senders.pop()
    for hook, before_hook in _hooks:
        if sys.unraisablehook is hook:
            sys.unraisablehook = before_hook
    _hooks.clear()
    for one, (handler, before) in _taken.items():
        ignored = signal.getsignal(one) is _ignore  # since the first signal
        if process_ends and not ignored:
            signal.signal(one, signal.SIG_DFL)
        elif not process_ends and (ignored or signal.getsignal(one) is handler):
            signal.signal(one, signal.SIG_DFL if before is None else before)
    _taken.clear()


class Stopping:
    """Ctrl-Z (SIGTSTP), for a program that has something to take away from the terminal first: from
    `asked` on it has to call `stop`. Without effect outside of the main thread, on Windows, and
    where somebody else handles the signal."""

    def __init__(self) -> None:
        self.asked = False
        self._number: signal.Signals | None = getattr(signal, "SIGTSTP", None)

    def __enter__(self) -> Stopping:
        number = self._number
        if number is None or signal.getsignal(number) is not signal.SIG_DFL:
            self._number = None
        else:
            with contextlib.suppress(ValueError):
                signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._number is not None:
            with contextlib.suppress(ValueError):
                signal.signal(self._number, signal.SIG_DFL)

    def stop(self) -> None:
        """Stop the process; returns when it goes on."""
        assert self._number is not None
        signal.signal(self._number, signal.SIG_DFL)
        self.asked = False
        # To this thread, so that it is stopped before the call returns.
        signal.pthread_kill(thread_number(), self._number)
        signal.signal(self._number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
