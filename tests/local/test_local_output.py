"""Answers with a type, of the real local model."""

from __future__ import annotations

import contextlib
from typing import Literal

import msgspec
import pytest

from llmstream import Client, OutputError

pytestmark = pytest.mark.usefixtures("model")


class City(msgspec.Struct):
    name: str
    big: bool


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_the_model_is_held_to_the_schema(api: str) -> None:
    """However small it is: a grammar made of the schema decides. The partials end in the value."""
    with Client.local(api=api) as client:
        options = {"temperature": 0, "max_output_tokens": 200}
        stream = client.stream("Name a city in France.", output=City, **options)
        partials = list(stream.partials(interval=0))
        value = stream.result().value
        assert isinstance(value, City)
        assert partials[-1] == msgspec.to_builtins(value)
        answer = client.stream("Is the sky blue?", output=Literal["yes", "no"], **options)
        assert answer.result().value in ("yes", "no")


def test_where_it_is_not_held_to_it_that_is_an_error() -> None:
    """In Messages llama.cpp passes over the schema; the answer is a value, or it says why not."""
    with Client.local(api="messages") as client:
        stream = client.stream("Name a city.", output=City, temperature=0, max_output_tokens=60)
        with contextlib.suppress(OutputError):
            assert isinstance(stream.result().value, City)
        assert stream.text
