"""The picture of a call: `llmstream --timeline out.html` and TimelineObserver."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, output_of

from llmstream import Client, LLMStreamError, RetryPolicy, Timeouts, cli
from llmstream._core.phase import Phase
from llmstream.errors import ConfigurationError, RateLimitError
from llmstream.telemetry.records import AttemptRecord, CallRecord
from llmstream.telemetry.timeline import TimelineObserver
from llmstream.testing import (
    Answer,
    Cut,
    FakeClock,
    FakeTransport,
    LLMServer,
    Pause,
    Pings,
    Reply,
    Silence,
)

PROMPT = "zebra-prompt"
KEY = "sk-quagga-key"
ANSWER = Answer("okapi brave new giraffe", usage=(12, 34, 5, 6))
BLOCKS = ANSWER.blocks()
TWO_WORDS = BLOCKS[:6]  # created, in progress, item, part, "okapi", " brave"
SECRETS = (PROMPT, KEY, "quagga", "okapi", "giraffe", "Bearer", "authorization")


class Page:
    """A page, parsed: well-formed, or it fails."""

    def __init__(self, text: str) -> None:
        self.text = text
        doctype, _, rest = text.partition("\n")
        assert doctype == "<!DOCTYPE html>"
        self.root = ET.fromstring(rest)
        self.calls = self.root.findall(".//section")

    def facts(self, call: int = 0) -> dict[str, str]:
        """Names and texts of the head and of the summary."""
        found = self.calls[call].findall(".//dl/div")
        return {said(pair[0]): said(pair[1]) for pair in found}

    def numbers(self, call: int = 0) -> dict[str, float | None]:
        """The summary, as machines read it."""
        return {said(pair[0]): value(pair[1]) for pair in self._tiles(call)}

    def _tiles(self, call: int) -> list[ET.Element]:
        return self.calls[call].findall(".//dl[@class='tiles']/div")

    def badge(self, call: int = 0) -> str:
        return said(self.calls[call].find(".//h1/span"))

    def table(self, caption: str, call: int = 0) -> list[list[ET.Element]]:
        for table in self.calls[call].findall(".//table"):
            if said(table.find("caption")).startswith(caption):
                return [list(row) for row in table.findall("tbody/tr")]
        return []

    def attempts(self, call: int = 0) -> list[list[str]]:
        """number, what ended it, the phase."""
        rows = self.table("Attempts", call)
        return [[said(row[0]), said(row[3]), said(row[4])] for row in rows]

    def charts(self, call: int = 0) -> list[ET.Element]:
        return self.calls[call].findall(".//svg[@class='chart']")

    def ticks(self, call: int = 0) -> list[int]:
        """How many chunks each tick of the whole call's picture stands for."""
        titles = self.charts(call)[0].findall(".//path[@class='tick']/title")
        return [int(said(title).partition(": ")[2].split()[0]) for title in titles]

    def bars(self, call: int = 0) -> list[str]:
        """The phases of the whole call's picture, in order."""
        return [
            said(title).partition(":")[0] for title in self.charts(call)[0].findall("rect/title")
        ]

    def words(self, call: int = 0) -> str:
        return " ".join(said(text) for text in self.charts(call)[0].findall("text"))


def said(element: ET.Element | None) -> str:
    assert element is not None
    return "".join(element.itertext())


def value(element: ET.Element) -> float | None:
    data = element.find("data")
    return None if data is None else float(data.attrib["value"])


class Told:
    """Keeps the records, to compare with."""

    def __init__(self) -> None:
        self.ends: list[CallRecord] = []

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        self.ends.append(end)


Played = tuple[Page, CallRecord, TimelineObserver]


def play(*replies: Any, model: str = "m", **settings: Any) -> Played:
    """A call in false time: its page, its record and the observer."""
    trace, told = TimelineObserver(), Told()
    client = Client(
        base_url="http://api.test",
        api_key=KEY,
        transport=FakeTransport(*replies),
        clock=FakeClock(),
        observers=[trace, told],
        **settings,
    )
    with contextlib.suppress(LLMStreamError):
        client.stream(PROMPT, model=model).result()
    return Page(trace.html()), told.ends[-1], trace


# ---- the command ---------------------------------------------------------------------------------

Command = Callable[..., tuple[int, Page, dict[str, Any]]]


@pytest.fixture
def command(
    nothing_left: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> Command:
    """`command(base_url, *options)` runs `llmstream --timeline`: the exit code, the page, and what
    the log has of the call's end."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.setenv("LLMSTREAM_API_KEY", KEY)
    caplog.set_level(logging.INFO, "llmstream")
    path = tmp_path / "out.html"

    def run(base_url: str, *options: str) -> tuple[int, Page, dict[str, Any]]:
        monkeypatch.setenv("LLMSTREAM_BASE_URL", base_url)
        code = cli.main(["--timeline", str(path), *options, PROMPT])
        ends = [r for r in caplog.records if r.getMessage().startswith("call ended")]
        return code, Page(path.read_text("utf-8")), vars(ends[-1])

    return run


def agree(page: Page, log: dict[str, Any]) -> None:
    """The page's head and summary agree with the log's line of the call."""
    facts, numbers = page.facts(), page.numbers()
    assert facts["trace id"] == log["trace_id"]
    assert (facts["API"], facts["model"]) == (log["api"], log["model"])
    assert facts["host"].startswith(f"{log['host']}:")
    assert facts.get("error") == log["error_type"]
    assert facts.get("code") == log["error_code"]
    assert facts.get("ended in phase", "done") == log["phase"]
    for name, field in (
        ("first token", "first_token_ms"),
        ("total", "total_ms"),
        ("network waits", "waited_ms"),
        ("waits between attempts", "backoff_ms"),
        ("longest gap", "longest_gap_ms"),
        ("attempts", "attempts"),
        ("tokens in", "tokens_in"),
        ("of them cached", "tokens_cached"),
        ("tokens out", "tokens_out"),
        ("of them reasoning", "tokens_reasoning"),
        ("chunks", "chunks"),
        ("bytes", "bytes"),
    ):
        assert numbers[name] == pytest.approx(log[field], abs=0.001), name
    assert sum(page.ticks()) == log["chunks"]


def test_a_success_is_drawn(server: LLMServer, command: Command) -> None:
    """A good call: one attempt with its phases, every chunk, the tokens, and no error."""
    server.script(ANSWER)
    code, page, log = command(server.base_url)
    assert (code, page.badge(), page.attempts()) == (0, "success", [["1", "success", "done"]])
    agree(page, log)
    assert page.bars() == ["connect", "send", "headers", "first_token", "body"]
    assert page.numbers()["tokens out"] == 34
    assert "No retries." in page.text


def test_a_rate_limit_and_its_retry_are_drawn(server: LLMServer, command: Command) -> None:
    """429, then success: two attempts, the wait between them, and why."""
    server.script(Reply.error(429, code="rate_limit_exceeded"), ANSWER)
    code, page, log = command(server.base_url)
    assert code == 0
    assert page.attempts() == [
        ["1", "RateLimitError rate_limit_exceeded", "headers"],
        ["2", "success", "done"],
    ]
    agree(page, log)
    (retry,) = page.table("Retries")
    assert [said(cell) for cell in retry[:4]] == [
        "1",
        "RateLimitError rate_limit_exceeded",
        "429",
        "headers",
    ]
    assert value(retry[4]) == pytest.approx(page.numbers()["waits between attempts"], abs=100)
    assert "backoff" in page.bars()


# what is answered, options -> exit code, error and code, the phase
FAILURES: dict[str, tuple[Reply, list[str], int, str, str]] = {
    "a drop": (Reply([*TWO_WORDS, Cut()]), [], 16, "StreamInterrupted", "body"),
    "a truncation": (Reply([*TWO_WORDS, Cut(last_chunk=True)]), [], 17, "StreamTruncated", "body"),
    "a timeout": (
        Reply([*TWO_WORDS, Silence()]),
        ["--total", "3"],  # seconds: the words are to come before
        14,
        "DeadlineExceeded",
        "body",
    ),
    "quota": (
        Reply.error(429, code="insufficient_quota", message=f"{PROMPT} {KEY}"),
        [],
        7,
        "QuotaExceededError insufficient_quota",
        "headers",
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n == "a timeout" else ()) for n in FAILURES],
)
def test_a_failure_is_drawn(server: LLMServer, command: Command, name: str) -> None:
    """The page is written when the call fails, with the error and its place."""
    reply, options, exit_code, error, phase = FAILURES[name]
    server.script(reply)
    code, page, log = command(server.base_url, *options)
    assert (code, page.attempts()) == (exit_code, [["1", error, phase]])
    assert page.badge() == error.split()[0]
    agree(page, log)
    assert f"✕ {error}, in phase {phase}" in page.words()
    if name == "a timeout":
        assert "nothing more for" in page.words()


@pytest.mark.slow
def test_a_service_that_is_not_there_is_drawn(command: Command) -> None:
    """A refused connection ends in the phase `connect`, attempt by attempt."""
    code, page, log = command("http://127.0.0.1:1/v1", "--total", "3")
    assert code in (14, 15)  # the deadline may come while it waits
    agree(page, log)
    assert page.attempts()[0] == ["1", "ConnectionFailed", "connect"]
    assert page.bars()[0] == "connect"


def test_it_goes_with_json_and_stats(
    server: LLMServer, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """--timeline beside --json and --stats changes neither, and agrees with the numbers."""
    server.script(ANSWER)
    code, page, _ = command(server.base_url, "--json", "--stats")
    out, err = capsys.readouterr()
    assert (code, len(out.splitlines())) == (0, len(BLOCKS))
    assert f"first token {page.numbers()['first token']:.0f} ms" in err
    assert f"trace id {page.facts()['trace id']}" in err


def test_nothing_secret_is_on_the_page(server: LLMServer, command: Command) -> None:
    """No prompt, answer, key or header, also where the service quotes them in its error."""
    quoting = Reply.error(500, code=f"{PROMPT} {KEY}", message=f"{PROMPT} {KEY}")
    server.script(quoting, ANSWER, Reply([*TWO_WORDS, Cut()]))
    for _ in range(2):
        _, page, _ = command(server.base_url)
        assert not [secret for secret in SECRETS if secret.lower() in page.text.lower()]


def test_an_unwritable_path_is_reported_before_the_call(
    server: LLMServer,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """A path that cannot be written is one sentence and exit code 1, and nothing was sent."""
    path = tmp_path / "missing" / "out.html"
    assert cli.main(["--timeline", str(path), "--base-url", server.base_url, PROMPT]) == 1
    sentence = f"llmstream: cannot write the timeline: {path}: No such file or directory\n"
    assert capsys.readouterr() == ("", sentence)
    assert not server.requests


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(("status", "exit_code"), [(200, 1), (400, 3)])
def test_a_full_disk_is_reported(
    server: LLMServer,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    status: int,
    exit_code: int,
) -> None:
    """A page that cannot be written after all is a sentence; a call's own exit code stays."""
    server.script(ANSWER if status == 200 else Reply.error(status))
    options = ["--timeline", "/dev/full", "--base-url", server.base_url, PROMPT]
    assert cli.main(options) == exit_code
    assert "cannot write the timeline: /dev/full: No space left" in capsys.readouterr().err


@pytest.mark.parametrize("before", [None, "an older page"])
def test_no_call_leaves_the_file_as_it_was(
    command: Command, tmp_path: Path, before: str | None
) -> None:
    """When the call cannot be made, no empty page stays, and an older one is not touched."""
    path = tmp_path / "out.html"
    if before is not None:
        path.write_text(before)
    assert cli.main(["--timeline", str(path), "--base-url", "nonsense", PROMPT]) == 2
    assert (path.read_text() if path.exists() else None) == before


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no POSIX signals")
def test_an_interrupted_call_is_drawn(server: LLMServer, tmp_path: Path) -> None:
    """Ctrl-C writes the page of what has arrived, and exits with 130."""
    server.script(Reply([*TWO_WORDS, Silence()]))
    path = tmp_path / "out.html"
    command = [sys.executable, "-m", "llmstream", "--timeline", str(path)]
    with subprocess.Popen(
        [*command, "--base-url", server.base_url, PROMPT],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(len("okapi brave")) == "okapi brave"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, "")
    page = Page(path.read_text("utf-8"))
    assert (page.badge(), page.attempts()) == ("cancelled", [["1", "Cancelled", "body"]])
    assert sum(page.ticks()) == 2


# ---- the picture ---------------------------------------------------------------------------------


def test_the_times_of_the_attempts_are_exact() -> None:
    """Begin, length, first token, gap and each phase of an attempt, to the microsecond."""
    slow = Reply([*TWO_WORDS[:5], Pause(2.5), *BLOCKS[5:]], delay=1.25)
    page, end, _ = play(Reply.error(503, headers={"retry-after": "3"}), slow)
    first, second = page.table("Attempts")
    for row, record in zip((first, second), end.attempts, strict=True):
        found = [value(row[column]) for column in (1, 2, 6, 7)]
        known = [record.started_ms, record.total_ms, record.first_token_ms, record.longest_gap_ms]
        assert found == [None if ms is None else pytest.approx(ms, abs=0.001) for ms in known]
    assert value(second[7]) == pytest.approx(2500)
    phases = {span.text.split()[0]: value(span) for span in second[11].iter("span") if span.text}
    assert phases["headers"] == pytest.approx(1250)
    assert phases["body"] == pytest.approx(2500)
    assert "2.50 s" in page.words()  # the gap, where it was
    assert "first token" in page.words()


def test_a_call_without_an_attempt_is_drawn() -> None:
    """What ended before anything was sent is a page without attempts, with the reason."""
    trace = TimelineObserver()
    client = Client(
        base_url="http://api.test",
        transport=FakeTransport(),
        clock=FakeClock(),
        observers=[trace],
    )
    held = RateLimitError("wait", retry_after=9.0)
    client._endpoint.budget.throttle(held, client._factory._clock.monotonic())
    with pytest.raises(LLMStreamError):
        client.stream(PROMPT, timeouts=Timeouts(total=1)).result()
    page = Page(trace.html())
    assert (page.badge(), page.attempts()) == ("RateLimitError", [])


def test_the_axis_has_units() -> None:
    """A call of seconds is measured in seconds, one of milliseconds in milliseconds."""
    for delay, labels in ((9.0, "0 s 1 s 2 s"), (0.09, "0 ms 10 ms 20 ms")):
        page, _, _ = play(Reply(ANSWER, delay=delay))
        assert page.words().startswith(labels)


def test_labels_do_not_overlap() -> None:
    """On no line of text do two labels overlap, as far as their letters can be counted."""
    held = Reply.error(429, headers={"retry-after": "2"})
    pauses = [piece for block in BLOCKS for piece in (block, Pause(0.7))]
    for last in (
        Reply(pauses, delay=1),
        Reply([*pauses[:14], Pings(5)]),
        Reply([*TWO_WORDS, Cut()]),
    ):
        page, _, _ = play(held, Reply.error(503), last, timeouts=Timeouts(idle=20))
        for chart in page.charts():
            lines: dict[str, list[tuple[float, float]]] = {}
            for text in chart.findall("text"):
                lines.setdefault(text.attrib["y"], []).append(extent(text))
            for line in lines.values():
                line.sort()
                assert all(a[1] <= b[0] for a, b in itertools.pairwise(line)), line
                assert line[0][0] >= -1
                assert line[-1][1] <= 1120 + 1


def extent(text: ET.Element) -> tuple[float, float]:
    x, width = float(text.attrib["x"]), 6.0 * len(said(text))
    kind = text.attrib["class"]
    if text.attrib.get("text-anchor") == "end":
        return x - width, x
    return (x - width / 2, x + width / 2) if kind in ("axis", "gap") else (x, x + width)


def test_a_short_attempt_beside_long_waits_is_drawn_again() -> None:
    """What would be a sliver of the whole call has a picture of its own."""
    page, _, _ = play(
        Reply.error(503, headers={"retry-after": "30"}),
        Reply([piece for block in BLOCKS for piece in (block, Pause(0.1))]),
    )
    captions = [said(caption) for caption in page.root.findall(".//figcaption")]
    assert captions == ["the whole call", "attempt 2 alone"]


def test_a_wait_that_others_caused_is_drawn() -> None:
    """A call that is held back before its first attempt shows that as `throttled`."""
    trace = TimelineObserver()
    transport = FakeTransport(Reply.error(429, headers={"retry-after": "7"}), ANSWER)
    client = Client(
        base_url="http://api.test", transport=transport, clock=FakeClock(), observers=[trace]
    )
    with pytest.raises(LLMStreamError):
        client.stream(PROMPT, retry=RetryPolicy(max_attempts=1)).result()
    client.stream(PROMPT).result()
    page = Page(trace.html())
    assert page.bars(1)[0] == "throttled"
    assert (page.numbers(1)["waits between attempts"] or 0) >= 7000


@pytest.mark.slow
def test_twenty_thousand_chunks_are_a_small_page() -> None:
    """A very long answer is a page below 1 MB, on which no chunk is lost."""
    blocks = Answer("okapi " * 20_001).blocks()
    page, end, _ = play(Reply([piece for block in blocks for piece in (block, Pause(0.013))]))
    assert sum(page.ticks()) == end.chunks > 20_000
    assert len(page.ticks()) <= 1001
    assert len(page.text) < 300_000


@pytest.mark.slow
def test_many_calls_are_bounded() -> None:
    """A page has the last calls, has a note on that, and stays below 1 MB however long they
    were."""
    transport, trace = FakeTransport(), TimelineObserver(calls=20)
    client = Client(
        base_url="http://api.test", transport=transport, clock=FakeClock(), observers=[trace]
    )
    blocks = Answer("okapi " * 1500).blocks()[:-5]
    long = [piece for block in blocks for piece in (block, Pause(0.01))]
    for number in range(23):
        transport.script(Reply([*long, Cut()]))
        with pytest.raises(LLMStreamError):
            client.stream(PROMPT, trace_id=f"call-{number}").result()
    text = trace.html()
    page = Page(text)
    assert [page.facts(n)["trace id"] for n in range(20)] == [f"call-{n}" for n in range(3, 23)]
    assert "The last 20 of 23 calls." in text
    assert len(text) < 1_000_000


def test_many_attempts_are_bounded() -> None:
    """Of hundreds of attempts the first and the last are shown, and the rest is counted."""
    page, end, _ = play(
        *[Reply.error(503)] * 99, ANSWER, retry=RetryPolicy(max_attempts=100, base=0.1, cap=0.1)
    )
    assert len(end.attempts) == 100
    numbers = [int(row[0]) for row in page.attempts()]
    assert numbers == [*range(1, 31), *range(71, 101)]
    assert "40 are left out" in page.text
    assert len(page.text) < 200_000


HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>&amp;",
    "]]>--><!--</style></svg>",
    "a\x00\x1b[31m\u202egnp.exe\ud800",
    "x" * 100_000,
]


@pytest.mark.parametrize("model", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_is_only_text(model: str, tmp_path: Path) -> None:
    """A model's name breaks neither the page nor its file, and runs nothing."""
    call = CallRecord(id=1, trace_id=model, api="chat", model=model, host=model)
    attempt = AttemptRecord(
        trace_id=model,
        api="chat",
        model=model,
        host=model,
        number=1,
        outcome="error",
        phase=model,
        error_type=model,
        error_code=model,
        phases=((model, 0.0),),
    )
    trace = TimelineObserver(tmp_path / "out.html")
    trace.on_start(call)
    trace.on_attempt(call, attempt)
    ended: dict[str, Any] = {"outcome": "error", "response_model": f"{model} 2", "finish": model}
    trace.on_end(call, CallRecord(**{**fields(call), **ended, "total_ms": 1.0}))
    page = Page((tmp_path / "out.html").read_text("utf-8"))
    assert not page.root.findall(".//script") + page.root.findall(".//img")
    assert len(page.root.findall(".//style")) == 1
    assert len(page.text) < 30_000
    if len(model) < 100 and model.isprintable():
        assert page.facts()["model"] == model
    assert "\u202e" not in page.text


def fields(record: CallRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def test_every_phase_has_a_colour() -> None:
    """On a light page, on a dark one and in print; a phase that the page does not know has one
    too."""
    page, _, _ = play(ANSWER)
    style = said(page.root.find(".//style"))
    assert style.count("{") == style.count("}")
    colours = re.findall(r":root\{([^}]*)\}", style)
    assert len(colours) == 3
    known = {phase.value for phase in Phase if phase is not Phase.DONE}
    for name in (*known, "other"):
        assert f".p-{name}{{fill:var(--{name})}}" in style
        assert all(f"--{name}:#" in block for block in colours)
    used = set(re.findall(r"var\(--(\w+)\)", style))
    assert all(f"--{name}:" in block for name in used for block in colours)


def test_the_page_stands_alone() -> None:
    """No script and no reference to anything outside; the policy in the page forbids both."""
    page, _, _ = play(Reply.error(503), Reply([*TWO_WORDS, Cut()]))
    assert not re.search(r"https?:|//\w|\burl\(|@import|\bsrc=|\bhref=|<script", page.text)
    (policy,) = page.root.findall(".//meta[@http-equiv='Content-Security-Policy']")
    assert policy.attrib["content"].startswith("default-src 'none'")
    assert "prefers-color-scheme:dark" in page.text
    assert "@media print" in page.text


# ---- the observer --------------------------------------------------------------------------------


def test_the_file_is_written_at_every_end(tmp_path: Path) -> None:
    """With a path, the page is there when the call has ended, and has all calls so far."""
    path = tmp_path / "out.html"
    trace = TimelineObserver(path)
    client = Client(
        base_url="http://api.test",
        transport=FakeTransport(ANSWER, ANSWER),
        clock=FakeClock(),
        observers=[trace],
    )
    for number in (1, 2):
        client.stream(PROMPT).result()
        assert len(Page(path.read_text("utf-8")).calls) == number == trace.calls


def test_before_the_first_end_there_is_an_empty_page() -> None:
    """No call that has ended: a page with a note on that; and what runs is mentioned."""
    trace = TimelineObserver()
    assert "No call has ended." in Page(trace.html()).text
    client = Client(
        base_url="http://api.test",
        transport=FakeTransport(ANSWER),
        clock=FakeClock(),
        observers=[trace],
    )
    with client.stream(PROMPT):
        assert "1 still running" in Page(trace.html()).text
    assert Page(trace.html()).badge() == "cancelled"


FORKED = """
    import faulthandler, os, sys
    from llmstream import Client
    from llmstream.telemetry import TimelineObserver
    from llmstream.testing import Answer, FakeClock, FakeTransport, Reply, Silence

    timeline = TimelineObserver(sys.argv[1])
    blocks = Answer("one two").blocks()
    client = Client(
        base_url="http://api.test",
        transport=FakeTransport(Reply([*blocks[:6], Silence()]), Answer("three")),
        clock=FakeClock(),
        observers=[timeline],
    )
    running = client.stream("Hi")
    next(running)
    timeline._lock.acquire()
    timeline._writing.acquire()
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(20, exit=True)  # shows where it hangs
        client.stream("Hi").result()
        print(timeline.calls, "still running" in timeline.html(), flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    timeline._lock.release()
    timeline._writing.release()
    print(timeline.calls, "1 still running" in timeline.html())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_while_it_writes(tmp_path: Path) -> None:
    """A child that is forked while another thread holds the locks can make calls and pages; the
    parent's calls do not run there."""
    lines = output_of(FORKED, str(tmp_path / "out.html"), PYTHONWARNINGS="ignore").splitlines()
    assert lines == ["1 False", "0 True"]


def test_what_cannot_be_is_refused() -> None:
    """No path at all, and no calls to keep, are errors."""
    with pytest.raises(ConfigurationError, match="path"):
        TimelineObserver().write()
    with pytest.raises(ConfigurationError, match=r"calls=0: .*greater than 0"):
        TimelineObserver(calls=0)
    with pytest.raises(ConfigurationError, match="observers"):
        Client(base_url="http://api.test", observers=[TimelineObserver])


def test_an_unwritable_page_harms_no_stream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A path that fails at the end is logged once, and the answer is whole."""
    transport = FakeTransport(ANSWER, ANSWER)
    client = Client(
        base_url="http://api.test",
        transport=transport,
        clock=FakeClock(),
        observers=[TimelineObserver(tmp_path / "missing" / "out.html")],
    )
    for _ in range(2):
        assert client.stream(PROMPT).result().text == ANSWER.text
    assert len([r for r in caplog.records if "TimelineObserver" in r.getMessage()]) == 1


def test_many_threads_share_one(server: LLMServer, tmp_path: Path) -> None:
    """Calls of several threads and clients are each complete on the page that is left."""
    path = tmp_path / "out.html"
    trace = TimelineObserver(path, calls=50)
    clients = [Client(base_url=server.base_url, observers=[trace]) for _ in range(2)]
    server.default = ANSWER

    def work(client: Client) -> None:
        for _ in range(5):
            client.stream(PROMPT).result()

    threads = [threading.Thread(target=work, args=(clients[n % 2],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for client in clients:
        client.close()
    page = Page(path.read_text("utf-8"))
    assert len(page.calls) == trace.calls == 30
    assert all(sum(page.ticks(n)) == 4 and page.badge(n) == "success" for n in range(30))
