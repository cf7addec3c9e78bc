"""What a service says: an `Answer`, and how each API puts it on the wire.

A new API is a new file here, which registers its `Encoding`, and an import below. All encoders are
pure functions: the same answer gives the same bytes.
"""

from __future__ import annotations

from . import chat, gemini, messages, responses  # noqa: F401 (each registers its API)
from .base import (
    ENCODINGS,
    Answer,
    Encoding,
    ErrorSpec,
    ToolCallSpec,
    api_of_path,
    encoding,
    register,
    sse_block,
)

__all__ = [
    "ENCODINGS",
    "Answer",
    "Encoding",
    "ErrorSpec",
    "ToolCallSpec",
    "api_of_path",
    "encoding",
    "register",
    "sse_block",
]
