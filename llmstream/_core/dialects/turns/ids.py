"""Ids of calls that another service has made, as the one that is asked takes them.

Chat Completions of OpenAI takes 40 characters, Responses 64 (any), Messages letters, digits, "_"
and "-", each id once; Mistral nine letters and digits. All four refuse the whole request otherwise
(400, measured by many: langchain#24668, vercel/ai#5171, maximhq/bifrost#5097).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from ...tool_calls import hashed

__all__ = ["CallIds", "Link", "link"]


class CallIds:
    """The ids of one conversation, asked for in its order.

    An id that fits stays. Another one becomes nine letters and digits, the same in every request
    with the same turns before it. With `unique`, so does one that an earlier call has. An output
    gets the id of its call; one whose call is not among the turns keeps its own.
    """

    def __init__(self, rule: str, unique: bool) -> None:
        self._rule = re.compile(rule, re.DOTALL)
        self._unique = unique
        self._made: dict[str, str] = {}  # an id that was made -> what it stands for
        self._times: dict[str, int] = {}  # an id -> how many calls have it
        self._open: dict[str, list[str]] = {}  # an id -> what calls have for it, without output
        self._latest: dict[str, str] = {}

    def call(self, id: str) -> str:
        """The id of the next call."""
        times = self._times[id] = self._times.get(id, 0) + 1
        again = times > 1 and (self._unique or not id)
        fits = self._rule.fullmatch(id) is not None and id not in self._made
        new = id if fits and not again else self._make(f"{id}#{times}" if again else id)
        self._open.setdefault(id, []).append(new)
        return new

    def output(self, id: str) -> str:
        """The id of the next output."""
        waiting = self._open.get(id)
        if waiting:
            self._latest[id] = waiting.pop(0)
        return self._latest.get(id, id)

    def _make(self, seed: str) -> str:
        new = f"c{hashed(seed) % 2**32:08x}"
        while (new in self._made and self._made[new] != seed) or new in self._times:
            new = f"c{hashed(new) % 2**32:08x}"
        self._made[new] = seed
        return new


# A turn in an API's own form -> the same with other ids.
Link = Callable[[Any, CallIds], Any]


def link(turns: Sequence[Any], rule: str, unique: bool, each: Link) -> list[Any]:
    """The turns with ids that fit `rule` (a regular expression)."""
    ids = CallIds(rule, unique)
    return [each(turn, ids) for turn in turns]
