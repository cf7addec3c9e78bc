"""The options of a command that say which service is asked, and the client that they make."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from .._core.dialects import APIS
from ..client import Client
from ..errors import ConfigurationError
from .command import Parser

__all__ = ["add_service_options", "client_for", "text_argument"]


def add_service_options(parser: Parser) -> None:
    add = parser.add_argument
    add("--model", help="the model's name")
    add("--api", choices=list(APIS), help="the API that the service speaks")
    add("--base-url", metavar="URL", help="the service's address, like https://api.openai.com/v1")
    add("--local", action="store_true", help="a small real model in this process; needs no key")
    add("--model-file", metavar="FILE.gguf", help="with --local: another model")
    add("--context", type=int, metavar="N", help="with --local: tokens of prompt and answer (2048)")


def client_for(options: argparse.Namespace, observers: Sequence[Any] = (), **more: Any) -> Client:
    """The client that the options name, else that of the environment. `more` are arguments of
    Client. Raises ConfigurationError."""
    given: dict[str, Any] = {
        "api": options.api,
        "base_url": options.base_url,
        "model": options.model,
        "observers": observers,
        **more,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if options.local:
        if options.base_url:
            raise ConfigurationError("--local and --base-url exclude each other")
        return Client.local(options.model_file, context=options.context, **given)
    for option in ("model_file", "context"):
        if getattr(options, option) is not None:
            raise ConfigurationError(f"--{option.replace('_', '-')} goes with --local")
    return Client.from_env(**given)


def text_argument(text: str | None) -> str | None:
    """An argument as text: one that is not text in this machine's locale is read as UTF-8."""
    if text is None or text.isascii():
        return text
    try:
        return os.fsencode(text).decode("utf-8", "replace")
    except UnicodeError:  # half a surrogate, from Windows
        return text.encode("utf-8", "replace").decode()
