"""A real notebook kernel, and the protocol that a notebook speaks to it."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PACKAGE, PATIENCE, eventually

__all__ = ["Kernel", "kernel", "until_asleep"]


def until_asleep(pid: int) -> None:
    """Waits until the main thread of another process is blocked, and stays so (see
    conftest.until_blocked)."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        time.sleep(0.5)
        return
    asleep = 0

    def is_asleep() -> bool:
        nonlocal asleep
        asleep = asleep + 1 if stat.read_text().rpartition(")")[2].split()[0] == "S" else 0
        return asleep > 40

    eventually(is_asleep, f"the main thread of {pid} is blocked")


class Kernel:
    """A real notebook kernel, and the protocol that a notebook speaks to it."""

    def __init__(self) -> None:
        import jupyter_client

        self.manager = jupyter_client.KernelManager(kernel_name="python3")
        self.manager.start_kernel()
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def start(self, code: str) -> str:
        """Runs a cell; returns the id of its messages."""
        message: str = self.client.execute(code)
        return message

    def printed(self, cell: str, until: Callable[[str], bool]) -> str:
        """What a cell has printed, once it is enough or the cell is over."""
        text = ""
        deadline = time.monotonic() + PATIENCE
        while not until(text):
            message = self.client.get_iopub_msg(timeout=max(0.0, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != cell:
                # Nothing of an earlier cell comes any more.
                assert message["msg_type"] != "stream", message["content"]
                continue
            if message["msg_type"] == "stream":
                text += message["content"]["text"]
            elif message["content"].get("execution_state") == "idle":
                break
        return text

    def shown(self, cell: str, until: Callable[[list[str]], bool] = lambda _: False) -> list[str]:
        """What stands in the outputs of a cell, from the top, once it is enough or the cell is
        over: Markdown where there is some, else text, what is printed, the name of an error."""
        outputs: dict[str, str] = {}
        deadline = time.monotonic() + PATIENCE
        while not until([*outputs.values()]):
            message = self.client.get_iopub_msg(timeout=max(0.0, deadline - time.monotonic()))
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != cell:
                # Nothing of an earlier cell comes any more.
                assert kind not in ("stream", "display_data", "update_display_data"), content
            elif kind in ("display_data", "update_display_data", "execute_result"):
                name = content.get("transient", {}).get("display_id", f"output {len(outputs)}")
                data = content["data"]
                outputs[name] = data.get("text/markdown", data["text/plain"])
            elif kind == "stream":
                outputs["printed"] = outputs.get("printed", "") + content["text"]
            elif kind == "error":
                outputs["error"] = content["ename"]
            elif content.get("execution_state") == "idle":
                break
        return [*outputs.values()]

    def outcome(self, cell: str) -> dict[str, Any]:
        while True:
            reply: dict[str, Any] = self.client.get_shell_msg(timeout=PATIENCE)
            if reply["parent_header"].get("msg_id") == cell:
                content: dict[str, Any] = reply["content"]
                return content

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self.manager.context.destroy(linger=0)
        # The loop that it has made for this thread, and would leave to the end of the process.
        from jupyter_core.utils import ensure_event_loop

        ensure_event_loop().close()
        asyncio.set_event_loop(None)


@pytest.fixture
def kernel(nothing_left: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    pytest.importorskip("jupyter_client")
    pytest.importorskip("ipykernel")
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        started = Kernel()
        yield started
        started.close()
        gc.collect()
