"""Exceptions that are not the library's own, as errors of a call."""

from __future__ import annotations

from ..errors import LLMStreamError
from ..readers.source import Source

__all__ = ["foreign"]


def foreign(exc: BaseException, stream: Source | None = None) -> LLMStreamError:
    """An error with `exc` as its cause, and with what had arrived on `stream`."""
    if isinstance(exc, LLMStreamError):
        return exc
    # Not its words, which are anybody's: they may quote a prompt.
    error = LLMStreamError(f"the call was ended by {type(exc).__name__} (see __cause__)")
    error.__cause__ = exc
    if stream is not None:
        try:
            stream.cancel("an exception has ended the call")
            stream.result()
        except LLMStreamError as ended:
            error.partial, error.attempts = ended.partial, ended.attempts
            error.trace_id, error.request_id = ended.trace_id, ended.request_id
        except BaseException:  # the same once more
            pass
    return error
