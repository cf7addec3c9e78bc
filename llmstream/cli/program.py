"""The command `llmstream`: finds the command that is meant, and runs it."""

from __future__ import annotations

import argparse
import signal
import sys
import textwrap
from collections.abc import Sequence

from ..errors import LLMStreamError
from .ask import ASK, SOURCES
from .batch import BATCH
from .bench import BENCH
from .chat import CHAT
from .check import CHECK
from .command import Command, Parser
from .completion import completion_command
from .dashboard import DASHBOARD
from .exit_codes import CLOSED_PIPE, FAILED, SIGNALLED, exit_code_meanings
from .keys import KEYS
from .output import complain, flush_quietly, prepare_output, report_error
from .profiles import PROFILES_COMMAND
from .signals import Terminated, die_with, hand_back, hangup

__all__ = ["COMMANDS", "main"]

# The first word of the command line -> the command. Without one of these words it is ASK.
COMMANDS: dict[str, Command] = {
    "ask": ASK,
    "batch": BATCH,
    "bench": BENCH,
    "chat": CHAT,
    "check": CHECK,
    "completion": completion_command(lambda: COMMANDS),
    "dashboard": DASHBOARD,
    "keys": KEYS,
    "profiles": PROFILES_COMMAND,
}
_WIDTH = 79


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    `argv` are the arguments without the program's name. None: those of the process, which ends
    after the command. A prompt that begins with the name of a command is given to `ask`. While the
    command runs it handles SIGINT, SIGTERM and SIGHUP, so only a main thread can call it. Raises
    SystemExit for `--help`, `--version` and a mistake in the arguments.
    """
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            hand_back(process_ends=argv is None)
    except Terminated as ended:
        number = ended.number
    except KeyboardInterrupt:  # before the handler was set
        number = signal.SIGINT
    flush_quietly(sys.stdout)
    return SIGNALLED + number


def _run(arguments: list[str]) -> int:
    try:
        prepare_output()
        command, options = _parsed(arguments)
        die_with(signal.SIGINT, signal.SIGTERM, *hangup())
        return _result(command, options)
    except OSError as error:  # the library's own errors are handled below: this is stdout's
        if isinstance(error.__context__, Terminated):  # the terminal is gone, too
            raise error.__context__ from None
        if isinstance(error, BrokenPipeError):
            flush_quietly(sys.stdout)
            return CLOSED_PIPE
        complain("cannot write the output", error.strerror or type(error).__name__)
        flush_quietly(sys.stdout)
        return FAILED


def _result(command: Command, options: argparse.Namespace) -> int:
    """Whatever happens is an exit code and at most one line on stderr."""
    try:
        return command.run(options)
    except LLMStreamError as error:
        return report_error(error)
    except OSError:
        raise
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        flush_quietly(sys.stdout)
        complain(
            f"unexpected {type(error).__name__}",
            f"{error}; a fault of llmstream: please report what `python -X dev -m llmstream` shows",
        )
        return FAILED


def _parsed(arguments: list[str]) -> tuple[Command, argparse.Namespace]:
    name = arguments[0] if arguments else ""
    command = COMMANDS.get(name)
    if command is None:
        command, parser = ASK, _overview()
    else:
        parser = Parser(prog=f"llmstream {name}")
        parser.hint = f"; a prompt that begins with {name!r}: llmstream ask {name} ..."
        arguments = arguments[1:]
    command.add_arguments(parser)
    return command, parser.parse_args(arguments)


def _overview() -> Parser:
    """The parser of `llmstream` itself; its help ends with all commands and exit codes."""
    commands = {name: command.summary for name, command in COMMANDS.items()}
    codes = {str(code): meaning for code, meaning in exit_code_meanings().items()}
    return Parser(
        prog="llmstream",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(
            [
                *textwrap.wrap(SOURCES, _WIDTH),
                "",
                "commands (llmstream COMMAND --help shows the options of each):",
                *_rows(commands),
                "",
                "exit codes:",
                *_rows(codes),
            ]
        ),
    )


def _rows(rows: dict[str, str]) -> list[str]:
    width = max(map(len, rows))
    return [f"  {name:<{width}}  {meaning}" for name, meaning in rows.items()]
