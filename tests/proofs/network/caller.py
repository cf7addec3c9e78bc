"""A program that makes calls, all at the same time, and reports in lines of JSON: each token, how
each call ended, and last what is left of it all in this process.

`caller.py '[{"api": ..., ...}]'`. Takes "cancel" and "again" on its input, and ends with it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from llmstream import Client, LLMStreamError, RetryPolicy, Stream, Timeouts

PATIENCE = 3.0  # seconds for threads and sockets to go

_print_lock = threading.Lock()


def say(**facts: Any) -> None:
    with _print_lock:
        print(json.dumps(facts), flush=True)


class Call:
    """One call after another of one client, and what becomes of them."""

    def __init__(self, number: int, wish: dict[str, Any]) -> None:
        self.number = number
        self.wish = wish
        self.client = Client(
            wish["api"],
            base_url=wish["base_url"],
            api_key="test-key",
            model="test-model",
            verify=wish["verify"],
            timeouts=Timeouts(**wish["timeouts"]),
            retry=RetryPolicy(max_attempts=wish["attempts"], base=0.01, cap=0.01, jitter=0.0),
        )
        self.stream = self.new_stream()
        self.failed = False
        self.cancelled_at: float | None = None

    def new_stream(self) -> Stream:
        return self.client.stream(self.wish["prompt"], trace_id=self.wish["trace_id"])

    def cancel(self) -> None:
        self.cancelled_at = time.monotonic()
        self.stream.cancel("the test said so")

    def read(self) -> None:
        stream = self.stream
        begun = last = time.monotonic()
        tokens, error = "", None
        try:
            for token in stream:
                last = time.monotonic()
                tokens += token
                say(call=self.number, token=token)
        except LLMStreamError as exc:
            error = exc
        ended = time.monotonic()
        self.failed = error is not None
        say(
            call=self.number,
            error=type(error).__name__ if error is not None else None,
            message=str(error),
            tokens=tokens,
            text=error.partial.text if error is not None else stream.result().text,
            finish=None if error is not None else stream.result().finish,
            seconds=ended - begun,
            quiet=ended - last,
            after_cancel=ended - self.cancelled_at if self.cancelled_at is not None else None,
            phase=stream.attempts[-1].phase,
            attempts=[
                [type(one.error).__name__ if one.error else None, one.phase, one.resent]
                for one in stream.attempts
            ],
        )


def obey(calls: list[Call], again: threading.Event) -> None:
    for line in sys.stdin:
        if line.strip() == "again":
            again.set()
        for call in calls if line.strip() == "cancel" else ():
            call.cancel()
    os._exit(1)


def threads() -> list[str]:
    """All but this program's own, and the library's one watchdog."""
    ours = ("MainThread", "obedience", "llmstream-watchdog")
    return [one.name for one in threading.enumerate() if one.name not in ours]


def sockets() -> int:
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        except OSError:  # the listing's own
            continue
    return found


def read_all(calls: list[Call]) -> None:
    readers = [threading.Thread(target=call.read, name="reader") for call in calls]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()


def after_a_while(count: Callable[[], Any]) -> Any:
    """What is still there then."""
    deadline = time.monotonic() + PATIENCE
    while (left := count()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def main() -> None:
    rounds = int(sys.argv[2])
    calls = [Call(number, wish) for number, wish in enumerate(json.loads(sys.argv[1]))]
    again = threading.Event()
    args = (calls, again)
    threading.Thread(target=obey, args=args, name="obedience", daemon=True).start()
    read_all(calls)
    for _ in range(rounds - 1):
        say(round="over")
        again.wait()
        again.clear()
        for call in calls:
            call.stream = call.new_stream()
        read_all(calls)
    # Those of whole answers are idle in the pool.
    too_many = after_a_while(lambda: max(0, sockets() - sum(not call.failed for call in calls)))
    for call in calls:
        call.client.close()
    say(threads=after_a_while(threads), too_many=too_many, sockets=after_a_while(sockets))


if __name__ == "__main__":
    main()
