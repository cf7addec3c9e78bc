"""A stream that has begun belongs to its process: a forked child neither reads its socket nor ends
it, whatever it does with the stream, and it never hangs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

import pytest
from support import output_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# The service sends eight words, one each time that the parent has the one before. A use is what the
# child does; it reports how that ended through a pipe. Each use has its own client and child.
PROGRAM = """
    import gc, json, os, sys, threading, weakref
    from support import eventually, until_blocked
    from llmstream import Client
    from llmstream.testing import Answer, LLMServer, Pause, Reply

    api, tls, *uses = sys.argv[1:]
    words = "".join(f"w{n} " for n in range(8))

    def in_child(use, client, held):
        view, stream = held.pop(), held.pop()
        end = "nothing"
        try:
            if use in ("iterate", "blocked"):
                for _ in view:
                    end = "a token"
            elif use == "result":
                stream.result()
            elif use == "cancel":
                stream.cancel("by the child")
                next(view)
            elif use == "close":
                stream.close()
                view.close()
                next(view)
            elif use == "leave":
                with stream:
                    pass
                client.close()
            elif use == "drop":
                known = weakref.ref(stream)
                del stream, view
                gc.collect()
                assert known() is None
            elif use == "one of its own":
                assert client.stream("Hi").result().text == words
                end = "a stream"
        except BaseException as exc:
            end = f"{type(exc).__name__}: {exc}"
        return end

    with LLMServer(tls=tls == "tls") as server:
        blocks = Answer(words).blocks(api)
        paced = [step for block in blocks for step in (block, Pause(0.03))]
        second = 2 * next(n for n, block in enumerate(blocks) if b"w1" in block)
        held = [*paced[: second + 1], Pause(3.0), *paced[second + 1 :]]
        verify = server.ca_file if tls == "tls" else True
        base = server.base_url_for(api)
        for use in uses:
            read, write = os.pipe()
            server.default = Reply(held if use == "blocked" else paced)
            client = Client(api, base_url=base, api_key="k", model="m", verify=verify)
            stream = client.stream("Hi")
            view = stream if use == "result" else iter(stream)
            got = [] if use == "result" else [next(view)]
            if use == "result":
                stream.__enter__()
            if use == "blocked":  # a thread of the parent is in the middle of a read
                reader = threading.Thread(target=lambda: got.extend(view))
                reader.start()
                eventually(lambda: len(got) == 2, "the second word has come")
                until_blocked(reader)
            if os.fork() == 0:
                held = [stream, view]
                del stream, view  # what the child drops is not held here
                os.write(write, in_child(use, client, held).encode())
                os._exit(0)
            os.wait()
            if use == "blocked":
                reader.join()
            else:
                got += [] if use == "result" else list(view)
            told = os.read(read, 4096).decode()
            text = "".join(got) if use != "result" else stream.result().text
            print(json.dumps([use, told, text == words]))
            client.close()
"""

ENDS = {
    "iterate": "ConfigurationError",
    "blocked": "ConfigurationError",
    "result": "ConfigurationError",
    "cancel": "ConfigurationError",
    "close": "ConfigurationError",
    "leave": "nothing",
    "drop": "nothing",
    "one of its own": "a stream",
}


@pytest.mark.slow
@pytest.mark.parametrize("tls", ["http", "tls"])
def test_a_child_leaves_the_stream_to_its_parent(tls: str) -> None:
    """The parent's answer is whole, and the child is told why it has none."""
    check("chat", tls, ENDS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "api", ["responses", "messages", pytest.param("gemini", marks=pytest.mark.slow)]
)
def test_so_it_is_with_every_api(api: str) -> None:
    check(api, "http", ["iterate"])


def check(api: str, tls: str, uses: Iterable[str]) -> None:
    known = list(uses)
    reported = [json.loads(line) for line in output_of(PROGRAM, api, tls, *known).splitlines()]
    assert [use for use, _, _ in reported] == known
    for use, told, whole in reported:
        assert told.partition(":")[0] == ENDS[use], (use, told)
        assert "fork" in told or ENDS[use] != "ConfigurationError", (use, told)
        assert whole, use


UNTOUCHED = """
    import os
    from llmstream import Client
    from llmstream.testing import Answer, LLMServer

    read, write = os.pipe()
    with LLMServer() as server:
        server.default = lambda _: Answer("Hello")
        client = Client("chat", base_url=server.base_url, api_key="k", model="m")
        ended, fresh = client.stream("a"), client.stream("b")
        ended.result()
        if os.fork() == 0:
            try:
                words = [ended.result().text, ended.text, fresh.result().text]
            except BaseException as exc:
                words = [repr(exc)]
            os.write(write, "|".join(words).encode())
            os._exit(0)
        os.wait()
        print(os.read(read, 4096).decode(), fresh.result().text)
        client.close()
"""


def test_streams_that_do_not_run_are_the_child_s_too() -> None:
    """One that has ended has its result, and one that has not begun may begin in both."""
    assert output_of(UNTOUCHED) == "Hello|Hello|Hello Hello\n"
