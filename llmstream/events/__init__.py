"""What a caller iterates over: every event of the wire as a typed, read-only value.

`Event` is their base, `UnknownEvent` stands for what this version does not know. The events of
each API have a module of their own.
"""

from __future__ import annotations

from ..result import Chunk
from .base import Event, UnknownEvent
from .responses import *  # noqa: F403
from .responses import __all__ as _responses

__all__ = ["Chunk", "Event", "UnknownEvent"]
__all__ += _responses  # noqa: PLE0605
