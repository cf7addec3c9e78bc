"""A stream's events -> the parts of its answer, in the thread that reads it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from io import StringIO
from typing import Any

from .._core.tool_calls import RunningCall, is_same_json
from .._runtime.clock import SYSTEM_CLOCK
from ..errors import ConfigurationError, LLMStreamError
from ..events.base import AnyEvent, Retried
from ..readers.reading import Reading
from ..readers.source import READ_BEFORE, checked_source
from ..result import Chunk, Result, ToolCall
from ..stream import Stream
from .failures import failure_of
from .parts import (
    Begin,
    CallArguments,
    CallBegin,
    CallEnd,
    End,
    Part,
    Refusal,
    Restart,
    Retry,
    Text,
    Thinking,
)
from .protocols.base import Encoder

__all__ = ["Parts", "checked_stream", "parts_of"]

_TEXTS: dict[str, type[Text] | type[Thinking] | type[Refusal]] = {
    "text": Text,
    "thinking": Thinking,
    "refusal": Refusal,
}


def checked_stream(function: str, stream: Any, encoder: Encoder | None = None) -> None:
    """Raises ConfigurationError, in the name of `function`, for what is no stream, for a stream
    that was read before, and for one whose answer may begin anew where `encoder` cannot show it."""
    checked_source(function, stream, "events", "call_of", "result", "cancel", "close")
    if encoder is not None and stream.may_restart and not encoder.shows_restart:
        raise ConfigurationError(
            "on_disconnect='restart' may begin the answer anew, and this protocol, or this version "
            "of it, cannot show that: choose another on_disconnect, or the protocol 'events'"
        )
    if stream.ended and _has_result(stream):
        raise ConfigurationError(READ_BEFORE)


def parts_of(stream: Stream) -> Parts:
    """The parts of an answer; the call starts with the first `next()`. Raises ConfigurationError
    for what is no stream, and for one that is being read or was read before."""
    checked_stream("parts_of", stream)
    return Parts(stream)


def _has_result(stream: Stream) -> bool:
    try:
        stream.result()
    except LLMStreamError:  # it has failed, for example by a cancel: so do its parts
        return False
    return True


class Parts(Reading["Part"]):
    """An iterator over the parts of one answer, for one thread. Whatever goes wrong with the call,
    the iteration ends with a Failure and raises nothing; `error` is what went wrong. An interrupt
    (Ctrl-C) is raised, and ends the call.

    The arguments of calls arrive as they are streamed. A CallEnd only comes right before the End:
    what follows a call in the answer may revoke it, and only an answer that is whole has calls that
    are safe to run.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__("the parts of an answer have one reader")
        self._stream = stream
        self._events = stream.events(retries=True)
        self._ready: Iterator[Part] = iter((_begin(stream),))
        self._calls = _Calls()
        self._length = 0  # of the text since the last restart
        self._over = False
        self.error: Exception | None = None

    def cancel(self, reason: str | None = None) -> None:
        """See `Stream.cancel`."""
        self._stream.cancel(reason)

    def close(self) -> None:
        """End the call if it still runs, and free what it holds. Idempotent."""
        self._stream.close()

    def _next(self) -> Part:
        while True:
            for part in self._ready:
                return part
            if self._over:
                raise StopIteration
            self._ready = iter(self._read())

    def _leave(self) -> None:
        with contextlib.suppress(Exception):
            self._stream.close()

    def _read(self) -> list[Part]:
        try:
            for event in self._events:
                return self._parts(event)
            last = self._last(self._stream.result())
        except Exception as error:
            self.error = error
            last = [failure_of(error, self._stream, self._calls.open(), self._length)]
        self._over = True
        return last

    def _parts(self, event: AnyEvent) -> list[Part]:
        if isinstance(event, Retried):
            return [Retry(event.attempt, event.reason, event.delay)]
        found: list[Part] = []
        for chunk in event.chunks:
            kind = _TEXTS.get(chunk.type)
            if kind is not None:
                only = self._stream.state.primary
                if chunk.text and (only is None or chunk.index == only):
                    found.append(kind(chunk.text))
                    self._length += len(chunk.text) if kind is Text else 0
            elif chunk.type == "tool_call":
                found += self._calls.add(self._stream.call_of(chunk), chunk)
            elif chunk.type == "restart":
                self._calls = _Calls()
                self._length = 0
                found.append(Restart(getattr(event, "attempt", 0)))
        return found

    def _last(self, result: Result) -> list[Part]:
        broken = self._calls.orphans(result)
        return [
            *self._calls.ends(result),
            End(
                finish=result.finish,
                usage=result.usage,
                model=result.model,
                response_id=result.response_id,
                trace_id=result.trace_id,
                tool_calls=result.tool_calls,
                incomplete_tool_calls=(*result.incomplete_tool_calls, *broken),
                text_length=self._length,
            ),
        ]


def _begin(stream: Stream) -> Begin:
    return Begin(stream.trace_id, stream.model, SYSTEM_CLOCK.time())


class _Call:
    """A call as it was passed on. It begins once its id and its name are known; until then its
    pieces are held back."""

    __slots__ = ("custom", "id", "name", "pieces")

    def __init__(self) -> None:
        self.id: str | None = None
        self.name = ""
        self.custom = False
        self.pieces = StringIO()  # linear, however many they are

    def value(self) -> ToolCall:
        return ToolCall(self.id, self.name, self.pieces.getvalue(), self.custom)


class _Calls:
    """The calls of an answer, as they were passed on."""

    def __init__(self) -> None:
        self._known: dict[RunningCall, _Call] = {}
        self._begun: dict[str, _Call] = {}  # by their ids

    def add(self, call: RunningCall | None, chunk: Chunk) -> list[Part]:
        """A piece has arrived; of which call may not be known."""
        if call is None:
            return []
        known = self._known.get(call)
        if known is None:
            known = self._known[call] = _Call()
        known.pieces.write(chunk.text)
        if known.id is not None:
            return [CallArguments(known.id, chunk.text)] if chunk.text else []
        id = call.id
        # An id that is missing, or not the only one, is made once the answer is whole.
        if not id or not call.name or id in self._begun:
            return []
        known.id, known.name, known.custom = id, call.name, call.custom
        self._begun[id] = known
        return _began(id, known.name, known.custom, known.pieces.getvalue())

    def ends(self, result: Result) -> list[Part]:
        """What is missing of the calls that are safe to run, and their ends."""
        found: list[Part] = []
        for number, call in enumerate(result.tool_calls):
            id, text, known = call.id or f"call_{number}", call.arguments, None
            known = self._begun.get(id)
            rewritten = False
            if known is None:
                found += _began(id, call.name, call.custom, text)
            else:
                sent = known.pieces.getvalue()
                same = (known.name, known.custom) == (call.name, call.custom)
                if same and text.startswith(sent):
                    found += [CallArguments(id, text[len(sent) :])] if text != sent else []
                else:
                    rewritten = not (same and is_same_json(text, sent))
            found.append(CallEnd(id, call.name, text, call.custom, rewritten))
        return found

    def open(self) -> tuple[ToolCall, ...]:
        """The calls that have begun."""
        return tuple(call.value() for call in self._begun.values())

    def orphans(self, result: Result) -> tuple[ToolCall, ...]:
        """The calls that have begun under an id that no call of the answer has in the end."""
        ids = {call.id for call in (*result.tool_calls, *result.incomplete_tool_calls)}
        return tuple(call.value() for id, call in self._begun.items() if id not in ids)


def _began(id: str, name: str, custom: bool, text: str) -> list[Part]:
    begin = CallBegin(id, name, custom)
    return [begin, CallArguments(id, text)] if text else [begin]
