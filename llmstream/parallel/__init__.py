"""Many calls at once: `Client.parallel` makes a Batch, and its outcomes come as the calls end."""

from __future__ import annotations

from .batch import Batch

__all__ = ["Batch"]
