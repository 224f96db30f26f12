"""A client obeys the limits that a server announces (LIMITS, RFC 9422)."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from scripted import GO_AHEAD, ME, MESSAGE, OK, READ_BODY, Step, hello, scripted
from trio.testing import MockClock

from smtp_trio import (
    AllRecipientsRejectedError,
    Client,
    Credentials,
    DeliveryRecord,
    GreetingError,
    Pool,
    Reply,
    Result,
    Server,
    Session,
    connect,
    standard,
)
from smtp_trio._client.pipeline import Item
from smtp_trio.protocol import Extension, Mail, Noop, Rcpt
from smtp_trio.protocol.extensions import Auth, Chunking, LimitsExtension, Pipelining
from smtp_trio.testing import Inbox, memory_network


def transaction(*recipients: str) -> tuple[Step, ...]:
    rcpts = [step for name in recipients for step in (f"RCPT TO:<{name}>", OK)]
    return (f"MAIL FROM:<{ME}>", OK, *rcpts, "DATA", GO_AHEAD, READ_BODY, OK)


def outline(result: Result) -> dict[str, str]:
    found = {each.recipient: f"{each.reply.code} {each.command.verb}" for each in result.rejected}
    return found | {each.recipient: "sent" for each in result.accepted}


async def test_domains_beyond_the_limit_are_not_sent(autojump_clock: MockClock) -> None:
    """They count for the session. The case of letters does not matter."""
    steps = (*transaction("a@one.test", "b@One.Test", "d@two.test"), *transaction("c@two.test"))
    async with scripted(*hello("LIMITS RCPTDOMAINMAX=2"), *steps) as script, script.client() as client:
        result = await client.send(ME, ["a@one.test", "b@One.Test", "d@two.test", "x@three.test"], MESSAGE)
        assert outline(result) == {
            "a@one.test": "sent", "b@One.Test": "sent", "d@two.test": "sent", "x@three.test": "452 RCPT",
        }  # fmt: skip
        assert result.rejected[0].temporary
        result = await client.send(ME, ["x@three.test", "c@two.test"], MESSAGE)
        assert outline(result) == {"x@three.test": "452 RCPT", "c@two.test": "sent"}
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, ["x@three.test"], MESSAGE)
        assert (caught.value.temporary, caught.value.reply.status) == (True, "4.5.3")
        assert isinstance(caught.value.command, Rcpt)


async def test_transactions_beyond_the_limit_are_not_sent(autojump_clock: MockClock) -> None:
    steps = (*transaction("a@x.test", "b@x.test"), *transaction("c@x.test", "d@x.test"))
    async with scripted(*hello("LIMITS MAILMAX=2 RCPTMAX=2"), *steps) as script, script.client() as client:
        result = await client.send(ME, [f"{letter}@x.test" for letter in "abcde"], MESSAGE)
        assert outline(result) == {f"{letter}@x.test": "sent" for letter in "abcd"} | {"e@x.test": "452 MAIL"}
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, ["a@x.test"], MESSAGE)
        assert isinstance(caught.value.command, Mail)
        assert client.usable


@pytest.mark.parametrize("pipelining", [True, False])
async def test_send_many_stops_at_the_limit(autojump_clock: MockClock, pipelining: bool) -> None:
    """The messages that are not sent have results, so that they can be sent over another connection."""
    offers = ("LIMITS MAILMAX=2", *(("PIPELINING",) if pipelining else ()))
    if pipelining:
        steps: tuple[Step, ...] = (
            *(f"MAIL FROM:<{ME}>", "RCPT TO:<a@x.test>", "DATA", OK + OK + GO_AHEAD, READ_BODY),
            *(f"MAIL FROM:<{ME}>", "RCPT TO:<b@x.test>", "DATA", OK + OK + OK + GO_AHEAD, READ_BODY, OK),
        )
    else:
        steps = (*transaction("a@x.test"), *transaction("b@x.test"))
    async with scripted(*hello(*offers), *steps) as script, script.client() as client:
        results = await client.send_many((ME, [f"{letter}@x.test"], MESSAGE) for letter in "abcd")
    assert [outline(result) for result in results] == [
        {"a@x.test": "sent"}, {"b@x.test": "sent"}, {"c@x.test": "452 MAIL"}, {"d@x.test": "452 MAIL"},
    ]  # fmt: skip


LIMITS_OF_A_SESSION = {
    "mail": LimitsExtension(mail_max=2),
    "domain": LimitsExtension(rcpt_domain_max=2),
    "mail and rcpt": LimitsExtension(mail_max=2, rcpt_max=1),
}


@pytest.mark.parametrize("limits", LIMITS_OF_A_SESSION)
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("without", [(), (Pipelining,), (Chunking,)], ids=["chunking", "single", "data"])
async def test_send_many_goes_on_over_new_connections(
    limits: str, pooled: bool, asynchronous: bool, without: tuple[type[Extension], ...]
) -> None:
    """RFC 9422 4.1 and 4.3. The recipients may be an iterator, and so may the messages."""
    inbox = Inbox()
    server = Server(inbox, extensions=standard(LIMITS_OF_A_SESSION[limits], without=without))
    items = ((ME, (name for name in [f"a@d{n}.test"]), b"Subject: %d\r\n\r\n" % n) for n in range(5))

    async def source() -> AsyncIterator[Item]:
        for item in items:
            yield item

    record = DeliveryRecord()
    async with memory_network({"mx.test": server}):
        if pooled:
            async with Pool("mx.test") as pool:
                results = await pool.send_many(source() if asynchronous else items, record=record)
                assert pool.statistics().messages == 5
        else:
            async with connect("mx.test") as client:
                results = await client.send_many(source() if asynchronous else items, record=record)
                assert client.usable
                assert client.last_results == tuple(results)
    assert all(result.complete for result in results)
    assert record.results == tuple(results)
    assert [result.recipients for result in results] == [(f"a@d{n}.test",) for n in range(5)]
    assert [mail.raw.partition(b"Subject: ")[2][:1] for mail in inbox] == [b"0", b"1", b"2", b"3", b"4"]
    assert (server.statistics().sessions_total, server.statistics().errors) == (3, 0)


async def test_send_many_after_another_message() -> None:
    """The transactions before the call count too."""
    inbox = Inbox()
    server = Server(inbox, extensions=standard(LimitsExtension(mail_max=1)))
    async with memory_network({"mx.test": server}), connect("mx.test") as client:
        await client.send(ME, ["a@x.test"], MESSAGE)
        assert (await client.send_many([(ME, ["b@x.test"], MESSAGE)]))[0].complete
        assert await client.send_many([]) == []
    assert server.statistics().sessions_total == 2


async def test_message_that_no_session_has_room_for() -> None:
    """It is sent to as many recipients as one session allows, and the others are rejected."""
    server = Server(Inbox(), extensions=standard(LimitsExtension(mail_max=2, rcpt_max=1)))
    async with memory_network({"mx.test": server}), connect("mx.test") as client:
        names = ["a@x.test", "b@x.test", "c@x.test"]
        results = await client.send_many([(ME, names, MESSAGE)] * 2)
    assert [outline(result) for result in results] == [
        {"a@x.test": "sent", "b@x.test": "sent", "c@x.test": "452 MAIL"}
    ] * 2
    assert server.statistics().sessions_total == 2


CHANGES: dict[str, Callable[[Client], Awaitable[object]]] = {
    "auth": lambda client: client.auth(("user", "secret")),
    "ehlo": lambda client: client.ehlo("other.test"),
    "helo": lambda client: client.helo(),
    "command": lambda client: client.command(Noop()),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_session_that_was_changed_is_not_opened_again(change: str) -> None:
    """The new one would not be like it, without AUTH for example."""

    class Users(Inbox):
        async def auth(self, session: Session, credentials: Credentials) -> None:
            """Accept anyone."""

    server = Server(Users(), extensions=standard(LimitsExtension(mail_max=1), Auth(cleartext=True)))
    async with memory_network({"mx.test": server}), connect("mx.test", tls="never", allow_cleartext=True) as client:
        await CHANGES[change](client)
        results = await client.send_many([(ME, ["a@x.test"], MESSAGE)] * 2)
    if change != "helo":  # after which no limits are known
        assert [outline(result)["a@x.test"] for result in results] == ["sent", "452 MAIL"]
    assert server.statistics().sessions_total == 1


async def test_new_connection_that_is_refused() -> None:
    """The results so far are known."""

    class Once(Inbox):
        async def connect(self, session: Session) -> Reply | None:
            return Reply(421, "Too many connections", "4.7.0") if len(self) else None

    server = Server(Once(), extensions=standard(LimitsExtension(mail_max=1)))
    async with memory_network({"mx.test": server}), connect("mx.test") as client:
        with pytest.raises(GreetingError, match="Too many") as caught:
            await client.send_many([(ME, ["a@x.test"], MESSAGE), (ME, ["b@x.test"], MESSAGE)])
        assert [outline(result) for result in client.last_results] == [{"a@x.test": "sent"}]
        assert caught.value.result == client.last_result
        assert not client.usable


async def test_limits_of_the_last_ehlo_count(autojump_clock: MockClock) -> None:
    """RFC 9422 3."""
    again: tuple[Step, ...] = ("EHLO .*", b"250-mx.test\r\n250 LIMITS MAILMAX=2\r\n")
    one = transaction("a@x.test")
    async with scripted(*hello("LIMITS MAILMAX=1"), *one, *again, *one) as script, script.client() as client:
        await client.send(ME, ["a@x.test"], MESSAGE)
        await client.ehlo()
        await client.send(ME, ["a@x.test"], MESSAGE)
        with pytest.raises(AllRecipientsRejectedError):
            await client.send(ME, ["a@x.test"], MESSAGE)


LIMITED = LimitsExtension(mail_max=3, rcpt_max=2, rcpt_domain_max=2)


async def test_our_server_never_refuses_our_client() -> None:
    """Whatever is sent, the server has no reason to enforce its limits, and each message arrives once for each recipient."""
    inbox = Inbox()
    server = Server(inbox, extensions=standard(LIMITED))
    messages = [[f"{n}{m}@d{(n + m) % 3}.test" for m in range(n % 5 + 1)] for n in range(12)]
    sent: Counter[str] = Counter()
    async with memory_network({"mx.test": server}), Pool("mx.test") as pool:
        for recipients in messages:
            waiting = recipients
            while waiting:
                try:
                    result = await pool.send(ME, waiting, MESSAGE)
                except AllRecipientsRejectedError as error:
                    result = error.result
                assert all("it was not sent" in each.reply.text for each in result.rejected)
                sent.update(each.recipient for each in result.accepted)
                waiting = [each.recipient for each in result.rejected]
    expected = Counter(name for recipients in messages for name in recipients)
    assert sent == expected == Counter(name for mail in inbox for name in mail.recipients)
    assert server.statistics().errors == 0


@pytest.mark.parametrize(
    "limits", [LimitsExtension(mail_max=2), LimitsExtension(rcpt_domain_max=2)], ids=["mail", "domain"]
)
async def test_pool_takes_a_new_connection_where_a_kept_one_has_no_room(limits: LimitsExtension) -> None:
    inbox = Inbox()
    server = Server(inbox, extensions=standard(limits))
    async with memory_network({"mx.test": server}), Pool("mx.test") as pool:
        for n in range(6):
            assert (await pool.send(ME, [f"a@d{n}.test"], MESSAGE)).complete
    assert (len(inbox), server.statistics().sessions_total) == (6, 3)


async def test_room_for_several_transactions() -> None:
    """A message that needs two transactions is not begun on a connection that has one left."""
    inbox = Inbox()
    server = Server(inbox, extensions=standard(LimitsExtension(mail_max=3, rcpt_max=1)))
    async with memory_network({"mx.test": server}), Pool("mx.test") as pool:
        for _ in range(3):
            assert (await pool.send(ME, ["a@x.test", "b@x.test"], MESSAGE)).complete
    assert (len(inbox), server.statistics().sessions_total) == (6, 3)
