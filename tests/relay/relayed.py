"""Recordings as a relay passes them on: read by a real client, without a network."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from corpus import Recording, own, recorded

from llmstream import Client, LLMStreamError, Result, RetryPolicy, relay
from llmstream.relay.parts import Part
from llmstream.relay.protocols import make_encoder
from llmstream.relay.reading import parts_of
from llmstream.stream import Stream
from llmstream.testing import FakeTransport, Reply

ONCE = RetryPolicy(max_attempts=1, max_retry_after=0.001)
NODE_FOLDER = "LLMSTREAM_NODE"  # the variable that names the folder of the packages
_NAMED = os.environ.get(NODE_FOLDER)  # some fixtures take such variables away
_SCRIPTS = Path(__file__).resolve().parent / "node"
_BOUND = 120  # seconds for one process of Node
MODEL_ASKED = "asked"  # the model that the clients of recordings ask


# ---- recordings --------------------------------------------------------------------------------


def all_recordings() -> list[Recording]:
    """Those of the corpus, where it is, and our own."""
    return [
        *own(),
        *recorded(),
        *(one for api in ("messages", "chat", "gemini") for one in recorded(api)),
    ]


@cache
def _client(api: str) -> Client:
    return Client(
        api, base_url="http://service/v1", model=MODEL_ASKED, retry=ONCE, transport=_SILENT
    )


_SILENT = FakeTransport()


def stream_of(recording: Recording) -> Stream:
    """A stream of which nothing has been read."""
    _SILENT.script(Reply([recording.data]))
    return _client(recording.api).stream("Hi", trace_id="trace-1")


@cache
def answer_of(recording: Recording) -> tuple[Result, LLMStreamError | None]:
    """What the library itself makes of it."""
    try:
        return stream_of(recording).result(), None
    except LLMStreamError as error:
        return error.partial, error


@cache
def parts_in(recording: Recording) -> tuple[Part, ...]:
    return tuple(parts_of(stream_of(recording)))


def body_of(recording: Recording, protocol: str, version: Any = None, **options: Any) -> str:
    """The bytes that a browser gets."""
    body = relay.sse(stream_of(recording), protocol, version=version, interval=0, **options)
    return b"".join(body).decode()


def frames_of(
    parts: Iterable[Part], protocol: str, version: Any = None, **options: Any
) -> list[str]:
    """Each event by itself."""
    encoder = make_encoder(protocol, version, **options)
    return [frame.decode() for part in parts for frame in encoder.encode(part)]


def events_in(frames: Iterable[str]) -> Iterator[Any]:
    """The JSON of each event; not the marker of the end."""
    for frame in frames:
        lines = [line for line in frame.split("\n") if line.startswith("data: ")]
        text = "\n".join(line.removeprefix("data: ") for line in lines)
        if text and text != "[DONE]":
            yield json.loads(text)


# ---- Node --------------------------------------------------------------------------------------


def node_packages() -> Path:
    """The folder in which npm has installed what node/package.json names; skips where it is not."""
    folder = Path(_NAMED or "/nonexistent") / "node_modules"
    wanted = json.loads((_SCRIPTS / "package.json").read_text("utf-8"))["dependencies"]
    lacking = [name for name in wanted if not (folder / name).is_dir()]
    if lacking:
        pytest.skip(
            f"{NODE_FOLDER} names no folder with {', '.join(lacking)}: copy "
            "tests/relay/node/package.json into one, and run `npm install --prefix` on it"
        )
    return folder


def in_node(script: str, package: str, jobs: list[Any]) -> list[Any]:
    """What a real client makes of bodies, in one process for all."""
    folder = node_packages()
    node = folder / ".bin" / "node"
    run = subprocess.run(
        [str(node), str(_SCRIPTS / script), str(folder.parent), package],
        input=json.dumps(jobs).encode(),
        capture_output=True,
        timeout=_BOUND,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )
    assert run.returncode == 0, run.stderr.decode()[-2000:]
    verdicts: list[Any] = json.loads(run.stdout)
    assert len(verdicts) == len(jobs)
    return verdicts
