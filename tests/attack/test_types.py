"""Wrong types: each field of each event of an answer is replaced in turn, in the three APIs. Each
answer ends as it was meant to, or in an error of the library's own: never with another text, never
with a call that is safe to run and was not made, never with a foreign exception.
"""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from corpus import is_json, own

from llmstream import LLMStreamError
from llmstream._core.dialects import APIS
from llmstream._core.session import Session
from llmstream._core.tool_calls import partition_calls
from llmstream.testing import Answer

pytestmark = pytest.mark.attack

Path = tuple[Any, ...]
Told = tuple[str, str, tuple[tuple[str, str], ...]]

GONE = object()
ODD: dict[str, Any] = {
    "left out": GONE,
    "null": None,
    "0": 0,
    "7": 7,
    "-1": -1,
    "huge": 10**30,
    "fraction": 1.5,
    "true": True,
    "false": False,
    "empty text": "",
    "text": "zz",
    "empty list": [],
    "list": ["zz", 7, None],
    "empty object": {},
    "object": {"zz": [7], "type": "zz"},
    "deep": [[[[[[{"zz": [[[]]]}]]]]]],
}
ANSWERS = {
    "text": Answer(["The ", "sky ", "is ", "blue."], thinking=["Look ", "up."]),
    "calls": Answer(
        ["Let ", "me."],
        tool_calls=[("get", '{"city":"Oslo"}'), ("put", '{"n":[1,2]}', "call_b")],
    ),
    "refusal": Answer("", refusal=["I ", "will ", "not."]),
}
TRANSCRIPTS = ("text", "tools_interleaved", "tools_custom", "no_indices")
END = b"data: [DONE]\n\n"
MOST = 2500  # cases of an API, chosen by a seed


def payloads(blocks: list[bytes]) -> list[tuple[str, Any]]:
    """Each event's name and its decoded JSON."""
    found = []
    for block in blocks:
        lines = block.decode().splitlines()
        name = next((line[7:] for line in lines if line.startswith("event: ")), "")
        data = next((line[6:] for line in lines if line.startswith("data: ")), "[DONE]")
        if data != "[DONE]":
            found.append((name, json.loads(data)))
    return found


def answers(api: str) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    for name, answer in ANSWERS.items():
        yield name, payloads(list(answer.blocks(api)))
    for recording in own() if api == "responses" else ():
        if recording.name in TRANSCRIPTS:
            blocks = [b for b in recording.data.split(b"\n\n") if b.strip()]
            yield recording.name, payloads(blocks)


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """The path of every field, of every object and list in it, too."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for key, one in inner:
        yield (*path, key)
        yield from paths(one, (*path, key))


def put(event: Any, path: Path, value: Any) -> Any:
    """The event with another value at this path."""
    changed = at = copy.deepcopy(event)
    for key in path[:-1]:
        at = at[key]
    if value is GONE:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return changed


def get(event: Any, path: Path) -> Any:
    for key in path:
        event = event[key]
    return event


def wire(events: list[tuple[str, Any]], api: str) -> bytes:
    heads = (f"event: {name}\n" if name else "" for name, _ in events)
    body = "".join(
        f"{head}data: {json.dumps(event)}\n\n"
        for head, (_, event) in zip(heads, events, strict=True)
    )
    return body.encode() + (END if api == "chat" else b"")


def read(api: str, data: bytes) -> tuple[Session, Told]:
    """The session, and the text, thinking and safe calls that it tells."""
    dialect = APIS[api].load()
    session = Session(dialect)
    chunks: dict[str, str] = {}
    for event in [*session.receive(data), *session.receive_eof()]:
        for chunk in event.chunks:
            chunks[chunk.type] = chunks.get(chunk.type, "") + chunk.text
    state = session.state
    if session.error is None:  # the reader has received what the state holds
        assert chunks.get("text", "") == state.text
        assert chunks.get("thinking", "") == state.thinking
    safe, _ = partition_calls(dialect.calls(state), state.finish == "length", is_json)
    calls = tuple((call.name, json.dumps(call.parsed())) for call in safe)
    return session, (state.text + state.refusal, state.thinking, calls)


def says(api: str, path: Path, before: Any, value: Any) -> bool:
    """Whether the change is one of what the service says, and not of its type: other words, or
    nothing where each chunk is a piece of the answer: in Chat Completions and Gemini."""
    if isinstance(value, str) and isinstance(before, (str, type(None))):
        return True
    if api != "responses" and value == ODD["object"] and not isinstance(before, str):
        return True  # a delta of a new kind
    if path[-1] == "content" and value == ODD["object"]:
        return True  # a part of a new kind
    if path[-1] == "index" and value in (0, 1):
        return True  # the index of another call
    if api == "gemini":
        if "args" in path or (path[-1] == "thought" and value in (0,)):
            return True  # arguments are JSON itself; text that is no thinking
        if path[-1] == "index" and isinstance(value, int):
            return True  # a piece of another candidate
    nothing = value is GONE or value in (None, "", [], {})
    return nothing and path[0] == {"chat": "choices", "gemini": "candidates"}.get(api)


@pytest.mark.parametrize("api", APIS)
def test_no_wrong_type_makes_another_answer(api: str) -> None:
    known = dict(answers(api))
    told = {}
    for name, events in known.items():
        session, told[name] = read(api, wire(events, api))
        assert session.error is None, (name, session.error)
    cases = [
        (name, place, path, odd)
        for name, events in known.items()
        for place, (_, event) in enumerate(events)
        for path in paths(event)
        for odd in ODD
    ]
    cases = random.Random(api).sample(cases, min(MOST, len(cases)))
    counts: Counter[str] = Counter()
    wrong: list[Any] = []
    for name, place, path, odd in cases:
        verdict, found = judged(api, known[name], told[name], place, path, ODD[odd])
        counts[verdict] += 1
        if verdict == "a lie":
            wrong.append((name, place, known[name][place][0], path, odd, found))
    print(f"{api}: {len(cases)} cases: {dict(counts)}")
    assert not wrong, (len(wrong), wrong[:20])
    assert len(cases) > 2000


def judged(
    api: str, events: list[tuple[str, Any]], told: Told, place: int, path: Path, value: Any
) -> tuple[str, Any]:
    """What becomes of the answer with another value at this path of the event at this place."""
    name, event = events[place]
    changed = [*events[:place], (name, put(event, path, value)), *events[place + 1 :]]
    session, found = read(api, wire(changed, api))
    safe = set(found[2]) <= set(told[2])
    if session.error is not None:
        true = isinstance(session.error, LLMStreamError) and safe
        return "an error" if true else "a lie", (session.error, found)
    if found == told:
        return "the same answer", found
    if says(api, path, get(event, path), value):
        return "another answer, as sent", found
    return "a call fewer" if found[:2] == told[:2] and safe else "a lie", found
