"""`llmstream PROMPT`: one prompt, and its answer token by token."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from .._core.dialects import APIS
from .._core.timers import Timeouts
from .._version import __version__
from ..client import Client
from ..errors import ConfigurationError, LLMStreamError
from ..stream import Stream
from .command import Command, Parser
from .exit_codes import FAILED
from .output import complain, print_pieces, report_error

if TYPE_CHECKING:
    from ..telemetry.timeline import TimelineObserver

__all__ = ["ASK", "SOURCES"]

_VARIABLES = ", or ".join(
    dict.fromkeys(f"{api.key_variable} and {api.url_variable}" for api in APIS.values())
)
# Where the prompt and the service come from.
SOURCES = (
    "Standard input is appended to the prompt, or is the prompt. The service comes from "
    f"LLMSTREAM_{{API,BASE_URL,API_KEY,MODEL}}, or {_VARIABLES}, or the keyring."
)


def _add_arguments(parser: Parser) -> None:
    parser.description = "Stream the answer of a large language model to stdout."
    add = parser.add_argument
    add("prompt", nargs="?", help="the prompt; '-' or none: standard input")
    add("--model", help="the model's name")
    add("--api", choices=list(APIS), help="the API that the service speaks")
    add("--base-url", metavar="URL", help="the service's address, like https://api.openai.com/v1")
    add("--instructions", metavar="TEXT", help="the system prompt")
    add("--max-tokens", type=int, metavar="N", help="at most N tokens of answer")
    add("--total", type=float, metavar="SECONDS", help="hard deadline for the whole call")
    add("--json", action="store_true", help="print every event as JSON, one a line")
    add(
        "--stats",
        action="store_true",
        help="write times, tokens and attempts to stderr at the end",
    )
    add(
        "--timeline",
        metavar="FILE.html",
        help="draw the call's timeline as a page, also of a call that fails",
    )
    add("--local", action="store_true", help="a small real model in this process; needs no key")
    add("--model-file", metavar="FILE.gguf", help="with --local: another model")
    add("--version", action="version", version=f"llmstream {__version__}")


def _run(options: argparse.Namespace) -> int:
    if options.timeline is None:
        return _call(options)
    from ..telemetry.timeline import TimelineObserver

    timeline, path = TimelineObserver(), options.timeline
    is_new = not os.path.lexists(path)
    try:
        with open(path, "a"):  # a path that cannot be written is reported before the call costs
            pass
    except OSError as error:
        return _unwritten(path, error)
    try:
        code = _call(options, timeline)
    finally:  # also when a signal or a closed pipe ends the call
        write_code = _write(timeline, path, is_new)
    return code or write_code


def _write(timeline: TimelineObserver, path: str, is_new: bool) -> int:
    """Returns 0, or the exit code of a page that cannot be written."""
    try:
        if timeline.calls:
            timeline.write(path)
        elif is_new:  # no call was made
            os.unlink(path)
    except OSError as error:
        return _unwritten(path, error)
    return 0


def _unwritten(path: str, error: OSError) -> int:
    complain("cannot write the timeline", f"{path}: {error.strerror or type(error).__name__}")
    return FAILED


def _call(options: argparse.Namespace, *observers: TimelineObserver) -> int:
    stream: Stream | None = None
    try:
        prompt = _prompt(options.prompt)
        with _client(options, observers) as client:
            stream = client.stream(
                prompt,
                instructions=options.instructions,
                max_output_tokens=options.max_tokens,
            )
            with stream:
                print_pieces(_events(stream) if options.json else stream, end_line=not options.json)
        code = 0
    except LLMStreamError as error:
        code = report_error(error)
    if options.stats and stream is not None:
        sys.stderr.write(f"llmstream: {_stats(stream)}\n")
    return code


def _client(options: argparse.Namespace, observers: Sequence[TimelineObserver]) -> Client:
    given: dict[str, Any] = {
        "api": options.api,
        "base_url": options.base_url,
        "model": options.model,
        "timeouts": Timeouts(total=options.total) if options.total is not None else None,
        "observers": observers,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if options.local:
        if options.base_url:
            raise ConfigurationError("--local and --base-url exclude each other")
        return Client.local(options.model_file, **given)
    if options.model_file:
        raise ConfigurationError("--model-file goes with --local")
    return Client.from_env(**given)


def _prompt(argument: str | None) -> str:
    """The argument, standard input, or both with an empty line between them."""
    piped = ""
    if argument in (None, "-") or not sys.stdin.isatty():
        piped = sys.stdin.read() if sys.stdin is not None else ""
    parts = [part for part in (argument if argument != "-" else None, piped.strip("\n")) if part]
    if not parts:
        raise ConfigurationError("no prompt: give one as an argument or on standard input")
    return "\n\n".join(parts)


def _events(stream: Stream) -> Iterator[str]:
    """The wire's own JSON, an event a line."""
    for event in stream.events():
        # Formatting changes only the white space between the tokens: there are no newlines left.
        yield msgspec.json.format(event.raw, indent=-1).decode("utf-8", "replace") + "\n"


def _stats(stream: Stream) -> str:
    attempts = stream.attempts
    last = attempts[-1] if attempts else None
    usage = stream.usage
    first = None if last is None or last.first_token_ms is None else last.first_token_ms
    started = 0.0 if last is None else last.started_ms
    total = 0.0 if last is None else started + last.duration_ms
    shown = {
        "first token": "none" if first is None else f"{started + first:.0f} ms",
        "total": f"{total:.0f} ms",
        "tokens in": usage.input_tokens,
        "tokens out": usage.output_tokens,
        "attempts": len(attempts),
        "trace id": stream.trace_id,
    }
    return ", ".join(f"{name} {'unknown' if v is None else v}" for name, v in shown.items())


ASK = Command("stream the answer to a prompt", _add_arguments, _run)
