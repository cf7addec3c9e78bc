"""What a command is, and how its arguments are read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

from msgspec import Struct

__all__ = ["Command", "Parser"]


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one sentence on stderr and exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"llmstream: {message}\n")


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
