"""The recordings that the tests replay, and how they replay them without a network.

Two sources: the shared corpus of real services (not part of this project: `../shared/corpus` from
the repository's root, or where LLMSTREAM_CORPUS says; tests are skipped where it is absent), and
`tests/transcripts`, small streams of our own making in the same form. A recording is `NAME.sse`,
the bytes of one response body, and `NAME.json`, whose `expect` says what a correct client reports.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from llmstream import errors
from llmstream._core.dialects import APIS
from llmstream._core.session import MAX_EVENT_BYTES, Session
from llmstream._core.tool_calls import partition_calls
from llmstream.events.base import AnyEvent
from llmstream.result import Result, ToolCall

ROOT = Path(__file__).resolve().parents[1]
CORPUS = Path(os.environ.get("LLMSTREAM_CORPUS") or ROOT.parent / "shared" / "corpus")
WIRE = CORPUS.parent / "wire"
TRANSCRIPTS = Path(__file__).resolve().parent / "transcripts"
ABSENT = f"the shared corpus is not at {CORPUS} (LLMSTREAM_CORPUS can say where it is)"

# A recording above this size is sent byte by byte over HTTP only when slow tests run; below are two
# thirds of the corpus's files and a tenth of its bytes.
SMALL = 10_000
LARGE = 40_000

# The same examples in every run and on every machine, and nothing is written to the disk.
PROPERTY = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow],
)


@dataclass(frozen=True)
class Recording:
    """One response body and what a correct client reports for it."""

    api: str
    path: Path  # of the .sse; the .json lies beside it

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @cached_property
    def data(self) -> bytes:
        return self.path.read_bytes()

    @cached_property
    def about(self) -> dict[str, Any]:
        about: dict[str, Any] = json.loads(self.path.with_suffix(".json").read_text("utf-8"))
        return about

    @property
    def expect(self) -> dict[str, Any]:
        """What `told` has to be."""
        expect = self.about["expect"]
        return {name: expect[name] for name in TOLD}


def recorded(api: str = "responses") -> list[Recording]:
    """The corpus's recordings of an API; none where the corpus is absent."""
    return [Recording(api, path) for path in sorted((CORPUS / api).glob("*.sse"))]


def own(api: str = "responses") -> list[Recording]:
    """Our own transcripts."""
    assert api == "responses", "there are no transcripts of other APIs yet"
    return [Recording(api, path) for path in sorted(TRANSCRIPTS.glob("*.sse"))]


def params(
    recordings: Iterable[Recording],
    *,
    slow_above: float = float("inf"),
    at_least: int = 0,
    below: float = float("inf"),
) -> list[Any]:
    """Parameters for a test of each recording; those above a size are marked slow."""
    found = [
        pytest.param(
            recording,
            id=recording.name,
            marks=pytest.mark.slow if recording.size > slow_above else (),
        )
        for recording in recordings
        if at_least <= recording.size < below
    ]
    return found or [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=ABSENT))]


# --- cuttings -----------------------------------------------------------------------------------

Cutting = Callable[[bytes], Iterable[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    """All in one piece."""
    return iter((data,))


def bytewise(data: bytes) -> Iterator[bytes]:
    """Each byte alone."""
    return (data[at : at + 1] for at in range(len(data)))


def random_pieces(seed: int) -> Cutting:
    """Pieces of random sizes, small and large; the same for the same seed."""

    def cut(data: bytes) -> Iterator[bytes]:
        rng = random.Random(seed)
        start = 0
        while start < len(data):
            end = start + rng.choice((1, 1, 2, 3, 7, 40, 400, 4000, rng.randint(1, 20_000)))
            yield data[start:end]
            start = end

    return cut


CUTTINGS: dict[str, Cutting] = {
    "whole": whole,
    "bytewise": bytewise,
    **{f"random{seed}": random_pieces(seed) for seed in range(3)},
}


# --- replaying ----------------------------------------------------------------------------------

TOLD = (
    "text",
    "thinking",
    "refusal",
    "tool_calls",
    "incomplete_tool_calls",
    "finish",
    "usage",
    "complete",
    "events",
    "raises",
)


def replay(
    pieces: Iterable[bytes], api: str = "responses", *, limit: int = MAX_EVENT_BYTES
) -> tuple[list[AnyEvent], Session]:
    """The events of a body that ends cleanly behind the last piece."""
    session = Session(APIS[api].load(), limit)
    events = [event for piece in pieces for event in session.receive(piece)]
    events += session.receive_eof()
    return events, session


def calls_of(session: Session, api: str = "responses") -> tuple[Sequence[ToolCall], ...]:
    """The calls that are safe to run, and those that are not."""
    state = session.state
    return partition_calls(APIS[api].load().calls(state), state.finish == "length", is_json)


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def told(session: Session, api: str = "responses") -> dict[str, Any]:
    """What the session reports, in the words of `expect`."""
    state = session.state
    safe, unsafe = calls_of(session, api)
    return {
        "text": state.text,
        "thinking": state.thinking,
        "refusal": state.refusal,
        "tool_calls": _plain(safe),
        "incomplete_tool_calls": _plain(unsafe),
        "finish": state.finish,
        "usage": _usage(state.usage.input_tokens, state.usage.output_tokens),
        # The service's own end came, a good one or a bad one.
        "complete": session.complete or isinstance(session.error, errors.ServiceError),
        "events": session.events,
        "raises": None if session.error is None else type(session.error).__name__,
    }


def told_of(
    result: Result, events: int, error: errors.LLMStreamError | None = None
) -> dict[str, Any]:
    """The same of a call over the network: of its result, or of its error's `.partial`."""
    return {
        "text": result.text,
        "thinking": result.thinking,
        "refusal": result.refusal,
        "tool_calls": _plain(result.tool_calls),
        "incomplete_tool_calls": _plain(result.incomplete_tool_calls),
        "finish": result.finish,
        "usage": _usage(result.usage.input_tokens, result.usage.output_tokens),
        "complete": error is None or isinstance(error, errors.ServiceError),
        "events": events,
        "raises": None if error is None else type(error).__name__,
    }


def _plain(calls: Iterable[ToolCall]) -> list[dict[str, str]]:
    return [{"name": call.name, "arguments": call.arguments} for call in calls]


def _usage(given: int | None, made: int | None) -> dict[str, int | None] | None:
    return None if given is None and made is None else {"input": given, "output": made}


# --- writing streams ----------------------------------------------------------------------------


def block(payload: object, name: str | None = None) -> bytes:
    """One event of a stream; `payload` is written as JSON."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(payload)}\n\n".encode()


def say(kind: str, **fields: Any) -> bytes:
    """One Responses event."""
    return block({"type": kind, **fields}, kind)


def completed(*output: Any, **fields: Any) -> bytes:
    """A good end."""
    response = {"id": "resp_1", "status": "completed", "output": list(output), **fields}
    return say("response.completed", response=response)
