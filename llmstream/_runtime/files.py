"""Files that are replaced: whoever reads one, at any moment, reads the old one or the new one."""

from __future__ import annotations

import contextlib
import os
import stat

from .ids import random_id

__all__ = ["check_replaceable", "replace_file"]

# A regular file under these is one that a descriptor stands for: it is written where it is.
_DESCRIPTORS = ("/dev/", "/proc/")


def replace_file(path: str | os.PathLike[str], data: bytes, *, private: bool = False) -> None:
    """Put a file with `data` in the place of the file `path`, whole: a process that is killed, or a
    disk that is full, leaves the old one. Raises OSError.

    The new file is written beside the old one, so the folder has to be writable. It has the old
    one's permissions, else those of any new file; with `private` its owner alone may read it. A
    symbolic link stays, and what it points to is replaced. A device or a pipe is written to. It is
    not flushed to the disk: after a loss of power the file system decides.
    """
    target = _replaceable(path)
    if target is None:
        with open(path, "wb") as file:
            file.write(data)
        return
    part = _part_of(target)
    try:
        descriptor = _create(part, target)
        with open(descriptor, "wb") as file:
            if private and hasattr(os, "fchmod"):
                os.fchmod(descriptor, 0o600)
            file.write(data)
        os.replace(part, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raises the OSError that `replace_file` would raise. Leaves everything as it is."""
    target = _replaceable(path)
    if target is None:
        with open(path, "ab"):
            return
    part = _part_of(target)
    try:
        os.close(_create(part, target))
    finally:
        with contextlib.suppress(OSError):
            os.unlink(part)


def _replaceable(path: str | os.PathLike[str]) -> str | None:
    """The path of the regular file, without symbolic links; None for another kind of file. Raises
    PermissionError for one that must not be written."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return os.path.realpath(path)
    if not stat.S_ISREG(mode) or os.fspath(path).startswith(_DESCRIPTORS):
        return None
    if not os.access(path, os.W_OK):
        with open(path, "ab"):  # the kernel's own error
            pass
    return os.path.realpath(path)


def _part_of(target: str) -> str:
    """The path of a new file in the folder of `target`."""
    return os.path.join(os.path.dirname(target), f".llmstream-{random_id(64)}.tmp")


def _create(part: str, target: str) -> int:
    """Create `part` with the owner and permissions of `target`; returns its descriptor."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        old = os.stat(target)
    except OSError:
        return os.open(part, flags, 0o666)
    descriptor = os.open(part, flags, 0o600)  # nobody else reads it before its permissions are set
    with contextlib.suppress(OSError, AttributeError):  # Windows has neither owners nor modes
        if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
            with contextlib.suppress(PermissionError):  # only root gives files away
                os.fchown(descriptor, old.st_uid, old.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    return descriptor
