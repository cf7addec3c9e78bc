"""Where a request holds secrets: in its address, its headers and the fields of its JSON. Pure;
imports nothing of the package.

A name decides: services take a key in many headers and fields, and all of them say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

__all__ = [
    "credentials_in",
    "credentials_of_address",
    "is_credential",
    "without_credentials",
]

_NAMES = (
    r"(?i)(?:key|token|secret|passw(?:or)?d|passphrase|pwd|credentials?|authori[sz]ation|cookies?"
    r"|signature|bearer|jwt)$"
    r"|(?:^|[-_.])(?:auth|sig|pass|session|sas)(?:$|[-_.])|api[-_]?key"
)
# Names that end like one, and are identifiers.
_NO_CREDENTIALS = frozenset({"idempotency-key", "prompt_cache_key", "promptcachekey"})
_SCHEMES = r"(?i)(?:bearer|basic|digest|token|apikey) \S"
# The fields of an address's query that errors may name.
_OPEN_FIELDS = frozenset({"api-version", "api_version", "version", "alt"})
_SHORTEST = 8  # characters of what may be an ordinary word


def is_credential(name: str, value: str = "") -> bool:
    """Whether a header or field of this name authenticates, or one with a value like "Bearer ..."
    does."""
    if name.lower() in _NO_CREDENTIALS:
        return False
    return re.search(_NAMES, name) is not None or re.match(_SCHEMES, value) is not None


def credentials_in(value: Any) -> Iterator[str]:
    """The credentials in headers, or in JSON: in a tool's `authorization`, say. A scheme such as
    "Bearer" is not part of them."""
    left = [value]
    while left:  # not by recursion: a request may be nested deeply
        inner = left.pop()
        if isinstance(inner, Mapping):
            for name, held in inner.items():
                if not isinstance(held, str):
                    left.append(held)
                elif isinstance(name, str) and is_credential(name, held):
                    scheme = re.match(_SCHEMES, held)
                    yield held.partition(" ")[2].strip() if scheme else held
        elif isinstance(inner, (list, tuple)):
            left += inner


def credentials_of_address(url: str) -> Iterator[str]:
    """What may be secret in an address, as written and decoded: user, password, what is sent of
    both as `Authorization: Basic`, and the values of its query. Where they are shorter than eight
    characters, only what is certainly secret."""
    try:
        address = urlsplit(url)
        user, password = address.username or "", address.password or ""
    except ValueError:
        return
    found = [(user, False), (password, True)]
    for field in address.query.split("&"):
        name, _, value = field.partition("=")
        if name.lower() not in _OPEN_FIELDS:
            found.append((value or name, is_credential(name)))
    for value, certain in found:
        for written in {value, unquote(value)}:
            if len(written) >= _SHORTEST or (certain and written):
                yield written
    if password:
        pair = f"{unquote(user)}:{unquote(password)}"
        yield str(msgspec.to_builtins(pair.encode("utf-8", "replace")))  # in base64


def without_credentials(url: str) -> str:
    """The address without user, password and the values of its query that may be secret."""
    address = urlsplit(url)
    query = "&".join(
        part for part in address.query.split("&") if part.partition("=")[0].lower() in _OPEN_FIELDS
    )
    place = address.netloc.rpartition("@")[2]
    return address._replace(netloc=place, query=query, fragment="").geturl()
