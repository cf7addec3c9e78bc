"""The test bench itself: all of `llmstream.testing`, driven by raw sockets and by requests."""

from __future__ import annotations

import ast
import contextlib
import errno
import json
import os
import select
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import llmstream.testing
from llmstream.testing import (
    Answer,
    Cut,
    Drip,
    LLMServer,
    Pause,
    Pings,
    Recorded,
    Reply,
    Reset,
    Send,
    Silence,
    blackhole,
)
from llmstream.testing import server as server_module
from llmstream.testing import tls as tls_module
from llmstream.testing.answers import ENCODINGS, Encoding, api_of_path, sse_block
from llmstream.testing.plugin import llm_server, llm_server_tls  # noqa: F401 (used as fixtures)
from llmstream.testing.script import Entry, Piece, chunk, chunked_pieces, pieces

PATH = "/v1/responses"
NOTICED = 0.5  # seconds within which the server has to notice a client's close (it takes ~1 ms)
BIG = b"x" * 16_000_000  # more than the kernel's buffers of a connection hold
PACKAGE = Path(llmstream.testing.__file__).parent
SHARED = Path(__file__).resolve().parents[3] / "shared"


# --- helpers ------------------------------------------------------------------------------------


def bench_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(server_module.THREAD_NAME)]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = bench_threads()
    yield
    assert bench_threads() == before


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer() as started:
        yield started


@pytest.fixture(params=["http", "tls"])
def any_server(request: pytest.FixtureRequest) -> Iterator[LLMServer]:
    with LLMServer(tls=request.param == "tls") as started:
        yield started


def address(server: LLMServer) -> tuple[str, int]:
    host, port = server.url.rpartition("/")[2].split(":")
    return host, int(port)


@contextlib.contextmanager
def dialled(server: LLMServer) -> Iterator[socket.socket]:
    """A connected client socket, over TLS when the server speaks it."""
    with socket.create_connection(address(server), timeout=5) as plain:
        if server.ca_file is None:
            yield plain
            return
        context = ssl.create_default_context(cafile=server.ca_file)
        with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
            yield wrapped


def post(sock: socket.socket, body: bytes = b"{}", *fields: str, path: str = PATH) -> None:
    head = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *fields]
    sock.sendall("\r\n".join([*head, "", ""]).encode() + body)


def read_to_end(sock: socket.socket) -> bytes:
    received = bytearray()
    while data := sock.recv(65536):
        received += data
    return bytes(received)


def read_until(sock: socket.socket, end: bytes) -> bytes:
    received = bytearray()
    while not received.endswith(end):
        data = sock.recv(1)
        assert data, f"the connection ended after {bytes(received)!r}"
        received += data
    return bytes(received)


def read_to_reset(sock: socket.socket) -> bytes:
    """What comes before the reset, which must come.

    Python's ssl before 3.11.9 and 3.12.3 shows a reset as an end of file: there the kernel is
    asked, whose state is CLOSE (7) after a reset and CLOSE_WAIT (8) after a FIN.
    """
    received = bytearray()
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionResetError:
        return bytes(received)
    if not isinstance(sock, ssl.SSLSocket) or sys.platform != "linux":
        pytest.fail("the connection ended without a reset")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x07"
    return bytes(received)


def body_of(server: LLMServer, *replies: Any, **head: Any) -> bytes:
    """What the client receives behind the head, to the end of the connection."""
    server.script(Reply(replies, **head))
    with dialled(server) as sock:
        post(sock, b"{}", "Connection: close")
        return read_to_end(sock).partition(b"\r\n\r\n")[2]


def ask(server: LLMServer, **body: Any) -> requests.Response:
    return requests.post(server.base_url + "/responses", json=body, verify=server.ca_file)


def decode(blocks: list[bytes]) -> list[dict[str, Any]]:
    """The events of SSE blocks, checked for their form."""
    events = []
    for block in blocks:
        name, data, *rest = block.decode().split("\n")
        assert rest == ["", ""]
        event: dict[str, Any] = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def decode_stream(body: bytes) -> list[dict[str, Any]]:
    return decode([block + b"\n\n" for block in body.split(b"\n\n")[:-1]])


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")


# --- requests and what answers them -------------------------------------------------------------


def test_an_answer_without_a_script(any_server: LLMServer) -> None:
    """With nothing scripted the default answers, as a chunked event stream."""
    response = ask(any_server, input="hi")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["transfer-encoding"] == "chunked"
    assert text_of(decode_stream(response.content)) == "Hello, world!"


def test_urls(any_server: LLMServer) -> None:
    """url names scheme and port, base_url adds the version, ca_file exists for TLS only."""
    scheme = "http" if any_server.ca_file is None else "https"
    assert any_server.url.startswith(f"{scheme}://127.0.0.1:")
    assert any_server.base_url == any_server.url + "/v1"
    assert any_server.url in repr(any_server)


def test_the_script_is_played_in_order_and_then_the_default(server: LLMServer) -> None:
    """Each request takes the next entry; a Reply, an Answer and a function will all do."""
    server.script(Reply.json({"n": 1}), Answer("two"))
    server.script(lambda recorded: Answer(f"three {recorded.json()['input']}"))
    server.default = Reply.json({"n": "default"})
    with requests.Session() as session:
        answers = [
            session.post(server.base_url + "/responses", json={"input": "x"}) for _ in "1234"
        ]
    assert answers[0].json() == {"n": 1}
    assert text_of(decode_stream(answers[1].content)) == "two"
    assert text_of(decode_stream(answers[2].content)) == "three x"
    assert answers[3].json() == {"n": "default"}
    assert server.connections == 1


@pytest.mark.parametrize(
    "body",
    [
        {"input": "say this"},
        {"input": [{"role": "user", "content": "no"}, {"role": "user", "content": "say this"}]},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "say this"}]}]},
        {
            "messages": [
                {"role": "user", "content": "say this"},
                {"role": "assistant", "content": "no"},
            ]
        },
    ],
)
def test_echo(server: LLMServer, body: dict[str, Any]) -> None:
    """The echo answers with the input string, or with the last user message's text."""
    server.default = server.echo
    assert text_of(decode_stream(ask(server, **body).content)) == "say this"


def test_echo_of_a_conversation_without_a_user(server: LLMServer) -> None:
    """No user message is an empty answer, not a failure."""
    server.default = server.echo
    events = decode_stream(ask(server, input=[{"role": "system", "content": "x"}]).content)
    assert text_of(events) == ""


def test_an_answer_on_a_path_of_no_api_is_a_404(server: LLMServer) -> None:
    """An answer needs an API to be encoded for; a plain reply is sent on any path."""
    server.script(Answer("x"), Reply([Answer("x")]), Reply.json({"ok": True}))
    responses = [requests.get(server.url + "/elsewhere") for _ in range(3)]
    assert [r.status_code for r in responses] == [404, 404, 200]
    assert responses[0].json()["error"]["type"] == "invalid_request_error"
    assert "/elsewhere" in responses[0].json()["error"]["message"]


def test_script_refuses_what_it_cannot_play(server: LLMServer) -> None:
    """A mistake in a script is found where it is made."""
    with pytest.raises(TypeError, match="neither a Reply"):
        server.script("an answer")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is not a step"):
        Reply(["text"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="framing"):
        Reply(framing="long")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="length"):
        Reply(length=3)
    with pytest.raises(ValueError, match="Pings without a count"):
        Reply([Pings(1)], framing="length")
    with pytest.raises(ValueError, match="seconds"):
        Pause(-1)
    with pytest.raises(ValueError, match="seconds"):
        Pings(float("nan"))
    with pytest.raises(ValueError, match="seconds"):
        Reply(delay=float("inf"))
    with pytest.raises(ValueError, match="piece"):
        Drip(b"x", size=0)


def test_many_clients_at_once_each_get_their_own_answer(server: LLMServer) -> None:
    """Fifty connections at the same time do not mix."""
    server.default = server.echo
    gate = threading.Barrier(50)
    got: dict[int, str] = {}

    def client(number: int) -> None:
        gate.wait(10)
        got[number] = text_of(decode_stream(ask(server, input=f"prompt {number}").content))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {n: f"prompt {n}" for n in range(50)}
    assert server.connections == 50
    assert sorted(r.connection for r in server.requests) == list(range(1, 51))


# --- what is recorded ---------------------------------------------------------------------------


def test_a_request_is_recorded_as_it_came(any_server: LLMServer) -> None:
    """Method, path, headers in any case, body, connection number and times."""
    before = time.monotonic()
    with dialled(any_server) as sock:
        post(sock, b'{"a": 1}', "X-One: 1", "x-two: a", "X-Two: b", path=PATH + "?stream=true&n=3")
        read_until(sock, b"0\r\n\r\n")
        finished = any_server.wait_finished(0)
    [recorded] = any_server.wait_requests(1)
    assert (recorded.method, recorded.path) == ("POST", PATH + "?stream=true&n=3")
    assert recorded.query == {"stream": "true", "n": "3"}
    assert (recorded.body, recorded.json()) == (b'{"a": 1}', {"a": 1})
    assert recorded.headers["x-ONE"] == "1"
    assert recorded.headers.get("X-Two") == "a, b"
    assert "CONTENT-length" in recorded.headers
    assert "nothing" not in recorded.headers
    assert len(recorded.headers) == len(list(recorded.headers)) == 4
    assert "'x-one': '1'" in repr(recorded.headers)
    assert recorded.connection == 1
    closed = any_server.wait_closed(recorded)
    assert before <= recorded.received_at <= finished <= closed <= time.monotonic()


def test_requests_on_one_connection_share_its_number_and_its_close(server: LLMServer) -> None:
    """Keep-alive works, and the close is noted on every request of the connection."""
    with requests.Session() as session:
        for _ in range(3):
            session.post(server.base_url + "/responses", json={})
        assert [r.closed_at for r in server.requests] == [None] * 3
    for index in range(3):
        server.wait_closed(index)
    assert {r.connection for r in server.requests} == {1}
    assert len({r.closed_at for r in server.requests}) == 1
    ask(server)
    assert server.requests[3].connection == 2


def test_pipelined_requests_are_answered_in_order(server: LLMServer) -> None:
    """What comes during a reply is kept for afterwards."""
    server.script(Reply([Pause(0.02), b"one"]), Reply([b"two"]))
    with dialled(server) as sock:
        post(sock)
        post(sock, b"{}", "Connection: close")
        received = read_to_end(sock)
    assert received.index(b"one") < received.index(b"two")


def test_a_chunked_request_body(any_server: LLMServer) -> None:
    """A body in chunks, with an extension and a trailer, is recorded decoded."""
    with dialled(any_server) as sock:
        sock.sendall(b"POST /v1/responses HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n")
        sock.sendall(b"3;why=not\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n")
        read_until(sock, b"0\r\n\r\n")
    assert any_server.requests[0].body == b"abc0123456789"


def test_a_generator_as_request_body(server: LLMServer) -> None:
    """What requests sends for a generator is understood."""
    requests.post(server.base_url + "/responses", data=iter([b"ab", b"cd"]))
    assert server.requests[0].body == b"abcd"


def test_a_large_request_body(any_server: LLMServer) -> None:
    """Eight megabytes arrive whole."""
    requests.post(
        any_server.base_url + "/responses", data=BIG[:8_000_000], verify=any_server.ca_file
    )
    assert any_server.requests[0].body == BIG[:8_000_000]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"HELLO\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1f\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
    ],
)
def test_a_broken_request_is_refused(server: LLMServer, sent: bytes, status: int) -> None:
    """Every buffer is bounded, and what is no request is answered and not recorded."""
    with dialled(server) as sock:
        sock.sendall(sent)
        assert read_to_end(sock).startswith(b"HTTP/1.1 %d " % status)
    assert server.requests == []


def test_a_client_that_leaves_inside_its_request_is_no_error(any_server: LLMServer) -> None:
    """Half a request is neither recorded nor a failure of the server."""
    with dialled(any_server) as sock:
        sock.sendall(b"POST /v1/responses HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
    any_server.wait_connections(1)
    any_server.wait_all_closed(NOTICED)
    assert any_server.requests == []


def test_a_request_counts_although_the_client_leaves_right_behind_it(any_server: LLMServer) -> None:
    """A complete request is recorded even when the client's close comes along with it."""
    for index in range(20):
        with dialled(any_server) as sock:
            post(sock)
        any_server.wait_requests(index + 1)
        any_server.wait_closed(index, timeout=NOTICED)


@pytest.mark.parametrize("first", [b"POST / HTTP/1.0", b"POST / HTTP/1.1\r\nConnection: Close"])
def test_a_client_that_wants_the_connection_closed(server: LLMServer, first: bytes) -> None:
    """HTTP/1.0 and `Connection: close` are honoured."""
    server.script(Reply.json({}))
    with dialled(server) as sock:
        sock.sendall(first + b"\r\n\r\n")
        assert read_to_end(sock).endswith(b"{}")


# --- waiting for the server ---------------------------------------------------------------------


def test_waiting_in_vain_is_a_sentence(server: LLMServer) -> None:
    """Each wait is bounded and says what did not happen."""
    with pytest.raises(TimeoutError, match=r"0 of 1 requests came within 0\.01 s"):
        server.wait_requests(1, timeout=0.01)
    with pytest.raises(TimeoutError, match="0 of 2 connections"):
        server.wait_connections(2, timeout=0.01)
    with pytest.raises(TimeoutError, match="request 0 did not come"):
        server.wait_closed(0, timeout=0.01)
    with dialled(server) as sock:
        post(sock)
        server.wait_requests(1)
        with pytest.raises(TimeoutError, match=f"did not close within .* POST {PATH} on conn"):
            server.wait_closed(0, timeout=0.01)
        with pytest.raises(TimeoutError, match="1 connections are still open"):
            server.wait_all_closed(timeout=0.01)
        assert server.open_connections == 1
    server.script(Reply([Silence()]))
    with dialled(server) as sock:
        post(sock)
        with pytest.raises(TimeoutError, match="the reply was not finished"):
            server.wait_finished(1, timeout=0.05)


def test_waits_are_woken_by_what_they_wait_for(server: LLMServer) -> None:
    """A wait that began before the request came returns when it has."""
    waited: list[Any] = []
    waits = [
        threading.Thread(target=lambda: waited.append(len(server.wait_requests(1)))),
        threading.Thread(target=lambda: waited.append(server.wait_closed(-1))),
    ]
    for thread in waits:
        thread.start()
    ask(server)
    for thread in waits:
        thread.join(5)
    assert sorted(waited)[0] == 1
    assert len(waited) == 2


def test_the_lists_handed_out_are_snapshots(server: LLMServer) -> None:
    """Changing what `requests` returned changes nothing."""
    ask(server)
    server.requests.clear()
    assert len(server.requests) == 1


# --- replies ------------------------------------------------------------------------------------


def test_an_error_reply(server: LLMServer) -> None:
    """The body has OpenAI's shape; request id and headers are sent; the connection is kept."""
    server.script(
        Reply.error(
            429,
            type="requests",
            code="rate_limit_exceeded",
            message="slow down",
            param="model",
            headers={"retry-after": "3"},
            request_id="req_1",
        ),
        Reply.error(529),
    )
    with requests.Session() as session:
        first = session.post(server.base_url + "/responses", json={})
        second = session.post(server.base_url + "/responses", json={})
    assert first.status_code == 429
    assert first.json() == {
        "error": {
            "message": "slow down",
            "type": "requests",
            "param": "model",
            "code": "rate_limit_exceeded",
        }
    }
    assert first.headers["retry-after"] == "3"
    assert first.headers["x-request-id"] == "req_1"
    assert first.headers["content-type"] == "application/json"
    assert int(first.headers["content-length"]) == len(first.content)
    assert "x-request-id" not in second.headers
    assert (second.status_code, server.connections) == (529, 1)


def test_json_and_html_replies(server: LLMServer) -> None:
    """Documents in a stream's place, with any status."""
    server.script(Reply.json({"id": "x"}), Reply.html(), Reply.html("<p>ä", status=502))
    first, second, third = (ask(server) for _ in range(3))
    assert (first.status_code, first.json()) == (200, {"id": "x"})
    assert second.headers["content-type"].startswith("text/html")
    assert (third.status_code, third.text) == (502, "<p>ä")


def test_a_raw_reply_is_exactly_its_bytes(any_server: LLMServer) -> None:
    """Nothing is added in front or behind, and the connection ends."""
    any_server.script(Reply.raw(b"220 mail.example ready\r\n"))
    with dialled(any_server) as sock:
        post(sock)
        assert read_to_end(sock) == b"220 mail.example ready\r\n"


def test_headers_override_the_replys_own_in_any_case(server: LLMServer) -> None:
    """A header given replaces the default one; None leaves it out."""
    server.script(
        Reply(b"x", headers={"CONTENT-TYPE": "text/plain", "X-A": "1"}),
        Reply(b"x", headers={"content-type": None}, content_type="never/sent"),
        Reply(b"x", content_type="text/event-stream; charset=utf-8", status=201),
    )
    first, second, third = (ask(server) for _ in range(3))
    assert first.raw.headers.getlist("content-type") == ["text/plain"]
    assert first.headers["x-a"] == "1"
    assert "content-type" not in second.headers
    assert third.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (third.status_code, third.reason) == (201, "Created")


def test_framing_close(any_server: LLMServer) -> None:
    """The body ends with the connection and has neither length nor chunks."""
    any_server.script(Reply([b"ab", Send(b"cd")], framing="close"))
    with dialled(any_server) as sock:
        post(sock)
        head, _, body = read_to_end(sock).partition(b"\r\n\r\n")
    assert body == b"abcd"
    assert b"Connection: close" in head
    assert b"Transfer-Encoding" not in head
    assert b"Content-Length" not in head
    any_server.wait_closed(0)


def test_framing_length_counts_what_the_steps_send(server: LLMServer) -> None:
    """Content-Length is the sum of sends, drips and counted pings; the connection is kept."""
    steps: list[Piece] = [b"ab", Drip(b"cdef", size=3), Pings(0.0, count=2, data=b"!"), Pause(0)]
    server.script(Reply(steps, framing="length"))
    with requests.Session() as session:
        first = session.post(server.base_url + "/responses", json={})
        session.post(server.base_url + "/responses", json={})
    assert first.content == b"abcdef!!"
    assert first.headers["content-length"] == "8"
    assert server.connections == 1


@pytest.mark.parametrize("claimed", [100, 2])
def test_a_lie_about_the_length_ends_the_connection(any_server: LLMServer, claimed: int) -> None:
    """A claim too long is a body cut short; one too short leaves bytes behind the body."""
    any_server.script(Reply([b"abcd"], framing="length", length=claimed))
    with dialled(any_server) as sock:
        post(sock)
        head, _, body = read_to_end(sock).partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % claimed in head
    assert body == b"abcd"


def test_a_cut_inside_a_length(server: LLMServer) -> None:
    """With framing "length" a cut body is noticed by requests as incomplete."""
    server.script(Reply([b"ab", Cut(), b"cd"], framing="length"))
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        ask(server)


def test_a_reply_may_be_one_step_alone(server: LLMServer) -> None:
    """Bytes, an answer or a step need no list; an iterator will do."""
    server.script(Reply(b"a"), Reply(Answer("b")), Reply(Send(b"c")), Reply(iter([b"d", b"e"])))
    bodies = [ask(server).content for _ in range(4)]
    assert (bodies[0], bodies[2], bodies[3]) == (b"a", b"c", b"de")
    assert text_of(decode_stream(bodies[1])) == "b"


def test_a_reply_can_be_used_again(server: LLMServer) -> None:
    """A reply is a value: scripting it twice plays it twice."""
    reply = Reply(piece for piece in [b"a", b"b"])
    server.script(reply, reply)
    assert [ask(server).content for _ in range(2)] == [b"ab", b"ab"]


def test_delay(server: LLMServer) -> None:
    """The delay runs from the complete request to the head."""
    server.script(Reply(b"x", delay=0.1))
    assert ask(server).elapsed.total_seconds() >= 0.1


# --- before the head ----------------------------------------------------------------------------


def test_bytes_before_the_head(server: LLMServer) -> None:
    """What `before` sends goes out as it is, for instance an interim response."""
    server.script(Reply(b"x", before=[b"HTTP/1.1 103 Early Hints\r\n\r\n", Pause(0.01)]))
    with dialled(server) as sock:
        post(sock, b"{}", "Connection: close")
        received = read_to_end(sock)
    assert received.startswith(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_silence_before_the_head(any_server: LLMServer) -> None:
    """A service that took the request and says nothing at all."""
    any_server.script(Reply(before=Silence()))
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(
            any_server.base_url + "/responses", json={}, timeout=0.1, verify=any_server.ca_file
        )
    any_server.wait_closed(0, timeout=NOTICED)
    assert any_server.requests[0].finished_at is None


def test_cut_before_the_head(any_server: LLMServer) -> None:
    """The connection ends without a byte."""
    any_server.script(Reply(before=Cut()))
    with dialled(any_server) as sock:
        post(sock)
        assert sock.recv(100) == b""


def test_reset_before_the_head(any_server: LLMServer) -> None:
    """The connection is reset without a byte."""
    any_server.script(Reply(before=Reset()))
    with dialled(any_server) as sock:
        post(sock)
        assert read_to_reset(sock) == b""


# --- steps --------------------------------------------------------------------------------------


def test_each_send_is_one_chunk(server: LLMServer) -> None:
    """Chunks are as scripted, an empty send is not the last chunk, raw bytes pass the framing."""
    body = body_of(server, b"a" * 20, b"", Send(b"zz\r\n", raw=True), b"b")
    assert body == b"14\r\n" + b"a" * 20 + b"\r\nzz\r\n1\r\nb\r\n0\r\n\r\n"


def test_a_garbage_chunk_header_breaks_the_body(server: LLMServer) -> None:
    """A client that parses chunks meets what is none."""
    server.script(Reply([b"data: 1\n\n", Send(b"\x00garbage\r\n", raw=True)]))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        ask(server)


def test_pause(any_server: LLMServer) -> None:
    """A pause lasts as long as it says, between bytes that are delivered at once."""
    any_server.script(Reply([b"a", Pause(0.15), b"b"]))
    with dialled(any_server) as sock:
        post(sock)
        read_until(sock, b"a\r\n")
        began = time.monotonic()
        read_until(sock, b"b\r\n")
    assert 0.1 < time.monotonic() - began < 2


def test_counted_pings(server: LLMServer) -> None:
    """So many pings, each after its wait, then the rest of the script."""
    began = time.monotonic()
    body = body_of(server, Pings(0.02, count=3), b"end")
    assert time.monotonic() - began >= 0.06
    assert body == chunk(b": ping\n\n") * 3 + chunk(b"end") + b"0\r\n\r\n"


def test_endless_pings_end_with_the_client(any_server: LLMServer) -> None:
    """Pings go on as long as somebody is there, and no longer."""
    any_server.script(Reply([Pings(0.001, data=b"!")]))
    with dialled(any_server) as sock:
        post(sock)
        read_until(sock, b"!\r\n" + b"1\r\n!\r\n" * 20)
    any_server.wait_closed(0, timeout=NOTICED)


@pytest.mark.parametrize("every", [0.0, 0.001])
@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_drip_in_chunks(server: LLMServer, every: float, size: int) -> None:
    """Each piece is a chunk of its own, waits or not, and the last may be shorter."""
    data = bytes(range(10))
    body = body_of(server, Drip(data, every=every, size=size))
    assert body == b"".join(chunk(piece) for piece in pieces(data, size)) + b"0\r\n\r\n"


@pytest.mark.parametrize("every", [0.0, 0.001])
def test_drip_inside_one_chunk(server: LLMServer, every: float) -> None:
    """The pieces dribble inside a single chunk."""
    body = body_of(server, Drip(b"0123456789ABCDEF", every=every, size=3, one_chunk=True))
    assert body == b"10\r\n0123456789ABCDEF\r\n0\r\n\r\n"


def test_drip_of_nothing(server: LLMServer) -> None:
    """No data is no chunk, above all not the last."""
    body = body_of(server, Drip(b""), Drip(b"", one_chunk=True), b"x")
    assert body == b"1\r\nx\r\n0\r\n\r\n"


@pytest.mark.parametrize("framing", ["close", "length"])
def test_drip_without_chunks(any_server: LLMServer, framing: str) -> None:
    """In the other framings the pieces are just bytes."""
    assert body_of(any_server, Drip(b"abcdef", size=4), framing=framing) == b"abcdef"


def test_drip_waits_between_pieces(server: LLMServer) -> None:
    """A byte is there before the next one is sent."""
    server.script(Reply([Drip(b"abc", every=0.05)]))
    with dialled(server) as sock:
        post(sock)
        times = []
        for byte in (b"a", b"b", b"c"):
            read_until(sock, byte + b"\r\n")
            times.append(time.monotonic())
    assert times[2] - times[0] > 0.08


def test_a_recording_byte_by_byte_is_fast() -> None:
    """A megabyte as a million chunks is rendered in a fraction of a second, and rightly."""
    data = os.urandom(1_000_000)
    began = time.perf_counter()
    rendered = chunked_pieces(data, 1)
    assert time.perf_counter() - began < 1
    assert rendered[:12] == b"1\r\n" + data[:1] + b"\r\n1\r\n" + data[1:2] + b"\r\n"
    assert rendered[3::6] == data
    assert len(rendered) == 6 * len(data)


def test_a_recording_byte_by_byte_arrives(any_server: LLMServer) -> None:
    """As many chunks as bytes, over either transport."""
    data = os.urandom(20_000)
    any_server.script(Reply([Drip(data)]))
    url = any_server.base_url + "/responses"
    with requests.post(url, json={}, stream=True, verify=any_server.ca_file) as response:
        chunks = list(response.raw.stream())
    assert chunks == [data[i : i + 1] for i in range(len(data))]


def test_a_large_reply_arrives_whole(any_server: LLMServer) -> None:
    """Sixteen megabytes in one send, written in pieces as the client reads."""
    any_server.script(Reply([BIG]))
    assert ask(any_server).content == BIG


def test_cut_in_the_middle(any_server: LLMServer) -> None:
    """What was sent arrives, then the end of file; the last chunk is missing."""
    assert body_of(any_server, b"abc", Cut(), b"never") == b"3\r\nabc\r\n"


def test_cut_after_a_clean_last_chunk(any_server: LLMServer) -> None:
    """The body is complete, the connection ends all the same, and nothing announced it."""
    any_server.script(Reply([b"abc", Cut(last_chunk=True), b"never"]))
    with dialled(any_server) as sock:
        post(sock)
        received = read_to_end(sock)
    assert received.endswith(b"\r\n3\r\nabc\r\n0\r\n\r\n")
    assert b"Connection" not in received


@pytest.mark.parametrize("last_chunk", [False, True])
def test_cut_without_chunks(server: LLMServer, last_chunk: bool) -> None:
    """Where there are no chunks there is no last one to send."""
    assert body_of(server, b"abc", Cut(last_chunk=last_chunk), framing="close") == b"abc"


def test_a_connection_cut_while_the_client_pools_it(server: LLMServer) -> None:
    """Keep-alive closed by the service between calls: the next call opens a new connection."""
    server.script(Reply([b"abc", Cut(last_chunk=True)]))
    with requests.Session() as session:
        session.post(server.base_url + "/responses", json={})
        server.wait_finished(0)
        session.post(server.base_url + "/responses", json={})
    assert [r.connection for r in server.requests] == [1, 2]


@pytest.mark.parametrize("unread", [b"", b"!" * 100_000])
def test_cut_is_a_fin_even_with_unread_input(server: LLMServer, unread: bytes) -> None:
    """Input that nobody asked for does not turn the end of file into a reset."""
    server.script(Reply([b"abc", Pause(0.02), Cut()]))
    with dialled(server) as sock:
        post(sock)
        sock.sendall(unread)
        assert read_to_end(sock).endswith(b"3\r\nabc\r\n")


def test_reset_delivers_what_was_sent_before(any_server: LLMServer) -> None:
    """The bytes before are read, then the reset is met; the connection is over."""
    data = b"y" * 200_000
    any_server.script(Reply([data, Reset(), b"never"], framing="close"))
    with dialled(any_server) as sock:
        post(sock)
        received = read_to_reset(sock)
    assert received.partition(b"\r\n\r\n")[2] == data
    any_server.wait_all_closed()
    assert any_server.requests[0].finished_at is not None
    assert any_server.requests[0].closed_at is None


def test_reset_of_a_client_that_does_not_read_is_bounded(
    server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for acknowledgements ends; the reset comes all the same."""
    monkeypatch.setattr(server_module, "RESET_WAIT", 0.1)
    server.script(Reply([b"z" * 1_000_000, Reset()]))
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(address(server))
        post(sock)
        server.wait_finished(0)
        server.wait_all_closed()


# --- the client's close -------------------------------------------------------------------------

# what the server is doing when the client leaves -> the reply that keeps it at it
BUSY = {
    "silent before the head": Reply(before=[Silence()]),
    "silent": Reply([b"a", Silence()]),
    "pausing": Reply([b"a", Pause(60)]),
    "delaying": Reply(delay=60),
    "waiting to ping": Reply([b"a", Pings(60)]),
    "dripping": Reply([Drip(b"abc", every=60)]),
    "dripping in a chunk": Reply([Drip(b"abc", every=60, one_chunk=True)]),
    "sending": Reply([BIG]),
    "sending without chunks": Reply([BIG], framing="close"),
    "idle": Reply([b"a"]),
    "closing": Reply([b"a"], framing="close"),
    "cut": Reply([b"a", Cut()]),
}


@pytest.mark.parametrize("leave", ["close", "shutdown"])
@pytest.mark.parametrize("busy", BUSY)
def test_the_clients_close_is_noticed_at_once(any_server: LLMServer, busy: str, leave: str) -> None:
    """Whatever it waits for, the server sees the close within a fraction of a second."""
    any_server.script(BUSY[busy])
    with dialled(any_server) as sock:
        post(sock)
        [recorded] = any_server.wait_requests(1)
        assert recorded.closed_at is None
        left = time.monotonic()
        if leave == "shutdown":
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # as a watchdog in another thread does
            closed = any_server.wait_closed(recorded, timeout=NOTICED)
    if leave == "close":
        closed = any_server.wait_closed(recorded, timeout=NOTICED)
    assert left <= closed
    any_server.wait_all_closed(NOTICED)
    if busy not in ("idle", "closing", "cut"):
        assert recorded.finished_at is None


def test_a_reset_by_the_client_counts_as_its_close(server: LLMServer) -> None:
    """A client may leave with a reset."""
    server.script(Reply([Silence()]))
    with dialled(server) as sock:
        post(sock)
        server.wait_requests(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    server.wait_closed(0, timeout=NOTICED)


def test_the_servers_own_close_is_not_the_clients() -> None:
    """A connection that the server ends is not recorded as closed by the client."""
    with LLMServer() as server:
        server.script(Reply([Silence()]))
        with dialled(server) as sock:
            post(sock)
            server.wait_requests(1)
            server.close()
            assert server.requests[0].closed_at is None


def test_a_client_that_stays_after_a_cut_is_left_alone_in_the_end(
    server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its FIN the server does not wait for the client's for ever."""
    monkeypatch.setattr(server_module, "LINGER", 0.05)
    server.script(Reply([Cut()]))
    with dialled(server) as sock:
        post(sock)
        server.wait_finished(0)
        server.wait_all_closed()
        assert server.requests[0].closed_at is None


# --- closing the server -------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
def test_close_is_bounded_and_leaves_nothing(tls: bool) -> None:
    """Connections hang in every way there is; close takes well under 2 s and frees all."""
    server = LLMServer(tls=tls)
    with contextlib.ExitStack() as clients:
        for number, reply in enumerate(BUSY.values()):
            server.script(reply)
            post(clients.enter_context(dialled(server)))
            server.wait_requests(number + 1)
        half = clients.enter_context(dialled(server))
        half.sendall(b"POST /v1/responses HTTP/1.1\r\nContent-")
        clients.enter_context(dialled(server))
        clients.enter_context(socket.create_connection(address(server)))
        server.wait_connections(len(BUSY) + 3)
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 1
        assert bench_threads() == []
        assert server.open_connections == 0
        server.close()  # again: no effect
        assert server.errors == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address(server), timeout=5).close()


def test_close_from_several_threads() -> None:
    """Any thread may close, also at the same time."""
    server = LLMServer()
    threads = [threading.Thread(target=server.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert bench_threads() == []
    assert server.errors == []


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc to count descriptors in")
@pytest.mark.parametrize("tls", [False, True])
def test_no_descriptor_and_no_thread_is_left(tls: bool) -> None:
    """After good calls, cuts, resets and silences there are as many descriptors as before."""

    def life() -> None:
        with LLMServer(tls=tls) as server:
            endings: list[Entry] = [
                Answer("x"),
                Reply([Cut()]),
                Reply([Reset()]),
                Reply([b"x", Silence()]),
            ]
            for number in range(16):
                server.script(endings[number % 4])
                with dialled(server) as sock:
                    post(sock)
                    sock.recv(1) if number % 4 != 2 else server.wait_finished(number)
            server.wait_all_closed()

    life()  # what is made once per process is made now
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3):
        life()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads


def test_clients_that_leave_at_any_moment_do_no_harm(any_server: LLMServer) -> None:
    """A hundred clients close at moments spread over connect, handshake, request and reply."""
    any_server.default = Reply([Drip(b"0123456789" * 10, every=0.0005)])

    def leave_after(seconds: float) -> None:
        with contextlib.suppress(OSError), socket.create_connection(address(any_server)) as plain:
            gone = threading.Timer(seconds, lambda: plain.shutdown(socket.SHUT_RDWR))
            gone.start()
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                sock: socket.socket = plain
                if any_server.ca_file:
                    context = ssl.create_default_context(cafile=any_server.ca_file)
                    duplicate = plain.dup()
                    sock = stack.enter_context(
                        context.wrap_socket(duplicate, server_hostname="localhost")
                    )
                post(sock)
                read_to_end(sock)
            gone.join()

    threads = [threading.Thread(target=leave_after, args=(n * 0.0003,)) for n in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    any_server.wait_connections(100)
    any_server.wait_all_closed()
    assert any_server.errors == []
    any_server.default = Answer("still here")
    assert text_of(decode_stream(ask(any_server).content)) == "still here"


# --- errors of the bench itself -----------------------------------------------------------------


def test_a_failing_function_is_a_500_and_an_error_of_the_test() -> None:
    """The client gets an answer, and leaving the server raises with the cause."""

    def broken(recorded: Recorded) -> Answer:
        raise KeyError("a bug in the test")

    server = LLMServer()
    server.script(broken, lambda recorded: None)  # type: ignore[arg-type, return-value]
    assert [ask(server).status_code for _ in range(2)] == [500, 500]
    assert [type(one) for one in server.errors] == [KeyError, TypeError]
    with pytest.raises(AssertionError, match="a bug in the test") as caught, server:
        pass
    assert isinstance(caught.value.__cause__, KeyError)
    assert bench_threads() == []


def test_the_tests_own_failure_is_not_replaced() -> None:
    """When the block itself fails, its error is the one to see."""
    server = LLMServer()
    server.errors.append(ValueError("hidden"))
    with pytest.raises(ZeroDivisionError), server:
        raise ZeroDivisionError


def test_an_unencodable_header_shows() -> None:
    """A reply that cannot be rendered is found, not swallowed."""
    server = LLMServer()
    server.script(Reply(headers={"x": "\u20ac"}))
    with pytest.raises(requests.exceptions.ConnectionError):
        ask(server)
    with pytest.raises(AssertionError, match="UnicodeEncodeError"), server:
        pass


def test_a_function_that_does_not_return_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close stays bounded when a scripted function blocks, and names the thread."""
    monkeypatch.setattr(server_module, "CLOSE_WAIT", 0.05)
    go = threading.Event()

    def stuck(recorded: Recorded) -> Reply:
        go.wait(10)
        return Reply()

    server = LLMServer()
    server.script(stuck)
    with dialled(server) as sock:
        post(sock)
        server.wait_requests(1)
        server.close()
        assert "connection-1 did not end" in str(server.errors[0])
        go.set()
        server.wait_all_closed()
    server._threads[0].thread.join(5)


def test_a_function_may_close_its_own_server() -> None:
    """Close from inside a connection's thread does not wait for itself."""
    server = LLMServer()

    def end(recorded: Recorded) -> Reply:
        server.close()
        return Reply()

    server.script(end)
    with dialled(server) as sock:
        post(sock)
        assert sock.recv(100) == b""
    server.wait_all_closed()
    server._threads[0].thread.join(5)
    assert server.errors == []


# --- TLS ----------------------------------------------------------------------------------------


def test_the_certificate_is_verified() -> None:
    """It is good for localhost and 127.0.0.1, by an authority that nobody else trusts."""
    with LLMServer(tls=True) as server:
        port = address(server)[1]
        for host in ("localhost", "127.0.0.1"):
            url = f"https://{host}:{port}/v1/responses"
            assert requests.post(url, json={}, verify=server.ca_file).status_code == 200
        with pytest.raises(requests.exceptions.SSLError):
            requests.post(server.base_url + "/responses", json={})
        server.wait_all_closed()
        assert server.errors == []


def test_the_ca_file_goes_with_the_server() -> None:
    """A temporary file, removed at close; a file already gone is no error."""
    first, second = LLMServer(tls=True), LLMServer(tls=True)
    assert first.ca_file is not None
    assert second.ca_file is not None
    assert first.ca_file != second.ca_file
    assert Path(first.ca_file).read_bytes() == Path(second.ca_file).read_bytes()
    os.unlink(second.ca_file)
    first.close()
    second.close()
    assert not os.path.exists(first.ca_file)


def test_plain_http_on_a_tls_port_is_no_error_of_the_server() -> None:
    """A client that does not speak TLS is turned away."""
    with LLMServer(tls=True) as server:
        with socket.create_connection(address(server), timeout=5) as sock:
            post(sock)
            with contextlib.suppress(ConnectionError):
                read_to_end(sock)
        server.wait_all_closed()
        assert server.requests == []


def test_a_handshake_that_never_ends() -> None:
    """With handshake=False the TCP connection stands and the hello is never answered."""
    with LLMServer(tls=True, handshake=False) as server:
        with pytest.raises(requests.exceptions.RequestException, match="timed out"):
            requests.post(
                server.base_url + "/responses", json={}, timeout=0.1, verify=server.ca_file
            )
        server.wait_connections(1)
        server.wait_all_closed(NOTICED)
        with socket.create_connection(address(server), timeout=5) as sock:
            server.wait_connections(2)
            server.close()
            assert sock.recv(1) == b""


def test_a_client_that_stops_inside_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's side of the handshake is bounded too."""
    monkeypatch.setattr(server_module, "HANDSHAKE_WAIT", 0.05)
    with LLMServer(tls=True) as server:
        with socket.create_connection(address(server), timeout=5) as sock:
            sock.sendall(b"\x16\x03\x01")  # the first bytes of a hello
            assert sock.recv(100) == b""
        server.wait_all_closed()


def test_handshake_is_about_tls() -> None:
    """A contradiction is refused before anything listens."""
    with pytest.raises(ValueError, match="tls=True"):
        LLMServer(handshake=False)


def test_tls_without_trustme_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "trustme", None)
    monkeypatch.setattr(tls_module, "_authority", tls_module._authority.__wrapped__)
    monkeypatch.setattr(tls_module, "_context", tls_module._context.__wrapped__)
    with pytest.raises(ImportError, match=r'pip install "llmstream-sync\[test\]"'):
        LLMServer(tls=True)


@pytest.mark.parametrize("notified", [True, False])
def test_over_tls_a_clean_end_is_announced_and_a_cut_is_not(notified: bool) -> None:
    """Only the clean ends send close_notify: a strict peer can tell a cut from an end."""
    with LLMServer(tls=True) as server:
        server.script(Reply([b"a", Cut(last_chunk=notified)]))
        context = ssl.create_default_context(cafile=server.ca_file)
        with (
            socket.create_connection(address(server), timeout=5) as plain,
            context.wrap_socket(
                plain, server_hostname="localhost", suppress_ragged_eofs=False
            ) as sock,
        ):
            post(sock)
            if notified:
                assert read_to_end(sock)
            else:
                with pytest.raises(ssl.SSLEOFError):
                    read_to_end(sock)


def test_a_host_that_cannot_be_listened_on() -> None:
    """The constructor raises, and leaves no file and no thread behind."""
    before = set(Path(tempfile.gettempdir()).glob("llmstream-ca-*"))
    with pytest.raises(OSError):
        LLMServer(tls=True, host="192.0.2.1")
    after = set(Path(tempfile.gettempdir()).glob("llmstream-ca-*"))
    assert after <= before


# --- blackhole ----------------------------------------------------------------------------------


def test_blackhole() -> None:
    """A connect neither succeeds nor fails while it is open, and is refused afterwards."""
    with blackhole() as (host, port):
        with socket.socket() as sock:
            sock.setblocking(False)
            assert sock.connect_ex((host, port)) == errno.EINPROGRESS
            assert select.select([], [sock], [sock], 0.2) == ([], [], [])
        with pytest.raises(requests.exceptions.ConnectTimeout):
            requests.get(f"http://{host}:{port}/", timeout=0.1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port), timeout=5).close()


# --- answers ------------------------------------------------------------------------------------


def types_of(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_text_answer_is_the_stream_of_the_responses_api() -> None:
    """The events, their order, their places, and the whole at the end."""
    events = decode(Answer("One two.", response_id="resp_9", model="m").blocks())
    assert types_of(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(10))
    created, completed = events[0]["response"], events[-1]["response"]
    assert (created["status"], created["output"], created["usage"]) == ("in_progress", [], None)
    assert (completed["id"], completed["model"]) == ("resp_9", "m")
    assert completed["status"] == "completed"
    assert completed["output"] == [events[-2]["item"]]
    assert completed["output"][0]["content"][0]["text"] == "One two."
    assert completed["usage"] == {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 34,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 46,
    }
    assert {event["item_id"] for event in events[3:8]} == {events[2]["item"]["id"]}


@pytest.mark.parametrize(
    ("text", "deltas"),
    [
        ("Hello, world!", ["Hello,", " world!"]),
        (" a\n\n b \t", [" a", "\n\n b", " \t"]),
        ("", []),
        (["Hel", "lo", ""], ["Hel", "lo", ""]),
    ],
)
def test_text_is_split_exactly(text: str | list[str], deltas: list[str]) -> None:
    """Word-like deltas whose join is the text; a list is taken as it is."""
    answer = Answer(text, thinking=text, refusal=text)
    assert answer.text_deltas == answer.thinking_deltas == answer.refusal_deltas == deltas


def test_usage_forms() -> None:
    """Cached and reasoning tokens may follow; None is no usage."""
    full = decode(Answer("x", usage=(1, 2, 3, 4)).blocks())[-1]["response"]["usage"]
    assert full["input_tokens_details"] == {"cached_tokens": 3}
    assert full["output_tokens_details"] == {"reasoning_tokens": 4}
    assert decode(Answer("x", usage=None).blocks())[-1]["response"]["usage"] is None


def test_an_answer_with_everything() -> None:
    """Thinking, text with a refusal behind it, and two calls: four kinds, three items and one."""
    answer = Answer(
        "See.",
        thinking="Let me think.",
        refusal="No.",
        tool_calls=[("f", '{"city": "Köln"}'), ("g", "{}", "call_x")],
        finish="tool_calls",
    )
    events = decode(answer.blocks())
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert output[0]["summary"] == [{"type": "summary_text", "text": "Let me think."}]
    assert [part["type"] for part in output[1]["content"]] == ["output_text", "refusal"]
    assert output[1]["content"][1]["refusal"] == "No."
    assert [(c["name"], c["arguments"], c["call_id"]) for c in output[2:]] == [
        ("f", '{"city": "Köln"}', "call_test_0"),
        ("g", "{}", "call_x"),
    ]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == output
    assert [event["output_index"] for event in events if "item" in event] == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    for kind, index, whole in [
        ("reasoning_summary_text", 0, "Let me think."),
        ("output_text", 1, "See."),
        ("refusal", 1, "No."),
        ("function_call_arguments", 2, '{"city": "Köln"}'),
        ("function_call_arguments", 3, "{}"),
    ]:
        deltas = [
            event["delta"]
            for event in events
            if event["type"] == f"response.{kind}.delta" and event["output_index"] == index
        ]
        assert "".join(deltas) == whole


def test_item_events_nest() -> None:
    """Each item is added, filled and done before the next; parts likewise."""
    events = decode(Answer("a", thinking="b", refusal="c", tool_calls=[("f", "{}")]).blocks())
    assert types_of(events)[2:-1] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "content_part.added",
        "refusal.delta",
        "refusal.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_incomplete_answer(finish: str, reason: str) -> None:
    """The last item and the response are incomplete, and say why."""
    events = decode(Answer("cut", thinking="x", finish=finish).blocks())
    response = events[-1]["response"]
    assert events[-1]["type"] == "response.incomplete"
    assert response["incomplete_details"] == {"reason": reason}
    assert response["status"] == response["output"][-1]["status"] == "incomplete"
    assert response["usage"]["total_tokens"] == 46


def test_an_answer_that_fails_in_the_stream() -> None:
    """The error event, nested as on the live wire, then the failed response; no ending."""
    error = {"code": "server_error", "message": "sorry"}
    events = decode(Answer(error=error).blocks())
    assert types_of(events) == ["created", "in_progress", "error", "failed"]
    assert events[2]["error"] == {**error, "type": None, "param": None}
    assert events[3]["response"]["status"] == "failed"
    assert events[3]["response"]["error"] == error


def test_an_answer_that_fails_after_some_content() -> None:
    """What was said before stands, and the last item stays open."""
    events = decode(Answer("a b", thinking="t", error={"type": "overloaded_error"}).blocks())
    assert types_of(events)[-4:] == ["output_text.delta", "output_text.delta", "error", "failed"]
    assert types_of(events).count("output_item.added") == 2
    assert types_of(events).count("output_item.done") == 1


@pytest.mark.parametrize(
    ("answer", "kinds"),
    [
        (Answer(), ["message"]),
        (Answer(thinking="x"), ["reasoning"]),
        (Answer(tool_calls=[("f", "{}")]), ["function_call"]),
        (Answer(refusal="x"), ["message"]),
    ],
)
def test_which_items_an_answer_has(answer: Answer, kinds: list[str]) -> None:
    """An answer that says nothing at all is an empty message; others have what they say."""
    output = decode(answer.blocks())[-1]["response"]["output"]
    assert [item["type"] for item in output] == kinds


def test_mistakes_in_an_answer() -> None:
    """Each is refused where it is made."""
    with pytest.raises(ValueError, match="finish"):
        Answer(finish="end_turn")
    with pytest.raises(ValueError, match="usage"):
        Answer(usage=(1,))
    with pytest.raises(ValueError, match="tool call"):
        Answer(tool_calls=[("f",)])
    with pytest.raises(ValueError, match="no encoder for the API 'telepathy'"):
        Answer().blocks("telepathy")


def test_an_answer_always_gives_the_same_bytes() -> None:
    """No clock and no random numbers: two runs compare equal."""
    make = Answer("a b", thinking="c", tool_calls=[("f", "{}")]).blocks
    assert make() == make()


def test_an_api_is_a_row(server: LLMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new API is a row of the registry, and is then served on its path."""
    parrot = Encoding(
        api="parrot",
        path="/parrot/speak",
        base_path="",
        prompt_field="hear",
        encode=lambda answer: [(None, {"says": answer.text}), (None, "[DONE]")],
    )
    monkeypatch.setitem(ENCODINGS, parrot.api, parrot)
    assert requests.post(server.url + "/parrot/speak?loud").text == (
        'data: {"says":"Hello, world!"}\n\ndata: [DONE]\n\n'
    )
    assert server.base_url_for("parrot") == server.url
    server.script(Reply.error(503, code="hoarse"))
    assert requests.post(server.url + "/parrot/speak").json()["error"]["code"] == "hoarse"
    server.script(LLMServer.echo)
    assert '"says":"Hi"' in requests.post(server.url + "/parrot/speak", json={"hear": "Hi"}).text


def test_paths_and_apis() -> None:
    """The end of the path decides, without query and trailing slash."""
    assert api_of_path("/v1/responses") == "responses"
    assert api_of_path("/deployments/x/responses/?api-version=1") == "responses"
    assert api_of_path("/v1/responses/resp_1") is None
    assert sse_block("a", {"b": "ä"}) == 'event: a\ndata: {"b":"ä"}\n\n'.encode()


def test_every_event_has_the_fields_that_the_vendor_requires() -> None:
    """Checked against the table of event fields from the vendor's own package."""
    table = SHARED / "wire" / "responses_events.json"
    if not table.exists():
        pytest.skip(f"{table} is absent")
    known = json.loads(table.read_text())["responses_sse_events"]
    everything = Answer("a", thinking="b", refusal="c", tool_calls=[("f", "{}")])
    answers = [everything, Answer("x", finish="length"), Answer(error={"message": "m"})]
    for event in (event for answer in answers for event in decode(answer.blocks())):
        required = {field["name"] for field in known[event["type"]]["fields"] if field["required"]}
        if event["type"] == "error":
            required = {"type", "sequence_number"}  # nested on the live wire, flat in the table
        if event["type"] == "response.function_call_arguments.done":
            required.discard("name")  # the live wire has it in the item only
        assert required <= set(event), event["type"]


# --- the package --------------------------------------------------------------------------------


def module_level_imports(file: Path) -> set[str]:
    """The absolute modules that importing the file imports; not those for type checking only."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("name", ["server", "script", "tls"])
def test_the_server_needs_only_the_standard_library(name: str) -> None:
    """It is free of the library it tests, and of everything installed."""
    roots = {module.partition(".")[0] for module in module_level_imports(PACKAGE / f"{name}.py")}
    assert roots <= set(sys.stdlib_module_names)
    assert "from .." not in (PACKAGE / f"{name}.py").read_text()


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("answers/*.py")), ids=lambda f: f.stem)
def test_the_encoders_know_only_the_librarys_table_of_apis(file: Path) -> None:
    """The bytes of an answer do not come from the library that reads them."""
    roots = {module.partition(".")[0] for module in module_level_imports(file)}
    assert roots <= set(sys.stdlib_module_names)
    outside = [line for line in file.read_text().splitlines() if line.startswith("from ..")]
    assert all(line.startswith("from ..._core.dialects import ") for line in outside)


def test_the_plugin_imports_nothing_heavy() -> None:
    """Every test run of everybody who has the package installed loads it."""
    allowed = {"__future__", "collections.abc", "typing", "pytest"}
    assert module_level_imports(PACKAGE / "plugin.py") <= allowed


def test_the_plugins_fixture(llm_server: LLMServer) -> None:  # noqa: F811
    """A started server."""
    assert ask(llm_server).status_code == 200


def test_the_plugins_tls_fixture(llm_server_tls: LLMServer) -> None:  # noqa: F811
    """A started server that speaks TLS."""
    assert ask(llm_server_tls).status_code == 200


def test_everything_public_is_exported_and_documented() -> None:
    """What the docstring of the package names is there, and each has a docstring."""
    for name in llmstream.testing.__all__:
        assert getattr(llmstream.testing, name).__doc__
