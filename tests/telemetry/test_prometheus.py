"""PrometheusObserver: what a scrape brings after good and bad days, in threads, forks and workers.

The numbers are read as Prometheus reads them: over HTTP, from the text of the exposition. The
dashboard's queries, and the names, are put to a real Prometheus.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import msgspec
import prometheus_client
import pytest
from conftest import (
    ANSWER,
    AT_ONCE,
    BLOCKS,
    DELTAS,
    ENDING,
    ONCE,
    OPENING,
    PACKAGE,
    PATIENCE,
    PROMPT,
    TESTS,
    TWO_TOKENS,
    Reading,
    eventually,
    failure,
    in_threads,
    output_of,
)
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from llmstream import Client, ConfigurationError, RetryPolicy, Timeouts, errors
from llmstream._core.classify import error_from_status
from llmstream.result import Usage
from llmstream.telemetry import prometheus
from llmstream.telemetry.prometheus import PrometheusObserver
from llmstream.telemetry.records import AttemptRecord, CallRecord, RetryRecord, error_code
from llmstream.testing import (
    Answer,
    Cut,
    FakeClock,
    FakeTransport,
    LLMServer,
    Pause,
    Recorded,
    Reply,
    Silence,
)
from llmstream.testing.script import prompt_text

pytestmark = pytest.mark.usefixtures("nothing_left")

MODEL = "a-model"
API = ("responses", MODEL)
TYPES = {
    "llm_stream_first_token_ms": "histogram",
    "llm_stream_total_duration_ms": "histogram",
    "llm_stream_token_gap_ms": "histogram",
    "llm_stream_tokens_in": "gauge",
    "llm_stream_tokens_out": "gauge",
    "llm_stream_retry_count": "gauge",
    "llm_stream_backoff_ms": "gauge",
    "llm_stream_error_total": "counter",
    "llm_stream_in_flight": "gauge",
}
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
QUOTA = Reply.error(429, code="insufficient_quota")
BUSY = Reply.error(429, code="rate_limit_exceeded")
# Processes that import this module.
HERE = {"PYTHONPATH": os.pathsep.join((str(PACKAGE), str(Path(__file__).parent)))}

# --- what is scraped ----------------------------------------------------------------------------


class Page:
    """One scrape: `page("llm_stream_in_flight", "responses", "m")`, labels in alphabetical order
    of their names; None where there is no such series."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples: dict[tuple[str, ...], float] = {}
        self.names: set[str] = set()
        self.labels: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                self.names.add(sample.name)
                self.labels.setdefault(sample.name, set()).update(sample.labels)
                values = (value for _, value in sorted(sample.labels.items()))
                self.samples[(sample.name, *values)] = sample.value

    def __call__(self, name: str, *labels: str) -> float | None:
        return self.samples.get((name, *labels))

    def all(self, name: str) -> dict[tuple[str, ...], float]:
        """The series of a name, by their labels."""
        return {key[1:]: value for key, value in self.samples.items() if key[0] == name}

    def total(self, name: str) -> float:
        return sum(self.all(name).values())

    def buckets(self, name: str, *labels: str) -> dict[float, int]:
        """How many observations are in each bucket, by its upper bound; without the empty ones."""
        # `le` comes after `api` and before `model`
        found = {
            float(key[1]): value
            for key, value in self.all(f"{name}_bucket").items()
            if (key[0], *key[2:]) == labels
        }
        filled, below = {}, 0
        for bound in sorted(found):
            if found[bound] > below:
                filled[bound] = int(found[bound]) - below
                below = int(found[bound])
        return filled


class _Quiet(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def exposed(registry: CollectorRegistry) -> Iterator[int]:
    """The port at which a registry's exposition is served."""
    server = make_server(
        "127.0.0.1", 0, prometheus_client.make_wsgi_app(registry), handler_class=_Quiet
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="exposition")
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)


def get(port: int, path: str = "/metrics", **headers: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, body
        return body
    finally:
        connection.close()


def read(registry: CollectorRegistry) -> Page:
    """A scrape, without the way over HTTP."""
    return Page(generate_latest(registry).decode())


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def scrape(registry: CollectorRegistry, nothing_left: None) -> Iterator[Callable[[], Page]]:
    with exposed(registry) as port:
        yield lambda: Page(get(port))


@pytest.fixture
def observer(registry: CollectorRegistry) -> PrometheusObserver:
    return PrometheusObserver(registry, models=[MODEL])


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Witness:
    """Keeps what it is told, to compare with what was counted."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self.firsts: list[float] = []
        self.ends: list[CallRecord] = []

    def on_first_token(self, call: CallRecord, at_ms: float) -> None:
        self.firsts.append(at_ms)

    def on_tokens(self, call: CallRecord, at_ms: float, gap_ms: float | None, chunks: int) -> None:
        if gap_ms is not None:
            self.gaps.append(gap_ms)

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        self.ends.append(end)


class Failing:
    """An observer with a bug in every method."""

    def on_start(self, *what: Any) -> None:
        raise RuntimeError("a bug")

    on_phase = on_first_token = on_tokens = on_attempt = on_retry = on_content = on_end = on_start


def call_of(number: int = 1, **fields: Any) -> CallRecord:
    """The record of a call's start."""
    given = {"trace_id": "a" * 32, "api": "responses", "model": MODEL, "host": "a-host", **fields}
    return CallRecord(id=number, **given)


def attempt_of(**fields: Any) -> AttemptRecord:
    given = {"outcome": "success", "phase": "done", "number": 1, **fields}
    return AttemptRecord(trace_id="a" * 32, api="responses", model=MODEL, host="a-host", **given)


def tell(
    observer: PrometheusObserver, call: CallRecord, *attempts: AttemptRecord, **end: Any
) -> None:
    """A whole call, told to the observer as a Watch would."""
    observer.on_start(call)
    for attempt in attempts:
        observer.on_attempt(call, attempt)
    known = {"outcome": "success", "attempts": attempts, **end}
    observer.on_end(call, msgspec.structs.replace(call, **known))


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
    """Gaps are kept only up to a bound, then they are counted; an attempt's end brings the rest."""
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
    """A call that fails before an attempt, or in the wait behind one, is counted besides those
    attempts; one that fails with its last attempt is counted once."""
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
    """An error that says nothing has its HTTP status as its code."""
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
    """cancel(), leaving early and dropping a stream are "cancelled"; in flight comes back to 0."""
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


def test_a_scrape_sees_no_half_of_an_end(
    registry: CollectorRegistry, observer: PrometheusObserver, often: None
) -> None:
    """What one attempt or one end has brought is in the same scrape, or in none."""
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
    """An end that is told twice, or of a call that did not begin here, takes nothing back."""
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
    """A registry on which somebody else has our names: an error that says what to do, and nothing
    is left on it."""
    Counter("llm_stream_error", "Somebody else's.", registry=registry)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"registry=CollectorRegistry\(\)"):
            PrometheusObserver(registry)
    assert read(registry).names == {"llm_stream_error_total"}


def test_the_default_is_the_default_registry() -> None:
    """Without a registry it is prometheus_client.REGISTRY; several observers are fine."""
    code = """
        from prometheus_client import generate_latest
        from llmstream.telemetry.prometheus import PrometheusObserver
        from test_prometheus import call_of, tell
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


@pytest.mark.parametrize("multiprocess", [False, True])
def test_many_observations_are_as_one_by_one(multiprocess: bool, tmp_path: Path) -> None:
    """`observe_all` gives the same exposition as `observe` for each, with the values of one process
    and with those of many."""
    where = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if multiprocess else {}
    assert output_of(SAME_AS_OBSERVE, **where).strip() == str(multiprocess)


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


# --- forks --------------------------------------------------------------------------------------

IN_A_CHILD = """
    import os, sys
    from prometheus_client import CollectorRegistry, generate_latest
    from llmstream import Client
    from llmstream.telemetry.prometheus import PrometheusObserver
    from llmstream.testing import LLMServer, Reply, Silence, Answer
    from conftest import TWO_TOKENS
    from test_prometheus import Page, MODEL, API, read

    registry = CollectorRegistry()
    client = Client(base_url=sys.argv[1], api_key="k", model=MODEL,
                    observers=[PrometheusObserver(registry, models=[MODEL])])
    stream = client.stream("hold")
    next(stream)
    flying = lambda: read(registry)("llm_stream_in_flight", *API)
    said = [("parent", flying())]
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = [("child", flying())]
        stream.close()  # the child's copy: the parent's call goes on
        said.append(("child", flying()))
        with client.stream("hold") as own:
            next(own)
            said.append(("child", flying()))
        said.append(("child", flying()))
        os.write(w, repr(said).encode())
        os._exit(0)
    os.close(w)
    with os.fdopen(r) as pipe:
        said += eval(pipe.read())
    assert os.waitpid(pid, 0)[1] == 0
    said.append(("parent", flying()))
    stream.close()
    said.append(("parent", flying()))
    print(said)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("multiprocess", [False, True])
def test_a_forked_child_has_no_call_in_flight(
    multiprocess: bool, server: LLMServer, tmp_path: Path
) -> None:
    """The parent's calls are not the child's: there they are not in flight, and end nothing; its
    own are counted."""
    where = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if multiprocess else {}
    server.script(*[Reply([*TWO_TOKENS, Silence()])] * 2)
    said = output_of(IN_A_CHILD, server.base_url, **HERE, **where)
    assert eval(said) == [
        ("parent", 1),
        *(("child", number) for number in (0, 0, 1, 0)),
        *(("parent", number) for number in (1, 0)),
    ]


FORKS_UNDER_LOAD = """
    import faulthandler, os, sys, threading, warnings
    warnings.simplefilter("ignore")
    sys.setswitchinterval(1e-5)
    from prometheus_client import CollectorRegistry
    from llmstream.telemetry.prometheus import PrometheusObserver
    from test_prometheus import call_of, attempt_of, tell, read

    registry = CollectorRegistry()
    observer = PrometheusObserver(registry)
    over = threading.Event()

    def count(number):
        while not over.is_set():
            tell(observer, call_of(number), attempt_of())

    def look():
        while not over.is_set():
            read(registry)

    threads = [threading.Thread(target=count, args=(n,)) for n in range(4)]
    threads.append(threading.Thread(target=look))
    for thread in threads:
        thread.start()
    for _ in range(50):
        pid = os.fork()
        if pid == 0:
            faulthandler.dump_traceback_later(20, exit=True)  # says where it hangs
            tell(observer, call_of(99), attempt_of())
            # Not by way of the registry, whose own lock the scraping thread may have held.
            families = {family.name: family for family in observer._metrics.collect()}
            flying = [sample.value for sample in families["llm_stream_in_flight"].samples]
            os._exit(0 if flying == [0] else 1)
        if status := os.waitpid(pid, 0)[1]:
            print("the child:", status)
            break
    over.set()
    for thread in threads:
        thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("multiprocess", [False, True])
def test_a_fork_while_others_count(multiprocess: bool, tmp_path: Path) -> None:
    """A child that is forked in the middle of other threads' counting can count: no lock is held
    for ever."""
    where = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if multiprocess else {}
    assert output_of(FORKS_UNDER_LOAD, **HERE, **where) == ""


# --- four workers -------------------------------------------------------------------------------


def end(process: subprocess.Popen[Any]) -> None:
    """Ends a server, by force where it does not go in time."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Gunicorn:
    """Four real gunicorn workers that run tests/telemetry/prefork/app.py."""

    def __init__(self, service: str, directory: Path, *options: str) -> None:
        database, temporary = directory / "metrics", directory / "workers"
        database.mkdir()
        temporary.mkdir()
        self.log = directory / "log"
        with socket.create_server(("127.0.0.1", 0)) as listener, self.log.open("wb") as log:
            self.port = listener.getsockname()[1]
            command = [sys.executable, "-m", "gunicorn", "app:app", *options]
            command += ["--config", "gunicorn_conf.py", "--bind", f"fd://{listener.fileno()}"]
            command += ["--worker-tmp-dir", str(temporary)]
            self.process = subprocess.Popen(
                command,
                cwd=TESTS / "telemetry" / "prefork",
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                env={
                    **os.environ,
                    "HOME": str(directory),  # some versions put a control socket there
                    "PYTHONPATH": str(PACKAGE),
                    "PROMETHEUS_MULTIPROC_DIR": str(database),
                    "SERVICE": service,
                },
            )

    def page(self) -> Page:
        return Page(get(self.port))

    def ask(self, prompt: str) -> tuple[int, str]:
        """The worker's process, and the whole of its answer."""
        response = self.begin(prompt)
        with contextlib.closing(response):
            return int(response.headers["X-Worker"]), response.read().decode()

    def begin(self, prompt: str) -> Any:
        return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{prompt}", timeout=PATIENCE)

    def __enter__(self) -> Gunicorn:
        return self

    def __exit__(self, *exc: object) -> None:
        end(self.process)
        if exc[0] is not None:
            print(self.log.read_text())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn needs a system that forks")
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
def test_four_gunicorn_workers_of_which_one_is_killed(
    options: tuple[str, ...], server: LLMServer, tmp_path: Path
) -> None:
    """The workers' numbers add up at whichever is scraped; what a killed one had counted stays, its
    call is not in flight any more."""
    together = threading.Barrier(4)

    def reply(recorded: Recorded) -> Reply | Answer:
        prompt = prompt_text(recorded)
        if prompt == "together":
            together.wait(PATIENCE)
        if prompt == "busy" and busy:
            return busy.pop()
        if prompt == "hold":
            return Reply([*TWO_TOKENS, Silence()])
        return Answer("one two", usage=(3, 5))

    busy = [Reply.error(503), BUSY]
    server.script(*[reply] * 20)
    with Gunicorn(server.base_url, tmp_path, *options) as gunicorn:
        # Four at once, one for each worker: none is answered before all have asked.
        answers: list[tuple[int, str]] = []
        threads = [
            threading.Thread(target=lambda: answers.append(gunicorn.ask("together")))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE)
        workers = {worker for worker, _ in answers}
        assert [text for _, text in answers] == ["one two"] * 4
        assert len(workers) == 4
        assert gunicorn.ask("busy")[1] == "one two"  # at the third attempt

        # One is killed in mid-stream.
        with contextlib.closing(gunicorn.begin("hold")) as response:
            killed = int(response.headers["X-Worker"])
            assert response.read(3) == b"one"
            assert gunicorn.page()("llm_stream_in_flight", *API) == 1
            os.kill(killed, signal.SIGKILL)
            eventually(
                lambda: gunicorn.page()("llm_stream_in_flight", *API) == 0,
                "the killed worker's call is not in flight",
            )
        for _ in range(4):
            worker, text = gunicorn.ask("after")
            assert text == "one two"
            assert worker != killed

        page = gunicorn.page()
        assert page.all("llm_stream_total_duration_ms_count") == {
            (*API, "success"): 9,
            (*API, "error"): 0,
            (*API, "cancelled"): 0,
        }
        assert page("llm_stream_first_token_ms_count", *API) == 10  # the killed one's too
        assert page.all("llm_stream_tokens_in") == {API: 27}
        assert page.all("llm_stream_tokens_out") == {API: 45}
        assert page.all("llm_stream_retry_count") == {
            (*API, "RateLimitError"): 1,
            (*API, "OverloadedError"): 1,
        }
        assert page.all("llm_stream_error_total") == {
            ("rate_limit_exceeded", "RateLimitError"): 1,
            ("503", "OverloadedError"): 1,
        }
        assert page.all("llm_stream_in_flight") == {API: 0}


# --- the dashboard, and a real Prometheus -------------------------------------------------------

DASHBOARDS = PACKAGE / "llmstream" / "telemetry" / "dashboards"
VARIABLES = {"$api": ".*", "$model": ".*", "$__rate_interval": "10s"}  # as "All" is


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DASHBOARDS / "llmstream.json").read_text())
    return found


def queries() -> dict[str, str]:
    """The dashboard's queries with their variables filled in, by panel and legend."""
    found = {}
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            found[f"{panel['title']}: {target['legendFormat']}"] = expression
    return found


def advised() -> list[str]:
    """The queries of the dashboards' README."""
    text = (DASHBOARDS / "README.md").read_text()
    block = re.search(r"```promql\n(.*?)```", text, re.DOTALL)
    assert block is not None
    lines = [line for line in block[1].splitlines() if not line.startswith("#")]
    return [query for query in "\n".join(lines).split("\n\n") if query.strip()]


def test_the_dashboard_is_complete() -> None:
    """Every metric is on it and no other; panels have their own place, id and data source."""
    panels = dashboard()["panels"]
    named = {
        re.sub(r"_(bucket|count|sum)$", "", name) if name != "llm_stream_retry_count" else name
        for query in queries().values()
        for name in re.findall(r"llm_stream_\w+", query)
    }
    assert named == set(TYPES)
    assert not [query for query in queries().values() if "$" in query]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    parts = [*panels, *(target for panel in panels for target in panel["targets"])]
    assert all(part["datasource"] == chosen for part in parts)
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "api", "model"]


class Prometheus:
    """A real Prometheus that scrapes one port each second."""

    def __init__(self, directory: Path, target: int) -> None:
        config = directory / "prometheus.yml"
        job = {"job_name": "llmstream", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
        every = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        config.write_text(json.dumps({"global": every, "scrape_configs": [job]}))  # JSON is YAML
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                    "--enable-feature=exemplar-storage",
                ],
                stdout=log,
                stderr=log,
            )

    def _address(self) -> str | None:
        assert self.process.poll() is None, self.log.read_text()
        found = re.search(r'"?Listening on"? address=(\S+)', self.log.read_text())
        return found and found[1]

    def ask(self, path: str, **query: str) -> Any:
        """What the API says; None while it is not ready."""
        address = eventually(self._address, "prometheus listens")
        where = f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(where, timeout=PATIENCE) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as exc:
            with exc:
                if exc.code == 503:
                    return None
                pytest.fail(f"{query}: {exc.read().decode()}")
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expression: str) -> list[float]:
        data = self.ask("query", query=expression) or {"result": []}
        return [float(series["value"][1]) for series in data["result"]]

    def is_up(self) -> bool:
        data = self.ask("targets")
        return bool(data and [t for t in data["activeTargets"] if t["health"] == "up"])

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *exc: object) -> None:
        end(self.process)


def busy_hour(server: LLMServer, client: Client) -> None:
    """Something for every panel."""
    server.script(Reply.error(503), ANSWER, Reply([*TWO_TOKENS, Cut()]), QUOTA)
    server.script(Reply([*BLOCKS[:6], Pause(0.02), *BLOCKS[6:]]))
    client.stream(PROMPT).result()
    failure(client.stream(PROMPT))
    failure(client.stream(PROMPT))
    client.stream(PROMPT).result()


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus (apt-get install prometheus)"
)
def test_a_real_prometheus_answers_every_panel(
    server: LLMServer,
    client_for: Callable[..., Client],
    registry: CollectorRegistry,
    observer: PrometheusObserver,
    tmp_path: Path,
) -> None:
    """Scraped by a real Prometheus, every query of the dashboard brings numbers, and those of its
    README are understood; the exemplars arrive."""
    policy = RetryPolicy(base=0.01, cap=0.01, jitter=0.0)
    client = client_for(server, model=MODEL, retry=policy, observers=[observer])
    with exposed(registry) as port, Prometheus(tmp_path, port) as prometheus:
        eventually(prometheus.is_up, "the target is up", within=30)
        missing = queries()

        def all_answered() -> bool:
            busy_hour(server, client)  # rates need something between two scrapes
            for title, expression in list(missing.items()):
                values = prometheus.values(expression)
                if values and all(value == value and value >= 0 for value in values):
                    del missing[title]
            return not missing

        with contextlib.suppress(pytest.fail.Exception):
            eventually(all_answered, "every panel has numbers", within=40)
        assert missing == {}
        for expression in advised():
            prometheus.ask("query", query=expression)
        counted = read(registry).total("llm_stream_error_total")
        eventually(
            lambda: sum(prometheus.values("llm_stream_error_total")) == counted,
            "the last numbers are scraped",
        )
        found = prometheus.ask(
            "query_exemplars",
            query="llm_stream_first_token_ms_bucket",
            start=str(time.time() - 300),
            end=str(time.time() + 1),
        )
        assert found, "no exemplars"
        assert {
            re.fullmatch("[0-9a-f]{32}", e["labels"]["trace_id"]) is not None
            for series in found
            for e in series["exemplars"]
        } == {True}


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (apt-get install prometheus)"
)
def test_promtool_has_nothing_else_to_say(
    registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    """`promtool check metrics` accepts the exposition; what it remarks on are the names, which are
    fixed: their unit, and a gauge that ends in `_count`."""
    failed = attempt_of(outcome="error", error_type="ServerError", error_code="500")
    tell(observer, call_of(), failed, attempt_of(usage=Usage(1, 2)))
    observer.on_retry(
        call_of(), RetryRecord(attempt=1, wait_ms=1.0, error_type="ServerError", phase="headers")
    )
    run = subprocess.run(
        ["promtool", "check", "metrics"],
        input=generate_latest(registry),
        capture_output=True,
        timeout=60,
        check=False,
    )
    remarks = set((run.stdout + run.stderr).decode().splitlines())
    units = "metric names should not contain abbreviated units"
    known = {
        f"{name}{end} {units}" for name in TYPES if name.endswith("_ms") for end in ("", "_created")
    }
    known.add(
        'llm_stream_retry_count non-histogram and non-summary metrics should not have "_count" '
        "suffix"
    )
    assert remarks <= known
    assert run.returncode in (0, 3)  # 3: there are remarks
