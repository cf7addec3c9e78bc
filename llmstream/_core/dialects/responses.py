"""The OpenAI Responses API, and the servers that speak it.

Source: the API reference "Streaming events", and recordings of nine services. These show: `event:`
lines may be missing (the JSON's `type` decides); indices may be missing (the item's id decides) or
ids may change (the index decides); items may have no closing event; the final `output` may be
empty; an error is flat in the reference, but the live service nests it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import msgspec

from ...errors import ConfigurationError
from ...events import responses as ev
from ...events.base import AnyEvent, UnknownEvent, decode_json, raw_elements, shallow
from ...result import Chunk, LLMStreamError, ToolCall
from ..classify import error_from_payload
from ..finish import broken_off, finish_word
from ..numbering import Standing
from ..outcome import Approval, ToolOutcome
from ..request import HTTPRequest, Request, StoredResponse, encode_body, url_below
from ..schema import Fitted
from ..state import (
    Contradiction,
    Foreign,
    ItemState,
    Misplaced,
    State,
    merge_usage,
    rest_of,
)
from ..tool_calls import (
    arguments_to_send,
    call_ids,
    decoded_arguments,
    finish_with_calls,
    has_safe_call,
    is_json,
    is_same_json,
    item_calls,
)
from .base import (
    CONTENT,
    NOTHING,
    PROGRESS,
    SIGN_OF_LIFE,
    Apply,
    Effect,
    ServiceTool,
    TypedDialect,
    unknown,
)
from .declared import OPENAI_RULES, DeclaredTool, WrittenTools, write_tools
from .profiles import Profile, endpoint
from .refused import is_refused_by_name, may_refuse_option, refuses, without_refused
from .stray import has_text, refuse_text, without_text
from .tools import chosen_tool, function_tool, plain_choice, separate_functions
from .turns.as_responses import responses_items
from .turns.outcomes import approval_item, outcome_turn
from .usage import openai_usage

__all__ = ["RESPONSES", "ResponsesDialect"]

# A response.failed usually follows an error event at once; it has the id and the usage.
_LINGER_AFTER_ERROR = 0.25
# The item types that the caller has to run -> the kind of their arguments.
_TOOL_TYPES = {"function_call": "json", "custom_tool_call": "text"}
_FINISH = {"max_output_tokens": "length", "content_filter": "content_filter"}
_ENCRYPTED = "reasoning.encrypted_content"  # a value of `include`
_ARGUMENTS = "arguments"  # the only channel of a call
_TEXT = ev.ResponseTextDeltaEvent
_NEAR = 64  # items without a known id that are compared with each final one: not thousands
_MOST_COMPARED = 50_000  # such comparisons for one final output, in vain
_MOST_SEARCHED = 1 << 26  # characters of a closed item that are searched for repeated texts


# ---- deltas ------------------------------------------------------------------------------------

# The channels of an item, each a sequence of parts -> (the type of their chunks, the event's field
# that numbers the parts, the type of the item; None where it may be one of several).
_CHANNELS = {
    "text": ("text", "content_index", "message"),
    "refusal": ("refusal", "content_index", "message"),
    "summary": ("thinking", "summary_index", "reasoning"),
    "reasoning": ("thinking", "content_index", "reasoning"),
    "arguments": ("tool_call", "", None),
}


# the channel -> the types of items that have none: the index is odd, or missing
_MISFITS = {
    "text": frozenset(_TOOL_TYPES),
    "refusal": frozenset(_TOOL_TYPES),
    _ARGUMENTS: frozenset({"message", "reasoning"}),
}


def _delta(channel: str, item_type: str | None = None) -> Apply:
    """The rule for a delta of `channel`."""
    kind, numbered_by, known_type = _CHANNELS[channel]
    item_type = item_type or known_type
    misfits = _MISFITS.get(channel, frozenset())

    def apply(state: State, event: Any) -> Effect:
        delta = event.delta
        if not delta:
            return NOTHING if delta is not None else _lost(state, event)
        item = state.item(event.output_index, event.item_id)
        if item.type in misfits:
            item = _fitting(state, event, misfits)
        if item.closed and event.output_index is None and event.item_id is None:
            item = state.begin_item(None, None)  # from a server that sends neither
        if item.type is None:
            item.type = item_type  # the item's first event is late or missing
        number = getattr(event, numbered_by) if numbered_by else 0
        part = item.part((channel, _number(item, channel, number)), kind)
        part.add(delta)
        if item.closed and "texts" in item.extra:
            _closed_texts(item).add(channel, delta)
        event.chunks = state.emit(kind, delta, item.index)
        if channel == "text" and not item.closed:
            state.open_fast_path((event.output_index, event.item_id, number), part, item.index)
        return CONTENT

    return apply


def _lost(state: State, event: Any) -> Effect:
    """A delta without its text. It says nothing where the item is not known either."""
    index, id = event.output_index, event.item_id
    if (index is None and id is None) or not state.knows(index, id):
        return NOTHING
    raise Misplaced("a piece of the answer has lost its text")


def _fitting(state: State, event: Any, misfits: frozenset[str]) -> ItemState:
    """The item that a piece is meant for which does not fit where its index points to: the one with
    its id, or, where it has none, the latest one that is open. Raises Misplaced."""
    index, known = event.output_index, state.with_id(event.item_id)
    if known is not None and known.type not in misfits:
        return known
    if event.item_id is None:
        for item in islice(reversed(state.items.values()), _NEAR):
            if item.type not in misfits and not item.closed and index in (None, item.number):
                return item
        if index is None:
            return state.begin_item(None, None)
    raise Misplaced("a piece of the answer belongs to an item that cannot have it")


def _number(item: ItemState, channel: str, number: int | None) -> int:
    """The number of a part; that of the latest part where the server sends none (llama.cpp)."""
    if number is not None:
        return number
    latest: int = item.extra.get(channel, 0)
    return latest


def _whole(channel: str, field: str) -> Apply:
    """The rule for the final text of a part, in `field`: what no delta has contained is emitted."""
    _, numbered_by, _ = _CHANNELS[channel]
    misfits = _MISFITS.get(channel, frozenset())

    def apply(state: State, event: Any) -> Effect:
        whole = getattr(event, field)
        number = getattr(event, numbered_by) if numbered_by else 0
        if not _is_repeated(state, event.output_index, channel, whole):
            item = state.item(event.output_index, event.item_id)
            if whole and item.type in misfits:
                item = _fitting(state, event, misfits)
            event.chunks = _finish_part(state, item, channel, number, whole)
        return CONTENT if event.chunks else PROGRESS

    return apply


def _is_repeated(state: State, index: int | None, channel: str, whole: str | None) -> bool:
    """Whether it is a repeated final text for a closed item, possibly under another id."""
    item = state.items.get(index) if index is not None else None
    if item is None or not item.closed:
        return False
    return not whole or _closed_texts(item).contain(channel, whole)


def _finish_part(
    state: State, item: ItemState, channel: str, number: int | None, whole: str | None
) -> tuple[Chunk, ...]:
    if not isinstance(whole, str):
        if channel == _ARGUMENTS and not item.closed:
            item.extra["lost"] = True  # unless they arrive elsewhere
        return ()
    if item.closed and (not whole or _closed_texts(item).contain(channel, whole)):
        return ()
    kind, numbered_by, item_type = _CHANNELS[channel]
    item.type = item.type or item_type
    part = item.part((channel, _number(item, channel, number)), kind)
    # Parts without numbers may have become one, whose last piece is the last part.
    joined = bool(numbered_by) and number is None and part.text.endswith(whole)
    late = "" if joined else _rest(channel, whole, part.text)
    if part.done and late:
        part.add(late)
    part.finish(whole)
    item.extra.pop("texts", None)
    if whole:
        item.extra["whole"] = True
    return state.emit(kind, late, item.index) if late else ()


def _rest(channel: str, whole: str, streamed: str) -> str:
    """The end of a final text that no delta has contained. Arguments may be written in another way.
    Raises Contradiction."""
    if channel == _ARGUMENTS and (is_same_json(whole, streamed) or _replaces(whole, streamed)):
        return ""
    return rest_of(whole, streamed)


def _replaces(whole: str, streamed: str) -> bool:
    """Whether final arguments stand for what was streamed: pieces that lack something, or an empty
    object for arguments to come. The caller runs the final ones."""
    if whole.startswith(streamed) or not is_json(whole):
        return False
    return streamed.strip() == "{}" or not is_json(streamed)


# ---- items -------------------------------------------------------------------------------------

# the type of a part -> the channel that it belongs to
_PARTS = {
    "output_text": "text",
    "text": "text",
    "refusal": "refusal",
    "summary_text": "summary",
    "reasoning_text": "reasoning",
    "reasoning": "reasoning",
}


def _part_added(state: State, event: Any) -> Effect:
    """A part begins: deltas without a number belong to it from now on."""
    summary = isinstance(event, ev.ResponseReasoningSummaryPartAddedEvent)
    number = event.summary_index if summary else event.content_index
    if number is None and event.part is not None:
        channel = "summary" if summary else _PARTS.get(event.part.type or "", "")
        item = state.item(event.output_index, event.item_id)
        item.extra[channel] = item.extra.get(channel, -1) + 1
    return PROGRESS


def _part_done(state: State, event: Any) -> Effect:
    part = event.part
    channel = _channel_of(part, "text") if part is not None else None
    if part is None or channel is None:
        return PROGRESS
    if not _is_repeated(state, event.output_index, channel, _text_of(part)):
        item = state.item(event.output_index, event.item_id)
        event.chunks = _finish_part(state, item, channel, event.content_index, _text_of(part))
    return CONTENT if event.chunks else PROGRESS


def _channel_of(part: ev.ContentPart, usual: str) -> str | None:
    """The channel that a part belongs to: by its type, else by the field that is there."""
    channel = _PARTS.get(part.type or "")
    if channel is None and part.refusal:
        return "refusal"
    return usual if channel is None and part.text else channel


def _text_of(part: ev.ContentPart) -> str:
    first, second = part.text, part.refusal
    return (second or first if part.type == "refusal" else first or second) or ""


def _item_added(state: State, event: ev.ResponseOutputItemAddedEvent) -> Effect:
    if event.item is not None:
        _describe(state, state.begin_item(event.output_index, event.item.id), event.item)
    return PROGRESS


def _describe(state: State, item: ItemState, reported: ev.Item) -> None:
    state.identify(item, reported.id)
    item.type = reported.type or item.type or _type_of(reported)
    item.status = reported.status or item.status
    item.name = reported.name or item.name
    item.call_id = reported.call_id or item.call_id


def _type_of(reported: ev.Item) -> str | None:
    """The type of an item that has none, by the fields that are there."""
    if reported.arguments is not None:
        return "function_call"
    if reported.input is not None:
        return "custom_tool_call"
    return "message" if reported.role is not None else None


def _item_done(state: State, event: ev.ResponseOutputItemDoneEvent) -> Effect:
    final = event.item
    if final is None:
        return PROGRESS
    here = state.items.get(event.output_index) if event.output_index is not None else None
    if here is not None and here.closed and _is_same_again(here, final):
        return PROGRESS
    item = state.item(event.output_index, final.id)
    if item.closed:
        if _is_same_again(item, final):
            return PROGRESS
        if event.output_index is None:  # from a server that does not distinguish its items
            item = state.add(None, final.id)
    event.chunks = tuple(_close_item(state, item, final))
    item.wire = partial(_item_of, shallow(event.raw))
    return CONTENT if event.chunks else PROGRESS


def _is_same_again(item: ItemState, final: ev.Item) -> bool:
    """Whether the same item is closed a second time, possibly under another id."""
    same = (item.type, item.call_id, item.name) == (final.type, final.call_id, final.name)
    return same and _closed_texts(item).are({c: t for c, t in _final_texts(final) if t})


class _ClosedTexts:
    """The texts of a closed item, by channel. A server may repeat the end of an item thousands of
    times: what is compared each time is at most as long as the event, or it is counted."""

    __slots__ = ("_lengths", "_parts", "_pieces", "_searched")

    def __init__(self, item: ItemState) -> None:
        self._pieces: dict[str, list[str]] = {}
        for (channel, _), part in item.content.items():
            self._pieces.setdefault(channel, []).append(part.text)
        self._lengths = {c: sum(map(len, pieces)) for c, pieces in self._pieces.items()}
        self._parts = {c: frozenset(pieces) for c, pieces in self._pieces.items()}
        self._searched = 0

    def add(self, channel: str, text: str) -> None:
        """A delta has arrived after the end of the item."""
        self._pieces.setdefault(channel, []).append(text)
        self._lengths[channel] = self._lengths.get(channel, 0) + len(text)

    def contain(self, channel: str, whole: str) -> bool:
        length = self._lengths.get(channel, 0)
        if len(whole) >= length:
            return len(whole) == length and self._text(channel) == whole
        if whole in self._parts.get(channel, ()):
            return True
        self._searched += length
        return self._searched < _MOST_SEARCHED and whole in self._text(channel)

    def are(self, texts: dict[str, str]) -> bool:
        lengths = {channel: length for channel, length in self._lengths.items() if length}
        return lengths == {channel: len(text) for channel, text in texts.items()} and all(
            self._text(channel) == text for channel, text in texts.items()
        )

    def _text(self, channel: str) -> str:
        pieces = self._pieces[channel]
        if len(pieces) > 1:
            pieces[:] = ["".join(pieces)]
        return pieces[0]


def _closed_texts(item: ItemState) -> _ClosedTexts:
    found: _ClosedTexts | None = item.extra.get("texts")
    if found is None:
        found = item.extra["texts"] = _ClosedTexts(item)
    return found


def _item_of(raw: bytes) -> Any:
    return decode_json(raw)["item"]


def _close_item(state: State, item: ItemState, final: ev.Item) -> Iterator[Chunk]:
    """The item is complete: emit the text that no delta has contained, and release the deltas.
    Raises Contradiction where it is not what was streamed."""
    types = {item.type, final.type} - {None}
    if len(types) > 1 and not types.isdisjoint(_TOOL_TYPES):
        raise Contradiction("an item ends with another type than it began with")
    named = bool(final.name) and item.type in _TOOL_TYPES
    if named and not str(final.name).startswith(item.name or ""):
        raise Contradiction("a call ends with another name than it began with")
    _describe(state, item, final)
    item.extra.pop("texts", None)
    texts = [(channel, whole) for channel, whole in _final_texts(final, item.type) if whole]
    if texts:
        item.extra["whole"] = True
    else:
        item.extra["bare"] = True  # closed without its text: the final output may have it
    if not isinstance(_arguments_of(final), (str, dict, type(None))):
        item.extra["odd"] = True
    for channel, whole in texts:
        kind, _, _ = _CHANNELS[channel]
        # By channel, not by part: the streamed parts may have other numbers or none, and no text
        # may be emitted twice.
        streamed = _text_in(item, channel)
        if not whole.startswith(streamed):
            streamed = _text_in(item, channel, by_number=True)
        late = _rest(channel, whole, streamed)
        if late:
            item.part((channel, len(item.content)), kind).add(late)
            yield from state.emit(kind, late, item.index)
        elif channel == _ARGUMENTS and whole != streamed:  # as the service writes them in the end
            item.forget_content()
            item.part((channel, 0), kind).add(whole)
    for part in item.content.values():
        part.seal()
    item.closed = True


def _final_texts(final: ev.Item, type: str | None = None) -> Iterator[tuple[str, str]]:
    """The channels of a finished item, each with its whole text. `type` is that of the item where
    the service does not repeat it."""
    type = final.type or type
    usual = "reasoning" if type == "reasoning" else "text"
    found = [(part, "summary") for part in final.summary or ()]
    found += [(part, usual) for part in final.content or ()]
    texts: dict[str, list[str]] = {}
    for part, channel_here in found:
        channel = _channel_of(part, channel_here)
        if channel is not None:
            texts.setdefault(channel, []).append(_text_of(part))
    for channel, parts in texts.items():
        yield channel, "".join(parts)
    if type in _TOOL_TYPES:
        whole = _arguments_of(final)
        if whole is not None:
            yield _ARGUMENTS, decoded_arguments(whole)


def _arguments_of(final: ev.Item) -> Any:
    first, second = final.arguments, final.input
    if final.type == "custom_tool_call":
        first, second = second, first
    return second if first is None else first


# ---- the response ------------------------------------------------------------------------------


def _lifecycle(state: State, event: Any) -> Effect:
    _take(state, event.response)
    return NOTHING


def _take(state: State, response: ev.Response | None) -> None:
    if response is None:
        return
    if state.pinned and response.id not in (None, state.response_id):
        raise Foreign("in place of the rest of the answer another response arrived")
    state.response_id = response.id or state.response_id
    state.status = response.status or state.status
    state.model = response.model or state.model
    state.service_tier = response.service_tier or state.service_tier
    if response.store is False:
        state.stored = False
    if response.usage is not None:
        state.usage = merge_usage(state.usage, openai_usage(response.usage))


def _completed(state: State, event: Any) -> Effect:
    _take(state, event.response)
    response = event.response or ev.Response()
    if response.status == "failed":  # in an answer that is one JSON body
        return _failed(state, event)
    event.chunks = tuple(_reconcile(state, response.output or [], event.raw))
    activity = CONTENT.activity if event.chunks else PROGRESS.activity
    if (error := broken_off(response.status) or broken_off(_reason(response))) is not None:
        return Effect(activity, error=error)
    _check_repeats(state)
    state.finish = _finish(state, event, response)
    return Effect(activity, complete=True)


def _check_repeats(state: State) -> None:
    """Raises Contradiction where the text of an item that the service has not repeated may lack
    something, or may be that of an item which it has."""
    unconfirmed = [item for item in state.items.values() if _is_unconfirmed(item)]
    if unconfirmed and (state.lost or state.unplaced):
        raise Contradiction("a piece of the answer is missing, and nothing repeats the whole")
    confirmed = (item for item in state.items.values() if "whole" in item.extra)
    wholes = [text for item in islice(confirmed, _NEAR) for text in _texts_of(item).items()]
    orphans = (item for item in unconfirmed if not item.announced)
    for texts in map(_texts_of, islice(orphans, _NEAR)):
        if any(w.startswith(texts.get(channel, w + " ")) for channel, w in wholes):
            raise Contradiction("text was streamed for an item that the answer does not have")


def _is_unconfirmed(item: ItemState) -> bool:
    """Whether an item has text that the service has not repeated."""
    return "whole" not in item.extra and any(part.text for part in item.content.values())


def _reason(response: ev.Response) -> str | None:
    """Why the response is incomplete."""
    details = response.incomplete_details
    reason = details.get("reason") if isinstance(details, dict) else None
    return finish_word(str(reason))


def _finish(state: State, event: Any, response: ev.Response) -> str:
    if isinstance(event, ev.ResponseIncompleteEvent) or response.status == "incomplete":
        reason = _reason(response) or "incomplete"
        word = _FINISH.get(reason, reason)
        return finish_with_calls(word, has_safe_call(item_calls(state, _TOOL_TYPES))) or word
    if any(item.type in _TOOL_TYPES for item in state.items.values()):
        return "tool_calls"
    # Many servers say "completed" where a limit has cut the answer.
    cut = state.limit is not None and state.usage.output_tokens == state.limit
    return "length" if cut else "stop"


def _reconcile(state: State, output: list[ev.Item], raw: bytes) -> Iterator[Chunk]:
    """Complete the answer from the final output, which decides: items that no event has closed, or
    that had no event at all, are taken from it."""
    streamed = _matched(list(state.in_order()), output)
    sent: list[bytes] = []
    for position, final in enumerate(output):
        item = streamed.get(position)
        if item is None:
            item = state.begin_item(None if position in state.items else position, final.id)
        settled = item.closed and "bare" not in item.extra
        late = tuple(_close_item(state, item, final))
        yield from late
        if late or not settled:
            sent = sent or raw_elements(raw, "response", "output")
            item.wire = partial(decode_json, sent[position])


def _matched(items: list[ItemState], output: list[ev.Item]) -> dict[int, ItemState]:
    """The position of each item of the final output -> the streamed item that it is.

    An item with the same id or call id comes first. Then items of the same type are matched: first
    those whose text is the beginning of the final text, then those without text, then those with
    another text. Within each step the item at the same position comes first (some servers count
    positions from 1).
    """
    if len(items) == len(output) == 1 and items[0].id is not None and items[0].id == output[0].id:
        return {0: items[0]}  # the usual case
    matched: dict[int, ItemState] = {}
    # Ordered: a dict that has lost its first thousands is slow to find the next one.
    left = OrderedDict((item.index, item) for item in items)

    def match(position: int, item: ItemState | None) -> None:
        if item is not None and position not in matched and left.pop(item.index, None) is not None:
            matched[position] = item

    for name in ("id", "call_id"):
        known = {key: item for item in items if (key := getattr(item, name)) is not None}
        for position, final in enumerate(output):
            match(position, known.get(getattr(final, name)))
    texts = {item.index: _texts_of(item) for item in left.values()}
    finals = [
        (at, final, dict(_final_texts(final)))
        for at, final in enumerate(output)
        if at not in matched
    ]
    compared = 0
    for least in (2, 1, 0):
        for position, final, wholes in finals:
            here = left.get(position)
            if here is not None and _agreement(here, texts[position], final, wholes) >= least:
                match(position, here)
        for position, final, wholes in finals:
            if not left or compared > _MOST_COMPARED + _NEAR * len(matched):
                break
            for item in islice(left.values(), _NEAR if position not in matched else 0):
                compared += 1
                if _agreement(item, texts[item.index], final, wholes) >= least:
                    match(position, item)
                    break
    return matched


def _agreement(
    item: ItemState, texts: dict[str, str], final: ev.Item, wholes: dict[str, str]
) -> int:
    """2: the item's text so far is the beginning of the final text; 1: it has no text; 0: it has
    another text; -1: it is of another type."""
    if item.type not in (None, final.type):
        return -1
    if not texts:
        return 1
    return 2 if all(wholes.get(c, "").startswith(text) for c, text in texts.items()) else 0


def _texts_of(item: ItemState) -> dict[str, str]:
    """The texts of an item so far, by channel; without empty ones."""
    pieces: dict[str, list[str]] = {}
    for (channel, _), part in item.content.items():
        pieces.setdefault(channel, []).append(part.text)
    return {channel: text for channel, parts in pieces.items() if (text := "".join(parts))}


def _text_in(item: ItemState, channel: str, by_number: bool = False) -> str:
    """The text of a channel so far, across its parts, as they arrived or by their numbers."""
    parts = [(key, part) for key, part in item.content.items() if key[0] == channel]
    if by_number:
        parts.sort(key=lambda found: found[0][1])
    return "".join(part.text for _, part in parts)


def _failed(state: State, event: Any) -> Effect:
    _take(state, event.response)
    return Effect(NOTHING.activity, error=error_from_payload(event.json(), state.unix_time()))


def _error(state: State, event: ev.ResponseErrorEvent) -> Effect:
    error = error_from_payload(event.json(), state.unix_time())
    return Effect(NOTHING.activity, error=error, linger=_LINGER_AFTER_ERROR)


# ---- the table ---------------------------------------------------------------------------------


def _keepalive(state: State, event: Any) -> Effect:
    return SIGN_OF_LIFE


def _progress(state: State, event: Any) -> Effect:
    return PROGRESS


def _content(state: State, event: Any) -> Effect:
    piece = event.partial_image_b64 if isinstance(event, _IMAGE) else event.delta
    whole = any(piece.values()) if isinstance(piece, dict) else piece
    return CONTENT if whole else NOTHING


_IMAGE = ev.ResponseImageGenCallPartialImageEvent
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
    ev.ResponseReasoningDeltaEvent: _delta("reasoning"),
    ev.ResponseReasoningDoneEvent: _whole("reasoning", "text"),
    ev.ResponseReasoningPartAddedEvent: _part_added,
    ev.ResponseReasoningPartDoneEvent: _part_done,
    ev.ResponseFunctionCallArgumentsDeltaEvent: _delta("arguments", "function_call"),
    ev.ResponseFunctionCallArgumentsDoneEvent: _whole("arguments", "arguments"),
    ev.ResponseCustomToolCallInputDeltaEvent: _delta("arguments", "custom_tool_call"),
    ev.ResponseCustomToolCallInputDoneEvent: _whole("arguments", "input"),
    # what the service itself runs: content for the clocks; events() yields it, chunks() does not
    ev.ResponseCodeInterpreterCallCodeDeltaEvent: _content,
    ev.ResponseImageGenCallPartialImageEvent: _content,
    ev.ResponseMcpCallArgumentsDeltaEvent: _content,
    ev.ResponseAudioDeltaEvent: _content,
    ev.ResponseAudioTranscriptDeltaEvent: _content,
    ev.ResponseShellCallCommandDeltaEvent: _content,
    ev.ResponseShellCallOutputContentDeltaEvent: _content,
    ev.ResponseApplyPatchCallOperationDiffDeltaEvent: _content,
    ev.KeepAliveEvent: _keepalive,
    ev.ResponseErrorEvent: _error,
}
for _cls in ev.EVENTS:  # the others: a tool's status, an item or part begun or done
    _TABLE.setdefault(_cls, _progress)


# What may be a delta of a message, but not of its text.
_NO_TEXT = re.compile("audio|transcript|image|video|annotation|partial|obfuscation|logprob")


def _meant(state: State, sent: Any) -> Any:
    """The delta that an event of an unknown type is, by the item that it names; None where it names
    none of the caller's. The final text shows whether it was one."""
    if not isinstance(sent, dict) or not has_text(sent.get("delta")):
        return None
    kind, index, id = sent.get("type"), sent.get("output_index"), sent.get("item_id")
    index = index if isinstance(index, int) else None
    id = id if isinstance(id, str) else None
    named = index is not None or id is not None or kind is None
    if _NO_TEXT.search(str(kind)):
        return None
    if not named or not state.items or not state.knows(index, id):
        state.unplaced = True
        return None
    item = state.item(index, id)
    event: Any = _MEANT.get(item.type or "")
    if event is None:
        return None
    if item.type == "message" and "refusal" in str(kind):
        event = ev.ResponseRefusalDeltaEvent
    numbers = {name: sent.get(name) for name in ("content_index", "summary_index")}
    if item.type == "reasoning" and isinstance(numbers["summary_index"], int):
        event = ev.ResponseReasoningSummaryTextDeltaEvent
    fields = {n: v for n, v in numbers.items() if isinstance(v, int) and hasattr(event, n)}
    delta = sent["delta"]
    if not isinstance(delta, str):
        refuse_text(delta)
    return event(output_index=index, item_id=id, delta=delta, **fields)


_MEANT: dict[str, Any] = {
    "message": _TEXT,
    "reasoning": ev.ResponseReasoningTextDeltaEvent,
    "function_call": ev.ResponseFunctionCallArgumentsDeltaEvent,
    "custom_tool_call": ev.ResponseCustomToolCallInputDeltaEvent,
}


def _unknown(state: State, event: UnknownEvent) -> Effect:
    if event.type == "response.cancelled":
        state.status = "cancelled"  # by another client: the answer is cut off
        return NOTHING
    meant = _meant(state, event.data)
    if meant is None:
        return unknown(state, event)
    meant.raw = event.raw
    placed = _TABLE[type(meant)](state, meant)
    event.chunks = meant.chunks
    return placed


for _cls, _rule in tuple(_TABLE.items()):
    if "delta" not in _cls.__struct_fields__:
        _TABLE[_cls] = without_text(_rule)
_TABLE[UnknownEvent] = _unknown


def _reasoning_to_send(item: ItemState, stored: bool) -> list[Any]:
    """A reasoning item as a list, empty if it cannot be sent back: the service knows it only by
    what it has stored, or by the item's encrypted content."""
    if item.wire is None or not item.closed or item.status == "incomplete":
        return []
    sent = item.wire()
    return [sent] if stored or sent.get("encrypted_content") else []


def _to_send(
    item: ItemState, complete: bool, call_id: str | None, safe: frozenset[str]
) -> dict[str, Any] | None:
    """An item of the answer for the next prompt; None if it must not be sent back. A message that a
    limit has cut is sent, other items only if they are whole."""
    if call_id is not None and call_id not in safe:
        return None
    if item.type == "message":
        text = _text_in(item, "text")
        if item.wire is None and complete and text:  # from a server that does not close its items
            content = [{"type": "output_text", "text": text, "annotations": []}]
            return {"type": "message", "role": "assistant", "content": content}
        if item.status == "incomplete" and not text:
            return None
    elif item.status == "incomplete":
        return None
    if item.wire is None or not item.closed:
        return None
    sent: dict[str, Any] = item.wire()
    if call_id is not None:
        sent["call_id"] = call_id
        if item.type == "function_call":
            sent["arguments"] = arguments_to_send(sent.get("arguments") or "")
    return sent


_ENDS = frozenset(
    {
        ev.ResponseCompletedEvent,
        ev.ResponseIncompleteEvent,
        ev.ResponseFailedEvent,
        ev.ResponseErrorEvent,
    }
)


# The status of a tool that the service runs: "response.web_search_call.searching".
_STATUS = re.compile(
    r"response\.([a-z_]+?)(?:_call)?\.(in_progress|searching|interpreting|generating|completed"
    r"|failed)"
)


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
    schema_rules = OPENAI_RULES

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
        state.fast_path = None
        return self.table[type(event)](state, event)

    def standing(self, state: State, event: AnyEvent) -> Standing:
        kind = type(event)
        item = getattr(event, "item", None)
        index = getattr(event, "output_index", None)
        id = getattr(event, "item_id", None) or (item.id if item is not None else None)
        named = index is not None or id is not None
        adds = named or has_text(event.data if isinstance(event, UnknownEvent) else None)
        text = event.delta if isinstance(event, _TEXT) else None
        return Standing(kind in _ENDS, adds, not state.knows(index, id), text or "")

    def structured(
        self, name: str, schema: Mapping[str, Any] | None, strict: bool
    ) -> dict[str, Any]:
        if schema is None:
            return {"text": {"format": {"type": "json_object"}}}
        wanted = {"type": "json_schema", "name": name, "schema": schema, "strict": strict}
        return {"text": {"format": wanted}}

    def request(self, request: Request, base_url: str) -> HTTPRequest:
        if request.output is not None:
            from .structured import with_output

            request = with_output(request, self, self._profile.structured)
        if request.stop is not None:
            raise ConfigurationError(
                "the Responses API has no stop sequences: leave stop out, or pass it in extra_body "
                "to a compatible server that supports it"
            )
        prompt = request.prompt
        background = True if request.background else None
        tools = self._tools(request.tools) if request.tools else None
        body = {
            "model": request.model,
            "input": prompt if isinstance(prompt, str) else self.own_turns(prompt),
            "instructions": request.instructions,
            "stream": True,
            "stream_options": {"include_obfuscation": False},  # padding against traffic analysis
            "max_output_tokens": request.max_output_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "tools": tools.written if tools else None,
            "tool_choice": _tool_choice(request.tool_choice),
            "reasoning": _reasoning(request.thinking),
            "background": background,
            "store": background,  # a background response has to be stored
        }
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        extra = request.extra_body or {}
        stored = extra.get("store", background) is not False
        if not stored:  # reasoning that is not stored can only be sent back if it is encrypted
            asked = extra.get("include") or []
            if isinstance(asked, list) and _ENCRYPTED not in asked:
                extra = {**extra, "include": [*asked, _ENCRYPTED]}
        data = encode_body(body, extra)
        url = endpoint(self._profile, base_url, "/responses")
        limit = extra.get("max_output_tokens", request.max_output_tokens)
        limit = None if self._profile.tells_limit else limit
        return HTTPRequest(
            "POST",
            url,
            headers,
            data,
            stored=stored,
            limit=limit,
            strict=tools.strict if tools else (),
        )

    def _tools(self, tools: Any) -> WrittenTools:
        return write_tools(separate_functions(tools), self.schema_rules, _declared_tool, _tool)

    def without_refused_option(
        self, request: HTTPRequest, error: LLMStreamError
    ) -> HTTPRequest | None:
        """Some servers refuse `stream_options` or a part of it; and models that do not reason
        refuse to encrypt it, and some servers do not know it."""
        accepted = without_refused(request, error)
        if accepted is not None:
            return accepted
        if not may_refuse_option(error) or _ENCRYPTED.encode() not in request.body:
            return None
        named = is_refused_by_name(error, "include") or is_refused_by_name(error, _ENCRYPTED)
        if not named and not refuses(error, "encrypted"):
            return None
        body = decode_json(request.body)
        left = [name for name in body.pop("include", ()) if name != _ENCRYPTED]
        if left:
            body["include"] = left
        return msgspec.structs.replace(request, body=msgspec.json.encode(body))

    def stored(self, request: HTTPRequest, response_id: str) -> StoredResponse | None:
        if b'"background"' not in request.body:  # it is rare, and the body may be large
            return None
        body = decode_json(request.body)
        if not isinstance(body, dict) or body.get("background") is not True:
            return None
        return StoredResponse(url_below(request.url, response_id), request.headers)

    def assistant_turn(self, state: State, safe: frozenset[str]) -> tuple[Any, ...]:
        calls = [item for item in state.in_order() if item.type in _TOOL_TYPES]
        names = call_ids(state, [item.call_id or item.id for item in calls])
        ids = {item.index: id for item, id in zip(calls, names, strict=True)}
        turn: list[Any] = []
        reasoning: list[Any] = []
        for item in state.in_order():
            if item.type == "reasoning":
                reasoning += _reasoning_to_send(item, state.stored)
                continue
            sent = _to_send(item, state.finish is not None, ids.get(item.index), safe)
            if sent is not None:  # the API refuses reasoning without the item that follows it
                turn += [*reasoning, sent]
            reasoning = []
        return tuple(turn)

    def own_turns(self, turns: Sequence[Any]) -> list[Any]:
        return responses_items(turns, self._profile.typed_turns)

    def outcome_turns(self, outcomes: Sequence[ToolOutcome | Approval]) -> list[Any]:
        return self.own_turns(
            [
                approval_item(one) if isinstance(one, Approval) else outcome_turn(one)
                for one in outcomes
            ]
        )

    def service_tool(self, event: AnyEvent) -> ServiceTool | None:
        found = _STATUS.fullmatch(event.type)
        if found is None:
            return None
        return ServiceTool(found[1], found[2], getattr(event, "item_id", None))

    def approval_requests(self, items: Sequence[Any]) -> tuple[ToolCall, ...]:
        return tuple(
            ToolCall(item.get("id"), item.get("name") or "", item.get("arguments") or "{}")
            for item in items
            if isinstance(item, dict) and item.get("type") == "mcp_approval_request"
        )

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


def _tool(tool: Any) -> Any:
    known = function_tool(tool)
    return tool if known is None else {"type": "function", **known}


def _declared_tool(tool: DeclaredTool, fitted: Fitted) -> Any:
    # Without the field this API takes the schema for a strict one.
    return _tool({**tool, "parameters": fitted.schema, "strict": fitted.strict})


def _tool_choice(choice: Any) -> Any:
    choice = plain_choice(choice)
    if choice == "any":  # the value in the Messages API
        return "required"
    name = chosen_tool(choice)
    return choice if name is None else {"type": "function", "name": name}


def _reasoning(thinking: Any) -> Any:
    """`thinking=` as this API's `reasoning`: True, an effort ("low", "high", ...), or the object
    itself. It asks for a summary, without which the API sends no text of the reasoning."""
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
