"""Reads events that do not match the API's reference: the second try, after the typed decoder has
refused them. Relies on the type hints of the event classes."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ...events.base import AnyEvent, Event, UnknownEvent, decode_json
from ..halves import HalfCharacter, has_half

__all__ = ["lenient"]


def lenient(
    name: str, data: bytes, classes: Mapping[str, type[Event]], essential: frozenset[str]
) -> AnyEvent:
    """An event that the typed decoder refused: it has an unknown type, no type, or fields of other
    types than in the reference. `name` is its SSE event name, `classes` maps types to classes.

    A field that does not fit is left out (it remains in `raw`), unless it is `essential`: text of
    the answer must not get lost unnoticed. In that case, and for what is not JSON, this raises
    ValueError. For half a character it raises HalfCharacter.
    """
    if has_half(data):
        raise HalfCharacter("an event has half a character")
    payload = decode_json(data)
    if not isinstance(payload, dict):
        if name == "error":
            return classes[name](raw=data)
        return UnknownEvent(name, payload, raw=data)
    kind = payload.get("type")
    kind = kind if isinstance(kind, str) else None
    if kind not in classes and (name == "error" or (kind is None and payload.get("error"))):
        kind = "error"  # a gateway's error: without a type, or with the type of the failure
    kind = name if kind is None else kind
    cls = classes.get(kind)
    if cls is None:
        number = payload.get("sequence_number")
        return UnknownEvent(kind, payload, number if isinstance(number, int) else None, raw=data)
    event = _build(cls, payload, essential)
    assert isinstance(event, Event)
    return event


def _hints(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _build(cls: type[Any], payload: Mapping[str, Any], essential: frozenset[str]) -> Any:
    hints = _hints(cls)
    found: dict[str, Any] = {}
    for name, wire in zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True):
        value = payload.get(wire)
        if value is None:
            continue
        fitted = _fitted(hints[name], value, essential)
        if fitted is not None:
            found[name] = fitted
        elif wire in essential:
            raise ValueError(f"the field {wire!r} of the event has a value of an unexpected type")
    return cls(**found)


def _fitted(hint: Any, value: Any, essential: frozenset[str]) -> Any:
    """`value` converted to the type `hint`, or None if it does not fit."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        kinds = (arg for arg in typing.get_args(hint) if arg is not type(None))
        found = (_fitted(kind, value, essential) for kind in kinds)
        return next((one for one in found if one is not None), None)
    if isinstance(hint, type) and issubclass(hint, Struct):
        return _build(hint, value, essential) if isinstance(value, dict) else None
    if typing.get_origin(hint) is list:
        (inner,) = typing.get_args(hint)
        if not isinstance(value, list):
            return None
        elements = [_fitted(inner, v, essential) for v in value if v is not None]
        return None if None in elements else elements
    try:
        return msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError:
        return None
