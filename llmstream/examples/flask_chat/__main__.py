"""`python -m llmstream.examples.flask_chat`: on http://127.0.0.1:8000, for trying it out."""

from __future__ import annotations

from ..service import read_arguments
from .app import create_app


def main() -> None:
    options = read_arguments("llmstream.examples.flask_chat")
    app = create_app(protocol=options.protocol, page=options.page)
    # Pages of other sites may know a name that leads to this machine; none of them gets an answer.
    app.config["TRUSTED_HOSTS"] = ["localhost", "127.0.0.1", "[::1]", options.host]
    app.run(options.host, options.port, threaded=True)  # Flask's own server, for development


if __name__ == "__main__":
    main()
