"""Keys on the keyring: the environment first, never a hang, never shown."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import sys
import threading
from collections.abc import Iterator

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.null import Keyring as NullKeyring
from keyring.errors import KeyringLocked, NoKeyringError, PasswordDeleteError

from llmstream import Client, ConfigurationError, LLMStreamError, cli
from llmstream._settings import environment
from llmstream._settings import keyring as keys
from llmstream._settings.secret import Secret
from llmstream.testing import LLMServer, Reply

MARKED = "sk-marked-5f2a"


class MemoryKeyring(KeyringBackend):
    """A keyring in memory; `failure` is raised by every access, `gate` holds it up."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}
        self.failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def _access(self) -> None:
        self.gate.wait(30)
        if self.failure is not None:
            raise self.failure

    def get_password(self, service: str, username: str) -> str | None:
        self._access()
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._access()
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._access()
        if self.entries.pop((service, username), None) is None:
            raise PasswordDeleteError("no such entry")


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryKeyring]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("ANTHROPIC_AUTH_TOKEN", "GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("LLMSTREAM_API", "LLMSTREAM_BASE_URL", "LLMSTREAM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "_found", {})
    before, backend = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(backend)
    yield backend
    backend.gate.set()
    keyring.set_keyring(before)


def test_set_list_remove(
    ring: MemoryKeyring, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command stores a key from standard input, lists names only, and forgets it."""
    monkeypatch.setattr("sys.stdin", io.StringIO(MARKED + "\n"))
    assert cli.main(["keys", "set", "openai"]) == 0
    assert MARKED in ring.entries.values()
    assert cli.main(["keys", "list"]) == 0
    assert capsys.readouterr().out == "openai\n"
    assert cli.main(["keys", "remove", "openai"]) == 0
    assert cli.main(["keys", "list"]) == 0
    assert capsys.readouterr().out == ""
    assert MARKED not in ring.entries.values()


def test_what_a_keyring_imports_is_imported_in_the_callers_thread(
    ring: MemoryKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not in the daemon thread that asks it: the end of a program would abort in the import of
    `cryptography`, which the backend for Linux needs."""
    importers: list[threading.Thread] = []

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            if name == "keyring.backends.SecretService":
                importers.append(threading.current_thread())

    monkeypatch.delitem(sys.modules, "keyring.backends.SecretService", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    assert keys.names() == []
    assert importers == [threading.current_thread()]


class Forgetful(MemoryKeyring):
    """Takes everything; keeps nothing, or something else, or what is removed."""

    def __init__(self, kept: str | None) -> None:
        super().__init__()
        self.kept = kept

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.kept is not None:
            super().set_password(service, username, self.kept)

    def delete_password(self, service: str, username: str) -> None:
        pass


@pytest.mark.parametrize("kept", [None, "", "sk-mark"])
def test_a_keyring_that_does_not_keep_the_key_is_reported(
    ring: MemoryKeyring,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kept: str | None,
) -> None:
    """Nothing, or only a part of it: the command fails, names the backend, and shows no key."""
    keyring.set_keyring(Forgetful(kept))
    monkeypatch.setattr("sys.stdin", io.StringIO(MARKED + "\n"))
    assert cli.main(["keys", "set", "openai"]) == 2
    out, err = capsys.readouterr()
    assert "did not keep it" in err
    assert "Forgetful" in err
    assert "sk-mark" not in out + err


def test_the_null_keyring_is_reported(ring: MemoryKeyring) -> None:
    """The one of containers and CI."""
    keyring.set_keyring(NullKeyring())
    with pytest.raises(ConfigurationError, match=r"keyring\.backends\.null\.Keyring"):
        keys.store("openai", MARKED)


def test_a_keyring_that_keeps_what_is_removed_is_reported(ring: MemoryKeyring) -> None:
    """A key that is still there is not removed."""
    backend = Forgetful(MARKED)
    keyring.set_keyring(backend)
    keys.store("openai", MARKED)
    with pytest.raises(ConfigurationError, match="still has the key"):
        keys.remove("openai")


def test_removing_what_is_not_there_is_told(
    ring: MemoryKeyring, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name without a key is exit code 2 and a sentence."""
    assert cli.main(["keys", "remove", "nobody"]) == 2
    assert "no key named 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["", "  ", "two words", "tab\tinside"])
def test_what_is_no_key_is_refused(ring: MemoryKeyring, key: str) -> None:
    """An empty key, or one with white space inside, is not stored."""
    with pytest.raises(ConfigurationError, match="empty or has white space"):
        keys.store("openai", key)
    assert ring.entries == {}


@pytest.mark.parametrize(
    ("name", "api"), [("openai", "responses"), ("anthropic", "messages"), ("gemini", "gemini")]
)
def test_the_keyring_is_asked_when_the_environment_has_nothing(
    ring: MemoryKeyring, name: str, api: str
) -> None:
    """from_env takes the key stored under the vendor's name, and its API."""
    keys.store(name, MARKED)
    found = environment.from_environment({})
    assert found.api == api
    assert found.api_key == Secret(MARKED)
    assert Client.from_env()._endpoint._key == Secret(MARKED)


def test_the_environment_comes_first(ring: MemoryKeyring) -> None:
    """A key in the environment wins, and the keyring is not even asked."""
    keys.store("openai", MARKED)
    ring.failure = AssertionError("asked")  # type: ignore[assignment]
    found = environment.from_environment({"OPENAI_API_KEY": "from-the-environment"})
    assert found.api_key == Secret("from-the-environment")


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (KeyringLocked("locked"), "unlock it"),
        (NoKeyringError("none"), "no keyring that can be used"),
        (ImportError("keyring"), r"llmstream-sync\[keys\]"),
    ],
)
def test_a_keyring_that_does_not_serve_is_told(
    ring: MemoryKeyring, failure: Exception, says: str
) -> None:
    """Locked, absent and not installed are each a sentence that says what to do."""
    ring.failure = failure
    with pytest.raises(ConfigurationError, match=says):
        keys.names()


def test_no_keyring_is_no_key(ring: MemoryKeyring) -> None:
    """A machine without a keyring gives the usual error with the ways out."""
    ring.failure = NoKeyringError("none")
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        environment.from_environment({})


def test_a_slow_keyring_does_not_hang(ring: MemoryKeyring, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keyring that waits for its user is given up after the bound, which is 5 s."""
    assert keys._TIMEOUT == 5.0
    monkeypatch.setattr(keys, "_TIMEOUT", 0.1)
    ring.gate.clear()
    with pytest.raises(ConfigurationError, match="did not answer within"):
        keys.get("openai")


def test_a_secret_does_not_show_itself() -> None:
    """repr, str, format and containers show stars; pickling and copying into a pickle fail."""
    secret = Secret(MARKED)
    shown = f"{secret} {secret!r} {secret:>9} {[secret]} "
    shown += f"{environment.ServiceSettings('responses', None, secret)}"
    assert MARKED not in shown
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(secret, protocol)
    with pytest.raises(TypeError, match="not pickled"):
        copy.deepcopy(secret)


def test_the_key_is_in_no_output_of_a_failing_call(
    llm_server: LLMServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that quotes the key gets it into no message, repr, log line or pickle."""
    caplog.set_level(logging.DEBUG)
    llm_server.script(Reply.error(401, message=f"Incorrect API key provided: {MARKED}"))
    client = Client(base_url=llm_server.base_url, api_key=MARKED)
    stream = client.stream("Hi")
    with pytest.raises(LLMStreamError) as caught:
        stream.result()
    error = caught.value
    assert llm_server.requests[0].headers["authorization"] == f"Bearer {MARKED}"
    shown = [str(error), repr(error), repr(client), repr(stream), repr(error.attempts), caplog.text]
    assert not [text for text in shown if MARKED in text]
    assert MARKED.encode() not in pickle.dumps(error)
