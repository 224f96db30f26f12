"""``smtp-trio send --mx``: each message goes to the exchangers of its recipients' domains."""

from __future__ import annotations

import argparse
import email
import sys
from collections.abc import Sequence
from contextlib import suppress
from email import policy

from .._client.client import Client
from .._client.results import DeliveryRecord
from .._server.log_events import clean
from ..protocol import LocalProtocolError, SMTPError
from ..routing import (
    Attempt,
    Dane,
    DnsResolver,
    DomainSettings,
    DomainsResult,
    Exchanger,
    HttpsPolicyFetcher,
    MtaSts,
    RoutingError,
    SendSettings,
    StsPolicies,
    send,
)
from ..routing._connect import check_settings
from ..routing._extras import check_installed
from ..routing._order import OwnHost
from ..routing._send import group_by_domain
from .dialogue_printer import DialoguePrinter
from .message_files import MessageFile
from .options import UsageError, describe_error, missing_package, strip_openssl_details
from .send_report import SendReport
from .tls_files import client_context


def make_mx_sender(options: argparse.Namespace, messages: Sequence[MessageFile], report: SendReport) -> MxSender:
    """Return the sender that the options mean. Raises UsageError for one, or for a message, that is invalid."""
    port, settings = mx_settings(options, "--mx")
    if report.verbose:
        settings["on_attempt"] = print_attempt
    for message in messages:
        try:
            group_by_domain(message.recipients)
        except ValueError as error:
            raise UsageError(f"{message.name}: {error}") from None
    limit: SendSettings = {} if options.max_domains is None else {"max_domains": options.max_domains}
    return MxSender(port, {**settings, **limit}, report)


def mx_settings(options: argparse.Namespace, option: str) -> tuple[int, DomainSettings]:
    """Return the port and the settings that the options mean. Raises UsageError for one that is invalid.

    ``option`` is the one that chooses delivery by domain.
    """
    packages = {"dns": "dnspython"}
    if options.dane != "never":
        packages["cryptography"] = "cryptography"
    if not options.no_mta_sts:
        packages["httpx2"] = "httpx2"
    try:
        check_installed(packages)
    except ModuleNotFoundError as error:
        needed = next(package for package in packages.values() if package in str(error))
        raise missing_package(option, needed, "dns") from None
    # Name servers on loopback addresses are trusted in any case.
    trusted = [address for address, _ in options.resolvers] if options.trust_resolver else []
    resolver = DnsResolver(options.resolvers or None, trusted=trusted)
    settings: DomainSettings = {
        "resolver": resolver,
        "own": options.own,
        "loopback": options.loopback,
        "dane": options.dane or "opportunistic",
        "name": options.name,
        "timeout": options.timeout,
    }
    if not options.no_mta_sts:
        contexts = [None if options.cafile is None else client_context(options.cafile) for _ in range(2)]
        settings["sts"] = StsPolicies(resolver, HttpsPolicyFetcher(resolver, ssl_context=contexts[0]))
        settings["sts_context"] = contexts[1]
    port = options.port or 25
    try:
        OwnHost.of(options.own, loopback=options.loopback)
        check_settings(port, settings)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    return port, settings


class MxSender:
    """Sends messages one after the other, each to all domains of its recipients at the same time."""

    def __init__(self, port: int, settings: SendSettings, report: SendReport) -> None:
        self.report: SendReport = report
        self._port, self._settings = port, settings
        self._connections = 0

    def observe(self, created: object) -> None:
        """Print the dialogue of a client, with the number of its connection, since there are several at a time."""
        if isinstance(created, Client):
            self._connections += 1
            DialoguePrinter(created, f"[{self._connections}] ")

    async def send_all(self, messages: Sequence[MessageFile]) -> None:
        """Send the messages, and report the outcomes."""
        for message in messages:
            if message.note:
                self.report.note(f"{message.name}: {message.note}")
            await self._send(message)

    async def _send(self, message: MessageFile) -> None:
        try:
            octets = message.read()
        except OSError as error:  # a mail reader may have moved the file out of the Maildir
            self.report.error(f"cannot read {message.name}: {describe_error(error)}")
            self.report.statuses.add("deferred")
            return
        # A parsed message is encoded for servers that do not accept octets above 127, and otherwise sent as it is.
        content = octets if octets.isascii() else email.message_from_bytes(octets, policy=policy.SMTP)
        record = DeliveryRecord()
        failure: SMTPError = LocalProtocolError("not sent")
        try:
            await send(
                content,
                self._port,
                sender=message.sender,
                recipients=message.recipients,
                record=record,
                add_headers=False,
                **self._settings,
            )
        except ValueError as error:  # the message cannot be encoded
            failure = LocalProtocolError(str(error))
        finally:
            result = record.result
            outcomes = () if result is None else result.outcomes
            self.report.outcomes(message, outcomes)
            if self.report.verbose and isinstance(result, DomainsResult):
                print_routing_errors(result)
        known = {outcome.recipient for outcome in outcomes}
        self.report.failure(message, [name for name in message.recipients if name not in known], failure)


def print_attempt(domain: str, attempt: Attempt) -> None:
    """Print an attempt to open a session with an exchanger: the domain, the exchanger, its TLS, and what happened."""
    exchanger = attempt.exchanger
    name = exchanger.name if exchanger.name.startswith("[") else f"{exchanger.name} [{attempt.address}]"
    if attempt.reply is not None:
        what = f"{attempt.reply.code} {attempt.reply.status} {strip_openssl_details(str(attempt.error))}"
    elif attempt.tls is None:
        what = "connected without TLS"
    else:
        what = f"connected with {attempt.tls.version}, certificate {'' if attempt.tls.verified else 'not '}verified"
    _print(f"{domain}: {name}, {describe_policy(exchanger)}: {what}")
    # A policy in the mode "testing", which does not prevent the delivery.
    if attempt.error is None and attempt.session is not None and isinstance(exchanger.tls, MtaSts):
        for failure in attempt.session.failures:
            reason = f": {strip_openssl_details(failure.reason_code)}" if failure.reason_code else ""
            _print(f"{domain}: {exchanger.name}: {failure.result_type.value}{reason}")


def describe_policy(exchanger: Exchanger) -> str:
    """Return what an exchanger requires of TLS."""
    match exchanger.tls:
        case Dane(usable=()):
            return "DANE without usable records"
        case Dane():
            return "DANE"
        case MtaSts(policy=found):
            return f"MTA-STS ({found.mode})"
        case _:
            return "opportunistic TLS"


def print_routing_errors(result: DomainsResult) -> None:
    """Print the errors of domains without an attempt."""
    for domain in result.domains:
        if isinstance(domain.error, RoutingError) and not domain.attempts:
            _print(f"{domain.domain}: {domain.error}")


def _print(text: str) -> None:
    with suppress(OSError):  # the reader of standard error has ended; the messages are sent all the same
        print(f"=== {clean(text)}", file=sys.stderr, flush=True)
