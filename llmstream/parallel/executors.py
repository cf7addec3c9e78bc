"""The calls of a batch in an executor: threads, processes, or the workers of a cluster.

What is submitted is a `Task`. Where it arrives in the process that has made it, it makes the call
as a worker thread would. Elsewhere it makes the call with a client of that process, which has the
settings of the batch's client, and returns how the call ended.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol

from .._core.checks import shown
from .._runtime.deferred import defer
from .._runtime.fork import in_child, renew_in_child
from .._runtime.ids import random_id
from .._runtime.threads import Lock
from ..errors import Cancelled, ConfigurationError, LLMStreamError
from .prompts import Ask
from .run import Run
from .submissions import Submissions
from .workers import Calls, Ended, MakeStream, make_call

__all__ = ["ExecutorCrew", "Remote", "checked_executor", "is_threads"]

_CLIENTS = 8  # that a process keeps for the batches of others
_BATCHES = 64  # that are remembered for each of them
_NO_CHUNKS = (
    "chunks() needs calls in this process, and this executor makes them in others: iterate the "
    "batch for whole answers, or leave executor out"
)


class _Client(Protocol):
    """What another process makes for itself."""

    @property
    def stream(self) -> MakeStream: ...


class Remote(NamedTuple):
    """How another process makes a client like this one. Pickles without the key, unless the
    settings are those of `with_key()`. `make_client` is `Client.from_settings`."""

    make_client: Callable[[Any], Any]
    settings: Any


def checked_executor(executor: Any) -> Executor | None:
    """Raises ConfigurationError."""
    if executor is None or isinstance(executor, Executor):
        return executor
    raise ConfigurationError(
        f"executor={shown(executor)}: pass a concurrent.futures.Executor, such as a "
        "ProcessPoolExecutor; of a Dask client it is client.get_executor(pure=False)"
    )


def is_threads(executor: Executor) -> bool:
    """Whether it is known to make the calls in this process."""
    return isinstance(executor, ThreadPoolExecutor)


class Task(NamedTuple):
    """One call, as it is submitted. `batch` and `process` are where it comes from."""

    batch: str
    process: str
    ask: Ask
    wants_chunks: bool
    remote: Remote


class ExecutorCrew:
    """The crew of a batch that has an executor. The executor stays its owner's: nothing here shuts
    it down."""

    ahead = 0  # else more calls would run than the batch has workers

    def __init__(
        self,
        run: Run,
        make_stream: MakeStream,
        executor: Executor,
        remote: Remote,
        submissions: Submissions,
    ) -> None:
        self._run = run
        self._submissions = submissions
        self.calls = Calls(run, make_stream)
        self._executor = executor
        self._remote = remote
        self._batch = random_id(128)
        self._futures: dict[int, tuple[Ask, Future[Any]]] = {}

    def check_chunks(self) -> None:
        from concurrent.futures import ProcessPoolExecutor

        # Of another executor it is known once a call arrives in another process.
        if isinstance(self._executor, ProcessPoolExecutor):
            raise ConfigurationError(_NO_CHUNKS)

    def begin(self, ask: Ask) -> None:
        _crews[self._batch] = self
        if "trace_id" not in ask.options:  # here, so that a call whose worker dies has one too
            ask = Ask(ask.index, ask.given, ask.prompt, {**ask.options, "trace_id": random_id(128)})
        stopped = None if self._submissions.wait(ask) else self._run.stopped
        if stopped is not None:
            self._run.end(ask, None, stopped.error())
            return
        task = Task(self._batch, _process.id, ask, self._run.chunks is not None, self._remote)
        try:
            future = self._executor.submit(_perform, task)
        except BaseException as exc:
            self._submissions.ended(ask, None, None)
            if isinstance(exc, LLMStreamError):
                raise
            raise _lost("the executor takes no call", exc, ask) from exc
        self._futures[ask.index] = ask, future
        future.add_done_callback(partial(self._done, ask))
        if self._run.stopped is not None:  # in this order: `stop` cancels it, or it is done here
            self.stop(None)

    def _done(self, ask: Ask, future: Future[Any]) -> None:
        """In whichever thread the executor calls it."""
        self._futures.pop(ask.index, None)
        result: Any = None
        error: LLMStreamError | None = None
        try:
            ended = future.result(timeout=0)
            result, error = ended if ended is not None else (None, None)
        except LLMStreamError as exc:  # the settings do not pickle
            error = exc
        except BaseException as exc:
            stopped = self._run.stopped
            error = _lost("the executor has lost the call", exc, ask)
            if future.cancelled() and stopped is not None:
                error = stopped.error()
        self._submissions.ended(ask, result, error)
        if result is None and error is None:  # then it was made here, and has ended
            error = LLMStreamError("the executor returned before the call had ended")
        self._run.end(ask, result, error)

    def stop(self, reason: str | None) -> None:
        self.calls.stop(reason)
        self._submissions.stop()
        # In a thread of its own: the executor's locks are not made for finalizers and interrupts.
        defer(self._cancel_futures)

    def _cancel_futures(self) -> None:
        stopped = self._run.stopped
        for ask, future in list(self._futures.copy().values()):
            with contextlib.suppress(Exception):  # of somebody else's executor
                future.cancel()
            if not self.calls.has(ask.index) and stopped is not None:
                self._run.end(ask, None, _left_behind(ask, stopped.reason))

    def finish(self) -> None:
        _crews.pop(self._batch, None)


def _lost(what: str, exc: BaseException, ask: Ask) -> LLMStreamError:
    error = LLMStreamError(f"{what} ({type(exc).__name__}: {exc})")
    error.__cause__ = exc
    error.trace_id = ask.options.get("trace_id")
    error.retryable = True
    return error


def _left_behind(ask: Ask, reason: str | None) -> Cancelled:
    why = f" ({reason})" if reason else ""
    error = Cancelled(
        f"the batch was cancelled{why}; if the executor had begun this call in another process, it "
        "runs there to its end",
        reason=reason,
    )
    error.trace_id = ask.options.get("trace_id")
    return error


class _Process:
    """This process. Its number would not do: a worker on another machine may have the same."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.id = random_id(128)


_process = _Process()
in_child(_process.renew)
_crews: dict[str, ExecutorCrew] = {}  # that have calls in an executor


# ---- where the task arrives --------------------------------------------------------------------


def _perform(task: Task) -> Ended | None:
    """Make the call of a task. None: the batch is of this process, and knows how it has ended."""
    if task.process == _process.id:
        crew = _crews.get(task.batch)
        if crew is not None:  # else the batch was cancelled
            crew.calls.make(task.ask)
        return None
    if task.wants_chunks:
        return None, ConfigurationError(_NO_CHUNKS)
    try:
        client = _client_for(task)
    except LLMStreamError as exc:
        return None, exc
    return make_call(client.stream, task.ask)


class _Known:
    """A client of this process, and for whom it was made."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.client: _Client = remote.make_client(remote.settings)
        self.batches: deque[str] = deque(maxlen=_BATCHES)


_known: deque[_Known] = deque(maxlen=_CLIENTS)
_lock = Lock()  # held while a client is made, so that one is made and others wait for it
renew_in_child(sys.modules[__name__], _lock=Lock)


def _client_for(task: Task) -> _Client:
    """The client of this process with the settings of the batch. Raises ConfigurationError."""
    with _lock:
        for known in _known:
            # Settings with a function that returns the key are never equal to others.
            if task.batch in known.batches or task.remote == known.remote:
                break
        else:
            known = _Known(task.remote)
            _known.append(known)
        if task.batch not in known.batches:
            known.batches.append(task.batch)
        return known.client
