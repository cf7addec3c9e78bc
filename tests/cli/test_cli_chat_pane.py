"""`llmstream chat` on a real terminal (tmux)."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from panes import Pane, require_tmux
from support import eventually

from llmstream.testing import Answer, LLMServer, Pause, Reply, Silence

pytestmark = pytest.mark.slow

WITHIN = 45.0  # seconds, on a busy machine; nothing here takes five
HANGS = Reply([*Answer("Hello brave new world").blocks()[:6], Silence()])  # "Hello brave"


@contextmanager
def chat(server: LLMServer, folder: Path, *arguments: str, **more: str) -> Iterator[Pane]:
    """A chat in a pane; its state directory is in `folder`."""
    require_tmux()
    folder.mkdir(exist_ok=True)
    kept = {k: "" for k in os.environ if k.startswith(("LLMSTREAM", "OPENAI", "ANTHROPIC"))}
    environment = {**kept, "XDG_STATE_HOME": str(folder), "LC_ALL": "C.UTF-8", **more}
    command = [sys.executable, "-m", "llmstream", "chat", "--base-url", server.base_url]
    command = ["env", *(f"-u{name}" for name in kept), *command, "--model", "m", *arguments]
    script = f"trap : INT; \"$@\"; echo $? >'{folder / 'code'}'"
    command = ["sh", "-c", script, "sh", *command]
    with Pane(folder, command, environment=environment) as pane:
        wait_for_prompt(pane)
        yield pane


def wait_for_prompt(pane: Pane, count: int = 0) -> None:
    """Until the last row is an empty prompt, and `count` rows are prompts (0: any number)."""

    def is_there() -> bool:
        rows = pane.rows
        return bool(rows) and rows[-1] == ">" and rows.count(">") >= count

    eventually(is_there, f"the prompt, in {pane.rows}", WITHIN)


def say(pane: Pane, line: str) -> None:
    pane.write(line)
    pane.type("Enter")


def shows(pane: Pane, text: str) -> None:
    eventually(lambda: any(text in row for row in pane.rows), f"{text!r}: {pane.rows}", WITHIN)


def ended(folder: Path) -> str:
    """The exit code. Not tmux's own, which sometimes misses the end of a child (3.3a)."""
    file = folder / "code"
    return str(eventually(lambda: file.exists() and file.read_text("utf-8").strip(), "end", WITHIN))


def asked(server: LLMServer, number: int) -> list[Any]:
    prompt: list[Any] = server.requests[number].json()["input"]
    return prompt


def test_two_turns_a_stop_a_retry_a_save_and_the_end(llm_server: LLMServer, tmp_path: Path) -> None:
    """Ctrl-C in the second turn keeps its text and the program; `/retry` replaces it; the history
    and the saved file have what was typed and answered, for their owner alone."""
    llm_server.script(Answer("It is *blue*."), HANGS, Answer("Done now"))
    saved = tmp_path / "saved.json"
    with chat(llm_server, tmp_path / "state") as pane:
        say(pane, "Why is the sky blue?")
        shows(pane, "It is blue.")
        wait_for_prompt(pane)
        say(pane, "And the sea?")
        shows(pane, "Hello brave")
        pane.type("C-c")
        shows(pane, "stays in the conversation")
        wait_for_prompt(pane)
        say(pane, "/retry")
        shows(pane, "Done now")
        wait_for_prompt(pane)
        say(pane, f"/save {saved}")
        shows(pane, "(saved:")
        wait_for_prompt(pane)
        say(pane, "/exit")
        assert ended(tmp_path / "state") == "0"
        shows(pane, "tokens out")
        assert "Traceback" not in "\n".join(pane.rows)
    sky, sea = (
        {"role": "user", "content": text} for text in ("Why is the sky blue?", "And the sea?")
    )
    assert [asked(llm_server, n)[-1] for n in (0, 1, 2)] == [sky, sea, sea]
    assert asked(llm_server, 1) == asked(llm_server, 2)  # the stopped answer is not sent
    assert [turn.get("role") for turn in asked(llm_server, 2)] == ["user", "assistant", "user"]
    document = json.loads(saved.read_text("utf-8"))
    assert [one["text"] for one in document["exchanges"]] == ["It is *blue*.", "Done now"]
    history = tmp_path / "state" / "llmstream" / "chat_history"
    typed = ["Why is the sky blue?", "And the sea?", "/retry", f"/save {saved}", "/exit"]
    assert history.read_text("utf-8").splitlines() == typed
    for path in (saved, history):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_stopped_is_sent_as_text(llm_server: LLMServer, tmp_path: Path) -> None:
    """`/stop` and Enter stop an answer as well; the next question follows what stood there, and a
    line that is typed during an answer is read after it."""
    llm_server.script(HANGS, Answer("Go on"))
    with chat(llm_server, tmp_path / "state", "--no-history") as pane:
        say(pane, "one")
        shows(pane, "Hello brave")
        say(pane, "two")
        say(pane, "/stop")
        shows(pane, "Go on")
        wait_for_prompt(pane)
        pane.type("C-d")
        assert ended(tmp_path / "state") == "0"
    assert asked(llm_server, 1) == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "Hello brave"},
        {"role": "user", "content": "two"},
    ]
    assert not (tmp_path / "state" / "llmstream").exists()


def test_a_paste_during_an_answer(llm_server: LLMServer, tmp_path: Path) -> None:
    """It is one message with all its letters, and none of its lines is a command."""
    text = "first\n/exit\n" + "x" * 9000 + "\n@/etc/passwd"
    llm_server.script(HANGS, Answer("alpha"), Answer("beta"))
    with chat(llm_server, tmp_path / "state") as pane:
        say(pane, "one")
        shows(pane, "Hello brave")
        pane.paste(text)
        pane.type("Enter")
        pane.paste("/exit")
        pane.type("Enter")
        say(pane, "/stop")
        shows(pane, "beta")
        wait_for_prompt(pane)
        pane.type("C-d")
        assert ended(tmp_path / "state") == "0"
    assert [asked(llm_server, n)[-1]["content"] for n in (1, 2)] == [text, "/exit"]


def test_what_is_not_finished_when_an_answer_ends(llm_server: LLMServer, tmp_path: Path) -> None:
    """It stands in the next line, and can be edited there; a paste as well."""
    blocks = Answer("Hello brave new world").blocks()
    slow = Reply([*blocks[:6], Pause(1.5), *blocks[6:]])
    llm_server.script(slow, Answer("alpha"))
    with chat(llm_server, tmp_path / "state") as pane:
        say(pane, "one")
        shows(pane, "Hello brave")
        pane.write("halg")
        pane.type("BSpace")
        pane.paste("f\nof it")
        shows(pane, "new world")
        shows(pane, "of it")
        pane.write("!")
        pane.type("Enter")
        shows(pane, "alpha")
        wait_for_prompt(pane)
        pane.type("C-d")
        assert ended(tmp_path / "state") == "0"
    assert asked(llm_server, 1)[-1]["content"] == "half\nof it!"


def test_an_interrupt_at_the_prompt(llm_server: LLMServer, tmp_path: Path) -> None:
    """It clears the line; two of them leave; text in between does not."""
    with chat(llm_server, tmp_path / "state") as pane:
        pane.write("never sent")
        shows(pane, "never sent")  # the terminal drops at Ctrl-C what nobody has read
        pane.type("C-c")
        shows(pane, "Ctrl-C again")
        wait_for_prompt(pane)
        pane.write("nor this")
        shows(pane, "nor this")
        pane.type("C-c")
        eventually(lambda: sum("Ctrl-C again" in row for row in pane.rows) == 2, "cleared", WITHIN)
        wait_for_prompt(pane)
        pane.type("C-c")
        assert ended(tmp_path / "state") == "0"
    assert len(llm_server.requests) == 0


def test_several_lines(llm_server: LLMServer, tmp_path: Path) -> None:
    """A paste of several lines is one message, and so is what is typed with a backslash or as a
    block; the history gives it back whole."""
    llm_server.script(*[Answer(word) for word in ("alpha", "beta", "gamma", "delta")])
    with chat(llm_server, tmp_path / "state") as pane:
        paste = "\x1b[200~@a line\n/two\x1b[201~"
        pane.write(paste)
        pane.type("Enter")
        shows(pane, "alpha")
        wait_for_prompt(pane)
        say(pane, "first\\")
        say(pane, "second")
        shows(pane, "beta")
        wait_for_prompt(pane)
        for line in ('"""', "@in a block", 'end"""'):
            say(pane, line)
        shows(pane, "gamma")
        wait_for_prompt(pane)
        pane.type("Up", "Up")
        pane.type("Enter")
        shows(pane, "delta")
        wait_for_prompt(pane)
        pane.type("C-d")
        assert ended(tmp_path / "state") == "0"
    texts = [asked(llm_server, n)[-1]["content"] for n in range(4)]
    assert texts == ["@a line\n/two", "first\nsecond", "@in a block\nend", "first\nsecond"]


def test_edit_in_an_editor(llm_server: LLMServer, tmp_path: Path) -> None:
    """`/edit` opens the latest question in EDITOR, and asks what it leaves."""
    llm_server.script(Answer("alpha"), Answer("beta"))
    with chat(llm_server, tmp_path / "state", EDITOR="sed -i s/sky/sea/") as pane:
        say(pane, "the sky")
        shows(pane, "alpha")
        wait_for_prompt(pane)
        say(pane, "/edit")
        shows(pane, "beta")
        wait_for_prompt(pane)
        pane.type("C-d")
        assert ended(tmp_path / "state") == "0"
    assert asked(llm_server, 1) == [{"role": "user", "content": "the sea"}]
