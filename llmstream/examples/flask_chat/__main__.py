"""`python -m llmstream.examples.flask_chat`: on http://127.0.0.1:8000, for trying it out."""

from __future__ import annotations

from ..service import read_arguments, run_server, trusted_hosts


def main() -> None:
    options = read_arguments("llmstream.examples.flask_chat")
    from .app import create_app

    app = create_app(protocol=options.protocol, page=options.page)
    app.config["TRUSTED_HOSTS"] = trusted_hosts(options.host)
    app.run(options.host, options.port, threaded=True)  # Flask's own server, for development


if __name__ == "__main__":
    run_server(main)
