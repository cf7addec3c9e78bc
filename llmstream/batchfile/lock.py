"""One writer at a time for a file."""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Callable
from typing import Any

__all__ = ["FileLock", "LockedError"]

_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class LockedError(Exception):
    """Another process has the lock."""


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_fcntl: Any = _module("fcntl")
_msvcrt: Any = None if _fcntl is not None else _module("msvcrt")


class FileLock:
    """The lock of the file `path`, which is open as `descriptor`. The system frees it when the
    process ends, however it ends, so no lock is left behind.

    With `fcntl` the file itself is locked (`flock`): the lock belongs to the open file. On Windows
    a locked file could not be read by others, so a file beside it is locked, which stays. A file
    system without locks (some network shares) has none.

    Raises LockedError at once if another process has the lock, and OSError.
    """

    def __init__(self, path: str, descriptor: int) -> None:
        self._beside: int | None = None
        if _fcntl is not None:
            self._take(lambda: _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB))
        elif _msvcrt is not None:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
            self._beside = os.open(f"{path}.lock", flags, 0o600)
            try:
                self._take(lambda: _msvcrt.locking(self._beside, _msvcrt.LK_NBLCK, 1))
            except BaseException:
                self.release()
                raise

    def move(self, descriptor: int) -> None:
        """Lock the file that is about to take the place of the locked one."""
        if _fcntl is not None:
            self._take(lambda: _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB))

    def release(self) -> None:
        """Idempotent. A lock of the file itself goes with the file's descriptor."""
        beside, self._beside = self._beside, None
        if beside is not None:
            os.close(beside)

    @staticmethod
    def _take(lock: Callable[[], object]) -> None:
        try:
            lock()
        except OSError as error:
            if error.errno in _TAKEN:
                raise LockedError from None
            # ENOLCK, ENOTSUP and the like: the file system has no locks.
