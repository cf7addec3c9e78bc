"""What a scripted reply is on the wire, step by step."""

from __future__ import annotations

import os
import socket
import time

import pytest
import requests
from raw_client import (
    BIG,
    NOTICED,
    address,
    ask,
    body_of,
    decode_stream,
    dialled,
    post,
    read_to_end,
    read_to_reset,
    read_until,
    text_of,
)
from support import PATIENCE, cpu_seconds

from llmstream.testing import (
    Answer,
    Cut,
    Drip,
    LLMServer,
    Pause,
    Pings,
    Reply,
    Reset,
    Send,
    Silence,
    channel,
)
from llmstream.testing.script import LAST_CHUNK, Piece, chunk, chunked_pieces, pieces

# --- replies --------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("end", [(), (Cut(last_chunk=True),)], ids=["the end", "a cut"])
def test_the_end_of_a_body_leaves_with_what_is_before_it(
    server: LLMServer, monkeypatch: pytest.MonkeyPatch, end: tuple[Piece, ...]
) -> None:
    """In one write: a client that has the end of an answer has that of its body, too."""
    written: list[bytes] = []
    real = channel.Channel.send

    def send(self: channel.Channel, data: bytes) -> None:
        written.append(bytes(data))
        real(self, data)

    monkeypatch.setattr(channel.Channel, "send", send)
    server.script(Reply([b"one", b"two", *end]), Reply([b"one", Pause(0.0), *end]))
    with requests.Session() as session:
        for number in range(2):
            assert session.post(server.base_url + "/responses", json={}).content[:3] == b"one"
            server.wait_finished(number)  # before the connection is used again, or is not
    first, second = written.index(chunk(b"one")), len(written) - 1
    assert written[first : first + 2] == [chunk(b"one"), chunk(b"two") + LAST_CHUNK]
    assert written[second - 1 :] == [chunk(b"one"), LAST_CHUNK]


def test_json_and_html_replies(server: LLMServer) -> None:
    """Documents in a stream's place, with any status."""
    server.script(Reply.json({"id": "x"}), Reply.html(), Reply.html("<p>ä", status=502))
    first, second, third = (ask(server) for _ in range(3))
    assert (first.status_code, first.json()) == (200, {"id": "x"})
    assert second.headers["content-type"].startswith("text/html")
    assert (third.status_code, third.text) == (502, "<p>ä")


def test_a_raw_reply_is_exactly_its_bytes(any_server: LLMServer) -> None:
    """Nothing is added before or after, and the connection ends."""
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
    """A claim too long is a body cut short; one too short leaves bytes after the body."""
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


# --- before the head ------------------------------------------------------------------------------


def test_bytes_before_the_head(server: LLMServer) -> None:
    """What `before` sends goes out as it is, for instance an interim response."""
    server.script(Reply(b"x", before=[b"HTTP/1.1 103 Early Hints\r\n\r\n", Pause(0.01)]))
    with dialled(server) as sock:
        post(sock, b"{}", "Connection: close")
        received = read_to_end(sock)
    assert received.startswith(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_silence_before_the_head(any_server: LLMServer) -> None:
    """A service that accepts the request and sends nothing at all."""
    any_server.script(Reply(before=Silence()))
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(
            any_server.base_url + "/responses",
            json={},
            timeout=(PATIENCE, 0.1),  # after the connection stands; its handshake has time
            verify=any_server.ca_file,
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


# --- steps ----------------------------------------------------------------------------------------


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
    any_server.script(Reply([b"a", Pause(0.15), b"b"]), Reply([b"a", Pause(60), b"b"]))
    began = time.monotonic()
    with dialled(any_server) as sock:
        post(sock)
        read_until(sock, b"a\r\n")
        read_until(sock, b"b\r\n")
        ended = any_server.wait_finished(0)
    assert ended - any_server.requests[0].received_at >= 0.15
    assert ended - began < PATIENCE
    with dialled(any_server) as sock:
        post(sock)
        read_until(sock, b"a\r\n")  # a minute before the pause is over


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
    """Without data no chunk is sent, above all not the last."""
    body = body_of(server, Drip(b""), Drip(b"", one_chunk=True), b"x")
    assert body == b"1\r\nx\r\n0\r\n\r\n"


@pytest.mark.parametrize("framing", ["close", "length"])
def test_drip_without_chunks(any_server: LLMServer, framing: str) -> None:
    """In the other framings the pieces are just bytes."""
    assert body_of(any_server, Drip(b"abcdef", size=4), framing=framing) == b"abcdef"


def test_drip_waits_between_pieces(server: LLMServer) -> None:
    """A byte is there before the next one is sent; there is a wait after each."""
    server.script(Reply([Drip(b"abc", every=60)]), Reply([Drip(b"abc", every=0.05)]))
    with dialled(server) as sock:
        post(sock)
        assert b"b\r\n" not in read_until(sock, b"a\r\n")  # a minute before the next one
    with dialled(server) as sock:
        post(sock)
        for byte in (b"a", b"b", b"c"):
            read_until(sock, byte + b"\r\n")
        ended = server.wait_finished(1)
    assert ended - server.requests[1].received_at >= 0.15


def test_a_recording_byte_by_byte_is_fast() -> None:
    """A megabyte as a million chunks is rendered in a fraction of a second, and rightly."""
    data = os.urandom(1_000_000)
    assert cpu_seconds(lambda: chunked_pieces(data, 1)) < 1
    rendered = chunked_pieces(data, 1)
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
    """Without chunks there is not a last one to send."""
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
    """Unread input does not turn the end of file into a reset."""
    server.script(Reply([b"abc", Pause(0.02), Cut()]))
    with dialled(server) as sock:
        post(sock)
        sock.sendall(unread)
        assert read_to_end(sock).endswith(b"3\r\nabc\r\n")


def test_reset_delivers_what_was_sent_before(
    any_server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes before are read, then the reset is met; the connection is over."""
    monkeypatch.setattr(channel, "RESET_WAIT", PATIENCE)  # however late the client reads
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
    monkeypatch.setattr(channel, "RESET_WAIT", 0.1)
    server.script(Reply([b"z" * 1_000_000, Reset()]))
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(address(server))
        post(sock)
        server.wait_finished(0)
        server.wait_all_closed()
