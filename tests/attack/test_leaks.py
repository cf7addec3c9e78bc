"""Every secret x everything that goes wrong x every API: marked keys, passwords and texts at every
parameter, and services that quote them in every spelling. No mark is in what an error reporter, a
log, a pickle, a metric, a span or a page takes of it.
"""

from __future__ import annotations

import contextlib
import html
import json
import logging
import pickle
import random
import socket
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any
from urllib.parse import quote

import pytest
from support import RawServer, clocks, read_request
from test_secrets import Everything

from llmstream import Client, ConfigurationError, LLMStreamError, RetryPolicy
from llmstream.testing import Answer, Cut, LLMServer, Pings, Reply, Reset, Silence
from llmstream.testing.answers import sse_block

pytestmark = [pytest.mark.attack, pytest.mark.usefixtures("nothing_left")]

APIS = ("responses", "messages", "chat", "gemini")
SEED = 13
_KEY_PART, _TEXT_PART = 8, 15  # characters of a key, of a text, that are a leak


def _words(number: int, count: int = 7) -> str:
    """Words that no service has in its sentences."""
    rng = random.Random(SEED * 1000 + number)
    letters = "bdfgklmnprtvz"
    return " ".join(
        "".join(rng.choice(letters) + rng.choice("aou") for _ in range(rng.randint(2, 4)))
        for _ in range(count)
    )


def _token(number: int) -> str:
    rng = random.Random(SEED * 2000 + number)
    return "".join(
        rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghkmnpqrstuvwxyz23456789") for _ in range(32)
    )


KEYS = {
    name: f"sk+{_token(number)}/=&" if name == "api_key" else _token(number)
    for number, name in enumerate(
        (
            *("api_key", "user", "password", "query", "proxy password", "authorization"),
            *("a header of the call", "a field of the body", "of a tool"),
        )
    )
}
TEXTS = {
    name: _words(number)
    for number, name in enumerate(
        (
            *("prompt", "instructions", "tool", "stop", "metadata", "prediction", "extra_body"),
            *("a header", "an earlier turn"),
        )
    )
}
TEXTS["picture"] = _token(99) * 3
SECRETS = {**KEYS, **TEXTS}
PARTS = sorted(
    {
        secret[at : at + size]
        for secrets, size in ((KEYS, _KEY_PART), (TEXTS, _TEXT_PART))
        for secret in secrets.values()
        for at in range(len(secret) - size + 1)
    }
)
SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    json.dumps,
    repr,
    lambda text: quote(text, safe=""),
    html.escape,
    lambda text: f"{text[: len(text) // 2]}\n{text[len(text) // 2 :]}",
    lambda text: text[4:],
    lambda text: text[:-4],
    lambda text: f"{text[:16]}...{text[-16:]}",
    lambda text: "".join(f"\\u{ord(char):04x}" for char in text),
)


def parts_in(text: str) -> list[str]:
    return [part for part in PARTS if part in text]


class Leaks:
    """Everything that was looked at, by kind, and what was found."""

    def __init__(self) -> None:
        self.looked: Counter[str] = Counter()
        self.found: list[str] = []

    def look(self, kind: str, what: str, text: str) -> None:
        self.looked[kind] += 1
        for part in parts_in(text)[:1]:
            at = text.find(part)
            self.found.append(
                f"{kind} of {what}: {part!r} in ...{text[max(0, at - 90) : at + 60]!r}"
            )

    def look_at_error(self, what: str, error: BaseException) -> None:
        if isinstance(error, LLMStreamError):
            pickled = pickle.dumps(error, 0)
            again = pickle.loads(pickled)
            self.look("pickle", what, f"{pickled!r} {vars(again)!r} {again!r}")
        for one in _chain(error):
            self.look("error", what, f"{one!r} {one} {one.args!r} {_dump(vars(one), 5)}")
            self.look("frames", what, _variables(one.__traceback__))

    def check(self) -> None:
        print("looked at:", dict(self.looked), "leaks:", len(self.found))
        assert not self.found, "\n".join([f"{len(self.found)} leaks", *self.found[:12]])


def _chain(error: BaseException) -> list[BaseException]:
    left: list[Any] = [error]
    found: dict[int, BaseException] = {}
    while left:
        one = left.pop()
        if not isinstance(one, BaseException) or id(one) in found:
            continue
        found[id(one)] = one
        left += [one.__cause__, one.__context__, *one.args]
        left += [attempt.error for attempt in getattr(one, "attempts", ())]
    return [*found.values()]


def _variables(place: TracebackType | None) -> str:
    """The variables of all frames but those of the tests, as an error reporter sends them."""
    shown = []
    while place is not None:
        if "/tests/" not in place.tb_frame.f_code.co_filename:
            shown += [_dump(value, 5) for value in place.tb_frame.f_locals.values()]
        place = place.tb_next
    return "\n".join(shown)


def _dump(value: Any, depth: int) -> str:
    if depth and isinstance(value, Mapping):
        return "".join(_dump(k, depth - 1) + _dump(v, depth - 1) for k, v in value.items())
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return "".join(_dump(one, depth - 1) for one in value)
    return repr(value)


# ---- the calls -----------------------------------------------------------------------------------


def settings_of(base_url: str, **more: Any) -> dict[str, Any]:
    place = f"{KEYS['user']}:{KEYS['password']}@"
    return {
        "base_url": f"{base_url.replace('://', f'://{place}')}?code={KEYS['query']}",
        "api_key": KEYS["api_key"],
        "model": "m",
        "headers": {
            "x-authorization": f"Bearer {KEYS['authorization']}",
            "x-it": TEXTS["a header"],
        },
        "retry": RetryPolicy(max_attempts=2, base=0.0, cap=0.0),
        "timeouts": clocks(5.0),
        **more,
    }


def options_of() -> dict[str, Any]:
    picture = f"data:image/png;base64,{TEXTS['picture']}"
    return {
        "prompt": [
            {"role": "user", "content": TEXTS["an earlier turn"]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": TEXTS["prompt"]},
                    {"type": "input_image", "image_url": picture},
                ],
            },
        ],
        "instructions": TEXTS["instructions"],
        "tools": [
            {
                "type": "function",
                "name": "look_up",
                "description": TEXTS["tool"],
                "parameters": {"type": "object", "properties": {}},
                "authorization": f"Bearer {KEYS['of a tool']}",
            }
        ],
        "headers": {"x-session-token": KEYS["a header of the call"]},
        "extra_body": {
            "stop": [TEXTS["stop"]],
            "metadata": {"note": TEXTS["metadata"]},
            "prediction": {"type": "content", "content": TEXTS["prediction"]},
            "provider": {"apiKey": KEYS["a field of the body"]},
            "custom": {"deep": [{"deeper": TEXTS["extra_body"]}]},
        },
    }


def quoting(said: str) -> dict[str, Callable[[], Reply]]:
    """Failures in which a service has words of its own."""
    error = {"type": "server_error", "code": "server_error", "message": said, "param": said}
    event = sse_block("error", {"type": "error", **error, "error": error})
    data = said.encode()
    return {
        **{
            str(status): lambda status=status: Reply.json({"error": error}, status)  # type: ignore[misc]
            for status in (400, 401, 404, 429)
        },
        "a code": lambda: Reply.json({"error": {"code": said, "type": said, "message": "no"}}, 400),
        "in words": lambda: Reply(data, status=400, framing="length"),
        "a validation error": lambda: Reply.json({"detail": [{"msg": said, "loc": [said]}]}, 422),
        "a page": lambda: Reply.html(f"<p>{said}</p>", 500),
        "a page of success": lambda: Reply.html(f"<html><p>{said}</p></html>"),
        "other JSON": lambda: Reply.json({"you": {"said": said}}),
        "in the stream": lambda: Reply([event]),
        "a garbled event": lambda: Reply([b"data: {" + data.replace(b"\n", b" ") + b"\n\n"]),
        "no HTTP": lambda: Reply.raw(data + b"\r\n"),
        "no chunk": lambda: Reply.raw(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data + b"\r\n"
        ),
        "an id": lambda: Reply.error(
            500, headers={"x-request-id": quote(said, safe=" +/=&")[:300]}
        ),
        "a redirect": lambda: Reply(
            status=307, headers={"location": f"/{quote(said)}?x={quote(said)}"}, framing="length"
        ),
    }


SILENT: dict[str, Callable[[], Reply]] = {
    "no answer": lambda: Reply(before=[Cut()]),
    "a reset": lambda: Reply(before=[Reset()]),
    "a cut": lambda: Reply([*Answer("one two").blocks("chat")[:1], Cut()]),
    "no first token": lambda: Reply([Pings(0.02)]),
    "no head": lambda: Reply(before=[Silence()]),
    "an encoding": lambda: Reply.raw(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnone"
    ),
    "headers": lambda: Reply.raw(b"HTTP/1.1 200 OK\r\nx" + b"y" * 70_000 + b": 1\r\n\r\n"),
}


class Raising:
    """An observer that fails in every hook."""

    def on_start(self, *told: Any) -> None:
        raise ValueError("an observer's mistake")

    on_phase = on_first_token = on_attempt = on_retry = on_content = on_end = on_start


@contextlib.contextmanager
def listening(leaks: Leaks, capfd: pytest.CaptureFixture[str]) -> Iterator[Everything]:
    """All observers and all loggers are on, and warnings are kept; at the end all of it is looked
    at."""
    records: list[logging.LogRecord] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler, root, on = Keeping(), logging.getLogger(), Everything()
    levels = {name: logging.getLogger(name).level for name in ("", "llmstream", "urllib3")}
    root.addHandler(handler)
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield on
        outputs = on.outputs()
    finally:
        root.removeHandler(handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        on.close()
    for name, text in outputs.items():
        leaks.look("telemetry", name, text)
    for record in records:
        leaks.look("log", record.name, f"{record.getMessage()} {record.args!r} {vars(record)!r}")
        if record.exc_info and record.exc_info[1] is not None:
            leaks.look_at_error(f"log of {record.name}", record.exc_info[1])
    for one in warned:
        leaks.look("warning", "python", str(one.message))
    captured = capfd.readouterr()
    leaks.look("output", "stdout and stderr", captured.out + captured.err)


def asked(
    leaks: Leaks, what: str, client: Client, *, cancel: bool = False
) -> LLMStreamError | None:
    options = options_of()
    stream = client.stream(options.pop("prompt"), **options)
    error: LLMStreamError | None = None
    try:
        if cancel:
            stream.cancel("enough")
        stream.result()
    except LLMStreamError as exc:
        error = exc
    leaks.look("repr", what, f"{client!r} {stream!r} {stream.attempts!r} {vars(stream)!r}")
    if error is not None:
        leaks.look_at_error(what, error)
    return error


# ---- the proofs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("api", APIS)
def test_a_service_that_quotes(
    server: LLMServer, capfd: pytest.CaptureFixture[str], api: str
) -> None:
    """Each secret, in each kind of failure, in one spelling after the other."""
    leaks, number = Leaks(), 0
    with listening(leaks, capfd) as on:
        observers = [*on.observers, Raising()]
        with Client(api, observers=observers, **settings_of(server.base_url_for(api))) as client:
            for kind in quoting(""):
                for name, secret in SECRETS.items():
                    if name == "proxy password":
                        continue  # it is not sent
                    said = f"refused <{SPELLINGS[number % len(SPELLINGS)](secret)}>"
                    number += 1
                    reply = quoting(said)[kind]
                    server.default = lambda request, reply=reply: reply()  # type: ignore[misc]
                    assert asked(leaks, f"{kind}, {name}", client) is not None
    print(f"{api}: {number} quotes")
    leaks.check()
    sent = server.requests[-1]
    whole = sent.body.decode() + str(dict(sent.headers)) + str(dict(sent.query))
    for name in (
        "api_key",
        "query",
        "authorization",
        "a header of the call",
        "a field of the body",
    ):
        assert KEYS[name] in whole
    for name in TEXTS:
        assert TEXTS[name] in whole


@pytest.mark.parametrize("api", APIS)
def test_what_breaks_without_words(
    server: LLMServer, capfd: pytest.CaptureFixture[str], api: str
) -> None:
    """Cuts, resets, timeouts, cancels; and observers that fail."""
    leaks = Leaks()
    with listening(leaks, capfd) as on:
        soon = clocks(5.0, first_token=0.1, idle=0.1)
        given = settings_of(server.base_url_for(api))
        observers = [*on.observers, Raising()]
        with Client(api, observers=observers, **{**given, "timeouts": soon}) as client:
            for kind, reply in SILENT.items():
                server.default = lambda request, reply=reply: reply()  # type: ignore[misc]
                assert asked(leaks, kind, client) is not None, kind
            assert asked(leaks, "a cancel", client, cancel=True) is not None
        with Client(api, observers=observers, **given) as client:
            server.default = lambda request: Reply(Answer("Hi").blocks(api))
            assert asked(leaks, "a success", client) is None
    leaks.check()


@pytest.mark.parametrize("api", APIS)
def test_no_connection(
    tls_server: LLMServer,
    raw_server: Callable[..., RawServer],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    api: str,
) -> None:
    """Nobody listens, no such host, no trusted certificate; proxies of all kinds, named by argument
    and by variable, that refuse in words of their own."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    nobody = "http://127.0.0.1:1"  # the system gives that port to nobody
    said = f"{KEYS['proxy password']} {KEYS['query']} {TEXTS['prompt']}"

    def refuse(status: int) -> Callable[[socket.socket], None]:
        def handler(sock: socket.socket) -> None:
            read_request(sock)
            page = said.encode()
            head = f"HTTP/1.1 {status} {said}\r\nContent-Length: {len(page)}\r\n\r\n".encode()
            sock.sendall(head + page)

        return handler

    no_socks = raw_server(lambda sock: sock.sendall(said.encode())).url.replace(
        "http", "socks5h", 1
    )
    leaks, tried = Leaks(), 0
    with listening(leaks, capfd) as on:

        def attempt(what: str, base_url: str, **more: Any) -> None:
            nonlocal tried
            tried += 1
            with Client(api, observers=on.observers, **settings_of(base_url, **more)) as client:
                assert asked(leaks, what, client) is not None, what

        attempt("nobody", f"{nobody}/v1")
        attempt("no such host", "http://no-such-host.invalid/v1")
        attempt("no trust", tls_server.base_url_for(api))
        for status in (403, 407, 500, 502):
            refusing = raw_server(refuse(status)).url
            for proxy in (refusing, nobody, no_socks):
                proxy = proxy.replace("://", f"://me:{KEYS['proxy password']}@")
                for base_url in ("http://llm.invalid/v1", "https://llm.invalid/v1"):
                    attempt(f"{status} of a proxy", base_url, proxies={"all": proxy})
                    monkeypatch.setenv("ALL_PROXY", proxy)
                    attempt(f"{status} of a variable's proxy", base_url)
                    monkeypatch.delenv("ALL_PROXY")
        bad = f"http://me:{KEYS['proxy password']}@/:99999"
        monkeypatch.setenv("ALL_PROXY", bad)
        attempt("a variable that cannot be one", "http://llm.invalid/v1")
    print(f"{api}: {tried} connections")
    leaks.check()


class Odd:
    """A value that nothing takes, and that shows a secret."""

    def __repr__(self) -> str:
        return TEXTS["prompt"]

    def __str__(self) -> str:
        raise ValueError(KEYS["api_key"])


def _raises() -> str:
    raise ValueError(KEYS["api_key"])


class Raised(Exception):
    def __init__(self) -> None:
        super().__init__(KEYS["api_key"])


def _raises_from() -> str:
    try:
        raise Raised
    except Raised as exc:
        raise LookupError(KEYS["password"]) from exc


KEY, TEXT, PASSWORD = KEYS["api_key"], TEXTS["prompt"], KEYS["password"]
WRONG: tuple[Any, ...] = (
    *(None, True, -1, 1.5, float("nan"), 10**400, "", " ", b"bytes", (), [], {}, object, Odd()),
    *({"a": Odd()}, [Odd()], [[]], [1], {1: 2}, {"x": {1, 2}}, lambda: None, "\ud800", ["\ud800"]),
    *(f"{KEY}\n", f"{TEXT}\ud800", f"{KEY}\x00", [TEXT], {"x": f"{KEY}\r\nx: y"}),
    *({f"{KEY}\n": "x"}, {TEXT: object()}, {"https": f"http://u:{KEYS['proxy password']}@[:x"}),
    *(f"http://u:{PASSWORD}@[", f"ftp://u:{PASSWORD}@h", f"http://h:x{PASSWORD}/"),
    *([{"role": "user", "content": f"{TEXT}\ud800"}], [{"role": object(), "x": TEXTS["tool"]}]),
    *(_raises, _raises_from, _token),
)


@pytest.mark.parametrize("api", APIS)
def test_wrong_arguments(
    server: LLMServer,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    api: str,
) -> None:
    """Every parameter of a client and of a call is given everything that it cannot be, while the
    others hold secrets; also out of the environment."""
    leaks, counts = Leaks(), Counter[str]()
    base_url = server.base_url_for(api)
    server.default = lambda request: Reply.error(400, api=api)

    def attempt(what: str, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as exc:
            counts[type(exc).__name__] += 1
            leaks.look_at_error(what, exc)
        else:
            counts["no error"] += 1

    of_client = ("api", "base_url", "api_key", "model", "timeouts", "retry", "on_disconnect")
    of_client += ("profile", "headers", "max_connections", "observers", "max_cost", "verify")
    of_client += ("proxies", "trust_env", "max_event_bytes", "max_identical_chunks")
    of_call = ("prompt", "model", "instructions", "max_output_tokens", "temperature", "top_p")
    of_call += ("stop", "tools", "tool_choice", "thinking", "background", "timeouts", "retry")
    of_call += ("on_disconnect", "trace_id", "headers", "extra_body")

    def wrong(name: str) -> Iterator[Any]:
        """What `name` is given; the names of a call and its model are shown, by design."""
        named = name in ("model", "trace_id")
        return (v for v in WRONG if not (named and isinstance(v, str) and parts_in(v)))

    with listening(leaks, capfd):
        for name in of_client:
            for value in wrong(name):
                given = {"api": api, **settings_of(base_url), name: value}

                def make(given: dict[str, Any] = given) -> None:
                    with Client(**given) as client:
                        options = options_of()
                        client.stream(options.pop("prompt"), **options).result()

                attempt(f"{name}={type(value).__name__}", make)
                if name in ("api", "base_url", "api_key", "headers", "proxies"):
                    attempt(f"from_env {name}", partial(Client.from_env, **given))
        with Client(api, **settings_of(base_url)) as client:
            for name in of_call:
                for value in wrong(name):
                    options = {**options_of(), name: value}

                    def ask(options: dict[str, Any] = options) -> None:
                        client.stream(options.pop("prompt"), **options).result()

                    attempt(f"{name}={type(value).__name__}", ask)
        for name in ("LLMSTREAM_BASE_URL", "OPENAI_BASE_URL", "LLMSTREAM_API_KEY", "LLMSTREAM_API"):
            for text in (value for value in WRONG if isinstance(value, str) and "\0" not in value):
                with contextlib.suppress(UnicodeError), monkeypatch.context() as patched:
                    patched.setenv("OPENAI_API_KEY", KEYS["api_key"])
                    patched.setenv(name, text)
                    attempt(f"{name} from_env", lambda: Client.from_env().close())
    print(f"{api}: {dict(counts)}")
    leaks.check()
    assert counts["ConfigurationError"] > 300


@pytest.mark.parametrize(
    "key", [_raises, _raises_from, lambda: f"{KEYS['api_key']}\n", lambda: Odd()]
)
def test_a_function_for_the_key_that_fails(server: LLMServer, key: Any) -> None:
    """What it raises, and what it returns, is in nothing."""
    leaks = Leaks()
    with Client("chat", **settings_of(server.base_url, api_key=key)) as client:
        error = asked(leaks, "a key", client)
    assert isinstance(error, ConfigurationError)
    leaks.check()


def test_the_marks_are_found_where_they_are() -> None:
    """The search itself: a frame, a cause and a text with a mark."""
    leaks = Leaks()
    try:
        _raises_from()
    except LookupError as exc:
        leaks.look_at_error("planted", exc)
    leaks.look("text", "planted", f"... {TEXTS['tool'][3:-3]}")
    assert {found.split()[0] for found in leaks.found} >= {"error", "text"}
    namespace: dict[str, Any] = {}
    code = "def f(prompt):\n    raise ValueError('planted')\n"
    exec(compile(code, "elsewhere.py", "exec"), namespace)
    with pytest.raises(ValueError, match="planted") as caught:
        namespace["f"]({"a": [TEXTS["prompt"]]})
    assert parts_in(_variables(caught.value.__traceback__))
