"""Bytes of one response in, events out: the protocol of one stream, without the network.

Framing, SSE, dialect and state meet here and nowhere else. The end of an answer is an event, not
the absence of bytes.
"""

from __future__ import annotations

import json
import math
from enum import IntEnum
from typing import Any

import msgspec

from ..errors import EventTooLarge, LoopDetected, NotAStreamError, StreamTruncated
from ..events.base import AnyEvent, UnknownEvent, decode_json
from ..result import Chunk, LLMStreamError, ProtocolError
from .classify import error_from_payload
from .dialects.base import CONTENT, Activity, Dialect, Effect
from .framing import Framer
from .sse import parse
from .state import State

__all__ = ["MAX_EVENT_BYTES", "Session"]

MAX_EVENT_BYTES = 64 * 1024 * 1024
_DONE = b"[DONE]"
_SHOWN = 300  # characters of a foreign body that an error shows


class Stage(IntEnum):
    """How far a response body is. In the first three more is read, in the others nothing is."""

    OPEN = 0
    COMPLETE = 1  # the answer is whole; what belongs to the stream may still come
    FAILING = 2  # an error has arrived; what belongs to it may still come
    WHOLE = 3
    FAILED = 4
    UNFINISHED = 5  # the body was the answer so far; the service is still at work on it


_OPEN, _COMPLETE, _WHOLE = Stage.OPEN, Stage.COMPLETE, Stage.WHOLE
_NONE, _CONTENT = Activity.NONE, Activity.CONTENT


class Session:
    """One response body.

    `receive` and `receive_eof` never raise for what the bytes are: a failure is kept in `error`,
    beside the events that came before it. `stage` says how far the body is; `complete`, `ended` and
    `unfinished` are read from it. `activity` is the highest since it was last set to NONE, and
    `linger` the seconds that what still belongs to the stream may take after the end. `has_content`
    says that content has arrived at all, `cursor` is the number of the last event that has one, and
    `contents` counts the events that brought content.
    Not thread-safe: one thread feeds it; its `state` may be read by any.
    """

    __slots__ = (
        "_dialect",
        "_framer",
        "_max_event_bytes",
        "_max_identical",
        "_repeated",
        "_repeats",
        "_seen",
        "activity",
        "contents",
        "cursor",
        "error",
        "events",
        "has_content",
        "linger",
        "stage",
        "state",
    )

    def __init__(
        self,
        dialect: Dialect,
        max_event_bytes: int = MAX_EVENT_BYTES,
        choices: int = 1,
        max_identical_chunks: int | None = None,
    ) -> None:
        self._dialect = dialect
        self._max_event_bytes = max_event_bytes
        self._framer = Framer(max_event_bytes)
        self._max_identical = max_identical_chunks
        self._repeated: Chunk | None = None  # the last chunk, and how often it came in a row
        self._repeats = 0
        self._seen = -math.inf  # events up to this number are known, in a stream that was resumed
        self.cursor: int | None = None
        self.has_content = False
        self.state = State()
        self.state.expected = choices
        self.stage = Stage.OPEN
        self.error: LLMStreamError | None = None
        self.activity = _NONE
        self.linger = 0.0
        self.events = 0
        self.contents = 0

    @property
    def complete(self) -> bool:
        """The answer is whole."""
        return self.stage is _COMPLETE or self.stage is _WHOLE

    @property
    def ended(self) -> bool:
        """Nothing more is read."""
        return self.stage >= _WHOLE

    @property
    def unfinished(self) -> bool:
        """The body was the answer so far, and the service is still at work on it."""
        return self.stage is Stage.UNFINISHED

    def continue_from(self, before: Session) -> None:
        """The answer goes on where the one of `before` was cut."""
        self.state.continue_from(before.state)
        self.has_content = True

    def resume(self) -> None:
        """The same answer comes again, from another body: what is known of it is passed over."""
        self._framer = Framer(self._max_event_bytes)
        if self.cursor is not None:
            self._seen = self.cursor
        self.error = None
        self.stage = Stage.OPEN
        self.activity = _NONE
        self.linger = 0.0

    def receive(self, data: bytes) -> list[AnyEvent]:
        """The events that `data` completes, in order; empty once the stream has ended."""
        events: list[AnyEvent] = []
        blocks = b"" if self.ended else self._framer.feed(data)
        decode, apply, state = self._dialect.decode, self._dialect.apply, self.state
        # One loop for all: a call more for each event would cost a tenth of it.
        for name, said in parse(blocks):
            if len(said) <= len(_DONE) and not self._is_event(said, events):
                if self.ended:
                    return events
                continue
            try:
                event = decode(name, said if name != "error" else _as_json(said))
                number = event.sequence_number
                if number is not None:
                    if number <= self._seen:
                        continue
                    self.cursor = number
                effect = apply(state, event)
            except (ValueError, RecursionError) as exc:
                self._garbled(exc)
                return events
            self.events += 1
            events.append(event)
            if effect is CONTENT:  # most are; it ends nothing
                self.contents += 1
                self.activity = _CONTENT
                self.has_content = True
            else:
                self._judge(effect)
                if self.stage is not _OPEN and self.complete:
                    event.chunks += state.flush()
            if self._max_identical is not None:
                self._count_repeats(event.chunks, self._max_identical)
            if self.stage is not _OPEN and self.stage >= _WHOLE:
                return events
        if self._framer.overflow and self.complete:
            self.stage = Stage.WHOLE  # only what comes after the end of the answer is too large
        elif self._framer.overflow:
            self._fail(
                EventTooLarge(
                    "an event grew beyond max_event_bytes without an end: raise the limit if "
                    "events of this size are expected"
                )
            )
        return events

    def _is_event(self, data: bytes, events: list[AnyEvent]) -> bool:
        """Whether it is one: neither the end marker, which may bring out what was held back, nor
        nothing."""
        if data != _DONE:
            return bool(data)
        self._judge(self._dialect.done(self.state))
        late = self.state.flush() if self.complete else ()
        if late:
            events.append(UnknownEvent("done", "[DONE]", chunks=late, raw=data))
        return False

    def _garbled(self, exc: Exception) -> None:
        if self.complete:  # garbage after the end of the answer
            self.stage = Stage.WHOLE
            return
        error = ProtocolError(f"an event of the stream cannot be read: {_reason(exc)}")
        error.retryable = True  # garbled on the way, it may come whole the next time
        self._fail(error)

    def _count_repeats(self, chunks: tuple[Chunk, ...], limit: int) -> None:
        for chunk in chunks:
            self._repeats = self._repeats + 1 if chunk == self._repeated else 1
            self._repeated = chunk
            if self._repeats >= limit and not self.complete:
                self._fail(
                    LoopDetected(
                        f"the same chunk came {limit} times in a row (max_identical_chunks): the "
                        "model is in a loop; ask again, with another temperature if need be"
                    )
                )

    def _judge(self, effect: Effect) -> None:
        activity = effect.activity
        if activity is _CONTENT:
            self.contents += 1
            self.has_content = True
        if activity > self.activity:
            self.activity = activity
        if effect.error is not None:
            # Also after the finish of a chat answer: the service takes it back.
            self.error = self.error or effect.error
        elif not effect.complete:
            return
        self.linger = effect.linger
        if self.error is None:
            self.stage = Stage.COMPLETE if effect.linger else Stage.WHOLE
        else:
            self.stage = Stage.FAILING if effect.linger else Stage.FAILED

    def _fail(self, error: LLMStreamError) -> None:
        self.error = self.error or error
        self.stage = Stage.FAILED

    def receive_eof(self) -> None:
        """The body ended as HTTP should. Half an event that is pending is no event."""
        if self.complete:
            self.stage = Stage.WHOLE
            return
        self.stage = Stage.FAILED
        if self.error is None:
            pending = self._framer.pending
            half = f", {pending} bytes into the next event" if pending else ""
            self.error = StreamTruncated(
                f"the stream ended cleanly after {self.events} events{half}, but the answer's "
                "terminal event never came: what arrived is in .partial; do not take it for whole"
            )

    def receive_json(self, body: bytes) -> list[AnyEvent]:
        """A 200 that is one JSON body: a whole completion, or an error."""
        try:
            payload = decode_json(body.removeprefix(b"\xef\xbb\xbf"))
            if _failure(payload):
                if isinstance(payload, dict) and payload.get("status") == "failed":
                    self.state.status = "failed"
                self._fail(error_from_payload(payload))
                return []
            if self._dialect.is_unfinished(payload):
                self._fail(StreamTruncated("the service is still at work on the answer"))
                self.stage = Stage.UNFINISHED
                return []
            events = self._dialect.events_from_json(payload, body)
            if not events:
                return self.refuse(body, "JSON that is neither a completion nor an error")
            for event in events:
                self._judge(self._dialect.apply(self.state, event))
            self._judge(self._dialect.done(self.state))
        except (ValueError, RecursionError):
            return self.refuse(body, "JSON that cannot be read")
        events[-1].chunks += self.state.flush()
        self.events += len(events)
        self.linger = 0.0
        self.receive_eof()
        return list(events)

    def refuse(self, body: bytes, what: str) -> list[AnyEvent]:
        """A 200 that is no stream at all."""
        start = body.decode("utf-8", "replace")[:_SHOWN]
        self._fail(
            NotAStreamError(
                f"the server answered 200 with {what} instead of an event stream (is base_url "
                f"right, is there a proxy?). It begins: {start!r}"
            )
        )
        return []


def _as_json(data: bytes) -> bytes:
    """An error is one even where a server writes plain text."""
    try:
        decode_json(data)
    except ValueError:
        return json.dumps(data.decode("utf-8", "replace")).encode()
    return data


def _failure(payload: Any) -> bool:
    """A JSON body that says error, alone, beside an answer, or in a list (Gemini)."""
    first = payload[0] if isinstance(payload, list) and payload else payload
    if not isinstance(first, dict):
        return False
    return bool(first.get("error")) or first.get("type") == "error"


def _reason(exc: Exception) -> str:
    # Their own messages name a place in the JSON, never its content.
    if isinstance(exc, (msgspec.DecodeError, json.JSONDecodeError)):
        return f"malformed JSON ({exc})"
    return str(exc) if not isinstance(exc, RecursionError) else "JSON nested too deeply"
