"""The example of a summary: its parts, its progress, and what stands on the terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from every import every

from llmstream import BatchError, Client
from llmstream.examples.summary import View, main, parts_of, summarize
from llmstream.testing import Answer, LLMServer, Reply
from llmstream.testing.script import Recorded

TEXT = "\n\n".join(f"Paragraph {n}. " + "The tower is high. " * 20 for n in range(12))
WORDS = "The tower of the minster in Ulm is high, and 768 steps lead up to its gallery. " * 3


class Terminal(io.StringIO):
    """A terminal as far as the example uses one: rows, the cursor, and what erases them."""

    def __init__(self, is_terminal: bool = True) -> None:
        super().__init__()
        self.is_terminal = is_terminal
        self.rows = [""]
        self.row = self.column = 0
        self.seen: list[list[str]] = []  # the rows after each write

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, text: str) -> int:
        for piece in re.findall(r"\x1b\[\d*[AJ]|\r|\n|[^\x1b\r\n]+", text):
            if piece == "\n":
                self.row, self.column = self.row + 1, 0
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif piece == "\r":
                self.column = 0
            elif piece.endswith("A") and piece[0] == "\x1b":
                self.row = max(self.row - int(piece[2:-1]), 0)
            elif piece == "\x1b[J":
                self.rows[self.row] = self.rows[self.row][: self.column]
                del self.rows[self.row + 1 :]
            else:
                row = self.rows[self.row]
                self.rows[self.row] = row[: self.column] + piece + row[self.column + len(piece) :]
                self.column += len(piece)
        self.seen.append(list(self.rows))
        return len(text)


@pytest.fixture
def client(client_for: Callable[..., Client], server: LLMServer) -> Client:
    return client_for(server)


def says(server: LLMServer) -> None:
    def answer(request: Recorded) -> Answer:
        return Answer(WORDS)

    server.script(*[answer] * 60)


@every("size", [500, 700, 5000])
def test_parts_have_all_of_the_text(size: int) -> None:
    parts = list(parts_of(TEXT, size))
    assert "".join("".join(parts).split()) == "".join(TEXT.split())
    assert all(len(part) <= size for part in parts)
    assert list(parts_of("x" * 1200, 500)) == ["x" * 500, "x" * 500, "x" * 200]
    assert list(parts_of(" \n", 500)) == []


def test_the_summary_of_summaries(client: Client, server: LLMServer) -> None:
    """Each part is sent once, then what was made of them, until one is left."""
    says(server)
    out = io.StringIO()
    summary = summarize(client, TEXT, View(out, io.StringIO()), words=40, size=1000)
    assert summary == WORDS == out.getvalue()  # in a file it is as the model wrote it
    asked = "".join(request.body.decode() for request in server.requests)
    assert all(f"Paragraph {n}." in asked for n in range(12))
    assert len(server.requests) > 8


def test_the_terminal_has_the_text_once_and_no_bar(client: Client, server: LLMServer) -> None:
    """While it runs the bar is the last row, and it grows."""
    says(server)
    terminal = Terminal()
    summarize(client, TEXT, View(terminal, terminal), words=40, size=1000)
    assert " ".join("\n".join(terminal.rows).split()) == WORDS.strip()
    bars = [row for rows in terminal.seen for row in rows if row.startswith("[")]
    assert all(sum(row.startswith("[") for row in rows) <= 1 for rows in terminal.seen)
    parts = [row for row in bars if "parts, side by side" in row]
    done = [int(re.search(r"(\d+)%", row)[1]) for row in parts]  # type: ignore[index]
    assert max(done) > 50
    assert any("characters," in row for row in bars)
    assert all(len(row) < 80 for row in bars)


def test_a_file_has_no_bar_and_the_terminal_beside_it_has(
    client: Client, server: LLMServer
) -> None:
    says(server)
    out, err = Terminal(is_terminal=False), Terminal()
    summarize(client, TEXT, View(out, err), words=40, size=1000)
    assert out.rows == [WORDS]
    assert any(row.startswith("[") for rows in err.seen for row in rows)
    assert err.rows == [""]


def test_control_characters_of_a_model_stay_text(client: Client, server: LLMServer) -> None:
    server.script(Answer("Evil \x1b[2J text"))
    terminal = Terminal()
    summarize(client, "Short.", View(terminal, terminal))
    assert terminal.rows[0] == "Evil \\x1b[2J text"


def test_a_part_that_fails_fails_the_summary(client: Client, server: LLMServer) -> None:
    server.script(Reply.error(400), *[Answer(WORDS)] * 20)
    with pytest.raises(BatchError):
        summarize(client, TEXT, View(io.StringIO(), io.StringIO()), size=1000, workers=1)


@every("finish", ["content_filter"])
def test_a_part_that_is_refused_fails_it_too(
    client: Client, server: LLMServer, finish: str
) -> None:
    server.script(*[Answer("I cannot", finish=finish)] * 20)
    with pytest.raises(ValueError, match="not summarised"):
        summarize(client, TEXT, View(io.StringIO(), io.StringIO()), size=1000)


def test_a_model_that_does_not_shorten_ends_it(client: Client, server: LLMServer) -> None:
    server.script(*[Answer("word " * 400)] * 20)
    with pytest.raises(ValueError, match="not shorter"):
        summarize(client, TEXT, View(io.StringIO(), io.StringIO()), size=1000)


@pytest.mark.parametrize("api", ["responses", "messages", "chat", "gemini"])
def test_the_program(
    api: str, server: LLMServer, monkeypatch: Any, capsys: Any, tmp_path: Path
) -> None:
    says(server)
    file = tmp_path / "text.txt"
    file.write_text(TEXT, "utf-8")
    service = ["--api", api, "--base-url", server.base_url_for(api), "--model", "test-model"]
    for name in ("LLMSTREAM_API", "LLMSTREAM_BASE_URL", "LLMSTREAM_MODEL", "LLMSTREAM_API_KEY"):
        monkeypatch.setenv(name, "")  # the program sets them
    assert main([str(file), "--words", "40", "--size", "1000", *service]) == 0
    assert capsys.readouterr() == (WORDS + "\n", "")
    assert main([str(tmp_path / "none.txt"), *service]) == 1
    with pytest.raises(SystemExit):
        main([str(file), "--words", "0", *service])


def test_an_error_is_a_line(server: LLMServer, monkeypatch: Any, capsys: Any) -> None:
    server.script(Reply.error(401))
    for name in ("LLMSTREAM_API", "LLMSTREAM_BASE_URL", "LLMSTREAM_MODEL", "LLMSTREAM_API_KEY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("sys.stdin", io.StringIO("A text."))
    assert main(["-", "--api", "chat", "--base-url", server.base_url, "--model", "m"]) == 1
    assert capsys.readouterr().err.startswith("AuthenticationError: ")
