"""Where the parts of a batch are put together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol

from .._call.limiter import Limiter, checked_rate_limit
from .._runtime.clock import Clock
from .._settings.arguments import checked_count, checked_flag, checked_policy
from ..errors import ConfigurationError
from ..readers.source import Source
from .bar import Bar, bar_class
from .batch import Batch
from .executors import ExecutorCrew, Remote, checked_executor, is_threads
from .prompts import Prompts
from .run import Run
from .submissions import Submissions
from .workers import MakeStream, Threads

__all__ = ["make_batch"]

_MOST_WORKERS = 10_000
_ANY = "-"  # a prompt, and a model, that are never sent


class MakeLimited(Protocol):
    """Makes a stream whose requests pass a limiter."""

    def __call__(self, limiter: Limiter | None, prompt: Any, /, **options: Any) -> Source: ...


def make_batch(
    make_stream: MakeLimited,
    prompts: Iterable[Any],
    names: Collection[str],
    shared: Mapping[str, Any],
    *,
    clock: Clock,
    max_workers: int,
    rate_limit: float | str | None,
    executor: Any,
    progress: bool,
    remote: Remote,
) -> Batch:
    """The batch of `Client.parallel`. `names` are the options of a call, `shared` those of all
    calls; `remote` makes a client in another process. Raises ConfigurationError."""
    max_workers = checked_count("max_workers", max_workers, _MOST_WORKERS)
    limit = checked_rate_limit(rate_limit)
    executor = checked_executor(executor)
    bar = bar_class() if checked_flag("progress", progress) else None
    drawn = Prompts(prompts, names, shared)
    _check_values(partial(make_stream, None), shared)
    run = Run(drawn, max_workers, copy_context(), Bar(bar, drawn.size))
    limiter = None if limit is None else Limiter(limit, max_workers, clock)
    if executor is None:
        run.crew = Threads(run, partial(make_stream, limiter))
        return Batch(run)
    # Where calls may be made in other processes, their submission is limited.
    of_requests, of_calls = (limiter, None) if is_threads(executor) else (None, limiter)
    run.crew = ExecutorCrew(
        run, partial(make_stream, of_requests), executor, remote, Submissions(of_calls, clock)
    )
    return Batch(run)


def _check_values(make_stream: MakeStream, shared: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for an option that can go with no prompt. Each is tried alone: what
    it needs beside it may be in the dict of a prompt. So may the model and the policy, in the place
    of the client's own."""
    plain: dict[str, Any] = {"on_disconnect": "raise"}
    try:
        make_stream(_ANY, **plain)
    except ConfigurationError:
        plain["model"] = _ANY  # there is no default
        make_stream(_ANY, **plain)
    for name, value in shared.items():
        if name == "on_disconnect" and value is not None:
            checked_policy(value)
            continue
        try:
            make_stream(_ANY, **{**plain, name: value})
        except ConfigurationError:
            if name == "model":
                raise
            make_stream(_ANY, **{**plain, "model": _ANY, name: value})
