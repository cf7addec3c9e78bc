"""Every recording, in memory: the corpus of real services and our own transcripts.

Whole, byte by byte and in random pieces they give exactly what is expected; cut at any byte they
never give an answer that is not there.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from corpus import (
    CORPUS,
    CUTTINGS,
    LARGE,
    bytewise,
    calls_of,
    own,
    params,
    recorded,
    replay,
    told,
)
from every import every

from llmstream._core.dialects import APIS
from llmstream._core.session import Session
from llmstream._core.state import State
from llmstream.errors import ServiceError, StreamTruncated
from llmstream.result import LLMStreamError

ALL = [*own(), *recorded()]
SMALL = 4_000  # bytes: above these a recording is cut at every byte only when slow tests run


def test_the_transcripts_are_there() -> None:
    """The project proves itself where the corpus is absent: it has transcripts of its own."""
    assert len(own()) >= 40
    assert all(r.path.with_suffix(".json").exists() and r.about["what"] for r in own())


def test_the_corpus_is_whole() -> None:
    """Where the corpus is there, all of it is: tests of nothing would pass."""
    if not CORPUS.exists():
        pytest.skip("no corpus")
    assert len(recorded()) == 129


# --- whole, byte by byte, in random pieces ------------------------------------------------------


@every("recording", params(ALL))
def test_it_is_reported_exactly(recording: Any) -> None:
    """In one piece a recording gives exactly the text, calls, usage and end that are expected."""
    _, session = replay((recording.data,))
    assert told(session) == recording.expect


@every("recording", params(ALL, below=LARGE))
def test_cutting_makes_no_difference(recording: Any) -> None:
    """However the bytes are cut, the typed events, their chunks and the outcome are identical."""
    check_cuttings(recording)


@pytest.mark.slow
@pytest.mark.parametrize("recording", params(ALL, at_least=LARGE))
def test_cutting_makes_no_difference_to_the_large(recording: Any) -> None:
    check_cuttings(recording)


def check_cuttings(recording: Any) -> None:
    expected_events, expected = replay((recording.data,))
    for name, cut in CUTTINGS.items():
        events, session = replay(cut(recording.data))
        assert events == expected_events, name
        assert [event.chunks for event in events] == [e.chunks for e in expected_events], name
        assert told(session) == told(expected), name


@every("recording", params(ALL))
def test_what_is_delivered_is_what_is_kept(recording: Any) -> None:
    """The chunks of a kind, joined, are the state's text of that kind; deltas stay in order."""
    events, session = replay((recording.data,))
    chunks = [chunk for event in events for chunk in event.chunks]
    for kind in ("text", "thinking", "refusal"):
        joined = "".join(chunk.text for chunk in chunks if chunk.type == kind)
        assert joined == getattr(session.state, kind)
    assert all(chunk.text for chunk in chunks)


@every("recording", params(ALL))
def test_finished_items_keep_no_deltas(recording: Any) -> None:
    """What a done event delivered whole is not kept a second time as deltas."""
    _, session = replay((recording.data,))
    for item in session.state.in_order():
        for part in item.content.values():
            assert not (part.done and part.deltas)


@every("recording", params(ALL))
def test_every_event_keeps_what_came(recording: Any) -> None:
    """Each event's own JSON is the recording's, so no field that is not declared is lost."""
    events, _ = replay((recording.data,))
    text = recording.data.decode("utf-8", "replace")
    for event in events:
        if event.type != "error":  # a gateway's may have the failure's own type in the place
            assert event.type == event.json().get("type", event.type)
        if b"\n" not in event.raw and b"\xff" not in event.raw:
            assert event.raw.decode() in text


# --- cut at every byte --------------------------------------------------------------------------


class Watch:
    """Feeds a recording byte by byte and looks at each offset what a clean end there would be.

    O(n): a session is fed once; at each offset a shallow copy of it is told of the end, which
    shares the state and changes only its own flags.
    """

    def __init__(self, recording: Any) -> None:
        self.events, full = replay((recording.data,))
        self.full = told(full)
        self.chunks_of = [event.chunks for event in self.events]
        self.session = Session(APIS[recording.api].load())
        self.delivered = 0
        self.over = False  # the terminal event, or a fatal one, is complete
        self.terminal_at: int | None = None

    def feed(self, byte: bytes, offset: int) -> None:
        for event in self.session.receive(byte):
            assert event == self.events[self.delivered]
            assert event.chunks == self.chunks_of[self.delivered]
            self.delivered += 1
            self._look()
        if self.session.error is not None or self.session.complete:
            self.terminal_at = offset if self.terminal_at is None else self.terminal_at
            self.over = True

    def _look(self) -> None:
        """What can only change with an event."""
        state = self.session.state
        for kind in ("text", "thinking", "refusal"):
            assert self.full[kind].startswith(getattr(state, kind))
        safe, _ = calls_of(self.session)
        for call in safe:
            assert {"name": call.name, "arguments": call.arguments} in self.full["tool_calls"]

    def end_here(self) -> LLMStreamError | None:
        """What a clean end at this offset is."""
        ended = copy.copy(self.session)
        ended.receive_eof()
        assert ended.ended
        assert ended.complete == self.session.complete
        assert not (ended.complete and ended.error)
        return ended.error


@every("recording", params(ALL, below=SMALL))
def test_cut_at_every_byte(recording: Any) -> None:
    """A recording cut at any byte is an error until its terminal event is complete; what came
    before is a prefix of the whole, no call is half, and half an event is none."""
    check_every_cut(recording)


@pytest.mark.slow
@pytest.mark.parametrize("recording", params(ALL, at_least=SMALL))
def test_cut_at_every_byte_of_the_large(recording: Any) -> None:
    check_every_cut(recording)


def check_every_cut(recording: Any) -> None:
    watch = Watch(recording)
    assert type(watch.end_here()) is StreamTruncated
    for offset, byte in enumerate(bytewise(recording.data), 1):
        watch.feed(byte, offset)
        error = watch.end_here()
        if not watch.over:
            assert type(error) is StreamTruncated
        elif isinstance(error, ServiceError) or error is None:
            # The service's own last word: nothing that follows changes it.
            assert type(error).__name__ == (watch.full["raises"] or "NoneType")
    assert watch.delivered == len(watch.events)
    if recording.expect["complete"]:
        # The very byte that ends the terminal event's block, and none before.
        assert watch.terminal_at is not None
        assert recording.data[watch.terminal_at - 1 : watch.terminal_at] in (b"\n", b"\r")


@every("recording", params(recorded(), at_least=SMALL))
def test_cut_around_every_event_of_the_large(recording: Any) -> None:
    """The same for the large recordings at each block's end, the byte before and the byte after."""
    watch = Watch(recording)
    start = 0
    while (end := recording.data.find(b"\n\n", start)) >= 0:
        for offset in (end + 1, end + 2, end + 3):
            piece = recording.data[start:offset]
            if piece:
                watch.feed(piece, offset)
            if not watch.over:
                assert type(watch.end_here()) is StreamTruncated
            start = offset
    watch.feed(recording.data[start:], len(recording.data))
    assert watch.delivered == len(watch.events)


@pytest.mark.parametrize("recording", params(own()))
def test_a_prefix_in_one_piece_is_the_same_prefix(recording: Any) -> None:
    """A body that ends early gives the same in one piece as byte by byte."""
    fed = Session(APIS[recording.api].load())
    others: list[Any] = []
    step = 97
    for offset in range(0, len(recording.data), step):
        events, session = replay((recording.data[:offset],))
        for byte in bytewise(recording.data[max(0, offset - step) : offset]):
            others += fed.receive(byte)
        # As in Watch; half a character that is held back is released into the state.
        other = copy.copy(fed) if fed._halves is None else copy.deepcopy(fed)
        other.receive_eof()
        assert events == others
        assert told(session) == told(other)
        assert str(session.error) == str(other.error)


# --- the other line ends, a BOM, lost event lines -----------------------------------------------

REWRITES = {
    "crlf": lambda data: data.replace(b"\n", b"\r\n"),
    "cr": lambda data: data.replace(b"\n", b"\r"),
    "bom": lambda data: b"\xef\xbb\xbf" + data,
    "extra blank lines": lambda data: data.replace(b"\n\n", b"\n\n\n"),
    "pings": lambda data: data.replace(b"\n\n", b"\n\n: ping\n\n"),
    "no event lines": lambda data: b"\n".join(
        line for line in data.split(b"\n") if not line.startswith(b"event:")
    ),
    "no space": lambda data: data.replace(b"\ndata: ", b"\ndata:"),
    "ids": lambda data: data.replace(b"\ndata: ", b"\nid: 5\ndata: "),
}


@every("rewrite", REWRITES)
def test_form_makes_no_difference(rewrite: str) -> None:
    """Other line ends, a BOM, pings, ids, lost event lines: the same events of every recording."""
    seen = 0
    for recording in [*recorded(), *(r for r in own() if r.name.startswith("tools"))]:
        if b"\r" in recording.data or recording.size > 4 * LARGE:
            continue
        expected, session = replay((recording.data,))
        events, other = replay((REWRITES[rewrite](recording.data),))
        assert events == expected, recording.name
        assert told(other) == told(session), recording.name
        seen += 1
    assert seen


# --- the short way ------------------------------------------------------------------------------

EVERYTHING = [*own(), *(r for api in ("responses", "messages", "chat") for r in recorded(api))]


def test_a_delta_like_the_last_needs_no_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recording, whole and in pieces, with the short way for deltas of text and without:
    events, chunks, and what is reported are the same; and the short way is the usual one."""
    short = 0
    append_fast = State.append_fast

    def counted(self: State, fast: Any, text: str) -> Any:
        nonlocal short
        short += 1
        return append_fast(self, fast, text)

    for recording in EVERYTHING:
        for pieces in ((recording.data,), CUTTINGS["random1"](recording.data)):
            cut = list(pieces)
            with monkeypatch.context() as patch:
                patch.setattr(State, "append_fast", counted)
                events, session = replay(cut, recording.api)
            with monkeypatch.context() as patch:
                patch.setattr(State, "open_fast_path", lambda *args: None)
                slowly, by_rules = replay(cut, recording.api)
            assert events == slowly, recording.name
            assert told(session, recording.api) == told(by_rules, recording.api), recording.name
            assert session.contents == by_rules.contents
            assert wires(session) == wires(by_rules), recording.name
    # Our own transcripts have few such deltas, the recordings thousands.
    assert short > (1000 if CORPUS.is_dir() else 100), short


def wires(session: Session) -> list[Any]:
    """The items as they would be sent back."""
    return [item.wire() for item in session.state.in_order() if item.wire is not None]


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def chunk(text: str, **fields: Any) -> bytes:
    choices = [{"index": 0, "delta": {"content": text}}]
    return event(**{"id": "c", "object": "chat.completion.chunk", "choices": choices, **fields})


def item_done(text: str) -> bytes:
    item = {"type": "message", "content": [{"type": "output_text", "text": text}]}
    return event(type="response.output_item.done", item=item)


def delta(text: str, **fields: Any) -> bytes:
    return event(type="response.output_text.delta", delta=text, **fields)


# What looks like the last delta and is not.
ALMOST = {
    "a tier is told late": ("chat", [chunk("a"), chunk("b"), chunk("c", service_tier="priority")]),
    "another model": ("chat", [chunk("a", model="m"), chunk("b", model="n"), chunk("c")]),
    "usage with text": ("chat", [chunk("a"), chunk("b", usage={"completion_tokens": 2})]),
    "no id behind a closed item": ("responses", [item_done("A"), delta("x"), delta("y")]),
    "another part": (
        "responses",
        [delta(t, output_index=0, item_id="i", content_index=n) for t, n in (("a", 0), ("b", 1))],
    ),
    "another item": (
        "responses",
        [delta(t, output_index=n, item_id=f"i{n}") for t, n in (("a", 0), ("b", 1), ("c", 0))],
    ),
    "closed between": (
        "responses",
        [
            delta("a", output_index=0, item_id="i", content_index=0),
            event(type="response.output_text.done", output_index=0, item_id="i", text="a"),
            delta("b", output_index=0, item_id="i", content_index=0),
        ],
    ),
}


@pytest.mark.parametrize("name", ALMOST)
def test_the_short_way_knows_its_limits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that look like the last delta but bring something else are met with the rules."""
    api, events = ALMOST[name]
    seen = []
    for short in (True, False):
        with monkeypatch.context() as patch:
            if not short:
                patch.setattr(State, "open_fast_path", lambda *args: None)
            found, session = replay(events, api)
        state = session.state
        items = [(item.index, item.closed) for item in state.in_order()]
        seen.append((found, items, told(session, api), state.service_tier, state.model))
    assert seen[0] == seen[1]
