"""Pacing, in a time of the test's own: nothing is lost, nothing is late, nothing is cut in two."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import NamedTuple

import pytest
from every import every

from llmstream._core.graphemes import is_boundary, may_grow, unfinished
from llmstream._core.pacing import RULES, Pacer

I = 0.05  # noqa: E741 - the interval
EPSILON = 1e-9


class Part(NamedTuple):
    text: str
    at: float


def shown(arrivals: list[tuple[float, str]], by: str, interval: float = I) -> list[Part]:
    """What a screen is given that looks whenever it is told to."""
    pacer = Pacer(interval, RULES[by])
    parts: list[Part] = []
    waiting = [*arrivals]
    now = 0.0
    while True:
        while part := pacer.take(now):
            parts.append(Part(part, now))
        look = pacer.next_look(now)
        assert look > now or look == math.inf
        if waiting and (waiting[0][0] <= look or look == math.inf):
            now, text = waiting.pop(0)
            pacer.add(text, now)
            while waiting and waiting[0][0] == now:
                pacer.add(waiting.pop(0)[1], now)
            if not pacer.needs_more(now):  # the screen sleeps on
                while waiting and waiting[0][0] < pacer.next_look(now):
                    at, text = waiting.pop(0)
                    pacer.add(text, at)
                now = pacer.next_look(now)
        elif look == math.inf:
            return parts
        elif not waiting:
            parts.append(Part(pacer.rest(), now))
            return parts
        else:
            now = look


def texts(arrivals: list[tuple[float, str]], by: str) -> list[str]:
    return [part.text for part in shown(arrivals, by)]


PIECES = [
    *["Hel", "lo", " wor", "ld", ",", " it", " is", "\n", "\r\n", "\r", " a", ". ", "! \n"],
    *["\u4eca\u5929", "\u5929", "\u3002", "\u304b\u3099", "\u0e17\u0e33", "\u3099", "e\u0301"],
    *["\U0001f468", "\u200d", "\U0001f469", "\ufe0f", "\U0001f44d\U0001f3fd", "\U0001f3fd"],
    *["\U0001f1e9", "\U0001f1ea", "\u0301", "\ud83d", "\ude00", "\u0915\u094d", "\u0937", "7"],
]


def random_arrivals(seed: int) -> list[tuple[float, str]]:
    rng = random.Random(seed)
    gap = rng.choice([0.001, 0.01, 0.03, 0.1])
    at = 1.0
    arrivals = []
    for _ in range(rng.randrange(60)):
        at += rng.expovariate(1 / gap) if rng.random() < 0.8 else 0.0
        arrivals.append((at, rng.choice(PIECES)))
    return arrivals


@pytest.mark.parametrize("by", RULES)
def test_random_texts(by: str) -> None:
    """Joined they are the text; no character is late; parts keep their distance; no cut falls
    inside a cluster, as far as it had arrived."""
    for seed in range(300):
        arrivals = random_arrivals(seed)
        parts = shown(arrivals, by)
        assert "".join(p.text for p in parts) == "".join(text for _, text in arrivals)
        moments = [at for at, text in arrivals for _ in text]
        arrived = list(zip(moments, "".join(text for _, text in arrivals), strict=True))
        place = 0
        for number, part in enumerate(parts):
            known = "".join(char for at, char in arrived if at <= part.at)
            waits, place = part.at - arrived[place][0], place + len(part.text)
            # The beginning of a cluster that never became whole, or did so after its deadline.
            was_held = any(unfinished(part.text[:end]) for end in range(1, 9))
            assert waits <= (2 if was_held else 1) * I + EPSILON, (seed, part)
            held = known[place:]
            if number + 1 == len(parts):
                break
            whole = is_boundary(part.text + held, len(part.text))
            assert whole or waits >= 2 * I - EPSILON, (seed, part)
            gap = parts[number + 1].at - part.at
            is_last = number + 2 == len(parts)
            assert gap >= I / 2 - EPSILON or is_last or unfinished(held), (seed, part, gap)


def test_plain_chunks_keep_the_interval() -> None:
    arrivals = [(1 + n * 0.007, f" w{n}") for n in range(100)]
    parts = shown(arrivals, "chunk")
    gaps = [b.at - a.at for a, b in pairwise(parts[:-1])]
    assert min(gaps) >= I - EPSILON
    assert max(gaps) <= I + 0.007 + EPSILON


@pytest.mark.parametrize("by", RULES)
def test_the_first_token_comes_at_once(by: str) -> None:
    first = shown([(1.0, "Hel"), (1.01, "lo there. \n")], by)[0]
    assert first == Part("Hel", 1.0)


@pytest.mark.parametrize(
    ("by", "wanted"),
    [
        ("chunk", ["a", " b cd"]),
        ("word", ["a", " b ", "cd"]),
        ("line", ["a", " b cd"]),
        ("sentence", ["a", " b cd"]),
    ],
)
def test_what_is_complete(by: str, wanted: list[str]) -> None:
    assert texts([(1.0, "a"), (1.02, " b"), (1.045, " cd")], by)[:3] == wanted


def test_a_word_waits_for_its_end_an_interval_at_most() -> None:
    parts = shown([(1.0, "a "), (1.04, "extra"), (1.06, "ordinary"), (1.5, " end")], "word")
    assert [part.text for part in parts] == ["a ", "extraordinary", " end"]
    assert parts[1].at == pytest.approx(1.09)
    parts = shown([(1.0, "a "), (1.04, "extra"), (1.06, "ordinary "), (1.5, "end")], "word")
    assert parts[1] == ("extraordinary ", pytest.approx(1.06))


def test_scripts_without_spaces_are_cut_anywhere() -> None:
    """All but the last character, which may go on."""
    parts = texts([(1.0, "\u4eca"), (1.045, "\u5929\u5929\u6c14\u304b"), (1.06, "\u3099")], "word")
    assert parts == ["\u4eca", "\u5929\u5929\u6c14", "\u304b\u3099"]


RULED = {
    "word": [
        ("one two", 4),
        ("one", 0),
        (" one", 0),
        ("one \u0301x", 0),
        ("one\r", 0),
        ("one\n", 4),
        ("\ud55c\uad6d \ub9d0", 3),
        ("\u0e44\u0e17\u0e22", 2),
        ("  ", 0),
    ],
    "line": [
        ("a\nb", 2),
        ("a\r\nb", 3),
        ("a\r", 0),
        ("a\rb", 2),
        ("ab", 0),
        ("a\n", 2),
        ("a\r\n", 3),
    ],
    "sentence": [
        ("It is 3.14 of it", 0),
        ('"Yes." He said', 7),
        ("What?! ", 7),
        ("End.", 0),
        ("\u597d\u3002\u518d", 2),
        ("\u300c\u597d\u3002\u300d\u518d", 4),
        ("\u597d\u3002", 0),
        ("a\nb", 2),
        ("\u0939\u0948\u0964 \u0915", 4),
    ],
}


@every(("by", "text", "cut"), [(by, *case) for by, cases in RULED.items() for case in cases])
def test_the_rules(by: str, text: str, cut: int) -> None:
    assert RULES[by](text) == cut


def test_a_rule_takes_no_time() -> None:
    """Of anything that a model in a loop sends."""
    for piece in (".", "x", " ", "\n", "\u3002", '."', ".)", "\u4eca", "\u0301", "\u300d"):
        for rule in RULES.values():
            assert rule(piece * 200_000) <= 200_000 * len(piece)


def test_an_emoji_waits_for_what_may_follow() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    arrivals = [(1 + n * 0.004, char) for n, char in enumerate(f"Hi {family} !")]
    for by in RULES:
        parts = texts(arrivals, by)
        assert any(family in part for part in parts), parts
    assert may_grow(family)


def test_a_flag_that_is_never_whole_goes_out() -> None:
    parts = shown([(1.0, "a"), (1.01, "\U0001f1e9"), (9.0, "!")], "chunk")
    assert [part.text for part in parts] == ["a", "\U0001f1e9", "!"]
    assert parts[1].at == pytest.approx(1.11)


def test_without_an_interval_all_goes_at_once() -> None:
    arrivals = [(1.0, "a"), (1.001, "b"), (1.002, "c \U0001f468"), (1.003, "d")]
    pacer = Pacer(0.0, RULES["chunk"])
    for at, text in arrivals:
        pacer.add(text, at)
        assert pacer.take(at) == text
