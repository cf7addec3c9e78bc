"""Under gevent, which puts greenlets in the place of threads: clocks, cancels and relays work; what
was imported too early says so."""

from __future__ import annotations

import pytest
from support import output_of

pytest.importorskip("gevent", reason="needs gevent (extra `test`)")

PATCHED = """
    from gevent import monkey; monkey.patch_all()
    import threading
    import gevent
    from llmstream import Client, FirstTokenTimeout, Timeouts, relay
    from llmstream.testing import Answer, LLMServer, Reply, Silence

    words = Answer("one two three").blocks()[:6]
    said = []

    def read(body):
        try:
            for _ in body:
                pass
        except BaseException as error:
            said.append(type(error).__name__)

    with LLMServer() as server, Client(base_url=server.base_url) as client:
        try:
            server.script(Reply([Silence()]))
            client.stream("Hi", timeouts=Timeouts(first_token=0.2)).result()
        except FirstTokenTimeout:
            said.append("the clock")
        for leave in "drop", "close", "kill":
            server.script(Reply([*words, Silence()]))
            body = relay.sse(client.stream("Hi"), heartbeat=0.1)
            while b"one" not in next(body):
                pass
            if leave == "drop":
                del body
            else:
                reader = gevent.spawn(read, body)
                gevent.sleep(0.05)
                body.close() if leave == "close" else reader.kill()
                reader.join(5)
                assert reader.dead
            server.wait_closed(-1)
    left = [one.name for one in threading.enumerate() if one.name != "llmstream-watchdog"]
    print(said, left)
"""

TOO_LATE = """
    import warnings
    warnings.simplefilter("ignore")
    import llmstream
    from gevent import monkey; monkey.patch_all()
    from llmstream.testing import FakeTransport
    try:
        llmstream.Client(base_url="http://test", transport=FakeTransport()).stream("Hi").result()
    except llmstream.ConfigurationError as error:
        print("patch_all" in str(error))
"""


@pytest.mark.slow
def test_clocks_and_relays() -> None:
    """A relay that is dropped, closed while another greenlet reads it, or read by a greenlet that
    is killed, cancels its call."""
    assert output_of(PATCHED) == "['the clock', 'Cancelled', 'GreenletExit'] ['MainThread']\n"


@pytest.mark.slow
def test_what_is_patched_too_late_is_refused() -> None:
    """It would hang: the queues that were imported before block all greenlets."""
    assert output_of(TOO_LATE, PYTHONWARNINGS="ignore") == "True\n"
