"""The attempts of a call whose answer has to be a value of a type."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from .._core.dialects.structured import asking_less
from .._core.recovery import NextAttempt, Recovery, asked_again
from .._core.request import HTTPRequest, Request
from .._core.retry import RetryPolicy
from .._core.session import Session
from .._runtime.scope import Stopped
from ..errors import OutputInvalid
from ..events.base import Restarted
from ..result import LLMStreamError
from .context import CallContext
from .endpoint import Endpoint
from .exchange import EventBatches, Exchange
from .retrying import Retrying

__all__ = ["TypedRetrying"]


class TypedRetrying(Retrying):
    """Reads the value when the answer has ended; where it has none, asks for another answer, at
    most `Request.output_retries` times. For the reader's thread."""

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
        recovery = _AfterRefusal(ctx, recovery)
        super().__init__(ctx, endpoint, exchange, policy, recovery, request, first, headers, before)
        ctx.output = request.output
        self._left = request.output_retries
        self.readable_as_text = recovery.readable_as_text and not self._left

    def batches(self, attempt: NextAttempt | None = None) -> EventBatches:
        """The events of the call, answer by answer. Raises Stopped, OutputError and what a call
        without a type raises."""
        while True:
            yield from super().batches(attempt)
            refused = self._refused()
            if refused is None:
                return
            attempt = self._ask_again(refused)

    def _without_refused_option(
        self, request: HTTPRequest, error: LLMStreamError
    ) -> HTTPRequest | None:
        """Also: asked for a structure in a way that the service knows."""
        accepted = super()._without_refused_option(request, error)
        if accepted is not None or not request.body or self._ctx.meter.first_token is not None:
            return accepted
        output = asking_less(self._request.output, error, self._endpoint.profile.structured)
        if output is None:
            return None
        changed = msgspec.structs.replace(self._request, output=output)
        first = self._endpoint.request(changed)
        if hash(first.body) in self._asked:
            return None
        self._asked |= {hash(first.body)}
        self._request, self._first = changed, first
        return first

    def _refused(self) -> OutputInvalid | None:
        """An answer has ended: None if it is the value, or not the last word; the reason if it is
        not, and another one may be asked for. Raises OutputError, Stopped."""
        ctx = self._ctx
        error = ctx.settle()
        if error is None:
            return None
        if not isinstance(error, OutputInvalid) or self._left <= 0:
            raise error
        if not ctx.scope.rearm():  # the clock of the body's end may have stopped it
            if ctx.cancelled:
                raise Stopped
            raise error
        self._left -= 1
        return error

    def _ask_again(self, error: OutputInvalid) -> NextAttempt:
        """The attempt after an answer that is not the value."""
        self._end_failed_attempt(error, 0.0, had_content=True)
        self._ctx.refuse()
        if self._place is not None:
            self._place.release()
        text_part = self._endpoint.dialect.text_part
        turn = error.partial.turn
        self._request = asked_again(self._request, turn, error.detail, text_part)
        self._first = self._endpoint.request(self._request)
        return NextAttempt(self._first, marker=Restarted)


class _AfterRefusal:
    """A recovery policy for answers that may have been refused. What is shown after a refusal does
    not count: of the answer that is asked for then, there is nothing yet."""

    def __init__(self, ctx: CallContext, recovery: Recovery) -> None:
        self._ctx = ctx
        self._recovery = recovery
        self.readable_as_text = recovery.readable_as_text

    def after_failure(self, shown: Session, first: HTTPRequest) -> NextAttempt | None:
        if shown is not self._ctx.refused:
            return self._recovery.after_failure(shown, first)
        following = self._recovery.after_failure(self._ctx.latest, first)
        return None if following is None else msgspec.structs.replace(following, marker=Restarted)

    def fallback(self, shown: Session, error: LLMStreamError) -> NextAttempt | None:
        return None if shown is self._ctx.refused else self._recovery.fallback(shown, error)
