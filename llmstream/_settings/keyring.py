"""Keys on the operating system's keyring (extra `keys`), never in a file of ours.

A key is stored under a name. Two names are looked up when the environment has nothing: "openai"
(for Responses and Chat Completions) and "anthropic" (for Messages); any other can be read with
`get(name)`. A keyring that is locked may wait for the user for ever: every access is bounded to
5 seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from .._runtime.threads import spawn
from ..errors import ConfigurationError
from .secret import Secret

__all__ = ["get", "names", "remove", "store"]

_SERVICE = "llmstream"
_INDEX = "names"  # a keyring cannot be listed: the names (no secrets) are an entry of their own
_BOUND = 5.0  # seconds

_NO_LIBRARY = 'no keyring library: pip install "llmstream-sync[keys]"'
_NO_BACKEND = "this machine has no keyring that can be used: set the key in the environment"

T = TypeVar("T")


def get(name: str) -> Secret | None:
    """The key stored under `name`, None where there is none. Raises ConfigurationError where the
    keyring does not answer, within 5 s. Safe in any thread."""
    value = _bounded(lambda ring: ring.get_password(_SERVICE, _entry(name)))
    return Secret(value) if value else None


def store(name: str, key: str) -> None:
    """Keep `key` under `name`, in place of what was there. Raises like `get`."""
    _checked(name)
    if not key.strip() or any(c.isspace() or not c.isprintable() for c in key.strip()):
        raise ConfigurationError("the key is empty or has white space inside")
    _bounded(lambda ring: ring.set_password(_SERVICE, _entry(name), key.strip()))
    _write_names({*names(), name})


def remove(name: str) -> None:
    """Forget the key. Raises ConfigurationError where there is none, and like `get`."""
    if get(name) is None:
        raise ConfigurationError(f"there is no key named {name!r}: see `llmstream keys list`")
    _bounded(lambda ring: ring.delete_password(_SERVICE, _entry(name)))
    _write_names({*names()} - {name})


def names() -> list[str]:
    """The names that have a key, sorted. Raises like `get`."""
    said = _bounded(lambda ring: ring.get_password(_SERVICE, _INDEX))
    try:
        return sorted(msgspec.json.decode(said, type=list[str])) if said else []
    except msgspec.DecodeError:
        return []


def find(name: str) -> Secret | None:
    """Like `get`, but a machine without a keyring simply has no key."""
    try:
        return get(name)
    except ConfigurationError as error:
        if str(error) in (_NO_LIBRARY, _NO_BACKEND):
            return None
        raise


def _entry(name: str) -> str:
    return f"key:{name}"


def _checked(name: str) -> None:
    if not name or not name.isprintable() or name != name.strip():
        raise ConfigurationError("give the key a name, like 'openai' or 'anthropic'")


def _write_names(all_names: set[str]) -> None:
    text = msgspec.json.encode(sorted(all_names)).decode()
    _bounded(lambda ring: ring.set_password(_SERVICE, _INDEX, text))


def _bounded(act: Callable[[Any], T]) -> T:
    """Run `act` with the keyring, in a daemon thread that is left behind if it does not return."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            import keyring

            outcome.append(act(keyring))
        except BaseException as exc:  # told to the caller below, in its own words
            failure.append(exc)

    spawn(run, "keyring").join(_BOUND)
    if outcome:
        return outcome[0]
    raise _explained(failure[0] if failure else None) from None


def _explained(exc: BaseException | None) -> ConfigurationError:
    # By name: the classes live in a package that need not be installed. Their texts are not
    # repeated, a backend may put anything into them.
    kind = type(exc).__name__
    if exc is None:
        return ConfigurationError(
            f"the keyring did not answer within {_BOUND:g} s: unlock it, or set the key in the "
            "environment"
        )
    if isinstance(exc, ImportError):
        return ConfigurationError(_NO_LIBRARY)
    if kind in ("NoKeyringError", "InitError"):
        return ConfigurationError(_NO_BACKEND)
    return ConfigurationError(
        f"the keyring refused ({kind}): unlock it, or set the key in the environment"
    )
