"""The way to Redis: its client, its scripts, its errors, and waits that another thread may end."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from ..._core.checks import has_method, shown
from ..._runtime.clock import SYSTEM_CLOCK
from ..._runtime.fork import process_number, renew_in_child
from ..._transport.race import shut_down
from ...errors import ConfigurationError
from .base import FULL, LogError

__all__ = ["Away", "Blocked", "Line", "Patience", "client_of", "milliseconds", "text_of"]

_SOCKET_SECONDS = 5.0  # for a command, and for a connection
_MOST_BLOCKED = 2.5  # seconds of one XREAD; less than _SOCKET_SECONDS
_COUNT = 256  # entries that are taken in one go
_CONNECTIONS = 10_000  # of a pool; every reader that waits has one

# What passes by itself. In a script Redis 6 puts words of its own before them, and a "-".
_FOR_NOW = re.compile(
    "(?:^|-)(?:BUSY|LOADING|READONLY|CLUSTERDOWN|TRYAGAIN|MASTERDOWN|NOREPLICAS|MISCONF) "
)
_FULL = re.compile("(?:^|-)OOM ")

Fields = dict[str, Any]


def milliseconds(seconds: float | None) -> int:
    """At least 1; 0 for None."""
    return 0 if seconds is None else max(1, round(seconds * 1000))


def text_of(value: Any) -> str:
    """Redis returns bytes, unless the client was made with `decode_responses`."""
    return value.decode() if isinstance(value, bytes) else str(value)


def client_of(url: Any) -> Any:
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as exc:
        raise ConfigurationError(
            "RedisLog needs redis-py: pip install 'llmstream-sync[redis]'"
        ) from exc
    if not isinstance(url, str):
        if not has_method(url, "xread") or inspect.iscoroutinefunction(url.execute_command):
            raise ConfigurationError(
                f"RedisLog({shown(url)}): pass an address such as 'redis://localhost:6379/0', or a "
                "client of redis-py that is not asynchronous"
            )
        if getattr(url, "connection", None) is not None:
            # Of one connection (`single_connection_client`): before redis-py 6 two threads that
            # use it get each other's replies.
            return redis.Redis(connection_pool=url.connection_pool)
        return url
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=_SOCKET_SECONDS,
            socket_connect_timeout=_SOCKET_SECONDS,
            max_connections=_CONNECTIONS,
            retry=Retry(NoBackoff(), 0),  # we try again ourselves, and know for how long
        )
    except Exception:  # its words may quote the password
        error = ConfigurationError(
            "RedisLog(url): pass an address such as 'redis://localhost:6379/0', "
            "'rediss://user:password@host:6380/0' or 'unix:///run/redis.sock?db=0', with every "
            "special character of user and password written as %XX"
        )
    raise error


class Away(Exception):
    """Redis does not answer, or refuses for now. Never leaves this room."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raises LogError and Away in place of what redis-py raises."""
    import redis

    try:
        yield
    except (
        redis.exceptions.AuthenticationError,
        redis.exceptions.AuthorizationError,
        redis.exceptions.MaxConnectionsError,
    ) as exc:
        raise LogError(f"Redis cannot be used: {exc}", retryable=False) from exc
    except (
        redis.exceptions.ConnectionError,
        redis.exceptions.TimeoutError,
        redis.exceptions.BusyLoadingError,
        redis.exceptions.ReadOnlyError,
        redis.exceptions.ClusterDownError,
        redis.exceptions.MasterDownError,
        redis.exceptions.TryAgainError,
        redis.exceptions.RedisClusterException,
        OSError,
    ) as exc:
        raise Away(f"Redis does not answer: {exc}") from exc
    except redis.exceptions.OutOfMemoryError as exc:
        raise LogError(f"Redis has no memory left: {exc}", shown=FULL) from exc
    except redis.exceptions.RedisError as exc:
        if _FOR_NOW.search(str(exc)):
            raise Away(f"Redis refuses for now: {exc}") from exc
        if _FULL.search(str(exc)):
            raise LogError(f"Redis has no memory left: {exc}", shown=FULL) from exc
        raise LogError(f"Redis refuses the log of answers: {exc}", retryable=False) from exc


def _anew(url: str, current: list[Any]) -> Any:
    """The client of a forked child. A pool of redis-py 8 that a thread of the parent is using at
    the fork stays locked: so the parent's client is not used here, and not closed either."""
    current[0].auto_close_connection_pool = False
    current[0] = client_of(url)
    return current[0]


class Line:
    """The way to Redis, for commands that do not wait. Thread-safe."""

    def __init__(self, url: Any) -> None:
        self.client = client_of(url)
        encoder = self.client.get_encoder()
        self._encoding, self._errors = encoder.encoding, encoder.encoding_errors
        self._scripts: dict[str, Any] = {}
        if isinstance(url, str):
            renew_in_child(self, client=partial(_anew, url, [self.client]), _scripts=dict)

    def bytes_of(self, value: Any) -> bytes:
        """What was sent, though the client may have decoded it."""
        if isinstance(value, bytes):
            return value
        return str(value).encode(self._encoding, self._errors)

    def run(self, script: str, keys: list[str], *args: Any) -> Any:
        """What a script returns. Raises LogError, at once where Redis does not answer."""
        try:
            return self.once(script, keys, *args)
        except Away as exc:
            raise LogError(str(exc)) from exc.__cause__

    def once(self, script: str, keys: list[str], *args: Any) -> Any:
        """What a script returns. Raises LogError, and Away."""
        with translated():
            known = self._scripts.get(script)
            if known is None:
                known = self._scripts[script] = self.client.register_script(script)
            return known(keys=keys, args=args)


class Patience:
    """How long a Redis that is away is waited for."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def failed(self, exc: Away) -> None:
        """Raises LogError once it has been away for too long."""
        now = SYSTEM_CLOCK.monotonic()
        if self._since is None:
            self._since = now
        elif now - self._since >= self._seconds:
            raise LogError(f"{exc} (for {self._seconds:g} s)") from exc.__cause__

    def answered(self) -> None:
        self._since = None


class Blocked:
    """The connection of one thread that waits for new entries of a stream (XREAD BLOCK). Another
    thread may end the wait."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._own: list[Any] = []  # one client at most, with the connection; `pop` is atomic
        self._process = process_number()
        timeout = None
        pool = getattr(line.client, "connection_pool", None)
        if pool is not None:
            timeout = getattr(pool, "connection_kwargs", {}).get("socket_timeout")
        # A reply that comes later than the socket's timeout would be an error.
        self._most = min(_MOST_BLOCKED, timeout / 2) if timeout else _MOST_BLOCKED
        self._closed = self._is_reading = False

    def is_closed(self) -> bool:
        return self._closed

    def read(self, key: str, after: str, seconds: float) -> list[tuple[str, Fields]]:
        """The entries after an id, each its id and its values; waits at most `seconds`, and may
        return early. Raises LogError and Away."""
        self._is_reading = True
        try:
            if self.is_closed():
                return []
            block = milliseconds(min(seconds, self._most)) if seconds > 0 else None
            with translated():
                return _entries(self._client().xread({key: after}, count=_COUNT, block=block))
        except Away:
            if self.is_closed():  # the connection was ended by `close`
                return []
            self._drop()
            raise
        finally:
            self._is_reading = False
            if self._closed:
                self._drop()

    def _client(self) -> Any:
        if self._process != process_number():
            self._own.clear()  # the connection is the parent's
            self._process = process_number()
        if not self._own:
            pool = getattr(self._line.client, "connection_pool", None)
            if pool is None:  # a cluster finds the server of each key
                return self._line.client
            import redis

            self._own.append(redis.Redis(connection_pool=pool, single_connection_client=True))
        return self._own[0]

    def _drop(self) -> None:
        if self._process != process_number():
            self._own.clear()
        with contextlib.suppress(Exception):
            own = self._own.pop()
            # A pool never shrinks: it would keep as many connections as there were ever readers.
            own.connection.disconnect()
            own.close()

    def close(self) -> None:
        """End the wait. Any thread; idempotent."""
        self._closed = True
        if not self._is_reading:
            self._drop()
            return
        # Only its socket is shut down: redis-py's `disconnect` closes the descriptor, which
        # another thread may get for a new file while this one waits for it.
        for own in self._own:
            sock = getattr(getattr(own, "connection", None), "_sock", None)
            if sock is not None and self._process == process_number():
                shut_down(sock)

    @property
    def is_open(self) -> bool:
        return bool(self._own)


def _entries(reply: Any) -> list[tuple[str, Fields]]:
    """The entries of the one stream that was asked for. RESP 2 has pairs of a key and its entries,
    RESP 3 a mapping to lists of entries; an entry is a pair of its id and its fields."""
    if not reply:
        return []
    found: Any = next(iter(reply.values())) if isinstance(reply, dict) else reply[0][1]
    while found and isinstance(found[0], list) and not isinstance(found[0][0], (str, bytes)):
        found = found[0]
    return [
        (text_of(id), {text_of(name): value for name, value in (fields or {}).items()})
        for id, fields in found
    ]
