"""`llmstream bench`: how fast a service answers under load."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from .. import errors
from .._core.dialects import DEFAULT_API
from .._runtime.files import check_replaceable, replace_file
from .._settings.client import ClientSettings
from ..client import Client
from ..errors import ConfigurationError, LLMStreamError
from .command import Command, Parser
from .exit_codes import FAILED, exit_code_of
from .output import complain, print_pieces, write
from .service import add_service_options, client_for

if TYPE_CHECKING:
    from ..bench import Benchmark, LevelReport, Load
    from ..bench.generator import Generator

__all__ = ["BENCH"]


def _add_arguments(parser: Parser) -> None:
    parser.description = (
        "Measure how fast a service answers under load: time to first token, between tokens, per "
        "token and to the end, with percentiles; throughput, goodput, errors and retries. Real "
        "requests are sent, and a service bills them."
    )
    parser.epilog = (
        "Lists are written with commas; each number is a level of its own, and levels run one "
        "after another. Ctrl-C prints what was measured. Exit codes: 0 if any request was "
        "answered, else that of the most frequent error; 2 for a mistake in the options."
    )
    add = parser.add_argument
    add_service_options(parser)
    add("--client", metavar="MODULE:NAME", help="your own Client, or a function that returns one")
    add(
        "--floor",
        action="store_true",
        help="measure this client itself, against a server in this process that answers at once",
    )
    load = parser.add_mutually_exclusive_group()
    load.add_argument(
        "--concurrency",
        type=_list_of(int),
        metavar="N,...",
        help="closed loop: so many streams at once (8)",
    )
    load.add_argument(
        "--rate",
        type=_list_of(float),
        metavar="R,...",
        help="open loop: so many requests a second, at random times (Poisson)",
    )
    add("--constant", action="store_true", help="with --rate: evenly spaced instead")
    add("--max-concurrency", type=int, metavar="N", help="with --rate: streams at once (256)")
    add("--requests", type=int, metavar="N", help="requests of a level (20, or 5 for each stream)")
    add("--duration", type=float, metavar="SECONDS", help="requests of a level start within it")
    add("--warmup", type=int, metavar="N", help="requests before a level that do not count")
    add("--prompts", metavar="FILE", help="a prompt on each line, or JSON in a file *.jsonl")
    add(
        "--prompt-words",
        type=_list_of(int),
        metavar="N,...",
        help="words of the prompts that are made (100)",
    )
    add("--max-output-tokens", type=int, metavar="N", help="at most N tokens of answer (128)")
    add(
        "--total",
        type=_seconds,
        metavar="SECONDS",
        help="hard deadline of each request, or 'off' (120)",
    )
    add("--max-attempts", type=int, metavar="N", help="attempts of a request; 1: no retries")
    add(
        "--goodput",
        type=_limit,
        action="extend",
        nargs="+",
        metavar="METRIC:MS",
        help="a limit, like ttft:500 or tpot:50; how many requests are within all of them",
    )
    add("--seed", type=int, metavar="N", help="of the prompts and arrivals; default: a random one")
    add("--json", action="store_true", help="print one JSON object instead of the tables")
    add("--html", metavar="FILE.html", help="draw the figures as a page too")


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def numbers(text: str) -> list[Any]:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r}: write numbers with commas, like 1,8,32"
            ) from None

    return numbers


def _seconds(text: str) -> float | str:
    if text == "off":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither seconds nor 'off'") from None


def _limit(text: str) -> tuple[str, float]:
    metric, _, number = text.partition(":")
    try:
        return metric, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: write a metric and milliseconds, like ttft:500"
        ) from None


def _run(options: argparse.Namespace) -> int:
    from ..bench import Benchmark
    from ..bench.document import subject
    from ..bench.page import page

    load = _load(options)
    if options.html is not None:
        try:
            check_replaceable(options.html)  # reported before the requests cost
        except (OSError, ValueError) as error:
            return _unwritten(options.html, error)
    write("")  # so is a closed output
    with _client(options, load) as client:
        about = subject(client)
        bench = Benchmark(client, load, each=_show_progress if _has_terminal() else None)
        try:
            _measure(bench, about, load, as_json=options.json)
            code = _exit_code(bench.reports)
        finally:  # also when a signal or a closed pipe ends it
            page_code = 0
            if options.html is not None and bench.reports:
                page_code = _write_page(options.html, page(about, load, bench.reports))
    return code or page_code


def _measure(bench: Benchmark, about: dict[str, str], load: Load, *, as_json: bool) -> None:
    """Run it, and write its figures. Those of a benchmark that is cut are written before the
    exception goes on."""
    from ..bench.table import heading, level_text

    shown = 0
    if not as_json:
        write(heading(about, load))
    try:
        for level in bench.run():
            _clear_progress()
            if not as_json:
                write(level_text(level))
                shown += 1
    except OSError:  # stdout's
        raise
    except BaseException:
        _clear_progress()
        _finish(bench.reports, shown, about, load, as_json=as_json)
        raise
    _finish(bench.reports, shown, about, load, as_json=as_json)


def _finish(
    reports: Sequence[LevelReport],
    shown: int,
    about: dict[str, str],
    load: Load,
    *,
    as_json: bool,
) -> None:
    from ..bench.document import document
    from ..bench.table import closing_text, level_text

    if as_json:
        text = msgspec.json.encode(document(about, load, reports)).decode()
        print_pieces([text], end_line=True, as_json=True)
    elif reports:
        write("".join(map(level_text, reports[shown:])) + closing_text(reports))


def _exit_code(reports: Sequence[LevelReport]) -> int:
    """0 if any request was answered, else that of the most frequent error."""
    if any(level.ok for level in reports):
        return 0
    failed = Counter[str]()
    for level in reports:
        failed.update(level.errors)
    for name, count in failed.most_common(1):
        complain(name, f"no request was answered ({count} ended so)")
        return exit_code_of(getattr(errors, name, LLMStreamError)) or FAILED
    why = "none could be sent: give a longer --total, or less load"
    if not any(level.requests for level in reports):
        why = "none was due: give a longer --duration, a higher --rate, or --requests instead"
    complain("no request was answered", why)
    return FAILED


def _write_page(path: str, text: str) -> int:
    """Returns 0, or the exit code of a page that cannot be written."""
    try:
        replace_file(path, text.encode("utf-8", "replace"))
    except OSError as error:
        return _unwritten(path, error)
    return 0


def _unwritten(path: str, error: Exception) -> int:
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    complain("cannot write the page", f"{path}: {why}")
    return FAILED


# ---- what the options ask for --------------------------------------------------------------------

# The options that go into a Load as they are.
_AS_GIVEN = (
    "concurrency",
    "rate",
    "requests",
    "duration",
    "max_concurrency",
    "warmup",
    "prompt_words",
    "max_output_tokens",
    "max_attempts",
    "seed",
)


def _load(options: argparse.Namespace) -> Load:
    from ..bench import Load
    from ..bench.prompts import load_prompts

    given = {n: value for n in _AS_GIVEN if (value := getattr(options, n)) is not None}
    for option in ("constant", "max_concurrency"):
        if getattr(options, option) and options.rate is None:
            raise ConfigurationError(f"--{option.replace('_', '-')} goes with --rate")
    if options.prompts is not None:
        if options.prompt_words is not None:
            raise ConfigurationError("--prompts and --prompt-words exclude each other")
        given["prompts"] = load_prompts(options.prompts)
    if options.total is not None:
        given["total"] = None if options.total == "off" else options.total
    limits = dict(options.goodput or ())
    return Load(constant=options.constant, limits=limits, **given).checked()


_SERVICE = ("model", "api", "base_url", "local", "model_file", "context")


@contextlib.contextmanager
def _client(options: argparse.Namespace, load: Load) -> Iterator[Client]:
    streams = max(level.concurrency for level in load.levels())
    connections = max(streams, ClientSettings().max_connections)  # else some would connect anew
    if options.client is None and not options.floor:
        with client_for(options, max_connections=connections) as client:
            yield client
        return
    chosen = "--client" if options.client is not None else "--floor"
    excluded = [name for name in _SERVICE if getattr(options, name)]
    if chosen == "--floor" and "api" in excluded:
        excluded.remove("api")
    if options.client is not None and options.floor:
        excluded.append("floor")
    for name in excluded:
        raise ConfigurationError(f"{chosen} and --{name.replace('_', '-')} exclude each other")
    if options.client is not None:
        from ..check import load_client

        with load_client(options.client) as client:
            yield client
        return
    from ..bench.floor import floor_client

    api = options.api or DEFAULT_API
    with floor_client(api, load.max_output_tokens, connections) as client:
        yield client


# ---- progress ------------------------------------------------------------------------------------


def _has_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # closed
        return False


def _show_progress(name: str, generator: Generator) -> None:
    ended = f"{len(generator.samples)} ended ({generator.failed} failed)"
    text = f"{name}: {ended}, {generator.running} running"
    _write_progress(f"\r\x1b[K{text}")


def _clear_progress() -> None:
    if _has_terminal():
        _write_progress("\r\x1b[K")


def _write_progress(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


BENCH = Command("measure how fast a service answers under load", _add_arguments, _run)
