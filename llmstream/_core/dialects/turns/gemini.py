"""Turns in the form of the Gemini API: {"role": "user" or "model", "parts": [...]}."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ....errors import ConfigurationError
from ....events.base import decode_json
from ...tool_calls import hashed
from .parts import Audio, Call, File, Form, Image, Output, Text, Thought, Turn, fenced

__all__ = [
    "FORM",
    "compact_json",
    "field",
    "is_gemini",
    "is_made_id",
    "made_id",
    "plain",
    "read_turn",
    "with_ids",
]

FORM = Form({}, frozenset({"parts"}))
_SAME = 100  # calls of one turn that are the same

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[ \t\r\n]+', re.DOTALL)


def compact_json(data: bytes) -> str:
    """JSON without blanks and without needless escapes; keys and numbers stay as they are."""
    return _TOKEN.sub(_compact_token, data).decode("utf-8", "replace")


def _compact_token(match: re.Match[bytes]) -> bytes:
    token = match[0]
    if token[:1] != b'"':
        return b""
    if b"\\" not in token:
        return token
    try:
        return msgspec.json.encode(msgspec.json.decode(token))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return token


def made_id(name: str, arguments: str, same: int) -> str:
    """The id of a call that the service gave none (Gemini 2): known again in the turn, which must
    not have it. `arguments` are in `plain` form; `same` is the number of calls before it in its
    answer that are the same."""
    return f"c{hashed(f'{name}/{arguments}#{same}') % 2**32:08x}"


def plain(arguments: str) -> str:
    """Arguments as they are written anew: a turn has their values, not how the service writes them
    (`1e+20`, `1.50`)."""
    try:
        value = decode_json(arguments.encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return arguments
    return _json(value or {})


def is_made_id(id: str | None, name: str, arguments: str) -> bool:
    """Whether the id is one of ours."""
    known = plain(arguments)
    return id is None or any(id == made_id(name, known, same) for same in range(_SAME))


def is_gemini(turn: Mapping[str, Any]) -> bool:
    """Whether the turn is in this form."""
    return "parts" in turn and "content" not in turn


def field(part: Any, name: str) -> Any:
    """A field, in either of the two spellings that the service takes."""
    if not isinstance(part, Mapping):
        return None
    found = part.get(name)
    return part.get(re.sub("([A-Z])", r"_\1", name).lower()) if found is None else found


def _arguments(call: Mapping[str, Any]) -> str:
    return msgspec.json.encode(field(call, "args") or {}).decode()


def with_ids(turns: Sequence[Any]) -> Iterator[tuple[Any, list[str]]]:
    """Each turn, and the ids of its calls and outputs, in their order; [] for a turn in another
    form. A call without an id gets one that is made, and so does its output."""
    waiting: list[tuple[str, str]] = []  # the names and ids of calls without output
    for turn in turns:
        if not isinstance(turn, Mapping) or not is_gemini(turn):
            yield turn, []
            continue
        ids: list[str] = []
        seen: dict[tuple[str, str], int] = {}
        for part in turn.get("parts") or ():
            call, output = field(part, "functionCall"), field(part, "functionResponse")
            if isinstance(call, Mapping):
                name, arguments = str(call.get("name") or ""), _arguments(call)
                same = seen[name, arguments] = seen.get((name, arguments), -1) + 1
                id = str(call.get("id") or "") or made_id(name, arguments, same)
                ids.append(id)
                waiting.append((name, id))
            elif isinstance(output, Mapping):
                name, own = str(output.get("name") or ""), output.get("id")
                at = next(
                    (n for n, one in enumerate(waiting) if one[1] == own or one[0] == name), None
                )
                found = waiting.pop(at)[1] if at is not None and not own else str(own or name)
                ids.append(found)
        yield turn, ids


def read_turn(turn: Mapping[str, Any], ids: Sequence[str]) -> Turn:
    """The turn as pieces. `ids`: see `with_ids`. The texts of an answer that follow each other are
    one: it was streamed in as many parts as it had chunks."""
    rest = iter(ids)
    pieces: list[Any] = []
    texts: list[str] = []
    role = turn.get("role") or "user"
    for part in turn.get("parts") or ():
        found = _pieces(part, rest)
        if role == "model":  # no other API has media in an answer
            found = [Text(_MADE) if isinstance(p, (Image, File, Audio)) else p for p in found]
            if found and field(part, "text") is not None and isinstance(found[0], Text):
                texts.append(found[0].text)
                continue
        if texts and found:
            pieces.append(Text("".join(texts)))
            texts.clear()
        pieces += found or [None]
    if texts:
        pieces.append(Text("".join(texts)))
    return Turn({"model": "assistant", "function": "user"}.get(role, role), pieces)


_MADE = "(A picture, or another medium, was made.)"


def _pieces(part: Any, ids: Iterator[str]) -> list[Any]:
    call, output = field(part, "functionCall"), field(part, "functionResponse")
    if isinstance(call, Mapping):
        return [Call(next(ids, ""), str(call.get("name") or ""), _arguments(call))]
    if isinstance(output, Mapping):
        return [_output(output, next(ids, ""))]
    text = field(part, "text")
    if isinstance(text, str):
        if not text:
            return []
        return [Thought(text) if field(part, "thought") is True else Text(text)]
    for name, read in (("inlineData", _blob), ("fileData", _file)):
        if isinstance(field(part, name), Mapping):
            return [read(field(part, name))]
    code, result = field(part, "executableCode"), field(part, "codeExecutionResult")
    if isinstance(code, Mapping):
        language = str(field(code, "language") or "python").lower()
        return [Text(fenced("Code that was run", str(code.get("code") or ""), language))]
    if isinstance(result, Mapping) and result.get("output"):
        return [Text("\n" + fenced("Its output", str(result["output"])))]
    return []  # what a tool of the service has found is in the answer


def _blob(blob: Mapping[str, Any]) -> Any:
    kind, data = str(field(blob, "mimeType") or ""), str(blob.get("data") or "")
    if kind.startswith("audio/"):
        return Audio(data, kind.partition("/")[2].partition(";")[0])
    data = data.replace("-", "+").replace("_", "/")
    url = f"data:{kind};base64,{data}"
    return Image(url) if kind.startswith("image/") else File(_name(blob), url)


_STORED = re.compile(r"/v1\w*/files/|^files/|^gs://")


def _file(file: Mapping[str, Any]) -> Any:
    url, kind = str(field(file, "fileUri") or ""), str(field(file, "mimeType") or "")
    if _STORED.search(url):
        raise ConfigurationError(
            "prompt: it has a file by its fileUri, which only the service knows that stores it: "
            "send the file's data to go on with another API"
        )
    return Image(url) if kind.startswith("image/") else File(_name(file), url)


def _name(holder: Mapping[str, Any]) -> str | None:
    name = field(holder, "displayName")
    return name if isinstance(name, str) and name else None


def _output(output: Mapping[str, Any], id: str) -> Output:
    sent = output.get("response")
    if isinstance(sent, Mapping) and len(sent) == 1:
        (name, value), failed = next(iter(sent.items())), "error" in sent
        if name in ("output", "error"):
            return Output(id, value if isinstance(value, str) else _json(value), failed)
    return Output(id, _json(sent if sent is not None else {}))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
