"""Content encodings: decoded once, in bounded pieces, whatever the bytes are."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable

import pytest
from every import every

from llmstream._transport.encoding import BadEncoding, Decoder, decoder_of

TEXT = b"".join(b"data: %d\n\n" % number for number in range(2000))


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]),
    "GZIP ": lambda data: gzip.compress(data) + b"what follows is ignored",
    "deflate": zlib.compress,
    "Deflate": bare_deflate,
    "identity, gzip": gzip.compress,
}


def decoded(decoder: Decoder, pieces: list[bytes], limit: int) -> bytes:
    found: list[bytes] = []
    for piece in pieces:
        decoder.feed(piece)
        while data := decoder.read(limit):
            assert len(data) <= limit
            found.append(data)
    return b"".join(found)


@every("encoding", ENCODINGS)
@every("limit", [1, 100, 65536])
def test_any_cut_gives_the_same(encoding: str, limit: int) -> None:
    """Whole, byte by byte, and in random pieces; the output is bounded."""
    body = ENCODINGS[encoding](TEXT)
    rng = random.Random(encoding)
    cuts = sorted(rng.sample(range(len(body)), 20))
    random_pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    for pieces in ([body], [bytes([byte]) for byte in body], random_pieces):
        decoder = decoder_of(encoding)
        assert decoder is not None
        assert decoded(decoder, pieces, limit) == TEXT


def test_a_bomb_is_decoded_piece_by_piece() -> None:
    """Each piece is bounded, so a caller may stop after any of them."""
    bomb = gzip.compress(bytes(50_000_000))
    decoder = decoder_of("gzip")
    assert decoder is not None
    decoder.feed(bomb)
    assert [len(decoder.read(65536)) for _ in range(10)] == [65536] * 10


@pytest.mark.parametrize("encoding", ["gzip, gzip", "gzip,br", "deflate, identity, gzip", "a,b"])
def test_an_encoding_inside_another_is_refused(encoding: str) -> None:
    with pytest.raises(BadEncoding):
        decoder_of(encoding)


@every("encoding", ["", "identity", "IDENTITY, ", "br", "zstd", "utf-8", ","])
def test_what_is_read_as_it_is(encoding: str) -> None:
    assert decoder_of(encoding) is None


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_other_bytes_are_an_error(encoding: str) -> None:
    """At once, or in the middle; the message has none of them."""
    packed = ENCODINGS[encoding](TEXT)
    for body in (TEXT, packed[:60] + b"secret" * 9 + packed[60:]):
        decoder = decoder_of(encoding)
        assert decoder is not None
        with pytest.raises(BadEncoding) as caught:
            decoded(decoder, [body], 1000)
        assert "secret" not in str(caught.value)


def test_what_is_cut_is_no_error_here() -> None:
    """Whether an answer is whole is for its events to say."""
    decoder = decoder_of("gzip")
    assert decoder is not None
    assert TEXT.startswith(decoded(decoder, [gzip.compress(TEXT)[:-30]], 65536))
