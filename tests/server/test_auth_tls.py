"""AUTH with what TLS provides: channel binding to the server's certificate, and the client's certificate."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from helpers import NAME, Client as WireClient, authority, client_tls
from trio.testing import MockClock, memory_stream_pair

from smtp_trio import (
    AnonymousCredentials,
    Client,
    Credentials,
    ExternalCredentials,
    Hooks,
    Peer,
    Reply,
    Server,
    Session,
    TlsFiles,
    standard,
)
from smtp_trio.protocol import LocalProtocolError, ReplyError
from smtp_trio.protocol.extensions import Auth
from smtp_trio.protocol.replies import INVALID_CREDENTIALS
from smtp_trio.protocol.sasl import Secret

FRED = ("fred", "secret")
NO_PLUS = "SCRAM-SHA-256"


class Users(Hooks):
    """Records the mechanisms and the credentials of all logins."""

    def __init__(self) -> None:
        self.mechanisms: list[str] = []
        self.credentials: list[Credentials] = []
        self.users: list[str | None] = []

    async def secret(self, session: Session, user: str, mechanism: str) -> Secret | Reply | None:
        self.mechanisms.append(mechanism)
        if user == "disabled":
            return Reply(525, "Account disabled", "5.7.13")
        if user == "new" and mechanism.startswith("SCRAM"):
            return Reply(432, "Log in with another mechanism once", "4.7.12")
        return "secret" if user in ("fred", "new") else None

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        self.credentials.append(credentials)
        if credentials.mechanism == "EXTERNAL":
            return None if credentials.authzid in ("", credentials.user) else INVALID_CREDENTIALS
        return None if credentials.mechanism == "ANONYMOUS" or credentials.password == "secret" else INVALID_CREDENTIALS

    async def disconnect(self, session: Session) -> None:
        self.users.append(session.user)


def write(folder: Path, *names: str, **how: Any) -> Path:
    """Issue a certificate, and write it and its key into one file."""
    path = folder / f"{names[0]}.pem"
    authority().issue_cert(*names, **how).private_key_and_cert_chain_pem.write_to_path(path)
    return path


def new_context() -> ssl.SSLContext:
    """Return a context of a client to which a test can make changes."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


@asynccontextmanager
async def session(
    server: Server, host: str = NAME, *, between: Any = None, ssl_context: ssl.SSLContext | None = None, **settings: Any
) -> AsyncGenerator[Client]:
    """Connect a client; ``between`` is a function for streams to the client and to the server."""
    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        if between is None:
            nursery.start_soon(server.serve_stream, server_end)
        else:
            onward, last = memory_stream_pair()
            nursery.start_soon(server.serve_stream, last)
            nursery.start_soon(between, server_end, onward)
        async with Client(
            client_end,
            host=host,
            name="client.test",
            ssl_context=ssl_context or client_tls(),
            tls="required",
            **settings,
        ) as client:
            yield client


# --- channel binding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("host", [NAME, "other.test"])
async def test_login_is_bound_to_the_certificate(
    host: str, version: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    users, context = Users(), new_context()
    context.maximum_version = ssl.TLSVersion[version]
    server = Server(users, name=NAME, tls=TlsFiles([write(tmp_path, NAME), write(tmp_path, "other.test")]))
    async with session(server, host, auth=FRED, ssl_context=context) as client:
        assert client.user == "fred"
    assert users.mechanisms == ["SCRAM-SHA-256-PLUS"]


async def test_no_binding_without_the_files(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The certificate of a context that the application has made is not known."""
    users = Users()
    async with session(Server(users, name=NAME, tls=TlsFiles(write(tmp_path, NAME)).load()), auth=FRED) as client:
        assert client.user == "fred"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(write(tmp_path, NAME))
    async with session(Server(users, name=NAME, tls=context), auth=FRED) as client:
        assert client.user == "fred"
    assert users.mechanisms == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]


async def relay(certificate: Path, removed: bytes, put: bytes, near: Any, far: Any) -> None:
    """Pass the session on as someone who has a certificate for the name too, and replace octets in the replies."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def copy(source: Any, target: Any, removed: bytes = b"") -> None:
        async for octets in source:
            await target.send_all(bytes(octets).replace(removed, put) if removed else bytes(octets))
        await trio.aclose_forcefully(target)

    for sender, receiver in ((far, near), (near, far), (far, near), (near, far), (far, near)):
        await receiver.send_all(await sender.receive_some())  # the greeting, EHLO, STARTTLS and their replies
    near = trio.SSLStream(near, context, server_side=True, https_compatible=True)
    far = trio.SSLStream(far, client_tls(), server_hostname=NAME, https_compatible=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.do_handshake)
        nursery.start_soon(far.do_handshake)
    with trio.move_on_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy, near, far)
            nursery.start_soon(copy, far, near, removed)


@pytest.mark.parametrize(
    ("removed", "put", "offer", "code"),
    [
        (b"", b"", ("SCRAM-SHA-256-PLUS", NO_PLUS), 535),
        (b"SCRAM-SHA-256-PLUS ", b"", ("SCRAM-SHA-256-PLUS", NO_PLUS), 535),
        # The client knows no such mechanisms.
        (b"SCRAM-SHA-256-PLUS", b"X-OTHER-PLUS", ("SCRAM-SHA-256-PLUS", NO_PLUS), 535),
        (b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-512-PLUS", ("SCRAM-SHA-256-PLUS", NO_PLUS), 535),
        (b"", b"", (NO_PLUS,), None),
    ],
)  # fmt: skip
async def test_login_is_not_passed_on_by_another_server(
    removed: bytes, put: bytes, offer: tuple[str, ...], code: int | None, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Neither the login with channel binding, nor one after the offer of it was removed. Without the offer it works."""
    (tmp_path / "relay").mkdir()
    server = Server(
        Users(), name=NAME, tls=TlsFiles(write(tmp_path, NAME)), extensions=standard(Auth(mechanisms=offer))
    )
    stolen = write(tmp_path / "relay", NAME)

    async def between(near: Any, far: Any) -> None:
        await relay(stolen, removed, put, near, far)

    async with session(server, between=between) as client:
        if code is None:
            assert (await client.auth(FRED)).code == 235
        else:
            with pytest.raises(ReplyError) as caught:
                await client.auth(FRED)
            assert caught.value.reply.code == code


async def test_mechanisms_that_the_client_is_restricted_to(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A client that may not use channel binding says that it has none, and is not taken for one that was deceived."""
    users = Users()
    server = Server(users, name=NAME, tls=TlsFiles(write(tmp_path, NAME)))
    async with session(server, auth=FRED, auth_mechanisms=[NO_PLUS]) as client:
        assert client.user == "fred"
    assert users.mechanisms == [NO_PLUS]


# --- the client's certificate -------------------------------------------------------------------------------------------


def external_server(tmp_path: Path, users: Users, *mechanisms: str, **options: Any) -> Server:
    ca = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(ca)
    files = TlsFiles(write(tmp_path, NAME), client_certificate="optional", client_ca=ca)
    return Server(users, name=NAME, tls=files, extensions=standard(Auth(mechanisms=mechanisms)), **options)


def with_certificate(tmp_path: Path, *names: str, **how: Any) -> ssl.SSLContext:
    context = new_context()
    context.load_cert_chain(write(tmp_path, *names, **how))
    return context


@pytest.mark.parametrize(
    ("names", "how", "user"),
    [
        (("fred@client.test",), {"common_name": "Fred"}, "fred@client.test"),
        (("client.test",), {"common_name": "fred"}, "fred"),
    ],
)
@pytest.mark.parametrize("explicit", [False, True])
async def test_external(
    names: tuple[str, ...], how: dict[str, str], user: str, explicit: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    users = Users()
    server = external_server(tmp_path, users, "EXTERNAL", "PLAIN")
    context = with_certificate(tmp_path, *names, **how)
    auth = ExternalCredentials(user if explicit else "")
    async with session(server, auth=auth, ssl_context=context) as client:
        assert client.user == auth.user
    (credentials,) = users.credentials
    assert (credentials.user, credentials.authzid) == (user, auth.authzid)
    assert credentials.certificate is not None
    assert users.users == [user]


async def test_external_as_another_user(tmp_path: Path, autojump_clock: MockClock) -> None:
    server = external_server(tmp_path, Users(), "EXTERNAL")
    context = with_certificate(tmp_path, "fred@client.test")
    async with session(server, ssl_context=context) as client:
        with pytest.raises(ReplyError) as caught:
            await client.auth(ExternalCredentials("wilma"))
        assert caught.value.reply == INVALID_CREDENTIALS


async def test_external_with_several_names(tmp_path: Path, autojump_clock: MockClock) -> None:
    users = Users()
    server = external_server(tmp_path, users, "EXTERNAL")
    context = with_certificate(tmp_path, "fred@client.test", "f@client.test", common_name="Fred")
    for authzid, user in (("", "fred@client.test"), ("f@client.test", "f@client.test")):
        async with session(server, auth=ExternalCredentials(authzid), ssl_context=context):
            pass
        assert users.users.pop() == user
    async with session(server, ssl_context=context) as client:
        with pytest.raises(ReplyError):
            await client.auth(ExternalCredentials("Fred"))


@pytest.mark.parametrize("authzid", ["", "wilma", "client.test"])
async def test_external_with_a_certificate_that_names_no_user(
    authzid: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The hook is not called, so that it cannot take the name that the client has sent for one that was proved."""
    users = Users()
    server = external_server(tmp_path, users, "EXTERNAL")
    async with session(server, ssl_context=with_certificate(tmp_path, "client.test")) as client:
        with pytest.raises(ReplyError) as caught:
            await client.auth(ExternalCredentials(authzid))
        assert caught.value.reply == INVALID_CREDENTIALS
    assert (users.credentials, users.users) == ([], [None])


async def test_external_on_the_wire(tmp_path: Path, autojump_clock: MockClock) -> None:
    """ "=" is an empty authorization identity, as is an empty line (RFC 4954 4)."""
    users = Users()
    server = external_server(tmp_path, users, "EXTERNAL")
    context = with_certificate(tmp_path, "fred@client.test")
    for lines, expected in (
        (["AUTH EXTERNAL =", "AUTH EXTERNAL ="], ["235 2.7.0", "503 5.5.1"]), (["AUTH EXTERNAL", ""], ["334 ", "235 2.7.0"]),
        (["AUTH EXTERNAL", "="], ["334 ", "501 5.5.2"]), (["AUTH EXTERNAL", "*"], ["334 ", "501 5.7.0"]),
        (["AUTH EXTERNAL ==", "AUTH EXTERNAL = ="], ["501 5.5.2", "501 5.5.2"]),
    ):  # fmt: skip
        near, far = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_stream, far)
            wire = WireClient(near)
            await wire.hello()
            await wire.command("STARTTLS", "220")
            wire.stream = trio.SSLStream(near, context, server_hostname=NAME)
            await wire.hello()
            for line, code in zip(lines, expected, strict=True):
                await wire.command(line, code)
            await wire.command("QUIT", "221")
    assert users.users == ["fred@client.test", "fred@client.test", None, None, None]


async def test_certificate_of_a_proxy_is_not_that_of_its_client(tmp_path: Path, autojump_clock: MockClock) -> None:
    """XCLIENT names another client, which neither EXTERNAL nor a hook may take for the owner of the certificate."""
    seen: list[tuple[str, bool | None]] = []

    class Recorder(Users):
        async def connect(self, session: Session) -> Reply | None:
            tls = session.tls
            seen.append((session.peer.host, None if tls is None else tls.client_certificate is not None))
            return None

    server = external_server(tmp_path, Recorder(), "EXTERNAL", "PLAIN", xclient_from=["10.0.0.1"])
    near, far = memory_stream_pair()
    far.endpoints = Peer("10.0.0.1", 5000, "tcp"), Peer("10.0.0.2", 25, "tcp")  # type: ignore[attr-defined]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, far)
        wire = WireClient(near)
        await wire.hello()
        await wire.command("STARTTLS", "220")
        wire.stream = trio.SSLStream(near, with_certificate(tmp_path, "fred@client.test"), server_hostname=NAME)
        assert "250-AUTH EXTERNAL PLAIN" in await wire.hello()
        for attribute, offer in ("NAME=a.test", "250-AUTH EXTERNAL PLAIN"), ("ADDR=192.0.2.9", "250-AUTH PLAIN"):
            wire.replies.clear()  # the reply is a greeting
            await wire.command(f"XCLIENT {attribute}", f"220 {NAME}")
            assert offer in await wire.command("EHLO x", "250-")
        await wire.command("AUTH EXTERNAL =", "504")
        await wire.command("QUIT", "221")
    assert seen == [("10.0.0.1", None), ("10.0.0.1", True), ("192.0.2.9", False)]


async def test_external_needs_a_certificate(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Without one it is neither offered nor accepted, in whichever order the two kinds of sessions come."""
    users = Users()
    server = external_server(tmp_path, users, "EXTERNAL", "PLAIN")
    context = with_certificate(tmp_path, "fred@client.test")
    for has_certificate in (False, True, False):
        async with session(server, ssl_context=context if has_certificate else None) as client:
            offered = client.offered["AUTH"]
            assert isinstance(offered, Auth)
            assert offered.mechanisms == (("EXTERNAL", "PLAIN") if has_certificate else ("PLAIN",))
            if not has_certificate:
                with pytest.raises(LocalProtocolError, match="EXTERNAL is not offered"):
                    await client.auth(ExternalCredentials())
    assert users.credentials == []


# --- ANONYMOUS, and replies of the `secret` hook ---------------------------------------------------------------------


async def test_anonymous(tmp_path: Path, autojump_clock: MockClock) -> None:
    users = Users()
    server = external_server(tmp_path, users, "ANONYMOUS")
    async with session(server, auth=AnonymousCredentials("fred@client.test")) as client:
        assert client.user == "anonymous"
    assert users.users == ["anonymous"]
    assert [each.password for each in users.credentials] == ["fred@client.test"]


async def test_mechanisms_that_are_offered_by_default(tmp_path: Path, autojump_clock: MockClock) -> None:
    ca = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(ca)
    files = TlsFiles(write(tmp_path, NAME), client_certificate="optional", client_ca=ca)
    server = Server(Users(), name=NAME, tls=files)
    context = with_certificate(tmp_path, "fred@client.test")
    async with session(server, ssl_context=context) as client:
        offered = client.offered["AUTH"]
        assert isinstance(offered, Auth)
        assert offered.mechanisms == ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN", "CRAM-MD5")


async def test_reply_of_the_secret_hook(tmp_path: Path, autojump_clock: MockClock) -> None:
    """525 ends the attempt; after 432 the client logs in by the next mechanism."""
    users = Users()
    server = external_server(tmp_path, users, "SCRAM-SHA-256", "PLAIN")
    async with session(server) as client:
        with pytest.raises(ReplyError) as caught:
            await client.auth(("disabled", "secret"))
        assert caught.value.reply == Reply(525, "Account disabled", "5.7.13")
        assert (await client.auth(("new", "secret"))).code == 235
    assert users.mechanisms == ["SCRAM-SHA-256"] * 2
    assert [each.mechanism for each in users.credentials] == ["PLAIN"]
