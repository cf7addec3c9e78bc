"""The command `llmstream`: finds the command that is meant, and runs it."""

from __future__ import annotations

import argparse
import signal
import sys
import textwrap
from collections.abc import Sequence

from ..errors import LLMStreamError
from .ask import ASK, SOURCES
from .check import CHECK
from .command import Command, Parser
from .dashboard import DASHBOARD
from .exit_codes import CLOSED_PIPE, FAILED, SIGNALLED, exit_code_meanings
from .keys import KEYS
from .output import complain, flush_quietly, report_error
from .signals import Terminated, die_with

__all__ = ["COMMANDS", "main"]

# The first word of the command line -> the command. Without one of these words it is ASK.
COMMANDS: dict[str, Command] = {
    "check": CHECK,
    "dashboard": DASHBOARD,
    "keys": KEYS,
}
_WIDTH = 79


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    `argv` are the arguments without the program's name. None: those of the process. A prompt that
    is the name of a command can be given on standard input. Raises SystemExit for `--help`,
    `--version` and a mistake in the arguments.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    command = COMMANDS.get(name)
    if command is None:
        command, parser = ASK, _overview()
    else:
        parser = Parser(prog=f"llmstream {name}")
        arguments = arguments[1:]
    command.add_arguments(parser)
    options = parser.parse_args(arguments)
    die_with(signal.SIGINT, signal.SIGTERM)
    return _run(command, options)


def _run(command: Command, options: argparse.Namespace) -> int:
    try:
        return command.run(options)
    except LLMStreamError as error:
        return report_error(error)
    except Terminated as ended:
        flush_quietly(sys.stdout)
        return SIGNALLED + ended.number
    except BrokenPipeError:
        flush_quietly(sys.stdout)
        return CLOSED_PIPE
    except OSError as error:  # the library's own errors are handled above: this is stdout's
        complain("cannot write the output", error.strerror or type(error).__name__)
        flush_quietly(sys.stdout)
        return FAILED


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
