"""Chunks as OpenAI's Chat Completions API streams them, for the many front ends and libraries that
read these (Open WebUI, LibreChat, the `openai` packages, LangChain, ...).

Source: the API's reference, and what the packages `openai` accept (Python 3.57, npm 6 and 7).
Thinking is `reasoning_content`, as DeepSeek, vLLM and others send it. A client cannot be told that
a call is not whole, so a call is sent in one piece, and only once it is safe to run. An answer that
fails ends with `{"error": {...}}` and without `[DONE]`, which these clients raise as an APIError.
"""

from __future__ import annotations

from typing import Any

from ..._core.checks import shown
from ...errors import ConfigurationError
from ...result import Usage
from ..parts import Begin, CallEnd, End, Failure, Refusal, Text, Thinking
from ..posted import read_object
from .base import TableEncoder, Version, encode_json, frame, present

__all__ = ["ChatCompletionsEncoder"]

_DONE = frame(b"[DONE]")
# The API knows these words only. An answer that pauses goes on with another request: it is no more
# at its end than one that a limit has cut. What is not here is the service's own word for an end.
_FINISH = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "pause": "length",
}


class ChatCompletionsEncoder(TableEncoder):
    """Writes the chunks of one answer.

    Args:
        include_usage: send a last chunk without choices that has the usage, as the API does where
            a request has it in its `stream_options`. By default `body` decides.
        body: the request's body, as a client of the API posts it: bytes, text or the object.

    Raises ConfigurationError for an `include_usage` that is not a bool.
    """

    shows_restart = False
    # The API sends none, and with one the `openai` of Python takes the comments after it for events
    # without data (3.57, `_streaming.py`), and fails on the JSON of the first heartbeat.
    has_ids = False

    def __init__(
        self,
        version: Version | None = None,
        *,
        include_usage: bool | None = None,
        body: Any = None,
    ) -> None:
        super().__init__(version)
        if not isinstance(include_usage, (bool, type(None))):
            raise ConfigurationError(f"include_usage={shown(include_usage)}: pass True or False")
        self._usage = _asks_for_usage(body) if include_usage is None else include_usage
        self._head: dict[str, Any] = {"id": "chatcmpl", "object": "chat.completion.chunk"}
        self._calls = 0

    def _begin(self, part: Begin) -> list[bytes]:
        self._head = {
            "id": f"chatcmpl-{part.trace_id}",
            "object": "chat.completion.chunk",
            "created": int(part.created),
            "model": part.model or "",
        }
        return [self._delta(role="assistant", content="")]

    def _text(self, part: Text) -> list[bytes]:
        return [self._delta(content=part.text)]

    def _thinking(self, part: Thinking) -> list[bytes]:
        return [self._delta(reasoning_content=part.text)]

    def _refusal(self, part: Refusal) -> list[bytes]:
        return [self._delta(refusal=part.text)]

    def _call(self, part: CallEnd) -> list[bytes]:
        call: dict[str, Any] = {"index": self._calls, "id": part.id}
        self._calls += 1
        if part.custom:
            call.update(type="custom", custom={"name": part.name, "input": part.arguments})
        else:
            function = {"name": part.name, "arguments": part.arguments}
            call.update(type="function", function=function)
        return [self._delta(tool_calls=[call])]

    def _end(self, part: End) -> list[bytes]:
        frames = [self._chunk([_choice({}, _FINISH.get(part.finish or "stop", "stop"))])]
        if self._usage:
            frames.append(self._chunk([], usage=_usage(part.usage)))
        return [*frames, _DONE]

    def _error(self, part: Failure) -> list[bytes]:
        error = {"message": part.message, "type": part.type}
        return [frame(encode_json({"error": error}))]

    def _delta(self, **delta: Any) -> bytes:
        return self._chunk([_choice(delta, None)])

    def _chunk(self, choices: list[Any], **more: Any) -> bytes:
        return frame(encode_json({**self._head, "choices": choices, **more}))

    table = {  # noqa: RUF012
        Begin: _begin,
        Text: _text,
        Thinking: _thinking,
        Refusal: _refusal,
        CallEnd: _call,
        End: _end,
        Failure: _error,
    }


def _asks_for_usage(body: Any) -> bool:
    try:
        options = read_object(body).get("stream_options")
    except ConfigurationError:  # nobody has asked; `prompt_of` says what is wrong with a body
        return False
    return isinstance(options, dict) and options.get("include_usage") is True


def _choice(delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish}  # null, as the API sends it


def _usage(usage: Usage) -> dict[str, Any]:
    given, made = usage.input_tokens or 0, usage.output_tokens or 0
    counts: dict[str, Any] = {
        "prompt_tokens": given,
        "completion_tokens": made,
        "total_tokens": usage.total_tokens or given + made,
    }
    details = {
        "prompt_tokens_details": present(cached_tokens=usage.cached_tokens),
        "completion_tokens_details": present(reasoning_tokens=usage.reasoning_tokens),
    }
    return {**counts, **{name: inner for name, inner in details.items() if inner}}
