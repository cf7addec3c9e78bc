"""What a browser has posted -> the prompt of a call.

Everything that a browser sends is a claim, and whoever can open the page can write another one. So
by default only what a person can have typed, and what the page shows as earlier answers, becomes a
part of the prompt:

    turns of the user        kept: text, and files (see `prompt_of`)
    turns of the assistant   their text is kept: without it there is no conversation. It may be
                             forged, like a user's text; treat it as one
    system and developer     left out: instructions are the server's (`instructions=` of a call)
    tool calls and outputs   left out: the model takes an output for what the server's tool said
    reasoning, sources, data left out

`roles=` keeps more, for a page whose users may do that anyway.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

from .._core.checks import is_whole, shown
from ..errors import ConfigurationError
from .posted import MAX_BYTES, BadRequest, converted, read_object
from .protocols.base import clean, encode_json

__all__ = ["prompt_of"]

_ROLES = ("user", "assistant", "system", "developer", "tool")
_DEFAULT_ROLES = ("user", "assistant")
_MOST_TURNS = 1_000
_MOST_PARTS = 10_000  # of all messages: each costs some microseconds
_LONGEST_ADDRESS = 8_192  # characters of a URL that is not a data: URL
_LONGEST_NAME = 255  # characters of a file's name


class _Media(NamedTuple):
    type: str  # as in MIME, such as "image/png", or its first half
    url: str
    name: str | None


class _Call(NamedTuple):
    id: str
    name: str
    arguments: str


class _Turn(NamedTuple):
    """A turn of any protocol. `answers` is the id of the call that an output of a tool is for."""

    role: str
    content: list[str | _Media]
    calls: tuple[_Call, ...] = ()
    answers: str | None = None


def prompt_of(
    body: Any,
    protocol: Any = "events",
    *,
    roles: Any = _DEFAULT_ROLES,
    files: bool = True,
    max_bytes: int = MAX_BYTES,
    max_turns: int = _MOST_TURNS,
) -> list[dict[str, Any]]:
    """The turns that a stock client has posted, for `client.stream(turns)` on any API.

        @app.post("/api/chat")
        def chat():
            turns = relay.prompt_of(request.get_data(), "ui-message")
            return relay.flask_response(client.stream(turns), "ui-message")

    Each turn is {"role": "user" or "assistant", "content": text}. A turn with files has a list of
    parts in the form of Chat Completions, which every API of this library takes. (The Messages API
    has no audio: `client.stream` raises ConfigurationError for it.)

    Args:
        body: the request's body, as bytes, as text, or the object that a framework has decoded.
        protocol: who posts: "ui-message" (`useChat`), "ag-ui" (`HttpAgent`), "chat-completions"
            (an OpenAI client); "events", "text" and "html" take {"prompt": text}, or
            {"messages": [{"role", "content"}]}, and "html" also a form with a field `prompt`.
        roles: whose turns are kept, of "user", "assistant", "system", "developer" and "tool". With
            "tool" the calls of the assistant are kept that have an output, and the outputs.
        files: whether the files of the user are kept. They are data: URLs, or addresses (https)
            of a public host, which the service fetches. With False, a body with files is refused.
        max_bytes: of the whole body; also for files. Default 8 MiB.
        max_turns: before any are left out. Default 1,000.

    Raises BadRequest, a ConfigurationError with a `status` for the browser (400, or 413), for a
    body that is not one of the protocol, is too large, or ends without a question; and
    ConfigurationError for wrong arguments.
    """
    read = _READERS.get(protocol) if isinstance(protocol, str) else None
    if read is None:
        known = ", ".join(map(repr, _READERS))
        raise ConfigurationError(f"protocol={shown(protocol)}: pass one of {known}")
    kept = _checked_roles(roles)
    if not is_whole(max_turns, 1, 1_000_000):
        raise ConfigurationError(f"max_turns={shown(max_turns)}: pass a whole number from 1")
    if not isinstance(files, bool):
        raise ConfigurationError(f"files={shown(files)}: pass True or False")
    posted = _form(body, max_bytes) if protocol == "html" else None
    turns: list[_Turn] = []
    parts = 0
    for turn in read(posted or read_object(body, max_bytes), kept):
        turns.append(turn)
        if len(turns) > max_turns:
            raise BadRequest(f"the body has more than {max_turns:,} messages", status=413)
        parts += len(turn.content) + len(turn.calls)
        if parts > _MOST_PARTS:
            raise _too_many_parts()
    turns = _merged(_answered(turns) if "tool" in kept else turns, kept)
    if not files and any(isinstance(part, _Media) for turn in turns for part in turn.content):
        raise BadRequest("the body has a file, and files are not taken here")
    if not turns or turns[-1].role not in ("user", "tool"):
        raise BadRequest("the body ends without a question: its last message has to be the user's")
    return [_written(turn) for turn in turns]


def _too_many_parts() -> BadRequest:
    return BadRequest(f"the body has more than {_MOST_PARTS:,} parts", status=413)


def _checked_roles(roles: Any) -> frozenset[str]:
    found = list(roles) if isinstance(roles, (list, tuple, set, frozenset)) else [roles]
    for role in found:
        if not isinstance(role, str) or role not in _ROLES:
            raise ConfigurationError(f"roles={shown(role)}: pass some of {', '.join(_ROLES)}")
    if "user" not in found:
        raise ConfigurationError("roles: it needs 'user', or no question is left")
    return frozenset(found)


# ---- choosing ----------------------------------------------------------------------------------


def _merged(turns: list[_Turn], roles: frozenset[str]) -> list[_Turn]:
    """The turns of `roles`, without empty ones. Neighbours of one role are one turn, because many
    chat templates refuse two in a row; an answer that calls divided is whole again."""
    found: list[_Turn] = []
    for turn in turns:
        calls = turn.calls if "tool" in roles else ()
        files = turn.role == "user"
        content = [p for p in turn.content if p and (files or isinstance(p, str))]
        says = any(isinstance(p, _Media) or p.strip() for p in content)
        if turn.role not in roles or not (says or calls or turn.answers is not None):
            continue
        last = found[-1] if found else None
        if last is None or last.role != turn.role or last.calls or turn.answers is not None:
            found.append(_Turn(turn.role, content, calls, turn.answers))
        else:
            if turn.role != "assistant" and content:
                last.content.append("\n\n")
            last.content.extend(content)  # a list of its own, see above
            found[-1] = last._replace(calls=calls)
    return found


def _answered(turns: list[_Turn]) -> list[_Turn]:
    """Without the calls that nobody has answered, and the answers to no call: services refuse
    both. The answers stand right after their calls."""
    answers = {turn.answers: turn for turn in turns if turn.answers is not None}
    found: list[_Turn] = []
    for turn in turns:
        if turn.role == "tool":
            continue
        calls = tuple(call for call in turn.calls if call.id in answers)
        found.append(turn._replace(calls=calls))
        found += (answers.pop(call.id) for call in calls if call.id in answers)
    return found


# ---- writing: the form of Chat Completions, which every dialect reads ----------------------------


def _written(turn: _Turn) -> dict[str, Any]:
    content: Any = _content(turn.content)
    if turn.answers is not None:
        return {"role": "tool", "tool_call_id": turn.answers, "content": content}
    if not turn.calls:
        return {"role": turn.role, "content": content}
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in turn.calls
    ]
    return {"role": turn.role, "content": content or None, "tool_calls": calls}


def _content(parts: list[str | _Media]) -> str | list[dict[str, Any]]:
    if not any(isinstance(part, _Media) for part in parts):
        return clean("".join(part for part in parts if isinstance(part, str)))
    return [
        {"type": "text", "text": clean(part)} if isinstance(part, str) else _file(part)
        for part in parts
        if not isinstance(part, str) or part.strip()
    ]


_AUDIO = {"wav": "wav", "x-wav": "wav", "wave": "wav", "mpeg": "mp3", "mp3": "mp3"}


def _file(media: _Media) -> dict[str, Any]:
    kind, _, detail = media.type.partition("/")
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": media.url}}
    if kind == "audio" and detail in _AUDIO and media.url.startswith("data:"):
        data = media.url.partition(",")[2]
        return {"type": "input_audio", "input_audio": {"data": data, "format": _AUDIO[detail]}}
    name = clean(media.name or "")[:_LONGEST_NAME]
    name = "".join(char for char in name if char.isprintable()) or "file"
    return {"type": "file", "file": {"filename": name, "file_data": media.url}}


# ---- files -------------------------------------------------------------------------------------

_TYPE = re.compile(r"[a-z]+(?:/[a-z0-9][a-z0-9.+-]*)?")
_DATA = re.compile(r"data:([a-z]+/[a-z0-9][a-z0-9.+-]*)(?:;[a-z0-9-]+=[\w.+-]+)*;base64,", re.I)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
# Labels, the last of which is no number: some resolvers take such a name for an address. Nothing is
# encoded: some fetchers decode it.
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)+[a-z](?:[a-z0-9-]*[a-z0-9])?")
_PRIVATE = (
    *(".local", ".localhost", ".internal", ".intranet", ".private", ".corp", ".lan", ".home"),
    *(".svc", ".arpa", ".onion", ".test", ".invalid"),
)
_EXACT = ("image", "audio", "video")  # what is said to be one of these has to be one


def _media(url: str, type: str, name: str | None, place: str) -> _Media:
    """A file of the browser. Raises BadRequest for a URL that nobody should follow."""
    type = type.lower().removesuffix("/*")
    if type and not _TYPE.fullmatch(type):
        raise BadRequest(f"the body has a file without a media type, at {place}")
    if url[:5].lower() == "data:":
        head = _DATA.match(url)
        if head is None or not _BASE64.fullmatch(url, head.end()):
            raise BadRequest(f"the body has a data: URL that is not in base64, at {place}")
        given, type = type.partition("/")[0], head[1].lower()
        if given in _EXACT and given != type.partition("/")[0]:
            raise BadRequest(f"the body has a data: URL that is not of its media type, at {place}")
    elif not _is_public(url):
        raise BadRequest(
            f"the body has a file that is neither a data: URL nor an https address of a public "
            f"host, at {place}"
        )
    elif not type:
        raise BadRequest(f"the body has a file without a media type, at {place}")
    return _Media(type, url, name)


def _is_public(url: str) -> bool:
    """Whether a service may be asked to fetch it: one in the server's own network would fetch what
    the browser cannot reach."""
    if len(url) > _LONGEST_ADDRESS or not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    if parts.scheme.lower() != "https" or port not in (None, 443) or "\\" in url:
        return False
    if "@" in parts.netloc or "[" in parts.netloc:
        return False
    host = host.removesuffix(".")
    return _HOST.fullmatch(host) is not None and not host.endswith(_PRIVATE)


# ---- what each client posts --------------------------------------------------------------------


class _UIMessage(msgspec.Struct):
    role: str
    parts: list[dict[str, Any]] = []
    content: Any = None  # before version 5, and of pages that write it by hand


class _UIBody(msgspec.Struct):
    messages: list[_UIMessage]


class _TextPart(msgspec.Struct):
    text: str


class _FilePart(msgspec.Struct, rename="camel"):
    url: str
    media_type: str
    filename: str | None = None


class _ToolPart(msgspec.Struct, rename="camel"):
    type: str
    tool_call_id: str
    tool_name: str = ""
    state: str = ""
    input: Any = None
    output: Any = None
    error_text: str | None = None

    def call(self) -> _Call:
        name = self.tool_name or self.type.removeprefix("tool-")
        return _Call(self.tool_call_id, name, _as_json({} if self.input is None else self.input))

    def answer(self) -> _Turn | None:
        if self.state == "output-available":
            text = _as_text(self.output)
        elif self.state in ("output-error", "output-denied"):
            text = self.error_text or "The call was not run."
        else:
            return None
        return _Turn("tool", [text], (), self.tool_call_id)


def _ui_messages(body: Mapping[str, Any], kept: frozenset[str]) -> Iterator[_Turn]:
    """`useChat` of ai 5, 6 and 7."""
    for number, message in enumerate(converted(body, _UIBody).messages):
        yield from _ui_turns(message, f"messages[{number}]", kept)


def _ui_turns(message: _UIMessage, place: str, kept: frozenset[str]) -> Iterator[_Turn]:
    """One message may be an answer of several steps: text, calls and their outputs, text."""
    written = not message.parts and isinstance(message.content, str)
    content: list[str | _Media] = [message.content] if written else []
    tools: list[_ToolPart] = []
    if len(message.parts) > _MOST_PARTS:
        raise _too_many_parts()
    for number, part in enumerate(message.parts):
        type, at = part.get("type"), f"{place}.parts[{number}]"
        if not isinstance(type, str):
            raise BadRequest(f"the body is not as its protocol has it, at {at}.type")
        if tools and type in ("step-start", "text"):
            yield from _ui_step(message.role, content, tools)
            content, tools = [], []
        if type == "text":
            content.append(converted(part, _TextPart, at).text)
        elif type == "file" and message.role == "user":
            file = converted(part, _FilePart, at)
            content.append(_media(file.url, file.media_type, file.filename, f"{at}.url"))
        elif "tool" in kept and _is_tool(type):
            tools.append(converted(part, _ToolPart, at))
    yield from _ui_step(message.role, content, tools)


def _is_tool(type: str) -> bool:
    old = "tool-invocation"  # of version 4, in a history that was stored
    return type == "dynamic-tool" or (type.startswith("tool-") and type != old)


def _ui_step(role: str, content: list[str | _Media], tools: list[_ToolPart]) -> Iterator[_Turn]:
    yield _Turn(role, content, tuple(tool.call() for tool in tools))
    yield from (answer for tool in tools if (answer := tool.answer()) is not None)


class _Function(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] = ""  # some clients decode them


class _Custom(msgspec.Struct):
    name: str
    input: str = ""


class _ToolCall(msgspec.Struct):
    id: str
    function: _Function | None = None
    custom: _Custom | None = None  # of a tool whose arguments are free text

    def call(self) -> _Call | None:
        if self.function is not None:
            arguments = self.function.arguments or "{}"
            return _Call(self.id, self.function.name, _as_text(arguments))
        if self.custom is not None:  # as a call that every API has
            return _Call(self.id, self.custom.name, _as_json({"input": self.custom.input}))
        return None


def _calls(calls: Any, place: str, kept: frozenset[str]) -> tuple[_Call, ...]:
    """The calls of an assistant's message in the form of Chat Completions."""
    if "tool" not in kept or calls is None:
        return ()
    read = (call.call() for call in converted(calls, list[_ToolCall], place))
    return tuple(call for call in read if call is not None)


class _AGUIMessage(msgspec.Struct, rename="camel"):
    role: str
    content: Any = None  # of an activity it is an object
    tool_calls: Any = None
    tool_call_id: str | None = None
    error: str | None = None


class _AGUIBody(msgspec.Struct):
    messages: list[_AGUIMessage]


class _Source(msgspec.Struct, rename="camel"):
    type: str
    value: str
    mime_type: str | None = None


class _AGUIMedia(msgspec.Struct):
    source: _Source


class _AGUIBinary(msgspec.Struct, rename="camel"):  # before 1.0
    mime_type: str
    data: str | None = None
    url: str | None = None
    filename: str | None = None


_AGUI_MEDIA = {"image": "image", "audio": "audio", "video": "video", "document": "application"}


def _agui_messages(body: Mapping[str, Any], kept: frozenset[str]) -> Iterator[_Turn]:
    """`HttpAgent` of @ag-ui/client."""
    for number, message in enumerate(converted(body, _AGUIBody).messages):
        if message.role not in kept:  # also reasoning and activities
            yield _Turn(message.role, [])
            continue
        place = f"messages[{number}]"
        if message.role == "tool":
            text = message.error or _as_text(message.content)
            yield _Turn("tool", [text], (), message.tool_call_id)
            continue
        content = list(_pieces(message.content, f"{place}.content", _agui_part, message.role))
        calls = _calls(message.tool_calls, f"{place}.toolCalls", kept)
        yield _Turn(message.role, content, calls)


def _agui_part(part: Mapping[str, Any], type: str, place: str) -> str | _Media | None:
    if type == "text":
        return converted(part, _TextPart, place).text
    if type == "binary":
        old = converted(part, _AGUIBinary, place)
        url = old.url or f"data:{old.mime_type};base64,{old.data or ''}"
        return _media(url, old.mime_type, old.filename, place)
    if type not in _AGUI_MEDIA:
        return None
    source = converted(part, _AGUIMedia, place).source
    if source.type not in ("data", "url"):
        return None  # a handle that only the service which gave it knows
    mime = source.mime_type or _AGUI_MEDIA[type]
    url = f"data:{mime};base64,{source.value}" if source.type == "data" else source.value
    return _media(url, mime, None, place)


class _ChatMessage(msgspec.Struct):
    role: str
    content: Any = None
    tool_calls: Any = None
    tool_call_id: str | None = None


class _ChatBody(msgspec.Struct):
    messages: list[_ChatMessage] | None = None
    prompt: str | None = None


class _Address(msgspec.Struct):
    url: str


class _ImagePart(msgspec.Struct):
    image_url: _Address


class _File(msgspec.Struct):
    file_data: str
    filename: str | None = None


class _ChatFilePart(msgspec.Struct):
    file: _File


class _Audio(msgspec.Struct):
    data: str
    format: str


class _AudioPart(msgspec.Struct):
    input_audio: _Audio


def _chat_messages(body: Mapping[str, Any], kept: frozenset[str]) -> Iterator[_Turn]:
    """An OpenAI client."""
    posted = converted(body, _ChatBody)
    if posted.messages is None:
        raise BadRequest("the body has no messages")
    for number, message in enumerate(posted.messages):
        if message.role not in kept:
            yield _Turn(message.role, [])
            continue
        place = f"messages[{number}]"
        content = list(_pieces(message.content, f"{place}.content", _chat_part, message.role))
        if message.role == "tool":
            yield _Turn("tool", content, (), message.tool_call_id)
            continue
        yield _Turn(message.role, content, _calls(message.tool_calls, f"{place}.tool_calls", kept))


def _chat_part(part: Mapping[str, Any], type: str, place: str) -> str | _Media | None:
    if type == "text":
        return converted(part, _TextPart, place).text
    if type == "image_url":
        return _media(converted(part, _ImagePart, place).image_url.url, "image", None, place)
    if type == "file":
        file = converted(part, _ChatFilePart, place).file
        return _media(file.file_data, "application", file.filename, place)
    if type == "input_audio":
        audio = converted(part, _AudioPart, place).input_audio
        detail = "mpeg" if audio.format == "mp3" else audio.format.lower()
        return _media(f"data:audio/{detail};base64,{audio.data}", f"audio/{detail}", None, place)
    return None


def _own_messages(body: Mapping[str, Any], kept: frozenset[str]) -> Iterator[_Turn]:
    """A page of one's own: {"prompt": text}, or turns as an OpenAI client has them."""
    prompt = converted(body, _ChatBody).prompt
    if prompt is None:
        return _chat_messages(body, kept)
    return iter((_Turn("user", [prompt]),))


_Reader = Callable[[Mapping[str, Any], frozenset[str]], Iterator[_Turn]]

_READERS: dict[str, _Reader] = {
    "events": _own_messages,
    "ui-message": _ui_messages,
    "ag-ui": _agui_messages,
    "chat-completions": _chat_messages,
    "text": _own_messages,
    "html": _own_messages,
}


def _pieces(
    content: Any,
    place: str,
    read: Callable[[Mapping[str, Any], str, str], str | _Media | None],
    role: str,
) -> Iterator[str | _Media]:
    """Content that is a text, a list of parts, or absent. Only a user has files."""
    if content is None:
        return
    if isinstance(content, str):
        yield content
        return
    if isinstance(content, list) and len(content) > _MOST_PARTS:
        raise _too_many_parts()
    for number, part in enumerate(content if isinstance(content, list) else [None]):
        at = f"{place}[{number}]" if isinstance(content, list) else place
        type = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or not isinstance(type, str):
            raise BadRequest(f"the body is not as its protocol has it, at {at}")
        found = read(part, type, at) if role == "user" or type == "text" else None
        if found is not None:
            yield found


def _form(body: Any, max_bytes: int) -> dict[str, Any] | None:
    """The fields of a form that htmx has posted (urlencoded); None for anything else."""
    if not isinstance(body, (bytes, bytearray, str)) or len(body) > max_bytes:
        return None
    text = body if isinstance(body, str) else bytes(body).decode("utf-8", "replace")
    if text.lstrip()[:1] in ("{", ""):
        return None
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_TURNS))
    except ValueError:
        return None


def _as_json(value: Any) -> str:
    try:
        return encode_json(value).decode()
    except OverflowError:  # an integer of more than 64 bits
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        raise BadRequest("the body has an input or output of a tool that is no JSON") from None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else _as_json(value)
