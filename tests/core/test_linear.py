"""Nothing that a service sends costs more than in proportion to its length.

Counted are the lines of Python that are executed, and, because much work is done in C, the CPU time
at eight times the size: in proportion it is eight times as long, quadratic sixty-four times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest
from every import every
from support import cpu_seconds, executed_lines

from llmstream._core.dialects import APIS
from llmstream._core.dialects.base import Dialect
from llmstream._core.dialects.profiles import PROFILES
from llmstream._core.halves import Halves
from llmstream._core.retry import is_for_whole_key, parse_retry_after, reset_of_used_up_limits
from llmstream._core.session import Session
from llmstream._core.tool_calls import is_json, partition_calls
from llmstream.errors import EventTooLarge
from llmstream.events.base import decode_json, raw_elements, shallow

Blocks = Callable[[int], Iterator[Any]]
FEW, TIMES = 250, 8


def data(payload: Any) -> bytes:
    return f"data: {json.dumps(payload)}\n\n".encode()


def fed(api: str, payloads: Any, profile: str | None = None) -> Session:
    """A session that has received all, fifty events a read, and whose answer was put together."""
    dialect: Dialect = APIS[api].load()
    if profile is not None:
        dialect = dialect.with_profile(PROFILES[profile])
    session = Session(dialect)
    blocks = [block if isinstance(block, bytes) else data(block) for block in payloads]
    for at in range(0, len(blocks), 50):
        session.receive(b"".join(blocks[at : at + 50]))
    if not session.ended:
        session.receive_eof()
    state = session.state
    calls, _ = partition_calls(dialect.calls(state), False, is_json)
    for item in state.in_order():
        if item.wire is not None:
            item.wire()
    dialect.assistant_turn(state, frozenset(call.id for call in calls if call.id))
    state.compact()
    return session


# ---- Responses ---------------------------------------------------------------------------------


def message(number: int, text: str = "a") -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"id": f"i{number}", "type": "message", "status": "completed", "content": content}


def function(number: int) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": "{}"}


def event(kind: str, index: int | None = None, **fields: Any) -> dict[str, Any]:
    place = {} if index is None else {"output_index": index}
    return {"type": f"response.{kind}", **place, **fields}


def added(number: int) -> dict[str, Any]:
    return event("output_item.added", number, item=message(number, ""))


def delta(number: int, text: str = "a", part: int = 0) -> dict[str, Any]:
    return event("output_text.delta", number, content_index=part, delta=text)


def closed(number: int, item: Any = None) -> dict[str, Any]:
    return event("output_item.done", number, item=item or message(number))


def completed(*output: Any) -> dict[str, Any]:
    return event("completed", response={"status": "completed", "output": output})


RESPONSES: dict[str, Blocks] = {
    "items": lambda n: chain(
        *((added(i), delta(i), closed(i)) for i in range(n)), [completed(*map(message, range(n)))]
    ),
    "items that only the end closes": lambda n: chain(
        *((added(i), delta(i)) for i in range(n)), [completed(*map(message, range(n)))]
    ),
    "items without events": lambda n: iter([completed(*map(message, range(n)))]),
    "items under other ids": lambda n: chain(
        *((added(i), delta(i, f"{i} a")) for i in range(n)),
        [completed(*(message(n + i, f"{n - i} a") for i in range(n)))],
    ),
    "calls": lambda n: chain((closed(i, function(i)) for i in range(n)), [completed()]),
    "calls with one id": lambda n: chain((closed(i, function(0)) for i in range(n)), [completed()]),
    "calls without events": lambda n: iter([completed(*map(function, range(n)))]),
    "parts": lambda n: chain([added(0)], (delta(0, "a", i) for i in range(n)), [completed()]),
    "an item closed again and again": lambda n: chain(
        (delta(0, "a", i) for i in range(n)),
        [closed(0, message(0, "a" * n))],
        (closed(0, message(0, "b")) for _ in range(n)),
        (event("output_text.done", 0, content_index=0, text="b") for _ in range(n)),
    ),
    "text after the end of an item": lambda n: chain(
        [added(0), delta(0), closed(0)], *((delta(0), closed(0)) for _ in range(n))
    ),
}

# ---- Messages ----------------------------------------------------------------------------------

TEXT_BLOCK = {"type": "text", "text": ""}
END = ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"})


def start(*content: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "m", "content": content}}


def block(index: int | None, content: Any, text: str | None = "a") -> Iterator[dict[str, Any]]:
    yield {"type": "content_block_start", "index": index, "content_block": content}
    if text is not None:
        piece = {"type": "text_delta", "text": text}
        yield {"type": "content_block_delta", "index": index, "delta": piece}
    yield {"type": "content_block_stop", "index": index}


def use(number: int) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"t{number}", "name": "f", "input": {}}


MESSAGES: dict[str, Blocks] = {
    "blocks": lambda n: chain([start()], *(block(i, TEXT_BLOCK) for i in range(n)), END),
    "blocks at one index": lambda n: chain(
        [start()], *(block(0, TEXT_BLOCK) for _ in range(n)), END
    ),
    "blocks without an index": lambda n: chain(
        [start()], *(block(None, TEXT_BLOCK) for _ in range(n)), END
    ),
    "calls": lambda n: chain([start()], *(block(i, use(i), None) for i in range(n)), END),
    "a whole answer": lambda n: chain([start(*map(use, range(n)))], END),
}

# ---- Chat Completions ----------------------------------------------------------------------------


def choice(number: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": number, "delta": delta, "finish_reason": finish}]}


def call(number: int, arguments: str = "{}", **fields: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"index": number, "id": f"c{number}", "function": function, **fields}


def more(arguments: str, number: int = 0) -> dict[str, Any]:
    return choice(tool_calls=[{"index": number, "function": {"arguments": arguments}}])


CALLED, STOPPED, DONE = choice(finish="tool_calls"), choice(finish="stop"), b"data: [DONE]\n\n"
SIGNED = {"extra_content": {"signature": "s"}}
CHAT: dict[str, Blocks] = {
    "choices": lambda n: chain(
        [choice(content="a")], (choice(i, "stop") for i in range(n)), [STOPPED, DONE]
    ),
    "empty choices": lambda n: chain((choice(i) for i in range(n)), [choice(content="a"), DONE]),
    "choices with calls": lambda n: chain(
        (choice(i, tool_calls=[call(i)]) for i in range(n)),
        (choice(i, "tool_calls") for i in range(n)),
        [DONE],
    ),
    "calls": lambda n: chain((choice(tool_calls=[call(i)]) for i in range(n)), [CALLED, DONE]),
    "calls in one event": lambda n: chain(
        [choice(tool_calls=[call(i, **SIGNED) for i in range(n)])], [CALLED, DONE]
    ),
    "calls with one id in one event": lambda n: chain(
        [choice(tool_calls=[call(i, id="x") for i in range(n)])], [CALLED, DONE]
    ),
    "calls that go on later": lambda n: chain(
        (choice(tool_calls=[call(i, "")]) for i in range(n)),
        (more("{}", i) for i in range(n)),
        [CALLED, DONE],
    ),
    "a finish after each call": lambda n: chain(
        *((choice(tool_calls=[call(i)]), CALLED) for i in range(n)), [DONE]
    ),
    "a finish after each half call": lambda n: chain(
        *((choice(tool_calls=[call(i, "{")]), CALLED) for i in range(n)), [DONE]
    ),
    "a finish again and again": lambda n: chain(
        (choice(tool_calls=[call(i)]) for i in range(n)), (CALLED for _ in range(n)), [DONE]
    ),
    "arguments": lambda n: chain(
        [choice(tool_calls=[call(0, "")])], (more("1") for _ in range(n)), [CALLED, DONE]
    ),
    "arguments that always look whole": lambda n: chain(
        (choice(tool_calls=[call(0, "}")]) for _ in range(n)), [CALLED, DONE]
    ),
    "arguments that are always empty": lambda n: chain(
        (choice(tool_calls=[call(0, "")]) for _ in range(n)), [CALLED, DONE]
    ),
    "usage": lambda n: chain(
        (choice(tool_calls=[call(i)]) for i in range(n)),
        [CALLED],
        ({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": i}} for i in range(n)),
        [DONE],
    ),
}


# ---- Gemini ------------------------------------------------------------------------------------


def parts(*sent: Any, finish: str | None = None) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(sent)}, "finishReason": finish}]}


def piece(path: str, **value: Any) -> dict[str, Any]:
    argument = {"jsonPath": path, **value}
    return {"functionCall": {"partialArgs": [argument], "willContinue": True}}


MADE = {"functionCall": {"name": "f", "args": {"a": 1}}}
SEALED = {"text": "a", "thoughtSignature": "QQ=="}
BEGUN = {"functionCall": {"name": "f", "willContinue": True}}
ENDED = parts(finish="STOP")
GEMINI: dict[str, Blocks] = {
    "calls": lambda n: chain((parts(MADE) for _ in range(n)), [ENDED]),
    "calls in one event": lambda n: iter([parts(*[MADE] * n), ENDED]),
    "a finish after each call": lambda n: (parts(MADE, finish="STOP") for _ in range(n)),
    "a finish after each part": lambda n: (parts(SEALED, finish="STOP") for _ in range(n)),
    "a finish after each thought": lambda n: (
        parts({**SEALED, "thought": True}, finish="STOP") for _ in range(n)
    ),
    "texts after a finish": lambda n: chain([ENDED], (parts(SEALED, MADE) for _ in range(n))),
    "candidates": lambda n: iter([{"candidates": parts(SEALED)["candidates"] * n}, ENDED]),
    "thinking and text": lambda n: chain(
        (parts({"text": "a", "thought": True}, {"text": "b"}) for _ in range(n)), [ENDED]
    ),
    "pieces": lambda n: chain(
        [parts(BEGUN)], (parts(piece(f"$.a[{i}]", numberValue=1)) for i in range(n)), [ENDED]
    ),
    "pieces of a string": lambda n: chain(
        [parts(BEGUN)],
        (parts(piece("$.a", stringValue="a", willContinue=True)) for _ in range(n)),
        [ENDED],
    ),
    "pieces that are astray": lambda n: chain(
        [parts(BEGUN)], (parts(piece(f"$.a[{i % 2}].b", numberValue=1)) for i in range(n)), [ENDED]
    ),
}
STREAMS = {"responses": RESPONSES, "messages": MESSAGES, "chat": CHAT, "gemini": GEMINI}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("api", "kind"), [(api, kind) for api, kinds in STREAMS.items() for kind in kinds]
)
def test_streams(api: str, kind: str) -> None:
    """Many items, blocks, choices, calls; in order and not, once and again."""
    few, many = (list(STREAMS[api][kind](n)) for n in (FEW, FEW * 2))
    fed(api, few)
    assert executed_lines(lambda: fed(api, many)) < (
        2.4 * executed_lines(lambda: fed(api, few)) + 5000
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("api", "kind"), [(api, kind) for api, kinds in STREAMS.items() for kind in kinds]
)
def test_streams_in_time(api: str, kind: str) -> None:
    """The same, with the work that is done in C."""
    few, many = (list(STREAMS[api][kind](n)) for n in (4 * FEW, 4 * FEW * TIMES))
    base = min(cpu_seconds(lambda: fed(api, few)) for _ in range(3))
    assert min(cpu_seconds(lambda: fed(api, many)) for _ in range(2)) < 2 * TIMES * base + 0.1


def test_reasoning_details() -> None:
    """The pieces of a detail are joined once."""
    piece = {"type": "reasoning.text", "index": 0, "text": "ab"}
    payloads = [choice(reasoning_details=[piece]) for _ in range(500)]
    ending = [choice(reasoning_details=[{**piece, "text": None, "signature": "s"}])]
    session = fed("chat", [*payloads, *ending, choice(content="x"), STOPPED, DONE], "openrouter")
    (turn,) = (
        APIS["chat"]
        .load()
        .with_profile(PROFILES["openrouter"])
        .assistant_turn(session.state, frozenset())
    )
    assert turn["reasoning_details"] == [{**piece, "text": "ab" * 500, "signature": "s"}]


def test_halves_of_thousands_of_places() -> None:
    """Few halves are held at a time, and only those of small events: the others are U+FFFD."""
    halves = Halves()
    half = b'{"type":"x.delta","output_index":%d,"delta":"\\ud83d"}'
    for number in range(1000):
        (shown,) = halves.mend(half % number)
        assert ("\ufffd" in shown.decode()) == (number >= 64)
    assert len(halves.release()) == 64
    large = b'{"type":"x.delta","output_index":1,"pad":"%s","delta":"\\ud83d"}' % (b"x" * 70_000)
    assert "\ufffd" in halves.mend(large)[0].decode()
    assert not halves.waiting


# ---- what is read by regular expressions ---------------------------------------------------------

N = 20_000
HEADERS = {
    "two ways": "1ms" * N + "x",
    "spaces": "1s" + " " * N + "x",
    "commas": "1s, " * N + "x",
    "digits": "1" * N,
    "a date": "Mon, " * N,
    "a year": f"Mon, 01 Jan {'2' * N} 00:00:00 GMT",
}
WORDS = {
    "spaces": f"wait{' ' * N}!",
    "spaces after retry": f"please retry{' ' * N}x",
    "again": f"try{' again' * N}!",
    "waits": "wait " * N,
    "durations": f"wait {'1ms ' * N}x",
    "durations without spaces": f"wait {'1ms' * N}x",
    "lines": "wait" + " \n" * N,
}


@every("value", HEADERS)
def test_headers_without_end(value: str) -> None:
    """What says when in thousands of characters says nothing, at once."""
    text = HEADERS[value]
    reset = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": text}
    bodies: list[Any] = [{"retry_after": text}, {"details": [{"retryDelay": text}]}]

    def read() -> None:
        assert reset_of_used_up_limits(reset, 0.0) is None
        assert parse_retry_after({"retry-after": text, "retry-after-ms": text}, "", 0.0) is None
        assert all(parse_retry_after({}, "", 0.0, [body]) is None for body in bodies)

    assert cpu_seconds(read) < 0.2


@every("value", WORDS)
def test_words_without_end(value: str) -> None:
    def read() -> None:
        parse_retry_after({}, WORDS[value], 0.0)
        is_for_whole_key(WORDS[value], "a-model")
        is_for_whole_key("limit" * N, "a-model")

    assert cpu_seconds(read) < 0.2


def test_milliseconds_are_no_plural_of_minutes() -> None:
    assert parse_retry_after({}, "try again in 350ms", None) == pytest.approx(0.35)
    assert parse_retry_after({}, "try again in 2 mins 3 secs", None) == 123.0


# ---- JSON ----------------------------------------------------------------------------------------


def test_elements_of_a_list() -> None:
    """As they were sent, without nulls; leniently where it is not quite JSON."""
    assert raw_elements(b'{"a":{"b":[1, {"x":"y"},null,[]]}}', "a", "b") == [
        *(b"1", b'{"x":"y"}', b"[]")
    ]
    assert raw_elements(b'{"b":[1]}', "a", "b") == [b"1"]
    assert raw_elements(b'{"b":[NaN,null,"\\ud83d"]}', "b") == [b"NaN", b'"\\ufffd"']


@every("digits", [20, 300, 301, 4300, 4301, 100_000])
def test_huge_numbers(digits: int) -> None:
    """A whole number that Python refuses to read is a float; all can be written."""
    value = decode_json(b'{"a":%s,"b":NaN}' % (b"1" * digits))["a"]
    assert isinstance(value, float if digits > 4300 else (int, float))
    assert repr(value)


def test_deep_json_is_refused_where_a_result_would_have_it() -> None:
    """In brackets, not in what strings contain."""
    assert shallow(b"[" * 200 + b"]" * 200)
    assert shallow(b'"' + b"[" * 1000 + b'"')
    assert shallow(b'["\\"[' + b"{" * 1000 + b'"]')
    assert shallow(b"[" + b"[]," * 1000 + b"[]]")
    for opened, ended in ((b"[", b"]"), (b'{"a":', b"}")):
        with pytest.raises(ValueError, match="too deeply"):
            shallow(opened * 201 + b"1" + ended * 201)


WIDE = {"lists": b"[],", "objects": b'{"a":0},', "numbers": b"0,"}


@pytest.mark.slow
@pytest.mark.parametrize("api", STREAMS)
@pytest.mark.parametrize("kind", WIDE)
def test_an_event_that_would_fill_the_memory(api: str, kind: str) -> None:
    """It is refused before it is decoded, in a stream and in one body; what is after the end of an
    answer does not matter. Text may contain as many brackets as it likes."""
    wide = b'{"type":"zz","x":[' + WIDE[kind] * 2_000_000 + b"0]}"
    session = Session(APIS[api].load())
    session.receive(b"data: " + wide + b"\n\n")
    body = Session(APIS[api].load())
    body.receive_json(wide)
    assert isinstance(session.error, EventTooLarge)
    assert isinstance(body.error, EventTooLarge)
    text = Session(APIS[api].load())
    text.receive(b'data: {"type":"zz","x":"' + b"[,{" * 1_000_000 + b'"}\n\n')
    assert text.error is None


def test_a_wide_event_after_the_end() -> None:
    session = Session(APIS["chat"].load())
    session.receive(data(choice(content="a")) + data(STOPPED))
    assert session.complete
    session.receive(b'data: {"x":[' + WIDE["lists"] * 2_000_000 + b"0]}\n\n")
    assert (session.error, session.ended) == (None, True)
