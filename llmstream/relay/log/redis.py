"""A log of answers in Redis, or one of its relatives (extra `redis`)."""

from __future__ import annotations

import contextlib
from functools import partial
from queue import SimpleQueue
from typing import Any
from urllib.parse import quote

import msgspec

from ..._core.checks import shown
from ..._runtime.clock import SYSTEM_CLOCK
from ..._runtime.deferred import defer
from ..._runtime.fork import renew_in_child
from ..._runtime.ids import random_id
from ..._runtime.scope import NEVER
from ..._runtime.threads import RLock, spawn
from ..._settings.arguments import checked_count
from ...errors import ConfigurationError
from ..parts import Failure
from . import scripts
from .base import (
    LOST,
    STOPPED,
    TOO_LONG,
    UNATTENDED,
    About,
    Claim,
    Cursor,
    End,
    Entry,
    LogError,
    checked_seconds,
    failed,
)
from .line import Away, Blocked, Line, Patience, milliseconds, text_of

__all__ = ["RedisLog"]

_MIB = 2**20
_OBJECT = 64  # bytes that a frame takes besides its own
_LONGEST_REASON = 1000  # characters
_PAUSE = 0.1  # seconds between two tries of a Redis that does not answer
_MARGIN = 0.02  # seconds after the end of a lease at which a reader looks
_GRACE = 1.0  # seconds, of a long lease, that a producer has where a reader finds no lease
_SHORTEST = 0.02  # seconds between two rounds of renewals
_CLOSE_SECONDS = 2.0  # at close, for the last frames of all answers

_WHOLE, _BREAKS = "whole", "breaks"
_STOPPED = Failure(type="LogError", message=STOPPED, retryable=True)
_UNATTENDED = Failure(type="Cancelled", message=UNATTENDED, retryable=True)


class _Setup:
    """What a log, its writers and its readers share. It refers to none of them."""

    def __init__(self, line: Line, ttl: float, lease: float, most: int, prefix: str) -> None:
        self.line = line
        self.lease = lease
        self.most = most  # bytes of an answer
        # While an answer is made its log lives as long as it would after its end: who comes late
        # has to find out that the producer is dead.
        self.log_ms = milliseconds(max(ttl, 2 * lease))
        self.ttl_ms = milliseconds(ttl)
        # A Redis that was away takes the lease's time for passed: so who finds none gives the
        # producer time to renew it first. Both are the lease.
        self.grace = min(_GRACE, lease / 5)
        self.lease_ms = milliseconds(lease - self.grace)
        self._prefix = prefix

    def keys(self, id: str) -> list[str]:
        """log, lease, read, stop."""
        # Without braces: the first pair of a key says what its slot is.
        named = f"{self._prefix}:{{{quote(id, safe='-_.:@')}}}"
        return [f"{named}:log", f"{named}:lease", f"{named}:read", f"{named}:stop"]

    def commands_of(self, worker: str) -> str:
        return f"{self._prefix}:worker:{worker}"


class RedisLog:
    """Answers in Redis 6.2 or later, for several processes and hosts.

        log = relay.RedisLog("redis://localhost:6379/0")

    Make one for the whole process, and share it between its threads. It connects when it is used;
    a forked child connects anew.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, as redis-py takes them; or a client of
            redis-py that is not asynchronous, also of a cluster or of Sentinel. A reader that waits
            for an answer holds one connection: a client of your own has to allow that many
            (`max_connections`). A command to a Redis that does not answer takes it as long as its
            `socket_timeout` and its `retry` say, by default of redis-py 10 times 5 s: give it
            `retry=Retry(NoBackoff(), 0)`, because the log itself tries again, for `lease` seconds.
        ttl: seconds that an answer is kept after its end.
        lease: seconds after which a producer that gives no sign of life is dead, and its readers
            are told. As long a Redis that is away is waited for, by producers and readers.
        max_answer_bytes: an answer whose frames are more ends with an error, and its call is
            cancelled. Nothing is ever cut off an answer.
        prefix: of all keys. `{prefix}:{id}:log` is a stream, which has the answer; the braces keep
            what belongs to one answer in one slot of a cluster.

    A Redis that is restarted without its data has no answers any more: their readers are told, and
    their calls are cancelled.

    Raises ConfigurationError for arguments that cannot work, and without redis-py. Thread-safe.
    """

    def __init__(
        self,
        url: Any,
        ttl: float = 600.0,
        *,
        lease: float = 10.0,
        max_answer_bytes: int = 16 * _MIB,
        prefix: str = "llmstream",
    ) -> None:
        self.ttl = checked_seconds("ttl", ttl)
        self.lease = checked_seconds("lease", lease, 3600.0)
        self.max_answer_bytes = checked_count("max_answer_bytes", max_answer_bytes)
        _checked_prefix(prefix)
        self._client_is_own = isinstance(url, str)
        self._line = Line(url)
        self._setup = _Setup(self._line, self.ttl, self.lease, self.max_answer_bytes, prefix)
        new_keeper = partial(_Keeper, self._setup)  # it must not refer to this log
        self._keeper = new_keeper()
        renew_in_child(self, _keeper=new_keeper)

    def __repr__(self) -> str:
        return f"<RedisLog ttl={self.ttl:g}>"  # the url may have a password

    def claim(self, claim: Claim) -> _Writer | None:
        keeper = self._keeper
        writer = claim.writer = _Writer(self._setup, claim, keeper)
        keeper.add(writer)  # before it is known to others: they may stop it at once
        is_first = False
        try:
            is_first = writer.claim()
            if is_first:
                keeper.begin()
        finally:
            if not is_first:
                keeper.discard(writer)
        return writer if is_first else None

    def reader(self, id: str, after: Cursor | None) -> _Reader | None:
        keys = self._setup.keys(id)
        found = self._line.run(scripts.OPEN, keys[:1])
        if found is None:
            return None
        if not found:
            raise _lost(0)
        try:
            about = msgspec.json.decode(found[0], type=About)
        except msgspec.MsgspecError:  # of another version of the library, or of somebody else
            raise _lost(0) from None
        generation, last = int(found[1]), int(found[2])
        # A number that was not reached yet was never sent: it is invented.
        number = after.number if after and after.generation == generation else 0
        at = Cursor(generation, number if number <= last else 0)
        return _Reader(self._setup, keys, about, at)

    def stop(self, id: str, reason: str) -> bool:
        log, lease, _, stop = self._setup.keys(id)
        reason, ms = reason[:_LONGEST_REASON], self._setup.log_ms
        worker = text_of(self._line.run(scripts.STOP, [log, lease, stop], reason, ms))
        if not worker:
            return False
        with contextlib.suppress(LogError):  # then the producer sees it when it renews its lease
            self._line.run(scripts.COMMAND, [self._setup.commands_of(worker)], id, reason, ms)
        return True

    def close(self) -> None:
        """Stop the answers that this process makes, and close the connections, unless the client
        is your own. Idempotent; the log may be used again."""
        self._keeper.stop_all()
        if self._client_is_own:
            # Not those in use: their threads give them back.
            self._line.client.connection_pool.disconnect(inuse_connections=False)


def _checked_prefix(prefix: Any) -> None:
    is_text = isinstance(prefix, str) and prefix
    if not is_text or any(c in "{}" or c.isspace() for c in prefix):
        raise ConfigurationError(
            f"prefix={shown(prefix)}: pass a string without braces and white space"
        )


class _Writer:
    """See `base.LogWriter`. Its thread appends, the keeper's renews."""

    def __init__(self, setup: _Setup, claim: Claim, keeper: _Keeper) -> None:
        self._setup = setup
        self._claim = claim
        self._keeper = keeper
        self._token = random_id(128)
        self._bell: SimpleQueue[None] = SimpleQueue()
        self.id = claim.id
        self._keys = setup.keys(claim.id)
        self._generation = ""
        self._number = 0  # of the last frame
        self._size = 0
        self._is_over = True  # there is nothing, or nothing more, to be written
        self.renew_at = -NEVER  # the keeper's: when to renew the lease
        self.is_late = False  # the keeper's: it could not

    @property
    def patience(self) -> float:
        """Seconds for which nobody may read."""
        about = self._claim.about
        return NEVER if about.unattended is None else about.unattended

    def claim(self) -> bool:
        """Whether the answer is this writer's. Raises LogError."""
        about = self._claim.about
        is_first, generation = self._setup.line.run(
            scripts.CLAIM,
            self._keys,
            msgspec.json.encode(about),
            self._token,
            self._keeper.worker,
            self._setup.log_ms,
            self._setup.lease_ms,
            _read_ms(about),
        )
        self._generation = text_of(generation)
        self._is_over = is_first != 1
        return not self._is_over

    def append(self, frames: list[bytes]) -> None:
        self._size += sum(map(len, frames)) + _OBJECT * len(frames)
        if self._size > self._setup.most:
            raise LogError(
                f"the answer has more than {self._setup.most:,} bytes, so it was stopped "
                "(RedisLog(max_answer_bytes=...) is greater)",
                shown=TOO_LONG,
                retryable=False,
            )
        self._store(frames, "")
        self._number += len(frames)

    def end(self, frames: list[bytes], *, breaks: bool) -> None:
        self._store(frames, _BREAKS if breaks else _WHOLE)
        self._is_over = True

    def _store(self, frames: list[bytes], ending: str) -> None:
        patience = Patience(self._setup.lease)
        while True:
            try:
                return self._store_once(frames, ending)
            except Away as exc:
                patience.failed(exc)
                SYSTEM_CLOCK.wait(self._bell, _PAUSE)

    def _store_once(self, frames: list[bytes], ending: str) -> None:
        stored = self._setup.line.once(
            scripts.APPEND,
            self._keys,
            self._generation,
            self._token,
            self._number + 1,
            self._setup.ttl_ms if ending else self._setup.log_ms,
            self._setup.lease_ms,
            ending,
            *frames,
        )
        if stored != 1:
            self._is_over = True
            raise _lost(stored)

    def renew(self) -> None:
        """The keeper's part. Raises Away, and LogError."""
        if self._is_over:
            return
        state, reason, is_read = self._setup.line.once(
            scripts.RENEW,
            self._keys,
            self._generation,
            self._token,
            self._setup.log_ms,
            self._setup.lease_ms,
        )
        if state != 1:
            error = _lost(state)
            self.stop(error.failure, error.message)
        elif reason:
            self.stop(None, text_of(reason))
        elif not is_read and self.patience < NEVER:
            self.stop(_UNATTENDED, f"nobody has read the answer for {self.patience:g} s")

    def stop(self, failure: Failure | None, reason: str) -> None:
        if not self._is_over:
            self._claim.stop(failure, reason)

    def withdraw(self) -> None:
        self._is_over = True
        self._keeper.discard(self)
        with contextlib.suppress(Exception):  # then its lease tells
            self._setup.line.once(scripts.WITHDRAW, self._keys, self._token)

    def release(self) -> None:
        self._keeper.discard(self)
        if not self._is_over:
            self._is_over = True
            frames, breaks = failed(self._claim.about, _STOPPED)
            with contextlib.suppress(Exception):  # then its lease tells
                self._store_once(frames, _BREAKS if breaks else _WHOLE)


def _lost(state: int) -> LogError:
    if state == -2:
        return LogError(
            "a reader has ended the answer, because its producer gave no sign of life for longer "
            "than the lease (RedisLog(lease=...))",
            shown=STOPPED,
        )
    return LogError(
        "Redis no longer has the answer, or not all of it: it was restarted without its data, a "
        "replica that was behind has taken over, or the key was deleted (see maxmemory-policy)",
        shown=LOST,
    )


def _read_ms(about: About) -> int:
    # Readers say every third of it that they are there: so who has just left counts for at least
    # the whole, and for at most a third more.
    return 0 if about.unattended is None else milliseconds(about.unattended * 4 / 3)


class _Reader:
    """See `base.LogReader`."""

    def __init__(self, setup: _Setup, keys: list[str], about: About, at: Cursor) -> None:
        self.about = about
        self.end: End | None = None
        self._setup = setup
        self._keys = keys
        self._at = at
        self._blocked = Blocked(setup.line)
        self._patience = Patience(setup.lease)
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._look_at = -NEVER  # when to ask whether the producer lives
        self._is_missed = False  # there was no lease, a grace ago
        self._is_ended = False  # the log has an end, which may be ahead

    def take(self, seconds: float) -> list[Entry]:
        until = SYSTEM_CLOCK.monotonic() + seconds
        while not self._blocked.is_closed() and self.end is None:
            try:
                self._look()
                found = self._read(until)
                self._patience.answered()
            except Away as exc:
                self._patience.failed(exc)
                self._look_at = -NEVER  # it may come back without the answer
                self._is_missed = False
                SYSTEM_CLOCK.wait(self._bell, min(_PAUSE, until - SYSTEM_CLOCK.monotonic()))
                found = []
            if found or SYSTEM_CLOCK.monotonic() >= until:
                return found
        return []

    def _look(self) -> None:
        """Ask whether the producer lives, if it is time for that; if it is dead, say so in the
        log, to all readers. Raises Away, and LogError."""
        now = SYSTEM_CLOCK.monotonic()
        if now < self._look_at:
            return
        frames, breaks = failed(self.about, _STOPPED)
        ending = [_BREAKS if breaks else _WHOLE, *frames]
        left = self._setup.line.once(
            scripts.LOOK,
            self._keys[:3],
            self._at.generation,
            self._setup.ttl_ms,
            _read_ms(self.about),
            *(ending if self._is_missed else [""]),
        )
        self._is_missed = left == scripts.NO_LEASE
        if self._is_missed:
            self._look_at = now + self._setup.grace
            return
        if left < 0:
            raise _lost(left)
        if left == 0:
            self._is_ended, self._look_at = True, NEVER
            return
        third = NEVER if self.about.unattended is None else self.about.unattended / 3
        self._look_at = now + min(left / 1000 + _MARGIN, third)

    def _read(self, until: float) -> list[Entry]:
        now = SYSTEM_CLOCK.monotonic()
        seconds = 0.0 if self._is_ended else min(until, self._look_at) - now
        entries = self._blocked.read(self._keys[0], str(self._at), seconds)
        if not entries and self._is_ended and not self._blocked.is_closed():
            self.end = End(breaks=False)  # a place after the end
        found = []
        for id, fields in entries:
            if id != f"{self._at.generation}-{self._at.number + 1}":
                raise _lost(0)
            self._at = self._at._replace(number=self._at.number + 1)
            if "end" in fields:
                self.end = End(breaks=text_of(fields["end"]) == _BREAKS)
            else:
                found.append(Entry(id, self._setup.line.bytes_of(fields["frame"])))
        return found

    def close(self) -> None:
        self._blocked.close()
        self._bell.put(None)

    def __del__(self) -> None:
        # At interpreter exit parts of this may be gone already.
        with contextlib.suppress(Exception):
            if self._blocked.is_open:  # the pool has a lock, which a finalizer must not wait for
                defer(self._blocked.close)


class _Keeper:
    """The thread that renews the leases of all answers that this process makes, and hears when one
    is to be stopped. There is a thread while there is an answer."""

    def __init__(self, setup: _Setup) -> None:
        self._worker = ""
        self._setup = setup
        self._writers: dict[_Writer, None] = {}  # an operation on it is atomic
        self._starting = RLock()  # held while the thread is started, and while it decides to end
        self._is_alive = False
        self._heard = "0-0"  # the last command
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._blocked = Blocked(setup.line)  # where the thread listens

    @property
    def worker(self) -> str:
        # Not when it is made: in the fork hook random ids are those of the parent.
        self._worker = self._worker or random_id(128)
        return self._worker

    def add(self, writer: _Writer) -> None:
        self._writers[writer] = None

    def discard(self, writer: _Writer) -> None:
        self._writers.pop(writer, None)
        if not self._writers:
            self._blocked.close()  # the thread need not wait for its time to end

    def begin(self) -> None:
        """There is a thread. Raises ConfigurationError if the system starts none."""
        with self._starting:
            if not self._is_alive:
                spawn(self._run, "relay-log")
                self._is_alive = True

    def stop_all(self) -> None:
        for writer in list(self._writers):
            writer.stop(_STOPPED, "the log of the answer was closed")
        until = SYSTEM_CLOCK.monotonic() + _CLOSE_SECONDS
        while (self._writers or self._is_alive) and SYSTEM_CLOCK.monotonic() < until:
            SYSTEM_CLOCK.wait(SimpleQueue(), _SHORTEST)

    def _run(self) -> None:
        try:
            while True:
                self._keep()
                with self._starting:
                    if not self._writers:
                        self._is_alive = False
                        return
        except BaseException:
            with self._starting:
                self._is_alive = False  # the next publication starts another one
            raise

    def _keep(self) -> None:
        while self._writers:
            try:
                self._renew()
                due = min((writer.renew_at for writer in list(self._writers)), default=-NEVER)
                self._obey(min(due - SYSTEM_CLOCK.monotonic(), self._interval()))
            except (Away, LogError):
                for writer in list(self._writers):
                    writer.renew_at = -NEVER  # at once when Redis is back: time has passed for it
                SYSTEM_CLOCK.wait(self._bell, _PAUSE)

    def _interval(self) -> float:
        """Seconds between two renewals."""
        shortest = min((writer.patience for writer in list(self._writers)), default=NEVER)
        return max(_SHORTEST, min(self._setup.lease, shortest) / 3)

    def _renew(self) -> None:
        """The leases that are due. One that cannot be renewed (its server of a cluster is away, its
        keys are somebody else's) comes after all others, which do not wait for it."""
        for writer in sorted(self._writers, key=lambda one: (one.is_late, one.renew_at)):
            if writer.renew_at > SYSTEM_CLOCK.monotonic():
                continue
            try:
                writer.renew()
            except (Away, LogError) as exc:
                writer.is_late = True
                writer.renew_at = SYSTEM_CLOCK.monotonic() + _PAUSE
                if isinstance(exc, LogError) and not exc.retryable:
                    writer.stop(exc.failure, exc.message)
                return
            writer.is_late = False
            writer.renew_at = SYSTEM_CLOCK.monotonic() + self._interval()

    def _obey(self, seconds: float) -> None:
        if self._blocked.is_closed():
            self._blocked = Blocked(self._setup.line)
            if not self._writers:  # closed in vain
                return
        commands = self._setup.commands_of(self.worker)
        for number, fields in self._blocked.read(commands, self._heard, seconds):
            self._heard = number
            id, reason = text_of(fields.get("id", "")), text_of(fields.get("reason", ""))
            for writer in list(self._writers):
                if writer.id == id:
                    writer.stop(None, reason)
