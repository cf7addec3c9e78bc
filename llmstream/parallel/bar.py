"""The progress bar of a batch (tqdm, extra `progress`). Only the thread that reads draws it."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections import deque
from decimal import Decimal
from typing import Any

from .._runtime.threads import RLock, is_finalizing
from ..errors import ConfigurationError
from ..readers.outcome import Outcome

__all__ = ["Bar", "bar_class"]


def bar_class() -> Any:
    """tqdm's bar: a widget in a notebook, else a line on stderr. Raises ConfigurationError where
    tqdm is not installed."""
    try:
        tqdm = importlib.import_module("tqdm.auto").tqdm
    except ImportError as exc:
        raise ConfigurationError(
            f'progress=True needs tqdm ({exc}): pip install "llmstream-sync[progress]", or leave '
            "progress out"
        ) from exc
    # Without tqdm's monitor thread and its multiprocessing lock, which outlive the bar (the lock
    # with a process and a descriptor of its own where the start method is not fork).
    quiet: Any = type("_Bar", (tqdm,), {"monitor_interval": 0})
    quiet.set_lock(RLock())
    return quiet


class Bar:
    """Shows how many calls have ended, at which rate, how many failed, and what they cost as far as
    it is known. Never raises: a terminal that is gone does not end a batch."""

    def __init__(self, kind: Any, total: int | None) -> None:
        self._kind = kind
        self._total = total
        self._errors = 0
        self._cost = Decimal(0)
        self._shown = 0
        self._bar: Any = None

    def open(self) -> None:
        """Draw it for the first time."""
        if self._kind is not None and self._bar is None and sys.stderr is not None:
            with contextlib.suppress(Exception):
                self._bar = self._kind(total=self._total, unit="call")

    def show_all(self, ended: deque[Outcome]) -> None:
        """Show those that were not shown yet of outcomes that grow, and none is taken from."""
        while self._bar is not None and self._shown < len(ended):
            self.show(ended[self._shown])

    def show(self, outcome: Outcome) -> None:
        """One more call has ended."""
        if self._bar is None:
            return
        self._shown += 1
        self._errors += not outcome.ok
        self._cost += _cost(outcome)
        postfix = {"errors": str(self._errors)} if self._errors else {}
        if self._cost:
            postfix["cost"] = f"${self._cost:.4f}"
        with contextlib.suppress(Exception):
            self._bar.set_postfix(postfix, refresh=False)
            self._bar.update()

    def close(self) -> None:
        """Draw it for the last time. Idempotent."""
        bar, self._bar = self._bar, None
        if bar is not None:
            with contextlib.suppress(Exception):
                bar.disable = bar.disable or is_finalizing()  # tqdm's own finalizer takes a lock
                bar.close()


def _cost(outcome: Outcome) -> Decimal:
    known = outcome.result or (outcome.error and outcome.error.partial)
    cost = None
    with contextlib.suppress(Exception):  # without the extra `cost`
        cost = known.cost() if known else None
    return cost.amount if cost is not None else Decimal(0)
