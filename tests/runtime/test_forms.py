"""Many threads read one type for the first time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CROWD = """
import sys, threading
from typing import Optional, Union
import msgspec
from llmstream._runtime.forms import form_of
from llmstream import Tool

sys.setswitchinterval(1e-6)
failed = []
for number in range(10):
    fields = [("a", int), ("b", list[int]), ("c", Optional[str], None)]
    parts = [msgspec.defstruct(f"S{n}", fields, tag=f"t{n}") for n in range(20)]
    whole = msgspec.defstruct("Whole", [("parts", list[Union[tuple(parts)]])])
    def work(one): return one
    work.__annotations__ = {"one": whole}
    start = threading.Barrier(8)
    def read():
        start.wait()
        try:
            text = '{"parts":[{"type":"t3","a":1,"b":[]}]}'
            assert form_of(whole).decode(text) == Tool(work).call('{"one":' + text + '}')
        except BaseException as exc:
            failed.append(exc)
    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print(failed)
"""


FORK = """
import os, threading
from llmstream._runtime import forms

taken = threading.Event()

def hold():
    with forms._turn.lock:
        taken.set()
        threading.Event().wait(30)

threading.Thread(target=hold, daemon=True).start()
assert taken.wait(10)
child = os.fork()
if child == 0:
    os._exit(forms.form_of(int).decode("3"))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.strip()


@pytest.mark.slow
def test_threads_that_read_one_type_at_once() -> None:
    """msgspec alone crashes the process there."""
    assert run(CROWD) == "[]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_does_not_wait_for_a_thread_of_its_parent() -> None:
    """The turn is that of a thread which does not exist in the child."""
    assert run(FORK) == "3"
