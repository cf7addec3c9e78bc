"""The completion of the command in bash, zsh and fish: the real shells, and a real TAB."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_cli import BOUND, run

from llmstream import cli

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has none of these shells")

_ESCAPES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")  # of a shell that paints its line
SHELLS = ("bash", "zsh", "fish")


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        reason = f"needs {name}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("completion")
    made = {}
    for name in SHELLS:
        done = run("completion", name)
        assert (done.returncode, done.stderr) == (0, "")
        made[name] = folder / f"llmstream.{name}"
        made[name].write_text(done.stdout, "utf-8")
    return made


def in_bash(script: Path, words: list[str], folder: Path) -> list[str]:
    listed = " ".join(f"'{word}'" for word in words)
    code = (
        f'source "{script}"; COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _llmstream; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return lines([shell("bash"), "--norc", "-c", code], folder)


def in_fish(script: Path, words: list[str], folder: Path) -> list[str]:
    code = f"source {script}; complete -C '{' '.join(words)}'"
    found = lines([shell("fish"), "--no-config", "-c", code], folder)
    return [line.split("\t")[0] for line in found]


def lines(command: list[str], folder: Path) -> list[str]:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "TERM": "dumb"},
        encoding="utf-8",
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line]


ASKED: dict[str, Callable[[Path, list[str], Path], list[str]]] = {"bash": in_bash, "fish": in_fish}

# the words of the line, the last one unfinished -> all that is offered
OFFERED: list[tuple[list[str], set[str]]] = [
    (["b"], {"batch", "bench"}),
    (["--te"], {"--temperature"}),
    (["why", "--te"], {"--temperature"}),
    (["ask", "--thi"], {"--think-tags", "--thinking"}),
    (["--api", ""], {"responses", "messages", "chat", "gemini"}),
    (["ask", "why", "--api", "me"], {"messages"}),
    (["keys", ""], {"list", "set", "remove"}),
    (["keys", "set", "gr"], {"groq"}),
    (["--profile", "open"], {"openai", "openrouter"}),
    (["completion", ""], set(SHELLS)),
    (["batch", "--retry-e"], {"--retry-errors"}),
    (["dashboard", "--te"], set()),
    (["--model-file", "a m"], {"a model.gguf"}),
    (["--temperature", ""], set()),
    (["batch", "promp"], {"prompts.jsonl"}),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a model.gguf", "prompts.jsonl"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", ASKED)
def test_what_a_shell_offers(scripts: dict[str, Path], folder: Path, name: str) -> None:
    """Commands, options of the command that is meant, their values, and files where one belongs."""
    for words, offered in OFFERED:
        if name == "fish":
            words = [word.replace(" ", "\\ ") for word in words]
        found = ASKED[name](scripts[name], ["llmstream", *words], folder)
        assert {text.replace("\\ ", " ") for text in found} == offered, words


@pytest.mark.slow
def test_a_value_after_an_equals_sign(scripts: dict[str, Path], folder: Path) -> None:
    """Bash hands over the sign as a word of its own, or, by COMP_WORDBREAKS, within the word."""
    for words, offered in (
        (["--api", "=", "re"], {"responses"}),
        (["--api", "="], {"responses", "messages", "chat", "gemini"}),
        (["why", "--api", "=", "m"], {"messages"}),
        (["--api=re"], {"--api=responses"}),
        (["--model-file=a m"], {"--model-file=a model.gguf"}),
        (["--temperature=0"], set()),
    ):
        assert set(in_bash(scripts["bash"], ["llmstream", *words], folder)) == offered, words
    assert in_fish(scripts["fish"], ["llmstream", "--api=re"], folder) == ["--api=responses"]


@pytest.mark.slow
def test_every_option_and_command_is_offered(scripts: dict[str, Path], folder: Path) -> None:
    """The script is made from the parsers: nothing is missing."""
    offered = set(in_bash(scripts["bash"], ["llmstream", "-"], folder))
    text = run("--help").stdout
    assert offered == set(re.findall(r"(?<![\w-])(--?[a-z][\w-]*)", text.split("\n\nStandard")[0]))
    assert set(in_bash(scripts["bash"], ["llmstream", ""], folder)) == set(cli.COMMANDS)


@contextlib.contextmanager
def interactive(command: list[str], folder: Path) -> Iterator[int]:
    """A shell at a terminal: the terminal's own side."""
    import pty

    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        kept = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "xterm", "PS1": "> "}
        os.execve(command[0], command, kept)
    try:
        yield terminal
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)


def type_until(terminal: int, typed: str, pattern: str) -> str:
    """Type, and read until the screen has the pattern."""
    os.write(terminal, typed.encode())
    shown = ""
    end = time.monotonic() + BOUND
    while not re.search(pattern, _ESCAPES.sub("", shown)):
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"{pattern!r} is not in {shown!r}"
        shown += os.read(terminal, 65536).decode("utf-8", "replace")
    return shown


STARTS = {
    "bash": ["--norc", "--noprofile", "-i"],
    "zsh": ["-f", "-i"],
}
BEFORE = {
    "bash": "",
    "zsh": "autoload -Uz compinit; compinit -u -D; ",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STARTS)
def test_a_tab(scripts: dict[str, Path], folder: Path, name: str) -> None:
    """Typed at a terminal: an option, a value, a command, the name of a file with a space."""
    with interactive([shell(name), *STARTS[name]], folder) as terminal:
        # Quoted, so that the line that is echoed does not have the word.
        type_until(terminal, f"{BEFORE[name]}. {scripts[name]}; echo rea''dy\n", "ready")
        for typed, completed in (
            ("llmstream why --temp\t", "--temperature "),
            ("llmstream --api resp\t", "responses "),
            ("llmstream --api=mess\t", "--api=messages "),
            ("llmstream dashb\t", "dashboard "),
            ("llmstream --timel\t", "--timeline "),
            ("llmstream batch promp\t", "prompts.jsonl"),
            ("llmstream keys rem\t", "remove "),
            ("llmstream --model-file a\t", r"a\\ model.gguf"),
        ):
            type_until(terminal, typed, completed)
            type_until(terminal, "\x15echo ne''xt\n", "next")  # Ctrl-U empties the line


def test_a_shell_that_is_not_known_is_a_mistake() -> None:
    """The choices are in the sentence."""
    done = run("completion", "csh")
    assert done.returncode == 2
    assert "'fish'" in done.stderr or "fish" in done.stderr
    assert done.stderr.count("\n") == 1
