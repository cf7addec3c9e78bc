"""A run in this process: what ends it, what it counts, and that nothing of it is left."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, Reading, eventually

from llmstream import Client, ConfigurationError
from llmstream.batchfile import BatchRun, OutputFile, Pipe, Source
from llmstream.testing import Answer, LLMServer, Recorded, Reply, Silence
from llmstream.testing.script import prompt_text

MakeClient = Callable[..., Client]


class Lines(Pipe):
    """An output in memory, with room for `room` lines."""

    def __init__(self, room: int = 10**9) -> None:
        super().__init__(self._append)
        self.lines: list[dict[str, Any]] = []
        self.room = room

    def _append(self, line: bytes) -> None:
        if len(self.lines) >= self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.lines.append(json.loads(line))


def source_of(tmp_path: Path, *rows: dict[str, Any]) -> Source:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source.open(str(path))


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": n, "prompt": f"prompt {n}"} for n in range(count)]


def make_run(client: Client, source: Source, output: Any, **options: Any) -> BatchRun:
    return BatchRun(client, source, output, parallel={"max_workers": 2, **options})


def test_a_key_that_cannot_be_had_ends_the_run(
    server: LLMServer, client_for: MakeClient, tmp_path: Path
) -> None:
    """It is no fault of a row: nothing is written for those that were not asked, and a later run
    asks them."""
    keys = iter(["k" * 10] * 3)
    client = client_for(server, api_key=lambda: next(keys))
    source, output = source_of(tmp_path, *rows(20)), Lines()
    run = make_run(client, source, output, max_workers=1)
    with pytest.raises(ConfigurationError, match=r"^line 4: api_key"):
        run.run()
    assert [line["id"] for line in output.lines] == [0, 1, 2]
    assert run.summary.answered == 3
    assert run.summary.failed == {}
    source.close()


def test_calls_that_run_go_on_when_no_further_one_may_begin(
    server: LLMServer, client_for: MakeClient
) -> None:
    """What they cost is spent: their answers are written, and not asked again by the next run. Also
    while the next line of a pipe is waited for, which is not waited for any longer."""
    all_asked = threading.Event()

    def reply(request: Recorded) -> Answer:
        all_asked.wait(PATIENCE)
        return Answer("whole")

    def key() -> str:
        if next(calls) == 3:
            raise RuntimeError("no further key")
        return "k" * 10

    calls = iter(range(99))
    server.default = reply
    reader, writer = os.pipe()
    source, output = Source(reader, "a pipe"), Lines()
    run = make_run(client_for(server, api_key=key), source, output, max_workers=4)
    reading = Reading(run, lambda run: run.run())  # type: ignore[arg-type]
    os.write(writer, b"".join(json.dumps(row).encode() + b"\n" for row in rows(4)))
    eventually(lambda: len(server.requests) == 3 and run._refused, "the fourth call is refused")
    all_asked.set()
    assert isinstance(reading.ended(), ConfigurationError)
    assert sorted(line["text"] for line in output.lines) == ["whole"] * 3
    assert (run.summary.answered, len(server.requests)) == (3, 3)
    os.close(writer)
    source.close()


def test_answers_that_cannot_be_written_are_counted(
    server: LLMServer, client_for: MakeClient, tmp_path: Path
) -> None:
    """The run ends with what the system said, and begins no further call."""
    source, output = source_of(tmp_path, *rows(50)), Lines(room=5)
    run = make_run(client_for(server), source, output)
    with pytest.raises(OSError, match="No space left"):
        run.run()
    assert (run.summary.answered, len(output.lines)) == (5, 5)
    assert 1 <= run.summary.unsaved <= 10
    received = run.summary.answered + run.summary.unsaved
    reported = run.summary.tokens_in // 12
    assert (run.summary.tokens_in, run.summary.tokens_out) == (12 * reported, 34 * reported)
    # A call that the end of the run has cancelled may have had its usage already.
    assert received <= reported <= len(server.requests)
    assert not run.summary.all_succeeded
    assert len(server.requests) < 25
    source.close()


def test_stop_ends_a_run_from_any_thread(
    server: LLMServer, client_for: MakeClient, tmp_path: Path
) -> None:
    """What was answered is written, the rest is not."""

    def reply(request: Recorded) -> Reply | Answer:
        if prompt_text(request) in ("prompt 3", "prompt 5"):
            return Reply([*Answer("one two").blocks()[:5], Silence()])
        return Answer("whole")

    server.default = reply
    source, output = source_of(tmp_path, *rows(50)), Lines()
    run = make_run(client_for(server), source, output)
    reading = Reading(run, lambda run: run.run())  # type: ignore[arg-type]
    eventually(lambda: len(output.lines) == 4, "two calls stall")
    run.stop()
    assert reading.ended() is None
    assert sorted(line["id"] for line in output.lines) == [0, 1, 2, 4]
    server.wait_all_closed()
    source.close()


def test_a_run_that_was_stopped_before_it_began_asks_nothing(
    server: LLMServer, client_for: MakeClient, tmp_path: Path
) -> None:
    source, output = source_of(tmp_path, *rows(5)), Lines()
    run = make_run(client_for(server), source, output)
    run.stop()
    run.run()
    assert (server.requests, output.lines) == ([], [])
    source.close()


def test_a_run_that_is_stopped_while_it_looks_at_its_rows_returns(
    server: LLMServer, client_for: MakeClient, tmp_path: Path
) -> None:
    """The line that is cut by that is no mistake of the input."""
    source = source_of(tmp_path, *({"id": n, "prompt": "x" * 1000} for n in range(1000)))
    run = make_run(client_for(server), source, Lines())
    read = source._read

    def read_and_stop() -> bytes:
        block = read()
        run.stop()
        return block

    source._read = read_and_stop  # type: ignore[method-assign]
    run.run()
    assert server.requests == []
    source.close()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [({"temperature": 1}, {"temperature": True}), ({"background": False}, {"background": 0})],
)
def test_options_that_are_equal_are_not_the_same(
    server: LLMServer, client_for: MakeClient, tmp_path: Path, right: Any, wrong: Any
) -> None:
    """Each is looked at, before anything is asked."""
    lines = [{"id": n, "prompt": "Hi", **options} for n, options in enumerate((right, wrong))]
    source = source_of(tmp_path, *lines)
    with pytest.raises(ConfigurationError, match="line 2: "):
        make_run(client_for(server), source, Lines()).run()
    assert server.requests == []
    source.close()


def test_looking_at_a_row_is_not_a_call(
    server: LLMServer, client_for: MakeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The options of all rows are checked first: observers hear of the calls only."""
    source = source_of(tmp_path, *rows(3))
    with caplog.at_level(logging.INFO, "llmstream"):
        make_run(client_for(server), source, Lines()).run()
    assert len([r for r in caplog.records if r.getMessage().startswith("call ended")]) == 3
    source.close()


def test_a_file_that_changes_meanwhile_is_noticed(
    server: LLMServer, client_for: MakeClient, tmp_path: Path
) -> None:
    """A line that was broken after it was looked at ends the run after those before it."""
    source, output = source_of(tmp_path, *rows(3)), Lines()
    run = make_run(client_for(server), source, output, max_workers=1)
    lines = source.lines

    def changed() -> Any:
        for number, data in lines():
            yield number, data if not server.requests or number < 3 else b"{broken"

    source.lines = changed  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match="line 3: "):
        run.run()
    assert [line["id"] for line in output.lines] == [0, 1]
    source.close()


def test_tokens_and_costs_are_added_up(
    server: LLMServer, client_for: MakeClient, tmp_path: Path
) -> None:
    """Of attempts that failed, too; the cost where the service reports it."""
    usage = b'"usage":{"prompt_tokens":5,"completion_tokens":2,"cost":0.25}'
    block = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    end = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],%s}\n\n'
    server.default = lambda request: Reply([block, end % usage, b"data: [DONE]\n\n"])
    source, output = source_of(tmp_path, *rows(4)), Lines()
    client = client_for(server, api="chat", model="m")
    run = make_run(client, source, output)
    run.run()
    summary = run.summary
    assert (summary.tokens_in, summary.tokens_out, summary.cost) == (20, 8, Decimal("1.00"))
    assert [line["cost"] for line in output.lines] == [0.25] * 4
    assert ", cost 1 USD, 2.0 s" in summary.text(2.0)
    source.close()


def test_tokens_of_calls_that_were_stopped_are_added_up(
    server: LLMServer, client_for: MakeClient, tmp_path: Path
) -> None:
    """Some services report a prompt's tokens at the begin, and bill them."""
    began: list[float] = []

    class Observer:
        def on_first_token(self, call: Any, at_ms: float) -> None:
            began.append(at_ms)

    blocks = Answer("one two", usage=(7, 2)).blocks("messages")
    server.default = Reply([*blocks[:4], Silence()])
    source, output = source_of(tmp_path, *rows(2)), Lines()
    run = make_run(
        client_for(server, api="messages", model="m", observers=[Observer()]), source, output
    )
    reading = Reading(run, lambda run: run.run())  # type: ignore[arg-type]
    eventually(lambda: len(began) == 2, "both have begun to answer")
    run.stop()
    assert reading.ended() is None
    assert (run.summary.tokens_in, output.lines) == (14, [])
    source.close()


@pytest.mark.slow
def test_a_large_file_is_not_held_in_memory(
    server: LLMServer, client_for: MakeClient, tmp_path: Path
) -> None:
    """100 MB in, 100 MB out: a block and a line at a time, and the ids."""
    first = source_of(tmp_path, *rows(1))
    make_run(client_for(server), first, Lines()).run()  # what is imported by that is not counted
    first.close()
    body = "x" * 25_000
    source = source_of(tmp_path, *({"id": n, "prompt": body} for n in range(4_000)))
    path = tmp_path / "out.jsonl"
    path.write_text("".join(f'{{"id":{n},"line":1,"text":"{body}"}}\n' for n in range(4_000)))
    client = client_for(server)
    tracemalloc.start()
    try:
        output = OutputFile(str(path))
        run = make_run(client, source, output)
        run.run()
        output.close()
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    assert run.summary.skipped == 4_000
    source.close()


def test_a_file_is_gone_on_with(server: LLMServer, client_for: MakeClient, tmp_path: Path) -> None:
    """`BatchRun` and `OutputFile` are the command without its options."""
    path = tmp_path / "out.jsonl"
    for expected in (3, 0):
        source, output = source_of(tmp_path, *rows(3)), OutputFile(str(path))
        run = make_run(client_for(server), source, output)
        run.run()
        output.close()
        source.close()
        assert run.summary.answered == expected
    assert len(path.read_bytes().splitlines()) == 3
