"""`llmstream profiles`: the services that are known by name."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from typing import Any

import msgspec

from .._core.asked import bare_url
from .._core.dialects.profiles import PROFILES
from .._core.dialects.vendors import VENDORS, Vendor
from .._settings import keyring
from .._settings.vendors import variable_in_use
from ..errors import ConfigurationError
from .command import Command, Parser
from .output import remark, write

__all__ = ["PROFILES_COMMAND"]

_HEAD = ("NAME", "KEY", "IS", "APIS", "ADDRESS")


def _add_arguments(parser: Parser) -> None:
    parser.description = (
        "List the services that --profile NAME and Client(profile=NAME) know: the variable of the "
        "key, whether a key is set (in the environment, or on the keyring by `llmstream keys set "
        "NAME`), the APIs, and the address of the first one. A key is never shown."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def _run(options: argparse.Namespace) -> int:
    stored = _stored()
    rows = [_described(name, VENDORS.get(name), stored) for name in sorted(PROFILES)]
    if options.json:
        write("".join(f"{msgspec.json.encode(row).decode()}\n" for row in rows))
    else:
        write(_table([_HEAD, *map(_cells, rows)]))
    return 0


def _stored() -> Collection[str]:
    """The names that have a key on the keyring."""
    try:
        return keyring.find_names()
    except ConfigurationError as error:  # the list is of use without it
        remark(f"llmstream: {error}")
        return ()


def _described(name: str, vendor: Vendor | None, stored: Collection[str]) -> dict[str, Any]:
    vendor = vendor or Vendor(name=name, apis=(), key_optional=True)
    variable = variable_in_use(vendor)
    key = variable or ("keyring" if name in stored and vendor.key_variables else None)
    own = os.environ.get(vendor.url_variable) if vendor.url_variable else None
    return {
        "name": name,
        "key_variables": vendor.key_variables,
        "key": key,
        "key_needed": not vendor.key_optional,
        "apis": vendor.apis,
        "addresses": dict.fromkeys(vendor.apis, bare_url(own)) if own else vendor.addresses,
        "address_variable": vendor.url_variable or None,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    key = row["key"]
    state = "on the keyring" if key == "keyring" else "set" if key else "not set"
    if not row["key_variables"]:
        state = "-"
    elif key is None and not row["key_needed"]:
        state = "optional"
    address = next(iter(row["addresses"].values()), None) or row["address_variable"]
    return (
        row["name"],
        " or ".join(row["key_variables"]) or "-",
        state,
        ", ".join(row["apis"]) or "any",
        address or "--base-url",
    )


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


PROFILES_COMMAND = Command(
    "list the services that are known by name, and which have a key", _add_arguments, _run
)
