"""Gemini as gateways and odd servers write it: what means the same is reported the same, and what
would be another answer is never a success."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from corpus import block, calls_of, recorded, replay, told
from every import every

from llmstream import errors
from llmstream._core.dialects import APIS
from llmstream._core.dialects.profiles import profile_for
from llmstream._core.request import Request
from llmstream._core.session import Session
from llmstream.events.base import AnyEvent

GEMINI = APIS["gemini"].load()
BASE = "https://generativelanguage.googleapis.com/v1beta"
SMALL = 8_000  # bytes: of larger recordings each change takes long


def chunk(*parts: Any, finish: str | None = None, **fields: Any) -> bytes:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}}
    if finish:
        candidate["finishReason"] = finish
    return block({"candidates": [candidate], **fields})


def played(*blocks: bytes) -> Session:
    return replay(blocks, "gemini")[1]


def called(*parts: Any, finish: str = "STOP") -> tuple[list[str], list[str]]:
    """The arguments of the calls that are safe to run, and of those that are not."""
    safe, unsafe = calls_of(played(chunk(*parts), chunk(finish=finish)), "gemini")
    return [call.arguments for call in safe], [call.arguments for call in unsafe]


def piece(path: str, more: bool = True, **value: Any) -> dict[str, Any]:
    call = {"partialArgs": [{"jsonPath": path, **value}], "willContinue": more}
    return {"functionCall": call}


OPENED = {"functionCall": {"name": "f", "willContinue": True}}
CLOSED: dict[str, Any] = {"functionCall": {}}
WHOLE = {"functionCall": {"name": "f", "args": {"a": 1}}}


# --- what means the same ------------------------------------------------------------------------

Json = Any
Change = Callable[[random.Random, list[Json]], None]


def candidates(chunks: list[Json]) -> list[Json]:
    return [one for sent in chunks for one in sent.get("candidates") or ()]


def parts(chunks: list[Json]) -> list[Json]:
    return [
        part
        for candidate in candidates(chunks)
        for part in (candidate.get("content") or {}).get("parts") or ()
    ]


def reorder(rng: random.Random, chunks: list[Json]) -> None:
    def shuffle(value: dict[str, Any]) -> None:
        fields = list(value.items())
        rng.shuffle(fields)
        value.clear()
        value.update(fields)

    for value in (*chunks, *candidates(chunks), *parts(chunks)):
        shuffle(value)


def write_nulls(rng: random.Random, chunks: list[Json]) -> None:
    for value, names in (
        (parts(chunks), ("thought", "thoughtSignature", "functionCall", "inlineData", "toolCall")),
        (candidates(chunks), ("index", "finishReason", "safetyRatings", "groundingMetadata")),
        (chunks, ("promptFeedback", "usageMetadata", "candidates", "error", "responseId")),
    ):
        for one in value:
            for name in names:
                if rng.random() < 0.5:
                    one.setdefault(name, None)


def write_defaults(rng: random.Random, chunks: list[Json]) -> None:
    for part in parts(chunks):
        part.setdefault("thought", False)
        if "functionCall" in part:
            part["functionCall"].setdefault("willContinue", False)
    for candidate in candidates(chunks):
        candidate.setdefault("index", 0)
        candidate.setdefault("finishReason", "FINISH_REASON_UNSPECIFIED")
    for sent in chunks:
        if not sent.get("promptFeedback"):
            sent["promptFeedback"] = {"blockReason": "BLOCKED_REASON_UNSPECIFIED"}


def add_unknown(rng: random.Random, chunks: list[Json]) -> None:
    for value in (*chunks, *candidates(chunks), *parts(chunks)):
        value["newField"] = rng.choice([1, "x", {}, [], None, {"a": [None]}])


def add_odd_sources(rng: random.Random, chunks: list[Json]) -> None:
    """Fields beside the answer, of types that the reference does not know."""
    for candidate in candidates(chunks):
        candidate["citationMetadata"] = {"citationSources": [{"startIndex": 1, "uri": "u"}]}
        candidate["safetyRatings"] = [{"category": "X", "probability": rng.choice([3, "LOW"])}]
        candidate["groundingMetadata"] = rng.choice(
            [{}, {"searchEntryPoint": "x"}, {"groundingSupports": [{"segment": {"endIndex": "a"}}]}]
        )
        candidate["groundingAttributions"] = [{"content": {"parts": [{"text": "No"}]}}]


def add_candidates(rng: random.Random, chunks: list[Json]) -> None:
    other = {"index": 1, "content": {"parts": [{"text": "No"}]}, "finishReason": "MAX_TOKENS"}
    for sent in chunks:
        if sent.get("candidates"):
            sent["candidates"].insert(rng.randrange(len(sent["candidates"]) + 1), other)


def split_texts(rng: random.Random, chunks: list[Json]) -> None:
    for candidate in candidates(chunks):
        content = candidate.get("content") or {}
        split: list[Json] = []
        for part in content.get("parts") or ():
            text = part.get("text")
            if text and part.keys() <= {"text", "thought"}:
                at = rng.randrange(len(text) + 1)
                split += [{**part, "text": text[:at]}, {**part, "text": text[at:]}]
            else:
                split.append(part)
        if split:
            content["parts"] = split


def add_empty(rng: random.Random, chunks: list[Json]) -> None:
    empty = (
        *({}, {"candidates": []}, {"candidates": None}, {"candidates": [{}]}),
        {"candidates": [{"content": {"parts": [{}]}}]},
        {"candidates": [{"content": {"parts": [{"text": ""}], "role": "model"}}]},
        {"usageMetadata": {"trafficType": "ON_DEMAND"}},
    )
    for one in empty:
        chunks.insert(rng.randrange(len(chunks) + 1), dict(one))


CHANGES: tuple[Change, ...] = (
    *(reorder, write_nulls, write_defaults, add_unknown, add_odd_sources),
    *(add_candidates, split_texts, add_empty),
)


def written(rng: random.Random, chunks: list[Json]) -> bytes:
    """The chunks as one stream, in one of the ways in which servers write it."""
    ending = rng.choice(["\r\n", "\n", "\r"])
    found = ["\ufeff" if rng.random() < 0.2 else ""]
    for sent in chunks:
        if rng.random() < 0.2:
            found.append(": a comment" + ending * rng.choice([1, 2]))
        indent = rng.choice([None, None, 1])
        text = json.dumps(sent, indent=indent, ensure_ascii=rng.random() < 0.5)
        head = rng.choice(["data: ", "data:"])
        found.append("".join(f"{head}{line}{ending}" for line in text.split("\n")) + ending)
    return "".join(found).encode()


def recordings() -> list[Any]:
    found = [one for one in recorded("gemini") if one.size < SMALL]
    if not found:
        pytest.skip("no corpus")
    return [one for one in found if one.expect["raises"] is None]


@every("recording", recordings)
@every("change", CHANGES)
def test_what_means_the_same(recording: Any, change: Change) -> None:
    """In another form an answer has the same text, thinking, calls, usage and finish."""
    rng = random.Random(f"{recording.name} {change.__name__}")
    events, _ = replay([recording.data], "gemini")
    chunks = [event.json() for event in events]
    change(rng, chunks)
    _, session = replay([written(rng, chunks)], "gemini")
    found, expected = told(session, "gemini"), recording.expect
    found["events"] = expected["events"]  # there may be more of them, which are empty
    assert found == expected


# --- arguments ----------------------------------------------------------------------------------


@every("beside", [{}, {"citationMetadata": {"citations": [{"startIndex": "a"}]}}])
def test_a_piece_is_kept_where_a_field_beside_it_is_odd(beside: Any) -> None:
    """An event that has a field of another type than in the reference: a number of the arguments
    was lost, and the call was still safe."""
    number = piece("$.price", more=False, numberValue=0.5)
    candidate = {"content": {"parts": [OPENED, number]}, "finishReason": "STOP", **beside}
    calls, _ = calls_of(played(block({"candidates": [candidate]})), "gemini")
    assert [call.arguments for call in calls] == ['{"price":0.5}']


@every(
    "field",
    [
        {"functionCall": {"name": 5, "args": {}}},
        {"functionCall": {"name": "f", "partialArgs": "x"}},
        {"functionCall": {"name": "f", "partialArgs": [{"jsonPath": 5, "stringValue": "x"}]}},
        {"functionCall": {"name": "f", "partialArgs": [{"jsonPath": "$.a", "stringValue": 5}]}},
        {"functionCall": {"name": "f", "partialArgs": [{"jsonPath": "$.a", "boolValue": []}]}},
        {"functionCall": {"name": "f", "willContinue": "perhaps"}},
    ],
)
def test_a_call_with_a_field_of_another_type_is_an_error(field: Any) -> None:
    session = played(chunk(field), chunk(finish="STOP"))
    assert isinstance(session.error, errors.ProtocolError)
    assert not calls_of(session, "gemini")[0]


@every("null", [None, "NULL_VALUE", 0])
def test_a_null_in_pieces(null: Any) -> None:
    """Vertex writes it as a word; JSON has a value of its own for it."""
    assert called(OPENED, piece("$.a", nullValue=null), CLOSED) == (['{"a":null}'], [])


def test_a_value_that_was_not_sent_is_not_guessed() -> None:
    """It may be "", 0 or false, which may be left out."""
    assert called(OPENED, piece("$.a", stringValue="x"), piece("$.b"), CLOSED)[0] == []
    announced = piece("$.a", willContinue=True), piece("$.a", stringValue="x")
    assert called(OPENED, *announced, CLOSED) == (['{"a":"x"}'], [])


def test_pieces_with_all_fields() -> None:
    """A gateway that writes the fields that a piece has not: they are null."""
    none = dict.fromkeys(("stringValue", "numberValue", "boolValue", "nullValue"))
    sent = (
        piece("$.a", **{**none, "stringValue": "x"}, willContinue=True),
        piece("$.a", **none),
        piece("$.b", **{**none, "boolValue": False}),
    )
    assert called(OPENED, *sent, CLOSED) == (['{"a":"x","b":false}'], [])


@every("call", [{"name": "f"}, {"name": "f", "args": None}])
def test_arguments_that_a_limit_may_have_cut_off(call: Any) -> None:
    """A call without any is whole, but not in an answer that was cut."""
    part = {"functionCall": call}
    assert called(part) == (["{}"], [])
    assert called(part, finish="MAX_TOKENS") == ([], ["{}"])
    assert called(OPENED, CLOSED, finish="MAX_TOKENS") == ([], ["{}"])
    sent = {"functionCall": {"name": "f", "args": {}}}
    assert called(sent, finish="MAX_TOKENS") == (["{}"], [])


@every(
    "arguments",
    [
        *('{"n": 1e+20}', '{"n": 1.50}', '{"n": 1E3}', '{"n": 0.1000000000000000055}'),
        *('{"n": 123456789012345678901234567890}', '{"s": "\\u00e9\\/"}', '{"a": 1, "a": 2}'),
    ],
)
def test_an_output_finds_its_call_however_numbers_are_written(arguments: str) -> None:
    """A call without an id has one of ours, which is known again in the turn; the output's name
    was that id where the service writes numbers in another way than we do."""
    call = f'{{"functionCall": {{"name": "f", "args": {arguments}}}}}'
    candidate = f'{{"content": {{"parts": [{call}, {call}]}}, "finishReason": "STOP"}}'
    session = played(f'data: {{"candidates": [{candidate}]}}\n\n'.encode())
    calls, _ = calls_of(session, "gemini")
    turns = GEMINI.assistant_turn(session.state, frozenset(call.id for call in calls))
    outputs = [call.result(f"output {n}") for n, call in enumerate(calls)]
    answered = GEMINI.own_turns([*turns, *reversed(outputs)])[-1]
    assert [part["functionResponse"] for part in answered["parts"]] == [
        {"name": "f", "response": {"output": f"output {n}"}} for n in range(2)
    ]


def test_many_calls_have_ids_of_their_own() -> None:
    calls, _ = calls_of(played(chunk(*[WHOLE] * 1000, finish="STOP")), "gemini")
    assert len({call.id for call in calls}) == 1000


# --- errors and ends ----------------------------------------------------------------------------

FAILED = {"error": {"code": 503, "message": "later", "status": "UNAVAILABLE"}}


def events_of(*blocks: bytes) -> tuple[list[AnyEvent], Session]:
    return replay(blocks, "gemini")


@every(
    "sent",
    [
        b"data: [" + json.dumps(FAILED).encode() + b"]\n\n",
        b": a comment\n" + json.dumps(FAILED, indent=1).encode() + b"\n\n",
        b": a comment\n" + json.dumps(FAILED, indent=1).encode(),
        b"data: {}\n" + json.dumps(FAILED, indent=1).encode() + b"\n\n",
        b"event: error\ndata: [" + json.dumps(FAILED).encode() + b"]\n\n",
    ],
)
def test_an_error_is_found_where_it_is_written_oddly(sent: bytes) -> None:
    """In a list of one, as without `alt=sse`, and right after another line: it was passed over,
    and the answer before it was a success."""
    session = played(chunk({"text": "Hi"}, finish="STOP"), sent)
    assert isinstance(session.error, errors.OverloadedError)
    assert session.state.text == "Hi"


def test_a_chunk_beside_a_bare_error_is_kept() -> None:
    sent = chunk({"text": "Hi"})[:-1] + json.dumps(FAILED).encode() + b"\n\n"
    session = played(sent)
    assert isinstance(session.error, errors.OverloadedError)
    assert session.state.text == "Hi"


def test_a_list_of_chunks_in_one_event() -> None:
    """One is read; of several none may be lost without a word."""
    one, two = chunk({"text": "Hi"})[6:-2], chunk({"text": " you"}, finish="STOP")[6:-2]
    alone = played(b"data: [" + one + b"]\n\n", b"data: [" + two + b"]\n\n")
    assert (alone.error, alone.state.text) == (None, "Hi you")
    blank = played(b"data:  [ " + one + b" , null]\n\n", b"data: [" + two + b"]\n\n")
    assert (blank.error, blank.state.text) == (None, "Hi you")
    for nothing in (b"[]", b"[null]", b'["x"]', b"[{}]", b"[[]]"):
        session = played(b"data: " + nothing + b"\n\n", chunk({"text": "Hi"}, finish="STOP"))
        assert (session.error, session.state.text) == (None, "Hi")
    both = played(b"data: [" + one + b"," + two + b"]\n\n")
    assert isinstance(both.error, errors.ProtocolError)


def test_a_prompt_is_not_refused_for_no_reason() -> None:
    """The word for none is what a gateway writes for a field that is not there."""
    feedback = {"blockReason": "BLOCKED_REASON_UNSPECIFIED"}
    session = played(block({"promptFeedback": feedback}))
    assert isinstance(session.error, errors.StreamTruncated)


def test_a_field_that_is_null_is_not_a_call() -> None:
    part = {"thoughtSignature": "QQ==", "functionCall": None, "text": None}
    assert called({"text": "Hi"}, part) == ([], [])


# --- how long the end of the body is waited for -------------------------------------------------


def lingers(*blocks: bytes, rounds: bool = False) -> bool:
    """Whether only so much silence is taken for the end; else the ordinary clocks run on."""
    session = Session(GEMINI)
    session.state.rounds = rounds
    for sent in blocks:
        session.receive(sent)
    return session.linger > 0


@every(
    ("model", "waits"),
    [
        *(("gemini-1.5-flash-002", True), ("gemini-1.0-pro", True), ("gemini-pro", True)),
        *(("publishers/google/models/gemini-1.5-pro", True), ("gemini-2.0-flash", False)),
        *(("gemini-2.5-pro", False), ("gemini-3.5-flash", False), ("gemini-pro-latest", False)),
        *(("gemini-10-flash", False), ("projects/p/endpoints/1", False)),
    ],
)
def test_a_model_that_has_a_finish_in_every_chunk(model: str, waits: bool) -> None:
    """Only the end of the body proves that its answer is whole: a pause is not taken for one. The
    model is known from the request, or from the answer."""
    version = model.rpartition("/")[2]
    first = chunk({"text": "Hi"}, finish="STOP", modelVersion=version)
    assert lingers(first) is not waits
    assert GEMINI.request(Request(prompt="Hi", model=model), BASE).rounds is waits
    assert not lingers(chunk({"text": "Hi"}, finish="STOP"), rounds=True)


@every("before", [[], [{"text": "Hm", "thought": True}], [{"thoughtSignature": "QQ=="}]])
def test_a_finish_before_the_answer_proves_nothing(before: Any) -> None:
    """Nor does one after thinking only: a gateway may put it there."""
    early = (chunk(*before, finish="STOP"),)
    assert not lingers(*early)
    assert not lingers(*early, chunk({"text": "Hi"}))
    assert lingers(chunk(*before), chunk({"text": "Hi"}, finish="STOP"))


# --- models of Vertex ---------------------------------------------------------------------------

HOST = "https://europe-west4-aiplatform.googleapis.com"
PROJECT = "/v1/projects/p/locations/europe-west4"


@every("base", [PROJECT, f"{PROJECT}/publishers/google"])
@every(
    ("model", "path"),
    [
        ("gemini-2.5-pro", f"{PROJECT}/publishers/google/models/gemini-2.5-pro"),
        ("models/gemini-2.5-pro", f"{PROJECT}/publishers/google/models/gemini-2.5-pro"),
        ("google/gemini-2.5-pro", f"{PROJECT}/publishers/google/models/gemini-2.5-pro"),
        ("publishers/meta/models/llama", f"{PROJECT}/publishers/meta/models/llama"),
        ("endpoints/12", f"{PROJECT}/endpoints/12"),
        ("projects/q/locations/l/endpoints/12", "/v1/projects/q/locations/l/endpoints/12"),
    ],
)
def test_the_names_of_models_on_vertex(base: str, model: str, path: str) -> None:
    """As google-genai and Vertex's Chat Completions have them."""
    vertex = GEMINI.with_profile(profile_for(None, HOST))
    url = vertex.request(Request(prompt="Hi", model=model), HOST + base).url
    assert url == f"{HOST}{path}:streamGenerateContent?alt=sse"


@every("model", ["../files/x", "models/../../v1/x", ".."])
def test_a_model_leads_to_no_other_address(model: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="model"):
        GEMINI.request(Request(prompt="Hi", model=model), BASE)
    name = "a b?key=1&x#y"
    url = GEMINI.request(Request(prompt="Hi", model=name), BASE).url
    assert url == f"{BASE}/models/a%20b%3Fkey%3D1%26x%23y:streamGenerateContent?alt=sse"


# --- fields beside the library's own ------------------------------------------------------------


def test_fields_in_the_other_spelling_take_the_place_of_ours() -> None:
    """The service refuses a request that has a field in both spellings; what is not ours goes as
    it is written."""
    extra = {
        "system_instruction": {"parts": [{"text": "Mine"}]},
        "tool_config": {"function_calling_config": {"mode": "NONE"}},
        "generation_config": {"temperature": 1, "max_output_tokens": 9, "top_k": 1},
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
        "cached_content": "cachedContents/1",
    }
    options: dict[str, Any] = {"max_output_tokens": 5, "instructions": "Ours"}
    options |= {"tools": [{"name": "f"}], "tool_choice": "auto"}
    request = Request(prompt="Hi", model="m", temperature=0.5, extra_body=extra, **options)
    body = json.loads(GEMINI.request(request, BASE).body)
    assert body == {
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        "systemInstruction": {"parts": [{"text": "Mine"}]},
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
        "toolConfig": {"function_calling_config": {"mode": "NONE"}},
        "generationConfig": {"temperature": 1, "maxOutputTokens": 9, "top_k": 1},
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
        "cached_content": "cachedContents/1",
    }


def test_the_form_of_the_stream_is_ours() -> None:
    request = Request(prompt="Hi", model="m")
    url = GEMINI.request(request, f"{BASE}?alt=json&key=k&alt=sse").url
    assert url.endswith("?alt=sse&key=k")


RESTS = {"half": b": p", "whole": b": ping\n", "two": b": a\n:b", "none": b"", "field": b"d"}


@every("rest", RESTS)
def test_half_a_comment_after_the_finish_is_half_of_nothing(rest: str) -> None:
    """Half of anything else may be more of the answer."""
    chunk = {"candidates": [{"content": {"parts": [{"text": "Hello"}]}, "finishReason": "STOP"}]}
    _, session = replay([block(chunk) + RESTS[rest]], "gemini")
    assert session.complete is (rest != "field")
