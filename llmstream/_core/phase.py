"""The names of a call's phases and of its clocks: each is written here once."""

from __future__ import annotations

from enum import Enum

__all__ = ["ClockName", "Phase"]


class _Name(str, Enum):
    """A member is its value, also in text (enum.StrEnum is of Python 3.11). What users get is the
    plain `.value`."""

    __str__ = str.__str__
    __repr__ = str.__repr__
    __format__ = str.__format__  # type: ignore[assignment]


class Phase(_Name):
    """Where a call is."""

    CONNECT = "connect"  # name resolution and TCP
    TLS = "tls"
    SEND = "send"
    HEADERS = "headers"  # the request is out, the response's head is awaited
    FIRST_TOKEN = "first_token"  # the head has arrived, content has not
    BODY = "body"  # content has arrived
    DONE = "done"
    BACKOFF = "backoff"  # between two attempts
    THROTTLED = "throttled"  # waiting because the service asked all of us to
    POLL = "poll"  # between two polls of a stored response


class ClockName(_Name):
    """The five clocks of `Timeouts`, and two that serve inside."""

    CONNECT = "connect"
    FIRST_TOKEN = "first_token"
    IDLE = "idle"
    SILENCE = "silence"
    TOTAL = "total"
    LINGER = "linger"  # after the answer: what still belongs to the stream
    BACKOFF = "backoff"  # between attempts: only `total` runs
