"""The application for uvicorn and its like."""

import os

from django.core.asgi import get_asgi_application

__all__ = ["application"]

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmstream.examples.django_chat.settings")
application = get_asgi_application()
