"""Tests of fault rules that are added and removed while a server runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from random import Random
from typing import Any

import pytest
import trio
from hypothesis import example, given, settings
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio import (
    AllRecipientsRejectedError,
    Command,
    ConnectionLostError,
    Hooks,
    Peer,
    Reply,
    ReplyError,
    Server,
    Session,
    SMTPError,
    standard,
)
from smtp_trio.protocol import Limits
from smtp_trio.protocol.extensions import Auth
from smtp_trio.stores import Memory
from smtp_trio.testing import (
    Answer,
    Attempt,
    Coalesce,
    Early,
    FaultRules,
    Faults,
    FaultyStream,
    Garbage,
    Greylist,
    Hang,
    Inbox,
    Layer,
    MemoryServer,
    MemoryStream,
    Policy,
    Scope,
    ScopedRule,
    TestServer,
    bounded_stream_pair,
    cancel_everywhere,
    deterministic,
    memory_pair,
    open_memory_server,
    open_test_server,
    start_everywhere,
)
from smtp_trio.testing._sweeps.scheduling import deterministic_scheduling
from smtp_trio.testing.strategies import fault_scripts

from .fault_helpers import ME, MESSAGE, YOU, FredOnly

OTHER = "other@mx.test"


@asynccontextmanager
async def server_with(*rules: str, **settings: Any) -> AsyncIterator[tuple[FaultRules, MemoryServer, Inbox]]:
    """Run a server in memory with these rules."""
    inbox, found = Inbox(), FaultRules()
    for rule in rules:
        found.add(rule)
    async with open_memory_server(found.hooks(inbox), **settings) as server:
        yield found, server, inbox


async def code_of(server: MemoryServer, recipients: Sequence[str] = (YOU,), **settings: Any) -> int:
    """Send a message, and return the code of its refusal, or 250, or 0 if the connection was lost."""
    try:
        async with server.client(**settings) as client:
            await client.send(ME, list(recipients), MESSAGE)
    except (AllRecipientsRejectedError, ReplyError) as error:
        return error.reply.code
    except SMTPError:
        return 0
    return 250


class Talk:
    """A session that a test conducts itself, with `exchange`."""

    def __init__(self, stream: MemoryStream) -> None:
        self._stream = stream

    async def exchange(self, segment: bytes = b"") -> list[bytes]:
        """Send a segment, and return the lines that the server sends before it waits again."""
        if segment:
            await self._stream.send_all(segment)
        await wait_all_tasks_blocked()
        received = b""
        while self._stream.unread:
            received += await self._stream.receive_some()
            await wait_all_tasks_blocked()
        return received.splitlines()

    async def codes(self, segment: bytes) -> list[int]:
        """Send a segment, and return the codes of the replies."""
        return [int(line[:3]) for line in await self.exchange(segment) if line[3:4] == b" "]


@asynccontextmanager
async def talk(hooks: Hooks, hello: bytes = b"EHLO client.test", **settings: Any) -> AsyncIterator[Talk]:
    """Begin a session with a server that has these hooks."""
    near, far = bounded_stream_pair()
    far.endpoints = Peer("127.0.0.1", 50000, "tcp"), Peer("127.0.0.1", 25, "tcp")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server(hooks, name="mx.test", **settings).serve_stream, far)
        session = Talk(near)
        await session.exchange(hello + b"\r\n")
        yield session
        await near.aclose()


GROUP = b"MAIL FROM:<me@client.test>\r\nRCPT TO:<%b>\r\nRCPT TO:<%b>\r\n"

# --- the list -----------------------------------------------------------------------------------------------------------


def test_list_is_in_order_and_has_counts() -> None:
    rules = FaultRules()
    one = rules.add("hang", recipient="Bob@example.org", client="192.0.2.1", seed=3)
    two = rules.add(Answer("RCPT", 450, times=2))
    three = rules.add(ScopedRule(Policy(Greylist), Scope(client="unix")), recipient="*@example.org")
    assert [each.text for each in rules] == [
        "hang once for Bob@example.org from 192.0.2.1",
        "answer RCPT 450 twice",
        "greylist for *@example.org from unix",
    ]
    assert (one.recipient, one.client, one.seed, one.remaining) == ("Bob@example.org", "192.0.2.1", 3, 1)
    assert (three.kind, three.remaining, three.used_up, three.acted) == ("greylist", None, False, 0)
    assert [each.id for each in rules] == [1, 2, 3]
    assert rules.remove(two.id)
    assert not rules.remove(two.id)
    assert rules.get(two.id) is None
    assert rules.get(one.id) is one
    rules.clear()
    assert len(rules) == 0
    assert rules.add("hang").id == 4


@pytest.mark.parametrize(
    ("rule", "settings", "error", "reason"),
    [
        ("hang by client", {}, ValueError, "a rule by a client cannot act in a server"),
        (Early("MAIL"), {}, ValueError, "a rule by a client"),
        ("ansewr", {}, ValueError, "did you mean 'answer'"),
        ("ignor", {}, ValueError, "the kinds are answer, (?!.*(ignore|early))"),
        ("", {}, ValueError, "begins with its kind: answer, (?!.*(ignore|early))"),
        ("answer MAIL 451", {"recipient": YOU}, ValueError, "MAIL comes before the recipients"),
        ("hang", {"recipient": "bob"}, ValueError, "recipient must be an address"),
        ("hang", {"recipient": 3}, TypeError, "recipient must be str"),
        ("hang", {"client": "no name"}, ValueError, "client must be an IP address"),
        ("hang", {"seed": 1.5}, TypeError, "seed must be int"),
        (b"hang", {}, TypeError, "rule must be str"),
    ],
)
def test_invalid_rule_is_not_added(rule: Any, settings: Any, error: type[Exception], reason: str) -> None:
    rules = FaultRules()
    with pytest.raises(error, match=reason):
        rules.add(rule, **settings)
    assert list(rules) == []


def test_number_of_rules_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp_trio.testing._faults.fault_rules.MAX_RULES", 2)
    rules = FaultRules()
    rules.add("hang")
    rules.add("hang")
    with pytest.raises(ValueError, match="at most 2 rules"):
        rules.add("hang")


# --- rules that are added and removed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "BDAT", "DOT"])
@pytest.mark.parametrize("tls", [False, True])
async def test_answer_acts_once(autojump_clock: MockClock, at: str, tls: bool) -> None:
    async with server_with(f"answer {at} 451", *(["omit CHUNKING"] if at == "DATA" else []), tls=tls) as made:
        rules, server, inbox = made
        rule = next(iter(rules))
        falls_back = at == "EHLO" and not tls  # to HELO (RFC 5321 3.2)
        assert [await code_of(server) for _ in range(2)] == [250 if falls_back else 451, 250]
        assert (rule.acted, rule.remaining, rule.used_up) == (1, 0, True)
        assert len(inbox) == 1 + falls_back


async def test_rules_for_one_place_act_in_order(autojump_clock: MockClock) -> None:
    async with server_with("answer RCPT 450 once", "answer RCPT 550 twice", "answer RCPT 452 nth 4") as (
        rules,
        server,
        _,
    ):
        assert [await code_of(server) for _ in range(5)] == [450, 550, 550, 452, 250]
        assert [each.acted for each in rules] == [1, 2, 1]


async def test_rule_acts_from_the_next_command_on(autojump_clock: MockClock) -> None:
    """In a session that waits for a command, and without rules has no hooks for it."""
    async with server_with() as (rules, server, _), server.client() as client:
        await client.noop()
        rules.add("answer NOOP 451")
        with pytest.raises(ReplyError, match="451"):
            await client.noop()
        await client.noop()
        rules.add('replace NOOP "599 what\\r\\n"')
        rules.add("delay NOOP 60s")
        began = trio.current_time()
        with pytest.raises(ReplyError, match="599 what"):
            await client.noop()
        assert trio.current_time() - began == 60
        await client.send(ME, [YOU], MESSAGE)


async def test_rule_acts_on_octets_that_arrive_together() -> None:
    """The stream is wrapped at the first of several pipelined commands, and gets the others once more."""
    rules, inbox = FaultRules(), Inbox()
    async with talk(rules.hooks(inbox)) as session:
        rules.add('replace RCPT "299 what\\r\\n" nth 2')
        rules.add('extra DOT "x"')
        lines = await session.exchange(
            GROUP % (b"one@mx.test", b"two@mx.test")
            + b"BDAT 7\r\nA: b\r\n\r" + b"BDAT 7 LAST\r\n\nBDAT\r\n" + b"NOOP\r\n"
        )  # fmt: skip
    assert [line[:4] for line in lines] == [b"250 ", b"250 ", b"299 ", b"250 ", b"250 ", b"x250"]
    assert inbox[0].raw == b"A: b\r\n\r\nBDAT\r\n"


# --- scope --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "refused"),
    [
        ("bob+one@mx.test", {"bob+one@mx.test", "BOB+One@MX.test"}),
        ("Bob+One@MX.Test", {"bob+one@mx.test", "BOB+One@MX.test"}),
        ("bob@mx.test", {"bob@mx.test"}),
        ("bob+*@mx.test", {"bob+one@mx.test", "BOB+One@MX.test", "bob+two@mx.test"}),
        ("*+one@*", {"bob+one@mx.test", "BOB+One@MX.test", "ann+one@other.test"}),
        ("@other.test", {"ann+one@other.test"}),
        ("*@*", {"bob+one@mx.test", "BOB+One@MX.test", "bob@mx.test", "bob+two@mx.test", "ann+one@other.test"}),
        ('"bob+one"@mx.test', {"bob+one@mx.test", "BOB+One@MX.test"}),
    ],
)
async def test_scope_of_recipients(scope: str, refused: set[str]) -> None:
    everybody = ["bob+one@mx.test", "BOB+One@MX.test", "bob@mx.test", "bob+two@mx.test", "ann+one@other.test"]
    rules = FaultRules()
    rules.add("answer RCPT 450 always", recipient=scope)
    async with talk(rules.hooks(Inbox())) as session:
        await session.exchange(b"MAIL FROM:<me@client.test>\r\n")
        found = await session.codes(b"".join(b"RCPT TO:<%b>\r\n" % each.encode() for each in everybody))
        # <Postmaster> has no domain (RFC 5321 4.5.1), and a line that is malformed has no recipient.
        assert await session.codes(b"RCPT TO:<Postmaster>\r\nRCPT TO:<>\r\n") == [250, 501]
    assert {each for each, code in zip(everybody, found, strict=True) if code == 450} == refused


async def test_pattern_takes_no_time_that_grows_with_a_power_of_its_length() -> None:
    rules = FaultRules()
    rules.add("answer RCPT 450 always", recipient="*a" * 30 + "*b@mx.test")
    async with talk(rules.hooks(Inbox())) as session:
        assert await session.codes(b"MAIL FROM:<>\r\nRCPT TO:<%b@mx.test>\r\n" % (b"a" * 64)) == [250, 250]


@pytest.mark.parametrize(
    "rule", ["answer RCPT 450 once", 'replace RCPT "450 \\r\\n" once', "sometimes 1 answer RCPT 450"]
)
async def test_pipelined_recipients_of_two_tests(rule: str) -> None:
    """Replies that share a write belong to different tests; each meets its own rule only."""
    rules = FaultRules()
    rules.add(rule, recipient="two@mx.test")
    async with talk(rules.hooks(Inbox())) as session:
        group = GROUP % (b"one@mx.test", b"two@mx.test")
        assert await session.codes(group + b"RSET\r\n" + group) == [250, 250, 450, 250, 250, 250, 250]
    assert [each.acted for each in rules] == [1]


async def test_malformed_command_is_about_no_recipient() -> None:
    """Although the transaction has one in the scope of the rule."""
    rules = FaultRules()
    rules.add('replace RCPT "450 \\r\\n" nth 2 always', recipient="one@mx.test")
    async with talk(rules.hooks(Inbox())) as session:
        group = b"MAIL FROM:<>\r\nRCPT TO:<one@mx.test>\r\nRCPT TO:one@\r\nRCPT TO:<one@mx.test>\r\n"
        assert await session.codes(group) == [250, 250, 501, 450]


async def test_rule_acts_once_after_xclient() -> None:
    """XCLIENT begins the session anew, in a stream that is wrapped already (the connect hook is called twice)."""
    rules = FaultRules()
    rules.add('extra NOOP "220 x\\r\\n" always from 192.0.2.1')
    async with talk(rules.hooks(Inbox()), xclient_from=["127.0.0.1"]) as session:
        assert await session.codes(b"NOOP\r\n") == [250]
        assert await session.codes(b"XCLIENT ADDR=192.0.2.1\r\n") == [220]
        assert await session.codes(b"EHLO client.test\r\nNOOP\r\n") == [250, 250, 220]


@pytest.mark.parametrize("recipient", ["one@mx.test", "two@mx.test", "three@mx.test"])
async def test_rule_within_a_message_for_one_of_its_recipients(recipient: str) -> None:
    """Also if the message arrives in several segments, of which a later one has the place of the fault."""
    rules, inbox = FaultRules(), Inbox()
    added = rules.add("close at body after 10", recipient=recipient)
    async with talk(rules.hooks(inbox)) as session:
        await session.exchange(GROUP % (b"one@mx.test", b"two@mx.test") + b"BDAT 17 LAST\r\n")
        await session.exchange(b"a: b\r\nc:")
        codes = await session.codes(b" d\r\n\r\ne\r\n")
    acts = recipient != "three@mx.test"
    assert (codes, len(inbox), added.acted) == (([], 0, 1) if acts else ([250], 1, 0))


async def test_rules_for_octets_of_two_sessions() -> None:
    """A message to one recipient, of several pipelined ones, is cut; the other messages are not."""
    rules, inbox = FaultRules(), Inbox()
    hooks = rules.hooks(inbox)
    rules.add("close at body after 3", recipient="two@mx.test")
    message = b"MAIL FROM:<me@client.test>\r\nRCPT TO:<%b@mx.test>\r\nBDAT 6 LAST\r\na: b\r\n"
    async with talk(hooks) as one, talk(hooks) as two:
        assert await one.codes(message % b"one" + message % b"two" + message % b"three") == [250] * 5
        assert await two.codes(message % b"two") == [250] * 3
    assert [mail.recipients for mail in inbox] == [("one@mx.test",), ("two@mx.test",)]
    assert [each.acted for each in rules] == [1]


async def test_scope_at_the_end_of_a_message(autojump_clock: MockClock) -> None:
    """In SMTP the message has one reply, so it is refused if one of its recipients is in the scope."""
    async with server_with("answer DOT 452 twice for two@mx.test") as (_, server, inbox):
        found = [
            await code_of(server, names) for names in (["one@mx.test"], ["one@mx.test", "TWO@mx.test"], ["two@mx.test"])
        ]
        assert found == [250, 452, 452]
        assert [mail.recipients for mail in inbox] == [("one@mx.test",)]


async def test_lmtp_refuses_for_one_recipient() -> None:
    """The message is stored for the others (RFC 2033 4.2)."""
    rules = FaultRules()
    rules.add("answer DOT 452 twice for two@mx.test")
    async with Memory() as store:
        async with talk(rules.hooks(store), b"LHLO client.test", lmtp=True) as session:
            for recipients, replies in (
                ((b"one@mx.test", b"two@mx.test"), [250, 452]),
                ((b"two@mx.test", b"one@mx.test"), [452, 250]),
                ((b"one@mx.test", b"two@mx.test"), [250, 250]),
            ):
                assert await session.codes(GROUP % recipients) == [250, 250, 250]
                assert await session.codes(b"BDAT 6 LAST\r\na: b\r\n") == replies
            rules.add("answer DOT 451 for @mx.test")
            await session.exchange(GROUP % (b"one@mx.test", b"three@mx.test"))
            # Each recipient has a reply of its own, so a rule that acts once refuses one of them.
            assert await session.codes(b"BDAT 6 LAST\r\na: b\r\n") == [451, 250]
        stored = [entry.recipients async for entry in store.entries()]
    assert stored == [("one@mx.test",), ("one@mx.test",), ("one@mx.test", "two@mx.test"), ("three@mx.test",)]


async def test_lmtp_refuses_for_all_recipients() -> None:
    rules, inbox = FaultRules(), Inbox()
    rules.add("answer DOT 452 always")
    async with talk(rules.hooks(inbox), b"LHLO client.test", lmtp=True) as session:
        await session.exchange(GROUP % (b"one@mx.test", b"two@mx.test"))
        await session.exchange(b"DATA\r\n")
        assert await session.codes(b"a: b\r\n.\r\n") == [452, 452]
        assert await session.codes(b"NOOP\r\n") == [250]
    assert len(inbox) == 0


@pytest.mark.parametrize(
    ("client", "refused"),
    [
        ("client.test", ["EHLO client.test", "EHLO CLIENT.TEST"]),
        ("[192.0.2.1]", ["EHLO [192.0.2.1]"]),
        ("192.0.2.0/24", ["EHLO client.test", "EHLO other.test", "EHLO CLIENT.TEST", "EHLO [192.0.2.1]"]),
        ("192.0.2.8", []),
        ("unix", []),
    ],
)
async def test_scope_of_clients(client: str, refused: list[str]) -> None:
    class Addressed(Inbox):
        async def connect(self, session: Session) -> Reply | None:
            session.peer = Peer("192.0.2.7", 4711, "tcp")
            return None

    class Outer(Layer):
        async def connect(self, session: Session) -> Reply | None:
            session.peer = Peer("192.0.2.7", 4711, "tcp")
            return await self.under.connect(session)

    rules = FaultRules()
    rules.add("answer EHLO 451 always", client=client)
    found = []
    for hello in ("EHLO client.test", "EHLO other.test", "EHLO CLIENT.TEST", "EHLO [192.0.2.1]"):
        async with talk(Outer(rules.hooks(Addressed())), hello.encode()) as session:
            if await session.codes(b"MAIL FROM:<>\r\n") == [503]:
                found.append(hello)
    assert found == refused


# --- waits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["hang at NOOP", "delay NOOP 1h", "hang at DOT", "delay DOT 1h"])
@pytest.mark.parametrize("remove", ["remove", "clear"])
async def test_session_goes_on_when_its_rule_is_removed(rule: str, remove: str) -> None:
    """With what the client has sent meanwhile."""
    rules, inbox = FaultRules(), Inbox()
    added = rules.add(rule)
    async with talk(rules.hooks(inbox)) as session:
        before = (
            b"NOOP\r\nNO" if "NOOP" in rule else GROUP % (b"a@mx.test", b"b@mx.test") + b"BDAT 6 LAST\r\na: b\r\nNO"
        )
        waiting = await session.codes(before)
        assert await session.codes(b"OP\r\nRSET\r\n") == []
        rules.clear() if remove == "clear" else rules.remove(added.id)
        assert waiting + await session.codes(b"NOOP\r\n") == [250] * (4 if "NOOP" in rule else 7)
    assert len(inbox) == ("DOT" in rule)


async def test_hang_that_is_flooded_ends_the_session() -> None:
    """A client that sends more than anyone pipelines is not kept in memory, so the session cannot go on."""
    rules = FaultRules()
    added = rules.add("hang at NOOP")
    async with talk(rules.hooks(Inbox())) as session:
        for _ in range(20):
            assert await session.codes(b"NOOP\r\n" * 2000) == []
        rules.remove(added.id)
        assert await session.codes(b"") == []
        with pytest.raises(trio.BrokenResourceError):
            await session.exchange(b"NOOP\r\n")


@pytest.mark.parametrize("rule", ["hang at body", "delay body 1h"])
async def test_rule_is_removed_within_a_message(rule: str) -> None:
    rules, inbox = FaultRules(), Inbox()
    added = rules.add(rule)
    async with talk(rules.hooks(inbox)) as session:
        sent = await session.codes(GROUP % (b"a@mx.test", b"b@mx.test") + b"BDAT 6 LAST\r\na: b\r\n")
        assert sent == [250] * 3
        rules.remove(added.id)
        # What was received during a hang within a message is lost, so the connection is closed.
        assert await session.codes(b"") == ([250] if "delay" in rule else [])
    assert len(inbox) == ("delay" in rule)


@pytest.mark.parametrize("rule", ["hang at NOOP", "delay NOOP 1h", "hang at body", "delay body 1h"])
async def test_server_that_stops_does_not_wait_for_a_rule(autojump_clock: MockClock, rule: str) -> None:
    rules = FaultRules()
    rules.add(rule)
    server = Server(rules.hooks(Inbox()), name="mx.test")
    near, far = bounded_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, far)
        await near.send_all(b"EHLO client.test\r\n" + GROUP % (b"a@mx.test", b"b@mx.test"))
        await near.send_all(b"NOOP\r\n" if "NOOP" in rule else b"BDAT 6 LAST\r\na: b\r\n")
        await trio.sleep(1)
        began = trio.current_time()
        await server.stop(1000)
        assert trio.current_time() - began < 1
        await near.aclose()


# --- policies, seeds, TLS -----------------------------------------------------------------------------------------------


async def test_policies_are_switched_on_and_off(autojump_clock: MockClock) -> None:
    async with server_with() as (rules, server, _):
        policy = rules.add("greylist 60s", recipient="you@mx.test")
        assert await code_of(server, ["other@mx.test"]) == 250
        assert await code_of(server, ["you@mx.test"]) == 450
        await trio.sleep(61)
        assert await code_of(server, ["you@mx.test"]) == 250
        assert await code_of(server, ["you@mx.test"], name="another.test") == 250
        assert policy.acted == 1
        rules.clear()
        for text, codes in (
            ("connections-per-peer 1", [250, 250]),
            ("connection-rate 1 per 1m", [250, 421]),
            ("message-rate 1 per 1m", [250, 421]),
        ):
            added = rules.add(text)
            assert [await code_of(server) for _ in range(2)] == codes, text
            assert added.acted == codes.count(421)
            rules.clear()
            assert await code_of(server) == 250
        added = rules.add("tarpit 10s")
        rules.add("answer RCPT 450 once")
        began = trio.current_time()
        assert [await code_of(server), await code_of(server)] == [450, 250]
        assert trio.current_time() - began >= 10
        assert added.acted >= 1


async def test_same_seed_and_commands_give_the_same_faults() -> None:
    async def outcome(seed: int, others: int) -> list[int]:
        rules = FaultRules()
        for _ in range(others):  # another test has added rules before
            rules.add("answer RCPT 450 always for other@mx.test")
        rules.add("sometimes 0.5 answer NOOP 451 always", seed=seed)
        async with talk(rules.hooks(Inbox()), limits=Limits(errors=1000)) as session:
            return await session.codes(b"NOOP\r\n" * 40)

    first = await outcome(1, 0)
    assert first == await outcome(1, 3)
    assert set(first) == {250, 451}
    assert first != await outcome(2, 0)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("rule", ["answer RCPT 450", 'replace RCPT "450 \\r\\n"', "throttle 10000", "close at RCPT"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_rules_over_tls(autojump_clock: MockClock, implicit: bool, rule: str, when: str) -> None:
    rules, inbox = FaultRules(), Inbox()
    hooks = rules.hooks(inbox)
    if when == "before":
        added = rules.add(rule)
    async with (
        open_memory_server(hooks, tls=True, implicit_tls=implicit) as server,
        server.client() as client,
    ):
        if when == "after":
            added = rules.add(rule)
        await client.mail(ME)
        match rule.split()[0]:
            case "throttle":
                await client.rcpt(YOU)
            case "close":
                with pytest.raises(ConnectionLostError):
                    await client.rcpt(YOU)
            case _:
                with pytest.raises(ReplyError, match="450"):
                    await client.rcpt(YOU)
                await client.rcpt(YOU)
    assert added.acted >= 1


async def test_slow_line_is_logged_once_in_a_session(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "smtp_trio.faults")
    rules = FaultRules()
    rules.add("trickle 100 octets every 0s")
    rules.add("answer NOOP 451 always for postmaster@mx.test from client.test")
    rules.add("answer NOOP 421 nth 3 from client.test")
    async with talk(rules.hooks(Inbox())) as session:
        await session.exchange(b"NOOP\r\nNOOP\r\nNOOP\r\n")
    assert [record.message.partition(" acts: ")[2] for record in caplog.records] == [
        'rule="trickle 100 octets every 0s" times=1',
        'rule="answer NOOP 421 nth 3 once from client.test" times=1',
    ]
    assert next(iter(rules)).acted == 5


async def test_rule_is_added_just_before_starttls_or_auth(autojump_clock: MockClock) -> None:
    """Octets of TLS and responses to challenges are passed on, also in a stream that is wrapped at these commands."""
    rules = FaultRules()
    extensions = standard(Auth(cleartext=True, mechanisms=("LOGIN",)))
    async with open_memory_server(rules.hooks(FredOnly()), tls=True, extensions=extensions) as server:
        async with server.client(tls="never") as client:
            tls = rules.add("trickle 3 octets every 1ms")
            await client.starttls()
            await client.noop()
        assert tls.acted >= 4  # at least the replies to STARTTLS, EHLO and NOOP, and the handshake
        rules.clear()
        async with server.client(tls="never", allow_cleartext=True) as client:
            auth = rules.add('extra AUTH "299 x\\r\\n" nth 3')
            await client.auth(("fred", "secret"))
            assert client.user == "fred"
        assert auth.acted == 1


# --- hostile texts and many rules ---------------------------------------------------------------------------------------


async def test_text_cannot_make_a_second_reply() -> None:
    rules = FaultRules()
    rules.add('answer NOOP 451 "a\\r\\n250 ok\\x00\\x7f\\u2028\\nb"')
    async with talk(rules.hooks(Inbox())) as session:
        assert await session.exchange(b"NOOP\r\n") == [b"451-4.3.0 a", b"451-4.3.0 250 ok???", b"451 4.3.0 b"]


async def test_thousands_of_rules() -> None:
    """They are compared with each command in order; a session with them is slower, but not by much."""
    rules = FaultRules()
    for n in range(3000):
        rules.add(Answer("RCPT", 450), recipient=f"test{n}@mx.test")
    async with talk(rules.hooks(Inbox())) as session:
        group = GROUP % (b"test2999@mx.test", b"test3000@mx.test")
        assert await session.codes(group + b"RSET\r\n" + group) == [250, 450, 250, 250, 250, 250, 250]
    assert sum(each.acted for each in rules) == 1


# --- cost ---------------------------------------------------------------------------------------------------------------


async def test_hooks_are_skipped_while_there_are_no_rules(autojump_clock: MockClock) -> None:
    async with server_with() as (rules, server, _), server.client() as client:
        [session] = rules._script.sessions
        assert not session._hooks.has_message
        assert type(session.stream) is not FaultyStream
        added = rules.add("answer NOOP 451")
        assert session._hooks.has_message
        with pytest.raises(ReplyError):
            await client.noop()
        assert added.used_up
        assert not session._hooks.has_message
        await client.noop()
        await client.aclose()
        await wait_all_tasks_blocked()
        assert not rules._script.sessions


async def test_hooks_of_other_layers_are_not_skipped() -> None:
    seen = []

    class Above(Layer):
        async def message(self, session: Session, command: Command) -> Reply | None:
            seen.append(command.verb)
            return await self.under.message(session, command)

    class Below(Inbox):
        async def response(self, session: Session, reply: Reply) -> None:
            seen.append(str(reply.code))

    async with talk(Above(FaultRules().hooks(Inbox()))) as session:
        await session.codes(b"NOOP\r\n")
    async with talk(FaultRules().hooks(Below())) as session:
        await session.codes(b"NOOP\r\n")
    assert seen == ["EHLO", "NOOP", "220", "250", "250"]


# --- the same as a script -----------------------------------------------------------------------------------------------

SEGMENTS = (
    b"EHLO client.test\r\n",
    GROUP % (b"a@mx.test", b"b@mx.test") + b"BDAT 6 LAST\r\na: b\r\nNOOP\r\n",
    b"RSET\r\n" + GROUP % (b"c@mx.test", b"d@mx.test") + b"DATA\r\n",
    b"c: d\r\n\r\n",
    b"e\r\n.\r\nQUIT\r\n",
)


def conversation(hooks: Hooks, inbox: Inbox) -> tuple[list[tuple[float, bytes]], list[bytes]]:
    """Return what a server with these hooks sends and when, and the messages that it accepts."""
    received: list[tuple[float, bytes]] = []

    async def receive(stream: MemoryStream) -> None:
        with suppress(trio.BrokenResourceError):
            while data := await stream.receive_some():
                received.append((trio.current_time(), bytes(data)))

    async def main() -> None:
        server = Server(hooks, name="mx.test", **deterministic())
        near, far = bounded_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(server.serve_stream, far))
            nursery.start_soon(receive, near)
            await trio.sleep(1)
            with suppress(trio.BrokenResourceError):
                for segment in SEGMENTS:
                    await near.send_all(segment)
                    await trio.sleep(20_000)
                await near.send_eof()
            await trio.sleep(20_000)
            await near.aclose()

    with deterministic_scheduling() as seed:
        seed(0)  # what happens in one step of the clock happens in the same order in both servers
        trio.run(main, clock=MockClock(autojump_threshold=0))
    return received, [mail.raw for mail in inbox]


@pytest.mark.slow
@settings(max_examples=150)
@given(fault_scripts(by="server", exclude=[Garbage]))
@example(Faults(Hang("EHLO"), Coalesce()))  # a message that is sent to a server that hangs is not accepted
def test_rules_act_as_in_a_script(script: Faults) -> None:
    """The engine is the same; only the random octets depend on something else."""
    fixed, live = Inbox(), Inbox()
    rules = FaultRules()
    for rule in script.rules:
        rules.add(rule)
    assert conversation(rules.hooks(live), live) == conversation(script.hooks(fixed), fixed)
    unused = [each.rule for each in rules if not each.acted]
    assert unused == list(script.unused)


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True])
async def test_rules_come_and_go_while_messages_arrive(tls: bool) -> None:
    """Streams are wrapped in the middle of sessions on sockets, and no octet is lost or changed."""
    rules, inbox, random = FaultRules(), Inbox(), Random(1)
    harmless = (
        "trickle 7 octets every 0s",
        "throttle 1G",
        "delay anywhere 0s always",
        "coalesce 2 within 1ms",
        "omit X",
    )
    kinds = {"trickle", "throttle", "delay", "coalesce"}
    acted: set[str] = set()
    sent: list[bytes] = []

    async def send(server: TestServer, number: int) -> None:
        # Which sessions meet which rule depends on the order of events on the sockets. So the sessions go on until each kind
        # of rule has acted: three each are nearly always enough.
        for session in range(100):
            if session >= 3 and acted >= kinds:
                return
            async with server.client() as client:
                assert (client.tls is not None) == tls
                for _ in range(4):
                    message = (
                        b"Subject: %d\r\n\r\n" % len(sent)
                        + random.randbytes(random.choice([3, 3000, 90_000])).hex().encode()
                    )
                    sent.append(message + b"\r\n")
                    await client.send(ME, [f"test{number}@mx.test"], sent[-1])

    async def change() -> None:
        while True:
            acted.update(rule.kind for rule in rules if rule.acted)
            if len(rules) > 3:
                rules.remove(random.choice(list(rules)).id)
            elif text := random.choice(harmless):
                everybody = text.startswith("omit") or random.random() < 0.5
                rules.add(text, recipient=None if everybody else f"test{random.randrange(8)}@mx.test")
            for _ in range(random.randrange(20)):
                await trio.lowlevel.checkpoint()

    async with open_test_server(rules.hooks(inbox), tls=tls) as server, trio.open_nursery() as nursery:
        nursery.start_soon(change)
        async with trio.open_nursery() as clients:
            for number in range(8):
                clients.start_soon(send, server, number)
        nursery.cancel_scope.cancel()
    assert sorted(mail.raw for mail in inbox) == sorted(sent)
    assert acted >= kinds


# --- sweeps -------------------------------------------------------------------------------------------------------------


def two_messages(*texts: str) -> Callable[[Attempt], Awaitable[None]]:
    """Return a scenario with these rules, and one more in the middle of its session."""

    async def scenario(attempt: Attempt) -> None:
        attempt.context["inbox"] = inbox = Inbox()
        attempt.context["rules"] = rules = FaultRules()
        for text in texts:
            rules.add(text)
        async with trio.open_nursery() as nursery:
            server = Server(rules.hooks(inbox), name="mx.test", **deterministic())
            async with await memory_pair(nursery, server) as client:
                for _ in range(2):
                    with suppress(SMTPError):
                        await client.send(ME, [YOU], MESSAGE)
                    rules.add('extra RCPT "" always')

    return scenario


def check_sweep(attempt: Attempt) -> None:
    """Check that no session is left, and that messages are complete."""
    assert not attempt.context["rules"]._script.sessions
    assert {mail.raw for mail in attempt.context["inbox"]} <= {MESSAGE}
    assert attempt.interrupted or len(attempt.context["inbox"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("texts", [(), ("delay DOT 5s", "coalesce 2", "hang at RCPT for other@mx.test")])
def test_cancellation_at_each_step(texts: Sequence[str]) -> None:
    report = cancel_everywhere(two_messages(*texts), check=check_sweep)
    assert report.points > 50


@pytest.mark.slow
def test_rules_are_added_and_removed_at_each_step() -> None:
    async def change(attempt: Attempt) -> None:
        rules = attempt.context["rules"]
        added = [rules.add(text) for text in ("trickle 1 octet every 0s", f"delay anywhere 1s for {YOU}", "omit SIZE")]
        for rule in added:
            await trio.lowlevel.checkpoint()
            rules.remove(rule.id)
            await trio.sleep(0.1)

    assert start_everywhere(two_messages(), change, check=check_sweep).points > 50
