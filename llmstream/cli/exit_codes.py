"""What the command's exit code means."""

from __future__ import annotations

from .. import errors

__all__ = [
    "CLOSED_PIPE",
    "EXIT_CODES",
    "FAILED",
    "SIGNALLED",
    "exit_code",
    "exit_code_meanings",
    "exit_code_of",
]

# The name of an error class -> the exit code of the class and of its subclasses. argparse uses 2
# for a mistake in the arguments.
EXIT_CODES: dict[str, int] = {
    "ConfigurationError": 2,
    "InvalidRequestError": 3,
    "AuthenticationError": 4,
    "PermissionDeniedError": 5,
    "RateLimitError": 6,
    "QuotaExceededError": 7,
    "OverloadedError": 8,
    "ServerError": 9,
    "ConnectTimeout": 10,
    "FirstTokenTimeout": 11,
    "IdleTimeout": 12,
    "SilenceTimeout": 13,
    "DeadlineExceeded": 14,
    "ConnectionFailed": 15,
    "StreamInterrupted": 16,
    "StreamTruncated": 17,
    "ProtocolError": 18,
    "Cancelled": 19,
    "BatchError": 20,
    "OutputRefused": 21,
    "OutputCut": 22,
    "OutputInvalid": 23,
    "OutputError": 24,
    "RunError": 25,
}
FAILED = 1
SIGNALLED = 128  # plus the signal's number, as a shell counts
CLOSED_PIPE = SIGNALLED + 13

_OTHERS: dict[int, str] = {
    0: "success",
    FAILED: "the output cannot be written, a check failed, or a fault of this program",
    SIGNALLED + 1: "SIGHUP (the terminal was closed)",
    SIGNALLED + 2: "SIGINT (Ctrl-C)",
    CLOSED_PIPE: "whoever reads the output has closed it",
    SIGNALLED + 15: "SIGTERM",
}


def exit_code(error: Exception) -> int:
    """The exit code of an error: that of its class, or of the nearest parent that has one."""
    return exit_code_of(type(error))


def exit_code_of(kind: type[Exception]) -> int:
    """The exit code of the errors of a class."""
    names = (cls.__name__ for cls in kind.__mro__)
    return next((EXIT_CODES[name] for name in names if name in EXIT_CODES), FAILED)


def exit_code_meanings() -> dict[int, str]:
    """Every exit code in ascending order, with its meaning in a line."""
    by_error = {
        code: f"{name}: {_first_sentence(getattr(errors, name).__doc__ or '')}"
        for name, code in EXIT_CODES.items()
    }
    return dict(sorted({**_OTHERS, **by_error}.items()))


def _first_sentence(docstring: str) -> str:
    return " ".join(docstring.split("\n\n")[0].split()).split(". ")[0].rstrip(".")
