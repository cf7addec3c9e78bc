"""An address that cannot be one, from the environment: the error names its variable, on every way
to a client."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from every import every

import llmstream
from llmstream import Client, ConfigurationError

WRONG = [
    "api.example.test/v1",
    "ftp://api.example.test",
    " https://api.example.test/v1",
    "https://api.example.test/v1\n",
    "https://api.example test/v1",
    "https://api.example.test/v 1",
    "https://api.example.test:port/v1",
    "https://api.example.test:99999/v1",
    "https://api.example.test:0/v1",
    "https:///v1",
    "https://[::1/v1",
]
VARIABLES = {
    "LLMSTREAM_BASE_URL": {},
    "OPENAI_BASE_URL": {"OPENAI_API_KEY": "sk-0123456789"},
    "ANTHROPIC_BASE_URL": {"ANTHROPIC_API_KEY": "sk-0123456789"},
}
WAYS: dict[str, Callable[[str], Any]] = {
    "stream": lambda api: llmstream.stream("Hi"),
    "from_env": lambda api: Client.from_env(),
    "from_env with a key": lambda api: Client.from_env(api_key="sk-own-0123456789"),
    "from_env with an API": lambda api: Client.from_env(api=api),
    "Client": lambda api: Client(api),
    "Client with a key": lambda api: Client(api, api_key="sk-own-0123456789"),
}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_", "LLMSTREAM_")):
            monkeypatch.delenv(name)
    for module in ("client", "environment"):
        monkeypatch.setattr(f"llmstream._settings.{module}.keyring_settings", lambda api: None)


# `Client()` reads only the vendor's variables.
CASES = [
    (way, variable)
    for way in WAYS
    for variable in VARIABLES
    if variable != "LLMSTREAM_BASE_URL" or not way.startswith("Client")
]


@every("address", WRONG)
@every(("way", "variable"), CASES)
def test_the_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, way: str, variable: str, address: str
) -> None:
    """And not the argument, which nobody has passed."""
    api = "messages" if variable.startswith("ANTHROPIC") else "responses"
    with monkeypatch.context() as patch:
        for name, value in {**VARIABLES[variable], variable: address}.items():
            patch.setenv(name, value)
        with pytest.raises(ConfigurationError) as raised:
            WAYS[way](api)
    assert str(raised.value).startswith(f"{variable}: ")
    assert "base_url" not in str(raised.value)


@every("address", WRONG)
def test_the_argument_is_named(address: str) -> None:
    """Where it was passed."""
    with pytest.raises(ConfigurationError, match=r"^base_url: "):
        Client("responses", base_url=address)
    with pytest.raises(ConfigurationError, match=r"^base_url: "):
        Client.from_env(base_url=address)


def said_by_the_command(*arguments: str, **environment: str) -> str:
    """Its standard error, in a process that has to end with the exit code of a usage error."""
    ran = subprocess.run(
        [sys.executable, "-m", "llmstream", *arguments, "Hi"],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2
    return ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("variable", VARIABLES)
def test_the_command_names_the_variable(variable: str) -> None:
    """And `--base-url` is named as it is written."""
    environment = {**VARIABLES[variable], variable: "api.example.test/v1"}
    assert f"{variable}: " in said_by_the_command(**environment)
    said = said_by_the_command("--base-url", "api.example.test/v1", **environment)
    assert "--base-url: " in said
    assert variable not in said
