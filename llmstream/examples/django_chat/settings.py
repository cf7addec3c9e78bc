"""The settings of the example: the least that Django needs, and the middleware of many projects."""

import os
import secrets

from ..service import PAGE

__all__ = [
    "ALLOWED_HOSTS",
    "CHAT_PAGE",
    "CHAT_PROTOCOL",
    "MIDDLEWARE",
    "ROOT_URLCONF",
    "SECRET_KEY",
    "USE_TZ",
]

# For CSRF tokens: a new key at each start. Processes that share the work need the same one.
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or secrets.token_urlsafe(50)
ALLOWED_HOSTS = os.environ.get("DJANGO_ALLOWED_HOSTS", "localhost 127.0.0.1 [::1]").split()
ROOT_URLCONF = "llmstream.examples.django_chat.urls"
MIDDLEWARE = [
    "django.middleware.gzip.GZipMiddleware",  # leaves the answers of relay.django_response alone
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "llmstream.examples.django_chat.views.protect",
]
USE_TZ = True

CHAT_PROTOCOL = os.environ.get("CHAT_PROTOCOL", "events")  # "ui-message": of a page with `useChat`
CHAT_PAGE = os.environ.get("CHAT_PAGE", str(PAGE))  # the folder with the page's files
