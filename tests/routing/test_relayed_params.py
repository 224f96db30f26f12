"""Parameters of an envelope that is passed on, at several exchangers of a domain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from smtp_trio import Accepted, Rejected, Server, standard
from smtp_trio.protocol import Params
from smtp_trio.protocol.extension import Extension
from smtp_trio.protocol.extensions import DeliverBy, RequireRecipientValidSince, RequireTls, SmtpUtf8
from smtp_trio.protocol.extensions.deliverby import BY, ByTime
from smtp_trio.protocol.extensions.requiretls import REQUIRETLS
from smtp_trio.protocol.extensions.rrvs import RRVS
from smtp_trio.protocol.params import parse_params
from smtp_trio.routing import DomainPool, DomainsResult, send
from smtp_trio.testing import Inbox, MemoryResolver, memory_network

from .test_connect import ONE, Published, certified

ME, MESSAGE = "me@example.net", b"Subject: hi\r\n\r\nhello\r\n"
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
BOUND = parse_params("RRVS=2024-05-01T12:00:00Z", {"RRVS": RRVS})


async def deliver(
    *servers: Server, names: tuple[str, ...] = ("you",), pooled: bool = False, **settings: Any
) -> tuple[DomainsResult, dict[str, str]]:
    """Send a message to one.example; the servers are its exchangers in order. Return the result, and the replies."""
    exchangers = {f"192.0.2.{number}": server for number, server in enumerate(servers, 1)}
    records: dict[str, Any] = {"one.example": {"MX": [(at, f"mx{at}.example") for at in range(1, len(servers) + 1)]}}
    records |= {f"mx{at}.example": {"A": [f"192.0.2.{at}"]} for at in range(1, len(servers) + 1)}
    given: dict[str, Any] = {"sender": ME, "recipients": [f"{name}@one.example" for name in names], **settings}
    async with memory_network(exchangers):
        if pooled:
            async with DomainPool(resolver=MemoryResolver(records)) as pool:
                result = await pool.send(MESSAGE, **given)
        else:
            result = await send(MESSAGE, resolver=MemoryResolver(records), **given)
    outcomes: list[Accepted | Rejected] = [*result.accepted, *result.rejected]
    return result, {each.recipient.partition("@")[0]: f"{each.reply.code} {each.reply.status}" for each in outcomes}


def server(inbox: Inbox, *extensions: Extension) -> Server:
    return Server(inbox, extensions=standard(*extensions))


@pytest.mark.parametrize("pooled", [False, True])
async def test_recipient_with_rrvs_is_sent_to_an_exchanger_that_offers_it(pooled: bool) -> None:
    """RFC 7293 5.1.1. The other recipient gets the message from the first exchanger, and only once."""
    first, second = Inbox(), Inbox()
    servers = server(first), server(second, RequireRecipientValidSince())
    result, _ = await deliver(*servers, names=("you", "b"), rcpt_params={"you@one.example": BOUND}, pooled=pooled)
    assert result.complete
    assert [mail.recipients for mail in first] == [("b@one.example",)]
    assert [mail.recipients for mail in second] == [("you@one.example",)]
    assert second[0].envelope.rcpts[0].params == BOUND


async def test_recipient_outside_ascii_is_sent_to_an_exchanger_with_smtputf8() -> None:
    first, second = Inbox(), Inbox()
    servers = Server(first, extensions=standard(without=(SmtpUtf8,))), server(second)
    result, _ = await deliver(*servers, names=("j\u00f6rg", "b"))
    assert result.complete
    assert [mail.recipients for mail in first] == [("b@one.example",)]
    assert [mail.recipients for mail in second] == [("j\u00f6rg@one.example",)]


@pytest.mark.parametrize(("names", "count"), [(("you", "b"), 1), (("you",), 0)], ids=["one of two", "all"])
async def test_recipient_with_rrvs_is_rejected_if_no_exchanger_offers_it(names: tuple[str, ...], count: int) -> None:
    first, second = Inbox(), Inbox()
    bound = {"you@one.example": BOUND}
    result, replies = await deliver(server(first), server(second), names=names, rcpt_params=bound)
    assert replies["you"] == "550 5.7.19"
    assert replies.get("b", "250 2.0.0") == "250 2.0.0"
    assert (len(first), len(second)) == (count, 0)
    assert len(result.domains[0].attempts) == 2


@pytest.mark.parametrize("pooled", [False, True])
async def test_next_exchanger_gets_what_is_below_the_minimum_of_the_first(pooled: bool) -> None:
    """RFC 2852 4.1.4.1. The time that is left counts."""
    first, second = Inbox(), Inbox()
    by = Params({BY: ByTime(300, "R")})
    servers = server(first, DeliverBy(200)), server(second, DeliverBy(100))
    now = lambda: NOON + timedelta(seconds=150)  # noqa: E731
    result, _ = await deliver(*servers, mail_params=by, received=NOON, now=now, pooled=pooled)
    assert result.complete
    assert (len(first), second[0].envelope.params[BY]) == (0, ByTime(150, "R"))


async def test_time_is_below_the_minimum_of_all_exchangers() -> None:
    servers = server(Inbox(), DeliverBy(200)), server(Inbox(), DeliverBy(400))
    result, replies = await deliver(*servers, mail_params=Params({BY: ByTime(150, "R")}))
    assert replies == {"you": "554 5.4.7"}
    assert len(result.domains[0].attempts) == 2


def ticking(*seconds: int) -> Callable[[], datetime]:
    """Return a clock that is read once for the check of the arguments, and once for each session."""
    times: Iterator[int] = iter((0, *seconds))
    return lambda: NOON + timedelta(seconds=next(times))


async def test_time_is_computed_for_each_exchanger() -> None:
    first, second = Inbox(), Inbox()
    by = Params({BY: ByTime(300, "R")})
    servers = server(first, DeliverBy(250)), server(second, DeliverBy())
    result, _ = await deliver(*servers, mail_params=by, received=NOON, now=ticking(60, 90))
    assert result.complete
    assert second[0].envelope.params[BY] == ByTime(210, "R")


async def test_message_whose_time_is_over_is_returned_by_the_first_exchanger() -> None:
    """RFC 2852 4.1.3: no further attempts may be made."""
    by = Params({BY: ByTime(300, "R")})
    servers = server(Inbox(), DeliverBy()), server(Inbox(), DeliverBy())
    result, replies = await deliver(*servers, mail_params=by, received=NOON, now=ticking(300))
    assert replies == {"you": "554 5.4.7"}
    assert len(result.domains[0].attempts) == 1


@pytest.mark.parametrize("valid", [True, False], ids=["validated", "not validated"])
async def test_notification_is_not_lost_because_of_requiretls(valid: bool) -> None:
    """RFC 8689 5: it is sent with the parameter where that is possible, and otherwise without it."""
    inbox = Inbox()
    policy = Published("enforce", "*.example")
    settings: dict[str, Any] = policy.settings() if valid else {"resolver": policy.resolver}
    servers = {ONE: Server(inbox, tls=certified("a.example"), extensions=standard(RequireTls()))}
    async with memory_network(servers):
        result = await send(
            MESSAGE, sender="", recipients=["you@example.org"], mail_params=Params({REQUIRETLS: True}), **settings
        )
    assert result.complete
    assert (REQUIRETLS in inbox[0].envelope.params) == valid
