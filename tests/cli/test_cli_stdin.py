"""What the command reads from standard input, and how long it waits for it."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import eventually
from test_cli import BOUND, asked, clean_environment

from llmstream import ConfigurationError, DeadlineExceeded
from llmstream.cli import stdin
from llmstream.testing import Answer, LLMServer, Reply, Silence

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX descriptors")


@contextmanager
def command(
    server: LLMServer,
    *arguments: str,
    stdin: int | None = None,
    redirect: str = "",
    code: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a running process; `redirect` is what a shell appends to it, and `code` is run
    in the place of the command itself."""
    program = ["-m", "llmstream"] if code is None else ["-c", code]
    line = [sys.executable, *program, "--base-url", server.base_url, *arguments]
    if redirect:
        line = ["sh", "-c", f'exec "$@" {redirect}', "sh", *line]
    process = subprocess.Popen(
        line,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
        start_new_session=os.name != "nt",  # no terminal: whoever runs these tests may have one
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=BOUND)


@pytest.fixture
def silent() -> Iterator[int]:
    """The reading end of a pipe that stays open, and to which nobody writes."""
    read, write = os.pipe()
    yield read
    os.close(read)
    os.close(write)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=BOUND)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.slow
def test_a_silent_stdin_is_not_waited_for(llm_server: LLMServer, silent: int) -> None:
    """With a prompt as an argument: after the bound it is left alone, and stderr says so."""
    llm_server.script(Answer("ok"))
    with command(llm_server, "hi", stdin=silent) as process:
        code, out, err = ended(process)
    assert (code, out) == (0, "ok\n")
    assert asked(llm_server)["input"] == "hi"
    assert "nothing arrived within 2 s" in err
    assert "--no-stdin" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_the_wait_is_at_most_half_of_the_total(llm_server: LLMServer, silent: int) -> None:
    """The other half is the call's."""
    llm_server.script(Answer("ok"))
    code = "import sys; from llmstream.cli import main, stdin; stdin.FIRST_BYTE = 60.0; "
    code += "sys.exit(main())"
    with command(llm_server, "--total", "10", "hi", stdin=silent, code=code) as process:
        status, out, err = ended(process)
    assert (status, out) == (0, "ok\n")
    assert "within 5 s" in err


@pytest.mark.slow
def test_no_stdin_does_not_look(llm_server: LLMServer, silent: int) -> None:
    """No wait and no word about it, also where bytes are there."""
    with command(llm_server, "--no-stdin", "hi", stdin=silent) as process:
        assert ended(process)[::2] == (0, "")
    with command(llm_server, "--no-stdin", "hi", stdin=subprocess.PIPE) as process:
        _, err = process.communicate(b"more", timeout=BOUND)
        assert (process.returncode, err) == (0, b"")
    assert [asked(llm_server, n)["input"] for n in (0, 1)] == ["hi", "hi"]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--no-stdin"], ["--no-stdin", "-"], ["--no-stdin", ""]])
def test_no_stdin_without_a_prompt_is_a_mistake(
    llm_server: LLMServer, silent: int, arguments: list[str]
) -> None:
    """It says that there is no prompt, at once."""
    with command(llm_server, *arguments, stdin=silent) as process:
        code, _, err = ended(process)
    assert code == 2
    assert "no prompt" in err


def waiting_bytes(pipe: int) -> int:
    """How many bytes in a pipe are not read yet."""
    import fcntl
    import termios

    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))
    return int(count)


def write_slowly(process: subprocess.Popen[bytes], *pieces: tuple[float, bytes]) -> None:
    assert process.stdin is not None
    for seconds, piece in pieces:
        time.sleep(seconds)
        process.stdin.write(piece)
        process.stdin.flush()
    process.stdin.close()
    process.stdin = None


@pytest.mark.slow
def test_a_slow_producer_is_read_to_its_end(llm_server: LLMServer) -> None:
    """Once a byte has arrived there is no further bound but the total clock."""
    with command(llm_server, "--total", "60", "explain", stdin=subprocess.PIPE) as process:
        write_slowly(process, (0.0, b"line 1\n"), (stdin.FIRST_BYTE + 1.0, b"line 2\n"))
        code, _, err = ended(process)
    assert (code, err) == (0, "")
    assert asked(llm_server)["input"] == "explain\n\nline 1\nline 2"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--stdin", "explain"], ["-"], []])
def test_where_stdin_is_asked_for_it_is_waited_for(
    llm_server: LLMServer, arguments: list[str]
) -> None:
    """`--stdin`, `-` and no prompt at all: longer than the bound for the first byte."""
    with command(llm_server, *arguments, stdin=subprocess.PIPE) as process:
        write_slowly(process, (stdin.FIRST_BYTE + 1.0, b"late"))
        code, _, err = ended(process)
    assert (code, err) == (0, "")
    assert asked(llm_server)["input"].endswith("late")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["-"], [], ["--stdin", "hi"]])
def test_the_total_clock_runs_while_stdin_is_read(
    llm_server: LLMServer, silent: int, arguments: list[str]
) -> None:
    """A stdin that does not end in time is DeadlineExceeded's exit code; nothing was sent."""
    with command(llm_server, "--total", "0.5", *arguments, stdin=silent) as process:
        code, out, err = ended(process)
    assert (code, out) == (14, "")
    assert err.startswith("llmstream: DeadlineExceeded: standard input did not end within 0.5 s")
    assert llm_server.requests == []


@pytest.mark.slow
def test_the_total_clock_covers_stdin_once_it_has_begun(llm_server: LLMServer) -> None:
    """Also with a prompt, after the first byte."""
    with command(llm_server, "--total", "1.5", "hi", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        process.wait(BOUND)
        assert process.returncode == 14
    assert llm_server.requests == []


@posix
@pytest.mark.slow
def test_the_call_has_what_stdin_has_left_of_the_total(llm_server: LLMServer) -> None:
    """The clock begins with the command, not with the call."""
    llm_server.script(Reply(before=[Silence()]))
    with command(llm_server, "--total", "8", stdin=subprocess.PIPE) as process:
        begun = time.monotonic()
        assert process.stdin is not None
        process.stdin.write(b"h")
        process.stdin.flush()
        pipe = process.stdin.fileno()
        eventually(lambda: not waiting_bytes(pipe), "the command reads its stdin")
        write_slowly(process, (1.0, b"i"))
        code, _, err = ended(process)
    assert code == 14
    assert "of --total 8, which began with the command" in err
    within = float(err.split("within ")[1].split(" s")[0])
    assert within < 7.5
    assert time.monotonic() - begun < BOUND


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["explain"], ["--total", "60", "explain"]])
def test_a_file_is_appended(llm_server: LLMServer, tmp_path: Path, arguments: list[str]) -> None:
    """Whole, with every end of a line as one."""
    file = tmp_path / "data.txt"
    file.write_bytes("\ufeffä 1\r\nline 2\n".encode() + b"x" * 200_000)
    with (
        file.open("rb") as source,
        command(llm_server, *arguments, stdin=source.fileno()) as process,
    ):
        assert ended(process)[::2] == (0, "")
    assert asked(llm_server)["input"] == "explain\n\nä 1\nline 2\n" + "x" * 200_000


def test_bytes_that_are_not_text_are_replaced(llm_server: LLMServer, tmp_path: Path) -> None:
    """A diff with a byte of another encoding is no traceback."""
    file = tmp_path / "data.txt"
    file.write_bytes(b"caf\xe9")
    with file.open("rb") as source, command(llm_server, "hi", stdin=source.fileno()) as process:
        assert ended(process)[0] == 0
    assert asked(llm_server)["input"] == "hi\n\ncaf\ufffd"


@pytest.mark.slow
@posix
@pytest.mark.parametrize("redirect", ["<&-", "</dev/null", "0>/dev/null"])
def test_without_a_stdin_the_argument_is_the_prompt(llm_server: LLMServer, redirect: str) -> None:
    """Closed (daemons), empty, and open for writing only (nohup)."""
    with command(llm_server, "hi", redirect=redirect) as process:
        assert ended(process)[::2] == (0, "")
    assert asked(llm_server)["input"] == "hi"


@pytest.mark.slow
@posix
@pytest.mark.parametrize(
    ("redirect", "says"),
    [("<&-", "standard input is closed"), ("0>/dev/null", "standard input cannot be read")],
)
@pytest.mark.parametrize("arguments", [[], ["-"], ["--stdin", "hi"]])
def test_a_stdin_that_is_needed_and_missing_is_a_mistake(
    llm_server: LLMServer, redirect: str, says: str, arguments: list[str]
) -> None:
    """One line, exit code 2."""
    with command(llm_server, *arguments, redirect=redirect) as process:
        code, out, err = ended(process)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.slow
@posix
def test_what_is_not_read_is_left_to_others(llm_server: LLMServer) -> None:
    """The rest of a script's stdin is the script's: a silent one is not swallowed later."""
    read, write = os.pipe()
    llm_server.script(Reply([*Answer("ok").blocks()[:5], Silence()]))
    with command(llm_server, "hi", stdin=read) as process:
        llm_server.wait_requests(1, timeout=BOUND)
        os.write(write, b"for the next command")
        assert process.poll() is None
    os.set_blocking(read, False)
    assert os.read(read, 100) == b"for the next command"
    os.close(read)
    os.close(write)


@posix
def test_a_pipe_that_does_not_block_is_waited_for(llm_server: LLMServer) -> None:
    """A parent may have made it so; the empty look is not the end."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    with command(llm_server, "-", stdin=read) as process:
        os.close(read)
        time.sleep(1.0)
        os.write(write, b"late")
        os.close(write)
        assert ended(process)[::2] == (0, "")
    assert asked(llm_server)["input"] == "late"


@posix
def test_ctrl_c_while_stdin_is_read(llm_server: LLMServer, silent: int) -> None:
    """130, and not a word."""
    with command(llm_server, "-", "--total", "60", stdin=silent) as process:
        # The signal's handler is there when the reading thread is.
        tasks = Path(f"/proc/{process.pid}/task")
        if not tasks.exists():
            pytest.skip("needs /proc")
        eventually(lambda: len(list(tasks.iterdir())) > 1, "it reads")
        process.send_signal(2)
        assert ended(process) == (130, "", "")


# ---- in this process ---------------------------------------------------------------------------


class Pipe:
    """A standard input that is a pipe."""

    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        self.buffer = open(descriptor, "rb")  # noqa: SIM115 (closed by the test)
        self.fileno = self.buffer.fileno

    def isatty(self) -> bool:
        return False


@pytest.fixture
def silent_stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The standard input of this process is a pipe that stays open, and to which nobody writes."""
    read, write = os.pipe()
    pipe = Pipe(read)
    monkeypatch.setattr("sys.stdin", pipe)
    yield
    os.close(write)
    pipe.buffer.close()


def in_time(total: float | None) -> stdin.Deadline:
    return stdin.Deadline(total, time.monotonic())


@posix
def test_a_pipeline_of_a_terminal_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person sees what it waits for, and can end it: the first byte has no bound of its own."""
    monkeypatch.setattr(stdin, "FIRST_BYTE", 0.05)
    monkeypatch.setattr(stdin, "_is_in_a_pipeline_of_a_terminal", lambda: True)
    read, write = os.pipe()
    pipe = Pipe(read)
    monkeypatch.setattr("sys.stdin", pipe)

    def late() -> None:
        time.sleep(0.5)
        os.write(write, b"late")
        os.close(write)

    thread = threading.Thread(target=late)
    thread.start()
    assert stdin.read_if_any(in_time(None)) == "late"
    thread.join()
    pipe.buffer.close()


def test_where_nobody_can_look_the_bound_holds_all_the_same(
    monkeypatch: pytest.MonkeyPatch, silent_stdin: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on Windows: the thread that reads is left alone."""

    def cannot(descriptor: int, seconds: float) -> bool:
        raise OSError("sockets only")

    monkeypatch.setattr(stdin, "is_readable", cannot)
    monkeypatch.setattr(stdin, "FIRST_BYTE", 0.1)
    assert stdin.read_if_any(in_time(None)) == ""
    assert "standard input: not read" in capsys.readouterr().err


def test_a_deadline_that_has_passed(silent_stdin: None) -> None:
    """Nothing is waited for."""
    with pytest.raises(DeadlineExceeded):
        stdin.read_all(stdin.Deadline(1.0, time.monotonic() - 2))


def test_an_error_after_some_bytes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the data is never taken for all of it."""

    class Failing:
        pieces: Any = iter([b"half"])

        def read(self, size: int) -> bytes:
            for piece in self.pieces:
                return bytes(piece)
            raise OSError(5, "Input/output error")

        def fileno(self) -> int:
            raise io.UnsupportedOperation("fileno")

    class Input:
        encoding = "utf-8"
        buffer = type("Buffer", (), {"raw": Failing()})()

        def isatty(self) -> bool:
            return False

        def fileno(self) -> int:
            raise io.UnsupportedOperation("fileno")

    monkeypatch.setattr("sys.stdin", Input())
    with pytest.raises(ConfigurationError, match="Input/output error"):
        stdin.read_if_any(in_time(None))
