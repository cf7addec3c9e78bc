"""The settings of Django's example, with the addresses of a plain relay."""

from llmstream.examples.django_chat.settings import *  # noqa: F403

ROOT_URLCONF = "served_urls"
