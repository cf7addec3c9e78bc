"""What observers are told: frozen records of an attempt, a retry, a call.

Except for RequestContent, no record holds a prompt, an answer, a key or a header's value, nor the words of an error, in which
services like to quote them.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct

from ..errors import Cancelled, ServiceError
from ..result import LLMStreamError, Usage

__all__ = [
    "AttemptRecord",
    "CallRecord",
    "RequestContent",
    "RetryRecord",
    "error_code",
    "outcome",
]


class AttemptRecord(Struct, frozen=True, kw_only=True):
    """One request that was sent, or tried, and has ended.

    Times are milliseconds; `started_ms` and `phases` (name, begun) count from the start of the
    call, `total_ms` and `first_token_ms` from the start of the attempt. `outcome` is "success",
    "error" or "cancelled"; `phase` where it ended, "done" for a success; `error_type` the error's
    class, `error_code` the service's code (or type, or the HTTP status). `longest_gap_ms` is the
    longest wait for the network between two arrivals of content, without the time that the
    caller's own loop took. `chunks` counts events with content, `bytes` headers and body as they
    were received. `throttled_ms` is the wait before it that this host's and key's callers had been
    asked for, `wait_ms` the backoff planned after it. `usage` is None-filled where the service
    reported none.
    """

    trace_id: str
    api: str
    model: str
    host: str
    number: int
    outcome: str
    phase: str
    error_type: str | None = None
    error_code: str | None = None
    status: int | None = None
    request_id: str | None = None
    started_ms: float = 0.0
    total_ms: float = 0.0
    first_token_ms: float | None = None
    longest_gap_ms: float | None = None
    throttled_ms: float = 0.0
    wait_ms: float = 0.0
    usage: Usage = Usage()
    chunks: int = 0
    bytes: int = 0
    resent: bool = False
    phases: tuple[tuple[str, float], ...] = ()


class RetryRecord(Struct, frozen=True, kw_only=True):
    """Attempt number `attempt` has failed, another one follows after `wait_ms` (planned).

    `error_type`, `error_code`, `status` and `phase` say why.
    """

    attempt: int
    wait_ms: float
    error_type: str
    phase: str
    error_code: str | None = None
    status: int | None = None


class CallRecord(Struct, frozen=True, kw_only=True):
    """One call, as it begins (`outcome` "running") and as it has ended.

    `id` is unique in this process: the key under which an observer keeps what it knows of a call
    that runs. `started` is Unix time in seconds, everything else in milliseconds.
    `first_token_ms` is the first content of all attempts, `backoff_ms` what waits between attempts
    have taken, `waited_ms` the time spent waiting for the network, `usage` the sum of what the
    service reported for the attempts, a lower bound where one was cut. The other fields are as in
    AttemptRecord, over all attempts; `error_*`, `status` and `phase` are those of the end, and
    `reason` is what `cancel(reason)` was given.
    """

    id: int
    trace_id: str
    api: str
    model: str
    host: str
    port: int | None = None
    started: float = 0.0
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    outcome: str = "running"
    phase: str = "connect"
    finish: str | None = None
    error_type: str | None = None
    error_code: str | None = None
    status: int | None = None
    reason: str | None = None
    request_id: str | None = None
    response_id: str | None = None
    response_model: str | None = None
    first_token_ms: float | None = None
    total_ms: float = 0.0
    waited_ms: float = 0.0
    backoff_ms: float = 0.0
    longest_gap_ms: float | None = None
    usage: Usage = Usage()
    chunks: int = 0
    bytes: int = 0
    attempts: tuple[AttemptRecord, ...] = ()
    retries: tuple[RetryRecord, ...] = ()


class RequestContent(Struct, frozen=True):
    """What a caller asked, for `Observer.on_content` only: the prompt (a text, or a list of turns),
    the instructions, and the tools, as they were given to `Client.stream`."""

    prompt: str | list[Any]
    instructions: str | None = None
    tools: Any = None

    def __repr__(self) -> str:
        return "RequestContent(...)"  # never the prompt


def outcome(error: LLMStreamError | None) -> str:
    if error is None:
        return "success"
    return "cancelled" if isinstance(error, Cancelled) else "error"


_CODE = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


def error_code(error: LLMStreamError | None) -> str | None:
    """The service's code of an error, else its type, else the HTTP status; None for errors that
    are not the service's. A code that is no plain word is "other": it may be anything."""
    if not isinstance(error, ServiceError):
        return None
    code = error.code or error.type or error.status
    if code is None:
        return None
    return str(code) if _CODE.fullmatch(str(code)) else "other"
