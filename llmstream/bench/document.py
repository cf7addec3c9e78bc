"""The figures of a benchmark as one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from .._core.dialects import APIS
from .._version import __version__
from ..client import Client
from .level import LevelReport, report
from .load import Load
from .statistics import FORMULAS, Gaps

__all__ = ["document", "subject"]

PERCENTILES = "exact, nearest rank: the least value that such a share of all values does not exceed"


def subject(client: Client) -> dict[str, str]:
    """What is measured: the API, the host (never a user, a password or a query), the model."""
    settings = client.settings
    address = settings.service().base_url or APIS[settings.api].load().default_base_url
    parts = urlsplit(address)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return {
        "api": settings.api,
        "host": host if parts.port is None else f"{host}:{parts.port}",
        "model": settings.model or "the default model",
    }


def document(about: dict[str, str], load: Load, reports: Sequence[LevelReport]) -> dict[str, Any]:
    """For JSON: `levels` has the figures of each level, and the keys of the last level stand beside
    it too, so that a program that measures one level finds `ttft` and the others at the top.
    `about` is what `subject` returns."""
    levels = [one.document() for one in reports]
    shown = {name: getattr(load, name) for name in load.__struct_fields__}
    shown["prompts"] = None if load.prompts is None else len(load.prompts)  # never their texts
    if load.open:
        shown["concurrency"] = None  # each level has the most that are allowed
    return {
        "version": __version__,
        **about,
        "loop": "open" if load.open else "closed",
        "load": shown,
        **(levels[-1] if levels else _nothing(load)),
        "levels": levels,
        "percentiles": PERCENTILES,
        "formulas": FORMULAS,
    }


def _nothing(load: Load) -> dict[str, Any]:
    """The figures of a benchmark that was ended before its first request."""
    level = load.levels()[0]
    nothing = report(
        (), Gaps(), concurrency=level.concurrency, rate=level.rate, begun=0.0, ended=0.0
    )
    return nothing.document()
