"""The package's only fork hook (`os.register_at_fork`).

In a forked child the parent's threads do not exist, and a lock that one of them held is held for
ever. So whatever has a lock or a thread is renewed there. Imports nothing of the package.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["around_fork", "in_child", "process_number", "renew_in_child"]

_Action = Callable[[], None]
_owners: weakref.WeakKeyDictionary[Any, dict[str, Callable[[], Any]]] = weakref.WeakKeyDictionary()
_before: list[_Action] = []
_in_parent: list[_Action] = []
_in_child: list[_Action] = []


_process = os.getpid()


def process_number() -> int:
    """The number of this process. `os.getpid` would be a system call."""
    return _process


def renew_in_child(owner: Any, **factories: Callable[[], Any]) -> None:
    """In a forked child, set these attributes of `owner` to new values, as long as `owner` lives:
    `renew_in_child(self, _lock=threading.Lock)`. `owner` is referred to weakly."""
    _owners[owner] = factories


def in_child(action: _Action) -> None:
    """Call `action` in every forked child."""
    _in_child.append(action)


def around_fork(before: _Action, in_parent: _Action, in_child: _Action) -> None:
    """Call `before` in the parent before a fork, then `in_parent` and `in_child` after it. The
    `before` functions are called in reverse order of their registration."""
    _before.append(before)
    _in_parent.append(in_parent)
    _in_child.append(in_child)


def _run_before() -> None:
    for action in reversed(_before):
        action()


def _run_in_parent() -> None:
    for action in _in_parent:
        action()


def _run_in_child() -> None:
    global _process
    _process = os.getpid()
    for owner, factories in list(_owners.items()):
        for name, factory in factories.items():
            setattr(owner, name, factory())
    for action in _in_child:
        action()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_run_before, after_in_parent=_run_in_parent, after_in_child=_run_in_child
    )
