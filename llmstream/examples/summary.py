"""A long text is summarised, and the terminal shows how far it is.

    python -m llmstream.examples.summary report.txt
    git log -200 | python -m llmstream.examples.summary - --words 80 > summary.txt

The text is cut into parts, which are summarised side by side; the summaries of the parts are joined
and summarised again, until one is left. Its text is shown as it arrives, above a bar. A part that
cannot be summarised ends the program with an error: a summary that lacks a part looks whole.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from .._core.terminal import for_terminal
from ..client import Client
from ..errors import BatchError, LLMStreamError
from ..readers import Progress
from ..result import Result
from .service import add_service_options, client_from_env, put_into_environment

__all__ = ["Screen", "View", "main", "parts_of", "summarize"]

_CHARS_PER_WORD = 6.0  # of English prose, with its blanks
_TOKENS_PER_WORD = 3  # at most, in most languages
_BAR = 24  # columns


# ---- the summary -------------------------------------------------------------------------------


def parts_of(text: str, size: int) -> Iterator[str]:
    """The text in parts of at most `size` characters, which end with a paragraph if they can."""
    at = 0
    while at < len(text):
        end = at + size
        if end < len(text):
            for mark in ("\n\n", "\n", ". ", " "):
                found = text.rfind(mark, at + size // 2, end)
                if found >= 0:
                    end = found + len(mark)
                    break
        if text[at:end].strip():
            yield text[at:end].strip()
        at = end


def _prompt(text: str, words: int) -> str:
    return (
        f"Summarise the text between the marks in at most {words} words of prose, in its language. "
        f"Write the summary only.\n<text>\n{text}\n</text>"
    )


def summarize(
    client: Client, text: str, view: View, words: int = 120, size: int = 4000, workers: int = 4
) -> str:
    """The summary of the text. `size`: characters that the model reads at once. Raises what a call
    raises, and BatchError."""
    expected = round(words * _CHARS_PER_WORD)
    limit = words * _TOKENS_PER_WORD
    while True:
        parts = list(parts_of(text, size))
        if len(parts) <= 1:
            break
        batch = client.parallel(
            [_prompt(part, words) for part in parts],
            max_workers=workers,
            max_output_tokens=limit,
        )
        chars = [0] * len(parts)
        with batch:
            for index, chunk in batch.chunks():  # the pieces of all parts, as they arrive
                if chunk.type == "text":
                    chars[index] += len(chunk.text)
                    done = sum(min(n / expected, 0.95) for n in chars) / len(parts)
                    view.on_parts(done, len(parts))
            joined = "\n\n".join(_text_of(result) for result in batch.results())
        if len(joined) >= len(text):  # a model that does not shorten would go on for ever
            raise ValueError("the model's summaries are not shorter than the text: use fewer words")
        text = joined
    stream = client.stream(_prompt(text, words), max_output_tokens=limit)
    return _text_of(stream.handle(view, every_seconds=0.1, expected_chars=expected))


def _text_of(result: Result) -> str:
    """The text of an answer that is one: a small model may talk up to its limit ("length")."""
    if result.finish not in ("stop", "length") or not result.text.strip():
        raise ValueError(f"the model has not summarised a part of the text ({result.finish})")
    return result.text


# ---- what is shown -----------------------------------------------------------------------------


class Screen:
    """A terminal: lines that stay, and below them a few rows that are painted again."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._rows = 0  # that are painted again
        self.columns = max(shutil.get_terminal_size().columns - 1, 20)

    def show(self, lines: list[str], rows: list[str]) -> None:
        """Write `lines` once, and `rows` in place of the rows before."""
        up = f"\x1b[{self._rows - 1}A" if self._rows > 1 else ""
        text = "".join(f"{line}\n" for line in lines)
        painted = "\n".join(_clipped(row, self.columns) for row in rows)
        self._out.write(f"\r{up}\x1b[J{text}{painted}")
        self._out.flush()
        self._rows = len(rows)


class View:
    """Shows the progress and the summary: what `Stream.handle` tells.

    On a terminal the text is above the bar. In a file or a pipe `out` gets the text as it is; the
    bar is on `err`, if that is a terminal.
    """

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._file = None if out.isatty() else out
        terminal = next((one for one in (out, err) if one.isatty()), None)
        self._screen = None if terminal is None else Screen(terminal)
        self._line = ""  # the text after the last line that is finished
        self._bar = ""

    def on_parts(self, fraction: float, parts: int) -> None:
        """The parts are being summarised."""
        self._bar = f"{_bar(fraction)} {parts} parts, side by side"
        self._paint([])

    def on_token(self, text: str) -> None:
        """A piece of the summary: lines that are full stay."""
        if self._file is not None:
            self._file.write(text)
            self._file.flush()
        elif self._screen is not None:
            *full, self._line = (self._line + for_terminal(text)).split("\n")
            lines = [row for line in full for row in self._wrapped(line)]
            *begun, rest = self._wrapped(self._line)
            if begun:
                self._line = rest + self._line[len(self._line.rstrip()) :]
            self._paint([*lines, *begun])

    on_refusal = on_token

    def on_progress(self, progress: Progress) -> None:
        """Also while nothing arrives."""
        words = f"{progress.chars:,} characters, {progress.elapsed:.0f} s"
        self._bar = f"{_bar(progress.fraction or 0.0)} {words}"
        self._paint([])

    def on_complete(self, result: Result) -> None:
        """The end of the text; the bar goes."""
        self.close()

    def on_error(self, error: LLMStreamError) -> None:
        """What has arrived stays."""
        self.close()

    def close(self) -> None:
        """Nothing is painted again. May be called twice."""
        lines = [self._line] if self._line else []
        self._line = self._bar = ""
        self._paint(lines)

    def _wrapped(self, line: str) -> list[str]:
        assert self._screen is not None
        return textwrap.wrap(line, self._screen.columns) or [""]

    def _paint(self, lines: list[str]) -> None:
        if self._screen is not None:
            self._screen.show(lines, [row for row in (self._line, self._bar) if row])


def _bar(fraction: float) -> str:
    full = round(fraction * _BAR)
    return f"[{'#' * full}{'.' * (_BAR - full)}] {fraction:4.0%}"


def _clipped(text: str, columns: int) -> str:
    """The begin of the text that is as wide as the row."""
    used = 0
    for at, char in enumerate(text):
        used += 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if used > columns:
            return text[:at]
    return text


# ---- the program -------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Summarise, and show how far it is. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m llmstream.examples.summary")
    add = parser.add_argument
    add("file", help="a text in UTF-8; -: standard input")
    add("--words", type=int, default=120, help="of the summary, at most (120)")
    add("--size", type=int, default=4000, help="characters that the model reads at once (4000)")
    add("--workers", type=int, default=4, help="parts that are summarised side by side (4)")
    add_service_options(parser)
    options = parser.parse_args(arguments)
    if not 10 <= options.words <= 10_000 or options.size < 500 or not 1 <= options.workers <= 1000:
        parser.error("--words is 10 to 10000, --size 500 or more, --workers 1 to 1000")
    put_into_environment(options)
    view = View(sys.stdout, sys.stderr)
    try:
        text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text("utf-8")
        if not text.strip():
            parser.error("there is no text")
        with client_from_env() as client:
            summarize(client, text, view, options.words, options.size, options.workers)
        if not sys.stdout.isatty():
            print()
        return 0
    except KeyboardInterrupt:
        view.close()
        print("Ended.", file=sys.stderr)
        return 130
    except BatchError as error:
        view.close()
        failed = [outcome for outcome in error.outcomes if not outcome.ok]
        print(f"{len(failed)} parts failed, the first: {failed[0].error}", file=sys.stderr)
        return 1
    except (LLMStreamError, OSError, ValueError) as error:
        view.close()
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
