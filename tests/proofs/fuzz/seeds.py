"""Where the fuzzer begins: small streams of the four APIs, and the words of their JSON.

    python tests/proofs/fuzz/seeds.py DIRECTORY

writes the seeds into DIRECTORY, and a dictionary for libFuzzer to DIRECTORY.dict.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TESTS.parent)]

from llmstream.testing import Answer  # noqa: E402

if __package__:
    from .oracle import APIS, LIMITS, PROFILE_NAMES, Case
else:
    from oracle import APIS, LIMITS, PROFILE_NAMES, Case

SMALL = 8000  # bytes; a transcript above this is no seed

ANSWERS = (
    Answer("one two"),
    Answer(""),
    Answer("déjà vu 🙂", thinking="let me see"),
    Answer(refusal="I cannot"),
    Answer("call", tool_calls=[("f", '{"a": 1}'), ("g", "{}")]),
    Answer(tool_calls=[("f", '{"a": [1, null, "x"]}')], finish="tool_calls"),
    Answer("cut", finish="length", usage=None),
    Answer("hm", finish="content_filter", usage=(1, 2, 3, 4)),
    Answer("then", error={"code": "rate_limit_exceeded", "message": "try again in 2s"}),
    Answer(error={"type": "overloaded_error"}),
)

WHOLE: dict[str, Any] = {
    "responses": {
        "object": "response",
        "status": "completed",
        "output": [
            {"type": "message", "content": [{"type": "output_text", "text": "hi"}]},
            {"type": "function_call", "name": "f", "call_id": "c", "arguments": "{}"},
        ],
    },
    "messages": {
        "type": "message",
        "role": "assistant",
        "content": [
            {"type": "text", "text": "hi"},
            {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
    },
    "chat": {
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "hi",
                    "tool_calls": [
                        {
                            "id": "c",
                            "type": "function",
                            "function": {"name": "f", "arguments": "{}"},
                        }
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
    },
}

WHOLE["gemini"] = {
    "candidates": [
        {
            "content": {"parts": [{"text": "hi"}, {"functionCall": {"name": "f", "args": {}}}]},
            "finishReason": "STOP",
        }
    ],
    "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2, "totalTokenCount": 3},
}

# The parts of Gemini that an Answer has not: each is a chunk.
PARTS = (
    {"text": "signed", "thoughtSignature": "eA=="},
    {"text": "t", "thought": True},
    {"executableCode": {"language": "PYTHON", "code": "1"}},
    {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
    {"inlineData": {"mimeType": "image/png", "data": "eA=="}},
    {"toolCall": {"toolType": "GOOGLE_SEARCH_WEB", "id": "s"}},
    {"functionCall": {"name": "f", "willContinue": True}},
    {
        "functionCall": {
            "partialArgs": [{"jsonPath": "$.a.b[0]", "stringValue": "x", "willContinue": True}],
            "willContinue": True,
        }
    },
    {"functionCall": {"partialArgs": [{"jsonPath": "$.a.b[0]", "stringValue": "y"}]}},
)

# Forms that compatible servers send, beyond what an Answer can say.
CHAT_CHUNKS = (
    {"choices": [{"delta": {"content": [{"type": "thinking", "thinking": "t"}, {"text": "x"}]}}]},
    {"choices": [{"index": 1, "delta": {"content": "second"}, "finish_reason": "stop"}]},
    {"choices": [{"delta": {"function_call": {"name": "f", "arguments": "{}"}}}]},
    {"choices": [{"delta": {"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}}]},
    {"choices": [{"delta": {"reasoning_details": [{"text": "r"}]}, "finish_reason": "error"}]},
    {"choices": [], "usage": {"prompt_tokens": 1}, "x_groq": {"error": "e"}},
    {"object": "error", "message": "m", "code": 400},
)


def cases() -> Iterator[Case]:
    """All seeds, the same in the same order each time."""
    number = 0
    for api in APIS:
        for answer in ANSWERS:
            number += 1
            body = b"".join(answer.blocks(api))
            yield Case(body, api, seed=number % 256)
            yield Case(body[: len(body) // 2], api, limit=LIMITS[number % 3], seed=number % 256)
        whole = json.dumps(WHOLE[api]).encode()
        yield Case(whole, api, is_json=True)
        yield Case(b'{"error": {"message": "m", "code": 429}}', api, is_json=True)
        yield Case(b"error: " + whole + b"\r\n\r\n", api)
    yield from _of_parts()
    chunks = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in CHAT_CHUNKS]
    for profile in PROFILE_NAMES:
        yield Case(b"".join(chunks), "chat", profile=profile, choices=2)
        for chunk in chunks:
            yield Case(chunk + b"data: [DONE]\n\n", "chat", profile=profile)
    for path in sorted((TESTS / "transcripts").glob("*.sse")):
        if path.stat().st_size <= SMALL:
            yield Case(path.read_bytes(), "responses")


def _of_parts() -> Iterator[Case]:
    contents = [{"content": {"parts": [part]}} for part in PARTS]
    rest: list[Any] = [{"finishReason": word} for word in ("STOP", "SAFETY", "MALFORMED_RESPONSE")]
    told = [{"candidates": [one]} for one in (*contents, *rest)]
    told.append({"promptFeedback": {"blockReason": "OTHER"}})
    sent = [b"data: " + json.dumps(one).encode() + b"\r\n\r\n" for one in told]
    yield Case(b"".join(sent[: len(PARTS) + 1]), "gemini")
    yield Case(b"".join(sent[: len(PARTS)]) + sent[-2], "gemini")
    yield Case(sent[len(PARTS) + 1], "gemini")
    yield Case(sent[-1], "gemini")
    error = b'{\n  "error": {\n    "code": 499,\n    "status": "CANCELLED"\n  }\n}\n'
    yield Case(sent[0] + error + b"\n", "gemini")
    yield Case(sent[0] + sent[len(PARTS)] + error, "gemini")
    yield Case(json.dumps(told[:3]).encode(), "gemini", is_json=True)


def write(directory: Path) -> int:
    """Write the seeds, and the dictionary beside the directory; returns how many there are."""
    directory.mkdir(parents=True, exist_ok=True)
    words: set[str] = set()
    number = 0
    for number, case in enumerate(cases(), 1):
        (directory / f"seed-{number:03}").write_bytes(case.data)
        words.update(re.findall(r'"[A-Za-z_.]{2,60}"', case.body.decode("utf-8", "replace")))
    # libFuzzer's form: the value in quotes, its own quotes as \x22
    lines = [rf'"\x22{word.strip(chr(34))}\x22"' for word in sorted(words)]
    lines += [
        r'"data: "',
        r'"event: "',
        r'"\x0a\x0a"',
        r'"\x0d\x0a"',
        '"[DONE]"',
        r'"\xef\xbb\xbf"',
    ]
    directory.with_suffix(".dict").write_text("\n".join(lines) + "\n", "ascii")
    return number


if __name__ == "__main__":
    print(write(Path(sys.argv[1])), "seeds")
