"""What the applications share: the client, and what a process says about itself."""

from __future__ import annotations

import os
import threading
from typing import Any

from llmstream import Client, Stream, Timeouts

client = Client(
    os.environ.get("API", "responses"),
    base_url=os.environ["SERVICE"],
    api_key="test-key",
    model="a-model",
    timeouts=Timeouts(None, None, None, None, None),
    max_connections=20,  # idle ones that are kept
)


def asked(query: Any) -> tuple[Stream, dict[str, Any]]:
    """The stream and the arguments of the response that a query asks for."""
    options: dict[str, Any] = {"protocol": query.get("protocol", "events")}
    for name in ("heartbeat", "interval"):
        if name in query:
            options[name] = float(query[name])
    return client.stream(query["prompt"]), options


def state() -> dict[str, Any]:
    """What this process holds. The server's own threads and sockets are the same before and
    after."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue  # the listing's own
    with open("/proc/self/status") as status:
        sizes = {line.split(":")[0]: line.split()[1] for line in status if line.startswith("Vm")}
    return {
        "pid": os.getpid(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "sockets": sum(one.startswith("socket:") for one in found),
        "rss": int(sizes["VmRSS"]),
        "peak": int(sizes["VmHWM"]),
    }
