"""What nobody should pass, at every public parameter: a representative part of the table in
`tests/attack/test_settings.py`, and what the messages say."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
from every import every
from odd_values import ODD, PARAMETERS, SKIPPED

from llmstream import Client, ConfigurationError, LLMStreamError, RetryPolicy, Timeouts
from llmstream._core.checks import checked_json, shown
from llmstream.testing import Answer, FakeClock, FakeTransport

CLIENT: dict[str, Any] = {"base_url": "http://test", "model": "m"}


@pytest.mark.slow
def test_a_part_of_the_table(caplog: pytest.LogCaptureFixture) -> None:
    """Each parameter with two of the values, each value with some parameter."""
    caplog.set_level("CRITICAL", "llmstream")
    rng = random.Random(7)
    pairs = [(what, odd) for what in PARAMETERS for odd in rng.sample([*ODD], 2)]
    pairs += list(zip(itertools.cycle(PARAMETERS), ODD, strict=False))
    for what, odd in pairs:
        name, use = PARAMETERS[what]
        if (what, odd) in SKIPPED:
            continue
        try:
            use(ODD[odd]())
        except ConfigurationError as error:
            text = str(error)
            # A value that is accepted: nothing is configured, there is no such file, or the extra
            # `local` is not installed.
            others = ("no service", "model file", "The local model needs")
            assert any(words in text for words in (name, *others)), (what, odd, text)
        except LLMStreamError:
            pass


@pytest.mark.slow
@every(
    ("value", "path"),
    [
        ({"a": [1, {"b": math.nan}]}, r"extra_body\['a'\]\[1\]\['b'\] .*nan"),
        ({"a": {1, 2}}, r"extra_body\['a'\] .*type set"),
        ({"a": b"x"}, r"extra_body\['a'\] .*type bytes"),
        ({"a": "x\ud800"}, r"extra_body\['a'\] .*half a character .* position 1"),
        ({"\ud800": 1}, "half a character"),
        ({5: 1}, "the key 5"),
        ({"a": 2**64}, "an integer of 65 bits|18446744073709551616"),
        (ODD["a dict of deep"](), "deeper than 200"),
        (ODD["a dict of itself"](), "contains itself"),
        (ODD["a dict of wide"](), "more than 2,000,000 values"),
    ],
    ids=lambda value: str(type(value)),
)
def test_what_json_does_not_have_is_refused_with_its_place(value: Any, path: str) -> None:
    """The encoder would write NaN as null, bytes in base64 and a set as a list."""
    transport = FakeTransport(Answer("ok"))
    client = Client("chat", **CLIENT, transport=transport)
    with pytest.raises(ConfigurationError, match=path):
        client.stream("x", extra_body=value)
    assert transport.requests == []


def test_what_json_has_is_sent() -> None:
    """Every kind of value, shared parts among them, and 200 levels."""
    shared = {"x": [None, True, 1, -1.5, "中\U0001f600", ""]}
    nested: Any = "end"
    for _ in range(190):
        nested = [nested]
    body = {"a": shared, "b": [shared, shared], "n": 2**64 - 1, "deep": nested, "t": (1, 2)}
    checked_json("extra_body", body)
    transport = FakeTransport(Answer("ok"))
    Client("chat", **CLIENT, transport=transport, clock=FakeClock()).stream(
        "x", extra_body={**body, "n": 1}
    ).result()
    assert b'"deep":[[[' in transport.requests[0].body


@every(
    "make",
    [
        lambda: Client("sk-marked-0123456789", **CLIENT),
        lambda: Client("chat", base_url="x", api_key="sk-marked-0123456789"),
        lambda: Client("chat", **CLIENT, api_key="sk-marked\n0123456789"),
        lambda: Client("chat", **CLIENT, headers={"x": "marked\r\n"}),
        lambda: Client("chat", **CLIENT, timeouts={"marked-key": "marked"}),  # type: ignore[arg-type]
        lambda: Client("chat", **CLIENT).stream("x", tool_choice=["marked"]),
        lambda: Client("chat", **CLIENT).stream("marked\ud800"),
        lambda: Client("chat", **CLIENT).stream("x", temperature="marked-marked-marked"),  # type: ignore[arg-type]
    ],
)
def test_no_message_repeats_what_may_be_secret(make: Any) -> None:
    """A key in the place of the API, a header's value, a prompt."""
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert "marked" not in str(caught.value)


def test_the_bounds_are_in_the_messages() -> None:
    """A year of seconds is a clock; a moment in milliseconds is not."""
    assert Timeouts(total=31_536_000).total == 31_536_000
    with pytest.raises(ConfigurationError, match=r"total=1780000000000\): .*3,153,600,000"):
        Timeouts(total=1_780_000_000_000)
    with pytest.raises(ConfigurationError, match=r"jitter=1e\+300.* from 0 to 10"):
        RetryPolicy(jitter=1e300)
    with pytest.raises(ConfigurationError, match=r"max_attempts=10001.* at most 10,000"):
        RetryPolicy(max_attempts=10_001)
    assert shown(10**5000) == "an integer of 16610 bits"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LLMSTREAM_API", "telegraph"),
        ("LLMSTREAM_API_KEY", "key\n"),
        ("OPENAI_API_KEY", " key"),
        ("ANTHROPIC_API_KEY", "schlüssel"),
        ("ANTHROPIC_AUTH_TOKEN", "a b"),
        ("LLMSTREAM_BASE_URL", "http://[::1"),
        ("OPENAI_BASE_URL", "localhost:8000"),
        ("LLMSTREAM_MODEL", "m\x1b[2J"),
    ],
)
def test_a_variable_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """What it holds is not repeated where it may be a key."""
    for name in ("LLMSTREAM", "OPENAI", "ANTHROPIC"):
        for rest in ("API", "API_KEY", "BASE_URL", "MODEL", "AUTH_TOKEN"):
            monkeypatch.delenv(f"{name}_{rest}", raising=False)
    if variable == "LLMSTREAM_MODEL":
        monkeypatch.setenv("LLMSTREAM_BASE_URL", "http://test/v1")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable):
        Client.from_env().stream("x")


def test_none_is_not_an_address_over_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of our own does not go to a vendor because a caller passes base_url=None."""
    monkeypatch.setenv("LLMSTREAM_BASE_URL", "http://own.example/v1")
    monkeypatch.setenv("LLMSTREAM_API_KEY", "own-key")
    assert Client.from_env(base_url=None).settings.base_url == "http://own.example/v1"
