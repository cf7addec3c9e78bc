"""What a person who reads an answer is told of a failure. The error itself stays on the server."""

from __future__ import annotations

from ..errors import (
    AuthenticationError,
    Cancelled,
    ConfigurationError,
    ConnectionFailed,
    ConnectTimeout,
    DeadlineExceeded,
    EventTooLarge,
    FirstTokenTimeout,
    IdleTimeout,
    InvalidRequestError,
    LLMStreamError,
    LoopDetected,
    NotAStreamError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    ServerError,
    ServiceError,
    SilenceTimeout,
    StreamInterrupted,
    StreamTimeout,
    StreamTruncated,
)
from ..result import ProtocolError, ToolCall
from ..stream import Stream
from ..telemetry.observer import logger
from .parts import Failure

__all__ = ["INTERNAL", "MESSAGES", "failure_of"]

_UNAVAILABLE = "The answer is not available at the moment."
_AGAIN = "Please try again."
_CUT = f"The answer was cut off before its end. {_AGAIN}"
_UNREACHED = f"The service cannot be reached at the moment. {_AGAIN}"
_GARBLED = f"The answer could not be read. {_AGAIN}"

# The class of an error -> a sentence for anybody. It says nothing about the service, its account,
# its address or the prompt.
MESSAGES: dict[type[LLMStreamError], str] = {
    ConfigurationError: _UNAVAILABLE,
    InvalidRequestError: "This request cannot be answered.",
    AuthenticationError: _UNAVAILABLE,
    PermissionDeniedError: _UNAVAILABLE,
    RateLimitError: "There are too many requests at the moment. Please try again in a minute.",
    QuotaExceededError: _UNAVAILABLE,
    OverloadedError: "The service is overloaded. Please try again in a minute.",
    ServerError: f"The service failed. {_AGAIN}",
    ServiceError: f"The service failed. {_AGAIN}",
    ConnectTimeout: _UNREACHED,
    FirstTokenTimeout: f"The service did not begin to answer in time. {_AGAIN}",
    IdleTimeout: _CUT,
    SilenceTimeout: _CUT,
    DeadlineExceeded: "The answer took too long, and was stopped.",
    StreamTimeout: _CUT,
    ConnectionFailed: _UNREACHED,
    StreamInterrupted: _CUT,
    StreamTruncated: _CUT,
    ProtocolError: _GARBLED,
    NotAStreamError: _GARBLED,
    EventTooLarge: _GARBLED,
    LoopDetected: "The answer began to repeat itself, and was stopped.",
    Cancelled: "The answer was stopped.",
    LLMStreamError: f"The answer failed. {_AGAIN}",
}
INTERNAL = "InternalError"  # the type of an exception that is none of the library's
_INTERNAL_MESSAGE = "Something went wrong on the server."


def failure_of(
    error: Exception, stream: Stream, calls: tuple[ToolCall, ...] = (), text_length: int = 0
) -> Failure:
    """`error`, which has ended `stream`, as it may be shown to anybody. One that is none of the
    library's is logged: nothing else would tell of it."""
    cls = next((one for one in type(error).__mro__ if one in MESSAGES), None)
    if cls is None:
        logger.error("a relay failed: trace_id=%s", stream.trace_id, exc_info=error)
    return Failure(
        type=INTERNAL if cls is None else cls.__name__,
        message=_INTERNAL_MESSAGE if cls is None else MESSAGES[cls],
        retryable=isinstance(error, LLMStreamError) and error.retryable,
        usage=stream.usage,
        trace_id=stream.trace_id,
        incomplete_tool_calls=calls,
        text_length=text_length,
    )
