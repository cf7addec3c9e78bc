"""Checks the arguments of a client and of a call. Each function returns the value that is used, or
raises ConfigurationError, whose message says what to pass instead. No message repeats a key, a
header's value or a prompt."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from .._core.checks import MANY, checked_json, checked_range, has_method, is_whole, shown
from .._core.dialects import APIS, Api
from .._core.recovery import POLICIES
from ..errors import ConfigurationError
from .key_source import KeySource, fault_of
from .secret import Secret

__all__ = [
    "checked_address",
    "checked_api",
    "checked_count",
    "checked_double",
    "checked_flag",
    "checked_headers",
    "checked_key",
    "checked_name",
    "checked_number",
    "checked_object",
    "checked_path",
    "checked_policy",
    "checked_prompt",
    "checked_stop",
    "checked_text",
    "checked_think_tags",
    "checked_thinking",
    "checked_tool_choice",
    "checked_tools",
    "checked_trace_id",
    "of_type",
]

T = TypeVar("T")

_LONGEST_PATH = 32_767  # characters; Windows has the longest ones
_LONGEST_NAME = 512  # characters of a model's or a profile's name
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110, 5.6.2
# Visible characters, spaces and tabs inside, and what was once ISO-8859-1 (RFC 9110, 5.5).
_HEADER_VALUE = re.compile(r"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
_FRAMING = frozenset({"content-length", "transfer-encoding"})


def checked_api(api: Any, source: str = "api") -> Api:
    found = APIS.get(api) if isinstance(api, str) else None
    if found is None:
        # A key in the place of the API is a common mistake, and is not shown.
        what = shown(api) if not isinstance(api, str) or api.isalpha() else "this"
        raise ConfigurationError(f"{source}={what} is not known: use one of {list(APIS)}")
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
    if fault_of(api_key):
        raise ConfigurationError("api_key has white space or characters that no header can contain")
    return Secret(api_key)


def checked_policy(name: Any) -> str:
    if not isinstance(name, str) or name not in POLICIES:
        raise ConfigurationError(
            f"on_disconnect={shown(name)} is not known: use one of {[*POLICIES]}"
        )
    return name


def of_type(kind: type[T], name: str, value: Any) -> T | None:
    if value is not None and not isinstance(value, kind):
        raise ConfigurationError(f"{name}={shown(value)}: pass a {kind.__name__}")
    return value


def checked_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name}={shown(value)}: pass True or False")
    return value


def checked_name(name: str, value: Any) -> str | None:
    """A name that is sent, and written to logs: of a model or a profile. "" counts as None."""
    if value is None or (isinstance(value, str) and not value):
        return None
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not value.isprintable():
        raise ConfigurationError(
            f"{name}={shown(value)}: pass a string of at most {_LONGEST_NAME} printable characters"
        )
    return value


def checked_path(name: str, value: Any) -> str | os.PathLike[str]:
    try:
        path = os.fspath(value)
        os.fsencode(path)
    except Exception:  # an object's __fspath__ may raise anything
        path = None
    if not isinstance(path, str) or not 0 < len(path) <= _LONGEST_PATH or "\0" in path:
        raise ConfigurationError(f"{name}={shown(value)}: pass the path of a file")
    found: str | os.PathLike[str] = value
    return found


def checked_double(name: str, value: Any, *methods: str) -> Any:
    """A double of the transport or the clock, or None."""
    if value is not None:
        for method in methods:
            if not has_method(value, method):
                raise ConfigurationError(
                    f"{name}={shown(value)}: pass an object with the method {method}(), such as "
                    "those of llmstream.testing"
                )
    return value


def checked_headers(headers: Any) -> dict[str, str]:
    """The headers with lower-case names."""
    checked = {}
    if headers is not None and not isinstance(headers, Mapping):
        raise ConfigurationError("headers: pass a dict of names and values")
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigurationError(f"headers: name and value of {shown(name)} have to be strings")
        if not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError(
                "headers: a name has other characters than letters, digits and - _ . ! # $ % & ' * "
                "+ ^ ` | ~"
            )
        if not _HEADER_VALUE.fullmatch(value):
            raise ConfigurationError(
                f"headers: the value of {name[:80]!r} has a line end, a control character, a "
                "character that is not in ISO-8859-1, or white space around it"
            )
        if name.lower() in _FRAMING:
            raise ConfigurationError(f"headers: leave {name!r} out, the body decides it")
        checked[name.lower()] = value
    return checked


def checked_prompt(prompt: Any) -> str | list[Any]:
    if isinstance(prompt, str) and prompt:
        checked_json("prompt", prompt)
        return prompt
    if isinstance(prompt, (list, tuple)) and prompt:
        for index, part in enumerate(prompt):
            if not isinstance(part, Mapping):
                raise ConfigurationError("prompt: each entry of the list has to be a dict")
            if not isinstance(part.get("role", ""), str):
                raise ConfigurationError(f"prompt[{index}]['role'] has to be a string")
        checked_json("prompt", prompt)
        return list(prompt)
    raise ConfigurationError(
        "prompt: pass a string that is not empty, or a list of {'role': ..., 'content': ...}"
    )


def checked_text(name: str, value: Any) -> str | None:
    if value is not None:
        if not isinstance(value, str):
            raise ConfigurationError(f"{name}: pass a string, not {shown(value)}")
        checked_json(name, value)
    text: str | None = value
    return text


def checked_stop(stop: Any) -> str | list[str] | None:
    if stop is None or isinstance(stop, str):
        return checked_text("stop", stop)
    if not isinstance(stop, (list, tuple)) or not all(isinstance(word, str) for word in stop):
        raise ConfigurationError("stop: pass a string or a list of strings")
    checked_json("stop", stop)
    return list(stop)


def checked_tools(tools: Any) -> list[Any] | None:
    if tools is None:
        return None
    if not isinstance(tools, (list, tuple)) or not all(isinstance(t, Mapping) for t in tools):
        raise ConfigurationError("tools: pass a list of functions, tools and dicts")
    checked_json("tools", tools)
    return list(tools)


def checked_tool_choice(choice: Any) -> Any:
    if choice is None:
        return None
    if not isinstance(choice, (str, Mapping)):
        raise ConfigurationError(
            f"tool_choice={shown(choice)}: pass a word such as 'auto', or a dict that names a tool"
        )
    checked_json("tool_choice", choice)
    return choice if isinstance(choice, str) else dict(choice)


def checked_thinking(thinking: Any) -> Any:
    if thinking is None or isinstance(thinking, bool):
        return thinking
    if not isinstance(thinking, (str, Mapping)) and not is_whole(thinking, 0, MANY):
        raise ConfigurationError(
            f"thinking={shown(thinking)}: pass True, an effort such as 'low', a budget in tokens, "
            "or a dict"
        )
    checked_json("thinking", thinking)
    return dict(thinking) if isinstance(thinking, Mapping) else thinking


def checked_think_tags(tags: Any) -> bool | str | None:
    if tags is None or isinstance(tags, bool) or (isinstance(tags, str) and tags == "open"):
        found: bool | str | None = tags
        return found
    raise ConfigurationError(
        f"think_tags={shown(tags)}: pass True, False, or 'open' where the model's template has the "
        "first tag in the prompt"
    )


def checked_object(name: str, value: Any) -> Mapping[str, Any] | None:
    """A JSON object, or None."""
    if value is not None:
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"{name}: pass a dict, not {shown(value)}")
        checked_json(name, value)
    found: Mapping[str, Any] | None = value
    return found


def checked_count(name: str, value: Any, most: int = MANY) -> int:
    if not is_whole(value, 1, most):
        raise ConfigurationError(
            f"{name}={shown(value)}: pass a whole number greater than 0 and at most {most:,}"
        )
    count: int = value
    return count


def checked_number(name: str, value: Any, most: float) -> float | None:
    return None if value is None else checked_range(name, value, 0, most)


def checked_trace_id(trace_id: Any) -> str | None:
    # A trace id is sent in a header.
    if trace_id is None:
        return None
    if isinstance(trace_id, str) and trace_id.isascii() and trace_id.isprintable():
        stripped: str = trace_id.strip()
        if 0 < len(stripped) <= 512:
            return stripped
    raise ConfigurationError("trace_id: pass 1 to 512 printable ASCII characters")
