"""Many cases as one test: for proofs that are cheap and many, of which pytest's own work for an
item of each would take most of the time."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest

SHOWN = 20  # of the cases that fail, with their messages; the others by name


def every(
    names: str | tuple[str, ...],
    cases: Iterable[Any] | Callable[[], Iterable[Any]],
    ids: Any = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As `pytest.mark.parametrize`, in one test: it runs all cases, and fails with the names of
    those that fail and the traceback of the first. Cases that take a while to find are given as a
    function, which is called when the test runs. Fixtures are made once for all cases, so none of
    them may keep anything of a case."""
    arguments = [name.strip() for name in names.split(",")] if isinstance(names, str) else names

    def sets_of(given: Iterable[Any]) -> list[Any]:
        sets = [
            case
            if isinstance(case, type(pytest.param()))
            else pytest.param(*(case if len(arguments) > 1 else (case,)))
            for case in given
        ]
        assert sets, "no cases"
        assert all(len(one.values) == len(arguments) for one in sets)
        return sets

    now = None if callable(cases) else sets_of(cases)
    skips = [mark for one in now or () for mark in one.marks]
    if skips:  # the one case that stands for recordings that are absent
        assert len(now or ()) == 1, "a case with a mark of its own is parametrized"

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            sets = sets_of(cases()) if callable(cases) else now or []
            failed: dict[str, BaseException] = {}
            for number, one in enumerate(sets):
                try:
                    test(**dict(zip(arguments, one.values, strict=True)), **fixtures)
                except pytest.skip.Exception as exc:  # it would skip those that follow, too
                    raise AssertionError(f"not for cases that are skipped: {exc}") from None
                except (Exception, pytest.fail.Exception) as exc:
                    failed[f"{number}: {_name(one, number, ids)}"] = exc
            if failed:
                first = next(iter(failed.values()))
                shown = list(failed.items())[:SHOWN]
                told = "\n".join(f"  {name}: {_short(exc)}" for name, exc in shown)
                count = f"{len(failed)} of {len(sets)} cases fail"
                raise AssertionError(f"{count}: {'; '.join(failed)}\n{told}") from first

        signature = inspect.signature(test)
        kept = [one for name, one in signature.parameters.items() if name not in arguments]
        run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        for mark in skips:
            run = getattr(pytest.mark, mark.name)(*mark.args, **mark.kwargs)(run)
        return run

    return decorate


def _name(one: Any, number: int, ids: Any) -> str:
    if one.id is not None:
        return str(one.id)
    if ids is not None and not callable(ids):
        return str(list(ids)[number])
    return ", ".join(repr(value)[:100] for value in one.values)


def _short(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"[:300]
