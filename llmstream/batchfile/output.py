"""The output: lines of JSON in a file that a later run goes on with, or in a pipe."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Protocol

import msgspec
from msgspec import Struct

from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.readable import is_writable
from ..errors import ConfigurationError
from .lock import FileLock, LockedError
from .records import BEGINNING, Head, read_head

__all__ = ["DescriptorPipe", "Output", "OutputFile", "Pipe", "open_output"]

_SYNC_EVERY = 5.0  # seconds: what a loss of power may cost
_LONGEST_LINE = 256 * 2**20  # bytes; a longer one is not from here
_BLOCK = 2**20
_ATOMIC = 512  # bytes: POSIX's least PIPE_BUF
_LOOK = 0.2  # seconds between two looks whether the run is to end
_AGAIN = 0.02  # seconds until the next try, where a descriptor is non-blocking
_PATIENCE = 2.0  # seconds that a reader has at the end of a run that is interrupted


class Known(Struct, gc=False):
    """What the output has of an id: an error or an answer, and the place of that line."""

    offset: int
    failed: bool
    digest: str = ""


class Output(Protocol):
    """Where the lines go. One thread writes."""

    @property
    def known(self) -> dict[str, Known]:
        """The ids that are in the output, see `Row.key`."""

    @property
    def identity(self) -> tuple[int, int] | None:
        """The device and the number of the file, None where it is not a file."""

    def append(self, line: bytes, key: str, *, failed: bool) -> None:
        """Write one line whole. Raises OSError; the output then ends with the line before."""

    def stop(self) -> None:
        """The run ends: wait for nobody much longer. Any thread."""

    def close(self) -> None:
        """Leave one line for each id. Raises OSError."""


class Pipe:
    """Lines for a pipe, a terminal or a device: nothing can be read back, and nothing is known.

    Args:
        write: is given each line, writes it whole, and raises OSError.
    """

    def __init__(
        self, write: Callable[[bytes], None], identity: tuple[int, int] | None = None
    ) -> None:
        self._write = write
        self.known: dict[str, Known] = {}
        self.identity = identity

    def append(self, line: bytes, key: str, *, failed: bool) -> None:
        self._write(line)

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


class DescriptorPipe(Pipe):
    """Lines for an open descriptor. A reader that reads nothing is waited for, until `stop`: then
    for 2 s more. Raises OSError, a BrokenPipeError where the reader has gone."""

    def __init__(
        self, descriptor: int, encode: Callable[[bytes], bytes] = bytes, *, owned: bool = False
    ) -> None:
        found = os.fstat(descriptor)
        super().__init__(self._put, (found.st_dev, found.st_ino))
        self._descriptor = descriptor
        self._encode = encode
        self._owned = owned
        self._waits = not stat.S_ISREG(found.st_mode)
        self._until = math.inf

    def _put(self, line: bytes) -> None:
        rest = memoryview(self._encode(line))
        while rest:
            if self._waits:
                self._wait_for_room()
            try:  # so much always has room in a pipe that has any
                rest = rest[os.write(self._descriptor, rest[:_ATOMIC] if self._waits else rest) :]
            except BlockingIOError:  # another program has made it non-blocking
                SYSTEM_CLOCK.wait(SimpleQueue(), _AGAIN)

    def _wait_for_room(self) -> None:
        try:
            while not is_writable(self._descriptor, _LOOK):
                if SYSTEM_CLOCK.monotonic() > self._until:
                    raise BrokenPipeError(errno.EPIPE, "whoever reads the output does not read")
        except ValueError:  # the platform cannot say: the write waits
            self._waits = False
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            self._waits = False

    def stop(self) -> None:
        self._until = SYSTEM_CLOCK.monotonic() + _PATIENCE

    def close(self) -> None:
        if self._owned:
            os.close(self._descriptor)


class OutputFile:
    """A regular file, locked for this process.

    A later line of an id takes the place of an earlier one: an error of an earlier run stays until
    its id has another line. The lines that are out of date are removed when the file is closed, and
    when it is opened after a run that was killed. A new file then takes the file's place whole.

    Lines are handed to the system one by one, each by one call, so a killed process leaves all of
    them. They are flushed to the disk every 5 s and at the end.

    Raises ConfigurationError if another process writes the file, or if it has anything else than
    lines of an output; then the file is left as it is. Raises OSError.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)
        self._name = path
        self.known: dict[str, Known] = {}
        self._is_stale = False  # whether an id has two lines
        self._lacks_newline = False
        self._descriptor, self._lock = self._opened()
        try:
            self._end = self._scan()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._spare)  # of a run that was killed
            os.ftruncate(self._descriptor, self._end)
            if self._lacks_newline:  # all of the last line but that is there
                self._write(b"\n")
            self._replace_if_stale()
        except BaseException:
            self._release()
            raise
        self._synced = SYSTEM_CLOCK.monotonic()

    @property
    def identity(self) -> tuple[int, int] | None:
        found = os.fstat(self._descriptor)
        return found.st_dev, found.st_ino

    # ---- opening ---------------------------------------------------------------------------------

    def _opened(self) -> tuple[int, FileLock]:
        while True:
            descriptor = os.open(self._path, _FLAGS | os.O_CREAT, 0o666)
            try:
                lock = FileLock(self._path, descriptor)
                if os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                    return descriptor, lock
                lock.release()
            except LockedError:
                os.close(descriptor)
                raise ConfigurationError(
                    f"another `llmstream batch` is writing {self._name}: wait for its end, or give "
                    "another output"
                ) from None
            except FileNotFoundError:  # between the two looks
                lock.release()
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # another process has just replaced the file: take the new one

    def _scan(self) -> int:
        """Read all lines; returns where the last whole one ends."""
        end = 0
        for number, line in enumerate(self._lines(), 1):
            text = line.strip()
            self._lacks_newline = not line.endswith(b"\n")
            is_last = self._lacks_newline and len(line) < _LONGEST_LINE
            if is_last and _is_torn(text, is_first=not self.known):
                self._lacks_newline = False
                return end
            if text:
                head = self._head(text, number)
                self._remember(head.key, Known(end, head.failed, head.digest))
            end += len(line)
        return end

    def _lines(self) -> Iterator[bytes]:
        with open(self._path, "rb", _BLOCK) as file:
            while line := file.readline(_LONGEST_LINE):
                yield line

    def _head(self, text: bytes, number: int) -> Head:
        try:
            return read_head(text)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"line {number} of {self._name} is {error.message}: give another output, or repair "
                "that line. The file is left as it is"
            ) from None

    def _remember(self, key: str, new: Known) -> None:
        """An answer counts more than an error, and else the later line."""
        old = self.known.get(key)
        if old is not None:
            self._is_stale = True
        if old is None or old.failed or not new.failed:
            self.known[key] = new

    # ---- writing ---------------------------------------------------------------------------------

    def append(self, line: bytes, key: str, *, failed: bool) -> None:
        begin = self._end
        self._write(line)
        self._remember(key, Known(begin, failed))
        if SYSTEM_CLOCK.monotonic() - self._synced > _SYNC_EVERY:
            self._sync()

    def _write(self, data: bytes) -> None:
        """All of it, or nothing."""
        rest = memoryview(data)
        try:
            while rest:  # a full disk, and signals, may take a part
                rest = rest[os.write(self._descriptor, rest) :]
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise
        self._end += len(data)

    def _sync(self) -> None:
        os.fsync(self._descriptor)
        self._synced = SYSTEM_CLOCK.monotonic()

    # ---- one line for each id --------------------------------------------------------------------

    @property
    def _spare(self) -> str:
        """The new file, while it is written. Always the same name, so that a run finds what a
        killed one has left; of a length that every file system takes."""
        folder, name = os.path.split(self._path)
        digest = hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()
        return os.path.join(folder, f".llmstream-batch-{digest}.tmp")

    def _replace_if_stale(self) -> None:
        if not self._is_stale:
            return
        self.known.clear()
        self._end = self._scan()  # should somebody else have written meanwhile
        old = os.fstat(self._descriptor)
        spare = os.open(self._spare, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            self._copy_to(spare)
            with contextlib.suppress(OSError, AttributeError):  # Windows has neither
                os.fchmod(spare, stat.S_IMODE(old.st_mode))
                os.fchown(spare, old.st_uid, old.st_gid)
            os.fsync(spare)
            self._put_in_place(spare)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(spare)
            with contextlib.suppress(OSError):
                os.unlink(self._spare)
            raise
        self._is_stale = False

    def _copy_to(self, spare: int) -> None:
        kept = {known.offset: known for known in self.known.values()}
        offset = end = 0
        with open(spare, "wb", _BLOCK, closefd=False) as file:
            for line in self._lines():
                known = kept.get(offset)
                offset += len(line)
                if known is not None:
                    file.write(line)
                    known.offset = end
                    end += len(line)
        self._end = end

    def _put_in_place(self, spare: int) -> None:
        if os.name == "nt":  # an open file cannot be replaced there; the lock is a file beside it
            os.close(spare)
            os.close(self._descriptor)
            try:
                os.replace(self._spare, self._path)
            finally:
                self._descriptor = os.open(self._path, _FLAGS)
            return
        self._lock.move(spare)
        os.replace(self._spare, self._path)
        os.close(self._descriptor)
        self._descriptor = spare

    # ---- closing ---------------------------------------------------------------------------------

    def stop(self) -> None:
        pass

    def close(self) -> None:
        try:
            self._sync()
            self._replace_if_stale()
        finally:
            self._release()

    def _release(self) -> None:
        os.close(self._descriptor)
        self._lock.release()


_FLAGS = os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0)


# An id and what follows it; the beginning of an id.
_ID = re.compile(rb'(?:"(?:[^"\\]|\\.)*"|-?\d+)(.*)', re.DOTALL)
_HALF_ID = re.compile(rb'"(?:[^"\\]|\\.)*\\?|-?', re.DOTALL)
_AFTER_ID = b',"line":'


def _is_torn(text: bytes, *, is_first: bool) -> bool:
    """Whether the last line is the beginning of one: of a process that was killed, or of a machine
    that lost its power, which may leave zeros. After lines of an output it is an object, whoever
    wrote it. The first line shows whose file it is, so it begins as ours do: nothing that somebody
    else may have written is removed."""
    text = text.rstrip(b"\0")
    if not (_is_ours(text) if is_first else _agree(text, b"{")):
        return False
    try:
        msgspec.json.decode(text)
    except (ValueError, UnicodeError, RecursionError):
        return True
    return False


def _is_ours(text: bytes) -> bool:
    """Whether it begins as a line of `encode_outcome`, as far as it goes."""
    size = len(BEGINNING)
    if not _agree(text, BEGINNING):
        return False
    rest = _ID.fullmatch(text[size:])
    if rest is None:
        return _HALF_ID.fullmatch(text[size:]) is not None
    return _agree(rest[1], _AFTER_ID)


def _agree(text: bytes, beginning: bytes) -> bool:
    size = min(len(text), len(beginning))
    return text[:size] == beginning[:size]


def open_output(path: str) -> Output:
    """The file `path`, which is created if it does not exist; a device or a named pipe is written
    to. Raises ConfigurationError and OSError."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISREG(mode):
        return OutputFile(path)
    # A named pipe opens when somebody reads it.
    descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_BINARY", 0))
    return DescriptorPipe(descriptor, owned=True)
