"""htmx 2 and 4, with their own SSE extensions, in a real Chromium: what they show of the fragments
is the text, an error is in its place, and no question is asked twice."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple

import pytest
from relayed import node_packages
from support import eventually

from llmstream import Client, relay
from llmstream.testing import Answer, Cut, FakeTransport, Reply

pytestmark = pytest.mark.browser

TEXT = (
    'one <b>two</b>\n  three "four" &amp; \u2028 \U0001f642 '
    "</script><img src=/x onerror=alert(1)>\r\nfive"
)
WHOLE = Answer(TEXT, tool_calls=[("f", '{"a":1}')])
HALF = Reply([*Answer("one two three").blocks()[:6], Cut()])

_TWO = ("htmx2/dist/htmx.js", "htmx-ext-sse/sse.js")
_FOUR = ("htmx4/dist/htmx.js", "htmx4/dist/ext/hx-sse.js")
_BODY_OF_TWO = """
<div hx-ext="sse" sse-connect="/answer" sse-close="close">
  <div id="done" sse-swap="done"></div>
  <div id="a" sse-swap="NAMES" hx-swap="beforeend" style="white-space: pre-wrap"></div>
</div>"""
_BODY_OF_FOUR = """
<script>
  addEventListener("done", (e) => { document.querySelector("#done").innerHTML = e.detail.data })
</script>
<div id="done"></div>"""
_CONNECTED = """
<div id="a" hx-sse:connect="/answer" hx-sse:close="close" hx-swap="beforeend"
     style="white-space: pre-wrap"></div>"""
_POSTED = """
<form hx-post="/answer" hx-target="#a" hx-swap="beforeend"><button>Go</button></form>
<div id="a" style="white-space: pre-wrap"></div>"""


class Page(NamedTuple):
    """`version` is that of our protocol."""

    scripts: tuple[str, str]
    body: str
    version: int


PAGES = {
    "2": Page(_TWO, _BODY_OF_TWO.replace("NAMES", "token,error"), 2),
    "2 with the bytes of 4": Page(_TWO, _BODY_OF_TWO.replace("NAMES", "message"), 4),
    "4": Page(_FOUR, _BODY_OF_FOUR + _CONNECTED, 4),
    "4 by POST": Page(_FOUR, _BODY_OF_FOUR + _POSTED, 4),
}


class Site:
    """A server with one page, and the answer that it asks for."""

    def __init__(self, name: str, answer: Any) -> None:
        scripts, body, version = PAGES[name]
        folder = node_packages()
        tags = "".join(f'<script src="/{script}"></script>' for script in scripts)
        page = f"<!doctype html><meta charset=utf-8><link rel=icon href=data:,>{tags}{body}"
        self.asked = 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                if self.path == "/answer":
                    site.asked += 1
                    client = Client(base_url="http://test", transport=FakeTransport(answer))
                    self._send(
                        relay.headers("html", version=version),
                        relay.sse(client.stream("Hi"), "html", version=version),
                    )
                elif self.path == "/":
                    self._send({"Content-Type": "text/html"}, [page.encode()])
                else:
                    script = (folder / self.path[1:]).read_bytes()
                    self._send({"Content-Type": "text/javascript"}, [script])

            do_POST = do_GET  # noqa: N815

            def _send(self, headers: dict[str, str], body: Any) -> None:
                self.send_response(200)
                for header in headers.items():
                    self.send_header(*header)
                self.end_headers()
                for data in body:
                    self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.mark.parametrize("answer", [WHOLE, HALF], ids=["whole", "cut off"])
@pytest.mark.parametrize("name", PAGES)
def test_what_htmx_shows(chromium: Any, name: str, answer: Any) -> None:
    site = Site(name, answer)
    problems: list[str] = []
    try:
        page = chromium.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.goto(site.url)
        if "POST" in name:
            page.click("button")
        if answer is WHOLE:
            page.wait_for_selector("#done .done", state="attached")
            assert page.inner_text("#a") == TEXT.replace("\r\n", "\n")
            assert page.locator("#a *:not(span):not(br)").count() == 0
            assert page.get_attribute("#done .done", "data-finish") == "tool_calls"
        else:
            page.wait_for_selector("#a .error[role=alert]")
            assert page.inner_text("#a") == (
                "one twoThe answer was cut off before its end. Please try again."
            )
            assert page.locator(".done").count() == 0
        # An extension that has not closed its connection asks again after half a second.
        page.wait_for_timeout(1500)
        assert site.asked == 1
        page.close()
    finally:
        site.close()
    assert problems == []
    eventually(lambda: not site._thread.is_alive(), "the server has ended")
