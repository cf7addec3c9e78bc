"""What `import llmstream` costs on top of `import requests`, in fresh processes, interleaved."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 21
STATEMENTS = ("pass", "import requests", "import llmstream")


def milliseconds(statement: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return (time.perf_counter() - begun) * 1000


def main() -> None:
    for statement in STATEMENTS:
        milliseconds(statement)  # once for the byte code caches
    taken: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for _ in range(ROUNDS):
        for statement in STATEMENTS:
            taken[statement].append(milliseconds(statement))
    median = {statement: statistics.median(times) for statement, times in taken.items()}
    for statement, value in median.items():
        print(f"{statement:20} {value:7.1f} ms (median of {ROUNDS} processes)")
    extra = median["import llmstream"] - median["import requests"]
    print(f"llmstream - requests {extra:7.1f} ms")


if __name__ == "__main__":
    main()
