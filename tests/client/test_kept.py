"""What a stream, a view and a result are once the call has ended: kept, shown, iterated again."""

from __future__ import annotations

import gc
import json
import tracemalloc
from typing import Any

import pytest

from llmstream import Client, ConfigurationError, Result, Stream, StreamInterrupted, Usage
from llmstream.testing import Answer, Cut, FakeClock, FakeTransport, Reply

APIS = ("responses", "messages", "chat", "gemini")
WORDS = [f"word{number} " for number in range(1000)]
TEXT = "".join(WORDS)
# Gemini's parts go back as they came, so each of them is kept; the service sends few and long ones
# (in recordings 134 characters in the median).
FEW = ["".join(WORDS[at : at + 17]) for at in range(0, len(WORDS), 17)]


class Repeating(FakeTransport):
    """Plays the same reply to every request, and keeps no requests."""

    def send(self, request: Any, scope: Any) -> Any:
        self.requests.clear()
        return super().send(request, scope)


def client_of(api: str, *replies: Any) -> Client:
    transport = Repeating(*replies)
    return Client(api, base_url="http://test", model="m", transport=transport, clock=FakeClock())


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_a_kept_stream_holds_about_its_text(api: str, cut: bool) -> None:
    """Not every delta, and not the prompt: less than four times the text. Its text can be read."""
    blocks = Answer(FEW if api == "gemini" else WORDS).blocks(api)
    body = [*blocks[:-4], Cut()] if cut else blocks
    count = 10
    transport = Repeating(*(Reply(body) for _ in range(count + 1)))
    client = Client(api, base_url="http://test", model="m", transport=transport, clock=FakeClock())
    prompt = "p" * 50_000

    def read() -> Stream:
        stream = client.stream(prompt + str(len(kept)))
        try:
            stream.result()
        except StreamInterrupted as error:
            error.__traceback__ = None  # the caller's, and in it the frames of this test
        return stream

    kept: list[Stream] = []
    read()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept += [read() for _ in range(count)]
        transport.requests.clear()  # the double's own, with the last prompt
        gc.collect()
        each = (tracemalloc.get_traced_memory()[0] - before) / count
    finally:
        tracemalloc.stop()
    assert all(len(stream.text) > len(TEXT) * 0.9 for stream in kept)
    assert each < 4 * len(TEXT) + (6 * len(TEXT) if cut else 0), f"{each / len(TEXT):.1f} x"


@pytest.mark.parametrize("api", APIS)
def test_what_is_kept_is_unchanged(api: str) -> None:
    """Text, thinking, items and state read the same after the end as the result shows them."""
    answer = Answer(
        "One two.", thinking="Hm, hm.", tool_calls=[("f", '{"a": 1}')], finish="tool_calls"
    )
    stream = client_of(api, answer).stream("Hi")
    result = stream.result()
    assert (stream.text, stream.thinking) == ("One two.", "Hm, hm.")
    assert stream.result() == result
    arguments = '{"a":1}' if api == "gemini" else '{"a": 1}'  # an object there, not a text
    assert [call.arguments for call in result.tool_calls] == [arguments]


def test_iterating_twice_is_the_same_view() -> None:
    """Streamlit calls iter() twice; next(stream) reads from the same view."""
    stream = client_of("responses", Answer("one two three four")).stream("Hi")
    first = iter(stream)
    assert iter(stream) is first
    assert [next(first), next(stream), next(iter(stream))] == ["one", " two", " three"]
    assert list(stream) == [" four"]
    assert list(stream) == []


@pytest.mark.parametrize("view", ["chunks", "events"])
def test_another_view_is_still_refused(view: str) -> None:
    """In either order."""
    stream = client_of("responses", Answer("one")).stream("Hi")
    iter(stream)
    with pytest.raises(ConfigurationError, match="already being read by iteration"):
        getattr(stream, view)()
    other = client_of("responses", Answer("one")).stream("Hi")
    getattr(other, view)()
    for take in (iter, next):
        with pytest.raises(ConfigurationError, match=f"already being read by {view}"):
            take(other)  # type: ignore[operator]


@pytest.mark.parametrize("api", APIS)
def test_a_results_repr_has_the_answer_once(api: str) -> None:
    """Items and turn repeat it; what is not set is not shown."""
    result = client_of(api, Answer("A marked answer.")).stream("Hi").result()
    shown = repr(result)
    assert shown.count("A marked answer.") == 1
    assert "items=<1>" in shown
    assert "refusal" not in shown
    assert json.dumps(result.items).count("A marked answer.") == 1  # they are there all the same
    assert repr(Result()) == "Result()"
    assert repr(Result(text="a", usage=Usage(1))).startswith("Result(text='a', usage=Usage(")
