"""Checks the arguments of a client and of a call. Each function returns the value that is used, or
raises ConfigurationError, whose message says what to pass instead. No message repeats a key, a
header's value or a prompt."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from .._core.dialects import APIS, Api
from .._core.recovery import POLICIES
from ..errors import ConfigurationError
from .key_source import KeySource
from .secret import Secret

__all__ = [
    "checked_address",
    "checked_api",
    "checked_count",
    "checked_headers",
    "checked_key",
    "checked_number",
    "checked_policy",
    "checked_prompt",
    "checked_trace_id",
    "of_type",
]

T = TypeVar("T")


def checked_api(api: Any) -> Api:
    found = APIS.get(api) if isinstance(api, str) else None
    if found is None:
        raise ConfigurationError(f"api={api!r} is not known: use one of {list(APIS)}")
    return found


def checked_address(base_url: Any, source: str = "base_url") -> str | None:
    """`source` is what the address comes from: the argument, or a variable of the environment."""
    if base_url is not None and not _is_address(base_url):
        raise ConfigurationError(
            f"{source}: pass an address like 'https://api.openai.com/v1', with its scheme and "
            "without white space"
        )
    address: str | None = base_url
    return address


def _is_address(base_url: Any) -> bool:
    if not isinstance(base_url, str) or not base_url.startswith(("http://", "https://")):
        return False
    # urlsplit removes line ends and tabs, and takes white space and control characters in a host.
    if any(c.isspace() or not c.isprintable() for c in base_url):
        return False
    try:
        parts = urlsplit(base_url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def checked_key(api_key: Any) -> Secret | KeySource | None:
    if api_key is None or isinstance(api_key, (Secret, KeySource)):
        return api_key
    if inspect.iscoroutinefunction(api_key):
        raise ConfigurationError("api_key is an async function: pass one that returns the key")
    if callable(api_key):
        return KeySource(api_key)
    if not isinstance(api_key, str) or not api_key or api_key != api_key.strip():
        raise ConfigurationError("api_key is not a string, is empty, or has white space around it")
    return Secret(api_key)


def checked_policy(name: Any) -> str:
    if not isinstance(name, str) or name not in POLICIES:
        raise ConfigurationError(f"on_disconnect={name!r} is not known: use one of {[*POLICIES]}")
    return name


def of_type(kind: type[T], name: str, value: Any) -> T | None:
    if value is not None and not isinstance(value, kind):
        raise ConfigurationError(f"{name}={value!r}: pass a {kind.__name__}")
    return value


def checked_headers(headers: Any) -> dict[str, str]:
    """The headers with lower-case names."""
    checked = {}
    if headers is not None and not isinstance(headers, Mapping):
        raise ConfigurationError("headers: pass a dict of names and values")
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigurationError(f"headers: name and value of {name!r} have to be strings")
        checked[name.lower()] = value
    return checked


def checked_prompt(prompt: Any) -> str | list[Any]:
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(prompt, (list, tuple)) and prompt:
        if all(isinstance(part, Mapping) for part in prompt):
            return list(prompt)
        raise ConfigurationError("prompt: each entry of the list has to be a dict")
    raise ConfigurationError(
        "prompt: pass a string that is not empty, or a list of {'role': ..., 'content': ...}"
    )


def checked_count(name: str, value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ConfigurationError(f"{name}={value!r}: pass a whole number greater than 0")


def checked_number(name: str, value: Any) -> float | None:
    # JSON has no NaN and no infinity: they would be sent as null.
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"{name}={value!r}: pass a finite number")
    number: float | None = value
    return number


def checked_trace_id(trace_id: Any) -> str | None:
    # A trace id is sent in a header.
    if trace_id is None:
        return None
    if isinstance(trace_id, str) and trace_id.isascii() and trace_id.isprintable():
        stripped: str = trace_id.strip()
        if 0 < len(stripped) <= 512:
            return stripped
    raise ConfigurationError("trace_id: pass 1 to 512 printable ASCII characters")
