"""Keys on the operating system's keyring (extra `keys`). The library never writes a key to a file.

A key is stored under a name. If the environment has no key, two names are looked up: "openai" (for
Responses and Chat Completions) and "anthropic" (for Messages); with a profile that belongs to a
vendor, the profile's name. Any other can be read with `get(name)`. A locked keyring may wait for
its user for ever, so every access takes 5 seconds at most.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from .._runtime.frames import without_variables
from .._runtime.threads import spawn
from ..errors import ConfigurationError
from .secret import Secret

__all__ = ["get", "names", "remove", "store"]

_SERVICE = "llmstream"
_INDEX = "names"  # a keyring cannot be listed, so the names (not secret) are an entry of their own
_TIMEOUT = 5.0  # seconds

_NO_LIBRARY = 'no keyring library: pip install "llmstream-sync[keys]"'
_NO_BACKEND = "this machine has no keyring that can be used: set the key in the environment"

T = TypeVar("T")


@without_variables
def get(name: str) -> Secret | None:
    """The key that is stored under `name`, or None. Raises ConfigurationError if the keyring does
    not answer within 5 s, or refuses. Thread-safe."""
    value = _with_timeout(lambda ring: ring.get_password(_SERVICE, _entry(name)))
    return Secret(value) if value else None


@without_variables
def store(name: str, key: str) -> None:
    """Store `key` under `name`, in place of an earlier key. Raises ConfigurationError for a key or
    name that cannot be used, if the keyring does not keep it, and like `get`."""
    _checked(name)
    if not key.strip() or any(c.isspace() or not c.isprintable() for c in key.strip()):
        raise ConfigurationError("the key is empty or has white space inside")
    _with_timeout(lambda ring: ring.set_password(_SERVICE, _entry(name), key.strip()))
    kept = get(name)
    if kept is None or kept.reveal() != key.strip():
        # Some backends take everything and keep nothing, like keyring.backends.null.
        raise ConfigurationError(
            f"the keyring ({_backend()}) took the key and did not keep it: choose another backend "
            "(`keyring --list-backends`), or set the key in the environment"
        )
    _write_names({*names(), name})


def remove(name: str) -> None:
    """Delete the key. Raises ConfigurationError if there is none, and like `get`."""
    if get(name) is None:
        raise ConfigurationError(f"there is no key named {name!r}: see `llmstream keys list`")
    _with_timeout(lambda ring: ring.delete_password(_SERVICE, _entry(name)))
    if get(name) is not None:
        raise ConfigurationError(f"the keyring ({_backend()}) still has the key: remove it there")
    _write_names({*names()} - {name})


def names() -> list[str]:
    """The names that have a key, sorted. Raises like `get`."""
    text = _with_timeout(lambda ring: ring.get_password(_SERVICE, _INDEX))
    try:
        return sorted(msgspec.json.decode(text, type=list[str])) if text else []
    except msgspec.DecodeError:
        return []


def find(name: str) -> Secret | None:
    """Like `get`, but returns None on a machine without a keyring."""
    return _if_any(lambda: get(name), None)


def find_names() -> list[str]:
    """Like `names`, but returns none on a machine without a keyring."""
    return _if_any(names, [])


def _if_any(ask: Callable[[], T], otherwise: T) -> T:
    try:
        return ask()
    except ConfigurationError as error:
        if str(error) in (_NO_LIBRARY, _NO_BACKEND):
            return otherwise
        raise


def _entry(name: str) -> str:
    return f"key:{name}"


def _backend() -> str:
    kind = type(_with_timeout(lambda ring: ring.get_keyring()))
    return f"{kind.__module__}.{kind.__qualname__}"


def _checked(name: str) -> None:
    if not name or not name.isprintable() or name != name.strip():
        raise ConfigurationError("name: pass a name for the key, like 'openai' or 'anthropic'")


def _write_names(all_names: set[str]) -> None:
    text = msgspec.json.encode(sorted(all_names)).decode()
    _with_timeout(lambda ring: ring.set_password(_SERVICE, _INDEX, text))


def _with_timeout(act: Callable[[Any], T]) -> T:
    """Call `act` with the keyring, in a daemon thread that is abandoned if it does not return."""
    try:
        library = _library()
    except Exception as exc:
        raise _explained(exc) from None
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(act(library))
        except BaseException as exc:  # the caller gets an error of the library's own, see below
            failure.append(exc)

    spawn(run, "keyring").join(_TIMEOUT)
    if outcome:
        return outcome[0]
    raise _explained(failure[0] if failure else None) from None


def _library() -> Any:
    """The keyring library, with what its backend for Linux imports: `cryptography`, written in
    Rust. If a program ends while a daemon thread imports that, the process aborts ("FATAL:
    exception not rethrown": up to 3.13 CPython unwinds the thread's stack, and Rust's frames do not
    let it). So the caller's thread imports it."""
    import keyring

    with contextlib.suppress(Exception):  # a backend that cannot be imported is none
        import keyring.backends.SecretService
    return keyring


def _explained(exc: BaseException | None) -> ConfigurationError:
    # By name, because the classes are in a package that may not be installed. Their messages are
    # not repeated, because a backend may put anything into them.
    kind = type(exc).__name__
    if exc is None:
        return ConfigurationError(
            f"the keyring did not answer within {_TIMEOUT:g} s: unlock it, or set the key in the "
            "environment"
        )
    if isinstance(exc, ImportError):
        return ConfigurationError(_NO_LIBRARY)
    if kind in ("NoKeyringError", "InitError"):
        return ConfigurationError(_NO_BACKEND)
    return ConfigurationError(
        f"the keyring refused ({kind}): unlock it, or set the key in the environment"
    )
