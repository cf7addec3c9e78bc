"""What a protocol is, and how its events are written: JSON, and the frames of SSE. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import msgspec

from ...result import Usage
from ..parts import Part

__all__ = [
    "COMMENT",
    "EVENT_STREAM",
    "Encoder",
    "Row",
    "TableEncoder",
    "Version",
    "clean",
    "encode_json",
    "frame",
    "present",
    "reported",
    "typed",
    "with_id",
]

Version = int | str

EVENT_STREAM = "text/event-stream; charset=utf-8"
COMMENT = b": keep-alive\n\n"  # of SSE: every client ignores it


class Row(NamedTuple):
    """A protocol in the table: the module and the class of its encoder, the versions from the
    oldest to the latest, and the names of the encoder's own options."""

    module: str
    name: str
    versions: tuple[Version, ...] = ()
    options: tuple[str, ...] = ()


class Encoder(Protocol):
    """Writes one answer in one protocol. Pure and stateful; not thread-safe.

    Called with the parts of an answer in their order (see `parts`), neighbours merged or not. All
    of its attributes are constant.

    Attributes:
        content_type: the header of that name.
        headers: the protocol's own headers, besides those that every relay sends.
        heartbeat: the bytes that mean nothing, for when nothing else is to be sent; b"" where the
            protocol has none. May be sent between any two frames, and before the first.
        shows_restart: whether a client can be told that the answer begins anew.
        has_ids: whether the frames are events of SSE, which may have ids (`with_id`).
        shows_failure: whether a Failure can be told in band. Where it cannot, a body that ends is
            an answer that is whole: after a Failure the connection has to break.
    """

    @property
    def content_type(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def heartbeat(self) -> bytes: ...
    @property
    def shows_restart(self) -> bool: ...
    @property
    def has_ids(self) -> bool: ...
    @property
    def shows_failure(self) -> bool: ...

    def encode(self, part: Part) -> list[bytes]:
        """The frames of a part, each one whole event; perhaps none. A part that the protocol has
        no words for has none. Never raises for what a service may have sent."""


class TableEncoder:
    """What most protocols have in common: SSE, and a method for each kind of part.

    A protocol sets `table`; a kind of part that is not in it is not sent.
    """

    content_type = EVENT_STREAM
    headers: Mapping[str, str] = {}
    heartbeat = COMMENT
    shows_restart = True
    has_ids = True
    shows_failure = True

    table: ClassVar[Mapping[type[Any], Callable[[Any, Any], list[bytes]]]]

    def __init__(self, version: Version | None = None) -> None:
        self.version = version

    def encode(self, part: Part) -> list[bytes]:
        write = self.table.get(type(part))
        return write(self, part) if write is not None else []


# ---- JSON --------------------------------------------------------------------------------------

# Line ends to `str.splitlines` and to JavaScript before ES2019, though not to SSE and JSON.
_ESCAPED = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


def encode_json(value: Any) -> bytes:
    """`value` as JSON on one line. Half characters (lone surrogates) become U+FFFD."""
    try:
        text = msgspec.json.encode(value)
    except UnicodeEncodeError:
        text = msgspec.json.encode(_without_halves(value))
    for raw, escape in _ESCAPED:
        if raw in text:
            text = text.replace(raw, escape)
    return text


def clean(text: str) -> str:
    """`text` with U+FFFD in place of half characters (lone surrogates); two halves that fit are
    one character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _without_halves(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {_without_halves(key): _without_halves(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_halves(inner) for inner in value]
    return value


def present(**fields: Any) -> dict[str, Any]:
    """The fields that are not None: an optional field is absent, never null."""
    return {name: value for name, value in fields.items() if value is not None}


def reported(usage: Usage) -> dict[str, Any] | None:
    """The counts of a usage that were reported; None where none was. What the call has cost is
    between the service and its customer, and not for browsers."""
    counts = msgspec.structs.asdict(usage)
    counts.pop("cost")
    return present(**counts) or None


# ---- SSE ---------------------------------------------------------------------------------------


def frame(data: bytes, event: str | None = None) -> bytes:
    """One event of SSE, with its blank line. `data` has no CR; each of its lines is a field."""
    named = f"event: {event}\n".encode() if event is not None else b""
    return named + b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


def typed(type: str, **fields: Any) -> bytes:
    """One event of SSE whose data is a JSON object with a `type`, and the fields that are there."""
    return frame(encode_json({"type": type, **present(**fields)}))


def with_id(frame: bytes, id: str | int) -> bytes:
    """A frame of SSE under an id, which a client repeats as `Last-Event-ID` when it comes back.
    `id` has no line end and no NUL."""
    return f"id: {id}\n".encode() + frame
