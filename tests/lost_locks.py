"""For a process that ends: of every lock that was made before its end, a daemon thread is assumed
to have ended with it. Whoever waits for such a lock then is shown, and the process fails.

Imported first, and not the program itself: its globals have to be there when the interpreter ends.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from typing import Any


class _Lost:
    def __init__(self, make: Callable[[], Any]) -> None:
        self._lock = make()
        self._early = not sys.is_finalizing()

    def _is_lost(self) -> bool:
        return self._early and sys.is_finalizing()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._is_lost() and blocking and timeout < 0:
            faulthandler.dump_traceback(1, all_threads=False)
            os._exit(3)
        return not self._is_lost() and self._lock.acquire(blocking, timeout)

    def locked(self) -> bool:
        return self._is_lost() or self._lock.locked()

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)


def _lost(make: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: _Lost(make)


for kind in ("Lock", "RLock"):
    setattr(threading, kind, _lost(getattr(threading, kind)))
