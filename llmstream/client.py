"""Client: where the parts are put together."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict

from msgspec import structs

from ._call.call import Call, close_dropped
from ._call.factory import CallFactory
from ._core.checks import few
from ._core.dialects import DEFAULT_API, LOCAL_API
from ._core.request import Request
from ._core.retry import RetryPolicy
from ._core.session import MAX_EVENT_BYTES
from ._core.timers import Timeouts
from ._runtime.clock import SYSTEM_CLOCK, Clock
from ._runtime.fork import process_number
from ._runtime.frames import without_variables
from ._runtime.ids import random_id
from ._runtime.threads import is_finalizing
from ._settings.arguments import (
    checked_address,
    checked_api,
    checked_count,
    checked_double,
    checked_flag,
    checked_headers,
    checked_key,
    checked_name,
    checked_number,
    checked_object,
    checked_policy,
    checked_prompt,
    checked_stop,
    checked_text,
    checked_thinking,
    checked_tool_choice,
    checked_tools,
    checked_trace_id,
    of_type,
)
from ._settings.client import ClientSettings
from ._settings.environment import (
    ServiceSettings,
    find_in_environment,
    for_address,
    from_environment,
    keyring_settings,
    vendor_settings,
)
from ._settings.key_source import ApiKey
from ._transport.adapter import RequestsTransport
from ._transport.base import Transport
from ._transport.tls import Certificate, Verify
from .errors import ConfigurationError
from .result import ToolCall
from .stream import Stream
from .telemetry.log import LogObserver
from .telemetry.observer import Dispatcher

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ._call.limiter import Limiter
    from .parallel.batch import Batch
    from .telemetry.cost import CostLimit
    from .tools.factory import RunService
    from .tools.loop import Loop
    from .tools.run import Run

    if sys.version_info >= (3, 11):
        from typing import Unpack
    else:
        from typing_extensions import Unpack

__all__ = ["Client", "ClientOptions", "StreamOptions", "stream"]

_NO_HEADERS: dict[str, str] = {}
_MOST_TEMPERATURE = 100  # services take 1 or 2; more is a percentage


class ClientOptions(TypedDict, total=False):
    """The keyword arguments of `Client`."""

    api: str
    base_url: str | None
    api_key: ApiKey | None
    model: str | None
    timeouts: Timeouts | None
    retry: RetryPolicy | None
    on_disconnect: str
    profile: str | None
    think_tags: bool | str | None
    headers: Mapping[str, str] | None
    max_connections: int
    idle_connection_timeout: float | None
    observers: Sequence[Any]
    max_cost: Decimal | float | str | None
    verify: Verify
    cert: Certificate | None
    proxies: Mapping[str, str | None] | None
    trust_env: bool
    max_event_bytes: int
    max_identical_chunks: int | None
    transport: Transport | None
    clock: Clock | None


class AnswerOptions(TypedDict, total=False):
    """The keyword arguments of `Client.stream` that hold for each answer of a run, too."""

    model: str | None
    instructions: str | None
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop: str | list[str] | None
    tool_choice: Any
    thinking: Any
    background: bool
    timeouts: Timeouts | None
    retry: RetryPolicy | None
    on_disconnect: str | None
    trace_id: str | None
    headers: Mapping[str, str] | None
    extra_body: Mapping[str, Any] | None
    output: Any
    output_retries: int


class StreamOptions(AnswerOptions, total=False):
    """The keyword arguments of `Client.stream`."""

    tools: list[Any] | None


class RunOptions(AnswerOptions, total=False):
    """The keyword arguments of `Client.resume_run`: those of `Client.run`."""

    max_turns: int
    parallel_tools: bool
    tool_timeout: float | None
    approve: Callable[[ToolCall], bool | str] | None
    on_tool_error: str


class Client:
    """A service, and how to talk to it. Safe to share between threads, and to use after a fork.

    Args:
        api: "responses" (the OpenAI Responses API), "messages" (the Anthropic Messages API),
            "chat" (Chat Completions, any compatible server) or "gemini" (Google AI and Vertex AI).
        base_url: in the vendor's own form, `https://api.openai.com/v1` for responses and chat,
            `https://api.anthropic.com` for messages; default: the address of the vendor that
            `profile` names, else the vendor's variable in the environment, then the vendor's own
            address.
        api_key: the key, or a function without arguments that returns it. The function is asked
            before every request, in the thread that reads the stream, so it should keep a token
            that is still good, and have a timeout of its own. If it raises, or returns no usable
            string, the call ends with ConfigurationError. A JSON Web Token that it returns is sent
            as `Authorization: Bearer`, whatever the API's header. Default: the vendor's variable,
            but only where `base_url` is not given, or is on a host of the vendor that `profile`
            names. With any other `base_url` and no key no authorization is sent.
        model: default: `LLMSTREAM_MODEL`, then "gpt-5.4-mini" for responses, "claude-haiku-4-5"
            for messages, "gemini-3.5-flash-lite" for gemini; chat has none.
        timeouts: the five clocks, see Timeouts.
        retry: see RetryPolicy.
        on_disconnect: what to do when the stream is cut after content has arrived. "raise": the
            error, with what arrived. "restart": ask again from the start, and say so (a "restart"
            chunk, a Restarted event; iterating for text is refused). "continue": ask to go on
            after what arrived (plain text only). "resume": take up the same answer where it was
            cut (the Responses API with background=True).
        profile: the service by its name ("openrouter", "groq", "azure", "ollama", "vllm", ...;
            `llmstream profiles` lists them): where it is, the variable of its key, and what it does
            differently from others. Default: by the host's name, else lenient enough for all.
        think_tags: True: text between <think> and </think> at the beginning of an answer is
            thinking (Chat Completions). "open": the answer begins inside of it, because the model's
            template has the first tag in the prompt (DeepSeek-R1, QwQ, Qwen3-Thinking). Default:
            as the profile has it (True for ollama, lmstudio, vllm and llama.cpp, else False).
        headers: sent with every request.
        max_connections: idle connections kept; more may be open, nobody waits for one. A batch
            with more workers raises it to their number.
        idle_connection_timeout: seconds (default 60) after which an idle connection is not used
            again, because balancers forget one in silence; None: no limit, 0: none is kept.
        observers: who is told of every call, see `llmstream.telemetry.Observer`; for example a
            `llmstream.telemetry.PrometheusObserver()`. One may serve many clients. The log
            `llmstream` is written by a `LogObserver`, which is added unless one is among them.
        max_cost: USD (a number, a Decimal or its text) after which no further call is made: once
            the known cost of those that have ended reaches it, `stream` and the first use of a
            Stream raise ConfigurationError, and nothing is sent. Calls that run go on. The known
            cost is a lower bound: a call that was cut has not reported its usage, and of services
            and models that are not in the price list nothing is known (a warning is logged once).
            It counts for this client in this process. Needs the extra `cost`, but not for services
            that report the cost of every answer (OpenRouter, Perplexity, xAI). Default: no limit.
        verify: True (the certificates of the package certifi, or those that
            `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`, or `SSL_CERT_FILE` and `SSL_CERT_DIR` name),
            False, the path of a CA file in PEM form or of a folder as `openssl rehash` makes it,
            or an ssl.SSLContext. A file is read once for all connections, and again when it has
            changed. The context is used as it is, also for an HTTPS proxy and in forked children,
            but for ALPN, which is set to HTTP/1.1; a client that has one does not pickle.
        cert: the client's own certificate, for a service that asks for one: the path of a PEM file
            with certificate and key, or a pair of paths. A key with a password has to be loaded
            into an SSLContext, see `verify`. A proxy is not shown it.
        proxies: a dict as requests takes it, for example {"all": "http://user:password@host:3128"};
            http, https, and with the extra `socks` socks4, socks4a, socks5 and socks5h. It holds
            for every host. Default, and for what it does not name: `HTTPS_PROXY`, `HTTP_PROXY`,
            `ALL_PROXY` and `NO_PROXY`, but never for a server on this machine.
        trust_env: False takes neither proxies nor certificates from the environment.
        max_event_bytes: the size in bytes at which an event is refused with EventTooLarge.
        max_identical_chunks: so many chunks in a row that are all the same end the stream with
            LoopDetected; default: no limit.
        transport, clock: doubles for tests, see `llmstream.testing`.

    Raises ConfigurationError for settings that cannot work. A client pickles as its settings,
    without observers and, unless `settings.with_key()` is pickled, without its key.
    """

    @without_variables
    def __init__(
        self,
        api: str = DEFAULT_API,
        *,
        base_url: str | None = None,
        api_key: ApiKey | None = None,
        model: str | None = None,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        on_disconnect: str = "raise",
        profile: str | None = None,
        think_tags: bool | str | None = None,
        headers: Mapping[str, str] | None = None,
        max_connections: int = 100,
        idle_connection_timeout: float | None = 60.0,
        observers: Sequence[Any] = (),
        max_cost: Decimal | float | str | None = None,
        verify: Verify = True,
        cert: Certificate | None = None,
        proxies: Mapping[str, str | None] | None = None,
        trust_env: bool = True,
        max_event_bytes: int = MAX_EVENT_BYTES,
        max_identical_chunks: int | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings = ClientSettings.checked(
            api=api,
            base_url=base_url,
            api_key=api_key,
            model=model,
            timeouts=timeouts,
            retry=retry,
            on_disconnect=on_disconnect,
            profile=profile,
            think_tags=think_tags,
            headers=headers,
            max_connections=max_connections,
            idle_connection_timeout=idle_connection_timeout,
            max_cost=max_cost,
            verify=verify,
            cert=cert,
            proxies=proxies,
            trust_env=trust_env,
            max_event_bytes=max_event_bytes,
            max_identical_chunks=max_identical_chunks,
        )
        transport = checked_double("transport", transport, "send", "close")
        clock = checked_double("clock", clock, "monotonic", "time", "wait")
        transports = transport or RequestsTransport(
            max_connections=settings.max_connections,
            idle_timeout=settings.idle_connection_timeout,
            verify=settings.verify,
            cert=settings.cert,
            proxies=settings.proxies,
            trust_env=trust_env,
            clock=clock or SYSTEM_CLOCK,
        )
        self._clock: Clock = clock or SYSTEM_CLOCK
        self._cost_limit = None if max_cost is None else _cost_limit(max_cost)
        self._factory = CallFactory(
            settings,
            transports,
            clock or SYSTEM_CLOCK,
            _dispatcher(observers, self._cost_limit),
            partial(_check_cost, self._cost_limit),
            private=bool(transport or clock),
        )
        self._endpoint = self._factory.endpoint
        if self._cost_limit is not None and not self._endpoint.profile.reports_cost:
            self._cost_limit.need_prices()
        # Not a WeakSet, which is written in Python: each operation on a set is atomic, so a signal
        # handler may make a call, or close the client, at any moment.
        self._calls: set[weakref.ref[Call | Loop]] = set()
        self._closed = False

    def __repr__(self) -> str:
        scheme, _, rest = self._endpoint.base_url.partition("?")[0].partition("://")
        return f"Client({self.settings.api!r}, base_url='{scheme}://{rest.rpartition('@')[2]}')"

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_settings, (type(self), self.settings)

    @classmethod
    @without_variables
    def from_settings(cls, settings: ClientSettings, **more: Unpack[ClientOptions]) -> Client:
        """A client with another one's `settings`; `more` are arguments of Client and win. With
        those of `with_key()` the client is pickled with its key too, for example by `parallel` for
        the workers of an executor."""
        client = cls(**{**settings.arguments(), **more})
        if settings.key_travels:
            client.settings = client.settings.with_key()
        return client

    @classmethod
    @without_variables
    def from_env(cls, **overrides: Unpack[ClientOptions]) -> Client:
        """A client with the environment's settings: LLMSTREAM_{API,BASE_URL,API_KEY,MODEL}, else
        OPENAI_API_KEY and OPENAI_BASE_URL, else ANTHROPIC_API_KEY (or ANTHROPIC_AUTH_TOKEN) and
        ANTHROPIC_BASE_URL, else GOOGLE_API_KEY (or GEMINI_API_KEY) and GOOGLE_GEMINI_BASE_URL, else
        a key on the operating system's keyring.

        `overrides` are arguments of Client and win. With a `base_url` among them a vendor's
        variables do not count, and LLMSTREAM_API_KEY does unless LLMSTREAM_BASE_URL names another
        server. A `profile` among them is the service, where neither `base_url` nor
        LLMSTREAM_BASE_URL names another address: its vendor's key counts, then LLMSTREAM_API_KEY,
        and the API is the vendor's first one unless `api` or LLMSTREAM_API names it. Raises
        ConfigurationError with the ways out where nothing is set.
        """
        base_url = checked_address(overrides.get("base_url"))
        if (api := overrides.get("api")) is not None:
            checked_api(api)
        overrides["api_key"] = checked_key(overrides.get("api_key"))
        if base_url:
            found = for_address(base_url)
            overrides["api"] = api or found.api
            overrides["api_key"] = overrides["api_key"] or found.api_key
            return cls(**overrides)
        if (profile := overrides.get("profile")) is not None:
            from ._settings.vendors import is_named, named_api, named_key

            api = named_api(profile, api)
            if api is not None and is_named(profile, api):
                overrides["api"] = api
                overrides["api_key"] = overrides["api_key"] or named_key(profile)
                return cls(**overrides)
        overrides.pop("api", None)
        overrides.pop("base_url", None)  # None would stand over the one of the environment
        environ = {**os.environ, "LLMSTREAM_API": api} if api else None
        if overrides["api_key"] is None:
            del overrides["api_key"]
            found = from_environment(environ)
        else:
            found = find_in_environment(environ) or ServiceSettings(api or DEFAULT_API)
        given: ClientOptions = {"api": found.api}
        if found != (vendor_settings(found.api) or keyring_settings(found.api)):
            given["base_url"], given["api_key"] = found.base_url, found.api_key
        # else the client finds the same by itself, and so does one that is made from its settings
        given.update(overrides)
        return cls(**given)

    @classmethod
    @without_variables
    def local(
        cls,
        model_file: str | os.PathLike[str] | None = None,
        *,
        api: str = LOCAL_API,
        context: int | None = None,
        **overrides: Any,
    ) -> Client:
        """A client of a real model in this process: llama.cpp's own HTTP server on loopback, with
        SmolLM2-135M-Instruct (fetched once, 98 MB) or the GGUF file given.

        It serves all three APIs; the default is "chat", because on "responses" llama.cpp does not
        say when an answer was cut by a limit (measured). Needs the extra `local`. `context`: the
        tokens of a prompt and its answer together (default 2048). One server per process, file and
        context; it ends with the process. `overrides` are arguments of Client. Raises
        ConfigurationError where it cannot be had.
        """
        from .local import shared_server

        # Before a model is fetched or loaded.
        known = {n: v for n, v in overrides.items() if n in ClientSettings.__struct_fields__}
        ClientSettings.checked(**{**structs.asdict(ClientSettings(api=api)), **known})
        server = shared_server(model_file, context=context)
        given = {
            "base_url": server.base_url_of(api),
            "api_key": server.api_key,
            "model": server.model,
            "profile": "llama.cpp",
        }
        return cls(api, **{**given, **overrides})

    @without_variables
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
        tool_choice: Any = None,
        thinking: Any = None,
        background: bool = False,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        on_disconnect: str | None = None,
        trace_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        output: Any = None,
        output_retries: int = 0,
        tools: list[Any] | None = None,
    ) -> Stream:
        """A call that is ready to be made. Touches no network: it starts, and its clocks with it,
        at the first use of the Stream.

        `prompt` is the text, or a list of {"role", "content"}. `tools` are functions, Tools
        (`llmstream.tool`) and dicts in the form of any API: declared here, run by `run`.
        `timeouts`, `retry` and `on_disconnect` stand in for the client's. `trace_id` (default:
        made, 32 hex digits) is on everything this call leaves behind, and is sent as
        `X-Client-Request-Id` and, where it is 32 hex digits, in `traceparent` (an observer with
        spans sets its own). `extra_body` is laid over the request's JSON. `output` is the type that
        the answer has to be a value of, see `llmstream.output`: the value is in `Result.value`.
        Where an answer does not fit it, at most `output_retries` further ones are asked for, each
        of which is billed. Raises ConfigurationError for what cannot be sent, and once `max_cost`
        is reached.
        """
        settings = self.settings
        limits = of_type(Timeouts, "timeouts", timeouts) or settings.timeouts
        policy = of_type(RetryPolicy, "retry", retry) or settings.retry
        on_disconnect = (
            settings.on_disconnect if on_disconnect is None else checked_policy(on_disconnect)
        )
        if self._cost_limit is not None:
            self._cost_limit.check()
        text = checked_prompt(prompt)
        name = _model(model, settings.model, self._endpoint.dialect.default_model)
        # Most calls give few options: what is not given is not checked.
        given: dict[str, Any] = {}
        if instructions is not None:
            given["instructions"] = checked_text("instructions", instructions)
        if max_output_tokens is not None:
            given["max_output_tokens"] = checked_count("max_output_tokens", max_output_tokens)
        if temperature is not None:
            given["temperature"] = checked_number("temperature", temperature, _MOST_TEMPERATURE)
        if top_p is not None:
            given["top_p"] = checked_number("top_p", top_p, 1)
        if stop is not None:
            given["stop"] = checked_stop(stop)
        if tools is not None:
            given["tools"] = checked_tools(_as_dicts(tools))
        if tool_choice is not None:
            given["tool_choice"] = checked_tool_choice(tool_choice)
        if thinking is not None:
            given["thinking"] = checked_thinking(thinking)
        if background is not False:
            given["background"] = checked_flag("background", background)
        if extra_body is not None:
            given["extra_body"] = checked_object("extra_body", extra_body)
        if output is not None or output_retries:
            given.update(_output(output, output_retries))
        call = self._factory.make(
            Request(prompt=text, model=name, **given),
            limits,
            policy,
            on_disconnect,
            (None if trace_id is None else checked_trace_id(trace_id)) or random_id(128),
            _NO_HEADERS if headers is None else checked_headers(headers),
        )
        stream = Stream(call)
        self._calls.add(weakref.ref(call, self._calls.discard))
        if self._closed:  # in this order: `close` ends it, or it is refused here
            raise ConfigurationError("this client is closed: make a new one")
        return stream

    def parallel(
        self,
        prompts: Iterable[Any],
        *,
        max_workers: int = 8,
        rate_limit: float | str | None = None,
        executor: Executor | None = None,
        progress: bool = False,
        **stream_options: Unpack[StreamOptions],
    ) -> Batch:
        """Many calls, at most `max_workers` at a time. Touches no network, draws no prompt and
        starts no thread before the first use of the Batch.

        Args:
            prompts: texts, lists of {"role", "content"}, or dicts with "prompt" and options of
                their own, which win over `stream_options`. A list or tuple is checked at once. Any
                other iterable may have no end: a prompt is drawn when a worker can soon take it,
                and not while 2 * `max_workers` outcomes wait to be taken. The iterable is used by
                one thread of the batch (`llmstream-prompts`), and not by the caller's.
            max_workers: the calls that may run at the same time, each in a daemon thread.
            rate_limit: requests a minute, retries included, or "auto": the limit of the service is
                found by its refusals. Default: none.
            executor: makes the calls in the place of threads, at most `max_workers` at a time: any
                `concurrent.futures.Executor`, of threads, processes, or a cluster (of a Dask
                client: `client.get_executor(pure=False)`, extra `dask`). In another process a
                client is made with `self.settings`, which are pickled without the key unless they
                are those of `with_key()`, and without observers; there `rate_limit` counts
                calls, without their retries, and `chunks()` cannot be had. It is not shut down.
            progress: True shows a bar with the rate, the errors and the cost (extra `progress`).
            stream_options: the options of `stream`, for all prompts. A `trace_id` belongs to one
                call, and so into the dict of a prompt.

        The context variables of the caller hold in the iterable and in each call. Raises
        ConfigurationError for what cannot work.
        """
        from .parallel.executors import Remote
        from .parallel.factory import make_batch

        batch = make_batch(
            self._limited_stream,
            prompts,
            StreamOptions.__annotations__,
            stream_options,
            clock=self._clock,
            max_workers=max_workers,
            rate_limit=rate_limit,
            executor=executor,
            progress=progress,
            remote=Remote(type(self).from_settings, self.settings),
        )
        if (keep := getattr(self._endpoint.transport, "keep_at_least", None)) is not None:
            keep(max_workers)
        return batch

    @without_variables
    def run(
        self,
        prompt: str | list[Any],
        tools: Sequence[Any],
        *,
        max_turns: int = 10,
        parallel_tools: bool = True,
        tool_timeout: float | None = 60.0,
        approve: Callable[[ToolCall], bool | str] | None = None,
        on_tool_error: str = "tell",
        **stream_options: Unpack[AnswerOptions],
    ) -> Run:
        """A conversation in which the model calls tools until it answers. Touches no network: it
        starts at the first use of the Run.

        After each answer with calls these are made, and what they return goes into the next prompt.
        Calls are made only when the answer is whole and ended with them, when they parse, and when
        they fit the tool's parameters; never where a limit or a filter has cut the answer. The run
        ends with the first answer without calls, however that ended (`result().finish`).

        Args:
            tools: functions, Tools (`llmstream.tools.tool`), or dicts as in `stream`. What the
                service runs itself, it runs. A call of a function that is declared as a dict ends
                the run: it is the caller's to run (`Run.open_calls`).
            max_turns: answers, at most. A run that has no answer after so many ends with RunError,
                before the calls of the last one are made.
            parallel_tools: whether the calls of an answer run side by side, each in a daemon thread
                (32 at most; a tool with `sequential=True` runs alone). False: one after the other,
                and the service is asked for one call at a time.
            tool_timeout: seconds that a tool may take which has no `timeout` of its own; None: no
                limit. After it the model is told, and a result that still comes is dropped.
            approve: asked with each call (a ToolCall) before any call of the answer runs, in the
                thread that reads the run: True, False, or a text, which refuses and is told to the
                model as the reason. Also asked where the service wants approval for what it runs
                itself (MCP). Default: every call is made, and such a question is a
                ConfigurationError.
            on_tool_error: "tell": the model is told what a tool has raised (the class and the
                words, which so reach the service), and goes on. "raise": that ends the run, as does
                the end of a tool's time. A `ToolError` is words for the model in both cases, and so
                are arguments that do not fit and unknown tools. After three turns in a row in which
                calls failed and none succeeded a further one ends the run with RunError.
            stream_options: the options of `stream`, for each answer. `timeouts.total` is the hard
                deadline of the whole run, tools included; the other clocks are those of each
                answer. A `tool_choice` that forces a call holds for the first answer. `output=` is
                asked of each answer, and `result().value` is that of the last one.

        The context variables of the thread that reads hold in the tools, and so does the trace id
        (`current_trace_id`). Raises ConfigurationError for what cannot work.
        """
        from .tools.factory import make_run

        own = {
            "max_turns": max_turns,
            "parallel_tools": parallel_tools,
            "tool_timeout": tool_timeout,
            "approve": approve,
            "on_tool_error": on_tool_error,
        }
        return make_run(self._for_runs(), prompt, tools, {**stream_options, **own})

    @without_variables
    def resume_run(
        self,
        state: Mapping[str, Any],
        tools: Sequence[Any],
        *,
        outcomes: Mapping[str, Any] | None = None,
        **options: Unpack[RunOptions],
    ) -> Run:
        """Go on with a run from what `Run.state` has returned: in another process too, and after an
        error.

        A call that has its outcome is not made again. Nor is one that had started and has none: the
        model is told that nobody knows whether it had its effect, unless `outcomes` has what the
        caller knows of it. The others are made, after `approve` was asked.

        Args:
            state: as `Run.state` has returned it. JSON text has to be decoded.
            tools: those of the run, and more if you like.
            outcomes: the id of a call -> its outcome, as a tool would have returned it; for calls
                that had started, and for those that are the caller's to run.
            options: those of `run`. The state has the run's own, and these win over them. What is
                no plain data has to be passed again: `approve`, `output`, `headers` and
                `extra_body`, without which ConfigurationError is raised; `timeouts` and `retry`,
                which are the client's otherwise.

        A client of another API goes on with it too. Options of the run that mean something to one
        service only (a `model`) are passed anew.

        Raises ConfigurationError for what cannot work.
        """
        from .tools.factory import resume_run

        return resume_run(self._for_runs(), state, tools, outcomes, options)

    def _for_runs(self) -> RunService:
        from .tools.factory import RunService

        return RunService(
            self.stream,
            self._endpoint.dialect,
            self._endpoint.service,
            self._clock,
            self.settings.timeouts,
            self._factory.dispatcher,
            self._keep,
        )

    def _keep(self, loop: Loop) -> None:
        self._calls.add(weakref.ref(loop, self._calls.discard))

    def _limited_stream(self, limiter: Limiter | None, prompt: Any, /, **options: Any) -> Stream:
        stream = self.stream(prompt, **options)
        if limiter is not None:
            stream._call.limit_by(limiter)
        return stream

    @property
    def profile(self) -> str:
        """The name of the profile in use: the one given, else the one that knows the host."""
        return self._endpoint.profile.name

    @property
    def cost(self) -> Decimal | None:
        """The known cost in USD of the calls that have ended: a lower bound, see `max_cost`; None
        without one. `max_cost="inf"` counts and refuses nothing."""
        return None if self._cost_limit is None else self._cost_limit.spent

    def close(self) -> None:
        """End running streams with Cancelled and close idle connections. Idempotent."""
        if is_finalizing():
            return
        self._closed = True
        for known in self._calls.copy():
            call = known()
            if call is not None:
                call.cancel("the client was closed")
        close_dropped()
        self._endpoint.transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _from_settings(cls: type[Client], settings: ClientSettings) -> Client:
    return cls.from_settings(settings)


def _model(asked: str | None, settings: str | None, default: str | None) -> str:
    chosen = settings if asked is None else checked_name("model", asked) or settings
    chosen = chosen or checked_name("LLMSTREAM_MODEL", os.environ.get("LLMSTREAM_MODEL")) or default
    if not chosen:
        raise ConfigurationError("this API has no default model: pass model=")
    return chosen


def _as_dicts(tools: Any) -> Any:
    """`tools` with functions as what is declared of them. Dicts alone are left to be checked."""
    if type(tools) in (list, tuple) and all(isinstance(one, Mapping) for one in tools):
        return tools
    from .tools.function import declarations

    return declarations(tools)


def _output(output: Any, retries: Any) -> dict[str, Any]:
    from .output.asked import asked_output, checked_retries

    number = checked_retries(retries, output)
    return {"output": asked_output(output), "output_retries": number}


def _check_cost(limit: CostLimit | None) -> None:
    if limit is not None:
        limit.check()


def _cost_limit(max_cost: Any) -> CostLimit:
    from .telemetry.cost import CostLimit

    return CostLimit(max_cost, reported=True)  # what the service reports is known later


def _dispatcher(observers: Any, cost_limit: CostLimit | None) -> Dispatcher:
    everyone = few("observers", observers, "observers")
    try:
        if cost_limit is not None:
            everyone.append(cost_limit)
        if not any(isinstance(observer, LogObserver) for observer in everyone):
            everyone.append(LogObserver())
        return Dispatcher(everyone)
    except TypeError as exc:
        raise ConfigurationError(f"observers: give a list of observers ({exc})") from None
    except Exception as exc:  # whatever an attribute raises
        raise ConfigurationError(
            f"observers: give a list of observers (one of them raises {type(exc).__name__} when "
            "its methods are looked up)"
        ) from None


# ---- the one-liner -----------------------------------------------------------------------------

# What the client was made for: settings and process. One at most; each access is atomic.
_default: dict[tuple[ServiceSettings, int], Client] = {}


@without_variables
def stream(prompt: str | list[Any], **options: Unpack[StreamOptions]) -> Stream:
    """`for tok in stream("Why is the sky blue?")`: the answer's text as it arrives.

    `options` are those of `Client.stream`. The client used is made from the environment (see
    `Client.from_env`), kept, and made anew when the environment says something else.
    """
    settings = from_environment()
    wanted = settings, process_number()
    client = _default.get(wanted)
    if client is None:
        made = Client(settings.api, base_url=settings.base_url, api_key=settings.api_key)
        for other in list(_default):
            _default.pop(other, None)
        client = _default.setdefault(wanted, made)
    return client.stream(prompt, **options)
