"""Where the parts of a call are put together, for one client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from .._core.dialects import APIS
from .._core.dialects.base import Dialect
from .._core.dialects.profiles import Profile, profile_for
from .._core.recovery import POLICIES
from .._core.request import Request
from .._core.retry import RetryPolicy
from .._core.session import Session
from .._core.timers import Timeouts, Timers
from .._runtime.clock import Clock
from .._runtime.scope import NEVER, CancelScope, Scheduler
from .._runtime.watchdog import shared_watchdog
from .._settings.arguments import checked_api
from .._settings.client import ClientSettings
from .._transport.base import Transport
from .._transport.proxy import find_proxy
from ..errors import ConfigurationError
from ..result import Cost, Result, Service
from ..telemetry.observer import Dispatcher, Hooks
from ..telemetry.reporter import Reporter
from .budget import Budget, shared_budget
from .call import Call
from .context import CallContext
from .endpoint import Endpoint
from .exchange import Exchange
from .retrying import Retrying

__all__ = ["CallFactory"]


class CallFactory:
    """Makes the calls of one client. Immutable; thread-safe.

    `before` is called when a call starts, and may refuse it by raising. `private`: what is learned
    of the service holds for this client only, because its network or its clock is a double.
    """

    def __init__(
        self,
        settings: ClientSettings,
        transport: Transport,
        clock: Clock,
        dispatcher: Dispatcher,
        before: Callable[[], None],
        *,
        private: bool,
    ) -> None:
        self.endpoint = _endpoint(settings, transport, clock, private=private)
        self._clock = clock
        self._dispatcher = dispatcher
        self._before = before
        self._max_event_bytes = settings.max_event_bytes
        self._new_session = partial(
            Session,
            self.endpoint.dialect,
            settings.max_event_bytes,
            max_identical_chunks=settings.max_identical_chunks,
        )

    @property
    def dispatcher(self) -> Dispatcher:
        """Who is told of what the client does."""
        return self._dispatcher

    def make(
        self,
        request: Request,
        timeouts: Timeouts,
        policy: RetryPolicy,
        on_disconnect: str,
        trace_id: str,
        headers: Mapping[str, str],
    ) -> Call:
        """A call that has not started. Raises ConfigurationError for what cannot be sent."""
        endpoint, clock = self.endpoint, self._clock
        dialect = endpoint.dialect
        first = endpoint.request(request)
        recovery = POLICIES[on_disconnect](request, first, dialect, endpoint.api, endpoint.base_url)
        scope = CancelScope(Timers(timeouts, NEVER), clock, endpoint.scheduler())
        ctx = CallContext(
            self._new_session(first.choices),
            scope,
            timeouts,
            clock,
            dialect,
            endpoint.service,
            trace_id,
        )
        exchange = Exchange(ctx, endpoint.transport, self._new_session, self._max_event_bytes)
        kind = Retrying if request.output is None else _typed()
        retrying = kind(
            ctx, endpoint, exchange, policy, recovery, request, first, headers, self._before
        )
        return Call(ctx, retrying, partial(self._begin_report, request, trace_id))

    def _begin_report(self, request: Request, trace_id: str, ctx: CallContext) -> None:
        """The call begins: it gets its reporter, or what makes one where it fails."""
        dispatcher = self._dispatcher
        hooks = dispatcher.hooks()
        if not dispatcher.listens(hooks):
            return
        begun = ctx.meter.begun, self._clock.time()
        if dispatcher.follows(hooks):
            ctx.reporter = self._reporter(hooks, request, trace_id, begun)
        else:
            ctx.make_reporter = partial(self._reporter, hooks, request, trace_id, begun)

    def _reporter(
        self, hooks: Hooks, request: Request, trace_id: str, begun: tuple[float, float]
    ) -> Reporter:
        service = self.endpoint.service
        return Reporter(
            self._dispatcher,
            hooks,
            request,
            begun[0],
            trace_id=trace_id,
            api=service.api,
            host=service.host,
            port=self.endpoint.port,
            started=begun[1],
        )


def _endpoint(
    settings: ClientSettings, transport: Transport, clock: Clock, *, private: bool
) -> Endpoint:
    found = settings.service()
    api = APIS[settings.api]
    dialect = api.load()
    base_url = (found.base_url or dialect.default_base_url).rstrip("/")
    address = urlsplit(base_url)
    profile = _profile(settings, dialect, base_url)
    key = found.api_key
    place = address.netloc.rpartition("@")[2]
    service: Service = _Service(settings.api, address.hostname or "")
    return Endpoint(
        api=api,
        dialect=dialect.with_profile(profile),
        profile=profile,
        service=service,
        base_url=base_url,
        key=key,
        headers=settings.headers,
        transport=transport,
        budget=Budget() if private else shared_budget(place, key.identity if key else ""),
        clock=clock,
        scheduler=partial(_scheduler, clock),
        find_proxy=partial(find_proxy, proxies=settings.proxies, trust_env=settings.trust_env),
    )


def _profile(settings: ClientSettings, dialect: Dialect, base_url: str) -> Profile:
    """The profile, with the client's own settings in the place of what it has."""
    profile = profile_for(settings.profile, base_url)
    tags = settings.think_tags
    if tags is None or tags == profile.think_tags:
        return profile
    if tags and not dialect.splits_thinking:
        raise ConfigurationError(
            f"think_tags={tags!r}: the API {settings.api!r} has no thinking in its text: leave it "
            "out, or use Chat Completions"
        )
    return msgspec.structs.replace(profile, think_tags=tags)


def _typed() -> type[Retrying]:
    from .typed import TypedRetrying

    return TypedRetrying


class _Service(Struct, frozen=True):
    """Who answers; see result.Service."""

    api: str
    host: str

    def cost(self, result: Result, at: float | None = None) -> Cost | None:
        from ..telemetry.cost import cost_of

        return cost_of(self.api, self.host, result, at)

    def turns(self, turns: tuple[Any, ...], api: Any) -> list[Any]:
        return checked_api(api).load().own_turns(turns)


def _scheduler(clock: Clock) -> Scheduler:
    # A clock double ticks the scopes itself when its time moves.
    found: Scheduler | None = getattr(clock, "scheduler", None)
    return found or shared_watchdog()
