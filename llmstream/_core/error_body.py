"""Finds the error in the body of a response, wherever a service, a gateway or a framework puts it.

Reading only: `classify` decides what it means. Pure; relies on the SSE parser and the lenient JSON
decoder.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ..events.base import decode_json
from ..result import printable
from .framing import Framer
from .sse import parse

__all__ = ["ErrorBody", "read_body", "read_error"]

_TAGS = re.compile(r"<[^<>]*>")
_MAX_MESSAGE = 500  # characters of a service's own text that an error's message repeats
_MAX_WORDS = 10_000  # characters of it that are read
_MAX_DEPTH = 6  # errors in errors
_MAX_BRACKETS = 500  # of a literal inside a text
_MAX_ENTRIES = 20  # of a list of validation errors


class ErrorBody(Struct, frozen=True, kw_only=True):
    """An error's fields. None where the body has none.

    Args:
        code, type, param, request_id: as the service names them. `param` is also the place in the
            request that a validation error names, such as "body.messages.0.tool_call_id".
        message: the text for a reader, at most about 500 characters.
        words: the whole text.
        status: what Google calls the status ("RESOURCE_EXHAUSTED").
        upstream: what a gateway quotes of its upstream's verdict: statuses, codes and types, the
            most telling one first.
        headers: the upstream's response headers, where the body quotes them; lower-case names.
        parts: the objects that may contain a wait or a quota.
    """

    code: str | None = None
    type: str | None = None
    message: str | None = None
    words: str = ""
    param: str | None = None
    request_id: str | None = None
    status: str | None = None
    upstream: tuple[str, ...] = ()
    headers: Mapping[str, str] = {}
    parts: tuple[Any, ...] = ()


def read_body(body: bytes) -> ErrorBody:
    """The error in the body of a response: JSON, an event of a stream, a page, or text."""
    body = body.removeprefix(b"\xef\xbb\xbf")
    try:
        return read_error(decode_json(body))
    except (ValueError, RecursionError):
        pass
    events = list(_events(body))
    for data in events:
        try:
            return read_error(decode_json(data))
        except (ValueError, RecursionError):
            continue
    text = (events[0] if events else body).decode("utf-8", "replace")
    plain = _TAGS.sub(" ", text)
    words = " ".join(plain.split())
    if plain != text:  # a proxy's page: its words are not those of an upstream
        return ErrorBody(message=_short(words), words=words[:_MAX_WORDS])
    return read_error(words)


def read_error(payload: Any) -> ErrorBody:
    """The error in decoded JSON."""
    return _read(payload, 0)


def _events(body: bytes) -> Iterator[bytes]:
    """The data of the events, where a server sends its error as an event stream."""
    if body.lstrip()[:6].startswith((b"data:", b"event:", b"error:", b"id:", b":")):
        blocks = Framer(len(body) + 2).feed(body.lstrip() + b"\n\n")
        yield from (data for _, data in parse(blocks) if data not in (b"", b"[DONE]"))


# ---- where the error is ------------------------------------------------------------------------


def _read(payload: Any, depth: int) -> ErrorBody:
    outer = _first(payload)
    if isinstance(outer, str):
        outer = {"message": outer}
    if not isinstance(outer, dict) or depth > _MAX_DEPTH:
        return ErrorBody()
    found = _nested(outer)
    if isinstance(found, dict) and found is not outer:
        if _nested(found) is not None and not _text_of(found):  # {"detail": {"error": {...}}}
            inner = _read(found, depth + 1)
            return _with_request_id(inner, outer)
        return _fields(found, outer, depth)
    if found is not None:  # a text or a list
        message = _text(outer.get("message")) or found
        return _fields({**outer, "message": message}, outer, depth)
    return _fields(outer, outer, depth)


def _first(payload: Any) -> Any:
    """The error in a list of one (Google), or the list of a framework's validation errors."""
    if not isinstance(payload, list) or not payload:
        return payload
    if isinstance(payload[0], dict) and "msg" in payload[0]:
        return {"detail": payload}
    return next((p for p in payload if isinstance(p, dict) and _nested(p) is not None), payload[0])


def _nested(outer: Mapping[str, Any]) -> Any:
    """The error that `outer` wraps: an object, a text or a list; None where it wraps none."""
    response = outer.get("response")
    for holder in (outer, response if isinstance(response, dict) else {}):
        inner = holder.get("error")
        if inner and isinstance(inner, (dict, str, list)):
            return _first(inner)
    if outer.get("message") or outer.get("msg"):
        return None
    for name in ("detail", "errors", "fault"):
        inner = outer.get(name)
        if inner and isinstance(inner, list):
            return _first(inner) if _is_error(inner[0]) else None
        if inner and isinstance(inner, dict):
            return inner if _nested(inner) is not None or _text_of(inner) else None
    return None


def _is_error(entry: Any) -> bool:
    return isinstance(entry, dict) and any(name in entry for name in ("message", "detail", "title"))


def _with_request_id(error: ErrorBody, outer: Mapping[str, Any]) -> ErrorBody:
    if error.request_id is not None:
        return error
    return msgspec.structs.replace(error, request_id=_text(outer.get("request_id")))


# ---- its fields --------------------------------------------------------------------------------

_TEXTS = (
    "message", "detail", "msg", "errors", "Message", "error_message", "errorMessage",
    "error_description", "faultstring", "title", "reason", "description",
)  # fmt: skip


def _text_of(inner: Mapping[str, Any]) -> Any:
    return next((inner[name] for name in _TEXTS if inner.get(name)), None)


def _fields(inner: Mapping[str, Any], outer: Mapping[str, Any], depth: int) -> ErrorBody:
    kind = _text(inner.get("type"))
    message = _text_of(inner)
    code, param = _text(inner.get("code")), _text(inner.get("param"))
    words, place = _message(message, depth)
    param = param or place or (_place_in(inner) if "loc" not in inner else None)
    upstream: list[str] = []
    headers: dict[str, str] = {}
    parts = [inner] if inner is outer else [inner, outer]
    if isinstance(message, dict) and not (code or kind):
        deeper = _read(message, depth + 1)
        code, kind = deeper.code, deeper.type
        parts += deeper.parts
    quoted = _quoted(words, depth)
    if quoted is not None:
        words, upstream = quoted.words, list(quoted.upstream)
        param = param or quoted.param
        parts += quoted.parts
        if not (code or kind):
            code, kind = quoted.code, quoted.type
    provider = _provider(inner, words, depth)
    if provider is not None:
        upstream = [*provider.upstream, *upstream]
        headers = dict(provider.headers)
        parts += provider.parts
        param = param or provider.param
        words = provider.words
    upstream += _reasons(inner)
    return ErrorBody(
        code=code,
        type=None if kind == "error" else kind,  # in the flat form it is the event's own type
        message=_short(words) or None,
        words=words,
        param=param,
        request_id=_text(outer.get("request_id")),
        status=_text(inner.get("status")),
        upstream=tuple(upstream),
        headers=headers,
        parts=tuple(parts),
    )


def _reasons(error: Mapping[str, Any]) -> list[str]:
    """The reasons in Google's ErrorInfo, which are more exact than the status."""
    details = error.get("details")
    found = (
        [one.get("reason") for one in details if isinstance(one, dict)]
        if isinstance(details, list)
        else []
    )
    return [reason for reason in found[:_MAX_ENTRIES] if isinstance(reason, str)]


def _message(value: Any, depth: int) -> tuple[str, str | None]:
    """A message as text, and the place in the request that it names."""
    if isinstance(value, (str, int)) and value:
        text = _whole(value)
        found = re.match(_PLACE, text)
        return _without_input(text), found[1] if found else None
    if isinstance(value, dict) and depth <= _MAX_DEPTH:
        if "msg" in value:
            return _message([value], depth + 1)
        inner = value.get("error")
        found = _text_of(value) or (inner if inner is not value else None)
        return _message(found, depth + 1) if found else _by_place(value)
    if not isinstance(value, (list, tuple)):
        return "", None
    # Validation errors: their "input" repeats the request, so only the place and "msg" are used.
    reasons: list[str] = []
    first: str | None = None
    for entry in value[:_MAX_ENTRIES]:
        if isinstance(entry, dict):
            place = _place_in(entry)
            first = first or place
            text = _whole(entry.get("msg") or entry.get("message") or entry.get("type"))
            reasons.append(f"{place}: {text}" if place else text)
        elif isinstance(entry, str):
            reasons.append(_whole(entry))
    return "; ".join(text for text in reasons if text)[:_MAX_WORDS], first


_NOT_REASONS = ("input", "ctx", "url", "value")  # they repeat the request, or are no words


def _by_place(value: Mapping[Any, Any]) -> tuple[str, str | None]:
    """Validation errors as an object: place -> what is wrong there (ASP.NET, Django, Rails)."""
    reasons: list[str] = []
    first: str | None = None
    for place, sent in list(value.items())[:_MAX_ENTRIES]:
        several = sent if isinstance(sent, list) else [sent]
        texts = [_whole(reason) for reason in several[:_MAX_ENTRIES] if isinstance(reason, str)]
        if texts and isinstance(place, str) and place not in _NOT_REASONS:
            first = first or _text(place)
            reasons.append(f"{_whole(place)}: {' '.join(texts)}")
    return "; ".join(reasons)[:_MAX_WORDS], first


# "messages.0.content: Field required" (Anthropic, and others that use pydantic)
_PLACE = (
    r"([A-Za-z_]\w*(?:\.\w+)*): (?:Extra inputs|Field required|Input should|Input tag|Value error)"
)
_INPUT = r"(?s),? input_value=.*?(?=, input_type=|\])"


def _without_input(text: str) -> str:
    """A pydantic error's text without what it shows of the request."""
    return re.sub(_INPUT, "", text) if "input_value=" in text else text


def _place_in(entry: Mapping[str, Any]) -> str | None:
    """The place that a validation error names: by its field `loc` (pydantic), `field`, a JSON
    pointer, or the name of a property that is one too many (AJV)."""
    for name in ("loc", "field"):
        if place := _place(entry.get(name)):
            return place
    source, params = entry.get("source"), entry.get("params")
    pointer = entry.get("instancePath") or (
        source.get("pointer") if isinstance(source, dict) else None
    )
    extra = params.get("additionalProperty") if isinstance(params, dict) else None
    parts = pointer.strip("#/").split("/") if isinstance(pointer, str) else []
    return _place([part for part in (*parts, extra) if isinstance(part, str) and part])


def _place(loc: Any) -> str | None:
    """The place of a validation error: "body.messages.0.content"; None for the whole body."""
    if isinstance(loc, str):
        return _text(loc)
    if not isinstance(loc, (list, tuple)):
        return None
    parts = [_text(part) or "0" for part in loc if isinstance(part, (str, int))]
    return _text(".".join(parts)) if parts and parts != ["body"] else None


def _whole(value: Any) -> str:
    """A text of the service, for reading."""
    if not isinstance(value, (str, int)):
        return ""
    text = str(value) if isinstance(value, str) or abs(value) < 10**9 else "a huge number"
    # JSON can contain an unpaired surrogate, which no output can encode.
    return text[:_MAX_WORDS].encode("utf-8", "replace").decode()


def _text(value: Any) -> str | None:
    """A field of the service, for an error's attribute."""
    return _short(printable(_whole(value))) or None


def _short(text: str) -> str:
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "..."


# ---- what a gateway quotes of its upstream -----------------------------------------------------


class _Quoted(Struct, frozen=True):
    """An upstream's error in the words of a gateway."""

    words: str
    upstream: tuple[str, ...]
    code: str | None = None
    type: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = {}
    parts: tuple[Any, ...] = ()


_PHRASES = {
    "400": "bad request", "401": "unauthorized", "402": "payment required", "403": "forbidden",
    "404": "not found", "405": "method not allowed", "408": "request timeout", "409": "conflict",
    "413": "(?:payload too large|content too large|request entity too large)",
    "415": "unsupported media type", "422": "unprocessable (?:entity|content)",
    "429": "too many requests", "500": "internal server error", "502": "bad gateway",
    "503": "service (?:temporarily )?unavailable", "504": "gateway time-?out", "529": "overloaded",
}  # fmt: skip
_PHRASE = "|".join(f"{status} {phrase}" for status, phrase in _PHRASES.items())
# What a text begins with that quotes an upstream's status, in the forms of the usual libraries.
_STATUS_FORMS = (
    r"(?i)(?:error code: (?P<sdk>[45]\d\d)\b"  # the SDKs of OpenAI and Anthropic
    r"|(?P<bare>[45]\d\d)(?=:|\s*[{\[]|$|\s+(?:client|server) error\b)"  # FastAPI, requests
    r"|(?P<google>[45]\d\d)(?=\s+(?-i:[A-Z]+_[A-Z_]+|UNAVAILABLE|INTERNAL|UNAUTHENTICATED)\b)"
    rf"|(?:(?:client|server) error '|http status (?:client|server) error \()?"
    rf"(?P<phrase>(?:{_PHRASE})\b)"  # httpx, reqwest, and proxies
    r"|http(?:/\d\.\d)?(?: status)?(?: code)?(?: error)?:? (?P<http>[45]\d\d)\b"
    r"|(?:(?:upstream|provider|backend|server) )*"
    r"(?:error|returned|responded with|got)(?: an?)?[ :]+"
    r"(?P<returned>[45]\d\d)\b(?! (?:tokens?|requests?|characters?|bytes|seconds|ms|items))"
    r"|\[(?P<square>[45]\d\d)\]"
    r"|(?:error,? |request failed with |failed with |unexpected |upstream |returned |response )*"
    r"status(?:[ _]?code)?[ :=]{1,2}(?P<axios>[45]\d\d)\b)"  # axios, Go, cohere
)
# Inside a text: a status in brackets with its phrase, and one just before the error that it is of.
_INSIDE = (
    rf"(?i)[(\[](?P<phrase>{_PHRASE})[)\]]|(?<![\w.])(?P<before>[45]\d\d)[ :-]+(?=[{{\[][\s'\"{{])"
)
_INSIDE_WITHIN = 250  # characters of a text in which such a status is an upstream's
# "litellm.RateLimitError: ", "openai.BadRequestError: ", "OpenAIException - "
_EXCEPTION = r"(?:[a-z_]+\.)*(?P<name>[A-Z]\w*(?:Error|Exception|Timeout))(?::| -)\s+"
_TIMEOUT = r"litellm\.(?P<name>Timeout):\s+"
_BOTO = r"An error occurred \((?P<name>\w+)\) when calling "
_PREFIXES = 6  # names of exceptions in front of each other


def _quoted(text: str, depth: int) -> _Quoted | None:
    """The upstream's verdict and reason in a gateway's text, or None if it quotes none."""
    if not text or depth > _MAX_DEPTH:
        return None
    rest, names, statuses = text.lstrip(), [], []
    for _ in range(_PREFIXES):
        name = re.match(_EXCEPTION, rest) or re.match(_TIMEOUT, rest) or re.match(_BOTO, rest)
        status = None if name else re.match(_STATUS_FORMS, rest)
        if name:
            names.append(name["name"])
            rest = rest[name.end() :]
        elif status:
            statuses.append(next(g for g in status.groups() if g)[:3])
            rest = rest[status.end() :].lstrip(" :,-.)'")
        else:
            break
    if not statuses and (found := re.search(_INSIDE, text[:_INSIDE_WITHIN])):
        statuses.append((found["phrase"] or found["before"])[:3])
    begins = text.lstrip()[:1] in ("{", "[")
    inner, span = _literal_in(text) if statuses or names or begins else (None, (0, 0))
    if inner is None or (inner.words == "" and not inner.code):
        verdict = (*reversed(statuses), *names)
        return _Quoted(text, verdict) if verdict else None
    before, after = text[: span[0]].rstrip(), text[span[1] :].strip()
    reason = " ".join(part for part in (before, inner.words, after) if part)
    own = [word for word in (inner.code, inner.type, inner.status) if word]
    verdict = (*inner.upstream, *reversed(statuses), *own, *names)
    return _Quoted(reason, verdict, inner.code, inner.type, inner.param, inner.headers, inner.parts)


def _provider(error: Mapping[str, Any], words: str, depth: int) -> _Quoted | None:
    """OpenRouter: which provider failed, and its reason, after the router's own `words`."""
    metadata = error.get("metadata")
    if not isinstance(metadata, dict) or depth > _MAX_DEPTH:
        return None
    name = _text(metadata.get("provider_name"))
    raw = metadata.get("raw")
    sent = metadata.get("headers")
    headers = (
        {k.lower(): str(v) for k, v in sent.items() if isinstance(k, str)}
        if isinstance(sent, dict)
        else {}
    )
    upstream: tuple[str, ...] = ()
    reason, param, parts = "", None, (metadata,)
    if isinstance(raw, (dict, list)) or (isinstance(raw, str) and raw.strip()):
        quoted = (
            read_body(raw.encode("utf-8", "replace"))
            if isinstance(raw, str)
            else _read(raw, depth + 1)
        )
        reason, param = quoted.words, quoted.param
        own = [word for word in (quoted.code, quoted.type, quoted.status) if word]
        upstream = (*quoted.upstream, *own)
        parts += quoted.parts
    words = f"{words} (provider {name})" if name and name not in words else words
    if reason and reason not in words:
        words = f"{words}: {reason}" if words else reason
    return _Quoted(words, upstream, param=param, headers=headers, parts=parts)


def _literal_in(text: str) -> tuple[ErrorBody | None, tuple[int, int]]:
    """The error in the first JSON or Python literal inside `text`, and where it stands."""
    start = min((at for at in (text.find("{"), text.find("[{")) if at >= 0), default=-1)
    end = _end_of_literal(text, start) if start >= 0 else -1
    if end < 0:
        return None, (0, 0)
    value = _literal(text[start:end])
    body = _read(value, 1) if isinstance(value, (dict, list)) and value else None
    return body, (start, end)


def _end_of_literal(text: str, start: int) -> int:
    """The position after the bracket that closes the one at `start`; -1 if none does."""
    open_, quote, at, brackets = 0, "", start, 0
    while at < len(text):
        char = text[at]
        if quote:
            if char == "\\":
                at += 1
            elif char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char in "{[(":
            open_, brackets = open_ + 1, brackets + 1
            if brackets > _MAX_BRACKETS:
                return -1
        elif char in "}])":
            open_ -= 1
            if open_ == 0:
                return at + 1
        at += 1
    return -1


_ODD_ESCAPE = r"\\[^\\'\"nrtabfvxuUN0-7]"


def _literal(text: str) -> Any:
    """JSON, or the text of a Python dict or list; None if it is neither."""
    try:
        return decode_json(text.encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        pass
    if re.search(_ODD_ESCAPE, text):
        return None  # Python would warn about it
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
