"""OpenAI's own client for Python reads what the relay sends as `chat-completions`: every recording,
as the library reports it; and no failure is an answer. (Its client for JavaScript is in
`test_node_clients.py`.)"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from corpus import Recording
from part_tools import RECORDINGS, encoded, read, stream_of_recording

from llmstream import LLMStreamError, Result
from llmstream._core.tool_calls import is_same_json
from llmstream.relay.parts import Begin, Part, Text, merged
from llmstream.relay.protocols import make_encoder
from llmstream.relay.protocols.base import with_id
from llmstream.testing import LLMServer, Reply

pytestmark = pytest.mark.node

ASKED: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "Hi"}],
    "stream_options": {"include_usage": True},
}


# The finishes of which the helper makes an exception of its own, and the words of it.
_NO_COMPLETION = {
    "length": "length limit",
    "pause": "length limit",
    "content_filter": "content filter",
    "refusal": "content filter",
}


class Bench:
    """A server that sends encoded answers, and the client of it."""

    def __init__(self, server: LLMServer) -> None:
        openai = pytest.importorskip("openai")
        self.error: type[Exception] = openai.APIError
        self.any_error: type[Exception] = openai.OpenAIError
        self._server = server
        self._client = openai.OpenAI(base_url=server.base_url, api_key="key", max_retries=0)

    def script(self, parts: list[Part]) -> None:
        encoder = make_encoder("chat-completions", body=ASKED)
        frames = encoded(encoder, parts)
        if encoder.has_ids:
            frames = [with_id(one, number) for number, one in enumerate(frames)]
        # As they may be sent, with a heartbeat between any two.
        self._server.script(Reply([encoder.heartbeat.join([b"", *frames, b""])]))

    def chunks(self, parts: list[Part]) -> list[Any]:
        self.script(parts)
        return list(self._client.chat.completions.create(**ASKED, stream=True))

    def completion(self, parts: list[Part]) -> Any:
        """By the helper that puts the answer together."""
        self.script(parts)
        with self._client.chat.completions.stream(**ASKED) as stream:
            return stream.get_final_completion()

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with LLMServer() as server:
        made = Bench(server)
        yield made
        made.close()


def outcome(recording: Recording) -> tuple[list[Part], Result, LLMStreamError | None]:
    stream = stream_of_recording(recording)
    parts = merged(read(stream))
    try:
        return parts, stream.result(), None
    except LLMStreamError as error:
        return parts, error.partial, error


def test_every_recording(bench: Bench) -> None:
    """Piece by piece: text, reasoning, refusal, calls, finish and usage."""
    assert RECORDINGS
    for recording in RECORDINGS:
        parts, result, error = outcome(recording)
        if error is not None:
            with pytest.raises(bench.error) as caught:
                bench.chunks(parts)
            assert caught.value.type == type(error).__name__, recording.name  # type: ignore[attr-defined]
            continue
        chunks = bench.chunks(parts)
        choices = [choice for chunk in chunks for choice in chunk.choices]
        deltas = [choice.delta for choice in choices]
        assert "".join(delta.content or "" for delta in deltas) == result.text
        assert "".join(delta.refusal or "" for delta in deltas) == result.refusal
        thinking = "".join(getattr(delta, "reasoning_content", "") or "" for delta in deltas)
        assert thinking == result.thinking
        calls = [call for delta in deltas for call in delta.tool_calls or ()]
        assert [call.id for call in calls] == [call.id for call in result.tool_calls]
        for call, known in zip(calls, result.tool_calls, strict=True):
            if not known.custom:
                assert call.function.name == known.name
                assert is_same_json(call.function.arguments, known.arguments)
        assert choices[-1].finish_reason in ("stop", "length", "tool_calls", "content_filter")
        usage = chunks[-1].usage
        assert usage.prompt_tokens == (result.usage.input_tokens or 0)
        assert usage.completion_tokens == (result.usage.output_tokens or 0)


def test_every_recording_by_the_helper(bench: Bench) -> None:
    """What the client puts together, which is stricter; it has no custom calls."""
    for recording in RECORDINGS:
        parts, result, error = outcome(recording)
        if error is not None:
            with pytest.raises(bench.error):
                bench.completion(parts)
            continue
        if any(call.custom for call in result.tool_calls):
            continue
        if result.finish in _NO_COMPLETION:
            with pytest.raises(bench.any_error, match=_NO_COMPLETION[result.finish]):
                bench.completion(parts)
            continue
        message = bench.completion(parts).choices[0].message
        assert (message.content or "") == result.text, recording.name
        assert (message.refusal or "") == result.refusal
        told = [(call.id, call.function.name) for call in message.tool_calls or ()]
        assert told == [(call.id, call.name) for call in result.tool_calls]


def test_a_body_that_is_cut_has_no_finish(bench: Bench) -> None:
    """The client raises nothing: this is how its user can tell."""
    (choice,) = bench.completion([Begin("t"), Text("half")]).choices
    assert (choice.message.content, choice.finish_reason) == ("half", None)
