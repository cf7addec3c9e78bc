"""`llmstream batch`: answers of many prompts as JSON lines, and how a run goes on after its end."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import eventually
from test_cli import BOUND, clean_environment

from llmstream import ConfigurationError, cli
from llmstream.cli import batch
from llmstream.testing import Answer, Cut, LLMServer, Recorded, Reply, Silence
from llmstream.testing.script import prompt_text

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals and pipes")
SOME_FAILED = 20
NO_RETRY = {"retry-after": "3600"}  # a wait that is not waited out


class Folder:
    """An input and an output, and the command on them, in this process."""

    def __init__(self, path: Path, server: LLMServer) -> None:
        self.input, self.output = path / "in.jsonl", path / "out.jsonl"
        self.server = server
        server.default = server.echo

    def write(self, *lines: Any) -> None:
        self.input.write_bytes(
            b"".join(
                (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n"
                for line in lines
            )
        )

    def arguments(self, *more: str) -> list[str]:
        service = ["--base-url", self.server.base_url]
        return ["batch", str(self.input), "-o", str(self.output), *service, *more]

    def run(self, *more: str) -> int:
        return cli.main(self.arguments(*more))

    @contextlib.contextmanager
    def start(self, *more: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """The command as a process; killed at the end if it still runs."""
        given: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "encoding": "utf-8",
            "env": clean_environment(),
        }
        command = [sys.executable, "-m", "llmstream", *self.arguments(*more)]
        process = subprocess.Popen(command, **{**given, **options})
        try:
            yield process
        finally:
            process.kill()
            process.communicate(timeout=BOUND)

    def lines(self) -> dict[Any, dict[str, Any]]:
        """The lines of the output by their ids, each of which has one."""
        lines = [json.loads(line) for line in self.output.read_bytes().splitlines()]
        assert max(Counter(line["id"] for line in lines).values(), default=1) == 1
        return {line["id"]: line for line in lines}

    def asked(self) -> list[str]:
        return [prompt_text(request) for request in self.server.requests]


@pytest.fixture
def folder(tmp_path: Path, server: LLMServer) -> Folder:
    return Folder(tmp_path, server)


def rows(count: int) -> list[dict[str, str]]:
    return [{"id": f"r{n}", "prompt": f"prompt {n}"} for n in range(count)]


# ---- answers -------------------------------------------------------------------------------------


def test_every_prompt_is_answered(folder: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    """Once, under its id, with its usage; the summary is a line on stderr."""
    folder.write(*rows(30))
    assert folder.run("--workers", "4") == 0
    found = folder.lines()
    assert {key: line["text"] for key, line in found.items()} == {
        row["id"]: row["prompt"] for row in rows(30)
    }
    assert found["r7"]["line"] == 8
    assert (found["r7"]["finish"], found["r7"]["usage"]["output_tokens"]) == ("stop", 34)
    assert sorted(folder.asked()) == sorted(row["prompt"] for row in rows(30))
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"llmstream: batch: 30 answered, tokens in 360, tokens out 1,020, [\d.]+ s\n", err
    )


@pytest.mark.parametrize("target", [[], ["-o", "-"]])
def test_answers_go_to_standard_output(
    folder: Folder, capfd: pytest.CaptureFixture[str], target: list[str]
) -> None:
    """Without -o, or with '-'."""
    folder.write(*rows(3))
    arguments = ["batch", str(folder.input), "--base-url", folder.server.base_url, *target]
    assert cli.main(arguments) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {line["id"]: line["text"] for line in lines} == {
        row["id"]: row["prompt"] for row in rows(3)
    }


def test_options_of_a_line_win(folder: Folder) -> None:
    """Those of the command hold for lines without them."""
    turns = [{"role": "user", "content": "Hi"}]
    folder.write(
        {"id": "a", "prompt": "Hi"},
        {"id": "b", "messages": turns, "model": "m2", "temperature": 0, "max_tokens": 3},
        {"id": "c", "prompt": "Hi", "extra_body": {"seed": 4}, "headers": {"x-row": "c"}},
    )
    options = ["--model", "m1", "--temperature", "0.5", "--max-tokens", "9", "--workers", "1"]
    assert folder.run(*options, "--instructions", "be brief", "--top-p", "0.9") == 0
    bodies = [request.json() for request in folder.server.requests]
    assert [(b["model"], b["temperature"], b["max_output_tokens"]) for b in bodies] == [
        ("m1", 0.5, 9),
        ("m2", 0, 3),
        ("m1", 0.5, 9),
    ]
    assert {body["instructions"] for body in bodies} == {"be brief"}
    assert {body["top_p"] for body in bodies} == {0.9}
    assert bodies[2]["seed"] == 4
    assert folder.server.requests[2].headers["x-row"] == "c"


def test_tool_calls_refusals_and_metadata_are_in_the_line(folder: Folder) -> None:
    answers = {
        "call": Answer(tool_calls=[("weather", '{"city": "Rome"}')]),
        "refuse": Answer(refusal="I cannot"),
    }
    folder.server.default = lambda request: answers[prompt_text(request)]
    folder.write(
        {"id": "a", "prompt": "call", "metadata": {"lang": "it"}}, {"id": "b", "prompt": "refuse"}
    )
    assert folder.run() == 0
    found = folder.lines()
    (call,) = found["a"]["tool_calls"]
    assert (call["name"], call["arguments"]) == ("weather", '{"city": "Rome"}')
    assert found["a"]["metadata"] == {"lang": "it"}
    assert found["b"]["refusal"] == "I cannot"


def test_lines_of_openais_batch_files_are_asked(folder: Folder) -> None:
    """With the fields that only the service knows."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "seed": 4}
    line = {"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    folder.write(line)
    assert folder.run("--api", "chat") == 0
    assert folder.lines()["r1"]["text"] == "Hi"
    assert folder.server.requests[0].json()["seed"] == 4


@pytest.mark.slow
@posix
def test_lines_are_asked_and_answered_as_they_arrive(folder: Folder) -> None:
    """Standard input that has not ended: each line is answered at once; a mistake ends the run
    after the lines before it."""
    command = [sys.executable, "-m", "llmstream", "batch", "-"]
    with subprocess.Popen(
        [*command, "--base-url", folder.server.base_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in (1, 2):
            process.stdin.write(b'{"prompt": "one"}\n')
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == number
        process.stdin.write(b'{"prompt": "three"}\n{"id": 1, "prompt": "one"}\n')
        out, err = process.communicate(timeout=BOUND)
    assert process.returncode == 2
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["three"]
    assert b"line 4: its id 1 is that of line 1 too" in err


@pytest.mark.slow
@posix
def test_standard_input_is_gone_on_with(folder: Folder) -> None:
    """With -o: what is in the output is not asked again."""
    lines = "".join(json.dumps(row) + "\n" for row in rows(4))
    command = [sys.executable, "-m", "llmstream", "batch", "-", "-o", str(folder.output)]
    for text in (lines[: len(lines) // 2 + 1], lines):
        done = subprocess.run(
            [*command, "--base-url", folder.server.base_url],
            input=text.rpartition("\n")[0],
            capture_output=True,
            encoding="utf-8",
            env=clean_environment(),
            timeout=BOUND,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert sorted(folder.asked()) == sorted(row["prompt"] for row in rows(4))
    assert len(folder.lines()) == 4


# ---- what was done before ------------------------------------------------------------------------


def test_a_second_run_asks_nothing(folder: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    folder.write(*rows(5))
    assert folder.run() == 0
    before = folder.output.read_bytes()
    assert folder.run() == 0
    assert len(folder.server.requests) == 5
    assert folder.output.read_bytes() == before
    assert "0 answered, 5 were in the output already," in capfd.readouterr().err


def test_a_run_asks_what_has_no_answer(folder: Folder) -> None:
    """New lines, and ids that were written as another type."""
    folder.write({"id": 1, "prompt": "one"}, {"id": "2", "prompt": "two"})
    assert folder.run() == 0
    folder.write(
        {"id": "0", "prompt": "zero"}, {"id": "1", "prompt": "one"}, {"id": 2, "prompt": "two"}
    )
    assert folder.run() == 0
    assert sorted(folder.asked()) == ["one", "two", "zero"]
    assert set(folder.lines()) == {1, "2", "0"}


def test_lines_without_ids_that_have_moved_are_not_taken_for_answered(
    folder: Folder, capfd: pytest.CaptureFixture[str]
) -> None:
    """Numbers of lines stand for ids: appended lines are asked, moved ones are refused."""
    folder.write({"prompt": "one"}, {"prompt": "two"})
    assert folder.run() == 0
    folder.write({"prompt": "one"}, {"prompt": "two"}, {"prompt": "three"})
    assert folder.run() == 0
    assert {key: line["text"] for key, line in folder.lines().items()} == {
        1: "one",
        2: "two",
        3: "three",
    }
    folder.write({"prompt": "zero"}, {"prompt": "one"}, {"prompt": "two"})
    capfd.readouterr()
    assert folder.run() == 2
    assert "line 1: the output has a line of another row for the id 1" in capfd.readouterr().err
    assert len(folder.server.requests) == 3


def failing(prompts: Sequence[str], times: int = 1) -> Any:
    """A server's default: the first requests of these prompts fail, each in its own way."""
    seen: Counter[str] = Counter()
    answer = Answer("half an answer")
    ways = [
        lambda: Reply.error(400),
        lambda: Reply.error(429, headers=NO_RETRY),
        lambda: Reply.error(500, headers=NO_RETRY),
        lambda: Reply([*answer.blocks()[:6], Cut()]),
    ]

    def reply(request: Recorded) -> Reply | Answer:
        prompt = prompt_text(request)
        seen[prompt] += 1
        if prompt in prompts and seen[prompt] <= times:
            return ways[prompts.index(prompt) % len(ways)]()
        return Answer(prompt)

    return reply


def test_errors_are_lines_and_an_exit_code(
    folder: Folder, capfd: pytest.CaptureFixture[str]
) -> None:
    """With what had arrived; the summary counts them by type. A second run leaves them, and its
    exit code says that not all is answered."""
    folder.server.default = failing([f"prompt {n}" for n in (0, 1, 2, 3, 4)], times=9)
    folder.write(*rows(9))
    assert folder.run() == SOME_FAILED
    found = folder.lines()
    assert [found[f"r{n}"]["error"]["type"] for n in range(5)] == [
        "InvalidRequestError",
        "RateLimitError",
        "ServerError",
        "StreamInterrupted",
        "InvalidRequestError",
    ]
    assert found["r3"]["error"]["text"] == "half an"
    assert found["r1"]["error"]["status"] == 429
    assert all("text" not in found[f"r{n}"] for n in range(5))
    err = capfd.readouterr().err
    assert "4 answered, 5 failed (InvalidRequestError 2, " in err
    requests = len(folder.server.requests)
    assert folder.run() == SOME_FAILED
    assert len(folder.server.requests) == requests
    assert "9 were in the output already, 5 of them failed" in capfd.readouterr().err


def test_errors_are_asked_again_on_demand(folder: Folder) -> None:
    """--retry-errors; each id then has one line. What fails again is an error again."""
    failures = [f"prompt {n}" for n in range(4)]
    folder.server.default = failing(failures, times=1)
    folder.write(*rows(8))
    assert folder.run() == SOME_FAILED
    folder.server.default = failing(["prompt 2"], times=1)
    assert folder.run("--retry-errors") == SOME_FAILED
    found = folder.lines()
    assert [key for key, line in found.items() if "error" in line] == ["r2"]
    assert folder.run("--retry-errors") == 0
    assert {key: line["text"] for key, line in folder.lines().items()} == {
        row["id"]: row["prompt"] for row in rows(8)
    }
    assert max(Counter(folder.asked()).values()) == 3


def test_a_limit_of_the_cost_ends_a_run(folder: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    """With the exit code of a mistake in the options; a run with a higher one goes on."""
    pytest.importorskip("genai_prices")
    block = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    end = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],%s}\n\n'
    usage = b'"usage":{"prompt_tokens":5,"completion_tokens":2,"cost":0.25}'
    folder.server.default = lambda request: Reply([block, end % usage, b"data: [DONE]\n\n"])
    folder.write(*rows(20))
    options = ["--api", "chat", "--model", "m", "--workers", "2"]
    assert folder.run(*options, "--max-cost", "1") == 2
    first = folder.lines()
    assert 4 <= len(first) < 10
    assert {line["text"] for line in first.values()} == {"Hi"}
    assert "max_cost: the calls of this client have cost at least " in capfd.readouterr().err
    assert folder.run(*options, "--max-cost", "100") == 0
    assert len(folder.lines()) == 20
    assert len(folder.server.requests) <= 22  # what was on its way when the limit was reached


@pytest.mark.parametrize(("code", "status"), [(4, 401), (7, 402)])
def test_a_wrong_key_is_not_tried_for_every_line(
    folder: Folder, capfd: pytest.CaptureFixture[str], code: int, status: int
) -> None:
    """20 refusals in a row end the run, with their exit code. Among answers they do not."""
    folder.write(*rows(100))
    folder.server.default = lambda request: Reply.error(status)
    assert folder.run("--workers", "4") == code
    assert 20 <= len(folder.lines()) <= len(folder.server.requests) < 40
    summary, sentence = capfd.readouterr().err.splitlines()
    assert "0 answered, " in summary
    assert "20 calls in a row ended like this" in sentence
    folder.server.default = lambda request: (
        Reply.error(status) if int(prompt_text(request).split()[1]) % 9 else Answer("ok")
    )
    assert folder.run("--retry-errors", "--workers", "1") == SOME_FAILED
    assert len(folder.lines()) == 100


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "line 3: not a JSON object"),
        (b'{"id": "r0", "prompt": "x"}', "line 3: its id 'r0' is that of line 1 too"),
        (b'{"id": 2.5, "prompt": "x"}', "line 3: its id is 2.5"),
        (b'{"id": "x", "prompt": ""}', "line 3: prompt: pass a string that is not empty"),
        (b'{"id": "x", "prompt": "x", "temperature": 900}', "line 3: temperature=900"),
        (b'{"id": "x", "prompt": "x", "tools": 3}', "line 3: tools: pass a list"),
        (b'{"id": "x", "prompt": "x", "background": "yes"}', "line 3: background='yes'"),
        (b'{"id": "x", "prompt": "\\udc00"}', "line 3: not a JSON object"),
        (b'{"id": "x", "prompt": "x", "top_p": NaN}', "line 3: not a JSON object"),
    ],
)
def test_a_mistake_in_any_line_is_found_before_anything_is_asked(
    folder: Folder, capfd: pytest.CaptureFixture[str], line: bytes, words: str
) -> None:
    """One sentence with the line's number, exit code 2, and no request."""
    folder.write(*rows(2), line, {"id": "last", "prompt": "x"})
    assert folder.run() == 2
    err = capfd.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert folder.server.requests == []


@pytest.mark.parametrize(
    "options",
    [
        ["--workers", "0"],
        ["--workers", "many"],
        ["--rate-limit", "fast"],
        ["--rate-limit", "0"],
        ["--temperature", "900"],
        ["--total", "-1"],
        ["--context", "9"],
        ["--max-cost", "much"],
    ],
)
def test_a_mistake_in_the_options_is_one_sentence(
    folder: Folder, capfd: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """And exit code 2; nothing is asked."""
    folder.write(*rows(2))
    try:
        code: Any = folder.run(*options)
    except SystemExit as ended:
        code = ended.code
    err = capfd.readouterr().err
    assert code == 2
    assert err.startswith("llmstream: ")
    assert "Traceback" not in err
    assert folder.server.requests == []


def test_a_machine_without_a_further_thread_is_one_sentence(
    folder: Folder, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: there is nothing to wait for."""

    def none(work: Any, name: str) -> None:
        raise ConfigurationError("the system starts no further thread")

    monkeypatch.setattr(batch, "spawn", none)
    folder.write(*rows(2))
    begun = time.monotonic()
    assert folder.run() == 2
    assert time.monotonic() - begun < 10  # and not `_FAREWELL`
    assert "the system starts no further thread" in capfd.readouterr().err


def test_an_input_of_nothing_is_answered(folder: Folder) -> None:
    """Blank lines are none, CRLF ends a line, and a byte order mark may begin the file."""
    folder.input.write_bytes(b"\n \r\n")
    assert folder.run() == 0
    folder.input.write_bytes(b'\xef\xbb\xbf{"id": 1, "prompt": "Hi"}\r\n\r\n{"id":2,"prompt":"Ho"}')
    assert folder.run() == 0
    assert {key: line["line"] for key, line in folder.lines().items()} == {1: 1, 2: 3}


def test_a_long_line_is_a_prompt(folder: Folder) -> None:
    """Of megabytes."""
    folder.write({"id": "a", "prompt": "é" * 2_000_000})
    folder.server.default = lambda request: Answer(str(len(prompt_text(request))))
    assert folder.run() == 0
    assert folder.lines()["a"]["text"] == "2000000"


@pytest.mark.parametrize("odd", ["itself", "folder", "no folder", "other"])
def test_an_output_that_cannot_be_one_is_one_sentence(
    folder: Folder, capfd: pytest.CaptureFixture[str], odd: str
) -> None:
    """The input itself, a folder, a file of something else: nothing is asked, all stays."""
    folder.write(*rows(2))
    before = folder.input.read_bytes()
    other = folder.input.parent / "notes.txt"
    other.write_bytes(b"notes")
    path, code = {
        "itself": (folder.input, 2),
        "folder": (folder.input.parent, 1),
        "no folder": (folder.input.parent / "none" / "out", 1),
        "other": (other, 2),
    }[odd]
    folder.output = path
    assert folder.run() == code
    assert capfd.readouterr().err.count("\n") == 1
    assert (folder.input.read_bytes(), other.read_bytes()) == (before, b"notes")
    assert folder.server.requests == []


@posix
def test_the_output_is_not_the_input_by_another_name(folder: Folder) -> None:
    """A link, or the shell's redirection."""
    folder.write(*rows(2))
    before = folder.input.read_bytes()
    folder.output.symlink_to(folder.input)
    assert folder.run() == 2
    command = [sys.executable, "-m", "llmstream", "batch", str(folder.input)]
    with open(folder.input, "ab") as out:
        done = subprocess.run(
            [*command, "--base-url", folder.server.base_url],
            stdout=out,
            stderr=subprocess.PIPE,
            env=clean_environment(),
            timeout=BOUND,
            check=False,
        )
    assert (done.returncode, folder.input.read_bytes()) == (2, before)
    assert folder.server.requests == []


def test_a_file_that_cannot_be_replaced_is_noticed_before_errors_are_asked_again(
    folder: Folder, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is at the end of such a run: by a new file, for which the folder has to be writable."""
    folder.server.default = lambda request: Reply.error(400)
    folder.write(*rows(2))
    assert folder.run() == SOME_FAILED

    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(batch, "check_replaceable", refuse)
    assert folder.run("--retry-errors") == 1
    assert "cannot write the output: " in capfd.readouterr().err
    assert len(folder.server.requests) == 2


# ---- outputs that end ----------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_one_sentence_and_says_what_is_lost(
    folder: Folder, capfd: pytest.CaptureFixture[str]
) -> None:
    """The run ends; what was received meanwhile is counted."""
    folder.write(*rows(50))
    folder.output = Path("/dev/full")
    assert folder.run("--workers", "2") == 1
    first, second, *more = capfd.readouterr().err.splitlines()
    assert first == "llmstream: cannot write the output: /dev/full: No space left on device"
    assert re.search(r"batch: 0 answered, \d+ received and not written", second)
    assert more == []
    assert len(folder.server.requests) < 20


@pytest.mark.slow
@posix
def test_a_closed_pipe_ends_the_run_quietly(folder: Folder) -> None:
    """`llmstream batch FILE | head -1`."""
    folder.write(*rows(400))
    command = [sys.executable, "-m", "llmstream", "batch", str(folder.input)]
    with subprocess.Popen(
        [*command, "--base-url", folder.server.base_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(BOUND) == 141
    assert len(folder.server.requests) < 400
    folder.server.wait_all_closed()


@pytest.mark.slow
@posix
@pytest.mark.parametrize("redirect", [">&-", "</dev/null >&-"])
def test_a_closed_output_is_one_sentence(folder: Folder, redirect: str) -> None:
    """Before anything is asked."""
    folder.write(*rows(2))
    command = [sys.executable, "-m", "llmstream", "batch", str(folder.input)]
    line = [*command, "--base-url", folder.server.base_url]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", *line],
        capture_output=True,
        env=clean_environment(),
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert folder.server.requests == []


@pytest.mark.slow
@posix
def test_a_machine_without_a_locale_writes_json(folder: Folder) -> None:
    """LC_ALL=C: the lines are UTF-8 all the same."""
    folder.write({"id": "ü", "prompt": "größer \U0001f600"})
    environment = clean_environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    environment.pop("PYTHONIOENCODING")
    command = [sys.executable, "-m", "llmstream", "batch", str(folder.input)]
    done = subprocess.run(
        [*command, "--base-url", folder.server.base_url],
        capture_output=True,
        env=environment,
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode())["text"] == "größer \U0001f600"


@pytest.mark.slow
@posix
def test_named_pipes_are_inputs_and_outputs(folder: Folder) -> None:
    """Both wait for the other side, as a shell's redirections do."""
    source, target = folder.input.with_name("source"), folder.input.with_name("target")
    os.mkfifo(source)
    os.mkfifo(target)
    folder.input, folder.output = source, target
    with folder.start() as process:
        with open(source, "wb") as writer, open(target, "rb") as reader:
            writer.write(b'{"id": "a", "prompt": "Hi"}\n')
            writer.close()
            lines = reader.read().splitlines()
        _, err = process.communicate(timeout=BOUND)
    assert (process.returncode, [json.loads(line)["text"] for line in lines]) == (0, ["Hi"]), err


# ---- ends from outside ---------------------------------------------------------------------------


def until(folder: Folder, process: subprocess.Popen[str], count: int) -> None:
    """Waits until the output has so many lines."""

    def there() -> bool:
        with contextlib.suppress(FileNotFoundError):
            return folder.output.read_bytes().count(b"\n") >= count
        return process.poll() is not None

    eventually(there, f"{count} answers are written", within=BOUND)


@pytest.mark.slow
@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_and_a_second_run_goes_on(
    folder: Folder, number: signal.Signals, code: int
) -> None:
    """Streams end at once; what was answered is written; a stalled answer is asked again."""
    stalled = [*Answer("half an answer").blocks()[:6], Silence()]
    folder.server.default = lambda request: (
        Reply(stalled) if prompt_text(request) in ("prompt 3", "prompt 7") else Answer("whole")
    )
    folder.write(*rows(10))
    with folder.start("--workers", "3") as process:
        until(folder, process, 8)
        folder.server.wait_requests(10, BOUND)  # those that stall, too
        begun = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=BOUND)
        assert time.monotonic() - begun < 10
    assert process.returncode == code
    assert re.fullmatch(r"llmstream: batch: 8 answered, tokens in \d+, .*\n", err)
    folder.server.wait_all_closed()
    assert set(folder.lines()) == {f"r{n}" for n in range(10)} - {"r3", "r7"}
    folder.server.default = folder.server.echo
    assert folder.run() == 0
    assert len(folder.lines()) == 10
    assert sorted(folder.asked()[10:]) == ["prompt 3", "prompt 7"]


@pytest.mark.slow
@posix
@pytest.mark.parametrize("odd", ["input", "output"])
def test_a_signal_ends_the_wait_for_the_other_side_of_a_pipe(folder: Folder, odd: str) -> None:
    """A named pipe that nobody opens."""
    folder.write(*rows(2))
    pipe = folder.input.with_name("pipe")
    os.mkfifo(pipe)
    if odd == "input":
        folder.input = pipe
    else:
        folder.output = pipe
    with folder.start() as process:
        until_asleep(process)
        process.terminate()
        assert process.wait(BOUND) == 143
    assert folder.server.requests == []


def until_asleep(process: subprocess.Popen[str]) -> None:
    """Waits until the process's first thread is blocked in a system call, and not only about to."""
    stat = Path(f"/proc/{process.pid}/stat")
    if not stat.exists():
        time.sleep(3)
        return
    asleep = 0

    def is_blocked() -> bool:
        nonlocal asleep
        asleep = asleep + 1 if stat.read_text().rpartition(")")[2].split()[0] == "S" else 0
        return asleep > 50

    eventually(is_blocked, "the process is blocked", within=BOUND)


@pytest.mark.slow
@posix
@pytest.mark.parametrize("waits_for", ["input", "reader"])
def test_a_signal_ends_a_run_that_waits(folder: Folder, waits_for: str) -> None:
    """For the next line of a pipe, or for a reader that reads nothing."""
    folder.server.default = lambda request: Answer("x" * 300_000)  # more than a pipe holds
    folder.write(*rows(6))
    source = "-" if waits_for == "input" else str(folder.input)
    with subprocess.Popen(
        [sys.executable, "-m", "llmstream", "batch", source, "--base-url", folder.server.base_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    ) as process:
        assert process.stdout is not None
        if waits_for == "input":
            assert process.stdin is not None
            process.stdin.write(b'{"prompt": "Hi"}\n')
            process.stdin.flush()
            assert process.stdout.readline()
        else:
            assert process.stdout.read(1)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(BOUND) == 130
        assert time.monotonic() - begun < 10


def killed(folder: Folder, chance: random.Random, *options: str) -> set[Any]:
    """Start the command, kill it at a random moment; the ids that were answered by then."""
    requests = len(folder.server.requests) + chance.randrange(25)
    delay = chance.random() * 0.02
    with folder.start(*options, env=without_prices(folder)) as process:
        eventually(
            lambda: len(folder.server.requests) >= requests or process.poll() is not None,
            "the run has begun",
            within=BOUND,
        )
        moment = time.monotonic() + delay
        while time.monotonic() < moment:  # any moment is a moment of the test
            pass
        process.kill()
    return answered(folder)


def without_prices(folder: Folder) -> dict[str, str]:
    """An environment without the extra `cost`, whose import is most of the start of a process."""
    stub = folder.input.parent / "stub"
    stub.mkdir(exist_ok=True)
    (stub / "genai_prices.py").write_text("raise ImportError")
    path = [str(stub), *filter(None, [os.environ.get("PYTHONPATH")])]
    return clean_environment(PYTHONPATH=os.pathsep.join(path))


def answered(folder: Folder) -> set[Any]:
    """The ids of the whole lines that are answers, each of which there is once."""
    if not folder.output.exists():
        return set()
    *whole, _ = folder.output.read_bytes().split(b"\n")
    ids = [line["id"] for line in map(json.loads, whole) if "text" in line]
    assert len(ids) == len(set(ids))
    return set(ids)


@pytest.fixture
def journal(folder: Folder) -> Iterator[list[int]]:
    """How many answers the runs had written when they were killed."""
    seen: list[int] = []
    yield seen
    assert len(set(seen)) > 3, "the moments were not different ones"


@posix
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_is_killed_ten_times_answers_every_id_once(
    folder: Folder, journal: list[int], seed: int
) -> None:
    """SIGKILL at random moments, thirty in all: no answer that was written is lost or asked again,
    and in the end each id has its own answer."""
    chance = random.Random(seed)
    folder.write(*rows(250))
    done: set[Any] = set()
    for _ in range(10):
        before = len(folder.server.requests)
        now = killed(folder, chance, "--workers", "4")
        assert done <= now
        again = {prompt_text(request) for request in folder.server.requests[before:]}
        assert not again & {f"prompt {id[1:]}" for id in done}
        done = now
        journal.append(len(done))
    assert folder.run("--workers", "4") == 0
    assert {key: line["text"] for key, line in folder.lines().items()} == {
        row["id"]: row["prompt"] for row in rows(250)
    }
    assert len(folder.server.requests) <= 250 + 10 * 3 * 4  # what was on its way at a kill


@posix
@pytest.mark.slow
def test_retries_of_errors_that_are_killed_lose_nothing(folder: Folder, journal: list[int]) -> None:
    """As above, with a third of the prompts failing at first."""
    chance = random.Random(16)
    folder.write(*rows(200))
    failures = [f"prompt {n}" for n in range(0, 200, 3)]
    folder.server.default = failing(failures, times=2)
    done: set[Any] = set()
    for _ in range(10):
        now = killed(folder, chance, "--workers", "4", "--retry-errors")
        assert done <= now
        done = now
        journal.append(len(done))
    for _ in range(4):
        code = folder.run("--retry-errors")
        folder.lines()  # one line for each id
    assert code == 0
    assert {key: line["text"] for key, line in folder.lines().items()} == {
        row["id"]: row["prompt"] for row in rows(200)
    }
