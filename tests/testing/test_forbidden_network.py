"""No client gets past a barrier: not by a host's name, by a proxy, or on a connection it has."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from every import every

from llmstream import Client, ConfigurationError, LLMStreamError, RetryPolicy, Timeouts
from llmstream.local.model import fetch_model
from llmstream.testing import Answer, FakeTransport, LLMServer, forbid_network, record, recording


def refusal(client: Client) -> str:
    """The message of a call that sends nothing: it does not wait, either."""
    with client, pytest.raises(ConfigurationError) as caught:
        client.stream("Hi", model="m", timeouts=Timeouts(connect=60)).result()
    assert len(caught.value.attempts) == 1
    return str(caught.value)


@every(
    "url",
    [
        "https://api.openai.com/v1",
        "http://192.0.2.7:8080",
        "http://llm.test",
        "http://10.0.0.1",
        "http://[2001:db8::1]:80/v1",
        "http://127.0.0.1.evil.test",
        "http://user:pass-word-1@localhost.evil.test",
    ],
)
def test_other_machines_are_out_of_reach(url: str) -> None:
    """At once, without a look-up of the name; the message has no password."""
    with forbid_network():
        message = refusal(Client(base_url=url, api_key="k"))
    assert "the network is forbidden here" in message
    assert "nothing was sent" in message
    assert "pass-word" not in message


def test_this_machine_and_doubles_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says about proxies."""
    monkeypatch.setenv("HTTPS_PROXY", "http://192.0.2.1:3128")
    with LLMServer() as server, forbid_network():
        for host in ("127.0.0.1", "localhost"):
            url = server.base_url.replace("127.0.0.1", host)
            with Client(base_url=url) as client:
                assert client.stream("Hi").result().text == "Hello, world!"
        double = FakeTransport(Answer("yes"))
        client = Client(base_url="https://api.openai.com/v1", transport=double, api_key="k")
        assert client.stream("Hi").result().text == "yes"


def test_a_proxy_is_another_machine_too() -> None:
    """One elsewhere, and one here that asks somebody else."""
    with forbid_network():
        for url, proxy in (
            ("http://127.0.0.1:9/v1", "http://me:pass-word-1@192.0.2.1:3128"),
            ("http://llm.test/v1", "http://127.0.0.1:9"),
            ("https://llm.test/v1", "socks5h://127.0.0.1:9"),
        ):
            message = refusal(Client(base_url=url, proxies={"all": proxy}))
            assert "forbidden" in message
            assert "pass-word" not in message


def test_hosts_may_be_allowed() -> None:
    """By name, with *; a call is then a call."""
    with forbid_network(allow=["*.TEST"]):
        client = Client(base_url="http://llm.test/v1", retry=RetryPolicy(max_attempts=1))
        with client, pytest.raises(LLMStreamError) as caught:
            client.stream("Hi", timeouts=Timeouts(connect=5)).result()
        assert not isinstance(caught.value, ConfigurationError)
        assert "forbidden" in refusal(Client(base_url="http://llm.test.example/v1"))
    for odd in ("*.test", [5]):
        with pytest.raises(ConfigurationError, match="allow"):
            forbid_network(odd)  # type: ignore[arg-type]


def test_it_ends_where_its_block_ends() -> None:
    """Nested, as a decorator, in all threads; also where an exception ends it."""

    @forbid_network()
    def decorated() -> str:
        return refusal(Client(base_url="http://192.0.2.7"))

    assert "forbidden" in decorated()
    found: list[str] = []
    with forbid_network(), forbid_network(["192.0.2.7"]):
        thread = threading.Thread(target=lambda: found.append(decorated()))
        thread.start()
        thread.join(20)
        with pytest.raises(ZeroDivisionError), forbid_network():
            raise ZeroDivisionError
        found.append(refusal(Client(base_url="http://192.0.2.7")))
    assert len(found) == 2
    from llmstream._transport.detour import BARRIERS, DETOURS

    assert BARRIERS == []
    assert DETOURS == []


def test_the_local_model_is_not_fetched(monkeypatch: Any, tmp_path: Any) -> None:
    """Where it is not there yet."""
    monkeypatch.setenv("LLMSTREAM_CACHE", str(tmp_path / "empty"))
    with forbid_network(), pytest.raises(ConfigurationError, match="network is forbidden"):
        fetch_model(progress=False)
    assert not (tmp_path / "empty").exists()


def test_a_recording_does_not_get_past_it(tmp_path: Any) -> None:
    """Whichever was begun first; a replay sends nothing and goes on."""
    path = tmp_path / "a.json"
    url = "http://llm.test/v1"
    double = FakeTransport(Answer("yes"))
    with record(path, transport=double) as transport:
        Client(base_url=url, transport=transport).stream("Hi").result()
    with forbid_network(), recording(path):
        assert Client(base_url=url).stream("Hi").result().text == "yes"
    with recording(path), forbid_network():
        assert Client(base_url=url).stream("Hi").result().text == "yes"
    other = tmp_path / "b.json"
    with forbid_network(), recording(other):
        assert "forbidden" in refusal(Client(base_url=url))
    with recording(other), forbid_network():
        assert "forbidden" in refusal(Client(base_url=url))
    with forbid_network(), record(other) as transport:
        assert "forbidden" in refusal(Client(base_url=url, transport=transport))
    assert not other.exists()
