"""The one fork hook. A lock that another thread holds at a fork is held for ever in the child, and
threads do not survive: what has either is made anew there."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["around_fork", "in_child", "renew_in_child"]

_Action = Callable[[], None]
_owners: weakref.WeakKeyDictionary[Any, dict[str, Callable[[], Any]]] = weakref.WeakKeyDictionary()
_before: list[_Action] = []
_in_parent: list[_Action] = []
_in_child: list[_Action] = []


def renew_in_child(owner: Any, **factories: Callable[[], Any]) -> None:
    """In a forked child set these attributes of `owner` anew, as long as it lives:
    `renew_in_child(self, _lock=threading.Lock)`."""
    _owners[owner] = factories


def in_child(action: _Action) -> None:
    """Call `action` in every forked child."""
    _in_child.append(action)


def around_fork(before: _Action, in_parent: _Action, in_child: _Action) -> None:
    """Call `before` in the parent before a fork, and the others after it."""
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
    for owner, factories in list(_owners.items()):
        for name, factory in factories.items():
            setattr(owner, name, factory())
    for action in _in_child:
        action()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_run_before, after_in_parent=_run_in_parent, after_in_child=_run_in_child
    )
