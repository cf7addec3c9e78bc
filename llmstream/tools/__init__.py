"""Tools: functions that a model may call, and what runs them.

Names are imported when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .context import ToolContext, current_call
    from .failures import ToolInterrupted, ToolRefused, ToolTimeout, UnknownTool
    from .function import Tool, ToolArgumentsError, ToolError, tool
    from .items import ToolFinished, ToolProgress, ToolStarted, Turn
    from .run import Run

__all__ = [
    "Run",
    "Tool",
    "ToolArgumentsError",
    "ToolContext",
    "ToolError",
    "ToolFinished",
    "ToolInterrupted",
    "ToolProgress",
    "ToolRefused",
    "ToolStarted",
    "ToolTimeout",
    "Turn",
    "UnknownTool",
    "current_call",
    "tool",
]

# A public name -> the module that defines it.
_HOMES = {
    "Run": ".run",
    "Tool": ".function",
    "ToolArgumentsError": ".function",
    "ToolContext": ".context",
    "ToolError": ".function",
    "ToolFinished": ".items",
    "ToolInterrupted": ".failures",
    "ToolProgress": ".items",
    "ToolRefused": ".failures",
    "ToolStarted": ".items",
    "ToolTimeout": ".failures",
    "Turn": ".items",
    "UnknownTool": ".failures",
    "current_call": ".context",
    "tool": ".function",
}

__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
