"""Thousands of seeded mutations of HTTP responses and event streams, over real sockets, for the
three APIs: each call ends in time, with an error of the library's own or a true answer, and leaves
nothing behind.

What the mutations do is of two kinds. Those around the events (heads, sizes, encodings, floods,
cuts) may shorten the answer, and nothing else. Those of the events' own bytes may change a piece of
the text, as any middleman could; then every piece that is delivered has to be one that was sent.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import re
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable

import pytest
from support import RawServer

from llmstream import Client, LLMStreamError, RetryPolicy, Timeouts
from llmstream._core.dialects import APIS as ROWS
from llmstream.testing import Answer

pytestmark = pytest.mark.attack

APIS = ("responses", "messages", "chat", "gemini")
CALLS = 900  # for each API
READERS = 4  # threads
TOTAL, MARGIN = 0.5, 10.0  # seconds; the margin is for a busy machine
FLOOD = 150_000  # bytes
HOLDS = 0.01  # the share of responses after which the server goes silent, and waits

Pieces = list[bytes]


class Case:
    """One response. `exact`: its text may be cut, and nothing else may happen to it."""

    def __init__(self, api: str, seed: int) -> None:
        rng = self.rng = random.Random(f"{api} {seed}")
        self.api, self.seed = api, seed
        self.text = "".join(f"{seed}w{number} " for number in range(rng.randint(1, 8)))
        self.exact = True
        self.encoding = ""
        self.blocks: Pieces = list(Answer(self.text).blocks(api))
        self.framing = rng.choice(["chunked", "length", "close"])
        names = rng.sample(sorted(MUTATIONS), rng.choice([1, 1, 2]))
        self.names = sorted(names, key=lambda name: MUTATIONS[name][0])
        self.wire = b""
        self._apply(0)
        body = self.body = b"".join(self.blocks)
        if self.encoding:
            packed = {"gzip": gzip.compress, "deflate": zlib.compress}[self.encoding](body)
            self.blocks = [packed[at : at + 40] for at in range(0, len(packed), 40)]
        self.head = [b"HTTP/1.1 200 OK", b"Content-Type: text/event-stream"]
        if self.encoding:
            self.head.append(b"Content-Encoding: " + self.encoding.encode())
        self.frames = self._framed()
        self._apply(1)
        self.wire = b"\r\n".join(self.head) + b"\r\n\r\n" + b"".join(self.frames)
        self._apply(2)
        self.holds = rng.random() < HOLDS
        self.resets = not self.holds and rng.random() < 0.1
        self.keeps = not self.holds and not self.resets and self.framing != "close"
        self.keeps = self.keeps and rng.random() < 0.2

    def _apply(self, stage: int) -> None:
        for name in self.names:
            when, mutate = MUTATIONS[name]
            if when == stage:
                mutate(self)

    def _framed(self) -> Pieces:
        if self.framing == "chunked":
            self.head.append(b"Transfer-Encoding: chunked")
            return [*(b"%x\r\n%b\r\n" % (len(b), b) for b in self.blocks if b), b"0\r\n\r\n"]
        if self.framing == "length":
            self.head.append(b"Content-Length: %d" % sum(map(len, self.blocks)))
        return list(self.blocks)


# ---- around the events -------------------------------------------------------------------------


def flood(*pieces: bytes) -> Callable[[Case], None]:
    def mutate(case: Case) -> None:
        piece = case.rng.choice(pieces)
        at = case.rng.randint(0, len(case.blocks))
        case.blocks.insert(at, piece * case.rng.choice([1, 50, FLOOD // len(piece)]))

    return mutate


def encode(case: Case) -> None:
    case.encoding = case.rng.choice(["gzip", "deflate"])


def nested(case: Case) -> None:
    names = [b"gzip, gzip", b"deflate,gzip", b"br", b"zstd", b"gzip", b"x", b"identity, gzip"]
    case.head.append(b"Content-Encoding: " + case.rng.choice(names))


def wrong_length(case: Case) -> None:
    size = case.rng.choice([0, 1, 10, 10_000, 10**30, -5])
    case.head.append(b"Content-Length: %d" % size)


def wrong_size(case: Case) -> None:
    at = case.rng.randrange(len(case.frames))
    head, mark, rest = case.frames[at].partition(b"\r\n")
    with contextlib.suppress(ValueError):
        size = int(head, 16) + case.rng.choice([-7, -2, -1, 1, 2, 3, 16, 256, 10**9])
        written = case.rng.choice(
            [b"%x" % size if size >= 0 else b"-%x" % -size, b"+%x" % abs(size)]
        )
        case.frames[at] = written + mark + rest


def odd_size(case: Case) -> None:
    if case.framing != "chunked":
        return
    at = case.rng.randrange(len(case.frames))
    odd = [b"", b"0x10", b"1_0", b"zz", b" 5", b"5;" + b"x" * 70_000, b"f" * 40, b"\x00", b"0"]
    case.frames[at] = case.rng.choice(odd) + b"\r\n" + case.frames[at].partition(b"\r\n")[2]


def tiny_chunks(case: Case) -> None:
    if case.framing == "chunked":
        extension = case.rng.choice([b"", b";a=b", b";" + b"x" * 200])
        body = b"".join(case.blocks)
        case.frames = [b"1%b\r\n%c\r\n" % (extension, byte) for byte in body] + [b"0\r\n\r\n"]


def trailers(case: Case) -> None:
    if case.framing == "chunked":
        case.frames[-1] = b"0\r\n" + b"x: y\r\n" * case.rng.choice([1, 200, 50_000]) + b"\r\n"


def surplus(case: Case) -> None:
    extra = [b"JUNK", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"data: x\n\n"]
    case.frames.append(case.rng.choice(extra))


def interim(case: Case) -> None:
    lines = [b"100 Continue", b"102 Processing", b"103 Early Hints\r\nlink: x", b"101 Switch"]
    one = b"HTTP/1.1 " + case.rng.choice(lines) + b"\r\n\r\n"
    case.wire = one * case.rng.choice([1, 3, 20, 30, 3000]) + case.wire


def truncate(case: Case) -> None:
    case.wire = case.wire[: case.rng.randrange(len(case.wire) + 1)]


def status(case: Case) -> None:
    codes = [
        b"204 No Content",
        b"206 Partial",
        b"301 Moved",
        b"404 Not Found",
        b"500 Oops",
        b"999 x",
    ]
    case.head[0] = b"HTTP/1.1 " + case.rng.choice(codes)


def long_head(case: Case) -> None:
    count, size = case.rng.choice([(1, 70_000), (90, 5000), (200, 10), (99, 10)])
    case.head += [b"X-%d: %b" % (number, b"y" * size) for number in range(count)]


def head_bytes(case: Case) -> None:
    end = case.wire.index(b"\r\n\r\n") if b"\r\n\r\n" in case.wire else len(case.wire)
    case.wire = mutated(case.rng, case.wire[:end]) + case.wire[end:]


# ---- of the events' own bytes ------------------------------------------------------------------


def mutated(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 5])):
        a, b = sorted(rng.randint(0, len(data)) for _ in range(2))
        b = min(b, a + rng.choice([1, 3, 30, 300]))
        kind = rng.choice(["insert", "delete", "swap", "repeat", "flip"])
        if kind == "insert":
            words = [
                b"\n",
                b"\r",
                b"\n\n",
                b"\x00",
                b'"',
                b"}",
                b"\xff\xfe",
                b"data: ",
                b"null",
                b"9",
            ]
            data = data[:a] + rng.choice(words) * rng.choice([1, 2, 9]) + data[a:]
        elif kind == "delete":
            data = data[:a] + data[b:]
        elif kind == "swap":
            c = min(len(data), b + b - a)
            data = data[:a] + data[b:c] + data[a:b] + data[c:]
        elif kind == "repeat":
            data = data[:b] + data[a:b] * rng.choice([1, 3]) + data[b:]
        elif a < len(data):
            data = data[:a] + bytes([data[a] ^ 1 << rng.randrange(8)]) + data[a + 1 :]
    return data


def event_bytes(case: Case) -> None:
    case.exact = False
    at = case.rng.randrange(len(case.blocks))
    case.blocks[at] = mutated(case.rng, case.blocks[at])


def wire_bytes(case: Case) -> None:
    case.exact = False
    case.wire = mutated(case.rng, case.wire)


def order(case: Case) -> None:
    case.exact = False
    a, b = (case.rng.randrange(len(case.blocks)) for _ in range(2))
    kind = case.rng.choice(["swap", "repeat", "delete"])
    if kind == "swap":
        case.blocks[a], case.blocks[b] = case.blocks[b], case.blocks[a]
    elif kind == "repeat":
        case.blocks[a:a] = [case.blocks[b]] * case.rng.choice([1, 2, 300])
    else:
        del case.blocks[a]
    case.blocks = case.blocks or [b"\n"]


# name -> (when: 0 on the events, 1 on head and frames, 2 on the wire; what)
MUTATIONS: dict[str, tuple[int, Callable[[Case], None]]] = {
    "comments": (0, flood(b": ping\n\n", b":\n", b"\n", b"\r\n", b"\r", b": x\r\n\r\n")),
    "pings": (0, flood(b'event: ping\ndata: {"type": "ping"}\n\n', b"data:\n\n", b"retry: 1\n")),
    "unknown events": (0, flood(b'data: {"type": "new", "x": 1}\n\n', b"event: x\ndata: {}\n\n")),
    "encoded": (0, encode),
    "encoding": (1, nested),
    "length": (1, wrong_length),
    "chunk size": (1, wrong_size),
    "odd chunk size": (1, odd_size),
    "tiny chunks": (1, tiny_chunks),
    "trailers": (1, trailers),
    "surplus": (1, surplus),
    "status": (1, status),
    "long head": (1, long_head),
    "interim": (2, interim),
    "truncated": (2, truncate),
    "head bytes": (2, head_bytes),
    "event bytes": (0, event_bytes),
    "order": (0, order),
    "wire bytes": (2, wire_bytes),
}


# ---- the server and the readers ----------------------------------------------------------------

_PROMPT = re.compile(rb"case (\d+)\.")


class Server:
    """Answers `case N.` with the response of that case."""

    def __init__(self, api: str) -> None:
        self.api = api
        self.released = threading.Event()
        self.raw = RawServer(self._serve)

    def _serve(self, sock: socket.socket) -> None:
        while True:
            request = _whole_request(sock)
            found = _PROMPT.search(request)
            assert found is not None
            case = Case(self.api, int(found[1]))
            sock.sendall(case.wire)
            if case.holds:
                self.released.wait(TOTAL + MARGIN)
            if case.resets:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if not case.keeps:
                return


def _whole_request(sock: socket.socket) -> bytes:
    data = b""
    while not _PROMPT.search(data) or not data.endswith(b"}"):
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionError("the client left")
        data += piece
    return data


def sent_strings(wire: bytes) -> str:
    """All that a lenient reader could take for text: the strings of all JSON in it, joined."""
    return "\0".join(
        [wire.decode("utf-8", "replace")]
        + [
            json.loads(found.group().decode("utf-8", "replace"), strict=False)
            for found in re.finditer(rb'"(?:[^"\\]|\\["\\/bfnrt])*"', wire)
        ]
    )


def check(case: Case, pieces: list[str], error: BaseException | None, seconds: float) -> str:
    """Raises AssertionError; returns how the call ended."""
    where = f"{case.api} {case.seed}: {case.names}"
    text = "".join(pieces)
    assert seconds < TOTAL + MARGIN, f"{where}: {seconds:.1f} s"
    assert error is None or isinstance(error, LLMStreamError), f"{where}: {error!r}"
    if case.exact:
        assert case.text.startswith(text), (
            f"{where}: {text!r} is not the beginning of {case.text!r}"
        )
        assert error is not None or text == case.text, f"{where}: {text!r} is a success"
    elif not case.encoding and {"tiny chunks", "wire bytes"} - set(case.names):
        sent = sent_strings(case.body) + sent_strings(case.wire)
        assert all(piece in sent for piece in pieces), f"{where}: {text!r} was not sent"
    return type(error).__name__ if error is not None else "success"


def attack(client: Client, api: str, seeds: range, ends: Counter[str], wrong: list[str]) -> None:
    for seed in seeds:
        case = Case(api, seed)
        pieces: list[str] = []
        error: BaseException | None = None
        begun = time.monotonic()
        try:
            for piece in client.stream(f"case {seed}."):
                pieces.append(piece)
        except BaseException as exc:
            error = exc
        try:
            ends[check(case, pieces, error, time.monotonic() - begun)] += 1
        except AssertionError as exc:
            wrong.append(str(exc).partition("\n")[0])


@pytest.mark.parametrize("api", APIS)
def test_mutated_bytes(api: str, nothing_left: None, capsys: pytest.CaptureFixture[str]) -> None:
    """In time, of our tree, true, and nothing left."""
    server = Server(api)
    base = server.raw.url + ROWS[api].base_path
    clocks = Timeouts(connect=TOTAL, first_token=TOTAL, idle=TOTAL, silence=TOTAL, total=TOTAL)
    retry = RetryPolicy(max_attempts=1)
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    begun = time.monotonic()
    with Client(
        api, base_url=base, api_key="k", model="m", retry=retry, timeouts=clocks, trust_env=False
    ) as client:
        share = CALLS // READERS
        readers = [
            threading.Thread(
                target=attack,
                args=(client, api, range(n * share, (n + 1) * share), ends, wrong),
                name="attacker",
            )
            for n in range(READERS)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    took = time.monotonic() - begun
    server.released.set()
    server.raw.close()
    with capsys.disabled():
        print(f"\n{api}: {sum(ends.values())} mutated responses in {took:.1f} s: {dict(ends)}")
    assert not wrong, "\n".join(wrong[:20])
    assert not server.raw.errors
    assert ends["success"] > CALLS / 10  # otherwise the mutations are too wild to prove anything
