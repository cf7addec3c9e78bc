"""A model without chance for the tests of runs: what it answers depends on the prompt alone, so
that a run which is resumed elsewhere gets the answer that it would have got."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from llmstream import Client
from llmstream.testing import Answer, FakeTransport, Reply
from llmstream.testing.script import Recorded

APIS = ("responses", "messages", "chat", "gemini")
PROMPT = "What is the weather, and what is the sum?"
_MOST = 200  # requests of one test


def outcomes(request: Recorded) -> list[dict[str, Any]]:
    """The outcomes of calls in a prompt, whatever the API: `id`, `output`, `is_error`."""
    body = request.json()
    if "contents" in body:
        return [
            _response(part["functionResponse"])
            for turn in body["contents"]
            for part in turn["parts"]
            if "functionResponse" in part
        ]
    found = []
    for turn in body.get("input") or body["messages"]:
        if turn.get("type") in ("function_call_output", "custom_tool_call_output"):
            found.append({"id": turn["call_id"], "output": turn["output"], "is_error": None})
        elif turn.get("role") == "tool":
            output = turn["content"]
            found.append({"id": turn["tool_call_id"], "output": output, "is_error": None})
        elif isinstance(turn.get("content"), list):
            found += [
                {
                    "id": block["tool_use_id"],
                    "output": block["content"],
                    "is_error": block.get("is_error", False),
                }
                for block in turn["content"]
                if block.get("type") == "tool_result"
            ]
    return found


def _response(sent: dict[str, Any]) -> dict[str, Any]:
    """An outcome in the Gemini API, which takes objects only."""
    response = sent["response"]
    failed = response.keys() == {"error"}
    own = failed or response.keys() == {"output"}
    output = next(iter(response.values())) if own else json.dumps(response)
    return {"id": sent.get("id"), "output": output, "is_error": failed}


class Model:
    """Answers by the number of outcomes in the prompt: with the first of `answers` whose number is
    at least as great. `transport` plays it; `requests` are those of all transports."""

    def __init__(self, answers: Sequence[tuple[int, Answer]]) -> None:
        self.answers = answers
        self.requests: list[Recorded] = []

    def answer(self, request: Recorded) -> Answer:
        self.requests.append(request)
        known = len(outcomes(request))
        return next(answer for least, answer in self.answers if known <= least)

    def transport(self) -> FakeTransport:
        return FakeTransport(*[self.answer] * _MOST)

    def client(self, api: str, **options: Any) -> Client:
        options = {"transport": self.transport(), "model": "m", "api_key": "k", **options}
        return Client(api, **options)


def cut_after(number: int, blocks: int, model: Model) -> Callable[[Recorded], Any]:
    """A model whose answer to the request with this `number`, from 0, is cut after `blocks` blocks
    of it. Another number of requests before it does no harm."""
    from llmstream.testing import Cut
    from llmstream.testing.answers import api_of_path

    seen = [0]

    def play(request: Recorded) -> Any:
        answer = model.answer(request)
        mine, seen[0] = seen[0], seen[0] + 1
        if mine != number:
            return answer
        return Reply([*answer.blocks(api_of_path(request.path))[:blocks], Cut()])

    return play


def as_stored(state: Any) -> Any:
    """A state that was kept in a file."""
    return json.loads(json.dumps(state))
