"""What a Stream promises its user: when it starts, what its views give, what may be read while it
runs, and what it leaves behind (DESIGN, section 2)."""

from __future__ import annotations

import copy
import json
import pickle
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from support import (
    ANSWER,
    BLOCKS,
    DELTAS,
    ENDING,
    ONCE,
    OPENING,
    PATIENCE,
    PROMPT,
    TWO_TOKENS,
    RawServer,
    Reading,
    bounded,
    clocks,
    eventually,
    failure,
    phase_of,
    read_request,
)

from llmstream import (
    Cancelled,
    Chunk,
    Client,
    ConfigurationError,
    Event,
    EventTooLarge,
    ProtocolError,
    Result,
    RetryPolicy,
    Stream,
    StreamTruncated,
    ToolCall,
    UnknownEvent,
    Usage,
)
from llmstream.events import responses as ev
from llmstream.testing import Answer, Cut, LLMServer, Pause, Reply, Send, Silence
from llmstream.testing.answers import sse_block

TEXT = "one two three four"
TOKENS = ["one", " two", " three", " four"]

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def client(server: LLMServer, client_for: Callable[..., Client]) -> Client:
    return client_for(server, retry=ONCE, timeouts=clocks(10.0))


# ---- when it starts ----------------------------------------------------------------------------

FIRST_USES: dict[str, Callable[[Stream], Any]] = {
    "with": lambda stream: stream.__enter__(),
    "next": next,
    "result": Stream.result,
    "iter": lambda stream: next(iter(stream)),
    "chunks": lambda stream: next(stream.chunks()),
    "events": lambda stream: next(stream.events()),
}
NOT_YET: dict[str, Callable[[Stream], Any]] = {
    "made": lambda stream: None,
    "iter": iter,
    "chunks": Stream.chunks,
    "events": Stream.events,
    "repr": repr,
    "read": lambda s: (s.text, s.thinking, s.usage, s.state, s.attempts, s.request_id),
}


@pytest.mark.parametrize("use", FIRST_USES.values(), ids=FIRST_USES.keys())
def test_a_call_starts_with_its_first_use(server: LLMServer, client: Client, use: Any) -> None:
    """`with`, the first item of a view and result() start the call; making it does not."""
    stream = client.stream(PROMPT)
    assert server.connections == 0
    use(stream)
    assert len(server.requests) == 1
    stream.close()


@pytest.mark.parametrize("look", NOT_YET.values(), ids=NOT_YET.keys())
def test_looking_at_a_stream_starts_nothing(server: LLMServer, client: Client, look: Any) -> None:
    """Neither a view that was only made nor a look at its state starts a call."""
    stream = client.stream(PROMPT)
    look(stream)
    assert server.connections == 0
    assert stream.text == ""
    assert stream.attempts == ()
    assert "not started" in repr(stream)


def test_with_returns_when_the_service_has_accepted(server: LLMServer, client: Client) -> None:
    """`with` returns when the headers are there: before the first token, after a refusal."""
    server.script(Reply([Silence()]), Reply.error(400))
    with client.stream(PROMPT) as stream:
        assert stream.attempts[0].status == 200
        assert stream.text == ""
    refused = client.stream(PROMPT)
    with pytest.raises(Exception, match="400"), refused:
        pytest.fail("the block is not entered")


# ---- the three views ---------------------------------------------------------------------------


def test_the_text(server: LLMServer, client: Client) -> None:
    """Iteration gives the answer's text only, in the pieces that were sent."""
    server.script(Answer(TOKENS, thinking="hm", tool_calls=[("f", "{}")], refusal="no"))
    stream = client.stream(PROMPT)
    tokens = [*stream]
    assert tokens == TOKENS
    assert stream.text == stream.result().text == "".join(tokens) == TEXT


def test_the_chunks(server: LLMServer, client: Client) -> None:
    """chunks() gives every piece with its kind and the place of its item."""
    server.script(
        Answer(["a", "b"], thinking=["t"], refusal=["r"], tool_calls=[("f", "{}"), ("g", "[1]")])
    )
    assert [*client.stream(PROMPT).chunks()] == [
        Chunk("thinking", "t", 0),
        Chunk("text", "a", 1),
        Chunk("text", "b", 1),
        Chunk("refusal", "r", 1),
        Chunk("tool_call", "{}", 2),
        Chunk("tool_call", "[", 3),
        Chunk("tool_call", "1", 3),
        Chunk("tool_call", "]", 3),
    ]


def test_the_events(server: LLMServer, client: Client) -> None:
    """events() gives every event of the wire, typed, in order, one each."""
    server.script(ANSWER)
    events = [*client.stream(PROMPT).events()]
    assert [event.type for event in events] == [
        json.loads(block.partition(b"data: ")[2])["type"] for block in BLOCKS
    ]
    assert [event.sequence_number for event in events] == [*range(len(BLOCKS))]
    assert isinstance(events[0], ev.ResponseCreatedEvent)
    assert isinstance(events[4], ev.ResponseTextDeltaEvent)
    assert events[4].delta == "one"
    assert isinstance(events[-1], ev.ResponseCompletedEvent)
    assert "".join(c.text for event in events for c in event.chunks if c.type == "text") == TEXT


VIEWS: dict[str, Callable[[Stream], Any]] = {
    "iteration": iter,
    "chunks()": Stream.chunks,
    "events()": Stream.events,
    "next()": lambda stream: next(stream),
}


@pytest.mark.parametrize("second", VIEWS)
@pytest.mark.parametrize("first", VIEWS)
def test_one_stream_one_view(client: Client, first: str, second: str) -> None:
    """A second view is refused and says so; the first is not disturbed. Iteration and next() are
    one view, as often as they are asked for."""
    stream = client.stream(PROMPT)
    VIEWS[first](stream)
    if {first, second} <= {"iteration", "next()"}:
        VIEWS[second](stream)
        return
    with pytest.raises(ConfigurationError, match="view"):
        VIEWS[second](stream)
    assert stream.result().text == "Hello, world!"


def test_next_and_then_a_loop(server: LLMServer, client: Client) -> None:
    """next(stream) takes the first token, a loop goes on with the second."""
    server.script(ANSWER)
    stream = client.stream(PROMPT)
    assert next(stream) == "one"
    rest = []
    for token in stream:
        rest.append(token)
        if token == " two":
            rest.append(next(stream))
    assert rest == [" two", " three", " four"]
    with pytest.raises(StopIteration):
        next(stream)


def test_result_after_a_part(server: LLMServer, client: Client) -> None:
    """result() reads on from wherever the loop was left, and has the whole answer."""
    server.script(ANSWER)
    stream = client.stream(PROMPT)
    for _ in stream:
        break
    assert stream.result().text == TEXT
    assert stream.result() == stream.result()
    assert len(server.requests) == 1


def test_a_stream_ends_as_often_as_it_is_asked(server: LLMServer, client: Client) -> None:
    """After the end: no more tokens, no second call, the same result."""
    stream = client.stream(PROMPT)
    tokens = iter(stream)
    assert [*tokens] == ["Hello,", " world!"]
    assert [*tokens] == []
    with stream:
        pass
    assert stream.result().text == "Hello, world!"
    assert len(server.requests) == 1


def test_a_failure_is_told_as_often_as_it_is_asked(server: LLMServer, client: Client) -> None:
    """After an error result() raises the same error, each time: none looks like a good end."""
    server.script(Reply([*TWO_TOKENS]))
    stream = client.stream(PROMPT)
    error = failure(stream)
    assert type(error) is StreamTruncated
    for _ in range(2):
        with pytest.raises(StreamTruncated) as caught:
            stream.result()
        assert caught.value is error


def test_an_iterator_that_failed_does_not_end_well(server: LLMServer, client: Client) -> None:
    """Going on with the same iterator after an error raises it again: an empty rest would look
    like the end of the answer."""
    server.script(Reply([*TWO_TOKENS]))
    tokens = iter(client.stream(PROMPT))
    assert [next(tokens), next(tokens)] == ["one", " two"]
    for _ in range(2):
        with pytest.raises(StreamTruncated):
            next(tokens)


# ---- what may be read while it runs ------------------------------------------------------------


def test_everything_is_readable_from_another_thread(server: LLMServer, client: Client) -> None:
    """Text, thinking, usage, state and attempts show what has come, while the reader waits."""
    whole = Answer(TOKENS, thinking=["first ", "this"], response_id="resp_7", model="m-1")
    blocks = whole.blocks()
    cut = next(n for n, block in enumerate(blocks) if b'" two"' in block) + 1
    server.script(
        Reply([*blocks[:cut], Silence()], headers={"x-request-id": "req_7"}),
    )
    stream = client.stream(PROMPT, trace_id="trace-7")
    reading = Reading(stream)
    # The attempt notes them after the state has them.
    eventually(lambda: stream.text == "one two" and phase_of(stream) == "body", "two tokens")
    assert stream.thinking == "first this"
    assert stream.usage == Usage()
    assert stream.trace_id == "trace-7"
    assert stream.request_id == "req_7"
    assert stream.response_id == "resp_7"
    assert stream.state.model == "m-1"
    assert stream.state.status == "in_progress"
    thinking, message = stream.state.in_order()
    assert (thinking.type, thinking.closed) == ("reasoning", True)
    assert (message.type, message.closed) == ("message", False)
    assert [part.text for part in message.content.values()] == ["one two"]
    (attempt,) = stream.attempts
    assert (attempt.number, attempt.phase, attempt.status) == (1, "body", 200)
    assert attempt.error is None
    assert attempt.bytes > 500
    assert attempt.first_token_ms is not None
    assert "running" in repr(stream)
    stream.cancel()
    assert type(reading.ended()) is Cancelled


def test_reading_along_never_fails(server: LLMServer, client: Client) -> None:
    """Looking at a stream from other threads, all the time, disturbs nobody."""
    words = [f"{n} " for n in range(400)]
    server.script(Answer(words, tool_calls=[("f", "[1, 2, 3]")] * 5))
    stream = client.stream(PROMPT)
    over = threading.Event()

    def look(_: Stream) -> int:
        looks, seen = 0, ""
        while not over.is_set():
            now = stream.text
            assert now.startswith(seen)
            seen = now
            for item in stream.state.in_order():
                str([part.text for part in item.content.values()])
            assert len(stream.attempts) <= 1
            str((stream.usage, stream.thinking, stream.response_id, repr(stream)))
            looks += 1
        return looks

    lookers = [Reading(stream, look) for _ in range(2)]
    reading = Reading(stream)
    assert reading.ended() is None
    over.set()
    assert [looker.ended() for looker in lookers] == [None, None]
    assert stream.text == "".join(words)


# ---- two threads that pull ---------------------------------------------------------------------

PULLS: dict[str, Callable[[Stream, Any], Any]] = {
    "result": lambda stream, tokens: stream.result(),
    "the same iterator": lambda stream, tokens: next(tokens),
}


def test_a_second_reader_takes_nothing_away(server: LLMServer, client: Client) -> None:
    """A second thread that reads while a batch is being taken apart is told so, and every word
    comes to the first."""
    server.script(ANSWER)
    view: Any = client.stream(PROMPT).chunks()
    select, others = view._select, []

    def interrupted(batch: Any, pump: Any) -> Any:
        def read() -> None:
            try:
                others.append(next(view))
            except ConfigurationError as error:
                others.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        thread.join(PATIENCE)
        return select(batch, pump)

    view._select = interrupted
    assert "".join(chunk.text for chunk in view) == "one two three four"
    assert others
    assert all(isinstance(other, ConfigurationError) for other in others)


@pytest.mark.parametrize("pull", PULLS.values(), ids=PULLS.keys())
def test_two_readers_at_once(
    raw_server: Callable[..., RawServer], client_for: Callable[..., Client], pull: Any
) -> None:
    """A second thread that pulls is told so, clearly; the first one is not disturbed."""
    told = threading.Event()

    def handler(sock: socket.socket) -> None:
        read_request(sock)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        sock.sendall(head + b"".join(TWO_TOKENS))
        assert told.wait(PATIENCE)
        sock.sendall(b"".join([*DELTAS[2:], *ENDING]))

    client = client_for(raw_server(handler), retry=ONCE, timeouts=clocks(PATIENCE))
    stream = client.stream(PROMPT)
    tokens = iter(stream)
    reading = Reading(stream, lambda _: [*tokens])
    eventually(lambda: stream.text == "one two", "the first reader waits")
    second = Reading(stream, lambda _: pull(stream, tokens))
    error = second.ended()
    assert type(error) is ConfigurationError, repr(error)
    assert "another thread" in str(error)
    told.set()
    assert reading.ended() is None
    assert reading.value == TOKENS


def test_a_stream_may_change_hands(server: LLMServer, client: Client) -> None:
    """One reader at a time: which thread that is may change."""
    server.script(ANSWER)
    tokens = iter(client.stream(PROMPT))
    got = []
    for _ in range(4):
        taken = Reading(client.stream(PROMPT), lambda _: next(tokens))
        assert taken.ended() is None
        got.append(taken.value)
    assert got == TOKENS


# ---- the result --------------------------------------------------------------------------------


def test_every_field_of_a_result(server: LLMServer, client: Client) -> None:
    """A whole answer with everything in it, field by field."""
    answer = Answer(
        TOKENS,
        thinking="because",
        tool_calls=[("get_weather", '{"city":"Paris"}', "call_1"), ("now", "")],
        finish="tool_calls",
        usage=(100, 50, 25, 10),
        response_id="resp_9",
        model="m-9",
    )
    server.script(Reply(answer, headers={"x-request-id": "req_9"}))
    stream = client.stream(PROMPT, trace_id="trace-9")
    result = stream.result()
    assert isinstance(result, Result)
    assert (result.text, result.thinking, result.refusal) == (TEXT, "because", "")
    assert result.tool_calls == (
        ToolCall("call_1", "get_weather", '{"city":"Paris"}'),
        ToolCall("call_test_1", "now", "{}"),
    )
    assert result.tool_calls[0].parsed() == {"city": "Paris"}
    assert result.incomplete_tool_calls == ()
    assert result.finish == "tool_calls"
    assert result.usage == Usage(100, 50, 150, 25, 10)
    assert stream.usage == result.usage
    assert [item["type"] for item in result.items] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert result.items[2]["call_id"] == "call_1"
    assert (result.model, result.response_id) == ("m-9", "resp_9")
    assert (result.request_id, result.trace_id) == ("req_9", "trace-9")
    (attempt,) = result.attempts
    assert (attempt.number, attempt.phase, attempt.error, attempt.delay_ms) == (
        1,
        "done",
        None,
        0.0,
    )
    assert attempt.usage == result.usage
    assert attempt.request_id == "req_9"
    timings = result.timings
    assert timings.first_token_ms is not None
    assert 0 < timings.first_token_ms <= timings.total_ms
    assert timings.attempts == (attempt.started_ms,)
    assert pickle.loads(pickle.dumps(result)) == copy.deepcopy(result) == result


@pytest.mark.parametrize(
    ("answer", "finish"),
    [
        (Answer("x"), "stop"),
        (Answer("x", tool_calls=[("f", "{}")]), "tool_calls"),
        (Answer("x", finish="length"), "length"),
        (Answer("x", finish="content_filter"), "content_filter"),
        (Answer(refusal="no"), "stop"),
        (Answer(""), "stop"),
    ],
)
def test_finish(server: LLMServer, client: Client, answer: Answer, finish: str) -> None:
    """Why an answer ended, in one vocabulary."""
    server.script(answer)
    assert client.stream(PROMPT).result().finish == finish


def test_a_finish_that_is_not_known(server: LLMServer, client: Client) -> None:
    """Another reason passes through as the service wrote it."""
    details = {"reason": "max_tool_calls"}
    response = {"id": "r", "status": "incomplete", "incomplete_details": details, "output": []}
    server.script(
        Reply(
            sse_block("response.incomplete", {"type": "response.incomplete", "response": response})
        )
    )
    assert client.stream(PROMPT).result().finish == "max_tool_calls"


CALL = Answer(tool_calls=[("f", '{"a": 1}', "call_1")])


@pytest.mark.parametrize("kept", range(2, len(CALL.blocks())))
def test_a_call_is_complete_when_it_was_closed(
    server: LLMServer, client: Client, kept: int
) -> None:
    """A tool call is safe to run once the service has closed it, not before; cut at every event."""
    blocks = CALL.blocks()
    server.script(Reply(blocks[:kept]))
    partial = failure(client.stream(PROMPT)).partial
    closed = any(b"output_item.done" in block for block in blocks[:kept])
    announced = any(b"output_item.added" in block for block in blocks[:kept])
    assert len(partial.tool_calls) == closed
    assert len(partial.incomplete_tool_calls) == (announced and not closed)
    if announced and not closed:
        call = partial.incomplete_tool_calls[0]
        assert (call.id, call.name) == ("call_1", "f")
        assert '{"a": 1}'.startswith(call.arguments)


def test_a_closed_call_that_does_not_parse(server: LLMServer, client: Client) -> None:
    """A call whose arguments are no JSON is not safe to run, though the service closed it."""
    server.script(Answer(tool_calls=[("f", '{"a": '), ("g", "{}")], finish="tool_calls"))
    result = client.stream(PROMPT).result()
    assert [call.name for call in result.tool_calls] == ["g"]
    (broken,) = result.incomplete_tool_calls
    assert broken.arguments == '{"a": '
    with pytest.raises(ProtocolError):
        broken.parsed()


def test_a_call_in_an_answer_cut_by_length(server: LLMServer, client: Client) -> None:
    """A call that never got arguments in an answer cut by its limit is not run with none."""
    server.script(Answer(tool_calls=[("f", "")], finish="length"))
    result = client.stream(PROMPT).result()
    assert result.finish == "length"
    assert result.tool_calls == ()
    assert [call.name for call in result.incomplete_tool_calls] == ["f"]


@pytest.mark.parametrize("kept", range(1, len(BLOCKS)))
@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
def test_success_only_on_the_terminal_event(
    server: LLMServer, client: Client, kept: int, framing: str
) -> None:
    """Cut between any two events, ended as cleanly as HTTP can: never a success."""
    server.script(Reply(BLOCKS[:kept], framing=framing))
    stream = client.stream(PROMPT)
    reading = bounded(stream)
    assert type(reading.error) is StreamTruncated
    assert TEXT.startswith("".join(reading.tokens))
    assert stream.text == "".join(reading.tokens)
    assert reading.error.partial.finish is None
    assert "do not treat it as complete" in str(reading.error)


# ---- events: nothing lost, nothing of the wrong class ------------------------------------------


def with_extras() -> list[bytes]:
    delta = {
        "type": "response.output_text.delta",
        "item_id": "msg_test_0",
        "output_index": 0,
        "content_index": 0,
        "delta": "one",
        "obfuscation": "xyz",
        "new_field": {"deep": [1, None, "ü"]},
    }
    return [*OPENING, sse_block("response.output_text.delta", delta), ENDING[-1]]


def test_unknown_fields_are_kept(server: LLMServer, client: Client) -> None:
    """What this version does not know of an event is in raw and json()."""
    server.script(Reply(with_extras()))
    events = [*client.stream(PROMPT).events()]
    delta = events[len(OPENING)]
    assert isinstance(delta, Event)
    assert delta.json()["new_field"] == {"deep": [1, None, "ü"]}
    assert delta.json()["obfuscation"] == "xyz"
    assert [event.raw for event in events] == [
        block.partition(b"data: ")[2].rstrip(b"\n") for block in with_extras()
    ]


def test_unknown_events_are_kept(server: LLMServer, client: Client) -> None:
    """An event of an unknown type is an UnknownEvent with all its data, wherever it comes."""
    payload = {"type": "response.hologram.delta", "delta": "not text", "sequence_number": 99}
    strange = sse_block("response.hologram.delta", payload)
    nameless = sse_block(None, {"hello": 1})
    no_json_object = sse_block("weird", "[1,2]")
    server.script(Reply([*TWO_TOKENS, strange, nameless, no_json_object, *DELTAS[2:], *ENDING]))
    stream = client.stream(PROMPT)
    events = [*stream.events()]
    first, second, third = (event for event in events if isinstance(event, UnknownEvent))
    assert (first.type, first.data, first.sequence_number) == (payload["type"], payload, 99)
    assert first.json() == payload
    assert first.chunks == ()
    assert second.data == {"hello": 1}
    assert (third.type, third.data) == ("weird", [1, 2])
    assert stream.result().text == TEXT


def test_the_json_decides_the_type(server: LLMServer, client: Client) -> None:
    """A missing or wrong event line changes nothing."""
    payloads = [json.loads(block.partition(b"data: ")[2]) for block in BLOCKS]
    lines = [
        sse_block([None, "message", "ping"][n % 3], payload) for n, payload in enumerate(payloads)
    ]
    server.script(Reply(lines))
    stream = client.stream(PROMPT)
    assert not any(isinstance(event, UnknownEvent) for event in stream.events())
    assert stream.result().text == TEXT


WRONG_TYPES = {
    "a number as text": {"sequence_number": "7"},
    "text as a number": {"output_index": "0"},
    "null for a list": {"logprobs": None},
    "an object for a list": {"logprobs": {}},
    "a list for text": {"item_id": ["msg_test_0"]},
    "a float": {"content_index": 0.0},
}


@pytest.mark.parametrize("wrong", WRONG_TYPES.values(), ids=WRONG_TYPES.keys())
def test_wrong_types_do_not_end_a_stream(
    server: LLMServer, client: Client, wrong: dict[str, Any]
) -> None:
    """A field of a type that the reference does not say is left out, the event is not."""
    said = {"item_id": "msg_test_0", "output_index": 0, "content_index": 0, "delta": "one"}
    delta = {"type": "response.output_text.delta", **said, **wrong}
    server.script(Reply([*OPENING, sse_block(None, delta), *DELTAS[1:], *ENDING]))
    stream = client.stream(PROMPT)
    events = [*stream.events()]
    assert type(events[len(OPENING)]) is ev.ResponseTextDeltaEvent
    assert events[len(OPENING)].json() == delta
    assert stream.result().text == TEXT


def test_text_that_is_none_is_an_error(server: LLMServer, client: Client) -> None:
    """Answer text that cannot be read does not vanish."""
    delta = {"type": "response.output_text.delta", "output_index": 0, "delta": ["one"]}
    server.script(Reply([*OPENING, sse_block(None, delta), *ENDING]))
    assert type(failure(client.stream(PROMPT))) is ProtocolError


def test_an_event_that_is_too_large(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """max_event_bytes bounds what one event may hold; what came before is delivered."""
    server.script(Reply([*TWO_TOKENS, b"data: " + b"x" * 300_000, Silence()]))
    client = client_for(server, retry=ONCE, max_event_bytes=100_000, timeouts=clocks(10.0))
    stream = client.stream(PROMPT)
    reading = bounded(stream)
    assert type(reading.error) is EventTooLarge
    assert reading.tokens == ["one", " two"]
    server.wait_closed(0)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_pieces_of_any_size(server: LLMServer, client: Client, size: int) -> None:
    """The same answer, however TCP and HTTP cut it."""
    whole = b"".join(Answer("naïve \U0001f600 text", thinking="hm").blocks())
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    server.script(Reply([Send(piece) for piece in pieces]))
    result = client.stream(PROMPT).result()
    assert (result.text, result.thinking) == ("naïve \U0001f600 text", "hm")


# ---- secrets -----------------------------------------------------------------------------------


def test_nothing_shows_the_key_or_the_prompt(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Neither repr, nor errors, nor pickles, nor attributes hold the key or the prompt."""
    server.default = Reply([*TWO_TOKENS])
    client = client_for(server, api_key="marked-key", headers={"x-secret": "marked-header"})
    stream = client.stream("marked-prompt", instructions="marked-instructions")
    error = failure(stream, Stream.result)
    shown = [repr(client), str(client), repr(stream), str(error), repr(error), repr(vars(error))]
    shown += [repr(error.attempts), repr(error.partial), repr(stream.attempts)]
    shown += [repr(vars(part)) for part in (client, stream) if hasattr(part, "__dict__")]
    shown.append(repr(pickle.dumps(error)))
    found = [text for text in shown if "marked-key" in text]
    assert found == []
    told = [text for text in shown[:9] + shown[-1:] if "marked-" in text]
    assert told == []


SHOWN = {
    "a status": (Reply.error(400),),
    "a second status": (Reply.error(500), Reply.error(401)),
    "a cut": (Reply([*TWO_TOKENS]),),
    "no answer": (Reply(before=[Cut()]),),
    "no HTTP": (Reply.raw(b"SSH-2.0\r\n"),),
    "a page": (Reply.html(),),
    "a clock": (Reply([Silence()]),),
}


@pytest.mark.parametrize("replies", SHOWN.values(), ids=SHOWN.keys())
def test_no_traceback_shows_the_key_or_the_prompt(
    server: LLMServer, client_for: Callable[..., Client], replies: tuple[Reply, ...]
) -> None:
    """Error reporters (Sentry, Django's page, rich) show the local variables of every frame: none
    of ours holds the key or the prompt in sight."""
    server.script(*replies)
    client = client_for(
        server,
        api_key="marked-key",
        retry=RetryPolicy(max_attempts=len(replies), base=0.0, cap=0.0),
        timeouts=clocks(10.0, first_token=0.2),
    )
    stream = client.stream("marked-prompt")
    error = failure(stream, lambda stream: _read_in_a_frame_of_its_own(stream))
    chain: list[BaseException | None] = [error, *(a.error for a in error.attempts)]
    seen = 0
    while chain:
        link = chain.pop()
        if link is None or seen > 50:
            continue
        chain += [link.__cause__, link.__context__]
        seen += 1
        for frame, _ in traceback.walk_tb(link.__traceback__):
            if "llmstream" in frame.f_code.co_filename:
                shown = repr({name: repr(value) for name, value in frame.f_locals.items()})
                assert "marked-key" not in shown, frame
                assert "marked-prompt" not in shown, frame


def _read_in_a_frame_of_its_own(stream: Stream) -> Any:
    return stream.result()


def test_a_url_with_a_password_is_not_shown(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """A base_url with user and password in it does not show them, nor replace the key."""
    base_url = server.base_url.replace("://", "://user:marked-password@")
    try:
        client = client_for(None, base_url=base_url, retry=ONCE)
    except ConfigurationError as exc:
        assert "marked-password" not in str(exc)  # noqa: PT017 (refusing it is fine, too)
        return
    assert "marked-password" not in repr(client)
    client.stream(PROMPT).result()
    assert server.requests[0].headers["authorization"] == "Bearer test-key"


def test_the_bound_of_a_test() -> None:
    """Waits in these tests are bounded well within pytest's own timeout."""
    assert PATIENCE < 60
    assert Pause(0.0).seconds == 0.0
