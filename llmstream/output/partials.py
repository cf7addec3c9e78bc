"""The plain value of an answer, as far as it has arrived."""

from __future__ import annotations

import contextlib
from collections import deque
from functools import partial
from typing import Any

from .._core.output import MISSING, Output, Unfit
from .._runtime.clock import Clock
from ..errors import LLMStreamError
from ..result import Chunk
from .growing import PartialJSON, decoded
from .view import OutputView, RunningCall, output_of

__all__ = ["partials_of"]


def partials_of(call: RunningCall, interval: float, keeper: object) -> OutputView[Any]:
    """See `Stream.partials`. Raises ConfigurationError."""
    output = output_of(call, "partials()")
    return OutputView(_Partials(output, interval, call.ctx.clock), call, keeper)


class _Partials:
    def __init__(self, output: Output, interval: float, clock: Clock) -> None:
        self._output = output
        self._new = partial(PartialJSON, interval, clock=clock)
        self._growing = self._new()
        self._shown = False  # whether the value that was parsed last was shown

    def read(self, chunk: Chunk, items: deque[Any]) -> None:
        if chunk.type == "restart":
            self._growing = self._new()
        elif self._growing.add(chunk.text):
            self._add(self._growing.value, items)

    def end(self, text: str, value: Any, error: LLMStreamError | None, items: deque[Any]) -> None:
        json = None
        if error is None:
            with contextlib.suppress(Unfit):  # of an answer that is not the last word
                json = self._output.read(text)[1]
        growing = self._growing
        if json is None:
            if growing.parse():
                self._add(growing.value, items)
        elif not (self._shown and growing.is_whole(json)):
            # It stands alone, or in another place than the first JSON of the text.
            with contextlib.suppress(ValueError):  # what is too deep
                items.append(self._output.inner(decoded(json), whole=True))

    def _add(self, plain: Any, items: deque[Any]) -> None:
        value = self._output.inner(plain)
        self._shown = value is not MISSING
        if self._shown:
            items.append(value)
