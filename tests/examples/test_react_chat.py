"""The page with the real `useChat`, built with npm and driven in a real Chromium, over Flask."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_page import ChatPage, served
from cutting import CuttingProxy
from hosts import Host, gunicorn
from support import PACKAGE, eventually
from test_screenshots import DESKTOP, SKY, draw
from upstream import Says, Upstream

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

Open = Callable[..., ChatPage]

EXAMPLES = PACKAGE / "llmstream" / "examples"
SLOW = Says(["one\n", '"two" ', "\N{PARTY POPPER} ", "\u2028", "</script> ", "end"], every=0.15)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page as `npm run build` makes it. LLMSTREAM_REACT is a folder in which its packages are:
    `npm install --prefix FOLDER` with its package.json there."""
    packages = Path(os.environ.get("LLMSTREAM_REACT", EXAMPLES / "react_chat")) / "node_modules"
    if not packages.is_dir() or shutil.which("npm") is None:
        pytest.skip("needs npm, and LLMSTREAM_REACT with the packages of react_chat/package.json")
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(EXAMPLES / "page", folder / "page")
    page = folder / "react_chat"
    ignored = shutil.ignore_patterns("node_modules", "dist")
    shutil.copytree(EXAMPLES / "react_chat", page, ignore=ignored)
    (page / "node_modules").symlink_to(packages)
    done = subprocess.run(
        ["npm", "run", "build"], cwd=page, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return page / "dist"


@pytest.fixture(scope="module")
def site(
    built: Path, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> Iterator[Host]:
    upstream.answers.update(
        hi=Says(["Hello."], thinking=["Be polite."]),
        slow=SLOW,
        held=Says(["one ", "two "], every=0.02, holds=True),
        fails=Says(["one ", "two "], error="sk-secret of http://internal"),
        refused=Says(status=401),
    )
    upstream.answers["Why is the sky blue?"] = Says([SKY], thinking=["Rayleigh scattering."])
    environment = served(upstream, CHAT_PROTOCOL="ui-message", CHAT_PAGE=str(built))
    folder = tmp_path_factory.mktemp("site")
    workers = ("--worker-class", "gthread", "--threads", "20")
    with gunicorn(folder, "served_chat:flask_app()", *workers, **environment) as host:
        yield host


class ReactPage:
    """The page, as somebody uses it."""

    def __init__(self, page: ChatPage) -> None:
        self.page, self.tab, self.ask = page, page.tab, page.ask
        self.until_text, self.stop = page.until_text, page.stop

    @property
    def text(self) -> str:
        return self.page.text

    @property
    def error(self) -> Any:
        return self.tab.locator(".error")

    def until_ended(self) -> None:
        self.tab.locator("#send").wait_for()
        self.tab.locator("footer, .error").first.wait_for()

    def until(self, text: str) -> None:
        self.until_ended()
        eventually(lambda: self.page.text == text, f"the text is {text!r}")


@pytest.fixture
def page(open_page: Open, site: Host) -> ReactPage:
    return ReactPage(open_page(site.url))


def test_text_thinking_and_tokens(page: ReactPage) -> None:
    """And nothing is asked for again: useChat does so each time that `resume` becomes true."""
    resumed: list[str] = []
    page.tab.on("request", lambda one: resumed.append(one.url) if one.method == "GET" else None)
    page.ask("slow")
    page.until_ended()
    assert page.text == SLOW.text
    page.ask("hi")
    page.until("Hello.")
    assert page.page.answer.locator(".thinking p").text_content() == "Be polite."
    assert page.tab.locator(".usage").inner_text() == "12 tokens read · 34 written"
    assert resumed == []


def test_stop_ends_the_call(page: ReactPage, upstream: Upstream) -> None:
    before = len(upstream.of("held"))
    page.ask("held")
    page.until_text("one two ")
    page.stop()
    upstream.of("held")[before].wait_closed()
    page.until_ended()
    assert page.text == "one two "
    assert page.tab.locator(".usage").inner_text() == "stopped"
    page.ask("hi")
    page.until("Hello.")
    assert [m["content"] for m in upstream.asked[-1].messages] == ["held", "one two ", "hi"]


def test_regenerate(page: ReactPage, upstream: Upstream) -> None:
    before = len(upstream.of("hi"))
    page.ask("hi")
    page.until("Hello.")
    page.tab.click(".regenerate")
    eventually(lambda: len(upstream.of("hi")) == before + 2, "it is asked again")
    page.until("Hello.")
    assert page.tab.locator("article").count() == 2
    assert upstream.asked[-1].messages == [{"role": "user", "content": "hi"}]


def test_an_error_in_place(page: ReactPage, upstream: Upstream) -> None:
    before = len(upstream.of("fails"))
    page.ask("fails")
    page.error.wait_for()
    assert page.error.locator("p").inner_text() == "The service failed. Please try again."
    assert page.text == "one two "
    assert "secret" not in page.tab.content()
    page.error.locator("button").click()
    eventually(lambda: len(upstream.of("fails")) == before + 2, "it is asked again")
    page.error.wait_for()
    page.ask("refused")
    page.error.filter(has_text="not available").wait_for()


def test_it_goes_on_after_a_reload(page: ReactPage, upstream: Upstream) -> None:
    before = len(upstream.of("slow"))
    page.ask("slow")
    page.until_text("one\n")
    page.tab.reload()
    page.until(SLOW.text)
    assert page.tab.locator("article").count() == 2
    page.tab.reload()
    page.until(SLOW.text)
    assert len(upstream.of("slow")) == before + 1


def test_it_goes_on_after_a_cut(open_page: Open, site: Host, upstream: Upstream) -> None:
    """`useChat` takes a cut connection for an end; the page asks for the rest."""
    proxy = CuttingProxy(lambda line: site.port)
    try:
        for number in (3, 5, 7):
            page = ReactPage(open_page(proxy.url))
            before = len(upstream.of("slow"))
            proxy.cuts[:] = [number]
            page.ask("slow")
            page.until(SLOW.text)
            assert not proxy.cuts
            assert len(upstream.of("slow")) == before + 1
            page.tab.close()
    finally:
        proxy.close()


def test_its_picture(open_page: Open, site: Host) -> None:
    page = ReactPage(open_page(site.url, **DESKTOP))
    page.ask("Why is the sky blue?")
    page.until(SKY)
    draw(page.page, "react")
