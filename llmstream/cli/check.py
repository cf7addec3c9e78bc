"""`llmstream check`: plays a service's failures to your own settings."""

from __future__ import annotations

import argparse
import sys

from .._core.dialects import APIS
from .._core.dialects.profiles import PROFILES
from .._core.recovery import POLICIES
from .._core.timers import Timeouts
from .command import Command, Parser

__all__ = ["CHECK"]

_RETRY_OPTIONS = {
    "base": "the first wait between attempts, in seconds",
    "cap": "the longest wait, in seconds",
    "jitter": "the random share of a wait, 0.25 for up to a quarter more",
    "max-retry-after": "the longest wait that a server may ask for, in seconds",
}


def _add_arguments(parser: Parser) -> None:
    parser.description = (
        "Play a service's failures to your own settings: rate limits, server errors, lost "
        "connections, cut answers, silence, pings, quota, and many streams at once, against a "
        "fault server in this process. Nothing is sent to a real service."
    )
    parser.epilog = (
        "SECONDS is a number or 'off', for --silence also 'auto'. Long clocks run faster than real "
        "time, and each line shows by how much. Exit codes: 0 if no check failed, 1 if one did, 2 "
        "for a mistake in the options."
    )
    add = parser.add_argument
    add("--client", metavar="MODULE:NAME", help="your own Client, or a function that returns one")
    add("--api", choices=list(APIS), help="the API that the service speaks")
    for clock in Timeouts.__struct_fields__:
        option = clock.replace("_", "-")
        kind = _seconds_or_auto if clock == "silence" else _seconds
        add(f"--{option}", type=kind, metavar="SECONDS", help=f"the clock {clock}")
    add("--max-attempts", type=int, metavar="N", help="attempts in all, the first one included")
    for name, what in _RETRY_OPTIONS.items():
        add(f"--{name}", type=float, metavar="NUMBER", help=what)
    add("--on-disconnect", metavar="POLICY", help=", ".join(POLICIES))
    add("--profile", metavar="NAME", help=f"how the server differs: {', '.join(PROFILES)}")
    add("--real-time", action="store_true", help="let no clock run faster: takes minutes")
    add("--json", action="store_true", help="print one JSON object a line, the summary last")


def _seconds(text: str) -> float | str:
    if text == "off":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither seconds nor 'off'") from None


def _seconds_or_auto(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return _seconds(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither seconds nor 'auto' nor 'off'"
        ) from None


def _run(options: argparse.Namespace) -> int:
    from ..check import report, settings_from

    return report(settings_from(vars(options)), sys.stdout, as_json=options.json)


CHECK = Command(
    "play a service's failures to your settings before the launch", _add_arguments, _run
)
