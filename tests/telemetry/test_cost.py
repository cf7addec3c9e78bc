"""The cost of a call: `result.cost()`, and `Client(max_cost=...)`."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import re
import socket
import threading
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import genai_prices
import msgspec
import pytest
from every import every
from support import ONCE, PACKAGE, PATIENCE, other_threads, output_of

from llmstream import Client, LLMStreamError, Result
from llmstream.errors import ConfigurationError, ServerError, StreamInterrupted
from llmstream.result import Attempt, Cost, Usage
from llmstream.telemetry.cost import CostLimit, cost_of
from llmstream.testing import Answer, Cut, FakeClock, FakeTransport, LLMServer, Reply

OPENAI, ANTHROPIC = "https://api.openai.com/v1", "https://api.anthropic.com"
GOOGLE = "https://generativelanguage.googleapis.com/v1beta"
MINI, HAIKU, FLASH = "gpt-5.4-mini", "claude-haiku-4-5", "gemini-2.5-flash"
NOW = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
AT = NOW.timestamp()
# Processes that import this module.
HERE = {"PYTHONPATH": os.pathsep.join((str(PACKAGE), str(Path(__file__).parent)))}


def said(model: str = MINI, *usage: int, **more: Any) -> Answer:
    return Answer("one two three", model=model, usage=usage or (1000, 100, 200, 10), **more)


def client_of(
    *replies: Any, api: str = "responses", base_url: str = OPENAI, **settings: Any
) -> Client:
    clock = FakeClock(unix=AT)
    transport = FakeTransport(*replies)
    known: dict[str, Any] = {"api_key": "k", "clock": clock, "transport": transport, "retry": ONCE}
    return Client(api, base_url=base_url, **{**known, **settings})


def asked(client: Client, **options: Any) -> Result:
    return client.stream("Hi", model="m", **options).result()


def listed(model: str, base_url: str, **usage: int) -> Decimal:
    """The price by genai-prices itself."""
    found = genai_prices.calc_price(
        genai_prices.Usage(**usage),
        model,
        provider_api_url=base_url,
        genai_request_timestamp=NOW,
    )
    return found.total_price


def result_of(usage: Usage, *, model: str | None = MINI, **attempt: Any) -> Result:
    only = Attempt(number=1, started_ms=0.0, phase="done", status=200, usage=usage, **attempt)
    return Result(model=model, attempts=(only,))


# ---- what a call has cost ------------------------------------------------------------------------


def test_by_hand() -> None:
    """A million tokens of Claude Haiku 4.5 in (1 USD), half of one out (5 USD): 3.50 USD."""
    usage = Usage(1_000_000, 500_000, 1_500_000, 0, 0, 0)
    cost = cost_of("messages", "api.anthropic.com", result_of(usage, model=HAIKU), AT)
    assert cost is not None
    assert (cost.input, cost.output, cost.amount) == (Decimal(1), Decimal("2.5"), Decimal("3.5"))
    assert (cost.currency, cost.provider, cost.model) == ("USD", "anthropic", HAIKU)


@pytest.mark.parametrize(
    ("api", "base_url", "model", "counted"),
    [
        ("responses", OPENAI, MINI, 1000),
        ("chat", OPENAI, MINI, 1000),
        ("messages", ANTHROPIC, HAIKU, 1200),  # cached tokens come beside the others there
        ("chat", "https://openrouter.ai/api/v1", "openai/gpt-5.4-mini", 1000),
        ("chat", "https://name.openai.azure.com", MINI, 1000),
        ("gemini", GOOGLE, FLASH, 1000),
        ("gemini", "https://us-central1-aiplatform.googleapis.com/v1", FLASH, 1000),
    ],
)
def test_a_call_costs_what_the_list_says(api: str, base_url: str, model: str, counted: int) -> None:
    """Input, cached input and output, each at its price, in the four APIs."""
    cost = asked(client_of(said(model), api=api, base_url=base_url)).cost(AT)
    expected = listed(
        model, base_url, input_tokens=counted, cache_read_tokens=200, output_tokens=100
    )
    assert cost is not None
    assert cost.amount == expected == cost.input + cost.output
    assert not cost.lower_bound


def test_the_price_has_a_date_and_a_source() -> None:
    """The day, the list with its version and the vendor's page are in the record."""
    cost = asked(client_of(said())).cost(AT)
    assert cost is not None
    assert cost.as_of == date(2026, 11, 21)
    assert cost.source == f"genai-prices {genai_prices.__version__}"
    assert cost.url is not None
    assert cost.url.startswith("https://")
    assert cost.since is None or cost.since <= cost.as_of


def test_a_price_holds_from_its_day_on() -> None:
    """Where the list has prices with days, the price of the call's day is taken, and the cost has
    that day."""
    model, first = next(
        (model, price.constraint.start_date)
        for provider in genai_prices.data_snapshot.get_snapshot().providers
        if provider.id == "openai"
        for model in provider.models
        if isinstance(model.prices, list)
        and getattr(model.prices[0].prices, "output_mtok", None) is not None
        for price in model.prices[-1:]
        if getattr(price.constraint, "start_date", None)
    )
    usage = result_of(Usage(1000, 100, 1100, 0, 0, 0), model=model.id)
    day = 86_400.0
    start = datetime(first.year, first.month, first.day, tzinfo=timezone.utc).timestamp()
    after = cost_of("responses", "api.openai.com", usage, start + day)
    before = cost_of("responses", "api.openai.com", usage, start - day)
    assert after is not None
    assert before is not None
    assert after.since == first
    assert before.since is None or before.since < first


def test_without_a_time_it_is_now() -> None:
    """The day of the price is today."""
    cost = asked(client_of(said())).cost()
    assert cost is not None
    assert abs((cost.as_of - datetime.now(timezone.utc).date()).days) <= 1


def test_a_cost_is_a_value() -> None:
    """It compares, pickles and cannot be changed; so does the result that it is of."""
    result = asked(client_of(said()))
    cost = result.cost(AT)
    assert isinstance(cost, Cost)
    assert pickle.loads(pickle.dumps(cost)) == cost
    assert pickle.loads(pickle.dumps(result)).cost(AT) == cost
    with pytest.raises(AttributeError):
        cost.amount = Decimal(0)  # type: ignore[misc]


def test_all_attempts_are_billed() -> None:
    """A restart costs twice: what was reported for the attempt that was given up is in the sum."""
    failing = said(HAIKU, 700, 1, error={"type": "overloaded_error"})
    client = client_of(
        failing,
        said(HAIKU),
        api="messages",
        base_url=ANTHROPIC,
        retry=None,
        on_disconnect="restart",
    )
    result = client.stream("Hi", model="m").result()
    cost = result.cost(AT)
    assert len(result.attempts) == 2
    assert cost is not None
    assert cost.amount == listed(HAIKU, ANTHROPIC, input_tokens=700, output_tokens=1) + listed(
        HAIKU, ANTHROPIC, input_tokens=1200, cache_read_tokens=200, output_tokens=100
    )
    assert cost.lower_bound  # the first had told what it had used so far


def test_an_attempt_that_told_nothing_makes_a_lower_bound() -> None:
    """What was cut without a word of usage may be billed: the cost is at least so much."""
    cut = Reply([*said().blocks()[:6], Cut()])
    client = client_of(cut, said(), retry=None, on_disconnect="restart")
    cost = client.stream("Hi", model="m").result().cost(AT)
    assert cost is not None
    assert cost.lower_bound
    expected = listed(MINI, OPENAI, input_tokens=1000, cache_read_tokens=200, output_tokens=100)
    assert cost.amount == expected


@pytest.mark.parametrize("refusal", [Reply.error(429), Reply.error(503)], ids=["429", "503"])
def test_a_refusal_costs_nothing(refusal: Reply) -> None:
    """A request that was refused is not part of the bill, and makes no lower bound."""
    cost = client_of(refusal, said(), retry=None).stream("Hi", model="m").result().cost(AT)
    assert cost is not None
    assert not cost.lower_bound


def test_an_error_has_the_cost_of_what_had_come() -> None:
    """`error.partial.cost()`: what was reported until the end, a lower bound; else None."""
    failing = said(HAIKU, 700, 1, error={"type": "api_error"})
    with pytest.raises(ServerError) as caught:
        asked(client_of(failing, api="messages", base_url=ANTHROPIC))
    cost = caught.value.partial.cost(AT)
    assert cost is not None
    assert (cost.amount, cost.lower_bound) == (
        listed(HAIKU, ANTHROPIC, input_tokens=700, output_tokens=1),
        True,
    )
    with pytest.raises(StreamInterrupted) as cut:
        asked(client_of(Reply([*said().blocks()[:6], Cut()])))
    assert cut.value.partial.cost(AT) is None


# ---- how tokens are counted ----------------------------------------------------------------------


def written(block: bytes) -> bytes:
    return block.replace(b'"cache_creation_input_tokens":0', b'"cache_creation_input_tokens":300')


def test_what_is_written_to_a_cache_is_counted() -> None:
    """Messages: tokens written to a cache have their own price, at least that of five minutes."""
    blocks = [written(block) for block in said(HAIKU).blocks("messages")]
    cost = asked(client_of(Reply(blocks), api="messages", base_url=ANTHROPIC)).cost(AT)
    assert cost is not None
    assert cost.amount == listed(
        HAIKU,
        ANTHROPIC,
        input_tokens=1500,
        cache_read_tokens=200,
        cache_write_tokens=300,
        output_tokens=100,
    )
    assert cost.lower_bound  # kept for an hour it costs more


def test_reasoning_beside_the_output_is_billed_as_output() -> None:
    """xAI counts reasoning beside the completion, and its total shows it; OpenAI counts it in."""
    xai = "https://api.x.ai/v1"
    beside = result_of(Usage(1000, 100, 1150, 0, 50, 0), model="grok-4.3")
    within = result_of(Usage(1000, 150, 1150, 0, 50, 0), model="grok-4.3")
    expected = listed("grok-4.3", xai, input_tokens=1000, output_tokens=150)
    for result in (beside, within):
        cost = cost_of("chat", "api.x.ai", result, AT)
        assert cost is not None
        assert cost.amount == expected


def in_tier(tier: str) -> Reply:
    """An answer for which the service reports this tier."""
    blocks = [
        re.sub(rb'"service_tier":"[a-z]+"', b'"service_tier":"%b"' % tier.encode(), block)
        for block in said().blocks()
    ]
    return Reply(blocks)


def test_a_tier_has_its_own_price() -> None:
    """Priority costs more where the list has a price for it, and is unknown where it has none."""
    usual, default, priority = (
        asked(client_of(reply)).cost(AT)
        for reply in (said(), in_tier("default"), in_tier("priority"))
    )
    assert usual is not None
    assert priority is not None
    assert usual == default
    expected = genai_prices.calc_price(
        genai_prices.Usage(input_tokens=1000, cache_read_tokens=200, output_tokens=100),
        MINI,
        provider_api_url=OPENAI,
        price_context={"service_tier": "priority"},
    )
    assert priority.amount == expected.total_price > usual.amount
    assert asked(client_of(in_tier("platinum"))).cost(AT) is None


def test_a_fast_answer_of_messages_is_not_priced_as_a_slow_one() -> None:
    """What Messages calls speed has a price of its own, which is not known here."""
    fast = [
        b.replace(b'"service_tier":', b'"speed":"fast","service_tier":')
        for b in said(HAIKU).blocks("messages")
    ]
    assert asked(client_of(Reply(fast), api="messages", base_url=ANTHROPIC)).cost(AT) is None


# ---- unknown is None -----------------------------------------------------------------------------


@every(
    "base_url",
    [
        "http://127.0.0.1:8080/v1",
        "https://llm.example.org/v1",
        "https://api.openai.com.example.org/v1",
        "https://example.org/api.openai.com/v1",
        "https://xapi.openai.com/v1",
        "https://openai.azure.com.example.org",
        "https://me--vllm.modal.run/v1",
    ],
)
def test_another_service_is_not_priced_by_a_models_name(base_url: str) -> None:
    """A host that is not the vendor's has no price, whatever it calls its model."""
    assert asked(client_of(said(), base_url=base_url)).cost(AT) is None


@pytest.mark.parametrize(
    "unknown",
    [
        pytest.param(said("no-such-model"), id="a model that is not in the list"),
        pytest.param(Answer("Hi", model=MINI, usage=None), id="no usage"),
    ],
)
@pytest.mark.parametrize("api", ["responses", "chat", "gemini"])
def test_unknown_is_none(api: str, unknown: Answer) -> None:
    """No usage, no model of the list: no cost."""
    assert asked(client_of(unknown, api=api)).cost(AT) is None


@every(
    "usage",
    [
        Usage(),
        Usage(input_tokens=1000),
        Usage(output_tokens=100),
        Usage(1000, 100, 1100),  # how many were cached, at a tenth of the price?
        Usage(1000, 100, 1100, 2000, 0),  # more cached than came
        Usage(1000, 100, 1300, 0, 50),  # 200 tokens that nobody explains
    ],
    ids=repr,
)
def test_half_a_usage_is_none(usage: Usage) -> None:
    """Counts that are missing where the price needs them, or contradict each other."""
    assert cost_of("responses", "api.openai.com", result_of(usage), AT) is None
    whole = result_of(Usage(1000, 100, 1100, 0, 0, 0))
    assert cost_of("responses", "api.openai.com", whole, AT) is not None


def test_a_cache_that_is_billed_apart_has_to_be_told() -> None:
    """Where writing to a cache has a price, a usage without that count has no price."""
    for usage, is_known in ((Usage(9, 9, 18, 0, 0), False), (Usage(9, 9, 18, 0, 0, 0), True)):
        cost = cost_of("messages", "api.anthropic.com", result_of(usage, model=HAIKU), AT)
        assert (cost is not None) == is_known


@pytest.mark.parametrize(
    ("base_url", "is_known"), [(GOOGLE, True), ("https://openrouter.ai/api/v1", False)]
)
def test_counts_that_gemini_leaves_out_are_0(base_url: str, is_known: bool) -> None:
    """A usage without cached tokens has a price, which the list has for them too. What another
    service leaves out is not known."""
    result = asked(client_of(said(FLASH, 1000, 100, 0, 0), api="gemini", base_url=base_url))
    assert (result.usage.cached_tokens, result.usage.reasoning_tokens) == (None, None)
    cost = result.cost(AT)
    assert (cost is not None) is is_known
    if cost is not None:
        assert cost.amount == listed(FLASH, GOOGLE, input_tokens=1000, output_tokens=100)
        assert not cost.lower_bound


def test_a_refused_prompt_of_gemini_costs_its_tokens() -> None:
    """There is no count of an answer that has none; of a prompt without a count nothing is
    known."""
    feedback = {"blockReason": "SAFETY"}
    for counts, is_known in (
        ({"promptTokenCount": 1000, "totalTokenCount": 1000}, True),
        ({"promptTokenCount": 1000, "totalTokenCount": 1500}, False),
        ({"totalTokenCount": 1000}, False),
        ({"candidatesTokenCount": 100, "totalTokenCount": 100}, False),
    ):
        chunk = {"promptFeedback": feedback, "usageMetadata": counts, "modelVersion": FLASH}
        reply = Reply([f"data: {json.dumps(chunk)}\n\n".encode()])
        result = asked(client_of(reply, api="gemini", base_url=GOOGLE))
        assert result.finish == "content_filter"
        cost = result.cost(AT)
        assert (cost is not None) is is_known
        if cost is not None:
            assert cost.amount == listed(FLASH, GOOGLE, input_tokens=1000, output_tokens=0)


@every(
    ("traffic", "tier"),
    [
        ("ON_DEMAND", None),
        ("ON_DEMAND_FLEX", "flex"),
        ("ON_DEMAND_PRIORITY", "priority"),
        ("PROVISIONED_THROUGHPUT", "provisioned_throughput"),
        ("TRAFFIC_TYPE_UNSPECIFIED", None),
    ],
)
def test_the_traffic_of_vertex_is_a_tier(traffic: str, tier: str | None) -> None:
    """What is billed by another price than that of the list has none."""
    answer = said(FLASH).blocks("gemini")
    field = b'"trafficType":"%b",' % traffic.encode()
    blocks = [b.replace(b'"promptTokenCount"', field + b'"promptTokenCount"') for b in answer]
    vertex = "https://us-central1-aiplatform.googleapis.com/v1"
    result = asked(client_of(Reply(blocks), api="gemini", base_url=vertex))
    assert result.attempts[-1].service_tier == tier
    assert (result.cost(AT) is not None) is (tier is None)


def medium_of(api: str, model: str, medium: str | None) -> Result:
    """An answer that counts tokens of a medium, in the words of its API."""
    sent: dict[str, Any]
    if api == "gemini":
        details = [{"modality": (medium or "text").upper(), "tokenCount": 1290}]
        usage: dict[str, Any] = {"promptTokenCount": 10, "candidatesTokenCount": 1290}
        usage["candidatesTokensDetails"] = details
        candidate = {"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}
        sent = {"modelVersion": model, "candidates": [candidate], "usageMetadata": usage}
    else:
        media = {f"{medium}_tokens": 9} if medium else {}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        usage["prompt_tokens_details"] = {"cached_tokens": 0, **media}
        choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}
        sent = {"model": model, "choices": [choice], "usage": usage}
    block = f"data: {json.dumps(sent)}\n\n".encode()
    return asked(client_of(Reply([block]), api=api, base_url=GOOGLE if api == "gemini" else OPENAI))


@every(
    ("api", "model", "medium", "is_known"),
    [
        ("gemini", "gemini-2.5-flash-image", "image", False),
        ("gemini", "gemini-2.5-flash-image", None, True),
        ("gemini", "gemini-2.5-flash", "audio", False),
        ("gemini", "gemini-2.5-flash", "image", True),  # billed as text is
        ("gemini", "gemini-2.5-flash", "document", True),
        ("chat", "gpt-audio", "audio", False),
        ("chat", "gpt-audio", None, True),
    ],
)
def test_tokens_with_a_price_of_their_own(
    api: str, model: str, medium: str | None, is_known: bool
) -> None:
    """Pictures and sound are not priced as text: a picture had cost a tenth of its price."""
    result = medium_of(api, model, medium)
    assert (result.cost(AT) is not None) is is_known
    (attempt,) = result.attempts
    assert attempt.media == ((medium,) if medium and medium != "document" else ())
    assert pickle.loads(pickle.dumps(attempt)) == attempt


def test_messages_of_another_vendor_are_not_priced() -> None:
    """What another service counts when it speaks the Messages API is not known."""
    result = result_of(Usage(9, 9, 18, 0, 0, 0), model="deepseek-chat")
    assert cost_of("messages", "api.deepseek.com", result, AT) is None


def test_a_result_of_no_call_has_no_cost() -> None:
    """A result that somebody made by hand does not know who answered."""
    assert Result(text="Hi", model=MINI).cost() is None
    assert result_of(Usage(1000, 100, 1100, 0, 0, 0)).cost() is None


def test_a_model_that_is_not_named_is_unknown() -> None:
    """No name in the answer: none is assumed, an Azure deployment may be called anything."""
    usage = result_of(Usage(1000, 100, 1100, 0, 0, 0), model=None)
    assert cost_of("chat", "name.openai.azure.com", usage, AT) is None


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is the installed one: no socket is opened, no updater runs."""
    opened: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda *a: opened.append(a))
    monkeypatch.setattr(genai_prices.UpdatePrices, "start", lambda *a, **k: opened.append(a))
    threads = other_threads()
    assert asked(client_of(said())).cost() is not None
    assert (opened, other_threads() - threads) == ([], set())


# ---- without the extra ---------------------------------------------------------------------------


@pytest.fixture
def no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def find(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "genai_prices":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", find)


@pytest.mark.usefixtures("no_extra")
def test_without_the_extra_it_is_named() -> None:
    """Errors of cost() and max_cost= have the install command; calls without them work."""
    result = asked(client_of(said()))
    assert result.text == "one two three"
    for ask in (result.cost, lambda: client_of(max_cost=1)):
        with pytest.raises(ConfigurationError, match=r'pip install "llmstream-sync\[cost\]"'):
            ask()


@pytest.mark.usefixtures("no_extra")
def test_a_limit_needs_no_list_where_the_service_reports_the_cost(
    nothing_left: None, caplog: pytest.LogCaptureFixture
) -> None:
    """By the host or the profile; an answer without one is not counted, and one warning is
    logged. Elsewhere the limit would limit nothing, so it is refused."""

    def answered(**usage: Any) -> Reply:
        counts = {"prompt_tokens": 63, "completion_tokens": 255, **usage}
        choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}
        chunk = json.dumps({"id": "c", "model": "new", "choices": [choice], "usage": counts})
        return Reply([f"data: {chunk}\n\ndata: [DONE]\n\n".encode()])

    for where in (
        {"base_url": "https://openrouter.ai/api/v1"},
        {"base_url": "https://api.x.ai/v1"},
        {"base_url": "http://gateway.test/v1", "profile": "openrouter"},
    ):
        caplog.clear()
        replies = [answered(), answered(), answered(cost=0.75), answered(cost=0.25)]
        client = client_of(*replies, api="chat", max_cost=1, **where)
        for _ in replies:
            asked(client)
        assert client.cost == 1
        with pytest.raises(ConfigurationError, match="limit is 1 USD"):
            asked(client)
        assert [r.getMessage()[:9] for r in caplog.records if r.levelname == "WARNING"] == [
            "max_cost:"
        ]
    for base_url in (OPENAI, "https://api.groq.com/openai/v1", "http://gateway.test/v1"):
        with pytest.raises(ConfigurationError, match=r'unless the service.*sync\[cost\]"'):
            client_of(api="chat", base_url=base_url, max_cost=1)
    with pytest.raises(ConfigurationError, match="max_cost"):
        CostLimit(1)
    assert CostLimit(1, reported=True).spent == 0


# ---- a cost that the service reports -------------------------------------------------------------

REPORTED = Usage(63, 255, 318, cost=0.00123)


def test_a_reported_cost_comes_first() -> None:
    """Also for a model and a gateway that no list has; `source` says who reported it."""
    for api, host, model in (
        ("chat", "openrouter.ai", "x-ai/some-new-model"),
        ("messages", "127.0.0.1", None),
        ("responses", "api.openai.com", MINI),
    ):
        cost = cost_of(api, host, result_of(REPORTED, model=model), AT)
        assert cost is not None
        assert (cost.amount, cost.input, cost.output) == (Decimal("0.00123"), None, None)
        assert (cost.provider, cost.model, cost.currency) == (host, model or "", "USD")
        assert (cost.source, cost.as_of) == (f"reported by {host}", NOW.date())
        assert cost.lower_bound is False
        assert pickle.loads(pickle.dumps(cost)) == cost


def test_what_is_reported_to_be_free_is_free() -> None:
    cost = cost_of("chat", "h", result_of(Usage(1, 1, 2, cost=0.0)), AT)
    assert cost is not None
    assert cost.amount == 0


@pytest.mark.usefixtures("no_extra")
def test_a_reported_cost_needs_no_list() -> None:
    cost = cost_of("chat", "openrouter.ai", result_of(REPORTED), AT)
    assert cost is not None
    assert cost.amount == Decimal("0.00123")


def test_attempts_with_and_without_a_reported_cost() -> None:
    """All that is known is added; an attempt that may be billed makes it a lower bound."""

    def cost_with(other: Attempt, host: str = "openrouter.ai") -> Cost:
        last = Attempt(number=2, started_ms=0.0, phase="done", status=200, usage=REPORTED)
        cost = cost_of("chat", host, Result(model=MINI, attempts=(other, last)), AT)
        assert cost is not None
        return cost

    error = StreamInterrupted("cut")
    cut = Attempt(number=1, started_ms=0.0, phase="body", status=200, error=error)
    assert (cost_with(cut).amount, cost_with(cut).lower_bound) == (Decimal("0.00123"), True)
    refused = msgspec.structs.replace(cut, status=503, phase="headers")
    assert cost_with(refused).lower_bound is False
    twice = cost_with(msgspec.structs.replace(cut, usage=REPORTED))
    assert (twice.amount, twice.lower_bound) == (Decimal("0.00246"), True)
    priced = msgspec.structs.replace(cut, usage=Usage(1000, 100, 1100, 200, 10, 0))
    assert cost_with(priced, "api.openai.com").amount > Decimal("0.00123")


@every("api", ["chat", "messages", "responses", "gemini"])
@every(
    ("header", "cost"),
    [("0.0125", 0.0125), ("1.5e-05", 1.5e-05), ("0", None), ("0.0", None)]
    + [(word, None) for word in ("", "None", "nan", "inf", "-1", "1e999", "x")],
)
def test_the_cost_in_a_header(api: str, header: str, cost: float | None) -> None:
    """LiteLLM's. Before the end of a stream its 0 means unknown; other words are none."""
    reply = Reply(Answer("ok"), headers={"x-litellm-response-cost": header})
    client = Client(
        api, base_url="http://gateway.example/v1", model="m", transport=FakeTransport(reply)
    )
    result = client.stream("x").result()
    assert result.usage.cost == cost
    assert (result.usage.input_tokens, result.usage.output_tokens) == (12, 34)
    found = result.cost()
    if cost is None:
        assert found is None
    else:
        assert found is not None
        assert (found.amount, found.source) == (
            Decimal(str(cost)),
            "reported by gateway.example",
        )


def test_a_cost_in_the_body_replaces_the_one_of_a_header() -> None:
    """It is of the whole answer."""
    blocks = Answer("ok").blocks("chat")
    body = [b.replace(b'"prompt_tokens":', b'"cost":0.5,"prompt_tokens":') for b in blocks]
    reply = Reply(body, headers={"x-litellm-response-cost": "0.1"})
    client = Client(
        "chat", base_url="http://gateway.example/v1", model="m", transport=FakeTransport(reply)
    )
    assert client.stream("x").result().usage.cost == 0.5


def test_a_call_to_a_gateway_that_reports_its_cost() -> None:
    """From the stream to the limit of the client."""
    usage = {"prompt_tokens": 63, "completion_tokens": 255, "total_tokens": 318, "cost": 0.00123}
    choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}
    chunk = json.dumps({"id": "c", "model": "new", "choices": [choice], "usage": usage})
    reply = Reply([f"data: {chunk}\n\ndata: [DONE]\n\n".encode()])
    client = client_of(reply, api="chat", base_url="http://gateway.test/v1", max_cost=5)
    cost = asked(client).cost()
    assert cost is not None
    assert cost.amount == client.cost == Decimal("0.00123")
    assert cost.source == "reported by gateway.test"


# ---- a limit -------------------------------------------------------------------------------------

COST = Decimal("0.001065")  # of said(): 800 at 0.75, 200 at 0.075, 100 at 4.50 USD a million


def test_the_limit_refuses_further_calls() -> None:
    """Once the known cost reaches max_cost, nothing more is sent, and the error has the amounts."""
    client = client_of(*[said()] * 3, max_cost="0.00213")
    assert client.cost == 0
    asked(client)
    assert client.cost == COST
    asked(client)
    assert client.cost == 2 * COST == Decimal("0.00213")
    with pytest.raises(ConfigurationError, match=r"0\.002130? USD.*limit is 0\.00213"):
        client.stream("Hi", model="m")
    transport: Any = client._endpoint.transport
    assert len(transport.requests) == 2


def test_a_stream_made_before_is_refused_at_its_first_use() -> None:
    """A call that was prepared and not begun is refused too, before anything is sent."""
    client = client_of(said(), said(), max_cost=0.001)
    first, second = (client.stream("Hi", model="m") for _ in range(2))
    first.result()
    with pytest.raises(ConfigurationError, match="max_cost"):
        second.result()
    transport: Any = client._endpoint.transport
    assert len(transport.requests) == 1


def test_a_call_that_runs_goes_on() -> None:
    """The limit ends no call that has begun."""
    client = client_of(said(), said(), max_cost=0.001)
    second = client.stream("Hi", model="m")
    with second:
        asked(client)
        assert second.result().text == "one two three"
    assert client.cost == 2 * COST


def test_without_a_limit_nothing_is_counted() -> None:
    """cost is None without max_cost; an infinite one counts and refuses nothing."""
    assert client_of().cost is None
    client = client_of(said(), said(), max_cost="inf")
    asked(client)
    asked(client)
    assert client.cost == 2 * COST


def test_failed_calls_count_with_what_is_known() -> None:
    """What an error's attempts have reported counts; a cut call that reported nothing does not."""
    client = client_of(
        said(HAIKU, 700, 1, error={"type": "api_error"}),
        Reply.error(400),
        api="messages",
        base_url=ANTHROPIC,
        max_cost=1,
    )
    for _ in range(2):
        with pytest.raises(LLMStreamError):
            asked(client)
    assert client.cost == listed(HAIKU, ANTHROPIC, input_tokens=700, output_tokens=1)


def test_what_is_not_known_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A service without prices: calls go on uncounted, and one warning is logged."""
    client = client_of(*[said()] * 2, base_url="https://llm.example.org/v1", max_cost=0.0001)
    for _ in range(2):
        asked(client)
    warnings = [r.getMessage() for r in caplog.records if "max_cost" in r.getMessage()]
    assert len(warnings) == 1
    assert MINI in warnings[0]
    assert "llm.example.org" in warnings[0]
    assert client.cost == 0


@every("limit", [0, -1, "0", "nan", "much", float("nan"), True, [5], b"5", ""])
def test_what_is_no_amount_is_refused(limit: Any) -> None:
    """max_cost is an amount of USD greater than 0."""
    with pytest.raises(ConfigurationError, match="max_cost"):
        client_of(max_cost=limit)


@every("limit", [5, 0.5, "2.50", Decimal("0.01"), "1e3", float("inf")])
def test_an_amount_is_a_number_or_its_text(limit: Any) -> None:
    """Numbers are taken as they are written, without the noise of floats."""
    assert CostLimit(limit).limit == Decimal(str(limit))


def test_observers_still_hear() -> None:
    """The limit is added to the caller's own observers; what is not a list is still refused."""
    ends: list[str] = []

    class Mine:
        def on_end(self, call: Any, end: Any) -> None:
            ends.append(end.outcome)

    client = client_of(said(), observers=[Mine()], max_cost=1)
    asked(client)
    assert (ends, client.cost) == (["success"], COST)
    with pytest.raises(ConfigurationError, match="observers"):
        client_of(observers=7, max_cost=1)


def test_many_threads_are_added_up(nothing_left: None) -> None:
    """No cost is lost between threads, and once the limit is reached no call starts."""
    client = client_of(*[said()] * 64, max_cost=Decimal("0.0426"))  # 40 calls
    refused: list[Exception] = []

    def work() -> None:
        for _ in range(8):
            try:
                asked(client)
            except ConfigurationError as error:
                refused.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    transport: Any = client._endpoint.transport
    made = len(transport.requests)
    assert client.cost == made * COST
    assert made + len(refused) == 64
    assert 40 <= made <= 47  # those that had begun when the 40th ended


COUNTS_IN_A_CHILD = """
    import faulthandler, os
    from test_cost import asked, client_of, said

    client = client_of(said(), max_cost=1)
    client._cost_limit._lock.acquire()
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(20, exit=True)  # says where it hangs
        asked(client)
        print("child", client.cost, flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    print("parent", client.cost)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_frees_the_lock() -> None:
    """A child that was forked while another thread was counting can count."""
    assert output_of(COUNTS_IN_A_CHILD, **HERE).split() == ["child", str(COST), "parent", "0"]


def test_a_real_call_without_a_price(server: LLMServer) -> None:
    """Over a real connection to a server on loopback: the usage is known, the cost is not."""
    server.script(said())
    with Client(base_url=server.base_url, max_cost=1) as client:
        result = asked(client)
        assert result.usage.input_tokens == 1000
        assert result.cost() is None
        assert result.service is not None
        assert (result.service.api, result.service.host) == ("responses", "127.0.0.1")
        assert client.cost == 0


def test_it_is_json(server: LLMServer) -> None:
    """A cost goes into a log or a database as plain JSON."""
    cost = cost_of("responses", "api.openai.com", result_of(Usage(1000, 100, 1100, 200, 0, 0)), AT)
    row = json.loads(msgspec.json.encode(cost))
    assert row["amount"] == "0.001065"
    assert (row["as_of"], row["currency"]) == ("2026-11-21", "USD")
