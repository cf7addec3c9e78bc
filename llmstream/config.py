"""Where a client's settings come from when the caller does not give them: the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from msgspec import Struct

from .errors import ConfigurationError

__all__ = ["Settings", "from_environment", "vendor_settings"]

# API -> the vendor's own variables
_VENDORS: dict[str, tuple[str, str]] = {
    "responses": ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "messages": ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
    "chat": ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
}

WAYS_OUT = (
    "set OPENAI_API_KEY, or LLMSTREAM_BASE_URL for another server (with LLMSTREAM_API_KEY if it "
    "wants one), or pass api_key= or base_url=; Client.local() and `llmstream --local` need neither"
)


class Settings(Struct, frozen=True):
    """What the environment says. None: nothing."""

    api: str
    base_url: str | None = None
    api_key: str | None = None

    def __repr__(self) -> str:
        key = "None" if self.api_key is None else "***"
        return f"Settings(api={self.api!r}, base_url={self.base_url!r}, api_key={key})"


def vendor_settings(api: str, environ: Mapping[str, str] | None = None) -> Settings | None:
    """What the vendor's own variables say for this API, or None where they are not set."""
    environ = os.environ if environ is None else environ
    key_name, url_name = _VENDORS.get(api, ("", ""))
    key, url = environ.get(key_name) or None, environ.get(url_name) or None
    return Settings(api, url, key) if key or url else None


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """The first of: LLMSTREAM_API, LLMSTREAM_BASE_URL, LLMSTREAM_API_KEY; OPENAI_API_KEY and
    OPENAI_BASE_URL (Responses); ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL (Messages).

    A vendor's key is never taken for a server that LLMSTREAM_BASE_URL names. Raises
    ConfigurationError with the ways out where there is nothing.
    """
    environ = os.environ if environ is None else environ
    own = [environ.get(f"LLMSTREAM_{name}") or None for name in ("API", "BASE_URL", "API_KEY")]
    api, base_url, api_key = own
    if base_url or api_key:
        return Settings(api or "responses", base_url, api_key)
    for candidate in [api] if api else ["responses", "messages"]:
        settings = vendor_settings(candidate, environ)
        if settings is not None:
            return settings
    raise ConfigurationError(f"no service is configured: {WAYS_OUT}")
