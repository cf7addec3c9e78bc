"""Answers that have a type, while they stream: `Stream.partials` and `Stream.elements`.

`PartialJSON` is what `partials` is made with: the plain value of JSON that arrives in pieces, for
example of a tool call's arguments.
"""

from __future__ import annotations

from .growing import PartialJSON

__all__ = ["PartialJSON"]
