"""The next request after an attempt has failed: the four policies of `on_disconnect`.

Each policy is a row of POLICIES. Before the first content all of them send the same request again;
they differ after content was delivered. Pure: relies on the dialect, which writes requests, and on
the session, which has the answer so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import partial
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from ..errors import ConfigurationError, InvalidRequestError
from ..events.base import Continued, Restarted
from ..result import LLMStreamError
from .dialects import Api
from .dialects.base import Dialect
from .request import HTTPRequest, Request
from .session import Session

__all__ = ["POLICIES", "Mode", "NextAttempt", "Recovery", "asked_again"]


class Mode(Enum):
    """How an attempt relates to the answer that the reader has received so far."""

    ANEW = "anew"  # a new answer, which replaces it once the service has accepted the request
    CONTINUE = "continue"  # a new answer, which goes on with its text
    RESUME = "resume"  # the same answer, streamed from the cut on
    POLL = "poll"  # the same answer, asked for until it is complete


class NextAttempt(Struct, frozen=True):
    """How the next attempt is made. `request` has no credentials yet; `marker` is the event that
    tells the reader how the answer goes on, or None where there is nothing to tell."""

    request: HTTPRequest
    mode: Mode = Mode.ANEW
    marker: type[Restarted] | type[Continued] | None = None


class Recovery(Protocol):
    """The policy of one call. For the reader's thread. `readable_as_text` is false where a reader
    of the text alone could not know that the answer begins anew."""

    readable_as_text: bool

    def __init__(
        self, request: Request, first: HTTPRequest, dialect: Dialect, api: Api, url: str
    ) -> None:
        """`first` is `request` as `dialect` writes it for the base URL `url`. Raises
        ConfigurationError if the policy cannot work for this request."""

    def after_failure(self, shown: Session, first: HTTPRequest) -> NextAttempt | None:
        """The next attempt after a retryable failure, or None to raise it. `shown` is the answer as
        the reader has received it, `first` the latest form of the first request."""

    def fallback(self, shown: Session, error: LLMStreamError) -> NextAttempt | None:
        """Another attempt to make at once because the service refused the last one with `error`, or
        None."""


class _Raise:
    """After content was delivered, the failure is raised."""

    readable_as_text = True

    def __init__(
        self, request: Request, first: HTTPRequest, dialect: Dialect, api: Api, url: str
    ) -> None:
        pass

    def fallback(self, shown: Session, error: LLMStreamError) -> NextAttempt | None:
        return None

    def after_failure(self, shown: Session, first: HTTPRequest) -> NextAttempt | None:
        return None if shown.has_content else NextAttempt(first)


class _Restart(_Raise):
    """The answer begins anew, and a Restarted event tells the reader."""

    readable_as_text = False

    def after_failure(self, shown: Session, first: HTTPRequest) -> NextAttempt | None:
        return NextAttempt(first, marker=Restarted if shown.has_content else None)


# ---- continue ----------------------------------------------------------------------------------

# The types of the items in an answer that is plain text.
_PLAIN = frozenset(
    (None, "message", "text", "reasoning", "thinking", "redacted_thinking", "signature")
)
_MIN_TOKENS = 16  # the Responses API accepts no smaller limit
_BYTES_PER_TOKEN = 4  # in English; other languages have fewer, but also more text deltas
# What a model is asked; `text` is the answer so far.
_CONTINUE_PROMPT = """\
Your answer to this was cut off by a lost connection. What had arrived of it is quoted below. \
Go on exactly where it stops, be it within a word; begin with a space or a line end if one \
belongs there. Write only what is missing: do not repeat what is there, and say nothing about \
the interruption.

<answer_so_far>
{text}
</answer_so_far>"""


class _Continue(_Raise):
    """A new request quotes the text that has arrived and asks the model to go on with it."""

    def __init__(
        self, request: Request, first: HTTPRequest, dialect: Dialect, api: Api, url: str
    ) -> None:
        extra = request.extra_body or {}
        reason = (
            "the call has tools, and half a tool call cannot be continued"
            if request.tools or extra.get("tools")
            else "the answer has to follow a schema, and half of it cannot be continued"
            if request.output is not None or dialect.asks_for_structure(extra)
            else "extra_body contains the prompt itself"
            if api.prompt_fields[0] in extra
            else "it asks for several answers"
            if first.choices > 1
            else "it runs in the background: use 'resume'"
            if request.background
            else None
        )
        if reason is not None:
            raise ConfigurationError(
                f"on_disconnect='continue' works for plain text only, not for this call: {reason}. "
                "Pass on_disconnect='raise' (or 'restart') for it"
            )
        self._request, self._dialect, self._url = request, dialect, url
        self._limit_fields = api.limit_fields

    def after_failure(self, shown: Session, first: HTTPRequest) -> NextAttempt | None:
        if not shown.has_content:
            return NextAttempt(first)
        state = shown.state
        plain = all(item.type in _PLAIN for item in list(state.items.values()))
        called = any(True for _ in self._dialect.calls(state))
        if not state.text or state.refusal or called or not plain:
            return None
        return NextAttempt(self._rest_of(shown), Mode.CONTINUE, Continued)

    def _rest_of(self, shown: Session) -> HTTPRequest:
        request, state, text = self._request, shown.state, shown.state.text
        used = max(state.tokens_at_least, len(text.encode()) // _BYTES_PER_TOKEN)
        limit = request.max_output_tokens or self._dialect.default_max_tokens
        extra = dict(request.extra_body or {})
        for name in self._limit_fields:
            _lower(extra, name.split("."), used)
        quote = _CONTINUE_PROMPT.format(text=text)
        rest = msgspec.structs.replace(
            request,
            prompt=_with_quote(request.prompt, quote, self._dialect.text_part),
            max_output_tokens=max(_MIN_TOKENS, limit - used) if limit else None,
            thinking=None,  # the first request has done the thinking
            extra_body=extra,
        )
        return self._dialect.request(rest, self._url)


def _lower(fields: dict[str, Any], path: list[str], used: int) -> None:
    """Lower the limit at `path` by the tokens that are used up; the objects of the caller stay."""
    name, value = path[0], fields.get(path[0])
    if len(path) > 1 and isinstance(value, Mapping):
        fields[name] = dict(value)
        _lower(fields[name], path[1:], used)
    elif isinstance(value, int):
        fields[name] = max(_MIN_TOKENS, value - used)


def _with_quote(prompt: str | list[Any], quote: str, text_part: str) -> list[Any]:
    """The prompt with `quote` appended to its last user turn, because many chat templates refuse
    two turns of the same role in a row."""
    turns: list[Any] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    last = turns[-1]
    content = last.get("content") if last.get("role") == "user" else None
    if isinstance(content, str):
        longer: Any = f"{content}\n\n{quote}"
    elif isinstance(content, list):
        longer = [*content, {"type": text_part, "text": quote}]
    else:
        return [*turns, {"role": "user", "content": quote}]
    return [*turns[:-1], {**last, "content": longer}]


# What a model is asked whose answer is not what was asked for.
_ASK_AGAIN = """\
Your answer does not fit the JSON Schema that was asked for: {reason}. Answer again: write the \
whole JSON, corrected, and nothing else."""


def asked_again(request: Request, turn: tuple[Any, ...], reason: str, text_part: str) -> Request:
    """The request for another answer in place of the one with the assistant's `turn`, which does
    not fit the schema."""
    prompt, words = request.prompt, _ASK_AGAIN.format(reason=reason)
    if not turn:
        return msgspec.structs.replace(request, prompt=_with_quote(prompt, words, text_part))
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    again = [*turns, *turn, {"role": "user", "content": words}]
    return msgspec.structs.replace(request, prompt=again)


# ---- resume ------------------------------------------------------------------------------------


class _Resume(_Raise):
    """The service stores the answer: its stream is resumed, or the whole answer is polled for."""

    def __init__(
        self, request: Request, first: HTTPRequest, dialect: Dialect, api: Api, url: str
    ) -> None:
        if dialect.stored(first, "id") is None:
            raise ConfigurationError(
                "on_disconnect='resume' needs an answer that the service stores: use the Responses "
                "API with background=True"
            )
        self._stored = partial(dialect.stored, first)
        self._mode = Mode.ANEW

    def after_failure(self, shown: Session, first: HTTPRequest) -> NextAttempt | None:
        state = shown.state
        if state.response_id is None:
            return NextAttempt(first)
        if state.status in ("failed", "cancelled"):
            return None  # the stored answer has ended like that: it would be received again
        # Without sequence numbers there is no position to resume from. A service that sent JSON
        # instead of a stream, or refused to resume, does not stream this answer any more.
        can_resume = (
            shown.cursor is not None and not shown.unfinished and self._mode is not Mode.POLL
        )
        self._mode = Mode.RESUME if can_resume else Mode.POLL
        return self._next(shown, state.response_id)

    def fallback(self, shown: Session, error: LLMStreamError) -> NextAttempt | None:
        response_id = shown.state.response_id
        if (
            self._mode is not Mode.RESUME
            or not isinstance(error, InvalidRequestError)
            or response_id is None
        ):
            return None
        self._mode = Mode.POLL  # the stream is too old to be resumed
        return self._next(shown, response_id)

    def _next(self, shown: Session, response_id: str) -> NextAttempt:
        stored = self._stored(response_id)
        assert stored is not None
        if self._mode is Mode.RESUME:
            return NextAttempt(stored.resume(shown.cursor), Mode.RESUME)
        return NextAttempt(stored.poll(), Mode.POLL)


POLICIES: dict[str, type[Recovery]] = {
    "raise": _Raise,
    "restart": _Restart,
    "continue": _Continue,
    "resume": _Resume,
}
