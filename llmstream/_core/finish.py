"""The words that services send as the reason for an answer's end. Some mean no end at all, others
that the answer was broken off."""

from __future__ import annotations

import re

from ..errors import ServiceError
from .classify import error_from_payload

__all__ = ["broken_off", "finish_word"]

_NO_WORDS = frozenset({"", "null", "none", "finish_reason_unspecified"})
# A word without case, spaces and signs -> the error's type.
_BROKEN = {
    **dict.fromkeys(
        ("abort", "aborted", "cancelled", "canceled", "failed", "failure", "interrupted"),
        "server_error",
    ),
    # Gemini, whose gateways pass its words on
    "malformedfunctioncall": "server_error",
    "malformedresponse": "server_error",
    "unexpectedtoolcall": "server_error",
    "toomanytoolcalls": "server_error",
    "timeout": "timeout_error",
    "overloaded": "overloaded_error",
    "insufficientsystemresource": "overloaded_error",  # DeepSeek
}
_ERROR = "error"  # and every word that ends in it: "network_error", "InternalServerError"
_SIGNS = re.compile(r"[^a-z]+")


def finish_word(reason: str | None) -> str | None:
    """`reason`, or None where it is the word for none: "", "null", "None"."""
    return None if reason is None or reason.strip().lower() in _NO_WORDS else reason


def broken_off(reason: str | None) -> ServiceError | None:
    """The error of an answer that ended with a word for a failure, in any spelling; or None."""
    if reason is None:
        return None
    # Gemini: "function_call_filter: MALFORMED_FUNCTION_CALL"
    words = [_SIGNS.sub("", part.lower()) for part in (reason, *reason.split(":"))]
    kind = next((_BROKEN[word] for word in words if word in _BROKEN), None)
    if kind is None and any(word.endswith(_ERROR) for word in words):
        kind = "server_error"
    if kind is None:
        return None
    message = f"the service broke the answer off: it ended with {reason!r}"
    return error_from_payload({"error": {"type": kind, "message": message}})
