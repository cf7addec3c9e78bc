"""The picture of llmstream/bench/README.md, drawn from two benchmarks in a `FakeClock`'s time.

    python benchmarks/bench_picture.py            # writes pictures/stall.svg

The service answers in 60 ms, and stops for two seconds once. An open loop and a closed loop measure
it. Nothing is measured on this machine: the same code gives the same bytes, and
tests/bench/test_bench_readme.py compares them with the file.
"""

from __future__ import annotations

from pathlib import Path

from llmstream import Client
from llmstream.bench import Benchmark, LevelReport, Load
from llmstream.bench.pictures import requests_plot
from llmstream.bench.plot import STYLE
from llmstream.telemetry.timeline.style import CSS
from llmstream.testing import Answer, FakeClock, FakeTransport, Reply

FILE = Path(__file__).resolve().parent / "pictures" / "stall.svg"
REQUESTS, STALLED = 100, 30  # and the number of the one at which the service stops
SERVICE, STALL = 0.06, 2.0  # seconds
WIDTH, HEIGHT, TITLE = 1120, 260, 26  # px
FONT = """svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
svg .title{font-size:14px;font-weight:600}"""


def measured(**load: object) -> LevelReport:
    delays = [SERVICE + (STALL if number == STALLED else 0.0) for number in range(REQUESTS)]
    replies = [Reply(Answer("word"), delay=delay) for delay in delays]
    clock = FakeClock(start=0.0)
    transport = FakeTransport(*replies)
    with Client(base_url="http://test", transport=transport, clock=clock) as client:
        whole = Load(requests=REQUESTS, warmup=0, seed=1, **load)  # type: ignore[arg-type]
        (level,) = Benchmark(client, whole, clock=clock).run()
    return level


def figure(title: str, level: LevelReport, y: int) -> str:
    p95 = level.distributions["ttft"].p95 or 0.0
    drawn = requests_plot(level, metrics=("ttft",)).svg()
    inner = drawn.replace("<svg ", f'<svg y="{y + TITLE}" width="{WIDTH}" height="{HEIGHT}" ', 1)
    return f'<text class="title" x="0" y="{y + 16}">{title}: ttft p95 = {p95:,.0f} ms</text>{inner}'


def picture() -> str:
    open_loop = measured(rate=(10,), constant=True, max_concurrency=1)
    closed_loop = measured(concurrency=(1,))
    style = CSS + STYLE + FONT
    height = 2 * (HEIGHT + TITLE)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="One stall of two seconds, as an open and as a closed loop sees it">'
        f'<style>{style}</style><rect width="{WIDTH}" height="{height}" fill="var(--bg)"/>'
        + figure("open loop, 10 requests a second", open_loop, 0)
        + figure("closed loop, one stream at a time", closed_loop, HEIGHT + TITLE)
        + "</svg>\n"
    )


if __name__ == "__main__":
    FILE.write_text(picture(), "utf-8")
