"""The visible loop of a run: an answer, its calls, the next answer. What follows what is decided by
`_core/tool_loop`."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

from msgspec import Struct, structs

from .._core.checks import shown
from .._core.dialects.base import Dialect
from .._core.state import State
from .._core.tool_loop import MAX_FAILURES, Conversation, Step, after_answer, after_calls
from .._runtime.clock import Clock
from .._runtime.fork import process_number
from .._runtime.frames import forget_variables
from .._runtime.scope import NEVER
from .._runtime.threads import Lock, is_finalizing
from ..errors import Cancelled, ConfigurationError, DeadlineExceeded, LLMStreamError, RunError
from ..events.base import AnyEvent
from ..result import Chunk, Result, Usage, total_usage
from ..telemetry.context import ActiveCall
from ..telemetry.tool_reporter import ToolReporter
from .calling import Calling
from .deciding import Approve, decide
from .entries import Entry, OpenTurn
from .function import Tool
from .items import ToolFinished, ToolProgress, ToolStarted, Turn
from .telling import Telling

__all__ = ["Item", "Loop", "Place", "Rules", "TurnStream"]

Item = Chunk | ToolProgress | ToolStarted | ToolFinished | Turn

_OTHER_PROCESS = (
    "this run was begun by the parent process, which goes on with it: in a forked child make a run "
    "of its own"
)
_TWO_READERS = "this run is being read by another thread, or by one of its tools: it has one reader"


class TurnStream(Protocol):
    """The stream of one answer. A `Stream` is one."""

    @property
    def text(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def state(self) -> State: ...
    def events(self) -> Iterator[AnyEvent]: ...
    def result(self) -> Result: ...
    def call_of(self, chunk: Chunk) -> Any: ...
    def cancel(self, reason: str | None = None) -> None: ...
    def close(self) -> None: ...


class MakeStream(Protocol):
    """Makes the stream of the next answer. `number` is that of the answer, from 1, `left` the
    seconds that are left to the run."""

    def __call__(self, messages: list[Any], number: int, left: float, /) -> TurnStream: ...


class Rules(Struct, frozen=True, kw_only=True):
    """The options of a run, see `Client.run`. `total` is its hard deadline in seconds."""

    max_turns: int
    parallel_tools: bool
    tool_timeout: float | None
    approve: Approve | None
    on_tool_error: str
    total: float


class Place(NamedTuple):
    """How far a run is. Replaced in one step, so any thread may read it."""

    conversation: Conversation
    turn: OpenTurn | None = None  # the calls that are being made
    latest: Result | None = None
    usage: Usage = Usage()

    def __repr__(self) -> str:
        return f"Place({self.conversation!r})"  # frames are shown by error reporters


class Loop:
    """A run at work. The thread that holds `reader` calls `next`; any thread may `cancel`, and read
    `place`, `stream`, `ended` and `late`."""

    def __init__(
        self,
        make_stream: MakeStream,
        dialect: Dialect,
        tools: Mapping[str, Tool | None],
        rules: Rules,
        clock: Clock,
        reporter: ToolReporter,
        place: Place,
        news: list[Entry],
    ) -> None:
        self._make_stream = make_stream
        self._dialect = dialect
        self._tools = tools
        self._rules = rules
        self._clock = clock
        self._reporter = reporter
        self._telling = Telling(reporter)
        self._news = news  # calls whose end was not yielded before the run was resumed
        self.trace_id = reporter.trace_id
        self.place = place
        self.results: list[Result] = []
        self.stream: TurnStream | None = None
        self.reader = Lock()
        self.error: BaseException | None = None
        self.ended = self.started = False
        self._cancelled: tuple[str | None] | None = None  # the reason
        self._calling: Calling | None = None
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._until = NEVER
        self._active = ActiveCall(self.trace_id)
        self._pid = process_number()
        self._items = self._run()

    # -- any thread

    @property
    def late(self) -> int:
        """The results that have come after the time of their tool."""
        return self._telling.late

    @property
    def is_parents(self) -> bool:
        """Whether this is a forked child, and the run is its parent's."""
        return self.started and self._pid != process_number()

    def cancel(self, reason: str | None) -> None:
        """End the run, in whatever phase it is. Returns at once, never raises."""
        if self.ended or self.is_parents:
            return
        if self._cancelled is None:
            self._cancelled = (reason,)
        stream, calling = self.stream, self._calling
        if stream is not None:
            stream.cancel(reason)
        if calling is not None:
            calling.stop()
        self._bell.put(None)

    def check_reader(self) -> None:
        """Raises ConfigurationError where another thread reads, or this one does already."""
        if self.is_parents:
            raise ConfigurationError(_OTHER_PROCESS)
        if self.reader.locked():
            raise ConfigurationError(_TWO_READERS)

    # -- the reader

    def next(self) -> Item:
        """The next item. Raises StopIteration after the last one, or what has ended the run."""
        if self.ended:
            if self.error is not None:
                raise self.error
            raise StopIteration
        try:
            self._start()
            item = next(self._items) if self._cancelled is None else None
            if self._cancelled is not None:  # after a cancel nothing is delivered
                raise self._stopped(*self._cancelled)
            assert item is not None
            return item
        except StopIteration:
            self.end(None)
            raise
        except BaseException as exc:
            if isinstance(exc, ConfigurationError):
                self._sealed(exc)
            self.end(exc)
            if isinstance(exc, LLMStreamError):  # the prompt is in the frames
                forget_variables(exc)
            raise

    def end(self, error: BaseException | None) -> None:
        """Free everything. What an interrupt has cut short is done all the same, before the
        interrupt goes on."""
        if not self.ended and error is not None:
            self.error = error if isinstance(error, Exception) else self._stopped("interrupted")
        try:
            self._settle()
        except BaseException:
            self._settle()
            raise

    def close(self) -> None:
        """End the run, unless it has ended."""
        if self.ended or self.is_parents or is_finalizing():
            return
        self.cancel("closed before the end")
        if not self.reader.locked():  # else its reader wakes up, and ends it
            with self.reader:
                if not self.ended:
                    self._items.close()
                    self.end(self._stopped(*(self._cancelled or (None,))))

    def _start(self) -> None:
        if not self.started:
            self._pid = process_number()
            self._until = self._clock.monotonic() + self._rules.total
            self.started = True
            self._active.enter()
            self._reporter.start()

    def _settle(self) -> None:
        stream, calling = self.stream, self._calling
        if calling is not None:
            calling.stop()
        if stream is not None:
            stream.close()
        self._active.over = True
        self.ended = True
        if self.started:
            self._reporter.end(self.error, self.place.conversation.turns, self.late)

    def check(self) -> float:
        """The seconds that are left to the run. Raises what has ended it from outside."""
        if self._cancelled is not None:
            raise self._stopped(*self._cancelled)
        left = self._until - self._clock.monotonic()
        if left <= 0:
            raise self._sealed(_out_of_time(self._rules.total))
        return left

    def _stopped(self, reason: str | None) -> LLMStreamError:
        why = f": {reason}" if reason else ""
        return self._sealed(Cancelled(f"the run was cancelled{why}", reason=reason))

    def _sealed(self, error: LLMStreamError) -> LLMStreamError:
        latest = self.place.latest
        error.trace_id = self.trace_id
        if latest is not None:
            error.partial = latest
            error.attempts = latest.attempts
            error.request_id = latest.request_id
        return error

    # -- the loop

    def _run(self) -> Generator[Item]:
        for entry in self._news:
            self._telling.ended(entry, self.place.conversation.turns)
            yield entry.finished()
        while (step := self.place.conversation.step) is not Step.END:
            turns = self.place.conversation.turns
            if turns >= self._rules.max_turns:
                raise self._run_error(
                    f"the run has no answer after {turns} turns (max_turns), and the model goes on"
                )
            if step is Step.ASK:
                yield from self._ask()
            else:
                yield from self._call()
                if self.place.turn is not None:
                    return  # what is left is run by the caller

    def _ask(self) -> Iterator[Item]:
        conversation = self.place.conversation
        number = conversation.turns + 1
        stream = self._make_stream(list(conversation.messages), number, self.check())
        self.stream = stream
        self.check()  # in this order: `cancel` ends the stream, or it is not begun
        try:
            for event in stream.events():
                yield from event.chunks
                if (tool := self._dialect.service_tool(event)) is not None:
                    yield ToolProgress(tool.name, tool.status, tool.id)
            result = stream.result()
        except DeadlineExceeded as exc:  # it names what was left for this answer
            error = self._sealed(_out_of_time(self._rules.total))
            error.partial, error.attempts = exc.partial, exc.attempts
            error.request_id = exc.request_id
            raise error from None
        # A filter has ended it, whatever its finish is for its calls: they do not run.
        if stream.state.refused and result.finish == "tool_calls":
            result = structs.replace(result, finish="refusal")
        asked = self._dialect.approval_requests(result.items)
        after = after_answer(conversation, result, asked, self._dialect.outcome_turns)
        turn = OpenTurn(after.calls, after.approvals, self._tools)
        open_turn = turn if after.step is Step.CALLS else None
        usage = total_usage([self.place.usage, result.usage])
        self.results.append(result)
        self.place = Place(after, open_turn, result, usage)
        self.stream = None
        yield Turn(result, number)

    def _call(self) -> Iterator[Item]:
        place, rules = self.place, self._rules
        turn = place.turn
        assert turn is not None
        number = place.conversation.turns
        decided = decide(turn, self._tools, rules.approve, self.check)
        for entry in decided:
            self._telling.ended(entry, number)
        for entry in decided:
            yield entry.finished()
        calling = self._calling = Calling(
            turn.entries,
            self.check,
            self._telling,
            self._bell,
            number,
            side_by_side=rules.parallel_tools,
            seconds=rules.tool_timeout,
            raises=rules.on_tool_error == "raise",
        )
        yield from calling.items()
        self._calling = None
        if turn.callers:
            return
        after = after_calls(
            place.conversation,
            [entry.outcome for entry in turn.entries if entry.outcome is not None],
            turn.approvals or (),
            [entry.failed for entry in turn.entries],
            self._dialect.outcome_turns,
        )
        self.place = place._replace(conversation=after, turn=None)
        if after.failures > MAX_FAILURES:
            raise self._run_error(
                f"the model's calls have failed in {after.failures} turns in a row"
                f"{_last_failure(turn)}"
            )

    def _run_error(self, message: str) -> LLMStreamError:
        advice = "Run.state() has how far it is, and Client.resume_run goes on from there"
        return self._sealed(RunError(f"{message}: {advice}", turns=tuple(self.results)))


def _out_of_time(total: float) -> LLMStreamError:
    return DeadlineExceeded(
        f"the run did not end within {total:g} s (Timeouts.total), the hard deadline of its "
        "answers and tools together: Run.state() has how far it is",
        seconds=total,
    )


def _last_failure(turn: OpenTurn) -> str:
    for entry in reversed(turn.entries):
        if entry.failed and entry.error is not None:
            return f", the last one of {shown(entry.call.name)} with {type(entry.error).__name__}"
    return ""
