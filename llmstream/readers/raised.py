"""One error for several readers."""

from __future__ import annotations

from typing import TypeVar

from ..result import LLMStreamError

__all__ = ["raised"]

E = TypeVar("E", bound=BaseException)


def raised(error: E) -> E:
    """A copy of `error`, to be raised: several threads would write into one error's traceback, and
    the frames in it would keep the readers alive that keep the error. An error that is not the
    library's is raised itself."""
    if not isinstance(error, LLMStreamError):
        return error
    make, arguments, *_ = LLMStreamError.__reduce__(error)
    copied: E = make(*arguments)
    copied.__dict__.update(error.__dict__)
    copied.__cause__ = error.__cause__
    copied.__suppress_context__ = True
    return copied
