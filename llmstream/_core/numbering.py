"""The numbers of an answer's events: what has arrived before, and what is missing. Pure: relies on
the faults of `state`.

A service that numbers its events counts up by one, from whatever number. Some number always 0, or
anew for each item: their numbers mean nothing, and no event is passed over for them.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from .state import Foreign

__all__ = ["Numbering", "Standing"]

_MOST_GAPS = 64  # ranges of missing numbers that are remembered, the latest ones


class Standing(Struct, frozen=True):
    """What an event is to the answer so far, where its number is odd.

    `ends`: it ends the answer. `adds`: it has, or announces, a part of the answer. `fresh`: it
    belongs to an item that is not known yet. `text`: the text that it adds to the answer.
    """

    ends: bool = False
    adds: bool = True
    fresh: bool = True
    text: str = ""


class Numbering:
    """The numbers of one answer. Not thread-safe: for the thread that reads the stream.

    `next` is the number that the next event has, unless something is odd; None where every event
    has to be looked at. The Session compares it and counts it up. `resumed`: the body is not the
    first one of the answer.
    """

    __slots__ = ("_end", "_first", "_gaps", "_late", "_opening", "_replayed", "next", "resumed")

    def __init__(self) -> None:
        self.next: int | None = None
        self.resumed = False
        self._first: int | None = None  # the least number so far
        self._opening = b""  # the event that had it
        self._end: int | None = None  # after the greatest number, where `next` is None
        self._gaps: list[tuple[int, int]] = []  # [from, to) of numbers that have not arrived
        self._late = False
        self._replayed: list[str] | None = None  # what a resumed stream repeats

    @property
    def greatest(self) -> int | None:
        """The greatest number so far, which is where the answer can be resumed; None where there
        are no numbers, or they mean nothing."""
        end = self._end if self.next is None else self.next
        return None if end is None else end - 1

    @property
    def lost(self) -> bool:
        """Whether an event with a lesser number than another one has not arrived, or too late. A
        service that leaves out more numbers than it uses does not count by one."""
        greatest = self.greatest
        if self._late or greatest is None or self._first is None:
            return self._late
        missing = sum(stop - start for start, stop in self._gaps)
        return 0 < 2 * len(self._gaps) <= greatest + 1 - self._first - missing

    def distrust(self) -> None:
        """The numbers mean nothing: every event counts, and the answer cannot be resumed."""
        self.next = self._end = None
        self._gaps, self._late, self._replayed = [], False, None

    def resume(self) -> None:
        """The answer goes on in another body."""
        if self.next is not None:
            self._end, self.next = self.next, None  # the first event is looked at
        self._replayed = None
        self.resumed = True

    def give_back(self, number: int | None) -> None:
        """The event with this number could not be used: it has not arrived."""
        if number is not None and self.next == number + 1:
            self.next = number

    def takes(
        self, number: int, raw: bytes, standing: Callable[[], Standing], held: Callable[[], str]
    ) -> bool:
        """Whether the event is applied though its number is not `next`: false for one that has
        arrived before. `held` returns the answer's text so far. Raises Foreign where a resumed
        stream goes on with something else."""
        end = self._end if self.next is None else self.next
        if self._first is None:
            self._first, self._opening = number, raw
            self.next = number + 1
            return True
        if end is None:
            return True  # the numbers mean nothing
        if number >= end:
            self._caught_up(held)
            if number > end:
                self._gaps.append((end, number))
                del self._gaps[:-_MOST_GAPS]
            self.next = number + 1
            return True
        if number < self._first:
            self._gaps.insert(0, (number + 1, self._first))
            self._first = number
            return True
        return self._fills(number) or self._is_new(end, raw, standing())

    def _fills(self, number: int) -> bool:
        """Whether an event with this number was missing."""
        for place in range(len(self._gaps) - 1, -1, -1):
            start, stop = self._gaps[place]
            if start <= number < stop:
                left = ((start, number), (number + 1, stop))
                self._gaps[place : place + 1] = [gap for gap in left if gap[0] < gap[1]]
                self._late = True
                return True
        return False

    def _is_new(self, end: int, raw: bytes, event: Standing) -> bool:
        """Whether an event is another one than that which had its number before."""
        if event.ends:
            return True
        if end - 1 == self._first and raw != self._opening:
            self.distrust()  # always the same number
            return True
        if self.next is None:  # a resumed stream repeats more than was asked for
            if event.fresh and event.adds:
                raise Foreign("a resumed stream numbers its events anew")
            if self._replayed is None:
                self._replayed = []
            self._replayed.append(event.text)
            return False
        if event.fresh and event.adds:
            self.distrust()  # each item is numbered for itself
            return True
        return False

    def _caught_up(self, held: Callable[[], str]) -> None:
        """A resumed stream goes on with what is new: what it repeated has to be the end of what had
        arrived, or it has numbered its events anew."""
        replayed, self._replayed = self._replayed, None
        if replayed and not held().endswith("".join(replayed)):
            raise Foreign("a resumed stream numbers its events anew")

    def unnumbered(self, event: Standing) -> None:
        """An event of a resumed stream has no number. Raises Foreign if it would add to the
        answer."""
        if event.adds and not event.ends:
            raise Foreign("an event of a resumed stream has no number")
