"""Where a text may be cut: never inside what a reader sees as one character."""

from __future__ import annotations

import pytest
from every import every

from llmstream._core.graphemes import is_boundary, last_boundary, may_grow, unfinished

# One cluster each.
CLUSTERS = {
    "letter": "a",
    "accent": "e\u0301",
    "several accents": "o\u0302\u0323\u0301",
    "family": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "tone": "\U0001f44d\U0001f3fd",
    "tone and joiner": "\U0001f469\U0001f3fd\u200d\U0001f680",
    "selector": "\u2764\ufe0f",
    "heart on fire": "\u2764\ufe0f\u200d\U0001f525",
    "keycap": "1\ufe0f\u20e3",
    "flag": "\U0001f1e9\U0001f1ea",
    "flag of a region": "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "surrogates": "\ud83d\ude00",
    "line end": "\r\n",
    "jamo": "\u1112\u1161\u11ab",
    "syllable and jamo": "\uac00\u11a8",
    "ideograph with a selector": "\u845b\U000e0100",
    "kana with a mark": "\u304b\u3099",
    "halfwidth kana": "\uff76\uff9e",
    "Thai am": "\u0e17\u0e33",
    "conjunct": "\u0915\u094d\u0937",
    "conjunct with a joiner": "\u0915\u094d\u200d\u0937",
    "vowel sign": "\u0ba8\u0bbf",
    "sign of a number": "\u06001",
}


@every("cluster", CLUSTERS.values(), ids=CLUSTERS.keys())
def test_a_cluster_stays_together(cluster: str) -> None:
    text = f"x {cluster} y"
    inside = range(3, 2 + len(cluster))
    assert [at for at in inside if is_boundary(text, at)] == []
    assert is_boundary(text, 2)
    assert is_boundary(text, 2 + len(cluster))
    assert last_boundary(f"x {cluster}") == 2
    assert last_boundary(cluster) == 0


@every("cluster", CLUSTERS.values(), ids=CLUSTERS.keys())
def test_two_of_them_are_two(cluster: str) -> None:
    """But after a virama, where the next consonant would belong to it."""
    assert is_boundary(cluster * 2, len(cluster))


def test_flags_are_pairs() -> None:
    flags = "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7\U0001f1ee"
    assert [at for at in range(1, 5) if is_boundary(flags, at)] == [2, 4]


def test_words_and_ideographs_come_apart() -> None:
    text = "ab \u4eca\u5929, caf\xe9\n"
    assert all(is_boundary(text, at) for at in range(len(text) + 1))


@every(
    "text",
    ["\U0001f468\u200d", "\U0001f1e9", "\U0001f1e9\U0001f1ea\U0001f1eb", "\ud83d", "\r", "\u0600"],
)
def test_what_is_surely_unfinished(text: str) -> None:
    assert unfinished(text)
    assert may_grow(text)


@every("text", ["", "a", "e\u0301", "\U0001f1e9\U0001f1ea", "\u4eca", "\r\n"])
def test_what_is_not(text: str) -> None:
    assert not unfinished(text)
    assert not may_grow(text)


def test_a_cluster_without_end_is_cut() -> None:
    """It takes no time to look for its beginning, however long it is."""
    endless = "\U0001f468\u200d" * 500_000
    assert len(endless) - 1002 <= last_boundary(endless) < len(endless)
    assert unfinished(endless)
    assert may_grow(endless)


@pytest.mark.parametrize("text", ["hi \U0001f44d", "\u2764", "\U0001f44d\U0001f3fd"])
def test_an_emoji_often_goes_on(text: str) -> None:
    assert may_grow(text)
    assert not unfinished(text)
