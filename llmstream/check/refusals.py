"""Checks of failures where asking again does not help, and must not be tried."""

from __future__ import annotations

from ..testing import Reply
from .observed import judged
from .result import CheckResult, result
from .scenario import Scenario
from .settings import CheckSettings

__all__ = ["bad_key", "context_too_long", "html_page", "quota_used_up", "retry_after_too_long"]


def retry_after_too_long(settings: CheckSettings) -> CheckResult:
    """The server asks for a wait that the policy does not wait out."""
    longest = settings.retry.max_retry_after
    expected = f"RateLimitError, 1 request (max_retry_after={longest:g})"
    if not longest < 1e9:
        return result("n/a", expected, "no wait is too long for this policy")
    asked = longest * 2.0 + 1.0
    fault = Reply.error(429, headers={"retry-after": repr(asked)})
    return _refused(settings, fault, "RateLimitError", note=f"; the server asked for {asked:g} s")


def quota_used_up(settings: CheckSettings) -> CheckResult:
    """The account has no money left. Services report it in one of two ways; both are played."""
    by_status = Reply.error(402)
    by_code = Reply.error(429, code="insufficient_quota")
    first = _refused(settings, by_status, "QuotaExceededError")
    return _refused(settings, by_code, "QuotaExceededError") if first.ok else first


def bad_key(settings: CheckSettings) -> CheckResult:
    """The key is wrong."""
    fault = Reply.error(401, code="invalid_api_key")
    return _refused(settings, fault, "AuthenticationError")


def context_too_long(settings: CheckSettings) -> CheckResult:
    """The prompt is longer than the model's context."""
    fault = Reply.error(
        400,
        code="context_length_exceeded",
        type="invalid_request_error",
        message="the prompt is too long for the model's context",
    )
    return _refused(settings, fault, "InvalidRequestError")


def html_page(settings: CheckSettings) -> CheckResult:
    """200, and a proxy's page in place of the stream."""
    return _refused(settings, Reply.html(), "NotAStreamError")


def _refused(settings: CheckSettings, fault: Reply, error: str, *, note: str = "") -> CheckResult:
    with Scenario(settings, endless=fault) as scenario:
        observed = scenario.play()
    return judged(
        f"{error}, 1 request{note}",
        observed,
        (observed.ending == error, f"not {error}"),
        (len(observed.requests) == 1, "asked again in vain"),
    )
