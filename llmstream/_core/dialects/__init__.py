"""One module per API. A new service is a new file and a row in `DIALECTS`."""

from __future__ import annotations

from .base import Call, Dialect, WireRequest
from .chat import CHAT
from .messages import MESSAGES
from .responses import RESPONSES

__all__ = ["DIALECTS", "Call", "Dialect", "WireRequest"]

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (RESPONSES, MESSAGES, CHAT)}
