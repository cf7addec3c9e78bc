"""The Chat Completions API, as the many servers that speak it implement it.

Source: the API reference, and recordings of seventeen services. These show: a finish_reason or
[DONE] completes the answer, and some services send only one of them; usage, more content or an
error may arrive after the finish; tool calls may lack an index, share one, or repeat an empty id;
reasoning has three names; content may be a list of parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import msgspec

from ...errors import ConfigurationError
from ...events import chat as ev
from ...events.base import AnyEvent, Event, UnknownEvent, decode_json, shallow
from ...result import Chunk, LLMStreamError, ToolCall
from ..checks import shown
from ..classify import error_from_payload
from ..finish import broken_off, finish_word
from ..numbering import Standing
from ..outcome import Approval, ToolOutcome
from ..request import HTTPRequest, Request, StoredResponse, encode_body
from ..schema import Fitted, SchemaRules
from ..state import Contradiction, FastPath, ItemState, Misplaced, State, merge_usage, rest_of
from ..think_tags import ThinkTags
from ..tool_calls import (
    RunningCall,
    ToolCallState,
    arguments_to_send,
    call_ids,
    decoded_arguments,
    finish_with_calls,
    has_safe_call,
    is_json,
    is_same_json,
    partition_calls,
)
from .base import CONTENT, CUT, NOTHING, PROGRESS, Activity, Effect, ServiceTool, unknown
from .declared import OPENAI_RULES, DeclaredTool, WrittenTools, write_tools
from .lenient import lenient
from .profiles import DEFAULT, Profile, endpoint
from .refused import without_refused
from .stray import refuse_text, text_fields
from .tools import (
    asks_for_structure,
    chosen_tool,
    function_tool,
    plain_choice,
    separate_functions,
)
from .turns.as_chat import chat_messages
from .turns.outcomes import outcome_turn
from .usage import counted_media, metrics_usage, openai_usage

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
_MOST_LOOKED = 1 << 24  # characters of a call that are read while it arrives
_LONGEST_NAME = 10_000  # characters of a call's name
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

    __slots__ = ("_looked", "custom", "deltas", "extra", "id", "inner", "lost", "name", "number")

    def __init__(self, number: int | None) -> None:
        self._looked = 0  # characters of arguments that were read to see whether they are whole
        self.number = number
        self.id: str | None = None
        self.name = ""
        self.custom = False
        self.lost = False  # a piece had nothing in it
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
        text = self._so_far()
        return text.strip() != "{}" and is_json(text)

    @property
    def is_safe(self) -> bool:
        """Whether it is safe to run if nothing more arrives."""
        closed = self.has_arguments or not self.lost
        call = ToolCallState(self.id, self.name, self._so_far(), self.custom, closed)
        return bool(partition_calls(iter((call,)), False, is_json)[0])

    def _so_far(self) -> str:
        """The arguments; half an object where they were looked at too often: each piece of many may
        end like the last one."""
        if self._looked > _MOST_LOOKED:
            return "{"
        text = "".join(self.deltas)
        self._looked += len(text)
        return text

    def has_sent(self, arguments: Any) -> bool:
        """Whether these are the arguments so far: the whole call a second time."""
        return decoded_arguments(arguments) == "".join(self.deltas)

    def add_name(self, piece: str) -> None:
        """Some services send the name in pieces, some the whole name, or all of it so far, in every
        delta."""
        self.name = piece if piece.startswith(self.name) else self.name + piece
        if len(self.name) > _LONGEST_NAME:
            raise Misplaced("the name of a call has no end")


class _Choices:
    """What is known of the choices of an answer, kept up to date: with thousands of choices or
    calls, no event looks at all of them.

    `open` are those that are not closed; `bare` those that had no content when they were begun or
    reopened. `said`: text, a refusal or a call has arrived. `safe` are the calls of the answer that
    are safe to run, but for those that have `changed` since.
    """

    __slots__ = ("bare", "changed", "open", "safe", "said")

    def __init__(self) -> None:
        self.open: dict[int, ItemState] = {}
        self.bare: dict[int, ItemState] = {}
        self.said = False
        self.safe: set[_PartialCall] = set()
        self.changed: dict[_PartialCall, ItemState] = {}

    def begin(self, item: ItemState) -> None:
        """A choice begins, or is reopened."""
        self.open[item.index] = item
        if not item.content:
            self.bare[item.index] = item

    def has_call(self, state: State) -> bool:
        """Whether the answer has a call that is safe to run."""
        first = state.items.get(state.primary or 0)
        for call, item in self.changed.items():
            if (item is first or _is_part(state, item)) and call.is_safe:
                self.safe.add(call)
        self.changed.clear()
        return bool(self.safe)


def _choices(state: State) -> _Choices:
    found: _Choices | None = state.choices
    if found is None:
        found = state.choices = _Choices()
    return found


class ChatDialect:
    """The Chat Completions API as a dialect, as the service of `profile` implements it."""

    name = "chat"
    default_base_url = "https://api.openai.com/v1"
    default_model: str | None = None
    text_part = "text"
    default_max_tokens: int | None = None
    schema_rules: ClassVar[SchemaRules] = OPENAI_RULES
    splits_thinking: ClassVar[bool] = True
    arrays: ClassVar[bool] = False

    def __init__(self, profile: Profile = DEFAULT) -> None:
        self._profile = profile

    def with_profile(self, profile: Profile) -> ChatDialect:
        return ChatDialect(profile)

    # -- requests

    def structured(
        self, name: str, schema: Mapping[str, Any] | None, strict: bool
    ) -> dict[str, Any]:
        if schema is None:
            return {"response_format": {"type": "json_object"}}
        wanted = {"name": name, "schema": schema, "strict": strict}
        return {"response_format": {"type": "json_schema", "json_schema": wanted}}

    def request(self, request: Request, base_url: str) -> HTTPRequest:
        if request.output is not None:
            from .structured import with_output

            request = with_output(request, self, self._profile.structured)
        if request.background:
            raise ConfigurationError("the Chat Completions API has no background responses")
        profile = self._profile
        tools = self._tools(request.tools) if request.tools else None
        body = {
            "model": request.model,
            "messages": self._messages(request),
            "stream": True,
            "stream_options": {"include_usage": True} if profile.usage else None,
            profile.max_tokens: request.max_output_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop": request.stop,
            "tools": tools.written if tools else None,
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
            strict=tools.strict if tools else (),
        )

    def _tools(self, tools: Any) -> WrittenTools:
        knows = self._profile.strict_tools
        return write_tools(
            separate_functions(tools),
            self.schema_rules,
            partial(_declared_tool, knows),
            _tool,
            knows,
        )

    def _messages(self, request: Request) -> list[Any]:
        prompt, instructions = request.prompt, request.instructions
        system = [{"role": "system", "content": instructions}] if instructions else []
        if isinstance(prompt, str):
            return [*system, {"role": "user", "content": prompt}]
        return [*system, *self.own_turns(prompt)]

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
            return _unknown(state, event) if isinstance(event, UnknownEvent) else NOTHING
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
        if not chunks and activity is not Activity.CONTENT:
            _refuse_strays(event)
        for choice in event.choices or ():
            if choice.finish_reason and (error := broken_off(choice.finish_reason)) is not None:
                return Effect(activity, error=error)
        effect = self._effect(state, activity)
        if effect is CONTENT:
            _open_fast_path(state, event)
        return effect

    def _effect(self, state: State, activity: Activity) -> Effect:
        choices = _choices(state)
        finished = len(state.items) >= state.expected and not choices.open
        if finished:
            state.status = "completed"
            state.finish = finish_with_calls(state.finish, choices.has_call(state))
        if finished and "finish" in self._profile.ends:
            return Effect(activity, complete=True, linger=self._profile.linger)
        if state.status is not None and not finished:
            state.status = None
            return Effect(activity, reopens=True)
        return (NOTHING, PROGRESS, CONTENT)[activity]

    def standing(self, state: State, event: AnyEvent) -> Standing:
        return Standing()  # the API has no numbers: none means that an event is known

    def done(self, state: State) -> Effect:
        """[DONE] completes an answer for which there is evidence that it ended: a finish_reason,
        wherever it was sent, or the usage that was asked for."""
        items = state.items.values()
        reasons = [item.extra.get("finish") for item in items]
        used = state.usage.output_tokens
        whole = used is not None or any("whole" in item.extra for item in items)
        if not (any(reasons) or used or (whole and _has_content(state))):
            return CUT if state.items else NOTHING  # without a choice: another API's stream
        for item, reason in zip(items, reasons, strict=True):
            if reason:
                _finish(state, item, reason)
            _close(state, item)
        state.status = "completed"
        state.finish = finish_with_calls(state.finish, has_safe_call(self.calls(state)))
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
        choices = _choices(state)
        if item.type is None:
            choices.begin(item)
        item.type = "message"
        if state.primary is None:  # the first of several choices is the answer
            state.primary = index if state.expected == 1 else 0
        delta = choice.delta
        if delta is None and choice.message is not None:
            delta = self._not_streamed(item, choice)  # from servers that do not stream
            item.extra["whole"] = True
        elif choice.text and (delta is None or not delta.content):
            raise ValueError("it has a choice of the older completions API, not of the chat API")
        activity = Activity.NONE
        before = len(chunks)
        if delta is not None:
            activity = self._delta(state, item, delta, chunks, raw)
        if choice.message is not None and choice.delta is not None and choice.finish_reason:
            rest = self._not_streamed(item, choice)  # the whole, beside its last piece
            activity = max(activity, self._delta(state, item, rest, chunks, raw))
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
            if choices.said if state.expected == 1 else _has_answer(item):
                _finish(state, item, reason)
            activity = max(activity, Activity.PROGRESS)
        return activity

    def _not_streamed(self, item: ItemState, choice: ev.Choice) -> ev.ChoiceDelta:
        """A whole message without what deltas have contained before. Raises Contradiction where
        they contained something else."""
        message = choice.message or ev.ChoiceDelta()
        tags = item.extra.pop("tags", None)
        if not item.content and not item.extra.get("calls"):
            return message
        texts = [("thinking", _reasoning(message, self._profile.reasoning))]
        texts += [*_content(message.content), ("refusal", message.refusal)]
        if tags is not None:
            texts = self._without_tags(item, texts)
        if self._profile.think_tags:
            item.extra["tags"] = None  # what is left of it has no tags
        wholes: dict[str, str] = {}
        for kind, text in texts:
            wholes[kind] = wholes.get(kind, "") + (text or "")
        parts = {kind: part.text for kind, part in item.content.items()}
        late = {kind: rest_of(whole, parts.get(kind, "")) for kind, whole in wholes.items()}
        again = "whole" in item.extra and choice.finish_reason is None
        if again and any(wholes.values()) and not any(late.values()):
            raise Misplaced("a message may be the same piece again, or the whole so far")
        rest = ev.ChoiceDelta(content=late.get("text"), refusal=late.get("refusal"))
        if late.get("thinking"):
            rest = msgspec.structs.replace(rest, **{self._profile.reasoning[0]: late["thinking"]})
        rest.tool_calls = _late_calls(item.extra.get("calls", []), _call_pieces(message))
        return rest

    def _delta(
        self,
        state: State,
        item: ItemState,
        delta: ev.ChoiceDelta,
        chunks: list[Chunk],
        raw: bytes,
    ) -> Activity:
        activity = Activity.NONE
        choices = _choices(state)
        if delta.reasoning_details and "reasoning_details" in self._profile.returns:
            shallow(raw)
            _keep_details(item.extra.setdefault("details", []), delta.reasoning_details)
        texts = [("thinking", _reasoning(delta, self._profile.reasoning))]
        texts += _content(delta.content)
        texts.append(("refusal", delta.refusal))
        if self._profile.think_tags:
            if any(text for _, text in texts):
                activity = Activity.CONTENT  # also where a tag is all of it
            state.release = _release
            texts = self._without_tags(item, texts)
        for kind, text in texts:
            if text:
                if item.index != state.primary:
                    _choose(state, item)
                    _refuse_stray(state, item)
                if not item.content:
                    _begin_content(state, item)
                choices.said |= kind != "thinking"
                item.part(kind, kind).add(text)
                # Every choice has chunks, but only the first one is the text of the answer.
                chunks += (
                    state.emit(kind, text, item.index)
                    if item.index == state.primary
                    else [Chunk(kind, text, item.index)]
                )
                activity = Activity.CONTENT
        touched = _Touched(item.index, raw)
        for piece in _call_pieces(delta):
            arguments = self._call(state, item, piece, touched)
            activity = max(activity, Activity.PROGRESS)
            if arguments:
                chunks.append(Chunk("tool_call", arguments, item.index))
                activity = Activity.CONTENT
        return Activity.CONTENT if _has_audio(delta.audio) else activity

    def _without_tags(
        self, item: ItemState, texts: list[tuple[str, str | None]]
    ) -> list[tuple[str, str | None]]:
        """`texts` with the thinking that the text has between tags as such. Where the service
        itself splits it off, or the answer began with something else, a tag is text."""
        opened = self._profile.think_tags == "open"
        tags = item.extra.setdefault("tags", ThinkTags(opened=opened))
        found: list[tuple[str, str | None]] = []
        if tags is not None and item.extra.get("calls") and not item.content:
            found, tags = tags.close(), None
        for kind, text in texts:
            if kind == "text" and text and tags is not None:
                found += tags.feed(text)
                continue
            if text and tags is not None:
                found += tags.close()
                tags = None
            found.append((kind, text))
        item.extra["tags"] = tags
        return found

    def _call(
        self, state: State, item: ItemState, piece: ev.ChoiceDeltaToolCall, touched: _Touched
    ) -> str:
        function = _function(piece)
        first = state.items.get(state.primary or 0)
        if state.expected == 1 and item is not first and first is not None:
            alone = not function.name and not piece.id and not item.extra.get("calls")
            if alone and first.extra.get("calls"):
                raise Misplaced("it has a piece of another choice than the answer's")
        calls: _Calls = item.extra.setdefault("calls", _Calls())
        before = len(calls)
        call = _call_of(calls, piece, function.name or None, self._profile.calls, touched.calls)
        _touch(state, item, call, first=not before)
        touched.calls.add(call)
        again = bool(piece.id) and piece.id == call.id and bool(function.name)
        if piece.id:
            calls.identify(call, piece.id)
        if function.name and function.name != call.name:
            call.add_name(function.name)
        call.custom = call.custom or piece.type == "custom"
        if piece.id or function.name or touched.has_more:
            touched.keep_unknown(call, piece)
        text = function.arguments
        if text is None:
            call.lost |= not piece.id and not function.name
            return ""
        if again and call.is_whole and call.has_sent(text):
            return ""
        if not isinstance(text, str) and (call.has_arguments or not isinstance(text, dict)):
            raise Misplaced("the arguments of a call are neither text nor one object")
        text = decoded_arguments(text)
        if text:  # thousands of empty ones say nothing
            call.deltas.append(text)
        return text

    def calls(self, state: State) -> Iterator[ToolCallState]:
        calls = _answer_calls(state)
        ids = call_ids(state, [call.id for call, _ in calls])
        for (call, closed), id in zip(calls, ids, strict=True):
            closed = closed and (call.has_arguments or not call.lost)
            yield ToolCallState(id, call.name, "".join(call.deltas), call.custom, closed)

    def running_calls(self, state: State, index: int) -> Sequence[RunningCall]:
        item = state.items.get(index)
        if item is None or (state.expected != 1 and index != state.primary):
            return ()
        calls: Sequence[RunningCall] = item.extra.get("calls", ())
        return calls

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

    def own_turns(self, turns: Sequence[Any]) -> list[Any]:
        profile = self._profile
        return chat_messages(turns, profile.call_ids, "reasoning_content" in profile.returns)

    def outcome_turns(self, outcomes: Sequence[ToolOutcome | Approval]) -> list[Any]:
        return self.own_turns(
            [outcome_turn(one) for one in outcomes if isinstance(one, ToolOutcome)]
        )

    def approval_requests(self, items: Sequence[Any]) -> tuple[ToolCall, ...]:
        return ()

    def service_tool(self, event: AnyEvent) -> ServiceTool | None:
        return None

    def serial_calls(self, choice: Any) -> dict[str, Any]:
        return {"parallel_tool_calls": False}

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


def _late_calls(
    calls: list[_PartialCall], pieces: list[ev.ChoiceDeltaToolCall]
) -> list[ev.ChoiceDeltaToolCall]:
    """What the calls of a whole message have beyond those that were streamed. Raises Contradiction
    where they are others."""
    late: list[ev.ChoiceDeltaToolCall] = []
    by_id = {call.id: call for call in calls if call.id}
    for place, piece in enumerate(pieces):
        known = by_id.get(piece.id or "")
        if known is None and len(pieces) == len(calls):
            known = calls[place]
        if known is None:
            late.append(piece)
            continue
        function = _function(piece)
        if function.name and known.name and function.name != known.name:
            raise Contradiction("a call of the whole message has another name than was streamed")
        streamed = "".join(known.deltas)
        whole = decoded_arguments(function.arguments) if function.arguments is not None else ""
        if is_same_json(whole, streamed):
            continue
        if is_json(whole) and not is_json(streamed) and not whole.startswith(streamed):
            known.deltas = [whole]  # a piece of it was lost
            continue
        rest = rest_of(whole, streamed)
        if rest:
            function = ev.ChoiceDeltaFunction(arguments=rest)
            late.append(ev.ChoiceDeltaToolCall(index=known.number, id=known.id, function=function))
    return late


_ANSWER = frozenset({"content", "refusal", "reasoning", "reasoning_content"})


def _refuse_strays(event: ev.ChatCompletionChunkEvent) -> None:
    """Raises Misplaced if a chunk that has added nothing has text in a field that no service of
    this API uses."""
    sent = event.json()
    choices = sent.get("choices")
    if choices is None:
        refuse_text(list(text_fields(sent).values()))
        refuse_text(sent.get("delta"))
    for choice in choices if isinstance(choices, list) else ():
        inner = [choice]
        if isinstance(choice, dict):
            inner += [choice.get("delta"), choice.get("message")]
        for fields in inner:
            strays = text_fields(fields)
            known = () if fields is choice else _ANSWER
            refuse_text([text for name, text in strays.items() if name not in known])


def _unknown(state: State, event: UnknownEvent) -> Effect:
    """An event that is no chunk. Between chunks it has no piece of the answer; without any it is
    a gateway's failure, or another API's."""
    effect = unknown(state, event)
    sent = event.data
    if effect is NOTHING and isinstance(sent, dict) and state.items:
        refuse_text(sent.get("delta"))
        if event.type == "message":  # it has neither a type nor a name
            strays = text_fields(sent)
            strays.pop("message", None)  # what a gateway has to say
            refuse_text(list(strays.values()))
    return effect


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
    """Text, or a list of text and thinking parts (Mistral), or one part."""
    if isinstance(content, dict) and "type" in content:
        content = [content]
    if not isinstance(content, list):
        if content is not None and not isinstance(content, str):
            raise ValueError("the content of a chunk is neither text nor a list of parts")
        return [("text", content)]
    texts: list[tuple[str, str | None]] = []
    for part in content:
        if isinstance(part, dict) and part.get("type") == "thinking":
            inner = part.get("thinking") or part.get("text")
            texts += [("thinking", text) for _, text in _content(inner)]
        else:
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(part, str) or not isinstance(text, (str, type(None))):
                raise ValueError("a part of a chunk's content is not text")
            if text is None and isinstance(part, dict) and isinstance(part.get("refusal"), str):
                texts.append(("refusal", part["refusal"]))
            else:
                if text is None:
                    refuse_text(part)
                texts.append(("text", text))
    return texts


def _call_pieces(delta: ev.ChoiceDelta) -> list[ev.ChoiceDeltaToolCall]:
    pieces = list(delta.tool_calls or ())
    if delta.function_call is not None:  # the older form: one call, without an id and an index
        pieces.append(ev.ChoiceDeltaToolCall(index=0, function=delta.function_call))
    return pieces


def _function(piece: ev.ChoiceDeltaToolCall) -> ev.ChoiceDeltaFunction:
    """The function of a piece of a call, wherever the service has put it."""
    function = piece.function
    if function is None and piece.custom is not None:
        return _custom(piece.custom)
    if piece.name is None and piece.arguments is None:
        return function or ev.ChoiceDeltaFunction()
    function = function or ev.ChoiceDeltaFunction()
    arguments = piece.arguments if function.arguments is None else function.arguments
    return ev.ChoiceDeltaFunction(name=function.name or piece.name, arguments=arguments)


def _custom(custom: Any) -> ev.ChoiceDeltaFunction:
    refuse_text(custom if isinstance(custom, str) else None)
    fields = custom if isinstance(custom, dict) else {}
    return ev.ChoiceDeltaFunction(name=fields.get("name"), arguments=fields.get("input"))


class _Calls(list[_PartialCall]):
    """The calls of a choice in their order; the latest one with a number or an id is found at
    once."""

    def __init__(self) -> None:
        super().__init__()
        self._by_number: dict[int | None, _PartialCall] = {}
        self._by_id: dict[tuple[str, int | None], _PartialCall] = {}

    def append(self, call: _PartialCall) -> None:
        super().append(call)
        if call.number is not None:
            self._by_number[call.number] = call

    def number(self, call: _PartialCall, number: int | None) -> None:
        call.number = number
        self._by_number[number] = call

    def identify(self, call: _PartialCall, id: str) -> None:
        call.id = id
        self._by_id[id, call.number] = self._by_id[id, None] = call

    def numbered(self, number: int) -> _PartialCall | None:
        return self._by_number.get(number)

    def with_id(self, id: str, number: int | None) -> _PartialCall | None:
        """With this id, and this number where one is given."""
        found = self._by_id.get((id, number))
        return found if found is not None and found.id == id else None


def _call_of(
    calls: _Calls,
    piece: ev.ChoiceDeltaToolCall,
    name: str | None,
    apart: str,
    touched: set[_PartialCall],
) -> _PartialCall:
    """The call that a piece belongs to, made if there is none. `touched`: the calls that other
    pieces of the same delta belong to.

    The index distinguishes calls, unless the piece has a new id and a name: then two calls share
    the index. Without an index a new id begins a call; without an id a new name does.
    """
    index = None if apart == "id" and piece.id and name else piece.index
    found = calls.with_id(piece.id, index) if piece.id else None
    if found is None and index is not None:
        found = calls.numbered(index)
    elif found is None and piece.id:
        if not name and calls and calls[-1].id is None:
            found = calls[-1]
    elif found is None:
        found = calls[-1] if calls else None
    if found is None and not name and not piece.id and calls and calls[-1].number is None:
        found = calls[-1]  # the index is sent only now
        calls.number(found, piece.index)
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
    text = _function(piece).arguments
    return bool(text) and call.is_whole and not (same_id and call.has_sent(text))


def _touch(state: State, item: ItemState, call: _PartialCall, first: bool) -> None:
    """A piece of a call has arrived, the `first` one of its choice or not."""
    choices = _choices(state)
    choices.said = True
    choices.safe.discard(call)
    choices.changed[call] = item
    if first and item.index == (state.primary or 0):
        choices.safe.clear()  # calls of other choices are those of other answers now


def _begin_content(state: State, item: ItemState) -> None:
    """The first text of a choice arrives: another one than the first is an answer of its own."""
    if item.index != (state.primary or 0):
        _choices(state).safe.difference_update(item.extra.get("calls", ()))


def _finish(state: State, item: ItemState, reason: str) -> None:
    if item.index == state.primary or _is_part(state, item):
        state.finish = _FINISH.get(reason, reason)
        choices = _choices(state)
        for part in tuple(choices.bare.values()):
            if _is_part(state, part):
                _close(state, part)
        choices.bare.clear()
        _close(state, state.items[state.primary or 0])
    item.status = reason
    _close(state, item)


def _release(state: State) -> list[Chunk]:
    """Nothing more arrives: the texts that were held back for what might have been a tag."""
    chunks: list[Chunk] = []
    for item in state.in_order():
        tags = item.extra.pop("tags", None)
        item.extra["tags"] = None
        for kind, text in tags.close() if tags is not None else ():
            _choose(state, item)
            item.part(kind, kind).add(text)
            if item.index == state.primary:
                chunks += state.emit(kind, text, item.index)
            else:
                chunks.append(Chunk(kind, text, item.index))
    return chunks


def _reopen(state: State, item: ItemState) -> None:
    """More has arrived after the finish: it proves nothing yet."""
    if item.index == state.primary:
        state.finish = None
    item.status = None
    item.closed = False
    item.wire = None
    _choices(state).begin(item)


def _show_last_finish(state: State) -> None:
    """An error follows a finish that has proved nothing so far: the word is shown beside it."""
    first = state.items.get(state.primary or 0)
    if state.finish is None and first is not None and "last" in first.extra:
        reason = first.extra["finish"]
        state.finish = _FINISH.get(reason, reason)


def _has_answer(item: ItemState) -> bool:
    """Whether text, a refusal or a call has arrived: what may come before a finish that counts."""
    return "text" in item.content or "refusal" in item.content or bool(item.extra.get("calls"))


def _has_content(state: State) -> bool:
    return any(item.content or item.extra.get("calls") for item in state.items.values())


def _parts(state: State) -> list[ItemState]:
    """The choices that belong to the answer besides the first one, where one answer was asked for:
    some gateways put its calls or its finish in another choice. A choice with a text of its own, or
    with calls besides those of the first, is another answer."""
    if state.expected != 1 or len(state.items) == 1:
        return []
    return [item for item in state.in_order() if _is_part(state, item)]


def _is_part(state: State, item: ItemState) -> bool:
    first = state.items.get(state.primary or 0)
    if state.expected != 1 or first is None or item is first or item.content:
        return False
    return not (first.extra.get("calls") and item.extra.get("calls"))


def _choose(state: State, item: ItemState) -> None:
    """`item` begins to have content: it is the answer if one was asked for, and the first choice
    has nothing."""
    first = state.items.get(state.primary or 0)
    empty = first is None or not (first.content or first.closed or first.extra.get("calls"))
    if state.expected == 1 and empty:
        state.primary = item.index
        choices = _choices(state)
        choices.safe.clear()
        choices.changed.update(dict.fromkeys(item.extra.get("calls", ()), item))


def _refuse_stray(state: State, item: ItemState) -> None:
    """Raises Misplaced if `item`, which begins to have content, is neither the answer nor a choice
    that a gateway may have sent unasked. These are numbered from 0 without a gap, and the first one
    is the answer: any other number is a piece of the answer in a wrong place."""
    if state.expected != 1 or item.index == state.primary:
        return
    if state.primary != 0 or not 0 < item.index < len(state.items):
        raise Misplaced("it has a piece of a choice whose number is none of the answer's")


def _answer_calls(state: State) -> list[tuple[_PartialCall, bool]]:
    """The calls of the answer, and whether each is closed. Any thread."""
    first = state.items.get(state.primary or 0)
    if first is None:
        return []
    items = [first, *_parts(state)]
    calls = [(call, item.closed) for item in items for call in list(item.extra.get("calls", ()))]
    # An id alone after other calls is not one.
    return calls[:1] + [(c, closed) for c, closed in calls[1:] if c.name or c.has_arguments]


_CALL_FIELDS = frozenset({"index", "id", "type", "function", "custom", "name", "arguments"})
_FUNCTION_FIELDS = frozenset({"name", "arguments", "input"})


class _Touched:
    """The calls that the pieces of one delta belong to, and what the event has of them besides the
    fields of the reference: a service may want it back (Gemini's `extra_content` has the signature
    of a thought). The event is decoded once, for all pieces."""

    __slots__ = ("_done", "_index", "_raw", "_sent", "calls", "has_more")

    def __init__(self, index: int, raw: bytes) -> None:
        self.calls: set[_PartialCall] = set()
        self.has_more = b"signature" in raw or b"extra_content" in raw
        self._index = index
        self._raw = raw
        self._sent: dict[Any, list[dict[str, Any]]] | None = None
        self._done: set[Any] = set()

    def keep_unknown(self, call: _PartialCall, piece: ev.ChoiceDeltaToolCall) -> None:
        name = piece.function.name if piece.function is not None else None
        key = _identity(piece.id, name, piece.index)
        if (call, key) in self._done:
            return
        self._done.add((call, key))
        if self._sent is None:
            self._sent = self._decoded()
        for sent in self._sent.get(key, ()):
            _merge(call.extra, sent, _CALL_FIELDS)
            inner = sent.get("custom" if call.custom else "function")
            _merge(call.inner, inner, _FUNCTION_FIELDS)

    def _decoded(self) -> dict[Any, list[dict[str, Any]]]:
        found: dict[Any, list[dict[str, Any]]] = {}
        for choice in decode_json(shallow(self._raw)).get("choices") or ():
            if not isinstance(choice, dict) or (choice.get("index") or 0) != self._index:
                continue
            for message in (choice.get("delta"), choice.get("message")):
                pieces = message.get("tool_calls") if isinstance(message, dict) else None
                for sent in pieces if isinstance(pieces, list) else ():
                    if isinstance(sent, dict):
                        function = sent.get("function")
                        name = function.get("name") if isinstance(function, dict) else None
                        key = _identity(sent.get("id"), name, sent.get("index"))
                        found.setdefault(key, []).append(sent)
        return found


def _identity(id: Any, name: Any, index: Any) -> tuple[str, str, str | None]:
    """What tells a piece of a call from the others of its delta."""
    return str(id or ""), str(name or ""), None if index is None else str(index)


def _merge(kept: dict[str, Any], sent: Any, known: frozenset[str]) -> None:
    for key, value in sent.items() if isinstance(sent, dict) else ():
        if key not in known and value is not None:
            before = kept.get(key)
            if isinstance(before, dict) and isinstance(value, dict):
                value = {**before, **value}
            kept[key] = value


def _close(state: State, item: ItemState) -> None:
    _choices(state).open.pop(item.index, None)
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
    """Keep OpenRouter's reasoning_details. The pieces of one detail become one again, in
    `_whole_detail`: until then they are a list."""
    for detail in details if isinstance(details, list) else ():
        if not isinstance(detail, dict):
            continue
        last = kept[-1] if kept else {}
        same = all(last.get(key) == detail.get(key) for key in ("type", "index"))
        if same and any(isinstance(detail.get(key), str) for key in _PIECES):
            for key, value in detail.items():
                if key in _PIECES:
                    last.setdefault(key, []).append(value or "")
                elif value is not None:
                    last[key] = value
        elif same and detail.get("signature") and not detail.get("data"):
            known = {key: value for key, value in detail.items() if value is not None}
            last.update(_in_pieces(known))
        else:
            kept.append(_in_pieces(detail))


def _in_pieces(detail: dict[str, Any]) -> dict[str, Any]:
    return {
        key: [value or ""] if key in _PIECES and isinstance(value, (str, type(None))) else value
        for key, value in detail.items()
    }


def _whole_detail(detail: dict[str, Any]) -> dict[str, Any]:
    return {
        key: "".join(map(str, value)) if key in _PIECES and isinstance(value, list) else value
        for key, value in detail.items()
    }


def _add_reasoning(message: dict[str, Any], item: ItemState, fields: tuple[str, ...]) -> None:
    """The reasoning, in those `fields` that the service wants back. DeepSeek and Kimi refuse a turn
    with calls without its reasoning; beside text alone it is of no use, and older models refuse
    it."""
    thinking = item.content.get("thinking")
    if "reasoning_content" in fields and thinking is not None and message.get("tool_calls"):
        message["reasoning_content"] = thinking.text
    if "reasoning_details" in fields and item.extra.get("details"):
        message["reasoning_details"] = [_whole_detail(detail) for detail in item.extra["details"]]


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
        state.usage = merge_usage(state.usage, openai_usage(reported))
        state.media |= counted_media(reported)
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


# ---- writing a request -------------------------------------------------------------------------


def _tool(tool: Any) -> Any:
    known = function_tool(tool)
    return tool if known is None else {"type": "function", "function": known}


def _declared_tool(knows_strict: bool, tool: DeclaredTool, fitted: Fitted) -> Any:
    strict = {"strict": fitted.strict} if knows_strict or fitted.strict else {}
    return _tool({**tool, "parameters": fitted.schema, **strict})


def _tool_choice(choice: Any) -> Any:
    choice = plain_choice(choice)
    if choice == "any":  # the value in the Messages API
        return "required"
    name = chosen_tool(choice)
    return choice if name is None else {"type": "function", "function": {"name": name}}


def _thinking(thinking: Any, profile: Profile) -> Mapping[str, Any]:
    """`thinking=` as the profile's option: an effort, or an object in the service's own form."""
    if thinking is None or thinking is False:
        return {}
    option = profile.thinking
    if isinstance(thinking, dict) and option not in ("", "reasoning_effort", "enable_thinking"):
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
    if option == "enable_thinking" and thinking is True:
        return {option: True}
    if option == "enable_thinking" and isinstance(thinking, int):  # a budget in tokens
        return {option: True, "thinking_budget": thinking}
    raise ConfigurationError(
        f"the profile {profile.name!r} has no option for thinking={shown(thinking)}: pass the "
        "server's own option in extra_body"
    )


CHAT = ChatDialect()
