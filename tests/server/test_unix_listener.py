"""`open_unix_listener`: the mode and the group of a unix socket, and what it does about a file at its path."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from pathlib import Path

import pytest
import trio
from helpers import NAME, Client

from smtp_trio import Server, open_unix_listener
from smtp_trio._server.unix_listener import _set_attributes, bind_unix


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
async def test_mode_and_group(short_path: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        listener = await open_unix_listener(short_path / "socket", mode=mode, gid=os.getegid())
    finally:
        os.umask(before)
    async with listener:
        status = (short_path / "socket").stat()
        assert stat.S_IMODE(status.st_mode) == mode
        assert status.st_gid == os.getegid()


@pytest.mark.parametrize("kind", ["link", "file", "hard link", "link to socket"])
@pytest.mark.parametrize("gid", [None, os.getegid()], ids=["mode", "group"])
def test_file_that_took_the_place_of_the_socket_is_not_changed(short_path: Path, kind: str, gid: int | None) -> None:
    """Another user who may write to the directory can do this after `bind`."""
    path, victim = short_path / "socket", short_path / "victim"
    if kind in ("file", "link"):
        victim.touch(mode=0o600)
    else:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(victim))
        victim.chmod(0o600)
    before = victim.stat()
    if kind.endswith("hard link"):
        path.hardlink_to(victim)
    elif kind == "file":
        victim.rename(path)
    else:
        path.symlink_to(victim)
    with pytest.raises(FileExistsError, match="replaced"):
        _set_attributes(str(path), 0o666, None, gid)
    after = path.stat()
    assert (after.st_mode, after.st_gid) == (before.st_mode, before.st_gid)


@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_file_never_has_more_permissions_than_the_mode(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    path = short_path / "socket"
    monkeypatch.setattr("smtp_trio._server.unix_listener._set_attributes", lambda *_: None)
    before = os.umask(0)
    try:
        bind_unix(str(path), mode).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_system_without_o_path(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_PATH")
    bind_unix(str(short_path / "socket"), 0o666, os.getegid()).close()
    assert stat.S_IMODE((short_path / "socket").stat().st_mode) == 0o666


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_owner(short_path: Path) -> None:
    bind_unix(str(short_path / "socket"), 0o600, 7, uid=8).close()
    status = (short_path / "socket").stat()
    assert (status.st_uid, status.st_gid) == (8, 7)
    bind_unix(str(short_path / "socket"), 0o600).close()  # replaced later by root, whose file it is then
    assert (short_path / "socket").stat().st_uid == 0


async def test_owner_only_by_default(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is one in the working directory."""
    monkeypatch.chdir(short_path)
    async with await open_unix_listener("socket"):
        assert stat.S_IMODE((short_path / "socket").stat().st_mode) == 0o600


async def test_socket_of_a_server_that_has_ended_is_replaced(short_path: Path) -> None:
    path = short_path / "socket"
    for _ in range(2):
        server = Server(name=NAME)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve_listeners, [await open_unix_listener(path)])
            client = Client(await trio.open_unix_socket(str(path)))
            await client.expect(f"220 {NAME}")
            await client.quit()
            await client.stream.aclose()
            await server.stop()
        assert path.exists()


@pytest.mark.parametrize("backlog", [None, 0])
async def test_live_socket_is_not_taken_over(short_path: Path, backlog: int | None) -> None:
    """Also not if its queue is full, so that a connection would have to wait."""
    path = short_path / "socket"
    async with await open_unix_listener(path, backlog=backlog):
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for each in (first, second):
                each.setblocking(False)
                try:
                    each.connect(str(path))
                except BlockingIOError:
                    assert backlog == 0
            created = path.stat()
            with pytest.raises(OSError, match="Address already in use") as caught:
                await open_unix_listener(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert os.path.samestat(path.stat(), created)


@pytest.mark.parametrize("kind", ["file", "directory", "link", "datagram"])
async def test_other_file_is_kept(short_path: Path, kind: str) -> None:
    path = short_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
        if kind == "file":
            path.touch()
        elif kind == "directory":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(short_path / "other")
        else:
            datagram.bind(str(path))
        reason = "Protocol wrong type for socket" if kind == "datagram" else "There is a file that is not a socket"
        with pytest.raises(OSError, match=reason):
            await open_unix_listener(path)
        assert path.lstat()


async def test_errors_leave_nothing(short_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await open_unix_listener(short_path / "missing" / "socket")
    with pytest.raises(OSError, match="path too long"):
        await open_unix_listener(short_path / ("x" * 200))
    with pytest.raises((OSError, OverflowError)):
        await open_unix_listener(short_path / "socket", gid=2**40)
    assert os.listdir(short_path) == []


def test_one_of_several_servers_wins(short_path: Path) -> None:
    """All find the socket of a server that has ended, at the same time."""
    path = str(short_path / "socket")
    bind_unix(path, 0o600).close()
    barrier = threading.Barrier(8)
    won: list[socket.socket] = []
    lost: list[int | None] = []

    def start() -> None:
        barrier.wait()
        try:
            won.append(bind_unix(path, 0o600))
        except OSError as error:
            lost.append(error.errno)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == [errno.EADDRINUSE] * 7
    assert os.listdir(short_path) == ["socket"]
    [sock] = won
    with sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
