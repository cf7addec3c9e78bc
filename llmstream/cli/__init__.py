"""The command `llmstream`: one prompt in, tokens out as they come.

Exit codes: see EXIT_CODES. Errors are one sentence on stderr; what had come stays on stdout.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from ..client import Client
    from ..stream import Stream
    from ..telemetry.timeline import TimelineObserver

__all__ = ["EXIT_CODES", "main"]

# The name of an error class -> the exit code of it and what is below it in the tree. 0 is success,
# 1 output that cannot be written, 2 also what argparse uses. 130 and 143 are SIGINT and SIGTERM,
# 141 a closed pipe (128 + the signal's number, as a shell counts).
EXIT_CODES: dict[str, int] = {
    "ConfigurationError": 2,
    "InvalidRequestError": 3,
    "AuthenticationError": 4,
    "PermissionDeniedError": 5,
    "RateLimitError": 6,
    "QuotaExceededError": 7,
    "OverloadedError": 8,
    "ServerError": 9,
    "ConnectTimeout": 10,
    "FirstTokenTimeout": 11,
    "IdleTimeout": 12,
    "SilenceTimeout": 13,
    "DeadlineExceeded": 14,
    "ConnectionFailed": 15,
    "StreamInterrupted": 16,
    "StreamTruncated": 17,
    "ProtocolError": 18,
    "Cancelled": 19,
}
_CLOSED_PIPE = 128 + 13


class _Ended(BaseException):
    """A signal asked for the end. Like KeyboardInterrupt, not for an `except Exception`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # The prompts "keys" and "check" can be given on standard input.
    known = _COMMANDS.get(arguments[0]) if arguments else None
    parser, command = known or (_parser, _run)
    options = parser().parse_args(arguments[1:] if known else arguments)
    _die_with(signal.SIGINT, signal.SIGTERM)
    try:
        return command(options)
    except _Ended as ended:
        _quietly(sys.stdout)
        return 128 + ended.number
    except BrokenPipeError:
        _quietly(sys.stdout)
        return _CLOSED_PIPE
    except OSError as error:  # the library's own are handled: this is stdout's
        _complain("cannot write the output", error.strerror or type(error).__name__)
        _quietly(sys.stdout)
        return 1


def _die_with(*signals: signal.Signals) -> None:
    """Turn signals into an exception in the main thread, wherever it waits: it frees the stream on
    its way out. A second one while that happens changes nothing."""

    def end(number: int, frame: FrameType | None) -> None:
        for one in signals:
            signal.signal(one, signal.SIG_IGN)
        raise _Ended(number)

    for one in signals:
        signal.signal(one, end)


def _quietly(stream: TextIO) -> None:
    """Write what is buffered if that is possible; the interpreter would try again at exit, and
    complain about a closed pipe."""
    try:
        stream.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmstream",
        description="Stream the answer of a large language model to stdout.",
        epilog="Standard input is appended to the prompt, or is the prompt. The service comes from "
        "LLMSTREAM_{API,BASE_URL,API_KEY,MODEL}, or OPENAI_API_KEY and OPENAI_BASE_URL, or "
        "ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL, or the keyring (`llmstream keys --help`).",
    )
    add = parser.add_argument
    add("prompt", nargs="?", help="the prompt; '-' or none: standard input")
    add("--model", help="the model's name")
    add("--api", choices=["responses", "messages", "chat"], help="the API that the service speaks")
    add("--base-url", help="the service's address, like https://api.openai.com/v1")
    add("--instructions", help="the system prompt")
    add("--max-tokens", type=int, metavar="N", help="at most N tokens of answer")
    add("--total", type=float, metavar="SECONDS", help="hard deadline for the whole call")
    add("--json", action="store_true", help="print every event as JSON, one a line")
    add("--stats", action="store_true", help="first token, total, tokens, attempts, to stderr")
    add(
        "--timeline",
        metavar="FILE.html",
        help="draw the call's timeline as a page, however it ends",
    )
    add("--local", action="store_true", help="a real small model in this process; no key needed")
    add("--model-file", metavar="FILE.gguf", help="with --local: another model")
    from .._version import __version__

    add("--version", action="version", version=f"llmstream {__version__}")
    return parser


def _keys_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmstream keys",
        description="Keys on the operating system's keyring. 'openai' and 'anthropic' are looked "
        "up when the environment has no key.",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="the names that have a key")
    store = actions.add_parser("set", help="store a key, read from the terminal or standard input")
    store.add_argument("name")
    actions.add_parser("remove", help="forget a key").add_argument("name")
    return parser


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"llmstream: {message}\n")


def _check_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="llmstream check",
        description="Play a service's bad days to your own settings: rate limits, server errors, "
        "lost connections, cut answers, silence, pings, quota, and many streams at once, against "
        "a fault server in this process. Nothing is sent to a real service. Exit code 1 if a "
        "check fails.",
        epilog="Long clocks are run faster, and each line says so. SECONDS is a number or 'off'.",
    )
    add = parser.add_argument
    add("--client", metavar="MODULE:NAME", help="your own Client, or a function that returns one")
    add("--api", choices=["responses", "messages", "chat"], help="the API that the service speaks")
    for clock in ("connect", "first-token", "idle", "silence", "total"):
        add(f"--{clock}", type=_seconds, metavar="SECONDS", help=f"the clock {clock}")
    add("--max-attempts", type=int, metavar="N", help="attempts, the first one included")
    for name, what in (
        ("base", "the first wait between attempts"),
        ("cap", "the longest wait"),
        ("jitter", "the share of a wait that is random"),
        ("max-retry-after", "the longest wait that a server may ask for"),
    ):
        add(f"--{name}", type=float, metavar="NUMBER", help=what)
    add("--on-disconnect", metavar="POLICY", help="raise, restart, continue or resume")
    add("--profile", metavar="NAME", help="how the server differs: azure, vllm, mistral, ...")
    add("--real-time", action="store_true", help="let no clock run faster: takes minutes")
    add("--json", action="store_true", help="one JSON object a line, the last is the summary")
    return parser


def _seconds(text: str) -> float | str:
    if text == "off":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither seconds nor 'off'") from None


def _check(options: argparse.Namespace) -> int:
    from .. import check
    from ..errors import ConfigurationError

    try:
        setup = check.setup_from(vars(options))
    except ConfigurationError as error:
        _complain(type(error).__name__, error)
        return _exit_code(error)
    return check.report(setup, sys.stdout, as_json=options.json)


def _keys(options: argparse.Namespace) -> int:
    from .._settings import keyring
    from ..errors import ConfigurationError

    try:
        if options.action == "list":
            sys.stdout.write("".join(f"{name}\n" for name in keyring.names()))
        elif options.action == "set":
            keyring.store(options.name, _read_key(options.name))
        else:
            keyring.remove(options.name)
        sys.stdout.flush()
    except ConfigurationError as error:
        _complain(type(error).__name__, error)
        return _exit_code(error)
    return 0


def _read_key(name: str) -> str:
    # Never an argument: those are seen by every user of the machine.
    if not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    from getpass import getpass

    return getpass(f"key for {name}: ").strip()


def _run(options: argparse.Namespace) -> int:
    if options.timeline is None:
        return _call(options)
    from ..telemetry.timeline import TimelineObserver

    trace, path = TimelineObserver(), options.timeline
    is_new = not os.path.lexists(path)
    try:
        with open(path, "a"):  # it has to be known before the call costs anything
            pass
    except OSError as error:
        return _no_trace(path, error)
    try:
        code = _call(options, trace)
    finally:  # also when a signal or a closed pipe has ended it
        unwritten = _write_trace(trace, path, is_new)
    return code or unwritten


def _write_trace(trace: TimelineObserver, path: str, is_new: bool) -> int:
    """Returns 0, or the exit code of a page that could not be written."""
    try:
        if trace.calls:
            trace.write(path)
        elif is_new:  # no call was made
            os.unlink(path)
    except OSError as error:
        return _no_trace(path, error)
    return 0


def _no_trace(path: str, error: OSError) -> int:
    _complain("cannot write the trace", f"{path}: {error.strerror or type(error).__name__}")
    return 1


def _call(options: argparse.Namespace, *observers: TimelineObserver) -> int:
    from ..errors import LLMStreamError

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
                _print(_lines(stream) if options.json else stream, end=not options.json)
        code = 0
    except LLMStreamError as error:
        _quietly(sys.stdout)
        _complain(type(error).__name__, error)
        code = _exit_code(error)
    if options.stats and stream is not None:
        _stats(stream)
    return code


def _client(options: argparse.Namespace, observers: Sequence[TimelineObserver] = ()) -> Client:
    from .._core.timers import Timeouts
    from ..client import Client
    from ..errors import ConfigurationError

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
    """The argument, what is piped in, or both with an empty line between."""
    from ..errors import ConfigurationError

    piped = ""
    if argument in (None, "-") or not sys.stdin.isatty():
        piped = sys.stdin.read() if sys.stdin is not None else ""
    parts = [part for part in (argument if argument != "-" else None, piped.strip("\n")) if part]
    if not parts:
        raise ConfigurationError("no prompt: give one as an argument or on standard input")
    return "\n\n".join(parts)


def _lines(stream: Stream) -> Iterator[str]:
    import msgspec

    for event in stream.events():
        # The wire's own JSON; a line end inside it can only be white space between its tokens.
        yield msgspec.json.format(event.raw, indent=-1).decode("utf-8", "replace") + "\n"


def _print(pieces: Iterator[str] | Stream, *, end: bool) -> None:
    out = sys.stdout
    last = "\n"
    try:
        for piece in pieces:
            out.write(piece)
            out.flush()
            last = piece or last
    finally:
        # What came stays, on a line of its own, whatever ended it.
        if end and not last.endswith("\n"):
            out.write("\n")
        out.flush()


def _complain(what: str, why: object) -> None:
    sys.stderr.write(f"llmstream: {what}: {why}\n")


def _exit_code(error: Exception) -> int:
    return next(
        (EXIT_CODES[c.__name__] for c in type(error).__mro__ if c.__name__ in EXIT_CODES), 1
    )


def _stats(stream: Stream) -> None:
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
    text = ", ".join(f"{k} {'unknown' if v is None else v}" for k, v in shown.items())
    sys.stderr.write(f"llmstream: {text}\n")


# The first word -> how its arguments are read, and what it does.
_COMMANDS: dict[
    str,
    tuple[Callable[[], argparse.ArgumentParser], Callable[[argparse.Namespace], int]],
] = {"keys": (_keys_parser, _keys), "check": (_check_parser, _check)}


if __name__ == "__main__":
    sys.exit(main())
