"""What a benchmark does: how much load, of which kind, and for how long."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from .._core.checks import checked_range, few, is_whole, shown
from .._core.retry import RetryPolicy
from .._core.timers import Timeouts
from .._settings.arguments import checked_count, checked_flag, checked_prompt
from ..errors import ConfigurationError
from .arrivals import Arrivals, ClosedLoop, OpenLoop
from .prompts import Prompt, built_in, cycle
from .statistics import LIMITED

__all__ = ["Level", "Load"]

_MOST_STREAMS = 10_000  # a thread each
_MOST_REQUESTS = 200_000  # of a level: the measurements of all are kept
_LONGEST = 86_400.0  # seconds
_MOST_WORDS = 1_000_000
_LEAST_REQUESTS = 20  # of a level, where nothing is given
_ROUNDS = 5  # requests for each stream at once, where nothing is given
_SECONDS = 30.0  # of an open loop, where nothing is given
_WARM = 4  # streams at once that warm up an open loop
_TOTAL = 120.0  # seconds of a request, where nothing is given


class Level(Struct, frozen=True, kw_only=True):
    """One number of streams at once, or one rate of arrivals.

    `requests`, `duration` and `warmup` are what holds for it, see `Load`.
    """

    concurrency: int
    rate: float | None
    requests: int | None
    duration: float | None
    warmup: int

    @property
    def name(self) -> str:
        """ "concurrency 8", or "rate 4 a second"."""
        if self.rate is None:
            return f"concurrency {self.concurrency}"
        return f"rate {self.rate:g} a second"


class Load(Struct, frozen=True, kw_only=True):
    """How a service is loaded. Levels run one after another.

    Args:
        concurrency: closed loop, a level for each number: so many streams at once, each of which
            asks again when its answer has ended. Default: 8.
        rate: open loop, a level for each number: so many requests a second, whatever the service
            does. Excludes `concurrency`.
        constant: requests of an open loop are evenly spaced; default: a Poisson process.
        requests: of each level. Default: 20, or five for each stream at once where that is more;
            with `duration` as many as there is time for.
        duration: seconds in which requests of a level start, at most 200,000. Those that run then
            are waited for. Default for an open loop without `requests`: 30.
        max_concurrency: of an open loop, streams at once; a request that is due when all are busy
            is sent later, and its latency counts from the moment when it was due.
        warmup: requests before each level, which do not count: they open connections, and let the
            service load what it needs. Default: one for each stream at once (open loop: 4).
        prompts: what is asked in turn. Default: made, with a beginning of its own for each
            request, so that no cache of the service knows it.
        prompt_words: words of the made prompts, in turn. Default: 100.
        max_output_tokens: of each answer; default 128. None: the service's own limit.
        total: seconds that a request may take, from its start; a longer one fails with
            DeadlineExceeded. None: only the client's own clocks hold. Default: the client's
            `total` clock, else 120.
        max_attempts: attempts of a request, the first one included; 1: no retries. Default: as
            many as the client's.
        limits: milliseconds for "ttft", "ttfo", "itl" (a request's longest gap), "tpot" and "e2e":
            the requests within all of them are the goodput.
        seed: of the made prompts and the moments of arrival. Default: a random one.

    `checked()` raises ConfigurationError for what cannot work.
    """

    concurrency: Sequence[int] = (8,)
    rate: Sequence[float] = ()
    constant: bool = False
    requests: int | None = None
    duration: float | None = None
    max_concurrency: int = 256
    warmup: int | None = None
    prompts: Sequence[Prompt] | None = None
    prompt_words: Sequence[int] = (100,)
    max_output_tokens: int | None = 128
    total: float | str | None = "auto"
    max_attempts: int | None = None
    limits: Mapping[str, float] = {}
    seed: int = msgspec.field(default_factory=lambda: random.SystemRandom().getrandbits(32))

    def checked(self) -> Load:
        """Itself, where all of it can work. Raises ConfigurationError."""
        for count in few("concurrency", self.concurrency, "numbers"):
            checked_count("concurrency", count, _MOST_STREAMS)
        for rate in few("rate", self.rate, "numbers"):
            checked_range("rate", rate, 0.0001, 100_000)
        if not self.concurrency and not self.rate:
            raise ConfigurationError("concurrency: give at least one number, or a rate")
        checked_flag("constant", self.constant)
        if self.requests is not None:
            checked_count("requests", self.requests, _MOST_REQUESTS)
        if self.duration is not None:
            checked_range("duration", self.duration, 0.001, _LONGEST)
        checked_count("max_concurrency", self.max_concurrency, _MOST_STREAMS)
        if self.warmup is not None and not is_whole(self.warmup, 0, _MOST_STREAMS):
            raise ConfigurationError(
                f"warmup={shown(self.warmup)}: pass a whole number from 0 to {_MOST_STREAMS:,}"
            )
        if not is_whole(self.seed, 0, 2**64 - 1):
            raise ConfigurationError(f"seed={shown(self.seed)}: pass a whole number of at least 0")
        self._check_prompts()
        self._check_limits()
        return self

    def _check_prompts(self) -> None:
        if self.prompts is not None:
            if isinstance(self.prompts, str) or not self.prompts:
                raise ConfigurationError("prompts: give a list of at least one prompt")
            for prompt in self.prompts:
                checked_prompt(prompt)
        words = few("prompt_words", self.prompt_words, "numbers")
        if not words:
            raise ConfigurationError("prompt_words: give at least one number")
        for count in words:
            checked_count("prompt_words", count, _MOST_WORDS)
        if self.max_output_tokens is not None:
            checked_count("max_output_tokens", self.max_output_tokens)

    def _check_limits(self) -> None:
        if self.total not in ("auto", None):
            Timeouts(total=self.total)  # type: ignore[arg-type]
        if self.max_attempts is not None:
            RetryPolicy(max_attempts=self.max_attempts)
        for metric, limit in self.limits.items():
            if metric not in LIMITED:
                raise ConfigurationError(
                    f"goodput: {shown(metric)} is not known: use {', '.join(LIMITED)}"
                )
            checked_range(f"goodput {metric}", limit, 0, _LONGEST * 1000)

    @property
    def open(self) -> bool:
        return bool(self.rate)

    def levels(self) -> list[Level]:
        if self.rate:
            warm = min(_WARM, self.max_concurrency) if self.warmup is None else self.warmup
            endless = self.requests is None and self.duration is None
            duration = _SECONDS if endless else self.duration
            return [
                Level(
                    concurrency=self.max_concurrency,
                    rate=rate,
                    requests=self.requests,
                    duration=duration,
                    warmup=warm,
                )
                for rate in self.rate
            ]
        return [
            Level(
                concurrency=count,
                rate=None,
                requests=self._requests_of(count),
                duration=self.duration,
                warmup=count if self.warmup is None else self.warmup,
            )
            for count in self.concurrency
        ]

    def _requests_of(self, concurrency: int) -> int | None:
        if self.requests is not None or self.duration is not None:
            return self.requests
        return max(_LEAST_REQUESTS, _ROUNDS * concurrency)

    def arrivals(self, level: Level) -> Arrivals:
        requests = level.requests or _MOST_REQUESTS
        if level.rate is None:
            return ClosedLoop(requests, level.duration)
        return OpenLoop(
            level.rate, requests, level.duration, seed=self.seed, constant=self.constant
        )

    def prompt(self, level: int) -> Callable[[int], Prompt]:
        """The function from the number of a request to its prompt, for the level with that number.
        Given prompts are the same in each level, made ones are not."""
        if self.prompts is not None:
            return cycle(self.prompts)
        return built_in(self.prompt_words, f"{self.seed}:{level}")

    def retry(self, own: RetryPolicy) -> RetryPolicy:
        """The retries of a request of a client that has `own`."""
        if self.max_attempts is None:
            return own
        return msgspec.structs.replace(own, max_attempts=self.max_attempts)

    def timeouts(self, own: Timeouts) -> Timeouts:
        """The clocks of a request of a client whose clocks are `own`."""
        total: Any = self.total
        if total == "auto":
            total = _TOTAL if own.total is None else own.total
        return msgspec.structs.replace(own, total=total)
