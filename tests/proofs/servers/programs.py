"""The two servers that nobody here wrote, as the programs they are: found, started on a free port
of the loopback, scripted over their own control interfaces, and stopped for certain."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

HERE = Path(__file__).resolve().parent
IN_CI = os.environ.get("CI") == "true"
# A Python that has llmock (default: this one, if it has), and a node_modules that has aimock. Read
# here, at the import: the tests themselves run without such variables.
LLMOCK_PYTHON = os.environ.get("LLMSTREAM_LLMOCK")
NODE_MODULES = os.environ.get("LLMSTREAM_AIMOCK")

PATIENCE = 30.0  # seconds for a program to start, to answer, to end
PACE = 10  # ms between two events of llmock: it has to be able to see that a client leaves


def needed(reason: str) -> None:
    """Skips the tests that need what is not installed; in CI it has to be."""
    if IN_CI:
        pytest.fail(f"{reason} (CI has to have it)")
    pytest.skip(reason)


def llmock_command() -> list[str]:
    # Not the script `llmock`: the npm package aimock brings one of that name, too.
    python = LLMOCK_PYTHON
    if python is None and importlib.util.find_spec("llmock") is not None:
        python = sys.executable
    if python is None:
        needed("llmock is not installed: pip install -e '.[servers]', or set LLMSTREAM_LLMOCK")
    return [str(python), "-m", "llmock.cli"]


def aimock_command() -> list[str]:
    node = shutil.which("node")
    if node is None:
        needed("aimock needs node (20 or later), which is not installed")
    if NODE_MODULES is None:
        needed("aimock is not installed: npm install it and set LLMSTREAM_AIMOCK to node_modules")
    script = Path(str(NODE_MODULES), "@copilotkit", "aimock", "dist", "aimock-cli.js").resolve()
    if not script.exists():
        needed(f"aimock is not installed: there is no {script}")
    return [str(node), str(script), "--config", str(HERE / "aimock.json"), "--port", "0"]


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[str]:
    """Runs a server until the block ends; gives its URL, which it prints itself once it listens."""
    kept = ("PATH", "HOME", "LANG", "SYSTEMROOT", "TMPDIR")  # no key, no proxy, no settings
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    with log.open("wb") as output:
        keeper = subprocess.Popen(
            [sys.executable, str(HERE / "keeper.py"), *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C is for the tests: they end the program then
        )
    assert keeper.stdin is not None
    try:
        yield _ready(keeper, log)
    finally:
        keeper.stdin.close()  # the keeper terminates the program, and kills it if it must
        try:
            keeper.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()


def _ready(keeper: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and keeper.poll() is None:
        said = log.read_text(errors="replace")
        found = re.search(r"(?:running|listening) on (http://127\.0\.0\.1:[1-9]\d*)", said)
        if found:
            with contextlib.suppress(requests.RequestException):
                if talk("GET", f"{found[1]}/health").ok:
                    return found[1]
        time.sleep(0.02)
    pytest.fail(f"the server is not ready; it said: {log.read_text(errors='replace')}")


def talk(method: str, url: str, body: Any = None) -> requests.Response:
    """One request to a control interface, past any proxy, on a connection of its own."""
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, json=body, timeout=PATIENCE)


class LLMock:
    """llmock (PyPI), under its control interface `/_llmock`."""

    name = "llmock"
    asks_to_wait = 0.2  # seconds, after a 429; 1.0 unless it is told

    def __init__(self, url: str, command: list[str]) -> None:
        self.url = url
        self._command = command

    def base_url(self, api: str) -> str:
        return f"{self.url}/anthropic" if api == "messages" else f"{self.url}/v1"

    def control(self, method: str, path: str, body: Any = None) -> Any:
        response = talk(method, f"{self.url}/_llmock/{path}", body)
        assert response.ok, response.text
        return response.json()

    def reset(self) -> None:
        self.control("POST", "reset")

    def script(self, *behaviors: dict[str, Any]) -> None:
        """What the next requests meet, by the names of llmock's README."""
        self.control("POST", "scenario", {"behaviors": list(behaviors)})

    def says(self, text: str, calls: dict[str, Any] | None = None, **more: Any) -> None:
        """From now on the answer is this, with these calls: their arguments by name."""
        tool_calls = [{"name": name, "arguments": given} for name, given in (calls or {}).items()]
        reply = {"type": "reply", "text": text, "tool_calls": tool_calls, "times": None}
        self.script({**reply, **more})

    def fails(self, status: int, code: str | None = None) -> None:
        """The next request is refused."""
        wait = self.asks_to_wait if status in (429, 503, 529) else None
        self.script({"type": "fail", "status": status, "code": code, "retry_after": wait})

    def usage(self, prompt: str, text: str) -> tuple[int, int]:
        """What it reports as used: it estimates."""
        return len(prompt) // 4, len(text) // 4

    def requests(self) -> list[int]:
        """The statuses of the answers so far, in order."""
        return [request["status"] for request in self.control("GET", "requests")["requests"]]

    def effect(self) -> tuple[int, dict[str, Any]]:
        """`llmock report --strict`: its exit code (0: no error and no warning), and its report."""
        done = subprocess.run(
            [*self._command, "report", "--url", self.url, "--strict", "--json"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode in (0, 1), done.stderr
        return done.returncode, json.loads(done.stdout)


class AIMock:
    """aimock (npm), under its control interface `/__aimock`."""

    name = "aimock"
    asks_to_wait = 1.0  # its Retry-After, in whole seconds

    def __init__(self, url: str) -> None:
        self.url = url

    def base_url(self, api: str) -> str:
        return self.url if api == "messages" else f"{self.url}/v1"

    def control(self, method: str, path: str, body: Any = None) -> Any:
        response = talk(method, f"{self.url}/__aimock/{path}", body)
        assert response.ok, response.text
        return response.json()

    def reset(self) -> None:
        self.control("POST", "reset")

    def fixture(self, response: dict[str, Any], match: Any = None, **options: Any) -> None:
        """Answers what matches (everything, unless said); the first fixture that matches wins."""
        fixture = {"match": match or {}, "response": response, **options}
        self.control("POST", "fixtures", {"fixtures": [fixture]})

    def says(self, text: str, calls: dict[str, Any] | None = None, **more: Any) -> None:
        """From now on the answer is this, with these calls: their arguments by name."""
        response: dict[str, Any] = {"usage": {"input_tokens": 11, "output_tokens": 5}, **more}
        if text:
            response["content"] = text
        if calls:
            response["toolCalls"] = [
                {"name": name, "arguments": given, "id": f"call_{name}"}
                for name, given in calls.items()
            ]
        self.fixture(response)

    def fails(self, status: int, code: str | None = None) -> None:
        """The next request is refused."""
        self.control("POST", "error", {"status": status, "body": {"code": code, "type": code}})

    def usage(self, prompt: str, text: str) -> tuple[int, int]:
        """What it reports as used: what it was told to."""
        return 11, 5

    def requests(self) -> list[int]:
        """The statuses of the answers so far, in order; 0 where it hung up instead."""
        return [entry["response"]["status"] for entry in self.control("GET", "journal")]

    def bodies(self) -> list[dict[str, Any]]:
        """The requests so far, as it understood them: in the form of Chat Completions."""
        return [entry["body"] for entry in self.control("GET", "journal")]
