"""``smtp-trio send``: messages that are there, to a server, over one connection; a line for each recipient."""

from __future__ import annotations

import argparse
import email
import email.message
import getpass
import os
import re
import shutil
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from email import policy
from functools import partial
from io import TextIOWrapper
from pathlib import Path

import trio
from attrs import frozen

from .._client.client import Client
from .._client.connect import Host, Settings, dial
from .._client.message import mailbox
from .._client.results import (
    Accepted,
    AllRecipientsRejectedError,
    ConnectionLostError,
    Outcome,
    Result,
    TlsHandshakeError,
    Unknown,
)
from .._server.message_log import clean
from ..protocol import LocalProtocolError, Mail, NotOfferedError, ReplyError, SMTPError
from ..protocol.extensions.auth import AuthCommand
from ..protocol.sasl import PasswordCredentials
from .message_files import STDIN, Letter, letters
from .options import UsageError, describe_error, number_between

#: Where a password may be, so that it stands in no list of processes.
PASSWORD = "SMTP_TRIO_PASSWORD"
#: EX_TEMPFAIL of sysexits.h: to be tried again later.
TRY_LATER = 75
INTERRUPTED = 130
#: Seconds between two looks at the progress.
GLANCE = 0.1

SERVER = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\s:\[\]]+))(?::(?P<port>[0-9]{1,5}))?")


@frozen
class Address:
    """Where a server is; without a port, at the one that its use has."""

    host: Host
    port: int | None = None

    def __str__(self) -> str:
        return str(self.host)


def add_send(send: argparse.ArgumentParser) -> None:
    send.description = (
        "Send messages to a server, over one connection. A line is printed for each recipient: what became of it, the server's "
        "answer, and the file. Exit code: 0, all were accepted; 1, some were refused for good; 75, some may be tried again later; "
        "2, the command or a message is not in order, and nothing was sent."
    )
    add = send.add_argument
    # fmt: off
    add("messages", metavar="FILE|DIRECTORY|MAILDIR|-", nargs="+",
        help="a message; a directory of them; a Maildir, whose new and cur are read and left as they are; standard input")
    add("--server", metavar="HOST[:PORT]", type=as_address, default="localhost",
        help="an IPv6 address stands in brackets; unix:PATH is a socket; the port is 25, or 587 with --user, 465 with --tls "
             "implicit, 24 with --lmtp (%(default)s)")
    add("--from", metavar="ADDRESS", dest="sender", type=as_sender,
        help="the envelope's sender; '': none, as mail about mail has it (the message's own Sender or From)")
    add("--to", metavar="ADDRESS", dest="recipients", type=as_recipient, action="append",
        help="a recipient; may be repeated (those in the message's own To, Cc and Bcc; Bcc is never sent)")
    add("--tls", choices=("opportunistic", "required", "implicit", "never"),
        help="STARTTLS where it is offered, whatever the certificate; or always, and verified; or TLS from the first octet, and "
             "verified; or none (opportunistic; required with --user)")
    add("--cafile", metavar="FILE",
        help="whose certificates to trust, in PEM (the system's)")
    add("--user", metavar="NAME",
        help=f"log in, with a password from --password-file, from {PASSWORD} in the environment, or from the terminal")
    add("--password-file", metavar="FILE",
        help="its first line is the password")
    add("--allow-cleartext", action="store_true",
        help="let the password go over a connection that is not encrypted, or to a server that was not verified")
    add("--lmtp", action="store_true",
        help="speak LMTP (RFC 2033)")
    add("--name", metavar="NAME",
        help="who we say we are, in EHLO (our address)")
    add("--timeout", metavar="SECONDS", type=number_between(float, 10**9),
        help="for each answer; 0: without end (those of RFC 5321)")
    # fmt: on
    send.set_defaults(run=run_send)


def as_address(text: str) -> Address:
    kind, _, path = text.partition(":")
    if kind == "unix" and path:
        return Address(Path(path))
    match = SERVER.fullmatch(text)
    port = int(match["port"]) if match and match["port"] else None
    if match is None or port == 0 or (port or 0) > 65535:
        raise argparse.ArgumentTypeError(
            f"want HOST, HOST:PORT, [IPv6], [IPv6]:PORT or unix:PATH, with a port from 1 to 65535, not {text!r}"
        )
    return Address(match["six"] or match["host"], port)


def as_sender(text: str) -> str:
    return _mailbox(text, null=True)


def as_recipient(text: str) -> str:
    return _mailbox(text, null=False)


def _mailbox(text: str, *, null: bool) -> str:
    try:
        mailbox(text, "address", null=null)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


# --- what they ask for ------------------------------------------------------------------------------------------------


def run_send(options: argparse.Namespace) -> int:
    if options.messages.count(STDIN) > 1:
        raise UsageError("there is only one standard input: give - once")
    for option, wanted in (("--password-file", options.password_file), ("--allow-cleartext", options.allow_cleartext)):
        if wanted and options.user is None:
            raise UsageError(f"{option} needs --user")
    recipients = list(dict.fromkeys(options.recipients)) if options.recipients else None
    waiting = letters(options.messages, options.sender, recipients)
    if not waiting:
        print("smtp-trio: nothing to send", file=sys.stderr)
        return 0
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return trio.run(interruptible, Sender(options.server.host, port(options), settings(options)), waiting)


def port(options: argparse.Namespace) -> int:
    if options.server.port is not None:
        return int(options.server.port)
    if options.lmtp:  # RFC 2033 5: not 25; 24 is what others take
        return 24
    if options.tls == "implicit":  # RFC 8314 3.3
        return 465
    return 25 if options.user is None else 587  # RFC 6409 3.1


def settings(options: argparse.Namespace) -> Settings:
    found: Settings = {
        "tls": options.tls or ("opportunistic" if options.allow_cleartext else None),
        "ssl_context": None if options.cafile is None else trusting(options.cafile),
        "auth": None,
        "name": options.name,
        "lmtp": options.lmtp,
        "allow_cleartext": options.allow_cleartext,
        "timeout": options.timeout,
    }
    if options.user is not None:
        try:
            found["auth"] = PasswordCredentials(options.user, password(options))
        except ValueError as error:
            raise UsageError(f"--user: {error}") from None
    return found


def trusting(cafile: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=cafile)
    except ssl.SSLError:
        raise UsageError(f"no certificate in {cafile}") from None
    except OSError as error:
        raise UsageError(f"cannot read {cafile}: {describe_error(error)}") from None


def password(options: argparse.Namespace) -> str:
    if options.password_file is not None:
        try:
            with open(options.password_file, encoding="utf-8-sig") as file:
                return file.readline().removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {options.password_file}: {describe_error(error)}") from None
    if PASSWORD in os.environ:
        return os.environ[PASSWORD]
    if sys.stdin.isatty():
        with suppress(EOFError):
            return getpass.getpass(f"Password of {options.user} at {options.server}: ")
    raise UsageError(f"--user needs a password: from --password-file FILE, or from {PASSWORD} in the environment")


# --- sending ----------------------------------------------------------------------------------------------------------


async def interruptible(sender: Sender, waiting: Sequence[Letter]) -> int:
    """Send them all. SIGINT ends it: what is known by then is said, and the connection is closed."""
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as work:
                nursery.start_soon(heed, signals, work)
                await sender.send_all(waiting)
            nursery.cancel_scope.cancel()
    sender.report.clear()
    return INTERRUPTED if work.cancelled_caught else sender.report.code


async def heed(signals: AsyncIterator[int], work: trio.CancelScope) -> None:
    await anext(signals)
    work.cancel()


class Sender:
    """Has a connection while there is something to send, and another one when the server has ended it."""

    def __init__(self, host: Host, port: int, settings: Settings) -> None:
        self.report: Report = Report()
        self._host, self._port, self._settings = host, port, settings
        self._client: Client | None = None

    async def send_all(self, waiting: Sequence[Letter]) -> None:
        trouble: SMTPError | None = None  # with the server as such: no other message would have better luck
        try:
            for at, letter in enumerate(waiting, 1):
                if trouble is None:
                    trouble = await self._send(letter, f"{at} of {len(waiting)}  {letter.name}")
                if trouble is not None:
                    self.report.failure(letter, letter.recipients, trouble)
        except ValueError as error:  # a name or a host that nobody can have
            self.report.trouble(str(error))
            self.report.wrong = True
        finally:
            if self._client is not None:
                await self._client.quit()

    async def _send(self, letter: Letter, what: str) -> SMTPError | None:
        """Send one, and say what became of it. Gives what is wrong with the server, when it cannot be used."""
        try:
            octets = letter.read()
        except OSError as gone:  # in a Maildir, somebody may have read it meanwhile
            self.report.trouble(f"cannot read {letter.name}: {describe_error(gone)}")
            self.report.words.add("deferred")
            return None
        while True:
            client, fresh = self._client, False
            if client is None or not client.usable:
                try:
                    client = self._client = await dial(self._host, self._port, **self._settings)
                except SMTPError as trouble:
                    self.report.trouble(said(trouble) + advice(trouble))
                    return trouble
                fresh = True
            message, progress = fitting(octets, client.offered), partial(self.report.progress, what)
            error: SMTPError | None = None
            try:
                await client.send(letter.sender, letter.recipients, message, progress=progress)
            except SMTPError as exc:
                error = exc
                if not fresh and is_goodbye(error, client.last_result):
                    await client.aclose()
                    continue
            except trio.Cancelled:
                self.report.outcomes(letter, client)
                raise
            known = self.report.outcomes(letter, client)
            if error is not None:
                self.report.failure(letter, [name for name in letter.recipients if name not in known], error)
            return None


def is_goodbye(error: SMTPError, known: Result | None) -> bool:
    """Many servers take so many messages over a connection, and then no more. Nothing of the next one was taken then."""
    if isinstance(error, AllRecipientsRejectedError):  # RFC 5321 3.8: 421 may be the answer to any command
        return error.reply.code == 421 and isinstance(error.command, Mail)
    return isinstance(error, ConnectionLostError) and not (known and known.outcomes)


def fitting(octets: bytes, offered: Mapping[str, object]) -> bytes | email.message.Message:
    """The message as it is, or where the server must not be sent it so (RFC 6152 3, RFC 6531 3.5), parsed, to be encoded anew."""
    header = octets[: octets.find(b"\r\n\r\n") + 2]
    if (header.isascii() or "SMTPUTF8" in offered) and (octets.isascii() or "8BITMIME" in offered):
        return octets
    return email.message_from_bytes(octets, policy=policy.SMTP)


def said(error: SMTPError) -> str:
    return str(error).removeprefix("CONNECT: ")  # which is no command that anybody gave


def advice(error: SMTPError) -> str:
    """What to do about a server that cannot be used."""
    match error:
        case TlsHandshakeError(unverified=str()):
            return "; --cafile FILE says whose certificates to trust"
        case TlsHandshakeError():
            return "; is it the right port for --tls?"
        case ReplyError(command=AuthCommand()):
            return "; see to --user and its password"
        case NotOfferedError():
            return "; --tls implicit is for a port that begins with TLS; --tls never and --allow-cleartext go without"
        case LocalProtocolError():
            return " (--allow-cleartext)"
        case ConnectionLostError():
            return "; is it the right --server?"
        case _:
            return ""


class Report:
    """What the user sees: lines on standard output, troubles on standard error, and progress there if it is a terminal."""

    def __init__(self) -> None:
        #: What was said of recipients.
        self.words: set[str] = set()
        #: The command was not in order.
        self.wrong: bool = False
        self._terminal = sys.stderr.isatty()
        self._next_glance = 0.0
        self._shown = False

    @property
    def code(self) -> int:
        """The exit code. What will never be accepted needs somebody to look at it, so that counts for more than what may be."""
        if self.wrong:
            return 2
        return 1 if "refused" in self.words else TRY_LATER if self.words - {"accepted"} else 0

    def outcomes(self, letter: Letter, client: Client) -> list[str]:
        """Say what is known of the last message. Gives the recipients of whom something is."""
        known = client.last_result.outcomes if client.last_result is not None else ()
        for outcome in known:
            self._outcome(letter, outcome)
        return [outcome.recipient for outcome in known]

    def _outcome(self, letter: Letter, outcome: Outcome) -> None:
        match outcome:
            case Accepted(recipient, reply):
                self._line("accepted", recipient, str(reply), letter)
            case Unknown(recipient, reason):
                self._line("unknown", recipient, f"{reason}; it may have been delivered", letter)
            case _:
                self._line(refusal(temporary=outcome.temporary), outcome.recipient, str(outcome.reply), letter)

    def failure(self, letter: Letter, recipients: Sequence[str], error: SMTPError) -> None:
        """Something went wrong before anything was known of these."""
        word = refusal(
            temporary=error.reply.temporary
            if isinstance(error, ReplyError)
            else not isinstance(error, LocalProtocolError)
        )
        for recipient in recipients:
            self._line(word, recipient, str(error.reply) if isinstance(error, ReplyError) else said(error), letter)

    def _line(self, word: str, recipient: str, said: str, letter: Letter) -> None:
        self.words.add(word)
        self.clear()
        try:
            print(f"{word}  <{clean(recipient)}>  {clean(said)}  {clean(letter.name)}", flush=True)
        except OSError:  # nobody reads it any more; the mail goes out all the same
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def trouble(self, text: str) -> None:
        self.clear()
        print(f"smtp-trio: error: {clean(text)}", file=sys.stderr, flush=True)

    def progress(self, what: str, sent: int, size: int | None) -> None:
        """Show how far a message is, if there is a terminal and the last look was not just now."""
        now = trio.current_time()
        if not self._terminal or not size or now < self._next_glance:
            return
        self._next_glance, self._shown = now + GLANCE, True
        text = f"{clean(what)}  {100 * sent // size} %"
        sys.stderr.write("\r" + text[: shutil.get_terminal_size().columns - 1] + "\x1b[K")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take away what `progress` has shown."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False


def refusal(*, temporary: bool) -> str:
    return "deferred" if temporary else "refused"
