"""`route`: from a domain to the exchangers that accept its mail."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import chain, zip_longest
from random import Random
from typing import Final, Literal, TypeVar, get_args

import trio
from attrs import evolve, frozen

from .._timeouts import seconds_or_infinity
from ..protocol import Reply
from ..protocol.arguments import check_choice, check_type
from ..protocol.hosts import check_port
from ._answers import Answer, MxRecord, Resolver
from ._dns import DnsResolver
from ._errors import LookupFailedError, RoutingError
from ._lookups import IpAddress, Lookups, check_domain, gather, is_host_name, normalize_name, parse_address
from ._order import MAX_EXCHANGERS, Candidate, OwnHost, candidates
from ._routes import Dane, Exchanger, MtaSts, Opportunistic, Route, TlsPolicy
from ._sts_policies import StsPolicies, StsResult
from ._tls_results import NOT_ALLOWED, UNUSABLE_RECORDS, TlsFailure, TlsResultType
from ._tls_sessions import ReportedPolicy, TlsSession
from ._tlsa import NextHop, find_dane
from ._unreachable import NoExchangerError, Unreachable

E = TypeVar("E", bound=RoutingError)

DaneMode = Literal["opportunistic", "required", "never"]

#: The types of address records. The addresses of a host are tried alternately, beginning with IPv6 (RFC 8305 4).
FAMILIES: Final[tuple[Literal["AAAA", "A"], ...]] = ("AAAA", "A")
#: How many addresses of an exchanger are used. RFC 5321 5.1 recommends to try at least two.
MAX_ADDRESSES: Final = 8


# How a domain becomes a route (RFC 5321 5.1)
#
# 1. `check_domain` refuses what is not a domain, before anything is looked up.
# 2. The MX records of the domain are looked up. A failed lookup is a temporary error. A domain that does not exist or
#    has a null MX is a permanent one. Without MX records the domain is its own exchanger. Once there is an MX record,
#    the address records of the domain itself are not used, even if no exchanger is usable.
# 3. `candidates` sorts the exchangers, and `OwnHost` drops those that would cause a loop.
# 4. For all exchangers at the same time: their addresses, and then their TLSA records. An exchanger for which a lookup
#    fails, or that has no address, is unreachable, and mail goes to the others (RFC 7672 2.1.2).
# 5. Without any usable exchanger the route is an error, which is permanent only if each exchanger has a permanent one.
#
# The DNS is data of strangers, so all that is taken from it is limited: the exchangers, the addresses of each, and the
# time of each lookup. The order of the exchangers does not depend on which of them has TLSA records (RFC 7672 2.2.1).
async def route(
    domain: str,
    *,
    resolver: Resolver | None = None,
    own: Iterable[str] = (),
    loopback: bool = False,
    dane: DaneMode = "opportunistic",
    sts: StsPolicies | None = None,
    port: int = 25,
    lookup_timeout: float = 15,
    random: Random | None = None,
) -> Route:
    """Return the exchangers of a domain in the order in which they are tried (RFC 5321 5.1).

    They are sorted by preference, and those of equal preference are in random order. A domain without MX records is its
    own exchanger. An address literal has one exchanger, without lookups. A route has at most 20 exchangers, with at
    most 8 addresses each.

    :param domain: the domain of a mailbox, or an address literal in brackets.
    :param resolver: answers the lookups; by default a new `DnsResolver` with the name servers of the system. Routes
        that are looked up at the same time should share one, since it limits the number of its sockets.
    :param own: the names and IP addresses of the own host. An exchanger that has one of them is left out, and so are
        all that are not more preferred, since they could send the mail back.
    :param loopback: True uses exchangers with loopback addresses, in a test. Otherwise they are the own host.
    :param dane: "opportunistic" uses the TLSA records of each exchanger that has secure ones (RFC 7672 2.2).
        "required" leaves out all exchangers that cannot be authenticated by them, and requires secure MX records (RFC
        7672 6). "never" looks up no TLSA records.
    :param sts: finds the MTA-STS policy of the domain, which applies to exchangers without secure TLSA records (RFC 8461
        2). In the mode "enforce", exchangers that it does not name are left out. By default, and if ``dane`` is
        "required", policies are not used.
    :param port: the port of the exchangers, which is part of the name of their TLSA records.
    :param lookup_timeout: how many seconds each lookup may take; 0 means no limit. At most five follow each other.
    :param random: the source of randomness.

    Raises TypeError or ValueError for an invalid argument before anything is looked up, `LookupFailedError` if the
    lookup of the MX records fails, `NullMxError` for a domain that accepts no mail, and `NoExchangerError` if the
    domain does not exist or has no exchanger that can be used.
    """
    name = check_domain(domain, "domain")
    check_choice(dane, "dane", get_args(DaneMode))
    check_type(sts, "sts", StsPolicies, optional=True)
    check_type(random, "random", Random, optional=True)
    check_port(port, "port", minimum=1)
    limit = seconds_or_infinity(lookup_timeout)
    own_host = OwnHost.of(own, loopback=loopback)
    if not isinstance(name, str):
        await trio.lowlevel.checkpoint()
        return _literal_route(domain, name, own_host, dane)
    lookups = Lookups(DnsResolver() if resolver is None else resolver, limit)

    answer = await lookups.query(name, "MX")
    if not answer.exists:
        raise NoExchangerError(name, Reply(550, f"{name} does not exist", "5.1.2"))
    records = [record for record in answer.records if isinstance(record, MxRecord)]
    hosts = own_host.cut_by_name(name, candidates(name, records, random or Random()))  # noqa: S311  # shares load, hides nothing
    hop = NextHop(name, normalize_name(answer.canonical_name), answer.secure, implicit=not records)
    if dane == "required" and not hop.secure:
        raise NoExchangerError(name, _not_authenticated(f"the MX records of {name} are not secure"))
    hosts = hosts[:MAX_EXCHANGERS]
    policy = await _find_policy(sts, name, hosts) if sts is not None and dane != "required" else None

    found = await gather(partial(Locator(lookups, dane, port, policy).locate, hop), hosts)
    left = own_host.cut_by_address(name, found)
    exchangers = tuple(
        evolve(host, addresses=host.addresses[:MAX_ADDRESSES]) for host in left if isinstance(host, Exchanger)
    )
    unreachable = tuple(host for host in left if isinstance(host, Unreachable))
    if not exchangers:
        decisive = _decisive(host.error for host in unreachable)
        raise NoExchangerError(name, decisive.reply, unreachable, policy) from decisive
    return Route(name, hop.canonical_name, hop.secure, exchangers, unreachable, policy)


async def _find_policy(sts: StsPolicies, domain: str, hosts: Iterable[Candidate]) -> StsResult:
    """Return the MTA-STS policy of a domain, the newest one if the cached one would leave out an exchanger.

    Both the policy and the exchangers may have changed since it was fetched (RFC 8461 5.1, 8.1).
    """
    result = await sts.find(domain)
    policy = result.policy
    if policy is None or all(policy.allows(candidate.host) for candidate in hosts):
        return result
    return await sts.find(domain, check=True)


def _literal_route(domain: str, address: IpAddress, own_host: OwnHost, dane: DaneMode) -> Route:
    """Return the route to an address literal (RFC 5321 4.1.3), to which DANE does not apply (RFC 7672 2.2)."""
    if dane == "required":
        raise NoExchangerError(domain, _not_authenticated("DANE does not apply to an address literal"))
    exchanger = Exchanger(domain, 0, (str(address),), Opportunistic())
    own_host.cut_by_address(domain, [exchanger])
    return Route(domain, domain, secure=False, exchangers=(exchanger,))


def _decisive(errors: Iterable[E]) -> E:
    """Return the error that decides for all of them: the first temporary one, or else the first one."""
    return min(errors, key=lambda error: not error.temporary)


def _not_authenticated(reason: str) -> Reply:
    """Return the reply for an exchanger that must be authenticated and cannot be: delivery is delayed (RFC 7672 6)."""
    return Reply(451, reason, "4.7.5")


class LeftOutError(Exception):
    """An exchanger is left out because of a policy: the ``error``, and the ``session`` for a TLS report."""

    def __init__(self, error: RoutingError, session: TlsSession) -> None:
        super().__init__(str(error))
        self.error: RoutingError = error
        self.session: TlsSession = session


def _failed(policy: ReportedPolicy, failure: TlsFailure, host: str, error: RoutingError) -> LeftOutError:
    return LeftOutError(error, TlsSession(policy, (evolve(failure, receiving_mx_hostname=host),)))


@frozen
class Locator:
    """Looks up what is needed to connect to an exchanger."""

    lookups: Lookups
    dane: DaneMode
    port: int
    sts: StsResult | None = None

    async def locate(self, hop: NextHop, candidate: Candidate) -> Exchanger | Unreachable:
        """Return the exchanger with its addresses and the TLS that it requires, or the reason why it is unreachable."""
        try:
            return await self._locate(hop, candidate)
        except LeftOutError as error:
            return Unreachable(candidate.host, candidate.preference, error.error, error.session)
        except RoutingError as error:
            return Unreachable(candidate.host, candidate.preference, error)

    async def _locate(self, hop: NextHop, candidate: Candidate) -> Exchanger:
        host = candidate.host
        if not is_host_name(host):
            # RFC 5321 5.1: anything but a domain name, as an IP address, is outside of the standard.
            raise RoutingError(Reply(550, f"{host} is not a host name", "5.4.4"))
        answers = await self._address_answers(host)
        tls = None
        if self.dane != "never":
            tls = await self._find_dane(hop, host, answers)
        # RFC 8461 2: MTA-STS must not override a failing DANE validation.
        return Exchanger(host, candidate.preference, _addresses(answers), tls or self._tls_without_dane(host))

    def _tls_without_dane(self, host: str) -> TlsPolicy:
        """Return what MTA-STS requires. Raises RoutingError if the policy does not allow the exchanger."""
        if self.sts is None or self.sts.policy is None:
            return Opportunistic()
        tls = MtaSts(self.sts.policy, self.sts.policy.allows(host))
        if tls.enforce and not tls.allowed:
            # RFC 8461 8.4: as if the exchanger could not be reached at present.
            reason = f"the MTA-STS policy of {self.sts.domain} does not allow {host}"
            error = RoutingError(_not_authenticated(reason))
            raise _failed(ReportedPolicy.sts(self.sts.domain, self.sts.policy), NOT_ALLOWED, host, error)
        return tls

    async def _find_dane(self, hop: NextHop, host: str, answers: list[Answer]) -> Dane | None:
        """Return what the TLSA records require. Raises LeftOutError, and `LookupFailedError` for another lookup."""
        try:
            found = await find_dane(self.lookups, host, self.port, answers, hop)
        except LookupFailedError as error:
            if error.type != "TLSA":
                raise
            # The zone is signed, so there may be records that an attacker suppresses (RFC 7672 2.1.2).
            failure = TlsFailure(TlsResultType.DNSSEC_INVALID, error.reason)
            base = error.name.partition("._tcp.")[2] or host
            raise _failed(ReportedPolicy.tlsa(base, ()), failure, host, error) from None
        if self.dane != "required" or (found is not None and found.usable):
            return found
        refusal = RoutingError(_not_authenticated(f"{host} has no usable and secure TLSA records"))
        if found is not None:
            raise _failed(ReportedPolicy.tlsa(found.names[0], found.records), UNUSABLE_RECORDS, host, refusal)
        raise _failed(ReportedPolicy.tlsa(host, ()), TlsFailure(TlsResultType.DANE_REQUIRED), host, refusal)

    async def _address_answers(self, host: str) -> list[Answer]:
        """Return the answers with usable addresses of a host, of which there is at least one.

        If one family cannot be looked up, the other is used.
        """

        async def look_up(family: Literal["AAAA", "A"]) -> Answer | LookupFailedError:
            try:
                return await self.lookups.query(host, family)
            except LookupFailedError as error:
                return error

        found = await gather(look_up, FAMILIES)
        answers = [answer for answer in found if isinstance(answer, Answer) and _usable_addresses(answer)]
        if answers:
            return answers
        if failures := [error for error in found if isinstance(error, LookupFailedError)]:
            raise _decisive(failures)
        raise RoutingError(Reply(550, f"{host} has no address", "5.4.4"))  # RFC 3463 3.5


def _usable_addresses(answer: Answer) -> list[str]:
    """Return the addresses to which a connection can be meant; one to 0.0.0.0 would be one to the own host."""
    parsed = (parse_address(record) for record in answer.records if isinstance(record, str))
    usable = (each for each in parsed if each is not None and not (each.is_unspecified or each.is_multicast))
    return list(dict.fromkeys(map(str, usable)))


def _addresses(answers: list[Answer]) -> tuple[str, ...]:
    """Return the addresses of all answers, alternately; those of each are in the order presented (RFC 5321 5.1)."""
    rounds = zip_longest(*map(_usable_addresses, answers))
    return tuple(address for address in chain.from_iterable(rounds) if address is not None)
