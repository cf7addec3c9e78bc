"""The commands of `llmstream`: what `--help` lists, and those that call no service."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llmstream
from llmstream import cli
from llmstream.cli import COMMANDS, EXIT_CODES

DASHBOARD = Path(llmstream.__file__).parent / "telemetry" / "dashboards" / "llmstream.json"


def help_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LLMSTREAM", "OPENAI"))}
    return subprocess.run(
        [sys.executable, "-m", "llmstream", *arguments],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env=kept,
        timeout=20,
        check=False,
    )


def test_there_are_these_commands() -> None:
    """The table is what the tests below look at."""
    assert list(COMMANDS) == [
        "ask",
        "batch",
        "bench",
        "chat",
        "check",
        "completion",
        "dashboard",
        "keys",
        "profiles",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """With its summary, on one line."""
    lines = help_of(capsys).splitlines()
    summary = COMMANDS[name].summary
    assert [line.split() for line in lines].count([name, *summary.split()]) == 1
    assert all(len(line) < 80 for line in lines if summary in line)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_of_its_own(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """It names the command, and describes it."""
    text = help_of(capsys, name)
    assert text.startswith(f"usage: llmstream {name} ")
    assert len(text.split("\n\n")[1]) > len(COMMANDS[name].summary)


@pytest.mark.parametrize(("error", "code"), EXIT_CODES.items())
def test_every_exit_code_is_in_the_help(
    capsys: pytest.CaptureFixture[str], error: str, code: int
) -> None:
    """Each error's name on a line with its code, and what it means."""
    found = re.findall(rf"(?m)^ +{code} +(\w+): (\S.*)$", help_of(capsys))
    assert [name for name, _ in found] == [error]


@pytest.mark.parametrize("code", [0, 1, 129, 130, 141, 143])
def test_the_exit_codes_of_no_error_are_in_the_help(
    capsys: pytest.CaptureFixture[str], code: int
) -> None:
    """Success, output that cannot be written, and signals."""
    assert len(re.findall(rf"(?m)^ +{code} +\S", help_of(capsys))) == 1


@pytest.mark.slow
def test_the_dashboard_is_printed() -> None:
    """Valid JSON, and exactly the file that the package ships."""
    done = run("dashboard")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["panels"]
    assert done.stdout == DASHBOARD.read_text("utf-8")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE")
def test_a_dashboard_that_nobody_reads_is_not_a_traceback() -> None:
    """A closed pipe is an exit code here too."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "llmstream", "dashboard"],
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=20,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-such-option", "hi"],
        ["--max-tokens", "many", "hi"],
        ["dashboard", "extra"],
        ["keys"],
        ["keys", "set"],
        ["check", "--api", "smoke"],
    ],
)
def test_a_mistake_in_the_arguments_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """On stderr, with exit code 2, for every command."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.startswith("llmstream: ")
    assert err.count("\n") == 1


def test_the_entry_point_is_main() -> None:
    """Of the installed distribution, and of `python -m llmstream`."""
    scripts = importlib.metadata.entry_points(group="console_scripts", name="llmstream")
    assert [script.value for script in scripts] == ["llmstream.cli:main"]
    assert run("--version").stdout == f"llmstream {llmstream.__version__}\n"
