"""Doubles of HTTP that users have in their own tests: `responses`, requests-mock, VCR.py, HTTMock
and patches of a session catch the call; nothing gets past one to the network in silence."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import requests
import requests_mock
import responses
import vcr
from support import ANSWER, AT_ONCE, ONCE, PROMPT, Reading, clocks, eventually, failure

from llmstream import Client, ConfigurationError, RateLimitError
from llmstream.testing import LLMServer, Reply, Silence

BASE = "https://llm.invalid/v1"
URL = f"{BASE}/responses"
BODY = b"".join(ANSWER.blocks())
HEADERS = {"content-type": "text/event-stream"}


@pytest.fixture
def no_network(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Fails the test if anything connects."""
    tried: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: tried.append(address))
    yield tried
    assert not tried


@pytest.fixture
def client(client_for: Callable[..., Client]) -> Client:
    return client_for(None, base_url=BASE, retry=AT_ONCE)


def test_responses(no_network: Any, client: Client) -> None:
    """Its answer arrives; a request that it does not know is the caller's mistake, asked once."""
    with responses.RequestsMock() as double:
        double.add(responses.POST, URL, BODY, headers=HEADERS)
        assert client.stream(PROMPT).result().text == "one two three four"
    with responses.RequestsMock() as double:
        error = failure(client.stream(PROMPT))
        assert type(error) is ConfigurationError
        assert "responses" in str(error)
        assert "llmstream.testing" in str(error)


def test_requests_mock(no_network: Any, client: Client) -> None:
    """It catches the call although the transport has no session of requests."""
    with requests_mock.Mocker() as double:
        double.post(URL, content=BODY, headers=HEADERS)
        assert client.stream(PROMPT).result().text == "one two three four"
        assert double.last_request.headers["authorization"] == "Bearer test-key"
        double.post(URL, status_code=429, json={"error": {"message": "slow"}})
        assert type(failure(client.stream(PROMPT, retry=ONCE))) is RateLimitError
    with requests_mock.Mocker():
        error = failure(client.stream(PROMPT))
        assert type(error) is ConfigurationError
        assert "requests_mock" in str(error)


def test_requests_mock_that_lets_through(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """With `real_http` the call is one like any other: its clocks and its cancel hold."""
    client = client_for(server, timeouts=clocks(8.0), retry=ONCE)
    with requests_mock.Mocker(real_http=True):
        assert client.stream(PROMPT).result().text == "Hello, world!"
        server.script(Reply([*ANSWER.blocks()[:6], Silence()]))
        dying = client.stream(PROMPT, timeouts=clocks(8.0, idle=0.3))
        assert type(failure(dying)).__name__ == "IdleTimeout"


@pytest.mark.parametrize("name", ["send", "get_adapter"])
def test_a_patched_session(no_network: Any, client: Client, name: str) -> None:
    """A patch of one's own is called; what it returns has to be a response."""

    def answer(*args: Any, **kwargs: Any) -> requests.Response:
        made = requests.Response()
        made.status_code = 200
        made.headers.update(HEADERS)
        made._content = BODY
        return made

    class Adapter(requests.adapters.BaseAdapter):
        send = answer

    double = answer if name == "send" else lambda self, url: Adapter()
    with mock.patch.object(requests.Session, name, double):
        assert client.stream(PROMPT).result().text == "one two three four"
    with mock.patch("requests.Session.send"):  # a MagicMock
        error = failure(client.stream(PROMPT))
        assert type(error) is ConfigurationError
        assert "llmstream.testing" in str(error)


def recording(path: Path, mode: str = "none") -> Any:
    return vcr.VCR(record_mode=mode, match_on=["method", "path"]).use_cassette(str(path))


def test_vcr(any_server: LLMServer, client_for: Callable[..., Client], tmp_path: Path) -> None:
    """It records a call and plays it back, without a connection; what it has not recorded is the
    caller's mistake; after it the network is the network."""
    client = client_for(any_server, retry=AT_ONCE)
    tape = tmp_path / "tape.yaml"
    with recording(tape, "once"):
        assert client.stream(PROMPT).result().text == "Hello, world!"
    asked = len(any_server.requests)
    with recording(tape):
        assert client.stream(PROMPT).result().text == "Hello, world!"
        error = failure(client.stream(PROMPT))
    assert type(error) is ConfigurationError
    assert "VCR.py" in str(error)
    assert len(any_server.requests) == asked == 1
    assert client.stream(PROMPT).result().text == "Hello, world!"
    assert len(any_server.requests) == 2


def test_a_recording_can_be_cancelled(
    any_server: LLMServer, client_for: Callable[..., Client], tmp_path: Path
) -> None:
    """While VCR.py records, the connection beneath is ours: clocks and cancels hold."""
    any_server.default = Reply([*ANSWER.blocks()[:6], Silence()])
    client = client_for(any_server, retry=ONCE)
    with recording(tmp_path / "tape.yaml", "once"):
        limits = clocks(60.0, total=0.4)
        assert type(failure(client.stream(PROMPT, timeouts=limits))).__name__ == "DeadlineExceeded"
        before = len(any_server.requests)  # the clock may have run out before one was sent
        stream = client.stream(PROMPT, timeouts=clocks(60.0))
        reading = Reading(stream)
        eventually(lambda: len(any_server.requests) > before, "the request has arrived")
        stream.cancel()
        assert type(reading.ended()).__name__ == "Cancelled"
