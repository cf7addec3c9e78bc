"""A service as one client talks to it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import urlsplit

import msgspec

from .._core.classify import KNOWN_WORDS
from .._core.credentials import credentials_in, credentials_of_address
from .._core.dialects import Api
from .._core.dialects.base import Dialect
from .._core.dialects.profiles import DEFAULT, Profile
from .._core.key_quotes import redact_keys
from .._core.redact import names_in, prompt_texts, redact_texts
from .._core.request import HTTPRequest, Request
from .._core.timers import Timeouts, Timers
from .._runtime.clock import Clock
from .._runtime.ids import random_id
from .._runtime.scope import CancelScope, Scheduler, Stopped
from .._settings.key_source import KeySource
from .._settings.secret import Secret
from .._transport.base import Transport
from .._transport.proxy import Proxy
from .._version import __version__
from ..errors import (
    AuthenticationError,
    ConfigurationError,
    LLMStreamError,
    PermissionDeniedError,
    ProtocolError,
    ServiceError,
)
from ..result import Service
from .budget import Budget

__all__ = ["Endpoint"]

# What Amazon's API Gateway says, with 403, where the header in which it takes keys has none.
_FINDS_NO_KEY = r": (?:Forbidden|Missing Authentication Token)$"
_TRACE_ID = re.compile("[0-9a-f]{32}")
# The headers in which services take a key.
_KEY_HEADERS = frozenset(
    {"authorization", "api-key", "x-api-key", "x-goog-api-key", "ocp-apim-subscription-key"}
)
_USER_AGENT = f"llmstream/{__version__}"
_FAREWELL = 5.0  # seconds, at most, to tell a service that a response is not wanted any more


class Endpoint:
    """Address, key, headers, profile, transport and budget. Immutable, but for the budget and the
    transport, which are thread-safe."""

    def __init__(
        self,
        *,
        api: Api,
        dialect: Dialect,
        profile: Profile,
        service: Service,
        base_url: str,
        key: Secret | KeySource | None,
        headers: Mapping[str, str],
        transport: Transport,
        budget: Budget,
        clock: Clock,
        scheduler: Callable[[], Scheduler],
        find_proxy: Callable[[str], Proxy | None],
    ) -> None:
        self.api = api
        self.dialect = dialect
        self.service = service
        self.base_url = base_url
        self.port = _port(base_url)
        self.transport = transport
        self.budget = budget
        self.clock = clock
        self.scheduler = scheduler  # looked up for each call: a forked child has its own
        self.profile = profile
        self._key = key
        self._headers = headers
        self._find_proxy = find_proxy  # the proxy for an address: it may quote its password

    def request(self, request: Request) -> HTTPRequest:
        """`request` in the API's words. Raises ConfigurationError."""
        try:
            return self.dialect.request(request, self.base_url)
        except (TypeError, ValueError, AttributeError) as exc:
            raise ConfigurationError(
                f"the call cannot be written as a request of this API ({type(exc).__name__}): "
                "check the types of prompt, tools and options"
            ) from None  # it refers to the prompt

    def secret(self) -> Secret | None:
        """The key for the next request; a function that returns it is asked anew. Raises
        ConfigurationError."""
        return self._key.fetch() if isinstance(self._key, KeySource) else self._key

    def dress(
        self,
        request: HTTPRequest,
        secret: Secret | None,
        trace_id: str,
        headers: Mapping[str, str],
        propagated: Mapping[str, str],
    ) -> HTTPRequest:
        """`request` with the key `secret` and all headers: the call's own `headers` win over the
        client's, those over the API's, and those over what is `propagated`."""
        merged = {
            "user-agent": _USER_AGENT,
            "accept-encoding": "identity",  # compression would hold tokens back
            "x-client-request-id": trace_id,
            **_traceparent(trace_id),
            **propagated,
            **request.headers,
            **self._auth(secret),
            **self._headers,
            **headers,
        }
        return msgspec.structs.replace(request, headers=merged)

    def _auth(self, secret: Secret | None) -> dict[str, str]:
        if secret is None:
            return {}
        key = secret.reveal()
        name = self.profile.auth
        if secret.bearer or name == "bearer":
            return {"authorization": f"Bearer {key}"}
        return {name: key} if name != "own" else self.dialect.auth(key)

    def advise(
        self, error: LLMStreamError, secret: Secret | None, headers: Mapping[str, str]
    ) -> None:
        """Add to the error what to do about it: where the profile knows the service's words; and
        where a key was refused, also what was sent. `secret` is the key of the request, `headers`
        are the call's own."""
        for words, advice in self.profile.advice:
            if words in error.message:
                error.add(advice)
        refused = isinstance(error, AuthenticationError) or (
            isinstance(error, PermissionDeniedError)
            and (secret is None or re.search(_FINDS_NO_KEY, error.message) is not None)
        )
        if not refused or _KEY_HEADERS & {name.lower() for name in (*self._headers, *headers)}:
            return
        if secret is None:
            error.add(
                "no key was sent, because base_url is given without one (a vendor's key is never "
                "sent to another server): pass api_key=, or set LLMSTREAM_API_KEY for "
                "Client.from_env(), stream() and the command"
            )
        elif self.profile.name == DEFAULT.name and self.base_url != self.dialect.default_base_url:
            (name,) = self._auth(secret)
            error.add(
                f"the key was sent in the header {name!r}: if the service wants another one, "
                "profile='azure' sends 'api-key', 'aws-gateway' 'x-api-key', and 'vllm' "
                "'authorization'"
            )

    def redact(
        self,
        error: LLMStreamError,
        request: Request,
        headers: Mapping[str, str],
        secrets: Iterable[Secret],
        expired: Callable[[], bool] | None = None,
    ) -> None:
        """Blot out what a service quotes in its error: the keys that it was sent (`secrets`),
        headers, the prompt. Once `expired` returns true, everything that is not known to be
        harmless: a long prompt takes its time."""
        if not isinstance(error, (ServiceError, ProtocolError)):
            return  # all its words are our own
        given = {**self._headers, **headers}
        texts = (request.prompt, request.instructions, request.stop, request.tools)
        quoted = prompt_texts([*texts, request.extra_body, [*given.values()]])
        names = [request.model, *names_in([request.tools, request.tool_choice])]
        names += [str((request.extra_body or {}).get("model") or "")]
        keys = [secret.reveal() for secret in secrets]
        keys += credentials_in([given, request.tools, request.extra_body])
        passwords = [*credentials_of_address(self.base_url), *self._proxy_credentials()]
        fields = [
            name
            for name in ("code", "type", "param", "request_id")
            if isinstance(value := getattr(error, name, None), str)
            and value.lower() not in KNOWN_WORDS
        ]
        told = [error.message, *(getattr(error, name) for name in fields)]
        shown = redact_texts(redact_keys(told, keys, passwords), quoted, names, expired)
        error.args = (shown[0], *error.args[1:])
        for name, text in zip(fields, shown[1:], strict=True):
            setattr(error, name, text)

    def _proxy_credentials(self) -> Iterator[str]:
        proxy = None
        with contextlib.suppress(ConfigurationError):  # it was reported where it was used
            proxy = self._find_proxy(self.base_url)
        if proxy is not None:
            yield from credentials_of_address(proxy.url)

    def send_and_forget(self, request: HTTPRequest) -> None:
        """Send a dressed request that may fail, within 5 s. Never raises."""
        limits = Timeouts(connect=_FAREWELL, first_token=_FAREWELL, total=_FAREWELL)
        timers = Timers(limits, self.clock.monotonic())
        scope = CancelScope(timers, self.clock, self.scheduler())
        try:
            scope.begin()
            self.transport.send(request, scope).finish()
        except (Stopped, LLMStreamError):
            pass  # it was worth a try
        finally:
            scope.finish()


def _port(base_url: str) -> int:
    address = urlsplit(base_url)
    return address.port or {"https": 443, "http": 80}[address.scheme]


def _traceparent(trace_id: str) -> dict[str, str]:
    """The header of W3C Trace Context, where the trace id is one in its sense (32 hex digits; a
    UUID's hyphens do not count). The parent id is this request, which has no other record: a
    random one."""
    digits = trace_id.replace("-", "").lower()
    if not _TRACE_ID.fullmatch(digits) or digits == "0" * 32:
        return {}
    return {"traceparent": f"00-{digits}-{random_id(64)}-01"}
