"""What a dialect is: how to ask, and how to understand the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from functools import cached_property
from typing import Any, ClassVar, Protocol, Union

import msgspec
from msgspec import Struct

from ...errors import ServiceError
from ...events.base import AnyEvent, Event
from ...result import LLMStreamError
from ..request import HTTPRequest, Request, StoredResponse
from ..state import State
from ..tool_calls import ToolCallState, item_calls
from .lenient import lenient
from .profiles import DEFAULT, Profile
from .tools import asks_for_structure

__all__ = [
    "CONTENT",
    "NOTHING",
    "PROGRESS",
    "Activity",
    "Apply",
    "Dialect",
    "Effect",
    "TypedDialect",
]


class Activity(IntEnum):
    """What has arrived, to the clocks."""

    NONE = 0  # a ping, a comment, an announcement
    PROGRESS = 1  # a status, an item begun or done
    CONTENT = 2  # text, thinking, refusal, arguments, code, an image


class Effect(Struct, frozen=True):
    """What an event means besides what it adds to the answer.

    `activity` is what it is to the clocks. `complete`: the answer is whole. `error`: the service
    failed. Either may `linger`: seconds to wait for what still belongs to the stream; without,
    reading stops at once.
    """

    activity: Activity = Activity.NONE
    complete: bool = False
    error: ServiceError | None = None
    linger: float = 0.0


NOTHING = Effect(Activity.NONE)
PROGRESS = Effect(Activity.PROGRESS)
CONTENT = Effect(Activity.CONTENT)


class Dialect(Protocol):
    """One API. It has no state of its own: what a stream has said is in the State passed in.

    `text_part` is the type of a text part in a prompt; `default_max_tokens` the limit of the
    answer where the caller sets none and the API wants one.
    """

    name: str
    default_base_url: str
    default_model: str | None
    text_part: str
    default_max_tokens: int | None

    def with_profile(self, profile: Profile) -> Dialect:
        """The same API in the manner of one service."""

    def request(self, call: Request, base_url: str) -> HTTPRequest:
        """The HTTP request for `call`. Raises ConfigurationError for what this API cannot do."""

    def auth(self, api_key: str) -> dict[str, str]:
        """The headers that carry the key."""

    def without_refused_option(
        self, request: HTTPRequest, error: LLMStreamError
    ) -> HTTPRequest | None:
        """The request without the option that the server refused in `error`, or None."""

    def stored(self, request: HTTPRequest, response_id: str) -> StoredResponse | None:
        """Where a background response that `request` began is kept; None for other requests."""

    def decode(self, name: str, data: bytes) -> AnyEvent:
        """One event of the wire, typed. `name` is the SSE event name ("message" where there was
        none). Raises ValueError where it is not this protocol."""

    def apply(self, state: State, event: AnyEvent) -> Effect:
        """Fold the event into the state and fill in its `chunks`."""

    def done(self, state: State) -> Effect:
        """The end marker `[DONE]` came."""

    def calls(self, state: State) -> Iterator[ToolCallState]:
        """The calls that the caller is to run, in order, as far as they came."""

    def assistant_turn(self, state: State, safe: frozenset[str]) -> tuple[Any, ...]:
        """The answer as the messages (or input items) that go into the next prompt: what was
        closed, never half a block, nor a call whose id is not `safe`, nor thinking that leads to
        nothing."""

    def continued_turn(self, text: str) -> dict[str, Any]:
        """The assistant's turn of an answer that several requests have brought: its text."""

    def asks_for_structure(self, extra: Mapping[str, Any]) -> bool:
        """Whether `extra_body` asks for an answer that follows a schema or a grammar."""

    def is_unfinished(self, payload: Any) -> bool:
        """A JSON body: an answer that the service is still at work on."""

    def events_from_json(self, payload: Any, raw: bytes) -> tuple[AnyEvent, ...]:
        """A 200 with a JSON body: the completion as events, none where it is no completion."""


Apply = Callable[[State, Any], Effect]


class TypedDialect:
    """What APIs have in common whose events each have a type of their own."""

    events: ClassVar[tuple[type[Event], ...]]
    table: ClassVar[Mapping[type[Any], Apply]]
    # the fields of which none may be left out where it cannot be read
    essential: ClassVar[frozenset[str]]
    # the item types that the caller has to run -> the kind of their arguments
    tool_types: ClassVar[Mapping[str, str]]

    def __init__(self, profile: Profile = DEFAULT) -> None:
        self._profile = profile

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[Event]:
        # a union made at run time: X | Y cannot spell it
        return msgspec.json.Decoder(Union[self.events])  # noqa: UP007

    @cached_property
    def _classes(self) -> dict[str, type[Event]]:
        return {cls.type: cls for cls in self.events}

    def decode(self, name: str, data: bytes) -> AnyEvent:
        try:
            event: AnyEvent = self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            event = lenient(name, data, self._classes, self.essential)
        event.raw = data
        event.chunks = ()  # not for the wire to say
        return event

    def apply(self, state: State, event: AnyEvent) -> Effect:
        state.fast_path = None
        return self.table[type(event)](state, event)

    def without_refused_option(
        self, request: HTTPRequest, error: LLMStreamError
    ) -> HTTPRequest | None:
        return None

    def done(self, state: State) -> Effect:
        # These APIs end with an event of their own; gateways append the marker all the same.
        return NOTHING

    def calls(self, state: State) -> Iterator[ToolCallState]:
        return item_calls(state, self.tool_types)

    def continued_turn(self, text: str) -> dict[str, Any]:
        return {"role": "assistant", "content": text}

    def asks_for_structure(self, extra: Mapping[str, Any]) -> bool:
        return asks_for_structure(extra)

    def is_unfinished(self, payload: Any) -> bool:
        return False
