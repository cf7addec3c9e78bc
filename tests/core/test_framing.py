"""Framing against the algorithm of the standard, written down naively, at every split point."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from corpus import PROPERTY, bytewise, random_pieces
from every import every
from hypothesis import given
from hypothesis import strategies as st

from llmstream._core.framing import Framer, split_blocks

NO_LIMIT = 1 << 30


def reference(data: bytes) -> tuple[list[bytes], bytes]:
    """WHATWG HTML 9.2.6, step by step: the blocks, and what is pending at the end.

    "If the first bytes are a BOM, ignore it"; "lines are ended by CR LF, LF or CR"; "if the line
    is empty, dispatch". No regard for speed. What is pending is the bytes of the lines since the
    last empty line, each with a newline, plus the unfinished line.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    blocks: list[bytes] = []
    lines: list[bytes] = []
    line = bytearray()
    at = 0
    while at < len(data):
        byte = data[at : at + 1]
        at += 1
        if byte not in (b"\r", b"\n"):
            line += byte
            continue
        if byte == b"\r" and data[at : at + 1] == b"\n":
            at += 1
        if line:
            lines.append(bytes(line))
        elif lines:
            blocks.append(b"\n".join(lines))
            lines = []
        line = bytearray()
    return blocks, b"".join(each + b"\n" for each in lines) + bytes(line)


def framed(pieces: Iterable[bytes], limit: int = NO_LIMIT) -> tuple[list[bytes], int]:
    framer = Framer(limit)
    blocks = [block for piece in pieces for block in split_blocks(framer.feed(piece))]
    return blocks, framer.pending


def splits(data: bytes) -> Iterator[list[bytes]]:
    """In one piece, at every single point, at every pair of points, byte by byte."""
    yield [data]
    yield list(bytewise(data))
    for first in range(1, len(data)):
        yield [data[:first], data[first:]]
    for first, second in itertools.combinations(range(1, len(data)), 2):
        yield [data[:first], data[first:second], data[second:]]


def as_pending(left: int, pending: bytes) -> bool:
    """A newline in front of a block, of an odd number of them, may be counted with it."""
    return left in (len(pending), len(pending) + 1)


CASES = {
    "one": b"data: a\n\n",
    "two": b"data: a\n\ndata: b\n\n",
    "pending": b"data: a\n\ndata: b",
    "pending line": b"data: a\n\ndata: b\n",
    "crlf": b"data: a\r\n\r\ndata: b\r\n\r\n",
    "cr": b"data: a\r\rdata: b\r\r",
    "cr and lf": b"data: a\r\n\rdata: b\n\r\ndata: c\r\r\ndata: d\n\n\r",
    "lf crlf": b"data: a\n\r\ndata: b\n\n",
    "cr lf lf": b"data: a\r\n\ndata: b\r\r",
    "bom": b"\xef\xbb\xbfdata: a\n\n",
    "bom crlf": b"\xef\xbb\xbf\r\n\r\ndata: a\r\n\r\n",
    "bom twice": b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n",
    "bom later": b"data: a\n\n\xef\xbb\xbfdata: b\n\n",
    "half a bom": b"\xef\xbbdata: a\n\n",
    "only a bom": b"\xef\xbb\xbf",
    "only half a bom": b"\xef\xbb",
    "nothing": b"",
    "leading blank lines": b"\n\n\n\ndata: a\n\n",
    "odd blank lines": b"data: a\n\n\ndata: b\n\n\n\n\ndata: c\n\n",
    "only blank lines": b"\n\r\n\r\r\n\n",
    "several lines": b"event: x\r\ndata: a\rdata: b\nid: 1\n\n",
    "unicode separators": "data: a\u2028b\u2029c\x85d\x0b\x0c\x1c\n\n".encode(),
    "nul": b"data: a\0b\n\nid: \0\n\n",
    "invalid utf-8": b"data: \xff\xfe\xc3\n\n\x80\n\n",
    "cr at the end": b"data: a\n\ndata: b\r",
    "crlf at the end": b"data: a\r\n\r\ndata: b\r\n",
    "colons": b":\n\n: ping\n\n:ping\ndata\n\n",
}


@every("case", CASES)
def test_every_split_gives_the_same(case: str) -> None:
    """However a stream is cut, in up to three pieces or in bytes, the blocks are the standard's."""
    data = CASES[case]
    blocks, pending = reference(data)
    for pieces in splits(data):
        found, left = framed(pieces)
        assert found == blocks, pieces
        assert as_pending(left, pending), pieces


ALPHABET = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xef", b"a", b":", b" ", b"data: x", b"\0", b"\xff"]
)


@pytest.mark.slow
@PROPERTY
@given(st.lists(st.lists(ALPHABET, min_size=1, max_size=8).map(b"".join), max_size=8))
def test_random_streams_are_framed_as_the_standard_says(pieces: list[bytes]) -> None:
    """Any stream in any pieces gives the blocks of the standard's algorithm."""
    blocks, pending = reference(b"".join(pieces))
    found, left = framed(pieces)
    assert found == blocks
    assert as_pending(left, pending)


@PROPERTY
@given(st.lists(st.binary(min_size=1, max_size=30), max_size=6))
def test_random_bytes_are_framed_as_the_standard_says(pieces: list[bytes]) -> None:
    """The same for bytes of no form at all."""
    assert framed(pieces)[0] == reference(b"".join(pieces))[0]


@pytest.mark.slow
def test_every_short_stream() -> None:
    """All streams of up to seven symbols of CR, LF, BOM, a letter: whole and byte by byte."""
    symbols = [b"\r", b"\n", b"a", b"\xef\xbb\xbf"]
    for length in range(8):
        for chosen in itertools.product(symbols, repeat=length):
            data = b"".join(chosen)
            blocks, _ = reference(data)
            assert framed([data])[0] == blocks
            assert framed(chosen)[0] == blocks
            assert framed(bytewise(data))[0] == blocks


@pytest.mark.parametrize("case", ["several lines", "crlf", "cr", "bom", "odd blank lines"])
def test_an_empty_piece_changes_nothing(case: str) -> None:
    """Empty pieces between all bytes: the same blocks (a CR may wait for its LF across one)."""
    data = CASES[case]
    pieces = [piece for byte in bytewise(data) for piece in (b"", byte, b"")]
    assert framed(pieces)[0] == reference(data)[0]


# --- linear -------------------------------------------------------------------------------------


def copies(pieces: list[bytes]) -> int:
    """How many bytes were copied into what is held, and out of it, while the pieces were fed.

    Counts, not clocks: a piece that were copied again with every piece behind it would be counted
    as often as there are pieces.
    """
    total = 0

    class Spy(bytearray):
        def __iadd__(self, piece: Any) -> Any:
            nonlocal total
            total += len(piece)
            return super().__iadd__(piece)

        def __bytes__(self) -> bytes:
            nonlocal total
            total += len(self)
            return bytes(memoryview(self))

    framer = Framer(NO_LIMIT)
    framer._held = Spy()
    for piece in pieces:
        framer.feed(piece)
    return total


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_large_event_is_copied_once(size: int) -> None:
    """An event in n pieces is joined once, not n times: twice the bytes cost twice the copies."""
    for total in (20_000, 40_000):
        data = b"data: " + b"x" * total + b"\n\n"
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert copies(pieces) <= 3 * len(data)


@pytest.mark.parametrize("seed", range(5))
def test_many_events_are_copied_at_most_twice(seed: int) -> None:
    """In random pieces each byte is copied a bounded number of times."""
    data = b"".join(b"data: %d\n\n" % number for number in range(4000))
    assert copies(list(random_pieces(seed)(data))) <= 3 * len(data)


@pytest.mark.slow
def test_an_event_byte_by_byte_takes_no_more_memory() -> None:
    """A list of its bytes would take eight times its size, one of pairs twenty times."""
    framer = Framer(NO_LIMIT)
    tracemalloc.start()
    try:
        for _ in range(200_000):
            framer.feed(b"ab")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * 400_000


def test_what_is_held_is_the_pending_block_alone() -> None:
    """Blocks that are complete are let go: a long stream holds no more than its last block."""
    framer = Framer(NO_LIMIT)
    for number in range(2000):
        framer.feed(b"data: %d\n" % number)
        framer.feed(b"\ndata: half")
        assert len(framer._held) <= 40
        assert framer.pending == len(b"data: half")
        framer.feed(b"\n\n")


# --- the cap ------------------------------------------------------------------------------------


@every("size", [1, 3, 64, 1000])
@every("unit", [b"x", b"data: x\n", b": ping\n", b"data: x\r\n"])
def test_a_block_without_end_is_refused(unit: bytes, size: int) -> None:
    """A line, or a block of lines, that never ends is refused before it holds more than the cap
    and one piece."""
    limit = 5000
    framer = Framer(limit)
    endless = unit * (3 * limit // len(unit))
    fed = 0

    def feed_on() -> None:
        nonlocal fed
        for at in range(0, len(endless), size):
            framer.feed(endless[at : at + size])
            fed = at + size
            assert framer.pending <= limit + 1  # and the newline that ends a line
            assert len(framer._held) <= limit + 1
            if framer.overflow:
                return

    feed_on()
    assert framer.overflow
    assert framer.feed(b"data: x\n\n") == b""
    assert fed <= limit * len(unit) // len(unit.replace(b"\r", b"")) + 2 * size


def test_the_cap_is_for_one_block() -> None:
    """Many blocks may be larger than the cap together."""
    framer = Framer(100)
    for _ in range(100):
        block = b"data: " + b"x" * 60 + b"\n\n"
        assert framer.feed(block) == block


def test_at_the_cap_exactly() -> None:
    """A block of exactly the cap passes byte by byte, one byte more does not."""
    block = b"data: " + b"x" * 94
    assert framed(bytewise(block + b"\n\n"), limit=len(block) + 1)[0] == [block]
    for limit, fits in ((len(block), True), (len(block) - 1, False)):
        for pieces in ([block + b"\n\n"], bytewise(block + b"\n\n")):
            framer = Framer(limit)
            found = [b for piece in pieces for b in split_blocks(framer.feed(piece))]
            assert (found == [block], framer.overflow) == (fits, not fits)
