"""Batches over executors: threads, processes (forked and spawned), a Dask cluster."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
from every import every
from support import AT_ONCE, TWO_TOKENS, eventually, output_of

from llmstream import (
    BatchError,
    Cancelled,
    Client,
    ConfigurationError,
    LLMStreamError,
    StreamInterrupted,
    errors,
)
from llmstream.result import Attempt, Result, Usage
from llmstream.testing import Cut, LLMServer, Reply, Silence

ClientFor = Callable[..., Client]
PROMPTS = [f"prompt {n}" for n in range(24)]
STUCK = Reply([*TWO_TOKENS, Silence()])


@pytest.fixture
def threads(nothing_left: None) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


# Processes are spawned here. With fork each test is a program of its own: since Python 3.12 a fork
# of a process with threads is warned of, and pytest makes errors of warnings.
@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, initializer=_set_key) as executor:
        executor.submit(os.getpid).result()  # its threads run, before those of a test are counted
        yield executor


def _set_key() -> None:
    os.environ["LLMSTREAM_API_KEY"] = "key-of-the-worker"


# ---- threads -----------------------------------------------------------------------------------


def test_threads_of_an_executor(
    threads: Executor, server: LLMServer, client_for: ClientFor
) -> None:
    """All views, as without one; the client is this one, and the executor is left as it was."""
    server.default = server.echo
    client = client_for(server)
    batch = client.parallel(PROMPTS, executor=threads)
    assert [result.text for result in batch.results()] == PROMPTS
    assert sorted(o.text for o in client.parallel(PROMPTS, executor=threads)) == sorted(PROMPTS)
    pairs = client.parallel(PROMPTS, executor=threads).chunks()
    assert "".join(chunk.text for index, chunk in pairs if index == 5) == PROMPTS[5]
    assert threads.submit(int).result() == 0


def test_no_more_calls_run_than_the_batch_has_workers(
    server: LLMServer, client_for: ClientFor
) -> None:
    """However many the executor has."""
    server.default = STUCK
    with ThreadPoolExecutor(16) as executor:
        with client_for(server).parallel(PROMPTS, executor=executor, max_workers=3) as batch:
            chunks = batch.chunks()
            seen = [next(chunks) for _ in range(6)]
        assert {index for index, _ in seen} == {0, 1, 2}
    assert len(server.requests) == 3


def test_cancel_reaches_the_threads_of_an_executor(
    threads: Executor, server: LLMServer, client_for: ClientFor
) -> None:
    server.default = STUCK
    batch = client_for(server).parallel(PROMPTS, executor=threads, max_workers=6)
    chunks = batch.chunks()
    for _ in range(8):
        next(chunks)
    batch.cancel("enough")
    with pytest.raises(BatchError) as caught:
        next(chunks)
    assert len(caught.value.outcomes) == len(PROMPTS)
    assert sorted(o.text for o in caught.value.outcomes)[-5:] == ["", *["one two"] * 4]
    server.wait_all_closed()


def test_prompts_are_drawn_as_needed(
    threads: Executor, server: LLMServer, client_for: ClientFor
) -> None:
    drawn: list[int] = []
    endless = (drawn.append(n) or f"prompt {n}" for n in iter(int, 1))
    with client_for(server).parallel(endless, executor=threads, max_workers=4) as batch:
        for taken in range(1, 20):
            assert next(batch).ok
            assert len(drawn) <= taken + 8


def test_an_executor_that_takes_no_more(server: LLMServer, client_for: ClientFor) -> None:
    """Each prompt of a list has an outcome that says so; of an iterator the rest is left in it."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    client = client_for(server)
    outcomes = list(client.parallel(PROMPTS, executor=executor))
    assert len(outcomes) == len(PROMPTS)
    assert all("takes no call (RuntimeError" in str(outcome.error) for outcome in outcomes)
    assert all(isinstance(o.error and o.error.__cause__, RuntimeError) for o in outcomes)
    rest = iter(PROMPTS)
    batch = client.parallel(rest, executor=executor)
    assert not next(batch).ok
    with pytest.raises(LLMStreamError, match="takes no call"):
        next(batch)
    assert next(rest) == PROMPTS[1]


class Odd(Executor):
    """Runs each call at once, cancels some, and loses some."""

    def __init__(self) -> None:
        self.count = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.count += 1
        if self.count % 3 == 1:
            future.set_result(fn(*args, **kwargs))
        elif self.count % 3 == 2:
            future.cancel()
            future.set_running_or_notify_cancel()
        else:
            future.set_exception(OSError("the machine is gone"))
        return future


def test_an_executor_that_loses_calls(server: LLMServer, client_for: ClientFor) -> None:
    """As many outcomes as prompts; what was lost says so, with the cause."""
    outcomes = list(client_for(server).parallel(PROMPTS, executor=Odd()))
    assert sorted(outcome.index for outcome in outcomes) == list(range(len(PROMPTS)))
    assert sum(outcome.ok for outcome in outcomes) == len(PROMPTS) // 3
    lost = [outcome.error for outcome in outcomes if outcome.error is not None]
    assert {type(error.__cause__).__name__ for error in lost} == {"CancelledError", "OSError"}
    assert all(error.trace_id and error.retryable for error in lost)


class Strange(Executor):
    """Returns what is no future."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return None


def test_an_executor_that_is_none(server: LLMServer, client_for: ClientFor) -> None:
    """It does not hang."""
    client = client_for(server)
    outcomes = list(client.parallel(PROMPTS[:3], executor=Strange()))
    assert ["AttributeError" in str(outcome.error) for outcome in outcomes] == [True] * 3
    with pytest.raises(AttributeError):
        list(client.parallel(iter(PROMPTS), executor=Strange()))


class Late(Executor):
    """Runs its calls only when it is told to, and cannot cancel them."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self.waiting.append(lambda: future.set_result(fn(*args, **kwargs)))
        return future


def test_a_call_that_begins_after_its_batch_is_not_made(
    server: LLMServer, client_for: ClientFor
) -> None:
    executor = Late()
    batch = client_for(server).parallel(PROMPTS, executor=executor)
    threading.Timer(0.1, batch.cancel).start()
    assert len(list(batch)) == len(PROMPTS)
    eventually(lambda: batch._run.over, "the batch is over")
    for run in executor.waiting:
        run()
    assert not server.requests


# ---- processes ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_spawned_processes(processes: Executor, server: LLMServer, client_for: ClientFor) -> None:
    """The key is the worker's own, unless the caller says that it travels. Results, errors and
    what came before an error are as here."""
    server.default = lambda r: (
        Reply([*TWO_TOKENS, Cut()]) if "13" in r.json()["input"] else server.echo(r)
    )
    client = client_for(server, retry=AT_ONCE)
    outcomes = sorted(client.parallel(PROMPTS, executor=processes), key=lambda o: o.index)
    assert [o.text for o in outcomes if o.ok] == [p for p in PROMPTS if "13" not in p]
    failed = outcomes[13].error
    assert isinstance(failed, StreamInterrupted)
    assert failed.partial.text == "one two"
    assert [attempt.status for attempt in failed.attempts] == [200]
    assert outcomes[0].result is not None
    assert len({o.result.trace_id for o in outcomes if o.result is not None}) == 23
    keys = {request.headers["Authorization"] for request in server.requests}
    assert keys == {"Bearer key-of-the-worker"}

    generous = Client.from_settings(client.settings.with_key())
    generous.parallel(["a", "b"], executor=processes).results()
    assert {r.headers["Authorization"] for r in server.requests[-2:]} == {"Bearer test-key"}


@pytest.mark.slow
def test_a_worker_process_has_one_client(
    processes: Executor, server: LLMServer, client_for: ClientFor
) -> None:
    """Of the same settings: its connections serve one batch after another."""
    client = client_for(server)
    for _ in range(3):
        client.parallel(PROMPTS, executor=processes, max_workers=2).results()
    assert server.connections <= 2


@pytest.mark.slow
def test_what_processes_cannot_do(
    processes: Executor, server: LLMServer, client_for: ClientFor
) -> None:
    """chunks() says so at once; what does not pickle is the error of its call."""
    client = client_for(server)
    batch = client.parallel(PROMPTS, executor=processes)
    with pytest.raises(ConfigurationError, match=r"chunks\(\) needs calls in this process"):
        batch.chunks()
    assert len(batch.results()) == len(PROMPTS)
    odd = {"prompt": "a", "extra_body": {"x": lambda: None}}
    first, second = sorted(client.parallel([odd, "b"], executor=processes), key=lambda o: o.index)
    assert isinstance(first.error, LLMStreamError)
    assert "the executor has lost the call" in first.error.message  # it does not pickle
    assert second.ok


@pytest.mark.slow
def test_cancel_does_not_wait_for_other_processes(
    processes: Executor, server: LLMServer, client_for: ClientFor
) -> None:
    """A call that cannot be reached ends here at once, and says that it runs on."""
    server.default = lambda r: Reply([*TWO_TOKENS, Silence()])
    batch = client_for(server).parallel(PROMPTS, executor=processes, max_workers=4)

    def cancel() -> None:
        server.wait_requests(2, timeout=15)
        batch.cancel("enough")

    threading.Thread(target=cancel).start()
    outcomes = list(batch)
    assert len(outcomes) == len(PROMPTS)
    assert all(isinstance(outcome.error, Cancelled) for outcome in outcomes)
    assert any("in another process" in str(outcome.error) for outcome in outcomes)
    server.close()  # the calls that were left there end
    eventually(lambda: processes.submit(int).result(15) == 0, "the workers are free")


PROGRAM = """
import multiprocessing, os, signal, sys
from concurrent.futures import ProcessPoolExecutor
from llmstream import *
from llmstream.testing import *

PROMPTS = [f"prompt {n}" for n in range(24)]

def main():
    method = sys.argv[1]
    server = LLMServer()
    server.default = server.echo
    client = Client("responses", base_url=server.base_url, api_key="k")
    client = Client.from_settings(client.settings.with_key())
    client.stream("here").result()
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        print([r.text for r in client.parallel(PROMPTS, executor=executor).results()] == PROMPTS)
        def kill(request):
            if request.json()["input"] == "prompt 7":
                for process in list(executor._processes.values()):
                    process.kill()
            return server.echo(request)
        server.default = kill
        outcomes = sorted(client.parallel(PROMPTS, executor=executor), key=lambda o: o.index)
        print(len(outcomes), [o.ok for o in outcomes].index(False) <= 7, outcomes[7].ok)
        print({type(o.error.__cause__).__name__ for o in outcomes if not o.ok})
    server.close()

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_process_that_dies(method: str, tmp_path: Any) -> None:
    """The pool is broken then: every prompt has an outcome, and says why."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("the system has no fork")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, "utf-8")
    code = f"import runpy, sys; sys.argv = ['x', {method!r}]; "
    code += f"runpy.run_path({str(program)!r}, run_name='__main__')"
    assert output_of(code).splitlines() == ["True", "24 True False", "{'BrokenProcessPool'}"]


# ---- what travels back -------------------------------------------------------------------------


@every("name", errors.__all__)
def test_every_error_pickles_with_what_had_arrived(name: str) -> None:
    """Its class, message, `.partial`, `.attempts` and ids."""
    error: LLMStreamError = getattr(errors, name)("what happened")
    error.partial = Result(text="one two", usage=Usage(output_tokens=2))
    error.attempts = (Attempt(1, 0.0, "body", error, status=200),)
    error.trace_id, error.request_id = "t" * 32, "req_1"
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (str(back), back.partial, back.retryable) == (str(error), error.partial, error.retryable)
    assert (back.trace_id, back.request_id) == (error.trace_id, error.request_id)
    assert back.attempts[0].error is back


# ---- Dask --------------------------------------------------------------------------------------

DASK = """
import os, signal, sys, warnings
from distributed import Client as Dask, LocalCluster
from llmstream import *
from llmstream.testing import *

def main():
    server = LLMServer()
    def slow(request):
        pieces = server.echo(request).blocks("responses")
        return Reply([*pieces[:5], Pause(0.05), *pieces[5:]])
    server.default = slow
    client = Client("responses", base_url=server.base_url, api_key="k")
    client = Client.from_settings(client.settings.with_key())
    equal = ["the same"] * 5
    prompts = [*equal, *(f"prompt {n}" for n in range(40))]
    cluster = LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None, silence_logs=50
    )
    with cluster, Dask(cluster) as dask:
        executor = dask.get_executor(pure=False)
        client.parallel(equal, executor=executor).results()
        print(len(server.requests))
        outcomes = []
        for outcome in client.parallel(prompts, executor=executor, max_workers=6):
            outcomes.append(outcome)
            if len(outcomes) == 10:
                os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
        print(len(outcomes), sorted(o.index for o in outcomes) == list(range(45)))
        print(all(o.text == o.prompt if o.ok else o.error.__cause__ for o in outcomes))
        batch = client.parallel(prompts[:2], executor=executor)
        try:
            list(batch.chunks())
        except BatchError as error:
            print("chunks() needs calls in this process" in error.message)
        try:
            client.parallel(prompts, executor=dask)
        except ConfigurationError as error:
            print("get_executor(pure=False)" in error.message)
    server.close()

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="needs the extra `dask`"
)
def test_dask(tmp_path: Any) -> None:
    """Five equal prompts are five requests. A worker that is killed in mid-batch costs no outcome:
    Dask makes its calls again on another one."""
    program = tmp_path / "program.py"
    program.write_text(DASK, "utf-8")
    code = f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')"
    output = output_of(code, DASK_TEMPORARY_DIRECTORY=str(tmp_path)).splitlines()
    assert output == ["5", "45 True", "True", "True", "True"]
