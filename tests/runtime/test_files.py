"""Files that are replaced: a reader, a kill, a full disk and another process see a whole one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llmstream._runtime import files
from llmstream._runtime.files import check_replaceable, replace_file

posix = pytest.mark.skipif(os.name != "posix", reason="permissions, links and devices of POSIX")


def test_a_file_is_made_and_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    """A str and a Path; the check changes nothing."""
    page = tmp_path / "page.html"
    check_replaceable(page)
    assert list(tmp_path.iterdir()) == []
    replace_file(str(page), b"one")
    check_replaceable(str(page))
    replace_file(page, b"two, which is longer")
    assert page.read_bytes() == b"two, which is longer"
    assert list(tmp_path.iterdir()) == [page]


def test_who_has_opened_the_old_file_reads_it_to_its_end(tmp_path: Path) -> None:
    """The new page is another file."""
    page = tmp_path / "page.html"
    replace_file(page, b"old" * 1000)
    with page.open("rb") as file:
        assert file.read(3) == b"old"
        replace_file(page, b"new")
        assert file.read() == b"old" * 999


@pytest.mark.parametrize("failure", ["write", "replace"])
def test_a_failure_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    """A full disk, and an interrupt in the last moment."""
    page = tmp_path / "page.html"
    replace_file(page, b"old")
    if failure == "replace":

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(files.os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            replace_file(page, b"new")
    else:
        with pytest.raises(TypeError):
            replace_file(page, "text")  # type: ignore[arg-type]
    assert page.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [page]


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_the_permissions_stay(tmp_path: Path, mode: int) -> None:
    """Those of the old file; a new one has what the umask leaves of 0666."""
    page = tmp_path / "page.html"
    old = os.umask(0o027)
    try:
        replace_file(page, b"one")
    finally:
        os.umask(old)
    assert stat.S_IMODE(page.stat().st_mode) == 0o640
    page.chmod(mode)
    replace_file(page, b"two")
    assert stat.S_IMODE(page.stat().st_mode) == mode


@posix
def test_a_link_stays_and_a_device_is_written_to(tmp_path: Path) -> None:
    """What the link points to is replaced, also where it is not there yet; a pipe gets the data."""
    target, link = tmp_path / "target.html", tmp_path / "link.html"
    link.symlink_to(target)
    for data in (b"one", b"two"):
        check_replaceable(link)
        replace_file(link, data)
        assert link.is_symlink()
        assert target.read_bytes() == data
    replace_file("/dev/null", b"gone")
    read, write = os.pipe()
    replace_file(f"/dev/fd/{write}", b"through a pipe")
    os.close(write)
    assert os.read(read, 100) == b"through a pipe"
    os.close(read)


@pytest.mark.parametrize("name", ["", "missing/page.html"])
def test_what_cannot_be_written_is_an_os_error(tmp_path: Path, name: str) -> None:
    """A folder, and a file in a folder that is not there: the check says it before."""
    for use in (check_replaceable, lambda path: replace_file(path, b"x")):
        with pytest.raises(OSError, match=r"directory|denied"):
            use(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path: Path) -> None:
    """Threads; every read meanwhile is one of their files."""
    page = tmp_path / "page.html"
    replace_file(page, b"0" * 50_000)
    done = threading.Event()

    def write(digit: bytes) -> None:
        while not done.is_set():
            replace_file(page, digit * 50_000)

    writers = [threading.Thread(target=write, args=(str(n).encode(),)) for n in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(300):
            data = page.read_bytes()
            assert len(data) == 50_000
            assert len(set(data)) == 1
    finally:
        done.set()
        for writer in writers:
            writer.join()


@pytest.mark.slow
@posix
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    """A process that writes pages without an end is killed again and again."""
    page = tmp_path / "page.html"
    script = (
        "import sys; from llmstream._runtime.files import replace_file\n"
        "print('begins', flush=True)\n"
        "while True:\n"
        "    for digit in b'123456789': replace_file(sys.argv[1], bytes([digit]) * 300_000)\n"
    )
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(page)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            while not page.exists():
                pass
            process.kill()
        data = page.read_bytes()
        assert (len(data), len(set(data))) == (300_000, 1)
