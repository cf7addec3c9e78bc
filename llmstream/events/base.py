"""What the events of all APIs have in common, the markers of the library's own, and the JSON
decoder that all of them share. Relies on msgspec."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any, ClassVar

import msgspec
from msgspec import Struct, field

from ..result import Chunk

__all__ = [
    "AnyEvent",
    "Continued",
    "Event",
    "InvocationMetrics",
    "ReportedUsage",
    "Restarted",
    "Retried",
    "UnknownEvent",
    "marker_event",
]

# The encoded names of fields that no service sends: in none of the three APIs does a field's name
# begin with "$".
_RAW = "$raw"
_CHUNKS = "$chunks"


def decode_json(data: bytes) -> Any:
    """Decoded JSON, leniently: bytes that are not UTF-8 and unpaired surrogates become U+FFFD, NaN
    is a number, and a whole number that Python refuses to read is a float. (Servers in JavaScript
    cut strings between the two halves of a surrogate pair.) Raises ValueError, RecursionError."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = data.decode("utf-8", "replace")
        return _without_surrogates(json.loads(text, parse_int=_number))


# A result is pickled, compared and shown, each with a stack of its own above that of the caller:
# Python's stacks hold a thousand frames, and pickle needs several for each level.
_DEPTH = 200
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def shallow(data: bytes) -> bytes:
    """`data` itself, which is JSON that a result will have. Raises ValueError where it is nested
    more than 200 levels deep."""
    if data.count(b"[") + data.count(b"{") > _DEPTH:
        brackets = _STRING.sub(b"", data).translate(None, _OTHERS)
        if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > _DEPTH:
            raise ValueError("JSON nested too deeply")
    return data


_LARGE = 1 << 20  # bytes: what is shorter cannot need much memory
_MOST_VALUES = 2_000_000


def has_too_many_values(data: bytes) -> bool:
    """Whether JSON would need far more memory than its length: decoded, `[],` takes 72 bytes."""
    if len(data) < _LARGE or _values(data) <= _MOST_VALUES:
        return False
    return _values(_STRING.sub(b"", data)) > _MOST_VALUES


def _values(data: bytes) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{")


_DIGITS = 300  # every Python reads and writes whole numbers of so many, a float's are no more


def _number(text: str) -> int | float:
    return int(text) if len(text) <= _DIGITS else float(text)


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


def raw_elements(data: bytes, *path: str) -> list[bytes]:
    """The JSON of each element of the list at `path` in an object, without nulls, in time linear in
    `data`: of thousands of elements each is decoded when somebody reads it. A name that an object
    does not have is passed over. Raises ValueError, RecursionError."""
    shallow(data)
    try:
        inner = msgspec.Raw(data)
        for name in path:
            inner = _OBJECT.decode(inner).get(name, inner)
        found = [bytes(element) for element in _LIST.decode(inner)]
        return [element for element in found if element != b"null"]
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = decode_json(data)
        for name in path:
            value = value.get(name, value)
        return [json.dumps(element).encode() for element in value if element is not None]


def _without_surrogates(value: Any) -> Any:
    """`value` with U+FFFD in place of unpaired surrogates."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(inner) for inner in value]
    if isinstance(value, dict):
        return {
            _without_surrogates(key): _without_surrogates(inner) for key, inner in value.items()
        }
    return value


class InvocationMetrics(Struct, kw_only=True, rename="camel"):
    """What Amazon Bedrock adds to the last event of an answer, under a name of its own."""

    input_token_count: int | None = None
    output_token_count: int | None = None
    cache_read_input_token_count: int | None = None
    cache_write_input_token_count: int | None = None
    invocation_latency: float | None = None
    first_byte_latency: float | None = None


class ReportedUsage(Struct, kw_only=True):
    """Tokens used, under the names of any API: gateways mix them, and some services have the parts
    beside the counts. `cost` is in USD: a number, or an object with a total (Perplexity); an xAI
    tick is 1e-10 USD. `is_byok`: the provider bills what is in `cost_details` in addition
    (OpenRouter, on every API)."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    num_cached_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cost: Any = None
    total_cost: Any = None
    estimated_cost: Any = None
    cost_in_usd_ticks: Any = None
    cost_details: Any = None
    is_byok: Any = None


class Event(Struct, kw_only=True, tag_field="type"):
    """One event as the service sent it, typed. Every field is optional, because compatible servers
    leave some out.

    `type` is the event's name. `raw` is its JSON exactly as it was received, so a field that is not
    declared here is not lost; `json()` decodes it. `chunks` is what the event added to the answer.
    `sequence_number` is the event's number where the API has one (Responses).

    Treat events as read-only: the stream's state refers to them.
    """

    type: ClassVar[str] = ""

    sequence_number: int | None = None
    chunks: tuple[Chunk, ...] = field(default=(), name=_CHUNKS)
    raw: bytes = field(default=b"", name=_RAW)

    def json(self) -> Any:
        """The whole event as decoded JSON, with every field."""
        return decode_json(self.raw)

    def __repr__(self) -> str:
        return _repr(self)


def _repr(event: Struct) -> str:
    """The class and the fields that are set, without `chunks` and `raw`, which repeat them."""
    fields = (
        f"{name}={value!r}"
        for name in event.__struct_fields__
        if name not in ("chunks", "raw") and (value := getattr(event, name)) is not None
    )
    return f"{type(event).__name__}({', '.join(fields)})"


class UnknownEvent(Struct):
    """An event of a type that this version does not know. Such an event is never dropped.

    `data` is its decoded JSON, or text where it is not JSON. For the other attributes see `Event`.
    """

    type: str
    data: Any
    sequence_number: int | None = None
    chunks: tuple[Chunk, ...] = ()
    raw: bytes = b""

    def json(self) -> Any:
        """The same as `data`."""
        return self.data

    def __repr__(self) -> str:
        return _repr(self)


AnyEvent = Event | UnknownEvent


class Restarted(Event, kw_only=True, tag="llmstream.restarted"):
    """The library's own marker: the answer begins anew with request number `attempt`
    (`on_disconnect="restart"`). What was received before no longer belongs to it."""

    attempt: int = 0


class Continued(Event, kw_only=True, tag="llmstream.continued"):
    """The library's own marker: request number `attempt` goes on where the answer was cut off
    (`on_disconnect="continue"`). The whole is not the answer that the first request would have
    had."""

    attempt: int = 0


class Retried(Event, kw_only=True, tag="llmstream.retried"):
    """The library's own marker, for `Stream.events(retries=True)`: a request has failed with an
    error of the class named `reason`, and request number `attempt` is sent after `delay` seconds.
    What was received before is not lost, unless a Restarted event follows."""

    attempt: int = 0
    reason: str = ""
    delay: float = 0.0


def marker_event(
    cls: type[Restarted] | type[Continued] | type[Retried], attempt: int, **more: Any
) -> Event:
    """The event that tells the reader that request number `attempt` goes on with the answer."""
    event = cls(attempt=attempt, **more)
    event.raw = msgspec.json.encode({"type": cls.type, "attempt": attempt, **more})
    if cls is Restarted:
        event.chunks = (Chunk("restart", ""),)
    return event


def bind_types(classes: tuple[type[Event], ...]) -> None:
    """Set `type` of each class to its name on the wire, which msgspec keeps in the struct's
    configuration only."""
    for cls in classes:
        cls.type = str(cls.__struct_config__.tag)


bind_types((Restarted, Continued, Retried))
