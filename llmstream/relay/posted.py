"""What a browser has posted, read and checked: nothing in it is trusted.

Pure: bytes in, values out. What is wrong is a `BadRequest`, which says where, and never repeats
what the browser has sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from .._core.checks import is_whole, shown
from ..errors import ConfigurationError

__all__ = ["MAX_BYTES", "BadRequest", "Body", "converted", "read_object"]

MAX_BYTES = 8 * 1024 * 1024  # of a body: some images in data: URLs; the JSON of a text is smaller

Body = bytes | bytearray | memoryview | str | Mapping[str, Any]

T = TypeVar("T")


class BadRequest(ConfigurationError):
    """A request's body is not what its protocol posts. `status` is the HTTP status to answer with:
    400, or 413 for a body that is too large. The message may be shown to whoever sent it."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def read_object(body: Any, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object of a body: bytes, text, or what a framework has decoded already.

    Raises BadRequest for a body of the browser that is wrong, and ConfigurationError for something
    that is no body at all.
    """
    if not is_whole(max_bytes, 1, 1 << 40):
        raise ConfigurationError(f"max_bytes={shown(max_bytes)}: pass a whole number of bytes")
    if isinstance(body, Mapping):
        return {name: body[name] for name in body}  # of a form, too, whose fields may be lists
    if not isinstance(body, (bytes, bytearray, memoryview, str)):
        raise ConfigurationError(
            f"body={shown(body)}: pass the request's body, as bytes, text or the decoded object "
            "(request.get_data() in Flask, request.body in Django)"
        )
    if len(body) > max_bytes:
        raise BadRequest(f"the body is larger than {max_bytes:,} bytes", status=413)
    try:
        found = _decoded(body)
    except (ValueError, RecursionError):  # also of text that is not UTF-8
        found = None
    if not isinstance(found, dict):
        raise BadRequest("the body is not a JSON object")
    return found


def _decoded(body: bytes | bytearray | memoryview | str) -> Any:
    try:
        return msgspec.json.decode(body)
    except UnicodeDecodeError:
        raise
    except ValueError:  # half a character, which a page may well cut out of a text
        text = body if isinstance(body, str) else bytes(body).decode()
        return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)  # NaN and its like are not JSON


def converted(value: Any, kind: type[T], place: str = "") -> T:
    """`value`, decoded JSON that stands at `place` of a body, as a struct. Raises BadRequest with
    the place that does not fit."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        # msgspec names types and the place, `Expected `str`, got `int` - at `$.id``: no values.
        inside = str(exc).rpartition(" - at `$")[2].rstrip("`")
        where = (place + inside).lstrip(".") or "its top"
        raise BadRequest(f"the body is not as its protocol has it, at {where}") from None
    except RecursionError:
        raise BadRequest("the body is a structure that is too deep") from None
