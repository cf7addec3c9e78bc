"""Where the command writes to: closed, full or foreign descriptors, encodings, terminals. Never a
traceback, and what can be written is."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import output_of
from test_cli import BOUND, clean_environment

from llmstream import cli
from llmstream.cli import output
from llmstream.cli.command import Command
from llmstream.testing import Answer, LLMServer, Reply

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX descriptors")
ODD = "\x1b[31mred\x1b]52;c;aGk=\x07\x9b2J\x7f\r\x08\u202edlrow\u2066\ttab"
SHOWN = (
    r"\x1b[31mred\x1b]52;c;aGk=\x07\x9b2J\x7f\x0d\x08\u202edlrow\u2066" + "\ttab"
)  # what a terminal is given


def shell(
    server: LLMServer, *arguments: str, redirect: str = "</dev/null", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """The command in a shell that appends `redirect`."""
    line = [sys.executable, "-m", "llmstream", *arguments]
    environment = {"LLMSTREAM_BASE_URL": server.base_url, **environment}
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", *line],
        capture_output=True,
        env=clean_environment(**environment),
        timeout=BOUND,
        check=False,
    )


def chat(*pieces: bytes) -> Reply:
    """A chat answer of chunks that are JSON, or nearly."""
    blocks = [b'data: {"id":"c","choices":[{"index":0,' + piece + b"}]}\n\n" for piece in pieces]
    end = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    return Reply([*blocks, end, b"data: [DONE]\n\n"])


CHAT = {"LLMSTREAM_API": "chat", "LLMSTREAM_MODEL": "m"}

# ---- descriptors -------------------------------------------------------------------------------


@pytest.mark.slow
@posix
@pytest.mark.parametrize("redirect", [">&-", "<&- >&-", "</dev/null >&-", "1</dev/null"])
def test_an_output_that_cannot_be_written_is_one_sentence(
    llm_server: LLMServer, redirect: str
) -> None:
    """Closed, or open for reading only: exit code 1."""
    done = shell(llm_server, "hi", redirect=redirect)
    assert done.returncode == 1
    assert done.stderr.startswith(b"llmstream: cannot write the output: ")
    assert done.stderr.count(b"\n") == 1


@posix
def test_a_closed_output_is_reported_before_the_call(llm_server: LLMServer) -> None:
    """A call whose answer nobody gets is not made."""
    shell(llm_server, "hi", redirect=">&-")
    assert llm_server.requests == []


@pytest.mark.slow
@posix
@pytest.mark.parametrize("redirect", ["2>&-", "<&- 2>&-", "2>/dev/null"])
def test_without_a_stderr_the_answer_is_the_same(llm_server: LLMServer, redirect: str) -> None:
    """Also with --stats, which have nowhere to go."""
    llm_server.script(Answer("ok"))
    done = shell(llm_server, "--stats", "hi", redirect=redirect)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ok\n", b"")


@pytest.mark.slow
@posix
@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full"])
def test_an_error_that_cannot_be_written_is_its_exit_code(
    llm_server: LLMServer, redirect: str
) -> None:
    """The only thing that is left to say."""
    if "full" in redirect and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    llm_server.script(Reply.error(401))
    done = shell(llm_server, "hi", redirect=redirect + " </dev/null")
    assert (done.returncode, done.stdout) == (4, b"")
    assert shell(llm_server, "--nonsense", redirect=redirect).returncode == 2


@pytest.mark.slow
@posix
def test_all_closed(llm_server: LLMServer) -> None:
    """Nothing can be said; the exit code is that of the output."""
    assert shell(llm_server, "hi", redirect="<&- >&- 2>&-").returncode == 1
    assert shell(llm_server, "--help", redirect="<&- >&- 2>&-").returncode == 1


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [["hi"], ["--json", "hi"], ["--help"], ["--version"], ["dashboard"], ["keys", "-h"]],
)
def test_a_full_disk_is_one_sentence_for_every_command(
    llm_server: LLMServer, arguments: list[str]
) -> None:
    """Exit code 1; the interpreter has nothing to add at its end."""
    done = shell(llm_server, *arguments, redirect="</dev/null >/dev/full")
    assert done.returncode == 1
    assert done.stderr == b"llmstream: cannot write the output: No space left on device\n"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_stats_that_cannot_be_written_are_an_exit_code(llm_server: LLMServer) -> None:
    """The answer is there, and what else was asked for is not."""
    llm_server.script(Answer("ok"))
    done = shell(llm_server, "--stats", "hi", redirect="</dev/null 2>/dev/full")
    assert (done.returncode, done.stdout) == (1, b"ok\n")


@pytest.mark.slow
@posix
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["check", "--help"]])
def test_help_that_nobody_reads_is_not_a_traceback(arguments: list[str]) -> None:
    """A closed pipe is its exit code here too."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "llmstream", *arguments],
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=BOUND,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, b"")


@posix
def test_keys_with_a_closed_stdin_is_a_mistake(llm_server: LLMServer) -> None:
    """There is no key to be read."""
    done = shell(llm_server, "keys", "set", "openai", redirect="<&-")
    assert done.returncode == 2
    assert b"standard input is closed" in done.stderr
    assert done.stderr.count(b"\n") == 1


# ---- encodings ---------------------------------------------------------------------------------

TEXT = "naïve “ok” \N{GRINNING FACE}"
UTF_8 = TEXT.encode() + b"\n"

# environment -> what is on stdout
ENCODINGS: dict[str, tuple[dict[str, str], bytes]] = {
    "utf-8": ({"PYTHONIOENCODING": "utf-8"}, UTF_8),
    "LC_ALL=C": ({"PYTHONIOENCODING": "", "LC_ALL": "C"}, UTF_8),
    "a locale that is not there": ({"PYTHONIOENCODING": "", "LC_ALL": "xx_YY.nonsense"}, UTF_8),
    "ascii": (
        {"PYTHONIOENCODING": "", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        rb"na\xefve \u201cok\u201d \U0001f600" + b"\n",
    ),
    "ascii:strict": (
        {"PYTHONIOENCODING": "ascii:strict"},
        rb"na\xefve \u201cok\u201d \U0001f600" + b"\n",
    ),
    "cp1252": (
        {"PYTHONIOENCODING": "cp1252"},
        b"na\xefve \x93ok\x94 " + rb"\U0001f600" + b"\n",
    ),
}


@pytest.mark.slow
@posix
@pytest.mark.parametrize("name", ENCODINGS)
def test_what_an_encoding_lacks_is_an_escape(llm_server: LLMServer, name: str) -> None:
    """UTF-8 is exact; elsewhere nothing is lost, and nothing fails. Arguments are bytes of the
    shell's: they are UTF-8, also where the machine does not know."""
    environment, expected = ENCODINGS[name]
    llm_server.script(Answer(TEXT))
    done = shell(llm_server, "--instructions", "kürzer", TEXT, **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, b"")
    body = llm_server.requests[0].json()
    assert (body["input"], body["instructions"]) == (TEXT, "kürzer")


@pytest.mark.slow
@posix
@pytest.mark.parametrize("name", ENCODINGS)
def test_json_is_json_in_every_encoding(llm_server: LLMServer, name: str) -> None:
    """Its escapes are those of JSON."""
    environment, _ = ENCODINGS[name]
    llm_server.script(Answer(TEXT))
    done = shell(llm_server, "--json", "hi", **environment)
    encoding = "cp1252" if name == "cp1252" else "utf-8"
    events = [json.loads(line) for line in done.stdout.decode(encoding).splitlines()]
    assert "".join(event["delta"] for event in events if "delta" in event) == TEXT
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
@posix
def test_an_argument_that_is_not_text_is_replaced(llm_server: LLMServer) -> None:
    """A byte of another encoding is no traceback."""
    line = [os.fsencode(sys.executable), b"-m", b"llmstream", b"caf\xe9"]
    environment = clean_environment(LLMSTREAM_BASE_URL=llm_server.base_url)
    done = subprocess.run(
        line, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=BOUND
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert llm_server.requests[0].json()["input"] == "caf\ufffd"


# ---- JSON --------------------------------------------------------------------------------------

HI = b'"delta":{"content":"Hi"}'
NOT_QUITE_JSON = {
    "NaN": HI + b',"logprobs":{"x":NaN}',
    "Infinity": HI + b',"logprobs":{"x":[Infinity,-Infinity]}',
    "half a surrogate": HI + b',"note":"\\ud83d"',
    "the other half": HI + b',"note":"\\ude00 x"',
    "a huge number": HI + b',"n":1e999999',
    "deeply nested": HI + b',"n":' + b"[" * 300 + b"]" * 300,
}


@pytest.mark.slow
@posix
@pytest.mark.parametrize("name", NOT_QUITE_JSON)
def test_every_event_is_printed_on_a_line(llm_server: LLMServer, name: str) -> None:
    """What JSON does not allow, and Python's servers write, is printed as it was received."""
    piece = NOT_QUITE_JSON[name]
    llm_server.script(chat(piece))
    done = shell(llm_server, "--json", "hi", **CHAT)
    assert (done.returncode, done.stderr) == (0, b"")
    first, last = done.stdout.splitlines()[:2]
    assert piece in first
    assert b'"finish_reason":"stop"' in last.replace(b" ", b"")


@pytest.mark.slow
@posix
def test_an_event_of_several_lines_is_one_line(llm_server: LLMServer) -> None:
    """Whether it is JSON or not."""
    piece = b'"delta":{"content":"Hi"},\ndata: "x":'
    llm_server.script(chat(piece + b"1", piece + b"NaN"))
    done = shell(llm_server, "--json", "hi", **CHAT)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.count(b'"Hi"') for line in lines[:2]] == [1, 1]


# ---- terminals ---------------------------------------------------------------------------------


def at_a_terminal(
    server: LLMServer, *arguments: str, only: str = "both", **environment: str
) -> tuple[int, bytes]:
    """The exit code, and what a terminal was given as stdout, stderr or both."""
    import pty
    import tty

    terminal, side = pty.openpty()
    tty.setraw(side)  # as written: no "\\r" of the terminal's own
    line = [sys.executable, "-m", "llmstream", *arguments]
    process = subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if only == "stderr" else side,
        stderr=subprocess.DEVNULL if only == "stdout" else side,
        env=clean_environment(LLMSTREAM_BASE_URL=server.base_url, **environment),
    )
    os.close(side)
    shown = b""
    with contextlib.suppress(OSError):  # Linux: EIO at the end
        while piece := os.read(terminal, 65536):
            shown += piece
    os.close(terminal)
    return process.wait(BOUND), shown


@pytest.mark.slow
@posix
def test_a_terminal_is_not_given_control_characters(llm_server: LLMServer) -> None:
    """Newline and tab stay; colours, titles, clipboards and overrides are visible escapes."""
    llm_server.script(Answer(f"{ODD}\nend"))
    assert at_a_terminal(llm_server, "--plain", "hi") == (0, f"{SHOWN}\nend\n".encode())


@pytest.mark.slow
@posix
def test_files_and_pipes_are_given_every_character(llm_server: LLMServer) -> None:
    """As the service sent it."""
    llm_server.script(Answer(ODD))
    assert shell(llm_server, "hi").stdout == f"{ODD}\n".encode()


@pytest.mark.slow
@posix
def test_json_at_a_terminal_is_safe_and_json(llm_server: LLMServer) -> None:
    """JSON allows C1 and DEL as they are; here they are its own escapes."""
    piece = b'"delta":{"content":"' + "\x9b2J\x7f\u202eä".encode() + b'"}'
    llm_server.script(chat(piece))
    code, shown = at_a_terminal(llm_server, "--json", "hi", **CHAT)
    assert code == 0
    assert rb"\u009b2J\u007f\u202e" in shown
    event = json.loads(shown.splitlines()[0])
    assert event["choices"][0]["delta"]["content"] == "\x9b2J\x7f\u202eä"


@pytest.mark.slow
@posix
@pytest.mark.parametrize("only", ["stderr", "both"])
def test_an_error_at_a_terminal_is_safe(llm_server: LLMServer, only: str) -> None:
    """It quotes the service."""
    llm_server.script(Reply.error(400, message=f"no {ODD}\nllmstream: all is well"))
    code, shown = at_a_terminal(llm_server, "hi", only=only)
    assert code == 3
    assert not [byte for byte in shown if byte < 0x20 and byte not in b"\t\n"]
    assert rb"\x1b[31mred" in shown
    assert "\x9b" not in shown.decode()
    assert shown.count(b"\n") == 1


@pytest.mark.slow
@posix
def test_what_the_terminal_lacks_is_an_escape(llm_server: LLMServer) -> None:
    """Both at once: an encoding, and a terminal."""
    llm_server.script(Answer("\x1b\N{GRINNING FACE}"))
    code, shown = at_a_terminal(llm_server, "--plain", "hi", PYTHONIOENCODING="ascii")
    assert (code, shown) == (0, rb"\x1b\U0001f600" + b"\n")


# ---- interrupts, faults ------------------------------------------------------------------------


@pytest.mark.slow
@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_is_not_a_traceback(
    llm_server: LLMServer, tmp_path: Path, number: signal.Signals
) -> None:
    """From the first line of the command to the interpreter's end. (Before that, while Python
    imports the package, only Ctrl-C could be told from others.)"""
    llm_server.default = lambda recorded: Answer("ok")
    code = (
        "import sys, os, signal, threading, time\n"
        "from llmstream.cli import main, program\n"
        "wait, number = float(sys.argv.pop(1)), int(sys.argv.pop(1))\n"
        "begun, over = threading.Event(), threading.Event()\n"
        "def send():\n"
        "    begun.wait()\n"
        "    if not over.wait(wait):\n"
        "        os.kill(os.getpid(), number)\n"
        "threading.Thread(target=send, daemon=True).start()\n"
        "run = program._run\n"
        "def begin(arguments):\n"
        "    begun.set()\n"  # not before: what comes between two lines here is not the command's
        "    return run(arguments)\n"
        "program._run = begin\n"
        "try:\n"
        "    sys.exit(main())\n"
        "finally:\n"
        "    over.set()\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    package = str(Path(cli.__file__).parents[2])
    for wait in (0.001, 0.01, 0.02, 0.05, 0.1):
        done = subprocess.run(
            [sys.executable, str(script), str(wait), str(int(number)), "--no-stdin", "hi"],
            capture_output=True,
            env=clean_environment(LLMSTREAM_BASE_URL=llm_server.base_url, PYTHONPATH=package),
            timeout=BOUND,
            check=False,
        )
        assert b"Traceback" not in done.stderr, (wait, done.stderr)
        assert done.returncode in (0, 128 + number, -number), (wait, done.stderr)


@pytest.mark.slow
@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["finalizer", "weak reference", "hook", "late"])
def test_a_signal_that_a_finalizer_swallows_ends_the_command(
    place: str, number: signal.Signals
) -> None:
    """CPython gives what is raised there to `sys.unraisablehook` and goes on: the signal comes
    again, and nothing is printed. `hook`: a second one comes while the first is looked at. `late`:
    it comes when the command has already ended."""
    code = """
        import os, queue, signal, sys, time, weakref
        from llmstream.cli import main, program, signals

        place, number = sys.argv[1], int(sys.argv[2])

        def kill(*_):
            os.kill(os.getpid(), number)
            for _ in range(1000):
                str(0)

        class Finalized:
            __del__ = kill

        class Plain:
            pass

        def run(command, options):
            if place == "hook":
                later = signals._raise_later
                def twice(number):
                    signals._raise_later = later
                    later(number)
                    kill()
                signals._raise_later = twice
            elif place == "late":
                awaited, spawn = queue.SimpleQueue(), signals.spawn
                def slow(work, name):
                    thread = spawn(lambda: (awaited.get(), work()), name)
                    join = thread.join
                    thread.join = lambda: (awaited.put(None), join())
                    return thread
                signals.spawn = slow
            one = Plain() if place == "weak reference" else Finalized()
            kept = weakref.ref(one, kill) if place == "weak reference" else None
            del one
            for _ in range(0 if place == "late" else int(60 / 0.001)):
                time.sleep(0.001)
            return 99

        program._result = run
        sys.argv[1:] = ["dashboard"]
        before = sys.unraisablehook, signal.getsignal(number)
        code = main(sys.argv[1:])
        assert before == (sys.unraisablehook, signal.getsignal(number))
        print(code)
    """
    assert output_of(code, place, str(int(number))) == f"{128 + number}\n"


@posix
def test_ctrl_c_while_the_package_is_imported(tmp_path: Path) -> None:
    """`python -m llmstream` is quiet then, too."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *more):\n"
        "        if name == 'llmstream.cli.ask':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    package = str(Path(cli.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "llmstream", "hi"],
        capture_output=True,
        env=clean_environment(PYTHONPATH=os.pathsep.join([str(tmp_path), package])),
        timeout=BOUND,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (ValueError("boom"), 1, "unexpected ValueError: boom"),
        (RuntimeError("can't start new thread"), 1, "unexpected RuntimeError"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_fault_of_the_command_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
    says: str,
) -> None:
    """Whatever a command raises."""

    def run(options: Any) -> int:
        raise raised

    monkeypatch.setitem(cli.COMMANDS, "keys", Command("x", lambda parser: None, run))
    assert cli.main(["keys"]) == code
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == (1 if says else 0)


def test_an_output_without_a_descriptor_is_left_as_it_is() -> None:
    """A stand-in in memory that fails has nothing to be pointed elsewhere."""

    class Failing(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    output.flush_quietly(Failing())
    output.flush_quietly(None)


@pytest.mark.parametrize("raised", [None, signal.SIGINT, signal.SIGTERM])
def test_a_program_that_calls_the_command_keeps_its_signals(
    monkeypatch: pytest.MonkeyPatch, raised: signal.Signals | None
) -> None:
    """`main([...])` in a process that goes on, also where a signal has ended the command."""

    def run(options: Any) -> int:
        if raised is not None:
            signal.raise_signal(raised)
        return 0

    monkeypatch.setitem(cli.COMMANDS, "keys", Command("x", lambda parser: None, run))
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    assert cli.main(["keys"]) == (0 if raised is None else 128 + raised)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
