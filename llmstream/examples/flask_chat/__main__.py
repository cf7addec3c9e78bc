"""`python -m llmstream.examples.flask_chat`: on http://127.0.0.1:8000, for trying it out."""

from __future__ import annotations

import argparse

from ..service import PAGE
from .app import create_app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m llmstream.examples.flask_chat")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--protocol", default="events", choices=["events", "ui-message"])
    parser.add_argument("--page", default=PAGE, help="the folder of another page")
    options = parser.parse_args()
    app = create_app(protocol=options.protocol, page=options.page)
    # Flask's own server is for development; for more see the package's docstring.
    app.run(options.host, options.port, threaded=True)


if __name__ == "__main__":
    main()
