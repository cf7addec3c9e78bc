"""Where a client's settings come from when the caller does not give them: the environment, then
the operating system's keyring."""

from __future__ import annotations

import os
from collections.abc import Mapping

from msgspec import Struct

from .errors import ConfigurationError
from .secret import Secret

__all__ = ["Settings", "from_environment", "keyring_settings", "vendor_settings"]

# API -> the vendor's own variables
_VENDORS: dict[str, tuple[str, str]] = {
    "responses": ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "messages": ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
    "chat": ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
}

# API -> the name of the key on the keyring
_KEYRING = {"responses": "openai", "messages": "anthropic", "chat": "openai"}
_found: dict[str, Secret] = {}

WAYS_OUT = (
    "set OPENAI_API_KEY or ANTHROPIC_API_KEY, or LLMSTREAM_BASE_URL for another server (with "
    "LLMSTREAM_API_KEY if it wants one), or store a key with `llmstream keys set openai`, or pass "
    "api_key= or base_url=; Client.local() and `llmstream --local` need none of it"
)


class Settings(Struct, frozen=True):
    """What the environment says. None: nothing."""

    api: str
    base_url: str | None = None
    api_key: Secret | None = None


def vendor_settings(api: str, environ: Mapping[str, str] | None = None) -> Settings | None:
    """What the vendor's own variables say for this API, or None where they are not set."""
    environ = os.environ if environ is None else environ
    key_name, url_name = _VENDORS.get(api, ("", ""))
    key, url = environ.get(key_name) or None, environ.get(url_name) or None
    return Settings(api, url, Secret(key) if key else None) if key or url else None


def keyring_settings(api: str) -> Settings | None:
    """What the operating system's keyring has for this API, or None.

    Remembered once found: a keyring takes milliseconds to ask. Raises ConfigurationError where it
    is there but does not answer.
    """
    name = _KEYRING.get(api, "")
    if name and name not in _found:
        from . import keys

        secret = keys.find(name)
        if secret is None:
            return None
        _found[name] = secret
    return Settings(api, None, _found[name]) if name else None


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """The first of: LLMSTREAM_API, LLMSTREAM_BASE_URL, LLMSTREAM_API_KEY; OPENAI_API_KEY and
    OPENAI_BASE_URL (Responses); ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL (Messages); a key on the
    operating system's keyring.

    A vendor's key is never taken for a server that LLMSTREAM_BASE_URL names. Raises
    ConfigurationError with the ways out where there is nothing.
    """
    environ = os.environ if environ is None else environ
    own = [environ.get(f"LLMSTREAM_{name}") or None for name in ("API", "BASE_URL", "API_KEY")]
    api, base_url, api_key = own
    if base_url or api_key:
        return Settings(api or "responses", base_url, Secret(api_key) if api_key else None)
    candidates = [api] if api else ["responses", "messages"]
    for candidate in candidates:
        settings = vendor_settings(candidate, environ)
        if settings is not None:
            return settings
    for candidate in candidates:
        settings = keyring_settings(candidate)
        if settings is not None:
            return settings
    raise ConfigurationError(f"no service is configured: {WAYS_OUT}")
