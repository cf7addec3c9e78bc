"""Whether to send a request again, and after what wait; and the wait that a server asks for.

Pure: the policy computes, the caller sleeps. Random numbers and the time are arguments.
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
    """How often, and after what wait, a request is sent again before its first content. Immutable.

    The wait before attempt n + 2 (n from 0) is ``d + U(0, jitter * d)`` seconds with
    ``d = min(cap, base * 2**n)``. A wait that the server asks for is the least value of d.

    Args:
        max_attempts: the number of attempts in a row without new content, the first one included:
            1 means no retry. New content sets the count back to 0; a call makes at most three times
            as many attempts in all. A free resend on a stale connection is not counted.
        base: the first d, in seconds.
        cap: the greatest d without a wait that the server asks for, in seconds.
        jitter: the greatest random part of the wait, relative to d.
        max_retry_after: a longer wait that the server asks for, in seconds, is not waited out: the
            error is raised at once. So is one that ends after the total clock.
        retry_first_token: whether a FirstTokenTimeout is retried too. The service may bill both
            requests.

    Before each retry the call takes a part of the retry budget that all calls with the same host
    and key share (as in the AWS SDKs' standard retry mode). If too little is left, the error is
    raised.

    Raises ConfigurationError for values that cannot work.
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
        """Seconds to wait after failure number n (from 0). `random` is in [0, 1); `floor` is the
        wait that the server asks for."""
        # min() first: 2.0 ** n overflows from n = 1024 on.
        d = max(min(self.cap, self.base * 2.0 ** min(n, 64)), floor)
        return d + random * self.jitter * d

    def should_retry(self, error: LLMStreamError) -> bool:
        """Whether a failure of this kind is retried."""
        return error.retryable or (self.retry_first_token and isinstance(error, FirstTokenTimeout))

    def next_delay(
        self, error: LLMStreamError, failures: int, random: float, remaining: float = math.inf
    ) -> float | None:
        """Seconds to wait before the next attempt, or None if there is none.

        `failures` is the number of failures in a row, this one included, and 0 if the attempt had
        received content. `remaining` is the time left on the total clock, in seconds.
        """
        if failures >= self.max_attempts or not self.should_retry(error):
            return None
        retry_after = error.retry_after if isinstance(error, ServiceError) else None
        if retry_after is not None and retry_after > self.max_retry_after:
            return None
        delay = self.delay(max(0, failures - 1), random, retry_after or 0.0)
        return delay if delay < remaining else None


# "Please try again in 6.379s", "in 350ms", "in 1m30.5s" (OpenAI's rate limit messages)
_TRY_AGAIN = re.compile(
    r"try again in\s+(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m(?!s))?(?:(?P<s>\d+(?:\.\d+)?)\s*(?P<ms>m?)s)?",
    re.IGNORECASE,
)


def parse_retry_after(headers: Mapping[str, str], message: str, now: float) -> float | None:
    """The wait in seconds that a server asks for, or None.

    The header `retry-after-ms` comes first, then `retry-after` (RFC 9110, section 10.2.3: seconds
    or a date; some servers send fractions), then the error's message. `headers` has lower-case
    names; `now` is the Unix time in seconds. A value that is not a finite number of 0 or more is
    ignored; a date in the past means 0.
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
        if date.tzinfo is None:  # an obsolete form, or "-0000"; HTTP dates are in UTC
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
