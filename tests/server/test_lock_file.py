"""`locked`: a lock file excludes other processes, and a file that is not one gives an error with its name."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from smtp_trio._server.lock_file import locked


def test_file_is_private_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    before = os.umask(0)
    try:
        with locked(str(path)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert os.listdir(tmp_path) == []


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with locked("lock"):
        assert os.listdir(tmp_path) == ["lock"]


def test_lock_of_another_process_is_awaited_for_a_limited_time(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    hold = "import sys\nfrom smtp_trio._server.lock_file import locked\nwith locked(sys.argv[1]): print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with (
            pytest.raises(BlockingIOError, match=f"another process holds the lock file {path}") as caught,
            locked(path, wait=0),
        ):
            pass
        assert caught.value.filename == path
        assert os.path.exists(path)
        process.communicate(b"")
    assert not os.path.exists(path)


def test_file_that_a_killed_process_has_left_is_used(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch(mode=0o600)
    with locked(str(path), wait=0):
        pass
    assert not path.exists()


def test_lock_of_the_directory_does_not_matter(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with locked(str(tmp_path / "lock"), wait=0):
            pass
    finally:
        os.close(directory)


def test_each_of_many_threads_gets_the_lock_alone(tmp_path: Path) -> None:
    """The file is removed and created again meanwhile."""
    holders: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            with locked(str(tmp_path / "lock"), wait=600):
                holders.append(number)
                most.append(len(holders))
                holders.remove(number)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 40


@pytest.mark.parametrize(
    ("kind", "code"),
    [("link", errno.ELOOP), ("directory", errno.EISDIR), ("pipe", errno.EEXIST), ("hard link", errno.EEXIST)],
)
def test_other_file(tmp_path: Path, kind: str, code: int) -> None:
    path, other = tmp_path / "lock", tmp_path / "other"
    other.write_bytes(b"text")
    if kind == "link":
        path.symlink_to(other)
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.hardlink_to(other)
    with pytest.raises(OSError, match=f"lock file {path}") as caught, locked(str(path), wait=0):
        pass
    assert caught.value.errno == code
    assert path.lstat()
    assert other.read_bytes() == b"text"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_file_of_another_user(tmp_path: Path) -> None:
    """The owner of the directory may create it."""
    path = tmp_path / "lock"
    path.touch(mode=0o666)
    os.chown(path, 8, 8)
    with pytest.raises(PermissionError, match=f"lock file {path} belongs to another user"), locked(str(path), wait=0):
        pass
    os.chown(tmp_path, 8, 8)
    with locked(str(path), wait=0):
        pass


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(str(tmp_path / "missing" / "lock")):
        pass
