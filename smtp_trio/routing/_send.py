"""`send`: one message to the exchangers of each domain of its recipients."""

from __future__ import annotations

import email.message
import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Unpack, cast

import trio
from attrs import evolve, frozen

from .._client.addresses import find_envelope, parse_mailbox
from .._client.client import Client
from .._client.delivery import unacceptable
from .._client.login import hide_login
from .._client.message import Message
from .._client.missing_fields import add_missing_fields
from .._client.results import (
    Accepted,
    AllRecipientsRejectedError,
    ConnectionLostError,
    DeliveryRecord,
    DeliveryUnknownError,
    Outcome,
    PartialResult,
    Rejected,
    Result,
    TimedOutError,
    clear_record,
)
from .._client.send_params import seconds_kept
from ..protocol import Command, Connect, Mail, NotOfferedError, Path, RemoteProtocolError, Reply, ReplyError, SMTPError
from ..protocol.arguments import check_number, check_type
from ..protocol.extensions.requiretls import REQUIRETLS, TLS_NEEDED
from ..protocol.params import NO_PARAMS, Params
from ._attempts import Attempt, attempt_sessions
from ._connect import Connector, DomainSettings, check_settings
from ._dns import DnsResolver
from ._errors import RoutingError
from ._exchanger_pools import ExchangerPools
from ._lookups import check_domain
from ._repeatable import repeatable
from ._routes import Exchanger, MtaSts
from ._tls_required import settings_for
from ._tls_sessions import TlsSession
from ._unreachable import NoExchangerError

#: How many domains are delivered to at the same time.
MAX_DOMAINS = 100

#: Errors after which a session cannot continue. What has no outcome then can be sent to the next exchanger.
LOST = (ConnectionLostError, TimedOutError, RemoteProtocolError, DeliveryUnknownError)


class SendSettings(DomainSettings, total=False):
    """The keyword arguments of `send`: those of `connect_domain`, and one more.

    ``max_domains`` is how many domains are delivered to at the same time (default: 100), each over one connection.
    """

    max_domains: int


@frozen
class DomainResult:
    """The delivery of a message to one domain.

    ``recipients`` are those of the domain, and ``attempts`` the sessions that were tried for them. ``error`` is the
    reason why there are recipients for which the message was not accepted; None if it is in the outcomes only.
    ``sessions`` are what a TLS report counts: those of the attempts, and failures of policies before there was a
    connection (RFC 8460 4.3).
    """

    domain: str
    recipients: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    error: SMTPError | None
    sessions: tuple[TlsSession, ...] = ()


@frozen
class DomainsResult(Result):
    """The result of a message that was sent to the domains of its recipients; ``domains`` has what happened for each.

    A recipient whose domain could not be connected to is `Rejected <smtp_trio.Rejected>` with the reply of the
    `RoutingError`. ``tls`` is None: each of the ``attempts`` has its own.
    """

    domains: tuple[DomainResult, ...] = ()


# How a message is delivered to many domains
#
# Each domain has a `Delivery`, which runs in a task of its own and stores what is known about its recipients.
# `DomainsPartial`, which the record of the caller refers to, combines them whenever it is read. So after a cancellation
# at any time the record has what the replies were up to then, and `Unknown` for a message that was sent whole and not
# replied to (RFC 1047).
#
# Which recipients are sent to the next exchanger ("until a delivery attempt succeeds", RFC 5321 5.1), as Postfix does it:
#
# * those without an outcome, after a session was lost;
# * those that were rejected with 4yz, by any command and by the end of the message: the message was not accepted for
#   them, and may be by another host (RFC 5321 4.2.1). This outcome stays until there is another one, so it is the result
#   if no exchanger is left, or none that replies;
# * all, if the server does not offer an extension that the message needs (RFC 5321 2.2.3, RFC 6531 3.2), and those whose
#   RCPT needs one (RFC 7293 5.1.1). Only if it is so for all exchangers, the message is rejected.
#
# The others are not: 5yz is about the mailbox or the message (RFC 5321 4.2.1), of which another exchanger knows no more.
# The size of a message is such a reason, although the client knows it before MAIL (RFC 1870 6.1). `Unknown` is final
# since the message could be delivered twice, and so is `Accepted`.
#
# A domain that fails has outcomes, and its task ends as others do. Only an error of the caller, such as a file that
# cannot be read, ends all tasks and is raised; it concerns every domain.
async def send(
    message: Message,
    port: int = 25,
    *,
    sender: str | None = None,
    recipients: Iterable[str] | None = None,
    record: DeliveryRecord | None = None,
    add_headers: bool = True,
    mail_params: Params | None = None,
    rcpt_params: Mapping[str, Params] | None = None,
    received: datetime | None = None,
    now: Callable[[], datetime] | None = None,
    **settings: Unpack[SendSettings],
) -> DomainsResult:
    """Send one message to the exchangers of each domain of its recipients, and return an outcome for each recipient.

    It is `smtp_trio.send` without a host. The domains are delivered to at the same time, each by `connect_domain`. A
    recipient that is rejected does not raise, also if all are.

    :param message: as for `smtp_trio.Client.send`. An iterable is read to its end before anything is looked up, since its
        octets are sent to several hosts; more than 1 MiB are kept in a temporary file.
    :param port: the port of the exchangers.
    :param sender: the reverse-path; by default, that of an email message.
    :param recipients: addresses with a domain; by default, those of an email message.
    :param record: filled with the outcomes as they arrive, for the case that the call is cancelled.
    :param add_headers: add Date and Message-ID to an email message if they are missing.
    :param mail_params: the parameters of MAIL of an envelope that is passed on, as for `smtp_trio.Client.send`.
    :param rcpt_params: those of RCPT, by recipient.
    :param received: the time at which it was received, and ``now`` a clock, as for `smtp_trio.Client.send`.
    :param settings: those of `SendSettings`.

    Raises TypeError or ValueError for an invalid argument before anything is looked up, and OSError for a file that
    cannot be read.
    """
    if (problem := hide_login(settings)) is not None:
        raise problem
    check_send_settings(port, settings)
    params = envelope_params(mail_params, rcpt_params, received, now)
    return await send_to_domains(
        message, port, sender, recipients, record, settings, None, add_headers=add_headers, params=params
    )


def envelope_params(
    mail_params: Params | None,
    rcpt_params: Mapping[str, Params] | None,
    received: datetime | None,
    now: Callable[[], datetime] | None,
) -> dict[str, Any]:
    """Return the keyword arguments of `Client.send` for the parameters of an envelope. Raises TypeError and ValueError."""
    check_type(mail_params, "mail_params", Params, optional=True)
    check_type(rcpt_params, "rcpt_params", Mapping, optional=True)
    for name, each in (rcpt_params or {}).items():
        check_type(each, f"rcpt_params[{name!r}]", Params)
    seconds_kept(received, now)  # checks them
    given = {"mail_params": mail_params, "rcpt_params": rcpt_params, "received": received, "now": now}
    return {name: value for name, value in given.items() if value is not None}


def check_send_settings(port: int, settings: SendSettings) -> None:
    """Raise TypeError or ValueError for settings that cannot be used."""
    check_number(settings.get("max_domains", MAX_DOMAINS), "max_domains", 1, integer=True)
    check_settings(port, domain_settings(settings))


def domain_settings(settings: SendSettings) -> DomainSettings:
    """Return the settings of `connect_domain` among those of `send`."""
    return cast("DomainSettings", {name: value for name, value in settings.items() if name != "max_domains"})


async def send_to_domains(
    message: Message,
    port: int,
    sender: str | None,
    recipients: Iterable[str] | None,
    record: DeliveryRecord | None,
    settings: SendSettings,
    pools: ExchangerPools | None,
    *,
    add_headers: bool,
    params: Mapping[str, Any],
) -> DomainsResult:
    """Send a message as `send` does, with settings that were checked, over the connections of these pools."""
    clear_record(record)
    check_type(message, "message", (bytes, bytearray, memoryview, email.message.Message, os.PathLike, AsyncIterable))
    if isinstance(message, email.message.Message):
        sender, recipients = await find_envelope(message, sender, recipients)
        if add_headers:
            message = add_missing_fields(message, sender)
    if sender is None or recipients is None:
        raise ValueError("sender and recipients are required unless the message is an email.message.Message")
    names = recipients if isinstance(recipients, str) else list(dict.fromkeys(recipients))
    path = parse_mailbox(sender, "sender", null=True)
    domains = group_by_domain(names)
    for_domain = domain_settings(settings)
    if for_domain.get("resolver") is None:
        for_domain["resolver"] = DnsResolver()  # one for all domains, since it limits the number of its sockets
    async with repeatable(message) as content:
        for_domain = await settings_for(content, params.get("mail_params", NO_PARAMS), for_domain)
        deliveries = [
            Delivery(domain, of_domain, sender, path, content, port, for_domain, pools, params)
            for domain, of_domain in domains.items()
        ]
        partial = DomainsPartial(sender, names, deliveries)
        if record is not None:
            record._partials[:] = [partial]
        await _run(deliveries, settings.get("max_domains", MAX_DOMAINS))
    return partial.result()


def group_by_domain(recipients: Iterable[str]) -> dict[str, list[str]]:
    """Return the recipients of each domain. Raises TypeError and ValueError."""
    if isinstance(recipients, str):
        raise TypeError("recipients must be a list of addresses, not a str")
    found: dict[str, list[str]] = {}
    for name in recipients:
        what = f"recipient {name!r}"
        domain = parse_mailbox(name, what).domain
        if domain is None:
            raise ValueError(f"{what} has no domain")
        known = check_domain(domain, what)
        found.setdefault(known if isinstance(known, str) else domain, []).append(name)
    if not found:
        raise ValueError("there must be at least one recipient")
    return found


async def _run(deliveries: Iterable[Delivery], limit: int) -> None:
    """Run all deliveries, ``limit`` at a time. Raises the first exception of one, after the others were cancelled."""
    errors: list[Exception] = []
    slots = trio.CapacityLimiter(limit)

    async def run(delivery: Delivery) -> None:
        async with slots:
            try:
                await delivery.run()
            except Exception as exc:
                errors.append(exc)
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for delivery in deliveries:
            nursery.start_soon(run, delivery)
    if errors:
        raise errors[0]


class Delivery:
    """The delivery of the message to the recipients of one domain."""

    def __init__(
        self,
        domain: str,
        recipients: Sequence[str],
        sender: str,
        path: Path,
        message: Message,
        port: int,
        settings: DomainSettings,
        pools: ExchangerPools | None,
        params: Mapping[str, Any],
    ) -> None:
        self.recipients: tuple[str, ...] = tuple(recipients)
        self._domain = domain
        self._sender, self._path = sender, path
        self._message = message
        self._port = port
        self._settings = settings
        self._pools = pools
        self._params = params
        self._requires_tls = REQUIRETLS in params.get("mail_params", NO_PARAMS)
        self._without_requiretls = dict(params)
        if self._requires_tls:
            self._without_requiretls["mail_params"] = params["mail_params"].without(REQUIRETLS)
        self._secure = False  # the MX records are validated by DNSSEC
        self._relayed_without_dsn: set[str] = set()
        self._attempts: list[Attempt] = []
        self._route_sessions: tuple[TlsSession, ...] = ()
        self._error: SMTPError | None = None
        #: The outcomes of the sessions that have ended, and of the one that has not.
        self._outcomes: dict[str, Outcome] = {}
        self._record = DeliveryRecord()

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """The outcomes so far."""
        current = (outcome for result in self._record.results for outcome in result.outcomes)
        return self._outcomes | {outcome.recipient: outcome for outcome in current}

    @property
    def relayed_without_dsn(self) -> set[str]:
        """As in `Result`, over all sessions."""
        return self._relayed_without_dsn.union(*(each.relayed_without_dsn for each in self._record.results))

    @property
    def result(self) -> DomainResult:
        """The result so far."""
        sessions = *self._route_sessions, *attempt_sessions(self._attempts)
        return DomainResult(self._domain, self.recipients, tuple(self._attempts), self._error, sessions)

    async def run(self) -> None:
        """Try the exchangers until each recipient has an outcome that is final."""
        try:
            connector = await Connector.find(self._domain, self._port, self._settings, self._pools)
            self._attempts, self._route_sessions = connector.attempts, connector.route.sessions
            self._secure = connector.route.secure
            while self._waiting:
                async with connector.session() as client:
                    await self._send(client)
                if self._error is None and connector.exhausted:
                    return  # all have outcomes, and that some are temporary is not an error of the domain
        except RoutingError as error:
            self._error = error
            if isinstance(error, NoExchangerError):
                self._route_sessions = error.sessions
            self._outcomes = self._rejected(self.recipients, Connect(), error.reply) | self._outcomes

    @property
    def _waiting(self) -> list[str]:
        """The recipients for which another exchanger can be tried."""
        final = {
            name
            for name, each in self._outcomes.items()
            if isinstance(each, Accepted) or not (each.temporary or (isinstance(each, Rejected) and each.not_offered))
        }
        return [name for name in self.recipients if name not in final]

    async def _send(self, client: Client) -> None:
        """Send the message over one session, and store the outcomes."""
        params = self._params
        if self._requires_tls and not self._is_validated(self._attempts[-1].exchanger):
            if self._sender:
                self._fail_attempt(ReplyError(Mail(self._path), TLS_NEEDED))
                return
            params = self._without_requiretls  # RFC 8689 5: a notification is not lost because of it
        self._relayed_without_dsn = self.relayed_without_dsn
        self._record = DeliveryRecord()  # a new one, since the client of an earlier session refers to the old one
        self._error = None
        try:
            await client.send(self._sender, self._waiting, self._message, record=self._record, **params)
        except AllRecipientsRejectedError as error:
            if isinstance(error.command, Mail) and error.reply.temporary:
                self._fail_attempt(error)
        except LOST as error:
            self._fail_attempt(error)
        except SMTPError as error:  # it is too large for this server, needs an extension, or cannot be sent at all
            reply = error.reply if isinstance(error, ReplyError) else unacceptable(error)
            self._fail_attempt(ReplyError(Mail(self._path), reply))
            if not isinstance(error, NotOfferedError):
                self._outcomes |= self._rejected(self._waiting, Mail(self._path), reply)
        self._outcomes = self.outcomes

    def _is_validated(self, exchanger: Exchanger) -> bool:
        """Return whether the name of an exchanger is validated as RFC 8689 2 requires it for REQUIRETLS."""
        return self._secure or (isinstance(exchanger.tls, MtaSts) and exchanger.tls.allowed)

    def _fail_attempt(self, error: SMTPError) -> None:
        self._error = error
        self._attempts[-1] = evolve(self._attempts[-1], error=error)

    @staticmethod
    def _rejected(names: Iterable[str], command: Command, reply: Reply) -> dict[str, Outcome]:
        return {name: Rejected(name, command, reply) for name in names}


class DomainsPartial(PartialResult):
    """The outcomes of all deliveries of a message, combined when they are read."""

    __slots__ = ("_deliveries",)

    def __init__(self, sender: str, recipients: Iterable[str], deliveries: Sequence[Delivery]) -> None:
        super().__init__(sender, recipients, None)
        self._deliveries = deliveries

    def result(self) -> DomainsResult:
        """Return the outcomes so far, in the order in which the recipients were given."""
        outcomes = {name: outcome for each in self._deliveries for name, outcome in each.outcomes.items()}
        relayed = set[str]().union(*(each.relayed_without_dsn for each in self._deliveries))
        return DomainsResult(
            self.sender,
            self.recipients,
            tuple(outcomes[name] for name in self.recipients if name in outcomes),
            relayed_without_dsn=tuple(name for name in self.recipients if name in relayed),
            domains=tuple(each.result for each in self._deliveries),
        )
