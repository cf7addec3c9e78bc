"""The files of a chat: what is attached, what is saved, and what an editor is given."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Sequence

from .._runtime.files import replace_file
from ..chat.attachments import MOST_BYTES, File, file_of
from ..chat.conversation import Conversation
from ..chat.saved import MOST_BYTES as MOST_BYTES_SAVED
from ..chat.saved import decode, encode
from ..errors import ConfigurationError

__all__ = ["attach", "edited", "editor", "load", "save"]


def attach(names: Sequence[str]) -> File:
    """The first file that there is of these readings of one name. Raises ConfigurationError."""
    found = next((name for name in names if os.path.lexists(_path(name))), names[0])
    return file_of(found, _read(found, MOST_BYTES))


def load(name: str) -> tuple[Conversation, str]:
    """A saved conversation and its model. Raises ConfigurationError."""
    return decode(_read(name, MOST_BYTES_SAVED), name)


def save(name: str, conversation: Conversation, model: str, *, over: bool) -> None:
    """Write a conversation, whole or not at all, for its owner alone. `over`: in the place of what
    is there. Raises ConfigurationError."""
    path = _path(name)
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigurationError(f"{name} is not a file: choose another name")
    if os.path.lexists(path) and not over:
        raise ConfigurationError(
            f"{name} exists: choose another name, or replace it with /save -f {name}"
        )
    try:
        replace_file(path, encode(conversation, model), private=True)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot write {name}: {_why(error)}") from None


def editor() -> str:
    """The command of VISUAL, else of EDITOR; "" where neither has one."""
    found = (os.environ.get(name, "").strip() for name in ("VISUAL", "EDITOR"))
    return next(filter(None, found), "")


def edited(text: str) -> str:
    """`text` as the `editor` leaves it. Raises ConfigurationError."""
    handle, path = tempfile.mkstemp(prefix="llmstream-", suffix=".md")  # 0600
    try:
        with open(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(text + "\n")
        words = shlex.split(editor())
        code = subprocess.call([*words, path])
        if code:
            raise ConfigurationError(f"the editor {words[0]} has failed: nothing was asked")
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip("\n")
    except (OSError, ValueError, IndexError) as error:
        raise ConfigurationError(
            f"the editor cannot be used ({_why(error)}): set EDITOR, or write /edit TEXT"
        ) from None
    finally:
        if os.path.exists(path):
            os.unlink(path)


def _path(name: str) -> str:
    return os.path.expanduser(name)


def _read(name: str, most: int) -> bytes:
    """A file, and one byte more than `most` at most. Never waits for a pipe or a device."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    try:
        with open(os.open(_path(name), flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigurationError(f"{name} is not a file")
            return file.read(most + 1)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read {name}: {_why(error)}") from None


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
