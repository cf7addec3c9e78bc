"""The words for an answer's end, where they mean no end or a broken one; and an end that a limit
made."""

from __future__ import annotations

import json
from typing import Any

import pytest
from every import every

from llmstream import Client, ServerError, StreamTruncated
from llmstream._core.dialects import APIS
from llmstream._core.finish import broken_off, finish_word
from llmstream._core.session import Session
from llmstream.errors import LLMStreamError
from llmstream.testing import Answer, FakeTransport, Reply

WORDS = ("abort", "aborted", "network_error", "error", "cancelled", "canceled", "Network Error")
SILENT = ("", "null", "None", " NULL ", "FINISH_REASON_UNSPECIFIED")


def with_reason(api: str, word: str) -> list[bytes]:
    """An answer of the API that ends with `word`."""
    blocks = [block.decode() for block in Answer("Hi there").blocks(api)]
    if api == "responses":
        incomplete = {"status": "incomplete", "incomplete_details": {"reason": word}}
        event = {"type": "response.incomplete", "response": {"id": "r", "output": [], **incomplete}}
        return [*(b.encode() for b in blocks[:-1]), f"data: {json.dumps(event)}\n\n".encode()]
    known = {"messages": '"end_turn"', "chat": '"stop"', "gemini": '"STOP"'}[api]
    assert any(known in block for block in blocks)
    return [block.replace(known, json.dumps(word)).encode() for block in blocks]


def played(api: str, blocks: list[bytes]) -> Session:
    session = Session(APIS[api].load())
    for block in blocks:
        session.receive(block)
    session.receive_eof()
    return session


@every("api", APIS)
@every("word", WORDS)
def test_a_broken_answer_is_an_error_on_every_api(api: str, word: str) -> None:
    """With what arrived before it, and without a finish."""
    session = played(api, with_reason(api, word))
    assert type(session.error) is ServerError
    assert (session.state.text, session.state.finish) == ("Hi there", None)


@every("api", APIS)
@every("word", SILENT)
def test_no_word_is_no_finish(api: str, word: str) -> None:
    """It never becomes the answer's finish."""
    session = played(api, with_reason(api, word))
    assert session.state.finish in (None, "incomplete")


@pytest.mark.parametrize("status", ["cancelled", "aborted"])
def test_a_completed_event_with_another_status(status: str) -> None:
    """The status of the response counts, not the name of the event."""
    event = {"type": "response.completed", "response": {"status": status, "output": []}}
    blocks = Answer("Hi there").blocks("responses")[:-1]
    session = played("responses", [*blocks, f"data: {json.dumps(event)}\n\n".encode()])
    assert isinstance(session.error, ServerError)
    assert session.state.text == "Hi there"


def test_a_json_answer_that_was_broken_off() -> None:
    """The same in one body."""
    message = {"role": "assistant", "content": "Hi"}
    chat = {"choices": [{"index": 0, "message": message, "finish_reason": "abort"}]}
    blocks = {"type": "message", "content": [{"type": "text", "text": "Hi"}]}
    for api, body in (("chat", chat), ("messages", {**blocks, "stop_reason": "abort"})):
        session = Session(APIS[api].load())
        session.receive_json(json.dumps(body).encode())
        assert isinstance(session.error, ServerError), api
        assert (session.state.text, session.state.finish) == ("Hi", None)


def test_a_json_answer_without_a_reason_is_whole() -> None:
    """JSON has an end of its own."""
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}]}
    session = Session(APIS["chat"].load())
    session.receive_json(json.dumps(body).encode())
    assert (session.error, session.complete, session.state.text) == (None, True, "Hi")


def test_a_message_in_which_nothing_came() -> None:
    """No block, no stop reason, no usage: not a success."""
    blocks = [
        b'data: {"type": "message_start", "message": {"id": "m", "content": []}}\n\n',
        b'data: {"type": "message_stop"}\n\n',
    ]
    assert isinstance(played("messages", blocks).error, StreamTruncated)
    reason = b'data: {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}\n\n'
    assert played("messages", [blocks[0], reason, blocks[1]]).error is None


def test_a_message_whose_only_block_is_empty() -> None:
    """A block that begins and stops, and nothing else: nothing came either."""
    events: list[Any] = [
        {"type": "message_start", "message": {"id": "m", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_stop"},
    ]
    blocks = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    assert isinstance(played("messages", blocks).error, StreamTruncated)
    tool = {"type": "tool_use", "id": "t", "name": "now", "input": {}}
    events[1] = {"type": "content_block_start", "index": 0, "content_block": tool}
    blocks = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    assert played("messages", blocks).error is None


def test_a_json_answer_in_which_nothing_came() -> None:
    """No text, no finish, no usage: not a success, though JSON has an end of its own."""
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": ""}}
    for reason, error in ((None, StreamTruncated), ("stop", None)):
        session = Session(APIS["chat"].load())
        session.receive_json(
            json.dumps({"choices": [{**choice, "finish_reason": reason}]}).encode()
        )
        assert isinstance(session.error, error) if error else session.error is None


def test_words() -> None:
    """What services send is compared without case and signs; other words pass."""
    broken = (
        "NETWORK-ERROR",
        "malformedFunctionCall",
        "UNEXPECTED_TOOL_CALL",
        "MALFORMED_RESPONSE",
    )
    for word in (*WORDS, *broken, "InternalServerError", "upstream_error", "failed", "Timeout"):
        assert isinstance(broken_off(word), LLMStreamError), word
    for word in ("stop", "errors", "abortive", "end_turn", "length", *SILENT, None):
        assert broken_off(word) is None, word
    assert [finish_word(word) for word in (*SILENT, None, "stop")] == [None] * 6 + ["stop"]


@every(
    ("limit", "profile", "options", "finish"),
    [
        (12, None, {"max_output_tokens": 12}, "length"),
        (12, None, {"extra_body": {"max_output_tokens": 12}}, "length"),
        (12, None, {"max_output_tokens": 13}, "stop"),
        (12, None, {}, "stop"),
        (12, "openai", {"max_output_tokens": 12}, "stop"),
        (12, "azure", {"max_output_tokens": 12}, "stop"),
    ],
)
def test_completed_with_exactly_the_limit_is_cut(
    limit: int, profile: str | None, options: dict[str, Any], finish: str
) -> None:
    """Servers that report "completed" where the limit has cut the answer; the vendor's own hosts
    are trusted."""
    end = {"status": "completed", "output": [], "usage": {"output_tokens": limit}}
    event = json.dumps({"type": "response.completed", "response": end})
    reply = Reply([*Answer("Hi there").blocks()[:-1], f"data: {event}\n\n".encode()])
    client = Client(
        base_url="http://test/v1",
        api_key="k",
        model="m",
        profile=profile,
        transport=FakeTransport(reply),
    )
    result = client.stream("Hi", **options).result()
    assert (result.text, result.finish) == ("Hi there", finish)
