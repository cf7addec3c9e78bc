"""Real hosts: gunicorn (sync, gthread, gevent) with Flask and Django, Django under uvicorn, each
directly and behind nginx. One of each for the whole file."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import hosts
import pytest
from hosts import Browser, Event, Host
from support import PATIENCE, eventually

from llmstream.testing import Answer, LLMServer, Pause, Recorded, Reply, Reset, Silence
from llmstream.testing.script import prompt_text

pytestmark = pytest.mark.hosts

HEARTBEAT = 1.0  # seconds
SOON = HEARTBEAT + 1.0  # when the service has to see that a browser has left
GAP = 0.1  # seconds between two tokens
IDLE = 20  # connections to the service that an application keeps, see `served.common`
LAG = 3.0  # seconds: far above the measured lags, on a machine with other work

ODD = 'a\nb\r\nc "d" \\ \u2028\u2029 \x00 \u0085 </script> <b> data: x \U0001f642 \ufeff end'
# A megabyte, forty times: more than the buffers of all sockets on the way.
LONG = b'data: {"type":"response.output_text.delta","delta":"%b"}\n\n' % (b"long " * 200_000)
WORDS = [f"w{number}" for number in range(12)]


class Setting(NamedTuple):
    """A server, and the application that it runs."""

    make: Callable[..., Any]
    app: str
    options: tuple[str, ...] = ()
    one_at_a_time: bool = False


# The options are those that the README of the relay names.
THREADS = ("--worker-class", "gthread", "--threads", "250")
SETTINGS = {
    "flask-sync": Setting(hosts.gunicorn, "served.flasks:app", ("--timeout", "0"), True),
    "flask-gthread": Setting(hosts.gunicorn, "served.flasks:app", THREADS),
    "flask-gevent": Setting(hosts.gunicorn, "served.flasks:app", ("--worker-class", "gevent")),
    "django-sync": Setting(hosts.gunicorn, "served.djangos:wsgi", ("--timeout", "0"), True),
    "django-gthread": Setting(hosts.gunicorn, "served.djangos:wsgi", THREADS),
    "django-gevent": Setting(hosts.gunicorn, "served.djangos:wsgi", ("--worker-class", "gevent")),
    "django-uvicorn": Setting(hosts.uvicorn, "served.djangos:asgi"),
}
OTHERS = {"starlette": Setting(hosts.uvicorn, "served.starlettes:app")}


class Service:
    """The service behind all hosts. The prompt says how it answers, and names the request."""

    def __init__(self, server: LLMServer) -> None:
        self.server = server
        self.base_url = server.base_url
        self.together = threading.Barrier(1)
        server.default = self._reply

    def _reply(self, recorded: Recorded) -> Reply | Answer:
        kind = prompt_text(recorded).partition(" ")[0]
        if kind == "odd":
            return Reply(with_empty_tokens(ODD))
        if kind == "paced":
            return Reply(paced(WORDS))
        if kind == "refused":
            return Reply.error(400, message="the words of the service")
        begun = Answer("one two three").blocks()[:6]
        if kind == "cut":
            return Reply([*begun, Reset()])
        if kind == "long":
            return Reply([*begun, *[LONG] * 40])
        if kind == "hold":
            return Reply([*begun, Silence()])
        if kind == "together":
            self.together.wait(4 * PATIENCE)
            return Reply(paced(WORDS))
        return Reply([Silence()])

    def request(self, prompt: str) -> Recorded:
        def found() -> Recorded | None:
            return next((one for one in self.server.requests if prompt_text(one) == prompt), None)

        one: Recorded = eventually(found, f"the request for {prompt!r}")
        return one


def paced(words: list[str]) -> list[Any]:
    """The answer of these words, each after a gap."""
    found: list[Any] = []
    for block in Answer(" ".join(words)).blocks():
        if is_token(block):
            found.append(Pause(GAP))
        found.append(block)
    assert found.count(Pause(GAP)) == len(words)
    return found


def with_empty_tokens(text: str) -> list[bytes]:
    found = []
    for block in Answer(text).blocks():
        if is_token(block):
            empty = re.sub(rb'"delta":"(?:[^"\\]|\\.)*"', b'"delta":""', block)
            found.append(re.sub(rb',"sequence_number":\d+', b"", empty))
            assert b'"delta":""' in found[-1]
        found.append(block)
    return found


def is_token(block: bytes) -> bool:
    return block.startswith(b"event: response.output_text.delta")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with LLMServer() as server:
        yield Service(server)


@pytest.fixture(scope="module")
def running(
    service: Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Host]]:
    """`running("flask-sync")` is that host, and `running("flask-sync behind nginx")` has nginx in
    front of it."""
    with ExitStack() as stack:
        known: dict[str, Host] = {}

        def host(name: str) -> Host:
            if name not in known:
                known[name] = stack.enter_context(start(name))
            return known[name]

        def start(name: str) -> Any:
            folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
            setting, _, proxy = name.partition(" behind ")
            if proxy:
                return hosts.nginx(folder, host(setting))
            row = {**SETTINGS, **OTHERS}[setting]
            return row.make(folder, row.app, *row.options, SERVICE=service.base_url)

        yield host


EVERY = [*SETTINGS, *(f"{name} behind nginx" for name in SETTINGS)]


@pytest.fixture(params=EVERY)
def host(request: pytest.FixtureRequest, running: Callable[[str], Host]) -> Host:
    return running(request.param)


def ask(host: Host, prompt: str, path: str = "/chat", **query: Any) -> Browser:
    return host.get(path, prompt=prompt, heartbeat=HEARTBEAT, **query)


def arrivals(events: list[Event]) -> list[float]:
    """When each word has arrived."""
    text, found = "", []
    for one in events:
        if one.name == "token":
            text += json.loads(one.data)["text"]
            found += [one.at] * (len(text.split()) - len(found))
    return found


def text_of(events: list[Event]) -> str:
    return "".join(json.loads(one.data)["text"] for one in events if one.name == "token")


# ---- what arrives ------------------------------------------------------------------------------


def test_tokens_arrive_as_they_are_sent(host: Host, service: Service, request: Any) -> None:
    """Each in time, and not at the end; nothing on the way compresses them or waits for more."""
    prompt = f"paced {request.node.name}"
    with ask(host, prompt) as browser:
        assert browser.status == 200
        assert browser.header("content-type") == "text/event-stream; charset=utf-8"
        assert browser.header("content-encoding") in (None, "identity")
        events = list(browser.events())
        assert browser.is_whole
    assert text_of(events) == " ".join(WORDS)
    begun = service.request(prompt).received_at
    lags = [at - begun - GAP * number for number, at in enumerate(arrivals(events), 1)]
    print(f"{request.node.name}: median lag {1000 * statistics.median(lags):.0f} ms")
    assert statistics.median(lags) < LAG
    assert [one.id for one in events] == [str(n) for n in range(1, len(events) + 1)]
    assert events[-1].name == "done"


def test_every_character_survives(host: Host, request: Any) -> None:
    with ask(host, f"odd {request.node.name}") as browser:
        events = list(browser.events())
    assert text_of(events) == ODD
    with ask(host, f"odd {request.node.name}", protocol="text") as browser:
        body = browser.rest()
        assert browser.is_whole
    assert body.decode() == ODD


# ---- a service that fails ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["refused", "cut"])
def test_a_failure_is_one_error_and_the_end(host: Host, kind: str, request: Any) -> None:
    with ask(host, f"{kind} {request.node.name}") as browser:
        assert browser.status == 200  # it had begun before the service answered
        events = list(browser.events())
        assert browser.is_whole
    errors = [json.loads(one.data) for one in events if one.name == "error"]
    assert len(errors) == 1
    assert events[-1].name == "error"
    assert errors[0]["type"] == {"refused": "InvalidRequestError", "cut": "StreamInterrupted"}[kind]
    assert "the words of the service" not in json.dumps(errors)
    assert text_of(events) == ("one two" if kind == "cut" else "")


def test_a_protocol_without_errors_breaks_the_connection(host: Host, request: Any) -> None:
    """A cut never looks like an end."""
    with ask(host, f"cut {request.node.name}", protocol="text") as browser:
        assert browser.rest() == b"one two"
        assert not browser.is_whole


# ---- a browser that left -----------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before the first token", "mid-way", "in silence"])
def test_a_browser_that_left_cancels(host: Host, when: str, service: Service, request: Any) -> None:
    kind = {"before the first token": "silent", "mid-way": "paced", "in silence": "hold"}[when]
    prompt = f"{kind} {request.node.name}"
    browser = ask(host, prompt)
    assert browser.status == 200
    asked = service.request(prompt)
    if kind != "silent":
        events = browser.events()
        while next(events).name != "token":
            pass
    begun = time.monotonic()
    browser.close()
    closed = service.server.wait_closed(asked, PATIENCE)
    print(f"{request.node.name}: {closed - begun:.2f} s")
    assert closed - begun < SOON + LAG


def test_the_browser_behind_a_reconnect_gets_204(
    running: Callable[[str], Host], service: Service
) -> None:
    """An EventSource asks again after a lost connection: the prompt is not run a second time."""
    for name in "flask-gthread", "django-gthread", "django-uvicorn behind nginx":
        before = len(service.server.requests)
        with Browser(
            running(name).port, "/chat", headers="Last-Event-ID: 3\r\n", prompt="x"
        ) as one:
            assert (one.status, one.rest()) == (204, b"")
        assert len(service.server.requests) == before


# ---- by hand, and asynchronous views -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("flask-gthread", "/plain"),
        ("django-gthread", "/body"),
        ("django-uvicorn", "/body"),
        ("django-uvicorn", "/async"),
        ("starlette", "/chat"),
    ],
)
def test_other_ways_to_the_same(
    name: str, path: str, running: Callable[[str], Host], service: Service, request: Any
) -> None:
    host = running(name)
    with ask(host, f"paced {request.node.name}", path) as browser:
        events = list(browser.events())
    assert text_of(events) == " ".join(WORDS)
    prompt = f"hold {request.node.name}"
    browser = ask(host, prompt, path)
    assert browser.status == 200
    asked = service.request(prompt)
    arriving = browser.events()
    while next(arriving).name != "token":  # and the answer has no end
        pass
    begun = time.monotonic()
    browser.close()
    assert service.server.wait_closed(asked, PATIENCE) - begun < SOON + LAG


def test_the_example_of_the_readme(service: Service, tmp_path: Path) -> None:
    """Its application of Flask, in its server, read by its page in Node."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs the program node")
    (tmp_path / "chat.py").write_text(block_of_readme("python", "# chat.py"))
    (tmp_path / "page.mjs").write_text(PAGE % block_of_readme("js", "async function ask"))
    (command,) = re.findall(r"^gunicorn (.*)$", hosts.README.read_text("utf-8"), re.M)
    *options, app = command.split()
    key = {"OPENAI_API_KEY": "test-key", "OPENAI_BASE_URL": service.base_url}
    wanted = {
        "odd": [ODD, True, None],
        "cut": ["one two", False, "The answer was cut off before its end. Please try again."],
        "refused": ["", False, "This request cannot be answered."],
        "": ["", False, "the body ends without a question: its last message has to be the user's"],
    }
    with hosts.gunicorn(tmp_path, app, *options, **key) as host:
        for prompt, told in wanted.items():
            done = subprocess.run(
                [node, "page.mjs", host.url, prompt],
                cwd=tmp_path,
                capture_output=True,
                timeout=2 * PATIENCE,
                check=True,
            )
            assert json.loads(done.stdout) == told


PAGE = """
%s
const [, , server, prompt] = process.argv;
const real = fetch;
globalThis.fetch = (path, options) => real(server + path, options);
const told = ["", false, null];
await ask(prompt, {
  show: (text) => { told[0] += text; },
  done: (usage) => { told[1] = usage.output_tokens > 0; },
  fail: (message) => { told[2] = message; },
});
console.log(JSON.stringify(told));
"""


def block_of_readme(language: str, begins: str) -> str:
    """The block of the relay's README that begins so."""
    text = hosts.README.read_text("utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    block: str = next(one for one in found if one.startswith(begins))
    return block


def test_a_server_that_cannot_stream(running: Callable[[str], Host]) -> None:
    found = running("flask-sync").json("/whole", prompt="odd whole")
    assert (found["text"], found["finish"]) == (ODD, "stop")


# ---- deploying ----------------------------------------------------------------------------------


PATCH = "from gevent import monkey\nmonkey.patch_all()\n"


@pytest.mark.parametrize(
    ("worker", "config", "status"),
    [("gthread", "", 200), ("gevent", PATCH, 200), ("gevent", "", 500)],
    ids=["gthread", "gevent, patched", "gevent, not patched"],
)
def test_an_application_that_is_loaded_before_the_fork(
    worker: str, config: str, status: int, service: Service, tmp_path: Path
) -> None:
    """Under gevent it has to be patched before; else that is said, and nothing hangs."""
    (tmp_path / "conf.py").write_text(config)
    options = ("--worker-class", worker, "--preload", "-c", "conf.py")
    app = "served.flasks:app"
    with hosts.gunicorn(tmp_path, app, *options, SERVICE=service.base_url) as host:
        with ask(host, "odd preload") as browser:
            assert browser.status == status
            browser.rest()
        assert ("patch_all() before anything else is imported" in host.log) is (status == 500)


@pytest.mark.parametrize("name", ["flask-gthread", "flask-gevent", "django-uvicorn"])
def test_a_server_that_is_stopped_cuts_and_cancels(
    name: str, service: Service, tmp_path: Path
) -> None:
    """After its patience; the browser does not take that for an end."""
    row, prompt = SETTINGS[name], f"hold stop {name}"
    with row.make(tmp_path, row.app, *row.options, SERVICE=service.base_url) as host:
        with ask(host, prompt) as browser:
            assert browser.status == 200
            asked = service.request(prompt)
            host.process.terminate()
            names = [one.name for one in browser.events()]
            assert not browser.is_whole
        assert "done" not in names
        service.server.wait_closed(asked, PATIENCE)
        host.process.wait(PATIENCE)


# ---- many at once ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flask-gthread", "flask-gevent", "django-uvicorn"])
def test_a_browser_that_reads_nothing_slows_the_service(
    name: str, running: Callable[[str], Host], service: Service
) -> None:
    """And takes no memory of the server for what it does not read."""
    host, prompt = running(name), f"long {name}"
    before = host.json("/state")["rss"]
    with ask(host, prompt) as browser:
        assert browser.status == 200
        asked = service.request(prompt)
        sizes = [before]

        def is_still() -> bool:
            sizes.append(host.json("/state")["rss"])
            return len({*sizes[-50:]}) == 1

        eventually(is_still, "nothing more is read")
        assert asked.finished_at is None
        grown = (sizes[-1] - before) / 1024
        begun = time.monotonic()
    closed = service.server.wait_closed(asked, PATIENCE)
    print(f"{name}: {grown:.0f} MiB more, closed after {closed - begun:.2f} s")
    assert grown < 30
    assert closed - begun < SOON + LAG


@pytest.mark.parametrize("name", ["flask-gthread", "flask-gevent", "django-uvicorn"])
def test_two_hundred_at_once_in_one_process(
    name: str, running: Callable[[str], Host], service: Service
) -> None:
    """All run at the same time, none starves, and what they took is given back."""
    host, count = running(name), 200
    for number in range(4):  # what a process has once it has worked
        with ask(host, f"odd warm {name} {number}") as browser:
            browser.rest()
    before = host.json("/state")
    service.together = threading.Barrier(count)
    done: list[tuple[str, float]] = []
    errors: list[BaseException] = []

    def read(number: int) -> None:
        try:
            with ask(host, f"together {name} {number}") as browser:
                events = list(browser.events())
                assert browser.is_whole
            tokens = [one.at for one in events if one.name == "token"]
            done.append((text_of(events), max(b - a for a, b in pairwise(tokens))))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(6 * PATIENCE)
    assert errors == []
    assert [text for text, _ in done] == [" ".join(WORDS)] * count
    longest = max(gap for _, gap in done)
    after: dict[str, Any] = {}

    def freed() -> bool:
        after.update(host.json("/state"))
        relays = [one for one in after["threads"] if one.startswith("llmstream-relay")]
        return not relays and after["sockets"] <= before["sockets"] + IDLE

    eventually(freed, "everything is freed")
    grown = (after["peak"] - before["rss"]) / 1024
    print(f"{name}: longest gap {longest:.2f} s, {grown:.0f} MiB more at the peak")
    assert longest < 5
    assert grown < 200
