"""pytest fixtures. pytest finds them wherever this package is installed.

Every test run of every project that has this package installed imports this file, and with it the
package itself. The server is only imported when a test uses a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .server import LLMServer


@pytest.fixture
def llm_server() -> Iterator[LLMServer]:
    """A scripted LLM service on http://127.0.0.1, closed and checked for errors after the test."""
    from .server import LLMServer

    with LLMServer() as server:
        yield server


@pytest.fixture
def llm_server_tls() -> Iterator[LLMServer]:
    """The same over https. Verify it with `llm_server_tls.ca_file`. Needs trustme."""
    from .server import LLMServer

    with LLMServer(tls=True) as server:
        yield server
