"""PrometheusObserver: what a scrape returns after good and bad days, and from many threads.

The numbers are read as Prometheus reads them: over HTTP, from the text of the exposition.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter as Tally
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from scraped import (
    API,
    BUSY,
    HERE,
    MODEL,
    QUOTA,
    TYPES,
    Failing,
    Page,
    Witness,
    attempt_of,
    call_of,
    exposed,
    get,
    observer_fixture,  # noqa: F401 - a fixture
    often_fixture,  # noqa: F401 - a fixture
    read,
    registry_fixture,  # noqa: F401 - a fixture
    scrape_fixture,  # noqa: F401 - a fixture
    tell,
)
from support import (
    ANSWER,
    AT_ONCE,
    DELTAS,
    ENDING,
    ONCE,
    OPENING,
    PATIENCE,
    PROMPT,
    TWO_TOKENS,
    Reading,
    eventually,
    failure,
    in_threads,
    output_of,
)

from llmstream import Client, ConfigurationError, RetryPolicy, Timeouts, errors
from llmstream._core.classify import error_from_status
from llmstream.result import Usage
from llmstream.telemetry import prometheus
from llmstream.telemetry.prometheus import PrometheusObserver
from llmstream.telemetry.records import RetryRecord, error_code
from llmstream.testing import (
    Answer,
    Cut,
    FakeClock,
    FakeTransport,
    LLMServer,
    Pause,
    Reply,
    Silence,
)

pytestmark = pytest.mark.usefixtures("nothing_left")

LABELS = {
    "llm_stream_first_token_ms": {"api", "model"},
    "llm_stream_total_duration_ms": {"api", "model", "outcome"},
    "llm_stream_token_gap_ms": {"api", "model"},
    "llm_stream_tokens_in": {"api", "model"},
    "llm_stream_tokens_out": {"api", "model"},
    "llm_stream_retry_count": {"api", "model", "type"},
    "llm_stream_backoff_ms": {"api", "model"},
    "llm_stream_error_total": {"code", "type"},
    "llm_stream_in_flight": {"api", "model"},
}

# --- right numbers ------------------------------------------------------------------------------


def test_the_numbers_of_a_bad_day(
    server: LLMServer,
    client_for: Callable[..., Client],
    observer: PrometheusObserver,
    scrape: Callable[[], Page],
) -> None:
    """A 429 that is retried, a drop, a truncation, a quota error and a success: /metrics has
    exactly what happened."""
    witness = Witness()
    policy = RetryPolicy(base=0.02, cap=0.02, jitter=0.0)
    client = client_for(server, model=MODEL, retry=policy, observers=[observer, witness])
    server.script(
        BUSY,
        Answer("one two three four", usage=(12, 34)),
        Reply([*TWO_TOKENS, Cut()]),
        Reply(TWO_TOKENS),
        QUOTA,
        Answer("one two", usage=(100, 200)),
    )
    assert client.stream(PROMPT).result().text == "one two three four"
    raised = [type(failure(client.stream(PROMPT))) for _ in range(3)]
    assert client.stream(PROMPT).result().text == "one two"

    page = scrape()
    assert raised == [errors.StreamInterrupted, errors.StreamTruncated, errors.QuotaExceededError]
    assert page.all("llm_stream_total_duration_ms_count") == {
        (*API, "success"): 2,
        (*API, "error"): 3,
        (*API, "cancelled"): 0,
    }
    assert page.all("llm_stream_error_total") == {
        ("rate_limit_exceeded", "RateLimitError"): 1,
        ("none", "StreamInterrupted"): 1,
        ("none", "StreamTruncated"): 1,
        ("insufficient_quota", "QuotaExceededError"): 1,
    }
    assert page.all("llm_stream_retry_count") == {(*API, "RateLimitError"): 1}
    assert page.all("llm_stream_tokens_in") == {API: 112}
    assert page.all("llm_stream_tokens_out") == {API: 234}
    assert page.all("llm_stream_in_flight") == {API: 0}
    assert page.all("llm_stream_first_token_ms_count") == {API: 4}
    # And the times are those that every other observer is told.
    by_outcome: Tally[str] = Tally()
    for end in witness.ends:
        by_outcome[end.outcome] += end.total_ms  # type: ignore[assignment]
    for outcome, total in by_outcome.items():
        assert page("llm_stream_total_duration_ms_sum", *API, outcome) == pytest.approx(total)
    assert page("llm_stream_first_token_ms_sum", *API) == pytest.approx(sum(witness.firsts))
    assert page("llm_stream_token_gap_ms_count", *API) == len(witness.gaps)
    assert page("llm_stream_token_gap_ms_sum", *API) == pytest.approx(sum(witness.gaps))
    assert page("llm_stream_backoff_ms", *API) == witness.ends[0].backoff_ms >= 20


def test_times_fall_into_their_buckets(
    registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    """First token after a retry, gaps, backoff and duration are the milliseconds that passed, each
    in its bucket."""
    clock = FakeClock()
    steps = [
        *(Pause(0.25), *OPENING, DELTAS[0], Pause(0.035), DELTAS[1]),
        *(Pause(0.4), DELTAS[2], Pause(2.5), DELTAS[3], Pause(0.815), *ENDING),
    ]
    transport = FakeTransport(BUSY, Reply(steps))
    client = Client(
        base_url="http://test",
        model=MODEL,
        transport=transport,
        clock=clock,
        retry=RetryPolicy(base=2.0, jitter=0.0),
        observers=[observer],
    )
    assert client.stream(PROMPT).result().text == ANSWER.text
    page = read(registry)
    assert page.buckets("llm_stream_first_token_ms", *API) == {3_000.0: 1}
    assert page("llm_stream_first_token_ms_sum", *API) == pytest.approx(2_250)
    assert page.buckets("llm_stream_token_gap_ms", *API) == {40.0: 1, 500.0: 1, 5_000.0: 1}
    assert page("llm_stream_token_gap_ms_sum", *API) == pytest.approx(2_935)
    assert page.buckets("llm_stream_total_duration_ms", *API, "success") == {7_500.0: 1}
    assert page("llm_stream_total_duration_ms_sum", *API, "success") == pytest.approx(6_000)
    assert page("llm_stream_backoff_ms", *API) == pytest.approx(2_000)


def test_the_buckets_reach_as_far_as_the_clocks(
    registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    """The default clocks' limits lie within the finite buckets, 10 ms within the first."""
    limits = Timeouts()
    assert limits.first_token is not None
    assert limits.idle is not None
    assert prometheus.FIRST_TOKEN_BUCKETS[0] <= 10
    assert prometheus.FIRST_TOKEN_BUCKETS[-1] >= limits.first_token * 1000
    assert prometheus.GAP_BUCKETS[-1] >= limits.idle * 1000
    assert prometheus.TOTAL_BUCKETS[-1] >= 600_000


def test_a_long_stream_tells_its_gaps_before_its_end(
    registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    """Gaps are kept only up to a bound, then they are counted; an attempt's end adds the rest."""
    call = call_of()
    observer.on_start(call)
    for _ in range(1_000):
        observer.on_tokens(call, 1.0, 4.0, 1)
    early = read(registry)("llm_stream_token_gap_ms_count", *API)
    observer.on_attempt(call, attempt_of(outcome="error", error_type="StreamInterrupted"))
    between = read(registry)("llm_stream_token_gap_ms_count", *API)
    observer.on_tokens(call, 1.0, 4.0, 1)
    observer.on_end(call, msgspec.structs.replace(call, outcome="success"))
    page = read(registry)
    assert early is not None
    assert 700 < early <= between == 1_000
    assert page("llm_stream_token_gap_ms_count", *API) == 1_001
    assert page("llm_stream_token_gap_ms_sum", *API) == 4_004


def test_tokens_are_the_services_own_numbers(
    registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    """Usage is added per attempt, a half-known one as far as it is known; nothing is guessed."""
    spent = attempt_of(outcome="error", error_type="StreamInterrupted", usage=Usage(7, None))
    tell(observer, call_of(1), spent, attempt_of(usage=Usage(12, 34)), attempt_of())
    page = read(registry)
    assert page.all("llm_stream_tokens_in") == {API: 19}
    assert page.all("llm_stream_tokens_out") == {API: 34}


def test_a_refused_call_is_an_error_too(
    registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    """A call that fails before an attempt, or in the wait after one, is counted in addition to
    those attempts; one that fails with its last attempt is counted once."""
    clock = FakeClock()
    busy = Reply.error(429, code="rate_limit_exceeded", headers={"retry-after": "30"})
    client = Client(
        base_url="http://test",
        model=MODEL,
        transport=FakeTransport(busy),
        clock=clock,
        retry=ONCE,
        observers=[observer],
    )
    failure(client.stream(PROMPT))
    assert read(registry).all("llm_stream_error_total") == {
        ("rate_limit_exceeded", "RateLimitError"): 1
    }
    refused = failure(client.stream(PROMPT, timeouts=Timeouts(total=5)))
    assert refused.attempts == ()
    assert read(registry).all("llm_stream_error_total") == {
        ("rate_limit_exceeded", "RateLimitError"): 2
    }
    # In the wait behind an attempt: by the deadline, and by a refusal of the attempt's own kind.
    failed = attempt_of(outcome="error", error_type="RateLimitError", error_code="429")
    again = RetryRecord(attempt=1, wait_ms=9.0, error_type="RateLimitError", phase="headers")
    for late, code in (("DeadlineExceeded", None), ("RateLimitError", "429")):
        end = {"outcome": "error", "error_type": late, "error_code": code}
        tell(observer, call_of(9), failed, retries=(again,), **end)
    page = read(registry)
    assert page("llm_stream_error_total", "429", "RateLimitError") == 3
    assert page("llm_stream_error_total", "none", "DeadlineExceeded") == 1
    assert page("llm_stream_total_duration_ms_count", *API, "error") == 4


# --- names and labels ---------------------------------------------------------------------------


def test_the_names_on_the_wire(
    server: LLMServer,
    client_for: Callable[..., Client],
    observer: PrometheusObserver,
    scrape: Callable[[], Page],
) -> None:
    """The names, types and labels are these and no others, in the text as it goes out."""
    server.script(BUSY, ANSWER)
    client_for(server, model=MODEL, retry=AT_ONCE, observers=[observer]).stream(PROMPT).result()
    page = scrape()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page.text, re.MULTILINE))
    assert {name: t for name, t in types.items() if not name.endswith("_created")} == TYPES
    expected = {
        sample
        for name, kind in TYPES.items()
        for sample in (
            [f"{name}_{part}" for part in ("bucket", "count", "sum")]
            if kind == "histogram"
            else [name]
        )
    }
    assert page.names == expected
    for name, labels in LABELS.items():
        sample = f"{name}_count" if TYPES[name] == "histogram" else name
        assert page.labels[sample] == labels
        assert all(len(values) == len(labels) for values in page.all(sample))


@pytest.mark.slow
def test_ten_thousand_model_names(
    registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    """Whatever callers and services say, the number of series is bounded, and no count is lost."""
    sizes = []
    for number in range(10_000):
        unknown = {"model": f"model-{number}", "api": f"api-{number}"}
        call = call_of(number, **unknown)
        error = {"error_type": f"Error{number}", "error_code": f"code_{number}"}
        tell(observer, call, attempt_of(outcome="error", **error), outcome="error", **error)
        observer.on_retry(call, RetryRecord(attempt=1, wait_ms=0.0, phase="headers", **error))
        if number in (0, 9_999):
            sizes.append(len(read(registry).samples))
    page = read(registry)
    other = ("other", "other")
    assert sizes[0] == sizes[1] < 150
    assert page.all("llm_stream_in_flight") == {other: 0}
    assert page("llm_stream_total_duration_ms_count", *other, "error") == 10_000
    assert page.all("llm_stream_error_total") == {other: 10_000}
    assert page.all("llm_stream_retry_count") == {(*other, "other"): 10_000}


def test_models_are_an_allow_list(registry: CollectorRegistry) -> None:
    """Names that are listed have series of their own; without a list none has."""
    clock = FakeClock()
    client = Client(
        "chat",
        base_url="http://test",
        transport=FakeTransport(*[ANSWER] * 3),
        clock=clock,
        observers=[PrometheusObserver(registry, models=("big", "small"))],
    )
    for model in ("big", "small", "unheard-of"):
        client.stream(PROMPT, model=model).result()
    counted = read(registry).all("llm_stream_first_token_ms_count")
    assert counted == {("chat", "big"): 1, ("chat", "small"): 1, ("chat", "other"): 1}
    bare = CollectorRegistry()
    tell(PrometheusObserver(bare), call_of())
    assert read(bare).all("llm_stream_in_flight") == {("responses", "other"): 0}


@pytest.mark.parametrize("models", ["gpt-5.4-mini", [None], [1]])
def test_models_that_are_no_list_of_names(models: Any) -> None:
    """One name in place of a list would be a list of letters: it is refused."""
    with pytest.raises(ConfigurationError, match="list of the models' names"):
        PrometheusObserver(CollectorRegistry(), models=models)


def test_every_error_class_is_a_type(
    registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    """Each class of `llmstream.errors` is a value of `type`; the set is closed."""
    for name in errors.__all__:
        tell(observer, call_of(), attempt_of(outcome="error", error_type=name), error_type=name)
    assert read(registry).all("llm_stream_error_total") == {
        ("none", name): 1 for name in errors.__all__
    }


@pytest.mark.parametrize("status", [301, 400, 404, 418, 429, 500, 503, 520, 529])
def test_every_usual_status_is_a_code(
    status: int, registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    """An error without a code has its HTTP status as its code."""
    error = error_from_status(status, b"", {}, 0.0)
    failed = attempt_of(
        outcome="error", error_type=type(error).__name__, error_code=error_code(error)
    )
    tell(observer, call_of(), failed)
    assert read(registry).all("llm_stream_error_total") == {(str(status), type(error).__name__): 1}


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("insufficient_quota", "insufficient_quota"),
        ("RATE_LIMIT_EXCEEDED", "rate_limit_exceeded"),
        ("overloaded_error", "overloaded_error"),
        ("users-own-code-4711", "other"),
        ("999", "other"),
        ("", "other"),
        (None, "none"),
    ],
)
def test_codes_are_a_fixed_list(
    said: str | None, label: str, registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    """Known codes in any case, `other` for what a service may invent, `none` for none."""
    failed = attempt_of(outcome="error", error_type="ServerError", error_code=said)
    tell(observer, call_of(), failed)
    assert read(registry).all("llm_stream_error_total") == {(label, "ServerError"): 1}


# --- exemplars ----------------------------------------------------------------------------------


def exemplars(port: int) -> set[tuple[str, str]]:
    """The names and trace ids of all exemplars, as Prometheus asks for them."""
    text = get(port, Accept="application/openmetrics-text; version=1.0.0")
    return {
        (family.name, sample.exemplar.labels["trace_id"])
        for family in openmetrics_families(text)
        for sample in family.samples
        if sample.exemplar is not None
    }


def test_exemplars_lead_to_the_trace(
    server: LLMServer,
    client_for: Callable[..., Client],
    registry: CollectorRegistry,
    observer: PrometheusObserver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The buckets of first token and total duration carry the trace id of a call; an id that is
    longer than OpenMetrics allows is left out, and the call is counted all the same."""
    client = client_for(server, model=MODEL, observers=[observer])
    stream = client.stream(PROMPT)
    stream.result()
    both = ("llm_stream_first_token_ms", "llm_stream_total_duration_ms")
    with exposed(registry) as port:
        assert exemplars(port) == {(name, stream.trace_id) for name in both}
        for size, shown in ((120, True), (121, False), (512, False)):
            long = str(size)[0] * size
            client.stream(PROMPT, trace_id=long).result()
            assert ((both[1], long) in exemplars(port)) is shown
    assert read(registry)("llm_stream_total_duration_ms_count", *API, "success") == 4
    assert "failed in" not in caplog.text


# --- every end, and many at once ----------------------------------------------------------------


def held(server: LLMServer) -> None:
    server.script(Reply([*TWO_TOKENS, Silence()]))


def test_a_cancelled_call_is_no_error(
    server: LLMServer,
    client_for: Callable[..., Client],
    registry: CollectorRegistry,
    observer: PrometheusObserver,
) -> None:
    """cancel(), leaving early and dropping a stream are "cancelled"; in flight returns to 0."""
    client = client_for(server, model=MODEL, observers=[observer])

    held(server)
    reading = Reading(client.stream(PROMPT))
    eventually(lambda: len(reading.tokens) == 2, "two tokens have come")
    assert read(registry)("llm_stream_in_flight", *API) == 1
    reading.stream.cancel("user left")
    assert isinstance(reading.ended(), errors.Cancelled)
    assert read(registry)("llm_stream_in_flight", *API) == 0

    held(server)
    with client.stream(PROMPT) as stream:
        next(stream)
        assert read(registry)("llm_stream_in_flight", *API) == 1
    assert read(registry)("llm_stream_in_flight", *API) == 0

    held(server)
    stream = client.stream(PROMPT)
    next(stream)
    assert read(registry)("llm_stream_in_flight", *API) == 1
    del stream
    eventually(lambda: read(registry)("llm_stream_in_flight", *API) == 0, "the dropped one ended")

    client.stream(PROMPT)  # never used: never begun
    page = read(registry)
    assert page("llm_stream_total_duration_ms_count", *API, "cancelled") == 3
    assert page.all("llm_stream_error_total") == {}
    assert observer._gaps == {}


def test_a_cancel_in_a_backoff(registry: CollectorRegistry, observer: PrometheusObserver) -> None:
    """The attempt that failed is an error and was to be retried; the call is cancelled."""
    failed = attempt_of(outcome="error", error_type="OverloadedError", error_code="503")
    call = call_of()
    again = RetryRecord(attempt=1, wait_ms=9.0, error_type="OverloadedError", phase="headers")
    observer.on_retry(call, again)
    cancelled = {"outcome": "cancelled", "error_type": "Cancelled", "backoff_ms": 4.0}
    tell(observer, call, failed, retries=(again,), **cancelled)
    page = read(registry)
    assert page.all("llm_stream_error_total") == {("503", "OverloadedError"): 1}
    assert page.all("llm_stream_retry_count") == {(*API, "OverloadedError"): 1}
    assert page("llm_stream_total_duration_ms_count", *API, "cancelled") == 1
    assert page("llm_stream_backoff_ms", *API) == 4


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_failing_observer_beside_it(
    order: str,
    server: LLMServer,
    client_for: Callable[..., Client],
    registry: CollectorRegistry,
    observer: PrometheusObserver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Another observer's bug changes no number."""
    observers = [Failing(), observer] if order == "first" else [observer, Failing()]
    client = client_for(server, model=MODEL, retry=AT_ONCE, observers=observers)
    server.script(BUSY, ANSWER)
    with caplog.at_level(logging.CRITICAL, "llmstream"):
        assert client.stream(PROMPT).result().text == ANSWER.text
    page = read(registry)
    assert page("llm_stream_total_duration_ms_count", *API, "success") == 1
    assert page("llm_stream_first_token_ms_count", *API) == 1
    assert page.all("llm_stream_retry_count") == {(*API, "RateLimitError"): 1}
    assert page.all("llm_stream_in_flight") == {API: 0}


def test_one_observer_for_many_clients_and_threads(
    server: LLMServer,
    client_for: Callable[..., Client],
    registry: CollectorRegistry,
    observer: PrometheusObserver,
) -> None:
    """Eight threads on two clients: every call is counted once."""
    clients = [client_for(server, model=MODEL, observers=[observer]) for _ in range(2)]
    answer = Answer("one two", usage=(3, 5))
    server.script(*[answer] * 200)

    def ask(number: int) -> None:
        for _ in range(25):
            clients[number % 2].stream(PROMPT).result()

    assert in_threads(8, ask) == []
    page = read(registry)
    assert page("llm_stream_total_duration_ms_count", *API, "success") == 200
    assert page("llm_stream_first_token_ms_count", *API) == 200
    assert page("llm_stream_tokens_in", *API) == 600
    assert page("llm_stream_tokens_out", *API) == 1_000
    assert page("llm_stream_in_flight", *API) == 0


@pytest.mark.slow
def test_a_scrape_sees_no_half_of_an_end(
    registry: CollectorRegistry, observer: PrometheusObserver, often: None
) -> None:
    """What one attempt or one end adds is in the same scrape, or in none."""
    over = threading.Event()
    spent = attempt_of(outcome="error", error_type="StreamTruncated", usage=Usage(3, 5))

    def count(number: int) -> None:
        while not over.is_set():
            tell(observer, call_of(number), spent)

    threads = [threading.Thread(target=count, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    pages = [read(registry) for _ in range(100)]
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
    for page in pages:
        failed = page.total("llm_stream_error_total")
        assert page.total("llm_stream_tokens_in") == failed * 3
        assert page.total("llm_stream_tokens_out") == failed * 5
    assert all(0 <= page.total("llm_stream_in_flight") <= 3 for page in pages)
    assert pages[-1].total("llm_stream_tokens_in") > 0


def test_an_end_without_a_start(registry: CollectorRegistry, observer: PrometheusObserver) -> None:
    """An end that is reported twice, or of a call whose start was not reported, subtracts
    nothing."""
    call = call_of()
    tell(observer, call)
    observer.on_end(call, msgspec.structs.replace(call, outcome="success"))
    page = read(registry)
    assert page("llm_stream_in_flight", *API) == 0
    assert page("llm_stream_total_duration_ms_count", *API, "success") == 1


# --- registries ---------------------------------------------------------------------------------


def test_observers_on_one_registry_share_its_metrics(registry: CollectorRegistry) -> None:
    """A second observer counts into the same series, with a list of models of its own."""
    first = PrometheusObserver(registry, models=["a"])
    second = PrometheusObserver(registry, models=["b"])
    for observer in (first, second):
        for model in ("a", "b"):
            tell(observer, call_of(model=model))
    counted = read(registry).all("llm_stream_total_duration_ms_count")
    assert {key[1]: n for key, n in counted.items() if key[2] == "success"} == {
        "a": 1,
        "b": 1,
        "other": 2,
    }


def test_a_registry_that_was_emptied(registry: CollectorRegistry) -> None:
    """Metrics that were taken off a registry are put back for the next observer."""
    PrometheusObserver(registry)
    for collector in list(registry._collector_to_names):
        registry.unregister(collector)
    assert read(registry).samples == {}
    tell(PrometheusObserver(registry), call_of())
    assert read(registry).total("llm_stream_total_duration_ms_count") == 1


def test_foreign_metrics_of_the_same_name(registry: CollectorRegistry) -> None:
    """A registry with other metrics of these names: an error with the way out, and nothing
    is left on it."""
    Counter("llm_stream_error", "Somebody else's.", registry=registry)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"registry=CollectorRegistry\(\)"):
            PrometheusObserver(registry)
    assert read(registry).names == {"llm_stream_error_total"}


@pytest.mark.slow
def test_the_default_is_the_default_registry() -> None:
    """Without a registry it is prometheus_client.REGISTRY; several observers are fine."""
    code = """
        from prometheus_client import generate_latest
        from llmstream.telemetry.prometheus import PrometheusObserver
        from scraped import call_of, tell
        for _ in range(2):
            tell(PrometheusObserver(), call_of())
        print(generate_latest().decode())
    """
    page = Page(output_of(code, **HERE))
    assert page("llm_stream_total_duration_ms_count", "responses", "other", "success") == 2


def test_a_restricted_scrape(registry: CollectorRegistry, observer: PrometheusObserver) -> None:
    """`/metrics?name[]=...` finds our names."""
    tell(observer, call_of())
    with exposed(registry) as port:
        page = Page(get(port, "/metrics?name[]=llm_stream_in_flight"))
    assert page.names == {"llm_stream_in_flight"}


# --- many observations at once ------------------------------------------------------------------

SAME_AS_OBSERVE = """
    import os, random, sys
    from prometheus_client import CollectorRegistry, generate_latest
    from llmstream.telemetry.prometheus import _Histogram

    bounds = (1, 2, 5, 10, 50)
    # Multiples of an eighth, whose sums are exact; the bounds themselves, and what lies beyond.
    rng = random.Random(1)
    amounts = [0.0, 1, 2, 5, 10, 50, 50.125, 1e6, *(rng.randrange(600) / 8 for _ in range(500))]
    texts = []
    for many in (True, False):
        registry = CollectorRegistry()
        shown = registry
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            from prometheus_client.multiprocess import MultiProcessCollector
            registry, shown = None, CollectorRegistry()
            MultiProcessCollector(shown)
        family = _Histogram("h", "h", ["l"], registry=registry, buckets=bounds)
        child = family.labels("many" if many else "one")
        for start in range(0, len(amounts), 100):
            some = amounts[start:start + 100]
            if many:
                child.observe_all(some)
            else:
                for amount in some:
                    child.observe(amount)
        lines = [l for l in generate_latest(shown).decode().splitlines() if "_created" not in l]
        wanted = "many" if many else "one"
        texts.append([l.replace(wanted, "") for l in lines if f'l="{wanted}"' in l])
    assert texts[0] == texts[1], texts
    assert len(texts[0]) == len(bounds) + 3, texts
    print(child._sum._multiprocess)
"""


@pytest.mark.slow
@pytest.mark.parametrize("multiprocess", [False, True])
def test_many_observations_are_as_one_by_one(multiprocess: bool, tmp_path: Path) -> None:
    """`observe_all` gives the same exposition as `observe` for each, with the values of one process
    and with those of many."""
    where = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if multiprocess else {}
    assert output_of(SAME_AS_OBSERVE, **where).strip() == str(multiprocess)


def test_a_bad_day_of_gemini(registry: CollectorRegistry, observer: PrometheusObserver) -> None:
    """Its words for failures are codes, whatever their case; thinking counts as output."""
    used_up = {"code": "insufficient_quota", "message": "m"}
    transport = FakeTransport(
        Reply.error(503, api="gemini"),
        Answer("one two", thinking="hm", usage=(12, 34, 5, 6)),
        Answer("one", error={"code": "rate_limit_exceeded", "message": "m"}),
        Reply.error(429, api="gemini", **used_up),
    )
    client = Client(
        "gemini",
        base_url="http://test",
        model=MODEL,
        transport=transport,
        clock=FakeClock(),
        observers=[observer],
    )
    assert client.stream(PROMPT).result().text == "one two"
    assert isinstance(failure(client.stream(PROMPT)), errors.RateLimitError)
    assert isinstance(failure(client.stream(PROMPT)), errors.QuotaExceededError)
    page = read(registry)
    ours = ("gemini", MODEL)
    assert page.all("llm_stream_error_total") == {
        ("503", "OverloadedError"): 1,
        ("resource_exhausted", "RateLimitError"): 1,
        ("429", "QuotaExceededError"): 1,
    }
    assert page.all("llm_stream_retry_count") == {(*ours, "OverloadedError"): 1}
    assert page("llm_stream_tokens_in", *ours) == 12
    assert page("llm_stream_tokens_out", *ours) == 34
    assert page("llm_stream_in_flight", *ours) == 0


def test_many_observations_without_the_inside_of_a_histogram(
    registry: CollectorRegistry, observer: PrometheusObserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where prometheus-client looks otherwise inside, they are made one by one."""
    seen: list[float] = []
    gap = observer._metrics.series(*API).gap
    monkeypatch.delattr(gap, "_buckets")
    monkeypatch.setattr(gap, "observe", seen.append)
    gap.observe_all([1.0, 2.0])
    monkeypatch.undo()
    assert seen == [1.0, 2.0]


def test_tokens_in_are_the_whole_prompt(
    server: LLMServer,
    client_for: Callable[..., Client],
    observer: PrometheusObserver,
    scrape: Callable[[], Page],
) -> None:
    """Messages counts cached tokens beside the input; the sum has them."""
    base_url = server.base_url.removesuffix("/v1")
    client = client_for(
        server, api="messages", base_url=base_url, model=MODEL, observers=[observer]
    )
    server.script(Answer("one", usage=(12, 34, 5)))
    client.stream(PROMPT).result()
    assert scrape().all("llm_stream_tokens_in") == {("messages", MODEL): 17}
