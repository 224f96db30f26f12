"""The limits of a session that a server announces by LIMITS (RFC 9422), and what a client has used of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..protocol import Reply
from ..protocol.extensions.limits import LimitsExtension
from .exchange import Exchange

#: The replies that the server would give. Nothing is sent.
TOO_MANY_TRANSACTIONS = Reply(452, "No further transaction in this session (LIMITS MAILMAX); it was not sent", "4.5.3")
TOO_MANY_DOMAINS = Reply(452, "No further domain in this session (LIMITS RCPTDOMAINMAX); it was not sent", "4.5.3")

# How a client obeys
#
# RCPTMAX: a message is sent in several transactions. MAILMAX and RCPTDOMAINMAX are limits of the session. `Client.send_many`
# goes on over a new connection if the client can open one, which a client of a stream cannot, and a pool does not use a
# connection again if a message would exceed its limits. Otherwise a command beyond them is not sent, and is reported as the
# server would: as a temporary rejection, after which the message can be sent over another connection.


def announced(exchange: Exchange) -> LimitsExtension | None:
    """Return the limits in the last reply to EHLO, or None without LIMITS."""
    limits = exchange.protocol.offered.get("LIMITS")
    return limits if isinstance(limits, LimitsExtension) else None


def transactions_left(exchange: Exchange, limits: LimitsExtension) -> int | None:
    """Return how many MAIL commands may follow; None for any number (RFC 9422 4.1)."""
    return None if limits.mail_max is None else max(limits.mail_max - exchange.protocol.transactions_begun, 0)


def allow_domains(exchange: Exchange, limits: LimitsExtension, domains: Iterable[str]) -> list[bool]:
    """Return for each recipient, of which this is the domain, whether RCPT may name it, and count those (RFC 9422 4.3)."""
    allowed = []
    for domain in domains:
        known = domain in exchange.rcpt_domains
        if not known and (limits.rcpt_domain_max is None or len(exchange.rcpt_domains) < limits.rcpt_domain_max):
            exchange.rcpt_domains.add(domain)
            known = True
        allowed.append(known)
    return allowed


def has_room(exchange: Exchange, recipients: Collection[str], reserved: int = 0) -> bool:
    """Return whether a message to these recipients can be sent in this session, besides ``reserved`` transactions."""
    limits = announced(exchange)
    if limits is None:
        return True
    left = transactions_left(exchange, limits)
    needed = -(-len(recipients) // (limits.rcpt_max or len(recipients) or 1))
    domains = exchange.rcpt_domains | {name.rpartition("@")[2].lower() for name in recipients}
    return (left is None or needed + reserved <= left) and (
        limits.rcpt_domain_max is None or len(domains) <= limits.rcpt_domain_max
    )
