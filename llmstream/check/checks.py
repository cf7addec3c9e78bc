"""The table of all checks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .before_answer import (
    connection_refused,
    rate_limit,
    reset_before_answer,
    retry_after,
    server_errors,
)
from .cancel import cancel
from .clocks import (
    endless_answer,
    hung_connect,
    no_answer,
    pings_before_answer,
    pings_in_mid_answer,
    silence_in_mid_answer,
)
from .concurrent import many_streams
from .mid_answer import drop, garbled_event, truncated_answer
from .refusals import bad_key, context_too_long, html_page, quota_used_up, retry_after_too_long
from .result import CheckResult
from .settings import CheckSettings

__all__ = ["ALONE", "CHECKS"]

# The checks by name, in the order of the report.
CHECKS: dict[str, Callable[[CheckSettings], CheckResult]] = {
    "rate limit": rate_limit,
    "retry-after": retry_after,
    "retry-after too long": retry_after_too_long,
    "server errors": server_errors,
    "reset before answer": reset_before_answer,
    "connection refused": connection_refused,
    "drop in mid-answer": drop,
    "truncated answer": truncated_answer,
    "garbled event": garbled_event,
    "HTML page": html_page,
    "quota used up": quota_used_up,
    "bad key": bad_key,
    "context too long": context_too_long,
    "hung connect": hung_connect,
    "no answer": no_answer,
    "pings before answer": pings_before_answer,
    "pings in mid-answer": pings_in_mid_answer,
    "silence in mid-answer": silence_in_mid_answer,
    "endless answer": endless_answer,
    "cancel": cancel,
    "50 streams": partial(many_streams, count=50),
    "100 streams": partial(many_streams, count=100),
    "100 TLS streams": partial(many_streams, count=100, tls=True),
}
# These measure latency: nothing else runs at the same time.
ALONE = ("cancel", "50 streams", "100 streams", "100 TLS streams")
