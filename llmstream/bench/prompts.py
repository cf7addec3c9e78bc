"""What is asked: built-in prompts of a given length, or those of a file."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from .._core.dialects import APIS
from .._settings.arguments import checked_prompt
from ..errors import ConfigurationError

__all__ = ["Prompt", "built_in", "cycle", "load_prompts"]

Prompt = str | list[Any]
_MOST_BYTES = 256 << 20  # of a file
_SEND_AT_MOST = 1_000_000  # prompts of a file

# Common words of one token or two, so that a number of words is about that of the tokens.
_TEXT = """
    river stone cloud garden winter paper silver bridge market engine forest letter mountain
    window harbour copper orange violin shadow island meadow lantern thunder barley compass
    saddle marble canyon falcon timber velvet ribbon anchor candle pepper walnut cotton
"""
_WORDS = tuple(_TEXT.split())
# The fields of an object that may have the prompt: ours, and those of the APIs' requests.
_FIELDS = tuple(dict.fromkeys(["prompt", *(api.prompt_fields[0] for api in APIS.values())]))
_TASK = "Write a long story in which all of these words occur, and do not stop early:"


def built_in(words: Sequence[int], seed: str) -> Callable[[int], Prompt]:
    """A function from the number of a request to its prompt. The prompts have `words[0]`,
    `words[1]`, ... words in turn. Each begins differently: a cache of prefixes, which the service
    may have, is of no use for them. The same seed gives the same prompts."""

    def prompt(number: int) -> Prompt:
        chosen = random.Random(f"{seed}:{number}")
        count = words[number % len(words)]
        begin = f"{chosen.getrandbits(48):012x}"
        task = _TASK.split()
        rest = [chosen.choice(_WORDS) for _ in range(max(0, count - len(task) - 1))]
        return " ".join([begin, *task, *rest][: max(1, count)])

    return prompt


def cycle(prompts: Sequence[Prompt]) -> Callable[[int], Prompt]:
    """A function from the number of a request to its prompt: in order, again from the first."""
    return lambda number: prompts[number % len(prompts)]


def load_prompts(path: str | os.PathLike[str]) -> list[Prompt]:
    """The prompts of a file: a text on each line or, where its name ends with ".jsonl", JSON: a
    text, a list of turns, or an object with the prompt in one of `_FIELDS`, whose other fields do
    not count. Empty lines are left out.

    Raises ConfigurationError, with the number of the line and never its text.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"--prompts {name}: {reason}") from None
    if len(data) > _MOST_BYTES:
        raise ConfigurationError(f"--prompts {name}: the file has more than {_MOST_BYTES:,} bytes")
    read = _from_json if name.endswith(".jsonl") else _from_text
    prompts = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if not line.strip():
            continue
        try:
            prompts.append(checked_prompt(read(line)))
        except (ValueError, RecursionError, ConfigurationError) as error:
            reason = str(error) if isinstance(error, ConfigurationError) else _WANTED[read]
            raise ConfigurationError(f"--prompts {name}, line {number}: {reason}") from None
        if len(prompts) > _SEND_AT_MOST:
            raise ConfigurationError(f"--prompts {name}: give at most {_SEND_AT_MOST:,} prompts")
    if not prompts:
        raise ConfigurationError(f"--prompts {name}: the file has no prompts, one on each line")
    return prompts


def _from_text(line: bytes) -> Prompt:
    return line.decode("utf-8").strip()


def _from_json(line: bytes) -> Prompt:
    value = msgspec.json.decode(line)
    if isinstance(value, dict):
        given = (value[name] for name in _FIELDS if value.get(name) is not None)
        value = next(given, None)
    if not isinstance(value, (str, list)):
        raise ValueError
    return value


_WANTED: dict[Callable[[bytes], Prompt], str] = {
    _from_text: "it is not UTF-8",
    _from_json: f"give a text, a list of turns, or an object with one of {', '.join(_FIELDS)}",
}
