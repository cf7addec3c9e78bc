"""Every way a call can fail.

    LLMStreamError
    ├─ ConfigurationError          the caller's mistake, found before anything is sent
    ├─ ServiceError                the service refused or failed, by HTTP status or in the stream
    │  ├─ InvalidRequestError      400, 404, 413, 422, other 4xx, 3xx
    │  ├─ AuthenticationError      401
    │  ├─ PermissionDeniedError    403
    │  ├─ RateLimitError           429
    │  ├─ QuotaExceededError       429 with a quota code, 402
    │  ├─ OverloadedError          503, 529, overloaded_error
    │  └─ ServerError              other 5xx; 408, 409, 425; an in-stream error of no known code
    ├─ StreamTimeout               a clock ran out (also a TimeoutError)
    │  ├─ ConnectTimeout           no connection in time
    │  ├─ FirstTokenTimeout        the connection stands, but no content arrived in time
    │  ├─ IdleTimeout              content had arrived, then no progress for too long
    │  ├─ SilenceTimeout           not one byte for too long
    │  └─ DeadlineExceeded         the total clock: the call's hard deadline
    ├─ ConnectionFailed            no connection, or lost before any byte of the response
    │                              (also a ConnectionError)
    ├─ StreamInterrupted           the response was cut off (also a ConnectionError)
    ├─ StreamTruncated             the body ended cleanly, but the answer did not
    ├─ ProtocolError               the response does not follow the protocol
    │  ├─ NotAStreamError          a success status without an event stream
    │  ├─ EventTooLarge            an event larger than `max_event_bytes`
    │  └─ LoopDetected             the same chunk `max_identical_chunks` times in a row
    ├─ OutputError                 a whole answer, but no value of the type that was asked for
    │  ├─ OutputRefused            the model refused, or a filter removed the answer
    │  ├─ OutputCut                a limit has cut the answer
    │  └─ OutputInvalid            the answer is not JSON, or does not fit the type
    ├─ RunError                    a run (`Client.run`) has come to no answer
    ├─ Cancelled                   the call was cancelled or closed before its end
    └─ BatchError                  some of the calls of a batch failed

Whatever happens on the network, the library raises one of these errors and nothing else. All of
them pickle. No message and no attribute contains a key, a request header's value or the prompt
(but the outcomes of a BatchError have their prompts).
The attributes that all of them have are documented at `LLMStreamError`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from .result import ConfigurationError, LLMStreamError, ProtocolError, Result

__all__ = [
    "AuthenticationError",
    "BatchError",
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
    "OutputCut",
    "OutputError",
    "OutputInvalid",
    "OutputRefused",
    "OverloadedError",
    "PermissionDeniedError",
    "ProtocolError",
    "QuotaExceededError",
    "RateLimitError",
    "RunError",
    "ServerError",
    "ServiceError",
    "SilenceTimeout",
    "StreamInterrupted",
    "StreamTimeout",
    "StreamTruncated",
]


class ServiceError(LLMStreamError):
    """The service refused the request, or failed.

    `status` is the HTTP status, or None for an error inside a stream. `code`, `type` and `param`
    are what the service's error contains under these names, or None. `retry_after` is the wait in
    seconds that the service asks for, or None.
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
        if retryable is not None:  # the response's x-should-retry header
            self.retryable = retryable


class InvalidRequestError(ServiceError):
    """The request itself is wrong. The same request fails again, so it is not retried."""


class AuthenticationError(ServiceError):
    """The key is missing, wrong or expired. Not retried."""


class PermissionDeniedError(ServiceError):
    """The key is valid, but it does not permit this request. Not retried."""


class RateLimitError(ServiceError):
    """Too many requests at the moment. Retried, after the wait in `retry_after` if there is one."""

    retryable = True


class QuotaExceededError(ServiceError):
    """The account's credit or quota is used up. Waiting does not help, so it is never retried."""


class OverloadedError(ServiceError):
    """The service has no capacity at the moment. Retried."""

    retryable = True


class ServerError(ServiceError):
    """The service failed. Retried."""

    retryable = True


class StreamTimeout(LLMStreamError, TimeoutError):
    """A clock ran out. `clock` is its name in `Timeouts`, `seconds` is its setting."""

    clock: ClassVar[str] = ""

    def __init__(self, message: str, *, seconds: float | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds


class ConnectTimeout(StreamTimeout):
    """DNS, TCP and TLS together took longer than the connect clock allows. Retried."""

    clock = "connect"
    retryable = True


class FirstTokenTimeout(StreamTimeout):
    """No content arrived within the first-token clock. Not retried by default, because the service
    may have worked on the request and would bill it twice (`RetryPolicy.retry_first_token`)."""

    clock = "first_token"


class IdleTimeout(StreamTimeout):
    """The answer had begun, but no progress was made within the idle clock."""

    clock = "idle"
    retryable = True


class SilenceTimeout(StreamTimeout):
    """Content had arrived, then not one byte, not even a ping, within the silence clock."""

    clock = "silence"
    retryable = True


class DeadlineExceeded(StreamTimeout):
    """The call's total clock ran out. It includes all retries and waits."""

    clock = "total"


class ConnectionFailed(LLMStreamError, ConnectionError):
    """No connection, or one that was lost before any byte of the response arrived. Retried.

    `reused` is true if the connection had served an earlier request. The server may have closed it
    while it was idle, so such a request is resent once; the resend does not count as a retry.
    """

    retryable = True

    def __init__(self, message: str, *, reused: bool = False) -> None:
        super().__init__(message)
        self.reused = reused


class StreamInterrupted(LLMStreamError, ConnectionError):
    """The response was cut off: by a reset, or by an end of file before its declared end."""

    retryable = True


class StreamTruncated(LLMStreamError):
    """The body ended as HTTP requires, but the answer's terminal event did not arrive."""

    retryable = True


class NotAStreamError(ProtocolError):
    """The status is a success, but the body is not an event stream: for example a proxy's page or
    its plain text, binary data, or nothing (204)."""


class EventTooLarge(ProtocolError):
    """One event, or one line, is larger than `max_event_bytes`."""


class LoopDetected(ProtocolError):
    """The same chunk was received `max_identical_chunks` times in a row: the model is in a loop."""


class OutputError(LLMStreamError):
    """The answer has ended as the service wanted, but it is no value of the type that `output=`
    asks for. `partial` has the text as it arrived; its `value` is None."""


class OutputRefused(OutputError):
    """The model refused to answer, or a filter of the service removed the answer."""


class OutputCut(OutputError):
    """A limit of the answer's length has cut it. A greater `max_output_tokens` may help."""


class OutputInvalid(OutputError):
    """The answer is not JSON, or does not fit the type. A model may answer better when it is asked
    again, see `output_retries`.

    `detail` says what does not fit; it may have words of the answer, which the message does not.
    `path` is where, from the root `$` of the value (None: not in a place). `index` is the position
    in the list of an element that does not fit, counted from 0, where `Stream.elements` has found
    it; None otherwise.
    """

    def __init__(
        self,
        message: str,
        *,
        detail: str = "",
        path: str | None = None,
        index: int | None = None,
    ) -> None:
        super().__init__(message)
        self.detail = detail
        self.path = path
        self.index = index


class RunError(LLMStreamError):
    """A run has come to no answer: its turns are used up and the model goes on, or the model's
    calls failed again and again. `turns` are the answers of the run, `partial` is the last of them.
    `Run.state()` has how far it is, and `Client.resume_run` goes on from there."""

    def __init__(self, message: str, *, turns: tuple[Result, ...] = ()) -> None:
        super().__init__(message)
        self.turns = turns


class Cancelled(LLMStreamError):
    """The call was cancelled, or closed before its end. `reason` is the argument of
    `cancel(reason)`, or None."""

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class EndedCall(Protocol):
    """What a BatchError tells of each call (`llmstream.Outcome`)."""

    @property
    def index(self) -> int: ...
    @property
    def prompt(self) -> Any: ...
    @property
    def result(self) -> Result | None: ...
    @property
    def error(self) -> LLMStreamError | None: ...
    @property
    def ok(self) -> bool: ...
    @property
    def text(self) -> str: ...


class BatchError(LLMStreamError):
    """Some of the calls of a batch failed. `outcomes` are those of all calls, also of those that
    succeeded, in the order of the prompts. Retryable if each of the failed ones is."""

    def __init__(self, message: str, *, outcomes: tuple[EndedCall, ...] = ()) -> None:
        super().__init__(message)
        self.outcomes = outcomes
