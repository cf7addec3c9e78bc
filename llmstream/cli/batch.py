"""`llmstream batch FILE`: many prompts, and their answers as they end."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from .._core.timers import Timeouts
from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.files import check_replaceable
from .._runtime.threads import spawn
from ..client import Client
from ..errors import ConfigurationError
from .command import Command, Parser
from .exit_codes import EXIT_CODES, FAILED
from .output import complain, json_for_terminal, remark, write
from .service import add_service_options, client_for, text_argument

if TYPE_CHECKING:
    from ..batchfile import BatchRun, Output, Source

__all__ = ["BATCH"]

_WORKERS = 8
_CONNECTIONS = 100  # idle ones that a client keeps by default
_LOOK = 1.0  # seconds; on Windows no signal interrupts a wait
_FAREWELL = 15.0  # seconds, at most, until an interrupted run has written what was answered


def _add_arguments(parser: Parser) -> None:
    parser.description = (
        "Ask every prompt of a file of JSON lines, many at once, and write each answer as a line "
        "of JSON as soon as it ends."
    )
    parser.epilog = (
        'A line of FILE: {"id": "a", "prompt": "..."} or {"id": "a", "messages": [...]}, with any '
        "options of Client.stream; lines for the vendors' own batch APIs are read too. A line "
        'without an id has its number. A line of OUT: {"id": "a", "text": "...", "usage": ...} or '
        '{"id": "a", "error": {"type": ..., "message": ..., "text": what arrived}}. A run with '
        "the same OUT goes on where an earlier one was ended, even by SIGKILL. Exit codes: 0 if "
        f"every line of FILE is answered, {EXIT_CODES['BatchError']} if some have failed, 2 for a "
        "mistake in FILE or in the options, 1 if OUT cannot be written."
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="JSON lines; '-': standard input, asked as it arrives")
    add("-o", "--output", metavar="OUT", help="append to this file; default: standard output")
    add("--retry-errors", action="store_true", help="ask again what has failed in an earlier run")
    add("--workers", type=int, default=_WORKERS, metavar="N", help="calls at the same time (8)")
    add(
        "--rate-limit",
        type=_rate_limit,
        metavar="N",
        help="requests a minute, or 'auto': find the service's limit",
    )
    add("--progress", action="store_true", help="show a bar with the rate, the errors and the cost")
    add_service_options(parser)
    add("--instructions", metavar="TEXT", help="the system prompt of lines without one")
    add("--max-tokens", type=int, metavar="N", help="at most N tokens in each answer")
    add("--temperature", type=float, metavar="NUMBER", help="of lines without one")
    add("--top-p", type=float, metavar="NUMBER", help="of lines without one")
    add("--total", type=float, metavar="SECONDS", help="the deadline of each call")
    add("--max-cost", metavar="USD", help="begin no further call once so much is known to be spent")


def _rate_limit(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of requests a minute nor 'auto'"
        ) from None


def _run(options: argparse.Namespace) -> int:
    from ..batchfile import BatchRun

    begun = SYSTEM_CLOCK.monotonic()
    if options.retry_errors and options.output in (None, "-"):
        raise ConfigurationError("--retry-errors goes with -o: give the file of the earlier run")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(contextlib.closing(_source(options.file)))
        client = stack.enter_context(_client(options))
        try:
            if options.retry_errors and os.path.isfile(options.output):
                check_replaceable(options.output)  # at the end some lines will be out of date
            output = _output(options.output, source)
        except OSError as error:
            return _unwritten(options.output, error)
        run = BatchRun(
            client,
            source,
            output,
            retry_errors=options.retry_errors,
            parallel=_parallel(options),
        )
        code = FAILED
        try:
            code = _finish(run, output, options.output)
        except BrokenPipeError:
            raise
        except BaseException as error:
            if not (isinstance(error, ConfigurationError) and run.summary.is_empty):
                _report(run, begun)
            raise
        written = _report(run, begun)
    return code if code or written else FAILED


def _finish(run: BatchRun, output: Output, name: str | None) -> int:
    """Runs to the end, which a signal may bring about."""

    def work() -> None:
        try:
            run.run()
        finally:
            output.close()

    try:
        _in_thread(work, run.stop)
    except BrokenPipeError:
        raise
    except ConfigurationError:
        raise
    except OSError as error:
        return _unwritten(name, error)
    return 0 if run.summary.all_succeeded else EXIT_CODES["BatchError"]


def _in_thread(work: Callable[[], None], stop: Callable[[], None]) -> None:
    """Do `work` in a thread of its own, where no signal comes between an answer and its line. A
    signal stops it, and is raised after its end. Raises what `work` raises."""
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    try:
        spawn(run, "batch")
        failure = _next(ended)
    except ConfigurationError:  # there is no thread that could end
        raise
    except BaseException:
        stop()
        with contextlib.suppress(Empty):
            ended.get(timeout=_FAREWELL)
        raise
    if failure is not None:
        raise failure


def _next(ended: SimpleQueue[BaseException | None]) -> BaseException | None:
    while True:
        with contextlib.suppress(Empty):
            return ended.get(timeout=_LOOK)


def _report(run: BatchRun, begun: float) -> bool:
    """The summary, on stderr; returns False if that is not possible."""
    return remark(f"batch: {run.summary.text(SYSTEM_CLOCK.monotonic() - begun)}")


# ---- what the options name -----------------------------------------------------------------------


def _source(path: str) -> Source:
    from ..batchfile import Source

    if path == "":
        raise ConfigurationError("FILE is empty: give the path of a file, or '-'")
    if path != "-":
        return Source.open(path)
    if sys.stdin is None:
        raise ConfigurationError("standard input is closed: nothing can be read from it")
    try:
        return Source(os.dup(sys.stdin.fileno()), "standard input")
    except (io.UnsupportedOperation, ValueError):
        raise ConfigurationError("standard input is not a file: give the path of one") from None
    except OSError as error:
        raise ConfigurationError(f"standard input cannot be read: {error.strerror}") from None


def _output(path: str | None, source: Source) -> Output:
    """Raises OSError, and ConfigurationError for the input itself."""
    from ..batchfile import open_output

    if path == "":
        raise ConfigurationError("-o is empty: give the path of a file")
    if path is None or path == "-":
        output = _standard_output()
    else:
        if source.is_file:
            with contextlib.suppress(OSError):
                _refuse_input(os.stat(path), source)
        return open_output(path)
    if source.is_file and output.identity == source.identity:
        raise ConfigurationError("the output is the input itself: give another file")
    return output


def _refuse_input(found: os.stat_result, source: Source) -> None:
    if (found.st_dev, found.st_ino) == source.identity:
        raise ConfigurationError("the output is the input itself: give another file with -o")


def _standard_output() -> Output:
    from ..batchfile import DescriptorPipe, Pipe

    write("")  # a closed output is reported before anything is asked
    out: Any = sys.stdout
    try:
        descriptor = out.fileno()
    except (OSError, ValueError, AttributeError):  # a stand-in, in memory
        return Pipe(lambda line: write(line.decode()))
    return DescriptorPipe(descriptor, json_for_terminal if out.isatty() else bytes)


def _unwritten(path: str | None, error: OSError) -> int:
    why = error.strerror or type(error).__name__
    complain("cannot write the output", why if path is None else f"{path}: {why}")
    return FAILED


def _client(options: argparse.Namespace) -> Client:
    more: dict[str, Any] = {"max_cost": options.max_cost}
    if options.workers > _CONNECTIONS:
        more["max_connections"] = options.workers
    if options.total is not None:
        more["timeouts"] = Timeouts(total=options.total)
    return client_for(options, **more)


def _parallel(options: argparse.Namespace) -> dict[str, Any]:
    given = {
        "instructions": text_argument(options.instructions),
        "max_output_tokens": options.max_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
    }
    return {
        "max_workers": options.workers,
        "rate_limit": options.rate_limit,
        "progress": options.progress,
        **{name: value for name, value in given.items() if value is not None},
    }


BATCH = Command("answer a file of prompts, many at once; can be resumed", _add_arguments, _run)
