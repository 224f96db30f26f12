"""One Maildir for each recipient: the names of the folders, and delivery into several. See also test_contract.py."""

from __future__ import annotations

import errno
import os
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from smtp_trio import stores
from smtp_trio.stores import Entry, Maildir, RecipientMaildirs, StoreError, _maildir_template, read, recipient_maildirs
from smtp_trio.stores._maildir_template import Template
from smtp_trio.stores.recipient_maildirs import RecipientSpool
from smtp_trio.testing import open_memory_server

from .contract import MESSAGE, put
from .sessions import body, large, transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NOW = datetime(2026, 11, 22, tzinfo=UTC)
TEMPLATE = "{domain}/{local}"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RecipientMaildirs]:
    async with RecipientMaildirs(tmp_path / "mail" / TEMPLATE) as store:
        yield store


def tree(store: RecipientMaildirs) -> dict[str, tuple[tuple[str, ...], bytes]]:
    """Return the recipients and the message in each Maildir, which has one; and check that nothing else is left."""
    assert os.listdir(store.tmp) == []
    found = {}
    for folder in store.template.folders():
        assert sorted(os.listdir(folder)) == ["cur", "new", "tmp"]
        for name in os.listdir(os.path.join(folder, "new")):
            stored = read(os.path.join(folder, "new", name))
            found[os.path.relpath(folder, store.path)] = stored.recipients, stored.message
            assert name.endswith(f",S={os.path.getsize(os.path.join(folder, 'new', name))}")
    return found


FOLDERS = [
    ("user@mx.test", "mx.test/user"),
    ("User@MX.Test", "mx.test/user"),
    ('"user"@mx.test', "mx.test/user"),
    ("user+detail@mx.test", "mx.test/user+detail"),
    ("a.b_c=d@mx.test", "mx.test/a.b_c=d"),
    ("Postmaster", "_/postmaster"),
    ("postmaster@_.test", "%5F.test/postmaster"),
    ("用户@例子.test", "xn--fsqu00a.test/%E7%94%A8%E6%88%B7"),
    ("用户@xn--fsqu00a.test", "xn--fsqu00a.test/%E7%94%A8%E6%88%B7"),
    ("Jürgen@mx.test", "mx.test/j%C3%BCrgen"),
    ("\u212aate@mx.test", "mx.test/%E2%84%AAate"),  # not Kate
    ("x@[192.0.2.1]", "%5B192.0.2.1%5D/x"),
    ("x@[IPv6:2001:DB8::1]", "%5Bipv6%3A2001%3Adb8%3A%3A1%5D/x"),
    ("a/b@mx.test", "mx.test/a%2Fb"),
    ("../../etc/passwd@mx.test", "mx.test/%2E.%2F..%2Fetc%2Fpasswd"),
    ("..@mx.test", "mx.test/%2E."),
    ('"."@mx.test', "mx.test/%22.%22"),
    (".hidden@mx.test", "mx.test/%2Ehidden"),
    ("-rf@mx.test", "mx.test/%2Drf"),
    ("%2Fx@mx.test", "mx.test/%252%46x".replace("%46", "f")),
    ('"a b"@mx.test', "mx.test/%22a%20b%22"),
    ('"a@b"@mx.test', "mx.test/%22a%40b%22"),
    ("~root@mx.test", "mx.test/%7Eroot"),
    ("$(x)`x`;*?@mx.test", "mx.test/%24%28x%29%60x%60%3B%2A%3F"),
    ("cur@mx.test", "mx.test/cur"),
    # Those that no server accepts, of `Store.add`:
    ("x@../..", "%2E.%2F../x"),
    ("\0\n@\0/", "%00%2F/%00%0A"),
    ("", "_/%"),
    ("@", "%/%"),
]


@pytest.mark.parametrize(("address", "folder"), FOLDERS, ids=range(len(FOLDERS)))
def test_folders(address: str, folder: str) -> None:
    assert Template.parse(f"/mail/{TEMPLATE}").folder(address) == folder


def test_folder_of_a_long_address() -> None:
    template = Template.parse("/mail/{local}@{domain}")
    folders = {template.folder(f"{'用' * n}@{'a' * m}.test") for n in (60, 80, 81) for m in (60, 250, 251)}
    assert len(folders) == 9
    assert max(map(len, folders)) <= 255
    long = template.folder(f"{'用' * 80}@mx.test")
    assert template.folder(f"{long}@mx.test") != long


def test_two_addresses_have_two_folders() -> None:
    parts = [
        "a",
        "A",
        "a.b",
        "%61",
        "%",
        "_",
        "a%2eb",
        "%2e",
        ".",
        "..",
        "-",
        "%2d",
        "a@b",
        "%40",
        "%-x",
        "é",
        "e\u0301",
    ]
    for text in (TEMPLATE, "{local}@{domain}", "{local}/{domain}/Maildir"):
        template = Template.parse(text)
        folders: dict[str, set[str]] = {}
        for local in parts:
            for domain in parts[:-1]:  # in a domain both forms of the letter are the same
                folders.setdefault(template.folder(f"{local}@{domain}"), set()).add(f"{local}@{domain}".lower())
        assert [each for each in folders.values() if len(each) > 1] == []
        for folder in folders:
            assert folder.isascii()
            assert not any(part.startswith((".", "-")) for part in folder.split("/"))


@pytest.mark.parametrize(
    "template",
    [
        "mail/{domain}",
        "mail/{local}",
        "mail/{user}/{domain}",
        "mail/{domain}/{local}/{local}",
        "mail/{domain}-{local}",
        "mail/x{domain}/{local}",
        "mail/{domain}/{local",
        "mail/{domain}/{local}/../x",
        "mail/{domain}/{local}/{}",
        "mail/{Domain}/{local}",
        "mail/{domain}@{local}",
    ],
)
def test_invalid_template(template: str) -> None:
    with pytest.raises(ValueError, match="a template must"):
        RecipientMaildirs(template)
    with pytest.raises(ValueError, match="a template must"):
        stores.open(f"maildir:{template}")


def test_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = stores.open("maildir:a?b/{domain}/{local}/Maildir?newline=lf")
    assert isinstance(store, RecipientMaildirs)
    assert (store.path, store.newline) == (str(tmp_path / "a?b"), "lf")
    again = stores.open(store.url)
    assert isinstance(again, RecipientMaildirs)
    assert (again.template, again.newline) == (store.template, "lf")
    assert isinstance(stores.open("maildir:x"), Maildir)


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("newline", ["crlf", "lf"])
async def test_each_recipient_gets_the_message(tmp_path: Path, size: str, newline: str) -> None:
    """Once, without the others; and those that are the same mailbox share a copy."""
    store = RecipientMaildirs(tmp_path / TEMPLATE, newline=newline)  # type: ignore[arg-type]
    chunks = (MESSAGE,) if size == "small" else tuple(large())
    recipients = ("a@mx.test", "b@mx.test", "A@MX.test", "a@other.test", "b@mx.test")
    uid = await store.put(transaction("me@client.test", *recipients), body(*chunks))
    message = b"".join(chunks)
    message = message if newline == "crlf" else message.replace(b"\r\n", b"\n")
    assert tree(store) == {
        "mx.test/a": (("a@mx.test", "A@MX.test"), message),
        "mx.test/b": (("b@mx.test", "b@mx.test"), message),
        "other.test/a": (("a@other.test",), message),
    }
    stored = await store.get(uid)
    assert (stored.id, sorted(stored.recipients), stored.message) == (uid, sorted(recipients), message)
    assert [entry.recipients async for entry in store] == [stored.recipients]
    assert (b"\r\n" in (tmp_path / "mx.test/a/new" / os.listdir(tmp_path / "mx.test/a/new")[0]).read_bytes()) is (
        newline == "crlf"
    )
    assert await store.remove([uid]) == 1
    assert tree(store) == {}
    await store.aclose()


async def test_hostile_addresses_over_smtp(store: RecipientMaildirs, tmp_path: Path) -> None:
    """All files are in Maildirs below the root, for any recipient."""
    addresses = [
        "../../../x@mx.test",
        '"/etc/passwd"@mx.test',
        '"../x"@mx.test',
        '"\\."@mx.test',
        '".."@mx.test',
        "a/../../b@mx.test",
        "%2e%2e/x@mx.test",
        f"{'x' * 64}@{'y' * 60}.test",
        "x@[IPv6:::ffff:192.0.2.1]",
    ]
    before = os.listdir(tmp_path)
    async with open_memory_server(store) as server, server.client() as client:
        result = await client.send("me@client.test", addresses, MESSAGE)
    accepted = sorted(each.recipient for each in result.accepted)
    assert len(accepted) == 7  # the others are not well-formed
    assert sorted(recipient for recipients, _ in tree(store).values() for recipient in recipients) == accepted
    assert os.listdir(tmp_path) == before
    for path, _, names in os.walk(tmp_path):
        depth = path.removeprefix(store.path).count("/")
        assert not names or (depth == 3 and path.endswith("/new"))


async def test_directories_are_private_and_created_once(store: RecipientMaildirs) -> None:
    await put(store)
    for path, _, _ in os.walk(store.path):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


async def test_bounded_number_of_open_directories(store: RecipientMaildirs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipient_maildirs, "MAX_OPEN", 3)
    before = len(os.listdir("/proc/self/fd"))
    recipients = tuple(f"user{n}@mx.test" for n in range(20))
    for chunks in ((MESSAGE,), tuple(large())):
        await store.put(transaction("me@client.test", *recipients), body(*chunks))
    assert len(os.listdir("/proc/self/fd")) <= before + 3 + 2
    assert len(tree(store)) == 20


@pytest.mark.parametrize("size", ["small", "large"])
async def test_order_of_the_flushes(store: RecipientMaildirs, monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    """All files are flushed before the first is visible, and then each directory once, for all messages of a group."""
    chunks = (MESSAGE,) if size == "small" else tuple(large())
    users = ("a@mx.test", "b@mx.test", "c@mx.test")
    await store.put(transaction("me@client.test", *users), body(MESSAGE))
    spools = [RecipientSpool(store, Entry(id="x", received=NOW, sender="", recipients=users), b"Received: x\r\n", lf=False)
              for _ in range(2)]  # fmt: skip
    calls: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        real_fsync(fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
        calls.append(f"fsync {os.path.relpath(path, store.path)}")

    def rename(source: str, destination: str, **options: int) -> None:
        real_rename(source, destination, **options)
        calls.append("rename")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    for spool in spools:
        await spool.fill(body(*chunks))
    assert store._commit(spools) == {}
    first, last = calls.index("rename"), 5 + calls.index("rename")
    assert sorted(calls[:first]) == sorted(
        f"fsync .smtp-trio-tmp/{spool.name}.{n}" for spool in spools for n in range(3)
    )
    assert calls[first : last + 1] == ["rename"] * 6
    assert calls[last + 1 :] == [f"fsync mx.test/{user}/new" for user in "abc"] + ["fsync .smtp-trio-tmp"]


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename", "mkdir"])
@pytest.mark.parametrize("size", ["small", "large"])
async def test_error_leaves_nothing_in_any_maildir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, size: str
) -> None:
    """Wherever it occurs. Other messages of the group are stored."""
    chunks = (MESSAGE,) if size == "small" else tuple(large(9 << 17))
    real = getattr(os, call)
    for number in range(1, 60):
        calls = 0

        def failing(*args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == number:  # noqa: B023 -- it is called in this turn of the loop
                raise OSError(errno.EIO, "Input/output error")
            return real(*args, **options)

        store = RecipientMaildirs(tmp_path / str(number) / TEMPLATE)
        await store.open()
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                await store.put(transaction("me@client.test", "a@mx.test", "b@mx.test", "c@y.test"), body(*chunks))
            except StoreError:
                stored = 0
            else:
                stored = 3
        assert len(tree(store)) == stored
        await put(store, recipients=("d@mx.test",))
        assert len(tree(store)) == stored + 1
        await store.aclose()
        if calls < number:
            assert stored == 3
            assert number > 2
            return
    pytest.fail("the calls have no end")


async def test_error_of_one_maildir_does_not_affect_messages_for_others(store: RecipientMaildirs) -> None:
    await put(store, recipients=("before@mx.test",))
    with open(os.path.join(store.path, "mx.test/bad"), "w"):
        pass
    spools = [
        store._spool(Entry.of(session, session.envelope), session.received)  # type: ignore[arg-type]
        for session in (
            transaction("me@client.test", "good@mx.test"),
            transaction("me@client.test", "good@mx.test", "bad@mx.test"),
        )
    ]
    for spool in spools:
        await spool.fill(body(MESSAGE))
    errors = [spools.index(spool) for spool in store._commit(spools)]
    assert errors == [1]
    assert tree(store).keys() == {"mx.test/before", "mx.test/good"}


async def test_link_at_a_maildir(store: RecipientMaildirs, tmp_path: Path) -> None:
    await put(store, recipients=("a@mx.test",))
    (tmp_path / "elsewhere/new").mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", os.path.join(store.path, "mx.test/b"))
    with pytest.raises(StoreError, match="symbolic link"):
        await put(store, recipients=("b@mx.test",))
    assert os.listdir(tmp_path / "elsewhere/new") == []


async def test_maildir_that_is_replaced_while_in_use(store: RecipientMaildirs) -> None:
    await put(store, recipients=("a@mx.test",))
    os.rename(os.path.join(store.path, "mx.test/a"), os.path.join(store.path, "moved"))
    await put(store, recipients=("a@mx.test",))
    assert tree(store).keys() == {"mx.test/a"}


async def test_files_that_processes_have_left_are_removed(store: RecipientMaildirs) -> None:
    await store.aclose()
    path = os.path.join(store.tmp, "old")
    with open(path, "w"):
        pass
    os.utime(path, (1, 1))
    await store.open()
    assert os.listdir(store.tmp) == []


async def test_consuming_is_not_supported(store: RecipientMaildirs) -> None:
    with pytest.raises(stores.NotSupportedError, match=r"RecipientMaildirs\('.*'\): such a store cannot be consumed"):
        await anext(store.consume())
    with pytest.raises(stores.NotSupportedError):
        store.dead_letters()


def test_name_that_no_octets_have() -> None:
    assert _maildir_template.encode("", _maildir_template.LOCAL_SAFE) == "%"
