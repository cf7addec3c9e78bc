"""The three levels of an answer: the response, its items, their content."""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any

import pytest
from corpus import PROPERTY, is_json
from every import every
from hypothesis import given
from hypothesis import strategies as st

from llmstream._core.state import ContentState, ItemState, State, merge_usage
from llmstream._core.tool_calls import ToolCallState, item_calls, partition_calls
from llmstream.result import Usage

TYPES = {"function_call": "json", "custom_tool_call": "text"}


# --- content ------------------------------------------------------------------------------------


@every(
    ("deltas", "whole", "late", "text"),
    [
        ([], "hello", "hello", "hello"),
        (["hel", "lo"], "hello", "", "hello"),
        (["hel"], "hello", "lo", "hello"),
        (["hello"], "hel", "", "hel"),
        (["other"], "hello", "", "hello"),
        (["no"], "hello", "", "hello"),
        (["hello"], "", "", "hello"),
        ([], "", "", ""),
        (["é"], "é!", "!", "é!"),
    ],
)
def test_finish_returns_what_no_delta_had_brought(
    deltas: list[str], whole: str, late: str, text: str
) -> None:
    """The service's word for the whole stands; what of it is new is handed on once."""
    part = ContentState(0, "text")
    part.deltas.extend(deltas)
    assert part.text == "".join(deltas)
    assert part.done is False
    assert part.finish(whole) == late
    assert (part.text, part.done, part.deltas) == (text, True, [])
    assert part.finish(whole) == ""
    assert part.finish(whole + " again") == ""
    assert part.text == text


@PROPERTY
@given(st.lists(st.text(max_size=4), max_size=6), st.integers(0, 30), st.text(max_size=4))
def test_a_late_rest_completes_and_never_repeats(deltas: list[str], heard: int, rest: str) -> None:
    """However much of the whole the deltas brought: deltas and late rest together are it."""
    whole = "".join(deltas) + rest
    part = ContentState(0, "text")
    part.deltas.extend(deltas[:heard])
    before = part.text
    assert before + part.finish(whole) == whole


# --- items --------------------------------------------------------------------------------------


def test_items_are_found_by_their_index_then_by_their_id() -> None:
    """The index is trusted before the id; the id where there is no index; else the last one."""
    state = State()
    first = state.item(0, "a")
    second = state.item(1, "b")
    assert state.item(0, "b") is first  # Copilot's ids change, the index holds
    assert state.item(0, "zzz") is first
    assert state.item(None, "a") is first
    assert state.item(None, "b") is second
    assert state.item(None, None) is second
    third = state.item(None, "c")
    assert (third.index, state.item(2, None)) == (2, third)
    assert [item.index for item in state.in_order()] == [0, 1, 2]


def test_the_first_item_may_be_nameless() -> None:
    """Neither index nor id: one item."""
    state = State()
    assert state.item(None, None) is state.item(None, None)
    assert len(state.items) == 1


@pytest.mark.parametrize("index", [0, 5, -1, 10**30])
def test_any_index_will_do(index: int) -> None:
    """Items keep the service's positions, gaps included, and stay in order."""
    state = State()
    item = state.item(index, "a")
    other = state.item(None, "b")
    assert (item.index, other.index) == (index, index + 1)
    assert list(state.in_order()) == [item, other]


def test_parts_are_made_when_they_are_first_named() -> None:
    """The announcement of a part may be late or missing."""
    item = ItemState(0)
    text = item.part(("text", 0), "text")
    assert item.part(("text", 0), "text") is text
    assert item.part(("refusal", 0), "refusal") is not text
    assert [part.index for part in item.content.values()] == [0, 1]


def test_what_is_said_is_kept_by_kind() -> None:
    """Text, thinking and refusal are what the chunks brought; arguments are in their items."""
    state = State()
    for kind, text in [("text", "a"), ("thinking", "b"), ("refusal", "c"), ("tool_call", "d")]:
        (chunk,) = state.emit(kind, text, 3)
        assert (chunk.type, chunk.text, chunk.index) == (kind, text, 3)
    state.emit("text", "!", 3)
    assert (state.text, state.thinking, state.refusal) == ("a!", "b", "c")


def test_it_can_be_read_while_garbage_is_collected() -> None:
    """Which CPython before 3.12 does wherever it makes an object: what runs then lets in the thread
    that writes."""
    state = State()
    for number in range(30):
        state.item(number, None).part(number, "text")
    numbers = iter(range(30, 60))

    def write(phase: str, info: dict[str, int]) -> None:
        number = next(numbers, 59)
        state.item(number, None).part(number, "text")
        state.items[0].part(number, "text")

    thresholds = gc.get_threshold()
    kept = [(number, number) for number in range(5000)]  # more than CPython keeps for the next use
    gc.callbacks.append(write)
    gc.set_threshold(1, 10**6, 10**6)  # each new object, the youngest ones only
    try:
        found = [item.index for item in state.in_order()]
        parts = [key for key, _ in state.items[0].content.items()]
        lists = list(state.items), list(state.items.values()), list(state.items.keys())
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(write)
    assert len(kept) == 5000
    assert found == list(range(len(found)))
    assert parts == [0, *range(30, 30 + len(parts) - 1)]
    assert all(len(one) >= 30 for one in lists)


def test_it_can_be_read_while_it_is_written() -> None:
    """A snapshot from another thread never fails and never goes back."""
    state = State()
    over = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        seen = ""
        try:
            while not over.is_set():
                text = state.text
                assert text.startswith(seen)
                seen = text
                positions = [item.index for item in state.in_order()]
                assert positions == sorted(positions)
                list(item_calls(state, TYPES))
        except BaseException as exc:
            failures.append(exc)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for number in range(1500):
            item = state.item(number % 200, None)
            item.type = "function_call"
            item.part(number, "tool_call").deltas.append("x")
            state.emit("text", "x", 0)
        over.set()
        for reader in readers:
            reader.join(10)
    finally:
        sys.setswitchinterval(before)
    assert not failures


# --- calls --------------------------------------------------------------------------------------


def call(arguments: str, *, closed: bool = True, custom: bool = False) -> ToolCallState:
    return ToolCallState("id", "f", arguments, custom, closed)


@every(
    ("made", "cut", "safe", "arguments"),
    [
        (call('{"a":1}'), False, True, '{"a":1}'),
        (call('{"a":1}'), True, True, '{"a":1}'),
        (call('{"a":1}', closed=False), False, False, '{"a":1}'),
        (call('{"a":1'), False, False, '{"a":1'),
        (call('{"a":1', closed=False), True, False, '{"a":1'),
        (call(""), False, True, "{}"),
        (call(""), True, False, ""),
        (call("", closed=False), False, False, ""),
        (call("not json"), False, False, "not json"),
        (call("not json", custom=True), False, True, "not json"),
        (call("not json", custom=True), True, True, "not json"),
        (call("not json", custom=True, closed=False), False, False, "not json"),
        (call("", custom=True), False, True, ""),
        (call("", custom=True), True, True, ""),
        (call("", custom=True, closed=False), True, False, ""),
        (call("[]"), False, True, "[]"),
        (call("null"), False, True, "null"),
        (call("{} {}"), False, False, "{} {}"),
    ],
)
def test_which_calls_are_safe(made: ToolCallState, cut: bool, safe: bool, arguments: str) -> None:
    """Only a closed call whose arguments parse; none at all are {} unless the answer was cut."""
    found = partition_calls(iter([made]), cut, is_json)
    assert [len(calls) for calls in found] == ([1, 0] if safe else [0, 1])
    (only,) = found[0] or found[1]
    assert (only.id, only.name, only.arguments, only.custom) == ("id", "f", arguments, made.custom)


@every(
    ("kind", "status", "closed", "expected"),
    [
        ("function_call", "completed", True, True),
        ("function_call", None, True, True),
        ("function_call", "in_progress", True, True),
        ("function_call", "incomplete", True, False),
        ("function_call", "completed", False, False),
        ("custom_tool_call", "completed", True, True),
        ("mcp_call", "completed", True, None),
        ("message", "completed", True, None),
        (None, None, True, None),
    ],
)
def test_calls_among_the_items(
    kind: str | None, status: str | None, closed: bool, expected: bool | None
) -> None:
    """What the caller is to run are function and custom calls; closed is what the service closed
    and did not call incomplete."""
    state = State()
    item = state.item(0, "i")
    item.type, item.status, item.closed, item.name, item.call_id = kind, status, closed, "f", "c"
    item.part("arguments", "tool_call").deltas.extend(['{"a"', ":1}"])
    item.part(("text", 0), "text").deltas.append("not an argument")
    found = list(item_calls(state, TYPES))
    if expected is None:
        assert found == []
    else:
        assert found == [ToolCallState("c", "f", '{"a":1}', kind == "custom_tool_call", expected)]


def test_a_call_without_a_call_id_has_the_items() -> None:
    """Something has to be quoted with the tool's output."""
    state = State()
    state.item(0, "i").type = "function_call"
    assert next(item_calls(state, TYPES)).id == "i"


# --- usage --------------------------------------------------------------------------------------


@every(
    ("reports", "expected"),
    [
        ([], Usage()),
        ([Usage(1, 2)], Usage(1, 2, 3)),
        ([Usage(1, 2, 9)], Usage(1, 2, 9)),
        ([Usage(1)], Usage(1)),
        ([Usage(None, 2)], Usage(None, 2)),
        ([Usage(1), Usage(None, 2)], Usage(1, 2, 3)),
        ([Usage(1, 1), Usage(1, 5), Usage(1, 9)], Usage(1, 9, 10)),
        ([Usage(5, 5, 10, 3, 2), Usage()], Usage(5, 5, 10, 3, 2)),
        ([Usage(0, 0)], Usage(0, 0, 0)),
        ([Usage(5, 5), Usage(0, 0)], Usage(5, 0, 5)),
        ([Usage(5, 5, 10, 3, 2, 1), Usage(0, 6, 6, 0, 0, 0)], Usage(5, 6, 11, 3, 0, 1)),
        ([Usage(5, 5, 12, 3, 2), Usage(5, 6, 13, 0)], Usage(5, 6, 13, 3, 2)),
        ([Usage(cost=0.5), Usage(1, 2)], Usage(1, 2, 3, cost=0.5)),
    ],
)
def test_usage_is_the_last_known_value_per_field(reports: list[Usage], expected: Usage) -> None:
    """Never a sum of reports; the total is the sum of the two where only they are known."""
    usage = Usage()
    for report in reports:
        usage = merge_usage(usage, report)
    assert usage == expected


COUNTS: Any = st.one_of(st.none(), st.integers(0, 10**9))


@pytest.mark.slow
@PROPERTY
@given(st.lists(st.builds(Usage, COUNTS, COUNTS, st.none(), COUNTS, COUNTS), max_size=5))
def test_usage_never_grows_by_adding(reports: list[Usage]) -> None:
    """Each field is one that was reported; the total is that of the parts."""
    usage = Usage()
    for report in reports:
        usage = merge_usage(usage, report)
    for field in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"):
        said = [getattr(r, field) for r in reports if getattr(r, field) is not None]
        if field in ("input_tokens", "cached_tokens"):  # a 0 replaces no count of the prompt
            said = [count for count in said if count] or said
        assert getattr(usage, field) == (said[-1] if said else None)
    parts = (usage.input_tokens, usage.output_tokens)
    assert usage.total_tokens == (None if None in parts else sum(p or 0 for p in parts))
