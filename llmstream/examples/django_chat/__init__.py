"""A chat page with Django. Run it: `python -m llmstream.examples.django_chat`, or by WSGI or ASGI:

gunicorn --worker-class gthread --threads 100 llmstream.examples.django_chat.wsgi
uvicorn llmstream.examples.django_chat.asgi:application
"""

__all__ = ["asgi", "wsgi"]
