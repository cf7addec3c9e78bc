"""A sentence for anybody about each way in which a call may fail. Pure."""

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
    OutputCut,
    OutputError,
    OutputInvalid,
    OutputRefused,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    RunError,
    ServerError,
    ServiceError,
    SilenceTimeout,
    StreamInterrupted,
    StreamTimeout,
    StreamTruncated,
)
from ..result import ProtocolError

__all__ = ["SENTENCES", "sentence_of"]

_UNAVAILABLE = "The answer is not available at the moment."
_AGAIN = "Please try again."
_CUT = f"The answer was cut off before its end. {_AGAIN}"
_UNREACHED = f"The service cannot be reached at the moment. {_AGAIN}"
_GARBLED = f"The answer could not be read. {_AGAIN}"

# The class of an error -> a sentence for anybody. It says nothing about the service, its account,
# its address or the prompt.
SENTENCES: dict[type[LLMStreamError], str] = {
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
    OutputRefused: "There is no answer to this request.",
    OutputCut: "The answer was too long, and was cut off.",
    OutputInvalid: _GARBLED,
    OutputError: _GARBLED,
    RunError: f"The answer failed. {_AGAIN}",
    Cancelled: "The answer was stopped.",
    LLMStreamError: f"The answer failed. {_AGAIN}",
}


def sentence_of(error: BaseException) -> str | None:
    """What a person who reads the answer is told of `error`; None if it is none of the library's.
    The error itself is for the log of the program."""
    cls = next((one for one in type(error).__mro__ if one in SENTENCES), None)
    return None if cls is None else SENTENCES[cls]
