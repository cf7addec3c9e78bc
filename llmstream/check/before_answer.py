"""Checks of failures before the answer, where asking again helps."""

from __future__ import annotations

import itertools
import math
import socket
from collections.abc import Sequence

import msgspec

from .._core.request import HTTPRequest
from .._core.retry import RetryPolicy
from .._runtime.scope import CancelScope
from .._transport.adapter import RequestsTransport
from .._transport.base import Response, Transport
from ..testing import Cut, Reply, Reset
from .backoff import kept_by_server, wait_bounds, within
from .observed import Observed, judged
from .result import CheckResult
from .scenario import Scenario
from .settings import CheckSettings
from .wording import counted

__all__ = [
    "connection_refused",
    "rate_limit",
    "reset_before_answer",
    "retry_after",
    "server_errors",
]

_MOST_ATTEMPTS = 12  # that are played where the policy allows more


def rate_limit(settings: CheckSettings) -> CheckResult:
    """429 without a wait that the server asks for, as often as the policy retries."""
    fault = Reply.error(429, code="rate_limit_exceeded")
    return _retried(settings, [fault], "RateLimitError")


def retry_after(settings: CheckSettings) -> CheckResult:
    """429 with a wait that the server asks for, longer than the policy's own."""
    policy, total = settings.retry, settings.timeouts.total
    longer = max(2.0 * wait_bounds(policy, 0)[1], 2.0)
    asked = min(longer, policy.max_retry_after, math.inf if total is None else total / 3.0)
    fault = Reply.error(429, code="rate_limit_exceeded", headers={"retry-after": repr(asked)})
    return _retried(settings, [fault], "RateLimitError", asked=asked, most=1)


def server_errors(settings: CheckSettings) -> CheckResult:
    """500 for ever."""
    fault = Reply.error(500)
    return _retried(settings, [fault], "ServerError", endless=True)


def reset_before_answer(settings: CheckSettings) -> CheckResult:
    """The connection is lost after the request, before any byte of an answer."""
    faults = [Reply(before=[Reset()]), Reply(before=[Cut()])]
    return _retried(settings, faults, "ConnectionFailed", most=2)


def connection_refused(settings: CheckSettings) -> CheckResult:
    """At first nothing listens at the address."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # takes the port, but without listen() it refuses
        port = silent.getsockname()[1]
        times = min(2, max(1, settings.retry.max_attempts - 1))
        transport = _Misdirected(f"http://127.0.0.1:{port}", times)
        return _retried(settings, [], "ConnectionFailed", most=2, transport=transport)


class _Misdirected:
    """The real transport, but its first requests go to another address."""

    def __init__(self, url: str, times: int) -> None:
        self._transport = RequestsTransport()
        self._url = url
        self._left = times

    def send(self, request: HTTPRequest, scope: CancelScope) -> Response:
        if self._left:
            self._left -= 1
            request = msgspec.structs.replace(request, url=self._url)
        return self._transport.send(request, scope)

    def close(self) -> None:
        self._transport.close()


def _retried(
    settings: CheckSettings,
    faults: Sequence[Reply],
    error: str,
    *,
    asked: float = 0.0,
    most: int = _MOST_ATTEMPTS,
    endless: bool = False,
    transport: Transport | None = None,
) -> CheckResult:
    """A call that fails at first, and has to be made again as the policy demands.

    The server plays `faults` in turn: `most` times, but not for the last attempt that the policy
    allows, or for ever with `endless`. `error` is the name of what they raise, `asked` the wait in
    seconds that they ask for.
    """
    allowed = min(settings.retry.max_attempts, _MOST_ATTEMPTS)
    policy = msgspec.structs.replace(settings.retry, max_attempts=allowed)
    failures = allowed if endless else max(1, min(most, allowed - 1))
    recovers = failures < allowed
    requests = failures + 1 if recovers else allowed
    bounds = [wait_bounds(policy, n, asked) for n in range(allowed)]
    script = list(itertools.islice(itertools.cycle(faults), failures if faults else 0))
    lasts = sum(high for _, high in bounds[: requests - 1])
    total = settings.timeouts.total
    lasts = lasts if total is None else min(lasts, total)
    with Scenario(
        settings,
        *script,
        endless=faults[0] if endless else None,
        lasts=lasts,
        transport=transport,
    ) as scenario:
        observed = scenario.play(retry=policy)
    short = _out_of_time(observed, total, bounds, requests)
    note = f"; total={total:g} s leaves no time for more" if short else ""
    ending = error if short or not recovers else "the answer"
    endings = (error, "DeadlineExceeded") if short else (error,)
    right = observed.whole if ending == "the answer" else observed.ending in endings
    return judged(
        _expected(settings.retry, requests, bounds, ending) + note,
        observed,
        (right, f"not {ending}"),
        (short or len(observed.attempts) == requests, f"not {counted(requests, 'request')}"),
        (within(observed.waits, bounds), "a wait is not the policy's"),
        (kept_by_server(observed), "the server received the requests at other times"),
    )


def _expected(
    policy: RetryPolicy, requests: int, bounds: Sequence[tuple[float, float]], ending: str
) -> str:
    if policy.max_attempts == 1:
        return f"{ending} at once (1 attempt, as configured)"
    waits = ", ".join(f"{low:.3g}-{high:.3g}" for low, high in bounds[: requests - 1])
    played = (
        f", played with {_MOST_ATTEMPTS} attempts of {policy.max_attempts}"
        if policy.max_attempts > _MOST_ATTEMPTS
        else ""
    )
    return f"{ending}, {counted(requests, 'request')}, waits {waits} s{played}"


def _out_of_time(
    observed: Observed, total: float | None, bounds: Sequence[tuple[float, float]], requests: int
) -> bool:
    """Whether fewer requests are right, because the next wait would pass the hard deadline."""
    made = len(observed.attempts)
    if total is None or observed.error is None or not 0 < made <= requests:
        return False
    if made == requests and observed.ending != "DeadlineExceeded":
        return False
    return observed.seconds + bounds[made - 1][1] >= total
