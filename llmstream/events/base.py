"""What every event of every API has in common."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import msgspec
from msgspec import Struct, field

from ..result import Chunk

__all__ = ["AnyEvent", "Continued", "Event", "Restarted", "UnknownEvent", "marker_event"]

# The encoded names of fields that no service sends; "$" begins no field of any of the three APIs.
_RAW = "$raw"
_CHUNKS = "$chunks"


def decode_json(data: bytes) -> Any:
    """Decoded JSON, as far as it can be had: bytes that are not UTF-8, and halves of surrogate
    pairs (servers in JavaScript cut strings between them), come out as U+FFFD, and NaN is a
    number. Raises ValueError, RecursionError."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _mended(json.loads(data.decode("utf-8", "replace")))


def _mended(value: Any) -> Any:
    """`value` without halves of surrogate pairs."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mended(inner) for inner in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(inner) for key, inner in value.items()}
    return value


class Event(Struct, kw_only=True, tag_field="type"):
    """One event of the wire, typed. Every field is optional: compatible servers leave some out.

    `raw` is the event's JSON exactly as it came, so a field that is not declared here is not lost;
    `json()` decodes it. `chunks` is what the event added
    to the answer. Treat events as read-only: the stream's state was built from them.
    """

    type: ClassVar[str] = ""

    sequence_number: int | None = None
    chunks: tuple[Chunk, ...] = field(default=(), name=_CHUNKS)
    raw: bytes = field(default=b"", name=_RAW)

    def json(self) -> Any:
        """The whole event as decoded JSON, with every field that came."""
        return decode_json(self.raw)

    def __repr__(self) -> str:
        return _shown(self)


def _shown(event: Struct) -> str:
    """The class and the fields that are set, without the raw JSON a second time."""
    fields = (
        f"{name}={value!r}"
        for name in event.__struct_fields__
        if name not in ("chunks", "raw") and (value := getattr(event, name)) is not None
    )
    return f"{type(event).__name__}({', '.join(fields)})"


class UnknownEvent(Struct):
    """An event of a type that this version does not know: never dropped, never another class.

    `data` is its decoded JSON (text where it is not JSON).
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
        return _shown(self)


AnyEvent = Event | UnknownEvent


class Restarted(Event, kw_only=True, tag="llmstream.restarted"):
    """Not of the wire: the answer begins anew with request number `attempt`
    (`on_disconnect="restart"`). What was shown of it does not count any more."""

    attempt: int = 0


class Continued(Event, kw_only=True, tag="llmstream.continued"):
    """Not of the wire: request number `attempt` goes on where the answer was cut
    (`on_disconnect="continue"`). The whole is not what the uncut answer would have been."""

    attempt: int = 0


def marker_event(cls: type[Restarted] | type[Continued], attempt: int) -> Event:
    """The mark in the stream that request number `attempt` goes on with the answer."""
    event = cls(attempt=attempt)
    event.raw = msgspec.json.encode({"type": cls.type, "attempt": attempt})
    if cls is Restarted:
        event.chunks = (Chunk("restart", ""),)
    return event


def bind_types(classes: tuple[type[Event], ...]) -> None:
    """Give each class its wire name as `type` (msgspec keeps a tag only in the configuration)."""
    for cls in classes:
        cls.type = str(cls.__struct_config__.tag)


bind_types((Restarted, Continued))
