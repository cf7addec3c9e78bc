"""The bytes of one response in, its events out: the protocol of a stream, without the network.

Only this file brings framing, SSE, dialect and state together. The end of an answer is an event,
not the absence of bytes. Pure: relies on the files of this folder, on the events and on the errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import IntEnum
from functools import partial
from itertools import chain
from typing import Any

import msgspec

from ..errors import EventTooLarge, LoopDetected, NotAStreamError, StreamTruncated
from ..events.base import AnyEvent, UnknownEvent, decode_json, has_too_many_values
from ..result import Chunk, LLMStreamError, ProtocolError
from .classify import error_from_payload
from .dialects.base import CONTENT, CUT, NOTHING, PROGRESS, SIGN_OF_LIFE, Activity, Dialect, Effect
from .framing import Framer, has_field
from .halves import HalfCharacter, Halves, mended
from .liveness import SeenEvents, is_ping, is_sign_of_life
from .numbering import Numbering
from .sse import bare_error, parse
from .state import Contradiction, Foreign, Misplaced, State

__all__ = ["MAX_EVENT_BYTES", "Session"]

MAX_EVENT_BYTES = 64 * 1024 * 1024
_LARGE = 1 << 20  # bytes that arrive at once: only among so many can an event be too wide
_DONE = b"[DONE]"
_SHORT = len(_DONE)
_BLANK = b" \t\r\n"
_MAX_QUOTE = 300  # characters of a body that is not a stream which an error's message shows


class Stage(IntEnum):
    """How far a response body has been received. In the first three stages more of it is read, in
    the others nothing more."""

    OPEN = 0
    COMPLETE = 1  # the answer is complete; usage or an end marker may still arrive
    FAILING = 2  # an error has arrived; an event that belongs to it may still arrive
    WHOLE = 3  # the answer is complete
    FAILED = 4  # see `error`
    UNFINISHED = 5  # the body was the answer so far; the service is still working on it


_OPEN, _COMPLETE, _WHOLE = Stage.OPEN, Stage.COMPLETE, Stage.WHOLE
_NONE, _CONTENT = Activity.NONE, Activity.CONTENT


class Session:
    """One response body; with `resume`, several bodies of the same answer.

    `receive` and `receive_eof` never raise for the bytes they are given: a failure is stored in
    `error`, and the events before it are returned. Not thread-safe: one thread feeds it; any thread
    may read `state`.

    Attributes, written here unless noted:
        stage: how far the body is; `complete`, `ended` and `unfinished` derive from it.
        error: why the body failed, or None.
        activity: the highest activity of the events since the caller last set it to NONE.
        linger: the seconds for which the caller waits, after the end, for the rest of the stream.
        has_content: whether content has arrived.
        events, contents: the number of events, and of those with content.
        state: the answer so far.
        on_sign_of_life: called at each ping, comment and keepalive; the caller may set it.
    """

    __slots__ = (
        "_dialect",
        "_framer",
        "_halves",
        "_max_event_bytes",
        "_max_identical",
        "_numbers",
        "_repeated",
        "_repeats",
        "_seen",
        "activity",
        "contents",
        "error",
        "events",
        "has_content",
        "linger",
        "on_sign_of_life",
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
        self._halves: Halves | None = None  # where the server cuts characters
        self._max_identical = max_identical_chunks
        self._seen = SeenEvents()
        self._repeated: Chunk | None = None  # the last chunk
        self._repeats = 0  # how often it was received in a row
        self._numbers = Numbering()
        self.has_content = False
        self.state = State()
        self.state.expected = choices
        self.stage = Stage.OPEN
        self.error: LLMStreamError | None = None
        self.activity = _NONE
        self.linger = 0.0
        self.on_sign_of_life: Callable[[], None] = _ignore
        self.events = 0
        self.contents = 0

    @property
    def complete(self) -> bool:
        """Whether the answer is complete."""
        return self.stage is _COMPLETE or self.stage is _WHOLE

    @property
    def awaits_end(self) -> bool:
        """Whether nothing but the end of the stream, or its silence, makes the answer complete."""
        return self.stage is _OPEN

    @property
    def ended(self) -> bool:
        """Whether nothing more of the body is read."""
        return self.stage >= _WHOLE

    @property
    def unfinished(self) -> bool:
        """Whether the body was the answer so far, and the service is still working on it."""
        return self.stage is Stage.UNFINISHED

    @property
    def takes_arrays(self) -> bool:
        """Whether a body that is a JSON array may be the stream: see `json_array`."""
        return self._dialect.arrays

    @property
    def cursor(self) -> int | None:
        """The greatest number of an event, or None where there is no place to resume from."""
        return self._numbers.greatest

    def continue_from(self, before: Session) -> None:
        """This session's answer goes on with the text of `before`, whose answer was cut off."""
        self.state.continue_from(before.state)
        self.has_content = True

    def resume(self) -> None:
        """The same answer is received from another body: events that are known are ignored."""
        self._framer = Framer(self._max_event_bytes)
        self._numbers.resume()
        self.state.pinned = self.state.response_id is not None
        self.error = None
        self.stage = Stage.OPEN
        self.activity = _NONE
        self.linger = 0.0

    def receive(self, data: bytes) -> list[AnyEvent]:
        """The events that `data` completes, in order; empty once the stream has ended."""
        events: list[AnyEvent] = []
        blocks = b"" if self.ended else self._framer.feed(data)
        parsed = parse(blocks, self.on_sign_of_life)
        wide = _first_wide(parsed) if len(blocks) > _LARGE else None
        if wide is not None:
            parsed = parsed[:wide]
        if self._halves is not None and self._halves.waiting:
            self._read_halves(parsed, events)
        else:
            self._read(parsed, events)
        if not events and not self._framer.pending and data and not data.strip(_BLANK):
            self.on_sign_of_life()  # empty lines between two events
        if wide is not None and not self.ended:
            self._refuse_wide()
        if self._framer.overflow and self.complete:
            self.stage = Stage.WHOLE  # what is too large arrived after the end of the answer
        elif self._framer.overflow:
            self._fail(
                EventTooLarge(
                    "an event is larger than max_event_bytes and has not ended: raise the limit if "
                    "events of this size are expected"
                )
            )
        return events

    def _refuse_wide(self) -> None:
        if self.complete:  # it arrived after the end of the answer
            self.stage = Stage.WHOLE
            return
        self._fail(
            EventTooLarge(
                "an event has more than two million values, which would take hundreds of megabytes "
                "of memory: no service's answer has as many"
            )
        )

    def _read(self, parsed: Iterable[tuple[str, bytes]], events: list[AnyEvent]) -> None:
        """Read what was parsed, and add its events to `events`."""
        parsed = iter(parsed)
        decode, apply, state = self._dialect.decode, self._dialect.apply, self.state
        numbers, number = self._numbers, None
        resumed = numbers.resumed
        # All in one loop: one more function call per event would add a tenth to its cost.
        for name, payload in parsed:
            if len(payload) <= _SHORT and not self._is_event(name, payload, events):
                if self.ended:
                    return
                continue
            try:
                event = decode(name, payload if name != "error" else _as_json(payload))
                number = event.sequence_number
                if number is not None:
                    if number == numbers.next:
                        numbers.next = number + 1
                    elif not self._takes(number, event):
                        continue
                elif resumed:
                    numbers.unnumbered(self._dialect.standing(state, event))
                effect = apply(state, event)
            except HalfCharacter:
                self._read_halves(chain([(name, payload)], parsed), events)
                return
            except (ValueError, RecursionError) as exc:
                misplaced = isinstance(exc, Misplaced)
                if not misplaced and is_sign_of_life(name, payload):  # as good as a comment
                    self.on_sign_of_life()
                    continue
                if not events or events[-1].sequence_number != number:
                    numbers.give_back(number)
                self._fail_garbled(exc)
                return
            self.events += 1
            events.append(event)
            if effect is CONTENT:  # the usual case; it ends nothing
                self.contents += 1
                self.activity = _CONTENT
                self.has_content = True
            else:
                if effect is PROGRESS:
                    if not self._seen.repeats(event) and not self.activity:
                        self.activity = PROGRESS.activity
                elif effect is not NOTHING:
                    self._take_effect(effect)
                if self.stage is not _OPEN and self.complete:
                    event.chunks += state.flush()
            if self._max_identical is not None:
                self._count_repeats(event.chunks, self._max_identical)
            if self.stage is not _OPEN and self.stage >= _WHOLE:
                return

    def _takes(self, number: int, event: AnyEvent) -> bool:
        """Whether an event whose number is odd is applied; one that has arrived before is not."""
        state, numbers = self.state, self._numbers
        standing = partial(self._dialect.standing, state, event)
        taken = numbers.takes(number, event.raw, standing, lambda: state.text)
        state.lost = numbers.lost
        if not taken:
            self.on_sign_of_life()
        return taken

    def _read_halves(self, parsed: Iterable[tuple[str, bytes]], events: list[AnyEvent]) -> None:
        """The same for a stream that has cut a character into halves."""
        halves = self._halves = self._halves or Halves()
        for name, payload in parsed:
            ended = payload == _DONE
            whole = [*halves.release(), payload] if ended else halves.mend(payload)
            for one in whole:
                if self.ended:
                    return
                before = len(events)
                self._read([(name, one)], events)
                if one is whole[-1] and not ended and len(events) > before:
                    events[-1].raw = payload  # as it was received

    def _is_event(self, name: str, data: bytes, events: list[AnyEvent]) -> bool:
        """Whether `data` is an event, that is, neither empty nor the end marker. Both take effect
        here; text that was held back until the end marker is added to `events`."""
        if not data:
            self.on_sign_of_life()
            return False
        if data != _DONE:
            return True
        if is_ping(name):  # whatever its data are
            self.on_sign_of_life()
            return False
        effect = self._dialect.done(self.state)
        if effect is CUT and self.stage is _OPEN:
            self._fail(
                StreamTruncated(
                    f"the stream ended with [DONE] after {self.events} events, but neither a "
                    "finish nor the usage that was asked for arrived: what arrived is in .partial; "
                    "do not treat it as complete"
                )
            )
            return False
        self._take_effect(effect)
        late = self.state.flush() if self.complete else ()
        if late:
            events.append(UnknownEvent("done", "[DONE]", chunks=late, raw=data))
        return False

    def _fail_garbled(self, exc: Exception) -> None:
        contradicts = isinstance(exc, Contradiction)
        if self.complete and not contradicts:  # the garbage arrived after the end of the answer
            self.stage = Stage.WHOLE
            return
        if isinstance(exc, Foreign):
            self._numbers.distrust()  # it cannot be resumed
        what = "contradicts the answer" if contradicts else "cannot be read"
        error = ProtocolError(f"an event of the stream {what}: {_reason(exc)}")
        error.retryable = not contradicts  # it may have been garbled on the way
        self._fail(error)

    def _count_repeats(self, chunks: tuple[Chunk, ...], limit: int) -> None:
        for chunk in chunks:
            self._repeats = self._repeats + 1 if chunk == self._repeated else 1
            self._repeated = chunk
            if self._repeats >= limit and not self.complete:
                self._fail(
                    LoopDetected(
                        f"the same chunk was received {limit} times in a row "
                        "(max_identical_chunks): the model is in a loop; make the call again, if "
                        "necessary with another temperature"
                    )
                )

    def _take_effect(self, effect: Effect) -> None:
        activity = effect.activity
        if effect is SIGN_OF_LIFE:
            self.on_sign_of_life()
        if activity is _CONTENT:
            self.contents += 1
            self.has_content = True
        if activity > self.activity:
            self.activity = activity
        if effect.error is not None:
            # An error after the finish of a chat answer revokes the finish.
            self.error = self.error or effect.error
        elif effect.reopens and self.stage is _COMPLETE:
            self.stage = _OPEN
        elif not effect.complete:
            if self.stage is _OPEN and (effect.linger or activity is _CONTENT):
                self.linger = effect.linger  # what is no content does not put the end off
            return
        self.linger = effect.linger
        if effect.reopens:
            return
        if self.error is None:
            self.stage = Stage.COMPLETE if effect.linger else Stage.WHOLE
        else:
            self.stage = Stage.FAILING if effect.linger else Stage.FAILED

    def _fail(self, error: LLMStreamError) -> None:
        self.error = self.error or error
        self.stage = Stage.FAILED

    def receive_eof(self) -> list[AnyEvent]:
        """The body has ended as HTTP requires. An event that has not ended is discarded. Returns
        the events that were held back."""
        events: list[AnyEvent] = []
        if self._halves is not None and not self.ended:
            self._read([("message", one) for one in self._halves.release()], events)
        # Gateways write an error as it is and hang up: it is the reason, and no half event.
        if self._framer.pending and not self.ended:
            last = bare_error(self._framer.rest)
            if last is not None:
                self._read([last], events)
        whole = self.complete
        self._end()
        if self.complete and not whole and (late := self.state.flush()):
            events.append(UnknownEvent("done", "", chunks=late, raw=b""))
        return events

    def flush(self) -> None:
        """Nothing more arrives of an answer that is not whole: put into the state what was held
        back for what might have followed."""
        halves, self._halves = self._halves, None
        for payload in halves.release() if halves is not None else ():
            with suppress(ValueError, RecursionError):  # an event that only the lenient reader took
                self._dialect.apply(self.state, self._dialect.decode("message", payload))
        self.state.flush()

    def _end(self) -> None:
        # Half a comment is half of nothing.
        self.state.half = self._framer.pending > 0 and has_field(self._framer.rest)
        if self.stage is _OPEN:
            self._take_effect(self._dialect.end_of_body(self.state))
        if self.complete:
            self.stage = Stage.WHOLE
            return
        self.stage = Stage.FAILED
        if self.error is None:
            pending = self._framer.pending
            half = f", {pending} bytes into the next event" if pending else ""
            self.error = StreamTruncated(
                f"the stream ended cleanly after {self.events} events{half}, but the answer's "
                "terminal event did not arrive: what arrived is in .partial; do not treat it as "
                "complete"
            )

    def receive_json(self, body: bytes) -> list[AnyEvent]:
        """The whole body of a success that is JSON instead of a stream: a completion, an answer so
        far, or an error. Returns its events."""
        if has_too_many_values(body):
            self._refuse_wide()
            return []
        try:
            payload = decode_json(body.removeprefix(b"\xef\xbb\xbf"))
            if _failure(payload):
                if isinstance(payload, dict) and payload.get("status") == "failed":
                    self.state.status = "failed"
                self._fail(error_from_payload(payload, self.state.unix_time()))
                return []
            if self._dialect.is_unfinished(payload):
                self._fail(StreamTruncated("the service is still working on the answer"))
                self.stage = Stage.UNFINISHED
                return []
            try:
                events = self._dialect.events_from_json(payload, body)
            except HalfCharacter:
                events = self._dialect.events_from_json(payload, mended(body))
            if not events:
                return self.refuse(body, "JSON that is neither a completion nor an error")
            for event in events:
                self._take_effect(self._dialect.apply(self.state, event))
            self._take_effect(self._dialect.done(self.state))
        except Misplaced as exc:
            self._fail_garbled(exc)
            return []
        except (ValueError, RecursionError):
            return self.refuse(body, "JSON that cannot be read")
        events[-1].chunks += self.state.flush()
        self.events += len(events)
        self.linger = 0.0
        self._end()
        return list(events)

    def is_of_answer(self, element: bytes) -> bool:
        """Whether an element of an array is a piece of an answer, or an error."""
        try:
            return bool(self._dialect.events_from_json(decode_json(element), element))
        except (ValueError, RecursionError):
            return True  # which cannot be read, or has half a character

    def refuse(self, body: bytes, what: str, status: int = 200) -> list[AnyEvent]:
        """Fail, because the body is `what`, not a stream. `body` is its beginning."""
        start = body.decode("utf-8", "replace")[:_MAX_QUOTE]
        shown = f"The body begins: {start!r}" if body else "The body is empty"
        self._fail(
            NotAStreamError(
                f"the server answered {status} with {what} instead of an event stream (is base_url "
                f"correct, is there a proxy?). {shown}"
            )
        )
        return []


def _first_wide(parsed: list[tuple[str, bytes]]) -> int | None:
    """The position of the first event that has too many values."""
    return next((at for at, (_, data) in enumerate(parsed) if has_too_many_values(data)), None)


def _ignore() -> None:
    pass


def _as_json(data: bytes) -> bytes:
    """The data of an error event as JSON: some servers send plain text."""
    try:
        decode_json(data)
    except ValueError:
        return json.dumps(data.decode("utf-8", "replace")).encode()
    return data


def _failure(payload: Any) -> bool:
    """Whether a JSON body contains an error: alone, beside an answer, or in a list (Gemini)."""
    first = payload[0] if isinstance(payload, list) and payload else payload
    if not isinstance(first, dict):
        return False
    return bool(first.get("error")) or first.get("type") == "error"


def _reason(exc: Exception) -> str:
    # The decoders' messages name a position in the JSON, never its content.
    if isinstance(exc, (msgspec.DecodeError, json.JSONDecodeError)):
        return f"malformed JSON ({exc})"
    return str(exc) if not isinstance(exc, RecursionError) else "JSON nested too deeply"
