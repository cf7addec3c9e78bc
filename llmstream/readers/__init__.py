"""Readers of a stream: several at once, at an even pace, with handlers, or without an exception."""

from __future__ import annotations

from .collect import collect
from .fanout import Fan, SubscriberLagged, Subscription, fanout
from .outcome import Outcome
from .pace import Paced, pace

__all__ = [
    "Fan",
    "Outcome",
    "Paced",
    "SubscriberLagged",
    "Subscription",
    "collect",
    "fanout",
    "pace",
]
