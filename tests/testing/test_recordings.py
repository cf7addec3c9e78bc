"""Conversations that are recorded, and what they are when they are played back."""

from __future__ import annotations

import gc
import gzip
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from every import every
from support import Reading, in_threads

from llmstream import (
    Client,
    ConfigurationError,
    IdleTimeout,
    LLMStreamError,
    RetryPolicy,
    StreamInterrupted,
    Timeouts,
)
from llmstream.testing import (
    Answer,
    Cut,
    Drip,
    FakeClock,
    FakeTransport,
    LLMServer,
    Pause,
    Pings,
    Reply,
    Reset,
    ScaledClock,
    Send,
    Silence,
    record,
    recording,
    replay,
)

TRANSCRIPTS = Path(__file__).resolve().parents[1] / "transcripts"
APIS = ("responses", "messages", "chat", "gemini")
ONCE = RetryPolicy(max_attempts=1)
FULL = Answer(
    "Grüße, naïve 😀 world",
    thinking="hm",
    tool_calls=[("weather", '{"city": "Zürich"}')],
    usage=(20, 9),
)


def halves(api: str) -> tuple[list[bytes], list[bytes]]:
    blocks = Answer("one two three").blocks(api)
    return blocks[: len(blocks) // 2], blocks[len(blocks) // 2 :]


# name -> the reply for an API: whatever can happen to a response
def replies(api: str) -> dict[str, Reply]:
    begin, rest = halves(api)
    whole = b"".join(FULL.blocks(api))
    return {
        "whole": Reply(FULL, delay=1.5),
        "slow": Reply([*begin, Pause(2.5), *rest]),
        "in small pieces": Reply([Drip(whole, every=0.01, size=11)]),
        "cut": Reply([*begin, Cut()]),
        "truncated": Reply([*begin, Cut(last_chunk=True)]),
        "reset": Reply([*begin, Reset()]),
        "refused": Reply(before=[Reset()]),
        "401": Reply.error(401),
        "429": Reply.error(429, headers={"retry-after": "3"}),
        "500": Reply.error(500),
        "a page": Reply.html("<h1>Bad gateway</h1>", status=502),
        "not a stream": Reply.html("<h1>Log in</h1>"),
        "no head": Reply(before=[Silence()]),
        "idle": Reply([*begin, Silence()]),
        "pings": Reply([*begin, Pings(20)]),
        "rubbish": Reply([b"\xff\xfe\x00\x01" * 20]),
    }


def outcome(
    client: Client, clock: FakeClock | ScaledClock | None = None, prompt: Any = "Hi", **options: Any
) -> dict[str, Any]:
    """All that a caller sees of a call, without its ids."""
    begun = clock.monotonic() if clock is not None else 0.0
    stream = client.stream(prompt, model="m", **options)
    chunks: list[Any] = []
    try:
        chunks = [*stream.chunks()]
        result, error = stream.result(), None
    except LLMStreamError as exc:
        result, error = exc.partial, exc
    return {
        "chunks": [*map(str, chunks)],
        "text": result.text,
        "thinking": result.thinking,
        "calls": result.tool_calls,
        "usage": result.usage,
        "finish": result.finish,
        "items": result.items,
        "error": (type(error), _words(error), error and error.retryable),
        "cause": repr(error.__cause__) if error is not None else None,
        "attempts": [(a.status, a.phase, a.chunks, _words(a.error)) for a in result.attempts],
        "seconds": clock.monotonic() - begun if clock is not None else 0.0,
    }


def _words(error: LLMStreamError | None) -> str:
    """A message without how long ago the last byte came: that is of the replay."""
    return re.sub(r" (last [^:]+|nothing [^:]+):", " ...:", str(error))


def kept(path: Path, api: str, *scripted: Any, **options: Any) -> dict[str, Any]:
    """Record one call against a double, and return what its caller has seen."""
    clock = FakeClock()
    double = FakeTransport(*scripted)
    with record(path, transport=double) as transport:
        return outcome(bench(api, transport, clock), clock, **options)


def bench(api: str, transport: Any, clock: Any = None, **settings: Any) -> Client:
    settings = {"retry": ONCE, "api_key": "a-key-of-the-test", **settings}
    return Client(api, base_url="http://test/v1", transport=transport, clock=clock, **settings)


@pytest.mark.slow
@every("api", APIS)
@every("name", replies("responses"))
def test_a_replay_is_what_was_recorded(tmp_path_factory: Any, api: str, name: str) -> None:
    """Text, chunks, calls, usage, the error with its words, the attempts; and in the same time,
    where that is asked for, or in none."""
    path = tmp_path_factory.mktemp("recordings") / "one.json"
    seen = kept(path, api, replies(api)[name])
    for timing, factor in ((True, 1.0), (False, 0.0), (0.5, 0.5)):
        clock = FakeClock()
        with replay(path, timing=timing) as transport:
            again = outcome(bench(api, transport, clock), clock)
        lasted, seconds = seen["seconds"], again["seconds"]
        assert {**again, "seconds": lasted} == seen
        assert seconds == pytest.approx(lasted * factor, abs=0.01), (timing, seconds)
        assert transport.unplayed == 0


@pytest.mark.slow
@every("path", lambda: sorted(TRANSCRIPTS.glob("*.sse")))
def test_odd_streams(tmp_path_factory: Any, path: Path) -> None:
    """The project's own transcripts: odd line ends, bytes that are no text, errors, cut calls."""
    file = tmp_path_factory.mktemp("recordings") / "a.json"
    seen = kept(file, "responses", Reply([Drip(path.read_bytes(), size=97)]))
    clock = FakeClock()
    with replay(file) as transport:
        assert outcome(bench("responses", transport, clock), clock) == seen


def test_the_bytes_are_those_that_came(tmp_path: Path) -> None:
    """In the same pieces, also where a character was cut in two."""
    data = b"".join(FULL.blocks("chat"))
    kept(tmp_path / "a.json", "chat", Reply([Drip(data, every=0.002, size=7)]))
    (exchange,) = json.loads((tmp_path / "a.json").read_text("utf-8"))["exchanges"]
    pieces = exchange["answer"]["body"]
    assert [round(at / 0.002) for at, _ in pieces] == [*range(1, len(pieces) + 1)]
    joined = "".join(text for _, text in pieces).encode("utf-8", "surrogateescape")
    assert data.startswith(joined)
    assert len(data) - len(joined) < 40  # what follows the end of the answer is not read


def test_a_file_is_text_for_people(tmp_path: Path) -> None:
    """Fields in lines of their own, no control characters, and the same again for the same."""
    for name in ("a.json", "b.json"):
        kept(tmp_path / name, "messages", Answer("Grüße \x1b[31m\u202e"), prompt="Grüße?")
    text = (tmp_path / "a.json").read_text("utf-8")
    assert text == (tmp_path / "b.json").read_text("utf-8")
    assert '\n     "model": "m",\n' in text
    assert '"content": "Grüße?"' in text
    assert "Grüße" in text[text.index('"answer"') :]
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "traceparent" not in text
    assert json.loads(text)["llmstream_recording"] == 1


def test_answers_come_in_their_order_and_once(tmp_path: Path) -> None:
    """The same request three times, and another in between; one more says what is missing."""
    double = FakeTransport(*map(Answer, ("first", "other", "second", "third")))
    with record(tmp_path / "a.json", transport=double) as transport:
        client = bench("chat", transport)
        for prompt in ("a", "b", "a", "a"):
            client.stream(prompt, model="m").result()
    with replay(tmp_path / "a.json") as transport:
        client = bench("chat", transport)
        texts = [client.stream(p, model="m").result().text for p in ("a", "a", "b", "a")]
        assert texts == ["first", "second", "other", "third"]
        with pytest.raises(ConfigurationError, match="its 3 answers have been played") as caught:
            client.stream("a", model="m").result()
        assert "repeat=True" in str(caught.value)
        assert not caught.value.retryable
        transport.discard()
    with replay(tmp_path / "a.json", repeat=True) as transport:
        client = bench("chat", transport)
        texts = [client.stream("a", model="m").result().text for _ in range(5)]
        assert texts == ["first", "second", "third", "third", "third"]
        assert transport.unplayed == 1


def test_parallel_calls_each_get_their_answer(tmp_path: Path) -> None:
    """From threads, in recording and in replay."""
    with LLMServer() as server:
        server.default = server.echo
        with record(tmp_path / "a.json") as transport:
            client = Client(base_url=server.base_url, transport=transport)
            with client:
                texts = [o.text for o in client.parallel([f"word {n}" for n in range(24)])]
        assert sorted(texts) == sorted(f"word {n}" for n in range(24))
        url = server.base_url
    with replay(tmp_path / "a.json") as transport, Client(base_url=url, transport=transport) as c:
        found: dict[int, str] = {}

        def ask(number: int) -> None:
            found[number] = c.stream(f"word {number}").result().text

        assert in_threads(24, ask) == []
        assert found == {number: f"word {number}" for number in range(24)}
        assert transport.unplayed == 0


def test_the_order_of_fields_does_not_count(tmp_path: Path) -> None:
    """Nor does the key of the request, or its headers."""
    body = {"metadata": {"a": 1, "b": [1, {"x": 1, "y": 2}]}}
    turned = {"metadata": {"b": [1, {"y": 2, "x": 1}], "a": 1}}
    kept(tmp_path / "a.json", "chat", Answer("yes"), extra_body=body)
    with replay(tmp_path / "a.json") as transport:
        client = bench("chat", transport, api_key="another-key", headers={"x-more": "1"})
        assert outcome(client, extra_body=turned)["text"] == "yes"


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "prompt": ({"prompt": "Secret words of mine"}, r"body\.messages\[0\]\.content \(recorded 2 "),
    "number": ({"temperature": 0.5}, r"body\.temperature \(not in the recording\)"),
    "turns": (
        {"prompt": [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Ho"}]},
        r"body\.messages\[1\] \(not in the recording\)",
    ),
    "extra": ({"extra_body": {"n": True}}, r"body\.n "),
    "model": ({"extra_body": {"model": "m2"}}, r"body\.model \(recorded 'm', now 'm2'\)"),
}


@every("name", DIFFERENT)
def test_a_request_that_is_not_there_says_what_differs(tmp_path_factory: Any, name: str) -> None:
    """With the place in the body, without the words of a prompt; and it is no other answer."""
    path = tmp_path_factory.mktemp("recordings") / "a.json"
    kept(path, "chat", Answer("yes"))
    options, words = DIFFERENT[name]
    transport = replay(path)
    kind, message, retryable = outcome(bench("chat", transport), **options)["error"]
    assert kind is ConfigurationError
    assert re.search(words, message), message
    assert not retryable
    assert "Secret" not in message
    assert "the nearest one, number 1 of 1" in message
    assert len(transport.misses) == 1
    with pytest.raises(AssertionError, match=words), transport:
        pass  # code that has swallowed the error


def test_a_model_in_the_address(tmp_path: Path) -> None:
    """As in Gemini, where a key may be there too: it is not in the file, and does not count."""
    path, ways = tmp_path / "a.json", ("AIzaSyOneKeyOfMany", "AIzaSyAnotherKey")
    bases = [f"http://test/v1beta?key={key}" for key in ways]
    with record(path, transport=FakeTransport(Answer("yes"))) as transport:
        client = Client("gemini", base_url=bases[0], transport=transport, api_key=ways[0])
        assert client.stream("Hi", model="m").result().text == "yes"
    assert "AIza" not in path.read_text()
    with replay(path) as transport:
        client = Client("gemini", base_url=bases[1], transport=transport, api_key=ways[1])
        assert client.stream("Hi", model="models/m").result().text == "yes"
    transport = replay(path)
    with pytest.raises(ConfigurationError, match=r"differs in url .*models/m:.*models/m2:"):
        Client("gemini", base_url=bases[1], transport=transport).stream("Hi", model="m2").result()
    assert transport.unplayed == 1


def test_what_may_differ_is_left_out(tmp_path: Path) -> None:
    """By its path, with * for any step; or the host and port of the address."""
    kept(tmp_path / "a.json", "chat", Answer("yes"), extra_body={"metadata": {"run": 1, "x": 2}})
    other = {"prompt": "Ho", "extra_body": {"metadata": {"run": 2, "x": 2}}}
    for ignore in (["metadata.run", "messages.0.content"], ["*.run", "messages.*.content"]):
        with replay(tmp_path / "a.json", ignore=ignore) as transport:
            assert outcome(bench("chat", transport), **other)["text"] == "yes"
    with replay(tmp_path / "a.json", match_on=["method", "path"]) as transport:
        client = Client("chat", base_url="https://elsewhere:444/v1", transport=transport)
        assert client.stream("Ho", model="m").result().text == "yes"


def test_the_same_retries(tmp_path: Path) -> None:
    """A 429 and a lost connection before the answer are in the recording, and are retried again."""
    policy = RetryPolicy(max_attempts=4)
    script = (Reply.error(429, headers={"retry-after": "20"}), Reply(before=[Reset()]), FULL)
    seen = kept(tmp_path / "a.json", "messages", *script, retry=policy)
    assert len(seen["attempts"]) == 3
    clock = FakeClock()
    with replay(tmp_path / "a.json") as transport:
        again = outcome(bench("messages", transport, clock), clock, retry=policy)
    assert {**again, "seconds": 0} == {**seen, "seconds": 0}
    assert clock.slept[0] >= 20


def test_a_real_service_with_real_faults(tmp_path: Path) -> None:
    """Over sockets: a reset, a cut, a clock, and an encoding that nobody asked for."""
    begin, _ = halves("responses")
    packed = gzip.compress(b"".join(FULL.blocks("responses")))
    clocks = [Timeouts(idle=seconds) for seconds in (60, 60, 0.1, 60)]  # one of them breaks
    with LLMServer() as server:
        server.script(
            Reply([*begin, Reset()]),
            Reply([*begin, Send(b"zz", raw=True)]),
            Reply([*begin, Silence()]),
            Reply([packed], headers={"content-encoding": "gzip"}),
        )
        with record(tmp_path / "a.json") as transport:
            client = Client(base_url=server.base_url, transport=transport, retry=ONCE)
            seen = [outcome(client, timeouts=one) for one in clocks]
        url = server.base_url
    assert [one["error"][0] for one in seen[:3:2]] == [StreamInterrupted, IdleTimeout]
    with replay(tmp_path / "a.json") as transport:
        client = Client(base_url=url, transport=transport, retry=ONCE)
        assert [outcome(client, timeouts=one) for one in clocks] == seen
    assert "Grüße" in (tmp_path / "a.json").read_text("utf-8")  # not the packed bytes


def test_an_answer_in_the_background_is_taken_up_again(tmp_path: Path) -> None:
    """The cursor of the second request is in its address, and stays there."""
    blocks = FULL.blocks("responses")
    clock = FakeClock()
    double = FakeTransport(Reply([*blocks[:4], Cut()]), Reply(blocks[4:]))
    options: dict[str, Any] = {"background": True, "on_disconnect": "resume"}
    policy = RetryPolicy(max_attempts=3)
    with record(tmp_path / "a.json", transport=double) as transport:
        seen = outcome(bench("responses", transport, clock, retry=policy), **options)
    assert seen["text"] == FULL.text
    assert "starting_after=" in (tmp_path / "a.json").read_text("utf-8")
    with replay(tmp_path / "a.json") as transport:
        again = outcome(bench("responses", transport, FakeClock(), retry=policy), **options)
    assert again == seen


def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


@every("api", APIS)
def test_a_run_with_tools(tmp_path_factory: Any, api: str) -> None:
    """Its tools run again; what they return is in the second request, and finds its answer."""
    path = tmp_path_factory.mktemp("recordings") / "a.json"
    calls = [("weather", '{"city": "Rome"}'), ("weather", '{"city": "Oslo"}')]
    double = FakeTransport(Answer(tool_calls=calls), Answer("Sunny in both."))
    for transport in (record(path, transport=double), None):
        with transport or replay(path) as played:
            run = bench(api, played).run("How is it?", [weather], model="m")
            assert run.result().text == "Sunny in both."
            sent = [request.json() for request in played.requests]
            assert "It is sunny in Oslo." in json.dumps(sent[1])


# ---- leaving, cancelling, interrupting -----------------------------------------------------------


def test_a_caller_who_left_leaves_again(tmp_path: Path) -> None:
    """Who reads on finds no end that was none."""
    reply = Reply(Answer("one two three four"))
    for transport in (record(tmp_path / "a.json", transport=FakeTransport(reply)), None):
        played = transport or replay(tmp_path / "a.json")
        with played, bench("chat", played).stream("Hi", model="m") as stream:
            assert next(stream) == "one"
    with replay(tmp_path / "a.json") as transport:
        seen = outcome(bench("chat", transport, FakeClock()))
        assert seen["error"][0] is ConfigurationError
        assert "the caller left when it was recorded" in seen["error"][1]
        assert seen["text"] == "one"


def test_a_cancel_ends_a_replay_in_its_pause(tmp_path: Path) -> None:
    """From another thread, at once."""
    begin, rest = halves("chat")
    kept(tmp_path / "a.json", "chat", Reply([*begin, Pause(90), *rest]), timeouts=Timeouts(None))
    with replay(tmp_path / "a.json", timing=True) as transport:
        stream = bench("chat", transport).stream("Hi", model="m")
        seen = threading.Event()

        def read(stream: Any) -> None:
            for _ in stream:
                seen.set()

        reading = Reading(stream, read)
        assert seen.wait(10)
        stream.cancel("enough")
        assert "enough" in str(reading.ended())


def test_the_clocks_of_the_client_hold_in_a_replay(tmp_path: Path) -> None:
    """By its own clock: a pause of twenty minutes takes no minute."""
    begin, rest = halves("chat")
    # Seconds of a clock that is 3,000 times as fast: a real delay must not break any other clock.
    long = Timeouts(connect=None, first_token=None, idle=360_000, silence=None)
    short = Timeouts(connect=None, first_token=None, idle=30)
    kept(tmp_path / "a.json", "chat", Reply([*begin, Pause(1200), *rest]), timeouts=long)
    with ScaledClock(speed=3000) as clock:
        with replay(tmp_path / "a.json", timing=True) as transport:
            seen = outcome(bench("chat", transport, clock), clock, timeouts=long)
        assert seen["text"] == "one two three"
        assert seen["seconds"] >= 1200
        with replay(tmp_path / "a.json", timing=True) as transport:
            seen = outcome(bench("chat", transport, clock), timeouts=short)
        assert seen["error"][0] is IdleTimeout


# ---- files ---------------------------------------------------------------------------------------


def test_half_a_file_is_no_recording(tmp_path: Path) -> None:
    """Cut anywhere, it is refused with its name."""
    kept(tmp_path / "a.json", "chat", Answer("a"))
    whole = (tmp_path / "a.json").read_bytes().rstrip()
    for size in range(0, len(whole), 41):
        (tmp_path / "b.json").write_bytes(whole[:size])
        with pytest.raises(ConfigurationError, match=r"b\.json is not a whole recording"):
            replay(tmp_path / "b.json")


WHOLE = (
    b'{"llmstream_recording": 1, "recorded": "", "exchanges": [{"request": {"method": "GET", '
    b'"url": "http://a"}, "answer": {"at": 1, "status": 200, "headers": {}, "body": '
    b'[[1, {"base64": "YQ=="}]]}, "end": {"at": 1, "how": "whole"}}]}'
)
WRONG_FILES = {
    "another file": (b'{"name": "x"}', "first field has to be llmstream_recording"),
    "a list": (b"[1]", "is not a recording"),
    "of tomorrow": (b'{"llmstream_recording": 2}', "later version"),
    "a wrong type": (
        b'{"llmstream_recording": 1, "recorded": "", "exchanges": [{"request": 1}]}',
        r"exchanges\[0\]\.request",
    ),
    "not UTF-8": (b"\xff", "not a whole recording"),
    "a wrong end": (
        WHOLE.replace(b'"whole"', b'"odd"'),
        "how",
    ),
    "a clock that there is not": (
        WHOLE.replace(b'"whole"', b'"clock", "clock": "noon"'),
        "noon",
    ),
    "no base64": (
        WHOLE.replace(b'"YQ=="', b'"!"'),
        "not a whole recording",
    ),
}


@every("name", WRONG_FILES)
def test_a_file_that_is_none_says_why(tmp_path_factory: Any, name: str) -> None:
    path = tmp_path_factory.mktemp("wrong") / "x.json"
    data, words = WRONG_FILES[name]
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=words):
        replay(path)


def test_an_exception_keeps_the_old_file(tmp_path: Path) -> None:
    """Half a conversation is none; nor is one in which an interrupt came."""
    path = tmp_path / "a.json"
    kept(path, "chat", Answer("old"))
    before = path.read_bytes()

    def interrupted() -> None:
        with record(path, transport=FakeTransport(FULL)) as transport:
            bench("chat", transport).stream("Hi", model="m").result()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.json"]


def test_without_a_with_block_the_client_writes_it(tmp_path: Path) -> None:
    """When it is closed; what would be lost is a warning."""
    path = tmp_path / "deep" / "er" / "a.json"
    with bench("chat", record(path, transport=FakeTransport(FULL))) as client:
        client.stream("Hi", model="m").result()
        assert not path.exists()
    assert path.exists()

    def lost() -> None:
        transport = record(tmp_path / "b.json", transport=FakeTransport(FULL))
        bench("chat", transport).stream("Hi", model="m").result()
        del transport
        gc.collect()

    with pytest.warns(ResourceWarning, match="is lost"):
        lost()


def test_nothing_asked_is_nothing_written(tmp_path: Path) -> None:
    """And what was refused before it was sent is no conversation."""
    transport = record(tmp_path / "a.json", transport=FakeTransport())
    with transport, pytest.raises(AssertionError, match="script one more"):
        bench("chat", transport).stream("Hi", model="m").result()
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_written_is_known_before_it_is_paid_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "a.json", "", "a\0b"):
        with pytest.raises(ConfigurationError, match=r"path|cannot be written"):
            record(path)


@every(
    ("function", "options", "words"),
    [
        (replay, {"timing": -1}, "timing"),
        (replay, {"timing": "yes"}, "timing"),
        (replay, {"match_on": ["headers"]}, "match_on"),
        (replay, {"match_on": "body"}, "match_on"),
        (replay, {"ignore": [1]}, "ignore"),
        (replay, {"ignore": "metadata"}, "ignore"),
        (replay, {"repeat": 2}, "repeat"),
        (record, {"secrets": [b"x"]}, "secrets"),
        (record, {"secrets": [""]}, "secrets"),
        (record, {"transport": 5}, "transport"),
        (record, {"transport": FakeTransport(), "verify": False}, "verify"),
    ],
)
def test_odd_options_are_refused(
    tmp_path_factory: Any, function: Any, options: dict[str, Any], words: str
) -> None:
    path = tmp_path_factory.mktemp("odd") / "a.json"
    path.write_text('{"llmstream_recording": 1, "recorded": "", "exchanges": []}')
    with pytest.raises(ConfigurationError, match=words):
        function(path, **options)


# ---- all clients ---------------------------------------------------------------------------------


def test_clients_that_code_makes_itself(tmp_path: Path) -> None:
    """Once over the network, then out of the file; a client with a double keeps it."""
    path = tmp_path / "a.json"

    def application(url: str) -> str:
        with Client(base_url=url) as client:
            return client.stream("Why?").result().text

    with LLMServer() as server:
        server.script(Answer("because"))
        url = server.base_url
        early = Client(base_url=url)
        with recording(path) as recorded:
            assert application(url) == "because"
            own = Client(base_url="http://test", transport=FakeTransport(Answer("own")))
            assert own.stream("Hi").result().text == "own"
        assert len(recorded.requests) == 1
        assert application(url) == "Hello, world!"  # as before
    with recording(path) as recorded:
        assert application(url) == "because"
    assert type(recorded).__name__ == "Replayer"
    with recording(path, "none"):
        assert early.stream("Why?").result().text == "because"
    early.close()
    with pytest.raises(ConfigurationError, match="cannot be read"), recording("no.json", "none"):
        pass


def test_a_recording_begins_anew(tmp_path: Path) -> None:
    """mode="all"; and hosts may be left alone."""
    path = tmp_path / "a.json"
    with LLMServer() as server, Client(base_url=server.base_url) as client:
        server.script(Answer("one"), Answer("two"), Answer("three"))
        for expected in ("one", "two"):
            with recording(path, "all"):
                assert client.stream("Why?").result().text == expected
        with recording(path, ignore_hosts=["127.0.0.*"]) as recorded:
            assert client.stream("Why?").result().text == "three"
        assert recorded.requests == []
        with recording(path):
            assert client.stream("Why?").result().text == "two"


def test_waits_of_a_service_that_was_played_are_forgotten(tmp_path: Path) -> None:
    """A recorded 429 holds nobody up after the replay."""
    path = tmp_path / "a.json"
    with LLMServer() as server, Client(base_url=server.base_url, retry=ONCE) as client:
        server.script(Reply.error(429, headers={"retry-after": "55"}))
        for _ in range(2):
            with recording(path), pytest.raises(LLMStreamError, match="429"):
                client.stream("Why?").result()
        assert client.stream("Why?", timeouts=Timeouts(total=30)).result().text == "Hello, world!"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_replays_and_does_not_record(tmp_path: Path) -> None:
    """What it recorded would be lost in silence."""
    path = tmp_path / "a.json"

    def in_child(work: Any) -> int:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                status = 0 if work() else 2
            finally:
                os._exit(status)
        return os.waitpid(pid, 0)[1] >> 8

    with record(path, transport=FakeTransport(FULL)) as transport:
        client = bench("chat", transport)
        assert in_child(lambda: outcome(client)["error"][0] is ConfigurationError) == 0
        assert outcome(client)["text"] == FULL.text
    client = bench("chat", replay(path))
    assert in_child(lambda: outcome(client)["text"] == FULL.text) == 0
    assert outcome(client)["text"] == FULL.text
