"""The one fork hook: what is made anew in a child."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from support import output_of

from llmstream._runtime import fork

FORKED = """
    import os, sys, threading
    from llmstream._runtime import fork
    from llmstream._runtime.ids import random_id

    class Owner:
        def __init__(self):
            self.lock, self.bell = threading.Lock(), "parent's"
            fork.renew_in_child(self, lock=threading.Lock, bell=lambda: "child's")

    told = []
    fork.in_child(lambda: told.append("in child"))
    actions = [lambda word=word: told.append(word) for word in ("before", "in parent", "child")]
    fork.around_fork(*actions)
    owner, gone = Owner(), Owner()
    del gone
    owner.lock.acquire()  # a thread of the parent has it, for ever in the child
    read, write = os.pipe()
    if os.fork() == 0:
        free = owner.lock.acquire(blocking=False)
        os.write(write, repr((free, owner.bell, told, random_id(128))).encode())
        os._exit(0)
    os.wait()
    child = eval(os.read(read, 4096))
    print(child[:3], told, owner.bell, owner.lock.locked(), child[3] != random_id(128))
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_a_child_gets_new_locks() -> None:
    """Attributes of living owners are renewed, actions run in order, random ids differ."""
    child = (True, "child's", ["before", "in child", "child"])
    expected = f"{child} {['before', 'in parent']} parent's True True\n"
    assert output_of(FORKED) == expected


def test_an_owner_is_not_kept_alive() -> None:
    """The hook knows it weakly, and its factories may not lead back to it."""

    class Owner:
        pass

    owner = Owner()
    fork.renew_in_child(owner, lock=threading.Lock)
    known = weakref.ref(owner)
    del owner
    gc.collect()
    assert known() is None


def test_a_hook_without_forks() -> None:
    """On a platform without fork the module still imports, and registering does no harm."""
    code = """
        import logging, os, random, requests  # these use the hook where there is one
        del os.register_at_fork
        from llmstream._runtime import fork
        fork.in_child(print)
        import llmstream
        print("fine")
    """
    assert output_of(code) == "fine\n"
