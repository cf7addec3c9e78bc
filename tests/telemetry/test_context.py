"""The trace id: for the application's own log, and on everything that a call produces."""

from __future__ import annotations

import contextvars
import logging
import os
import pickle
import re
import threading
import uuid

import pytest
from support import AT_ONCE, PROMPT, TWO_TOKENS, failure, output_of
from told import (
    THREE,
    TRACE,
    debug_log,  # noqa: F401 - a fixture
    lines_of,
    make,
    parsed,
)

from llmstream import Client, Stream
from llmstream.telemetry.context import TraceIdFilter, current_trace_id
from llmstream.telemetry.context import _active as active
from llmstream.testing import Cut, LLMServer, Reply

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_the_trace_id_for_the_callers_own_log(log: pytest.LogCaptureFixture) -> None:
    """Inside a call every line that the application logs can carry its id; outside the id is
    "-"."""
    log.handler.addFilter(TraceIdFilter())
    mine = logging.getLogger("application")
    log.set_level(logging.INFO, logger="application")
    client, _, _ = make(THREE)
    stream = client.stream(PROMPT, trace_id="t-1")
    mine.info("before")
    assert current_trace_id() is None
    for _ in stream:
        mine.info("during")
        assert current_trace_id() == "t-1"
    mine.info("after")
    mine.info("its own", extra={"trace_id": "mine"})
    said = [(r.getMessage(), r.trace_id) for r in log.records if r.name == "application"]  # type: ignore[attr-defined]
    assert said == [
        ("before", "-"),
        *[("during", "t-1")] * 3,
        ("after", "-"),
        ("its own", "mine"),
    ]
    assert logging.Formatter("%(trace_id)s").format(log.records[-1]) == "mine"


def test_nested_and_interleaved_streams() -> None:
    """The latest that runs is the current one; when it ends, the one before is again."""
    client, _, _ = make(*[THREE] * 5)
    for _ in client.stream(PROMPT, trace_id="outer"):
        assert current_trace_id() == "outer"
        inner = client.stream(PROMPT, trace_id="inner")
        next(inner)
        assert current_trace_id() == "inner"
        inner.close()
        assert current_trace_id() == "outer"
    assert current_trace_id() is None
    first, second = (client.stream(PROMPT, trace_id=name) for name in ("first", "second"))
    client._endpoint.transport.script(THREE)  # type: ignore[attr-defined]
    pairs = zip(first, second, strict=True)
    next(pairs)
    assert current_trace_id() == "second"
    first.close()
    assert current_trace_id() == "second"
    second.close()
    assert current_trace_id() is None


def test_a_stream_that_ends_elsewhere() -> None:
    """Closed, dropped or read to its end by another thread: this one's context has no call then."""
    client, _, _ = make(*[THREE] * 3)
    for end in (Stream.close, Stream.result):
        stream = client.stream(PROMPT, trace_id="t-1")
        next(stream)
        assert current_trace_id() == "t-1"
        other = threading.Thread(target=end, args=(stream,))
        other.start()
        other.join()
        assert current_trace_id() is None
    stream = client.stream(PROMPT, trace_id="t-1")
    next(stream)
    del stream
    assert current_trace_id() is None


def test_threads_with_and_without_the_context() -> None:
    """A thread has its own context: it knows the call only where it was given a copy."""
    client, _, _ = make(THREE, THREE)
    stream = client.stream(PROMPT, trace_id="t-1")
    next(stream)
    seen: list[str | None] = []
    copied = contextvars.copy_context()

    def look() -> None:
        seen.append(current_trace_id())

    for target, args in ((look, ()), (copied.run, (look,))):
        thread = threading.Thread(target=target, args=args)
        thread.start()
        thread.join()
    assert seen == [None, "t-1"]
    stream.close()
    assert copied.run(current_trace_id) is None
    # what begins in a copy is not seen outside of it
    other = client.stream(PROMPT, trace_id="t-2")
    copied.run(next, other)
    assert copied.run(current_trace_id) == "t-2"
    assert current_trace_id() is None
    other.close()


def test_ten_thousand_calls_leave_no_trail() -> None:
    """The context keeps what runs, not what has been."""
    client, _, _ = make(*[THREE] * 300)
    kept_open = client.stream(PROMPT)
    next(kept_open)
    for _ in range(200):
        client.stream(PROMPT).result()
    assert len(active.get()) <= 2
    kept_open.close()


def test_the_trace_id_is_on_everything(log: pytest.LogCaptureFixture) -> None:
    """Stream, result, error (pickled too, and those of attempts that were given up), every record
    and every line."""
    client, _, told = make(Reply.error(500), THREE, Reply.error(500), Reply([*TWO_TOKENS, Cut()]))
    stream = client.stream(PROMPT, trace_id="t-1")
    result = stream.result()
    assert stream.trace_id == result.trace_id == "t-1"
    assert stream.attempts[0].error is not None
    assert stream.attempts[0].error.trace_id == "t-1"
    error = failure(client.stream(PROMPT, trace_id="t-1"), Stream.result)
    again = pickle.loads(pickle.dumps(error))
    assert error.trace_id == again.trace_id == "t-1"
    assert error.partial.trace_id == again.attempts[-1].error.trace_id == "t-1"
    for _, (call, *what) in told.moments:
        assert call.trace_id == "t-1"
        for record in what:
            assert getattr(record, "trace_id", "t-1") == "t-1"
    assert {parsed(line)[1]["trace_id"] for line in lines_of(log, logging.DEBUG)} == {"t-1"}


IDS: dict[str, tuple[str | None, bool]] = {
    "made": (None, True),
    "hex": (TRACE, True),
    "upper case": (TRACE.upper(), True),
    "a UUID": (str(uuid.UUID(TRACE)), True),
    "all zero": ("0" * 32, False),
    "a zero UUID": (str(uuid.UUID(int=0)), False),
    "too short": (TRACE[:-1], False),
    "too long": (TRACE + "0", False),
    "a word": ("order-4711", False),
    "words": ("order 4711 / item 3", False),
}


@pytest.mark.parametrize("given", IDS)
def test_the_trace_id_on_the_wire(server: LLMServer, given: str) -> None:
    """X-Client-Request-Id has it as it was given; traceparent where it is one, with a parent id of
    its own for each attempt."""
    trace_id, is_one = IDS[given]
    server.script(Reply.error(500), Reply.error(500), THREE)
    with Client(base_url=server.base_url, api_key="test-key", retry=AT_ONCE) as client:
        stream = client.stream(PROMPT, trace_id=trace_id)
        stream.result()
    assert stream.trace_id == (trace_id or stream.trace_id)
    assert [r.headers["x-client-request-id"] for r in server.requests] == [stream.trace_id] * 3
    parents = [r.headers.get("traceparent") for r in server.requests]
    if not is_one:
        assert parents == [None] * 3
        return
    digits = stream.trace_id.replace("-", "").lower()
    for parent in parents:
        assert parent is not None
        assert re.fullmatch(f"00-{digits}-[0-9a-f]{{16}}-01", parent)
    assert len(set(parents)) == 3


def test_made_trace_ids_are_all_different() -> None:
    """32 hex digits each."""
    client, _, _ = make()
    made = {client.stream(PROMPT).trace_id for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_ids_are_unique_though_random_is_seeded_and_the_process_forked() -> None:
    """An application that seeds the common generator, or forks, gets other trace ids each time."""
    said = output_of(
        """
        import os, random
        from llmstream import Client

        client = Client(base_url="http://127.0.0.1:9", model="m")
        for _ in range(2):
            random.seed(1)
            print(client.stream("Hi").trace_id, flush=True)
        if os.fork() == 0:
            print(client.stream("Hi").trace_id, flush=True)
            os._exit(0)
        os.wait()
        print(client.stream("Hi").trace_id, flush=True)
        """
    )
    ids = said.split()
    assert len(ids) == len(set(ids)) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", found) for found in ids)
