"""Waits until a file descriptor can be read: the only file that imports `selectors`."""

from __future__ import annotations

import selectors

__all__ = ["is_readable"]


def is_readable(descriptor: int, seconds: float) -> bool:
    """Wait at most `seconds` until `descriptor` has bytes or is at its end; returns whether.

    Takes no byte. Raises OSError or ValueError where the platform cannot wait for it: Windows waits
    for sockets only."""
    with selectors.SelectSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(max(0.0, seconds)))
