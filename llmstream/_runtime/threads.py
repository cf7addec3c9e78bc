"""Locks and threads for the whole package: with the watchdog, the only file that imports
`threading`."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Local", "Lock", "RLock", "Thread", "spawn"]

Lock = threading.Lock
RLock = threading.RLock
Local = threading.local
Thread = threading.Thread


def spawn(work: Callable[[], object], name: str) -> Thread:
    """Do `work` in a daemon thread named `llmstream-{name}`. An interpreter that exits does not
    wait for it. Raises RuntimeError if no further thread can be started."""
    thread = Thread(target=work, name=f"llmstream-{name}", daemon=True)
    thread.start()
    return thread
