"""Bytes of one response in, events out: the protocol of one stream, without the network.

Framing, SSE, dialect and state meet here and nowhere else. The end of an answer is an event, not
the absence of bytes.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from ..errors import (
    EventTooLarge,
    LLMStreamError,
    NotAStreamError,
    ProtocolError,
    StreamTruncated,
)
from ..events.base import decode_json
from .classify import error_from_payload
from .dialects.base import AnyEvent, Dialect, Verdict
from .framing import Framer
from .sse import parse_block
from .state import State

__all__ = ["MAX_EVENT_BYTES", "Session"]

MAX_EVENT_BYTES = 64 * 1024 * 1024
_DONE = b"[DONE]"
_SHOWN = 300  # characters of a foreign body that an error shows


class Session:
    """One response body.

    `receive` and `receive_eof` never raise for what the bytes are: a failure is kept in `error`,
    beside the events that came before it. `complete` says that the answer is whole; once `ended`
    is true nothing more is read. `level` is the highest activity since it was last set to 0, and
    `linger` the seconds that what still belongs to the stream may take after the end.
    Not thread-safe: one thread feeds it; its `state` may be read by any.
    """

    __slots__ = (
        "_dialect",
        "_framer",
        "complete",
        "ended",
        "error",
        "events",
        "level",
        "linger",
        "state",
    )

    def __init__(
        self, dialect: Dialect, max_event_bytes: int = MAX_EVENT_BYTES, choices: int = 1
    ) -> None:
        self._dialect = dialect
        self._framer = Framer(max_event_bytes)
        self.state = State()
        self.state.expected = choices
        self.complete = False
        self.ended = False
        self.error: LLMStreamError | None = None
        self.level = 0
        self.linger = 0.0
        self.events = 0

    def receive(self, data: bytes) -> list[AnyEvent]:
        """The events that `data` completes, in order; empty once the stream has ended."""
        events: list[AnyEvent] = []
        blocks = [] if self.ended else self._framer.feed(data)
        for block in blocks:
            event = self._event(block)
            if event is not None:
                events.append(event)
            if self.ended:
                return events
        if self._framer.overflow:
            self._fail(
                EventTooLarge(
                    "an event grew beyond max_event_bytes without an end: raise the limit if "
                    "events of this size are expected"
                )
            )
        return events

    def _event(self, block: bytes) -> AnyEvent | None:
        parsed = parse_block(block)
        if parsed is None:
            return None
        name, data = parsed
        if data == _DONE:
            self._judge(self._dialect.done(self.state))
            return None
        if not data:
            return None
        try:
            if name == "error":
                data = _as_json(data)
            event = self._dialect.decode(name, data)
            verdict = self._dialect.apply(self.state, event)
        except (ValueError, RecursionError) as exc:
            error = ProtocolError(f"an event of the stream cannot be read: {_reason(exc)}")
            error.retryable = True  # garbled on the way, it may come whole the next time
            self._fail(error)
            return None
        self._judge(verdict)
        self.events += 1
        return event

    def _judge(self, verdict: Verdict) -> None:
        if verdict.level > self.level:
            self.level = verdict.level
        if verdict.error is not None:
            # Also behind the finish of a chat answer: the service takes it back.
            self.error = self.error or verdict.error
            self.complete = False
        elif verdict.complete:
            self.complete = self.error is None
        else:
            return
        self.linger = verdict.linger
        self.ended = not verdict.linger

    def _fail(self, error: LLMStreamError) -> None:
        self.error = self.error or error
        self.ended = True

    def receive_eof(self) -> None:
        """The body ended as HTTP should. Half an event that is pending is no event."""
        self.ended = True
        if not self.complete and self.error is None:
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
                self._fail(error_from_payload(payload))
                return []
            events = self._dialect.whole_answer(payload, body)
            if not events:
                return self.refuse(body, "JSON that is neither a completion nor an error")
            for event in events:
                self._judge(self._dialect.apply(self.state, event))
            self._judge(self._dialect.done(self.state))
        except (ValueError, RecursionError):
            return self.refuse(body, "JSON that cannot be read")
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
