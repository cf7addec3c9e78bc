"""Outcome: how a call ended, as a value."""

from __future__ import annotations

import pickle

import pytest

import llmstream
from llmstream import LLMStreamError, Outcome, RateLimitError, Result
from llmstream.readers import Outcome as OutcomeOfReaders

SECRET = "a prompt that no log should contain"


def failed(text: str = "as far as it c") -> RateLimitError:
    error = RateLimitError("too many requests", status=429)
    error.partial = Result(text=text)
    return error


def test_a_success_has_its_text() -> None:
    outcome = Outcome(3, SECRET, Result(text="whole"), None)
    assert (outcome.ok, outcome.text, outcome.index) == (True, "whole", 3)


def test_beside_an_error_is_what_had_arrived() -> None:
    outcome = Outcome(0, SECRET, None, failed())
    assert (outcome.ok, outcome.text) == (False, "as far as it c")
    assert Outcome(0, None, None, LLMStreamError("nothing came")).text == ""


def test_it_pickles() -> None:
    for outcome in (Outcome(0, SECRET, Result(text="x"), None), Outcome(1, [{}], None, failed())):
        copy = pickle.loads(pickle.dumps(outcome))
        assert (copy.index, copy.prompt, copy.ok) == (outcome.index, outcome.prompt, outcome.ok)
        assert copy.text == outcome.text
        assert type(copy.error) is type(outcome.error)


def test_it_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Outcome(0, None, Result(), None).index = 1  # type: ignore[misc]


def test_the_repr_is_short_and_without_the_prompt() -> None:
    outcome = Outcome(0, SECRET, None, failed("x" * 10_000 + "\x1b[2J"))
    assert len(repr(outcome)) < 300
    assert SECRET not in repr(outcome)
    assert "RateLimitError('too many requests')" in repr(outcome)
    assert "\x1b" not in repr(Outcome(0, "", Result(text="\x1b[2J"), None))


def test_it_is_exported() -> None:
    assert llmstream.Outcome is OutcomeOfReaders
