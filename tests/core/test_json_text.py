"""JSON in a text that arrives in pieces: where it is, and which elements of a list are closed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from every import every
from support import cpu_seconds, executed_lines

from llmstream._core.json_text import ElementScanner, JSONScanner, json_candidates

# What may stand around an object, and the object that is found in it.
AROUND = [
    ("{}", "{}"),
    ('\ufeff {"a": 1} ', '{"a": 1}'),
    ('```json\n{"a": 1}\n```', '{"a": 1}'),
    ('```{"a": 1}```', '{"a": 1}'),
    ('~~~\n{"a": 1}', '{"a": 1}'),
    ('``{"a": 1}', '{"a": 1}'),
    ('In {braces}: {  "a": "}"}.', '{  "a": "}"}'),
    ('{\n\n\n"a": "\\"}"} x', '{\n\n\n"a": "\\"}"}'),
    ('<think>{"a": 0}</think>\n\n```json\n{"a": 1}', '{"a": 1}'),
    ("<thing> {} ", "{}"),
    ('<think>{"a": 0}', None),
    ("no { braces", None),
    ("[1] is no object", None),
    ("", None),
    (" \n\ufeff", None),
    ("```python", None),
    ("{", "{"),
    ('{"a": "\\', '{"a": "\\'),
]


@every(("text", "found"), AROUND)
def test_an_object_is_found_in_any_pieces(text: str, found: str | None) -> None:
    """The same wherever the text is cut; a string that is open is known."""
    for size in range(1, len(text) + 2):
        scanner = JSONScanner(lists=False)
        for at in range(0, len(text), size):
            scanner.feed(text[at : at + size])
            scanner.feed("")
        if found is None:
            assert scanner.start is None, size
        else:
            assert scanner.start is not None, size
            assert text[scanner.start : scanner.end] == found, size
            assert (scanner.end is not None) == found.endswith("}") or found.endswith(".")
    assert JSONScanner(lists=False).end is None


def test_a_string_that_is_open_is_known() -> None:
    """Where a number may be cut, and where digits are text."""
    scanner = JSONScanner(lists=False)
    states = []
    for letter in '{"a\\"": 1}':
        scanner.feed(letter)
        states.append(scanner.in_string)
    assert states == [False, *[True] * 4, False, False, False, False, False]


@every(("text", "found"), [("[1, 2] x", "[1, 2]"), ("```\n[[]]", "[[]]"), ("see [1]: []", None)])
def test_a_list_is_found_at_the_begin_only(text: str, found: str | None) -> None:
    """In a sentence brackets are many things."""
    scanner = JSONScanner(lists=True)
    scanner.feed(text)
    assert (scanner.start is None) == (found is None)
    if found is not None:
        assert text[scanner.start : scanner.end] == found


def test_candidates_come_in_their_order() -> None:
    """The last one may be cut; and there is an end to them."""
    text = 'a {"a": 1} {x} {} b {"c": [1, {"d": 2}]} {"e'
    assert [*json_candidates(text, lists=False)] == [
        '{"a": 1}',
        "{}",
        '{"c": [1, {"d": 2}]}',
        '{"e',
    ]
    assert len([*json_candidates("{}" * 1000, lists=False)]) == 100


@every("seed", range(60))
def test_elements_are_those_of_the_list(seed: int) -> None:
    """Against json, for nested lists, strings with brackets and every white space."""
    chance = random.Random(seed)

    def value(depth: int) -> Any:
        if depth == 3 or chance.random() < 0.5:
            return chance.choice([1, -2.5, True, None, "", 'a"]', "\\", "{,}", "\n"])
        if chance.random() < 0.5:
            return [value(depth + 1) for _ in range(chance.randrange(4))]
        return {chance.choice("abc"): value(depth + 1) for _ in range(chance.randrange(4))}

    elements = [value(0) for _ in range(chance.randrange(6))]
    fields = {"before": [1, {"elements": [9]}], "elements": elements, "after": ["elements", [3]]}
    text = json.dumps(fields, indent=chance.choice([None, 2]))
    for size in (1, 2, 7, len(text)):
        scanner = ElementScanner("elements")
        found = []
        for at in range(0, len(text), size):
            scanner.feed(text[at : at + size])
            found += scanner.take()
        assert [json.loads(one) for one in found] == elements


def scan_all(scanner: Any) -> Callable[[str], Callable[[], None]]:
    def work_for(text: str) -> Callable[[], None]:
        def work() -> None:
            one = scanner()
            for at in range(0, len(text), 4):
                one.feed(text[at : at + 4])

        return work

    return work_for


def candidates_of(text: str) -> Callable[[], None]:
    return lambda: [*json_candidates(text, lists=True)] and None


SCANNERS = {
    "value": scan_all(lambda: JSONScanner(lists=True)),
    "elements": scan_all(lambda: ElementScanner("elements")),
    "candidates": candidates_of,
}
ODD = {
    "braces": "{ ",
    "open objects": '{"a":',
    "closed objects": "{}",
    "white space in an object": " ",
    "fences": "```\n",
    "thinking": "<think></think>",
    "quotes": 'x {"',
    "backslashes": "\\",
    "elements": '{"a": [1]}, ',
    "brackets": "[",
    "half a fence": "`",
    "names": '"elements": ',
}


@pytest.mark.slow
@pytest.mark.parametrize("scanner", SCANNERS)
@every("name", ODD)
def test_each_character_is_looked_at_once(scanner: str, name: str) -> None:
    """Twice the text takes twice as long, whatever it is, counted in characters that are copied or
    searched: by the time, with ample room."""

    def seconds(number: int) -> float:
        begin = {"white space in an object": "{", "elements": '{"elements": [', "names": "{"}
        text = begin.get(name, "") + ODD[name] * (number // len(ODD[name]))
        work = SCANNERS[scanner](text)
        return min(cpu_seconds(work) for _ in range(3))

    small, large = seconds(5_000), seconds(40_000)
    assert large <= 8 * 4 * max(small, 1e-3), (small, large)


def test_lines_are_few() -> None:
    """A piece of four letters inside a string is one search."""
    scanner = JSONScanner(lists=False)
    scanner.feed('{"a": "')
    few = executed_lines(lambda: [scanner.feed("text") for _ in range(10)])
    many = executed_lines(lambda: [scanner.feed("text") for _ in range(110)])
    assert (many - few) / 100 <= 30
