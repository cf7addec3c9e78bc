"""Runs over answers whose calls have no ids, as Gemini 2 sends them: the order tells them apart."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest
from support import eventually, other_threads
from talking import PROMPT, as_stored

from llmstream import Chunk, Client
from llmstream.errors import StreamInterrupted
from llmstream.testing import Cut, FakeTransport, Reply
from llmstream.testing.script import Recorded
from llmstream.tools import ToolError, ToolFinished, ToolProgress

pytestmark = pytest.mark.usefixtures("nothing_left")


def reply(*parts: dict[str, Any]) -> Reply:
    return Reply(blocks(*parts))


def blocks(*parts: dict[str, Any]) -> list[bytes]:
    """An answer of one chunk for each part, and the end."""
    contents: list[Any] = [*({"content": {"parts": [part]}} for part in parts)]
    contents.append({"content": {"parts": [{"text": ""}]}, "finishReason": "STOP"})
    chunks = [json.dumps({"candidates": [one]}).encode() for one in contents]
    return [b"data: " + chunk + b"\r\n\r\n" for chunk in chunks]


def call(name: str, **args: Any) -> dict[str, Any]:
    return {"functionCall": {"name": name, "args": args}}


def client_of(*replies: Any) -> tuple[Client, FakeTransport]:
    transport = FakeTransport(*replies)
    return Client("gemini", transport=transport, model="gemini-2.5-flash", api_key="k"), transport


PARTS = [
    {"text": "I look. ", "thoughtSignature": "c2lnbmVk"},
    {**call("look", at="Rome"), "thoughtSignature": "b2YgY2FsbHM="},
    call("look", at="Oslo"),
    call("look", at="Rome"),
]
CALLS = reply(*PARTS)
DONE = reply({"text": "Done."})


def sent_back(transport: FakeTransport) -> list[Any]:
    """The turns after the prompt, in the latest request."""
    turns: list[Any] = transport.requests[-1].json()["contents"][1:]
    return turns


def responses(*outputs: str) -> dict[str, Any]:
    named = [{"name": "look", "response": {"output": one}} for one in outputs]
    return {"role": "user", "parts": [{"functionResponse": one} for one in named]}


class Looked:
    """A tool that counts its calls."""

    def __init__(self) -> None:
        self.places: list[str] = []

    def look(self, at: str) -> str:
        self.places.append(at)
        return f"{at} {len(self.places)}"


def test_calls_of_one_name_are_answered_in_their_order() -> None:
    """Also two that are the same in everything. Each signature goes back on its own part."""
    client, transport = client_of(CALLS, DONE)
    run = client.run(PROMPT, [Looked().look], parallel_tools=False)
    ids = [item.call.id for item in run if isinstance(item, ToolFinished)]
    assert len({*ids}) == 3
    assert all(ids)
    assert run.text == "Done."
    model, user = sent_back(transport)
    assert model == {"role": "model", "parts": PARTS}
    assert user == responses("Rome 1", "Oslo 2", "Rome 3")


def no_tool_runs() -> bool:
    return not any(thread.name == "llmstream-tool" for thread in other_threads())


def test_the_order_outlives_the_process() -> None:
    """Whatever the run had yielded before: each call was made once at most, and each outcome is
    that of its own call."""

    def answer(request: Recorded) -> Reply:
        return DONE if b"functionResponse" in request.body else CALLS

    client, _ = client_of(answer, answer)
    items = len([*client.run(PROMPT, [Looked().look])])
    for at in range(items + 1):
        looked = Looked()
        client, transport = client_of(answer, answer, answer)
        with client.run(PROMPT, [looked.look]) as run:
            for _ in islice(run, at):
                pass
        eventually(no_tool_runs, "the tools have ended")
        resumed = client.resume_run(as_stored(run.state()), [looked.look])
        again = [*resumed]
        assert resumed.text == "Done."
        assert sorted(looked.places) == ["Oslo", "Rome", "Rome"]
        assert not any(isinstance(one, ToolFinished) and not one.ok for one in again)
        model, user = sent_back(transport)
        assert model == {"role": "model", "parts": PARTS}
        told = [part["functionResponse"] for part in user["parts"]]
        assert [one["response"]["output"][:4] for one in told] == ["Rome", "Oslo", "Rome"]
        assert all("id" not in one for one in told)


def test_an_id_that_came_is_sent_and_none_else() -> None:
    """Of two calls in one turn."""
    own = {"functionCall": {"name": "look", "id": "c1", "args": {"at": "Oslo"}}}
    client, transport = client_of(reply(call("look", at="Rome"), own), DONE)
    client.run(PROMPT, [Looked().look], parallel_tools=False).result()
    told = [part["functionResponse"] for part in sent_back(transport)[1]["parts"]]
    assert [one.get("id") for one in told] == [None, "c1"]
    assert [one["response"] for one in told] == [{"output": "Rome 1"}, {"output": "Oslo 2"}]


def test_failures_are_objects_of_their_own() -> None:
    """What a failed call has, and one that is not known to have ended."""

    def look(at: str) -> dict[str, str]:
        if at == "Oslo":
            raise ToolError("No such town.")
        return {"at": at}

    client, transport = client_of(CALLS, DONE)
    client.run(PROMPT, [look]).result()
    told = [part["functionResponse"] for part in sent_back(transport)[1]["parts"]]
    assert [one["response"] for one in told] == [
        {"at": "Rome"},
        {"error": "No such town."},
        {"at": "Rome"},
    ]


def test_a_call_in_pieces_runs_once_it_has_ended() -> None:
    """As Vertex streams the arguments: they are shown as they come, and go back whole."""
    pieces = blocks(
        {"functionCall": {"name": "look", "willContinue": True}},
        *(
            {"functionCall": {"partialArgs": [{"jsonPath": "$.at", **piece}], "willContinue": True}}
            for piece in ({"stringValue": "Ro", "willContinue": True}, {"stringValue": "me"})
        ),
        {"functionCall": {}},
    )
    client, transport = client_of(Reply(pieces), DONE)
    looked = Looked()
    run = client.run(PROMPT, [looked.look])
    items = [*run]
    shown = [one.text for one in items if isinstance(one, Chunk) and one.type == "tool_call"]
    assert (len(shown) > 1, json.loads("".join(shown))) == (True, {"at": "Rome"})
    assert looked.places == ["Rome"]
    assert sent_back(transport) == [
        {"role": "model", "parts": [call("look", at="Rome")]},
        responses("Rome 1"),
    ]
    client, _ = client_of(Reply([*pieces[:-2], Cut()]))
    with pytest.raises(StreamInterrupted) as caught:
        client.run(PROMPT, [looked.look]).result()
    assert caught.value.partial.tool_calls == ()
    assert looked.places == ["Rome"]


def test_tools_of_the_service_are_shown_as_they_run() -> None:
    """Each round ends with a finish, and the answer goes on."""
    parts = [
        {"toolCall": {"toolType": "GOOGLE_SEARCH_WEB", "id": "s1", "args": {"queries": ["x"]}}},
        {"toolResponse": {"toolType": "GOOGLE_SEARCH_WEB", "id": "s1", "response": {}}},
        {"executableCode": {"language": "PYTHON", "code": "1/0"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_FAILED", "output": "ZeroDivisionError"}},
        {"text": "It cannot be done."},
    ]
    client, transport = client_of(Reply([*blocks(*parts[:3]), *blocks(*parts[3:])]), DONE)
    run = client.run(PROMPT, [{"codeExecution": {}}, {"googleSearch": {}}])
    shown = [(one.name, one.status, one.id) for one in run if isinstance(one, ToolProgress)]
    assert shown == [
        ("google_search_web", "in_progress", "s1"),
        ("google_search_web", "completed", "s1"),
        ("code_execution", "in_progress", None),
        ("code_execution", "failed", None),
    ]
    assert run.text == "It cannot be done."
    client.stream([*run.messages, {"role": "user", "content": "Why?"}]).result()
    assert sent_back(transport)[0] == {"role": "model", "parts": parts}
