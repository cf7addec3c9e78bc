"""Real servers, each a process of its own: gunicorn, uvicorn, nginx; and a socket as a browser.

They listen on sockets that are made here and handed on, so that no port is guessed, and connections
are taken from the first moment on. Every one is ended with the block that has begun it.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from support import PACKAGE, PATIENCE

__all__ = ["Browser", "Event", "Host", "gunicorn", "nginx", "uvicorn"]

HERE = Path(__file__).resolve().parent
README = PACKAGE / "llmstream" / "relay" / "README.md"


class Host:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def get(self, path: str, **query: Any) -> Browser:
        return Browser(self.port, path, **query)

    def json(self, path: str, **query: Any) -> Any:
        with self.get(path, **query) as browser:
            body = browser.rest()
            is_gzip = browser.header("content-encoding") == "gzip"
            return json.loads(gzip.decompress(body) if is_gzip else body)


# ---- servers -----------------------------------------------------------------------------------


@contextlib.contextmanager
def gunicorn(folder: Path, app: str, *options: str, **environment: str) -> Iterator[Host]:
    """gunicorn in `folder` (temporary, and its own). `app` is an application such as
    "served.flasks:app", which is looked for in tests/relay, tests, and the package."""
    needs("gunicorn")
    if "gevent" in options:
        needs("gevent")
    command = ["-m", "gunicorn", app, "--graceful-timeout", "2", "--worker-tmp-dir", str(folder)]
    with _listener() as listener:
        bind = ["--bind", f"fd://{listener.fileno()}"]
        with _run(folder, listener, [*command, *options, *bind], environment) as host:
            yield host


@contextlib.contextmanager
def uvicorn(folder: Path, app: str, *options: str, **environment: str) -> Iterator[Host]:
    """uvicorn with an application of ASGI; otherwise as `gunicorn`."""
    needs("uvicorn")
    command = ["-m", "uvicorn", app, "--timeout-graceful-shutdown", "2", "--no-access-log"]
    with _listener() as listener:
        fd = ["--fd", str(listener.fileno())]
        with _run(folder, listener, [*command, *options, *fd], environment) as host:
            yield host


@contextlib.contextmanager
def nginx(folder: Path, upstream: Host) -> Iterator[Host]:
    """nginx in front of another server, with the configuration that the relay's README shows."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("needs the program nginx (Debian: nginx-light)")
    with _listener() as listener:
        port = listener.getsockname()[1]
        site = nginx_of_readme()
        assert site.count("server 127.0.0.1:8000;") == 1
        assert site.count("listen 80;") == 1
        site = site.replace("server 127.0.0.1:8000;", f"server 127.0.0.1:{upstream.port};")
        site = site.replace("listen 80;", f"listen 127.0.0.1:{port};")
        (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, site=site))
        command = [program, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
        # nginx takes over the sockets that this variable names, as in an upgrade of its program.
        given = {"NGINX": f"{listener.fileno()};"}
        with _run(folder, listener, command, given, is_python=False) as host:
            yield host


def nginx_of_readme() -> str:
    (site,) = re.findall(r"^```nginx\n(.*?)^```$", README.read_text("utf-8"), re.M | re.S)
    text: str = site
    return text


_NGINX = """
daemon off;
user root root;
worker_processes 1;
worker_shutdown_timeout 2s;
pid {folder}/nginx.pid;
error_log stderr info;
events {{ worker_connections 1024; }}
http {{
access_log off;
gzip on;
gzip_types *;
gzip_min_length 0;
client_body_temp_path {folder}/client;
proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi;
scgi_temp_path {folder}/scgi;
{site}
}}
"""


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package} (extra `hosts`)")


@contextlib.contextmanager
def _listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.set_inheritable(True)
        yield listener


# Where the tests are killed, the servers end too (Linux; they are in sessions of their own).
_WITH_US = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


@contextlib.contextmanager
def _run(
    folder: Path,
    listener: socket.socket,
    command: list[str],
    environment: dict[str, str],
    *,
    is_python: bool = True,
) -> Iterator[Host]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{Path(command[1 if is_python else 0]).name}.log"
    kept = {n: v for n, v in os.environ.items() if not n.lower().endswith("_proxy")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_WITH_US, *([sys.executable, *command] if is_python else command)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
            start_new_session=True,
            env={
                **kept,
                "HOME": str(folder),
                "PYTHONPATH": os.pathsep.join(map(str, (HERE, PACKAGE, PACKAGE / "tests"))),
                "PYTHONUNBUFFERED": "1",
                **environment,
            },
        )
    host = Host(process, listener.getsockname()[1], log)
    try:
        yield host
    except BaseException:
        print(f"--- what {log.name} says\n{host.log[-8000:]}")
        raise
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a server and its workers, which are in a group of their own."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what is left of it
    process.wait(PATIENCE)


# ---- a browser ---------------------------------------------------------------------------------


class Event(NamedTuple):
    """An event of SSE, and the moment at which its last byte arrived (time.monotonic())."""

    name: str
    data: str
    id: str
    at: float


class Browser:
    """One GET, and its response piece by piece, as a browser has it."""

    def __init__(self, port: int, path: str, *, headers: str = "", **query: Any) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=2 * PATIENCE)
        self._buffer = b""
        target = f"{path}?{urlencode(query)}" if query else path
        lines = (
            f"GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n{headers}\r\n"
        )
        self._sock.sendall(lines.encode())
        self._head: bytes | None = None
        self.is_whole = False  # the body has ended as HTTP says

    @property
    def head(self) -> str:
        if self._head is None:
            self._until(b"\r\n\r\n")
            self._head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return self._head.decode("latin-1")

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    def header(self, name: str) -> str | None:
        found = re.search(rf"^{name}: *(.*?)\r?$", self.head, re.M | re.I)
        return found[1] if found else None

    def _receive(self) -> bool:
        try:
            data = self._sock.recv(65_536)
        except ConnectionResetError:
            return False
        self._buffer += data
        return bool(data)

    def _until(self, mark: bytes) -> None:
        while mark not in self._buffer:
            if not self._receive():
                raise EOFError(f"the connection ended after {self._buffer!r}")

    def pieces(self) -> Iterator[bytes]:
        """The pieces of the body as they arrive; ends where the connection does. Then `is_whole`
        says whether that was as HTTP has it."""
        chunked = (self.header("transfer-encoding") or "").lower() == "chunked"
        length = self.header("content-length")
        if self.status == 204:
            self.is_whole = True
        elif chunked:
            yield from self._chunks()
        elif length is not None:
            left = int(length)
            while left and (self._buffer or self._receive()):
                piece, self._buffer = self._buffer[:left], self._buffer[left:]
                left -= len(piece)
                yield piece
            self.is_whole = not left
        else:
            while self._buffer or self._receive():
                piece, self._buffer = self._buffer, b""
                yield piece
            self.is_whole = True  # for all that can be told

    def _chunks(self) -> Iterator[bytes]:
        try:
            while True:
                self._until(b"\r\n")
                line, _, self._buffer = self._buffer.partition(b"\r\n")
                size = int(line, 16)
                while len(self._buffer) < size + 2:
                    if not self._receive():
                        return
                piece, self._buffer = self._buffer[:size], self._buffer[size + 2 :]
                if not size:
                    self.is_whole = True
                    return
                yield piece
        except EOFError:
            return

    def rest(self) -> bytes:
        return b"".join(self.pieces())

    def events(self) -> Iterator[Event]:
        """The events of SSE, by the rules of the HTML standard (9.2.6)."""
        name, data, id, rest = "", [], "", b""
        for piece in self.pieces():
            now = time.monotonic()
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if not line:
                    if data:
                        yield Event(name or "message", "\n".join(data), id, now)
                    name, data = "", []
                    continue
                field, _, value = line.decode().partition(":")
                value = value.removeprefix(" ")
                if field == "data":
                    data.append(value)
                elif field == "event":
                    name = value
                elif field == "id":
                    id = value

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
