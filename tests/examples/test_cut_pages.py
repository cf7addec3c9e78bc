"""The connection of the page cut at each event in turn: its text is exactly the answer, and the
prompt runs once. The same with two processes that share a Redis, where what goes on is read from
the other one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from chat_page import ChatPage, served
from cutting import CuttingProxy
from hosts import gunicorn
from log_tools import RedisServer
from upstream import Says, Upstream

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

Open = Callable[..., ChatPage]

ANSWER = Says(
    ["one\n", '"two" ', "\N{PARTY POPPER} ", "", "\u2028", "</script> ", "end"], every=0.07
)
MOST_EVENTS = 12  # of the answer: a begin and a done, too


@pytest.fixture(scope="module", params=["one-process", "two-processes-and-redis"])
def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> Iterator[CuttingProxy]:
    upstream.answers["count"] = ANSWER
    upstream.answers["held"] = Says(["one "], holds=True)
    workers = ("--worker-class", "gthread", "--threads", "20")
    is_one = request.param == "one-process"
    with contextlib.ExitStack() as stack:
        environment = served(upstream)
        if not is_one:
            redis = RedisServer()
            stack.callback(redis.remove)
            environment["REDIS_URL"] = redis.url
        ports = []
        for number in range(1 if is_one else 2):
            folder = tmp_path_factory.mktemp(f"site{number}")
            host = gunicorn(folder, "served_chat:flask_app()", *workers, **environment)
            ports.append(stack.enter_context(host).port)

        def route(line: str) -> int:
            """What begins an answer goes to one process, what goes on with it to the other."""
            return ports[-1] if line.startswith(("GET /answers/", "POST /answers/")) else ports[0]

        made = CuttingProxy(route)
        stack.callback(made.close)
        yield made


def check(page: ChatPage, upstream: Upstream, before: int) -> None:
    page.until_ended()
    assert (page.text, page.error) == (ANSWER.text, None)
    assert page.usage == "12 tokens read · 34 written"
    assert len(upstream.of("count")) == before + 1


def test_cut_once_at_each_event(open_page: Open, proxy: CuttingProxy, upstream: Upstream) -> None:
    page = open_page(proxy.url)
    for number in range(MOST_EVENTS):
        before, responses = len(upstream.of("count")), len(proxy.served)
        proxy.cuts[:] = [number]
        page.ask("count")
        check(page, upstream, before)
        was_cut = not proxy.cuts and len(proxy.served) > responses + 1
        proxy.cuts.clear()
        page.begin_anew()
        if not was_cut:
            break  # the answer had no more events
    assert number >= 5


def test_cut_after_every_event(open_page: Open, proxy: CuttingProxy, upstream: Upstream) -> None:
    """Each connection brings one event; some bring none."""
    page = open_page(proxy.url)
    before, responses = len(upstream.of("count")), len(proxy.served)
    proxy.looks_whole = True
    proxy.cuts[:] = [1, 0, 2, 1, 1, 0] * 10
    page.ask("count")
    check(page, upstream, before)
    proxy.cuts.clear()
    proxy.looks_whole = False
    assert len(proxy.served) > responses + 5
    assert set(proxy.served[responses + 1 :]) == {proxy.served[-1]}


def test_cut_and_reloaded(open_page: Open, proxy: CuttingProxy, upstream: Upstream) -> None:
    page = open_page(proxy.url)
    before = len(upstream.of("count"))
    proxy.cuts[:] = [3, 2]
    page.ask("count")
    page.until_text("one\n")
    page.tab.reload()
    check(page, upstream, before)
    proxy.cuts.clear()


def test_stop_from_the_other_process(
    open_page: Open, proxy: CuttingProxy, upstream: Upstream
) -> None:
    page = open_page(proxy.url)
    before = len(upstream.of("held"))
    page.ask("held")
    page.until_text("one ")
    page.stop()
    upstream.of("held")[before].wait_closed()
    page.until_ended()
    assert (page.text, page.usage) == ("one ", "stopped")
