"""The protocols of front ends: one file each, and a row here.

Pure: parts in, bytes out. A protocol is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..._core.checks import shown
from ...errors import ConfigurationError
from .base import Encoder, Row, Version

__all__ = ["PROTOCOLS", "make_encoder"]

PROTOCOLS: dict[str, Row] = {
    "events": Row(".events", "EventsEncoder"),
    "ui-message": Row(
        ".ui_message", "UIMessageEncoder", versions=(5, 6, 7), options=("id", "body")
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


def make_encoder(protocol: Any, version: Version | None = None, **options: Any) -> Encoder:
    """A new encoder, for one answer. `version` defaults to the latest that the protocol has.

    Raises ConfigurationError for a protocol, a version or an option that is not known.
    """
    row = PROTOCOLS.get(protocol) if isinstance(protocol, str) else None
    if row is None:
        known = ", ".join(map(repr, PROTOCOLS))
        raise ConfigurationError(f"protocol={shown(protocol)}: pass one of {known}")
    if version is None:
        chosen = row.versions[-1] if row.versions else None
    else:
        chosen = next((v for v in row.versions if str(v) == str(version)), None)
        if chosen is None:
            known = ", ".join(map(repr, row.versions))
            advice = f"pass one of {known}" if known else "this protocol has no versions; leave it"
            raise ConfigurationError(f"version={shown(version)} of protocol {protocol!r}: {advice}")
    for name in options:
        if name not in row.options:
            known = ", ".join(row.options) or "none"
            raise ConfigurationError(
                f"{shown(name)} is not an option of protocol {protocol!r} (it has: {known})"
            )
    encoder: Encoder = getattr(import_module(row.module, __name__), row.name)(chosen, **options)
    return encoder
