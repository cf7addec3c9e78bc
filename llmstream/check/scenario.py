"""One call against a fault server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from .._core.checks import CENTURY
from .._core.timers import Timeouts
from .._runtime.clock import SYSTEM_CLOCK, Clock
from .._runtime.threads import spawn
from .._transport.base import Transport
from ..result import LLMStreamError
from ..stream import Stream
from ..testing import Answer, LLMServer, Recorded, Reply
from ..testing.clocks import ScaledClock
from . import pace
from .observed import Observed
from .settings import CheckSettings, clocks_of
from .wire import ANSWER, PROMPT

__all__ = ["Scenario", "read_text"]


# Seconds. All waits that a RetryPolicy may ask for in one check are shorter, and a clock that is so
# much faster still tells microseconds of real time apart.
_LONGEST = 1e15


class Scenario:
    """A fault server with a script, and a client with the settings that talks to it.

    Use it as a context manager. Raises ConfigurationError for settings that cannot work, and at
    its end AssertionError if the fault server itself failed.

    Args:
        settings: the client's settings.
        *script: what the server answers, request by request.
        endless: what the server answers after the script. None: the whole answer.
        lasts: how long the wait under test takes, in seconds of the client's clock. The clock runs
            faster so that the wait takes about `pace.TARGET` real seconds.
        kept: the clocks under test. All others are stretched, so that the faster clock leaves them
            as long in real time as they are set.
        base_url: where the client is pointed. None: the server.
        transport: the client's transport. None: the real one.
        tls: the server has TLS, with a certificate that the client trusts. Needs trustme.
    """

    def __init__(
        self,
        settings: CheckSettings,
        *script: Reply | Answer | Callable[[Recorded], Reply | Answer],
        endless: Reply | None = None,
        lasts: float = 0.0,
        kept: Iterable[str] = ("total",),
        base_url: str | None = None,
        transport: Transport | None = None,
        tls: bool = False,
    ) -> None:
        self.speed = 1.0 if settings.real_time else max(1.0, min(lasts, _LONGEST) / pace.TARGET)
        self.patience = min(lasts / self.speed, 1e6) + pace.PATIENCE
        self.server = LLMServer(tls=tls)
        self.server.script(*script)
        self.server.default = endless or ANSWER
        self._scaled = ScaledClock(self.speed) if self.speed > 1.0 else None
        self.clock: Clock = self._scaled or SYSTEM_CLOCK
        try:
            self.client = settings.client(
                base_url or self.server.base_url_for(settings.api),
                timeouts=_stretched(settings.timeouts, self.speed, {"total", *kept}),
                clock=self._scaled,
                transport=transport,
                verify=self.server.ca_file or True,
            )
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Scenario:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._close()

    def _close(self) -> None:
        if self._scaled is not None:
            self._scaled.close()
        self.server.close()
        if self.server.errors:
            raise AssertionError(f"the fault server itself failed: {self.server.errors[0]!r}")

    def play(self, **options: Any) -> Observed:
        """Make one call in a thread of its own and wait for its end.

        `options` are those of `Client.stream`. A call that overruns its plan by `pace.PATIENCE`
        real seconds is cancelled and counts as a hang. Errors of the library are in the
        observation, none is raised.
        """
        options = {"on_disconnect": "raise", **options}
        observed = Observed(speed=self.speed)
        try:
            stream = self.client.stream(PROMPT, **options)
        except LLMStreamError as error:
            observed.error = error
            return observed
        begun = self.clock.monotonic()
        # Iterating for text refuses the policy "restart": the reader could not know of it.
        read = _read_chunks if options["on_disconnect"] == "restart" else read_text
        reader = spawn(partial(read, stream, observed), "check-call")
        reader.join(self.patience)
        if reader.is_alive():
            observed.hung = self.patience
            stream.cancel("the check has waited long enough")
            reader.join(pace.PATIENCE)
        observed.seconds = self.clock.monotonic() - begun
        observed.attempts = stream.attempts
        observed.requests = self.server.requests
        return observed


def _stretched(timeouts: Timeouts, speed: float, kept: Iterable[str]) -> Timeouts:
    """Clocks for a faster clock: those not in `kept` last as long as before in real time."""
    return Timeouts(
        **{
            name: getattr(timeouts, name)
            if seconds is None or name in kept
            else _allowed(seconds * speed)
            for name, seconds in clocks_of(timeouts)
        }
    )


def _allowed(seconds: float) -> float | None:
    """None for a clock that is longer than one may be: it does not run out here."""
    return seconds if seconds <= CENTURY else None


def read_text(
    stream: Stream, observed: Observed, on_text: Callable[[], object] | None = None
) -> None:
    """Read a stream's text to its end, as a caller does, and record what happens.

    `on_text` is called after every piece of text. Raises nothing: the error is recorded.
    """
    with _ending_recorded(stream, observed):
        for piece in stream:
            observed.delivered += piece
            if on_text is not None:
                on_text()


def _read_chunks(stream: Stream, observed: Observed) -> None:
    """As `read_text`, but able to see a restart."""
    with _ending_recorded(stream, observed):
        for chunk in stream.chunks():
            if chunk.type == "restart":
                observed.restarts += 1
                observed.delivered = ""
            elif chunk.type == "text":
                observed.delivered += chunk.text


@contextlib.contextmanager
def _ending_recorded(stream: Stream, observed: Observed) -> Iterator[None]:
    try:
        yield
        observed.text = stream.result().text
    except Exception as error:
        observed.error = error
        partial_result = getattr(error, "partial", None)
        observed.text = "" if partial_result is None else partial_result.text
