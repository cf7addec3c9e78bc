"""`useChat` with `resume: true` of the real AI SDK 5, 6 and 7 in Node, fed by a log: after a lost
connection, or a reload, it gets the whole answer again, or 204."""

from __future__ import annotations

from typing import Any

import pytest
from log_tools import Scripted, events_of, text_in
from relayed import in_node, node_packages
from support import PATIENCE

from llmstream import relay

pytestmark = [
    pytest.mark.node,
    pytest.mark.timeout(180),
    pytest.mark.usefixtures("nothing_left"),
]

ASKED = {"id": "u", "role": "user", "parts": [{"type": "text", "text": "Hello"}]}


@pytest.fixture(autouse=True)
def installed() -> None:
    node_packages()


def publish(log: Any, id: str, stream: Any, version: int) -> None:
    relay.publish(log, id, stream, "ui-message", version=version, interval=0.0)


def read_until(body: Any, text: str) -> bytes:
    data = b""
    for piece in body:
        data += piece
        if text in text_in(events_of(data)):
            break
    body.close()
    return data


def rest_of(body: Any) -> bytes:
    return b"".join(body)


@pytest.mark.parametrize("version", [5, 6, 7])
def test_the_answer_goes_on_in_the_page(version: int) -> None:
    log = relay.MemoryLog()
    stream = Scripted("Hello")
    publish(log, "a", stream, version)
    half = read_until(relay.follow(log, "a", heartbeat=0.01), "Hello").decode()
    stream.say(" world")
    stream.finish()
    whole = rest_of(relay.follow(log, "a", heartbeat=0.01)).decode()
    stopped = Scripted("Hello")
    publish(log, "stopped", stopped, version)
    read_until(relay.follow(log, "stopped"), "Hello")
    relay.stop(log, "stopped")
    told = rest_of(relay.follow(log, "stopped")).decode()
    assert relay.follow(log, "unknown").status == 204

    jobs = [
        {"steps": [{"do": "send", "body": half, "breaks": True}, {"do": "resume", "body": whole}]},
        {"steps": [{"do": "send", "body": half}, {"do": "resume", "body": whole}]},
        {"steps": [{"do": "resume", "body": whole}], "messages": [ASKED]},
        {"steps": [{"do": "resume", "status": 204}], "messages": [ASKED]},
        {"steps": [{"do": "send", "body": half}, {"do": "resume", "body": told}]},
    ]
    found = in_node("ai.mjs", f"ai{version}", [{"name": "one", **job} for job in jobs])
    for verdict in found[:3]:
        assert verdict["text"] == "Hello world"
        assert verdict["roles"] == ["user", "assistant"]
        assert verdict["status"] == "ready"
        assert verdict["metadata"]["complete"] is True
    nothing, cut = found[3:]
    assert nothing["roles"] == ["user"]
    assert cut["text"] == "Hello"
    assert not (cut["metadata"] or {}).get("complete")
    assert relay.follow(log, "a", heartbeat=PATIENCE)
