"""The log `llmstream`: one line per call, per retry, per tool and per run, and at DEBUG one per
phase.

It is an observer like the others. Every client has one, unless a LogObserver is among the observers
that it is given.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from typing import Any

from .._core.checks import shown
from ..errors import ConfigurationError
from .observer import Levelled
from .records import AttemptRecord, CallRecord, RetryRecord, RunRecord, ToolRecord

__all__ = ["LogObserver"]

# A hook -> the highest level of the lines that need it. The end of a call is a WARNING where it is
# an error. A phase line carries the number of its attempt, which on_attempt counts.
_LEVELS = {
    "on_phase": logging.DEBUG,
    "on_attempt": logging.DEBUG,
    "on_retry": logging.WARNING,
    "on_end": logging.WARNING,
    "on_tool_end": logging.WARNING,
    "on_run_end": logging.WARNING,
}
_OF_RUNS = ("on_tool_end", "on_run_end")
# What a logger wants by its level: at WARNING nothing of a success.
_SILENT = frozenset[str]()
_FAILURES = frozenset({"on_retry", "_on_failure", *_OF_RUNS})
_ENDS = frozenset({"on_retry", "on_end", *_OF_RUNS})
_PHASES = frozenset(_LEVELS)


class LogObserver(Levelled):
    """Writes calls to a standard logger.

    Args:
        logger: a Logger or LoggerAdapter; default: the logger `llmstream`. Raises
            ConfigurationError for anything else.

    The end of a call is one line: INFO for a success and a cancel, WARNING for an error; so is the
    end of a run, and that of each call of a tool (INFO where `approve` refused it). A retry is one
    line at WARNING, a phase one line at DEBUG. Each line is "what: name=value ...". The same
    fields are attributes of the log record, as with `extra`; a field without a value is None there,
    and is left out of the line. A value with spaces or special characters is written as a JSON
    string, so a line is always one line. Names that end in `_ms` are milliseconds. No prompt,
    answer, key, header value or error text is logged, and nothing that a tool is given or returns.
    Thread-safe.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        if logger is not None and not isinstance(logger, (logging.Logger, logging.LoggerAdapter)):
            raise ConfigurationError(f"logger={shown(logger)}: pass a logging.Logger")
        self._logger = logger or logging.getLogger("llmstream")
        self._attempts: dict[int, int] = {}  # call -> attempts that have ended; at DEBUG only

    def wants(self, hook: str) -> bool:
        """Whether the logger's level lets a line of this hook pass, when the call begins."""
        return hook not in _LEVELS or self._logger.isEnabledFor(_LEVELS[hook])

    def wanted(self) -> frozenset[str]:
        enabled = self._logger.isEnabledFor
        if not enabled(logging.INFO):
            return _FAILURES if enabled(logging.WARNING) else _SILENT
        return _PHASES if enabled(logging.DEBUG) else _ENDS

    def on_phase(self, call: CallRecord, phase: str, at_ms: float) -> None:
        attempt = self._attempts.get(call.id, 0) + 1
        self._log(
            logging.DEBUG,
            "phase",
            trace_id=call.trace_id,
            attempt=attempt,
            phase=phase,
            at_ms=at_ms,
        )

    def on_attempt(self, call: CallRecord, attempt: AttemptRecord) -> None:
        self._attempts[call.id] = attempt.number

    def on_retry(self, call: CallRecord, retry: RetryRecord) -> None:
        self._log(
            logging.WARNING,
            "call retried",
            trace_id=call.trace_id,
            attempt=retry.attempt,
            error_type=retry.error_type,
            error_code=retry.error_code,
            status=retry.status,
            phase=retry.phase,
            wait_ms=retry.wait_ms,
            api=call.api,
            model=call.model,
            host=call.host,
        )

    def on_end(self, call: CallRecord, end: CallRecord) -> None:
        self._attempts.pop(call.id, None)
        usage = end.usage
        self._log(
            logging.WARNING if end.outcome == "error" else logging.INFO,
            "call ended",
            trace_id=end.trace_id,
            outcome=end.outcome,
            error_type=end.error_type,
            error_code=end.error_code,
            status=end.status,
            phase=end.phase,
            finish=end.finish,
            reason=end.reason,
            api=end.api,
            model=end.model,
            host=end.host,
            attempts=len(end.attempts),
            retries=len(end.retries),
            first_token_ms=end.first_token_ms,
            total_ms=end.total_ms,
            waited_ms=end.waited_ms,
            backoff_ms=end.backoff_ms,
            longest_gap_ms=end.longest_gap_ms,
            tokens_in=end.tokens_in,
            tokens_out=usage.output_tokens,
            tokens_cached=usage.cached_tokens,
            tokens_reasoning=usage.reasoning_tokens,
            **({} if usage.cost is None else {"cost_usd": usage.cost}),  # few services report it
            chunks=end.chunks,
            bytes=end.bytes,
            request_id=end.request_id,
            response_id=end.response_id,
        )

    _on_failure = on_end

    def on_tool_end(self, tool: ToolRecord, end: ToolRecord) -> None:
        self._log(
            logging.INFO if end.outcome in ("success", "refused") else logging.WARNING,
            "tool ended",
            trace_id=end.trace_id,
            outcome=end.outcome,
            error_type=end.error_type,
            tool=end.name,
            call_id=end.call_id,
            turn=end.turn,
            total_ms=end.total_ms,
            api=end.api,
            model=end.model,
        )

    def on_run_end(self, run: RunRecord, end: RunRecord) -> None:
        self._log(
            logging.WARNING if end.outcome == "error" else logging.INFO,
            "run ended",
            trace_id=end.trace_id,
            outcome=end.outcome,
            error_type=end.error_type,
            turns=end.turns,
            late_results=end.late_results,
            total_ms=end.total_ms,
            api=end.api,
            model=end.model,
            host=end.host,
        )

    def _log(self, level: int, what: str, **fields: Any) -> None:
        logger = self._logger
        if not logger.isEnabledFor(level):
            return
        known = " ".join(f"{name}={_shown(name, v)}" for name, v in fields.items() if v is not None)
        with contextlib.suppress(Exception):  # a filter or handler of the application may fail
            text = ("%s: %s", (what, known))
            record = logger.makeRecord(logger.name, level, __file__, 0, *text, None, "_log")
            # Not `extra=`, which raises KeyError for a name that a record factory has set.
            vars(record).update(fields)
            logger.handle(record)


_PLAIN = re.compile(r"[^\s\"'=\\]+")


def _shown(name: str, value: Any) -> str:
    """A value as one word, so that no name chosen by a caller or a service breaks the line."""
    if isinstance(value, float):
        return f"{value:.1f}" if name != "cost_usd" else f"{value:.6g}"
    text = str(value)
    return text if text.isprintable() and _PLAIN.fullmatch(text) else json.dumps(text)
