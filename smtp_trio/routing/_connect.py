"""`connect_domain`: a session with the first exchanger of a domain that accepts one."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from random import Random
from typing import Self, TypedDict, Unpack, cast

import trio
from attrs import evolve, frozen

from .._client.client import Client
from .._client.connect import ConnectSettings, check_server, open_client
from .._client.login import hide_login
from .._client.results import TimedOutError
from .._client.timeouts import ClientTimeouts
from .._timeouts import seconds_or_infinity
from ..protocol import Connect, Extension, SMTPError
from ..protocol.arguments import check_number, check_plain_function
from ._answers import Resolver
from ._attempts import (
    Attempt,
    DomainUnreachableError,
    attempt_sessions,
    is_sts_failure,
    local_address,
    requires_tls,
    tls_failure,
    tls_session,
)
from ._dane import dane_context
from ._exchanger_pools import ExchangerPools
from ._route import DaneMode, route
from ._routes import Dane, Exchanger, MtaSts, Route
from ._sts_context import check_sts_context, sts_context
from ._sts_policies import StsPolicies
from ._tls_results import NOT_ALLOWED, UNUSABLE_RECORDS, TlsFailure, TlsResultType
from ._tls_sessions import TlsSession


class RouteSettings(TypedDict, total=False):
    """The keyword arguments of `route`."""

    resolver: Resolver | None
    own: Iterable[str]
    loopback: bool
    dane: DaneMode
    sts: StsPolicies | None
    lookup_timeout: float
    random: Random | None


class ExchangerSettings(TypedDict, total=False):
    """Those of `smtp_trio.connect` that do not depend on the server."""

    name: str | None
    local_address: str | None
    timeout: float | ClientTimeouts | None
    extensions: Iterable[Extension]


class DomainSettings(RouteSettings, ExchangerSettings, total=False):
    """The keyword arguments of `connect_domain`: those of `route`, some of `smtp_trio.connect`, and some more.

    ``name``, ``local_address``, ``timeout`` and ``extensions`` are those of `smtp_trio.connect`. ``max_addresses`` is how
    many addresses of each exchanger are tried (default: 2, RFC 5321 5.1), and ``max_attempts`` how many of all exchangers
    (default: 10). ``attempt_timeout`` is how many seconds an attempt may take, from opening the connection to the reply
    to EHLO after TLS (default: 300); 0 means no limit besides those in ``timeout``. ``domain_timeout`` is how many
    seconds all attempts may take (default: 1800, 0 means no limit): after that no other one is begun, and one in
    progress ends. A message that is being sent is not limited by it. ``sts_context`` is the TLS context for exchangers
    with an MTA-STS policy, instead of one with the authorities of the system. It must verify certificates and host
    names, and is changed so that it does not use common names (RFC 8461 4.2). ``on_attempt`` is called with the domain
    and the `Attempt` after each attempt to open a session.
    """

    max_addresses: int
    max_attempts: int
    attempt_timeout: float
    domain_timeout: float
    sts_context: ssl.SSLContext | None
    on_attempt: Callable[[str, Attempt], object] | None


ROUTE_SETTINGS = frozenset(RouteSettings.__annotations__)
EXCHANGER_SETTINGS = frozenset(ExchangerSettings.__annotations__)
OTHER_SETTINGS = DomainSettings.__annotations__.keys() - ROUTE_SETTINGS - EXCHANGER_SETTINGS

#: How many addresses of an exchanger are tried. RFC 5321 5.1: SHOULD be at least two.
MAX_ADDRESSES = 2
#: How many attempts are made for a domain. RFC 5321 5.1 permits a limit.
MAX_ATTEMPTS = 10
#: Seconds for one attempt. RFC 5321 4.5.3.2.1 gives the greeting five minutes.
ATTEMPT_TIMEOUT = 300
#: Seconds for all attempts: after half an hour it is time for a new delivery anyway (RFC 5321 4.5.4.1).
DOMAIN_TIMEOUT = 1800


@frozen
class DomainConnection:
    """A session with one of the exchangers of a domain.

    ``client`` is the open `smtp_trio.Client`, connected to an ``address`` of the ``exchanger``. ``route`` are all
    exchangers, and ``attempts`` those that were tried; the last one is that of this session.
    """

    client: Client
    route: Route
    attempts: tuple[Attempt, ...]

    @property
    def exchanger(self) -> Exchanger:
        """The exchanger that accepted the session."""
        return self.attempts[-1].exchanger

    @property
    def address(self) -> str:
        """The IP address to which the client is connected."""
        return self.attempts[-1].address

    @property
    def sessions(self) -> tuple[TlsSession, ...]:
        """The sessions that a TLS report counts: those of the attempts, and of exchangers that were not tried (RFC 8460 4.3)."""
        return *self.route.sessions, *attempt_sessions(self.attempts)


@asynccontextmanager
async def connect_domain(
    domain: str, port: int = 25, **settings: Unpack[DomainSettings]
) -> AsyncIterator[DomainConnection]:
    """Connect to an exchanger of a domain, for ``async with``, which sends QUIT at the end.

    The exchangers of `route` are tried in order, at their addresses in order, until one greets and accepts EHLO (RFC
    5321 5.1). TLS is what ``exchanger.tls`` requires: where it is mandatory, an exchanger without it, or one that is not
    authenticated, is left for the next one. Yields a `DomainConnection`.

    :param domain: the domain of a mailbox, or an address literal in brackets.
    :param port: the port of the exchangers.
    :param settings: those of `DomainSettings`.

    Raises TypeError or ValueError for an invalid argument before anything is looked up, the exceptions of `route`, and
    `DomainUnreachableError` if no exchanger accepts a session.
    """
    if (problem := hide_login(settings)) is not None:
        raise problem
    connector = await Connector.find(domain, port, settings)
    connection = await connector.connect()
    async with connection.client:
        yield connection


class Connector:
    """Tries the addresses of a route one after the other; each of them once."""

    def __init__(self, found: Route, port: int, settings: DomainSettings, pools: ExchangerPools | None = None) -> None:
        #: The attempts so far.
        self.attempts: list[Attempt] = []
        self.route: Route = found
        #: The address from which the last connection was made.
        self._local_address: str | None = None
        self._port = port
        self._pools = pools
        self._limit = seconds_or_infinity(settings.get("attempt_timeout", ATTEMPT_TIMEOUT))
        self._limit_for_all = seconds_or_infinity(settings.get("domain_timeout", DOMAIN_TIMEOUT))
        self._deadline = trio.current_time() + self._limit_for_all
        self._sts = settings.get("sts")
        self._sts_context = settings.get("sts_context")
        self._on_attempt = settings.get("on_attempt")
        self._settings = cast(
            "ConnectSettings", {key: value for key, value in settings.items() if key in EXCHANGER_SETTINGS}
        )
        count = settings.get("max_addresses", MAX_ADDRESSES)
        addresses = [(each, address) for each in found.exchangers for address in each.addresses[:count]]
        self._left = deque(addresses[: settings.get("max_attempts", MAX_ATTEMPTS)])

    @classmethod
    async def find(cls, domain: str, port: int, settings: DomainSettings, pools: ExchangerPools | None = None) -> Self:
        """Look up the route of a domain. Raises as `connect_domain` does.

        :param pools: the connections that `session` uses.
        """
        check_settings(port, settings)
        chosen = cast("RouteSettings", {key: value for key, value in settings.items() if key in ROUTE_SETTINGS})
        return cls(await route(domain, port=port, **chosen), port, settings, pools)

    @property
    def exhausted(self) -> bool:
        """True if no other attempt will be made."""
        return not self._left or self._late

    @property
    def _late(self) -> bool:
        return trio.current_time() >= self._deadline

    async def connect(self) -> DomainConnection:
        """Return a session with the next exchanger that accepts one; the caller closes it.

        Raises `DomainUnreachableError` when none is left.
        """
        while not self.exhausted:
            exchanger, address = self._left.popleft()
            client = await self._attempt(exchanger, address)
            if client is not None:
                return DomainConnection(client, self.route, tuple(self.attempts))
        raise await self._unreachable()

    # With pools, a kept connection to the next exchanger is used before a new one is opened. The server may have closed it
    # meanwhile, which does not mean that the exchanger fails: so the address stays the next one, for a new connection,
    # unless the session was good to its end. The number of kept connections is finite, so this ends.
    @asynccontextmanager
    async def session(self) -> AsyncIterator[Client]:
        """Lend a session with the next exchanger that accepts one, or has accepted one that was kept.

        Raises `DomainUnreachableError` when none is left.
        """
        if self._pools is None:
            connection = await self.connect()
            async with connection.client as client:
                yield client
            return
        while not self.exhausted:
            exchanger, address = self._left[0]
            async with self._pools.slot(exchanger) as pool:
                kept = await pool.take()
                if kept is not None:
                    client, used = kept
                    self.attempts.append(Attempt(exchanger, used, None, client.tls))
                else:
                    if self._late:  # the wait for a free slot was too long
                        break
                    self._left.popleft()
                    async with self._pools.opening():
                        opened = await self._attempt(exchanger, address)
                    if opened is None:
                        continue
                    client = opened
                    pool.add(client, address)
                try:
                    yield client
                    if kept is not None and client.usable:
                        self._left.popleft()
                finally:
                    await pool.give_back(client)
                return
        raise await self._unreachable()

    async def _unreachable(self) -> DomainUnreachableError:
        """Return the error for a domain of which no exchanger is left."""
        if self._sts is not None and any(map(is_sts_failure, self.attempts)):
            # RFC 8461 5.1 (3): the failure is temporary, and the next delivery uses the newer policy, if there is one.
            await self._sts.find(self.route.domain, check=True)
        # If the time was over before some addresses were tried, the error is temporary.
        late = f"{self.route.domain}: no session within {self._limit_for_all:g} s" if self._left else None
        found = self.route
        return DomainUnreachableError(found.domain, tuple(self.attempts), found.unreachable, late, found.sts)

    async def _attempt(self, exchanger: Exchanger, address: str) -> Client | None:
        """Try one address, and record the attempt."""
        client = failure = error = None
        self._local_address = None
        limit = max(0, min(self._limit, self._deadline - trio.current_time()))
        try:
            with trio.move_on_after(limit):
                client, failure = await self._open(exchanger, address)
            if client is None:
                raise TimedOutError(Connect(), limit)
        except SMTPError as exc:
            # The connection is closed. Its frames refer to the streams, which a record must not keep.
            error = exc.with_traceback(None)
            failure = tls_failure(error) if requires_tls(exchanger) else None
        tls = None if client is None else client.tls
        session = None
        if failure is not None:
            failure = evolve(
                failure,
                sending_mta_ip=self._local_address or self._settings.get("local_address"),
                receiving_mx_hostname=exchanger.name,
                receiving_ip=address,
            )
        if client is not None or failure is not None:
            session = tls_session(self.route.domain, exchanger, failure)
        attempt = Attempt(exchanger, address, error, tls, session)
        self.attempts.append(attempt)
        if self._on_attempt is not None:
            try:
                self._on_attempt(self.route.domain, attempt)
            except BaseException:
                if client is not None:
                    await client.aclose()
                raise
        return client

    # The settings for TLS are those that the policy requires, and no others: a context or a mode of the caller could
    # only weaken it. "testing" (RFC 8461 5) must not change whether mail is delivered. But what would have happened in
    # the mode "enforce" is to be reported. So the connection is first made as in "enforce"; if TLS is what fails,
    # another one is made as without a policy.
    async def _open(self, exchanger: Exchanger, address: str) -> tuple[Client, TlsFailure | None]:
        """Open a session, with what did not comply with a policy that is being tested."""
        name = None if exchanger.name.startswith("[") else exchanger.name
        policy, failure = exchanger.tls, None
        if isinstance(policy, Dane):
            client = await self._open_strictly(address, dane_context(policy), policy.names[0])
            return client, None if policy.usable else UNUSABLE_RECORDS
        if isinstance(policy, MtaSts) and not policy.allowed:
            failure = NOT_ALLOWED
        elif isinstance(policy, MtaSts):
            try:
                return await self._open_strictly(
                    address, self._sts_context or await sts_context(), exchanger.name
                ), None
            except SMTPError as error:
                failure = tls_failure(error)
                if policy.enforce or failure is None:
                    raise
        settings: ConnectSettings = {**self._settings, "tls": "opportunistic", "server_hostname": name}
        client = await open_client(address, self._port, opened=self._note_address, **settings)
        if client.tls is None:
            failure = failure or TlsFailure(
                TlsResultType.VALIDATION_FAILURE
                if "STARTTLS" in client.capabilities
                else TlsResultType.STARTTLS_NOT_SUPPORTED
            )
        return client, failure

    async def _open_strictly(self, address: str, context: ssl.SSLContext, name: str) -> Client:
        settings: ConnectSettings = {
            **self._settings,
            "tls": "required",
            "ssl_context": context,
            "server_hostname": name,
        }
        return await open_client(address, self._port, opened=self._note_address, **settings)

    def _note_address(self, stream: trio.abc.Stream) -> None:
        self._local_address = local_address(stream)


def check_settings(port: int, settings: DomainSettings) -> None:
    """Raise TypeError or ValueError for settings that cannot be used. Those of `route` are left to it."""
    if unknown := sorted(set(settings) - ROUTE_SETTINGS - EXCHANGER_SETTINGS - OTHER_SETTINGS):
        raise TypeError(f"unexpected keyword argument: {', '.join(unknown)}")
    check_number(settings.get("max_addresses", MAX_ADDRESSES), "max_addresses", 1, integer=True)
    check_number(settings.get("max_attempts", MAX_ATTEMPTS), "max_attempts", 1, integer=True)
    seconds_or_infinity(settings.get("attempt_timeout", ATTEMPT_TIMEOUT))
    seconds_or_infinity(settings.get("domain_timeout", DOMAIN_TIMEOUT))
    check_sts_context(settings.get("sts_context"), "sts_context")
    check_plain_function(settings.get("on_attempt"), "on_attempt")
    own = cast("ConnectSettings", {key: value for key, value in settings.items() if key in EXCHANGER_SETTINGS})
    check_server("192.0.2.1", port, own)
    if "extensions" in own:
        settings["extensions"] = own["extensions"]
