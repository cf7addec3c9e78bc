"""Stream, the caller's handle of one call, and its views."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from ._call.call import Call, Progress
from ._core.phase import ClockName
from ._core.state import State
from ._core.tool_calls import CallFinder, RunningCall
from .errors import ConfigurationError
from .events.base import AnyEvent
from .result import Attempt, Chunk, Result, Usage

__all__ = ["Stream"]

T = TypeVar("T")
Select = Callable[["list[AnyEvent]", Call], "list[T]"]


class _TypedViews:
    """The views of an answer that has a type."""

    _call: Call
    _close_when_dropped: _CloseWhenDropped

    def _choose(self, view: str) -> None:
        raise NotImplementedError

    def partials(self, interval: float = 0.05) -> Iterator[Any]:
        """The value of an answer with `output=`, as far as it has arrived: plain dicts, lists,
        strings and numbers, each time all of it. The last one is the whole value.

        They are not validated, since half a value is none; `result().value` is. One is made when a
        piece of the answer arrives, at most every `interval` seconds, and less often where the
        answer is so long that parsing it would take more than a tenth of the time; see
        `llmstream.output.PartialJSON` for what `interval=0` means. Where the answer begins anew
        (`on_disconnect="restart"`, `output_retries`), so does its value.

        Raises ConfigurationError without `output=`, and without the extra `output` (jiter).
        """
        from .output.partials import partials_of

        view = partials_of(self._call, interval, self._close_when_dropped)
        self._choose("partials()")
        return view

    def elements(self) -> Iterator[Any]:
        """The elements of an answer with `output=list[T]`, each as a T, as soon as it is closed.

        One that does not fit ends the call with OutputInvalid, whose `index` is its position; those
        before it have been yielded. Where the answer may begin anew (`on_disconnect="restart"`,
        `output_retries`) this raises ConfigurationError, as it does without a list.
        """
        from .output.elements import elements_of

        view = elements_of(self._call, self._close_when_dropped)
        self._choose("elements()")
        return view


class Stream(_TypedViews):
    """An answer on its way. Made by `Client.stream`; nothing is sent before its first use.

    Iterate it for the answer's text, or `chunks()`, `events()`, or, with `output=`, `partials()` or
    `elements()`: one of them, once, in one thread. `result()` reads the rest. Everything else may
    be called from any thread at any time. Used as a context manager, the call starts on entry and
    everything is freed on exit; leaving early is not an error. A stream that is dropped is freed.

    A stream that has begun belongs to its process: in a forked child reading it raises
    ConfigurationError, and `cancel` and `close` have no effect on the parent's call. One that has
    not begun may be begun in either, one that has ended may be asked for its result.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._close_when_dropped = _CloseWhenDropped(call)
        call.held_by(self._close_when_dropped)
        self.trace_id = call.ctx.trace_id
        self._view_name = ""
        self._texts: Iterator[str] | None = None  # the view of the text, once it is chosen
        self._finder: CallFinder | None = None

    def __repr__(self) -> str:
        return f"<Stream {self._call.progress.value} trace_id={self.trace_id}>"

    # -- the views

    def __iter__(self) -> Iterator[str]:
        """The answer's text, piece by piece. Always the same iterator: some hosts ask for it twice
        (Streamlit 1.67), and `next(stream)` reads from it too."""
        if self._texts is None:
            self._choose("iteration")
            self._texts = self._make(_texts)
        return self._texts

    def __next__(self) -> str:
        return next(iter(self))

    def chunks(self) -> Iterator[Chunk]:
        """Every piece of the answer: text, thinking, refusal and tool call arguments."""
        self._choose("chunks()")
        return self._make(_chunks)

    def events(self, *, retries: bool = False) -> Iterator[AnyEvent]:
        """Every event of the wire, typed, in order. With `retries` also a `Retried` event whenever
        a request is made again, before the wait for it."""
        self._choose("events()")
        if retries:
            self._call.tell_retries()
        return self._make(_events)

    def call_of(self, chunk: Chunk) -> RunningCall | None:
        """The tool call that a chunk of type "tool_call" is a piece of, as far as it has arrived:
        its `id` as the service sent it (None until then), its `name` ("" until then) and `custom`
        (see `ToolCall`). It is hashable: the same for all chunks of one call. None where the call
        is not known.

        For the thread that reads the stream, by `chunks()` or `events()`: ask for each such chunk
        once, in their order. Whether a call is safe to run only the `Result` says.
        """
        if self._finder is None:
            self._finder = CallFinder(self._call.ctx.running_calls)
        return self._finder.find(self.state, chunk)

    def _make(self, select: Select[T]) -> Iterator[T]:
        return _View(select, self._call, self._close_when_dropped)

    def _choose(self, view: str) -> None:
        if view == "iteration" and not self._call.readable_as_text:
            raise ConfigurationError(
                "on_disconnect='restart' or output_retries may begin the answer anew, and plain "
                "text could not tell you: iterate over chunks() (a chunk of type 'restart' says "
                "so) or events(), or use result()"
            )
        if self._view_name:
            raise ConfigurationError(
                f"this stream is already being read by {self._view_name}: a stream has one reader "
                "and one view. Go on with that one, or read the rest with result()"
            )
        self._view_name = view

    # -- reading to the end

    def result(self) -> Result:
        """Read the rest and return the whole answer. Raises what ended the stream otherwise;
        may be called again."""
        self._call.read_to_end()
        return self._call.ctx.result()

    def handle(
        self,
        handler: Any,
        every_chunks: int | None = 10,
        every_seconds: float | None = 1.0,
        expected_chars: int | None = None,
    ) -> Result:
        """Read the stream to its end, tell `handler` of it, and return the whole answer.

        `handler` is an object with any of these methods, and no base class:

        - `on_token(text)`: a piece of the answer's text.
        - `on_progress(progress)`: a `Progress`, after every `every_chunks` chunks, after every
          `every_seconds` seconds, also while nothing arrives, and once at the end. None turns
          either off.
        - `on_complete(result)`: the answer is whole.
        - `on_error(error)`: the call failed. The error is raised after it.
        - `on_refusal(text)`: a piece of the words with which the model refuses, where the service
          sends them apart from the text.
        - `on_restart()`: the answer begins anew. A handler with `on_token` needs it for
          `on_disconnect="restart"`.

        All are called in this thread, one at a time. (With `on_progress` and `every_seconds`
        another thread reads the stream.) A handler that raises ends the stream, as leaving a loop
        does: its exception is raised here, and `on_error` is not called. A slow handler slows the
        stream. `expected_chars`: the length of the text that is expected, for `Progress.fraction`.

        Raises what `result` raises, and ConfigurationError for arguments that cannot work and for a
        stream that is being read already.
        """
        from .readers.handlers import Handlers, handle

        handlers = Handlers(handler)
        if not (self._call.readable_as_text or handlers.knows_restarts):
            raise ConfigurationError(
                "on_disconnect='restart' or output_retries may begin the answer anew: give the "
                "handler a method on_restart(), so that it can be told"
            )
        return handle(self, handlers, every_chunks, every_seconds, expected_chars)

    def display(
        self, interval: float = 0.1, *, thinking: bool = True, progress: bool = True
    ) -> Result:
        """Read the stream to its end, show it while it arrives, and return the whole answer.

        In a notebook (a kernel of Jupyter) it is live Markdown, painted every `interval` seconds at
        most (0: with each piece), and less often where the answer is long. With `thinking` the
        model's thinking stands above it, folded. With `progress` a line below it counts characters
        and seconds. As the last line of a cell the result is not shown a second time. HTML of the
        model is shown as text, and its images as links. Elsewhere the text is printed as it comes
        (see `ConsoleHandler`), without the thinking; a refusal's words are printed as text.

        What ends the stream otherwise is raised, below what had arrived and a sentence about it. An
        interrupt (the kernel's, Ctrl-C) ends the stream at once; what had arrived stays. Nothing is
        shown any more once this has returned or raised. A stream that has ended is shown as it is.

        Raises what `result` raises, and ConfigurationError for arguments that cannot work and for a
        stream that is being read already.
        """
        from .readers.display import paint

        return paint(self, interval, thinking=thinking, progress=progress)

    def _repr_markdown_(self) -> str:
        """What has arrived, for a notebook. Starts no call."""
        from ._markdown import answer_markdown

        return answer_markdown(self.text, self.state.refusal)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """In a notebook a stream that has nothing to show yet is shown by its repr."""
        from ._markdown import as_code

        shown = repr(self)
        return {"text/plain": shown, "text/markdown": self._repr_markdown_() or as_code(shown)}

    # -- what has arrived so far

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return self.state.text

    @property
    def thinking(self) -> str:
        """The model's thinking so far, as far as the service shows it."""
        return self.state.thinking

    @property
    def usage(self) -> Usage:
        """What the service has reported as used so far; most report at the end."""
        return self.state.usage

    @property
    def state(self) -> State:
        """Response, items and content as they stand."""
        return self._call.ctx.session.state

    @property
    def model(self) -> str:
        """The model: as the service reports it, until then as it is asked for."""
        return self.state.model or self._call.model

    @property
    def response_id(self) -> str | None:
        """The service's id of the response."""
        return self.state.response_id

    @property
    def request_id(self) -> str | None:
        """The service's id of the latest request, for its support."""
        return self._call.ctx.request_id

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The requests so far, the running one included."""
        return self._call.ctx.attempts

    @property
    def may_restart(self) -> bool:
        """Whether the answer may begin anew after a part of it has arrived
        (`on_disconnect="restart"`, `output_retries`)."""
        return not self._call.readable_as_text

    @property
    def ended(self) -> bool:
        """Whether the call has ended, in whatever way: nothing more arrives."""
        return self._call.ended

    @property
    def stopped(self) -> bool:
        """Whether a cancel or the total clock has ended the call, even if its reader has not
        noticed yet. Costs nothing; any thread may ask."""
        reason = self._call.ctx.scope.stop_reason
        return reason is not None and (reason.cancelled or reason.clock is ClockName.TOTAL)

    # -- ending it

    def cancel(self, reason: str | None = None) -> None:
        """End the call now, in whatever phase it is. The reader gets Cancelled, and nothing more
        is delivered. Returns at once; idempotent; no effect once the stream has ended. A background
        response is also cancelled at the service, by the reader's thread on its way out."""
        self._call.cancel(reason)

    def close(self) -> None:
        """End the call if it still runs, and free everything it holds. Idempotent. A background
        response is cancelled at the service too, which may take up to 5 s."""
        self._call.close()

    def __enter__(self) -> Stream:
        if self._call.progress is Progress.NEW:
            self._call.pull()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _CloseWhenDropped:
    """Held by a stream and by its view: when the last of them is dropped, the call is freed. It
    refers to neither, and the call to none of the three, so that needs no garbage collector."""

    __slots__ = ("__weakref__", "_call")

    def __init__(self, call: Call) -> None:
        self._call = call

    def __del__(self) -> None:
        # At interpreter exit parts of this may be gone already.
        with contextlib.suppress(Exception):
            self._call.close(dropped=True)


class _View(Generic[T]):
    """A view's iterator: what `select` makes of each batch of events, one by one.

    Not a generator: after an exception a generator's next `next()` raises StopIteration, which
    looks like a normal end.
    """

    __slots__ = ("_call", "_close_when_dropped", "_items", "_scope", "_select")

    def __init__(
        self, select: Select[T], call: Call, close_when_dropped: _CloseWhenDropped
    ) -> None:
        self._select = select
        self._call = call
        self._scope = call.ctx.scope
        self._close_when_dropped = close_when_dropped
        self._items: Iterator[T] = iter(())

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._scope.stop_reason is None:
            for item in self._items:
                return item
        return self._pull()

    def _pull(self) -> T:
        call = self._call
        call.check_reader()
        with call.reader:  # until the batch is in place: a second reader loses none
            while True:
                if (
                    self._scope.stop_reason is None or not call.ctx.cancelled
                ):  # after a cancel nothing is delivered; it is raised
                    for item in self._items:
                        return item
                batch = call.next_batch()
                if batch is None:
                    raise StopIteration
                self._items = iter(self._select(batch, call))

    def cancel(self, reason: str | None = None) -> None:
        """See `Stream.cancel`: for a reader that was given the view, and not the stream."""
        self._call.cancel(reason)

    def close(self) -> None:
        """End the call, as a generator's `close` would (WSGI servers call it). Idempotent."""
        self._call.close()


def _events(batch: list[AnyEvent], call: Call) -> list[AnyEvent]:
    return batch


def _chunks(batch: list[AnyEvent], call: Call) -> list[Chunk]:
    return [chunk for event in batch for chunk in event.chunks]


def _texts(batch: list[AnyEvent], call: Call) -> list[str]:
    only = call.ctx.session.state.primary
    return [
        chunk.text
        for event in batch
        for chunk in event.chunks
        if chunk.type == "text" and (only is None or chunk.index == only)
    ]
