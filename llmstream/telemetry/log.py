"""The log `llmstream`: one line per call and per retry, phases at DEBUG. An observer like others;
every client has one unless it is given another."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from typing import Any

from .records import AttemptRecord, CallRecord, RetryRecord

__all__ = ["LogObserver"]

# A hook -> the level of its lines. A call that ends in an error is a WARNING; the first three serve
# the phase lines, which carry the number of their attempt.
_LEVELS = {
    "on_phase": logging.DEBUG,
    "on_attempt": logging.DEBUG,
    "on_retry": logging.WARNING,
    "on_end": logging.WARNING,
}


class LogObserver:
    """Writes to a standard logger (default: `llmstream`). Each line is "what: name=value ...", and
    the same fields are in `extra`, for structured logs. No prompt, answer, key, header value or
    error text is in it. Thread-safe."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("llmstream")
        self._attempts: dict[int, int] = {}  # call -> attempts that have ended, at DEBUG only

    def wants(self, hook: str) -> bool:
        return self._logger.isEnabledFor(_LEVELS[hook])

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
            tokens_in=usage.input_tokens,
            tokens_out=usage.output_tokens,
            tokens_cached=usage.cached_tokens,
            tokens_reasoning=usage.reasoning_tokens,
            chunks=end.chunks,
            bytes=end.bytes,
            request_id=end.request_id,
            response_id=end.response_id,
        )

    def _log(self, level: int, what: str, **fields: Any) -> None:
        logger = self._logger
        if not logger.isEnabledFor(level):
            return
        known = " ".join(f"{name}={_shown(v)}" for name, v in fields.items() if v is not None)
        with contextlib.suppress(Exception):  # an application's own filter or handler may fail
            text = ("%s: %s", (what, known))
            record = logger.makeRecord(logger.name, level, __file__, 0, *text, None, "_log")
            # Not through extra=, which refuses a name that the application's record factory uses.
            vars(record).update(fields)
            logger.handle(record)


_PLAIN = re.compile(r"[^\s\"'=\\]+")


def _shown(value: Any) -> str:
    """A value as one word: what a caller or a service chose breaks no line."""
    if isinstance(value, float):
        return f"{value:.1f}"
    text = str(value)
    return text if text.isprintable() and _PLAIN.fullmatch(text) else json.dumps(text)
