"""The scripted server: its replies, what a test can wait for, and its end."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from raw_client import (
    BUSY,
    PATH,
    address,
    ask,
    bench_threads,
    decode_stream,
    dialled,
    post,
    read_to_end,
    text_of,
)
from support import PATIENCE, eventually, other_threads

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
    Silence,
    blackhole,
    channel,
    connection,
)
from llmstream.testing import server as server_module
from llmstream.testing import tls as tls_module
from llmstream.testing.answers import ENCODINGS, Encoding, api_of_path, sse_block
from llmstream.testing.script import Entry


def open_files() -> set[tuple[str, str]]:
    """The descriptors of this process and what they stand for (empty where there is no /proc). One
    that another test has left may be closed at any moment."""
    found = set()
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with contextlib.suppress(OSError):  # the listing's own
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found


# --- requests and what answers them ---------------------------------------------------------------


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
        {
            "contents": [
                {"role": "user", "parts": [{"text": "say this"}]},
                {"role": "model", "parts": [{"text": "no"}]},
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


def test_a_request_that_is_listed_has_taken_its_reply(
    server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is scripted once the request was seen is for the next one."""
    left: list[int] = []
    received = server._journal.received

    def listed(recorded: Recorded) -> None:
        left.append(len(server._script))
        received(recorded)

    monkeypatch.setattr(server._journal, "received", listed)
    server.script(Answer("one"), Answer("two"))
    for _ in range(2):
        ask(server)
    assert left == [1, 0]


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


# --- waiting for the server -----------------------------------------------------------------------


def test_waiting_in_vain_is_a_sentence(server: LLMServer) -> None:
    """Each wait is bounded and says what did not happen."""
    with pytest.raises(TimeoutError, match=r"0 of 1 requests arrived within 0\.01 s"):
        server.wait_requests(1, timeout=0.01)
    with pytest.raises(TimeoutError, match="0 of 2 connections"):
        server.wait_connections(2, timeout=0.01)
    with pytest.raises(TimeoutError, match="request 0 did not arrive"):
        server.wait_closed(0, timeout=0.01)
    with dialled(server) as sock:
        post(sock)
        server.wait_requests(1)
        with pytest.raises(TimeoutError, match=f"did not close within .* POST {PATH} on conn"):
            server.wait_closed(0, timeout=0.01)
        with pytest.raises(TimeoutError, match=r"connections still open after 0\.01 s: 1"):
            server.wait_all_closed(timeout=0.01)
        assert server.open_connections == 1
    server.script(Reply([Silence()]))
    with dialled(server) as sock:
        post(sock)
        server.wait_requests(2)
        with pytest.raises(TimeoutError, match="the reply was not finished"):
            server.wait_finished(1, timeout=0.05)


def test_waits_are_woken_by_what_they_wait_for(server: LLMServer) -> None:
    """A wait that began before the request arrived returns when it has."""
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


# --- TLS ------------------------------------------------------------------------------------------


def test_the_ca_file_goes_with_the_server() -> None:
    """A temporary file, removed at close; a file that is gone already is not an error."""
    first, second = LLMServer(tls=True), LLMServer(tls=True)
    assert first.ca_file is not None
    assert second.ca_file is not None
    assert first.ca_file != second.ca_file
    assert Path(first.ca_file).read_bytes() == Path(second.ca_file).read_bytes()
    os.unlink(second.ca_file)
    first.close()
    second.close()
    assert not os.path.exists(first.ca_file)


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


def test_a_host_that_cannot_be_listened_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The constructor raises, and no file and no thread is left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # other processes use the usual one
    with pytest.raises(OSError):
        LLMServer(tls=True, host="192.0.2.1")
    assert [*tmp_path.iterdir()] == []


# --- closing the server ---------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
def test_close_is_bounded_and_leaves_nothing(tls: bool) -> None:
    """Connections hang in every way there is, for 10 s or more; close ends all of them."""
    assert min(connection.LINGER, channel.HANDSHAKE_WAIT) > server_module.CLOSE_WAIT
    before = other_threads()
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
        server.close()
        assert server.errors == []  # no thread has outlived CLOSE_WAIT
        assert bench_threads(but=before) == []
        assert server.open_connections == 0
        server.close()  # again: no effect
        assert server.errors == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address(server), timeout=5).close()


def test_close_from_several_threads() -> None:
    """Any thread may close, also at the same time."""
    before = other_threads()
    server = LLMServer()
    threads = [threading.Thread(target=server.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert bench_threads(but=before) == []
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
    before, threads = open_files(), other_threads()
    for _ in range(3):
        life()
    assert open_files() - before == set()
    eventually(lambda: not other_threads() - threads, "the threads have ended")


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


# --- errors of the bench itself -------------------------------------------------------------------


def test_a_failing_function_is_a_500_and_an_error_of_the_test() -> None:
    """The client gets an answer, and leaving the server raises with the cause."""

    def broken(recorded: Recorded) -> Answer:
        raise KeyError("a bug in the test")

    before = other_threads()
    server = LLMServer()
    server.script(broken, lambda recorded: None)  # type: ignore[arg-type, return-value]
    assert [ask(server).status_code for _ in range(2)] == [500, 500]
    assert [type(one) for one in server.errors] == [KeyError, TypeError]
    with pytest.raises(AssertionError, match="a bug in the test") as caught, server:
        pass
    assert isinstance(caught.value.__cause__, KeyError)
    assert bench_threads(but=before) == []


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
    server._connections[0].thread.join(5)


def test_close_waits_for_whoever_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late it looks at the bell: it would wait for a closed one for ever."""
    monkeypatch.setattr(server_module, "CLOSE_WAIT", 0.0)
    server = LLMServer()
    lived: list[bool] = []
    close_sockets = server._close_sockets

    def closing() -> None:
        lived.append(server._acceptor.is_alive())
        close_sockets()

    monkeypatch.setattr(server, "_close_sockets", closing)
    server.close()
    assert lived == [False]


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
    server._connections[0].thread.join(5)
    assert server.errors == []


# --- blackhole ------------------------------------------------------------------------------------


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


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that the system does not start, by what their names begin with."""
    refused: list[str] = []
    real = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if self.name.startswith(tuple(refused)):
            raise RuntimeError("can't start new thread")
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    return refused


@pytest.mark.parametrize("tls", [False, True])
def test_no_thread_for_a_server(no_thread: list[str], tls: bool) -> None:
    """It is not made, and keeps no socket and no file."""
    before = open_files()
    no_thread.append("llmstream-test-server-acceptor")
    with pytest.raises(RuntimeError, match="starts no further thread"):
        LLMServer(tls=tls)
    assert open_files() - before == set()


def test_no_thread_for_a_connection(no_thread: list[str]) -> None:
    """It is closed, and reported; the server goes on, and serves the next one."""
    server = LLMServer()
    no_thread.append("llmstream-test-server-connection-1")
    with pytest.raises(requests.ConnectionError):
        requests.get(server.url)
    server.wait_all_closed()
    assert requests.get(server.url).status_code == 404
    server.close()
    (error,) = server.errors
    assert "starts no further thread" in str(error)
