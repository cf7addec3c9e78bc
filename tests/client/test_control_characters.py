"""Control characters that a service, a proxy or a caller writes: none reaches a terminal, a log
line, a metric, a span or a page by an error or a record, and no line end begins a line of its own.
"""

from __future__ import annotations

import json
import logging
import pickle
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
from every import every
from support import RawServer, failure, read_request
from test_environment import every_logger  # noqa: F401 (a fixture)
from test_secrets import Everything

from llmstream import Client, ConfigurationError, LLMStreamError, RetryPolicy, ServiceError
from llmstream.cli import main
from llmstream.result import printable
from llmstream.testing import Answer, LLMServer, Reply
from llmstream.testing.answers import sse_block

APIS = ("responses", "messages", "chat", "gemini")
ONCE = RetryPolicy(max_attempts=1)
# An escape sequence, a bell, a line of its own, a line end of Unicode, text from right to left.
HOSTILE = "\x1b[31mred\x07\r\nWARNING injected\u2028next\x85\u202efdp\x00\x9b2J\ufeff\U000e0041"
IN_A_HEADER = "\x1b[31mred\x07\x7f\x08<script>\t"
ALONE = (
    "\x1b",
    "\x07",
    "\r",
    "\n",
    "\u2028",
    "\x85",
    "\u202e",
    "\0",
    "\x9b",
    "\x7f",
    "\x08",
    "\ufeff",
)

pytestmark = pytest.mark.usefixtures("nothing_left")


def is_harmless(text: str) -> bool:
    return text.isprintable()


def event(**error: Any) -> bytes:
    return sse_block("error", {"type": "error", **error, "error": error})


SAID = {"message": HOSTILE, "code": HOSTILE, "type": HOSTILE, "param": HOSTILE}
REPLIES: dict[str, Callable[[str], Reply]] = {
    "an error": lambda api: Reply.json({"error": SAID, "request_id": HOSTILE}, 400),
    "a validation error": lambda api: Reply.json(
        {"detail": [{"msg": HOSTILE, "loc": ["body", HOSTILE]}]}, 422
    ),
    "an error in the stream": lambda api: Reply([event(**SAID)]),
    "plain text": lambda api: Reply(HOSTILE.encode(), status=500, framing="length"),
    "a page": lambda api: Reply.html(f"<p>{HOSTILE}</p>"),
    "text without an error": lambda api: Reply(HOSTILE.encode(), content_type="text/plain"),
    "other JSON": lambda api: Reply.json({HOSTILE: HOSTILE}),
    "a garbled event": lambda api: Reply([b"data: {" + IN_A_HEADER.encode() + b"\n\n"]),
    "headers": lambda api: Reply.raw(
        b"HTTP/1.1 302 %s\r\nX-Request-Id: %s\r\nLocation: /%s\r\nContent-Type: %s\r\n"
        b"Retry-After: %s\r\nContent-Length: 0\r\n\r\n" % ((IN_A_HEADER.encode(),) * 5)
    ),
    "a page's headers": lambda api: Reply.raw(
        b"HTTP/1.1 200 %s\r\nX-Request-Id: %s\r\nContent-Type: text/html; %s\r\n"
        b"Content-Length: 8\r\n\r\n<p>no<p>" % ((IN_A_HEADER.encode(),) * 3)
    ),
    "a status line": lambda api: Reply.raw(b"HTTP/1.1 %s\r\n\r\n" % IN_A_HEADER.encode()),
    "the fields of an answer": lambda api: Reply(
        Answer("Hi", model=HOSTILE, response_id=HOSTILE).blocks(api)
    ),
}


def texts_of(error: LLMStreamError) -> list[str]:
    fields = [getattr(error, name, None) for name in ("code", "type", "param", "request_id")]
    texts = [str(error), error.message, *(text for text in fields if text is not None)]
    return [
        *texts,
        *(str(a.error) for a in error.attempts),
        *(a.request_id or "" for a in error.attempts),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
def test_no_control_character_goes_out(
    server: LLMServer,
    every_logger: pytest.LogCaptureFixture,  # noqa: F811
    api: str,
) -> None:
    """Whatever is hostile: errors and their fields, log lines and what a formatter shows of a
    record, spans, metrics, the page."""
    on = Everything()
    seen = 0
    try:
        with Client(
            api,
            base_url=server.base_url_for(api),
            api_key="a-key-of-the-tests",
            model="m",
            retry=ONCE,
            observers=on.observers,
        ) as client:
            for name, reply in REPLIES.items():
                server.default = reply(api)
                stream = client.stream("Why?")
                if name == "the fields of an answer":
                    assert stream.result().model == HOSTILE  # data is as received
                    continue
                error = failure(stream, lambda s: s.result())
                for one in (error, pickle.loads(pickle.dumps(error))):
                    for text in texts_of(one):
                        assert is_harmless(text), (name, text)
                        seen += "red" in text
        outputs = on.outputs()
    finally:
        on.close()
    assert seen > 20  # the words themselves stay
    formatter = logging.Formatter("%(message)s %(model)s %(request_id)s %(response_id)s %(reason)s")
    for record in every_logger.records:
        assert is_harmless(record.getMessage()), record.getMessage()
        if record.name == "llmstream" and hasattr(record, "response_id"):
            assert is_harmless(formatter.format(record))
    for name, text in outputs.items():
        for char in set(ALONE) - {"\n"}:
            assert char not in text, (name, char)
    for span in json.loads(f"[{on.spans().replace('}{', '},{')}]"):
        assert all(is_harmless(str(value)) for value in span["attributes"].values())
    assert "<script>" not in outputs["the trace page"]
    assert "\nWARNING" not in outputs["/metrics"]


@pytest.mark.parametrize("secure", [False, True])
def test_a_proxys_words(raw_server: Callable[..., RawServer], secure: bool) -> None:
    """Its reason phrase, its headers and its page."""

    def refuse(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(
            b"HTTP/1.1 403 %s\r\nServer: squid %s\r\nX-Request-Id: %s\r\nContent-Length: 9\r\n\r\n"
            b"\x1b[31m\x07no" % ((IN_A_HEADER.encode(),) * 3)
        )

    proxy = raw_server(refuse).url
    url = f"http{'s' if secure else ''}://llm.invalid/v1"
    with Client("chat", base_url=url, model="m", retry=ONCE, proxies={"all": proxy}) as client:
        error = failure(client.stream("Why?"))
    assert all(map(is_harmless, texts_of(error)))
    assert is_harmless(str(error.__cause__ or ""))


def test_a_callers_words() -> None:
    """A reason of a cancel, and a message of one's own."""
    assert str(ConfigurationError(f"no: {HOSTILE}")) == f"no: {printable(HOSTILE)}"
    error = ServiceError("no")
    error.add(HOSTILE)
    assert is_harmless(str(error))
    with Client("chat", base_url="http://127.0.0.1:9", model="m") as client:
        stream = client.stream("Why?")
        stream.cancel(HOSTILE)
        assert is_harmless(str(failure(stream)))


@pytest.mark.slow
@pytest.mark.parametrize("name", REPLIES)
def test_the_command(
    server: LLMServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    """Standard error has lines of the command's own only, with `--stats` too."""
    monkeypatch.setenv("LLMSTREAM_API_KEY", "a-key-of-the-tests")
    monkeypatch.setattr(sys, "stdin", None)
    server.default = REPLIES[name]("chat")
    options = ["--api", "chat", "--base-url", server.base_url, "--model", "m", "--stats"]
    code = main(["Why?", "--no-stdin", *options])
    lines = capsys.readouterr().err.splitlines()
    assert all(map(is_harmless, lines))
    assert all(line.startswith("llmstream: ") for line in lines)
    assert len(lines) == (1 if code == 0 else 2)


@every("char", ALONE)
def test_what_is_printable(char: str) -> None:
    """White space becomes a space, everything else an escape; the words stay, emojis too."""
    shown = printable(f"one{char}two")
    assert shown.isprintable()
    assert shown.startswith("one")
    assert shown.endswith("two")
    assert len(shown) > len("onetwo")
    assert printable("one\r\n  two\u00a0three") == "one two three"
    assert printable("\ud800") == "\\ud800"
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert printable(f"ünïcode 東京 {family}\n") == f"ünïcode 東京 {family} "
