"""AG-UI 1.0, for `HttpAgent` of @ag-ui/client and the front ends above it (CopilotKit).

Source: the schema of AG-UI 1.0 (`ag-ui-protocol` 1.0.0), and what @ag-ui/client 1.0.0 verifies and
makes of each event. An optional field is absent, never null; CR and `[DONE]` are no part of this
protocol, and end a run with an error.

How an answer ends, and what the client then is:

    End        RUN_FINISHED, success      `runAgent` resolves; `result` has the finish
    Failure    RUN_ERROR                  onRunErrorEvent; the half message is never closed
    Cancelled  RUN_FINISHED, cancelled    `runAgent` resolves; onRunFinishedEvent has the outcome
    a body that is cut, by nobody's wish  `runAgent` resolves without any of these: a page counts
                                          an answer as whole after onRunFinishedEvent only

Each tool call is in a message of its own, so that one which will never be whole can be taken back
alone: its TOOL_CALL_END, which the run needs, then finds no call to run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

from ..._core.checks import shown
from ...errors import ConfigurationError
from ...result import Usage
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
from ..posted import BadRequest, converted, read_object
from .base import TableEncoder, Version, encode_json, present, typed

__all__ = ["AGUIEncoder"]

_PROTOCOL = "1.0"
_WITHDRAWN = "llmstream.withdrawn"  # the type of what stands where a half message was
_LONGEST_ID = 512
_LONGEST_HISTORY = 256 * 1024  # bytes that a restart sends back to the page
_MOST = 2**53 - 1  # the greatest count of the schema: JavaScript's

# The schema's names of the counts.
_COUNTS = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "totalTokens": "total_tokens",
    "reasoningTokens": "reasoning_tokens",
    "cachedInputTokens": "cached_tokens",
    "cacheWriteInputTokens": "cache_write_tokens",
}


class _Call:
    """A call on the page: `id` is its id there, `message` that of the message which has it."""

    __slots__ = ("id", "is_bare", "is_whole", "message")

    def __init__(self, id: str, message: str) -> None:
        self.id = id
        self.message = message
        self.is_whole = False
        self.is_bare = True  # without arguments so far

    def ended(self) -> bytes:
        return typed("TOOL_CALL_END", toolCallId=self.id)

    def withdrawn(self) -> bytes:
        return _withdrawn(self.message)


def _retry(encoder: Any, part: Retry) -> list[bytes]:
    value = present(attempt=part.attempt, reason=part.reason, delay=part.delay)
    return [typed("CUSTOM", name="llmstream.retry", value=value)]


class AGUIEncoder(TableEncoder):
    """Writes the events of one run.

    Args:
        version: "1.0".
        thread_id, run_id: the ids of the conversation and of the run. By default those that `body`
            has, else ids made of the call's trace id.
        body: the request's body, as `HttpAgent` posts it. Its messages are what the page shows
            after a restart. Without a body, or with messages of more than 256 KiB, something
            invisible (a message of the role "activity") stands where the half answer was.

    Raises ConfigurationError for an id that is not a text of 1 to 512 characters, and BadRequest
    for a body that is not one of AG-UI.
    """

    def __init__(
        self,
        version: Version | None = None,
        *,
        thread_id: Any = None,
        run_id: Any = None,
        body: Any = None,
    ) -> None:
        super().__init__(version)
        posted = _Posted() if body is None else converted(read_object(body), _Posted)
        self._thread = _checked_id("thread_id", thread_id) or posted.thread_id
        self._run = _checked_id("run_id", run_id) or posted.run_id
        self._history = None if body is None else _history(posted.messages)
        self._taken = _call_ids(posted.messages)
        self._name = ""  # what the ids of this run's messages begin with
        self._messages = 0
        self._open: tuple[str, str] | None = None  # the kind and the id of the open message
        self._shown: list[str] = []  # the messages of this attempt that are not calls
        self._calls: dict[str, _Call] = {}  # of this attempt, by the ids of the service
        self._withdrawn: dict[str, str] = {}  # calls that were taken back, and their messages
        self._is_over = False

    def encode(self, part: Part) -> list[bytes]:
        return [] if self._is_over else super().encode(part)

    # -- the beginning

    def _begin(self, part: Begin) -> list[bytes]:
        self._thread = self._thread or f"thread-{part.trace_id}"
        self._run = self._run or f"run-{part.trace_id}"
        self._name = part.trace_id
        return [
            typed(
                "RUN_STARTED",
                threadId=self._thread,
                runId=self._run,
                protocolVersion=_PROTOCOL,
                metadata=present(trace_id=part.trace_id, model=part.model),
            )
        ]

    def _next_message(self) -> str:
        self._messages += 1
        return f"msg-{self._name}-{self._messages}"

    # -- text, thinking and refusals

    def _text(self, part: Text) -> list[bytes]:
        return self._piece("text", part.text)

    def _refusal(self, part: Refusal) -> list[bytes]:
        return self._piece("refusal", part.text)

    def _thinking(self, part: Thinking) -> list[bytes]:
        return self._piece("thinking", part.text)

    def _piece(self, kind: str, text: str) -> list[bytes]:
        if not text:
            return []
        frames = []
        if self._open is None or self._open[0] != kind:
            frames += self._close()
            id = self._next_message()
            self._open = kind, id
            self._shown.append(id)
            frames += _OPENING[kind](id)
        word = "REASONING" if kind == "thinking" else "TEXT"
        frames.append(typed(f"{word}_MESSAGE_CONTENT", messageId=self._open[1], delta=text))
        return frames

    def _close(self) -> list[bytes]:
        """End the message that is open: what comes next is another one."""
        if self._open is None:
            return []
        kind, id = self._open
        self._open = None
        if kind == "thinking":
            return [
                typed("REASONING_MESSAGE_END", messageId=id),
                typed("REASONING_END", messageId=id),
            ]
        return [typed("TEXT_MESSAGE_END", messageId=id)]

    # -- tool calls

    def _call_begin(self, part: CallBegin) -> list[bytes]:
        return [*self._close(), *self._call_opening(part.id, part.name)]

    def _call_opening(self, id: str, name: str) -> list[bytes]:
        known = self._calls.get(id)
        call = _Call(self._free(id) if known is None else known.id, self._next_message())
        self._calls[id] = call
        start = typed(
            "TOOL_CALL_START",
            toolCallId=call.id,
            toolCallName=name,
            parentMessageId=call.message,
        )
        return [start]

    def _free(self, id: str) -> str:
        """An id that no call of the page has: its client would add the new arguments to the old
        ones (some services count the calls of each answer from 0)."""
        number, found = 2, id
        while found in self._taken:
            number, found = number + 1, f"{id}-{number}"
        return found

    def _call_arguments(self, part: CallArguments) -> list[bytes]:
        call = self._calls.get(part.id)
        if call is None or call.is_whole or not part.text:
            return []
        call.is_bare = False
        return [typed("TOOL_CALL_ARGS", toolCallId=call.id, delta=part.text)]

    def _call_end(self, part: CallEnd) -> list[bytes]:
        frames = []
        known = self._calls.get(part.id)
        if known is None or part.rewritten:
            frames += self._close()
            if known is not None:  # what was sent of it is void
                frames += [known.withdrawn(), known.ended()]
            frames += self._call_opening(part.id, part.name)
        call = self._calls[part.id]
        if call.is_bare:  # one without arguments has "{}", and had no pieces
            frames += self._call_arguments(CallArguments(part.id, part.arguments))
        call.is_whole = True
        return [*frames, call.ended()]

    def _open_calls(self) -> list[_Call]:
        return [call for call in self._calls.values() if not call.is_whole]

    def _withdraw_calls(self) -> list[bytes]:
        """Take back the calls that will never be whole, and end them, because a run cannot finish
        with an open one. The client finds no call under the id, and tells nobody of it."""
        calls = self._open_calls()
        self._withdrawn.update((call.id, call.message) for call in calls)
        return [*(call.withdrawn() for call in calls), *(call.ended() for call in calls)]

    def _unasked(self) -> list[bytes]:
        """Answer the calls that were taken back. A client that is told of no pending call takes
        all for pending which the run began and nobody answered."""
        frames = []
        for id, message in self._withdrawn.items():
            answer = f"{message}-answer"
            result = typed("TOOL_CALL_RESULT", messageId=answer, toolCallId=id, content="withdrawn")
            frames += [result, _withdrawn(answer)]
        return frames

    # -- requests that failed

    def _restart(self, part: Restart) -> list[bytes]:
        """Take back all that this attempt has shown; before it is ended, so that the client
        announces no half message as a new one."""
        calls = self._calls.values()
        begun = [*self._shown, *(call.message for call in calls)]
        frames = [
            typed("CUSTOM", name="llmstream.restart", value={"attempt": part.attempt}),
            *map(_withdrawn, begun),
        ]
        if self._history is not None and begun:
            frames.append(
                typed("MESSAGES_SNAPSHOT", messages=self._history, metadata=_WITHOUT_WITHDRAWN)
            )
        frames += self._close()
        frames += [call.ended() for call in self._open_calls()]
        self._withdrawn.update((call.id, call.message) for call in calls)
        self._shown.clear()
        self._calls.clear()
        return frames

    # -- the end

    def _end(self, part: End) -> list[bytes]:
        self._is_over = True
        outcome: dict[str, Any] = {"type": "success"}
        whole = (self._calls.get(call.id or "") for call in part.tool_calls)
        if pending := [call.id for call in whole if call is not None]:
            outcome["pendingToolCallIds"] = pending
        return [
            *self._close(),
            *self._withdraw_calls(),
            *(() if pending else self._unasked()),
            typed(
                "RUN_FINISHED",
                threadId=self._thread,
                runId=self._run,
                result=present(finish=part.finish, model=part.model, trace_id=part.trace_id),
                outcome=outcome,
                usage=_usage(part.usage, part.model),
            ),
        ]

    def _failure(self, part: Failure) -> list[bytes]:
        self._is_over = True
        # What is open in a run that another has begun, nobody knows: it cannot be finished.
        if part.type == "Cancelled" and self._name:
            return [
                *self._close(),
                *self._withdraw_calls(),
                typed(
                    "RUN_FINISHED",
                    threadId=self._thread,
                    runId=self._run,
                    outcome={"type": "cancelled"},
                    usage=_usage(part.usage),
                ),
            ]
        metadata = present(trace_id=part.trace_id, retryable=part.retryable)
        return [
            *(call.withdrawn() for call in self._open_calls()),
            typed(
                "RUN_ERROR",
                message=part.message,
                code=part.type,
                usage=_usage(part.usage),
                metadata=metadata,
            ),
        ]

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


def _text_opening(id: str, **metadata: Any) -> list[bytes]:
    opening = typed("TEXT_MESSAGE_START", messageId=id, role="assistant", metadata=metadata or None)
    return [opening]


def _refusal_opening(id: str) -> list[bytes]:
    return _text_opening(id, refusal=True)


def _thinking_opening(id: str) -> list[bytes]:
    return [
        typed("REASONING_START", messageId=id),
        typed("REASONING_MESSAGE_START", messageId=id, role="reasoning"),
    ]


_OPENING: dict[str, Callable[[str], list[bytes]]] = {
    "text": _text_opening,
    "refusal": _refusal_opening,
    "thinking": _thinking_opening,
}


def _withdrawn(id: str) -> bytes:
    """Puts an activity, which the page has no picture of and the client never posts, where a
    message was."""
    return typed("ACTIVITY_SNAPSHOT", messageId=id, activityType=_WITHDRAWN, content={})


# With this a snapshot also removes the activities that stand for half messages: the client's own
# convention (`authoritativeActivityTypes`). Where it is not known, they stay, and show nothing.
_WITHOUT_WITHDRAWN = {"@ag-ui/client": {"authoritativeActivityTypes": [_WITHDRAWN]}}


def _usage(usage: Usage, model: str | None = None) -> list[dict[str, Any]] | None:
    """The schema's TokenUsage. A count that it cannot have is left out."""
    counts = {name: getattr(usage, field) for name, field in _COUNTS.items()}
    known = {
        name: count
        for name, count in counts.items()
        if isinstance(count, int) and 0 <= count <= _MOST
    }
    return [{**present(model=model), **known}] if known else None


# ---- what the page has posted ------------------------------------------------------------------


class _Posted(msgspec.Struct, rename="camel"):
    thread_id: str | None = None
    run_id: str | None = None
    messages: list[dict[str, Any]] = []


def _history(messages: list[dict[str, Any]]) -> msgspec.Raw | None:
    """The page's own messages, to be shown to it again: as they are, without nulls. None where they
    are too long for that."""
    for index, message in enumerate(messages):
        if not isinstance(message.get("id"), str) or not isinstance(message.get("role"), str):
            raise BadRequest(f"the body's messages[{index}] has no id or no role")
    kept = [{k: v for k, v in message.items() if v is not None} for message in messages]
    try:
        data = encode_json(kept)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise BadRequest("the body's messages are not JSON") from None
    return msgspec.Raw(data) if len(data) <= _LONGEST_HISTORY else None


def _call_ids(messages: list[dict[str, Any]]) -> frozenset[str]:
    """The ids of the calls that the page has."""
    lists = (message.get("toolCalls") for message in messages)
    calls = (call for calls in lists if isinstance(calls, list) for call in calls)
    ids = (call.get("id") for call in calls if isinstance(call, dict))
    return frozenset(id for id in ids if isinstance(id, str))


def _checked_id(name: str, id: Any) -> str | None:
    if id is not None and (not isinstance(id, str) or not 0 < len(id) <= _LONGEST_ID):
        raise ConfigurationError(
            f"{name}={shown(id)}: pass a text of 1 to {_LONGEST_ID} characters"
        )
    found: str | None = id
    return found
