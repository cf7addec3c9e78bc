"""pytest fixtures, found by pytest wherever this package is installed.

Every test run of every project that has this package installed loads this file, and so the package
itself; the server is only imported when a fixture is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .server import LLMServer


@pytest.fixture
def llm_server() -> Iterator[LLMServer]:
    """A scripted LLM service on http://127.0.0.1, closed (and checked for errors) afterwards."""
    from .server import LLMServer

    with LLMServer() as server:
        yield server


@pytest.fixture
def llm_server_tls() -> Iterator[LLMServer]:
    """The same over https; verify it with `llm_server_tls.ca_file`. Needs trustme."""
    from .server import LLMServer

    with LLMServer(tls=True) as server:
        yield server
