"""What can be written on the command line: words without quotes, what a request asks for, headers,
and keys by their name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_cli import asked, run

from llmstream import ConfigurationError, cli
from llmstream._settings import keyring
from llmstream._settings.secret import Secret
from llmstream.testing import Answer, LLMServer

NOWHERE = "http://127.0.0.1:1/v1"


def parsed(*arguments: str) -> Any:
    """The options of a command line that is not run."""
    from llmstream.cli.program import _parsed

    return _parsed(list(arguments))[1]


# the command line -> the words of the prompt
WORDS: dict[str, tuple[list[str], list[str]]] = {
    "one": (["hi"], ["hi"]),
    "a quoted prompt": (["why is it"], ["why is it"]),
    "several": (["why", "is", "it"], ["why", "is", "it"]),
    "options between": (
        ["--model", "m", "why", "is", "--total", "5", "it", "--json"],
        ["why", "is", "it"],
    ),
    "options first": (["--json", "--no-stdin", "why"], ["why"]),
    "options last": (["why", "is", "--stats"], ["why", "is"]),
    "numbers below zero": (
        ["what", "is", "-5", "plus", "-.5"],
        ["what", "is", "-5", "plus", "-.5"],
    ),
    "a dash inside": (["what", "is", "3", "-", "2"], ["what", "is", "3", "-", "2"]),
    "a list item": (["- a list\n- of things"], ["- a list\n- of things"]),
    "after --": (["why", "--", "--json", "-x"], ["why", "--json", "-x"]),
    "only after --": (["--", "--help"], ["--help"]),
    "two --": (["--", "a", "--", "b"], ["a", "--", "b"]),
    "standard input": (["-"], ["-"]),
    "nothing": ([], []),
    "a command's name later": (["please", "check", "keys"], ["please", "check", "keys"]),
    "a command's name after an option": (["--model", "m", "check"], ["check"]),
    "ask": (["ask", "check", "my", "grammar"], ["check", "my", "grammar"]),
    "ask twice": (["ask", "ask", "me"], ["ask", "me"]),
    "ask and nothing": (["ask"], []),
    "ask with options": (["ask", "--json", "batch", "of", "--stats", "x"], ["batch", "of", "x"]),
}


def test_the_words_are_one_prompt() -> None:
    """Wherever they are between the options, in order; after -- every word is one."""
    for name, (arguments, words) in WORDS.items():
        assert parsed(*arguments).words == words, name


# the words after --thinking -> its value, and the prompt
THINKING: dict[str, tuple[Any, list[str]]] = {
    "why is it": (True, ["why", "is", "it"]),
    "": (True, []),
    "high why": ("high", ["why"]),
    "HIGH why": ("HIGH", ["why"]),
    "2048 why": (2048, ["why"]),
    "off why": (False, ["why"]),
    "on why": (True, ["why"]),
    "highly unlikely": (True, ["highly", "unlikely"]),
    "--json why": (True, ["why"]),
    "-- high": (True, ["high"]),
    '{"type":"adaptive"} why': ({"type": "adaptive"}, ["why"]),
}


def test_thinking_takes_no_word_of_the_prompt() -> None:
    """Only an effort, a number, on, off or JSON; with = any word, for services that have others."""
    for text, (thinking, words) in THINKING.items():
        options = parsed("--thinking", *text.split())
        assert (options.thinking, options.words) == (thinking, words), text
    assert parsed("--thinking=deep", "why").thinking == "deep"
    assert parsed("--think", "why").words == ["why"]
    assert parsed("why").thinking is None


def test_what_a_request_asks_for_is_in_it(llm_server: LLMServer) -> None:
    """Temperature, thinking, the JSON of --extra (several are one), and the headers."""
    llm_server.script(Answer("ok"))
    options = ["--temperature", "0.25", "--thinking", "low", "--extra", '{"user": "ü"}']
    options += ["--extra", '{"top_p": 0.5}', "--header", "X-Team: red: blue", "--header", "X-B:2"]
    done = run("--base-url", llm_server.base_url, *options, "why", "is", "it")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
    body = asked(llm_server)
    assert body["input"] == "why is it"
    assert (body["temperature"], body["top_p"], body["user"]) == (0.25, 0.5, "ü")
    assert body["reasoning"]["effort"] == "low"
    headers = llm_server.requests[0].headers
    assert (headers["x-team"], headers["x-b"]) == ("red: blue", "2")


MISTAKES: dict[str, tuple[list[str], str]] = {
    "an option that is none": (["what", "is", "-x"], "quotes, or -- before it"),
    "a misspelt option": (["--temprature", "1", "hi"], "no such option: --temprature"),
    "no number": (["--temperature", "hot", "hi"], "--temperature"),
    "a temperature beyond reason": (["--temperature", "1000", "hi"], "temperature"),
    "thoughts below zero": (["--thinking=-3", "hi"], "thinking"),
    "thoughts that are nothing": (["--thinking=", "hi"], "an effort"),
    "the word nothing": (["--thinking", "nothing", "hi"], "'nothing' is none of on, off, an eff"),
    "the word nothing after =": (["--thinking=Nothing", "hi"], "'Nothing' is none of on, off, an"),
    "a budget below zero": (["--thinking", "-5", "hi"], "'-5' is none of on, off, an effort"),
    "nothing in a chat": (["chat", "--thinking", "nothing"], "none of on, off, an effort"),
    "no tokens": (["--max-tokens", "0", "hi"], " --max-tokens 0: pass"),
    "a model over two lines": (["--model", "a\nb", "hi"], " --model 'a\\nb'"),
    "no model": (["--api", "chat", "hi"], ": pass --model\n"),
    "no model in a chat": (["chat", "--base-url", NOWHERE, "--api", "chat"], ": pass --model\n"),
    "tags of another API": (
        ["--api", "gemini", "--base-url", NOWHERE, "--think-tags", "on", "hi"],
        " --think-tags on: the API 'gemini' has no thinking in its text: leave it out",
    ),
    "tags that are none": (["--think-tags", "maybe", "hi"], "'on', 'off', 'open'"),
    "no such profile": (["--profile", "x", "hi"], " --profile x is not known"),
    "a budget of an effort": (
        ["--thinking", "9", "hi"],
        " --thinking 9: the Responses API takes on, an effort such as 'low' or 'high', or a JSON",
    ),
    "thoughts of a model without": (
        ["--api", "chat", "--model", "m", "--thinking", "9", "hi"],
        "--thinking 9: pass the server's own option in --extra",
    ),
    "no time": (["--total", "0", "hi"], " --total 0.0: give seconds"),
    "an address without a scheme": (["--base-url", "host", "hi"], ": --base-url: pass an address"),
    "no service": (
        ["ask", "--no-stdin", "hi"],
        "or give --key-name NAME or --base-url URL; --local needs none of it",
    ),
    "a number of the benchmark": (
        ["bench", "--base-url", NOWHERE, "--rate", "-1"],
        "--rate -1.0: ",
    ),
    "a clock of the check": (["check", "--idle", "-1"], ": --idle -1.0: give seconds"),
    "thoughts that are no JSON": (["--thinking", "{secret", "hi"], "not a JSON object"),
    "no JSON": (["--extra", "top_p=secret", "hi"], "'{\"top_p\": 0.9}'"),
    "a list": (["--extra", '["secret"]', "hi"], "not a JSON object"),
    "JSON that is too deep": (["--extra", '{"a":' + "[" * 5000 + "]" * 5000 + "}", "hi"], "JSON"),
    "a field twice": (["--extra", '{"a": 1}', "--extra", '{"a": 2}', "hi"], "'a' is there twice"),
    "a header without a colon": (["--header", "Bearer secret", "hi"], "a colon"),
    "a header without a name": (["--header", ": secret", "hi"], "a name"),
    "a header twice": (["--header", "A: secret", "--header", "a: b", "hi"], "'a' is there twice"),
    "a header over two lines": (["--header", "A: secret\nB: c", "hi"], "line end"),
    "a header's odd name": (["--header", "A B: secret", "hi"], "letters, digits"),
    "a header of the body's": (["--header", "Content-Length: 5", "hi"], "content-length"),
    "a context without the local model": (["--context", "4096", "hi"], "goes with --local"),
    "no context": (["--local", "--context", "0", "hi"], "context"),
    "too small a context": (["--local", "--context", "16", "hi"], "--context 16: llama.cpp has no"),
    "a context that is no number": (["--context", "much", "hi"], "--context"),
    "a key for the local model": (["--local", "--key-name", "x", "hi"], "exclude each other"),
    "another command's words": (["check", "my", "grammar"], "llmstream ask check"),
    "another command's action": (["keys", "to", "success"], "llmstream ask keys"),
}


@pytest.fixture
def _no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API", "BASE_URL", "API_KEY", "MODEL"):
        monkeypatch.delenv(f"LLMSTREAM_{name}", raising=False)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    monkeypatch.setattr(keyring, "find", lambda name: None)


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = cli.main([*arguments])
    except SystemExit as ended:
        code = int(str(ended.code))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.usefixtures("_no_service")
def test_a_mistake_is_one_sentence_that_says_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, before anything is sent; a value that may be a key is not repeated."""
    for name, (arguments, says) in MISTAKES.items():
        if arguments[0] not in cli.COMMANDS:
            where = ["--local"] if "--local" in arguments else ["--base-url", NOWHERE]
            arguments = ["--no-stdin", *where, *arguments]
        code, out, err = outcome(capsys, *arguments)
        assert (code, out) == (2, ""), (name, err)
        assert says in err, (name, err)
        assert err.count("\n") == 1, (name, err)
        assert "secret" not in err, (name, err)


# ---- keys by name --------------------------------------------------------------------------------

KEYS = {name: f"key-{name}" for name in ("groq", "openai", "anthropic", "gemini")}


@pytest.fixture
def _keys(monkeypatch: pytest.MonkeyPatch, _no_service: None) -> None:
    def get(name: str) -> Secret | None:
        return Secret(KEYS[name]) if name in KEYS else None

    monkeypatch.setattr(keyring, "get", get)


@pytest.mark.usefixtures("_keys")
def test_thinking_in_the_text(llm_server: LLMServer, capsys: pytest.CaptureFixture[str]) -> None:
    """As servers of local models send it; also with their profile."""
    where = ["--base-url", llm_server.base_url_for("chat"), "--model", "m", "--no-stdin"]
    for answer, options, shown in (
        ("<think>hm</think>Hi", [], "<think>hm</think>Hi"),
        ("<think>hm</think>Hi", ["--think-tags", "on"], "Hi"),
        ("hm</think>Hi", ["--think-tags", "open"], "Hi"),
        ("<think>hm</think>Hi", ["--profile", "vllm"], "Hi"),
        ("<think>hm</think>Hi", ["--profile", "vllm", "--think-tags=off"], "<think>hm</think>Hi"),
    ):
        llm_server.script(Answer(answer))
        found = outcome(capsys, "--api", "chat", *where, *options, "hi")
        assert (found[0], found[1]) == (0, f"{shown}\n"), options
    # The shorter words for --thinking stay what they are.
    assert parsed("--think", "low", "hi").thinking == "low"


@pytest.mark.usefixtures("_keys")
def test_a_key_by_its_name(llm_server: LLMServer, capsys: pytest.CaptureFixture[str]) -> None:
    """For the address that is given, on any API, before the keys of the environment."""
    for api, header in (("chat", "authorization"), ("gemini", "x-goog-api-key")):
        where = ["--base-url", llm_server.base_url_for(api), "--model", "m", "--no-stdin"]
        assert outcome(capsys, "--api", api, *where, "--key-name", "groq", "hi")[0] == 0
        sent = llm_server.requests[-1].headers[header]
        assert sent.removeprefix("Bearer ") == "key-groq"


@pytest.mark.usefixtures("_keys")
def test_a_key_by_its_name_for_the_address_of_the_environment(
    llm_server: LLMServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the library's variables, or of the vendor's."""
    monkeypatch.setenv("LLMSTREAM_BASE_URL", llm_server.base_url)
    monkeypatch.setenv("LLMSTREAM_API_KEY", "key-other")
    assert outcome(capsys, "--no-stdin", "--key-name", "groq", "hi")[0] == 0
    monkeypatch.delenv("LLMSTREAM_BASE_URL")
    monkeypatch.delenv("LLMSTREAM_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", llm_server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "key-other")
    assert outcome(capsys, "--no-stdin", "--key-name", "groq", "hi")[0] == 0
    sent = [request.headers["authorization"] for request in llm_server.requests]
    assert sent == ["Bearer key-groq", "Bearer key-groq"]


@pytest.mark.usefixtures("_keys")
def test_the_name_of_a_vendor_names_its_api(
    llm_server: LLMServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of Anthropic is not sent to OpenAI, whose key the environment has."""
    monkeypatch.setenv("OPENAI_API_KEY", "key-other")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", llm_server.base_url_for("messages"))
    assert outcome(capsys, "--no-stdin", "--key-name", "anthropic", "hi")[0] == 0
    assert llm_server.requests[0].path.endswith("/messages")
    assert llm_server.requests[0].headers["x-api-key"] == "key-anthropic"
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", llm_server.base_url_for("gemini"))
    assert outcome(capsys, "--no-stdin", "--key-name", "gemini", "hi")[0] == 0
    assert llm_server.requests[1].path.partition("?")[0].endswith(":streamGenerateContent")
    assert llm_server.requests[1].headers["x-goog-api-key"] == "key-gemini"


@pytest.mark.usefixtures("_keys")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--key-name", "groq"], "give --base-url"),
        (["--key-name", "groq", "--api", "chat"], "give --base-url"),
        (["--key-name", "openai", "--api", "messages"], "not for --api messages"),
        (["--key-name", "anthropic", "--api", "chat"], "not for --api chat"),
        (["--key-name", "none", "--base-url", NOWHERE], "llmstream keys set"),
    ],
)
def test_a_key_is_sent_only_where_it_belongs(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    """A name without an address is a mistake, unless the name is its vendor's."""
    code, out, err = outcome(capsys, "--no-stdin", *arguments, "hi")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert "key-" not in err.replace("--key-name", "")


@pytest.mark.usefixtures("_no_service")
def test_the_context_is_that_of_the_local_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """--context and --model-file are what the local server is started with."""
    started: list[Any] = []

    def shared_server(model_file: Any, *, context: Any) -> Any:
        started.append((model_file, context))
        raise ConfigurationError("enough")

    monkeypatch.setattr("llmstream.local.shared_server", shared_server)
    code, _, err = outcome(
        capsys, "--no-stdin", "--local", "--context", "8192", "--model-file", "x.gguf", "why", "so"
    )
    assert (code, err) == (2, "llmstream: ConfigurationError: enough\n")
    assert started == [("x.gguf", 8192)]


@pytest.mark.slow
def test_batch_takes_the_same_options(llm_server: LLMServer, tmp_path: Path) -> None:
    """--header, of the service's options, reaches every request."""
    llm_server.script(Answer("ok"))
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"id": "a", "prompt": "x"}\n', "utf-8")
    done = run("batch", str(prompts), "--base-url", llm_server.base_url, "--header", "X-Team: red")
    assert (done.returncode, json.loads(done.stdout)["text"]) == (0, "ok")
    assert llm_server.requests[0].headers["x-team"] == "red"
