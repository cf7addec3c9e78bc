"""What all calls with the same host and key share: a budget of retries; and, where they ask for the
same model too, the wait after a 429.

Without it many threads that all meet the same failure would send many times as many requests as
before, at the moment when the service can bear them least. Each process has its own budgets.
"""

from __future__ import annotations

import hashlib
import weakref

from msgspec import Struct

from .._runtime.fork import in_child, renew_in_child
from .._runtime.threads import Lock
from ..errors import RateLimitError

__all__ = ["Budget", "shared_budget"]

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
        self._lock = Lock()  # guards everything below
        self._tokens = CAPACITY
        self._holds: dict[str | None, _Hold] = {}  # by model; None: of all models
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

    def throttle(self, error: RateLimitError, now: float, model: str | None = None) -> None:
        """The service has asked one caller to wait, with `error`: from now on all callers of
        `model` wait; None: all callers."""
        wait = error.retry_after or 0.0
        with self._lock:
            # Those that are over go, or a client of many models would keep one for each.
            holds = {name: hold for name, hold in self._holds.items() if hold.until > now}
            if model not in holds or now + wait > holds[model].until:
                holds[model] = _Hold(now + wait, wait, error)
            self._holds = holds

    def throttled(self, now: float, model: str | None = None) -> tuple[float, float]:
        """The seconds that are left of the wait of `model` (None: of any), and its whole length;
        (0, 0) if there is none."""
        _, hold = self._hold(model)
        left = hold.until - now if hold is not None else 0.0
        return (left, hold.wait) if hold is not None and left > 0 else (0.0, 0.0)

    def _hold(self, model: str | None) -> tuple[bool, _Hold | None]:
        """Whether it holds all models, and the wait that ends last."""
        holds = self._holds  # replaced, never changed: no lock, since every attempt asks
        if not holds:
            return False, None
        whole, own = holds.get(None), holds.get(model)
        if model is None:
            own = max(holds.values(), key=lambda hold: hold.until)
        if whole is not None and (own is None or whole.until >= own.until):
            return True, whole
        return False, own

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
