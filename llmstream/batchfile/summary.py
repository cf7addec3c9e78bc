"""What a run has done, in numbers."""

from __future__ import annotations

import contextlib
import importlib
from collections import Counter
from decimal import Decimal

from .._core.dialects import APIS
from ..errors import ConfigurationError
from ..readers.outcome import Outcome
from ..result import Result, Usage, whole_prompt

__all__ = ["Summary"]


class Summary:
    """The counts of one run. One thread adds; any thread may read.

    `answered` and `failed` (by the name of the error) are rows that this run has asked; `skipped`
    rows are in the output from before, `skipped_errors` of them with an error. `unsaved` answers
    were received and could not be written. `tokens_in` and `tokens_out` are those that the service
    has reported, of all calls and retries, however they ended; `cost` (USD) is None where nothing
    is known.
    """

    def __init__(self, api: str) -> None:
        self._cached_beside = APIS[api].cached_beside
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self.skipped = 0
        self.skipped_errors = 0
        self.unsaved = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.cost: Decimal | None = None
        self.cost_is_partial = False

        # The price list takes half a second to import: not while the first answers wait for it.
        with contextlib.suppress(ImportError):
            importlib.import_module("genai_prices")

    @property
    def is_empty(self) -> bool:
        """Whether no row was looked at to its end."""
        return not (self.answered or self.failed or self.skipped or self.unsaved)

    @property
    def all_succeeded(self) -> bool:
        return not (self.failed or self.skipped_errors or self.unsaved)

    def count_tokens(self, outcome: Outcome) -> float | None:
        """Add the tokens and the cost of a call; returns the cost in USD, None where unknown."""
        result = _result(outcome)
        attempts = result.attempts or (outcome.error.attempts if outcome.error else ())
        for usage in [attempt.usage for attempt in attempts] or [result.usage]:
            self._add(usage)
        return self._add_cost(result)

    def count(self, outcome: Outcome) -> None:
        """Add a row whose line is written."""
        if outcome.error is None:
            self.answered += 1
        else:
            self.failed[type(outcome.error).__name__] += 1

    def _add(self, usage: Usage | None) -> None:
        if usage is not None:
            self.tokens_in += whole_prompt(usage, self._cached_beside) or 0
            self.tokens_out += usage.output_tokens or 0

    def _add_cost(self, result: Result) -> float | None:
        try:
            cost = result.cost()
        except ConfigurationError:  # there is no price list
            cost = None
        if cost is None:
            self.cost_is_partial |= bool(result.text) or result.usage != Usage()
            return None
        self.cost = (self.cost or Decimal(0)) + cost.amount
        self.cost_is_partial |= cost.lower_bound
        return float(cost.amount)

    def text(self, seconds: float) -> str:
        """The numbers in a line."""
        parts = [f"{self.answered:,} answered"]
        if self.failed:
            each = ", ".join(f"{name} {count:,}" for name, count in self.failed.most_common())
            parts.append(f"{self.failed.total():,} failed ({each})")
        if self.skipped:
            errors = f", {self.skipped_errors:,} of them failed" if self.skipped_errors else ""
            parts.append(f"{self.skipped:,} were in the output already{errors}")
        if self.unsaved:
            parts.append(f"{self.unsaved:,} received and not written")
        parts.append(f"tokens in {self.tokens_in:,}, tokens out {self.tokens_out:,}")
        if self.cost is not None:
            least = "at least " if self.cost_is_partial else ""
            parts.append(f"cost {least}{self.cost.normalize():f} USD")
        parts.append(f"{seconds:.1f} s")
        return ", ".join(parts)


def _result(outcome: Outcome) -> Result:
    if outcome.result is not None:
        return outcome.result
    return outcome.error.partial if outcome.error is not None else Result()
