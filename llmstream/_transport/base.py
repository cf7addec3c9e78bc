"""What a transport is: it sends a request and returns its response. The two protocols here are all
that a call knows of the network; `llmstream.testing` has doubles of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from .._core.request import HTTPRequest
from .._runtime.scope import CancelScope

__all__ = ["Response", "Transport"]


class Response(Protocol):
    """The response to one request: its status and headers have arrived, its body is read.

    All methods are for the reader's thread. They raise Stopped if the scope was stopped, and else
    only the library's own errors.
    """

    status: int

    @property
    def forwarder(self) -> str:
        """The proxy that has seen the request and may have answered it, in words for an error's
        message; "" where there is none."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, with lower-case names."""

    def read(self) -> bytes:
        """Wait for bytes of the body and return what has arrived, at least one byte; b"" at the end
        of the body. The scope's `begin_wait` and `end_wait` enclose each wait."""

    def finish(self) -> None:
        """The answer is complete: keep the connection for another request if the rest of the body
        arrives soon, else close it. Never raises."""

    def close(self) -> None:
        """Close the connection. Idempotent, never raises."""


class Transport(Protocol):
    """Sends requests to a service. Thread-safe."""

    def send(self, request: HTTPRequest, scope: CancelScope) -> Response:
        """Send the request and wait for the head of its response. Reports the phases and the waits
        to `scope`. Raises Stopped, and else only the library's own errors."""

    def close(self) -> None:
        """Close the idle connections. The transport can still be used."""
