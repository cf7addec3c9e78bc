"""One run of good and bad calls: records, results, log, timeline page and server agree."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest
from support import BLOCKS, PROMPT, TWO_TOKENS, clocks, failure
from told import (
    Told,
    debug_log,  # noqa: F401 - a fixture
    extra_of,
    parsed,
)

from llmstream import Client, RetryPolicy, Stream
from llmstream.telemetry.records import error_code
from llmstream.telemetry.timeline import TimelineObserver
from llmstream.testing import Answer, Cut, LLMServer, Pause, Reply, Reset, Silence

pytestmark = pytest.mark.usefixtures("nothing_left")


class Story(NamedTuple):
    told: Told
    results: list[Any]  # what the callers got
    lines: list[logging.LogRecord]
    server: LLMServer
    page: str


@pytest.fixture
def story(
    server: LLMServer, client_for: Callable[..., Client], log: pytest.LogCaptureFixture
) -> Story:
    """One run: a call that meets a 429, a drop and a truncation and succeeds in the end; one whose
    answer is cut and begins anew; one that is out of quota; one that is left early."""
    told, trace = Told(), TimelineObserver()
    asks = Reply.error(429, headers={"retry-after-ms": "60"}, request_id="req-1")
    whole = Reply(
        [*BLOCKS[:4], Pause(0.05), BLOCKS[4], Pause(0.08), *BLOCKS[5:]],
        delay=0.04,
        headers={"x-request-id": "req-4"},
    )
    server.script(
        *(asks, Reply([*BLOCKS[:4], Cut()]), Reply(BLOCKS[:4]), whole),
        *(Reply([*TWO_TOKENS, Reset()]), Answer("five six")),
        Reply.error(429, code="insufficient_quota", request_id="req-7"),
        Reply([*TWO_TOKENS, Silence()]),
    )
    policy = RetryPolicy(base=0.03, cap=0.05, jitter=0.0)
    client = client_for(server, observers=[told, trace], retry=policy, timeouts=clocks(), model="m")
    results = [
        client.stream(PROMPT, trace_id="a").result(),
        client.stream(PROMPT, trace_id="b", on_disconnect="restart").result(),
        failure(client.stream(PROMPT, trace_id="c"), Stream.result),
    ]
    with client.stream(PROMPT, trace_id="d") as stream:
        next(stream)
    lines = [r for r in log.records if r.name == "llmstream"]
    return Story(told, [*results, stream], lines, server, trace.html())


def test_records_and_results_agree(story: Story) -> None:
    """What was reported to the observers is what the callers got, and what the server received."""
    told, (first, second, quota, left), server = story.told, story.results, story.server
    a, b, c, d = told.ends
    assert [end.outcome for end in told.ends] == ["success", "success", "error", "cancelled"]
    assert [x.error_type for x in a.attempts] == [
        *("RateLimitError", "StreamInterrupted", "StreamTruncated"),
        None,
    ]
    assert [x.phase for x in a.attempts] == ["headers", "first_token", "first_token", "done"]
    assert [x.status for x in a.attempts] == [429, 200, 200, 200]
    assert [x.request_id for x in a.attempts] == ["req-1", None, None, "req-4"]
    assert [x.error_type for x in b.attempts] == ["StreamInterrupted", None]
    assert (b.attempts[0].phase, b.attempts[0].chunks, b.chunks) == ("body", 2, 4)
    assert (c.error_type, c.error_code, c.status) == (
        "QuotaExceededError",
        "insufficient_quota",
        429,
    )
    assert (c.request_id, c.retries, c.first_token_ms) == ("req-7", (), None)
    assert (d.reason, d.phase, d.chunks >= 1) == ("closed before the end", "body", True)
    for end, attempts in zip(
        told.ends, (first.attempts, second.attempts, quota.attempts, left.attempts), strict=True
    ):
        assert len(end.attempts) == len(attempts)
        for record, attempt in zip(end.attempts, attempts, strict=True):
            assert record.number == attempt.number
            assert record.started_ms == attempt.started_ms
            assert record.total_ms == attempt.duration_ms
            assert record.first_token_ms == attempt.first_token_ms
            assert record.longest_gap_ms == attempt.longest_gap_ms
            assert record.wait_ms == attempt.delay_ms
            assert record.throttled_ms == attempt.throttled_ms
            assert (record.status, record.phase) == (attempt.status, attempt.phase)
            assert (record.request_id, record.bytes) == (attempt.request_id, attempt.bytes)
            assert (record.chunks, record.usage) == (attempt.chunks, attempt.usage)
            kind = None if attempt.error is None else type(attempt.error).__name__
            assert (record.error_type, record.error_code) == (kind, error_code(attempt.error))
    assert a.total_ms == first.timings.total_ms
    assert a.first_token_ms == first.timings.first_token_ms
    # the server's own view: as many requests, each within the times of its attempt
    assert len(server.requests) == sum(len(end.attempts) for end in told.ends) == 8
    begun = server.requests[0].received_at * 1000.0
    origin = a.attempts[0]
    for request, record in zip(server.requests, a.attempts, strict=False):
        assert request.headers["x-client-request-id"] == record.trace_id == "a"
        at = request.received_at * 1000.0 - begun
        assert record.started_ms - origin.started_ms - origin.total_ms <= at + 1.0
        assert at - 1.0 <= record.started_ms + record.total_ms - origin.started_ms
    last = a.attempts[3]
    assert last.first_token_ms is not None
    assert last.first_token_ms >= 89.0  # 40 ms to the headers, 50 ms to the first token
    calls = [(what[0].trace_id, name, what[1:]) for name, what in told.moments]
    after = calls[[n for n, one in enumerate(calls) if one[:2] == ("a", "phase")][-1] :]
    gaps = [what[1] for trace, name, what in after if (trace, name) == ("a", "tokens")]
    assert gaps[0] is None  # and the others are few where who reads is late for the first
    assert last.longest_gap_ms == max(gaps[1:], default=None)
    assert last.longest_gap_ms is None or 0.0 <= last.longest_gap_ms < last.total_ms
    assert a.backoff_ms >= 60.0 + 50.0 + 50.0 - 1.0
    assert a.retries[0].wait_ms == 60.0


def test_the_records_agree_with_themselves(story: Story) -> None:
    """Sums are sums, phases lie inside their attempts, waits between them."""
    for end in story.told.ends:
        assert end.chunks == sum(x.chunks for x in end.attempts)
        assert end.bytes == sum(x.bytes for x in end.attempts)
        gaps = [x.longest_gap_ms for x in end.attempts if x.longest_gap_ms is not None]
        assert end.longest_gap_ms == max(gaps, default=None)
        assert end.attempts[-1].phase == end.phase
        assert end.attempts[-1].status == end.status
        failed = [x for x in end.attempts if x.wait_ms]
        assert [r.attempt for r in end.retries] == [x.number for x in failed]
        for retry in end.retries:
            given_up = end.attempts[retry.attempt - 1]
            for name in ("wait_ms", "error_type", "error_code", "status", "phase"):
                assert getattr(retry, name) == getattr(given_up, name), name
        for one, following in zip(end.attempts, end.attempts[1:], strict=False):
            gap = following.started_ms - one.started_ms - one.total_ms
            assert gap >= one.wait_ms - 1.0
        for one in end.attempts:
            times = [at for _, at in one.phases]
            assert times == sorted(times)
            assert one.started_ms - 0.5 <= times[0]
            assert times[-1] <= one.started_ms + one.total_ms + 0.5
            assert [name for name, _ in one.phases][:1] == ["connect"]
            if one.outcome != "success":
                assert one.phases[-1][0] == one.phase
        spent = sum(x.total_ms for x in end.attempts) + end.backoff_ms
        # what is between them is the library's own, and that of a machine that stands still
        assert end.total_ms - 5000.0 < spent <= end.total_ms + 1.0


def test_the_log_agrees_with_the_records(story: Story) -> None:
    """Every line, field by field: ends, retries and phases are those of the records, in order."""
    told = story.told
    said: dict[str, list[tuple[dict[str, str], dict[str, Any]]]] = {}
    for line in story.lines:
        kind, fields = parsed(line.getMessage())
        extra = extra_of(line)
        shown = {n: f"{v:.1f}" if isinstance(v, float) else str(v) for n, v in extra.items()}
        assert fields == {n: v for n, v in shown.items() if extra[n] is not None}
        said.setdefault(kind, []).append((fields, extra))
    assert [extra["trace_id"] for _, extra in said["call ended"]] == ["a", "b", "c", "d"]
    for (_, extra), end in zip(said["call ended"], told.ends, strict=True):
        assert extra == {
            **{n: getattr(end, n) for n in extra if hasattr(end, n)},
            "attempts": len(end.attempts),
            "retries": len(end.retries),
            "tokens_in": end.usage.input_tokens,
            "tokens_out": end.usage.output_tokens,
            "tokens_cached": end.usage.cached_tokens,
            "tokens_reasoning": end.usage.reasoning_tokens,
        }
    retries = [(end, retry) for end in told.ends for retry in end.retries]
    assert len(said["call retried"]) == len(retries) == 4
    for (_, extra), (end, retry) in zip(said["call retried"], retries, strict=True):
        known = ("trace_id", "api", "model", "host")
        assert extra == msgspec.structs.asdict(retry) | {n: getattr(end, n) for n in known}
    for end in told.ends:
        mine = [extra for _, extra in said["phase"] if extra["trace_id"] == end.trace_id]
        for attempt in end.attempts:
            phases = [
                (extra["phase"], extra["at_ms"])
                for extra in mine
                if extra["attempt"] == attempt.number and extra["phase"] != "backoff"
            ]
            assert tuple(phases) == attempt.phases
        waits = [extra["attempt"] for extra in mine if extra["phase"] == "backoff"]
        assert waits == [retry.attempt + 1 for retry in end.retries]
    moments = [(what[0].trace_id, *what[1:]) for name, what in told.moments if name == "phase"]
    assert [(e["trace_id"], e["phase"], e["at_ms"]) for _, e in said["phase"]] == moments


def cells_of(section: str, caption: str) -> list[list[str]]:
    """The cells of a table of the timeline page."""
    found = re.search(f"<caption>{caption}.*?<tbody>(.*?)</tbody>", section, re.S)
    rows = re.findall("<tr>(.*?)</tr>", found[1], re.S) if found else []
    return [re.findall("<td>(.*?)</td>", row, re.S) for row in rows]


def number_in(cell: str) -> float | None:
    """What is there for machines."""
    found = re.search('<data value="([^"]*)"', cell)
    return float(found[1]) if found else None


def test_the_page_agrees_with_the_records(story: Story) -> None:
    """The picture of the run has the numbers of the records: of each call, each attempt, each of
    its phases, and each retry."""
    sections = story.page.split('<section class="call">')[1:]
    assert len(sections) == 4
    for end in story.told.ends:
        (section,) = (one for one in sections if f"<bdi>{end.trace_id}</bdi>" in one)

        def near(*numbers: float | None) -> list[Any]:
            return [n if n is None else pytest.approx(n, abs=0.002) for n in numbers]

        tiles = re.findall(r"<dt>([\w ]+)</dt><dd>(<data.*?|<span.*?)</dd>", section)
        told = {name: number_in(value) for name, value in tiles}
        times = ("first token", "total", "network waits", "waits between attempts", "longest gap")
        assert [told[name] for name in times] == near(
            end.first_token_ms, end.total_ms, end.waited_ms, end.backoff_ms, end.longest_gap_ms
        )
        assert (told["attempts"], told["chunks"]) == (len(end.attempts), end.chunks)
        assert (told["bytes"], told["tokens out"]) == (end.bytes, end.usage.output_tokens)
        facts = dict(re.findall(r"<dt>([\w ]+)</dt><dd><bdi>(.*?)</bdi>", section))
        assert facts["host"] == f"{end.host}:{end.port}"
        assert facts.get("error") == end.error_type
        assert facts.get("code") == end.error_code
        assert facts.get("ended in phase") == (None if end.outcome == "success" else end.phase)
        assert facts.get("reason") == end.reason
        rows = cells_of(section, "Attempts")
        assert len(rows) == len(end.attempts)
        for row, attempt in zip(rows, end.attempts, strict=True):
            kind = attempt.error_type or "success"
            assert row[3] == " ".join(word for word in (kind, attempt.error_code) if word)
            assert (row[0], row[4]) == (str(attempt.number), attempt.phase)
            assert [number_in(row[n]) for n in (1, 2, 5, 6, 7, 8, 9)] == near(
                attempt.started_ms,
                attempt.total_ms,
                attempt.status,
                attempt.first_token_ms,
                attempt.longest_gap_ms,
                attempt.chunks,
                attempt.bytes,
            )
            over = attempt.started_ms + attempt.total_ms
            until = [*(at for _, at in attempt.phases[1:]), over]
            spent = [(name, to - at) for (name, at), to in zip(attempt.phases, until, strict=True)]
            shown = re.findall(r'nowrap">(\w+) <data value="([^"]*)"', row[11])
            assert [name for name, _ in shown] == [name for name, _ in spent]
            assert [float(ms) for _, ms in shown] == near(*(ms for _, ms in spent))
        retries = cells_of(section, "Retries")
        assert [(row[0], number_in(row[4])) for row in retries] == [
            (str(retry.attempt), *near(retry.wait_ms)) for retry in end.retries
        ]
