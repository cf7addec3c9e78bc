"""What a transport is: requests go out, responses come in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from .._core.request import HTTPRequest
from .._runtime.scope import CancelScope

__all__ = ["Response", "Transport"]


class Response(Protocol):
    """One request that was answered: status and headers are there, the body is to come.

    All methods are for the reader's thread. They raise Stopped when the scope was stopped, else
    the library's own errors only.
    """

    status: int

    @property
    def headers(self) -> Mapping[str, str]:
        """With lower-case names."""

    def read(self) -> bytes:
        """What has arrived, at least one byte; b"" at the end of the body."""

    def finish(self) -> None:
        """The answer is complete: make the connection reusable if that costs little, else drop
        it. Never raises."""

    def close(self) -> None:
        """Drop the connection. Idempotent, never raises."""


class Transport(Protocol):
    """How requests get to a service. Thread-safe."""

    def send(self, request: HTTPRequest, scope: CancelScope) -> Response:
        """Send, and wait for the head of the answer. Raises like Exchange."""

    def close(self) -> None:
        """Close idle connections. The transport can still be used."""
