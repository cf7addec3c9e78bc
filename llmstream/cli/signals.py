"""Signals that end the command."""

from __future__ import annotations

import signal
from types import FrameType

__all__ = ["Terminated", "die_with", "hand_back"]


class Terminated(BaseException):
    """A signal asks the command to end. `number` is the signal's.

    Like KeyboardInterrupt it is a BaseException, so that no `except Exception` keeps it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_taken: dict[signal.Signals, object] = {}  # the handlers that `die_with` has set


def die_with(*signals: signal.Signals) -> None:
    """From now on these signals raise `Terminated` in the main thread, wherever it waits.

    The exception closes the stream on its way out. A second signal meanwhile has no effect.
    """

    def end(number: int, frame: FrameType | None) -> None:
        for one in signals:
            signal.signal(one, signal.SIG_IGN)
        raise Terminated(number)

    for one in signals:
        signal.signal(one, end)
        _taken[one] = end


def hand_back() -> None:
    """The command is done: a signal now ends the process at once, instead of raising in whatever
    the interpreter does at its exit."""
    for one, handler in _taken.items():
        if signal.getsignal(one) is handler:
            signal.signal(one, signal.SIG_DFL)
