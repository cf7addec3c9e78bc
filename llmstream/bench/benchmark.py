"""Runs the levels of a load one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from .._core.dialects import APIS
from .._runtime.clock import SYSTEM_CLOCK, Clock
from ..client import Client
from ..stream import Stream
from .arrivals import ClosedLoop
from .generator import Generator
from .level import LevelReport, report
from .load import Level, Load
from .statistics import Sample

__all__ = ["Benchmark", "run"]


class Benchmark:
    """Loads a service through a client, and measures.

    Args:
        client: whose service is measured, with its clocks and retries; all requests go through it.
        load: see `Load`.
        clock: the clock of the client, where it has a double.
        each: called about twice a second with the level's name and the load generator.

    Attributes:
        reports: the levels that have ended. After an interrupt, or an error of the settings, the
            last one is that of the level that was cut, as far as it was measured.

    Raises ConfigurationError for a load that cannot work. One thread at a time may use it.
    """

    def __init__(
        self,
        client: Client,
        load: Load,
        *,
        clock: Clock = SYSTEM_CLOCK,
        each: Callable[[str, Generator], object] | None = None,
    ) -> None:
        self._client = client
        self._load = load.checked()
        self._clock = clock
        self._each = each
        self._timeouts = load.timeouts(client.settings.timeouts)
        self._retry = load.retry(client.settings.retry)
        self.reports: list[LevelReport] = []

    def run(self) -> Iterator[LevelReport]:
        """Run each level, and yield its figures.

        Failures of the service are figures. Raises ConfigurationError for settings of the client
        that cannot work, and lets an interrupt through, after it has cancelled what runs.
        """
        for number, level in enumerate(self._load.levels()):
            self._run_level(number, level)
            yield self.reports[-1]

    def _run_level(self, number: int, level: Level) -> None:
        prompt = self._load.prompt(number)

        def ask(of: int) -> Stream:
            return self._client.stream(
                prompt(of),
                max_output_tokens=self._load.max_output_tokens,
                timeouts=self._timeouts,
                retry=self._retry,
            )

        warmup = self._warm_up(level, ask)
        total = self._timeouts.total
        generator = Generator(
            ask,
            self._load.arrivals(level),
            level.concurrency,
            at_once=level.rate is None,
            patience=math.inf if total is None else total,
            clock=self._clock,
        )
        cut: str | None = "it was interrupted"
        try:
            self._play(generator, level)
            cut = None
        except Exception as error:
            cut = f"{type(error).__name__}, see the message"
            raise
        finally:
            if generator.samples or cut is None:
                self.reports.append(
                    report(
                        generator.samples,
                        generator.gaps,
                        concurrency=level.concurrency,
                        rate=level.rate,
                        begun=generator.begun,
                        ended=generator.ended,
                        unsent=generator.unsent,
                        limits=self._load.limits,
                        warmup=warmup,
                        stopped=cut or generator.stopped,
                        cached_beside=APIS[self._client.settings.api].cached_beside,
                        connections=self._client.settings.max_connections,
                    )
                )

    def _warm_up(self, level: Level, ask: Callable[[int], Stream]) -> Sequence[Sample]:
        """Requests that do not count. Their prompts are not those of the measured ones."""
        if not level.warmup:
            return ()
        generator = Generator(
            lambda number: ask(-1 - number),
            ClosedLoop(level.warmup, None),
            min(level.warmup, level.concurrency),
            at_once=True,
            clock=self._clock,
        )
        self._play(generator, level)
        return generator.samples

    def _play(self, generator: Generator, level: Level) -> None:
        if self._each is None:
            generator.run()
            return
        each, name = self._each, level.name
        generator.run(lambda playing: each(name, playing))


def run(client: Client, load: Load) -> Iterator[LevelReport]:
    """Run `load` against the client's service, and yield the figures of each level when it has
    ended. Raises ConfigurationError; failures of the service are figures."""
    return Benchmark(client, load).run()
