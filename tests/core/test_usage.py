"""Usage as services really report it: in odd places, under odd names, with zeros."""

from __future__ import annotations

import json
from typing import Any

import pytest
from every import every

from llmstream import Usage
from llmstream._core.dialects import APIS
from llmstream._core.session import Session
from llmstream.result import total_usage, whole_prompt


def data(payload: Any) -> bytes:
    return f"data: {json.dumps(payload)}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def usage_of(api: str, *parts: bytes) -> Usage:
    session = Session(APIS[api].load())
    session.receive(b"".join(parts))
    session.receive_eof()
    assert session.error is None
    return session.state.usage


# ---- Chat Completions --------------------------------------------------------------------------

TEXT = data({"id": "c", "choices": [{"index": 0, "delta": {"content": "Hi"}}]})
COUNTS = {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}


def chat(choice: Any = None, **fields: Any) -> Usage:
    """Of an answer whose last chunk has these fields."""
    last = {"index": 0, "delta": {}, "finish_reason": "stop", **(choice or {})}
    return usage_of("chat", TEXT, data({"id": "c", "choices": [last], **fields}), DONE)


PLACES: dict[str, Any] = {
    "in the chunk": {"usage": COUNTS},
    "in the choice": {"choice": {"usage": COUNTS}},
    "in the delta": {"choice": {"delta": {"usage": COUNTS}}},
    "in Groq's field": {"x_groq": {"id": "r", "usage": COUNTS}},
    "under the other APIs' names": {"usage": {"input_tokens": 12, "output_tokens": 34}},
    "in Bedrock's field": {
        "amazon-bedrock-invocationMetrics": {"inputTokenCount": 12, "outputTokenCount": 34}
    },
}


@every("fields", PLACES.values(), ids=PLACES)
def test_the_places(fields: dict[str, Any]) -> None:
    assert chat(**fields) == Usage(12, 34, 46)


def test_the_usage_of_one_model_of_several_is_not_that_of_the_answer() -> None:
    """Groq's compound systems: their own field has a breakdown, and no sum."""
    field = {"usage": COUNTS, "usage_breakdown": {"models": [{}, {}]}}
    assert chat(x_groq=field) == Usage()


def test_bedrocks_field_fills_only_what_is_unknown() -> None:
    metrics = {"inputTokenCount": 1, "outputTokenCount": 2, "cacheReadInputTokenCount": 3}
    field = {"amazon-bedrock-invocationMetrics": metrics}
    assert chat(usage=COUNTS, **field) == Usage(12, 34, 46, 3)


def test_usage_in_every_chunk_of_a_choice() -> None:
    """The last one counts."""
    parts = [
        data({"choices": [{"index": 0, "delta": {"content": "x"}, "usage": {**COUNTS, **more}}]})
        for more in ({"completion_tokens": 1}, {"completion_tokens": 2}, {"completion_tokens": 34})
    ]
    end = data({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    assert usage_of("chat", *parts, end, DONE) == Usage(12, 34, 46)


CACHED = ("cached_tokens", "num_cached_tokens", "prompt_cache_hit_tokens")


@pytest.mark.parametrize("name", [*CACHED, "cache_read_input_tokens"])
def test_cached_tokens_beside_the_counts(name: str) -> None:
    assert chat(usage={**COUNTS, name: 5}).cached_tokens == 5
    details = {"prompt_tokens_details": {"cached_tokens": 0}}
    assert chat(usage={**COUNTS, **details, name: 5}).cached_tokens == 5
    assert chat(usage={**COUNTS, **details, name: 0}).cached_tokens == 0


def test_other_counts_beside_the_details() -> None:
    usage = chat(usage={**COUNTS, "reasoning_tokens": 7, "cache_creation_input_tokens": 8})
    assert (usage.reasoning_tokens, usage.cache_write_tokens) == (7, 8)


# ---- Responses ---------------------------------------------------------------------------------


def responses(**usage: Any) -> Usage:
    response = {"id": "r", "status": "completed", "output": [], "usage": usage}
    return usage_of("responses", data({"type": "response.completed", "response": response}))


def test_the_names_of_a_gateway_in_responses() -> None:
    assert responses(**COUNTS) == Usage(12, 34, 46)
    assert responses(input_tokens=12, output_tokens=34, reasoning_tokens=7) == Usage(
        12, 34, 46, None, 7
    )
    for name in CACHED:
        assert responses(input_tokens=12, output_tokens=34, **{name: 5}).cached_tokens == 5


# ---- Messages ----------------------------------------------------------------------------------


def messages(first: Any, last: Any, delta: Any = None, **stop: Any) -> Usage:
    reason = {"stop_reason": "end_turn", **(delta or {})}
    events = [
        {"type": "message_start", "message": {"id": "m", "content": [], "usage": first}},
        {"type": "message_delta", "delta": reason, "usage": last},
        {"type": "message_stop", **stop},
    ]
    return usage_of("messages", *map(data, events))


def test_bedrocks_field_in_messages() -> None:
    """It fills only what nothing else has reported; cached tokens are beside the others."""
    metrics = {
        "inputTokenCount": 12,
        "outputTokenCount": 34,
        "cacheReadInputTokenCount": 5,
        "cacheWriteInputTokenCount": 6,
    }
    field = {"amazon-bedrock-invocationMetrics": metrics}
    assert messages({}, {}, **field) == Usage(12, 34, 57, 5, None, 6)
    known = {"input_tokens": 1, "output_tokens": 2}
    assert messages(known, known, **field) == Usage(1, 2, 14, 5, None, 6)


def test_the_names_of_a_gateway_in_messages() -> None:
    usage = messages({"prompt_tokens": 12}, {"completion_tokens": 34, "reasoning_tokens": 7})
    assert usage == Usage(12, 34, 46, None, 7)


# ---- a cost that the service reports -----------------------------------------------------------

COSTS = [
    ({"cost": 0.00123}, 0.00123),
    ({"cost": "0.00123"}, 0.00123),
    ({"cost": 0}, 0.0),
    ({"cost": {"input_tokens_cost": 0.001, "total_cost": 0.006}}, 0.006),
    ({"cost_in_usd_ticks": 12_300_000}, 0.00123),
    ({"cost": None}, None),
    ({"cost": "free"}, None),
    ({"cost": True}, None),
    ({"cost": -1}, None),
    ({"cost": {}}, None),
    ({}, None),
]


@every(("fields", "cost"), COSTS)
def test_a_cost_that_the_service_reports(fields: dict[str, Any], cost: float | None) -> None:
    assert chat(usage={**COUNTS, **fields}).cost == cost
    assert responses(input_tokens=1, output_tokens=1, **fields).cost == cost
    if "cost_in_usd_ticks" not in fields:
        assert messages({}, {"output_tokens": 1, **fields}).cost == cost


def test_the_bill_of_ones_own_key_is_added() -> None:
    """OpenRouter reports its fee and what the provider bills, on each of its APIs."""

    def costs(**fields: Any) -> set[float | None]:
        sent = {"cost": 0.25, "cost_details": {"upstream_inference_cost": 0.5}, **fields}
        return {
            chat(usage={**COUNTS, **sent}).cost,
            responses(input_tokens=1, output_tokens=1, **sent).cost,
            messages({}, {"output_tokens": 1, **sent}).cost,
        }

    assert costs() == costs(is_byok=False) == costs(is_byok="true") == {0.25}
    assert costs(is_byok=True) == {0.75}
    assert costs(is_byok=True, cost=0) == {0.5}
    assert costs(is_byok=True, cost=None) == {None}  # the fee is not known
    for odd in (None, {}, [], {"upstream_inference_cost": None}, {"upstream_inference_cost": -1}):
        assert costs(is_byok=True, cost_details=odd) == {0.25}


# ---- sums --------------------------------------------------------------------------------------


def test_the_whole_prompt() -> None:
    usage = Usage(100, 5, None, 900, None, 50)
    assert whole_prompt(usage, cached_beside=False) == 100
    assert whole_prompt(usage, cached_beside=True) == 1050
    assert whole_prompt(Usage(), cached_beside=True) is None
    assert whole_prompt(Usage(cached_tokens=5), cached_beside=True) is None


def test_the_sum_of_costs() -> None:
    assert total_usage([Usage(cost=0.5), Usage(), Usage(cost=0.25)]).cost == 0.75
    assert total_usage([Usage(), Usage(1)]).cost is None


# ---- further places ----------------------------------------------------------------------------


def test_the_details_have_the_other_apis_names_too() -> None:
    parts = ({"cached_tokens": 5, "cache_write_tokens": 6}, {"reasoning_tokens": 7})
    names = (
        ("prompt_tokens", "completion_tokens"),
        ("input_tokens", "output_tokens"),
    )
    for made in (lambda usage: chat(usage=usage), lambda usage: responses(**usage)):
        for name_in, name_out in names:
            counts = {name_in: 12, name_out: 34}
            details = {f"{name_in}_details": parts[0], f"{name_out}_details": parts[1]}
            assert made({**counts, **details}) == Usage(12, 34, 46, 5, 7, 6)


@pytest.mark.parametrize("name", CACHED)
def test_cached_tokens_under_other_names_in_messages(name: str) -> None:
    assert messages({"input_tokens": 12}, {"output_tokens": 34, name: 5}) == Usage(12, 34, 51, 5)


def test_the_places_in_messages() -> None:
    counts = {"input_tokens": 12, "output_tokens": 34}
    assert messages(None, counts) == Usage(12, 34, 46)
    assert messages(None, None, usage=counts) == Usage(12, 34, 46)
    assert messages(None, None, delta={"usage": counts}) == Usage(12, 34, 46)


def test_the_usage_in_a_message_that_is_not_streamed() -> None:
    answer = {"role": "assistant", "content": "Hi", "usage": COUNTS}
    session = Session(APIS["chat"].load())
    body = {"choices": [{"index": 0, "message": answer, "finish_reason": "stop"}]}
    session.receive_json(json.dumps(body).encode())
    assert session.state.usage == Usage(12, 34, 46)


@pytest.mark.parametrize("name", ["cost", "total_cost", "estimated_cost"])
def test_the_names_of_a_cost(name: str) -> None:
    """On every API."""
    found = [
        chat(usage={**COUNTS, name: 0.25}),
        responses(**COUNTS, **{name: "0.25"}),
        messages({"input_tokens": 1}, {"output_tokens": 2, name: 0.25}),
    ]
    assert [usage.cost for usage in found] == [0.25] * 3
