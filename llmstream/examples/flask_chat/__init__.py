"""A chat page with Flask. Run it: `python -m llmstream.examples.flask_chat`, or under gunicorn:
`gunicorn --worker-class gthread --threads 100 "llmstream.examples.flask_chat:create_app()"`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._lazy import lazy

if TYPE_CHECKING:
    from .app import create_app

__all__ = ["create_app"]

__getattr__ = lazy(__name__, {"create_app": ".app"})  # `--help` does not need Flask
