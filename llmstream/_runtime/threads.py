"""Locks and threads for the whole package: the only import of threading, with the watchdog's."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Local", "Lock", "RLock", "Thread", "spawn"]

Lock = threading.Lock
RLock = threading.RLock
Local = threading.local
Thread = threading.Thread


def spawn(work: Callable[[], object], name: str) -> Thread:
    """Do `work` in a daemon thread of its own: an interpreter that exits does not wait for it.
    Raises RuntimeError where no further thread can be had."""
    thread = Thread(target=work, name=f"llmstream-{name}", daemon=True)
    thread.start()
    return thread
