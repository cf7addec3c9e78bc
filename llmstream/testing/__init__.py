"""A scripted LLM service on the loopback, and doubles, to test code that streams.

    def test_a_chat_survives_a_cut(llm_server):  # a fixture of our pytest plugin
        answer = Answer("The sky is blue")
        llm_server.script(
            Reply.error(429, headers={"retry-after": "1"}),
            Reply([*answer.blocks()[:6], Cut()]),  # cut after two words
            Reply(answer, delay=0.5),
        )
        ...  # use your code with base_url=llm_server.base_url, then look at llm_server.requests

Each request takes the next scripted entry: an `Answer` (the content, encoded for the API of the
request's path), a `Reply` (the bytes, faults included), or a function of the `Recorded` request
that returns one of the two. With nothing scripted, `LLMServer.default` answers.

`recording` keeps a real conversation in a file and plays it back without a network, `record` and
`replay` do one of the two for one client, and `forbid_network` keeps all clients from the network.

`FakeTransport` plays the same scripts without a network; with `FakeClock` it does so without
waiting. `ScaledClock` makes long clocks run out after a short real time. `README.md` beside this
file has examples.
"""

from __future__ import annotations

from .answers import Answer
from .clocks import FakeClock, ScaledClock
from .doubles import FakeTransport
from .recorder import Recorder
from .recordings import forbid_network, record, recording, replay
from .replayer import Replayer
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
    "Recorder",
    "Replayer",
    "Reply",
    "Reset",
    "ScaledClock",
    "Send",
    "Silence",
    "blackhole",
    "forbid_network",
    "record",
    "recording",
    "replay",
]
