"""A run that is cut anywhere, and resumed from its state: no tool runs on half arguments, none runs
twice, and the answer is that of the run which was not cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from queue import SimpleQueue
from typing import Any

import pytest
from every import every
from support import AT_ONCE, PATIENCE, eventually, interrupted, other_threads
from talking import APIS, PROMPT, Model, as_stored, cut_after

from llmstream import Cancelled, Chunk, Client, LLMStreamError, StreamInterrupted
from llmstream.testing import Answer, FakeTransport
from llmstream.tools import ToolFinished, ToolInterrupted, ToolStarted, Turn, tool

pytestmark = pytest.mark.usefixtures("nothing_left")

# Two calls side by side, one alone, one that fails, and the answer.
TALK = (
    (
        0,
        Answer(
            "I look.",
            tool_calls=[
                ("weather", '{"city": "Rome"}', "call_a"),
                ("add", '{"a": 19, "b": 23}', "call_b"),
            ],
        ),
    ),
    (2, Answer(tool_calls=[("weather", '{"city": "Oslo"}', "call_c")])),
    (3, Answer("Now,", tool_calls=[("divide", '{"by": 0}', "call_d")])),
    (4, Answer("Sunny, 42.")),
)
ANSWER = "Sunny, 42."


class Tools:
    """The tools, and what they were called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def all(self) -> list[Any]:
        def weather(city: str) -> dict[str, str]:
            self.calls.append(("weather", city))
            return {"city": city, "sky": "sunny"}

        def add(a: int, b: int) -> int:
            self.calls.append(("add", a, b))
            return a + b

        def divide(by: int) -> float:
            self.calls.append(("divide", by))
            return 1 / by

        return [weather, add, tool(sequential=True)(divide)]

    def check(self, *, whole: bool) -> None:
        """Each call was made once at most, with whole arguments; each was made if `whole`."""
        expected = {("weather", "Rome"), ("add", 19, 23), ("weather", "Oslo"), ("divide", 0)}
        counts = Counter(self.calls)
        assert counts.keys() <= expected
        assert set(counts.values()) <= {1}
        assert not whole or counts.keys() == expected


def whole_run(api: str) -> list[Any]:
    return [*Model(TALK).client(api).run(PROMPT, Tools().all())]


@every("api", APIS)
def test_a_run_that_is_not_cut(api: str) -> None:
    tools, model = Tools(), Model(TALK)
    run = model.client(api).run(PROMPT, tools.all())
    items = [*run]
    tools.check(whole=True)
    assert run.result().text == run.text == ANSWER
    assert [i.number for i in items if isinstance(i, Turn)] == [1, 2, 3, 4]
    finished = {i.call.id: i for i in items if isinstance(i, ToolFinished)}
    assert finished["call_a"].result == {"city": "Rome", "sky": "sunny"}
    assert finished["call_b"].output == "42"
    assert isinstance(finished["call_d"].error, ZeroDivisionError)
    assert isinstance(items[-1], Turn)
    assert len(model.requests) == 4


@pytest.mark.slow
@every("api", APIS)
def test_the_process_dies_after_any_item(api: str) -> None:
    """What is left is the state that was kept after the last item."""
    for at in range(len(whole_run(api)) + 1):
        tools, model = Tools(), Model(TALK)
        run = model.client(api).run(PROMPT, tools.all())
        state = run.state()
        for _item in islice(run, at):
            state = as_stored(run.state())
        run.cancel()
        eventually(no_tool_runs, "the tools have ended")
        made = [*tools.calls]
        resumed = model.client(api).resume_run(state, tools.all())
        assert resumed.result().text == ANSWER, f"{api}, after {at} items"
        tools.check(whole=False)
        # What was not made before was made after it, but for what was announced only.
        lost = [i for i in state.get("calls", ()) if i.get("status") == "started"]
        assert len(tools.calls) >= 4 - len(lost), (at, made)


def no_tool_runs() -> bool:
    return not any(thread.name == "llmstream-tool" for thread in other_threads())


@pytest.mark.slow
@every("api", APIS)
def test_a_run_that_is_left_after_any_item_and_closed(api: str) -> None:
    """The state of a run that is closed is exact: what had not begun is made later."""
    for at in range(len(whole_run(api)) + 1):
        tools, model = Tools(), Model(TALK)
        with model.client(api).run(PROMPT, tools.all()) as run:
            for _ in islice(run, at):
                pass
        eventually(no_tool_runs, "the tools have ended")
        resumed = model.client(api).resume_run(as_stored(run.state()), tools.all())
        assert resumed.result().text == ANSWER, f"{api}, after {at} items"
        tools.check(whole=True)
        assert not any(
            isinstance(e.error, ToolInterrupted) for e in resumed if isinstance(e, ToolFinished)
        )


def cut_cases() -> Iterator[tuple[str, int, int]]:
    for api in APIS:
        for number, (_, answer) in enumerate(TALK):
            for blocks in range(len(answer.blocks(api))):
                yield api, number, blocks


@pytest.mark.slow
@every("api, number, blocks", cut_cases)
def test_the_network_is_cut_after_any_event_of_any_answer(
    api: str, number: int, blocks: int
) -> None:
    tools, model = Tools(), Model(TALK)
    transport = FakeTransport(*[cut_after(number, blocks, model)] * 9)
    client = Client(api, transport=transport, model="m", api_key="k", retry=AT_ONCE)
    run = client.run(PROMPT, tools.all())
    try:
        answer = run.result()
    except StreamInterrupted:
        before = [*tools.calls]
        with pytest.raises(StreamInterrupted):
            next(run)
        assert tools.calls == before
        answer = model.client(api).resume_run(as_stored(run.state()), tools.all()).result()
    assert answer.text == ANSWER
    tools.check(whole=True)


@every("api, number, blocks", lambda: [*cut_cases()][::3])
def test_a_cut_answer_begins_anew(api: str, number: int, blocks: int) -> None:
    """on_disconnect="restart": the run says so, and the calls of the half answer never ran."""
    tools, model = Tools(), Model(TALK)
    transport = FakeTransport(*[cut_after(number, blocks, model)] * 9)
    client = Client(api, transport=transport, model="m", api_key="k", retry=AT_ONCE)
    told = 0
    shown = ""
    run = client.run(PROMPT, tools.all(), on_disconnect="restart")
    for item in run:
        if isinstance(item, Turn):
            shown = shown if item.result.finish == "stop" else ""
        elif isinstance(item, Chunk) and item.type == "restart":
            told += 1
            shown = ""
        elif isinstance(item, Chunk) and item.type == "text":
            shown += item.text
    assert run.text == shown == ANSWER
    tools.check(whole=True)
    assert told <= 1


# ---- in mid-tool -------------------------------------------------------------------------------


class Gate:
    """A tool that says when it has begun, and ends when it may."""

    def __init__(self) -> None:
        self.begun: SimpleQueue[str] = SimpleQueue()
        self.ends: SimpleQueue[None] = SimpleQueue()
        self.made: list[str] = []

    def work(self, name: str) -> str:
        self.made.append(name)
        self.begun.put(name)
        self.ends.get(timeout=PATIENCE)
        return f"done with {name}"


GATED = (
    (
        0,
        Answer(
            tool_calls=[
                ("work", '{"name": "one"}', "call_1"),
                ("work", '{"name": "two"}', "call_2"),
                ("note", '{"text": "x"}', "call_3"),
            ]
        ),
    ),
    (3, Answer("All is done.")),
)


def ways_to_end() -> dict[str, Callable[[Any], object]]:
    return {
        "cancel": lambda run: run.cancel("the user left"),
        "close": lambda run: run.close(),
        "nothing": lambda run: None,
    }


@every("api, way", lambda: [(api, way) for api in APIS for way in ways_to_end()])
def test_the_process_dies_in_mid_tool(api: str, way: str) -> None:
    """Two tools run, a third has ended: the first two are not made again, and the model is told."""
    gate, model = Gate(), Model(GATED)
    run = run_in_mid_tool(gate, model.client(api))
    ways_to_end()[way](run)
    state = as_stored(run.state())
    assert [one["status"] for one in state["calls"][:2]] == ["started"] * 2
    resumed = model.client(api).resume_run(state, [gate.work, note])
    items = [*resumed]
    lost = [i for i in items if isinstance(i, ToolFinished)]
    assert [i.call.id for i in lost] == ["call_1", "call_2"]
    assert all(isinstance(i.error, ToolInterrupted) for i in lost)
    assert not any(isinstance(i, ToolStarted) for i in items)
    assert resumed.text == "All is done."
    assert sorted(gate.made) == ["one", "two"]
    assert "not known" in model.requests[-1].body.decode()
    for _ in range(2):
        gate.ends.put(None)
    run.close()


def note(text: str) -> str:
    return text


def run_in_mid_tool(gate: Gate, client: Client) -> Any:
    """A run whose third call has ended while the first two run."""
    run = client.run(PROMPT, [gate.work, note])
    for item in run:
        if isinstance(item, ToolFinished):
            break
    for _ in range(2):
        gate.begun.get(timeout=PATIENCE)
    return run


def test_what_ends_after_the_run_is_in_its_state() -> None:
    gate, model = Gate(), Model(GATED)
    run = run_in_mid_tool(gate, model.client("chat"))
    run.cancel("enough")
    with pytest.raises(Cancelled):
        next(run)
    for _ in range(2):
        gate.ends.put(None)
    eventually(no_tool_runs, "the tools have ended")
    state = as_stored(run.state())
    assert [one["status"] for one in state["calls"]] == ["finished"] * 3
    assert state["calls"][0]["output"] == "done with one"
    resumed = model.client("chat").resume_run(state, [gate.work, note])
    assert [type(i) for i in resumed if not isinstance(i, Chunk)] == [Turn]
    assert len(gate.made) == 2


def test_the_caller_knows_what_came_of_a_lost_call() -> None:
    gate, model = Gate(), Model(GATED)
    run = run_in_mid_tool(gate, model.client("messages"))
    state = as_stored(run.state())
    for _ in range(2):
        gate.ends.put(None)
    run.close()
    resumed = model.client("messages").resume_run(
        state, [gate.work, note], outcomes={"call_1": {"rows": 3}}
    )
    ends = {i.call.id: i for i in resumed if isinstance(i, ToolFinished)}
    assert ends["call_1"].result == {"rows": 3}
    assert ends["call_1"].ok
    assert isinstance(ends["call_2"].error, ToolInterrupted)
    assert '{\\"rows\\": 3}' in model.requests[-1].body.decode()


# ---- interrupts --------------------------------------------------------------------------------


# Not run.py: a tracer may interrupt at the end of a `with`, where a signal cannot
# (`_runtime.threads`).
_PLACES = ("/tools/loop", "/tools/calling", "/tools/deciding", "/tools/entries", "/_core/tool_loop")


@pytest.mark.slow
@pytest.mark.parametrize(  # the same lines on each API
    ("api", "step"), [("chat", 2), ("responses", 11), ("messages", 11), ("gemini", 11)]
)
def test_an_interrupt_at_any_line(api: str, step: int) -> None:
    """A KeyboardInterrupt at one in `step` of the lines that the reader's thread executes."""
    tools = Tools()

    def once(at: int) -> int:
        nonlocal tools
        tools, model = Tools(), Model(TALK)
        run = model.client(api).run(PROMPT, tools.all())

        def work() -> None:
            for _ in run:
                pass

        lines = interrupted(work, at, _PLACES)
        if lines < at:
            return lines
        run.close()
        assert run.ended
        eventually(no_tool_runs, "the tools have ended")
        state = as_stored(run.state())
        resumed = model.client(api).resume_run(state, tools.all())
        assert resumed.result().text == ANSWER
        tools.check(whole=False)
        return lines

    total = once(10**9)
    assert total > 100
    for at in range(1, total, step):
        once(at)


def test_an_error_of_the_caller_leaves_a_run_that_goes_on() -> None:
    """What the caller's own loop raises is none of the run's business."""
    tools, model = Tools(), Model(TALK)
    run = model.client("chat").run(PROMPT, tools.all())

    def loop() -> None:
        for item in run:
            if isinstance(item, ToolStarted):
                raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        loop()
    assert run.result().text == ANSWER
    tools.check(whole=True)


def test_every_error_of_a_run_is_raised_again() -> None:
    model = Model(TALK)
    transport = FakeTransport(*[cut_after(0, 2, model)] * 9)
    client = Client("chat", transport=transport, model="m", api_key="k", retry=AT_ONCE)
    run = client.run(PROMPT, Tools().all())
    errors: list[LLMStreamError] = []
    for _ in range(2):
        with pytest.raises(LLMStreamError) as caught:
            run.result()
        errors.append(caught.value)
    assert errors[0] is errors[1]
