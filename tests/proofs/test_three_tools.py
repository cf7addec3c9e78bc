"""Three tools, four turns, one program over all APIs: calls side by side, one that fails, one
that is too slow, one that is refused. With the scripted server, with a server that nobody here
wrote, and what a real model makes of the conversation afterwards."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from request_rules import RULES
from servers.programs import AIMock, aimock_command, running
from support import PATIENCE, eventually

from llmstream import Chunk, Client, ToolCall
from llmstream._core.dialects import APIS
from llmstream.testing import Answer, FakeTransport, LLMServer
from llmstream.tools import Run, ToolError, ToolFinished, ToolStarted, ToolTimeout, Turn, tool

NAMES = ("responses", "messages", "chat", "gemini")
SERVED = ("responses", "messages", "chat")  # by programs that are not ours
API = pytest.mark.parametrize(
    "api", [pytest.param(api, marks=() if api in SERVED else pytest.mark.slow) for api in NAMES]
)
PROMPT = "Which of Ulm and Oslo is warmer? Convert 5 XYZ, and erase the old file."
FINAL = "Ulm is warmer; there is no rate for XYZ, and nothing was erased."
# The calls of each turn: name, arguments, id.
CALLS: tuple[tuple[tuple[str, dict[str, Any], str], ...], ...] = (
    (("weather", {"city": "Ulm"}, "call_1"), ("weather", {"city": "Oslo"}, "call_2")),
    (
        ("convert", {"amount": 5.0, "currency": "XYZ"}, "call_3"),
        ("weather", {"city": "Atlantis"}, "call_4"),
    ),
    (("erase", {"path": "/old"}, "call_5"),),
)
TEXTS = ("I look.", "", "Now the file.", FINAL)
FIELD = {"responses": "input", "gemini": "contents"}  # of a prompt; else "messages"
SLOW = 3.0  # seconds that `weather` may take; a machine may stand still for some of them


# ---- the program -------------------------------------------------------------------------------


class Office:
    """The tools, and what has been done with them."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.together = threading.Barrier(2, timeout=PATIENCE)
        self.late = threading.Event()  # ends the call that is too slow
        self.left = threading.Event()

    def tools(self) -> list[Any]:
        @tool(timeout=SLOW)
        def weather(city: str) -> dict[str, Any]:
            """The weather of a city.

            Args:
                city: its name.
            """
            self.ran[city] += 1
            if city == "Atlantis":
                self.late.wait(PATIENCE)
                self.left.set()
            else:
                self.together.wait()  # both cities at once, or never
            return {"city": city, "degrees": {"Ulm": 20, "Oslo": 12}.get(city)}

        def convert(amount: float, currency: str) -> float:
            """An amount of money, in euros."""
            self.ran["convert"] += 1
            raise ToolError(f"there is no rate for {currency}, asked for {amount:.2f}")

        def erase(path: str) -> None:
            """Erase a file."""
            self.ran["erase"] += 1

        return [weather, convert, erase]


def approve(call: ToolCall) -> bool | str:
    return "not without the owner" if call.name == "erase" else True


def program(client: Client, office: Office) -> tuple[Run, list[Any]]:
    """What a caller writes, whatever the API."""
    run = client.run(
        PROMPT,
        office.tools(),
        approve=approve,
    )
    items = list(run)
    office.late.set()
    return run, items


def check(run: Run, items: list[Any], office: Office) -> None:
    """What every API has to come to."""
    assert run.result().text == run.text == FINAL
    assert [item.number for item in items if isinstance(item, Turn)] == [1, 2, 3, 4]
    assert "".join(i.text for i in items if isinstance(i, Chunk) and i.type == "text") == (
        "".join(TEXTS)
    )
    assert office.ran == {"Ulm": 1, "Oslo": 1, "Atlantis": 1, "convert": 1}
    finished = {item.call.id: item for item in items if isinstance(item, ToolFinished)}
    assert finished.keys() == {id for turn in CALLS for _, _, id in turn}
    assert finished["call_1"].result == {"city": "Ulm", "degrees": 20}
    assert isinstance(finished["call_3"].error, ToolError)
    assert isinstance(finished["call_4"].error, ToolTimeout)
    assert finished["call_5"].error is not None
    started = {item.call.id for item in items if isinstance(item, ToolStarted)}
    assert started == {"call_1", "call_2", "call_3", "call_4"}  # what is refused never starts
    eventually(office.left.is_set, "the slow tool ends")


def outputs_of(turns: list[Any]) -> dict[str, str]:
    """The outputs in a prompt of any API: id of the call -> text, without what marks an error."""
    turns = APIS["chat"].load().own_turns(turns)
    return {t["tool_call_id"]: t["content"] for t in turns if t.get("role") == "tool"}


def check_outputs(outputs: dict[str, str], *, ids: bool = True) -> None:
    """`ids`: whether the API is sent the ids of another service's calls."""
    if ids:
        assert list(outputs) == ["call_1", "call_2", "call_3", "call_4", "call_5"]
    _, oslo, rate, late, owner = outputs.values()
    assert json.loads(oslo) == {"city": "Oslo", "degrees": 12}
    assert "there is no rate for XYZ, asked for 5.00" in rate
    assert f"within {SLOW:g} s" in late
    assert "not without the owner" in owner


def said_in(turns: list[Any]) -> str:
    """The last answer in a prompt of any API."""
    *_, last = (t for t in APIS["chat"].load().own_turns(turns) if t["role"] == "assistant")
    content = last["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def answers() -> list[Answer]:
    """What the model says."""
    calls = [[(name, json.dumps(args), id) for name, args, id in turn] for turn in (*CALLS, ())]
    return [Answer(text, tool_calls=made) for text, made in zip(TEXTS, calls, strict=True)]


# ---- the scripted server -----------------------------------------------------------------------


@pytest.mark.slow
@API
def test_over_the_scripted_server(
    api: str, server: LLMServer, client_for: Callable[..., Client]
) -> None:
    server.script(*answers())
    client = client_for(server, api=api, base_url=server.base_url_for(api), model="m")
    office = Office()
    run, items = program(client, office)
    check(run, items, office)
    assert len(server.requests) == 4
    body = server.requests[-1].json()
    turns = body[FIELD.get(api, "messages")]
    check_outputs(outputs_of(turns))
    assert APIS[api].load().own_turns(turns) == turns


@pytest.mark.slow
@API
def test_another_api_goes_on(
    api: str, server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """With the messages of the run as they are."""
    server.script(*answers())
    run, _ = program(
        client_for(server, api=api, base_url=server.base_url_for(api), model="m"), Office()
    )
    for other in NAMES:
        server.script(Answer("Twelve."))
        client = client_for(server, api=other, base_url=server.base_url_for(other), model="m")
        turns = [*run.messages, {"role": "user", "content": "How warm is Oslo?"}]
        assert client.stream(turns, tools=Office().tools()).result().text == "Twelve."
        sent = server.requests[-1].json()[FIELD.get(other, "messages")]
        check_outputs(outputs_of(sent), ids=other in (api, "responses", "messages", "chat"))
        assert said_in(sent) == FINAL
        if other != "gemini":  # where the parts of an answer stay what they are
            assert FINAL in json.dumps(sent)


@pytest.mark.slow
@API
def test_another_service_resumes_it(api: str, nothing_left: None) -> None:
    """After an outage, say: from the state after each outcome, with a client of another API."""
    for other in NAMES:
        for cut in range(1, 6):
            office, model = Office(), FakeTransport(*answers())
            office.late.set()  # nothing is slow here
            with Client(api, transport=model, model="m", api_key="k") as client:
                run = client.run(PROMPT, office.tools(), approve=approve)
                outcomes = (item for item in run if isinstance(item, ToolFinished))
                list(itertools.islice(outcomes, cut))
                state = json.loads(json.dumps(run.state()))
                run.close()
            rest = FakeTransport(*answers()[len(model.requests) :])
            with Client(other, transport=rest, model="m", api_key="k") as client:
                again = client.resume_run(state, office.tools(), approve=approve)
                assert again.result().text == FINAL
            body = rest.requests[-1].json()
            turns = body[FIELD.get(other, "messages")]
            RULES[other](turns)
            outputs = outputs_of(turns)
            assert len(outputs) == 5
            if other in (api, "responses", "messages", "chat"):  # Gemini is sent its own only
                assert list(outputs) == [id for turn in CALLS for _, _, id in turn]
            assert office.ran["erase"] == 0
            assert max(office.ran.values()) == 1


# ---- a server that nobody here wrote -----------------------------------------------------------


@pytest.fixture(scope="module")
def aimock_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AIMock]:
    with running(aimock_command(), tmp_path_factory.mktemp("aimock") / "log") as url:
        yield AIMock(url)


@pytest.mark.servers
@pytest.mark.parametrize("api", SERVED)
def test_over_aimock(api: str, aimock_program: AIMock, nothing_left: None) -> None:
    """It matches each turn by the id of the output that it was sent last, so each API's form of an
    output is read by it; and it writes down the conversation as it has understood it."""
    aimock = aimock_program
    aimock.reset()
    known: list[str | None] = [None, *(turn[-1][2] for turn in CALLS)]
    for number in reversed(range(4)):
        response: dict[str, Any] = {"content": TEXTS[number]} if TEXTS[number] else {}
        if number < len(CALLS):
            response["toolCalls"] = [
                {"name": name, "arguments": arguments, "id": id}
                for name, arguments, id in CALLS[number]
            ]
        last = known[number]
        aimock.fixture(response, {} if last is None else {"toolCallId": last})
    model = "claude-sonnet-4-6" if api == "messages" else "gpt-5.4-mini"
    with Client(api, base_url=aimock.base_url(api), api_key="sk-0123456789", model=model) as client:
        office = Office()
        run, items = program(client, office)
    check(run, items, office)
    seen = aimock.bodies()[-1]["messages"]
    check_outputs({t["tool_call_id"]: t["content"] for t in seen if t["role"] == "tool"})
    asked = [call["id"] for turn in seen for call in turn.get("tool_calls") or ()]
    assert asked == [id for turn in CALLS for _, _, id in turn]


# ---- a real model ------------------------------------------------------------------------------


@pytest.mark.local
def test_a_real_model_goes_on() -> None:
    """The local model is too small to call functions. It takes the conversation with calls and
    outputs of each kind, over each API what another one has made, and goes on with it."""
    said = set()
    for made_by, api in zip(NAMES, (*SERVED[1:], *SERVED[:1] * 2), strict=True):
        office = Office()
        transport = FakeTransport(*answers())
        with Client(made_by, transport=transport, model="m", api_key="k") as client:
            run, _ = program(client, office)
        eventually(office.left.is_set, "the slow tool ends")
        prompt = [*run.messages, {"role": "user", "content": "How warm is Oslo?"}]
        with Client.local(api=api) as client:
            stream = client.stream(prompt, tools=office.tools(), temperature=0, max_output_tokens=8)
            said.add(stream.result().text)
    assert len(said) == 1
    assert said != {""}
