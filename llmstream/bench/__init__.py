"""`llmstream bench`: how fast a service answers under load, and what it costs the client.

    from llmstream import Client
    from llmstream.bench import Load, run

    for level in run(Client(), Load(concurrency=(1, 8, 32))):
        print(level.name, level.distributions["ttft"].p99)

Closed loop (so many streams at once) and open loop (so many requests a second, at random times).
Latency counts from the moment when a request was due, so a service that stalls cannot hide it by
being asked less.
"""

from __future__ import annotations

from .benchmark import Benchmark, run
from .level import LevelReport
from .load import Load
from .statistics import FORMULAS, Distribution, Goodput, Sample, percentile

__all__ = [
    "FORMULAS",
    "Benchmark",
    "Distribution",
    "Goodput",
    "LevelReport",
    "Load",
    "Sample",
    "percentile",
    "run",
]
