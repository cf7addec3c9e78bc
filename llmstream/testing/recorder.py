"""Records conversations: a transport that makes real requests, and writes what came to a file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from functools import partial
from types import TracebackType
from typing import Any, Literal

from .._core.credentials import is_credential
from .._core.request import HTTPRequest
from .._runtime.files import check_replaceable, replace_file
from .._runtime.fork import process_number
from .._runtime.scope import CancelScope, Stopped
from .._settings.arguments import checked_path
from .._transport.adapter import RequestsTransport
from .._transport.base import Response, Transport
from .._transport.detour import Onward
from ..errors import ConfigurationError, ConnectionFailed
from ..result import LLMStreamError
from .doubles import as_recorded
from .matching import is_of
from .script import Recorded
from .scrub import Piece, Scrubber, checked_secrets
from .tape import FilePath, TapedAnswer, TapedEnd, TapedExchange, render_tape, words_of

__all__ = ["Recorder"]

_LONG_SECRET = 16  # characters of a variable; a shorter value may be a word of an answer
_ROUND = 4  # digits after the point of a second: a tenth of a millisecond


class Recorder:
    """A transport that records, see `record`. Thread-safe.

    Attributes:
        path: the file.
        requests: the requests so far, in order, as they were sent.
    """

    def __init__(
        self,
        path: FilePath,
        *,
        transport: Transport | None = None,
        secrets: Iterable[Any] = (),
        ignore_hosts: Sequence[str] = (),
    ) -> None:
        self._entered = False
        self._takes: list[_Take] = []
        self._saved = 0  # takes that the file has
        self.path = checked_path("path", path)
        self.requests: list[Recorded] = []
        self._transport = transport
        self._onward = _past_detours(transport) if transport is not None else None
        self._secrets = checked_secrets(secrets)
        self._ignored = ignore_hosts
        self._process = process_number()
        _check_writable(self.path)

    def __enter__(self) -> Recorder:
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None:
            self.save()
        else:  # half a conversation is none
            self.discard()
        if self._transport is not None:
            self._transport.close()

    def __del__(self) -> None:
        if not self._entered and self._saved < len(self._takes):
            warnings.warn(
                f"{self.path}: what was recorded is lost; use record() in a with block, or close "
                "the client",
                ResourceWarning,
                stacklevel=2,
            )

    def send(self, request: HTTPRequest, scope: CancelScope) -> Response:
        """Make the request, and record it; for the library."""
        if self._onward is None:
            raise ConfigurationError(
                "this Recorder has no transport of its own: make one with record()"
            )
        return self._send(request, scope, self._onward)

    def reroute(self, request: HTTPRequest, scope: CancelScope, onward: Onward) -> Response:
        """Make the request of any client, and record it; for the library."""
        if is_of(request.url, self._ignored):
            return onward(request, scope)
        return self._send(request, scope, onward)

    def _send(self, request: HTTPRequest, scope: CancelScope, onward: Onward) -> Response:
        if self._process != process_number():
            raise ConfigurationError(
                "this is a forked child, and what it does would not be recorded: record in the "
                "process that began it"
            )
        take = _Take(request, scope)
        self.requests.append(as_recorded(request, take.begun))
        self._takes.append(take)
        try:
            response = onward(request, scope)
        except (ConfigurationError, AssertionError):
            self._takes.remove(take)  # nothing was sent
            raise
        except BaseException as exc:
            take.failed(exc)
            raise
        take.answered(response)
        return _TakenResponse(response, take)

    def keep_at_least(self, connections: int) -> None:
        """For the library."""
        keep = getattr(self._transport, "keep_at_least", None)
        if keep is not None:
            keep(connections)

    def close(self) -> None:
        """Close the idle connections; and write the file, unless the end of a `with` block does.
        For the library."""
        if self._transport is not None:
            self._transport.close()
        if not self._entered:
            self.save()

    def save(self) -> None:
        """Write the file as a whole, with what has been recorded so far. Does nothing where nothing
        has. Raises ConfigurationError if it cannot be written."""
        takes = [*self._takes]
        if len(takes) == self._saved and not any(take.is_open for take in takes):
            return
        scrubber = Scrubber([*self._secrets, *_secrets_of_environment()])
        for take in takes:
            request = take.request
            scrubber.learn(request.url, request.headers, request.body, take.headers)
        written = render_tape(takes[0].date, [take.exchange(scrubber) for take in takes])
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            replace_file(self.path, scrubber.seal(written).encode())
        except OSError as exc:
            raise ConfigurationError(
                f"the recording {os.fspath(self.path)} cannot be written ({exc.strerror}): the "
                "conversation is lost unless save() succeeds later"
            ) from None
        self._saved = len(takes)

    def discard(self) -> None:
        """Forget what has been recorded: the file stays as it is."""
        self._takes.clear()
        self._saved = 0


def _past_detours(transport: Transport) -> Onward:
    """A client with a transport of its own is not rerouted, so this one is not either."""
    if isinstance(transport, RequestsTransport):
        return partial(transport.send, direct=True)
    return transport.send


def _secrets_of_environment() -> list[str]:
    """The values of variables that are named as secrets: a tool may have printed them."""
    return [
        value
        for name, value in os.environ.items()
        if len(value) >= _LONG_SECRET and is_credential(name)
    ]


def _check_writable(path: FilePath) -> None:
    """Raises ConfigurationError before anything is sent that could not be written."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        if os.path.isdir(path):
            raise IsADirectoryError(21, "it is a folder")
        if os.path.isdir(folder):
            check_replaceable(path)
            return
        while not os.path.exists(folder):  # it is made when there is something to write
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
            raise PermissionError(13, "its folder cannot be made")
    except OSError as exc:
        raise ConfigurationError(
            f"the recording {os.fspath(path)} cannot be written ({exc.strerror}): give the path of "
            "a file in a folder that can be written"
        ) from None


class _Take:
    """One exchange as it is recorded. Written by the thread of its reader."""

    def __init__(self, request: HTTPRequest, scope: CancelScope) -> None:
        self.request = request
        self._scope = scope
        self.begun = scope.clock.monotonic()
        moment = datetime.fromtimestamp(scope.clock.time(), timezone.utc)
        self.date = moment.isoformat(timespec="seconds").replace("+00:00", "Z")
        self.headers: dict[str, str] = {}
        self._status: int | None = None
        self._answered_at = 0.0
        self._pieces: list[Piece] = []
        self._end: TapedEnd | None = None

    @property
    def is_open(self) -> bool:
        return self._end is None

    def _now(self) -> float:
        return round(self._scope.clock.monotonic() - self.begun, _ROUND)

    def answered(self, response: Response) -> None:
        self._answered_at = self._now()
        self.headers = dict(response.headers)
        self._status = response.status

    def arrived(self, data: bytes) -> None:
        if not data:
            self.ended("whole")
            return
        last = self._scope.last_byte
        at = self._now() if last is None else round(last - self.begun, _ROUND)
        before = self._pieces[-1][0] if self._pieces else self._answered_at
        self._pieces.append((max(at, before), data))

    def ended(self, how: Literal["whole", "enough", "left"]) -> None:
        if self._end is None:
            self._end = TapedEnd(self._now(), how)

    def failed(self, exc: BaseException) -> None:
        if self._end is not None:
            return
        at, phase = self._now(), self._scope.phase.value
        stop = self._scope.stop_reason
        if isinstance(exc, Stopped) and stop is not None and stop.clock is not None:
            self._end = TapedEnd(at, "clock", phase, stop.clock.value)
        elif isinstance(exc, LLMStreamError):
            cause = exc.__cause__
            self._end = TapedEnd(
                at,
                "error",
                phase,
                error=type(exc).__name__,
                message=exc.message,
                retryable=exc.retryable,
                reused=isinstance(exc, ConnectionFailed) and exc.reused,
                cause=_cause(cause) if isinstance(cause, OSError) else None,
            )
        else:  # a cancel, or an interrupt
            self._end = TapedEnd(at, "left", phase)

    def exchange(self, scrubber: Scrubber) -> TapedExchange:
        """What the file has of it."""
        request = self.request
        answer = None
        if self._status is not None:
            body = [(at, words_of(data)) for at, data in scrubber.pieces([*self._pieces])]
            headers = scrubber.headers(self.headers)
            answer = TapedAnswer(self._answered_at, self._status, headers, body)
        end = self._end or TapedEnd(self._now(), "left")
        return TapedExchange(
            scrubber.request(request.method, request.url, request.headers, request.body),
            TapedEnd(**{**_fields(end), "message": scrubber.text(end.message)}),
            answer,
        )


def _fields(end: TapedEnd) -> dict[str, Any]:
    return {name: getattr(end, name) for name in end.__struct_fields__}


def _cause(error: OSError) -> tuple[int, str] | None:
    if not isinstance(error.errno, int):
        return None
    return error.errno, str(error.strerror)


class _TakenResponse:
    """A response that is recorded as it is read."""

    def __init__(self, response: Response, take: _Take) -> None:
        self.status = response.status
        self.forwarder = response.forwarder
        self.headers = response.headers
        self._response = response
        self._take = take

    def read(self) -> bytes:
        try:
            data = self._response.read()
        except BaseException as exc:
            self._take.failed(exc)
            raise
        self._take.arrived(data)
        return data

    def finish(self) -> None:
        self._take.ended("enough")
        self._response.finish()

    def close(self) -> None:
        self._take.ended("left")
        self._response.close()
