"""Thinking that a model has written into its text, between <think> and </think>. Pure.

Servers of local models return it so where they have no parser for the model, or are told to use
none. The rules are those of the parsers of Ollama, llama.cpp and vLLM: only the beginning of an
answer is thinking, and white space around the tags belongs to nobody.
"""

from __future__ import annotations

__all__ = ["ThinkTags"]

_OPEN, _CLOSE = "<think>", "</think>"
_BEGIN, _THINKING, _AFTER, _TEXT = range(4)


class ThinkTags:
    """Splits the text of one answer as it arrives, however that is cut.

    `<think>` counts where nothing but white space is before it; later it is text, as is a
    `</think>` that has no `<think>`. What is not closed is thinking to its end. `opened`: the
    answer begins inside of the thinking, because the model's template has the first tag in the
    prompt (DeepSeek-R1, QwQ, Qwen3-Thinking): without a `</think>` all of it is thinking. Not
    thread-safe.
    """

    __slots__ = ("_held", "_stage", "_tagless")

    def __init__(self, *, opened: bool = False) -> None:
        self._stage = _BEGIN
        self._tagless = opened  # thinking may begin without a tag
        # What may be a part of a tag, or white space beside one, which may be long: in pieces.
        self._held: list[str] = []

    def feed(self, piece: str) -> list[tuple[str, str]]:
        """The pieces that are certain now, each with its kind, "thinking" or "text"."""
        if self._stage == _TEXT:
            return [("text", piece)] if piece else []
        if not piece.strip():
            if piece:
                self._held.append(piece)
            return []
        found: list[tuple[str, str]] = []
        text = "".join([*self._held, piece])
        self._held = []
        if self._stage == _BEGIN:
            text = self._begin(text, found)
        if self._stage == _THINKING:
            text = self._think(text, found)
        if self._stage == _AFTER and (text := text.lstrip()):
            self._stage = _TEXT
            found.append(("text", text))
        return found

    def close(self) -> list[tuple[str, str]]:
        """Nothing more arrives: what was held back. What still arrives nevertheless is text."""
        stage, held = self._stage, "".join(self._held)
        self._stage, self._held = _TEXT, []
        thinking = stage == _THINKING or (stage == _BEGIN and self._tagless)
        if stage == _AFTER or (thinking and self._tagless):
            held = held.lstrip()
        return [("thinking" if thinking else "text", held)] if held else []

    def _begin(self, text: str, found: list[tuple[str, str]]) -> str:
        start = text.lstrip()
        if start.startswith(_OPEN):
            self._stage = _THINKING
            self._tagless = True  # white space follows the tag
            return start[len(_OPEN) :]
        if _OPEN.startswith(start):  # all of it white space, too
            self._held = [text]
        elif self._tagless:
            self._stage = _THINKING
            return start
        else:
            self._stage = _TEXT
            found.append(("text", text))
        return ""

    def _think(self, text: str, found: list[tuple[str, str]]) -> str:
        if self._tagless:  # nothing of the thinking has arrived
            text = text.lstrip()
            self._tagless = not text
        thought, tag, rest = text.partition(_CLOSE)
        if tag:
            thought = thought.rstrip()
            self._stage = _AFTER
        else:
            kept = len(thought[: len(thought) - _part_of_tag(thought)].rstrip())
            thought, self._held = thought[:kept], [thought[kept:]]
        if thought:
            found.append(("thinking", thought))
        return rest


def _part_of_tag(text: str) -> int:
    """How many characters at the end of the text may be the beginning of the closing tag."""
    at = text.rfind("<", max(0, len(text) - len(_CLOSE) + 1))
    return len(text) - at if at >= 0 and _CLOSE.startswith(text[at:]) else 0
