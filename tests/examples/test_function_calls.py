"""The example of function calling: arguments as they arrive, the functions, and the answer."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from every import every

from llmstream import ToolCall
from llmstream.examples import function_calls
from llmstream.examples.function_calls import ask_before_writing, ask_model, main, note_tools
from llmstream.testing import Answer, LLMServer
from llmstream.tools import ToolError

PLAN = "Day 1: the minster. " * 20
ULM = '{"name":"ulm"}'
WRITE = json.dumps({"name": "plan", "text": PLAN})


@pytest.fixture(params=["responses", "messages", "chat", "gemini"])
def service(request: pytest.FixtureRequest, monkeypatch: Any, server: LLMServer) -> LLMServer:
    """The service that the environment names."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "LLMSTREAM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LLMSTREAM_API", request.param)
    monkeypatch.setenv("LLMSTREAM_BASE_URL", server.base_url_for(request.param))
    monkeypatch.setenv("LLMSTREAM_MODEL", "test-model")
    return server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ulm.txt").write_text("768 steps", "utf-8")
    return tmp_path


def three_turns(server: LLMServer) -> None:
    server.script(
        Answer(
            "I look.", tool_calls=[("list_notes", "{}", "a"), ("read_note", '{"name":"ulm"}', "b")]
        ),
        Answer(tool_calls=[("write_note", WRITE, "c")]),
        Answer("The plan is kept.\x1b[2J"),
    )


def test_arguments_results_and_the_answer_are_shown(service: LLMServer, folder: Path) -> None:
    three_turns(service)
    out = io.StringIO()
    assert ask_model("Plan.", folder, None, out) == 0
    lines = out.getvalue().splitlines()
    assert lines[0] == "I look."
    assert '  read_note {"name":"ulm"}' in lines[:3]  # an empty object may have no pieces
    assert {"  running list_notes", "  running read_note"} <= set(lines[2:7])
    assert "done: read_note" in out.getvalue()
    (shown,) = (line for line in lines if line.startswith("  write_note "))
    assert json.loads(shown.removeprefix("  write_note ")) == json.loads(WRITE)
    assert lines[-1] == "The plan is kept.\\x1b[2J"  # what a model writes moves no cursor
    assert (folder / "plan.txt").read_text("utf-8") == PLAN
    assert len(service.requests) == 3


class Pieces(io.StringIO):
    """Keeps each piece that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


def test_arguments_are_shown_as_they_arrive(service: LLMServer, folder: Path) -> None:
    """In many pieces, all of them before the function runs; Gemini's are one piece."""
    three_turns(service)
    out = Pieces()
    ask_model("Plan.", folder, None, out)
    begin = out.pieces.index("  write_note ")
    running = out.pieces.index("  running write_note\n")
    is_whole = service.requests[0].path.endswith(":streamGenerateContent?alt=sse")
    assert running - begin > (0 if is_whole else 10)


def test_what_is_not_allowed_is_told(service: LLMServer, folder: Path) -> None:
    three_turns(service)
    out = io.StringIO()
    assert ask_model("Plan.", folder, lambda call: call.name != "write_note", out) == 0
    assert "not done: write_note" in out.getvalue()
    assert not (folder / "plan.txt").exists()


@every(("answer", "allowed"), [("y", True), ("n", False), ("", False), ("yes please", False)])
def test_writing_is_asked_for(monkeypatch_class: Any, answer: str, allowed: bool) -> None:
    call = ToolCall("a", "write_note", WRITE)
    with monkeypatch_class.context() as patch:
        patch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        assert ask_before_writing(lambda _: answer)(call) is allowed
        patch.setattr("sys.stdin.isatty", lambda: False, raising=False)
        assert "--yes" in str(ask_before_writing(lambda _: answer)(call))
    assert ask_before_writing(lambda _: "n")(ToolCall("b", "read_note", "{}")) is True


@pytest.fixture
def monkeypatch_class() -> Any:
    return pytest.MonkeyPatch


@every("name", ["../secret", "/etc/passwd", "", "A", "x" * 41, "a/b", "a\n"])
def test_a_model_names_no_path(name: str) -> None:
    """Whatever the model writes as a name."""
    _, read, write = note_tools(Path("/nowhere"))
    for call in (lambda: read(name), lambda: write(name, "text")):
        with pytest.raises(ToolError):
            call()


def test_the_program(service: LLMServer, capsys: Any, monkeypatch: Any) -> None:
    """Without a folder it makes two notes, which are gone afterwards."""
    service.script(Answer(tool_calls=[("list_notes", "{}", "a")]), Answer("Two."))
    assert main(["How many?"]) == 0
    out, err = capsys.readouterr()
    assert '["oslo", "ulm"]' in out
    assert out.endswith("Two.\n")
    assert err == ""


def test_an_error_is_a_line(service: LLMServer, capsys: Any) -> None:
    service.script(Answer("Half", finish="length"))
    assert main(["Hi"]) == 1
    assert "ended early: length" in capsys.readouterr().err


def test_without_a_service_it_says_what_to_set(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(function_calls, "find_in_environment", lambda: None)

    def no_client() -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(function_calls, "client_from_env", no_client)
    assert main(["Hi"]) == 130
    assert re.search("calls no functions: set\nOPENAI_API_KEY", capsys.readouterr().err)
