"""The fault matrix of tests/README.md: every fault, in every API, over a real connection.

`python tests/proofs/test_fault_matrix.py` writes the table there; the tests make sure that it is
what happens. No cell may be a hang, a success of a cut answer, or a foreign exception.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from every import every

import llmstream
from llmstream import Client, LLMStreamError, RetryPolicy, Timeouts
from llmstream.testing import Answer, Cut, LLMServer, Pause, Pings, Reply, Reset, Send, Silence

APIS = ("responses", "messages", "chat", "gemini")
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- fault matrix -->\n", "<!-- end of the fault matrix -->"
ANSWER = Answer("The sky is blue")
SHORT = 0.3  # seconds of the clock that is to break
TOTAL = 1.0  # seconds of the one that begins before the answer does
RETRY = RetryPolicy(max_attempts=3, base=0.01, cap=0.02)


class Fault(NamedTuple):
    """`reply` is what every request meets, in the words of an API; `clock` the one that is short;
    `tokens` how many words of the answer the reader is to have."""

    does: str
    reply: Callable[[str], Reply]
    error: str
    attempts: int
    tokens: int = 0
    clock: str = ""


def words(api: str, count: int) -> list[bytes]:
    """The answer's events up to the one of its word number `count`."""
    blocks = ANSWER.blocks(api)
    said = [i for i, b in enumerate(blocks) if any(f'"{d}"'.encode() in b for d in _deltas())]
    return blocks[: said[count - 1] + 1]


def _deltas() -> list[str]:
    return ANSWER.text_deltas


def before_the_head(*steps: Any) -> Callable[[str], Reply]:
    return lambda api: Reply(before=steps)


def after(count: int, *steps: Any) -> Callable[[str], Reply]:
    return lambda api: Reply([*words(api, count), *steps])


def at_once(count: int, *steps: Any) -> Callable[[str], Reply]:
    """The words in one write: between two a short clock could break."""
    return lambda api: Reply([b"".join(words(api, count)), *steps])


def at_first(*steps: Any) -> Callable[[str], Reply]:
    """After the events that announce the answer, before its first word."""
    return lambda api: Reply([*words(api, 1)[:-1], *steps])


def says(status: int, **fields: Any) -> Callable[[str], Reply]:
    return lambda api: Reply.error(status, api=api, **fields)


def body(data: bytes, **fields: Any) -> Callable[[str], Reply]:
    return lambda api: Reply(data, **fields)


def fails(count: int, **error: str) -> Callable[[str], Reply]:
    text = "".join(_deltas()[:count])
    return lambda api: Reply(Answer(text, error=error))


def ends(word: str) -> Callable[[str], Reply]:
    """The answer, with `word` for why it ended."""
    reasons = {"messages": b'"end_turn"', "chat": b'"stop"', "gemini": b'"STOP"'}
    incomplete = {"status": "incomplete", "incomplete_details": {"reason": word}, "output": []}
    event = {"type": "response.incomplete", "response": incomplete}

    def reply(api: str) -> Reply:
        blocks = ANSWER.blocks(api)
        if api in reasons:
            said = json.dumps(word).encode()
            return Reply([block.replace(reasons[api], said) for block in blocks])
        return Reply([*blocks[:-1], b"data: " + json.dumps(event).encode() + b"\n\n"])

    return reply


def garbled(api: str) -> Reply:
    return Reply([*words(api, 2), b'data: {"type": "respo\n\n', Silence()])


HTML = b"<html><body>Please log in</body></html>"
BAD_CHUNK = Send(b"this is no chunk\r\n", raw=True)

FAULTS = (
    Fault(
        "the connection is closed before the answer", before_the_head(Cut()), "ConnectionFailed", 3
    ),
    Fault("it is reset before the answer", before_the_head(Reset()), "ConnectionFailed", 3),
    Fault(
        "no answer to the request",
        before_the_head(Silence()),
        "FirstTokenTimeout",
        1,
        0,
        "first_token",
    ),
    Fault(
        "the answer is announced, then pings for ever",
        at_first(Pings(0.05)),
        "FirstTokenTimeout",
        1,
        0,
        "first_token",
    ),
    Fault(
        "the answer is announced, then silence",
        at_first(Silence()),
        "FirstTokenTimeout",
        1,
        0,
        "first_token",
    ),
    Fault("two words, then silence", at_once(2, Silence()), "SilenceTimeout", 1, 2, "silence"),
    Fault("two words, then pings for ever", at_once(2, Pings(0.05)), "IdleTimeout", 1, 2, "idle"),
    Fault(
        "a word now and then, past the deadline",
        at_once(2, Pause(0.2), *[Pings(0.05)]),
        "DeadlineExceeded",
        1,
        2,
        "total",
    ),
    Fault("cut before the first word", at_first(Cut()), "StreamInterrupted", 3),
    Fault("two words, then the connection is closed", after(2, Cut()), "StreamInterrupted", 1, 2),
    Fault("two words, then it is reset", after(2, Reset()), "StreamInterrupted", 1, 2),
    Fault("two words, then a clean end", after(2), "StreamTruncated", 1, 2),
    Fault(
        "two words, then half an event and a clean end",
        lambda api: Reply([*words(api, 2), words(api, 3)[-1][:-9]]),
        "StreamTruncated",
        1,
        2,
    ),
    *(
        Fault(f"the whole answer, which ends with {word!r}", ends(word), error, 1, 4)
        for word, error in (
            ("abort", "ServerError"),
            ("Network Error", "ServerError"),
            ("cancelled", "ServerError"),
            ("MALFORMED_FUNCTION_CALL", "ServerError"),
            ("insufficient_system_resource", "OverloadedError"),
        )
    ),
    Fault("a clean end before the first word", at_first(), "StreamTruncated", 3),
    Fault("two words, then a garbled event", garbled, "ProtocolError", 1, 2),
    Fault("two words, then what is no HTTP chunk", after(2, BAD_CHUNK), "ProtocolError", 1, 2),
    Fault(
        "two words, then an error of the service",
        fails(2, type="server_error", message="sorry"),
        "ServerError",
        1,
        2,
    ),
    Fault(
        "an overload inside the stream",
        fails(0, type="overloaded_error", message="busy"),
        "OverloadedError",
        3,
    ),
    Fault(
        "a mistake of the caller inside the stream",
        fails(0, type="invalid_request_error", message="no"),
        "InvalidRequestError",
        1,
    ),
    Fault("200 with a web page", body(HTML, content_type="text/html"), "NotAStreamError", 1),
    Fault(
        "200 with other JSON",
        body(b'{"hello": 1}', content_type="application/json"),
        "NotAStreamError",
        1,
    ),
    Fault(
        "200 with plain text",
        body(b"upstream connect error", content_type="text/plain"),
        "NotAStreamError",
        1,
    ),
    Fault(
        "200 with a binary event stream",
        body(b"\0\0\0\x9b\0\0\0K\xaa\xbb", content_type="application/vnd.amazon.eventstream"),
        "NotAStreamError",
        1,
    ),
    Fault(
        "200 in an encoding that nobody can decode",
        body(b"\x0b\x02\x80hello\x03", headers={"content-encoding": "br"}),
        "NotAStreamError",
        1,
    ),
    Fault("204", body(b"", status=204, framing="length"), "NotAStreamError", 1),
    Fault("400", says(400), "InvalidRequestError", 1),
    Fault("401", says(401), "AuthenticationError", 1),
    Fault("403", says(403), "PermissionDeniedError", 1),
    Fault("429", says(429), "RateLimitError", 3),
    Fault(
        "429 that asks for ten minutes",
        says(429, headers={"retry-after": "600"}),
        "RateLimitError",
        1,
    ),
    Fault(
        "429, the quota is used up",
        says(429, code="insufficient_quota", type="insufficient_quota"),
        "QuotaExceededError",
        1,
    ),
    Fault("500", says(500), "ServerError", 3),
    Fault(
        "502 with a web page", body(HTML, status=502, content_type="text/html"), "ServerError", 3
    ),
    Fault("503", says(503), "OverloadedError", 3),
    Fault("529", says(529), "OverloadedError", 3),
)


class Cell(NamedTuple):
    error: str
    attempts: int
    text: str


def play(fault: Fault, api: str) -> Cell:
    """What a caller gets from a service that always fails so."""
    with LLMServer() as server:
        server.default = fault.reply(api)
        return ask(api, server.base_url_for(api), fault.clock)


def ask(api: str, base_url: str, clock: str, **settings: Any) -> Cell:
    limits = {"first_token": 20.0, "idle": 20.0, "silence": 20.0, "total": 30.0}
    limits |= {clock: TOTAL if clock == "total" else SHORT} if clock else {}
    with Client(
        api,
        base_url=base_url,
        api_key="sk-test",
        model="m",
        timeouts=Timeouts(**limits),
        retry=RETRY,
        **settings,
    ) as client:
        stream = client.stream("Why is the sky blue?")
        try:
            text = stream.result().text
        except Exception as error:
            mine = isinstance(error, LLMStreamError)
            name = type(error).__name__ if mine else f"FOREIGN {type(error).__name__}"
            if mine and error.partial.text != stream.text:
                name = f"{name} WITHOUT ITS TEXT"
            return Cell(name, len(stream.attempts), stream.text)
        return Cell("success", len(stream.attempts), text)


def refused() -> Iterator[Cell]:
    """Nobody listens."""
    with socket.socket() as bound:  # so that nobody else listens there
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        for api in APIS:
            yield ask(api, f"http://127.0.0.1:{port}/v1", "")


# ---- proxies -------------------------------------------------------------------------------------


class ProxyFault(NamedTuple):
    """`scheme` is the proxy's; `answer` what it answers to a CONNECT or to a SOCKS greeting (None:
    nothing, for ever)."""

    does: str
    scheme: str
    answer: bytes | None
    error: str
    attempts: int
    clock: str = ""


PROXY_FAULTS = (
    *[
        ProxyFault(
            f"a proxy refuses the tunnel with {status}",
            "http",
            f"HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n".encode(),
            "ConnectionFailed",
            attempts,
        )
        for status, attempts in ((407, 1), (403, 1), (502, 3))
    ],
    # the method is agreed upon (5, 0), then the request is refused: 2 by a rule, 5 by the service
    ProxyFault(
        "a SOCKS proxy does not allow the host",
        "socks5h",
        b"\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00",
        "ConnectionFailed",
        1,
    ),
    ProxyFault(
        "a SOCKS proxy does not reach the host",
        "socks5h",
        b"\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00",
        "ConnectionFailed",
        3,
    ),
    ProxyFault("a proxy is silent", "http", None, "ConnectTimeout", 3, "connect"),
    ProxyFault("a SOCKS proxy is silent", "socks5h", None, "ConnectTimeout", 3, "connect"),
)


def play_proxy(fault: ProxyFault, api: str) -> Cell:
    """What a caller gets whose proxy always fails so."""

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError):  # the client may leave by a reset
                sock.settimeout(20.0)
                asked = sock.recv(65536)
                if fault.answer is not None:
                    sock.sendall(fault.answer)
                while asked and sock.recv(65536):  # until the client leaves
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, name="proxy")
        thread.start()
        address = f"{fault.scheme}://127.0.0.1:{listener.getsockname()[1]}"
        base_url = "https://llm.invalid/v1"
        try:
            return ask(api, base_url, fault.clock, proxies={"all": address})
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(20.0)


def expected_of_proxy(fault: ProxyFault) -> Cell:
    return Cell(fault.error, fault.attempts, "")


def expected(fault: Fault) -> Cell:
    return Cell(fault.error, fault.attempts, "".join(_deltas()[: fault.tokens]))


@every("api", APIS)
@every("fault", FAULTS, ids=[fault.does for fault in FAULTS])
def test_a_fault(fault: Fault, api: str) -> None:
    cell = play(fault, api)
    assert cell == expected(fault)
    assert issubclass(getattr(llmstream, cell.error), LLMStreamError)


def test_nobody_listens() -> None:
    assert list(refused()) == [Cell("ConnectionFailed", 3, "")] * len(APIS)


@pytest.mark.slow
@every("api", APIS)
@every("fault", PROXY_FAULTS, ids=[fault.does for fault in PROXY_FAULTS])
def test_a_fault_of_a_proxy(fault: ProxyFault, api: str) -> None:
    assert play_proxy(fault, api) == expected_of_proxy(fault)


def table(row: Callable[[Fault], list[Cell]], proxy_row: Callable[[ProxyFault], list[Cell]]) -> str:
    lines = [
        "| what the service does | responses | messages | chat | gemini |",
        "|---|---|---|---|---|",
    ]
    lines += [_line("nobody listens", list(refused()))]
    lines += [_line(fault.does, proxy_row(fault)) for fault in PROXY_FAULTS]
    lines += [_line(fault.does, row(fault)) for fault in FAULTS]
    return "\n".join(lines) + "\n"


def _line(does: str, cells: list[Cell]) -> str:
    shown = [_shown(cell) for cell in cells]
    return f"| {does} | " + " | ".join(shown) + " |"


def _shown(cell: Cell) -> str:
    text = f', "{cell.text}"' if cell.text else ""
    return f"`{cell.error}`, {cell.attempts}{text}"


def test_the_readme_has_this_table() -> None:
    """Run `python tests/proofs/test_fault_matrix.py` where this fails because a row is new."""
    written = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert written == table(
        lambda fault: [expected(fault)] * len(APIS),
        lambda fault: [expected_of_proxy(fault)] * len(APIS),
    )


def write() -> None:
    before, begin, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    assert begin, "README.md has no place for the table"
    matrix = table(
        lambda fault: [play(fault, api) for api in APIS],
        lambda fault: [play_proxy(fault, api) for api in APIS],
    )
    README.write_text(before + BEGIN + matrix + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    os.environ.pop("CI", None)
    sys.exit(write())
