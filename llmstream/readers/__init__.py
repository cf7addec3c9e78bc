"""Readers of a stream: several at once, at an even pace, with handlers, or without an exception."""

from __future__ import annotations

from .collect import collect
from .outcome import Outcome

__all__ = ["Outcome", "collect"]
