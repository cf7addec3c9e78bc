"""What the tests of the parts and of the encoders share: streams of doubles, and a strict parser of
server-sent events."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from corpus import Recording, own, recorded

from llmstream import Client, RetryPolicy, Stream
from llmstream.relay.parts import (
    CallArguments,
    CallBegin,
    CallEnd,
    End,
    Failure,
    Part,
    Refusal,
    Restart,
    Text,
    Thinking,
)
from llmstream.relay.protocols.base import Encoder
from llmstream.relay.reading import parts_of
from llmstream.testing import FakeClock, FakeTransport, Reply

APIS = ["responses", "messages", "chat", "gemini"]
ONCE = RetryPolicy(max_attempts=1)
RECORDINGS = [
    *own(),
    *recorded(),
    *(one for api in ("messages", "chat", "gemini") for one in recorded(api)),
]


# ---- streams and their parts -------------------------------------------------------------------


def stream_of(api: str, *replies: Any, clock: Any = None, **settings: Any) -> Stream:
    """A stream that plays the replies in memory; its waits take no time."""
    client = Client(
        api,
        base_url="http://test",
        model="m",
        transport=FakeTransport(*replies),
        clock=clock or FakeClock(),
        **{"retry": ONCE, **settings},
    )
    return client.stream("Hi", background=settings.get("on_disconnect") == "resume")


def stream_of_recording(recording: Recording, pieces: Iterable[bytes] | None = None) -> Stream:
    body = [recording.data] if pieces is None else list(pieces)
    return stream_of(recording.api, Reply(body, framing="close"))


def read(stream: Stream) -> list[Part]:
    return list(parts_of(stream))


def joined(parts: Iterable[Part], kind: type[Text] | type[Thinking] | type[Refusal]) -> str:
    """The text of one kind since the last restart."""
    texts: list[str] = []
    for part in parts:
        if isinstance(part, Restart):
            texts.clear()
        elif type(part) is kind:
            texts.append(part.text)
    return "".join(texts)


def of_kind(parts: Iterable[Part], *kinds: type[Any]) -> list[Any]:
    return [part for part in parts if isinstance(part, kinds)]


def check_order(parts: Sequence[Part]) -> None:
    """The grammar of parts (see `llmstream.relay.parts`)."""
    kinds = [type(part).__name__ for part in parts]
    letters = "".join(_LETTERS[kind] for kind in kinds)
    # Of a call that was not streamed, all comes at the end.
    assert re.fullmatch("B[tcaxr]*(?:(?:c?a*e)*E|F)", letters), kinds
    begun: dict[str, list[str]] = {}
    for part in parts:
        if isinstance(part, Restart):
            begun.clear()
        elif isinstance(part, CallBegin):
            assert part.id not in begun
            assert part.id
            assert part.name
            begun[part.id] = []
        elif isinstance(part, CallArguments):
            assert part.text
            begun[part.id].append(part.text)
        elif isinstance(part, CallEnd):
            sent = begun.pop(part.id)  # it has begun, and ends once
            assert part.rewritten or "".join(sent) == part.arguments
        elif isinstance(part, (Text, Thinking, Refusal)):
            assert part.text
        elif isinstance(part, (End, Failure)):
            unfinished = {call.id for call in part.incomplete_tool_calls}
            assert begun.keys() <= unfinished


_LETTERS = {
    "Begin": "B",
    "Text": "t",
    "Thinking": "t",
    "Refusal": "t",
    "CallBegin": "c",
    "CallArguments": "a",
    "CallEnd": "e",
    "Restart": "x",
    "Retry": "r",
    "End": "E",
    "Failure": "F",
}


# ---- frames ------------------------------------------------------------------------------------


def encoded(encoder: Encoder, parts: Iterable[Part]) -> list[bytes]:
    return [frame for part in parts for frame in encoder.encode(part)]


class SSE(NamedTuple):
    """One event as a client gets it."""

    name: str
    data: str
    id: str = ""


def parse_sse(body: bytes) -> list[SSE]:
    """The events of a body, by WHATWG HTML 9.2.6. Stricter in what a relay has no reason to send: a
    CR, a field that is not one of ours, data that is empty (a browser drops such an event), bytes
    after the last blank line."""
    text = body.decode("utf-8", "strict")
    assert "\r" not in text
    assert text.endswith("\n\n") or not text
    found: list[SSE] = []
    for block in text.split("\n\n")[:-1]:
        name, data, id = "message", [], ""
        for line in block.split("\n"):
            field, colon, value = line.partition(":")
            assert colon, f"a bare line: {line!r}"
            assert not value or value.startswith(" "), line
            value = value[1:]
            if not field:
                continue  # a comment
            assert field in ("event", "data", "id"), line
            if field == "data":
                data.append(value)
            elif field == "event":
                name = value
            else:
                assert "\0" not in value
                id = value
        if data:
            assert any(data), block
            found.append(SSE(name, "\n".join(data), id))
        else:
            assert name == "message", f"an event without data: {block!r}"
    return found
