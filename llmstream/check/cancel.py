"""The check of a cancel by another thread."""

from __future__ import annotations

import contextlib
from functools import partial
from queue import Empty, SimpleQueue

from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.threads import spawn
from ..errors import Cancelled
from ..stream import Stream
from ..testing import LLMServer, Reply, Silence
from . import pace, wire
from .observed import Observed, judged
from .result import CheckResult
from .scenario import Scenario, read_text
from .settings import CheckSettings

__all__ = ["cancel"]


def cancel(settings: CheckSettings) -> CheckResult:
    """Another thread cancels in mid-answer."""
    with Scenario(settings, Reply([*wire.first_part(settings.api), Silence()])) as scenario:
        stream = scenario.client.stream(wire.PROMPT, on_disconnect="raise")
        observed = Observed()
        part_read, ended = SimpleQueue[None](), SimpleQueue[float]()
        spawn(partial(_read, stream, observed, part_read, ended), "check-call")
        with contextlib.suppress(Empty):
            part_read.get(timeout=pace.PATIENCE)
        before = SYSTEM_CLOCK.monotonic()
        stream.cancel("the check")
        returned = SYSTEM_CLOCK.monotonic() - before
        with contextlib.suppress(Empty):
            observed.seconds = ended.get(timeout=pace.PATIENCE) - before
        observed.hung = pace.PATIENCE if observed.error is None else 0.0
        observed.attempts = stream.attempts
        closed = _closes(scenario.server)
    cancel_ms, reader_ms = returned * 1000.0, observed.seconds * 1000.0
    return judged(
        f"Cancelled within {pace.LATE:g} s, .partial kept, the connection closed",
        observed,
        (observed.ending == Cancelled.__name__, "not Cancelled"),
        (observed.seconds <= pace.LATE, "too late"),
        (returned <= pace.LATE, f"cancel() itself took {returned:.2f} s"),
        (observed.text == wire.PART, f"the text is {observed.text!r}, sent was {wire.PART!r}"),
        (closed, "the server did not see the connection close"),
        more=f"cancel() took {cancel_ms:.1f} ms, the reader ended after {reader_ms:.1f} ms",
        cancel_ms=cancel_ms,
        reader_ms=reader_ms,
    )


def _read(
    stream: Stream, observed: Observed, part_read: SimpleQueue[None], ended: SimpleQueue[float]
) -> None:
    """Read to the end; report when the part has been read, and when the stream has ended."""

    def on_text() -> None:
        if observed.delivered == wire.PART:
            part_read.put(None)

    read_text(stream, observed, on_text)
    ended.put(SYSTEM_CLOCK.monotonic())
    part_read.put(None)  # a stream that ends early does not keep the check waiting


def _closes(server: LLMServer) -> bool:
    try:
        server.wait_closed(0, timeout=pace.LATE)
    except TimeoutError:
        return False
    return True
