"""Every recording over real HTTP, through the whole client: exactly what is expected.

And cut: at sampled offsets, in every way in which a body can end too early, plain and over TLS.
The exhaustive proof of the cuts is in memory (test_corpus.py); here is shown that the network's
edge adds nothing to it and takes nothing away.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from corpus import (
    ABSENT,
    CORPUS,
    SMALL,
    block,
    completed,
    own,
    params,
    random_pieces,
    recorded,
    replay,
    say,
    told,
    told_of,
)
from every import every

from llmstream import (
    Client,
    LLMStreamError,
    RetryPolicy,
    ServerError,
    StreamInterrupted,
    StreamTruncated,
    Timeouts,
    errors,
)
from llmstream._call import exchange
from llmstream.events.base import AnyEvent
from llmstream.testing import Answer, Cut, Drip, LLMServer, Pings, Reply, Reset, Send

# Asked to wait, nobody does: the next test would.
ONCE = RetryPolicy(max_attempts=1, max_retry_after=0.001)
BOUND = Timeouts(connect=20.0, first_token=20.0, idle=20.0, silence=20.0, total=60.0)
CORPORA = ("responses", "messages", "chat", "gemini")
ALL = [*own(), *(recording for api in CORPORA for recording in recorded(api))]
DRAIN_SECONDS = exchange._DRAIN_SECONDS
_PATHS = {"messages": "", "gemini": "/v1beta"}


# --- the bench ----------------------------------------------------------------------------------


class Bench:
    """A server, and a client of it for each API. One for all tests of this file: connections are
    reused across them, so that one that is left in a bad state is met by the next test."""

    def __init__(self, tls: bool) -> None:
        self.server = LLMServer(tls=tls)
        self.clients: dict[str, Client] = {}
        self.patches = pytest.MonkeyPatch()

    def __enter__(self) -> Bench:
        # Which connections are reused must not depend on how soon the server's thread runs: it
        # writes the end of the body after the end of the answer.
        self.patches.setattr(exchange, "_DRAIN_SECONDS", 20.0)
        self.server.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        for client in self.clients.values():
            client.close()
        self.server.__exit__(*exc)
        self.patches.undo()

    def client(self, api: str) -> Client:
        if api not in self.clients:
            self.clients[api] = Client(
                api,
                base_url=self.server.url + _PATHS.get(api, "/v1"),
                api_key="test-key",
                model="test-model",
                retry=ONCE,
                timeouts=BOUND,
                verify=self.server.ca_file or True,
            )
        return self.clients[api]

    def ask(self, reply: Reply, api: str = "responses", *, by: str = "result") -> dict[str, Any]:
        """Asks once, reads to the end by `result()` or `events()`, and reports."""
        self.server.script(reply)
        before = len(self.server.requests)
        stream = self.client(api).stream("Hi")
        events: list[AnyEvent] = []
        error: LLMStreamError | None = None
        try:
            with stream:
                if by == "events":
                    for event in stream.events():
                        events.append(event)
                result = stream.result()
        except LLMStreamError as exc:
            error = exc
            result = exc.partial
        count = len(events) if by == "events" else stream._call.ctx.session.events
        assert len(self.server.requests) == before + 1
        # A pooled connection may have been closed under the request: then it went out twice, free.
        assert [attempt.resent for attempt in stream.attempts].count(False) == 1
        assert result.text == stream.text
        return {
            "told": told_of(result, count, error),
            "error": error,
            "events": events,
            "connection": self.server.requests[-1].connection,
        }


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench(tls=False) as started:
        yield started


@pytest.fixture(scope="module")
def tls_bench() -> Iterator[Bench]:
    with Bench(tls=True) as started:
        yield started


def pieces(data: bytes, seed: int = 1) -> list[Send]:
    return [Send(piece) for piece in random_pieces(seed)(data)]


# --- whole --------------------------------------------------------------------------------------


@every("recording", params(ALL))
def test_over_http_it_is_reported_exactly(recording: Any, bench: Bench) -> None:
    """Chunked, whole and in random pieces, by events() and by result(): exactly what is expected,
    the same typed events as in memory; and a good answer's connection serves the next call."""
    expected, _ = replay((recording.data,), recording.api)
    first = bench.ask(Reply(recording.data), recording.api, by="events")
    assert first["told"] == recording.expect
    assert first["events"] == expected
    second = bench.ask(Reply(pieces(recording.data)), recording.api)
    assert second["told"] == recording.expect
    if first["error"] is None:
        assert first["connection"] == second["connection"]


@every("recording", params(ALL))
def test_without_chunks_it_is_reported_exactly(recording: Any, bench: Bench) -> None:
    """Ended by the connection's end, and by a Content-Length: the same."""
    parts = pieces(recording.data, seed=2)
    for framing in ("close", "length"):
        found = bench.ask(Reply(parts, framing=framing), recording.api, by="events")
        assert found["told"] == recording.expect, framing


@every("recording", params(ALL, below=SMALL))
def test_each_byte_in_a_chunk_of_its_own(recording: Any, bench: Bench) -> None:
    """Each byte is an HTTP chunk: the same events, and the connection is reused."""
    check_chunks(recording, bench)


@pytest.mark.slow
@pytest.mark.parametrize("recording", params(ALL, at_least=SMALL))
def test_each_byte_of_the_large_in_a_chunk_of_its_own(recording: Any, bench: Bench) -> None:
    check_chunks(recording, bench)


def check_chunks(recording: Any, bench: Bench) -> None:
    expected, _ = replay((recording.data,), recording.api)
    found = bench.ask(Reply(Drip(recording.data)), recording.api, by="events")
    assert found["told"] == recording.expect
    assert found["events"] == expected


@every("recording", params(own()))
def test_each_byte_in_a_write_of_its_own(recording: Any, bench: Bench) -> None:
    """Without chunks, each byte is written alone."""
    found = bench.ask(Reply(Drip(recording.data), framing="close"), recording.api)
    assert found["told"] == recording.expect


@pytest.mark.slow
@every("recording", params(own()))
def test_over_tls_it_is_reported_exactly(recording: Any, tls_bench: Bench) -> None:
    """The same through TLS, chunked and closed."""
    for framing in ("chunked", "close"):
        found = tls_bench.ask(Reply(pieces(recording.data), framing=framing), by="events")
        assert found["told"] == recording.expect, framing


@pytest.mark.slow
@pytest.mark.parametrize(
    "recording", params(recording for api in CORPORA for recording in recorded(api))
)
def test_the_corpus_over_tls(recording: Any, tls_bench: Bench) -> None:
    """All of the corpus through TLS."""
    found = tls_bench.ask(Reply(pieces(recording.data)), recording.api, by="events")
    assert found["told"] == recording.expect


# --- cut ----------------------------------------------------------------------------------------

Way = Callable[[bytes, bytes], Reply]

# name: how a body of which only the start arrives is ended, and the error where no terminal event
# was in it. A body that ends as HTTP should is truncated, any other is interrupted.
WAYS: dict[str, tuple[Way, type[LLMStreamError]]] = {
    "no last chunk": (lambda start, _: Reply([Send(start), Cut()]), StreamInterrupted),
    "inside a chunk": (
        lambda start, rest: Reply(
            [Send(b"%x\r\n%b" % (len(start + rest) + 9, start), raw=True), Cut()]
        ),
        StreamInterrupted,
    ),
    "a clean last chunk": (lambda start, _: Reply([Send(start)]), StreamTruncated),
    "a last chunk, then FIN": (
        lambda start, _: Reply([Send(start), Cut(last_chunk=True)]),
        StreamTruncated,
    ),
    "reset": (lambda start, _: Reply([Send(start), Reset()]), StreamInterrupted),
    "FIN": (lambda start, _: Reply([Send(start)], framing="close"), StreamTruncated),
    "FIN, no goodbye": (
        lambda start, _: Reply([Send(start), Cut()], framing="close"),
        StreamTruncated,
    ),
    "reset, not chunked": (
        lambda start, _: Reply([Send(start), Reset()], framing="close"),
        StreamInterrupted,
    ),
    "short of its length": (
        lambda start, rest: Reply(
            [Send(start), Cut()], framing="length", length=len(start + rest) + 9
        ),
        StreamInterrupted,
    ),
    "the length says so": (
        lambda start, _: Reply([Send(start)], framing="length"),
        StreamTruncated,
    ),
}

# Over TLS Python's ssl reports an end without the peer's goodbye, and a reset, as a plain end: a
# body without chunks then ends as HTTP should. Either error is right; a success never is.
UNTOLD = ("FIN, no goodbye", "reset, not chunked")

SAMPLED = ("text_pings", "tools_parallel", "thinking_summary", "incomplete_half_call", "error_flat")


def offsets(data: bytes) -> list[int]:
    """The ends, and around the ends of blocks: where something changes."""
    ends = [at + 2 for at in range(len(data)) if data[at : at + 2] == b"\n\n"]
    chosen = {0, 1, len(data) // 2, len(data) - 1, len(data)}
    for end in (ends[0], ends[len(ends) // 2], ends[-2], ends[-1]):
        chosen |= {end - 1, end, min(end + 1, len(data))}
    return sorted(chosen)


def check_cut(bench: Bench, data: bytes, offset: int, way: str, *, tls: bool = False) -> None:
    make, kind = WAYS[way]
    start, rest = data[:offset], data[offset:]
    events, session = replay((start,))
    expected = told(session)
    if session.error is not None and type(session.error) is StreamTruncated:
        expected["raises"] = kind.__name__
    found = bench.ask(make(start, rest), by="events")
    if tls and way in UNTOLD and isinstance(found["error"], (StreamInterrupted, StreamTruncated)):
        expected["raises"] = type(found["error"]).__name__ if expected["raises"] else None
    assert found["told"] == expected, (way, offset)
    assert found["events"] == events, (way, offset)
    if found["error"] is not None:
        partial = found["error"].partial
        assert partial.text == session.state.text
        assert (partial.finish is None) or session.complete


@pytest.mark.slow
@every("way", WAYS)
@every("name", SAMPLED)
def test_a_cut_answer_is_no_success(name: str, way: str, bench: Bench) -> None:
    """Success exactly where the terminal event was whole; else the right error, with all the
    events, the text and the closed calls that came before."""
    (recording,) = (r for r in own() if r.name == name)
    for offset in offsets(recording.data):
        check_cut(bench, recording.data, offset, way)


@pytest.mark.slow
@every("way", WAYS)
@every("name", SAMPLED[:2])
def test_a_cut_answer_is_no_success_over_tls(name: str, way: str, tls_bench: Bench) -> None:
    """The same through TLS, told of the end or not."""
    (recording,) = (r for r in own() if r.name == name)
    for offset in offsets(recording.data)[::2]:
        check_cut(tls_bench, recording.data, offset, way, tls=True)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_cut_at_every_byte(way: str, bench: Bench) -> None:
    """At each byte of one transcript."""
    (recording,) = (r for r in own() if r.name == "tools_interleaved")
    for offset in range(len(recording.data) + 1):
        check_cut(bench, recording.data, offset, way)


GEMINI = b"".join(
    Answer("One two.", thinking="Hm", tool_calls=[("f", '{"a": "ü"}')]).blocks("gemini")
).replace(b"\n\n", b"\r\n\r\n")


def check_endless(bench: Bench, offset: int, way: str) -> None:
    """A stream without an end event: that it is whole, only the end of the body says."""
    make, kind = WAYS[way]
    start, rest = GEMINI[:offset], GEMINI[offset:]
    events, session = replay((start,), "gemini")
    found = bench.ask(make(start, rest), "gemini", by="events")
    expected = told(session, "gemini")
    clean = kind is StreamTruncated
    assert session.complete == (session.state.finish is not None), offset
    if not clean:
        expected = {**expected, "raises": kind.__name__, "complete": False}
    elif not session.complete:
        assert expected["raises"] == "StreamTruncated"
    assert found["told"] == expected, (way, offset)
    assert (found["error"] is None) == (clean and session.complete), (way, offset)
    assert found["events"] == events, (way, offset)


@every("way", WAYS)
def test_a_cut_of_what_has_no_end_event(way: str, bench: Bench) -> None:
    """Success where the body ended as HTTP should and a finish was in it; and nowhere else."""
    for offset in offsets(GEMINI.replace(b"\r\n\r\n", b"..\n\n")):
        check_endless(bench, offset, way)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_cut_of_it_at_every_byte(way: str, bench: Bench) -> None:
    for offset in range(len(GEMINI) + 1):
        check_endless(bench, offset, way)


@every("way", WAYS)
def test_a_cut_connection_is_not_reused(way: str, bench: Bench) -> None:
    """After a cut the next call has a fresh connection, and succeeds."""
    (recording,) = (r for r in own() if r.name == "text")
    make, _ = WAYS[way]
    half = len(recording.data) // 2
    assert bench.ask(make(recording.data[:half], recording.data[half:]))["error"] is not None
    assert bench.ask(Reply(recording.data))["told"] == recording.expect


def test_what_follows_the_end_does_not_matter(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the terminal event anything may follow, a reset, pings without end, megabytes: the
    answer is a success, at once."""
    monkeypatch.setattr(exchange, "_DRAIN_SECONDS", DRAIN_SECONDS)  # the library's own
    (recording,) = (r for r in own() if r.name == "text")
    for after in (
        [Reset()],
        [Cut()],
        [Pings(0.02)],
        [Send(b": x\n\n" * 500_000)],
        [Send(b"zz\r\n", raw=True)],
    ):
        found = bench.ask(Reply([Send(recording.data), *after]))
        assert found["told"] == recording.expect
    assert bench.ask(Reply(recording.data))["told"] == recording.expect


# --- refusals -----------------------------------------------------------------------------------


def http_errors() -> list[Any]:
    found = [
        pytest.param(path, id=f"{path.parent.name}-{path.stem}")
        for path in sorted((CORPUS / "http_errors").glob("*/*.json"))
    ]
    return found or [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=ABSENT))]


@every("path", http_errors())
def test_recorded_refusals(path: Path, bench: Bench) -> None:
    """The services' own error answers: the class, the status and the request id, in one request."""
    about = json.loads(path.read_text("utf-8"))
    headers = {name.lower(): value for name, value in about["response_headers"].items()}
    body = path.with_suffix(".body").read_bytes()
    hop = ("content-length", "transfer-encoding", "connection", "content-encoding", "content-type")
    reply = Reply(
        body,
        status=about["status"],
        framing="length",
        headers={name: value for name, value in headers.items() if name not in hop},
        content_type=headers.get("content-type", "application/json"),
    )
    found = bench.ask(reply, path.parent.name)
    error = found["error"]
    assert type(error).__name__ == about["expect"]["raises"]
    assert error.status == about["status"]
    assert error.request_id == (headers.get("x-request-id") or headers.get("request-id"))
    assert error.message
    assert found["told"]["text"] == ""


def test_a_refusals_connection_is_reused(bench: Bench) -> None:
    """An error's body is read, so that its connection serves the next call."""
    first = bench.ask(Reply.error(400, message="no", request_id="req_1"))
    second = bench.ask(Reply.error(400, message="no"))
    assert first["error"].request_id == "req_1"
    assert first["connection"] == second["connection"]


# --- what is no stream --------------------------------------------------------------------------

WHOLE = {
    "id": "resp_1",
    "status": "completed",
    "model": "m",
    "output": [
        {"type": "message", "id": "m", "content": [{"type": "output_text", "text": "hello"}]}
    ],
    "usage": {"input_tokens": 1, "output_tokens": 2},
}


@every("lead", [b"", b" ", b"\n\n", b"   \r\n\t", b"\xef\xbb\xbf", b"\n" * 40])
@every("size", [1, 3, 10_000])
@every("content_type", ["application/json", "text/event-stream"])
def test_a_whole_answer_as_json(lead: bytes, size: int, content_type: str, bench: Bench) -> None:
    """A server that ignores `stream` and answers with JSON, behind the white space with which some
    keep a connection alive, however it is cut and labelled: the whole answer."""
    body = lead + json.dumps(WHOLE).encode()
    found = bench.ask(Reply(Drip(body, size=size), content_type=content_type))
    assert found["error"] is None
    assert found["told"]["text"] == "hello"
    assert found["told"]["usage"] == {"input": 1, "output": 2}


@pytest.mark.parametrize(
    "reply",
    [
        Reply([Send(json.dumps(WHOLE).encode()[:60]), Cut()], content_type="application/json"),
        Reply([Send(json.dumps(WHOLE).encode()[:60]), Reset()], content_type="application/json"),
        Reply(
            [Send(json.dumps(WHOLE).encode()[:60]), Cut()],
            framing="length",
            length=500,
            content_type="application/json",
        ),
    ],
    ids=["no last chunk", "reset", "short"],
)
def test_json_that_was_cut_is_an_interruption(reply: Reply, bench: Bench) -> None:
    """Half a JSON body on a connection that broke is a broken connection, which is retried, not
    a server that speaks another protocol."""
    assert type(bench.ask(reply)["error"]) is StreamInterrupted


def test_a_stream_behind_blank_lines(bench: Bench) -> None:
    """A stream may begin with blank lines and a BOM, byte by byte."""
    (recording,) = (r for r in own() if r.name == "text")
    for lead in (b"\n", b"\n\n\n", b"\r\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n\n", b": hi\n\n"):
        found = bench.ask(Reply(Drip(lead + recording.data)))
        assert found["told"] == recording.expect


# --- an error that does not end -----------------------------------------------------------------


@pytest.mark.parametrize("step", [Pings(0.02), Pings(0.02, data=block({"type": "keepalive"}))])
def test_an_error_followed_by_endless_pings_ends(step: Pings, bench: Bench) -> None:
    """Behind an error event its response.failed is waited for, for a moment: pings do not
    prolong it."""
    bench.server.script(Reply([Send(say("error", message="boom")), step]))
    stream = bench.client("responses").stream("Hi")
    caught: list[BaseException] = []

    def read() -> None:
        try:
            stream.result()
        except BaseException as exc:
            caught.append(exc)

    reader = threading.Thread(target=read)
    reader.start()
    reader.join(BOUND.idle / 2)  # the moment is two seconds
    hangs = reader.is_alive()
    stream.cancel("the test is over")
    reader.join(10)
    assert not hangs
    assert type(caught[0]) is ServerError


def test_an_error_in_the_stream_keeps_what_came(bench: Bench) -> None:
    """The text before it is in `.partial`, and its class is the service's."""
    token = say("response.output_text.delta", output_index=0, content_index=0, delta="x")
    found = bench.ask(Reply([Send(token * 3), Send(say("error", code="rate_limit_exceeded"))]))
    assert type(found["error"]) is errors.RateLimitError
    assert found["error"].partial.text == "xxx"
    assert bench.ask(Reply(token + completed()))["told"]["text"] == "x"
