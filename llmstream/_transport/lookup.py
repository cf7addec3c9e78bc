"""Looks up the addresses of a host: one look-up of a host at a time, shared by all who wait for it.

`getaddrinfo` cannot be interrupted, so it runs in a helper thread, which is abandoned by those
whose scope is stopped. Where a resolver does not answer, a thousand calls still have one such
thread. An answer is for those who wait for it; it is not kept.
"""

from __future__ import annotations

import socket
from functools import lru_cache
from typing import Any

from .._runtime.fork import in_child
from .._runtime.scope import CancelScope
from .._runtime.threads import spawn
from ..errors import ConfigurationError

__all__ = ["NotResolved", "resolve"]


class NotResolved(OSError):
    """The name `host` has no address, or could not be looked up."""

    def __init__(self, host: str, reason: OSError) -> None:
        super().__init__(*reason.args)
        self.host = host


class _LookUp:
    """One look-up and those who wait for it. No lock: each access is a single operation, so an
    interrupt, a signal handler or a finalizer finds nothing half done."""

    __slots__ = ("_host", "_port", "found", "waiting")

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        # The first entry counts: addresses, why there are none, or None: nobody looks them up.
        self.found: list[list[Any] | OSError | None] = []
        self.waiting: set[CancelScope] = set()

    def run(self) -> None:
        try:
            self.end(list(socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)))
        except OSError as exc:
            self.end(exc)
        except BaseException as exc:  # usually UnicodeError; those who wait must not hang
            reason = f"not resolved ({type(exc).__name__})"
            self.end(socket.gaierror(socket.EAI_NONAME, reason))

    def result(self, port: int) -> list[Any] | OSError | None:
        """What was found, for this port: the look-up may have been begun for another one."""
        found = self.found[0]
        if port == self._port or not isinstance(found, list):
            return found
        return [(*known, (where[0], port, *where[2:])) for *known, where in found]

    def end(self, found: list[Any] | OSError | None) -> None:
        """Whoever comes from now on looks up the host anew."""
        self.found.append(found)
        if _under_way.get(self._host) is self:
            _under_way.pop(self._host, None)
        for scope in self.waiting.copy():
            scope.wake()


_under_way: dict[str, _LookUp] = {}
in_child(_under_way.clear)  # a forked child has none of the threads


@lru_cache(maxsize=64)
def _numeric(host: str, port: int) -> list[Any]:
    """The address of a host that is a numeric address. Raises socket.gaierror for a name."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)


def resolve(host: str, port: int, scope: CancelScope) -> list[Any]:
    """The addresses of a host, as getaddrinfo returns them. Each caller has its own clocks and its
    own cancel. Raises NotResolved, Stopped."""
    try:
        return _numeric(host, port)
    except socket.gaierror:
        pass  # a name
    found = None
    while found is None:
        found = _shared(host, port, scope)
    if isinstance(found, OSError):
        raise NotResolved(host, found) from found
    return found


def _shared(host: str, port: int, scope: CancelScope) -> list[Any] | OSError | None:
    """What the look-up that is under way finds, or a new one. None: the thread that was about to
    begin it was interrupted."""
    own = _LookUp(host, port)
    begun = False
    try:
        look_up = _under_way.setdefault(host, own)
        look_up.waiting.add(scope)
        if look_up is own:
            spawn(own.run, "resolver")
        begun = True
        while not look_up.found:
            scope.pause(None)
        look_up.waiting.discard(scope)
        return look_up.result(port)
    except ConfigurationError:  # no further thread can be started
        own.end(OSError("no thread for the look-up"))
        raise
    except BaseException:
        if begun:
            look_up.waiting.discard(scope)
        else:  # perhaps nobody looks it up: those who have come meanwhile begin anew
            own.end(None)
        raise
