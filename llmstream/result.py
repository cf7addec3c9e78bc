"""What a call leaves behind: the result, its parts, and the history of its attempts.

Everything here is an immutable value: safe to read from any thread, to compare and to pickle.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Any, Protocol

import msgspec
from msgspec import Struct

__all__ = [
    "Attempt",
    "Chunk",
    "Cost",
    "LLMStreamError",
    "ProtocolError",
    "Result",
    "Service",
    "Timings",
    "ToolCall",
    "Usage",
    "total_usage",
]


class Chunk(Struct, frozen=True, gc=False):
    """One piece of the answer, as `Stream.chunks()` yields it.

    `type` is "text", "thinking", "refusal", "tool_call" (a piece of a call's arguments) or
    "restart" (the answer begins anew; `text` is empty). `index` is the position of the output
    item it belongs to, from 0.
    """

    type: str
    text: str
    index: int = 0


class Usage(Struct, frozen=True, gc=False):
    """Tokens as the service reported them: the last non-null value per field, never a sum of
    deltas and never counted from chunks. None where the service said nothing.

    `cached_tokens` (read from a cache) and `cache_write_tokens` are part of `input_tokens`, but in
    Messages come beside them; `reasoning_tokens` are part of `output_tokens`, but at some services
    (xAI) come beside them. `total_tokens` is the sum of the two where only the parts were reported.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None


def total_usage(usages: Iterable[Usage]) -> Usage:
    """The sum per field of what is known; None where nothing is."""
    known = tuple(usages)
    sums = {}
    for name in Usage.__struct_fields__:
        values = [value for usage in known if (value := getattr(usage, name)) is not None]
        sums[name] = sum(values) if values else None
    return Usage(**sums)


class ToolCall(Struct, frozen=True):
    """A call that the model asks the caller to run.

    `id` is what the tool's output has to quote; `arguments` is the raw text: JSON for a function
    call, free text for a custom call (`custom=True`).
    """

    id: str | None
    name: str
    arguments: str
    custom: bool = False

    def parsed(self) -> Any:
        """The decoded arguments; for a custom call the free text itself.

        Raises ProtocolError where the arguments are not JSON, which only a call out of
        `Result.incomplete_tool_calls` can be.
        """
        if self.custom:
            return self.arguments
        try:
            return msgspec.json.decode(self.arguments)
        except (msgspec.DecodeError, UnicodeError) as exc:
            raise ProtocolError(
                f"the arguments of the call of {self.name!r} are not JSON: the answer was cut "
                "inside them, do not run it"
            ) from exc


class Attempt(Struct, frozen=True):
    """One request that was sent, or tried.

    `number` counts from 1; all times are milliseconds, `started_ms` since the start of the call.
    `phase` is where it ended: "connect", "tls", "send", "headers", "first_token", "body" or "done".
    `error` is what ended it, None for the one that succeeded; `error.partial` has what an attempt
    that was given up had brought. `delay_ms` is the wait that followed before the next attempt (0.0
    for the last), `throttled_ms` the wait before it, because the service had asked all callers of
    this host and key to wait. `usage` is what the service reported for this attempt, `status` its
    HTTP status. `resent` marks a request that went out again at no cost because a reused connection
    had gone stale. `bytes` counts the headers and body received, `chunks` the events with content.
    `longest_gap_ms` is the longest wait for the network between two arrivals of content (None for
    fewer than two), without the time that the caller's loop took. `service_tier` is the one that
    the service says it used ("default", "priority", ...), where it says so.
    """

    number: int
    started_ms: float
    phase: str
    error: LLMStreamError | None = None
    delay_ms: float = 0.0
    usage: Usage | None = None
    status: int | None = None
    request_id: str | None = None
    resent: bool = False
    first_token_ms: float | None = None
    duration_ms: float = 0.0
    bytes: int = 0
    throttled_ms: float = 0.0
    chunks: int = 0
    longest_gap_ms: float | None = None
    service_tier: str | None = None


class Timings(Struct, frozen=True):
    """Milliseconds since the start of the call. `first_token_ms` is the first content of all (None
    while none came); `attempts` says when each attempt began.
    """

    first_token_ms: float | None = None
    total_ms: float = 0.0
    attempts: tuple[float, ...] = ()


class Cost(Struct, frozen=True, kw_only=True):
    """What a call has cost by a price list.

    `amount` is the sum in `currency` of all attempts that have reported their usage, `input` and
    `output` are its parts for tokens (a fee per request is only in the amount). `lower_bound`: an
    attempt that may be billed was cut, or has not told its usage, so it is at least so much.
    `provider` and `model` are the list's names. `as_of` is the day whose price was taken, `since`
    the day from which the list has that price (None where it does not say); `source` is the list
    with its version, `url` the vendor's page that it names.
    """

    amount: Decimal
    input: Decimal
    output: Decimal
    provider: str
    model: str
    as_of: date
    source: str
    since: date | None = None
    url: str | None = None
    currency: str = "USD"
    lower_bound: bool = False


class Service(Protocol):
    """Who answered, in which API, and what that costs."""

    @property
    def api(self) -> str: ...

    @property
    def host(self) -> str: ...

    def cost(self, result: Result, at: float | None = None) -> Cost | None: ...


class Result(Struct, frozen=True):
    """An answer, whole or, as an error's `.partial`, as far as it came.

    `text`, `thinking` and `refusal` are the joined deltas. `tool_calls` are safe to run: each was
    closed by the service and parses. `incomplete_tool_calls` are not. `finish` is "stop",
    "tool_calls", "length", "content_filter", "refusal", "pause", whatever else the service wrote,
    or None where the answer did not end. `items` are the finished output items (or blocks) in
    their order, as decoded JSON, with every field that came: they can be sent back as input.
    `service` is who answered (`.api`, `.host`), None for a result that was not made by a call.
    """

    text: str = ""
    thinking: str = ""
    refusal: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    incomplete_tool_calls: tuple[ToolCall, ...] = ()
    finish: str | None = None
    usage: Usage = Usage()
    items: tuple[Any, ...] = ()
    model: str | None = None
    response_id: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    attempts: tuple[Attempt, ...] = ()
    timings: Timings = Timings()
    turn: tuple[Any, ...] = ()
    service: Service | None = None

    def cost(self, at: float | None = None) -> Cost | None:
        """What all attempts of the call that have told their usage have cost, by the list prices of
        genai-prices at the Unix time `at` (default: now): see `llmstream.Cost`. An error's
        `.partial` has it too.

        None where it is not known: never a guess, see `llmstream.telemetry.cost`. Nothing is fetched. Raises
        ConfigurationError without the extra `cost`.
        """
        return self.service.cost(self, at) if self.service is not None else None

    def to_messages(self) -> list[Any]:
        """The assistant's turn in the API's own form, to go on with the conversation:
        ``client.stream([*prompt, *result.to_messages(), {"role": "user", "content": ...}])``.

        Messages: one turn of blocks, signatures kept. Chat: one message. Responses: the items.
        Half a block, and a call that cannot be answered, is left out.
        """
        return list(self.turn)


# ---- the roots of the error tree (the rest of it is in errors.py) --------------------------------
# Here, because a result keeps the errors of its attempts, and an error keeps the partial result.


class LLMStreamError(Exception):
    """The root of everything the library raises.

    `partial` is always a Result: what had arrived (empty where nothing had). `attempts` are the
    requests made, the last one included. `retryable` says that the same call may succeed when it
    is made again (what had already arrived would come a second time).
    """

    retryable: bool = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.partial: Result = Result()
        self.attempts: tuple[Attempt, ...] = ()
        self.trace_id: str | None = None
        self.request_id: str | None = None

    @property
    def message(self) -> str:
        """The sentence alone."""
        return str(self.args[0])

    def add(self, remark: str) -> None:
        """Say more in the message."""
        self.args = (f"{self.message}; {remark}", *self.args[1:])

    def __reduce__(self) -> tuple[Any, ...]:
        # Not through __init__: subclasses take more than the message. The attributes go as state,
        # which is pickled after the object itself is known: `attempts` lead back to the error.
        return _new, (type(self), self.args), self.__dict__


def _new(cls: type[LLMStreamError], args: tuple[Any, ...]) -> Any:
    error = cls.__new__(cls, *args)
    error.args = args
    return error


class ProtocolError(LLMStreamError):
    """What came is not the protocol. Retryable only where one event of a stream was garbled."""
