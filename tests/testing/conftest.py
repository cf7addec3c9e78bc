"""The servers of the tests of the bench; no thread of theirs may be left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from raw_client import bench_threads
from support import other_threads

from llmstream.testing import LLMServer


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = other_threads()
    yield
    assert bench_threads(but=before) == []


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer() as started:
        yield started


@pytest.fixture(params=["http", "tls"])
def any_server(request: pytest.FixtureRequest) -> Iterator[LLMServer]:
    with LLMServer(tls=request.param == "tls") as started:
        yield started
