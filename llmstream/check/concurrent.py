"""The check of many streams at once on one client."""

from __future__ import annotations

import importlib.util
import threading
from collections import Counter
from collections.abc import Sequence
from functools import partial

import msgspec

from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.threads import Thread, spawn
from ..bench.statistics import percentile
from ..client import Client
from ..testing import LLMServer, Reply
from . import pace
from .observed import Observed
from .result import CheckResult, result
from .scenario import Scenario, read_text
from .settings import CheckSettings
from .wording import counted

__all__ = ["many_streams"]

_ECHO_DELAY = 0.2  # seconds until the server sends the first token


def many_streams(settings: CheckSettings, count: int, *, tls: bool = False) -> CheckResult:
    """`count` streams at once on one client, over plain HTTP or over TLS; each has to receive its
    own prompt as the answer."""
    if tls and importlib.util.find_spec("trustme") is None:
        seen = "no trustme, without which the fault server has no TLS"
        return result("n/a", f"{count} answers over TLS", seen)
    clocks = (settings.timeouts.first_token, settings.timeouts.total)
    delay = min(_ECHO_DELAY, *(seconds / 4.0 for seconds in clocks if seconds is not None))
    members = [Observed() for _ in range(count)]
    latencies: list[float] = []
    with Scenario(msgspec.structs.replace(settings, real_time=True), tls=tls) as scenario:
        scenario.server.default = lambda recorded: Reply(LLMServer.echo(recorded), delay=delay)
        start = threading.Barrier(count)
        threads = [
            spawn(
                partial(_member, scenario.client, number, observed, latencies, start), "check-call"
            )
            for number, observed in enumerate(members)
        ]
        _join(threads, scenario.client)
        requests = len(scenario.server.requests)
    own_latencies = sorted(ms - delay * 1000.0 for ms in latencies)
    return _result(members, own_latencies, requests, delay)


def _prompt(number: int) -> str:
    """A text that shares no word with another stream's."""
    return " ".join(f"{number}:{word}" for word in range(40))


def _member(
    client: Client,
    number: int,
    observed: Observed,
    latencies: list[float],
    start: threading.Barrier,
) -> None:
    try:
        start.wait(pace.PATIENCE)
        stream = client.stream(_prompt(number), on_disconnect="raise")
    except Exception as error:
        observed.error = error
        return
    read_text(stream, observed)
    if observed.error is None:
        first_token_ms = stream.result().timings.first_token_ms
        if first_token_ms is not None:
            latencies.append(first_token_ms)


def _join(threads: Sequence[Thread], client: Client) -> None:
    """Wait for all threads, but not for ever."""
    deadline = SYSTEM_CLOCK.monotonic() + 2.0 * pace.PATIENCE
    for thread in threads:
        thread.join(max(0.0, deadline - SYSTEM_CLOCK.monotonic()))
    if any(thread.is_alive() for thread in threads):
        client.close()
        for thread in threads:
            thread.join(pace.LATE)


def _result(
    members: Sequence[Observed], latencies: Sequence[float], requests: int, delay: float
) -> CheckResult:
    count = len(members)
    exact = sum(
        member.error is None and member.delivered == member.text == _prompt(number)
        for number, member in enumerate(members)
    )
    errors = Counter(member.ending for member in members if member.error is not None)
    failed = "".join(f", {times} x {name}" for name, times in errors.items())
    p50, p95 = percentile(latencies, 0.50), percentile(latencies, 0.95)
    right = exact == count and requests == count
    return result(
        "ok" if right else "FAIL",
        f"{count} answers, each exactly its own, {count} requests",
        f"{exact} of {count} exact{failed}, {counted(requests, 'request')}; first token "
        f"p50 {p50:.0f} ms, p95 {p95:.0f} ms (the server's {delay * 1000:.0f} ms subtracted)",
        streams=count,
        exact=exact,
        requests=requests,
        first_token_p50_ms=p50,
        first_token_p95_ms=p95,
    )
