"""Four workers, and the documented hook for a worker that has ended."""

from __future__ import annotations

from typing import Any

from prometheus_client import multiprocess

workers = 4
worker_class = "sync"  # one request each: four at once are in four workers
graceful_timeout = 5


def child_exit(server: Any, worker: Any) -> None:
    multiprocess.mark_process_dead(worker.pid)
