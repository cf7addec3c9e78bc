"""Properties of whatever may come: bytes, events and headers of any form, and cancels at any
moment. What holds of every session is written down once, in `fuzz/oracle.py`, for the fuzzer too.
"""

from __future__ import annotations

import json
import math
import random
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from corpus import PROPERTY, random_pieces, replay
from faults import APIS, ENDING, FAR, FAULTS, TWICE, VIEWS, WORDS, Plan, Service, read, refusal
from fuzz.mutate import OPS, Op, damaged
from fuzz.oracle import Case, calls_of, check, fed, outcome, read_events, read_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from support import PATIENCE, eventually, open_sockets, other_threads

from llmstream import Cancelled, Client, RetryPolicy, ServerError
from llmstream._core.framing import Framer, split_blocks
from llmstream._core.retry import parse_retry_after
from llmstream._core.sse import parse
from llmstream.errors import AuthenticationError, ConnectionFailed, RateLimitError, StreamTruncated
from llmstream.result import LLMStreamError
from llmstream.testing import Answer, LLMServer

NO_LIMIT = 1 << 30

# --- framing and lines --------------------------------------------------------------------------

SOUP = st.sampled_from(
    [
        *(b"\r", b"\n", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n"),
        *(b":", b": ", b" ", b"  ", b"\0", b"\t", b"\x0b", b"\x0c", b"\x1c"),
        *(b"data", b"data:", b"data: ", b"event", b"event:", b"event: x", b"id: 1", b"retry: 5"),
        *(b"Data: ", b" data: ", b"databank: ", b"[DONE]", b"{}", b"x", "é\u2028\x85".encode()),
        *(b"\xef\xbb\xbf", b"\xef\xbb", b"\xbf", b"\xff", b"\xe2\x80", b"\xc3", b"\xf0\x9f\x99"),
    ]
)
SOUPS = st.lists(SOUP, max_size=30).map(b"".join)
PIECES = st.lists(st.lists(SOUP, min_size=1, max_size=8).map(b"".join), max_size=10)


def heard(pieces: Iterable[bytes], limit: int = NO_LIMIT) -> list[tuple[str, str]]:
    """The events of a stream: framed and parsed, as the library does it."""
    framer = Framer(limit)
    parsed = (event for piece in pieces for event in parse(framer.feed(piece)))
    return [(event[0], event[1].decode("utf-8", "replace")) for event in parsed]


@pytest.mark.slow
@settings(PROPERTY, max_examples=400)
@given(PIECES)
def test_any_soup_is_read_as_the_standard_says(pieces: list[bytes]) -> None:
    """BOMs, line ends, colons, NULs and invalid UTF-8 in any order and any pieces: the events and
    their data are those of the standard's own algorithm, applied to the whole as text."""
    assert heard(pieces) == list(read_events(b"".join(pieces)))


@pytest.mark.slow
@settings(PROPERTY, max_examples=300)
@given(SOUPS, st.integers(0, 99), st.integers(3, 60))
def test_no_pieces_make_a_difference_under_a_cap(data: bytes, seed: int, limit: int) -> None:
    """With a cap that the stream outgrows or not: whole, in random pieces and byte by byte the
    blocks and the overflow are the same, and what is held never exceeds the cap."""
    found = []
    for pieces in ([data], random_pieces(seed)(data), [bytes([byte]) for byte in data]):
        framer = Framer(limit)
        blocks = []
        for piece in pieces:
            blocks += split_blocks(framer.feed(piece))
            held = len(framer._held)
            assert held == framer.pending <= limit + 1  # the line's own newline is not the block's
        assert all(len(block) <= limit for block in blocks)
        found.append((blocks, framer.overflow))
    assert found[1:] == found[:1] * 2
    whole = split_blocks(Framer(NO_LIMIT).feed(data))
    assert found[0][0] == whole[: len(found[0][0])]  # nothing else than without a cap
    assert found[0][1] or found[0][0] == whole


def test_the_standard_is_written_down_rightly() -> None:
    """The reference itself, on the standard's own examples."""
    lines = list(read_lines("a\rb\nc\r\nd\n\re"))
    assert lines == ["a", "b", "c", "d", ""]
    stocks = b"data: YHOO\ndata: +2\ndata: 10\n\n"
    assert list(read_events(stocks)) == [("message", "YHOO\n+2\n10")]
    four = (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event"
    )
    assert list(read_events(four + b"\n\n"))[2] == ("message", " third event")
    assert len(list(read_events(four))) == 2
    assert list(read_events(b"data\n\ndata\ndata\n\ndata:")) == [("message", ""), ("message", "\n")]
    assert list(read_events(b"event: add\ndata: 1\n\ndata: 2\n\n"))[1] == ("message", "2")


# --- sessions -----------------------------------------------------------------------------------

TEXTS = st.text(max_size=12)
CALLS = st.tuples(st.sampled_from("fg"), st.sampled_from(['{"a": [1, "x"]}', "{}", '{"b": null}']))
ANSWERS = st.builds(
    Answer,
    st.lists(TEXTS.filter(bool), max_size=4),
    thinking=st.lists(TEXTS.filter(bool), max_size=2),
    refusal=st.sampled_from(["", "", "", "I cannot"]),
    tool_calls=st.lists(CALLS, max_size=2),
    finish=st.sampled_from(["stop", "stop", "length", "content_filter"]),
    usage=st.sampled_from([None, (1, 2), (1, 2, 3, 4)]),
    error=st.sampled_from([None, None, None, {"code": "server_error", "message": "m"}]),
)
OPERATIONS = st.builds(
    Op, st.sampled_from(sorted(OPS)), st.integers(0, 40), st.integers(0, 300), st.integers(0, 300)
)


def check_damage(api: str, answer: Answer, ops: Sequence[Op], seed: int, **settings: Any) -> None:
    check(Case(b"".join(damaged(answer.blocks(api), ops)), api, seed=seed, **settings))


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
@settings(PROPERTY, max_examples=120)
@given(ANSWERS, st.lists(OPERATIONS, max_size=6), st.integers(0, 255))
def test_any_damage_is_an_honest_end(api: str, answer: Answer, ops: list[Op], seed: int) -> None:
    """Events lost, doubled, moved, cut, garbled, with fields of other types and nested in others:
    nothing is raised, the end is a success behind a terminal event or one of three errors, what is
    delivered is what is kept, no call is safe that does not parse, in any pieces the same."""
    check_damage(api, answer, ops, seed)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("api", APIS)
def test_very_much_damage(api: str) -> None:
    """The same, four thousand times, with every profile and several choices."""
    chance = random.Random(api)
    words = ["one ", "two", " \U0001f642", "\u2028", '"}', "[DONE]"]
    names = sorted(OPS)
    for _ in range(4000):
        answer = Answer(
            chance.choices(words, k=chance.randint(0, 4)),
            thinking=chance.choices(words, k=chance.randint(0, 2)),
            tool_calls=[("f", '{"a": 1}')] * chance.randint(0, 2),
            error=chance.choice([None, None, {"code": "server_error"}]),
        )
        ops = [
            Op(chance.choice(names), *(chance.randrange(999) for _ in range(3)))
            for _ in range(chance.randint(1, 6))
        ]
        profile = chance.choice(("default", "mistral", "groq", "openrouter"))
        choices = chance.choice((1, 1, 2))
        check_damage(api, answer, ops, chance.randrange(256), profile=profile, choices=choices)


def closed_calls(api: str, blocks: Iterable[bytes]) -> int:
    """How many calls the service has closed in these blocks of an answer, read from the wire."""
    events = [json.loads(data) for _, data in read_events(b"".join(blocks)) if data != "[DONE]"]
    if api == "responses":
        done = [e["item"]["type"] for e in events if e["type"] == "response.output_item.done"]
        return done.count("function_call")
    if api == "messages":
        starts = [e for e in events if e["type"] == "content_block_start"]
        tools = {e["index"] for e in starts if e["content_block"]["type"] == "tool_use"}
        return len(tools & {e["index"] for e in events if e["type"] == "content_block_stop"})
    if api == "gemini":  # each is whole in its part
        parts = [p for e in events for c in e["candidates"] for p in c["content"]["parts"]]
        return sum("functionCall" in part for part in parts)
    finished = any(choice["finish_reason"] for e in events for choice in e["choices"])
    pieces = [p for e in events for c in e["choices"] for p in c["delta"].get("tool_calls", ())]
    return len({piece["index"] for piece in pieces}) if finished else 0


# Calls in an answer that a limit has cut are another matter (`test_core_state.py`).
WHOLE = ANSWERS.filter(lambda a: a.error is None and (a.finish == "stop" or not a.calls))


@pytest.mark.parametrize("api", APIS)
@settings(PROPERTY, max_examples=100)
@given(WHOLE, st.data())
def test_any_cut_is_a_prefix(api: str, answer: Answer, data: st.DataObject) -> None:
    """Cut at any byte, an answer's text is a prefix, a call is safe exactly when its end came, and
    it is a success exactly when the end of the answer came."""
    blocks = answer.blocks(api)
    whole = Case(b"".join(blocks), api)
    events, session = fed(whole, [whole.body])
    session.receive_eof()
    full = outcome(whole, events, session)
    assert full["error"] is None
    assert len(full["calls"][0]) == len(answer.calls)

    keep = data.draw(st.integers(0, len(blocks) - 1), "whole blocks")
    rest = data.draw(st.integers(0, len(blocks[keep]) - 2), "bytes of the next")
    case = Case(b"".join(blocks[:keep]) + blocks[keep][:rest], api)
    events, session = fed(case, [case.body])
    session.receive_eof()
    cut = outcome(case, events, session)
    for said, before in zip(full["said"], cut["said"], strict=True):
        assert said.startswith(before)
    safe = calls_of(case, session)[0]
    assert len(safe) == closed_calls(api, blocks[:keep])
    assert safe == full["calls"][0][: len(safe)]
    ends = b'"finish_reason":"' if api == "chat" else blocks[-1]
    came = any(ends in block for block in blocks[:keep])
    assert (session.error is None) is came
    assert came or type(session.error) is StreamTruncated


def test_an_event_too_large_behind_the_end_is_no_error() -> None:
    """A chat answer is complete with its finish; what is too large behind it is only the end."""
    body = b"".join(Answer("hi", usage=None).blocks("chat")[:-1]) + b": " + b"x" * 2000
    events, session = replay([body], "chat", limit=1000)
    assert session.complete
    assert session.error is None
    assert "".join(chunk.text for event in events for chunk in event.chunks) == "hi"


# --- retries ------------------------------------------------------------------------------------

SECONDS = st.floats(0, 1e6)
POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 8),
    base=SECONDS,
    cap=st.one_of(SECONDS, st.just(math.inf)),
    jitter=st.floats(0, 10),
    max_retry_after=SECONDS,
)
ERRORS = st.one_of(
    st.builds(RateLimitError, st.just("m"), retry_after=st.one_of(st.none(), SECONDS)),
    st.builds(ServerError, st.just("m"), retry_after=st.one_of(st.none(), SECONDS)),
    st.builds(AuthenticationError, st.just("m"), retry_after=st.one_of(st.none(), SECONDS)),
    st.builds(ConnectionFailed, st.just("m")),
)


@settings(PROPERTY, max_examples=400)
@given(
    POLICIES,
    ERRORS,
    st.integers(1, 2000),
    st.floats(0, 1, exclude_max=True),
    st.one_of(st.just(math.inf), st.floats(-10, 1e6)),
)
def test_a_wait_is_within_its_bounds(
    policy: RetryPolicy, error: LLMStreamError, failures: int, chance: float, remaining: float
) -> None:
    """Under any policy: the server's wait and the backoff are floors, the jitter's share above the
    greater of them is the ceiling, and there is no wait past an attempt, a deadline or a limit."""
    delay = policy.next_delay(error, failures, chance, remaining)
    asked = getattr(error, "retry_after", None) or 0.0
    backoff = min(policy.cap, policy.base * 2.0 ** (failures - 1)) if failures <= 64 else 0.0
    floor = max(asked, backoff)
    if delay is None:
        assert (
            failures >= policy.max_attempts
            or not error.retryable
            or asked > policy.max_retry_after
            or floor * (1 + policy.jitter) >= remaining
        )
        return
    assert error.retryable
    assert failures < policy.max_attempts
    assert asked <= policy.max_retry_after
    assert floor <= delay < remaining
    assert delay <= floor + policy.jitter * floor * (1 + 1e-9)


NUMBERS = ["0", "5", "-1", "1.5", "1e400", "nan", "inf", "-0", "+3", " 7 ", "1_000", "٣", "0x1"]
DATES = [
    *("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT"),
    *("Sun Nov  6 08:49:37 1994", "Sat, 31 Feb 2026 99:99:99 GMT", "1, 1 Jan 99999 0:0 +9999"),
    *("Mon, 01 Jan 0001 00:00:00 -2359", "Fri, 31 Dec 9999 23:59:59 -2359", "1 Jan 2026 0:0:0 EST"),
]
HEADER = st.one_of(
    st.text(max_size=30),
    st.sampled_from([*NUMBERS, *DATES]),
    st.lists(st.sampled_from([*NUMBERS, *DATES, ",", ":", " "]), max_size=3).map("".join),
    st.datetimes().map(lambda at: at.strftime("%a, %d %b %Y %H:%M:%S GMT")),
    st.text("0123456789.eE+-_: ,GMT", max_size=400),
)


@pytest.mark.slow
@settings(PROPERTY, max_examples=400)
@given(
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "x"]), HEADER),
    st.one_of(st.just(""), HEADER.map("try again in {}s".format)),
    st.one_of(st.floats(0, 4e9), st.floats(-1e300, 1e300)),
)
def test_any_header_is_a_wait_or_none(headers: dict[str, str], said: str, now: float) -> None:
    """Numbers and dates of any form, at any time: None, or a finite number of 0 or more."""
    found = parse_retry_after(headers, said, now)
    assert found is None or 0 <= found < math.inf


# --- cancels at any moment ----------------------------------------------------------------------


def cancel_somewhere(api: str, count: int, seed: int) -> Counter[str]:
    """`count` calls on bad days, each cancelled by another thread at a random moment; between two
    of them a good one. Returns how often which end came."""
    chance = random.Random(f"{api} {seed}")
    threads, sockets = other_threads(), open_sockets()
    ends: Counter[str] = Counter()
    service = Service()
    with LLMServer() as server:
        server.default = service
        url = server.base_url_for(api)
        with Client(api, base_url=url, api_key="k", model="m", retry=TWICE) as client:
            for number in range(0, 2 * count, 2):
                fault = chance.choice([*FAULTS])
                plan = Plan(number, 0, fault, chance.randint(1, WORDS - 1))
                known = len(server.requests)
                stream = client.stream(plan.prompt, timeouts=plan.timeouts)
                # Most of what a call does, it does in its first milliseconds.
                delay = 0.02 * chance.random() ** 3
                if fault in ENDING and chance.random() < 0.2:
                    delay = FAR
                canceller = threading.Timer(delay, stream.cancel, ["at random"])
                canceller.start()
                seen = read(stream, chance.choice([*VIEWS]))
                canceller.cancel()
                canceller.join()
                wrong = refusal(plan, seen, cancelled=delay < FAR)
                assert not wrong, f"{plan}: {wrong}"
                ends[type(seen.error).__name__] += 1
                for request in server.requests[known:]:
                    if not FAULTS[fault].ends and fault != "503 for long":
                        server.wait_closed(request)
                    eventually(lambda r=request: r.closed_at or r.finished_at, "it was left")
                good = Plan(number + 1, 0, "none")
                wrong = refusal(good, read(client.stream(good.prompt)))
                assert not wrong, f"behind {plan}: {wrong}"
        server.wait_all_closed(PATIENCE)
    eventually(lambda: other_threads() <= threads, "no thread is left")
    eventually(lambda: open_sockets() <= sockets, "no socket is left")
    return ends


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "count", [60, pytest.param(1500, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_a_cancel_at_any_moment_of_any_day(api: str, count: int, nothing_left: None) -> None:
    """Whatever the service does and whenever the cancel comes: the reader gets Cancelled or what
    the script demands, the server sees that it was left, the client is still of use, and no thread
    and no socket is left."""
    ends = cancel_somewhere(api, count, seed=count)
    assert ends.total() == count
    assert ends["Cancelled"] > count // 4  # it was a test of cancels
    assert len(ends) > 5  # and of bad days


class _Leaving(RetryPolicy, frozen=True):
    """The user leaves while the policy computes."""

    leave: Any = None

    def next_delay(self, *args: Any) -> float | None:
        self.leave()
        return super().next_delay(*args)


def test_a_cancel_between_a_failure_and_the_retry(nothing_left: None) -> None:
    """It ends the call as everywhere else: without the cancel nobody would have seen the error."""
    service = Service()
    with LLMServer() as server:
        server.default = service
        with Client(base_url=server.base_url, api_key="k") as client:
            plan = Plan(0, 0, "503, then good")
            streams: list[Any] = []
            policy = _Leaving(base=0.0, cap=0.0, leave=lambda: streams[0].cancel("left"))
            streams.append(client.stream(plan.prompt, retry=policy))
            with pytest.raises(Cancelled):
                streams[0].result()
            assert service.requests(plan) == 1
