"""Turns in the form of one API, sent to another; the ids of calls; the outputs of tools."""

from __future__ import annotations

import contextlib
import json
import pickle
from dataclasses import dataclass
from typing import Any

import pytest
from corpus import PROPERTY
from every import every
from hypothesis import given, settings
from hypothesis import strategies as st
from request_rules import RULES
from support import cpu_seconds

from llmstream import Client, Result, ToolCall
from llmstream._core.dialects import APIS
from llmstream._core.dialects.profiles import PROFILES
from llmstream._core.dialects.turns.ids import CallIds
from llmstream._core.outcome import Approval, ToolOutcome
from llmstream._core.request import Request
from llmstream.errors import ConfigurationError
from llmstream.testing import FakeClock, FakeTransport, Reply

PNG = b"\x89PNG\r\n\x1a\nxx"
PNG_URL = "data:image/png;base64,iVBORw0KGgp4eA=="


def own(api: str, *turns: Any, profile: str | None = None) -> list[Any]:
    dialect = APIS[api].load()
    if profile is not None:
        dialect = dialect.with_profile(PROFILES[profile])
    return dialect.own_turns(turns)


def called(id: str = "a", name: str = "f", arguments: str = "{}") -> dict[str, Any]:
    """A call in the form of Chat Completions."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def asked(*calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


MESSAGES = [
    {"role": "user", "content": [{"type": "text", "text": "Compare"}]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Let me", "signature": "SIG"},
            {"type": "redacted_thinking", "data": "ENC"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "get", "input": {"x": 1}},
            {"type": "tool_use", "id": "t2", "name": "now", "input": {}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "1"},
            {
                "type": "tool_result",
                "tool_use_id": "t2",
                "is_error": True,
                "content": [
                    {"type": "text", "text": "broken"},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": "aGk="},
                    },
                ],
            },
            {"type": "text", "text": "Go on"},
        ],
    },
]


def test_messages_to_chat() -> None:
    """Outputs are texts there: pictures follow after all of them, before what the user says."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    _, answer, one, two, shown, question = own("chat", *MESSAGES)
    assert answer == {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [called("t1", "get", '{"x":1}'), called("t2", "now")],
    }
    assert one == {"role": "tool", "tool_call_id": "t1", "content": "1"}
    assert two["content"] == "Error:\nbroken\n(What it has beside text follows.)"
    assert shown["content"][1] == picture
    assert question == {"role": "user", "content": [{"type": "text", "text": "Go on"}]}


def test_messages_to_responses() -> None:
    made = own("responses", *MESSAGES)
    RULES["responses"](made)
    assert made[1] == {"role": "assistant", "content": "I look."}
    assert made[2] == {
        "type": "function_call",
        "call_id": "t1",
        "name": "get",
        "arguments": '{"x":1}',
    }
    assert made[5]["output"] == [
        {"type": "input_text", "text": "Error:"},
        {"type": "input_text", "text": "broken"},
        {"type": "input_image", "image_url": "data:image/png;base64,aGk="},
    ]
    assert "SIG" not in json.dumps(made)


RESPONSES = [
    {"role": "user", "content": [{"type": "input_text", "text": "Compare"}]},
    {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "ENC"},
    {
        "type": "message",
        "id": "msg",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
    },
    {"type": "web_search_call", "id": "ws", "status": "completed"},
    {"type": "function_call", "call_id": "c1", "name": "get", "arguments": '{"x":1}'},
    {"type": "custom_tool_call", "call_id": "c2", "name": "sql", "input": "select 1"},
    {"type": "function_call_output", "call_id": "c1", "output": "1"},
    {"type": "custom_tool_call_output", "call_id": "c2", "output": "2"},
    {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
]


def test_responses_to_messages() -> None:
    """The items of one answer are one turn, and so are the outputs."""
    _, answer, results, refusal = own("messages", *RESPONSES)
    assert [block["type"] for block in answer["content"]] == ["text", "tool_use", "tool_use"]
    assert answer["content"][2]["input"] == {"input": "select 1"}
    assert [block["tool_use_id"] for block in results["content"]] == ["c1", "c2"]
    assert refusal["content"] == [{"type": "text", "text": "No."}]


def test_responses_to_chat() -> None:
    """Free text as arguments stays free text."""
    made = own("chat", *RESPONSES)
    RULES["chat"](made)
    assert made[1]["tool_calls"][1] == {
        "id": "c2",
        "type": "custom",
        "custom": {"name": "sql", "input": "select 1"},
    }
    assert made[-1] == {"role": "assistant", "content": "No."}


def test_texts_are_joined_as_they_were_said() -> None:
    """Citations cut a text into blocks; a call or a search ends a paragraph."""
    blocks = [
        {"type": "text", "text": "The sky is "},
        {"type": "text", "text": "blue", "citations": [{"type": "char_location"}]},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "sky"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "text", "text": "It is so by day."},
    ]
    (turn,) = own("chat", {"role": "assistant", "content": blocks})
    assert turn["content"] == "The sky is blue\n\nIt is so by day."


RAN = [
    {"type": "code_interpreter_call", "id": "c", "code": "1+1", "outputs": [{"logs": "2"}]},
    {"type": "mcp_call", "id": "m", "name": "find", "arguments": "{}", "output": "2"},
]
EXECUTED = [
    {"type": "server_tool_use", "id": "s", "name": "code_execution", "input": {"code": "1+1"}},
    {
        "type": "code_execution_tool_result",
        "tool_use_id": "s",
        "content": {"type": "code_execution_result", "stdout": "2", "stderr": "", "content": []},
    },
]


@every(
    ("turns", "words"),
    [
        (RAN[:1], ["```python\n1+1\n```", "(Its output:)\n```\n2\n```"]),
        (RAN[1:], ["(A call of the tool find:)", "(Its output:)\n```\n2\n```"]),
        ([{"role": "assistant", "content": EXECUTED}], ["```python\n1+1\n```", "```\n2\n```"]),
        (
            [{"type": "image_generation_call", "revised_prompt": "A cat", "result": "aGk="}],
            ["(A picture was made:)\n```\nA cat\n```"],
        ),
    ],
)
def test_what_a_service_ran_becomes_text(turns: list[Any], words: list[str]) -> None:
    """The next question may be about it."""
    (turn,) = own("chat", *turns)
    assert turn["role"] == "assistant"
    for word in words:
        assert word in turn["content"]


@every("api", RULES)
def test_what_stays_with_its_service(api: str) -> None:
    """Also what no version of the library knows, where it cannot be the API's own."""
    foreign = {
        "chat": [RESPONSES[1], RESPONSES[3], {"type": "new_call", "id": "n"}],
        "messages": [RESPONSES[1], RESPONSES[3], {"type": "new_call", "id": "n"}],
        "gemini": [RESPONSES[1], RESPONSES[3], {"type": "new_call", "id": "n"}],
        "responses": [{"role": "assistant", "content": [*MESSAGES[1]["content"][:2]]}],
    }[api]
    assert own(api, *foreign) == []


def test_tools_that_an_api_has_defined() -> None:
    """The caller runs them: they are calls of functions elsewhere."""
    items = [
        {"type": "shell_call", "call_id": "s", "action": {"commands": ["ls"]}},
        {"type": "shell_call_output", "call_id": "s", "output": [{"stdout": "a", "stderr": ""}]},
    ]
    made = own("chat", *items)
    assert made[0]["tool_calls"] == [called("s", "shell", '{"action":{"commands":["ls"]}}')]
    assert json.loads(made[1]["content"]) == [{"stdout": "a", "stderr": ""}]


@every(
    ("api", "turn"),
    [
        ("chat", {"type": "item_reference", "id": "i"}),
        ("chat", {"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}),
        ("chat", {"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}),
        (
            "responses",
            {"role": "user", "content": [{"type": "image", "source": {"file_id": "f"}}]},
        ),
        ("messages", {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}),
    ],
)
def test_what_only_its_service_knows_is_refused(api: str, turn: Any) -> None:
    """What a user has shown is not left out in silence."""
    with pytest.raises(ConfigurationError, match="only the service knows"):
        own(api, turn)


def test_fields_of_another_api_are_left_out() -> None:
    """Of an answer that an SDK has written whole to a dict, say."""
    dump = {"role": "assistant", "content": "Hi", "refusal": None, "reasoning_content": "Hm"}
    assert own("messages", dump) == own("responses", dump)
    assert own("messages", dump) == [{"role": "assistant", "content": "Hi"}]
    item = {"type": "message", "id": "m", "status": "completed", "role": "user", "content": "Hi"}
    assert own("messages", item) == own("chat", item) == [{"role": "user", "content": "Hi"}]
    assert own("chat", dump) == [dump]


def test_the_calls_of_before_there_were_several() -> None:
    old = [
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
    ]
    made = own("messages", *old)
    RULES["messages"](made)
    assert made[1]["content"][0]["content"] == "1"


@every("profile", ["deepseek", "kimi"])
def test_reasoning_for_those_who_want_it_back(profile: str) -> None:
    """They refuse a turn with calls that has none."""
    (turn,) = own("chat", MESSAGES[1], profile=profile)
    assert turn["reasoning_content"] == "Let me"
    (turn,) = own("chat", MESSAGES[1])
    assert "reasoning_content" not in turn


def test_a_document_of_text_is_a_text() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "a ``` b"}
    block = {"type": "document", "title": "notes", "source": source}
    (turn,) = own("chat", {"role": "user", "content": [block]})
    assert turn["content"] == [{"type": "text", "text": "(notes:)\n````\na ``` b\n````"}]


# ---- ids ---------------------------------------------------------------------------------------


def ids_of(api: str, turns: list[Any]) -> list[str]:
    """The ids of calls and outputs, in the order of the request."""
    made = [
        ("tool_calls", lambda turn: [call["id"] for call in turn["tool_calls"]]),
        ("tool_call_id", lambda turn: [turn["tool_call_id"]]),
        ("call_id", lambda turn: [turn["call_id"]]),
    ]
    if api == "messages":
        return [
            block.get("id") or block["tool_use_id"]
            for turn in turns
            for block in turn["content"]
            if block["type"] != "text"
        ]
    return [id for turn in turns for key, ids in made if key in turn for id in ids(turn)]


LONG = "call_" + "x" * 80
KIMI = "functions.get_weather:0"


@every(
    ("api", "profile", "id", "kept"),
    [
        ("chat", "openai", "x" * 40, True),
        ("chat", "openai", "x" * 41, False),
        ("chat", None, "x" * 41, False),
        ("chat", None, KIMI, True),
        ("chat", "mistral", "call_1", False),
        ("chat", "mistral", "abcDEF123", True),
        ("messages", None, KIMI, False),
        ("messages", None, "toolu_01-A", True),
        ("messages", None, "é" * 9, False),
        ("responses", None, KIMI, True),
        ("responses", None, "x" * 64, True),
        ("responses", None, LONG, False),
        ("chat", None, "", False),
    ],
)
def test_ids_fit(api: str, profile: str | None, id: str, kept: bool) -> None:
    turns = [asked(called(id)), {"role": "tool", "tool_call_id": id, "content": "1"}]
    made = own(api, *turns, profile=profile)
    first, second = ids_of(api, made)
    assert first == second
    assert (first == id) is kept
    assert own(api, *turns, profile=profile) == made  # the same in every request
    assert own(api, *made, profile=profile) == made
    RULES[api](made)


def test_an_id_twice() -> None:
    """Some services number the calls of each answer from 0. Messages takes each id once."""
    turns = []
    for number in range(3):
        turns += [
            asked(called("call_0"), called("call_1")),
            {"role": "tool", "tool_call_id": "call_0", "content": f"{number}a"},
            {"role": "tool", "tool_call_id": "call_1", "content": f"{number}b"},
        ]
    for api in RULES:
        made = own(api, *turns)
        RULES[api](made)
        assert own(api, *turns[:3]) == made[: len(own(api, *turns[:3]))]  # what came before stays
    assert own("chat", *turns) == turns


def test_the_same_id_in_one_answer() -> None:
    """The outputs are in the order of the calls."""
    turns = [
        asked(called(""), called("")),
        {"role": "tool", "tool_call_id": "", "content": "1"},
        {"role": "tool", "tool_call_id": "", "content": "2"},
    ]
    for api in RULES:
        made = own(api, *turns)
        RULES[api](made)
        if api == "gemini":  # it has no ids there: the order counts
            responses = [part["functionResponse"]["response"] for part in made[1]["parts"]]
            assert responses == [{"output": "1"}, {"output": "2"}]
            continue
        one, two, *outputs = ids_of(api, made)
        assert [one, two] == outputs
        assert one != two


def test_an_output_without_its_call_keeps_its_id() -> None:
    """The call may be in a response that the service has stored."""
    item = {"type": "function_call_output", "call_id": LONG, "output": "1"}
    assert own("responses", item) == [item]


def test_made_ids_are_nobodys() -> None:
    ids = CallIds("[a-z0-9]{9}", True)
    made = [ids.call(f"{number}!") for number in range(2000)]
    assert len(set(made)) == 2000
    fresh = CallIds("[a-z0-9]{9}", True)
    assert fresh.call("0!") == made[0]
    assert fresh.call(made[0]) != made[0]  # a service's own, that is the same by chance


# ---- outputs -----------------------------------------------------------------------------------


@dataclass
class City:
    name: str
    sizes: list[int]


class Drawing:
    """As Pillow's images show themselves in a notebook."""

    def _repr_png_(self) -> bytes:
        return PNG


PICTURE = {"type": "image_url", "image_url": {"url": PNG_URL}}


@every(
    ("value", "content"),
    [
        ("Sunny", "Sunny"),
        (b"Sunny", "Sunny"),
        (None, "null"),
        (3, "3"),
        (float("nan"), "NaN"),
        ({"a": [1]}, '{"a": [1]}'),
        ({1: "ä"}, '{"1": "ä"}'),
        (City("Ulm", [1]), '{"name": "Ulm", "sizes": [1]}'),
        (["a", "b"], '["a", "b"]'),
        ([{"type": "dog"}], '[{"type": "dog"}]'),
        (PNG, [PICTURE]),
        (Drawing(), [PICTURE]),
        (PICTURE, [PICTURE]),
        (["See", PNG], [{"type": "text", "text": "See"}, PICTURE]),
        (("See", Drawing()), [{"type": "text", "text": "See"}, PICTURE]),
    ],
)
def test_an_output_as_every_api_takes_it(value: Any, content: Any) -> None:
    turn = ToolCall("a", "f", "{}").result(value)
    assert turn == {"role": "tool", "tool_call_id": "a", "content": content}
    for api in RULES:
        RULES[api](own(api, asked(called()), turn))


@every("value", [object(), b"\xff\xfe\xff", "\ud800", {"a": object()}, {1, object()}])
def test_an_output_that_cannot_be_sent(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="the output of the call of 'f' cannot be sent"):
        ToolCall("a", "f", "{}").result(value)


def test_a_call_without_an_id() -> None:
    with pytest.raises(ConfigurationError, match="has no id"):
        ToolCall(None, "f", "{}").result("1")


def test_a_call_that_failed() -> None:
    turn = ToolCall("a", "f", "{}").result("no such city", error=True)
    (_, results) = own("messages", asked(called()), turn)
    assert results["content"][0]["is_error"] is True
    assert own("responses", turn)[0]["output"] == "Error: no such city"
    assert own("chat", turn) == [
        {"role": "tool", "tool_call_id": "a", "content": "Error: no such city"}
    ]
    again = ToolCall("a", "f", "{}").result("Error: no such city", error=True)
    assert own("chat", again)[0]["content"] == "Error: no such city"


def test_an_output_of_free_text() -> None:
    """Also where its call is not in the prompt: the service may have stored it."""
    turn = ToolCall("a", "sql", "select 1", custom=True).result("1")
    (item,) = own("responses", turn)
    assert item == {"type": "custom_tool_call_output", "call_id": "a", "output": "1"}
    call = {"type": "custom_tool_call", "call_id": "a", "name": "sql", "input": "select 1"}
    plain = {"role": "tool", "tool_call_id": "a", "content": "1"}
    assert own("responses", call, plain)[1] == item
    assert own("chat", turn) == [plain]


@every("api", RULES)
def test_outcomes_are_the_turns_after_an_answer(api: str) -> None:
    calls = [ToolCall("a", "f", "{}"), ToolCall("b", "g", "{}")]
    outcomes = [ToolOutcome(calls[0], "1"), ToolOutcome(calls[1], ["See", PICTURE], True)]
    outcomes[1] = ToolOutcome(calls[1], [{"type": "text", "text": "See"}, PICTURE], True)
    turns = APIS[api].load().outcome_turns(outcomes)
    made = own(api, asked(called("a"), called("b", "g")))
    if api == "gemini":  # the ids are the service's own
        named = [{"name": "f", "id": "a"}, {"name": "g", "id": "b"}]
        made = [{"role": "model", "parts": [{"functionCall": call} for call in named]}]
    RULES[api]([*made, *turns])
    assert len(turns) == {"chat": 3, "messages": 1, "responses": 2, "gemini": 1}[api]
    assert own(api, *made, *turns) == [*made, *turns]


def test_approvals() -> None:
    """Of the Responses API only."""
    item = {"type": "mcp_approval_request", "id": "q", "name": "find", "arguments": '{"x":1}'}
    dialect = APIS["responses"].load()
    (request,) = dialect.approval_requests([{"type": "message"}, item])
    assert request == ToolCall("q", "find", '{"x":1}')
    answers = [Approval(request, True), Approval(request, False, "Not now")]
    assert dialect.outcome_turns(answers) == [
        {"type": "mcp_approval_response", "approval_request_id": "q", "approve": True},
        {
            "type": "mcp_approval_response",
            "approval_request_id": "q",
            "approve": False,
            "reason": "Not now",
        },
    ]
    for api in ("chat", "messages"):
        assert APIS[api].load().approval_requests([item]) == ()
        assert APIS[api].load().outcome_turns(answers) == []


# ---- Result.to_messages ------------------------------------------------------------------------


def result() -> Result:
    item = {"type": "function_call", "call_id": LONG, "name": "f", "arguments": "{}"}
    item |= {"id": "fc_1", "status": "completed"}
    done = {"type": "response.output_item.done", "output_index": 0, "item": item}
    end = {"type": "response.completed", "response": {"id": "r", "output": [item]}}
    body = b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in (done, end))
    transport = FakeTransport(Reply([body]))
    client = Client("responses", base_url="http://test", transport=transport, clock=FakeClock())
    return client.stream("Hi").result()


def test_a_result_in_another_form() -> None:
    answer = result()
    assert answer.to_messages() == answer.to_messages(None) == list(answer.turn)
    (turn,) = answer.to_messages(api="messages")
    assert turn["content"][0]["name"] == "f"
    (turn,) = pickle.loads(pickle.dumps(answer)).to_messages("chat")
    assert len(turn["tool_calls"][0]["id"]) == 9
    (call,) = answer.tool_calls
    assert call.id == LONG  # the caller's code sees the service's own


@every("api", ["nonsense", 5, [], "sk-123"])
def test_an_unknown_form(api: Any) -> None:
    with pytest.raises(ConfigurationError, match="api="):
        result().to_messages(api)


def test_a_result_that_no_call_made() -> None:
    assert Result(turn=({"role": "assistant", "content": "Hi"},)).to_messages()
    with pytest.raises(ConfigurationError, match="not made by a call"):
        Result().to_messages("chat")


# ---- anything ----------------------------------------------------------------------------------

_KINDS = (
    *("text", "image_url", "file", "refusal", "tool_use", "tool_result", "image", "document"),
    *("thinking", "function_call", "function_call_output", "reasoning", "mcp_call", "new"),
    *("code_interpreter_call", "computer_call_output", "x_tool_result", "item_reference"),
)
_NAMES = (
    *("text", "id", "call_id", "tool_use_id", "name", "arguments", "input", "output", "content"),
    *("source", "image_url", "file", "outputs", "summary", "citations", "is_error"),
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "a", "{}", " ", "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner),
    max_leaves=8,
)
_parts = st.dictionaries(st.sampled_from(_NAMES), _values, max_size=5).flatmap(
    lambda part: st.sampled_from(_KINDS).map(lambda kind: {**part, "type": kind})
)
_turns = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "tool", "function", "odd"]),
        "content": st.none() | st.just("Hi") | st.lists(_parts, max_size=3) | _values,
    },
    optional={"tool_calls": _values, "tool_call_id": _values, "name": _values, "status": _values},
)


@pytest.mark.slow
@settings(PROPERTY, max_examples=40)
@given(st.lists(_turns | _parts, min_size=1, max_size=4))
def test_whatever_a_prompt_has(turns: list[Any]) -> None:
    """It is written, or refused in words; what was written is the API's own form, and the caller's
    turns are as they were."""
    before = json.dumps(turns)
    for api in RULES:
        with contextlib.suppress(ConfigurationError):
            made = own(api, *turns)
            assert own(api, *made) == made
            APIS[api].load().request(Request(prompt=turns, model="m"), "https://host/v1")
    assert json.dumps(turns) == before


def test_long_conversations_in_proportion() -> None:
    """Ten times the items take less than thirty times as long: they were read again for each."""

    def seconds(count: int) -> float:
        items = [
            {"type": "function_call", "call_id": f"{n}", "name": "f", "arguments": "{}"}
            for n in range(count)
        ]
        items += [
            {"type": "function_call_output", "call_id": f"{n}", "output": "1"} for n in range(count)
        ]
        return cpu_seconds(lambda: own("messages", *items))

    seconds(100)
    short = min(seconds(500) for _ in range(3))
    assert seconds(5000) < 30 * short + 0.2
