"""The OpenAI Responses API, and the servers that speak it.

Source: the API reference "Streaming events", and recordings of nine services. Where they differ:
`event:` lines may be missing (the JSON's `type` decides), indices may be missing (the item's id
holds) or ids may change (the index holds), items may never be closed by an event of their own, the
final `output` may be empty, and an error is flat in the reference but nested on the wire.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import msgspec

from ...errors import ConfigurationError
from ...events import responses as ev
from ...events.base import AnyEvent, UnknownEvent, decode_json
from ...result import Chunk, Usage
from ..classify import error_from_payload
from ..request import HTTPRequest, Request, StoredResponse, encode_body, under
from ..state import ItemState, State, merge_usage
from .base import CONTENT, NOTHING, PROGRESS, Apply, Effect, TypedDialect
from .profiles import Profile, endpoint
from .tools import chosen_tool, function_tool

__all__ = ["RESPONSES", "ResponsesDialect"]

# A response.failed usually follows an error event at once; it brings the id and the usage.
_LINGER_AFTER_ERROR = 0.25
# The item types that the caller has to run -> the kind of their arguments.
_TOOL_TYPES = {"function_call": "json", "custom_tool_call": "text"}
_FINISH = {"max_output_tokens": "length", "content_filter": "content_filter"}
_ARGUMENTS = "arguments"  # the key of a call's only part
_TEXT = ev.ResponseTextDeltaEvent
_NEAR = 64  # nameless items that are looked through for each one: the next ones, not thousands


# ---- deltas ------------------------------------------------------------------------------------

# The halves of an item, each a sequence of parts: what it is to the reader, the event field that
# numbers the parts, and the type of the item (of a call it is not known).
_HALVES = {
    "text": ("text", "content_index", "message"),
    "refusal": ("refusal", "content_index", "message"),
    "summary": ("thinking", "summary_index", "reasoning"),
    "reasoning": ("thinking", "content_index", "reasoning"),
    "arguments": ("tool_call", "", None),
}


def _delta(half: str, item_type: str | None = None) -> Apply:
    """A piece of something that the caller sees."""
    kind, numbered_by, known_type = _HALVES[half]
    item_type = item_type or known_type

    def apply(state: State, event: Any) -> Effect:
        delta = event.delta
        if not delta:
            return PROGRESS
        item = state.item(event.output_index, event.item_id)
        if item.closed and event.output_index is None and event.item_id is None:
            item = state.announced(None, None)  # from a server that names no items at all
        if item.type is None:
            item.type = item_type  # its announcement is late, or never comes
        number = getattr(event, numbered_by) if numbered_by else 0
        part = item.part((half, _number(item, half, number)), kind)
        part.add(delta)
        event.chunks = state.emit(kind, delta, item.index)
        if half == "text" and not item.closed:
            state.open_fast_path((event.output_index, event.item_id, number), part, item.index)
        return CONTENT

    return apply


def _number(item: ItemState, half: str, number: int | None) -> int:
    """The number of a part; the latest one begun where the server numbers none (llama.cpp)."""
    if number is not None:
        return number
    latest: int = item.extra.get(half, 0)
    return latest


def _whole(half: str, field: str) -> Apply:
    """The whole of what deltas should have brought: what they did not bring is said now."""
    _, numbered_by, _ = _HALVES[half]

    def apply(state: State, event: Any) -> Effect:
        whole = getattr(event, field)
        number = getattr(event, numbered_by) if numbered_by else 0
        if not _is_old(state, event.output_index, half, whole):
            item = state.item(event.output_index, event.item_id)
            event.chunks = _finish_part(state, item, half, number, whole)
        return CONTENT if event.chunks else PROGRESS

    return apply


def _is_old(state: State, index: int | None, half: str, whole: str | None) -> bool:
    """Said behind the end of its item, perhaps under another id: nothing new."""
    item = state.items.get(index) if index is not None else None
    return item is not None and item.closed and (whole or "") in _said(item, half)


def _finish_part(
    state: State, item: ItemState, half: str, number: int | None, whole: str | None
) -> tuple[Chunk, ...]:
    if not isinstance(whole, str) or item.closed:
        return ()
    kind, _, item_type = _HALVES[half]
    item.type = item.type or item_type
    late = item.part((half, _number(item, half, number)), kind).finish(whole)
    return state.emit(kind, late, item.index) if late else ()


# ---- items -------------------------------------------------------------------------------------

# part type -> the half of the item that it belongs to
_PARTS = {
    "output_text": "text",
    "text": "text",
    "refusal": "refusal",
    "summary_text": "summary",
    "reasoning_text": "reasoning",
}


def _part_added(state: State, event: Any) -> Effect:
    """A part begins: where the server numbers none, what follows belongs to it."""
    summary = isinstance(event, ev.ResponseReasoningSummaryPartAddedEvent)
    number = event.summary_index if summary else event.content_index
    if number is None and event.part is not None:
        half = "summary" if summary else _PARTS.get(event.part.type or "", "")
        item = state.item(event.output_index, event.item_id)
        item.extra[half] = item.extra.get(half, -1) + 1
    return PROGRESS


def _part_done(state: State, event: ev.ResponseContentPartDoneEvent) -> Effect:
    part = event.part
    half = _PARTS.get(part.type or "") if part is not None else None
    if part is None or half is None:
        return PROGRESS
    if not _is_old(state, event.output_index, half, _text_of(part)):
        item = state.item(event.output_index, event.item_id)
        event.chunks = _finish_part(state, item, half, event.content_index, _text_of(part))
    return CONTENT if event.chunks else PROGRESS


def _text_of(part: ev.ContentPart) -> str:
    return (part.refusal if part.type == "refusal" else part.text) or ""


def _item_added(state: State, event: ev.ResponseOutputItemAddedEvent) -> Effect:
    if event.item is not None:
        _describe(state, state.announced(event.output_index, event.item.id), event.item)
    return PROGRESS


def _describe(state: State, item: ItemState, said: ev.Item) -> None:
    state.identify(item, said.id)
    item.type = said.type or item.type
    item.status = said.status or item.status
    item.name = said.name or item.name
    item.call_id = said.call_id or item.call_id


def _item_done(state: State, event: ev.ResponseOutputItemDoneEvent) -> Effect:
    said = event.item
    if said is None:
        return PROGRESS
    here = state.items.get(event.output_index) if event.output_index is not None else None
    if here is not None and here.closed and _is_same_again(here, said):
        return PROGRESS
    item = state.item(event.output_index, said.id)
    if item.closed:
        if event.output_index is not None or _is_same_again(item, said):
            return PROGRESS
        item = state.add(None, said.id)  # from a server that does not tell its items apart
    event.chunks = tuple(_close_item(state, item, said))
    item.wire = partial(_item_of, event.raw)
    return CONTENT if event.chunks else PROGRESS


def _is_same_again(item: ItemState, said: ev.Item) -> bool:
    """The same item closed a second time, perhaps under another id."""
    words = {half: _said(item, half) for half, _ in item.content}
    same = (item.type, item.call_id, item.name) == (said.type, said.call_id, said.name)
    return same and {h: w for h, w in words.items() if w} == {h: w for h, w in _wholes(said) if w}


def _item_of(raw: bytes) -> Any:
    return decode_json(raw)["item"]


def _close_item(state: State, item: ItemState, said: ev.Item) -> Iterator[Chunk]:
    """The item is whole: say what no delta had brought, and let the deltas go."""
    _describe(state, item, said)
    wholes = [(half, whole) for half, whole in _wholes(said) if whole]
    if not wholes:
        item.extra["bare"] = True  # closed without its words: the end may still bring them
    for half, whole in wholes:
        kind, _, _ = _HALVES[half]
        # Half by half, not part by part: what was streamed may be numbered otherwise, or not at
        # all, and nothing may be said twice.
        had = _said(item, half)
        if not whole.startswith(had):
            if half == "arguments":  # the service's last word is what is to be run
                item.content = {}
                item.part((half, 0), kind).add(whole)
        elif len(whole) > len(had):
            item.part((half, len(item.content)), kind).add(whole[len(had) :])
            yield from state.emit(kind, whole[len(had) :], item.index)
    for part in item.content.values():
        part.seal()
    item.closed = True


def _wholes(said: ev.Item) -> Iterator[tuple[str, str]]:
    """The halves of a finished item, each with its whole text."""
    texts: dict[str, list[str]] = {}
    for part in [*(said.summary or ()), *(said.content or ())]:
        half = _PARTS.get(part.type or "")
        if half is not None:
            texts.setdefault(half, []).append(_text_of(part))
    for half, parts in texts.items():
        yield half, "".join(parts)
    if said.type in _TOOL_TYPES:
        whole = said.input if said.type == "custom_tool_call" else said.arguments
        if whole is not None:  # some gateways send the object itself
            yield "arguments", whole if isinstance(whole, str) else json.dumps(whole)


# ---- the response ------------------------------------------------------------------------------


def _lifecycle(state: State, event: Any) -> Effect:
    _take(state, event.response)
    return NOTHING


def _take(state: State, response: ev.Response | None) -> None:
    if response is None:
        return
    state.response_id = response.id or state.response_id
    state.status = response.status or state.status
    state.model = response.model or state.model
    state.service_tier = response.service_tier or state.service_tier
    if response.usage is not None:
        state.usage = merge_usage(state.usage, _usage(response.usage))


def _usage(said: ev.ResponseUsage) -> Usage:
    details_in = said.input_tokens_details or ev.TokenDetails()
    details_out = said.output_tokens_details or ev.TokenDetails()
    return Usage(
        said.input_tokens,
        said.output_tokens,
        said.total_tokens,
        details_in.cached_tokens,
        details_out.reasoning_tokens,
        details_in.cache_write_tokens,
    )


def _completed(state: State, event: Any) -> Effect:
    _take(state, event.response)
    response = event.response or ev.Response()
    if response.status == "failed":  # in a whole answer that came as one JSON body
        return _failed(state, event)
    event.chunks = tuple(_reconcile(state, response.output or [], event.raw))
    state.finish = _finish(state, event, response)
    return Effect(CONTENT.activity if event.chunks else PROGRESS.activity, complete=True)


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
    streamed = _matched(list(state.in_order()), output)
    for position, said in enumerate(output):
        item = streamed.get(position)
        if item is None:
            item = state.announced(None if position in state.items else position, said.id)
        if not item.closed or "bare" in item.extra:
            item.wire = partial(_output_of, raw, position)
            yield from _close_item(state, item, said)


def _matched(items: list[ItemState], output: list[ev.Item]) -> dict[int, ItemState]:
    """Which streamed item each one of the final output is: the one with its id or call id; else
    one of its kind, whose words it begins with before one that said nothing yet before one that
    said something else, and each time the one at its own place first (some count places from 1).
    """
    matched: dict[int, ItemState] = {}
    left = {item.index: item for item in items}

    def match(place: int, item: ItemState | None) -> None:
        if item is not None and place not in matched and left.pop(item.index, None) is not None:
            matched[place] = item

    for name in ("id", "call_id"):
        known = {key: item for item in items if (key := getattr(item, name)) is not None}
        for place, said in enumerate(output):
            match(place, known.get(getattr(said, name)))
    for least in (2, 1, 0):
        for place, said in enumerate(output):
            here = left.get(place)
            match(place, here if here is not None and _agreement(here, said) >= least else None)
        for place, said in enumerate(output):
            if place not in matched:
                near = islice(left.values(), _NEAR)
                match(place, next((item for item in near if _agreement(item, said) >= least), None))
    return matched


def _agreement(item: ItemState, said: ev.Item) -> int:
    """2: the item's words so far are the beginning of what is said; 1: it has none; 0: others;
    -1: it is of another kind."""
    if item.type not in (None, said.type):
        return -1
    wholes = dict(_wholes(said))
    words = {half: _said(item, half) for half, _ in item.content}
    if not any(words.values()):
        return 1
    return 2 if all(wholes.get(half, "").startswith(had) for half, had in words.items()) else 0


def _said(item: ItemState, half: str) -> str:
    return "".join(part.text for key, part in item.content.items() if key[0] == half)


def _output_of(raw: bytes, position: int) -> Any:
    payload = decode_json(raw)
    return payload.get("response", payload)["output"][position]


def _failed(state: State, event: Any) -> Effect:
    _take(state, event.response)
    return Effect(NOTHING.activity, error=error_from_payload(event.json()))


def _error(state: State, event: ev.ResponseErrorEvent) -> Effect:
    return Effect(
        NOTHING.activity, error=error_from_payload(event.json()), linger=_LINGER_AFTER_ERROR
    )


# ---- the table ---------------------------------------------------------------------------------


def _nothing(state: State, event: Any) -> Effect:
    return NOTHING


def _progress(state: State, event: Any) -> Effect:
    return PROGRESS


def _content(state: State, event: Any) -> Effect:
    return CONTENT


_TABLE: dict[type[Any], Apply] = {
    ev.ResponseCreatedEvent: _lifecycle,
    ev.ResponseQueuedEvent: _lifecycle,
    ev.ResponseInProgressEvent: _lifecycle,
    ev.ResponseCompletedEvent: _completed,
    ev.ResponseIncompleteEvent: _completed,
    ev.ResponseFailedEvent: _failed,
    ev.ResponseOutputItemAddedEvent: _item_added,
    ev.ResponseOutputItemDoneEvent: _item_done,
    ev.ResponseContentPartAddedEvent: _part_added,
    ev.ResponseContentPartDoneEvent: _part_done,
    ev.ResponseTextDeltaEvent: _delta("text"),
    ev.ResponseTextDoneEvent: _whole("text", "text"),
    ev.ResponseRefusalDeltaEvent: _delta("refusal"),
    ev.ResponseRefusalDoneEvent: _whole("refusal", "refusal"),
    ev.ResponseReasoningSummaryPartAddedEvent: _part_added,
    ev.ResponseReasoningSummaryTextDeltaEvent: _delta("summary"),
    ev.ResponseReasoningSummaryTextDoneEvent: _whole("summary", "text"),
    ev.ResponseReasoningTextDeltaEvent: _delta("reasoning"),
    ev.ResponseReasoningTextDoneEvent: _whole("reasoning", "text"),
    ev.ResponseFunctionCallArgumentsDeltaEvent: _delta("arguments", "function_call"),
    ev.ResponseFunctionCallArgumentsDoneEvent: _whole("arguments", "arguments"),
    ev.ResponseCustomToolCallInputDeltaEvent: _delta("arguments", "custom_tool_call"),
    ev.ResponseCustomToolCallInputDoneEvent: _whole("arguments", "input"),
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


def _unknown(state: State, event: UnknownEvent) -> Effect:
    # An unknown sign of life must not keep a dead stream open: only the API's own kind counts.
    if event.type == "response.cancelled":
        state.status = "cancelled"  # by someone else: the answer is cut
        return NOTHING
    return PROGRESS if event.type.startswith("response.") else NOTHING


_TABLE[UnknownEvent] = _unknown


class ResponsesDialect(TypedDialect):
    """The Responses API as a dialect."""

    name = "responses"
    default_base_url = "https://api.openai.com/v1"
    default_model: str | None = "gpt-5.4-mini"

    text_part = "input_text"
    default_max_tokens: int | None = None
    events = ev.EVENTS
    table = _TABLE
    essential = frozenset({"delta", "item", "response"})
    tool_types = _TOOL_TYPES

    def with_profile(self, profile: Profile) -> ResponsesDialect:
        return ResponsesDialect(profile)

    def apply(self, state: State, event: AnyEvent) -> Effect:
        fast = state.fast_path
        if (
            fast is not None
            and type(event) is _TEXT
            and event.delta
            and (event.output_index, event.item_id, event.content_index) == fast.key
        ):
            event.chunks = state.append_fast(fast, event.delta)
            return CONTENT
        return super().apply(state, event)

    def request(self, call: Request, base_url: str) -> HTTPRequest:
        if call.stop is not None:
            raise ConfigurationError(
                "the Responses API has no stop sequences: leave stop out, or give it in extra_body "
                "to a compatible server that knows it"
            )
        body = {
            "model": call.model,
            "input": _input(call.prompt, self._profile.typed_turns),
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
        return HTTPRequest("POST", endpoint(self._profile, base_url, "/responses"), headers, data)

    def stored(self, request: HTTPRequest, response_id: str) -> StoredResponse | None:
        if b'"background"' not in request.body:  # seldom there, and the rest may be large
            return None
        body = decode_json(request.body)
        if not isinstance(body, dict) or body.get("background") is not True:
            return None
        return StoredResponse(under(request.url, response_id), request.headers)

    def assistant_turn(self, state: State, safe: frozenset[str]) -> tuple[Any, ...]:
        items = [
            item
            for item in state.in_order()
            if item.wire is not None
            and item.closed
            and item.status != "incomplete"
            and (item.type not in _TOOL_TYPES or (item.call_id or item.id) in safe)
        ]
        while items and items[-1].type == "reasoning":  # refused without what it led to
            items.pop()
        return tuple(item.wire() for item in items if item.wire is not None)

    def auth(self, api_key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {api_key}"}

    def is_unfinished(self, payload: Any) -> bool:
        return (
            isinstance(payload, dict)
            and payload.get("object") == "response"
            and payload.get("status") in ("queued", "in_progress")
        )

    def continued_turn(self, text: str) -> dict[str, Any]:
        return {"type": "message", "role": "assistant", "content": text}

    def events_from_json(self, payload: Any, raw: bytes) -> tuple[AnyEvent, ...]:
        output = payload.get("output") if isinstance(payload, dict) else None
        if not isinstance(output, list) or not ({"object", "status", "id"} & payload.keys()):
            return ()
        if not all(isinstance(i, dict) and isinstance(i.get("type"), str) for i in output):
            return ()
        status = payload.get("status") or "completed"
        envelope = msgspec.json.encode({"type": f"response.{status}", "response": payload})
        return (self.decode("message", envelope),)


def _input(prompt: str | list[Any], typed: bool) -> Any:
    """The reference lets a turn go without a type; where it has to be `typed`, it gets one."""
    if isinstance(prompt, str) or not typed:
        return prompt
    return [
        {"type": "message", **turn} if "role" in turn and "type" not in turn else turn
        for turn in prompt
    ]


def _tool(tool: Any) -> Any:
    known = function_tool(tool)
    return tool if known is None else {"type": "function", **known}


def _tool_choice(choice: Any) -> Any:
    if choice == "any":  # the word of the Messages API
        return "required"
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
