"""What holds of every session, whatever the bytes are: the oracle of the fuzzer, and of the
properties in `test_properties.py`.

`check` takes a `Case` and raises AssertionError where something does not hold; any other exception
is a finding as well, since a session raises nothing.
"""

from __future__ import annotations

import json
import pickle
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from llmstream._core.dialects import APIS as ROWS
from llmstream._core.dialects.base import Dialect
from llmstream._core.dialects.profiles import PROFILES
from llmstream._core.request import encode_body
from llmstream._core.session import Session
from llmstream._core.tool_calls import partition_calls
from llmstream.errors import ServiceError, StreamTruncated
from llmstream.events.base import AnyEvent
from llmstream.result import ProtocolError, ToolCall

APIS = ("responses", "messages", "chat", "gemini")
PROFILE_NAMES = ("default", "mistral", "groq", "openrouter")
LIMITS = (1 << 20, 4096, 300, 64, 7)  # bytes of one event
KINDS = ("text", "thinking", "refusal")
OPEN_TO = (ProtocolError, StreamTruncated, ServiceError)  # how a body can fail
SECONDS = 5.0  # of CPU for one input of some kilobytes, which takes milliseconds
MESSAGE = 2000  # characters of an error's message
BYTEWISE = 1500  # bytes of an input that is fed byte by byte as well


@dataclass(frozen=True)
class Case:
    """One input. Its bytes are a header of four, which choose everything else, and the body."""

    body: bytes
    api: str = "responses"
    is_json: bool = False
    limit: int = LIMITS[0]
    seed: int = 0  # of the pieces
    choices: int = 1
    profile: str = "default"

    @classmethod
    def of(cls, data: bytes) -> Case:
        head = data[:4].ljust(4, b"\0")
        return cls(
            data[4:],
            APIS[head[0] % 4],
            head[0] // 4 % 4 == 3,
            LIMITS[head[1] % len(LIMITS)],
            head[2],
            1 + head[3] % 2,
            PROFILE_NAMES[head[3] // 2 % len(PROFILE_NAMES)],
        )

    @property
    def data(self) -> bytes:
        """The bytes that `of` takes."""
        head = (
            APIS.index(self.api) + 12 * self.is_json,
            LIMITS.index(self.limit),
            self.seed,
            self.choices - 1 + 2 * PROFILE_NAMES.index(self.profile),
        )
        return bytes(head) + self.body

    @property
    def dialect(self) -> Dialect:
        return ROWS[self.api].load().with_profile(PROFILES[self.profile])

    def pieces(self) -> Iterator[bytes]:
        """The body in random pieces."""
        rng = random.Random(self.seed)
        largest = rng.choice((3, 20, 200, 5000))
        start = 0
        while start < len(self.body):
            end = start + rng.randint(1, largest)
            yield self.body[start:end]
            start = end


# --- the standard, written down naively ---------------------------------------------------------


def read_lines(text: str) -> Iterator[str]:
    """WHATWG HTML 9.2.6: "lines are separated by CR LF, LF or CR"; the last has no end."""
    at = start = 0
    while at < len(text):
        if text[at] not in "\r\n":
            at += 1
            continue
        yield text[start:at]
        at += 2 if text[at : at + 2] == "\r\n" else 1
        start = at


def read_events(body: bytes, *, error_field: bool = False) -> Iterator[tuple[str, str]]:
    """The events of a stream as WHATWG HTML 9.2.6 has them: (name, data).

    "The stream must be decoded as UTF-8", a BOM in front is dropped, what is pending at the end is
    discarded. With `error_field` a block that begins with the field `error` is one event of that
    name, as some servers mean it; the standard ignores the field.
    """
    name, data, field_of_error = "", "", None
    first = True
    for line in read_lines(body.decode("utf-8", "replace").removeprefix("\ufeff")):
        if not line:  # "dispatch the event"
            if field_of_error is not None:
                yield "error", field_of_error
            elif data:
                yield name or "message", data.removesuffix("\n")
            name, data, field_of_error, first = "", "", None, True
            continue
        field, colon, value = line.partition(":")
        value = value.removeprefix(" ")
        if field_of_error is not None:
            field_of_error += "\n" + line
        elif error_field and first and colon and field == "error":
            field_of_error = value
        elif field == "event":
            name = value
        elif field == "data":
            data += value + "\n"
        first = False


_ENDS = {
    "responses": ("response.completed", "response.incomplete"),
    "messages": ("message_stop",),
}


def is_end(api: str, name: str, data: str) -> bool:
    """Whether an event may be the end of an answer. Generous, so that it holds however JSON with a
    field twice is read: one of the two will do."""
    if api == "chat" and data == "[DONE]":
        return True
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs.extend(found)
        return dict(found)

    try:
        json.loads(data, object_pairs_hook=keep)
    except (ValueError, RecursionError):
        return False
    if api == "chat":
        return any(key == "finish_reason" and value for key, value in pairs)
    if api == "gemini":  # it makes the end of the body a good one
        return any(key in ("finishReason", "blockReason") and value for key, value in pairs)
    ends = _ENDS[api]
    return name in ends or any(key == "type" and value in ends for key, value in pairs)


# --- one way through ----------------------------------------------------------------------------


def is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def said_by(events: Iterable[AnyEvent], session: Session, kind: str) -> str:
    """What the events bring of a kind; of several choices, by the answer's own (`Stream`)."""
    only = session.state.primary
    return "".join(
        chunk.text
        for event in events
        for chunk in event.chunks
        if chunk.type == kind and (only is None or chunk.index == only)
    )


def fed(case: Case, pieces: Iterable[bytes]) -> tuple[list[AnyEvent], Session]:
    """A session that was given all pieces and not yet told of the end."""
    session = Session(case.dialect, case.limit, case.choices)
    events: list[AnyEvent] = []
    said = dict.fromkeys(KINDS, "")
    for piece in pieces:
        ended = session.ended
        new = session.receive(piece)
        assert not (ended and new), "events behind the end"
        events += new
        held = len(session._framer._held)
        # The newline at the end of a line is not the block's.
        assert max(held, session._framer.pending) <= case.limit + 1, f"{held} bytes are held"
        assert not (session.complete and session.error), "a success and a failure"
        for kind in KINDS if new else ():
            before, said[kind] = said[kind], getattr(session.state, kind)
            assert said[kind].startswith(before), f"{kind} that was said was taken back"
            assert said[kind] == said_by(events, session, kind), f"{kind} was lost or added"
    return events, session


def calls_of(case: Case, session: Session) -> tuple[tuple[ToolCall, ...], tuple[ToolCall, ...]]:
    calls = case.dialect.calls(session.state)
    return partition_calls(calls, session.state.finish == "length", is_json)


def outcome(case: Case, events: list[AnyEvent], session: Session) -> dict[str, Any]:
    """Everything that a caller can see, after checking it."""
    state, error = session.state, session.error
    assert session.ended
    assert session.complete is (error is None), f"complete={session.complete}, {error!r}"
    assert session.events == len(events)
    if error is not None:
        assert isinstance(error, OPEN_TO), f"foreign: {error!r}"
        assert len(error.message) < MESSAGE
        error.message.encode()
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    safe, broken = calls_of(case, session)
    for call in safe:
        assert call.name, "a safe call without a name"
        call.parsed()
    turn = case.dialect.assistant_turn(state, frozenset(c.id for c in safe if c.id))
    encode_body({"input": turn}, None)
    items = [item.wire() for item in state.in_order() if item.wire is not None]
    return {
        "events": [(type(event), event.raw, event.chunks) for event in events],
        "error": None if error is None else (type(error), str(error), error.retryable),
        "said": [getattr(state, kind) for kind in KINDS],
        "calls": (safe, broken),
        "turn": repr(turn),
        "items": repr(items),
        "state": (state.finish, state.usage, state.model, state.response_id, state.status),
        "level": session.activity,
    }


def _seen(case: Case, pieces: Iterable[bytes]) -> dict[str, Any]:
    events, session = fed(case, pieces)
    events += session.receive_eof() or []  # a bare error at the very end is one
    for kind in KINDS:
        assert getattr(session.state, kind) == said_by(events, session, kind)
    return outcome(case, events, session)


def check(case: Case) -> None:
    """Raises where something does not hold."""
    began = time.thread_time()
    if case.is_json:
        _check_json(case)
    else:
        _check_stream(case)
    took = time.thread_time() - began
    assert took < SECONDS, f"{took:.1f} s of CPU for {len(case.body)} bytes"


def _check_stream(case: Case) -> None:
    whole = _seen(case, [case.body])
    assert_same(whole, _seen(case, case.pieces()), "pieces")
    if len(case.body) <= BYTEWISE:
        _check_bytewise(case, whole)
    if whole["error"] is None:
        events = read_events(case.body, error_field=True)
        ends = [name for name, data in events if is_end(case.api, name, data)]
        assert ends, "a success without an end of the answer"


def _check_bytewise(case: Case, whole: dict[str, Any]) -> None:
    """Byte by byte: the same, and only the end of a block can make an answer whole."""
    session = Session(case.dialect, case.limit, case.choices)
    events: list[AnyEvent] = []
    for at in range(len(case.body)):
        complete = session.complete
        byte = case.body[at : at + 1]
        events += session.receive(byte)
        assert session.complete <= complete or byte in (b"\r", b"\n"), "half an event is an end"
    events += session.receive_eof() or []
    assert_same(whole, outcome(case, events, session), "bytes")


def assert_same(one: dict[str, Any], other: dict[str, Any], how: str) -> None:
    for key, value in one.items():
        assert other[key] == value, f"{key} differs in {how}: {value!r:.500} / {other[key]!r:.500}"


def _check_json(case: Case) -> None:
    session = Session(case.dialect, case.limit, case.choices)
    events = session.receive_json(case.body)
    if session.error is not None and not events:  # refused: what was applied before stays unsaid
        assert isinstance(session.error, OPEN_TO)
        assert len(session.error.message) < MESSAGE
        assert session.ended
        assert not session.complete
        return
    for kind in KINDS:
        assert getattr(session.state, kind) == said_by(events, session, kind)
    outcome(case, list(events), session)
