"""What the tests of the logs share: a stream that a test drives, a browser that is cut off, and a
real Redis."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from support import PATIENCE, eventually

from llmstream import Cancelled, Result, Usage
from llmstream.result import Chunk

PROTOCOL = "ui-message"
HERE = Path(__file__).resolve().parent


class Scripted:
    """A double of a Stream. Its answer comes when the test says so: `say`, then `finish` or `fail`.
    It counts as sent once it is read."""

    model, may_restart, ended, usage = "a-model", False, False, Usage()
    state = SimpleNamespace(primary=None)

    def __init__(self, *texts: str, finishes: bool = False) -> None:
        self.trace_id = "0123456789abcdef"
        self.sent = threading.Event()
        self.closed = threading.Event()
        self.cancelled: list[str | None] = []
        self._told: SimpleQueue[Any] = SimpleQueue()
        self.text = ""
        for text in texts:
            self.say(text)
        if finishes:
            self.finish()

    # -- the test

    def say(self, text: str) -> None:
        self._told.put(text)

    def finish(self) -> None:
        self._told.put(None)

    def fail(self, error: BaseException) -> None:
        self._told.put(error)

    # -- the relay

    def events(self, *, retries: bool = False) -> Iterator[Any]:
        self.sent.set()
        while (told := self._told.get()) is not None:
            if isinstance(told, BaseException):
                raise told
            self.text += told
            yield SimpleNamespace(chunks=[Chunk("text", told, 0)])

    def result(self) -> Result:
        return Result(text=self.text, finish="stop")

    def call_of(self, chunk: Chunk) -> None:
        return None

    def cancel(self, reason: str | None = None) -> None:
        self.cancelled.append(reason)
        self._told.put(Cancelled("stopped", reason=reason))

    def close(self) -> None:
        self.closed.set()
        self._told.put(Cancelled("closed"))


# ---- what a browser sees -----------------------------------------------------------------------


class Event(NamedTuple):
    id: str
    data: Any


def events_of(data: bytes) -> list[Event]:
    """The whole events in bytes of SSE, comments left out; what is cut off at the end is none."""
    found = []
    for block in data.split(b"\n\n")[:-1]:
        fields: dict[str, list[str]] = {}
        for line in block.decode().split("\n"):
            name, _, value = line.partition(": ")
            fields.setdefault(name, []).append(value)
        if "data" in fields:
            text = "\n".join(fields["data"])
            ids = fields.get("id", [""])
            assert len(ids) == 1, block
            found.append(Event(ids[0], json.loads(text) if text != "[DONE]" else text))
    return found


def text_in(events: Iterable[Event]) -> str:
    return "".join(e.data["delta"] for e in events if kind(e) == "text-delta")


def kind(event: Event) -> str:
    return event.data if isinstance(event.data, str) else event.data["type"]


def errors_in(events: Iterable[Event]) -> list[str]:
    return [e.data.get("errorText", kind(e)) for e in events if kind(e) in ("error", "abort")]


def is_whole(events: list[Event]) -> bool:
    return any(kind(e) == "finish" for e in events) and not errors_in(events)


def check_ids(events: list[Event], before: str | None = None) -> None:
    """The ids are in order, without a gap and without a repeat, also across a cut."""
    numbers = [int(e.id.partition("-")[2]) for e in events if e.id]
    first = int(before.partition("-")[2]) + 1 if before else 1
    assert numbers == list(range(first, first + len(numbers)))
    assert len({e.id.partition("-")[0] for e in events if e.id}) <= 1


class Browser(threading.Thread):
    """Reads a body to its end in a thread, and keeps what came of it."""

    def __init__(self, body: Any) -> None:
        super().__init__(name="browser")
        self.body = body
        self.data = b""
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            for piece in self.body:
                self.data += piece
        except BaseException as exc:
            self.error = exc
        finally:
            self.body.close()

    @property
    def events(self) -> list[Event]:
        return events_of(self.data)

    def reads(self, text: str, within: float = PATIENCE) -> None:
        eventually(lambda: text in text_in(self.events), f"the browser reads {text!r}", within)

    def ended(self, within: float = PATIENCE) -> list[Event]:
        """All events, once the body has ended; whatever it raised is raised here."""
        self.join(within)
        if self.is_alive():
            self.body.close()
            pytest.fail(f"the body did not end within {within} s: {self.data!r}")
        if self.error is not None:
            raise self.error
        return self.events


# ---- Redis -------------------------------------------------------------------------------------


class RedisServer:
    """A real redis-server on a socket in a folder of its own; nothing of it is left at the end."""

    def __init__(self, *options: str, keeps: bool = False) -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("redis-server is not installed (apt-get install redis-server)")
        pytest.importorskip("redis")
        self.folder = Path(tempfile.mkdtemp(prefix="llmstream-redis-"))  # a short path: it is bound
        self.socket = self.folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._options = [
            *("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "yes" if keeps else "no", "--appendfsync", "always"),
            *("--logfile", str(self.folder / "log"), "--daemonize", "no"),
            *options,
        ]
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.remove()
            raise

    def start(self) -> None:
        self.process = subprocess.Popen(["redis-server", *self._options])
        eventually(self._answers, "redis-server answers")

    def _answers(self) -> bool:
        import redis

        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"redis-server ended: {(self.folder / 'log').read_text()}")
        with contextlib.suppress(redis.ConnectionError), self.client() as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
        return False

    def client(self, **settings: Any) -> Any:
        import redis

        return redis.Redis(unix_socket_path=str(self.socket), **settings)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE)
        self.socket.unlink(missing_ok=True)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Answers nothing, but its connections stand."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def remove(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        shutil.rmtree(self.folder, ignore_errors=True)


def elapsed(since: float) -> float:
    return time.monotonic() - since
