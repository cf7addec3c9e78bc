"""Certificates: files are read once for all connections of a client, what names a file that cannot
be used is named, and a context of the caller's is used as it is."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
import urllib3.connection
from authority import Authority
from cryptography.hazmat.primitives import serialization
from every import every
from socks_server import SocksServer
from support import (
    BLOCKS,
    ONCE,
    PATIENCE,
    PROMPT,
    RawServer,
    eventually,
    failure,
    in_threads,
    output_of,
    read_request,
)

from llmstream import Client, ConfigurationError, ConnectionFailed
from llmstream.testing import Answer, LLMServer, Recorded
from llmstream.testing.tls import server_context

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
TEXT = "one two three four"


def answering(sock: socket.socket) -> None:
    read_request(sock)
    sock.sendall(HEAD + b"".join(BLOCKS))


def tunnelling(target: str, sock: socket.socket, certificates: list[Any] | None = None) -> None:
    """A proxy that takes CONNECT, and passes on what comes until either side ends."""
    if certificates is not None:
        certificates.append(sock.getpeercert())  # type: ignore[attr-defined]
    read_request(sock)
    sock.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
    with socket.create_connection(("127.0.0.1", int(target.rpartition(":")[2]))) as onward:
        sock.settimeout(0.02)
        onward.settimeout(0.02)
        while True:
            for source, sink in ((sock, onward), (onward, sock)):
                try:
                    data = source.recv(65536)
                except TimeoutError:
                    continue
                if not data:
                    return
                sink.sendall(data)


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[ssl.SSLContext]:
    """The contexts that are made."""
    made: list[ssl.SSLContext] = []
    real = urllib3.connection.create_urllib3_context

    def create(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        made.append(real(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(urllib3.connection, "create_urllib3_context", create)
    monkeypatch.setattr("urllib3.util.ssl_.create_urllib3_context", create)
    return made


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of each reading of CA certificates."""
    seen: list[Any] = []
    real = ssl.SSLContext.load_verify_locations

    def load(self: ssl.SSLContext, *args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))
        real(self, *args, **kwargs)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", load)
    return seen


# ---- one context ---------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["verify=", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_file_is_read_once_for_all_connections(
    tls_server: LLMServer,
    client_for: Callable[..., Client],
    contexts: list[Any],
    loads: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    """Twenty threads at once, each with a connection of its own, then some one after another."""
    assert tls_server.ca_file is not None
    settings: dict[str, Any] = {"max_connections": 1}
    if source != "verify=":
        monkeypatch.setenv(source, tls_server.ca_file)
        settings["verify"] = True
    client = client_for(tls_server, **settings)
    together = threading.Barrier(20)

    def reply(_: Recorded) -> Answer:
        together.wait(PATIENCE)
        return Answer("Hello, world!")

    tls_server.script(*[reply] * 20)

    def call(_: int) -> None:
        assert client.stream(PROMPT).result().text == "Hello, world!"

    assert in_threads(20, call) == []
    for n in range(3):
        call(n)
    assert tls_server.connections >= 20
    assert len(contexts) == len(loads) == 1


def test_nothing_is_read_for_plain_http(
    server: LLMServer, client_for: Callable[..., Client], contexts: list[Any]
) -> None:
    """Not even a file that is not there."""
    client = client_for(server, verify="/nowhere/ca.pem", cert="/nowhere/cert.pem")
    assert client.stream(PROMPT).result().text == "Hello, world!"
    assert contexts == []


def test_without_checks_there_is_one_context_too(
    tls_server: LLMServer, client_for: Callable[..., Client], contexts: list[Any], loads: list[Any]
) -> None:
    """verify=False reads nothing."""
    client = client_for(tls_server, verify=False, max_connections=1)
    for _ in range(2):
        with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
            assert client.stream(PROMPT).result().text == "Hello, world!"
    assert len(contexts) == 1
    assert loads == []


def test_a_file_that_has_changed_is_read_again(
    raw_server: Callable[..., RawServer], client_for: Callable[..., Client], tmp_path: Path
) -> None:
    """An authority that was added counts for the next connection, and one that was taken away
    does not: the connections that it has vouched for are not used again either."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    one, other = (Authority(folder) for folder in folders)
    server = raw_server(answering, other.context())
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(one.ca_file.read_bytes())
    base_url = server.base_url.replace("127.0.0.1", "localhost")
    client = client_for(None, base_url=base_url, verify=str(bundle), retry=ONCE)
    assert "certificate" in str(failure(client.stream(PROMPT)))
    bundle.write_bytes(one.ca_file.read_bytes() + other.ca_file.read_bytes())
    assert client.stream(PROMPT).result().text == TEXT
    changed = tmp_path / "changed.pem"
    changed.write_bytes(one.ca_file.read_bytes())
    changed.replace(bundle)
    assert "certificate" in str(failure(client.stream(PROMPT)))


def test_what_an_old_file_has_vouched_for_is_closed(
    tls_server: LLMServer, client_for: Callable[..., Client], tmp_path: Path
) -> None:
    """The idle connections, not those that calls use: their answers go on to their end."""
    assert tls_server.ca_file is not None
    bundle = tmp_path / "bundle.pem"
    shutil.copy(tls_server.ca_file, bundle)
    client = client_for(tls_server, verify=str(bundle), retry=ONCE)
    streams = [client.stream(PROMPT) for _ in range(3)]
    for stream in streams:
        next(stream)
    streams.pop().result()
    assert tls_server.open_connections == 3
    bundle.write_bytes(bundle.read_bytes() + b"\n")
    assert client.stream(PROMPT).result().text == "Hello, world!"
    assert tls_server.connections == 4
    eventually(lambda: tls_server.open_connections == 3, "the idle one is closed")
    for stream in streams:
        assert stream.result().text == "Hello, world!"
    del stream, streams
    gc.collect()
    eventually(lambda: tls_server.open_connections == 1, "they are not kept")
    assert client.stream(PROMPT).result().text == "Hello, world!"
    assert tls_server.connections == 4


@pytest.mark.parametrize("kind", ["http", "https", "socks5h"])
def test_behind_proxies_there_is_one_context_too(
    tls_server: LLMServer,
    raw_server: Callable[..., RawServer],
    client_for: Callable[..., Client],
    contexts: list[Any],
    loads: list[Any],
    kind: str,
) -> None:
    """For CONNECT, for TLS inside the TLS of a proxy, and for SOCKS; one for the proxy and the
    service together."""
    target = tls_server.url
    settings: dict[str, Any] = {"max_connections": 1, "retry": ONCE}
    if kind == "socks5h":
        address = raw_server(SocksServer(target)).url.replace("http", "socks5h")
    else:
        context = server_context("127.0.0.1") if kind == "https" else None
        address = raw_server(lambda sock: tunnelling(target, sock), context).url
    client = client_for(tls_server, proxies={"all": address}, **settings)

    def call(_: int) -> None:
        assert client.stream(PROMPT).result().text == "Hello, world!"

    assert in_threads(3, call) == []
    client.close()
    assert len(contexts) == len(loads) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_makes_its_own() -> None:
    """OpenSSL's locks in the parent's context may be held for ever."""
    said = output_of(
        """
        import os
        from llmstream._transport.tls import Contexts, trust_of
        from llmstream.testing.tls import write_ca_file, remove_ca_file
        path = write_ca_file()
        contexts = Contexts()
        one = contexts.of(trust_of(path, True), None)
        assert contexts.of(trust_of(path, True), None) is one
        pid = os.fork()
        if not pid:
            os._exit(contexts.of(trust_of(path, True), None) is one)
        _, status = os.waitpid(pid, 0)
        remove_ca_file(path)
        print("other" if status == 0 else "the same")
        """
    )
    assert said.split() == ["other"]


# ---- where it is from ----------------------------------------------------------------------------


def hashed_folder(place: Path, *files: Path) -> Path:
    """A folder of CA certificates as `openssl rehash` makes it."""
    place.mkdir()
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl")
    for file in files:
        run = [openssl, "x509", "-noout", "-hash", "-in", str(file)]
        name = subprocess.run(run, capture_output=True, check=True, text=True).stdout.strip()
        shutil.copy(file, place / f"{name}.0")
    return place


@pytest.fixture
def https(
    raw_server: Callable[..., RawServer], client_for: Callable[..., Client], tmp_path: Path
) -> tuple[Authority, Callable[..., Client]]:
    """An authority of its own, and clients of a server with a certificate of it."""
    (tmp_path / "own").mkdir()
    authority = Authority(tmp_path / "own")
    server = raw_server(answering, authority.context())
    base_url = server.base_url.replace("127.0.0.1", "localhost")

    def client(**settings: Any) -> Client:
        return client_for(None, base_url=base_url, **{"retry": ONCE, **settings})

    return authority, client


def test_a_folder(https: Any, tmp_path: Path) -> None:
    """verify= and the variables take one; the path may be a Path."""
    authority, client = https
    folder = hashed_folder(tmp_path / "folder", authority.ca_file)
    assert client(verify=str(folder)).stream(PROMPT).result().text == TEXT
    assert client(verify=folder).stream(PROMPT).result().text == TEXT
    assert client(verify=authority.ca_file).stream(PROMPT).result().text == TEXT


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_DIR"])
def test_a_folder_of_the_environment(
    https: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """SSL_CERT_DIR may name several, of which some are not there."""
    authority, client = https
    folder = str(hashed_folder(tmp_path / "folder", authority.ca_file))
    if name == "SSL_CERT_DIR":
        folder = os.pathsep.join(["/nowhere", folder])
    monkeypatch.setenv(name, folder)
    assert client().stream(PROMPT).result().text == TEXT
    assert "certifi" in str(failure(client(trust_env=False).stream(PROMPT)))


def test_a_file_and_a_folder_of_openssl(
    https: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSL_CERT_FILE and SSL_CERT_DIR count together; requests' variables come before them, and
    verify= before all."""
    authority, client = https
    other = str(tmp_path / "other.pem")
    trustme.CA().cert_pem.write_to_path(other)
    monkeypatch.setenv("SSL_CERT_FILE", other)
    said = str(failure(client().stream(PROMPT)))
    assert f"{other} (from SSL_CERT_FILE)" in said
    folder = hashed_folder(tmp_path / "folder", authority.ca_file)
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    assert client().stream(PROMPT).result().text == TEXT
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")  # it is only a further place
    assert client().stream(PROMPT).result().text == TEXT
    monkeypatch.setenv("CURL_CA_BUNDLE", other)
    assert f"{other} (from CURL_CA_BUNDLE)" in str(failure(client().stream(PROMPT)))
    assert client(verify=str(authority.ca_file)).stream(PROMPT).result().text == TEXT


PLACES = ["verify=", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"]


@pytest.mark.parametrize(
    ("source", "what"),
    [
        *((source, "nothing") for source in PLACES if not source.startswith("SSL_")),
        *itertools.product(
            PLACES,
            ["empty file", "text", "damaged", "a key", "unreadable", "empty folder", "a pipe"],
        ),
    ],
)
def test_what_cannot_be_used_is_named(
    tls_server: LLMServer,
    client_for: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    source: str,
    what: str,
) -> None:
    """Before any connection is made."""
    path = tmp_path / "ca.pem"
    pem = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"
    texts = {"empty file": "", "text": "no certificate", "damaged": pem.format("AAAA")}
    texts["a key"] = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    if what in texts:
        path.write_text(texts[what])
    elif what == "empty folder":
        path.mkdir()
        (path / "ca.pem").write_text("not under its hash")
    elif what == "a pipe":  # nobody writes to it
        os.mkfifo(path)
    elif what == "unreadable":
        path.write_text("")
        real = ssl.SSLContext.load_verify_locations

        def denied(self: ssl.SSLContext, cafile: Any = None, capath: Any = None) -> None:
            if cafile == str(path):
                raise PermissionError(13, "Permission denied")
            real(self, cafile, capath)

        monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", denied)
    if source != "verify=":
        monkeypatch.setenv(source, str(path))
    client = client_for(tls_server, verify=str(path) if source == "verify=" else True)
    error = failure(client.stream(PROMPT))
    assert type(error) is ConfigurationError
    assert f"{path} (from {source})" in str(error)
    assert len(error.attempts) <= 1
    assert tls_server.connections == 0


def test_variables_of_openssl_that_name_nothing_which_is_there_do_not_count(
    https: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in OpenSSL: some systems set them whether or not there is such a file."""
    authority, client = https
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere/certs")
    assert "of the package certifi" in str(failure(client().stream(PROMPT)))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    assert client().stream(PROMPT).result().text == TEXT


@every("verify", [None, 0, 1, "", b"ca.pem", object(), ["ca.pem"], 1.0])
def test_verify_of_another_type(verify: Any) -> None:
    """None would mean "do not check" to requests."""
    with pytest.raises(ConfigurationError, match=r"verify=.*SSLContext"):
        Client("chat", base_url="http://llm.invalid", verify=verify)


# ---- a context of the caller's -------------------------------------------------------------------


def state_of(context: ssl.SSLContext) -> Any:
    stats = context.cert_store_stats()
    return context.verify_mode, context.check_hostname, context.options, stats


def test_a_context(https: Any, loads: list[Any], contexts: list[Any]) -> None:
    """It decides alone, also about the name of the host, and is not changed."""
    authority, client = https
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    context.set_alpn_protocols(["h2", "http/1.1"])
    before = state_of(context)
    del loads[:]
    for _ in range(2):
        assert client(verify=context).stream(PROMPT).result().text == TEXT
    assert state_of(context) == before
    assert loads == contexts == []
    error = failure(client(verify=ssl.create_default_context()).stream(PROMPT))
    assert "the SSLContext of verify=" in str(error)


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_a_context_that_checks_less(
    raw_server: Callable[..., RawServer], client_for: Callable[..., Client], tmp_path: Path
) -> None:
    """Not the host's name; or nothing at all."""
    authority = Authority(tmp_path, names=True)
    server = raw_server(answering, authority.context())
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    options: dict[str, Any] = {"base_url": server.base_url, "retry": ONCE}
    assert "base_url" in str(failure(client_for(None, verify=context, **options).stream(PROMPT)))
    context.check_hostname = False
    assert client_for(None, verify=context, **options).stream(PROMPT).result().text == TEXT
    assert context.verify_mode == ssl.CERT_REQUIRED
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.verify_mode = ssl.CERT_NONE
    assert client_for(None, verify=bare, **options).stream(PROMPT).result().text == TEXT
    assert bare.verify_mode == ssl.CERT_NONE


def test_a_context_without_the_strict_checks(
    raw_server: Callable[..., RawServer], client_for: Callable[..., Client], tmp_path: Path
) -> None:
    """The way that the error of a strict check names."""
    authority = Authority(tmp_path, proper=False)
    server = raw_server(answering, authority.context())
    base_url = server.base_url.replace("127.0.0.1", "localhost")
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    client = client_for(None, base_url=base_url, verify=context, retry=ONCE)
    said = str(failure(client.stream(PROMPT)))
    assert "VERIFY_X509_STRICT" in said
    assert "verify=context" in said
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    assert client.stream(PROMPT).result().text == TEXT


def test_a_context_behind_an_https_proxy(
    https: Any, raw_server: Callable[..., RawServer], tmp_path: Path
) -> None:
    """It checks the proxy as well as the service; so does verify=."""
    authority, client = https
    (tmp_path / "proxy").mkdir()
    other = Authority(tmp_path / "proxy")
    target = client()._endpoint.base_url.removesuffix("/v1")
    proxy = raw_server(lambda sock: tunnelling(target, sock), other.context())
    proxies = {"all": proxy.url.replace("127.0.0.1", "localhost")}
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    error = failure(client(verify=context, proxies=proxies).stream(PROMPT))
    assert "certificate" in str(error)
    context.load_verify_locations(cafile=str(other.ca_file))
    made = client(verify=context, proxies=proxies)
    assert made.stream(PROMPT).result().text == TEXT
    made.close()


def test_a_context_for_servers_and_one_with_cert() -> None:
    """Refused where the client is made."""
    with pytest.raises(ConfigurationError, match="create_default_context"):
        Client("chat", base_url="http://x", verify=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with pytest.raises(ConfigurationError, match="load_cert_chain"):
        Client("chat", base_url="http://x", verify=ssl.create_default_context(), cert="c.pem")


def test_what_pickles() -> None:
    """Paths do, a context does not, and says so."""
    client = Client("chat", base_url="http://x", verify="ca.pem", cert=("cert.pem", Path("k.pem")))
    settings = pickle.loads(pickle.dumps(client)).settings
    assert (settings.verify, settings.cert) == ("ca.pem", ("cert.pem", "k.pem"))
    client = Client("chat", base_url="http://x", verify=ssl.create_default_context())
    for value in (client, client.settings, client.settings.with_key()):
        with pytest.raises(ConfigurationError, match="SSLContext cannot be pickled"):
            pickle.dumps(value)
    assert Client.from_settings(client.settings).settings.verify is client.settings.verify


# ---- the client's own certificate ----------------------------------------------------------------


class Both:
    """An authority, a server that wants certificates of it, and one for the client."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))
        leaf = self.authority.issue_cert("client@llm.invalid")
        self.both, self.cert, self.key = (folder / n for n in ("both.pem", "cert.pem", "key.pem"))
        leaf.private_key_and_cert_chain_pem.write_to_path(str(self.both))
        leaf.cert_chain_pems[0].write_to_path(str(self.cert))
        leaf.private_key_pem.write_to_path(str(self.key))

    def context(self, version: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = version
        self.authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        self.authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture
def both(tmp_path: Path) -> Both:
    return Both(tmp_path)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_of_the_clients(
    raw_server: Callable[..., RawServer],
    client_for: Callable[..., Client],
    both: Both,
    contexts: list[Any],
    version: ssl.TLSVersion,
) -> None:
    """In one file, in two, as a Path; also where the server is not checked."""
    server = raw_server(answering, both.context(version))
    options: dict[str, Any] = {
        "base_url": server.base_url,
        "verify": str(both.ca_file),
        "retry": ONCE,
    }
    for cert in (str(both.both), both.both, (str(both.cert), both.key), [both.cert, both.key]):
        client = client_for(None, cert=cert, **options)
        for _ in range(2):
            assert client.stream(PROMPT).result().text == TEXT
    assert len(contexts) == 4
    client = client_for(None, cert=both.both, **{**options, "verify": False})
    with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
        assert client.stream(PROMPT).result().text == TEXT


def test_a_server_that_wants_another_certificate(
    raw_server: Callable[..., RawServer],
    client_for: Callable[..., Client],
    both: Both,
    tmp_path: Path,
) -> None:
    """Or one at all: it is not asked again, and the message says what to pass."""
    context = both.context(ssl.TLSVersion.TLSv1_3)

    def refusing(sock: socket.socket) -> None:
        with context.wrap_socket(
            sock, server_side=True, do_handshake_on_connect=False
        ) as encrypted:
            try:
                encrypted.do_handshake()
            except ssl.SSLError:
                while socket.socket.recv(encrypted, 65536):
                    pass  # with bytes that are not read the alert would be lost in a reset

    base_url = raw_server(refusing).base_url.replace("http:", "https:")
    options: dict[str, Any] = {"base_url": base_url, "verify": str(both.ca_file)}
    error = failure(client_for(None, **options).stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert "pass one by cert=" in str(error)
    assert len(error.attempts) == 1
    (tmp_path / "other").mkdir()
    other = Both(tmp_path / "other")
    error = failure(client_for(None, cert=str(other.both), **options).stream(PROMPT))
    assert "does not accept the client's certificate" in str(error)
    assert len(error.attempts) == 1


def test_a_server_that_wants_a_certificate_by_tls_1_2(
    raw_server: Callable[..., RawServer], client_for: Callable[..., Client], both: Both
) -> None:
    """Which has no word for it: the message names what may be missing."""
    server = raw_server(answering, both.context(ssl.TLSVersion.TLSv1_2))
    error = failure(
        client_for(None, base_url=server.base_url, verify=str(both.ca_file)).stream(PROMPT)
    )
    assert type(error) is ConnectionFailed
    assert "pass one by cert=" in str(error)
    assert len(error.attempts) == 1


def test_the_certificate_is_not_for_the_proxy(
    raw_server: Callable[..., RawServer], client_for: Callable[..., Client], both: Both
) -> None:
    """A proxy that asks for one gets none; the service behind it does."""
    server = raw_server(answering, both.context(ssl.TLSVersion.TLSv1_3))
    wanting = both.context(ssl.TLSVersion.TLSv1_3)
    wanting.verify_mode = ssl.CERT_OPTIONAL
    seen: list[Any] = []
    proxy = raw_server(lambda sock: tunnelling(server.url, sock, seen), wanting)
    client = client_for(
        None,
        base_url=server.base_url,
        verify=str(both.ca_file),
        cert=str(both.both),
        proxies={"all": proxy.url},
        retry=ONCE,
    )
    assert client.stream(PROMPT).result().text == TEXT
    assert not any(seen)
    client.close()


def encrypted(both: Both, folder: Path) -> Path:
    key = serialization.load_pem_private_key(both.key.read_bytes(), None)
    path = folder / "encrypted.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return path


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("not there", "cannot be read"),
        ("a folder", "cannot be read"),
        ("no key", "has not both"),
        ("not its key", "is not the one of the certificate"),
        ("the two exchanged", "no certificate"),
        ("text", "has not both"),
        ("encrypted", "protected by a password"),
        ("key not there", "cannot be read"),
    ],
)
def test_certificates_that_cannot_be_used(
    tls_server: LLMServer,
    client_for: Callable[..., Client],
    both: Both,
    tmp_path: Path,
    what: str,
    says: str,
) -> None:
    """The error names cert= and the file, before any connection; nobody is asked for a
    password."""
    (tmp_path / "other").mkdir()
    other = Both(tmp_path / "other")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    cert: Any = {
        "not there": tmp_path / "none.pem",
        "a folder": tmp_path,
        "no key": both.cert,
        "not its key": (both.cert, other.key),
        "the two exchanged": (both.key, both.cert),
        "text": text,
        "encrypted": (both.cert, encrypted(both, tmp_path)),
        "key not there": (both.cert, tmp_path / "none.pem"),
    }[what]
    error = failure(client_for(tls_server, cert=cert).stream(PROMPT))
    assert type(error) is ConfigurationError
    assert str(error).startswith("cert=:")
    assert says in str(error)
    assert str(tmp_path) in str(error)
    assert tls_server.connections == 0


@every("cert", ["", (), ("a",), ("a", ""), ("a", "b", "c"), 1, True, b"a", [1, 2]])
def test_cert_of_another_type(cert: Any) -> None:
    """Refused where the client is made."""
    with pytest.raises(ConfigurationError, match="cert=: pass the path"):
        Client("chat", base_url="http://x", cert=cert)
