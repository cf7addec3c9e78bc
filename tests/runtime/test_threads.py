"""Threads: one can be waited for again after an interrupt."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from support import PATIENCE, signal_main

from llmstream._runtime.threads import spawn


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_join_after_an_interrupt_waits(nothing_left: None) -> None:
    """CPython before 3.13 would take the thread for one that has ended."""
    goes_on = threading.Event()
    thread = spawn(lambda: goes_on.wait(PATIENCE), "joined")
    other = threading.Thread(target=signal_main, args=(signal.SIGINT,))
    other.start()
    with pytest.raises(KeyboardInterrupt):
        thread.join()
    other.join()
    thread.join(0.01)
    assert thread.is_alive()
    goes_on.set()
    for _ in range(2):
        thread.join()
        assert not thread.is_alive()
    thread.join(0.01)


def test_several_may_wait_for_one(nothing_left: None) -> None:
    """And one that waits for itself is told so."""
    goes_on = threading.Event()
    thread = spawn(lambda: goes_on.wait(PATIENCE), "joined")
    waiting = [threading.Thread(target=thread.join) for _ in range(3)]
    for one in waiting:
        one.start()
    goes_on.set()
    for one in waiting:
        one.join(PATIENCE)
    assert not any(one.is_alive() for one in waiting)
    refused: list[BaseException] = []

    def itself() -> None:
        try:
            threading.current_thread().join()
        except RuntimeError as error:
            refused.append(error)

    spawn(itself, "joined").join()
    assert len(refused) == 1
