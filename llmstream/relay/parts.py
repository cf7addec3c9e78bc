"""The parts of an answer, as a relay passes them on: values that know no API and no protocol.

`reading` makes them from a stream; the encoders of `protocols` make bytes of them. Their order:

    Begin  (Text | Thinking | Refusal | CallBegin | CallArguments | Retry | Restart)*
    ((CallBegin? CallArguments? CallEnd)* End | Failure)

There is one Begin, and it is first. There is one End or one Failure, and it is last. The parts of
several calls may alternate. All are immutable; they compare and pickle.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from ..result import ToolCall, Usage

__all__ = [
    "Begin",
    "CallArguments",
    "CallBegin",
    "CallEnd",
    "End",
    "Failure",
    "Part",
    "Refusal",
    "Restart",
    "Retry",
    "Text",
    "Thinking",
    "merged",
]


class Begin(Struct, frozen=True, gc=False):
    """The call begins. `trace_id` is the id of the call, `model` the model that is asked for (the
    service may report a more exact name: `End.model`), `created` the Unix time in seconds."""

    trace_id: str
    model: str | None = None
    created: float = 0.0


class Text(Struct, frozen=True, gc=False):
    """A piece of the answer's text. Never empty."""

    text: str


class Thinking(Struct, frozen=True, gc=False):
    """A piece of the model's thinking. Never empty."""

    text: str


class Refusal(Struct, frozen=True, gc=False):
    """A piece of the model's refusal. Never empty."""

    text: str


class CallBegin(Struct, frozen=True, gc=False):
    """A tool call begins. `id` is unique in the answer. `custom`: its arguments are free text, not
    JSON."""

    id: str
    name: str
    custom: bool = False


class CallArguments(Struct, frozen=True, gc=False):
    """A piece of the arguments of the call that began with this `id`. Never empty."""

    id: str
    text: str


class CallEnd(Struct, frozen=True, gc=False):
    """The call is whole, and safe to run: `Result.tool_calls` has it. The ends of all calls come
    right before the End, since what follows a call in the answer may revoke it; a call that begins
    and has no end must not be run.

    `arguments` is all of its text: valid JSON ("{}" where the call has no arguments), or the free
    text of a `custom` call. The pieces before it join to the same text, or to JSON of the same
    value. Only if `rewritten` they do not, because the service has sent something else in the end:
    `name` and `arguments` hold, and what was sent under this id before is void.
    """

    id: str
    name: str
    arguments: str
    custom: bool = False
    rewritten: bool = False


class Restart(Struct, frozen=True, gc=False):
    """The answer begins anew with request number `attempt`: whatever was shown before, thinking and
    calls too, no longer belongs to it."""

    attempt: int


class Retry(Struct, frozen=True, gc=False):
    """A request has failed with `reason` (the name of its error's class), and request number
    `attempt` is made after `delay` seconds. What was shown holds, unless a Restart follows."""

    attempt: int
    reason: str | None = None
    delay: float = 0.0


class End(Struct, frozen=True, kw_only=True):
    """The answer is whole.

    `finish`, `usage`, `model`, `response_id`, `trace_id` and `tool_calls` are those of the
    `Result`. `incomplete_tool_calls` began, and must not be run: no CallEnd was sent for them.
    `text_length` is the number of characters (Unicode code points) of the answer's text, since the
    last Restart.
    """

    finish: str | None = None
    usage: Usage = Usage()
    model: str | None = None
    response_id: str | None = None
    trace_id: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    incomplete_tool_calls: tuple[ToolCall, ...] = ()
    text_length: int = 0


class Failure(Struct, frozen=True, kw_only=True):
    """The answer is not whole, and nothing more arrives. It may be shown to anybody: it has no key,
    no prompt, no address, and no words of the service.

    Args:
        type: the name of the error's class, such as "RateLimitError"; "Cancelled" where the call
            was ended on purpose; "InternalError" for an exception that is none of the library's.
        message: one sentence for the person who reads the answer.
        retryable: whether the same question may work a little later.
        usage: what the service had reported until then.
        trace_id: the id of the call, by which the logs of the server have the whole error.
        incomplete_tool_calls: calls that had begun, and must not be run.
        text_length: the characters of the text that had arrived, see `End`; None where whoever
            tells of the failure does not know it.
    """

    type: str
    message: str
    retryable: bool = False
    usage: Usage = Usage()
    trace_id: str | None = None
    incomplete_tool_calls: tuple[ToolCall, ...] = ()
    text_length: int | None = 0


Part = (
    Begin
    | Text
    | Thinking
    | Refusal
    | CallBegin
    | CallArguments
    | CallEnd
    | Restart
    | Retry
    | End
    | Failure
)

_JOINED = (Text, Thinking, Refusal, CallArguments)


def merged(parts: Iterable[Part]) -> list[Part]:
    """The same answer in fewer parts: neighbours of one kind (and, of arguments, of one call) are
    one part. Linear in their length."""
    found: list[Part] = []
    texts: list[str] = []  # of the last part
    for part in parts:
        if texts and _go_together(found[-1], part):
            texts.append(part.text)  # type: ignore[union-attr]  # one of `_JOINED`
            continue
        _close(found, texts)
        found.append(part)
        texts = [part.text] if isinstance(part, _JOINED) else []
    _close(found, texts)
    return found


def _go_together(last: Part, part: Part) -> bool:
    if type(last) is not type(part):
        return False
    return not isinstance(part, CallArguments) or part.id == last.id  # type: ignore[union-attr]


def _close(found: list[Part], texts: list[str]) -> None:
    if len(texts) > 1:
        found[-1] = replace(found[-1], text="".join(texts))
