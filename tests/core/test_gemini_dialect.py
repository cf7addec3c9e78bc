"""The Gemini API: every recording in every cutting, its requests, and each rule of its streams."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from corpus import CORPUS, CUTTINGS, WIRE, block, calls_of, recorded, replay, told
from every import every

from llmstream import errors
from llmstream._core.classify import error_from_status
from llmstream._core.dialects import APIS
from llmstream._core.dialects.profiles import profile_for
from llmstream._core.outcome import ToolOutcome
from llmstream._core.request import Request
from llmstream._core.session import Session
from llmstream.errors import ConfigurationError
from llmstream.events import gemini as ev
from llmstream.result import ToolCall

GEMINI = APIS["gemini"].load()
SMALL = 5_000  # bytes: above these a recording is cut at every byte only when slow tests run
BASE = "https://generativelanguage.googleapis.com/v1beta"


def recordings() -> list[Any]:
    found = recorded("gemini")
    if not found:
        pytest.skip("no corpus")
    return found


def chunk(*parts: Any, finish: str | None = None, **fields: Any) -> bytes:
    candidate: dict[str, Any] = {"index": 0}
    if parts:
        candidate["content"] = {"parts": list(parts), "role": "model"}
    if finish:
        candidate["finishReason"] = finish
    for name in ("finishMessage",):
        if name in fields:
            candidate[name] = fields.pop(name)
    return block({"candidates": [candidate], **fields})


def played(*blocks: bytes) -> Session:
    return replay(blocks, "gemini")[1]


def asked(prompt: Any = "Hi", base: str = BASE, **fields: Any) -> tuple[str, Any]:
    request = Request(prompt=prompt, **{"model": "gemini-2.5-flash", **fields})
    http = GEMINI.with_profile(profile_for(None, base)).request(request, base)
    return http.url, json.loads(http.body)


# --- recordings ---------------------------------------------------------------------------------


def test_the_corpus_is_whole() -> None:
    assert len(recordings()) == 63


@every("recording", recordings)
@every("cutting", [name for name in CUTTINGS if name != "bytewise"])
def test_it_is_reported_exactly(recording: Any, cutting: str) -> None:
    """Whole and in random pieces: text, thinking, calls, usage, end and error."""
    _, session = replay(CUTTINGS[cutting](recording.data), "gemini")
    assert told(session, "gemini") == recording.expect


def small() -> list[Any]:
    return [one for one in recordings() if one.size < SMALL]


def large() -> list[Any]:
    return [one for one in recordings() if one.size >= SMALL]


@every("recording", small)
def test_byte_by_byte(recording: Any) -> None:
    check_bytes(recording)


@pytest.mark.slow
@every("recording", large)
def test_the_large_byte_by_byte(recording: Any) -> None:
    check_bytes(recording)


def check_bytes(recording: Any) -> None:
    events, _ = replay([recording.data], "gemini")
    found, session = replay(CUTTINGS["bytewise"](recording.data), "gemini")
    assert told(session, "gemini") == recording.expect
    assert found == events
    assert [event.chunks for event in found] == [event.chunks for event in events]


@every("recording", small)
def test_cut_at_every_byte(recording: Any) -> None:
    check_every_cut(recording)


@pytest.mark.slow
@every("recording", large)
def test_the_large_cut_at_every_byte(recording: Any) -> None:
    check_every_cut(recording)


def check_every_cut(recording: Any) -> None:
    """Nothing that the whole one has not; complete only after a finish, and only between events.
    The end of the body is told to a copy, which shares the state: O(n)."""
    data, session = recording.data, Session(GEMINI)
    marks = [data.find(word) for word in (b"finishReason", b"blockReason")]
    finish = min((at for at in marks if at >= 0), default=len(data))
    for end in range(len(data) + 1):
        if session.receive(data[end - 1 : end] if end else b""):
            assert recording.expect["text"].startswith(session.state.text)
            assert recording.expect["thinking"].startswith(session.state.thinking)
            for call in calls_of(session, "gemini")[0]:
                found = {"name": call.name, "arguments": call.arguments}
                assert found in recording.expect["tool_calls"]
        ended = copy.copy(session)
        ended.receive_eof()
        inside = data[end - 1 : end] not in (b"\n", b"\r")
        if end < len(data) and (inside or end <= finish):
            assert ended.error is not None, end
    assert told(ended, "gemini") == recording.expect


@every("recording", recordings)
def test_the_parts_go_back_as_they_came(recording: Any) -> None:
    """Each on its own, with its own signature; but for empty texts, and what cannot be sent."""
    events, session = replay([recording.data], "gemini")
    sent = [
        part
        for event in events
        if isinstance(event, ev.GenerateContentResponse)
        for candidate in event.json().get("candidates") or ()
        for part in (candidate.get("content") or {}).get("parts") or ()
        if part != {"text": ""}
    ]
    safe = frozenset(call.id for call in calls_of(session, "gemini")[0] if call.id)
    turns = GEMINI.assistant_turn(session.state, safe)
    back = turns[0]["parts"] if turns else []
    signatures = [part["thoughtSignature"] for part in back if "thoughtSignature" in part]
    assert signatures == [part["thoughtSignature"] for part in sent if "thoughtSignature" in part]
    if b"willContinue" not in recording.data:
        while sent and sent[-1].keys() == {"text", "thought"}:
            sent.pop()
        assert back == sent
    assert GEMINI.own_turns(list(turns)) == list(turns)


def test_errors_with_a_status() -> None:
    """The classes of recorded error answers."""
    found = sorted(
        [
            *(CORPUS / "gemini_errors").glob("*.json"),
            *(CORPUS / "http_errors/gemini").glob("*.json"),
        ]
    )
    if not found:
        pytest.skip("no corpus")
    for path in found:
        about = json.loads(path.read_text("utf-8"))
        body = path.with_suffix(".body").read_bytes()
        error = error_from_status(about["status"], body, about["response_headers"], 0.0)
        assert type(error).__name__ == about["expect"]["raises"], path.name


def test_every_type_of_the_reference_is_declared() -> None:
    """With the vendor's names, and each of its fields."""
    path = WIRE / "gemini_events.json"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    types = json.loads(path.read_text("utf-8"))["types"]
    for name, described in types.items():
        if name != "Error":
            fields = {field["name"] for field in described["fields"]}
            assert fields <= set(getattr(ev, name).__struct_encode_fields__), name


# --- streams ------------------------------------------------------------------------------------

TEXT = {"text": "Hi"}


@every(
    ("word", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("CONTINUATION", "pause"),
        ("OTHER", "OTHER"),
        ("NO_IMAGE", "NO_IMAGE"),
        ("NEW_WORD", "NEW_WORD"),
        *[
            (word, "content_filter")
            for word in (
                *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE"),
                *("ESCALATION", "MODEL_ARMOR", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT"),
                "IMAGE_RECITATION",
            )
        ],
    ],
)
def test_finish_words(word: str, finish: str) -> None:
    session = played(chunk(TEXT, finish=word))
    assert (session.error, session.complete, session.state.finish) == (None, True, finish)


@every(
    ("word", "error"),
    [
        ("MALFORMED_FUNCTION_CALL", errors.ServerError),
        ("UNEXPECTED_TOOL_CALL", errors.ServerError),
        ("TOO_MANY_TOOL_CALLS", errors.ServerError),
        ("MALFORMED_RESPONSE", errors.ServerError),
        ("MISSING_THOUGHT_SIGNATURE", errors.InvalidRequestError),
        ("PUP_LIMITED_DISABLED", errors.PermissionDeniedError),
    ],
)
def test_broken_off(word: str, error: type) -> None:
    """The service's own words are in the error."""
    session = played(chunk(TEXT, finish=word, finishMessage="because of this"))
    assert type(session.error) is error
    assert "because of this" in str(session.error)
    assert session.state.text == "Hi"


def test_no_finish_is_truncated() -> None:
    for last in (b"", chunk(finish="FINISH_REASON_UNSPECIFIED")):
        session = played(chunk(TEXT), last)
        assert isinstance(session.error, errors.StreamTruncated)


def test_half_an_event_after_a_finish_is_truncated() -> None:
    """Some models have a finish in every chunk."""
    session = played(chunk(TEXT, finish="STOP"), chunk({"text": " there"}, finish="STOP")[:-9])
    assert isinstance(session.error, errors.StreamTruncated)


def test_the_last_finish_counts() -> None:
    session = played(
        chunk({"executableCode": {"code": "1"}}, finish="STOP"),
        chunk({"codeExecutionResult": {"output": "1"}}),
        chunk(TEXT, finish="MAX_TOKENS"),
    )
    assert (session.state.text, session.state.finish) == ("Hi", "length")
    assert [item.type for item in session.state.in_order()] == [
        *("executableCode", "codeExecutionResult", "text")
    ]


@every("feedback", [{"blockReason": "SAFETY"}, {"blockReason": "NEW", "blockReasonMessage": "no"}])
def test_a_prompt_that_is_refused(feedback: Any) -> None:
    session = played(block({"promptFeedback": feedback}))
    assert (session.complete, session.state.finish, session.state.text) == (
        *(True, "content_filter"),
        "",
    )


def test_ratings_of_a_prompt_are_no_refusal() -> None:
    session = played(block({"promptFeedback": {"safetyRatings": [{"category": "X"}]}}))
    assert isinstance(session.error, errors.StreamTruncated)


@every("content", [None, {}, {"role": "model"}, {"parts": None}, {"parts": [None, TEXT]}])
def test_content_that_is_absent(content: Any) -> None:
    candidate = {"content": content, "finishReason": "STOP"}
    session = played(block({"candidates": [candidate]}))
    assert session.complete
    assert session.state.text == ("Hi" if content and content.get("parts") else "")


def test_only_the_first_candidate_is_the_answer() -> None:
    other = {"index": 1, "content": {"parts": [{"text": "No"}]}, "finishReason": "MAX_TOKENS"}
    first = {"content": {"parts": [TEXT]}, "finishReason": "STOP"}
    session = played(block({"candidates": [other, first]}), block({"candidates": [other]}))
    assert (session.state.text, session.state.finish) == ("Hi", "stop")


def test_usage_is_a_snapshot() -> None:
    """The last one with a count, as a whole; nothing is kept of the others."""
    session = played(
        chunk(TEXT, usageMetadata={"promptTokenCount": 9, "cachedContentTokenCount": 4}),
        chunk(
            finish="STOP",
            usageMetadata={
                "promptTokenCount": 7,
                "toolUsePromptTokenCount": 10,
                "candidatesTokenCount": 2,
                "thoughtsTokenCount": 3,
                "totalTokenCount": 22,
                "serviceTier": "flex",
            },
        ),
        block({"usageMetadata": {"trafficType": "ON_DEMAND"}}),
    )
    usage = session.state.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (17, 5, 22)
    assert (usage.cached_tokens, usage.reasoning_tokens) == (None, 3)
    assert session.state.service_tier == "flex"


def test_arguments_are_as_they_came() -> None:
    """Compact; keys and numbers as they are, and nothing escaped that need not be."""
    raw = (
        b'data: {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": '
        b'{ "b" : 1.0, "a": 1E3, "n": 123456789012345678901234567890, "s": "\\u00e9 \\/ \\n"}}}]},'
        b'"finishReason": "STOP"}]}\n\n'
    )
    (call,) = calls_of(played(raw), "gemini")[0]
    expected = '{"b":1.0,"a":1E3,"n":123456789012345678901234567890,"s":"é / \\n"}'
    assert call.arguments == expected


def pieces(*calls: Any) -> Session:
    return played(*(chunk({"functionCall": call}) for call in calls), chunk(finish="STOP"))


def test_a_call_in_pieces() -> None:
    """Its arguments grow as JSON; the pieces of a string add up."""

    def arg(path: str, more: bool = True, **value: Any) -> dict[str, Any]:
        return {"partialArgs": [{"jsonPath": path, **value}], "willContinue": more}

    sent = [
        {"name": "f", "willContinue": True},
        arg("$.a.b[0].c", stringValue="x", willContinue=True),
        arg("$.a.b[0].c", stringValue='y"'),
        {"willContinue": True},
        arg("$.a.b[1].c", numberValue=2),
        arg("$.a.b[1]['d e']", boolValue=False),
        arg("$.z", more=False, nullValue="NULL_VALUE"),
    ]
    session = pieces(*sent)
    whole = '{"a":{"b":[{"c":"xy\\""},{"c":2,"d e":false}]},"z":null}'
    assert [call.arguments for call in calls_of(session, "gemini")[0]] == [whole]
    events, _ = replay([chunk({"functionCall": call}) for call in sent], "gemini")
    assert "".join(one.text for event in events for one in event.chunks) == whole
    (unfinished,) = calls_of(pieces(*sent[:-1]), "gemini")[1]
    assert unfinished.name == "f"
    back, _, unplaced = pieces(sent[0], {}), 0, pieces(sent[0], arg("$.a", numberValue=1), {})
    assert [call.arguments for call in calls_of(back, "gemini")[0]] == ["{}"]
    assert [call.arguments for call in calls_of(unplaced, "gemini")[0]] == ['{"a":1}']


def test_pieces_that_are_not_in_order_are_not_safe() -> None:
    first = {
        "name": "f",
        "willContinue": True,
        "partialArgs": [{"jsonPath": "$.a.b", "numberValue": 1}],
    }
    other = {"partialArgs": [{"jsonPath": "$.c", "numberValue": 1}], "willContinue": True}
    again = {"partialArgs": [{"jsonPath": "$.a.d", "numberValue": 1}]}
    safe, unsafe = calls_of(pieces(first, other, again), "gemini")
    assert (len(safe), len(unsafe)) == (0, 1)


@every(
    ("status", "code", "error"),
    [
        ("INVALID_ARGUMENT", 400, errors.InvalidRequestError),
        ("FAILED_PRECONDITION", 400, errors.InvalidRequestError),
        ("OUT_OF_RANGE", 400, errors.InvalidRequestError),
        ("NOT_FOUND", 404, errors.InvalidRequestError),
        ("UNAUTHENTICATED", 401, errors.AuthenticationError),
        ("PERMISSION_DENIED", 403, errors.PermissionDeniedError),
        ("RESOURCE_EXHAUSTED", 429, errors.RateLimitError),
        ("UNAVAILABLE", 503, errors.OverloadedError),
        ("CANCELLED", 499, errors.ServerError),
        ("INTERNAL", 500, errors.ServerError),
        ("UNKNOWN", 500, errors.ServerError),
        ("DEADLINE_EXCEEDED", 504, errors.ServerError),
        ("ABORTED", 409, errors.ServerError),
        ("NEW_WORD", 418, errors.ServerError),
    ],
)
@every("how", ["data", "bare", "last"])
def test_errors_inside_a_stream(status: str, code: int, error: type, how: str) -> None:
    """In an event, and as bare JSON between events, also without its empty line."""
    sent = {"error": {"code": code, "message": "no", "status": status}}
    text = json.dumps(sent, indent=2).encode()
    if how == "data":
        text = b"data: " + json.dumps(sent).encode()
    session = played(chunk(TEXT), text + (b"\n" if how == "last" else b"\n\n"))
    assert type(session.error) is error
    assert session.state.text == "Hi"


def test_waits_and_daily_quotas() -> None:
    def failed(*details: Any) -> Any:
        error = {"code": 429, "message": "exceeded your current quota", "details": list(details)}
        return played(block({"error": {**error, "status": "RESOURCE_EXHAUSTED"}})).error

    assert failed({"retryDelay": "34.4s"}).retry_after == 34.4
    minute = {"violations": [{"quotaId": "GenerateRequestsPerMinutePerProject"}]}
    day = {"violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}]}
    assert type(failed(minute)) is errors.RateLimitError
    assert type(failed(day)) is errors.QuotaExceededError


def test_one_array_of_a_proxy() -> None:
    one, two = chunk(TEXT)[6:].strip(), chunk({"text": " you"}, finish="STOP")[6:].strip()
    session = Session(GEMINI)
    events = session.receive_json(b"[" + one + b"\n,\n" + two + b"\n]\n")
    assert (len(events), session.complete, session.state.text) == (2, True, "Hi you")
    unfinished = Session(GEMINI)
    unfinished.receive_json(b"[" + one + b"]")
    assert isinstance(unfinished.error, errors.StreamTruncated)
    listed = Session(GEMINI)
    listed.receive_json(b'[{"error": {"code": 503, "status": "UNAVAILABLE", "message": "m"}}]')
    assert isinstance(listed.error, errors.OverloadedError)


# --- requests -----------------------------------------------------------------------------------

VERTEX = "https://europe-west4-aiplatform.googleapis.com/v1/projects/p/locations/europe-west4"


@every(
    ("base", "model", "path"),
    [
        (BASE, "m", "generativelanguage.googleapis.com/v1beta/models/m"),
        (BASE + "/", "models/m", "generativelanguage.googleapis.com/v1beta/models/m"),
        (BASE[:-7], "tunedModels/x", "generativelanguage.googleapis.com/v1beta/tunedModels/x"),
        ("https://gw.example/g", "m", "gw.example/g/v1beta/models/m"),
        ("https://gw.example/v1", "m", "gw.example/v1/models/m"),
        (f"{VERTEX}/publishers/google", "m", f"{VERTEX[8:]}/publishers/google/models/m"),
        (VERTEX, "m", f"{VERTEX[8:]}/publishers/google/models/m"),
        (
            VERTEX,
            "projects/q/endpoints/1",
            f"{VERTEX[8:].split('/projects')[0]}/projects/q/endpoints/1",
        ),
        (
            "https://aiplatform.eu.rep.googleapis.com/v1/projects/p/locations/eu",
            "m",
            "aiplatform.eu.rep.googleapis.com/v1/projects/p/locations/eu/publishers/google/models/m",
        ),
        (
            "https://aiplatform.googleapis.com",
            "m",
            "aiplatform.googleapis.com/v1/publishers/google/models/m",
        ),
    ],
)
def test_addresses(base: str, model: str, path: str) -> None:
    assert asked(base=base, model=model)[0] == f"https://{path}:streamGenerateContent?alt=sse"


def test_a_key_in_the_address_stays() -> None:
    assert asked(base=f"{BASE}?key=k")[0].endswith("?alt=sse&key=k")


@every(
    ("base", "key", "header"),
    [
        (BASE, "AIzaX", "x-goog-api-key"),
        (BASE, "ya29.X", "authorization"),
        (VERTEX, "token", "authorization"),
        (VERTEX, "AQ.X", "x-goog-api-key"),
        ("https://gw.example", "sk-1", "x-goog-api-key"),
    ],
)
def test_keys(base: str, key: str, header: str) -> None:
    assert list(GEMINI.with_profile(profile_for(None, base)).auth(key)) == [header]


def test_options() -> None:
    _, body = asked(
        [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
        instructions="In English",
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        stop="END",
        extra_body={"generationConfig": {"seed": 1, "maxOutputTokens": 8}, "labels": {"a": "b"}},
    )
    assert body == {
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        "systemInstruction": {"parts": [{"text": "In English"}, {"text": "Be brief"}]},
        "generationConfig": {
            "maxOutputTokens": 8,
            "temperature": 0.5,
            "topP": 0.9,
            "stopSequences": ["END"],
            "seed": 1,
        },
        "labels": {"a": "b"},
    }
    with pytest.raises(ConfigurationError, match="at most 5"):
        asked(stop=list("abcdef"))
    with pytest.raises(ConfigurationError, match="background"):
        asked(background=True)


@every(
    ("model", "thinking", "config"),
    [
        ("gemini-2.5-flash", True, {"includeThoughts": True, "thinkingBudget": -1}),
        ("gemini-2.5-pro", "low", {"includeThoughts": True, "thinkingBudget": 1024}),
        ("gemini-2.5-flash", "none", {"includeThoughts": False, "thinkingBudget": 0}),
        ("gemini-2.5-flash", 500, {"includeThoughts": True, "thinkingBudget": 500}),
        ("gemini-3-flash-preview", True, {"includeThoughts": True}),
        ("models/gemini-3.5-flash", "high", {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        ("gemini-flash-latest", "minimal", {"includeThoughts": True, "thinkingLevel": "MINIMAL"}),
        ("gemini-3.5-flash", "xhigh", {"includeThoughts": True, "thinkingLevel": "XHIGH"}),
        ("gemini-3-flash-preview", {"thinkingLevel": "LOW"}, {"thinkingLevel": "LOW"}),
    ],
)
def test_thinking(model: str, thinking: Any, config: Any) -> None:
    assert asked(model=model, thinking=thinking)[1]["generationConfig"]["thinkingConfig"] == config


def test_an_effort_that_it_has_not() -> None:
    with pytest.raises(ConfigurationError, match="minimal"):
        asked(model="gemini-3-flash-preview", thinking="extreme")


def test_tools() -> None:
    """In any form; all functions are one tool, beside those that the service runs."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    tools = [
        {"type": "function", "function": {"name": "one", "parameters": schema, "strict": True}},
        {"name": "two", "input_schema": {"type": "object", "properties": {}}},
        {"functionDeclarations": [{"name": "three"}]},
        {"googleSearch": {}},
    ]
    _, body = asked(tools=tools)
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {"name": "one", "parametersJsonSchema": schema},
                {"name": "three"},
                {"name": "two"},
            ]
        },
        {"googleSearch": {}},
    ] or [one["name"] for one in body["tools"][0]["functionDeclarations"]] == [
        "one",
        "two",
        "three",
    ]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}


@every(
    ("choice", "config"),
    [
        ("auto", {"mode": "AUTO"}),
        ("required", {"mode": "ANY"}),
        ({"type": "any"}, {"mode": "ANY"}),
        ("none", {"mode": "NONE"}),
        ({"type": "tool", "name": "f"}, {"mode": "ANY", "allowedFunctionNames": ["f"]}),
        (
            {"type": "function", "function": {"name": "f"}},
            {"mode": "ANY", "allowedFunctionNames": ["f"]},
        ),
        ({"functionCallingConfig": {"mode": "X"}}, {"mode": "X"}),
    ],
)
def test_tool_choice(choice: Any, config: Any) -> None:
    assert asked(tool_choice=choice)[1]["toolConfig"] == {"functionCallingConfig": config}


def test_rounds_are_known_from_the_tools() -> None:
    def rounds(**fields: Any) -> bool:
        request = Request(prompt="Hi", model="m", **fields)
        return GEMINI.request(request, BASE).rounds

    assert not rounds(tools=[{"name": "f"}])
    assert rounds(tools=[{"codeExecution": {}}])
    assert rounds(extra_body={"tools": [{"googleSearch": {}}]})


# --- turns --------------------------------------------------------------------------------------


def test_outputs_of_one_round_are_one_turn() -> None:
    """In the order of the calls; with an id only where the service sent one."""
    turns = [
        {
            "role": "model",
            "parts": [
                {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "s"},
                {"functionCall": {"name": "f", "args": {"a": 2}}},
                {"functionCall": {"name": "g", "id": "own"}},
            ],
        }
    ]
    session = played(chunk(*turns[0]["parts"], finish="STOP"))
    calls, _ = calls_of(session, "gemini")
    assert len({call.id for call in calls}) == 3
    outputs = [call.result({"n": call.name, "i": n}) for n, call in enumerate(calls)]
    made = GEMINI.own_turns([*turns, *reversed(outputs)])
    assert made[0] == turns[0]
    (answered,) = made[1:]
    responses = [part["functionResponse"] for part in answered["parts"]]
    assert responses == [
        {"name": "f", "response": {"n": "f", "i": 0}},
        {"name": "f", "response": {"n": "f", "i": 1}},
        {"name": "g", "response": {"n": "g", "i": 2}, "id": "own"},
    ]
    outcomes = [
        ToolOutcome(call, json.dumps({"n": call.name, "i": n})) for n, call in enumerate(calls)
    ]
    assert GEMINI.outcome_turns(outcomes) == [answered]


def test_an_output_has_an_id_only_where_its_call_has_one() -> None:
    """Of a run that another API has begun: its calls have no ids here, and an output with one would
    be that of no call."""
    begun = {"type": "function", "id": "c1", "function": {"name": "f", "arguments": "{}"}}
    foreign = {"role": "assistant", "content": None, "tool_calls": [begun]}
    outcome = ToolOutcome(ToolCall("c1", "f", "{}"), "x", is_error=False)
    (made,) = GEMINI.outcome_turns([outcome])
    assert made["parts"] == [
        {"functionResponse": {"name": "f", "response": {"output": "x"}, "id": "c1"}}
    ]
    turns = GEMINI.own_turns([{"role": "user", "content": "Hi"}, foreign, made])
    assert turns[1]["parts"] == [{"functionCall": {"name": "f", "args": {}}}]
    assert turns[2]["parts"] == [{"functionResponse": {"name": "f", "response": {"output": "x"}}}]
    own = {"role": "model", "parts": [{"functionCall": {"name": "f", "id": "c1"}}]}
    for kept in ([own, made], [made]):  # a call that is not here may be in a cached beginning
        assert GEMINI.own_turns(kept) == kept
        assert GEMINI.own_turns(kept)[-1] is made


def test_the_texts_of_an_answer_are_one_elsewhere() -> None:
    """Whatever chunks it was streamed in; a user's parts stay as they are."""
    parts = [{"text": "a "}, {"text": ""}, {"text": "b", "thoughtSignature": "eA=="}, {"text": "c"}]
    code = {"executableCode": {"language": "PYTHON", "code": "1"}}
    for api, text in (("chat", "text"), ("messages", "text"), ("responses", "output_text")):
        dialect = APIS[api].load()
        turns = [{"role": "model", "parts": [*parts, code, {"text": "d"}]}]
        (turn,) = dialect.own_turns([{"role": "user", "content": "Hi"}, *turns])[1:]
        content = turn["content"]
        if isinstance(content, str):
            assert content.startswith("a bc")
        else:
            assert content[0] == {"type": text, "text": "a bc"}
            assert content[-1] == {"type": text, "text": "d"}
    (turn,) = APIS["messages"].load().own_turns([{"role": "user", "parts": [*parts[:2], parts[3]]}])
    assert [part["text"] for part in turn["content"]] == ["a ", "c"]


def test_an_output_is_an_object() -> None:
    call = ToolCall("id-1", "f", "{}")
    (turn,) = GEMINI.outcome_turns([ToolOutcome(call, "warm")])
    assert turn["parts"][0]["functionResponse"]["response"] == {"output": "warm"}
    (turn,) = GEMINI.outcome_turns([ToolOutcome(call, "down", is_error=True)])
    assert turn["parts"][0]["functionResponse"]["response"] == {"error": "down"}


def test_calls_of_another_model_get_googles_stand_in() -> None:
    """Without a signature Gemini 3 refuses the history."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    part = {"functionCall": {"name": "f", "args": {"a": 1}}}
    assert asked(turns)[1]["contents"][1]["parts"] == [part]
    signed = asked(turns, model="gemini-3-pro-preview")[1]["contents"][1]["parts"]
    assert signed == [{**part, "thoughtSignature": "skip_thought_signature_validator"}]


def test_media() -> None:
    turn = {
        "role": "user",
        "content": [
            {"type": "text", "text": "See"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
            {"type": "image_url", "image_url": {"url": "https://host.example/a.webp"}},
            {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
        ],
    }
    assert GEMINI.own_turns([turn])[0]["parts"] == [
        {"text": "See"},
        {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
        {"fileData": {"mimeType": "image/webp", "fileUri": "https://host.example/a.webp"}},
        {"inlineData": {"mimeType": "audio/wav", "data": "aGk="}},
    ]
    file = {"role": "user", "parts": [{"fileData": {"fileUri": "gs://bucket/a.png"}}]}
    with pytest.raises(ConfigurationError, match="fileUri"):
        APIS["chat"].load().own_turns([file])
