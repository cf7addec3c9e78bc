"""An answer that is painted while it arrives: as Markdown in a notebook, as text elsewhere.

All painting is done in the thread that called, between two reads; so nothing is painted any more
once the call has returned, or was interrupted.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

from .._core.checks import checked_range
from .._core.sentences import sentence_of
from .._core.terminal import for_terminal
from .._markdown import answer_markdown, as_text, safe_markdown
from .._settings.arguments import checked_flag
from ..errors import ConfigurationError
from ..result import Attempt, LLMStreamError, Result
from .console import ConsoleHandler
from .handlers import handle
from .progress import Progress
from .source import Source

__all__ = ["paint"]

_LONGEST = 3600.0  # seconds of an interval
_IDLE = 0.1  # seconds between two looks at a stream from which nothing comes
# Characters a second. A notebook renders the whole answer with each update, so long answers are
# painted less often. JupyterLab 4.6 took 40 ms for 10,000 characters of Markdown and 430 ms for
# 100,000: with this rate it renders for a fifth of the time.
_RATE = 50_000.0


class Shown(Source, Protocol):
    """A stream as a screen needs it. All of this may be read while another thread reads chunks."""

    @property
    def text(self) -> str: ...
    @property
    def thinking(self) -> str: ...
    @property
    def state(self) -> Any: ...
    @property
    def attempts(self) -> Sequence[Attempt]: ...
    @property
    def ended(self) -> bool: ...


def paint(
    stream: Shown, interval: float = 0.1, *, thinking: bool = True, progress: bool = True
) -> Result:
    """Read the stream to its end, paint it, and return the whole answer. See `Stream.display`."""
    seconds = checked_range("interval", interval, 0, _LONGEST)
    with_thinking = checked_flag("thinking", thinking)
    with_progress = checked_flag("progress", progress)
    shell = _notebook()
    if shell is None:
        return _Printed(with_progress).run(stream)
    painter = _Painter(_Cell(shell), stream, seconds, with_thinking, with_progress)
    return painter.run()


# ---- a notebook ----------------------------------------------------------------------------------


def _notebook() -> Any:
    """The IPython shell that shows more than text, None where there is none. Imports nothing that
    is not there already."""
    if "IPython" not in sys.modules:
        return None
    shell = import_module("IPython").get_ipython()
    # That of a terminal prints what it is given, and can update nothing.
    plain = import_module("IPython.core.displaypub").DisplayPublisher
    return None if shell is None or type(shell.display_pub) is plain else shell


class _Frame:
    """What an output of a cell shows at a moment."""

    def __init__(self, markdown: str, text: str) -> None:
        self._markdown = markdown
        self._text = text

    def _repr_markdown_(self) -> str:
        return self._markdown

    def __repr__(self) -> str:
        """For front ends that show text only; some are terminals."""
        return for_terminal(self._text)


class _Cell:
    """The outputs of the cell that runs: each is updated in its place."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._display = import_module("IPython.display").display
        self._handle: Any = None
        self._latest: str | None = None

    def show(self, markdown: str, text: str) -> None:
        """Show this in place of what the output shows."""
        if markdown == (self._latest or ""):
            return
        frame = _Frame(markdown, text)
        if self._handle is None:
            self._handle = self._display(frame, display_id=True)
        else:
            self._handle.update(frame)
        self._latest = markdown

    def below(self) -> _Cell:
        """A further output of the same cell."""
        return _Cell(self._shell)

    def knows(self, result: Result) -> None:
        """`result` is what the cell shows already: as the value of its last line it is not shown
        once more."""
        formatter = self._shell.display_formatter.ipython_display_formatter
        painted = formatter.type_printers.get(Result)
        if not isinstance(painted, _Painted):
            painted = _Painted(formatter, self._shell.events)
        painted.results.append(result)


class _Painted:
    """The results that a cell has painted. IPython asks it how to show a Result, until the cell has
    ended."""

    def __init__(self, formatter: Any, events: Any) -> None:
        self.results: list[Result] = []
        self._formatter = formatter
        self._events = events
        self._before = formatter.for_type(Result, self)
        events.register("post_run_cell", self.leave)

    def __call__(self, result: Result) -> None:
        if not any(one is result for one in self.results):
            if self._before is None:
                raise NotImplementedError  # IPython goes on with the other ways to show it
            self._before(result)

    def leave(self, *_: Any) -> None:
        self._events.unregister("post_run_cell", self.leave)
        self._formatter.pop(Result, None)
        if self._before is not None:
            self._formatter.for_type(Result, self._before)


class _Painter:
    """Paints one stream. The handler of `handle`, see there: all in the caller's thread.

    The thinking has an output of its own: where a reader has unfolded it, an update of the text
    does not fold it again.
    """

    def __init__(
        self, cell: _Cell, stream: Shown, interval: float, thinking: bool, progress: bool
    ) -> None:
        self._stream = stream
        self._interval = interval
        self._with_thinking = thinking
        self._with_progress = progress
        self._head = self._body = cell
        self._elapsed = 0.0
        self._due = 0.0  # in seconds since the begin, as `Progress.elapsed`
        self._begun = False  # whether content was painted
        self._failed = False

    def run(self) -> Result:
        stream = self._stream
        try:
            if stream.ended:
                result = stream.result()
                self._elapsed = result.timings.total_ms / 1000
                self.on_complete(result)
            else:
                result = handle(
                    stream, self, 1, max(self._interval, 0.01) if self._interval else _IDLE
                )
        except BaseException as error:
            nothing = isinstance(error, ConfigurationError) and not self._begun
            if not (self._failed or nothing):
                with contextlib.suppress(Exception):  # it may be the painting that failed
                    self._paint(_remark_on(error))
            raise
        with contextlib.suppress(Exception):  # a shell of another make: shown twice, at worst
            self._body.knows(result)
        return result

    def on_progress(self, progress: Progress) -> None:
        self._elapsed = progress.elapsed
        if progress.done or progress.error is not None:
            return
        has_content = progress.chunks > 0
        if progress.elapsed < self._due and (self._begun or not has_content):
            return
        self._begun = has_content
        size = self._paint(self._line() if self._with_progress else "")
        self._due = self._elapsed + max(self._interval, size / _RATE if self._interval else 0.0)

    def on_complete(self, result: Result) -> None:
        foot = _summary(result, self._elapsed) if self._with_progress else ""
        self._paint(foot, result)

    def on_error(self, error: LLMStreamError) -> None:
        self._failed = True
        self._paint(_remark_on(error))

    def _line(self) -> str:
        """How far the answer is, while it runs. In whole seconds: each change is an update."""
        stream = self._stream
        if chars := len(stream.text):
            parts = [f"{chars:,} characters"]
        else:
            parts = ["thinking" if stream.thinking else "waiting"]
        parts.append(f"{int(self._elapsed)} s")
        if (number := len(stream.attempts)) > 1:
            parts.append(f"attempt {number}")
        return f"*{' · '.join(parts)}*"

    def _paint(self, foot: str, result: Result | None = None) -> int:
        """Show what has arrived, and below it `foot`. Returns the number of characters."""
        stream = self._stream
        text, refusal = stream.text, stream.state.refusal
        calls = result.tool_calls + result.incomplete_tool_calls if result is not None else ()
        answer = answer_markdown(text, refusal, calls, result.finish if result else None)
        thinking = stream.thinking if self._with_thinking else ""
        head = _folded(thinking) if thinking else ""
        if head and self._head is self._body:
            self._body = self._head.below()
        if self._head is not self._body:
            self._head.show(head, "")
        plain = "\n\n".join(filter(None, (text, refusal)))
        self._body.show("\n\n".join(filter(None, (answer, foot))), plain)
        return len(answer) + len(head)


def _folded(thinking: str) -> str:
    return "<details><summary>Thinking</summary>\n\n" + safe_markdown(thinking) + "\n\n</details>"


def _remark_on(error: BaseException) -> str:
    """What stands below a text that is not whole. It says no more than a reader of the notebook may
    know; the error itself is raised."""
    if isinstance(error, KeyboardInterrupt):
        return "**Interrupted.**"
    sentence = sentence_of(error)
    if sentence is None:
        return f"**{as_text(type(error).__name__)}**"
    return f"**{type(error).__name__}:** {sentence}"


def _summary(result: Result, elapsed: float) -> str:
    parts = [as_text(result.model)] if result.model else []
    if result.usage.output_tokens is not None:
        parts.append(f"{result.usage.output_tokens:,} tokens")
    parts.append(f"{elapsed:.1f} s")
    return f"*{' · '.join(parts)}*"


# ---- elsewhere -----------------------------------------------------------------------------------


class _Printed(ConsoleHandler):
    """Prints the text as it comes, a refusal as well. An error ends the line; it is raised, and so
    not printed."""

    def __init__(self, progress: bool) -> None:
        super().__init__()
        self._with_progress = progress

    def run(self, stream: Shown) -> Result:
        if not stream.ended:
            try:
                return handle(stream, self, every_chunks=None)
            except KeyboardInterrupt:
                self._finish()
                raise
        self.on_token(stream.text)
        self.on_refusal(stream.state.refusal)
        self._finish()
        return stream.result()

    def on_progress(self, progress: Progress) -> None:
        if self._with_progress:
            super().on_progress(progress)

    def on_restart(self) -> None:
        """The text begins anew, and what is printed stays: say so where it is read."""
        self.on_token("\n[the answer begins anew]\n")

    def on_error(self, error: LLMStreamError) -> None:
        self._finish()
