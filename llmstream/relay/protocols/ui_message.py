"""The UI message stream of Vercel's AI SDK, for `useChat` of the packages `ai` 5, 6 and 7.

Source: `uiMessageChunkSchema` of ai 5.0.277, 6.0.326 and 7.0.173, and what their `AbstractChat`
makes of each chunk. A chunk of an unknown type, and a null where a field is optional, end the
answer there with an error; so a version is sent its own vocabulary only.

How an answer ends, and what the client then is:

    End        finish, [DONE]              "ready", and onFinish has a finishReason
    Failure    error, [DONE]               "error": the client reads nothing after that chunk
    Cancelled  abort, [DONE]               "ready" without a finishReason (7: "interrupted")
    a body that is cut, by nobody's wish   "ready" without a finishReason: no client of this
                                           protocol can tell; `metadata.complete` can

`message.metadata` has `complete`: false from the first chunk on, and true from `finish` only, so
that a page, and whoever stores its messages, knows a half answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import msgspec

from ..._core.checks import shown
from ...errors import ConfigurationError
from ...result import decode_arguments
from ..parts import (
    Begin,
    CallArguments,
    CallBegin,
    CallEnd,
    End,
    Failure,
    Part,
    Refusal,
    Restart,
    Retry,
    Text,
    Thinking,
)
from ..posted import converted, read_object
from .base import TableEncoder, Version, clean, present, reported, typed

__all__ = ["UIMessageEncoder"]


class _Words(NamedTuple):
    """What a version of the protocol has words for."""

    input_encoding: bool  # whether a tool's input may be free text
    reset_step: bool  # whether the client can be told to forget what it shows
    interrupted: bool  # a finishReason of its own for an answer that is not whole
    abort_reason: bool


_VERSIONS = {
    5: _Words(input_encoding=False, reset_step=False, interrupted=False, abort_reason=False),
    6: _Words(input_encoding=True, reset_step=False, interrupted=False, abort_reason=True),
    7: _Words(input_encoding=True, reset_step=True, interrupted=True, abort_reason=True),
}

# `Result.finish` -> finishReason; what is not here is "other".
_FINISH = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content-filter",
    "refusal": "content-filter",
    "tool_calls": "tool-calls",
}

_DONE = b"data: [DONE]\n\n"
_CUT_CALL = "The call of this tool was cut off. It was not run."
_UNSHOWN = "The input of this tool cannot be shown on a page. It was not run."
_LOST = "The answer had to begin anew, which this page cannot show. Please ask again."
_LONGEST_ID = 512


class UIMessageEncoder(TableEncoder):
    """Writes the chunks of one assistant message.

    Args:
        version: the major version of the package `ai` that reads: 5, 6 or 7.
        id: the id of the message. By default it is made of the call's trace id, so that a replay
            has the same one, and replaces what the page has stored of it.
        body: the request's body, as `useChat` posts it. Where its last message is the assistant's,
            the answer goes on with that message, under its id.
        dynamic: whether calls are parts of the type "dynamic-tool"; else they are "tool-NAME", for
            a page that knows its tools.

    Raises ConfigurationError for an id that is not a text of 1 to 512 characters, and for a
    `dynamic` that is not a bool; BadRequest for a body that is not one of `useChat`.
    """

    headers: Mapping[str, str] = {"x-vercel-ai-ui-message-stream": "v1"}

    def __init__(
        self,
        version: Version | None = None,
        *,
        id: Any = None,
        body: Any = None,
        dynamic: bool = True,
    ) -> None:
        super().__init__(version)
        if not isinstance(dynamic, bool):
            raise ConfigurationError(f"dynamic={shown(dynamic)}: pass True or False")
        self._dynamic = dynamic or None  # absent, never false
        self._words = _VERSIONS[int(version or max(_VERSIONS))]
        self.shows_restart = self._words.reset_step
        self._id = _checked_id(id) if id is not None else _continued(body)
        self._open: tuple[str, str] | None = None  # the kind and the id of the part that is open
        self._parts = 0
        self._calls: dict[str, CallBegin] = {}  # that are not whole so far
        self._is_over = False

    def encode(self, part: Part) -> list[bytes]:
        return [] if self._is_over else super().encode(part)

    # -- the beginning

    def _begin(self, part: Begin) -> list[bytes]:
        known = present(trace_id=part.trace_id, model=part.model)
        return [
            typed(
                "start",
                messageId=self._id or f"msg-{part.trace_id}",
                messageMetadata={**known, "complete": False},
            ),
            typed("start-step"),
        ]

    # -- text, thinking and refusals

    def _text(self, part: Text) -> list[bytes]:
        return self._piece("text", "text", part.text)

    def _thinking(self, part: Thinking) -> list[bytes]:
        return self._piece("reasoning", "reasoning", part.text)

    def _refusal(self, part: Refusal) -> list[bytes]:
        return self._piece("refusal", "text", part.text, llmstream={"refusal": True})

    def _piece(self, kind: str, chunk: str, text: str, **metadata: Any) -> list[bytes]:
        if not text:
            return []
        frames = []
        if self._open is None or self._open[0] != kind:
            frames += self._close()
            self._parts += 1
            self._open = kind, str(self._parts)
            frames.append(
                typed(f"{chunk}-start", id=self._open[1], providerMetadata=metadata or None)
            )
        frames.append(typed(f"{chunk}-delta", id=self._open[1], delta=text))
        return frames

    def _close(self) -> list[bytes]:
        """End the part that is open: what comes next is another one."""
        if self._open is None:
            return []
        kind, id = self._open
        self._open = None
        return [typed("reasoning-end" if kind == "reasoning" else "text-end", id=id)]

    # -- tool calls

    def _call_begin(self, part: CallBegin) -> list[bytes]:
        self._calls[part.id] = part
        is_text = part.custom and self._words.input_encoding
        start = typed(
            "tool-input-start",
            toolCallId=part.id,
            toolName=part.name,
            dynamic=self._dynamic,
            inputEncoding="text" if is_text else None,
        )
        return [*self._close(), start]

    def _call_arguments(self, part: CallArguments) -> list[bytes]:
        if part.id not in self._calls or not part.text:
            return []
        return [typed("tool-input-delta", toolCallId=part.id, inputTextDelta=part.text)]

    def _call_end(self, part: CallEnd) -> list[bytes]:
        frames = []
        if part.id not in self._calls:
            frames = self._call_begin(CallBegin(part.id, part.name, part.custom))
        try:
            value = part.arguments if part.custom else _json_of(part.arguments)
        except (ValueError, RecursionError):
            return [*frames, *self._unrun([part.id], _UNSHOWN)]
        del self._calls[part.id]
        return [
            *frames,
            typed(
                "tool-input-available",
                toolCallId=part.id,
                toolName=part.name,
                input=value,
                dynamic=self._dynamic,
            ),
        ]

    def _unrun(self, ids: list[str], why: str) -> list[bytes]:
        """Calls that the page will never have whole: else it waits for them for ever."""
        calls = [self._calls.pop(id) for id in ids]
        return [
            typed(
                "tool-input-error",
                toolCallId=call.id,
                toolName=call.name,
                input="",
                dynamic=self._dynamic,
                errorText=why,
            )
            for call in calls
        ]

    # -- requests that failed

    def _retry(self, part: Retry) -> list[bytes]:
        return [_note(retry=part.attempt, reason=part.reason, delay=part.delay)]

    def _restart(self, part: Restart) -> list[bytes]:
        if not self._words.reset_step:  # the half answer would stay, with the whole one after it
            self._is_over = True
            return [typed("error", errorText=_LOST), _DONE]
        self._open = None
        self._calls.clear()
        return [_note(restart=part.attempt), typed("reset-step")]

    # -- the end

    def _end(self, part: End) -> list[bytes]:
        self._is_over = True
        return [
            *self._close(),
            *self._unrun([*self._calls], _CUT_CALL),
            typed("finish-step"),
            typed(
                "finish",
                finishReason=_FINISH.get(part.finish or "", "other"),
                messageMetadata=present(
                    trace_id=part.trace_id,
                    model=part.model,
                    finish=part.finish,
                    usage=reported(part.usage),
                    complete=True,
                ),
            ),
            _DONE,
        ]

    def _failure(self, part: Failure) -> list[bytes]:
        self._is_over = True
        known = present(trace_id=part.trace_id, usage=reported(part.usage))
        metadata = typed(
            "message-metadata", messageMetadata={**known, "error": part.type, "complete": False}
        )
        if part.type == "Cancelled":
            return [metadata, *self._aborted(part), _DONE]
        note = _note(error=part.type, retryable=part.retryable, trace_id=part.trace_id)
        return [metadata, note, typed("error", errorText=part.message), _DONE]

    def _aborted(self, part: Failure) -> list[bytes]:
        """Stopped on purpose. What is open stays open: the message is a half one. Where there is a
        word for that, the page sends nothing by itself after it (`sendAutomaticallyWhen`)."""
        frames = [typed("abort", reason=part.message if self._words.abort_reason else None)]
        if self._words.interrupted:
            frames.append(typed("finish", finishReason="interrupted"))
        return frames

    table: ClassVar[Mapping[type[Any], Callable[[Any, Any], list[bytes]]]] = {
        Begin: _begin,
        Text: _text,
        Thinking: _thinking,
        Refusal: _refusal,
        CallBegin: _call_begin,
        CallArguments: _call_arguments,
        CallEnd: _call_end,
        Retry: _retry,
        Restart: _restart,
        End: _end,
        Failure: _failure,
    }


def _note(**data: Any) -> bytes:
    """For `onData` of the page; it does not become a part of the message."""
    return typed("data-llmstream", data=present(**data), transient=True)


def _json_of(arguments: str) -> msgspec.Raw:
    """The arguments of a call as the JSON of a chunk: as the service wrote them, so that no number
    loses a digit. Raises ValueError or RecursionError for what is no JSON, and for what would end
    the whole answer at the client."""
    text, value = _unwrapped(arguments or "{}")
    if "proto" in text or "\\u" in text:
        _refuse_prototypes(value)
    # Line ends can only stand between the values of JSON, where a space means the same.
    return msgspec.Raw(clean(text).replace("\r", " ").replace("\n", " ").encode())


def _unwrapped(arguments: str) -> tuple[str, Any]:
    """What a gateway has encoded twice is the object in it (`decode_arguments`): the text of it,
    and its value."""
    value = decode_arguments(arguments)
    inner = arguments
    while isinstance(value, dict) and isinstance(found := msgspec.json.decode(inner), str):
        inner = found
    return inner, value


def _refuse_prototypes(value: Any) -> None:
    """The client takes no JSON that would change the prototype of an object (`secureJsonParse` of
    @ai-sdk/provider-utils)."""
    todo = [value]
    while todo:
        inner = todo.pop()
        if isinstance(inner, list):
            todo += inner
        elif isinstance(inner, dict):
            made_by = inner.get("constructor")
            if "__proto__" in inner or (isinstance(made_by, dict) and "prototype" in made_by):
                raise ValueError("a prototype")
            todo += inner.values()


def _checked_id(id: Any) -> str:
    if not isinstance(id, str) or not 0 < len(id) <= _LONGEST_ID:
        raise ConfigurationError(f"id={shown(id)}: pass a text of 1 to {_LONGEST_ID} characters")
    return id


class _Message(msgspec.Struct):
    id: Any = None
    role: Any = None


class _Posted(msgspec.Struct):
    messages: list[_Message] = []


def _continued(body: Any) -> str | None:
    """The id of the message that the answer goes on with, if the page has posted one: its last one,
    where that is the assistant's."""
    messages = converted(read_object(body), _Posted).messages if body is not None else []
    if not messages or messages[-1].role != "assistant":
        return None
    id = messages[-1].id
    return id if isinstance(id, str) and 0 < len(id) <= _LONGEST_ID else None
