"""A service that answers at once: what is measured against it is the work of the client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .._core.dialects import DEFAULT_API
from ..client import Client
from ..testing import Answer, LLMServer, Reply

__all__ = ["floor_client"]

_TOKENS = 128  # of an answer


@contextlib.contextmanager
def floor_client(
    api: str = DEFAULT_API, tokens: int | None = _TOKENS, max_connections: int = 100
) -> Iterator[Client]:
    """A client of a test server in this process, which sends `tokens` tokens at once.

    Its figures are what no service can be faster than, measured by this client on this machine.
    The server's own work, in the same interpreter, is in them: they are an upper bound of the
    client's. Raises AssertionError at the end where the server itself has failed.
    """
    count = tokens or _TOKENS
    answer = Answer([f"token{number} " for number in range(count)], usage=(100, count))
    reply = Reply(b"".join(answer.blocks(api)))  # encoded once, and sent in one piece
    with LLMServer() as server:
        server.default = reply
        with Client(
            api,
            base_url=server.base_url_for(api),
            api_key="not-a-key",
            model="floor",
            max_connections=max_connections,
        ) as client:
            yield client
