"""What is typed while an answer runs: keys of a terminal in, messages out."""

from __future__ import annotations

import pytest
from every import every
from hypothesis import given
from hypothesis import strategies as st

from llmstream.chat import Assembler, Message, TypeAhead, parse

PASTE = "\x1b[200~{}\x1b[201~"
# keys -> messages, and what is not finished
KEYS: dict[str, tuple[str, list[str | None], str]] = {
    "two lines": ("one\ntwo\r", ["one", "two"], ""),
    "an empty line": ("\n", [""], ""),
    "no end yet": ("one\ntw", ["one"], "tw"),
    "a paste": (PASTE.format("a\r/exit\n") + "\n", ["a\n/exit\n"], ""),
    "a paste without an end": (PASTE.format("a\n/exit\n"), [], "a\n/exit\n"),
    "a paste that goes on": ("x\x1b[200~a\nb", [], "xa\nb"),
    "a paste in a line": ("a " + PASTE.format("b") + " c\n", ["a b c"], ""),
    "two pastes": (PASTE.format("a") + PASTE.format("b\nc") + "\n", ["ab\nc"], ""),
    "a paste of escapes": (PASTE.format("\x1b[31m\x03\x7f") + "\n", ["\x1b[31m\x03\x7f"], ""),
    "a pasted command": (PASTE.format("/exit") + "\n", ["/exit\n"], ""),
    "a pasted /stop": (PASTE.format("/stop") + "\n", ["/stop\n"], ""),
    "a pasted file": (PASTE.format("@a.txt") + "\n", ["@a.txt"], ""),
    "a command and a paste": ("/load " + PASTE.format("a.json") + "\n", ["/load a.json"], ""),
    "erased": ("ab\x7f\x08c\n", ["c"], ""),
    "a wide one erased": ("a\u4e2d\U0001f600\x7f\x7f\n", ["a"], ""),
    "more than there is erased": ("\x7f\x7fa\n", ["a"], ""),
    "a word erased": ("one two  \x17x\n", ["one x"], ""),
    "the line erased": ("one two\x15x\n", ["x"], ""),
    "a paste erased": (PASTE.format("/x") + "\x15/help\n", ["/help"], ""),
    "the end": ("\x04", [None], ""),
    "no end within a line": ("a\x04b\n", ["ab"], ""),
    "arrows": ("a\x1b[A\x1b[1;5C\x1bOPb\n", ["ab"], ""),
    "the key Escape": ("\x1b\n", [""], ""),
    "the key Escape before a paste": ("\x1b" + PASTE.format("a") + "\n", ["a"], ""),
    "controls": ("a\x01\x0b\x00b\tc\n", ["ab\tc"], ""),
    "no text": ("\udcff\n", ["\ufffd"], ""),
}


@every("keys", KEYS)
def test_keys(keys: str) -> None:
    """In whatever pieces they arrive."""
    text, messages, unfinished = KEYS[keys]
    data = text.encode("utf-8", "surrogateescape")
    for size in (1, 2, 5, 1000):
        ahead = TypeAhead()
        for at in range(0, len(data), size):
            assert not ahead.feed(data[at : at + size])
        assert [*ahead.lines] == messages
        assert ahead.take_unfinished() == unfinished
        assert ahead.take_unfinished() == ""
        assert not ahead.pasting


@every("keys", ["/stop\n", "x\n /STOP \r", "/sto\x7fop\n", "/stop\n/stop\n", "\x1b[A/stop\n"])
def test_stop(keys: str) -> None:
    """It is no message, and does its work at once."""
    ahead = TypeAhead()
    assert ahead.feed(keys.encode())
    assert "/stop" not in "".join(line or "" for line in ahead.lines)


@pytest.mark.parametrize("text", ["/exit", "/exit\n/exit", "one\n/exit", "@a\n@b"])
def test_no_command_of_a_paste_runs(text: str) -> None:
    """It is a message to the model, as it was pasted."""
    ahead = TypeAhead()
    ahead.feed(PASTE.format(text).encode() + b"\n")
    (line,) = ahead.lines
    message = Assembler().feed(line or "")
    assert message == Message(((text, False),))
    assert parse(message) is message


@given(st.lists(st.sampled_from([b"a", b"\xe4", b"\x1b", b"[", b"200~", b"201~", b"\n", b"\x7f"])))
def test_no_keys_raise(keys: list[bytes]) -> None:
    """Whatever a terminal sends, it ends."""
    ahead = TypeAhead()
    for key in keys:
        ahead.feed(key)
    ahead.take_unfinished()
    assert not ahead.feed(b"\x15ok\n")
    assert ahead.lines[-1] == "ok"
