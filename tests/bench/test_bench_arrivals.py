"""When requests are due, and what is asked."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from every import every

from llmstream import ConfigurationError
from llmstream.bench import Load
from llmstream.bench.arrivals import Arrivals, ClosedLoop, OpenLoop
from llmstream.bench.prompts import built_in, load_prompts


def moments(arrivals: Arrivals, now: float = 0.0) -> list[float]:
    found = []
    while (at := arrivals.next(now)) is not None:
        found.append(at)
    return found


def test_a_closed_loop_asks_when_it_is_free() -> None:
    """The moment is that of asking, until the count or the time is used up."""
    loop = ClosedLoop(3, 10.0)
    assert [loop.next(now) for now in (0.0, 1.5, 2.0, 3.0)] == [0.0, 1.5, 2.0, None]
    late = ClosedLoop(None, 10.0)
    assert [late.next(now) for now in (9.99, 10.0)] == [9.99, None]


def test_evenly_spaced_moments_are_exact() -> None:
    """No sum of roundings: number / rate."""
    found = moments(OpenLoop(30.0, 1000, None, constant=True))
    assert found == [number / 30.0 for number in range(1000)]
    assert len(moments(OpenLoop(30.0, None, 2.0, constant=True))) == 60


def test_a_poisson_process() -> None:
    """Its gaps have the mean 1 / rate and the distribution 1 - exp(-rate * gap): the greatest
    distance between both (Kolmogorov-Smirnov) is below the bound for one in a thousand."""
    rate, count = 50.0, 5000
    times = moments(OpenLoop(rate, count, None, seed=7))
    gaps = sorted(after - before for before, after in zip([0.0, *times], times, strict=False))
    assert times == sorted(times)
    distance = max(
        max(abs((n + 1) / count - share), abs(n / count - share))
        for n, gap in enumerate(gaps)
        for share in [1.0 - math.exp(-rate * gap)]
    )
    assert distance < 1.95 / math.sqrt(count)


def test_the_same_seed_gives_the_same_moments() -> None:
    first, again, other = (moments(OpenLoop(5.0, 50, None, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_what_was_due_is_counted() -> None:
    """Moments up to now, and each only once."""
    loop = OpenLoop(10.0, 100, None, constant=True)
    loop.next(0.0)
    assert loop.due(1.0) == 10


# ---- prompts -----------------------------------------------------------------------------------


def test_made_prompts_have_their_words_and_a_beginning_of_their_own() -> None:
    """So that no cache of prefixes is of use; the same seed gives the same ones."""
    prompt = built_in((1, 10, 300), "7")
    texts = [str(prompt(number)) for number in range(-3, 30)]
    assert [len(text.split()) for text in texts[3:9]] == [1, 10, 300, 1, 10, 300]
    assert len({text.split()[0] for text in texts}) == len(texts)
    assert built_in((1, 10, 300), "7")(5) == prompt(5) != built_in((1, 10, 300), "8")(5)


def test_levels_do_not_share_made_prompts() -> None:
    """Else the second level would find the first one's in the service's cache."""
    load = Load(seed=1)
    assert load.prompt(0)(0) != load.prompt(1)(0)
    given = Load(prompts=["a", "b"])
    assert [given.prompt(1)(number) for number in range(3)] == ["a", "b", "a"]


def test_prompts_of_a_file(tmp_path: Path) -> None:
    """A text on each line, empty ones left out; or JSON in every form that a call takes."""
    plain = tmp_path / "p.txt"
    plain.write_text("\ufeffone\r\n\n  {two}  \nthree ä", "utf-8")
    assert load_prompts(plain) == ["one", "{two}", "three ä"]
    lines = tmp_path / "p.jsonl"
    turns = '[{"role": "user", "content": "c"}]'
    lines.write_text(
        f'"a"\n{{"id": 1, "prompt": "b"}}\n{turns}\n{{"messages": {turns}}}\n'
        '{"prompt": null, "input": "d"}\n'
    )
    turn = {"role": "user", "content": "c"}
    assert load_prompts(lines) == ["a", "b", [turn], [turn], "d"]


@pytest.mark.parametrize(
    ("name", "data", "part"),
    [
        ("p.txt", b"", "has no prompts"),
        ("p.txt", b" \n\n", "has no prompts"),
        ("p.txt", b"ok\nsecret-\xff\n", "line 2: it is not UTF-8"),
        ("p.jsonl", b'{"prompt": "secret-a"\n', "line 1: give a text"),
        ("p.jsonl", b'"ok"\n{"secret-": 1}\n', "line 2: give a text"),
        ("p.jsonl", b"5\n", "line 1: give a text"),
        ("p.jsonl", b'[{"role": "user"}, "secret-"]\n', "line 1: prompt: each entry"),
        ("p.jsonl", b"[" * 100_000 + b"\n", "line 1: "),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, name: str, data: bytes, part: str) -> None:
    """The error names the file and the line, and shows nothing of it."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigurationError) as raised:
        load_prompts(path)
    assert name in str(raised.value)
    assert part in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path, "a\0b"):
        with pytest.raises(ConfigurationError):
            load_prompts(path)


# ---- loads -------------------------------------------------------------------------------------


@every(
    ("given", "part"),
    [
        ({"concurrency": ()}, "concurrency"),
        ({"concurrency": (0,)}, "concurrency=0"),
        ({"concurrency": (10_001,)}, "concurrency"),
        ({"concurrency": "8"}, "concurrency"),
        ({"rate": (0,)}, "rate=0"),
        ({"rate": (float("nan"),)}, "rate=nan"),
        ({"rate": (float("inf"),)}, "rate=inf"),
        ({"requests": 0}, "requests=0"),
        ({"duration": -1.0}, "duration=-1"),
        ({"duration": float("inf")}, "duration=inf"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"warmup": -1}, "warmup=-1"),
        ({"prompts": []}, "prompts"),
        ({"prompts": [""]}, "prompt"),
        ({"prompt_words": (0,)}, "prompt_words"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"total": 0}, "total"),
        ({"total": "soon"}, "total"),
        ({"limits": {"latency": 1}}, "ttft, ttfo, itl, tpot, e2e"),
        ({"limits": {"ttft": -1}}, "goodput ttft"),
        ({"seed": -1}, "seed=-1"),
        ({"constant": 1}, "constant"),
    ],
)
def test_loads_that_cannot_work(given: dict[str, object], part: str) -> None:
    """A ConfigurationError that names the argument, before anything is sent."""
    with pytest.raises(ConfigurationError, match=part):
        Load(**given).checked()  # type: ignore[arg-type]


def test_what_is_not_given() -> None:
    """Enough requests for the streams; half a minute of an open loop; a deadline for each."""
    assert [level.requests for level in Load(concurrency=(1, 100)).levels()] == [20, 500]
    assert [level.warmup for level in Load(concurrency=(1, 100)).levels()] == [1, 100]
    (level,) = Load(rate=(2,)).levels()
    assert (level.requests, level.duration, level.concurrency) == (None, 30.0, 256)
    (level,) = Load(concurrency=(4,), duration=3.0).levels()
    assert (level.requests, level.duration) == (None, 3.0)
