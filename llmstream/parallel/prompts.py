"""The prompts of a batch: what each of them asks for, and what is a mistake."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from .._core.checks import shown
from ..errors import ConfigurationError

__all__ = ["Ask", "Prompts"]

_FORMS = (
    "a prompt is a text, a list of {'role': ..., 'content': ...}, or a dict with 'prompt' and "
    "options of Client.stream"
)
_OF_ONE_CALL = "trace_id"


class Ask(Struct, frozen=True, gc=False):
    """One call of a batch: the prompt as the caller gave it, and the arguments of Client.stream."""

    index: int
    given: Any
    prompt: Any
    options: Mapping[str, Any]


class Prompts:
    """The prompts in their order, each with its index. `names` are the options that a call takes,
    `shared` are those of all prompts.

    Raises ConfigurationError for what can be seen without asking for a prompt: all of it where
    `prompts` is a list or a tuple, which is copied. Any other iterable is asked for its prompts
    when they are needed, by one thread.
    """

    def __init__(
        self, prompts: Iterable[Any], names: Collection[str], shared: Mapping[str, Any]
    ) -> None:
        self._names = names
        self._shared = shared
        if _OF_ONE_CALL in shared:
            raise ConfigurationError(
                f"{_OF_ONE_CALL} is the id of one call: write it into the dict of a prompt, "
                "{'prompt': ..., 'trace_id': ...}, or let each call have an id of its own"
            )
        for name in shared:
            self._check_name(name, "parallel()")
        if isinstance(prompts, (str, bytes, Mapping)) or not _is_iterable(prompts):
            raise ConfigurationError(
                f"prompts={shown(prompts)}: pass a list or another iterable of prompts; {_FORMS}"
            )
        self._prompts: Iterable[Any] | None = prompts
        self.size: int | None = None  # where it is known
        self.is_list = isinstance(prompts, (list, tuple))  # else its end is not known
        if isinstance(prompts, (list, tuple)):
            self._prompts = given = (*prompts,)
            self.size = len(given)
            for index, prompt in enumerate(given):
                self.ask(index, prompt)
        else:
            self.size = _size(prompts)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """The prompts with their indexes. Once: they are not kept longer than they are needed."""
        prompts, self._prompts = self._prompts, None
        return enumerate(prompts if prompts is not None else ())

    def ask(self, index: int, given: Any) -> Ask:
        """What a prompt asks for. Raises ConfigurationError, which names its index."""
        if isinstance(given, Mapping):
            if "prompt" not in given:
                raise ConfigurationError(
                    f"prompts[{index}] is a dict without 'prompt': {_FORMS} (a list of turns is "
                    "one prompt, so several are a list of lists)"
                )
            own = {name: value for name, value in given.items() if name != "prompt"}
            for name in own:
                self._check_name(name, f"prompts[{index}]")
            return Ask(
                index, given, given["prompt"], {**self._shared, **own} if own else self._shared
            )
        if not isinstance(given, (str, list, tuple)):
            raise ConfigurationError(f"prompts[{index}]={shown(given)}: {_FORMS}")
        return Ask(index, given, given, self._shared)

    def _check_name(self, name: Any, where: str) -> None:
        if name not in self._names:
            raise ConfigurationError(
                f"{where} has the option {shown(name)}, which Client.stream does not have: use "
                f"some of {sorted(self._names)}"
            )


def _is_iterable(prompts: Any) -> bool:
    return isinstance(prompts, Iterable) or hasattr(type(prompts), "__getitem__")


def _size(prompts: Any) -> int | None:
    size: Callable[[Any], Any] | None = getattr(type(prompts), "__len__", None)
    try:
        found = size(prompts) if size is not None else None
    except Exception:  # of the caller's own class
        return None
    return found if isinstance(found, int) else None
