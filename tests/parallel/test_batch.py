"""Batches over threads: outcomes, results, chunks; prompts, their mistakes and their iterators."""

from __future__ import annotations

import contextvars
import gc
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any

import pytest
from support import (
    ANSWER,
    AT_ONCE,
    TWO_TOKENS,
    clocks,
    eventually,
    other_threads,
)

from llmstream import (
    Batch,
    BatchError,
    Cancelled,
    Client,
    ConfigurationError,
    IdleTimeout,
    LLMStreamError,
    Outcome,
    RateLimitError,
    StreamInterrupted,
)
from llmstream._runtime.threads import spawn
from llmstream.telemetry import Observer, current_trace_id
from llmstream.testing import (
    Answer,
    Cut,
    FakeClock,
    FakeTransport,
    LLMServer,
    Recorded,
    Reply,
    Silence,
)

ClientFor = Callable[..., Client]
STUCK = Reply([*TWO_TOKENS, Silence()])  # "one two", and then nothing


def by_index(outcomes: Any) -> list[Outcome]:
    return sorted(outcomes, key=lambda outcome: outcome.index)


def read_to_the_end(view: Any) -> tuple[list[Any], BaseException | None]:
    """What a view brings, and what it raises."""
    seen: list[Any] = []
    try:
        seen.extend(view)  # keeps those before an exception
    except BaseException as exc:
        return seen, exc
    return seen, None


def fds() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0


# ---- the views ---------------------------------------------------------------------------------


def test_outcomes_come_as_the_calls_end(server: LLMServer, client_for: ClientFor) -> None:
    """Each prompt has one, with its index and the prompt as it was given."""
    prompts = ["a", [{"role": "user", "content": "b"}], {"prompt": "c", "temperature": 0.5}]
    outcomes = by_index(client_for(server).parallel(prompts))
    assert [(o.index, o.prompt, o.ok) for o in outcomes] == [
        (index, prompt, True) for index, prompt in enumerate(prompts)
    ]
    warmth = [str(request.json().get("temperature")) for request in server.requests]
    assert sorted(warmth) == ["0.5", "None", "None"]


def test_a_quick_one_does_not_wait_for_a_slow_one(server: LLMServer, client_for: ClientFor) -> None:
    server.default = lambda r: STUCK if r.json()["input"] == "slow" else Answer("quick")
    with client_for(server).parallel(["slow", "a", "b"], max_workers=2) as batch:
        assert [next(batch).index, next(batch).index] == [1, 2]
        assert batch.outcomes == ()
        eventually(lambda: texts(batch) == ["one two"], "the slow one has begun")
    (last,) = batch
    assert isinstance(last.error, Cancelled)
    assert last.text == "one two"


def test_results_are_in_order(server: LLMServer, client_for: ClientFor) -> None:
    server.default = server.echo
    prompts = [f"prompt {n}" for n in range(40)]
    batch = client_for(server).parallel(prompts)
    assert [result.text for result in batch.results()] == prompts
    assert batch.results() == batch.results()
    assert [outcome.prompt for outcome in batch.outcomes] == prompts


def test_of_results_that_fail_all_is_readable(server: LLMServer, client_for: ClientFor) -> None:
    """BatchError has every outcome in order, beside the errors what had arrived; and pickles."""
    server.default = lambda r: (
        Reply([*TWO_TOKENS, Cut()]) if r.json()["input"] == "cut" else Answer("whole")
    )
    batch = client_for(server, retry=AT_ONCE).parallel(["a", "cut", "b"])
    with pytest.raises(BatchError, match=r"1 of 3 calls failed \(1 StreamInterrupted\)") as caught:
        batch.results()
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert [(o.ok, o.text) for o in error.outcomes] == [
            (True, "whole"),
            (False, "one two"),
            (True, "whole"),
        ]
        assert error.retryable
    assert isinstance(caught.value.__cause__, StreamInterrupted)


def test_an_error_of_a_batch_shows_neither_prompts_nor_answers(
    server: LLMServer, client_for: ClientFor
) -> None:
    """Not in its words, and not in the frames of its traceback, which error reporters send."""
    server.default = lambda r: Reply([*TWO_TOKENS, Cut()]) if "cut" in r.json()["input"] else ANSWER
    batch = client_for(server, retry=AT_ONCE).parallel(["secret cut", "secret"])
    with pytest.raises(BatchError) as caught:
        batch.results()
    assert "secret" not in str(caught.value)
    inside = [entry.frame for entry in caught.traceback if "llmstream" in str(entry.path)]
    shown = [repr(value) for frame in inside for value in frame.f_locals.values()]
    assert not [text for text in shown if "secret" in text or "one two" in text]


def test_chunks_are_live_from_all_streams(server: LLMServer, client_for: ClientFor) -> None:
    """While all calls run, each one's pieces are there, and results follow."""
    server.default = server.echo
    prompts = [f"number {n} of ten" for n in range(10)]
    batch = client_for(server).parallel(prompts)
    texts = dict.fromkeys(range(10), "")
    for index, chunk in batch.chunks():
        texts[index] += chunk.text
    assert list(texts.values()) == prompts
    assert [result.text for result in batch.results()] == prompts


def test_chunks_come_before_an_answer_is_whole(server: LLMServer, client_for: ClientFor) -> None:
    server.default = STUCK
    batch = client_for(server).parallel(["a", "b"])
    chunks = batch.chunks()
    seen = [next(chunks) for _ in range(4)]
    assert by_text(seen) == {0: "one two", 1: "one two"}
    batch.cancel("enough")
    with pytest.raises(BatchError, match=r"2 of 2 calls failed \(2 Cancelled\)") as caught:
        next(chunks)
    assert [o.text for o in caught.value.outcomes] == ["one two", "one two"]


def by_text(chunks: Any) -> dict[int, str]:
    texts: dict[int, str] = {}
    for index, chunk in sorted(chunks, key=lambda pair: pair[0]):
        texts[index] = texts.get(index, "") + chunk.text
    return texts


def test_chunks_end_with_what_has_failed(server: LLMServer, client_for: ClientFor) -> None:
    """All pieces that had arrived come first. A plain end means that all answers are whole."""
    server.default = Reply([*TWO_TOKENS, Cut()])
    chunks = client_for(server, retry=AT_ONCE).parallel(["a", "b"]).chunks()
    seen, error = read_to_the_end(chunks)
    assert isinstance(error, BatchError)
    assert by_text(seen) == {0: "one two", 1: "one two"}
    with pytest.raises(BatchError):
        next(chunks)


def test_chunks_that_are_left_out_are_no_end(server: LLMServer, client_for: ClientFor) -> None:
    """All answers are whole, and some chunks have not been handed out when the batch is cancelled:
    after its end that has no effect, and before it the end says so."""
    batch = client_for(server).parallel(["a", "b"])
    chunks = batch.chunks()
    seen = [next(chunks)]
    eventually(lambda: batch._run.over, "the calls have ended")
    batch.cancel("too late")
    seen += chunks
    assert by_text(seen) == {0: "Hello, world!", 1: "Hello, world!"}

    batch = client_for(server).parallel(["a", "b"])
    chunks = batch.chunks()
    next(chunks)
    eventually(lambda: batch._run.over, "the calls have ended")
    batch._run.over = False
    batch.cancel("just before the end")
    batch._run.over = True
    with pytest.raises(Cancelled, match="just before the end"):
        next(chunks)
    assert len(batch.results()) == 2


def test_chunks_are_bounded(server: LLMServer, client_for: ClientFor) -> None:
    """A reader that does not read stops the streams: no more than 64 chunks a worker wait."""
    server.default = Answer(" ".join(["word"] * 300))
    with client_for(server).parallel(["a", "b"], max_workers=2) as batch:
        chunks = batch.chunks()
        next(chunks)
        queue = batch._run.chunks
        assert queue is not None
        eventually(lambda: len(queue) == 128, "the queue is full")
        assert not batch.outcomes
        rest = sum(1 for _ in chunks)
    assert rest == 2 * 300 - 1


def test_results_read_the_rest_of_chunks(server: LLMServer, client_for: ClientFor) -> None:
    """Also where more chunks come than may wait."""
    server.default = Answer(" ".join(["word"] * 300))
    batch = client_for(server).parallel(["a", "b", "c"], max_workers=2)
    for _ in batch.chunks():
        break
    assert [len(result.text.split()) for result in batch.results()] == [300] * 3


def test_a_batch_of_doubles(nothing_left: None) -> None:
    """Over a transport and a clock in memory, retries included: no real wait."""
    clock = FakeClock()
    replies = [Reply.error(503, headers={"retry-after": "20"}), *[Answer("Hello")] * 30]
    transport = FakeTransport(*replies)
    client = Client(base_url="http://test/v1", transport=transport, clock=clock)
    for _ in range(2):
        results = client.parallel(["a"] * 15, max_workers=4).results()
        assert [result.text for result in results] == ["Hello"] * 15


def test_a_batch_has_one_view(server: LLMServer, client_for: ClientFor) -> None:
    """The iteration is always the same one: a second loop goes on where the first has left."""
    client = client_for(server)
    batch = client.parallel(["a", "b", "c"])
    first = [next(iter(batch)).index]
    assert sorted([*first, *(outcome.index for outcome in batch)]) == [0, 1, 2]
    assert list(batch) == []
    for other in (batch.results, batch.chunks):
        with pytest.raises(ConfigurationError, match=r"already being read by iteration"):
            other()
    batch = client.parallel(["a"])
    batch.results()
    with pytest.raises(ConfigurationError, match=r"already being read by results"):
        iter(batch)


def test_a_batch_has_one_reader(server: LLMServer, client_for: ClientFor) -> None:
    server.default = STUCK
    batch = client_for(server).parallel(["a"])
    threading.Thread(target=lambda: list(batch)).start()
    eventually(lambda: batch._run.reader.locked(), "the other thread reads")
    with pytest.raises(ConfigurationError, match="another thread"):
        next(batch)
    batch.cancel()


# ---- prompts -----------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_first_use(server: LLMServer, client_for: ClientFor) -> None:
    def prompts() -> Any:
        raise AssertionError("drawn")
        yield

    threads = other_threads()
    with client_for(server).parallel(prompts()) as batch:
        assert repr(batch) == "<Batch not started>"
        assert other_threads() <= threads
    assert not server.requests


def test_no_prompts_are_no_outcomes(server: LLMServer, client_for: ClientFor) -> None:
    client = client_for(server)
    assert list(client.parallel([])) == []
    assert client.parallel(iter([])).results() == []
    assert list(client.parallel(()).chunks()) == []


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ("a text", "pass a list"),
        ({"prompt": "x"}, "pass a list"),
        (7, "pass a list"),
        ([1], r"prompts\[0\]=1"),
        (["a", None], r"prompts\[1\]=None"),
        ([{"role": "user", "content": "x"}], r"prompts\[0\] is a dict without 'prompt'.*list of"),
        (["a", {"prompt": "b", "temprature": 1}], r"prompts\[1\] has the option 'temprature'"),
    ],
)
def test_a_wrong_list_is_refused_at_once(
    prompts: Any, said: str, server: LLMServer, client_for: ClientFor
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        client_for(server).parallel(prompts)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temprature": 1}, "'temprature', which Client.stream does not have"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"on_disconnect": "hope"}, "on_disconnect='hope'"),
        ({"trace_id": "a" * 32}, "trace_id is the id of one call"),
        ({"max_workers": 0}, "max_workers=0"),
        ({"rate_limit": -1}, "rate_limit=-1"),
        ({"executor": 3}, "executor=3"),
        ({"progress": "yes"}, "progress='yes'"),
    ],
)
def test_a_wrong_option_is_refused_at_once(
    options: Any, said: str, server: LLMServer, client_for: ClientFor
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        client_for(server).parallel(iter(["a"]), **options)


@pytest.mark.parametrize(
    ("api", "settings", "prompt", "options"),
    [
        ("responses", {"on_disconnect": "resume"}, "a", {"background": True}),
        (
            "responses",
            {"on_disconnect": "continue"},
            "a",
            {"tools": [{"type": "function", "name": "f"}], "on_disconnect": "raise"},
        ),
        (
            "messages",
            {"model": "claude-opus-4-8"},
            "a",
            {"thinking": 2048, "model": "claude-haiku-4-5"},
        ),
        (
            "messages",
            {"model": "claude-opus-4-8"},
            {"prompt": "a", "model": "claude-haiku-4-5"},
            {"thinking": 2048},
        ),
    ],
)
def test_options_that_need_each_other_are_taken(
    api: str,
    settings: Any,
    prompt: Any,
    options: Any,
    server: LLMServer,
    client_for: ClientFor,
) -> None:
    """Whether they are the batch's, the prompt's or the client's: what a call can do, a batch
    can."""
    url = f"{server.url}/v1" if api == "responses" else server.url
    client = client_for(server, api=api, base_url=url, **settings)
    [result] = client.parallel([prompt], **options).results()
    assert result.finish == "stop"


def test_a_wrong_prompt_of_an_iterator_is_its_own_outcome(
    server: LLMServer, client_for: ClientFor
) -> None:
    """It names the prompt's index, and harms no other."""
    given = ["a", 5, {"prompt": "c", "top": 1}, {"prompt": "d", "temperature": "hot"}, "e"]
    outcomes = by_index(client_for(server).parallel(iter(given)))
    assert [outcome.ok for outcome in outcomes] == [True, False, False, False, True]
    for outcome in outcomes[1:4]:
        assert isinstance(outcome.error, ConfigurationError)
        assert outcome.error.message.startswith(f"prompts[{outcome.index}]")
    assert [outcome.prompt for outcome in outcomes] == given


def test_an_endless_iterator_is_drawn_as_needed(server: LLMServer, client_for: ClientFor) -> None:
    """As far as the workers get, and no further than 2 x max_workers outcomes ahead of the reader.
    One thread draws, and it is not the reader's."""
    drawn: list[int] = []
    threads: set[str] = set()

    def prompts() -> Iterator[str]:
        try:
            while True:
                threads.add(threading.current_thread().name)
                drawn.append(len(drawn))
                yield f"prompt {len(drawn)}"
        finally:
            drawn.append(-1)

    batch = client_for(server).parallel(prompts(), max_workers=3)
    for taken in range(1, 20):
        assert next(batch).ok
        assert len(drawn) <= taken + 6
    eventually(lambda: len(batch.outcomes) == 5, "the workers are done")
    assert len(drawn) == 19 + 5
    assert threads == {"llmstream-prompts"}
    batch.close()
    eventually(lambda: drawn[-1] == -1, "the generator is closed")


def test_a_prompt_is_drawn_once_a_worker_is_near(server: LLMServer, client_for: ClientFor) -> None:
    server.default = STUCK
    drawn: list[int] = []
    prompts = (drawn.append(n) or f"prompt {n}" for n in range(100))
    with client_for(server).parallel(prompts, max_workers=2) as batch:
        iter(batch)
        threading.Timer(0.2, batch.cancel).start()
        with pytest.raises(Cancelled, match="before all prompts had been drawn"):
            list(batch)
    assert len(drawn) <= 4


def test_an_outcome_does_not_wait_for_the_next_prompt(
    server: LLMServer, client_for: ClientFor
) -> None:
    """Each prompt here depends on the answer before it."""
    server.default = server.echo
    queue: SimpleQueue[str | None] = SimpleQueue()
    queue.put("1")
    seen = []
    for outcome in client_for(server).parallel(iter(queue.get, None)):
        seen.append(outcome.text)
        queue.put(f"{len(seen) + 1}" if len(seen) < 5 else None)
    assert seen == ["1", "2", "3", "4", "5"]


def test_an_iterator_that_raises(server: LLMServer, client_for: ClientFor) -> None:
    """Its exception comes in the reader's thread, after the outcomes of the prompts before it; and
    each time again: it is no end."""

    def prompts() -> Iterator[str]:
        yield from ("a", "b", "c")
        raise LookupError("no more rows")

    client = client_for(server)
    batch = client.parallel(prompts())
    seen, error = read_to_the_end(batch)
    assert isinstance(error, LookupError)
    assert [outcome.ok for outcome in seen] == [True] * 3
    with pytest.raises(LookupError, match="no more rows"):
        next(batch)

    batch = client.parallel(prompts())
    with pytest.raises(LookupError, match="no more rows"):
        batch.results()
    assert [outcome.index for outcome in batch.outcomes] == [0, 1, 2]
    with pytest.raises(LookupError, match="no more rows"):
        list(client.parallel(prompts()).chunks())


class Odd(Mapping[str, Any]):
    """A row of the application's own, which fails when it is looked at."""

    def __getitem__(self, key: str) -> Any:
        raise OSError("the disk is gone")

    def __iter__(self) -> Iterator[str]:
        raise OSError("the disk is gone")

    def __len__(self) -> int:
        return 1


def test_a_prompt_that_raises_is_its_own_outcome(server: LLMServer, client_for: ClientFor) -> None:
    outcomes = by_index(client_for(server).parallel(iter(["a", Odd(), "b"])))
    assert [outcome.ok for outcome in outcomes] == [True, False, True]
    assert isinstance(outcomes[1].error and outcomes[1].error.__cause__, OSError)


# ---- what travels ------------------------------------------------------------------------------


def test_context_variables_travel(server: LLMServer, client_for: ClientFor) -> None:
    """Those of the caller's context when the batch was made, into the calls and the iterator; each
    call has a context of its own, and a trace id of its own."""
    tenant = contextvars.ContextVar("tenant", default="nobody")
    seen: set[tuple[str, str, bool]] = set()

    class Watch(Observer):
        def on_start(self, record: Any) -> None:
            seen.add((tenant.get(), record.trace_id, current_trace_id() == record.trace_id))
            tenant.set("another")

    def prompts() -> Iterator[str]:
        for _ in range(6):
            yield tenant.get()

    client = client_for(server, observers=[Watch()])
    token = tenant.set("acme")
    batch = client.parallel(prompts(), max_workers=2)
    tenant.reset(token)
    outcomes = list(batch)
    assert {outcome.prompt for outcome in outcomes} == {"acme"}
    assert {who for who, _, _ in seen} == {"acme"}
    assert len({trace for _, trace, _ in seen}) == 6
    assert all(same for _, _, same in seen)
    assert current_trace_id() is None


def test_a_prompt_has_options_of_its_own(server: LLMServer, client_for: ClientFor) -> None:
    """They win over those of all prompts; a trace id belongs to one prompt."""
    prompts = ["a", {"prompt": "b", "model": "large", "trace_id": "b" * 32}]
    first, second = client_for(server).parallel(prompts, model="small").results()
    models = {r.json()["input"]: r.json()["model"] for r in server.requests}
    assert models == {"a": "small", "b": "large"}
    assert second.trace_id == "b" * 32
    assert first.trace_id != second.trace_id


def test_connections_fit_the_workers(server: LLMServer, client_for: ClientFor) -> None:
    """Each worker keeps its connection, although the client keeps fewer by itself."""
    barrier = threading.Barrier(12, timeout=15)

    def together(request: Recorded) -> Answer:
        barrier.wait()
        return Answer("together")

    server.default = together
    client = client_for(server, max_connections=2)
    assert len(client.parallel([str(n) for n in range(36)], max_workers=12).results()) == 36
    assert server.connections == 12


# ---- ending it ---------------------------------------------------------------------------------


def test_cancel_before_the_first_use(server: LLMServer, client_for: ClientFor) -> None:
    """Nothing is sent. Each prompt of a list has its outcome, an iterator is not touched."""
    client = client_for(server)
    batch = client.parallel(["a", "b"])
    batch.cancel("changed my mind")
    outcomes = list(batch)
    assert [(o.index, o.prompt) for o in outcomes] == [(0, "a"), (1, "b")]
    assert {o.error.reason for o in outcomes if isinstance(o.error, Cancelled)} == {
        "changed my mind"
    }
    for read in (list, lambda batch: batch.results(), lambda batch: list(batch.chunks())):
        batch = client.parallel(iter(["a", "b"]))
        batch.cancel("changed my mind")
        with pytest.raises(Cancelled, match="changed my mind"):
            read(batch)
    assert not server.requests


def test_cancel_ends_all_calls(server: LLMServer, client_for: ClientFor) -> None:
    """From another thread; what had arrived stays, and each prompt of a list has an outcome."""
    server.default = STUCK
    batch = client_for(server).parallel([str(n) for n in range(30)], max_workers=4)

    def cancel() -> None:
        server.wait_requests(4)
        eventually(lambda: texts(batch) == ["one two"] * 4, "the tokens have arrived")
        batch.cancel("enough")

    thread = threading.Thread(target=cancel)
    thread.start()
    outcomes = by_index(batch)
    thread.join()
    assert [outcome.index for outcome in outcomes] == list(range(30))
    assert all(isinstance(o.error, Cancelled) and o.error.reason == "enough" for o in outcomes)
    assert [outcome.text for outcome in outcomes] == ["one two"] * 4 + [""] * 26
    server.wait_all_closed()
    assert len(server.requests) == 4


def texts(batch: Batch) -> list[str]:
    streams = batch._run.crew._calls._streams  # type: ignore[attr-defined]
    return [stream.text for stream in streams.copy().values()]


def test_cancel_wakes_a_reader_whose_iterator_is_stuck(
    server: LLMServer, client_for: ClientFor
) -> None:
    """The caller's iterator waits for ever: the reader does not."""
    queue: SimpleQueue[str | None] = SimpleQueue()
    queue.put("a")
    batch = client_for(server).parallel(iter(queue.get, None))
    assert next(batch).ok
    threading.Timer(0.1, batch.cancel, ["enough"]).start()
    with pytest.raises(Cancelled, match="enough"):
        next(batch)
    queue.put(None)  # or the thread that draws would wait on


def test_leaving_the_with_block_cancels_the_rest(server: LLMServer, client_for: ClientFor) -> None:
    server.default = lambda r: Answer("quick") if r.json()["input"] == "a" else STUCK
    threads = other_threads()
    with client_for(server).parallel(["a", *"bcdefgh"], max_workers=4) as batch:
        for outcome in batch:
            assert outcome.text == "quick"
            break
    eventually(lambda: server.open_connections <= 1, "only the idle connection is left")
    eventually(lambda: not llmstreams(threads), "the workers have ended")


def llmstreams(before: set[threading.Thread]) -> list[str]:
    return [
        thread.name
        for thread in other_threads() - before
        if thread.name in ("llmstream-worker", "llmstream-prompts")
    ]


@pytest.mark.parametrize("view", ["iteration", "chunks"])
def test_a_batch_that_is_dropped_is_freed(
    view: str, server: LLMServer, client_for: ClientFor
) -> None:
    """Without the garbage collector."""
    server.default = STUCK
    threads = other_threads()
    gc.disable()
    try:
        batch = client_for(server).parallel([str(n) for n in range(20)])
        reading = iter(batch) if view == "iteration" else batch.chunks()
        if view == "chunks":
            next(reading)
        else:
            threading.Timer(0.1, batch.cancel).start()
            next(reading)
        del batch
        del reading
        server.wait_all_closed()
        eventually(lambda: not llmstreams(threads), "the workers have ended")
    finally:
        gc.enable()


def test_a_loop_that_is_left_frees_its_batch(server: LLMServer, client_for: ClientFor) -> None:
    """By `break` and by an exception, where nothing else refers to the batch."""
    server.default = lambda r: Answer("quick") if r.json()["input"] == "0" else STUCK
    client = client_for(server)
    for outcome in client.parallel([str(n) for n in range(20)]):
        assert outcome.ok
        break
    eventually(lambda: server.open_connections <= 1, "only the idle connection is left")

    def read() -> None:
        for outcome in client.parallel([str(n) for n in range(20)]):
            assert outcome.index / 0

    with pytest.raises(ZeroDivisionError):
        read()
    eventually(lambda: server.open_connections <= 1, "only the idle connection is left")


def test_an_exception_that_is_foreign_ends_one_call(
    server: LLMServer, client_for: ClientFor
) -> None:
    """An observer's SystemExit, say: it is the cause of that call's error, beside what had come."""

    class Bad(Observer):
        def on_content(self, *args: Any) -> None:
            raise SystemExit("no")

    client = client_for(server, observers=[Bad()])
    outcomes = list(client.parallel(["a", "b"]))
    assert len(outcomes) == 2
    for outcome in outcomes:
        assert outcome.ok or isinstance(outcome.error, LLMStreamError)


def test_where_no_thread_can_be_started(
    server: LLMServer, client_for: ClientFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With some workers fewer, all is answered; with none, each outcome says so; and without the
    thread that draws the prompts the first use raises, and may be tried again."""

    def fewer(limit: int) -> Callable[..., Any]:
        started: list[str] = []

        def spawn_some(work: Callable[[], object], name: str) -> Any:
            if len(started) == limit:
                raise ConfigurationError("the system starts no further thread")
            started.append(name)
            return spawn(work, name)

        return spawn_some

    client = client_for(server)
    monkeypatch.setattr("llmstream.parallel.workers.spawn", fewer(2))
    assert len(client.parallel(["a"] * 20).results()) == 20
    monkeypatch.setattr("llmstream.parallel.workers.spawn", fewer(0))
    outcomes = list(client.parallel(["a"] * 20))
    assert len(outcomes) == 20
    assert all("no further thread" in str(outcome.error) for outcome in outcomes)
    with pytest.raises(ConfigurationError, match="no further thread"):
        client.parallel(iter(["a"] * 20)).results()
    monkeypatch.undo()
    monkeypatch.setattr("llmstream.parallel.run.spawn", fewer(0))
    batch = client.parallel(["a"] * 20)
    with pytest.raises(ConfigurationError, match="no further thread"):
        next(batch)
    monkeypatch.undo()
    assert len(list(batch)) == 20


def test_a_client_that_is_closed_in_mid_batch(server: LLMServer, client_for: ClientFor) -> None:
    """Every prompt has an outcome."""
    server.default = STUCK
    client = client_for(server)
    threading.Timer(0.1, client.close).start()
    outcomes = list(client.parallel([str(n) for n in range(20)]))
    assert len(outcomes) == 20
    assert not any(outcome.ok for outcome in outcomes)
    with pytest.raises(ConfigurationError, match="closed"):
        client.parallel(["a"])


@pytest.mark.slow
def test_a_hundred_batches_leave_nothing(server: LLMServer, client_for: ClientFor) -> None:
    """Read to the end, left, dropped and cancelled in turn, two at a time."""
    server.default = server.echo
    client = client_for(server)
    client.parallel(["a"] * 8).results()
    before = fds(), other_threads()
    for number in range(50):
        one, two = (client.parallel([str(n) for n in range(10)], max_workers=4) for _ in "ab")
        if number % 3 == 0:
            assert len([pair for pair in zip(one, two, strict=True) if all(o.ok for o in pair)])
        elif number % 3 == 1:
            next(one), next(two.chunks())
        else:
            next(one)
            one.cancel()
            two.cancel()
            assert len(list(one)) == 9
            assert len(list(two)) == 10
        del one, two
    eventually(lambda: not llmstreams(before[1]), "the workers have ended")
    eventually(lambda: server.open_connections <= 8, "only idle connections are left")
    client.close()
    server.wait_all_closed()
    eventually(lambda: fds() <= before[0], "the descriptors are closed")


def test_a_batch_inside_an_observer(server: LLMServer, client_for: ClientFor) -> None:
    """Of the same client, in the thread of a worker."""
    begun: list[None] = []
    inner: list[int] = []

    class Nesting(Observer):
        def on_end(self, call: Any, end: Any) -> None:
            if len(begun) < 4:
                begun.append(None)
                inner.append(len(client.parallel(["x", "y"]).results()))

    client = client_for(server, observers=[Nesting()])
    assert len(client.parallel([str(n) for n in range(12)]).results()) == 12
    assert len(inner) >= 4
    assert set(inner) == {2}


# ---- many, of which some fail --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("view", ["iteration", "results", "chunks"])
def test_of_200_prompts_none_is_lost(view: str, server: LLMServer, client_for: ClientFor) -> None:
    """16 workers, and a server that fails a quarter of the prompts in four ways: each has the
    right outcome, and nothing is left."""
    failed: set[str] = set()

    def serve(request: Recorded) -> Reply | Answer:
        prompt = request.json()["input"]
        fault = int(prompt.split()[1]) % 16
        if fault == 0:
            return Reply.error(429, headers={"retry-after": "0.01"})
        if fault == 1 and prompt not in failed:
            failed.add(prompt)
            return Reply.error(500)
        if fault == 2:
            return Reply([*TWO_TOKENS, Cut()])
        if fault == 3:
            return Reply([b"".join(TWO_TOKENS), Silence()])
        return Answer(prompt)

    server.default = serve
    with client_for(server) as first:
        first.stream("prompt 4").result()  # what is made once is there
    server.wait_all_closed()
    before = fds(), other_threads()
    client = client_for(server, retry=AT_ONCE)
    prompts: list[Any] = [f"prompt {n}" for n in range(200)]
    for n in range(3, 200, 16):  # those that fall silent
        prompts[n] = {"prompt": prompts[n], "timeouts": clocks(idle=0.2)}
    batch = client.parallel(prompts, max_workers=16)
    if view == "iteration":
        outcomes: Any = by_index(batch)
    elif view == "results":
        with pytest.raises(BatchError) as caught:
            batch.results()
        outcomes = caught.value.outcomes
    else:
        with pytest.raises(BatchError) as caught:
            for _ in batch.chunks():
                pass
        outcomes = caught.value.outcomes
    assert [outcome.index for outcome in outcomes] == list(range(200))
    for outcome, prompt in zip(outcomes, prompts, strict=True):
        fault = outcome.index % 16
        assert outcome.prompt == prompt
        if fault == 0:
            assert isinstance(outcome.error, RateLimitError)
            assert len(outcome.error.attempts) == 4
        elif fault == 2:
            assert isinstance(outcome.error, StreamInterrupted)
            assert outcome.text == "one two"
        elif fault == 3:
            assert isinstance(outcome.error, IdleTimeout)
            assert outcome.text == "one two"
        else:
            assert outcome.text == prompt
    client.close()
    server.wait_all_closed()
    eventually(lambda: not llmstreams(before[1]), "the workers have ended")
    eventually(lambda: fds() <= before[0], "the descriptors are closed")
