"""Against two servers that nobody here wrote, so that no misreading of the protocols of ours can
agree with itself: `llmock` (PyPI) and `aimock` (npm `@copilotkit/aimock`), over all three APIs.

What they cannot do: llmock has no thinking, aimock no cut that ends cleanly and no broken event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from servers.programs import (
    PACE,
    PATIENCE,
    AIMock,
    LLMock,
    aimock_command,
    llmock_command,
    running,
)
from support import bounded, clocks

from llmstream import (
    AuthenticationError,
    Client,
    ConnectionFailed,
    FirstTokenTimeout,
    IdleTimeout,
    InvalidRequestError,
    LLMStreamError,
    NotAStreamError,
    OverloadedError,
    PermissionDeniedError,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    Result,
    RetryPolicy,
    ServerError,
    StreamInterrupted,
    StreamTruncated,
)

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("nothing_left")]

APIS = ("responses", "messages", "chat")
PROMPT = "Why is the sky blue?"
TEXT = "The sky is blue, because of Rayleigh scattering: Größe, no 🌈."
WORDS = "The sky is "  # the first three of llmock's deltas
THOUGHT = "Blue light is scattered more than red. Fourth power."
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"],
    },
}
ARGUMENTS = {"city": "Zürich", "days": 3}
# llmock's events before the first delta: of text, of a tool call's arguments
OPENING = {"responses": 4, "messages": 3, "chat": 1}
TOOL_OPENING = {"responses": 3, "messages": 2, "chat": 2}
STALL = 12.0  # seconds of llmock's silence, which no test waits out
SOON = 2.0  # seconds of a clock that is to break, and to hold while a machine stands still

Connect = Callable[..., Client]


# ---- the servers -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llmock_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLMock]:
    command = llmock_command()
    serve = [*command, "serve", "--port", "0", "--stream-chunk-delay-ms", str(PACE)]
    with running(serve, tmp_path_factory.mktemp("llmock") / "log") as url:
        yield LLMock(url, command)


@pytest.fixture(scope="module")
def aimock_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AIMock]:
    with running(aimock_command(), tmp_path_factory.mktemp("aimock") / "log") as url:
        yield AIMock(url)


@pytest.fixture
def mock(llmock_program: LLMock) -> LLMock:
    llmock_program.reset()
    return llmock_program


@pytest.fixture
def aimock(aimock_program: AIMock) -> AIMock:
    aimock_program.reset()
    return aimock_program


@pytest.fixture(params=["llmock", "aimock"])
def service(request: pytest.FixtureRequest) -> LLMock | AIMock:
    return request.getfixturevalue("mock" if request.param == "llmock" else "aimock")


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def connect(api: str, nothing_left: None) -> Iterator[Connect]:
    """`connect(server, **settings)` is a client of that server, closed afterwards."""
    made: list[Client] = []

    def make(server: LLMock | AIMock, **settings: Any) -> Client:
        known: dict[str, Any] = {
            "base_url": server.base_url(api),
            "api_key": "sk-0123456789",
            "model": "claude-sonnet-4-6" if api == "messages" else "gpt-5.4-mini",
            "timeouts": clocks(PATIENCE),
            "retry": RetryPolicy(base=0.05),
        }
        made.append(Client(api, **{**known, **settings}))
        return made[-1]

    yield make
    for client in made:
        client.close()


def causes(attempts: Any) -> list[type[Any] | None]:
    """What ended each attempt."""
    return [type(attempt.error) if attempt.error else None for attempt in attempts]


# ---- answers -----------------------------------------------------------------------------------


def test_text_comes_in_pieces_and_whole(
    service: LLMock | AIMock, api: str, connect: Connect
) -> None:
    """The deltas join to exactly the answer, which ends once, with what it cost."""
    service.says(TEXT)
    stream = connect(service).stream(PROMPT)
    tokens = list(stream)
    result = stream.result()
    assert len(tokens) > 5
    assert "".join(tokens) == TEXT == result.text == stream.text
    assert (result.finish, result.thinking, result.tool_calls) == ("stop", "", ())
    used = result.usage.input_tokens, result.usage.output_tokens, result.usage.total_tokens
    assert used == (*service.usage(PROMPT, TEXT), sum(service.usage(PROMPT, TEXT)))
    assert result.response_id
    assert result.model == ("claude-sonnet-4-6" if api == "messages" else "gpt-5.4-mini")
    assert (service.name == "aimock") == (result.request_id is not None)
    assert causes(result.attempts) == [None]
    assert service.requests() == [200]


def test_a_tool_call_is_closed_and_parses(service: LLMock | AIMock, connect: Connect) -> None:
    """The arguments come in pieces and are the ones the server was told to call with."""
    service.says("", {"get_weather": ARGUMENTS})
    stream = connect(service).stream(PROMPT, tools=[WEATHER])
    chunks = list(stream.chunks())
    result = stream.result()
    (call,) = result.tool_calls
    assert {chunk.type for chunk in chunks} == {"tool_call"}
    assert len(chunks) > 2
    assert "".join(chunk.text for chunk in chunks) == call.arguments
    assert (call.name, call.parsed()) == ("get_weather", ARGUMENTS)
    assert call.id
    assert (result.finish, result.text, result.incomplete_tool_calls) == ("tool_calls", "", ())


def test_text_and_two_calls_in_one_answer(service: LLMock | AIMock, connect: Connect) -> None:
    """Text before calls stays text; the calls keep their order and their own arguments."""
    service.says("Let me look that up.", {"get_weather": ARGUMENTS, "get_time": {}})
    time_tool = {"name": "get_time", "parameters": {"type": "object", "properties": {}}}
    result = connect(service).stream(PROMPT, tools=[WEATHER, time_tool]).result()
    assert result.text == "Let me look that up."
    asked = [(call.name, call.parsed()) for call in result.tool_calls]
    assert asked == [("get_weather", ARGUMENTS), ("get_time", {})]
    assert len({call.id for call in result.tool_calls}) == 2
    assert result.finish == "tool_calls"


def test_a_call_before_the_text(aimock: AIMock, connect: Connect) -> None:
    """Blocks come in the order that the server sends them in."""
    call = {"type": "toolCall", "name": "get_weather", "arguments": ARGUMENTS, "id": "call_1"}
    aimock.fixture({"blocks": [call, {"type": "text", "text": "Done looking."}]})
    stream = connect(aimock).stream(PROMPT, tools=[WEATHER])
    types = [chunk.type for chunk in stream.chunks()]
    assert types == sorted(types, reverse=True)  # tool_call, then text
    assert set(types) == {"tool_call", "text"}
    result = stream.result()
    assert (result.text, result.tool_calls[0].parsed()) == ("Done looking.", ARGUMENTS)


def tool_output(api: str, call_id: str | None, output: str) -> dict[str, Any]:
    """The output of a tool, in the words of each API."""
    if api == "responses":
        return {"type": "function_call_output", "call_id": call_id, "output": output}
    if api == "messages":
        block = {"type": "tool_result", "tool_use_id": call_id, "content": output}
        return {"role": "user", "content": [block]}
    return {"role": "tool", "tool_call_id": call_id, "content": output}


def answer_to_a_tool(
    client: Client, api: str, thinking: Any = None
) -> tuple[Result, Result, list[Any]]:
    """A turn that calls the tool, the turn that gets its output, and what the second was sent."""
    first = client.stream(PROMPT, tools=[WEATHER], thinking=thinking).result()
    (call,) = first.tool_calls
    prompt = [
        {"role": "user", "content": PROMPT},
        *first.to_messages(),
        tool_output(api, call.id, "sunny"),
    ]
    return first, client.stream(prompt, tools=[WEATHER], thinking=thinking).result(), prompt


def test_llmock_takes_the_answer_of_a_tool(mock: LLMock, api: str, connect: Connect) -> None:
    """Left to itself it calls the tool until a valid output comes back: `to_messages()` is one
    that it understands."""
    first, second, _ = answer_to_a_tool(connect(mock), api)
    assert first.tool_calls[0].parsed() == {"city": "mock-city", "days": 1}
    assert (second.finish, second.tool_calls) == ("stop", ())
    assert second.text


def test_aimock_takes_the_answer_of_a_tool(aimock: AIMock, api: str, connect: Connect) -> None:
    """It answers only to the output of the call's own id, and sees the call that came before."""
    aimock.fixture({"content": "It is sunny."}, {"toolCallId": "call_get_weather"})
    aimock.says("Let me look.", {"get_weather": ARGUMENTS}, reasoning=THOUGHT)
    first, second, prompt = answer_to_a_tool(connect(aimock), api, thinking=True)
    assert (first.thinking, second.text) == (THOUGHT, "It is sunny.")
    seen = aimock.bodies()[-1]["messages"]
    calls = [call for turn in seen for call in turn.get("tool_calls", ())]
    assert [call["id"] for call in calls] == ["call_get_weather"]
    assert [turn["content"] for turn in seen if turn["role"] == "tool"] == ["sunny"]
    if api == "messages":  # the turn has to begin with the thinking it came with
        assert prompt[1]["content"][0]["type"] == "thinking"


def test_thinking_comes_apart_from_the_text(aimock: AIMock, connect: Connect) -> None:
    """Thinking comes in pieces, before the text, and is no part of it."""
    aimock.says(TEXT, reasoning=THOUGHT)
    stream = connect(aimock).stream(PROMPT, thinking=True)
    chunks = list(stream.chunks())
    result = stream.result()
    types = [chunk.type for chunk in chunks]
    assert types == sorted(types, reverse=True)  # thinking, then text
    assert types.count("thinking") > 3
    assert "".join(chunk.text for chunk in chunks if chunk.type == "thinking") == THOUGHT
    assert (result.thinking, result.text, result.finish) == (THOUGHT, TEXT, "stop")


@pytest.mark.parametrize("api", ["messages"], indirect=True)
def test_signed_and_hidden_thinking_is_kept(aimock: AIMock, connect: Connect) -> None:
    """Signature and redacted blocks are in the turn that goes back, as they came."""
    aimock.says(TEXT, reasoning=THOUGHT, reasoningSignature="c2ln", redactedThinking=["aGlk"])
    result = connect(aimock).stream(PROMPT, thinking=2048).result()
    assert result.to_messages()[0]["content"] == [
        {"type": "redacted_thinking", "data": "aGlk"},
        {"type": "thinking", "thinking": THOUGHT, "signature": "c2ln"},
        {"type": "text", "text": TEXT},
    ]
    assert result.thinking == THOUGHT


@pytest.mark.parametrize("api", ["chat"], indirect=True)
def test_the_manner_of_openrouter(aimock: AIMock, connect: Connect) -> None:
    """Comments before the first chunk, thinking and text under OpenRouter's own path."""
    aimock.fixture({"content": TEXT, "reasoning": THOUGHT}, openRouterProcessing=True)
    settings = {"base_url": f"{aimock.url}/api/v1", "profile": "openrouter"}
    result = connect(aimock, **settings).stream(PROMPT, thinking=True).result()
    assert (result.thinking, result.text, result.finish) == (THOUGHT, TEXT, "stop")
    assert result.usage.output_tokens


@pytest.mark.parametrize("arguments", [False, True], ids=["text", "arguments"])
def test_a_character_cut_in_two(aimock: AIMock, connect: Connect, arguments: bool) -> None:
    """Halves of a character beyond U+FFFF, in two deltas, are that character again."""
    rainbows = "🌈🌈🌈🌈"
    answer = (
        {"toolCalls": [{"name": "get_weather", "arguments": {"city": rainbows}}]}
        if arguments
        else {"content": rainbows}
    )
    aimock.fixture(answer, chunkSize=3)  # in UTF-16 units: it has to cut some
    stream = connect(aimock).stream(PROMPT)
    pieces = [chunk.text for chunk in stream.chunks()]
    result = stream.result()
    assert all(piece.encode() for piece in pieces)  # no lone half
    found = result.tool_calls[0].parsed()["city"] if arguments else result.text
    assert found == rainbows


def test_an_answer_at_its_limit(mock: LLMock, connect: Connect) -> None:
    """The token limit is an end that the service chose: no error, and its own finish."""
    mock.says(TEXT, finish_reason="length")
    result = connect(mock).stream(PROMPT).result()
    assert (result.text, result.finish) == (TEXT, "length")


def test_a_closed_call_with_broken_arguments(mock: LLMock, connect: Connect) -> None:
    """A call that the server closed over half a JSON is not offered to be run."""
    mock.says("", {"get_weather": ARGUMENTS})
    mock.script({"type": "tool_fault", "kind": "malformed_arguments"})
    result = connect(mock).stream(PROMPT, tools=[WEATHER]).result()
    (call,) = result.incomplete_tool_calls
    assert result.tool_calls == ()
    with pytest.raises(ProtocolError):
        call.parsed()


# ---- refusals ----------------------------------------------------------------------------------


def test_too_many_requests_then_the_answer(service: LLMock | AIMock, connect: Connect) -> None:
    """A 429 is retried, not before the wait that the server asks for."""
    service.says(TEXT)
    service.fails(429)
    result = connect(service).stream(PROMPT).result()
    assert result.text == TEXT
    assert causes(result.attempts) == [RateLimitError, None]
    assert result.attempts[0].delay_ms >= service.asks_to_wait * 1000.0
    assert service.requests() == [429, 200]


@pytest.mark.parametrize(
    ("status", "cause"),
    [(500, ServerError), (502, ServerError), (408, ServerError), (529, OverloadedError)],
)
def test_a_failing_service_then_the_answer(
    service: LLMock | AIMock, connect: Connect, status: int, cause: type[LLMStreamError]
) -> None:
    """A failure of the service is retried, and the answer says so."""
    service.says(TEXT)
    service.fails(status)
    result = connect(service).stream(PROMPT).result()
    assert result.text == TEXT
    assert causes(result.attempts) == [cause, None]
    assert [attempt.status for attempt in result.attempts] == [status, 200]
    assert service.requests() == [status, 200]


@pytest.mark.parametrize(
    ("status", "code", "cause"),
    [
        (400, None, InvalidRequestError),
        (401, None, AuthenticationError),
        (403, None, PermissionDeniedError),
        (404, None, InvalidRequestError),
        (422, None, InvalidRequestError),
        (429, "insufficient_quota", QuotaExceededError),
    ],
)
def test_a_refusal_is_final(
    service: LLMock | AIMock,
    connect: Connect,
    status: int,
    code: str | None,
    cause: type[LLMStreamError],
) -> None:
    """What asking again cannot mend is asked once."""
    service.says(TEXT)
    service.fails(status, code)
    with pytest.raises(cause) as caught:
        connect(service).stream(PROMPT).result()
    assert type(caught.value) is cause
    assert not caught.value.retryable
    assert len(caught.value.attempts) == 1
    assert service.requests() == [status]


def test_an_outage_ends_after_the_last_attempt(mock: LLMock, connect: Connect) -> None:
    """A service that stays down is asked four times, with growing waits, and no more."""
    mock.script({"type": "fail", "status": 500, "times": None})
    with pytest.raises(ServerError) as caught:
        connect(mock).stream(PROMPT).result()
    delays = [attempt.delay_ms / 1000.0 for attempt in caught.value.attempts]
    assert delays[:3] == sorted(delays[:3])
    assert delays[0] >= 0.05
    assert mock.requests() == [500] * 4


def test_a_request_that_nobody_answers(aimock: AIMock, connect: Connect) -> None:
    """A server that hangs up before a byte is asked again, then the connection has failed."""
    aimock.says(TEXT)
    aimock.control("POST", "chaos", {"disconnectRate": 1})
    with pytest.raises(ConnectionFailed) as caught:
        connect(aimock).stream(PROMPT).result()
    assert causes(caught.value.attempts) == [ConnectionFailed] * 4
    assert aimock.requests() == [0] * 4


def test_a_success_that_is_no_stream(aimock: AIMock, connect: Connect) -> None:
    """A 200 with broken JSON for a body is no answer."""
    aimock.says(TEXT)
    aimock.control("POST", "chaos", {"malformedRate": 1})
    with pytest.raises(NotAStreamError) as caught:
        connect(aimock).stream(PROMPT).result()
    assert caught.value.partial.text == ""
    assert aimock.requests() == [200]


# ---- answers that break off --------------------------------------------------------------------


def broken(kind: str, after_chunks: int, **more: Any) -> dict[str, Any]:
    """One stream of llmock breaks after so many events."""
    fault = {"type": "stream_fault", "kind": kind, "after_chunks": after_chunks}
    return {**fault, "stall_seconds": STALL, **more}


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("disconnect", StreamInterrupted),
        ("truncate", StreamTruncated),
        ("malformed", ProtocolError),
        ("stall", IdleTimeout),
    ],
)
def test_an_answer_that_breaks_off_is_no_answer(
    mock: LLMock, api: str, connect: Connect, kind: str, cause: type[LLMStreamError]
) -> None:
    """After content a break is raised, with what had come, and never asked for again."""
    mock.says(TEXT)
    mock.script(broken(kind, OPENING[api] + 3))
    near = {"idle": SOON} if kind == "stall" else {}
    stream = connect(mock, timeouts=clocks(PATIENCE, **near)).stream(PROMPT)
    reading = bounded(stream)
    error = reading.error
    assert type(error) is cause
    assert "".join(reading.tokens) == WORDS == error.partial.text == stream.text
    assert (error.partial.finish, error.partial.tool_calls) == (None, ())
    assert causes(error.attempts) == [cause]
    assert mock.requests() == [200]


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("disconnect", StreamInterrupted),
        ("truncate", StreamTruncated),
        ("stall", FirstTokenTimeout),
        ("malformed", ProtocolError),
    ],
)
def test_a_break_before_the_content_is_retried(
    mock: LLMock, connect: Connect, kind: str, cause: type[LLMStreamError]
) -> None:
    """While there is nothing that could come twice, a broken answer is asked for again."""
    mock.says(TEXT)
    mock.script(broken(kind, 1))
    client = connect(
        mock,
        timeouts=clocks(PATIENCE, first_token=SOON),
        retry=RetryPolicy(base=0.05, retry_first_token=True),
    )
    stream = client.stream(PROMPT)
    assert "".join(stream) == TEXT
    assert causes(stream.attempts) == [cause, None]
    assert mock.requests() == [200, 200]


@pytest.mark.parametrize("kind", ["disconnect", "truncate"])
def test_half_a_tool_call_is_not_offered(
    mock: LLMock, api: str, connect: Connect, kind: str
) -> None:
    """A call whose arguments were cut is not among those to be run."""
    mock.says("", {"get_weather": ARGUMENTS})
    mock.script(broken(kind, TOOL_OPENING[api] + 1))
    with pytest.raises((StreamInterrupted, StreamTruncated)) as caught:
        connect(mock).stream(PROMPT, tools=[WEATHER]).result()
    partial = caught.value.partial
    assert (partial.tool_calls, partial.finish) == ((), None)
    (call,) = partial.incomplete_tool_calls
    assert (call.name, call.arguments) == ("get_weather", '{"city": "Z\\')  # within an escape


@pytest.mark.parametrize("option", [{"truncateAfterChunks": 8}, {"disconnectAfterMs": 400}])
def test_aimock_hangs_up_in_the_answer(
    aimock: AIMock, connect: Connect, option: dict[str, int]
) -> None:
    """A connection that is torn down in the answer is an interruption with the text so far."""
    aimock.fixture({"content": TEXT}, latency=40, **option)
    with pytest.raises(StreamInterrupted) as caught:
        connect(aimock).stream(PROMPT).result()
    partial = caught.value.partial
    assert partial.text
    assert TEXT.startswith(partial.text)
    assert partial.text != TEXT
    assert partial.finish is None
    assert aimock.requests() == [200]


@pytest.mark.parametrize("where", ["delay", "slow_first_token"])
def test_a_first_token_that_does_not_come(mock: LLMock, connect: Connect, where: str) -> None:
    """Before the headers or behind them, the first-token clock breaks, and is not retried."""
    mock.says(TEXT)
    mock.script({"type": where, "seconds": STALL})
    began = time.monotonic()
    with pytest.raises(FirstTokenTimeout) as caught:
        connect(mock, timeouts=clocks(PATIENCE, first_token=SOON)).stream(PROMPT).result()
    assert SOON <= time.monotonic() - began < STALL / 2
    assert len(caught.value.attempts) == 1


# ---- llmock's effect --------------------------------------------------------------------------


def insist(client: Client, prompt: str) -> Result:
    """A caller's own loop around the library: ask again, after a growing wait, where the error
    says that it may help."""
    for wait in (0.1, 0.2, 0.4):
        try:
            return client.stream(prompt).result()
        except LLMStreamError as error:
            if not error.retryable:
                raise
            time.sleep(wait)
    return client.stream(prompt).result()


def fail(status: int, **more: Any) -> dict[str, Any]:
    return {"type": "fail", "status": status, **more}


def faults(api: str) -> dict[str, tuple[type[LLMStreamError] | None, list[dict[str, Any]]]]:
    """What a call meets -> the error it ends in (None: the whole answer), and the faults."""
    middle = OPENING[api] + 3
    return {
        "429 twice": (None, [fail(429, retry_after=0.2, times=2)]),
        "500 twice": (None, [fail(500, times=2)]),
        "502": (None, [fail(502)]),
        "503": (None, [fail(503, retry_after=0.1)]),
        "504": (None, [fail(504, retry_after=0.1)]),
        "529": (None, [fail(529, retry_after=0.1)]),
        "400": (InvalidRequestError, [fail(400)]),
        "401": (AuthenticationError, [fail(401)]),
        "disconnect at once": (None, [broken("disconnect", 0)]),
        "disconnect before the content": (None, [broken("disconnect", 1)]),
        "disconnect in the answer, twice": (None, [broken("disconnect", middle, times=2)]),
        "truncate at once": (None, [broken("truncate", 0)]),
        "truncate before the content": (None, [broken("truncate", 1)]),
        "truncate in the answer, twice": (None, [broken("truncate", middle, times=2)]),
        "stall before the content": (None, [broken("stall", 1)]),
        "stall in the answer": (None, [broken("stall", middle)]),
        "everything": (
            None,
            [fail(429, retry_after=0.1), fail(503, retry_after=0.1), broken("truncate", middle)],
        ),
    }


def count(scripted: list[dict[str, Any]]) -> int:
    return sum(fault.get("times", 1) for fault in scripted)


def test_llmock_finds_no_fault_with_the_client(mock: LLMock, api: str, connect: Connect) -> None:
    """Its strict effect on 429, 5xx, disconnect, truncate and stall: no error, no warning."""
    mock.says(TEXT)
    client = connect(
        mock,
        timeouts=clocks(PATIENCE, first_token=SOON, idle=SOON),
        retry=RetryPolicy(retry_first_token=True),
    )
    injected = 0
    for name, (refusal, scripted) in faults(api).items():
        mock.script(*scripted)
        injected += count(scripted)
        if refusal is None:
            assert insist(client, f"{PROMPT} {name}").text == TEXT
        else:
            with pytest.raises(refusal):
                insist(client, f"{PROMPT} {name}")
    status, report = mock.effect()
    assert (report["findings"], status) == ([], 0)
    assert report["faults_injected"] == injected


@pytest.mark.parametrize("before_content", [True, False])
def test_llmock_finds_no_fault_after_a_broken_event(
    mock: LLMock, api: str, connect: Connect, before_content: bool
) -> None:
    """Its strict effect on a malformed event: the client stopped reading, and asked again."""
    mock.says(TEXT)
    mock.script(broken("malformed", 1 if before_content else OPENING[api] + 3))
    assert insist(connect(mock), PROMPT).text == TEXT
    status, report = mock.effect()
    assert (report["findings"], report["faults_injected"], status) == ([], 1, 0)


@pytest.mark.parametrize("api", ["chat"], indirect=True)
def test_llmock_does_find_fault(mock: LLMock, api: str) -> None:
    """The effect is a real one: a client that takes half an answer for whole fails it."""
    mock.says(TEXT)
    mock.script(broken("truncate", OPENING[api] + 3))
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
    with requests.Session() as session:
        session.post(f"{mock.base_url(api)}/chat/completions", json=body, timeout=PATIENCE)
    status, report = mock.effect()
    assert [finding["code"] for finding in report["findings"]] == ["truncated_stream_accepted"]
    assert status == 1
