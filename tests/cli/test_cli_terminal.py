"""The command on a real terminal (tmux): what its user sees, also after Ctrl-C. And the picture of
it in the README.

    LLMSTREAM_PICTURES=1 pytest -m slow tests/cli/test_cli_terminal.py     # takes it anew
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from panes import Pane, require_tmux
from rich.console import Console
from rich.text import Text
from support import eventually

from llmstream.testing import Answer, LLMServer, Reply, Silence

pytestmark = pytest.mark.slow

PICTURE = Path(__file__).parents[2] / "llmstream" / "cli" / "pictures" / "terminal.svg"
WIDTH, HEIGHT = 76, 30
SKY = """\
Air scatters **blue** light more than red (*Rayleigh scattering*):

| colour | wavelength | scattered |
|:-------|-----------:|----------:|
| blue   |     450 nm |       4.4 |
| red    |     650 nm |         1 |

1. Sunlight has **all** colours.
2. Molecules of air are much smaller than its waves.
3. So the share that they scatter goes with `1 / wavelength ** 4`:

```python
def scattered(nm: float) -> float:
    return (650 / nm) ** 4  # red is 1
```

> At sunset the way through the air is long, and the blue is gone.
"""


@pytest.fixture
def shell(tmp_path: Path, llm_server: LLMServer) -> Iterator[Pane]:
    """A shell in a terminal, whose `llmstream` talks to the scripted server."""
    require_tmux()
    command = tmp_path / "bin" / "llmstream"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m llmstream "$@"\n', "utf-8")
    command.chmod(0o755)
    given = {
        "PATH": f"{command.parent}:/usr/bin:/bin",
        "PS1": "$ ",
        "LLMSTREAM_BASE_URL": llm_server.base_url,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "COLORTERM": "",
    }
    with Pane(tmp_path, ["/bin/sh", "-i"], WIDTH, HEIGHT, given) as pane:
        eventually(lambda: pane.rows == ["$"], "the shell")
        yield pane


def test_the_picture_of_the_terminal(shell: Pane, llm_server: LLMServer) -> None:
    """It is what a terminal shows, as text with its styles."""
    llm_server.script(Answer(SKY))
    shell.write('llmstream "Why is the sky blue?"')
    shell.type("Enter")
    eventually(lambda: shell.rows[-1] == "$" and len(shell.rows) > 5, "the end of the answer")
    shown = Text.from_ansi(shell.colored.rstrip())
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(shown, no_wrap=True)
    svg = console.export_svg(title="llmstream", unique_id="terminal")
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # a picture fetches nothing
    assert "Rayleigh scattering" in "".join(shell.rows)
    assert "**" not in "".join(shell.rows).replace("** 4", "")
    if os.environ.get("LLMSTREAM_PICTURES"):
        PICTURE.parent.mkdir(exist_ok=True)
        PICTURE.write_text(svg, "utf-8")
    assert words_of(PICTURE.read_text("utf-8")) == words_of(svg)


def words_of(svg: str) -> list[str]:
    """The texts of a picture; the rest depends on the version of rich."""
    return re.findall(r"<text [^>]*>([^<]*)</text>", svg)


def test_an_interrupt_leaves_the_text_and_a_clean_terminal(
    shell: Pane, llm_server: LLMServer
) -> None:
    """Ctrl-C in mid-answer: what has arrived is there once, the cursor is shown, the shell goes
    on, and the exit code is that of an interrupt."""
    blocks = Answer(f"{SKY}\nThe **last** words").blocks()
    llm_server.script(Reply([*blocks[:-4], Silence()]), Answer("Again."))
    shell.write('llmstream "Why?"; echo "code $?"')
    shell.type("Enter")
    eventually(lambda: "the blue is gone." in "".join(shell.rows), "most of the answer")
    shell.type("C-c")
    eventually(lambda: shell.rows[-1] == "$" and shell.rows[-2] == "code 130", "the shell")
    rows = shell.rows
    assert "".join(rows).count("Molecules of air") == 1
    assert "".join(rows).count("is gone.") == 1
    assert (shell.ask("cursor_flag"), shell.ask("wrap_flag")) == ("1", "1")
    shell.write('llmstream "Again?"')
    shell.type("Enter")
    eventually(lambda: shell.rows[-2:] == ["Again.", "$"], "the next answer")
    assert shell.rows[: len(rows) - 1] == rows[:-1]


@pytest.mark.parametrize("command", ["llmstream Why?", "llmstream chat"])
def test_a_stop_and_its_end(shell: Pane, llm_server: LLMServer, command: str) -> None:
    """Ctrl-Z takes away what is not finished, so that the shell does not write over it; `fg` paints
    it again, the answer is there once, and a chat hides again what is typed ahead."""
    blocks = Answer("All of *this* is one paragraph.").blocks()
    llm_server.script(Reply([*blocks[:-5], Silence()]), Answer("Done."))
    shell.write(command)
    shell.type("Enter")
    is_chat = command.endswith("chat")
    if is_chat:
        eventually(lambda: shell.rows[-1] == ">", "the prompt")
        shell.write("Why?")
        shell.type("Enter")
    eventually(lambda: "is one" in shell.rows[-1], "most of the answer")
    shell.type("C-z")
    eventually(lambda: shell.rows[-1] == "$" and "Stopped" in "".join(shell.rows), "the stop")
    assert "is one" not in "".join(shell.rows)
    shell.write("fg")
    shell.type("Enter")
    eventually(lambda: "is one" in shell.rows[-1], "the answer")
    if is_chat:
        shell.write("typed ahead")
    shell.type("C-c")
    eventually(lambda: shell.rows[-1].rstrip("typed ahead") in ("$", ">"), "the end")  # noqa: B005
    rows = shell.rows
    assert "".join(rows).count("All of this is one") == 1
    assert sum("typed" in row for row in rows) <= 1
    if is_chat:
        shell.type("C-c")
        eventually(lambda: any("Ctrl-C again" in row for row in shell.rows), "an empty line")
        eventually(lambda: shell.rows[-1] == ">", "the prompt")
        shell.type("C-c")
        eventually(lambda: shell.rows[-1] == "$", "the shell")
