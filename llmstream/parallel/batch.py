"""Batch, the caller's handle of many calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from types import TracebackType

from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.threads import is_finalizing
from ..errors import ConfigurationError
from ..readers.outcome import Outcome
from ..result import Chunk, Result
from .run import Run
from .views import ChunkView, OutcomeView, all_results, outcomes_of, read

__all__ = ["Batch"]

_FAREWELL = 2.0  # seconds, at most, that leaving `with batch` waits for the calls to end


class Batch:
    """Many calls on their way. Made by `Client.parallel`; nothing is sent, no prompt is drawn and
    no thread starts before its first use.

    Iterate it for the outcomes, as the calls end; or call `results()` for all results in order; or
    iterate `chunks()` for what all streams bring, live. One of the three, in one thread.
    Everything else may be called from any thread at any time. Used as a context manager, leaving it
    cancels what still runs. A batch that is dropped is cancelled.

    A batch that has begun belongs to its process: in a forked child reading it raises
    ConfigurationError, and `cancel` has no effect on the parent's calls.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._cancel_when_dropped = _CancelWhenDropped(run)
        run.cancel_when_dropped(self._cancel_when_dropped)
        self._view_name = ""
        self._outcomes: OutcomeView | None = None  # the view, once it is chosen

    def __repr__(self) -> str:
        run = self._run
        return f"<Batch {'ended' if run.over else 'running' if run.started else 'not started'}>"

    # -- the views

    def __iter__(self) -> Iterator[Outcome]:
        """The outcomes, as the calls end. Always the same iterator: after a `break` another loop
        goes on with it.

        Each prompt that was drawn has one outcome. An exception that the iterator of prompts has
        raised is raised after the outcomes of the prompts before it. After `cancel` the calls that
        had not ended have an outcome with Cancelled; so has every further prompt of a list. Of
        another iterator no further prompt is drawn, and Cancelled is raised at the end.
        """
        if self._outcomes is None:
            self._check_view()
            self._outcomes = OutcomeView(self._run, self._cancel_when_dropped)
        self._view_name = "iteration"
        return self._outcomes

    def __next__(self) -> Outcome:
        return next(iter(self))

    def chunks(self) -> Iterator[tuple[int, Chunk]]:
        """Every piece of every answer as it arrives, with the index of its prompt. After the last
        one it raises BatchError if a call has failed. `results()` may follow, and reads the rest;
        the outcomes are kept for it. Raises ConfigurationError where an executor makes the calls in
        other processes."""
        self._check_view()
        self._run.crew.check_chunks()
        self._run.keeps = True
        self._run.want_chunks()
        view = ChunkView(self._run, self._cancel_when_dropped)
        self._view_name = "chunks()"
        return view

    def results(self) -> list[Result]:
        """All results in the order of the prompts, once all calls have ended. Raises BatchError,
        which has all outcomes, if a call has failed. May be called again."""
        if self._view_name not in ("results()", "chunks()"):
            self._check_view()
            self._run.keeps = True
            self._view_name = "results()"
        results = read(self._run, partial(all_results, self._run))
        self._run.bar.close()
        return results

    def _check_view(self) -> None:
        if self._view_name:
            raise ConfigurationError(
                f"this batch is already being read by {self._view_name}: a batch has one reader "
                "and one view"
            )

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The outcomes so far, in the order of the prompts, without those that the iteration has
        handed out."""
        given = self._outcomes and self._outcomes.given
        return tuple(outcome for outcome in outcomes_of(self._run) if outcome is not given)

    # -- ending it

    def cancel(self, reason: str | None = None) -> None:
        """End all calls now, in whatever phase they are, and begin no further one. Returns at once;
        idempotent; no effect once the batch has ended."""
        self._run.cancel(reason)

    def close(self) -> None:
        """Cancel what still runs, and wait until it has ended, 2 s at most. Idempotent."""
        run = self._run
        if run.is_parents:
            return
        run.bar.close()
        if run.over or is_finalizing():
            return
        run.cancel("closed before the end")
        if not run.reader.locked():  # its reader waits for the same
            with run.reader:
                until = SYSTEM_CLOCK.monotonic() + _FAREWELL
                while run.running and (left := until - SYSTEM_CLOCK.monotonic()) > 0:
                    SYSTEM_CLOCK.wait(run.bell, left)

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _CancelWhenDropped:
    """Held by a batch and by its view: when the last of them is dropped, the calls are cancelled.
    It refers to neither, and the run to none of the three, so that needs no garbage collector."""

    __slots__ = ("__weakref__", "_run")

    def __init__(self, run: Run) -> None:
        self._run = run

    def __del__(self) -> None:
        # At interpreter exit parts of this may be gone already.
        with contextlib.suppress(Exception):
            run = self._run
            if not run.over:
                run.cancel("the batch was dropped before its end")
            if not run.is_parents:
                run.bar.close()
