"""What is left when the interpreter ends, and ends in a finalizer or as a generator that is closed:
daemon threads have ended then wherever they were, and what they had locked stays locked."""

from __future__ import annotations

import re

import pytest
from support import output_of

ENDING = """
    import lost_locks, sys
    from support import ENDLESS, OPENING
    from llmstream import Client, fanout, pace, relay
    from llmstream.telemetry import LogObserver, PrometheusObserver
    from llmstream.testing import LLMServer, Reply, Silence

    server = LLMServer()
    server.default = Reply([*OPENING, ENDLESS, Silence()])

    def new_client():
        observers = [LogObserver(), PrometheusObserver()]
        return Client("responses", base_url=server.base_url, api_key="k", observers=observers)

    client = new_client()

    def first(iterator):
        next(iterator)
        return iterator

    def inside(one, view=iter):
        with one:
            yield from view(one)

    def of_a_client():
        with new_client() as own, own.stream("Hi") as stream:
            yield from stream

    def in_the_end():
        stream = client.stream("Hi")
        try:
            yield from stream.chunks()
        finally:
            stream.cancel("left")
            stream.close()

    class OfTheCaller:
        def __init__(self):
            self.client = client
            self.stream = client.stream("Hi")
            next(iter(self.stream))

        def __del__(self):
            self.stream.cancel()
            self.stream.close()
            self.client.close()

    def published():
        log = relay.MemoryLog()
        kept = relay.publish(log, "a", client.stream("Hi"), "ui-message")
        return log, kept, first(iter(relay.follow(log, "a")))

    def batch():
        return client.parallel(["a", "b", "c"], progress=True)

    CASES = {
        "a stream": lambda: client.stream("Hi"),
        "a view": lambda: first(iter(client.stream("Hi"))),
        "chunks": lambda: first(client.stream("Hi").chunks()),
        "in the background": lambda: first(iter(client.stream("Hi", background=True))),
        "paced": lambda: first(pace(client.stream("Hi"))),
        "a fan": lambda: first(fanout(client.stream("Hi")).subscribe()),
        "a batch": lambda: first(batch().chunks()),
        "a run": lambda: first(client.run("Hi", [])),
        "an answer in a log": published,
        "a body": lambda: first(iter(relay.sse(client.stream("Hi"), "ui-message"))),
        "a generator with a stream": lambda: first(inside(client.stream("Hi"))),
        "a generator with a fan": lambda: first(
            inside(fanout(client.stream("Hi")), lambda fan: fan.subscribe())
        ),
        "a generator with a batch": lambda: first(inside(batch(), lambda one: one.chunks())),
        "a generator with a run": lambda: first(inside(client.run("Hi", []))),
        "a generator with a client": lambda: first(of_a_client()),
        "a generator with a finally": lambda: first(in_the_end()),
        "a finalizer of the caller": OfTheCaller,
    }
    kept = CASES[sys.argv[1]]()
    print("the end")
"""
CASES = re.findall(r'^ +"(.+)": ', ENDING, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_nothing_waits_for_a_thread_that_has_ended(case: str) -> None:
    assert output_of(ENDING, case).endswith("the end\n")


@pytest.mark.slow
def test_a_reader_that_ended_in_the_middle() -> None:
    """A real thread of which a real lock is left: that of the call."""
    code = """
        from support import ENDLESS, OPENING, hold_for_ever
        from llmstream import Client
        from llmstream.testing import LLMServer, Reply, Silence

        server = LLMServer()
        server.script(Reply([*OPENING, ENDLESS, Silence()]))
        client = Client("responses", base_url=server.base_url, api_key="k")
        stream = client.stream("Hi")
        next(iter(stream))
        hold_for_ever(stream._call.ctx.scope._lock)
        print("the end")
    """
    assert output_of(code) == "the end\n"
