"""What calls have cost, as a metric: what the service reports, and with `cost=True` list prices."""

from __future__ import annotations

import os
from typing import Any

import pytest
from every import every
from prometheus_client import CollectorRegistry
from scraped import (
    HERE,
    MODEL,
    observer_fixture,  # noqa: F401 - a fixture
    read,
    registry_fixture,  # noqa: F401 - a fixture
)
from support import AT_ONCE, failure, output_of
from test_cost import FLASH, GOOGLE, listed
from test_reported_cost import REPORTS, USD, chunk, client_of, reply

from llmstream import Client, ConfigurationError, ServerError
from llmstream.telemetry import PrometheusObserver
from llmstream.testing import Answer, Cut, FakeClock, FakeTransport, Reply

NAME = "llm_stream_cost_usd"
BY_SERVICE = ("chat", MODEL, "service")


@pytest.fixture
def no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmstream.telemetry.cost._installed", lambda: None)


def of_google(*replies: Any, **settings: Any) -> Client:
    """A service that is in the price list."""
    return Client(
        "gemini",
        base_url=GOOGLE,
        api_key="k",
        model=MODEL,
        transport=FakeTransport(*replies),
        clock=FakeClock(),
        **{"retry": AT_ONCE, **settings},
    )


@every("name", REPORTS)
@pytest.mark.usefixtures("no_list")
def test_what_the_service_reports(name: str) -> None:
    """Attempt by attempt, the one that was cut included; without any list."""
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry, models=[MODEL])
    client = client_of(reply(name, cut=True), reply(name), model=MODEL, observers=[observer])
    client.stream("Hi", on_disconnect="restart").result()
    assert read(registry).all(NAME) == {BY_SERVICE: pytest.approx(2 * float(USD))}


def test_without_a_cost_there_is_no_metric(
    registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    """It comes with the first call of which one is known, 0 included."""
    of_google(Answer("Hi", model=FLASH), observers=[observer]).stream("Hi").result()
    assert NAME not in read(registry).names
    free = [chunk({"content": "Hi"}, usage={"cost": 0}), chunk({}, "stop"), b"data: [DONE]\n\n"]
    client_of(Reply(free), model=MODEL, observers=[observer]).stream("Hi").result()
    assert read(registry).all(NAME) == {BY_SERVICE: 0}


def test_the_price_list_counts_where_it_is_asked_for(registry: CollectorRegistry) -> None:
    """Once a call, failed calls with what is known; what the service reports comes first, and a
    call without a price is not in it."""
    observer = PrometheusObserver(registry, models=[MODEL], cost=True)
    says = Answer("Hi", model=FLASH, usage=(1000, 100, 0, 0))
    used = b'"usageMetadata":{"promptTokenCount":500,"candidatesTokenCount":1},"modelVersion"'
    failing = [one.replace(b'"modelVersion"', used) for one in says.blocks("gemini")[:1]]
    client = of_google(
        says, Reply([*failing, Cut()]), Answer("Hi", usage=None), observers=[observer]
    )
    client.stream("Hi").result()
    failure(client.stream("Hi"))
    client.stream("Hi").result()
    client_of(reply("openrouter"), model=MODEL, observers=[observer]).stream("Hi").result()
    whole = listed(FLASH, GOOGLE, input_tokens=1000, output_tokens=100)
    begun = listed(FLASH, GOOGLE, input_tokens=500, output_tokens=1)
    assert read(registry).all(NAME) == {
        ("gemini", MODEL, "list"): pytest.approx(float(whole + begun)),
        BY_SERVICE: pytest.approx(float(USD)),
    }


def test_the_labels_are_a_closed_set(registry: CollectorRegistry) -> None:
    """A model that was not named is "other"."""
    observer = PrometheusObserver(registry, cost=True)
    for number in range(3):
        client_of(reply("xai"), model=f"model-{number}", observers=[observer]).stream("Hi").result()
    assert read(registry).all(NAME) == {("chat", "other", "service"): pytest.approx(3 * float(USD))}


@every("cost", [1, "yes", None, 0])
def test_what_is_no_bool_is_refused(cost: Any) -> None:
    with pytest.raises(ConfigurationError, match="cost="):
        PrometheusObserver(CollectorRegistry(), cost=cost)


@pytest.mark.usefixtures("no_list")
def test_prices_need_the_extra() -> None:
    """The error has the install command; nothing is registered."""
    registry = CollectorRegistry()
    with pytest.raises(ConfigurationError, match=r'pip install "llmstream-sync\[cost\]"'):
        PrometheusObserver(registry, cost=True)
    assert read(registry).names == set()


def test_no_prompt_is_asked_for_without_it(observer: PrometheusObserver) -> None:
    """A method that an observer does not have costs nothing."""
    assert not hasattr(observer, "on_content")
    assert hasattr(PrometheusObserver(CollectorRegistry(), cost=True), "on_content")


def test_an_error_of_the_service_costs_what_it_reports(
    registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.5}
    error = b'data: {"error": {"code": "server_error", "message": "m"}}\n\n'
    client = client_of(
        Reply([chunk({"content": "Hi"}, usage=usage), error]), model=MODEL, observers=[observer]
    )
    assert isinstance(failure(client.stream("Hi")), ServerError)
    assert read(registry).all(NAME) == {BY_SERVICE: 0.5}


PROCESSES = """
    import os, sys
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess
    from llmstream.telemetry import PrometheusObserver
    from test_reported_cost import client_of, reply

    observer = PrometheusObserver(CollectorRegistry())
    client = client_of(reply("xai"), observers=[observer])
    pid = os.fork()
    if pid == 0:
        client.stream("Hi").result()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    client.stream("Hi").result()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    lines = generate_latest(registry).decode().splitlines()
    print([line for line in lines if line.startswith("llm_stream_cost_usd{")])
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_the_costs_of_processes_add_up(tmp_path: Any) -> None:
    """In prefork servers."""
    shown = output_of(PROCESSES, PROMETHEUS_MULTIPROC_DIR=str(tmp_path), **HERE).strip()
    assert shown == """['llm_stream_cost_usd{api="chat",model="other",source="service"} 0.00246']"""
