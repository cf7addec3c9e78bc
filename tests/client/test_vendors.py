"""A service by its name: its address, its key, and nobody else's."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from every import every
from support import ONCE

from llmstream import Client, ConfigurationError
from llmstream._core.dialects import APIS
from llmstream._core.dialects.profiles import PROFILES, profile_for
from llmstream._core.dialects.vendors import VENDORS
from llmstream.testing import Answer, FakeClock, FakeTransport, Recorded

MARKED = "sk-marked-1f7c"
# Profiles of what belongs to no vendor.
NOBODY = {"default", "aws-gateway"}
HOSTED = sorted(name for name, row in VENDORS.items() if row.addresses and not row.key_optional)
LOCAL = sorted(name for name, row in VENDORS.items() if row.key_optional)
# Those whose variables are not an API's own.
NAMED = [
    name
    for name in HOSTED
    if not {APIS[api].key_variable for api in VENDORS[name].apis} & {*VENDORS[name].key_variables}
]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of whoever runs the tests counts, and no keyring of theirs is asked."""
    ours = {name for row in VENDORS.values() for name in (*row.key_variables, row.url_variable)}
    for name in list(os.environ):
        if name in ours or name.startswith(
            ("OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_", "LLMSTREAM_")
        ):
            monkeypatch.delenv(name)
    for module in ("client", "environment"):
        monkeypatch.setattr(f"llmstream._settings.{module}.keyring_settings", lambda api: None)
    monkeypatch.setattr("llmstream._settings.vendors.keyring_key", lambda name: None)


def requested(make: Callable[..., Client], *given: Any, **settings: Any) -> Recorded:
    """The request that a call of such a client makes."""
    transport = FakeTransport(Answer("Hi"))
    known = {"transport": transport, "clock": FakeClock(), "retry": ONCE, "model": "m"}
    client = make(*given, **{**known, **settings})
    client.stream("Hi").result()
    (request,) = transport.requests
    return request


def keys_of(request: Recorded) -> str:
    """All that a request has of keys."""
    names = ("authorization", "api-key", "x-api-key", "x-goog-api-key")
    return " ".join(request.headers[name] for name in names if name in request.headers)


# ---- the rows ----------------------------------------------------------------------------------


def test_every_profile_of_a_vendor_has_its_row() -> None:
    """And every row its profile, under its own name."""
    assert set(VENDORS) == set(PROFILES) - NOBODY
    assert all(row.name == name for name, row in VENDORS.items())


@every("name", sorted(VENDORS))
def test_a_row_is_consistent(name: str) -> None:
    """Its addresses are on its own hosts, over TLS unless they are on this machine; it has a key,
    or needs none; its APIs are known."""
    row = VENDORS[name]
    assert set(row.apis) <= set(APIS)
    assert set(row.addresses) in (set(row.apis), set())
    assert row.key_optional or row.key_variables or not row.addresses
    for address in row.addresses.values():
        parts = urlsplit(address)
        assert not address.endswith("/")
        if row.key_optional:
            assert (parts.scheme, parts.hostname) == ("http", "localhost")
        else:
            assert parts.scheme == "https"
            assert profile_for(None, address).name == name


def test_no_key_has_two_vendors() -> None:
    """A variable belongs to one vendor; only the two addresses of Zhipu share one."""
    owners: dict[str, set[str]] = {}
    for row in VENDORS.values():
        for variable in row.key_variables:
            owners.setdefault(variable, set()).add(row.name)
    shared = {variable: names for variable, names in owners.items() if len(names) > 1}
    assert shared == {"ZAI_API_KEY": {"zai", "zhipu"}}


# ---- by name -----------------------------------------------------------------------------------


@every("variable", range(2))
@every("name", NAMED)
def test_a_vendor_by_name(name: str, variable: int) -> None:
    """Address and key are the vendor's own, on each API that it serves, by each of its variables;
    another vendor's key that is set too is not sent."""
    row = VENDORS[name]
    if variable >= len(row.key_variables):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(row.key_variables[variable], MARKED)
        for other in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "LLMSTREAM_API_KEY"):
            patch.setenv(other, "sk-of-another")
        for api in row.apis:
            client = Client(api, profile=name)
            assert client._endpoint.base_url == row.addresses[api]
            assert client.profile == name
            request = requested(Client, api, profile=name)
            assert MARKED in keys_of(request)
            assert "sk-of-another" not in keys_of(request)
        request = requested(Client.from_env, profile=name)
        assert request.path.startswith(urlsplit(row.addresses[row.apis[0]]).path)
        assert keys_of(request).split()[-1] == MARKED


@every("name", NAMED)
def test_a_key_that_is_passed_goes_to_the_vendor(name: str) -> None:
    """And the variable does not count."""
    row = VENDORS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(row.key_variables[0], "sk-of-the-environment")
        request = requested(Client, row.apis[0], profile=name, api_key=MARKED)
    assert keys_of(request).split()[-1] == MARKED


@every("name", NAMED)
def test_without_a_key_it_is_said_what_to_set(name: str) -> None:
    """The variables, the keyring and the argument; another vendor's key is no way out."""
    row = VENDORS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", MARKED)
        with pytest.raises(ConfigurationError) as raised:
            Client(row.apis[0], profile=name)
    said = str(raised.value)
    for words in (*row.key_variables, f"llmstream keys set {name}", "api_key="):
        assert words in said


@every("name", NAMED)
def test_a_key_from_the_keyring(name: str) -> None:
    """Under the vendor's name."""
    from llmstream._settings.secret import Secret

    def found(asked: str) -> Secret | None:
        return Secret(MARKED) if asked == name else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmstream._settings.vendors.keyring_key", found)
        request = requested(Client, VENDORS[name].apis[0], profile=name)
    assert keys_of(request).split()[-1] == MARKED


@every("name", LOCAL)
def test_a_local_server_needs_no_key(name: str) -> None:
    """It is at its usual port, and is sent no key of a vendor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", MARKED)
        for api in APIS:
            if api not in VENDORS[name].apis:
                continue
            request = requested(Client, api, profile=name)
            assert keys_of(request) == ""
        for variable in VENDORS[name].key_variables:
            patch.setenv(variable, "sk-local")
            assert keys_of(requested(Client.from_env, profile=name)) == "Bearer sk-local"


@every("name", LOCAL)
def test_a_local_server_at_another_address(name: str) -> None:
    """OPENAI_BASE_URL names it, unless that is a vendor's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", "http://gpu-box:9999/v1")
        assert Client("chat", profile=name)._endpoint.base_url == "http://gpu-box:9999/v1"
        patch.setenv("OPENAI_BASE_URL", "https://api.openai.com/v1")
        assert Client("chat", profile=name)._endpoint.base_url.startswith("http://localhost:")


@pytest.mark.parametrize(
    "endpoint",
    ["https://r.openai.azure.com/", "https://r.openai.azure.us", "https://r.openai.azure.cn/"],
)
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_azure_has_an_address_for_each_customer(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, api: str
) -> None:
    """In the public cloud and in those of governments; key and path are Azure's."""
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", MARKED)
    with pytest.raises(ConfigurationError, match="AZURE_OPENAI_ENDPOINT"):
        Client(api, profile="azure")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", endpoint)
    request = requested(Client, api, profile="azure")
    assert request.headers["api-key"] == MARKED
    assert request.path.startswith("/openai/v1/")
    assert Client(api, profile="azure")._endpoint.base_url == endpoint.rstrip("/")
    other = requested(
        Client, api, profile="azure", base_url="https://else.openai.azure.com/openai/v1"
    )
    assert keys_of(other) == ""  # the key is meant for the resource that the variable names
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "r.openai.azure.com")
    with pytest.raises(ConfigurationError, match=r"^AZURE_OPENAI_ENDPOINT: "):
        Client(api, profile="azure")


# ---- a key stays home --------------------------------------------------------------------------


@pytest.mark.slow
@every("name", sorted(name for name, row in VENDORS.items() if row.key_variables))
def test_a_key_never_goes_to_another_address(name: str) -> None:
    """Not to another vendor, not to a host that looks like the vendor's, not without TLS; to the
    vendor's own hosts it does, where the profile is named."""
    row = VENDORS[name]
    host = next(iter(PROFILES[name].hosts), "localhost").replace("*", "x")
    with pytest.MonkeyPatch.context() as patch:
        for variable in row.key_variables:
            patch.setenv(variable, MARKED)
        for address in (
            "https://gateway.example/v1",
            "http://127.0.0.1:9/v1",
            f"https://{host}.example.org/v1",
            f"https://not{host}/v1",
            f"https://example.org/{host}/v1",
            f"https://{host}@example.org/v1",
            f"http://{host}:81/v1",
            "https://api.openai.com/v1" if name != "openai" else "https://api.anthropic.com",
        ):
            for make in (Client, Client.from_env):
                request = requested(make, api=row.apis[0], profile=name, base_url=address)
                assert MARKED not in f"{request.headers}", address
        if PROFILES[name].hosts:
            address = row.addresses.get(row.apis[0], f"https://r.{host}/v1")
            if name == "bedrock":
                address = "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1"
            request = requested(Client, row.apis[0], profile=name, base_url=address)
            assert keys_of(request).split()[-1] == MARKED
            request = requested(Client, row.apis[0], base_url=address)
            assert keys_of(request) == ""  # a profile that nobody has named sends nothing


@every("name", NAMED)
def test_the_vendors_variables_are_not_those_of_others(name: str) -> None:
    """Without the profile's name its variable counts for nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in VENDORS[name].key_variables:
            patch.setenv(variable, MARKED)
        with pytest.raises(ConfigurationError):
            Client("messages")


def test_the_address_of_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLMSTREAM_BASE_URL is the service, and a profile only says how it differs: no vendor's key
    goes there, but its own does."""
    monkeypatch.setenv("LLMSTREAM_BASE_URL", "http://gateway.example/v1")
    monkeypatch.setenv("GROQ_API_KEY", MARKED)
    assert keys_of(requested(Client.from_env, profile="groq")) == ""
    monkeypatch.setenv("LLMSTREAM_API_KEY", "sk-own")
    request = requested(Client.from_env, profile="groq", api="chat")
    assert keys_of(request) == "Bearer sk-own"
    monkeypatch.delenv("LLMSTREAM_API_KEY")
    monkeypatch.setenv("LLMSTREAM_BASE_URL", "https://api.groq.com/openai/v1")
    assert keys_of(requested(Client.from_env, profile="groq")) == f"Bearer {MARKED}"


def test_the_key_of_the_environment_is_the_last_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLMSTREAM_API_KEY counts for from_env where the vendor's own variable is not set."""
    monkeypatch.setenv("LLMSTREAM_API_KEY", "sk-own")
    assert keys_of(requested(Client.from_env, profile="groq")) == "Bearer sk-own"
    with pytest.raises(ConfigurationError, match="GROQ_API_KEY"):
        Client("chat", profile="groq")
    monkeypatch.setenv("GROQ_API_KEY", MARKED)
    assert keys_of(requested(Client.from_env, profile="groq")) == f"Bearer {MARKED}"


# ---- what is refused ---------------------------------------------------------------------------


def test_an_api_that_the_vendor_does_not_serve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With those that it serves."""
    monkeypatch.setenv("MISTRAL_API_KEY", MARKED)
    for api in ("responses", "messages"):
        with pytest.raises(ConfigurationError, match=r"'chat'.*base_url="):
            Client(api, profile="mistral")
    assert Client.from_env(profile="mistral").settings.api == "chat"
    monkeypatch.setenv("LLMSTREAM_API", "messages")
    with pytest.raises(ConfigurationError, match="'chat'"):
        Client.from_env(profile="mistral")
    with pytest.raises(ConfigurationError, match=r"pass base_url="):
        Client("chat", profile="bedrock")
    with pytest.raises(ConfigurationError, match=r"use one of"):
        Client.from_env(profile="nobody")


def test_a_key_with_a_line_end_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not show it."""
    monkeypatch.setenv("GROQ_API_KEY", f"{MARKED}\n")
    with pytest.raises(ConfigurationError, match=r"^GROQ_API_KEY has white space") as raised:
        Client("chat", profile="groq")
    assert MARKED not in str(raised.value)


def test_a_token_of_the_cloud_needs_its_address() -> None:
    """It goes to no address that another vendor's variable or API has."""
    for api in VENDORS["vertex"].apis:
        with pytest.raises(ConfigurationError, match="pass base_url="):
            Client(api, profile="vertex", api_key=MARKED)


def test_a_vendor_with_an_api_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under its name it has that API, and Chat Completions at another address; the first of its
    variables that is set counts for both."""
    with pytest.raises(ConfigurationError, match="GOOGLE_API_KEY or GEMINI_API_KEY"):
        Client.from_env(profile="gemini")
    for variable in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.setenv(variable, f"{MARKED}-{variable}")
        request = requested(Client, "chat", profile="gemini")
        assert keys_of(request) == f"Bearer {MARKED}-{variable}"
        assert request.path.startswith("/v1beta/openai/")
        client = Client.from_env(profile="gemini")
        assert client.settings.api == VENDORS["gemini"].apis[0]
        assert client._endpoint.base_url == next(iter(VENDORS["gemini"].addresses.values()))
        secret = client._endpoint.secret()
        assert secret is not None
        assert secret.reveal() == f"{MARKED}-{variable}"


def test_the_apis_own_vendor_is_as_without_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """OPENAI_BASE_URL and ANTHROPIC_AUTH_TOKEN count under the vendor's name, too."""
    monkeypatch.setenv("OPENAI_API_KEY", MARKED)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://eu.api.openai.com/v1")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token")
    client = Client("chat", profile="openai")
    assert client._endpoint.base_url == "https://eu.api.openai.com/v1"
    assert Client.from_env(profile="anthropic").settings.api == "messages"
    request = requested(Client.from_env, profile="anthropic")
    assert request.headers["authorization"] == "Bearer token"
    assert "x-api-key" not in request.headers
    request = requested(
        Client, "messages", profile="anthropic", base_url="https://api.anthropic.com"
    )
    assert request.headers["authorization"] == "Bearer token"


# ---- elsewhere ---------------------------------------------------------------------------------


def test_settings_find_the_key_where_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """They pickle without it; another process reads its own variable."""
    monkeypatch.setenv("GROQ_API_KEY", MARKED)
    client = Client("chat", profile="groq")
    pickled = pickle.dumps(client.settings)
    assert MARKED.encode() not in pickled
    assert MARKED not in f"{client!r} {client.settings!r}"
    monkeypatch.setenv("GROQ_API_KEY", "sk-of-the-other")
    other = Client.from_settings(pickle.loads(pickled))
    assert other._endpoint.secret() is not None
    assert other._endpoint.secret().reveal() == "sk-of-the-other"  # type: ignore[union-attr]
    assert other._endpoint.base_url == client._endpoint.base_url
