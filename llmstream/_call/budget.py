"""What the streams of one host and key share: a budget of retries, and the wait after a 429.

Without it, a fleet of threads that all meet the same failure would together ask the service many
times as often as before, just when it can bear it least.
"""

from __future__ import annotations

import hashlib
import weakref

from .._runtime.fork import in_child, renew_in_child
from .._runtime.threads import Lock
from ..errors import RateLimitError

__all__ = ["Budget", "shared_budget"]

# As in the AWS SDKs (standard retry mode): a bucket of tokens that only success fills again.
CAPACITY = 500
COST = 5  # of a retry; comes back when it succeeds
REFILL = 1  # for a success at the first attempt


class Budget:
    """Of one host and key. Thread-safe; nothing here waits, times are the caller's."""

    def __init__(self) -> None:
        self._lock = Lock()  # guards all below
        self._tokens = CAPACITY
        self._until = -1.0
        self._wait = 0.0
        self._reason: RateLimitError | None = None
        renew_in_child(self, _lock=Lock)

    @property
    def tokens(self) -> int:
        """What is left."""
        return self._tokens

    def spend(self) -> bool:
        """Take what a retry costs; whether there was enough."""
        with self._lock:
            if self._tokens < COST:
                return False
            self._tokens -= COST
            return True

    def refill(self, *, retried: bool) -> None:
        """A call has succeeded."""
        with self._lock:
            self._tokens = min(CAPACITY, self._tokens + (COST if retried else REFILL))

    def throttle(self, error: RateLimitError, now: float) -> None:
        """The service asked one of us to wait: all do."""
        wait = error.retry_after or 0.0
        with self._lock:
            if now + wait > self._until:
                self._until, self._wait = now + wait, wait
                self._reason = error

    def throttled(self, now: float) -> tuple[float, float]:
        """The seconds that are left of the wait, and how long it was in all; (0, 0) without."""
        with self._lock:
            left = self._until - now
            return (left, self._wait) if left > 0 else (0.0, 0.0)

    def refusal(self, now: float) -> RateLimitError:
        """The error of a call that cannot wait so long; nothing was sent for it."""
        left, wait = self.throttled(now)
        reason = self._reason
        return RateLimitError(
            f"nothing was sent: the service asked this host's and key's callers to wait {wait:g} s "
            f"(429), {left:.1f} s of it are left, and that is past this call's hard deadline",
            status=429,
            code=reason.code if reason is not None else None,
            type=reason.type if reason is not None else None,
            retry_after=left,
        )


_shared: weakref.WeakValueDictionary[tuple[str, bytes], Budget] = weakref.WeakValueDictionary()
_shared_lock = Lock()


def shared_budget(host: str, key: str) -> Budget:
    """The process's one budget of this host and key; lives as long as a client that uses it."""
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
