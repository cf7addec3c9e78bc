"""Replays conversations: a transport that answers requests out of a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import errors
from .._core.checks import checked_range, shown
from .._core.phase import ClockName, Phase
from .._core.request import HTTPRequest
from .._runtime.fork import renew_in_child
from .._runtime.scope import CancelScope, Stopped, StopReason
from .._runtime.threads import RLock
from .._settings.arguments import checked_path
from .._transport.base import Response
from .._transport.detour import Onward
from ..errors import ConfigurationError, ConnectionFailed, StreamInterrupted
from ..result import LLMStreamError
from .clocks import let_pass
from .doubles import as_recorded
from .matching import MATCH_ON, Matcher, is_of
from .script import Recorded
from .scrub import Scrubber, checked_secrets
from .tape import FilePath, TapedEnd, TapedExchange, TapedRequest, bytes_of, parse_tape

__all__ = ["Replayer"]

_PATIENCE = 1.0  # seconds that a replay waits for a caller who left when it was recorded
_MOST_TIMES_AS_LONG = 1000
_ANEW = "record it anew (llmstream.testing.recording(path, mode='all'))"


class Replayer:
    """A transport that replays, see `replay`. Thread-safe.

    Attributes:
        path: the file.
        requests: the requests so far, in order, as they were sent.
        misses: those of them that are not in the recording.
    """

    def __init__(
        self,
        path: FilePath | None,
        *,
        timing: bool | float = False,
        match_on: Sequence[str] = MATCH_ON,
        ignore: Sequence[str] = (),
        repeat: bool = False,
        secrets: Iterable[Any] = (),
        ignore_hosts: Sequence[str] = (),
        may_be_missing: bool = False,
        anew: str = _ANEW,
    ) -> None:
        if not isinstance(timing, bool):
            checked_range("timing", timing, 0, _MOST_TIMES_AS_LONG)
        if not isinstance(repeat, bool):
            raise ConfigurationError(f"repeat={shown(repeat)}: pass True or False")
        self.path = path
        self.requests: list[Recorded] = []
        self.misses: list[Recorded] = []
        self._factor = float(timing)
        self._repeat = repeat
        self._secrets = checked_secrets(secrets)
        self._ignored = ignore_hosts
        self._anew = anew
        self._matcher = Matcher(match_on, ignore)
        self._exchanges = [] if path is None else _loaded(path, may_be_missing, anew)
        self._keys = [self._matcher.key(exchange.request) for exchange in self._exchanges]
        self._lock = RLock()  # guards _played
        self._played: set[int] = set()
        self._explained: list[str] = []
        renew_in_child(self, _lock=RLock)

    def __enter__(self) -> Replayer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None and self._explained:
            raise AssertionError(self._explained[0])

    @property
    def unplayed(self) -> int:
        """The number of recorded answers that no request has asked for."""
        return len(self._exchanges) - len(self._played)

    def send(self, request: HTTPRequest, scope: CancelScope) -> Response:
        """Play the answer to the request; for the library."""
        recorded = as_recorded(request, scope.clock.monotonic())
        self.requests.append(recorded)
        scrubber = Scrubber(self._secrets)
        scrubber.learn(request.url, request.headers, request.body, {})
        asked = scrubber.request(request.method, request.url, request.headers, request.body)
        found = self._take(asked)
        if isinstance(found, str):
            self._explained.append(found)
            self.misses.append(recorded)
            raise ConfigurationError(found)
        playback = _Playback(found, scope, self._factor, self._name, self._anew)
        playback.begin()
        return playback

    def reroute(self, request: HTTPRequest, scope: CancelScope, onward: Onward) -> Response:
        """Play the answer to a request of any client; for the library."""
        if is_of(request.url, self._ignored):
            return onward(request, scope)
        return self.send(request, scope)

    def close(self) -> None:
        """Nothing; for the library."""

    def discard(self) -> None:
        """Forget that requests were not in the recording."""
        self._explained.clear()

    @property
    def _name(self) -> str:
        return os.fspath(self.path) if self.path is not None else "the recording"

    def _take(self, asked: TapedRequest) -> TapedExchange | str:
        """The next answer to this request; or why there is none."""
        key = self._matcher.key(asked)
        same = [index for index, known in enumerate(self._keys) if known == key]
        if not same:  # where something is blotted out
            recorded = enumerate(self._exchanges)
            same = [i for i, one in recorded if self._matcher.same(one.request, asked)]
        with self._lock:
            free = [index for index in same if index not in self._played]
            chosen = free[:1] or (same[-1:] if self._repeat else [])
            self._played.update(chosen)
        if chosen:
            return self._exchanges[chosen[0]]
        return self._why_not(asked, len(same))

    def _why_not(self, asked: TapedRequest, played: int) -> str:
        where = f"{asked.method} {asked.url}"
        if not self._exchanges:
            return f"there is no recording {self._name} with an answer to {where}: {self._anew}"
        if played:
            answers = "its one answer" if played == 1 else f"its {played} answers"
            return (
                f"{self._name} has no further answer to {where}: {answers} have been played; pass "
                f"repeat=True to play the last one again, or {self._anew}"
            )
        distance = partial(self._matcher.distance, request=asked)
        nearest = min(
            range(len(self._exchanges)),
            key=lambda index: (
                distance(self._exchanges[index].request),
                index in self._played,
                index,
            ),
        )
        differs = self._matcher.describe(self._exchanges[nearest].request, asked)
        return (
            f"{self._name} has no answer to this request ({where}): the nearest one, number "
            f"{nearest + 1} of {len(self._exchanges)}, differs in {differs}; leave out what may "
            f"differ by ignore=, or {self._anew}"
        )


def _loaded(path: FilePath, may_be_missing: bool, anew: str) -> list[TapedExchange]:
    try:
        data = Path(checked_path("path", path)).read_bytes()
    except OSError as exc:
        if may_be_missing and isinstance(exc, FileNotFoundError):
            return []
        raise ConfigurationError(
            f"the recording {os.fspath(path)} cannot be read ({exc.strerror}): {anew}"
        ) from None
    return parse_tape(data, os.fspath(path))


class _Playback:
    """A recorded answer as the library sees a response."""

    forwarder = ""

    def __init__(
        self, exchange: TapedExchange, scope: CancelScope, factor: float, name: str, anew: str
    ) -> None:
        self._end = exchange.end
        self._answer = exchange.answer
        self._scope = scope
        self._factor = factor
        self._name = name
        self._anew = anew
        self._begun = scope.clock.monotonic()
        self._next = 0  # of the pieces
        self.status = exchange.answer.status if exchange.answer is not None else 0
        self.headers = exchange.answer.headers if exchange.answer is not None else {}

    def begin(self) -> None:
        """Play up to the head of the response."""
        scope = self._scope
        if self._answer is not None or self._end.phase not in (Phase.CONNECT, Phase.TLS):
            scope.sending()
            scope.awaiting_response()
        if self._answer is None:
            self._play_end()
            raise ConfigurationError(f"{self._name} has no answer and no error: {self._anew}")
        self._wait(self._answer.at)
        scope.end_wait(1)

    def read(self) -> bytes:
        scope = self._scope
        scope.begin_wait()
        data = b""
        try:
            pieces = self._answer.body if self._answer is not None else []
            if self._next < len(pieces):
                at, words = pieces[self._next]
                self._wait(at)
                data = bytes_of(words)
                self._next += 1
            else:
                self._play_end()
        finally:
            scope.end_wait(len(data))
        return data

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _wait(self, at: float) -> None:
        """Until the moment `at` of the recording. Raises Stopped."""
        scope = self._scope
        scope.check()
        seconds = self._begun + at * self._factor - scope.clock.monotonic()
        if self._factor and seconds > 0:
            let_pass(scope, seconds)

    def _play_end(self) -> None:
        """The end of the body; raises what ended it."""
        end, scope = self._end, self._scope
        if end.how == "enough":
            return
        self._wait(end.at)
        if end.how == "clock":
            scope.stop(StopReason(clock=ClockName(end.clock)))
            raise Stopped
        if end.how == "error":
            raise _error_of(end) from (OSError(*end.cause) if end.cause is not None else None)
        if end.how != "whole":
            let_pass(scope, _PATIENCE)  # who left then may leave now
            raise ConfigurationError(
                f"{self._name} ends here, in the middle of an answer, because the caller left when "
                f"it was recorded: {self._anew}"
            )


def _error_of(end: TapedEnd) -> LLMStreamError:
    kind = getattr(errors, end.error, None)
    if not (isinstance(kind, type) and issubclass(kind, LLMStreamError)):
        kind = StreamInterrupted
    error = kind(end.message)
    error.retryable = end.retryable
    if isinstance(error, ConnectionFailed):
        error.reused = end.reused
    return error
