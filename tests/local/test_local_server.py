"""The local server: what it refuses, and what it answers with the real model."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import requests
from local_tools import FakePip, ask, events, key_of, linux, refuses, run

from llmstream import Client
from llmstream.errors import ConfigurationError, InvalidRequestError
from llmstream.local import LocalServer, shared_server
from llmstream.local import server as server_module
from llmstream.testing import LLMServer, Reply


def test_importing_the_module_imports_nothing_heavy() -> None:
    """Neither llama.cpp nor the progress bar is loaded before it is used."""
    done = run(
        "import sys, llmstream.local; print({'xllamacpp', 'tqdm', 'ctypes'} & {*sys.modules})"
    )
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize("use", [LocalServer, shared_server])
def test_a_missing_extra_says_what_to_install(
    use: Callable[[], object], monkeypatch: pytest.MonkeyPatch, pip: FakePip
) -> None:
    """Before anything is fetched."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ConfigurationError, match=r'pip install "llmstream-sync\[local\]"'):
        use()
    assert pip.runs == []


def test_an_extra_that_does_not_load_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A system library that is missing (libgomp, on slim images) is not a missing package."""
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('libgomp.so.1: cannot open')")
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=r"does not load: libgomp\.so\.1"):
        LocalServer()


def test_a_file_that_is_not_a_gguf_never_reaches_llama_cpp(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Missing, a directory, empty, or something else: the error says which."""
    monkeypatch.setitem(sys.modules, "xllamacpp", object())  # type: ignore[arg-type]
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "text.gguf").write_text("hello")
    for name, message in (
        ("missing.gguf", "cannot be read"),
        ("", "cannot be read"),
        ("empty.gguf", "is not a GGUF file"),
        ("text.gguf", "is not a GGUF file"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            LocalServer(tmp_path / name)


@pytest.mark.parametrize("settings", [{"context": 0}, {"parallel": 0}, {"threads": -1}])
def test_a_number_below_one_is_refused(settings: dict[str, int]) -> None:
    """llama.cpp would take 0 and -1 for something else."""
    with pytest.raises(ConfigurationError, match="at least 1"):
        LocalServer(**settings)  # type: ignore[arg-type]


def test_a_context_that_llama_cpp_does_not_have_is_refused() -> None:
    """It would take another one, and say nothing."""
    for few in (1, 255):
        for make in (LocalServer, shared_server):
            with pytest.raises(ConfigurationError, match=f"context={few}: .* 256 or more"):
                make(context=few)


def test_responses_stream_token_by_token(server: LocalServer) -> None:
    """The pieces come one after the other, not at the end, and add up to the text."""
    with ask(server, input="Count to five.", max_output_tokens=24) as response:
        pieces = list(response.raw.stream(65536))
    assert len(pieces) > 12
    assert b"response.completed" not in b"".join(pieces[:-2])
    seen = events(b"".join(pieces))
    deltas = [event["delta"] for event in seen if event["type"] == "response.output_text.delta"]
    assert len(deltas) > 12
    assert seen[-1]["type"] == "response.completed"
    last = seen[-1]["response"]
    assert last["output"][0]["content"][0]["text"] == "".join(deltas)
    assert last["usage"]["output_tokens"] == 24
    assert last["model"] == server.model == "SmolLM2-135M-Instruct"


def test_chat_and_messages_are_served_and_say_that_an_answer_was_cut(server: LocalServer) -> None:
    """Both report the token limit as the reason of the end (Responses does not)."""
    question = [{"role": "user", "content": "Count to twenty."}]
    with ask(server, "/v1/chat/completions", messages=question, max_tokens=5) as response:
        chat = response.content
    assert '"finish_reason":"length"' in chat.decode()
    assert chat.endswith(b"data: [DONE]\n\n")
    with ask(server, "/v1/messages", messages=question, max_tokens=5) as response:
        messages = events(response.content)
    assert messages[-1] == {"type": "message_stop"}
    assert messages[-2]["delta"]["stop_reason"] == "max_tokens"


def test_a_greedy_answer_is_the_same_each_time(server: LocalServer) -> None:
    """Also after another prompt, and after its own prefix: nothing of them is reused."""

    def answer(prompt: str) -> str:
        body = {"input": prompt, "temperature": 0, "max_output_tokens": 40}
        url, key = server.base_url + "/responses", key_of(server)
        got = requests.post(url, json=body, headers=key, timeout=60).json()
        assert not got["usage"]["input_tokens_details"]["cached_tokens"]
        return str(got["output"][0]["content"][0]["text"])

    first = answer("Write a poem about the sea.")
    answer("Write a poem about the mountains.")
    assert [answer("Write a poem about the sea.") for _ in range(2)] == [first, first]


def test_a_prompt_that_does_not_fit_is_refused_before_the_stream(server: LocalServer) -> None:
    """`context` is what each request has; 400, not a stream that ends early."""
    with ask(server, input="word " * 2100) as response:
        assert response.status_code == 400
        assert response.json()["error"]["n_ctx"] == 2048


def test_a_web_page_gets_nothing(server: LocalServer) -> None:
    """No origin is allowed, there is no page, and other requests' prompts are not shown."""
    evil = {"Origin": "http://evil.example"}
    for path, status in (("/health", 200), ("/", 404), ("/slots", 501)):
        response = requests.get(server.url + path, headers={**evil, **key_of(server)}, timeout=10)
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == ""


PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/completion", "/tokenize")
STRANGERS: dict[str, dict[str, str]] = {
    "nobody": {},
    "a rebound name": {"Host": "evil.example:PORT", "Origin": "http://evil.example:PORT"},
    "a form of another site": {
        "Origin": "http://evil.example",
        "Content-Type": "text/plain",
        "Sec-Fetch-Site": "cross-site",
    },
    "another key": {"Authorization": "Bearer sk-llmstream"},
    "an empty key": {"Authorization": "Bearer "},
    "a cookie": {"Cookie": "key=1", "Host": "localhost:PORT"},
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_who_does_not_send_the_key_gets_nothing(server: LocalServer, stranger: str) -> None:
    """Neither an answer nor a word about the model, on any path; `/health` alone answers."""
    port = server.url.rpartition(":")[2]
    headers = {n: v.replace("PORT", port) for n, v in STRANGERS[stranger].items()}
    body = '{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}'
    for path in PATHS:
        response = requests.post(server.url + path, body, headers=headers, timeout=10)
        assert (response.status_code, "Invalid API Key" in response.text) == (401, True), path
    for path in ("/v1/models", "/models", "/props", "/metrics", "/slots", "/api/tags"):
        assert requests.get(server.url + path, headers=headers, timeout=10).status_code == 401
    assert requests.get(server.url + "/health", timeout=10).json() == {"status": "ok"}


def test_the_key_is_a_servers_own_and_is_not_shown(server: LocalServer, model: Path) -> None:
    """Random for each server, in no repr; a client of it has it, and pickles without it."""
    with LocalServer(model, context=256, parallel=1) as other:
        assert len(other.api_key) > 40
        assert other.api_key != server.api_key
        assert other.api_key not in repr(other) + repr(vars(other)["_engine"])
    with Client.local() as client:
        key = shared_server().api_key
        assert client.stream("Hi", max_output_tokens=2).result().text
        assert key not in repr(client) + repr(client.settings)
        assert key.encode() not in pickle.dumps(client.settings)


@linux
def test_it_listens_on_the_loopback_only(server: LocalServer) -> None:
    """Of all sockets that listen on the port there is one, on 127.0.0.1."""
    port = int(server.url.rpartition(":")[2])
    listening = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, address, _, state, *_ = line.split()
            if state == "0A" and int(address.rpartition(":")[2], 16) == port:
                listening.append(address)
    assert listening == [f"0100007F:{port:04X}"]


def test_two_servers_do_not_disturb_each_other(server: LocalServer, model: Path) -> None:
    """They share globals of llama.cpp; the end of one is not the end of the other."""
    with LocalServer(model, context=256, parallel=1, threads=1) as other:
        assert other.model == model.stem
        with ask(other, input="Hi", max_output_tokens=3) as response:
            assert events(response.content)[-1]["type"] == "response.completed"
    assert refuses(other)
    with ask(server, input="Hi", max_output_tokens=3) as response:
        assert events(response.content)[-1]["type"] == "response.completed"


def test_a_shared_server_is_one_per_file_until_it_is_closed(model: Path) -> None:
    """Threads that ask at once get the same; after a close there is another."""
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(lambda _: shared_server(), range(4))
    try:
        assert all(other is first for other in others)
        assert shared_server(model) is first
    finally:
        first.close()
    second = shared_server()
    try:
        assert second is not first
        assert not second.closed
    finally:
        second.close()


def test_a_gguf_that_llama_cpp_cannot_load_is_an_error(model: Path, tmp_path: Path) -> None:
    """The beginning of a real one, and one that is only called so."""
    with model.open("rb") as file:
        (tmp_path / "short.gguf").write_bytes(file.read(2_000_000))
    (tmp_path / "noise.gguf").write_bytes(b"GGUF" + b"\x03\0\0\0" + bytes(range(256)) * 40)
    for name in ("short.gguf", "noise.gguf"):
        with pytest.raises(ConfigurationError, match="cannot load") as caught:
            LocalServer(tmp_path / name)
        assert isinstance(caught.value.__cause__, RuntimeError)


def test_nothing_is_printed(model: Path, tmp_path: Path) -> None:
    """Neither a start, an answer, an error nor an end writes to stdout or stderr."""
    (tmp_path / "noise.gguf").write_bytes(b"GGUF" + bytes(1000))
    script = """
        import sys, requests
        from llmstream.local import LocalServer
        try:
            LocalServer(sys.argv[1])
        except Exception:
            pass
        with LocalServer() as server:
            for prompt in ("Hi", "word " * 3000):
                body = {"input": prompt, "max_output_tokens": 5}
                key = {"Authorization": f"Bearer {server.api_key}"}
                url = server.base_url + "/responses"
                requests.post(url, json=body, headers=key, timeout=60)
                assert requests.post(url, json=body, timeout=60).status_code == 401
    """
    done = run(script, tmp_path / "noise.gguf")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Counted:
    """Stands for LocalServer: remembers how it was started."""

    def __init__(self, model_file: object, *, context: int) -> None:
        self.arguments = model_file, context
        self.closed = False
        self.model = "m"
        self.api_key = "a-key"

    def base_url_of(self, api: str) -> str:
        return "http://127.0.0.1:1/v1"


def test_a_shared_server_is_for_a_file_and_a_context(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another context is another server; none given is the default's."""
    shared: dict[object, Any] = {}
    monkeypatch.setitem(sys.modules, "xllamacpp", object())  # type: ignore[arg-type]
    monkeypatch.setattr("llmstream.local.server.LocalServer", Counted)
    monkeypatch.setattr("llmstream.local.server._shared", shared)
    one, two = tmp_path / "one.gguf", tmp_path / "two.gguf"
    default = shared_server(one)
    assert shared_server(one, context=2048) is default
    large = shared_server(one, context=8192)
    assert shared_server(one, context=8192) is large
    shared_server(two, context=8192)
    Client.local(one, context=512)
    started = [server.arguments for server in shared.values()]
    assert started == [(one, 2048), (one, 8192), (two, 8192), (one, 512)]


class FakeEngine:
    """Stands for a running llama.cpp."""

    port = 1
    key = "a-key"
    made: ClassVar[list[FakeEngine]] = []

    def __init__(self, *_: object) -> None:
        self.stopped = 0
        self.made.append(self)

    def stop(self) -> None:
        self.stopped += 1


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """All that were started, and the rest of the start stubbed."""
    monkeypatch.setattr(FakeEngine, "made", [])
    monkeypatch.setattr(server_module, "Engine", FakeEngine)
    monkeypatch.setattr(server_module, "counters", lambda port, key: b"")
    monkeypatch.setattr(server_module, "watch_forks", lambda: None)
    return FakeEngine.made


def start(path: Path) -> Any:
    native, params = SimpleNamespace(Server=lambda params: None), SimpleNamespace(api_keys=["k"])
    return server_module._start(native, params, path)


def test_no_thread_for_a_start(
    monkeypatch: pytest.MonkeyPatch, engines: list[FakeEngine], tmp_path: Path
) -> None:
    """Where the system starts no further thread, nothing is loaded, and the error says so."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(ConfigurationError, match="starts no further thread"):
        start(tmp_path)
    assert engines == []


@pytest.mark.parametrize("known", [True, False], ids=["in join", "in spawn"])
@pytest.mark.parametrize("begun", [True, False], ids=["after it", "before it"])
def test_an_interrupt_of_a_start_leaves_no_server(
    monkeypatch: pytest.MonkeyPatch,
    engines: list[FakeEngine],
    tmp_path: Path,
    known: bool,
    begun: bool,
) -> None:
    """Wherever it comes, before or after the server is there: it is stopped, once."""
    real, threads = server_module.spawn, []
    goes_on = threading.Event()
    monkeypatch.setattr(server_module, "counters", lambda port, key: goes_on.wait(10) and b"")

    class Interrupted:
        def __init__(self, thread: threading.Thread) -> None:
            self._thread = thread
            self._times = 0

        def join(self) -> None:
            self._times += 1
            if self._times == 1:
                raise KeyboardInterrupt
            goes_on.set()
            self._thread.join(10)

    def spawn(work: Any, name: str, *, daemon: bool) -> Any:
        assert not daemon
        threads.append(real(work, name, daemon=daemon))
        if begun:
            goes_on.set()
            threads[0].join(10)
        if known:
            return Interrupted(threads[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(server_module, "spawn", spawn)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    goes_on.set()
    threads[0].join(10)
    assert [engine.stopped for engine in engines] == [1]


@pytest.mark.parametrize("context", [0, -1, True, 1.5, "4096", 10**9])
def test_a_context_that_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, context: Any
) -> None:
    """Before anything is loaded."""
    monkeypatch.setitem(sys.modules, "xllamacpp", object())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="context="):
        Client.local(tmp_path / "x.gguf", context=context)


@pytest.mark.parametrize("api", ["responses", "messages", "chat"])
def test_the_error_of_too_small_a_context_names_the_option(llm_server: LLMServer, api: str) -> None:
    """llama.cpp's own words, for every API."""
    words = "the request exceeds the available context size (2048 tokens), try increasing it"
    llm_server.script(Reply.error(400, message=words, type="exceed_context_size_error", api=api))
    base = llm_server.url if api == "messages" else llm_server.base_url
    client = Client(api, base_url=base, model="m", profile="llama.cpp")
    with client, pytest.raises(InvalidRequestError) as caught:
        client.stream("Hi").result()
    for option in ("Client.local(context=N)", "--local --context N", "--ctx-size N"):
        assert option in str(caught.value)


def test_the_real_context_is_the_one_that_was_asked_for(model: Path) -> None:
    """Too long for the small one, which says what to do; not for the large one."""
    prompt = "one two three " * 200
    options: dict[str, Any] = {"model": "m", "profile": "llama.cpp"}
    with LocalServer(model, context=256, parallel=1) as server:
        client = Client("chat", base_url=server.base_url, api_key=server.api_key, **options)
        with client, pytest.raises(InvalidRequestError, match=r"Client\.local\(context=N\)"):
            client.stream(prompt, max_output_tokens=4).result()
    with LocalServer(model, context=2048, parallel=1) as server:
        client = Client("chat", base_url=server.base_url, api_key=server.api_key, **options)
        with client:
            assert client.stream(prompt, max_output_tokens=4).result().usage.input_tokens
