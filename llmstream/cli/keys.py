"""`llmstream keys`: API keys on the operating system's keyring."""

from __future__ import annotations

import argparse
import sys
from getpass import getpass

from .._core.dialects import APIS
from .._settings import keyring
from ..errors import ConfigurationError
from .command import Command, Parser
from .output import write

__all__ = ["KEYS"]

_NAMES = list(dict.fromkeys(api.keyring for api in APIS.values()))


def _add_arguments(parser: Parser) -> None:
    parser.description = (
        "List, store and remove keys on the operating system's keyring. The keys "
        f"{' and '.join(map(repr, _NAMES))} are looked up when the environment has no key, and "
        "with --profile NAME the key NAME (`llmstream profiles` lists the names)."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="print the names that have a key")
    store = actions.add_parser("set", help="store a key, read from the terminal or standard input")
    store.add_argument(
        "name", help=f"{', '.join(map(repr, _NAMES))}, the name of a profile, or any other"
    )
    remove = actions.add_parser("remove", help="remove a key")
    remove.add_argument("name", help="the name under which it is stored")


def _run(options: argparse.Namespace) -> int:
    if options.action == "list":
        write("".join(f"{name}\n" for name in keyring.names()))
    elif options.action == "set":
        keyring.store(options.name, _read_key(options.name))
    else:
        keyring.remove(options.name)
    return 0


def _read_key(name: str) -> str:
    # Not an argument: every user of the machine can see the arguments of a process.
    if sys.stdin is None:
        raise ConfigurationError("standard input is closed: the key is read from it")
    try:
        if not sys.stdin.isatty():
            return sys.stdin.readline().strip()
        return getpass(f"key for {name}: ").strip()
    except (EOFError, OSError, UnicodeError) as error:
        # Without the error: it may contain what was read.
        reason = type(error).__name__
    raise ConfigurationError(f"no key could be read from standard input ({reason})")


KEYS = Command(
    "list, store and remove keys on the operating system's keyring", _add_arguments, _run
)
