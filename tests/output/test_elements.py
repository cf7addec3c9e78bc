"""`stream.elements()`: each element of a list as soon as it is closed, validated."""

from __future__ import annotations

import gc
import json
import random
import weakref
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import pytest
from every import every
from growth import drained, random_json, random_value
from support import Reading, eventually, interrupted

from llmstream import (
    Cancelled,
    Client,
    ConfigurationError,
    OutputCut,
    OutputInvalid,
    OutputRefused,
    RetryPolicy,
    StreamInterrupted,
)
from llmstream.testing import Answer, Cut, FakeTransport, LLMServer, Reply, Silence

APIS = ("responses", "messages", "chat", "gemini")


class Step(msgspec.Struct):
    text: str
    minutes: int = 1


STEPS = [Step("boil [it]", 3), Step('say "}"', 1), Step("\u00e9\\", 2)]
TEXT = '{"elements": ' + json.dumps([msgspec.to_builtins(step) for step in STEPS]) + "}"


def client_of(api: str, *replies: Any, **settings: Any) -> Client:
    return Client(
        api,
        base_url="http://test",
        model="m",
        transport=FakeTransport(*replies),
        **{"retry": RetryPolicy(max_attempts=1), **settings},
    )


def elements_of(text: Any, kind: Any = list[Step], api: str = "chat", **options: Any) -> Any:
    return client_of(api, Answer(text, **options)).stream("Hi", output=kind)


# --- each as soon as it is closed ---------------------------------------------------------------


@every("api", APIS)
def test_each_element_comes_when_it_closes(api: str) -> None:
    """Not when its comma comes, and not when the list ends."""
    stream = elements_of([*TEXT], api=api)
    arrived = []
    for element in stream.elements():
        arrived.append((element, len(stream.text)))
    assert [element for element, _ in arrived] == STEPS
    assert stream.result().value == STEPS
    at, ends = 0, []
    for _ in STEPS:
        at = TEXT.index("}, {", at) + 1 if "}, {" in TEXT[at:] else len(TEXT) - 2
        ends.append(at)
    assert [size for _, size in arrived] == ends


LISTS: list[tuple[Any, str, list[Any]]] = [
    (list[int], '{"elements": [1, -2,3 ]}', [1, -2, 3]),
    (list[int], '{"elements": []}', []),
    (list[int], "[1, 2]", [1, 2]),
    (list[int], "```json\n[1, 2]\n```", [1, 2]),
    (list[str], '{"elements": ["a,]", "\\"", ""]}', ["a,]", '"', ""]),
    (list[bool | None], '{"elements": [true,null , false]}', [True, None, False]),
    (list[list[int]], '{"elements": [[], [1, [2][0]]]}'.replace("[2][0]", "2"), [[], [1, 2]]),
    (list[dict[str, int]], '{"elements": [{"elements": 1}, {}]}', [{"elements": 1}, {}]),
    (list[Any], '{"elements": [{"a": [{}]}, 1]}', [{"a": [{}]}, 1]),
    (list, '{"elements": [1, "a"]}', [1, "a"]),
    (set[int], '{"elements": [1, 1]}', [1, 1]),
    (tuple[int, ...], '{"elements": [1, 2]}', [1, 2]),
    (Annotated[list[int], msgspec.Meta(max_length=5)], '{"elements": [1]}', [1]),
    (list[int], 'Here {it} is:\n{"note": ["no"], "elements": [1]}\nDone.', [1]),
    (list[int], '{"count": {"elements": [5]}, "elements" : [1, 2], "more": [3]}', [1, 2]),
    (list[float], '{"elements": [1e5, 2.5]}', [1e5, 2.5]),
]


@every(("kind", "text", "elements"), LISTS)
def test_lists_of_every_kind(kind: Any, text: str, elements: list[Any]) -> None:
    """In pieces of every size; they are those of the value."""
    for size in (1, 2, 3, 5, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        stream = elements_of(pieces, kind)
        assert list(stream.elements()) == elements
        value = stream.result().value
        assert value == type(value)(elements)


@every("seed", range(60))
def test_any_list_in_any_pieces(seed: int) -> None:
    """The elements are those of the list, whatever is in them."""
    chance = random.Random(seed)
    value = [random_value(chance, 1) for _ in range(chance.randrange(6))]
    text = random_json(chance, {"elements": value})
    pieces = []
    at = 0
    while at < len(text):
        size = chance.choice([1, 1, 2, 5, 40])
        pieces.append(text[at : at + size])
        at += size
    found = list(elements_of(pieces, list[Any]).elements())
    # An integer that is too large for msgspec is a float there.
    assert found == [msgspec.json.decode(json.dumps(one)) for one in value]


@every(
    "text",
    [
        '{"elements": [{"text": "a"}], "elements": [{"text": "b"}]}',
        '{"elements": [{"text": "a"}], junk} {"elements": [{"text": "b"}]}',
        '{"elements": [{"text": "a"}, {"text": "b"}], "elements": []}',
        '{"elements": [{"text": "a"}], "\\u0065lements": [{"text": "b"}]}',
    ],
)
def test_elements_of_another_list_are_an_error(text: str) -> None:
    """Also of one that has as many: what was yielded is the value, or the end says that it is
    not."""
    items, error = drained(elements_of([*text]).elements())
    assert [item.text for item in items][:1] == ["a"]
    assert isinstance(error, OutputInvalid)
    assert "not those of one list" in str(error)
    assert elements_of(text).result().value != items


# --- what does not fit --------------------------------------------------------------------------


@every("api", APIS)
def test_an_element_that_does_not_fit_ends_the_call(api: str) -> None:
    """With its index and its path; those before it have been yielded, and nothing more is read."""
    text = '{"elements": [{"text": "a"}, {"text": "b"}, {"text": 3}, {"text": "d"}]}'
    stream = elements_of([*text], api=api)
    found, error = drained(stream.elements())
    assert [element.text for element in found] == ["a", "b"]
    assert isinstance(error, OutputInvalid)
    assert "element 2" in error.message
    assert (error.index, error.path) == (2, "$.text")
    assert error.trace_id == stream.trace_id
    assert error.partial.text.endswith('{"text": 3}')
    assert len(error.attempts) == 1
    assert error.attempts[0].error is error
    with pytest.raises(OutputInvalid) as again:
        stream.result()
    assert again.value is error
    assert stream.ended


@every("text", ['{"elements": [{"text": "a"}', '{"elements": [{"text": "a"},]}', "[{}] ]", "Hello"])
def test_a_list_that_is_no_json_is_an_error_at_the_end(text: str) -> None:
    """After the elements that were closed."""
    found, error = drained(elements_of([*text]).elements())
    assert isinstance(error, OutputInvalid)
    assert found in ([Step("a")], [])


def test_a_cut_list_keeps_its_elements() -> None:
    """Whether a limit has cut it or the connection."""
    text = TEXT[: TEXT.index('"say')]
    found, error = drained(elements_of(text, finish="length").elements())
    assert isinstance(error, OutputCut)
    assert found == STEPS[:1]
    blocks = Answer([*TEXT]).blocks("chat")
    stream = client_of("chat", Reply([*blocks[:80], Cut()])).stream("Hi", output=list[Step])
    found, error = drained(stream.elements())
    assert isinstance(error, StreamInterrupted)
    assert found == STEPS[: error.partial.text.count("}, ")]
    assert found


def test_a_refusal_is_no_empty_list() -> None:
    """It is an error."""
    with pytest.raises(OutputRefused):
        list(client_of("chat", Answer(refusal="No")).stream("Hi", output=list[int]).elements())


@every("text", ['{"elements": [1], "elements": [2, 3]}', '{"elements": [7]} {"elements": [1, 2]}'])
def test_elements_are_never_others_than_those_of_the_value(text: str) -> None:
    """A field that is there twice, of which the value has the last; two lists."""
    with pytest.raises(OutputInvalid):
        list(elements_of(text, list[int]).elements())


# --- a view of the stream -----------------------------------------------------------------------


@every("kind", [Step, int, dict[str, int], tuple[int, str], str, Step | None])
def test_it_needs_a_list(kind: Any) -> None:
    """And says so."""
    with pytest.raises(ConfigurationError, match="list"):
        elements_of("{}", kind).elements()
    with pytest.raises(ConfigurationError, match="output="):
        client_of("chat").stream("Hi").elements()


@every("options", [{"on_disconnect": "restart"}, {"output_retries": 1}])
def test_it_could_not_tell_that_the_answer_begins_anew(options: Any) -> None:
    """So it refuses, and the stream can be read in another way."""
    stream = client_of("chat", Answer(TEXT)).stream("Hi", output=list[Step], **options)
    with pytest.raises(ConfigurationError, match=r"partials\(\)"):
        stream.elements()
    assert stream.result().value == STEPS


def test_it_is_a_view() -> None:
    """One reader, one view; the rest can be read with `result()`."""
    stream = elements_of([*TEXT])
    view = stream.elements()
    assert iter(view) is view
    assert next(view) == STEPS[0]
    with pytest.raises(ConfigurationError, match=r"elements\(\)"):
        stream.chunks()
    assert stream.result().value == STEPS


def test_the_view_alone_keeps_the_stream() -> None:
    """And frees it."""
    view = elements_of([*TEXT]).elements()
    call = weakref.ref(view._call)
    assert next(view) == STEPS[0]
    del view
    gc.collect()
    assert call() is None


def test_a_cancel_wakes_its_reader(server: LLMServer, client_for: Any) -> None:
    """Nothing is yielded after it."""
    server.script(Reply([*Answer([*TEXT]).blocks("messages")[:60], Silence()]))
    stream = client_for(server, api="messages", model="m").stream("Hi", output=list[Step])
    seen: list[Any] = []
    reading = Reading(stream, lambda one: [seen.append(e) for e in one.elements()])  # type: ignore[func-returns-value]
    eventually(lambda: seen, "an element")
    stream.cancel("enough")
    assert isinstance(reading.ended(), Cancelled)
    assert seen == STEPS[: len(seen)]


PLACES = ("/llmstream/output/", "/llmstream/_core/output", "/llmstream/_core/json_text")


@pytest.mark.slow
def test_an_interrupt_at_any_line_loses_no_element() -> None:
    """Read on after it, the view yields all of them, or raises."""

    def work() -> None:
        stream = elements_of('{"elements": [1, 22]}', list[int])
        view: Iterator[Any] = stream.elements()
        found: list[int] = []
        try:
            try:
                found.extend(view)
            except KeyboardInterrupt:
                found.extend(view)
                raise
        except Cancelled:
            return
        finally:
            stream.close()
        assert found == [1, 22]

    work()
    total = interrupted(work, at=-1, places=PLACES)
    assert total > 100
    for at in range(1, total + 1, 2):
        interrupted(work, at, PLACES)
