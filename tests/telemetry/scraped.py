"""Shared by the tests of Prometheus: scrapes, read as Prometheus reads them, and records."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import msgspec
import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support import PACKAGE, PATIENCE

from llmstream.telemetry.prometheus import PrometheusObserver
from llmstream.telemetry.records import AttemptRecord, CallRecord
from llmstream.testing import Reply

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

QUOTA = Reply.error(429, code="insufficient_quota")
BUSY = Reply.error(429, code="rate_limit_exceeded")
# Processes that import this module.


# Processes that import this module.
HERE = {"PYTHONPATH": os.pathsep.join((str(PACKAGE), str(Path(__file__).parent)))}


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


@pytest.fixture(name="registry")
def registry_fixture() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture(name="scrape")
def scrape_fixture(registry: CollectorRegistry, nothing_left: None) -> Iterator[Callable[[], Page]]:
    with exposed(registry) as port:
        yield lambda: Page(get(port))


@pytest.fixture(name="observer")
def observer_fixture(registry: CollectorRegistry) -> PrometheusObserver:
    return PrometheusObserver(registry, models=[MODEL])


@pytest.fixture(name="often")
def often_fixture() -> Iterator[None]:
    """Threads take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Witness:
    """Keeps what is reported, to compare with what was counted."""

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
    """A whole call, reported to the observer as a Reporter would."""
    observer.on_start(call)
    for attempt in attempts:
        observer.on_attempt(call, attempt)
    known = {"outcome": "success", "attempts": attempts, **end}
    observer.on_end(call, msgspec.structs.replace(call, **known))


def end(process: subprocess.Popen[Any]) -> None:
    """Ends a server, by force where it does not go in time."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
