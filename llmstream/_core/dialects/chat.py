"""The Chat Completions API, as the many servers that speak it implement it.

Source: the API reference, and recordings of seventeen services. These show: a finish_reason or
[DONE] completes the answer, and some services send only one of them; usage, more content or an
error may arrive after the finish; tool calls may lack an index, share one, or repeat an empty id;
reasoning has three names; content may be a list of parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import msgspec

from ...errors import ConfigurationError
from ...events import chat as ev
from ...events.base import AnyEvent, Event, UnknownEvent, decode_json
from ...result import Chunk, LLMStreamError, Usage
from ..checks import shown
from ..classify import error_from_payload
from ..finish import broken_off, finish_word
from ..request import HTTPRequest, Request, StoredResponse, encode_body
from ..state import FastPath, ItemState, State, merge_usage
from ..tool_calls import ToolCallState, arguments_to_send, call_ids, finish_with_calls, is_json
from .base import CONTENT, CUT, NOTHING, PROGRESS, Activity, Effect, unknown
from .lenient import lenient
from .profiles import DEFAULT, Profile, endpoint
from .refused import without_refused
from .tools import asks_for_structure, chosen_tool, function_tool
from .usage import metrics_usage, openai_usage

__all__ = ["CHAT", "ChatDialect"]

_FINISH = {
    "stop": "stop",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "length": "length",
    "model_length": "length",  # Mistral: the model's own limit
    "content_filter": "content_filter",
    "compaction": "pause",
}
_CLASSES: dict[str, type[Event]] = {
    "message": ev.ChatCompletionChunkEvent,
    "chat.completion.chunk": ev.ChatCompletionChunkEvent,
    "error": ev.ChatErrorEvent,
}
_ESSENTIAL = frozenset(
    {"choices", "delta", "refusal", "reasoning_content", "reasoning", "tool_calls", "function"}
)


class _PartialCall:
    """A tool call as far as it has arrived. `number` is the index that the server sent, or None."""

    __slots__ = ("custom", "deltas", "extra", "id", "inner", "name", "number")

    def __init__(self, number: int | None) -> None:
        self.number = number
        self.id: str | None = None
        self.name = ""
        self.custom = False
        self.deltas: list[str] = []
        self.extra: dict[str, Any] = {}  # fields of its own that the reference does not have
        self.inner: dict[str, Any] = {}  # the same of its function

    @property
    def has_arguments(self) -> bool:
        return any(self.deltas)

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are a whole object. An empty one may be a placeholder."""
        if not self.deltas or not self.deltas[-1].rstrip().endswith("}"):
            return False
        text = "".join(self.deltas)
        return text.strip() != "{}" and is_json(text)

    def has_sent(self, arguments: Any) -> bool:
        """Whether these are the arguments so far: the whole call a second time."""
        return _arguments(arguments) == "".join(self.deltas)

    def add_name(self, piece: str) -> None:
        """Some services send the name in pieces, some the whole name, or all of it so far, in every
        delta."""
        self.name = piece if piece.startswith(self.name) else self.name + piece


class ChatDialect:
    """The Chat Completions API as a dialect, as the service of `profile` implements it."""

    name = "chat"
    default_base_url = "https://api.openai.com/v1"
    default_model: str | None = None
    text_part = "text"
    default_max_tokens: int | None = None

    def __init__(self, profile: Profile = DEFAULT) -> None:
        self._profile = profile

    def with_profile(self, profile: Profile) -> ChatDialect:
        return ChatDialect(profile)

    # -- requests

    def request(self, request: Request, base_url: str) -> HTTPRequest:
        if request.background:
            raise ConfigurationError("the Chat Completions API has no background responses")
        profile = self._profile
        body = {
            "model": request.model,
            "messages": _messages(request),
            "stream": True,
            "stream_options": {"include_usage": True} if profile.usage else None,
            profile.max_tokens: request.max_output_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop": request.stop,
            "tools": [_tool(tool) for tool in request.tools] if request.tools else None,
            "tool_choice": _tool_choice(request.tool_choice),
            **_thinking(request.thinking, profile),
        }
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        url = endpoint(profile, base_url, "/chat/completions")
        choices = (request.extra_body or {}).get("n")
        return HTTPRequest(
            "POST",
            url,
            headers,
            encode_body(body, request.extra_body),
            choices if isinstance(choices, int) else 1,
        )

    def auth(self, api_key: str) -> dict[str, str]:
        return bearer(api_key)

    def without_refused_option(
        self, request: HTTPRequest, error: LLMStreamError
    ) -> HTTPRequest | None:
        """Some servers refuse `stream_options`, some know only one of the names of the limit."""
        return without_refused(request, error, ("max_tokens", "max_completion_tokens"))

    def stored(self, request: HTTPRequest, response_id: str) -> StoredResponse | None:
        return None

    # -- responses

    # With the class, under the import lock: see TypedDialect.
    _decoder = msgspec.json.Decoder(ev.ChatCompletionChunkEvent)

    def decode(self, name: str, data: bytes) -> AnyEvent:
        if name == "error":
            payload = decode_json(data)
            inner = payload.get("error", payload) if isinstance(payload, dict) else payload
            return ev.ChatErrorEvent(error=inner, raw=data)
        try:
            event: AnyEvent = self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            event = lenient("message", data, _CLASSES, _ESSENTIAL)
            if isinstance(event, UnknownEvent) and event.type == "message":
                event.type = name
        if isinstance(event, ev.ChatCompletionChunkEvent) and _is_not_a_chunk(event):
            payload = decode_json(data)
            kind = str(payload.get("type", name))
            flat = event.object == "error" or (kind == "error" and "message" in payload)
            event = ev.ChatErrorEvent(error=payload) if flat else UnknownEvent(kind, payload)
        event.raw = data
        event.chunks = ()  # whatever a service may have sent under this name
        return event

    def apply(self, state: State, event: AnyEvent) -> Effect:
        fast, chunk_event = state.fast_path, ev.ChatCompletionChunkEvent
        if (
            fast is not None
            and isinstance(event, chunk_event)
            and (text := _only_text(event, fast))
        ):
            event.chunks = state.append_fast(fast, text)
            return CONTENT
        state.fast_path = None
        if isinstance(event, ev.ChatErrorEvent):
            return Effect(error=error_from_payload({"error": event.error}, state.unix_time()))
        if not isinstance(event, ev.ChatCompletionChunkEvent):
            return unknown(state, event) if isinstance(event, UnknownEvent) else NOTHING
        state.response_id = event.id or state.response_id
        state.model = event.model or state.model
        state.service_tier = event.service_tier or state.service_tier
        _take_usage(state, event)
        activity = Activity.NONE
        chunks: list[Chunk] = []
        for choice in event.choices or ():
            activity = max(activity, self._choice(state, choice, chunks, event.raw))
        event.chunks = tuple(chunks)
        failure = event.error or (event.x_groq.error if event.x_groq is not None else None)
        failure = failure or next((c.error for c in event.choices or () if c.error), None)
        if failure:
            _show_last_finish(state)
            failed = error_from_payload({"error": failure}, state.unix_time())
            return Effect(activity, error=failed)
        for choice in event.choices or ():
            if choice.finish_reason and (error := broken_off(choice.finish_reason)) is not None:
                return Effect(activity, error=error)
        effect = self._effect(state, activity)
        if effect is CONTENT:
            _open_fast_path(state, event)
        return effect

    def _effect(self, state: State, activity: Activity) -> Effect:
        items = state.items.values()
        finished = len(items) >= state.expected and all(item.closed for item in items)
        if finished:
            state.status = "completed"
            state.finish = finish_with_calls(state.finish, self.calls(state))
        if finished and "finish" in self._profile.ends:
            return Effect(activity, complete=True, linger=self._profile.linger)
        if state.status is not None and not finished:
            state.status = None
            return Effect(activity, reopens=True)
        return (NOTHING, PROGRESS, CONTENT)[activity]

    def done(self, state: State) -> Effect:
        """[DONE] completes an answer for which there is evidence that it ended: a finish_reason,
        wherever it was sent, or the usage that was asked for."""
        items = state.items.values()
        reasons = [item.extra.get("finish") for item in items]
        used = state.usage.output_tokens
        whole = used is not None or any("whole" in item.extra for item in items)
        if not (any(reasons) or used or (whole and _has_said(state))):
            return CUT if state.items else NOTHING  # without a choice: another API's stream
        for item, reason in zip(items, reasons, strict=True):
            if reason:
                _finish(state, item, reason)
            _close(item)
        state.status = "completed"
        state.finish = finish_with_calls(state.finish, self.calls(state))
        return Effect(complete="done" in self._profile.ends or state.finish is not None)

    def end_of_body(self, state: State) -> Effect:
        """A finish_reason before any text completes an answer without text if nothing followed."""
        items = state.items.values()
        if len(items) < max(state.expected, 1) or not all("last" in item.extra for item in items):
            return NOTHING
        return self.done(state)

    def _choice(self, state: State, choice: ev.Choice, chunks: list[Chunk], raw: bytes) -> Activity:
        index = choice.index or 0
        item = state.item(index, None)
        item.type = "message"
        if state.primary is None:  # the first of several choices is the answer
            state.primary = index if state.expected == 1 else 0
        delta = choice.delta
        if delta is None and choice.message is not None:
            delta = _not_streamed(item, choice.message)  # from servers that do not stream
            item.extra["whole"] = True
        elif delta is None and choice.text:
            raise ValueError("it has a choice of the older completions API, not of the chat API")
        activity = Activity.NONE
        before = len(chunks)
        if delta is not None:
            activity = self._delta(state, item, delta, chunks, raw)
        if len(chunks) > before:
            item.extra.pop("last", None)
            if item.closed and any(chunk.type != "thinking" for chunk in chunks[before:]):
                _reopen(state, item)
        reason = finish_word(choice.finish_reason)
        if reason is not None and broken_off(reason) is None:
            item.extra["finish"] = reason
            if len(chunks) == before:
                item.extra["last"] = True
            # Some gateways send it with the first, empty chunk, or with each thought.
            said = state.items.values() if state.expected == 1 else (item,)
            if any(map(_says_something, said)):
                _finish(state, item, reason)
            activity = max(activity, Activity.PROGRESS)
        return activity

    def _delta(
        self,
        state: State,
        item: ItemState,
        delta: ev.ChoiceDelta,
        chunks: list[Chunk],
        raw: bytes,
    ) -> Activity:
        activity = Activity.NONE
        if delta.reasoning_details and "reasoning_details" in self._profile.returns:
            _keep_details(item.extra.setdefault("details", []), delta.reasoning_details)
        texts = [("thinking", _reasoning(delta, self._profile.reasoning))]
        texts += _content(delta.content)
        texts.append(("refusal", delta.refusal))
        for kind, text in texts:
            if text:
                if item.index != state.primary:
                    _choose(state, item)
                item.part(kind, kind).add(text)
                # Every choice has chunks, but only the first one is the text of the answer.
                chunks += (
                    state.emit(kind, text, item.index)
                    if item.index == state.primary
                    else [Chunk(kind, text, item.index)]
                )
                activity = Activity.CONTENT
        touched: list[_PartialCall] = []
        for piece in _call_pieces(delta):
            arguments = self._call(item, piece, raw, touched)
            activity = max(activity, Activity.PROGRESS)
            if arguments:
                chunks.append(Chunk("tool_call", arguments, item.index))
                activity = Activity.CONTENT
        return Activity.CONTENT if _has_audio(delta.audio) else activity

    def _call(
        self,
        item: ItemState,
        piece: ev.ChoiceDeltaToolCall,
        raw: bytes,
        touched: list[_PartialCall],
    ) -> str:
        function = piece.function or _custom(piece.custom)
        calls: list[_PartialCall] = item.extra.setdefault("calls", [])
        call = _call_of(calls, piece, function.name or None, self._profile.calls, touched)
        touched.append(call)
        again = bool(piece.id) and piece.id == call.id and bool(function.name)
        call.id = piece.id or call.id
        if function.name and function.name != call.name:
            call.add_name(function.name)
        call.custom = call.custom or piece.type == "custom"
        if piece.id or function.name or b"signature" in raw or b"extra_content" in raw:
            _keep_unknown(call, item.index, piece, raw)
        text = function.arguments
        if text is None:
            return ""
        if again and call.is_whole and call.has_sent(text):
            return ""
        text = _arguments(text)
        call.deltas.append(text)
        return text

    def calls(self, state: State) -> Iterator[ToolCallState]:
        calls = _answer_calls(state)
        ids = call_ids(state, [call.id for call, _ in calls])
        for (call, closed), id in zip(calls, ids, strict=True):
            yield ToolCallState(id, call.name, "".join(call.deltas), call.custom, closed)

    def assistant_turn(self, state: State, safe: frozenset[str]) -> tuple[Any, ...]:
        first = state.items.get(state.primary or 0)
        if first is None or not first.closed:
            return ()
        message = _message(first)
        calls = [call for call, _ in _answer_calls(state)]
        ids = call_ids(state, [call.id for call in calls])
        shown = [
            {**_call_message(call), "id": id}
            for call, id in zip(calls, ids, strict=True)
            if id in safe
        ]
        message.pop("tool_calls", None)
        if shown:
            message["tool_calls"] = shown
        _add_reasoning(message, first, self._profile.returns)
        filled = message["content"] or message.get("refusal") or message.get("tool_calls")
        return (message,) if filled else ()

    def continued_turn(self, text: str) -> dict[str, Any]:
        return {"role": "assistant", "content": text}

    def asks_for_structure(self, extra: Mapping[str, Any]) -> bool:
        return asks_for_structure(extra)

    def is_unfinished(self, payload: Any) -> bool:
        return False

    def events_from_json(self, payload: Any, raw: bytes) -> tuple[AnyEvent, ...]:
        choices = payload.get("choices") if isinstance(payload, dict) else None
        if not isinstance(choices, list) or not any(
            isinstance(choice, dict) and isinstance(choice.get("message"), dict)
            for choice in choices
        ):
            return ()
        return (self.decode("message", raw),)


def bearer(api_key: str) -> dict[str, str]:
    """The Authorization header of RFC 6750."""
    return {"authorization": f"Bearer {api_key}"}


# ---- reading a chunk ---------------------------------------------------------------------------


def _has_audio(audio: Any) -> bool:
    """Whether it is a piece of audio or of its transcript, and not only its id."""
    if not isinstance(audio, dict):
        return bool(audio)
    return any(value for key, value in audio.items() if key not in ("id", "expires_at"))


def _only_text(event: ev.ChatCompletionChunkEvent, fast: FastPath) -> str:
    """The text of an event that has nothing else and belongs to the same choice of the same answer
    as the event before; "" for any other event."""
    choices = event.choices
    if (
        choices is None
        or len(choices) != 1
        or event.usage is not None
        or event.error is not None
        or event.x_groq is not None
    ):
        return ""
    choice = choices[0]
    delta = choice.delta
    if (
        delta is None
        or choice.finish_reason is not None
        or choice.error is not None
        or (event.id, event.model, event.service_tier, choice.index) != fast.key
        or delta.reasoning_content is not None
        or delta.reasoning is not None
        or delta.reasoning_details is not None
        or delta.refusal is not None
        or delta.tool_calls is not None
        or delta.function_call is not None
        or delta.audio is not None
    ):
        return ""
    text = delta.content
    return text if isinstance(text, str) else ""


def _open_fast_path(state: State, event: ev.ChatCompletionChunkEvent) -> None:
    choice = event.choices[0] if event.choices else ev.Choice()
    if choice.usage is not None or (choice.delta is not None and choice.delta.usage is not None):
        return  # from a service that has it in every chunk
    item = state.items.get(choice.index or 0)
    part = item.content.get("text") if item is not None else None
    if item is not None and part is not None and item.index == state.primary and not item.closed:
        key = (event.id, event.model, event.service_tier, choice.index)
        state.open_fast_path(key, part, item.index)


def _not_streamed(item: ItemState, message: ev.ChoiceDelta) -> ev.ChoiceDelta:
    """A whole message without the fields that deltas have contained before."""
    texts = ("content", "refusal", "reasoning", "reasoning_content", "reasoning_details")
    streamed = (texts if item.content else ()) + (
        ("tool_calls", "function_call") if item.extra.get("calls") else ()
    )
    return msgspec.structs.replace(message, **dict.fromkeys(streamed))


def _is_not_a_chunk(event: ev.ChatCompletionChunkEvent) -> bool:
    if event.object == "error":  # vLLM's flat form
        return True
    if event.choices is not None:
        return False
    known = (event.usage, event.error, event.object, event.id, event.x_groq)
    return all(value is None for value in known)


def _reasoning(delta: ev.ChoiceDelta, fields: tuple[str, ...]) -> str | None:
    """The reasoning: the first of `fields` that is not empty, because some services send two."""
    for field in fields:
        value = getattr(delta, field)
        if isinstance(value, list):
            value = "".join(
                str(part.get("text") or part.get("summary") or "")
                for part in value
                if isinstance(part, dict)
            )
        if value:
            return str(value)
    return None


def _content(content: Any) -> list[tuple[str, str | None]]:
    """Text, or a list of text and thinking parts (Mistral)."""
    if not isinstance(content, list):
        if content is not None and not isinstance(content, str):
            raise ValueError("the content of a chunk is neither text nor a list of parts")
        return [("text", content)]
    texts: list[tuple[str, str | None]] = []
    for part in content:
        if isinstance(part, dict) and part.get("type") == "thinking":
            inner = part.get("thinking")
            texts += [("thinking", text) for _, text in _content(inner)]
        else:
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(part, str) or not isinstance(text, (str, type(None))):
                raise ValueError("a part of a chunk's content is not text")
            texts.append(("text", text))
    return texts


def _call_pieces(delta: ev.ChoiceDelta) -> list[ev.ChoiceDeltaToolCall]:
    pieces = list(delta.tool_calls or ())
    if delta.function_call is not None:  # the older form: one call, without an id and an index
        pieces.append(ev.ChoiceDeltaToolCall(index=0, function=delta.function_call))
    return pieces


def _arguments(sent: Any) -> str:
    """Arguments as text: some servers send them as decoded JSON."""
    return sent if isinstance(sent, str) else msgspec.json.encode(sent).decode()


def _custom(custom: Any) -> ev.ChoiceDeltaFunction:
    fields = custom if isinstance(custom, dict) else {}
    return ev.ChoiceDeltaFunction(name=fields.get("name"), arguments=fields.get("input"))


def _call_of(
    calls: list[_PartialCall],
    piece: ev.ChoiceDeltaToolCall,
    name: str | None,
    apart: str,
    touched: list[_PartialCall],
) -> _PartialCall:
    """The call that a piece belongs to, made if there is none. `touched`: the calls that other
    pieces of the same delta belong to.

    The index distinguishes calls, unless the piece has a new id and a name: then two calls share
    the index. Without an index a new id begins a call; without an id a new name does.
    """
    index = None if apart == "id" and piece.id and name else piece.index
    found = None
    if piece.id:
        found = next(
            (c for c in reversed(calls) if c.id == piece.id and index in (None, c.number)), None
        )
    if found is None and index is not None:
        found = next((c for c in reversed(calls) if c.number == index), None)
    elif found is None and piece.id:
        if not name and calls and calls[-1].id is None:
            found = calls[-1]
    elif found is None:
        found = calls[-1] if calls else None
    if found is None and not name and not piece.id and calls and calls[-1].number is None:
        found = calls[-1]  # the index is sent only now
        found.number = piece.index
    if found is None or _is_another(found, piece, name, found in touched):
        found = _PartialCall(piece.index)
        calls.append(found)
    return found


def _is_another(
    call: _PartialCall, piece: ev.ChoiceDeltaToolCall, name: str | None, touched: bool
) -> bool:
    """Whether the piece begins another call, though it has the index of `call`, or none."""
    if piece.id and call.id and piece.id != call.id:
        return bool(name) or call.is_whole  # else an id that changes from delta to delta
    if not name or not call.name:
        return False
    same_id = bool(piece.id) and piece.id == call.id
    if touched and not (same_id and name == call.name):
        return True  # two names in one delta are not pieces of one
    if not call.has_arguments:  # a further piece of the name, or the whole name again
        return False
    if name != call.name:
        return not same_id or call.is_whole
    # The name comes again with every piece, or it is a second call of the same function.
    text = (piece.function or _custom(piece.custom)).arguments
    return bool(text) and call.is_whole and not (same_id and call.has_sent(text))


def _finish(state: State, item: ItemState, reason: str) -> None:
    parts = _parts(state)
    if item.index == state.primary or item in parts:
        state.finish = _FINISH.get(reason, reason)
        for part in parts:
            _close(part)
        _close(state.items[state.primary or 0])
    item.status = reason
    _close(item)


def _reopen(state: State, item: ItemState) -> None:
    """More has arrived after the finish: it proves nothing yet."""
    if item.index == state.primary:
        state.finish = None
    item.status = None
    item.closed = False
    item.wire = None


def _show_last_finish(state: State) -> None:
    """An error follows a finish that has proved nothing so far: the word is shown beside it."""
    first = state.items.get(state.primary or 0)
    if state.finish is None and first is not None and "last" in first.extra:
        reason = first.extra["finish"]
        state.finish = _FINISH.get(reason, reason)


def _says_something(item: ItemState) -> bool:
    """Whether text, a refusal or a call has arrived: what may come before a finish that counts."""
    return "text" in item.content or "refusal" in item.content or bool(item.extra.get("calls"))


def _has_said(state: State) -> bool:
    return any(item.content or item.extra.get("calls") for item in state.items.values())


def _parts(state: State) -> list[ItemState]:
    """The choices that belong to the answer besides the first one, where one answer was asked for:
    some gateways put its calls or its finish in another choice. A choice with a text of its own, or
    with calls besides those of the first, is another answer."""
    first = state.items.get(state.primary or 0)
    if state.expected != 1 or first is None or len(state.items) == 1:
        return []
    called = bool(first.extra.get("calls"))
    return [
        item
        for item in state.in_order()
        if item is not first and not item.content and not (called and item.extra.get("calls"))
    ]


def _choose(state: State, item: ItemState) -> None:
    """`item` begins to have content: it is the answer if one was asked for, and the first choice
    has nothing."""
    first = state.items.get(state.primary or 0)
    empty = first is None or not (first.content or first.closed or first.extra.get("calls"))
    if state.expected == 1 and empty:
        state.primary = item.index


def _answer_calls(state: State) -> list[tuple[_PartialCall, bool]]:
    """The calls of the answer, and whether each is closed. Any thread."""
    first = state.items.get(state.primary or 0)
    if first is None:
        return []
    items = [first, *_parts(state)]
    calls = [(call, item.closed) for item in items for call in list(item.extra.get("calls", ()))]
    # An id alone after other calls is not one.
    return calls[:1] + [(c, closed) for c, closed in calls[1:] if c.name or c.has_arguments]


_CALL_FIELDS = frozenset({"index", "id", "type", "function", "custom"})
_FUNCTION_FIELDS = frozenset({"name", "arguments", "input"})


def _keep_unknown(
    call: _PartialCall, index: int, piece: ev.ChoiceDeltaToolCall, raw: bytes
) -> None:
    """Keep the fields of a call, and of its function, that the reference does not have: a service
    may want them back (Gemini's `extra_content` has the signature of a thought)."""
    for choice in decode_json(raw).get("choices") or ():
        if not isinstance(choice, dict) or (choice.get("index") or 0) != index:
            continue
        for message in (choice.get("delta"), choice.get("message")):
            pieces = message.get("tool_calls") if isinstance(message, dict) else None
            for sent in pieces if isinstance(pieces, list) else ():
                if isinstance(sent, dict) and _is_same_piece(sent, piece):
                    _merge(call.extra, sent, _CALL_FIELDS)
                    inner = sent.get("custom" if call.custom else "function")
                    _merge(call.inner, inner, _FUNCTION_FIELDS)


def _is_same_piece(sent: Mapping[str, Any], piece: ev.ChoiceDeltaToolCall) -> bool:
    function = sent.get("function")
    inner = function if isinstance(function, dict) else {}
    name = piece.function.name if piece.function is not None else None
    index = sent.get("index")
    return (
        (sent.get("id") or None) == (piece.id or None)
        and (inner.get("name") or None) == (name or None)
        and (index is None) == (piece.index is None)
        and (index is None or str(index) == str(piece.index))
    )


def _merge(kept: dict[str, Any], sent: Any, known: frozenset[str]) -> None:
    for key, value in sent.items() if isinstance(sent, dict) else ():
        if key not in known and value is not None:
            before = kept.get(key)
            if isinstance(before, dict) and isinstance(value, dict):
                value = {**before, **value}
            kept[key] = value


def _close(item: ItemState) -> None:
    item.closed = True
    item.wire = partial(_message, item)


def _message(item: ItemState) -> dict[str, Any]:
    """The choice as a message, with all its calls."""
    parts = {key: part.text for key, part in item.content.items()}
    message: dict[str, Any] = {"role": "assistant", "content": parts.get("text")}
    if parts.get("refusal"):
        message["refusal"] = parts["refusal"]
    calls = item.extra.get("calls", ())
    if calls:
        message["tool_calls"] = [_call_message(call) for call in calls]
    return message


_PIECES = ("text", "summary")  # the fields of a reasoning detail that arrive in pieces


def _keep_details(kept: list[dict[str, Any]], details: Any) -> None:
    """Keep OpenRouter's reasoning_details. The pieces of one detail become one again."""
    for detail in details if isinstance(details, list) else ():
        if not isinstance(detail, dict):
            continue
        last = kept[-1] if kept else {}
        same = all(last.get(key) == detail.get(key) for key in ("type", "index"))
        if same and any(isinstance(detail.get(key), str) for key in _PIECES):
            for key, value in detail.items():
                if key in _PIECES:
                    last[key] = (last.get(key) or "") + (value or "")
                elif value is not None:
                    last[key] = value
        elif same and detail.get("signature") and not detail.get("data"):
            last.update({key: value for key, value in detail.items() if value is not None})
        else:
            kept.append(dict(detail))


def _add_reasoning(message: dict[str, Any], item: ItemState, fields: tuple[str, ...]) -> None:
    """The reasoning, in those `fields` that the service wants back. DeepSeek and Kimi refuse a turn
    with calls without its reasoning; beside text alone it is of no use, and older models refuse
    it."""
    thinking = item.content.get("thinking")
    if "reasoning_content" in fields and thinking is not None and message.get("tool_calls"):
        message["reasoning_content"] = thinking.text
    if "reasoning_details" in fields and item.extra.get("details"):
        message["reasoning_details"] = [dict(detail) for detail in item.extra["details"]]


def _call_message(call: _PartialCall) -> dict[str, Any]:
    text = "".join(call.deltas)
    if call.custom:
        custom = {"name": call.name, "input": text, **call.inner}
        return {"id": call.id, "type": "custom", "custom": custom, **call.extra}
    function = {"name": call.name, "arguments": arguments_to_send(text), **call.inner}
    return {"id": call.id, "type": "function", "function": function, **call.extra}


def _take_usage(state: State, event: ev.ChatCompletionChunkEvent) -> None:
    reported = event.usage or _odd_usage(event)
    if reported is not None:
        state.usage = merge_usage(state.usage, _usage(reported))
    metrics = event.invocation_metrics
    if metrics is not None:  # it fills what nothing else has reported
        state.usage = merge_usage(metrics_usage(metrics), state.usage)


def _odd_usage(event: ev.ChatCompletionChunkEvent) -> ev.ChatUsage | None:
    """The usage in a choice (Kimi) or its delta, or in Groq's own field. With a breakdown several
    models have answered there, and the usage is that of one of them."""
    for choice in event.choices or ():
        for holder in (choice, choice.delta, choice.message):
            if holder is not None and holder.usage is not None:
                return holder.usage
    groq = event.x_groq
    return groq.usage if groq is not None and groq.usage_breakdown is None else None


def _usage(reported: ev.ChatUsage) -> Usage:
    return openai_usage(reported, reported.cost_details if reported.is_byok is True else None)


# ---- writing a request -------------------------------------------------------------------------


def _messages(request: Request) -> list[Any]:
    prompt, instructions = request.prompt, request.instructions
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    system = [{"role": "system", "content": instructions}] if instructions else []
    return [*system, *turns]


def _tool(tool: Any) -> Any:
    known = function_tool(tool)
    return tool if known is None else {"type": "function", "function": known}


def _tool_choice(choice: Any) -> Any:
    if choice == "any":  # the value in the Messages API
        return "required"
    name = chosen_tool(choice)
    return choice if name is None else {"type": "function", "function": {"name": name}}


def _thinking(thinking: Any, profile: Profile) -> Mapping[str, Any]:
    """`thinking=` as the profile's option: an effort, or an object in the service's own form."""
    if thinking is None or thinking is False:
        return {}
    option = profile.thinking
    if isinstance(thinking, dict) and option and option != "reasoning_effort":
        return {option: thinking}
    if option == "reasoning_effort" and (thinking is True or isinstance(thinking, str)):
        return {option: "medium" if thinking is True else thinking}
    if option == "reasoning":  # OpenRouter: an effort, or a budget in tokens
        if thinking is True or isinstance(thinking, str):
            return {option: {"effort": "medium" if thinking is True else thinking}}
        if isinstance(thinking, int):
            return {option: {"max_tokens": thinking}}
    if option == "chat_template_kwargs" and thinking is True:
        return {option: {"enable_thinking": True}}
    if option == "thinking" and thinking is True:
        return {option: {"type": "enabled"}}
    raise ConfigurationError(
        f"the profile {profile.name!r} has no option for thinking={shown(thinking)}: pass the "
        "server's own option in extra_body"
    )


CHAT = ChatDialect()
