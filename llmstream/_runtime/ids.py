"""Random ids, and numbers that are unique in this process. Relies on the fork hook: a forked child
has other ids than its parent."""

from __future__ import annotations

import itertools
import random

from .fork import in_child

__all__ = ["call_numbers", "random_id"]

call_numbers = itertools.count(1)


# A generator of its own, because an application may seed the shared one. It makes no system call:
# ids are not secret, and each system call lets a hundred other threads run first.
_random = random.Random()
in_child(_random.seed)


def random_id(bits: int) -> str:
    """A random id of `bits` bits, in hex digits. Thread-safe; a forked child has other ids."""
    return f"{_random.getrandbits(bits):0{bits // 4}x}"
