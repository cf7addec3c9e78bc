"""The application for gunicorn and its like."""

import os

from django.core.wsgi import get_wsgi_application

__all__ = ["application"]

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmstream.examples.django_chat.settings")
application = get_wsgi_application()
