"""Where the service and its key come from if the caller passes none: the environment, then the
operating system's keyring. Relies on the rows of `_core.dialects.APIS` for the variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from .._core.asked import bare_url
from .._core.credentials import without_credentials
from .._core.dialects import APIS, DEFAULT_API, Api
from ..errors import ConfigurationError
from .arguments import checked_address, checked_api
from .key_source import KeySource, fault_of
from .secret import Secret

__all__ = [
    "WAYS_OUT",
    "ServiceSettings",
    "address_in",
    "api_in",
    "find_in_environment",
    "for_address",
    "from_environment",
    "key_in",
    "keyring_key",
    "keyring_settings",
    "own_address",
    "own_key",
    "vendor_settings",
]

_found: dict[str, Secret] = {}  # the keys that the keyring has returned, by name

WAYS_OUT = (
    "set OPENAI_API_KEY, ANTHROPIC_API_KEY (or ANTHROPIC_AUTH_TOKEN, sent as a Bearer token) or "
    "GOOGLE_API_KEY (or GEMINI_API_KEY), or LLMSTREAM_BASE_URL for another server (with "
    "LLMSTREAM_API_KEY if it wants one), or store a key with `llmstream keys set openai`, or pass "
    "api_key= or base_url=; Client.local() and `llmstream --local` need none of it"
)


class ServiceSettings(Struct, frozen=True):
    """A service: its API, its address (None: the API's default) and its key (None: no key)."""

    api: str
    base_url: str | None = None
    api_key: Secret | KeySource | None = None

    def __repr__(self) -> str:
        return f"ServiceSettings({', '.join(f'{n}={v!r}' for n, v in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        address = self.base_url and bare_url(self.base_url)
        return [("api", self.api), ("base_url", address), ("api_key", self.api_key)]


def vendor_settings(api: str, environ: Mapping[str, str] | None = None) -> ServiceSettings | None:
    """The service that the vendor's own variables name for this API, or None if they are not
    set. Raises ConfigurationError for an address that cannot be one."""
    environ = os.environ if environ is None else environ
    row = APIS.get(api)
    if row is None:
        return None
    key, url = _vendor_key(row, environ), address_in(row.url_variable, environ)
    return ServiceSettings(api, url, key) if key or url else None


def _vendor_key(row: Api, environ: Mapping[str, str]) -> Secret | None:
    return (
        key_in(row.key_variable, environ)
        or key_in(row.other_key_variable, environ)
        or key_in(row.bearer_variable, environ, bearer=True)
    )


def key_in(
    variable: str | None, environ: Mapping[str, str], *, bearer: bool = False
) -> Secret | None:
    """The key in a variable, or None. Raises ConfigurationError, which names the variable."""
    value = environ.get(variable) if variable else None
    if value and fault_of(value):
        raise ConfigurationError(
            f"{variable} has white space or characters that no header can contain: set it to the "
            "key alone"
        )
    return Secret(value, bearer=bearer) if value else None


def keyring_settings(api: str) -> ServiceSettings | None:
    """The service with the key that the operating system's keyring has for this API, or None.

    A key that was found is remembered, because reading a keyring takes milliseconds. Raises
    ConfigurationError if there is a keyring but it does not answer.
    """
    row = APIS.get(api)
    key = keyring_key(row.keyring) if row is not None else None
    return None if key is None else ServiceSettings(api, None, key)


def keyring_key(name: str) -> Secret | None:
    """The key that the keyring has under this name, or None: see `keyring_settings`."""
    if name not in _found:
        from . import keyring

        secret = keyring.find(name)
        if secret is None:
            return None
        _found[name] = secret
    return _found[name]


def own_key(environ: Mapping[str, str] | None = None) -> Secret | None:
    """LLMSTREAM_API_KEY, or None."""
    return key_in("LLMSTREAM_API_KEY", os.environ if environ is None else environ)


def own_address(base_url: str, environ: Mapping[str, str] | None = None) -> str | None:
    """LLMSTREAM_BASE_URL, with the key or password in it, where it names the same address as
    `base_url`, which has neither; else None."""
    found = address_in("LLMSTREAM_BASE_URL", os.environ if environ is None else environ)
    if found is None or found == base_url or without_credentials(found) != base_url:
        return None
    return found


def api_in(environ: Mapping[str, str]) -> str | None:
    """LLMSTREAM_API, or None. Raises ConfigurationError, which names the variable."""
    api = environ.get("LLMSTREAM_API") or None
    if api is not None:
        checked_api(api, "LLMSTREAM_API")
    return api


def address_in(variable: str, environ: Mapping[str, str]) -> str | None:
    """The base URL in a variable, or None. Raises ConfigurationError, which names the variable."""
    return checked_address(environ.get(variable) or None, variable)


def for_address(base_url: str, environ: Mapping[str, str] | None = None) -> ServiceSettings:
    """The service at an address that the caller gives, with LLMSTREAM_API and LLMSTREAM_API_KEY. A
    vendor's key is never sent there, nor one that LLMSTREAM_BASE_URL shows to be meant for another
    server."""
    environ = os.environ if environ is None else environ
    named = address_in("LLMSTREAM_BASE_URL", environ)
    meant = not named or urlsplit(named)[:2] == urlsplit(base_url)[:2]
    api = api_in(environ) or DEFAULT_API
    return ServiceSettings(api, base_url, own_key(environ) if meant else None)


def from_environment(environ: Mapping[str, str] | None = None) -> ServiceSettings:
    """The service that the environment names. The first of these counts: LLMSTREAM_API,
    LLMSTREAM_BASE_URL and LLMSTREAM_API_KEY; OPENAI_API_KEY and OPENAI_BASE_URL (Responses);
    ANTHROPIC_API_KEY (or ANTHROPIC_AUTH_TOKEN, which is sent as a Bearer token) and
    ANTHROPIC_BASE_URL (Messages); GOOGLE_API_KEY (or GEMINI_API_KEY) and GOOGLE_GEMINI_BASE_URL
    (Gemini); a key on the operating system's keyring.

    A vendor's key is never sent to a server that LLMSTREAM_BASE_URL names. Raises
    ConfigurationError, which lists the ways out, if there is none of them, and for an address that
    cannot be one.
    """
    found = find_in_environment(environ)
    if found is None:
        raise ConfigurationError(f"no service is configured: {WAYS_OUT}")
    return found


def find_in_environment(environ: Mapping[str, str] | None = None) -> ServiceSettings | None:
    """Like `from_environment`, but None if nothing names a service."""
    environ = os.environ if environ is None else environ
    api, api_key = api_in(environ), own_key(environ)
    base_url = address_in("LLMSTREAM_BASE_URL", environ)
    if base_url or api_key:
        return ServiceSettings(api or DEFAULT_API, base_url, api_key)
    candidates = [api] if api else list(APIS)
    for candidate in candidates:
        settings = vendor_settings(candidate, environ)
        if settings is not None:
            return settings
    for candidate in candidates:
        settings = keyring_settings(candidate)
        if settings is not None:
            return settings
    return None
