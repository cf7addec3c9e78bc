"""`llmstream check`: plays a service's failures to your own settings, before the launch.

    from llmstream import Client, Timeouts
    from llmstream.check import run, settings_of

    client = Client(timeouts=Timeouts(total=45))
    for result in run(settings_of(client)):
        print(result.text())

Every check scripts a fault server on the loopback (`llmstream.testing.LLMServer`), points a client
with the settings at it, and compares what the call did with what the settings promise. Nothing is
sent anywhere else, and your key is not used.

Long clocks are not waited out. A check runs on a clock that is faster than the machine's, so that
the wait under test takes about a second. The clocks that are not under test are stretched by the
same factor: in real time they stay as long as they are set.
"""

from __future__ import annotations

from .checks import CHECKS
from .loading import load_client, settings_from
from .reporting import report
from .result import CheckResult
from .runner import run
from .settings import CheckSettings, settings_of

__all__ = [
    "CHECKS",
    "CheckResult",
    "CheckSettings",
    "load_client",
    "report",
    "run",
    "settings_from",
    "settings_of",
]
