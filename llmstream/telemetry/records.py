"""What is reported to observers: frozen records of an attempt, a retry, a call, a run, a tool.

Except for RequestContent, no record holds a prompt, an answer, a key or a header's value, nor the
words of an error, in which services quote them.

No text in a record has a control character: they are escaped, and white space is a space.

Records are values: equal when their fields are, hashable, picklable, and JSON through
`msgspec.json.encode`. All times are in milliseconds, but for `started`: Unix time in seconds.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct
from msgspec.structs import force_setattr

from .._core.dialects import APIS
from ..errors import Cancelled, ServiceError
from ..result import LLMStreamError, Usage, printable, whole_prompt

__all__ = [
    "AttemptRecord",
    "CallRecord",
    "RequestContent",
    "RetryRecord",
    "RunRecord",
    "ToolRecord",
    "error_code",
    "outcome",
]


class AttemptRecord(Struct, frozen=True, kw_only=True):
    """One request that was sent, or tried, and has ended.

    - `number` counts from 1. `outcome` is "success", "error" or "cancelled".
    - `phase` is where it ended, "done" for a success.
    - `error_type` is the error's class; `error_code` the service's code, or its type, or the HTTP
      status, or "other" for a code that is not a plain word.
    - `status` is the HTTP status, None where no response was received.
    - `started_ms` counts from the start of the call, as do the starts in `phases`: (name, start).
    - `total_ms` and `first_token_ms` count from the start of the attempt.
    - `longest_gap_ms` is the longest wait for the network between two arrivals of content, without
      the time that the caller's own loop takes.
    - `throttled_ms` is the wait before the attempt that the service had asked of all callers with
      this host and key, or that a retry had for the rate limit of its batch; `wait_ms` is the
      backoff planned after the attempt.
    - `usage` is what the service reported, with None for what it did not. `tokens_in` is the whole
      prompt on every API, cached tokens included; None where it is not known.
    - `chunks` counts events with content; `bytes` counts headers and body as received.
    - `resent`: a reused connection had been closed by the server, and the request is sent again.
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

    def __post_init__(self) -> None:
        if not f"{self.model}{self.request_id}".isprintable():  # one look at all: most are
            _make_printable(self, ("model", "request_id"))

    @property
    def tokens_in(self) -> int | None:
        return _tokens_in(self.api, self.usage)


class RetryRecord(Struct, frozen=True, kw_only=True):
    """The attempt with the number `attempt` has failed, and another one follows after `wait_ms`
    (planned). `error_type`, `error_code`, `status` and `phase` are those of the failed attempt.
    """

    attempt: int
    wait_ms: float
    error_type: str
    phase: str
    error_code: str | None = None
    status: int | None = None


class CallRecord(Struct, frozen=True, kw_only=True):
    """One call, as it begins (`outcome` "running") and as it has ended.

    - `id` is unique in this process: the key under which an observer keeps what it knows of a call
      that runs.
    - `started` is Unix time in seconds. All other times are in milliseconds and count from there.
    - `output_type` is "json" where the answer was asked to be JSON.
    - `finish` is the finish reason of the answer, None where the answer did not end.
    - `error_type`, `error_code`, `status` and `phase` are those of the end. `reason` is the
      argument of `cancel(reason)`.
    - `first_token_ms` is the first content of all attempts.
    - `waited_ms` is the time spent waiting for the network, `backoff_ms` the time spent in waits
      between attempts.
    - `usage` is the sum over the attempts: a lower bound where an attempt was cut. `tokens_in` is
      the whole prompt on every API, cached tokens included; None where it is not known.
    - The other fields are as in AttemptRecord, over all attempts.
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
    output_type: str | None = None
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

    def __post_init__(self) -> None:
        chosen = f"{self.model}{self.reason}{self.finish}"
        if not f"{chosen}{self.request_id}{self.response_id}{self.response_model}".isprintable():
            _make_printable(self, _OF_A_CALL)

    @property
    def tokens_in(self) -> int | None:
        return _tokens_in(self.api, self.usage)


class RunRecord(Struct, frozen=True, kw_only=True):
    """A run (`Client.run`), as it begins (`outcome` "running") and as it has ended.

    - `id` is unique in this process. `started` is Unix time in seconds.
    - `trace_id` is also that of the calls of its answers.
    - `outcome` is "success", "error" or "cancelled"; `error_type` is the class of the error.
    - `turns` are the answers of the model, those before it was resumed included.
    - `late_results` are results of tools that came after the tool's time, and were dropped.
    """

    id: int
    trace_id: str
    api: str
    model: str
    host: str
    started: float = 0.0
    outcome: str = "running"
    error_type: str | None = None
    turns: int = 0
    late_results: int = 0
    total_ms: float = 0.0

    def __post_init__(self) -> None:
        _make_printable(self, ("model",))


class ToolRecord(Struct, frozen=True, kw_only=True):
    """A call of a tool in a run, as it begins (`outcome` "running") and as it has ended. It has no
    arguments and no results.

    - `id` is unique in this process. `run` is the id of the RunRecord, `turn` the number of the
      answer with the call, from 1. `started` is Unix time in seconds.
    - `name` is the tool's, as the model has it: of a tool that does not exist it may be anything.
      `known`: whether the run has a tool of this name.
    - `outcome` is "success", "error", "timeout" (it was not waited for any longer), "refused" (by
      `approve`), or "interrupted" (the program was stopped while it ran, and the run was resumed).
      "late" is a second end, of a tool that has returned after its time.
    - `error_type` is the class of what it has raised. `total_ms` is 0.0 where it was not run.
    """

    id: int
    run: int
    trace_id: str
    api: str
    model: str
    name: str
    call_id: str | None = None
    known: bool = True
    turn: int = 0
    started: float = 0.0
    outcome: str = "running"
    error_type: str | None = None
    total_ms: float = 0.0

    def __post_init__(self) -> None:
        _make_printable(self, ("model", "name", "call_id"))


class RequestContent(Struct, frozen=True):
    """What the caller asked, for `Observer.on_content` only: the prompt (a text, or a list of
    turns), the instructions and the tools, as they were given to `Client.stream`. Its repr does
    not show them."""

    prompt: str | list[Any]
    instructions: str | None = None
    tools: Any = None

    def __repr__(self) -> str:
        return "RequestContent(...)"  # never the prompt

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []  # rich shows the variables of frames


# The texts of a call's record that a caller or a service has chosen.
_OF_A_CALL = ("model", "reason", "finish", "request_id", "response_id", "response_model")


def _make_printable(record: Struct, names: tuple[str, ...]) -> None:
    """What a service sends reaches logs, metrics, spans and pages by the records only."""
    for name in names:
        text = getattr(record, name)
        if text is not None and not text.isprintable():
            force_setattr(record, name, printable(text))


def outcome(error: LLMStreamError | None) -> str:
    """Of a call or an attempt that ended with this error."""
    if error is None:
        return "success"
    return "cancelled" if isinstance(error, Cancelled) else "error"


_CODE = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


def _tokens_in(api: str, usage: Usage) -> int | None:
    row = APIS.get(api)
    return whole_prompt(usage, row is not None and row.cached_beside)


def error_code(error: LLMStreamError | None) -> str | None:
    """The service's code of an error, otherwise its type, otherwise the HTTP status. None for an
    error that is not the service's; "other" for a code that is not a plain word, since it may
    contain anything."""
    if not isinstance(error, ServiceError):
        return None
    code = error.code or error.type or error.status
    if code is None:
        return None
    return str(code) if _CODE.fullmatch(str(code)) else "other"
