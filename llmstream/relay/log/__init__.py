"""Logs of answers: reload and go on.

A producer writes an answer into a log, whether anybody listens or not; browsers follow it from
where they were. The names are those of `llmstream.relay`; here is also what a log of another kind
has to be (`Log`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._lazy import lazy
from .base import About, Claim, Cursor, End, Entry, Log, LogError, LogReader, LogWriter

if TYPE_CHECKING:
    from .following import Followed, follow
    from .memory import MemoryLog
    from .publishing import Publication, publish, stop
    from .redis import RedisLog

__all__ = [
    "About",
    "Claim",
    "Cursor",
    "End",
    "Entry",
    "Followed",
    "Log",
    "LogError",
    "LogReader",
    "LogWriter",
    "MemoryLog",
    "Publication",
    "RedisLog",
    "follow",
    "publish",
    "stop",
]

# A public name -> the module that defines it.
_HOMES = {
    "Followed": ".following",
    "MemoryLog": ".memory",
    "Publication": ".publishing",
    "RedisLog": ".redis",
    "follow": ".following",
    "publish": ".publishing",
    "stop": ".publishing",
}

__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
