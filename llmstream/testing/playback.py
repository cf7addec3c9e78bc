"""Playing a scripted reply on a connection, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from .channel import Channel
from .script import (
    LAST_CHUNK,
    Cut,
    Drip,
    Pause,
    Pings,
    Reply,
    Reset,
    Send,
    Silence,
    Step,
    body_length,
    chunk,
    chunked_pieces,
    encode_reply,
    pieces,
    render_head,
)

__all__ = ["ConnectionState", "play_reply"]

# The connection after a step: it goes on, our FIN is sent, or it is reset.
ConnectionState = Literal["open", "ended", "reset"]


def play_reply(channel: Channel, reply: Reply, api: str | None, *, keep: bool) -> ConnectionState:
    """Play the whole reply to a request whose path belongs to `api`.

    `keep` says whether the connection may be used again afterwards. Raises `Gone` when the client
    leaves, and `ValueError` for an answer on a path that belongs to no API.
    """
    before, steps, headers = encode_reply(reply, api)
    state = _Player(channel, chunked=False).play((Pause(reply.delay), *before))
    if state != "open":
        return state
    actual = body_length(steps)
    length = actual if reply.length is None else reply.length
    channel.send(render_head(reply, headers, length if reply.framing == "length" else None))
    chunked = reply.framing == "chunked"
    end = LAST_CHUNK if chunked else b""
    state = _Player(channel, chunked=chunked).play(steps, end)
    if state != "open":
        return state
    lied = length != actual
    if keep and reply.framing != "close" and not lied:
        return "open"
    channel.end_output(notify=not lied)
    return "ended"


class _Player:
    """Plays steps on a channel; `chunked` says whether each `Send` is an HTTP chunk.

    The end of a body leaves in one write with what is sent just before it. A client waits only so
    long for the end of a body whose answer is over: this thread may stand still between two writes,
    and whether the connection is used again would depend on that.
    """

    def __init__(self, channel: Channel, *, chunked: bool) -> None:
        self.channel = channel
        self.chunked = chunked
        self._held = b""  # what is sent as soon as it is known what follows

    def play(self, steps: Sequence[Step], end: bytes = b"") -> ConnectionState:
        """Play until the end, which is `end`, or until a step has ended the connection."""
        for step in steps:
            if not isinstance(step, Cut):
                self._release()
            state = _PLAYERS[type(step)](self, step)
            if state != "open":
                return state
        self._release(end)
        return "open"

    def send(self, step: Send) -> ConnectionState:
        self._held = self._framed(step.data, not step.raw)
        return "open"

    def _release(self, end: bytes = b"") -> None:
        held, self._held = self._held, b""
        self.channel.send(held + end)

    def pause(self, step: Pause) -> ConnectionState:
        self.channel.pause(step.seconds)
        return "open"

    def silence(self, step: Silence) -> ConnectionState:
        self.channel.pause(None)
        return "open"

    def pings(self, step: Pings) -> ConnectionState:
        sent = 0
        while step.count is None or sent < step.count:
            self.channel.pause(step.every)
            self._send(step.data)
            sent += 1
        return "open"

    def drip(self, step: Drip) -> ConnectionState:
        if self.chunked and not step.one_chunk and not step.every:
            self._held = chunked_pieces(step.data, step.size)
        elif self.chunked and step.one_chunk and step.data:
            self.channel.send(b"%x\r\n" % len(step.data))
            self._dribble(step, framed=False)
            self.channel.send(b"\r\n")
        else:
            self._dribble(step, framed=True)
        return "open"

    def cut(self, step: Cut) -> ConnectionState:
        self._release(LAST_CHUNK if step.last_chunk and self.chunked else b"")
        self.channel.end_output(notify=step.last_chunk)
        return "ended"

    def reset(self, step: Reset) -> ConnectionState:
        self.channel.reset()
        return "reset"

    def _dribble(self, step: Drip, *, framed: bool) -> None:
        for piece in pieces(step.data, step.size):
            self._send(piece, framed=framed)
            if step.every:
                self.channel.pause(step.every)

    def _send(self, data: bytes, *, framed: bool = True) -> None:
        self.channel.send(self._framed(data, framed))

    def _framed(self, data: bytes, framed: bool) -> bytes:
        return chunk(data) if framed and self.chunked else data


_PLAYERS: dict[type, Callable[[_Player, Any], ConnectionState]] = {
    Send: _Player.send,
    Pause: _Player.pause,
    Silence: _Player.silence,
    Pings: _Player.pings,
    Drip: _Player.drip,
    Cut: _Player.cut,
    Reset: _Player.reset,
}
