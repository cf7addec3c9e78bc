"""The chat page in a real Chromium against each kind of server, directly and behind nginx: with the
log that a reload needs, and (under /plain) over a plain relay, which a closed tab cancels."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import NamedTuple

import pytest
from chat_page import ChatPage, served
from hosts import Host, gunicorn, nginx, uvicorn
from log_tools import RedisServer
from served_chat import HEARTBEAT
from support import PATIENCE, eventually
from upstream import Asked, Says, Upstream, stamp

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

Open = Callable[..., ChatPage]

FLASK = "served_chat:flask_app()"
DJANGO = "llmstream.examples.django_chat"
ODD = ["new\nline ", '"quote" ', "\N{PARTY POPPER} ", "\u2028", "", "</script> ", "\r\n", "end "]
SENT = 20  # tokens that say when they were sent

# A sync worker has one browser at a time: there are several, and so the log is in Redis.
SERVERS = {
    "flask-sync": (FLASK, "sync", "--workers", "4", "--preload"),
    "flask-gthread": (FLASK, "gthread", "--threads", "20"),
    "flask-gevent": (FLASK, "gevent"),
    "django-sync": (f"{DJANGO}.wsgi", "sync", "--workers", "4", "--preload"),
    "django-gthread": (f"{DJANGO}.wsgi", "gthread", "--threads", "20"),
    "django-gevent": (f"{DJANGO}.wsgi", "gevent"),
    "django-uvicorn": (f"{DJANGO}.asgi:application",),
}


class Site(NamedTuple):
    directly: Host
    behind_nginx: Host


@pytest.fixture(scope="module", params=SERVERS)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> Iterator[Site]:
    upstream.answers.update(
        held=Says(["one ", "two "], holds=True),
        silent=Says(holds=True),
        fails=Says(["one ", "two "], error="sk-secret of http://internal"),
    )
    app, *worker = SERVERS[request.param]
    more = {"DJANGO_SETTINGS_MODULE": "served_settings"}
    with contextlib.ExitStack() as stack:
        if "sync" in worker:
            redis = RedisServer()
            stack.callback(redis.remove)
            more["REDIS_URL"] = redis.url
        folder = tmp_path_factory.mktemp(request.param)
        environment = served(upstream, **more)
        if worker:
            host = stack.enter_context(
                gunicorn(folder, app, "--worker-class", *worker, **environment)
            )
        else:
            host = stack.enter_context(uvicorn(folder, app, **environment))
        proxy = stack.enter_context(nginx(folder, host))
        yield Site(host, proxy)


@pytest.fixture(params=Site._fields)
def url(request: pytest.FixtureRequest, site: Site) -> str:
    host: Host = getattr(site, request.param)
    return host.url


def check_answers(page: ChatPage, upstream: Upstream) -> None:
    """Tokens come as they are sent, each before the next one is, and a failure is one error in its
    place."""
    turns: SimpleQueue[None] = SimpleQueue()

    def in_turn() -> str:
        turns.get(timeout=4 * PATIENCE)
        return stamp()

    upstream.answers["timed"] = Says([*ODD, *[in_turn] * SENT])
    page.ask("timed")
    for number in range(SENT):
        turns.put(None)
        eventually(lambda n=number: page.text.count(".") > n, "the token is in the page")
    page.until_ended()
    assert page.error is None
    odd, stamps = page.text[: len("".join(ODD))], page.text[len("".join(ODD)) :]
    assert odd == "".join(ODD)
    assert len(stamps.split()) == SENT
    lags = []
    for at, piece in page.seen:
        lags += [at - float(sent) for sent in piece.split() if sent[:1].isdigit() and "." in sent]
    assert len(lags) == SENT
    print(f"median lag {statistics.median(lags):.0f} ms")
    assert statistics.median(lags) < 1000  # 40 ms where nothing else runs

    before = len(upstream.of("fails"))
    page.ask("fails")
    page.until_ended()
    assert (page.text, page.error) == ("one two ", "The service failed. Please try again.")
    assert page.tab.locator(".error:visible").count() == 1
    assert len(upstream.of("fails")) == before + 1


def test_with_a_log(open_page: Open, url: str, upstream: Upstream) -> None:
    """As examples are: an answer, a failure, and a stop, which ends the call."""
    page = open_page(url)
    check_answers(page, upstream)
    before = len(upstream.of("held"))
    page.ask("held")
    page.until_text("one two ")
    stopped_at = time.monotonic()
    page.stop()
    took = upstream.of("held")[before].wait_closed() - stopped_at
    print(f"stopped after {took:.2f} s")
    assert took < PATIENCE
    page.until_ended()
    assert (page.text, page.usage) == ("one two ", "stopped")


@pytest.mark.parametrize("prompt", ["held", "silent"])
def test_a_closed_tab(
    open_page: Open,
    site: Site,
    url: str,
    upstream: Upstream,
    prompt: str,
) -> None:
    """Over a plain relay it cancels the call, in mid-answer and before the first token."""
    page = open_page(f"{url}/plain/")
    if prompt == "held" and url == site.directly.url:
        check_answers(page, upstream)
    before = len(upstream.of(prompt))
    page.ask(prompt)
    if prompt == "held":
        page.until_text("one two ")
    (asked,) = until_asked(upstream, prompt, before)
    closed_at = time.monotonic()
    page.tab.close()
    took = asked.wait_closed() - closed_at
    print(f"noticed after {took:.2f} s")
    assert took < HEARTBEAT + 1 + PATIENCE / 3  # without other work on this machine: + 1


def until_asked(upstream: Upstream, prompt: str, before: int) -> list[Asked]:
    eventually(lambda: len(upstream.of(prompt)) > before, "the service is asked")
    return upstream.of(prompt)[before:]
