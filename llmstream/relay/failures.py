"""What a person who reads an answer is told of a failure. The error itself stays on the server."""

from __future__ import annotations

from .._core.sentences import SENTENCES as MESSAGES
from ..errors import Cancelled, LLMStreamError
from ..result import ToolCall
from ..stream import Stream
from ..telemetry.observer import logger
from .parts import Failure

__all__ = ["INTERNAL", "MESSAGES", "failure_of"]

INTERNAL = "InternalError"  # the type of an exception that is none of the library's
_INTERNAL_MESSAGE = "Something went wrong on the server."


def failure_of(
    error: Exception, stream: Stream, calls: tuple[ToolCall, ...] = (), text_length: int = 0
) -> Failure:
    """`error`, which has ended `stream`, as it may be shown to anybody. What the error itself says
    is logged: nobody raises it, so nothing else would tell. (A cancel says nothing.)"""
    cls = next((one for one in type(error).__mro__ if one in MESSAGES), None)
    if cls is None:
        logger.error("a relay failed: trace_id=%s", stream.trace_id, exc_info=error)
    elif cls is not Cancelled:
        name = type(error).__name__
        logger.warning("a relay failed: trace_id=%s %s: %s", stream.trace_id, name, error)
    return Failure(
        type=INTERNAL if cls is None else cls.__name__,
        message=_INTERNAL_MESSAGE if cls is None else MESSAGES[cls],
        retryable=isinstance(error, LLMStreamError) and error.retryable,
        usage=stream.usage,
        trace_id=stream.trace_id,
        incomplete_tool_calls=calls,
        text_length=text_length,
    )
