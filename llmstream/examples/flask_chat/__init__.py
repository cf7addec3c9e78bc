"""A chat page with Flask. Run it: `python -m llmstream.examples.flask_chat`, or under gunicorn:
`gunicorn --worker-class gthread --threads 100 "llmstream.examples.flask_chat:create_app()"`."""

from .app import create_app

__all__ = ["create_app"]
