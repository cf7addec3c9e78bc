"""The protocols of front ends: one file each, and a row here.

Pure: parts in, bytes out. A protocol is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..._core.checks import shown
from ...errors import ConfigurationError
from .base import Encoder, Row, Version
from .reduced import Reduced

__all__ = ["PROTOCOLS", "make_encoder"]

PROTOCOLS: dict[str, Row] = {
    "events": Row(".events", "EventsEncoder"),
    "ui-message": Row(
        ".ui_message", "UIMessageEncoder", versions=(5, 6, 7), options=("id", "body", "dynamic")
    ),
    "ag-ui": Row(
        ".ag_ui", "AGUIEncoder", versions=("1.0",), options=("thread_id", "run_id", "body")
    ),
    "chat-completions": Row(
        ".chat_completions", "ChatCompletionsEncoder", options=("include_usage", "body")
    ),
    "text": Row(".text", "TextEncoder"),
    "html": Row(".html", "HTMLEncoder", versions=(2, 4)),
}


def make_encoder(
    protocol: Any,
    version: Version | None = None,
    *,
    thinking: bool = True,
    tool_calls: bool = True,
    **options: Any,
) -> Encoder:
    """A new encoder, for one answer. `version` defaults to the latest that the protocol has.
    `thinking=False` and `tool_calls=False` leave these parts of the answer out, in any protocol.

    Raises ConfigurationError for a protocol, a version or an option that is not known.
    """
    row = PROTOCOLS.get(protocol) if isinstance(protocol, str) else None
    if row is None:
        known = ", ".join(map(repr, PROTOCOLS))
        raise ConfigurationError(f"protocol={shown(protocol)}: pass one of {known}")
    chosen = _version_of(row, protocol, version)
    for name in options:
        if name not in row.options:
            known = ", ".join((*row.options, "thinking", "tool_calls"))
            raise ConfigurationError(
                f"{shown(name)} is not an option of protocol {protocol!r} (it has: {known})"
            )
    encoder: Encoder = getattr(import_module(row.module, __name__), row.name)(chosen, **options)
    shows = {"thinking": thinking, "tool_calls": tool_calls}
    for option, value in shows.items():
        if not isinstance(value, bool):
            raise ConfigurationError(f"{option}={shown(value)}: pass True or False")
    return encoder if all(shows.values()) else Reduced(encoder, **shows)


def _version_of(row: Row, protocol: str, version: Any) -> Version | None:
    if version is None:
        return row.versions[-1] if row.versions else None
    if isinstance(version, (int, str)) and not isinstance(version, bool):
        for known in row.versions:
            if str(known) == str(version):
                return known
    names = ", ".join(map(repr, row.versions))
    advice = f"pass one of {names}" if names else "this protocol has no versions; leave it out"
    raise ConfigurationError(f"version={shown(version)} of protocol {protocol!r}: {advice}")
