"""Batches and interrupts: Ctrl-C, signal handlers, the end of the program, forks."""

from __future__ import annotations

import signal
import time

import pytest
from support import output_of

SERVER = """
    import os, signal, sys, threading, time
    from llmstream import *
    from llmstream.testing import *
    ANSWER = Answer("one two three four")
    STUCK = Reply([*ANSWER.blocks()[:6], Silence()])
    server = LLMServer()
    client = Client("responses", base_url=server.base_url, api_key="k")
    PROMPTS = [f"prompt {n}" for n in range(20)]

    def workers():
        names = ("llmstream-worker", "llmstream-prompts")
        return [t.name for t in threading.enumerate() if t.name in names]

    def eventually(condition):
        until = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < until, "never"
            time.sleep(0.002)
"""


@pytest.mark.slow
@pytest.mark.parametrize("view", ["list(batch)", "batch.results()", "list(batch.chunks())"])
def test_one_interrupt_ends_all_streams(view: str) -> None:
    """Ctrl-C in the reader: KeyboardInterrupt comes through, all connections close at once, no
    worker is left, and what had arrived stays readable."""
    code = f"""
    {SERVER}
    server.default = STUCK
    batch = client.parallel(PROMPTS)
    streams = batch._run.crew._calls._streams

    def interrupt():
        server.wait_requests(8)
        eventually(lambda: [s.text for s in streams.copy().values()] == ["one two"] * 8)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    try:
        {view}
    except KeyboardInterrupt:
        at = time.monotonic()
        server.wait_all_closed()
        eventually(lambda: not workers())
        print(time.monotonic() - at < 5, len(server.requests))
        print(sorted(len(outcome.text) for outcome in batch.outcomes)[-8:])
    server.close()
    """
    assert output_of(code).splitlines() == ["True 8", "[7, 7, 7, 7, 7, 7, 7, 7]"]


@pytest.mark.slow
def test_an_interpreter_that_exits_does_not_wait() -> None:
    """In the middle of a batch, with the batch still referred to; and without a traceback."""
    code = f"""
    {SERVER}
    server.default = STUCK
    batch = client.parallel(PROMPTS)
    view = batch.chunks()
    print(next(view)[1].text)
    """
    began = time.monotonic()
    assert output_of(code) == "one\n"
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_the_reader_may_exit_while_workers_work() -> None:
    """The end of the program meets answers on their way, three times."""
    code = f"""
    {SERVER}
    server.default = lambda request: Reply([Drip(b"".join(ANSWER.blocks()), every=0.001, size=40)])
    batch = client.parallel((f"prompt {{n}}" for n in range(100_000)), max_workers=16)
    for outcome in batch:
        assert outcome.ok
        if outcome.index > 20:
            break
    """
    for _ in range(3):
        assert output_of(code) == ""


def test_a_signal_handler_may_cancel() -> None:
    """In the thread that reads, which it interrupts at any point; and it may make a batch of its
    own. It cannot read the batch that it interrupts."""
    code = f"""
    {SERVER}
    server.default = lambda r: ANSWER if r.json()["input"] in "ab" else STUCK
    batch = client.parallel(PROMPTS)
    seen = []

    def handler(number, frame):
        try:
            next(batch)
        except ConfigurationError as error:
            seen.append("another thread" in error.message)
        seen.append(len(client.parallel(["a", "b"]).results()))
        batch.cancel("signalled")

    signal.signal(signal.SIGALRM, handler)

    def alarm():
        server.wait_requests(8)
        os.kill(os.getpid(), signal.SIGALRM)

    threading.Thread(target=alarm).start()
    outcomes = list(batch)
    print(len(outcomes), {{o.error.reason for o in outcomes}}, seen)
    """
    assert output_of(code) == "20 {'signalled'} [True, 2]\n"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no fork")
def test_a_running_batch_belongs_to_the_parent() -> None:
    """In a forked child it cannot be read, and cancelling, closing or dropping it harms nobody."""
    code = f"""
    {SERVER}
    go = threading.Event()
    def slow(request):
        go.wait(15)
        return ANSWER
    server.default = slow
    batch = client.parallel(PROMPTS, max_workers=4)
    fresh = client.parallel(["a"])
    done = []
    reader = threading.Thread(target=lambda: done.extend(batch.results()))
    reader.start()
    server.wait_requests(4)
    pid = os.fork()
    if pid == 0:
        try:
            batch.results()
        except ConfigurationError as error:
            print("parent process" in error.message, flush=True)
        batch.cancel("in the child")
        batch.close()
        del batch
        fresh.cancel()
        print([type(o.error).__name__ for o in fresh], flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    go.set()
    reader.join()
    print(len(done), fresh.results()[0].text)
    """
    assert output_of(code).splitlines() == ["True", "['Cancelled']", "20 one two three four"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_interrupts_at_random_points(seed: int) -> None:
    """SIGINT at 60 random moments of reading: each time the streams end, no worker is left, and no
    outcome comes twice or is lost."""
    code = f"""
    {SERVER}
    import random
    random.seed({seed})
    server.default = lambda request: Answer("quick")
    client.parallel(PROMPTS).results()
    for n in range(60):
        batch = client.parallel(PROMPTS, max_workers=4)
        seen = []
        timer = threading.Timer(random.random() * 0.04, os.kill, (os.getpid(), signal.SIGINT))
        interrupted = 0
        try:
            timer.start()
            try:
                if n % 2:
                    for outcome in batch:
                        seen.append(outcome.index)
                else:
                    batch.results()
                timer.join()
                time.sleep(0.05)
            finally:
                left = [outcome.index for outcome in batch.outcomes]
        except KeyboardInterrupt:
            interrupted = 1
        if interrupted:
            try:
                batch.close()
            except KeyboardInterrupt:
                batch.close()
            more = [o.index for o in batch] if n % 2 else [o.index for o in batch.outcomes]
            every = seen + more
            assert len(set(every)) == len(every), (seen, more)
            if n % 2:
                assert sorted(every) == list(range(20)), (seen, more)
        eventually(lambda: not workers())
    print("done")
    """
    assert output_of(code) == "done\n"


def test_an_interrupt_in_the_loops_body_ends_the_batch() -> None:
    """Where only the loop refers to it, and where a `with` block does."""
    code = f"""
    {SERVER}
    server.default = lambda r: ANSWER if r.json()["input"] == "prompt 0" else STUCK
    try:
        for outcome in client.parallel(PROMPTS):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        eventually(lambda: not workers())
    try:
        with client.parallel(PROMPTS) as batch:
            for outcome in batch:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        eventually(lambda: not workers())
    print("done")
    """
    assert output_of(code) == "done\n"


SWEEP = """
    def interrupted_at(number, work):
        \"\"\"Do `work`, with KeyboardInterrupt at its point `number` at which CPython looks for
        interrupts; returns whether it has so many (see tests/attack/test_interrupts.py).\"\"\"
        count, own = 0, sys._getframe()

        def profile(frame, event, arg):
            nonlocal count
            begins = event == "call" and not frame.f_code.co_flags & (0x20 | 0x80 | 0x200)
            if frame is not own and (begins or event == "c_return"):
                count += 1
                if count == number:
                    sys.setprofile(None)
                    raise KeyboardInterrupt

        try:
            sys.setprofile(profile)
            work()
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        return count >= number

    def rest_of(batch):
        try:
            return [outcome.index for outcome in batch]
        except ConfigurationError:  # it has another view
            with contextlib.suppress(LLMStreamError):
                batch.results()
            return [outcome.index for outcome in batch.outcomes]

    def check(view, number):
        batch, seen = client.parallel(PROMPTS[:6], max_workers=2), []

        def iteration():
            for outcome in batch:
                seen.append(outcome.index)

        def chunks():
            for _ in batch.chunks():
                pass

        work = {"iteration": iteration, "results": batch.results, "chunks": chunks}[view]
        more = interrupted_at(number, work)
        batch.close()
        assert sorted(seen + rest_of(batch)) == [*range(6)], (view, number, seen)
        del batch, work, iteration, chunks
        eventually(lambda: not workers())
        return more
"""


@pytest.mark.attack
@pytest.mark.parametrize("view", ["iteration", "results", "chunks"])
def test_an_interrupt_at_each_point(view: str) -> None:
    """Of a whole batch: no outcome is lost, none comes twice, and no worker is left."""
    code = f"""
    import contextlib
    {SERVER}
    {SWEEP}
    server.default = server.echo
    number = 1
    while check({view!r}, number) and number < 2000:
        number += 1
    print(number > 30)
    """
    assert output_of(code) == "True\n"


@pytest.mark.slow
@pytest.mark.parametrize("view", ["iteration", "results", "chunks"])
def test_an_interrupt_at_some_points(view: str) -> None:
    """The same at one point of 7, for the default suite."""
    code = f"""
    import contextlib
    {SERVER}
    {SWEEP}
    server.default = server.echo
    number = 1
    while check({view!r}, number):
        number += 7
    print(number > 30)
    """
    assert output_of(code) == "True\n"
