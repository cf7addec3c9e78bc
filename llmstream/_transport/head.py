"""Writes the head of an HTTP/1.1 request and reads that of a response (RFC 9112, sections 3 to 5).

What is read has the meaning and the limits that it has in http.client, which gives each head to the
parser of the package email: about 80 us for 20 fields. A plain head takes a tenth of that here. A
head with anything unusual (folded lines, a line without a colon, a bare CR) is given to that parser
here too. `tests/transport/test_head.py` compares the two.
"""

from __future__ import annotations

import email.parser
import http.client
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, Protocol

__all__ = ["Head", "read_head", "request_head"]

_LONGEST_LINE = 65536  # bytes, as in http.client
_SHORT_LINE = 64  # bytes of a status line that is kept with its meaning
_MOST_LINES = 100  # of one head, the empty one at its end included; as in http.client
_MAX_INTERIM = 20  # interim (1xx) responses that are skipped before the final one

_PLAIN = re.compile(r"(?:[!-9;-~]+:[^\r\n]*\r?\n)*\r?\n")
_FIELD = re.compile(r"([!-9;-~]+):[ \t]*([^\r\n]*)\r?\n")


# A target, names, and values that do not begin with white space: what requests accepts.
_REQUEST = re.compile(r"[A-Z]+ [!-~]+ HTTP/1\.1\r\n(?:[^:\s][^:\r\n]*: (?:\S[^\r\n]*)?\r\n)*\r\n")


def request_head(method: str, target: str, fields: Mapping[str, str]) -> bytes:
    """The head of a request, the empty line included. Raises ValueError for a character that would
    break it, UnicodeEncodeError for one that is not of ISO-8859-1."""
    lines = map(": ".join, fields.items())
    text = "\r\n".join((f"{method} {target} HTTP/1.1", *lines, "\r\n"))
    if text.count("\n") != len(fields) + 2 or not _REQUEST.fullmatch(text):
        raise ValueError("a character that the head of a request cannot contain")
    return text.encode("iso-8859-1")


class Head(NamedTuple):
    """A head. `version` is 10 or 11. Names of fields are lower-case. `first` has the first value of
    each field, which is what http.client goes by; in `joined` the values of a field that is there
    several times are joined by a comma (RFC 9110, section 5.3)."""

    version: int
    status: int
    reason: str
    first: dict[str, str]
    joined: dict[str, str]


class Source(Protocol):
    """What a head is read from: a BufferedReader that knows what it has."""

    def readline(self, size: int, /) -> bytes:
        """The next line, at most `size` bytes, or b"" at the end of the file."""

    def read(self, size: int, /) -> bytes:
        """`size` bytes."""

    def buffered(self) -> bytes:
        """The bytes that can be read without waiting."""


def read_head(source: Source) -> Head:
    """The head of the final response. The end of the file ends a head, too.

    Interim responses (1xx) are skipped, but for 101, which no request here asks for (RFC 9110,
    section 15.2). Raises the exceptions of http.client."""
    for _ in range(_MAX_INTERIM + 1):
        protocol, status, reason = _status(source.readline(_LONGEST_LINE + 1))
        if not 100 <= status < 200 or status == 101:
            version = _version(protocol)
            first, joined = _fields(_block(source).decode("iso-8859-1"))
            return Head(version, status, reason, first, joined)
        _block(source)
    raise http.client.HTTPException("too many interim responses")


def _status(data: bytes) -> tuple[str, int, str]:
    return _parse_status(data) if len(data) > _SHORT_LINE else _known_status(data)


def _parse_status(data: bytes) -> tuple[str, int, str]:
    line = data.decode("iso-8859-1")
    if len(line) > _LONGEST_LINE:
        raise http.client.LineTooLong("status line")
    if not line:
        raise http.client.RemoteDisconnected("Remote end closed connection without response")
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith("HTTP/"):
        raise http.client.BadStatusLine(line)
    try:
        status = int(words[1])
    except ValueError:
        raise http.client.BadStatusLine(line) from None
    if not 100 <= status <= 999:
        raise http.client.BadStatusLine(line)
    return words[0], status, words[2].strip() if len(words) > 2 else ""


_known_status = lru_cache(maxsize=64)(_parse_status)  # almost all are "HTTP/1.1 200 OK"


def _version(protocol: str) -> int:
    if protocol in ("HTTP/1.0", "HTTP/0.9"):
        return 10
    if protocol.startswith("HTTP/1."):
        return 11
    raise http.client.UnknownProtocol(protocol)


def _block(source: Source) -> bytes:
    """The fields, the empty line that ends them included."""
    data = source.buffered()
    end = data.find(b"\n\r\n") + 3  # of a head that arrived in one piece, as most do
    if 3 <= end <= _LONGEST_LINE and data[:1] not in (b"\r", b"\n"):
        block = data[:end]
        if b"\n\n" not in block and block.count(b"\n") <= _MOST_LINES:
            return source.read(end)
    lines: list[bytes] = []
    while True:
        line = source.readline(_LONGEST_LINE + 1)
        if len(line) > _LONGEST_LINE:
            raise http.client.LineTooLong("header line")
        lines.append(line)
        if len(lines) > _MOST_LINES:
            raise http.client.HTTPException(f"got more than {_MOST_LINES} headers")
        if line in (b"\r\n", b"\n", b""):
            return b"".join(lines)


def _fields(text: str) -> tuple[dict[str, str], dict[str, str]]:
    if _PLAIN.fullmatch(text):
        pairs = _FIELD.findall(text)
    else:
        parsed = email.parser.Parser(_class=http.client.HTTPMessage).parsestr(text)
        pairs = [(name, str(value)) for name, value in parsed.items()]
    if not pairs:
        return {}, {}
    names, values = zip(*pairs, strict=True)
    pairs = list(zip(map(str.lower, names), values, strict=True))
    first = dict(reversed(pairs))
    if len(first) == len(pairs):
        return first, first
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return first, joined
