"""Empties the frames that an error leaves behind.

Error reporters send the variables of every frame of a traceback, and of the exceptions behind it.
The variables of a call are its prompt, its key and the answer, so an error keeps the lines of its
frames and loses the variables.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import ParamSpec, TypeVar

from ..result import LLMStreamError

__all__ = ["forget_variables", "without_variables"]

P = ParamSpec("P")
T = TypeVar("T")


def forget_variables(error: BaseException) -> None:
    """Clear the variables of the finished frames of `error`, and of what it was raised from or
    after. One of the library's own errors loses the foreign exception that it was raised after,
    which may refer to what could not be encoded or decoded.

    The exception that a caller was handling before is not changed: its first frame still runs,
    above the one that calls this function.
    """
    above = _frames_above(sys._getframe(1))
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        _clear(one.__traceback__)
        context = one.__context__
        if context is not None and not _begins_in(context, above):
            left.append(context)
            if isinstance(one, LLMStreamError):
                one.__context__ = None
        if one.__cause__ is not None and not _begins_in(one.__cause__, above):
            left.append(one.__cause__)


def _frames_above(frame: FrameType | None) -> set[FrameType]:
    above = set()
    while frame is not None and (frame := frame.f_back) is not None:
        above.add(frame)
    return above


def _begins_in(error: BaseException, frames: set[FrameType]) -> bool:
    return error.__traceback__ is not None and error.__traceback__.tb_frame in frames


def _clear(place: TracebackType | None) -> None:
    while place is not None:
        with contextlib.suppress(RuntimeError):  # it still runs
            place.tb_frame.clear()
        place = place.tb_next


def without_variables(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, whose errors show no variables of its frames."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BaseException as exc:
            forget_variables(exc)
            del args, kwargs  # this frame is shown, too
            raise

    return call
