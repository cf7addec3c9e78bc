"""What a dialect is: one API, that is, how its requests are written and its responses read; and
what the APIs with typed events have in common. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Union

import msgspec
from msgspec import Struct

from ...errors import ServiceError
from ...events.base import AnyEvent, Event, UnknownEvent
from ...result import LLMStreamError, ToolCall
from ..liveness import is_ping
from ..numbering import Standing
from ..request import HTTPRequest, Request, StoredResponse
from ..schema import SchemaRules
from ..state import State
from ..tool_calls import RunningCall, ToolCallState, item_calls, running_item
from .lenient import lenient
from .profiles import DEFAULT, Profile
from .refused import without_refused
from .tools import asks_for_structure

if TYPE_CHECKING:
    from ..outcome import Approval, ToolOutcome

__all__ = [
    "CONTENT",
    "CUT",
    "NOTHING",
    "PROGRESS",
    "SIGN_OF_LIFE",
    "Activity",
    "Apply",
    "Dialect",
    "Effect",
    "ServiceTool",
    "TypedDialect",
    "unknown",
]


class Activity(IntEnum):
    """What an event means to the clocks, in ascending order."""

    NONE = 0  # a ping, a comment, a response or role announced: resets only silence
    PROGRESS = 1  # a status, an item begun or done: resets idle
    CONTENT = 2  # text, thinking, refusal, arguments, code, an image: ends first_token


class Effect(Struct, frozen=True):
    """What an event means, besides what it adds to the answer.

    `activity` is for the clocks. `complete`: the answer is complete. `error`: the service failed.
    With either, `linger` is the seconds to wait for the rest of the stream; 0 stops reading at
    once. Without, it is the seconds after which the answer counts as complete if nothing more of
    the stream arrives; but not if the stream is cut. `reopens`: more of the answer has arrived
    after its end: it is not complete yet.
    """

    activity: Activity = Activity.NONE
    complete: bool = False
    error: ServiceError | None = None
    linger: float = 0.0
    reopens: bool = False


class ServiceTool(Struct, frozen=True):
    """A tool that the service runs itself, as it reports it. `status` is the service's word, or
    "in_progress", "completed" and "failed"; `id` is that of the item."""

    name: str
    status: str
    id: str | None = None


NOTHING = Effect(Activity.NONE)
SIGN_OF_LIFE = Effect(Activity.NONE)  # a ping: what makes the silence clock "auto" hold
CUT = Effect(Activity.NONE)  # the stream has ended, and the answer has not
PROGRESS = Effect(Activity.PROGRESS)
CONTENT = Effect(Activity.CONTENT)


class Dialect(Protocol):
    """One API. Stateless, so one object serves all streams and threads: what has arrived of an
    answer is in the State that is passed in.

    `text_part` is the type of a text part in a prompt. `default_max_tokens` is the limit of the
    answer where the caller sets none and the API requires one. `schema_rules` is what its strict
    mode knows of JSON Schema. `splits_thinking`: whether it knows `Profile.think_tags`.
    `arrays`: whether a stream may come as one JSON array of its events.
    """

    name: str
    default_base_url: str
    default_model: str | None
    text_part: str
    default_max_tokens: int | None
    schema_rules: ClassVar[SchemaRules]
    splits_thinking: ClassVar[bool]
    arrays: ClassVar[bool]

    def with_profile(self, profile: Profile) -> Dialect:
        """The same API as one service implements it."""

    def request(self, request: Request, base_url: str) -> HTTPRequest:
        """The HTTP request for `request`. Raises ConfigurationError for what this API lacks."""

    def auth(self, api_key: str) -> dict[str, str]:
        """The headers that contain the key."""

    def without_refused_option(
        self, request: HTTPRequest, error: LLMStreamError
    ) -> HTTPRequest | None:
        """`request` without the option that the server refused with `error`, or None if `error` is
        not such a refusal."""

    def stored(self, request: HTTPRequest, response_id: str) -> StoredResponse | None:
        """The stored response that `request` began; None for a request that is not in the
        background."""

    def decode(self, name: str, data: bytes) -> AnyEvent:
        """One event as the service sent it, typed. `name` is the SSE event name, "message" where
        the block has none. Raises ValueError if `data` does not follow the protocol."""

    def apply(self, state: State, event: AnyEvent) -> Effect:
        """Add the event to the state and set its `chunks`."""

    def standing(self, state: State, event: AnyEvent) -> Standing:
        """What the event is to the answer so far. Asked only where its number is odd."""

    def done(self, state: State) -> Effect:
        """The end marker `[DONE]` has arrived."""

    def end_of_body(self, state: State) -> Effect:
        """The body has ended as HTTP requires, and the answer is not complete."""

    def calls(self, state: State) -> Iterator[ToolCallState]:
        """The tool calls that the caller has to run, in order, as far as they have arrived."""

    def running_calls(self, state: State, index: int) -> Sequence[RunningCall]:
        """The calls whose pieces have chunks with this index, as far as they have arrived."""

    def assistant_turn(self, state: State, safe: frozenset[str]) -> tuple[Any, ...]:
        """The answer as messages (or input items) for the next prompt. It has only what is closed:
        no unfinished block, no call whose id is not in `safe`, no thinking at its end."""

    def own_turns(self, turns: Sequence[Any]) -> list[Any]:
        """Turns in the form of any of the APIs, in this API's own: see `turns`. Turns that are in
        it already are the same; turns of the system stay among them. Raises ConfigurationError for
        what only the service knows that has stored it."""

    def outcome_turns(self, outcomes: Sequence[ToolOutcome | Approval]) -> list[Any]:
        """The outcomes of the calls of one answer, as the turns that follow it in the next prompt,
        in this API's own form. Messages has one turn of the user with all of them; in Chat
        Completions pictures follow in such a turn. Approvals are of the Responses API only."""

    def approval_requests(self, items: Sequence[Any]) -> tuple[ToolCall, ...]:
        """What the service asks to be allowed to run itself, in the items of an answer."""

    def service_tool(self, event: AnyEvent) -> ServiceTool | None:
        """What an event reports of a tool that the service runs itself; None for other events."""

    def serial_calls(self, choice: Any) -> dict[str, Any]:
        """The fields of a request's JSON that ask for one call at most in an answer. `choice` is
        the caller's `tool_choice`."""

    def continued_turn(self, text: str) -> dict[str, Any]:
        """The assistant's turn for an answer that several requests have produced: its text."""

    def structured(
        self, name: str, schema: Mapping[str, Any] | None, strict: bool
    ) -> dict[str, Any]:
        """The fields of a request's JSON that ask for an answer which fits `schema`; None: for any
        JSON object. `strict`: the service is to hold the model to it."""

    def asks_for_structure(self, extra: Mapping[str, Any]) -> bool:
        """Whether `extra_body` asks for an answer that follows a schema or a grammar."""

    def is_unfinished(self, payload: Any) -> bool:
        """Whether a JSON body is an answer that the service is still working on."""

    def events_from_json(self, payload: Any, raw: bytes) -> tuple[AnyEvent, ...]:
        """The events that a completion in a JSON body stands for; () if it is not a completion."""


Apply = Callable[[State, Any], Effect]


def unknown(state: State, event: UnknownEvent) -> Effect:
    """What an event of an unknown type means: nothing, or a sign of life if it is a ping."""
    word = event.data if isinstance(event.data, str) else event.type
    return SIGN_OF_LIFE if is_ping(event.type) or is_ping(word) else NOTHING


class TypedDialect:
    """What the APIs have in common whose events each have a `type` (Responses, Messages).

    `events` are the event classes, and `table` says how each is applied to the state. `essential`
    are the fields that must not be left out if they cannot be read (see `lenient`). `tool_types`
    maps the types of the items that the caller has to run to the kind of their arguments.
    """

    events: ClassVar[tuple[type[Event], ...]]
    table: ClassVar[Mapping[type[Any], Apply]]
    essential: ClassVar[frozenset[str]]
    tool_types: ClassVar[Mapping[str, str]]
    schema_rules: ClassVar[SchemaRules]
    splits_thinking: ClassVar[bool] = False
    arrays: ClassVar[bool] = False

    def __init__(self, profile: Profile = DEFAULT) -> None:
        self._profile = profile

    # Made with the class, under the import lock: threads that make a decoder at the same time crash
    # msgspec (CPython 3.12.1), and cached_property has no lock since 3.12.
    _decoder: ClassVar[msgspec.json.Decoder[Any]]
    _classes: ClassVar[dict[str, type[Event]]]

    def __init_subclass__(cls) -> None:
        # A union made at run time: X | Y cannot spell it.
        cls._decoder = msgspec.json.Decoder(Union[cls.events])  # noqa: UP007
        cls._classes = {event.type: event for event in cls.events}

    def decode(self, name: str, data: bytes) -> AnyEvent:
        try:
            event: AnyEvent = self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            event = lenient(name, data, self._classes, self.essential)
        event.raw = data
        event.chunks = ()  # whatever a service may have sent under this name
        return event

    def apply(self, state: State, event: AnyEvent) -> Effect:
        state.fast_path = None
        return self.table[type(event)](state, event)

    def without_refused_option(
        self, request: HTTPRequest, error: LLMStreamError
    ) -> HTTPRequest | None:
        return without_refused(request, error)

    def standing(self, state: State, event: AnyEvent) -> Standing:
        return Standing()  # these APIs have no numbers: none means that an event is known

    def done(self, state: State) -> Effect:
        # These APIs end with an event of their own; some gateways append the marker nevertheless.
        return NOTHING

    def end_of_body(self, state: State) -> Effect:
        return NOTHING

    def calls(self, state: State) -> Iterator[ToolCallState]:
        return item_calls(state, self.tool_types)

    def running_calls(self, state: State, index: int) -> Sequence[RunningCall]:
        return running_item(state, self.tool_types, index)

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
