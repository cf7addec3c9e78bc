"""The settings that a command line asks for: from its options, or from a client of your own."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from .._core.retry import RetryPolicy
from .._core.timers import Timeouts
from ..client import Client
from ..errors import ConfigurationError
from .settings import CheckSettings, settings_of

__all__ = ["load_client", "settings_from"]

_CLIENT_OPTIONS = ("api", "profile", "on_disconnect")


def settings_from(options: Mapping[str, Any]) -> CheckSettings:
    """The settings that command line options ask for.

    An option that is absent or None leaves the default. The names are `client` (as for
    `load_client`), `real_time`, `api`, `profile`, `on_disconnect`, and the fields of `Timeouts`
    (seconds, or "off") and of `RetryPolicy`; others are ignored. Raises ConfigurationError for
    settings that cannot work.
    """
    given = {name: value for name, value in options.items() if value is not None}
    clocks = {name: given[name] for name in Timeouts.__struct_fields__ if name in given}
    retry = {name: given[name] for name in RetryPolicy.__struct_fields__ if name in given}
    others = {name: given[name] for name in _CLIENT_OPTIONS if name in given}
    real_time = bool(given.get("real_time"))
    if "client" in given:
        for name in (*others, *clocks, *retry):
            option = "--" + name.replace("_", "-")
            raise ConfigurationError(f"--client has its own settings: leave {option} out")
        settings = settings_of(load_client(given["client"]))
        return msgspec.structs.replace(settings, real_time=real_time)
    settings = CheckSettings(
        timeouts=Timeouts(**{n: None if v == "off" else v for n, v in clocks.items()}),
        retry=RetryPolicy(**retry),
        real_time=real_time,
        **others,
    )
    settings.client("http://127.0.0.1:9/v1").close()  # settings that cannot work raise here
    return settings


def load_client(name: str) -> Client:
    """Import the client that `name` ("package.module:attribute") names.

    The attribute is a `Client`, or a function without arguments that returns one; it may be dotted.
    The current directory is searched too. Raises ConfigurationError.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ConfigurationError("--client: write it like 'myapp.settings:client'")
    with _current_directory():
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
            if not isinstance(found, Client) and callable(found):
                found = found()
        except (Exception, SystemExit) as error:
            raise ConfigurationError(
                f"--client {name}: {type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
    if not isinstance(found, Client):
        raise ConfigurationError(
            f"--client {name}: found an object of type {type(found).__name__}; it has to be a "
            "Client or a function that returns one"
        )
    return found


@contextlib.contextmanager
def _current_directory() -> Iterator[None]:
    """The current directory on the module path: for a console script it is not there."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)
