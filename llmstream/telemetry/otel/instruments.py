"""The metrics: the instruments of one set of names, and what they record of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..._runtime.fork import renew_in_child
from ..._runtime.threads import RLock
from ..records import CallRecord
from .attributes import metric_attributes
from .conventions import Metric, Names

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, Meter

__all__ = ["Instruments"]

# This many combinations of service and models have metrics of their own. The models of further
# ones are recorded as `_OTHER`, so that names out of requests cannot fill the memory.
_MOST_SERIES = 200
_OTHER = "_OTHER"


class Instruments:
    """The instruments of one meter. Thread-safe."""

    def __init__(self, meter: Meter, names: Names) -> None:
        self.per_chunk = _histogram(meter, names.per_chunk)
        self._names = names
        self._duration = _histogram(meter, names.duration)
        self._first_chunk = _histogram(meter, names.first_chunk)
        self._tokens = tuple(_token_recorder(meter, one.metric) for one in names.tokens)
        self._lock = RLock()
        self._series: dict[tuple[Any, ...], dict[str, Any]] = {}  # guarded by _lock
        renew_in_child(self, _lock=RLock)

    def attributes(self, call: CallRecord, response_model: str | None = None) -> dict[str, Any]:
        """The attributes that all metrics of a call have in common."""
        key = (call.api, call.host, call.port, call.model, response_model)
        with self._lock:
            found = self._series.get(key)
            if found is not None:
                return found
            if len(self._series) >= _MOST_SERIES:
                return metric_attributes(call, _OTHER, response_model and _OTHER)
            found = self._series[key] = metric_attributes(call, call.model, response_model)
            return found

    def record_end(self, end: CallRecord, context: Context) -> None:
        """Record what is known at the end of a call. `context` leads from the metrics' exemplars to
        the call's span."""
        shared = self.attributes(end, end.response_model)
        failed = {"error.type": end.error_type} if end.outcome == "error" else {}
        # "the metric value SHOULD be the same as the span duration"
        self._duration.record(end.total_ms / 1000.0, {**shared, **failed}, context)
        if end.first_token_ms is not None:
            self._first_chunk.record(end.first_token_ms / 1000.0, shared, context)
        for names, record in zip(self._names.tokens, self._tokens, strict=True):
            common = {**shared, **failed} if names.error else shared
            for field, own in names.counts:
                whole = field == "input_tokens"
                count = end.tokens_in if whole else getattr(end.usage, field)
                if count is not None or names.zero:
                    record(count or 0, {**common, **own}, context)


def _histogram(meter: Meter, metric: Metric) -> Histogram:
    try:
        return meter.create_histogram(
            metric.name,
            metric.unit,
            metric.description,
            explicit_bucket_boundaries_advisory=metric.buckets,
        )
    except TypeError:  # before version 1.30: the application's views have to set the buckets
        return meter.create_histogram(metric.name, metric.unit, metric.description)


def _token_recorder(meter: Meter, metric: Metric) -> Callable[..., None]:
    recorder: Callable[..., None]
    if metric.buckets:
        recorder = _histogram(meter, metric).record
    else:
        recorder = meter.create_counter(metric.name, metric.unit, metric.description).add
    return recorder
