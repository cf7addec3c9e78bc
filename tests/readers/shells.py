"""IPython's own shell in this process, as a notebook: its outputs are looked at."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

__all__ = ["Notebook", "notebook"]


class Notebook:
    """What a notebook shows: the outputs of its cells, each as it is now, and all updates."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.outputs: dict[str, dict[str, Any]] = {}
        self.painted: list[str] = []

    def publish(self, data: Any, metadata: Any = None, **more: Any) -> None:
        name = more.get("transient", {}).get("display_id", f"output {len(self.outputs)}")
        assert (name in self.outputs) == more.get("update", False)
        self.outputs[name] = data
        self.painted.append(data.get("text/markdown", ""))

    @property
    def shown(self) -> list[str]:
        """What stands in the outputs, from the top."""
        return [data.get("text/markdown", data["text/plain"]) for data in self.outputs.values()]

    def run(self, code: str, **names: Any) -> Any:
        """Run a cell. Raises what it raises."""
        self.shell.user_ns.update(names)
        self.shell.run_cell(code, store_history=True).raise_error()
        return self.shell.user_ns.get("result")


@pytest.fixture
def notebook(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    pytest.importorskip("IPython")
    import builtins

    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    names = set(vars(builtins))
    hooks = sys.displayhook, sys.excepthook, sys.path[:]
    handler = signal.getsignal(signal.SIGINT)
    config = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell.instance(config=config)
    shown = Notebook(shell)

    class Publisher(DisplayPublisher):  # type: ignore[misc]
        def publish(self, data: Any, metadata: Any = None, **more: Any) -> None:
            shown.publish(data, metadata, **more)

    shell.display_pub = Publisher(parent=shell)
    shell.displayhook.write_format_data = lambda data, meta=None: shown.publish(data)
    shell.displayhook.write_output_prompt = lambda: None
    shell.showtraceback = lambda *args, **more: None
    yield shown
    shell.restore_sys_module_state()
    InteractiveShell.clear_instance()
    sys.displayhook, sys.excepthook, sys.path[:] = hooks
    for name in set(vars(builtins)) - names:
        delattr(builtins, name)
    signal.signal(signal.SIGINT, handler)
