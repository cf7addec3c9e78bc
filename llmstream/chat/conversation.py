"""The turns of a conversation, and what of them the next request sends."""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import Struct

from ..result import Result

__all__ = ["Content", "Conversation", "Exchange", "Origin", "kept_turn", "text_of"]

# What the user asks: a text, or parts in the form of Chat Completions, which every API takes.
Content: TypeAlias = str | list[dict[str, Any]]

# What is sent as the output of a call that the model asks for: an API refuses a call without one.
_NOT_RUN = "This chat runs no tools."


class Origin(Struct, frozen=True):
    """Who answers: the API, its host, and the model that is asked for."""

    api: str = ""
    host: str = ""
    model: str = ""


class Exchange(Struct, frozen=True):
    """A question and its answer.

    Args:
        question: what the user asked.
        text: the answer as it was shown.
        turn: the answer in the API's own form, with its signatures and reasoning; empty where only
            its text can be sent back: it was cut off, or the API's form lacks what was shown.
        origin: who answered. Another service, API or model is sent the text, because it may refuse
            the signatures of this one.
    """

    question: Content
    text: str
    turn: tuple[Any, ...] = ()
    origin: Origin = Origin()

    def turns(self, origin: Origin) -> list[Any]:
        """Question and answer as `origin` takes them; empty if nothing of the answer can be sent:
        services want questions and answers in turn."""
        if self.turn and self.origin == origin:
            return [_user(self.question), *self.turn]
        if not self.text.strip():  # services refuse a turn without text
            return []
        return [_user(self.question), {"role": "assistant", "content": self.text}]


class Conversation:
    """Questions and answers in their order, the question without an answer, and the instructions.

    One thread uses it.
    """

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self.exchanges: list[Exchange] = []
        self.open: Content | None = None  # the latest question, while it has no answer
        self._replaces = False  # whether the answer to it takes the place of the latest one

    def ask(self, question: Content, *, again: bool = False) -> None:
        """The next question. With `again` its answer takes the place of the latest exchange, which
        stays until there is one. A question that was left without an answer is forgotten."""
        self._replaces = bool(self.exchanges) and (
            self._replaces if again and self.open is not None else again
        )
        self.open = question

    def last_question(self) -> Content | None:
        """What was asked last, with or without an answer; None at the beginning."""
        if self.open is not None:
            return self.open
        return self.exchanges[-1].question if self.exchanges else None

    def prompt(self, origin: Origin) -> list[Any]:
        """What is sent to ask the open question."""
        before = self.exchanges[:-1] if self._replaces else self.exchanges
        turns = [turn for exchange in before for turn in exchange.turns(origin)]
        return turns if self.open is None else [*turns, _user(self.open)]

    def answer(self, text: str, turn: tuple[Any, ...], origin: Origin) -> None:
        """The answer to the open question."""
        assert self.open is not None
        if self._replaces:
            self.exchanges.pop()
        self.exchanges.append(Exchange(self.open, text, turn, origin))
        self.open, self._replaces = None, False

    def drop_open(self) -> None:
        """Forget the open question."""
        self.open, self._replaces = None, False

    def fits(self, model: str, here: Origin) -> bool:
        """Whether `model` is one that the service of `here` may have: not if its answers, or all
        answers where it gave none, are of other services."""
        origins = [exchange.origin for exchange in self.exchanges if exchange.origin.model]
        origins = [origin for origin in origins if origin.model == model] or origins
        places = {(origin.api, origin.host) for origin in origins}
        return not places or (here.api, here.host) in places

    def __eq__(self, other: object) -> bool:
        """The same instructions, exchanges and open question."""
        if not isinstance(other, Conversation):
            return NotImplemented
        return self.state() == other.state()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def state(self) -> tuple[str | None, tuple[Exchange, ...], Content | None, bool]:
        """All that it is, as a value."""
        return self.system, tuple(self.exchanges), self.open, self._replaces

    @classmethod
    def of(
        cls,
        system: str | None,
        exchanges: tuple[Exchange, ...],
        open: Content | None,
        replaces: bool,
    ) -> Conversation:
        """The conversation with that `state`."""
        made = cls(system)
        made.exchanges = list(exchanges)
        made.open = open
        made._replaces = replaces and open is not None and bool(exchanges)
        return made


def kept_turn(result: Result, shown: str) -> tuple[Any, ...]:
    """The whole answer `result` in its API's own form, for the next request; empty where its text
    is what can be sent.

    A call of a tool is followed by an output that says that it was not run.
    """
    turn = tuple(result.to_messages())
    if not turn or (shown.strip() and not result.text and not result.refusal):
        return ()
    if any(call.custom for call in result.tool_calls):
        return ()  # an output of a free text has another form in each API
    outputs = tuple(
        {"role": "tool", "tool_call_id": call.id, "content": _NOT_RUN} for call in result.tool_calls
    )
    return turn + outputs


def text_of(question: Content) -> str:
    """The text of a question, without what is attached to it as a part of its own."""
    if isinstance(question, str):
        return question
    texts = [part["text"] for part in question if part.get("type") == "text"]
    return "\n\n".join(texts)


def _user(content: Content) -> dict[str, Any]:
    return {"role": "user", "content": content}
