"""The lines of the log, word by word."""

from __future__ import annotations

import json
import logging
from typing import Any

import msgspec
import pytest
from support import PROMPT, TWO_TOKENS, failure, output_of
from told import (
    MOMENTS,
    THREE,
    Told,
    debug_log,  # noqa: F401 - a fixture
    extra_of,
    failing,
    lines_of,
    make,
    parsed,
    timed,
)

from llmstream import Client, Stream
from llmstream.result import printable
from llmstream.telemetry import CallRecord, LogObserver
from llmstream.testing import Answer, FakeTransport, LLMServer, Pause, Reply

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_the_line_of_a_success(log: pytest.LogCaptureFixture) -> None:
    """Word by word, at INFO, with the same in `extra`, as numbers."""
    log.set_level(logging.INFO, logger="llmstream")
    reply = timed("responses", THREE, headers={"x-request-id": "req-1"})
    client, _, told = make(reply)
    client.stream(PROMPT, trace_id="t-1").result()
    (record,) = log.records
    received = told.end.bytes
    assert (record.name, record.levelno) == ("llmstream", logging.INFO)
    assert record.getMessage() == (
        "call ended: trace_id=t-1 outcome=success status=200 phase=done finish=stop api=responses "
        "model=m host=test attempts=1 retries=0 first_token_ms=1500.0 total_ms=3000.0 "
        "waited_ms=3000.0 backoff_ms=0.0 longest_gap_ms=500.0 tokens_in=12 tokens_out=34 "
        f"tokens_cached=5 tokens_reasoning=6 chunks=3 bytes={received} request_id=req-1 "
        "response_id=resp_test"
    )
    assert extra_of(record) == {
        "trace_id": "t-1",
        "outcome": "success",
        "error_type": None,
        "error_code": None,
        "status": 200,
        "phase": "done",
        "finish": "stop",
        "reason": None,
        "api": "responses",
        "model": "m",
        "host": "test",
        "attempts": 1,
        "retries": 0,
        "first_token_ms": 1500.0,
        "total_ms": 3000.0,
        "waited_ms": 3000.0,
        "backoff_ms": 0.0,
        "longest_gap_ms": 500.0,
        "tokens_in": 12,
        "tokens_out": 34,
        "tokens_cached": 5,
        "tokens_reasoning": 6,
        "chunks": 3,
        "bytes": received,
        "request_id": "req-1",
        "response_id": "resp_test",
    }
    json.dumps(extra_of(record))


def test_of_a_success_that_no_line_shows_no_record_is_made(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At WARNING, where nobody else listens; and a failure has its line all the same, with what was
    before it."""
    log.set_level(logging.WARNING, logger="llmstream")
    client = Client("responses", base_url="http://test/v1", transport=FakeTransport(THREE))
    made: list[CallRecord] = []
    monkeypatch.setattr("llmstream.telemetry.reporter.CallRecord", made.append)
    assert client.stream(PROMPT, model="m").result().text
    assert (made, log.records) == ([], [])
    monkeypatch.undo()
    log.set_level(logging.WARNING, logger="llmstream")
    client, _, _ = make(*[Reply.error(503)] * 5, observers=[])
    failure(client.stream(PROMPT, trace_id="t-1"), lambda s: s.result())
    lines = [record.getMessage().partition(":")[0] for record in log.records]
    assert lines == [*["call retried"] * (len(lines) - 1), "call ended"]
    assert f"attempts={len(lines)} retries={len(lines) - 1}" in log.records[-1].getMessage()


def test_the_lines_of_a_retry_and_an_error(log: pytest.LogCaptureFixture) -> None:
    """One line for the retry and one for the end, both at WARNING."""
    log.set_level(logging.INFO, logger="llmstream")
    quota = Reply.error(402, code="insufficient_quota", request_id="req-2")
    client, _, told = make(Reply.error(503), quota)
    failure(client.stream(PROMPT, trace_id="t-1"), lambda s: s.result())
    retried, ended = log.records
    assert [r.levelno for r in (retried, ended)] == [logging.WARNING] * 2
    assert retried.getMessage() == (
        "call retried: trace_id=t-1 attempt=1 error_type=OverloadedError error_code=503 status=503 "
        "phase=headers wait_ms=500.0 api=responses model=m host=test"
    )
    assert extra_of(retried) == {
        "trace_id": "t-1",
        "attempt": 1,
        "error_type": "OverloadedError",
        "error_code": "503",
        "status": 503,
        "phase": "headers",
        "wait_ms": 500.0,
        "api": "responses",
        "model": "m",
        "host": "test",
    }
    assert ended.getMessage() == (
        "call ended: trace_id=t-1 outcome=error error_type=QuotaExceededError "
        "error_code=insufficient_quota status=402 phase=headers api=responses model=m host=test "
        "attempts=2 retries=1 total_ms=500.0 waited_ms=0.0 backoff_ms=500.0 chunks=0 "
        f"bytes={told.end.bytes} request_id=req-2"
    )


def test_the_line_of_a_cancel(log: pytest.LogCaptureFixture) -> None:
    """At INFO: it is what the caller wanted."""
    log.set_level(logging.INFO, logger="llmstream")
    client, _, told = make(Reply([*TWO_TOKENS, Pause(1.0)]))
    stream = client.stream(PROMPT, trace_id="t-1")
    assert next(stream) == "one"
    stream.cancel("the user left")
    failure(stream, lambda s: s.result())
    (record,) = log.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == (
        "call ended: trace_id=t-1 outcome=cancelled error_type=Cancelled status=200 phase=body "
        'reason="the user left" api=responses model=m host=test attempts=1 retries=0 '
        "first_token_ms=0.0 total_ms=0.0 waited_ms=0.0 backoff_ms=0.0 chunks=1 "
        f"bytes={told.end.bytes} response_id=resp_test"
    )


def test_debug_adds_the_phases(log: pytest.LogCaptureFixture) -> None:
    """One line for each phase of each attempt, nothing for tokens."""
    client, _, told = make(Reply.error(500), timed("responses", THREE))
    client.stream(PROMPT, trace_id="t-1").result()
    debug = [r for r in log.records if r.levelno == logging.DEBUG]
    assert [r.getMessage() for r in debug] == [
        "phase: trace_id=t-1 attempt=1 phase=connect at_ms=0.0",
        "phase: trace_id=t-1 attempt=1 phase=send at_ms=0.0",
        "phase: trace_id=t-1 attempt=1 phase=headers at_ms=0.0",
        "phase: trace_id=t-1 attempt=2 phase=backoff at_ms=0.0",
        "phase: trace_id=t-1 attempt=2 phase=connect at_ms=500.0",
        "phase: trace_id=t-1 attempt=2 phase=send at_ms=500.0",
        "phase: trace_id=t-1 attempt=2 phase=headers at_ms=500.0",
        "phase: trace_id=t-1 attempt=2 phase=first_token at_ms=1500.0",
        "phase: trace_id=t-1 attempt=2 phase=body at_ms=2000.0",
    ]
    assert [extra_of(r)["phase"] for r in debug] == told.phases


@pytest.mark.parametrize(
    ("level", "kinds"),
    [
        (logging.DEBUG, {"phase", "call retried", "call ended"}),
        (logging.INFO, {"call retried", "call ended"}),
        (logging.WARNING, {"call retried"}),
        (logging.ERROR, set()),
    ],
)
def test_the_levels(log: pytest.LogCaptureFixture, level: int, kinds: set[str]) -> None:
    """Of a call that was retried and succeeded: what each level of the logger shows."""
    log.set_level(level, logger="llmstream")
    client, _, _ = make(Reply.error(500), THREE, observers=[])
    client.stream(PROMPT).result()
    assert {line.partition(":")[0] for line in lines_of(log, logging.DEBUG)} == kinds
    log.clear()
    client, _, _ = make(Reply.error(400), observers=[])
    failure(client.stream(PROMPT), Stream.result)
    ended = [line for line in lines_of(log) if line.startswith("call ended")]
    assert len(ended) == (level <= logging.WARNING)


def test_an_own_log_observer_replaces_the_default(log: pytest.LogCaptureFixture) -> None:
    """A LogObserver among the observers writes each line once, to its own logger, by that logger's
    level; the logger `llmstream` gets nothing of the calls."""
    mine = logging.getLogger("application.calls")
    log.set_level(logging.INFO, logger=mine.name)
    client, _, _ = make(*[THREE] * 3, observers=[LogObserver(mine), Told()])
    for number in range(3):
        client.stream(PROMPT, trace_id=f"t-{number}").result()
    assert [(r.name, r.trace_id) for r in log.records] == [  # type: ignore[attr-defined]
        (mine.name, f"t-{number}") for number in range(3)
    ]
    assert all(r.getMessage().startswith("call ended: ") for r in log.records)


def test_a_log_observer_of_ones_own_class(log: pytest.LogCaptureFixture) -> None:
    """A subclass replaces the default too, and may add hooks of its own."""

    class Counting(LogObserver):
        begun = 0

        def on_start(self, call: CallRecord) -> None:
            self.begun += 1

    counting = Counting()
    log.set_level(logging.INFO, logger="llmstream")
    client, _, _ = make(THREE, observers=[counting])
    client.stream(PROMPT).result()
    assert (counting.begun, len(lines_of(log))) == (1, 1)


QUIET = """
    import sys
    from llmstream import Client, LLMStreamError

    class Failing:
        def on_end(self, call, end):
            raise ValueError("an observer's own mistake")

    with Client(base_url=sys.argv[1], api_key="test-key", observers=[Failing()]) as client:
        try:
            client.stream("x").result()
        except LLMStreamError:
            pass
"""


@pytest.mark.slow
def test_quiet_without_logging_set_up(server: LLMServer) -> None:
    """An application that has set up no logging sees nothing: not of errors, retries, nor of an
    observer that fails."""
    server.script(Reply.error(500, headers={"retry-after-ms": "1"}), Reply.error(400))
    assert output_of(QUIET, server.base_url) == ""
    assert len(server.requests) == 2


HOSTILE = (
    "two\nlines",
    "call ended: outcome=success",
    'quote " inside',
    "back\\slash",
    "tab\tand\x00nul\x1b[31mred",
    "a=b c=d",
    "\u2028line\u2029and\x85next",
    "right\u202eto left",
    "%s %(trace_id)s %d {trace_id}",
    "ünïcode 東京",
    "'single'",
    " ",
)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_values_break_no_line(log: pytest.LogCaptureFixture, hostile: str) -> None:
    """The service's code of an error, its name of the model and its own id, a cancel's reason, and
    a record with a model's name that no call takes: each log line stays one line, reads back to
    exactly the record's values, and has nothing else. Nor has a value of the record a line end or a
    control character, for a formatter that shows it."""
    answer = Answer(["one ", "two"], response_id=hostile, model=hostile)
    client, _, told = make(Reply.error(500, code=hostile), answer)
    stream = client.stream(PROMPT, trace_id="t-1")
    next(stream)
    stream.cancel(hostile)
    failure(stream, lambda s: s.result())
    assert told.end.response_model == printable(hostile)
    LogObserver().on_end(told.end, msgspec.structs.replace(told.end, model=hostile))
    for record in log.records:
        line = record.getMessage()
        assert line.splitlines() == [line]
        assert line.isprintable()
        _, fields = parsed(line)
        for name, value in extra_of(record).items():
            shown = f"{value:.1f}" if isinstance(value, float) else str(value)
            assert fields.get(name) == (None if value is None else shown), name
    ended = log.records[-1]
    kept = (ended.model, ended.reason, ended.response_id)  # type: ignore[attr-defined]
    assert kept == (printable(hostile),) * 3
    assert printable(hostile).isprintable()
    assert not hostile.isprintable() or printable(hostile) == hostile
    assert parsed(ended.getMessage())[1]["outcome"] == "cancelled"


def test_half_a_surrogate_can_be_written(log: pytest.LogCaptureFixture) -> None:
    """A reason out of a file name's undecodable bytes does not lose the line on a UTF-8 stream."""
    client, _, _ = make(THREE)
    stream = client.stream(PROMPT)
    next(stream)
    stream.cancel(b"report-\xff.txt".decode("utf-8", "surrogateescape"))
    failure(stream, lambda s: s.result())
    line = lines_of(log)[-1]
    assert line.encode("utf-8")
    assert parsed(line)[1]["reason"] == "report-\\udcff.txt"


def hostile_id_header(value: str) -> Reply:
    return Reply(THREE, headers={"x-request-id": value})


def test_a_request_id_of_the_service_is_one_word(log: pytest.LogCaptureFixture) -> None:
    """Whatever the response's header contains."""
    client, _, _ = make(hostile_id_header('req outcome=error "x"'))
    client.stream(PROMPT).result()
    assert parsed(lines_of(log)[-1])[1]["request_id"] == 'req outcome=error "x"'
    assert parsed(lines_of(log)[-1])[1]["outcome"] == "success"


class Raising(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise ValueError("a filter's own mistake")


@pytest.mark.parametrize("observers", [(), (failing(*MOMENTS),)], ids=["alone", "and an observer"])
def test_a_filter_that_raises_breaks_no_stream(
    log: pytest.LogCaptureFixture, observers: tuple[Any, ...]
) -> None:
    """An application's own logging may fail at every line: the streams do not."""
    broken = Raising()
    logger = logging.getLogger("llmstream")
    logger.addFilter(broken)
    try:
        client, _, _ = make(Reply.error(500), THREE, Reply.error(400), observers=observers)
        assert client.stream(PROMPT).result().text == "one two three"
        error = failure(client.stream(PROMPT), Stream.result)
    finally:
        logger.removeFilter(broken)
    assert type(error).__name__ == "InvalidRequestError"


def test_a_record_factory_that_sets_our_names(log: pytest.LogCaptureFixture) -> None:
    """Applications put `trace_id` or `request_id` on every record by a factory, as the logging
    cookbook shows; `extra` would refuse these names, and the lines would be lost."""
    real = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = real(*args, **kwargs)
        record.trace_id = record.request_id = record.host = "the application's"
        return record

    logging.setLogRecordFactory(factory)
    try:
        client, _, told = make(Reply.error(500), THREE)
        client.stream(PROMPT, trace_id="t-1").result()
    finally:
        logging.setLogRecordFactory(real)
    kinds = [line.partition(":")[0] for line in lines_of(log)]
    assert kinds == ["call retried", "call ended"]
    assert [r.trace_id for r in log.records] == ["t-1"] * len(log.records)  # type: ignore[attr-defined]
    assert log.records[-1].bytes == told.end.bytes  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("api", "whole"), [("responses", 12), ("messages", 12 + 5), ("chat", 12), ("gemini", 12)]
)
def test_tokens_in_are_the_whole_prompt(
    log: pytest.LogCaptureFixture, api: str, whole: int
) -> None:
    """Messages counts cached tokens beside the input; the log counts them within."""
    log.set_level(logging.INFO, logger="llmstream")
    client, _, told = make(timed(api, THREE), api=api)
    client.stream(PROMPT).result()
    (record,) = log.records
    assert told.end.tokens_in == told.end.attempts[0].tokens_in == whole
    assert extra_of(record)["tokens_in"] == whole
