"""What each API refuses in the turns of a request, as a checker: from the references, and from the
errors that the services answer with (the ids: see `turns/ids.py`)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

__all__ = ["RULES"]

_FILES = {"image_url", "file", "input_audio"}


def _text(value: Any) -> None:
    assert isinstance(value, str), value


def _chat(messages: list[Any]) -> None:
    open: list[str] = []  # the calls that have no output yet
    for message in messages:
        role, content = message["role"], message.get("content")
        if role == "tool":
            assert message.keys() == {"role", "tool_call_id", "content"}
            open.remove(message["tool_call_id"])
            for part in [] if isinstance(content, str) else content:
                assert part["type"] == "text"
            continue
        assert not open, "the calls of a message are followed by their outputs"
        if role == "assistant":
            assert isinstance(content, str) or message.get("tool_calls") or message.get("refusal")
            assert content != ""
            for call in message.get("tool_calls", ()):
                assert 0 < len(call["id"]) <= 40
                assert not isinstance(call[call["type"]], str)
                open.append(call["id"])
            continue
        assert role in ("user", "system", "developer")
        assert content
        for part in [] if isinstance(content, str) else content:
            assert part["type"] in {"text", *(_FILES if role == "user" else ())}
            assert part["type"] != "text" or part["text"]


_BLOCKS = {
    "user": {"text", "image", "document", "tool_result"},
    "assistant": {"text", "tool_use", "thinking", "redacted_thinking", "server_tool_use"},
}
_OWN = re.compile(r"\w+_tool_result|mcp_tool_use|compaction|container_upload")


def _messages(messages: list[Any]) -> None:
    ids: set[str] = set()
    open: set[str] = set()
    for message in messages:
        role, content = message["role"], message["content"]
        assert message.keys() == {"role", "content"}
        assert content
        if isinstance(content, str):
            assert content.strip()
            assert not open
            continue
        kinds = [block["type"] for block in content]
        for block in content:
            kind = block["type"]
            assert kind in _BLOCKS[role] or (role == "assistant" and _OWN.fullmatch(kind)), kind
            if kind == "text":
                assert block["text"].strip(), "a blank text"
            if kind == "tool_use":
                assert re.fullmatch(r"[a-zA-Z0-9_-]+", block["id"])
                assert isinstance(block["input"], dict)
                assert block["id"] not in ids, "an id twice"
                ids.add(block["id"])
            if kind == "tool_result":
                open.remove(block["tool_use_id"])
        results = [kind == "tool_result" for kind in kinds]
        assert results == sorted(results, reverse=True), "results come first"
        assert not open, "all results are in the next message"
        open |= {block["id"] for block in content if block["type"] == "tool_use"}
    assert not open


_PARTS = {"input_text", "output_text", "refusal", "input_image", "input_file", "input_audio"}
_OUTPUTS = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
}


def _responses(items: list[Any]) -> None:
    open: dict[str, str] = {}
    known: set[str] = set()
    for item in items:
        kind = item.get("type", "message")
        if kind == "message":
            assert item["role"] in ("user", "assistant", "system", "developer")
            content = item["content"]
            assert content
            for part in [] if isinstance(content, str) else content:
                assert part["type"] in _PARTS
                asked = item["role"] != "assistant"
                assert part["type"] != ("output_text" if asked else "input_text")
        elif kind in _OUTPUTS:
            assert len(item["call_id"]) <= 64
            assert item["call_id"] not in known
            known.add(item["call_id"])
            _text(item["arguments" if kind == "function_call" else "input"])
            open[item["call_id"]] = _OUTPUTS[kind]
        elif kind in _OUTPUTS.values():
            assert open.pop(item["call_id"]) == kind
            parts = [] if isinstance(item["output"], str) else item["output"]
            assert {part["type"] for part in parts} <= _PARTS - {"output_text", "refusal"}
        else:
            assert "role" not in item
            assert kind not in {"tool_use", "tool_result", "text"}
    assert not open


def _gemini(contents: list[Any]) -> None:
    open: list[tuple[str, Any]] = []  # the names and ids of calls without an output
    for content in contents:
        assert content.keys() == {"role", "parts"}
        assert content["role"] in ("user", "model", "system", "developer")
        outputs = [part["functionResponse"] for part in content["parts"] if _ANSWER in part]
        for output in outputs:
            assert isinstance(output["response"], dict)
            open.remove((output["name"], output.get("id")))
        assert not open, "the outputs of all calls of a turn are in the next one"
        assert content["parts"]
        for part in content["parts"]:
            kinds = part.keys() - {"thought", "thoughtSignature"}
            assert len(kinds) == 1 or (not kinds and "thoughtSignature" in part), part
            assert (_ANSWER in part) <= (content["role"] == "user")
            if "functionCall" in part:
                assert content["role"] == "model"
                assert isinstance(part["functionCall"].get("args", {}), dict)
                open.append((part["functionCall"]["name"], part["functionCall"].get("id")))


_ANSWER = "functionResponse"


def _json(check: Callable[[list[Any]], None]) -> Callable[[list[Any]], None]:
    def checked(turns: list[Any]) -> None:
        check(json.loads(json.dumps(turns)))

    return checked


# API -> the check of its turns: it raises for what the service would refuse.
RULES: dict[str, Callable[[list[Any]], None]] = {
    "chat": _json(_chat),
    "gemini": _json(_gemini),
    "messages": _json(_messages),
    "responses": _json(_responses),
}
