"""Runs the checks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from queue import Empty, SimpleQueue

import msgspec

from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.threads import spawn
from .checks import ALONE, CHECKS
from .result import CheckResult, result
from .settings import CheckSettings

__all__ = ["run"]

_WORKERS = 8  # checks that run at the same time


def run(settings: CheckSettings, names: Iterable[str] | None = None) -> Iterator[CheckResult]:
    """Run checks and yield each result, in the order of `CHECKS`.

    `names` are the checks to run. None: all. Up to 8 run at the same time; those that measure
    latency run alone, after the others. A check that breaks is a failed one: nothing is raised.
    """
    chosen = [name for name in CHECKS if names is None or name in set(names)]
    together = [name for name in chosen if name not in ALONE]
    results: dict[str, SimpleQueue[CheckResult]] = {name: SimpleQueue() for name in together}
    todo: SimpleQueue[str] = SimpleQueue()
    for name in together:
        todo.put(name)
    workers = [
        spawn(partial(_work, settings, todo, results), "check")
        for _ in range(min(_WORKERS, len(together)))
    ]
    try:
        for name in together:
            yield results[name].get()
    finally:  # a caller that stops early leaves the rest unstarted
        with contextlib.suppress(Empty):
            while True:
                todo.get_nowait()
    for worker in workers:
        worker.join()
    for name in chosen:
        if name in ALONE:
            yield _checked(name, settings)


def _work(
    settings: CheckSettings,
    todo: SimpleQueue[str],
    results: Mapping[str, SimpleQueue[CheckResult]],
) -> None:
    with contextlib.suppress(Empty):
        while True:
            name = todo.get_nowait()
            results[name].put(_checked(name, settings))


def _checked(name: str, settings: CheckSettings) -> CheckResult:
    begun = SYSTEM_CLOCK.monotonic()
    try:
        found = CHECKS[name](settings)
    except Exception as error:
        found = result("FAIL", "a check that works", f"{type(error).__name__}: {error}")
    seconds = SYSTEM_CLOCK.monotonic() - begun
    return msgspec.structs.replace(found, name=name, seconds=seconds)
