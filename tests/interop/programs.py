"""The foreign programs, each behind one function that runs an errand and tells how it ended."""

from __future__ import annotations

import json
import os
import smtplib
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import trio
from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

# The name stands in the certificate, so that a program must match it against the one that it was told to call.
HOST = "localhost"
USER, PASSWORD = "ada", "a secret, with blanks"
PATH = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin"  # Debian keeps smtp-source there

Tls = Literal["none", "starttls", "implicit"]
Mechanism = Literal["PLAIN", "LOGIN"]


@frozen(kw_only=True)
class Errand:
    """One message to send, and the way to send it."""

    mail: Path
    home: Path
    """An empty folder: no program finds a configuration file of the person who runs the tests."""
    port: int = 0
    sender: str = "ada@example.net"
    recipients: Sequence[str] = ("bo@example.org",)
    tls: Tls = "none"
    auth: Mechanism | None = None
    ca: Path | None = None

    @property
    def url(self) -> str:
        return f"{'smtps' if self.tls == 'implicit' else 'smtp'}://{HOST}:{self.port}/client.example.net"


@frozen
class Outcome:
    """What a program made of its errand: did it report success, and what did it print?"""

    sent: bool
    said: str


async def run(errand: Errand, *command: str | Path, stdin: bytes = b"", **environment: str) -> Outcome:
    done = await trio.run_process(
        [os.fspath(word) for word in command],
        stdin=stdin,
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
        env={"PATH": PATH, "HOME": str(errand.home), "LC_ALL": "C.UTF-8", **environment},
        cwd=errand.home,
    )
    return Outcome(done.returncode == 0, done.stdout.decode(errors="replace"))


async def swaks(errand: Errand) -> Outcome:
    # With --data swaks takes a message that ends in a lone dot, and removes that dot before it doubles the others.
    content = errand.mail.read_bytes()
    if not content.endswith(b"\n"):
        content += b"\r\n"
    data = errand.home / "data"
    data.write_bytes(content + b".")
    options: list[str | Path] = []
    if errand.tls == "starttls":
        options += ["--tls"]
    elif errand.tls == "implicit":
        options += ["--tls-on-connect"]
    if errand.ca:
        options += ["--tls-verify", "--tls-ca-path", errand.ca]
    if errand.auth:
        options += ["--auth", errand.auth, "--auth-user", USER, "--auth-password", PASSWORD]
    return await run(
        errand,
        *("swaks", "--server", HOST, "--port", str(errand.port), "--helo", "client.example.net"),
        *("--from", errand.sender, "--to", ",".join(errand.recipients), "--data", f"@{data}"),
        *("--suppress-data", "--timeout", "30", *options),
    )


async def curl(errand: Errand) -> Outcome:
    options: list[str | Path] = []
    for recipient in errand.recipients:
        options += ["--mail-rcpt", recipient]
    if errand.tls == "starttls":
        options += ["--ssl-reqd"]
    if errand.ca:
        options += ["--cacert", errand.ca]
    if errand.auth:
        options += ["--user", f"{USER}:{PASSWORD}", "--login-options", f"AUTH={errand.auth}"]
    return await run(
        errand,
        *("curl", "--disable", "--verbose", "--no-progress-meter", "--max-time", "30"),
        *("--url", errand.url, "--mail-from", errand.sender, "--upload-file", errand.mail, *options),
    )


async def msmtp(errand: Errand) -> Outcome:
    # With --host it reads no file. It would write fields of its own into the message, and take Bcc out.
    options: list[str] = ["--set-from-header=off", "--set-date-header=off", "--set-msgid-header=off"]
    options += ["--remove-bcc-headers=off"]
    if errand.tls != "none":
        options += ["--tls=on", f"--tls-starttls={'on' if errand.tls == 'starttls' else 'off'}"]
    if errand.ca:
        options += [f"--tls-trust-file={errand.ca}"]
    if errand.auth:
        secret = errand.home / "password"
        secret.write_text(PASSWORD)
        options += [f"--auth={errand.auth.lower()}", f"--user={USER}", f"--passwordeval=cat '{secret}'"]
    return await run(
        errand,
        *("msmtp", f"--host={HOST}", f"--port={errand.port}", "--domain=client.example.net", "--timeout=30"),
        *(f"--from={errand.sender}", *options, "--", *errand.recipients),
        stdin=errand.mail.read_bytes(),
    )


async def python(errand: Errand) -> Outcome:
    context = ssl.create_default_context(cafile=errand.ca)

    def send() -> None:
        client: smtplib.SMTP
        if errand.tls == "implicit":
            client = smtplib.SMTP_SSL(HOST, errand.port, timeout=30, context=context)
        else:
            client = smtplib.SMTP(HOST, errand.port, timeout=30)
        with client:
            client.ehlo_or_helo_if_needed()
            if errand.tls == "starttls":
                client.starttls(context=context)
                client.ehlo()
            if errand.auth:
                client.user, client.password = USER, PASSWORD
                client.auth(errand.auth, client.auth_plain if errand.auth == "PLAIN" else client.auth_login)
            client.sendmail(errand.sender, errand.recipients, errand.mail.read_bytes())

    try:
        await trio.to_thread.run_sync(send, abandon_on_cancel=True)
    except (smtplib.SMTPException, OSError) as error:
        return Outcome(False, repr(error))
    return Outcome(True, "")


async def nodemailer(errand: Errand, node_modules: Path) -> Outcome:
    fields = {name: getattr(errand, name) for name in ("port", "mail", "sender", "recipients", "tls", "auth", "ca")}
    fields |= {"host": HOST, "user": USER, "password": PASSWORD}
    script = Path(__file__).with_name("send.cjs")
    return await run(errand, "node", script, json.dumps(fields, default=os.fspath), NODE_PATH=str(node_modules))


async def smtp_source(errand: Errand) -> Outcome:
    # It reads lines without their ends and writes each with CRLF; recipients are counted down: 3bo, 2bo, bo.
    last = errand.recipients[-1]
    mail = errand.home / "mail"
    mail.write_bytes(errand.mail.read_bytes().replace(b"\r\n", b"\n"))
    return await run(
        errand,
        *("smtp-source", "-M", "client.example.net", "-f", errand.sender),
        *("-t", last, "-r", str(len(errand.recipients)), "-F", mail, f"inet:{HOST}:{errand.port}"),
    )


@frozen(kw_only=True)
class Program:
    """A program, what must be installed for it, and where it falls short."""

    name: str
    send: Callable[..., Awaitable[Outcome]]
    """Takes the errand."""
    needs: Sequence[Sequence[str]] = ()
    """Commands that must be there; with arguments, they must succeed too."""
    secure: bool = True
    """Whether it knows STARTTLS, implicit TLS and AUTH."""
    crlf: bool = True
    """Whether it turns the lone LF of a Unix file into CRLF, as every sender must (RFC 5321 2.3.8)."""
    spoils: Sequence[str] = ()
    """Mails that do not leave it as they are."""
    adds: bytes = b""
    """What it puts behind every mail."""


PROGRAMS = (
    # swaks takes the mail apart: it wants a header section with a blank line behind it.
    Program(
        name="swaks",
        send=swaks,
        needs=(("swaks",), ("perl", "-MNet::SSLeay", "-e1")),
        spoils=("dot-first", "header-only"),
    ),
    Program(name="curl", send=curl, needs=(("curl",),), crlf=False),
    Program(name="msmtp", send=msmtp, needs=(("msmtp",),)),
    Program(name="smtplib", send=python, crlf=False),
    Program(name="nodemailer", send=nodemailer, needs=(("node",), ("npm",))),
    # smtp-source ends every mail with a blank line.
    Program(name="smtp-source", send=smtp_source, needs=(("smtp-source",),), secure=False, adds=b"\r\n"),
)
