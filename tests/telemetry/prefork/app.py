"""A WSGI application as users have it: a view that streams an answer, and /metrics for all workers.

Its answers come from the service at the address in SERVICE; the prompt is the path.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

from llmstream import Client, LLMStreamError, RetryPolicy, Stream
from llmstream.telemetry.prometheus import PrometheusObserver

client = Client(
    base_url=os.environ["SERVICE"],
    api_key="test-key",
    model="a-model",
    retry=RetryPolicy(base=0.0, cap=0.0, jitter=0.0),
    observers=[PrometheusObserver(models=["a-model"])],
)


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/metrics":
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return make_wsgi_app(registry)(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Worker", str(os.getpid()))])
    return answer(client.stream(path.strip("/")))


def answer(stream: Stream) -> Iterator[bytes]:
    try:
        with stream:
            for token in stream:
                yield token.encode()
    except LLMStreamError as error:
        yield type(error).__name__.encode()
