"""How late each clock fires, and how fast a cancel works, over HTTP and TLS on the loopback."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence

from llmstream import Client, LLMStreamError, RetryPolicy, Stream, Timeouts
from llmstream.testing import Answer, LLMServer, Pings, Reply, Silence, blackhole

ROUNDS = 20
CLOCK = 0.3  # seconds
TWO_WORDS = Answer("Hello brave new world").blocks()[:6]
ONCE = RetryPolicy(max_attempts=1)

# clock -> what the server does
CLOCKS: dict[str, Reply] = {
    "first_token": Reply(before=[Silence()]),
    "idle": Reply([*TWO_WORDS, Silence()]),
    "idle, pings": Reply([*TWO_WORDS, Pings(0.02)]),
    "silence": Reply([*TWO_WORDS, Silence()]),
    "total": Reply([*TWO_WORDS, Pings(0.02)]),
}


def row(name: str, values: Sequence[float], unit: str = "ms") -> None:
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    print(
        f"{name:34} median {statistics.median(values):8.2f}  p95 {p95:8.2f}  "
        f"max {ordered[-1]:8.2f} {unit}"
    )


def lateness(client: Client, clock: str) -> float:
    timeouts = Timeouts(**{"silence": None, clock: CLOCK})
    stream = client.stream("hi", timeouts=timeouts, retry=ONCE)
    begun = time.monotonic()
    try:
        stream.result()
    except LLMStreamError as error:
        now = time.monotonic()
        last = error.attempts[-1]
        # idle and silence run from the last token, the others from the start
        if clock in ("idle", "silence") and last.first_token_ms is not None:
            begun += (last.started_ms + last.first_token_ms) / 1000
        return (now - begun - CLOCK) * 1000
    raise AssertionError("the stream should not have succeeded")


def clocks(scheme: str, server: LLMServer, client: Client) -> None:
    for name, reply in CLOCKS.items():
        late = []
        for _ in range(ROUNDS):
            server.script(reply)
            late.append(lateness(client, name.split(",")[0]))
        row(f"{scheme}: {name} fires late by", late)


def cancel_once(
    server: LLMServer, stream: Stream, ready: Callable[[], object]
) -> tuple[float, float, float]:
    ended: list[float] = []

    def read() -> None:
        try:
            stream.result()
        except LLMStreamError:
            ended.append(time.monotonic())

    reader = threading.Thread(target=read)
    seen = len(server.requests)
    reader.start()
    server.wait_requests(seen + 1)
    ready()
    begun = time.monotonic()
    stream.cancel("benchmark")
    returned = time.monotonic()
    closed = server.wait_closed(seen)
    reader.join()
    return (
        (returned - begun) * 1000,
        (ended[0] - begun) * 1000,
        (closed - begun) * 1000,
    )


def cancels(scheme: str, server: LLMServer, client: Client) -> None:
    def has_text(stream: Stream) -> Callable[[], object]:
        def wait() -> None:
            while stream.text != "Hello brave":
                time.sleep(0.0005)

        return wait

    cases = {
        "before headers": (Reply(before=[Silence()]), lambda stream: lambda: None),
        "in mid-body": (Reply([*TWO_WORDS, Silence()]), has_text),
    }
    for phase, (reply, ready) in cases.items():
        figures = []
        for _ in range(ROUNDS):
            server.script(reply)
            stream = client.stream("hi")
            figures.append(cancel_once(server, stream, ready(stream)))
        names = ("the caller waits", "the reader ends after", "the server sees it after")
        for name, values in zip(names, zip(*figures, strict=True), strict=True):
            row(f"{scheme}: cancel {phase}: {name}"[:60], values)


def connect_clock() -> None:
    with blackhole() as (host, port), Client(base_url=f"http://{host}:{port}/v1") as client:
        late = []
        for _ in range(ROUNDS):
            begun = time.monotonic()
            try:
                client.stream("hi", timeouts=Timeouts(connect=CLOCK), retry=ONCE).result()
            except LLMStreamError:
                late.append((time.monotonic() - begun - CLOCK) * 1000)
    row("http: connect fires late by", late)


def main() -> None:
    connect_clock()
    for scheme in ("http", "https"):
        with LLMServer(tls=scheme == "https") as server:
            verify = server.ca_file or True
            with Client(base_url=server.base_url, verify=verify) as client:
                clocks(scheme, server, client)
                cancels(scheme, server, client)


if __name__ == "__main__":
    main()
