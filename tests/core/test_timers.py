"""The five clocks against a naive simulation that keeps every moment and computes from scratch."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest
from corpus import PROPERTY
from every import every
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstream._core.timers import Timeouts, Timers
from llmstream.errors import ConfigurationError

OFF = math.inf


# --- the reference ------------------------------------------------------------------------------


@dataclass
class Reference:
    """DESIGN 4, word by word, on the list of all that ever happened.

    connect     from the start of the attempt; nothing resets it
    first_token from the request sent; ends at the first content
    idle        from the first content, then from the last progress
    silence     from the first content; any byte resets it. "auto": 90 s, once the response has sent
                a sign of life
    total       from the start of the call; runs on while the caller works, and in the backoff
    All but total run from the moment at which the library begins to wait for the network until it
    hands over what arrived; silence only while it waits.
    """

    timeouts: Timeouts
    now: float = 0.0
    waits: list[tuple[float, float]] = field(default_factory=list)  # the spans of waiting
    waiting_since: float | None = None
    works: list[tuple[float, float]] = field(default_factory=list)  # on what arrived
    working: bool = False
    phase: str = "connect"
    phase_from: float = 0.0
    silent_from: float | None = None
    alive: bool = False
    lingers: float = OFF

    def waited(self, since: float) -> float:
        """Seconds spent waiting since a moment."""
        spans = list(self.waits)
        if self.waiting_since is not None:
            spans.append((self.waiting_since, self.now))
        return _sum(spans, since)

    def left(self) -> dict[str, float]:
        """Seconds that each running clock has left."""
        limits = {
            "connect": self.timeouts.connect,
            "first_token": self.timeouts.first_token,
            "idle": self.timeouts.idle,
            "linger": self.lingers,
        }
        found = {"total": _off(self.timeouts.total) - self.now}
        if self.phase in limits:
            found[self.phase] = (
                _off(limits[self.phase])
                - self.waited(self.phase_from)
                - _sum(self.works, self.phase_from)
            )
        if self.silent_from is not None:
            silence = self.timeouts.silence
            if silence == "auto":
                silence = 90.0 if self.alive else None
            found["silence"] = _off(silence) - self.waited(self.silent_from)
        return found

    def enter(self, phase: str) -> None:
        self.phase = phase
        self.phase_from = self.now
        self.working = False
        if phase != "idle":
            self.silent_from = None


def _sum(spans: list[tuple[float, float]], since: float) -> float:
    return sum(max(0.0, end - max(start, since)) for start, end in spans)


def _off(value: float | None) -> float:
    return OFF if value is None else value


# --- the steps ----------------------------------------------------------------------------------

# Quarters of a second: exact in binary, so the two simulations may be compared exactly.
SPANS = st.integers(0, 40).map(lambda quarters: quarters / 4)
LIMITS = st.one_of(st.none(), st.integers(1, 60).map(lambda quarters: quarters / 4))
STEPS = st.one_of(
    st.tuples(st.just("bytes"), SPANS),
    st.tuples(st.just("nothing"), SPANS),  # the wait ends without a byte
    st.tuples(st.just("work"), SPANS),  # the library's, on what arrived
    st.tuples(st.just("loop"), SPANS),  # the caller's loop body
    st.tuples(
        st.sampled_from(["content", "progress", "asking", "connecting", "sign_of_life"]),
        st.just(0.0),
    ),
    st.tuples(st.just("rest"), SPANS),
    st.tuples(st.just("linger"), SPANS),
)


class Pair:
    """The real clocks and the reference, moved together and compared at each step."""

    def __init__(self, timeouts: Timeouts, start: float) -> None:
        self.start = start
        self.real = Timers(timeouts, start)
        self.reference = Reference(timeouts)
        self.real.connecting()
        self.running = True
        self.check()

    @property
    def now(self) -> float:
        return self.start + self.reference.now

    def step(self, kind: str, span: float) -> None:
        getattr(self, f"_{kind}")(span)

    # -- waiting

    def _wait(self, span: float, *, received: bool) -> None:
        reference, real = self.reference, self.real
        reference.waiting_since = reference.now
        at = real.begin_wait(self.now)
        assert at == real.at
        self.check(waiting=True)
        self.pass_time(span, waiting=True)
        started = reference.waiting_since
        assert started is not None
        reference.waits.append((started, reference.now))
        reference.waiting_since = None
        real.end_wait(self.now, received=received)
        reference.working = True
        if received and reference.phase == "idle":
            reference.silent_from = reference.now
        self.check()

    def _bytes(self, span: float) -> None:
        self._wait(span, received=True)

    def _nothing(self, span: float) -> None:
        self._wait(span, received=False)

    def _work(self, span: float) -> None:
        began = self.reference.now
        self.pass_time(span, waiting=False)
        if self.reference.working:
            self.reference.works.append((began, self.reference.now))

    def _hand_over(self) -> None:
        self.real.hand_over(self.now)
        self.reference.working = False

    def _loop(self, span: float) -> None:
        self._hand_over()
        self.pass_time(span, waiting=False)

    def pass_time(self, span: float, *, waiting: bool) -> None:
        for _ in range(4):
            self.reference.now += span / 4
            self.check(waiting=waiting)

    # -- what happens

    def _content(self, _: float) -> None:
        self.real.content()
        if self.reference.phase != "idle":
            self.reference.silent_from = self.reference.now
        self.reference.enter("idle")

    def _sign_of_life(self, _: float) -> None:
        self.real.sign_of_life()
        if not self.reference.alive and self.reference.phase == "idle":
            self.reference.silent_from = self.reference.now
        self.reference.alive = True

    def _progress(self, _: float) -> None:
        self._hand_over()
        self.real.progress()
        if self.reference.phase == "idle":
            self.reference.enter("idle")

    def _asking(self, _: float) -> None:
        self.real.requesting()
        self.reference.enter("first_token")
        self.reference.alive = False

    def _connecting(self, _: float) -> None:
        self.real.connecting()
        self.reference.enter("connect")

    def _rest(self, span: float) -> None:
        self.real.back_off()
        self.reference.enter("backoff")
        self.check()
        self.pass_time(span, waiting=False)
        self._connecting(0.0)

    def _linger(self, span: float) -> None:
        self.real.linger(span)
        self.reference.lingers = span
        self.reference.enter("linger")

    # -- comparing

    def check(self, *, waiting: bool = False) -> None:
        """The clock that is broken now, and the moment at which the first will be."""
        left = self.reference.left()
        if not waiting:
            left = {"total": left["total"]}
        broken = {name for name, seconds in left.items() if seconds <= 0}
        found = self.real.expired(self.now)
        if broken:
            first = min(left.values())
            assert found is not None
            assert left[found] == first
        else:
            assert found is None
        assert self.real.at == self.now + min(left.values()) or min(left.values()) == OFF
        assert self.real.remaining(self.now) == self.reference.left()["total"]


@pytest.mark.slow
@settings(PROPERTY, max_examples=600)
@given(
    st.builds(
        Timeouts,
        connect=LIMITS,
        first_token=LIMITS,
        idle=LIMITS,
        silence=st.one_of(st.just("auto"), LIMITS),
        total=LIMITS,
    ),
    st.lists(STEPS, max_size=25),
    st.sampled_from([0.0, 1000.0, -50.0]),
)
def test_the_clocks_are_those_of_the_reference(
    timeouts: Timeouts, steps: list[tuple[str, float]], start: float
) -> None:
    """Through any course of waits, work, bytes, content and attempts the same clock breaks at the
    same moment."""
    pair = Pair(timeouts, start)
    for kind, span in steps:
        pair.step(kind, span)


# --- single sentences of the table --------------------------------------------------------------


def clocks(**limits: Any) -> Timers:
    return Timers(
        Timeouts(**{**dict.fromkeys(("connect", "first_token", "idle", "silence")), **limits}), 0.0
    )


def test_connect_covers_everything_until_the_request() -> None:
    """Nothing resets the connect clock."""
    c = clocks(connect=10)
    c.connecting()
    assert c.begin_wait(0.0) == 10.0
    c.end_wait(4.0, received=False)
    assert c.begin_wait(4.0) == 10.0
    assert c.expired(9.9) is None
    assert c.expired(10.0) == "connect"


def test_a_wait_that_follows_a_wait_loses_no_time() -> None:
    """A second wait without a wake-up between, as behind a proxy's tunnel, does not start the
    clock anew."""
    c = clocks(connect=10)
    c.connecting()
    c.begin_wait(0.0)
    assert c.begin_wait(6.0) == 10.0
    assert c.expired(10.0) == "connect"


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("waiting", [False, True])
def test_a_phase_and_its_wait_begin_in_one_step(waiting: bool, resumed: bool) -> None:
    """`begin_connect` and `begin_request` are what the single steps are, one after the other."""
    one, other = (
        clocks(connect=10, first_token=7, idle=5),
        clocks(connect=10, first_token=7, idle=5),
    )
    for c in (one, other):
        c.resumed = resumed
    assert one.begin_connect(1.0) == (other.connecting(), other.begin_wait(1.0))[1]
    if not waiting:
        for c in (one, other):
            c.end_wait(2.0, received=True)
    for now in (3.0, 4.0):  # before it is sent, and after that
        other.end_wait(now, received=False)
        assert one.begin_request(now) == (other.requesting(), other.begin_wait(now))[1]
        assert {n: getattr(one, n) for n in Timers.__slots__ if n != "timeouts"} == {
            n: getattr(other, n) for n in Timers.__slots__ if n != "timeouts"
        }


def test_work_on_what_arrived_counts_until_it_is_handed_over() -> None:
    """A service that sends as fast as the library reads never makes it wait: its clock runs all
    the same. What the caller does with a batch is not the service's time."""
    c = clocks(idle=3, silence=2)
    c.requesting()
    c.content()
    for at in (0.0, 1.0):
        c.begin_wait(at)
        c.end_wait(at, received=True)  # at once; then a second of work on it
    c.hand_over(2.0)
    assert c.begin_wait(50.0) == 51.0
    c.end_wait(50.5, received=True)
    c.begin_wait(51.0)
    assert c.expired(51.0) == "idle"


def test_pings_break_idle_but_not_silence() -> None:
    """Bytes without progress keep silence away, and let idle run out."""
    c = clocks(idle=3, silence=2)
    c.requesting()
    c.begin_wait(0.0)
    c.end_wait(0.0, received=True)
    c.content()
    for second in (1.0, 2.0):
        c.begin_wait(second - 1)
        assert c.expired(second) is None
        c.end_wait(second, received=True)
    assert c.begin_wait(2.0) == 3.0
    assert c.expired(3.0) == "idle"


def test_silence_starts_with_the_first_content() -> None:
    """Before the first content only the first-token clock runs, whatever arrives; after it any
    byte resets silence."""
    c = clocks(first_token=100, silence=5)
    c.requesting()
    assert c.begin_wait(0.0) == 100.0
    c.end_wait(50.0, received=True)
    c.sign_of_life()
    assert c.begin_wait(50.0) == 100.0
    c.end_wait(60.0, received=True)
    c.content()
    assert c.begin_wait(60.0) == 65.0
    c.end_wait(64.0, received=True)
    assert c.begin_wait(64.0) == 69.0
    assert c.expired(69.0) == "silence"


def test_a_request_begins_without_silence() -> None:
    """Asking again, on the same connection, waits for the first content again."""
    c = clocks(first_token=100, silence=5)
    c.requesting()
    c.begin_wait(0.0)
    c.end_wait(1.0, received=True)
    c.content()
    c.requesting()
    assert c.begin_wait(1.0) == 101.0
    assert c.expired(90.0) is None


@pytest.mark.parametrize("before", [True, False], ids=["before the content", "after it"])
def test_silence_auto_holds_after_a_sign_of_life(before: bool) -> None:
    """A service that has pinged is dead after 90 s without a byte, wherever the ping was."""
    c = clocks(silence="auto")
    c.requesting()
    if before:
        c.sign_of_life()
    c.content()
    if not before:
        assert c.begin_wait(0.0) == OFF
        c.end_wait(500.0, received=True)
        c.sign_of_life()
    assert c.begin_wait(500.0) == 590.0
    assert c.expired(590.0) == "silence"


def test_silence_auto_without_a_sign_of_life_is_off() -> None:
    """A service that never pings may be quiet until idle runs out."""
    c = clocks(idle=180, silence="auto")
    c.requesting()
    c.content()
    assert c.begin_wait(0.0) == 180.0
    assert c.expired(180.0) == "idle"


def test_a_sign_of_life_counts_for_its_own_response() -> None:
    """The next request asks another server, which may never ping."""
    c = clocks(silence="auto")
    c.requesting()
    c.sign_of_life()
    c.back_off()
    c.connecting()
    c.requesting()
    c.content()
    assert c.begin_wait(0.0) == OFF


def test_a_resumed_answer_has_content_already() -> None:
    """Silence holds from the first byte of the response on."""
    c = clocks(idle=100, silence=5)
    c.resumed = True
    c.requesting()
    assert c.begin_wait(0.0) == 100.0
    c.end_wait(50.0, received=True)
    assert c.begin_wait(50.0) == 55.0
    assert c.expired(55.0) == "silence"


def test_first_token_ends_with_content_only() -> None:
    """Progress that is no content does not end the first-token clock, nor reset it."""
    c = clocks(first_token=10, idle=3)
    c.requesting()
    c.begin_wait(0.0)
    c.end_wait(8.0, received=True)
    c.progress()
    assert c.begin_wait(8.0) == 10.0
    c.end_wait(9.0, received=True)
    c.content()
    assert c.begin_wait(9.0) == 12.0


def test_the_callers_work_is_free() -> None:
    """A slow loop body breaks no clock but total."""
    c = clocks(idle=3, silence=2)
    c.requesting()
    c.begin_wait(0.0)
    c.end_wait(0.0, received=True)
    c.content()
    assert c.expired(1e6) is None
    assert c.begin_wait(1e6) == 1e6 + 2


def test_total_runs_always() -> None:
    """The deadline holds while waiting, while the caller works, and in the backoff."""
    c = clocks(total=10)
    assert c.at == 10.0
    assert c.expired(10.0) == "total"
    c.connecting()
    c.begin_wait(3.0)
    assert c.expired(10.0) == "total"
    c.back_off()
    assert (c.at, c.expired(9.9), c.expired(10.0)) == (10.0, None, "total")
    assert c.remaining(4.0) == 6.0


def test_no_clock_at_all() -> None:
    """All off: nothing ever breaks."""
    c = clocks()
    c.connecting()
    assert c.begin_wait(0.0) == OFF
    assert c.expired(1e300) is None
    assert c.remaining(5.0) == OFF


def test_a_new_attempt_starts_all_clocks_but_total() -> None:
    """After a backoff connect is whole again, silence is not running, total has gone on."""
    c = clocks(connect=10, silence=1, total=100)
    c.connecting()
    c.begin_wait(0.0)
    c.end_wait(9.0, received=True)
    c.back_off()
    c.connecting()
    assert c.begin_wait(50.0) == 60.0
    assert c.expired(59.0) is None
    c.end_wait(59.0, received=False)
    assert c.remaining(59.0) == 41.0


@every("name", ["connect", "first_token", "idle", "silence", "total"])
@every("value", [0, 0.0, -1, math.nan, "5", True, [], "nan", -math.inf, "AUTO", "off", ""])
def test_limits_are_checked(name: str, value: Any) -> None:
    """What is not a number above 0 is refused with a sentence that names it."""
    with pytest.raises(ConfigurationError, match=name):
        Timeouts(**{name: value})


def test_auto_is_a_word_of_silence_alone() -> None:
    """It is the default, survives pickling, and no other clock knows it."""
    default = pickle.loads(pickle.dumps(Timeouts()))
    assert (default.silence, default.seconds("silence"), default.seconds("idle")) == (
        "auto",
        90.0,
        180.0,
    )
    for name in ("connect", "first_token", "idle", "total"):
        with pytest.raises(ConfigurationError, match=name):
            Timeouts(**{name: "auto"})


@every("name", ["connect", "first_token", "idle", "silence", "total"])
@every("value", [None, 1, 0.001, math.inf, 10**9])
def test_limits_that_make_sense(name: str, value: Any) -> None:
    """None and inf are no limit, any number above 0 is one."""
    assert getattr(Timeouts(**{name: value}), name) == value
