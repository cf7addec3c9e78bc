"""What a server refuses by name is left out of the request, or named as the server wants it.

Only options that the answer does not depend on: those that the library adds by itself, and the two
names of one limit. Nothing else is dropped, because then the answer would not be the one that was
asked for. (A call whose tool was not strict is checked before it runs, as every call is.) Pure.
"""

from __future__ import annotations

import re
from typing import Any, TypeGuard

import msgspec

from ...errors import InvalidRequestError, ServiceError
from ...events.base import decode_json
from ...result import LLMStreamError
from ..request import HTTPRequest

__all__ = ["is_refused_by_name", "may_refuse_option", "refuses", "without_refused"]

# What the library adds to a request by itself, and what is in it.
_OPTION, _PARTS = "stream_options", ("include_obfuscation", "include_usage")
# The words of servers and validators for "I do not know this field".
_REFUSAL = (
    r"(?i)unsupported(?!.?value)|not[ _]support|n['’]t support|unrecogni[sz]ed|unknown|unexpected"
    r"|extra[ _](?:inputs?|fields?|forbidden|argument)|not[ _](?:permitted|allowed|recogni[sz]ed"
    r"|known|accepted|implemented)|cannot find|no such|additional propert|forbidden|disallowed"
    r"|invalid[ _](?:parameter|argument|field|option)|is(?: not|n['’]t) a valid"
    r"|must not be (?:set|present|given)|deprecated"
)
_EAGER = "eager_input_streaming"
_STRICT = r"(?i)strict|grammar|schema|too complex|optional param|union type"
_SENTENCE = re.compile(r"(?<=[.;])\s+")

_LETTERS = re.compile(r"[^a-z0-9]")


def without_refused(
    request: HTTPRequest, error: LLMStreamError, names_of_limit: tuple[str, ...] = ()
) -> HTTPRequest | None:
    """`request` without the option that the server refused with `error`, or None if `error` is not
    such a refusal. Of `names_of_limit`, which mean the same, one is replaced by the other."""
    if not may_refuse_option(error) or not request.body:
        return None
    # Most errors name neither: then the body, which may be large, is not read.
    strict = request.strict if _refuses_strict(error) else ()
    options = (_OPTION, *_PARTS, *names_of_limit, _EAGER)
    if not strict and not any(_names(error, name) for name in options):
        return None
    try:
        body = decode_json(request.body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    changed = (
        _without_option(body, error)
        or _renamed(body, error, names_of_limit)
        or _without_eager(body, error)
    )
    changed = changed or _without_strict(body, strict, error)
    return msgspec.structs.replace(request, body=msgspec.json.encode(body)) if changed else None


def may_refuse_option(error: LLMStreamError) -> TypeGuard[ServiceError]:
    """Whether an error of this kind may be about a field of the request. Gateways report such a
    refusal as a 500 too, or inside a stream."""
    if not isinstance(error, ServiceError):
        return False
    return error.status in (None, 400, 422) or error.status >= 500


def _without_option(body: dict[str, Any], error: ServiceError) -> bool:
    options = body.get(_OPTION)
    if options is None:
        return False
    parts = [name for name in _PARTS if isinstance(options, dict) and name in options]
    refused = [name for name in parts if refuses(error, name)]
    if not refused and not refuses(error, _OPTION):
        return False
    for name in refused:
        del options[name]
    if not refused or not options:
        del body[_OPTION]
    return True


def _renamed(body: dict[str, Any], error: ServiceError, names: tuple[str, ...]) -> bool:
    for name in names:
        if name in body and is_refused_by_name(error, name):
            value = body.pop(name)
            for other in names:
                if other != name:
                    body.setdefault(other, value)
            return True
    return False


def _without_eager(body: dict[str, Any], error: ServiceError) -> bool:
    tools = body.get("tools")
    if not isinstance(tools, list) or not refuses(error, _EAGER):
        return False
    having = [tool for tool in tools if isinstance(tool, dict) and _EAGER in tool]
    for tool in having:
        del tool[_EAGER]
    return bool(having)


def _refuses_strict(error: ServiceError) -> bool:
    """Whether `error` may be about a strict schema: that a service does not know it, that the
    schema is too much for it, or that all tools have to be the same in that."""
    if isinstance(error, InvalidRequestError) or error.status in (400, 422):
        return re.search(_STRICT, f"{error.message} {error.param}") is not None
    return is_refused_by_name(error, "strict")


def _without_strict(body: dict[str, Any], names: tuple[str, ...], error: ServiceError) -> bool:
    unknown = is_refused_by_name(error, "strict")  # the field itself
    changed = False
    tools = body.get("tools")
    for tool in tools if names and isinstance(tools, list) else ():
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(inner, dict) or inner.get("name") not in names:
            continue
        if not inner.get("strict") and not (unknown and "strict" in inner):
            continue
        changed = True
        # Where a schema without the field counts as strict, it says that it is not.
        if tool.get("type") == "function" and not unknown:
            inner["strict"] = False
        else:
            del inner["strict"]
    return changed


def _names(error: ServiceError, name: str) -> bool:
    """Whether `error` has the name at all, in any spelling ("streamOptions", "stream options")."""
    return _LETTERS.sub("", name) in _LETTERS.sub("", f"{error.message} {error.param}".lower())


def refuses(error: ServiceError, name: str) -> bool:
    """Whether `error` refuses an option that the answer does not depend on: that a 400 names it is
    enough, since to ask without it changes nothing."""
    if isinstance(error, InvalidRequestError) or error.status in (400, 422):
        return _names(error, name)
    return is_refused_by_name(error, name)


def is_refused_by_name(error: ServiceError, name: str) -> bool:
    """Whether `error` says that the field itself is refused, not its value."""
    exact = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
    words = f"{error.code} {error.type} {error.message}".replace("_", " ")
    if error.param and exact.search(error.param) and re.search(_REFUSAL, words):
        return True
    if re.search(rf"instead of\W{{0,3}}{re.escape(name)}(?!\w)", error.message, re.IGNORECASE):
        return True
    return any(
        exact.search(sentence) and re.search(_REFUSAL, sentence)
        for sentence in _SENTENCE.split(error.message)
    )
