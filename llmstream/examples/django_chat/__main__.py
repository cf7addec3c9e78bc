"""`python -m llmstream.examples.django_chat`: on http://127.0.0.1:8000, for trying it out."""

from __future__ import annotations

import os

from ..service import read_arguments, run_server, trusted_hosts


def main() -> None:
    options = read_arguments("llmstream.examples.django_chat")
    os.environ["CHAT_PROTOCOL"] = options.protocol
    os.environ["CHAT_PAGE"] = str(options.page)
    os.environ.setdefault("DJANGO_ALLOWED_HOSTS", " ".join(trusted_hosts(options.host) or "*"))
    from django.core.servers.basehttp import run

    from .wsgi import application

    def tell(port: object) -> None:
        print(f"http://{options.host}:{port} (Django's own server, for development)", flush=True)

    run(options.host, options.port, application, threading=True, on_bind=tell)


if __name__ == "__main__":
    run_server(main)
