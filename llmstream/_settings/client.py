"""The settings of a client as one value: to make another client like it, also in another process.

Relies on `arguments` to check them, and on `environment` for the service where they name none.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import Struct

from .._core.asked import bare_url
from .._core.checks import CENTURY
from .._core.credentials import is_credential, without_credentials
from .._core.dialects import DEFAULT_API
from .._core.dialects.profiles import profile_for
from .._core.retry import RetryPolicy
from .._core.session import MAX_EVENT_BYTES
from .._core.timers import Timeouts
from .._transport.proxy import Proxies, checked_proxies
from .._transport.tls import Certificate, Verify, checked_cert, checked_verify
from ..errors import ConfigurationError
from .arguments import (
    checked_address,
    checked_api,
    checked_count,
    checked_flag,
    checked_headers,
    checked_key,
    checked_name,
    checked_number,
    checked_policy,
    checked_think_tags,
    of_type,
)
from .environment import (
    WAYS_OUT,
    ServiceSettings,
    keyring_settings,
    own_address,
    own_key,
    vendor_settings,
)
from .key_source import KeySource
from .secret import Secret

__all__ = ["ClientSettings"]


# The greatest settings. More connections than a machine has ports, or larger events than a memory,
# are a mistake in the unit.
MOST_CONNECTIONS = 65_535
MOST_EVENT_BYTES = 2**40


class ClientSettings(Struct, frozen=True, kw_only=True):
    """The arguments of a client, checked. Immutable. `Client.from_settings` makes another client
    with them.

    The fields are the arguments of `Client` as they were passed. Where `base_url` and `api_key` are
    None, each process that uses the settings reads them from its own environment.

    Pickling leaves out the key, the headers that authenticate, users and passwords of proxies and
    of `base_url`, and what its query may have of a key. The process that unpickles the settings
    then needs a key of its own (`LLMSTREAM_API_KEY`, or `LLMSTREAM_BASE_URL` with the whole
    address, or, without a `base_url`, the vendor's variable). The settings that `with_key()`
    returns are pickled with all of it. `key_left_behind` is true if a key was left out,
    `key_travels` if it is pickled.
    Settings whose `verify` is an SSLContext cannot be pickled: that raises ConfigurationError.
    """

    api: str = DEFAULT_API
    base_url: str | None = None
    api_key: Secret | KeySource | None = None
    model: str | None = None
    timeouts: Timeouts = Timeouts()
    retry: RetryPolicy = RetryPolicy()
    on_disconnect: str = "raise"
    profile: str | None = None
    think_tags: bool | str | None = None
    headers: Mapping[str, str] = {}
    max_connections: int = 100
    idle_connection_timeout: float | None = 60.0
    max_cost: Decimal | float | str | None = None
    verify: Verify = True
    cert: Certificate | None = None
    proxies: Proxies | None = None
    trust_env: bool = True
    max_event_bytes: int = MAX_EVENT_BYTES
    max_identical_chunks: int | None = None
    key_left_behind: bool = False
    key_travels: bool = False

    @classmethod
    def checked(cls, **given: Any) -> ClientSettings:
        """Settings from the arguments of `Client`. Raises ConfigurationError for values that cannot
        work."""
        checked_api(given["api"])
        if given["profile"] is not None:
            profile_for(given["profile"], "")
        repeats = given["max_identical_chunks"]
        verify = checked_verify(given["verify"])
        return cls(
            **{
                **given,
                "base_url": checked_address(given["base_url"]),
                "api_key": checked_key(given["api_key"]),
                "timeouts": of_type(Timeouts, "timeouts", given["timeouts"]) or Timeouts(),
                "retry": of_type(RetryPolicy, "retry", given["retry"]) or RetryPolicy(),
                "on_disconnect": checked_policy(given["on_disconnect"]),
                "think_tags": checked_think_tags(given["think_tags"]),
                "headers": checked_headers(given["headers"]),
                "idle_connection_timeout": checked_number(
                    "idle_connection_timeout", given["idle_connection_timeout"], CENTURY
                ),
                "verify": verify,
                "cert": checked_cert(given["cert"], verify),
                "proxies": checked_proxies(given["proxies"]),
                "model": checked_name("model", given["model"]),
                "trust_env": checked_flag("trust_env", given["trust_env"]),
                "max_connections": checked_count(
                    "max_connections", given["max_connections"], MOST_CONNECTIONS
                ),
                "max_event_bytes": checked_count(
                    "max_event_bytes", given["max_event_bytes"], MOST_EVENT_BYTES
                ),
                "max_identical_chunks": repeats
                if repeats is None
                else checked_count("max_identical_chunks", repeats),
            }
        )

    def arguments(self) -> dict[str, Any]:
        """The arguments of `Client` that make a client with these settings. Raises
        ConfigurationError if the settings were pickled without a key and the environment has
        none."""
        given = {name: getattr(self, name) for name in self.__struct_fields__}
        del given["key_travels"]
        if given.pop("key_left_behind"):
            given["api_key"] = own_key() or given["api_key"]
            whole = self.base_url and own_address(self.base_url)
            given["base_url"] = whole or self.base_url
            if given["api_key"] is None and self.base_url is not None and not whole:
                raise ConfigurationError(
                    "these settings were pickled without their key: set LLMSTREAM_API_KEY where "
                    "they are used (or LLMSTREAM_BASE_URL, where the key is in the address), or "
                    "pickle client.settings.with_key()"
                )
        return given

    def service(self) -> ServiceSettings:
        """The service of these settings: as passed, else that which the profile names, else from
        the environment, else from the keyring. Raises ConfigurationError, which lists the ways out,
        if there is no key."""
        if self.profile is not None:
            from .vendors import named_service

            named = named_service(self.profile, self.api, self.base_url, self.api_key)
            if named is not None:
                return named
        if self.base_url is not None:
            return ServiceSettings(self.api, self.base_url, self.api_key)
        found = vendor_settings(self.api)
        if self.api_key is not None:
            return ServiceSettings(self.api, found.base_url if found else None, self.api_key)
        found = found or keyring_settings(self.api)
        if found is None:
            raise ConfigurationError(f"no API key: {WAYS_OUT}")
        return found

    def with_key(self) -> ClientSettings:
        """The same settings, but they are pickled with the key and the headers that authenticate.
        Send them only to places where a key may be stored."""
        return msgspec.structs.replace(self, key_travels=True)

    def __repr__(self) -> str:
        return f"ClientSettings({', '.join(f'{n}={v!r}' for n, v in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        hidden = {
            "base_url": self.base_url and bare_url(self.base_url),
            "headers": dict.fromkeys(self.headers, "***"),
        }
        return [(name, hidden.get(name, getattr(self, name))) for name in self.__struct_fields__]

    def __reduce__(self) -> tuple[Any, ...]:
        if not isinstance(self.verify, (bool, str)):
            raise ConfigurationError(
                "settings with an SSLContext cannot be pickled: pass verify= the path of a CA file "
                "(and cert= that of a certificate), or make the client in the other process"
            )
        state = {name: getattr(self, name) for name in self.__struct_fields__}
        key = state.pop("api_key")
        if self.key_travels:
            if isinstance(key, KeySource):
                return _with_key, (state, key.ask)
            return _with_key, (state, key and key.reveal(), key is not None and key.bearer)
        headers = {n: v for n, v in self.headers.items() if not is_credential(n, v)}
        left = key is not None or len(headers) < len(self.headers) or self.key_left_behind
        if self.base_url is not None:
            state["base_url"] = without_credentials(self.base_url)
            left = left or state["base_url"] != self.base_url
        if self.proxies is not None:
            state["proxies"] = self.proxies.without_credentials()
        return _with_key, ({**state, "headers": headers, "key_left_behind": left}, None)


def _with_key(state: dict[str, Any], key: Any, bearer: bool = False) -> ClientSettings:
    """`key` is the key itself, or the function that returns it."""
    if key is None:
        return ClientSettings(**state)
    found = Secret(key, bearer=bearer) if isinstance(key, str) else KeySource(key)
    return ClientSettings(**state, api_key=found)
