"""Runs and the process: Ctrl-C, the end of the program, threads that cannot start, pickles; and
tools that behave oddly."""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from every import every
from support import output_of
from talking import PROMPT, Model, as_stored, outcomes

from llmstream import Client, ConfigurationError, RunError, ToolCall
from llmstream._runtime import threads
from llmstream.testing import Answer, Cut, FakeTransport, Reply
from llmstream.tools import (
    ToolError,
    ToolFinished,
    ToolInterrupted,
    ToolRefused,
    ToolTimeout,
    Turn,
    UnknownTool,
    tool,
)

pytestmark = pytest.mark.usefixtures("nothing_left")

CALL = Answer(tool_calls=[("work", "{}", "call_0")])
DONE = Answer("Done.")
TALK = ((0, CALL), (1, DONE))

PROGRAM = """
    import json, os, signal, sys, threading, time
    from llmstream import *
    from llmstream.tools import current_call
    from llmstream.testing import *
    DONE = Answer("Done.")
    server = LLMServer()
    client = Client("responses", base_url=server.base_url, api_key="k")
    begun, let = threading.Semaphore(0), threading.Event()

    def work():
        begun.release()
        let.wait(60)
        return "worked"

    def both():
        for _ in range(2):
            begun.acquire(timeout=30)

    def interrupt():
        both()
        os.kill(os.getpid(), signal.SIGINT)

    CALLS = Answer(tool_calls=[("work", "{}", "c1"), ("work", "{}", "c2")])
    run = client.run("Hi", [work], tool_timeout=None)
"""


def test_ctrl_c_while_tools_run() -> None:
    """It comes through at once; the tools go on, and what they return is kept."""
    code = f"""
    {PROGRAM}
    server.script(CALLS, DONE)
    threading.Thread(target=interrupt).start()
    try:
        run.result()
    except KeyboardInterrupt:
        print("interrupted", [c["status"] for c in run.state()["calls"]])
    try:
        next(run)
    except Cancelled as error:
        print(error)
    let.set()
    until = time.monotonic() + 15
    while any(c["status"] != "finished" for c in run.state()["calls"]):
        assert time.monotonic() < until
        time.sleep(0.002)
    resumed = client.resume_run(json.loads(json.dumps(run.state())), [work])
    print(resumed.result().text, len(server.requests))
    server.close()
    """
    assert output_of(code).splitlines() == [
        "interrupted ['started', 'started']",
        "the run was cancelled: interrupted",
        "Done. 2",
    ]


def test_ctrl_c_in_the_middle_of_an_answer() -> None:
    code = f"""
    {PROGRAM}
    answer = Answer("one two three")
    server.script(CALLS, Reply([*answer.blocks()[:6], Silence()]), DONE)
    let.set()
    for item in run:
        if getattr(item, "text", "").strip() == "two":
            break
    from support import until_blocked
    main = threading.main_thread()
    inside = threading.Event()

    def interrupt_once_it_waits():
        inside.wait(30)
        until_blocked(main)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_once_it_waits).start()
    try:
        inside.set()
        run.result()
    except KeyboardInterrupt:
        print(run.text, run.state()["step"])
    server.wait_all_closed()
    print(client.resume_run(run.state(), [work]).result().text)
    server.close()
    """
    assert output_of(code).splitlines() == ["one two ask", "Done."]


@pytest.mark.slow
@every("what", ["a reference", "no reference"])
def test_an_interpreter_that_exits_does_not_wait_for_tools(what: str) -> None:
    code = f"""
    {PROGRAM}
    server.script(CALLS, DONE)
    for item in run:
        if isinstance(item, ToolStarted) and item.call.id == "c2":
            break
    threading.Thread(target=lambda: (both(), run.cancel())).start()
    try:
        next(run)
    except Cancelled:
        print("left")
    {"" if what == "a reference" else "del run"}
    server.close()
    """
    assert output_of(code) == "left\n"


def test_a_signal_handler_that_cancels() -> None:
    code = f"""
    {PROGRAM}
    server.script(CALLS, DONE)
    signal.signal(signal.SIGINT, lambda *_: run.cancel("by a signal"))
    threading.Thread(target=interrupt).start()
    try:
        run.result()
    except Cancelled as error:
        print(error)
    let.set()
    server.close()
    """
    assert output_of(code) == "the run was cancelled: by a signal\n"


def test_no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends with what to do, and nothing has run."""
    made: list[int] = []
    work = tool(name="work")(lambda: made.append(1))
    model = Model(TALK)
    run = model.client("chat").run(PROMPT, [work])
    while not isinstance(next(run), Turn):
        pass

    def none(work: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threads, "_begin", none)
        with pytest.raises(ConfigurationError, match="starts no further thread"):
            run.result()
    state = as_stored(run.state())
    assert state["calls"][0]["status"] == "waiting"
    assert model.client("chat").resume_run(state, [work]).result().text == "Done."
    assert made == [1]


class Wordless(ToolError):
    def __init__(self) -> None:
        pass


class Wordy(Exception):
    def __str__(self) -> str:
        raise ValueError("not even words")


@every(
    "error, told",
    [
        (Wordless(), "Error: Wordless"),
        (ToolError(object()), "Error: ToolError: <object object"),  # type: ignore[arg-type]
        (Wordy(), "Error: Wordy"),
        (ValueError("half \ud800"), "Error: ValueError: half ?"),
        (ValueError("x" * 10_000), "Error: ValueError: " + "x" * 3_000),
        (RecursionError("deep"), "Error: RecursionError: deep"),
        (MemoryError(), "Error: MemoryError"),
        (StopIteration(3), "Error: StopIteration: 3"),
        (GeneratorExit(), "Error: GeneratorExit"),
        (KeyboardInterrupt(), "Error: KeyboardInterrupt"),
    ],
)
def test_whatever_a_tool_raises_its_call_ends(error: BaseException, told: str) -> None:
    def work() -> None:
        raise error

    model = Model(TALK)
    run = model.client("chat").run(PROMPT, [work], tool_timeout=None)
    assert run.result().text == "Done."
    output = outcomes(model.requests[-1])[0]["output"]
    assert output.startswith(told)
    assert len(output) < 4_100


def test_a_generator_that_fails_half_way() -> None:
    def work() -> Any:
        yield "one"
        raise ValueError("two")

    model = Model(TALK)
    assert model.client("chat").run(PROMPT, [work]).result().text == "Done."
    assert outcomes(model.requests[-1])[0]["output"] == "Error: ValueError: two"


def test_a_tool_that_is_a_run_of_its_own() -> None:
    """With the same client, in its thread."""
    inner = Answer("inner answer")
    transport = FakeTransport(CALL, inner, DONE)
    client = Client("chat", transport=transport, model="m", api_key="k")

    def work() -> str:
        return client.run("inside", [work]).result().text

    assert client.run(PROMPT, [work]).result().text == "Done."
    assert outcomes(transport.requests[-1])[0]["output"] == "inner answer"


def test_a_stream_as_a_result_is_its_text() -> None:
    transport = FakeTransport(CALL, Answer("one two"), DONE)
    client = Client("chat", transport=transport, model="m", api_key="k")
    work = tool(name="work")(lambda: client.stream("inside"))
    assert client.run(PROMPT, [work]).result().text == "Done."
    assert outcomes(transport.requests[-1])[0]["output"] == "one two"


@pytest.mark.slow
def test_two_thousand_calls_in_one_answer() -> None:
    calls = [("work", "{}", f"call_{n}") for n in range(2_000)]
    made: list[int] = []
    work = tool(name="work")(lambda: made.append(1))
    model = Model(((0, Answer(tool_calls=calls)), (2_000, DONE)))
    run = model.client("chat").run(PROMPT, [work], approve=lambda call: int(call.id[5:]) % 20 == 0)
    assert run.result().text == "Done."
    assert len(made) == 100
    assert [one["id"] for one in outcomes(model.requests[-1])] == [call[2] for call in calls]


@every(
    "error",
    [
        ToolTimeout(5.0),
        ToolRefused("why"),
        ToolRefused(None),
        UnknownTool(ToolCall("c", "x", "{}"), ["a", "b"]),
        ToolInterrupted(),
        RunError("no answer"),
    ],
)
def test_errors_pickle(error: BaseException) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))


def test_items_pickle() -> None:
    run = Model(TALK).client("chat").run(PROMPT, [tool(name="work")(lambda: {"a": 1})])
    for item in run:
        assert pickle.loads(pickle.dumps(item)) == item
        if isinstance(item, ToolFinished):
            assert item.ok
    assert pickle.loads(pickle.dumps(run.state())) == run.state()


def test_a_prompt_that_is_no_plain_data() -> None:
    turn: Mapping[str, Any] = MappingProxyType({"role": "user", "content": "Hi"})
    with pytest.raises(ConfigurationError):
        Model(TALK).client("chat").run([turn], [])


WORDS = "prompt-words-that-nobody-may-see"


def shown(error: BaseException) -> str:
    """The variables of its frames, as error reporters show them."""
    texts = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None:
            continue
        left += [one.__cause__, one.__context__]
        place = one.__traceback__
        while place is not None:
            if "/llmstream/" in place.tb_frame.f_code.co_filename:
                texts += [repr(value) for value in place.tb_frame.f_locals.values()]
            place = place.tb_next
    return " ".join(texts)


def interrupt(*_: Any) -> bool:
    raise KeyboardInterrupt


def fail(*_: Any) -> bool:
    raise ValueError("mine")


@every(
    "options, answers",
    [
        ({"temperature": "hot"}, ()),
        ({"max_turns": 1}, (CALL,)),
        ({"approve": fail}, (CALL,)),
        ({"approve": interrupt}, (CALL,)),
        ({"approve": lambda call: None}, (CALL,)),
        ({"on_tool_error": "raise"}, (CALL,)),
        ({}, (Reply([*DONE.blocks("chat")[:2], Cut()]),)),
        ({}, (CALL, Reply.error(400))),
    ],
)
def test_the_prompt_is_in_no_frame_of_an_error(options: Any, answers: tuple[Any, ...]) -> None:
    client = Client("chat", transport=FakeTransport(*answers), model="m", api_key="k")

    def work() -> None:
        raise ValueError("a tool")

    def go() -> None:
        client.run([{"role": "user", "content": WORDS}], [work], **options).result()

    with pytest.raises(BaseException) as caught:
        go()
    assert WORDS not in shown(caught.value)
    assert WORDS not in str(caught.value)


@pytest.mark.slow
def test_what_any_thread_may_read_while_it_runs() -> None:
    """Again and again, while the run goes through all of its phases."""
    texts = Answer("one two three four five", tool_calls=[("work", "{}", "call_0")])
    model = Model(((0, texts), (1, Answer("six seven eight"))))
    run = model.client("messages").run(PROMPT, [tool(name="work")(lambda: "w" * 1000)])
    over = threading.Event()
    failures: list[BaseException] = []
    seen: set[str] = set()

    def look() -> None:
        try:
            while not over.is_set():
                state = run.state()
                assert state["step"] in ("ask", "calls", "end")
                seen.add(state["step"])
                assert len(run.messages) in (1, 3, 4)
                assert isinstance(run.text, str)
                assert run.usage is not None
                assert len(run.turns) <= 2
                repr(run)
        except BaseException as error:
            failures.append(error)

    looking = [threading.Thread(target=look) for _ in range(2)]
    for thread in looking:
        thread.start()
    for _ in range(20):
        again = model.client("messages").run(PROMPT, [tool(name="work")(lambda: "w")])
        again.result()
    run.result()
    over.set()
    for thread in looking:
        thread.join()
    assert not failures
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
