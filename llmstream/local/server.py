"""llama.cpp's HTTP server in this process: one of your own, or one that the process shares."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

from .._core.checks import is_whole, shown
from .._core.dialects import APIS
from .._runtime.fork import process_number, renew_in_child
from .._runtime.threads import RLock, spawn
from .._settings.arguments import checked_path
from ..errors import ConfigurationError
from .model import MODEL_NAME, checked_file, fetch_model, import_extra
from .shutdown import HOST, Engine, counters, until, watch_forks

__all__ = ["LocalServer", "shared_server"]

READY = 30.0  # seconds; the constructor returns with the model loaded, an answer takes milliseconds

# Tokens computed in one go while a prompt is read. Half of llama.cpp's 512 costs nothing here
# (270 tokens/s each, 2 cores) and halves the time after which a cancel or a close takes effect.
BATCH = 256
CONTEXT = 2048  # tokens, where the caller names no number
# llama.cpp rounds the context of each request up to a multiple of this (measured).
LEAST_CONTEXT = 256
_MOST = 2**24  # llama.cpp takes 32-bit integers, and the product of context and parallel
HTTP_THREADS = 16  # besides one for each request that is answered

_lock = RLock()  # held while a shared server is started, so that one thread starts it
# Guarded by _lock: this process's servers by model file and context.
_shared: dict[tuple[Path, int], LocalServer] = {}
renew_in_child(sys.modules[__name__], _lock=RLock, _shared=dict)


class LocalServer:
    """llama.cpp's HTTP server in this process, on 127.0.0.1 and a free port.

    It serves `/v1/responses`, `/v1/chat/completions` and `/v1/messages` to those who send its key,
    as `Authorization: Bearer` or as `x-api-key`: not to other users of the machine, and to no web
    page, whatever name a page has for this machine (DNS rebinding). Without the key the answer is
    401; only `/health` is answered, with "ok". It does not write to stdout or stderr.

    Args:
        model_file: a GGUF file; without it, the default model (see `fetch_model`).
        context: tokens of a request's prompt and answer together (default 2048), 256 at least;
            llama.cpp rounds it up to a multiple of 256. The default model was trained with 8192;
            each 1000 tokens take 23 MB.
        threads: CPU threads (default: the cores that this process may use). Set it where a
            container has a smaller quota.
        parallel: requests that are answered at a time (default 2), each with a context of its own.
            Others wait, and receive no byte meanwhile.

    Attributes:
        url: `http://127.0.0.1:PORT`.
        base_url: the same with `/v1`.
        api_key: the key, a random one of this server. Only the process that started it knows it.
        model: the name to send in requests.

    Each prompt is computed anew. So at temperature 0 the same prompt gets the same text, as long as
    no other request runs at the same time. `extra_body={"cache_prompt": True}` in a request reuses
    the computation of its predecessor: faster in a long conversation, but no longer exact.

    The constructor returns when the server answers. It raises ConfigurationError where the extra is
    missing, where the file is missing or is not a GGUF file, and where llama.cpp cannot load it.

    `close()`, the end of a `with` block, the garbage collector or the end of the interpreter stops
    the server; answers that are under way are cut. Thread-safe.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str] | None = None,
        *,
        context: int = CONTEXT,
        threads: int | None = None,
        parallel: int = 2,
    ) -> None:
        for name, number in (("context", context), ("threads", threads), ("parallel", parallel)):
            if number is not None or name != "threads":
                _check_number(name, number)
        if model_file is not None:
            checked_path("model_file", model_file)
        xllamacpp = import_extra("xllamacpp")  # first: else 98 MB might be fetched in vain
        path = fetch_model() if model_file is None else checked_file(Path(model_file))
        self.model: str = MODEL_NAME if model_file is None else path.stem
        self.api_key: str = secrets.token_urlsafe(32)
        params = _params(xllamacpp, path, self.model, self.api_key)
        params.n_ctx, params.n_parallel = context * parallel, parallel
        # Each open connection holds a thread. More are made on demand, but not reliably: a
        # connection that arrives while another takes the last idle thread waits for one.
        params.n_threads_http = HTTP_THREADS + parallel
        params.cpuparams.n_threads = threads or _cores()
        self._engine = _start(xllamacpp, params, path)
        self.url: str = f"http://{HOST}:{self._engine.port}"
        # It also runs at exit, before the interpreter and C++ take themselves apart.
        self._stop = weakref.finalize(self, self._engine.stop)

    def base_url_of(self, api: str) -> str:
        """The `base_url` of a Client for `api`."""
        return self.url + (APIS[api].base_path if api in APIS else "")

    @property
    def base_url(self) -> str:
        """The `base_url` of a Client for Responses or Chat Completions: the URL with `/v1`."""
        return self.url + "/v1"

    @property
    def closed(self) -> bool:
        """Whether the server was closed, or belongs to the parent of this (forked) process."""
        return not self._stop.alive or self._engine.pid != process_number()

    def close(self) -> None:
        """Stop the server and free the model. Idempotent.

        It takes about 0.1 s, or as long as the batch of tokens that is being computed.
        """
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


def shared_server(
    model_file: str | os.PathLike[str] | None = None, *, context: int | None = None
) -> LocalServer:
    """This process's server for the default model, or for `model_file`: started once, then shared
    by those who ask for the same `context`, in tokens (default 2048).

    It ends with the process. After its `close()`, and in a forked child, the next call starts
    another. Raises what LocalServer raises. Thread-safe.
    """
    tokens = CONTEXT if context is None else context
    _check_number("context", tokens)  # before anything is fetched
    if model_file is not None:
        checked_path("model_file", model_file)
    import_extra("xllamacpp")
    with _lock:
        path = fetch_model() if model_file is None else Path(os.path.realpath(model_file))
        key = path, tokens
        server = _shared.get(key)
        if server is None or server.closed:
            server = _shared[key] = LocalServer(model_file, context=tokens)
        return server


def _check_number(name: str, number: Any) -> None:
    if not is_whole(number, 1, _MOST):
        raise ConfigurationError(
            f"{name}={shown(number)}: pass a whole number of at least 1 and at most {_MOST:,}."
        )
    if name == "context" and number < LEAST_CONTEXT:
        raise ConfigurationError(
            f"{name}={number}: llama.cpp has no context of less than {LEAST_CONTEXT} tokens: pass "
            f"{LEAST_CONTEXT} or more (the prompt and the answer share it)"
        )


# --- starting -----------------------------------------------------------------------------------


def _cores() -> int:
    """The number of CPU threads: the cores of this process's CPU affinity.

    Where the process may use all cores it is -1: llama.cpp's own count, of physical cores. That
    count ignores the affinity, and threads without a core stall the others.
    """
    if not hasattr(os, "sched_getaffinity"):
        return -1
    allowed = len(os.sched_getaffinity(0))
    return -1 if allowed == os.cpu_count() else allowed


def _params(xllamacpp: Any, path: Path, name: str, key: str) -> Any:
    params = xllamacpp.CommonParams()
    params.hostnames, params.port = [HOST], 0
    # llama.cpp does not look at Host. A page whose name was rebound to this machine is of the same
    # origin as the server, and a form may be posted from any page: neither knows the key.
    params.api_keys = [key]
    params.model.path = str(path)
    params.model_alias = {name}  # without it, answers carry the file's path
    params.verbosity = -1  # below errors (1) and plain output (0): nothing is printed
    params.warmup = False  # 0.1 s that the first prompt pays as well
    params.n_batch = params.n_ubatch = BATCH
    params.cache_prompt = False  # for exact answers, see LocalServer; llama.cpp documents the same
    params.cache_ram_mib = 0  # without it, up to 8 GB of old prompts are kept
    # Nothing for browsers and nothing that shows the prompts of others; counters only.
    params.ui = params.endpoint_slots = params.cors_credentials = False
    params.cors_origins = ""
    params.endpoint_metrics = True
    return params


def _start(xllamacpp: Any, params: Any, path: Path) -> Engine:
    """The running server, started in a thread.

    Without the thread, a Ctrl-C while the model loads would be raised the moment the constructor
    returns. That would drop the new server before its loop begins, which hangs it.
    """
    watch_forks()
    start = _Start(xllamacpp, params, path)
    starter = None
    try:
        starter = spawn(start.run, "local-start", daemon=False)  # none ends within llama.cpp
        starter.join()
    except BaseException:
        start.wanted = False
        if starter is not None:
            starter.join()  # the constructor has the GIL: it has returned, and the rest is bounded
        start.drop()
        raise
    result = start.outcome.pop()
    if isinstance(result, ConfigurationError):
        raise result
    return result


class _Start:
    """The start of one server, in a thread, and whether its caller still wants it.

    An interrupt may come before the caller has the thread to wait for. Then whoever is last, caller
    or thread, stops the server.
    """

    def __init__(self, xllamacpp: Any, params: Any, path: Path) -> None:
        self._arguments = xllamacpp, params, path
        self.outcome: list[Engine | ConfigurationError] = []
        self.wanted = True

    def run(self) -> None:
        """Start it. Never raises."""
        self.outcome.append(_start_here(*self._arguments))
        if not self.wanted:
            self.drop()

    def drop(self) -> None:
        """Stop what has been started, once."""
        with contextlib.suppress(IndexError):
            made = self.outcome.pop()
            if isinstance(made, Engine):
                made.stop()


def _start_here(xllamacpp: Any, params: Any, path: Path) -> Engine | ConfigurationError:
    try:
        engine = Engine(xllamacpp.Server(params), params.api_keys[0])
    except Exception as exc:
        error = ConfigurationError(
            f"llama.cpp cannot load {path}: it is cut short, has an unknown architecture, is not a "
            "language model, or is too large for the memory."
        )
        error.__cause__ = exc
        return error
    if until(lambda: counters(engine.port, engine.key) is not None, READY):
        return engine
    engine.abandon()
    return ConfigurationError(f"llama.cpp loaded {path}, but does not answer.")
