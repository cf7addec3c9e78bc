"""The service that a profile names: its address, and its key from the vendor's own variable or the
keyring. Relies on the rows of `_core.dialects.vendors`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .._core.checks import shown
from .._core.dialects import APIS
from .._core.dialects.profiles import DEFAULT, PROFILES, is_at, profile_for
from .._core.dialects.vendors import VENDORS, Vendor
from ..errors import ConfigurationError
from .environment import (
    ServiceSettings,
    address_in,
    api_in,
    key_in,
    keyring_key,
    own_key,
    vendor_settings,
)
from .key_source import KeySource
from .secret import Secret

__all__ = ["is_named", "named_api", "named_key", "named_service", "variable_in_use"]

# The variables whose tokens are sent as `Authorization: Bearer`, whatever the API's header.
_BEARER = {row.bearer_variable for row in APIS.values()}

_Key = Secret | KeySource | None


def named_service(
    profile: str,
    api: str,
    base_url: str | None,
    api_key: _Key,
    environ: Mapping[str, str] | None = None,
) -> ServiceSettings | None:
    """The service that a client with this profile talks to. None where the profile does not say so:
    it belongs to no vendor, or to the one whose variables are those of the API anyway.

    The vendor's key is sent to the vendor's own hosts only, over TLS. Raises ConfigurationError,
    which says what to set, where the address or the key is missing.
    """
    environ = os.environ if environ is None else environ
    vendor = VENDORS.get(profile)
    if vendor is None:
        return None
    if base_url is not None:
        own = api_key is None and _is_own(vendor, base_url, environ)
        return ServiceSettings(api, base_url, _key(vendor, environ) if own else api_key)
    found = vendor_settings(api, environ)
    if _is_of_api(vendor, api):
        if api_key is None and found is None and _key(vendor, environ) is None:
            raise _no_key(vendor)
        return None
    if found is not None and found.base_url and _is_meant(vendor, found.base_url):
        key = api_key or found.api_key or _key(vendor, environ)
        return ServiceSettings(api, found.base_url, key)
    address = _address(vendor, api, environ)
    key = api_key or _key(vendor, environ)
    if key is None and not vendor.key_optional:
        raise _no_key(vendor)
    return ServiceSettings(api, address, key)


def named_api(profile: Any, api: str | None) -> str | None:
    """The API of a client whose profile is named: `api`, else LLMSTREAM_API, else the vendor's
    first, unless LLMSTREAM_BASE_URL has the address. Raises ConfigurationError for an unknown
    profile."""
    vendor = VENDORS.get(profile_for(profile, "").name)
    if vendor is None or os.environ.get("LLMSTREAM_BASE_URL"):
        return api
    return api or api_in(os.environ) or vendor.apis[0]


def is_named(profile: str, api: str) -> bool:
    """Whether the profile names the service, so that the variables of other vendors, and those that
    name a service of any vendor, do not."""
    vendor = VENDORS.get(profile)
    if vendor is None or os.environ.get("LLMSTREAM_BASE_URL"):
        return False
    return not _is_of_api(vendor, api) or own_key() is None


def named_key(profile: str) -> Secret | None:
    """LLMSTREAM_API_KEY, for a vendor that has no key of its own; else None."""
    vendor = VENDORS[profile]
    return own_key() if _key(vendor, os.environ) is None else None


def variable_in_use(vendor: Vendor, environ: Mapping[str, str] | None = None) -> str | None:
    """The variable that the vendor's key is taken from, or None."""
    environ = os.environ if environ is None else environ
    return next((name for name in vendor.key_variables if environ.get(name)), None)


def _no_key(vendor: Vendor) -> ConfigurationError:
    return ConfigurationError(
        f"no API key for profile={vendor.name!r}: set {' or '.join(vendor.key_variables)}, or "
        f"store one with `llmstream keys set {vendor.name}`, or pass api_key= to Client"
    )


def _is_of_api(vendor: Vendor, api: str) -> bool:
    """Whether the vendor's own variables are those of the API."""
    return APIS[api].key_variable in vendor.key_variables


def _is_own(vendor: Vendor, base_url: str, environ: Mapping[str, str]) -> bool:
    """Whether the vendor's key may be sent to this address. Where the vendor's variable names this
    customer's own resource, the key is meant for that one."""
    place = urlsplit(base_url)[:2]
    named = vendor.url_variable and address_in(vendor.url_variable, environ)
    if named:
        return urlsplit(named)[:2] == place
    if any(urlsplit(address)[:2] == place for address in vendor.addresses.values()):
        return True
    host = urlsplit(base_url).hostname or ""
    return place[0] == "https" and is_at(PROFILES[vendor.name], host)


def _is_meant(vendor: Vendor, base_url: str) -> bool:
    """Whether the API's own variable (OPENAI_BASE_URL) has an address of this vendor: one of its
    hosts; for a server of one's own, any that is no other vendor's."""
    profile = profile_for(None, base_url)
    return profile == DEFAULT if vendor.key_optional else profile.name == vendor.name


def _address(vendor: Vendor, api: str, environ: Mapping[str, str]) -> str:
    if api not in vendor.apis:
        raise ConfigurationError(
            f"profile={shown(vendor.name)} has no known address for the API {api!r}: use one of "
            f"{list(vendor.apis)}, or pass base_url="
        )
    own = vendor.url_variable and address_in(vendor.url_variable, environ)
    address = own or vendor.addresses.get(api)
    if address is None:
        variable = f"set {vendor.url_variable}, or " if vendor.url_variable else ""
        raise ConfigurationError(
            f"profile={shown(vendor.name)}: every customer has an address of their own: {variable}"
            "pass base_url="
        )
    return address


def _key(vendor: Vendor, environ: Mapping[str, str]) -> Secret | None:
    variable = variable_in_use(vendor, environ)
    if variable is not None:
        return key_in(variable, environ, bearer=variable in _BEARER)
    return _from_keyring(vendor)


def _from_keyring(vendor: Vendor) -> Secret | None:
    # A server that never takes a key needs no keyring, which may ask for its password.
    return keyring_key(vendor.name) if vendor.key_variables else None
