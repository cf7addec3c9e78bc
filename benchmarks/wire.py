"""What the load server sends: one answer of each API, rendered to the bytes of its events.

The fields are those of the services' own recordings, in their order. Obfuscation (padding that
OpenAI adds unless it is asked not to) is left out for everybody, so that all contenders read the
same bytes.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

__all__ = [
    "APIS",
    "PATHS",
    "Answer",
    "answer",
    "characters",
    "chunked",
    "frame",
    "large_answer",
    "stamped",
]

PATHS = {"responses": "/v1/responses", "messages": "/v1/messages", "chat": "/v1/chat/completions"}
APIS = tuple(PATHS)

# as a model cuts English prose: mostly a space and a short word, some punctuation, little else
_TOKENS = (
    *(" The", " sky", " looks", " blue", " because", " air", " scatters", " short", " wave"),
    *("lengths", " of", " sun", "light", " more", " than", " long", " ones", ",", " an", " effect"),
    *(" that", " Lord", " Ray", "leigh", " described", " in", " ", "187", "1", ".", "\n\n", "At"),
    *(" sunset", " the", " light", " crosses", " more", " of", " the", " atmosphere", " —", " so"),
    *(" most", " blue", " is", " gone", ",", " and", " red", " and", " orange", " remain", ":"),
    *(' "', "the", " same", " physics", '"', ".", " It", " is", " why", " hills", " look", " pale"),
    *(" from", " afar", "."),
)
STAMP = "0" * 19 + " "
"""Where a paced token will carry the moment at which it was sent (nanoseconds, monotonic)."""
STAMP_BYTES = STAMP[:-1].encode()
TEXT = "@text@"
"""Stands for the whole text in the closing events of a paced answer."""

_MESSAGE = "msg_0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f607182"
_RESPONSE = "resp_0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f607182"
_CREATED = 1_790_000_000
_INPUT_TOKENS = 12


class Answer(NamedTuple):
    """The events of an answer, each whole, with the empty line that ends it."""

    opening: list[bytes]
    tokens: list[bytes]
    closing: list[bytes]

    @property
    def events(self) -> list[bytes]:
        return [*self.opening, *self.tokens, *self.closing]


def token(number: int) -> str:
    return _TOKENS[number % len(_TOKENS)]


def characters(tokens: int) -> int:
    """The length of the text of an answer, for a reader to prove that it has read it."""
    whole, rest = divmod(tokens, len(_TOKENS))
    return whole * sum(map(len, _TOKENS)) + sum(map(len, _TOKENS[:rest]))


def answer(api: str, tokens: int) -> Answer:
    """An answer of so many tokens, one to an event."""
    return _APIS[api]([token(number) for number in range(tokens)], None)


def stamped(api: str, tokens: int) -> Answer:
    """The same with `STAMP` for every token, and `TEXT` for the whole text."""
    return _APIS[api]([STAMP] * tokens, TEXT)


def large_answer(api: str, size: int) -> Answer:
    """An answer of which one event carries `size` characters: a picture where the API has them,
    else text."""
    payload = "iVBORw0K" * (size // 8)
    if api != "responses":
        return _APIS[api]([payload], "")
    rest = _APIS[api]([], "")
    picture = {
        "type": "response.image_generation_call.partial_image",
        "sequence_number": 4,
        "output_index": 0,
        "item_id": _MESSAGE,
        "partial_image_index": 0,
        "partial_image_b64": payload,
    }
    return Answer(rest.opening, [_named(picture)], rest.closing)


def chunked(events: list[bytes], each: int) -> list[bytes]:
    """HTTP chunks of `each` events."""
    return [frame(b"".join(events[start : start + each])) for start in range(0, len(events), each)]


def frame(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _json(payload: Any) -> bytes:
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def _named(payload: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (payload["type"].encode(), _json(payload))


def _unnamed(payload: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % _json(payload)


# ---- the three APIs ----------------------------------------------------------------------------


def _responses(pieces: list[str], text: str | None) -> Answer:
    whole = "".join(pieces) if text is None else text
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
    item = {"id": _MESSAGE, "type": "message", "role": "assistant"}
    place = {"item_id": _MESSAGE, "output_index": 0, "content_index": 0}
    done_part = {**part, "text": whole}
    done_item = {**item, "status": "completed", "content": [done_part]}
    opening: list[dict[str, Any]] = [
        {"type": "response.created", "response": _response("in_progress", [], None)},
        {"type": "response.in_progress", "response": _response("in_progress", [], None)},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **place, "part": part},
    ]
    deltas: list[dict[str, Any]] = [
        {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
        for piece in pieces
    ]
    usage = {
        "input_tokens": _INPUT_TOKENS,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": len(pieces),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": _INPUT_TOKENS + len(pieces),
    }
    closing: list[dict[str, Any]] = [
        {"type": "response.output_text.done", **place, "text": whole, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": done_part},
        {"type": "response.output_item.done", "output_index": 0, "item": done_item},
        {"type": "response.completed", "response": _response("completed", [done_item], usage)},
    ]
    numbered = [
        _named({"type": event.pop("type"), "sequence_number": number, **event})
        for number, event in enumerate([*opening, *deltas, *closing])
    ]
    first, last = len(opening), len(opening) + len(deltas)
    return Answer(numbered[:first], numbered[first:last], numbered[last:])


def _response(status: str, output: list[Any], usage: Any) -> dict[str, Any]:
    return {
        "id": _RESPONSE,
        "object": "response",
        "created_at": _CREATED,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "model": "gpt-5.4-mini",
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "prompt_cache_retention": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
        "metadata": {},
    }


def _messages(pieces: list[str], text: str | None) -> Answer:
    usage = {
        "input_tokens": _INPUT_TOKENS,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 1,
        "service_tier": "standard",
    }
    message: dict[str, Any] = {
        "model": "claude-haiku-4-5",
        "id": "msg_01AbCdEfGhIjKlMnOpQrStUv",
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    block = {"type": "text", "text": ""}
    return Answer(
        [
            _named({"type": "message_start", "message": message}),
            _named({"type": "content_block_start", "index": 0, "content_block": block}),
            _named({"type": "ping"}),
        ],
        [
            _named(
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "text_delta", "text": piece},
                }
            )
            for piece in pieces
        ],
        [
            _named({"type": "content_block_stop", "index": 0}),
            _named(
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                    "usage": {
                        "input_tokens": _INPUT_TOKENS,
                        "cache_creation_input_tokens": 0,
                        "cache_read_input_tokens": 0,
                        "output_tokens": len(pieces),
                    },
                }
            ),
            _named({"type": "message_stop"}),
        ],
    )


def _chat(pieces: list[str], text: str | None) -> Answer:
    opening = _unnamed(_chunk({"role": "assistant", "content": "", "refusal": None}))
    usage = {
        "prompt_tokens": _INPUT_TOKENS,
        "completion_tokens": len(pieces),
        "total_tokens": _INPUT_TOKENS + len(pieces),
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    return Answer(
        [opening],
        [_unnamed(_chunk({"content": piece})) for piece in pieces],
        [
            _unnamed(_chunk({}, finish="stop")),
            _unnamed({**_chunk({}), "choices": [], "usage": usage}),
            b"data: [DONE]\n\n",
        ],
    )


def _chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": "gpt-5.4-mini",
        "service_tier": "default",
        "system_fingerprint": "fp_0a1b2c3d4e",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        "usage": None,
    }


_APIS = {"responses": _responses, "messages": _messages, "chat": _chat}
