"""The input: lines of JSON from a file, a pipe or standard input."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from queue import SimpleQueue

from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.readable import is_readable
from ..errors import ConfigurationError

__all__ = ["LONGEST_LINE", "Source"]

LONGEST_LINE = 64 * 2**20  # bytes; the most that one line may take of the memory
_BLOCK = 2**18
_LOOK = 0.2  # seconds between two looks whether the reader is still wanted
_AGAIN = 0.02  # seconds between two looks at a pipe that another program has made non-blocking
_BOM = b"\xef\xbb\xbf"


class Source:
    """The lines of an input, one after the other: never more than one is held.

    Args:
        descriptor: of the input, open for reading. The source closes it.
        name: what messages call it.

    A regular file can be read several times (`is_file`). Everything else is read once, as it
    arrives. One thread reads; any thread may `stop` it.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self._descriptor = descriptor
        found = os.fstat(descriptor)
        self.is_file = stat.S_ISREG(found.st_mode)
        self.identity = (found.st_dev, found.st_ino)
        self._start = 0
        if self.is_file:  # standard input may have been read up to somewhere
            self._start = os.lseek(descriptor, 0, os.SEEK_CUR)
        self._stopped = False

    @classmethod
    def open(cls, path: str) -> Source:
        """The file or named pipe `path`. Raises ConfigurationError."""
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ConfigurationError(f"cannot read {path}: {why}") from None
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ConfigurationError(f"cannot read {path}: it is a folder; give a file")
        return cls(descriptor, path)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines that are not blank, without white space around them, with their numbers from 1.

        Only "\\n" ends a line. Raises ConfigurationError for a line longer than LONGEST_LINE, and
        where the input cannot be read.
        """
        if self.is_file:
            os.lseek(self._descriptor, self._start, os.SEEK_SET)
        for number, line in enumerate(self._split(), 1):
            text = (line.removeprefix(_BOM) if number == 1 else line).strip()
            if text:
                yield number, text

    def _split(self) -> Iterator[bytes]:
        number = 1
        pieces: list[bytes] = []  # of the line that has not ended
        size = 0
        while block := self._read():
            first, *others = block.split(b"\n")
            pieces.append(first)
            size += len(first)
            if size > LONGEST_LINE:
                raise ConfigurationError(
                    f"line {number} of {self.name} is longer than {LONGEST_LINE // 2**20} MiB: "
                    "give one JSON object a line"
                )
            if others:
                yield b"".join(pieces)
                yield from others[:-1]
                number += len(others)
                pieces, size = [others[-1]], len(others[-1])
        if size and not self._stopped:  # else it may be half a line
            yield b"".join(pieces)

    def _read(self) -> bytes:
        """The next bytes, b"" at the end and once the source is stopped."""
        while not self._stopped:
            try:
                if self.is_file or self._arrived():
                    return os.read(self._descriptor, _BLOCK)
            except BlockingIOError:
                SYSTEM_CLOCK.wait(SimpleQueue(), _AGAIN)
            except OSError as error:
                raise ConfigurationError(f"cannot read {self.name}: {error.strerror}") from None
        return b""

    def _arrived(self) -> bool:
        try:
            return is_readable(self._descriptor, _LOOK)
        except (OSError, ValueError):
            return True  # the platform cannot say: the read waits

    def stop(self) -> None:
        """End the lines, also where they are being waited for."""
        self._stopped = True

    def close(self) -> None:
        self._stopped = True
        os.close(self._descriptor)
