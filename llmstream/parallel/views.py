"""The views of a batch: outcomes as the calls end, chunks as they arrive, results in order."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from .._runtime.frames import forget_variables
from ..errors import BatchError, Cancelled, ConfigurationError, LLMStreamError
from ..readers.outcome import Outcome
from ..result import Chunk, Result
from .run import Run, Stop

__all__ = ["ChunkView", "OutcomeView", "all_results", "read"]

T = TypeVar("T")


def read(run: Run, step: Callable[[], T]) -> T:
    """`step`, as the one reader of the batch. An interrupt in it ends all calls at once."""
    try:
        run.check_reader()
        with run.reader:
            run.start()
            return step()
    except BaseException as exc:
        if isinstance(exc, ConfigurationError) and exc is not run.failure:
            raise  # nothing was read
        run.bar.close()
        if exc is not run.failure and not isinstance(exc, StopIteration):
            if not isinstance(exc, LLMStreamError):
                run.cancel("interrupted")
            forget_variables(exc)  # the outcomes
        raise


def _raise_failure(run: Run) -> None:
    """Raises what has kept prompts from being drawn, if something has."""
    if run.failure is not None:
        raise run.failure
    if run.stopped is not None and not run.exhausted:
        raise _cancelled(run.stopped, "before all prompts had been drawn from their iterator")


def _cancelled(stopped: Stop, when: str) -> Cancelled:
    why = f" ({stopped.reason})" if stopped.reason else ""
    return Cancelled(f"the batch was cancelled{why} {when}", reason=stopped.reason)


class OutcomeView:
    """The iterator of the outcomes. Not a generator: after an exception it goes on.

    An outcome is taken from the batch when the next one is asked for. So one that an interrupt has
    kept from the caller comes again.
    """

    def __init__(self, run: Run, handle: Any) -> None:
        self._run = run
        self._handle = handle  # the batch is cancelled when the last of its handles is dropped
        self._rest: Iterator[Outcome] | None = None
        self._shown: Outcome | None = None
        self.given: Outcome | None = None  # handed out, and still in the batch

    def __iter__(self) -> Iterator[Outcome]:
        return self

    def __next__(self) -> Outcome:
        outcome = read(self._run, self._next)
        self.given = outcome
        return outcome

    def _next(self) -> Outcome:
        run = self._run
        while True:
            run.listen()
            ended = run.ended
            if ended and ended[0] is self.given:
                ended.popleft()
                run.taken()
            if ended:
                if ended[0] is not self._shown:
                    self._shown = ended[0]
                    run.bar.show(ended[0])
                return ended[0]
            if run.is_done() and not ended:
                return self._left()
            if not ended:
                run.wait()

    def _left(self) -> Outcome:
        if self._rest is None:
            self._rest = self._run.rest()
        for outcome in self._rest:
            return outcome
        _raise_failure(self._run)
        raise StopIteration

    def close(self) -> None:
        """Cancel what still runs, as a generator's `close` would. Idempotent."""
        self._run.cancel("closed before the end")


class ChunkView:
    """The iterator of the chunks of all calls."""

    def __init__(self, run: Run, handle: Any) -> None:
        self._run = run
        self._handle = handle

    def __iter__(self) -> Iterator[tuple[int, Chunk]]:
        return self

    def __next__(self) -> tuple[int, Chunk]:
        return read(self._run, self._next)

    def _next(self) -> tuple[int, Chunk]:
        run = self._run
        while True:
            run.listen()
            run.bar.show_all(run.ended)
            chunk = run.take_chunk() if run.stopped is None else None
            if chunk is not None:
                return chunk
            if run.is_done() and (run.stopped is not None or not run.chunks):
                all_results(run)
                if run.stopped is not None:  # chunks may have been left out
                    raise _cancelled(run.stopped, "before its last chunk")
                raise StopIteration
            if run.stopped is not None or not run.chunks:
                run.wait()

    def close(self) -> None:
        """Cancel what still runs, as a generator's `close` would. Idempotent."""
        self._run.cancel("closed before the end")


def all_results(run: Run) -> list[Result]:
    """All results in order, once all calls have ended. Raises BatchError."""
    while not run.is_done():
        run.bar.show_all(run.ended)
        while run.take_chunk() is not None:  # whose view was left: its streams go on
            pass
        run.wait()
    run.bar.show_all(run.ended)
    run.ended.extend(run.rest())
    if run.failure is not None:
        raise run.failure
    outcomes = outcomes_of(run)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed:
        raise _batch_error(outcomes, failed)
    _raise_failure(run)
    return [outcome.result for outcome in outcomes if outcome.result is not None]


def outcomes_of(run: Run) -> tuple[Outcome, ...]:
    """The outcomes that are not taken, in the order of their prompts."""
    while True:
        with contextlib.suppress(RuntimeError):  # another one has come meanwhile
            return tuple(sorted(run.ended.copy(), key=lambda outcome: outcome.index))


def _batch_error(outcomes: tuple[Outcome, ...], failed: list[Outcome]) -> BatchError:
    kinds = Counter(type(outcome.error).__name__ for outcome in failed).most_common()
    first = failed[0]
    assert first.error is not None
    error = BatchError(
        f"{len(failed)} of {len(outcomes)} calls failed "
        f"({', '.join(f'{count} {name}' for name, count in kinds)}); prompts[{first.index}]: "
        f"{first.error.message.removeprefix(f'prompts[{first.index}]: ')}",
        outcomes=outcomes,
    )
    error.__cause__ = first.error
    error.retryable = all(o.error is not None and o.error.retryable for o in failed)
    return error
