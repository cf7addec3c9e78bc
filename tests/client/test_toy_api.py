"""A new API is one new file and one row: everything else takes it as it is."""

from __future__ import annotations

import io
import logging
import pickle
from typing import Any

import pytest
from support import AT_ONCE, ONCE
from toy_api import ENCODING, ROW, Toy

from llmstream import (
    Chunk,
    Client,
    ConfigurationError,
    IdleTimeout,
    RetryPolicy,
    StreamTruncated,
    Timeouts,
    Usage,
    cli,
)
from llmstream._core.dialects import APIS
from llmstream.check import CheckSettings, run
from llmstream.telemetry import PrometheusObserver, TimelineObserver
from llmstream.testing import (
    Answer,
    Cut,
    FakeClock,
    FakeTransport,
    LLMServer,
    Pings,
    Reply,
)
from llmstream.testing.answers.base import ENCODINGS


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row, and the file that registers its encoding."""
    monkeypatch.setitem(APIS, "toy", ROW)
    monkeypatch.setitem(ENCODINGS, "toy", ENCODING)


def test_views_results_retries_and_requests(server: LLMServer) -> None:
    """Over a real connection."""
    answer = Answer("One two.", thinking="Hm.", tool_calls=[("f", '{"a": 1}')], usage=(3, 4))
    server.script(Reply.error(500), answer, Answer("Three."))
    base_url = server.base_url_for("toy")
    assert base_url == server.url + "/v9"
    with Client("toy", base_url=base_url, api_key="test-key", retry=AT_ONCE) as client:
        stream = client.stream("Hi", extra_body={"more": 1}, max_output_tokens=9)
        assert list(stream.chunks()) == [
            Chunk("thinking", "Hm.", 0),
            Chunk("text", "One", 0),
            Chunk("text", " two.", 0),
            Chunk("tool_call", '{"a": 1}', 0),
        ]
        result = stream.result()
        assert (result.text, result.thinking, result.finish) == ("One two.", "Hm.", "stop")
        assert [(c.name, c.parsed()) for c in result.tool_calls] == [("f", {"a": 1})]
        assert result.usage == Usage(3, 4, 7)
        assert [attempt.status for attempt in result.attempts] == [500, 200]
        assert result.to_messages() == [{"i_said": "One two."}]
        assert [event.type for event in client.stream("Hi").events()] == ["message"] * 3
    request = server.requests[1]
    assert request.json() == {"ask": "Hi", "as": "toy-1", "more": 1, "at_most": 9}
    assert (request.path, request.headers["x-toy"]) == ("/v9/toy", "test-key")


def test_a_truncation_is_one_too(server: LLMServer) -> None:
    """The promise is the session's, not the dialect's."""
    server.default = Reply(b"".join(Answer("One two.").blocks("toy")[:-1]))
    with Client("toy", base_url=server.url, retry=ONCE) as client:
        stream = client.stream("Hi")
        assert next(stream) == "One"
        with pytest.raises(StreamTruncated):
            stream.result()


def test_events_that_are_not_json(server: LLMServer) -> None:
    """A dialect's ValueError becomes a ProtocolError."""
    server.default = Reply(b"data: {half\n\n")
    with Client("toy", base_url=server.url, retry=ONCE) as client:
        with pytest.raises(Exception, match="cannot be read") as caught:
            client.stream("Hi").result()
        assert type(caught.value).__name__ == "ProtocolError"


def test_pings_are_not_progress() -> None:
    """With the doubles, on the toy's own ping."""
    blocks = Answer("One two.").blocks("toy")
    transport = FakeTransport(Reply([*blocks[:2], Pings(1.0, data=ENCODING.ping)]))
    client = Client(
        "toy",
        base_url="http://t",
        timeouts=Timeouts(idle=5),
        transport=transport,
        clock=FakeClock(),
    )
    with pytest.raises(IdleTimeout) as caught:
        client.stream("Hi").result()
    assert caught.value.partial.text == "One"


@pytest.mark.parametrize("policy", ["restart", "continue"])
def test_policies(policy: str) -> None:
    """The quote goes into the toy's prompt field, with fewer tokens left."""
    blocks = Answer("One two three four").blocks("toy")
    transport = FakeTransport(Reply([*blocks[:3], Cut()]), Answer(" three four"))
    client = Client("toy", base_url="http://t", transport=transport, clock=FakeClock())
    result = client.stream("Hi", on_disconnect=policy, max_output_tokens=100).result()
    assert result.text == (" three four" if policy == "restart" else "One two three four")
    if policy == "continue":
        asked = transport.requests[1].json()
        assert "One two" in str(asked["ask"])
        assert asked["at_most"] < 100
        assert result.to_messages() == [{"i_said": "One two three four"}]
        with pytest.raises(ConfigurationError, match="extra_body contains the prompt itself"):
            client.stream("Hi", on_disconnect=policy, extra_body={"ask": "x"})


def test_its_variables(server: LLMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key and address come from the variables of the row, the API from LLMSTREAM_API."""
    for name in ("LLMSTREAM_BASE_URL", "LLMSTREAM_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOY_API_KEY", "key-of-the-environment")
    monkeypatch.setenv("TOY_BASE_URL", server.base_url_for("toy"))
    monkeypatch.setenv("LLMSTREAM_API", "toy")
    with Client.from_env() as client:
        assert client.stream("Hi").result().text
        assert pickle.loads(pickle.dumps(client.settings)) == client.settings
    assert server.requests[0].headers["x-toy"] == "key-of-the-environment"


@pytest.mark.slow
def test_the_check_plays_it_a_bad_day() -> None:
    """All checks, as for the others."""
    results = list(run(CheckSettings(api="toy", timeouts=Timeouts(total=20))))
    assert {r.name: (r.expected, r.seen) for r in results if not r.ok} == {}
    assert len(results) > 15


def test_telemetry_and_cost(server: LLMServer, caplog: pytest.LogCaptureFixture) -> None:
    """Labels, log, timeline and price list name it; an unknown price is None, not a guess."""
    from prometheus_client import CollectorRegistry

    registry, timeline = CollectorRegistry(), TimelineObserver()
    observers: list[Any] = [PrometheusObserver(registry=registry), timeline]
    caplog.set_level(logging.INFO, logger="llmstream")
    with Client("toy", base_url=server.url, observers=observers, max_cost=1) as client:
        result = client.stream("Hi").result()
        assert result.cost() is None
        assert client.cost == 0
    count = registry.get_sample_value(
        "llm_stream_total_duration_ms_count",
        {"api": "toy", "model": "other", "outcome": "success"},
    )
    assert count == 1
    assert "api=toy" in caplog.text
    assert timeline.calls == 1


def test_the_price_list_knows_the_vendor_only() -> None:
    """Where the API counts cached tokens beside the others, another provider's count is unknown."""
    from llmstream.telemetry.otel import provider_of

    assert provider_of("somewhere.example", "toy") == "toys-inc"


def test_the_command(
    server: LLMServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--api toy` is a choice."""
    import sys

    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    server.default = Answer("Hello.")
    assert cli.main(["--api", "toy", "--base-url", server.url, "Hi"]) == 0
    assert capsys.readouterr().out == "Hello.\n"


def test_the_protocol_is_complete() -> None:
    """The toy implements what the Dialect protocol asks for, and no more."""
    from llmstream._core.dialects.base import Dialect

    dialect: Dialect = Toy()
    names = {name for name in vars(Dialect) if not name.startswith("_")}
    names |= {*Dialect.__annotations__}
    assert names == {name for name in {*vars(Toy)} if not name.startswith("_")}
    assert dialect.name == "toy"


def test_retry_policy_holds(server: LLMServer) -> None:
    """The errors of its own words are classified and retried."""
    server.script(Reply.error(429, code="rate_limit_exceeded"), Answer("Two."))
    with Client("toy", base_url=server.url, retry=RetryPolicy(base=0.0, cap=0.0)) as client:
        result = client.stream("Hi").result()
    assert [type(a.error).__name__ for a in result.attempts] == ["RateLimitError", "NoneType"]
