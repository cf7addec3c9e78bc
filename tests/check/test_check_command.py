"""The report, and the command `llmstream check`."""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checking import BOUND, ENVIRONMENT, FAST, ONE_REQUEST, command

import llmstream.check
from llmstream import RetryPolicy
from llmstream.check import CHECKS, CheckSettings, report, run, runner

README = Path(llmstream.check.__file__).with_name("README.md")

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_the_exit_code_is_that_of_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 if no check failed, 1 if one did; a line for each, and a summary."""
    monkeypatch.setattr(runner, "CHECKS", {name: CHECKS[name] for name in ONE_REQUEST})
    out = io.StringIO()
    assert report(CheckSettings(), out) == 0
    assert out.getvalue().splitlines()[-1].startswith("4 checks: 4 ok in ")
    monkeypatch.setattr(RetryPolicy, "should_retry", lambda self, error: True)
    out = io.StringIO()
    assert report(CheckSettings(retry=FAST), out) == 1
    assert out.getvalue().count("\nFAIL  ") == 4


@pytest.mark.slow
def test_who_leaves_early_leaves_nothing_behind() -> None:
    """A caller of `run` may stop: running checks end by themselves, the rest is not begun."""
    found = run(CheckSettings())
    next(found)
    found.close()  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no POSIX signals")
def test_ctrl_c_ends_it_at_once() -> None:
    """SIGINT: exit code 130, and nothing on stderr."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "llmstream", "check"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=ENVIRONMENT,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=BOUND)
    assert (process.returncode, err) == (130, "")


@pytest.mark.slow
def test_it_is_imported_only_when_it_is_used() -> None:
    """Neither the package nor the plain command imports the checks or the fault server."""
    code = (
        "import sys, llmstream.cli\n"
        "print([m for m in ('llmstream.check', 'llmstream.testing') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=BOUND, check=True
    )
    assert done.stdout == "[]\n"


# ---- the README --------------------------------------------------------------------------------


@pytest.mark.slow  # the default suite runs its block with the same client (test_readmes.py)
def test_the_readme_passes(tmp_path: Path) -> None:
    """Its first command, with the client that it shows."""
    text = README.read_text("utf-8")
    client = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    (tmp_path / "myapp").mkdir()
    (tmp_path / "myapp" / "settings.py").write_text(client)
    first = re.findall(r"```sh\nllmstream check (.*)", text)[0]
    done = command(*shlex.split(first), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_the_readme_names_every_check() -> None:
    """In the table of what is played."""
    text = README.read_text("utf-8")
    named = [name for row in re.findall(r"(?m)^\| ([^|]+) \|", text) for name in row.split(", ")]
    assert {*CHECKS} <= {*named}
