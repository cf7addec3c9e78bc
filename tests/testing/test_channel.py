"""Requests as they are read, the client's close, and TLS, driven by raw sockets."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time

import pytest
import requests
from raw_client import (
    BIG,
    BUSY,
    NOTICED,
    PATH,
    address,
    ask,
    dialled,
    post,
    read_to_end,
    read_until,
)

from llmstream.testing import (
    Cut,
    LLMServer,
    Pause,
    Reply,
    Silence,
    channel,
    connection,
)

# --- requests -------------------------------------------------------------------------------------


def test_a_request_is_recorded_as_it_was_sent(any_server: LLMServer) -> None:
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
    """Every buffer is bounded; bytes that are not a request are answered, and not recorded."""
    with dialled(server) as sock:
        sock.sendall(sent)
        assert read_to_end(sock).startswith(b"HTTP/1.1 %d " % status)
    assert server.requests == []


def test_a_client_may_leave_inside_its_request(any_server: LLMServer) -> None:
    """Half a request is neither recorded nor a failure of the server."""
    with dialled(any_server) as sock:
        sock.sendall(b"POST /v1/responses HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
    any_server.wait_connections(1)
    any_server.wait_all_closed(NOTICED)
    assert any_server.requests == []


def test_a_request_counts_although_the_client_leaves_right_after_it(
    any_server: LLMServer,
) -> None:
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


# --- the client's close ---------------------------------------------------------------------------


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
    monkeypatch.setattr(connection, "LINGER", 0.05)
    server.script(Reply([Cut()]))
    with dialled(server) as sock:
        post(sock)
        server.wait_finished(0)
        server.wait_all_closed()
        assert server.requests[0].closed_at is None


# --- TLS ------------------------------------------------------------------------------------------


def test_the_certificate_is_verified() -> None:
    """It is valid for localhost and 127.0.0.1, by an authority that is trusted nowhere else."""
    with LLMServer(tls=True) as server:
        port = address(server)[1]
        for host in ("localhost", "127.0.0.1"):
            url = f"https://{host}:{port}/v1/responses"
            assert requests.post(url, json={}, verify=server.ca_file).status_code == 200
        with pytest.raises(requests.exceptions.SSLError):
            requests.post(server.base_url + "/responses", json={})
        server.wait_all_closed()
        assert server.errors == []


def test_plain_http_on_a_tls_port_is_not_an_error_of_the_server() -> None:
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
    monkeypatch.setattr(channel, "HANDSHAKE_WAIT", 0.05)
    with LLMServer(tls=True) as server:
        with socket.create_connection(address(server), timeout=5) as sock:
            sock.sendall(b"\x16\x03\x01")  # the first bytes of a hello
            with contextlib.suppress(ConnectionResetError):  # it ended before it had read them
                assert sock.recv(100) == b""
        server.wait_all_closed()


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
