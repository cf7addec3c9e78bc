"""Records real conversations to files, and plays them back without a network.

    with llmstream.testing.recording("recordings/sky.json") as recorded:
        answer = my_code()  # the first time over the network, from then on out of the file

`record` and `replay` are the two halves as transports, for one client. `forbid_network` makes sure
that no client of this process gets past them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from .._call.budget import forget_waits
from .._core.checks import shown
from .._settings.arguments import checked_double, checked_path
from .._transport.adapter import RequestsTransport
from .._transport.base import Transport
from .._transport.detour import BARRIERS, DETOURS
from .._transport.proxy import is_loopback
from .._transport.route import Route
from ..errors import ConfigurationError
from .matching import MATCH_ON, is_of
from .recorder import Recorder
from .replayer import Replayer
from .tape import FilePath

if TYPE_CHECKING:
    from contextlib import _GeneratorContextManager

__all__ = ["Barrier", "chosen_by", "forbid_network", "record", "recording", "replay", "rerouted"]

Mode = Literal["none", "once", "all"]
_MODES = ("none", "once", "all")


def record(
    path: FilePath,
    *,
    transport: Transport | None = None,
    secrets: Iterable[Any] = (),
    **network: Any,
) -> Recorder:
    """A transport that makes real requests and writes them to the file `path`, with the answers.

        with testing.record("sky.json") as transport, Client(transport=transport) as client:
            client.stream("Why is the sky blue?").result()

    The file is written when the `with` block ends, and only if no exception ends it; without one,
    each time the client is closed. It is replaced whole. `transport` is what makes the requests;
    default: the real one with the settings `network` (`verify`, `cert`, `proxies`, `trust_env` as
    in `Client`, whose own do not count here).

    Keys, passwords, cookies and ids of accounts are left out of the file, and so are the values of
    variables of the environment that are named as secrets; `secrets` are further texts, or compiled
    patterns, to be left out. Prompts and answers are in it.

    Raises ConfigurationError for a file that cannot be written. Thread-safe.
    """
    checked_double("transport", transport, "send", "close")
    if transport is None:
        transport = RequestsTransport(**network)
    elif network:
        raise ConfigurationError(f"record: {[*network]} belong to the transport that you pass")
    return Recorder(path, transport=transport, secrets=secrets)


def replay(
    path: FilePath,
    *,
    timing: bool | float = False,
    match_on: Sequence[str] = MATCH_ON,
    ignore: Sequence[str] = (),
    repeat: bool = False,
) -> Replayer:
    """A transport that answers requests out of a file of `record`, without a network.

        client = Client(transport=testing.replay("sky.json"), api_key="any")

    A request gets the answer of the recorded request that is the same: by method, URL and body, in
    which the order of fields does not count. The same request gets its answers in the order in
    which they came. What failed when it was recorded fails with the same error.

    Args:
        timing: False: everything arrives at once. True: as it did, measured by the client's clock.
            A number: so many times as slowly (0.1 is ten times as fast).
        match_on: what has to be the same: "method", "url" (or "path", without host and port) and
            "body".
        ignore: fields of the body that may differ, as paths: "metadata.run", "input.0.content",
            "messages.*.name".
        repeat: once all answers to a request have been played, play the last one again.

    A request that is not in the file raises ConfigurationError, which says in what it differs from
    the nearest one. Where your code handles that error, the end of the `with` block raises
    AssertionError. Raises ConfigurationError for a file that is not a whole recording. Thread-safe.
    """
    return Replayer(path, timing=timing, match_on=match_on, ignore=ignore, repeat=repeat)


@contextlib.contextmanager
def recording(
    path: FilePath,
    mode: Mode = "once",
    *,
    timing: bool | float = False,
    match_on: Sequence[str] = MATCH_ON,
    ignore: Sequence[str] = (),
    repeat: bool = False,
    secrets: Iterable[Any] = (),
    ignore_hosts: Sequence[str] = (),
) -> Iterator[Recorder | Replayer]:
    """In the `with` block all clients of this process, those that your code makes too, are recorded
    or replayed; clients with a transport of their own are not.

    `mode`: "once" replays the file, or records it if there is none; "none" only replays; "all"
    records anew. The other arguments are those of `record` and `replay`. Requests to
    `ignore_hosts` (names, with * as in file names) go their usual way. Yields the Recorder or
    Replayer. Other processes are not affected.
    """
    chosen = chosen_by(
        path,
        mode,
        timing=timing,
        match_on=match_on,
        ignore=ignore,
        repeat=repeat,
        secrets=secrets,
        ignore_hosts=ignore_hosts,
    )
    with rerouted(chosen):
        yield chosen


def chosen_by(
    path: FilePath,
    mode: Mode,
    *,
    secrets: Iterable[Any] = (),
    ignore_hosts: Sequence[str] = (),
    **options: Any,
) -> Recorder | Replayer:
    """What records or replays in this mode. Raises ConfigurationError for options that are wrong,
    also for those that do not count in this mode."""
    if mode not in _MODES:
        raise ConfigurationError(f"mode={shown(mode)}: use one of {[*_MODES]}")
    hosts = _checked_hosts("ignore_hosts", ignore_hosts)
    if mode == "all" or (mode == "once" and not os.path.exists(checked_path("path", path))):
        Replayer(None, **options)
        return Recorder(path, secrets=secrets, ignore_hosts=hosts)
    return Replayer(path, secrets=secrets, ignore_hosts=hosts, **options)


@contextlib.contextmanager
def rerouted(chosen: Recorder | Replayer) -> Iterator[None]:
    """In the `with` block all clients of this process are recorded or replayed by `chosen`."""
    with chosen:
        try:
            try:
                DETOURS.append(chosen)
                yield
            finally:
                _remove(DETOURS, chosen)
                forget_waits()  # those of a service that has not been asked
        finally:
            _remove(DETOURS, chosen)  # an interrupt may have come before the first one


def _remove(found: list[Any], one: Any) -> None:
    while one in found:
        found.remove(one)


def forbid_network(allow: Sequence[str] = ()) -> _GeneratorContextManager[None]:
    """Until the end of the `with` block (or of the decorated function) no client of this process
    sends anything to another machine: a request raises ConfigurationError.

        with testing.forbid_network():
            ...

    Servers on this machine, doubles and replays go on; `allow` are hosts (names, with * as in file
    names) that may be asked too. What other libraries do is not affected.
    """
    return _forbidden(_checked_hosts("allow", allow))


@contextlib.contextmanager
def _forbidden(allowed: Sequence[str]) -> Iterator[None]:
    barrier = Barrier(allowed)
    try:
        try:
            barrier.put_up()
            yield
        finally:
            barrier.take_down()
    finally:
        barrier.take_down()  # an interrupt may have come before the first one


class Barrier:
    """Forbids the network, see `forbid_network`."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._allowed = allowed

    def put_up(self) -> None:
        """From now on it forbids."""
        BARRIERS.append(self)

    def take_down(self) -> None:
        """From now on it does not. Idempotent."""
        _remove(BARRIERS, self)

    def check(self, url: str, route: Route) -> None:
        """Raises ConfigurationError for a server, or a proxy, on another machine; for the
        library."""
        for address in (url, *(() if route.proxy is None else (route.proxy.url,))):
            if not (is_loopback(address) or is_of(address, self._allowed)):
                raise ConfigurationError(
                    f"the network is forbidden here (llmstream.testing.forbid_network), and "
                    f"nothing was sent to {route.end}: use a server, a FakeTransport or a "
                    "recording of llmstream.testing, or allow the host"
                )


def _checked_hosts(name: str, hosts: Any) -> tuple[str, ...]:
    if isinstance(hosts, str) or not all(isinstance(host, str) for host in hosts):
        raise ConfigurationError(f"{name}: give a list of names of hosts")
    return tuple(host.lower() for host in hosts)
