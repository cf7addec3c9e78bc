"""The OpenAI Responses API, and the servers that speak it.

Source: the API reference "Streaming events", and recordings of nine services. Where they differ:
`event:` lines may be missing (the JSON's `type` decides), indices may be missing (the item's id
holds) or ids may change (the index holds), items may never be closed by an event of their own, the
final `output` may be empty, and an error is flat in the reference but nested on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, Union

import msgspec

from ...errors import ConfigurationError, LLMStreamError
from ...events import responses as ev
from ...events.base import Event, UnknownEvent, decode_json
from ...result import Chunk, Usage
from ..classify import error_from_payload
from ..profiles import DEFAULT, Profile, endpoint
from ..state import CallState, ItemState, State, item_calls, last_known
from .base import (
    CONTENT,
    NOTHING,
    PROGRESS,
    AnyEvent,
    Call,
    Verdict,
    WireRequest,
    chosen_tool,
    encode_body,
    function_tool,
    lenient,
)

__all__ = ["RESPONSES", "ResponsesDialect"]

Apply = Callable[[State, Any], Verdict]

# A response.failed usually follows an error event at once; it brings the id and the usage.
_LINGER_AFTER_ERROR = 0.25
# The item types that the caller has to run -> the kind of their arguments.
_TOOL_TYPES = {"function_call": "json", "custom_tool_call": "text"}
_FINISH = {"max_output_tokens": "length", "content_filter": "content_filter"}
_ARGUMENTS = "arguments"  # the key of a call's only part


# ---- deltas ------------------------------------------------------------------------------------


def _delta(kind: str, key: Callable[[Any], Hashable], item_type: str | None = None) -> Apply:
    """A piece of something that the caller sees."""

    def apply(state: State, event: Any) -> Verdict:
        delta = event.delta
        if not delta:
            return PROGRESS
        item = state.item(event.output_index, event.item_id)
        if item.type is None:
            item.type = item_type  # its announcement is late, or never comes
        item.part(key(event), kind).deltas.append(delta)
        event.chunks = state.say(kind, delta, item.index)
        return CONTENT

    return apply


def _whole(kind: str, key: Callable[[Any], Hashable], field: str) -> Apply:
    """The whole of what deltas should have brought: what they did not bring is said now."""

    def apply(state: State, event: Any) -> Verdict:
        item = state.item(event.output_index, event.item_id)
        event.chunks = _finish_part(state, item, key(event), kind, getattr(event, field))
        return CONTENT if event.chunks else PROGRESS

    return apply


def _finish_part(
    state: State, item: ItemState, key: Hashable, kind: str, whole: str | None
) -> tuple[Chunk, ...]:
    late = item.part(key, kind).finish(whole) if isinstance(whole, str) else ""
    return state.say(kind, late, item.index) if late else ()


def _text_key(event: Any) -> Hashable:
    return ("text", event.content_index)


def _refusal_key(event: Any) -> Hashable:
    return ("refusal", event.content_index)


def _summary_key(event: Any) -> Hashable:
    return ("summary", event.summary_index)


def _reasoning_key(event: Any) -> Hashable:
    return ("reasoning", event.content_index)


def _arguments_key(event: Any) -> Hashable:
    return _ARGUMENTS


# ---- items -------------------------------------------------------------------------------------

# part type -> (what it is to the reader, the first half of its key)
_PARTS = {
    "output_text": ("text", "text"),
    "text": ("text", "text"),
    "refusal": ("refusal", "refusal"),
    "summary_text": ("thinking", "summary"),
    "reasoning_text": ("thinking", "reasoning"),
}


def _part_done(state: State, event: ev.ResponseContentPartDoneEvent) -> Verdict:
    if event.part is None:
        return PROGRESS
    item = state.item(event.output_index, event.item_id)
    event.chunks = tuple(_finish_content(state, item, event.content_index, event.part))
    return CONTENT if event.chunks else PROGRESS


def _finish_content(
    state: State, item: ItemState, index: int | None, part: ev.ContentPart
) -> Iterator[Chunk]:
    known = _PARTS.get(part.type or "")
    if known is not None:
        kind, key = known
        whole = part.refusal if kind == "refusal" else part.text
        yield from _finish_part(state, item, (key, index), kind, whole)


def _item_added(state: State, event: ev.ResponseOutputItemAddedEvent) -> Verdict:
    if event.item is not None:
        _describe(state.item(event.output_index, event.item.id), event.item)
    return PROGRESS


def _describe(item: ItemState, said: ev.Item) -> None:
    item.id = said.id if said.id is not None else item.id
    item.type = said.type or item.type
    item.status = said.status or item.status
    item.name = said.name or item.name
    item.call_id = said.call_id or item.call_id


def _item_done(state: State, event: ev.ResponseOutputItemDoneEvent) -> Verdict:
    said = event.item
    if said is None:
        return PROGRESS
    item = state.item(event.output_index, said.id)
    event.chunks = tuple(_close_item(state, item, said))
    item.wire = partial(_item_of, event.raw)
    return CONTENT if event.chunks else PROGRESS


def _item_of(raw: bytes) -> Any:
    return decode_json(raw)["item"]


def _close_item(state: State, item: ItemState, said: ev.Item) -> Iterator[Chunk]:
    _describe(item, said)
    item.closed = True
    for parts in (said.summary, said.content):
        for index, part in enumerate(parts or ()):
            yield from _finish_content(state, item, index, part)
    whole = said.input if said.type == "custom_tool_call" else said.arguments
    if said.type in _TOOL_TYPES:
        yield from _finish_part(state, item, _ARGUMENTS, "tool_call", whole)


# ---- the response ------------------------------------------------------------------------------


def _lifecycle(state: State, event: Any) -> Verdict:
    _take(state, event.response)
    return NOTHING


def _take(state: State, response: ev.Response | None) -> None:
    if response is None:
        return
    state.response_id = response.id or state.response_id
    state.status = response.status or state.status
    state.model = response.model or state.model
    if response.usage is not None:
        state.usage = last_known(state.usage, _usage(response.usage))


def _usage(said: ev.ResponseUsage) -> Usage:
    details_in = said.input_tokens_details or ev.TokenDetails()
    details_out = said.output_tokens_details or ev.TokenDetails()
    return Usage(
        said.input_tokens,
        said.output_tokens,
        said.total_tokens,
        details_in.cached_tokens,
        details_out.reasoning_tokens,
    )


def _completed(state: State, event: Any) -> Verdict:
    _take(state, event.response)
    response = event.response or ev.Response()
    if response.status == "failed":  # in a whole answer that came as one JSON body
        return _failed(state, event)
    event.chunks = tuple(_reconcile(state, response.output or [], event.raw))
    state.finish = _finish(state, event, response)
    return Verdict(CONTENT.level if event.chunks else PROGRESS.level, complete=True)


def _finish(state: State, event: Any, response: ev.Response) -> str:
    if isinstance(event, ev.ResponseIncompleteEvent) or response.status == "incomplete":
        details = response.incomplete_details
        reason = details.get("reason") if isinstance(details, dict) else None
        return _FINISH.get(str(reason), str(reason or "incomplete"))
    called = any(item.type in _TOOL_TYPES for item in state.items.values())
    return "tool_calls" if called else "stop"


def _reconcile(state: State, output: list[ev.Item], raw: bytes) -> Iterator[Chunk]:
    """The final output is the service's last word: what no event of an item's own had closed, or
    even announced, is taken from it."""
    open_items = dict(state.items)
    for position, said in enumerate(output):
        item = _match(open_items, position, said)
        if item is None:
            index = position if position not in state.items else None
            item = state.item(index if index is not None else max(state.items) + 1, said.id)
        else:
            del open_items[item.index]
        if not item.closed:
            item.wire = partial(_output_of, raw, position)
            yield from _close_item(state, item, said)


def _output_of(raw: bytes, position: int) -> Any:
    payload = decode_json(raw)
    return payload.get("response", payload)["output"][position]


def _match(items: Mapping[int, ItemState], position: int, said: ev.Item) -> ItemState | None:
    """The streamed item that this one of the final output is: by id, by place, by kind."""
    for item in items.values():
        if said.id is not None and item.id == said.id:
            return item
    here = items.get(position)
    if here is not None and here.type in (None, said.type):
        return here
    return next((item for item in items.values() if item.type == said.type), None)


def _failed(state: State, event: Any) -> Verdict:
    _take(state, event.response)
    return Verdict(NOTHING.level, error=error_from_payload(event.json()))


def _error(state: State, event: ev.ResponseErrorEvent) -> Verdict:
    return Verdict(
        NOTHING.level, error=error_from_payload(event.json()), linger=_LINGER_AFTER_ERROR
    )


# ---- the table ---------------------------------------------------------------------------------


def _nothing(state: State, event: Any) -> Verdict:
    return NOTHING


def _progress(state: State, event: Any) -> Verdict:
    return PROGRESS


def _content(state: State, event: Any) -> Verdict:
    return CONTENT


_THINKING = "thinking"
_TABLE: dict[type[Any], Apply] = {
    ev.ResponseCreatedEvent: _lifecycle,
    ev.ResponseQueuedEvent: _lifecycle,
    ev.ResponseInProgressEvent: _lifecycle,
    ev.ResponseCompletedEvent: _completed,
    ev.ResponseIncompleteEvent: _completed,
    ev.ResponseFailedEvent: _failed,
    ev.ResponseOutputItemAddedEvent: _item_added,
    ev.ResponseOutputItemDoneEvent: _item_done,
    ev.ResponseContentPartDoneEvent: _part_done,
    ev.ResponseTextDeltaEvent: _delta("text", _text_key, "message"),
    ev.ResponseTextDoneEvent: _whole("text", _text_key, "text"),
    ev.ResponseRefusalDeltaEvent: _delta("refusal", _refusal_key, "message"),
    ev.ResponseRefusalDoneEvent: _whole("refusal", _refusal_key, "refusal"),
    ev.ResponseReasoningSummaryTextDeltaEvent: _delta(_THINKING, _summary_key, "reasoning"),
    ev.ResponseReasoningSummaryTextDoneEvent: _whole(_THINKING, _summary_key, "text"),
    ev.ResponseReasoningTextDeltaEvent: _delta(_THINKING, _reasoning_key, "reasoning"),
    ev.ResponseReasoningTextDoneEvent: _whole(_THINKING, _reasoning_key, "text"),
    ev.ResponseFunctionCallArgumentsDeltaEvent: _delta(
        "tool_call", _arguments_key, "function_call"
    ),
    ev.ResponseFunctionCallArgumentsDoneEvent: _whole("tool_call", _arguments_key, "arguments"),
    ev.ResponseCustomToolCallInputDeltaEvent: _delta(
        "tool_call", _arguments_key, "custom_tool_call"
    ),
    ev.ResponseCustomToolCallInputDoneEvent: _whole("tool_call", _arguments_key, "input"),
    # what the service runs itself: content to the clocks, seen through events()
    ev.ResponseCodeInterpreterCallCodeDeltaEvent: _content,
    ev.ResponseImageGenCallPartialImageEvent: _content,
    ev.ResponseMcpCallArgumentsDeltaEvent: _content,
    ev.ResponseAudioDeltaEvent: _content,
    ev.ResponseAudioTranscriptDeltaEvent: _content,
    ev.ResponseShellCallCommandDeltaEvent: _content,
    ev.ResponseShellCallOutputContentDeltaEvent: _content,
    ev.ResponseApplyPatchCallOperationDiffDeltaEvent: _content,
    ev.KeepAliveEvent: _nothing,
    ev.ResponseErrorEvent: _error,
}
for _cls in ev.EVENTS:  # a tool's status, an item or part begun or done
    _TABLE.setdefault(_cls, _progress)


def _unknown(state: State, event: UnknownEvent) -> Verdict:
    # An unknown sign of life must not keep a dead stream open: only the API's own kind counts.
    if event.type == "response.cancelled":
        return NOTHING
    return PROGRESS if event.type.startswith("response.") else NOTHING


_TABLE[UnknownEvent] = _unknown
_CLASSES: dict[str, type[Event]] = {cls.type: cls for cls in ev.EVENTS}
_ESSENTIAL = frozenset({"delta", "item", "response"})


class ResponsesDialect:
    """The Responses API as a dialect."""

    name = "responses"
    default_base_url = "https://api.openai.com/v1"
    default_model: str | None = "gpt-5.4-mini"
    text_index: int | None = None

    def __init__(self, profile: Profile = DEFAULT) -> None:
        self._profile = profile

    def with_profile(self, profile: Profile) -> ResponsesDialect:
        return ResponsesDialect(profile)

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[Event]:
        # a union made at run time: X | Y cannot spell it
        return msgspec.json.Decoder(Union[ev.EVENTS])  # noqa: UP007

    def request(self, call: Call, base_url: str) -> WireRequest:
        if call.stop is not None:
            raise ConfigurationError(
                "the Responses API has no stop sequences: leave stop out, or give it in extra_body "
                "to a compatible server that knows it"
            )
        body = {
            "model": call.model,
            "input": call.prompt,
            "instructions": call.instructions,
            "stream": True,
            "stream_options": {"include_obfuscation": False},  # padding against traffic analysis
            "max_output_tokens": call.max_output_tokens,
            "temperature": call.temperature,
            "top_p": call.top_p,
            "tools": [_tool(tool) for tool in call.tools] if call.tools else None,
            "tool_choice": _tool_choice(call.tool_choice),
            "reasoning": _reasoning(call.thinking),
            "background": True if call.background else None,
            "store": True if call.background else None,  # a background response must be stored
        }
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        data = encode_body(body, call.extra_body)
        return WireRequest("POST", endpoint(self._profile, base_url, "/responses"), headers, data)

    def simpler(self, request: WireRequest, error: LLMStreamError) -> WireRequest | None:
        return None

    def done(self, state: State) -> Verdict:
        # This API ends with an event of its own; gateways append the marker all the same.
        return NOTHING

    def calls(self, state: State) -> Iterator[CallState]:
        return item_calls(state, _TOOL_TYPES)

    def turn(self, state: State) -> tuple[Any, ...]:
        return tuple(
            item.wire()
            for item in state.in_order()
            if item.wire is not None and item.closed and item.status != "incomplete"
        )

    def auth(self, api_key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {api_key}"}

    def decode(self, name: str, data: bytes) -> AnyEvent:
        try:
            event: AnyEvent = self._decoder.decode(data)
        except (msgspec.ValidationError, UnicodeDecodeError):
            event = lenient(name, data, _CLASSES, _ESSENTIAL)
        event.raw = data
        return event

    def apply(self, state: State, event: AnyEvent) -> Verdict:
        return _TABLE[type(event)](state, event)

    def whole_answer(self, payload: Any, raw: bytes) -> AnyEvent | None:
        if not isinstance(payload, dict) or not isinstance(payload.get("output"), list):
            return None
        envelope = msgspec.json.encode({"type": "response.completed", "response": payload})
        return self.decode("message", envelope)


def _tool(tool: Any) -> Any:
    known = function_tool(tool)
    return tool if known is None else {"type": "function", **known}


def _tool_choice(choice: Any) -> Any:
    name = chosen_tool(choice)
    return choice if name is None else {"type": "function", "name": name}


def _reasoning(thinking: Any) -> Any:
    """`thinking=` as this API's `reasoning`: True, an effort ("low", "high", ...), or the object
    itself. A summary is asked for, or there would be nothing to see."""
    if thinking is None or thinking is False:
        return None
    if thinking is True:
        return {"summary": "auto"}
    if isinstance(thinking, str):
        return {"effort": thinking, "summary": "auto"}
    if isinstance(thinking, dict):
        return thinking
    raise ConfigurationError(
        f"thinking={thinking!r}: the Responses API takes True, an effort such as 'low' or 'high', "
        "or a dict for its 'reasoning' option"
    )


RESPONSES = ResponsesDialect()
