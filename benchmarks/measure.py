"""One measurement of one contender, in this process: prints one line of JSON.

    python benchmarks/measure.py '{"what": "cpu", "name": "floor", ...}'

Made by run.py, which says what, of whom, and the address of the load server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import load
import wire
from contenders import AsyncContender, Contender, contender, read_whole

_NS = 1e-9
_ENOUGH = 0.3  # seconds of CPU after which a measurement is not repeated any more
_REPEATS = 7
_SHORT = 2  # tokens of a short answer


def percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def summary(seconds: Sequence[float], *percents: int) -> dict[str, float]:
    """Percentiles in milliseconds."""
    return {f"p{percent}": percentile(seconds, percent) * 1000 for percent in percents}


# ---- CPU ---------------------------------------------------------------------------------------


def cpu(name: str, api: str, address: str, tokens: int, each: Sequence[int]) -> dict[str, Any]:
    """User and system time of all threads per event, in microseconds, by events per HTTP chunk."""
    with contender(name, api, address) as made:
        return {str(size): _cpu_per_event(made, api, tokens, size) for size in each}


def _cpu_per_event(
    made: Contender | AsyncContender, api: str, tokens: int, each: int, repeats: int = _REPEATS
) -> float:
    """The median of up to `repeats` answers."""
    events = tokens + len(wire.answer(api, 0).events)
    taken: list[float] = []
    while len(taken) < repeats and sum(taken) < _ENOUGH:
        begun = time.process_time()
        read_whole(made, tokens, each)
        taken.append(time.process_time() - begun)
    return percentile(taken, 50) / events * 1e6


def scaling(name: str, api: str, address: str, short: int, long: int) -> dict[str, Any]:
    """CPU per event of long answers and of as many tokens in short ones, in microseconds."""
    taken: dict[int, list[float]] = {short: [], long: []}
    with contender(name, api, address) as made:
        for _ in range(3):
            for tokens, answers in ((short, long // short), (long, 1)):
                begun = time.process_time()
                for _ in range(answers):
                    read_whole(made, tokens, 1)
                events = answers * (tokens + len(wire.answer(api, 0).events))
                taken[tokens].append((time.process_time() - begun) / events * 1e6)
    return {"short": percentile(taken[short], 50), "long": percentile(taken[long], 50)}


def call(
    name: str, api: str, address: str, connections: str, calls: int, trust: str = ""
) -> dict[str, Any]:
    """User and system time of all threads for a whole short call, in microseconds, on "new" or
    "reused" connections: the median of ten times `calls`. `trust` is the file of CA certificates,
    where the address has TLS."""
    taken = []
    with contender(name, api, address, trust=trust, reuse=connections == "reused") as made:
        assert isinstance(made, Contender)
        expected = wire.characters(_SHORT)
        for _ in range(10):
            begun = time.process_time()
            for _ in range(calls):
                found = made.read(f"fast-{_SHORT}-1")
                assert found == expected, f"{found} characters of {expected}"
            taken.append((time.process_time() - begun) / calls)
    return {"us": percentile(taken, 50) * 1e6}


# ---- latency -----------------------------------------------------------------------------------


class _Reading:
    """One stream of a crowd: when its first token came, and how long each was on its way."""

    def __init__(self, text: Callable[[Any], str]) -> None:
        self.text = text
        self.first: float | None = None
        self.ways: list[float] = []

    def take(self, event: Any) -> None:
        said = self.text(event)
        if said:
            now = time.monotonic_ns()
            if self.first is None:
                self.first = now * _NS
            self.ways.append((now - int(said)) * _NS)


def latency(name: str, api: str, address: str, streams: int, tokens: int) -> dict[str, Any]:
    """So many streams begun at one moment, paced like a model's. In milliseconds: the first token
    after that moment without the server's own 200, and every token from its sending."""
    load.raise_file_limit()
    with contender(name, api, address, streams) as made:
        readings = [_Reading(made.text) for _ in range(streams)]
        used = time.process_time()
        if isinstance(made, AsyncContender):
            begun = _in_loop(made, f"paced-{tokens}", readings)
        else:
            begun = _in_threads(made, f"paced-{tokens}", readings)
        used = time.process_time() - used
    short = sum(len(reading.ways) != tokens for reading in readings)
    assert not short, f"{short} streams of {streams} did not bring the whole answer"
    firsts = [reading.first - begun - load.FIRST_TOKEN for reading in readings if reading.first]
    ways = [way for reading in readings for way in reading.ways]
    return {
        "first": summary(firsts, 50, 95, 99),
        "token": summary(ways, 50, 95, 99),
        "cpu": used / (streams * tokens) * 1e6,
    }


def _in_threads(made: Contender, model: str, readings: Sequence[_Reading]) -> float:
    moment = [0.0]

    def agree() -> None:
        moment[0] = time.monotonic() + 0.5  # by then the last has left the barrier

    ready = threading.Barrier(len(readings), agree)

    def read(reading: _Reading) -> None:
        ready.wait()
        time.sleep(moment[0] - time.monotonic())
        for event in made.events(model):
            reading.take(event)

    threads = [threading.Thread(target=read, args=(reading,)) for reading in readings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return moment[0]


def _in_loop(made: AsyncContender, model: str, readings: Sequence[_Reading]) -> float:
    async def read(reading: _Reading, moment: float) -> None:
        await asyncio.sleep(moment - time.monotonic())
        async for event in made.events(model):
            reading.take(event)

    async def read_all() -> float:
        moment = time.monotonic() + 0.5
        await asyncio.gather(*(read(reading, moment) for reading in readings))
        return moment

    return made.loop.run_until_complete(read_all())


def tls(
    name: str,
    api: str,
    address: str,
    streams: int,
    tokens: int,
    connections: str,
    crowds: int,
    trust: str = "",
) -> dict[str, Any]:
    """So many streams begun at one moment, on "new" or "reused" connections, several times over: in
    milliseconds the first token after that moment without the server's own 200, and the CPU of a
    call. `trust` is the file of CA certificates, where the address has TLS."""
    load.raise_file_limit()
    reuse = connections == "reused"
    firsts: list[float] = []
    used = 0.0
    with contender(name, api, address, streams, trust, reuse=reuse) as made:
        for number in range(crowds + reuse):
            readings = [_Reading(made.text) for _ in range(streams)]
            spent = time.process_time()
            read = _in_loop if isinstance(made, AsyncContender) else _in_threads
            begun = read(made, f"paced-{tokens}", readings)  # type: ignore[arg-type]
            if reuse and not number:
                continue  # it has opened the connections
            used += time.process_time() - spent
            for reading in readings:
                assert reading.first is not None, "a stream did not bring a token"
                firsts.append(reading.first - begun - load.FIRST_TOKEN)
    return {"first": summary(firsts, 50, 95), "cpu": used / len(firsts) * 1000}


# ---- memory ------------------------------------------------------------------------------------


def _status(field: str) -> int:
    """A field of /proc/self/status, in KB."""
    found = re.search(rf"^{field}:\s+(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def large(name: str, api: str, address: str, size: int) -> dict[str, Any]:
    """An answer with one event of `size` bytes: seconds, and by how many times its size the
    resident memory rose at most."""
    with contender(name, api, address) as made:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts over
        before = _status("VmRSS")
        begun = time.monotonic()
        found = made.count(f"large-{size}")
        seconds = time.monotonic() - begun
        assert found == size, f"{found} characters of {size}"
        return {"seconds": seconds, "times": (_status("VmHWM") - before) * 1024 / size}


def held(name: str, api: str, address: str, streams: int) -> dict[str, Any]:
    """KB of resident memory for each of many open streams, all begun by one thread, so that no
    thread is counted."""
    load.raise_file_limit()
    with contender(name, api, address, streams) as made:
        assert isinstance(made, Contender)
        views = [_begun(made) for _ in range(20)]
        before = _status("VmRSS")
        views += [_begun(made) for _ in range(streams)]
        grown = _status("VmRSS") - before
        for view in views:
            view.close()
        return {"kb": grown / streams}


def _begun(made: Contender) -> Any:
    """The view of a stream that stands behind its first token."""
    view = made.events("hold-1")
    for event in view:
        if made.text(event):
            break
    return view


def sequence(name: str, api: str, address: str, streams: int, tokens: int) -> dict[str, Any]:
    """Streams one after another: by how many KB the resident memory grew after the first tenth,
    and threads and descriptors that were left."""
    with contender(name, api, address) as made:
        for _ in range(streams // 10):
            read_whole(made, tokens, 1)
        before, there = _status("VmRSS"), _things()
        for _ in range(streams - streams // 10):
            read_whole(made, tokens, 1)
        return {"kb": _status("VmRSS") - before, "left": _things() - there}


def _things() -> int:
    return threading.active_count() + len(list(Path("/proc/self/fd").iterdir()))


# ---- arguments of a call -----------------------------------------------------------------------


def arguments(name: str, api: str, address: str, size: int) -> dict[str, Any]:
    """The arguments of a call, `size` bytes in pieces of four, and their partial value. CPU of the
    whole call for a piece, in microseconds; seconds for all parses at full speed; the share of the
    time that they take at 100 pieces a second, over the last 2,000, in percent; and for comparison
    seconds for a parse at every piece of a sixteenth of it (twice the size takes four times as
    long). Nothing is sent: a double plays the answer."""
    from jiter import from_json

    from llmstream import Client
    from llmstream.output import PartialJSON
    from llmstream.testing import Answer, FakeTransport, Reply

    text = '{"list": ["' + '", "'.join(["abcd"] * (size // 8)) + '"]}'
    blocks = Answer(tool_calls=[("save", text)]).blocks(api)
    transport = FakeTransport(Reply(blocks))
    client = Client(api, base_url="http://double", transport=transport)
    partial = PartialJSON()
    parses = _timed(partial)
    begun = time.process_time()
    for chunk in client.stream("hi", model="m").chunks():
        if chunk.type == "tool_call":
            partial.add(chunk.text)
    used = time.process_time() - begun
    assert partial.closed, "the arguments are not whole"
    full = sum(parses)

    last = 2000
    paced, waited = PartialJSON(), 0.0
    paced._now = lambda: waited + time.perf_counter()
    paced.add(text[: -4 * last])
    parses = _timed(paced)
    begun = time.perf_counter()
    for at in range(len(text) - 4 * last, len(text), 4):
        waited += 0.01
        paced.add(text[at : at + 4])
    took = waited + time.perf_counter() - begun

    part = text[: size // 16].encode()
    begun = time.process_time()
    for end in range(4, len(part), 4):
        from_json(part[:end], partial_mode="trailing-strings")
    every = time.process_time() - begun
    return {
        "us": used / (size / 4) * 1e6,
        "parses": full,
        "share": sum(parses) / took * 100,
        "every": every,
    }


def _timed(partial: Any) -> list[float]:
    """The seconds of each parse, from now on."""
    parse, taken = partial._parse_json, []

    def parsed(*data: Any, **options: Any) -> Any:
        begun = time.thread_time()
        found = parse(*data, **options)
        taken.append(time.thread_time() - begun)
        return found

    partial._parse_json = parsed
    return taken


# ---- the watchdog ------------------------------------------------------------------------------


def watchdog(name: str, api: str, address: str, streams: int) -> dict[str, Any]:
    """Many open streams with a thread each that waits for a second token. First nothing is due for
    2 s: the percentage of a core that is used meanwhile. Then the idle clock of each breaks, one
    every 2 ms: by how many milliseconds they are late."""
    from llmstream import Client, IdleTimeout, RetryPolicy, Timeouts

    load.raise_file_limit()
    opening, quiet, apart = 2.0 + streams * 0.002, 2.0, 0.002
    client = Client(api, base_url=f"{address}/v1", max_connections=streams)
    begun = time.monotonic()
    late: list[float] = []
    there: list[float] = []

    def wait(number: int) -> None:
        # The deadlines are spread over the streams, whenever each of them got its token.
        due = begun + opening + quiet + number * apart
        stream = client.stream(
            "hi",
            model="hold-1",
            retry=RetryPolicy(max_attempts=1),
            timeouts=Timeouts(idle=due - time.monotonic()),
        )
        try:
            for _ in stream:
                since = time.monotonic()
                there.append(since)
        except IdleTimeout as error:
            late.append(time.monotonic() - since - error.seconds)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(streams)]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, begun + opening - time.monotonic()))
    assert len(there) == streams, f"{len(there)} streams of {streams} were open in time"
    used = resource.getrusage(resource.RUSAGE_SELF)
    time.sleep(quiet)
    now = resource.getrusage(resource.RUSAGE_SELF)
    for thread in threads:
        thread.join()
    client.close()
    assert len(late) == streams, f"{len(late)} clocks of {streams} broke"
    spent = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return {"late": summary(late, 50, 99), "percent": spent / quiet * 100}


MEASUREMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function
    for function in (cpu, call, scaling, latency, tls, large, arguments, held, sequence, watchdog)
}


def main() -> None:
    job = json.loads(sys.argv[1])
    with contextlib.redirect_stdout(sys.stderr):  # litellm talks
        found = MEASUREMENTS[job.pop("what")](**job)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
