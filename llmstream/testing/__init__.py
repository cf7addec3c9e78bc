"""A scripted LLM service on the loopback, to test code that streams.

    import requests
    from llmstream.testing import Answer, Cut, LLMServer, Reply, Reset, Silence

    def test_my_chat_survives_a_bad_day():
        with LLMServer() as server:
            whole = Answer("The sky is blue because of Rayleigh scattering.")
            server.script(
                Reply.error(429, code="rate_limit_exceeded", headers={"retry-after": "1"}),
                Reply([*whole.blocks()[:6], Cut()]),              # cut after two words
                Reply([*whole.blocks()[:6], Reset()]),            # the same, but rudely
                Reply(whole, delay=0.5),                          # and at last, slowly, a good one
            )
            my_chat = MyChat(base_url=server.base_url, api_key="test")

            assert my_chat.ask("Why is the sky blue?").startswith("The sky is blue")

            first, *others = server.requests
            assert first.path == "/v1/responses"
            assert first.headers["Authorization"] == "Bearer test"
            assert first.json()["input"] == "Why is the sky blue?"

    def test_leaving_early_frees_the_connection(llm_server):    # fixture of our pytest plugin
        llm_server.script(Reply([Answer("Hello").blocks()[0], Silence()]))
        with requests.post(llm_server.base_url + "/responses", json={}, stream=True) as response:
            next(response.iter_lines())
        llm_server.wait_closed(0, timeout=0.5)                   # the server saw it, at once

Each request takes the next scripted entry: an `Answer` (what the model says; encoded for the API
of the request's path), a `Reply` (what is sent, faults included), or a function of the `Recorded`
request that returns one of the two. With nothing scripted, `LLMServer.default` answers.

`FakeClock` and `FakeTransport` play the same scripts without a network and without waiting.

The server checks itself too: leaving its `with` block raises when one of its threads failed.
"""

from __future__ import annotations

from .answers import Answer
from .clocks import FakeClock
from .doubles import FakeTransport
from .script import Cut, Drip, Pause, Pings, Recorded, Reply, Reset, Send, Silence
from .server import LLMServer, blackhole

__all__ = [
    "Answer",
    "Cut",
    "Drip",
    "FakeClock",
    "FakeTransport",
    "LLMServer",
    "Pause",
    "Pings",
    "Recorded",
    "Reply",
    "Reset",
    "Send",
    "Silence",
    "blackhole",
]
