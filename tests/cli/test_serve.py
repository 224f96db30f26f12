"""``smtp-trio serve`` in a process of its own: options, TLS and logins, signals, and errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import smtplib
import socket
import sqlite3
import ssl
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme
from ports import free_port
from processes import HOST, Program, client_context, run, running, serving

from smtp_trio import __version__
from smtp_trio._cli.main import main, make_parser
from smtp_trio.stores import Maildir, read

MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
ME, YOU = "me@example.net", "you@example.org"


def delivered(maildir: Path) -> list[Path]:
    """Return the files of the messages in a Maildir."""
    return sorted((maildir / "new").iterdir())


# --- storing and logging ----------------------------------------------------------------------------------------------


def test_default_options() -> None:
    options = make_parser(["serve"]).parse_args(["serve"])

    assert (options.host, options.port, options.unix, options.lmtp) == (None, None, None, False)
    assert isinstance(options.store, Maildir)
    assert options.store.path == str(Path("Maildir").absolute())
    assert (options.newlines, options.log_format, options.timeout, options.size) == (
        "normalize",
        "text",
        300,
        31457280,
    )


async def test_mail_for_any_recipient_is_stored_in_a_maildir(tmp_path: Path) -> None:
    async with serving(cwd=tmp_path) as program:
        assert f"listening on {HOST}:{program.port}\n" in program.out.text
        assert f"storing in maildir:{tmp_path}/Maildir\n" in program.out.text
        await program.send(ME, [YOU, "Anybody@anywhere.example"], MESSAGE)
        line = (await program.out.wait_for(r"^.*reply=.*\n"))[0]

    (file,) = delivered(tmp_path / "Maildir")
    stored = read(file)
    assert (stored.sender, stored.recipients) == (ME, (YOU, "Anybody@anywhere.example"))
    assert stored.message == MESSAGE
    for part in (
        "proto=ESMTP ",
        f" accepted: peer={HOST}:",
        f"from=<{ME}> to=<{YOU}>,<Anybody@anywhere.example> ",
        f"size={len(MESSAGE)} ",
        f'stored="{file.name}" ',
        'reply="250 2.0.0 Ok: queued as ',
    ):
        assert part in line


async def test_mail_is_stored_in_a_database(tmp_path: Path) -> None:
    async with serving("--store", "sqlite:mail.db", cwd=tmp_path) as program:
        assert f"storing in sqlite:{tmp_path}/mail.db\n" in program.out.text
        await program.send(ME, [YOU], MESSAGE)

    with closing(sqlite3.connect(tmp_path / "mail.db")) as database:
        ((uid,),) = database.execute("SELECT uid FROM messages")
    stored = read(tmp_path / "mail.db", uid)
    assert (stored.sender, stored.recipients, stored.message) == (ME, (YOU,), MESSAGE)


async def test_log_in_json(tmp_path: Path) -> None:
    async with serving("--log-format", "json", "--accept", "example.org", cwd=tmp_path) as program:
        await program.send(ME, [YOU], MESSAGE)
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            await program.send("", ["you@elsewhere.example"], MESSAGE)
        program.signal(signal.SIGTERM)
        assert await program.wait() == 0

    lines = [json.loads(line) for line in program.out.text.splitlines()]
    assert all(line.isascii() for line in program.out.text.splitlines())
    assert [(line["event"], line["level"], bool(line["time"])) for line in lines] == [
        (event, "info", True) for event in ("listening", "storing", "accepted", "refused", "stopping", "stopped")
    ]
    listening, storing, accepted, refused, _, stopped = lines
    assert listening["address"] == f"{HOST}:{program.port}"
    assert storing["store"] == f"maildir:{tmp_path}/Maildir"
    assert (accepted["sender"], accepted["to"], accepted["size"]) == (ME, [YOU], len(MESSAGE))
    assert (refused["sender"], refused["to"], refused["stored"]) == ("", ["you@elsewhere.example"], None)
    assert refused["reply"].startswith("550 5.7.1 ")
    assert (stopped["messages"], stopped["refused"], stopped["sessions"]) == (1, 1, 2)


@pytest.mark.slow
async def test_quiet_and_verbose(tmp_path: Path) -> None:
    port = free_port()
    async with running("-m", "smtp_trio", "serve", "-q", "--port", str(port), cwd=tmp_path) as program:
        program.port = port
        while True:  # with -q it does not print when it listens
            try:
                await program.send(ME, [YOU], MESSAGE)
                break
            except ConnectionRefusedError:
                await trio.lowlevel.checkpoint()
        program.signal(signal.SIGTERM)
        assert await program.wait() == 0
    assert program.out.text + program.err.text == ""

    async with serving("-v", cwd=tmp_path) as program:
        await program.client(lambda client: client.noop())
        await program.out.wait_for(r'peer=\S+ line=noop reply="250 2\.0\.0 Ok"')


@pytest.mark.slow
async def test_refusals_by_the_protocol_are_logged(tmp_path: Path) -> None:
    def dialogue(client: smtplib.SMTP) -> None:
        client.ehlo()
        assert client.docmd("MAIL FROM:<me@example.net> SIZE=1001")[0] == 552
        assert client.docmd("MAIL FROM:<me@example.net>")[0] == 250
        assert client.docmd("RCPT TO:<you>")[0] == 501

    async with serving("--size", "1000", cwd=tmp_path) as program:
        await program.client(dialogue)
        await program.out.wait_for(r'from=<me@example\.net> to=- .*reply="552 5\.3\.4')
        await program.out.wait_for(r'from=<me@example\.net> to=<you> .*reply="501 5\.1\.3')


@pytest.mark.slow
async def test_characters_that_are_not_printable_are_escaped_in_the_log(tmp_path: Path) -> None:
    def dialogue(client: smtplib.SMTP) -> None:
        client.command_encoding = "utf-8"
        client.ehlo("me")
        client.docmd("MAIL FROM:<a\u202eb@example.net> SMTPUTF8")
        client.docmd("RCPT TO:<c\u2028d@example.net>")
        client.docmd("RCPT TO:<c\u202ed@example.net>")

    async with serving("--accept=example.org", cwd=tmp_path) as program:
        await program.client(dialogue)
        await program.out.wait_for(r'from="<a\\u202eb@example\.net>" to="<c\\u202ed@example\.net>"')
    assert "\u202e" not in program.out.text


@pytest.mark.parametrize(
    ("policy", "code", "stored"),
    [("normalize", 250, b"a\r\nb\r\n"), ("preserve", 250, b"a\nb\r\n"), ("reject", 550, None)],
)
@pytest.mark.slow
async def test_newlines(tmp_path: Path, policy: str, code: int, stored: bytes | None) -> None:
    def dialogue(client: smtplib.SMTP) -> int:
        client.ehlo()
        client.mail(ME)
        client.rcpt(YOU)
        client.docmd("DATA")
        client.send(b"a\nb\r\n.\r\n")
        return client.getreply()[0]

    async with serving("--newlines", policy, cwd=tmp_path) as program:
        assert await program.client(dialogue) == code

    assert [read(file).message for file in delivered(tmp_path / "Maildir")] == ([] if stored is None else [stored])


@pytest.mark.slow
async def test_name_and_idle_timeout(tmp_path: Path) -> None:
    async with serving("--name", "mx.example.org", "--timeout", "0.2", cwd=tmp_path) as program:
        async with await trio.open_tcp_stream(HOST, program.port) as stream:
            received = b"".join([chunk async for chunk in stream])

    assert received.startswith(b"220 mx.example.org ESMTP\r\n421 4.4.2 mx.example.org ")


async def test_all_interfaces(tmp_path: Path) -> None:
    async with serving("--host", "*", "--accept", "example.org", cwd=tmp_path) as program:
        assert f"listening on 0.0.0.0:{program.port}\n" in program.out.text
        if socket.has_dualstack_ipv6():
            assert f"listening on [::]:{program.port}\n" in program.out.text


async def test_mail_is_accepted_after_the_reader_of_the_log_has_ended(tmp_path: Path) -> None:
    async with serving(cwd=tmp_path) as program:
        await program.out.stream.aclose()
        await program.send(ME, [YOU], MESSAGE)
        program.signal(signal.SIGTERM)
        assert await program.err.read_rest() == ""
        assert await program.process.wait() == 0

    assert len(delivered(tmp_path / "Maildir")) == 1


# --- accepted domains -------------------------------------------------------------------------------------------------


async def test_accept(tmp_path: Path) -> None:
    accepted = [
        "you@example.org", '"any one"@EXAMPLE.ORG', "Postmaster", "postMASTER", "a@b.example.com", "a@c.B.example.com",
        "x@bücher.example", "x@xn--bcher-kva.example", "x@[192.0.2.1]",
    ]  # fmt: skip
    refused = [
        "you@sub.example.org", "you@notexample.org", "you@example.org.evil.example", "postmaster@elsewhere.example",
        "a@example.com", "a@badexample.com", "x@[192.0.2.2]", "you%example.org@elsewhere.example",
    ]  # fmt: skip

    def dialogue(client: smtplib.SMTP) -> list[str]:
        client.command_encoding = "utf-8"
        client.ehlo()
        client.docmd("MAIL FROM:<me@example.net> SMTPUTF8")
        return [path for path in accepted + refused if client.docmd(f"RCPT TO:<{path}>")[0] == 250]

    domains = ["Example.ORG", ".example.com", "BÜCHER.example", "[192.0.2.1]"]
    async with serving(*[f"--accept={domain}" for domain in domains], cwd=tmp_path) as program:
        assert await program.client(dialogue) == accepted
        for path in refused:
            await program.out.wait_for(f'to=<{re.escape(path)}> .*reply="550 5\\.7\\.1 ')


async def test_accept_all_domains(tmp_path: Path) -> None:
    """With ``*`` no recipient is refused, whatever other domains are listed, and on all interfaces."""
    for options in (["--host=*"], ["--accept=example.org", "--accept=.example.com"]):
        async with serving(*options, "--accept", "*", cwd=tmp_path) as program:
            await program.send(ME, [YOU, "a@b.test", "c@[192.0.2.1]"], MESSAGE)
            await program.out.wait_for(r"to=<you@example\.org>,<a@b\.test>,<c@\[192\.0\.2\.1\]> ")
            program.signal(signal.SIGTERM)
            (warning,) = (await program.err.read_rest()).splitlines()
        assert warning.endswith(" warning: --accept '*': mail for every domain is accepted; for development only")


# --- lenient and strict -----------------------------------------------------------------------------------------------


def send_as_device(client: smtplib.SMTP) -> None:
    assert client.docmd("HELO")[0] == 250
    assert client.docmd("MAIL FROM:<scanner>")[0] == 250
    assert client.docmd("RCPT TO:<you@example.org.>")[0] == 250
    assert client.docmd("RCPT TO:<office>")[0] == 250
    assert client.data(MESSAGE)[0] == 250


@pytest.mark.parametrize(
    ("options", "domain"),
    [(["--lenient=example.org"], "example.org"), (["--lenient", "--name", "Mx.Test"], "mx.test")],
)
async def test_lenient(options: Sequence[str], domain: str, tmp_path: Path) -> None:
    async with serving(*options, cwd=tmp_path) as program:
        await program.client(send_as_device)
        await program.out.wait_for(f" helo=- .* from=<scanner@{domain}> to=<{YOU}>,<office@{domain}> ")

    (file,) = delivered(tmp_path / "Maildir")
    stored = read(file)
    assert (stored.sender, stored.recipients) == (f"scanner@{domain}", (YOU, f"office@{domain}"))


@pytest.mark.slow
async def test_recipients_without_a_domain_are_at_the_default_domain(tmp_path: Path) -> None:
    def dialogue(client: smtplib.SMTP) -> list[int]:
        client.docmd("EHLO")
        client.docmd("MAIL FROM:<>")
        return [client.docmd(f"RCPT TO:<{path}>")[0] for path in ("you", "you@", "Postmaster", "you@example.net")]

    for domain, codes in (("example.org", [250, 250, 250, 550]), ("example.net", [550, 550, 250, 550])):
        async with serving("--lenient", domain, "--accept", "example.org", cwd=tmp_path) as program:
            assert await program.client(dialogue) == codes


@pytest.mark.slow
async def test_strict(tmp_path: Path) -> None:
    lines = [
        "MAIL FROM:me@example.net",
        "MAIL FROM: <me@example.net>",
        "MAIL  FROM:<me@example.net>",
        "EHLO my_host",
        "HELO",
    ]

    def dialogue(client: smtplib.SMTP) -> list[int]:
        client.ehlo()
        found = [client.docmd(line)[0] for line in lines]
        client.sendmail(ME, [YOU], MESSAGE)
        return found

    async with serving("--strict", cwd=tmp_path) as program:
        assert await program.client(dialogue) == [501] * 5
    async with serving(cwd=tmp_path) as program:
        assert await program.client(dialogue) == [250, 503, 503, 250, 501]


# --- TLS and logins ---------------------------------------------------------------------------------------------------


class Certificates:
    """A certificate authority, and the files of the certificate that it has issued to the server."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.pem, self.cert, self.key = directory / "ca.pem", directory / "cert.pem", directory / "key.pem"
        self.ca.cert_pem.write_to_path(self.pem)
        self.renew()

    @property
    def options(self) -> list[str]:
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def renew(self, key_type: trustme.KeyType = trustme.KeyType.ECDSA) -> None:
        """Write a new certificate to the files."""
        issued = self.ca.issue_cert(HOST, key_type=key_type)
        issued.private_key_pem.write_to_path(self.key)
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))

    @property
    def current(self) -> bytes:
        """The certificate that is in the files."""
        return ssl.PEM_cert_to_DER_cert(self.cert.read_text().partition(PEM_END)[0] + PEM_END)

    def received(self, client: smtplib.SMTP) -> bytes | None:
        """Start TLS, and return the certificate that the server sends."""
        client.starttls(context=client_context(self.pem))
        assert isinstance(client.sock, ssl.SSLSocket)
        return client.sock.getpeercert(binary_form=True)


PEM_END = "-----END CERTIFICATE-----\n"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def test_starttls(tmp_path: Path, certificates: Certificates) -> None:
    def dialogue(client: smtplib.SMTP) -> None:
        assert certificates.received(client) == certificates.current
        client.sendmail(ME, [YOU], MESSAGE)

    async with serving(*certificates.options, cwd=tmp_path) as program:
        await program.client(dialogue)
        await program.out.wait_for(r"proto=ESMTPS .*tls=TLSv1\.3 ")


async def test_implicit_tls(tmp_path: Path, certificates: Certificates) -> None:
    def send() -> None:
        with smtplib.SMTP_SSL(HOST, program.port, timeout=100, context=client_context(certificates.pem)) as client:
            client.sendmail(ME, [YOU], MESSAGE)

    async with serving(*certificates.options, "--implicit-tls", cwd=tmp_path) as program:
        await trio.to_thread.run_sync(send)
        await program.out.wait_for(r"proto=ESMTPS ")


@pytest.mark.parametrize("kind", [trustme.KeyType.ECDSA, trustme.KeyType.RSA])
@pytest.mark.slow
async def test_sighup_reloads_the_certificate(
    tmp_path: Path, certificates: Certificates, kind: trustme.KeyType
) -> None:
    certificates.renew(kind)
    async with serving(*certificates.options, cwd=tmp_path) as program:
        before = certificates.current
        assert await program.client(certificates.received) == before

        certificates.renew()
        assert await program.client(certificates.received) == before
        program.signal(signal.SIGHUP)
        await program.out.wait_for("SIGHUP: reloading the certificate")
        assert await program.client(certificates.received) == certificates.current != before


@pytest.mark.slow
async def test_certificate_stays_in_use_when_the_new_one_is_invalid(tmp_path: Path, certificates: Certificates) -> None:
    async with serving(*certificates.options, cwd=tmp_path) as program:
        before = certificates.current
        key = certificates.key.read_bytes()
        certificates.renew()
        certificates.key.write_bytes(key)

        program.signal(signal.SIGHUP)
        line = (await program.err.wait_for(r"^.*; the previous one stays in use\n"))[0]
        assert f'error: SIGHUP: "the key in {certificates.key} does not match the certificate in' in line
        assert await program.client(certificates.received) == before
    assert program.err.text == line


async def test_several_certificates(tmp_path: Path, certificates: Certificates) -> None:
    """A client that names the server gets the certificate for that name, and one that sends an invalid name no traceback."""
    other = tmp_path / "other.pem"
    certificates.ca.issue_cert("other.test").private_key_and_cert_chain_pem.write_to_path(other)
    combined = tmp_path / "both.pem"
    combined.write_bytes(certificates.key.read_bytes() + certificates.cert.read_bytes())
    options = ["--tls-cert", str(combined), "--tls-cert", str(other), "--tls-min", "1.3", "--timeout", "0"]
    async with serving(*options, "--implicit-tls", cwd=tmp_path) as program:
        for name, expected in [(HOST, HOST), ("other.test", "other.test"), ("unknown.test", HOST)]:
            assert await trio.to_thread.run_sync(certified_name, program.port, certificates.pem, name) == expected
        with pytest.raises(ssl.SSLError):
            await trio.to_thread.run_sync(hello_with_name, program.port, b"b\xfc.test")
        await program.out.wait_for("TLS handshake failed")
    assert program.err.text == ""


def certified_name(port: int, ca: Path, name: str) -> str:
    """Return the name in the certificate that the server sends to a client that sends ``name``."""
    context = client_context(ca)
    context.check_hostname = False
    with (
        socket.create_connection((HOST, port), 100) as sock,
        context.wrap_socket(sock, server_hostname=None if name == HOST else name) as stream,
    ):
        certificate = stream.getpeercert()
    assert certificate is not None
    return str(certificate["subjectAltName"][0][1])


def hello_with_name(port: int, name: bytes) -> None:
    """Begin a handshake with any octets as the name. The ssl module refuses to send them, so they replace others."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    placeholder = "x" * len(name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls = context.wrap_bio(incoming, outgoing, server_hostname=placeholder)
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    with socket.create_connection((HOST, port), 100) as sock:
        sock.sendall(outgoing.read().replace(placeholder.encode(), name))
        incoming.write(sock.recv(65536))
        incoming.write_eof()
        tls.do_handshake()


@pytest.mark.parametrize("tls", [False, True])
async def test_any_login_is_accepted(tls: bool, tmp_path: Path, certificates: Certificates) -> None:
    """Also without TLS, by each mechanism that sends the password or token; a login is not required."""
    exchanges = [
        ["AUTH PLAIN AGZyZWQAc2VjcmV0"],
        ["AUTH PLAIN", "AGZyZWQAeA=="],
        ["AUTH PLAIN YWRtaW4AZnJlZAB4"],  # fred for the other user "admin"
        ["AUTH LOGIN", "d2lsbWE=", "w7w="],
        ["AUTH XOAUTH2 dXNlcj1mcmVkAWF1dGg9QmVhcmVyIHRva2VuAQE="],
        ["AUTH OAUTHBEARER bixhPWZyZWQsAWF1dGg9QmVhcmVyIHRva2VuAQE="],
    ]

    def dialogue(client: smtplib.SMTP, exchange: Sequence[str]) -> None:
        if tls:
            client.starttls(context=client_context(certificates.pem))
        client.ehlo()
        assert set(client.esmtp_features["auth"].split()) == {"PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2"}
        for line in exchange:
            code, _ = client.docmd(line)
            assert code == (235 if line is exchange[-1] else 334)
        client.sendmail(ME, [YOU], MESSAGE)

    options = certificates.options if tls else []
    async with serving(*options, "--auth-accept-any", cwd=tmp_path) as program:
        for exchange in ([], *exchanges):
            await program.client(partial(dialogue, exchange=exchange))
        await program.out.wait_for(r"user=wilma ")
        program.signal(signal.SIGTERM)
        (warning,) = (await program.err.read_rest()).splitlines()
    assert warning.endswith(
        " warning: --auth-accept-any: any password is accepted, also without TLS; for development only"
    )
    assert len(delivered(tmp_path / "Maildir")) == len(exchanges) + 1


@pytest.mark.slow
async def test_mail_requires_a_login(tmp_path: Path, certificates: Certificates) -> None:
    auth_file = tmp_path / "accounts"
    code, hashed, _ = await run("-m", "smtp_trio", "hash-password", cwd=tmp_path, stdin=b"hush\n")
    assert code == 0
    auth_file.write_text(f"fred:secret\nwilma:{hashed}")

    def without_tls(client: smtplib.SMTP) -> None:
        client.ehlo()
        assert not client.has_extn("auth")
        assert client.docmd("AUTH PLAIN AGZyZWQAc2VjcmV0")[0] == 538
        assert client.docmd("MAIL FROM:<me@example.net>") == (530, b"5.7.0 Authentication required")

    def log_in(user: str, password: str) -> Callable[[smtplib.SMTP], None]:
        def dialogue(client: smtplib.SMTP) -> None:
            client.starttls(context=client_context(certificates.pem))
            client.ehlo()
            assert client.docmd("MAIL FROM:<me@example.net>")[0] == 530
            client.login(user, password)
            client.sendmail(ME, [YOU], MESSAGE)

        return dialogue

    async with serving(*certificates.options, "--auth-file", "accounts", "-v", cwd=tmp_path) as program:
        await program.client(without_tls)
        await program.client(log_in("fred", "secret"))
        await program.client(log_in("wilma", "hush"))
        await program.out.wait_for(r"proto=ESMTPSA .* user=wilma ")
        for user, password in (("fred", "hush"), ("wilma", hashed.strip()), ("barney", "rubble")):
            with pytest.raises(smtplib.SMTPAuthenticationError):
                await program.client(log_in(user, password))
            await program.out.wait_for(rf'peer={HOST}:\d+ authentication failed for {user}: mechanism=\w+ reply="535 ')

        auth_file.write_text("barney:rubble\n")
        program.signal(signal.SIGHUP)
        await program.out.wait_for("SIGHUP: reloading the certificate")
        await program.client(log_in("barney", "rubble"))
        auth_file.write_text("barney\n")
        program.signal(signal.SIGHUP)
        await program.err.wait_for(f'SIGHUP: "cannot use {auth_file.name}: line 1: ')
        await program.client(log_in("barney", "rubble"))

        program.signal(signal.SIGTERM)
        await program.wait()
    log = program.out.text + program.err.text
    for secret in ("secret", "hush", "rubble", "AGZyZWQAc2VjcmV0", "$scrypt"):
        assert secret not in log


@pytest.mark.slow
async def test_auth_optional_accepts_mail_without_a_login(tmp_path: Path, certificates: Certificates) -> None:
    (tmp_path / "accounts").write_text("fred:secret\n")
    options = [*certificates.options, "--auth-file", "accounts", "--auth-optional"]
    async with serving(*options, cwd=tmp_path) as program:
        await program.send(ME, [YOU], MESSAGE)


# --- signals ----------------------------------------------------------------------------------------------------------


async def begin_message(program: Program) -> trio.SocketStream:
    """Open a session and send the first part of a message."""
    stream = await trio.open_tcp_stream(HOST, program.port)
    await stream.send_all(b"EHLO me\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
    received = b""
    while b"\r\n354 " not in received:
        received += await stream.receive_some()
    await stream.send_all(b"Subject: hi\r\n")
    return stream


async def read_to_end(stream: trio.SocketStream) -> bytes:
    """Read until the server closes the connection, and close it."""
    async with stream:
        return b"".join([chunk async for chunk in stream])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_lets_messages_in_progress_finish(tmp_path: Path, number: signal.Signals) -> None:
    async with serving(cwd=tmp_path) as program:
        busy = await begin_message(program)
        idle = await trio.open_tcp_stream(HOST, program.port)
        assert (await idle.receive_some()).startswith(b"220 ")

        program.signal(number)

        await program.out.wait_for(f"{number.name}: stopping")
        assert (await read_to_end(idle)).startswith(b"421 4.3.2 ")
        with pytest.raises(OSError, match="all attempts"):
            await trio.open_tcp_stream(HOST, program.port)
        await busy.send_all(b"\r\nhello\r\n.\r\n")
        assert b"250 2.0.0 Ok: queued as" in await read_to_end(busy)
        assert await program.wait() == 0
        await program.out.wait_for("stopped; messages accepted: 1, refused: 0; sessions: 2")

    assert len(delivered(tmp_path / "Maildir")) == 1
    assert program.err.text == ""


@pytest.mark.slow
async def test_second_signal_cancels_messages_in_progress(tmp_path: Path) -> None:
    async with serving(cwd=tmp_path) as program:
        busy = await begin_message(program)
        program.signal(signal.SIGINT)
        await program.out.wait_for("SIGINT: stopping")
        program.signal(signal.SIGINT)
        assert await program.wait() == 0
        assert b"250 2.0.0 Ok: queued" not in await read_to_end(busy)

    assert delivered(tmp_path / "Maildir") == []
    assert program.err.text == ""


@pytest.mark.slow
async def test_sighup_without_files_to_reload(tmp_path: Path) -> None:
    async with serving(cwd=tmp_path) as program:
        program.signal(signal.SIGHUP)
        await program.out.wait_for("SIGHUP: reloading")
        await program.send(ME, [YOU], MESSAGE)


@pytest.mark.slow
async def test_sighup_from_a_closed_terminal_stops_the_server(tmp_path: Path) -> None:
    controller, terminal_fd = os.openpty()
    with open(terminal_fd, "wb", closefd=True) as terminal:
        async with serving(cwd=tmp_path, stderr=terminal) as program:
            os.close(controller)
            program.signal(signal.SIGHUP)
            await program.out.wait_for("SIGHUP: stopping")
            assert await program.process.wait() == 0


# --- errors -----------------------------------------------------------------------------------------------------------


def error_message(code: int, out: str, err: str) -> str:
    """Check that a command has failed with one line of text and exit code 2, and return this line."""
    assert (code, out) == (2, "")
    assert err.startswith("smtp-trio: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("smtp-trio: error: ").rstrip("\n")


async def run_error(*options: str, cwd: Path, prefix: Sequence[str] = ()) -> str:
    """Run ``smtp-trio`` with options that it cannot use, and return the error message."""
    return error_message(*await run("-m", "smtp_trio", *options, cwd=cwd, prefix=prefix))


SEE = " (see `smtp-trio serve --help`)"
STORES = (
    "maildir:PATH or sqlite:PATH or redis://HOST or postgresql://HOST/DATABASE or https://HOST/PATH or http://HOST/PATH "
    "or memory:"
)

# Errors that are found before the server starts.
INVALID_OPTIONS = [
    ("--port 65536", "argument --port: must be a number from 0 to 65535, got '65536'" + SEE),
    ("--port smtp", "argument --port: must be a number from 0 to 65535, got 'smtp'" + SEE),
    ("--size -1", "argument --size: must be a number of octets from 0 to 1000000000000000000, or a size such as 500k, 10M or 1G, "
     "got '-1'" + SEE),
    ("--timeout nan", "argument --timeout: must be a number of seconds from 0 to 1000000000, or a time such as 500ms, 30s, 5m or "
     "1h, got 'nan'" + SEE),
    ("--store mbox:x", "argument --store: must be " + STORES + ", got 'mbox:x'" + SEE),
    ("--store Maildir", "argument --store: must be " + STORES + ", got 'Maildir'" + SEE),
    ("--store sqlite:", "argument --store: must be " + STORES + ", got 'sqlite:'" + SEE),
    ("--accept me@example.org", "argument --accept: invalid domain: 'me@example.org'" + SEE),
    ("--accept *.example.org", "argument --accept: invalid domain: '*.example.org'" + SEE),
    ("--accept .*", "argument --accept: invalid domain: '.*'" + SEE),
    ("--accept ..example.org", "argument --accept: invalid domain: '..example.org'" + SEE),
    ("--accept [example.org]", "argument --accept: invalid domain: '[example.org]'" + SEE),
    ("--host 0.0.0.0", "--host 0.0.0.0 is not a loopback address: add --accept DOMAIN ('*' for all) or --recipients FILE"),
    ("--host ::", "--host :: is not a loopback address: add --accept DOMAIN ('*' for all) or --recipients FILE"),
    ("--host *", "--host * is not a loopback address: add --accept DOMAIN ('*' for all) or --recipients FILE"),
    ("--name a..b\u00fc..c", "--name: invalid host name: 'a..b\\xfc..c' (not encodable as A-labels); must be a domain or an "
     "address literal (RFC 5321 4.1.1.1)"),
    ("--tls-key key.pem", "--tls-key requires --tls-cert"),
    ("--implicit-tls", "--implicit-tls requires --tls-cert and --tls-key"),
    ("--tls-client-ca ca.pem", "--tls-client-ca requires --tls-cert and --tls-key"),
    ("TLS --tls-client-optional", "--tls-client-optional requires --tls-client-ca"),
    ("TLS --tls-client-ca none", "cannot read none: No such file or directory"),
    ("TLS --tls-client-ca accounts", "no certificate in accounts"),
    ("TLS --tls-cert cert.pem", "--tls-key must be given once for each --tls-cert, or not at all"),
    ("TLS --tls-min 1.1", "argument --tls-min: invalid choice: '1.1' (choose from '1.2', '1.3')" + SEE),
    ("TLS --tls-timeout x", "argument --tls-timeout: must be a number of seconds from 0 to 1000000000, or a time such as 500ms, "
     "30s, 5m or 1h, got 'x'" + SEE),
    ("--tls-cert none --tls-key x", "cannot read none: No such file or directory"),
    ("--tls-cert cert.pem --tls-key none", "cannot read none: No such file or directory"),
    ("--tls-cert cert.pem --tls-key .", "cannot read .: Is a directory"),
    ("--tls-cert cert.pem", "cannot load a certificate from cert.pem and an unencrypted key from cert.pem"),
    ("--tls-cert accounts --tls-key key.pem", "cannot load a certificate from accounts and an unencrypted key from key.pem"),
    ("--tls-cert cert.pem --tls-key other", "the key in other does not match the certificate in cert.pem"),
    ("--tls-cert cert.pem --tls-key rsa", "the key in rsa does not match the certificate in cert.pem"),
    ("--auth-file accounts", "--auth-file requires --tls-cert and --tls-key: passwords are accepted over TLS only"),
    ("--auth-optional", "--auth-optional requires --auth-file"),
    ("TLS --auth-file accounts --auth-accept-any", "--auth-accept-any cannot be combined with --auth-file"),
    ("--auth-accept-any --auth-optional", "--auth-optional requires --auth-file"),
    ("--lenient --strict", "argument --strict: not allowed with argument --lenient" + SEE),
    ("--lenient=a@b", "--lenient needs a domain or an address literal as default domain, got 'a@b'"),
    ("--lenient --name x@y", "--name: invalid host name: 'x@y' (contains '@'); must be a domain or an address literal "
     "(RFC 5321 4.1.1.1)"),
    ("TLS --auth-file none", "cannot use none: No such file or directory"),
    ("TLS --auth-file accounts", "cannot use accounts: line 2: expected user:password or user:hash"),
    ("--workers some", "argument --workers: must be a number from 0 to 256, got 'some'" + SEE),
    ("--workers 2 --store memory:?messages=5&octets=10", "--workers cannot be combined with --store "
     "memory:?messages=5&octets=10: its mail is in one process"),
    ("--fd x", "argument --fd: must be a number from 0 to 2147483647, got 'x'" + SEE),
    ("--fd systemd", "--fd systemd: no sockets were passed to this process (LISTEN_PID, LISTEN_FDS)"),
    ("--fd 1000000", "--fd 1000000: Bad file descriptor"),
    ("--port 25 --fd 3", "argument --fd: not allowed with argument --port" + SEE),
    ("--forward", "unrecognized arguments: --forward" + SEE),
    ("now", "unrecognized arguments: now" + SEE),
    ("--host a..b --accept x", "--host: invalid host name: 'a..b' (empty label)"),
    ("--host a..b", "--host: invalid host name: 'a..b' (empty label)"),
]  # fmt: skip

# Errors that are found when the server starts; and two of the others, also in a process of their own.
START_ERRORS = [
    ("--host 192.0.2.1 --accept x", "cannot listen on 192.0.2.1, port 2525: Cannot assign requested address: this "
     "machine does not have that address"),
    ("--port 0 --store maildir:accounts", "cannot store mail in DIRECTORY/accounts: File exists"),
    ("--port 0 --store maildir:accounts/box", "cannot store mail in DIRECTORY/accounts/box: Not a directory"),
    ("--port 0 --store sqlite:.", "cannot store mail in DIRECTORY: unable to open database file"),
    ("--port 0 --store sqlite:accounts", "cannot store mail in DIRECTORY/accounts: file is not a database; "
     "move the file away, or store mail elsewhere"),
    ("--tls-cert cert.pem --tls-key rsa", "the key in rsa does not match the certificate in cert.pem"),
    ("--port smtp", "argument --port: must be a number from 0 to 65535, got 'smtp'" + SEE),
]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, certificates: Certificates) -> Path:
    """A directory with files that do not fit the options that name them."""
    (tmp_path / "accounts").write_text("fred:secret\nwilma\n" + "#" * 100)
    certificates.ca.issue_cert(HOST).private_key_pem.write_to_path(tmp_path / "other")
    certificates.ca.issue_cert(HOST, key_type=trustme.KeyType.RSA).private_key_pem.write_to_path(tmp_path / "rsa")
    return tmp_path


@pytest.mark.parametrize(("options", "error"), INVALID_OPTIONS)
def test_invalid_options(
    files: Path, options: str, error: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)

    code = main(["serve", *options.replace("TLS", "--tls-cert cert.pem --tls-key key.pem").split()])

    assert error_message(code, *capsys.readouterr()) == error


@pytest.mark.parametrize(("options", "error"), START_ERRORS)
@pytest.mark.slow
async def test_start_errors(files: Path, options: str, error: str) -> None:
    assert await run_error("serve", *options.split(), cwd=files) == error.replace("DIRECTORY", str(files))


@pytest.mark.parametrize("arguments", ["", "send", "--serve", "serve now"])
@pytest.mark.slow
async def test_invalid_command(tmp_path: Path, arguments: str) -> None:
    await run_error(*arguments.split(), cwd=tmp_path)


async def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        error = await run_error("serve", "--port", str(port), cwd=tmp_path)
    assert error == (
        f"cannot listen on {HOST}, port {port}: Address already in use: another program is listening there; choose another --port"
    )


@pytest.mark.skipif(
    int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 25, reason="port 25 needs no privilege"
)
async def test_port_that_needs_a_privilege(tmp_path: Path) -> None:
    prefix: Sequence[str] = ()
    if os.getuid() == 0:
        prefix = ("setpriv", "--bounding-set=-net_bind_service")
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv")

    for options in ([], ["--workers", "2"]):
        error = await run_error("serve", "--port", "25", *options, cwd=tmp_path, prefix=prefix)
        assert error.startswith(f"cannot listen on {HOST}, port 25: Permission denied: ")
        for hint in ("--fd systemd", "setcap cap_net_bind_service=+ep", "net.ipv4.ip_unprivileged_port_start=25"):
            assert hint in error


@pytest.mark.parametrize("path", ["box", "box/tmp", "box/new"])
@pytest.mark.slow
async def test_maildir_that_is_not_writable(tmp_path: Path, path: str) -> None:
    for name in ("tmp", "new", "cur"):
        (tmp_path / "box" / name).mkdir(parents=True)
    (tmp_path / path).chmod(0o500)
    prefix: Sequence[str] = ()
    if os.access(tmp_path / path, os.W_OK):  # root may write to any directory unless it drops this capability
        prefix = ("setpriv", "--bounding-set=-dac_override")
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv")

    error = await run_error("serve", "--port", "0", "--store", "maildir:box", cwd=tmp_path, prefix=prefix)

    hint = "not writable; give the user of the server the right to write there"
    assert error == f"cannot store mail in {tmp_path / path}: {hint}"


async def test_version_and_help(tmp_path: Path) -> None:
    assert await run("-m", "smtp_trio", "--version", cwd=tmp_path) == (0, f"smtp-trio {__version__}\n", "")
    code, out, err = await run("-m", "smtp_trio", "serve", "--help", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "--auth-file FILE" in out
