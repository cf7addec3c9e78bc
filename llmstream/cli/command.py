"""What a command is, and how its arguments are read."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from msgspec import Struct

from .output import remark, write

__all__ = ["NO_EFFORT", "Command", "Parser"]


NO_EFFORT = "nothing"  # a word that --thinking refuses: it could mean on as well as off
# What --thinking takes as a word of its own. Any other word after it belongs to the prompt.
_THINKING = re.compile(
    rf"on|off|none|minimal|low|medium|high|xhigh|max|{NO_EFFORT}|[+-]?\d+|\{{.*",
    re.IGNORECASE | re.DOTALL,
)
# argparse's sentences about words that belong to no option.
_STRANGE_WORDS = re.compile(r"unrecognized arguments: (?!-)|argument (?!-)\S+: invalid choice")
_LOOKS_LIKE_AN_OPTION = re.compile(r"-(?!\d*\.?\d+$)\S+")


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one sentence on stderr and exits with 2.

    `hint` is added to an error about words that the command does not take. With `takes_words` all
    words that belong to no option are `options.words`, wherever they are between the options, and
    all after "--".
    """

    hint = ""
    takes_words = False

    def error(self, message: str) -> NoReturn:
        remark(message + self.hint if _STRANGE_WORDS.match(message) else message)
        self.exit(2)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        given = list(sys.argv[1:] if args is None else args)
        given, rest = _split(given)
        if "--thinking" in self._option_string_actions:
            given = _with_thinking(given, any_word=not self.takes_words)
        if not self.takes_words:
            return super().parse_known_args(given + rest, namespace)
        # argparse's own list of words ends at the first option that follows them.
        options, others = super().parse_known_args(given, namespace)
        unknown = [word for word in others if _LOOKS_LIKE_AN_OPTION.fullmatch(word)]
        words = [word for word in others if word not in unknown]
        options.words = [*options.words, *words, *rest[1:]]
        if unknown:
            self.error(
                f"no such option: {unknown[0]} (where it is a word of the prompt, put the prompt "
                "into quotes, or -- before it)"
            )
        return options, []

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own ignores, or does not catch, an output that cannot be written.
        if message:
            write(message) if file is sys.stdout else remark(message.rstrip("\n"))


def _split(given: list[str]) -> tuple[list[str], list[str]]:
    """What is before "--", and the rest with it."""
    end = given.index("--") if "--" in given else len(given)
    return given[:end], given[end:]


def _with_thinking(given: list[str], *, any_word: bool) -> list[str]:
    """`--thinking` with its value in the same argument. argparse would take any word as the value,
    also the first one of the prompt. `any_word`: there is no prompt."""
    done: list[str] = []
    words = iter(given)
    for word in words:
        if not (word.startswith("--th") and "--thinking".startswith(word)):
            done.append(word)
            continue
        value = next(words, None)
        if value is None or _THINKING.fullmatch(value) or (any_word and value[:1] != "-"):
            done.append(f"--thinking={value or 'on'}")
        elif value.startswith("--th") and "--thinking".startswith(value):
            done += ["--thinking=on", "--thinking=on"]
        else:
            done += ["--thinking=on", value]
    return done


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
