"""The script of the test server: what a reply consists of, and what is recorded of a request.

Values only: nothing here uses a socket, a thread or a clock.
"""

from __future__ import annotations

import http
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from .answers import ENCODINGS, Answer, ErrorSpec, api_of_path, encoding

__all__ = [
    "Cut",
    "Drip",
    "EncodedReply",
    "Entry",
    "Headers",
    "Pause",
    "Pings",
    "Recorded",
    "Reply",
    "Reset",
    "Send",
    "Silence",
    "Step",
    "body_length",
    "chunk",
    "chunked_pieces",
    "encode_reply",
    "needs_api",
    "pieces",
    "prompt_text",
    "render_head",
]

_CENTURY = 3_153_600_000.0  # seconds: a longer wait is a mistake in the unit
LAST_CHUNK = b"0\r\n\r\n"


# --- steps --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Send:
    """Sends `data`: as one HTTP chunk when the reply is chunked, else unchanged.

    With `raw=True` the bytes bypass the framing, for example garbage in place of a chunk's header.
    """

    data: bytes
    raw: bool = False


@dataclass(frozen=True)
class Pause:
    """Sends nothing for `seconds`. Ends at once when the client closes."""

    seconds: float

    def __post_init__(self) -> None:
        _check_seconds("Pause", self.seconds)


@dataclass(frozen=True)
class Silence:
    """Sends nothing until the client closes or the server is closed."""


@dataclass(frozen=True)
class Pings:
    """Sends `data` after each `every` seconds, `count` times.

    With `count=None` it goes on until the client closes or the server is closed.
    """

    every: float
    count: int | None = None
    data: bytes = b": ping\n\n"

    def __post_init__(self) -> None:
        _check_seconds("Pings", self.every)
        if self.count is not None and not _is_count(self.count, 0):
            raise ValueError("Pings(count=...): a whole number of 0 or more")


@dataclass(frozen=True)
class Drip:
    """Sends `data` in pieces of `size` bytes, with `every` seconds after each piece.

    In a chunked reply each piece is an HTTP chunk of its own; with `one_chunk=True` the pieces
    dribble inside a single chunk. With `every=0.0` there are no waits. Pieces that are chunks are
    then rendered in advance and written together (megabytes, byte by byte, in fractions of a
    second): each piece is a chunk, but not a TCP segment. All other pieces are separate writes,
    which TCP may still join.
    """

    data: bytes
    every: float = 0.0
    size: int = 1
    one_chunk: bool = False

    def __post_init__(self) -> None:
        _check_seconds("Drip", self.every)
        if not _is_count(self.size, 1):
            raise ValueError("Drip(size=...): a whole number; a piece has at least one byte")


@dataclass(frozen=True)
class Cut:
    """Ends the connection now (FIN), in the middle of the reply.

    With `last_chunk=True` a chunked body is ended cleanly first (in another framing this makes
    no difference), and over TLS a close_notify is sent. The server goes on reading, and discards
    what it reads, until the client closes or 10 s have passed, so that unread input does not turn
    the FIN into a reset.
    """

    last_chunk: bool = False


@dataclass(frozen=True)
class Reset:
    """Resets the connection now (RST, by SO_LINGER with 0 seconds).

    A reset destroys what the sender's kernel still holds. So the server first waits (on Linux, for
    at most 1 s) until the peer's kernel has acknowledged every byte sent before. A client on Linux
    then reads these bytes and the error after them. Other systems may discard the bytes when the
    reset arrives, unless the client has read them by then. A client that does not read gets what
    fits in its socket buffer.
    """


def _check_seconds(step: str, seconds: Any) -> None:
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not 0 <= seconds <= _CENTURY:
        raise ValueError(
            f"{step} waits for what is not a finite number of seconds, 0 or more and at most "
            f"{_CENTURY:,.0f} (a century)"
        )


def _is_count(number: Any, least: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= least


Step = Send | Pause | Silence | Pings | Drip | Cut | Reset
Piece = Step | bytes | Answer | ErrorSpec
_PIECES = (Send, Pause, Silence, Pings, Drip, Cut, Reset, bytes, Answer, ErrorSpec)


# --- replies ------------------------------------------------------------------------------------

# framing -> the headers it needs; "length" gets its Content-Length when the body is known
_FRAMING_HEADERS: dict[str, dict[str, str]] = {
    "chunked": {"Transfer-Encoding": "chunked"},
    "close": {"Connection": "close"},
    "length": {},
}


@dataclass(frozen=True)
class Reply:
    """One scripted reply to one request, faults included.

    Arguments:
        steps: what the body consists of: steps, `bytes` (a `Send`), or an `Answer` (a `Send` for
            each of its blocks, encoded for the API of the request's path). One of these, or an
            iterable of them.
        status: the HTTP status.
        headers: added to the headers that the reply has anyway. They override these, whatever
            their case; a value of `None` leaves that header out.
        framing: how the body ends. "chunked": by the last chunk, and the connection is kept.
            "close": by the end of the connection. "length": by a Content-Length, the sum of what
            all steps send; the connection is kept.
        content_type: the Content-Type.
        before: steps played before the head is sent, without framing.
        length: with framing "length", the Content-Length to claim instead of the true one. After
            a false claim the connection is closed: a claim that is too long is a body cut short.
        delay: seconds between the complete request and `before`.

    Immutable: one reply may be scripted many times and from many threads.

    Raises `ValueError` or `TypeError` for a reply that cannot be played.
    """

    steps: Piece | Iterable[Piece] = ()
    _: KW_ONLY
    status: int = 200
    headers: Mapping[str, str | None] = field(default_factory=dict)
    framing: Literal["chunked", "close", "length"] = "chunked"
    content_type: str = "text/event-stream"
    before: Piece | Iterable[Piece] = ()
    length: int | None = None
    delay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "before"):
            object.__setattr__(self, name, _as_tuple(getattr(self, name)))
        if self.framing not in _FRAMING_HEADERS:
            known = ", ".join(_FRAMING_HEADERS)
            raise ValueError(f"framing={self.framing!r} is not one of {known}")
        if self.length is not None and self.framing != "length":
            raise ValueError('length= claims a Content-Length: it needs framing="length"')
        if self.framing == "length" and self.length is None and self._is_endless():
            raise ValueError("Pings without a count have no length: claim one with length=")
        _check_seconds("Reply(delay=...)", self.delay)

    def _is_endless(self) -> bool:
        steps = _as_tuple(self.steps)
        return any(isinstance(step, Pings) and step.count is None for step in steps)

    @classmethod
    def error(
        cls,
        status: int,
        *,
        type: str | None = None,
        code: str | None = None,
        message: str = "a scripted error",
        param: str | None = None,
        headers: Mapping[str, str | None] | None = None,
        request_id: str | None = None,
        api: str | None = None,
    ) -> Reply:
        """An error as an API writes it: a JSON object with a Content-Length.

        `api=None` is the API of the request's path (the library's default API where the path
        belongs to none). Each API uses its own words: in Messages, which does not have codes, the
        type follows from `code` or from the status. `request_id` is sent in the API's own header,
        `x-request-id` or `request-id`. Raises `ValueError` for an unknown API.
        """
        if api is not None:
            encoding(api)
        error = ErrorSpec(status, type, code, message, param, request_id, api)
        return cls._document(error, "application/json", status, headers)

    @classmethod
    def json(
        cls, obj: object, status: int = 200, *, headers: Mapping[str, str | None] | None = None
    ) -> Reply:
        """`obj` as a JSON body with a Content-Length."""
        return cls._document(json.dumps(obj).encode(), "application/json", status, headers)

    @classmethod
    def html(
        cls,
        text: str = "<html><body><h1>Bad gateway</h1></body></html>",
        status: int = 200,
        *,
        headers: Mapping[str, str | None] | None = None,
    ) -> Reply:
        """An HTML page with a Content-Length, as a proxy sends it in place of a service."""
        return cls._document(text.encode(), "text/html; charset=utf-8", status, headers)

    @classmethod
    def raw(cls, data: bytes) -> Reply:
        """Exactly these bytes instead of any HTTP, then the end of the connection."""
        return cls(before=(Send(data), Cut()))

    @classmethod
    def _document(
        cls,
        content: bytes | ErrorSpec,
        content_type: str,
        status: int,
        headers: Mapping[str, str | None] | None,
    ) -> Reply:
        return cls(
            content,
            status=status,
            headers=headers or {},
            framing="length",
            content_type=content_type,
        )


def _as_tuple(steps: Piece | Iterable[Piece]) -> tuple[Piece, ...]:
    one = isinstance(steps, _PIECES)
    listed: tuple[Any, ...] = (steps,) if one else tuple(steps)  # type: ignore[arg-type]
    for step in listed:
        if not isinstance(step, _PIECES):
            raise TypeError(f"{step!r} is not a step: use bytes, an Answer, Send, Pause, ...")
    return listed


# --- a reply in bytes ---------------------------------------------------------------------------


def needs_api(reply: Reply) -> bool:
    """Whether the reply holds an answer, which only an API can encode."""
    held = (*_as_tuple(reply.steps), *_as_tuple(reply.before))
    return any(isinstance(piece, Answer) for piece in held)


class EncodedReply(NamedTuple):
    """A reply to one request: its answers and errors are bytes of the API of the request's path.

    `headers` are the reply's own, and those that an error's encoding adds.
    """

    before: list[Step]
    steps: list[Step]
    headers: dict[str, str | None]


def encode_reply(reply: Reply, api: str | None) -> EncodedReply:
    """The reply for a request whose path belongs to `api` (None: to none).

    Raises `ValueError` when it holds an answer and `api` is None: the encoding is not known.
    """
    before, steps = _as_tuple(reply.before), _as_tuple(reply.steps)
    identity: dict[str, str | None] = {}
    for piece in steps:
        if isinstance(piece, ErrorSpec):
            identity.update(piece.document(api)[1])
    return EncodedReply(
        [step for piece in before for step in _encoded(piece, api)],
        [step for piece in steps for step in _encoded(piece, api)],
        {**identity, **reply.headers},
    )


def _encoded(piece: Piece, api: str | None) -> list[Step]:
    if isinstance(piece, bytes):
        return [Send(piece)]
    if isinstance(piece, ErrorSpec):
        return [Send(json.dumps(piece.document(api)[0]).encode())]
    if not isinstance(piece, Answer):
        return [piece]
    if api is None:
        raise ValueError("an Answer needs a path that belongs to an API")
    return [Send(block) for block in piece.blocks(api)]


def body_length(steps: Iterable[Step]) -> int:
    """The bytes that the steps send if nothing cuts them; endless pings count as 0."""
    return sum(_step_length(step) for step in steps)


def _step_length(step: Step) -> int:
    if isinstance(step, (Send, Drip)):
        return len(step.data)
    if isinstance(step, Pings):
        return (step.count or 0) * len(step.data)
    return 0


def render_head(reply: Reply, own: Mapping[str, str | None], length: int | None) -> bytes:
    """The status line and the headers.

    `own` are the reply's own headers; they override the others. `length` is the Content-Length to
    claim, if any.
    """
    headers: dict[str, str | None] = {"Content-Type": reply.content_type}
    headers.update(_FRAMING_HEADERS[reply.framing])
    if length is not None:
        headers["Content-Length"] = str(length)
    replaced = {name.lower() for name in own}
    kept = {name: value for name, value in headers.items() if name.lower() not in replaced}
    lines = [
        f"HTTP/1.1 {reply.status} {_reason(reply.status)}",
        *(f"{name}: {value}" for name, value in {**kept, **own}.items() if value is not None),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _reason(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:  # 529 is in daily use, but is not registered
        return "Unregistered"


def chunk(data: bytes) -> bytes:
    """One HTTP chunk; b"" for no data, because a chunk of size 0 ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in pieces of `size` bytes; the last may be shorter."""
    return (data[start : start + size] for start in range(0, len(data), size))


def chunked_pieces(data: bytes, size: int) -> bytes:
    """`data` in pieces of `size` bytes, each an HTTP chunk, rendered into one string."""
    if size > 1:
        return b"".join(chunk(piece) for piece in pieces(data, size))
    # Whole recordings are replayed byte by byte: one strided copy instead of a million chunks.
    rendered = bytearray(b"1\r\n?\r\n" * len(data))
    rendered[3::6] = data
    return bytes(rendered)


# --- what was received --------------------------------------------------------------------------


class Headers(Mapping[str, str]):
    """A request's headers. Names may be in any case; repeated headers are joined with ", "."""

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._values: dict[str, str] = {}
        for name, value in fields:
            key = name.lower()
            known = self._values.get(key)
            self._values[key] = value if known is None else f"{known}, {value}"

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({self._values!r})"


@dataclass(eq=False)
class Recorded:
    """One request as the server received it, and how its reply ended.

    Times are `time.monotonic()` seconds. The server's threads set `closed_at` and `finished_at`
    once; any thread may read them (`LLMServer.wait_closed` and `wait_finished` wait for them).

    Attributes:
        method: "POST", "GET", ...
        path: the request target as it was sent, query included.
        headers: the request's headers; names in any case.
        body: the body, without the framing of chunks.
        connection: the number of the TCP connection, counted from 1 in order of acceptance.
        received_at: when the request was complete.
        closed_at: when the server noticed that the client closed (or reset) this connection,
            during this request or after it. None until then, and for ever when the server itself
            reset the connection.
        finished_at: when the reply's script had been played to its end. None until then, and for
            ever when the client closed before.
    """

    method: str
    path: str
    headers: Headers
    body: bytes
    connection: int
    received_at: float
    closed_at: float | None = None
    finished_at: float | None = None

    def json(self) -> Any:
        """The body as JSON. Raises `ValueError` for a body that is not JSON."""
        return json.loads(self.body)

    @property
    def query(self) -> dict[str, str]:
        """The path's query parameters; of a repeated one, the last value."""
        return dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))


Entry = Reply | Answer | Callable[[Recorded], Reply | Answer]


def prompt_text(recorded: Recorded) -> str:
    """The prompt's own text: the prompt when it is a string, else the last user message's text.

    It is looked for where the API of the request's path keeps it, then where any other registered
    API does. "" when there is none; raises `ValueError` for a body that is not JSON.
    """
    body = recorded.json()
    api = api_of_path(recorded.path)
    rows = sorted(ENCODINGS.values(), key=lambda row: row.api != api)
    prompt = next((body[row.prompt_field] for row in rows if row.prompt_field in body), "")
    if isinstance(prompt, str):
        return prompt
    users = [turn for turn in prompt if turn.get("role") == "user"]
    if not users:
        return ""
    return _content_text(users[-1].get("content") or users[-1].get("parts") or "")


def _content_text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
