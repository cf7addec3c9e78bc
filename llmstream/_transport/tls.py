"""What TLS connections are checked against, and the SSLContexts that do it: one for each set of
certificates, shared by all connections of a client.

Reading certifi's bundle takes some 17 ms of CPU, and urllib3 reads it for every connection that it
is not given an SSLContext for. A context is made anew when a file has changed, and in a forked
child, where OpenSSL's locks may be held for ever.

TLS sessions are not resumed. TLS 1.3 saves no round trip by it (without early data, which `ssl`
does not have): measured, one either way, and 0.5 ms of CPU. TLS 1.2 would save one, but urllib3's
contexts take no tickets, and the certificate of a resumed session is not checked again, neither its
dates nor its host. A connection that is kept saves more.
"""

from __future__ import annotations

import errno
import os
import re
import ssl
import stat
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import urllib3.connection
from msgspec import Struct
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from .._runtime.fork import renew_in_child
from .._runtime.threads import RLock
from ..errors import ConfigurationError

__all__ = [
    "Certificate",
    "Contexts",
    "SharedContext",
    "Trust",
    "Verify",
    "checked_cert",
    "checked_verify",
    "trust_of",
]

Path = str | os.PathLike[str]

Verify = bool | Path | ssl.SSLContext
"""True, False, the path of a CA file or folder, or an SSLContext."""

Certificate = Path | tuple[Path, Path]
"""A client's certificate: a path, or those of the certificate and of its key."""

_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # as in requests' sessions; each names either
_FILE, _FOLDER = "SSL_CERT_FILE", "SSL_CERT_DIR"  # OpenSSL's own: they count together
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")  # the names by which OpenSSL finds CAs in a folder
_MOST = 16  # contexts that are kept for a client; more than one where the environment changes


# ---- the arguments -------------------------------------------------------------------------------


def checked_verify(verify: Any) -> Verify:
    """The argument `verify`, a path as a string. Raises ConfigurationError."""
    if isinstance(verify, bool):
        return verify
    if path := _path(verify):
        return path
    if _is_context(verify):
        if getattr(verify, "protocol", None) == ssl.PROTOCOL_TLS_SERVER:
            raise ConfigurationError(
                "verify=: this SSLContext is for servers: pass one as "
                "ssl.create_default_context() makes it"
            )
        context: ssl.SSLContext = verify
        return context
    raise ConfigurationError(
        f"verify=: this is of the type {type(verify).__name__} or empty: pass True, False, the "
        "path of a CA file or folder, or an ssl.SSLContext"
    )


def checked_cert(cert: Any, verify: Verify) -> Certificate | None:
    """The argument `cert`, with paths as strings. Raises ConfigurationError."""
    if cert is None:
        return None
    if _is_context(verify):
        raise ConfigurationError(
            "cert= is not used together with an SSLContext: load the certificate into it by "
            "its load_cert_chain(), and leave out cert="
        )
    is_pair = isinstance(cert, (tuple, list))
    paths = [_path(part) for part in (cert if is_pair else [cert])]
    if len(paths) != (2 if is_pair else 1) or not all(paths):
        raise ConfigurationError(
            "cert=: pass the path of a PEM file with the client's certificate and its key, or a "
            "pair of paths, (certificate, key)"
        )
    return (paths[0], paths[1]) if is_pair else paths[0]


def _path(part: Any) -> str:
    try:
        found = os.fspath(part)
    except Exception:  # not a path, or an object whose __fspath__ raises
        return ""
    return found if isinstance(found, str) else ""


def _is_context(verify: Any) -> bool:
    # By what it has: libraries such as truststore replace the class in the module `ssl`.
    try:
        return hasattr(verify, "wrap_bio") and hasattr(verify, "verify_mode")
    except Exception:  # whatever an attribute raises
        return False


# ---- what is trusted -----------------------------------------------------------------------------


class Trust(Struct, frozen=True):
    """What certificates are checked against. `verify` is the argument or the path that a variable
    has, `source` what has chosen it: "verify=", the variable, or "" for requests' default. `folder`
    is that of SSL_CERT_DIR, which counts beside SSL_CERT_FILE."""

    verify: Any = True
    source: str = ""
    folder: str = ""

    def __str__(self) -> str:
        """In messages."""
        if isinstance(self.verify, str):
            named = f"{self.verify} (from {self.source})"
            return f"{named} and {self.folder} (from {_FOLDER})" if self.folder else named
        if isinstance(self.verify, bool):
            return f"{DEFAULT_CA_BUNDLE_PATH} (of the package certifi)"
        return "the SSLContext of verify="

    @property
    def file(self) -> str:
        """The file or folder that is read; "" for a context of the caller's and for none."""
        if isinstance(self.verify, str):
            return self.verify
        return DEFAULT_CA_BUNDLE_PATH if self.verify is True else ""


def trust_of(verify: Verify, trust_env: bool) -> Trust:
    """What a client trusts whose arguments these are: the environment counts where `verify` is
    True."""
    if verify is not True:
        return Trust(verify, "verify=")
    if trust_env:
        for source in _VARIABLES:
            if found := os.environ.get(source):
                return Trust(found, source)
        # OpenSSL passes over those of its own variables that name nothing which is there.
        file, folder = os.environ.get(_FILE, ""), os.environ.get(_FOLDER, "")
        if os.path.exists(file):
            return Trust(file, _FILE, folder if _folders(folder) else "")
        if _folders(folder) or os.path.exists(folder):
            return Trust(folder, _FOLDER)
    return Trust()


def _folders(path: str) -> list[str]:
    """Those of the folders that exist; OpenSSL takes several, joined as in PATH."""
    return [part for part in path.split(os.pathsep) if os.path.isdir(part)]


# ---- the contexts --------------------------------------------------------------------------------


class SharedContext:
    """An SSLContext as urllib3's connections may use it, many at the same time: they change
    nothing.

    urllib3 sets a context's protocols anew before every handshake, while `ssl` copies them, without
    the GIL, into a connection of another thread: OpenSSL then reads memory that was freed.
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self.wrap_socket = context.wrap_socket
        self.wrap_bio = context.wrap_bio
        if context not in _prepared:
            context.set_alpn_protocols(["http/1.1"])
            _prepared.add(context)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    @property
    def verify_mode(self) -> Any:
        return self._context.verify_mode

    @verify_mode.setter
    def verify_mode(self, value: Any) -> None:
        pass

    @property
    def check_hostname(self) -> bool:
        return bool(self._context.check_hostname)

    @check_hostname.setter
    def check_hostname(self, value: bool) -> None:
        pass

    def set_alpn_protocols(self, protocols: list[str]) -> None:
        pass


_prepared: WeakSet[Any] = WeakSet()


class Contexts:
    """The contexts of one client. Thread-safe, also after a fork: a child makes its own."""

    def __init__(self) -> None:
        # Guards _made. Reentrant: a signal handler may make a call of its own. A file is read under
        # it, so that a hundred streams that begin at once read it once.
        self._lock = RLock()
        self._made: dict[Any, tuple[Any, SharedContext]] = {}
        renew_in_child(self, _lock=RLock, _made=dict)

    def of(
        self,
        trust: Trust,
        cert: Certificate | None,
        outdated: Callable[[SharedContext], None] = lambda context: None,
    ) -> SharedContext:
        """The context for connections to whoever `trust` accepts, which show him `cert`. Where a
        file has changed, `outdated` is called with the one before. Raises ConfigurationError, which
        names the parameter or variable, if a file is not usable."""
        key = (trust, cert)
        stamp = _stamp(trust, cert)
        found = self._made.get(key)
        if found is not None and found[0] == stamp:
            return found[1]
        with self._lock:
            found = self._made.get(key)
            if found is not None and found[0] == stamp:  # another thread has made it meanwhile
                return found[1]
            made = SharedContext(_made(trust, cert))
            before = self._made.pop(key, None)
            self._made[key] = (stamp, made)
            while len(self._made) > _MOST:
                self._made.pop(next(iter(self._made)))
        if before is not None:
            outdated(before[1])
        return made


def _stamp(trust: Trust, cert: Certificate | None) -> Any:
    """What changes with the files."""
    places = [trust.file] if trust.file and trust.source != _FOLDER else []
    places += _folders(trust.folder or (trust.verify if trust.source == _FOLDER else ""))
    stamp = []
    for place in places:
        try:
            stamp.append(_of_file(place))
        except (OSError, ValueError) as exc:
            raise _unreadable(trust, exc) from None
    for path in cert if isinstance(cert, tuple) else [cert] if cert else ():
        try:
            stamp.append(_of_file(path))
        except (OSError, ValueError) as exc:
            raise _no_certificate(path, exc) from None
    return stamp


def _of_file(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise OSError(errno.EINVAL, "not a regular file")  # reading a pipe may never end
    return found.st_mtime_ns, found.st_size, found.st_ino


def _made(trust: Trust, cert: Certificate | None) -> Any:
    if not isinstance(trust.verify, (bool, str)):
        return trust.verify
    mode = ssl.CERT_REQUIRED if trust.verify else ssl.CERT_NONE
    # As urllib3's connections make theirs: TLS 1.2 at least, and on Python 3.13 the strict checks.
    context: Any = urllib3.connection.create_urllib3_context(  # type: ignore[attr-defined]
        cert_reqs=mode
    )
    if trust.verify:
        _load_authorities(context, trust)
    if cert is not None:
        _load_certificate(context, cert)
    return context


def _load_authorities(context: Any, trust: Trust) -> None:
    file = trust.file
    try:
        if trust.source == _FOLDER or os.path.isdir(file):
            _load_folder(context, file, trust)
            return
        context.load_verify_locations(cafile=file)
        if trust.folder:
            context.load_verify_locations(capath=trust.folder)
    except ssl.SSLError:  # an OSError too
        raise _empty(trust) from None
    except (OSError, ValueError) as exc:
        raise _unreadable(trust, exc) from None
    stats = getattr(context, "cert_store_stats", None)
    if stats is not None and not trust.folder and not stats()["x509"]:
        raise _empty(trust)


def _load_folder(context: Any, path: str, trust: Trust) -> None:
    parts = [path] if os.path.isdir(path) else _folders(path)
    if not parts:
        raise FileNotFoundError(None, "No such folder")
    if not any(_HASHED.fullmatch(name) for part in parts for name in os.listdir(part)):
        raise ConfigurationError(
            f"the folder of CA certificates has none under the name of its hash, {trust}: run "
            "`openssl rehash FOLDER`, or name a file that has all certificates in it"
        )
    context.load_verify_locations(capath=os.pathsep.join(parts))


def _unreadable(trust: Trust, exc: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"the file of CA certificates cannot be read, {trust} ({_words(exc)}): name one that can "
        f"be, by {trust.source or 'verify='}"
    )


def _empty(trust: Trust) -> ConfigurationError:
    return ConfigurationError(
        f"the file of CA certificates has no certificate in it, or a damaged one, {trust}: name "
        f"one in PEM form, by {trust.source or 'verify='}"
    )


class _Encrypted(Exception):
    """OpenSSL asks for a password."""


def _ask() -> str:
    raise _Encrypted


def _load_certificate(context: Any, cert: Certificate) -> None:
    file, key = cert if isinstance(cert, tuple) else (cert, "")
    for place in (file, key) if key else (file,):
        try:
            with open(place, "rb"):
                pass  # OpenSSL's error does not say which of the two it is
        except (OSError, ValueError) as exc:
            raise _no_certificate(place, exc) from None
    try:
        context.load_cert_chain(file, key or None, password=_ask)
    except _Encrypted:
        raise ConfigurationError(
            f"cert=: the key in {key or file} is protected by a password: store it without one "
            "(`openssl pkey -in FILE -out FILE`), or load it yourself into an ssl.SSLContext "
            "(load_cert_chain) and pass that as verify="
        ) from None
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(
                f"cert=: the key in {key or file} is not the one of the certificate in {file}: "
                "pass the two that belong together"
            ) from None
        where = f"{file} has no certificate, or {key} no key" if key else f"{file} has not both"
        raise ConfigurationError(
            f"cert=: {where} in PEM form: pass the path of a file with the certificate and its "
            "key, or a pair of paths, (certificate, key)"
        ) from None
    except (OSError, ValueError) as exc:
        raise _no_certificate(file, exc) from None


def _no_certificate(place: Path, exc: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"cert=: {place} cannot be read ({_words(exc)}): pass the path of a file that can be"
    )


def _words(exc: Exception) -> str:
    return f"{type(exc).__name__}: {getattr(exc, 'strerror', None) or 'no further reason'}"
