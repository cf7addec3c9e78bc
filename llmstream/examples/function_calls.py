"""A model that keeps notes. What it writes into the calls is shown while it writes it; then the
functions run, and it goes on.

    python -m llmstream.examples.function_calls "Plan three days in Ulm and keep the plan"

The notes are text files in a folder (`--folder`, by default a new one). Reading runs at once,
several calls side by side; before a note is written the terminal asks. A call whose arguments were
cut never runs.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from .._core.terminal import for_terminal
from .._settings.environment import find_in_environment
from ..errors import LLMStreamError
from ..result import Chunk, ToolCall
from ..tools import Run, ToolError, ToolFinished, ToolStarted, tool
from .service import add_service_options, client_from_env, put_into_environment

__all__ = ["Display", "main", "note_tools"]

QUESTION = (
    "Which notes do I have? Read them, and keep a note 'summary' of two sentences about them."
)
_ONLY_LOCAL = (
    "No service is set, so the small local model answers, and it calls no functions: set\n"
    "OPENAI_API_KEY, ANTHROPIC_API_KEY or GOOGLE_API_KEY, or pass --api, --base-url and --model."
)
_LONGEST = 72  # characters of a result that are shown
_FIRST_NOTES = {
    "ulm": "Ulm: the minster's tower has 768 steps. Open from 9.",
    "oslo": "Oslo: the opera's roof can be walked on, at any hour.",
}


# ---- the functions -----------------------------------------------------------------------------
# Their names, hints and docstrings are what the model is told of them. What it may do is decided
# here, and not by what it is told.


def note_tools(folder: Path) -> list[Any]:
    """The functions that the model may call, for the notes in `folder`."""

    def path_of(name: str) -> Path:
        if not re.fullmatch(r"[a-z0-9-]{1,40}", name):
            raise ToolError("a name is 1 to 40 small letters, digits and hyphens")
        return folder / f"{name}.txt"

    def list_notes() -> list[str]:
        """The names of all notes."""
        return sorted(path.stem for path in folder.glob("*.txt"))

    def read_note(name: str) -> str:
        """The text of a note.

        Args:
            name: as in list_notes.
        """
        try:
            return path_of(name).read_text("utf-8")
        except FileNotFoundError:
            raise ToolError(f"there is no note {name!r}") from None

    # One after the other: two calls may write the same note. `eager`: the text arrives as it is
    # written, also from a service that else checks arguments before it sends them.
    @tool(sequential=True, eager=True)
    def write_note(name: str, text: str) -> str:
        """Keep a note, in place of one with the same name.

        Args:
            name: small letters, digits and hyphens.
            text: the whole text of the note.
        """
        path_of(name).write_text(text, "utf-8")
        return f"{len(text)} characters"

    return [list_notes, read_note, write_note]


def ask_before_writing(ask: Callable[[str], str] = input) -> Callable[[ToolCall], bool | str]:
    """What decides whether a call may run: reading may, writing is asked on the terminal."""

    def approve(call: ToolCall) -> bool | str:
        if call.name != "write_note":
            return True
        if not sys.stdin.isatty():
            return "Nobody can be asked: start the example with --yes to allow it."
        return ask(f"\n  Keep the note {for_terminal(str(call.parsed()))}? [y/N] ").strip() == "y"

    return approve


# ---- what is shown -----------------------------------------------------------------------------


class Display:
    """Shows the items of a run as they come, on `out`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown: Any = None  # the call whose arguments were shown last, or "text"

    def show(self, run: Run) -> None:
        """Read the run to its end."""
        for item in run:
            if isinstance(item, Chunk):
                self._chunk(run, item)
            elif isinstance(item, ToolStarted):
                self._line(f"  running {item.call.name}")
            elif isinstance(item, ToolFinished):
                self._finished(item)
            else:
                self._end_line()  # an answer is whole; its calls, if it has any, run now

    def _chunk(self, run: Run, chunk: Chunk) -> None:
        if chunk.type == "tool_call":
            call = run.call_of(chunk)  # by its own id: calls may arrive side by side
            if call is None or call != self._shown:
                self._end_line()
                self._write(f"  {call.name if call is not None else ''} ")
                self._shown = call
        elif chunk.type in ("text", "refusal"):
            if self._shown != "text":
                self._end_line()
                self._shown = "text"
        else:
            return  # thinking
        self._write(for_terminal(chunk.text))

    def _finished(self, item: ToolFinished) -> None:
        what = item.output if isinstance(item.output, str) else "(parts)"
        short = what if len(what) <= _LONGEST else f"{what[:_LONGEST]}..."
        how = "done" if item.ok else "not done"
        self._line(f"  {how}: {item.call.name}, {item.seconds:.1f} s: {short!r}")

    def _line(self, text: str) -> None:
        self._end_line()
        self._write(f"{for_terminal(text)}\n")

    def _end_line(self) -> None:
        if self._shown is not None:
            self._write("\n")
        self._shown = None

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


# ---- the program -------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Ask, and show what happens. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m llmstream.examples.function_calls")
    parser.add_argument("question", nargs="?", default=QUESTION, help="what the model is asked")
    parser.add_argument("--folder", type=Path, help="where the notes are (a new folder with two)")
    parser.add_argument("--yes", action="store_true", help="notes are written without asking")
    add_service_options(parser)
    options = parser.parse_args(arguments)
    put_into_environment(options)
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if options.folder is None:
            for name, text in _FIRST_NOTES.items():
                (folder / f"{name}.txt").write_text(text, "utf-8")
        try:
            return ask_model(
                options.question, folder, None if options.yes else ask_before_writing()
            )
        except KeyboardInterrupt:
            print("\nEnded.", file=sys.stderr)
            return 130
        except (LLMStreamError, OSError) as error:
            print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
            return 1


def ask_model(question: str, folder: Path, approve: Any, out: TextIO | None = None) -> int:
    """One question, with as many answers and calls as it takes."""
    if find_in_environment() is None:
        print(_ONLY_LOCAL, file=sys.stderr)
    with (
        client_from_env() as client,
        client.run(question, note_tools(folder), approve=approve) as run,
    ):
        Display(out or sys.stdout).show(run)
        finish = run.result().finish
    if finish == "stop":
        return 0
    print(f"The answer has ended early: {finish}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
