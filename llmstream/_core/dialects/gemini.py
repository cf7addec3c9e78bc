"""The Gemini API of Google AI and of Vertex AI, and what speaks it.

Source: the REST reference v1beta and the vendor's own types (google-genai 3.6.1), and recordings.
These show: parts that are always new; a call that is whole in one part, on Vertex also in pieces;
usage that is a snapshot; a finish that is not the end, because a tool of the service runs in rounds
that each end with one; no end event, so that only the end of the body proves that an answer is
whole; signatures that belong to their own part and go back with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from ...errors import ConfigurationError, ServiceError
from ...events import gemini as ev
from ...events.base import AnyEvent, UnknownEvent, decode_json, raw_elements, shallow
from ...result import Chunk, LLMStreamError, ToolCall, Usage
from ..checks import shown
from ..classify import error_from_payload
from ..finish import broken_off, finish_word
from ..numbering import Standing
from ..outcome import Approval, ToolOutcome
from ..request import HTTPRequest, Request, StoredResponse, encode_body
from ..schema import Fitted, SchemaRules
from ..state import ItemState, Misplaced, State
from ..tool_calls import (
    RunningCall,
    ToolCallState,
    call_ids,
    finish_with_calls,
    has_safe_call,
    item_calls,
    running_item,
)
from .base import CONTENT, NOTHING, PROGRESS, Activity, Effect, ServiceTool, unknown
from .declared import DeclaredTool, write_tools
from .lenient import lenient
from .partial_args import PartialArguments
from .profiles import DEFAULT, Profile
from .refused import without_refused
from .tools import FUNCTIONS, asks_for_structure, chosen_tool, declared_in, function_tool
from .turns.as_gemini import function_response, gemini_contents
from .turns.gemini import compact_json, is_made_id, made_id, plain
from .turns.outcomes import outcome_turn

__all__ = ["GEMINI", "GeminiDialect"]

_CHUNK = ev.GenerateContentResponse
_NOTHING = _CHUNK()
_CLASSES = dict.fromkeys(("GenerateContentResponse", "message", "error"), _CHUNK)
# Without one of these, or with another value, the answer would be another one.
_ESSENTIAL = frozenset(
    (
        *("candidates", "content", "parts", "text", "thought"),
        *("functionCall", "name", "partialArgs"),
        *("jsonPath", "stringValue", "numberValue", "boolValue", "willContinue"),
    )
)
_CALL = "functionCall"
_TOOL_TYPES = {_CALL: "json"}

# The JSON Schema that responseJsonSchema and parametersJsonSchema take (REST reference,
# GenerationConfig), and the formats of "Structured outputs", JSON Schema support. Everything else
# becomes words of the description.
_RULES = SchemaRules(
    kept=frozenset({"format", "minItems", "maxItems", "minimum", "maximum"}),
    formats=frozenset({"date-time", "date", "time"}),
    loose_words=True,
)
_FINISH = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "pause",
    **dict.fromkeys(
        (
            *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE"),
            *("ESCALATION", "MODEL_ARMOR", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT"),
            "IMAGE_RECITATION",
        ),
        "content_filter",
    ),
}
# A finish that is a failure, and not the service's -> the type of its error.
_FAILED = {
    "MISSING_THOUGHT_SIGNATURE": "invalid_request_error",
    "PUP_LIMITED_DISABLED": "permission_error",
}


# ---- an answer ---------------------------------------------------------------------------------


class _Answer:
    """What is known of one answer beside its items."""

    __slots__ = ("begun", "call", "finish", "goes_on", "has_call", "known", "run")

    def __init__(self) -> None:
        self.run: ItemState | None = None  # texts of one kind, one after another, without signature
        self.call: ItemState | None = None  # arrives in pieces
        self.known: dict[tuple[str, str], int] = {}  # calls that are the same -> their number
        self.begun = False  # it has more than thinking
        self.has_call = False  # that is safe to run
        self.finish: str | None = None  # the service's last word for the end
        self.goes_on = False  # content has followed a finish: none of them proves anything


def _answer(state: State) -> _Answer:
    known: _Answer | None = state.choices
    if known is None:
        known = state.choices = _Answer()
    return known


class _Sent:
    """An event as JSON, which is looked at only for parts that are more than text, and once."""

    __slots__ = ("_candidates", "_parts", "_raw")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._candidates: list[bytes] | None = None
        self._parts: tuple[int, list[bytes]] = (-1, [])  # of the candidate that was asked for

    def part(self, candidate: int, number: int) -> bytes:
        if self._candidates is None:
            self._candidates = raw_elements(self._raw, "candidates")
        if self._parts[0] != candidate:
            parts = raw_elements(self._candidates[candidate], "content", "parts")
            self._parts = candidate, parts
        return self._parts[1][number]


def _take_part(
    state: State,
    answer: _Answer,
    part: ev.Part,
    sent: Callable[[], bytes],
    chunks: list[Chunk],
) -> Activity:
    """Add a part to the answer, and its chunks to `chunks`. `sent` returns its JSON."""
    text = part.text
    if text is not None and part == ev.Part(text=text, thought=part.thought):
        if not text:
            return Activity.NONE
        kind = "thinking" if part.thought else "text"
        run = answer.run
        if run is None or run.type != kind:
            run = _add(state, answer, kind)
            run.extra["sizes"] = []
            run.part(kind, kind)  # before its wire: an interrupt may come in between
            run.wire = partial(_whole_run, run)
            answer.run = run
        run.part(kind, kind).add(text)
        run.extra["sizes"].append(len(text))
        chunks += state.emit(kind, text, run.index)
        return Activity.CONTENT
    answer.run = None
    raw = sent()
    if part.function_call is not None:
        return _take_call(state, answer, part.function_call, raw, chunks)
    fields = decode_json(raw)
    if text is not None:  # signed
        kind = "thinking" if part.thought else "text"
    else:
        known = (name for name, value in fields.items() if value is not None)
        kind = next((name for name in known if name not in _BESIDE), "signature")
    item = _add(state, answer, kind)
    item.wire = partial(decode_json, raw)
    if not text:
        return Activity.CONTENT if kind in _SHOWN else Activity.PROGRESS
    item.part(kind, kind).add(text)
    chunks += state.emit(kind, text, item.index)
    return Activity.CONTENT


# The fields of a part that are not what it is.
_BESIDE = frozenset({"thought", "thoughtSignature", "partMetadata", "mediaResolution"})
_SHOWN = frozenset({"inlineData", "fileData", "executableCode", "codeExecutionResult"})
_BEFORE = frozenset({"thinking", "signature"})  # what may come before an answer


def _add(state: State, answer: _Answer, kind: str) -> ItemState:
    answer.begun = answer.begun or kind not in _BEFORE
    item = state.add(None, None)
    item.type = kind
    item.closed = True
    return item


def _whole_run(run: ItemState) -> dict[str, Any]:
    """Its texts as one part."""
    (part,) = run.content.values()
    return {"text": part.text, **({"thought": True} if run.type == "thinking" else {})}


def _pieces(item: ItemState) -> list[dict[str, Any]]:
    """The parts of an item as the service sent them."""
    whole = item.wire() if item.wire is not None else {}
    sizes = item.extra.get("sizes")
    if sizes is None:
        return [whole]
    text, at = whole["text"], 0
    found = []
    for size in sizes:
        found.append({**whole, "text": text[at : at + size]})
        at += size
    if at < len(text):  # an interrupt came before its size was known
        found.append({**whole, "text": text[at:]})
    return found


# ---- calls -------------------------------------------------------------------------------------


def _take_call(
    state: State, answer: _Answer, call: ev.FunctionCall, raw: bytes, chunks: list[Chunk]
) -> Activity:
    item = answer.call
    if call.name or item is None:
        if not call.name and not call.args and not call.partial_args:
            return Activity.NONE  # the end of a call that has ended
        if not call.name:
            raise Misplaced("it has a piece of a call's arguments, and no call is open")
        item = state.add(None, call.id)
        item.type = _CALL
        item.name = call.name
        item.call_id = call.id
        item.extra["part"] = {}
        answer.begun = True
    assert item is not None
    answer.call = item
    shallow(raw)
    item.extra["part"].update(
        {name: value for name, value in decode_json(raw).items() if name != _CALL}
    )
    if call.partial_args or call.will_continue or "pieces" in item.extra:
        _take_pieces(state, item, call, raw, chunks)
    else:
        item.extra["whole"] = raw
        _take_whole(state, item, _arguments_in(raw), chunks)
    if not call.will_continue:
        if call.args is None and not _text(item).strip("{}"):
            item.extra["bare"] = True  # it has no arguments
        _close(state, answer, item, chunks)
        answer.call = None
    return Activity.CONTENT


def _take_whole(state: State, item: ItemState, arguments: str, chunks: list[Chunk]) -> None:
    item.part("args", "tool_call").add(arguments)
    chunks += state.emit("tool_call", arguments, item.index)


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _arguments_in(raw: bytes) -> str:
    """The arguments of a part's call as compact JSON, with its keys and numbers as they are."""
    try:
        args = _OBJECT.decode(_OBJECT.decode(raw)[_CALL]).get("args")
        found = bytes(args) if args is not None else b"null"
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = msgspec.json.encode(decode_json(raw)[_CALL].get("args"))
    return "{}" if found == b"null" else compact_json(found)


def _take_pieces(
    state: State, item: ItemState, call: ev.FunctionCall, raw: bytes, chunks: list[Chunk]
) -> None:
    pieces: PartialArguments = item.extra.setdefault("pieces", PartialArguments())
    for name, value in call.args.items() if isinstance(call.args, dict) else ():
        pieces.set(name, value)
    sent = [one for one in decode_json(raw)[_CALL].get("partialArgs") or () if one is not None]
    for piece, fields in zip(call.partial_args or (), sent, strict=True):
        pieces.add(piece, is_null="nullValue" in fields)  # JSON has null for that value, too
    _show(state, item, pieces.grown(), chunks)


def _show(state: State, item: ItemState, text: str, chunks: list[Chunk]) -> None:
    if text:
        item.part("args", "tool_call").add(text)
        chunks += state.emit("tool_call", text, item.index)


def _close(state: State, answer: _Answer, item: ItemState, chunks: list[Chunk]) -> None:
    pieces: PartialArguments | None = item.extra.pop("pieces", None)
    if pieces is not None:
        _show(state, item, pieces.closed(), chunks)
        if pieces.is_odd:
            item.extra["odd"] = True
    part = item.part("args", "tool_call")
    call = (item.name or "", plain(part.text))
    if "odd" not in item.extra:  # it does not go back
        same = answer.known[call] = answer.known.get(call, -1) + 1
        item.call_id = item.call_id or made_id(*call, same)
        whole = ToolCallState(item.call_id, item.name or "", part.text, custom=False, closed=True)
        answer.has_call = answer.has_call or has_safe_call(iter((whole,)))
    part.seal()
    item.closed = True
    item.wire = partial(_call_part, item)


def _text(item: ItemState) -> str:
    return "".join(part.text for part in item.content.values())


def _call_part(item: ItemState) -> dict[str, Any]:
    """The call as the service has sent it, or would send it in one part."""
    if "whole" in item.extra:
        return dict(decode_json(item.extra["whole"]))
    call: dict[str, Any] = {"name": item.name}
    arguments = decode_json(_text(item).encode() or b"{}")
    if arguments:
        call["args"] = arguments
    if item.id is not None:
        call["id"] = item.id
    return {_CALL: call, **item.extra["part"]}


def _call_ids(state: State) -> dict[int, str]:
    """The index of each call -> its id."""
    calls = [item for item in state.in_order() if item.type == _CALL]
    ids = call_ids(state, [item.call_id or item.id for item in calls])
    return {item.index: id for item, id in zip(calls, ids, strict=True)}


# ---- usage, ends and errors --------------------------------------------------------------------


def _take_usage(state: State, sent: ev.GenerateContentResponseUsageMetadata) -> None:
    """A snapshot: the last one that has a count replaces what was known, as a whole."""
    state.service_tier = sent.service_tier or _tier(sent.traffic_type) or state.service_tier
    counts = (
        sent.prompt_token_count,
        sent.tool_use_prompt_token_count,
        sent.candidates_token_count,
        sent.thoughts_token_count,
        sent.cached_content_token_count,
        sent.total_token_count,
    )
    if all(count is None for count in counts):
        return
    parts = (
        *(sent.prompt_tokens_details, sent.candidates_tokens_details),
        *(sent.cache_tokens_details, sent.tool_use_prompt_tokens_details),
    )
    for part in chain.from_iterable(filter(None, parts)):
        if part.token_count and part.modality in _MEDIA:
            state.media |= {_MEDIA[part.modality]}
    before = state.usage
    given, made = _sum(*counts[:2]), _sum(*counts[2:4])
    total = counts[5]
    if total is None and given is not None and made is not None:
        total = given + made
    state.usage = Usage(given, made, total, counts[4], counts[3], None, before.cost)


def _tier(traffic: str | None) -> str | None:
    """The tier by Vertex's word for it, such as ON_DEMAND_FLEX or PROVISIONED_THROUGHPUT; None for
    the usual one."""
    if traffic in (None, "", "ON_DEMAND", "TRAFFIC_TYPE_UNSPECIFIED"):
        return None
    return str(traffic).lower().removeprefix("on_demand_")


_MEDIA = {"AUDIO": "audio", "IMAGE": "image", "VIDEO": "video"}  # DOCUMENT is billed as text is


def _sum(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _take_finish(state: State, answer: _Answer, candidate: ev.Candidate) -> ServiceError | None:
    word = finish_word(candidate.finish_reason)
    if word is None:
        return None
    failed = _failed(word, candidate.finish_message)
    if failed is None:
        answer.finish = _FINISH.get(word, word)
        _end(state, answer)
    return failed


def _failed(word: str, message: str | None) -> ServiceError | None:
    """The error of an answer that was broken off."""
    kind, known = _FAILED.get(word), broken_off(word)
    if kind is None and known is None:
        return None
    if kind is None and not (message and known is not None and known.type == "server_error"):
        return known
    words = f"the service broke the answer off: it ended with {word!r}"
    words = f"{words} ({message})" if message else words
    return error_from_payload({"error": {"type": kind or "server_error", "message": words}})


def _end(state: State, answer: _Answer) -> None:
    """The answer has ended, unless more of it follows."""
    state.refused = answer.finish == "content_filter"
    state.finish = finish_with_calls(answer.finish, answer.has_call)


def _is_blocked(reason: str | None) -> bool:
    return finish_word(reason) is not None and reason != "BLOCKED_REASON_UNSPECIFIED"


def _service_tool(part: ev.Part) -> ServiceTool | None:
    """What a part reports of a tool that the service runs."""
    call, response = part.tool_call, part.tool_response
    if call is not None:
        return ServiceTool((call.tool_type or "").lower(), "in_progress", call.id)
    if response is not None:
        return ServiceTool((response.tool_type or "").lower(), "completed", response.id)
    if part.executable_code is not None:
        return ServiceTool("code_execution", "in_progress", part.executable_code.id)
    result = part.code_execution_result
    if result is None:
        return None
    failed = result.outcome not in (None, "OUTCOME_OK")
    return ServiceTool("code_execution", "failed" if failed else "completed", result.id)


def _error(sent: Any, now: float | None) -> ServiceError:
    """The error inside a stream. Its status decides: the numbers are those of HTTP, and some of
    them (499) mean something else there."""
    status = sent.get("status") if isinstance(sent, Mapping) else None
    if isinstance(status, str) and status:
        sent = {**sent, "code": status}
    return error_from_payload({"error": sent}, now)


# ---- the dialect -------------------------------------------------------------------------------


class GeminiDialect:
    """The Gemini API as a dialect."""

    name = "gemini"
    default_base_url = "https://generativelanguage.googleapis.com/v1beta"
    # The newest of the cheap ones: $0.30 and $2.50 for a million tokens (genai-prices, 2026-11).
    default_model: str | None = "gemini-3.5-flash-lite"
    text_part = "text"
    default_max_tokens: int | None = None
    schema_rules: ClassVar[SchemaRules] = _RULES
    splits_thinking: ClassVar[bool] = False
    arrays: ClassVar[bool] = True

    def __init__(self, profile: Profile = DEFAULT) -> None:
        self._profile = profile

    def with_profile(self, profile: Profile) -> GeminiDialect:
        return GeminiDialect(profile)

    # -- requests

    def request(self, request: Request, base_url: str) -> HTTPRequest:
        if request.output is not None:
            from .structured import with_output

            request = with_output(request, self, self._profile.structured)
        if request.background:
            raise ConfigurationError("the Gemini API has no background responses")
        system, contents = _split_system(request)
        tools, strict = _tools(request.tools, self.schema_rules)
        extra = dict(request.extra_body or {})
        config = _merged(
            {
                "maxOutputTokens": request.max_output_tokens,
                "temperature": request.temperature,
                "topP": request.top_p,
                "stopSequences": _stop(request.stop),
                "thinkingConfig": _thinking(request),
            },
            extra.pop("generationConfig", None),
            extra.pop("generation_config", None),
        )
        body = {
            "contents": contents,
            "systemInstruction": {"parts": system} if system else None,
            "tools": tools or None,
            "toolConfig": _tool_config(request.tool_choice, strict),
            "generationConfig": config or None,
        }
        for name, twin in _TWINS.items():  # of both the service takes neither
            if twin in extra and body[name] is not None:
                extra.setdefault(name, extra.pop(twin))
        choices = config.get("candidateCount", config.get("candidate_count"))
        own = extra.get("tools") or tools
        return HTTPRequest(
            "POST",
            _url(base_url, request.model, self._profile),
            {"content-type": "application/json", "accept": "text/event-stream"},
            encode_body(body, extra),
            choices if isinstance(choices, int) else 1,
            rounds=_ends_often(request.model)
            or any(map(_is_of_service, own if isinstance(own, (list, tuple)) else ())),
        )

    def auth(self, api_key: str) -> dict[str, str]:
        """An access token of Google's is a Bearer token; an API key has a header of its own."""
        is_key = api_key.startswith(_KEYS)
        if api_key.startswith("ya29.") or (self._profile.name == "vertex" and not is_key):
            return {"authorization": f"Bearer {api_key}"}
        return {"x-goog-api-key": api_key}

    def without_refused_option(
        self, request: HTTPRequest, error: LLMStreamError
    ) -> HTTPRequest | None:
        return without_refused(request, error)

    def stored(self, request: HTTPRequest, response_id: str) -> StoredResponse | None:
        return None

    def serial_calls(self, choice: Any) -> dict[str, Any]:
        return {}  # it has no such field

    def structured(
        self, name: str, schema: Mapping[str, Any] | None, strict: bool
    ) -> dict[str, Any]:
        fields: dict[str, Any] = {"responseMimeType": "application/json"}
        if schema is not None:
            fields["responseJsonSchema"] = schema
        return {"generationConfig": fields}

    def asks_for_structure(self, extra: Mapping[str, Any]) -> bool:
        return asks_for_structure(extra)

    # -- turns

    def assistant_turn(self, state: State, safe: frozenset[str]) -> tuple[Any, ...]:
        ids = _call_ids(state)
        items = [
            item
            for item in state.in_order()
            if item.wire is not None and (item.type != _CALL or ids[item.index] in safe)
        ]
        while items and items[-1].type == "thinking" and "sizes" in items[-1].extra:
            items.pop()  # nothing followed it
        parts = [part for item in items for part in _pieces(item)]
        return ({"role": "model", "parts": parts},) if parts else ()

    def own_turns(self, turns: Sequence[Any]) -> list[Any]:
        return gemini_contents(turns)

    def outcome_turns(self, outcomes: Sequence[ToolOutcome | Approval]) -> list[Any]:
        parts: list[Any] = []
        shown_after: list[Any] = []
        for one in outcomes:
            if not isinstance(one, ToolOutcome):
                continue
            call = one.call
            id = None if is_made_id(call.id, call.name, call.arguments) else call.id
            made, more = function_response(call.name, id, outcome_turn(one))
            parts.append(made)
            shown_after += more
        return [{"role": "user", "parts": [*parts, *shown_after]}] if parts else []

    def approval_requests(self, items: Sequence[Any]) -> tuple[ToolCall, ...]:
        return ()

    def service_tool(self, event: AnyEvent) -> ServiceTool | None:
        if not isinstance(event, _CHUNK):
            return None
        for candidate in event.candidates or ():
            content = None if candidate.index else candidate.content
            for part in (content.parts if content is not None else None) or ():
                if (found := _service_tool(part)) is not None:
                    return found
        return None

    def continued_turn(self, text: str) -> dict[str, Any]:
        return {"role": "model", "parts": [{"text": text}]}

    # -- responses

    # With the class, under the import lock: see TypedDialect.
    _decoder = msgspec.json.Decoder(_CHUNK)

    def decode(self, name: str, data: bytes) -> AnyEvent:
        try:
            event: AnyEvent = self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            event = lenient(name, data, _CLASSES, _ESSENTIAL)
        if name == "error" and isinstance(event, _CHUNK) and not event.error:
            event.error = decode_json(data) or {"code": None}  # by its name it is one
        if data[:1] != b"{" and (inner := _only_one(name, data)) is not None:
            return self.decode(name, inner)
        if event == _NOTHING:
            payload = decode_json(data)
            kind = payload.get("type") if isinstance(payload, dict) else None
            event = UnknownEvent(kind if isinstance(kind, str) else name, payload)
        event.raw = data
        event.chunks = ()  # whatever a service may have sent under this name
        return event

    def apply(self, state: State, event: AnyEvent) -> Effect:
        if not isinstance(event, _CHUNK):
            return unknown(state, event) if isinstance(event, UnknownEvent) else NOTHING
        state.response_id = event.response_id or state.response_id
        state.model = event.model_version or state.model
        if event.usage_metadata is not None:
            _take_usage(state, event.usage_metadata)
        answer = _answer(state)
        chunks: list[Chunk] = []
        activity, failed, ended = Activity.NONE, None, False
        before = answer.finish
        sent = _Sent(event.raw)
        for at, candidate in enumerate(event.candidates or ()):
            if candidate.index:  # another answer
                activity = max(activity, Activity.PROGRESS)
                continue
            content = candidate.content
            for number, part in enumerate((content and content.parts) or ()):
                raw = partial(sent.part, at, number)
                activity = max(activity, _take_part(state, answer, part, raw, chunks))
            failed = _take_finish(state, answer, candidate) or failed
            ended = ended or finish_word(candidate.finish_reason) is not None
        event.chunks = tuple(chunks)
        blocked = event.prompt_feedback
        if blocked is not None and _is_blocked(blocked.block_reason) and not event.candidates:
            answer.finish, ended = "content_filter", True
            _end(state, answer)
        if event.error:
            failed = _error(event.error, state.unix_time())
        if failed is not None:
            return Effect(activity, error=failed)
        if ended and answer.finish != before:
            activity = max(activity, Activity.PROGRESS)
        return self._effect(state, answer, activity, ended)

    def _effect(self, state: State, answer: _Answer, activity: Activity, ended: bool) -> Effect:
        if not ended:
            if answer.finish is None or activity is not Activity.CONTENT:
                return (NOTHING, PROGRESS, CONTENT)[activity]
            answer.goes_on = True
            _end(state, answer)  # a call may have arrived
            return Effect(activity)
        state.status = "completed"
        # The end of the body proves that the answer is whole. It is not waited for longer than
        # this, unless more may follow: the finish came before all content, a tool of the service
        # may run in rounds, or the model has a finish in every chunk.
        early = not answer.begun and not state.refused
        patient = early or answer.goes_on or state.rounds or _ends_often(state.model)
        return Effect(activity, linger=0.0 if patient else _LINGER)

    def standing(self, state: State, event: AnyEvent) -> Standing:
        return Standing()  # there are no numbers

    def done(self, state: State) -> Effect:
        return self.end_of_body(state)  # of a gateway

    def end_of_body(self, state: State) -> Effect:
        if _answer(state).finish is None or state.half:
            return NOTHING
        return Effect(Activity.NONE, complete=True)

    def calls(self, state: State) -> Iterator[ToolCallState]:
        found = item_calls(state, _TOOL_TYPES)
        if state.finish != "length":
            return found
        items = (item for item in state.in_order() if item.type in _TOOL_TYPES)
        # What the limit has cut off may be the arguments.
        return (
            call._replace(closed=False) if "bare" in item.extra else call
            for item, call in zip(items, found, strict=False)
        )

    def running_calls(self, state: State, index: int) -> Sequence[RunningCall]:
        return running_item(state, _TOOL_TYPES, index)

    def is_unfinished(self, payload: Any) -> bool:
        return False

    def events_from_json(self, payload: Any, raw: bytes) -> tuple[AnyEvent, ...]:
        """A proxy that drops `alt=sse` makes one array of the stream; without streaming it is one
        chunk."""
        chunks = payload if isinstance(payload, list) else [payload]
        if not chunks or not all(map(_is_chunk, chunks)):
            return ()
        if not isinstance(payload, list):
            return (self.decode("message", raw),)
        return tuple(self.decode("message", one) for one in raw_elements(raw))


def _only_one(name: str, data: bytes) -> bytes | None:
    """The event in a list of one: the form of an answer without `alt=sse`, and of its error. None
    for what is no list of chunks, or is an error by its name."""
    listed = decode_json(data)
    if not isinstance(listed, list) or not any(map(_is_chunk, listed)):
        return None
    inner = raw_elements(data)
    if len(inner) == 1:
        return inner[0]
    if name == "error":
        return None
    raise ValueError("it is a list of several chunks")


def _is_chunk(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value.keys() & _MARKS)


# Fields that are written in two ways.
_TWINS = {"systemInstruction": "system_instruction", "toolConfig": "tool_config"}
_LINGER = 2.0  # seconds from the finish to the end of the body, at most
_MARKS = frozenset({"candidates", "usageMetadata", "promptFeedback", "responseId", "error"})
_KEYS = ("AIza", "AQ.")  # what an API key begins with: Google AI, and the express mode of Vertex


# ---- writing a request -------------------------------------------------------------------------


def _url(base_url: str, model: str, profile: Profile) -> str:
    base, _, query = base_url.partition("?")
    base = base.rstrip("/")
    vertex = profile.name == "vertex"
    if re.search(r"/v\d\w*(?:/|$)", base) is None:
        base += "/v1" if vertex else "/v1beta"
    model = model.strip("/")
    if ".." in model.split("/"):
        raise ConfigurationError(f"model={shown(model)}: the name of a model has no '..'")
    if vertex and model.count("/") == 1 and not model.startswith(("models/", "endpoints/")):
        model = "publishers/{}/models/{}".format(*model.split("/"))  # as google-genai reads it
    if vertex and model.startswith(("projects/", "publishers/", "endpoints/")):
        whole = model.startswith("projects/")
        below = r"/(?:projects|publishers)/.*$" if whole else r"/publishers(?:/.*)?$"
        base = re.sub(below, "", base)
    else:
        if vertex and "/publishers" not in base:
            base += "/publishers/google"
        if "/" not in model:
            model = f"models/{model}"
    kept = [part for part in query.split("&") if part and not part.startswith("alt=")]
    query = "&".join(("alt=sse", *kept))
    return f"{base}/{quote(model, safe='/@:.')}:streamGenerateContent?{query}"


def _split_system(request: Request) -> tuple[list[Any], list[Any]]:
    """The parts of `systemInstruction`, and `contents`: no turn has the role of the system."""
    prompt, instructions = request.prompt, request.instructions
    system: list[Any] = [{"text": instructions}] if instructions else []
    if isinstance(prompt, str):
        return system, [{"role": "user", "parts": [{"text": prompt}]}]
    contents: list[Any] = []
    for turn in gemini_contents(prompt):
        if turn.get("role") in ("system", "developer"):
            system += turn.get("parts") or ()
        else:
            contents.append(turn)
    version = _version(request.model)
    if "gemini" in request.model.lower() and (version is None or version >= _SIGNED_SINCE):
        contents = [_signed(turn) for turn in contents]
    return system, contents


_SIGNED_SINCE = (3, 0)
# Google's own stand-in for the signature of a call that another model has made: without one Gemini
# 3 refuses the whole request. From ai.google.dev/gemini-api/docs/thought-signatures, FAQ; Gemini
# CLI sends it as it is here, pydantic-ai 2.68 and LiteLLM 1.110 to both services.
_NO_SIGNATURE = "skip_thought_signature_validator"


def _signed(turn: Any) -> Any:
    """The turn with a signature at the first of its calls."""
    parts = turn.get("parts")
    if turn.get("role") != "model" or not isinstance(parts, (list, tuple)):
        return turn
    calls = [n for n, one in enumerate(parts) if isinstance(one, Mapping) and _CALL in one]
    signatures = ("thoughtSignature", "thought_signature")
    if not calls or any(name in parts[at] for at in calls for name in signatures):
        return turn
    first = {**parts[calls[0]], "thoughtSignature": _NO_SIGNATURE}
    return {**turn, "parts": [*parts[: calls[0]], first, *parts[calls[0] + 1 :]]}


_CAMEL = re.compile("_([a-z])")
_MOST_STOPS = 5


def _stop(stop: Any) -> list[str] | None:
    if stop is None:
        return None
    words = [stop] if isinstance(stop, str) else list(stop)
    if len(words) > _MOST_STOPS:
        raise ConfigurationError(f"stop: the Gemini API takes at most {_MOST_STOPS} strings")
    return words or None


def _merged(own: Mapping[str, Any], *given: Any) -> dict[str, Any]:
    """The fields of `generationConfig`; those in `extra_body` win, field by field."""
    config = {name: value for name, value in own.items() if value is not None}
    for more in given:
        if more is None:
            continue
        if not isinstance(more, Mapping):
            raise ConfigurationError("extra_body: 'generationConfig' has to be a dict")
        for sent, value in more.items():
            own_name = _CAMEL.sub(lambda found: found[1].upper(), str(sent))
            name = own_name if own_name in config else sent
            before = config.get(name)
            both = isinstance(before, Mapping) and isinstance(value, Mapping)
            config[name] = {**before, **value} if both else value  # type: ignore[dict-item]
    return config


_LEVELS_SINCE = (3, 0)
_VERSION = re.compile(r"gemini-(\d{1,2})(?:[.-](\d{1,2})(?!\d))?")
# ThinkingLevel of google-genai 3.6.1. Which of them a model has differs: the service says so.
_LEVELS = ("minimal", "low", "medium", "high", "xhigh")
# Google's own table for the reasoning_effort of its endpoint for Chat Completions ("OpenAI
# compatibility", Thinking); pydantic-ai 2.68 and LiteLLM 1.110 have the same for "low".
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}


def _version(model: str) -> tuple[int, int] | None:
    """The version in a model's name; None for a name without one, such as that of the latest."""
    found = _VERSION.search(model.lower())
    return (int(found[1]), int(found[2] or 0)) if found is not None else None


def _ends_often(model: str | None) -> bool:
    """Whether the model has a finish in every chunk, as those of the first generation (1.0, 1.5)
    have in recordings."""
    name = (model or "").lower().rpartition("/")[2]
    version = _version(name)
    first = version is not None and version < (2, 0)
    return first or name in ("gemini-pro", "gemini-pro-vision")


def _thinking(request: Request) -> Mapping[str, Any] | None:
    """`thinking=` as `thinkingConfig`: an effort is a level since Gemini 3, and a budget before."""
    thinking = request.thinking
    if thinking is None or thinking is False:
        return None
    if isinstance(thinking, Mapping):
        return thinking
    version = _version(request.model)
    budgets = version is not None and version < _LEVELS_SINCE
    if thinking is True:
        return {"includeThoughts": True, **({"thinkingBudget": -1} if budgets else {})}
    if isinstance(thinking, int):
        return {"includeThoughts": thinking > 0, "thinkingBudget": thinking}
    effort = str(thinking).lower()
    if budgets and effort in _BUDGETS:
        budget = _BUDGETS[effort]
        return {"includeThoughts": budget > 0, "thinkingBudget": budget}
    if not budgets and effort in _LEVELS:
        return {"includeThoughts": True, "thinkingLevel": effort.upper()}
    known = list(_BUDGETS) if budgets else list(_LEVELS)
    raise ConfigurationError(
        f"thinking={shown(thinking)}: {request.model} takes True, one of {known}, a budget in "
        "tokens, or a dict for its 'thinkingConfig'"
    )


# ---- tools -------------------------------------------------------------------------------------

_DECLARED = frozenset(
    (
        *("name", "description", "parameters", "parametersJsonSchema", "response"),
        *("responseJsonSchema", "behavior"),
    )
)


class _Function(dict[str, Any]):
    """A declaration of a function, until all of them stand in one tool."""

    strict = False


def _tools(tools: Any, rules: SchemaRules) -> tuple[list[Any], bool]:
    """The field `tools`, in which all functions are one tool; and whether one of them has to be
    called as its schema says."""
    if not tools:
        return [], False
    functions: list[Any] = []
    others: list[Any] = []
    strict = False
    for tool in write_tools(tools, rules, _declared_tool, _tool, knows_strict=False).written:
        if isinstance(tool, _Function):
            strict = strict or tool.strict
            functions.append(dict(tool))
            continue
        declared, rest = declared_in(tool)
        if declared is None:
            others.append(tool)
            continue
        functions += declared if isinstance(declared, (list, tuple)) else [declared]
        others += [rest] if rest else []
    return [*([{"functionDeclarations": functions}] if functions else ()), *others], strict


def _is_of_service(tool: Any) -> bool:
    """Whether the service runs the tool itself."""
    return isinstance(tool, Mapping) and bool(tool.keys() - FUNCTIONS)


def _tool(tool: Any) -> Any:
    known = function_tool(tool)
    if known is None:
        return tool
    schema = known.pop("parameters", None)
    made = _Function({name: known[name] for name in known if name in _DECLARED})
    made.strict = known.get("strict") is True
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if isinstance(kind, str) and kind.isupper():  # the API's older form
        made["parameters"] = schema
    elif isinstance(schema, Mapping) and schema.get("properties"):
        made["parametersJsonSchema"] = schema
    return made


def _declared_tool(tool: DeclaredTool, fitted: Fitted) -> Any:
    made = _tool({**tool, "parameters": fitted.schema})
    made.strict = tool.strict is True
    return made


_MODES = {
    "auto": "AUTO",
    "required": "ANY",
    "any": "ANY",
    "none": "NONE",
    "validated": "VALIDATED",
}


def _tool_config(choice: Any, strict: bool) -> Any:
    if choice is None:
        return {"functionCallingConfig": {"mode": "VALIDATED"}} if strict else None
    if isinstance(choice, Mapping):
        if choice.keys() & {"functionCallingConfig", "function_calling_config"}:
            return choice
        if "mode" in choice and "type" not in choice:
            return {"functionCallingConfig": choice}
        name = chosen_tool(choice)
        if name is not None:
            return {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [name]}}
        choice = choice.get("type")
    mode = _MODES.get(choice.lower()) if isinstance(choice, str) else None
    if mode is None:
        raise ConfigurationError(
            f"tool_choice={shown(choice)}: the Gemini API takes one of {list(_MODES)}, or a dict "
            "that names a function"
        )
    if mode == "AUTO" and strict:
        mode = "VALIDATED"
    return {"functionCallingConfig": {"mode": mode}}


GEMINI = GeminiDialect()
