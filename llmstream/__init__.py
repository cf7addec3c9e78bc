"""llmstream: streams the answers of large language models in production.

    from llmstream import stream

    for tok in stream("Why is the sky blue?"):
        print(tok, end="", flush=True)

It never hangs (five clocks), never lies (success only on the service's own end), never repeats (no
token twice), never leaks. `Client` holds the settings of a service, `Stream` is one call, `Result`
what it leaves behind; everything that goes wrong is an `LLMStreamError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import events
from ._core.retry import RetryPolicy
from ._core.timers import Timeouts
from ._lazy import lazy
from ._version import __version__
from .client import Client, stream
from .errors import (
    AuthenticationError,
    BatchError,
    Cancelled,
    ConfigurationError,
    ConnectionFailed,
    ConnectTimeout,
    DeadlineExceeded,
    EventTooLarge,
    FirstTokenTimeout,
    IdleTimeout,
    InvalidRequestError,
    LoopDetected,
    NotAStreamError,
    OutputCut,
    OutputError,
    OutputInvalid,
    OutputRefused,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    RunError,
    ServerError,
    ServiceError,
    SilenceTimeout,
    StreamInterrupted,
    StreamTimeout,
    StreamTruncated,
)
from .events import Continued, Event, Restarted, Retried, UnknownEvent
from .readers import Outcome, collect
from .result import Attempt, Chunk, LLMStreamError, ProtocolError, Result, Timings, ToolCall, Usage
from .stream import Stream

if TYPE_CHECKING:
    from .parallel import Batch
    from .readers import ConsoleHandler, Progress, SubscriberLagged, fanout, pace
    from .tools import Run, Tool, ToolError, ToolFinished, ToolStarted, Turn, tool

__all__ = [
    "Attempt",
    "AuthenticationError",
    "Batch",
    "BatchError",
    "Cancelled",
    "Chunk",
    "Client",
    "ConfigurationError",
    "ConnectTimeout",
    "ConnectionFailed",
    "ConsoleHandler",
    "Continued",
    "DeadlineExceeded",
    "Event",
    "EventTooLarge",
    "FirstTokenTimeout",
    "IdleTimeout",
    "InvalidRequestError",
    "LLMStreamError",
    "LoopDetected",
    "NotAStreamError",
    "Outcome",
    "OutputCut",
    "OutputError",
    "OutputInvalid",
    "OutputRefused",
    "OverloadedError",
    "PermissionDeniedError",
    "Progress",
    "ProtocolError",
    "QuotaExceededError",
    "RateLimitError",
    "Restarted",
    "Result",
    "Retried",
    "RetryPolicy",
    "Run",
    "RunError",
    "ServerError",
    "ServiceError",
    "SilenceTimeout",
    "Stream",
    "StreamInterrupted",
    "StreamTimeout",
    "StreamTruncated",
    "SubscriberLagged",
    "Timeouts",
    "Timings",
    "Tool",
    "ToolCall",
    "ToolError",
    "ToolFinished",
    "ToolStarted",
    "Turn",
    "UnknownEvent",
    "Usage",
    "__version__",
    "collect",
    "events",
    "fanout",
    "pace",
    "stream",
    "tool",
]

# What a program that only streams does not need -> the module that has it.
_HOMES = {
    "Batch": ".parallel",
    "ConsoleHandler": ".readers",
    "Progress": ".readers",
    "Run": ".tools",
    "SubscriberLagged": ".readers",
    "Tool": ".tools",
    "ToolError": ".tools",
    "ToolFinished": ".tools",
    "ToolStarted": ".tools",
    "Turn": ".tools",
    "fanout": ".readers",
    "pace": ".readers",
    "tool": ".tools",
}

__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
