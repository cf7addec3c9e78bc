"""When to ask again and after how long: the formula, the server's wishes, who is asked again."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime, formatdate
from typing import Any

import pytest
from corpus import PROPERTY
from every import every
from hypothesis import given
from hypothesis import strategies as st

from llmstream import errors
from llmstream._core.retry import (
    RetryPolicy,
    is_daily_quota,
    is_for_whole_key,
    parse_retry_after,
    reset_of_used_up_limits,
)
from llmstream.errors import ConfigurationError, RateLimitError
from llmstream.result import LLMStreamError

NOW = 1_790_000_000.0  # Unix seconds; whole, as dates are


# --- the formula --------------------------------------------------------------------------------


@every(("n", "d"), [(0, 0.4), (1, 0.8), (2, 1.6), (3, 3.2), (4, 5.0), (5, 5.0), (10**6, 5.0)])
def test_delay_doubles_up_to_the_cap(n: int, d: float) -> None:
    """d = min(cap, base * 2**n): 0.4, 0.8, 1.6, 3.2, then 5, however often it failed."""
    policy = RetryPolicy()
    assert policy.delay(n, 0.0) == d
    assert policy.delay(n, 0.5) == pytest.approx(d * 1.125)


@pytest.mark.slow
@PROPERTY
@given(
    st.integers(0, 5000),
    st.floats(0, 1, exclude_max=True),
    st.one_of(st.just(0.0), st.floats(1e-6, 100)),
    st.floats(0, 1000),
    st.floats(0, 10),
    st.floats(0, 1000),
)
def test_delay_is_within_its_bounds(
    n: int, random: float, base: float, cap: float, jitter: float, floor: float
) -> None:
    """d <= delay <= d + jitter * d, and never below what the server asked for."""
    policy = RetryPolicy(base=base, cap=cap, jitter=jitter)
    d = max(min(cap, base * 2.0 ** min(n, 900)), floor)
    delay = policy.delay(n, random, floor)
    assert d <= delay <= d * (1 + jitter) * (1 + 1e-12)
    assert delay >= floor
    assert math.isfinite(delay)


@PROPERTY
@given(
    st.integers(0, 100), st.floats(0, 100), st.lists(st.floats(0, 0.999), min_size=2, max_size=2)
)
def test_jitter_spreads(n: int, floor: float, draws: list[float]) -> None:
    """A larger draw never waits shorter, with a server's floor as without."""
    policy = RetryPolicy()
    low, high = sorted(draws)
    assert policy.delay(n, low, floor) <= policy.delay(n, high, floor)


def test_the_jitter_lies_on_top_of_the_floor() -> None:
    """Nobody comes back before the server said, and not all at the same moment after it."""
    policy = RetryPolicy()
    assert policy.delay(0, 0.0, 20.0) == 20.0
    assert policy.delay(0, 0.8, 20.0) == 24.0
    assert policy.delay(9, 0.0, 0.1) == 5.0


@every(
    "settings",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"max_attempts": "3"},
        {"max_attempts": None},
        {"max_attempts": 1.5},
        {"base": -0.1},
        {"base": math.nan},
        {"base": "1"},
        {"base": None},
        {"cap": -1},
        {"cap": []},
        {"jitter": -1},
        {"jitter": math.nan},
        {"jitter": math.inf},
        {"max_retry_after": -1},
        {"max_retry_after": "60"},
    ],
    ids=str,
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    """What cannot be computed with is the caller's mistake, and said so by name."""
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        RetryPolicy(**settings)


def test_settings_that_make_sense() -> None:
    """No retry, no wait, no jitter, any server's wait: all allowed."""
    assert RetryPolicy(max_attempts=1).max_attempts == 1
    assert RetryPolicy(base=0, cap=0, jitter=0).delay(3, 0.9) == 0
    assert RetryPolicy(max_retry_after=math.inf).max_retry_after == math.inf


# --- what the server asks for -------------------------------------------------------------------


def date(seconds: float) -> str:
    """An HTTP date so many seconds from NOW."""
    return formatdate(NOW + seconds, usegmt=True)


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(NOW + seconds, timezone.utc)


# headers, message -> seconds
ASKED: list[tuple[dict[str, str], str, float | None]] = [
    ({}, "", None),
    ({"retry-after": "0"}, "", 0.0),
    ({"retry-after": "0.5"}, "", 0.5),
    ({"retry-after": "7"}, "", 7.0),
    ({"retry-after": " 7 "}, "", 7.0),
    ({"retry-after": "60"}, "", 60.0),
    ({"retry-after": "61"}, "", 61.0),
    ({"retry-after": "600"}, "", 600.0),
    ({"retry-after": "1e2"}, "", 100.0),
    ({"retry-after": "-1"}, "", None),
    ({"retry-after": "-0.0"}, "", 0.0),
    ({"retry-after": "nan"}, "", None),
    ({"retry-after": "inf"}, "", None),
    ({"retry-after": "-inf"}, "", None),
    ({"retry-after": "1e999"}, "", None),
    ({"retry-after": ""}, "", None),
    ({"retry-after": "soon"}, "", None),
    ({"retry-after": "7s"}, "", None),
    ({"retry-after": "0x10"}, "", None),
    ({"retry-after": "5, 6"}, "", None),
    ({"retry-after": "9" * 5000}, "", None),
    ({"retry-after": "\x00"}, "", None),
    ({"retry-after": date(30)}, "", 30.0),
    ({"retry-after": date(0)}, "", 0.0),
    ({"retry-after": date(-30)}, "", 0.0),
    ({"retry-after": date(-1_000_000)}, "", 0.0),
    ({"retry-after": date(86_400)}, "", 86_400.0),
    # RFC 9110 5.6.7: the two obsolete forms have to be understood; all are in UTC
    ({"retry-after": moment(30).strftime("%A, %d-%b-%y %H:%M:%S GMT")}, "", 30.0),
    ({"retry-after": moment(30).strftime("%a %b %d %H:%M:%S %Y")}, "", 30.0),
    (
        {"retry-after": format_datetime(moment(30).astimezone(timezone(timedelta(hours=2))))},
        "",
        30.0,
    ),
    ({"retry-after": moment(30).strftime("%a, %d %b %Y %H:%M:%S -0000")}, "", 30.0),
    ({"retry-after": moment(30).strftime("%a, %d %b %Y %H:%M:%S")}, "", 30.0),
    ({"retry-after": "Wed, 32 Oct 2026 07:28:00 GMT"}, "", None),
    ({"retry-after": "Wed, 21 Oct 99999 07:28:00 GMT"}, "", None),
    ({"retry-after": "Wed, 21 Oct 2026 25:61:61 GMT"}, "", None),
    ({"retry-after": "Wed, 21 Oct 2026 07:28:00 +9999"}, "", None),
    ({"retry-after": "Wed"}, "", None),
    ({"retry-after": ", , ,"}, "", None),
    ({"retry-after-ms": "250"}, "", 0.25),
    ({"retry-after-ms": "0"}, "", 0.0),
    ({"retry-after-ms": "250", "retry-after": "9"}, "", 0.25),
    ({"retry-after-ms": "-5", "retry-after": "9"}, "", 9.0),
    ({"retry-after-ms": "x", "retry-after": "9"}, "", 9.0),
    ({"retry-after-ms": "nan"}, "", None),
    ({}, "Rate limit reached. Please try again in 6.379s.", 6.379),
    ({}, "Please try again in 6s", 6.0),
    ({}, "please try again in 350ms. Visit", 0.35),
    ({}, "try again in 1m30s", 90.0),
    ({}, "try again in 1m30.5s.", 90.5),
    ({}, "try again in 7m12s", 432.0),
    ({}, "try again in 1h2m3s", 3723.0),
    ({}, "try again in 2m", 120.0),
    ({}, "try again in 2h", 7200.0),
    ({}, "Try Again In 3S", 3.0),
    ({}, "Rate limit is exceeded. Try again in 6 seconds.", 6.0),
    ({}, "try again in 10 ms", 0.01),
    ({}, "try again in 0s", 0.0),
    ({}, "try again in a while", None),
    ({}, "try again later", None),
    ({}, "try again in", None),
    ({}, "try again in .", None),
    ({}, "try again in -5s", None),
    ({}, "I will not try again in this life", None),
    ({}, "try again in 5 months", None),
    ({}, "try again in " + "9" * 400 + "s", None),
    ({}, "try again in " + "9" * 400 + "m", None),
    ({}, "try again in " + "9" * 400 + "h", None),
    ({}, "You exceeded your current quota.\nPlease retry in 36.4s.", 36.4),  # Google
    ({}, "Please retry after 2 seconds. Visit", 2.0),  # Azure
    ({}, "Retry in 20 seconds", 20.0),
    ({}, "please try your request again in 2 minutes", 120.0),
    ({}, "Retry the request after 1 hour, 2 min and 3 sec", 3723.0),
    ({}, "Please wait 15 seconds before the next request", 15.0),
    ({}, "Please wait for 250 milliseconds", 0.25),
    ({}, "try again in 1d2h", 93_600.0),
    ({}, "Retry-After: 7", 7.0),
    ({}, "'retry_after': 3.5}", 3.5),
    ({}, "Please retry after 30.", 30.0),
    ({}, "retry in about 4 s", 4.0),
    ({}, "retry after 5 attempts", None),
    ({}, "retry in 2 moments", None),
    ({}, "the wait 5 requests back", None),
    ({}, "no retry. In 5 seconds the world ends", None),
    ({}, "industry in 5s", None),
    ({"retry-after": "5"}, "try again in 9s", 5.0),
    ({"retry-after": "nan"}, "try again in 9s", 9.0),
    ({"retry-after": "-1"}, "try again in 9s", 9.0),
    ({"retry-after": "soon"}, "try again in 9s", 9.0),
]


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata"])
def time_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The machine's time zone, which must not matter."""
    monkeypatch.setenv("TZ", request.param)
    if hasattr(time, "tzset"):
        time.tzset()
    yield request.param
    monkeypatch.undo()
    if hasattr(time, "tzset"):
        time.tzset()


@every(("headers", "message", "seconds"), ASKED, ids=[f"{h or m}"[:60] for h, m, _ in ASKED])
def test_what_the_server_asks_for(
    headers: dict[str, str], message: str, seconds: float | None, time_zone: str
) -> None:
    """Headers before the message; what is no finite number of 0 or more is no wish; a date means
    the same in every time zone."""
    assert os.environ["TZ"] == time_zone
    found = parse_retry_after(headers, message, NOW)
    assert found == (None if seconds is None else pytest.approx(seconds, abs=1e-6))


RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
# a wait in the objects of the body -> seconds
IN_BODY: list[tuple[Any, float | None]] = [
    ({"details": [{"@type": RETRY_INFO, "retryDelay": "34.4s"}]}, 34.4),
    ({"details": [{"@type": "Help"}, {"@type": RETRY_INFO, "retryDelay": "1.074s"}]}, 1.074),
    ({"details": [{"retry_delay": {"seconds": 3, "nanos": 500_000_000}}]}, 3.5),
    ({"details": {"retryDelay": {"seconds": "3"}}}, 3.0),
    ({"retryDelay": "0s"}, 0.0),
    ({"retry_after": 5}, 5.0),
    ({"retry_after": "5.5"}, 5.5),
    ({"retry_after": "1m30s"}, 90.0),
    ({"retryAfter": 2.5}, 2.5),
    ({"retry_after_seconds": 4}, 4.0),
    ({"retry_after_ms": 250}, 0.25),
    ({"retry_after": None}, None),
    ({"retry_after": True}, None),
    ({"retry_after": -3}, None),
    ({"retry_after": 10**400}, None),
    ({"retry_after": [1]}, None),
    ({"details": [{"retryDelay": "soon"}, None, 5]}, None),
    ({"details": "retryDelay"}, None),
    ("retryDelay", None),
    (None, None),
]


@every(("part", "seconds"), IN_BODY, ids=[str(part)[:60] for part, _ in IN_BODY])
def test_a_wait_in_the_body(part: Any, seconds: float | None) -> None:
    """Google's RetryInfo, and fields that gateways add; after the headers, before the words."""
    found = parse_retry_after({}, "", NOW, [None, part])
    assert found == (None if seconds is None else pytest.approx(seconds))
    assert parse_retry_after({"retry-after": "9"}, "", NOW, [part]) == 9.0
    said = parse_retry_after({}, "try again in 8s", NOW, [part])
    assert said == (8.0 if seconds is None else pytest.approx(seconds))


# headers of a limit -> seconds until it is reset
OPENAI = "x-ratelimit-{}-requests"
RESETS: list[tuple[str, str, float | None]] = [
    (OPENAI, "1s", 1.0),
    (OPENAI, "6m0s", 360.0),
    (OPENAI, "1m26.4s", 86.4),
    (OPENAI, "6ms", 0.006),
    (OPENAI, "0s", 0.0),
    (OPENAI, "1h0m0.5s", 3600.5),
    (OPENAI, "1d", 86_400.0),
    ("x-ratelimit-{}-tokens", "7.66s", 7.66),  # Groq
    ("x-ratelimit-{}-project-tokens", "2s", 2.0),
    ("x-ratelimit-{}-tokens", "17", 17.0),  # Azure, Together
    ("x-ratelimit-{}-requests-day", "33011.382867", 33011.382867),  # Cerebras
    ("x-ratelimit-{}-tokens-minute", "11.38", 11.38),
    ("ratelimitbysize-{}", "48", 48.0),  # Mistral
    ("x-ratelimit-{}", str(int((NOW + 12) * 1000)), 12.0),  # OpenRouter
    ("x-ratelimit-{}", str(int(NOW + 12)), 12.0),
    ("x-ratelimit-{}", str(int(NOW - 12)), 0.0),
    ("ratelimit-{}", "30", 30.0),  # the IETF's draft
    ("x-rate-limit-{}", date(20), 20.0),
    ("anthropic-ratelimit-requests-{}", "2026-09-21T14:13:40Z", 20.0),
    ("anthropic-ratelimit-input-tokens-{}", "2026-09-21T16:13:40.250+02:00", 20.0),
    ("anthropic-priority-output-tokens-{}", "2026-09-21T14:13:40Z", None),
    ("anthropic-ratelimit-tokens-{}", "2026-09-21T14:13:00Z", 0.0),
    (OPENAI, "", None),
    (OPENAI, "soon", None),
    (OPENAI, "-5", None),
    (OPENAI, "nan", None),
    (OPENAI, "5 months", None),
    (OPENAI, "2026-99-99T00:00:00Z", None),
    (OPENAI, "9" * 400 + "s", None),
]


@every(("name", "reset", "seconds"), RESETS, ids=[f"{n}-{r}"[:60] for n, r, _ in RESETS])
def test_the_reset_of_a_used_up_limit(name: str, reset: str, seconds: float | None) -> None:
    """Each vendor's header and format; only where nothing is left of the limit."""
    headers = {name.format("remaining"): "0", name.format("reset"): reset}
    if name.startswith("anthropic-priority"):
        headers["anthropic-priority-output-tokens-remaining"] = "5"
    found = reset_of_used_up_limits(headers, NOW)
    assert found == (None if seconds is None else pytest.approx(seconds))
    for left in ("1", "4000", "", "unknown", "-1"):
        assert reset_of_used_up_limits({**headers, name.format("remaining"): left}, NOW) is None


def test_of_several_used_up_limits_the_last_reset_counts() -> None:
    """What is not used up does not count, however late it is reset."""
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "2s",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "9s",
        "x-ratelimit-remaining-project-tokens": "17",
        "x-ratelimit-reset-project-tokens": "6h",
        "x-ratelimit-limit-requests": "0",
    }
    assert reset_of_used_up_limits(headers, NOW) == 9.0
    assert reset_of_used_up_limits({}, NOW) is None
    assert reset_of_used_up_limits({"x-ratelimit-remaining": "0"}, NOW) is None


def test_a_moment_means_nothing_without_the_time() -> None:
    """Inside a stream only durations are understood."""
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW * 1000))}
    assert reset_of_used_up_limits(headers, None) is None
    assert parse_retry_after({"retry-after": date(5)}, "", None) is None
    assert parse_retry_after({"retry-after": "5"}, "", None) == 5.0


@pytest.mark.slow
@PROPERTY
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_reset_is_read_without_a_crash(name: str, reset: str) -> None:
    headers = {f"x-ratelimit-remaining{name}": "0", f"x-ratelimit-reset{name}": reset}
    found = reset_of_used_up_limits(headers, NOW)
    assert found is None or 0 <= found < math.inf


DAILY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
QUOTAS: list[tuple[Any, bool]] = [
    ({"details": [{"violations": [{"quotaId": DAILY}]}]}, True),
    ({"details": [{"violations": [{"quotaId": MINUTE}]}]}, False),
    ({"details": [{"violations": [{"quotaId": MINUTE}, {"quotaId": DAILY}]}]}, True),
    ({"details": [{"violations": [{"quota_id": "requests_per_day"}]}]}, True),
    ({"details": [{"metadata": {"quota_limit": DAILY}}]}, True),
    ({"details": [{"metadata": {"quota_limit": MINUTE}}]}, False),
    ({"details": [{"violations": DAILY}, {"metadata": 5}, None]}, False),
    ({"message": DAILY}, False),
    (None, False),
]


@every(("part", "daily"), QUOTAS)
def test_a_quota_of_a_day(part: Any, daily: bool) -> None:
    """By the quota's id, not by words: a minute is waited out, a day is not."""
    assert is_daily_quota(part) is daily


# a rate limit's words -> whether they are about the whole key
WHOSE: list[tuple[str, bool]] = [
    ("This request would exceed your organization's rate limit of 50,000 input tokens", True),
    ("This request would exceed the rate limit for your organization (0a1b) of 5 requests", True),
    ("This request would exceed your account's rate limit. Please try again later.", True),
    ("Too many requests for this API key", True),
    ("You are using a trial key, which is limited to 40 API calls / minute", True),
    ("account_rate_limit_exceeded", True),
    ("Limit of 10 requests per workspace reached", True),
    ("Rate limit reached for requests in organization org-1", True),
    ("Organization-wide limit reached", True),
    ("Your account is rate limited across all models", True),
    ("Rate limit reached for gpt-x in organization org-1 on tokens per min (TPM)", False),
    ("Rate limit reached for model `other` in organization `org_1` on requests per day", False),
    ("Rate limit reached for default-other in organization org-1 on requests per min", False),
    ("organization's rate limit of 5 tokens per minute (org: 1, model: other)", False),
    ("Your organization's limit for vendor/gpt-x is reached", False),
    ("You have reached the rate limit specific to this model", False),
    ("Requests rate limit exceeded", False),
    ("Please retry after 2 seconds", False),
    ("Limited. Visit https://platform.openai.com/account/rate-limits to learn more", False),
    ("Limited. You can increase your rate limit by adding a payment method to your account", False),
    ("token rate limit of your current pricing tier is exceeded", False),
    ("", False),
]


@every(("words", "whole"), WHOSE, ids=[words[:50] for words, _ in WHOSE])
def test_whose_limit_it_is(words: str, whole: bool) -> None:
    """The model's, unless the words are about an organization, an account or a key as a whole."""
    assert is_for_whole_key(words, "vendor/gpt-x") is whole


@PROPERTY
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=60))
def test_any_header_and_message_are_read_without_a_crash(ms: str, after: str, text: str) -> None:
    """Whatever a server writes gives None or a finite number of 0 or more."""
    for message in (text, f"try again in {text}", f"try again in {after}{ms}s"):
        found = parse_retry_after({"retry-after-ms": ms, "retry-after": after}, message, NOW)
        assert found is None or 0 <= found < math.inf


DIGITS = st.text("0123456789.", max_size=450)


@PROPERTY
@given(DIGITS, DIGITS, DIGITS)
def test_any_number_in_a_message_is_read_without_a_crash(h: str, m: str, s: str) -> None:
    """So do numbers of any length in the message's own form."""
    for message in (f"try again in {h}h{m}m{s}s", f"try again in {m}m", f"try again in {s}ms"):
        found = parse_retry_after({}, message, NOW)
        assert found is None or 0 <= found < math.inf


# --- who is asked again -------------------------------------------------------------------------


def make(cls: type[LLMStreamError], **settings: Any) -> LLMStreamError:
    return cls("x", **settings)


# error -> asked again by default
KINDS: dict[str, tuple[LLMStreamError, bool]] = {
    cls.__name__: (make(cls), wanted)
    for cls, wanted in {
        errors.ConfigurationError: False,
        errors.InvalidRequestError: False,
        errors.AuthenticationError: False,
        errors.PermissionDeniedError: False,
        errors.QuotaExceededError: False,
        errors.RateLimitError: True,
        errors.OverloadedError: True,
        errors.ServerError: True,
        errors.ConnectTimeout: True,
        errors.FirstTokenTimeout: False,
        errors.IdleTimeout: True,
        errors.SilenceTimeout: True,
        errors.DeadlineExceeded: False,
        errors.ConnectionFailed: True,
        errors.StreamInterrupted: True,
        errors.StreamTruncated: True,
        errors.ProtocolError: False,
        errors.NotAStreamError: False,
        errors.EventTooLarge: False,
        errors.LoopDetected: False,
        errors.OutputError: False,
        errors.OutputRefused: False,
        errors.OutputCut: False,
        errors.OutputInvalid: False,  # `output_retries` ask again
        errors.RunError: False,
        errors.Cancelled: False,
        errors.BatchError: False,  # the calls themselves were retried
    }.items()
}


def test_every_error_is_in_the_table() -> None:
    """A new error has to say whether it is retried."""
    leaves = {
        name
        for name in errors.__all__
        if name not in ("LLMStreamError", "ServiceError", "StreamTimeout")
    }
    assert set(KINDS) == leaves


@every("kind", KINDS)
def test_who_is_asked_again(kind: str) -> None:
    """DESIGN 5: retried are limits, overload, server errors, lost and silent connections."""
    error, wanted = KINDS[kind]
    policy = RetryPolicy()
    assert error.retryable is wanted
    assert policy.should_retry(error) is wanted
    assert (policy.next_delay(error, 1, 0.0) is not None) is wanted


def test_a_first_token_timeout_only_on_request() -> None:
    """It may bill twice, so it is retried only where the caller said so."""
    error = make(errors.FirstTokenTimeout)
    assert RetryPolicy().next_delay(error, 1, 0.0) is None
    assert RetryPolicy(retry_first_token=True).next_delay(error, 1, 0.0) == 0.4
    assert not RetryPolicy(retry_first_token=True).should_retry(make(errors.DeadlineExceeded))


def test_the_server_decides_where_it_says_so() -> None:
    """x-should-retry is on the error as `retryable`, and wins."""
    policy = RetryPolicy()
    assert policy.should_retry(make(errors.InvalidRequestError, retryable=True))
    assert not policy.should_retry(make(errors.ServerError, retryable=False))


def limited(seconds: float | None) -> LLMStreamError:
    return RateLimitError("x", retry_after=seconds)


# error, failures, random, remaining, policy settings -> delay
NEXT: list[tuple[LLMStreamError, int, float, float, dict[str, Any], float | None]] = [
    (limited(None), 1, 0.0, math.inf, {}, 0.4),
    (limited(None), 2, 0.0, math.inf, {}, 0.8),
    (limited(None), 3, 0.0, math.inf, {}, 1.6),
    (limited(None), 4, 0.0, math.inf, {}, None),
    (limited(None), 5, 0.0, math.inf, {}, None),
    (limited(None), 1, 0.0, math.inf, {"max_attempts": 1}, None),
    (limited(None), 1, 0.4, math.inf, {}, 0.44),
    (limited(2.0), 1, 0.0, math.inf, {}, 2.0),
    (limited(2.0), 1, 0.4, math.inf, {}, 2.2),
    (limited(0.1), 1, 0.0, math.inf, {}, 0.4),
    (limited(0.0), 3, 0.0, math.inf, {}, 1.6),
    (limited(60.0), 1, 0.0, math.inf, {}, 60.0),
    (limited(60.1), 1, 0.0, math.inf, {}, None),
    (limited(61.0), 1, 0.0, math.inf, {"max_retry_after": 61}, 61.0),
    (limited(0.5), 1, 0.0, math.inf, {"max_retry_after": 0}, None),
    (limited(0.0), 1, 0.0, math.inf, {"max_retry_after": 0}, 0.4),
    (limited(5.0), 1, 0.0, 5.1, {}, 5.0),
    (limited(5.0), 1, 0.0, 5.0, {}, None),
    (limited(5.0), 1, 0.4, 5.1, {}, None),
    (limited(None), 1, 0.0, 0.0, {}, None),
    (limited(None), 1, 0.0, -1.0, {}, None),
    (make(errors.StreamTruncated), 1, 0.0, math.inf, {}, 0.4),
    (make(errors.QuotaExceededError, retry_after=1.0), 1, 0.0, math.inf, {}, None),
    (make(errors.AuthenticationError), 1, 0.0, math.inf, {}, None),
]


@every(
    ("error", "failures", "random", "remaining", "settings", "delay"),
    NEXT,
    ids=[f"{type(row[0]).__name__}-{i}" for i, row in enumerate(NEXT)],
)
def test_next_delay(
    error: LLMStreamError,
    failures: int,
    random: float,
    remaining: float,
    settings: dict[str, Any],
    delay: float | None,
) -> None:
    """The wait before the next attempt, or None: out of attempts, of time, or of the server's
    patience."""
    found = RetryPolicy(**settings).next_delay(error, failures, random, remaining)
    assert found == (None if delay is None else pytest.approx(delay))


@PROPERTY
@given(
    st.integers(1, 10),
    st.one_of(st.none(), st.floats(0, 200)),
    st.floats(0, 0.999),
    st.floats(-10, 200),
)
def test_a_wait_never_outlives_the_call(
    failures: int, asked: float | None, random: float, remaining: float
) -> None:
    """Where there is a next attempt, it begins within the deadline and not before the server's
    time; there are never more than max_attempts."""
    policy = RetryPolicy()
    delay = policy.next_delay(limited(asked), failures, random, remaining)
    if delay is not None:
        assert failures < policy.max_attempts
        assert (asked or 0.0) <= delay < remaining
        assert asked is None or asked <= policy.max_retry_after
