"""An interrupt at any line of a recording or a replay leaves no detour, no half file, no socket."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from support import eventually, interrupted

from llmstream import Client
from llmstream._transport.detour import BARRIERS, DETOURS
from llmstream.testing import Answer, LLMServer, forbid_network, recording, replay

pytestmark = pytest.mark.attack

PLACES = ("/llmstream/testing/re", "/llmstream/testing/scrub", "/llmstream/testing/tape")
PLACES += ("/llmstream/_transport/detour", "/llmstream/_runtime/files")


def test_a_recording(server: LLMServer, tmp_path: Path) -> None:
    """The old file stays, or the new one is there, whole."""
    path = tmp_path / "a.json"
    server.default = Answer("one two")

    def work() -> None:
        with forbid_network(), recording(path, "all"):
            assert client.stream("Hi").result().text == "one two"

    with Client(base_url=server.base_url, api_key="a-key-of-this-test") as client:
        work()
        for at in itertools.count(1, 17):
            if interrupted(work, at, PLACES) < at:
                break
            assert DETOURS == []
            assert BARRIERS == []
            assert os.listdir(tmp_path) == ["a.json"]
            with replay(path) as transport:
                playing = Client(base_url=server.base_url, transport=transport)
                assert playing.stream("Hi").result().text == "one two"
    assert at > 500
    eventually(lambda: server.open_connections == 0, "no connection is left")


def test_a_replay(server: LLMServer, tmp_path: Path) -> None:
    """The next one plays from the beginning."""
    path = tmp_path / "a.json"

    def work() -> None:
        with forbid_network(), recording(path, timing=True):
            assert client.stream("Hi").result().text == "Hello, world!"

    with Client(base_url=server.base_url) as client:
        work()
        for at in itertools.count(1, 3):
            if interrupted(work, at, PLACES) < at:
                break
            assert DETOURS == []
            assert BARRIERS == []
            assert len(server.requests) == 1
    assert at > 200
