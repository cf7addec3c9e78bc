"""pytest fixtures and options. pytest finds them wherever this package is installed.

Every test run of every project that has this package installed imports this file, and with it the
package itself. The server and the recordings are only imported when a test uses them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .recorder import Recorder
    from .replayer import Replayer
    from .server import LLMServer

_MODES = ("none", "once", "all")
_LONGEST = 100  # characters of a file's name
_FAILED = pytest.StashKey[bool]()
_BARRIER = pytest.StashKey[Any]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options: what tests with `llm_recording` do, and whether the network is forbidden."""
    group = parser.getgroup("llmstream")
    group.addoption(
        "--llm-record",
        choices=_MODES,
        help="what llm_recording does: none: replay only; once: record where there is no file; "
        "all: record anew (default: the ini option llm_record, then none)",
    )
    group.addoption(
        "--llm-forbid-network",
        action="store_true",
        help="no llmstream client sends anything to another machine",
    )
    parser.addini("llm_record", "what llm_recording does: none, once or all", default="none")
    parser.addini(
        "llm_forbid_network",
        "no llmstream client sends anything to another machine, but to record",
        type="bool",
        default=False,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; forbid the network where that is asked for."""
    config.addinivalue_line(
        "markers",
        "llm_recording(path=None, **options): arguments of llmstream.testing.recording for the "
        "fixture llm_recording",
    )
    if config.getini("llm_record") not in _MODES:
        raise pytest.UsageError(f"llm_record: use one of {', '.join(_MODES)}")
    if config.getoption("--llm-forbid-network") or config.getini("llm_forbid_network"):
        from .recordings import Barrier

        config.stash[_BARRIER] = Barrier()
        config.stash[_BARRIER].put_up()


def pytest_unconfigure(config: pytest.Config) -> None:
    """The network is free again, for what follows in this process."""
    barrier = config.stash.get(_BARRIER, None)
    if barrier is not None:
        barrier.take_down()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Remember whether a recorded test has failed: then its recording is not kept."""
    outcome: Any = yield
    if "llm_recording" in getattr(item, "fixturenames", ()) and call.when != "teardown":
        failed = outcome.get_result().outcome != "passed"
        item.stash[_FAILED] = failed or item.stash.get(_FAILED, False)


@pytest.fixture
def llm_server() -> Iterator[LLMServer]:
    """A scripted LLM service on http://127.0.0.1, closed and checked for errors after the test."""
    from .server import LLMServer

    with LLMServer() as server:
        yield server


@pytest.fixture
def llm_server_tls() -> Iterator[LLMServer]:
    """The same over https. Verify it with `llm_server_tls.ca_file`. Needs trustme."""
    from .server import LLMServer

    with LLMServer(tls=True) as server:
        yield server


@pytest.fixture
def llm_recording_options() -> dict[str, Any]:
    """Arguments of `llmstream.testing.recording` for the fixture `llm_recording`; override it in a
    module or a conftest.py. The marker `llm_recording` wins."""
    return {}


@pytest.fixture
def llm_recording(
    request: pytest.FixtureRequest, llm_recording_options: dict[str, Any]
) -> Iterator[Recorder | Replayer]:
    """All clients are replayed out of the test's own file, `recordings/MODULE/TEST.json` beside it;
    with `--llm-record=once` (or `all`) the file is recorded. Of a test that fails nothing is
    kept."""
    from .recordings import chosen_by, rerouted

    options = dict(llm_recording_options)
    for mark in reversed([*request.node.iter_markers("llm_recording")]):
        options.update(mark.kwargs, **({"path": mark.args[0]} if mark.args else {}))
    config = request.config
    mode = config.getoption("--llm-record") or config.getini("llm_record")
    path = options.pop("path", None) or _default_path(request.node)
    chosen = chosen_by(
        request.node.path.parent / path,
        options.pop("mode", None) or mode,
        may_be_missing=True,
        anew="record it with pytest --llm-record=all (or =once, if there is no file)",
        **options,
    )
    barrier = config.stash.get(_BARRIER, None)
    records = hasattr(chosen, "save")
    if barrier is not None and records:
        barrier.take_down()
    try:
        with rerouted(chosen):
            yield chosen
            if request.node.stash.get(_FAILED, False):
                chosen.discard()
    finally:
        if barrier is not None and records:
            barrier.put_up()


@pytest.fixture
def llm_forbid_network() -> Iterator[None]:
    """No llmstream client sends anything to another machine."""
    from .recordings import forbid_network

    with forbid_network():
        yield


def _default_path(node: Any) -> str:
    """recordings/test_chat/TestTools.test_weather[rome].json"""
    import re

    named = node.nodeid.partition("::")[2].replace("::", ".")
    name = re.sub(r"[^\w.\[\]=,-]+", "-", named)
    if name != named or len(name) > _LONGEST:  # two tests must not share a file
        import hashlib

        digest = hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        name = f"{name[:_LONGEST]}-{digest}"
    return f"recordings/{node.path.stem}/{name}.json"
