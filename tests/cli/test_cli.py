"""The command `llmstream`, run as a user runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from llmstream import errors
from llmstream.cli import EXIT_CODES
from llmstream.testing import Answer, Cut, LLMServer, Recorded, Reply, Silence

ANSWER = Answer("Hello brave new world")
TWO_WORDS = ANSWER.blocks()[:6]  # created, in progress, item, part, "Hello", " brave"
BOUND = 20.0  # seconds; generous, nothing here takes one


def clean_environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LLMSTREAM", "OPENAI"))}
    return {**kept, "PYTHONIOENCODING": "utf-8", **more}


def run(
    *arguments: str, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmstream", *arguments],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env=clean_environment(**(env or {})),
        timeout=BOUND,
        check=False,
    )


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a running process; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "llmstream", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=clean_environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=BOUND)


def asked(server: LLMServer, number: int = 0) -> dict[str, Any]:
    body: dict[str, Any] = server.requests[number].json()
    return body


def test_tokens_go_to_stdout_and_nothing_else(llm_server: LLMServer) -> None:
    """The answer, ended by one newline, is all that is printed."""
    llm_server.script(ANSWER)
    done = run("--base-url", llm_server.base_url, "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello brave new world\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("api", ["responses", "messages", "chat", "gemini"])
def test_a_refusal_is_the_answer(llm_server: LLMServer, api: str) -> None:
    """Its words are printed like text, in a pipe as on a terminal, and by a chat; --json has the
    wire's own events."""
    llm_server.default = Answer("Well. ", refusal=["I ", "can't."])
    service = ["--api", api, "--base-url", llm_server.base_url_for(api), "--model", "m"]
    for more in ([], ["--plain"]):
        done = run(*service, *more, "hi")
        assert (done.returncode, done.stdout, done.stderr) == (0, "Well. I can't.\n", "")
    assert run("chat", *service, stdin="hi\n").stdout == "Well. I can't.\n"
    assert "can't." in run(*service, "--json", "hi").stdout


def test_tokens_are_printed_as_they_are_received(llm_server: LLMServer) -> None:
    """The first words are on stdout while the server still holds the rest back."""
    llm_server.script(Reply([*TWO_WORDS, Silence()]))
    with started("--base-url", llm_server.base_url, "hi") as process:
        assert process.stdout is not None
        assert process.stdout.read(len("Hello brave")) == "Hello brave"
        assert process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "stdin", "prompt"),
    [
        ("hi", "", "hi"),
        (None, "from the pipe\n", "from the pipe"),
        ("-", "from the pipe\n", "from the pipe"),
        ("explain", "line 1\nline 2\n", "explain\n\nline 1\nline 2"),
        (None, "check", "check"),
        ("-", "keys\n", "keys"),
    ],
)
def test_the_prompt_is_the_argument_stdin_or_both(
    llm_server: LLMServer, argument: str | None, stdin: str, prompt: str
) -> None:
    """Standard input is appended to the prompt, or is the prompt, also a command's name."""
    given = [] if argument is None else [argument]
    assert run("--base-url", llm_server.base_url, *given, stdin=stdin).returncode == 0
    assert asked(llm_server)["input"] == prompt


def test_options_reach_the_request(llm_server: LLMServer) -> None:
    """--model, --instructions and --max-tokens are in the request's JSON."""
    options = ["--model", "m1", "--instructions", "be brief", "--max-tokens", "7"]
    assert run("--base-url", llm_server.base_url, *options, "hi").returncode == 0
    body = asked(llm_server)
    assert (body["model"], body["instructions"], body["max_output_tokens"]) == ("m1", "be brief", 7)


def test_json_prints_every_event_one_a_line(llm_server: LLMServer) -> None:
    """--json prints the wire's own JSON, each event on a line of its own, to the last one."""
    llm_server.script(ANSWER)
    done = run("--base-url", llm_server.base_url, "--json", "hi")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    sent = [json.loads(block.split(b"data: ")[1]) for block in ANSWER.blocks()]
    assert events == sent


@pytest.mark.slow
def test_stats_go_to_stderr(llm_server: LLMServer) -> None:
    """--stats names first token, total, tokens and attempts, beside an untouched stdout."""
    llm_server.script(Reply.error(503), Answer("ok", usage=(12, 34)))
    done = run("--base-url", llm_server.base_url, "--stats", "hi")
    assert done.stdout == "ok\n"
    for part in ("first token", " ms, total ", "tokens in 12", "tokens out 34", "attempts 2"):
        assert part in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("api", "tokens"), [("messages", 17), ("chat", 12), ("responses", 12), ("gemini", 12)]
)
def test_the_tokens_in_of_the_stats_are_the_whole_prompt(
    llm_server: LLMServer, api: str, tokens: int
) -> None:
    """As in logs and metrics: Messages counts cached tokens beside the others."""
    llm_server.script(Answer("ok", usage=(12, 34, 5)))
    base = llm_server.base_url_for(api)
    done = run("--api", api, "--base-url", base, "--model", "m", "--stats", "hi")
    assert f"tokens in {tokens}, " in done.stderr


def error_reply(status: int) -> Reply:
    # The longest wait that the policy never waits out: retries would only make the test slow.
    return Reply.error(status, headers={"retry-after": "3600"}, message="no")


# error -> what is answered, further options, what of it is on stdout
FAILURES: dict[str, tuple[Reply, list[str], str]] = {
    "InvalidRequestError": (error_reply(400), [], ""),
    "AuthenticationError": (error_reply(401), [], ""),
    "PermissionDeniedError": (error_reply(403), [], ""),
    "RateLimitError": (error_reply(429), [], ""),
    "QuotaExceededError": (Reply.error(429, code="insufficient_quota"), [], ""),
    "OverloadedError": (error_reply(529), [], ""),
    "ServerError": (error_reply(500), [], ""),
    "DeadlineExceeded": (Reply([*TWO_WORDS, Silence()]), ["--total", "6"], "Hello brave\n"),
    "StreamInterrupted": (Reply([*TWO_WORDS, Cut()]), [], "Hello brave\n"),
    "StreamTruncated": (Reply([*TWO_WORDS, Cut(last_chunk=True)]), [], "Hello brave\n"),
    "ProtocolError": (Reply([*TWO_WORDS, b"data: {nonsense\n\n"]), [], "Hello brave\n"),
    "NotAStreamError": (Reply.html(), [], ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_an_error_is_one_sentence_and_its_own_exit_code(llm_server: LLMServer, name: str) -> None:
    """What was received stays on stdout; the error is one line on stderr and its family's code."""
    reply, options, printed = FAILURES[name]
    llm_server.script(reply)
    done = run("--base-url", llm_server.base_url, *options, "hi")
    base = next(c.__name__ for c in getattr(errors, name).__mro__ if c.__name__ in EXIT_CODES)
    assert done.returncode == EXIT_CODES[base]
    assert done.stdout == printed
    assert done.stderr.startswith(f"llmstream: {name}: ")
    assert done.stderr.count("\n") == 1


def test_exit_codes_are_distinct_and_cover_the_tree() -> None:
    """Every error class has a code, by its own name or by a parent's, and no two families share."""
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    for name in errors.__all__:
        if name in ("LLMStreamError", "ServiceError", "StreamTimeout"):
            continue  # abstract: only their subclasses are raised
        assert any(c.__name__ in EXIT_CODES for c in getattr(errors, name).__mro__), name


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_stream_at_once(
    llm_server: LLMServer, number: signal.Signals, code: int
) -> None:
    """SIGINT and SIGTERM free the connection without a word; what was received stays on stdout."""
    llm_server.script(Reply([*TWO_WORDS, Silence()]))
    with started("--base-url", llm_server.base_url, "hi") as process:
        assert process.stdout is not None
        assert process.stdout.read(len("Hello brave")) == "Hello brave"
        process.send_signal(number)
        out, err = process.communicate(timeout=BOUND)
    assert (process.returncode, out, err) == (code, "\n", "")
    llm_server.wait_closed(0)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no POSIX signals")
def test_a_signal_ends_a_wait_for_headers(llm_server: LLMServer) -> None:
    """SIGTERM before the first byte of the answer ends the command just as well."""
    llm_server.script(Reply(before=[Silence()]))
    with started("--base-url", llm_server.base_url, "hi") as process:
        llm_server.wait_requests(1, timeout=BOUND)
        process.terminate()
        out, err = process.communicate(timeout=BOUND)
    assert (process.returncode, out, err) == (143, "", "")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE")
def test_a_closed_pipe_is_not_a_traceback(llm_server: LLMServer) -> None:
    """When the reader of stdout goes away, the command ends quietly and frees the stream."""

    def endless(recorded: Recorded) -> Reply:
        # More than a pipe holds: the command has not written all of it before the reader goes away.
        return Reply([*TWO_WORDS, *[ANSWER.blocks()[5]] * 30_000, Silence()])

    llm_server.script(endless)
    with started("--base-url", llm_server.base_url, "hi") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(5)
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(BOUND) == 141
    llm_server.wait_closed(0)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_sentence(llm_server: LLMServer) -> None:
    """A full disk is exit code 1 and a sentence."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "llmstream", "--base-url", llm_server.base_url, "hi"],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=clean_environment(),
            timeout=BOUND,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "llmstream: cannot write the output: No space left on device\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no prompt"),
        (["hi"], "no service is configured"),
        (["--local", "--base-url", "http://127.0.0.1:1/v1", "hi"], "exclude each other"),
        (["--model-file", "x.gguf", "hi"], "--model-file goes with --local"),
        (["--context", "4096", "hi"], "--context goes with --local"),
        (["--base-url", "localhost:8080", "hi"], "--base-url: pass an address"),
        (["--base-url", "http://127.0.0.1:1/v1", "--total", "-1", "hi"], "greater than 0"),
        (["--base-url", "http://127.0.0.1:1/v1", "--max-tokens", "0", "hi"], "greater than 0"),
    ],
)
def test_a_mistake_is_reported_with_the_way_out(arguments: list[str], says: str) -> None:
    """Configuration errors exit with 2, in one sentence that names the way out."""
    done = run(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_environment_configures_it(llm_server: LLMServer) -> None:
    """LLMSTREAM_BASE_URL, LLMSTREAM_API_KEY and LLMSTREAM_MODEL are all it needs."""
    env = {
        "LLMSTREAM_BASE_URL": llm_server.base_url,
        "LLMSTREAM_API_KEY": "key-1",
        "LLMSTREAM_MODEL": "m2",
    }
    assert run("hi", env=env).returncode == 0
    assert asked(llm_server)["model"] == "m2"
    assert llm_server.requests[0].headers["authorization"] == "Bearer key-1"
