"""collect: a call's end as a value, whatever state the stream is in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support import ANSWER, ONCE, PROMPT, TWO_TOKENS, clocks

from llmstream import (
    Cancelled,
    Client,
    ConfigurationError,
    RateLimitError,
    Result,
    Stream,
    StreamTruncated,
    collect,
)
from llmstream.testing import LLMServer, Reply

TEXT = "one two three four"


@pytest.fixture
def client(server: LLMServer, client_for: Callable[..., Client]) -> Client:
    return client_for(server, retry=ONCE, timeouts=clocks(10.0))


def read_a_part(stream: Stream) -> None:
    assert next(stream) == "one"


BEFORE: dict[str, Callable[[Stream], Any]] = {
    "not begun": lambda stream: None,
    "entered": Stream.__enter__,
    "read in part": read_a_part,
    "read to the end": list,
    "asked for its result": Stream.result,
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE.keys())
def test_a_success(server: LLMServer, client: Client, before: Any) -> None:
    server.script(ANSWER)
    stream = client.stream(PROMPT)
    before(stream)
    outcome = collect(stream)
    assert (outcome.ok, outcome.text, outcome.index, outcome.prompt) == (True, TEXT, 0, None)
    assert outcome.result == stream.result()


def test_a_cut_answer_keeps_its_text(server: LLMServer, client: Client) -> None:
    server.script(Reply([*TWO_TOKENS]))
    outcome = collect(client.stream(PROMPT))
    assert (outcome.ok, outcome.text, outcome.result) == (False, "one two", None)
    assert isinstance(outcome.error, StreamTruncated)


def test_a_refusal(server: LLMServer, client: Client) -> None:
    server.script(Reply.error(429))
    outcome = collect(client.stream(PROMPT))
    assert isinstance(outcome.error, RateLimitError)
    assert outcome.text == ""


def test_a_cancelled_one(server: LLMServer, client: Client) -> None:
    server.script(ANSWER)
    stream = client.stream(PROMPT)
    read_a_part(stream)
    stream.cancel("the user left")
    outcome = collect(stream)
    assert isinstance(outcome.error, Cancelled)
    assert outcome.error.reason == "the user left"
    assert outcome.text.startswith("one")
    assert collect(stream).error is outcome.error


class Double:
    def __init__(self, ends: BaseException | Result) -> None:
        self._ends = ends

    def result(self) -> Result:
        if isinstance(self._ends, Result):
            return self._ends
        raise self._ends


def test_a_double() -> None:
    assert collect(Double(Result(text="x"))).text == "x"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a bug"), SystemExit(3)])
def test_what_is_not_about_the_stream_is_raised(error: BaseException) -> None:
    with pytest.raises(type(error)):
        collect(Double(error))


@pytest.mark.parametrize("nothing", [None, "text", Stream, 3])
def test_what_is_no_stream_is_refused(nothing: Any) -> None:
    with pytest.raises(ConfigurationError, match="pass a stream"):
        collect(nothing)
