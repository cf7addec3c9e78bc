"""Every way a call can end badly.

    LLMStreamError
    ├─ ConfigurationError          the caller's mistake, before anything is sent
    ├─ ServiceError                the service said no, by HTTP status or inside the stream
    │  ├─ InvalidRequestError      400, 404, 413, 422, other 4xx, 3xx
    │  ├─ AuthenticationError      401
    │  ├─ PermissionDeniedError    403
    │  ├─ RateLimitError           429
    │  ├─ QuotaExceededError       429 with a quota code, 402
    │  ├─ OverloadedError          503, 529, overloaded_error
    │  └─ ServerError              other 5xx; 408, 409, 425; what an in-stream error leaves open
    ├─ StreamTimeout               a clock ran out (also TimeoutError)
    │  ├─ ConnectTimeout           no connection in time
    │  ├─ FirstTokenTimeout        connected and asked, but no content in time
    │  ├─ IdleTimeout              content came, then no progress for too long
    │  ├─ SilenceTimeout           not one byte for too long
    │  └─ DeadlineExceeded         the total clock: the call's hard deadline
    ├─ ConnectionFailed            none, or lost before any response byte (also ConnectionError)
    ├─ StreamInterrupted           the response was cut short (also ConnectionError)
    ├─ StreamTruncated             the body ended cleanly, the answer did not
    ├─ ProtocolError               what came is not the protocol
    │  ├─ NotAStreamError          a 200 that is no stream
    │  ├─ EventTooLarge            an event larger than `max_event_bytes`
    │  └─ LoopDetected             `max_identical_chunks` of the same text in a row
    └─ Cancelled                   by cancel()

No other exception leaves the library for what happens on the network. All of these pickle. No
message or attribute holds a key, a header's value or the prompt.
"""

from __future__ import annotations

from typing import ClassVar

from .result import LLMStreamError, ProtocolError

__all__ = [
    "AuthenticationError",
    "Cancelled",
    "ConfigurationError",
    "ConnectTimeout",
    "ConnectionFailed",
    "DeadlineExceeded",
    "EventTooLarge",
    "FirstTokenTimeout",
    "IdleTimeout",
    "InvalidRequestError",
    "LLMStreamError",
    "LoopDetected",
    "NotAStreamError",
    "OverloadedError",
    "PermissionDeniedError",
    "ProtocolError",
    "QuotaExceededError",
    "RateLimitError",
    "ServerError",
    "ServiceError",
    "SilenceTimeout",
    "StreamInterrupted",
    "StreamTimeout",
    "StreamTruncated",
]


class ConfigurationError(LLMStreamError):
    """The call cannot be made as it was asked for; nothing was sent."""


class ServiceError(LLMStreamError):
    """The service refused or failed.

    `status` is the HTTP status (None for an error inside a 200 stream), `code`, `type` and
    `param` are the service's own words, `retry_after` the wait in seconds it asked for.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        type: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.type = type
        self.param = param
        self.retry_after = retry_after
        if retryable is not None:  # the server's own x-should-retry
            self.retryable = retryable


class InvalidRequestError(ServiceError):
    """The request itself is wrong: asking again gives the same answer."""


class AuthenticationError(ServiceError):
    """The key is missing, wrong or expired."""


class PermissionDeniedError(ServiceError):
    """The key is valid but not allowed to do this."""


class RateLimitError(ServiceError):
    """Too many requests for now."""

    retryable = True


class QuotaExceededError(ServiceError):
    """The account's money or quota is used up: waiting does not help, so it is never retried."""


class OverloadedError(ServiceError):
    """The service has no capacity at the moment."""

    retryable = True


class ServerError(ServiceError):
    """The service failed."""

    retryable = True


class StreamTimeout(LLMStreamError, TimeoutError):
    """A clock ran out. `clock` names it, `seconds` is its setting."""

    clock: ClassVar[str] = ""

    def __init__(self, message: str, *, seconds: float | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds


class ConnectTimeout(StreamTimeout):
    """DNS, TCP and TLS together took longer than the connect clock."""

    clock = "connect"
    retryable = True


class FirstTokenTimeout(StreamTimeout):
    """No content within the first-token clock. Not retried by default: the service may have
    worked, and would bill, twice."""

    clock = "first_token"


class IdleTimeout(StreamTimeout):
    """No progress within the idle clock, though the answer had begun."""

    clock = "idle"
    retryable = True


class SilenceTimeout(StreamTimeout):
    """Not one byte, not even a ping, within the silence clock."""

    clock = "silence"
    retryable = True


class DeadlineExceeded(StreamTimeout):
    """The call's total clock ran out, retries and waits included."""

    clock = "total"


class ConnectionFailed(LLMStreamError, ConnectionError):
    """No connection, or one lost before any byte of the response.

    `reused` tells that the connection had served an earlier call: such a one may just have gone
    stale, and the request is resent once, free.
    """

    retryable = True

    def __init__(self, message: str, *, reused: bool = False) -> None:
        super().__init__(message)
        self.reused = reused


class StreamInterrupted(LLMStreamError, ConnectionError):
    """The response was cut: a reset, or an end of file before its declared end."""

    retryable = True


class StreamTruncated(LLMStreamError):
    """The body ended as HTTP should, but the answer's terminal event never came."""

    retryable = True


class NotAStreamError(ProtocolError):
    """A success status with a body that is no event stream: a proxy's page, or some other JSON."""


class EventTooLarge(ProtocolError):
    """One event, or a line without end, outgrew `max_event_bytes`."""


class LoopDetected(ProtocolError):
    """The model said the same chunk `max_identical_chunks` times in a row: it is in a loop."""


class Cancelled(LLMStreamError):
    """The call was cancelled. `reason` is what `cancel(reason)` was given."""

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
