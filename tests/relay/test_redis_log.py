"""RedisLog: producers and Redis that die, freeze and come back; several processes; and every kind
of client and server."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from log_tools import (
    PROTOCOL,
    Browser,
    RedisServer,
    Scripted,
    check_ids,
    elapsed,
    errors_in,
    is_whole,
    text_in,
)
from support import PACKAGE, PATIENCE, TESTS, eventually, other_threads

from llmstream import ConfigurationError, relay
from llmstream.relay.log import line as line_module
from llmstream.relay.log.base import FULL, LOST, STOPPED, UNAVAILABLE
from llmstream.relay.log.line import Away, Line

pytestmark = [pytest.mark.hosts, pytest.mark.usefixtures("nothing_left")]

WORDS = ["one", " two", " three", " four"]
TEXT = "".join(WORDS)
LEASE = 3.0  # seconds, of which a thread may stand still for more than one
LATE = 8.0  # seconds that a machine may take longer than a lease
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.remove()


@pytest.fixture
def redis_server(shared: RedisServer, nothing_left: None) -> RedisServer:
    """One that all tests of this file share, empty."""
    with shared.client() as client:
        client.flushall()
    return shared


@pytest.fixture
def own(nothing_left: None) -> Iterator[Callable[..., RedisServer]]:
    """`own(...)` is a Redis that a test may kill."""
    made: list[RedisServer] = []

    def new(*options: str, **settings: Any) -> RedisServer:
        made.append(RedisServer(*options, **settings))
        return made[-1]

    yield new
    for server in made:
        server.remove()


@pytest.fixture
def log_of(nothing_left: None) -> Iterator[Make]:
    made: list[Any] = []

    def new(url: Any, **settings: Any) -> Any:
        made.append(relay.RedisLog(getattr(url, "url", url), **{"lease": LEASE, **settings}))
        return made[-1]

    yield new
    for log in made:
        log.close()


def publish(log: Any, stream: Any, id: str = "a", **settings: Any) -> relay.Publication:
    return relay.publish(log, id, stream, PROTOCOL, **{"interval": 0.0, **settings})


def whole(log: Any, id: str = "a", last: str | None = None) -> list[Any]:
    return Browser(relay.follow(log, id, last)).ended()


# A process that publishes an answer of which it says a word for each line of its input.
PRODUCER = """
    import sys
    from log_tools import Scripted
    from llmstream import relay
    log = relay.RedisLog(sys.argv[1], lease=float(sys.argv[2]))
    stream = Scripted()
    publication = relay.publish(log, "a", stream, "ui-message", interval=0.0)
    print("published", flush=True)
    for line in sys.stdin:
        if line == "finish\\n":
            stream.finish()
        elif line == "exit\\n":
            sys.exit()
        else:
            stream.say(line[:-1])
    publication.wait(10)
    print(stream.cancelled)
"""


@pytest.fixture
def producer() -> Iterator[Callable[..., Producer]]:
    made: list[Producer] = []

    def start(server: RedisServer, lease: float = LEASE) -> Producer:
        made.append(Producer(server, lease))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.communicate()


class Producer:
    """Another process, which publishes an answer."""

    def __init__(self, server: RedisServer, lease: float) -> None:
        path = [PACKAGE, TESTS, TESTS / "relay"]
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", textwrap.dedent(PRODUCER), server.url, str(lease)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "published\n"

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> str:
        """What it says at its end."""
        try:
            return self.process.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            pytest.fail("the producer hangs")


# ---- producers that die ------------------------------------------------------------------------


def test_the_producer_is_killed(
    redis_server: RedisServer, log_of: Make, producer: Callable[..., Producer]
) -> None:
    """Its readers are told within the lease, once, all the same; and so is who comes later."""
    other, log = producer(redis_server), log_of(redis_server)
    other.tell("one")
    browsers = [Browser(relay.follow(log, "a")) for _ in range(3)]
    for browser in browsers:
        browser.reads("one")
    other.signal(signal.SIGKILL)
    began = time.monotonic()
    events = browsers[0].ended()
    assert elapsed(began) < LEASE + LATE
    assert errors_in(events) == [STOPPED]
    assert text_in(events) == "one"
    for browser in browsers[1:]:
        assert browser.ended() == events
    assert whole(log) == events
    check_ids(events)
    assert not relay.follow(log, "a", events[-1].id)
    assert not relay.stop(log, "a")
    assert not publish(log, Scripted())  # its prompt is not run again by itself


def test_the_producer_is_killed_while_nobody_follows(
    redis_server: RedisServer, log_of: Make, producer: Callable[..., Producer]
) -> None:
    other, log = producer(redis_server), log_of(redis_server)
    other.signal(signal.SIGKILL)
    other.process.wait(PATIENCE)
    events = whole(log)
    assert errors_in(events) == [STOPPED]


def test_the_producer_sleeps_for_longer_than_its_lease(
    redis_server: RedisServer, log_of: Make, producer: Callable[..., Producer]
) -> None:
    """Its readers are told that it ended; when it wakes it ends, and adds nothing."""
    other, log = producer(redis_server), log_of(redis_server)
    other.tell("one")
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    other.signal(signal.SIGSTOP)
    events = browser.ended()
    assert errors_in(events) == [STOPPED]
    other.signal(signal.SIGCONT)
    other.tell(" two")
    assert "lease" in other.end()  # the reason of the cancel
    assert whole(log) == events


def test_the_producers_program_ends(
    redis_server: RedisServer, log_of: Make, producer: Callable[..., Producer]
) -> None:
    """Its readers are told at once, and not when the lease has run out."""
    other, log = producer(redis_server, 60.0), log_of(redis_server)
    other.tell("one")
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    began = time.monotonic()
    other.tell("exit")
    events = browser.ended()
    assert elapsed(began) < 10
    assert errors_in(events) == [STOPPED]


def test_another_process_stops_it(
    redis_server: RedisServer, log_of: Make, producer: Callable[..., Producer]
) -> None:
    other, log = producer(redis_server, 60.0), log_of(redis_server)
    other.tell("one")
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    began = time.monotonic()
    assert relay.stop(log, "a", "the user")
    events = browser.ended()
    assert elapsed(began) < 10  # a third of the lease is 20
    assert not is_whole(events)
    assert other.end() == "['the user']\n"


def test_a_stop_that_was_not_heard_is_seen_with_the_lease(
    redis_server: RedisServer, log_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is lost; the mark at the answer is not."""
    log = log_of(redis_server)
    stream = Scripted("one")
    publish(log, stream)
    real = Line.run
    monkeypatch.setattr(
        Line,
        "run",
        lambda self, script, keys, *args: (
            real(self, script, keys, *args) if "worker" not in keys[0] else None
        ),
    )
    assert relay.stop(log, "a", "the user")
    eventually(lambda: stream.cancelled, "it is stopped")
    assert stream.cancelled[0] == "the user"


def test_the_follower_is_another_process_than_the_producer(
    redis_server: RedisServer, log_of: Make, producer: Callable[..., Producer]
) -> None:
    """Cut after each event, the next connection goes to another log: nothing is lost or doubled."""
    other = producer(redis_server)
    logs = [log_of(redis_server), log_of(redis_server)]
    seen: list[Any] = []
    for number, word in enumerate(WORDS):
        browser = Browser(relay.follow(logs[number % 2], "a", seen[-1].id if seen else None))
        other.tell(word)
        browser.reads(word)
        browser.body.close()
        browser.join(PATIENCE)
        seen += browser.events
    other.tell("finish")
    seen += whole(logs[0], last=seen[-1].id)
    check_ids(seen)
    assert text_in(seen) == TEXT
    assert is_whole(seen)


# ---- a Redis that dies -------------------------------------------------------------------------


def test_redis_is_restarted_without_its_data(own: Make, log_of: Make) -> None:
    server = own()
    log, stream = log_of(server), Scripted("one")
    publication = publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    server.kill()
    server.start()
    began = time.monotonic()
    events = browser.ended()
    assert elapsed(began) < LEASE + LATE
    assert errors_in(events) == [LOST]
    assert text_in(events) == "one"
    assert publication.wait(PATIENCE)  # also while it has nothing to say
    assert "no longer has the answer" in str(stream.cancelled[0])
    assert not relay.follow(log, "a", events[-2].id)
    assert publish(log, Scripted("again", finishes=True))
    assert text_in(whole(log)) == "again"


def test_redis_is_restarted_with_its_data(own: Make, log_of: Make) -> None:
    """Nobody notices."""
    server = own(keeps=True)
    log, stream = log_of(server, lease=30.0), Scripted("one")
    publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    server.kill()
    stream.say(" two")  # while it is away
    server.start()
    browser.reads("one two")
    stream.finish()
    events = browser.ended()
    check_ids(events)
    assert text_in(events) == "one two"
    assert is_whole(events)


def test_redis_is_back_with_its_data_within_the_lease(own: Make, log_of: Make) -> None:
    """It takes the time that it was away for passed. A browser that comes first does not take the
    producer for dead."""
    server = own(keeps=True)
    lease = 6.0
    log, stream = log_of(server, lease=lease), Scripted("one")
    publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    time.sleep(1.8)  # the lease is renewed every two seconds
    server.kill()
    time.sleep(lease - 1.5)  # a second and a half to start in
    server.start()
    events = [browser.ended] + [Browser(relay.follow(log, "a")).ended for _ in range(3)]
    time.sleep(0.5)
    stream.finish()
    assert all(is_whole(ended()) for ended in events)
    assert not stream.cancelled


def test_an_answer_that_cannot_be_renewed_ends_no_other(
    redis_server: RedisServer, log_of: Make
) -> None:
    log, streams = log_of(redis_server), [Scripted("one") for _ in range(3)]
    for number, stream in enumerate(streams):
        publish(log, stream, str(number))
    browsers = [Browser(relay.follow(log, str(number))) for number in range(3)]
    for browser in browsers:
        browser.reads("one")
    with redis_server.client() as client:
        client.delete("llmstream:{0}:log")
        client.set("llmstream:{0}:log", "something else")
    assert errors_in(browsers[0].ended()) == [UNAVAILABLE]
    eventually(lambda: streams[0].cancelled, "it is stopped, though it has nothing to say")
    time.sleep(2 * LEASE)
    relay.stop(log, "1")
    eventually(lambda: streams[1].cancelled, "a stop is heard")
    streams[2].finish()
    assert is_whole(browsers[2].ended())


def test_redis_refuses_for_a_moment(redis_server: RedisServer, log_of: Make) -> None:
    """Somebody's script runs for long: Redis answers BUSY meanwhile."""
    log, stream = log_of(redis_server, lease=20.0), Scripted("one")
    publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    redis = pytest.importorskip("redis")
    with redis_server.client() as client, redis_server.client() as killer:
        client.config_set("lua-time-limit", 20)

        def spin() -> None:
            with contextlib.suppress(redis.ResponseError):  # it is killed
                client.eval("while true do end", 0)

        def is_busy() -> bool:
            try:
                killer.ping()
            except redis.ResponseError:
                return True
            return False

        other = threading.Thread(target=spin)
        other.start()
        eventually(is_busy, "Redis is busy")
        stream.say(" two")
        with pytest.raises(relay.LogError, match="for now"):
            relay.follow(log, "a")
        killer.script_kill()
        other.join(PATIENCE)
    stream.finish()
    events = browser.ended()
    assert is_whole(events)
    assert text_in(events) == "one two"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("BUSY Redis is busy running a script.", Away),
        ("MISCONF Redis is configured to save RDB snapshots, but", Away),
        ("NOREPLICAS Not enough good replicas to write.", Away),
        # Redis 6.2, in a script
        ("Error running script (call to f_a): @user_script:3: -READONLY You can't write", Away),
        ("Error running script (call to f_a): @user_script:3: -OOM command not allowed", FULL),
        ("WRONGTYPE Operation against a key", UNAVAILABLE),
    ],
)
def test_what_redis_refuses_for_now(words: str, kind: Any) -> None:
    redis = pytest.importorskip("redis")
    with pytest.raises((relay.LogError, Away)) as caught, line_module.translated():
        raise redis.exceptions.ResponseError(words)
    error = caught.value
    assert kind in (type(error), getattr(error, "shown", None))


def test_redis_is_killed_and_stays_away(own: Make, log_of: Make) -> None:
    server = own()
    log, stream = log_of(server), Scripted("one")
    publication = publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    server.kill()
    began = time.monotonic()
    stream.say(" two")
    events = browser.ended()
    assert errors_in(events) == [UNAVAILABLE]
    assert publication.wait(PATIENCE)
    assert elapsed(began) < LEASE + LATE
    assert "does not answer" in str(stream.cancelled[0])
    for call in (
        lambda: publish(log, Scripted(), "b"),
        lambda: relay.follow(log, "a"),
        lambda: relay.stop(log, "a"),
    ):
        with pytest.raises(relay.LogError, match="does not answer"):
            call()


def test_redis_freezes(own: Make, log_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections stand, and nothing answers: readers and producer end in time."""
    monkeypatch.setattr(line_module, "_SOCKET_SECONDS", 0.5)
    server = own()
    log, stream = log_of(server), Scripted("one")
    publication = publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    with server.frozen():
        stream.say(" two")
        began = time.monotonic()
        assert errors_in(browser.ended()) == [UNAVAILABLE]
        assert publication.wait(PATIENCE)
        assert elapsed(began) < LEASE + LATE
        with pytest.raises(relay.LogError):
            relay.follow(log, "a")


def test_redis_freezes_for_a_moment(own: Make, log_of: Make) -> None:
    server = own()
    log, stream = log_of(server, lease=20.0), Scripted("one")
    publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    with server.frozen():
        stream.say(" two")
        stream.say(" three")
        time.sleep(0.3)
    stream.finish()
    events = browser.ended()
    check_ids(events)
    assert text_in(events) == "one two three"


def test_replies_of_redis_are_lost(
    redis_server: RedisServer, log_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command is carried out, and every second reply is lost: what is sent again is stored
    once."""
    log = log_of(redis_server)
    real, turns = Line.once, iter(range(10_000))

    def once(self: Line, script: str, keys: list[str], *args: Any) -> Any:
        found = real(self, script, keys, *args)
        if next(turns) % 2:
            raise Away("the reply was lost")
        return found

    monkeypatch.setattr(line_module, "_PAUSE", 0.0, raising=False)
    stream = Scripted()
    publish(log, stream)
    body = relay.follow(log, "a")
    monkeypatch.setattr(Line, "once", once)
    for number in range(20):
        stream.say(f"{number} ")
    stream.finish()
    events = Browser(body).ended()
    check_ids(events)
    assert text_in(events) == "".join(f"{number} " for number in range(20))
    assert is_whole(events)


# ---- a log that others have changed ------------------------------------------------------------


@pytest.mark.parametrize("damage", ["delete", "trim", "gap"])
def test_what_is_missing_is_told(redis_server: RedisServer, log_of: Make, damage: str) -> None:
    log, stream = log_of(redis_server), Scripted(*WORDS)
    publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads(TEXT)
    with redis_server.client(decode_responses=True) as client:
        key = "llmstream:{a}:log"
        ids = [id for id, _ in client.xrange(key)]
        if damage == "delete":
            client.delete(key)
        elif damage == "trim":
            client.xtrim(key, minid=ids[3], approximate=False)
        else:
            client.xdel(key, ids[3])
    if damage == "delete":
        stream.say(" five")
        events = browser.ended()
        assert errors_in(events) == [LOST]
        eventually(lambda: stream.cancelled, "the producer ends")
    elif damage == "gap":
        events = whole(log)
        assert errors_in(events) == [LOST]
        stream.finish()
        assert is_whole(browser.ended())  # who was past it has lost nothing
    else:
        with pytest.raises(relay.LogError, match="not all of it"):  # what it is about is gone
            relay.follow(log, "a")
        stream.finish()
        assert is_whole(browser.ended())


def test_redis_has_no_memory_left(own: Make, log_of: Make) -> None:
    server = own("--maxmemory", "2500kb", "--maxmemory-policy", "noeviction")
    log, stream = log_of(server), Scripted("one")
    publication = publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    stream.say("x" * 4_000_000)
    assert publication.wait(PATIENCE)
    assert "memory" in str(stream.cancelled[0])
    events = browser.ended()
    assert errors_in(events) in ([FULL], [STOPPED])
    assert text_in(events) == "one"


def test_a_key_of_another_kind(redis_server: RedisServer, log_of: Make) -> None:
    log = log_of(redis_server)
    with redis_server.client() as client:
        client.set("llmstream:{a}:log", "something else")
        client.xadd("llmstream:{b}:log", {"x": "y"})
    for call in (
        lambda: publish(log, Scripted()),
        lambda: relay.follow(log, "a"),
        lambda: relay.stop(log, "a"),
    ):
        with pytest.raises(relay.LogError, match="refuses"):
            call()
    assert not publish(log, Scripted(), "b")


# ---- every kind of client ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"decode_responses": True},
        {"protocol": 2},
        {"protocol": 3},
        {"protocol": 3, "decode_responses": True},
        {"protocol": 2, "decode_responses": True},
        {"socket_timeout": 3.0},
        {"socket_timeout": None},
        {"single_connection_client": True},
    ],
    ids=str,
)
def test_a_client_of_ones_own(
    redis_server: RedisServer, log_of: Make, settings: dict[str, Any]
) -> None:
    with redis_server.client(**settings) as client:
        log, stream = log_of(client), Scripted()
        publish(log, stream)
        browser = Browser(relay.follow(log, "a"))
        for word in ("é", " 🙂", " \u2028\x00", "</script>"):
            stream.say(word)
        browser.reads("é 🙂 \u2028\x00</script>")
        assert relay.stop(log, "a", "the user")
        assert not is_whole(browser.ended())
        publish(log, Scripted(*WORDS, finishes=True), "b")
        assert text_in(whole(log, "b")) == TEXT
        log.close()


def test_a_cluster(own: Make, log_of: Make, tmp_path: Path) -> None:
    """One server that has all slots: it refuses commands across slots as any cluster does."""
    import redis

    port = free_port(and_above=10_000)  # where the servers of a cluster talk to each other
    options = ["--port", str(port), "--cluster-enabled", "yes", "--cluster-config-file", "nodes"]
    server = own(*options)
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        eventually(
            lambda: client.execute_command("CLUSTER INFO").get("cluster_state") == "ok",
            "the cluster stands",
        )
    with redis.RedisCluster(host="127.0.0.1", port=port) as cluster:
        log = log_of(cluster)
        for id in ("a", "b", "c", "{}", "}x{"):
            stream = Scripted("one")
            publish(log, stream, id)
            browser = Browser(relay.follow(log, id))
            browser.reads("one")
            assert relay.stop(log, id)
            assert not is_whole(browser.ended())
            other = f"{id}-2"
            publish(log, Scripted(*WORDS, finishes=True), other)
            assert text_in(whole(log, other)) == TEXT
        log.close()


def free_port(*, and_above: int = 0) -> int:
    """One that no system gives away by itself: another process may have that by now."""
    for port in random.sample(range(12_000, 20_000), 100):
        with contextlib.suppress(OSError):
            for number in {port, port + and_above}:
                socket.create_server(("127.0.0.1", number)).close()
            return port
    pytest.fail("no port is free")


def test_a_password_and_tls(own: Make, log_of: Make, tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    port, password = free_port(), "s3cr3t/p@ss"
    pem = str(tmp_path / "server.pem")
    server = own(
        *("--tls-port", str(port), "--tls-cert-file", pem, "--tls-key-file", pem),
        *("--tls-ca-cert-file", str(tmp_path / "ca.pem"), "--tls-auth-clients", "no"),
        *("--requirepass", password),
    )
    quoted = "s3cr3t%2Fp%40ss"
    options = f"ssl_ca_certs={tmp_path / 'ca.pem'}"
    log = log_of(f"rediss://:{quoted}@localhost:{port}/0?{options}")
    stream = Scripted("one")
    publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    browser.body.close()  # over TLS too
    browser.join(PATIENCE)
    relay.stop(log, "a")
    eventually(lambda: stream.cancelled, "it is stopped")
    shown = [repr(log), repr(relay.follow(log, "a"))]
    wrong = log_of(f"rediss://:wr0ng-{quoted}@localhost:{port}/0?{options}")
    for call in (lambda: relay.follow(wrong, "a"), lambda: publish(wrong, Scripted())):
        with pytest.raises(relay.LogError) as caught:
            call()
        shown += [str(caught.value), repr(caught.value), str(caught.value.__cause__)]
    server.kill()
    with pytest.raises(relay.LogError) as caught:
        relay.follow(log, "a")
    shown += [str(caught.value), repr(caught.value), str(caught.value.__cause__)]
    for word in (password, quoted, "wr0ng"):
        assert not [text for text in shown if word in text]


def test_a_user_who_may_do_only_what_the_readme_says(
    redis_server: RedisServer, log_of: Make
) -> None:
    readme = PACKAGE / "llmstream" / "relay" / "README.md"
    (rules,) = re.findall(r"a user needs `([^`]*)` and `~llmstream:\*`", readme.read_text("utf-8"))
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "u", "on", ">pw", "~llmstream:*", *rules.split())
        try:
            log, stream = log_of(f"{redis_server.url}?username=u&password=pw"), Scripted("one")
            publish(log, stream, unattended=60.0)
            browser = Browser(relay.follow(log, "a"))
            browser.reads("one")
            assert relay.stop(log, "a")
            assert not is_whole(browser.ended())
            assert text_in(whole(log)) == "one"
            log.close()
        finally:
            client.execute_command("ACL", "DELUSER", "u")


# ---- forks -------------------------------------------------------------------------------------


def test_a_forked_child_has_connections_of_its_own(redis_server: RedisServer, log_of: Make) -> None:
    """The parent's answer goes on; the child follows it, stops it, and publishes its own."""
    log, stream = log_of(redis_server), Scripted("one")
    publish(log, stream)
    browser = Browser(relay.follow(log, "a"))
    browser.reads("one")
    half_read = relay.follow(log, "a")
    while b"one" not in next(half_read):
        pass
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            publication = relay.publish(log, "b", Scripted(*WORDS, finishes=True), PROTOCOL)
            text = text_in(whole(log, "b"))
            stopped = relay.stop(log, "a", "the child")
            rest = Browser(half_read).ended()
            found = [bool(publication), text, stopped, is_whole(rest), log.close()]
            os.write(writing, json.dumps(found).encode())
        except BaseException as exc:
            os.write(writing, repr(exc).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    assert json.loads(found) == [True, TEXT, True, False, None]
    assert not is_whole(browser.ended())
    assert stream.cancelled == ["the child"]
    assert not is_whole(Browser(half_read).ended())  # its connection is still its own
    assert text_in(whole(log, "b")) == TEXT


def test_a_lock_of_redis_py_that_was_held_at_a_fork_holds_up_nobody(
    redis_server: RedisServer, log_of: Make
) -> None:
    log = log_of(redis_server)
    publish(log, Scripted(*WORDS, finishes=True)).wait(PATIENCE)
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with log._line.client.connection_pool._lock:
            held.set()
            over.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(PATIENCE)
    child = os.fork()
    if child == 0:
        os._exit(0 if text_in(whole(log)) == TEXT else 1)
    over.set()
    thread.join()
    try:
        eventually(lambda: os.waitpid(child, os.WNOHANG)[0], "the child does not hang")
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise


# ---- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "http://localhost",
        "redis://u:s3cr3t@h:port",
        "redis://h:1?db=s3cr3t",
        5,
        None,
    ],
)
def test_an_address_that_is_none(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="redis") as caught:
        relay.RedisLog(url)
    assert "s3cr3t" not in repr(caught.value)
    assert caught.value.__context__ is None


def test_an_asynchronous_client_is_refused() -> None:
    import redis.asyncio

    client = redis.asyncio.Redis()
    with pytest.raises(ConfigurationError, match="not asynchronous"):
        relay.RedisLog(client)


@pytest.mark.parametrize(
    "settings",
    [
        {"ttl": 0},
        {"ttl": None},
        {"lease": 0},
        {"lease": 1e9},
        {"max_answer_bytes": 0},
        {"prefix": ""},
        {"prefix": "a{b}"},
        {"prefix": "a b"},
        {"prefix": None},
    ],
    ids=str,
)
def test_settings_that_cannot_work(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        relay.RedisLog("redis://localhost", **settings)


def test_a_log_connects_when_it_is_used(log_of: Make) -> None:
    """Nothing answers at this address."""
    before = other_threads()
    log = log_of("redis://127.0.0.1:1/0")
    assert other_threads() <= before
    with pytest.raises(relay.LogError, match="does not answer"):
        relay.follow(log, "a")
