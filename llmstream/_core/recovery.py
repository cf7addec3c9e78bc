"""What to ask next when an attempt has failed: the four policies of `on_disconnect`.

Each is a row of POLICIES. Before the first content they all do the same, ask again; they differ
once something has been delivered. Nothing here touches the network.
"""

from __future__ import annotations

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

__all__ = ["POLICIES", "Mode", "NextAttempt", "Recovery"]


class Mode(Enum):
    """How an attempt relates to the answer that was shown so far."""

    ANEW = "anew"  # an answer of its own, that takes its place once the service accepts the request
    CONTINUE = "continue"  # goes on with its text
    RESUME = "resume"  # is the very same answer, from the cut on
    POLL = "poll"  # asks for the very same answer until it is whole


class NextAttempt(Struct, frozen=True):
    """How the next attempt is made. `request` has no credentials yet; `marker` is the event that
    tells the reader, where there is something to tell."""

    request: HTTPRequest
    mode: Mode = Mode.ANEW
    marker: type[Restarted] | type[Continued] | None = None


class Recovery(Protocol):
    """The policy of one call. For the reader's thread."""

    readable_as_text: bool

    def __init__(
        self, request: Request, first: HTTPRequest, dialect: Dialect, api: Api, url: str
    ) -> None:
        """`first` is `request` as `dialect` writes it for the base URL `url`. Raises
        ConfigurationError where the policy
        cannot work for this call."""

    def after_failure(self, shown: Session, first: HTTPRequest) -> NextAttempt | None:
        """The next attempt after a retryable failure; None: there is none. `shown` is the answer as
        the reader knows it, `first` the latest form of the first request."""

    def fallback(self, shown: Session, error: LLMStreamError) -> NextAttempt | None:
        """Another way to go on at once, where `error` refused the last one."""


class _Raise:
    """Content is never asked for again."""

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
    """The answer begins anew, and the reader is told."""

    readable_as_text = False

    def after_failure(self, shown: Session, first: HTTPRequest) -> NextAttempt | None:
        return NextAttempt(first, marker=Restarted if shown.has_content else None)


# ---- continue ----------------------------------------------------------------------------------

# The items of an answer that is plain text.
_PLAIN = frozenset({None, "message", "text", "reasoning", "thinking", "redacted_thinking"})
_LEAST_TOKENS = 16  # the Responses API takes no less
_BYTES_A_TOKEN = 4  # of English; others have fewer, and more text deltas
_REQUEST = """\
Your answer to this was cut off by a lost connection. What had arrived of it is quoted below. \
Go on exactly where it stops, be it within a word; begin with a space or a line end if one \
belongs there. Write only what is missing: do not repeat what is there, and say nothing about \
the interruption.

<answer_so_far>
{text}
</answer_so_far>"""


class _Continue(_Raise):
    """A new request quotes what had come, and asks to go on."""

    def __init__(
        self, request: Request, first: HTTPRequest, dialect: Dialect, api: Api, url: str
    ) -> None:
        extra = request.extra_body or {}
        why = (
            "the call has tools, and half a tool call cannot be continued"
            if request.tools
            else "the answer is to follow a schema, and half of it cannot be continued"
            if dialect.asks_for_structure(extra)
            else "extra_body gives the prompt itself"
            if api.prompt_fields[0] in extra
            else "it asks for several answers"
            if first.choices > 1
            else "it runs in the background: use 'resume'"
            if request.background
            else None
        )
        if why is not None:
            raise ConfigurationError(
                f"on_disconnect='continue' works for plain text only, not for this call: {why}. "
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
        used = max(state.tokens_at_least, len(text.encode()) // _BYTES_A_TOKEN)
        limit = request.max_output_tokens or self._dialect.default_max_tokens
        extra = dict(request.extra_body or {})
        for name in self._limit_fields:
            if isinstance(extra.get(name), int):
                extra[name] = max(_LEAST_TOKENS, extra[name] - used)
        quote = _REQUEST.format(text=text)
        go_on = msgspec.structs.replace(
            request,
            prompt=_with_quote(request.prompt, quote, self._dialect.text_part),
            max_output_tokens=max(_LEAST_TOKENS, limit - used) if limit else None,
            thinking=None,  # it has been thought
            extra_body=extra,
        )
        return self._dialect.request(go_on, self._url)


def _with_quote(prompt: str | list[Any], quote: str, text_part: str) -> list[Any]:
    """The prompt with `quote` at its end, in the last user turn: many chat templates refuse two
    turns of the same role in a row."""
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


# ---- resume ------------------------------------------------------------------------------------


class _Resume(_Raise):
    """The service keeps the answer: its stream is taken up again, or the whole is asked for."""

    def __init__(
        self, request: Request, first: HTTPRequest, dialect: Dialect, api: Api, url: str
    ) -> None:
        if dialect.stored(first, "id") is None:
            raise ConfigurationError(
                "on_disconnect='resume' needs an answer that the service keeps: the Responses API "
                "with background=True"
            )
        self._stored = partial(dialect.stored, first)
        self._mode = Mode.ANEW

    def after_failure(self, shown: Session, first: HTTPRequest) -> NextAttempt | None:
        state = shown.state
        if state.response_id is None:
            return NextAttempt(first)
        if state.status in ("failed", "cancelled"):
            return None  # that is how it ended: it would be told the same
        # Without numbers there is no place to go on from; without a stream no sense in asking.
        can = shown.cursor is not None and not shown.unfinished and self._mode is not Mode.POLL
        self._mode = Mode.RESUME if can else Mode.POLL
        return self._next(shown, state.response_id)

    def fallback(self, shown: Session, error: LLMStreamError) -> NextAttempt | None:
        known = shown.state.response_id
        if (
            self._mode is not Mode.RESUME
            or not isinstance(error, InvalidRequestError)
            or known is None
        ):
            return None
        self._mode = Mode.POLL  # its stream is too old
        return self._next(shown, known)

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
