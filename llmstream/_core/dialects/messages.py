"""The Anthropic Messages API, and the servers that speak it.

Source: the API reference "Streaming Messages", and recordings. These show: padding inside the JSON,
blocks that overlap (llama.cpp while it thinks), a whole answer in `message_start`, a tool block
without any input (it means "{}"), cumulative usage, a signature that is valid only after its block
has stopped, an `overloaded_error` as the first and only event.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ...errors import ConfigurationError
from ...events import messages as ev
from ...events.base import AnyEvent, UnknownEvent, decode_json, raw_elements, shallow
from ...result import Chunk, Usage, decode_arguments
from ..checks import shown
from ..classify import error_from_payload
from ..finish import broken_off, finish_word
from ..outcome import Approval, ToolOutcome
from ..request import HTTPRequest, Request, StoredResponse, encode_body
from ..schema import Fitted, SchemaRules
from ..state import (
    Contradiction,
    ItemState,
    Misplaced,
    State,
    first_count,
    merge_usage,
    rest_of,
)
from ..tool_calls import call_ids, finish_with_calls, has_safe_call, item_calls
from .base import (
    CONTENT,
    NOTHING,
    PROGRESS,
    SIGN_OF_LIFE,
    Effect,
    ServiceTool,
    TypedDialect,
    unknown,
)
from .declared import DeclaredTool, WrittenTools, write_tools
from .profiles import Profile, endpoint
from .stray import has_text, refuse_text, text_fields, without_text
from .tools import chosen_tool, function_tool, plain_choice, separate_functions
from .turns.as_messages import messages_turns
from .turns.outcomes import outcome_turn
from .usage import metrics_usage, reported_cost

__all__ = ["MESSAGES", "MessagesDialect"]

# "2026-10-21" refuses temperature, top_p and top_k; `headers=` can name another version.
API_VERSION = "2023-06-01"
DEFAULT_MAX_TOKENS = 4096  # the API requires a limit

_DELTA = ev.ContentBlockDeltaEvent
_STOP = b'{"type":"message_stop"}'
_COMPLETE = Effect(PROGRESS.activity, complete=True)
# The item types that the caller has to run -> the kind of their arguments.
_TOOL_TYPES = {"tool_use": "json"}
# Anthropic, "Structured outputs", JSON Schema limitations, and the limits for strict tools of a
# request. Everything else becomes words of the description, as its own package writes it.
_RULES = SchemaRules(
    kept=frozenset({"format", "minItems"}),
    formats=frozenset(
        (
            *("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4"),
            *("ipv6", "uuid"),
        )
    ),
    least_items=frozenset({0, 1}),
    recursion=False,
    loose_words=True,
    names=r"[a-zA-Z0-9_.-]{1,64}",
    optional=24,
    unions=16,
    tools=20,
)
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
    "pause_turn": "pause",
    "compaction": "pause",
}


# ---- blocks ------------------------------------------------------------------------------------

# block type -> (the type of its chunks, the block's field with the text)
_TEXT_FIELDS = {"text": ("text", "text"), "thinking": ("thinking", "thinking")}
_INPUT = "input"
_NO_TOOLS = frozenset({"text", "thinking", "redacted_thinking"})


def _block_start(state: State, event: ev.ContentBlockStartEvent) -> Effect:
    block = event.content_block
    if block is None:
        return PROGRESS
    item = state.item(event.index, None)
    if "preset" in item.extra:
        return PROGRESS  # message_start contained the whole block
    late = item.extra.pop("unannounced", None) is not None and not item.closed
    if item.type is not None and not (late and block.type in (None, item.type)):
        item = state.add(event.index, None)  # from a server that does not number its blocks
    event.chunks = _begin(state, item, block, partial(_started_block, shallow(event.raw)))
    return CONTENT if event.chunks else PROGRESS


def _begin(
    state: State, item: ItemState, block: ev.ContentBlock, wire: Callable[[], Any]
) -> tuple[Chunk, ...]:
    item.type = block.type or item.type or _type_of(block)
    item.id = item.call_id = block.id
    item.name = block.name
    item.extra["start"] = wire
    if block.input:  # the whole input, not in deltas; some gateways send it as JSON text
        whole = block.input
        encoded = whole if isinstance(whole, str) else json.dumps(whole, ensure_ascii=False)
        item.extra["input"] = encoded
    kind, field = _TEXT_FIELDS.get(item.type or "", ("", ""))
    text = getattr(block, field) if field else None
    if not text and (block.text or block.thinking):  # the field that is there decides
        kind, text = ("text", block.text) if block.text else ("thinking", block.thinking)
    if not text:
        return ()
    item.part(kind, kind).add(text)
    return state.emit(kind, text, item.index)


def _type_of(block: ev.ContentBlock) -> str | None:
    """The type of a block that has none, by the fields that are there."""
    if block.text is not None:
        return "text"
    if block.thinking is not None:
        return "thinking"
    return "tool_use" if block.name is not None else None


def _started_block(raw: bytes) -> Any:
    return decode_json(raw)["content_block"]


def _block_stop(state: State, event: ev.ContentBlockStopEvent) -> Effect:
    event.chunks = _close(state, _block(state, event.index))
    return CONTENT if event.chunks else PROGRESS


def _close(state: State, item: ItemState) -> tuple[Chunk, ...]:
    chunks: tuple[Chunk, ...] = ()
    item.closed = True
    early = item.extra.get("input")
    if early is not None and _INPUT not in item.content:
        item.part(_INPUT, "tool_call").add(early)
        if item.type in _TOOL_TYPES:
            chunks = state.emit("tool_call", early, item.index)
    for part in item.content.values():
        part.seal()
    if "start" in item.extra:
        item.wire = partial(_whole_block, item)
    return chunks


def _whole_block(item: ItemState) -> Any:
    """The block as the API would send it in one piece."""
    block = dict(item.extra["start"]())
    for key, part in item.content.items():
        if key == _INPUT:
            block["input"] = _parsed(part.text)
        elif part.text:
            block[str(key)] = part.text
    if item.type in _TOOL_TYPES and not isinstance(block.get("input"), dict):
        block["input"] = {}
    for key in ("citations", "encrypted_content"):
        if key in item.extra:
            block[key] = item.extra[key]
    return block


def _parsed(text: str) -> Any:
    try:
        return decode_arguments(text or "{}")
    except (ValueError, RecursionError):
        return text


# ---- deltas ------------------------------------------------------------------------------------


def _block_delta(state: State, event: ev.ContentBlockDeltaEvent) -> Effect:
    delta = event.delta
    if delta is None:
        return _elsewhere(state, event, _block(state, event.index), ev.ContentBlockDelta())
    handle = _DELTAS.get(delta.type or "", _elsewhere)
    item = _block(state, event.index)
    if "preset" in item.extra:
        return _again(item, delta)
    return handle(state, event, item, delta)


def _again(item: ItemState, delta: ev.ContentBlockDelta) -> Effect:
    """A piece of a block that message_start contained whole."""
    for key in _TEXT_FIELDS:
        piece = getattr(delta, key)
        if piece:
            part = item.content.get(key)
            begin = item.extra["preset"]
            found = part.text.find(piece, begin) if part is not None else -1
            if found < 0:
                raise Contradiction("a piece of a block is not in the whole block")
            item.extra["preset"] = found + len(piece)
    return PROGRESS


def _elsewhere(state: State, event: Any, item: ItemState, delta: ev.ContentBlockDelta) -> Effect:
    """A delta of an unknown type, or without the field of its type: the field that is there decides
    what it is. One that has nothing of the answer remains an event."""
    if delta.text:
        return _text("text")(state, event, item, delta)
    if delta.thinking:
        return _text("thinking")(state, event, item, delta)
    if delta.partial_json:
        return _input(state, event, item, delta)
    if delta.type in _DELTAS or delta.type is None:
        sent = event.json()
        inner = sent.get("delta")
        known = text_fields(sent if inner is None else inner)
        found = ev.ContentBlockDelta(
            text=known.get("text"),
            thinking=known.get("thinking"),
            partial_json=known.get("partial_json"),
        )
        if found.text or found.thinking or found.partial_json:  # beside the delta, not in it
            return _elsewhere(state, event, item, found)
        refuse_text(list(known.values()) if inner is None else inner)
        if item.type is not None and (delta.type is None or delta.type in _TEXTS):
            raise Misplaced("a piece of a block has lost what it contained")
    return NOTHING


def _block(state: State, index: int | None) -> ItemState:
    """The block with this index: the latest one, if a server sent the same for several."""
    if index is None:
        return state.item(None, None)
    latest = state.numbered(index)
    return latest if latest is not None else state.item(index, None)


Handle = Callable[[State, Any, ItemState, ev.ContentBlockDelta], Effect]


def _text(kind: str) -> Handle:
    def handle(state: State, event: Any, item: ItemState, delta: ev.ContentBlockDelta) -> Effect:
        text = getattr(delta, kind)
        if not text:
            return _nothing(state, event, item, delta, text)
        if item.type is None:
            _announce(item, kind)
        part = item.part(kind, kind)
        part.add(text)
        event.chunks = state.emit(kind, text, item.index)
        if kind == "text":
            state.open_fast_path(event.index, part, item.index)
        return CONTENT

    return handle


def _input(state: State, event: Any, item: ItemState, delta: ev.ContentBlockDelta) -> Effect:
    text = delta.partial_json
    if not text:
        return _nothing(state, event, item, delta, text)
    if item.type is None:
        _announce(item, "tool_use")
    elif item.type in _NO_TOOLS:
        raise Misplaced("it has a piece of a call's input, and its block is not a call")
    item.part(_INPUT, "tool_call").add(text)
    if item.type in _TOOL_TYPES:
        event.chunks = state.emit("tool_call", text, item.index)
    return CONTENT


def _nothing(
    state: State, event: Any, item: ItemState, delta: ev.ContentBlockDelta, text: str | None
) -> Effect:
    """The field of the delta's type is empty, or missing."""
    others = delta.text or delta.thinking or delta.partial_json
    return NOTHING if text is not None and not others else _elsewhere(state, event, item, delta)


def _announce(item: ItemState, type: str) -> None:
    """The block's first event is late or missing."""
    item.type = type
    item.extra["unannounced"] = True
    if type == "text":
        item.extra["start"] = partial(dict, type="text", text="")


def _signature(state: State, event: Any, item: ItemState, delta: ev.ContentBlockDelta) -> Effect:
    # It becomes part of the block when the block stops, because half a signature is not valid.
    item.part("signature", "signature").add(delta.signature or "")
    return PROGRESS if delta.signature else NOTHING


def _citation(state: State, event: Any, item: ItemState, delta: ev.ContentBlockDelta) -> Effect:
    if delta.citation is not None:
        shallow(event.raw)
        item.extra.setdefault("citations", []).append(delta.citation)
    return PROGRESS if delta.citation is not None else NOTHING


def _compaction(state: State, event: Any, item: ItemState, delta: ev.ContentBlockDelta) -> Effect:
    if delta.encrypted_content is not None:
        item.extra["encrypted_content"] = delta.encrypted_content
    item.part("content", "compaction").add(delta.content or "")
    return CONTENT if delta.content or delta.encrypted_content else NOTHING


_TEXTS = frozenset({"text_delta", "thinking_delta", "input_json_delta"})
_DELTAS: dict[str, Handle] = {
    "text_delta": _text("text"),
    "thinking_delta": _text("thinking"),
    "input_json_delta": _input,
    "signature_delta": _signature,
    "citations_delta": _citation,
    "compaction_delta": _compaction,
}


# ---- the message -------------------------------------------------------------------------------


def _message_start(state: State, event: ev.MessageStartEvent) -> Effect:
    message = event.message
    if message is None:
        return NOTHING
    state.response_id = message.id or state.response_id
    state.model = message.model or state.model
    state.status = "in_progress"
    error = broken_off(message.stop_reason)
    if error is None:
        _take_stop_reason(state, message.stop_reason)
    _take_usage(state, message.usage)
    chunks: list[Chunk] = []
    sent = raw_elements(event.raw, "message", "content") if message.content else []
    for index, block in enumerate(message.content or ()):
        if index in state.items:  # received before
            chunks += _repeated(state, state.items[index], block)
            continue
        if block.type == "text" and not block.text:
            continue
        item = state.item(index, None)
        item.extra["preset"] = 0  # up to here its pieces have arrived a second time
        chunks += _begin(state, item, block, partial(decode_json, sent[index]))
        chunks += _close(state, item)
    event.chunks = tuple(chunks)
    if error is not None:
        return Effect(CONTENT.activity if chunks else NOTHING.activity, error=error)
    return CONTENT if chunks else NOTHING


def _repeated(state: State, item: ItemState, block: ev.ContentBlock) -> tuple[Chunk, ...]:
    """A block that has been streamed arrives whole: the end of it that no delta has contained."""
    chunks: tuple[Chunk, ...] = ()
    for kind in _TEXT_FIELDS:
        whole = getattr(block, kind)
        late = rest_of(whole, item.part(kind, kind).text) if whole else ""
        if late:
            item.part(kind, kind).add(late)
            chunks += state.emit(kind, late, item.index)
    return chunks


def _message_delta(state: State, event: ev.MessageDeltaEvent) -> Effect:
    _take_usage(state, event.usage)
    if event.delta is not None:
        _take_usage(state, event.delta.usage)
    if event.delta is not None and (error := broken_off(event.delta.stop_reason)) is not None:
        return Effect(PROGRESS.activity, error=error)
    if event.delta is not None and event.delta.stop_reason is not None:
        _take_stop_reason(state, event.delta.stop_reason)
        return PROGRESS
    refuse_text(event.json().get("delta"))
    return NOTHING  # the usage so far


def _take_stop_reason(state: State, reason: str | None) -> None:
    if (reason := finish_word(reason)) is not None:
        state.finish = _FINISH.get(reason, reason)
        state.refused = state.finish == "refusal"


def _take_usage(state: State, reported: ev.MessageUsage | None) -> None:
    if reported is not None:
        details = reported.output_tokens_details or ev.OutputTokensDetails()
        usage = Usage(
            first_count(reported.input_tokens, reported.prompt_tokens),
            first_count(reported.output_tokens, reported.completion_tokens),
            None,
            first_count(
                reported.cache_read_input_tokens,
                reported.cached_tokens,
                reported.prompt_cache_hit_tokens,
                reported.num_cached_tokens,
            ),
            first_count(details.thinking_tokens, reported.reasoning_tokens),
            reported.cache_creation_input_tokens,
            reported_cost(reported),
        )
        state.usage = merge_usage(state.usage, usage, cached_beside=True)
        # "fast" has a price of its own, whatever the tier, and is reported only once.
        if reported.speed == "fast":
            state.service_tier = "fast"
        elif state.service_tier != "fast":
            state.service_tier = reported.service_tier or state.service_tier


def _has_content(state: State) -> bool:
    """Whether a block has anything in it, or is of a kind that has no text."""
    return any(
        item.type not in _TEXT_FIELDS or any(part.text for part in item.content.values())
        for item in state.items.values()
    )


def _message_stop(state: State, event: ev.MessageStopEvent) -> Effect:
    _take_usage(state, event.usage)
    if state.finish is None and not state.usage.output_tokens and not _has_content(state):
        return NOTHING  # nothing came: not an answer
    state.status = "completed"
    state.finish = finish_with_calls(state.finish, has_safe_call(item_calls(state, _TOOL_TYPES)))
    metrics = event.invocation_metrics
    if metrics is not None:  # it fills what nothing else has reported
        known = merge_usage(metrics_usage(metrics), state.usage, cached_beside=True)
        state.usage = known
    return _COMPLETE


def _ping(state: State, event: Any) -> Effect:
    return SIGN_OF_LIFE


def _error(state: State, event: ev.MessageErrorEvent) -> Effect:
    return Effect(NOTHING.activity, error=error_from_payload(event.json(), state.unix_time()))


def _unknown(state: State, event: UnknownEvent) -> Effect:
    """An event of an unknown type that has a piece of a block is one."""
    sent = event.data
    if not isinstance(sent, dict):
        return unknown(state, event)
    inner = sent.get("delta")
    bare = event.type in _DELTAS or event.type == "message" or "index" in sent
    if not has_text(inner) and not (bare and text_fields(sent).keys() & _PIECES):
        return unknown(state, event)
    index = sent.get("index")
    meant = ev.ContentBlockDeltaEvent(
        index=index if isinstance(index, int) else None, raw=event.raw
    )
    effect = _block_delta(state, meant)
    event.chunks = meant.chunks
    return effect


_PIECES = {"text", "thinking", "partial_json"}


_TABLE: dict[type[Any], Callable[[State, Any], Effect]] = {
    ev.MessageStartEvent: _message_start,
    ev.ContentBlockStartEvent: without_text(_block_start),
    ev.ContentBlockDeltaEvent: _block_delta,
    ev.ContentBlockStopEvent: without_text(_block_stop),
    ev.MessageDeltaEvent: _message_delta,
    ev.MessageStopEvent: without_text(_message_stop),
    ev.PingEvent: without_text(_ping),
    ev.MessageErrorEvent: _error,
    UnknownEvent: _unknown,
}


def _call_ids(state: State) -> dict[int, str]:
    """The index of each call -> its id."""
    calls = [item for item in state.in_order() if item.type in _TOOL_TYPES]
    ids = call_ids(state, [item.call_id or item.id for item in calls])
    return {item.index: id for item, id in zip(calls, ids, strict=True)}


def _has_error(content: Any) -> bool:
    """Whether the result of a server's tool is an error."""
    return isinstance(content, dict) and str(content.get("type") or "").endswith("_error")


class MessagesDialect(TypedDialect):
    """The Messages API as a dialect."""

    name = "messages"
    default_base_url = "https://api.anthropic.com"
    default_model: str | None = "claude-haiku-4-5"

    text_part = "text"
    default_max_tokens: int | None = DEFAULT_MAX_TOKENS
    events = ev.EVENTS
    table = _TABLE
    essential = frozenset({"delta", "content_block", "text", "thinking", "partial_json"})
    tool_types = _TOOL_TYPES
    schema_rules = _RULES

    def with_profile(self, profile: Profile) -> MessagesDialect:
        return MessagesDialect(profile)

    def apply(self, state: State, event: AnyEvent) -> Effect:
        fast = state.fast_path
        if fast is not None and type(event) is _DELTA:
            delta = event.delta
            if (
                delta is not None
                and delta.text
                and delta.type == "text_delta"
                and event.index == fast.key
            ):
                event.chunks = state.append_fast(fast, delta.text)
                return CONTENT
        return super().apply(state, event)

    def structured(
        self, name: str, schema: Mapping[str, Any] | None, strict: bool
    ) -> dict[str, Any]:
        if schema is None:  # this API has no option for any JSON object
            return {}
        return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}

    def request(self, request: Request, base_url: str) -> HTTPRequest:
        if request.output is not None:
            from .structured import with_output

            request = with_output(request, self, self._profile.structured)
        if request.background:
            raise ConfigurationError("the Messages API has no background responses")
        system, messages = _split_system(request)
        thinking, effort, budget = _thinking(request)
        stop = request.stop
        tools = self._tools(request) if request.tools else None
        body = {
            "model": request.model,
            "max_tokens": _max_tokens(request.max_output_tokens, budget),
            "messages": messages,
            "system": system,
            "stream": True,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop_sequences": [stop] if isinstance(stop, str) else stop,
            "tools": tools.written if tools else None,
            "tool_choice": _tool_choice(request.tool_choice),
            "thinking": thinking,
            "output_config": effort,
        }
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream",
            "anthropic-version": API_VERSION,
        }
        base, mark, query = base_url.partition("?")
        base = base.rstrip("/").removesuffix("/v1")
        url = endpoint(self._profile, f"{base}{mark}{query}", "/v1/messages")
        extra = _with_effort(request.extra_body, effort)
        data = encode_body(body, extra)
        return HTTPRequest("POST", url, headers, data, strict=tools.strict if tools else ())

    def _tools(self, request: Request) -> WrittenTools:
        version = _version(request.model.lower())
        knows = version is None or version >= _STRICT_SINCE
        return write_tools(
            separate_functions(request.tools), self.schema_rules, _declared_tool, _tool, knows
        )

    def auth(self, api_key: str) -> dict[str, str]:
        return {"x-api-key": api_key}

    def stored(self, request: HTTPRequest, response_id: str) -> StoredResponse | None:
        return None

    def assistant_turn(self, state: State, safe: frozenset[str]) -> tuple[Any, ...]:
        ids = _call_ids(state)
        items = [
            item
            for item in state.in_order()
            if item.wire is not None
            and (item.type not in _TOOL_TYPES or ids[item.index] in safe)
            and (item.type != "text" or any(part.text.strip() for part in item.content.values()))
        ]
        while items and items[-1].type in ("thinking", "redacted_thinking"):
            items.pop()  # the API refuses thinking at the end of a turn
        blocks = [item.wire() for item in items if item.wire is not None]
        for item, block in zip(items, blocks, strict=True):
            if item.index in ids:
                block["id"] = ids[item.index]
        return ({"role": "assistant", "content": blocks},) if blocks else ()

    def own_turns(self, turns: Sequence[Any]) -> list[Any]:
        return messages_turns(turns)

    def outcome_turns(self, outcomes: Sequence[ToolOutcome | Approval]) -> list[Any]:
        return self.own_turns(
            [outcome_turn(one) for one in outcomes if isinstance(one, ToolOutcome)]
        )

    def service_tool(self, event: AnyEvent) -> ServiceTool | None:
        block = event.content_block if isinstance(event, ev.ContentBlockStartEvent) else None
        if block is None or block.type is None:
            return None
        if block.type in ("server_tool_use", "mcp_tool_use"):
            return ServiceTool(block.name or "", "in_progress", block.id)
        if not block.type.endswith("_tool_result") or block.type == "tool_result":
            return None
        failed = block.is_error or _has_error(block.content)
        name = block.type.removesuffix("_tool_result")
        return ServiceTool(name, "failed" if failed else "completed", block.tool_use_id)

    def serial_calls(self, choice: Any) -> dict[str, Any]:
        chosen = {"type": "auto"} if choice is None else _tool_choice(choice)
        if chosen.get("type") == "none":  # it has no such field
            return {}
        return {"tool_choice": {**chosen, "disable_parallel_tool_use": True}}

    def events_from_json(self, payload: Any, raw: bytes) -> tuple[AnyEvent, ...]:
        blocks = payload.get("content") if isinstance(payload, dict) else None
        if not isinstance(blocks, list) or not all(
            isinstance(block, dict) and isinstance(block.get("type"), str) for block in blocks
        ):
            return ()
        if payload.get("type") != "message" and payload.get("role") != "assistant":
            return ()
        envelope = msgspec.json.encode({"type": "message_start", "message": payload})
        return self.decode("message", envelope), self.decode("message", _STOP)


# ---- writing a request -------------------------------------------------------------------------


def _with_effort(extra: Mapping[str, Any] | None, effort: Any) -> Mapping[str, Any] | None:
    """`extra_body` is laid over the request field by field: the effort stays beside a format."""
    config = extra.get("output_config") if extra and effort else None
    if extra is None or not isinstance(config, Mapping):
        return extra
    return {**extra, "output_config": {**effort, **config}}


def _split_system(request: Request) -> tuple[Any, list[Any]]:
    """The fields `system` and `messages`: instructions and system turns have a field of their own
    in this API."""
    prompt, instructions = request.prompt, request.instructions
    if isinstance(prompt, str):
        return instructions, [{"role": "user", "content": prompt}]
    system: list[Any] = [instructions] if instructions else []
    messages: list[Any] = []
    for turn in messages_turns(prompt):
        if turn.get("role") not in ("system", "developer"):
            messages.append(turn)
        elif (content := turn.get("content")) is not None:
            if not isinstance(content, (str, list, tuple)):
                raise ConfigurationError("prompt: the content of a system turn is a text or parts")
            system.append(content)
    if all(isinstance(part, str) for part in system):
        return "\n\n".join(system) or None, messages
    blocks: list[Any] = []
    for part in system:
        blocks += [{"type": "text", "text": part}] if isinstance(part, str) else part
    return blocks, messages


# A model that decides itself how much it thinks shows no text of it unless it is asked to.
_ADAPTIVE = {"type": "adaptive", "display": "summarized"}
_ADAPTIVE_SINCE = (4, 6)  # older models refuse it, and efforts, and want a budget
_WITHOUT_BUDGETS_SINCE = (4, 7)  # newer models refuse a budget
_LEAST_BUDGET = 1024
_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 4096, "high": 8192, "xhigh": 16384}
_FAMILIES = "opus|sonnet|haiku|instant"
_VERSION = re.compile(
    rf"claude-(?:(?:{_FAMILIES})-(\d{{1,2}})(?:[-.](\d{{1,2}}))?(?!\d)"
    rf"|(\d)(?:[-.](\d))?-(?:{_FAMILIES}))"
)


def _thinking(request: Request) -> tuple[Any, Any, int]:
    """`thinking=` as (the option `thinking`, the option `output_config`, the budget in tokens).
    True and an effort mean adaptive thinking, or the budget for it where the model is older; a
    number is the budget, a dict the option itself."""
    thinking = request.thinking
    if thinking is None or thinking is False:
        return None, None, 0
    if thinking is True or isinstance(thinking, str):
        effort = None if thinking is True else {"effort": thinking}
        model = request.model.lower()
        if "claude" not in model:  # another vendor's: how it shows thoughts is not known
            return {"type": "adaptive"}, effort, 0
        version = _version(model)
        if version is None or version >= _ADAPTIVE_SINCE:
            return _ADAPTIVE, effort, 0
        budget = _BUDGETS.get("medium" if thinking is True else thinking, _BUDGETS["xhigh"])
        limit = request.max_output_tokens
        if limit is not None and limit > _LEAST_BUDGET:  # at least half of it for the answer
            budget = min(budget, max(_LEAST_BUDGET, limit // 2))
        elif limit is not None:
            budget = _LEAST_BUDGET
        return {"type": "enabled", "budget_tokens": budget}, None, budget
    if isinstance(thinking, int):
        if thinking < _LEAST_BUDGET:
            raise ConfigurationError(f"thinking={thinking}: the budget is at least 1024 tokens")
        if (_version(request.model.lower()) or (0, 0)) >= _WITHOUT_BUDGETS_SINCE:
            raise ConfigurationError(
                f"thinking={thinking}: {request.model} takes no budget, because it decides "
                "itself how much to think: pass True or an effort ('low', 'medium', 'high'); a "
                "dict is sent as it is"
            )
        return {"type": "enabled", "budget_tokens": thinking}, None, thinking
    if isinstance(thinking, dict):
        given = thinking.get("budget_tokens")
        return thinking, None, given if isinstance(given, int) else 0
    raise ConfigurationError(
        f"thinking={shown(thinking)}: the Messages API takes True, a budget in tokens, an effort "
        "such as 'low' or 'high', or a dict for its 'thinking' option"
    )


def _version(model: str) -> tuple[int, int] | None:
    """The version in a model's name, in the spelling of any cloud; None for a name without one,
    such as that of the latest model."""
    found = _VERSION.search(model)
    if found is None:
        return None
    major, minor = found[1] or found[3], found[2] or found[4]
    return int(major), int(minor or 0)


def _max_tokens(limit: int | None, budget: int) -> int:
    """The option `max_tokens`, which the budget for thinking is part of, and has to be below."""
    if limit is None:
        return DEFAULT_MAX_TOKENS + budget
    return limit if limit > budget else limit + budget


def _tool(tool: Any) -> Any:
    known = function_tool(tool)
    if known is None:
        return tool
    schema = known.pop("parameters", None) or {"type": "object", "properties": {}}
    if "input_schema" not in tool:  # in the form of the other two, whose strict schemas differ
        known.pop("strict", None)
    return {**known, "input_schema": schema}


_STRICT_SINCE = (4, 5)  # older models refuse strict tools


def _declared_tool(tool: DeclaredTool, fitted: Fitted) -> Any:
    return {
        **{key: value for key, value in tool.items() if key not in ("type", "parameters")},
        "input_schema": fitted.schema,
        **({"strict": True} if fitted.strict else {}),
        **({"eager_input_streaming": True} if tool.eager else {}),
    }


_CHOICES = {"auto": "auto", "required": "any", "any": "any", "none": "none"}


def _tool_choice(choice: Any) -> Any:
    choice = plain_choice(choice)
    if isinstance(choice, str):
        return {"type": _CHOICES.get(choice, choice)}
    name = chosen_tool(choice)
    if name is None or (isinstance(choice, dict) and choice.get("type") == "tool"):
        return choice
    return {"type": "tool", "name": name}


MESSAGES = MessagesDialect()
