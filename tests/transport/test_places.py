"""Errors of the connection say which place they are about, and one attempt makes one connect."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3.connection
from authority import Authority
from support import AT_ONCE, BLOCKS, ONCE, PROMPT, TWO_TOKENS, RawServer, failure, read_request

from llmstream import Client, ConfigurationError, ConnectionFailed, StreamInterrupted
from llmstream.testing import Cut, LLMServer, Reply, Reset

SECRET = "marked-secret"


def refused_port() -> int:
    """One that the system gives to nobody, as it may one that was closed."""
    return 1


def with_secrets(port: int) -> str:
    return f"http://me:{SECRET}@127.0.0.1:{port}/v1?key={SECRET}"


# ---- host and port -------------------------------------------------------------------------------


def test_a_refused_connection_names_host_and_port(client_for: Callable[..., Client]) -> None:
    """And neither the user, nor the password, nor the query of base_url."""
    port = refused_port()
    error = failure(client_for(None, base_url=with_secrets(port), retry=ONCE).stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert f"127.0.0.1:{port}" in str(error)
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(before=[Cut()]), ConnectionFailed),
        (Reply(before=[Reset()]), ConnectionFailed),
        (Reply([*TWO_TOKENS, Cut()]), StreamInterrupted),
        (Reply([*TWO_TOKENS, Reset()]), StreamInterrupted),
    ],
)
def test_a_lost_connection_names_host_and_port(
    server: LLMServer, client_for: Callable[..., Client], reply: Reply, kind: type[Exception]
) -> None:
    """In every phase."""
    server.default = reply
    port = int(server.url.rpartition(":")[2])
    error = failure(client_for(None, base_url=with_secrets(port), retry=ONCE).stream(PROMPT))
    assert type(error) is kind
    assert f"127.0.0.1:{port}" in str(error)
    assert SECRET not in str(error)


def test_the_default_port_and_ipv6(client_for: Callable[..., Client], no_dns: None) -> None:
    """The port is named also where base_url has none; an IPv6 address has its brackets."""
    for base_url, place in (
        ("https://llm.invalid/v1", "llm.invalid:443"),
        ("http://llm.invalid/v1", "llm.invalid:80"),
        (f"http://[::1]:{refused_port()}/v1", "[::1]:"),
    ):
        error = failure(client_for(None, base_url=base_url, retry=ONCE).stream(PROMPT))
        assert type(error) is ConnectionFailed
        assert place in str(error)


def test_a_redirect_and_a_page_that_is_not_there(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Over HTTP: where it leads, what was asked, without anything secret."""
    port = int(server.url.rpartition(":")[2])
    client = client_for(None, base_url=with_secrets(port), retry=ONCE)
    location = {"location": f"https://you:{SECRET}@new.test/v1/responses?token={SECRET}"}
    for status in (301, 302, 303, 307, 308):
        server.script(Reply(status=status, headers=location, framing="length"))
        error = failure(client.stream(PROMPT))
        assert "https://new.test/v1/responses" in str(error)
        assert "base_url" in str(error)
        assert SECRET not in str(error)
    for status in (404, 405):
        server.script(Reply(b'{"detail":"Not Found"}', status=status))
        error = failure(client.stream(PROMPT))
        assert f"http://127.0.0.1:{port}/v1/responses" in str(error)
        assert SECRET not in str(error)


# ---- one attempt is one connect ------------------------------------------------------------------


def test_one_attempt_is_one_connect(
    client_for: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Over all addresses of the host, each once; urllib3 repeats nothing and logs no warning."""
    tried: list[Any] = []
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        tried.append(address)
        real(self, address)

    port = refused_port()
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
        for host in ("127.0.0.1", "127.0.0.2")
    ]
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr("llmstream._transport.connect.resolve", lambda *args: found)
    caplog.set_level(logging.DEBUG)
    client = client_for(None, base_url=f"http://llm.invalid:{port}/v1", retry=AT_ONCE)
    error = failure(client.stream(PROMPT))
    assert len(error.attempts) == 4
    assert tried == [address for *_, address in found] * 4
    assert [r for r in caplog.records if r.levelno >= 30 and not r.name.startswith("llm")] == []


def test_a_refused_tunnel_is_one_connect_an_attempt(
    client_for: Callable[..., Client], raw_server: Callable[..., RawServer]
) -> None:
    """The same with a proxy that closes the connection."""
    proxy = raw_server(lambda sock: None)
    client = client_for(
        None, base_url="https://llm.invalid/v1", proxies={"all": proxy.url}, retry=AT_ONCE
    )
    assert len(failure(client.stream(PROMPT)).attempts) == 4
    assert proxy.accepted == 4


def test_headers_that_cannot_be_parsed_are_not_logged(
    client_for: Callable[..., Client],
    raw_server: Callable[..., RawServer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """urllib3 would log a warning with the URL and the header lines."""

    def handler(sock: socket.socket) -> None:
        read_request(sock)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        sock.sendall(head + b"no colon here\r\nconnection: close\r\n\r\n" + b"".join(BLOCKS))

    client = client_for(None, base_url=f"{raw_server(handler).base_url}?key={SECRET}")
    assert client.stream(PROMPT).result().text == "one two three four"
    assert [r for r in caplog.records if r.name.startswith("urllib3")] == []


# ---- certificates --------------------------------------------------------------------------------


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python 3.13 does by default."""
    made = urllib3.connection.create_urllib3_context

    def context(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        found = made(*args, **kwargs)
        found.verify_flags |= ssl.VERIFY_X509_STRICT
        return found

    monkeypatch.setattr(urllib3.connection, "create_urllib3_context", context)


def refusal(
    authority: Authority,
    raw_server: Callable[..., RawServer],
    client_for: Callable[..., Client],
    **settings: Any,
) -> str:
    server = raw_server(lambda sock: None, authority.context())
    base_url = server.base_url.replace("127.0.0.1", "localhost")
    error = failure(client_for(None, base_url=base_url, retry=AT_ONCE, **settings).stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert not error.retryable
    assert len(error.attempts) == 1
    assert f"localhost:{server.port}" in str(error)
    return str(error)


@pytest.mark.parametrize("critical", [True, False])
@pytest.mark.parametrize("source", ["verify=", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_certificate_that_breaks_a_strict_rule(
    strict: None,
    raw_server: Callable[..., RawServer],
    client_for: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    critical: bool,
    source: str,
) -> None:
    """It is trusted: another CA file does not help. The message says what does, and which file
    was used."""
    authority = Authority(tmp_path, proper=not critical, critical=critical)
    settings = {}
    if source == "verify=":
        settings["verify"] = str(authority.ca_file)
    else:
        monkeypatch.setenv(source, str(authority.ca_file))
    said = refusal(authority, raw_server, client_for, **settings)
    assert "VERIFY_X509_STRICT" in said
    assert f"{authority.ca_file} (from {source})" in said
    assert "REQUESTS_CA_BUNDLE or verify=" not in said


def test_other_certificates(
    raw_server: Callable[..., RawServer], client_for: Callable[..., Client], tmp_path: Path
) -> None:
    """Not trusted, expired, of another host: each has advice of its own, and the file in use."""
    for name in ("trust", "expired", "host"):
        (tmp_path / name).mkdir()
    trusted = {"verify": True}
    said = refusal(Authority(tmp_path / "trust"), raw_server, client_for, **trusted)
    assert "REQUESTS_CA_BUNDLE or verify=" in said
    assert "certifi" in said
    authority = Authority(tmp_path / "expired", days=-1)
    said = refusal(authority, raw_server, client_for, verify=str(authority.ca_file))
    assert "clock" in said
    authority = Authority(tmp_path / "host", names=True)
    said = refusal(authority, raw_server, client_for, verify=str(authority.ca_file))
    assert "base_url" in said


@pytest.mark.parametrize("source", ["verify=", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("content", [None, "this is no certificate"])
def test_a_ca_file_that_cannot_be_used(
    tls_server: LLMServer,
    client_for: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    source: str,
    content: str | None,
) -> None:
    """One that is not there, or has no certificate in it: it and what names it are named."""
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    client = client_for(tls_server, verify=str(path) if source == "verify=" else True)
    error = failure(client.stream(PROMPT))
    assert type(error) is ConfigurationError
    assert f"{path} (from {source})" in str(error)
