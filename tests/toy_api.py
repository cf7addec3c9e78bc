"""An API that is one file and one row: what `_core/dialects/NAME.py`, `events/NAME.py` and
`testing/answers/NAME.py` are to a real one, in one place, and its row of APIS.

It sends {"say": "text"}, {"think": "text"} and {"call": name, "with": "JSON"}, ends with
{"end": "why", "used": [in, out]}, and fails with {"oops": "words"}.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmstream._core.classify import error_from_payload
from llmstream._core.dialects import Api
from llmstream._core.dialects.base import CONTENT, NOTHING, PROGRESS, Activity, Effect
from llmstream._core.dialects.profiles import Profile
from llmstream._core.numbering import Standing
from llmstream._core.request import HTTPRequest, Request, StoredResponse, encode_body
from llmstream._core.schema import SchemaRules
from llmstream._core.state import State, merge_usage
from llmstream._core.tool_calls import RunningCall, ToolCallState, item_calls, running_item
from llmstream.events.base import AnyEvent, UnknownEvent
from llmstream.result import LLMStreamError, ToolCall, Usage
from llmstream.testing.answers.base import Answer, Encoding, ErrorSpec, Event

__all__ = ["ENCODING", "ROW", "Toy"]


class Toy:
    """The dialect."""

    name = "toy"
    default_base_url = "https://toy.example"
    default_model: str | None = "toy-1"
    text_part = "words"
    default_max_tokens: int | None = None
    splits_thinking = arrays = False
    schema_rules = SchemaRules(kept=frozenset(), formats=frozenset(), all_required=False)

    def with_profile(self, profile: Profile) -> Toy:
        return self

    def request(self, request: Request, base_url: str) -> HTTPRequest:
        body = {"ask": request.prompt, "as": request.model, "at_most": request.max_output_tokens}
        data = encode_body(body, request.extra_body)
        return HTTPRequest("POST", f"{base_url}/toy", {"content-type": "application/json"}, data)

    def auth(self, api_key: str) -> dict[str, str]:
        return {"x-toy": api_key}

    def without_refused_option(
        self, request: HTTPRequest, error: LLMStreamError
    ) -> HTTPRequest | None:
        return None

    def stored(self, request: HTTPRequest, response_id: str) -> StoredResponse | None:
        return None

    def decode(self, name: str, data: bytes) -> AnyEvent:
        return UnknownEvent(name, json.loads(data), raw=data)

    def apply(self, state: State, event: Any) -> Effect:
        data = event.data
        state.model = data.get("as") or state.model
        if "oops" in data:
            return Effect(error=error_from_payload({"error": {"message": data["oops"]}}))
        if "end" in data:
            state.finish = data["end"]
            state.usage = merge_usage(state.usage, Usage(*data.get("used", ())))
            return Effect(Activity.PROGRESS, complete=True)
        for field, kind in (("say", "text"), ("think", "thinking")):
            if field in data:
                event.chunks = state.emit(kind, data[field], 0)
                return CONTENT
        if "call" in data:
            item = state.add(None, data["id"])
            item.type, item.name, item.closed = "call", data["call"], True
            item.part("with", "tool_call").add(data["with"])
            event.chunks = state.emit("tool_call", data["with"], item.index)
            return CONTENT
        return PROGRESS if "tick" in data else NOTHING

    def standing(self, state: State, event: AnyEvent) -> Standing:
        return Standing()

    def done(self, state: State) -> Effect:
        return NOTHING

    def end_of_body(self, state: State) -> Effect:
        return NOTHING

    def calls(self, state: State) -> Iterator[ToolCallState]:
        return item_calls(state, {"call": "json"})

    def running_calls(self, state: State, index: int) -> Sequence[RunningCall]:
        return running_item(state, {"call": "json"}, index)

    def assistant_turn(self, state: State, safe: frozenset[str]) -> tuple[Any, ...]:
        return ({"i_said": state.text},)

    def own_turns(self, turns: Sequence[Any]) -> list[Any]:
        return list(turns)

    def outcome_turns(self, outcomes: Sequence[Any]) -> list[Any]:
        return [{"it_said": outcome.output} for outcome in outcomes]

    def approval_requests(self, items: Sequence[Any]) -> tuple[ToolCall, ...]:
        return ()

    def service_tool(self, event: AnyEvent) -> None:
        return None

    def serial_calls(self, choice: Any) -> dict[str, Any]:
        return {"calls": 1}

    def continued_turn(self, text: str) -> dict[str, Any]:
        return {"i_said": text}

    def structured(
        self, name: str, schema: Mapping[str, Any] | None, strict: bool
    ) -> dict[str, Any]:
        return {"shape": schema}

    def asks_for_structure(self, extra: Mapping[str, Any]) -> bool:
        return False

    def is_unfinished(self, payload: Any) -> bool:
        return False

    def events_from_json(self, payload: Any, raw: bytes) -> tuple[AnyEvent, ...]:
        return ()


def _encode(answer: Answer) -> list[Event]:
    events: list[Event] = [(None, {"tick": 1, "as": answer.model})]
    events += [(None, {"think": delta}) for delta in answer.thinking_deltas]
    events += [(None, {"say": delta}) for delta in answer.text_deltas]
    for call in answer.calls:
        events.append((None, {"call": call.name, "id": call.call_id, "with": call.arguments}))
    if answer.error is not None:
        return [*events, (None, {"oops": answer.error.get("message", "failed")})]
    used = (answer.token_counts or (0, 0))[:2]
    return [*events, (None, {"end": answer.finish, "used": used})]


def _error(error: ErrorSpec) -> tuple[dict[str, Any], dict[str, str]]:
    fields = {"code": error.code, "type": error.type, "message": error.message}
    return {"error": fields}, {} if error.request_id is None else {"x-request-id": error.request_id}


ENCODING = Encoding(
    api="toy",
    path="/toy",
    base_path="/v9",
    prompt_field="ask",
    encode=_encode,
    error_document=_error,
    ping=b'data: {"nothing": 1}\n\n',
)
ROW = Api(
    load=Toy,
    key_variable="TOY_API_KEY",
    url_variable="TOY_BASE_URL",
    keyring="toy",
    vendor="toys-inc",
    prompt_fields=("ask",),
    limit_fields=("at_most",),
    base_path="/v9",
)
