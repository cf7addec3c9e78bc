"""A conversation as a value: its turns, what a person types, attachments, and saved files.

What `llmstream chat` does without a terminal, a network or a file: bytes and strings in, values
out. The command itself is in `llmstream.cli`.
"""

from __future__ import annotations

from .ahead import TypeAhead
from .attachments import File, content_of, file_of, split_names
from .conversation import Conversation, Exchange, Origin
from .saved import decode, encode
from .tally import Tally
from .typed import Assembler, Command, Message, parse

__all__ = [
    "Assembler",
    "Command",
    "Conversation",
    "Exchange",
    "File",
    "Message",
    "Origin",
    "Tally",
    "TypeAhead",
    "content_of",
    "decode",
    "encode",
    "file_of",
    "parse",
    "split_names",
]
