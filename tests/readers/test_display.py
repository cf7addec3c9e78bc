"""`stream.display()`: in IPython's own shell, in this process, whose outputs are looked at; and
where there is no notebook. A real kernel is in test_notebook.py."""

from __future__ import annotations

import io
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from doubles import Script, broken
from shells import Notebook
from support import AT_ONCE, PATIENCE, TWO_TOKENS, bounded, eventually, output_of

from llmstream import (
    AuthenticationError,
    Cancelled,
    Chunk,
    Client,
    ConfigurationError,
    Result,
    StreamInterrupted,
    StreamTruncated,
)
from llmstream.readers.display import paint
from llmstream.testing import Answer, Cut, LLMServer, Reply, Silence

# ---- a notebook ----------------------------------------------------------------------------------


def test_an_answer_is_painted(notebook: Notebook, server: LLMServer, client: Client) -> None:
    """Live Markdown in one output of the cell; the result is returned, and as the value of the
    cell's last line it is not shown once more."""
    stream = client.stream("Hi")
    result = notebook.run("result = stream.display()\nresult", stream=stream)
    assert result == stream.result()
    (shown,) = notebook.shown
    assert re.fullmatch(r"Hello, world!\n\n\*test-model · 34 tokens · \d+\.\d s\*", shown)
    (data,) = notebook.outputs.values()
    assert data["text/plain"] == "Hello, world!"
    assert notebook.run("result") is result  # in the next cell it is
    assert notebook.shown[1:] == ["Hello, world!"]
    assert len(server.requests) == 1


def test_several_in_one_cell(notebook: Notebook, client: Client) -> None:
    """Nothing of a cell is left in the shell."""
    formatter = notebook.shell.display_formatter.ipython_display_formatter
    before = dict(formatter.type_printers)
    notebook.run(
        "a = client.stream('Hi').display()\nb = client.stream('Hi').display()\na", client=client
    )
    assert len(notebook.shown) == 2
    assert formatter.type_printers == before
    assert notebook.shell.events.callbacks["post_run_cell"] == []


def test_another_way_to_show_results_is_kept(notebook: Notebook, client: Client) -> None:
    seen: list[Result] = []
    formatter = notebook.shell.display_formatter.ipython_display_formatter
    formatter.for_type(Result, seen.append)
    notebook.run("a = client.stream('Hi').display()\na", client=client)
    assert seen == []
    notebook.run("a")
    assert [one.text for one in seen] == ["Hello, world!"]


def test_thinking_is_folded(notebook: Notebook, server: LLMServer, client: Client) -> None:
    """It has an output of its own, above that of the text. `thinking=False` leaves it out."""
    server.default = Answer("Four", thinking="2 + 2 </details><script>")
    stream = client.stream("2 + 2?")
    notebook.run("stream.display(progress=False)", stream=stream)
    assert notebook.shown == [
        "<details><summary>Thinking</summary>\n\n2 + 2 &lt;/details>&lt;script>\n\n</details>",
        "Four",
    ]
    notebook.run("client.stream('x').display(thinking=False, progress=False)", client=client)
    assert notebook.shown[2:] == ["Four"]


def test_it_is_painted_while_it_arrives(notebook: Notebook) -> None:
    """What has arrived is painted before the rest comes: the first piece at once, the others at
    their interval. A line says how far it is, also while nothing comes."""
    steps = {
        0: lambda: eventually(lambda: notebook.painted, "a first look"),
        2: lambda: eventually(lambda: "one two" in notebook.painted[-1], "two words"),
        3: lambda: eventually(lambda: "one two three" in notebook.painted[-1], "three words"),
    }
    script = painted_script(["one ", "two ", "three "], lambda n: steps.get(n, lambda: None)())
    result = in_shell(notebook, script, interval=0.01)
    assert result.text == "one two three "
    assert re.fullmatch(r"\*waiting · \d+ s\*", notebook.painted[0])
    line = re.compile(r"one two \n\n\*8 characters · \d+ s\*")
    assert any(map(line.fullmatch, notebook.painted))


def test_with_each_piece(notebook: Notebook) -> None:
    """`interval=0`: every piece is painted, as soon as it is there."""
    pieces = [f"{number} " for number in range(20)]
    wanted = ["".join(pieces[: number + 1]) for number in range(20)]

    def before(number: int) -> None:
        if number:
            eventually(lambda: wanted[number - 1] in notebook.painted, f"piece {number}")

    result = in_shell(notebook, painted_script(pieces, before), interval=0, progress=False)
    assert notebook.painted == wanted
    assert result.text == wanted[-1]


def test_a_long_answer_is_painted_less_often(notebook: Notebook) -> None:
    """A notebook renders all of it each time. (Painted with each of 500 pieces of 1,000
    characters it would have rendered 125 million.)"""
    pieces = ["word " * 200] * 500
    in_shell(notebook, painted_script(pieces), interval=0.01)
    assert sum(map(len, notebook.painted)) < 20_000_000
    assert notebook.shown[-1].startswith("word " * 100_000)


@pytest.mark.slow
def test_an_error_stands_in_its_place(
    notebook: Notebook, server: LLMServer, client: Client
) -> None:
    """The text that had arrived, and a sentence that says nothing of the service; the error itself
    is raised."""
    server.script(Reply([*TWO_TOKENS, Cut()]), Reply.error(401, message="wrong key sk-1234"))
    stream = client.stream("Count")
    with pytest.raises(StreamInterrupted) as caught:
        notebook.run("stream.display()", stream=stream)
    assert caught.value.partial.text == "one two"
    sentence = "**StreamInterrupted:** The answer was cut off before its end. Please try again."
    assert notebook.shown == [f"one two\n\n{sentence}"]
    with pytest.raises(AuthenticationError):
        notebook.run("client.stream('x').display()", client=client)
    shown = notebook.shown[-1]
    assert shown == "**AuthenticationError:** The answer is not available at the moment."


def test_tool_calls_and_ends(notebook: Notebook, server: LLMServer, client: Client) -> None:
    server.script(
        Answer(tool_calls=[("find", '{"a":1}')]),
        Answer("one two", finish="length"),
        Answer(refusal="No."),
    )
    for _ in range(3):
        notebook.run("client.stream('x').display(progress=False)", client=client)
    assert notebook.shown == [
        "Tool call: <code>find</code> <code>&#123;&#34;a&#34;&#58;1&#125;</code>",
        "one two\n\n*The answer was cut at the limit of its tokens.*",
        "No.",
    ]


def test_a_stream_that_begins_anew(
    notebook: Notebook, server: LLMServer, client_for: Callable[..., Client]
) -> None:
    """What is painted starts over with the text."""
    client = client_for(server, retry=AT_ONCE, on_disconnect="restart")
    server.script(Reply([*TWO_TOKENS, Cut()]), Answer("one two three"))
    notebook.run("client.stream('Count').display(progress=False)", client=client)
    assert notebook.shown == ["one two three"]


def test_a_stream_that_has_ended(notebook: Notebook, server: LLMServer, client: Client) -> None:
    """It is shown as it is; one that has failed raises its error again."""
    stream = client.stream("Hi")
    whole = stream.result()
    assert notebook.run("result = stream.display()", stream=stream) == whole
    assert notebook.shown[0].startswith("Hello, world!\n\n*test-model · 34 tokens · ")
    server.script(Reply([*TWO_TOKENS, Cut(last_chunk=True)]))
    cut = client.stream("Count")
    with pytest.raises(StreamTruncated):
        cut.result()
    with pytest.raises(StreamTruncated):
        notebook.run("cut.display()", cut=cut)
    assert notebook.shown[1].startswith("one two\n\n**StreamTruncated:** ")


def test_a_stream_that_is_being_read(notebook: Notebook, client: Client) -> None:
    """An error of the caller's program: nothing is painted, and the other reader goes on."""
    stream = client.stream("Hi")
    assert next(stream) == "Hello,"
    with pytest.raises(ConfigurationError, match="one reader"):
        notebook.run("stream.display()", stream=stream)
    assert notebook.shown == []
    assert "".join(stream) == " world!"


def test_a_cancel_from_elsewhere(notebook: Notebook, server: LLMServer, client: Client) -> None:
    server.default = Reply([*TWO_TOKENS, Silence()])
    stream = client.stream("Count")

    def cancel() -> None:
        eventually(lambda: "one two" in "".join(notebook.painted), "two words")
        stream.cancel("enough")

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(Cancelled, match="enough"):
        notebook.run("stream.display()", stream=stream)
    thread.join()
    assert notebook.shown == ["one two\n\n**Cancelled:** The answer was stopped."]


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_interrupts_the_painting(notebook: Notebook, error: type[BaseException]) -> None:
    """It ends the stream; what had arrived stays, and is painted if that is possible."""
    script = painted_script(["one ", "two "])
    script.before = lambda number: number < 2 or script.cancelled.wait(PATIENCE)
    publish, count = notebook.publish, 0

    def failing(*args: Any, **more: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise error("from the painting")
        publish(*args, **more)

    notebook.publish = failing  # type: ignore[method-assign]
    with pytest.raises(error):
        in_shell(notebook, script, interval=0)
    assert script.cancelled.is_set()
    assert "Interrupted" in notebook.shown[-1] or "ValueError" in notebook.shown[-1]
    before = list(notebook.painted)
    assert notebook.run("1", result=None) is None
    assert notebook.painted[: len(before)] == before


def painted_script(items: list[Any], before: Callable[[int], object] = lambda _: None) -> Any:
    return _Painted(items, before=before)


class _Painted(Script):
    """A stream of tests with what a screen reads of it."""

    thinking, ended, attempts = "", False, ()

    class state:  # noqa: N801 - an attribute
        refusal, primary = "", None


def in_shell(notebook: Notebook, script: Any, **options: Any) -> Any:
    notebook.shell.user_ns["display_of"] = lambda: paint(script, **options)
    return notebook.run("result = display_of()")


# ---- no notebook ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"interval": -1},
        {"interval": "0.1"},
        {"interval": float("nan")},
        {"interval": None},
        {"thinking": 1},
        {"progress": "yes"},
    ],
)
def test_arguments_that_cannot_work(
    options: dict[str, Any], server: LLMServer, client: Client
) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        client.stream("Hi").display(**options)
    assert not server.requests


def test_elsewhere_it_is_printed(
    server: LLMServer, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text, and nothing else; a program that has imported IPython is no notebook."""
    server.default = Answer("The sky\n**is** <b>blue</b>", thinking="hm")
    stream = client.stream("Hi")
    assert stream.display() == stream.result()
    assert capsys.readouterr() == ("The sky\n**is** <b>blue</b>\n", "")
    assert stream.display() == stream.result()  # once more
    assert capsys.readouterr() == ("The sky\n**is** <b>blue</b>\n", "")


def test_a_refusal_is_printed(
    server: LLMServer, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """As text: while it arrives, of a stream that has ended, and before an error."""
    server.default = Answer(refusal=["I ", "can't."])
    assert client.stream("Hi").display().refusal == "I can't."
    stream = client.stream("Hi")
    stream.result()
    stream.display()
    assert capsys.readouterr().out == "I can't.\nI can't.\n"
    server.script(Reply([*Answer(refusal=["I ", "can't."]).blocks()[:6], Cut()]))
    with pytest.raises(StreamInterrupted):
        client.stream("Hi").display()
    assert capsys.readouterr().out == "I can't.\n"


def test_it_is_printed_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    script = painted_script(
        ["one ", "two "], lambda n: eventually(lambda: out.getvalue() == "one two "[: 4 * n], "it")
    )
    assert paint(script).text == "one two "
    assert out.getvalue() == "one two \n"


def test_an_error_elsewhere(
    server: LLMServer, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line is ended; the error is raised, and whoever catches it prints it."""
    server.script(Reply([*TWO_TOKENS, Cut()]))
    stream = client.stream("Count")
    with pytest.raises(StreamInterrupted):
        stream.display()
    assert capsys.readouterr() == ("one two\n", "")
    with pytest.raises(StreamInterrupted):
        stream.display()
    assert capsys.readouterr() == ("one two\n", "")


def test_a_text_that_begins_anew_elsewhere(
    server: LLMServer, client_for: Callable[..., Client], capsys: pytest.CaptureFixture[str]
) -> None:
    client = client_for(server, retry=AT_ONCE, on_disconnect="restart")
    server.script(Reply([*TWO_TOKENS, Cut()]), Answer("one two three"))
    assert client.stream("Count").display().text == "one two three"
    assert capsys.readouterr().out == "one two\n[the answer begins anew]\none two three\n"


def test_a_terminal_gets_no_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    paint(painted_script(["a\x1b[2Jb"]))
    assert sys.stdout.getvalue() == "a\\x1b[2Jb\n"  # type: ignore[attr-defined]


def test_in_a_thread(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert bounded(client.stream("Hi"), lambda s: s.display().text).value == "Hello, world!"
    assert capsys.readouterr().out == "Hello, world!\n"


def test_a_text_is_that_of_the_answer(notebook: Notebook) -> None:
    """Of thinking and calls only the text is printed; in a notebook with no text, nothing is."""
    script = painted_script([Chunk("tool_call", "{}")], lambda _: None)
    in_shell(notebook, script, progress=False)
    assert notebook.shown == []
    failing = _Painted([], broken())
    with pytest.raises(type(broken())):
        in_shell(notebook, failing)
    assert notebook.shown[-1].startswith("**LLMStreamError:** The answer failed")


@pytest.mark.slow
def test_ipython_of_a_terminal_prints(server: LLMServer) -> None:
    """Its shell shows no Markdown, and updates nothing."""
    pytest.importorskip("IPython")
    code = f"""
        from IPython.terminal.interactiveshell import TerminalInteractiveShell
        from traitlets.config import Config
        config = Config({{"HistoryManager": {{"enabled": False}}}})
        shell = TerminalInteractiveShell.instance(config=config)
        shell.run_cell('''from llmstream import Client
        client = Client("responses", base_url={server.base_url!r}, api_key="test-key")
        print(client.stream("Hi").display().text == "Hello, world!")''')
    """
    assert output_of(code).splitlines()[-2:] == ["Hello, world!", "True"]
