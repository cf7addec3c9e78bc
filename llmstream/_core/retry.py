"""When to ask again, and after how long.

The randomness is an argument: the policy computes, the edge sleeps.
"""

from __future__ import annotations

import datetime
import email.utils
import math
import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from ..errors import ConfigurationError, FirstTokenTimeout, ServiceError
from ..result import LLMStreamError

__all__ = ["RetryPolicy", "parse_retry_after"]


class RetryPolicy(Struct, frozen=True):
    """How often, and after what wait, a call is made again before its first content.

    The wait before attempt n + 2 (n from 0) is ``d + U(0, jitter * d)`` with
    ``d = min(cap, base * 2**n)`` seconds. A wait that the server asks for is a floor of d, with
    the jitter on top; one above `max_retry_after` seconds is not waited out: the error is raised
    at once. `max_attempts` counts the first one: 1 means no retry. `retry_first_token=True` also
    retries a FirstTokenTimeout, which the service may bill twice.

    Raises ConfigurationError for numbers that make no sense.
    """

    max_attempts: int = 4
    base: float = 0.4
    cap: float = 5.0
    jitter: float = 0.25
    max_retry_after: float = 60.0
    retry_first_token: bool = False

    def __post_init__(self) -> None:
        attempts: Any = self.max_attempts
        if not isinstance(attempts, int) or attempts < 1:
            raise ConfigurationError(
                f"RetryPolicy(max_attempts={self.max_attempts!r}): the first attempt counts, "
                "so give 1 for no retry"
            )
        for name in ("base", "cap", "jitter", "max_retry_after"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and value >= 0
            if not number or (name == "jitter" and value == math.inf):
                raise ConfigurationError(
                    f"RetryPolicy({name}={value!r}): give a number of 0 or more"
                )

    def delay(self, n: int, random: float, floor: float = 0.0) -> float:
        """Seconds to wait after failure number n (from 0); `random` is in [0, 1)."""
        # min() first: 2.0 ** n overflows from n = 1024 on.
        d = max(min(self.cap, self.base * 2.0 ** min(n, 64)), floor)
        return d + random * self.jitter * d

    def wants(self, error: LLMStreamError) -> bool:
        """Whether this failure is of a kind to ask again after."""
        return error.retryable or (self.retry_first_token and isinstance(error, FirstTokenTimeout))

    def next_delay(
        self, error: LLMStreamError, failures: int, random: float, remaining: float = math.inf
    ) -> float | None:
        """Seconds to wait before the next attempt, or None to give up.

        `failures` counts this one, and is 0 where it had made progress; `remaining` is what is
        left of the total clock, in seconds.
        """
        if failures >= self.max_attempts or not self.wants(error):
            return None
        asked = error.retry_after if isinstance(error, ServiceError) else None
        if asked is not None and asked > self.max_retry_after:
            return None
        delay = self.delay(max(0, failures - 1), random, asked or 0.0)
        return delay if delay < remaining else None


# "Please try again in 6.379s", "in 350ms", "in 1m30.5s" (OpenAI's rate limit messages)
_TRY_AGAIN = re.compile(
    r"try again in\s+(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m(?!s))?(?:(?P<s>\d+(?:\.\d+)?)\s*(?P<ms>m?)s)?",
    re.IGNORECASE,
)


def parse_retry_after(headers: Mapping[str, str], message: str, now: float) -> float | None:
    """The wait in seconds that a server asks for, or None.

    Looks at `retry-after-ms`, `retry-after` (RFC 9110 10.2.3: seconds or a date; fractions
    occur), then at the message. `headers` has lower-case names; `now` is the Unix time. What is no
    finite number of 0 or more is no request to wait; a date in the past is 0.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None:
        return seconds
    until = _until(value, now) if value else None
    return until if until is not None else _in_message(message)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def _until(value: str, now: float) -> float | None:
    try:
        date = email.utils.parsedate_to_datetime(value)
        if date.tzinfo is None:  # an obsolete form, or "-0000": HTTP dates are in UTC
            date = date.replace(tzinfo=datetime.timezone.utc)
        return max(0.0, date.timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _in_message(message: str) -> float | None:
    found = _TRY_AGAIN.search(message)
    if not found or not (found["h"] or found["m"] or found["s"]):
        return None
    seconds = float(found["s"] or 0) / (1000.0 if found["ms"] else 1.0)
    total = float(found["h"] or 0) * 3600 + float(found["m"] or 0) * 60 + seconds
    return total if total < math.inf else None
