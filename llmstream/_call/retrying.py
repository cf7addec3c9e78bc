"""The visible loop: what to do after an attempt has failed."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from .._core.phase import Phase
from .._core.recovery import Mode, NextAttempt, Recovery
from .._core.request import HTTPRequest, Request
from .._core.retry import RetryPolicy, is_for_whole_key
from .._runtime.frames import forget_variables
from .._runtime.scope import Stopped
from .._runtime.threads import is_finalizing
from .._settings.secret import Secret
from ..errors import (
    ConfigurationError,
    ConnectionFailed,
    LLMStreamError,
    OverloadedError,
    RateLimitError,
    ServiceError,
)
from ..events.base import AnyEvent, Retried, marker_event
from .budget import Budget
from .context import CallContext
from .endpoint import Endpoint
from .exchange import EventBatches, Exchange

if TYPE_CHECKING:
    from .limiter import Limiter, Place

__all__ = ["Retrying"]

_SECRETS = 8  # keys of a call that are kept, the latest ones
_GREATEST_FACTOR = 3  # times max_attempts: requests of a call, however often it made progress


class _Tries:
    """Counts the attempts of one call that have failed, the free ones not counted.

    `retries` counts all, `failures` those in a row that have brought no content: new content is
    progress, and then they count anew. An attempt is excused if the limit of the service, which is
    searched for, has refused it: it costs a wait, and no attempt.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self.retries = 0
        self._failures = 0
        self._excused = 0  # in a row

    def add(self, error: LLMStreamError, *, had_content: bool, excused: bool) -> bool:
        """One more; returns whether it is excused. A policy without retries excuses nothing. Once a
        refusal is not excused, those before it count too: the call has had its attempts."""
        if had_content:
            self._failures = self._excused = 0
        elif excused and self._policy.max_attempts > 1:
            self._excused += 1
            return True
        else:
            refused = isinstance(error, (RateLimitError, OverloadedError))
            self._failures += 1 + (self._excused if refused else 0)
            self._excused = 0
        self.retries += 1
        return False

    def delay(self, error: LLMStreamError, random: float, remaining: float) -> float | None:
        """The seconds to wait before the next attempt; None: there is none."""
        most = self._policy.max_attempts
        if self.retries >= _GREATEST_FACTOR * most:
            return None
        failures = self._failures
        if self._excused:
            failures = min(failures + self._excused, most - 1)
        return self._policy.next_delay(error, failures, random, remaining)


class Retrying:
    """The attempts of one call. For the reader's thread.

    `request` is the call in the caller's words, `first` in the API's; `before` is called when the
    call starts and may refuse it by raising.
    """

    tells = False  # whether the events show that a request is made again
    _tries: _Tries | None = None  # None: no attempt has failed
    _place: Place | None = None  # among the calls that share a limit
    _resent = False
    _secrets: tuple[Secret, ...] = ()  # the keys that were sent: a service may quote them
    # In what words the service was asked, once it has refused an option: hashes of bodies.
    _asked: frozenset[int] = frozenset()

    def __init__(
        self,
        ctx: CallContext,
        endpoint: Endpoint,
        exchange: Exchange,
        policy: RetryPolicy,
        recovery: Recovery,
        request: Request,
        first: HTTPRequest,
        headers: Mapping[str, str],
        before: Callable[[], None],
    ) -> None:
        self._ctx = ctx
        self._endpoint = endpoint
        self._exchange = exchange
        self._policy = policy
        self._recovery = recovery
        self._request = request
        self._first = first
        self._headers = headers
        self._before = before
        named = request.extra_body.get("model") if request.extra_body else None
        self.model = named if isinstance(named, str) else request.model  # as it is sent
        self.readable_as_text = recovery.readable_as_text

    def limit_by(self, limiter: Limiter) -> None:
        """Every request passes `limiter`."""
        held = partial(_seconds_held, self._endpoint.budget, self.model)
        self._place = limiter.place(self.model, held)
        self._exchange.on_accepted = self._place.accepted

    def wait_for_place(self) -> None:
        """Wait until a request may be sent, where there is a limiter. Raises Stopped."""
        if self._place is not None:
            self._place.acquire(self._ctx.scope)

    def leave_place(self) -> None:
        """No further request is sent. Idempotent, never raises."""
        if self._place is not None:
            self._place.release()

    def batches(self, attempt: NextAttempt | None = None) -> EventBatches:
        """The events of the call, attempt by attempt. Raises Stopped and the library's errors."""
        self._before()
        attempt = attempt or NextAttempt(self._first)
        while True:
            self._wait_while_throttled()
            if self._place is not None and self._place.granted is None:
                self._wait_to_send(self._place)
            try:
                yield from self._exchange.events(attempt, self._dress(attempt.request), self._dress)
                self._endpoint.budget.refill(retried=bool(self._tries and self._tries.retries))
                return
            except LLMStreamError as exc:
                error = exc
            except Stopped:
                error = self._ctx.stop_error()
            attempt, delay = self._after_failure(attempt, error)
            if delay is None:
                continue
            if self.tells:
                yield [_retried(self._ctx, error, delay)]
            self._pause(delay, Phase.BACKOFF)

    def _dress(self, request: HTTPRequest) -> HTTPRequest:
        ctx = self._ctx
        propagated = ctx.reporter.headers() if ctx.reporter is not None else {}
        secret = self._endpoint.secret()
        if secret is not None and secret not in self._secrets:
            self._secrets = (*self._secrets[1 - _SECRETS :], secret)
        return self._endpoint.dress(request, secret, ctx.trace_id, self._headers, propagated)

    def _after_failure(
        self, attempt: NextAttempt, error: LLMStreamError
    ) -> tuple[NextAttempt, float | None]:
        """The next attempt, and the seconds to wait before it; None for one that costs nothing.
        Raises `error` where there is none."""
        ctx, endpoint = self._ctx, self._endpoint
        forget_variables(error)  # it is kept in its attempt
        # Both by what the service said; after `redact`, what it quotes is blotted out.
        for_all_models = isinstance(error, RateLimitError) and is_for_whole_key(
            error.message, self.model
        )
        accepted = self._without_refused_option(attempt.request, error)
        endpoint.redact(error, self._request, self._headers, self._secrets, self._expired)
        sent = self._secrets[-1] if self._secrets else None
        endpoint.advise(error, sent, self._headers)
        if error.request_id is not None:
            ctx.request_id = error.request_id  # as it is now
        wait = self._learn(error, for_all_models)
        excused = self._place is not None and self._place.failed(error, wait)
        at_once = self._at_once(attempt, error, accepted)
        if at_once is not None:
            return at_once, None
        had_content = ctx.meter.first_token is not None
        tries = self._tries = self._tries or _Tries(self._policy)
        excused = tries.add(error, had_content=had_content, excused=excused)
        remaining = ctx.scope.timers.remaining(ctx.clock.monotonic())
        delay = tries.delay(error, random.random(), remaining)
        if delay is None:
            raise error
        following = self._recovery.after_failure(ctx.session, self._first)
        if following is None:
            raise error
        if not ctx.scope.rearm():  # ended meanwhile: that is the reason now
            ctx.report_attempt(ctx.end_attempt(error))
            raise Stopped
        if not excused and not endpoint.budget.spend():
            error.add("not sent again: the retry budget of this host and key is used up")
            raise error
        self._end_failed_attempt(error, delay, had_content)
        if following.mode not in (Mode.RESUME, Mode.POLL):
            self._cancel_response()
        return following, delay

    def _expired(self) -> bool:
        """Whether the call has no time left, or is cancelled."""
        ctx = self._ctx
        return ctx.cancelled or ctx.scope.timers.remaining(ctx.clock.monotonic()) <= 0

    def _at_once(
        self, attempt: NextAttempt, error: LLMStreamError, accepted: HTTPRequest | None
    ) -> NextAttempt | None:
        """An attempt that costs no wait and no attempt, where there is one."""
        ctx = self._ctx
        if isinstance(error, ConnectionFailed) and error.reused and not self._resent:
            # A server closes idle connections when it likes. Not a byte came back, so it is safe
            # to send the request again.
            self._resent = True
            ctx.report_attempt(ctx.end_attempt(error, resent=True))
            return attempt
        if accepted is not None:
            ctx.report_attempt(ctx.end_attempt(error))
            return msgspec.structs.replace(attempt, request=accepted)
        fallback = self._recovery.fallback(ctx.session, error)
        if fallback is not None:
            ctx.report_attempt(ctx.end_attempt(error))
        return fallback

    def _without_refused_option(
        self, request: HTTPRequest, error: LLMStreamError
    ) -> HTTPRequest | None:
        """`request` as the service wants it, where it refused an option of it by name and has not
        been asked in these words before."""
        if self._ctx.meter.first_token is not None:
            return None  # it has begun to answer: asked again, it would repeat
        without = self._endpoint.dialect.without_refused_option
        accepted = without(request, error)
        self._asked = self._asked or frozenset((hash(self._first.body),))
        if accepted is None or hash(accepted.body) in self._asked:
            return None
        self._asked |= {hash(accepted.body)}
        self._first = without(self._first, error) or self._first
        return accepted

    def _end_failed_attempt(self, error: LLMStreamError, delay: float, had_content: bool) -> None:
        """The attempt has failed, and another one follows. What it brought stays readable."""
        ctx = self._ctx
        ctx.report_attempt(ctx.end_attempt(error, delay))
        if ctx.reporter is not None:  # the attempt has been reported
            ctx.reporter.retry(delay)
        if had_content:
            error.partial = ctx.result()
        error.__traceback__ = None  # its frames hold the request, and the error is kept

    # -- waits

    def _pause(self, seconds: float, phase: Phase) -> None:
        """Wait between two attempts. Raises Stopped."""
        ctx = self._ctx
        since = ctx.clock.monotonic()
        try:
            ctx.scope.sleep(seconds, phase)
        finally:
            ctx.meter.rested += ctx.clock.monotonic() - since

    def _learn(self, error: LLMStreamError, for_all_models: bool) -> float:
        """One stream that is asked to wait speaks for all of its host, key and model, and for those
        of other models only where the service says so. Returns the wait, where it is waited out."""
        wait = error.retry_after if isinstance(error, ServiceError) else None
        if not wait or wait > self._policy.max_retry_after:
            return 0.0
        if isinstance(error, RateLimitError):
            model = None if for_all_models else self.model
            self._endpoint.budget.throttle(error, self._ctx.clock.monotonic(), model)
        return wait

    def _wait_to_send(self, place: Place) -> None:
        """Wait for the limit that the calls of a batch share. Only the total clock runs. Raises
        Stopped."""
        ctx = self._ctx
        since = ctx.clock.monotonic()
        ctx.scope.sleep(0.0, Phase.THROTTLED)
        try:
            place.acquire(ctx.scope)
        finally:
            waited = ctx.clock.monotonic() - since
            ctx.meter.rested += waited
            ctx.meter.throttled += waited

    def _wait_while_throttled(self) -> None:
        """Wait until the service may be asked again. Raises Stopped, RateLimitError."""
        ctx, budget = self._ctx, self._endpoint.budget
        since = ctx.clock.monotonic()
        left, whole = budget.throttled(since, self.model)
        if not left:
            return
        # The jitter spreads those that wait for the same moment.
        until = since + left + random.random() * self._policy.jitter * whole
        while left:
            now = ctx.clock.monotonic()
            if left >= ctx.scope.timers.remaining(now):
                ctx.scope.enter(Phase.THROTTLED)
                raise budget.refusal(now, self.model)
            self._pause(max(left, until - now), Phase.THROTTLED)
            left, _ = budget.throttled(ctx.clock.monotonic(), self.model)
        ctx.meter.throttled = ctx.clock.monotonic() - since

    # -- a response that the service goes on with

    def cancel_response(self) -> None:
        """The call was cancelled: so is the response, if it runs in the background. Never raises;
        takes 5 s at most."""
        if not is_finalizing():
            self._cancel_response()

    def _cancel_response(self) -> None:
        session = self._ctx.latest
        known = session.state.response_id
        if known is None or session.complete or session.state.status in ("failed", "cancelled"):
            return
        stored = self._endpoint.dialect.stored(self._first, known)
        if stored is not None:
            with contextlib.suppress(ConfigurationError):  # of a key that cannot be had
                self._endpoint.send_and_forget(self._dress(stored.cancel()))


def _seconds_held(budget: Budget, model: str, now: float) -> float:
    return budget.throttled(now, model)[0]


def _retried(ctx: CallContext, error: LLMStreamError, delay: float) -> AnyEvent:
    ctx.scope.hand_over()
    number = len(ctx.meter.attempts[0]) + 1
    return marker_event(Retried, number, reason=type(error).__name__, delay=delay)
