"""What `output=` asks for."""

from __future__ import annotations

from typing import Any

from .._core.checks import is_whole, shown
from .._core.output import Output, make_output
from .._core.typeform import type_name
from .._runtime.forms import form_of
from ..errors import ConfigurationError

__all__ = ["asked_output", "checked_retries"]

_MOST_RETRIES = 10  # each is another bill


def asked_output(type: Any) -> Output:
    """What an answer has to be for a value of `type`. Raises ConfigurationError for what is not a
    type, or one that JSON cannot have."""
    if isinstance(type, (str, bytes, int, float, dict, list, tuple, set)):
        raise ConfigurationError(
            f"output={shown(type)}: pass a type, such as a msgspec.Struct, a dataclass, a "
            "TypedDict, a pydantic model or list[T]"
        )
    return make_output(form_of(type), type, type_name(type))


def checked_retries(retries: Any, output: Any) -> int:
    """How often another answer is asked for. Raises ConfigurationError."""
    if not is_whole(retries, 0, _MOST_RETRIES):
        raise ConfigurationError(
            f"output_retries={shown(retries)}: pass a whole number from 0 to {_MOST_RETRIES}"
        )
    if retries and output is None:
        raise ConfigurationError(
            "output_retries needs the type of the answer: pass output= too, or leave it out"
        )
    number: int = retries
    return number
