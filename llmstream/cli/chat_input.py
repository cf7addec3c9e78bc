"""Where the lines of a chat come from: a terminal, with its history, or a pipe."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from .._core.terminal import for_terminal
from .._runtime.files import replace_file
from ..chat.ahead import TypeAhead
from ..errors import ConfigurationError
from .service import text_argument

__all__ = ["History", "Lines", "PipedLines", "TerminalLines", "state_directory"]

_MOST_LINES = 2000  # of the history; it is cut to them once it has twice as many
_MOST_BYTES = 8_000_000  # of a file that is read as a history


class Lines(Protocol):
    """Gives the lines that a person, or a script, writes. `ahead` is what is typed during an
    answer, None where the next `read` finds it."""

    ahead: TypeAhead | None

    def read(self, prompt: str, prefill: str = "") -> str:
        """The next line, without its end. Raises EOFError at the end, and KeyboardInterrupt."""

    def remember(self, message: str) -> None:
        """A message is whole, and can be had again."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def state_directory() -> Path:
    """Where a user's programs keep what is no setting and no cache: `llmstream` under
    XDG_STATE_HOME or ~/.local/state, ~/Library/Application Support, or %LOCALAPPDATA%."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/AppData/Local")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Application Support")
    else:
        base = os.environ.get("XDG_STATE_HOME") or ""
        if not os.path.isabs(base):  # the specification: a relative one is ignored
            base = os.path.expanduser("~/.local/state")
    return Path(base, "llmstream")


class History:
    """What was typed, one message a line, in a file that its owner alone may read.

    A line feed of a message is written as `\\n`, a backslash before an n or a backslash as two.
    Several chats may append to it. Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self) -> list[str]:
        """What was typed before, the oldest first."""
        try:
            descriptor = self._open(os.O_RDONLY)
        except FileNotFoundError:
            return []
        with open(descriptor, "rb") as file:
            data = file.read(_MOST_BYTES)
        lines = [_unescaped(line) for line in data.decode("utf-8", "replace").split("\n") if line]
        if len(lines) > 2 * _MOST_LINES:
            lines = lines[-_MOST_LINES:]
            kept = "".join(f"{_escaped(line)}\n" for line in lines)
            replace_file(self.path, kept.encode(), private=True)
        return lines

    def append(self, message: str) -> None:
        """One more, on the disk at once: a terminal that is closed loses nothing."""
        descriptor = self._open(os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, f"{_escaped(message)}\n".encode("utf-8", "replace"))
        finally:
            os.close(descriptor)

    def _open(self, flags: int) -> int:
        """Not another kind of file: one that never ends, or that waits for a writer."""
        flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(self.path, flags, 0o600)
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            raise OSError("it is not a file")
        if stat.S_IMODE(mode) & 0o077 and hasattr(os, "fchmod"):
            with contextlib.suppress(OSError):
                os.fchmod(descriptor, 0o600)
        return descriptor


def _escaped(message: str) -> str:
    if "\n" not in message and "\\n" not in message and "\\\\" not in message:
        return message
    return message.replace("\\", "\\\\").replace("\n", "\\n")


def _unescaped(line: str) -> str:
    if "\\n" not in line and "\\\\" not in line:
        return line
    return "\\".join(part.replace("\\n", "\n") for part in line.split("\\\\"))


class PipedLines:
    """The lines of a pipe or a file; also of a terminal whose output goes elsewhere."""

    def __init__(self, stream: Any) -> None:
        self.ahead: TypeAhead | None = None
        if stream is None:
            raise ConfigurationError("standard input is closed: a chat reads from it")
        self._stream = stream
        with contextlib.suppress(AttributeError, OSError):
            encoding = (stream.encoding or "").lower().replace("_", "-")
            is_ascii = encoding in ("ascii", "us-ascii", "ansi-x3.4-1968")
            stream.reconfigure(encoding="utf-8" if is_ascii else None, errors="replace")

    def read(self, prompt: str, prefill: str = "") -> str:
        if self._stream.isatty() and sys.stderr is not None and sys.stderr.isatty():
            sys.stderr.write(prompt)
            sys.stderr.flush()
        try:
            line = self._stream.readline()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise ConfigurationError(f"standard input cannot be read: {reason}") from None
        if not line:
            raise EOFError
        text: str = line.removesuffix("\n")
        return text.removeprefix("\ufeff")

    def remember(self, message: str) -> None:
        """A script has no history."""

    def close(self) -> None:
        """Nothing was changed."""


def _recalled(message: str) -> str:
    """A message as readline takes it: without NUL, which ends its strings."""
    return message.replace("\0", "").encode("utf-8", "replace").decode()


class TerminalLines:
    """The lines of a terminal, by readline where Python has it: with editing, a history, the
    completion of commands and file names, and several lines that are pasted as one message."""

    def __init__(self, history: History | None, commands: list[str]) -> None:
        self.ahead: TypeAhead | None = TypeAhead()
        self._history = history
        self._commands = commands
        self._matches: list[str] = []
        self._readline: Any = None
        self._completer: Any = None
        with contextlib.suppress(ImportError):
            import readline

            self._readline = readline
            self._completer = readline.get_completer(), readline.get_completer_delims()
            readline.set_auto_history(False)
            readline.clear_history()
            if "libedit" not in (readline.__doc__ or ""):
                readline.parse_and_bind("set enable-bracketed-paste on")
                readline.parse_and_bind("tab: complete")
            else:
                readline.parse_and_bind("bind ^I rl_complete")
            readline.set_completer_delims(" \t\n")
            readline.set_completer(self._complete)
            for message in history.load() if history is not None else ():
                readline.add_history(_recalled(message))

    def read(self, prompt: str, prefill: str = "") -> str:
        begun = ""
        if not prefill and self.ahead is not None:
            if self.ahead.lines:
                return self._next(prompt, self.ahead.lines.popleft())
            begun = _recalled(self.ahead.take_unfinished())
        if begun and self._readline is None:
            prompt += for_terminal(begun)
        with self._prefilled(prefill or begun):
            try:
                line = input(prompt)
                line = begun + line if self._readline is None else line
            except UnicodeDecodeError:
                raise ConfigurationError(
                    "what was typed is no text in the encoding of this terminal: set LC_ALL to a "
                    "locale with UTF-8"
                ) from None
        return text_argument(line) or ""

    def _next(self, prompt: str, line: str | None) -> str:
        """A line that was typed ahead, which is shown now; None is the end."""
        if line is None:
            raise EOFError
        sys.stdout.write(f"{prompt}{for_terminal(line).rstrip(chr(10))}\n")
        sys.stdout.flush()
        return line

    @property
    def buffer(self) -> str:
        """What stands in the line that is being typed."""
        return self._readline.get_line_buffer() if self._readline is not None else ""

    def remember(self, message: str) -> None:
        if self._readline is not None:
            self._readline.add_history(_recalled(message))
        if self._history is not None:
            with contextlib.suppress(OSError):  # the chat goes on without it
                self._history.append(message)

    def close(self) -> None:
        if self._readline is not None:
            completer, delimiters = self._completer
            self._readline.set_completer(completer)
            self._readline.set_completer_delims(delimiters)
            self._readline.clear_history()
            self._readline.set_auto_history(True)
            if "libedit" not in (self._readline.__doc__ or ""):
                self._readline.parse_and_bind("set enable-bracketed-paste off")

    @contextlib.contextmanager
    def _prefilled(self, text: str) -> Iterator[None]:
        if not text or self._readline is None:
            yield
            return
        self._readline.set_startup_hook(lambda: self._readline.insert_text(text))
        try:
            yield
        finally:
            self._readline.set_startup_hook(None)

    def _complete(self, word: str, state: int) -> str | None:
        if state == 0:
            self._matches = list(self._matching(word))
        return self._matches[state] if state < len(self._matches) else None

    def _matching(self, word: str) -> Iterator[str]:
        line = self._readline.get_line_buffer().lstrip()
        if line.startswith("/") and line == word:
            yield from (f"/{name} " for name in self._commands if f"/{name}".startswith(word))
            return
        is_path = line.startswith(("/save ", "/load "))
        if not (word.startswith("@") or is_path):
            return
        mark, path = ("", word) if is_path else ("@", word[1:])
        folder, start = os.path.split(path)
        with contextlib.suppress(OSError, ValueError):
            for entry in sorted(
                os.scandir(os.path.expanduser(folder) or "."), key=lambda e: e.name
            ):
                if entry.name.startswith(start) and (start or not entry.name.startswith(".")):
                    found = os.path.join(folder, entry.name)
                    yield mark + found.replace(" ", "\\ ") + ("/" if entry.is_dir() else " ")
