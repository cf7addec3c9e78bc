"""What has happened to a test server, written by its threads and waited for by tests."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .script import Recorded

__all__ = ["Journal"]


class Journal:
    """The connections, requests and failures of one server. All members are thread-safe.

    The waits raise `TimeoutError` after `timeout` seconds. `errors` are the exceptions of the
    server's own threads and of scripted functions.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards all below, and the moments of the requests
        self.errors: list[Exception] = []
        self._requests: list[Recorded] = []
        self._connections = 0
        self._open: set[int] = set()

    # written by the server's threads

    def accepted(self) -> int:
        """A connection has been accepted; returns its number, from 1 on."""
        with self._changed:
            self._connections += 1
            self._open.add(self._connections)
            self._changed.notify_all()
            return self._connections

    def ended(self, connection: int) -> None:
        """The connection of that number is over."""
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def received(self, request: Recorded) -> None:
        """A request is complete."""
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()

    def note(self, *requests: Recorded, **moments: float) -> None:
        """Set attributes of requests: `closed_at` or `finished_at`."""
        with self._changed:
            for request in requests:
                for name, moment in moments.items():
                    setattr(request, name, moment)
            self._changed.notify_all()

    def failed(self, error: Exception) -> None:
        """A thread of the server, or a scripted function, raised `error`."""
        with self._changed:
            self.errors.append(error)
            self._changed.notify_all()

    # read by tests

    @property
    def requests(self) -> list[Recorded]:
        """The complete requests so far, in order of arrival; a new list."""
        with self._changed:
            return list(self._requests)

    @property
    def connections(self) -> int:
        """How many connections have been accepted."""
        with self._changed:
            return self._connections

    @property
    def open_connections(self) -> int:
        """How many of them have not ended yet."""
        with self._changed:
            return len(self._open)

    def wait_requests(self, count: int, timeout: float) -> list[Recorded]:
        """Wait for `count` complete requests, and return all of them."""
        self._wait(
            lambda: len(self._requests) >= count,
            timeout,
            lambda: f"{len(self._requests)} of {count} requests arrived within {timeout} s",
        )
        return self.requests

    def wait_connections(self, count: int, timeout: float) -> None:
        """Wait for `count` accepted connections."""
        self._wait(
            lambda: self._connections >= count,
            timeout,
            lambda: f"{self._connections} of {count} connections arrived within {timeout} s",
        )

    def wait_all_closed(self, timeout: float) -> None:
        """Wait until no connection is open."""
        self._wait(
            lambda: not self._open,
            timeout,
            lambda: f"connections still open after {timeout} s: {len(self._open)}",
        )

    def wait_moment(
        self, recorded: Recorded | int, moment: str, timeout: float, failure: str
    ) -> float:
        """Wait until a request, given itself or by its index, has the attribute `moment` set.

        Returns the attribute. `failure` is what did not happen, for the error's message.
        """

        def found() -> float | None:
            request = self._find(recorded)
            return None if request is None else getattr(request, moment)

        def sentence() -> str:
            request = self._find(recorded)
            if request is None:
                return f"request {recorded} did not arrive within {timeout} s"
            where = f"{request.method} {request.path} on connection {request.connection}"
            return f"{failure} within {timeout} s: {where}"

        self._wait(lambda: found() is not None, timeout, sentence)
        moment_found = found()
        assert moment_found is not None  # it was set, and it is never unset
        return moment_found

    def _find(self, recorded: Recorded | int) -> Recorded | None:
        if isinstance(recorded, Recorded):
            return recorded
        try:
            return self._requests[recorded]
        except IndexError:
            return None

    def _wait(
        self, condition: Callable[[], bool], timeout: float, failure: Callable[[], str]
    ) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise TimeoutError(failure())
