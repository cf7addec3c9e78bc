"""An answer on its way to a browser: a stream in, the bytes of a front end's protocol out.

Names are imported when they are used: a view that relays with Flask does not need Django.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .answer import whole
    from .body import Body, BrokenBody, sse
    from .django import django_response
    from .flask import flask_response
    from .http import headers
    from .log.base import LogError
    from .log.following import Followed, follow
    from .log.memory import MemoryLog
    from .log.publishing import Publication, publish, stop
    from .log.redis import RedisLog
    from .posted import BadRequest
    from .prompts import prompt_of
    from .protocols import PROTOCOLS

__all__ = [
    "PROTOCOLS",
    "BadRequest",
    "Body",
    "BrokenBody",
    "Followed",
    "LogError",
    "MemoryLog",
    "Publication",
    "RedisLog",
    "django_response",
    "flask_response",
    "follow",
    "headers",
    "prompt_of",
    "publish",
    "sse",
    "stop",
    "whole",
]

# A public name -> the module that defines it.
_HOMES = {
    "PROTOCOLS": ".protocols",
    "BadRequest": ".posted",
    "Body": ".body",
    "BrokenBody": ".body",
    "Followed": ".log.following",
    "LogError": ".log.base",
    "MemoryLog": ".log.memory",
    "Publication": ".log.publishing",
    "RedisLog": ".log.redis",
    "django_response": ".django",
    "flask_response": ".flask",
    "follow": ".log.following",
    "headers": ".http",
    "prompt_of": ".prompts",
    "publish": ".log.publishing",
    "sse": ".body",
    "stop": ".log.publishing",
    "whole": ".answer",
}

__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
