"""The examples for Streamlit, Gradio, marimo, Flask, FastAPI and Textual in the README of the
readers, each run as it stands there by its host's own tool: the text, and the end of the call when
the host is stopped or closed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import runpy
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import ENDLESS, OPENING, PACKAGE, PATIENCE, TWO_TOKENS, eventually, python
from test_readmes import RUN_BY, blocks_of
from test_safe_markdown import ATTACKS, Looked

from llmstream import Client, Result
from llmstream.testing import Answer, Cut, LLMServer, Pause, Reply

pytestmark = [
    pytest.mark.apps,
    pytest.mark.filterwarnings("ignore"),  # theirs
    pytest.mark.timeout(120),
]

README = PACKAGE / "llmstream" / "readers" / "README.md"
# A word now and then for half a minute, which no test waits for.
TALKING = Reply([*OPENING, *[ENDLESS, Pause(0.02)] * 1500])


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LLMServer]:
    """What the examples talk to. Its end proves that no call is left."""
    for name in os.environ:
        if name.startswith(("OPENAI_", "ANTHROPIC_", "LLMSTREAM_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    with LLMServer() as server:
        monkeypatch.setenv("OPENAI_API_KEY", "test-key")
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        yield server


def example(name: str, folder: Path) -> Path:
    """The file with the README's example for a host."""
    (block,) = [block for block in blocks_of(README) if block.needs == name]
    file = folder / f"{name}_example.py"
    file.write_text(block.code, "utf-8")
    return file


def app_of(name: str, folder: Path) -> types.SimpleNamespace:
    """What the example defines."""
    pytest.importorskip(name)
    return types.SimpleNamespace(**runpy.run_path(str(example(name, folder))))


def ended(service: LLMServer) -> None:
    """The service sees that the latest call was left, long before its answer is whole."""
    request = service.requests[-1]
    assert service.wait_closed(request, PATIENCE) - request.received_at < PATIENCE


# ---- Streamlit -----------------------------------------------------------------------------------


def test_streamlit(service: LLMServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`st.write_stream(client.stream(prompt))`, by Streamlit's AppTest. An error is shown after
    what had arrived. Where the user stops the script, the call ends with the next piece."""
    pytest.importorskip("streamlit")
    from streamlit.testing.v1 import AppTest, local_script_runner

    runners: list[Any] = []

    class Runner(local_script_runner.LocalScriptRunner):  # type: ignore[misc]
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            runners.append(self)

    monkeypatch.setattr("streamlit.testing.v1.app_test.LocalScriptRunner", Runner)
    app = AppTest.from_file(str(example("streamlit", tmp_path)), default_timeout=60).run()
    assert not app.exception
    service.default = Answer("The sky **is** blue")
    for _ in range(2):
        app.chat_input[0].set_value("Why?").run()
        assert [one.value for one in app.markdown] == ["The sky **is** blue"]
        assert not app.exception
    service.script(Reply([*TWO_TOKENS, Cut()]))
    app.chat_input[0].set_value("Why?").run()
    assert [one.value for one in app.markdown] == ["one two"]
    assert "what arrived is in .partial" in app.exception[0].value

    service.script(TALKING)
    before = len(service.requests)
    stop = threading.Thread(
        target=lambda: (service.wait_requests(before + 1), runners[-1].request_stop())
    )
    stop.start()
    app.chat_input[0].set_value("Talk").run()
    stop.join()
    ended(service)


# ---- Gradio --------------------------------------------------------------------------------------


def test_gradio(service: LLMServer, tmp_path: Path) -> None:
    """The text so far with each piece; the turns before go with the next prompt; a job that is
    cancelled ends its call. In a process of its own, since Gradio leaves sockets and threads."""
    pytest.importorskip("gradio")
    example("gradio", tmp_path)
    service.script(Answer("The sky is blue"), Answer("So it is"), TALKING)
    process = python(
        """
        import json, time
        from gradio_client import Client
        from gradio_example import app

        app.launch(prevent_thread_lock=True, quiet=True)
        client = Client(app.local_url, verbose=False)
        job = client.submit("Why?", api_name="/answer")
        whole = job.result(timeout=30)
        following = client.submit("And?", api_name="/answer").result(timeout=30)
        talking = client.submit("Talk", api_name="/answer")
        until = time.monotonic() + 30
        while len(talking.outputs()) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        talking.cancel()
        while not talking.done() and time.monotonic() < until:
            time.sleep(0.01)
        print(json.dumps([whole, job.outputs(), following, talking.done()]))
        """,
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_SERVER_NAME="127.0.0.1",
        HF_HUB_OFFLINE="1",
        PYTHONPATH=os.pathsep.join(map(str, (tmp_path, PACKAGE))),
        PYTHONWARNINGS="ignore",
    )
    with process:
        try:
            service.wait_requests(3, 60)
            ended(service)  # while Gradio still runs
            shown, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    whole, outputs, following, done = json.loads(shown.splitlines()[-1])
    assert (whole, following, done) == ("The sky is blue", "So it is", True)
    assert outputs[-1] == whole
    assert all(whole.startswith(part) for part in outputs)
    turns = service.requests[1].json()["input"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[-1]["content"] == "And?"
    assert {*turns[0]} == {"role", "content"}


# ---- marimo --------------------------------------------------------------------------------------


class Marimo:
    """A chat of marimo, and what it sends to the page."""

    def __init__(self, chat: Any) -> None:
        self.chat = chat
        self.sent: list[Any] = []
        chat._send_message = lambda message, buffers: self.sent.append(message["content"])

    @property
    def text(self) -> str:
        return "".join(part["delta"] for part in self.sent if part and part["type"] == "text-delta")

    async def ask(self, prompt: str, request_id: str) -> None:
        from marimo._ai._types import ChatMessage
        from marimo._plugins.ui._impl.chat.chat import SendMessageRequest

        turn = ChatMessage(role="user", content=prompt, id="1", parts=[])
        config = self.chat._component_args["config"]
        from marimo._ai._types import ChatModelConfig

        request = SendMessageRequest([turn], ChatModelConfig(**config), request_id)
        await self.chat._send_prompt(request)


def test_marimo(service: LLMServer, tmp_path: Path) -> None:
    """Its chat gets the pieces; where the user stops it, the call ends."""
    chat = Marimo(app_of("marimo", tmp_path).chat)
    service.default = Answer("The sky is blue")
    asyncio.run(chat.ask("Why?", "1"))
    assert chat.text == "The sky is blue"
    assert service.requests[-1].json()["input"] == [{"role": "user", "content": "Why?"}]
    assert chat.chat._chat_history[-1].content == "The sky is blue"

    service.script(TALKING)

    async def stopped() -> None:
        from marimo._plugins.ui._impl.chat.chat import CancelPromptRequest

        chat.sent.clear()
        asking = asyncio.create_task(chat.ask("Talk", "2"))
        while len(chat.sent) < 5:
            await asyncio.sleep(0)
        await chat.chat._cancel_prompt(CancelPromptRequest("2"))
        await asking

    asyncio.run(asyncio.wait_for(stopped(), PATIENCE))
    ended(service)


def test_a_result_in_marimo() -> None:
    """marimo shows a result as Markdown, too. Its extensions of Markdown make nothing that acts of
    what a model writes."""
    pytest.importorskip("marimo")
    from marimo._output.formatting import try_format

    def shown(text: str) -> str:
        return str(try_format(Result(text=text, finish="stop")).data)

    assert "<strong>x</strong> &lt;b&gt;" in shown("**x** <b>")
    for text in ATTACKS:
        problems = Looked(shown(text)).problems
        # What marimo writes itself: links open another tab, formulas have a tag of their own.
        theirs = ("<a target>", "<a rel>", "<marimo-tex>", "<sub>")
        assert not [one for one in problems if one not in theirs], (text, shown(text))


# ---- Flask and FastAPI ---------------------------------------------------------------------------


def test_flask(service: LLMServer, tmp_path: Path) -> None:
    """The pieces, one by one; the response that the server closes ends the call."""
    client = app_of("flask", tmp_path).app.test_client()
    service.default = Answer("The sky is blue")
    answer = client.post("/ask", data={"prompt": "Why?"})
    assert (answer.text, answer.mimetype) == ("The sky is blue", "text/plain")
    service.script(TALKING)
    answer = client.post("/ask", data={"prompt": "Talk"}, buffered=False)
    pieces = answer.iter_encoded()
    assert next(pieces) == b"one"
    answer.close()
    ended(service)


def test_fastapi(service: LLMServer, tmp_path: Path) -> None:
    app = app_of("fastapi", tmp_path).app
    from starlette.testclient import TestClient

    service.default = Answer("The sky is blue")
    with TestClient(app) as client:
        answer = client.post("/ask", json={"prompt": "Why?"})
        assert (answer.text, answer.status_code) == ("The sky is blue", 200)
        assert answer.headers["content-type"].startswith("text/plain")


def test_starlette_takes_a_stream_as_it_is(service: LLMServer) -> None:
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    service.default = Answer("The sky is blue")
    with Client("responses") as ours:
        routes = [Route("/", lambda _: StreamingResponse(ours.stream("Why?")))]
        with TestClient(Starlette(routes=routes)) as client:
            assert client.get("/").text == "The sky is blue"


def test_a_browser_that_leaves_fastapi(service: LLMServer, tmp_path: Path) -> None:
    """On a real server: the call ends."""
    app = app_of("fastapi", tmp_path).app
    service.script(TALKING)
    with uvicorn(app) as url:
        import httpx

        with httpx.stream("POST", f"{url}/ask", json={"prompt": "Talk"}) as answer:
            assert next(answer.iter_text()).startswith("one")
        ended(service)


@contextlib.contextmanager
def uvicorn(app: Any) -> Iterator[str]:
    module = pytest.importorskip("uvicorn")
    server = module.Server(module.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started, "uvicorn listens")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert not thread.is_alive()


# ---- Textual -------------------------------------------------------------------------------------


def test_textual(service: LLMServer, tmp_path: Path) -> None:
    """The text in its Markdown widget, by `run_test`; an error is a notice; an app that is closed
    in the middle of an answer ends the call, and its thread."""
    made = app_of("textual", tmp_path)
    service.default = Answer("# Sky\n\nIt is **blue**")

    async def asked(prompt: str, done: Callable[[Any], bool]) -> None:
        app = made.Chat()
        async with app.run_test() as pilot:
            await pilot.press(*prompt, "enter")
            await asyncio.wait_for(until(lambda: done(app)), PATIENCE)

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0)

    from textual.widgets import Markdown

    def source(app: Any) -> str:
        return str(app.query_one(Markdown).source)

    asyncio.run(asked("why", lambda app: source(app) == "# Sky\n\nIt is **blue**"))
    assert service.requests[-1].json()["input"] == "why"
    service.script(Reply([*TWO_TOKENS, Cut()]))
    asyncio.run(asked("cut", lambda app: source(app) == "one two" and len(app._notifications) == 1))
    service.script(TALKING)
    asyncio.run(asked("talk", lambda app: "oneone" in source(app)))
    ended(service)
    eventually(
        lambda: not [t for t in threading.enumerate() if t.name == "llmstream-pace"], "the thread"
    )


def test_all_hosts_are_here() -> None:
    """What test_readmes.py leaves to this file is run by it."""
    text = Path(__file__).read_text("utf-8")
    names = [name for name, file in RUN_BY.items() if file == "readers/test_apps.py"]
    assert names
    for name in names:
        assert f'("{name}", tmp_path)' in text
