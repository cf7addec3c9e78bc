"""What `Stream.events()` yields: every event that a service sends, as a typed, read-only value.

`Event` is their base class; `UnknownEvent` is an event of a type that this version does not know.
Each API has a module of its own. It is imported when one of its names is first used, because the
modules define some hundred classes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..result import Chunk
from .base import Continued, Event, Restarted, Retried, UnknownEvent

if TYPE_CHECKING:
    from . import chat, gemini, messages, responses
    from .chat import *  # noqa: F403
    from .gemini import *  # noqa: F403
    from .messages import *  # noqa: F403
    from .responses import *  # noqa: F403

    __all__ = ["Chunk", "Continued", "Event", "Restarted", "Retried", "UnknownEvent"]
    __all__ += chat.__all__
    __all__ += gemini.__all__
    __all__ += messages.__all__
    __all__ += responses.__all__


_APIS = ("responses", "messages", "chat", "gemini")


def __getattr__(name: str) -> Any:
    if name in _APIS:
        return import_module(f".{name}", __name__)
    if name == "__all__":
        return __dir__()
    if not name.startswith("_"):
        for api in _APIS:
            module = import_module(f".{api}", __name__)
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    modules = [import_module(f".{api}", __name__) for api in _APIS]
    own = ["Chunk", "Continued", "Event", "Restarted", "Retried", "UnknownEvent"]
    return [*own, *(name for module in modules for name in module.__all__)]
