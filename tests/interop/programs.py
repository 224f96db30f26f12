"""Other programs that send mail. A function for each of them sends a message and returns the outcome."""

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

# The name in the certificate, so that programs can verify it.
HOST = "localhost"
USER, PASSWORD = "ada", "a secret, with blanks"
PATH = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin"  # Debian keeps smtp-source there

Tls = Literal["none", "starttls", "implicit"]
Mechanism = Literal["PLAIN", "LOGIN"]


@frozen(kw_only=True)
class Submission:
    """A message to send, its envelope, and how to send it."""

    mail: Path
    home: Path
    """An empty home directory, so that no program reads a configuration file of the user who runs the tests."""
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
    """The result of a program: its exit status as a bool, and its output."""

    sent: bool
    output: str


async def run(submission: Submission, *command: str | Path, stdin: bytes = b"", **environment: str) -> Outcome:
    """Run a command that sends the message, and return the outcome."""
    result = await trio.run_process(
        [os.fspath(argument) for argument in command],
        stdin=stdin,
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
        env={"PATH": PATH, "HOME": str(submission.home), "LC_ALL": "C.UTF-8", **environment},
        cwd=submission.home,
    )
    return Outcome(result.returncode == 0, result.stdout.decode(errors="replace"))


async def swaks(submission: Submission) -> Outcome:
    # With --data, swaks reads a message that ends in a line with a dot, and removes that line before dot-stuffing.
    content = submission.mail.read_bytes()
    if not content.endswith(b"\n"):
        content += b"\r\n"
    data = submission.home / "data"
    data.write_bytes(content + b".")
    options: list[str | Path] = []
    if submission.tls == "starttls":
        options += ["--tls"]
    elif submission.tls == "implicit":
        options += ["--tls-on-connect"]
    if submission.ca:
        options += ["--tls-verify", "--tls-ca-path", submission.ca]
    if submission.auth:
        options += ["--auth", submission.auth, "--auth-user", USER, "--auth-password", PASSWORD]
    return await run(
        submission,
        *("swaks", "--server", HOST, "--port", str(submission.port), "--helo", "client.example.net"),
        *("--from", submission.sender, "--to", ",".join(submission.recipients), "--data", f"@{data}"),
        *("--suppress-data", "--timeout", "200", *options),
    )


async def curl(submission: Submission) -> Outcome:
    options: list[str | Path] = []
    for recipient in submission.recipients:
        options += ["--mail-rcpt", recipient]
    if submission.tls == "starttls":
        options += ["--ssl-reqd"]
    if submission.ca:
        options += ["--cacert", submission.ca]
    if submission.auth:
        options += ["--user", f"{USER}:{PASSWORD}", "--login-options", f"AUTH={submission.auth}"]
    return await run(
        submission,
        *("curl", "--disable", "--verbose", "--no-progress-meter", "--max-time", "200"),
        *("--url", submission.url, "--mail-from", submission.sender, "--upload-file", submission.mail, *options),
    )


async def msmtp(submission: Submission) -> Outcome:
    # With --host, msmtp does not read its configuration. These options keep it from adding fields and removing Bcc.
    options: list[str] = ["--set-from-header=off", "--set-date-header=off", "--set-msgid-header=off"]
    options += ["--remove-bcc-headers=off"]
    if submission.tls != "none":
        options += ["--tls=on", f"--tls-starttls={'on' if submission.tls == 'starttls' else 'off'}"]
    if submission.ca:
        options += [f"--tls-trust-file={submission.ca}"]
    if submission.auth:
        secret = submission.home / "password"
        secret.write_text(PASSWORD)
        options += [f"--auth={submission.auth.lower()}", f"--user={USER}", f"--passwordeval=cat '{secret}'"]
    return await run(
        submission,
        *("msmtp", f"--host={HOST}", f"--port={submission.port}", "--domain=client.example.net", "--timeout=200"),
        *(f"--from={submission.sender}", *options, "--", *submission.recipients),
        stdin=submission.mail.read_bytes(),
    )


async def python(submission: Submission) -> Outcome:
    context = ssl.create_default_context(cafile=submission.ca)

    def send() -> None:
        client: smtplib.SMTP
        if submission.tls == "implicit":
            client = smtplib.SMTP_SSL(HOST, submission.port, timeout=100, context=context)
        else:
            client = smtplib.SMTP(HOST, submission.port, timeout=100)
        with client:
            client.ehlo_or_helo_if_needed()
            if submission.tls == "starttls":
                client.starttls(context=context)
                client.ehlo()
            if submission.auth:
                client.user, client.password = USER, PASSWORD
                client.auth(submission.auth, client.auth_plain if submission.auth == "PLAIN" else client.auth_login)
            client.sendmail(submission.sender, submission.recipients, submission.mail.read_bytes())

    try:
        await trio.to_thread.run_sync(send, abandon_on_cancel=True)
    except (smtplib.SMTPException, OSError) as error:
        return Outcome(False, repr(error))
    return Outcome(True, "")


async def nodemailer(submission: Submission, node_modules: Path) -> Outcome:
    fields = {name: getattr(submission, name) for name in ("port", "mail", "sender", "recipients", "tls", "auth", "ca")}
    fields |= {"host": HOST, "user": USER, "password": PASSWORD}
    script = Path(__file__).with_name("send.cjs")
    return await run(submission, "node", script, json.dumps(fields, default=os.fspath), NODE_PATH=str(node_modules))


async def smtp_source(submission: Submission) -> Outcome:
    # smtp-source writes every line with CRLF, and numbers the recipients downwards: 3bo, 2bo, bo.
    last = submission.recipients[-1]
    mail = submission.home / "mail"
    mail.write_bytes(submission.mail.read_bytes().replace(b"\r\n", b"\n"))
    return await run(
        submission,
        *("smtp-source", "-M", "client.example.net", "-f", submission.sender),
        *("-t", last, "-r", str(len(submission.recipients)), "-F", mail, f"inet:{HOST}:{submission.port}"),
    )


@frozen(kw_only=True)
class Program:
    """A program, its requirements, and how it differs from the others."""

    name: str
    send: Callable[..., Awaitable[Outcome]]
    """The function that sends a `Submission`."""
    needs: Sequence[Sequence[str]] = ()
    """Commands that must be installed, and, with arguments, succeed."""
    secure: bool = True
    """True if it supports STARTTLS, implicit TLS and AUTH."""
    crlf: bool = True
    """True if it sends LF line ends as CRLF, as every sender must (RFC 5321 2.3.8)."""
    alters: Sequence[str] = ()
    """The messages that it changes."""
    appends: bytes = b""
    """The octets that it adds to every message."""


PROGRAMS = (
    # swaks parses the message, and needs a header section that ends with a blank line.
    Program(
        name="swaks",
        send=swaks,
        needs=(("swaks",), ("perl", "-MNet::SSLeay", "-e1")),
        alters=("dot-first", "header-only"),
    ),
    Program(name="curl", send=curl, needs=(("curl",),), crlf=False),
    Program(name="msmtp", send=msmtp, needs=(("msmtp",),)),
    Program(name="smtplib", send=python, crlf=False),
    Program(name="nodemailer", send=nodemailer, needs=(("node",), ("npm",))),
    # smtp-source adds a blank line to every message.
    Program(name="smtp-source", send=smtp_source, needs=(("smtp-source",),), secure=False, appends=b"\r\n"),
)
