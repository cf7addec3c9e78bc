"""Observers and propagators: what they are given, in which order, and that none can harm a
stream."""

from __future__ import annotations

import logging
import re
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from every import every
from support import AT_ONCE, BLOCKS, PROMPT, Reading, bounded, clocks
from told import (
    APIS,
    MOMENTS,
    THREE,
    TRACE,
    Told,
    debug_log,  # noqa: F401 - a fixture
    failing,
    make,
    timed,
)

from llmstream import Cancelled, Client, ConfigurationError, Stream
from llmstream._call.call import Progress
from llmstream.telemetry.context import current_trace_id
from llmstream.telemetry.log import LogObserver
from llmstream.telemetry.observer import Dispatcher, Observer
from llmstream.telemetry.records import CallRecord, RequestContent
from llmstream.testing import Answer, LLMServer, Pause, Reply

pytestmark = pytest.mark.usefixtures("nothing_left")

# ---- observers ---------------------------------------------------------------------------------


class OnlyTheEnd:
    def __init__(self) -> None:
        self.ends: list[CallRecord] = []

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        self.ends.append(end)


class Inherits(Observer):
    """Overrides one method; the Protocol's own cost nothing."""

    def __init__(self) -> None:
        self.seen = 0

    def on_first_token(self, call: CallRecord, at_ms: float) -> None:
        self.seen += 1


def test_several_observers_are_called_in_their_order() -> None:
    """All of them, each what it wants, in the order in which they were given."""
    order: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def on_end(self, call: CallRecord, end: CallRecord) -> None:
            order.append(self.name)

    whole, only, heir = Told(), OnlyTheEnd(), Inherits()
    client, _, _ = make(THREE, observers=[Named("a"), whole, only, Named("b"), heir, Named("c")])
    client.stream(PROMPT).result()
    assert order == ["a", "b", "c"]
    assert only.ends == [whole.end]
    assert heir.seen == 1


def test_methods_that_an_observer_lacks_cost_nothing() -> None:
    """Where no observer has on_phase or on_tokens, the reporter has nothing to call."""
    hooks = Dispatcher([OnlyTheEnd(), Inherits()]).hooks()
    assert [name for name, who in hooks.items() if who] == ["on_first_token", "on_end"]
    client, _, _ = make(THREE, observers=[OnlyTheEnd()])
    stream = client.stream(PROMPT)
    stream.result()
    watch = stream._call.ctx.reporter
    assert watch is not None
    assert (watch.phase, watch.tokens) == (None, None)


HOOKS = MOMENTS[:-1]


class Choosy(Told):
    """Wants the hooks in `wanted`, and keeps what it was asked."""

    def __init__(self, *wanted: str) -> None:
        super().__init__()
        self.wanted = wanted
        self.asked: list[str] = []

    def wants(self, hook: str) -> bool:
        self.asked.append(hook)
        return hook in self.wanted


@every("wanted", [(), *((one,) for one in HOOKS), HOOKS], ids=len)
def test_wants_is_asked_once_per_call_for_each_hook(wanted: tuple[str, ...]) -> None:
    """When the call begins, however often the hook is then called; only the wanted hooks are
    called, and the others get what they always get."""
    choosy, told = Choosy(*wanted), Told()
    replies = Reply.error(500), timed("responses", THREE)
    client, _, _ = make(*replies, *replies, observers=[choosy, told])
    for call in (1, 2):
        client.stream(PROMPT).result()
        assert Counter(choosy.asked) == dict.fromkeys(HOOKS, call)
    names = {hook.removeprefix("on_") for hook in wanted}
    assert choosy.names == [name for name in told.names if name in names]
    assert [what for _, what in choosy.moments] == [
        what for name, what in told.moments if name in names
    ]


def test_wants_holds_for_the_whole_call() -> None:
    """An answer that changes while a call runs is used by the next call."""

    class Changing(Choosy):
        def on_start(self, call: CallRecord) -> None:
            super().on_start(call)
            self.wanted = ("on_end",)

    choosy = Changing("on_start", "on_attempt")
    client, _, _ = make(THREE, THREE, observer=choosy)
    client.stream(PROMPT).result()
    assert choosy.names == ["start", "attempt"]
    client.stream(PROMPT).result()
    assert choosy.names == ["start", "attempt", "end"]


def test_wants_is_asked_only_for_the_methods_that_are_there() -> None:
    """An observer of ends is not asked about tokens."""

    class Ends(OnlyTheEnd):
        asked: tuple[str, ...] = ()

        def wants(self, hook: str) -> bool:
            self.asked += (hook,)
            return True

    ends = Ends()
    client, _, _ = make(THREE, observer=ends)
    client.stream(PROMPT).result()
    assert ends.asked == ("on_end",)
    assert len(ends.ends) == 1


def test_wants_that_fails_harms_nobody(log: pytest.LogCaptureFixture) -> None:
    """The observer gets nothing of that call, the others get everything, the answer is whole, and
    the failure is logged once."""

    class Unsure(Told):
        def wants(self, hook: str) -> bool:
            raise ValueError("an observer's own mistake")

    unsure, told = Unsure(), Told()
    replies = Reply.error(500), timed("responses", THREE)
    client, _, _ = make(*replies, *replies, observers=[unsure, told])
    reference, _, alone = make(*replies, *replies)
    for each in (client, reference):
        for _ in range(2):
            assert each.stream(PROMPT).result().text == "one two three"
    assert unsure.names == []
    assert told.names == alone.names
    (complaint,) = (r for r in log.records if r.levelno == logging.ERROR)
    assert complaint.getMessage() == (
        "the observer Unsure failed in wants (ValueError); the streams go on, and this is logged "
        "once"
    )


def test_content_is_reported_as_a_value() -> None:
    """on_content is given a RequestContent with what the caller asked, and the result."""
    turns = [{"role": "user", "content": "Why?"}]
    tools = [{"type": "function", "name": "f", "parameters": {}}]
    client, _, told = make(THREE, THREE)
    result = client.stream(turns, instructions="Be brief.", tools=tools).result()
    client.stream("Why?").result()
    (request, answer), (plain, _) = told.all("content")
    assert type(request) is RequestContent
    assert request == RequestContent(turns, "Be brief.", tools)
    assert answer == result
    assert plain == RequestContent("Why?", None, None)


@every(
    "observers",
    [
        None,
        5,
        "observer",
        [None],
        ["observer"],
        [object()],
        [Told],
        [Told(), None],
        Told(),
        [lambda: None],
        [[Told()]],
    ],
)
def test_what_cannot_observe_is_refused(observers: Any) -> None:
    """Classes, None, text, an observer without its list: a ConfigurationError at once."""
    with pytest.raises(ConfigurationError, match="observers: give a list of observers"):
        Client(base_url="http://test", observers=observers)


def test_any_iterable_of_observers_will_do() -> None:
    """A tuple, a generator, a set."""
    told = Told()
    for given in ((told,), iter([told]), {told}):
        client, _, _ = make(THREE, observers=given)
        client.stream(PROMPT).result()
    assert len(told.ends) == 3


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("moments", [*((one,) for one in MOMENTS), MOMENTS], ids=lambda m: m[0])
def test_an_observer_that_fails_harms_nobody(
    log: pytest.LogCaptureFixture, api: str, moments: tuple[str, ...]
) -> None:
    """In each method and in all of them, before and after a good observer: the answer is the same,
    the good one gets the same, and the failure is logged once for each observer."""
    replies = Reply.error(500, api=api), timed(api, THREE)
    plain, _, reference = make(*replies, api=api)
    expected = plain.stream(PROMPT, trace_id=TRACE).result()
    log.clear()
    told, bad, worse = Told(), failing(*moments), failing(*moments)
    client, _, _ = make(*replies, *replies, api=api, observers=[bad, told, worse])
    result = client.stream(PROMPT, trace_id=TRACE).result()
    for one, other in zip(result.attempts, expected.attempts, strict=True):
        assert (type(one.error), one.started_ms) == (type(other.error), other.started_ms)
    without = {"attempts": ()}
    assert msgspec.structs.replace(result, **without) == msgspec.structs.replace(
        expected, **without
    )
    assert told.names == reference.names
    assert told.end == msgspec.structs.replace(reference.end, id=told.end.id)
    client.stream(PROMPT).result()
    complaints = [r for r in log.records if r.levelno == logging.ERROR]
    assert len(complaints) == 2
    for complaint in complaints:
        assert re.fullmatch(
            r"the observer Failing failed in \w+ \(ValueError\); the streams go on, and this is "
            r"logged once",
            complaint.getMessage(),
        )
        assert complaint.exc_info
        assert isinstance(complaint.exc_info[1], ValueError)
    assert len([m for m in log.messages if m.startswith("call ended")]) == 2


@pytest.mark.parametrize("moment", MOMENTS[:-1])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_inside_an_observer_frees_everything(
    server: LLMServer,
    client_for: Callable[..., Client],
    moment: str,
    kind: type[BaseException],
) -> None:
    """Ctrl-C may come while an observer runs: it goes through, the connection is closed, and the
    others get the end of each call whose start they got."""
    server.script(Reply.error(500), Reply([*BLOCKS[:6], Pause(0.01), *BLOCKS[6:]]))
    first, last = Told(), Told()
    client = client_for(
        server, observers=[first, failing(moment, error=kind()), last], retry=AT_ONCE
    )
    stream = client.stream(PROMPT)
    with pytest.raises(kind):
        stream.result()
    assert stream._call.progress is Progress.ENDED
    for told in (first, last):
        assert len(told.calls) == len(told.ends) == 1
        assert told.names[-1] == "end"
        assert len(told.attempts) == len(told.end.attempts)
    assert current_trace_id() is None
    client.close()
    server.wait_all_closed()


def test_a_real_ctrl_c_inside_an_observer(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """SIGINT while on_tokens runs: KeyboardInterrupt to the caller, one end to the observers."""

    class Signalling(Told):
        def on_tokens(self, *what: Any) -> None:
            signal.raise_signal(signal.SIGINT)

    told = Signalling()
    client = client_for(server, observers=[told])
    stream = client.stream(PROMPT)
    with pytest.raises(KeyboardInterrupt):
        stream.result()
    assert (told.end.outcome, told.end.reason) == ("cancelled", "interrupted")
    client.close()
    server.wait_all_closed()


def test_one_observer_of_many_clients_and_threads(
    server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """Five clients, twenty threads, a hundred calls: each call is reported completely, in order,
    under an id of its own."""
    told = Told()
    server.default = server.echo
    clients = [client_for(server, observers=[told], timeouts=clocks()) for _ in range(5)]

    def work(number: int) -> None:
        for call in range(5):
            client = clients[(number + call) % 5]
            client.stream(f"a b c {number}", trace_id=f"{number}-{call}").result()

    unused = clients[0].stream(PROMPT)
    workers = [Reading(unused, lambda _, n=n: work(n)) for n in range(20)]
    assert [worker.ended() for worker in workers] == [None] * 20
    assert len({call.id for call in told.calls}) == len(told.ends) == 100
    assert {end.trace_id for end in told.ends} == {f"{n}-{c}" for n in range(20) for c in range(5)}
    for call in told.calls:
        mine = [name for name, what in told.moments if what[0] is call]
        assert mine[0] == "start"
        assert mine[-1] == "end"
        assert Counter(mine)["first_token"] == Counter(mine)["end"] == 1


ACTIONS: dict[str, Callable[[Stream], Any]] = {
    "cancel": Stream.cancel,
    "close": Stream.close,
    "attempts": lambda stream: [repr(one) for one in stream.attempts],
    "text": lambda stream: (stream.text, stream.usage, stream.request_id, repr(stream)),
    "state": lambda stream: (stream.state.in_order(), stream.thinking, stream.response_id),
    "result": Stream.result,
    "next": next,
    "with": Stream.__enter__,
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("action", ACTIONS)
def test_observers_that_call_back(log: pytest.LogCaptureFixture, action: str, moment: str) -> None:
    """Into the very stream that is reported to them, in every method: nothing hangs, nothing
    breaks; a cancel ends it, reading a second time is refused and logged, the rest does nothing."""
    act, held = ACTIONS[action], []

    def call_back(self: Any, *what: Any) -> dict[str, str]:
        act(held[0])
        return {}

    observer = type("Calling", (), {moment: call_back})()
    told = Told()
    client, _, _ = make(Reply.error(500), timed("responses", THREE), observers=[observer, told])
    held.append(client.stream(PROMPT))
    reading = bounded(held[0], Stream.result)
    ends = action in ("cancel", "close") and moment not in ("on_content", "on_end")
    complete = action == "close" and moment == "on_attempt"
    if ends and not complete:
        assert type(reading.error) is Cancelled
    else:
        assert reading.error is None or type(reading.error) is Cancelled
        if reading.error is None:
            assert reading.value.text == "one two three"
    assert len(told.ends) == 1
    assert told.names[-1] == "end"
    complaints = [r for r in log.records if r.levelno == logging.ERROR]
    assert len(complaints) == (action in ("result", "next"))


def test_an_observer_may_make_calls_itself() -> None:
    """A stream read to its end inside on_end of another: both are reported, both end."""
    held: list[Client] = []

    class Grading(Told):
        def on_end(self, call: CallRecord, end: CallRecord) -> None:
            super().on_end(call, end)
            if call.trace_id == "outer":
                assert held[0].stream("Is this right?", trace_id="inner").result().text

    client, _, told = make(THREE, Answer("yes"), observer=Grading())
    held.append(client)
    assert client.stream(PROMPT, trace_id="outer").result().text == "one two three"
    assert [end.trace_id for end in told.ends] == ["outer", "inner"]
    assert current_trace_id() is None


def test_none_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without observers and with the logger silenced there is no reporter at all; with either one
    there is."""

    def watched(*observers: Any) -> bool:
        dispatcher = Dispatcher(observers)
        return dispatcher.listens(dispatcher.hooks())

    logger = logging.getLogger("llmstream")
    monkeypatch.setattr(logger, "level", logging.ERROR)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    assert (watched(), watched(LogObserver()), watched(OnlyTheEnd())) == (False, False, True)
    client, _, _ = make(THREE, observers=[])
    stream = client.stream(PROMPT)
    stream.result()
    assert stream._call.ctx.reporter is None
    assert stream._call.ctx.scope.listener is None
    monkeypatch.setattr(logger, "level", logging.WARNING)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    assert watched(LogObserver())
    assert not watched()
    logging.disable(logging.CRITICAL)
    try:
        assert not watched(LogObserver())
    finally:
        logging.disable(logging.NOTSET)
        logger.manager._clear_cache()  # type: ignore[attr-defined]


# ---- propagators -----------------------------------------------------------------------------


class Parent:
    def __init__(self, headers: Any) -> None:
        self.headers = headers
        self.calls: list[CallRecord] = []

    def request_headers(self, call: CallRecord) -> Any:
        self.calls.append(call)
        return self.headers


def test_whose_headers_win(server: LLMServer) -> None:
    """The caller's over the observers', the last observer's over the first's, theirs over the
    default; but none over the key and the content type. They are asked for before every attempt."""
    server.script(Reply.error(500), THREE)
    first = Parent({"TraceParent": "first", "x-first": "1", "x-mine": "observer"})
    second = Parent({"traceparent": "second", "tracestate": "a=b", "Authorization": "observer"})
    with Client(
        base_url=server.base_url,
        api_key="test-key",
        retry=AT_ONCE,
        observers=[first, second],
        headers={"X-Mine": "client"},
    ) as client:
        client.stream(PROMPT, headers={"tracestate": "call"}).result()
        client.stream(PROMPT, headers={"Traceparent": "call"}).result()
    for request in server.requests[:2]:
        sent = request.headers
        assert (sent["traceparent"], sent["tracestate"]) == ("second", "call")
        assert (sent["x-first"], sent["x-mine"]) == ("1", "client")
        assert sent["authorization"] == "Bearer test-key"
        assert sent["content-type"] == "application/json"
    assert server.requests[2].headers["traceparent"] == "call"
    assert len(first.calls) == len(second.calls) == 3


@pytest.mark.parametrize(
    "headers",
    [
        None,
        5,
        ["traceparent"],
        {"traceparent": "two\r\nlines: x"},
        {"a name": "x"},
        {"": "x"},
        {"x-nul": "\x00"},
        {"x-surrogate": "\ud800"},
    ],
    ids=repr,
)
def test_headers_that_are_none_break_no_stream(
    server: LLMServer, log: pytest.LogCaptureFixture, headers: Any
) -> None:
    """What an observer gives that HTTP cannot carry is left out, and logged once."""
    with Client(
        base_url=server.base_url, api_key="test-key", observers=[Parent(headers)]
    ) as client:
        for _ in range(2):
            assert client.stream(PROMPT, trace_id=TRACE).result().text
    assert TRACE in server.requests[0].headers["traceparent"]
    assert len([r for r in log.records if r.levelno == logging.ERROR]) == 1


# ---- calls inside of calls -----------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["connect", "send", "headers", "first_token", "body"])
def test_an_observer_may_make_a_call_of_its_own(server: LLMServer, moment: str) -> None:
    """In any phase of the call that is reported to it: both calls succeed."""
    texts: list[str] = []

    class Asks:
        def on_phase(self, call: CallRecord, phase: str, at_ms: float) -> None:
            if phase == moment and not texts:
                texts.append("")
                texts.append(inner.stream("inner").result().text)

    with (
        Client(base_url=server.base_url, model="m", api_key="k") as inner,
        Client(base_url=server.base_url, model="m", api_key="k", observers=[Asks()]) as outer,
    ):
        answer = outer.stream("outer").result().text
    assert texts == ["", answer]


def test_async_observers_are_refused() -> None:
    """They would not be awaited: an error when the client is made, instead of silence."""

    class Waits:
        async def on_end(self, call: CallRecord, end: CallRecord) -> None: ...

    class AsksLater(OnlyTheEnd):
        async def wants(self, hook: str) -> bool:
            return True

    class Sends:
        async def request_headers(self, call: CallRecord) -> dict[str, str]:
            return {}

    for observer in (Waits(), AsksLater(), Sends()):
        with pytest.raises(ConfigurationError, match="is async, and would not be awaited"):
            Client(base_url="http://test", observers=[observer])
