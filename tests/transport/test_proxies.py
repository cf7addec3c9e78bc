"""Proxies: each kind, each way to configure one, each way in which one fails; and that behind all
of them every clock and every cancel holds."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
from socks_server import SocksServer
from support import (
    AT_ONCE,
    BLOCKS,
    ONCE,
    PATIENCE,
    PROMPT,
    TWO_TOKENS,
    RawServer,
    Reading,
    clocks,
    eventually,
    failure,
    phase_of,
    read_request,
)

from llmstream import Client, ConfigurationError, ConnectionFailed, PermissionDeniedError
from llmstream._settings.client import ClientSettings
from llmstream._transport.adapter import RequestsTransport
from llmstream._transport.proxy import find_proxy
from llmstream.testing import FakeClock, LLMServer, Reply, Silence, blackhole

KINDS = ("socks5", "socks5h", "socks4", "socks4a")
PASSWORD = "marked-password"


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[[LLMServer], str]:
    """The server's base_url under a name that is no loopback to us, and resolves to it."""
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        return real("127.0.0.1" if host == "llm.test" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return lambda server: server.base_url.replace("127.0.0.1", "llm.test")


def socks_url(kind: str, proxy: RawServer, login: str = "") -> str:
    return f"{kind}://{login}127.0.0.1:{proxy.port}"


# ---- SOCKS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_through_socks(
    any_server: LLMServer,
    client_for: Callable[..., Client],
    raw_server: Callable[..., RawServer],
    named: Callable[[LLMServer], str],
    kind: str,
) -> None:
    """Plain and TLS, on a new connection and on a reused one. With socks5h and socks4a the proxy
    looks up the name; with the others it is given an address."""
    socks = SocksServer(any_server.url)
    proxy = raw_server(socks)
    client = client_for(
        any_server, base_url=named(any_server), proxies={"all": socks_url(kind, proxy)}
    )
    for _ in range(2):
        assert client.stream(PROMPT).result().text == "Hello, world!"
    assert proxy.accepted == 1
    host = "llm.test" if kind in ("socks5h", "socks4a") else "127.0.0.1"
    assert socks.asked == [(host, int(any_server.url.rpartition(":")[2]))]
    client.close()
    any_server.wait_all_closed()


def test_socks_with_a_password(
    server: LLMServer, client_for: Callable[..., Client], raw_server: Callable[..., RawServer]
) -> None:
    """Percent-encoded characters included. A wrong one is asked for once, and not repeated."""
    socks = SocksServer(server.url, user="me", password="p@ss/word")
    proxy = raw_server(socks)
    right, wrong = (
        client_for(server, proxies={"all": socks_url("socks5", proxy, f"me:{p}@")}, retry=AT_ONCE)
        for p in ("p%40ss%2Fword", PASSWORD)
    )
    assert right.stream(PROMPT).result().text == "Hello, world!"
    error = failure(wrong.stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert not error.retryable
    assert "authentication failed" in str(error)
    assert f"socks5://127.0.0.1:{proxy.port}" in str(error)
    assert PASSWORD not in str(error)
    assert len(socks.logins) == 2


@pytest.mark.parametrize(
    ("kind", "code", "attempts"),
    [
        ("socks5", 0x01, 4),  # a general failure
        ("socks5h", 0x02, 1),  # the proxy's rules do not allow it
        ("socks5", 0x05, 4),  # the service refuses the proxy
        ("socks5", 0x08, 1),  # a kind of address that it does not know
        ("socks4", 0x5B, 4),
        ("socks4a", 0x5D, 1),  # another user
    ],
)
def test_a_socks_proxy_that_refuses(
    server: LLMServer,
    client_for: Callable[..., Client],
    raw_server: Callable[..., RawServer],
    kind: str,
    code: int,
    attempts: int,
) -> None:
    """The error has its number, and its rules are not asked about again."""
    socks = SocksServer(code=code)
    proxy = raw_server(socks)
    client = client_for(server, proxies={"http": socks_url(kind, proxy)}, retry=AT_ONCE)
    error = failure(client.stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert f"{code:#04x}" in str(error)
    assert "proxies=" in str(error)
    assert len(error.attempts) == len(socks.asked) == attempts
    assert server.connections == 0


def test_what_is_no_socks_proxy(
    server: LLMServer, client_for: Callable[..., Client], raw_server: Callable[..., RawServer]
) -> None:
    """One that closes the connection, one that speaks HTTP."""
    for answer in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"):

        def handler(sock: socket.socket, answer: bytes = answer) -> None:
            sock.recv(3)
            sock.sendall(answer)

        proxy = raw_server(handler)
        client = client_for(server, proxies={"all": socks_url("socks5h", proxy)}, retry=ONCE)
        error = failure(client.stream(PROMPT))
        assert type(error) is ConnectionFailed
        assert f":{proxy.port}" in str(error)


def test_socks4_knows_no_ipv6(
    client_for: Callable[..., Client], raw_server: Callable[..., RawServer]
) -> None:
    """The error says which proxy does."""
    proxy = raw_server(SocksServer())
    client = client_for(
        None, base_url="http://[::1]:9/v1", proxies={"all": socks_url("socks4", proxy)}
    )
    assert "socks5h" in str(failure(client.stream(PROMPT, retry=ONCE)))
    assert proxy.accepted == 0


STALLS = [
    *[("socks5", stage) for stage in ("greeting", "auth", "reply", "tls", "request")],
    *[("socks4a", stage) for stage in ("reply", "tls")],
    ("socks5", "connect"),
    ("socks5h", "reply"),
    ("http", "connect"),
    ("http", "reply"),
    ("http", "tls"),
    ("https", "tls of the proxy"),
]


def stalled(
    stage: str, raw_server: Callable[..., RawServer], kind: str
) -> tuple[str, Callable[[], Any]]:
    """The address of a proxy that stalls, and whether somebody waits for it."""
    if kind == "https":
        proxy = raw_server(lambda sock: drain(sock))
        return f"https://127.0.0.1:{proxy.port}", lambda: proxy.accepted
    if kind == "http":
        heads: list[bytes] = []

        def handler(sock: socket.socket) -> None:
            heads.append(read_request(sock))
            if stage == "tls":
                sock.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            drain(sock)

        return f"http://127.0.0.1:{raw_server(handler).port}", lambda: heads
    login = "me:secret@" if stage == "auth" else ""
    socks = SocksServer(
        stall={"tls": "tunnel", "request": "tunnel"}.get(stage, stage),
        user="me" if stage == "auth" else "",
        password="secret",
    )
    return socks_url(kind, raw_server(socks), login), socks.reached.is_set


def drain(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["connect", "total", "cancel", "close"])
@pytest.mark.parametrize(("kind", "stage"), STALLS)
def test_a_proxy_that_stalls(
    client_for: Callable[..., Client],
    raw_server: Callable[..., RawServer],
    kind: str,
    stage: str,
    ending: str,
) -> None:
    """In each phase: the connect clock, the total clock, a cancel and a close end the call."""
    if stage == "request" and ending == "connect":
        ending = "first_token"  # the connection stands
    scheme = "http" if stage == "request" else "https"
    with blackhole() as (host, port):
        if stage == "connect":
            url, waits = f"{kind}://{host}:{port}", lambda: True
        else:
            url, waits = stalled(stage, raw_server, kind)
        clock = {} if ending in ("cancel", "close") else {ending: 0.4}
        time_of_test = FakeClock()  # it passes once the proxy is waited for
        client = client_for(
            None,
            base_url=f"{scheme}://127.0.0.1:9/v1",
            proxies={"all": url},
            timeouts=clocks(60.0, **clock),
            retry=ONCE,
            clock=time_of_test,
        )
        stream = client.stream(PROMPT)
        reading = Reading(stream)
        eventually(waits, "the proxy is waited for")
        if ending == "cancel":
            stream.cancel("enough")
        if ending == "close":
            client.close()
        if stage == "request":
            eventually(lambda: phase_of(stream) == "headers", "the request is sent")
        for _ in range(100 if clock else 0):  # the clock may begin just now; the others have 60 s
            time_of_test.advance(0.4)
            reading.join(0.1)
            if not reading.is_alive():
                break
        expected = {
            "connect": "ConnectTimeout",
            "first_token": "FirstTokenTimeout",
            "total": "DeadlineExceeded",
        }
        assert type(reading.ended()).__name__ == expected.get(ending, "Cancelled")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["socks5h", "socks4a"])
def test_clocks_and_cancels_behind_socks(
    any_server: LLMServer,
    client_for: Callable[..., Client],
    raw_server: Callable[..., RawServer],
    named: Callable[[LLMServer], str],
    kind: str,
) -> None:
    """In the middle of an answer, on a new connection and on one that has served a call."""
    proxy = raw_server(SocksServer(any_server.url))
    client = client_for(
        any_server,
        base_url=named(any_server),
        proxies={"all": socks_url(kind, proxy)},
        timeouts=clocks(8.0),
        retry=ONCE,
    )
    for _ in range(2):
        any_server.script(Reply([*TWO_TOKENS, Silence()]))
        dying = client.stream(PROMPT, timeouts=clocks(8.0, idle=0.3))
        assert type(failure(dying)).__name__ == "IdleTimeout"
        any_server.script(Reply([*TWO_TOKENS, Silence()]))
        stream = client.stream(PROMPT, timeouts=clocks(60.0))
        reading = Reading(stream)
        eventually(lambda s=stream: s.text == "one two", "the stream is in the middle")
        stream.cancel()
        assert type(reading.ended()).__name__ == "Cancelled"
        any_server.script(Reply(BLOCKS))
        assert client.stream(PROMPT).result().text == "one two three four"
    client.close()
    any_server.wait_all_closed()


def test_a_name_that_is_looked_up_here_can_be_cancelled(
    client_for: Callable[..., Client],
    raw_server: Callable[..., RawServer],
    stuck_dns: Any,
) -> None:
    """socks5 and socks4 look the service's name up here; that hangs as it does without a proxy."""
    proxy = raw_server(SocksServer())
    for kind in ("socks5", "socks4"):
        client = client_for(
            None,
            base_url="https://llm.invalid/v1",
            proxies={"all": socks_url(kind, proxy)},
            timeouts=clocks(60.0, connect=0.3),
            retry=ONCE,
        )
        assert type(failure(client.stream(PROMPT))).__name__ == "ConnectTimeout"
    assert proxy.accepted == 0


def test_without_pysocks(
    client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the proxy, where it comes from, and what to install."""
    monkeypatch.setitem(sys.modules, "socks", None)
    monkeypatch.setenv("ALL_PROXY", f"socks5h://me:{PASSWORD}@10.0.0.1:1080")
    client = client_for(None, base_url="https://llm.invalid/v1", retry=AT_ONCE)
    error = failure(client.stream(PROMPT))
    assert type(error) is ConfigurationError
    for words in ("ALL_PROXY", "socks5h://10.0.0.1:1080", "llmstream-sync[socks]"):
        assert words in str(error)
    assert PASSWORD not in str(error)
    assert "base_url" not in str(error)


# ---- where a proxy is configured -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("kind", ["http", "socks5h"])
def test_the_variables(
    server: LLMServer,
    client_for: Callable[..., Client],
    raw_server: Callable[..., RawServer],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: str,
) -> None:
    """Each of them, in upper and lower case, with HTTP and with SOCKS; the error names it."""
    socks = SocksServer(server.url)
    url = server.url if kind == "http" else socks_url(kind, raw_server(socks))
    monkeypatch.setenv(name, f" {url}\n")  # white space around it is no part of it
    client = client_for(None, base_url="http://llm.invalid/v1", retry=ONCE)
    assert client.stream(PROMPT).result().text == "Hello, world!"
    monkeypatch.setenv(name, f"{kind}://127.0.0.1:1")
    error = failure(client.stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert f"the proxy {kind}://127.0.0.1:1 (from {name})" in str(error)
    assert "llm.invalid:80" in str(error)


def test_the_argument_wins(
    server: LLMServer, client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over every variable, and for servers on this machine too; the more exact key first."""
    for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "*")
    for proxies in (
        {"all": server.url},
        {"http": server.url, "all": "http://127.0.0.1:1"},
        {"http://llm.invalid": server.url, "http": "http://127.0.0.1:1"},
        {"http": server.url.removeprefix("http://")},
    ):
        client = client_for(None, base_url="http://llm.invalid/v1", proxies=proxies, retry=ONCE)
        assert client.stream(PROMPT).result().text == "Hello, world!"
    client = client_for(None, base_url="http://127.0.0.1:1/v1", proxies={"all": server.url})
    client.stream(PROMPT).result()
    assert server.requests[-1].path == "http://127.0.0.1:1/v1/responses"


LOOPBACKS = [
    *("localhost", "LOCALHOST", "localhost.", "LocalHost.", "app.localhost", "a.b.LOCALHOST."),
    *("localhost.localdomain", "ip6-localhost", "ip6-loopback", "localhost6", "localhost4"),
    *("127.0.0.1", "127.0.0.1.", "127.255.255.254", "127.1", "127.0.1", "2130706433"),
    *("0x7f000001", "0X7F.1", "0177.0.0.1", "017700000001", "0x7f.0.0.0x1", "0", "0.0.0.0"),
    *("[::1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::ffff:127.0.0.1]", "[::FFFF:7f00:1]"),
    *(
        "[::]",
        "[::1%25lo]",
        "[::ffff:0.0.0.0]",
        "\uff11\uff12\uff17.0.0.1",
        "127\u30020\u30020\u30021",
    ),
]
NOT_LOOPBACKS = [
    *("localhost.example", "localhost.com", "mylocalhost", "notlocalhost", "llm.test"),
    *("128.0.0.1", "126.255.255.255", "10.0.0.1", "0.0.0.1", "[::2]", "[fe80::1]"),
    *("127.0.0.1.example.com", "127.example", "[::ffff:10.0.0.1]", "4294967295", "127.0.0.1.1"),
]


def test_every_name_of_the_loopback_is_reached_without_the_environments_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In every spelling that a resolver understands; a proxy would be given the prompt. What only
    looks like one of them goes through the proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy.corp:3128")
    for scheme in ("http", "https"):
        for host in LOOPBACKS:
            for port in ("", ":8000"):
                assert find_proxy(f"{scheme}://{host}{port}/v1/x", None, True) is None, host
                assert find_proxy(f"{scheme}://u:p@{host}{port}/v1/x", None, True) is None, host
        for host in NOT_LOOPBACKS:
            assert find_proxy(f"{scheme}://{host}/v1/x", None, True) is not None, host


@pytest.mark.parametrize("proxies", [{"http": None}, {"all": ""}, {"all": "http://127.0.0.1:1"}])
def test_no_proxy_by_argument(
    server: LLMServer,
    client_for: Callable[..., Client],
    named: Callable[[LLMServer], str],
    monkeypatch: pytest.MonkeyPatch,
    proxies: dict[str, str | None],
) -> None:
    """None, or a host that "no_proxy" names, is a direct connection whatever the variables say."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    if proxies.get("all"):
        proxies = {**proxies, "no_proxy": "llm.test"}
    client = client_for(server, base_url=named(server), proxies=proxies, retry=ONCE)
    assert client.stream(PROMPT).result().text == "Hello, world!"


def test_the_environment_is_not_trusted(
    any_server: LLMServer,
    client_for: Callable[..., Client],
    named: Callable[[LLMServer], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """trust_env=False: neither its proxies nor its CA file."""
    for name in ("http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    client = client_for(any_server, base_url=named(any_server), trust_env=False, retry=ONCE)
    assert client.stream(PROMPT).result().text == "Hello, world!"
    if any_server.ca_file:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", any_server.ca_file)
        monkeypatch.setenv("CURL_CA_BUNDLE", any_server.ca_file)
        client = client_for(any_server, verify=True, trust_env=False, retry=ONCE)
        assert "certificate" in str(failure(client.stream(PROMPT)))


WRONG = [
    "ftp://proxy.corp:21",
    "socks://proxy.corp:1080",  # which version?
    "socks6://proxy.corp:1080",
    f"http://me:{PASSWORD}@proxy.corp:port",
    f"http://me:{PASSWORD}@proxy.corp:99999",
    f"http://me:{PASSWORD}@proxy.corp:0",
    f"http://me:{PASSWORD}@",
    f"http://me:{PASSWORD}",  # the host was forgotten
    f"http://me:{PASSWORD}/#?@proxy.corp:3128",
    f"http://me:12/{PASSWORD}@proxy.corp:3128",
    "http://",
    "http://:3128",
    "http://pro xy:3128",
    "http://[::1:3128",
]


@pytest.mark.parametrize("address", WRONG)
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "all_proxy", "proxies="])
def test_an_address_that_cannot_be_one(
    client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, name: str, address: str
) -> None:
    """The error names where it comes from, never base_url, and no password."""
    if name == "proxies=":
        with pytest.raises(ConfigurationError) as raised:
            Client("responses", base_url="https://llm.invalid/v1", proxies={"https": address})
        error: Any = raised.value
    else:
        monkeypatch.setenv(name, address)
        error = failure(client_for(None, base_url="https://llm.invalid/v1").stream(PROMPT))
    assert type(error) is ConfigurationError
    assert name in str(error)
    assert "base_url" not in str(error)
    assert PASSWORD not in str(error)
    assert "me:" not in str(error)


@pytest.mark.parametrize("proxies", ["http://proxy:3128", {"http": 1}, {1: "x"}, [("http", "x")]])
def test_proxies_of_another_type(proxies: Any) -> None:
    """A dict of texts is asked for."""
    with pytest.raises(ConfigurationError, match="proxies="):
        Client("responses", base_url="https://llm.invalid/v1", proxies=proxies)


def test_the_arguments_travel_without_the_password() -> None:
    """In the settings and their pickle; `with_key()` takes the password along. No text has it."""
    url = f"http://me:{PASSWORD}@proxy.corp:3128"
    given = {"https": url, "http": None, "all": "socks5h://proxy.corp"}
    client = Client("responses", base_url="https://llm.invalid/v1", proxies=given, trust_env=False)
    assert client.settings.proxies == given
    assert PASSWORD not in repr(client.settings) + repr(client)
    assert PASSWORD.encode() not in pickle.dumps(client) + pickle.dumps(client.settings)
    settings: ClientSettings = pickle.loads(pickle.dumps(client.settings))
    assert settings.proxies == {**given, "https": "http://proxy.corp:3128"}
    assert settings.trust_env is False
    assert Client.from_settings(settings).settings.proxies == settings.proxies
    kept = pickle.loads(pickle.dumps(client.settings.with_key()))
    assert kept.proxies == given


def test_trust_env_is_a_bool() -> None:
    """As other settings it is checked."""
    with pytest.raises(ConfigurationError, match="trust_env"):
        Client("responses", base_url="https://llm.invalid/v1", trust_env="no")  # type: ignore[arg-type]


# ---- proxies that refuse -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "ALL_PROXY", "proxies="])
@pytest.mark.parametrize(
    ("status", "asked"), [(407, 1), (403, 1), (400, 1), (502, 4), (503, 4), (504, 4), (429, 4)]
)
def test_a_refused_tunnel(
    client_for: Callable[..., Client],
    raw_server: Callable[..., RawServer],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    status: int,
    asked: int,
) -> None:
    """The proxy and its status are named; what another attempt cannot change is asked once."""
    heads: list[bytes] = []

    def handler(sock: socket.socket) -> None:
        heads.append(read_request(sock))
        sock.sendall(f"HTTP/1.1 {status} {PASSWORD}\r\nContent-Length: 0\r\n\r\n".encode())

    proxy = raw_server(handler)
    url = f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}"
    more: dict[str, Any] = {"proxies": {"https": url}} if name == "proxies=" else {}
    if not more:
        monkeypatch.setenv(name, url)
    client = client_for(None, base_url="https://llm.invalid/v1", retry=AT_ONCE, **more)
    error = failure(client.stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert f"HTTP {status}" in str(error)
    assert f"http://127.0.0.1:{proxy.port} (from {name}" in str(error)
    assert "llm.invalid:443" in str(error)
    assert PASSWORD not in str(error)
    assert error.retryable == (asked > 1)
    assert len(error.attempts) == len(heads) == asked


@pytest.mark.parametrize(
    ("status", "headers", "asked"),
    [
        (407, "Proxy-Authenticate: Basic realm=corp", 1),
        (407, "X: y", 1),
        (403, "X-Squid-Error: ERR_ACCESS_DENIED 0", 1),
        (403, "Server: squid/6.10", 1),
        (502, "Proxy-Status: corp; error=dns_error", 4),
        (503, "Server: tinyproxy/1.11", 4),
    ],
)
def test_a_plain_http_proxy_that_refuses(
    client_for: Callable[..., Client],
    raw_server: Callable[..., RawServer],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    headers: str,
    asked: int,
) -> None:
    """Where its answer shows that it is the proxy's, it is the same error as for a tunnel."""
    heads: list[bytes] = []

    def handler(sock: socket.socket) -> None:
        heads.append(read_request(sock))
        head = f"HTTP/1.1 {status} No\r\n{headers}\r\nContent-Length: 0\r\n\r\n"
        sock.sendall(head.encode())

    proxy = raw_server(handler)
    monkeypatch.setenv("HTTP_PROXY", f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}")
    client = client_for(None, base_url="http://llm.invalid/v1", retry=AT_ONCE)
    error = failure(client.stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert f"HTTP {status}" in str(error)
    assert f"http://127.0.0.1:{proxy.port} (from HTTP_PROXY)" in str(error)
    assert len(error.attempts) == len(heads) == asked
    assert error.retryable == (asked > 1)


def test_an_answer_that_may_be_the_proxys(
    server: LLMServer, client_for: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays the service's, and the message names the proxy that it came through."""
    monkeypatch.setenv("HTTP_PROXY", server.url)
    server.default = Reply(b"<h1>Blocked</h1>", status=403, content_type="text/html")
    client = client_for(None, base_url="http://llm.invalid/v1", retry=ONCE)
    error = failure(client.stream(PROMPT))
    assert type(error) is PermissionDeniedError
    assert server.url in str(error)
    assert "HTTP_PROXY" in str(error)


def test_the_name_of_a_proxy_that_is_not_there(
    client_for: Callable[..., Client], no_dns: None
) -> None:
    """It is the proxy's name that could not be resolved, and the error says whose it is."""
    for kind in ("http", "socks5h"):
        client = client_for(
            None,
            base_url="https://llm.invalid/v1",
            proxies={"all": f"{kind}://proxy.invalid:3128"},
            retry=ONCE,
        )
        error = failure(client.stream(PROMPT))
        assert type(error) is ConnectionFailed
        assert f"{kind}://proxy.invalid:3128" in str(error)
        assert "resolved" in str(error)


def test_the_certificate_of_an_https_proxy_is_checked(
    server: LLMServer, client_for: Callable[..., Client], tls_server: LLMServer
) -> None:
    """Also where the service itself has no TLS: its password would go to anybody else."""
    client = client_for(
        None, base_url="http://llm.invalid/v1", proxies={"all": tls_server.url}, retry=ONCE
    )
    error = failure(client.stream(PROMPT))
    assert "certificate" in str(error)
    assert tls_server.requests == []


# ---- nothing of a proxy's credentials is anywhere ------------------------------------------------


@pytest.mark.slow
def test_no_log_and_no_frame_has_the_password(
    client_for: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With every logger at DEBUG, and with the variables of all frames of the error."""
    caplog.set_level(logging.DEBUG)
    for address in (f"http://me:{PASSWORD}@127.0.0.1:1", f"ftp://me:{PASSWORD}@127.0.0.1:1"):
        monkeypatch.setenv("HTTPS_PROXY", address)
        error = failure(client_for(None, base_url="https://llm.invalid/v1").stream(PROMPT))
        shown = repr(error.__cause__)
        frame = error.__traceback__
        while frame is not None:
            if "llmstream" + os.sep in frame.tb_frame.f_code.co_filename:
                shown += repr(frame.tb_frame.f_locals)
            frame = frame.tb_next
        assert PASSWORD not in shown
    assert PASSWORD not in caplog.text


def test_a_transport_of_its_own_takes_the_arguments(server: LLMServer) -> None:
    """`RequestsTransport` is made with them, as the client makes it."""
    transport = RequestsTransport(proxies={"all": server.url}, trust_env=False)
    client = Client("responses", base_url="http://llm.invalid/v1", transport=transport)
    assert client.stream(PROMPT).result().text == "Hello, world!"
    client.close()
    assert PATIENCE
