"""A block's event name and data: the standard's rules, sseclient-py's, and ours are the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from corpus import ABSENT, PROPERTY, own, params, random_pieces, recorded
from every import every
from hypothesis import given
from hypothesis import strategies as st
from sseclient import SSEClient
from support import cpu_seconds

from llmstream._core import sse
from llmstream._core.framing import Framer, split_blocks
from llmstream._core.sse import parse_block

APIS = ("responses", "messages", "chat", "gemini")

Parsed = tuple[str, str] | None


def standard(block: bytes) -> Parsed:
    """WHATWG HTML 9.2.6: "process the field", line by line, then "dispatch the event"."""
    data: list[str] = []
    name = ""
    for line in block.decode("utf-8", "replace").split("\n"):
        field, colon, value = line.partition(":")
        if colon and value.startswith(" "):
            value = value[1:]
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
    return (name or "message", "\n".join(data)) if data else None


def theirs(block: bytes) -> Parsed:
    """sseclient-py, fed the block whole."""
    for event in SSEClient(iter([block + b"\n\n"])).events():
        return event.event, event.data
    return None


def ours(block: bytes) -> Parsed:
    """Our two ways as one: invalid UTF-8 is replaced when the data is decoded."""
    parsed = parse_block(block)
    return None if parsed is None else (parsed[0], parsed[1].decode("utf-8", "replace"))


def blocks_of(data: bytes) -> Iterator[bytes]:
    return iter(split_blocks(Framer(1 << 30).feed(data)))


# --- canonical forms ----------------------------------------------------------------------------

# block -> (event, data)
FORMS: dict[bytes, Parsed] = {
    b"data: x": ("message", "x"),
    b"data:x": ("message", "x"),
    b"data:  x": ("message", " x"),
    b"data:\tx": ("message", "\tx"),
    b"data: x ": ("message", "x "),
    b"data:": ("message", ""),
    b"data: ": ("message", ""),
    b"data": ("message", ""),
    b"data:a:b": ("message", "a:b"),
    b"data: a\ndata: b": ("message", "a\nb"),
    b"data\ndata": ("message", "\n"),
    b"data:a\ndata\ndata: c": ("message", "a\n\nc"),
    b"event: x\ndata: y": ("x", "y"),
    b"event:x\ndata:y": ("x", "y"),
    b"event:  x\ndata:  y": (" x", " y"),
    b"event:\ndata: y": ("message", "y"),
    b"event: \ndata: y": ("message", "y"),
    b"event\ndata: y": ("message", "y"),
    b"data: y\nevent: x": ("x", "y"),
    b"event: a\nevent: b\ndata: y": ("b", "y"),
    b"event: x\ndata: y\ndata: z": ("x", "y\nz"),
    b"event: x\n: comment\ndata: y": ("x", "y"),
    b"id: 1\nevent: x\nretry: 5\ndata: y": ("x", "y"),
    b"id: 1\ndata: y": ("message", "y"),
    b"event: x\ndata: y\nid: 1": ("x", "y"),
    b"unknown: 1\nevent: x\nother\ndata: y": ("x", "y"),
    b"event : x\ndata: y": ("message", "y"),
    b"Event: x\nData: z\ndata: y": ("message", "y"),
    b" data: x\ndata: y": ("message", "y"),
    b"database: x\ndata: y": ("message", "y"),
    b"events: x\ndata: y": ("message", "y"),
    b"event: x": None,
    b"event: x\ndatabase: y": None,
    b"id: 1": None,
    b":": None,
    b": ping": None,
    b": ping\n: pong": None,
    b": data: x": None,
    b"unknown": None,
    b"   ": None,
    b"event: data: x\ndata: y": ("data: x", "y"),
    b": ping\ndata: x": ("message", "x"),
    b"id: \0\ndata: x\0y": ("message", "x\0y"),
    "event: é\ndata: a\u2028b\u2029c\x85d\x0be\x0cf\x1cg".encode(): (
        "é",
        "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg",
    ),
    "data: a\u2028b\x85c\ndata: d\x0be\x1df".encode(): ("message", "a\u2028b\x85c\nd\x0be\x1df"),
    b"event: \xff\ndata: \xfe": ("\ufffd", "\ufffd"),
    b"data: \xc3\ndata: \xa9": ("message", "\ufffd\n\ufffd"),
    b"\xef\xbb\xbfdata: x\ndata: y": ("message", "y"),
}


@every("block", FORMS, ids=ascii)
def test_forms(block: bytes) -> None:
    """Each form of a block is read as the standard says."""
    assert standard(block) == FORMS[block], "the reference itself"
    assert ours(block) == FORMS[block]


@every("block", FORMS, ids=ascii)
def test_sseclient_agrees(block: bytes) -> None:
    """sseclient-py reads these blocks alike; it raises at bytes that are no UTF-8."""
    try:
        block.decode()
    except UnicodeDecodeError:
        block = block.decode("utf-8", "replace").encode()
    assert theirs(block) == ours(block)


# llama.cpp and GPUStack: "error" is no field of the standard, which would lose it.
BARE_ERRORS = {
    b'error: {"code":500}': ("error", '{"code":500}'),
    b'error:{"code":500}': ("error", '{"code":500}'),
    b"error: ": ("error", ""),
}


@pytest.mark.parametrize("block", BARE_ERRORS, ids=ascii)
def test_a_bare_error_field_is_an_error(block: bytes) -> None:
    """An error in a field of its own is not lost."""
    assert ours(block) == BARE_ERRORS[block]
    assert standard(block) is None


# --- the fast way equals the slow way -----------------------------------------------------------


@pytest.fixture
def slow_calls(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The blocks that went through sseclient-py."""
    calls: list[bytes] = []
    real = sse._parse_any

    def spy(block: bytes) -> tuple[str, bytes] | None:
        calls.append(block)
        return real(block)

    monkeypatch.setattr(sse, "_parse_any", spy)
    return calls


def test_the_usual_forms_take_the_fast_way(slow_calls: list[bytes]) -> None:
    """What services send is read directly: the differential test below compares two things."""
    for block in (b"data: x", b"data:x", b"event: a\ndata: x", b"event:a\ndata:x", b": ping", b":"):
        parse_block(block)
    assert slow_calls == []
    for block in (b"data: x\ndata: y", b"id: 1\ndata: x", b"event: a\n: c\ndata: x"):
        parse_block(block)
    assert len(slow_calls) == 3


@every("recording", params([*own(), *(r for api in APIS for r in recorded(api))]))
def test_recordings_are_read_alike(recording: Any) -> None:
    """Every block of every recording: our reading, sseclient-py's, and the standard's."""
    for block in blocks_of(recording.data):
        assert ours(block) == standard(block) or block.startswith(b"error:")
        clean = block.decode("utf-8", "replace").encode()
        assert theirs(clean) == ours(clean) or block.startswith(b"error:")


FIELDS = st.sampled_from(
    ["data", "event", "id", "retry", "", "dat", "data ", " data", "events", "comment", "Data"]
)
COLONS = st.sampled_from([":", ": ", ":  ", "", ":\t", "::"])
VALUES = st.one_of(
    st.sampled_from(["", "x", '{"a":1}', "[DONE]", "\ufeff", "\u2028", "\x85", "\0", "é", ": y"]),
    st.text(
        st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]),  # type: ignore[arg-type]
        max_size=6,
    ),
)
LINES = st.builds(lambda f, c, v: f + c + v, FIELDS, COLONS, VALUES).filter(bool)
BLOCKS = st.lists(LINES, min_size=1, max_size=6).map("\n".join).filter(lambda b: b[:6] != "error:")


@pytest.mark.slow
@PROPERTY
@given(BLOCKS)
def test_generated_blocks_are_read_alike(text: str) -> None:
    """Any block of any fields: our reading, sseclient-py's, and the standard's are equal."""
    block = text.encode()
    assert ours(block) == standard(block)
    assert ours(block) == theirs(block)


@PROPERTY
@given(st.binary(min_size=1, max_size=40).filter(lambda b: b"\r" not in b))
def test_bytes_are_read_alike(data: bytes) -> None:
    """Bytes of no form at all: read as the standard says, and nothing raises."""
    for block in blocks_of(data + b"\n\n"):
        if not block.startswith(b"error:"):
            assert ours(block) == standard(block)


@PROPERTY
@given(st.binary(max_size=12), st.sampled_from([b"data:", b"data: ", b"event: x\ndata: "]))
def test_the_fast_way_keeps_the_bytes(value: bytes, head: bytes) -> None:
    """The data of a one-line event is the wire's bytes themselves."""
    value = value.replace(b"\n", b"").replace(b"\r", b"")
    parsed = parse_block(head + value)
    assert parsed is not None
    expected = value[1:] if head == b"data:" and value[:1] == b" " else value
    assert parsed[1] == expected


# --- nothing leaks ------------------------------------------------------------------------------


def test_no_field_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    """Unknown fields, which may be answer text, are not what sseclient-py writes to its debug
    log, and neither is data."""
    with caplog.at_level(logging.DEBUG):
        for secret in ("unknownsecret", "data\nsecretfield: secretvalue", "x y secret"):
            parse_block(f"{secret}\nid: secretid\ndata: secretdata\nevent: e\nsecret2".encode())
        parse_block(b"plain secret text\nof two lines")
    assert "secret" not in caplog.text


def test_an_event_of_many_lines_is_linear() -> None:
    """4 MB in 40,000 data lines take milliseconds: no clock and no cancel ends a parser that is
    quadratic in the lines, as sseclient-py is (it takes 4 s here, and an hour at the cap)."""
    line = b"x" * 100
    block = b"\n".join([b"data: " + line] * 40_000)
    assert cpu_seconds(lambda: parse_block(block)) < 1.0
    parsed = parse_block(block)
    assert parsed is not None
    assert parsed[1] == b"\n".join([line] * 40_000)


# --- blocks that are all alike --------------------------------------------------------------------


def one_by_one(blocks: bytes) -> list[tuple[str, bytes]]:
    """Each block for itself: the rules that the quick way has to keep."""
    parsed = (parse_block(block) for block in split_blocks(blocks))
    return [event for event in parsed if event is not None]


LINES = st.sampled_from(
    [
        *(b"data: {}", b"data:{}", b"data:  x", b"data", b"data:", b"data: ", b"datax: 1"),
        *(b"event: a", b"event:a", b"event: ", b"event:", b"event", b"event: data: x"),
        *(
            b"dat: a",
            b"eventx: a",
            b": ping",
            b":",
            b"id: 1",
            b"retry: 2",
            b"error: bad",
            b"[DONE]",
            b"data: event: x",
            b"",
        ),
        *(b"\x00", b"data: \xff", b"event: \xff", b" data: x", b"event: " + b"long" * 40),
    ]
)


@given(st.lists(LINES, max_size=14))
@PROPERTY
def test_alike_or_not_any_lines_are_read_the_same(lines: list[bytes]) -> None:
    """Blocks of one form are read in a few steps for all of them, with the same outcome as one by
    one; whatever else there is among them."""
    blocks = b"\n".join([*lines, b"", b""])
    assert sse.parse(blocks) == one_by_one(blocks)


@every(
    "blocks",
    [
        b"event: a\ndata: 1\n\nevent: b\ndata: 2\n\n",
        b"data: 1\n\ndata: 2\n\n",
        b"event: a\ndata: 1\n\ndata: 2\n\ndata: 3\n\n",  # as many lines as if all had names
        b"data: 1\n\ndata: 2\ndata: 3\n\n\n",
        b"\nevent: a\ndata: 1\n\n\nevent: a\ndata: 2\n\n",
        b"data: 1\n\n: ping\n\n",
        b"event: a\ndata: 1\n\n: ping\nretry: 1\n\n",
        b"event: a\nevent: b\n\nevent: a\ndata: 1\n\n",
    ],
)
def test_forms_that_are_almost_alike(blocks: bytes) -> None:
    """Mixed forms, odd newlines, pings and unfinished blocks are told apart."""
    assert sse.parse(blocks) == one_by_one(blocks)


@pytest.mark.parametrize("api", APIS)
def test_the_recordings_are_read_the_same(api: str) -> None:
    """All recordings, whole and in random pieces: the quick way and the rules agree, and the quick
    way is the one that is mostly taken."""
    alike = other = 0
    for recording in [*recorded(api), *(own() if api == "responses" else ())]:
        for pieces in ([recording.data], random_pieces(1)(recording.data)):
            framer = Framer(1 << 30)
            for piece in pieces:
                blocks = framer.feed(piece)
                assert sse.parse(blocks) == (one_by_one(blocks) if blocks else [])
                if blocks and sse._parse_uniform(blocks) is not None:
                    alike += 1
                elif blocks:
                    other += 1
    if not alike + other:
        pytest.skip(ABSENT)
    assert alike > other


def test_names_that_are_made_up_fill_no_memory() -> None:
    """A server that names every event otherwise is read, and not remembered."""
    for number in range(3000):
        (event,) = sse.parse(b"event: made.up.%d\ndata: 1\n\n" % number)
        assert event == (f"made.up.{number}", b"1")
    assert len(sse._NAMES) <= sse._MAX_NAMES
