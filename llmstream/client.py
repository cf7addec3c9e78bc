"""Client: where the parts are put together, and the visible retry loop."""

from __future__ import annotations

import math
import os
import random
import re
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from ._core.classify import KNOWN_WORDS
from ._core.deadline import Clocks, Timeouts
from ._core.dialects import DIALECTS
from ._core.dialects.base import Call, Dialect, WireRequest
from ._core.profiles import profile_for
from ._core.recovery import POLICIES, Asked, Recovery, Step
from ._core.retry import RetryPolicy
from ._core.session import MAX_EVENT_BYTES, Session
from ._version import __version__
from .budget import Budget, shared_budget
from .clock import SYSTEM_CLOCK, Clock
from .config import (
    WAYS_OUT,
    Settings,
    from_environment,
    keyring_settings,
    vendor_settings,
)
from .errors import (
    ConfigurationError,
    ConnectionFailed,
    LLMStreamError,
    ProtocolError,
    RateLimitError,
    ServiceError,
)
from .observe import Observers, Watch, random_id, start_watch
from .result import Result, Service
from .secret import Secret, quotable, without_quotes
from .stream import Batches, Pump, Stream
from .transport import RequestsTransport, Transport
from .watchdog import Guard, Scheduler, Stop, Stopped, shared_watchdog

if TYPE_CHECKING:
    from .cost import Cost, Ledger

__all__ = ["Client", "stream"]

_TRACE_ID = re.compile("[0-9a-f]{32}")
# The fields of a request that hold prompts, in the words of the three APIs.
_PROMPTS = ("input", "instructions", "messages", "system", "prompt")
_FAREWELL = 5.0  # seconds, at most, to tell a service that a response is not wanted any more
_GREATEST_FACTOR = 3  # times max_attempts: requests of a call, however often it made progress


class Client:
    """A service, and how to talk to it. Safe to share between threads, and to use after a fork.

    Args:
        api: "responses" (the OpenAI Responses API), "messages" (the Anthropic Messages API) or
            "chat" (Chat Completions, any compatible server).
        base_url: in the vendor's own form, `https://api.openai.com/v1` for responses and chat,
            `https://api.anthropic.com` for messages; default: the vendor's variable in the
            environment, then the vendor's own address.
        api_key: default: the vendor's variable, but only where `base_url` is not given. With a
            `base_url` and no key no authorization is sent.
        model: default: `LLMSTREAM_MODEL`, then "gpt-5.4-mini" for responses, "claude-haiku-4-5"
            for messages; chat has none.
        timeouts: the five clocks, see Timeouts.
        retry: see RetryPolicy.
        on_disconnect: what to do when the stream is cut after content came. "raise": the error,
            with what had come. "restart": ask again from the start, and say so (a "restart" chunk,
            a Restarted event; iterating for text is refused). "continue": ask to go on behind what
            had come (plain text only). "resume": take up the same answer where it was cut (the
            Responses API with background=True).
        profile: how the server does what others do differently ("openai", "azure", "openrouter",
            "ollama", "vllm", "llama.cpp", "mistral", ...); default: by the host's name, else
            lenient enough for all.
        headers: sent with every request.
        max_connections: idle connections kept; more may be open, nobody waits for one.
        observers: who is told of every call, see `llmstream.observe.Observer`; for example a
            `llmstream.metrics.PrometheusObserver()`. One may serve many clients.
        max_cost: USD (a number, a Decimal or its text) after which no further call is made: once
            the known cost of those that have ended reaches it, `stream` and the first use of a
            Stream raise ConfigurationError, and nothing is sent. Calls that run go on. The known
            cost is a lower bound: a call that was cut has not told its usage, and of services and
            models that are not in the price list nothing is known (a warning says so once).
            It counts for this client in this process. Needs the extra `cost`; default: no limit.
        verify: True, False, or the path of a CA file.
        max_event_bytes: the size in bytes at which an event is refused with EventTooLarge.
        max_identical_chunks: so many chunks in a row that are all the same end the stream with
            LoopDetected; default: no limit.
        transport, clock: doubles for tests, see `llmstream.testing`.

    Raises ConfigurationError for settings that cannot work.
    """

    def __init__(
        self,
        api: str = "responses",
        *,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        model: str | None = None,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        on_disconnect: str = "raise",
        profile: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_connections: int = 100,
        observers: Sequence[Any] = (),
        max_cost: Decimal | float | str | None = None,
        verify: bool | str = True,
        max_event_bytes: int = MAX_EVENT_BYTES,
        max_identical_chunks: int | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
    ) -> None:
        dialect = _dialect(api)
        settings = _settings(api, base_url, api_key)
        self._base_url = (settings.base_url or dialect.default_base_url).rstrip("/")
        self._address = urlsplit(self._base_url)
        self._service: Service = _Service(dialect.name, self._address.hostname or "")
        self._profile = profile_for(profile, self._base_url)
        self._dialect = dialect.with_profile(self._profile)
        self._secret = settings.api_key
        self._model = model
        self._timeouts = _of_type(Timeouts, "timeouts", timeouts) or Timeouts()
        self._retry = _of_type(RetryPolicy, "retry", retry) or RetryPolicy()
        self._on_disconnect = _policy(on_disconnect)
        self._ledger = None if max_cost is None else _ledger(max_cost)
        self._observers = _checked_observers(observers, self._ledger)
        self._headers = _checked_headers(headers)
        self._max_event_bytes = _checked_count("max_event_bytes", max_event_bytes) or 0
        self._max_identical_chunks = _checked_count("max_identical_chunks", max_identical_chunks)
        self._transport = transport or RequestsTransport(
            max_connections=_checked_count("max_connections", max_connections) or 1, verify=verify
        )
        self._clock = clock or SYSTEM_CLOCK
        # With a double of the network or of time, what is learned holds for this client only.
        self._budget = Budget() if transport or clock else self._shared_budget()
        # Guards _streams and _closed. Reentrant: a signal handler may close the client.
        self._lock = threading.RLock()
        self._streams: weakref.WeakSet[Pump] = weakref.WeakSet()
        self._closed = False
        _instances.add(self)

    def __repr__(self) -> str:
        scheme, _, rest = self._base_url.partition("?")[0].partition("://")
        return f"Client({self._dialect.name!r}, base_url='{scheme}://{rest.rpartition('@')[2]}')"

    @classmethod
    def from_env(cls, **overrides: Any) -> Client:
        """A client with the environment's settings: LLMSTREAM_{API,BASE_URL,API_KEY,MODEL}, else
        OPENAI_API_KEY and OPENAI_BASE_URL, else ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL, else a
        key on the operating system's keyring.

        `overrides` are arguments of Client and win. Raises ConfigurationError with the ways out
        where nothing is set.
        """
        if overrides.get("base_url"):
            return cls(**overrides)
        api = overrides.pop("api", None)
        environ = {**os.environ, "LLMSTREAM_API": api} if isinstance(api, str) else None
        try:
            found = from_environment(environ)
        except ConfigurationError:
            if not overrides.get("api_key"):
                raise
            found = Settings(api or "responses")
        return cls(
            **{
                "api": found.api,
                "base_url": found.base_url,
                "api_key": found.api_key,
                **overrides,
            }
        )

    @classmethod
    def local(
        cls,
        model_file: str | os.PathLike[str] | None = None,
        *,
        api: str = "chat",
        **overrides: Any,
    ) -> Client:
        """A client of a real model in this process: llama.cpp's own HTTP server on loopback, with
        SmolLM2-135M-Instruct (fetched once, 98 MB) or the GGUF file given.

        It serves all three APIs; the default is "chat", because on "responses" llama.cpp does not
        say when an answer was cut by a limit (measured). Needs the extra `local`. One server per
        process and file; it ends with the process. Raises ConfigurationError where it cannot be
        had.
        """
        from .local import shared_server

        server = shared_server(model_file)
        base_url = server.url if api == "messages" else server.base_url
        given = {"base_url": base_url, "model": server.model, "profile": "llama.cpp"}
        return cls(api, **{**given, **overrides})

    def stream(
        self,
        prompt: str | list[Any],
        *,
        model: str | None = None,
        instructions: str | None = None,
        max_output_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: str | list[str] | None = None,
        tools: list[Any] | None = None,
        tool_choice: Any = None,
        thinking: Any = None,
        background: bool = False,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        on_disconnect: str | None = None,
        trace_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> Stream:
        """A call that is ready to be made. Touches no network: it starts, and its clocks with it,
        at the first use of the Stream.

        `prompt` is the text, or a list of {"role", "content"}. `timeouts`, `retry` and
        `on_disconnect` stand in for the client's. `trace_id` (default: made, 32 hex digits) is on
        everything this call leaves behind, and goes out as `X-Client-Request-Id` and, where it is
        32 hex digits, in `traceparent` (an observer with spans sets its own). `extra_body` is
        laid over the request's JSON. Raises ConfigurationError for what cannot be sent, and once
        `max_cost` is reached.
        """
        limits = _of_type(Timeouts, "timeouts", timeouts) or self._timeouts
        policy = _of_type(RetryPolicy, "retry", retry) or self._retry
        self._check_cost()
        recovery = POLICIES[_policy(on_disconnect or self._on_disconnect)]
        call = Call(
            prompt=_checked_prompt(prompt),
            model=self._model_for(model),
            instructions=instructions,
            max_output_tokens=_checked_count("max_output_tokens", max_output_tokens),
            temperature=_checked_number("temperature", temperature),
            top_p=_checked_number("top_p", top_p),
            stop=stop,
            tools=tools,
            tool_choice=tool_choice,
            thinking=thinking,
            background=background,
            extra_body=extra_body,
        )
        request = self._request(call)
        asked = Asked(call, self._dialect, self._base_url, request)
        pump = Pump(
            _Run(self, policy, recovery(asked), call, request, headers),
            self._dialect,
            limits,
            self._clock,
            self._scheduler(),
            _checked_trace_id(trace_id),
            self._max_event_bytes,
            self._max_identical_chunks,
        )
        stream = Stream(pump)
        with self._lock:
            if self._closed:
                raise ConfigurationError("this client is closed: make a new one")
            self._streams.add(pump)
        return stream

    @property
    def cost(self) -> Decimal | None:
        """The known cost in USD of the calls that have ended: a lower bound, see `max_cost`; None
        without one. `max_cost="inf"` counts and refuses nothing."""
        return None if self._ledger is None else self._ledger.spent

    def _check_cost(self) -> None:
        if self._ledger is not None:
            self._ledger.check()

    def _scheduler(self) -> Scheduler:
        # A clock double calls the guards itself when its time moves.
        found: Scheduler | None = getattr(self._clock, "scheduler", None)
        return found or shared_watchdog()

    def _request(self, call: Call) -> WireRequest:
        try:
            return self._dialect.request(call, self._base_url)
        except (TypeError, ValueError, AttributeError) as exc:
            raise ConfigurationError(
                f"the call cannot be put into the words of this API ({type(exc).__name__}): check "
                "the types of prompt, tools and options"
            ) from exc

    def _model_for(self, model: str | None) -> str:
        chosen = (
            model or self._model or os.environ.get("LLMSTREAM_MODEL") or self._dialect.default_model
        )
        if not chosen:
            raise ConfigurationError("this API has no default model: pass model=")
        return chosen

    def _wire(
        self, request: WireRequest, headers: Mapping[str, str] | None, pump: Pump
    ) -> WireRequest:
        merged = {
            "user-agent": f"llmstream/{__version__}",
            "accept-encoding": "identity",  # compression would hold tokens back
            "x-client-request-id": pump.trace_id,
            **_traceparent(pump.trace_id),
            **(pump.watch.headers() if pump.watch is not None else {}),
            **request.headers,
            **self._auth(),
            **self._headers,
            **_checked_headers(headers),
        }
        return msgspec.structs.replace(request, headers=merged)

    def _shared_budget(self) -> Budget:
        host = self._address.netloc.rpartition("@")[2]
        return shared_budget(host, self._secret.reveal() if self._secret else "")

    def _auth(self) -> dict[str, str]:
        if not self._secret:
            return {}
        key = self._secret.reveal()
        return {"api-key": key} if self._profile.auth == "api-key" else self._dialect.auth(key)

    def _redact(self, error: LLMStreamError, call: Call, headers: Mapping[str, str]) -> None:
        """Some servers quote in their error what they were sent: the key, headers, the prompt."""
        if not isinstance(error, (ServiceError, ProtocolError)):
            return  # all its words are our own
        extra = [(call.extra_body or {}).get(name) for name in _PROMPTS]
        quoted = (*quotable(call.prompt), *quotable(call.instructions), *quotable(extra))
        values = [v for v in (*self._headers.values(), *headers.values()) if len(v) >= 8]
        values += [v.partition(" ")[2] for v in values if len(v.partition(" ")[2]) >= 8]

        def redact(text: str) -> str:
            if self._secret:
                text = self._secret.redact(text)
            for value in values:
                text = text.replace(value, "***")
            return without_quotes(text, quoted)

        error.args = (redact(error.message), *error.args[1:])
        for name in ("code", "type", "param", "request_id"):
            value = getattr(error, name, None)
            if isinstance(value, str) and value.lower() not in KNOWN_WORDS:
                setattr(error, name, redact(value))

    def close(self) -> None:
        """End running streams with Cancelled and close idle connections. Idempotent."""
        with self._lock:
            self._closed = True
            running = list(self._streams)
        for pump in running:
            pump.guard.stop(Stop(cancelled=True, reason="the client was closed"))
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Service(Struct, frozen=True):
    """Who answers; see result.Service."""

    api: str
    host: str

    def cost(self, result: Result, at: float | None = None) -> Cost | None:
        from .cost import cost_of

        return cost_of(self.api, self.host, result, at)


class _Run:
    """The visible retry loop of one call."""

    def __init__(
        self,
        client: Client,
        policy: RetryPolicy,
        recovery: Recovery,
        call: Call,
        request: WireRequest,
        headers: Mapping[str, str] | None,
    ) -> None:
        self._client = client
        self._policy = policy
        self._recovery = recovery
        self._call = call
        self._request = request
        self._headers = _checked_headers(headers)
        self.readable_as_text = recovery.readable_as_text
        self.service = client._service

    def __call__(self, pump: Pump) -> Batches:
        client, recovery = self._client, self._recovery
        client._check_cost()
        step = Step(self._request)
        attempts = failures = 0
        resent = False
        while True:
            self._held(pump)
            try:
                yield from pump.attempt_events(client._transport, self._wired(step, pump))
                client._budget.refill(retried=attempts > 0)
                return
            except LLMStreamError as exc:
                error = exc
            except Stopped:
                error = pump.stopped()
            # By what the service has said; behind this, what it quotes is blotted out.
            simpler = client._dialect.simpler(self._request, error)
            client._redact(error, self._call, self._headers)
            if error.request_id is not None:
                pump.request_id = error.request_id  # as it is now
            self._learn(error)
            if isinstance(error, ConnectionFailed) and error.reused and not resent:
                # A server closes idle connections when it likes. Not a byte came back, so it is
                # safe to send again, and costs no attempt.
                resent = True
                pump.record(error, 0.0, resent=True)
                continue
            if simpler is not None:
                self._request = simpler
                step = msgspec.structs.replace(step, request=simpler)
                pump.record(error, 0.0)
                continue
            instead = recovery.instead(pump.session, error)
            if instead is not None:
                step = instead
                pump.record(error, 0.0)
                continue
            # New content is progress: then the attempts count anew.
            failures = 0 if pump.has_content else failures + 1
            attempts += 1
            delay = self._next_delay(pump, error, attempts, failures)
            following = None if delay is None else recovery.next(pump.session, self._request)
            if following is None or delay is None:
                raise error
            if not pump.guard.revive():  # ended meanwhile: that is the reason now
                pump.record(error, 0.0)
                raise Stopped
            if not client._budget.spend():
                error.add("not asked again: the retry budget of this host and key is used up")
                raise error
            step = following
            pump.give_up(error, delay)
            self._abandon(pump, step)
            pump.rest(delay, "backoff")

    def _next_delay(
        self, pump: Pump, error: LLMStreamError, attempts: int, failures: int
    ) -> float | None:
        if attempts >= _GREATEST_FACTOR * self._policy.max_attempts:
            return None
        remaining = pump.guard.clocks.remaining(self._client._clock.monotonic())
        return self._policy.next_delay(error, failures, random.random(), remaining)

    def _learn(self, error: LLMStreamError) -> None:
        """One stream that is asked to wait speaks for all of its host and key."""
        wait = error.retry_after if isinstance(error, RateLimitError) else None
        if isinstance(error, RateLimitError) and wait and wait <= self._policy.max_retry_after:
            self._client._budget.hold(error, self._client._clock.monotonic())

    def _held(self, pump: Pump) -> None:
        """Wait until the service may be asked again. Raises Stopped, RateLimitError."""
        budget, clock = self._client._budget, self._client._clock
        since = clock.monotonic()
        left, whole = budget.held(since)
        if not left:
            return
        # The jitter spreads those that wait for the same moment.
        until = since + left + random.random() * self._policy.jitter * whole
        while left:
            now = clock.monotonic()
            if left >= pump.guard.clocks.remaining(now):
                pump.guard.enter("held")
                raise budget.refusal(now)
            pump.rest(max(left, until - now), "held")
            left, _ = budget.held(clock.monotonic())
        pump.held = clock.monotonic() - since

    def _wired(self, step: Step, pump: Pump) -> Step:
        request = self._client._wire(step.request, self._headers, pump)
        return msgspec.structs.replace(step, request=request)

    def watch(self, pump: Pump, begun: float) -> Watch | None:
        client = self._client
        address, service = client._address, client._service
        return start_watch(
            client._observers,
            self._call,
            begun=begun,
            trace_id=pump.trace_id,
            api=service.api,
            host=service.host,
            port=address.port or {"https": 443, "http": 80}[address.scheme],
            started=client._clock.time(),
        )

    # -- responses that the service goes on with

    def leave(self, pump: Pump) -> None:
        """The call was cancelled: so is the response, if it runs in the background."""
        if not sys.is_finalizing():
            self._cancel_upstream(pump.latest, pump)

    def _abandon(self, pump: Pump, following: Step) -> None:
        if following.how not in ("resume", "poll"):
            self._cancel_upstream(pump.latest, pump)

    def _cancel_upstream(self, session: Session, pump: Pump) -> None:
        client, known = self._client, session.state.response_id
        if known is None or session.complete or session.state.status in ("failed", "cancelled"):
            return
        stored = client._dialect.stored(self._request, known)
        if stored is None:
            return
        limits = Timeouts(connect=_FAREWELL, first_token=_FAREWELL, total=_FAREWELL)
        guard = Guard(Clocks(limits, client._clock.monotonic()), client._clock, client._scheduler())
        request = client._wire(stored.cancel(), self._headers, pump)
        try:
            guard.begin()
            exchange = client._transport.open(request, guard)
            exchange.finish()
        except (Stopped, LLMStreamError):
            pass  # it was worth a try
        finally:
            guard.over()


# ---- what the caller may give ------------------------------------------------------------------


def _dialect(api: Any) -> Dialect:
    found = DIALECTS.get(api) if isinstance(api, str) else None
    if found is None:
        raise ConfigurationError(f"api={api!r} is not known: this version has {list(DIALECTS)}")
    return found


def _settings(api: str, base_url: Any, api_key: Any) -> Settings:
    if base_url is not None and not _is_address(base_url):
        raise ConfigurationError("base_url: give it like 'https://api.openai.com/v1'")
    secret = _checked_key(api_key)
    if base_url is not None:
        return Settings(api, base_url, secret)
    found = vendor_settings(api)
    if secret is not None:
        return Settings(api, found.base_url if found else None, secret)
    found = found or keyring_settings(api)
    if found is None:
        raise ConfigurationError(f"no API key: {WAYS_OUT}")
    return found


def _is_address(base_url: Any) -> bool:
    if not isinstance(base_url, str) or not base_url.startswith(("http://", "https://")):
        return False
    try:
        parts = urlsplit(base_url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _checked_key(api_key: Any) -> Secret | None:
    if api_key is None or isinstance(api_key, Secret):
        return api_key
    if not isinstance(api_key, str) or not api_key or api_key != api_key.strip():
        raise ConfigurationError("api_key is no text, empty, or has white space around it")
    return Secret(api_key)


def _policy(name: Any) -> str:
    if not isinstance(name, str) or name not in POLICIES:
        raise ConfigurationError(f"on_disconnect={name!r} is not known: give one of {[*POLICIES]}")
    return name


def _ledger(max_cost: Any) -> Ledger:
    from .cost import Ledger

    return Ledger(max_cost)


def _checked_observers(observers: Any, ledger: Ledger | None) -> Observers:
    try:
        return Observers(observers if ledger is None else (*observers, ledger))
    except TypeError as exc:
        raise ConfigurationError(f"observers: give a list of observers ({exc})") from None


def _of_type(kind: type[Any], name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, kind):
        raise ConfigurationError(f"{name}={value!r}: give a {kind.__name__}")
    return value


def _checked_headers(headers: Any) -> dict[str, str]:
    checked = {}
    if headers is not None and not isinstance(headers, Mapping):
        raise ConfigurationError("headers: give a dict of names and values")
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigurationError(f"headers: name and value of {name!r} have to be text")
        checked[name.lower()] = value
    return checked


def _checked_prompt(prompt: Any) -> str | list[Any]:
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(prompt, (list, tuple)) and prompt:
        if all(isinstance(part, Mapping) for part in prompt):
            return list(prompt)
        raise ConfigurationError("prompt: each entry of the list has to be a dict")
    raise ConfigurationError(
        "prompt: give a text that is not empty, or a list of {'role': ..., 'content': ...}"
    )


def _checked_count(name: str, value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ConfigurationError(f"{name}={value!r}: give a whole number greater than 0")


def _checked_number(name: str, value: Any) -> float | None:
    # JSON has no NaN: it would go out as null.
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"{name}={value!r}: give a finite number")
    number: float | None = value
    return number


def _checked_trace_id(trace_id: Any) -> str | None:
    # It goes out in a header.
    if trace_id is None:
        return None
    if isinstance(trace_id, str) and trace_id.isascii() and trace_id.isprintable():
        stripped: str = trace_id.strip()
        if 0 < len(stripped) <= 512:
            return stripped
    raise ConfigurationError("trace_id: give 1 to 512 printable ASCII characters")


def _traceparent(trace_id: str) -> dict[str, str]:
    """The header of W3C Trace Context, where the trace id is one in its sense (32 hex digits; a
    UUID's hyphens do not count). The parent is this request, which has no other record: a random
    one."""
    digits = trace_id.replace("-", "").lower()
    if not _TRACE_ID.fullmatch(digits) or digits == "0" * 32:
        return {}
    return {"traceparent": f"00-{digits}-{random_id(64)}-01"}


# ---- the one-liner -----------------------------------------------------------------------------

_default: tuple[Settings, int, Client] | None = None
_default_lock = threading.Lock()


def stream(prompt: str | list[Any], **options: Any) -> Stream:
    """`for tok in stream("Why is the sky blue?")`: the answer's text as it comes.

    `options` are those of `Client.stream`. The client behind it is made from the environment (see
    `Client.from_env`), kept, and made anew when the environment says something else.
    """
    global _default
    settings = from_environment()
    with _default_lock:
        if _default is None or _default[:2] != (settings, os.getpid()):
            client = Client(settings.api, base_url=settings.base_url, api_key=settings.api_key)
            _default = (settings, os.getpid(), client)
        return _default[2].stream(prompt, **options)


_instances: weakref.WeakSet[Client] = weakref.WeakSet()


def _after_fork() -> None:
    """A lock that another thread held is held for ever in the child."""
    global _default_lock
    for client in list(_instances):
        client._lock = threading.RLock()
        if client._ledger is not None:
            client._ledger.lock = threading.Lock()
    _default_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
