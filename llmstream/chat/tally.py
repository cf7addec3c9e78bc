"""Tokens and cost of all answers of a conversation."""

from __future__ import annotations

from decimal import Decimal

from ..result import Cost, Result, total_usage, whole_prompt

__all__ = ["Tally"]


class Tally:
    """Counts what was used, also by answers that were replaced, cut off or failed.

    Tokens are what the service reported, over all requests that were made. Where one reported
    nothing, the sums are what is known of them, and the sentence says so.
    """

    def __init__(self) -> None:
        self.answers = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.whole = True  # whether every request reported its tokens
        self._costs: dict[str, Decimal] = {}
        self._cost_is_whole = True

    def add(self, result: Result, cached_beside: bool, cost: Cost | None) -> None:
        """An answer, or what had arrived of one; `cached_beside` as in `whole_prompt`."""
        self.answers += bool(result.text or result.refusal or result.finish)
        sent = [attempt for attempt in result.attempts if attempt.status is not None]
        usages = [attempt.usage for attempt in sent if attempt.usage is not None]
        used = total_usage(usages)
        into, out = whole_prompt(used, cached_beside), used.output_tokens
        self.tokens_in += into or 0
        self.tokens_out += out or 0
        answered = [attempt for attempt in sent if (attempt.status or 0) < 300]
        reported = all(
            attempt.usage is not None and attempt.usage.output_tokens is not None
            for attempt in answered
        )
        if answered and not (reported and into is not None):
            self.whole = False
        if cost is not None:
            known = self._costs.get(cost.currency, Decimal(0))
            self._costs[cost.currency] = known + cost.amount
            self._cost_is_whole &= not cost.lower_bound
        elif answered:
            self._cost_is_whole = False

    def sentence(self) -> str:
        """Such as "3 answers, 120 tokens in, 512 tokens out, at least 0.0021 USD"."""
        least = "" if self.whole else "at least "
        parts = [
            f"{self.answers} {'answer' if self.answers == 1 else 'answers'}",
            f"{least}{self.tokens_in:,} tokens in",
            f"{least}{self.tokens_out:,} tokens out",
            *self.costs(),
        ]
        return ", ".join(parts)

    def costs(self) -> list[str]:
        """The known cost in each currency."""
        least = "" if self._cost_is_whole else "at least "
        return [f"{least}{_amount(sum_)} {name}" for name, sum_ in self._costs.items()]


def _amount(amount: Decimal) -> str:
    """At most four digits that are not zero after the point, and two at least."""
    places = 2 if amount >= 1 or not amount else max(2, 1 - amount.adjusted() + 1)
    return f"{amount:.{min(places, 8)}f}"
