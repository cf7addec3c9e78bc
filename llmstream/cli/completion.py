"""`llmstream completion SHELL`: a script for the shell that completes commands, options and files.

The script is made from the parsers of the commands, so it has every option. It starts no Python at
a press of TAB.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct

from .._core.dialects.profiles import PROFILES
from .._core.dialects.vendors import VENDORS
from .command import Command, Parser
from .output import write

__all__ = ["completion_command"]

# What an option or an argument is whose value is a path.
_PATHS = re.compile(r"(FILE|OUT)(\.\w+)?")
# Words for what takes others too: of an option, and of a command after its first word.
_LISTED = {"--profile": tuple(PROFILES)}
_SECOND = {"keys": (("set", "remove"), tuple(VENDORS))}
# The command that is meant where the first word is none.
_DEFAULT = "ask"


class _Option(Struct, frozen=True):
    """An option. `values`: the words that it takes, None without a value; `path`: it is a file."""

    names: tuple[str, ...]
    help: str
    values: tuple[str, ...] | None
    path: bool


class _Known(Struct, frozen=True):
    """What can be written after a command: options, words of its own, or a file. `second`: words of
    its own, and what may follow each of them."""

    summary: str
    options: list[_Option]
    words: tuple[str, ...]
    path: bool
    second: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


def completion_command(commands: Callable[[], Mapping[str, Command]]) -> Command:
    """The command. `commands` returns the table of all commands, with this one."""

    def run(options: argparse.Namespace) -> int:
        known = {name: _known(name, command) for name, command in commands().items()}
        write(_SHELLS[options.shell](known))
        return 0

    return Command("print a script that completes commands and options", _add_arguments, run)


def _add_arguments(parser: Parser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Print a script with which the shell completes commands, options and files at a TAB.\n\n"
        "  bash: llmstream completion bash > ~/.local/share/bash-completion/completions/llmstream\n"
        "  zsh:  llmstream completion zsh > DIR/_llmstream, of a DIR in $fpath\n"
        "  fish: llmstream completion fish > ~/.config/fish/completions/llmstream.fish"
    )
    parser.add_argument("shell", choices=list(_SHELLS), help="the shell that the script is for")


def _known(name: str, command: Command) -> _Known:
    parser = Parser(prog="llmstream")
    command.add_arguments(parser)
    options: list[_Option] = []
    words: tuple[str, ...] = ()
    path = False
    for action in parser._actions:
        choices = tuple(map(str, action.choices or ()))
        is_path = bool(_PATHS.fullmatch(str(action.metavar)))
        if not action.option_strings:
            words, path = words or choices, path or is_path
            continue
        text = " ".join((action.help or "").split())
        values = None if action.nargs == 0 else choices or _LISTED.get(action.option_strings[0], ())
        options.append(_Option(tuple(action.option_strings), text, values, is_path))
    return _Known(command.summary, options, words, path, _SECOND.get(name, ((), ())))


# ---- bash --------------------------------------------------------------------------------------

_BASH = """\
# Completes `llmstream` in bash. Made by `llmstream completion bash`.
_llmstream() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} name={default}
    local words= files= line start=
    COMPREPLY=()
    # In "--api=re" the "=" is a word of its own, unless COMP_WORDBREAKS is without it.
    if [ "$word" = "=" ]; then
        word=
    elif [ "$before" = "=" ]; then
        before=${{COMP_WORDS[COMP_CWORD-2]}}
    elif [[ $word == --*=* ]]; then
        before=${{word%%=*}}
        start=$before= word=${{word#*=}}
    fi
    if [ "$COMP_CWORD" -gt 1 ]; then
        case ${{COMP_WORDS[1]}} in
            {either}) name=${{COMP_WORDS[1]}} ;;
        esac
    fi
    case "$name $before" in
{values}
        *)
            case $word in
                -*)
                    case $name in
{options}
                    esac ;;
                *)
                    [ "$COMP_CWORD" -eq 1 ] && words='{names}'
                    case $name in
{arguments}
                    esac ;;
            esac ;;
    esac
    if [ -n "$files" ]; then
        compopt -o filenames 2>/dev/null
        while IFS= read -r line; do
            COMPREPLY+=("$line")
        done < <(compgen -P "$start" -f -- "$word")
    else
        while IFS= read -r line; do
            COMPREPLY+=("$line")
        done < <(compgen -P "$start" -W "$words" -- "$word")
    fi
}}
complete -F _llmstream llmstream
"""


def _bash(known: dict[str, _Known]) -> str:
    values: list[str] = []
    options: list[str] = []
    arguments: list[str] = []
    for name, one in known.items():
        for option in one.options:
            if option.values is not None:
                pattern = "|".join(f"'{name} {text}'" for text in option.names)
                what = "files=1" if option.path else f"words='{' '.join(option.values)}'"
                values.append(f"        {pattern}) {what} ;;")
        firsts, seconds = one.second
        if firsts:
            pattern = "|".join(f"'{name} {first}'" for first in firsts)
            values.append(f"        {pattern}) words='{' '.join(seconds)}' ;;")
        names = " ".join(text for option in one.options for text in option.names)
        options.append(f"                        {name}) words='{names}' ;;")
        # A second command is no argument of the first; the words of "keys" are.
        if one.path or one.words:
            what = "files=1" if one.path else f"words='{' '.join(one.words)}'"
            arguments.append(f"                        {name}) {what} ;;")
    return _BASH.format(
        default=_DEFAULT,
        either="|".join(known),
        values="\n".join(values),
        options="\n".join(options),
        names=" ".join(known),
        arguments="\n".join(arguments),
    )


# ---- zsh ---------------------------------------------------------------------------------------

_ZSH = """\
#compdef llmstream
# Completes `llmstream` in zsh. Made by `llmstream completion zsh`.
_llmstream() {{
    local name={default}
    local -a names
    names=(
{names}
    )
    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then
        _describe command names
        return
    fi
    case $words[2] in
        {either})
            name=$words[2]
            shift words
            (( CURRENT -= 1 )) ;;
    esac
    case $name in
{commands}
    esac
}}
if [ "$funcstack[1]" = _llmstream ]; then
    _llmstream "$@"
else
    compdef _llmstream llmstream
fi
"""


def _zsh(known: dict[str, _Known]) -> str:
    return _ZSH.format(
        default=_DEFAULT,
        names="\n".join(
            f"        {_quoted(f'{name}:{one.summary}')}" for name, one in known.items()
        ),
        either="|".join(known),
        commands="\n".join(
            f"        {name}) _arguments \\\n"
            + " \\\n".join(f"            {text}" for text in _zsh_arguments(one))
            + " ;;"
            for name, one in known.items()
        ),
    )


def _zsh_arguments(one: _Known) -> Iterator[str]:
    for option in one.options:
        value = "" if option.values is None else f":value:{_zsh_values(option.values, option.path)}"
        text = re.sub(r"([\[\]:\\])", r"\\\1", option.help)
        for name in option.names:
            mark = "=" if value and name.startswith("--") else ""  # also as one word, --api=chat
            yield _quoted(f"*{name}{mark}[{text}]{value}")
    if one.path or one.words:
        yield _quoted(f"1:argument:{_zsh_values(one.words, one.path)}")
    if one.second[1]:
        yield _quoted(f"2:argument:{_zsh_values(one.second[1], path=False)}")
    yield _quoted("*:word: ")


def _zsh_values(values: Iterable[str], path: bool) -> str:
    return "_files" if path else f"({' '.join(values)})" if values else " "


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# ---- fish --------------------------------------------------------------------------------------

_FISH = """\
# Completes `llmstream` in fish. Made by `llmstream completion fish`.
function __llmstream_command
    set -l words (commandline -opc)
    set -l name {default}
    if set -q words[2]; and contains -- $words[2] {names}
        set name $words[2]
    end
    test $name = $argv[1]
end
function __llmstream_first
    test (count (commandline -opc)) -eq 1
end
complete -c llmstream -e
complete -c llmstream -f
{lines}
"""


def _fish(known: dict[str, _Known]) -> str:
    lines: list[str] = []
    for name, one in known.items():
        lines.append(
            f"complete -c llmstream -n __llmstream_first -a {name} -d {_fish_text(one.summary)}"
        )
    for name, one in known.items():
        start = f"complete -c llmstream -n '__llmstream_command {name}'"
        for option in one.options:
            names = " ".join(
                f"-l {text[2:]}" if text.startswith("--") else f"-s {text[1:]}"
                for text in option.names
            )
            value = ""
            if option.values is not None:
                listed = f" -a {_fish_text(' '.join(option.values))}" if option.values else ""
                value = " -r -F" if option.path else f" -x{listed}"
            lines.append(f"{start} {names}{value} -d {_fish_text(option.help)}")
        if one.path:
            lines.append(f"{start} -F")
        elif one.words:
            lines.append(f"{start} -a {_fish_text(' '.join(one.words))}")
        firsts, seconds = one.second
        if firsts:
            after = f"__llmstream_command {name}; and __fish_prev_arg_in {' '.join(firsts)}"
            lines.append(f"complete -c llmstream -n '{after}' -a {_fish_text(' '.join(seconds))}")
    return _FISH.format(default=_DEFAULT, names=" ".join(known), lines="\n".join(lines))


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SHELLS: dict[str, Callable[[dict[str, _Known]], str]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
