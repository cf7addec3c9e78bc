"""The elements of a list, each as soon as it is closed."""

from __future__ import annotations

import typing
from collections import deque
from typing import Any

from .._core.json_text import ElementScanner
from .._core.output import ELEMENTS, Output, invalid
from .._core.typeform import type_name
from .._runtime.forms import form_of
from ..errors import ConfigurationError, LLMStreamError
from ..result import Chunk
from .view import OutputView, RunningCall, output_of

__all__ = ["elements_of"]

_NO_LIST = "elements() needs a list: pass output=list[T] to client.stream(), not {}"


def elements_of(call: RunningCall, keeper: object) -> OutputView[Any]:
    """See `Stream.elements`. Raises ConfigurationError."""
    output = output_of(call, "elements()")
    if not call.readable_as_text:
        raise ConfigurationError(
            "on_disconnect='restart' and output_retries may begin the answer anew, and elements() "
            "could not tell you: iterate over partials() or chunks(), or use result()"
        )
    return OutputView(_Elements(output), call, keeper)


def _element_type(output: Output) -> Any:
    kind = output.type
    while typing.get_origin(kind) is typing.Annotated:
        kind = kind.__origin__
    arguments = typing.get_args(kind)
    if not output.is_list or not (
        len(arguments) == 1 or (len(arguments) == 2 and arguments[1] is Ellipsis)
    ):
        if output.is_list and kind in (list, set, frozenset, tuple):
            return Any
        raise ConfigurationError(_NO_LIST.format(type_name(output.type)))
    return arguments[0]


class _Elements:
    def __init__(self, output: Output) -> None:
        self._output = output
        element = _element_type(output)
        self._name = type_name(element)
        self._decode = form_of(element).decode
        self._scanner = ElementScanner(ELEMENTS)
        self._made: list[int] = []  # hashes of their texts

    def read(self, chunk: Chunk, items: deque[Any]) -> LLMStreamError | None:
        self._scanner.feed(chunk.text)
        for text in self._scanner.take():
            try:
                items.append(self._decode(text))
            except ValueError as exc:
                return invalid(self._name, str(exc), len(self._made))
            self._made.append(hash(text))
        return None

    def end(
        self, text: str, value: Any, error: LLMStreamError | None, items: deque[Any]
    ) -> LLMStreamError | None:
        """A list that is not where it was looked for, or not the only one, is an error: never are
        the elements others than those of the value."""
        if error is not None or value is None:
            return None
        output = self._output
        if self._made == [hash(one) for one in output.elements(output.read(text)[1])]:
            return None
        return invalid(type_name(output.type), "its elements are not those of one list")
