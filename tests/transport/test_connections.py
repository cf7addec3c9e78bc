"""Connections: what arrives is delivered at once, connections are reused and freed, threads do not
disturb each other, and the environment (proxies, CAs, .netrc, fork) is taken as it should be."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import (
    ANSWER,
    AT_ONCE,
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
    other_threads,
    output_of,
    read_request,
    socket_of,
    watchdogs,
)

from llmstream import (
    Client,
    ConfigurationError,
    ConnectionFailed,
    LLMStreamError,
    RateLimitError,
    Stream,
)
from llmstream._transport import http
from llmstream.testing import Answer, FakeClock, LLMServer, Pause, Recorded, Reply, Send, Silence
from llmstream.testing.script import LAST_CHUNK, chunk
from llmstream.testing.tls import server_context

TEXT = "one two three four"

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---- delivered at once -------------------------------------------------------------------------

FRAMINGS = {
    "a chunk each": ("Transfer-Encoding: chunked", chunk, LAST_CHUNK),
    "close-delimited": ("Connection: close", bytes, b""),
    "one long body": (f"Content-Length: {len(b''.join(BLOCKS))}", bytes, b""),
    "one long chunk": ("Transfer-Encoding: chunked", bytes, b"\r\n" + LAST_CHUNK),
}


@pytest.mark.parametrize("tls", [False, True], ids=["http", "tls"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_what_arrives_is_delivered_at_once(
    raw_server: Callable[..., RawServer],
    client_for: Callable[..., Client],
    tls_server: LLMServer,
    framing: str,
    tls: bool,
) -> None:
    """Each event is handed on before the next one is sent, however the body is framed: the server
    waits for the reader's word before it goes on."""
    header, frame, last = FRAMINGS[framing]
    received = threading.Semaphore(0)
    in_time: list[bool] = []

    def handler(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(f"HTTP/1.1 200 OK\r\n{header}\r\n\r\n".encode())
        if framing == "one long chunk":
            sock.sendall(b"%x\r\n" % sum(map(len, BLOCKS)))
        for block in BLOCKS:
            sock.sendall(frame(block))
            in_time.append(received.acquire(timeout=PATIENCE))
        sock.sendall(last)

    service = raw_server(handler, server_context("127.0.0.1") if tls else None)
    client = client_for(service, verify=tls_server.ca_file or True)

    def read(stream: Stream) -> None:
        for _ in stream.events():
            received.release()

    stream = client.stream(PROMPT)
    assert bounded(stream, read).error is None
    eventually(lambda: len(in_time) == len(BLOCKS), "the server has been told of each event")
    assert all(in_time)
    assert stream.text == TEXT


def test_the_end_of_the_answer_is_the_end(
    any_server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """A server that lingers after the terminal event holds nobody up; its connection is dropped."""
    any_server.script(Reply([*BLOCKS, Silence()]))
    client = client_for(any_server, timeouts=clocks(60.0))
    begun = time.monotonic()
    assert client.stream(PROMPT).result().text == TEXT
    assert time.monotonic() - begun < 5.0
    any_server.wait_closed(0)
    assert client.stream(PROMPT).result().text == "Hello, world!"
    assert any_server.connections == 2


def test_a_server_that_talks_on_is_left(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """What comes endlessly behind the terminal event is not read for ever."""
    server.script(Reply([*BLOCKS, b": more\n\n" * 200_000]))
    assert client_for(server).stream(PROMPT).result().text == TEXT
    server.wait_closed(0)


# ---- reused ------------------------------------------------------------------------------------

WHOLE = chunk(b"".join(BLOCKS))
KEPT = {
    "chunked": Reply(ANSWER),
    "with a length": Reply(ANSWER, framing="length"),
    "the last chunk a little later": Reply([*BLOCKS, Pause(0.01)]),
    "pings before the last chunk": Reply([*BLOCKS, b": bye\n\n", b"data: [DONE]\n\n"]),
    "all in one packet": Reply([Send(WHOLE + LAST_CHUNK, raw=True)], headers={"x": "y"}),
    "429 first": Reply.error(429),
    "a chunked 500 first": Reply([b'{"error": {}}'], status=500),
    "a JSON answer": Reply.json(
        {
            "id": "r",
            "object": "response",
            "status": "completed",
            "output": [{"type": "message", "content": [{"type": "output_text", "text": TEXT}]}],
        }
    ),
}


@pytest.mark.parametrize("name", [name for name in KEPT if name != "all in one packet"])
def test_connections_are_reused(
    any_server: LLMServer, client_for: Callable[..., Client], name: str
) -> None:
    """Consecutive calls share one connection, also after an error status."""
    any_server.default = KEPT[name]
    # The end of a body is waited for 50 ms. Time stands still: it comes within them.
    client = client_for(any_server, retry=ONCE, clock=FakeClock())
    for _ in range(4):
        stream = client.stream(PROMPT)
        with contextlib.suppress(LLMStreamError):
            assert stream.result().text == TEXT
    assert len(any_server.requests) == 4
    assert any_server.connections == 1


def test_connections_that_the_server_ends_are_not(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """A body without a length costs its connection, and nothing else."""
    server.default = Reply(ANSWER, framing="close")
    client = client_for(server, retry=ONCE)
    for number in range(3):
        assert client.stream(PROMPT).result().text == TEXT
        server.wait_closed(number)
    assert server.connections == 3


def test_views_reuse_connections_too(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """A stream read by a loop, in a with block or not, gives its connection back."""
    client = client_for(server)
    assert [*client.stream(PROMPT)] == ["Hello,", " world!"]
    with client.stream(PROMPT) as stream:
        assert [*stream] == ["Hello,", " world!"]
    assert [chunk.text for chunk in client.stream(PROMPT).chunks()] == ["Hello,", " world!"]
    assert len([*client.stream(PROMPT).events()]) > 2
    assert server.connections == 1


def test_closing_a_client_closes_its_idle_connections(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Client.close() closes them at once, even while somebody keeps a stream and its error."""
    server.script(ANSWER, Reply.error(500))
    client = client_for(server, retry=ONCE)
    kept: list[Any] = [client.stream(PROMPT).result(), client.stream(PROMPT)]
    kept.append(failure(kept[-1]))
    assert server.open_connections == 1
    client.close()
    server.wait_all_closed()


def test_no_idle_connection_where_none_is_wanted(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """max_connections=0 keeps none, or is refused: it is not "as many as you like"."""
    try:
        client = client_for(server, max_connections=0)
    except ConfigurationError:
        return
    client.stream(PROMPT).result()
    server.wait_all_closed()


def test_only_so_many_connections_stay_idle(
    server: LLMServer, client_for: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    """The pool grows with use and shrinks back to max_connections, without a word in the logs."""
    gate = threading.Barrier(12)

    def together(_: Recorded) -> Answer:
        gate.wait(PATIENCE)
        return ANSWER

    server.default = together
    client = client_for(server, max_connections=3)
    readings = [Reading(client.stream(PROMPT)) for _ in range(12)]
    assert [reading.ended() for reading in readings] == [None] * 12
    assert server.connections == 12
    eventually(lambda: server.open_connections == 3, "three connections stay")
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


# ---- many threads ------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_thread_hears_anothers_answer(
    any_server: LLMServer, client_for: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    """60 threads with 10 streams each on one client: each prompt comes back to its own stream."""
    any_server.default = any_server.echo
    client = client_for(any_server)

    def work(number: int) -> None:
        for call in range(10):
            prompt = f"thread {number} call {call} " + "x" * number
            result = client.stream(prompt).result()
            assert result.text == prompt
            assert len(result.attempts) == 1

    unused = client.stream(PROMPT)
    workers = [Reading(unused, lambda _, n=n: work(n)) for n in range(60)]
    assert [worker.ended(within=60) for worker in workers] == [None] * 60
    assert len(any_server.requests) == 600
    assert any_server.connections < 120  # a busy machine drops some whose end came too late
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert len(watchdogs()) == 1
    client.close()
    any_server.wait_all_closed()


def test_streams_interleave_in_one_thread(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Ten streams read in turns by one thread do not mix."""
    server.default = server.echo
    client = client_for(server)
    prompts = [f"a{n} b{n} c{n} d{n}" for n in range(10)]
    streams = [client.stream(prompt) for prompt in prompts]
    texts = [""] * 10
    for _ in range(4):
        for number, stream in enumerate(streams):
            texts[number] += next(stream)
    assert texts == prompts


# ---- the environment ---------------------------------------------------------------------------


def test_netrc_does_not_replace_the_key(
    server: LLMServer,
    client_for: Callable[..., Client],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A .netrc entry for the host changes nothing."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    client_for(server, api_key="the-key").stream(PROMPT).result()
    client_for(server, api_key=None).stream(PROMPT).result()
    assert server.requests[0].headers["authorization"] == "Bearer the-key"
    assert "authorization" not in server.requests[1].headers


def test_the_ca_bundle_of_the_environment(
    tls_server: LLMServer, client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """REQUESTS_CA_BUNDLE is used where verify= says nothing else."""
    assert tls_server.ca_file is not None
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls_server.ca_file)
    assert client_for(tls_server, verify=True).stream(PROMPT).result().text == "Hello, world!"


def test_verify_wins_over_the_environment(
    tls_server: LLMServer,
    client_for: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """verify=path is used although REQUESTS_CA_BUNDLE names another file."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    assert client_for(tls_server).stream(PROMPT).result().text == "Hello, world!"


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_verification_can_be_turned_off(
    tls_server: LLMServer, client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """verify=False takes any certificate, whatever the environment says."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    assert client_for(tls_server, verify=False).stream(PROMPT).result().text == "Hello, world!"


def test_a_certificate_that_is_not_trusted(
    tls_server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """A certificate that does not verify is no reason to ask again; the message says what to do."""
    error = failure(client_for(tls_server, verify=True, retry=AT_ONCE).stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert not error.retryable
    assert "REQUESTS_CA_BUNDLE" in str(error)
    assert len(error.attempts) == tls_server.connections == 1
    assert tls_server.requests == []


@pytest.mark.parametrize("where", ["argument", "environment"])
def test_a_ca_file_that_is_not_there(
    tls_server: LLMServer,
    client_for: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """A CA file that cannot be read is the caller's mistake."""
    if where == "environment":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    client = client_for(tls_server, verify=True if where == "environment" else "/nowhere/ca.pem")
    assert type(failure(client.stream(PROMPT))) is ConfigurationError


def test_a_ca_file_that_is_none(
    tls_server: LLMServer, client_for: Callable[..., Client], tmp_path: Path
) -> None:
    """A CA file without a certificate in it is an error of ours, too."""
    empty = tmp_path / "ca.pem"
    empty.write_text("this is no certificate")
    error = failure(client_for(tls_server, verify=str(empty), retry=ONCE).stream(PROMPT))
    assert isinstance(error, (ConfigurationError, ConnectionFailed))


def test_plain_http_to_a_tls_server_and_the_reverse(
    server: LLMServer, tls_server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """The wrong scheme in base_url is an error of ours, at once."""
    to_tls = tls_server.base_url.replace("https", "http")
    to_plain = server.base_url.replace("http", "https")
    for base_url in (to_tls, to_plain):
        client = client_for(None, base_url=base_url, retry=ONCE, timeouts=clocks(1.0))
        assert isinstance(failure(client.stream(PROMPT)), LLMStreamError)


def test_redirects_are_not_followed(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """A redirect is an error: the prompt and the key go where they were meant to go."""
    with LLMServer() as elsewhere:
        for status in (301, 302, 303, 307, 308):
            location = {"location": elsewhere.base_url + "/responses"}
            server.script(Reply(status=status, headers=location, framing="length"))
            error = failure(client_for(server).stream(PROMPT))
            assert str(status) in str(error)
        assert elsewhere.connections == 0
    assert len(server.requests) == 5


def test_no_cookies(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """A cookie that the server sets is not sent back with another's request."""
    server.default = Reply(ANSWER, headers={"set-cookie": "session=1; Path=/"})
    client = client_for(server)
    for _ in range(2):
        client.stream(PROMPT).result()
    assert "cookie" not in server.requests[1].headers


# ---- proxies -----------------------------------------------------------------------------------


def test_an_http_proxy_of_the_environment(
    server: LLMServer, client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain HTTP goes through HTTP_PROXY, which sees the absolute address."""
    monkeypatch.setenv("http_proxy", server.url.replace("://", "://user:secret@"))
    client = client_for(None, base_url="http://llm.invalid/v1")
    for _ in range(2):
        assert client.stream(PROMPT).result().text == "Hello, world!"
    request = server.requests[0]
    assert request.path == "http://llm.invalid/v1/responses"
    assert request.headers["authorization"] == "Bearer test-key"
    assert request.headers["proxy-authorization"].startswith("Basic ")
    assert server.connections == 1


def test_no_proxy(
    server: LLMServer, client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_PROXY hosts are asked for directly."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "llm.invalid")
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        return real("127.0.0.1" if host == "llm.invalid" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    port = server.url.rpartition(":")[2]
    client = client_for(None, base_url=f"http://llm.invalid:{port}/v1", retry=ONCE)
    assert client.stream(PROMPT).result().text == "Hello, world!"


def test_a_server_on_this_machine_needs_no_proxy(
    server: LLMServer, client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local server is never asked for through a proxy."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert client_for(server, retry=ONCE).stream(PROMPT).result().text == "Hello, world!"


class Tunnel:
    """An HTTP proxy that takes CONNECT, whatever the host, to one server; or answers as told."""

    def __init__(self, target: str = "", answer: bytes = b"HTTP/1.1 200 Connected\r\n\r\n") -> None:
        self.target = int(target.rpartition(":")[2]) if target else 0
        self.answer = answer
        self.heads: list[bytes] = []

    def __call__(self, sock: socket.socket) -> None:
        self.heads.append(read_request(sock))
        sock.sendall(self.answer)
        if not self.target:
            return
        with socket.create_connection(("127.0.0.1", self.target)) as onward:
            self.relay(sock, onward)

    @staticmethod
    def relay(one: socket.socket, other: socket.socket) -> None:
        """Both directions in this thread (a TLS socket is not for two) until either ends."""
        while True:
            waiting = getattr(one, "pending", lambda: 0)()
            ready = [one] if waiting else select.select([one, other], [], [], PATIENCE)[0]
            if not ready:
                return
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                (other if source is one else one).sendall(data)


@pytest.fixture
def through(
    raw_server: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RawServer]:
    """`through(tunnel, context=None)`: https goes through this proxy."""

    def start(tunnel: Tunnel, context: ssl.SSLContext | None = None) -> RawServer:
        proxy = raw_server(tunnel, context)
        monkeypatch.setenv("https_proxy", proxy.url)
        return proxy

    return start


def named(server: LLMServer) -> str:
    """The server's base_url under a name of its certificate that is no loopback to us."""
    return f"https://llm.test:{server.url.rpartition(':')[2]}/v1"


@pytest.mark.parametrize("tls", [False, True], ids=["http proxy", "https proxy"])
def test_a_tunnel(
    tls_server: LLMServer,
    client_for: Callable[..., Client],
    through: Callable[..., RawServer],
    monkeypatch: pytest.MonkeyPatch,
    tls: bool,
) -> None:
    """HTTPS goes through CONNECT: the proxy sees neither key nor prompt, and a cancel and the
    clocks work through it, on a new connection and on a reused one; TLS inside TLS too."""
    assert tls_server.ca_file is not None
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls_server.ca_file)
    tunnel = Tunnel(tls_server.url)
    proxy = through(tunnel, server_context("127.0.0.1") if tls else None)
    client = client_for(
        tls_server,
        base_url=named(tls_server),
        verify=True,
        timeouts=clocks(8.0),
        retry=ONCE,
    )
    assert client.stream(PROMPT).result().text == "Hello, world!"
    assert client.stream(PROMPT).result().text == "Hello, world!"
    assert proxy.accepted == 1
    assert tunnel.heads[0].startswith(b"CONNECT llm.test")
    assert b"test-key" not in tunnel.heads[0]
    tls_server.script(Reply([*TWO_TOKENS, Silence()]))
    dying = client.stream(PROMPT, timeouts=clocks(8.0, idle=0.3))
    assert type(failure(dying)).__name__ == "IdleTimeout"
    for _ in range(2):  # on a new connection, and on one that has served a call
        tls_server.script(Reply([*TWO_TOKENS, Silence()]))
        stream = client.stream(PROMPT, timeouts=clocks(60.0))
        reading = Reading(stream)
        eventually(lambda s=stream: s.text == "one two", "the stream is in the middle")
        stream.cancel()
        assert type(reading.ended()).__name__ == "Cancelled"
        assert client.stream(PROMPT).result().text == "Hello, world!"
    client.close()
    tls_server.wait_all_closed()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
        b"HTTP/1.1 200 Connected\r\n\r\n",  # and then the end
        b"nonsense\r\n\r\n",
        b"",
    ],
)
def test_a_proxy_that_refuses(
    tls_server: LLMServer,
    client_for: Callable[..., Client],
    through: Callable[[Tunnel], RawServer],
    answer: bytes,
) -> None:
    """What a proxy says before the tunnel stands is no answer of the service: no connection."""
    through(Tunnel(answer=answer))
    client = client_for(tls_server, base_url=named(tls_server), retry=ONCE, timeouts=clocks(8.0))
    error = failure(client.stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert tls_server.connections == 0


def test_a_wrong_certificate_behind_a_proxy(
    tls_server: LLMServer,
    client_for: Callable[..., Client],
    through: Callable[[Tunnel], RawServer],
) -> None:
    """It is the same mistake with a proxy as without one, and not asked again either."""
    through(Tunnel(tls_server.url))
    client = client_for(
        tls_server, base_url=named(tls_server), verify=True, retry=AT_ONCE, timeouts=clocks(8.0)
    )
    error = failure(client.stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert "certificate" in str(error)
    assert not error.retryable
    assert len(error.attempts) == 1


def test_a_proxy_that_is_silent(
    tls_server: LLMServer,
    client_for: Callable[..., Client],
    through: Callable[[Tunnel], RawServer],
) -> None:
    """The connect clock covers the proxy and the handshake behind it, and no other clock does."""
    over = threading.Event()

    class Silent(Tunnel):
        def __call__(self, sock: socket.socket) -> None:
            read_request(sock)
            sock.sendall(self.answer)
            over.wait(PATIENCE)

    through(Silent())
    client = client_for(
        tls_server,
        base_url=named(tls_server),
        retry=ONCE,
        timeouts=clocks(8.0, connect=0.4, silence=0.1),
    )
    error = failure(client.stream(PROMPT))
    over.set()
    assert type(error).__name__ == "ConnectTimeout"


# ---- addresses, options ------------------------------------------------------------------------


def test_every_address_of_a_host_is_tried(
    server: LLMServer, client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first address that refuses does not spoil the second."""
    port = int(server.url.rpartition(":")[2])
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        if host != "llm.invalid":
            return real(host, *args, **kwargs)
        if kwargs.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.0.1", 1)), (*kind, ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    client = client_for(None, base_url=f"http://llm.invalid:{port}/v1", retry=ONCE)
    assert client.stream(PROMPT).result().text == "Hello, world!"


def test_an_address_that_hangs_leaves_time_for_the_next(
    server: LLMServer,
    client_for: Callable[..., Client],
    unanswering: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One address that does not answer cannot use up the connect clock."""
    dead = int(unanswering.base_url.rpartition(":")[2].split("/")[0])
    port = int(server.url.rpartition(":")[2])
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        if host != "llm.invalid":
            return real(host, *args, **kwargs)
        if kwargs.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.0.1", dead)), (*kind, ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    client = client_for(
        None,
        base_url=f"http://llm.invalid:{port}/v1",
        retry=ONCE,
        timeouts=clocks(8.0, connect=3.0),
    )
    assert client.stream(PROMPT).result().text == "Hello, world!"


def test_tcp_options(any_server: LLMServer, client_for: Callable[..., Client]) -> None:
    """Connections have TCP keepalive and no Nagle delay, and block without a timeout of theirs."""
    any_server.script(Reply([*TWO_TOKENS, Silence()]))
    stream = client_for(any_server).stream(PROMPT)
    next(stream)
    sock = socket_of(stream)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.gettimeout() is None
    assert isinstance(sock, ssl.SSLSocket) == any_server.url.startswith("https")
    stream.close()


def test_streams_need_no_threads(server: LLMServer, client_for: Callable[..., Client]) -> None:
    """Thirty running streams: one watchdog, and no other thread of the library."""
    server.default = Reply([*TWO_TOKENS, Silence()])
    client = client_for(server)
    before = other_threads()
    streams = [client.stream(PROMPT) for _ in range(30)]
    for stream in streams:
        next(stream)
    names = [t.name for t in other_threads() - before if t.name.startswith("llmstream-")]
    assert [name for name in names if not name.startswith("llmstream-test-server")] == []
    assert len(watchdogs()) == 1
    client.close()


# ---- fork --------------------------------------------------------------------------------------

FORK = """
    import os, sys
    from llmstream import Client

    base_url, ca_file, when = sys.argv[1:]
    client = Client(base_url=base_url, verify=ca_file or True)

    def ask(who):
        result = client.stream(who).result()
        assert (result.text, len(result.attempts)) == (who, 1), result

    if when == "after use":
        ask("parent before")
    children = []
    for number in range(3):
        pid = os.fork()
        if not pid:
            try:
                for call in range(3):
                    ask(f"child {number} call {call}")
                client.close()
            except BaseException as exc:
                print("child:", repr(exc), flush=True)
                os._exit(1)
            os._exit(0)
        children.append(pid)
        ask(f"parent between {number}")
    statuses = [os.waitpid(pid, 0)[1] for pid in children]
    ask("parent after")
    print(statuses)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("when", ["before use", "after use"])
def test_a_client_survives_a_fork(any_server: LLMServer, when: str) -> None:
    """Parent and children use a client made before the fork, each with connections of its own."""
    # With a length the end of a body is known at once, on a busy machine too: each connection is
    # used again.
    any_server.default = lambda recorded: Reply(any_server.echo(recorded), framing="length")
    output = output_of(FORK, any_server.base_url, any_server.ca_file or "", when)
    assert output == "[0, 0, 0]\n"
    assert any_server.connections == 4  # nobody's were taken by another


LOCKED = """
    import os, sys, threading, time
    from llmstream import Client

    client = Client(base_url=sys.argv[1])
    client.stream("before").result()
    held, over = threading.Event(), threading.Event()

    def hold():
        # A thread that is inside the client, its transport and its streams just now.
        owners = (client, client._endpoint.transport)
        locks = [v for owner in owners for v in vars(owner).values() if hasattr(v, "acquire")]
        for lock in locks:
            lock.acquire()
        held.set()
        over.wait(0.3)
        for lock in locks:
            lock.release()

    threading.Thread(target=hold).start()
    held.wait()
    pid = os.fork()
    if not pid:
        assert client.stream("child").result().text == "child"
        client.close()
        os._exit(0)
    deadline = time.monotonic() + 10
    while not (done := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.01)
    if not done[0]:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    print("fine" if done == (pid, 0) else f"the child hangs, or failed: {done}")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_another_thread_is_inside(server: LLMServer) -> None:
    """A lock that another thread holds at the moment of the fork is not held in the child for
    ever: threads do not survive a fork, their locks do."""
    server.default = server.echo
    assert output_of(LOCKED, server.base_url).endswith("fine\n")


RUNNING = """
    import os, sys, threading
    from llmstream import Client

    base_url, ca_file, how = sys.argv[1:]
    client = Client(base_url=base_url, verify=ca_file or True)
    stream = client.stream("Hi")
    tokens = iter(stream)
    first = next(tokens)
    pid = os.fork()
    if not pid:
        if how == "close the client":
            client.close()
        elif how == "cancel":
            stream.cancel()
        elif how == "close":
            stream.close()
        elif how == "drop":
            del tokens, stream
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    print("".join([first, *tokens]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("how", ["close the client", "cancel", "close", "drop", "exit"])
def test_a_child_does_not_end_its_parents_stream(
    server: LLMServer, tls_server: LLMServer, how: str
) -> None:
    """A child that cleans up what it inherited shuts nothing that the parent still uses."""
    any_server = tls_server if how == "close the client" else server
    # what comes late is sent when the child is long gone
    any_server.default = Reply([*OPENING, DELTAS[0], Pause(0.6), *DELTAS[1:], *ENDING])
    output = output_of(RUNNING, any_server.base_url, any_server.ca_file or "", how)
    assert output == f"{TEXT}\n"


# ---- descriptors -------------------------------------------------------------------------------


FEW = """
    import os, resource, sys
    from support import open_sockets
    from llmstream import Client, LLMStreamError, RetryPolicy

    base_url, ca_file, more = sys.argv[1:]
    client = Client(
        base_url=base_url, verify=ca_file or True, retry=RetryPolicy(max_attempts=1)
    )
    client.stream("Hi").result()
    client._endpoint.transport.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    for _ in range(int(more)):
        os.close(taken.pop())
    outcome = "whole"
    try:
        client.stream("Hi").result()
    except LLMStreamError as exc:
        outcome = type(exc).__name__
    for fd in taken:
        os.close(fd)
    assert client.stream("Hi").result().text == "Hello, world!"
    client.close()
    assert not open_sockets()
    print(outcome)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("more", [0, 1, 2])
def test_no_more_descriptors(any_server: LLMServer, more: int) -> None:
    """Out of descriptors: an error of ours, nothing left open, and the client works again when
    there are some."""
    outcome = output_of(FEW, any_server.base_url, any_server.ca_file or "", str(more)).strip()
    expected = {"ConnectionFailed"} if more == 0 else {"ConnectionFailed", "whole"}
    assert outcome in expected


# ---- nothing in the logs -----------------------------------------------------------------------


def test_nothing_secret_is_logged(
    server: LLMServer, client_for: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    """With every logger at DEBUG: neither the key, nor the prompt, nor the answer."""
    caplog.set_level(logging.DEBUG)
    server.script(
        Reply([b"nonsense: marked-answer\n\n", *Answer("marked-answer").blocks()]),
        Reply.error(429, message="marked-answer", headers={"retry-after": "0"}),
        Reply(before=[Silence()]),
    )
    client = client_for(server, api_key="marked-key", timeouts=clocks(8.0))
    client.stream("marked-prompt").result()
    assert isinstance(
        failure(client.stream("marked-prompt", retry=ONCE), Stream.result), RateLimitError
    )
    soon = clocks(8.0, first_token=0.2)
    failure(client.stream("marked-prompt", retry=ONCE, timeouts=soon))
    assert "marked-" not in caplog.text


def test_the_thread_local_is_left_clean(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Between two calls a thread holds on to nothing of the last one."""
    client = client_for(server)
    client.stream(PROMPT).result()
    server.script(Reply.error(400))
    failure(client.stream(PROMPT), Stream.result)
    with contextlib.suppress(LLMStreamError):
        client.stream(PROMPT).result()
    assert http.current.scope is None
    assert set(vars(http.current).values()) == {None}


# ---- chunks that have arrived together -----------------------------------------------------------


def chunked(data: bytes, rng: random.Random, plain: bool) -> bytes:
    """A chunked body (RFC 9112, 7.1), in sizes, and unless `plain` in forms, that are allowed, or
    that http.client takes all the same."""
    body = b""
    while data:
        size = rng.choice((1, 2, 9, 10, 16, 40, 300, 4000, 20_000))
        piece, data = data[:size], data[size:]
        length = f"{len(piece):x}"
        forms = (*[length] * 9, length.upper(), f"000{length}", f"{length};a=b", f" {length} ")
        body += (length if plain else rng.choice(forms)).encode() + b"\r\n" + piece + b"\r\n"
    return body + rng.choice((b"0\r\n\r\n", b"0\r\nx-trailer: 1\r\n\r\n", b"00;end\r\n\r\n"))


@pytest.mark.parametrize("seed", range(25))
def test_chunks_that_arrived_together_are_read_as_one_by_one(
    raw_server: Callable[..., RawServer],
    client_for: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    """Chunks of any size and form, sent in any pieces, whole, cut short or broken: what comes of
    them is what http.client makes of them one at a time; and the quicker way is taken."""
    rng = random.Random(seed)
    text = " ".join(f"word{number}" for number in range(rng.choice((5, 60, 400))))
    blocks = Answer(text).blocks()
    plain = seed % 5 == 0
    body = chunked(b"".join(blocks), rng, plain)
    if seed % 5 == 3:
        body = body[: rng.randrange(len(body))]  # cut anywhere
    if seed % 5 == 4:
        at = rng.randrange(len(body))
        body = body[:at] + rng.choice((b"\n", b"zz", b"-1\r\n", b"\r\n\r\n")) + body[at:]  # broken
    cuts = sorted(
        rng.randrange(len(body) + 1) for _ in range(0 if plain else rng.choice((0, 3, 30)))
    )
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]

    def handle(sock: socket.socket) -> None:
        read_request(sock)
        head = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        sock.sendall(b"HTTP/1.1 200 OK\r\n" + head)
        for piece in pieces:
            sock.sendall(piece)

    ahead = http._chunks_ahead
    taken: list[int] = []

    def counted(file: Any, had: int) -> list[bytes]:
        found = ahead(file, had)
        taken.append(len(found))
        return found

    outcomes = []
    for way in (counted, lambda file, had: []):
        monkeypatch.setattr(http, "_chunks_ahead", way)
        stream = client_for(raw_server(handle), retry=ONCE).stream(PROMPT)
        seen: list[bytes] = []
        error = bounded(stream, lambda s, seen=seen: seen.extend(e.raw for e in s.events())).error
        outcomes.append((seen, stream.text, type(error), stream.state.status))
    assert outcomes[0] == outcomes[1]
    assert (outcomes[0][2] is type(None)) == (seed % 5 < 3) or seed % 5 == 4
    assert any(taken) or not plain
