"""The output file: what a run finds in it, what it leaves, and what it never touches."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from every import every
from support import eventually

from llmstream import ConfigurationError
from llmstream.batchfile import OutputFile, open_output
from llmstream.batchfile import output as module

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX files")


def answer(id: Any, text: str = "x") -> bytes:
    return json.dumps({"id": id, "line": 1, "text": text}, separators=(",", ":")).encode() + b"\n"


def error(id: Any) -> bytes:
    fields = {"id": id, "line": 1, "error": {"type": "ServerError", "text": "half"}}
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def in_a_folder(tmp_path: Path, case: int) -> Path:
    """A file in a folder of the case's own."""
    folder = tmp_path / str(case)
    folder.mkdir()
    return folder / "out.jsonl"


def reopened(path: Path, data: bytes | None = None) -> dict[str, bool]:
    """The ids that a run finds, and whether they failed; the file is `data` before."""
    if data is not None:
        path.write_bytes(data)
    output = OutputFile(str(path))
    found = {key: known.failed for key, known in output.known.items()}
    output.close()
    assert [one.name for one in path.parent.iterdir()] == [path.name]  # nothing is left beside it
    return found


def append(path: Path, *lines: bytes) -> None:
    output = OutputFile(str(path))
    for line in lines:
        head = json.loads(line)
        output.append(line, str(head["id"]), failed="error" in head)
    output.close()


def test_lines_are_appended_and_found(path: Path) -> None:
    """A run finds the ids of all runs before it."""
    append(path, answer("a"), error("b"))
    append(path, answer(3))
    assert path.read_bytes() == answer("a") + error("b") + answer(3)
    assert reopened(path) == {"a": False, "b": True, "3": False}


@posix
def test_a_new_file_has_the_permissions_of_any_other(path: Path) -> None:
    """The user's umask decides, as for every file that a user names."""
    before = os.umask(0o027)
    try:
        append(path, answer("a"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


# ---- after a kill --------------------------------------------------------------------------------

WHOLE = answer("a") + error("b")
LAST = answer('é"\\}', "some text {}")


@every("size", range(len(LAST)))
def test_a_torn_last_line_is_dropped(tmp_path: Path, size: int) -> None:
    """Cut after each of its bytes. What lacks only its newline is whole, and stays."""
    path = in_a_folder(tmp_path, size)
    found = reopened(path, WHOLE + LAST[:size])
    if size == len(LAST) - 1:
        assert (found, path.read_bytes()) == (
            {"a": False, "b": True, 'é"\\}': False},
            WHOLE + LAST,
        )
    else:
        assert (found, path.read_bytes()) == ({"a": False, "b": True}, WHOLE)


@pytest.mark.parametrize(
    "last", [b"{", b'{"id": "c", "te', b'{ "text": "half an', b'{"id":7,"error":']
)
def test_a_torn_line_may_be_written_in_another_way(path: Path, last: bytes) -> None:
    """After whole lines an object without its end is half of one, whatever has written it."""
    assert reopened(path, WHOLE + last) == {"a": False, "b": True}
    assert path.read_bytes() == WHOLE


def test_a_torn_line_may_be_all_there_is(path: Path) -> None:
    assert reopened(path, answer("a")[:-3]) == {}
    assert path.read_bytes() == b""


def test_what_a_loss_of_power_leaves_is_dropped(path: Path) -> None:
    """Zeros, in place of the blocks that were not written."""
    assert reopened(path, WHOLE + answer("c")[:9] + bytes(500)) == {"a": False, "b": True}
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize(
    "data",
    [
        b"notes\n",
        b"notes",
        b"\n\nnotes",
        b'{"id":"a","prompt":"Hi"}\n',
        b'{"id":"a","prompt":"Hi"}',
        b'{"id":"a","prompt":"Hi',
        b'{"id": "a", "te',
        b'{"id":7,"messages":[',
        answer("a") + b"garbage\n" + answer("b"),
        answer("a")[:-5] + b"\n" + answer("b"),
        answer("a") + b"[1,2",
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_a_file_of_something_else_is_left_as_it_is(path: Path, data: bytes) -> None:
    """Nothing is cut off, appended or replaced."""
    with pytest.raises(ConfigurationError, match="give another output"):
        reopened(path, data)
    assert path.read_bytes() == data


def test_a_line_that_is_too_long_is_not_torn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows it stays."""
    monkeypatch.setattr(module, "_LONGEST_LINE", 100)
    data = answer("a") + answer("b", "x" * 300) + answer("c")
    with pytest.raises(ConfigurationError, match=r"line 2 of .*give another output"):
        reopened(path, data)
    assert path.read_bytes() == data


def test_the_line_that_is_wrong_is_named(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="line 3 of "):
        reopened(path, answer("a") + b"\n" + b"{}\n" + answer("b"))


# ---- one line for each id ------------------------------------------------------------------------


def test_a_later_line_takes_the_place_of_an_error(path: Path) -> None:
    """At the end of the run; the others stay where they are."""
    append(path, error("a"), answer("b"), error("c"))
    output = OutputFile(str(path))
    output.append(answer("a"), "a", failed=False)
    output.append(error("c"), "c", failed=True)
    # What had arrived stays readable until then.
    assert path.read_bytes().startswith(error("a") + answer("b") + error("c"))
    output.close()
    assert path.read_bytes() == answer("b") + answer("a") + error("c")


def test_lines_out_of_date_go_after_a_kill(path: Path) -> None:
    """The next run removes them before it begins, whatever it then asks."""
    assert reopened(path, error("a") + answer("b") + error("a") + answer("a")) == {
        "a": False,
        "b": False,
    }
    assert path.read_bytes() == answer("b") + answer("a")


def test_an_answer_counts_more_than_an_error(path: Path) -> None:
    """Where files were put together by hand, nothing that was answered is asked again."""
    assert reopened(path, answer("a") + error("a") + answer("b", "1") + answer("b", "2")) == {
        "a": False,
        "b": False,
    }
    assert path.read_bytes() == answer("a") + answer("b", "2")


@posix
def test_a_replaced_file_keeps_permissions_and_links(path: Path, tmp_path: Path) -> None:
    """A symbolic link stays one."""
    target = tmp_path / "target.jsonl"
    target.write_bytes(error("a") + answer("a"))
    target.chmod(0o604)
    path.symlink_to(target)
    OutputFile(str(path)).close()
    assert path.is_symlink()
    assert target.read_bytes() == answer("a")
    assert stat.S_IMODE(target.stat().st_mode) == 0o604


def test_what_a_kill_has_left_beside_it_goes(path: Path) -> None:
    """The half of a new file."""
    output = OutputFile(str(path))
    Path(output._spare).write_bytes(b"half")
    os.close(output._descriptor)  # killed
    assert reopened(path, WHOLE) == {"a": False, "b": True}


@pytest.mark.parametrize("name", ["x" * 255, "\u00fc" * 127, "a b\n.jsonl"])
def test_any_name_of_a_file_will_do(tmp_path: Path, name: str) -> None:
    """Also the longest."""
    assert reopened(tmp_path / name, error("a") + answer("a")) == {"a": False}


@pytest.mark.slow
@every("seed", range(200))
def test_runs_in_random_order_leave_one_line_for_each_id(tmp_path: Path, seed: int) -> None:
    """Kills at any byte, retries of errors, in any order: an answered id is known for ever, and in
    the end each id has one line."""
    path = in_a_folder(tmp_path, seed)
    chance = random.Random(seed)
    answered: set[str] = set()
    for _ in range(6):
        output = OutputFile(str(path))
        assert answered <= {key for key, known in output.known.items() if not known.failed}
        whole: list[tuple[str, bool]] = []
        for key in chance.sample("abcdefgh", 5):
            known = output.known.get(key)
            if known is None or known.failed:
                fails = chance.random() < 0.5
                output.append(error(key) if fails else answer(key), key, failed=fails)
                whole.append((key, fails))
        if chance.random() < 0.5:
            output.close()
        else:  # killed, perhaps while it wrote another line
            os.close(output._descriptor)
            with open(path, "ab") as file:
                file.write(answer("z" * 9)[: chance.randrange(20)])
        answered |= {key for key, fails in whole if not fails}
    reopened(path)
    ids = [json.loads(line)["id"] for line in path.read_bytes().splitlines()]
    assert len(ids) == len(set(ids))


# ---- two runs, and files that cannot be written --------------------------------------------------


def test_two_runs_do_not_mix(path: Path) -> None:
    """The second is refused at once, also after the first has replaced the file."""
    path.write_bytes(error("a") + answer("a"))  # replaced when it is opened
    first = OutputFile(str(path))
    try:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="another `llmstream batch` is writing"):
                OutputFile(str(path))
        first.append(answer("b"), "b", failed=False)
    finally:
        first.close()
    assert reopened(path) == {"a": False, "b": False}


def test_a_lock_goes_with_its_process(path: Path) -> None:
    """However that ends."""
    code = (
        "import sys, os; from llmstream.batchfile import OutputFile; "
        f"OutputFile({str(path)!r}); print(1, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        with pytest.raises(ConfigurationError):
            OutputFile(str(path))
        process.kill()
        process.wait(20)
    eventually(lambda: reopened(path) == {}, "the lock is free")


def test_a_file_system_without_locks_has_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network shares."""
    fcntl = pytest.importorskip("fcntl")

    def flock(*given: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    append(path, answer("a"))
    assert reopened(path) == {"a": False}


def test_on_windows_a_file_beside_it_is_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `msvcrt`: a byte of it; it is let go of at the end."""
    from llmstream.batchfile import lock

    held: list[int] = []

    class Msvcrt:
        LK_NBLCK = 2

        @staticmethod
        def locking(descriptor: int, mode: int, size: int) -> None:
            if held:
                raise OSError(errno.EACCES, "taken")
            held.append(descriptor)

    monkeypatch.setattr(lock, "_fcntl", None)
    monkeypatch.setattr(lock, "_msvcrt", Msvcrt)
    output = OutputFile(str(path))
    with pytest.raises(ConfigurationError, match="another `llmstream batch`"):
        OutputFile(str(path))
    output.append(answer("a"), "a", failed=False)
    output.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(held[0])
    assert path.read_bytes() == answer("a")


@pytest.mark.parametrize("room", range(0, 40, 3))
def test_a_full_disk_leaves_whole_lines(
    path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What of a line had still fitted is taken back."""
    output = OutputFile(str(path))
    output.append(answer("a"), "a", failed=False)
    real, left = os.write, [room]

    def write(descriptor: int, data: Any) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(descriptor, data[: left[0]])
        left[0] -= written
        return written

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space left"):
        output.append(answer("b" * 30), "b" * 30, failed=False)
    monkeypatch.undo()
    output.append(answer("c"), "c", failed=False)
    output.close()
    assert path.read_bytes() == answer("a") + answer("c")


def test_a_disk_that_is_full_at_the_end_leaves_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All lines stay; the next run removes those that are out of date."""
    append(path, error("a"))
    output = OutputFile(str(path))
    output.append(answer("a"), "a", failed=False)

    def replace(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "replace", replace)
    with pytest.raises(OSError, match="No space left"):
        output.close()
    monkeypatch.undo()
    assert path.read_bytes() == error("a") + answer("a")
    assert reopened(path) == {"a": False}
    assert path.read_bytes() == answer("a")


@pytest.mark.parametrize("kind", ["folder", "no folder"])
def test_a_path_that_cannot_be_written_raises_oserror(tmp_path: Path, kind: str) -> None:
    """Which the command says in one sentence."""
    with pytest.raises(OSError):
        open_output(str(tmp_path if kind == "folder" else tmp_path / "none" / "out.jsonl"))
