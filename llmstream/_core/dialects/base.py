"""What a dialect is: how to ask, and how to understand the answer."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, Protocol, Union
from urllib.parse import quote

import msgspec
from msgspec import Struct

from ...errors import ConfigurationError, LLMStreamError, ServiceError
from ...events.base import Event, UnknownEvent, decode_json
from ..profiles import DEFAULT, Profile
from ..state import CallState, State, item_calls

__all__ = [
    "CONTENT",
    "NOTHING",
    "PROGRESS",
    "AnyEvent",
    "Apply",
    "Call",
    "Dialect",
    "Stored",
    "TypedDialect",
    "Verdict",
    "WireRequest",
    "chosen_tool",
    "encode_body",
    "function_tool",
    "lenient",
    "under",
]

AnyEvent = Event | UnknownEvent


class Call(Struct, frozen=True, kw_only=True):
    """What the caller asked for, in no API's words yet. None means: not said."""

    prompt: str | list[Any]
    model: str
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: Any = None
    tools: Any = None
    tool_choice: Any = None
    thinking: Any = None
    background: bool = False
    extra_body: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Call({self.model!r})"  # never the prompt


class WireRequest(Struct, frozen=True):
    """One HTTP request, without its credentials."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes = b""
    choices: int = 1

    def __repr__(self) -> str:
        return f"WireRequest({self.method} {self.url.partition('?')[0]}, {len(self.body)} bytes)"


class Verdict(Struct, frozen=True):
    """What an event means besides what it adds to the answer.

    `level` says what it is to the clocks: 0 nothing (a ping), 1 progress (a status, an item begun),
    2 content. `complete`: the answer is whole. `error`: the service failed. Either may `linger`:
    seconds to wait for what still belongs to the stream; without, reading stops at once.
    """

    level: int = 0
    complete: bool = False
    error: ServiceError | None = None
    linger: float = 0.0


NOTHING = Verdict(0)
PROGRESS = Verdict(1)
CONTENT = Verdict(2)


class Stored(Struct, frozen=True):
    """A response that the service keeps (in the background), and how to get back to it."""

    url: str
    headers: dict[str, str]

    def resume(self, after: int | None) -> WireRequest:
        """Its events again, from behind the sequence number `after`."""
        cursor = "" if after is None else f"&starting_after={after}"
        return self._request("GET", "", f"stream=true{cursor}")

    def poll(self) -> WireRequest:
        """As far as it is, as one JSON body."""
        return self._request("GET", "", "")

    def cancel(self) -> WireRequest:
        """The end of it."""
        return self._request("POST", "/cancel", "")

    def _request(self, method: str, path: str, query: str) -> WireRequest:
        base, _, kept = self.url.partition("?")
        query = "&".join(part for part in (kept, query) if part)
        return WireRequest(method, f"{base}{path}" + (f"?{query}" if query else ""), self.headers)


class Dialect(Protocol):
    """One API. It has no state of its own: what a stream has said is in the State passed in.

    `text_part` is the type of a text part in a prompt; `default_max_tokens` the limit of the
    answer where the caller sets none and the API wants one.
    """

    name: str
    default_base_url: str
    default_model: str | None
    text_part: str
    default_max_tokens: int | None

    def with_profile(self, profile: Profile) -> Dialect:
        """The same API in the manner of one service."""

    def request(self, call: Call, base_url: str) -> WireRequest:
        """The HTTP request for `call`. Raises ConfigurationError for what this API cannot do."""

    def auth(self, api_key: str) -> dict[str, str]:
        """The headers that carry the key."""

    def simpler(self, request: WireRequest, error: LLMStreamError) -> WireRequest | None:
        """The request without the option that the server refused in `error`, or None."""

    def stored(self, request: WireRequest, response_id: str) -> Stored | None:
        """Where a background response that `request` began is kept; None for other requests."""

    def decode(self, name: str, data: bytes) -> AnyEvent:
        """One event of the wire, typed. `name` is the SSE event name ("message" where there was
        none). Raises ValueError where it is not this protocol."""

    def apply(self, state: State, event: AnyEvent) -> Verdict:
        """Fold the event into the state and fill in its `chunks`."""

    def done(self, state: State) -> Verdict:
        """The end marker `[DONE]` came."""

    def calls(self, state: State) -> Iterator[CallState]:
        """The calls that the caller is to run, in order, as far as they came."""

    def turn(self, state: State, safe: frozenset[str]) -> tuple[Any, ...]:
        """The answer as the messages (or input items) that go into the next prompt: what was
        closed, never half a block, nor a call whose id is not `safe`, nor thinking that leads to
        nothing."""

    def is_unfinished(self, payload: Any) -> bool:
        """A JSON body: an answer that the service is still at work on."""

    def whole_answer(self, payload: Any, raw: bytes) -> tuple[AnyEvent, ...]:
        """A 200 with a JSON body: the completion as events, none where it is no completion."""


Apply = Callable[[State, Any], Verdict]


class TypedDialect:
    """What APIs have in common whose events each have a type of their own."""

    events: ClassVar[tuple[type[Event], ...]]
    table: ClassVar[Mapping[type[Any], Apply]]
    # the fields of which none may be left out where it cannot be read
    essential: ClassVar[frozenset[str]]
    # the item types that the caller has to run -> the kind of their arguments
    tool_types: ClassVar[Mapping[str, str]]

    def __init__(self, profile: Profile = DEFAULT) -> None:
        self._profile = profile

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[Event]:
        # a union made at run time: X | Y cannot spell it
        return msgspec.json.Decoder(Union[self.events])  # noqa: UP007

    @cached_property
    def _classes(self) -> dict[str, type[Event]]:
        return {cls.type: cls for cls in self.events}

    def decode(self, name: str, data: bytes) -> AnyEvent:
        try:
            event: AnyEvent = self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            event = lenient(name, data, self._classes, self.essential)
        event.raw = data
        event.chunks = ()  # not for the wire to say
        return event

    def apply(self, state: State, event: AnyEvent) -> Verdict:
        state.hot = None
        return self.table[type(event)](state, event)

    def simpler(self, request: WireRequest, error: LLMStreamError) -> WireRequest | None:
        return None

    def done(self, state: State) -> Verdict:
        # These APIs end with an event of their own; gateways append the marker all the same.
        return NOTHING

    def calls(self, state: State) -> Iterator[CallState]:
        return item_calls(state, self.tool_types)

    def is_unfinished(self, payload: Any) -> bool:
        return False


def under(url: str, part: str) -> str:
    """The URL of something below `url`, whose query is kept."""
    base, mark, query = url.partition("?")
    return f"{base}/{quote(part, safe='')}{mark}{query}"


def encode_body(body: Mapping[str, Any], extra: Mapping[str, Any] | None) -> bytes:
    """The JSON of a request: what is None is left out, `extra` has the last word."""
    said = {key: value for key, value in body.items() if value is not None}
    said.update(extra or {})
    try:
        return msgspec.json.encode(said)
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigurationError(
            f"the request cannot be written as JSON ({exc}): give plain dicts, lists, strings and "
            "numbers"
        ) from exc


def function_tool(tool: Any) -> dict[str, Any] | None:
    """A function tool, in any of the three APIs' forms, as {"name", "description", "parameters",
    ...}; None for a tool of another kind (the service's own), which is passed on as it is."""
    if not isinstance(tool, Mapping):
        return None
    inner = tool.get("function")
    if isinstance(inner, Mapping):  # Chat Completions
        return dict(inner)
    if "input_schema" in tool and tool.get("type", "custom") == "custom":  # Messages
        rest = {k: v for k, v in tool.items() if k not in ("type", "input_schema")}
        return {**rest, "parameters": tool["input_schema"]}
    if tool.get("type") == "function" or (tool.get("name") and "type" not in tool):
        return {k: v for k, v in tool.items() if k != "type"}
    return None


def chosen_tool(choice: Any) -> str | None:
    """The name of the one function that a tool choice asks for, in any of the three forms."""
    if not isinstance(choice, Mapping):
        return None
    inner = choice.get("function")
    named = inner if isinstance(inner, Mapping) else choice
    name = named.get("name")
    return name if isinstance(name, str) else None


def lenient(
    name: str, data: bytes, classes: Mapping[str, type[Event]], essential: frozenset[str]
) -> AnyEvent:
    """An event that the typed decoder refused: of an unknown type, without a type, or with fields
    of other types than the reference says.

    A field that does not fit is left out (it stays in `raw`), unless it is `essential`: answer
    text that cannot be read must not vanish. Raises ValueError then, and for what is not JSON.
    """
    payload = decode_json(data)
    if not isinstance(payload, dict):
        if name == "error":
            return classes[name](raw=data)
        return UnknownEvent(name, payload, raw=data)
    kind = payload.get("type")
    kind = kind if isinstance(kind, str) else None
    if kind not in classes and (name == "error" or (kind is None and payload.get("error"))):
        kind = "error"  # a gateway's: without a type, or with the failure's own in its place
    kind = name if kind is None else kind
    cls = classes.get(kind)
    if cls is None:
        number = payload.get("sequence_number")
        return UnknownEvent(kind, payload, number if isinstance(number, int) else None, raw=data)
    event = _build(cls, payload, essential)
    assert isinstance(event, Event)
    return event


def _hints(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _build(cls: type[Any], payload: Mapping[str, Any], essential: frozenset[str]) -> Any:
    hints = _hints(cls)
    found: dict[str, Any] = {}
    for name, wire in zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True):
        value = payload.get(wire)
        if value is None:
            continue
        fitted = _fitted(hints[name], value, essential)
        if fitted is not None:
            found[name] = fitted
        elif wire in essential:
            raise ValueError(f"a field {wire!r} of the event holds something else")
    return cls(**found)


def _fitted(hint: Any, value: Any, essential: frozenset[str]) -> Any:
    """`value` as `hint`, or None where it does not fit."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if isinstance(hint, type) and issubclass(hint, Struct):
        return _build(hint, value, essential) if isinstance(value, dict) else None
    if typing.get_origin(hint) is list:
        (inner,) = typing.get_args(hint)
        if not isinstance(value, list):
            return None
        found = [_fitted(inner, v, essential) for v in value if v is not None]
        return None if None in found else found
    try:
        return msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError:
        return None
