"""relay.whole: an answer in one piece, for servers that cannot stream."""

from __future__ import annotations

from typing import Any

from ..stream import Stream
from .parts import CallEnd, End, Failure, Part, Refusal, Restart, Text, Thinking
from .protocols.base import clean, present, reported
from .reading import parts_of

__all__ = ["whole"]


def whole(stream: Stream) -> dict[str, Any]:
    """Wait for the end of the answer, and return all of it, as plain values that JSON has.

        answer = relay.whole(client.stream(prompt))
        return answer, 502 if "error" in answer else 200

    Never raises for how the call ended. The fields; all but `text` and `trace_id` are absent where
    there is nothing to say:

    - `text`, `thinking`, `refusal`: what has arrived, also beside an error.
    - `tool_calls`: those that are whole, each `{"id", "name", "arguments"}`, and `"custom": true`
      where the arguments are not JSON.
    - `finish`, `usage`, `model`, `response_id`: as `Result` has them. `usage` has the counts that
      were reported.
    - `error`: the answer is not whole. `{"type", "message", "retryable"}`, which anybody may read.
    - `trace_id`: by which the server's logs have the call.

    `stream` is a Stream that nobody has read yet; else it raises ConfigurationError. A browser that
    leaves is not noticed meanwhile: set a `total` clock.
    """
    texts: dict[type[Part], list[str]] = {Text: [], Thinking: [], Refusal: []}
    calls: list[dict[str, Any]] = []
    last: dict[str, Any] = {}
    parts = parts_of(stream)
    for part in parts:
        if isinstance(part, (Text, Thinking, Refusal)):
            texts[type(part)].append(part.text)
        elif isinstance(part, Restart):
            for pieces in texts.values():
                pieces.clear()
            calls.clear()
        elif isinstance(part, CallEnd):
            calls.append(_call(part))
        elif isinstance(part, End):
            last = present(
                finish=part.finish,
                usage=reported(part.usage),
                model=part.model,
                response_id=part.response_id,
                trace_id=part.trace_id,
            )
        elif isinstance(part, Failure):
            error = {"type": part.type, "message": part.message, "retryable": part.retryable}
            last = present(error=error, usage=reported(part.usage), trace_id=part.trace_id)
    text, thinking, refusal = (clean("".join(pieces)) for pieces in texts.values())
    return {
        "text": text,
        **present(thinking=thinking or None, refusal=refusal or None, tool_calls=calls or None),
        **last,
    }


def _call(part: CallEnd) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": clean(part.id),
        "name": clean(part.name),
        "arguments": clean(part.arguments),
    }
    return {**found, "custom": True} if part.custom else found
