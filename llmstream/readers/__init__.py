"""Readers of a stream: several at once, at an even pace, with handlers, or without an exception.

Names are imported when they are used: a program that only iterates over a stream pays for none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy
from .collect import collect
from .outcome import Outcome

if TYPE_CHECKING:
    from .console import ConsoleHandler
    from .fan import Fan, SubscriberLagged, Subscription, fanout
    from .handlers import handle
    from .paced import Paced, pace
    from .progress import Progress

__all__ = [
    "ConsoleHandler",
    "Fan",
    "Outcome",
    "Paced",
    "Progress",
    "SubscriberLagged",
    "Subscription",
    "collect",
    "fanout",
    "handle",
    "pace",
]

# A public name -> the module that defines it.
_HOMES = {
    "ConsoleHandler": ".console",
    "Fan": ".fan",
    "Paced": ".paced",
    "Progress": ".progress",
    "SubscriberLagged": ".fan",
    "Subscription": ".fan",
    "fanout": ".fan",
    "handle": ".handlers",
    "pace": ".paced",
}

__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
