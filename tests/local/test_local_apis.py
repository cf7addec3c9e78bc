"""The real local model, over all three APIs."""

from __future__ import annotations

import pytest

from llmstream import Client
from llmstream.local import shared_server

pytestmark = pytest.mark.usefixtures("model")

APIS = ("responses", "messages", "chat")
CONVERSATION = [
    {"role": "user", "content": "My name is Ada. What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is Paris."},
    {"role": "user", "content": "And of Italy? Answer in one short sentence."},
]


def test_the_same_conversation_has_the_same_text_over_all_three() -> None:
    """llama.cpp's own server, a real one: at temperature 0 the answer does not depend on the API,
    and it arrives in many pieces."""
    shared_server()
    answers = {}
    for api in APIS:
        with Client.local(api=api) as client:
            stream = client.stream(CONVERSATION, temperature=0, max_output_tokens=24)
            pieces = list(stream)
            result = stream.result()
            assert "".join(pieces) == result.text
            assert len(pieces) > 1
            assert result.usage.output_tokens is not None
            answers[api] = result.text
    assert answers["responses"]
    assert len(set(answers.values())) == 1, answers


@pytest.mark.parametrize("api", APIS)
def test_a_conversation_goes_on(api: str) -> None:
    """The answer's own turn, as to_messages() gives it, is understood in the next prompt."""
    with Client.local(api=api) as client:
        first = client.stream("Say hello.", temperature=0, max_output_tokens=12).result()
        turn = first.to_messages()
        assert turn
        again = [
            {"role": "user", "content": "Say hello."},
            *turn,
            {"role": "user", "content": "Once more."},
        ]
        assert client.stream(again, temperature=0, max_output_tokens=12).result().text
