"""The fuzzer: for a bounded time in the suite of its own mark; that its oracle can say no, always.

pip install -e ".[test,fuzz]" && pytest -m fuzz
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz import mutate, oracle, seeds
from fuzz.oracle import Case, check

from llmstream._core import tool_calls
from llmstream._core.framing import Framer
from llmstream._core.session import Session, Stage
from llmstream._core.state import State

SECONDS = 35  # of fuzzing
TARGET = Path(oracle.__file__).with_name("receive.py")
needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason='atheris is not installed: pip install -e ".[fuzz]"',
)


def fuzz(code: str, *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A fuzzer's process. It has to end by itself; the library is this one."""
    proofs, tests, package = TARGET.parents[1:4]
    path = os.pathsep.join(map(str, (proofs, tests, package)))
    return subprocess.run(
        [sys.executable, *([str(TARGET)] if not code else ["-c", textwrap.dedent(code)]), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=100,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )


def crashes_in(directory: Path) -> list[str]:
    """Each input that broke something, as the case that it is."""
    kinds = ("crash-*", "timeout-*", "oom-*", "leak-*")
    found = sorted(path for kind in kinds for path in directory.glob(kind))
    return [f"{path.name}: {Case.of(path.read_bytes())}" for path in found]


@pytest.mark.fuzz
@needs_atheris
def test_no_input_breaks_a_promise(tmp_path: Path) -> None:
    """Half a minute of coverage-guided inputs, from a fixed seed, for all four APIs."""
    ended = fuzz("", f"-max_total_time={SECONDS}", "-seed=1", cwd=tmp_path)
    crashes = "\n".join(crashes_in(tmp_path))
    assert ended.returncode == 0, f"{crashes}\n{ended.stdout[-4000:]}"
    assert not crashes
    assert "Done " in ended.stdout  # it has run


BROKEN = """
    import sys
    from fuzz import receive
    from llmstream._core.session import Session, Stage

    def receive_eof(self):
        self.stage = Stage.WHOLE if self.error is None else Stage.FAILED
        return []

    Session.receive_eof = receive_eof
    receive.main(sys.argv)
"""


@pytest.mark.fuzz
@needs_atheris
def test_a_planted_bug_ends_the_fuzzer(tmp_path: Path) -> None:
    """A session that takes every end for a good one: the fuzzer fails, and keeps the input."""
    ended = fuzz(BROKEN, "-runs=0", cwd=tmp_path)
    assert ended.returncode != 0
    assert "a success without an end of the answer" in ended.stdout
    assert len(crashes_in(tmp_path)) == 1


# --- the oracle ---------------------------------------------------------------------------------


def test_the_seeds_break_nothing(tmp_path: Path) -> None:
    """Every seed is what its bytes say, and a good input; they are written with their words."""
    cases = list(seeds.cases())
    for case in cases:
        assert Case.of(case.data) == case
        check(case)
    assert {case.api for case in cases} == set(oracle.APIS)
    assert {case.is_json for case in cases} == {True, False}
    assert (
        seeds.write(tmp_path / "seeds") == len(cases) == len(list((tmp_path / "seeds").iterdir()))
    )
    words = (tmp_path / "seeds.dict").read_text().splitlines()
    assert r'"\x22output_text\x22"' in words


def test_any_bytes_are_a_case() -> None:
    """Also none at all."""
    for data in (b"", b"\0", b"\xff" * 3, bytes(range(256))):
        check(Case.of(data))


@pytest.mark.slow
def test_every_damage_does_something() -> None:
    """No operation of the mutator is idle, and none fails on what the others left."""
    cases = list(seeds.cases())
    for name in mutate.OPS:
        changed = 0
        for number in range(40):
            for case in cases[:: 10 + number]:
                blocks = mutate.blocks_of(case.body)
                op = mutate.Op(name, number, 7 * number + 1, 3 * number)
                changed += mutate.damaged(mutate.damaged(blocks, [op]), [op]) != blocks
        assert changed > 20, name


def _raises(self: Session, data: bytes) -> list[Any]:
    raise KeyError("delta")


def _loses_a_word(real: Callable[..., Any]) -> Callable[..., Any]:
    def receive(self: Session, data: bytes) -> Any:
        events = real(self, data)
        return [event for event in events if not any("two" in c.text for c in event.chunks)]

    return receive


def _says_twice(real: Callable[..., Any]) -> Callable[..., Any]:
    def say(self: State, kind: str, text: str, index: int) -> Any:
        return real(self, kind, text, index) * 2

    return say


def _never_lets_go(real: Callable[..., Any]) -> Callable[..., Any]:
    def feed(self: Framer, data: bytes) -> Any:
        self._limit = 1 << 30
        return real(self, data)

    return feed


def _half_an_event(real: Callable[..., Any]) -> Callable[..., Any]:
    """What sseclient does at the end of a stream."""

    def receive_eof(self: Session) -> None:
        self.receive(b"\n\n")
        real(self)

    return receive_eof


def _forgets_pieces(real: Callable[..., Any]) -> Callable[..., Any]:
    """A line end that is cut in two is two."""

    def feed(self: Framer, data: bytes) -> Any:
        self._cr = False
        return real(self, data)

    return feed


def _ends_early(real: Callable[..., Any]) -> Callable[..., Any]:
    def receive(self: Session, data: bytes) -> Any:
        events = real(self, data)
        if self.stage is Stage.OPEN and b"stop" in data:
            self.stage = Stage.COMPLETE
        return events

    return receive


def _hides_failures(real: Callable[..., Any]) -> Callable[..., Any]:
    def receive_eof(self: Session) -> None:
        real(self)
        self.stage, self.error = Stage.WHOLE, None

    return receive_eof


def _foreign(real: Callable[..., Any]) -> Callable[..., Any]:
    def receive_eof(self: Session) -> None:
        real(self)
        if self.error is not None:
            self.error = ConnectionResetError()  # type: ignore[assignment]

    return receive_eof


def _both(real: Callable[..., Any]) -> Callable[..., Any]:
    def receive_eof(self: Session) -> None:
        real(self)
        self.stage = Stage.WHOLE

    return receive_eof


# what is planted -> where, and what replaces it, given what is there
PLANTED: dict[str, tuple[type, str, Callable[..., Any]]] = {
    "an exception": (Session, "receive", lambda real: _raises),
    "a lost word": (Session, "receive", _loses_a_word),
    "a word said twice": (State, "emit", _says_twice),
    "no cap": (Framer, "feed", _never_lets_go),
    "half an event": (Session, "receive_eof", _half_an_event),
    "a cut line end": (Framer, "feed", _forgets_pieces),
    "an early end": (Session, "receive", _ends_early),
    "a hidden failure": (Session, "receive_eof", _hides_failures),
    "a foreign error": (Session, "receive_eof", _foreign),
    "a success and a failure": (Session, "receive_eof", _both),
}


def inputs() -> Iterator[Case]:
    """The seeds, and some of them with other line ends, under a small cap and in small pieces."""
    for case in seeds.cases():
        yield case
        crlf = case.body.replace(b"\n", b"\r\n")
        yield Case(crlf, case.api, seed=1)
        yield Case(crlf, case.api, limit=64, seed=2)


def check_all(cases: Iterable[Case]) -> None:
    for case in cases:
        check(case)


@pytest.mark.slow
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle refuses what a broken core does, on its seeds already."""
    where, name, planted = PLANTED[bug]
    monkeypatch.setattr(where, name, planted(getattr(where, name)))
    with pytest.raises((AssertionError, KeyError)):
        check_all(inputs())


def test_a_call_that_does_not_parse_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call is listed safe, though its arguments are cut."""
    blocks = seeds.Answer(tool_calls=[("f", "{")]).blocks("responses")
    case = Case(b"".join(blocks), "responses")
    check(case)
    real = tool_calls.partition_calls

    def trusting(calls: Any, cut: bool, is_json: Any) -> Any:
        return real(calls, cut, lambda text: True)

    monkeypatch.setattr(oracle, "partition_calls", trusting)
    with pytest.raises(Exception, match="not JSON"):
        check(case)


def test_a_slow_input_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each input has its time."""
    monkeypatch.setattr(oracle, "SECONDS", 0.0)
    with pytest.raises(AssertionError, match="of CPU"):
        check(next(seeds.cases()))
