"""Every public parameter, and values that nobody should pass: the tables of two suites."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import itertools
import math
import threading
import types
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry

from llmstream import Client, RetryPolicy, Timeouts
from llmstream.local import LocalServer, shared_server
from llmstream.telemetry import (
    LogObserver,
    OpenTelemetryObserver,
    PrometheusObserver,
    TimelineObserver,
)
from llmstream.testing import Answer, FakeClock, FakeTransport, Reply

__all__ = ["ODD", "PARAMETERS", "SKIPPED"]


class Array:
    """Compares and converts as arrays do: elementwise, and not as one truth."""

    __hash__ = None  # type: ignore[assignment]

    def _ambiguous(self, *_: object) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _ambiguous  # type: ignore[assignment]
    __float__ = __int__ = __index__ = __len__ = _ambiguous  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise RuntimeError("an object whose repr fails")


class Attributes:
    """Whatever is asked of it raises."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} today")

    def __fspath__(self) -> str:
        raise RuntimeError("no path today")


def _deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def _wide(levels: int) -> list[Any]:
    """As a repr or as JSON it has 2**levels strings."""
    found: list[Any] = ["x"]
    for _ in range(levels):
        found = [found, found]
    return found


_itself: list[Any] = []
_itself.append(_itself)
_its_value: dict[str, Any] = {}
_its_value["a"] = _its_value
_DEEP, _WIDE = _deep(50_000), _wide(50)

# Each is made anew for every case: an iterator can be read once.
ODD: dict[str, Callable[[], Any]] = {
    **{
        repr(value): lambda value=value: value
        for value in (
            *(None, True, False, 0, -1, 1, 1.5, -0.5, math.nan, math.inf, -math.inf),
            *(1e300, 1e-320, 1e308, 2**31, 2**63, 2**64, -(2**63) - 1),
            *("", " ", "x", "5", "nan", "auto", "a\0b", "a\r\nb: c", "\ud800", "a\udcffb", "中"),
            *("\x1b[2J", "http://[::1", "http://h:99999", "http://\ud800", "~nobody-at-all/x"),
            *(b"", b"abc", bytearray(b"a"), [], (), {}, {1}, frozenset("a"), 1j, range(3), ...),
            *([None], [[]], [{}], ["a"], [1], ["\ud800"], [math.nan], [b"x"], [{"a": b"x"}]),
            *({1: 2}, {"a": 1}, {"a": math.nan}, {"a": {1}}, {"a": b"x"}, {"a": "\ud800"}),
            *({"\ud800": 1}, {None: 1}, {"a": 1j}, {"a": 2**64}, {"a": -(2**70)}, {"a b": "x"}),
            *({"a": "x\ny"}, {"": "x"}, {"content-length": "5"}, {"a": "中"}, {"a": " x"}),
            *({"all": "ftp://x"}, {"all": 5}, {"http": "http://[::1"}, {"all": "http://h:99999"}),
            [{"role": 5, "content": "x"}],
            [{"role": "user", "content": 5}],
            [{"role": "user", "content": [{"type": 5}]}],
            [{"role": "system", "content": {"a": 1}}],
            [{"role": "tool", "tool_call_id": []}],
            [{"type": "function", "function": 5}],
            [{"name": 5, "input_schema": 7}],
            [{"type": []}],
            {"type": 5, "function": {"name": []}},
            {"n": 2**63, "stream": 5, "input": 7, "messages": 8, "store": []},
            decimal.Decimal("1"),
            decimal.Decimal("NaN"),
            decimal.Decimal("sNaN"),
            fractions.Fraction(1, 2),
            datetime.datetime(2026, 1, 1),
            ValueError("x"),
            int,
            len,
            math,
        )
    },
    "10**400": lambda: 10**400,
    "-10**400": lambda: -(10**400),
    "10**5000": lambda: 10**5000,  # Python refuses to write it in decimal
    "[10**5000]": lambda: [10**5000],
    "a megabyte": lambda: "x" * (1 << 20),
    "a megabyte of digits": lambda: "9" * (1 << 20),
    "memoryview": lambda: memoryview(b"a"),
    "itself": lambda: _itself,
    "a dict of itself": lambda: _its_value,
    "a list of that": lambda: [_its_value],
    "deep": lambda: _DEEP,
    "a dict of deep": lambda: {"a": _DEEP},
    "a list of deep": lambda: [{"role": "user", "content": _DEEP}],
    "wide": lambda: _WIDE,
    "a dict of wide": lambda: {"a": _WIDE},
    "a list of wide": lambda: [{"role": "user", "content": _WIDE}],
    "object": object,
    "a lock": threading.Lock,
    "a function": lambda: lambda: 1,
    "a generator": lambda: (n for n in range(3)),
    "no end": itertools.count,
    "no end of dicts": lambda: itertools.repeat({}),
    "an array": Array,
    "a list of an array": lambda: [Array()],
    "a dict of an array": lambda: {"a": Array()},
    "a proxy of a dict": lambda: types.MappingProxyType({"a": 1}),
    "UserDict": lambda: collections.UserDict(a=1),
    "attributes that raise": Attributes,
    "a list of those": lambda: [Attributes()],
    "an async function": lambda: _async,
}


async def _async() -> str:
    return "x"


def _client(api: str = "chat", **options: Any) -> Client:
    """A double of a service that fails once and then answers."""
    transport = FakeTransport(Reply.error(500), Reply(Answer("ok")))
    given = {"base_url": "http://test", "model": "m", "transport": transport, "clock": FakeClock()}
    return Client(**{"api": api, **given, **options})


def _call(name: str, api: str, on_disconnect: str) -> Callable[[Any], object]:
    def call(value: Any) -> object:
        options = {"on_disconnect": on_disconnect, "prompt": "x", name: value}
        return _client(api).stream(**options).result()

    return call


# None is the machine's clock, which waits; a generator has the methods of a transport.
SKIPPED = {("Client(clock)", "None"), ("Client(transport)", "a generator")}

_SETTINGS = (
    *("api", "base_url", "api_key", "model", "timeouts", "retry", "on_disconnect", "profile"),
    *("headers", "max_connections", "observers", "max_cost", "verify", "cert", "proxies"),
    *("trust_env", "max_event_bytes", "max_identical_chunks", "think_tags"),
)
_OPTIONS = (
    *("prompt", "model", "instructions", "max_output_tokens", "temperature", "top_p", "stop"),
    *("tools", "tool_choice", "thinking", "background", "timeouts", "retry", "on_disconnect"),
    *("trace_id", "headers", "extra_body"),
)
_NOWHERE = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "api": "chat"}
_NO_MODEL = "/nowhere/at-all.gguf"

# The parameter's name in messages, and what uses it. None of it sends or loads anything.
PARAMETERS: dict[str, tuple[str, Callable[[Any], object]]] = {
    **{
        f"Client({n})": (n, lambda v, n=n: _client(**{n: v}).stream("x").result())
        for n in (*_SETTINGS, "transport", "clock")
    },
    **{
        f"Client({n}) of a network": (n, lambda v, n=n: Client(**{**_NOWHERE, n: v}).close())
        for n in _SETTINGS
    },
    **{
        f"Client.from_env({n})": (n, lambda v, n=n: Client.from_env(**{**_NOWHERE, n: v}).close())
        for n in _SETTINGS
    },
    **{
        f"Client.from_env({n}) alone": (n, lambda v, n=n: Client.from_env(**{n: v}).close())
        for n in _SETTINGS
    },
    **{
        f"Client.local({n})": (n, lambda v, n=n: Client.local(**{"model_file": _NO_MODEL, n: v}))
        for n in ("context", *_SETTINGS)
    },
    **{
        f"stream({n}), {api}, {policy}": (n, _call(n, api, policy))
        for n in _OPTIONS
        for api in ("responses", "messages", "chat", "gemini")
        for policy in ("raise", "continue")
        if policy == "raise" or n in ("prompt", "tools", "extra_body")  # what "continue" looks at
    },
    **{
        f"Timeouts({n})": (
            n,
            lambda v, n=n: _client(timeouts=Timeouts(**{n: v})).stream("x").result(),
        )
        for n in Timeouts.__struct_fields__
    },
    **{
        f"RetryPolicy({n})": (
            n,
            lambda v, n=n: _client(retry=RetryPolicy(**{n: v})).stream("x").result(),
        )
        for n in RetryPolicy.__struct_fields__
    },
    **{
        f"LocalServer({n})": (n, lambda v, n=n: LocalServer(**{"model_file": _NO_MODEL, n: v}))
        for n in ("context", "parallel", "threads")
    },
    "shared_server(context)": ("context", lambda v: shared_server(_NO_MODEL, context=v)),
    "PrometheusObserver(registry)": ("registry", lambda v: _prometheus(registry=v)),
    "PrometheusObserver(models)": ("models", lambda v: _prometheus(models=v)),
    "TimelineObserver(path)": ("path", lambda v: TimelineObserver(v)),
    "TimelineObserver(calls)": ("calls", lambda v: TimelineObserver(calls=v)),
    "LogObserver(logger)": ("logger", lambda v: LogObserver(v)),
    **{
        f"OpenTelemetryObserver({n})": (n, lambda v, n=n: OpenTelemetryObserver(**{n: v}))
        for n in ("tracer_provider", "meter_provider", "names", "capture_content")
    },
}


def _prometheus(**options: Any) -> PrometheusObserver:
    return PrometheusObserver(**{"registry": CollectorRegistry(), **options})
