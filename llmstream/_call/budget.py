"""What all calls with the same host and key share: a budget of retries; and, where they ask for the
same model too, the wait after a 429.

Without it many threads that all meet the same failure would send many times as many requests as
before, at the moment when the service can bear them least. Each process has its own budgets.
"""

from __future__ import annotations

import hashlib
import weakref
from collections import deque

from msgspec import Struct

from ..errors import RateLimitError

__all__ = ["Budget", "forget_waits", "shared_budget"]

# As in the AWS SDKs (standard retry mode): a bucket of tokens that only success refills.
CAPACITY = 500
COST = 5  # of a retry; refilled when the retry succeeds
REFILL = 1  # for a success at the first attempt


class _Hold(Struct, frozen=True):
    """A wait that the service asks for: its end, its length in seconds, the error that says so."""

    until: float
    wait: float
    reason: RateLimitError


class Budget:
    """The budget of one host and key. Thread-safe. Nothing here waits; moments are in seconds on
    the caller's monotonic clock."""

    def __init__(self) -> None:
        # Each change is one operation on a built-in type: there is no lock, so an interrupt leaves
        # none held, and a signal handler may make a call at any moment.
        self._left: deque[None] = deque([None] * CAPACITY, maxlen=CAPACITY)  # an item for a token
        # The waits, by model (None: all models) and end. Several may hold one model.
        self._holds: dict[tuple[str | None, float], _Hold] = {}

    @property
    def tokens(self) -> int:
        """The tokens that are left."""
        return len(self._left)

    def spend(self) -> bool:
        """Take the cost of a retry; returns whether enough was left."""
        taken = 0
        try:
            for taken in range(COST):  # noqa: B007 (how many were taken when it was empty)
                self._left.pop()
        except IndexError:
            self._left.extend([None] * taken)
            return False
        return True

    def refill(self, *, retried: bool) -> None:
        """A call has succeeded; `retried`: after a retry."""
        self._left.extend([None] * (COST if retried else REFILL))

    def throttle(self, error: RateLimitError, now: float, model: str | None = None) -> None:
        """The service has asked one caller to wait, with `error`: from now on all callers of
        `model` wait; None: all callers."""
        wait = error.retry_after or 0.0
        until = now + wait
        self._holds[model, until] = _Hold(until, wait, error)
        # Those that are over go, or a client of many models would keep one for each; and so do
        # those that end before another one.
        for name, end in list(self._holds):
            if end <= now or (name == model and end < until):
                self._holds.pop((name, end), None)

    def forget_waits(self) -> None:
        """Nobody waits any more."""
        self._holds.clear()

    def throttled(self, now: float, model: str | None = None) -> tuple[float, float]:
        """The seconds that are left of the wait of `model` (None: of any), and its whole length;
        (0, 0) if there is none."""
        _, hold = self._hold(model)
        left = hold.until - now if hold is not None else 0.0
        return (left, hold.wait) if hold is not None and left > 0 else (0.0, 0.0)

    def _hold(self, model: str | None) -> tuple[bool, _Hold | None]:
        """Whether it holds all models, and the wait that ends last."""
        if not self._holds:
            return False, None
        found = [
            (hold.until, name is None, hold)
            for (name, _), hold in self._holds.copy().items()  # a copy is made in one step
            if name is None or model is None or name == model
        ]
        if not found:
            return False, None
        _, whole, hold = max(found, key=lambda one: one[:2])
        return whole, hold

    def refusal(self, now: float, model: str) -> RateLimitError:
        """The error of a call whose hard deadline is before the end of the wait."""
        left, wait = self.throttled(now, model)
        whole, hold = self._hold(model)
        reason = hold.reason if hold is not None else None
        shared = "host and key" if whole else "host, key and model"
        return RateLimitError(
            f"nothing was sent: the service asked all callers with this {shared} to wait "
            f"{wait:g} s (429), and the {left:.1f} s that are left end after this call's hard "
            "deadline",
            status=429,
            code=reason.code if reason is not None else None,
            type=reason.type if reason is not None else None,
            retry_after=left,
        )


# Weakly, and not in a WeakValueDictionary, which is written in Python: an operation on a dict is
# atomic. A reference that is dead is replaced.
_shared: dict[tuple[str, bytes], weakref.ref[Budget]] = {}


def shared_budget(host: str, key: str) -> Budget:
    """This process's budget for a host and key. It lives as long as a client that uses it. The key
    is stored as a hash."""
    name = host, hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=16).digest()
    while True:
        known = _shared.get(name)
        found = known() if known is not None else None
        if found is not None:
            return found
        if known is not None:
            _forget(name, known)
        made = Budget()
        known = _shared.setdefault(name, weakref.ref(made, lambda dead: _forget(name, dead)))
        found = known()
        if found is not None:
            return found


def forget_waits() -> None:
    """Nobody waits any more. For tests, in which a service was played that has asked for it."""
    for known in list(_shared.values()):
        found = known()
        if found is not None:
            found.forget_waits()


def _forget(name: tuple[str, bytes], dead: weakref.ref[Budget]) -> None:
    if _shared.get(name) is dead:
        _shared.pop(name, None)
