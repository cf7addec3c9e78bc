"""Where the requests of all clients of this process go instead of to the network, and what keeps
them from it; for tests (`recording` and `forbid_network` of `llmstream.testing`).

Both lists are empty outside of tests. Each access to them is one operation of a list, so that a
signal handler may make a call at any moment.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from .._core.request import HTTPRequest
from .._runtime.scope import CancelScope
from .base import Response
from .route import Route

__all__ = ["BARRIERS", "DETOURS", "Barrier", "Detour", "Onward", "detoured"]

Onward = Callable[[HTTPRequest, CancelScope], Response]


class Detour(Protocol):
    """What a request goes through instead of to the network."""

    def reroute(self, request: HTTPRequest, scope: CancelScope, onward: Onward) -> Response:
        """As `Transport.send`. `onward` sends the request on its way, to the network at last."""


class Barrier(Protocol):
    """What may keep a request from the network."""

    def check(self, url: str, route: Route) -> None:
        """Raises ConfigurationError if nothing may be sent on this way."""


DETOURS: list[Detour] = []  # the last one gets the request first
BARRIERS: list[Barrier] = []


def detoured(onward: Onward, request: HTTPRequest, scope: CancelScope) -> Response:
    """Send `request` through all detours; `onward` is the network."""
    for detour in DETOURS[:]:
        onward = partial(detour.reroute, onward=onward)
    return onward(request, scope)
