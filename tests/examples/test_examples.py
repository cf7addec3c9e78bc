"""The servers of the examples, and what their page is made of. (The page itself is driven in a real
browser by the other files.)"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support import PACKAGE, PATIENCE, PROMPT, eventually, output_of
from upstream import Says, Upstream

from llmstream import Client, relay
from llmstream.errors import ConfigurationError
from llmstream.examples import service
from llmstream.examples.flask_chat import create_app
from llmstream.testing import Answer, LLMServer

ID = "0123456789abcdef"
QUESTION = [{"role": "user", "content": PROMPT}]


@pytest.fixture
def browser(client_for: Any, server: LLMServer) -> Any:
    """A client of the Flask application."""
    server.script(Answer("one two"))
    return create_app(client_for(server), relay.MemoryLog()).test_client()


def events(body: bytes) -> list[tuple[str, Any]]:
    found = re.findall(r"^event: (.*)\ndata: (.*)$", body.decode(), re.M)
    return [(name, json.loads(data)) for name, data in found]


# ---- Flask ---------------------------------------------------------------------------------------


def test_an_answer_goes_on_and_is_asked_once(browser: Any, server: LLMServer) -> None:
    body = {"id": ID, "messages": QUESTION}
    first = browser.post("/answers", json=body)
    assert [name for name, _ in events(first.data)][-1] == "done"
    assert "".join(d["text"] for name, d in events(first.data) if name == "token") == "one two"
    again = browser.post("/answers", json=body)
    assert events(again.data) == events(first.data)
    (last, *_) = re.findall(r"^id: (.*)$", first.text, re.M)
    rest = browser.get(f"/answers/{ID}", headers={"Last-Event-ID": last})
    assert events(rest.data) == events(first.data)[1:]
    assert len(server.requests) == 1


def test_an_unknown_answer_is_204(browser: Any) -> None:
    assert browser.get(f"/answers/{ID}").status_code == 204
    assert browser.post(f"/answers/{ID}/stop").status_code == 204


@pytest.mark.parametrize(
    "body",
    [
        {"id": "short", "messages": QUESTION},
        {"id": ID},
        {"id": ["x"], "messages": QUESTION},
        {"messages": QUESTION},
        {"id": ID, "messages": [{"role": "system", "content": "Obey."}]},
        {"id": ID, "messages": "x"},
        [],
    ],
)
def test_a_wrong_request_is_refused_with_words(browser: Any, server: LLMServer, body: Any) -> None:
    response = browser.post("/answers", json=body)
    assert response.status_code == 400
    assert set(response.json) == {"error"}
    assert not server.requests


def test_a_form_of_another_site_is_refused(browser: Any, server: LLMServer) -> None:
    """A page of another site can send text without being asked first, but not JSON."""
    data = json.dumps({"id": ID, "messages": QUESTION})
    assert browser.post("/answers", data=data, content_type="text/plain").status_code == 415
    assert not server.requests


def test_a_log_that_cannot_be_reached(client_for: Any, server: LLMServer) -> None:
    pytest.importorskip("redis")
    log = relay.RedisLog("unix:///nowhere/redis.sock")
    browser = create_app(client_for(server), log).test_client()
    response = browser.post("/answers", json={"id": ID, "messages": QUESTION})
    assert response.status_code == 503
    assert "nowhere" not in response.text
    assert response.json["error"]
    assert not server.requests


def test_the_protocol_of_use_chat(client_for: Any, server: LLMServer) -> None:
    server.script(Answer("one two"))
    browser = create_app(client_for(server), protocol="ui-message").test_client()
    turn = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": PROMPT}]}
    response = browser.post("/answers", json={"id": ID, "messages": [turn]})
    assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert '"delta":"one' in response.text


def test_the_page_may_load_its_own_files_only(browser: Any) -> None:
    for name in ("", *os.listdir(service.PAGE)):
        response = browser.get(f"/{name}")
        assert response.status_code == 200, name
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        response.close()
    assert browser.get("/../service.py").status_code == 404


# ---- Django --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_django_does_the_same(server: LLMServer) -> None:
    pytest.importorskip("django")
    server.script(Answer("one two"))
    output = output_of(
        """
        import json, re, sys
        from llmstream.examples.django_chat.wsgi import application
        from django.test import Client

        browser = Client(enforce_csrf_checks=True, headers={"host": "localhost"})
        page = browser.get("/")
        print(page.status_code, "default-src 'none'" in page["Content-Security-Policy"])
        print([browser.get(f"/{name}").status_code for name in ("chat.js", "chat.css", "no.js")])
        body = {"id": "0123456789abcdef", "messages": [{"role": "user", "content": "Hi"}]}
        token = {"X-CSRFToken": browser.cookies["csrftoken"].value}

        def post(path, body, **more):
            return browser.post(path, json.dumps(body), content_type="application/json", **more)

        print(post("/answers", body).status_code)
        first = post("/answers", body, headers=token)
        text = b"".join(first).decode()
        print(first.status_code, re.findall("^event: (.*)$", text, re.M)[-1])
        last = re.search("^id: (.*)$", text, re.M)[1]
        rest = b"".join(browser.get(f"/answers/{body['id']}", headers={"Last-Event-ID": last}))
        print(text.endswith(rest.decode().removeprefix(": keep-alive\\n\\n")))
        print(browser.get("/answers/fedcba9876543210").status_code)
        print(post("/answers/fedcba9876543210/stop", {}, headers=token).status_code)
        print(post("/answers", {**body, "id": 1}, headers=token).json())
        """,
        LLMSTREAM_BASE_URL=server.base_url,
    )
    assert output.splitlines() == [
        "200 True",
        "[200, 200, 404]",
        "403",
        "200 done",
        "True",
        "204",
        "204",
        "{'error': 'the id of an answer is 16 to 64 letters, digits, - and _'}",
    ]
    assert len(server.requests) == 1


# ---- starting them -------------------------------------------------------------------------------


def test_without_a_key_the_local_model_answers(
    nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmstream.examples.service.find_in_environment", lambda: None)
    monkeypatch.setattr(Client, "local", lambda: "the local model")
    assert service.client_from_env() == "the local model"


def test_a_wrong_setting_is_not_the_local_model(
    nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMSTREAM_BASE_URL", "no address")
    with pytest.raises(ConfigurationError):
        service.client_from_env()


def test_a_server_of_this_machine_has_its_names_only() -> None:
    assert service.trusted_hosts("0.0.0.0") is None
    assert service.trusted_hosts("127.0.0.1") == ["localhost", "127.0.0.1", "[::1]"]


def test_the_log_is_in_redis_where_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(service.log_from_env(), relay.MemoryLog)
    pytest.importorskip("redis")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    assert isinstance(service.log_from_env(), relay.RedisLog)


@pytest.fixture
def upstream(nothing_left: None) -> Iterator[Upstream]:
    made = Upstream()
    made.answers[PROMPT] = Says(["one ", "two"])
    yield made
    made.close()


@pytest.mark.hosts
@pytest.mark.parametrize("name", ["flask_chat", "django_chat"])
def test_it_runs_and_ends_with_an_interrupt(upstream: Upstream, name: str, tmp_path: Path) -> None:
    check_program(name, upstream.environment(), tmp_path, "one two")


# Runs a module as `python -m` does, where what its first argument names is not installed.
WITHOUT = """
    import runpy, sys
    sys.modules[sys.argv[1]] = None
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__")
"""


@pytest.mark.hosts
@pytest.mark.parametrize("name", ["flask_chat", "django_chat"])
def test_what_is_wrong_at_the_start_is_a_sentence(name: str, tmp_path: Path) -> None:
    framework = name.partition("_")[0]

    def run(*arguments: str, missing: str = "nothing_of_this_name", **settings: str) -> Any:
        command = [sys.executable, "-c", textwrap.dedent(WITHOUT), missing]
        return subprocess.run(
            [*command, f"llmstream.examples.{name}", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE), **settings},
            timeout=PATIENCE,
        )

    with socket.create_server(("127.0.0.1", 0)) as taken:
        key = {"OPENAI_API_KEY": "sk-1"}
        port = str(taken.getsockname()[1])
        for found, words in (
            (run("--port", port, **key), "in use"),
            (run("--port", "70000", **key), "65535"),
            (run("--page", "nowhere", **key), "nowhere"),
            (run("--port", "0", REDIS_URL="nope://user:secret@host", **key), "RedisLog(url)"),
            (run("--port", "0", missing="xllamacpp"), "llmstream-sync[local]"),
            (run("--port", "0", missing=framework, **key), f"llmstream-sync[{framework}]"),
        ):
            assert found.returncode in (1, 2), found
            assert words in found.stderr
            assert "Traceback" not in found.stderr
            assert "secret" not in found.stderr
    found = run("--help", missing=framework)
    assert found.returncode == 0
    assert "--port" in found.stdout


@pytest.mark.local
@pytest.mark.parametrize("name", ["flask_chat", "django_chat"])
def test_it_runs_without_a_key(name: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    check_program(name, {}, tmp_path, None)


def check_program(name: str, settings: dict[str, str], folder: Path, text: str | None) -> None:
    """Start it as its README says, ask it, and press Ctrl-C. (`text` None: any token will do.)"""
    import requests

    kept = {
        variable: value
        for variable, value in os.environ.items()
        if not variable.startswith(("OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_", "LLMSTREAM_"))
        or variable == "LLMSTREAM_CACHE"
    }
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"llmstream.examples.{name}", "--port", "0"],
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**kept, "PYTHONPATH": str(PACKAGE), "PYTHONUNBUFFERED": "1", **settings},
        )
    try:
        found = r"http://127\.0\.0\.1:\d+"
        address = eventually(lambda: re.search(found, log.read_text()), "it listens", 60)[0]
        with requests.Session() as session:
            session.trust_env = False
            assert "<!doctype html>" in session.get(f"{address}/", timeout=30).text
            other = session.get(f"{address}/", headers={"Host": "evil.example"}, timeout=30)
            assert other.status_code == 400
            headers = {"X-CSRFToken": session.cookies.get("csrftoken", "")}
            body = {"id": ID, "messages": QUESTION}
            with session.post(
                f"{address}/answers", json=body, headers=headers, timeout=60, stream=True
            ) as answer:
                lines = answer.iter_lines(chunk_size=1)
                if text is None:
                    assert b"event: token" in lines  # which reads no further
                else:
                    told = events(b"\n".join(lines))
                    assert "".join(d["text"] for kind, d in told if kind == "token") == text
                    assert told[-1][0] == "done"
            stop = session.post(f"{address}/answers/{ID}/stop", headers=headers, timeout=30)
            assert stop.status_code == 204
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, -signal.SIGINT, 130), log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


# ---- what the page is made of --------------------------------------------------------------------

PAGE = {path.name: path.read_text("utf-8") for path in sorted(service.PAGE.iterdir())}


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.problems: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.add(str(given.get("id")))
        if tag == "style" or (tag == "script" and "src" not in given):
            self.problems.append(f"<{tag}> in the page")
        self.problems += [name for name in given if name.startswith("on") or name == "style"]


def test_nothing_is_inline() -> None:
    page = _Elements()
    page.feed(PAGE["index.html"])
    assert page.problems == []
    used = set(re.findall(r'\$\("([\w-]+)"\)', PAGE["chat.js"]))
    assert len(used) > 8
    assert used <= page.ids


@pytest.mark.parametrize("name", PAGE)
def test_nothing_comes_from_elsewhere(name: str) -> None:
    addresses = set(re.findall(r"\w+://[^\s'\")]+", PAGE[name]))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert "url(" not in PAGE[name].replace("<url>", "")


@pytest.mark.parametrize("name", ["chat.js", "markdown.js"])
def test_no_text_becomes_markup(name: str) -> None:
    """Every way by which the DOM or JavaScript parses a string."""
    ways = "innerHTML outerHTML insertAdjacentHTML document.write setHTML eval( Function( srcdoc"
    for way in (*ways.split(), "DOMParser", "createContextualFragment"):
        assert way not in PAGE[name], way


def colours() -> list[Any]:
    light, dark = re.findall(r":root \{(.*?)\}", PAGE["chat.css"], re.S)
    themes = {"light": light, "dark": dark}
    pairs = [
        ("text", "page"),
        ("text", "bubble"),
        ("text", "code"),
        ("faint", "page"),
        ("faint", "code"),
        ("accent", "page"),
        ("on-accent", "accent"),
        ("bad", "bad-page"),
    ]
    return [
        pytest.param(
            *(re.search(rf"--{name}: (#\w+);", theme)[1] for name in pair),  # type: ignore[index]
            id=f"{kind}-{'-on-'.join(pair)}",
        )
        for kind, theme in themes.items()
        for pair in pairs
    ]


@pytest.mark.parametrize(("front", "back"), colours())
def test_it_can_be_read(front: str, back: str) -> None:
    """The contrast that WCAG 2.2 asks for (1.4.3, AA)."""
    one, other = sorted((luminance(front), luminance(back)))
    assert (other + 0.05) / (one + 0.05) >= 4.5


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
