"""An encoder that leaves parts of an answer out: what the model thinks, or which tools it calls, is
not for every browser."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from ..parts import CallArguments, CallBegin, CallEnd, End, Failure, Part, Thinking
from .base import Encoder

__all__ = ["Reduced"]

_CALLS = (CallBegin, CallArguments, CallEnd)


class Reduced:
    """`encoder`, without thinking, or without tool calls."""

    def __init__(self, encoder: Encoder, *, thinking: bool, tool_calls: bool) -> None:
        self._encoder = encoder
        self._thinking = thinking
        self._tool_calls = tool_calls
        self.content_type: str = encoder.content_type
        self.headers: Mapping[str, str] = encoder.headers
        self.heartbeat: bytes = encoder.heartbeat
        self.shows_restart: bool = encoder.shows_restart
        self.has_ids: bool = encoder.has_ids
        self.shows_failure: bool = encoder.shows_failure

    def encode(self, part: Part) -> list[bytes]:
        if isinstance(part, Thinking) and not self._thinking:
            return []
        if not self._tool_calls:
            if isinstance(part, _CALLS):
                return []
            if isinstance(part, End):
                # Without a call, a client would wait for one for ever, or ask again.
                finish = "stop" if part.finish == "tool_calls" else part.finish
                part = replace(part, finish=finish, tool_calls=(), incomplete_tool_calls=())
            elif isinstance(part, Failure):
                part = replace(part, incomplete_tool_calls=())
        return self._encoder.encode(part)
