"""client.run: which calls are made, when, and what the model is told."""

from __future__ import annotations

import contextvars
import gc
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import tee
from queue import SimpleQueue
from typing import Any

import pytest
from every import every
from support import PATIENCE, eventually, other_threads
from talking import APIS, PROMPT, Model, as_stored, outcomes

from llmstream import (
    Cancelled,
    Chunk,
    Client,
    ConfigurationError,
    DeadlineExceeded,
    Timeouts,
    ToolCall,
)
from llmstream.errors import RunError
from llmstream.telemetry import current_trace_id
from llmstream.testing import Answer, FakeClock, FakeTransport, Pause, Reply
from llmstream.tools import (
    Run,
    ToolArgumentsError,
    ToolContext,
    ToolError,
    ToolFinished,
    ToolProgress,
    ToolRefused,
    ToolStarted,
    ToolTimeout,
    Turn,
    UnknownTool,
    current_call,
    tool,
)

pytestmark = pytest.mark.usefixtures("nothing_left")

DONE = Answer("Done.")


def calls(*names: str, arguments: str = "{}") -> Answer:
    return Answer(tool_calls=[(name, arguments, f"call_{n}") for n, name in enumerate(names)])


def talk(*answers: Answer) -> Model:
    """A model that answers in this order, each with what the calls before have brought."""
    known, rows = 0, []
    for answer in answers:
        rows.append((known, answer))
        known += len(answer.tool_calls)
    return Model(rows)


def told(model: Model) -> dict[str, Any]:
    """The outcomes in the last request, by id."""
    return {one["id"]: one["output"] for one in outcomes(model.requests[-1])}


def kinds(run: Run) -> list[str]:
    return [f"{type(i).__name__} {i.call.name}" for i in run if hasattr(i, "call")]


# ---- which run beside each other ---------------------------------------------------------------


def test_calls_run_side_by_side() -> None:
    """Each waits for the other."""
    here: dict[str, SimpleQueue[None]] = {"one": SimpleQueue(), "two": SimpleQueue()}

    def meet(mine: str, other: str) -> str:
        here[other].put(None)
        here[mine].get(timeout=PATIENCE)
        return threading.current_thread().name

    one = tool(name="one")(lambda: meet("one", "two"))
    two = tool(name="two")(lambda: meet("two", "one"))
    model = talk(calls("one", "two"), DONE)
    assert model.client("responses").run(PROMPT, [one, two]).result().text == "Done."
    assert told(model) == {"call_0": "llmstream-tool", "call_1": "llmstream-tool"}


def test_a_sequential_tool_is_a_barrier() -> None:
    """What is before it has ended, what is after it has not begun."""
    now: set[str] = set()
    seen: dict[str, set[str]] = {}

    def note(name: str) -> None:
        now.add(name)
        seen[name] = set(now)
        now.discard(name)

    before = tool(name="before")(lambda: note("before"))
    alone = tool(name="alone", sequential=True)(lambda: note("alone"))
    model = talk(calls("before", "before", "alone", "alone", "before"), DONE)
    run = model.client("chat").run(PROMPT, [before, alone])
    order = kinds(run)
    assert seen["alone"] == {"alone"}
    assert order[:2] == ["ToolStarted before"] * 2
    assert order[2:4] == ["ToolFinished before"] * 2
    assert order[4:8] == ["ToolStarted alone", "ToolFinished alone"] * 2
    assert order[8:] == ["ToolStarted before", "ToolFinished before"]


@every("api", APIS)
def test_one_call_at_a_time_is_also_asked_for(api: str) -> None:
    add = tool(name="add")(lambda: 3)
    model = talk(calls("add", "add"), DONE)
    run = model.client(api).run(PROMPT, [add], parallel_tools=False)
    assert kinds(run) == ["ToolStarted add", "ToolFinished add"] * 2
    for request in model.requests:
        body = request.json()
        if api == "messages":
            assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
        elif api == "gemini":  # it has no such option
            assert b"parallel" not in request.body
        else:
            assert body["parallel_tool_calls"] is False


def test_a_tool_begins_when_the_item_after_its_announcement_is_asked_for() -> None:
    """A program that keeps the state after each item has noted it before it can have an effect."""
    begun = []
    add = tool(name="add")(lambda: begun.append(1))
    run = talk(calls("add"), DONE).client("chat").run(PROMPT, [add])
    next(item for item in run if isinstance(item, ToolStarted))
    assert run.state()["calls"][0]["status"] == "started"
    assert begun == []
    next(run)
    assert begun == [1]
    run.close()


def test_no_more_threads_than_32() -> None:
    most, now = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        context = current_call()
        assert context is not None
        with lock:
            now -= 1

    model = talk(calls(*["work"] * 100), DONE)
    assert model.client("chat").run(PROMPT, [work]).result().text == "Done."
    assert most <= 32
    assert len(told(model)) == 100


# ---- time limits -------------------------------------------------------------------------------


class Slow:
    """A tool that ends when it is let."""

    def __init__(self) -> None:
        self.begun: SimpleQueue[ToolContext] = SimpleQueue()
        self.let: SimpleQueue[None] = SimpleQueue()
        self.ended: SimpleQueue[None] = SimpleQueue()

    def slow(self) -> str:
        context = current_call()
        assert context is not None
        self.begun.put(context)
        self.let.get(timeout=PATIENCE)
        self.ended.put(None)
        return "too late"


@every("limit", ["of the run", "of the tool"])
def test_a_tool_that_takes_too_long(limit: str) -> None:
    """The model is told, the late result is dropped and counted, and the tool may see it."""
    slow = Slow()
    own = slow.slow if limit == "of the run" else tool(timeout=0.02)(slow.slow)
    model = talk(calls("slow", "quick"), DONE)
    quick = tool(name="quick", timeout=60.0)(lambda: "here")
    run = model.client("messages").run(
        PROMPT, [own, quick], tool_timeout=0.02 if limit == "of the run" else 60.0
    )
    ends = {i.call.name: i for i in run if isinstance(i, ToolFinished)}
    assert isinstance(ends["slow"].error, ToolTimeout)
    assert ends["slow"].seconds == 0.02
    assert "within 0.02 s" in told(model)["call_0"]
    assert told(model)["call_1"] == "here"
    assert outcomes(model.requests[-1])[0]["is_error"] is True
    context = slow.begun.get(timeout=PATIENCE)
    assert context.cancelled
    assert context.remaining == 0.0
    assert run.late_results == 0
    slow.let.put(None)
    eventually(lambda: run.late_results == 1, "the late result is counted")
    assert "too late" not in json.dumps(run.state())


def test_a_tool_may_wait_as_long_as_it_is_wanted() -> None:
    waited = []

    def wait() -> str:
        context = current_call()
        assert context is not None
        waited.append(context.wait(0.001))
        waited.append(context.wait(PATIENCE))
        return "never"

    run = talk(calls("wait"), DONE).client("chat").run(PROMPT, [wait])
    next(item for item in run if isinstance(item, ToolStarted))
    threading.Thread(target=lambda: (eventually(lambda: waited, "it waits"), run.cancel())).start()
    with pytest.raises(Cancelled):
        next(run)
    eventually(lambda: len(waited) == 2, "the tool has seen it")
    assert waited == [True, False]
    assert current_call() is None


def test_an_endless_generator_ends_with_its_time() -> None:
    ended = []

    def count() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            ended.append(number)

    model = talk(calls("count"), DONE)
    run = model.client("chat").run(PROMPT, [tool(timeout=0.02)(count)])
    assert run.result().text == "Done."
    eventually(lambda: ended, "the generator was closed")
    assert "within 0.02 s" in told(model)["call_0"]


@every("where", ["an answer", "a tool"])
def test_the_total_clock_is_that_of_the_run(where: str) -> None:
    clock = FakeClock()

    def work() -> str:
        clock.advance(7)
        return "worked"

    late = Reply([Pause(4), DONE]) if where == "an answer" else DONE
    transport = FakeTransport(calls("work"), late)
    client = Client("chat", transport=transport, clock=clock, model="m", api_key="k")
    total = 10.0 if where == "an answer" else 6.0
    run = client.run(PROMPT, [work], timeouts=Timeouts(total=total))
    with pytest.raises(DeadlineExceeded, match=rf"within {total:g} s") as caught:
        run.result()
    assert caught.value.seconds == total
    assert caught.value.trace_id == run.trace_id
    assert len(transport.requests) == (2 if where == "an answer" else 1)
    state = as_stored(run.state())
    assert [c["status"] for c in state.get("calls", ())] in ([], ["finished"])
    again = Client("chat", transport=FakeTransport(DONE), model="m", api_key="k")
    assert again.resume_run(state, [work]).result().text == "Done."


def test_the_total_clock_ends_the_wait_for_a_tool() -> None:
    slow = Slow()
    run = (
        talk(calls("slow"), DONE)
        .client("chat", timeouts=Timeouts(total=0.1))
        .run(PROMPT, [slow.slow], tool_timeout=None)
    )
    with pytest.raises(DeadlineExceeded, match=r"within 0\.1 s"):
        run.result()
    slow.let.put(None)


# ---- what does not run -------------------------------------------------------------------------


@every("api", ["messages", "gemini"])  # which mark an output as that of a failure
def test_a_call_that_cannot_run_is_told(api: str) -> None:
    made: list[int] = []

    def add(a: int, b: int) -> int:
        made.append(a + b)
        return a + b

    answer = Answer(
        tool_calls=[
            ("add", '{"a": "x", "b": 2}', "wrong"),
            ("sub", "{}", "unknown"),
            ("add", '{"a": 1, "b": 2}', "right"),
            ("fail", "{}", "failing"),
            ("words", "{}", "words"),
        ]
    )

    def fail() -> None:
        raise KeyError("no such row")

    def words() -> None:
        raise ToolError("Ask for a smaller number.")

    model = Model([(0, answer), (5, DONE)])
    run = model.client(api).run(PROMPT, [add, fail, words])
    items = [*run]
    ends = {i.call.id: i for i in items if isinstance(i, ToolFinished)}
    assert {i.call.id for i in items if isinstance(i, ToolStarted)} == {"right", "failing", "words"}
    assert isinstance(ends["wrong"].error, ToolArgumentsError)
    assert isinstance(ends["unknown"].error, UnknownTool)
    assert made == [3]
    heard = told(model)
    assert "$.a" in heard["wrong"]
    assert "no tool 'sub'" in heard["unknown"]
    assert "add, fail, words" in heard["unknown"]
    assert heard["right"] == "3"
    assert heard["failing"] == "KeyError: 'no such row'"
    assert heard["words"] == "Ask for a smaller number."
    marks = {one["id"]: one["is_error"] for one in outcomes(model.requests[-1])}
    assert marks == dict.fromkeys(heard, True) | {"right": False}


@every("name, arguments", [("fail", "{}"), ("sub", "{}"), ("fail", '{"x": 1}')])
def test_three_turns_in_a_row_are_told_and_the_fourth_ends_the_run(
    name: str, arguments: str
) -> None:
    def fail() -> None:
        raise ValueError("never")

    model = talk(*[calls(name, arguments=arguments)] * 9)
    run = model.client("chat").run(PROMPT, [fail])
    with pytest.raises(RunError, match="4 turns in a row") as caught:
        run.result()
    assert len(model.requests) == 4
    assert len(caught.value.turns) == len(run.turns) == 4
    assert caught.value.partial == run.turns[-1]
    assert caught.value.trace_id == run.trace_id
    assert len(run.messages) == 1 + 2 * 4
    # It goes on where the caller wants it to.
    rest = Model([(9, DONE)]).client("chat").resume_run(as_stored(run.state()), [fail])
    assert rest.result().text == "Done."


def test_a_success_ends_the_row() -> None:
    tries = []

    def odd(n: int) -> int:
        tries.append(n)
        if n % 3:
            raise ValueError(n)
        return n

    answers = [Answer(tool_calls=[("odd", f'{{"n": {n}}}')]) for n in range(1, 8)]
    run = talk(*answers, DONE).client("chat").run(PROMPT, [odd])
    assert run.result().text == "Done."
    assert tries == [*range(1, 8)]


class Mine(Exception):
    """The application's own."""


def test_what_a_tool_raises_may_end_the_run() -> None:
    """Once the tools beside it have ended; and their outcomes are kept."""
    begun: SimpleQueue[None] = SimpleQueue()
    others = []

    def fail() -> None:
        begun.get(timeout=PATIENCE)
        raise Mine("gone")

    def beside() -> str:
        begun.put(None)
        others.append(1)
        return "kept"

    model = talk(calls("fail", "beside", "after"), DONE)
    after = tool(name="after", sequential=True)(lambda: others.append(2))
    run = model.client("chat").run(PROMPT, [fail, beside, after], on_tool_error="raise")
    with pytest.raises(Mine, match="gone"):
        run.result()
    with pytest.raises(Mine, match="gone"):
        next(run)
    assert others == [1]
    state = as_stored(run.state())
    statuses = {c["name"]: c.get("status", "waiting") for c in state["calls"]}
    assert statuses == {"fail": "finished", "beside": "finished", "after": "waiting"}
    resumed = model.client("chat").resume_run(state, [fail, beside, after], on_tool_error="tell")
    assert resumed.result().text == "Done."
    assert others == [1, 2]
    assert told(model)["call_0"] == "Error: Mine: gone"


def test_the_end_of_its_time_may_end_the_run_and_words_for_the_model_do_not() -> None:
    slow = Slow()
    model = talk(calls("slow"), DONE)
    run = model.client("chat").run(PROMPT, [slow.slow], tool_timeout=0.01, on_tool_error="raise")
    with pytest.raises(ToolTimeout):
        run.result()
    slow.let.put(None)

    def words() -> None:
        raise ToolError("Try again.")

    run = talk(calls("words"), DONE).client("chat").run(PROMPT, [words], on_tool_error="raise")
    assert run.result().text == "Done."


_FILTERED = ("messages", "content_filter")


@every("api, finish", [(api, finish) for api in APIS for finish in ("length", "content_filter")])
def test_calls_of_an_answer_that_was_cut_do_not_run(api: str, finish: str) -> None:
    made: list[int] = []
    add = tool(name="add")(lambda: made.append(1))
    answer = Answer(tool_calls=[("add", "{}", "call_0")], finish=finish)
    transport = FakeTransport(answer, DONE)
    client = Client(api, transport=transport, model="m", api_key="k")
    run = client.run(PROMPT, [add])
    result = run.result()
    assert result.finish == ("refusal" if (api, finish) == _FILTERED else finish)
    assert made == []
    # The conversation can go on all the same: each call in it has its outcome.
    next_prompt = [*run.messages, {"role": "user", "content": "Go on"}]
    assert client.stream(next_prompt).result().text == "Done."
    sent = transport.requests[-1]
    if b'"add"' in sent.body:
        assert [one["id"] for one in outcomes(sent)] == ["call_0"]


# ---- approval ----------------------------------------------------------------------------------


def test_approve_is_asked_for_all_calls_before_any_of_them_runs() -> None:
    log: list[str] = []
    here = threading.get_ident()

    def approve(call: ToolCall) -> bool | str:
        assert threading.get_ident() == here
        log.append(f"may {call.name} {call.parsed()}")
        return {"send": "not on a Sunday", "drop": False}.get(call.name, True)

    def work(name: str) -> Any:
        return tool(name=name)(lambda: log.append(f"did {name}"))

    model = talk(calls("read", "send", "drop", "none"), DONE)
    run = model.client("responses").run(
        PROMPT, [work("read"), work("send"), work("drop")], approve=approve
    )
    items = [*run]
    assert log == ["may read {}", "may send {}", "may drop {}", "did read"]
    ends = {i.call.name: i.error for i in items if isinstance(i, ToolFinished)}
    assert isinstance(ends["send"], ToolRefused)
    assert ends["send"].reason == "not on a Sunday"
    assert isinstance(ends["drop"], ToolRefused)
    assert ends["drop"].reason is None
    assert told(model)["call_1"] == "Error: The call was refused: not on a Sunday"
    assert told(model)["call_2"] == "Error: The user refused this call."


@every("answer", [None, 1, "yes" and ["yes"], {}])
def test_an_answer_that_is_none_runs_nothing(answer: Any) -> None:
    made: list[int] = []
    add = tool(name="add")(lambda: made.append(1))
    model = talk(calls("add"), DONE)
    run = model.client("chat").run(PROMPT, [add], approve=lambda call: answer)
    with pytest.raises(ConfigurationError, match="approve returned"):
        run.result()
    assert made == []
    resumed = model.client("chat").resume_run(run.state(), [add], approve=lambda call: True)
    assert resumed.result().text == "Done."
    assert made == [1]


@every("error", [KeyboardInterrupt, Mine, SystemExit])
def test_what_approve_raises_ends_the_run_and_loses_nothing(error: type[BaseException]) -> None:
    made: list[int] = []
    add = tool(name="add")(lambda: made.append(1))

    def approve(call: ToolCall) -> bool:
        raise error

    model = talk(calls("add", "add"), DONE)
    run = model.client("chat").run(PROMPT, [add], approve=approve)
    with pytest.raises(error):
        run.result()
    with pytest.raises(error if error is Mine else Cancelled):
        next(run)
    assert made == []
    resumed = model.client("chat").resume_run(run.state(), [add], approve=lambda call: True)
    assert resumed.result().text == "Done."
    assert made == [1, 1]


def test_a_run_that_asked_is_not_resumed_without_anyone_to_ask() -> None:
    add = tool(name="add")(lambda: 1)
    run = talk(calls("add"), DONE).client("chat").run(PROMPT, [add], approve=lambda call: True)
    with pytest.raises(ConfigurationError, match="approve: the run had this option"):
        Model([(9, DONE)]).client("chat").resume_run(run.state(), [add])


APPROVAL = b"""data: {"type":"response.created","response":{"id":"r1","status":"in_progress"}}

data: {"type":"response.output_item.done","output_index":0,"item":{"id":"mcpr_1","type":\
"mcp_approval_request","name":"search","arguments":"{\\"q\\": \\"x\\"}","server_label":"docs"}}

data: {"type":"response.completed","response":{"id":"r1","status":"completed","output":[{"id":\
"mcpr_1","type":"mcp_approval_request","name":"search","arguments":"{\\"q\\": \\"x\\"}",\
"server_label":"docs"}]}}

"""
MCP = {"type": "mcp", "server_label": "docs", "server_url": "https://example.com/mcp"}


@every("answer, sent", [(True, {"approve": True}), ("no", {"approve": False, "reason": "no"})])
def test_what_the_service_runs_itself_is_approved_too(answer: Any, sent: dict[str, Any]) -> None:
    asked: list[ToolCall] = []
    transport = FakeTransport(Reply(APPROVAL), DONE)
    client = Client("responses", transport=transport, api_key="k")
    run = client.run(PROMPT, [MCP], approve=lambda call: asked.append(call) or answer)
    assert run.result().text == "Done."
    assert [(c.id, c.name, c.parsed()) for c in asked] == [("mcpr_1", "search", {"q": "x"})]
    items = transport.requests[-1].json()["input"]
    assert items[-1] == {
        "type": "mcp_approval_response",
        "approval_request_id": "mcpr_1",
        **sent,
    }
    assert items[-2]["type"] == "mcp_approval_request"


def test_nobody_to_ask_whether_the_service_may_run_something() -> None:
    transport = FakeTransport(Reply(APPROVAL), DONE)
    client = Client("responses", transport=transport, api_key="k")
    run = client.run(PROMPT, [MCP])
    with pytest.raises(ConfigurationError, match="pass approve="):
        run.result()
    resumed = client.resume_run(as_stored(run.state()), [MCP], approve=lambda call: True)
    assert resumed.result().text == "Done."
    assert len(transport.requests) == 2


# ---- what tools know, and return ---------------------------------------------------------------

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("WHO", default="nobody")


def test_context_variables_and_the_trace_id_are_in_the_tool() -> None:
    seen: list[Any] = []

    def look(word: str) -> None:
        context = current_call()
        assert context is not None
        seen.append((WHO.get(), current_trace_id(), context.trace_id, context.turn))
        seen.append((context.call.name, context.call.arguments, context.remaining is None))
        WHO.set("the tool")

    model = talk(calls("look", arguments='{"word": "x"}'), DONE)
    WHO.set("the caller")
    run = model.client("chat").run(PROMPT, [look], tool_timeout=None, trace_id="t-1")
    run.result()
    assert seen == [("the caller", "t-1", "t-1", 1), ("look", '{"word": "x"}', True)]
    assert WHO.get() == "the caller"
    assert {r.headers["x-client-request-id"] for r in model.requests} == {"t-1"}
    assert current_trace_id() is None


@dataclass
class Point:
    x: int
    label: str | None = None


PNG = b"\x89PNG\r\n\x1a\n rest"


@every(
    "value, output",
    [
        ("text", "text"),
        ("", ""),
        (None, "null"),
        (42, "42"),
        ({"a": [1, 2.5, None, "ü"]}, '{"a": [1, 2.5, null, "ü"]}'),
        (Point(1), '{"x": 1, "label": null}'),
        ([Point(1), Point(2, "b")], '[{"x": 1, "label": null}, {"x": 2, "label": "b"}]'),
        (float("nan"), "NaN"),
        (["a", "b"], '["a", "b"]'),
        ([], "[]"),
        (b"plain", "plain"),
        (iter(["a ", "text"]), "a text"),
        (iter([1, 2]), "[1, 2]"),
        (iter([]), "[]"),
    ],
)
def test_what_a_tool_returns_is_written_honestly(value: Any, output: str) -> None:
    """In Gemini an object is one, and anything else is the text in one."""
    given = [*tee(value, 2)] if isinstance(value, Iterator) else [value] * 2
    for api in ("chat", "gemini"):
        model = talk(calls("give"), DONE)
        run = model.client(api).run(PROMPT, [tool(name="give")(lambda: given.pop())])
        (end,) = [i for i in run if isinstance(i, ToolFinished)]
        assert end.output == output
        heard = told(model)["call_0"]
        as_object = api == "gemini" and output[:1] == "{"
        assert heard == (json.dumps(json.loads(output)) if as_object else output)


@every("value", [object(), {1, object()}, "half \ud800", b"\xff\xfe\x00", float])
def test_what_cannot_be_written_has_failed(value: Any) -> None:
    for api in ("messages", "gemini"):
        model = talk(calls("give"), DONE)
        run = model.client(api).run(PROMPT, [tool(name="give")(lambda: value)])
        assert run.result().text == "Done."
        assert outcomes(model.requests[-1])[0]["is_error"] is True
        assert "cannot be sent" in told(model)["call_0"]


@every("api", APIS)
def test_a_picture_is_one(api: str) -> None:
    model = talk(calls("look"), DONE)
    run = model.client(api).run(PROMPT, [tool(name="look")(lambda: ["See:", PNG])])
    assert run.result().text == "Done."
    assert b"iVBORw0KGgo" in model.requests[-1].body


def test_a_tool_that_would_end_its_thread() -> None:
    def leave() -> None:
        raise SystemExit(3)

    model = talk(calls("leave"), DONE)
    assert model.client("chat").run(PROMPT, [leave]).result().text == "Done."
    assert told(model)["call_0"] == "Error: SystemExit: 3"


# ---- calls that are the caller's ---------------------------------------------------------------

ASK_USER = {"type": "function", "name": "ask_user", "parameters": {"type": "object"}}


@every("api", APIS)
def test_a_function_without_a_body_is_the_callers_to_run(api: str) -> None:
    made: list[int] = []
    add = tool(name="add")(lambda: made.append(1))
    model = talk(calls("ask_user", "add"), DONE)
    run = model.client(api).run(PROMPT, [add, ASK_USER])
    result = run.result()
    assert (result.finish, made) == ("tool_calls", [1])
    (call,) = run.open_calls
    assert (call.name, call.id) == ("ask_user", "call_0")
    assert len(run.messages) == 1  # nothing in it is without its outcome
    state = as_stored(run.state())
    with pytest.raises(ConfigurationError, match="is the caller's to run"):
        model.client(api).resume_run(state, [add, ASK_USER])
    resumed = model.client(api).resume_run(
        state, [add, ASK_USER], outcomes={"call_0": "It is blue."}
    )
    assert resumed.result().text == "Done."
    assert resumed.open_calls == ()
    assert told(model)["call_0"] == "It is blue."
    assert made == [1]


def test_a_pause_is_sent_back_and_the_run_goes_on() -> None:
    """Messages: the service has worked for long, and wants to be asked again."""
    pause = b"\n\n".join(
        b"data: " + json.dumps(event).encode()
        for event in (
            {"type": "message_start", "message": {"id": "m1", "role": "assistant"}},
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {
                    "type": "server_tool_use",
                    "id": "srvtoolu_1",
                    "name": "web_search",
                    "input": {"query": "x"},
                },
            },
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "pause_turn"}},
            {"type": "message_stop"},
        )
    )
    transport = FakeTransport(Reply(pause + b"\n\n"), Reply(pause + b"\n\n"), DONE)
    client = Client("messages", transport=transport, api_key="k", model="m")
    search = {"type": "web_search_20250305", "name": "web_search"}
    run = client.run(PROMPT, [search])
    assert [i.result.finish for i in run if isinstance(i, Turn)] == ["pause", "pause", "stop"]
    turns = transport.requests[-1].json()["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "assistant"]
    assert turns[1]["content"][0]["id"] == "srvtoolu_1"


SERVICE_TOOLS = b"".join(
    b"data: " + json.dumps({"type": f"response.{kind}", "item_id": "ws_1"}).encode() + b"\n\n"
    for kind in (
        "web_search_call.in_progress",
        "web_search_call.searching",
        "web_search_call.completed",
        "mcp_list_tools.failed",
        "image_generation_call.partial_image",
        "a_new_tool_call.in_progress",
    )
)


def test_what_the_service_runs_is_shown() -> None:
    transport = FakeTransport(Reply([SERVICE_TOOLS, DONE]))
    client = Client("responses", transport=transport, api_key="k")
    run = client.run(PROMPT, [{"type": "web_search"}])
    shown = [(i.name, i.status, i.id) for i in run if isinstance(i, ToolProgress)]
    assert shown == [
        ("web_search", "in_progress", "ws_1"),
        ("web_search", "searching", "ws_1"),
        ("web_search", "completed", "ws_1"),
        ("mcp_list_tools", "failed", "ws_1"),
        ("a_new_tool", "in_progress", None),
    ]
    blocks = (
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
        {
            "type": "web_search_tool_result",
            "tool_use_id": "s2",
            "content": {"type": "web_search_tool_result_error", "error_code": "unavailable"},
        },
    )
    events = b"".join(
        b"data: " + json.dumps({**what, "index": n}).encode() + b"\n\n"
        for n, block in enumerate(blocks)
        for what in (
            {"type": "content_block_start", "content_block": block},
            {"type": "content_block_stop"},
        )
    )
    answer = DONE.blocks("messages")
    transport = FakeTransport(
        Reply([answer[0], events.replace(b'"index": ', b'"index": 7'), *answer[1:]])
    )
    run = Client("messages", transport=transport, api_key="k").run(PROMPT, [])
    shown = [(i.name, i.status, i.id) for i in run if isinstance(i, ToolProgress)]
    assert shown == [
        ("web_search", "in_progress", "s1"),
        ("web_search", "completed", "s1"),
        ("web_search", "failed", "s2"),
    ]
    assert run.text == "Done."


def test_a_custom_call_arrives_piece_by_piece_and_is_the_callers() -> None:
    """Its free text is in chunks."""
    sent = [
        {"type": "response.created", "response": {"id": "r1"}},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {"id": "c", "type": "custom_tool_call", "call_id": "call_1", "name": "sql"},
        },
        *[
            {"type": "response.custom_tool_call_input.delta", "output_index": 0, "delta": piece}
            for piece in ("SELECT ", "1")
        ],
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": {
                "id": "c",
                "type": "custom_tool_call",
                "call_id": "call_1",
                "name": "sql",
                "input": "SELECT 1",
            },
        },
        {"type": "response.completed", "response": {"id": "r1", "status": "completed"}},
    ]
    events = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in sent)
    transport = FakeTransport(Reply(events), DONE)
    client = Client("responses", transport=transport, api_key="k")
    tools = [{"type": "custom", "name": "sql"}]
    run = client.run(PROMPT, tools)
    assert [i.text for i in run if isinstance(i, Chunk)] == ["SELECT ", "1"]
    (call,) = run.open_calls
    assert (call.custom, call.parsed()) == (True, "SELECT 1")
    resumed = client.resume_run(as_stored(run.state()), tools, outcomes={"call_1": [{"1": 1}]})
    assert resumed.result().text == "Done."
    assert transport.requests[-1].json()["input"][-1] == {
        "type": "custom_tool_call_output",
        "call_id": "call_1",
        "output": '[{"1": 1}]',
    }


# ---- turns, choices, prompts -------------------------------------------------------------------


def test_a_run_without_an_answer_ends_before_the_last_calls() -> None:
    made: list[int] = []
    add = tool(name="add")(lambda: made.append(1))
    model = talk(calls("add"), calls("add"), calls("add"), DONE)
    run = model.client("chat").run(PROMPT, [add], max_turns=2)
    with pytest.raises(RunError, match=r"after 2 turns \(max_turns\)") as caught:
        run.result()
    assert caught.value.partial.tool_calls
    assert made == [1]
    assert len(model.requests) == 2
    with pytest.raises(RunError):
        model.client("chat").resume_run(run.state(), [add]).result()
    resumed = model.client("chat").resume_run(run.state(), [add], max_turns=4)
    assert resumed.result().text == "Done."
    assert made == [1, 1, 1]


@every("api", APIS)
def test_a_choice_that_forces_a_call_holds_for_the_first_answer(api: str) -> None:
    add = tool(name="add")(lambda: 1)
    model = talk(calls("add"), DONE)
    model.client(api).run(PROMPT, [add], tool_choice="required").result()
    body, then = (request.json() for request in model.requests)
    if api == "gemini":
        modes = [one["toolConfig"]["functionCallingConfig"]["mode"] for one in (body, then)]
        assert modes == ["ANY", "AUTO"]
    else:
        assert body["tool_choice"] in ("required", {"type": "any"})
        assert then["tool_choice"] in ("auto", {"type": "auto"})


def test_neither_the_prompt_nor_a_state_is_shared() -> None:
    add = tool(name="add")(lambda: 1)
    prompt = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    run = talk(calls("add"), DONE).client("chat").run(prompt, [add])
    prompt[0]["content"][0]["text"] = "changed"  # type: ignore[index]
    state = run.state()
    state["messages"][0]["content"][0]["text"] = "changed"
    run.messages[0]["content"] = "changed"
    run.result()
    assert run.messages[0]["content"][0]["text"] == "Hi"
    assert (state["step"], state["turns"]) == ("ask", 0)


def test_usage_is_that_of_all_answers_and_text_that_of_the_last() -> None:
    add = tool(name="add")(lambda: 1)
    first = Answer("Let me see.", tool_calls=[("add", "{}")], usage=(10, 5))
    run = talk(first, Answer("Two.", usage=(20, 1))).client("chat").run(PROMPT, [add])
    assert (run.text, run.turns, run.usage.output_tokens) == ("", (), None)
    texts = {run.text for _ in run}
    assert {"Let me see.", "Two."} <= texts
    assert (run.text, run.usage.input_tokens, run.usage.output_tokens) == ("Two.", 30, 6)
    assert [turn.text for turn in run.turns] == ["Let me see.", "Two."]
    assert run.ended


def test_which_call_a_chunk_belongs_to() -> None:
    add = tool(name="add")(lambda: 1)
    run = talk(calls("add"), DONE).client("responses").run(PROMPT, [add])
    names = {run.call_of(i).name for i in run if getattr(i, "type", "") == "tool_call"}
    assert names == {"add"}


def test_a_typed_answer_at_the_end_of_a_run() -> None:
    add = tool(name="add")(lambda: 1)
    model = talk(calls("add"), Answer('{"x": 3, "label": "three"}'))
    run = model.client("responses").run(PROMPT, [add], output=Point)
    assert run.result().value == Point(3, "three")
    assert run.turns[0].value is None


# ---- ending it ---------------------------------------------------------------------------------


@every("api", APIS)
def test_cancel_while_tools_run(api: str) -> None:
    slow = Slow()
    run = talk(calls("slow"), DONE).client(api).run(PROMPT, [slow.slow])
    canceller = threading.Thread(
        target=lambda: (slow.begun.get(timeout=PATIENCE), run.cancel("the user left"))
    )
    canceller.start()
    with pytest.raises(Cancelled, match="the user left") as caught:
        run.result()
    assert caught.value.partial.tool_calls
    canceller.join()
    slow.let.put(None)
    run.cancel("again")


def test_cancel_before_the_begin_sends_nothing() -> None:
    model = talk(DONE)
    run = model.client("chat").run(PROMPT, [])
    run.cancel()
    with pytest.raises(Cancelled):
        run.result()
    assert model.requests == []


def test_cancel_in_approve_and_in_a_tool() -> None:
    made: list[int] = []
    add = tool(name="add")(lambda: made.append(1))
    runs: list[Run] = []
    run = (
        talk(calls("add"), DONE)
        .client("chat")
        .run(PROMPT, [add], approve=lambda call: runs[0].cancel("no more") or True)
    )
    runs.append(run)
    with pytest.raises(Cancelled, match="no more"):
        run.result()
    assert made == []

    def cancel() -> str:
        runs[1].cancel("from a tool")
        return "done"

    run = talk(calls("cancel"), DONE).client("chat").run(PROMPT, [cancel])
    runs.append(run)
    with pytest.raises(Cancelled, match="from a tool"):
        run.result()
    eventually(lambda: run.state()["calls"][0]["status"] == "finished", "it is kept")


def test_closing_the_client_ends_its_runs() -> None:
    slow = Slow()
    client = talk(calls("slow"), DONE).client("chat")
    run = client.run(PROMPT, [slow.slow])
    closer = threading.Thread(target=lambda: (slow.begun.get(timeout=PATIENCE), client.close()))
    closer.start()
    with pytest.raises(Cancelled, match="the client was closed"):
        run.result()
    closer.join()
    slow.let.put(None)
    with pytest.raises(ConfigurationError, match="closed"):
        client.run(PROMPT, [])


def test_a_run_that_is_dropped_ends() -> None:
    run = talk(Answer("one two three"), DONE).client("chat").run(PROMPT, [])
    item = next(run)
    loop = run._loop
    del run
    gc.collect()
    eventually(lambda: loop.ended, "the dropped run has ended")
    assert isinstance(item, Chunk)
    with pytest.raises(Cancelled, match="dropped"):
        loop.next()


def lambda_tool() -> Any:
    return tool(name="other")(lambda: 1)


def test_a_run_has_one_reader() -> None:
    """A tool, or approve, that reads the run would wait for itself."""
    runs: list[Run] = []
    errors: list[BaseException] = []

    def read() -> None:
        try:
            runs[0].result()
        except ConfigurationError as error:
            errors.append(error)
            raise

    model = talk(calls("read"), DONE)
    runs.append(model.client("chat").run(PROMPT, [read]))
    assert runs[0].result().text == "Done."
    assert "one reader" in str(errors[0])


def test_leaving_early_and_going_on() -> None:
    add = tool(name="add")(lambda: 1)
    run = talk(calls("add"), DONE).client("chat").run(PROMPT, [add])
    for item in run:
        if isinstance(item, Turn):
            break
    assert [type(i) for i in run if not hasattr(i, "index")] == [ToolStarted, ToolFinished, Turn]
    with pytest.raises(StopIteration):
        next(run)
    with talk(calls("add"), DONE).client("chat").run(PROMPT, [add]) as run:
        next(run)
    with pytest.raises(Cancelled):
        run.result()
    run.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_leaves_the_run_to_its_parent() -> None:
    slow = Slow()
    run = talk(calls("slow", "slow"), DONE).client("chat").run(PROMPT, [slow.slow])
    while not isinstance(next(run), ToolStarted):
        pass
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run.cancel()
            run.close()
            assert run.state()["calls"]
            next(run)
        except ConfigurationError as error:
            code = 0 if "parent process" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    slow.let.put(None)
    slow.let.put(None)
    assert run.result().text == "Done."
    eventually(
        lambda: not any(t.name == "llmstream-tool" for t in other_threads()),
        "the tools' threads have ended",
    )


# ---- what cannot work --------------------------------------------------------------------------


@every(
    "options, words",
    [
        ({"max_turns": 0}, "max_turns"),
        ({"max_turns": "3"}, "max_turns"),
        ({"parallel_tools": 1}, "parallel_tools"),
        ({"tool_timeout": 0}, "tool_timeout"),
        ({"tool_timeout": "5"}, "tool_timeout"),
        ({"approve": True}, "approve=True"),
        ({"on_tool_error": "ignore"}, "on_tool_error"),
        ({"temperature": "hot"}, "temperature"),
        ({"on_disconnect": "continue"}, "on_disconnect"),
        ({"timeouts": 5}, "timeouts"),
        ({"trace_id": ""}, "trace_id"),
        ({"extra_body": [1], "parallel_tools": False}, "extra_body"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], words: str) -> None:
    client = talk(DONE).client("chat")
    with pytest.raises(ConfigurationError, match=words):
        client.run(PROMPT, [lambda_tool()], **options)


@every("prompt", ["", [], None, 3, ["x"]])
def test_prompts_that_cannot_work(prompt: Any) -> None:
    with pytest.raises(ConfigurationError, match="prompt"):
        talk(DONE).client("chat").run(prompt, [])


@every("tools", [None, 3, "tools", [3], [lambda_tool(), lambda_tool()], {"type": "function"}])
def test_tools_that_cannot_work(tools: Any) -> None:
    with pytest.raises(ConfigurationError, match="tool"):
        talk(DONE).client("chat").run(PROMPT, tools)


async def later(call: ToolCall) -> bool:
    return True


def test_an_async_approve_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="async"):
        talk(DONE).client("chat").run(PROMPT, [], approve=later)  # type: ignore[arg-type]


def good_state() -> dict[str, Any]:
    run = talk(calls("other"), DONE).client("chat").run(PROMPT, [lambda_tool()], stop=["x"])
    next(item for item in run if isinstance(item, ToolStarted))
    run.close()
    return run.state()


@every(
    "change, words",
    [
        (lambda s: None, "pass the dict"),
        (lambda s: json.dumps(s), "pass the dict"),
        (lambda s: {}, "version"),
        (lambda s: {**s, "version": 99}, "version 99"),
        (lambda s: {**s, "step": "run"}, "step"),
        (lambda s: {**s, "messages": 3}, "messages"),
        (lambda s: {**s, "messages": [object()]}, "JSON"),
        (lambda s: {**s, "calls": [{"id": 3}]}, "calls"),
        (lambda s: {**s, "tools": ["gone"]}, "'gone'"),
        (lambda s: {**s, "options": {**s["options"], "max_turns": 0}}, "max_turns"),
        (lambda s: {**s, "needs": ["extra_body"]}, "extra_body"),
    ],
)
def test_states_that_cannot_work(change: Any, words: str) -> None:
    client = talk(DONE).client("chat")
    with pytest.raises(ConfigurationError, match=words):
        client.resume_run(change(good_state()), [lambda_tool()])


def test_outcomes_that_cannot_work() -> None:
    client, state = talk(DONE).client("chat"), good_state()
    for given, words in (
        ({"call_9": 1}, "no open call"),
        ([1], "pass a dict"),
        ({"call_0": object()}, "cannot be sent"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            client.resume_run(state, [lambda_tool()], outcomes=given)  # type: ignore[arg-type]


def test_a_state_has_the_options_and_no_secret() -> None:
    client = talk(DONE).client("chat", headers={"x-secret": "hush-hush-hush"})
    run = client.run(
        PROMPT,
        [lambda_tool()],
        instructions="Be brief.",
        temperature=0.5,
        headers={"x-token": "my-secret-token"},
        extra_body={"seed": 7},
    )
    state = as_stored(run.state())
    assert state["options"]["instructions"] == "Be brief."
    assert state["options"]["temperature"] == 0.5
    assert state["options"]["model"] == "m"
    assert state["needs"] == ["headers", "extra_body"]
    text = json.dumps(state)
    assert "secret" not in text
    assert "hush" not in text
    model = Model([(9, DONE)])
    again = model.client("chat").resume_run(
        state, [lambda_tool()], headers={"x-token": "other"}, extra_body={"seed": 7}
    )
    assert again.result().text == "Done."
    assert again.trace_id == run.trace_id
    assert model.requests[0].json()["temperature"] == 0.5
    assert repr(run).startswith("<Run not started")
    assert PROMPT not in repr(run)
