"""What a caller iterates over: every event of the wire as a typed, read-only value.

`Event` is their base, `UnknownEvent` stands for what this version does not know. The events of
each API have a module of their own.
"""

from __future__ import annotations

from ..result import Chunk
from . import chat, messages, responses
from .base import Continued, Event, Restarted, UnknownEvent
from .chat import *  # noqa: F403
from .messages import *  # noqa: F403
from .responses import *  # noqa: F403

__all__ = ["Chunk", "Continued", "Event", "Restarted", "UnknownEvent"]
__all__ += chat.__all__
__all__ += messages.__all__
__all__ += responses.__all__
