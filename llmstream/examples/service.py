"""What the examples share: the client of the model; the log and the headers of the servers."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import relay
from .._settings.environment import find_in_environment
from ..client import Client
from ..errors import ConfigurationError

__all__ = [
    "HEADERS",
    "PAGE",
    "add_service_options",
    "answer_id",
    "client_from_env",
    "log_from_env",
    "put_into_environment",
    "read_arguments",
    "run_server",
    "trusted_hosts",
]

PAGE = Path(__file__).with_name("page")

# Scripts, styles and requests are the page's own only: text of a model can load or send nothing.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def client_from_env() -> Client:
    """A client of the service that the environment names (see `Client.from_env`); where it names
    none, of the small model in this process (extra `local`)."""
    return Client.local() if find_in_environment() is None else Client.from_env()


def log_from_env() -> Any:
    """Where the running answers are kept: in the Redis of `REDIS_URL`, for several processes, else
    in this process's memory."""
    url = os.environ.get("REDIS_URL")
    return relay.RedisLog(url) if url else relay.MemoryLog()


def answer_id(asked: Any) -> str:
    """The id that the page gave to an answer: in the body of a request, or in its address.

    Whoever knows it can read the answer: so it is long and random, and an application with accounts
    puts the account in front of it. Raises BadRequest for what is no such id.
    """
    id = asked.get("id") if isinstance(asked, dict) else asked
    if isinstance(id, str) and re.fullmatch(r"[A-Za-z0-9_-]{16,64}", id):
        return id
    raise relay.BadRequest("the id of an answer is 16 to 64 letters, digits, - and _")


def trusted_hosts(host: str) -> list[str] | None:
    """The names by which a server that listens on `host` may be asked; None: any.

    A server for this machine alone answers no other name. So a page of another site, whose name
    leads to this machine, gets nothing from it (DNS rebinding).
    """
    own = ["localhost", "127.0.0.1", "[::1]"]
    return own if host in (*own, "::1") else None


def add_service_options(parser: argparse.ArgumentParser) -> None:
    """The options of every example: which service is asked."""
    for option, variable, what in (
        ("--api", "LLMSTREAM_API", "the API that the service speaks"),
        ("--base-url", "LLMSTREAM_BASE_URL", "the service's address"),
        ("--model", "LLMSTREAM_MODEL", "the model's name"),
    ):
        parser.add_argument(option, dest=variable, metavar=option[2:].upper(), help=what)


def put_into_environment(options: argparse.Namespace) -> None:
    """The service that the options name, where `client_from_env` finds it."""
    for name, value in vars(options).items():
        if name.startswith("LLMSTREAM_") and value is not None:
            os.environ[name] = value


def read_arguments(program: str) -> argparse.Namespace:
    """The arguments of a server: where it listens, and what it asks. The latter are put into the
    environment."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    add("--port", type=int, default=8000, help="0: any free one (8000)")
    add(
        "--protocol", default="events", choices=["events", "ui-message"], help="what the page reads"
    )
    add("--page", type=Path, default=PAGE, metavar="FOLDER", help="the files of another page")
    add_service_options(parser)
    options = parser.parse_args()
    if not 0 <= options.port <= 65_535:
        parser.error("--port: pass a number from 0 to 65535")
    if not (options.page / "index.html").is_file():
        parser.error(f"--page: there is no {options.page / 'index.html'} (is the page built?)")
    put_into_environment(options)
    return options


def run_server(serve: Callable[[], None]) -> None:
    """Run a server until Ctrl-C. What is wrong with the machine or the settings is one sentence."""
    try:
        serve()
    except KeyboardInterrupt:
        print()
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in ("flask", "django"):
            raise
        sys.exit(f"This server needs {name}: pip install 'llmstream-sync[{name}]'")
    except (ConfigurationError, OSError) as error:
        sys.exit(f"The server cannot start: {error}")
