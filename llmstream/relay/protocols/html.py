"""Fragments of HTML, for the SSE extensions of htmx: no JavaScript of one's own.

Source: htmx-ext-sse 2.2.4 (for htmx 2, and 1.9), and `hx-sse.js` of htmx.org 4.0.1. The first one
swaps the data of the events that an element names; the second one swaps events without a name, and
makes DOM events of the others (`event.detail.data`). So the version, 2 or 4, decides whether what
belongs to the answer has a name:

    version 2   version 4
    token       (no name)   <span>text</span>, for hx-swap="beforeend"; a refusal has the class
                            "refusal"
    thinking    thinking    <span>text</span>
    tool_call   tool_call   <details class="tool-call">: a call that is whole
    restart     restart     a comment: clear what was shown
    retry       retry       <span class="retry">
    error       (no name),  <span class="error" role="alert" data-type data-retryable
                error       data-trace-id>: a sentence for the person who reads
    done        done        <span class="done" data-finish data-model data-trace-id
                            data-input-tokens data-output-tokens data-total-tokens></span>
    close       close       a comment: the last event, after `done` and after `error`

    <div hx-ext="sse" sse-connect="/answer" sse-swap="token,error" sse-close="close"
         hx-swap="beforeend"></div>                                          <!-- htmx 2 -->
    <div hx-sse:connect="/answer" hx-sse:close="close" hx-swap="beforeend"></div>   <!-- 4 -->

The bytes of version 4 work in htmx 2 too, with sse-swap="message". Without `close` the extension
would connect again, and ask the same question once more.

Everything is escaped, and a line end is `<br>`. For spaces at the start of a line the page needs
`white-space: pre-wrap`.
"""

from __future__ import annotations

from html import escape
from typing import Any

from ..parts import CallEnd, End, Failure, Part, Refusal, Restart, Retry, Text, Thinking
from .base import TableEncoder, Version, clean, frame, present, reported

__all__ = ["HTMLEncoder"]

_CLOSE = frame(b"<!-- closed -->", "close")
_NAMED = 2  # the version in which every event has a name
_ODD = {ord("\0"): "\ufffd", 0x2028: "&#8232;", 0x2029: "&#8233;"}
_IN_TEXT = {**_ODD, ord("\n"): "<br>"}
_IN_ATTRIBUTE = {**_ODD, ord("\n"): "&#10;", ord("\r"): "&#13;"}


class HTMLEncoder(TableEncoder):
    """Writes the fragments of one answer. `version` is that of htmx: 2 or 4."""

    def __init__(self, version: Version | None = None) -> None:
        super().__init__(version)
        self._has_names = version == _NAMED
        self._ended: dict[type[Part], bool] = {}  # kind -> its last text ended with a CR

    def _shown(self, fragment: str, name: str) -> bytes:
        return frame(fragment.encode(), name if self._has_names else None)

    def _token(self, part: Text | Refusal) -> list[bytes]:
        kind = ' class="refusal"' if isinstance(part, Refusal) else ""
        text = self._lines(part)
        return [self._shown(f"<span{kind}>{text}</span>", "token")] if text else []

    def _thinking(self, part: Thinking) -> list[bytes]:
        text = self._lines(part)
        return _event(f"<span>{text}</span>", "thinking") if text else []

    def _lines(self, part: Text | Refusal | Thinking) -> str:
        """A CR and a LF are one line end, also where each came in a piece of its own."""
        text = part.text
        if self._ended.get(type(part)) and text.startswith("\n"):
            text = text[1:]
        self._ended[type(part)] = part.text.endswith("\r")
        return _escaped(text)

    def _call(self, part: CallEnd) -> list[bytes]:
        return _event(
            f'<details class="tool-call"{_data(id=part.id)}><summary>{_escaped(part.name)}'
            f"</summary><pre>{_escaped(part.arguments)}</pre></details>",
            "tool_call",
        )

    def _restart(self, part: Restart) -> list[bytes]:
        self._ended.clear()
        return _event(f"<!-- request {part.attempt} -->", "restart")

    def _retry(self, part: Retry) -> list[bytes]:
        words = "The service failed. It is asked again."
        return _event(f'<span class="retry"{_data(attempt=part.attempt)}>{words}</span>', "retry")

    def _error(self, part: Failure) -> list[bytes]:
        retryable = "true" if part.retryable else "false"
        about = _data(type=part.type, retryable=retryable, trace_id=part.trace_id)
        fragment = f'<span class="error" role="alert"{about}>{_escaped(part.message)}</span>'
        named = _event(fragment, "error")
        return [*named, _CLOSE] if self._has_names else [frame(fragment.encode()), *named, _CLOSE]

    def _done(self, part: End) -> list[bytes]:
        counts = reported(part.usage) or {}
        about = _data(
            finish=part.finish,
            model=part.model,
            trace_id=part.trace_id,
            input_tokens=counts.get("input_tokens"),
            output_tokens=counts.get("output_tokens"),
            total_tokens=counts.get("total_tokens"),
        )
        return [*_event(f'<span class="done"{about}></span>', "done"), _CLOSE]

    table = {  # noqa: RUF012
        Text: _token,
        Refusal: _token,
        Thinking: _thinking,
        CallEnd: _call,
        Restart: _restart,
        Retry: _retry,
        Failure: _error,
        End: _done,
    }


def _event(fragment: str, name: str) -> list[bytes]:
    return [frame(fragment.encode(), name)]


def _escaped(text: str) -> str:
    """As the text of an element, on one line."""
    lines = clean(text).replace("\r\n", "\n").replace("\r", "\n")
    return escape(lines).translate(_IN_TEXT)


def _data(**attributes: Any) -> str:
    """Attributes named data-*, for those that have a value."""
    return "".join(
        f' data-{name.replace("_", "-")}="{escape(clean(str(value))).translate(_IN_ATTRIBUTE)}"'
        for name, value in present(**attributes).items()
    )
