"""`llmstream bench`, as a user runs it: in a process of its own, against a server that has known
delays."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support import PACKAGE, eventually

from llmstream.testing import Answer, Cut, LLMServer, Pause, Recorded, Reply, Silence

pytestmark = pytest.mark.usefixtures("nothing_left")

BOUND = 60.0  # seconds for a run of the command; most take one
KEY = "sk-a-real-key-4f9a2c"
FEW = ("--concurrency", "2", "--requests", "4", "--warmup", "0")
FIXED = ("ttft", "itl", "tpot", "e2e")
PERCENTILES = ("p50", "p90", "p95", "p99")
_WORD = re.compile(rb'"word(\d+) "')


def environment(**more: str) -> dict[str, str]:
    ours = ("LLMSTREAM", "OPENAI", "ANTHROPIC")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONPATH": str(PACKAGE), "PYTHONIOENCODING": "utf-8", **more}


def arguments(server: LLMServer, *options: str) -> list[str]:
    service = ("--base-url", server.base_url, "--model", "m")
    return [sys.executable, "-m", "llmstream", "bench", *service, *options]


def run(server: LLMServer, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`more` are variables of the environment."""
    known = {"LLMSTREAM_API_KEY": KEY, "LLMSTREAM_BASE_URL": server.base_url}
    return subprocess.run(
        arguments(server, *options),
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        env=environment(**{**known, **more}),
        timeout=BOUND,
        check=False,
    )


def figures(server: LLMServer, *options: str) -> dict[str, Any]:
    done = run(server, "--json", *options)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def paced(
    delay: float, gap: float, words: int, before: Callable[[], float] = lambda: 0.0
) -> Callable[[Recorded], Reply]:
    """Answers of `words` tokens: the first after `delay` seconds and what `before` returns, the
    others `gap` seconds apart."""
    answer = Answer([f"word{number} " for number in range(words)], usage=(10, words))
    steps: list[Any] = []
    for block in answer.blocks():
        found = _WORD.search(block)
        if found and found[1] != b"0" and b".delta" in block:
            steps.append(Pause(gap))
        steps.append(block)
    return lambda recorded: Reply(steps, delay=delay + before())


# ---- the figures are right ---------------------------------------------------------------------


@pytest.mark.slow
def test_known_delays_are_measured_within_five_percent(server: LLMServer) -> None:
    """400 ms to the first token, 100 ms between tokens. (Exactly so in test_bench_virtual.py; here
    the machine's own noise is in it, so the delays are large, and the medians count; how long it
    took in all is what the server has seen.)"""
    server.default = paced(0.4, 0.1, 6)
    found = figures(server, "--concurrency", "4", "--requests", "40")
    expected = {"ttft": 400.0, "itl": 100.0, "tpot": 100.0, "e2e": 900.0}
    measured = {metric: found[metric]["p50"] for metric in expected}
    assert measured == pytest.approx(expected, rel=0.05)
    counted = server.requests[4:]  # after the warm-up
    ended = max(server.wait_finished(request) for request in counted)
    rate = 40 / (ended - counted[0].received_at)
    assert rate <= 4 / 0.9 * 1.01
    assert found["requests_per_second"] == pytest.approx(rate, rel=0.05)
    assert found["output_tokens_per_second"] == pytest.approx(6 * rate, rel=0.05)
    assert (found["ok"], found["failed"], found["retries"]) == (40, 0, 0)


@pytest.mark.slow
def test_a_stall_is_in_the_percentiles(server: LLMServer) -> None:
    """The service stops for a second once. A quarter of the requests of the open loop are due
    meanwhile, and their latency counts from then; the closed loop has asked for one."""
    count = [0]

    def stall() -> float:
        count[0] += 1
        return 1.0 if count[0] == 30 else 0.0

    server.default = paced(0.01, 0.0, 2, stall)
    load = ("--rate", "20", "--constant", "--max-concurrency", "1", "--requests", "80")
    found = figures(server, *load, "--warmup", "0")
    assert 900.0 < found["ttft"]["p99"] < 10_000.0
    assert found["ttft"]["p90"] > 400.0
    assert found["ttft"]["p50"] < found["ttft"]["p90"]
    assert found["dispatch"]["max"] > 800.0
    assert any("did not keep up" in note for note in found["notes"])

    count[0] = 0
    closed = figures(server, "--concurrency", "1", "--requests", "80", "--warmup", "0")
    assert closed["ttft"]["p95"] < 400.0
    assert closed["ttft"]["max"] > 1000.0


def test_the_keys_of_the_json(server: LLMServer) -> None:
    """One object; the percentiles in ms at the top, and those of each level in `levels`."""
    found = figures(server, *FEW)
    for metric in FIXED:
        values = [found[metric][name] for name in PERCENTILES]
        assert values == sorted(values)
        assert all(isinstance(value, float) and 0 <= value < 1e5 for value in values)
    assert [level["ttft"] for level in found["levels"]] == [found["ttft"]]
    assert (found["concurrency"], found["rate"], found["loop"]) == (2, None, "closed")
    assert (found["requests"], found["ok"], found["success"]) == (4, 4, 1.0)
    assert set(found["formulas"]) >= set(FIXED)
    assert len(server.requests) == 4


def test_several_levels(server: LLMServer) -> None:
    """In their order; the keys at the top are those of the last one. Each has its warm-up."""
    found = figures(server, "--concurrency", "1,3", "--requests", "6")
    assert [level["concurrency"] for level in found["levels"]] == [1, 3]
    assert {name: found[name] for name in found["levels"][1]} == found["levels"][1]
    assert [level["warmup"] for level in found["levels"]] == [1, 3]
    assert len(server.requests) == 1 + 6 + 3 + 6


@pytest.mark.slow
@pytest.mark.parametrize("api", ["responses", "messages", "chat", "gemini"])
def test_every_api(server: LLMServer, api: str) -> None:
    """With its own address; the table has a row for each metric, and the formulas below it."""
    done = run(server, "--api", api, "--base-url", server.base_url_for(api), *FEW)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for metric in FIXED:
        assert any(re.match(rf"  {metric} +[\d.]+( +[\d.]+){{5}} +\d+$", line) for line in lines)
        assert any(line.startswith(f"  {metric}: ") for line in lines)
    assert "4 of 4 requests answered" in done.stdout


def test_prompts_and_options_reach_the_requests(server: LLMServer, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo\n")
    load = ("--concurrency", "1", "--requests", "4", "--warmup", "0", "--max-output-tokens", "77")
    figures(server, "--prompts", str(path), *load)
    bodies = [recorded.json() for recorded in server.requests]
    assert [body["input"] for body in bodies] == ["one", "two", "one", "two"]
    assert {(body["model"], body["max_output_tokens"]) for body in bodies} == {("m", 77)}


def test_a_duration_ends_it(server: LLMServer) -> None:
    """No request starts after it; those that run are waited for."""
    server.default = paced(0.05, 0.0, 2)
    found = figures(server, "--concurrency", "2", "--duration", "0.4", "--warmup", "0")
    assert 2 <= found["requests"] < 40
    assert found["ok"] == found["requests"]
    assert 0.4 <= found["seconds"] < 10.0


@pytest.mark.slow
def test_goodput(server: LLMServer) -> None:
    """The share of all requests, of which half are too slow."""
    count = [0]

    def slow_every_other() -> float:
        count[0] += 1
        return 3.5 if count[0] % 2 else 0.0

    server.default = paced(0.0, 0.0, 2, slow_every_other)
    load = ("--concurrency", "1", "--requests", "4", "--warmup", "0")
    found = figures(server, *load, "--goodput", "ttft:3000", "e2e:3000")
    assert (found["goodput"]["good"], found["goodput"]["share"]) == (2, 0.5)
    assert found["goodput"]["limits"] == {"ttft": 3000.0, "e2e": 3000.0}


@pytest.mark.slow
def test_errors_and_retries_are_counted_by_type(server: LLMServer) -> None:
    """A retried request is an answer; one that is cut is a failure."""
    server.script(
        Reply.error(500, headers={"retry-after-ms": "1"}),
        Answer("a"),
        Reply([*Answer("a b c").blocks()[:5], Cut()]),
        Answer("b"),
    )
    found = figures(server, "--concurrency", "1", "--requests", "3", "--warmup", "0")
    assert (found["requests"], found["ok"], found["failed"]) == (3, 2, 1)
    assert found["errors"] == {"StreamInterrupted": 1}
    assert (found["retries"], found["retried"]) == (1, {"ServerError": 1})


def test_the_floor_is_the_client_s_own() -> None:
    """Against a server in the same process: no key, no service, and nothing of the environment."""
    done = subprocess.run(
        [sys.executable, "-m", "llmstream", "bench", "--floor", "--json", *FEW],
        capture_output=True,
        encoding="utf-8",
        env=environment(OPENAI_BASE_URL="http://127.0.0.1:9"),
        timeout=BOUND,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["ok"], found["output_tokens"]) == (4, 4 * 128)
    assert 0.0 < found["ttft"]["p50"] < 5000.0


@pytest.mark.local
def test_the_embedded_model() -> None:
    """--local measures a real model."""
    load = ("--concurrency", "2", "--requests", "2", "--warmup", "1")
    short = ("--max-output-tokens", "8", "--prompt-words", "5")
    done = subprocess.run(
        [sys.executable, "-m", "llmstream", "bench", "--local", "--json", *load, *short],
        capture_output=True,
        encoding="utf-8",
        env=environment(),
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["output_tokens"]) == (2, 16)


# ---- the page ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_stands_alone(server: LLMServer, tmp_path: Path) -> None:
    """A picture of every request and one of the percentiles for each level, and three of the
    levels; no script, nothing fetched, no key."""
    path = tmp_path / "bench.html"
    done = run(server, "--concurrency", "1,2", "--requests", "3", "--html", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    page = path.read_text("utf-8")
    tags = [one.tag for one in ElementTree.fromstring(page.partition("\n")[2]).iter()]
    assert (tags.count("svg"), tags.count("section")) == (2 * 2 + 3, 2)
    assert not {"script", "img", "link", "iframe"} & set(tags)
    assert not re.search(r"https?://|url\(", page)
    assert page.count('<circle class="dot') == 2 * 3 * 2
    assert KEY not in page


@pytest.mark.slow
def test_a_page_of_odd_names(server: LLMServer, tmp_path: Path) -> None:
    """What a service and a caller choose does not break it."""
    server.default = Reply.error(400, message="<script>alert(1)</script>\u202e")
    path = tmp_path / "bench.html"
    run(server, *FEW, "--model", "<b>&m</b>", "--html", str(path))
    page = path.read_text("utf-8")
    assert "<script>" not in page
    assert "<b>&m" not in page
    assert "&lt;script&gt;" in page


# ---- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_service_that_refuses_everything(server: LLMServer) -> None:
    """The errors by type, no percentile, and the error's exit code."""
    server.default = Reply.error(401, message=f"bad key {KEY}")
    done = run(server, "--json", *FEW)
    assert done.returncode == 4
    found = json.loads(done.stdout)
    assert (found["ok"], found["failed"]) == (0, 4)
    assert found["errors"] == {"AuthenticationError": 4}
    assert found["ttft"]["p50"] is None
    assert done.stderr == "llmstream: AuthenticationError: no request was answered (4 ended so)\n"
    assert KEY not in done.stdout + done.stderr


@pytest.mark.slow
def test_no_request_was_due(server: LLMServer) -> None:
    """The exit code is not 0, and a sentence says why."""
    done = run(server, "--rate", "0.001", "--duration", "0.1", "--warmup", "0", "--seed", "1")
    assert (done.returncode, server.requests) == (1, [])
    assert "no request was answered: none was due: give a longer --duration" in done.stderr


@pytest.mark.slow
def test_no_service_at_all(server: LLMServer) -> None:
    """Nobody listens: the failures are figures."""
    load = (*FEW, "--max-attempts", "1", "--base-url", "http://127.0.0.1:9/v1")
    done = run(server, *load)
    assert done.returncode == 15
    assert "4 x ConnectionFailed" in done.stdout


@pytest.mark.slow
def test_a_service_that_hangs(server: LLMServer) -> None:
    """--total ends each request."""
    server.default = Reply([Silence()])
    found = run(server, "--json", *FEW, "--total", "0.3")
    assert found.returncode == 14
    assert json.loads(found.stdout)["errors"] == {"DeadlineExceeded": 4}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--concurrency", "0"), "--concurrency 0"),
        (("--concurrency", "many"), "1,8,32"),
        (("--concurrency", "1,"), "1,8,32"),
        (("--concurrency", "4", "--rate", "5"), "not allowed with"),
        (("--rate", "-1"), "rate"),
        (("--rate", "nan"), "rate"),
        (("--constant",), "--constant goes with --rate"),
        (("--max-concurrency", "5"), "--max-concurrency goes with --rate"),
        (("--requests", "0"), "--requests 0"),
        (("--duration", "0"), "duration"),
        (("--warmup", "-1"), "warmup"),
        (("--total", "soon"), "'soon'"),
        (("--total", "-1"), "total"),
        (("--max-attempts", "0"), "--max-attempts 0"),
        (("--goodput", "ttft"), "ttft:500"),
        (("--goodput", "speed:5"), "goodput"),
        (("--goodput", "ttft:nan"), "goodput"),
        (("--seed", "x"), "--seed"),
        (("--prompts", "no/such/file"), "no/such/file"),
        (("--prompts", os.devnull), "no prompts"),
        (("--prompts", os.devnull, "--prompt-words", "5"), ""),
        (("--floor",), "--floor and --model exclude"),
        (("--client", "a:b"), "--client and --model exclude"),
        (("--local",), "--local and --base-url"),
        (("--context", "5"), "--local"),
        (("surplus",), "surplus"),
    ],
)
def test_mistakes_in_the_options(
    server: LLMServer, options: tuple[str, ...], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence on stderr, exit code 2, and nothing is sent."""
    from llmstream.cli import main

    try:
        code = main(arguments(server, *options)[3:])
    except SystemExit as exit_:
        code = exit_.code  # type: ignore[assignment]
    captured = capsys.readouterr()
    assert code == 2
    assert part in captured.err
    assert captured.err.count("\n") == 1
    assert server.requests == []


def test_a_page_that_cannot_be_written_is_reported_first(server: LLMServer, tmp_path: Path) -> None:
    """Before the requests cost."""
    done = run(server, *FEW, "--html", str(tmp_path / "none" / "b.html"))
    assert done.returncode == 1
    assert done.stderr.startswith("llmstream: cannot write the page: ")
    assert server.requests == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_is_full(server: LLMServer) -> None:
    """Of stdout and of the page: a line on stderr and exit code 1."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            arguments(server, *FEW),
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=environment(LLMSTREAM_API_KEY=KEY, LLMSTREAM_BASE_URL=server.base_url),
            timeout=BOUND,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("llmstream: cannot write the output: ")
    assert run(server, *FEW, "--html", "/dev/full").returncode == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no POSIX signals")
@pytest.mark.parametrize(
    ("number", "as_json"), [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, True)]
)
def test_a_signal_prints_what_was_measured(
    server: LLMServer, number: signal.Signals, as_json: bool
) -> None:
    """Then it ends with the signal's code, and cancels what runs: three answers are in the figures,
    two streams that hang are not."""
    server.script(*[Answer("a b c")] * 3)
    server.default = Reply([*Answer("a b c").blocks()[:5], Silence()])
    load = ("--concurrency", "2", "--requests", "1000", "--warmup", "0")
    process = subprocess.Popen(
        arguments(server, *load, *(["--json"] if as_json else [])),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment(LLMSTREAM_API_KEY=KEY, LLMSTREAM_BASE_URL=server.base_url),
    )
    with process:
        server.wait_requests(5, BOUND)
        process.send_signal(number)
        out, err = process.communicate(timeout=BOUND)
    assert (process.returncode, err) == (128 + number, "")
    if as_json:
        found = json.loads(out)
        assert (found["ok"], found["failed"], found["interrupted"]) == (3, 0, 2)
        assert found["ttft"]["count"] == 3
        assert "interrupted" in found["notes"][0]
    else:
        assert "3 of 3 requests answered, 2 interrupted" in out
        assert "tpot: " in out
    eventually(lambda: server.open_connections == 0, "the streams are closed")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no POSIX signals")
def test_a_signal_before_the_first_answer(server: LLMServer) -> None:
    """JSON all the same, without figures."""
    server.default = Reply([Silence()])
    process = subprocess.Popen(
        arguments(server, "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment(LLMSTREAM_API_KEY=KEY, LLMSTREAM_BASE_URL=server.base_url),
    )
    with process:
        server.wait_requests(1, BOUND)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=BOUND)
    assert (process.returncode, err) == (130, "")
    found = json.loads(out)
    assert (found["levels"], found["ttft"]["p50"]) == ([], None)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no closed pipes as POSIX has them")
@pytest.mark.parametrize("when", ["at once", "after the heading"])
def test_whoever_reads_has_left(server: LLMServer, tmp_path: Path, when: str) -> None:
    """No traceback, and the code of a closed pipe. Nothing is sent where nobody reads from the
    first; what was measured is on the page all the same."""
    page = tmp_path / "b.html"
    left = threading.Event()

    def reply(recorded: Recorded) -> Answer:
        left.wait(BOUND)
        return Answer("a b")

    server.default = reply
    reader, writer = os.pipe()
    if when == "at once":
        os.close(reader)
    process = subprocess.Popen(
        arguments(server, *FEW, "--html", str(page)),
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment(LLMSTREAM_API_KEY=KEY, LLMSTREAM_BASE_URL=server.base_url),
    )
    os.close(writer)
    with process:
        assert process.stderr is not None
        if when != "at once":
            assert os.read(reader, 1)
            os.close(reader)
        left.set()
        err = process.stderr.read()
        assert process.wait(BOUND) == 141
    assert err == b""
    sent = len(server.requests)
    assert (sent, page.exists()) == ((0, False) if when == "at once" else (4, True))


@pytest.mark.slow
def test_the_key_is_nowhere(server: LLMServer, tmp_path: Path) -> None:
    """Neither that of the environment nor a user and password of the address."""
    server.default = Reply.error(400, message=f"no {KEY} for hunter22hunter22")
    address = server.base_url.replace("://", "://user:hunter22hunter22@")
    path = tmp_path / "b.html"
    options = (*FEW, "--base-url", address, "--html", str(path))
    for more in ((), ("--json",)):
        done = run(server, *options, *more, LLMSTREAM_BASE_URL=address)
        shown = done.stdout + done.stderr + path.read_text("utf-8")
        assert KEY not in shown
        assert "hunter22" not in shown
        assert "user" not in done.stdout


@pytest.mark.slow
def test_your_own_client(server: LLMServer, tmp_path: Path) -> None:
    """--client measures through the client that a program has, with its settings."""
    code = f"""
        from llmstream import Client, Timeouts
        client = Client("chat", base_url={server.base_url!r}, api_key="k", model="mine",
                        timeouts=Timeouts(total=45))
    """
    (tmp_path / "app.py").write_text("\n".join(line.strip() for line in code.splitlines()))
    done = subprocess.run(
        [sys.executable, "-m", "llmstream", "bench", "--client", "app:client", "--json", *FEW],
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
        env=environment(),
        timeout=BOUND,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["model"] == "mine"
    assert {recorded.json()["model"] for recorded in server.requests} == {"mine"}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo terminals as POSIX has them")
def test_progress_is_for_a_terminal_s_stderr(server: LLMServer) -> None:
    """One line that is written over and erased; stdout has the figures only."""
    import pty

    server.default = paced(0.4, 0.0, 2)
    master, slave = pty.openpty()
    with open(master, "rb", buffering=0) as seen, open(slave, "wb") as terminal:
        done = subprocess.run(
            arguments(server, *FEW, "--json"),
            stdout=subprocess.PIPE,
            stderr=terminal,
            env=environment(LLMSTREAM_API_KEY=KEY, LLMSTREAM_BASE_URL=server.base_url),
            timeout=BOUND,
            check=False,
        )
        text = seen.read(65536).decode()
    assert done.returncode == 0
    assert json.loads(done.stdout)["ok"] == 4
    assert "\r\x1b[Kconcurrency 2: " in text
    assert text.endswith("\r\x1b[K")


def test_help_lists_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmstream", "--help"],
        capture_output=True,
        encoding="utf-8",
        env=environment(),
        timeout=BOUND,
        check=True,
    )
    assert re.search(r"^  bench +\S", done.stdout, re.MULTILINE)
