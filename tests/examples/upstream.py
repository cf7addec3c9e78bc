"""A service whose answers are chosen by the prompt: so many pages can ask it in any order."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from support import PATIENCE, RawServer, eventually

__all__ = ["Asked", "Says", "Upstream", "once", "stamp"]

Token = str | Callable[[], str]


def stamp() -> str:
    """A token that says when it was sent: milliseconds of the clock that the page has, too."""
    return f"{time.time() * 1000:.1f} "


def once(event: threading.Event) -> Token:
    """A token of no text, which is sent once the event is set: what follows comes after that."""

    def token() -> str:
        assert event.wait(4 * PATIENCE), "nobody has set it"
        return ""

    return token


@dataclass(frozen=True)
class Says:
    """An answer: pieces of thinking, then tokens, `every` seconds one; then the end.

    `error` is an error inside the stream in place of the end, `status` an HTTP error in place of
    everything, and `holds` an end that never comes.
    """

    tokens: Sequence[Token] = ()
    every: float = 0.0
    thinking: Sequence[str] = ()
    error: str | None = None
    status: int = 200
    holds: bool = False

    @property
    def text(self) -> str:
        return "".join(token for token in self.tokens if isinstance(token, str))


@dataclass(eq=False)
class Asked:
    """A request. `closed_at` is when its client left before the answer was whole."""

    body: dict[str, Any]
    closed_at: float | None = None
    is_whole: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def messages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.body["messages"]
        return found

    @property
    def prompt(self) -> str:
        """The last question: one that was not answered is sent in front of it."""
        content: str = self.messages[-1]["content"]
        return content.rpartition("\n\n")[2]

    def wait_closed(self) -> float:
        """When the client left (time.monotonic())."""
        at: float = eventually(lambda: self.closed_at, "the client of the service has left")
        return at


class Upstream:
    """Chat Completions, one request a connection."""

    def __init__(self) -> None:
        self.answers: dict[str, Says] = {}
        self.asked: list[Asked] = []
        self._server = RawServer(self._serve)
        self.base_url = self._server.base_url

    def environment(self) -> dict[str, str]:
        """For a process whose client is to ask this service."""
        return {
            "LLMSTREAM_API": "chat",
            "LLMSTREAM_BASE_URL": self.base_url,
            "LLMSTREAM_MODEL": "test-model",
        }

    def of(self, prompt: str) -> list[Asked]:
        """The requests whose last question is this one."""
        return [one for one in list(self.asked) if one.prompt == prompt]

    def _serve(self, sock: socket.socket) -> None:
        asked = Asked(_body_of(sock))
        self.asked.append(asked)
        says = self.answers[asked.prompt]
        try:
            self._answer(sock, says)
            asked.is_whole = True
        except OSError:
            asked.closed_at = time.monotonic()
        asked.done.set()

    def _answer(self, sock: socket.socket, says: Says) -> None:
        if says.status != 200:
            body = json.dumps({"error": {"message": "sk-secret at http://internal", "code": "x"}})
            sock.sendall(
                f"HTTP/1.1 {says.status} No\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
            )
            return
        sock.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        )
        for event in _events(says):
            if says.every:
                _wait(sock, says.every)
            sock.sendall(b"data: " + json.dumps(event()).encode() + b"\n\n")
        if says.holds:
            _wait(sock, 4 * PATIENCE)
        if says.error is None:
            sock.sendall(b"data: [DONE]\n\n")

    def close(self) -> None:
        self._server.close()
        if self._server.errors:
            raise self._server.errors[0]


def _events(says: Says) -> Iterator[Callable[[], dict[str, Any]]]:
    def event(finish: str | None = None, **delta: str) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "c-1", "model": "test-model", "choices": [choice]}

    for piece in says.thinking:
        yield lambda piece=piece: event(reasoning_content=piece)
    for token in says.tokens:
        yield lambda token=token: event(content=token if isinstance(token, str) else token())
    if says.error is not None:
        yield lambda: {"error": {"message": says.error, "type": "server_error", "code": "bad"}}
    elif not says.holds:
        yield lambda: event(finish="stop")
        usage = {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}
        yield lambda: {"id": "c-1", "choices": [], "usage": usage}


def _wait(sock: socket.socket, seconds: float) -> None:
    """Wait; raises OSError where the client leaves meanwhile."""
    sock.settimeout(seconds)
    with contextlib.suppress(TimeoutError):
        if not sock.recv(1):
            raise ConnectionError("the client left")
    sock.settimeout(PATIENCE)


def _body_of(sock: socket.socket) -> dict[str, Any]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    (length,) = (
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        body += _some(sock)
    found: dict[str, Any] = json.loads(body)
    return found


def _some(sock: socket.socket) -> bytes:
    piece = sock.recv(65_536)
    if not piece:
        raise ConnectionError("the client left")
    return piece
