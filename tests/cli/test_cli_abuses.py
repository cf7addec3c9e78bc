"""What people, shells and supervisors do to the command. Each abuse ends in the answer or in one
sentence on stderr, with the exit code that `--help` documents, and never in a traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import eventually
from test_cli import ANSWER, BOUND, TWO_WORDS, clean_environment

from llmstream.testing import Answer, LLMServer, Recorded, Reply, Silence

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")

ODD = "\x1b]52;c;aGk=\x07\x1b[2J\x1b[31mred\x9b2J\u202e\r"
ANSWERED = (0, b"Hello brave new world\n")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "llmstream", *arguments]


class Abuse:
    """The command under one abuse; `shell` is the line of a shell, in which "$@" is the command."""

    def __init__(self, server: LLMServer, folder: Path) -> None:
        self.server = server
        self.folder = folder

    def run(
        self, *arguments: str, shell: str = 'exec "$@"', stdin: Any = subprocess.DEVNULL, **env: str
    ) -> tuple[int, bytes, bytes]:
        done = subprocess.run(
            ["sh", "-c", shell, "sh", *command(*arguments)],
            stdin=stdin,
            capture_output=True,
            cwd=self.folder,
            env=self.environment(**env),
            timeout=BOUND,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def is_answered(self, *arguments: str, **given: Any) -> None:
        self.server.script(ANSWER)
        assert self.run(*arguments, **given) == (*ANSWERED, b"")

    def environment(self, **more: str) -> dict[str, str]:
        return clean_environment(**{"LLMSTREAM_BASE_URL": self.server.base_url, **more})

    @contextlib.contextmanager
    def running(
        self, *arguments: str, shell: str = 'exec "$@"'
    ) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            ["sh", "-c", shell, "sh", *command(*arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
            env=self.environment(),
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate(timeout=BOUND)

    def at_a_terminal(self, *arguments: str, **env: str) -> tuple[int, str]:
        """The exit code, and all that a terminal of 80 columns was given."""
        import pty

        child, terminal = pty.fork()
        if child == 0:
            os.chdir(self.folder)
            os.execve(sys.executable, command(*arguments), self.environment(**env))
        shown = b""
        with contextlib.suppress(OSError):  # Linux: EIO at the end
            while piece := os.read(terminal, 65536):
                shown += piece
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode()


@pytest.fixture
def abuse(llm_server: LLMServer, tmp_path: Path) -> Abuse:
    return Abuse(llm_server, tmp_path)


def is_a_sentence(done: tuple[int, bytes, bytes], code: int, *says: bytes) -> None:
    assert done[:2] == (code, b"")
    assert done[2].startswith(b"llmstream: ")
    assert done[2].count(b"\n") == 1
    assert b"Traceback" not in done[2]
    for part in says:
        assert part in done[2]


# ---- what is read ------------------------------------------------------------------------------


@pytest.mark.slow
def test_01_a_closed_stdin(abuse: Abuse) -> None:
    """With a prompt it is not missed; without one it is."""
    abuse.is_answered("hi", shell='exec "$@" <&-')
    is_a_sentence(abuse.run(shell='exec "$@" <&-'), 2, b"standard input is closed")


@pytest.mark.slow
def test_02_an_open_stdin_that_is_silent(abuse: Abuse) -> None:
    """As supervisors leave it: the answer, after a bounded wait that stderr explains."""
    read, write = os.pipe()
    try:
        abuse.server.script(ANSWER)
        code, out, err = abuse.run("--total", "60", "hi", stdin=read)
        assert (code, out) == ANSWERED
        assert b"nothing arrived within" in err
        abuse.is_answered("--no-stdin", "hi", stdin=read)
    finally:
        os.close(read)
        os.close(write)


def test_03_a_stdin_slower_than_the_total(abuse: Abuse) -> None:
    """The deadline runs from the start of the command: nothing is sent after it."""
    read, write = os.pipe()
    os.write(write, b"a little")
    try:
        began = time.monotonic()
        done = abuse.run("--total", "0.7", "hi", stdin=read)
        is_a_sentence(done, 14, b"--total", b"nothing was sent")
        assert time.monotonic() - began < BOUND / 2
    finally:
        os.close(read)
        os.close(write)
    assert abuse.server.requests == []


@pytest.mark.slow
def test_04_a_directory_as_a_file(abuse: Abuse) -> None:
    """As the page of --timeline, as a model, as the file of a batch. As standard input it ends the
    interpreter before the command begins: in its own words, which are no traceback."""
    (abuse.folder / "d").mkdir()
    code, out, err = abuse.run("hi", shell='exec "$@" <d')
    assert (code, out) == (1, b"")
    assert b"<stdin> is a directory" in err
    assert b"Traceback" not in err
    is_a_sentence(abuse.run("--timeline", "d", "hi"), 1, b"cannot write the timeline: d: ")
    is_a_sentence(abuse.run("--local", "--model-file", "d", "hi"), 2, b"d")
    is_a_sentence(abuse.run("batch", "d"), 2, b"d")
    assert abuse.server.requests == []


@pytest.mark.slow
def test_05_nul_and_other_bytes_that_are_no_text(abuse: Abuse) -> None:
    """In a pipe they are a prompt; no argument can have a NUL, but bytes of another encoding."""
    abuse.is_answered(shell='printf "a\\000b\\377" | "$@"')
    assert abuse.server.requests[0].json()["input"] == "a\0b\ufffd"
    abuse.is_answered(shell='exec "$@" "$(printf "caf\\351")"')
    assert abuse.server.requests[1].json()["input"] == "caf\ufffd"


@pytest.mark.slow
def test_06_huge_arguments(abuse: Abuse) -> None:
    """120 kB in one argument, and 20,000 words."""
    abuse.is_answered("x" * 120_000)
    abuse.is_answered(*["word"] * 20_000)
    sent = [request.json()["input"] for request in abuse.server.requests]
    assert [len(text) for text in sent] == [120_000, 99_999]
    is_a_sentence(abuse.run("--header", "A: " + "x\n" * 50_000, "hi"), 2, b"header")


# ---- what is written -----------------------------------------------------------------------------


def test_07_a_closed_stdout(abuse: Abuse) -> None:
    """A call whose answer nobody gets is not made; without a stderr there is only the code."""
    is_a_sentence(abuse.run("hi", shell='exec "$@" >&-'), 1, b"standard output is closed")
    assert abuse.run("hi", shell='exec "$@" <&- >&- 2>&-') == (1, b"", b"")
    assert abuse.server.requests == []


@pytest.mark.slow
def test_08_a_pipe_that_closes(abuse: Abuse) -> None:
    """The reader has seen enough: no word, 141 as of every program, and the call is ended. Also
    where SIGPIPE was ignored or blocked by the caller."""

    def endless(recorded: Recorded) -> Reply:
        return Reply([*Answer("brave " * 20_000).blocks()[:-8], Silence()])

    abuse.server.script(endless, endless)
    line = '{ "$@"; echo "code $?" >&2; } | head -c 5 >/dev/null'
    for number, before in enumerate(("", "trap '' PIPE; ")):
        done = subprocess.run(
            ["sh", "-c", before + line, "sh", *command("hi")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=abuse.environment(),
            timeout=BOUND,
            check=False,
        )
        assert done.stderr == b"code 141\n"
        abuse.server.wait_closed(number)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_09_a_full_disk(abuse: Abuse) -> None:
    """For the answer, for every command, and for a timeline, which costs no answer."""
    for arguments in (["hi"], ["--help"], ["completion", "bash"], ["dashboard"], ["ask", "hi"]):
        abuse.server.script(ANSWER)
        done = abuse.run(*arguments, shell='exec "$@" >/dev/full')
        is_a_sentence(done, 1, b"cannot write the output: No space left on device")


UTF_8 = "naïve \N{GRINNING FACE}"
ENCODINGS: dict[str, tuple[dict[str, str], bytes]] = {
    "cp1252": ({"PYTHONIOENCODING": "cp1252"}, b"na\xefve \\U0001f600\n"),
    "C": ({"PYTHONIOENCODING": "", "LC_ALL": "C"}, UTF_8.encode() + b"\n"),
    "ascii": (
        {"PYTHONIOENCODING": "", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        b"na\\xefve \\U0001f600\n",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODINGS)
def test_10_an_encoding_that_lacks_the_answer(abuse: Abuse, name: str) -> None:
    """cp1252, LC_ALL=C, ASCII: what is lacking is an escape, in the answer and in the error."""
    environment, shown = ENCODINGS[name]
    abuse.server.script(Answer(UTF_8))
    assert abuse.run("hi", **environment) == (0, shown, b"")
    abuse.server.script(Reply.error(400, message=UTF_8))
    is_a_sentence(abuse.run("hi", **environment), 3)


@pytest.mark.slow
def test_11_escape_sequences_in_the_answer(abuse: Abuse) -> None:
    """A terminal gets none of the model's, as Markdown and as text; a pipe gets every one."""
    for arguments in (["hi"], ["--plain", "hi"], ["--json", "hi"]):
        abuse.server.script(Answer(f"{ODD} `{ODD}`\n\n```\n{ODD}\n```\n"))
        code, shown = abuse.at_a_terminal(*arguments)
        assert code == 0
        assert "red" in shown
        for harm in ("\x1b]", "\x1b[2J", "\x1b[31mred", "\x07", "\x9b", "\u202e"):
            assert harm not in shown, (arguments, harm)
    abuse.server.script(Answer(ODD))
    assert abuse.run("hi") == (0, ODD.encode() + b"\n", b"")


def test_12_escape_sequences_in_the_error(abuse: Abuse) -> None:
    """What a service says reaches no terminal as a command."""
    abuse.server.script(Reply.error(400, message=f"no {ODD}\nllmstream: all is well"))
    code, shown = abuse.at_a_terminal("hi")
    assert code == 3
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert shown.count("\n") == 1


@pytest.mark.slow
def test_13_a_terminal_that_cannot_do_much(abuse: Abuse) -> None:
    """TERM=dumb, no TERM, NO_COLOR, no columns: the words are there."""
    for environment in ({"TERM": "dumb"}, {"TERM": ""}, {"NO_COLOR": "1"}, {"COLUMNS": "x"}):
        abuse.server.script(ANSWER)
        code, shown = abuse.at_a_terminal("hi", **environment)
        assert code == 0
        assert "Hello brave new world" in shown


# ---- signals -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_14_a_signal(abuse: Abuse, number: signal.Signals) -> None:
    """128 and its number, what arrived, the connection free, and no word."""
    abuse.server.script(Reply([*TWO_WORDS, Silence()]))
    with abuse.running("hi") as process:
        assert process.stdout is not None
        assert process.stdout.read(len("Hello brave")) == b"Hello brave"
        process.send_signal(number)
        out, err = process.communicate(timeout=BOUND)
    assert (process.returncode, out, err) == (128 + number, b"\n", b"")
    abuse.server.wait_closed(0)


@pytest.mark.slow
def test_15_the_terminal_is_closed(abuse: Abuse) -> None:
    """SIGHUP, and nothing can be written any more: the call is ended all the same. With `nohup` it
    goes on."""
    abuse.server.script(Reply([*TWO_WORDS, Silence()]))
    import pty

    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, command("--plain", "hi"), abuse.environment())
    shown = b""
    while b"brave" not in shown:
        shown += os.read(terminal, 65536)
    os.close(terminal)
    ended: list[int] = []

    def is_over() -> bool:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            ended.append(os.waitstatus_to_exitcode(status))
        return bool(done)

    eventually(is_over, "the command ends", BOUND)
    assert ended == [129]
    abuse.server.wait_closed(0)

    abuse.server.script(Reply([*TWO_WORDS, Silence()]))
    with abuse.running("hi", shell="trap '' HUP; exec \"$@\"") as process:
        assert process.stdout is not None
        process.stdout.read(len("Hello brave"))
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=BOUND)
    assert process.returncode == 143


# ---- surroundings --------------------------------------------------------------------------------

SURROUNDINGS: dict[str, tuple[str, dict[str, str]]] = {
    "no HOME": ('unset HOME; exec "$@"', {}),
    "a HOME that is nowhere": ('exec "$@"', {"HOME": "/nonexistent/home"}),
    "a TMPDIR that is nowhere": ('exec "$@"', {"TMPDIR": "/nonexistent/tmp"}),
    "nothing but PATH": (
        'exec env -i LLMSTREAM_BASE_URL="$LLMSTREAM_BASE_URL" PATH="$PATH" "$@"',
        {},
    ),
    "a directory that is gone": ('mkdir gone; cd gone; rmdir ../gone; exec "$@"', {}),
    "warnings that are errors": ('exec "$@"', {"PYTHONWARNINGS": "error"}),
    "few descriptors": ('ulimit -n 16; exec "$@"', {}),
    "no core, no files": ('ulimit -c 0; ulimit -f 0; exec "$@"', {}),
    "read-only": ('umask 777; exec "$@"', {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_16_surroundings_that_lack_something(abuse: Abuse, name: str) -> None:
    """The answer, and no word on stderr: the command needs no home and no place for files."""
    shell, environment = SURROUNDINGS[name]
    abuse.is_answered("hi", shell=shell, **environment)


SETTINGS: dict[str, dict[str, str]] = {
    "an address that is none": {"LLMSTREAM_BASE_URL": "localhost:8080"},
    "an API that is none": {"LLMSTREAM_API": "smoke"},
    "a key over two lines": {"LLMSTREAM_API_KEY": "sk-secret\nX: y"},
    "certificates that are not there": {"SSL_CERT_FILE": "/nonexistent.pem"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_17_settings_that_cannot_work(abuse: Abuse, name: str) -> None:
    """A sentence that names the variable and says nothing of the key; or the answer, where the
    setting does not count."""
    abuse.server.script(ANSWER)
    done = abuse.run("hi", **SETTINGS[name])
    assert b"sk-secret" not in done[2]
    if done[0] == 0:
        assert done == (*ANSWERED, b"")
    else:
        is_a_sentence(done, 2, next(iter(SETTINGS[name])).encode())
