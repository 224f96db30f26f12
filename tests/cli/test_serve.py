"""``smtp-trio serve`` as a user has it: in a process of its own, with options, signals, and mistakes."""

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
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trustme
from processes import HOST, Program, run, running, serving, trusting

from smtp_trio import __version__
from smtp_trio._cli.main import main, parser
from smtp_trio.stores import Maildir, read

MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
ME, YOU = "me@example.net", "you@example.org"


def box(path: Path) -> list[Path]:
    return sorted((path / "new").iterdir())


# --- what it does -----------------------------------------------------------------------------------------------------


def test_what_it_does_with_no_options_at_all() -> None:
    options = parser().parse_args(["serve"])

    assert (options.host, options.port) == ("127.0.0.1", 2525)
    assert isinstance(options.store, Maildir)
    assert options.store.path == str(Path("Maildir").absolute())
    assert (options.newlines, options.log_format, options.timeout, options.size) == (
        "normalize",
        "text",
        300,
        31457280,
    )


async def test_mail_for_everybody_goes_into_a_maildir(tmp_path: Path) -> None:
    async with serving(cwd=tmp_path) as program:
        assert f"listening on {HOST}:{program.port}\n" in program.out.text
        assert f"storing in maildir:{tmp_path}/Maildir\n" in program.out.text
        await program.send(ME, [YOU, "Anybody@anywhere.example"], MESSAGE)
        line = (await program.out.until(r"^.*reply=.*\n"))[0]

    (file,) = box(tmp_path / "Maildir")
    stored = read(file)
    assert (stored.sender, stored.recipients) == (ME, (YOU, "Anybody@anywhere.example"))
    assert stored.message == MESSAGE
    for part in (
        f"peer={HOST}:",
        "proto=ESMTP ",
        f"from=<{ME}> to=<{YOU}>,<Anybody@anywhere.example> ",
        f"size={len(MESSAGE)} ",
        f"stored={file.name} ",
        'reply="250 2.0.0 Ok: queued as ',
    ):
        assert part in line


async def test_or_into_a_database(tmp_path: Path) -> None:
    async with serving("--store", "sqlite:mail.db", cwd=tmp_path) as program:
        assert f"storing in sqlite:{tmp_path}/mail.db\n" in program.out.text
        await program.send(ME, [YOU], MESSAGE)

    with closing(sqlite3.connect(tmp_path / "mail.db")) as database:
        ((uid,),) = database.execute("SELECT uid FROM messages")
    stored = read(tmp_path / "mail.db", uid)
    assert (stored.sender, stored.recipients, stored.message) == (ME, (YOU,), MESSAGE)


async def test_json(tmp_path: Path) -> None:
    async with serving("--log-format", "json", "--accept", "example.org", cwd=tmp_path) as program:
        await program.send(ME, [YOU], MESSAGE)
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            await program.send("", ["you@elsewhere.example"], MESSAGE)
        program.signal(signal.SIGTERM)
        assert await program.end() == 0

    lines = [json.loads(line) for line in program.out.text.splitlines()]
    taken, refused = (line for line in lines if "reply" in line)
    assert (taken["sender"], taken["to"], taken["size"]) == (ME, [YOU], len(MESSAGE))
    assert (refused["sender"], refused["to"], refused["stored"]) == ("", ["you@elsewhere.example"], "")
    assert refused["reply"].startswith("550 5.7.1 ")
    assert [line["level"] for line in lines if "level" in line] == ["info"] * 4


async def test_quiet_and_verbose(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
    async with running("-m", "smtp_trio", "serve", "-q", "--port", str(port), cwd=tmp_path) as program:
        program.port = port
        with trio.fail_after(30):
            while True:  # it says nothing, so there is nothing to wait for but the port
                try:
                    await program.send(ME, [YOU], MESSAGE)
                    break
                except ConnectionRefusedError:
                    await trio.lowlevel.checkpoint()
        program.signal(signal.SIGTERM)
        assert await program.end() == 0
    assert program.out.text + program.err.text == ""

    async with serving("-v", cwd=tmp_path) as program:
        await program.client(lambda client: client.noop())
        await program.out.until(r"Noop\(.*-> 250 2\.0\.0 Ok")


async def test_a_refusal_has_its_line_whoever_refuses(tmp_path: Path) -> None:
    def talk(client: smtplib.SMTP) -> None:
        client.ehlo()
        assert client.docmd("MAIL FROM:<me@example.net> SIZE=1001")[0] == 552
        assert client.docmd("MAIL FROM:<me@example.net>")[0] == 250
        assert client.docmd("RCPT TO:<you>")[0] == 501

    async with serving("--size", "1000", cwd=tmp_path) as program:
        await program.client(talk)
        await program.out.until(r'from=<me@example\.net> to=- .*reply="552 5\.3\.4')
        await program.out.until(r'from=<me@example\.net> to=<you> .*reply="501 5\.1\.3')


async def test_what_a_client_says_does_no_harm_on_a_terminal(tmp_path: Path) -> None:
    def talk(client: smtplib.SMTP) -> None:
        client.command_encoding = "utf-8"
        client.ehlo("me")
        client.docmd("MAIL FROM:<a\u202eb@example.net> SMTPUTF8")
        client.docmd("RCPT TO:<c\u2028d@example.net>")
        client.docmd("RCPT TO:<c\u202ed@example.net>")

    async with serving("--accept=example.org", cwd=tmp_path) as program:
        await program.client(talk)
        await program.out.until(r"from=<a\?b@example\.net> to=<c\?d@example\.net>")
    assert "\u202e" not in program.out.text


@pytest.mark.parametrize(
    ("choice", "code", "kept"),
    [("normalize", 250, b"a\r\nb\r\n"), ("preserve", 250, b"a\nb\r\n"), ("reject", 550, None)],
)
async def test_newlines(tmp_path: Path, choice: str, code: int, kept: bytes | None) -> None:
    def talk(client: smtplib.SMTP) -> int:
        client.ehlo()
        client.mail(ME)
        client.rcpt(YOU)
        client.docmd("DATA")
        client.send(b"a\nb\r\n.\r\n")
        return client.getreply()[0]

    async with serving("--newlines", choice, cwd=tmp_path) as program:
        assert await program.client(talk) == code

    assert [read(file).message for file in box(tmp_path / "Maildir")] == ([] if kept is None else [kept])


async def test_its_name_and_its_patience(tmp_path: Path) -> None:
    async with serving("--name", "mx.example.org", "--timeout", "0.2", cwd=tmp_path) as program:
        async with await trio.open_tcp_stream(HOST, program.port) as stream:
            said = b"".join([piece async for piece in stream])

    assert said.startswith(b"220 mx.example.org ESMTP\r\n421 4.4.2 mx.example.org ")


async def test_everywhere(tmp_path: Path) -> None:
    async with serving("--host", "*", "--accept", "example.org", cwd=tmp_path) as program:
        assert f"listening on 0.0.0.0:{program.port}\n" in program.out.text
        if socket.has_dualstack_ipv6():
            assert f"listening on [::]:{program.port}\n" in program.out.text


async def test_nobody_reads_its_lines_any_more(tmp_path: Path) -> None:
    async with serving(cwd=tmp_path) as program:
        await program.out.stream.aclose()
        await program.send(ME, [YOU], MESSAGE)
        program.signal(signal.SIGTERM)
        assert await program.err.rest() == ""
        assert await program.process.wait() == 0

    assert len(box(tmp_path / "Maildir")) == 1


# --- for whom ---------------------------------------------------------------------------------------------------------


async def test_accept(tmp_path: Path) -> None:
    taken = [
        "you@example.org", '"any one"@EXAMPLE.ORG', "Postmaster", "postMASTER", "a@b.example.com", "a@c.B.example.com",
        "x@bücher.example", "x@xn--bcher-kva.example", "x@[192.0.2.1]",
    ]  # fmt: skip
    refused = [
        "you@sub.example.org", "you@notexample.org", "you@example.org.evil.example", "postmaster@elsewhere.example",
        "a@example.com", "a@badexample.com", "x@[192.0.2.2]", "you%example.org@elsewhere.example",
    ]  # fmt: skip

    def talk(client: smtplib.SMTP) -> list[str]:
        client.command_encoding = "utf-8"
        client.ehlo()
        client.docmd("MAIL FROM:<me@example.net> SMTPUTF8")
        return [path for path in taken + refused if client.docmd(f"RCPT TO:<{path}>")[0] == 250]

    domains = ["Example.ORG", ".example.com", "BÜCHER.example", "[192.0.2.1]"]
    async with serving(*[f"--accept={domain}" for domain in domains], cwd=tmp_path) as program:
        assert await program.client(talk) == taken
        for path in refused:
            await program.out.until(f'to=<{re.escape(path)}> .*reply="550 5\\.7\\.1 ')


# --- TLS and logins ---------------------------------------------------------------------------------------------------


class Certificates:
    """An authority, and the files that a server reads."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.pem, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        self.ca.cert_pem.write_to_path(self.pem)
        self.renew()

    @property
    def options(self) -> list[str]:
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def renew(self, key_type: trustme.KeyType = trustme.KeyType.ECDSA) -> None:
        issued = self.ca.issue_cert(HOST, key_type=key_type)
        issued.private_key_pem.write_to_path(self.key)
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))

    @property
    def shown(self) -> bytes:
        """The certificate that a client should see."""
        return ssl.PEM_cert_to_DER_cert(self.cert.read_text().partition("-----END CERTIFICATE-----")[0] + END)

    def look(self, client: smtplib.SMTP) -> bytes | None:
        """The certificate that a client sees."""
        client.starttls(context=trusting(self.pem))
        assert isinstance(client.sock, ssl.SSLSocket)
        return client.sock.getpeercert(binary_form=True)


END = "-----END CERTIFICATE-----\n"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def test_starttls(tmp_path: Path, certificates: Certificates) -> None:
    def talk(client: smtplib.SMTP) -> None:
        assert certificates.look(client) == certificates.shown
        client.sendmail(ME, [YOU], MESSAGE)

    async with serving(*certificates.options, cwd=tmp_path) as program:
        await program.client(talk)
        await program.out.until(r"proto=ESMTPS .*tls=TLSv1\.3 ")


async def test_implicit_tls(tmp_path: Path, certificates: Certificates) -> None:
    def send() -> None:
        with smtplib.SMTP_SSL(HOST, program.port, timeout=30, context=trusting(certificates.pem)) as client:
            client.sendmail(ME, [YOU], MESSAGE)

    async with serving(*certificates.options, "--implicit-tls", cwd=tmp_path) as program:
        await trio.to_thread.run_sync(send)
        await program.out.until(r"proto=ESMTPS ")


@pytest.mark.parametrize("kind", [trustme.KeyType.ECDSA, trustme.KeyType.RSA])
async def test_sighup_reads_the_certificate_again(
    tmp_path: Path, certificates: Certificates, kind: trustme.KeyType
) -> None:
    certificates.renew(kind)
    async with serving(*certificates.options, cwd=tmp_path) as program:
        before = certificates.shown
        assert await program.client(certificates.look) == before

        certificates.renew()
        assert await program.client(certificates.look) == before
        program.signal(signal.SIGHUP)
        await program.out.until("SIGHUP: reading certificate")
        assert await program.client(certificates.look) == certificates.shown != before


async def test_a_certificate_that_cannot_be_read_again_changes_nothing(
    tmp_path: Path, certificates: Certificates
) -> None:
    async with serving(*certificates.options, cwd=tmp_path) as program:
        before = certificates.shown
        key = certificates.key.read_bytes()
        certificates.renew()
        certificates.key.write_bytes(key)

        program.signal(signal.SIGHUP)
        line = (await program.err.until(r"^.*stays\n"))[0]
        assert f"error: SIGHUP: the key in {certificates.key} does not belong to the certificate in" in line
        assert await program.client(certificates.look) == before
    assert program.err.text == line


async def test_only_who_logs_in_may_send(tmp_path: Path, certificates: Certificates) -> None:
    people = tmp_path / "people"
    code, hashed, _ = await run("-m", "smtp_trio", "hash-password", cwd=tmp_path, stdin=b"hush\n")
    assert code == 0
    people.write_text(f"fred:secret\nwilma:{hashed}")

    def in_the_clear(client: smtplib.SMTP) -> None:
        client.ehlo()
        assert not client.has_extn("auth")
        assert client.docmd("AUTH PLAIN AGZyZWQAc2VjcmV0")[0] == 538
        assert client.docmd("MAIL FROM:<me@example.net>") == (530, b"5.7.0 Authentication required")

    def log_in(user: str, password: str) -> Callable[[smtplib.SMTP], None]:
        def talk(client: smtplib.SMTP) -> None:
            client.starttls(context=trusting(certificates.pem))
            client.ehlo()
            assert client.docmd("MAIL FROM:<me@example.net>")[0] == 530
            client.login(user, password)
            client.sendmail(ME, [YOU], MESSAGE)

        return talk

    async with serving(*certificates.options, "--auth-file", "people", "-v", cwd=tmp_path) as program:
        await program.client(in_the_clear)
        await program.client(log_in("fred", "secret"))
        await program.client(log_in("wilma", "hush"))
        await program.out.until(r"proto=ESMTPSA .* user=wilma ")
        for user, password in (("fred", "hush"), ("wilma", hashed.strip()), ("barney", "rubble")):
            with pytest.raises(smtplib.SMTPAuthenticationError):
                await program.client(log_in(user, password))
            await program.err.until(f"no login for '{user}' from {HOST}:")

        people.write_text("barney:rubble\n")
        program.signal(signal.SIGHUP)
        await program.out.until("SIGHUP: reading certificate")
        await program.client(log_in("barney", "rubble"))
        people.write_text("barney\n")
        program.signal(signal.SIGHUP)
        await program.err.until(f"SIGHUP: cannot use {people.name}: line 1: ")
        await program.client(log_in("barney", "rubble"))

        program.signal(signal.SIGTERM)
        await program.end()
    said = program.out.text + program.err.text
    for secret in ("secret", "hush", "rubble", "AGZyZWQAc2VjcmV0", "$scrypt"):
        assert secret not in said


async def test_who_does_not_log_in_may_send_too(tmp_path: Path, certificates: Certificates) -> None:
    (tmp_path / "people").write_text("fred:secret\n")
    options = [*certificates.options, "--auth-file", "people", "--auth-optional"]
    async with serving(*options, cwd=tmp_path) as program:
        await program.send(ME, [YOU], MESSAGE)


# --- signals ----------------------------------------------------------------------------------------------------------


async def begin_message(program: Program) -> trio.SocketStream:
    """A session in the middle of its message."""
    stream = await trio.open_tcp_stream(HOST, program.port)
    await stream.send_all(b"EHLO me\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
    said = b""
    while b"\r\n354 " not in said:
        said += await stream.receive_some()
    await stream.send_all(b"Subject: hi\r\n")
    return stream


async def rest(stream: trio.SocketStream) -> bytes:
    async with stream:
        return b"".join([piece async for piece in stream])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(tmp_path: Path, number: signal.Signals) -> None:
    async with serving(cwd=tmp_path) as program:
        busy = await begin_message(program)
        idle = await trio.open_tcp_stream(HOST, program.port)
        assert (await idle.receive_some()).startswith(b"220 ")

        program.signal(number)

        await program.out.until(f"{number.name}: stopping")
        assert (await rest(idle)).startswith(b"421 4.3.2 ")
        with pytest.raises(OSError, match="all attempts"):
            await trio.open_tcp_stream(HOST, program.port)
        await busy.send_all(b"\r\nhello\r\n.\r\n")
        assert b"250 2.0.0 Ok: queued as" in await rest(busy)
        assert await program.end() == 0
        await program.out.until("stopped; messages taken: 1, refused: 0; sessions: 2")

    assert len(box(tmp_path / "Maildir")) == 1
    assert program.err.text == ""


async def test_a_second_signal_waits_for_nobody(tmp_path: Path) -> None:
    async with serving(cwd=tmp_path) as program:
        busy = await begin_message(program)
        program.signal(signal.SIGINT)
        await program.out.until("SIGINT: stopping")
        program.signal(signal.SIGINT)
        assert await program.end() == 0
        assert b"250 2.0.0 Ok: queued" not in await rest(busy)

    assert box(tmp_path / "Maildir") == []
    assert program.err.text == ""


async def test_sighup_with_nothing_to_read_again(tmp_path: Path) -> None:
    async with serving(cwd=tmp_path) as program:
        program.signal(signal.SIGHUP)
        await program.out.until("SIGHUP: reading")
        await program.send(ME, [YOU], MESSAGE)


async def test_its_terminal_is_gone(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    with open(theirs, "wb", closefd=True) as terminal:
        async with serving(cwd=tmp_path, stderr=terminal) as program:
            os.close(ours)
            program.signal(signal.SIGHUP)
            await program.out.until("SIGHUP: stopping")
            assert await program.process.wait() == 0


# --- mistakes ---------------------------------------------------------------------------------------------------------


def said(code: int, out: str, err: str) -> str:
    """What is said of a mistake, less what is said of all of them: one line, and exit code 2."""
    assert (code, out) == (2, "")
    assert err.startswith("smtp-trio: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("smtp-trio: error: ").rstrip("\n")


async def mistake(*options: str, cwd: Path, under: Sequence[str] = ()) -> str:
    """What the command says of these options."""
    return said(*await run("-m", "smtp_trio", *options, cwd=cwd, under=under))


SEE = " (see `smtp-trio serve --help`)"

# What is found before the server begins to do anything.
WRONG = [
    ("--port 65536", "argument --port: must be a number from 0 to 65535, got '65536'" + SEE),
    ("--port smtp", "argument --port: must be a number from 0 to 65535, got 'smtp'" + SEE),
    ("--size -1", "argument --size: must be a number from 0 to 1000000000000000000, got '-1'" + SEE),
    ("--timeout nan", "argument --timeout: must be a number from 0 to 1000000000, got 'nan'" + SEE),
    ("--store mbox:x", "argument --store: unknown store 'mbox:x': want maildir:PATH or sqlite:PATH" + SEE),
    ("--store Maildir", "argument --store: unknown store 'Maildir': want maildir:PATH or sqlite:PATH" + SEE),
    ("--store sqlite:", "argument --store: unknown store 'sqlite:': want maildir:PATH or sqlite:PATH" + SEE),
    ("--accept me@example.org", "argument --accept: 'me@example.org' is no domain" + SEE),
    ("--accept *", "argument --accept: '*' is no domain" + SEE),
    ("--accept ..example.org", "argument --accept: '..example.org' is no domain" + SEE),
    ("--accept [example.org]", "argument --accept: '[example.org]' is no domain" + SEE),
    ("--host 0.0.0.0", "--host 0.0.0.0 is not loopback: say with --accept DOMAIN which mail to take"),
    ("--host ::", "--host :: is not loopback: say with --accept DOMAIN which mail to take"),
    ("--host *", "--host * is not loopback: say with --accept DOMAIN which mail to take"),
    ("--name a..b\u00fc..c", "--name: 'a..b\u00fc..c' is no domain or address literal that a server could greet with"),
    ("--tls-key key.pem", "--tls-key needs --tls-cert"),
    ("--implicit-tls", "--implicit-tls needs --tls-cert and --tls-key"),
    ("--tls-cert none --tls-key x", "cannot read none: No such file or directory"),
    ("--tls-cert cert.pem --tls-key none", "cannot read none: No such file or directory"),
    ("--tls-cert cert.pem --tls-key .", "cannot read .: Is a directory"),
    ("--tls-cert cert.pem", "no certificate in cert.pem, or no key that needs no passphrase in cert.pem"),
    ("--tls-cert people --tls-key key.pem", "no certificate in people, or no key that needs no passphrase in key.pem"),
    ("--tls-cert cert.pem --tls-key other", "the key in other does not belong to the certificate in cert.pem"),
    ("--tls-cert cert.pem --tls-key rsa", "the key in rsa does not belong to the certificate in cert.pem"),
    ("--auth-file people", "--auth-file needs --tls-cert and --tls-key: passwords are taken under TLS only"),
    ("--auth-optional", "--auth-optional needs --auth-file"),
    ("TLS --auth-file none", "cannot use none: No such file or directory"),
    ("TLS --auth-file people", "cannot use people: line 2: want user:password or user:hash"),
    ("--workers some", "argument --workers: must be a number from 0 to 256, got 'some'" + SEE),
    ("--fd x", "argument --fd: must be a number from 0 to 2147483647, got 'x'" + SEE),
    ("--fd systemd", "--fd systemd: no socket was handed to this process (LISTEN_PID, LISTEN_FDS)"),
    ("--fd 1000000", "--fd 1000000: Bad file descriptor"),
    ("--port 25 --fd 3", "argument --fd: not allowed with argument --port" + SEE),
    ("--relay", "unrecognized arguments: --relay (see `smtp-trio --help`)"),
]  # fmt: skip

# What is found when it does; and two of the others, in a process of their own as well.
WRONG_HERE = [
    ("--host 192.0.2.1 --accept x", "cannot listen on 192.0.2.1, port 2525: Cannot assign requested address"),
    ("--store maildir:people", "cannot store mail in FOLDER/people: File exists"),
    ("--store maildir:people/box", "cannot store mail in FOLDER/people/box: Not a directory"),
    ("--store sqlite:.", "cannot store mail in FOLDER: unable to open database file"),
    ("--store sqlite:people", "cannot store mail in FOLDER/people: file is not a database"),
    ("--tls-cert cert.pem --tls-key rsa", "the key in rsa does not belong to the certificate in cert.pem"),
    ("--port smtp", "argument --port: must be a number from 0 to 65535, got 'smtp'" + SEE),
]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, certificates: Certificates) -> Path:
    """A folder with files that are not what they should be."""
    (tmp_path / "people").write_text("fred:secret\nwilma\n" + "#" * 100)
    certificates.ca.issue_cert(HOST).private_key_pem.write_to_path(tmp_path / "other")
    certificates.ca.issue_cert(HOST, key_type=trustme.KeyType.RSA).private_key_pem.write_to_path(tmp_path / "rsa")
    return tmp_path


@pytest.mark.parametrize(("options", "says"), WRONG)
def test_what_cannot_be_meant(
    files: Path, options: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)

    code = main(["serve", *options.replace("TLS", "--tls-cert cert.pem --tls-key key.pem").split()])

    assert said(code, *capsys.readouterr()) == says


@pytest.mark.parametrize(("options", "says"), WRONG_HERE)
async def test_what_cannot_be_done(files: Path, options: str, says: str) -> None:
    assert await mistake("serve", *options.split(), cwd=files) == says.replace("FOLDER", str(files))


@pytest.mark.parametrize("words", ["", "send", "--serve", "serve now"])
async def test_not_a_command(tmp_path: Path, words: str) -> None:
    await mistake(*words.split(), cwd=tmp_path)


async def test_the_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        says = await mistake("serve", "--port", str(port), cwd=tmp_path)
    assert says == f"cannot listen on {HOST}, port {port}: Address already in use"


@pytest.mark.parametrize("path", ["box", "box/tmp", "box/new"])
async def test_a_maildir_that_cannot_be_written_to(tmp_path: Path, path: str) -> None:
    for name in ("tmp", "new", "cur"):
        (tmp_path / "box" / name).mkdir(parents=True)
    (tmp_path / path).chmod(0o500)
    under: Sequence[str] = ()
    if os.access(tmp_path / path, os.W_OK):  # root may write everywhere, until it gives that right away
        under = ("setpriv", "--bounding-set=-dac_override")
        if shutil.which("setpriv") is None:
            pytest.skip("there is no setpriv")

    says = await mistake("serve", "--store", "maildir:box", cwd=tmp_path, under=under)

    assert says == f"cannot store mail in {tmp_path}/box: it is not writable"


async def test_no_password_no_hash(tmp_path: Path) -> None:
    code, out, err = await run("-m", "smtp_trio", "hash-password", cwd=tmp_path, stdin=b"\n")
    assert (code, out) == (2, "")
    assert err == "smtp-trio: error: a password is one character or more, without controls\n"


async def test_version_and_help(tmp_path: Path) -> None:
    assert await run("-m", "smtp_trio", "--version", cwd=tmp_path) == (0, f"smtp-trio {__version__}\n", "")
    code, out, err = await run("-m", "smtp_trio", "serve", "--help", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "--auth-file FILE" in out
