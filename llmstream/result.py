"""What a call returns: the result, its parts and its attempts; and the roots of the error tree.

The values are immutable: any thread may read, compare and pickle them. This file imports nothing
else of the package but, when it is used, `_markdown` and `_outputs`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Any, Protocol

import msgspec
from msgspec import Struct

__all__ = [
    "Attempt",
    "Chunk",
    "ConfigurationError",
    "Cost",
    "LLMStreamError",
    "ProtocolError",
    "Result",
    "Service",
    "Timings",
    "ToolCall",
    "Usage",
    "decode_arguments",
    "printable",
    "total_usage",
    "whole_prompt",
]


class Chunk(Struct, frozen=True, gc=False):
    """One piece of the answer, as `Stream.chunks()` yields it.

    `type` is "text", "thinking", "refusal", "tool_call" (a piece of a call's arguments) or
    "restart" (the answer begins anew; `text` is empty). `index` is the position of the output item
    that the piece belongs to, from 0; in Chat Completions it is the index of the choice.
    """

    type: str
    text: str
    index: int = 0


class Usage(Struct, frozen=True, gc=False):
    """Tokens as the service reported them: the last value per field that is not null. Values are
    never summed over events and never counted from chunks. None where nothing was reported.

    `cached_tokens` (read from a cache) and `cache_write_tokens` are included in `input_tokens`; in
    Messages they are counted in addition to it. A 0 never replaces a positive count of one of these
    three, because some gateways mean "not reported here". `reasoning_tokens` are included in
    `output_tokens`; some services (xAI) count them in addition to it. `total_tokens` is the whole
    prompt plus the output where only these were reported.

    `cost` is what the call has cost in USD, where the service reports it (OpenRouter, LiteLLM,
    Perplexity, xAI); `Result.cost()` has it too.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    cost: float | None = None


def whole_prompt(usage: Usage, cached_beside: bool) -> int | None:
    """The tokens of the whole prompt, None where they are not known. `cached_beside`: cached and
    cache-writing tokens are counted in addition to `input_tokens`."""
    if usage.input_tokens is None or not cached_beside:
        return usage.input_tokens
    return usage.input_tokens + (usage.cached_tokens or 0) + (usage.cache_write_tokens or 0)


def total_usage(usages: Iterable[Usage]) -> Usage:
    """The sum per field, over the usages that have a value; None where none of them has one."""
    known = tuple(usages)
    if len(known) == 1:
        return known[0]
    sums = {}
    for name in Usage.__struct_fields__:
        values = [value for usage in known if (value := getattr(usage, name)) is not None]
        sums[name] = sum(values) if values else None
    return Usage(**sums)


def decode_arguments(text: str) -> Any:
    """The decoded arguments of a call. Where a gateway has encoded them twice, so that they are a
    JSON string that contains an object, this is the object. Raises what msgspec raises."""
    value = msgspec.json.decode(text)
    inner = value
    while isinstance(inner, str):
        try:
            inner = msgspec.json.decode(inner)
        except (ValueError, RecursionError):
            return value
    return inner if isinstance(inner, dict) else value


class ToolCall(Struct, frozen=True):
    """A tool call that the model asks the caller to run.

    `id` is the id that the tool's output has to refer to. Where the service sent none, the library
    makes one, which `Result.to_messages()` has too. `arguments` is text as the service sent it:
    JSON for a function call, free text for a custom call (`custom=True`).
    """

    id: str | None
    name: str
    arguments: str
    custom: bool = False

    def parsed(self) -> Any:
        """The decoded arguments; for a custom call the free text itself. Arguments that a gateway
        has encoded twice (a JSON string that contains an object) are decoded twice.

        Raises ProtocolError if the arguments are not JSON. That can only be a call from
        `Result.incomplete_tool_calls`.
        """
        if self.custom:
            return self.arguments
        try:
            return decode_arguments(self.arguments)
        except (ValueError, RecursionError) as exc:
            raise ProtocolError(
                f"the arguments of the call of {self.name!r} are not JSON: the answer was cut off "
                "inside them; do not run the call"
            ) from exc

    def result(self, output: Any, *, error: bool = False) -> dict[str, Any]:
        """The output of this call as a turn for the next prompt, which every API takes:

            for call in result.tool_calls:
                turns.append(call.result(run(call)))

        Args:
            output: what the tool has returned. A string is sent as it is. Bytes are a picture
                (PNG, JPEG, GIF, WebP), a PDF, or text in UTF-8; Pillow's images are pictures. A
                list of strings and such values is sent as parts; an API that takes only texts as
                an output (Chat Completions) gets the others in a turn of the user after it.
                Everything else becomes JSON.
            error: whether the call failed, and `output` says why. Messages has a field for it; in
                the other APIs the text begins with "Error: ".

        Raises ConfigurationError for an output that is none of these.
        """
        from ._outputs import NotSendable, output_of

        if not self.id:
            raise ConfigurationError("the call has no id: take one of `Result.tool_calls`")
        try:
            content = output_of(output)
        except NotSendable as exc:
            raise ConfigurationError(
                f"the output of the call of {self.name!r} cannot be sent: {exc}"
            ) from None
        turn: dict[str, Any] = {"role": "tool", "tool_call_id": self.id, "content": content}
        if error:
            turn["is_error"] = True
        if self.custom:
            turn["custom"] = True
        return turn


class Attempt(Struct, frozen=True):
    """One request that was sent, or that could not be sent. Times are in milliseconds.

    Args:
        number: the attempt's number, from 1.
        started_ms: when it began, since the start of the call.
        phase: where it ended: "connect", "tls", "send", "headers", "first_token", "body", "poll"
            or "done".
        error: the error that ended it, None for the one that succeeded. `error.partial` is what
            had arrived when an attempt with content failed.
        delay_ms: the wait after it and before the next attempt, 0.0 for the last one.
        usage: what the service reported for this attempt.
        status: the HTTP status of the response, None if there was no response.
        request_id: the service's own id of the request.
        resent: whether the request was sent again free of charge after this attempt, because a
            reused connection had been closed by the server.
        first_token_ms: the time to its first content, None without content.
        duration_ms: from its begin to its end.
        bytes: the bytes received, headers and body.
        throttled_ms: the wait before it, because the service had asked all callers with this host
            and key to wait, or, of a retry, for the rate limit of its batch.
        chunks: the number of events with content.
        longest_gap_ms: the longest wait for the network between two arrivals of content, None for
            fewer than two. The time that the caller's loop took is not counted.
        service_tier: the tier that the service reports ("default", "priority", ...), or None.
        media: what the service has counted as tokens beside text, in order ("audio", "image",
            "video"; Gemini, Chat Completions): they may have a price of their own.
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
    media: tuple[str, ...] = ()


class Timings(Struct, frozen=True):
    """Milliseconds since the start of the call. `first_token_ms` is the first content of all
    attempts, None without content; `total_ms` is the end of the call, or now while it runs;
    `attempts` has the begin of each attempt.
    """

    first_token_ms: float | None = None
    total_ms: float = 0.0
    attempts: tuple[float, ...] = ()


class Cost(Struct, frozen=True, kw_only=True):
    """What a call cost: as the service reported it, or according to a price list.

    Args:
        amount: the sum, in `currency`, over all attempts with a reported usage.
        input, output: the parts of it for tokens. A fee per request is only in `amount`. None where
            the service reported the amount: it does not divide it.
        provider, model: their names in the price list; where the service reported the amount, its
            host, and the model as it reports it.
        as_of: the day whose price was used, or the day of the call.
        source: the price list and its version, or "reported by" and the host of the service.
        since: the day from which the list has that price, or None where the list has no such day.
        url: the vendor's page that the list names.
        lower_bound: whether the call may have cost more, because an attempt that may be billed was
            cut off, or its usage was not reported.
    """

    amount: Decimal
    input: Decimal | None
    output: Decimal | None
    provider: str
    model: str
    as_of: date
    source: str
    since: date | None = None
    url: str | None = None
    currency: str = "USD"
    lower_bound: bool = False


class Service(Protocol):
    """The service that answered: its API, its host and its prices."""

    @property
    def api(self) -> str: ...

    @property
    def host(self) -> str: ...

    def cost(self, result: Result, at: float | None = None) -> Cost | None: ...

    def turns(self, turns: tuple[Any, ...], api: str) -> list[Any]: ...


class Result(Struct, frozen=True):
    """An answer: whole, or as far as it arrived (in an error's `.partial`). Immutable.

    Args:
        text, thinking, refusal: the joined deltas.
        tool_calls: the calls that are safe to run: the service closed each of them, and the
            arguments parse.
        incomplete_tool_calls: the calls that are not safe to run.
        finish: "stop", "tool_calls", "length", "content_filter", "refusal", "pause", any other
            value as the service sent it, or None where the answer did not end.
        usage: what the service reported, see `Usage`.
        items: the finished output items (or blocks), in their order, as decoded JSON with every
            field. They can be sent back as input.
        model, response_id: as the service reported them.
        request_id: the service's own id of the last request.
        trace_id: the id of the call, sent in the header x-client-request-id.
        attempts: all requests of the call.
        timings: see `Timings`.
        turn: what `to_messages()` returns.
        service: the service that answered (`.api`, `.host`), None for a result that was not made
            by a call.
        value: the answer as a value of the type that `output=` asks for. None without `output=`, in
            an error's `partial`, and for an answer that is not the last word: one that calls tools
            (finish "tool_calls"), or that goes on when it is sent back ("pause").
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
    value: Any = None

    def __repr__(self) -> str:
        """What is set, and the answer once: `items` and the turn of `to_messages()` repeat it, so
        only the number of items is shown."""
        shown = [
            f"{name}={value!r}"
            for name in self.__struct_fields__
            if name not in ("items", "turn", "service", "value")
            and (value := getattr(self, name)) not in (None, "", (), Usage(), Timings())
        ]
        shown += [f"items=<{len(self.items)}>"] if self.items else []
        shown += [f"value={self.value!r}"] if self.value is not None else []
        return f"Result({', '.join(shown)})"

    def _repr_markdown_(self) -> str | None:
        """The answer, for a notebook: its text and calls, and a remark where a limit or a filter
        has cut it. HTML and images of the model are shown as text and as links. None for an answer
        without content, which is shown by its repr."""
        from ._markdown import answer_markdown

        calls = self.tool_calls + self.incomplete_tool_calls
        return answer_markdown(self.text, self.refusal, calls, self.finish) or None

    def cost(self, at: float | None = None) -> Cost | None:
        """The cost of all attempts with a reported usage. An error's `.partial` has it too.

        Where the service reports it (OpenRouter, LiteLLM, Perplexity, xAI), that is the cost. Else
        it is computed by the list prices of genai-prices at the Unix time `at` (default: now).

        Returns None where the price is not known, never a guess: see `llmstream.telemetry.cost`.
        Fetches nothing. Raises ConfigurationError without the extra `cost`, unless the service
        reports the cost.
        """
        return self.service.cost(self, at) if self.service is not None else None

    def to_messages(self, api: str | None = None) -> list[Any]:
        """The assistant's turn in the form of the API, to go on with the conversation:
        ``client.stream([*prompt, *result.to_messages(), {"role": "user", "content": ...}])``.

        Messages: one turn of blocks with their signatures. Chat Completions: one message, with the
        fields of its calls that the reference does not have (Gemini's signature of a thought) and
        with the reasoning where the profile's service wants it back. Responses: the items.

        Left out are unfinished blocks, calls that are not safe to run, and reasoning that the
        service would refuse: without the item that follows it, or neither stored nor encrypted. A
        text that a limit has cut is included.

        With `api` ("responses", "messages", "chat" or "gemini") it is the turn in the form of that
        API. A prompt may have turns in the form of any API, so this is needed only where something
        else reads them. Texts and calls are the same in each; code that the service ran and its
        output become text; reasoning, signatures and searches stay with the service; an id that the
        API would refuse becomes another one.

        Raises ConfigurationError for an `api` that is not known, and for a result that was not made
        by a call.
        """
        if api is None:
            return list(self.turn)
        if self.service is None:
            raise ConfigurationError(
                "the result was not made by a call: without its service its turn is not known"
            )
        return self.service.turns(self.turn, api)


# ---- what a service writes, where people read it -----------------------------------------------

_BLANK = re.compile(r"\s*[^\S ]\s*")  # white space that is more than spaces
_JOINERS = "\u200c\u200d"  # of letters, and of emojis: they show nothing else


def printable(text: str) -> str:
    """`text` as it may be shown on a terminal and in a log: on one line, with escapes in place of
    control characters and of those that change the direction of the text around them."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in _JOINERS else _escape(char)
        for char in _BLANK.sub(" ", text)
    )


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


# ---- the roots of the error tree (the rest is in errors.py) --------------------------------------
# Here, because a result refers to the errors of its attempts, and an error to its partial result.


class LLMStreamError(Exception):
    """The root of everything that the library raises.

    `partial` is always a Result: what had arrived, empty if nothing had. `attempts` are the
    requests that were made, the last one included. `retryable` is true if the same call may succeed
    when it is made again (what had already arrived would arrive a second time). `trace_id` is the
    id of the call; `request_id` is the service's own id of the last request, or None.
    """

    retryable: bool = False

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))
        self.partial: Result = Result()
        self.attempts: tuple[Attempt, ...] = ()
        self.trace_id: str | None = None
        self.request_id: str | None = None

    @property
    def message(self) -> str:
        """The message as text."""
        return str(self.args[0])

    def add(self, remark: str) -> None:
        """Append `remark` to the message, which may end with a full stop of the service."""
        self.args = (f"{self.message.rstrip(' .')}; {printable(remark)}", *self.args[1:])

    def __reduce__(self) -> tuple[Any, ...]:
        # Not through __init__: subclasses take more arguments than the message. The attributes are
        # pickled as state, after the object itself, because `attempts` refer back to the error.
        return _new, (type(self), self.args), self.__dict__


def _new(cls: type[LLMStreamError], args: tuple[Any, ...]) -> Any:
    error = cls.__new__(cls, *args)
    error.args = args
    return error


class ConfigurationError(LLMStreamError):
    """The arguments or the settings cannot work. Nothing was sent."""


class ProtocolError(LLMStreamError):
    """The response does not follow the protocol. Retryable only where one event of a stream was
    garbled."""
