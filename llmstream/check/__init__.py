"""`llmstream check`: a service's bad days, played to your own settings before the launch.

Every check scripts a fault server on the loopback (`llmstream.testing.LLMServer`), points a client
with the settings in question at it, and compares what the call did with what the settings promise.
Nothing is sent anywhere else, and no real key is used.

Long clocks are not waited out: a check runs on a clock that is so much faster than the machine's
that the wait under test takes about a second. Clocks that are not under test are then stretched,
so that in real time they stay what they are.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import math
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TextIO

import msgspec
from msgspec import Struct

from .. import errors
from .._core.request import HTTPRequest
from .._core.retry import RetryPolicy
from .._core.session import MAX_EVENT_BYTES
from .._core.timers import Timeouts
from .._runtime.clock import SYSTEM_CLOCK, Clock
from .._runtime.scope import CancelScope
from .._transport.adapter import RequestsTransport
from .._transport.base import Response, Transport
from ..client import Client
from ..errors import Cancelled, ConfigurationError
from ..result import Attempt, LLMStreamError
from ..stream import Stream
from ..testing import (
    Answer,
    Cut,
    LLMServer,
    Pause,
    Pings,
    Recorded,
    Reply,
    Reset,
    Send,
    Silence,
    blackhole,
)

__all__ = [
    "CHECKS",
    "CheckResult",
    "CheckSettings",
    "Observed",
    "Scenario",
    "load",
    "report",
    "run",
    "settings_of",
    "setup_from",
]

_TARGET = 1.0  # real seconds that a wait under test should take
_LATE = 1.5  # real seconds by which a busy machine may be late
_PATIENCE = 10.0  # real seconds beyond what a check should take, until it counts as a hang
_MOST_TRIED = 12  # attempts, where the policy allows more
_WORKERS = 8  # checks that run at the same time
_ECHO_DELAY = 0.2  # seconds until the crowd's server says its first token
_MODEL = "llmstream-check"

_ANSWER = Answer("Lorem ipsum dolor sit amet consectetur")
_WHOLE = "Lorem ipsum dolor sit amet consectetur"
_PART = "Lorem ipsum dolor"  # what is sent of it before a fault in mid-answer
_REST = " sit amet consectetur"
_PROMPT = "Say it."

_PINGS = {"messages": b'event: ping\ndata: {"type": "ping"}\n\n'}


# ---- what is checked, and what was seen --------------------------------------------------------


class CheckSettings(Struct, frozen=True):
    """The settings that are checked: those of a Client, without its address and its key.

    With `real_time` no clock runs faster than the machine's.
    """

    api: str = "responses"
    timeouts: Timeouts = Timeouts()
    retry: RetryPolicy = RetryPolicy()
    on_disconnect: str = "raise"
    profile: str | None = None
    model: str = _MODEL
    max_event_bytes: int = MAX_EVENT_BYTES
    max_identical_chunks: int | None = None
    real_time: bool = False

    def client(self, base_url: str, **more: Any) -> Client:
        """A client with these settings, and a key that is none. Raises ConfigurationError."""
        settings = {
            "api_key": f"not-a-key-{os.urandom(4).hex()}",
            "model": self.model,
            "timeouts": self.timeouts,
            "retry": self.retry,
            "on_disconnect": self.on_disconnect,
            "profile": self.profile,
            "max_event_bytes": self.max_event_bytes,
            "max_identical_chunks": self.max_identical_chunks,
        }
        return Client(self.api, base_url=base_url, **{**settings, **more})

    def summary(self) -> str:
        """The settings in a few words."""
        clocks = ", ".join(f"{name} {_shown(value)}" for name, value in _clocks(self.timeouts))
        attempts = _count(self.retry.max_attempts, "attempt")
        return f"api {self.api}; {clocks}; {attempts}; on_disconnect {self.on_disconnect}"


class CheckResult(Struct, frozen=True):
    """What one check found.

    `status` is "ok", "FAIL", "off" (a setting that is switched off, by choice) or "n/a" (cannot be
    checked here). `seconds` are real ones. `figures` are for programs: requests, waits, speed.
    """

    name: str
    status: str
    expected: str
    seen: str
    seconds: float = 0.0
    figures: Mapping[str, Any] = {}

    @property
    def ok(self) -> bool:
        return self.status != "FAIL"

    def text(self) -> str:
        """The line for a terminal."""
        speed = self.figures.get("speed", 1.0)
        faster = f", clock ran {speed:.3g}x faster" if speed > 1.0 else ""
        return (
            f"{self.status:<4}  {self.name:<22}  expected {self.expected}; saw {self.seen}  "
            f"({self.seconds:.1f} s{faster})"
        )

    def json(self) -> bytes:
        """The line for a program."""
        return msgspec.json.encode({**msgspec.structs.asdict(self), "ok": self.ok})


def _clocks(timeouts: Timeouts) -> Iterator[tuple[str, float | None]]:
    return ((name, getattr(timeouts, name)) for name in ("connect", *_AFTER_CONNECT, "total"))


_AFTER_CONNECT = ("first_token", "idle", "silence")


def _shown(seconds: float | None) -> str:
    return "off" if seconds is None else f"{seconds:g}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# ---- time that passes faster -------------------------------------------------------------------


class _FastClock:
    """The machine's clock, `speed` times as fast, with a watchdog of its own. For close()."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._origin = SYSTEM_CLOCK.monotonic()
        self.scheduler = _Ticker(self)

    def monotonic(self) -> float:
        return self._origin + (SYSTEM_CLOCK.monotonic() - self._origin) * self.speed

    def time(self) -> float:
        return SYSTEM_CLOCK.time() + self.monotonic() - SYSTEM_CLOCK.monotonic()

    def wait(self, bell: SimpleQueue[None], seconds: float | None) -> None:
        SYSTEM_CLOCK.wait(bell, None if seconds is None else seconds / self.speed)

    def close(self) -> None:
        """End the watchdog's thread."""
        self.scheduler.close()


class _Ticker:
    """The watchdog of a fast clock: for a few streams, and with a thread that ends."""

    def __init__(self, clock: _FastClock) -> None:
        self._clock = clock
        # Guards the two below. Reentrant, for finalizers that run in a thread that holds it.
        self._changed = threading.Condition(threading.RLock())
        self._due: dict[int, tuple[float, CancelScope]] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="llmstream-check-clock", daemon=True)
        self._thread.start()

    def schedule(self, scope: CancelScope, at: float) -> None:
        with self._changed:
            if scope.scheduled > at:
                self._due[id(scope)] = (at, scope)
                scope.scheduled = at
                self._changed.notify()

    def forget(self, scope: CancelScope) -> None:
        with self._changed:
            self._due.pop(id(scope), None)
            scope.scheduled = math.inf

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (scope := self._next()) is not None:
            self.schedule(scope, scope.tick(self._clock.monotonic()))

    def _next(self) -> CancelScope | None:
        """Wait until one is due, and take it out; None at the end."""
        with self._changed:
            while not self._closed:
                found = min(self._due.values(), key=lambda due: due[0], default=None)
                left = None if found is None else found[0] - self._clock.monotonic()
                if found is not None and left is not None and left <= 0:
                    self.forget(found[1])
                    return found[1]
                self._changed.wait(None if left is None else min(left / self._clock.speed, 1e6))
            return None


def _stretched(timeouts: Timeouts, speed: float, kept: Iterable[str]) -> Timeouts:
    """Clocks for a fast clock: what is not `kept` lasts as long as before in real time."""
    return Timeouts(
        **{
            name: value if value is None or name in kept else value * speed
            for name, value in _clocks(timeouts)
        }
    )


# ---- one call ----------------------------------------------------------------------------------


class Observed(Struct):
    """How a call ended. `delivered` is the text that its reader was given, `text` what the stream
    (or the error's `.partial`) holds; `seconds` are those of the clock that it ran on."""

    error: BaseException | None = None
    delivered: str = ""
    text: str = ""
    restarts: int = 0
    attempts: tuple[Attempt, ...] = ()
    requests: Sequence[Recorded] = ()
    seconds: float = 0.0
    speed: float = 1.0
    hung: float = 0.0  # real seconds after which it was given up

    @property
    def name(self) -> str:
        """What the call ended with."""
        if self.hung:
            return "a hang"
        return "the answer" if self.error is None else type(self.error).__name__

    @property
    def whole(self) -> bool:
        """A success, and exactly the answer."""
        return self.error is None and self.delivered == self.text == _WHOLE

    @property
    def part(self) -> bool:
        """A failure that delivered, and keeps, exactly what had been sent."""
        return self.error is not None and self.delivered == self.text == _PART

    @property
    def waits(self) -> list[float]:
        """The waits between the attempts, by the client's own record."""
        return [attempt.delay_ms / 1000.0 for attempt in self.attempts[:-1]]

    @property
    def gaps(self) -> list[float]:
        """The waits between the requests, by the server's record, in seconds of the clock."""
        times = [request.received_at for request in self.requests]
        return [(after - before) * self.speed for before, after in itertools.pairwise(times)]

    def describe(self) -> str:
        what = self.name
        if self.hung:
            what = f"no end after {self.hung:.1f} real seconds"
        elif self.error is not None and not isinstance(self.error, LLMStreamError):
            what = f"a foreign {self.name} ({self.error})"
        elif isinstance(self.error, ConfigurationError):
            what = f"{self.name} ({self.error})"
        waits = ", ".join(f"{wait:.2f}" for wait in self.waits)
        requests = _count(len(self.attempts), "request")
        return f"{what}, {requests}" + (f", waits {waits} s" if waits else "")

    def figures(self) -> dict[str, Any]:
        return {
            "speed": self.speed,
            "ended": self.name,
            "requests": len(self.attempts),
            "waits": self.waits,
            "clock_seconds": self.seconds,
        }


class Scenario:
    """A fault server with a script, and a client of the setup's settings that talks to it.

    `lasts` is how long the wait under test takes (seconds of the client's clock), `kept` the
    clocks under test. Without a `base_url` of its own, the client is pointed at the server.
    """

    def __init__(
        self,
        setup: CheckSettings,
        *script: Reply | Answer | Callable[[Recorded], Reply | Answer],
        endless: Reply | None = None,
        lasts: float = 0.0,
        kept: Iterable[str] = ("total",),
        base_url: str | None = None,
        transport: Transport | None = None,
    ) -> None:
        self.speed = 1.0 if setup.real_time else max(1.0, min(lasts, 1e6) / _TARGET)
        self.patience = min(lasts / self.speed, 1e6) + _PATIENCE
        self.server = LLMServer()
        self.server.script(*script)
        self.server.default = endless or _ANSWER
        self._fast = _FastClock(self.speed) if self.speed > 1.0 else None
        self.clock: Clock = self._fast or SYSTEM_CLOCK
        try:
            self.client = setup.client(
                base_url or self.server.base_url_for(setup.api),
                timeouts=_stretched(setup.timeouts, self.speed, {"total", *kept}),
                clock=self._fast,
                transport=transport,
            )
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Scenario:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._close()

    def _close(self) -> None:
        if self._fast is not None:
            self._fast.close()
        self.server.close()
        if self.server.errors:
            raise AssertionError(f"the fault server itself failed: {self.server.errors[0]!r}")

    def play(self, **options: Any) -> Observed:
        """Make one call, in a thread of its own, to its end; one that does not end is given up."""
        options = {"on_disconnect": "raise", **options}
        seen = Observed(speed=self.speed)
        try:
            stream = self.client.stream(_PROMPT, **options)
        except LLMStreamError as error:
            seen.error = error
            return seen
        begun = self.clock.monotonic()
        as_chunks = options["on_disconnect"] == "restart"
        reader = threading.Thread(
            target=_read, args=(stream, seen, as_chunks), name="llmstream-check-call", daemon=True
        )
        reader.start()
        reader.join(self.patience)
        if reader.is_alive():
            seen.hung = self.patience
            stream.cancel("the check has waited long enough")
            reader.join(_PATIENCE)
        seen.seconds = self.clock.monotonic() - begun
        seen.attempts = stream.attempts
        seen.requests = self.server.requests
        return seen


def _read(stream: Stream, seen: Observed, as_chunks: bool) -> None:
    """Read to the end as a caller would, and note what came."""
    try:
        if as_chunks:
            _read_chunks(stream, seen)
        else:
            for piece in stream:
                seen.delivered += piece
        seen.text = stream.result().text
    except Exception as error:
        seen.error = error
        partial = getattr(error, "partial", None)
        seen.text = "" if partial is None else partial.text


def _read_chunks(stream: Stream, seen: Observed) -> None:
    for chunk in stream.chunks():
        if chunk.type == "restart":
            seen.restarts += 1
            seen.delivered = ""
        elif chunk.type == "text":
            seen.delivered += chunk.text


def _judged(
    expected: str, seen: Observed, *demands: tuple[bool, str], more: str = "", **figures: Any
) -> CheckResult:
    """The line of a call: each demand is whether it holds, and what is wrong where it does not."""
    wrong = [what for holds, what in demands if not holds]
    said = "; ".join(part for part in (seen.describe(), more, *wrong) if part)
    return _line("FAIL" if wrong else "ok", expected, said, **{**seen.figures(), **figures})


def _line(status: str, expected: str, seen: str, **figures: Any) -> CheckResult:
    return CheckResult("", status, expected, seen, figures=figures)


# ---- the wire ----------------------------------------------------------------------------------


def _until(api: str, word: str) -> list[bytes]:
    """The answer's blocks before the one that first has `word`."""
    return list(itertools.takewhile(lambda b: word.encode() not in b, _ANSWER.blocks(api)))


def _opening(api: str) -> list[bytes]:
    """What comes before the first content."""
    return _until(api, "Lorem")


def _part(api: str) -> list[bytes]:
    """The beginning of the answer: what it says is _PART."""
    return _until(api, " sit")


def _pings(setup: CheckSettings) -> Pings:
    """Pings for ever, close enough for the silence clock (which is stretched)."""
    silence = setup.timeouts.silence
    every = 0.1 if silence is None else min(0.1, silence / 4.0)
    return Pings(every, data=_PINGS.get(setup.api, b": ping\n\n"))


# ---- failures before the answer ----------------------------------------------------------------


def _rate_limit(setup: CheckSettings) -> CheckResult:
    """429 without a wait of the server's own, as often as the policy bears."""
    return _retried(setup, [_error(setup, 429, code="rate_limit_exceeded")], "RateLimitError")


def _retry_after(setup: CheckSettings) -> CheckResult:
    """429 with a wait that the server asks for."""
    policy, total = setup.retry, setup.timeouts.total
    longer = max(2.0 * _wait_bounds(policy, 0)[1], 2.0)
    asked = min(longer, policy.max_retry_after, math.inf if total is None else total / 3.0)
    fault = _error(setup, 429, code="rate_limit_exceeded", headers={"retry-after": repr(asked)})
    return _retried(setup, [fault], "RateLimitError", asked=asked, most=1)


def _retry_after_too_long(setup: CheckSettings) -> CheckResult:
    """A wait that is longer than the policy waits out."""
    longest = setup.retry.max_retry_after
    expected = f"RateLimitError, 1 request (max_retry_after={longest:g})"
    if not longest < 1e9:
        return _line("n/a", expected, "no wait is too long for this policy")
    asked = longest * 2.0 + 1.0
    fault = _error(setup, 429, headers={"retry-after": repr(asked)})
    return _refused(setup, fault, "RateLimitError", note=f"; the server asked for {asked:g} s")


def _server_errors(setup: CheckSettings) -> CheckResult:
    """500 for ever."""
    return _retried(setup, [_error(setup, 500)], "ServerError", endless=True)


def _resets(setup: CheckSettings) -> CheckResult:
    """The connection is lost after the request, before any byte of an answer."""
    faults = [Reply(before=[Reset()]), Reply(before=[Cut()])]
    return _retried(setup, faults, "ConnectionFailed", most=2)


def _refusals(setup: CheckSettings) -> CheckResult:
    """Nobody listens at first."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, but without listen()
        port = nobody.getsockname()[1]
        times = min(2, max(1, setup.retry.max_attempts - 1))
        transport = _Misled(f"http://127.0.0.1:{port}", times)
        return _retried(setup, [], "ConnectionFailed", most=2, transport=transport)


class _Misled:
    """The real transport, but its first calls go to another address."""

    def __init__(self, url: str, times: int) -> None:
        self._transport = RequestsTransport()
        self._url = url
        self._left = times

    def send(self, request: HTTPRequest, scope: CancelScope) -> Response:
        if self._left:
            self._left -= 1
            request = msgspec.structs.replace(request, url=self._url)
        return self._transport.send(request, scope)

    def close(self) -> None:
        self._transport.close()


def _error(setup: CheckSettings, status: int, **fields: Any) -> Reply:
    return Reply.error(status, api=setup.api, **fields)


def _retried(
    setup: CheckSettings,
    faults: Sequence[Reply],
    error: str,
    *,
    asked: float = 0.0,
    most: int = _MOST_TRIED,
    endless: bool = False,
    transport: Transport | None = None,
) -> CheckResult:
    """`faults` in turn, `most` times or as often as the policy allows before its last attempt, or
    for ever; `asked` is the wait that they ask for, `error` what they are."""
    allowed = min(setup.retry.max_attempts, _MOST_TRIED)
    policy = msgspec.structs.replace(setup.retry, max_attempts=allowed)
    failures = allowed if endless else max(1, min(most, allowed - 1))
    recovers = failures < allowed
    requests = failures + 1 if recovers else allowed
    bounds = [_wait_bounds(policy, n, asked) for n in range(allowed)]
    script = list(itertools.islice(itertools.cycle(faults), failures if faults else 0))
    lasts = sum(high for _, high in bounds[: requests - 1])
    total = setup.timeouts.total
    lasts = lasts if total is None else min(lasts, total)
    with Scenario(
        setup,
        *script,
        endless=faults[0] if endless else None,
        lasts=lasts,
        transport=transport,
    ) as scene:
        seen = scene.play(retry=policy)
    short = _out_of_time(seen, total, bounds, requests)
    note = f"; total={total:g} s leaves no time for more" if short else ""
    ending = error if short or not recovers else "the answer"
    right = seen.whole if ending == "the answer" else seen.name in (error, _late_name(short))
    return _judged(
        _expected_retries(setup.retry, requests, bounds, ending) + note,
        seen,
        (right, f"not {ending}"),
        (short or len(seen.attempts) == requests, f"not {_count(requests, 'request')}"),
        (_within(seen.waits, bounds), "a wait is not the policy's"),
        (_waited(seen), "the requests did not come as the waits say"),
    )


def _wait_bounds(policy: RetryPolicy, n: int, asked: float = 0.0) -> tuple[float, float]:
    """The shortest and the longest wait after failure n (from 0), by the documented formula; not
    by the policy's own code, which is under test."""
    shortest = max(min(policy.cap, policy.base * 2.0**n), asked)
    return shortest, shortest * (1.0 + policy.jitter)


def _late_name(short: bool) -> str:
    return "DeadlineExceeded" if short else ""


def _expected_retries(
    policy: RetryPolicy, requests: int, bounds: Sequence[tuple[float, float]], ending: str
) -> str:
    if policy.max_attempts == 1:
        return f"{ending} at once (1 attempt, as configured)"
    waits = ", ".join(f"{low:.3g}-{high:.3g}" for low, high in bounds[: requests - 1])
    tried = (
        f", tried with {_MOST_TRIED} attempts of {policy.max_attempts}"
        if policy.max_attempts > _MOST_TRIED
        else ""
    )
    return f"{ending}, {_count(requests, 'request')}, waits {waits} s{tried}"


def _out_of_time(
    seen: Observed, total: float | None, bounds: Sequence[tuple[float, float]], requests: int
) -> bool:
    """Whether fewer requests were right, as the next wait would end past the hard deadline."""
    made = len(seen.attempts)
    if total is None or seen.error is None or not 0 < made <= requests:
        return False
    if made == requests and seen.name != "DeadlineExceeded":
        return False
    return seen.seconds + bounds[made - 1][1] >= total


def _within(waits: Sequence[float], bounds: Sequence[tuple[float, float]]) -> bool:
    tolerance = 1e-9  # for the rounding of sums
    return all(
        low - tolerance <= wait <= high * (1.0 + tolerance) + tolerance
        for wait, (low, high) in zip(waits, bounds, strict=False)
    )


def _waited(seen: Observed) -> bool:
    """Whether the server saw the requests as far apart as the client says it waited."""
    if len(seen.requests) != len(seen.attempts):
        return True  # some never reached it
    return all(
        wait - 1e-6 * seen.speed <= gap <= wait + _LATE * seen.speed
        for wait, gap in zip(seen.waits, seen.gaps, strict=True)
    )


# ---- failures that asking again cannot help -----------------------------------------------------


def _quota(setup: CheckSettings) -> CheckResult:
    """The account's money is used up."""
    fault = (
        _error(setup, 402, type="billing_error")
        if setup.api == "messages"
        else _error(setup, 429, code="insufficient_quota", type="insufficient_quota")
    )
    return _refused(setup, fault, "QuotaExceededError")


def _bad_key(setup: CheckSettings) -> CheckResult:
    """The key is wrong."""
    return _refused(setup, _error(setup, 401, code="invalid_api_key"), "AuthenticationError")


def _context_too_long(setup: CheckSettings) -> CheckResult:
    """The prompt is longer than the model's context."""
    fault = _error(
        setup,
        400,
        code=None if setup.api == "messages" else "context_length_exceeded",
        type="invalid_request_error",
        message="the prompt is too long for the model's context",
    )
    return _refused(setup, fault, "InvalidRequestError")


def _html_page(setup: CheckSettings) -> CheckResult:
    """200, and a proxy's page in place of the stream."""
    return _refused(setup, Reply.html(), "NotAStreamError")


def _refused(setup: CheckSettings, fault: Reply, error: str, *, note: str = "") -> CheckResult:
    with Scenario(setup, endless=fault) as scene:
        seen = scene.play()
    return _judged(
        f"{error}, 1 request{note}",
        seen,
        (seen.name == error, f"not {error}"),
        (len(seen.requests) == 1, "asked again in vain"),
    )


# ---- failures in mid-answer --------------------------------------------------------------------


def _truncation(setup: CheckSettings) -> CheckResult:
    """The body ends cleanly, but the answer does not."""
    return _cut(setup, [*_part(setup.api), Cut(last_chunk=True)], "StreamTruncated")


def _garbled(setup: CheckSettings) -> CheckResult:
    """An event that cannot be read."""
    return _cut(setup, [*_part(setup.api), b"data: {nonsense\n\n", Silence()], "ProtocolError")


def _drop(setup: CheckSettings) -> CheckResult:
    """The connection is lost in mid-answer: what `on_disconnect` says."""
    play = _DROPS.get(setup.on_disconnect)
    if play is None:
        expected = f"what on_disconnect={setup.on_disconnect!r} promises"
        return _line("n/a", expected, "a policy that this check does not know")
    return play(setup)


def _dropped(setup: CheckSettings) -> Reply:
    return Reply([*_part(setup.api), Cut()])


def _drop_raise(setup: CheckSettings) -> CheckResult:
    return _cut(setup, [*_part(setup.api), Cut()], "StreamInterrupted")


def _cut(setup: CheckSettings, steps: Sequence[Any], error: str) -> CheckResult:
    with Scenario(setup, Reply(steps)) as scene:
        seen = scene.play()
    return _judged(
        f"{error}, .partial is what was sent, 1 request",
        seen,
        (seen.name == error, f"not {error}"),
        (seen.part, f"the text is {seen.text!r}, sent was {_PART!r}"),
        (len(seen.requests) == 1, "asked again"),
    )


def _drop_restart(setup: CheckSettings) -> CheckResult:
    seen = _recovered(setup, _ANSWER)
    return _judged(
        "a 'restart' chunk, then the whole answer, 2 requests",
        seen,
        *_well_recovered(setup, seen),
        (seen.restarts == 1, f"{_count(seen.restarts, 'restart')} told"),
        (len(seen.requests) == 2, "not 2 requests"),
    )


def _drop_continue(setup: CheckSettings) -> CheckResult:
    seen = _recovered(setup, Answer(_REST))
    quoted = len(seen.requests) > 1 and _PART in seen.requests[1].body.decode("utf-8", "replace")
    return _judged(
        "a second request that quotes what had come, then the rest, nothing twice",
        seen,
        *_well_recovered(setup, seen),
        (len(seen.requests) == 2, "not 2 requests"),
        (quoted, "what had come was not quoted"),
    )


def _drop_resume(setup: CheckSettings) -> CheckResult:
    seen = _recovered(setup, _after_cursor, background=True)
    methods = [request.method for request in seen.requests]
    return _judged(
        "one POST, then a GET for the rest, nothing twice (calls with background=True)",
        seen,
        *_well_recovered(setup, seen),
        (methods == ["POST", "GET"], f"asked by {', '.join(methods) or 'nothing'}"),
    )


_DROPS: dict[str, Callable[[CheckSettings], CheckResult]] = {
    "raise": _drop_raise,
    "restart": _drop_restart,
    "continue": _drop_continue,
    "resume": _drop_resume,
}


def _recovered(
    setup: CheckSettings, then: Answer | Callable[[Recorded], Reply], *, background: bool = False
) -> Observed:
    """A call that is cut in mid-answer, with the setup's own policy; `then` is the next reply."""
    with Scenario(setup, _dropped(setup), then, lasts=_wait_bounds(setup.retry, 0)[1]) as scene:
        return scene.play(
            on_disconnect=setup.on_disconnect, **({"background": True} if background else {})
        )


def _well_recovered(setup: CheckSettings, seen: Observed) -> Iterator[tuple[bool, str]]:
    yield seen.whole, f"the text is {seen.delivered!r}"
    yield _within(seen.waits, [_wait_bounds(setup.retry, 0)]), "the wait is not the policy's"


def _after_cursor(recorded: Recorded) -> Reply:
    """A stored response, from behind an event's number on, as the Responses API streams it."""
    after = int(recorded.query.get("starting_after", "-1"))
    return Reply(_ANSWER.blocks("responses")[after + 1 :])


# ---- clocks ------------------------------------------------------------------------------------

_CLOCK_ERRORS = {
    cls.clock: cls.__name__
    for cls in (
        errors.ConnectTimeout,
        errors.FirstTokenTimeout,
        errors.IdleTimeout,
        errors.SilenceTimeout,
        errors.DeadlineExceeded,
    )
}


def _hung_connect(setup: CheckSettings) -> CheckResult:
    """A host that neither accepts nor refuses."""
    with contextlib.ExitStack() as stack:
        try:
            host, port = stack.enter_context(blackhole())
        except RuntimeError as error:
            return _line("n/a", "an end by the connect clock", str(error))
        if sys.platform != "linux":  # shutdown() does not end a connect there: a real timeout does
            setup = msgspec.structs.replace(setup, real_time=True)
        return _ended_by_clock(
            setup,
            ("connect", "total"),
            "a connect that hangs",
            base_url=f"http://{host}:{port}/v1",
            retry=_once(setup.retry),
        )


def _no_answer(setup: CheckSettings) -> CheckResult:
    """The service takes the request and says nothing at all."""
    return _ended_by_clock(
        setup,
        ("first_token", "total"),
        "a service that takes the request and never answers",
        Reply(before=[Silence()]),
        retry=_first_token_policy(setup.retry),
    )


def _pings_first(setup: CheckSettings) -> CheckResult:
    """The service opens the stream, and only pings."""
    return _ended_by_clock(
        setup,
        ("first_token", "total"),
        "a stream that only pings before its first token",
        Reply([*_opening(setup.api), _pings(setup)]),
        retry=_first_token_policy(setup.retry),
    )


def _pings_mid_answer(setup: CheckSettings) -> CheckResult:
    """The answer begins, then there are only pings."""
    return _ended_by_clock(
        setup,
        ("idle", "total"),
        "a stream that only pings",
        Reply([*_part(setup.api), _pings(setup)]),
        sent=_PART,
    )


def _silence(setup: CheckSettings) -> CheckResult:
    """The answer begins, then nothing comes any more."""
    return _ended_by_clock(
        setup,
        ("silence", "idle", "total"),
        "a connection that went silent in mid-answer",
        Reply([*_part(setup.api), Silence()]),
        sent=_PART,
    )


def _endless(setup: CheckSettings) -> CheckResult:
    """The answer goes on and on."""
    if setup.timeouts.total is None:
        seen = "total is off: an answer that goes on and on is bounded by the service alone"
        return _line("off", "DeadlineExceeded, where total is set", seen)
    words = Answer([f" word{n}" for n in range(400)]).blocks(setup.api)
    steps = [step for block in words for step in (Send(block), Pause(0.05))]
    return _ended_by_clock(setup, ("total",), "an answer without end", Reply(steps), sent=None)


def _once(policy: RetryPolicy) -> RetryPolicy:
    return msgspec.structs.replace(policy, max_attempts=1)


def _first_token_policy(policy: RetryPolicy) -> RetryPolicy:
    """As it is, so that a retry that may bill twice is found; one attempt where it is wanted."""
    return _once(policy) if policy.retry_first_token else policy


def _ended_by_clock(
    setup: CheckSettings,
    clocks: Sequence[str],
    what: str,
    *script: Reply,
    sent: str | None = "",
    base_url: str | None = None,
    retry: RetryPolicy | None = None,
) -> CheckResult:
    """`what` has to be ended by the first of `clocks` to run out; the first named is meant for it.
    `sent` is the text that had come (None: some, nobody counted)."""
    settings = {name: value for name, value in _clocks(setup.timeouts) if name in clocks}
    on = {name: value for name, value in settings.items() if value is not None}
    if not on:
        off = " and ".join(clocks)
        verb = "is" if len(clocks) == 1 else "are"
        return _line(
            "FAIL", f"a clock that ends {what}", f"nothing bounds {what}: {off} {verb} off"
        )
    due = min(on.values())
    with Scenario(setup, *script, lasts=due, kept=clocks, base_url=base_url) as scene:
        seen = scene.play(retry=retry or setup.retry)
    allowance = _LATE * seen.speed
    names = [_CLOCK_ERRORS[name] for name, value in on.items() if value <= due + allowance / 4]
    return _judged(
        f"{_or(names)} after {due:g} s{_why_another(clocks[0], settings[clocks[0]], due)}",
        seen,
        (seen.name in names, f"not {_or(names)}"),
        (seen.seconds >= due * 0.999, f"after {seen.seconds:.3g} s already"),
        (seen.seconds <= due + allowance, f"only after {seen.seconds:.3g} s"),
        (sent is None or seen.text == seen.delivered == sent, f"the text is {seen.text!r}"),
        (len(seen.attempts) == 1, "asked again"),
        more=f"after {seen.seconds:.4g} s",
        due=due,
    )


def _or(names: Sequence[str]) -> str:
    return " or ".join(dict.fromkeys(names))


def _why_another(clock: str, value: float | None, due: float) -> str:
    if value is None:
        return f" ({clock} is off)"
    return f" ({clock}={value:g} would come later)" if value > due else ""


# ---- cancel ------------------------------------------------------------------------------------


def _cancel(setup: CheckSettings) -> CheckResult:
    """Another thread cancels in mid-answer."""
    expected = f"Cancelled within {_LATE:g} s, .partial kept, the connection closed"
    with Scenario(setup, Reply([*_part(setup.api), Silence()])) as scene:
        stream = scene.client.stream(_PROMPT, on_disconnect="raise")
        seen = Observed()
        arrived, ended = threading.Event(), SimpleQueue[float]()
        reader = threading.Thread(
            target=_read_and_tell,
            args=(stream, seen, arrived, ended),
            name="llmstream-check-call",
            daemon=True,
        )
        reader.start()
        arrived.wait(_PATIENCE)
        before = SYSTEM_CLOCK.monotonic()
        stream.cancel("the check")
        returned = SYSTEM_CLOCK.monotonic() - before
        with contextlib.suppress(Empty):
            seen.seconds = ended.get(timeout=_PATIENCE) - before
        seen.hung = _PATIENCE if seen.error is None else 0.0
        seen.attempts = stream.attempts
        closed = _closes(scene.server)
    return _judged(
        expected,
        seen,
        (seen.name == Cancelled.__name__, "not Cancelled"),
        (seen.seconds <= _LATE, "too late"),
        (returned <= _LATE, f"cancel() itself took {returned:.2f} s"),
        (seen.text == _PART, f"the text is {seen.text!r}, sent was {_PART!r}"),
        (closed, "the server did not see the connection close"),
        more=f"cancel() {returned * 1000:.1f} ms, the reader's end {seen.seconds * 1000:.1f} ms",
        cancel_ms=returned * 1000.0,
        reader_ms=seen.seconds * 1000.0,
    )


def _read_and_tell(
    stream: Stream, seen: Observed, arrived: threading.Event, ended: SimpleQueue[float]
) -> None:
    try:
        for piece in stream:
            seen.delivered += piece
            if seen.delivered == _PART:
                arrived.set()
    except Exception as error:
        seen.error = error
        partial = getattr(error, "partial", None)
        seen.text = "" if partial is None else partial.text
    finally:
        ended.put(SYSTEM_CLOCK.monotonic())
        arrived.set()


def _closes(server: LLMServer) -> bool:
    try:
        server.wait_closed(0, timeout=_LATE)
    except TimeoutError:
        return False
    return True


# ---- many at once ------------------------------------------------------------------------------


def _concurrent(setup: CheckSettings, count: int) -> CheckResult:
    """`count` streams at once on one client, each of which is answered with its own prompt."""
    clocks = (setup.timeouts.first_token, setup.timeouts.total)
    delay = min(_ECHO_DELAY, *(value / 4.0 for value in clocks if value is not None))
    members = [Observed() for _ in range(count)]
    latencies: list[float] = []
    with Scenario(msgspec.structs.replace(setup, real_time=True)) as scene:
        scene.server.default = lambda recorded: Reply(LLMServer.echo(recorded), delay=delay)
        start = threading.Barrier(count)
        threads = [
            threading.Thread(
                target=_member,
                args=(scene.client, number, seen, latencies, start),
                name="llmstream-check-call",
                daemon=True,
            )
            for number, seen in enumerate(members)
        ]
        for thread in threads:
            thread.start()
        _join(threads, scene.client)
        requests = len(scene.server.requests)
    return _crowd_line(members, sorted(ms - delay * 1000.0 for ms in latencies), requests, delay)


def _said(number: int) -> str:
    """A text that no other stream has a word of."""
    return " ".join(f"{number}:{word}" for word in range(40))


def _member(
    client: Client, number: int, seen: Observed, latencies: list[float], start: threading.Barrier
) -> None:
    try:
        start.wait(_PATIENCE)
        stream = client.stream(_said(number), on_disconnect="raise")
        for piece in stream:
            seen.delivered += piece
        result = stream.result()
        seen.text = result.text
        if result.timings.first_token_ms is not None:
            latencies.append(result.timings.first_token_ms)
    except Exception as error:
        seen.error = error


def _join(threads: Sequence[threading.Thread], client: Client) -> None:
    """Wait for all, but not for ever."""
    deadline = SYSTEM_CLOCK.monotonic() + 2.0 * _PATIENCE
    for thread in threads:
        thread.join(max(0.0, deadline - SYSTEM_CLOCK.monotonic()))
    if any(thread.is_alive() for thread in threads):
        client.close()
        for thread in threads:
            thread.join(_LATE)


def _crowd_line(
    members: list[Observed], latencies: list[float], requests: int, delay: float
) -> CheckResult:
    count = len(members)
    exact = sum(seen.delivered == seen.text == _said(number) for number, seen in enumerate(members))
    kinds = Counter(seen.name for seen in members if seen.error is not None)
    failed = "".join(f", {times} x {name}" for name, times in kinds.items())
    p50, p95 = _percentile(latencies, 0.50), _percentile(latencies, 0.95)
    right = exact == count and requests == count
    return _line(
        "ok" if right else "FAIL",
        f"{count} answers, each exactly its own, {count} requests",
        f"{exact} of {count} exact{failed}, {_count(requests, 'request')}; first token "
        f"p50 {p50:.0f} ms, p95 {p95:.0f} ms (the server's {delay * 1000:.0f} ms subtracted)",
        streams=count,
        exact=exact,
        requests=requests,
        first_token_p50_ms=p50,
        first_token_p95_ms=p95,
    )


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


# ---- all of them -------------------------------------------------------------------------------

# The checks by name, in the order of the report. Those of _ALONE measure latency, and run alone.
CHECKS: dict[str, Callable[[CheckSettings], CheckResult]] = {
    "rate limit": _rate_limit,
    "retry-after": _retry_after,
    "retry-after too long": _retry_after_too_long,
    "server errors": _server_errors,
    "reset before answer": _resets,
    "connection refused": _refusals,
    "drop in mid-answer": _drop,
    "truncated answer": _truncation,
    "garbled event": _garbled,
    "HTML page": _html_page,
    "quota used up": _quota,
    "bad key": _bad_key,
    "context too long": _context_too_long,
    "hung connect": _hung_connect,
    "no answer": _no_answer,
    "pings before answer": _pings_first,
    "pings in mid-answer": _pings_mid_answer,
    "silence in mid-answer": _silence,
    "endless answer": _endless,
    "cancel": _cancel,
    "50 streams": lambda setup: _concurrent(setup, 50),
    "100 streams": lambda setup: _concurrent(setup, 100),
}
_ALONE = ("cancel", "50 streams", "100 streams")


def run(setup: CheckSettings, names: Iterable[str] | None = None) -> Iterator[CheckResult]:
    """Run the checks (all, or those of `names`), and yield their lines in the order of CHECKS.

    Up to 8 run at the same time, those that measure latency by themselves after the others.
    """
    chosen = [name for name in CHECKS if names is None or name in set(names)]
    together = [name for name in chosen if name not in _ALONE]
    lines: dict[str, SimpleQueue[CheckResult]] = {name: SimpleQueue() for name in together}
    todo: SimpleQueue[str] = SimpleQueue()
    for name in together:
        todo.put(name)
    workers = [
        threading.Thread(
            target=_work, args=(setup, todo, lines), name="llmstream-check", daemon=True
        )
        for _ in range(min(_WORKERS, len(together)))
    ]
    for worker in workers:
        worker.start()
    try:
        for name in together:
            yield lines[name].get()
    finally:  # also when nobody wants the rest
        with contextlib.suppress(Empty):
            while True:
                todo.get_nowait()
    for worker in workers:
        worker.join()
    for name in chosen:
        if name in _ALONE:
            yield _checked(name, setup)


def _work(
    setup: CheckSettings, todo: SimpleQueue[str], lines: Mapping[str, SimpleQueue[CheckResult]]
) -> None:
    with contextlib.suppress(Empty):
        while True:
            name = todo.get_nowait()
            lines[name].put(_checked(name, setup))


def _checked(name: str, setup: CheckSettings) -> CheckResult:
    begun = SYSTEM_CLOCK.monotonic()
    try:
        line = CHECKS[name](setup)
    except Exception as error:
        line = _line("FAIL", "a check that works", f"{type(error).__name__}: {error}")
    seconds = SYSTEM_CLOCK.monotonic() - begun
    return msgspec.structs.replace(line, name=name, seconds=seconds)


def report(setup: CheckSettings, out: TextIO, *, as_json: bool = False) -> int:
    """Run all checks and write a line for each as it is done, and a summary; returns the exit
    code: 0 where none failed, else 1."""
    begun = SYSTEM_CLOCK.monotonic()
    if not as_json:
        out.write(f"llmstream check: {setup.summary()}\n")
        out.flush()
    lines = []
    for line in run(setup):
        lines.append(line)
        out.write((line.json().decode() if as_json else line.text()) + "\n")
        out.flush()
    seconds = SYSTEM_CLOCK.monotonic() - begun
    out.write(_summary(setup, lines, seconds, as_json) + "\n")
    out.flush()
    return 0 if all(line.ok for line in lines) else 1


def _summary(
    setup: CheckSettings, lines: Sequence[CheckResult], seconds: float, as_json: bool
) -> str:
    counts = Counter(line.status for line in lines)
    if not as_json:
        each = ", ".join(f"{number} {status}" for status, number in counts.items())
        return f"{_count(len(lines), 'check')}: {each} in {seconds:.1f} s"
    summary = {
        "summary": True,
        "ok": all(line.ok for line in lines),
        "checks": len(lines),
        "failed": [line.name for line in lines if not line.ok],
        "counts": counts,
        "seconds": seconds,
        "settings": msgspec.structs.asdict(setup),
    }
    return msgspec.json.encode(summary).decode()


# ---- whose settings ----------------------------------------------------------------------------

_CLOCK_OPTIONS = ("connect", "first_token", "idle", "silence", "total")
_RETRY_OPTIONS = ("max_attempts", "base", "cap", "jitter", "max_retry_after")
_OTHER_OPTIONS = ("api", "profile", "on_disconnect")


def setup_from(options: Mapping[str, Any]) -> CheckSettings:
    """The setup that command line options ask for; absent ones are None, clocks may be "off".

    Raises ConfigurationError.
    """
    given = {name: value for name, value in options.items() if value is not None}
    own = [name for name in (*_OTHER_OPTIONS, *_CLOCK_OPTIONS, *_RETRY_OPTIONS) if name in given]
    real_time = bool(given.get("real_time"))
    if "client" in given:
        if own:
            option = "--" + own[0].replace("_", "-")
            raise ConfigurationError(f"--client brings its own settings: leave {option} out")
        return msgspec.structs.replace(settings_of(load(given["client"])), real_time=real_time)
    clocks = {name: given[name] for name in _CLOCK_OPTIONS if name in given}
    setup = CheckSettings(
        timeouts=Timeouts(**{n: None if v == "off" else v for n, v in clocks.items()}),
        retry=RetryPolicy(**{name: given[name] for name in _RETRY_OPTIONS if name in given}),
        real_time=real_time,
        **{name: given[name] for name in _OTHER_OPTIONS if name in given},
    )
    setup.client("http://127.0.0.1:9/v1").close()  # what cannot work is told now
    return setup


def settings_of(client: Client) -> CheckSettings:
    """A client's own settings; neither its address nor its key nor its headers."""
    settings = client.settings
    return CheckSettings(
        api=settings.api,
        timeouts=settings.timeouts,
        retry=settings.retry,
        on_disconnect=settings.on_disconnect,
        profile=client.profile,
        model=settings.model or _MODEL,
        max_event_bytes=settings.max_event_bytes,
        max_identical_chunks=settings.max_identical_chunks,
    )


def load(name: str) -> Client:
    """The client that `name` ("package.module:attribute") is, or is a function that returns.

    The current directory is searched too. Raises ConfigurationError.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ConfigurationError("--client: give it like 'myapp.settings:client'")
    with _current_directory():
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
            if not isinstance(found, Client) and callable(found):
                found = found()
        except (Exception, SystemExit) as error:
            raise ConfigurationError(
                f"--client {name}: {type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
    if not isinstance(found, Client):
        raise ConfigurationError(
            f"--client {name}: this is a {type(found).__name__}, and neither a Client nor a "
            "function that returns one"
        )
    return found


@contextlib.contextmanager
def _current_directory() -> Iterator[None]:
    """On the module path while it lasts: a console script does not have it there."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)
