"""Every contender, interleaved: tables, ratios, targets, a file of results and the pictures.

python benchmarks/run.py                 everything, five rounds
python benchmarks/run.py --quick         one short round of everything, kept nowhere else
python benchmarks/run.py --only cpu      one section (may be repeated)
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import load
import wire
from contenders import CONTENDERS, installed

_HERE = Path(__file__).parent
_JOB_SECONDS = 600  # after which a measurement is given up
_STARTS = 3  # of a fresh interpreter, in a round
_PACKAGES = (
    *("llmstream-sync", "requests", "urllib3", "msgspec", "prometheus-client", "orjson"),
    *("openai", "anthropic", "litellm", "httpx", "httpx2", "pydantic", "certifi"),
)
OURS, FLOOR = "llmstream", "floor"
_BARE = "llmstream, no observer"

Job = dict[str, Any]  # what to measure, of whom; the arguments of a function in measure.py


class Figure(NamedTuple):
    """A number of a measurement, as a column of its table."""

    key: str
    heading: str
    digits: int = 1
    compared: bool = True  # with the floor and with llmstream


class Record(NamedTuple):
    """What all rounds found for one job: the values of each figure, or why there are none."""

    job: Job
    values: dict[str, list[float]]
    problem: str = ""

    def median(self, key: str) -> float | None:
        return statistics.median(self.values[key]) if key in self.values else None


class Target(NamedTuple):
    """`found` must not be above `limit`; None where it could not be measured."""

    what: str
    found: float | None
    limit: float
    digits: int = 2

    @property
    def effect(self) -> str:
        if self.found is None:
            return "not measured"
        return "met" if self.found <= self.limit else "missed"


class Found:
    """The records of a section, to look figures up in."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    def of(self, key: str, name: str = OURS, **job: Any) -> float | None:
        """The median of a figure."""
        wanted = {"name": name, **job}.items()
        for record in self.records:
            if wanted <= {k: v for k, v in record.job.items() if k != "each"}.items():
                return record.median(key)
        return None

    def ratio(self, key: str, to: str, name: str = OURS, **job: Any) -> float | None:
        """The median of `name`'s figure over that of the contender `to`."""
        upper, lower = self.of(key, name, **job), self.of(key, to, **job)
        return None if upper is None or not lower else upper / lower


class Section(NamedTuple):
    """A row of the targets: what to measure, what to show, what to reach."""

    title: str
    jobs: Callable[[bool], list[Job]]
    figures: tuple[Figure, ...]
    targets: Callable[[Found], Iterator[Target]]


# ---- the sections ------------------------------------------------------------------------------


def _cpu_jobs(quick: bool) -> list[Job]:
    def tokens(name: str) -> int:
        # The cost of an event does not depend on their number; the slow ones get fewer.
        if name == "litellm":
            return 500 if quick else 1000
        return 5000 if quick or "asyncio" in name else 20000

    return [
        {"what": "cpu", "name": name, "api": api, "tokens": tokens(name), "each": [1, 16]}
        for api in wire.APIS
        for name, contender in CONTENDERS.items()
        if api in contender.apis
    ]


def _cpu_targets(found: Found) -> Iterator[Target]:
    for api in wire.APIS:
        for each, limit in ((1, 4.0), (16, 2.0)):
            what = f"{api}, {each} per HTTP chunk: llmstream / floor"
            yield Target(what, found.ratio(str(each), FLOOR, api=api), limit)
    for peer, apis, limit in (
        ("openai create", ("responses", "chat"), 1 / 10),
        ("openai stream", ("responses", "chat"), 1 / 18),
        ("anthropic create", ("messages",), 1 / 3),
        ("anthropic stream", ("messages",), 1 / 6),
    ):
        for api in apis:
            for each in (1, 16):
                what = f"{api}, {each} per HTTP chunk: llmstream / {peer}"
                yield Target(what, found.ratio(str(each), peer, api=api), limit, 3)
    for api in wire.APIS:
        parts = found.ratio("1", "llmstream", "llmstream, parts", api=api)
        share = None if parts is None else 1 - parts
        yield Target(f"{api}: share of clocks, state, metrics and views", share, 0.35)


def _call_jobs(quick: bool) -> list[Job]:
    layers = (FLOOR, "http.client", "urllib3", "requests")
    asked = [("responses", name) for name in (*layers, OURS, _BARE, "openai create")]
    asked += [("messages", name) for name in (OURS, "anthropic create")]
    return [
        {
            "what": "call",
            "name": name,
            "api": api,
            "scheme": scheme,
            "connections": connections,
            "calls": 20 if quick else 60,
        }
        for scheme in ("http", "https")
        for connections in ("reused", "new")
        for api, name in asked
    ]


def _call_targets(found: Found) -> Iterator[Target]:
    for scheme in ("http", "https"):
        for connections in ("reused", "new"):
            case = {"api": "responses", "scheme": scheme, "connections": connections}
            for to, limit in (("urllib3", 1.6), ("openai create", 0.2)):
                for name in (OURS, _BARE):
                    what = f"{scheme}, {connections}: {name} / {to}"
                    yield Target(what, found.ratio("us", to, name, **case), limit)


_CROWDS = {100: 50, 1000: 25}  # streams at once -> tokens of each


def _latency_jobs(quick: bool) -> list[Job]:
    responses = (FLOOR, "urllib3", OURS, "openai create", "openai create, asyncio")
    messages = (FLOOR, OURS, "anthropic create", "anthropic create, asyncio")
    crowds = {100: 50} if quick else _CROWDS
    asked = [("responses", name, streams) for streams in crowds for name in responses]
    asked += [("messages", name, 100) for name in messages]
    return [
        {"what": "latency", "name": name, "api": api, "streams": streams, "tokens": crowds[streams]}
        for api, name, streams in asked
    ]


def _latency_targets(found: Found) -> Iterator[Target]:
    for streams, others in (
        (100, (("urllib3", 2.0), ("openai create", 1 / 4), ("openai create, asyncio", 1 / 2))),
        (1000, ((FLOOR, 1.0), ("openai create", 0.1), ("openai create, asyncio", 0.1))),
    ):
        for to, limit in others:
            ratio = found.ratio("first.p95", to, api="responses", streams=streams)
            yield Target(f"{streams} streams: first token p95, llmstream / {to}", ratio, limit)
    token = found.of("token.p99", api="responses", streams=100)
    yield Target("100 streams: token latency p99, ms", token, 10, 1)


_TLS_CROWDS = {1: 10, 100: 2, 1000: 1}  # streams at once -> how often, in a round


def _tls_jobs(quick: bool) -> list[Job]:
    crowds = {1: 3, 100: 1} if quick else _TLS_CROWDS
    ways = [("https", name) for name in (FLOOR, OURS, "openai create", "openai create, asyncio")]
    return [
        {
            "what": "tls",
            "name": name,
            "api": "responses",
            "scheme": scheme,
            "connections": connections,
            "streams": streams,
            "tokens": 5,
            "crowds": count,
        }
        for streams, count in crowds.items()
        for connections in ("new", "reused")
        for scheme, name in (("http", OURS), *ways)
        if name != FLOOR or connections == "new"
    ]


def _tls_targets(found: Found) -> Iterator[Target]:
    for connections in ("new", "reused"):
        case: dict[str, Any] = {"streams": 100, "connections": connections}
        ours = found.of("first.p95", scheme="https", **case)
        for other, name, scheme, limit in (
            ("plain HTTP", OURS, "http", 2.0),
            ("openai, threads", "openai create", "https", 0.5),
        ):
            theirs = found.of("first.p95", name, scheme=scheme, **case)
            ratio = None if ours is None or not theirs else ours / theirs
            yield Target(f"100 streams, {connections}: p95 / {other}", ratio, limit)
    cpu = found.of("cpu", scheme="https", streams=100, connections="new")
    yield Target("100 streams, new: CPU of a call, ms", cpu, 3.0)


def _scaling_jobs(quick: bool) -> list[Job]:
    long = 20000 if quick else 100_000
    return [
        {"what": "scaling", "name": OURS, "api": api, "short": 1000, "long": long}
        for api in wire.APIS
    ]


def _scaling_targets(found: Found) -> Iterator[Target]:
    for api in wire.APIS:
        short, long = found.of("short", api=api), found.of("long", api=api)
        ratio = None if long is None or not short else long / short
        yield Target(f"{api}: per event, long answer / short answers", ratio, 1.1)


def _peers(api: str) -> tuple[str, ...]:
    return ("anthropic create",) if api == "messages" else ("openai create",)


def _large_jobs(quick: bool) -> list[Job]:
    return [
        {"what": "large", "name": name, "api": api, "size": 8 * 1024 * 1024}
        for api in wire.APIS
        for name in (FLOOR, OURS, *_peers(api))
    ]


def _large_targets(found: Found) -> Iterator[Target]:
    for api in wire.APIS:
        yield Target(f"{api}: seconds", found.of("seconds", api=api), 0.3)
        yield Target(f"{api}: memory / size", found.of("times", api=api), 4)


def _arguments_jobs(quick: bool) -> list[Job]:
    size = (1 << 18) if quick else (1 << 20)
    return [{"what": "arguments", "name": OURS, "api": api, "size": size} for api in wire.APIS]


def _arguments_targets(found: Found) -> Iterator[Target]:
    for api in wire.APIS:
        yield Target(f"{api}: all parses, s", found.of("parses", api=api), 0.6)
        yield Target(f"{api}: of the time at 100/s, %", found.of("share", api=api), 10)


def _watchdog_jobs(quick: bool) -> list[Job]:
    return [{"what": "watchdog", "name": OURS, "api": "responses", "streams": 1000}]


def _watchdog_targets(found: Found) -> Iterator[Target]:
    yield Target("clocks fire late by, p99, ms", found.of("late.p99"), 50, 1)
    yield Target("CPU while nothing is due, % of a core", found.of("percent"), 0.1)


_STATEMENTS = {"interpreter": "pass", **{p: f"import {p}" for p in ("requests", OURS)}}
_STATEMENTS |= {package: f"import {package}" for package in ("openai", "anthropic")}


def _import_jobs(quick: bool) -> list[Job]:
    return [{"what": "import", "name": name} for name in _STATEMENTS]


def _import_targets(found: Found) -> Iterator[Target]:
    ours, requests = found.of("ms"), found.of("ms", "requests")
    more = None if ours is None or requests is None else ours - requests
    yield Target("import llmstream - import requests, ms", more, 40, 1)
    yield Target("import llmstream / import openai", found.ratio("ms", "openai"), 1 / 4)


def _memory_jobs(quick: bool) -> list[Job]:
    return [
        {"what": "held", "name": name, "api": api, "streams": 100 if quick else 500}
        for api in wire.APIS
        for name in (FLOOR, OURS, *_peers(api))
    ]


def _memory_targets(found: Found) -> Iterator[Target]:
    for api in wire.APIS:
        yield Target(f"{api}: KB for an open stream", found.of("kb", api=api), 60, 1)


def _sequence_jobs(quick: bool) -> list[Job]:
    streams = 1000 if quick else 10000
    return [
        {"what": "sequence", "name": OURS, "api": "responses", "streams": streams, "tokens": 20}
    ]


def _sequence_targets(found: Found) -> Iterator[Target]:
    yield Target("growth after the first tenth, KB", found.of("kb"), 1024, 0)
    yield Target("threads and descriptors left", found.of("left"), 0, 0)


SECTIONS: dict[str, Section] = {
    "cpu": Section(
        "CPU per event (microseconds, user and system), by events per HTTP chunk",
        _cpu_jobs,
        (Figure("1", "1 per chunk", 2), Figure("16", "16 per chunk", 2)),
        _cpu_targets,
    ),
    "layers": Section(
        "CPU of a whole short call (microseconds, user and system), layer by layer",
        _call_jobs,
        (Figure("us", "us", 0),),
        _call_targets,
    ),
    "latency": Section(
        "Latency (ms) of streams begun at once, 50 tokens/s each; first token without the server's "
        "200 ms",
        _latency_jobs,
        (
            Figure("first.p50", "first p50", 1, False),
            Figure("first.p95", "first p95"),
            Figure("token.p50", "token p50", 2, False),
            Figure("token.p99", "token p99", 2),
            Figure("server.p99", "server late p99", 1, False),
        ),
        _latency_targets,
    ),
    "tls": Section(
        "TLS: first token (ms, without the server's 200) of streams begun at once, CPU of a call "
        "(ms)",
        _tls_jobs,
        (
            Figure("first.p50", "first p50", 1, False),
            Figure("first.p95", "first p95"),
            Figure("cpu", "CPU", 2),
        ),
        _tls_targets,
    ),
    "scaling": Section(
        "CPU per event (microseconds) of a long answer, and of as many tokens in answers of 1,000",
        _scaling_jobs,
        (Figure("short", "short", 2, False), Figure("long", "long", 2, False)),
        _scaling_targets,
    ),
    "large": Section(
        "One event of 8 MB: seconds, and the peak of resident memory as multiples of its size",
        _large_jobs,
        (Figure("seconds", "seconds", 3), Figure("times", "memory", 1)),
        _large_targets,
    ),
    "arguments": Section(
        "The arguments of a call, 1 MB in pieces of 4 bytes: CPU of the call for a piece (us), all "
        "parses of the partial value (s), their share of the time at 100 pieces/s (%), a parse at "
        "every piece of 64 KB (s)",
        _arguments_jobs,
        (
            Figure("us", "us", 1, False),
            Figure("parses", "parses", 2, False),
            Figure("share", "share %", 1, False),
            Figure("every", "at every piece", 2, False),
        ),
        _arguments_targets,
    ),
    "watchdog": Section(
        "1,000 open streams: how late a clock fires (ms), CPU while nothing is due (% of a core)",
        _watchdog_jobs,
        (
            Figure("late.p50", "late p50", 2, False),
            Figure("late.p99", "late p99", 2, False),
            Figure("percent", "CPU %", 3, False),
        ),
        _watchdog_targets,
    ),
    "imports": Section(
        "Fresh processes (ms, interpreter included)",
        _import_jobs,
        (Figure("ms", "ms"),),
        _import_targets,
    ),
    "memory": Section(
        "Resident memory of an open stream (KB), beside its thread",
        _memory_jobs,
        (Figure("kb", "KB"),),
        _memory_targets,
    ),
    "sequence": Section(
        "Streams one after another: growth of resident memory (KB), threads and descriptors left",
        _sequence_jobs,
        (Figure("kb", "KB", 0, False), Figure("left", "left", 0, False)),
        _sequence_targets,
    ),
}


# ---- running -----------------------------------------------------------------------------------


def measured(section: Section, rounds: int, quick: bool) -> list[Record]:
    """Every job once a round; each round begins with another one."""
    jobs = section.jobs(quick)
    records = [Record(job, {}, _absent(job)) for job in jobs]
    with load.running(secure=any("scheme" in job for job in jobs)) as address:
        for number in range(rounds):
            start = number * len(jobs) // rounds
            for index in [*range(start, len(jobs)), *range(start)]:
                records[index] = _once_more(records[index], address)
            print(f"  round {number + 1} of {rounds}", file=sys.stderr)
    return records


def _absent(job: Job) -> str:
    name = job["name"]
    if job["what"] == "import":
        there = name == "interpreter" or importlib.util.find_spec(name)
    else:
        there = installed(name)
    return "" if there else "not installed"


def _once_more(record: Record, address: load.Address) -> Record:
    if record.problem:
        return record
    try:
        run = _imported if record.job["what"] == "import" else _asked
        found = run(record.job, address)
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        return record._replace(problem=f"failed: {_last_line(error)}")
    for key, value in _flat(found):
        record.values.setdefault(key, []).append(value)
    return record


def _asked(job: Job, address: load.Address) -> dict[str, Any]:
    """The job done by a process of its own."""
    asked = {**job, "address": address.plain}
    if asked.pop("scheme", "http") == "https":
        asked.update(address=address.secure, trust=address.trust)
    done = subprocess.run(
        [sys.executable, str(_HERE / "measure.py"), json.dumps(asked)],
        check=True,
        capture_output=True,
        text=True,
        timeout=_JOB_SECONDS,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if job["what"] == "latency":
        with urllib.request.urlopen(f"{address.plain}/late") as answer:
            found["server"] = {k: v * 1000 for k, v in json.load(answer).items()}
    return found


def _imported(job: Job, address: load.Address) -> dict[str, Any]:
    command = [sys.executable, "-c", _STATEMENTS[job["name"]]]
    # As it is installed, and compiled: not from this folder, and with caches.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    taken = []
    with tempfile.TemporaryDirectory() as elsewhere:
        for _ in range(_STARTS + 1):
            begun = time.perf_counter()
            # Without a timeout, for which Python would look for the end every 50 ms only.
            subprocess.run(command, check=True, cwd=elsewhere, env=environment)
            taken.append((time.perf_counter() - begun) * 1000)
    return {"ms": statistics.median(taken[1:])}  # the first fills the caches


def _last_line(error: Exception) -> str:
    said = (getattr(error, "stderr", "") or str(error)).strip()
    return said.splitlines()[-1][:200] if said else type(error).__name__


def _flat(found: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in found.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# ---- showing -----------------------------------------------------------------------------------


def show(name: str, section: Section, records: Sequence[Record]) -> None:
    """The section's table, and which of its targets were met."""
    print(f"\n== {name}: {section.title}\n")
    rows = [_headings(section)]
    rows += [_row(section, record, Found(records)) for record in records]
    _print_columns(rows)
    rows = [["target", "measured", "limit", ""]]
    for target in section.targets(Found(records)):
        found = "-" if target.found is None else f"{target.found:.{target.digits}f}"
        rows.append([target.what, found, f"<= {target.limit:.{target.digits}f}", target.effect])
    print()
    _print_columns(rows)


_CASE = ("api", "scheme", "connections", "streams", "tokens", "long", "size")  # of a row


def _headings(section: Section) -> list[str]:
    headings = ["contender", "case"]
    for figure in section.figures:
        headings += [figure.heading, "(range)"]
        if figure.compared:
            headings += ["x floor", "x llmstream"]
    return headings


def _row(section: Section, record: Record, found: Found) -> list[str]:
    job = record.job
    case = {k: job[k] for k in _CASE if k in job}
    shown = " ".join(v if isinstance(v, str) else f"{k}={v}" for k, v in case.items())
    row = [job["name"], shown]
    if not record.values or record.problem:
        return [*row, record.problem]
    same = {k: v for k, v in case.items() if k != "tokens"}
    for figure in section.figures:
        values = record.values[figure.key]
        digits = figure.digits
        row += [
            f"{statistics.median(values):.{digits}f}",
            f"({min(values):.{digits}f}-{max(values):.{digits}f})",
        ]
        if figure.compared:
            for other in (FLOOR, OURS):
                ratio = found.ratio(figure.key, other, job["name"], **same)
                row.append("" if ratio is None else f"{ratio:.2f}")
    return row


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    columns = max(map(len, rows))
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(columns)]
    for row in rows:
        cells = [
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        print("  ".join(cells).rstrip())


# ---- keeping -----------------------------------------------------------------------------------


def kept(name: str, section: Section, records: Sequence[Record], rounds: int) -> dict[str, Any]:
    """A section for the file of results."""
    return {
        "title": section.title,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "rounds": rounds,
        "machine": _machine(),
        "versions": _versions(),
        "records": [
            {
                "job": record.job,
                "problem": record.problem,
                "figures": {
                    key: {"median": statistics.median(values), "rounds": values}
                    for key, values in record.values.items()
                },
            }
            for record in records
        ],
        "targets": [
            {**target._asdict(), "effect": target.effect}
            for target in section.targets(Found(records))
        ],
    }


def _machine() -> dict[str, Any]:
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def draw(results: dict[str, Any], folder: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        print("\nno pictures: matplotlib is not installed (extra `bench`)")
        return
    import pictures

    for path in pictures.draw(results, folder):
        print(f"picture: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one short round, to see it work")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="a section; repeatable")
    parser.add_argument("--into", type=Path, help="folder for results.json and pictures/")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    folder = arguments.into
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="llmstream-bench-")) if arguments.quick else _HERE
    file = folder / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    failed = False
    for name in arguments.only or SECTIONS:
        section = SECTIONS[name]
        print(f"{name} ...", file=sys.stderr)
        records = measured(section, rounds, arguments.quick)
        show(name, section, records)
        failed |= any(record.problem.startswith("failed") for record in records)
        results[name] = kept(name, section, records, rounds)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nresults: {file}")
    draw(results, folder / "pictures")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
