"""AUTH with other implementations: Dovecot behind Postfix as the server, GNU SASL and scramp as clients, and their secrets."""

from __future__ import annotations

import base64
import hashlib
import re
import smtplib
import ssl
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import pytest
import trio
import trustme
from attrs import evolve
from ports import free_port

from smtp_trio import (
    Client,
    Credentials,
    PasswordCredentials,
    Reply,
    Server,
    Session,
    TlsFiles,
    connect,
    standard,
)
from smtp_trio.credentials import UsersFile, set_password
from smtp_trio.protocol import ReplyError
from smtp_trio.protocol.extensions import Auth
from smtp_trio.protocol.sasl import MECHANISMS

from . import servers
from .conftest import require, require_server
from .programs import HOST, PASSWORD, PATH, USER
from .setups import SETUPS, Workspace, isolated, postfix

pytestmark = pytest.mark.interop

# --- Postfix with Dovecot -----------------------------------------------------------------------------------------------

POSTFIX = """
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {directory}/auth
smtpd_tls_auth_only = yes
# Until Dovecot listens, smtpd fails.
service_throttle_time = 1s
"""


def with_dovecot(workspace: Workspace) -> list[list[str]]:
    commands = postfix(workspace)
    with (workspace.directory / "config" / "main.cf").open("a") as file:
        file.write(POSTFIX.format(directory=workspace.directory))
    (workspace.directory / "dovecot").mkdir()
    (workspace.directory / "passwd").write_text(f"{USER}:{PASSWORD}\n")
    config = workspace.write("dovecot-sasl.conf", "dovecot.conf")
    return [isolated({}, "dovecot", "-F", "-c", config), *commands]


@pytest.fixture(scope="module")
def dovecot() -> Iterator[servers.Server]:
    """Postfix, with Dovecot for AUTH."""
    require_server("postfix")
    require("dovecot", "--version")
    # Not in pytest's directory, which the users that the servers run as may not enter.
    with TemporaryDirectory(prefix="smtp-trio-") as name:
        yield from serve_with_dovecot(Path(name))


def serve_with_dovecot(directory: Path) -> Iterator[servers.Server]:
    authority = trustme.CA()
    chain, key = servers.write_files(directory, authority.issue_cert(HOST), authority)
    workspace = Workspace(
        server="postfix",
        profile="interop",
        directory=directory,
        port=free_port(),
        implicit_port=free_port(),
        chain=chain,
        key=key,
    )
    with servers.run(evolve(SETUPS["postfix"], commands=with_dovecot), workspace) as server:
        yield server
        print(server.log())


@pytest.mark.parametrize("name", ["SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "LOGIN", "CRAM-MD5"])
async def test_client_logs_in_at_dovecot(name: str, dovecot: servers.Server) -> None:
    context = ssl.create_default_context(cafile=dovecot.cafile)
    settings = partial(connect, HOST, dovecot.port, ssl_context=context, auth_mechanisms=[name])
    async with settings(auth=(USER, PASSWORD)) as client:
        assert client.user == USER
        await client.send("me@example.net", ["you@example.org"], b"Subject: hi\r\n\r\nhello\r\n")
    (message,) = dovecot.received(1)
    assert message.endswith(b"hello\r\n")
    for user, password in ((USER, "wrong"), ("nobody", PASSWORD)):
        with pytest.raises(ReplyError) as caught:
            async with settings(auth=(user, password)):
                raise AssertionError("unreachable")
        assert caught.value.reply.code == 535


async def test_client_prefers_scram_at_dovecot(dovecot: servers.Server) -> None:
    context = ssl.create_default_context(cafile=dovecot.cafile)
    async with connect(HOST, dovecot.port, ssl_context=context) as client:
        offered = client.offered["AUTH"]
        assert isinstance(offered, Auth)
        assert {"SCRAM-SHA-256", "PLAIN"} < set(offered.mechanisms)
        assert (await client.auth((USER, PASSWORD))).code == 235


# --- clients of our server ----------------------------------------------------------------------------------------------


class Certificates:
    """The files of an authority, a server and a client."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca, self.server = folder / "ca.pem", folder / "server.pem"
        self.client, self.client_key = folder / "client.pem", folder / "client-key.pem"
        authority.cert_pem.write_to_path(self.ca)
        authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(self.server)
        issued = authority.issue_cert("fred@client.test")
        issued.private_key_pem.write_to_path(self.client_key)
        issued.cert_chain_pems[0].write_to_path(self.client)


class Logins:
    """The logins that a server has seen: the mechanism and the user of each session."""

    def __init__(self, users: UsersFile) -> None:
        self.users = users
        self.seen: list[str | None] = []

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        if credentials.mechanism in ("EXTERNAL", "ANONYMOUS"):
            return None
        return await self.users.auth(session, credentials)

    async def disconnect(self, session: Session) -> None:
        self.seen.append(session.user)


@asynccontextmanager
async def serving(certificates: Certificates, users: UsersFile) -> AsyncGenerator[tuple[int, Logins]]:
    """Run a server that offers all mechanisms."""
    tls = TlsFiles(certificates.server, client_certificate="optional", client_ca=certificates.ca)
    server, logins = Server(tls=tls, extensions=standard(Auth(mechanisms=tuple(MECHANISMS)))), Logins(users)
    server.on(auth=logins.auth, secret=users.secret, disconnect=logins.disconnect)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(server.serve, 0, "127.0.0.1"))
        yield listeners[0].socket.getsockname()[1], logins
        await server.stop(5)


GSASL = {
    "SCRAM-SHA-256": ("--no-cb",),
    "SCRAM-SHA-1": ("--no-cb",),
    "PLAIN": (),
    "LOGIN": (),
    "ANONYMOUS": ("--anonymous-token", "fred@client.test"),
    "EXTERNAL": (),
}


@pytest.mark.parametrize("password", ["secret", "wrong"])
@pytest.mark.parametrize("name", GSASL)
async def test_gsasl_logs_in(name: str, password: str, tmp_path: Path) -> None:
    require("gsasl")
    certificates = Certificates(tmp_path)
    await trio.to_thread.run_sync(partial(set_password, tmp_path / "users", "fred", "secret", kind="scram"))
    async with serving(certificates, UsersFile(tmp_path / "users")) as (port, logins):
        command = ["gsasl", "--smtp", f"--connect={HOST}:{port}", f"--x509-ca-file={certificates.ca}", "-m", name]
        command += ["-a", "fred", "-p", password, *GSASL[name]]
        if name == "EXTERNAL":
            command += [
                "-z",
                "",
                f"--x509-cert-file={certificates.client}",
                f"--x509-key-file={certificates.client_key}",
            ]
        done = await trio.run_process(
            command, stdin=b"", capture_stdout=True, capture_stderr=True, check=False, env={"PATH": PATH}
        )
    user = {"EXTERNAL": "fred@client.test", "ANONYMOUS": "anonymous"}.get(
        name, "fred" if password == "secret" else None
    )
    assert logins.seen == [user], done
    assert (b"235 2.7.0" in done.stdout) == (user is not None)


@pytest.mark.parametrize("name", ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1"])
async def test_scramp_logs_in_through_smtplib(name: str, tmp_path: Path) -> None:
    """The channel binding is that of the certificate that smtplib has received."""
    scramp = pytest.importorskip("scramp")
    certificates = Certificates(tmp_path)
    await trio.to_thread.run_sync(partial(set_password, tmp_path / "users", "fred", "secret", kind="scram"))

    def converse(port: int) -> None:
        with smtplib.SMTP(HOST, port, "client.test", timeout=100) as smtp:
            smtp.starttls(context=ssl.create_default_context(cafile=certificates.ca))
            smtp.ehlo()
            assert name in smtp.esmtp_features["auth"].split()
            assert isinstance(smtp.sock, ssl.SSLSocket)
            certificate = smtp.sock.getpeercert(binary_form=True)  # trustme signs with SHA-256
            bound = ("tls-server-end-point", hashlib.sha256(certificate or b"").digest())
            binding = bound if name.endswith("-PLUS") else None
            client = scramp.ScramClient([name], "fred", "secret", channel_binding=binding)

            def send(text: str, prefix: str = "") -> str:
                code, reply = smtp.docmd(prefix + base64.b64encode(text.encode()).decode())
                assert code == 334, reply
                return base64.b64decode(reply).decode()

            client.set_server_first(send(client.get_client_first(), f"AUTH {name} "))
            client.set_server_final(send(client.get_client_final()))
            assert smtp.docmd("")[0] == 235

    async with serving(certificates, UsersFile(tmp_path / "users")) as (port, logins):
        await trio.to_thread.run_sync(converse, port)
    assert logins.seen == ["fred"]


# --- scramp behind aiosmtpd as the server ---------------------------------------------------------------------------------

# Neither Dovecot 2.3, nor Exim and Cyrus SASL as Debian builds them, offer mechanisms with channel binding.
SCRAM = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1")


class ScrampServer:
    """An SMTP server with the mechanisms of scramp, which are bound to the hash of a certificate."""

    def __init__(self, certificates: Certificates, binding: bytes | None = None) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates.server)
        [pem, *_] = re.findall("(?s)-----BEGIN CERT.*?-----END CERTIFICATE-----", certificates.server.read_text())
        certificate = ssl.PEM_cert_to_DER_cert(pem)  # trustme signs with SHA-256
        self.binding = hashlib.sha256(certificate).digest() if binding is None else binding
        self.port = free_port()
        #: The mechanism and the user of each successful login.
        self.logins: list[tuple[str, str]] = []
        self.received: list[bytes] = []
        for name in SCRAM:
            setattr(self, f"auth_{name.replace('-', '__')}", self._converse)
        controller = pytest.importorskip("aiosmtpd.controller").Controller
        self.controller = controller(
            self, HOST, self.port, tls_context=context, auth_exclude_mechanism=["LOGIN", "PLAIN"], ready_timeout=100
        )

    async def _converse(self, server: Any, arguments: list[str]) -> Any:
        scramp, result = pytest.importorskip("scramp"), pytest.importorskip("aiosmtpd.smtp").AuthResult
        name, initial = arguments
        mechanism = scramp.ScramMechanism(name)
        secret = mechanism.make_auth_info(PASSWORD, iteration_count=4096)
        bound = ("tls-server-end-point", self.binding) if name.endswith("-PLUS") else None
        users: list[str] = []

        def secret_of(user: str) -> Any:
            users.append(user)
            return secret

        exchange = mechanism.make_server(secret_of, channel_binding=bound)
        try:
            exchange.set_client_first(base64.b64decode(initial).decode())
            exchange.set_client_final((await server.challenge_auth(exchange.get_server_first())).decode())
            assert await server.challenge_auth(exchange.get_server_final()) == b""
        except scramp.ScramException:
            return result(success=False, handled=False)
        self.logins += [(name, user) for user in users]
        return result(success=True)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.received.append(envelope.content)
        return "250 OK"

    def __enter__(self) -> Self:
        self.controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.controller.stop()


@pytest.mark.parametrize("name", [*SCRAM, None])
async def test_client_logs_in_at_scramp(name: str | None, tmp_path: Path) -> None:
    """With the best mechanism, if it may choose."""
    pytest.importorskip("scramp")
    certificates = Certificates(tmp_path)
    context = ssl.create_default_context(cafile=certificates.ca)
    settings: dict[str, Any] = {} if name is None else {"auth_mechanisms": [name]}
    with ScrampServer(certificates) as server:
        async with connect(HOST, server.port, ssl_context=context, auth=(USER, PASSWORD), **settings) as client:
            await client.send("me@example.net", ["you@example.org"], b"Subject: hi\r\n\r\nhello\r\n")
        with pytest.raises(ReplyError) as caught:
            async with connect(HOST, server.port, ssl_context=context, auth=(USER, "wrong"), **settings):
                raise AssertionError("unreachable")
    assert server.logins == [(name or SCRAM[0], USER)]
    assert server.received == [b"Subject: hi\r\n\r\nhello\r\n"]
    assert caught.value.reply.code == 535


@pytest.mark.parametrize("name", ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"])
async def test_binding_to_another_certificate(name: str, tmp_path: Path) -> None:
    """As behind a proxy that decrypts the connection."""
    pytest.importorskip("scramp")
    certificates = Certificates(tmp_path)
    context = ssl.create_default_context(cafile=certificates.ca)
    with ScrampServer(certificates, bytes(32)) as server:
        with pytest.raises(ReplyError) as caught:
            async with connect(HOST, server.port, ssl_context=context, auth=(USER, PASSWORD), auth_mechanisms=[name]):
                raise AssertionError("unreachable")
    assert caught.value.reply.code == 535
    assert server.logins == []


# --- secrets that other programs have made ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SCRAM-SHA-256", "SCRAM-SHA-1"])
@pytest.mark.parametrize("program", ["doveadm", "gsasl"])
async def test_secrets_of_other_programs(program: str, name: str, tmp_path: Path) -> None:
    commands = {
        "doveadm": ["doveadm", "pw", "-s", name, "-p", "secret"],
        "gsasl": ["gsasl", "--mkpasswd", "--mechanism", name, "--password", "secret", "--iteration-count", "5000"],
    }
    require(program)
    made = subprocess.run(
        commands[program], capture_output=True, text=True, check=True, timeout=240, env={"PATH": PATH}
    )
    (tmp_path / "users").write_text(f"fred:{made.stdout}")
    certificates = Certificates(tmp_path)
    users = UsersFile(tmp_path / "users")
    users.load()
    assert users.mechanisms == (f"{name}-PLUS", name, "PLAIN", "LOGIN")
    assert await trio.to_thread.run_sync(users.verify, "fred", "secret")
    context = ssl.create_default_context(cafile=certificates.ca)
    async with serving(certificates, users) as (port, logins):
        client: Client
        async with connect(HOST, port, ssl_context=context, auth_mechanisms=[name, f"{name}-PLUS"]) as client:
            assert (await client.auth(PasswordCredentials("fred", "secret"))).code == 235
    assert logins.seen == ["fred"]
