"""A pip that is a script of ours, and the real model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_tools import FakePip

from llmstream.errors import ConfigurationError
from llmstream.local import LocalServer, fetch_model

IN_CI = os.environ.get("CI") == "true"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Whoever asks for the real model, himself or through the server, is of the suite `local`."""
    if "model" in getattr(item, "fixturenames", ()):
        item.add_marker("local")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakePip:
    return FakePip(monkeypatch, tmp_path)


def unavailable(reason: str) -> None:
    if IN_CI:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def model() -> Path:
    """The real model's file: in the user's cache, or fetched into it."""
    try:
        __import__("xllamacpp")
    except ImportError as exc:
        unavailable(f"xllamacpp: {exc}")
    try:
        return fetch_model(progress=False)
    except ConfigurationError as exc:
        unavailable(f"no model: {exc}")
        raise


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[LocalServer]:
    with LocalServer() as server:
        yield server
