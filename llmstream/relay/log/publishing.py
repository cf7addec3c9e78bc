"""publish and stop: an answer that goes on while nobody listens."""

from __future__ import annotations

import atexit
import contextlib
import math
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any

from msgspec.structs import replace

from ..._core.checks import MANY, checked_range, shown
from ..._runtime.clock import SYSTEM_CLOCK
from ..._runtime.fork import in_child
from ..._runtime.threads import Thread, spawn
from ..._settings.arguments import checked_count
from ...errors import Cancelled, ConfigurationError
from ...telemetry.observer import logger
from ..parts import End, Failure, Part
from ..protocols import PROTOCOLS, make_encoder
from ..protocols.base import Encoder, Version, clean
from ..pump import Batches
from ..reading import checked_stream, parts_of
from .base import (
    STOPPED,
    About,
    Claim,
    Log,
    LogError,
    LogWriter,
    checked_answer_id,
    checked_log,
    is_answer_id,
)

__all__ = ["Publication", "publish", "stop"]

_LONGEST = 3600.0  # seconds of an interval
_MONTH = 31 * 86_400.0
_EXIT_SECONDS = 5.0  # at the end of the program, for the last frames of all answers


def publish(
    log: Log,
    id: str,
    stream: Any,
    protocol: str = "events",
    *,
    version: Version | None = None,
    unattended: float | None = 300.0,
    interval: float = 0.05,
    buffer: int = 65_536,
    **options: Any,
) -> Publication:
    """Write an answer into a log, from where any number of browsers `follow` it.

        log = relay.MemoryLog()

        @app.post("/chat/<id>")
        def ask(id):
            relay.publish(log, id, client.stream(relay.prompt_of(request.data, "events")))
            return relay.flask_response(relay.follow(log, id))

        @app.get("/chat/<id>")
        def go_on(id):
            last = request.headers.get("Last-Event-ID")
            return relay.flask_response(relay.follow(log, id, last))

    Returns at once. A thread reads the stream; the answer goes on while nobody follows it, for
    `unattended` seconds after the last reader has left (None: to its end), and is then stopped. (In
    Redis a reader whose browser takes nothing for that long counts as one that has left.)

    An id is published once, as long as the log has it. A second `publish` with the same id, in
    whatever process, sends nothing: it closes the stream that it was given, and returns a
    Publication that is false. So a browser that asks again does not run the prompt again. To ask
    anew, use a new id. Who knows an id can follow and stop its answer: let the server choose ids
    that cannot be guessed, or put the user's own id in front.

    When the program ends, the answers that it is writing end with an error.

    Args:
        log: `MemoryLog` or `RedisLog`.
        id: of the answer, 1 to 512 characters.
        stream: a Stream that nobody has read yet. The publication takes it over.
        protocol, version, options: as of `relay.sse`; every reader gets this one.
        unattended: seconds, greater than 0.
        interval: seconds between two writes to the log (0 to 3,600); the first comes at once.
        buffer: characters that may wait for the log, before the stream is slowed.

    Raises ConfigurationError for wrong arguments, for a stream that was read before, for
    `on_disconnect="restart"` in a protocol that cannot show it, and where the system starts no
    thread; LogError where the log is full or cannot be reached. Nothing was sent then.
    """
    found = checked_log(log)
    checked_answer_id(id)
    encoder = make_encoder(protocol, version, **options)
    pace = checked_range("interval", interval, 0, _LONGEST)
    room = checked_count("buffer", buffer, MANY)
    patience = _checked_patience(unattended)
    checked_stream("publish", stream, encoder)
    batches = Batches(parts_of(stream), stream, interval=pace, heartbeat=math.inf, buffer=room)
    about = About(protocol, version or _latest(protocol), patience)
    producer = _Producer(stream, batches, encoder)
    is_first = False
    try:
        is_first = producer.claim(found, id, about)
    finally:
        if not is_first:
            producer.abandon()
    return Publication(id, producer, is_first=is_first)


def stop(log: Log, id: str, reason: str | None = None) -> bool:
    """End an answer, from any thread, process or host that has the log: its call is cancelled
    within a second, and its readers are told.

    Returns whether the answer was being made. `reason` is for the records of the call.

    Raises ConfigurationError for arguments that are of the wrong type, LogError where the log
    cannot be reached.
    """
    found = checked_log(log)
    if reason is not None and not isinstance(reason, str):
        raise ConfigurationError(f"reason={shown(reason)}: pass a string, or None")
    if not is_answer_id(id):
        return False
    return found.stop(id, clean(reason or "stopped by relay.stop()"))


def _latest(protocol: str) -> Version | None:
    """Another process may have a later version of the library, with another default."""
    versions = PROTOCOLS[protocol].versions
    return versions[-1] if versions else None


def _checked_patience(unattended: Any) -> float | None:
    if unattended is None:
        return None
    if isinstance(unattended, bool) or not isinstance(unattended, (int, float)):
        raise ConfigurationError(f"unattended={shown(unattended)}: pass seconds, or None")
    return checked_range("unattended", unattended, 0.01, _MONTH)


class Publication:
    """An answer that `publish` was asked to write. True if this call of `publish` writes it, false
    if another one did before. Any thread may use it."""

    def __init__(self, id: str, producer: _Producer, *, is_first: bool) -> None:
        self.id = id
        self.is_first = is_first
        self._producer = producer

    def __bool__(self) -> bool:
        return self.is_first

    def __repr__(self) -> str:
        return f"<Publication {'of its own' if self.is_first else 'of another'}>"

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the answer has ended, at most `seconds` (None: without a limit), and return
        whether it has. Does not wait for an answer that another `publish` writes."""
        return self._producer.wait(seconds)


class _Producer:
    """The thread that writes one answer into a log."""

    def __init__(self, stream: Any, batches: Batches, encoder: Encoder) -> None:
        self._stream = stream
        self._batches = batches
        self._encoder = encoder
        self._claim: Claim | None = None
        self._turn: SimpleQueue[None] = SimpleQueue()
        self._turn.put(None)  # for the thread, or for who abandons it before
        self._thread: Thread | None = None
        self._instead: Failure | None = None  # of "cancelled": what the readers are told

    def claim(self, log: Log, id: str, about: About) -> bool:
        """Begin, if the answer is this one's to write; returns whether it is."""
        self._claim = Claim(id, about, self.stop)
        if log.claim(self._claim) is None:
            self._claim.writer = None
            return False
        context = copy_context()  # the call is the caller's, with its trace and its variables
        _note(self)
        self._thread = spawn(lambda: context.run(self._run), "publish")
        return True

    def stop(self, failure: Failure | None, reason: str) -> None:
        """See `base.Claim`."""
        if failure is not None:
            self._instead = failure
        self._stream.cancel(reason)

    def abandon(self) -> None:
        """Nothing is published: the stream is closed. A thread that has begun ends."""
        self._batches.close()
        with contextlib.suppress(Empty):
            self._turn.get_nowait()
            _running.discard(self)
            if self._claim is not None and self._claim.writer is not None:
                self._claim.writer.withdraw()

    def wait(self, seconds: float | None) -> bool:
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # -- the thread

    def _run(self) -> None:
        try:
            self._turn.get_nowait()
        except Empty:
            return
        try:
            self._write()
        finally:
            self._batches.close()
            _running.discard(self)
            self._log.release()

    def _write(self) -> None:
        try:
            for parts in self._batches:
                self._store(parts)
        except Cancelled:  # `abandon` has closed the batches; `release` tells the readers
            return
        except LogError as error:
            logger.error("an answer is stopped: %s (trace_id=%s)", error, self._stream.trace_id)
            self._stream.cancel(error.message)
            with contextlib.suppress(LogError):  # then readers notice by themselves
                self._end(error.failure)

    def _store(self, parts: list[Part]) -> None:
        if not parts:
            return
        *before, last = parts
        frames = [frame for part in before for frame in self._encoder.encode(part)]
        if isinstance(last, (End, Failure)):
            self._end(last, frames)
        elif frames := frames + self._encoder.encode(last):
            self._log.append(frames)

    def _end(self, last: End | Failure, frames: list[bytes] | None = None) -> None:
        if isinstance(last, Failure) and self._instead is not None:
            told = self._instead
            last = replace(last, type=told.type, message=told.message, retryable=told.retryable)
        frames = (frames or []) + self._encoder.encode(last)
        breaks = isinstance(last, Failure) and not self._encoder.shows_failure
        self._log.end(frames, breaks=breaks)

    @property
    def _log(self) -> LogWriter:
        assert self._claim is not None
        assert self._claim.writer is not None
        return self._claim.writer


# ---- the end of the program --------------------------------------------------------------------

_running: set[_Producer] = set()  # only `add` and `discard` are used, which are atomic
_registered: set[str] = set()
in_child(_running.clear)  # the threads are the parent's


def _note(producer: _Producer) -> None:
    _running.add(producer)
    if "exit" not in _registered:
        _registered.add("exit")
        atexit.register(_finish)


def _finish() -> None:
    """Threads that are daemons would be gone in mid-answer, and the readers left to wait."""
    producers = list(_running)
    for producer in producers:
        producer.stop(Failure(type="LogError", message=STOPPED, retryable=True), "the program ends")
    until = SYSTEM_CLOCK.monotonic() + _EXIT_SECONDS
    for producer in producers:
        producer.wait(max(0.0, until - SYSTEM_CLOCK.monotonic()))
