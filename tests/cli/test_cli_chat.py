"""`llmstream chat` without a terminal: lines of a pipe, as a script."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_cli import run

from llmstream import Client
from llmstream.chat import Conversation, Origin, decode, encode
from llmstream.cli import chat_files
from llmstream.cli.chat_answer import Interrupts
from llmstream.cli.chat_input import History, TerminalLines
from llmstream.cli.chat_session import Chat
from llmstream.testing import Answer, Cut, LLMServer, Reply

REFUSED = Reply.error(401, message="no")


def chat(
    server: LLMServer, *lines: str, api: str = "responses", options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    base = server.base_url_for(api)
    stdin = "".join(f"{line}\n" for line in lines)
    return run("chat", "--api", api, "--base-url", base, "--model", "m", *options, stdin=stdin)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("api", "field"),
    [
        ("responses", "input"),
        ("messages", "messages"),
        ("chat", "messages"),
        ("gemini", "contents"),
    ],
)
def test_a_script(llm_server: LLMServer, tmp_path: Path, api: str, field: str) -> None:
    """On any API: stdout has the answers alone; a failed one is a sentence, and /retry asks again;
    the file is read back, and its turns are sent in the API's own form."""
    saved = tmp_path / "saved.json"
    llm_server.script(Answer("one", thinking="hm"), REFUSED, Answer("two"), Answer("three"))
    done = chat(llm_server, "first", "second", "/retry", f"/save {saved}", "/tokens", api=api)
    assert (done.returncode, done.stdout) == (0, "one\ntwo\n")
    assert done.stderr.count("AuthenticationError") == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.endswith("2 answers, 24 tokens in, 68 tokens out\n")
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600 or os.name == "nt"
    conversation, model = decode(saved.read_bytes(), "f")
    assert (model, len(conversation.exchanges)) == ("m", 2)
    done = chat(llm_server, "third", api=api, options=("--load", str(saved)))
    assert (done.returncode, done.stdout) == (0, "three\n")
    prompt: list[Any] = llm_server.requests[3].json()[field]
    before: list[Any] = llm_server.requests[1].json()[field]
    assert prompt[: len(before)] == before
    words = {"parts": [{"text": "third"}]} if api == "gemini" else {"content": "third"}
    assert prompt[-1] == {"role": "user", **words}


@pytest.mark.slow
def test_a_cut_answer_is_kept_as_text(llm_server: LLMServer) -> None:
    """Every API takes it, and the exit code is that of the latest answer."""
    begun = Reply([*Answer("Hello brave new world").blocks()[:6], Cut()])
    llm_server.script(begun, Answer("ok"), begun)
    done = chat(llm_server, "one", "two")
    assert (done.returncode, done.stdout) == (0, "Hello brave\nok\n")
    assert "stays in the conversation" in done.stderr
    kept = llm_server.requests[1].json()["input"][1]
    assert kept == {"role": "assistant", "content": "Hello brave"}
    assert chat(llm_server, "three").returncode == 16


@pytest.mark.slow
def test_attachments(llm_server: LLMServer, tmp_path: Path) -> None:
    """A text and an image are sent, and stderr says so; what cannot be read sends nothing."""
    (tmp_path / "a b.txt").write_text("inside\n", "utf-8")
    (tmp_path / "i.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    llm_server.script(Answer("ok"))
    text, image = tmp_path / "a b.txt", tmp_path / "i.png"
    done = chat(llm_server, f'look at @"{text}" and @{image}.')
    assert done.returncode == 0
    assert done.stderr.count("(attached: ") == 2
    image_part, text_part = llm_server.requests[0].json()["input"][0]["content"]
    assert image_part["type"] == "input_image"
    assert "\ninside\n" in text_part["text"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        done = chat(llm_server, f"@{tmp_path / 'fifo'}", f"@{tmp_path}", f"@{tmp_path}/none")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 3
    assert len(llm_server.requests) == 1


@pytest.mark.slow
def test_system_model_edit_and_mistakes(llm_server: LLMServer, tmp_path: Path) -> None:
    """Each is heard by the next request; each mistake is one sentence."""
    taken = tmp_path / "notes.txt"
    taken.write_text("mine", "utf-8")
    llm_server.script(Answer("a"), Answer("b"))
    lines = ["/system be brief", "/model m2", "one", "/edit two", f"/save {taken}", "/load none"]
    done = chat(llm_server, *lines, "/nonsense", "/stop", "/help", "/quit", "never")
    bodies = [request.json() for request in llm_server.requests]
    assert [(body["model"], body["instructions"]) for body in bodies] == [("m2", "be brief")] * 2
    assert bodies[1]["input"] == [{"role": "user", "content": "two"}]
    assert done.stderr.count("llmstream: ") == 3
    assert taken.read_text("utf-8") == "mine"


def saved_file(path: Path, model: str, *origins: Origin, system: str | None = None) -> str:
    """A conversation with an answer of each of these, that goes on with `model`."""
    conversation = Conversation(system)
    for origin in origins:
        conversation.ask("q")
        conversation.answer("a", (), origin)
    path.write_bytes(encode(conversation, model))
    return str(path)


@pytest.mark.slow
def test_the_model_of_a_loaded_file(llm_server: LLMServer, tmp_path: Path) -> None:
    """It counts for a file without answers too, and where it was chosen after the last answer; not
    where another service has it, whose answers are sent as text."""
    service = ["--base-url", llm_server.base_url]
    for origins, model in (
        ((), "m2"),
        ((Origin("responses", "127.0.0.1", "m"),), "m2"),
        ((Origin("responses", "there", "m2"),), "m"),
    ):
        path = saved_file(tmp_path / "c.json", "m2", *origins)
        for options, lines in (((), f"/load {path}\nhi\n"), (("--load", path), "hi\n")):
            done = run("chat", *service, *options, stdin=lines, env={"LLMSTREAM_MODEL": "m"})
            assert done.returncode == 0
            assert llm_server.requests[-1].json()["model"] == model, (origins, options)
            if origins:
                assert f"(it was with {origins[0].model}; {model} is sent its text)" in done.stderr
            else:
                assert "(model: m2)" in done.stderr


@pytest.mark.slow
def test_what_the_command_line_says_counts_more_than_a_file(
    llm_server: LLMServer, tmp_path: Path
) -> None:
    """--model and --instructions, for --load and for /load."""
    theirs = Origin("responses", "127.0.0.1", "m2")
    path = saved_file(tmp_path / "c.json", "m2", theirs, system="theirs")
    for options, lines in (
        (("--load", path), ["hi"]),
        ((), [f"/load {path}", "hi"]),
    ):
        done = chat(llm_server, *lines, options=("--instructions", "mine", *options))
        assert done.returncode == 0
        body = llm_server.requests[-1].json()
        assert (body["model"], body["instructions"]) == ("m", "mine")
        assert len(body["input"]) == 3
    base = ["--base-url", llm_server.base_url, "--load", path]
    run("chat", *base, stdin="hi\n")
    body = llm_server.requests[-1].json()
    assert (body["model"], body["instructions"]) == ("m2", "theirs")


@pytest.mark.slow
def test_a_file_whose_model_cannot_be_asked_changes_nothing(
    llm_server: LLMServer, tmp_path: Path
) -> None:
    path = saved_file(tmp_path / "c.json", "m\x1b2", system="theirs")
    done = run("chat", "--base-url", llm_server.base_url, stdin=f"/load {path}\nhi\n/save\n")
    assert "--model 'm\\x1b2'" in done.stderr
    assert "give a file: /save FILE" in done.stderr
    assert "instructions" not in llm_server.requests[-1].json()


class Typed:
    """Lines of a person who waits for nothing."""

    ahead = None

    def __init__(self, *lines: str) -> None:
        self._lines = list(lines)

    def read(self, prompt: str, prefill: str = "") -> str:
        if not self._lines:
            raise EOFError
        return self._lines.pop(0)

    def remember(self, message: str) -> None: ...

    def close(self) -> None: ...


@pytest.mark.skipif(os.name == "nt", reason="Windows has no POSIX signals")
def test_an_interrupt_just_after_an_answer_loses_nothing(
    llm_server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was meant for the answer: that is kept before anything else is done."""
    llm_server.script(Answer("one"), Answer("two"), Answer("three"))
    kept = Conversation.answer

    def interrupted(self: Conversation, *of: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        kept(self, *of)

    def late(self: Any, result: Any) -> None:
        raise KeyboardInterrupt

    client = Client("responses", base_url=llm_server.base_url, api_key="k")
    with client, Interrupts(str) as interrupts:
        chat = Chat(client, "m", {}, Typed("first", "second"), interrupts, False, {})
        monkeypatch.setattr(Conversation, "answer", interrupted)
        chat.turn()
        monkeypatch.undo()
        monkeypatch.setattr(Chat, "_count", late)
        with pytest.raises(KeyboardInterrupt):
            chat.turn()
    assert [one.text for one in chat.conversation.exchanges] == ["one", "two"]


@pytest.mark.slow
def test_an_answer_that_the_service_pauses_goes_on(llm_server: LLMServer) -> None:
    """All of its pieces are kept, up to the last one that is asked for."""
    blocks = [
        block.replace(b"end_turn", b"pause_turn") for block in Answer("more ").blocks("messages")
    ]
    llm_server.script(*[Reply(blocks)] * 11)
    done = chat(llm_server, "hi", "next", api="messages")
    assert len(llm_server.requests) == 12
    turns = llm_server.requests[11].json()["messages"]
    texts = [turn["content"] for turn in turns if turn["role"] == "assistant"]
    assert str(texts).count("more ") == 11
    assert done.returncode == 0


@pytest.mark.slow
def test_commands_that_nothing_follows(llm_server: LLMServer) -> None:
    """What stands after them was meant for something else."""
    lines = [f"/{name} x" for name in ("retry", "stop", "tokens", "clear", "help", "?", "exit")]
    done = chat(llm_server, *lines, "/quit now", "hi")
    assert done.stderr.count("takes nothing after it") == len(lines) + 1
    assert llm_server.requests[0].json()["input"] == [{"role": "user", "content": "hi"}]


@pytest.mark.slow
def test_a_folder_is_not_replaced(llm_server: LLMServer, tmp_path: Path) -> None:
    """And nobody is advised to do so."""
    done = chat(llm_server, f"/save {tmp_path}", f"/save -f {tmp_path}")
    assert done.stderr.count(f"{tmp_path} is not a file: choose another name") == 2
    assert tmp_path.is_dir()


def test_an_editor_of_spaces_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the question would be run as a program."""
    for visual, editor, found in (("", "  ", ""), (" \t", " vi -n", "vi -n"), ("x", "y", "x")):
        monkeypatch.setenv("VISUAL", visual)
        monkeypatch.setenv("EDITOR", editor)
        assert chat_files.editor() == found


@pytest.mark.slow
def test_a_message_that_has_no_end_is_not_sent(llm_server: LLMServer) -> None:
    """A script that was cut off asks nothing by half."""
    done = chat(llm_server, '"""', "half")
    assert (done.returncode, len(llm_server.requests)) == (2, 0)
    assert "not sent" in done.stderr


@pytest.mark.slow
def test_settings_that_cannot_work_are_noticed_first() -> None:
    """Before anything is typed."""
    done = run("chat", "--api", "chat", "--base-url", "http://127.0.0.1:9/v1", stdin="")
    assert done.returncode == 2
    assert "model" in done.stderr


def test_the_history_keeps_every_message(tmp_path: Path) -> None:
    """Line feeds and backslashes too; another kind of file is refused and not waited for."""
    history = History(tmp_path / "state" / "history")
    messages = ["one", "a\nb", "c\\n", "d\\\\", "e\\\nf", "é"]
    for message in messages:
        history.append(message)
    assert history.load() == messages
    assert history.path.read_bytes().startswith(b"one\n")
    if hasattr(os, "mkfifo"):
        assert stat.S_IMODE(history.path.stat().st_mode) == 0o600
        history.path.unlink()
        os.mkfifo(history.path)
        with pytest.raises(OSError):
            history.load()


def test_a_nul_in_a_message_or_in_the_history_ends_no_chat(tmp_path: Path) -> None:
    """The library that edits lines takes none, in a message that was typed ahead either."""
    readline = pytest.importorskip("readline")
    history = History(tmp_path / "history")
    history.path.write_bytes(b"a\0b\n")
    lines = TerminalLines(history, [])
    try:
        assert readline.get_history_item(1) == "ab"
        lines.remember("c\0d\ud83d")
        assert readline.get_history_item(2) == "cd?"
    finally:
        lines.close()
