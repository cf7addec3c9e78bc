"""`llmstream check`: good settings pass, bad ones fail by name, and so does a library that breaks
a promise. Bugs are planted for that, one at a time."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmstream import Client, ConfigurationError, RetryPolicy, Timeouts, check
from llmstream._core.session import Session
from llmstream._core.timers import Timers
from llmstream._runtime.scope import CancelScope
from llmstream.check import CHECKS, CheckResult, CheckSettings
from llmstream.errors import FirstTokenTimeout
from llmstream.testing import Answer, LLMServer, Recorded

BOUND = 60.0  # seconds for a run of the command; it takes about 3
KEY = "sk-a-real-key"
FAST = RetryPolicy(base=0.01, cap=0.02)  # no test is about long waits
MEASURING = ("50 streams", "100 streams")
ONE_OF_EACH = [name for name in CHECKS if name not in MEASURING]

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process a wait under test takes a quarter of a second, not a whole one."""
    monkeypatch.setattr(check, "_TARGET", 0.25)


def run(setup: CheckSettings, *names: str) -> dict[str, CheckResult]:
    """The lines of some checks, by name."""
    return {line.name: line for line in check.run(setup, names)}


def only(setup: CheckSettings, name: str) -> CheckResult:
    return run(setup, name)[name]


def failed(setup: CheckSettings, *names: str) -> set[str]:
    return {line.name for line in check.run(setup, names) if not line.ok}


def command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmstream", "check", *arguments],
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        timeout=BOUND,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(check.__file__).parents[1])},
    )


# ---- good settings -----------------------------------------------------------------------------


def test_the_defaults_pass() -> None:
    """The command says a line for every check, in half a minute at most, and exits with 0."""
    begun = time.monotonic()
    done = command()
    assert time.monotonic() - begun < 30
    settings, *lines, summary = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "first_token 300, idle 180, silence 90, total off" in settings
    assert [line[6:28].strip() for line in lines] == list(CHECKS)
    assert {line[:6].strip() for line in lines} == {"ok", "off"}
    assert summary.startswith(f"{len(CHECKS)} checks: {len(CHECKS) - 1} ok, 1 off in ")


@pytest.mark.parametrize("api", ["messages", "chat"])
def test_the_other_apis_pass(api: str) -> None:
    """Every fault is played in the words of each API."""
    assert failed(CheckSettings(api=api, retry=FAST), *ONE_OF_EACH) == set()


@pytest.mark.slow
@pytest.mark.parametrize("api", ["responses", "messages", "chat"])
@pytest.mark.parametrize("policy", ["raise", "restart", "continue"])
def test_everything_passes_with_every_policy(api: str, policy: str) -> None:
    """The whole list, crowds included."""
    setup = CheckSettings(api=api, on_disconnect=policy, timeouts=Timeouts(total=45))
    assert failed(setup, *CHECKS) == set()


@pytest.mark.slow
def test_in_real_time() -> None:
    """With `real_time` nothing is scaled, and the figures say so."""
    timeouts = Timeouts(connect=1, first_token=2, idle=1.5, silence=1.2, total=3)
    lines = run(CheckSettings(timeouts=timeouts, real_time=True), *CHECKS)
    assert [line.text() for line in lines.values() if not line.ok] == []
    assert {line.figures.get("speed", 1.0) for line in lines.values()} == {1.0}


@pytest.mark.parametrize("policy", ["restart", "continue", "resume"])
def test_a_drop_is_recovered_by_the_policy(policy: str) -> None:
    """What was cut in mid-answer is whole in the end, by two requests."""
    line = only(CheckSettings(on_disconnect=policy, retry=FAST), "drop in mid-answer")
    assert (line.status, line.figures["requests"]) == ("ok", 2), line.text()


@pytest.mark.parametrize("api", ["messages", "chat"])
def test_a_policy_that_the_api_cannot_have_fails(api: str) -> None:
    """Every call with it would be refused: better to learn that before the launch."""
    line = only(CheckSettings(api=api, on_disconnect="resume"), "drop in mid-answer")
    assert line.status == "FAIL"
    assert "has no background responses" in line.seen


def test_many_streams_get_their_own_answers() -> None:
    """50 at once: none has a word of another, and the latency is told."""
    line = only(CheckSettings(), "50 streams")
    assert (line.status, line.figures["exact"], line.figures["requests"]) == ("ok", 50, 50)
    assert 0 <= line.figures["first_token_p50_ms"] <= line.figures["first_token_p95_ms"] < 5000


# ---- settings by choice ------------------------------------------------------------------------


def test_no_retry_is_a_choice() -> None:
    """max_attempts=1 is reported as configured, not as a failure."""
    names = ["rate limit", "retry-after", "server errors", "reset before answer"]
    lines = run(CheckSettings(retry=RetryPolicy(max_attempts=1)), *names, "connection refused")
    for line in lines.values():
        assert line.status == "ok", line.text()
        assert "(1 attempt, as configured)" in line.expected
        assert line.figures["requests"] == 1


def test_very_many_attempts_are_not_all_played() -> None:
    """A thousand attempts would take long, and twelve prove the same."""
    policy = RetryPolicy(max_attempts=1000, base=0.0, cap=0.0)
    line = only(CheckSettings(retry=policy), "server errors")
    assert (line.status, line.figures["requests"]) == ("ok", 12)
    assert "tried with 12 attempts of 1000" in line.expected


def test_a_deadline_leaves_no_time_for_all_retries() -> None:
    """Fewer requests than the policy allows are right where the total clock says so."""
    setup = CheckSettings(
        timeouts=Timeouts(total=3), retry=RetryPolicy(base=1.0, cap=10.0, jitter=0.1)
    )
    line = only(setup, "server errors")
    assert (line.status, line.figures["requests"]) == ("ok", 2)
    assert "total=3 s leaves no time for more" in line.expected


def test_a_wait_without_a_limit_cannot_be_too_long() -> None:
    """max_retry_after=inf: not applicable, and no failure."""
    setup = CheckSettings(retry=RetryPolicy(max_retry_after=float("inf")))
    assert only(setup, "retry-after too long").status == "n/a"


ALL_OFF = Timeouts(connect=None, first_token=None, idle=None, silence=None, total=None)


@pytest.mark.parametrize(
    ("off", "names"),
    [
        (("connect",), {"hung connect"}),
        (("first_token",), {"no answer", "pings before answer"}),
        (("idle",), {"pings in mid-answer"}),
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


def test_what_nothing_bounds_is_said() -> None:
    """The line names what would hang, and the clocks that are off."""
    line = only(CheckSettings(timeouts=ALL_OFF), "pings in mid-answer")
    assert line.status == "FAIL"
    assert line.seen == "nothing bounds a stream that only pings: idle and total are off"
    assert only(CheckSettings(timeouts=ALL_OFF), "endless answer").status == "off"


def test_a_clock_that_never_comes_first_is_said() -> None:
    """total=45 ends what first_token=300 was meant for."""
    line = only(CheckSettings(timeouts=Timeouts(total=45)), "no answer")
    assert line.expected == "DeadlineExceeded after 45 s (first_token=300 would come later)"
    assert line.status == "ok"
    assert line.figures["speed"] == pytest.approx(180)
    assert "clock ran 180x faster" in line.text()
    idle_off = CheckSettings(timeouts=Timeouts(idle=None, total=45))
    line = only(idle_off, "pings in mid-answer")
    assert line.expected == "DeadlineExceeded after 45 s (idle is off)"


def test_tiny_clocks_are_not_run_faster() -> None:
    """A clock as short as a check may take is checked in real time."""
    timeouts = Timeouts(connect=0.25, first_token=0.25, idle=0.2, silence=0.2, total=0.25)
    lines = run(
        CheckSettings(timeouts=timeouts), "no answer", "silence in mid-answer", "endless answer"
    )
    assert {line.status for line in lines.values()} == {"ok"}
    assert {line.figures["speed"] for line in lines.values()} == {1.0}


# ---- a library that breaks a promise -----------------------------------------------------------


def wants_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RetryPolicy, "wants", lambda self, error: True)


def wants_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RetryPolicy, "wants", lambda self, error: False)


def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RetryPolicy, "delay", lambda self, n, random, floor=0.0: floor)


def no_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    real = RetryPolicy.delay
    monkeypatch.setattr(
        RetryPolicy, "delay", lambda self, n, random, floor=0.0: real(self, n, random)
    )


def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_TARGET", 1.0)  # waits that no busy machine takes by itself
    monkeypatch.setattr(CancelScope, "sleep", lambda self, seconds, phase="backoff": None)


def cut_is_success(monkeypatch: pytest.MonkeyPatch) -> None:
    def receive_eof(self: Session) -> None:
        self.ended = self.complete = True

    monkeypatch.setattr(Session, "receive_eof", receive_eof)


def pings_are_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Timers.end_wait

    def woke(self: Timers, now: float, *, received: bool) -> None:
        real(self, now, received=received)
        if received and self.phase_clock == "idle":
            self.left = math.inf  # as if the next ping were always in time, on any machine

    monkeypatch.setattr(Timers, "end_wait", woke)


def clocks_early(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Timers.begin_wait
    monkeypatch.setattr(Timers, "begin_wait", lambda self, now: min(real(self, now), now + 0.1))
    monkeypatch.setattr(Timers, "broken", lambda self, now: self.phase_clock)


def first_token_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FirstTokenTimeout, "retryable", True)


def cancel_is_deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_LATE", 0.2)
    real = CancelScope.stop
    monkeypatch.setattr(
        CancelScope, "stop", lambda self, why: not why.cancelled and real(self, why)
    )


def text_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Session.receive

    def receive(self: Session, data: bytes) -> list[Any]:
        return real(self, data.replace(b" dolor", b""))

    monkeypatch.setattr(Session, "receive", receive)


def foreign_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(self: Session, data: bytes) -> list[Any]:
        raise KeyError("planted")

    monkeypatch.setattr(Session, "receive", receive)


ONE_REQUEST = ["quota used up", "bad key", "context too long", "HTML page"]
WITH_WAITS = ["rate limit", "server errors", "reset before answer", "connection refused"]


@pytest.mark.parametrize(
    ("plant", "names"),
    [
        (wants_always, ONE_REQUEST),
        (wants_never, [*WITH_WAITS, "retry-after"]),
        (no_backoff, WITH_WAITS),
        (no_floor, ["retry-after"]),
        (no_sleep, ["rate limit", "server errors", "reset before answer", "retry-after"]),
        (cut_is_success, ["truncated answer"]),
        (pings_are_progress, ["pings in mid-answer"]),
        (clocks_early, ["no answer", "silence in mid-answer"]),
        (first_token_retried, ["no answer", "pings before answer"]),
        (cancel_is_deaf, ["cancel"]),
        (text_is_lost, ["drop in mid-answer", "truncated answer", "garbled event"]),
        (foreign_exceptions, ["truncated answer", "rate limit"]),
    ],
)
def test_a_planted_bug_is_found(
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
    names: list[str],
) -> None:
    """Each of these checks passes, and fails once the library has the bug."""
    setup = CheckSettings(retry=RetryPolicy(base=0.3, cap=0.3, max_attempts=3))
    monkeypatch.setattr(check, "_PATIENCE", 0.5)  # what hangs now would hang for ever
    assert failed(setup, *names) == set()
    plant(monkeypatch)
    assert failed(setup, *names) == set(names)


def test_a_repeated_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that goes on where nothing was cut, and so repeats what had come."""
    monkeypatch.setattr(check, "_REST", "Lorem ipsum dolor sit amet consectetur")
    line = only(CheckSettings(on_disconnect="continue", retry=FAST), "drop in mid-answer")
    assert line.status == "FAIL"
    assert "Lorem ipsum dolorLorem" in line.seen


def test_cross_talk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream of many that gets another's answer."""
    real = LLMServer.echo

    def echo(recorded: Recorded) -> Answer:
        said = real(recorded)
        return Answer("8:0") if said.text == "7" else said

    monkeypatch.setattr(LLMServer, "echo", echo)
    monkeypatch.setattr(check, "_said", str)
    line = only(CheckSettings(), "50 streams")
    assert (line.status, line.figures["exact"]) == ("FAIL", 49)


def test_a_check_that_breaks_is_a_failed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of the check itself is a line like any other, and the rest goes on."""
    monkeypatch.setitem(CHECKS, "bad key", lambda setup: 1 / 0)
    lines = run(CheckSettings(), "bad key", "quota used up")
    assert lines["bad key"].status == "FAIL"
    assert "ZeroDivisionError" in lines["bad key"].seen
    assert lines["quota used up"].status == "ok"


# ---- whose settings ----------------------------------------------------------------------------


def test_a_client_brings_its_settings() -> None:
    """All but address, key and headers."""
    client = Client(
        "chat",
        base_url="https://api.mistral.ai/v1",
        api_key=KEY,
        model="m1",
        headers={"x-secret": KEY},
        timeouts=Timeouts(total=45),
        retry=FAST,
        max_event_bytes=1000,
    )
    setup = check.settings_of(client)
    assert setup == CheckSettings(
        api="chat",
        timeouts=Timeouts(total=45),
        retry=FAST,
        profile="mistral",
        model="m1",
        max_event_bytes=1000,
    )
    assert KEY not in repr(setup)


def test_the_real_key_is_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the fault server is sent has another key, none of the client's headers, no prompt."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("LLMSTREAM_API_KEY", KEY)
    client = Client("responses", headers={"x-secret": KEY}, api_key=KEY)
    with check._Scene(check.settings_of(client)) as scene:
        assert scene.play().whole
        (request,) = scene.server.requests
    assert request.headers["authorization"].startswith("Bearer not-a-key-")
    assert KEY not in f"{dict(request.headers)} {request.body!r}"


MODULE = f"""
from llmstream import Client, RetryPolicy, Timeouts
class settings:
    good = Client(base_url="https://example.com/v1", api_key="{KEY}")
def bad():
    return Client(
        base_url="https://example.com/v1",
        api_key="{KEY}",
        timeouts=Timeouts(idle=None, total=None),
    )
number = 7
def broken():
    return 1 / 0
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module with clients in the current directory."""
    name = f"check_settings_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_client_is_found_by_its_name(module: str) -> None:
    """An object, or a function that returns one; the module path is as it was."""
    path = list(sys.path)
    assert repr(check.load(f"{module}:settings.good")).startswith("Client('responses'")
    assert check.load(f"{module}:bad")._timeouts.idle is None
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("{module}", "give it like 'myapp.settings:client'"),
        ("{module}:", "give it like"),
        ("{module}:nothing", "AttributeError"),
        ("{module}:number", "this is a int"),
        ("{module}:broken", "ZeroDivisionError"),
        ("no_such_module_here:client", "ModuleNotFoundError"),
    ],
)
def test_a_client_that_cannot_be_had(module: str, name: str, says: str) -> None:
    """One sentence that says why."""
    with pytest.raises(ConfigurationError) as caught:
        check.setup_from({"client": name.format(module=module)})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_and_a_client_with_a_hole(module: str, tmp_path: Path) -> None:
    """--client and --json: the failed check is named, the exit code is 1, no key is shown."""
    done = command("--client", f"{module}:bad", "--json", cwd=tmp_path)
    *lines, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (1, "")
    assert [line["name"] for line in lines] == list(CHECKS)
    for line in lines:
        assert {"name", "ok", "status", "expected", "seen", "seconds", "figures"} == line.keys()
        assert line["ok"] == (line["name"] != "pings in mid-answer"), line
    assert summary["failed"] == ["pings in mid-answer"]
    assert (summary["summary"], summary["ok"], summary["checks"]) == (True, False, len(CHECKS))
    assert summary["settings"]["timeouts"]["idle"] is None
    assert KEY not in done.stdout


def test_options_are_settings() -> None:
    """Numbers, "off", and the defaults for what is not given."""
    setup = check.setup_from(
        {"api": "chat", "idle": 7.0, "first_token": "off", "max_attempts": 2, "json": True}
    )
    assert setup == CheckSettings(
        api="chat",
        timeouts=Timeouts(idle=7.0, first_token=None),
        retry=RetryPolicy(max_attempts=2),
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"idle": -1.0}, "greater than 0"),
        ({"max_attempts": 0}, "give 1 for no retry"),
        ({"on_disconnect": "hope"}, "on_disconnect='hope'"),
        ({"profile": "nobody"}, "profile='nobody'"),
        ({"client": "a:b", "max_retry_after": 3.0}, "leave --max-retry-after out"),
    ],
)
def test_a_mistake_is_a_configuration_error(options: dict[str, Any], says: str) -> None:
    """Settings that cannot work are told before anything runs."""
    with pytest.raises(ConfigurationError) as caught:
        check.setup_from(options)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--idle", "soon"], "'soon' is neither seconds nor 'off'"),
        (["--total", "0"], "greater than 0"),
    ],
)
def test_a_mistake_exits_with_2_in_one_sentence(arguments: list[str], says: str) -> None:
    """The command's own way of saying so."""
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


# ---- the command -------------------------------------------------------------------------------


def test_the_exit_code_is_that_of_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 where none failed, 1 where one did; a line each, and a summary."""
    for name in [name for name in CHECKS if name not in ONE_REQUEST]:
        monkeypatch.delitem(CHECKS, name)
    out = io.StringIO()
    assert check.report(CheckSettings(), out) == 0
    assert out.getvalue().splitlines()[-1].startswith("4 checks: 4 ok in ")
    wants_always(monkeypatch)
    out = io.StringIO()
    assert check.report(CheckSettings(retry=FAST), out) == 1
    assert out.getvalue().count("\nFAIL  ") == 4


def test_who_leaves_early_leaves_nothing_behind() -> None:
    """A reader of `run` may stop: what runs ends by itself, the rest is not begun."""
    lines = check.run(CheckSettings())
    next(lines)
    lines.close()  # type: ignore[attr-defined]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no POSIX signals")
def test_ctrl_c_ends_it_at_once() -> None:
    """SIGINT: exit code 130, and not a word."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "llmstream", "check"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(Path(check.__file__).parents[1])},
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=BOUND)
    assert (process.returncode, err) == (130, "")


def test_it_is_imported_only_when_it_is_used() -> None:
    """Neither the package nor the plain command brings the checks or the fault server."""
    code = (
        "import sys, llmstream.cli\n"
        "print([m for m in ('llmstream.check', 'llmstream.testing') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=BOUND, check=True
    )
    assert done.stdout == "[]\n"


# ---- the faster clock --------------------------------------------------------------------------


def test_a_fast_clock_is_faster_and_its_thread_ends() -> None:
    """It shows, and waits, so many seconds in one; closing it takes its thread along."""
    before = threading.active_count()
    clock = check._FastClock(1000.0)
    assert threading.active_count() == before + 1
    begun, real = clock.monotonic(), time.monotonic()
    time.sleep(0.05)
    assert clock.monotonic() - begun >= 1000.0 * 0.05
    assert clock.monotonic() - begun <= 1000.0 * (time.monotonic() - real) + 1.0
    clock.close()
    assert threading.active_count() == before
