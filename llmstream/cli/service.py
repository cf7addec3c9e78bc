"""The options of a command that say which service is asked, and the client that they make."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .._core.dialects import APIS
from .._core.dialects.vendors import VENDORS
from .._settings import keyring
from .._settings.environment import find_in_environment
from ..client import Client
from ..errors import ConfigurationError
from .command import NO_EFFORT, Parser

__all__ = [
    "add_request_options",
    "add_service_options",
    "client_for",
    "request_options",
    "text_argument",
]


def add_request_options(parser: Parser) -> None:
    """What a request asks for; `request_options` reads them."""
    add = parser.add_argument_group("the request").add_argument
    add("--instructions", metavar="TEXT", help="the system prompt")
    add("--max-tokens", type=int, metavar="N", help="at most N tokens of answer")
    add("--temperature", type=float, metavar="NUMBER", help="0: the likeliest answer; 1: varied")
    add(
        "--thinking",
        type=_thinking,
        metavar="HOW",
        help="let the model think: on (also without HOW), off, an effort such as low, medium or "
        "high, a number of tokens, or the API's own JSON object",
    )
    add(
        "--extra",
        action="append",
        type=_json_object,
        metavar="JSON",
        help="a JSON object that is laid over the request, for what has no option",
    )


def request_options(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Client.stream` that `add_request_options` stand for."""
    extra: dict[str, Any] = {}
    for more in options.extra or ():
        twice = extra.keys() & more.keys()
        if twice:
            raise ConfigurationError(f"--extra: {min(twice)!r} is there twice")
        extra |= more
    return {
        "instructions": text_argument(options.instructions),
        "max_output_tokens": options.max_tokens,
        "temperature": options.temperature,
        "thinking": options.thinking,
        "extra_body": extra or None,
    }


_THINK_TAGS: dict[str, Any] = {"on": True, "off": False, "open": "open"}


def add_service_options(parser: Parser) -> None:
    add = parser.add_argument_group("the service").add_argument
    add("--model", help="the model's name")
    add("--api", choices=list(APIS), help="the API that the service speaks")
    add("--base-url", metavar="URL", help="the service's address, like https://api.openai.com/v1")
    add(
        "--profile",
        metavar="NAME",
        help="the service by its name (`llmstream profiles` lists them with their addresses and "
        "keys); with --base-url, how that differs from others of its API",
    )
    add(
        "--think-tags",
        choices=list(_THINK_TAGS),
        help="whether what an answer's text has between <think> and </think> at its beginning is "
        "thinking, as servers of local models send it; open: the first tag does not arrive",
    )
    add(
        "--key-name",
        metavar="NAME",
        help="the key that `llmstream keys set NAME` has stored on the keyring",
    )
    add(
        "--header",
        action="append",
        metavar="'NAME: VALUE'",
        help="a header of every request; can be repeated. All users of the machine can see it",
    )
    add = parser.add_argument_group("the local model").add_argument
    add("--local", action="store_true", help="a small real model in this process; needs no key")
    add("--model-file", metavar="FILE.gguf", help="with --local: another model")
    add(
        "--context",
        type=int,
        metavar="N",
        help="with --local: tokens of prompt and answer (2048; 256 at least)",
    )


def client_for(options: argparse.Namespace, observers: Sequence[Any] = (), **more: Any) -> Client:
    """The client that the options name, else that of the environment. `more` are arguments of
    Client. Raises ConfigurationError."""
    given: dict[str, Any] = {
        "api": options.api,
        "base_url": options.base_url,
        "model": text_argument(options.model),
        "profile": options.profile,
        "think_tags": _THINK_TAGS.get(options.think_tags),
        "headers": _headers(options.header),
        "observers": observers,
        **more,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if options.local:
        for option in ("base_url", "key_name"):
            if getattr(options, option) is not None:
                raise ConfigurationError(
                    f"--local and --{option.replace('_', '-')} exclude each other"
                )
        return Client.local(options.model_file, context=options.context, **given)
    for option in ("model_file", "context"):
        if getattr(options, option) is not None:
            raise ConfigurationError(f"--{option.replace('_', '-')} goes with --local")
    if options.key_name is not None:
        given |= _key_and_api(options)
    return Client.from_env(**given)


def _headers(lines: list[str] | None) -> dict[str, str] | None:
    """Raises ConfigurationError, which repeats no value: it may be a key."""
    headers: dict[str, str] = {}
    for line in lines or ():
        name, colon, value = (text_argument(line) or "").partition(":")
        name = name.strip()
        if not colon or not name:
            raise ConfigurationError("--header: write a name, a colon and a value: 'X-Team: red'")
        if name.lower() in headers:
            raise ConfigurationError(f"--header: {name[:80]!r} is there twice")
        headers[name.lower()] = value.strip()
    return headers or None


def _key_and_api(options: argparse.Namespace) -> Mapping[str, Any]:
    """The key of that name, and the API of its vendor where nothing else names one. Raises
    ConfigurationError if there is no such key, or if it would go to a vendor that it is not of."""
    name = options.key_name
    given: dict[str, Any] = {}
    if options.base_url or os.environ.get("LLMSTREAM_BASE_URL"):
        pass
    elif VENDORS.get(options.profile) is not None:
        if name in VENDORS and name != options.profile:
            raise ConfigurationError(
                f"--key-name {name}: that key is not for --profile {options.profile}: give "
                "--base-url as well"
            )
    else:
        apis = [api for api, row in APIS.items() if row.keyring == name]
        api = options.api or os.environ.get("LLMSTREAM_API") or (apis[0] if apis else None)
        if apis and api not in apis:
            raise ConfigurationError(
                f"--key-name {name}: that key is not for --api {api}: give --base-url as well"
            )
        if not apis and not _has_address(api):
            raise ConfigurationError(
                f"--key-name {name}: nothing says which service the key is for: give --base-url"
                + (f" or --profile {name}" if name in VENDORS else "")
            )
        if api is not None:
            given["api"] = api
    key = keyring.get(name)
    if key is None:
        raise ConfigurationError(
            f"--key-name {name}: the keyring has no such key: store it with `llmstream keys set "
            "NAME`, `llmstream keys list` shows the names"
        )
    return {**given, "api_key": key}


def _has_address(api: str | None) -> bool:
    environ = {**os.environ, "LLMSTREAM_API": api} if api else None
    found = find_in_environment(environ)
    return found is not None and found.base_url is not None


def _thinking(text: str) -> Any:
    if text in ("on", "off"):
        return text == "on"
    if re.fullmatch(r"\+?[0-9]{1,20}", text):
        return int(text)
    if not text or text.lower() == NO_EFFORT or re.fullmatch(r"[+-]?[0-9.]+", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of on, off, an effort such as low, medium or high, a number of "
            "tokens from 0 on, or a JSON object (a prompt that begins with it goes into quotes)"
        )
    return _json_object(text) if text.startswith("{") else text


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text_argument(text) or "", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise argparse.ArgumentTypeError(
            "this is not a JSON object: write one in quotes, like '{\"top_p\": 0.9}'"
        ) from None
    return value


def text_argument(text: str | None) -> str | None:
    """An argument as text: one that is not text in this machine's locale is read as UTF-8."""
    if text is None or text.isascii():
        return text
    try:
        return os.fsencode(text).decode("utf-8", "replace")
    except UnicodeError:  # half a surrogate, from Windows
        return text.encode("utf-8", "replace").decode()
