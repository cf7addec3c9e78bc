"""Good settings pass, and settings that leave a wait unbounded fail by name."""

from __future__ import annotations

import time

import msgspec
import pytest
from checking import FAST, ONE_OF_EACH, command, failed, only, results

from llmstream import RetryPolicy, Timeouts
from llmstream._core.recovery import POLICIES
from llmstream.check import CHECKS, CheckSettings, pace, run, wire
from llmstream.check.mid_answer import DROPS

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process a wait under test takes a quarter of a second, not a whole one; and this
    process, which many tests share, may stand still for longer than a check does."""
    monkeypatch.setattr(pace, "TARGET", 0.25)
    monkeypatch.setattr(pace, "LATE", 5.0)


@pytest.mark.slow
def test_the_defaults_pass() -> None:
    """The command writes a line for every check, in half a minute at most, and exits with 0."""
    begun = time.monotonic()
    done = command()
    assert time.monotonic() - begun < 30
    first, *lines, summary = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "first_token 300, idle 180, silence auto, total off" in first
    assert [line[6:28].strip() for line in lines] == list(CHECKS)
    assert {line[:6].strip() for line in lines} == {"ok", "off"}
    assert summary.startswith(f"{len(CHECKS)} checks: {len(CHECKS) - 1} ok, 1 off in ")


@pytest.mark.parametrize("api", ["messages", "chat", "gemini"])
def test_the_other_apis_pass(api: str) -> None:
    """Every fault is played in the form of each API."""
    assert failed(CheckSettings(api=api, retry=FAST), *ONE_OF_EACH) == set()


@pytest.mark.slow
@pytest.mark.parametrize("api", ["responses", "messages", "chat", "gemini"])
@pytest.mark.parametrize("policy", ["raise", "restart", "continue"])
def test_everything_passes_with_every_policy(api: str, policy: str) -> None:
    """The whole list, the many streams included."""
    settings = CheckSettings(api=api, on_disconnect=policy, timeouts=Timeouts(total=45))
    assert failed(settings, *CHECKS) == set()


@pytest.mark.slow
def test_in_real_time() -> None:
    """With `real_time` nothing is scaled, and the figures say so."""
    # Longer than a hundred handshakes take on a busy machine.
    timeouts = Timeouts(connect=5, first_token=8, idle=6, silence=5, total=12)
    found = results(CheckSettings(timeouts=timeouts, real_time=True), *CHECKS)
    assert [result.text() for result in found.values() if not result.ok] == []
    assert {result.figures.get("speed", 1.0) for result in found.values()} == {1.0}


@pytest.mark.parametrize("policy", ["restart", "continue", "resume"])
def test_a_drop_is_recovered_by_the_policy(policy: str) -> None:
    """An answer that is cut in mid-answer is whole in the end, after two requests."""
    result = only(CheckSettings(on_disconnect=policy, retry=FAST), "drop in mid-answer")
    assert (result.status, result.figures["requests"]) == ("ok", 2), result.text()


def test_every_policy_has_its_check() -> None:
    """A new `on_disconnect` is not passed over in silence."""
    assert DROPS.keys() == POLICIES.keys()


@pytest.mark.parametrize("api", ["messages", "chat", "gemini"])
def test_a_policy_that_the_api_cannot_have_fails(api: str) -> None:
    """Every call with it would be refused: better to learn that before the launch."""
    result = only(CheckSettings(api=api, on_disconnect="resume"), "drop in mid-answer")
    assert result.status == "FAIL"
    assert "has no background responses" in result.seen


def test_many_streams_get_their_own_answers() -> None:
    """50 at once: none has a word of another, and the latencies are reported."""
    result = only(CheckSettings(), "50 streams")
    assert (result.status, result.figures["exact"], result.figures["requests"]) == ("ok", 50, 50)
    assert 0 <= result.figures["first_token_p50_ms"] <= result.figures["first_token_p95_ms"] < 5000


@pytest.mark.slow
def test_many_streams_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 at once, each with a handshake; not without the package that makes the certificates."""
    result = only(CheckSettings(), "100 TLS streams")
    assert (result.status, result.figures["exact"], result.figures["requests"]) == ("ok", 100, 100)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = only(CheckSettings(), "100 TLS streams")
    assert (result.status, result.ok) == ("n/a", True)
    assert "trustme" in result.seen


def test_no_retry_is_a_choice() -> None:
    """max_attempts=1 is reported as configured, not as a failure."""
    names = ["rate limit", "retry-after", "server errors", "reset before answer"]
    found = results(CheckSettings(retry=RetryPolicy(max_attempts=1)), *names, "connection refused")
    for result in found.values():
        assert result.status == "ok", result.text()
        assert "(1 attempt, as configured)" in result.expected
        assert result.figures["requests"] == 1


def test_very_many_attempts_are_not_all_played() -> None:
    """A thousand attempts would take long, and twelve prove the same."""
    policy = RetryPolicy(max_attempts=1000, base=0.0, cap=0.0)
    result = only(CheckSettings(retry=policy), "server errors")
    assert (result.status, result.figures["requests"]) == ("ok", 12)
    assert "played with 12 attempts of 1000" in result.expected


CENTURY = 3_153_600_000.0
LONG = {
    "waits": CheckSettings(retry=RetryPolicy(base=CENTURY, cap=CENTURY, jitter=10)),
    "waits without a cap": CheckSettings(retry=RetryPolicy(base=1e9, cap=float("inf"))),
    "clocks": CheckSettings(timeouts=Timeouts(CENTURY, CENTURY, CENTURY, CENTURY, CENTURY)),
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", LONG.values(), ids=LONG.keys())
def test_the_longest_waits_and_clocks_are_not_waited_out(settings: CheckSettings) -> None:
    """Whatever a RetryPolicy and Timeouts may be, all checks end within seconds."""
    begun = time.monotonic()
    assert all(result.ok for result in run(settings))
    assert time.monotonic() - begun < 60


@pytest.mark.slow
def test_a_deadline_leaves_no_time_for_all_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer requests than the policy allows are right where the total clock ends them."""
    monkeypatch.setattr(pace, "TARGET", 6.0)  # on any machine there is time for the second request
    settings = CheckSettings(
        timeouts=Timeouts(total=12), retry=RetryPolicy(base=4.0, cap=40.0, jitter=0.1)
    )
    result = only(settings, "server errors")
    assert (result.status, result.figures["requests"]) == ("ok", 2)
    assert "total=12 s leaves no time for more" in result.expected


def test_a_wait_without_a_limit_cannot_be_too_long() -> None:
    """max_retry_after=inf: not applicable, and no failure."""
    settings = CheckSettings(retry=RetryPolicy(max_retry_after=float("inf")))
    assert only(settings, "retry-after too long").status == "n/a"


@pytest.mark.parametrize("api", ["responses", "messages", "chat", "gemini"])
def test_the_first_part_of_an_answer_is_one_write(api: str) -> None:
    """A server that stands still within it would let a clock run out that is under test."""
    (written,) = wire.first_part(api)
    assert all(word.encode() in written for word in wire.PART.split())


ALL_OFF = Timeouts(connect=None, first_token=None, idle=None, silence=None, total=None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("off", "names"),
    [
        (("connect",), {"hung connect"}),
        (("first_token",), {"no answer", "pings before answer"}),
        # silence="auto" does not bound a service that never pings
        (("idle",), {"pings in mid-answer", "silence in mid-answer"}),
        (("silence",), set()),  # idle bounds it
        (("idle", "silence"), {"pings in mid-answer", "silence in mid-answer"}),
    ],
)
def test_where_nothing_ends_a_wait_the_check_fails(off: tuple[str, ...], names: set[str]) -> None:
    """A clock that is off is a failure exactly where no other one bounds the same wait."""
    waits = {n for n in CHECKS if "answer" in n or n == "hung connect"} & set(ONE_OF_EACH)
    timeouts = Timeouts(**{"total": None, **dict.fromkeys(off)})
    assert failed(CheckSettings(timeouts=timeouts, retry=FAST), *waits) == names
    with_a_deadline = msgspec.structs.replace(timeouts, total=20.0)
    assert failed(CheckSettings(timeouts=with_a_deadline, retry=FAST), *names) == set()


def test_silence_in_seconds_bounds_every_service() -> None:
    """Also one that never pings: without idle, only a stream that pings is endless."""
    settings = CheckSettings(timeouts=Timeouts(idle=None, silence=90))
    waits = ("pings in mid-answer", "silence in mid-answer")
    assert failed(settings, *waits) == {"pings in mid-answer"}
    result = only(CheckSettings(timeouts=Timeouts(idle=None)), "silence in mid-answer")
    assert "where the service never pings: silence is auto, and idle and total are" in result.seen


def test_what_nothing_bounds_is_reported() -> None:
    """The result names what would hang, and the clocks that are off."""
    result = only(CheckSettings(timeouts=ALL_OFF), "pings in mid-answer")
    assert result.status == "FAIL"
    assert result.seen == "nothing bounds a stream that only pings: idle and total are off"
    assert only(CheckSettings(timeouts=ALL_OFF), "endless answer").status == "off"


def test_a_clock_that_never_runs_out_first_is_reported() -> None:
    """total=45 ends what first_token=300 was meant for."""
    result = only(CheckSettings(timeouts=Timeouts(total=45)), "no answer")
    assert result.expected == "DeadlineExceeded after 45 s (first_token=300 would end it later)"
    assert result.status == "ok"
    assert result.figures["speed"] == pytest.approx(180)
    assert "clock ran 180x faster" in result.text()
    idle_off = CheckSettings(timeouts=Timeouts(idle=None, total=45))
    result = only(idle_off, "pings in mid-answer")
    assert result.expected == "DeadlineExceeded after 45 s (idle is off)"


@pytest.mark.slow
def test_tiny_clocks_are_not_run_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock as short as a check may take is checked in real time."""
    monkeypatch.setattr(pace, "TARGET", 5.0)  # no busy machine takes that by itself
    timeouts = Timeouts(connect=5.0, first_token=5.0, idle=4.5, silence=4.5, total=5.0)
    found = results(
        CheckSettings(timeouts=timeouts), "no answer", "silence in mid-answer", "endless answer"
    )
    assert {result.status for result in found.values()} == {"ok"}
    assert {result.figures["speed"] for result in found.values()} == {1.0}
