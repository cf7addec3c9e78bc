"""An `Answer` of a model, an error of a service, and the registry of the APIs that can encode them.

The file of an API registers its `Encoding` when it is imported; `answers/__init__.py` imports them
all. This module imports none of them, and names no API.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..._core.dialects import DEFAULT_API

__all__ = [
    "ENCODINGS",
    "Answer",
    "Encoding",
    "ErrorSpec",
    "Event",
    "ToolCallSpec",
    "api_of_path",
    "encoding",
    "error_object",
    "register",
    "sse_block",
]

FINISHES = ("stop", "tool_calls", "length", "content_filter")

# `(event, payload)`. Without an event there is no `event:` line. A payload that is a str is sent
# unchanged, any other as JSON.
Event = tuple["str | None", object]

# Tokens of real models carry the space before the word; trailing space is a token of its own.
_WORDS = re.compile(r"\s*\S+|\s+")
_JSON_PIECES = re.compile(r"\w+|\W+")


# --- what a service says ------------------------------------------------------------------------


class ToolCallSpec(NamedTuple):
    """One tool call of an `Answer`, with its call id filled in."""

    name: str
    arguments: str
    call_id: str

    @property
    def deltas(self) -> list[str]:
        """The arguments in pieces, as a model streams them; their join is exact."""
        return _JSON_PIECES.findall(self.arguments)


@dataclass(frozen=True)
class Answer:
    """One answer of a model, independent of the API that carries it.

    Arguments:
        text: the text of the answer. A `str` is split into word-like deltas whose join is exact;
            a list is sent as the deltas that it holds.
        thinking: the model's (summarised) reasoning, likewise. It precedes the text.
        refusal: a refusal, likewise. A part of its own after the text. Messages does not have such
            a part: there a refusal in words is text, in a block of its own.
        tool_calls: `(name, arguments)` or `(name, arguments, call_id)`, `arguments` being JSON
            text. Call ids default to `call_test_0`, `call_test_1`, ...
        finish: why the answer ends: "stop", "tool_calls", "length" or "content_filter". "stop"
            in an answer with tool calls ends as the service ends such an answer ("tool_use",
            "tool_calls"). Messages ends a filtered answer with the stop reason "refusal".
        usage: tokens as `(input, output)`, `(input, output, cached)` or `(input, output, cached,
            reasoning)`; missing ones are 0. `None`: the service reports no usage. The numbers are
            sent unchanged in the API's fields (Messages counts cached tokens beside the input, the
            others within it).
        error: `{"code", "type", "message"}`, any of them. The answer then fails inside the
            stream, after the content given here: the last item stays open, an error event follows,
            and no ending is sent. Messages does not have codes: a code without a type is sent as
            the type.
        response_id: the answer's identity.
        model: the model's name in the answer.

    Immutable: an answer may be shared between threads and used for many replies.

    Raises `ValueError` for an unknown `finish`, or for a `usage` or a tool call of another length.
    """

    # Seconds since the epoch. A fixed moment, so that two runs of a test compare equal.
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

    def blocks(self, api: str = DEFAULT_API) -> list[bytes]:
        """The answer as the API's server-sent events, one block (ending in a blank line) each.

        Raises `ValueError` for an API that is not registered.
        """
        return [sse_block(event, payload) for event, payload in encoding(api).encode(self)]


def _deltas(text: str | Sequence[str]) -> list[str]:
    return _WORDS.findall(text) if isinstance(text, str) else list(text)


@dataclass(frozen=True)
class ErrorSpec:
    """One error with an HTTP status, independent of the API that carries it. Immutable.

    Arguments:
        status: the HTTP status.
        type, code, message, param: the error's fields. An API that lacks one of them leaves it
            out, or translates it.
        request_id: the service's id of the request.
        api: the API that encodes it; None: the API of the request's path.
    """

    status: int
    type: str | None = None
    code: str | None = None
    message: str = "a scripted error"
    param: str | None = None
    request_id: str | None = None
    api: str | None = None

    def document(self, api: str | None = None) -> tuple[dict[str, Any], dict[str, str]]:
        """The JSON body, and the header that carries the request's id (empty without one).

        `api` is the API of the request's path, None where the path belongs to none: the error then
        has the form of the library's default API. Raises `ValueError` for an API that is not
        registered.
        """
        return encoding(self.api or api or DEFAULT_API).error_document(self)


def error_object(error: ErrorSpec) -> tuple[dict[str, Any], dict[str, str]]:
    """The form of errors that OpenAI introduced and most services share."""
    fields = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
    identity = {} if error.request_id is None else {"x-request-id": error.request_id}
    return {"error": fields}, identity


def sse_block(event: str | None, payload: object) -> bytes:
    """One server-sent event: an `event:` line unless `event` is None, and `payload`.

    A `str` is sent unchanged (`[DONE]`) and must be one line; any other payload is sent as JSON.
    """
    compact = (",", ":")
    data = (
        payload
        if isinstance(payload, str)
        else json.dumps(payload, ensure_ascii=False, separators=compact)
    )
    name = "" if event is None else f"event: {event}\n"
    return f"{name}data: {data}\n\n".encode()


# --- the registry -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How one API puts answers and errors on the wire.

    Arguments:
        api: the API's name.
        path: the end of the request paths at which the API is served.
        base_path: the path of the `base_url` that the API's clients take.
        prompt_field: the field of a request's JSON that holds the prompt.
        encode: returns the events of an answer; the same answer gives the same events.
        error_document: returns an error's JSON body, and the header that carries the request's id.
        ping: a block that keeps a stream alive and carries nothing.
    """

    api: str
    path: str
    base_path: str
    prompt_field: str
    encode: Callable[[Answer], list[Event]]
    error_document: Callable[[ErrorSpec], tuple[dict[str, Any], dict[str, str]]] = error_object
    ping: bytes = b": ping\n\n"


ENCODINGS: dict[str, Encoding] = {}  # by the API's name; written by `register`


def register(row: Encoding) -> None:
    """Make an API known to the test server and to the doubles.

    Raises `ValueError` for a name that is registered already.
    """
    if row.api in ENCODINGS:
        raise ValueError(f"the API {row.api!r} is registered already")
    ENCODINGS[row.api] = row


def encoding(api: str) -> Encoding:
    """The registered row of an API. Raises `ValueError` when there is none."""
    try:
        return ENCODINGS[api]
    except KeyError:
        known = ", ".join(sorted(ENCODINGS))
        raise ValueError(f"there is no encoder for the API {api!r}; there are: {known}") from None


def api_of_path(target: str) -> str | None:
    """The API served at a request target such as `/v1/responses?x=1`; None when there is none."""
    path = target.partition("?")[0].rstrip("/")
    return next((row.api for row in ENCODINGS.values() if path.endswith(row.path)), None)
