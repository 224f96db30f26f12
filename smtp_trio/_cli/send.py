"""``smtp-trio send``: send messages to a server over one connection, and print the outcome for each recipient."""

from __future__ import annotations

import argparse
import email
import email.message
import getpass
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from email import policy
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Protocol

import trio
from attrs import frozen

from .._client.addresses import parse_mailbox
from .._client.client import Client
from .._client.connect import ConnectSettings, Host, open_client
from .._client.results import (
    AllRecipientsRejectedError,
    ConnectionLostError,
)
from .._client.retry import can_be_sent_again
from .._instrument import observer
from ..protocol import LocalProtocolError, NotOfferedError, SMTPError
from ..protocol.header import header_end, is_utf8
from ..protocol.sasl import MECHANISMS, PasswordCredentials
from .dialogue_printer import print_dialogue
from .exit_codes import INTERRUPTED
from .message_files import STDIN, MessageFile, find_messages
from .mx_options import add_mx, check_mx
from .new_message import compose
from .options import PASSWORD_VARIABLE, UsageError, describe_error, read_password
from .send_report import SendReport, error_text
from .tls_files import client_context
from .units import seconds

PASSWORD_MECHANISMS = [name for name, mechanism in MECHANISMS.items() if mechanism.credentials is PasswordCredentials]

SERVER = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\s:\[\]]+))(?::(?P<port>[0-9]{1,5}))?")


@frozen
class Address:
    """The address of a server. A port of None is the default one, which depends on other options (`default_port`)."""

    host: Host
    port: int | None = None

    def __str__(self) -> str:
        return str(self.host)


def add_send(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``smtp-trio send``."""
    parser.description = (
        "Send messages to a server over one connection, or with --mx to the exchangers of their recipients' domains. For each "
        "recipient a line is printed with the outcome, the server's reply and the file. Exit code: 0, all recipients were "
        "accepted; 1, at least one was refused permanently, or a file in a directory is not a message; 75, neither, but at least "
        "one was refused temporarily or its outcome is unknown; 2, an option or a message is invalid, and nothing was sent."
    )
    add = parser.add_argument
    # fmt: off
    add("messages", metavar="FILE|DIRECTORY|MAILDIR|-", nargs="*",
        help="a message; a directory of messages; a Maildir, whose new and cur are read and not changed; - for standard input")
    add("--subject", metavar="TEXT",
        help="instead of a file, send a new message with this subject, from --from to --to")
    add("--body", metavar="TEXT|-",
        help="instead of a file, send a new message with this text, or with that of standard input")
    add("--attach", metavar="FILE", action="append", default=[],
        help="instead of a file, send a new message with this file as an attachment. Repeatable")
    add("--server", metavar="HOST[:PORT]", type=server_option,
        help="server, with an IPv6 address in brackets, or unix:PATH for a socket. The default port is 25, with --user 587, with "
             "--tls implicit 465, with --lmtp 24 (default: localhost)")
    add("--from", metavar="ADDRESS", dest="sender", type=sender_option,
        help="sender of the envelope; '': the null reverse-path (default: the address in the message's Sender or From)")
    add("--to", metavar="ADDRESS", dest="recipients", type=recipient_option, action="append",
        help="recipient. Repeatable (default: the addresses in the message's To, Cc and Bcc; Bcc is never sent)")
    add("--tls", choices=("opportunistic", "required", "implicit", "never"),
        help="opportunistic: use STARTTLS if the server offers it, with any certificate; required: always, with a verified "
             "certificate; implicit: start TLS on connect, with a verified certificate; never: no TLS (default: opportunistic, "
             "or required with --user or --cafile)")
    add("--cafile", metavar="FILE",
        help="certificates to trust, in PEM (default: those of the system); makes --tls required the default, and "
             "with --mx it is for the hosts of domains with an MTA-STS policy")
    add("--user", metavar="NAME",
        help=f"log in as this user; the password comes from --password-file, from {PASSWORD_VARIABLE} in the environment, or "
             "from the terminal")
    add("--password-file", metavar="FILE",
        help="file with the password on its first line")
    add("--auth-mechanism", dest="mechanisms", type=str.upper, action="append", choices=PASSWORD_MECHANISMS,
        help="SASL mechanism to log in with. Repeatable, best first (default: the best that the server offers)")
    add("--allow-cleartext", action="store_true",
        help="allow the password to be sent without encryption, or to a server whose certificate was not verified")
    add("--lmtp", action="store_true",
        help="use LMTP (RFC 2033)")
    add("--name", metavar="NAME",
        help="host name to send in EHLO (default: the IP address of this end of the connection)")
    add("--timeout", metavar="TIME", type=seconds(10**9),
        help="time to wait for each reply, in seconds or with a unit: 90s, 5m, 1h; 0: no limit (default: those of RFC 5321 4.5.3.2)")
    add("-v", "--verbose", action="store_true",
        help="print the dialogue with the server on standard error, without passwords and with the beginning of each message")
    # fmt: on
    add_mx(parser)
    parser.set_defaults(run=run_send)


def server_option(text: str) -> Address:
    """Return the address that a value of ``--server`` means."""
    kind, _, path = text.partition(":")
    if kind == "unix" and path:
        return Address(Path(path))
    match = SERVER.fullmatch(text)
    port = int(match["port"]) if match and match["port"] else None
    if match is None or port == 0 or (port or 0) > 65535:
        raise argparse.ArgumentTypeError(
            f"must be HOST, HOST:PORT, [IPv6], [IPv6]:PORT or unix:PATH, with a port from 1 to 65535, got {text!r}"
        )
    return Address(match["ipv6"] or match["host"], port)


def sender_option(text: str) -> str:
    """Check a value of ``--from``."""
    return _check_mailbox(text, null=True)


def recipient_option(text: str) -> str:
    """Check a value of ``--to``."""
    return _check_mailbox(text, null=False)


def _check_mailbox(text: str, *, null: bool) -> str:
    try:
        parse_mailbox(text, "address", null=null)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid address: {text!r}") from None
    return text


# --- from options to settings -----------------------------------------------------------------------------------------


def run_send(options: argparse.Namespace) -> int:
    """Send the messages; return the exit code."""
    login_options = {
        "--password-file": options.password_file,
        "--auth-mechanism": options.mechanisms,
        "--allow-cleartext": options.allow_cleartext,
    }
    for option, given in login_options.items():
        if given and options.user is None:
            raise UsageError(f"{option} requires --user")
    check_mx(options)
    report = SendReport(verbose=options.verbose)
    messages = chosen_messages(options, report)
    if not messages:
        print("smtp-trio: nothing to send", file=sys.stderr)
        return report.exit_code
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return trio.run(send_or_interrupt, make_sender(options, messages, report), messages)


def make_sender(options: argparse.Namespace, messages: Sequence[MessageFile], report: SendReport) -> MessageSender:
    """Return the sender that the options mean. Raises UsageError for an option that cannot be used."""
    if options.mx:
        from .send_mx import make_mx_sender  # here, because few programs need it

        return make_mx_sender(options, messages, report)
    server = options.server or Address("localhost")
    return Sender(server.host, server.port or default_port(options), settings(options), report)


def chosen_messages(options: argparse.Namespace, report: SendReport) -> list[MessageFile]:
    """Return the messages that the options name, or the new message that they describe."""
    composes = options.subject is not None or options.body is not None or bool(options.attach)
    if composes == bool(options.messages):
        problem = "cannot be combined with" if composes else "is required, or one of"
        raise UsageError(f"a message {problem} --subject, --body and --attach (see `smtp-trio send --help`)")
    recipients = list(dict.fromkeys(options.recipients)) if options.recipients else None
    if composes:
        subject, body, attachments = options.subject, options.body, options.attach
        return [compose(options.sender, recipients, subject=subject, body=body, attachments=attachments)]
    if options.messages.count(STDIN) > 1:
        raise UsageError("standard input (-) can be given only once")
    return find_messages(options.messages, options.sender, recipients, report.skip)


def default_port(options: argparse.Namespace) -> int:
    """Return the port that is usual for these options."""
    if options.lmtp:  # RFC 2033 5 rules out port 25 and names no other; Dovecot and Postfix document 24
        return 24
    if options.tls == "implicit":  # RFC 8314 3.3
        return 465
    return 25 if options.user is None else 587  # RFC 6409 3.1


def settings(options: argparse.Namespace) -> ConnectSettings:
    """Return the arguments of `connect` that the options mean."""
    found: ConnectSettings = {
        "tls": options.tls or ("opportunistic" if options.allow_cleartext and options.cafile is None else None),
        "ssl_context": None if options.cafile is None else client_context(options.cafile),
        "auth": None,
        "auth_mechanisms": options.mechanisms,
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


def password(options: argparse.Namespace) -> str:
    """Return the password for ``--user``."""
    if options.password_file is not None:
        return read_password(options.password_file)
    if PASSWORD_VARIABLE in os.environ:
        return os.environ[PASSWORD_VARIABLE]
    if sys.stdin.isatty():
        with suppress(EOFError):
            return getpass.getpass(f"Password of {options.user} at {options.server or 'localhost'}: ")
    raise UsageError(
        f"--user requires a password, in --password-file FILE or in {PASSWORD_VARIABLE} in the environment"
    )


# --- sending ----------------------------------------------------------------------------------------------------------


class MessageSender(Protocol):
    """Sends messages, and reports their outcomes. ``observe`` is called with each client, to print its dialogue."""

    report: SendReport

    def observe(self, created: object) -> None:
        """Print the dialogue of a client."""

    async def send_all(self, messages: Sequence[MessageFile]) -> None:
        """Send the messages."""


async def send_or_interrupt(sender: MessageSender, messages: Sequence[MessageFile]) -> int:
    """Send the messages, and return the exit code.

    On SIGINT the known outcomes are printed and the connection is closed.
    """
    if sender.report.verbose:
        observer.set(sender.observe)
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as sending:
                nursery.start_soon(cancel_on_signal, signals, sending)
                await sender.send_all(messages)
            nursery.cancel_scope.cancel()
    sender.report.clear_progress()
    return INTERRUPTED if sending.cancelled_caught else sender.report.exit_code


async def cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    """Wait for a signal, and cancel the scope."""
    await anext(signals)
    scope.cancel()


class Sender:
    """Sends messages over one connection, and over a new one after the server has closed it."""

    def __init__(self, host: Host, port: int, settings: ConnectSettings, report: SendReport) -> None:
        self.report: SendReport = report
        self._host, self._port, self._settings = host, port, settings
        self._client: Client | None = None

    def observe(self, created: object) -> None:
        """Print the dialogue of the client."""
        print_dialogue(created)

    async def send_all(self, messages: Sequence[MessageFile]) -> None:
        """Send the messages one after the other. When the server cannot be used, report this for all that are left."""
        server_error: SMTPError | None = None
        try:
            for number, message in enumerate(messages, 1):
                if server_error is None:
                    if message.note:
                        self.report.note(f"{message.name}: {message.note}")
                    server_error = await self._send(message, f"{number} of {len(messages)}  {message.name}")
                if server_error is not None:
                    self.report.not_sent(message, server_error)
        except UsageError as error:
            self.report.error(str(error))
            if not self.report.statuses:
                self.report.usage_error = True
                return
            # Messages were sent over an earlier connection, so the outcome of the others must be printed.
            for message in messages[number - 1 :]:
                self.report.not_sent(message, LocalProtocolError())
        finally:
            if self._client is not None:
                await self._client.quit()

    async def _send(self, message: MessageFile, label: str) -> SMTPError | None:
        """Send one message and report its outcome. Return the error when the server itself cannot be used.

        ``label`` stands beside the progress.
        """
        try:
            octets = message.read()
        except OSError as error:  # a mail reader may have moved the file out of the Maildir
            self.report.error(f"cannot read {message.name}: {describe_error(error)}")
            self.report.statuses.add("deferred")
            return None
        while True:
            client, new_connection = self._client, False
            if client is None or not client.usable:
                try:
                    client = self._client = await self._connect()
                except SMTPError as connect_error:
                    self.report.connect_error(connect_error)
                    return connect_error
                new_connection = True
            content, progress = content_for(octets, client.offered), partial(self.report.progress, label)
            failure: SMTPError | None = None
            try:
                await client.send(message.sender, message.recipients, content, progress=progress)
            except ValueError as error:  # the message cannot be encoded for this server
                failure = LocalProtocolError(str(error))
            except SMTPError as error:
                failure = error
                if not new_connection and await is_closing(error, client):
                    await client.aclose()
                    continue
            except trio.Cancelled:
                self._report_outcomes(message, client)
                raise
            known = self._report_outcomes(message, client)
            if failure is not None:
                self.report.failure(message, [name for name in message.recipients if name not in known], failure)
            return None

    def _report_outcomes(self, message: MessageFile, client: Client) -> set[str]:
        """Report the known outcomes of the client's last message, and return their recipients."""
        known = client.last_result.outcomes if client.last_result is not None else ()
        self.report.outcomes(message, known)
        return {outcome.recipient for outcome in known}

    async def _connect(self) -> Client:
        """Connect to the server. Raises UsageError if the options do not allow to use it."""
        try:
            return await open_client(self._host, self._port, **self._settings)
        except ValueError as error:  # an invalid name of this host or of the server
            raise UsageError(f"--{error}".replace("--host:", "--server:", 1)) from None
        except LocalProtocolError as error:
            if isinstance(error, NotOfferedError):
                raise
            raise UsageError(error_text(error)) from None  # the password may not be sent over this connection


async def is_closing(error: SMTPError, client: Client) -> bool:
    """Return whether the server ended the session before it accepted anything of the message.

    Many servers do so after a number of messages. The message can be sent over a new connection then.
    """
    if isinstance(error, AllRecipientsRejectedError):
        return await can_be_sent_again(client, 1, error)
    return isinstance(error, ConnectionLostError) and not (client.last_result and client.last_result.outcomes)


def content_for(octets: bytes, offered: Mapping[str, object]) -> bytes | email.message.Message:
    """Return the message as it is, or parsed if the client has to encode it for the server.

    RFC 6152 3 and RFC 6531 3.5 forbid 8-bit text and UTF-8 header fields for a server without 8BITMIME or SMTPUTF8.
    """
    header = octets[: header_end(octets)]
    if (header.isascii() or ("SMTPUTF8" in offered and is_utf8(header))) and (
        octets.isascii() or "8BITMIME" in offered
    ):
        return octets
    return email.message_from_bytes(octets, policy=policy.SMTP)
