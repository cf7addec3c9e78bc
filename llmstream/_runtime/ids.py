"""Random ids, and numbers that are unique in this process."""

from __future__ import annotations

import itertools
import random

from .fork import in_child

__all__ = ["call_numbers", "random_id"]

call_numbers = itertools.count(1)


# Of its own, since an application may seed the common one; no system call, since ids are no secret
# and every system call is a chance for a hundred other threads.
_random = random.Random()
in_child(_random.seed)


def random_id(bits: int) -> str:
    """In hex digits. Thread-safe; not the same in a forked child."""
    return f"{_random.getrandbits(bits):0{bits // 4}x}"
