"""The client of the readers' tests: one attempt, and clocks that end a test that hangs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from shells import notebook  # noqa: F401 (a fixture)
from support import ONCE, clocks

from llmstream import Client
from llmstream.testing import LLMServer


@pytest.fixture
def client(server: LLMServer, client_for: Callable[..., Client]) -> Client:
    return client_for(server, retry=ONCE, timeouts=clocks(10.0))
