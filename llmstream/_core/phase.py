"""The names of a call's phases and clocks. Users see them in `Attempt.phase`, errors, logs and
metrics, so each is defined once, here."""

from __future__ import annotations

from enum import Enum

__all__ = ["ClockName", "Phase"]


class _Name(str, Enum):
    """An enum whose members equal, and are shown as, their values (enum.StrEnum needs Python 3.11).
    Users are given the plain `.value`."""

    __str__ = str.__str__
    __repr__ = str.__repr__
    __format__ = str.__format__  # type: ignore[assignment]


class Phase(_Name):
    """What a call is doing."""

    CONNECT = "connect"  # name resolution and TCP
    TLS = "tls"  # the TLS handshake
    SEND = "send"  # sending the request
    HEADERS = "headers"  # the request is sent, the response's head is awaited
    FIRST_TOKEN = "first_token"  # the head has arrived, content has not
    BODY = "body"  # content has arrived
    DONE = "done"
    BACKOFF = "backoff"  # waiting between two attempts
    # Waiting because the service asked all callers of the key to wait, or for the rate of a batch.
    THROTTLED = "throttled"
    POLL = "poll"  # waiting between two polls of a stored response


class ClockName(_Name):
    """The five clocks of `Timeouts`, and two internal ones."""

    CONNECT = "connect"
    FIRST_TOKEN = "first_token"
    IDLE = "idle"
    SILENCE = "silence"
    TOTAL = "total"
    LINGER = "linger"  # after the end of the answer, for what still belongs to the stream
    BACKOFF = "backoff"  # between two attempts; has no limit of its own, only `total` runs
