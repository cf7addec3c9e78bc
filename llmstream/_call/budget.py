"""What all calls with the same host and key share: a budget of retries, and the wait after a 429.

Without it many threads that all meet the same failure would send many times as many requests as
before, at the moment when the service can bear them least. Each process has its own budgets.
"""

from __future__ import annotations

import hashlib
import weakref

from .._runtime.fork import in_child, renew_in_child
from .._runtime.threads import Lock
from ..errors import RateLimitError

__all__ = ["Budget", "shared_budget"]

# As in the AWS SDKs (standard retry mode): a bucket of tokens that only success refills.
CAPACITY = 500
COST = 5  # of a retry; refilled when the retry succeeds
REFILL = 1  # for a success at the first attempt


class Budget:
    """The budget of one host and key. Thread-safe. Nothing here waits; moments are in seconds on
    the caller's monotonic clock."""

    def __init__(self) -> None:
        self._lock = Lock()  # guards everything below
        self._tokens = CAPACITY
        self._until = -1.0  # the end of the wait that the service asks for
        self._wait = 0.0  # its length in seconds
        self._reason: RateLimitError | None = None  # the error that asks for it
        renew_in_child(self, _lock=Lock)

    @property
    def tokens(self) -> int:
        """The tokens that are left."""
        return self._tokens

    def spend(self) -> bool:
        """Take the cost of a retry; returns whether enough was left."""
        with self._lock:
            if self._tokens < COST:
                return False
            self._tokens -= COST
            return True

    def refill(self, *, retried: bool) -> None:
        """A call has succeeded; `retried`: after a retry."""
        with self._lock:
            self._tokens = min(CAPACITY, self._tokens + (COST if retried else REFILL))

    def throttle(self, error: RateLimitError, now: float) -> None:
        """The service has asked one caller to wait, with `error`: from now on all callers wait."""
        wait = error.retry_after or 0.0
        with self._lock:
            if now + wait > self._until:
                self._until, self._wait = now + wait, wait
                self._reason = error

    def throttled(self, now: float) -> tuple[float, float]:
        """The seconds that are left of the wait, and its whole length; (0, 0) if there is none."""
        with self._lock:
            left = self._until - now
            return (left, self._wait) if left > 0 else (0.0, 0.0)

    def refusal(self, now: float) -> RateLimitError:
        """The error of a call whose hard deadline is before the end of the wait."""
        left, wait = self.throttled(now)
        reason = self._reason
        return RateLimitError(
            f"nothing was sent: the service asked all callers with this host and key to wait "
            f"{wait:g} s (429), and the {left:.1f} s that are left end after this call's hard "
            "deadline",
            status=429,
            code=reason.code if reason is not None else None,
            type=reason.type if reason is not None else None,
            retry_after=left,
        )


_shared: weakref.WeakValueDictionary[tuple[str, bytes], Budget] = weakref.WeakValueDictionary()
_shared_lock = Lock()


def shared_budget(host: str, key: str) -> Budget:
    """This process's budget for a host and key. It lives as long as a client that uses it. The key
    is stored as a hash."""
    name = host, hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=16).digest()
    with _shared_lock:
        found = _shared.get(name)
        if found is None:
            found = _shared[name] = Budget()
        return found


def _after_fork() -> None:
    global _shared_lock
    _shared_lock = Lock()


in_child(_after_fork)
