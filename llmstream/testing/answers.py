"""What a service would say: an `Answer`, and how each API puts it on the wire.

An API is one row of `ENCODERS` (its name and a function from an `Answer` to events), one of `PATHS`
(where its requests go) and one of `ERRORS` (how it says no by HTTP status). An encoder in a file of
its own needs nothing from here at run time (import `Answer` for type checking only), so this module
can import it for its row.
Everything here is a pure function of its arguments: the same answer gives the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

from .answers_chat import encode_chat
from .answers_messages import encode_messages, messages_error

__all__ = [
    "ENCODERS",
    "ERRORS",
    "PATHS",
    "Answer",
    "ToolCallSpec",
    "api_of_path",
    "base_path",
    "error_document",
    "sse_block",
]

FINISHES = ("stop", "tool_calls", "length", "content_filter")

# `(event, payload)`: no event, no `event:` line; a payload that is a str is sent as it is, any
# other as JSON.
Event = tuple["str | None", object]

# Tokens of real models carry the space before the word; what trails the last word is its own token.
_WORDS = re.compile(r"\s*\S+|\s+")
_JSON_PIECES = re.compile(r"\w+|\W+")


class ToolCallSpec(NamedTuple):
    """One tool call of an `Answer`, with its call id filled in."""

    name: str
    arguments: str
    call_id: str

    @property
    def deltas(self) -> list[str]:
        """The arguments in pieces, as a model would stream them; their join is exact."""
        return _JSON_PIECES.findall(self.arguments)


@dataclass(frozen=True)
class Answer:
    """One answer of a model, independent of the API that carries it.

    Arguments:
        text: what the model says. A `str` is split into word-like deltas whose join is exact; a
            list is sent as the deltas that it holds.
        thinking: the model's (summarised) reasoning, likewise. Comes before the text.
        refusal: a refusal, likewise. A part of its own after the text. Messages has no such
            part: there a refusal in words is text, in a block of its own.
        tool_calls: `(name, arguments)` or `(name, arguments, call_id)`, `arguments` being JSON
            text. Call ids default to `call_test_0`, `call_test_1`, ...
        finish: why the answer ends: "stop", "tool_calls", "length" or "content_filter". "stop"
            in an answer with tool calls ends as the service ends such an answer ("tool_use",
            "tool_calls"). Messages ends a filtered answer with the stop reason "refusal".
        usage: tokens as `(input, output)`, `(input, output, cached)` or `(input, output, cached,
            reasoning)`; missing ones are 0. `None`: the service reports no usage. Sent in the
            API's fields as they are (Messages counts cached tokens beside the input, not in it).
        error: `{"code", "type", "message"}`, any of them. The answer then fails inside the
            stream after the content given here: the last item stays open, an error event
            follows, and no ending. Messages has no codes: a code alone is the error's type.
        response_id: the answer's identity.
        model: the model's name in the answer.

    Immutable, so it may be shared between threads and used for many replies.

    Raises `ValueError` for an unknown `finish` or a `usage` of another length.
    """

    # seconds since the epoch; a fixed moment, so that two runs of a test compare equal
    created_at: ClassVar[int] = 1_790_000_000

    text: str | Sequence[str] = ""
    thinking: str | Sequence[str] = ""
    refusal: str | Sequence[str] = ""
    tool_calls: Sequence[tuple[str, ...]] = ()
    finish: str = "stop"
    usage: tuple[int, ...] | None = (12, 34)
    error: Mapping[str, Any] | None = None
    response_id: str = "resp_test"
    model: str = "test-model"

    def __post_init__(self) -> None:
        if self.finish not in FINISHES:
            raise ValueError(f"finish={self.finish!r} is not one of {', '.join(FINISHES)}")
        if self.usage is not None and not 2 <= len(self.usage) <= 4:
            raise ValueError("usage is (input, output[, cached[, reasoning]]) tokens, or None")
        if any(not 2 <= len(call) <= 3 for call in self.tool_calls):
            raise ValueError("a tool call is (name, arguments_json) or with a call_id as third")

    @property
    def text_deltas(self) -> list[str]:
        """The text in the pieces in which it is streamed."""
        return _deltas(self.text)

    @property
    def thinking_deltas(self) -> list[str]:
        """The thinking in the pieces in which it is streamed."""
        return _deltas(self.thinking)

    @property
    def refusal_deltas(self) -> list[str]:
        """The refusal in the pieces in which it is streamed."""
        return _deltas(self.refusal)

    @property
    def calls(self) -> list[ToolCallSpec]:
        """The tool calls, each with a call id."""
        return [
            ToolCallSpec(call[0], call[1], call[2] if len(call) == 3 else f"call_test_{number}")
            for number, call in enumerate(self.tool_calls)
        ]

    @property
    def token_counts(self) -> tuple[int, int, int, int] | None:
        """`(input, output, cached, reasoning)` tokens, or `None` when none are reported."""
        if self.usage is None:
            return None
        counted = (*self.usage, 0, 0)
        return counted[0], counted[1], counted[2], counted[3]

    def blocks(self, api: str = "responses") -> list[bytes]:
        """The answer as the API's server-sent events, one block (ending in a blank line) each.

        Raises `ValueError` for an API that has no row in `ENCODERS`.
        """
        encode = _row_of(ENCODERS, api, "encoder")
        return [sse_block(event, payload) for event, payload in encode(self)]


def _deltas(text: str | Sequence[str]) -> list[str]:
    return _WORDS.findall(text) if isinstance(text, str) else list(text)


def sse_block(event: str | None, payload: object) -> bytes:
    """One server-sent event: an `event:` line unless `event` is None, and `payload`.

    A `str` is sent as it is (`[DONE]`) and must be one line; anything else is sent as JSON.
    """
    compact = (",", ":")
    data = (
        payload
        if isinstance(payload, str)
        else json.dumps(payload, ensure_ascii=False, separators=compact)
    )
    name = "" if event is None else f"event: {event}\n"
    return f"{name}data: {data}\n\n".encode()


# --- Responses ----------------------------------------------------------------------------------

# finish -> the status of the response, the reason given when it is incomplete
_RESPONSES_ENDS = {
    "stop": ("completed", None),
    "tool_calls": ("completed", None),
    "length": ("incomplete", "max_output_tokens"),
    "content_filter": ("incomplete", "content_filter"),
}


class _ResponsesStream:
    """Collects the events of one Responses stream; owns its sequence numbers and its output."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.events: list[Event] = []
        self.output: list[dict[str, Any]] = []

    def add(self, event: str, **fields: Any) -> None:
        payload = {"type": event, "sequence_number": len(self.events), **fields}
        self.events.append((event, payload))

    def add_response(self, event: str, status: str, **fields: Any) -> None:
        """An event that carries the whole response: the first two and the last."""
        answer = self.answer
        response = {
            "id": answer.response_id,
            "object": "response",
            "created_at": answer.created_at,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": None,
            "model": answer.model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": True,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}, "verbosity": "medium"},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": None,
            "user": None,
            "metadata": {},
            **fields,
        }
        self.add(event, response=response)


class _ResponsesItem:
    """One output item: how it is announced, filled, and finished.

    `open` sends everything up to the last delta; `close` sends the rest. An answer that fails
    half-way opens its last item and never closes it.
    """

    kind: ClassVar[str]
    id_prefix: ClassVar[str]
    has_status: ClassVar[bool] = True

    def __init__(self, stream: _ResponsesStream, index: int) -> None:
        self.stream = stream
        self.index = index
        self.id = f"{self.id_prefix}_test_{index}"

    def body(self, filled: bool) -> dict[str, Any]:
        """The item's own fields, empty as announced or filled as finished."""
        raise NotImplementedError

    def fill(self) -> None:
        """The events up to the last delta."""
        raise NotImplementedError

    def finish(self) -> None:
        """The events between the last delta and the end of the item."""
        raise NotImplementedError

    def item(self, status: str, filled: bool) -> dict[str, Any]:
        shown = {"status": status} if self.has_status else {}
        return {"id": self.id, "type": self.kind, **shown, **self.body(filled)}

    def add(self, event: str, **fields: Any) -> None:
        self.stream.add(event, item_id=self.id, output_index=self.index, **fields)

    def open(self) -> None:
        item = self.item("in_progress", filled=False)
        self.stream.add("response.output_item.added", output_index=self.index, item=item)
        self.fill()

    def close(self, status: str) -> None:
        self.finish()
        item = self.item(status, filled=True)
        self.stream.add("response.output_item.done", output_index=self.index, item=item)
        self.stream.output.append(item)


class _Reasoning(_ResponsesItem):
    kind = "reasoning"
    id_prefix = "rs"
    has_status = False  # the service gives a reasoning item none

    def part(self, filled: bool) -> dict[str, str]:
        text = "".join(self.stream.answer.thinking_deltas) if filled else ""
        return {"type": "summary_text", "text": text}

    def body(self, filled: bool) -> dict[str, Any]:
        return {"summary": [self.part(True)] if filled else []}

    def fill(self) -> None:
        part = self.part(False)
        self.add("response.reasoning_summary_part.added", summary_index=0, part=part)
        for delta in self.stream.answer.thinking_deltas:
            self.add("response.reasoning_summary_text.delta", summary_index=0, delta=delta)

    def finish(self) -> None:
        part = self.part(True)
        self.add("response.reasoning_summary_text.done", summary_index=0, text=part["text"])
        self.add("response.reasoning_summary_part.done", summary_index=0, part=part)


class _Message(_ResponsesItem):
    kind = "message"
    id_prefix = "msg"

    def parts(self) -> list[tuple[str, list[str]]]:
        """`(kind of part, its deltas)`; a message that says nothing has one empty text part."""
        answer = self.stream.answer
        given = [("output_text", answer.text_deltas), ("refusal", answer.refusal_deltas)]
        return [part for part in given if part[1]] or given[:1]

    def body(self, filled: bool) -> dict[str, Any]:
        parts = self.parts() if filled else []
        content = [self.part(kind, "".join(deltas)) for kind, deltas in parts]
        return {"role": "assistant", "content": content}

    @staticmethod
    def part(kind: str, text: str) -> dict[str, Any]:
        if kind == "refusal":
            return {"type": kind, "refusal": text}
        return {"type": kind, "annotations": [], "logprobs": [], "text": text}

    def fill(self) -> None:
        parts = self.parts()
        for index, (kind, deltas) in enumerate(parts):
            if index:
                self.finish_part(index - 1, *parts[index - 1])
            part = self.part(kind, "")
            self.add("response.content_part.added", content_index=index, part=part)
            extra = self.extra(kind)
            for delta in deltas:
                self.add(f"response.{kind}.delta", content_index=index, delta=delta, **extra)

    def finish(self) -> None:
        parts = self.parts()
        self.finish_part(len(parts) - 1, *parts[-1])

    def finish_part(self, index: int, kind: str, deltas: list[str]) -> None:
        whole = "".join(deltas)
        field = {"refusal": "refusal"}.get(kind, "text")
        extra = self.extra(kind)
        self.add(f"response.{kind}.done", content_index=index, **{field: whole}, **extra)
        part = self.part(kind, whole)
        self.add("response.content_part.done", content_index=index, part=part)

    @staticmethod
    def extra(kind: str) -> dict[str, Any]:
        return {"logprobs": []} if kind == "output_text" else {}


class _FunctionCall(_ResponsesItem):
    kind = "function_call"
    id_prefix = "fc"

    def __init__(self, stream: _ResponsesStream, index: int, call: ToolCallSpec) -> None:
        super().__init__(stream, index)
        self.call = call

    def body(self, filled: bool) -> dict[str, Any]:
        name, arguments, call_id = self.call
        return {"arguments": arguments if filled else "", "call_id": call_id, "name": name}

    def fill(self) -> None:
        for delta in self.call.deltas:
            self.add("response.function_call_arguments.delta", delta=delta)

    def finish(self) -> None:
        self.add("response.function_call_arguments.done", arguments=self.call.arguments)


def _responses_items(stream: _ResponsesStream) -> list[_ResponsesItem]:
    """The items of the answer, in the order in which the service sends them."""
    answer = stream.answer
    items: list[_ResponsesItem] = []
    if answer.thinking_deltas:
        items.append(_Reasoning(stream, 0))
    says_something = bool(answer.text_deltas or answer.refusal_deltas)
    says_nothing_else = not (items or answer.tool_calls or answer.error is not None)
    if says_something or says_nothing_else:
        items.append(_Message(stream, len(items)))
    for call in answer.calls:
        items.append(_FunctionCall(stream, len(items), call))
    return items


def _responses_usage(answer: Answer) -> dict[str, Any] | None:
    counts = answer.token_counts
    if counts is None:
        return None
    prompt, output, cached, reasoning = counts
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + output,
    }


def _end_responses(stream: _ResponsesStream) -> None:
    answer = stream.answer
    status, reason = _RESPONSES_ENDS[answer.finish]
    stream.add_response(
        f"response.{status}",
        status,
        output=stream.output,
        incomplete_details=None if reason is None else {"reason": reason},
        usage=_responses_usage(answer),
    )


def _fail_responses(stream: _ResponsesStream, error: Mapping[str, Any]) -> None:
    """The live service's order: the error as an event of its own, then the failed response."""
    fields = {"type": None, "code": None, "message": "a scripted error", "param": None, **error}
    stream.add("error", error=fields)
    shown = {"code": fields["code"], "message": fields["message"]}
    stream.add_response("response.failed", "failed", error=shown)


def encode_responses(answer: Answer) -> list[Event]:
    """The answer as the events of `POST /responses` with `stream: true`."""
    stream = _ResponsesStream(answer)
    stream.add_response("response.created", "in_progress")
    stream.add_response("response.in_progress", "in_progress")
    items = _responses_items(stream)
    status = _RESPONSES_ENDS[answer.finish][0]
    for item in items:
        item.open()
        last = item is items[-1]
        if not (last and answer.error is not None):
            item.close(status if last else "completed")
    if answer.error is None:
        _end_responses(stream)
    else:
        _fail_responses(stream, answer.error)
    return stream.events


# --- errors with an HTTP status -----------------------------------------------------------------


def _openai_error(
    status: int,
    *,
    type: str | None = None,
    code: str | None = None,
    message: str = "a scripted error",
    param: str | None = None,
    request_id: str | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    body = {"error": {"message": message, "type": type, "param": param, "code": code}}
    return body, {} if request_id is None else {"x-request-id": request_id}


def error_document(
    api: str, status: int, **fields: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The JSON body of an API's HTTP error, and the header that carries the request's id.

    `fields`: type, code, message, param, request_id. Raises `ValueError` for an API that has no
    row in `ERRORS`.
    """
    return _row_of(ERRORS, api, "form of errors")(status, **fields)


# --- the tables ---------------------------------------------------------------------------------

# the API's name -> its encoder
ENCODERS: dict[str, Callable[[Answer], list[Event]]] = {
    "responses": encode_responses,
    "messages": encode_messages,
    "chat": encode_chat,
}

# the end of a request's path -> the API that is spoken there
PATHS: dict[str, str] = {
    "/responses": "responses",
    "/v1/messages": "messages",
    "/chat/completions": "chat",
}

# the API's name -> how it writes an error that has an HTTP status
ERRORS: dict[str, Callable[..., tuple[dict[str, Any], dict[str, str]]]] = {
    "responses": _openai_error,
    "messages": messages_error,
    "chat": _openai_error,
}

_Row = TypeVar("_Row")


def _row_of(table: Mapping[str, _Row], api: str, what: str) -> _Row:
    try:
        return table[api]
    except KeyError:
        known = ", ".join(sorted(table))
        raise ValueError(f"there is no {what} for the API {api!r}; there are: {known}") from None


def api_of_path(target: str) -> str | None:
    """The API spoken at a request target such as `/v1/responses?x=1`; None when there is none."""
    path = target.partition("?")[0].rstrip("/")
    return next((api for suffix, api in PATHS.items() if path.endswith(suffix)), None)


def base_path(api: str) -> str:
    """The path of the `base_url` that clients of an API take: "/v1", or "" where the version
    belongs to the API's own path (Messages). Raises `ValueError` for an API without a row."""
    path = _row_of({name: path for path, name in PATHS.items()}, api, "path")
    return "" if path.startswith("/v1/") else "/v1"
