"""An answer on its way to a browser: a stream in, the bytes of a front end's protocol out.

Names are imported when they are used: a view that relays with Flask does not need Django.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .body import Body, BrokenBody, sse
    from .django import django_response
    from .flask import flask_response
    from .http import headers
    from .protocols import PROTOCOLS

__all__ = ["PROTOCOLS", "Body", "BrokenBody", "django_response", "flask_response", "headers", "sse"]

# A public name -> the module that defines it.
_HOMES = {
    "PROTOCOLS": ".protocols",
    "Body": ".body",
    "BrokenBody": ".body",
    "django_response": ".django",
    "flask_response": ".flask",
    "headers": ".http",
    "sse": ".body",
}

__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
