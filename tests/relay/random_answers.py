"""Answers that no service has sent: parts in every order that `parts` allows, from a seed."""

from __future__ import annotations

import random
from typing import NamedTuple

from llmstream.relay.parts import (
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
from llmstream.result import ToolCall, Usage

__all__ = ["Made", "random_answer"]

_WORDS = [
    "Hello ",
    "wörld",
    "\n",
    "\r\n",
    "\u2028",
    "😀",
    "</script>",
    " ",
    "data: x\n\n",
    "\0",
    '"',
]
_WORDS += ["{}", "null", "\u200d", "[DONE]", "toString"]
_ARGUMENTS = [
    '{"a":1}',
    '{"a":{"b":[1,2.5e10,null,true]},"c":"\\ud83d\\ude00 \\u2028"}',
    "{}",
    "[1,2]",
    '"x"',
    '{ "a" :\n 1 }',
    '"{\\"q\\":1}"',
]
_IDS = ["c1", "call_2", "__proto__", "constructor", "toString", "ünï", "a b", "x" * 80, "1"]
_NAMES = ["f", "get-x", "__proto__"]


class Made(NamedTuple):
    """An answer, and what is in it. `end` is "whole", "failed", "stopped" or "cut"."""

    parts: list[Part]
    text: str
    thinking: str
    refusal: str
    tool_calls: tuple[ToolCall, ...]
    end: str

    @property
    def begins_anew(self) -> bool:
        return any(isinstance(part, Restart) for part in self.parts)


class _Attempt:
    """What one request brings: pieces of everything, calls among each other."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.parts: list[Part] = []
        self.calls: dict[str, ToolCall] = {}
        self.sent: dict[str, int] = {}  # characters of the arguments
        ids = rng.sample(_IDS, len(_IDS))
        for _ in range(rng.randint(0, 12)):
            self._add(ids)

    def words(self) -> str:
        return "".join(self.rng.choices(_WORDS, k=self.rng.randint(1, 4)))

    def _add(self, ids: list[str]) -> None:
        chance = self.rng.random()
        if chance < 0.4:
            self.parts.append(Text(self.words()))
        elif chance < 0.55:
            self.parts.append(Thinking(self.words()))
        elif chance < 0.6:
            self.parts.append(Refusal(self.words()))
        elif chance < 0.65:
            self.parts.append(Retry(2, "ServerError", 0.1))
        elif chance < 0.8 and len(self.calls) < 5:
            self._begin(ids.pop())
        elif self.calls:
            self._argue(self.rng.choice([*self.calls]), self.rng.randint(1, 5))

    def _begin(self, id: str) -> None:
        is_custom = self.rng.random() < 0.2
        arguments = self.words() if is_custom else self.rng.choice(_ARGUMENTS)
        call = ToolCall(id, self.rng.choice(_NAMES), arguments, is_custom)
        self.calls[id], self.sent[id] = call, 0
        self.parts.append(CallBegin(id, call.name, is_custom))

    def _argue(self, id: str, number: int) -> None:
        begin = self.sent[id]
        piece = self.calls[id].arguments[begin : begin + number]
        self.sent[id] += len(piece)
        if piece:
            self.parts.append(CallArguments(id, piece))

    def end_calls(self) -> tuple[ToolCall, ...]:
        """Most of the calls are whole, and some of these are sent anew."""
        whole = []
        for id, call in self.calls.items():
            if self.rng.random() < 0.3:
                continue
            self._argue(id, len(call.arguments))
            is_rewritten = self.rng.random() < 0.15
            if is_rewritten:
                arguments = "other" if call.custom else '{"z":9}'
                call = ToolCall(id, call.name, arguments, call.custom)
            self.parts.append(CallEnd(id, call.name, call.arguments, call.custom, is_rewritten))
            whole.append(call)
        return tuple(whole)


def random_answer(seed: int) -> Made:
    rng = random.Random(seed)
    parts: list[Part] = [Begin("trace-1", "m")]
    while rng.random() < 0.2:
        parts += [*_Attempt(rng).parts, Restart(2)]
    last = _Attempt(rng)
    end = rng.choices(["whole", "failed", "stopped", "cut"], [14, 3, 2, 1])[0]
    calls = last.end_calls() if end == "whole" else ()
    parts += last.parts
    if end == "whole":
        finish = rng.choice(["stop", "length", "tool_calls", None, "odd"])
        usage = Usage(input_tokens=rng.choice([None, 0, 5]), output_tokens=7)
        parts.append(End(finish=finish, usage=usage, model="m", tool_calls=calls))
    elif end != "cut":
        kind = "ServerError" if end == "failed" else "Cancelled"
        parts.append(Failure(type=kind, message="It ended."))
    texts = {
        kind: "".join(part.text for part in last.parts if isinstance(part, kind))
        for kind in (Text, Thinking, Refusal)
    }
    return Made(parts, texts[Text], texts[Thinking], texts[Refusal], calls, end)
