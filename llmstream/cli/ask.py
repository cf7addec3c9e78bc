"""`llmstream PROMPT`: one prompt, and its answer token by token."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from .._core.dialects import APIS, DEFAULT_API
from .._core.timers import Timeouts
from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.files import check_replaceable
from .._version import __version__
from ..errors import ConfigurationError, DeadlineExceeded, LLMStreamError
from ..result import whole_prompt
from ..stream import Stream
from .command import Command, Parser
from .exit_codes import FAILED
from .output import complain, print_pieces, remark, report_error, write
from .painter import PLAIN, paint, painter_for
from .service import (
    add_request_options,
    add_service_options,
    client_for,
    request_options,
    text_argument,
)
from .stdin import FIRST_BYTE, Deadline, read_all, read_if_any

if TYPE_CHECKING:
    from ..telemetry.timeline import TimelineObserver

__all__ = ["ASK", "SOURCES"]

_VARIABLES = ", or ".join(
    dict.fromkeys(
        f"{' or '.join(api.key_variables)} and {api.url_variable}" for api in APIS.values()
    )
)
# Where the prompt and the service come from.
SOURCES = (
    "Standard input is the prompt, or is appended to it. With a prompt as an argument it is read "
    f"if it is a file, or if its first byte arrives within {FIRST_BYTE:g} s (at most half of "
    "--total; without a limit in a pipeline of a terminal); it is then read to its end. The "
    "service comes from "
    f"LLMSTREAM_{{API,BASE_URL,API_KEY,MODEL}}, or {_VARIABLES}, or the keyring."
)


def _add_arguments(parser: Parser) -> None:
    parser.description = "Stream the answer of a large language model to stdout."
    parser.usage = f"{parser.prog} [OPTION ...] [PROMPT ...]"
    parser.takes_words = True
    group = parser.add_argument_group("the prompt")
    group.add_argument(
        "words", nargs="*", metavar="PROMPT", help="words; '-' or none: standard input"
    )
    group.add_argument(
        "--stdin",
        action=argparse.BooleanOptionalAction,
        help="wait for the end of standard input, or do not read it",
    )
    add_request_options(parser)
    add_service_options(parser)
    add = parser.add_argument_group("the call and its output").add_argument
    add(
        "--total",
        type=float,
        metavar="SECONDS",
        help="hard deadline, from the start of the command, with the time spent on standard input",
    )
    add("--plain", action="store_true", help=PLAIN)
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
    add("--version", action="version", version=f"llmstream {__version__}")


def _run(options: argparse.Namespace) -> int:
    if options.timeline is None:
        return _call(options)
    from ..telemetry.timeline import TimelineObserver

    timeline, path = TimelineObserver(), options.timeline
    try:
        check_replaceable(path)  # a path that cannot be written is reported before the call costs
    except (OSError, ValueError) as error:
        return _unwritten(path, error)
    try:
        code = _call(options, timeline)
    finally:  # also when a signal or a closed pipe ends the call
        write_code = _write(timeline, path)
    return code or write_code


def _write(timeline: TimelineObserver, path: str) -> int:
    """Returns 0, or the exit code of a page that cannot be written."""
    try:
        if timeline.calls:
            timeline.write(path)
    except OSError as error:
        return _unwritten(path, error)
    return 0


def _unwritten(path: str, error: Exception) -> int:
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    complain("cannot write the timeline", f"{path}: {why}")
    return FAILED


def _call(options: argparse.Namespace, *observers: TimelineObserver) -> int:
    stream: Stream | None = None
    api = DEFAULT_API
    deadline = Deadline(options.total, SYSTEM_CLOCK.monotonic())
    try:
        limits = Timeouts(total=options.total)  # refused before anything is read
        asked = request_options(options)
        write("")  # a closed output is reported before the call costs
        prompt = _prompt(options, deadline)
        with client_for(options, observers) as client:
            api = client.settings.api
            stream = client.stream(
                prompt,
                timeouts=_limits(limits, deadline),
                **asked,
            )
            with stream:
                _show(stream, options)
        code = 0
    except LLMStreamError as error:
        if isinstance(error, DeadlineExceeded) and stream is not None:
            error.add(f"of --total {options.total:g}, which began with the command")
        code = report_error(error)
    if options.stats and stream is not None and not remark(_stats(stream, api)):
        return code or FAILED
    return code


def _limits(limits: Timeouts, deadline: Deadline) -> Timeouts:
    """The clocks of the call: `total` is what the command has left of it."""
    left = deadline.left()
    if left <= 0:
        raise DeadlineExceeded(
            f"the {deadline.total:g} s of --total were over before anything was sent: allow more",
            seconds=deadline.total,
        )
    return limits if left == math.inf else msgspec.structs.replace(limits, total=round(left, 3))


def _prompt(options: argparse.Namespace, deadline: Deadline) -> str:
    """The argument, standard input, or both with an empty line between them."""
    words = options.words
    given = None if words in ([], ["-"]) else text_argument(" ".join(words))
    if options.stdin is False:
        piped = ""
    elif given is None or options.stdin:
        piped = read_all(deadline)
    else:
        piped = read_if_any(deadline)
    parts = [part for part in (given, piped.strip("\n")) if part]
    if not parts:
        raise ConfigurationError("no prompt: give one as an argument or on standard input")
    return "\n\n".join(parts)


def _show(stream: Stream, options: argparse.Namespace) -> None:
    if options.json:
        print_pieces(_events(stream), end_line=False, as_json=True)
    else:
        paint(stream, painter_for(sys.stdout, plain=options.plain))


def _events(stream: Stream) -> Iterator[str]:
    """The wire's own JSON, an event a line."""
    for event in stream.events():
        yield _one_line(event.raw) + "\n"


def _one_line(raw: bytes) -> str:
    # What JSON does not allow, like the NaN of Python's servers, is printed as it was received.
    with contextlib.suppress(msgspec.MsgspecError, RecursionError):
        # Formatting changes only the white space between the tokens: no newlines are left.
        raw = msgspec.json.format(raw, indent=-1)
    return re.sub(r"[\r\n]+", " ", raw.decode("utf-8", "replace"))


def _stats(stream: Stream, api: str) -> str:
    attempts = stream.attempts
    last = attempts[-1] if attempts else None
    usage = stream.usage
    first = None if last is None or last.first_token_ms is None else last.first_token_ms
    started = 0.0 if last is None else last.started_ms
    total = 0.0 if last is None else started + last.duration_ms
    shown = {
        "first token": "none" if first is None else f"{started + first:.0f} ms",
        "total": f"{total:.0f} ms",
        "tokens in": whole_prompt(usage, APIS[api].cached_beside),
        "tokens out": usage.output_tokens,
        "attempts": len(attempts),
        "trace id": stream.trace_id,
    }
    return ", ".join(f"{name} {'unknown' if v is None else v}" for name, v in shown.items())


ASK = Command("stream the answer to a prompt", _add_arguments, _run)
