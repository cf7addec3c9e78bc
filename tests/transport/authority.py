"""A certificate authority with which a test can break rules, and its certificates."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


class Authority:
    """A CA, and a server's certificate of it. `proper` is whether they follow RFC 5280."""

    def __init__(
        self,
        folder: Path,
        *,
        proper: bool = True,
        critical: bool = True,
        names: bool = False,
        days: int = 1,
    ) -> None:
        self.keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
        self.days = days
        ca_key, key = self.keys
        public = ca_key.public_key()
        self.identifiers: list[Any] = []
        usage = dict.fromkeys(USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
        if proper:
            self.identifiers = [
                (x509.SubjectKeyIdentifier.from_public_key(public), False),
                (x509.KeyUsage(**usage), True),
            ]
        ca = self._made("Company CA", ca_key, (x509.BasicConstraints(True, None), critical))
        if proper:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
            self.identifiers = [(issuer, False)]
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(ca)
        address = x509.DNSName("elsewhere.test" if names else "localhost")
        leaf = self._made("localhost", key, (x509.SubjectAlternativeName([address]), False))
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self.leaf_file = folder / "leaf.pem"
        self.leaf_file.write_bytes(private + leaf)

    def _made(self, name: str, key: Any, extension: tuple[Any, bool]) -> bytes:
        now = datetime.datetime.now(datetime.timezone.utc)
        end = now + datetime.timedelta(days=self.days if name == "localhost" else 9)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Company CA")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=9))
            .not_valid_after(end)
            .add_extension(*extension)
        )
        for identifier in self.identifiers:
            builder = builder.add_extension(*identifier)
        made = builder.sign(self.keys[0], hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM)

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.leaf_file)
        return context
