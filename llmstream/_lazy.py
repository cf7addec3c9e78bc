"""Names of a package that are imported when they are first used. Imports nothing of the package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy"]


def lazy(module: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of `module` (PEP 562). `homes` has the module that defines each public
    name, relative to it. (No submodule may have the name of what it defines: its import would put
    the module in its place.)"""

    def find(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        value = getattr(import_module(home, module), name)
        setattr(sys.modules[module], name, value)
        return value

    return find
