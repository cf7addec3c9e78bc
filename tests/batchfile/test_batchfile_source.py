"""The lines of an input, from files and pipes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from support import eventually

from llmstream import ConfigurationError
from llmstream.batchfile import Source
from llmstream.batchfile import source as module


def lines_of(data: bytes, folder: Path) -> list[tuple[int, bytes]]:
    path = folder / "in.jsonl"
    path.write_bytes(data)
    source = Source.open(str(path))
    try:
        found = list(source.lines())
        assert list(source.lines()) == found  # a file can be read again
        return found
    finally:
        source.close()


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n\n \t\r\n", []),
        (b"a\nb\n", [(1, b"a"), (2, b"b")]),
        (b"a\nb", [(1, b"a"), (2, b"b")]),
        (b"a\r\n\r\nb\r\n", [(1, b"a"), (3, b"b")]),
        (b"\xef\xbb\xbfa\nb", [(1, b"a"), (2, b"b")]),
        (b"\xef\xbb\xbf", []),
        ("a\u2028b\nc\x85d".encode(), [(1, "a\u2028b".encode()), (2, "c\x85d".encode())]),
    ],
)
def test_lines_have_numbers(data: bytes, lines: list[tuple[int, bytes]], tmp_path: Path) -> None:
    """Blank ones are counted, and left out; only a newline ends one; a byte order mark is none."""
    assert lines_of(data, tmp_path) == lines


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_lines_do_not_depend_on_the_blocks(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line may begin and end anywhere in what a read returns."""
    data = b"\xef\xbb\xbfone\r\ntwo\n\nthree four\n\n\nfive"
    expected = lines_of(data, tmp_path)
    monkeypatch.setattr(module, "_BLOCK", block)
    assert lines_of(data, tmp_path) == expected
    assert [number for number, _ in expected] == [1, 2, 4, 7]


def test_a_line_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without newlines is not read into memory."""
    monkeypatch.setattr(module, "LONGEST_LINE", 2**20)
    assert lines_of(b"x" * 2**20, tmp_path)
    with pytest.raises(ConfigurationError, match=r"line 2 of .* is longer than 1 MiB"):
        lines_of(b"a\n" + b"x" * (2**20 + 1), tmp_path)


@pytest.mark.parametrize(("name", "words"), [("none", "No such file"), (".", "it is a folder")])
def test_a_file_that_cannot_be_read_is_one_sentence(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Source.open(str(tmp_path / name))


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX pipes")
def test_lines_of_a_pipe_come_as_they_are_written() -> None:
    """And the wait for them ends when the source is stopped."""
    reader, writer = os.pipe()
    source = Source(reader, "the pipe")
    found: list[tuple[int, bytes]] = []

    def each() -> None:
        for line in source.lines():
            found.append(line)

    thread = threading.Thread(target=each)
    thread.start()
    os.write(writer, b"one\ntw")
    eventually(lambda: found == [(1, b"one")], "the first line is there")
    os.write(writer, b"o\n")
    eventually(lambda: len(found) == 2, "the second line is there")
    source.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert found == [(1, b"one"), (2, b"two")]
    source.close()
    os.close(writer)
