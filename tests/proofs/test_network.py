"""Real networks that fail: two hosts (Linux network namespaces) and what comes between them, then
nginx in between. Each stream has to end, by the right clock or the right error, with exactly the
text that came; or to go on as if nothing had been.

Nothing is mocked: packets are dropped by the kernel's firewall, links go down, processes are
killed. The calls are made by a program of its own on the one host (`network/caller.py`), several
at once, since what happens to a network happens to all. Needs root, iproute2, nftables and nginx.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from network.namespaces import (
    CALLER,
    SECOND,
    SERVICE,
    Caller,
    Net,
    Service,
    needs_namespaces,
    run,
)
from network.proxy import Nginx
from network.service import ENDLESS, WHOLE, words
from support import (
    ANSWER,
    AT_ONCE,
    ONCE,
    PATIENCE,
    PROMPT,
    TWO_TOKENS,
    Reading,
    bounded,
    clocks,
    eventually,
    failure,
    read_request,
)

from llmstream import (
    AuthenticationError,
    Cancelled,
    Client,
    ConnectionFailed,
    IdleTimeout,
    InvalidRequestError,
    LLMStreamError,
    NotAStreamError,
    OverloadedError,
    RateLimitError,
    ServerError,
    SilenceTimeout,
    Stream,
    StreamInterrupted,
    StreamTruncated,
)
from llmstream._core.dialects import APIS as APIS_OF
from llmstream.testing import Cut, LLMServer, Recorded, Reply, Reset, Silence
from llmstream.testing.answers import api_of_path

pytestmark = pytest.mark.network

APIS = ("responses", "messages", "chat", "gemini")
SOON = 0.7  # seconds of a clock that is to break
LATE = 8.0  # seconds more than a clock, on a machine that has much to do
FRAMINGS = ("chunked", "close")
ENDLESS_CHUNKED = f"{ENDLESS} chunked"
WHOLE_CHUNKED = f"{WHOLE} chunked"
# An API, over what, and the clocks that are near.
PLAIN = [(api, "http", {}) for api in APIS]
ALL = [*PLAIN, ("responses", "tls", {}), ("messages", "tls", {})]
# What is larger than an opening of a connection, and so is a request, an answer, a TLS hello.
DATA = "ip length > 100"
OF_THE_SERVICE = f"ip saddr {SERVICE}"


# ---- two hosts ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    needs_namespaces()
    made = Net(tmp_path_factory.mktemp("hosts"))
    yield made
    made.remove()


@pytest.fixture
def net(hosts: Net) -> Iterator[Net]:
    """Two hosts in good order."""
    hosts.heal()
    yield hosts
    hosts.end_callers()
    hosts.heal()


def with_clock(wishes: list[Any], **near: float) -> list[Any]:
    return [(api, scheme, near) for api, scheme, _ in wishes]


def check_cut(outcome: dict[str, Any], *errors: str) -> None:
    """An error in the middle of an answer: once, with what had come."""
    assert outcome["error"] in errors, outcome
    assert outcome["phase"] == "body", outcome
    assert outcome["attempts"] == [[outcome["error"], "body", False]], outcome
    text = outcome["text"]
    assert text.count("word") >= 3, outcome
    assert words(ENDLESS).startswith(text), outcome
    assert text != words(ENDLESS), outcome


def check_whole(outcome: dict[str, Any], text: str = words(WHOLE)) -> None:
    """The whole answer, at the first attempt."""
    assert outcome["error"] is None, outcome
    assert outcome["text"] == text, outcome
    assert outcome["finish"] == "stop", outcome
    assert outcome["attempts"] == [[None, "done", False]], outcome


def drop_answers(net: Net) -> None:
    net.firewall(net.caller, "input", f"{OF_THE_SERVICE} counter drop")


def drop_everything(net: Net) -> None:
    net.firewall(net.service, "input", "counter drop")
    net.firewall(net.service, "output", "counter drop")


def take_the_service_off(net: Net) -> None:
    net.link(net.service, "down")


def unplug_the_caller(net: Net) -> None:
    net.link(net.caller, "down")


def take_the_address(net: Net) -> None:
    run("ip", "-n", net.caller, "addr", "flush", "dev", "net0")


def stop_the_service(net: Net) -> None:
    net.server.signal(signal.SIGSTOP)


def reset_by_firewall(net: Net) -> None:
    # The answer to the caller's acknowledgements: it goes to the caller.
    net.firewall(net.service, "input", "meta l4proto tcp counter reject with tcp reset")


def destroy_sockets(net: Net, host: str) -> None:
    """As `ss -K` does, and a phone that changes its network."""
    select = ["-tnH", "state", "established"]
    destroyed = connections_of(run(*net.on(host), "ss", "-K", *select))
    if not destroyed or destroyed & connections_of(run(*net.on(host), "ss", *select)):
        pytest.skip("this kernel cannot destroy sockets (CONFIG_INET_DIAG_DESTROY)")


def connections_of(told: str) -> set[tuple[str, str]]:
    """Both ends of each connection that `ss` tells of."""
    fields = [line.split() for line in told.splitlines()]
    return {(one[-2], one[-1]) for one in fields}


def destroy_the_callers_sockets(net: Net) -> None:
    destroy_sockets(net, net.caller)


def destroy_the_services_sockets(net: Net) -> None:
    destroy_sockets(net, net.service)


def kill_the_service(net: Net) -> None:
    net.server.signal(signal.SIGKILL)


Fault = Callable[[Net], None]
SILENT: list[Fault] = [
    drop_answers,
    drop_everything,
    take_the_service_off,
    unplug_the_caller,
    take_the_address,
    stop_the_service,
]
RESETTING: list[Fault] = [
    reset_by_firewall,
    destroy_the_callers_sockets,
    destroy_the_services_sockets,
]


def name_of(value: Any) -> str | None:
    return value.__name__ if callable(value) else None


@pytest.mark.parametrize("fault", SILENT, ids=name_of)
def test_silence_in_mid_stream_breaks_the_shorter_clock(net: Net, fault: Fault) -> None:
    wishes = [
        (api, scheme, {clock: SOON})
        for scheme, apis in (("http", APIS), ("tls", ("responses",)))
        for api in apis
        for clock in ("idle", "silence")
    ]
    caller = net.call(*wishes, prompt=ENDLESS_CHUNKED, attempts=2)
    caller.until_tokens()
    fault(net)
    for (_, _, near), outcome in zip(wishes, caller.outcomes(), strict=True):
        check_cut(outcome, "IdleTimeout" if "idle" in near else "SilenceTimeout")
        assert SOON * 0.8 <= outcome["quiet"] <= SOON + LATE, outcome


def test_a_dead_stream_ends_at_its_hard_deadline(net: Net) -> None:
    total = 3.0
    caller = net.call(*with_clock(ALL, total=total), prompt=ENDLESS_CHUNKED)
    caller.until_tokens()
    drop_answers(net)
    for outcome in caller.outcomes():
        check_cut(outcome, "DeadlineExceeded")
        assert total * 0.9 <= outcome["seconds"] <= total + LATE, outcome


@pytest.mark.parametrize(
    "fault", [drop_answers, drop_everything, take_the_service_off], ids=name_of
)
def test_a_short_outage_is_survived(net: Net, fault: Fault) -> None:
    caller = net.call(*ALL, prompt=WHOLE_CHUNKED)
    caller.until_tokens()
    fault(net)
    net.until_resending(len(ALL))
    net.heal()
    for outcome in caller.outcomes():
        check_whole(outcome)


def test_a_service_that_was_stopped_for_a_while_is_waited_for(net: Net) -> None:
    near = 6.0
    caller = net.call(*with_clock(ALL, idle=near, silence=near), prompt=WHOLE_CHUNKED)
    caller.until_tokens()
    net.server.signal(signal.SIGSTOP)
    caller.until_quiet(0.6)
    net.server.signal(signal.SIGCONT)
    for outcome in caller.outcomes():
        check_whole(outcome)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("fault", RESETTING, ids=name_of)
def test_a_reset_in_mid_stream_is_an_interruption(net: Net, fault: Fault, framing: str) -> None:
    caller = net.call(*ALL, prompt=f"{ENDLESS} {framing}", attempts=3)
    caller.until_tokens()
    fault(net)
    for (_, scheme, _), outcome in zip(ALL, caller.outcomes(), strict=True):
        if (scheme, framing) == ("tls", "close") and sys.version_info < (3, 13):
            # ssl of an older Python takes a reset for an end of file (CPython's gh-115627).
            check_cut(outcome, "StreamInterrupted", "StreamTruncated")
        else:
            check_cut(outcome, "StreamInterrupted")
        assert outcome["quiet"] < LATE, outcome


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_killed_service_is_never_a_success(net: Net, framing: str) -> None:
    caller = net.call(*ALL, prompt=f"{ENDLESS} {framing}", attempts=3)
    caller.until_tokens()
    kill_the_service(net)
    for outcome in caller.outcomes():
        # Where the end of the connection is the end of the body, HTTP sees nothing wrong.
        check_cut(outcome, "StreamInterrupted" if framing == "chunked" else "StreamTruncated")
        assert outcome["quiet"] < LATE, outcome


# ---- two hosts: before the answer --------------------------------------------------------------


def test_a_lost_answer_breaks_the_first_token_clock(net: Net) -> None:
    net.firewall(net.caller, "input", f"{OF_THE_SERVICE} {DATA} counter drop")
    # Silence is counted from the first content on, and so does not break here.
    near = {"first_token": 2 * SOON, "silence": SOON / 2}
    caller = net.call(*with_clock(PLAIN, **near), prompt=WHOLE_CHUNKED, attempts=3)
    for outcome in caller.outcomes():
        assert outcome["attempts"] == [["FirstTokenTimeout", "headers", False]], outcome
        assert 1.6 * SOON <= outcome["seconds"] <= 2 * SOON + LATE, outcome
    # It was asked once, and may bill once.
    assert net.server.asked(caller.trace)["requests"] == len(PLAIN)


def test_a_lost_request_breaks_the_first_token_clock(net: Net) -> None:
    net.firewall(net.service, "input", f"{DATA} counter drop")
    caller = net.call(*with_clock(PLAIN, first_token=SOON), prompt=WHOLE_CHUNKED, attempts=3)
    for outcome in caller.outcomes():
        assert outcome["attempts"] == [["FirstTokenTimeout", "headers", False]], outcome
        assert SOON * 0.8 <= outcome["seconds"] <= SOON + LATE, outcome
    assert net.server.asked(caller.trace)["requests"] == 0


def test_a_request_that_was_delayed_by_a_loss_is_answered(net: Net) -> None:
    net.firewall(net.service, "input", f"{DATA} counter drop")
    caller = net.call(*ALL, prompt="3 chunked")
    net.until_counted(3 * len(ALL))  # what is lost is sent again
    net.heal()
    for outcome in caller.outcomes():
        check_whole(outcome, words(3))
    assert net.server.asked(caller.trace)["requests"] == len(ALL)


@pytest.mark.parametrize(
    ("rule", "phase"), [("tcp flags syn", "connect"), (DATA, "tls")], ids=["syn", "tls-hello"]
)
def test_a_dropped_connect_breaks_the_connect_clock(net: Net, rule: str, phase: str) -> None:
    net.firewall(net.service, "input", f"{rule} counter drop")
    schemes = [one for one in ALL if phase == "connect" or one[1] == "tls"]
    caller = net.call(*with_clock(schemes, connect=SOON), prompt=WHOLE_CHUNKED, attempts=2)
    for outcome in caller.outcomes():
        assert outcome["attempts"] == [["ConnectTimeout", phase, False]] * 2, outcome
        assert 1.6 * SOON <= outcome["seconds"] <= 2 * SOON + LATE, outcome
    assert net.counted() >= 2 * len(schemes)
    assert net.server.asked(caller.trace)["requests"] == 0


def test_a_connect_that_is_dropped_for_a_while_succeeds(net: Net) -> None:
    net.firewall(net.service, "input", "tcp flags syn counter drop")
    caller = net.call(*ALL, prompt="3 chunked")
    net.until_counted(len(ALL))
    net.heal()
    for outcome in caller.outcomes():
        check_whole(outcome, words(3))


REJECTIONS = ["tcp reset", *(f"icmp type {t}" for t in ("port-unreachable", "admin-prohibited"))]


@pytest.mark.parametrize("how", [*REJECTIONS, "route unreachable", "route prohibit"])
def test_a_rejected_connect_fails_at_once(net: Net, how: str) -> None:
    kind, _, route = how.partition("route ")
    if route:
        run("ip", "-n", net.caller, "route", "add", route, f"{SERVICE}/32")
    else:
        rule = f"meta l4proto tcp counter reject with {kind}"
        net.firewall(net.service, "input", rule)
    caller = net.call(*ALL, prompt=WHOLE_CHUNKED, attempts=2)
    for outcome in caller.outcomes():
        assert outcome["attempts"] == [["ConnectionFailed", "connect", False]] * 2, outcome
        assert outcome["seconds"] < LATE, outcome
    assert net.server.asked(caller.trace)["requests"] == 0


def test_a_reset_before_the_headers_is_asked_again(net: Net) -> None:
    net.firewall(net.caller, "input", f"{OF_THE_SERVICE} {DATA} counter drop")
    caller = net.call(*PLAIN, prompt="3 chunked", attempts=2)
    asked = lambda: net.server.asked(caller.trace)["requests"]  # noqa: E731
    eventually(lambda: asked() == len(PLAIN), "the requests have arrived")
    destroy_the_services_sockets(net)
    net.heal()
    for outcome in caller.outcomes():
        assert outcome["attempts"] == [
            ["ConnectionFailed", "headers", False],
            [None, "done", False],
        ], outcome
        assert outcome["text"] == words(3), outcome
    assert asked() == 2 * len(PLAIN)


# ---- two hosts: cancelling ---------------------------------------------------------------------


def cancelled(caller: Caller) -> list[dict[str, Any]]:
    caller.tell("cancel")
    outcomes = caller.outcomes()
    for outcome in outcomes:
        assert outcome["error"] == "Cancelled", outcome
        assert 0 <= outcome["after_cancel"] < LATE, outcome
        assert len(outcome["attempts"]) == 1, outcome
    return outcomes


@pytest.mark.parametrize("fault", [drop_answers, drop_everything, stop_the_service], ids=name_of)
def test_a_cancel_ends_a_dead_stream_at_once(net: Net, fault: Fault) -> None:
    caller = net.call(*ALL, prompt=ENDLESS_CHUNKED)
    caller.until_tokens()
    fault(net)
    if fault is not stop_the_service:
        net.until_resending(len(ALL))
    for outcome in cancelled(caller):
        check_cut(outcome, "Cancelled")


@pytest.mark.parametrize(
    ("rule", "phases"),
    [("tcp flags syn", {"connect"}), (DATA, {"headers", "tls"})],
    ids=["connect", "request"],
)
def test_a_cancel_ends_a_dead_start_at_once(net: Net, rule: str, phases: set[str]) -> None:
    net.firewall(net.service, "input", f"{rule} counter drop")
    caller = net.call(*ALL, prompt=ENDLESS_CHUNKED)
    net.until_counted(len(ALL))
    net.until_blocked(len(ALL))
    assert {outcome["phase"] for outcome in cancelled(caller)} == phases


def test_the_service_sees_a_cancel_when_the_network_is_back(net: Net) -> None:
    caller = net.call(*ALL, prompt=ENDLESS_CHUNKED)
    caller.until_tokens()
    drop_everything(net)
    cancelled(caller)
    net.heal()
    done = {"requests": len(ALL), "closed": len(ALL)}
    eventually(lambda: net.server.asked(caller.trace) == done, "the service sees the close")


# ---- two hosts: connections that went stale, names, bad wires ------------------------------------


@pytest.mark.parametrize("how", ["reset", "silent"])
def test_a_connection_that_the_firewall_forgot(net: Net, how: str) -> None:
    near = with_clock(ALL, first_token=3.0)
    caller = net.call(*near, prompt="3 chunked", rounds=2)
    caller.until_round_over()
    established = run(*net.on(net.caller), "ss", "-tnH", "state", "established")
    ports = re.findall(rf"{re.escape(CALLER)}:(\d+)", established)
    assert ports
    effect = "reject with tcp reset" if how == "reset" else "drop"
    net.firewall(net.service, "input", f"tcp sport {{ {', '.join(ports)} }} counter {effect}")
    caller.tell("again")
    outcomes = caller.outcomes()
    # Only where the end of the first answer came at once is the connection kept and used again;
    # a busy machine may prevent that.
    fresh = [one for one in outcomes if one["attempts"] == [[None, "done", False]]]
    met = [one for one in outcomes if one not in fresh]
    assert met
    for outcome in met:
        if how == "reset":  # nothing had come back: it is sent again, and costs no attempt
            assert [(one[0], one[2]) for one in outcome["attempts"]] == [
                ("ConnectionFailed", True),
                (None, False),
            ], outcome
        else:  # it cannot be known whether the request arrived
            assert outcome["attempts"] == [["FirstTokenTimeout", "headers", False]], outcome
    for outcome in outcomes if how == "reset" else fresh:
        assert outcome["text"] == words(3), outcome
    lost = len(met) if how == "silent" else 0
    assert net.server.asked(caller.trace)["requests"] == 2 * len(ALL) - lost


def by_name(url: str) -> str:
    return url.replace(SERVICE, "service.test")


@pytest.mark.parametrize("effect", ["drop", "reject with tcp reset"])
def test_the_second_address_of_a_name_is_tried(net: Net, effect: str) -> None:
    net.configure(net.caller, hosts=f"{SECOND} service.test\n{SERVICE} service.test\n")
    net.firewall(net.service, "input", f"ip daddr {SECOND} counter {effect}")
    near = with_clock(PLAIN, connect=3.0)
    caller = net.call(*near, prompt="3 chunked", rename=by_name)
    for outcome in caller.outcomes():
        check_whole(outcome, words(3))
    assert net.counted() >= len(PLAIN)  # the first address was tried, and did not answer


@pytest.mark.parametrize(
    ("effect", "error"), [("drop", "ConnectTimeout"), ("accept", "ConnectionFailed")]
)
def test_a_name_server_that_is_dead(net: Net, effect: str, error: str) -> None:
    # Nobody listens there: what is not dropped is answered by the kernel, with ICMP.
    resolver = f"nameserver {SERVICE}\noptions timeout:1 attempts:1\n"
    net.configure(net.caller, hosts="", resolv_conf=resolver)
    net.firewall(net.service, "input", f"udp dport 53 counter {effect}")
    near = with_clock(PLAIN, connect=SOON if effect == "drop" else 20.0)
    caller = net.call(*near, prompt="3 chunked", rename=by_name)
    for outcome in caller.outcomes():
        assert outcome["attempts"] == [[error, "connect", False]], outcome
        assert outcome["seconds"] < SOON + LATE, outcome
    assert net.counted() >= 1


@pytest.mark.parametrize(
    ("delay", "spread", "loss", "double", "proof"),
    [
        (0.15, 0.0, 0.0, 0.0, "frames"),
        (0.0, 0.0, 0.08, 0.0, "lost"),
        (0.0, 0.06, 0.02, 0.2, "overtaken"),
    ],
    ids=["slow", "losing", "reordering-and-doubling"],
)
def test_a_bad_wire_changes_nothing(
    tmp_path: Path, delay: float, spread: float, loss: float, double: float, proof: str
) -> None:
    needs_namespaces()
    bad = Net(tmp_path, [str(one) for one in (delay, spread, loss, double)])
    try:
        caller = bad.call(*ALL, prompt=WHOLE_CHUNKED)
        for outcome in caller.outcomes():
            check_whole(outcome)
            assert outcome["seconds"] > 2 * delay, outcome
        assert bad.wire is not None
        bad.wire.tell("how was it?")
        facts = json.loads(bad.wire.line())
        assert facts[proof] > 20, facts
    finally:
        bad.remove()


# ---- nginx in between --------------------------------------------------------------------------

StartNginx = Callable[..., Nginx]
Connect = Callable[..., Client]

BUFFERED = ("proxy_buffering on",)
UNBUFFERED = ("proxy_buffering off", "proxy_http_version 1.1")
GZIP = ("gzip on", "gzip_types text/event-stream", "gzip_proxied any", "gzip_min_length 1")
SHORT = "proxy_read_timeout 1s"
WAYS = [BUFFERED, UNBUFFERED, (*BUFFERED, *GZIP), (*UNBUFFERED, *GZIP)]
WAY_NAMES = ["buffered", "unbuffered", "buffered-gzip", "unbuffered-gzip"]
ways = pytest.mark.parametrize("way", WAYS, ids=WAY_NAMES)
apis = pytest.mark.parametrize("api", APIS)


@pytest.fixture
def nginx(tmp_path: Path, nothing_left: None) -> Iterator[StartNginx]:
    """`nginx(upstream's url, *directives, tls=False)` starts one."""
    made: list[Nginx] = []

    def start(upstream: str, *directives: str, tls: bool = False) -> Nginx:
        folder = tmp_path / f"nginx-{len(made)}"
        made.append(Nginx(folder, upstream, *directives, tls=tls))
        return made[-1]

    yield start
    for one in made:
        one.end()


@pytest.fixture
def process(tmp_path: Path, nothing_left: None) -> Iterator[Service]:
    """A service that can be killed."""
    started = Service("127.0.0.1", tmp_path)
    yield started
    started.end()


@pytest.fixture
def connect(nothing_left: None) -> Iterator[Connect]:
    """`connect(api, proxy, **settings)` is a client behind it, which takes gzip."""
    clients: list[Client] = []

    def made(api: str, proxy: Nginx, **settings: Any) -> Client:
        base_url = proxy.url + APIS_OF[api].base_path
        known: dict[str, Any] = {
            "base_url": base_url,
            "model": "test-model",
            "retry": ONCE,
            "headers": {"accept-encoding": "gzip"},
            "timeouts": clocks(),
        }
        if proxy.ca_file:
            known["verify"] = proxy.ca_file
        clients.append(Client(api, **{**known, **settings}))
        return clients[-1]

    yield made
    for client in clients:
        client.close()


def blocks_of(recorded: Recorded) -> tuple[list[bytes], int]:
    """The answer on the wire, and how many of its blocks bring "one two"."""
    api = api_of_path(recorded.path)
    assert api is not None
    blocks = ANSWER.blocks(api)
    return blocks, 1 + next(n for n, block in enumerate(blocks) if b'" two"' in block)


def after_two_tokens(*steps: Any, framing: Any = "chunked") -> Callable[[Recorded], Reply]:
    """A reply that begins well; then come the steps."""

    def reply(recorded: Recorded) -> Reply:
        blocks, count = blocks_of(recorded)
        return Reply([*blocks[:count], *steps], framing=framing)

    return reply


@pytest.mark.parametrize("tls", [False, True], ids=["http", "tls"])
@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
@ways
def test_nginx_passes_the_whole_answer(
    server: LLMServer,
    nginx: StartNginx,
    connect: Connect,
    way: tuple[str, ...],
    framing: Any,
    tls: bool,
) -> None:
    server.default = Reply(ANSWER, framing=framing)
    proxy = nginx(server.url, *way, tls=tls)
    for api in APIS:
        result = bounded(connect(api, proxy).stream(PROMPT), Stream.result).value
        assert result is not None, (api, proxy.log())
        assert (result.text, result.finish) == ("one two three four", "stop")
        assert len(result.attempts) == 1


@apis
@pytest.mark.parametrize("way", [UNBUFFERED, (*UNBUFFERED, *GZIP)], ids=["plain", "gzip"])
def test_tokens_come_through_nginx_at_once(
    server: LLMServer, nginx: StartNginx, connect: Connect, api: str, way: tuple[str, ...]
) -> None:
    server.default = after_two_tokens(Silence())
    reading = Reading(connect(api, nginx(server.url, *way)).stream(PROMPT))
    eventually(lambda: reading.tokens == ["one", " two"], "the tokens come while it is silent")
    reading.stream.cancel()
    assert isinstance(reading.ended(), Cancelled)
    server.wait_closed(0, PATIENCE)


def test_the_header_against_buffering_is_obeyed(
    server: LLMServer, nginx: StartNginx, connect: Connect
) -> None:
    def reply(recorded: Recorded) -> Reply:
        blocks, count = blocks_of(recorded)
        return Reply([*blocks[:count], Silence()], headers={"X-Accel-Buffering": "no"})

    server.default = reply
    reading = Reading(connect("responses", nginx(server.url, *BUFFERED)).stream(PROMPT))
    eventually(lambda: reading.tokens == ["one", " two"], "the tokens come while it is silent")
    reading.stream.cancel()
    assert isinstance(reading.ended(), Cancelled)


def check_cut_through_nginx(error: LLMStreamError, way: tuple[str, ...], *kinds: type) -> None:
    assert type(error) in kinds, repr(error)
    text = error.partial.text
    # With buffering, what nginx still held is lost.
    assert text == "one two" if "proxy_buffering off" in way else "one two".startswith(text)
    assert error.partial.finish is None
    assert len(error.attempts) == 1


@ways
def test_an_idle_upstream_that_nginx_cuts_is_no_success(
    server: LLMServer, nginx: StartNginx, connect: Connect, way: tuple[str, ...]
) -> None:
    server.default = after_two_tokens(Silence())
    proxy = nginx(server.url, *way, SHORT)
    for reading in [Reading(connect(api, proxy).stream(PROMPT)) for api in APIS]:
        error = reading.ended()
        assert isinstance(error, LLMStreamError)
        check_cut_through_nginx(error, way, StreamInterrupted)


@apis
@ways
@pytest.mark.parametrize("end", [Cut(), Cut(last_chunk=True), Reset()], ids=["fin", "end", "reset"])
def test_an_upstream_that_ends_early_is_no_success(
    server: LLMServer, nginx: StartNginx, connect: Connect, api: str, way: tuple[str, ...], end: Any
) -> None:
    server.default = after_two_tokens(end)
    error = failure(connect(api, nginx(server.url, *way)).stream(PROMPT))
    clean = isinstance(end, Cut) and end.last_chunk
    check_cut_through_nginx(error, way, StreamTruncated if clean else StreamInterrupted)


@ways
def test_the_end_of_a_close_delimited_upstream_is_no_success(
    server: LLMServer, nginx: StartNginx, connect: Connect, way: tuple[str, ...]
) -> None:
    # nginx cannot know, and makes a clean end of it.
    server.default = after_two_tokens(Cut(), framing="close")
    for api in APIS:
        error = failure(connect(api, nginx(server.url, *way)).stream(PROMPT))
        check_cut_through_nginx(error, way, StreamTruncated)


@pytest.mark.parametrize("whole", [True, False])
@ways
def test_an_upstream_of_http_1_0(
    raw_server: Any, nginx: StartNginx, connect: Connect, way: tuple[str, ...], whole: bool
) -> None:
    blocks = ANSWER.blocks() if whole else TWO_TOKENS

    def reply(sock: socket.socket) -> None:
        read_request(sock)
        head = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        sock.sendall(head + b"".join(blocks))

    stream = connect("responses", nginx(raw_server(reply).url, *way)).stream(PROMPT)
    if whole:
        assert bounded(stream).tokens == ANSWER.text_deltas
        assert stream.result().finish == "stop"
    else:
        check_cut_through_nginx(failure(stream), way, StreamTruncated)


def read_some(stream: Any, count: int = 3) -> Reading:
    reading = Reading(stream)
    eventually(lambda: len(reading.tokens) >= count, "tokens come")
    return reading


@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_upstream_that_is_killed_is_no_success(
    process: Service, nginx: StartNginx, connect: Connect, framing: str
) -> None:
    proxy = nginx(process.url, *UNBUFFERED)
    prompt = f"{ENDLESS} {framing}"
    readings = [read_some(connect(api, proxy).stream(prompt)) for api in APIS]
    process.signal(signal.SIGKILL)
    for reading in readings:
        error = reading.ended()
        cut = StreamInterrupted if framing == "chunked" else StreamTruncated
        assert type(error) is cut, repr(error)
        assert reading.stream.text == "".join(reading.tokens)
        assert words(ENDLESS).startswith(reading.stream.text)


@pytest.mark.parametrize("end", [Nginx.kill, Nginx.terminate], ids=name_of)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "tls"])
def test_a_killed_nginx_is_an_interruption(
    process: Service, nginx: StartNginx, connect: Connect, end: Callable[[Nginx], None], tls: bool
) -> None:
    proxy = nginx(process.url, *UNBUFFERED, tls=tls)
    clients = [connect(api, proxy, retry=AT_ONCE) for api in APIS]
    readings = [read_some(client.stream(ENDLESS_CHUNKED)) for client in clients]
    end(proxy)
    for reading in readings:
        error = reading.ended()
        assert type(error) is StreamInterrupted, repr(error)
        assert error.partial.text == "".join(reading.tokens)
        assert len(error.attempts) == 1


def test_a_stopped_nginx_breaks_the_clocks(
    process: Service, nginx: StartNginx, connect: Connect
) -> None:
    proxy = nginx(process.url, *UNBUFFERED)
    idle = connect("responses", proxy, timeouts=clocks(idle=SOON))
    silence = connect("chat", proxy, timeouts=clocks(silence=SOON))
    readings = [read_some(client.stream(ENDLESS_CHUNKED)) for client in (idle, silence)]
    proxy.stop()
    assert type(readings[0].ended()) is IdleTimeout
    assert type(readings[1].ended()) is SilenceTimeout


def test_a_client_goes_on_after_nginx_was_replaced(
    server: LLMServer, nginx: StartNginx, connect: Connect
) -> None:
    proxy = nginx(server.url, *UNBUFFERED)
    client = connect("responses", proxy)
    server.default = ANSWER
    assert bounded(client.stream(PROMPT)).tokens == ANSWER.text_deltas
    proxy.kill()
    proxy.restart()
    reading = bounded(client.stream(PROMPT))
    assert (reading.tokens, reading.error) == (ANSWER.text_deltas, None)
    assert len(server.requests) == 2


# ---- nginx: its own answers --------------------------------------------------------------------


@apis
def test_an_upstream_that_is_down_is_a_server_error(
    nginx: StartNginx, connect: Connect, api: str
) -> None:
    with socket.socket() as closed:  # bound, so that nobody else listens there
        closed.bind(("127.0.0.1", 0))
        proxy = nginx(f"http://127.0.0.1:{closed.getsockname()[1]}")
        error = failure(connect(api, proxy, retry=AT_ONCE).stream(PROMPT))
    assert isinstance(error, ServerError)
    assert (error.status, error.partial.text) == (502, "")
    assert [attempt.status for attempt in error.attempts] == [502] * 4


@pytest.mark.parametrize("status", [502, 504])
def test_an_upstream_that_comes_back_is_asked_again(
    server: LLMServer, nginx: StartNginx, connect: Connect, status: int
) -> None:
    # It leaves without a word; it thinks for longer than nginx waits.
    bad = Reply.raw(b"") if status == 502 else Reply(ANSWER, delay=60.0)
    known: set[str] = set()

    def reply(recorded: Recorded) -> Reply:
        call = recorded.headers["x-client-request-id"]
        if call in known:
            return Reply(ANSWER)
        known.add(call)
        return bad

    server.default = reply
    proxy = nginx(server.url, *UNBUFFERED, SHORT)
    clients = [connect(api, proxy, retry=AT_ONCE) for api in APIS]
    readings = [Reading(client.stream(PROMPT), Stream.result) for client in clients]
    for reading in readings:
        assert reading.ended() is None, proxy.log()
        result = reading.value
        assert result.text == "one two three four"
        assert [attempt.status for attempt in result.attempts] == [status, 200]
        assert isinstance(result.attempts[0].error, ServerError)
    assert len(server.requests) == 2 * len(APIS)


@pytest.mark.parametrize(
    ("directive", "kind", "status", "attempts"),
    [
        ("return 503", OverloadedError, 503, 4),
        ("return 429", RateLimitError, 429, 4),
        ("return 500", ServerError, 500, 4),
        ("return 401", AuthenticationError, 401, 1),
        ("return 302 http://127.0.0.1:1/", InvalidRequestError, 302, 1),
        ("client_max_body_size 10", InvalidRequestError, 413, 1),
        ("client_body_timeout 1s; return 404", InvalidRequestError, 404, 1),
        ("default_type text/html; return 200 '<html>Back soon</html>'", NotAStreamError, 200, 1),
    ],
)
def test_what_nginx_says_itself_has_its_class(
    server: LLMServer,
    nginx: StartNginx,
    connect: Connect,
    directive: str,
    kind: type[LLMStreamError],
    status: int,
    attempts: int,
) -> None:
    error = failure(connect("chat", nginx(server.url, directive), retry=AT_ONCE).stream(PROMPT))
    assert type(error) is kind, repr(error)
    assert [attempt.status for attempt in error.attempts] == [status] * attempts
    assert server.requests == []


def test_no_nginx_at_all_is_a_failed_connection(
    server: LLMServer, nginx: StartNginx, connect: Connect
) -> None:
    proxy = nginx(server.url)
    proxy.end()
    error = failure(connect("responses", proxy, retry=AT_ONCE).stream(PROMPT))
    assert type(error) is ConnectionFailed
    assert len(error.attempts) == 4


# ---- nginx: leaving ----------------------------------------------------------------------------


@pytest.mark.parametrize("leave", ["cancel", "close"])
@pytest.mark.parametrize("way", [BUFFERED, UNBUFFERED], ids=["buffered", "unbuffered"])
def test_leaving_closes_the_upstream_through_nginx(
    server: LLMServer, nginx: StartNginx, connect: Connect, way: tuple[str, ...], leave: str
) -> None:
    server.default = after_two_tokens(Silence())
    proxy = nginx(server.url, *way)
    for number, api in enumerate(APIS):
        reading = Reading(connect(api, proxy).stream(PROMPT))
        server.wait_requests(number + 1, PATIENCE)
        if way is UNBUFFERED:
            eventually(lambda: reading.tokens == ["one", " two"], "the tokens come")  # noqa: B023
        getattr(reading.stream, leave)()
        assert isinstance(reading.ended(), Cancelled)
        server.wait_closed(number, PATIENCE)
