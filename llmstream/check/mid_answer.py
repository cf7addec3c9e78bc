"""Checks of failures in the middle of an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..testing import Answer, Cut, Recorded, Reply, Silence
from . import wire
from .backoff import wait_bounds, within
from .observed import Observed, judged
from .result import CheckResult, result
from .scenario import Scenario
from .settings import CheckSettings
from .wording import counted

__all__ = ["DROPS", "drop", "garbled_event", "truncated_answer"]


def truncated_answer(settings: CheckSettings) -> CheckResult:
    """The body ends cleanly, the answer does not."""
    steps = [*wire.first_part(settings.api), Cut(last_chunk=True)]
    return _cut(settings, steps, "StreamTruncated")


def garbled_event(settings: CheckSettings) -> CheckResult:
    """An event that is not JSON."""
    steps = [*wire.first_part(settings.api), b"data: {nonsense\n\n", Silence()]
    return _cut(settings, steps, "ProtocolError")


def drop(settings: CheckSettings) -> CheckResult:
    """The connection is lost in mid-answer: `on_disconnect` decides what follows."""
    play = DROPS.get(settings.on_disconnect)
    if play is None:
        expected = f"what on_disconnect={settings.on_disconnect!r} promises"
        return result("n/a", expected, "a policy that this check does not know")
    return play(settings)


def _drop_and_raise(settings: CheckSettings) -> CheckResult:
    return _cut(settings, [*wire.first_part(settings.api), Cut()], "StreamInterrupted")


def _cut(settings: CheckSettings, steps: Sequence[Any], error: str) -> CheckResult:
    with Scenario(settings, Reply(steps)) as scenario:
        observed = scenario.play()
    return judged(
        f"{error}, .partial is what was sent, 1 request",
        observed,
        (observed.ending == error, f"not {error}"),
        (observed.part, f"the text is {observed.text!r}, sent was {wire.PART!r}"),
        (len(observed.requests) == 1, "asked again"),
    )


def _drop_and_restart(settings: CheckSettings) -> CheckResult:
    observed = _recovered(settings, wire.ANSWER)
    return judged(
        "a 'restart' chunk, then the whole answer, 2 requests",
        observed,
        *_well_recovered(settings, observed),
        (observed.restarts == 1, f"{counted(observed.restarts, 'restart chunk')}"),
        (len(observed.requests) == 2, "not 2 requests"),
    )


def _drop_and_continue(settings: CheckSettings) -> CheckResult:
    observed = _recovered(settings, Answer(wire.REST))
    requests = observed.requests
    quoted = len(requests) > 1 and wire.PART in requests[1].body.decode("utf-8", "replace")
    return judged(
        "a second request that quotes the part received, then the rest, nothing twice",
        observed,
        *_well_recovered(settings, observed),
        (len(requests) == 2, "not 2 requests"),
        (quoted, "the part received was not quoted"),
    )


def _drop_and_resume(settings: CheckSettings) -> CheckResult:
    def rest(recorded: Recorded) -> Reply:
        """The stored response after the event number that the request names."""
        after = int(recorded.query.get("starting_after", "-1"))
        return Reply(wire.ANSWER.blocks(settings.api)[after + 1 :])

    observed = _recovered(settings, rest, background=True)
    methods = [request.method for request in observed.requests]
    return judged(
        "one POST, then a GET for the rest, nothing twice (calls with background=True)",
        observed,
        *_well_recovered(settings, observed),
        (methods == ["POST", "GET"], f"asked by {', '.join(methods) or 'nothing'}"),
    )


# A policy's name -> the check of what it promises.
DROPS: dict[str, Callable[[CheckSettings], CheckResult]] = {
    "raise": _drop_and_raise,
    "restart": _drop_and_restart,
    "continue": _drop_and_continue,
    "resume": _drop_and_resume,
}


def _recovered(
    settings: CheckSettings,
    then: Answer | Callable[[Recorded], Reply],
    *,
    background: bool = False,
) -> Observed:
    """A call that is cut in mid-answer, with the settings' own policy; `then` is the next reply."""
    dropped = Reply([*wire.first_part(settings.api), Cut()])
    with Scenario(settings, dropped, then, lasts=wait_bounds(settings.retry, 0)[1]) as scenario:
        return scenario.play(
            on_disconnect=settings.on_disconnect, **({"background": True} if background else {})
        )


def _well_recovered(settings: CheckSettings, observed: Observed) -> Iterator[tuple[bool, str]]:
    yield observed.whole, f"the text is {observed.delivered!r}"
    bounds = [wait_bounds(settings.retry, 0)]
    yield within(observed.waits, bounds), "the wait is not the policy's"
