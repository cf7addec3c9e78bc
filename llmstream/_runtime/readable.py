"""Waits for file descriptors: the only file that imports `selectors`."""

from __future__ import annotations

import selectors
from collections.abc import Sequence
from typing import Any

__all__ = ["connected_or_failed", "is_readable", "is_writable"]


def is_readable(descriptor: int, seconds: float) -> bool:
    """Wait at most `seconds` until `descriptor` has bytes or is at its end; returns whether.

    Takes no byte. Raises OSError or ValueError where the platform cannot wait for it: Windows waits
    for sockets only."""
    with selectors.SelectSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(max(0.0, seconds)))


def is_writable(descriptor: int, seconds: float) -> bool:
    """Wait at most `seconds` until `descriptor` has room, or nobody reads it; returns whether.
    Raises like `is_readable`."""
    with selectors.SelectSelector() as selector:
        selector.register(descriptor, selectors.EVENT_WRITE)
        return bool(selector.select(max(0.0, seconds)))


def connected_or_failed(sockets: Sequence[Any], bell: Any, seconds: float | None) -> list[Any]:
    """Wait at most `seconds` (None: without a limit) until one of the sockets, which are about to
    connect, is connected or has failed, or `bell` can be read; returns those of the sockets."""
    with selectors.DefaultSelector() as selector:
        selector.register(bell, selectors.EVENT_READ)
        for sock in sockets:
            selector.register(sock, selectors.EVENT_WRITE)
        found = selector.select(seconds)
    return [key.fileobj for key, _ in found if key.fileobj is not bell]
