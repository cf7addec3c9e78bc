"""`stream.partials()`: the value as far as it has arrived, cut at every byte; its budget."""

from __future__ import annotations

import gc
import json
import random
import time
import weakref
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, TypedDict

import msgspec
import pytest
from corpus import Recording, params, recorded
from every import every
from growth import check_grown, drained, random_json, random_value
from support import cpu_seconds, interrupted

from llmstream import (
    Cancelled,
    Client,
    ConfigurationError,
    LLMStreamError,
    OutputCut,
    OutputInvalid,
    RetryPolicy,
    StreamInterrupted,
)
from llmstream._core.dialects import APIS as ROWS
from llmstream._core.output import judged
from llmstream._core.session import Session
from llmstream.output import PartialJSON
from llmstream.output.asked import asked_output
from llmstream.testing import Answer, Cut, FakeClock, FakeTransport, Pause, Reply

APIS = ("responses", "messages", "chat", "gemini")


class Recipe(msgspec.Struct):
    name: str
    steps: list[str] = []
    grams: float = 0.0


class Answered(TypedDict, total=False):
    """What the recorded answers have, which were asked for by others."""

    output: int
    value: int
    title: str
    author: str
    city: str
    country: str
    pages: int
    publication_year: int


RECIPE = '{"name": "Tea \\u00e9\\"", "steps": ["boil", "wait 3 min"], "grams": 12.5}'
TEA = {"name": 'Tea é"', "steps": ["boil", "wait 3 min"], "grams": 12.5}


def client_of(api: str, *replies: Any, **settings: Any) -> Client:
    return Client(
        api,
        base_url="http://test",
        model="m",
        transport=FakeTransport(*replies),
        **{"retry": RetryPolicy(max_attempts=1), **settings},
    )


def by_letter(text: str) -> Answer:
    return Answer([*text])


# --- it grows -----------------------------------------------------------------------------------


def check_partials(found: list[Any], whole: Any) -> None:
    """Each has what the one before it had, and the last one is the whole."""
    assert found
    for before, after in pairwise(found):
        check_grown(before, after)
    assert found[-1] == whole


@every("api", APIS)
def test_partials_grow_into_the_value(api: str) -> None:
    """Letter by letter; a half number, word or escape is not there yet."""
    stream = client_of(api, by_letter(RECIPE)).stream("Hi", output=Recipe)
    found = list(stream.partials(interval=0))
    check_partials(found, TEA)
    assert {"name": "Te"} in found
    assert {"name": 'Tea é"', "steps": ["boil", "wait"]} in found
    assert all(one.get("grams", 12.5) == 12.5 for one in found)
    assert stream.result().value == Recipe('Tea é"', ["boil", "wait 3 min"], 12.5)
    assert msgspec.convert(found[-1], Recipe) == stream.result().value


@every("seed", range(150))
def test_any_json_grows_letter_by_letter(seed: int) -> None:
    """Whatever is in it, and whatever stands around it."""
    chance = random.Random(seed)
    value = {"a": random_value(chance), "b": [random_value(chance, 1) for _ in range(2)]}
    before = chance.choice(["", "\ufeff", "```json\n", "This {it} is: ", '<think>{"a": 1}</think>'])
    text = before + random_json(chance, value) + chance.choice(["", "\n```", ' Or {"x": 1}?', "  "])
    partial = PartialJSON(0)
    found = []
    for letter in text:
        partial.add(letter)
        if partial.parse() or partial.value is not None:
            found.append(partial.value)
    assert partial.closed
    check_partials(found, value)


def structured(recording: Recording) -> tuple[Any, str] | None:
    """The JSON that a recorded answer is, and the text that has it."""
    session = Session(ROWS[recording.api].load())
    session.receive(recording.data)
    text = session.state.text
    if session.state.finish != "stop" or not text.lstrip().startswith(("{", "[")):
        return None
    return judged(asked_output(Answered), session.state)[0], text


def recordings() -> list[Any]:
    found = [one for api in APIS for one in recorded(api)]
    return params(one for one in found if b"{" in one.data and structured(one) is not None)


@every("recording", recordings())
def test_every_structured_recording_cut_at_every_byte(recording: Recording) -> None:
    """What has arrived at each byte of the wire is a value that the next one has grown from; the
    last one is the value."""
    known = structured(recording)
    assert known is not None
    value, _ = known
    session, partial = Session(ROWS[recording.api].load()), PartialJSON(0)
    found = []
    for at in range(len(recording.data)):
        for event in session.receive(recording.data[at : at + 1]):
            for chunk in event.chunks:
                if chunk.type == "text":
                    partial.add(chunk.text)
                    partial.parse()
                    found.append(partial.value)
    check_partials([one for one in found if one is not None], value)
    assert partial.closed


@every("recording", recordings())
def test_every_structured_recording_through_a_stream(recording: Recording) -> None:
    """The last of its partials is the value, and a cut ends them with the error of the cut."""
    known = structured(recording)
    assert known is not None
    data = recording.data
    for size in (1, 7, len(data)):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        client = client_of(recording.api, Reply(pieces))
        stream = client.stream("Hi", output=Answered)
        check_partials(list(stream.partials(interval=0)), known[0])
        assert stream.result().value == known[0]
    half = client_of(recording.api, Reply([data[: len(data) // 2], Cut()]))
    with pytest.raises(LLMStreamError):
        list(half.stream("Hi", output=Answered).partials())


@pytest.mark.parametrize("api", APIS)
def test_an_answer_cut_at_every_event(api: str) -> None:
    """What had arrived is yielded before the error is raised."""
    blocks = by_letter(RECIPE).blocks(api)
    for at in range(1, len(blocks) - 4, 3):
        client = client_of(api, Reply([*blocks[:at], Cut()]))
        stream = client.stream("Hi", output=Recipe)
        found, error = drained(stream.partials(interval=3000))
        assert isinstance(error, StreamInterrupted)
        partial = PartialJSON(0)
        partial.add(error.partial.text)
        assert (found[-1] if found else None) == partial.value
        assert len(found) <= 2


# --- what is in it ------------------------------------------------------------------------------

INSIDE = [
    (list[str], '{"elements": ["ab", "c"]}', ["ab", "c"]),
    (list[str], '["ab", "c"]', ["ab", "c"]),
    (str, '{"value": "abc"}', "abc"),
    (int, '{"value": 1234}', 1234),
    (int, "1234", 1234),
    (int | None, '{"value": null}', None),
    (dict[str, int], '{"value": {"a": 12}}', {"a": 12}),
    (dict[str, int], '{"a": 12}', {"a": 12}),
    (Recipe, f"```json\n{RECIPE}\n```", TEA),
    (Recipe, f'{{"no": 1}} is not it, but {RECIPE} is.', TEA),
    (Recipe, RECIPE * 2, TEA),
]


@every(("kind", "text", "value"), INSIDE)
def test_the_object_around_a_value_is_not_shown(kind: Any, text: str, value: Any) -> None:
    """Neither is anything before it has begun; a number is there once it is whole."""
    found = list(client_of("chat", by_letter(text)).stream("Hi", output=kind).partials(interval=0))
    assert found[-1] == value
    if "no" not in text:
        check_partials(found, value)
    assert not any(one == {"value": value} or one == {"elements": value} for one in found)


BROKEN = ['{"name": "A", "steps": [1,,2]}', '{"name": NaN}', '{"name": "A",}', "Hello", '{"a": tru']


@every("text", BROKEN)
def test_what_is_not_json_ends_in_the_error(text: str) -> None:
    """After what was JSON."""
    stream = client_of("chat", by_letter(text)).stream("Hi", output=Recipe)
    found, error = drained(stream.partials(interval=0))
    assert isinstance(error, OutputInvalid)
    assert all(isinstance(one, dict) for one in found)


def test_a_cut_value_is_yielded_before_the_error() -> None:
    """A limit has cut the answer."""
    text = '{"name": "Tea", "steps": ["boi'
    stream = client_of("chat", Answer(text, finish="length")).stream("Hi", output=Recipe)
    found, error = drained(stream.partials())
    assert isinstance(error, OutputCut)
    assert found[-1] == {"name": "Tea", "steps": ["boi"]}


def test_nesting_has_an_end() -> None:
    """Too deep is not JSON that a value can have; no RecursionError escapes."""
    deep = '{"name": ' + "[" * 5000 + "]" * 5000 + "}"
    with pytest.raises(OutputInvalid):
        list(client_of("chat", Answer(deep)).stream("Hi", output=Recipe).partials(interval=0))


def test_calls_have_no_value() -> None:
    """What a model says before it calls a tool is yielded as far as it is JSON, and no more."""
    answer = Answer("Let me look.", tool_calls=[("look", "{}")])
    stream = client_of("chat", answer).stream("Hi", output=Recipe)
    assert list(stream.partials()) == []
    assert stream.result().value is None


# --- it begins anew -----------------------------------------------------------------------------


def test_a_restart_begins_anew() -> None:
    """And the value is that of the second answer."""
    blocks = by_letter('{"name": "Coffee, black"}').blocks("chat")
    replies = (Reply([*blocks[:18], Cut()]), by_letter('{"name": "Tea"}'))
    client = client_of("chat", *replies, clock=FakeClock(), retry=RetryPolicy())
    stream = client.stream("Hi", output=Recipe, on_disconnect="restart")
    names = [one.get("name", "") for one in stream.partials(interval=0)]
    assert "Coff" in names
    assert names[-1] == "Tea"
    assert names.index("Te") > names.index("Coff")


def test_another_answer_begins_anew() -> None:
    """Where the first one does not fit."""
    client = client_of("chat", by_letter('{"name": 12}'), by_letter('{"name": "Tea"}'))
    stream = client.stream("Hi", output=Recipe, output_retries=1)
    found = list(stream.partials(interval=0))
    assert {"name": 12} in found
    assert found[-1] == {"name": "Tea"}
    assert found.index({"name": 12}) < found.index({"name": "T"})


# --- when it is made ----------------------------------------------------------------------------


def test_a_partial_is_made_at_most_every_interval() -> None:
    """The first one at once, the last one always."""
    clock = FakeClock()
    steps: list[Any] = []
    for block in by_letter(RECIPE).blocks("chat"):
        steps += [block, Pause(0.01)]
    client = client_of("chat", Reply(steps), clock=clock)
    moments = []
    stream = client.stream("Hi", output=Recipe)
    for one in stream.partials(interval=0.1):
        moments.append((clock.monotonic(), one))
    gaps = [b[0] - a[0] for a, b in pairwise(moments)]
    assert all(gap >= 0.099 for gap in gaps[:-1])
    assert 5 <= len(moments) <= 2 + len(RECIPE) // 10
    assert moments[-1][1] == TEA


class Timed:
    """A clock that moves only by what a parse costs."""

    def __init__(self, partial: PartialJSON, per_byte: float) -> None:
        self.now = 0.0
        self.spent = 0.0
        parse: Any = partial._parse_json

        def costly(data: bytes, **options: Any) -> Any:
            self.now += len(data) * per_byte
            self.spent += len(data) * per_byte
            return parse(data, **options)

        partial._parse_json = costly
        partial._now = lambda: self.now


def pieces_of(text: str, size: int = 4) -> Iterable[str]:
    return (text[at : at + size] for at in range(0, len(text), size))


LONG = json.dumps({"items": [{"id": n, "text": "word " * 8} for n in range(2_000)]})


@pytest.mark.slow
@every("interval", [0.001, 0.05, 1.0])
def test_parsing_takes_a_tenth_of_the_time_at_most(interval: float) -> None:
    """However long the answer, and however dear a byte."""
    partial = PartialJSON(interval)
    clock = Timed(partial, per_byte=1e-6)
    for piece in pieces_of(LONG):
        clock.now += 0.01
        partial.add(piece)
    assert partial.value == json.loads(LONG)
    last = len(LONG) * 1e-6  # the whole value, always
    assert clock.spent - last <= 0.1 * clock.now


def test_without_an_interval_all_parses_are_linear() -> None:
    """Twice the text takes twice as long, counted in bytes that are parsed."""
    spent = []
    for text in (LONG[: len(LONG) // 2], LONG):
        partial = PartialJSON(0)
        clock = Timed(partial, per_byte=1.0)
        for piece in pieces_of(text):
            partial.add(piece)
        spent.append(clock.spent / len(text))
    assert spent[1] <= 20
    assert spent[1] <= spent[0] * 1.2


@pytest.mark.slow
def test_a_megabyte_in_small_pieces() -> None:
    """At full speed all of it takes 0.6 s (a busy machine may take three times that: the benchmark
    has the figure); at 100 pieces a second, a tenth of the time."""
    text = json.dumps({"items": [{"id": n, "text": "word " * 8} for n in range(16_000)]})[: 10**6]
    for interval in (0.05, 0.0):
        partial = PartialJSON(interval)

        def parse(partial: PartialJSON = partial) -> None:
            for piece in pieces_of(text):
                partial.add(piece)
            partial.parse()

        assert cpu_seconds(parse) <= 3 * 0.6
        assert len(partial.value["items"]) > 14_000
    # The last thousand pieces, which are the dearest.
    partial = PartialJSON()
    moved = 0.0
    partial._now = lambda: moved + time.thread_time()
    partial.add(text[:-4000])

    def tail() -> None:
        nonlocal moved
        for piece in pieces_of(text[-4000:]):
            moved += 0.01
            partial.add(piece)

    spent = cpu_seconds(tail)
    assert spent <= 0.1 * (moved + spent)


# --- a view of the stream -----------------------------------------------------------------------


def test_it_is_a_view() -> None:
    """One reader and one view; `iter` changes nothing; it ends again and again."""
    stream = client_of("chat", Answer(RECIPE)).stream("Hi", output=Recipe)
    view = stream.partials(interval=0)
    assert iter(view) is view
    for other in (stream.chunks, stream.partials, stream.events, lambda: iter(stream)):
        with pytest.raises(ConfigurationError, match=r"partials\(\)"):
            other()
    assert list(view)[-1] == TEA
    assert list(view) == []
    assert stream.text == RECIPE


def test_the_view_alone_keeps_the_stream() -> None:
    """And frees it."""
    view = client_of("chat", by_letter(RECIPE)).stream("Hi", output=Recipe).partials(interval=0)
    call = weakref.ref(view._call)  # type: ignore[attr-defined]
    assert next(view) == {}
    del view
    gc.collect()
    assert call() is None


def test_after_a_cancel_nothing_is_yielded() -> None:
    """It is raised."""
    stream = client_of("chat", by_letter(RECIPE)).stream("Hi", output=Recipe)
    view = stream.partials(interval=0)
    next(view)
    stream.cancel("enough")
    for _ in range(2):
        with pytest.raises(Cancelled):
            next(view)


@every("arguments", [{"interval": -1}, {"interval": "fast"}, {"interval": float("nan")}])
def test_odd_intervals_are_refused(arguments: Any) -> None:
    """Before the view is chosen: the stream can still be read."""
    stream = client_of("chat", Answer(RECIPE)).stream("Hi", output=Recipe)
    with pytest.raises(ConfigurationError, match="interval"):
        stream.partials(**arguments)
    assert list(stream.partials())[-1] == TEA


def test_without_a_type_there_is_no_value() -> None:
    """That says what to pass."""
    with pytest.raises(ConfigurationError, match="output="):
        client_of("chat").stream("Hi").partials()


def test_without_jiter_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of the whole answer needs nothing."""
    monkeypatch.setitem(__import__("sys").modules, "jiter", None)
    stream = client_of("chat", Answer(RECIPE)).stream("Hi", output=Recipe)
    with pytest.raises(ConfigurationError, match=r"llmstream-sync\[output\]"):
        stream.partials()
    assert stream.result().value.grams == 12.5


PLACES = ("/llmstream/output/", "/llmstream/_core/output", "/llmstream/_core/json_text")


@pytest.mark.slow
def test_an_interrupt_at_any_line_loses_nothing() -> None:
    """Read on after it, the view ends with the whole value, or raises: never with half of it."""

    def work() -> None:
        stream = client_of("chat", Answer('{"name": "A b"}')).stream("Hi", output=Recipe)
        view: Iterator[Any] = stream.partials(interval=0)
        found: list[Any] = []
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
        assert found[-1] == {"name": "A b"}

    work()
    total = interrupted(work, at=-1, places=PLACES)
    assert total > 100
    for at in range(1, total + 1, 2):
        interrupted(work, at, PLACES)


# --- arguments of a call ------------------------------------------------------------------------


def test_the_arguments_of_a_call_grow_too() -> None:
    """By the same means, from the chunks of the call."""
    partial = PartialJSON(0)
    found = []
    client = client_of("messages", Answer(tool_calls=[("look", '{"city": "Oslo", "days": 3}')]))
    for chunk in client.stream("Hi", tools=[{"name": "look", "input_schema": {}}]).chunks():
        if chunk.type == "tool_call" and partial.add(chunk.text):
            found.append(partial.value)
    check_partials(found, {"city": "Oslo", "days": 3})
    assert partial.closed
