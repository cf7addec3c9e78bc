"""What `Answer` becomes on the wire of Messages and Chat Completions, that the library reads it as
it was meant over each API, and the registry of the APIs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import requests
from corpus import WIRE, is_json
from every import every
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstream import AuthenticationError, Client, Result
from llmstream._core.dialects import APIS as ROWS
from llmstream._core.session import Session
from llmstream._core.tool_calls import partition_calls
from llmstream.testing import Answer, FakeClock, FakeTransport, LLMServer, Reply
from llmstream.testing.answers import (
    ENCODINGS,
    Encoding,
    ErrorSpec,
    api_of_path,
    encoding,
    register,
)
from llmstream.testing.answers.messages import SIGNATURE

APIS = ("responses", "messages", "chat", "gemini")
PATH = {
    "responses": "/responses",
    "messages": "/v1/messages",
    "chat": "/chat/completions",
    "gemini": "/models/m:streamGenerateContent?alt=sse",
}
FIELDS = WIRE / "messages_events.json"

TOOLS = Answer(tool_calls=[("look", '{"at": "it"}'), ("go", "{}", "call_x")])
EVERYTHING = Answer("See.", thinking="Let me.", refusal="No.", tool_calls=[("f", '{"a": 1}')])


def payloads(answer: Answer, api: str) -> list[Any]:
    """The data of each event, decoded; `[DONE]` stays as it is."""
    datas = [b.decode().rpartition("data: ")[2].strip() for b in answer.blocks(api)]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


def session_of(answer: Answer, api: str) -> Session:
    session = Session(ROWS[api].load())
    session.receive(b"".join(answer.blocks(api)))
    session.receive_eof()
    return session


def result_of(answer: Answer, api: str) -> Result:
    """What the library reads of the answer."""
    session = session_of(answer, api)
    state = session.state
    calls, broken = partition_calls(
        ROWS[api].load().calls(state), state.finish == "length", is_json
    )
    return Result(
        text=state.text,
        thinking=state.thinking,
        refusal=state.refusal,
        tool_calls=calls,
        incomplete_tool_calls=broken,
        finish=state.finish,
        usage=state.usage,
    )


# ---- Messages ----------------------------------------------------------------------------------


def kinds(answer: Answer) -> list[str]:
    """The event types, with the type of block or delta where there is one."""
    return [
        ":".join([p["type"], *_inner(p)]).replace("content_block_", "")
        for p in payloads(answer, "messages")
    ]


def _inner(payload: dict[str, Any]) -> list[str]:
    inner = payload.get("content_block") or payload.get("delta") or {}
    return [inner["type"]] if "type" in inner else []


def test_a_text_answer_is_the_stream_of_the_messages_api() -> None:
    """The events in the live order, each under its own name, and the fields of both ends."""
    answer = Answer("One two.", response_id="msg_9", model="m", usage=(7, 9, 3, 5))
    start, *_, ended, _stop = payloads(answer, "messages")
    assert kinds(answer) == [
        "message_start",
        "start:text",
        "ping",
        "delta:text_delta",
        "delta:text_delta",
        "stop",
        "message_delta",
        "message_stop",
    ]
    assert start["message"] == {
        "model": "m",
        "id": "msg_9",
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 1,
            "service_tier": "standard",
        },
    }
    assert ended["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert ended["usage"]["output_tokens"] == 9  # cumulative: it replaces the 1 of the start
    assert ended["usage"]["output_tokens_details"] == {"thinking_tokens": 5}
    for block, payload in zip(answer.blocks("messages"), payloads(answer, "messages"), strict=True):
        assert block.startswith(f"event: {payload['type']}\ndata: ".encode())


def test_all_blocks_of_the_messages_api() -> None:
    """Thinking with its signature at the end, text, the refusal as text, and each call: one block
    after the other."""
    assert kinds(EVERYTHING) == [
        "message_start",
        "start:thinking",
        "ping",
        "delta:thinking_delta",
        "delta:thinking_delta",
        "delta:signature_delta",
        "stop",
        "start:text",
        "delta:text_delta",
        "stop",
        "start:text",
        "delta:text_delta",
        "stop",
        "start:tool_use",
        *["delta:input_json_delta"] * 6,
        "stop",
        "message_delta",
        "message_stop",
    ]
    events = payloads(EVERYTHING, "messages")
    assert [e["index"] for e in events if e["type"] == "content_block_start"] == [0, 1, 2, 3]
    assert [e["index"] for e in events if e["type"] == "content_block_stop"] == [0, 1, 2, 3]
    assert [e["delta"] for e in events if e.get("delta", {}).get("type") == "signature_delta"] == [
        {"type": "signature_delta", "signature": SIGNATURE}
    ]


def test_tool_calls_of_the_messages_api() -> None:
    """An empty piece comes first, and is all there is of a call without arguments."""
    events = payloads(TOOLS, "messages")
    starts = [e["content_block"] for e in events if e["type"] == "content_block_start"]
    pieces: dict[int, list[str]] = {0: [], 1: []}
    for event in events:
        if event["type"] == "content_block_delta":
            pieces[event["index"]].append(event["delta"]["partial_json"])
    assert starts == [
        {"type": "tool_use", "id": "call_test_0", "name": "look", "input": {}},
        {"type": "tool_use", "id": "call_x", "name": "go", "input": {}},
    ]
    assert pieces[0][0] == ""
    assert "".join(pieces[0]) == '{"at": "it"}'
    assert pieces[1] == [""]


def test_every_messages_event_has_the_fields_that_the_vendor_requires() -> None:
    """Checked against the table of fields from the vendor's own package."""
    if not FIELDS.exists():
        pytest.skip(f"{FIELDS} is absent")
    table = json.loads(FIELDS.read_text())

    def required(row: dict[str, Any]) -> set[str]:
        return {field["name"] for field in row["fields"] if field["required"]}

    for event in [*payloads(EVERYTHING, "messages"), *payloads(TOOLS, "messages")]:
        kind = event["type"]
        if kind != "ping":  # the package drops it
            assert required(table["stream_events"][kind]) <= set(event), kind
        if kind == "content_block_start":
            block = event["content_block"]
            assert required(table["content_block_start_types"][block["type"]]) <= set(block)
        if kind == "content_block_delta":
            delta = event["delta"]
            assert required(table["delta_types"][delta["type"]]) <= set(delta)


# ---- Chat Completions --------------------------------------------------------------------------


def deltas(answer: Answer) -> list[Any]:
    """The delta of each chunk that has a choice."""
    return [
        chunk["choices"][0]["delta"]
        for chunk in payloads(answer, "chat")
        if chunk != "[DONE]" and chunk.get("choices")
    ]


def test_a_text_answer_is_the_stream_of_the_chat_api() -> None:
    """The role, the text, the finish, the usage beside no choice, the end; no event lines."""
    answer = Answer("One two.", response_id="chatcmpl-9", model="m", usage=(7, 9, 3, 5))
    *chunks, usage, done = payloads(answer, "chat")
    assert deltas(answer) == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "One"},
        {"content": " two."},
        {},
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, None, "stop"]
    assert {(c["id"], c["model"], c["object"]) for c in [*chunks, usage]} == {
        ("chatcmpl-9", "m", "chat.completion.chunk")
    }
    assert all(c["usage"] is None for c in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["prompt_tokens"] == 7
    assert usage["usage"]["completion_tokens"] == 9
    assert usage["usage"]["total_tokens"] == 16
    assert usage["usage"]["prompt_tokens_details"]["cached_tokens"] == 3
    assert usage["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5
    assert done == "[DONE]"
    assert not any(b"event:" in block for block in answer.blocks("chat"))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            Answer(thinking="a b"),
            [
                {"role": "assistant", "content": None, "reasoning_content": ""},
                {"content": None, "reasoning_content": "a"},
                {"content": None, "reasoning_content": " b"},
            ],
        ),
        (
            Answer(refusal="No."),
            [{"role": "assistant", "content": None, "refusal": ""}, {"refusal": "No."}],
        ),
        (
            Answer(tool_calls=[("f", "{}", "c1")]),
            [
                {"role": "assistant", "content": None},
                {
                    "tool_calls": [
                        {
                            "index": 0,
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "f", "arguments": ""},
                        }
                    ]
                },
                {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
            ],
        ),
        (Answer(), [{"role": "assistant", "content": "", "refusal": None}]),
    ],
)
def test_deltas_of_the_chat_api(answer: Answer, expected: list[Any]) -> None:
    """Each kind of content in its own field, the role's chunk before it."""
    assert deltas(answer) == [*expected, {}]


def test_parallel_calls_of_the_chat_api() -> None:
    """The index tells them apart; id and name come once."""
    pieces = [d["tool_calls"][0] for d in deltas(TOOLS) if "tool_calls" in d]
    named = [p for p in pieces if "id" in p]
    assert [(p["index"], p["id"], p["function"]["name"]) for p in named] == [
        (0, "call_test_0", "look"),
        (1, "call_x", "go"),
    ]
    for index, whole in enumerate(['{"at": "it"}', "{}"]):
        parts = [p["function"]["arguments"] for p in pieces if p["index"] == index]
        assert "".join(parts) == whole


# ---- what they share ---------------------------------------------------------------------------


@every(
    ("answer", "messages", "chat"),
    [
        (Answer("x"), "end_turn", "stop"),
        (Answer("x", finish="length"), "max_tokens", "length"),
        (Answer("x", finish="content_filter"), "refusal", "content_filter"),
        (Answer("x", finish="tool_calls"), "tool_use", "tool_calls"),
        (TOOLS, "tool_use", "tool_calls"),
        (Answer(tool_calls=[("f", "{}")], finish="length"), "max_tokens", "length"),
    ],
)
def test_the_ending_in_each_apis_words(answer: Answer, messages: str, chat: str) -> None:
    """An answer with tool calls ends as a service ends such a one, unless it says why else."""
    *_, ended, _stop = payloads(answer, "messages")
    assert ended["delta"]["stop_reason"] == messages
    finished = [c for c in payloads(answer, "chat")[:-1] if c["choices"]][-1]
    assert finished["choices"][0]["finish_reason"] == chat


@pytest.mark.parametrize("api", ["messages", "chat"])
def test_no_usage_is_no_usage(api: str) -> None:
    """With usage=None the word does not occur."""
    assert all(b"usage" not in block for block in Answer("x", usage=None).blocks(api))


@pytest.mark.parametrize(
    ("error", "messages", "chat"),
    [
        (
            {"type": "overloaded_error", "message": "busy"},
            {"details": None, "type": "overloaded_error", "message": "busy"},
            {"type": "overloaded_error", "message": "busy", "code": None, "param": None},
        ),
        (
            {"code": "rate_limit_exceeded"},
            {"details": None, "type": "rate_limit_exceeded", "message": "a scripted error"},
            {
                "code": "rate_limit_exceeded",
                "type": None,
                "param": None,
                "message": "a scripted error",
            },
        ),
        (
            {},
            {"details": None, "type": "api_error", "message": "a scripted error"},
            {"code": None, "type": None, "param": None, "message": "a scripted error"},
        ),
    ],
)
def test_an_error_in_each_apis_words(
    error: dict[str, str], messages: dict[str, Any], chat: dict[str, Any]
) -> None:
    """Before any content it is the first and only event."""
    answer = Answer(error=error)
    assert answer.blocks("messages")[0].startswith(b"event: error\n")
    assert payloads(answer, "messages") == [
        {"type": "error", "error": messages, "request_id": "req_test"}
    ]
    assert payloads(answer, "chat") == [{"error": chat}]


def test_an_error_after_content_leaves_the_block_open() -> None:
    """The content stands; the last block is neither stopped nor signed, and nothing follows."""
    error = {"type": "overloaded_error"}
    assert kinds(Answer("a", thinking="b", error=error))[-4:] == [
        "stop",
        "start:text",
        "delta:text_delta",
        "error",
    ]
    assert kinds(Answer(thinking="b", error=error)) == [
        "message_start",
        "start:thinking",
        "ping",
        "delta:thinking_delta",
        "error",
    ]
    *chunks, last = payloads(Answer("a b", error=error), "chat")
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, None]
    assert set(last) == {"error"}


@pytest.mark.parametrize("api", APIS)
def test_the_same_bytes_every_time(api: str) -> None:
    """No clock and no random numbers."""
    assert EVERYTHING.blocks(api) == EVERYTHING.blocks(api)


# ---- the library reads it as it was meant ------------------------------------------------------

_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
_CALL = st.tuples(
    st.sampled_from(["f", "g"]), st.dictionaries(_TEXT, _TEXT, max_size=2).map(json.dumps)
)
_SAID = {
    "text": _TEXT,
    "thinking": _TEXT,
    "refusal": _TEXT,
    "usage": st.one_of(st.none(), st.tuples(*[st.integers(0, 10**9)] * 4)),
}
_ANSWERS = st.one_of(
    st.builds(Answer, **_SAID, finish=st.sampled_from(["stop", "length", "content_filter"])),
    # a call in an answer that was cut by a limit may be half a call
    st.builds(Answer, **_SAID, tool_calls=st.lists(_CALL, min_size=1, max_size=3)),
)


def _compact(text: str) -> str:
    return msgspec.json.encode(msgspec.json.decode(text)).decode()


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(answer=_ANSWERS)
def test_any_answer_is_read_as_it_was_meant(api: str, answer: Answer) -> None:
    """Text, thinking, calls, the end and the usage survive the way through each API."""
    session = session_of(answer, api)
    result = result_of(answer, api)
    assert (session.complete, session.error) == (True, None)
    joined = "".join(answer.text_deltas), "".join(answer.refusal_deltas)
    has_refusals = api not in ("messages", "gemini")  # elsewhere its words are text
    expected = joined if has_refusals else ("".join(joined), "")
    assert (result.text, result.refusal) == expected
    assert result.thinking == "".join(answer.thinking_deltas)
    calls = [(c.call_id, c.name, c.arguments) for c in answer.calls]
    if api == "gemini":  # arguments are an object there, and not its text
        calls = [(id, name, _compact(text)) for id, name, text in calls]
    assert [(c.id, c.name, c.arguments) for c in result.tool_calls] == calls
    filtered = {"messages": "refusal"}.get(api, "content_filter")
    ends = {"stop": "tool_calls" if answer.tool_calls else "stop", "content_filter": filtered}
    assert result.finish == ends.get(answer.finish, answer.finish)
    usage = result.usage
    expected = answer.token_counts or (None, None, None, None)
    if api == "gemini":  # a part that is 0 is left out there
        expected = (*expected[:2], *(number or None for number in expected[2:]))
    assert expected == (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
    )


@pytest.mark.parametrize("api", APIS)
def test_an_answer_that_fails_fails(api: str) -> None:
    """In each API the error is the library's error of the same class, after the same text."""
    session = session_of(Answer("a b", error={"type": "overloaded_error", "message": "m"}), api)
    assert type(session.error).__name__ == "OverloadedError"
    assert session.state.text == "a b"
    assert not session.complete


# ---- the tables, and where the APIs live -------------------------------------------------------


def test_each_api_of_the_library_is_registered() -> None:
    """Under its own name, with the base path and the prompt's field of the library's own row."""
    assert set(APIS) == set(ENCODINGS) == set(ROWS)
    for api, row in ENCODINGS.items():
        assert row.api == api
        assert row.base_path == ROWS[api].base_path
        assert row.prompt_field == ROWS[api].prompt_fields[0]


@every(
    ("target", "api"),
    [
        ("/v1/messages", "messages"),
        ("/v1/messages?beta=true", "messages"),
        ("/anthropic/v1/messages/", "messages"),
        ("/messages", None),
        ("/v1/messages/count_tokens", None),
        ("/v1/chat/completions", "chat"),
        ("/openai/deployments/d/chat/completions?api-version=1", "chat"),
        ("/v1/completions", None),
    ],
)
def test_paths(target: str, api: str | None) -> None:
    """The end of the path decides."""
    assert api_of_path(target) == api


@pytest.mark.parametrize(
    ("api", "path"),
    [("responses", "/v1"), ("messages", ""), ("chat", "/v1"), ("gemini", "/v1beta")],
)
def test_base_urls(server: LLMServer, api: str, path: str) -> None:
    """Each API's base_url is in its vendor's own form."""
    assert encoding(api).base_path == path
    assert server.base_url_for(api) == server.url + path
    assert (path == "/v1") == (server.base_url_for(api) == server.base_url)


def test_an_unknown_api_is_refused(server: LLMServer) -> None:
    """With the known ones in the sentence."""
    for refused in (
        lambda: Answer().blocks("telepathy"),
        lambda: encoding("telepathy"),
        lambda: ErrorSpec(500).document("telepathy"),
        lambda: Reply.error(500, api="telepathy"),
        lambda: server.base_url_for("telepathy"),
    ):
        with pytest.raises(
            ValueError, match=r"'telepathy'; there are: chat, gemini, messages, responses"
        ):
            refused()


@pytest.mark.parametrize("api", APIS)
def test_an_answer_is_served_at_the_apis_own_address(server: LLMServer, api: str) -> None:
    """The same scripted Answer speaks the API of the path that is asked."""
    server.script(TOOLS)
    response = requests.post(server.base_url_for(api) + PATH[api], json={})
    assert response.content == b"".join(TOOLS.blocks(api))
    assert response.headers["content-type"] == "text/event-stream"


# ---- errors with an HTTP status ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("api", "fields", "body", "headers"),
    [
        (
            "messages",
            {"request_id": "req_1"},
            {
                "type": "error",
                "error": {"type": "overloaded_error", "message": "a scripted error"},
                "request_id": "req_1",
            },
            {"request-id": "req_1"},
        ),
        (
            "messages",
            {"type": "t", "message": "m"},
            {"type": "error", "error": {"type": "t", "message": "m"}, "request_id": None},
            {},
        ),
        (
            "chat",
            {"code": "c", "request_id": "req_1"},
            {"error": {"message": "a scripted error", "type": None, "param": None, "code": "c"}},
            {"x-request-id": "req_1"},
        ),
        (
            "responses",
            {"type": "t", "message": "m", "param": "p"},
            {"error": {"message": "m", "type": "t", "param": "p", "code": None}},
            {},
        ),
    ],
)
def test_http_errors_in_each_apis_shape(
    api: str, fields: dict[str, str], body: dict[str, Any], headers: dict[str, str]
) -> None:
    """Body and header of the request's id as the vendor sends them."""
    assert ErrorSpec(529, **fields).document(api) == (body, headers)


@every(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
        (503, "api_error"),
    ],
)
def test_the_type_of_a_messages_error_follows_its_status(status: int, kind: str) -> None:
    """As the reference "Errors" lists them; anything else is an api_error."""
    body, _ = ErrorSpec(status).document("messages")
    assert body["error"]["type"] == kind


@every(
    ("fields", "kind"),
    [
        ({"code": "context_length_exceeded"}, "invalid_request_error"),
        ({"code": "insufficient_quota"}, "billing_error"),
        ({"code": "invalid_api_key"}, "authentication_error"),
        ({"code": "model_not_found"}, "not_found_error"),
        ({"code": "rate_limit_exceeded"}, "rate_limit_error"),
        ({"code": "a_word_of_nobody"}, "a_word_of_nobody"),
        ({"code": "rate_limit_exceeded", "type": "t"}, "t"),
    ],
)
def test_a_code_is_put_in_the_words_of_messages(fields: dict[str, str], kind: str) -> None:
    """The API lacks codes: one that it has a type for becomes that type; a given type wins."""
    body, _ = ErrorSpec(400, **fields).document("messages")
    assert body["error"] == {"type": kind, "message": "a scripted error"}


# ---- the registry ------------------------------------------------------------------------------


PARROT = Encoding(
    api="parrot",
    path="/speak",
    base_path="/v9",
    prompt_field="hear",
    encode=lambda answer: [(None, {"says": answer.text})],
)


@pytest.fixture
def parrot() -> Iterator[None]:
    register(PARROT)
    yield
    del ENCODINGS["parrot"]


@pytest.mark.usefixtures("parrot")
def test_a_registered_api_is_found_by_its_name_and_its_path() -> None:
    """And an answer can be encoded for it."""
    assert encoding("parrot") is PARROT
    assert api_of_path("/v9/speak?loud=1") == "parrot"
    assert Answer("Hi").blocks("parrot") == [b'data: {"says":"Hi"}\n\n']


@pytest.mark.usefixtures("parrot")
def test_an_api_without_a_form_of_its_own_has_the_common_one() -> None:
    """Errors as most services write them, and a comment as a ping."""
    error = ErrorSpec(503, code="hoarse", request_id="req_1")
    assert error.document("parrot") == error.document("chat")
    assert PARROT.ping == b": ping\n\n"


@pytest.mark.usefixtures("parrot")
def test_a_name_is_registered_once() -> None:
    """A second row of the same name is a mistake, and does not replace the first."""
    with pytest.raises(ValueError, match="'parrot' is registered already"):
        register(dataclasses.replace(PARROT, path="/shout"))
    assert encoding("parrot") is PARROT


def test_an_api_that_is_not_registered_is_not_known() -> None:
    """The fixture above leaves nothing behind."""
    with pytest.raises(ValueError, match="no encoder for the API 'parrot'"):
        encoding("parrot")


@pytest.mark.parametrize("api", APIS)
def test_a_ping_carries_nothing(api: str) -> None:
    """In the middle of a stream it changes neither the answer nor its end."""
    blocks = EVERYTHING.blocks(api)
    session = Session(ROWS[api].load())
    session.receive(b"".join([*blocks[:5], encoding(api).ping, *blocks[5:]]))
    session.receive_eof()
    assert (session.complete, session.error) == (True, None)
    assert session.state.text == session_of(EVERYTHING, api).state.text


# ---- the API of an error -----------------------------------------------------------------------


@pytest.mark.parametrize("api", APIS)
def test_an_error_takes_the_api_of_the_requests_path(server: LLMServer, api: str) -> None:
    """Body and header, without the script naming the API."""
    error = ErrorSpec(429, code="rate_limit_exceeded", message="slowly", request_id="req_7")
    server.script(
        Reply.error(429, code="rate_limit_exceeded", message="slowly", request_id="req_7")
    )
    response = requests.post(server.url + encoding(api).base_path + PATH[api], json={})
    body, identity = error.document(api)
    assert (response.status_code, response.json()) == (429, body)
    assert identity.items() <= response.headers.items()


def test_an_error_that_names_its_api_keeps_it(server: LLMServer) -> None:
    """Whatever the path."""
    server.script(Reply.error(529, api="messages"))
    body = requests.post(server.base_url + "/responses", json={}).json()
    assert body["error"] == {"type": "overloaded_error", "message": "a scripted error"}


def test_an_error_on_a_path_of_no_api(server: LLMServer) -> None:
    """It has the common form."""
    server.script(Reply.error(404, code="nothing_here"))
    assert requests.get(server.url + "/elsewhere").json()["error"]["code"] == "nothing_here"


def test_the_double_writes_errors_as_the_server_does() -> None:
    """The type that Messages derives from the status arrives in the library's error."""
    transport = FakeTransport(Reply.error(401, request_id="req_9"))
    client = Client("messages", base_url="http://test", transport=transport, clock=FakeClock())
    with pytest.raises(AuthenticationError) as caught:
        client.stream("Hi").result()
    assert (caught.value.type, caught.value.request_id) == ("authentication_error", "req_9")
