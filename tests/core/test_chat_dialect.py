"""Chat Completions as its servers really speak it: small transcripts, written by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from corpus import is_json
from every import every
from support import AT_ONCE, ONCE, failure

from llmstream import (
    Chunk,
    Client,
    InvalidRequestError,
    OverloadedError,
    ProtocolError,
    Result,
    ServerError,
    Stream,
    StreamTruncated,
    Usage,
)
from llmstream._core.dialects import APIS
from llmstream._core.dialects.profiles import PROFILES
from llmstream._core.session import Session
from llmstream._core.tool_calls import partition_calls
from llmstream.events import ChatCompletionChunkEvent, ChatErrorEvent, UnknownEvent
from llmstream.testing import (
    Cut,
    FakeClock,
    FakeTransport,
    LLMServer,
    Pause,
    Pings,
    Reply,
    Reset,
    Silence,
)

CHAT = APIS["chat"].load()
DONE = b"data: [DONE]\n\n"
Call = tuple[Any, ...]


# ---- writing transcripts -----------------------------------------------------------------------


def data(payload: Any, event: str | None = None) -> bytes:
    head = "" if event is None else f"event: {event}\n"
    return f"{head}data: {json.dumps(payload)}\n\n".encode()


def said(content: Any = None, finish: str | None = None, *, index: int = 0, **delta: Any) -> bytes:
    """A chunk with one choice."""
    if content is not None:
        delta["content"] = content
    return data({"choices": [{"index": index, "delta": delta, "finish_reason": finish}]})


def chunk(**fields: Any) -> bytes:
    """A chunk with fields of its own."""
    return data({"id": "c", "object": "chat.completion.chunk", **fields})


def used(prompt: Any, completion: Any, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


def piece(arguments: Any = None, *, name: str | None = None, **fields: Any) -> dict[str, Any]:
    """A piece of a tool call; a field that is not given is not there."""
    function = {"name": name, "arguments": arguments}
    return {**fields, "function": {k: v for k, v in function.items() if v is not None}}


def called(*pieces: Any, finish: str | None = None) -> bytes:
    return said(finish=finish, tool_calls=list(pieces))


FINISH = said(finish="stop")
CALLED = said(finish="tool_calls")


def read(*parts: bytes, choices: int = 1, profile: str | None = None) -> tuple[Session, Result]:
    """What the session makes of a body that ends cleanly behind the parts."""
    dialect = CHAT if profile is None else CHAT.with_profile(PROFILES[profile])
    session = Session(dialect, choices=choices)
    session.receive(b"".join(parts))
    session.receive_eof()
    state = session.state
    calls, broken = partition_calls(dialect.calls(state), state.finish == "length", is_json)
    return session, Result(
        text=state.text,
        thinking=state.thinking,
        refusal=state.refusal,
        tool_calls=calls,
        incomplete_tool_calls=broken,
        finish=state.finish,
        usage=state.usage,
        items=tuple(item.wire() for item in state.in_order() if item.wire is not None),
        turn=dialect.assistant_turn(state, frozenset(call.id for call in calls if call.id)),
    )


def whole(*parts: bytes, **settings: Any) -> Result:
    """The same of what has to be a success."""
    session, result = read(*parts, **settings)
    assert session.error is None
    assert session.complete
    return result


def calls_of(result: Result) -> list[Call]:
    return [(call.id, call.name, call.arguments) for call in result.tool_calls]


def play(
    *steps: Any, client: dict[str, Any] | None = None, **call: Any
) -> tuple[Stream, FakeClock]:
    """A call that gets the steps as its answer, on a clock that only moves when it must."""
    clock = FakeClock()
    transport = FakeTransport(Reply(steps))
    settings = {"model": "m", "retry": ONCE, **(client or {})}
    made = Client("chat", base_url="http://test/v1", transport=transport, clock=clock, **settings)
    return made.stream("Hi", **call), clock


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer() as started:
        yield started


# ---- what ends an answer -----------------------------------------------------------------------


@every(
    ("parts", "finish"),
    [
        ([said("Hi"), FINISH], "stop"),
        ([said("Hi"), FINISH, DONE], "stop"),
        ([said("Hi", finish="stop")], "stop"),
        ([said("Hi"), chunk(choices=[], usage=used(1, 2)), DONE], None),
        ([said("Hi", finish=""), chunk(choices=[], usage=used(1, 2)), DONE], None),
        ([said("Hi", finish="null"), chunk(choices=[], usage=used(1, 2)), DONE], None),
        ([said("Hi"), said(finish="length")], "length"),
        ([said("Hi"), said(finish="content_filter"), DONE], "content_filter"),
        ([said("Hi"), said(finish="end_of_world"), DONE], "end_of_world"),
        ([said("Hi"), FINISH, chunk(choices=[], usage=used(1, 2)), DONE], "stop"),
    ],
)
def test_what_completes_an_answer(parts: list[bytes], finish: str | None) -> None:
    """A finish_reason, or [DONE] after the usage; without a reason the finish is None."""
    result = whole(*parts)
    assert (result.text, result.finish) == ("Hi", finish)


@every(
    "parts",
    [
        [],
        [b": ping\n\n"],
        [said("Hi")],
        [said("Hi", finish=None), chunk(choices=[], usage=used(1, 2))],
        [said("Hi", finish="")],
        [said("Hi", finish="None")],
        [said("Hi"), DONE],  # neither a finish nor the usage that was asked for
        [said("Hi", finish="null"), DONE],
        [said(reasoning_content="hm"), DONE],
        [called(piece("{}", id="c", name="f")), DONE],
        [said(content=""), DONE],
        [said(content=""), chunk(choices=[], usage=used(1, 0)), DONE],
        [said("Hi"), FINISH[:-1]],
        [said("Hi"), DONE[:-1]],
        [said("Hi"), b"data: [DONE"],
        [said("Hi"), b"data: DONE\n\n"[:0], data("[DONE]")],
        [chunk(choices=[])],
    ],
)
def test_what_does_not(parts: list[bytes]) -> None:
    """Neither came, or not the whole of it: truncated, with what came."""
    session, result = read(*parts)
    assert isinstance(session.error, StreamTruncated)
    assert not session.complete
    assert "Hi".startswith(result.text)


@every(
    "strange",
    [
        [],
        [chunk(choices=[], usage=used(1, 0))],
        [data({"detail": "upstream failed"})],
        [data({"message": "upstream failed", "code": 500})],
        [data({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}})],
        [data({"type": "response.output_text.delta", "delta": "Hi"})],
    ],
)
def test_done_alone_is_no_answer(strange: list[bytes]) -> None:
    """Not one choice came: a gateway's failure in its own words, or another API's stream. An empty
    success would be a lie."""
    session, _ = read(*strange, DONE)
    assert isinstance(session.error, (StreamTruncated, ServerError)), session.error


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("model_length", "length"), ("eos", "eos"), ("function_call", "tool_calls")],
)
def test_other_words_for_the_finish(reason: str, finish: str) -> None:
    """Mistral's word for the model's own limit is a limit; what is not known is passed on."""
    assert whole(said("Hi"), said(finish=reason), DONE).finish == finish


@pytest.mark.parametrize(
    ("behind", "framing"),
    [
        ([], "chunked"),
        ([DONE], "chunked"),
        ([Cut(last_chunk=True)], "chunked"),
        ([Cut()], "chunked"),
        ([Reset()], "chunked"),
        ([Cut()], "close"),
        ([b"data: {half", Cut()], "chunked"),
        ([b"data: {half", Reset()], "chunked"),
        ([b"\n\n: ping\n\n", Reset()], "chunked"),
    ],
)
def test_how_the_connection_ends_behind_the_finish(
    server: LLMServer, behind: list[Any], framing: Any
) -> None:
    """Over HTTP: the answer is whole, so none of these ends is an error."""
    server.script(Reply([said("Hi"), FINISH, *behind], framing=framing))
    with Client("chat", base_url=server.base_url, model="m", retry=ONCE) as client:
        stream = client.stream("Hi")
        assert (stream.result().text, stream.result().finish) == ("Hi", "stop")
        assert stream.attempts[0].phase == "done"


@pytest.mark.parametrize(
    ("behind", "seconds"),
    [
        ([Silence()], 2.0),
        ([Pause(1.0), DONE, Silence()], 1.0),
        ([Pause(1.0), chunk(choices=[], usage=used(7, 8)), Silence()], 3.0),
        ([Pings(every=0.5, count=1000), Silence()], 10.0),
        ([Pings(every=1.0, count=1000, data=chunk(choices=[])), Silence()], 10.0),
    ],
)
def test_what_may_follow_the_finish_is_not_waited_for_long(
    behind: list[Any], seconds: float
) -> None:
    """2 s without anything that belongs to the answer; pings are not that, or one would hang."""
    stream, clock = play(said("Hi"), FINISH, *behind)
    begun = clock.monotonic()
    assert stream.result().text == "Hi"
    assert clock.monotonic() - begun <= seconds


def test_usage_behind_the_finish_is_waited_for() -> None:
    """It may come late: up to the linger of the profile."""
    stream, _ = play(said("Hi"), FINISH, Pause(1.9), chunk(choices=[], usage=used(7, 8)), DONE)
    assert stream.result().usage == Usage(7, 8, 15)
    stream, _ = play(said("Hi"), FINISH, Pause(2.1), chunk(choices=[], usage=used(7, 8)), DONE)
    assert stream.result().usage == Usage()


def test_done_ends_the_reading_at_once() -> None:
    """A server that lingers behind [DONE] holds nobody up."""
    stream, clock = play(said("Hi"), FINISH, DONE, Silence())
    begun = clock.monotonic()
    assert stream.result().text == "Hi"
    assert clock.monotonic() - begun <= 0.1


def test_the_tokens_are_out_before_the_linger() -> None:
    """The reader has the last token when it came, not two seconds later."""
    stream, clock = play(said("Hi"), FINISH, Silence())
    begun = clock.monotonic()
    assert next(stream) == "Hi"
    assert clock.monotonic() == begun


@pytest.mark.parametrize(
    ("parts", "text", "finish"),
    [
        ([said("a", "stop"), said("", "stop"), DONE], "a", "stop"),
        ([said("a", "length"), said("", "length"), said("", "length")], "a", "length"),
        ([said("a", "stop"), said("b"), DONE], "ab", "stop"),
        ([said("a", "stop"), said("b", "stop")], "ab", "stop"),
        ([said("a", "stop"), said("b", "length")], "ab", "length"),
    ],
)
def test_a_finish_that_repeats_or_comes_early(parts: list[bytes], text: str, finish: str) -> None:
    """What follows a finish still belongs to the answer; the last reason counts."""
    result = whole(*parts)
    assert (result.text, result.finish) == (text, finish)
    assert result.turn == ({"role": "assistant", "content": text},)


def test_nothing_behind_done_is_read() -> None:
    """[DONE] is the end, whatever a server still sends."""
    behind = (said("b"), data({"error": {"message": "m"}}))
    assert whole(said("a"), FINISH, DONE, *behind).text == "a"
    session, result = read(said("a"), DONE, *behind)
    assert isinstance(session.error, StreamTruncated)
    assert result.text == "a"


# ---- errors ------------------------------------------------------------------------------------

BUSY = {"message": "busy", "type": "overloaded_error", "code": None}


@every(
    "broken",
    [
        data({"error": BUSY}),
        data({"error": BUSY}, "error"),
        data(BUSY, "error"),
        b"error: " + json.dumps(BUSY).encode() + b"\n\n",
        b"error: " + json.dumps({"error": BUSY}).encode() + b"\n\n",
        chunk(error=BUSY, choices=[{"index": 0, "delta": {"content": ""}}]),
        chunk(error=BUSY, choices=[{"index": 0, "delta": {}, "finish_reason": "error"}]),
        chunk(choices=[], x_groq={"error": BUSY}),
        data({"type": "error", "error": BUSY}),
        data({"object": "error", **BUSY}),
        data({**BUSY, "type": "error", "code": "overloaded"}),
    ],
    ids=lambda part: part.decode().strip()[:60],
)
@every("place", ["first", "behind content", "behind the finish"])
def test_an_error_in_each_of_its_forms(broken: bytes, place: str) -> None:
    """Under choices, beside them, as an event, as a field, flat: never a success, not even where
    [DONE] follows, or where a finish came before it."""
    before = {"first": [], "behind content": [said("Hi")]}.get(place, [said("Hi"), FINISH])
    session, result = read(*before, broken, DONE)
    assert isinstance(session.error, OverloadedError), session.error
    assert "busy" in session.error.message
    assert not session.complete
    assert result.text == ("" if place == "first" else "Hi")


@every(
    "broken",
    [
        data({"error": "boom"}),
        data({"error": {"message": "boom"}}),
        data({"error": ["boom"]}),
        data({"error": True}),
        data({"error": 5}),
        data("boom", "error"),
        data({"detail": "boom"}, "error"),
        b"event: error\ndata: boom\n\n",
        b"error: boom\n\n",
        b'error: "boom"\n\n',
    ],
)
def test_an_error_without_words_that_are_known(broken: bytes) -> None:
    """A failure of the service, whatever it is called; and no text of it is lost on the way."""
    session, _ = read(said("Hi"), broken, DONE)
    assert isinstance(session.error, ServerError), session.error


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"finish_reason": "error"}, "ServerError"),
        ({"finish_reason": "error", "error": {"code": 429, "message": "m"}}, "RateLimitError"),
        ({"finish_reason": None, "error": {"code": 502, "message": "m"}}, "ServerError"),
        ({"finish_reason": "insufficient_system_resource"}, "OverloadedError"),
    ],
)
def test_a_choice_that_failed(fields: dict[str, Any], name: str) -> None:
    """OpenRouter and Mistral end a choice with "error", with or without an error in it; DeepSeek
    says that it ran out of resources: the answer was cut, so it is no success."""
    failed = chunk(choices=[{"index": 0, "delta": {"content": "."}, **fields}])
    session, result = read(said("Hi"), failed, DONE)
    assert type(session.error).__name__ == name
    assert not session.complete
    assert result.text == "Hi."


@pytest.mark.parametrize("no_error", [None, {}, "", False, []])
def test_an_error_that_says_nothing_is_none(no_error: Any) -> None:
    """Some servers have the field in every chunk."""
    assert whole(chunk(error=no_error, choices=[]), said("Hi"), FINISH).text == "Hi"


def test_a_numeric_code_is_a_status() -> None:
    """OpenRouter writes the status of the service behind it."""
    session, _ = read(data({"error": {"code": 400, "message": "Token limit"}}))
    assert isinstance(session.error, InvalidRequestError)


def test_content_beside_an_error_is_delivered() -> None:
    """The chunk that fails may hold the last words."""
    session, result = read(chunk(error=BUSY, choices=[{"index": 0, "delta": {"content": "Hi"}}]))
    assert isinstance(session.error, OverloadedError)
    assert result.text == "Hi"


# ---- chunks of all shapes ----------------------------------------------------------------------


@every(
    "odd",
    [
        chunk(choices=[]),
        chunk(choices=None),
        chunk(),
        chunk(choices=[None]),
        chunk(choices=[{}]),
        chunk(choices=[{"index": 0}]),
        chunk(choices=[{"index": 0, "delta": None}]),
        chunk(choices=[{"index": 0, "delta": {}}]),
        chunk(choices=[{"index": None, "delta": {"content": None}}]),
        chunk(choices=[{"delta": {"content": "", "tool_calls": None, "function_call": None}}]),
        chunk(choices=[{"delta": {"tool_calls": []}}]),
        chunk(choices=[{"delta": {"tool_calls": [None]}}]),
        chunk(choices=[{"delta": {"role": None, "content": []}}]),
        chunk(choices=[], prompt_filter_results=[{"prompt_index": 0}]),
        chunk(choices=[{"index": 0, "content_filter_results": {}, "finish_reason": None}]),
        chunk(created=1.5, usage=None, model=None, id=None, service_tier=None),
        chunk(created="today", usage="much", model=5, id=[], choices=[]),
        data({"type": "ping"}),
        data({"nothing": "known"}),
        data({}),
        data([]),
        data(None),
        data(5),
        b": OPENROUTER PROCESSING\n\n",
        b"id: 5\nretry: 10\n\n",
        b"event: ping\ndata: {}\n\n",
        b"data:\n\n",
        b"data: \n\n",
    ],
    ids=lambda part: part.decode().strip()[:70],
)
def test_a_chunk_that_says_nothing_changes_nothing(odd: bytes) -> None:
    """Anywhere: first, between two tokens, behind the finish."""
    result = whole(odd, said("a"), odd, said("b"), odd, FINISH, odd, DONE)
    assert (result.text, result.finish, result.tool_calls) == ("ab", "stop", ())
    session, _ = read(odd, said("a"), odd)
    assert isinstance(session.error, StreamTruncated)


@every(
    "broken",
    [
        b"data: {half\n\n",
        b'data: {"choices": [}\n\n',
        chunk(choices="Hi"),
        chunk(choices={"delta": {"content": "Hi"}}),
        chunk(choices=["Hi"]),
        chunk(choices=[{"index": 0, "delta": "Hi"}]),
        chunk(choices=[{"index": 0, "delta": {"content": 5}}]),
        chunk(choices=[{"index": 0, "delta": {"content": {"text": "Hi"}}}]),
        chunk(choices=[{"index": 0, "delta": {"content": ["Hi"]}}]),
        chunk(choices=[{"index": 0, "delta": {"content": [{"type": "text", "text": 5}]}}]),
        chunk(choices=[{"index": 0, "delta": {"refusal": ["Hi"]}}]),
        chunk(choices=[{"index": 0, "text": "Hi", "finish_reason": None}]),
    ],
    ids=lambda part: part.decode().strip()[:70],
)
def test_text_that_cannot_be_read_does_not_vanish(broken: bytes) -> None:
    """It is a ProtocolError: leaving it out and reporting a success would be a lie."""
    session, result = read(said("a"), broken, said("b"), FINISH, DONE)
    assert isinstance(session.error, ProtocolError), (session.error, result.text)
    assert result.text == "a"


@pytest.mark.parametrize("index", [1, -1, 5, 10**30])
def test_a_lone_choice_is_the_answer_whatever_its_index(index: int) -> None:
    """One choice was asked for, one came: its text must not be nobody's."""
    parts = [
        said("Hi", index=index),
        said(index=index, tool_calls=[piece("{}", name="f", index=0, id="a")]),
        said(finish="tool_calls", index=index),
        DONE,
    ]
    result = whole(*parts)
    assert (result.text, result.finish) == ("Hi", "tool_calls")
    assert calls_of(result) == [("a", "f", "{}")]
    assert result.to_messages()[0]["content"] == "Hi"
    assert list(play(*parts)[0]) == ["Hi"]


def test_identity() -> None:
    """Id and model as the first chunk that has them says; empty ones (Azure) do not count."""
    session, _ = read(
        chunk(id="", model="", choices=[]),
        data({"id": "c1", "model": "m1", "choices": []}),
        said("Hi", "stop"),
    )
    assert (session.state.response_id, session.state.model) == ("c1", "m1")


def test_events_are_typed() -> None:
    """A chunk, an error, and what is neither, with all their fields."""
    session = Session(CHAT)
    first, ping, error = session.receive(
        chunk(choices=[], new="field") + data({"type": "ping"}) + data({"error": BUSY}, "error")
    )
    assert isinstance(first, ChatCompletionChunkEvent)
    assert first.json()["new"] == "field"
    assert isinstance(ping, UnknownEvent)
    assert (ping.type, ping.data) == ("ping", {"type": "ping"})
    assert isinstance(error, ChatErrorEvent)
    assert error.error == BUSY


# ---- usage -------------------------------------------------------------------------------------

FULL = used(
    7,
    9,
    total_tokens=16,
    prompt_tokens_details={"cached_tokens": 3},
    completion_tokens_details={"reasoning_tokens": 5},
)


@every(
    ("parts", "usage"),
    [
        ([said("a"), FINISH, chunk(choices=[], usage=FULL), DONE], Usage(7, 9, 16, 3, 5)),
        ([chunk(choices=[], usage=FULL), said("a"), FINISH], Usage(7, 9, 16, 3, 5)),
        (
            [
                chunk(choices=[], usage=used(7, 1, total_tokens=8)),
                chunk(choices=[], usage=used(7, 2, total_tokens=9)),
                FINISH,
            ],
            Usage(7, 2, 9),
        ),
        ([chunk(choices=[], usage=FULL), chunk(choices=[], usage=None), FINISH],
         Usage(7, 9, 16, 3, 5)),
        ([chunk(choices=[], usage=FULL), chunk(choices=[], usage={}), FINISH],
         Usage(7, 9, 16, 3, 5)),
        ([chunk(choices=[], usage=FULL), chunk(choices=[], usage=used(None, 10)), FINISH],
         Usage(7, 10, 17, 3, 5)),
        ([chunk(choices=[], usage=used(7, 9)), FINISH], Usage(7, 9, 16)),
        ([chunk(choices=[], usage=used(7, None)), FINISH], Usage(7, None, None)),
        ([chunk(choices=[], usage=used("7", 9.0, total_tokens=[])), FINISH], Usage(7, 9, 16)),
        ([chunk(choices=[], usage="much"), FINISH], Usage()),
        ([FINISH], Usage()),
    ],
)  # fmt: skip
def test_usage(parts: list[bytes], usage: Usage) -> None:
    """On the last chunk, on every one, behind the finish, in parts: the last value of each."""
    assert whole(*parts).usage == usage


# ---- tool calls --------------------------------------------------------------------------------

A, B = ("a", "f", '{"x":1}'), ("b", "g", "{}")


@every(
    ("parts", "expected"),
    [
        pytest.param(
            [
                called(piece("", name="f", index=0, id="a")),
                called(piece('{"x"', index=0)),
                called(piece(":1}", index=0)),
            ],
            [A],
            id="in pieces",
        ),
        pytest.param([called(piece('{"x":1}', name="f", index=0, id="a"))], [A], id="in one"),
        pytest.param(
            [
                called(
                    piece('{"x":1}', name="f", index=0, id="a"),
                    piece("{}", name="g", index=1, id="b"),
                )
            ],
            [A, B],
            id="two in one chunk",
        ),
        pytest.param(
            [
                called(piece("", name="f", index=0, id="a"), piece("", name="g", index=1, id="b")),
                called(piece("{", index=1)),
                called(piece('{"x"', index=0), piece("}", index=1)),
                called(piece(":1}", index=0)),
            ],
            [A, B],
            id="interleaved",
        ),
        pytest.param(
            [
                called(piece("", name="f", id="a")),
                called(piece('{"x"')),
                called(piece(":1}")),
                called(piece("{}", name="g", id="b")),
            ],
            [A, B],
            id="no index",
        ),
        pytest.param(
            [
                called(piece('{"x":1}', name="f", id="a"), piece("{}", name="g", id="b")),
            ],
            [A, B],
            id="no index, two in one chunk",
        ),
        pytest.param(
            [
                called(piece('{"x":1}', name="f")),
                called(piece("{}", name="g")),
            ],
            [(None, "f", '{"x":1}'), (None, "g", "{}")],
            id="no index, no id",
        ),
        pytest.param(
            [
                called(piece('{"x":', name="f", id="a")),
                called(piece("{}", name="g", id="b")),
                called(piece("1}", id="a")),
            ],
            [A, B],
            id="no index, interleaved by id",
        ),
        pytest.param(
            [
                called(piece("", name="f", index=0, id="a")),
                called(piece('{"x"', name="", index=0, id="")),
                called(piece(":1}", name=None, index=0, id=None, type=None)),
            ],
            [A],
            id="empty id and name on continuations",
        ),
        pytest.param(
            [
                called(piece("", name="f", id="a")),
                called(piece('{"x"', name="", id="")),
                called(piece(":1}", name="", id=None)),
            ],
            [A],
            id="empty id and name on continuations, no index",
        ),
        pytest.param(
            [
                called(piece("", name="f", index=0, id="a")),
                called(piece('{"x"', name="f", index=0, id="a")),
                called(piece(":1}", name="f", index=0, id="a")),
            ],
            [A],
            id="id and name repeated",
        ),
        pytest.param(
            [
                called(piece("", name="f", index=0, id="a")),
                called(piece('{"x":1}', index=0, id="other")),
            ],
            [("other", "f", '{"x":1}')],
            id="another id on a continuation",
        ),
        pytest.param(
            [
                called(piece('{"x":1}', name="f", index=0, id="a")),
                called(piece("{}", name="g", index=0, id="b")),
            ],
            [A, B],
            id="two ids on one index",
        ),
        pytest.param(
            [
                called(piece("", name="f", index=0, id="a")),
                called(piece('{"x":1}', index=0)),
                called(piece("", name="g", index=0, id="b")),
                called(piece("{}", index=0)),
            ],
            [A, B],
            id="two ids on one index, in pieces",
        ),
        pytest.param(
            [
                called(
                    piece('{"x":1}', name="f", index=0, id=""),
                    piece("{}", name="g", index=0, id=""),
                )
            ],
            [("", "f", '{"x":1}'), ("", "g", "{}")],
            id="two names on one index, empty ids",
        ),
        pytest.param(
            [
                called(piece("", index=0, id="a")),
                called(piece('{"x":1}', name="f", index=0)),
            ],
            [A],
            id="the name late",
        ),
        pytest.param(
            [
                called(piece("", name="f", index=0)),
                called(piece('{"x":1}', index=0, id="a")),
            ],
            [A],
            id="the id late",
        ),
        pytest.param(
            [
                called(piece("", name="f", id="a")),
                called(piece('{"x":1}', index=0)),
            ],
            [A],
            id="the index late",
        ),
        pytest.param(
            [called(piece({"x": 1}, name="f", index=0, id="a"))], [A], id="arguments as an object"
        ),
        pytest.param([called(piece({}, name="g", index=0, id="b"))], [B], id="an empty object"),
        pytest.param([called(piece(None, name="g", index=0, id="b"))], [B], id="no arguments"),
        pytest.param([called(piece("", name="g", index=0, id="b"))], [B], id="empty arguments"),
        pytest.param(
            [
                called(piece('{"x":1}', name="f", index=7, id="a")),
                called(piece("{}", name="g", index=-3, id="b")),
            ],
            [A, B],
            id="indices from anywhere",
        ),
        pytest.param(
            [
                called(piece('{"x":1}', name="f", index="0", id="a")),
                called(piece("{}", name="g", index="1", id="b")),
            ],
            [A, B],
            id="indices as text",
        ),
        pytest.param(
            [
                said(function_call={"name": "f", "arguments": ""}),
                said(function_call={"arguments": '{"x"'}),
                said(function_call={"arguments": ":1}"}, finish="function_call"),
            ],
            [(None, "f", '{"x":1}')],
            id="the older form",
        ),
    ],
)
def test_tool_calls(parts: list[bytes], expected: list[Call]) -> None:
    """Whatever tells the calls apart: their ids, names and exact arguments, in order."""
    result = whole(*parts, CALLED, DONE)
    calls = calls_of(result)
    assert [call[1:] for call in calls] == [call[1:] for call in expected]
    for (id, *_), (sent, *_) in zip(calls, expected, strict=True):
        assert id == sent if sent else id  # an id is made where none was sent
    assert result.incomplete_tool_calls == ()
    assert result.finish == "tool_calls"


@pytest.mark.parametrize("profile", ["mistral", "gemini"])
def test_calls_told_apart_by_id(profile: str) -> None:
    """Where a service is known to number its calls wrongly."""
    parts = [
        called(piece("", name="f", index=0, id="a"), piece("", name="g", index=0, id="b")),
        called(piece('{"x":1}', name="f", index=0, id="a")),
        called(piece("{}", name="g", index=0, id="b"), finish="tool_calls"),
    ]
    assert calls_of(whole(*parts, profile=profile)) == [A, B]


def test_a_custom_tools_call() -> None:
    """Its arguments are free text."""
    result = whole(
        called({"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": "x ="}}),
        called({"index": 0, "custom": {"input": " 1"}}),
        CALLED,
    )
    (call,) = result.tool_calls
    assert (call.id, call.name, call.arguments, call.custom) == ("a", "f", "x = 1", True)
    assert call.parsed() == "x = 1"
    (turn,) = result.to_messages()
    assert turn["tool_calls"] == [
        {"id": "a", "type": "custom", "custom": {"name": "f", "input": "x = 1"}}
    ]


@every(
    ("parts", "arguments"),
    [
        ([called(piece('{"x":', name="f", index=0, id="a"))], '{"x":'),
        ([called(piece('{"x":1}', name="f", index=0, id="a"))], '{"x":1}'),
        ([called(piece("", name="f", index=0, id="a"))], ""),
        ([called(piece('{"x":', name="f", index=0, id="a")), said(finish="length")], '{"x":'),
        ([called(piece("", name="f", index=0, id="a")), said(finish="length")], ""),
        ([called(piece('{"x":', name="f", index=0, id="a")), CALLED, DONE], '{"x":'),
        ([called(piece('{"x":', name="f", index=0, id="a")), DONE], '{"x":'),
    ],
)
def test_a_cut_call_is_not_safe(parts: list[bytes], arguments: str) -> None:
    """By the end of the body before a finish, by the limit, or by a server that says it is whole:
    it is incomplete, and in no turn."""
    _, result = read(*parts)
    assert result.tool_calls == ()
    assert [(c.name, c.arguments) for c in result.incomplete_tool_calls] == [("f", arguments)]
    assert '"f"' not in json.dumps(result.to_messages())


def test_a_call_without_a_name_is_not_safe() -> None:
    """Nobody knows what to run."""
    result = whole(called(piece("{}", index=0, id="a")), CALLED)
    assert result.tool_calls == ()
    assert len(result.incomplete_tool_calls) == 1
    assert result.to_messages() == []


def test_a_call_without_an_id_gets_one() -> None:
    """The same in the call and in the turn, so that the tool's answer can name it."""
    parts = [said("Hi", tool_calls=[piece("{}", name="f"), piece("{}", name="g")]), CALLED]
    result = whole(*parts)
    (f, g), (turn,) = result.tool_calls, result.to_messages()
    assert [(call["id"], call["function"]["name"]) for call in turn["tool_calls"]] == [
        (f.id, "f"),
        (g.id, "g"),
    ]
    assert f.id != g.id
    assert f.id is not None
    assert f.id.isalnum()
    assert len(f.id) == 9
    assert calls_of(whole(*parts)) == calls_of(result)


def test_calls_that_share_an_id_are_told_apart() -> None:
    """The second one gets an id of its own; a broken call does not get into the turn by the id of
    a whole one."""
    result = whole(
        called(piece("{}", name="f", index=0, id="a"), piece('{"x":', name="g", index=1, id="a")),
        CALLED,
    )
    assert [(c.id, c.name) for c in result.tool_calls] == [("a", "f")]
    (turn,) = result.to_messages()
    assert [call["function"]["name"] for call in turn["tool_calls"]] == ["f"]


def test_the_chunks_of_calls() -> None:
    """The arguments as they came, each piece once."""
    stream, _ = play(
        said("Hi"),
        called(piece("", name="f", index=0, id="a")),
        called(piece('{"x"', index=0)),
        called(piece(":1}", index=0)),
        CALLED,
        DONE,
    )
    assert list(stream.chunks()) == [
        Chunk("text", "Hi", 0),
        Chunk("tool_call", '{"x"', 0),
        Chunk("tool_call", ":1}", 0),
    ]


# ---- reasoning, refusals, lists ----------------------------------------------------------------

DETAILS = [{"type": "reasoning.text", "text": "Hm.", "index": 0}]


@every(
    "delta",
    [
        {"reasoning_content": "Hm."},
        {"reasoning": "Hm."},
        {"reasoning_details": DETAILS},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "Hm."}]},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "xyz"}, *DETAILS]},
        {"reasoning": "Hm.", "reasoning_details": DETAILS},
        {"reasoning": "Hm.", "reasoning_content": "Hm."},
        {"reasoning_content": "", "reasoning": "Hm."},
        {"reasoning_content": None, "reasoning": "Hm.", "reasoning_details": []},
        {"content": "", "reasoning": "Hm.", "reasoning_details": DETAILS},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]},
        {"content": [{"type": "thinking", "thinking": "Hm."}]},
    ],
    ids=str,
)
@every("profile", [None, "openrouter", "ollama"])
def test_reasoning_under_each_of_its_names(delta: dict[str, Any], profile: str | None) -> None:
    """Once, though two names may carry it."""
    content = delta.pop("content", None)
    result = whole(said(content, **delta), said("Yes."), FINISH, profile=profile)
    delta["content"] = content
    assert (result.thinking, result.text) == ("Hm.", "Yes.")


def test_a_list_of_parts() -> None:
    """Mistral: thinking and text in their order, references and unknown parts ignored."""
    stream, _ = play(
        said(
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                {"type": "text", "text": "Yes"},
                {"type": "reference", "reference_ids": [1]},
                {"type": "text", "text": "."},
            ]
        ),
        FINISH,
        DONE,
    )
    assert [(c.type, c.text) for c in stream.chunks()] == [
        ("thinking", "Hm."),
        ("text", "Yes"),
        ("text", "."),
    ]
    assert stream.result().to_messages() == [{"role": "assistant", "content": "Yes."}]


def test_a_refusal() -> None:
    """In words of its own, and in the turn."""
    result = whole(said(refusal="I"), said(refusal=" won't."), FINISH)
    assert (result.refusal, result.text) == ("I won't.", "")
    (turn,) = result.to_messages()
    assert turn["refusal"] == "I won't."


def test_a_message_beside_the_delta_is_not_said_twice() -> None:
    """Perplexity repeats the whole so far in every chunk; at the end perhaps without a delta."""
    result = whole(
        chunk(choices=[{"index": 0, "delta": {"content": "a"}, "message": {"content": "a"}}]),
        chunk(choices=[{"index": 0, "delta": {"content": "b"}, "message": {"content": "ab"}}]),
        chunk(choices=[{"index": 0, "message": {"content": "ab"}, "finish_reason": "stop"}]),
        DONE,
    )
    assert result.text == "ab"


def test_calls_of_a_message_behind_the_deltas_are_not_made_twice() -> None:
    """The same for a call: its arguments would be there twice, and no JSON any more."""
    again = {"tool_calls": [piece('{"x":1}', name="f", index=0, id="a")]}
    result = whole(
        called(piece("", name="f", index=0, id="a")),
        called(piece('{"x":1}', index=0)),
        chunk(choices=[{"index": 0, "message": again, "finish_reason": "tool_calls"}]),
        DONE,
    )
    assert calls_of(result) == [A]
    assert result.incomplete_tool_calls == ()


def test_a_whole_message_in_one_chunk_of_a_stream() -> None:
    """A server that has only the whole sends it as an event."""
    result = whole(
        chunk(choices=[{"index": 0, "message": {"content": "ab"}, "finish_reason": "stop"}]), DONE
    )
    assert result.text == "ab"


# ---- several choices ---------------------------------------------------------------------------


def test_choices_are_kept_apart() -> None:
    """n=2: each chunk has its choice's index; the stream's text is the first choice's."""
    parts = [
        said("a", index=0),
        said("x", index=1),
        said("b", index=0),
        said("y", "length", index=1),
        said("", "stop", index=0),
        DONE,
    ]
    stream, _ = play(*parts, extra_body={"n": 2})
    assert [(c.text, c.index) for c in stream.chunks()] == [
        ("a", 0),
        ("x", 1),
        ("b", 0),
        ("y", 1),
    ]
    result = stream.result()
    assert (result.text, result.finish) == ("ab", "stop")
    assert [item["content"] for item in result.items] == ["ab", "xy"]
    assert result.to_messages() == [{"role": "assistant", "content": "ab"}]
    stream, _ = play(*parts, extra_body={"n": 2})
    assert list(stream) == ["a", "b"]


def test_an_answer_of_two_is_not_whole_before_both_are() -> None:
    """One finish of two, then the end of the body: truncated."""
    parts = [said("a", index=0), said("x", index=1), said("", "stop", index=0)]
    session, _ = read(*parts, choices=2)
    assert isinstance(session.error, StreamTruncated)
    session, _ = read(said("a", "stop", index=0), choices=2)  # the second has not even begun
    assert isinstance(session.error, StreamTruncated)
    assert whole(*parts, said("", "stop", index=1), choices=2).text == "a"
    assert whole(*parts, DONE, choices=2).text == "a"


def test_the_second_choices_end_is_waited_for() -> None:
    """The first one's finish does not start the linger."""
    stream, _ = play(
        said("a", "stop", index=0),
        Pause(10.0),
        said("x", "stop", index=1),
        Silence(),
        extra_body={"n": 2},
    )
    stream.result()
    assert [item["content"] for item in stream.result().items] == ["a", "x"]


def test_calls_of_another_choice_are_not_the_answers() -> None:
    """Only the first choice's calls are the caller's to run."""
    result = whole(
        said("a", "stop", index=0),
        said(index=1, tool_calls=[piece("{}", name="f", index=0, id="a")], finish="tool_calls"),
        choices=2,
    )
    assert result.tool_calls == ()
    assert result.finish == "stop"


@pytest.mark.parametrize("begun", [(), (said("", role="assistant", index=1),)])
def test_choices_that_were_not_asked_for(begun: tuple[bytes, ...]) -> None:
    """A gateway sends two to a request for one: the first is the answer, the other has its own
    chunks and stays out of the text."""
    parts = [
        said("a", index=0),
        *begun,
        said("x", index=1),
        said("b", index=0),
        said("", "stop", index=0),
        said("y", "length", index=1),
        DONE,
    ]
    stream, _ = play(*parts)
    assert [(c.text, c.index) for c in stream.chunks()] == [("a", 0), ("x", 1), ("b", 0), ("y", 1)]
    result = stream.result()
    assert (result.text, result.finish) == ("ab", "stop")
    assert whole(*parts[:-2], DONE).text == "ab"  # LiteLLM's proxy ends the first one alone
    session, _ = read(*parts[:-1], said("z", index=3), DONE)  # whole before it came
    assert session.error is None
    session, _ = read(*parts[:3], said("z", index=3), *parts[3:])
    assert type(session.error) is ProtocolError


@pytest.mark.parametrize("index", [1, 7, -1, 1 << 80])
def test_text_of_the_first_choice_behind_another_ones(index: int) -> None:
    """The first piece of an answer whose number was garbled: half of the text is no success."""
    parts = [said("", role="assistant"), said("Let ", index=index), said("me."), FINISH, DONE]
    session, _ = read(*parts)
    assert type(session.error) is ProtocolError


# ---- stream_options ----------------------------------------------------------------------------

REFUSALS = {
    "in the message": {"message": "Unrecognized request argument: stream_options"},
    "in the param": {"message": "unknown field", "param": "stream_options"},
    "in the param of a 422": {"message": "extra fields", "param": "stream_options.include_usage"},
}


@pytest.fixture
def client(server: LLMServer) -> Iterator[Client]:
    with Client("chat", base_url=server.base_url, model="m", retry=AT_ONCE) as made:
        yield made


@pytest.mark.parametrize("why", REFUSALS)
def test_stream_options_refused_is_asked_again_without(
    server: LLMServer, client: Client, why: str
) -> None:
    """Once, at once, and as one attempt more."""
    status = 422 if "422" in why else 400
    server.script(Reply.error(status, **REFUSALS[why]), Reply([said("Hi"), FINISH, DONE]))
    begun = time.monotonic()
    result = client.stream("Hi", extra_body={"seed": 5}).result()
    assert result.text == "Hi"
    assert [attempt.status for attempt in result.attempts] == [status, 200]
    first, second = (request.json() for request in server.requests)
    assert first.pop("stream_options") == {"include_usage": True}
    assert second == first
    assert time.monotonic() - begun < 5.0


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Unrecognized request argument: seed"),
        (400, "bad request"),
        (401, "stream_options"),
        (404, "stream_options"),
    ],
)
def test_no_other_refusal_is_asked_again(
    server: LLMServer, client: Client, status: int, message: str
) -> None:
    """Only this reason, and only this status."""
    server.script(Reply.error(status, message=message))
    failure(client.stream("Hi"))
    assert len(server.requests) == 1


def test_stream_options_refused_twice_is_an_error(server: LLMServer, client: Client) -> None:
    """Without them there is nothing more to leave out."""
    refusal = Reply.error(400, message="stream_options is not supported")
    server.script(refusal, refusal)
    assert isinstance(failure(client.stream("Hi")), InvalidRequestError)
    assert len(server.requests) == 2


def test_it_costs_no_retry(server: LLMServer) -> None:
    """The attempts of the policy are for failures."""
    server.script(Reply.error(400, message="no stream_options"), Reply([said("Hi"), FINISH, DONE]))
    with Client("chat", base_url=server.base_url, model="m", retry=ONCE) as one:
        assert one.stream("Hi").result().text == "Hi"


def test_stream_options_of_the_callers_own_are_dropped_too(
    server: LLMServer, client: Client
) -> None:
    """A server that knows none refuses any."""
    server.script(Reply.error(400, message="stream_options?"), Reply([said("Hi"), FINISH, DONE]))
    client.stream("Hi", extra_body={"stream_options": {"include_usage": False}}).result()
    assert server.requests[0].json()["stream_options"] == {"include_usage": False}
    assert "stream_options" not in server.requests[1].json()


# ---- a finish that proves nothing yet ----------------------------------------------------------

HELLO, WORLD = said("Hello"), said(" world")
THOUGHT = said(reasoning_content="hm", finish="stop")
EMPTY = said(content="", finish="stop")


@every(
    "parts",
    [
        [EMPTY, HELLO, WORLD, FINISH],
        [EMPTY, HELLO, WORLD, DONE],
        [THOUGHT, THOUGHT, HELLO, WORLD, FINISH],
        [THOUGHT, HELLO, WORLD, DONE],
        [said("Hello", finish="stop"), said(" world", finish="stop")],
        [said("Hello", finish="stop"), WORLD, FINISH],
        [said("Hello", finish="stop"), WORLD, DONE],
        [said(finish="stop"), said(finish="stop"), HELLO, WORLD, FINISH, DONE],
    ],
)
def test_an_early_finish_is_not_the_end(parts: list[bytes]) -> None:
    """Some gateways send it with the first chunk, with each thought, or with each chunk."""
    result = whole(*parts)
    assert (result.text, result.finish) == ("Hello world", "stop")


@every(
    "parts",
    [
        [EMPTY, HELLO],
        [THOUGHT, HELLO],
        [THOUGHT],
        [EMPTY, said(reasoning_content="hm")],
        [said("Hello", finish="stop"), WORLD],
        [said(finish="stop"), called(piece('{"a"', id="c", name="f"))],
    ],
)
def test_an_early_finish_completes_nothing_that_follows(parts: list[bytes]) -> None:
    """Without a finish after the text, and without [DONE], the answer is cut."""
    session, result = read(*parts)
    assert isinstance(session.error, StreamTruncated)
    assert (result.finish, result.tool_calls) == (None, ())


def test_the_clocks_run_on_after_an_early_finish() -> None:
    """The session does not linger for two seconds only, and is open again after more text."""
    session = Session(CHAT)
    session.receive(EMPTY)
    assert (session.complete, session.linger) == (False, 0.0)
    session.receive(said("Hello", finish="stop"))
    assert session.complete
    assert session.linger > 0
    session.receive(WORLD)
    assert (session.complete, session.linger, session.state.finish) == (False, 0.0, None)
    session.receive(FINISH)
    assert session.complete
    assert session.state.text == "Hello world"


@pytest.mark.parametrize(
    ("parts", "finish"),
    [
        ([EMPTY], "stop"),
        ([said(reasoning_content="hm"), said(finish="length")], "length"),
        ([EMPTY, chunk(choices=[], usage=used(1, 0)), DONE], "stop"),
        ([chunk(choices=[{"index": 0, "delta": {}}], usage=used(1, 2)), DONE], None),
    ],
)
def test_an_answer_without_text_can_be_whole(parts: list[bytes], finish: str | None) -> None:
    """Where the finish was the last that arrived, or the usage of the output did."""
    result = whole(*parts)
    assert (result.text, result.finish) == ("", finish)


BROKEN_OFF = (
    "abort",
    "aborted",
    "ABORT",
    "network_error",
    "Network Error",
    "network-error",
    "networkError",
    "error",
    "cancelled",
    "canceled",
    "CANCELLED",
    "malformed_function_call",
    "MALFORMED_FUNCTION_CALL",
    "function_call_filter: MALFORMED_FUNCTION_CALL",
)


@every("word", BROKEN_OFF)
def test_an_answer_that_was_broken_off_is_an_error(word: str) -> None:
    """In any spelling, with the text so far and without a finish."""
    for parts in ([HELLO, said(finish=word), DONE], [said("Hello", finish=word)]):
        session, result = read(*parts)
        assert type(session.error) is ServerError
        assert word in str(session.error)
        assert (result.text, result.finish) == ("Hello", None)


@pytest.mark.parametrize("word", ["insufficient_system_resource", "Insufficient-System-Resource"])
def test_a_service_without_resources_is_overloaded(word: str) -> None:
    """DeepSeek's word."""
    session, _ = read(HELLO, said(finish=word))
    assert type(session.error) is OverloadedError


def test_an_error_after_a_finish_without_text() -> None:
    """The finish completes nothing, but its word is shown beside the error."""
    thought = chunk(choices=[{"index": 0, "delta": {"reasoning": "Hm."}}])
    session, result = read(thought, said(finish="length"), chunk(error={"code": 400}, choices=[]))
    assert session.error is not None
    assert result.finish == "length"


# ---- pieces in odd places ----------------------------------------------------------------------


def odd(**choice: Any) -> bytes:
    return chunk(choices=[{"index": 0, **choice}])


@every(
    "strange",
    [
        odd(delta={"content": [{"type": "text", "text": "two "}]}),
        odd(delta={"content": [{"type": "output_text", "text": "two "}]}),
        odd(delta={"content": {"type": "text", "text": "two "}}),
        odd(message={"content": "one two "}),
        chunk(choices=[{"delta": {"content": "two "}}]),
        chunk(choices=[{"index": {}, "delta": {"content": "two "}}]),
    ],
)
def test_text_in_an_odd_place_is_placed(strange: bytes) -> None:
    assert whole(said("one "), strange, said("three"), FINISH, DONE).text == "one two three"


@every(
    "strange",
    [
        odd(delta={"text": "two "}),
        odd(delta={"thinking": "two "}),
        odd(delta={"arguments": "two "}),
        odd(delta={}, text="two "),
        odd(delta=None, text="two "),
        odd(content="two "),
        odd(message={"content": "two "}),
        odd(delta={"content": [{"type": "text", "content": "two "}]}),
        chunk(choices=[{"index": 5, "delta": {"content": "two "}}]),
        chunk(delta={"content": "two "}),
        chunk(content="two "),
        data({"content": "two "}),
        data({"type": "new", "delta": "two "}),
    ],
)
def test_a_piece_that_cannot_be_placed_is_no_success(strange: bytes) -> None:
    session, result = read(said("one "), strange, said("three"), FINISH, DONE)
    assert type(session.error) is ProtocolError
    assert result.text == "one "


def test_messages_in_place_of_deltas() -> None:
    """The whole so far, each time; what may be either that or a piece again is no success."""
    grown = [odd(message={"content": text}) for text in ("one ", "one two ", "one two three")]
    assert whole(*grown, FINISH).text == "one two three"
    for texts in (("one ", "two "), ("a", "a")):
        session, _ = read(*(odd(message={"content": text}) for text in texts), FINISH)
        assert type(session.error) is ProtocolError


@every("delta", [None, {}])
@every(
    ("text", "found"),
    [
        ("one two", "one two"),
        ("one two three", "one two three"),
        (" one two\n", "one two"),
        ("", "one two"),
        (None, "one two"),
        ("two", None),
        ("one ", None),
        ("X", None),
    ],
)
@every("late", [False, True])
def test_a_whole_message_at_the_end(
    delta: Any, text: str | None, found: str | None, late: bool
) -> None:
    """Its missing end is delivered; another text is no success, also behind the finish."""
    end = odd(delta=delta, message={"content": text}, finish_reason="stop")
    session, result = read(said("one "), said("two"), *([FINISH] if late else []), end, DONE)
    if found is None:
        assert type(session.error) is ProtocolError
        assert not session.error.retryable
    else:
        assert session.error is None
    assert result.text == (found or "one two")


def whole_call(arguments: Any, name: str = "f", id: str | None = "a") -> bytes:
    message = {"tool_calls": [piece(arguments, name=name, id=id)]}
    return odd(message=message, finish_reason="tool_calls")


@pytest.mark.parametrize("id", ["a", "b", None])
def test_the_calls_of_a_whole_message(id: str | None) -> None:
    begun = called(piece("", name="f", index=0, id="a"))
    sent = [begun, called(piece('{"x":1}', index=0))]
    for same in ('{"x":1}', '{ "x" : 1 }', {"x": 1}, "", None):
        result = whole(*sent, whole_call(same, id=id))
        assert [call.arguments for call in result.tool_calls] == ['{"x":1}']
    for other in (whole_call('{"x":2}', id=id), whole_call('{"x":1}', "g", id)):
        session, result = read(*sent, other)
        assert type(session.error) is ProtocolError
        assert result.tool_calls == ()
    half = [begun, called(piece('{"x"', index=0))]
    for rest in ('{"x":1}', '{"y":1}'):  # the missing end, and arguments that lost a piece
        result = whole(*half, whole_call(rest, id=id))
        assert [call.arguments for call in result.tool_calls] == [rest]


@pytest.mark.parametrize(
    "pieces",
    [
        [{"index": 0, "id": "a", "name": "f", "arguments": '{"x":1}'}],
        [piece("", name="f", index=0, id="a"), {"index": 0, "arguments": '{"x":1}'}],
        [piece("", name="f", index=0, id="a"), piece({"x": 1}, index=0)],
    ],
)
def test_arguments_without_a_function(pieces: list[Any]) -> None:
    result = whole(*(called(one) for one in pieces), CALLED)
    assert [(call.name, call.arguments) for call in result.tool_calls] == [("f", '{"x":1}')]


@every(
    "lost",
    [
        {"index": 0},
        {"index": 0, "function": {}},
        {"index": 0, "function": {"arguments": None}},
        {"index": 0, "function": {"input": '{"x":1}'}},
        {"index": 7, "function": {"arguments": '{"x":1}'}},
        {"index": 0, "function": '{"x":1}'},
        {"index": 0, "custom": '{"x":1}'},
        {"index": 0, "function": {"arguments": ["x"]}},
        {"index": 0, "function": {"arguments": 2}},
    ],
)
def test_a_call_whose_arguments_went_missing_is_not_safe(lost: Any) -> None:
    session, result = read(called(piece("", name="f", index=0, id="a")), called(lost), CALLED)
    assert session.error is None or type(session.error) is ProtocolError
    assert result.tool_calls == ()
    assert result.incomplete_tool_calls[0].name == "f"
