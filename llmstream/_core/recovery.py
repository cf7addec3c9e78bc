"""What to ask next when an attempt has failed: the four policies of `on_disconnect`.

Each is a row of POLICIES. Before the first content they all do the same, ask again; they differ
once something has been delivered. Nothing here touches the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from ..errors import ConfigurationError, InvalidRequestError, LLMStreamError
from ..events.base import Continued, Restarted
from .dialects.base import Call, Dialect, WireRequest
from .session import Session

__all__ = ["POLICIES", "Asked", "Recovery", "Step"]


class Step(Struct, frozen=True):
    """How the next attempt is made.

    `request` goes out without credentials. `how`: "anew" is an answer of its own, that takes the
    place of what was shown once the service accepts it; "continue" goes on with the text of what
    was shown, "resume" with the very answer, and "poll" asks for it until it is whole. `mark` is
    the event that tells the reader.
    """

    request: WireRequest
    how: str = "anew"
    mark: type[Restarted] | type[Continued] | None = None


class Asked(Struct, frozen=True):
    """One call, in the caller's words and in the API's."""

    call: Call
    dialect: Dialect
    base_url: str
    request: WireRequest


class Recovery(Protocol):
    """The policy of one call. For the reader's thread."""

    readable_as_text: bool

    def __init__(self, asked: Asked) -> None:
        """Raises ConfigurationError where the policy cannot work for this call."""

    def next(self, shown: Session, request: WireRequest) -> Step | None:
        """What to do after a failure that may be asked again after, or None: nothing. `shown` is
        the answer as the reader knows it, `request` the latest form of the first request."""

    def instead(self, shown: Session, error: LLMStreamError) -> Step | None:
        """Another way to go on at once, where `error` refused the last one."""


class _Raise:
    """Content is never asked for again."""

    readable_as_text = True

    def __init__(self, asked: Asked) -> None:
        pass

    def instead(self, shown: Session, error: LLMStreamError) -> Step | None:
        return None

    def next(self, shown: Session, request: WireRequest) -> Step | None:
        return None if shown.has_content else Step(request)


class _Restart(_Raise):
    """The answer begins anew, and the reader is told."""

    readable_as_text = False

    def next(self, shown: Session, request: WireRequest) -> Step | None:
        return Step(request, mark=Restarted if shown.has_content else None)


# ---- continue ----------------------------------------------------------------------------------

# The items of an answer that is plain text.
_PLAIN = frozenset({None, "message", "text", "reasoning", "thinking", "redacted_thinking"})
# What the limit of the answer may be called in extra_body.
_LIMITS = ("max_output_tokens", "max_tokens", "max_completion_tokens")
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

    def __init__(self, asked: Asked) -> None:
        call, extra = asked.call, asked.call.extra_body or {}
        why = (
            "the call has tools, and half a tool call cannot be continued"
            if call.tools
            else "the answer is to follow a schema, and half of it cannot be continued"
            if _is_structured(extra)
            else "extra_body gives the prompt itself"
            if {"input", "messages"} & extra.keys()
            else "it asks for several answers"
            if asked.request.choices > 1
            else "it runs in the background: use 'resume'"
            if call.background
            else None
        )
        if why is not None:
            raise ConfigurationError(
                f"on_disconnect='continue' works for plain text only, not for this call: {why}. "
                "Pass on_disconnect='raise' (or 'restart') for it"
            )
        self._asked = asked

    def next(self, shown: Session, request: WireRequest) -> Step | None:
        if not shown.has_content:
            return Step(request)
        state = shown.state
        plain = all(item.type in _PLAIN for item in list(state.items.values()))
        called = any(True for _ in self._asked.dialect.calls(state))
        if not state.text or state.refusal or called or not plain:
            return None
        return Step(self._request(shown), "continue", Continued)

    def _request(self, shown: Session) -> WireRequest:
        asked = self._asked
        call, state, text = asked.call, shown.state, shown.state.text
        used = max(state.tokens_at_least, len(text.encode()) // _BYTES_A_TOKEN)
        limit = call.max_output_tokens or asked.dialect.default_max_tokens
        extra = dict(call.extra_body or {})
        for name in _LIMITS:
            if isinstance(extra.get(name), int):
                extra[name] = max(_LEAST_TOKENS, extra[name] - used)
        go_on = msgspec.structs.replace(
            call,
            prompt=_with_quote(call.prompt, _REQUEST.format(text=text), asked.dialect.text_part),
            max_output_tokens=max(_LEAST_TOKENS, limit - used) if limit else None,
            thinking=None,  # it has been thought
            extra_body=extra,
        )
        return asked.dialect.request(go_on, asked.base_url)


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


def _is_structured(extra: Mapping[str, Any]) -> bool:
    """Whether the answer has to be JSON: by `text.format` (Responses), `response_format` (Chat),
    `output_format` or `output_config.format` (Messages), or a grammar (llama.cpp, vLLM)."""
    text, config = extra.get("text"), extra.get("output_config")
    formats = [
        text.get("format") if isinstance(text, Mapping) else None,
        config.get("format") if isinstance(config, Mapping) else None,
        extra.get("response_format"),
        extra.get("output_format"),
    ]
    said = [f.get("type") if isinstance(f, Mapping) else f for f in formats if f]
    grammars = ("grammar", "json_schema", "guided_json", "guided_regex", "guided_grammar")
    return any(kind != "text" for kind in said) or any(extra.get(name) for name in grammars)


# ---- resume ------------------------------------------------------------------------------------


class _Resume(_Raise):
    """The service keeps the answer: its stream is taken up again, or the whole is asked for."""

    def __init__(self, asked: Asked) -> None:
        if asked.dialect.stored(asked.request, "id") is None:
            raise ConfigurationError(
                "on_disconnect='resume' needs an answer that the service keeps: the Responses API "
                "with background=True"
            )
        self._asked = asked
        self._how = "anew"

    def next(self, shown: Session, request: WireRequest) -> Step | None:
        state = shown.state
        if state.response_id is None:
            return Step(request)
        if state.status in ("failed", "cancelled"):
            return None  # that is how it ended: it would be told the same
        # Without numbers there is no place to go on from; without a stream no sense in asking.
        can = shown.cursor is not None and not shown.unfinished and self._how != "poll"
        self._how = "resume" if can else "poll"
        return self._step(shown, state.response_id)

    def instead(self, shown: Session, error: LLMStreamError) -> Step | None:
        known = shown.state.response_id
        if self._how != "resume" or not isinstance(error, InvalidRequestError) or known is None:
            return None
        self._how = "poll"  # its stream is too old
        return self._step(shown, known)

    def _step(self, shown: Session, response_id: str) -> Step:
        stored = self._asked.dialect.stored(self._asked.request, response_id)
        assert stored is not None
        resumes = self._how == "resume"
        return Step(stored.resume(shown.cursor) if resumes else stored.poll(), self._how)


POLICIES: dict[str, type[Recovery]] = {
    "raise": _Raise,
    "restart": _Restart,
    "continue": _Continue,
    "resume": _Resume,
}
