"""Checks of waits that a clock has to end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

import msgspec

from .. import errors
from .._core.retry import RetryPolicy
from ..testing import Answer, Pause, Reply, Send, Silence, blackhole
from . import pace, wire
from .observed import judged
from .result import CheckResult, result
from .scenario import Scenario
from .settings import CheckSettings, clocks_of
from .wording import alternatives

__all__ = [
    "endless_answer",
    "hung_connect",
    "no_answer",
    "pings_before_answer",
    "pings_in_mid_answer",
    "silence_in_mid_answer",
]

# A clock's name -> the name of its error.
_ERRORS = {
    cls.clock: cls.__name__
    for cls in (
        errors.ConnectTimeout,
        errors.FirstTokenTimeout,
        errors.IdleTimeout,
        errors.SilenceTimeout,
        errors.DeadlineExceeded,
    )
}


def hung_connect(settings: CheckSettings) -> CheckResult:
    """A host that neither accepts nor refuses."""
    with contextlib.ExitStack() as stack:
        try:
            host, port = stack.enter_context(blackhole())
        except RuntimeError as error:
            return result("n/a", "an end by the connect clock", str(error))
        if sys.platform != "linux":
            # Elsewhere shutdown() does not end a connect. The socket's own timeout does, and that
            # one runs in real time.
            settings = msgspec.structs.replace(settings, real_time=True)
        return _ended_by_clock(
            settings,
            ("connect", "total"),
            "a connect that hangs",
            base_url=f"http://{host}:{port}/v1",
            retry=_once(settings.retry),
        )


def no_answer(settings: CheckSettings) -> CheckResult:
    """The service accepts the request and sends nothing at all."""
    return _ended_by_clock(
        settings,
        ("first_token", "total"),
        "a service that accepts the request and never answers",
        Reply(before=[Silence()]),
        retry=_first_token_policy(settings.retry),
    )


def pings_before_answer(settings: CheckSettings) -> CheckResult:
    """The service opens the stream and then sends only pings."""
    return _ended_by_clock(
        settings,
        ("first_token", "total"),
        "a stream that only pings before its first token",
        Reply([*wire.opening(settings.api), wire.pings(settings)]),
        retry=_first_token_policy(settings.retry),
    )


def pings_in_mid_answer(settings: CheckSettings) -> CheckResult:
    """The answer begins, then there are only pings."""
    return _ended_by_clock(
        settings,
        ("idle", "total"),
        "a stream that only pings",
        Reply([*wire.first_part(settings.api), wire.pings(settings)]),
        sent=wire.PART,
    )


def silence_in_mid_answer(settings: CheckSettings) -> CheckResult:
    """The answer begins, with a ping, then nothing more is received."""
    timeouts = settings.timeouts
    if timeouts.silence == "auto" and timeouts.idle is None and timeouts.total is None:
        what = "a connection that goes silent in mid-answer"
        seen = (
            f"nothing bounds {what} where the service never pings: silence is auto, and idle and "
            "total are off"
        )
        return result("FAIL", f"a clock that ends {what}", seen)
    return _ended_by_clock(
        settings,
        ("silence", "idle", "total"),
        "a connection that goes silent in mid-answer",
        Reply([*wire.first_part(settings.api), wire.ping(settings.api), Silence()]),
        sent=wire.PART,
    )


def endless_answer(settings: CheckSettings) -> CheckResult:
    """The answer goes on and on."""
    if settings.timeouts.total is None:
        seen = "total is off: only the service bounds an answer that goes on and on"
        return result("off", "DeadlineExceeded, where total is set", seen)
    words = Answer([f" word{n}" for n in range(400)]).blocks(settings.api)
    steps = [step for block in words for step in (Send(block), Pause(0.05))]
    return _ended_by_clock(settings, ("total",), "an answer without end", Reply(steps), sent=None)


def _once(policy: RetryPolicy) -> RetryPolicy:
    return msgspec.structs.replace(policy, max_attempts=1)


def _first_token_policy(policy: RetryPolicy) -> RetryPolicy:
    """The policy itself, so that a retry that may bill twice is found; one attempt where the
    policy asks for that retry."""
    return _once(policy) if policy.retry_first_token else policy


def _ended_by_clock(
    settings: CheckSettings,
    clocks: Sequence[str],
    what: str,
    *script: Reply,
    sent: str | None = "",
    base_url: str | None = None,
    retry: RetryPolicy | None = None,
) -> CheckResult:
    """`what` has to be ended by the first of `clocks` to run out; the first named is meant for it.

    `sent` is the text sent before the wait. None: some text, not compared.
    """
    chosen = {name: value for name, value in clocks_of(settings.timeouts) if name in clocks}
    on = {name: value for name, value in chosen.items() if value is not None}
    if not on:
        verb = "is" if len(clocks) == 1 else "are"
        seen = f"nothing bounds {what}: {' and '.join(clocks)} {verb} off"
        return result("FAIL", f"a clock that ends {what}", seen)
    due = min(on.values())
    with Scenario(settings, *script, lasts=due, kept=clocks, base_url=base_url) as scenario:
        observed = scenario.play(retry=retry or settings.retry)
    allowance = pace.LATE * observed.speed
    names = [_ERRORS[name] for name, value in on.items() if value <= due + allowance / 4]
    text_is_right = sent is None or observed.text == observed.delivered == sent
    return judged(
        f"{alternatives(names)} after {due:g} s{_why_another(clocks[0], chosen[clocks[0]], due)}",
        observed,
        (observed.ending in names, f"not {alternatives(names)}"),
        (observed.seconds >= due * 0.999, f"after {observed.seconds:.3g} s already"),
        (observed.seconds <= due + allowance, f"only after {observed.seconds:.3g} s"),
        (text_is_right, f"the text is {observed.text!r}"),
        (len(observed.attempts) == 1, "asked again"),
        more=f"after {observed.seconds:.4g} s",
        due=due,
    )


def _why_another(clock: str, seconds: float | None, due: float) -> str:
    """Why it is not the clock meant for the wait that ends it."""
    if seconds is None:
        return f" ({clock} is off)"
    return f" ({clock}={seconds:g} would end it later)" if seconds > due else ""
