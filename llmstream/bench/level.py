"""The figures of one level: of one number of streams at once, or of one rate of arrivals. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from ..result import whole_prompt
from .statistics import (
    METRICS,
    Distribution,
    Gaps,
    Goodput,
    Sample,
    distributions,
    error_counts,
    goodput,
    most_at_once,
)

__all__ = ["LevelReport", "report"]


class LevelReport(Struct, frozen=True, kw_only=True):
    """The figures of one level.

    Percentiles, tokens and throughput are those of the requests that were answered. The ones that
    failed are counted in `failed` and `errors`, have a distribution of their own (`failed_after`),
    and are in the denominator of `success` and of `goodput.share`.

    Attributes:
        concurrency: streams at once; in open loop the most that are allowed.
        rate: arrivals a second; None: closed loop.
        seconds: from the begin of the level to the end of its last request.
        requests: those that were due: answered, failed, and never sent. Without `interrupted`.
        ok, failed: how they ended.
        unsent: those that were due and not sent, because all streams were busy to the end.
        interrupted: those that ran when the benchmark was stopped; they are in no other figure.
        success: ok / requests.
        errors: failed requests by the class of the error; `examples` has a message of each.
        retries: attempts after the first ones; `retried` has them by the error before.
        warmup, warmup_failed: requests before the measured ones.
        most_at_once: the most streams that ran at one moment.
        distributions: of each metric, in ms.
        requests_per_second: ok / seconds.
        output_tokens_per_second: the tokens of all answers / seconds.
        tokens_per_second_per_stream: the mean of 1000 / tpot.
        input_tokens: the whole prompts of the answered requests, as the service reports them;
            None where it does not report all.
        output_tokens: as the service reports them, else chunks.
        tokens_from: "usage", "chunks", "usage and chunks", or "" where nothing was answered.
        received: bytes, headers and failed attempts included.
        goodput: None without limits.
        notes: what a reader has to know of this level, in sentences.
        begun: the begin, a moment of the clock of the samples.
        samples: the measurements, in the order in which the requests ended.
    """

    concurrency: int
    rate: float | None
    seconds: float
    requests: int
    ok: int
    failed: int
    unsent: int
    interrupted: int
    success: float | None
    errors: Mapping[str, int]
    examples: Mapping[str, str]
    retries: int
    retried: Mapping[str, int]
    warmup: int
    warmup_failed: int
    most_at_once: int
    distributions: Mapping[str, Distribution]
    requests_per_second: float | None
    output_tokens_per_second: float | None
    tokens_per_second_per_stream: float | None
    input_tokens: int | None
    output_tokens: int
    tokens_from: str
    received: int
    goodput: Goodput | None
    notes: tuple[str, ...]
    begun: float
    samples: Sequence[Sample]

    @property
    def name(self) -> str:
        """ "concurrency 8", or "rate 4 a second"."""
        if self.rate is None:
            return f"concurrency {self.concurrency}"
        return f"rate {self.rate:g} a second"

    def document(self) -> dict[str, Any]:
        """For JSON: every figure, with a key for each metric, and without the samples."""
        left_out = ("begun", "samples", "distributions")
        figures = {n: getattr(self, n) for n in self.__struct_fields__ if n not in left_out}
        return msgspec.to_builtins({**figures, **self.distributions})  # type: ignore[no-any-return]


def report(
    samples: Sequence[Sample],
    gaps: Gaps,
    *,
    concurrency: int,
    rate: float | None,
    begun: float,
    ended: float,
    unsent: int = 0,
    limits: Mapping[str, float] | None = None,
    warmup: Sequence[Sample] = (),
    stopped: str | None = None,
    cached_beside: bool = False,
    connections: int | None = None,
) -> LevelReport:
    """The figures of `samples`; `gaps` are those of the answered ones. `ended` is the end of the
    level, `stopped` why it has ended before its time; `cached_beside` is that of the API,
    `connections` the idle ones that the client keeps."""
    answered = [sample for sample in samples if sample.ok]
    failed = sum(sample.failed for sample in samples)
    requests = len(answered) + failed + unsent
    seconds = max(ended - begun, 0.0)
    errors, examples = error_counts(samples)
    figures = distributions(samples, gaps)
    at_once = most_at_once(samples)
    notes = _notes(samples, figures, concurrency, rate, unsent, stopped)
    if gaps.count > len(gaps.kept):
        notes.append(f"itl is that of a random {len(gaps.kept):,} of {gaps.count:,} gaps.")
    if connections is not None and connections < at_once:
        notes.append(
            f"The client keeps {connections} idle connections, and up to {at_once} streams ran at "
            "once: some requests connected anew. Client(max_connections=...) keeps more."
        )
    retried = Counter(error for sample in samples for error in sample.retried)
    tokens = sum(sample.tokens for sample in answered)
    speeds = [1000.0 / ms for sample in answered if (ms := sample.value("tpot"))]
    return LevelReport(
        concurrency=concurrency,
        rate=rate,
        seconds=seconds,
        requests=requests,
        ok=len(answered),
        failed=failed,
        unsent=unsent,
        interrupted=sum(sample.interrupted for sample in samples),
        success=len(answered) / requests if requests else None,
        errors=errors,
        examples=examples,
        retries=sum(retried.values()),
        retried=dict(retried.most_common()),
        warmup=len(warmup),
        warmup_failed=sum(not sample.ok for sample in warmup),
        most_at_once=at_once,
        distributions={metric: figures[metric] for metric in METRICS},
        requests_per_second=_rate(len(answered), seconds),
        output_tokens_per_second=_rate(tokens, seconds),
        tokens_per_second_per_stream=math.fsum(speeds) / len(speeds) if speeds else None,
        input_tokens=_input_tokens(answered, cached_beside),
        output_tokens=tokens,
        tokens_from=_tokens_from(answered),
        received=sum(sample.received for sample in samples),
        goodput=goodput(samples, limits, requests, seconds) if limits else None,
        notes=tuple(notes),
        begun=begun,
        samples=samples,
    )


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if seconds > 0 else None


def _input_tokens(answered: Sequence[Sample], cached_beside: bool) -> int | None:
    """The whole prompts, cached tokens included; None where one is not known."""
    each = [whole_prompt(sample.usage, cached_beside) for sample in answered]
    known = [tokens for tokens in each if tokens is not None]
    return sum(known) if known and len(known) == len(each) else None


def _tokens_from(answered: Sequence[Sample]) -> str:
    sources = Counter(sample.tokens_reported for sample in answered)
    names = {True: "usage", False: "chunks"}
    return " and ".join(name for reported, name in names.items() if sources[reported])


_LATE = 10.0  # ms: a dispatch delay that is worth a word
_LINGERED = 0.2  # seconds after an answer that are worth a word


def _notes(
    samples: Sequence[Sample],
    figures: Mapping[str, Distribution],
    concurrency: int,
    rate: float | None,
    unsent: int,
    stopped: str | None,
) -> list[str]:
    notes = []
    if stopped:
        notes.append(f"Ended before its time: {stopped}.")
    answered, failed = sum(s.ok for s in samples), sum(s.failed for s in samples)
    if failed:
        notes.append(
            f"{failed} of {answered + failed} requests failed: the percentiles are those of the "
            f"{answered} that were answered."
        )
    late = figures["dispatch"].p95
    if rate is not None and (unsent or (late is not None and late > _LATE)):
        if most_at_once(samples) >= concurrency:
            notes.append(
                f"The service did not keep up: all {concurrency} streams that max_concurrency "
                "allows were busy. The wait to be sent is in ttft, ttfo and e2e."
            )
        else:
            notes.append(
                "This machine sent requests late, by the dispatch delay; it is in ttft, ttfo and "
                "e2e."
            )
    if unsent:
        notes.append(f"{unsent} requests were due and never sent; they count as not answered.")
    uncounted = sum(not sample.tokens_reported for sample in samples if sample.ok)
    if uncounted:
        notes.append(
            f"Of {uncounted} answers the service reported no tokens: their chunks are counted."
        )
    lingered = [sample.lingered for sample in samples if sample.lingered > _LINGERED]
    if lingered:
        notes.append(
            f"After {len(lingered)} answers the service neither sent usage or [DONE] nor ended the "
            f"stream: the client waited up to {max(lingered):.1f} s for that, which is in no "
            "latency, but keeps its stream busy."
        )
    hidden = sum(sample.streamed_tokens != sample.tokens for sample in samples if sample.ok)
    if hidden:
        notes.append(
            f"{hidden} answers have reasoning tokens that were not streamed: tpot leaves them out."
        )
    return notes
