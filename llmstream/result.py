"""What a call leaves behind: the result, its parts, and the history of its attempts.

Everything here is an immutable value: safe to read from any thread, to compare and to pickle.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from .cost import Cost
    from .errors import LLMStreamError

__all__ = ["Attempt", "Chunk", "Result", "Service", "Timings", "ToolCall", "Usage", "total_usage"]


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
            from .errors import ProtocolError  # errors is built on this module

            raise ProtocolError(
                f"the arguments of the call of {self.name!r} are not JSON: the answer was cut "
                "inside them, do not run it"
            ) from exc


class Attempt(Struct, frozen=True):
    """One request that was sent, or tried.

    `number` counts from 1. `started` is in seconds since the start of the call. `phase` is where
    it ended: "connect", "tls", "send", "headers", "first_token", "body" or "done". `error` is
    what ended it, None for the one that succeeded. `delay` is the wait in seconds that followed
    it before the next attempt (0.0 for the last), `held` the one before it, because the service had
    asked this host's and key's callers to wait. `error.partial` has what an attempt that was given
    up had brought. `usage` is what the service reported for this
    attempt, `status` its HTTP status, `resent` marks a request that went out again at no cost
    because a reused connection had gone stale, `bytes` what was received of headers and body,
    `chunks` the events with content. `longest_gap_ms` is the longest wait for the network between
    two arrivals of content (None for fewer than two), without the time the caller's loop took.
    `service_tier` is the one that the service says it used ("default", "priority", ...), where it
    does.
    """

    number: int
    started: float
    phase: str
    error: LLMStreamError | None = None
    delay: float = 0.0
    usage: Usage | None = None
    status: int | None = None
    request_id: str | None = None
    resent: bool = False
    first_token_ms: float | None = None
    duration_ms: float = 0.0
    bytes: int = 0
    held: float = 0.0
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
        genai-prices at the Unix time `at` (default: now): see `llmstream.cost.Cost`. An error's
        `.partial` has it too.

        None where it is not known: never a guess, see `llmstream.cost`. Nothing is fetched. Raises
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
