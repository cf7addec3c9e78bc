"""The services by name on the command line: `llmstream profiles`, `--profile`, and their keys."""

from __future__ import annotations

import io
import json
import os

import pytest

from llmstream import ConfigurationError, cli
from llmstream._core.dialects.profiles import PROFILES
from llmstream._core.dialects.vendors import VENDORS
from llmstream._settings import keyring
from llmstream._settings.secret import Secret
from llmstream.client import Client

MARKED = "sk-marked-77ab"


@pytest.fixture(autouse=True)
def stored(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The keyring: empty, and not that of whoever runs the tests."""
    ours = {name for row in VENDORS.values() for name in (*row.key_variables, row.url_variable)}
    for name in list(os.environ):
        if name in ours or name.startswith("LLMSTREAM_"):
            monkeypatch.delenv(name)
    kept: dict[str, str] = {}

    def get(name: str) -> Secret | None:
        return Secret(kept[name]) if name in kept else None

    monkeypatch.setattr(keyring, "names", lambda: sorted(kept))
    monkeypatch.setattr(keyring, "get", get)
    monkeypatch.setattr(keyring, "store", kept.__setitem__)
    monkeypatch.setattr("llmstream._settings.environment._found", {})
    return kept


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert cli.main(["profiles"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "KEY", "IS", "APIS", "ADDRESS"]
    return {line.split()[0]: line for line in lines}


def test_the_list_has_every_profile(
    stored: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With its address and variable, and whether a key is set, where it is; no key is shown."""
    monkeypatch.setenv("GROQ_API_KEY", MARKED)
    monkeypatch.setenv("GEMINI_API_KEY", MARKED)
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", f"https://me:{MARKED}@r.openai.azure.us/")
    stored.update(mistral=MARKED, ollama=MARKED)
    listed = rows(capsys)
    assert list(listed) == sorted(PROFILES)
    for name, row in VENDORS.items():
        for variable in row.key_variables:
            assert variable in listed[name]
        address = row.addresses.get(row.apis[0])
        assert address is None or address in listed[name]
    assert " set " in listed["groq"]
    assert " set " in listed["gemini"]
    assert "on the keyring" in listed["mistral"]
    assert "not set" in listed["deepseek"]
    assert "optional" in listed["vllm"]
    assert "keyring" not in listed["ollama"]  # no key is sent there
    assert "r.openai.azure.us" in listed["azure"]
    assert MARKED not in "".join(listed.values())


def test_the_list_as_json(
    stored: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same, one object a line."""
    monkeypatch.setenv("GROQ_API_KEY", MARKED)
    stored.update(mistral=MARKED)
    assert cli.main(["profiles", "--json"]) == 0
    out = capsys.readouterr().out
    assert MARKED not in out
    found = {row["name"]: row for row in map(json.loads, out.splitlines())}
    assert list(found) == sorted(PROFILES)
    assert found["groq"] == {
        "name": "groq",
        "key_variables": ["GROQ_API_KEY"],
        "key": "GROQ_API_KEY",
        "key_needed": True,
        "apis": ["chat", "responses"],
        "addresses": dict.fromkeys(("chat", "responses"), "https://api.groq.com/openai/v1"),
        "address_variable": None,
    }
    assert found["mistral"]["key"] == "keyring"
    assert found["deepseek"]["key"] is None
    assert found["ollama"]["key_needed"] is False


def test_a_keyring_that_does_not_answer_is_a_remark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list is of use without it."""

    def locked() -> list[str]:
        raise ConfigurationError("the keyring refused (KeyringLocked): unlock it")

    monkeypatch.setattr(keyring, "names", locked)
    assert cli.main(["profiles"]) == 0
    out, err = capsys.readouterr()
    assert "unlock it" in err
    assert len(out.splitlines()) == len(PROFILES) + 1


def test_a_key_is_stored_and_found_under_the_profiles_name(
    stored: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`llmstream keys set groq`, then `--profile groq` has it."""
    with pytest.raises(ConfigurationError, match="llmstream keys set groq"):
        Client.from_env(profile="groq")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{MARKED}\n"))
    assert cli.main(["keys", "set", "groq"]) == 0
    assert stored == {"groq": MARKED}
    client = Client.from_env(profile="groq")
    assert client.settings.api == "chat"
    assert client._endpoint.secret() == Secret(MARKED)
    assert "on the keyring" in rows(capsys)["groq"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--profile", "groq"], "set GROQ_API_KEY, or store one with `llmstream keys set groq`"),
        (["--profile", "azure"], "set AZURE_OPENAI_ENDPOINT, or pass --base-url"),
        (["--profile", "mistral", "--api", "messages"], "use one of ['chat']"),
        (["--profile", "groq", "--key-name", "mistral"], "not for --profile groq"),
        (["--profile", "groq", "--key-name", "none"], "the keyring has no such key"),
        (["--key-name", "groq"], "give --base-url or --profile groq"),
        (["--profile", "nobody"], "--profile nobody is not known"),
    ],
)
def test_what_is_missing_is_said_in_options(
    capsys: pytest.CaptureFixture[str], given: list[str], says: str
) -> None:
    """One line that says what to do; the library's own words for it are not in it."""
    assert cli.main(["ask", "--no-stdin", "--model", "m", *given, "hi"]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "api_key" not in err
    assert "base_url=" not in err


def test_a_key_of_another_name_goes_to_the_profile(
    stored: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second key of the same vendor, by --key-name."""
    made: list[Client] = []

    def stop(self: Client, *args: object, **options: object) -> None:
        made.append(self)
        raise ConfigurationError("stopped")

    stored["groq-at-work"] = MARKED
    monkeypatch.setenv("GROQ_API_KEY", "sk-private")
    monkeypatch.setattr(Client, "stream", stop)
    options = ["--profile", "groq", "--key-name", "groq-at-work", "--model", "m"]
    assert cli.main(["ask", "--no-stdin", *options, "hi"]) == 2
    assert "stopped" in capsys.readouterr().err
    (client,) = made
    assert client._endpoint.base_url == "https://api.groq.com/openai/v1"
    assert client._endpoint.secret() == Secret(MARKED)
