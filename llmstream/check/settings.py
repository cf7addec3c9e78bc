"""The settings that are checked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from .._core.dialects import DEFAULT_API
from .._core.retry import RetryPolicy
from .._core.session import MAX_EVENT_BYTES
from .._core.timers import Timeouts
from ..client import Client
from .wording import counted, seconds_or_off

__all__ = ["CheckSettings", "clocks_of", "settings_of"]

_MODEL = "llmstream-check"


class CheckSettings(Struct, frozen=True):
    """What a check plays against: the settings of a `Client`, without address, key and headers.

    Args:
        api: "responses", "messages", "chat" or "gemini".
        timeouts: the five clocks, in seconds; see `Timeouts` for the defaults.
        retry: see `RetryPolicy` for the defaults.
        on_disconnect: "raise", "restart", "continue" or "resume".
        profile: the name of the server's profile. None: the default one.
        model: the model's name in the requests.
        max_event_bytes: as in `Client`.
        max_identical_chunks: as in `Client`.
        real_time: let no clock run faster than the machine's; the checks then take minutes.
    """

    api: str = DEFAULT_API
    timeouts: Timeouts = Timeouts()
    retry: RetryPolicy = RetryPolicy()
    on_disconnect: str = "raise"
    profile: str | None = None
    model: str = _MODEL
    max_event_bytes: int = MAX_EVENT_BYTES
    max_identical_chunks: int | None = None
    real_time: bool = False

    def client(self, base_url: str, **more: Any) -> Client:
        """A client with these settings and an invented key.

        `more` are further arguments of `Client`; they replace these settings. Raises
        ConfigurationError for settings that cannot work.
        """
        settings = {
            "api_key": f"not-a-key-{os.urandom(4).hex()}",
            "model": self.model,
            "timeouts": self.timeouts,
            "retry": self.retry,
            "on_disconnect": self.on_disconnect,
            "profile": self.profile,
            "max_event_bytes": self.max_event_bytes,
            "max_identical_chunks": self.max_identical_chunks,
        }
        return Client(self.api, base_url=base_url, **{**settings, **more})

    def summary(self) -> str:
        """The settings in one line."""
        clocks = ", ".join(
            f"{name} {seconds_or_off(getattr(self.timeouts, name))}"
            for name, _ in clocks_of(self.timeouts)
        )
        attempts = counted(self.retry.max_attempts, "attempt")
        return f"api {self.api}; {clocks}; {attempts}; on_disconnect {self.on_disconnect}"


def clocks_of(timeouts: Timeouts) -> Iterator[tuple[str, float | None]]:
    """The clocks by name, each with its seconds (None: off); those of "auto" too."""
    return ((name, timeouts.seconds(name)) for name in timeouts.__struct_fields__)


def settings_of(client: Client) -> CheckSettings:
    """The settings of a client, without its address, key and headers."""
    settings = client.settings
    return CheckSettings(
        api=settings.api,
        timeouts=settings.timeouts,
        retry=settings.retry,
        on_disconnect=settings.on_disconnect,
        profile=client.profile,
        model=settings.model or _MODEL,
        max_event_bytes=settings.max_event_bytes,
        max_identical_chunks=settings.max_identical_chunks,
    )
