"""OpenTelemetry (extra `otel`): a span per call, its metrics, and `traceparent` on every request.

    from llmstream import Client
    from llmstream.telemetry import OpenTelemetryObserver

    client = Client(observers=[OpenTelemetryObserver()])

Only the API of OpenTelemetry is needed here. The application installs the SDK; without one nothing
is recorded. Names, units and buckets are those of the GenAI semantic conventions, of which two sets
are in use. They are data: `NAMES`. What no convention has a name for is called `llmstream.*`.
"""

from __future__ import annotations

from .conventions import NAMES, Metric, Names, TokenMetric
from .observer import OpenTelemetryObserver
from .providers import provider_of

__all__ = ["NAMES", "Metric", "Names", "OpenTelemetryObserver", "TokenMetric", "provider_of"]
