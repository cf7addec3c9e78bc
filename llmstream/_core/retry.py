"""Whether to send a request again, and after what wait; and the wait that a server asks for.

Pure: the policy computes, the caller sleeps. Random numbers and the time are arguments.
"""

from __future__ import annotations

import datetime
import email.utils
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from ..errors import ConfigurationError, FirstTokenTimeout, ServiceError
from ..result import LLMStreamError
from .checks import CENTURY, is_number, is_whole, shown

__all__ = [
    "RetryPolicy",
    "is_daily_quota",
    "is_for_whole_key",
    "is_of_a_day",
    "parse_retry_after",
    "reset_of_used_up_limits",
]


_MOST_ATTEMPTS = 10_000
_MOST_JITTER = 10.0  # the wait at most eleven times as long
_NO_BOUND = ", or math.inf for no bound"
# Field, its greatest value, and what is said where it may be infinite.
_RANGES = (
    ("base", CENTURY, ""),
    ("cap", CENTURY, _NO_BOUND),
    ("jitter", _MOST_JITTER, ""),
    ("max_retry_after", CENTURY, _NO_BOUND),
)


class RetryPolicy(Struct, frozen=True):
    """How often, and after what wait, a request is sent again before its first content. Immutable.

    The wait before attempt n + 2 (n from 0) is ``d + U(0, jitter * d)`` seconds with
    ``d = min(cap, base * 2**n)``. A wait that the server asks for is the least value of d.

    Args:
        max_attempts: the number of attempts in a row without new content, the first one included:
            1 means no retry, 10,000 is the most. New content sets the count back to 0; a call makes
            at most three times as many attempts in all. A free resend on a stale connection is not
            counted.
        base: the first d, in seconds, at most a century (3,153,600,000).
        cap: the greatest d without a wait that the server asks for, in seconds: at most a century,
            or math.inf.
        jitter: the greatest random part of the wait, relative to d; at most 10.
        max_retry_after: a longer wait that the server asks for, in seconds, is not waited out: the
            error is raised at once. So is one that ends after the total clock. At most a century,
            or math.inf: every wait is waited out.
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
        if not is_whole(self.max_attempts, 1, _MOST_ATTEMPTS):
            raise ConfigurationError(
                f"RetryPolicy(max_attempts={shown(self.max_attempts)}): the first attempt counts, "
                f"so give 1 for no retry, and at most {_MOST_ATTEMPTS:,}"
            )
        for name, most, words in _RANGES:
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= (math.inf if words else most):
                raise ConfigurationError(
                    f"RetryPolicy({name}={shown(value)}): give a number from 0 to {most:,.0f}"
                    f"{words}"
                )
        if not isinstance(self.retry_first_token, bool):
            raise ConfigurationError(
                f"RetryPolicy(retry_first_token={shown(self.retry_first_token)}): give True or "
                "False"
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


# A number with its unit, as in "6.379s", "350ms", "2 seconds", "1 hour". Units after which letters
# follow ("5 months") are none.
_UNITS = {
    "d": 86_400.0, "day": 86_400.0,
    "h": 3600.0, "hr": 3600.0, "hour": 3600.0,
    "m": 60.0, "min": 60.0, "minute": 60.0,
    "s": 1.0, "sec": 1.0, "second": 1.0,
    "ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3,
    "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "microsecond": 1e-6,
    "ns": 1e-9, "nanosecond": 1e-9,
}  # fmt: skip
_UNIT = "|".join(sorted((re.escape(unit) for unit in _UNITS), key=len, reverse=True))
# The large expressions here and in `error_body` are compiled, and kept by `re`, when one is used:
# most programs meet no error, and compiling all of them takes a fifth of the package's import.
# "ms" is no plural of "m": if each of n parts could be read in two ways, 2**n would be tried.
_PLURAL = r"(?:(?<!m)s)?"
_PART = rf"(?i)(\d+(?:\.\d+)?)\s*({_UNIT}){_PLURAL}(?![^\W\d_])"
_DURATION = rf"\d+(?:\.\d+)?\s*(?:{_UNIT}){_PLURAL}(?![^\W\d_])"
_BETWEEN = r"\s*(?:,\s*)?(?:and\s+)?"
# "Please try again in 6.379s" (OpenAI), "retry after 2 seconds" (Azure), "Please retry in 36.4s"
# (Google), "wait 20 seconds", "the limit resets in 12s". A number without a unit is in seconds; it
# has to end the sentence, so that "5 months" is not taken for 5 s.
_ASKED = (
    r"(?i)\b(?:resets?\s+(?:in|after)\b|(?:re)?try(?:ing)?(?:\s+(?:again|(?:your|the|this)\s+request|it))*\s*"
    r"(?:\s(?:in|after)\b|[-_]after\b)|wait(?:\s+(?:for|at\s+least|another))*\b)"
    r"['\"]?\s*[:=]?\s*['\"]?(?:(?:about|approximately|at\s+least)\s+)?"
    rf"(?P<parts>{_DURATION}(?:{_BETWEEN}{_DURATION})*|"
    r"\d+(?:\.\d+)?(?=['\"]?\s*(?:$|[.,;:)\]}](?:\s|$)|\n)))"
)
_WHOLE = rf"(?i)(?:{_DURATION}{_BETWEEN})+"
_RFC_3339 = r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.\d+)?\s*([Zz]|[+-]\d\d:\d\d)"
_EPOCH = 1e8  # seconds: a greater number is a moment, not a wait of years
_EPOCH_MS = 1e11  # a greater number is a moment in milliseconds
_LONGEST = 10_000  # characters of a message that are searched
_LONGEST_VALUE = 200  # characters of a field or header that says when: a longer one says nothing
_LONGEST_OWNER = 1000  # characters of a message in which the owner of a limit is looked for
_SPACES = re.compile(r"\s{2,}")


def parse_retry_after(
    headers: Mapping[str, str], message: str, now: float | None, body: Iterable[Any] = ()
) -> float | None:
    """The wait in seconds that a server asks for, or None.

    The first of these counts: the header `retry-after-ms`; `retry-after` (RFC 9110, section 10.2.3:
    seconds or a date; some servers send fractions); a wait in one of the objects of `body` (a
    field such as `retry_after`, Google's RetryInfo); the words of `message`. `headers` has
    lower-case names; `now` is the Unix time in seconds, None where moments cannot be understood. A
    value that is not a finite number of 0 or more is ignored; a date in the past means 0.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None:
        return seconds
    until = _until(value, now) if value and now is not None else None
    if until is not None:
        return until
    for found in (_in_body(part) for part in body):
        if found is not None:
            return found
    return _in_message(message)


_NAME_OF_LIMIT = re.compile("limit|^anthropic-priority-")
_RESETS = ("reset", "renewalperiod")


def reset_of_used_up_limits(headers: Mapping[str, str], now: float | None) -> float | None:
    """The seconds until all limits are reset whose `remaining` is 0, or None where no header says
    both. `headers` has lower-case names.

    The names of a pair of headers differ in the words `remaining` and `reset` only:
    `x-ratelimit-remaining-requests` (OpenAI and most others), `x-ratelimit-remaining` (OpenRouter),
    `anthropic-ratelimit-tokens-remaining`, `ratelimit-remaining` (the IETF's draft). A reset is a
    number of seconds, a duration such as "1m26.4s", or a moment: an RFC 3339 time, an HTTP date,
    Unix seconds or milliseconds. Where a limit has no reset, its period is one
    (`x-ratelimit-renewalperiod-tokens`, Azure).
    """
    resets = []
    for name, value in headers.items():
        if "remaining" in name and _NAME_OF_LIMIT.search(name) and _number(value) == 0:
            found = (headers.get(name.replace("remaining", word)) for word in _RESETS)
            resets += [_reset(reset, now) for reset in found if reset is not None][:1]
    known = [reset for reset in resets if reset is not None]
    return max(known) if known else None


def _reset(value: str, now: float | None) -> float | None:
    if len(value) > _LONGEST_VALUE:
        return None
    number = _number(value)
    if number is not None and number < _EPOCH:
        return number
    if number is None and re.fullmatch(_WHOLE, value.strip()):
        return _seconds(value)
    if now is None:
        return None
    if number is not None:
        return max(0.0, number / (1000.0 if number >= _EPOCH_MS else 1.0) - now)
    found = re.fullmatch(_RFC_3339, value.strip())
    if not found:
        return _until(value, now)
    zone = "+00:00" if found[3] in "Zz" else found[3]
    try:
        return max(
            0.0, datetime.datetime.fromisoformat(f"{found[1]}T{found[2]}{zone}").timestamp() - now
        )
    except (ValueError, OverflowError):
        return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str) and len(value) > _LONGEST_VALUE:
        return None
    try:
        number = float(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return number if 0 <= number < math.inf else None


def _until(value: str, now: float) -> float | None:
    if len(value) > _LONGEST_VALUE:
        return None
    try:
        date = email.utils.parsedate_to_datetime(value)
        if date.tzinfo is None:  # an obsolete form, or "-0000"; HTTP dates are in UTC
            date = date.replace(tzinfo=datetime.timezone.utc)
        return max(0.0, date.timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _seconds(text: str) -> float | None:
    """The sum of the durations in `text`."""
    total = sum(float(number) * _UNITS[unit.lower()] for number, unit in re.findall(_PART, text))
    return total if total < math.inf else None


def _in_message(message: str) -> float | None:
    # One space for each run: the expression tries every division of a run among its parts.
    text = _SPACES.sub(lambda run: "\n" if "\n" in run[0] else " ", message[:_LONGEST])
    found = re.search(_ASKED, text)
    if not found:
        return None
    parts = found["parts"]
    return _number(parts) if parts[-1].isdecimal() else _seconds(parts)


# ---- a wait in the body ------------------------------------------------------------------------


def _in_body(error: Any) -> float | None:
    """The wait in an error's object: a field of it, or Google's RetryInfo among its details."""
    if not isinstance(error, Mapping):
        return None
    for name in ("retry_after_ms", "retryAfterMs"):
        if (found := _number(error.get(name))) is not None:
            return found / 1000.0
    for name in ("retry_after", "retry_after_seconds", "retryAfter", "retryAfterSeconds"):
        if (found := _amount(error.get(name))) is not None:
            return found
    for detail in _details(error):
        for name in ("retryDelay", "retry_delay"):
            if (found := _amount(detail.get(name))) is not None:
                return found
    return None


def _amount(value: Any) -> float | None:
    """Seconds from a number, a duration such as "34.4s", or protobuf's seconds and nanos."""
    if isinstance(value, Mapping):
        seconds, nanos = _number(value.get("seconds", 0)), _number(value.get("nanos", 0))
        return seconds + nanos / 1e9 if seconds is not None and nanos is not None else None
    number = _number(value)
    if number is None and isinstance(value, str) and len(value) <= _LONGEST_VALUE:
        return _seconds(value) if re.fullmatch(_WHOLE, value.strip()) else None
    return number


def _details(error: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    details = error.get("details")
    for detail in (error, *details) if isinstance(details, list) else (error, details):
        if isinstance(detail, Mapping):
            yield detail


def is_daily_quota(error: Any) -> bool:
    """Whether an error's object says that a quota of a day is used up (Google's QuotaFailure, or
    the quota_limit of its ErrorInfo): waiting for minutes does not help."""
    if not isinstance(error, Mapping):
        return False
    ids: list[Any] = []
    for detail in _details(error):
        violations = detail.get("violations")
        ids += [v.get("quotaId") for v in _objects(violations)]
        ids += [v.get("quota_id") for v in _objects(violations)]
        metadata = detail.get("metadata")
        if isinstance(metadata, Mapping):
            ids += [metadata.get("quota_limit"), metadata.get("quotaId")]
    return any(isinstance(word, str) and "perday" in word.lower().replace("_", "") for word in ids)


_A_DAY = r"(?i)(?<![a-z])(?:per[ _-]?day|daily|[rt]pd)(?![a-z])"
_LESS = r"(?i)(?<![a-z])(?:per[ _-]?(?:second|minute|min|hour)|[rt]pm|concurren\w*)(?![a-z])"


def is_of_a_day(words: str) -> bool:
    """Whether the words of a rate limit's error name a limit of a day, and none of less."""
    return bool(re.search(_A_DAY, words)) and not re.search(_LESS, words)


def _objects(values: Any) -> list[Mapping[str, Any]]:
    return [v for v in values if isinstance(v, Mapping)] if isinstance(values, list) else []


# ---- whose limit -------------------------------------------------------------------------------

_ADDRESS = re.compile(r"https?://\S+")
_OWNER = r"(?:organi[sz]ation|account|workspace|project|team|tenant|subscription|(?:api[ _-]?)?key)"
_KIND = r"(?:[ _-](?:rate|request|token|usage|minute|daily|monthly))*"
_OWNERS_LIMIT = (
    # "your organization's rate limit", "account_rate_limit", "this key's quota"
    rf"(?i)(?<![a-z]){_OWNER}(?:['’]?s)?{_KIND}[ _-](?:limit|quota)"
    # "the rate limit for your organization", "requests per account"
    r"|(?:limit|quota|requests|tokens|calls)\w*(?:\s+\w+){0,5}?\s(?:for|of|in|per|by|on|across)"
    rf"\s(?:(?:your|this|the|an?|all|entire|whole)\s)*{_OWNER}(?![a-z])"
    # "a trial key, which is limited to 40 calls a minute"
    rf"|(?<![a-z]){_OWNER},? (?:which )?(?:is|are|has been) (?:rate[ -])?limited"
    rf"|(?<![a-z]){_OWNER}[ _-](?:wide|level)"
    r"|(?:all|any|across|every) (?:your |the )?models?(?![a-z])"
)
_ALL_MODELS = r"(?i)(?:all|any|across|every) (?:your |the )?models?(?![a-z])"
_A_MODEL = (
    r"(?i)(?<![a-z])(?:models?|deployment)(?![a-z])"
    r"|for (?!requests |tokens )\S+ in (?:organi|project)"
)


def is_for_whole_key(words: str, model: str) -> bool:
    """Whether a rate limit's error says that it is one of the whole organization, account or key,
    not of `model` alone. An error that names a model, whose ever the limit is, is the model's:
    "Rate limit reached for gpt-4o in organization org-1".
    """
    words = _ADDRESS.sub(" ", words[:_LONGEST_OWNER])
    if not re.search(_OWNERS_LIMIT, words):
        return False
    if re.search(_ALL_MODELS, words):
        return True
    name = re.escape(model.rpartition("/")[2])
    named = name and re.search(rf"(?<![a-z0-9]){name}(?![a-z0-9])", words, re.IGNORECASE)
    return not (re.search(_A_MODEL, words) or named)
