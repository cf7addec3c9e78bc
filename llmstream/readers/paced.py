"""pace: an answer's text in an even rhythm, for a screen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from .._core.checks import checked_range, has_method, shown
from .._core.pacing import RULES, Pacer
from .._runtime.clock import SYSTEM_CLOCK
from ..errors import ConfigurationError
from ..result import Chunk
from .pump import BLOCK, Cursor, Lease, Pump
from .raised import raised
from .reading import Reading

__all__ = ["Paced", "pace"]

_LONGEST = 3600.0  # seconds of an interval
_LIMIT = 4096  # pieces that wait for a slow screen; then the stream is slowed


def pace(
    stream: Iterable[str] | Iterable[Chunk], interval: float = 0.05, by: str = "chunk"
) -> Paced:
    """The text of an answer in parts for a screen: `for part in pace(client.stream(prompt))`.

    A part comes at most every `interval` seconds, and has all that is complete by then; nothing is
    slowed down for the effect. The first token comes at once. No character comes later than one
    interval after it arrived: what is not complete by then goes out as it is, and then the next
    part may come after half an interval. The joined parts are the text, character by character.

    `by` says what is complete:

    - "chunk": what has arrived.
    - "word": up to the last white space. Scripts without spaces (Chinese, Japanese, Thai, ...) are
      cut between any two characters.
    - "line", "sentence": up to the last line end, or the last end of a sentence.

    A cut never falls inside what is seen as one character: before a combining mark, a selector, a
    joiner or a tone, in a flag, in CR LF. An emoji at the end waits for up to an interval for what
    may follow; one that is surely not whole (it ends with a joiner, or is half a flag), for two.

    At the end the rest comes at once. So it does before an error is raised, but for a cancel: after
    that nothing is delivered. A slow loop gets larger parts.

    `stream` is a Stream (read as by iteration: the answer's text, `on_disconnect="restart"` is
    refused), a subscription of a fan, or any other iterable of str or Chunk. A thread reads it; it
    starts with the first part that is asked for. A Paced that is closed or dropped ends the stream
    and the thread. (An iterable without a `cancel()` is left when it yields the next time.)

    Raises ConfigurationError for wrong arguments, and for items that are no text.
    """
    seconds = checked_range("interval", interval, 0, _LONGEST)
    how: Any = by
    if not isinstance(how, str) or how not in RULES:
        raise ConfigurationError(f"by={shown(how)}: pass one of {[*RULES]}")
    return Paced(_Pieces(stream), stream, Pacer(seconds, RULES[how]))


class _Piece(NamedTuple):
    """A text and the moment of its arrival."""

    text: str
    at: float


class _Pieces:
    """The texts of a source, in the thread that reads it. Not a generator, which could not be
    closed by another thread."""

    def __init__(self, source: Any) -> None:
        self._items: Iterator[Any] = _iterator(source)

    def __iter__(self) -> Iterator[_Piece]:
        return self

    def __next__(self) -> _Piece:
        for item in self._items:
            text = _text_of(item)
            if text:
                return _Piece(text, SYSTEM_CLOCK.monotonic())
        raise StopIteration

    def close(self) -> None:
        close: Any = getattr(self._items, "close", None)
        if close is not None:
            close()


def _iterator(source: Any) -> Iterator[Any]:
    plain = isinstance(source, (str, bytes, bytearray, Mapping))
    if not plain and has_method(source, "__iter__"):
        return iter(source)
    if has_method(source, "chunks"):
        chunks: Iterator[Any] = iter(source.chunks())
        return chunks
    raise ConfigurationError(
        f"pace({shown(source)}): pass a stream, such as client.stream(...) returns, the "
        "subscription of a fan, or an iterator of str"
    )


def _text_of(item: Any) -> str:
    if isinstance(item, str):
        return item
    if not isinstance(item, Chunk):
        raise ConfigurationError(f"pace: the stream yields {shown(item)}, and not str or Chunk")
    if item.type == "restart":
        raise ConfigurationError(
            "the answer began anew (on_disconnect='restart'), and paced text could not tell you: "
            "use chunks(), or another policy"
        )
    return item.text if item.type == "text" else ""


class Paced(Reading[str]):
    """The parts of a text. Made by `pace`. One thread reads it, any thread may close it."""

    def __init__(self, pieces: _Pieces, owner: Any, pacer: Pacer) -> None:
        super().__init__("a paced text has one reader, see fanout for several")
        self._pump: Pump[_Piece] = Pump(pieces, owner, _LIMIT, "pace")
        self._cursor = Cursor(self._pump, BLOCK)
        self._lease = Lease(self._pump)
        self._pacer = pacer
        self._follows = False

    def _next(self) -> str:
        pump, cursor, pacer = self._pump, self._cursor, self._pacer
        if not self._follows:
            self._follows = True
            pump.follow()
        while True:
            end = pump.end  # before the look at what is there: nothing comes after it
            if end is None and pump.stopped:
                if (left := pump.left()) is not None:
                    raise left
                cursor.pause()
                continue
            if end is not None and end.at_once and end.error is not None:
                raise raised(end.error)
            more = self._gather()
            if end is not None and not more:
                if rest := pacer.rest():
                    return rest
                if end.error is not None:
                    raise raised(end.error)
                raise StopIteration
            now = SYSTEM_CLOCK.monotonic()
            if part := pacer.take(now):
                return part
            if not more:
                at = pacer.next_look(now)
                seconds = None if at == math.inf else at - now
                (cursor.wait if pacer.needs_more(now) else cursor.pause)(seconds)

    def _gather(self) -> bool:
        """Take what has arrived, as much as waits at most; returns whether there may be more."""
        for _ in range(_LIMIT):
            piece = self._cursor.take()
            if piece is None:
                return False
            self._pacer.add(piece.text, piece.at)
        return True

    def close(self) -> None:
        """End the stream if it still runs, and the thread. Idempotent. The reader gets
        Cancelled."""
        self._pump.close("closed before the end")

    def _leave(self) -> None:
        self.close()
        self._cursor.close()
