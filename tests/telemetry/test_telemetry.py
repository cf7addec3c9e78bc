"""The package `llmstream.telemetry`: its names, and that importing it is light."""

from __future__ import annotations

import pytest
from every import every
from support import output_of

from llmstream import telemetry

LIGHT = """
    import sys
    from llmstream import telemetry

    telemetry.Observer, telemetry.CallRecord
    heavy = ("prometheus_client", "opentelemetry", "genai_prices")
    print([name for name in sys.modules if name.partition(".")[0] in heavy])
    print([name for name in sys.modules if name.startswith("llmstream.telemetry.timeline")])
"""


@pytest.mark.slow
def test_importing_is_light() -> None:
    """Importing the package, and reading the names of an own observer from it, imports neither
    prometheus-client, OpenTelemetry, genai-prices nor the timeline."""
    assert output_of(LIGHT).splitlines() == ["[]", "[]"]


@every("name", telemetry.__all__)
def test_every_name_is_there(name: str) -> None:
    """Each public name can be imported, is listed by dir(), and is the object of that name."""
    found = getattr(telemetry, name)
    assert found.__name__ == name
    assert found is getattr(telemetry, name)
    assert name in dir(telemetry)


def test_all_names_at_once() -> None:
    """`from llmstream.telemetry import *` gives exactly the public names."""
    names: dict[str, object] = {}
    exec("from llmstream.telemetry import *", names)
    assert set(names) - {"__builtins__"} == set(telemetry.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As in any module, and not an ImportError from somewhere else."""
    with pytest.raises(AttributeError, match="has no attribute 'Observers'"):
        telemetry.Observers  # noqa: B018
    with pytest.raises(ImportError, match="Observers"):
        from llmstream.telemetry import Observers  # type: ignore[attr-defined]  # noqa: F401
