"""TLS for the test server: certificates that trustme makes in memory, and a codec of bytes.

Only `LLMServer(tls=True)` imports this module. A server without TLS needs only the standard
library.
"""

from __future__ import annotations

import functools
import os
import ssl
import tempfile
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trustme

__all__ = ["TlsClosed", "TlsCodec", "remove_ca_file", "server_context", "write_ca_file"]

# One certificate authority per process: making it and a certificate costs 10-100 ms.
# `_making` guards the two caches below.
_making = threading.Lock()

# A name that is not the loopback's, for tests of proxies. No resolver has it (RFC 6761).
_ELSEWHERE = "llm.test"

RECORD = 16384  # bytes: the most that one TLS record carries (RFC 8446, section 5.1)


@functools.cache
def _authority() -> trustme.CA:
    try:
        import trustme
    except ImportError as exc:
        raise ImportError(
            "LLMServer(tls=True) makes its certificates with trustme, which is not installed: "
            'pip install "llmstream-sync[test]"'
        ) from exc
    return trustme.CA()


@functools.cache
def _context(host: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names = dict.fromkeys(("localhost", "127.0.0.1", _ELSEWHERE, host))
    _authority().issue_cert(*names).configure_cert(context)
    return context


def server_context(host: str) -> ssl.SSLContext:
    """A server's TLS settings for `host`, `localhost`, `127.0.0.1` and `llm.test`; made once per
    process.

    Raises `ImportError`, with the extra to install, when trustme is missing. Thread-safe.
    """
    with _making:
        return _context(host)


def write_ca_file() -> str:
    """Write the authority's certificate to a new temporary PEM file and return its path.

    The caller removes the file with `remove_ca_file`. Thread-safe.
    """
    with _making:
        pem = _authority().cert_pem.bytes()
    handle, path = tempfile.mkstemp(prefix="llmstream-ca-", suffix=".pem")
    with os.fdopen(handle, "wb") as file:
        file.write(pem)
    return path


def remove_ca_file(path: str) -> None:
    """Remove the file that `write_ca_file` wrote. A file that is gone already is not an error."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


class TlsClosed(Exception):
    """The peer ended the TLS session: by close_notify, by an alert, or by breaking the protocol."""


class TlsCodec:
    """The server's side of one TLS session, as bytes in and bytes out.

    It does not have a socket: the connection that owns it reads, writes and waits. So a TLS
    connection waits, is cut and is reset exactly as a plain one. Used by one thread.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def shake(self, received: bytes) -> tuple[bool, bytes]:
        """One step of the handshake: `(whether it is done, bytes to send)`."""
        self._incoming.write(received)
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            return False, self._outgoing.read()
        except ssl.SSLError as exc:
            raise TlsClosed from exc
        return True, self._outgoing.read()

    def decrypt(self, received: bytes) -> bytes:
        """The application's bytes that are complete now. Raises `TlsClosed` after the last."""
        self._incoming.write(received)
        plain = bytearray()
        try:
            while data := self._session.read(RECORD):
                plain += data
        except ssl.SSLWantReadError:
            return bytes(plain)
        except ssl.SSLError as exc:  # close_notify too: SSLZeroReturnError
            if not plain:
                raise TlsClosed from exc
        return bytes(plain)

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """The records that carry `data`."""
        self._session.write(data)
        return self._outgoing.read()

    def close_notify(self) -> bytes:
        """The record that ends the session cleanly."""
        try:
            self._session.unwrap()
        except ssl.SSLError:  # the peer's own close_notify has not arrived; it is not waited for
            return self._outgoing.read()
        return self._outgoing.read()
