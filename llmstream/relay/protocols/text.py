"""The answer's text, and nothing else: for `fetch` with a reader, `curl`, and other programs.

UTF-8. Thinking and tool calls are not shown; a refusal is text. A body that ends as HTTP requires
is a whole answer. An answer that fails cannot be told from one by its bytes: so the connection is
broken after the last of them (`shows_failure` is False), and `fetch` rejects.

There are no bytes that mean nothing in plain text, so nothing is sent while the service is silent:
that the browser has left is noticed with the next token.
"""

from __future__ import annotations

from ..parts import Refusal, Text
from .base import TableEncoder, clean

__all__ = ["TextEncoder"]


class TextEncoder(TableEncoder):
    """Writes the text of one answer."""

    content_type = "text/plain; charset=utf-8"
    heartbeat = b""
    shows_restart = False
    has_ids = False
    shows_failure = False

    def _text(self, part: Text | Refusal) -> list[bytes]:
        return [clean(part.text).encode()]

    table = {Text: _text, Refusal: _text}  # noqa: RUF012
