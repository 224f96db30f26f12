"""Load balancers and mail proxies in front of a server: HAProxy, Postfix and swaks."""

from __future__ import annotations

import logging
import smtplib
import ssl
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trio
import trustme
from ports import free_port

import smtp_trio
from smtp_trio import Hooks, Peer, ProxyHeader, Session
from smtp_trio.protocol.proxy_header import Address

from .conftest import Certificates, require, require_server
from .mails import DIRECTORY
from .programs import HOST, PATH, Submission, run
from .servers import POLL, Server, start, start_postfix
from .setups import ADDRESS

pytestmark = pytest.mark.interop

PLAIN = DIRECTORY / "plain.eml"
ENDS: tuple[Address, Address] = ("192.0.2.9", 4242), ("192.0.2.1", 25)
CLIENT = "127.0.0.2"  # the address of a client of HAProxy, which itself connects from 127.0.0.1
PROBE = "127.0.0.3"  # that of the test, which looks whether HAProxy listens
HEADERS = {
    "version 1": "send-proxy",
    "version 2": "send-proxy-v2",
    "version 2 with values": "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority",
}
HAPROXY = """\
defaults
    mode tcp
    timeout connect 10s
    timeout check 10s
    timeout client 60s
    timeout server 60s
frontend front
    unique-id-format %[uuid()]
    bind 127.0.0.1:{front} {bind}
    default_backend back
backend back
    {backend}
    server mx 127.0.0.1:{back} {server}
"""


class Recorder(Hooks):
    """Accepts everything, and records sessions and messages."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.messages: list[bytes] = []
        self.forwarded: list[dict[str, str | None]] = []
        self.received: list[bytes] = []
        self.delivered = trio.Event()
        self.checked = trio.Event()  # after ten sessions

    async def connect(self, session: Session) -> None:
        self.sessions.append(session)
        if len(self.sessions) == 10:
            self.checked.set()

    async def data(self, session: Session, body: smtp_trio.Body) -> None:
        self.forwarded.append(dict(session.xforward))
        self.received.append(session.received())
        self.messages.append(await body.read())
        self.delivered.set()


@asynccontextmanager
async def serving(
    hooks: Hooks, *, implicit_tls: bool = False, **options: Any
) -> AsyncGenerator[tuple[smtp_trio.Server, int]]:
    """Serve on 127.0.0.1; yield the server and its port."""
    server = smtp_trio.Server(hooks, name=HOST, **options)
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            lambda task_status: server.serve(0, ADDRESS, implicit_tls=implicit_tls, task_status=task_status)
        )
        yield server, listeners[0].socket.getsockname()[1]
        await server.stop(0)


@asynccontextmanager
async def haproxy(directory: Path, back: int, server: str, *, bind: str = "", backend: str = "") -> AsyncGenerator[int]:
    """Run HAProxy in front of the port ``back``; yield its port."""
    require("haproxy")
    front = free_port()
    config = directory / "haproxy.cfg"
    config.write_text(HAPROXY.format(front=front, back=back, server=server, bind=bind, backend=backend))
    command = ["haproxy", "-db", "-f", str(config)]
    with (directory / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={"PATH": PATH})
    try:
        while not await listens(front):
            assert process.poll() is None, (directory / "haproxy.log").read_text()
            await trio.sleep(POLL)
        yield front
    finally:
        process.kill()
        process.wait()
        print((directory / "haproxy.log").read_text())


async def listens(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream(ADDRESS, port, local_address=PROBE)
    except OSError:
        return False
    await stream.aclose()
    return True


async def deliver(port: int, **settings: Any) -> None:
    async with smtp_trio.connect(ADDRESS, port, server_hostname=HOST, timeout=60, **settings) as client:
        await client.send("ada@example.net", ["bo@example.org"], PLAIN)


# --- HAProxy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", HEADERS)
async def test_haproxy_in_front_of_the_server(header: str, tmp_path: Path) -> None:
    hooks = Recorder()
    async with (
        serving(hooks, proxy_from=[ADDRESS]) as (_, back),
        haproxy(tmp_path, back, HEADERS[header]) as front,
    ):
        await deliver(front, local_address=CLIENT)
    session = next(session for session in hooks.sessions if session.peer.host == CLIENT)
    assert session.connection_peer.host == ADDRESS
    assert (session.local.host, session.local.port) == (ADDRESS, front)
    assert session.proxy_header is not None
    assert (session.proxy_header.version, session.proxy_header.checksum) == (
        1 if header == "version 1" else 2,
        header == "version 2 with values",
    )
    assert (session.proxy_header.unique_id is not None) == (header == "version 2 with values")
    assert hooks.messages == [PLAIN.read_bytes()]
    assert b" [127.0.0.2])\r\n" in hooks.received[0]


@pytest.mark.parametrize("header", HEADERS)
async def test_header_of_haproxy_before_implicit_tls(header: str, tmp_path: Path, certificates: Certificates) -> None:
    """The server decrypts the connection, which HAProxy passes on as it is."""
    hooks = Recorder()
    async with (
        serving(hooks, proxy_from=[ADDRESS], tls=certificates.server, implicit_tls=True) as (_, back),
        haproxy(tmp_path, back, HEADERS[header]) as front,
    ):
        context = ssl.create_default_context(cafile=certificates.authority)
        await deliver(front, local_address=CLIENT, tls="implicit", ssl_context=context)
    session = next(session for session in hooks.sessions if session.peer.host == CLIENT)
    assert session.tls is not None


async def test_haproxy_decrypts_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    pem = tmp_path / "haproxy.pem"
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    client_certificate = authority.issue_cert("ada@example.net", common_name="ada")
    context = ssl.create_default_context(cafile=tmp_path / "authority.pem")
    client_certificate.configure_cert(context)
    hooks = Recorder()
    bind = f"ssl crt {pem} ca-file {tmp_path / 'authority.pem'} verify optional alpn smtp"
    server = "send-proxy-v2-ssl-cn proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c"
    async with (
        serving(hooks, proxy_from=[ADDRESS]) as (_, back),
        haproxy(tmp_path, back, server, bind=bind) as front,
    ):
        await deliver(front, local_address=CLIENT, tls="implicit", ssl_context=context)
    session = next(session for session in hooks.sessions if session.peer.host == CLIENT)
    header = session.proxy_header
    assert session.tls is None
    assert header is not None
    assert header.tls is not None
    assert header.tls.version is not None
    assert header.tls.version.startswith("TLSv1.")
    assert header.tls.verified
    assert (header.tls.common_name, header.authority) == ("ada", HOST)
    assert None not in (header.tls.cipher, header.tls.signature_algorithm, header.tls.key_algorithm)


@pytest.mark.parametrize("header", ["send-proxy", "send-proxy-v2"])
async def test_health_checks_of_haproxy(header: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They have no records, and do not count; the server is up for HAProxy, so that a client is passed on to it."""
    caplog.set_level(logging.INFO, "smtp_trio")
    hooks = Recorder()
    limits = smtp_trio.Limits(per_peer=1, connections_per_minute=2, count_local=True)
    async with (
        serving(hooks, proxy_from=[ADDRESS], limits=limits) as (_, back),
        haproxy(
            tmp_path,
            back,
            f"{header} check check-send-proxy inter 50ms fall 1 rise 1",
            backend="option smtpchk EHLO check.example",
        ) as front,
    ):
        await hooks.checked.wait()
        await deliver(front, local_address=CLIENT)
    checks = [session for session in hooks.sessions if session.peer.host not in (CLIENT, PROBE)]
    assert {session.peer.host for session in checks} == {ADDRESS}
    assert sum(session.hello is not None and session.hello.domain == "check.example" for session in checks) >= 5
    peers = {record.__dict__["fields"]["peer"].partition(":")[0] for record in caplog.records}
    assert peers - {PROBE} == {CLIENT}  # HAProxy may notice the end of the probe before it connects


@pytest.mark.parametrize("version", [1, 2])
async def test_haproxy_reads_the_header_of_the_client(version: Any, tmp_path: Path) -> None:
    """It passes the addresses on, in a header of its own."""
    hooks = Recorder()
    async with (
        serving(hooks, proxy_from=[ADDRESS]) as (_, back),
        haproxy(tmp_path, back, "send-proxy-v2", bind="accept-proxy") as front,
    ):
        await deliver(front, proxy_header=ProxyHeader(*ENDS, version=version))
    session = next(session for session in hooks.sessions if session.peer.host == "192.0.2.9")
    assert (session.peer, session.local) == (Peer("192.0.2.9", 4242, "tcp"), Peer("192.0.2.1", 25, "tcp"))


# --- Postfix and swaks ---------------------------------------------------------------------------------------------


def stored(server: Server) -> bytes:
    """Return the one message that a server has stored, with the fields that it has added."""
    server.received(1)
    (file,) = (server.directory / "box" / "new").iterdir()
    return file.read_bytes()


@asynccontextmanager
async def postfix(listeners: Callable[[int], str]) -> AsyncGenerator[tuple[Server, int]]:
    """Run Postfix with further services, which ``listeners`` returns for a free port; yield the server and that port."""
    require_server("postfix")
    port = free_port()
    with TemporaryDirectory(prefix="smtp-trio-") as name:
        with start_postfix(Path(name), profile="xclient", listeners=listeners(port)) as server:
            yield server, port


@pytest.mark.parametrize("version", [1, 2])
async def test_postfix_reads_the_header_of_the_client(version: Any) -> None:
    service = "{} inet n - n - - smtpd -o smtpd_upstream_proxy_protocol=haproxy"
    async with postfix(service.format) as (server, port):
        await deliver(port, tls="never", proxy_header=ProxyHeader(*ENDS, version=version))
        assert b"[192.0.2.9]" in stored(server)


@pytest.mark.parametrize("version", [1, 2])
async def test_exim_reads_the_header_of_the_client(version: Any) -> None:
    require_server("exim-current")
    with (
        TemporaryDirectory(prefix="smtp-trio-") as name,
        start("exim-current", Path(name), profile="proxy") as server,
    ):
        await deliver(server.port, tls="never", local_address=CLIENT, proxy_header=ProxyHeader(*ENDS, version=version))
        assert b"[192.0.2.9]" in stored(server)
        with pytest.raises(smtp_trio.SMTPError):  # without the header, Exim sends no greeting
            await deliver(server.port, tls="never", local_address=CLIENT)


async def test_postfix_obeys_xclient_of_the_client() -> None:
    async with postfix("{} inet n - n - - smtpd".format) as (server, port):
        async with smtp_trio.connect(ADDRESS, port, tls="never", timeout=60) as client:
            assert {"XCLIENT", "XFORWARD"} <= client.offered.keys()
            reply = await client.xclient(
                addr="192.0.2.9", name="mail.example.net", port=4242, helo="client.example.net"
            )
            assert reply.code == 220
            await client.xclient(name="other.example.net", login=None)
            await client.xforward(addr="192.0.2.10", name=None, helo="origin.example.net", source="REMOTE")
            await client.send("ada@example.net", ["bo@example.org"], PLAIN)
        assert b"(other.example.net [192.0.2.9])" in stored(server)


async def test_postfix_and_the_server_match_the_address_of_the_client_again() -> None:
    """A client that may not use XCLIENT gets 550 from both, although its proxy may."""

    def name_two_clients(port: int) -> list[int]:
        with smtplib.SMTP(ADDRESS, port, timeout=100) as client:
            client.ehlo()
            codes = [client.docmd("XCLIENT", "NAME=mail.example.net ADDR=198.51.100.9")[0]]
            client.ehlo()
            assert not client.has_extn("XCLIENT")
            return [*codes, client.docmd("XCLIENT", "ADDR=192.0.2.9")[0]]

    async with (
        postfix("{} inet n - n - - smtpd".format) as (_, port),
        serving(Recorder(), xclient_from=[ADDRESS]) as own,
    ):
        assert [await trio.to_thread.run_sync(name_two_clients, each) for each in (port, own[1])] == [[220, 550]] * 2


async def test_postfix_reads_long_attributes() -> None:
    """They take several commands, and ADDR is in the last one, which Postfix does not forget NAME and PORT for."""
    name = ".".join(["n" * 60] * 4)
    async with postfix("{} inet n - n - - smtpd".format) as (server, port):
        async with smtp_trio.connect(ADDRESS, port, tls="never", timeout=60) as client:
            await client.xclient(addr="198.51.100.9", name=name, helo="h" * 250, port=4242)
            await client.send("ada@example.net", ["bo@example.org"], PLAIN)
        assert f"({name} [198.51.100.9])".encode() in stored(server).replace(b"\r\n\t", b" ").replace(b"\n\t", b" ")


async def test_postfix_sends_xforward() -> None:
    """Postfix passes a message that it has received on to the server, as to a content filter."""
    hooks = Recorder()
    async with serving(hooks, xforward_from=[ADDRESS]) as (_, own):
        services = (
            "smtp unix - - n - - smtp -o smtp_send_xforward_command=yes\n"
            f"{{}} inet n - n - - smtpd -o content_filter=smtp:[{ADDRESS}]:{own}"
        )
        async with postfix(services.format) as (_, port):
            async with smtp_trio.connect(ADDRESS, port, tls="never", timeout=60) as client:
                await client.xclient(addr="192.0.2.9", name="mail.example.net", port=4242)
                await client.ehlo("client.example.net")
                await client.send("ada@example.net", ["bo@example.org"], PLAIN)
            with trio.fail_after(60):
                await hooks.delivered.wait()
    (forwarded,) = hooks.forwarded
    assert forwarded.pop("IDENT")
    assert forwarded == {
        "NAME": "mail.example.net",
        "ADDR": "192.0.2.9",
        "PORT": "4242",
        "PROTO": "ESMTP",
        "HELO": "client.example.net",
        "SOURCE": "REMOTE",
    }


async def test_swaks_sends_xclient_twice(home: Path) -> None:
    require("swaks")
    hooks = Recorder()
    async with serving(hooks, xclient_from=[ADDRESS]) as (_, port):
        outcome = await run(
            Submission(mail=PLAIN, home=home),
            *("swaks", "--server", ADDRESS, "--port", str(port), "--helo", "proxy.example.net"),
            *("--from", "ada@example.net", "--to", "bo@example.org", "--timeout", "60"),
            *("--xclient-helo", "client.example.net", "--xclient-login", "ada", "--xclient-port", "4242"),
            *("--xclient-delim", "--xclient-name", "mail.example.net", "--xclient-addr", "192.0.2.9"),
        )
    assert outcome.sent, outcome.output
    session = hooks.sessions[-1]
    assert (session.peer, session.user) == (Peer("192.0.2.9", 4242, "tcp", "mail.example.net"), "ada")
    assert hooks.received[0].startswith(b"Received: from client.example.net (mail.example.net [192.0.2.9])")


async def test_swaks_sends_xclient(home: Path) -> None:
    require("swaks")
    hooks = Recorder()
    async with serving(hooks, xclient_from=[ADDRESS]) as (_, port):
        outcome = await run(
            Submission(mail=PLAIN, home=home),
            *("swaks", "--server", ADDRESS, "--port", str(port), "--helo", "proxy.example.net"),
            *("--from", "ada@example.net", "--to", "bo@example.org", "--timeout", "60"),
            *("--xclient-addr", "IPV6:2001:db8::9", "--xclient-name", "[UNAVAILABLE]", "--xclient-port", "4242"),
            *("--xclient-helo", "client.example.net", "--xclient-login", "ada+b", "--xclient-proto", "ESMTP"),
            *("--xclient-destaddr", "192.0.2.1", "--xclient-destport", "25"),
        )
    assert outcome.sent, outcome.output
    session = hooks.sessions[-1]
    assert (session.peer, session.local) == (Peer("2001:db8::9", 4242, "tcp"), Peer("192.0.2.1", 25, "tcp"))
    assert session.user == "ada+b"
    assert hooks.received[0].startswith(b"Received: from client.example.net (unknown [IPv6:2001:db8::9])")
