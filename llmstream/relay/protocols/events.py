"""The library's own events: SSE, each event with a name and JSON data.

For a page's own JavaScript: `EventSource`, or `fetch` and a parser of SSE. The events, and their
fields (one that is marked "?" is absent where it has no value):

    token       text, refusal?              a piece of the answer's text; `refusal` is true where
                                            the model refuses to answer
    thinking    text                        a piece of its thinking
    tool_call   id, name, arguments,        a call of a tool begins, or goes on: `arguments` is a
                done: false, custom?        piece of its arguments
                done: true                  the call is whole: `arguments` is all of them, in place
                                            of the pieces. All calls that are to be run have it,
                                            right before `done`. `custom` is true where the
                                            arguments are free text, not JSON
    restart     attempt                     the answer begins anew: clear what was shown
    retry       attempt, delay, reason?     the service failed; request number `attempt` is made
                                            after `delay` seconds. What was shown stays
    error       type, message, retryable,   the end of an answer that is not whole. `type` is the
                text_length?, trace_id?,    name of an error's class; `message` is for the person
                usage?, unfinished_calls?   who reads; `retryable`: the same question may work
                                            later. What was shown is as much as there is
    done        finish?, model?, usage?,    the end of an answer that is whole
                trace_id?, text_length,
                unfinished_calls?

`usage` has the counts that were reported (`input_tokens`, `output_tokens`, `total_tokens`, ...).
`text_length` is the number of Unicode code points in all `token` events since the last `restart`.
An `error` has none where nobody knows it: the server that wrote the answer has died.
`unfinished_calls` are the ids of calls that began, and must not be run.

A body without `done` is not a whole answer, however it ends. Close an EventSource at `done` and at
`error`: it would ask again. It has an event of its own that is named "error", for a connection that
is lost: that one has no `data`.
"""

from __future__ import annotations

from typing import Any

from ...result import ToolCall
from ..parts import (
    CallArguments,
    CallBegin,
    CallEnd,
    End,
    Failure,
    Refusal,
    Restart,
    Retry,
    Text,
    Thinking,
)
from .base import TableEncoder, Version, encode_json, frame, present, reported

__all__ = ["EventsEncoder"]


class EventsEncoder(TableEncoder):
    """Writes the events of one answer."""

    def __init__(self, version: Version | None = None) -> None:
        super().__init__(version)
        self._length = 0
        self._calls: dict[str, CallBegin] = {}

    def _token(self, part: Text | Refusal) -> list[bytes]:
        self._length += len(part.text)
        refusal = True if isinstance(part, Refusal) else None
        return _event("token", text=part.text, refusal=refusal)

    def _thinking(self, part: Thinking) -> list[bytes]:
        return _event("thinking", text=part.text)

    def _call(self, part: CallBegin) -> list[bytes]:
        self._calls[part.id] = part
        return self._piece(part, "")

    def _arguments(self, part: CallArguments) -> list[bytes]:
        call = self._calls.get(part.id)
        return self._piece(call, part.text) if call is not None else []

    def _piece(self, call: CallBegin, text: str) -> list[bytes]:
        custom = True if call.custom else None
        return _event(
            "tool_call", id=call.id, name=call.name, arguments=text, done=False, custom=custom
        )

    def _whole(self, part: CallEnd) -> list[bytes]:
        return _event(
            "tool_call",
            id=part.id,
            name=part.name,
            arguments=part.arguments,
            done=True,
            custom=True if part.custom else None,
        )

    def _restart(self, part: Restart) -> list[bytes]:
        self._length = 0
        self._calls.clear()
        return _event("restart", attempt=part.attempt)

    def _retry(self, part: Retry) -> list[bytes]:
        return _event("retry", attempt=part.attempt, delay=part.delay, reason=part.reason)

    def _error(self, part: Failure) -> list[bytes]:
        return _event(
            "error",
            type=part.type,
            message=part.message,
            retryable=part.retryable,
            usage=reported(part.usage),
            trace_id=part.trace_id,
            text_length=self._length if part.text_length is not None else None,
            unfinished_calls=_ids(part.incomplete_tool_calls),
        )

    def _done(self, part: End) -> list[bytes]:
        return _event(
            "done",
            finish=part.finish,
            model=part.model,
            usage=reported(part.usage),
            trace_id=part.trace_id,
            text_length=self._length,
            unfinished_calls=_ids(part.incomplete_tool_calls),
        )

    table = {  # noqa: RUF012
        Text: _token,
        Refusal: _token,
        Thinking: _thinking,
        CallBegin: _call,
        CallArguments: _arguments,
        CallEnd: _whole,
        Restart: _restart,
        Retry: _retry,
        Failure: _error,
        End: _done,
    }


def _event(event: str, /, **fields: Any) -> list[bytes]:
    return [frame(encode_json(present(**fields)), event)]


def _ids(calls: tuple[ToolCall, ...]) -> list[str] | None:
    return [call.id for call in calls if call.id is not None] or None
