"""`llmstream chat`: a conversation, turn by turn."""

from __future__ import annotations

import argparse
import contextlib
import sys

from .._core.timers import Timeouts
from .chat_answer import Interrupts
from .chat_commands import COMMANDS, load_file
from .chat_input import History, Lines, PipedLines, TerminalLines, state_directory
from .chat_session import Chat, note
from .command import Command, Parser
from .output import remark, write
from .painter import PLAIN
from .service import (
    add_request_options,
    add_service_options,
    client_for,
    request_options,
    text_argument,
)

__all__ = ["CHAT"]


def _add_arguments(parser: Parser) -> None:
    parser.description = (
        "A conversation with a large language model. Each line is a message, or a command such as "
        "/help; of a pipe as well. Ctrl-C stops an answer, and the program goes on."
    )
    add_request_options(parser)
    add_service_options(parser)
    add = parser.add_argument_group("the chat").add_argument
    add("--load", metavar="FILE", help="go on with a conversation that /save has written")
    add("--no-history", action="store_true", help="do not keep what is typed for the next chat")
    add("--plain", action="store_true", help=PLAIN)
    add("--total", type=float, metavar="SECONDS", help="hard deadline of each answer")


def _run(options: argparse.Namespace) -> int:
    asked = request_options(options)
    if options.total is not None:
        asked["timeouts"] = Timeouts(total=options.total)
    write("")  # a closed output is reported before a call costs
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    with client_for(options) as client, contextlib.ExitStack() as stack:
        lines: Lines
        if is_terminal and sys.stdout.isatty():
            terminal = TerminalLines(_history(options), sorted(COMMANDS))
            stack.callback(terminal.close)
            lines, line = terminal, lambda: terminal.buffer
        else:
            lines, line = PipedLines(sys.stdin), str
        interrupts = stack.enter_context(Interrupts(line)) if is_terminal else None
        model = text_argument(options.model) or None
        chat = Chat(client, model, asked, lines, interrupts, options.plain, COMMANDS)
        chat.model_is_given |= options.local  # it has the one model
        if is_terminal:
            note(f"{chat.origin.model} ({chat.origin.api}); /help shows the commands")
        if options.load is not None:
            load_file(chat, options.load)
        try:
            return chat.run()
        finally:
            if chat.tally.answers:
                note(chat.tally.sentence())


def _history(options: argparse.Namespace) -> History | None:
    if options.no_history:
        return None
    try:
        history = History(state_directory() / "chat_history")
        history.load()
    except OSError as error:
        remark(f"no history is kept: {error.strerror or error}")
        return None
    return history


CHAT = Command("talk with a model, turn by turn", _add_arguments, _run)
