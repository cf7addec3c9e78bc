"""Prometheus metrics of every call, as one observer.

    from llmstream import Client
    from llmstream.telemetry import PrometheusObserver

    client = Client(observers=[PrometheusObserver(models=["gpt-5.4-mini"])])

The metrics are exposed by these names (`ms`: milliseconds):

    name                                      type       labels
    llm_stream_first_token_ms                 histogram  api, model            with exemplars
    llm_stream_total_duration_ms              histogram  api, model, outcome   with exemplars
    llm_stream_token_gap_ms                   histogram  api, model
    llm_stream_tokens_in, llm_stream_tokens_out  gauge   api, model            only grow
    llm_stream_retry_count                    gauge      api, model, type      only grows
    llm_stream_backoff_ms                     gauge      api, model            only grows
    llm_stream_error_total                    counter    code, type
    llm_stream_in_flight                      gauge      api, model
    llm_stream_cost_usd                       gauge      api, model, source    only grows
    llm_stream_tool_duration_ms               histogram  tool, outcome         with exemplars

- `first_token_ms`: from the start of the call, retries and waits included, to its first content.
- `total_duration_ms`: one observation per call that has ended; its `_count` counts the calls.
- `token_gap_ms`: the wait for the network between two reads with content, without the time that
  the caller's own loop takes. Recorded in batches, and at the end of an attempt.
- `tokens_in`, `tokens_out`: the usage that the service reported, per attempt. Nothing is estimated:
  for an answer that was cut it is a lower bound.
- `retry_count`: attempts that failed and were followed by another one, by the type of the failure.
- `backoff_ms`: the time that calls spent in waits between attempts, added when the call ends.
- `error_total`: every attempt that failed, including those that were retried and those that were
  resent because a reused connection had gone stale; and every call that failed between two
  attempts or before the first. A cancelled attempt is not an error. The errors that the callers
  got are `llm_stream_total_duration_ms_count{outcome="error"}`.
- `in_flight`: calls that have begun and not ended.
- `cost_usd` (exposed once there is one): the known cost in USD. `source` "service": as the service
  reported it (OpenRouter, LiteLLM, Perplexity, xAI), per attempt. With `cost=True` also "list", the
  list price of a call for which it reported none, added when the call ends (see `result.cost()`).
  What is not known is not in it, so it is a lower bound of the bill.
- `tool_duration_ms` (exposed once there is one): one observation per call of a tool in a run
  (`Client.run`) that has its outcome; its `_count` counts them. 0 for a call that was not run. A
  tool that has returned after its time has one more, "late".

Those that only grow are gauges because of their names: prometheus-client appends `_total` to the
name of a counter. `rate()` and `increase()` do not look at the type, and work on them.

Every label has a closed set of values, so that no caller and no service can add series:

- `api`: "responses", "messages", "chat", "gemini".
- `model`: the names in `models`, otherwise "other".
- `outcome`: "success", "error", "cancelled"; of a tool "success", "error", "timeout", "refused",
  "interrupted", "late".
- `source`: "service", "list".
- `tool`: the names in `tools`, otherwise "other".
- `type`: the classes of `llmstream.errors`, otherwise "other".
- `code`: the codes that the library classifies (`insufficient_quota`, `rate_limit_exceeded`,
  `overloaded_error`, ...); where the service sent none the HTTP status (300 to 308, 400 to 431,
  451, 499, 500 to 511, 520 to 530); "none" for an error that is not the service's; otherwise
  "other".

In prefork servers (gunicorn, uWSGI) set `PROMETHEUS_MULTIPROC_DIR` before Python starts, and serve
a separate registry with a `MultiProcessCollector`. Call `mark_process_dead(pid)` for a worker that
has ended; otherwise the calls that it had in flight stay counted:

    # gunicorn.conf.py
    from prometheus_client import multiprocess

    def child_exit(server, worker):
        multiprocess.mark_process_dead(worker.pid)

`import llmstream` and `import llmstream.telemetry` import neither this module nor
prometheus-client.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .. import errors
from .._core.checks import few, shown
from .._core.classify import KNOWN_WORDS
from .._core.dialects import APIS
from .._runtime.fork import around_fork
from .._runtime.threads import RLock
from ..errors import ConfigurationError
from ..result import Result
from .observer import undisturbed
from .records import AttemptRecord, CallRecord, RequestContent, RetryRecord, ToolRecord

__all__ = ["PrometheusObserver"]

# Upper bounds in milliseconds, finest where a user notices the difference. The last bound of each
# is at least the default clock that ends the wait (first token 300 s, idle 180 s).
FIRST_TOKEN_BUCKETS = (
    *(10, 25, 50, 100, 200, 300, 400, 500, 750),
    *(1_000, 1_500, 2_000, 3_000, 5_000, 7_500),
    *(10_000, 20_000, 30_000, 60_000, 120_000, 300_000),
)
TOTAL_BUCKETS = (
    *(50, 100, 250, 500),
    *(1_000, 2_000, 3_000, 5_000, 7_500),
    *(10_000, 15_000, 20_000, 30_000, 45_000, 60_000, 90_000),
    *(120_000, 180_000, 300_000, 600_000, 1_200_000, 3_600_000),
)
GAP_BUCKETS = (
    *(1, 2, 5, 10, 15, 20, 30, 40, 50, 75),
    *(100, 150, 200, 300, 500),
    *(1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 180_000),
)

TOOL_BUCKETS = (
    *(1, 5, 10, 25, 50, 100, 250, 500),
    *(1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 1_200_000),
)

_OUTCOMES = ("success", "error", "cancelled")
_TOOL_OUTCOMES = ("success", "error", "timeout", "refused", "interrupted", "late")
# IANA's registry, nginx's 499, Cloudflare's 520 to 530, Anthropic's 529.
_NUMBERS = (*range(300, 309), *range(400, 432), 451, 499, *range(500, 512), *range(520, 531))
_STATUSES = frozenset(map(str, _NUMBERS))
_CODES = _STATUSES | frozenset(KNOWN_WORDS)
_TYPES = frozenset(errors.__all__)
_OTHER = "other"
_REPORTED, _BY_LIST = "service", "list"  # where a cost is from
_COST = -1  # in the place of an attempt's number
_EXEMPLAR = "trace_id"
_EXEMPLAR_ROOM = 128 - len(_EXEMPLAR)  # OpenMetrics 1.0: 128 characters for names and values
_BATCH = 256  # gaps of a call that are kept before they are recorded

# One for the process: held while metrics are written or collected, never while anything waits. So
# a scrape sees the metrics of a call's end together. A fork waits for the lock: otherwise a lock
# inside prometheus-client could be held in the child by a thread that does not exist there.
_lock = RLock()


class _Histogram(Histogram):
    """A Histogram that records many observations at little more than the cost of one."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        """The same as `observe` for each of them."""
        try:
            bounds, buckets, total = self._upper_bounds, self._buckets, self._sum
        except AttributeError:  # these are not part of prometheus-client's API
            for amount in amounts:
                self.observe(amount)
            return
        counts: dict[int, int] = {}
        for amount in amounts:
            index = bisect_left(bounds, amount)
            counts[index] = counts.get(index, 0) + 1
        total.inc(sum(amounts))
        for index, count in counts.items():
            buckets[index].inc(count)


class _Series(NamedTuple):
    """The bound series of one API and model."""

    first_token: Histogram
    total: dict[str, Histogram]  # by outcome
    gap: _Histogram
    tokens_in: Gauge
    tokens_out: Gauge
    backoff: Gauge
    in_flight: Gauge


_NONE: tuple[None, None] = (None, None)


class _Metrics(Collector):
    """The metrics on one registry, shared by its observers. Written and collected while the lock
    is held."""

    def __init__(self) -> None:
        model = ("api", "model")
        self._first_token = Histogram(
            "llm_stream_first_token_ms",
            "Milliseconds from the start of a call to its first content.",
            model,
            registry=None,
            buckets=FIRST_TOKEN_BUCKETS,
        )
        self._total = Histogram(
            "llm_stream_total_duration_ms",
            "Milliseconds from the start of a call to its end.",
            (*model, "outcome"),
            registry=None,
            buckets=TOTAL_BUCKETS,
        )
        self._gap = _Histogram(
            "llm_stream_token_gap_ms",
            "Milliseconds of waiting for the network between two arrivals of content.",
            model,
            registry=None,
            buckets=GAP_BUCKETS,
        )
        self._tokens_in = _sum("tokens_in", "Input tokens, as the service reported them.")
        self._tokens_out = _sum("tokens_out", "Output tokens, as the service reported them.")
        self._backoff = _sum("backoff_ms", "Milliseconds lost in waits between attempts.")
        self._retries = _sum("retry_count", "Failed attempts that another one followed.", "type")
        self._errors = Counter(
            "llm_stream_error",  # and the `_total` that prometheus-client appends
            "Failed attempts, retried ones included, and calls that failed outside of an attempt.",
            ("code", "type"),
            registry=None,
        )
        self._in_flight = Gauge(
            "llm_stream_in_flight",
            "Calls that have begun and not ended.",
            model,
            registry=None,
            multiprocess_mode="livesum",
        )
        self._cost = _sum("cost_usd", "The known cost in USD.", "source")
        self._tools = Histogram(
            "llm_stream_tool_duration_ms",
            "Milliseconds that a tool took.",
            ("tool", "outcome"),
            registry=None,
            buckets=TOOL_BUCKETS,
        )
        # Each series is bound once: labels() costs more than the observation.
        self._bound: dict[tuple[str, str], _Series] = {}
        self._bound_retries: dict[tuple[str, str, str], Gauge] = {}
        self._bound_errors: dict[tuple[str, str], Counter] = {}
        self._bound_tools: dict[tuple[str, str], Histogram] = {}
        self._bound_cost: dict[tuple[str, str, str], Gauge] = {}
        # The calls that run, by API and model. in_flight is set to their number, not counted up and
        # down: an observer is told again where an interrupt has come in between.
        self._running: dict[tuple[str, str], set[tuple[int, int]]] = {}
        self._forked = False  # in_flight still has the parent's calls

    def families(self) -> tuple[Counter | Gauge | Histogram, ...]:
        return (
            self._first_token,
            self._total,
            self._gap,
            self._tokens_in,
            self._tokens_out,
            self._retries,
            self._backoff,
            self._errors,
            self._in_flight,
            self._cost,
            self._tools,
        )

    # -- called by prometheus-client

    def describe(self) -> Iterable[Metric]:
        return [metric for family in self.families() for metric in family.describe()]

    def collect(self) -> Iterable[Metric]:
        return undisturbed(self._collect)

    def _collect(self) -> Iterable[Metric]:
        with _lock:
            self._after_fork()
            # What no call of the program has had is not exposed.
            rare = ((self._cost, self._bound_cost), (self._tools, self._bound_tools))
            unused = [family for family, series in rare if not series]
            families = [family for family in self.families() if family not in unused]
            return [metric for family in families for metric in family.collect()]

    # -- the bound series

    def series(self, api: str, model: str) -> _Series:
        self._after_fork()
        found = self._bound.get((api, model))
        return found or self._bound.setdefault((api, model), self._bind(api, model))

    def _bind(self, api: str, model: str) -> _Series:
        return _Series(
            first_token=self._first_token.labels(api, model),
            total={outcome: self._total.labels(api, model, outcome) for outcome in _OUTCOMES},
            gap=self._gap.labels(api, model),
            tokens_in=self._tokens_in.labels(api, model),
            tokens_out=self._tokens_out.labels(api, model),
            backoff=self._backoff.labels(api, model),
            in_flight=self._in_flight.labels(api, model),
        )

    def retries(self, api: str, model: str, kind: str) -> Gauge:
        key = api, model, kind
        found = self._bound_retries.get(key)
        return found or self._bound_retries.setdefault(key, self._retries.labels(*key))

    def errors(self, code: str, kind: str) -> Counter:
        key = code, kind
        found = self._bound_errors.get(key)
        return found or self._bound_errors.setdefault(key, self._errors.labels(*key))

    def tools(self, tool: str, outcome: str) -> Histogram:
        key = tool, outcome
        found = self._bound_tools.get(key)
        return found or self._bound_tools.setdefault(key, self._tools.labels(*key))

    def cost(self, api: str, model: str, source: str) -> Gauge:
        key = api, model, source
        found = self._bound_cost.get(key)
        return found or self._bound_cost.setdefault(key, self._cost.labels(*key))

    def begun(self, api: str, model: str, call: tuple[int, int]) -> _Series:
        running = self._running.setdefault((api, model), set())
        series = self.series(api, model)
        running.add(call)
        series.in_flight.set(len(running))
        return series

    def ended(self, api: str, model: str, call: tuple[int, int], series: _Series) -> None:
        self._after_fork()
        running = self._running.setdefault((api, model), set())
        running.discard(call)
        series.in_flight.set(len(running))

    # -- forks

    def forked(self) -> None:
        """In a forked child. Resetting a metric may open files (multiprocess mode), so it waits for
        the next use."""
        self._forked = True

    def _after_fork(self) -> None:
        """The parent's calls are not in flight in this process."""
        if self._forked:
            self._running.clear()
            for series in self._bound.values():
                series.in_flight.set(0)
            self._forked = False


def _sum(name: str, what: str, *labels: str) -> Gauge:
    """A gauge that only grows, and is summed over all processes, including those that have
    ended."""
    return Gauge(
        f"llm_stream_{name}",
        what,
        ("api", "model", *labels),
        registry=None,
        multiprocess_mode="sum",
    )


_shared: weakref.WeakKeyDictionary[CollectorRegistry, _Metrics] = weakref.WeakKeyDictionary()


def _metrics_on(registry: CollectorRegistry) -> _Metrics:
    """The metrics of this registry. They are made and registered where it has none."""
    with _lock:
        known = _shared.get(registry)
        metrics = known or _Metrics()
        try:
            registry.register(metrics)
        except ValueError as exc:
            if known is None:
                raise ConfigurationError(
                    f"this registry already has other metrics with these names ({exc}): give the "
                    "observer one of its own, PrometheusObserver(registry=CollectorRegistry())"
                ) from exc
            # otherwise they are on it already
        _shared[registry] = metrics
        return metrics


class PrometheusObserver:
    """Counts and times every call of its clients: `Client(observers=[...])`.

    Args:
        registry: where the metrics are registered. Default: `prometheus_client.REGISTRY`. Several
            observers on one registry share its metrics. In multiprocess mode do not give the
            registry with the `MultiProcessCollector`, which would show everything twice.
        models: the names of models, as they are requested, that have series of their own (about
            130 for each model and API). All others are "other". Default: every model is "other".
        tools: the names of tools that have series of their own (about 20 for each outcome that
            comes up). Default: every tool is "other".
        cost: whether the list price of a call counts where the service reports no cost. It needs
            the extra `cost`. Default: False, only what services report counts.

    Raises ConfigurationError where the registry has other metrics with these names, for `models`
    and `tools` that are not lists of names, for `cost` that is not a bool, and for `cost=True`
    without the extra.

    One observer serves many clients. Thread-safe, and usable after a fork. The module's docstring
    has the metrics, their units and labels.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        models: Iterable[str] = (),
        tools: Iterable[str] = (),
        cost: bool = False,
    ) -> None:
        self._models = _checked_names("models", models)
        self._tools = _checked_names("tools", tools)
        if registry is not None and not isinstance(registry, CollectorRegistry):
            raise ConfigurationError(f"registry={shown(registry)}: pass a CollectorRegistry")
        self._has_prices = _checked_cost(cost)
        if cost:  # a method that an observer does not have costs nothing
            self.on_content = self._count_cost
        self._metrics = _metrics_on(REGISTRY if registry is None else registry)
        # The gaps of the calls that run, until they are recorded, and their series. Each list
        # belongs to the thread that reads the call. The dict is shared: single operations on it are
        # atomic.
        self._gaps: dict[int, tuple[list[float], _Series]] = {}
        # What is left to do of an attempt of a call, or (0) of its end.
        self._steps: dict[tuple[int, int], deque[Callable[[], None]]] = {}
        _instances.add(self)

    def on_start(self, call: CallRecord) -> None:
        with _lock:
            series = self._metrics.begun(*self._labels(call), (id(self), call.id))
            self._gaps[call.id] = [], series

    def on_first_token(self, call: CallRecord, at_ms: float) -> None:
        with _lock:
            _observe(self._series(call).first_token, at_ms, call)

    def on_tokens(self, call: CallRecord, at_ms: float, gap_ms: float | None, chunks: int) -> None:
        # Called for every read: no lock, no label.
        if gap_ms is not None:
            gaps = self._gaps[call.id][0]
            gaps.append(gap_ms)
            if len(gaps) >= _BATCH:
                self._record_gaps(call)

    def on_attempt(self, call: CallRecord, attempt: AttemptRecord) -> None:
        tokens_in, tokens_out = attempt.tokens_in or 0, attempt.usage.output_tokens or 0
        with _lock:
            self._record_gaps(call)
            series = self._series(call)
            steps: list[Callable[[], None]] = []
            if tokens_in > 0:
                steps.append(partial(series.tokens_in.inc, tokens_in))
            if tokens_out > 0:
                steps.append(partial(series.tokens_out.inc, tokens_out))
            if attempt.usage.cost is not None and not self._has_prices:
                gauge = self._metrics.cost(*self._labels(call), _REPORTED)
                steps.append(partial(gauge.inc, attempt.usage.cost))
            if attempt.outcome == "error":
                steps.append(self._error_counter(attempt).inc)
            self._once((call.id, attempt.number), steps)

    def on_retry(self, call: CallRecord, retry: RetryRecord) -> None:
        with _lock:
            self._metrics.retries(*self._labels(call), _type(retry.error_type)).inc()

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        with _lock:
            self._record_gaps(call)
            if call.id not in self._gaps:
                return  # its start was not reported to this observer
            series = self._series(call)
            self._metrics.ended(*self._labels(call), (id(self), call.id), series)
            steps: list[Callable[[], None]] = [
                partial(_observe, series.total[end.outcome], end.total_ms, call)
            ]
            if end.backoff_ms > 0:
                steps.append(partial(series.backoff.inc, end.backoff_ms))
            if _failed_outside(end):
                steps.append(self._error_counter(end).inc)
            self._once((call.id, 0), steps)
            self._gaps.pop(call.id, None)

    def _count_cost(self, call: CallRecord, request: RequestContent, result: Result) -> None:
        from .cost import cost_of

        cost = cost_of(call.api, call.host, result, call.started)
        if cost is None:
            return
        source = _REPORTED if cost.input is None else _BY_LIST
        with _lock:
            gauge = self._metrics.cost(*self._labels(call), source)
            self._once((call.id, _COST), [partial(gauge.inc, float(cost.amount))])

    def on_tool_end(self, tool: ToolRecord, end: ToolRecord) -> None:
        name = end.name if end.name in self._tools else _OTHER
        outcome = end.outcome if end.outcome in _TOOL_OUTCOMES else "error"
        with _lock:
            _observe(self._metrics.tools(name, outcome), end.total_ms, end)

    def _once(self, what: tuple[int, int], steps: Iterable[Callable[[], None]]) -> None:
        """Do each step once, also where `what` is told again after an interrupt."""
        left = self._steps.setdefault(what, deque(steps))
        while left:
            left[0]()
            left.popleft()
        self._steps.pop(what, None)

    def _record_gaps(self, call: CallRecord) -> None:
        gaps, series = self._gaps.get(call.id, _NONE)
        if gaps and series is not None:
            with _lock:
                series.gap.observe_all(gaps)
            gaps.clear()

    def _error_counter(self, record: AttemptRecord | CallRecord) -> Counter:
        return self._metrics.errors(_code(record.error_code), _type(record.error_type))

    def _series(self, call: CallRecord) -> _Series:
        series = self._gaps.get(call.id, _NONE)[1]
        return series or self._metrics.series(*self._labels(call))

    def _labels(self, call: CallRecord) -> tuple[str, str]:
        return (
            call.api if call.api in APIS else _OTHER,
            call.model if call.model in self._models else _OTHER,
        )

    def forked(self) -> None:
        """In a forked child, where none of the calls runs."""
        self._gaps.clear()
        self._steps.clear()
        self._metrics.forked()


def _checked_names(argument: str, names: Iterable[str]) -> frozenset[str]:
    listed = few(argument, names, f"the {argument}' names")
    if not all(isinstance(name, str) for name in listed):
        raise ConfigurationError(
            f"{argument}: give a list of the {argument}' names, which are strings"
        )
    return frozenset(listed)


def _checked_cost(cost: bool) -> bool:
    if not isinstance(cost, bool):
        raise ConfigurationError(f"cost={shown(cost)}: give True or False")
    if cost:
        from .cost import price_list

        price_list()  # raises without the extra
    return cost


def _observe(histogram: Histogram, ms: float, call: CallRecord | ToolRecord) -> None:
    fits = len(call.trace_id) <= _EXEMPLAR_ROOM
    histogram.observe(ms, {_EXEMPLAR: call.trace_id} if fits else None)


def _failed_outside(end: CallRecord) -> bool:
    """Whether the call failed outside of its attempts, whose errors are counted already: it was
    refused, or it ended in a wait."""
    if end.outcome != "error" or not end.attempts:
        return end.outcome == "error"
    last = end.attempts[-1]
    another_followed = bool(end.retries) and end.retries[-1].attempt == last.number
    return another_followed or last.error_type != end.error_type


def _type(name: str | None) -> str:
    return name if name in _TYPES else _OTHER


def _code(code: str | None) -> str:
    if code is None:
        return "none"
    word = code.lower()  # as the classifier compares it
    return word if word in _CODES else _OTHER


_instances: weakref.WeakSet[PrometheusObserver] = weakref.WeakSet()


def _before_fork() -> None:
    _lock.acquire()


def _after_fork_in_parent() -> None:
    _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    _lock = RLock()
    for observer in list(_instances):
        observer.forked()


around_fork(_before_fork, _after_fork_in_parent, _after_fork_in_child)
