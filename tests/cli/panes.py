"""A real terminal: one pane of a tmux server of its own, without anybody's configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

TMUX = shutil.which("tmux")
BOUND = 60.0  # seconds for one command of tmux, on a busy machine
_HISTORY = 50_000


def require_tmux() -> None:
    """Skip where tmux is missing; under CI it has to be there."""
    if TMUX is None:
        if os.environ.get("CI"):
            pytest.fail("tmux is missing: .ci/run installs it")
        pytest.skip("needs tmux (Debian: apt-get install tmux)")


class Pane:
    """A pane of `width` x `height` in which `command` runs. `with Pane(...)` ends it."""

    def __init__(
        self,
        folder: Path,
        command: Sequence[str],
        width: int = 80,
        height: int = 24,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._socket = str(folder / "tmux")
        config = folder / "tmux.conf"
        config.write_text(
            f"set -g history-limit {_HISTORY}\nset -g status off\nset -g default-terminal "
            "tmux-256color\nset -g remain-on-exit on\n",
            "utf-8",
        )
        given = [f"{name}={value}" for name, value in (environment or {}).items()]
        size = [f"-x{width}", f"-y{height}"]
        self._tmux("-f", str(config), "new-session", "-d", *size, "--", "env", *given, *command)

    def _tmux(self, *words: str) -> str:
        assert TMUX is not None
        environment = {k: v for k, v in os.environ.items() if k not in ("TMUX", "TMUX_PANE")}
        environment.update(LC_ALL="C.UTF-8", TERM="xterm-256color", SHELL="/bin/sh")
        run = subprocess.run(
            [TMUX, "-u", "-S", self._socket, *words],
            capture_output=True,
            env=environment,
            timeout=BOUND,
            check=False,
        )
        assert run.returncode == 0, run.stderr.decode("utf-8", "replace")
        return run.stdout.decode("utf-8", "replace")

    def __enter__(self) -> Pane:
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")

    def type(self, *keys: str) -> None:
        """Press keys, by tmux's names of them: C-c, Enter."""
        self._tmux("send-keys", *keys)

    def write(self, text: str) -> None:
        """Type a text, letter by letter."""
        self._tmux("send-keys", "-l", "--", text)

    def paste(self, text: str) -> None:
        """Paste a text, within brackets if the program has asked the terminal for them."""
        self._tmux("set-buffer", "--", text)
        self._tmux("paste-buffer", "-p", "-d")

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", f"-x{width}", f"-y{height}")

    def ask(self, form: str) -> str:
        """A value of the pane by tmux's name of it, like `pane_dead` or `cursor_flag`."""
        return self._tmux("display-message", "-p", f"#{{{form}}}").rstrip("\n")

    @property
    def rows(self) -> list[str]:
        """The scrollback and the screen, without the spaces at the ends of rows, and without the
        empty rows at the end. A row that the terminal has broken is one row."""
        shown = self._tmux("capture-pane", "-p", "-J", "-S", "-", "-E", "-")
        rows = [row.rstrip() for row in shown.split("\n")]
        while rows and (not rows[-1] or rows[-1].startswith("Pane is dead")):
            rows.pop()
        return rows

    @property
    def colored(self) -> str:
        """The screen with its styles as escape sequences."""
        return self._tmux("capture-pane", "-p", "-e", "-J")
