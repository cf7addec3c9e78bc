"""A run: every row of the input that has no answer yet is asked, and its line is written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .._core.checks import shown
from ..errors import AuthenticationError, Cancelled, ConfigurationError, QuotaExceededError
from ..readers.outcome import Outcome
from ..result import LLMStreamError
from .output import Output
from .records import encode_outcome
from .rows import Row, parse_row
from .source import Source
from .summary import Summary

if TYPE_CHECKING:
    from ..client import Client
    from ..parallel import Batch

__all__ = ["BatchRun"]

# Errors that are not of a row, and how many of them in a row end the run.
_OF_THE_KEY = (AuthenticationError, QuotaExceededError)
_MOST_IN_VAIN = 20


class BatchRun:
    """Asks the rows of `source` with `client`, and writes their lines to `output`.

    Args:
        retry_errors: whether rows that have an error in the output are asked again.
        parallel: arguments of `Client.parallel`: its own, and options for rows without them.

    An input that is a file is read to its end before anything is asked: a mistake in any line is
    found first. Any other input is asked as it arrives, and a mistake ends the run there, after the
    calls before it. `run` is called once, in any thread but that of the signal handlers: an
    interrupt may fall between an answer and its line. `stop` may be called from any thread.
    """

    def __init__(
        self,
        client: Client,
        source: Source,
        output: Output,
        *,
        retry_errors: bool = False,
        parallel: Mapping[str, Any],
    ) -> None:
        self._client = client
        self._source = source
        self._output = output
        self._retry_errors = retry_errors
        self._parallel = parallel
        own = ("max_workers", "rate_limit", "executor", "progress")
        self._options = {name: value for name, value in parallel.items() if name not in own}
        self.summary = Summary(client.settings.api)
        self._batch: Batch | None = None
        self._stopped = False
        self._right: str | None = None  # options that were looked at last, and are right
        self._pending: dict[int, Row] = {}  # the rows that are being asked, by their index
        self._wrong_input: ConfigurationError | None = None
        self._refused: LLMStreamError | None = None
        self._in_vain = 0  # calls in a row that the service refused because of the key

    def run(self) -> None:
        """Raises ConfigurationError for the input, and for settings that a call cannot work with;
        AuthenticationError or QuotaExceededError after 20 of them in a row; OSError where the
        output cannot be written. What was answered before is written."""
        size = self._check() if self._source.is_file else None
        if self._is_stopped() or size == 0:
            self._count_skipped()
            return
        with self._client.parallel(_Prompts(self._prompts(), size), **self._parallel) as batch:
            self._batch = batch
            if self._is_stopped():  # in this order: `stop` cancels the batch, or it is seen here
                batch.cancel()
            try:
                for outcome in batch:
                    self._take(outcome)
            except Cancelled:  # by `stop`, or because a call was refused
                pass
        failure = self._wrong_input or self._refused
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """End the run at once. What was answered is written; `run` then returns."""
        self._stopped = True
        self._source.stop()
        self._output.stop()
        if self._batch is not None:
            self._batch.cancel()

    def _is_stopped(self) -> bool:
        return self._stopped

    # ---- rows ------------------------------------------------------------------------------------

    def _check(self) -> int:
        """Look at all rows, and at the options of those to ask; returns the number of these."""
        wanted = 0
        for row in self._rows():
            if self._is_wanted(row):
                self._check_options(row)
                wanted += 1
        return wanted

    def _rows(self) -> Iterator[Row]:
        lines: dict[str, int] = {}  # the ids, and where they are
        api = self._client.settings.api
        for line, data in self._source.lines():
            row = parse_row(data, line, api)
            first = lines.setdefault(row.key, line)
            if first != line:
                raise ConfigurationError(
                    f"line {line}: its id {shown(row.id)} is that of line {first} too: ids have to "
                    "be different (a line without one has its number as its id)"
                )
            yield row

    def _is_wanted(self, row: Row) -> bool:
        known = self._output.known.get(row.key)
        if known is None:
            return True
        if known.digest != row.digest:
            raise ConfigurationError(
                f"line {row.line}: the output has a line of another row for the id "
                f"{shown(row.id)} (a line without an id has its number, and lines have moved): "
                "give every line an id of its own, or give another output"
            )
        return known.failed and self._retry_errors

    def _check_options(self, row: Row) -> None:
        prompt = row.prompt["prompt"]
        options = {name: value for name, value in row.prompt.items() if name != "prompt"}
        # As text: True == 1, which is another option.
        seen = repr(options)
        if isinstance(prompt, str) and prompt and seen == self._right:
            return  # most files: one text after the other, and to make a call takes 0.1 ms
        try:
            self._client.stream(prompt, **{**self._options, **options}).close()
        except ConfigurationError as error:
            raise ConfigurationError(f"line {row.line}: {error.message}") from None
        self._right = seen

    def _prompts(self) -> Iterator[dict[str, Any]]:
        """What the batch asks. Drawn by one thread, when a worker is free."""
        try:
            for index, row in enumerate(self._wanted()):
                if self._refused is not None:  # the calls that run go on to their ends
                    return
                self._pending[index] = row
                yield row.prompt
        except ConfigurationError as error:  # the calls before it go on to their ends
            self._wrong_input = error

    def _wanted(self) -> Iterator[Row]:
        for row in self._rows():
            if not self._is_wanted(row):
                self._skip(row)
                continue
            if not self._source.is_file:
                self._check_options(row)
            yield row

    def _skip(self, row: Row) -> None:
        self.summary.skipped += 1
        self.summary.skipped_errors += self._output.known[row.key].failed

    def _count_skipped(self) -> None:
        if not self._is_stopped():
            for row in self._rows():
                self._skip(row)

    # ---- outcomes --------------------------------------------------------------------------------

    def _take(self, outcome: Outcome) -> None:
        row = self._pending.pop(outcome.index)
        error = outcome.error
        if isinstance(error, ConfigurationError):
            # Not of the row, which was checked: the key's function, the limit of the cost.
            why = error.message.removeprefix(f"prompts[{outcome.index}]: ")
            error.args = (f"line {row.line}: {why}", *error.args[1:])
            self._refused = self._refused or error
        elif isinstance(error, Cancelled):  # a later run asks it
            self.summary.count_tokens(outcome)
        else:
            self._write(row, outcome)
        if self._refused is not None and self._batch is not None and not self._pending:
            self._batch.cancel()  # the input may be a pipe whose next line is waited for

    def _write(self, row: Row, outcome: Outcome) -> None:
        error = outcome.error
        line = encode_outcome(row, outcome, self.summary.count_tokens(outcome))
        try:
            self._output.append(line, row.key, failed=error is not None)
        except BaseException:
            self._give_up(outcome)
            raise
        self.summary.count(outcome)
        self._look_for_the_end(error)

    def _look_for_the_end(self, error: LLMStreamError | None) -> None:
        """End the run where the key is wrong or used up: every further call would end alike."""
        self._in_vain = self._in_vain + 1 if isinstance(error, _OF_THE_KEY) else 0
        if error is not None and self._in_vain == _MOST_IN_VAIN and self._batch is not None:
            error.add(
                f"{_MOST_IN_VAIN} calls in a row ended like this, so no further one is made; "
                "--retry-errors asks them again"
            )
            self._refused = self._refused or error
            self._batch.cancel()

    def _give_up(self, outcome: Outcome) -> None:
        """Nothing can be written any more: count the answers that are lost by it."""
        self.stop()
        self.summary.unsaved += outcome.error is None
        with contextlib.suppress(Cancelled):
            for lost in self._batch or ():
                self.summary.count_tokens(lost)
                self.summary.unsaved += lost.error is None


class _Prompts:
    """The prompts, and how many they are, where that is known: a bar shows it."""

    def __init__(self, prompts: Iterator[dict[str, Any]], size: int | None) -> None:
        self._prompts = prompts
        self._size = size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._prompts

    def __len__(self) -> int:
        if self._size is None:
            raise TypeError("the end of the input is not known")
        return self._size
