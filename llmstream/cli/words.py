"""What an error of the library says, in the words of the command: its options in the place of the
library's arguments."""

from __future__ import annotations

import re

from .._settings.environment import WAYS_OUT
from ..errors import ConfigurationError, LLMStreamError

__all__ = ["OPTIONS", "in_options"]

# Argument of the library -> option of the commands, where it is not `--` and the same word.
OPTIONS: dict[str, str] = {
    "api": "--api",
    "base_url": "--base-url",
    "context": "--context",
    "extra_body": "--extra",
    "headers": "--header",
    "instructions": "--instructions",
    "max_attempts": "--max-attempts",
    "max_cost": "--max-cost",
    "max_output_tokens": "--max-tokens",
    "max_workers": "--workers",
    "model": "--model",
    "model_file": "--model-file",
    "on_disconnect": "--on-disconnect",
    "profile": "--profile",
    "rate_limit": "--rate-limit",
    "temperature": "--temperature",
    "think_tags": "--think-tags",
    "thinking": "--thinking",
    "top_p": "--top-p",
    "total": "--total",
}
# What the library advises -> what a user of the command can do. Also in an error that quotes a
# service: so these are whole phrases of the library's own.
_ADVICE: dict[str, str] = {
    WAYS_OUT: WAYS_OUT.replace(
        "pass api_key= or base_url=; Client.local() and `llmstream --local` need none of it",
        "give --key-name NAME or --base-url URL; --local needs none of it",
    ),
    "pass api_key=, or set LLMSTREAM_API_KEY for Client.from_env(), stream() and the command": (
        "set LLMSTREAM_API_KEY, or give --key-name NAME"
    ),
    "profile='azure' sends 'api-key', 'aws-gateway' 'x-api-key', and 'vllm' 'authorization'": (
        "--profile azure sends 'api-key', --profile aws-gateway 'x-api-key', and --profile vllm "
        "'authorization'"
    ),
    "Client.local(context=N), LocalServer(context=N), `llmstream --local --context N` or": (
        "--local --context N or"
    ),
    "or pass api_key= to Client": "or give --key-name NAME",
    "by REQUESTS_CA_BUNDLE or verify=": "by REQUESTS_CA_BUNDLE",
    "pass one by cert=": "the command has no option for one, Client(cert=...) has",
    ".partial has what arrived": "what had arrived is printed",
    "what arrived is in .partial": "what had arrived is printed",
    "(Timeouts.total)": "(--total)",
    ", or None for no limit": ", or leave it out",
}
_WORD = "|".join(sorted(OPTIONS, key=len, reverse=True))
_VALUE = r"""'[^']*'|"[^"]*"|\[[^]]*\]|[^\s,:;()]*"""
_IN_A_FILE = re.compile(r"line \d+: ")  # of a batch, whose fields are arguments of the library
_IN_A_CALL = re.compile(rf"\b(?:Timeouts|RetryPolicy)\((\w+)=({_VALUE})\)")
_FIRST = re.compile(rf"^([a-z_]+)=({_VALUE})(?=: )")  # what an error is about
_ARGUMENT = re.compile(rf"(?<![\w.'/-])({_WORD})=({_VALUE})(?!\w)")
_SUBJECT = re.compile(rf"^({_WORD})(?=:| is | has )|(?<=\bin )(extra_body)\b")
# Values of Python -> as the command line has them.
_PYTHON = {"True": "on", "False": "off", "a dict": "a JSON object"}


def in_options(error: Exception) -> str:
    """The error's message, with what a user of the command can change. What a service or a user has
    written is left as it is."""
    text = str(error)
    if not isinstance(error, LLMStreamError):
        return text
    for words, others in _ADVICE.items():
        text = text.replace(words, others)
    text = re.sub(r"\bbase_url\b=?", "--base-url", text)
    if not isinstance(error, ConfigurationError) or _IN_A_FILE.match(text):
        return text
    text = _IN_A_CALL.sub(lambda found: _option(found[1], found[2]), text)
    text = _FIRST.sub(lambda found: _option(found[1], found[2]), text)
    text = _ARGUMENT.sub(lambda found: _option(found[1], found[2]), text)
    text = _SUBJECT.sub(lambda found: OPTIONS[found[1] or found[2]], text)
    if "--think" in text:
        for word, other in _PYTHON.items():
            text = re.sub(rf"\b{word}\b", other, text)
    return re.sub(r"\bapi_key\b(?!=)", "the key", text)


def _option(name: str, value: str) -> str:
    option = OPTIONS.get(name, f"--{name.replace('_', '-')}")
    if not value:
        return option
    plain = value[1:-1] if re.fullmatch(r"'[\w.,/+-]+'", value) else value
    return f"{option} {plain}"
