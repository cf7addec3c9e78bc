"""One request and its response, as batches of events."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from .._core.classify import error_from_status, request_id_of
from .._core.dialects.base import Activity
from .._core.dialects.usage import COST_HEADER, with_cost
from .._core.key_quotes import without_credentials_of
from .._core.phase import ClockName, Phase
from .._core.recovery import Mode, NextAttempt
from .._core.request import HTTPRequest
from .._core.session import Session
from .._runtime.scope import CancelScope, Stopped, StopReason
from .._runtime.threads import is_finalizing
from .._transport.base import Response, Transport
from ..errors import EventTooLarge, LLMStreamError
from ..events.base import AnyEvent, Continued, Restarted, marker_event
from .context import CallContext

if TYPE_CHECKING:
    from .._core.json_array import ArrayStream

__all__ = ["EventBatches", "Exchange"]

_ERROR_BODY = 65536  # bytes of an error's body that are read
_LINGER = 2.0  # seconds that the body of an error, or of a page, may take
_SNIFF = 1200  # bytes of a foreign body that are read to show its beginning
_BLANK = b"\xef\xbb\xbf \t\r\n"  # white space, and the bytes of a BOM
_EMPTY = (204, 205)  # a status that says that there is no body
_FIELDS = (b"data", b"event", b"id", b"retry", b"error")  # the last one: llama.cpp, GPUStack
_LONGEST_NAME = max(map(len, _FIELDS))
# An "error" that is one of these has JSON: "error: no such host" is text.
_FIELD = re.compile(rb":|(?:data|event|id|retry)[:\r\n]|error:[ \t]*(?:[\[{\"\r\n]|\Z)")
_ANY_FIELD = re.compile(rb"[A-Za-z_-]{1,40}[:\r\n]")  # an unknown field, which is ignored
_POLL_FIRST, _POLL_LONGEST = 0.5, 5.0  # seconds between two polls
_DRAIN_SECONDS = 0.05  # for the end of the body after the end of the answer
_NONE, _CONTENT = Activity.NONE, Activity.CONTENT

EventBatches = Generator[list[AnyEvent], None, None]


class Exchange:
    """Makes the attempts of one call, one at a time. For the reader's thread.

    `new_session` makes the session of an answer of so many choices; `max_bytes` bounds a JSON body.
    """

    __slots__ = (
        "_ctx",
        "_max_bytes",
        "_meter",
        "_new_session",
        "_reported",
        "_scope",
        "_transport",
        "_unused",
        "on_accepted",
    )

    def __init__(
        self,
        ctx: CallContext,
        transport: Transport,
        new_session: Callable[[int], Session],
        max_bytes: int,
    ) -> None:
        self._ctx = ctx
        self._meter = ctx.meter
        self._scope = ctx.scope
        self._transport = transport
        self._new_session = new_session
        self._unused: Session | None = ctx.session
        self._max_bytes = max_bytes
        self._reported = 0  # contents of the session, before this batch
        # Called with the headers, of lower-case names, of each response that is a success.
        self.on_accepted: Callable[[Mapping[str, str]], None] | None = None

    def events(
        self,
        attempt: NextAttempt,
        request: HTTPRequest,
        dress: Callable[[HTTPRequest], HTTPRequest],
    ) -> EventBatches:
        """Send `request` (the attempt's, with credentials) once and yield what arrives, batch by
        batch; an empty batch (or the marker) when the service has accepted it. `dress` gives a
        request that is sent again new credentials. Raises Stopped and what ended the attempt."""
        self._begin(attempt)
        if attempt.mode is Mode.POLL:
            return self._poll(request, partial(dress, attempt.request))
        return self._stream(attempt, request)

    def _begin(self, attempt: NextAttempt) -> None:
        ctx, mode = self._ctx, attempt.mode
        scope, shown = self._scope, ctx.session
        again = mode is Mode.RESUME or mode is Mode.POLL
        if again:
            session = shown
            session.resume()
        else:
            session = self._unused or self._new_session(attempt.request.choices)
            self._unused = None
            session.state.stored = attempt.request.stored
            session.state.limit = attempt.request.limit
            session.state.rounds = attempt.request.rounds
            if mode is Mode.CONTINUE:
                session.continue_from(shown)
                ctx.continued = True
            if mode is Mode.CONTINUE or not shown.has_content:
                ctx.session = session
            # else what was shown stays readable until the service has accepted the new request
        ctx.latest = session
        state = session.state
        state.seed = ctx.trace_id
        state.unix_time = ctx.clock.time
        session.on_sign_of_life = scope.timers.sign_of_life
        ctx.status = ctx.request_id = None
        self._reported = session.contents
        self._meter.begin_attempt(ctx.clock.monotonic(), session.contents, state.usage)
        reporter = ctx.reporter
        scope.phases = [] if reporter is not None and reporter.records else None
        scope.timers.resumed = again and session.has_content

    # -- a stream

    def _stream(self, attempt: NextAttempt, request: HTTPRequest) -> EventBatches:
        ctx, scope = self._ctx, self._scope
        session = ctx.latest
        scope.begin()
        response = self._transport.send(request, scope)
        try:
            self._accepted(response, request)
            ctx.session = session
            if COST_HEADER in response.headers:
                session.state.usage = with_cost(session.state.usage, response.headers[COST_HEADER])
            scope.hand_over()
            yield [] if attempt.marker is None else [self._marker(attempt.marker)]
            yield from self._body(response, session)
        finally:
            self._close(response, session.complete)
        if session.error is not None:
            raise session.error

    def _marker(self, cls: type[Restarted] | type[Continued]) -> AnyEvent:
        return marker_event(cls, len(self._meter.attempts[0]) + 1)

    def _accepted(self, response: Response, request: HTTPRequest) -> None:
        """The head has arrived. Raises the error of a status that is not a success."""
        ctx, scope = self._ctx, self._scope
        if scope.phase is not Phase.HEADERS:  # a transport double that does not report
            scope.awaiting_response()
        scope.end_wait(0)
        ctx.status = response.status
        own_id = request_id_of(response.headers)
        if own_id is not None:
            ctx.request_id = without_credentials_of(request, own_id)
        if not _is_success(response.status):
            body = _read_some(response, _ERROR_BODY, scope)
            now, forwarder = ctx.clock.time(), response.forwarder
            headers, url = response.headers, request.url
            error = error_from_status(response.status, body, headers, now, url, forwarder)
            del body  # some servers quote the key in it, and tracebacks may show locals
            raise error
        if self.on_accepted is not None:
            self.on_accepted(response.headers)
        scope.enter(Phase.BODY if scope.timers.resumed else Phase.FIRST_TOKEN)

    def _close(self, response: Response, whole: bool) -> None:
        try:
            if (whole or not _is_success(response.status)) and not is_finalizing():
                # All of the body but its end has been read: keep the connection.
                self._ctx.scope.timers.linger(_DRAIN_SECONDS)
                response.finish()
        finally:
            response.close()

    def _body(self, response: Response, session: Session) -> EventBatches:
        first = _first_bytes(response, session.on_sign_of_life)
        reader, foreign = _reader_of(response, first, session, self._max_bytes)
        if foreign == "JSON":
            pieces, first = [first], b""  # a traceback may show locals
            body = _read_all(response, self._max_bytes, pieces)
            yield self._noted(session, session.receive_json(body))
            return
        if foreign:
            first += _read_some(response, _SNIFF - len(first), self._scope)
            session.refuse(first, _described(response, foreign), response.status)
            return
        data = first
        while True:
            if data:
                events = self._noted(session, reader.receive(data))
            else:
                events = self._noted(session, reader.receive_eof())
            if events:
                yield events
            if session.ended:
                return
            first = data = b""  # a traceback may show locals
            events = []
            data = self._read_on(response, session)

    def _read_on(self, response: Response, session: Session) -> bytes:
        if not session.linger:
            return response.read()
        # The answer, or its error, is known: whatever happens now is only the end.
        timers = self._ctx.scope.timers
        if timers.phase_clock is not ClockName.LINGER:  # again after content, not after pings
            timers.linger(session.linger)
        try:
            return response.read()
        except (Stopped, LLMStreamError) as exc:
            if session.awaits_end and not _has_waited(exc, self._scope):
                raise
            return b""

    # -- a stored answer

    def _poll(self, request: HTTPRequest, renew: Callable[[], HTTPRequest]) -> EventBatches:
        """Ask for the answer until it is whole. While it does not change, the idle clock runs
        (before the first content the first-token clock)."""
        ctx, scope = self._ctx, self._ctx.scope
        session, clock = ctx.latest, ctx.clock
        name = ClockName.IDLE if session.has_content else ClockName.FIRST_TOKEN
        patience = getattr(ctx.timeouts, name.value)
        before: int | None = None  # a hash: a traceback may show locals
        changed = clock.monotonic()
        wait = _POLL_FIRST
        while True:
            scope.begin()
            response = self._transport.send(request, scope)
            whole = False
            try:
                self._accepted(response, request)
                body = _read_all(response, self._max_bytes, [])
                whole = True
            finally:
                self._close(response, whole)
            events = session.receive_json(body)
            if not session.unfinished:
                yield self._noted(session, events)
                if session.error is not None:
                    raise session.error
                return
            session.resume()
            now = clock.monotonic()
            if (known := hash(body)) != before:
                before, changed = known, now
            elif patience is not None and now - changed >= patience:
                scope.stop(StopReason(clock=name))
            body, events = b"", []
            scope.sleep(wait, Phase.POLL)
            wait = min(wait * 1.5, _POLL_LONGEST)
            request = renew()

    # -- what arrived

    def _noted(self, session: Session, events: list[AnyEvent]) -> list[AnyEvent]:
        """Tell the meter and the clocks what arrived."""
        if not events:
            return events
        scope = self._scope
        now = scope.last_byte
        if now is None:
            now = self._ctx.clock.monotonic()
        activity = session.activity
        session.activity = _NONE
        if activity is _CONTENT:
            self._content(now, session)
        else:
            self._meter.event(now)
        if activity is _CONTENT and session.error is None:
            scope.timers.content()
            return events
        scope.hand_over()
        if activity and session.error is None:  # else only the end is awaited, and not for long
            scope.timers.progress()
        return events

    def _content(self, now: float, session: Session) -> None:
        first_of_call = self._meter.first_content is None
        gap = self._meter.content(now, self._scope.timers.waited)
        if gap is None and self._scope.phase is not Phase.BODY:  # the first of the attempt
            self._scope.enter(Phase.BODY, now)
        reporter = self._ctx.reporter
        if reporter is None:
            return
        if first_of_call:
            reporter.first_token(now)
        if reporter.tokens is not None:
            reporter.tokens(now, gap, session.contents - self._reported)
            self._reported = session.contents


def _reader_of(
    response: Response, first: bytes, session: Session, limit: int
) -> tuple[Session | ArrayStream[AnyEvent], str]:
    """What reads the body, and what it is instead of a stream ("" where it is one)."""
    foreign = _foreign(response, first)
    if foreign == "JSON" and session.takes_arrays and first.lstrip(_BLANK)[:1] == b"[":
        from .._core.json_array import ArrayStream  # seldom used

        return ArrayStream(session, limit), ""
    return session, foreign


def _has_waited(exc: Exception, scope: CancelScope) -> bool:
    """Whether the read was stopped because the end of the stream did not arrive in time."""
    stop = scope.stop_reason
    return isinstance(exc, Stopped) and stop is not None and stop.clock is ClockName.LINGER


def _is_success(status: int) -> bool:
    return 200 <= status < 300


def _read_some(response: Response, limit: int, scope: CancelScope) -> bytes:
    """A body for an error's message: what of it arrives soon, at most about `limit` bytes."""
    body = bytearray()
    scope.timers.linger(_LINGER)
    try:
        while len(body) < limit and (data := response.read()):
            body += data
    except LLMStreamError:
        pass  # the status, or what arrived, is reason enough
    except Stopped:
        stop = scope.stop_reason
        if stop is not None and stop.clock is not ClockName.LINGER:
            raise
    return bytes(body)


def _read_all(response: Response, limit: int, pieces: list[bytes]) -> bytes:
    """The rest of a body after its first `pieces`. Raises EventTooLarge for more than `limit` bytes
    in all."""
    size = sum(map(len, pieces))
    try:
        while data := response.read():
            pieces.append(data)
            size += len(data)
            if size > limit:
                raise EventTooLarge(
                    "the body is one JSON document that is larger than max_event_bytes: raise the "
                    "limit if answers of this size are expected"
                )
    except BaseException:
        data = b""  # a traceback may show locals
        pieces.clear()
        raise
    return b"".join(pieces)


def _first_bytes(response: Response, on_blank: Callable[[], None]) -> bytes:
    """The beginning of a body, up to something that shows what it is: some servers send white space
    to keep a connection alive before they know what they will answer."""
    first = response.read()
    while not first.strip(_BLANK) and len(first) < _SNIFF and (more := response.read()):
        on_blank()
        first += more
    while _is_part_of_a_name(first.lstrip(_BLANK)) and (more := response.read()):
        first += more
    return first


def _is_part_of_a_name(start: bytes) -> bool:
    return 0 < len(start) <= _LONGEST_NAME and any(name.startswith(start) for name in _FIELDS)


def _foreign(response: Response, first: bytes) -> str:
    """What a success status brought instead of an event stream ("" where it is one).

    By the first bytes, since labels are often wrong: an event stream begins with a comment or the
    name of a field.
    """
    content_type = response.headers.get("content-type", "").lower()
    start = first.lstrip(_BLANK)
    if not start:
        return "no content" if response.status in _EMPTY else ""
    if start[:1] in (b"{", b"["):
        return "JSON"
    field = _FIELD.match(start)
    if field is not None or _is_part_of_a_name(start):
        return ""  # or its beginning, which was cut
    if start[:1] == b"<" or content_type.startswith("text/html"):
        return "an HTML page"
    if _is_binary(first):
        return "binary data"
    if content_type.startswith("text/event-stream") and _ANY_FIELD.match(start):
        return ""
    return "text"


def _is_binary(data: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return True
    return any(character < " " and not character.isspace() for character in text)


def _described(response: Response, what: str) -> str:
    """What was received, with the labels that it was sent under."""
    labels = [
        f"{name} {value!r}"
        for name in ("content-type", "content-encoding")
        if (value := response.headers.get(name))
    ]
    return f"{what} ({', '.join(labels)})" if labels else what
