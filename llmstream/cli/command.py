"""What a command is, and how its arguments are read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from msgspec import Struct

from .output import remark, write

__all__ = ["Command", "Parser"]


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one sentence on stderr and exits with 2."""

    def error(self, message: str) -> NoReturn:
        remark(message)
        self.exit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own ignores, or does not catch, an output that cannot be written.
        if message:
            write(message) if file is sys.stdout else remark(message.rstrip("\n"))


class Command(Struct, frozen=True):
    """One command.

    Args:
        summary: what it does, in a line for `llmstream --help`.
        add_arguments: gives a parser the command's description and arguments.
        run: does the work and returns the exit code. May raise LLMStreamError and OSError, which
            the caller reports.
    """

    summary: str
    add_arguments: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], int]
