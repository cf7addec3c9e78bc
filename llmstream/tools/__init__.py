"""Tools: functions that a model may call, and what runs them.

Names are imported when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .function import Tool, ToolArgumentsError, ToolError, tool

__all__ = ["Tool", "ToolArgumentsError", "ToolError", "tool"]

# A public name -> the module that defines it.
_HOMES = {
    "Tool": ".function",
    "ToolArgumentsError": ".function",
    "ToolError": ".function",
    "tool": ".function",
}

__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
