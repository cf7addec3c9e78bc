"""Errors of the library in the words of the command. Which mistakes there are on a command line is
in `test_cli_options.py`."""

from __future__ import annotations

import pytest
from every import every
from test_cli import run

from llmstream import ConfigurationError, InvalidRequestError, LLMStreamError, Timeouts
from llmstream._core.dialects import profiles
from llmstream._settings.environment import WAYS_OUT
from llmstream.cli import COMMANDS
from llmstream.cli.command import Parser
from llmstream.cli.words import OPTIONS, in_options
from llmstream.testing import LLMServer, Reply

# what the library says -> what the command says
SAID = {
    "thinking=True: pass True or a dict": "--thinking on: pass on or a JSON object",
    "model='a b': pass a string": "--model 'a b': pass a string",
    "model='gpt-5.4': pass a string": "--model gpt-5.4: pass a string",
    "Timeouts(first_token=-1): give": "--first-token -1: give",
    "RetryPolicy(max_attempts=0): the first": "--max-attempts 0: the first",
    "base_url is not a usable address": "--base-url is not a usable address",
    "extra_body['a'] is NaN": "extra_body['a'] is NaN",
    "pass api_key= or something": "pass api_key= or something",
    "/tmp/model=x/a: no such file": "/tmp/model=x/a: no such file",
    "line 3: temperature=900: pass less": "line 3: temperature=900: pass less",
}


@every("said", SAID)
def test_an_option_in_the_place_of_an_argument(said: str) -> None:
    """With its value as it is written on a command line; what is no argument stays."""
    assert in_options(ConfigurationError(said)) == SAID[said]


def test_what_a_service_says_is_left_as_it_is() -> None:
    """An error of another kind may quote it; so only what the library advises is said anew."""
    said = "HTTP 400: model=x: temperature=3 is too high, thinking=True"
    assert in_options(InvalidRequestError(said)) == said
    assert in_options(OSError("model=x: no")) == "model=x: no"
    late = LLMStreamError("no end within 3 s (Timeouts.total): .partial has what arrived")
    assert in_options(late) == "no end within 3 s (--total): what had arrived is printed"
    cut = LLMStreamError("the connection was lost: what arrived is in .partial; after 2 attempts")
    assert ".partial" not in in_options(cut)


def test_the_advice_is_that_of_the_library() -> None:
    """What the library does not say would not be said anew."""
    with pytest.raises(ConfigurationError) as caught:
        Timeouts(total=-1)
    assert in_options(caught.value).endswith(" (a century), or leave it out")
    for said in (profiles._LARGER_CONTEXT, WAYS_OUT):
        assert in_options(ConfigurationError(said)) != said
        assert "Client" not in in_options(ConfigurationError(said))


def test_every_option_that_is_named_exists() -> None:
    """In a command that can meet the error."""
    known = set()
    for command in COMMANDS.values():
        parser = Parser(prog="llmstream")
        command.add_arguments(parser)
        known |= {name for action in parser._actions for name in action.option_strings}
    assert set(OPTIONS.values()) <= known


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, "sk-123456"])
def test_a_key_that_is_refused(llm_server: LLMServer, key: str | None) -> None:
    """What to do about it is an option, or a variable of the environment."""
    llm_server.script(Reply.error(401, message="who are you?"))
    variables = {"LLMSTREAM_API_KEY": key} if key else {}
    done = run("--base-url", llm_server.base_url, "--no-stdin", "hi", env=variables)
    assert done.returncode == 4
    advice = "--profile azure sends 'api-key'" if key else "or give --key-name NAME"
    assert advice in done.stderr
    for word in ("base_url", "api_key", "profile=", "Client"):
        assert word not in done.stderr
