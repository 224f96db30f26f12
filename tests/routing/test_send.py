"""One message to many domains (RFC 5321 5.1): outcomes, limits, time, and what is known after a cancellation."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, Sequence
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import smtp_trio
from smtp_trio import (
    Accepted,
    Body,
    DeliveryRecord,
    Hooks,
    Outcome,
    Rejected,
    Reply,
    Server,
    Session,
    Unknown,
)
from smtp_trio.protocol import Connect, Mail, Rcpt
from smtp_trio.routing import (
    Answer,
    DomainsResult,
    DomainUnreachableError,
    NullMxError,
    ReportedPolicy,
    TlsCounters,
    send,
)
from smtp_trio.routing._repeatable import MEMORY
from smtp_trio.testing import Attempt, Close, Faults, Inbox, MemoryResolver, cancel_everywhere, memory_network

ME, MESSAGE = "me@example.net", b"Subject: hi\r\n\r\nhello\r\n"

RECORDS: dict[str, Any] = {
    "one.example": {"MX": [(10, "a.one.example"), (20, "b.one.example")]},
    "a.one.example": {"A": ["192.0.2.1"]},
    "b.one.example": {"A": ["192.0.2.2"]},
    "two.example": {"A": ["192.0.2.3"]},
    "null.example": {"MX": [(0, "")]},
    "dead.example": {"A": ["192.0.2.9"]},
}


def resolver(**settings: Any) -> MemoryResolver:
    return MemoryResolver(RECORDS, **settings)


def outline(result: smtp_trio.Result) -> dict[str, str]:
    """Return the outcome of each recipient: the reply, without its text."""
    return {outcome.recipient: _outline(outcome) for outcome in result.outcomes}


def _outline(outcome: Outcome) -> str:
    return "unknown" if isinstance(outcome, Unknown) else f"{outcome.reply.code} {outcome.reply.status}"


class Refusing(Hooks):
    """Refuses MAIL with 421, after which the server closes the connection."""

    async def mail(self, session: Session, mail: Mail) -> Reply:
        return Reply(421, "closing")


async def test_recipients_are_grouped_by_domain() -> None:
    one, two = Inbox(), Inbox()
    names = ["x@one.example", "y@two.example", "z@ONE.example", "x@one.example"]
    async with memory_network({"192.0.2.1": one, "192.0.2.3": two}):
        result = await send(MESSAGE, sender=ME, recipients=names, resolver=resolver())
    assert result.recipients == ("x@one.example", "y@two.example", "z@ONE.example")
    assert [outcome.recipient for outcome in result.outcomes] == [*result.recipients]
    assert result.complete
    assert [mail.recipients for mail in one] == [("x@one.example", "z@ONE.example")]
    assert [mail.recipients for mail in two] == [("y@two.example",)]
    assert [(each.domain, each.recipients, each.error) for each in result.domains] == [
        ("one.example", ("x@one.example", "z@ONE.example"), None),
        ("two.example", ("y@two.example",), None),
    ]
    assert [each.exchanger.name for domain in result.domains for each in domain.attempts] == [
        "a.one.example",
        "two.example",
    ]


async def test_domain_that_cannot_be_connected_to() -> None:
    """Its recipients are rejected with the reply of the error; others get the message."""
    names = ["a@two.example", "b@null.example", "c@dead.example", "d@none.example", "e@one.example"]
    inbox = Inbox()
    async with memory_network({"192.0.2.3": inbox}):
        failures = {("one.example", "MX"): "SERVFAIL"}
        result = await send(MESSAGE, sender=ME, recipients=names, resolver=resolver(failures=failures))
    assert outline(result) == {
        "a@two.example": "250 2.0.0",
        "b@null.example": "556 5.1.10",
        "c@dead.example": "451 4.4.1",
        "d@none.example": "550 5.1.2",
        "e@one.example": "451 4.4.3",
    }
    assert [each.temporary for each in result.rejected] == [False, True, False, True]
    assert {type(each.command) for each in result.rejected} == {Connect}
    assert isinstance(result.domains[1].error, NullMxError)
    assert isinstance(result.domains[2].error, DomainUnreachableError)
    assert len(inbox) == 1


async def test_address_literal() -> None:
    inbox = Inbox()
    async with memory_network({"192.0.2.7": inbox}):
        result = await send(MESSAGE, sender="", recipients=["a@[192.0.2.7]"], resolver=resolver())
    assert result.complete
    assert inbox.mails[0].sender == ""


async def test_resolver_of_the_system() -> None:
    """It is the default. Nothing is looked up for an address literal."""
    pytest.importorskip("dns")
    async with memory_network({"192.0.2.7": Inbox()}):
        assert (await send(MESSAGE, sender=ME, recipients=["a@[192.0.2.7]"])).complete


async def test_header_fields_that_are_not_added() -> None:
    message = EmailMessage()
    message["From"], message["To"] = ME, "y@two.example"
    inbox = Inbox()
    async with memory_network({"192.0.2.3": inbox}):
        await send(message, resolver=resolver(), add_headers=False)
    assert "Message-ID" not in inbox.mails[0].message


async def test_recipients_without_an_outcome_are_sent_to_the_next_exchanger() -> None:
    """RFC 5321 5.1: until a delivery attempt succeeds."""
    inbox = Inbox()
    async with memory_network({"192.0.2.1": Refusing(), "192.0.2.2": inbox}):
        result = await send(MESSAGE, sender=ME, recipients=["x@one.example"], resolver=resolver())
    assert result.complete
    [domain] = result.domains
    assert [(each.exchanger.name, each.error is None) for each in domain.attempts] == [
        ("a.one.example", False),
        ("b.one.example", True),
    ]


async def test_domain_whose_exchangers_all_close_the_connection() -> None:
    async with memory_network({"192.0.2.1": Refusing(), "192.0.2.2": Refusing()}):
        result = await send(MESSAGE, sender=ME, recipients=["x@one.example"], resolver=resolver())
    assert outline(result) == {"x@one.example": "421 4.3.0"}
    assert [each.error is None for each in result.domains[0].attempts] == [False, False]
    assert isinstance(result.domains[0].error, DomainUnreachableError)


async def test_domain_whose_exchangers_all_lose_the_connection() -> None:
    """Before the message was sent; with PIPELINING and CHUNKING it would be sent with MAIL."""
    inbox = Inbox()
    server = Server(inbox, extensions=[])
    async with memory_network({"192.0.2.1": server, "192.0.2.2": server}, faults=Faults(Close("MAIL", times=2))):
        result = await send(MESSAGE, sender=ME, recipients=["x@one.example"], resolver=resolver())
    assert outline(result) == {"x@one.example": "451 4.4.2"}
    assert [each.error is None for each in result.domains[0].attempts] == [False, False]
    assert len(inbox) == 0


async def test_message_that_may_have_been_accepted_is_not_sent_again() -> None:
    """RFC 1047."""
    first, other = Inbox(), Inbox()
    faults = Faults(Close("."))
    async with memory_network({"192.0.2.1": first, "192.0.2.2": other}, faults=faults, raise_hook_errors=False):
        result = await send(MESSAGE, sender=ME, recipients=["x@one.example"], resolver=resolver())
    assert outline(result) == {"x@one.example": "unknown"}
    assert len(result.domains[0].attempts) == 1
    assert len(other) == 0


class Choosy(Inbox):
    """Refuses the recipients "nobody" for good, and "later" for now."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        refusals = {"nobody": Reply(550, "unknown", "5.1.1"), "later": Reply(450, "greylisted", "4.2.0")}
        return refusals.get(rcpt.recipient.local)


class Full(Inbox):
    """Refuses each message."""

    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.reply = Reply(code, "full", "")

    async def data(self, session: Session, body: Body) -> Reply:
        await body.read()
        return self.reply


async def sent_to_one(first: Hooks | Server | None, second: Hooks | Server | None, *names: str, **settings: Any) -> Any:
    """Send the message to recipients of one.example, whose exchangers are these, and return the result."""
    servers: dict[str, Hooks | Server] = {"192.0.2.3": Inbox()}
    servers |= {
        address: each for address, each in {"192.0.2.1": first, "192.0.2.2": second}.items() if each is not None
    }
    async with memory_network(servers):
        recipients = [f"{name}@one.example" for name in names]
        return await send(MESSAGE, sender=ME, recipients=recipients, resolver=resolver(), **settings)


async def test_permanently_refused_recipients() -> None:
    """Another exchanger is not tried for them (RFC 5321 4.2.1), and a domain that refuses all is not an error."""
    names = ["x@one.example", "nobody@one.example", "nobody@two.example"]
    async with memory_network({"192.0.2.1": Choosy(), "192.0.2.2": Inbox(), "192.0.2.3": Choosy()}):
        result = await send(MESSAGE, sender=ME, recipients=names, resolver=resolver())
    assert list(outline(result).values()) == ["250 2.0.0", "550 5.1.1", "550 5.1.1"]
    assert [domain.error for domain in result.domains] == [None, None]
    assert [len(domain.attempts) for domain in result.domains] == [1, 1]


async def test_temporarily_refused_recipients_are_sent_to_the_next_exchanger() -> None:
    """RFC 5321 5.1. The others are not sent again."""
    first, second = Choosy(), Inbox()
    result = await sent_to_one(first, second, "x", "nobody", "later")
    assert list(outline(result).values()) == ["250 2.0.0", "550 5.1.1", "250 2.0.0"]
    assert [mail.recipients for mail in first] == [("x@one.example",)]
    assert [mail.recipients for mail in second] == [("later@one.example",)]
    assert [each.error for each in result.domains[0].attempts] == [None, None]
    assert result.domains[0].error is None


async def test_recipient_that_each_exchanger_refuses_temporarily() -> None:
    """Its outcome is the last reply, and the domain has no error."""
    result = await sent_to_one(Full(code=452), Choosy(), "x", "later")
    assert list(outline(result).values()) == ["250 2.0.0", "450 4.2.0"]
    assert len(result.domains[0].attempts) == 2
    assert result.domains[0].error is None


@pytest.mark.parametrize(
    ("second", "expected"),
    [(lambda: None, "450 4.2.0"), (Refusing, "421 4.3.0"), (lambda: Full(code=550), "550 ")],
    ids=["dead", "MAIL refused", "permanent"],
)
async def test_last_reply_of_an_exchanger_counts(second: Any, expected: str) -> None:
    """It says more about the recipient than that another exchanger cannot be connected to."""
    result = await sent_to_one(Choosy(), second(), "x", "later")
    assert list(outline(result).values()) == ["250 2.0.0", expected]
    assert (result.domains[0].error is None) is (expected == "550 ")


@pytest.mark.parametrize("code", [421, 450, 451, 452])
async def test_message_that_is_refused_temporarily_is_sent_to_the_next_exchanger(code: int) -> None:
    """RFC 5321 4.2.1: the reply to the end of the message says that it was not accepted."""
    first, second = Full(code=code), Inbox()
    result = await sent_to_one(first, second, "x", "y")
    assert result.complete
    assert [mail.recipients for mail in second] == [("x@one.example", "y@one.example")]


@pytest.mark.parametrize("code", [550, 552, 554])
async def test_message_that_is_refused_permanently_is_not_sent_again(code: int) -> None:
    second = Inbox()
    result = await sent_to_one(Full(code=code), second, "x")
    assert [each.reply.code for each in result.rejected] == [code]
    assert len(second) == 0


async def test_message_that_is_too_large() -> None:
    """RFC 1870 6.1: it is permanent, as if the server had refused MAIL."""
    other = Inbox()
    result = await sent_to_one(Server(Inbox(), size=len(MESSAGE) - 1), other, "x")
    assert outline(result) == {"x@one.example": "552 5.3.4"}
    [attempt] = result.domains[0].attempts
    assert attempt.reply is not None
    assert attempt.reply.code == 552
    assert result.domains[0].error == attempt.error
    assert len(other) == 0


async def test_message_that_no_server_can_accept() -> None:
    """It has a NUL, which only BINARYMIME permits."""
    async with memory_network({"192.0.2.1": Inbox(), "192.0.2.2": Inbox()}):
        result = await send(MESSAGE + b"\0", sender=ME, recipients=["x@one.example"], resolver=resolver())
    assert outline(result) == {"x@one.example": "554 5.6.3"}
    assert len(result.domains[0].attempts) == 1


@pytest.mark.parametrize(
    ("second", "expected"),
    [(Inbox, "250 2.0.0"), (lambda: Server(Inbox(), extensions=[]), "554 5.6.3"), (lambda: None, "451 4.4.1")],
    ids=["offered", "not offered", "dead"],
)
async def test_extension_that_an_exchanger_does_not_offer(second: Any, expected: str) -> None:
    """RFC 6531 3.2: the message may be sent to another one; it is rejected if none of them offers it."""
    inbox = Inbox()
    result = await sent_to_one(Server(inbox, extensions=[]), second(), "jörg")
    assert list(outline(result).values()) == [expected]
    first, other = result.domains[0].attempts
    assert (first.reply.code, first.reply.status) == (554, "5.6.3")
    assert (other.error is None) is (result.complete)
    assert len(inbox) == 0


async def test_number_of_attempts_is_limited() -> None:
    """RFC 5321 5.1. Attempts that fail count, and so do sessions."""
    second = Inbox()
    result = await sent_to_one(Choosy(), second, "later", max_attempts=1)
    assert outline(result) == {"later@one.example": "450 4.2.0"}
    result = await sent_to_one(None, second, "x", max_attempts=1)
    assert outline(result) == {"x@one.example": "451 4.4.1"}
    assert len(second) == 0


class Late(Choosy):
    """Takes 20 s for each recipient."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        await trio.sleep(20)
        return await super().rcpt(session, rcpt)


async def test_time_for_a_domain_is_limited(autojump_clock: MockClock) -> None:
    """No other attempt is begun after it. A message that is being sent is not cancelled."""
    second = Inbox()
    result = await sent_to_one(Late(), second, "x", "later", domain_timeout=10)
    assert list(outline(result).values()) == ["250 2.0.0", "450 4.2.0"]
    assert result.domains[0].error is None
    assert len(second) == 0


class Leaving(Hooks):
    """Takes 20 s for each recipient, and closes the connection."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> None:
        await trio.sleep(20)
        await trio.aclose_forcefully(session.stream)


async def test_session_that_is_lost_when_there_is_no_time_left(autojump_clock: MockClock) -> None:
    second = Inbox()
    result = await sent_to_one(Server(Leaving(), extensions=[]), second, "x", domain_timeout=10)
    assert outline(result) == {"x@one.example": "451 4.4.2"}
    assert len(result.domains[0].attempts) == 1
    assert len(second) == 0


async def test_email_message_names_its_recipients() -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Bcc"] = ME, "x@one.example", "y@two.example"
    message.set_content("hello")
    one, two = Inbox(), Inbox()
    async with memory_network({"192.0.2.1": one, "192.0.2.3": two}):
        result = await send(message, resolver=resolver())
    assert result.complete
    for inbox in (one, two):
        assert inbox.mails[0].sender == ME
        assert "Bcc" not in inbox.mails[0].message
        assert "Message-ID" in inbox.mails[0].message


async def test_send_without_a_host() -> None:
    """It is the same function, with which `smtp_trio.send` goes on."""
    record = DeliveryRecord()
    async with memory_network({"192.0.2.3": Inbox()}):
        result = await smtp_trio.send(
            MESSAGE, sender=ME, recipients=["y@two.example"], resolver=resolver(), record=record
        )
    assert isinstance(result, DomainsResult)
    assert record.results == (result,)
    with pytest.raises(TypeError, match="progress needs a host"):
        await smtp_trio.send(MESSAGE, sender=ME, recipients=["y@two.example"], progress=print)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"message": "text"}, TypeError),
        ({"message": None}, TypeError),
        ({"message": [MESSAGE]}, TypeError),
        ({"sender": None}, ValueError),
        ({"sender": "a b"}, ValueError),
        ({"recipients": []}, ValueError),
        ({"recipients": "x@one.example"}, TypeError),
        ({"recipients": ["x@one.example", "Postmaster"]}, ValueError),
        ({"recipients": ["x@one.example", "x@a..b"]}, ValueError),
        ({"max_domains": 0}, ValueError),
        ({"port": 0}, ValueError),
        ({"tls": "never"}, TypeError),
        ({"max_addresses": 0}, ValueError),
        ({"max_attempts": 0}, ValueError),
        ({"domain_timeout": -1}, ValueError),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else value.__name__,
)
async def test_invalid_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    """They are refused before anything is looked up."""
    looked_up = resolver()
    given = {"message": MESSAGE, "sender": ME, "recipients": ["x@one.example"], "resolver": looked_up, **arguments}
    with pytest.raises(error):
        await send(**given)
    assert looked_up.queries == []


async def pieces(*octets: bytes, error: Exception | None = None) -> AsyncGenerator[bytes, None]:
    for each in octets:
        yield each
    if error is not None:
        raise error


@pytest.mark.parametrize("size", [0, 1, MEMORY, MEMORY + 1, 3 * MEMORY])
async def test_iterable_is_sent_to_each_domain_and_each_exchanger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """It is read once, and nothing of it is left. Its header may be UTF-8, as that of a file."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    start = "Subject: h\xe9\n\n".encode()
    lines = (64 * b"x" + b"\n") * (size // 65)
    one, two = Inbox(), Inbox()
    async with memory_network({"192.0.2.1": Refusing(), "192.0.2.2": one, "192.0.2.3": two}):
        result = await smtp_trio.send(
            pieces(start[:3], start[3:], b"", lines),
            sender=ME,
            recipients=["x@one.example", "y@two.example"],
            resolver=resolver(),
        )
    assert result.complete
    assert [one.mails[0].raw, two.mails[0].raw] == 2 * [(start + lines).replace(b"\n", b"\r\n")]
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240


@pytest.mark.parametrize(
    ("last", "expected"), [(b"", KeyError), (2 * MEMORY * b"x", KeyError), ("text", TypeError), (None, TypeError)]
)
async def test_iterable_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: Any, expected: type[Exception]
) -> None:
    """Its exception is raised, and nothing is looked up or left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    looked_up, record = resolver(), DeliveryRecord()
    source = pieces(MESSAGE, last, error=KeyError("x"))
    with pytest.raises(expected):
        await send(source, sender=ME, recipients=["x@one.example"], resolver=looked_up, record=record)
    assert (looked_up.queries, record.results, list(tmp_path.iterdir())) == ([], (), [])  # noqa: ASYNC240
    with pytest.raises(StopAsyncIteration):
        await anext(source)


class Silent:
    """A resolver that does not answer."""

    def __init__(self) -> None:
        self.asked = trio.Event()

    async def query(self, name: str, type: str) -> Answer:
        self.asked.set()
        await trio.sleep_forever()
        raise AssertionError


@pytest.mark.parametrize("size", [1, 2 * MEMORY])
async def test_iterable_is_not_left_after_a_cancellation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """While the domain is looked up. The record has no outcome."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    record, silent = DeliveryRecord(), Silent()
    arguments: dict[str, Any] = {"sender": ME, "recipients": ["x@one.example"], "resolver": silent, "record": record}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(send, pieces(MESSAGE, size * b"x"), **arguments))
        await silent.asked.wait()
        assert len(list(tmp_path.iterdir())) == (size > MEMORY)  # noqa: ASYNC240
        nursery.cancel_scope.cancel()
    assert record.result is not None
    assert record.result.outcomes == ()
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240


async def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """It concerns all domains, so it is raised, as it is."""
    missing: os.PathLike[str] = tmp_path / "missing"
    names = ["x@one.example", "y@two.example"]
    async with memory_network({"192.0.2.1": Inbox(), "192.0.2.3": Inbox()}):
        with pytest.raises(FileNotFoundError):
            await send(missing, sender=ME, recipients=names, resolver=resolver())


async def test_sessions_are_counted_for_tls_reports() -> None:
    """RFC 8460 4.4: a domain in any spelling has one report. A connection that was refused is not counted."""
    counters = TlsCounters()
    async with memory_network({"192.0.2.2": Inbox()}):
        for name in ("x@one.example", "y@ONE.Example"):
            result = await send(MESSAGE, sender=ME, recipients=[name], resolver=resolver())
            assert len(result.domains[0].attempts) == 2
            for domain in result.domains:
                for attempt in domain.attempts:
                    if attempt.session is not None:
                        counters.add(domain.domain, attempt.session)
    [(domain_name, [counted])] = counters.take().items()
    assert (domain_name, counted.policy) == ("one.example", ReportedPolicy.none("one.example"))
    assert (counted.successes, counted.failures) == (0, 2)


# --- many domains ---------------------------------------------------------------------------------------------------


class Slow(Inbox):
    """Takes 50 s for each message."""

    async def data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
        await trio.sleep(50)
        return await super().data(session, body)


async def test_number_of_domains_at_a_time_is_limited(autojump_clock: MockClock) -> None:
    records = {f"d{number}.example": {"A": [f"192.0.2.{number}"]} for number in range(1, 11)}
    slow = Slow()
    async with memory_network({f"192.0.2.{number}": slow for number in range(1, 11)}):
        names = [f"x@{domain}" for domain in records]
        result = await send(MESSAGE, sender=ME, recipients=names, resolver=MemoryResolver(records), max_domains=4)
        assert trio.current_time() == pytest.approx(150, abs=3)
    assert result.complete


async def test_record_is_filled_as_outcomes_arrive(autojump_clock: MockClock) -> None:
    record = DeliveryRecord()
    names = ["x@one.example", "y@two.example", "z@null.example"]
    async with memory_network({"192.0.2.1": Slow(), "192.0.2.3": Inbox()}):
        with trio.move_on_after(20) as scope:
            await send(MESSAGE, sender=ME, recipients=names, resolver=resolver(), record=record)
    assert scope.cancelled_caught
    assert isinstance(record.result, DomainsResult)
    assert record.result.recipients == tuple(names)
    assert outline(record.result) == {
        "x@one.example": "unknown",
        "y@two.example": "250 2.0.0",
        "z@null.example": "556 5.1.10",
    }
    assert [len(each.attempts) for each in record.result.domains] == [1, 1, 0]
    with pytest.raises(ValueError, match="at least one recipient"):
        await send(MESSAGE, sender=ME, recipients=[], resolver=resolver(), record=record)
    assert record.results == ()  # nothing of the earlier call


def test_cancelled_at_every_step() -> None:
    """A recipient without an outcome did not get the message, and one that got it is accepted or unknown."""

    async def once(attempt: Attempt) -> None:
        names = ["x@one.example", "y@two.example", "nobody@two.example", "z@null.example", "d@dead.example"]
        record = DeliveryRecord()
        second, two = Inbox(), Choosy()
        async with memory_network({"192.0.2.1": Refusing(), "192.0.2.2": second, "192.0.2.3": two}):
            with attempt.here():
                await send(MESSAGE, sender=ME, recipients=names, resolver=resolver(), record=record)
        received = {name for inbox in (second, two) for mail in inbox for name in mail.recipients}
        result = record.result
        outcomes = {} if result is None else {outcome.recipient: outcome for outcome in result.outcomes}
        assert received <= {name for name, each in outcomes.items() if isinstance(each, Accepted | Unknown)}
        assert {name for name, each in outcomes.items() if isinstance(each, Accepted)} <= received
        # x@one.example is rejected by its first exchanger, until there is an outcome of the second.
        assert {name for name, each in outcomes.items() if isinstance(each, Rejected)} <= {names[0], *names[2:]}
        if not attempt.interrupted:
            assert list(outcomes) == names
            assert names[0] in received

    assert cancel_everywhere(once).points >= 20
