"""What importing `llmstream.testing` costs, what it exports, and its fixtures."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from every import every
from raw_client import ask

import llmstream.testing
from llmstream.testing import LLMServer
from llmstream.testing.plugin import llm_server, llm_server_tls  # noqa: F401 (used as fixtures)

PACKAGE = Path(llmstream.testing.__file__).parent


def module_level_imports(file: Path) -> set[str]:
    """The absolute modules that importing the file imports; not those for type checking only."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module or "")
    return found


@every("name", ["channel", "connection", "journal", "playback", "script", "server", "tls"])
def test_the_server_needs_only_the_standard_library(name: str) -> None:
    """It is free of the library it tests, and of everything installed."""
    roots = {module.partition(".")[0] for module in module_level_imports(PACKAGE / f"{name}.py")}
    assert roots <= set(sys.stdlib_module_names)
    assert "from .." not in (PACKAGE / f"{name}.py").read_text()


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("answers/*.py")), ids=lambda f: f.stem)
def test_the_encoders_know_only_the_librarys_table_of_apis(file: Path) -> None:
    """The bytes of an answer do not come from the library that reads them."""
    roots = {module.partition(".")[0] for module in module_level_imports(file)}
    assert roots <= set(sys.stdlib_module_names)
    outside = [line for line in file.read_text().splitlines() if line.startswith("from ..")]
    assert all(line.startswith("from ..._core.dialects import ") for line in outside)


def test_the_plugin_imports_nothing_heavy() -> None:
    """Every test run of everybody who has the package installed loads it."""
    allowed = {"__future__", "collections.abc", "typing", "pytest"}
    assert module_level_imports(PACKAGE / "plugin.py") <= allowed


def test_the_plugins_fixture(llm_server: LLMServer) -> None:  # noqa: F811
    """A started server."""
    assert ask(llm_server).status_code == 200


def test_the_plugins_tls_fixture(llm_server_tls: LLMServer) -> None:  # noqa: F811
    """A started server that speaks TLS."""
    assert ask(llm_server_tls).status_code == 200


def test_everything_public_is_exported_and_documented() -> None:
    """What the docstring of the package names is there, and each has a docstring."""
    for name in llmstream.testing.__all__:
        assert getattr(llmstream.testing, name).__doc__
