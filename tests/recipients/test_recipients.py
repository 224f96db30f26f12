"""`Recipients` in memory: entries, details, aliases, replies, and what a store keeps."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from helpers import NAME, Client, RecordingHooks, connected
from trio.testing import MockClock

import smtp_trio
from smtp_trio import Hooks, Reply, Server, Session
from smtp_trio._server.alias_targets import TARGETS
from smtp_trio.policies import RecipientsPerMessage
from smtp_trio.protocol import Rcpt
from smtp_trio.protocol.extensions.dsn import NOTIFY, ORCPT
from smtp_trio.recipients import AliasError, Recipients, Source, SourceError, expanded
from smtp_trio.recipients._addresses import parse_key
from smtp_trio.stores import Maildir, parse_stored_params, read

MAILBOX: tuple[str, ...] = ()


class Dictionary(Source):
    """A source of a test. While ``error`` is set it does not answer."""

    def __init__(self, entries: Mapping[str, Sequence[str]], *, knows_domains: bool = True) -> None:
        self.entries = dict(entries)
        self.knows_domains = knows_domains
        self.error: SourceError | None = None
        self.asked: list[str] = []

    def __str__(self) -> str:
        return "dictionary"

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Sequence[str]]:
        await trio.lowlevel.checkpoint()
        self.asked.append(keys[0])
        if self.error is not None:
            raise self.error
        return {key: self.entries[key] for key in keys if key in self.entries}

    async def has_domain(self, domains: Sequence[str]) -> bool | None:
        if self.error is not None:
            raise self.error
        return any(key.rpartition("@")[2] in domains for key in self.entries) if self.knows_domains else None


def mailboxes(*keys: str) -> Dictionary:
    return Dictionary(dict.fromkeys(keys, MAILBOX))


def path(address: str) -> smtp_trio.Path:
    parsed = smtp_trio.Path.parse(address)
    assert parsed is not None
    return parsed


async def resolved(recipients: Recipients, address: str) -> list[str] | None:
    found = await recipients.resolve(path(address))
    return None if found is None else [str(each) for each in found]


async def codes(hooks: Hooks, *addresses: str, **arguments: Any) -> list[str]:
    """Return the beginning of each reply to RCPT."""
    async with connected(Server(hooks, name=NAME, **arguments)) as client:
        await begin(client)
        return [(await client.command(f"RCPT TO:<{address}>", ""))[:9].strip() for address in addresses]


async def begin(client: Client) -> None:
    await client.hello()
    await client.command("MAIL FROM:<me@client.test> SMTPUTF8", "250")


# --- entries ------------------------------------------------------------------------------------------------------------

ACCEPTED, UNKNOWN, NOT_LOCAL, LATER = "250 2.1.5", "550 5.1.1", "550 5.7.1", "451 4.3.0"


REPLIES = {
    "fred@example.org": ACCEPTED,
    "FRED@Example.ORG": ACCEPTED,
    '"fred"@example.org': ACCEPTED,
    "fred+lists@example.org": ACCEPTED,
    "fred+a+b@example.org": ACCEPTED,
    '"fred+a b"@example.org': ACCEPTED,
    "nobody@example.org": UNKNOWN,
    "nobody+fred@example.org": UNKNOWN,
    "+fred@example.org": UNKNOWN,
    "fredd@example.org": UNKNOWN,
    "fred@sub.example.org": NOT_LOCAL,
    "fred@example.net": NOT_LOCAL,
    "Postmaster": ACCEPTED,
    "postmaster@EXAMPLE.org": ACCEPTED,
    "postmaster+x@example.org": UNKNOWN,
    "postmaster@example.net": NOT_LOCAL,
    "list+owner@example.org": ACCEPTED,
    "list@example.org": UNKNOWN,
    "list+owner+x@example.org": UNKNOWN,
    '"a b"@example.org': ACCEPTED,
    '"A b+c"@example.org': ACCEPTED,
    "anyone@all.test": ACCEPTED,
    "anyone@sub.all.test": NOT_LOCAL,
    "anyone@lab.test": NOT_LOCAL,
    "anyone@x.lab.test": ACCEPTED,
    "anyone@y.x.LAB.test": ACCEPTED,
    "postmaster@y.x.lab.test": ACCEPTED,
    "anyone@badlab.test": NOT_LOCAL,
    "wilma@bücher.example": ACCEPTED,
    "wilma@xn--bcher-kva.example": ACCEPTED,
    "jürgen@example.org": ACCEPTED,
    "JüRGEN+x@example.org": ACCEPTED,
    "jÜrgen@example.org": UNKNOWN,
    "fred@[192.0.2.1]": ACCEPTED,
    "Fred+x@[IPv6:2001:DB8::1]": ACCEPTED,
    "wilma@[IPv6:2001:DB8::1]": UNKNOWN,
    "fred@[192.0.2.2]": NOT_LOCAL,
}


async def test_replies() -> None:
    source = mailboxes(
        "fred@example.org", "list+owner@example.org", '"a b"@example.org', "@all.test", "@.lab.test",
        "wilma@xn--bcher-kva.example", "jürgen@example.org", "fred@[192.0.2.1]",
        "fred@[ipv6:2001:db8::1]",
    )  # fmt: skip
    assert all(parse_key(key) == key for key in source.entries)
    replies = await codes(Recipients(RecordingHooks(), source), *REPLIES)
    assert dict(zip(REPLIES, replies, strict=True)) == REPLIES


async def test_delimiters() -> None:
    source = mailboxes("fred@example.org", "a-b@example.org")
    addresses = ["fred@example.org", "fred-x@example.org", "fred=x-y@example.org", "fred+x@example.org"]
    assert await codes(Recipients(None, source, delimiter="-="), *addresses) == [ACCEPTED] * 3 + [UNKNOWN]
    assert await codes(Recipients(None, source, delimiter=""), *addresses) == [ACCEPTED] + [UNKNOWN] * 3
    assert await resolved(Recipients(None, source, delimiter="-"), "a-b@example.org") == ["a-b@example.org"]


async def test_domains_limit_what_is_looked_up() -> None:
    """A service that does not know its domains, with domains: postmaster is accepted at these, and others are refused."""
    source = Dictionary({"fred@example.org": MAILBOX, "fred@example.net": MAILBOX}, knows_domains=False)
    recipients = Recipients(None, source, domains=["Example.ORG", ".bücher.example"])
    assert await codes(
        recipients, "fred@example.org", "x@example.org", "fred@example.net", "x@example.net", "Postmaster",
        "postmaster@example.org", "postmaster@a.xn--bcher-kva.example", "postmaster@xn--bcher-kva.example",
    ) == [ACCEPTED, UNKNOWN, NOT_LOCAL, NOT_LOCAL, ACCEPTED, ACCEPTED, ACCEPTED, NOT_LOCAL]  # fmt: skip
    assert not any(address.endswith("@example.net") for address in source.asked)

    assert await codes(Recipients(None, source), "x@example.org", "postmaster@example.org") == [UNKNOWN, UNKNOWN]


async def test_most_specific_entry_of_all_sources_counts() -> None:
    first = Dictionary({"@example.org": ["a@away.test"], "fred@example.org": ["b@away.test"]})
    second = Dictionary({"wilma@example.org": ["c@away.test"], "fred@example.org": ["d@away.test"]})
    recipients = Recipients(None, first, second)
    assert await resolved(recipients, "wilma@example.org") == ["c@away.test"]
    assert await resolved(recipients, "wilma+x@example.org") == ["c@away.test"]
    assert await resolved(recipients, "other@example.org") == ["a@away.test"]
    second.asked.clear()
    assert await resolved(recipients, "fred@example.org") == ["b@away.test"]
    assert "fred@example.org" not in second.asked  # the first source has the address itself


async def test_hooks_below_and_around_are_called() -> None:
    class Full(RecordingHooks):
        async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
            return Reply(452, "Mailbox full", "4.2.2") if rcpt.recipient.local == "full" else None

    layers = RecipientsPerMessage(Recipients(Full(), mailboxes("full@example.org", "@example.net")), 1)
    assert await codes(layers, "x@example.org", "full@example.org", "a@example.net", "b@example.net") == [
        UNKNOWN, "452 4.2.2", ACCEPTED, "452 4.5.3",
    ]  # fmt: skip


async def test_vrfy_and_expn_reveal_nothing() -> None:
    async with connected(Server(Recipients(RecordingHooks(), mailboxes("fred@example.org")), name=NAME)) as client:
        await client.hello()
        assert await client.command("VRFY fred@example.org", "252") == await client.command("VRFY x@example.org", "252")
        await client.command("EXPN fred@example.org", "502")


async def test_search_for_addresses_ends(autojump_clock: MockClock) -> None:
    """Each unknown recipient uses up work of the session, and so does each that cannot be looked up."""
    server = Server(Recipients(RecordingHooks(), mailboxes("fred@example.org")), name=NAME)
    async with connected(server) as client:
        await begin(client)
        for number in range(515):
            await client.command(f"RCPT TO:<u{number}@example.org>", UNKNOWN)
        await client.command("RSET", "421 4.7.0")
        await client.expect_end()
    assert server.statistics().limits_reached == {"work": 1}


# --- failures -----------------------------------------------------------------------------------------------------------


async def test_source_that_fails_is_temporary_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    source = mailboxes("fred@example.org")
    recipients = Recipients(None, source)
    addresses = "fred@example.org", "x@example.org", "x@example.net", "postmaster@example.org", "Postmaster"
    with caplog.at_level(logging.INFO, "smtp_trio.recipients"):
        source.error = SourceError("dictionary: closed")
        assert await codes(recipients, *addresses) == [LATER] * 4 + [ACCEPTED]
        source.error = None
        assert await codes(recipients, *addresses) == [ACCEPTED, UNKNOWN, NOT_LOCAL, ACCEPTED, ACCEPTED]
        assert await codes(recipients, *addresses) == [ACCEPTED, UNKNOWN, NOT_LOCAL, ACCEPTED, ACCEPTED]
    assert [each.getMessage() for each in caplog.records if each.name == "smtp_trio.recipients"] == [
        'cannot look up recipients, which get 451 until this works: "dictionary: closed"',
        "recipients can be looked up again: dictionary",
    ]


async def test_domain_that_cannot_be_looked_up(caplog: pytest.LogCaptureFixture) -> None:
    class WithoutDomains(Dictionary):
        async def has_domain(self, domains: Sequence[str]) -> bool | None:
            raise SourceError("no domains")

    recipients = Recipients(None, WithoutDomains({}))
    assert await codes(recipients, "x@example.org", "postmaster@example.org") == [LATER, LATER]


async def test_entry_of_an_earlier_source_is_enough() -> None:
    broken = mailboxes()
    broken.error = SourceError("closed")
    source = mailboxes("fred@example.org", "@example.org")
    assert await codes(Recipients(None, source, broken), "fred@example.org", "x@example.org") == [ACCEPTED, LATER]


# --- aliases ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "targets"),
    [
        ({"info": ["fred", "wilma"]}, ["fred", "wilma"]),
        ({"info": ["staff", "fred"], "staff": ["wilma", "fred", "info"]}, ["wilma", "fred"]),
        ({"info": ["info", "fred"]}, ["info", "fred"]),  # a mailbox, and a copy
        ({"info": ["INFO"]}, ["INFO"]),
        ({"info": ["info+copy"]}, ["info+copy"]),
        ({"info": ["fred+x"], "fred": ["barney"]}, ["barney"]),
        ({"info": ["a", "b"], "a": ["c"], "b": ["c"], "c": []}, ["c"]),
        ({"": ["fred"]}, ["fred"]),  # a catch-all, which is for its target too
        ({"": ["fred", "wilma"], "info": ["barney"]}, ["fred", "wilma"]),
        ({"info": ["a"], "a": ["info"]}, AliasError),
        ({"info": ["a", "b"], "a": ["b"], "b": ["a", "info"]}, AliasError),
        ({"info": ["a"], "a": ["info", "b"], "b": ["b"]}, ["b"]),
        ({"info": ["a0"], **{f"a{n}": [f"a{n + 1}"] for n in range(18)}}, ["a18"]),
        ({"info": ["a0"], **{f"a{n}": [f"a{n + 1}"] for n in range(20)}}, AliasError),
        ({"info": [f"a{n}" for n in range(999)]}, [f"a{n}" for n in range(999)]),
        ({"info": [f"a{n}" for n in range(1000)]}, AliasError),
    ],
    ids=lambda value: None if isinstance(value, type) else ",".join(map(str, value))[:20] or "empty",
)
async def test_aliases(entries: dict[str, list[str]], targets: list[str] | type[AliasError]) -> None:
    source = Dictionary(
        {f"{key}@example.org": [f"{each}@example.org" for each in found] for key, found in entries.items()}
    )
    recipients = Recipients(None, source)
    if isinstance(targets, list):
        assert await resolved(recipients, "info@example.org") == [f"{each}@example.org" for each in targets]
        return
    with pytest.raises(targets):
        await resolved(recipients, "info@example.org")
    assert await codes(recipients, "info@example.org", "info@example.org") == ["451 4.3.5"] * 2


async def test_each_alias_is_looked_up_once() -> None:
    """Aliases whose targets are in each other's take time in proportion to their number, not to that of the ways."""
    source = Dictionary({f"a{n}@x.test": [f"a{m}@x.test" for m in range(n + 1, 15)] for n in range(15)})
    assert await resolved(Recipients(None, source), "a0@x.test") == ["a14@x.test"]
    assert len(source.asked) == 15


@pytest.mark.parametrize(
    "target", ["", "fred", "postmaster", "@example.org", "<a@b.test>", "a@b.test\r\nQUIT", "a b@c"]
)
async def test_invalid_target(target: str, caplog: pytest.LogCaptureFixture) -> None:
    recipients = Recipients(None, Dictionary({"@x.test": [target]}))
    assert await codes(recipients, "info@x.test", "info@x.test", *(f"u{n}@x.test" for n in range(200))) == (
        ["451 4.3.5"] * 202
    )
    messages = [each.getMessage() for each in caplog.records if each.name == "smtp_trio.recipients"]
    assert len(set(messages)) == len(messages) == 100
    assert messages[0].startswith("recipients get 451: ")
    assert "which is not an address" in messages[0]


async def test_targets_outside_are_not_limited_to_own_domains() -> None:
    source = Dictionary({"postmaster": ["root@away.test"], "info@example.org": ["anna@away.test"]})
    recipients = Recipients(None, source, domains=["example.org"])
    assert await resolved(recipients, "info@example.org") == ["anna@away.test"]
    assert await resolved(recipients, "Postmaster") == ["root@away.test"]
    assert await resolved(recipients, "postMaster@example.org") == ["root@away.test"]
    assert await resolved(recipients, "anna@away.test") is None
    source.entries["@example.org"] = ["fred@away.test"]  # less specific than postmaster
    assert await resolved(recipients, "postmaster@example.org") == ["root@away.test"]


# --- what a store keeps ---------------------------------------------------------------------------------------------------


ALIASES = {
    "info@example.org": ["anna@example.org", "bert@away.test"],
    "büro@example.org": ["anna@example.org", "chris@example.org"],
    "postmaster": ["anna@example.org"],
    "anna@example.org": MAILBOX,
    "chris@example.org": MAILBOX,
}


async def test_store_keeps_the_targets(tmp_path: Path) -> None:
    """The log and the replies have the alias, and the entry its targets, with ORCPT for the alias."""
    store = Maildir(tmp_path / "mail")
    server = Server(Recipients(store, Dictionary(ALIASES)), name=NAME)
    async with connected(server) as client:
        await begin(client)
        await client.command("RCPT TO:<chris+x@example.org>", "250")
        await client.command("RCPT TO:<Info@example.org> NOTIFY=SUCCESS,FAILURE", "250")
        await client.command("RCPT TO:<büro@example.org> NOTIFY=NEVER ORCPT=rfc822;old@away.test", "250")
        await client.command("RCPT TO:<Postmaster>", "250")
        await client.command("DATA", "354")
        await client.send(b"Subject: hi\r\n\r\n.\r\n")
        await client.expect("250")
        # Aliases of an earlier message do not apply to the next one.
        await begin(client)
        await client.command("RCPT TO:<chris@example.org>", "250")
        await client.command("DATA", "354")
        await client.send(b"Subject: hi\r\n\r\n.\r\n")
        await client.expect("250")
    stored = [read(file) for file in (tmp_path / "mail" / "new").iterdir()]
    second, first = sorted(stored, key=lambda each: len(each.recipients))
    assert first.recipients == ("chris+x@example.org", "anna@example.org", "bert@away.test", "chris@example.org")
    params = [parse_stored_params(text) for text in first.rcpt_params]
    assert [each.get(ORCPT) for each in params] == [
        None,
        "rfc822;Info@example.org",
        "rfc822;Info@example.org",
        "rfc822;old@away.test",
    ]
    assert [each.get(NOTIFY) for each in params] == [None, {"SUCCESS", "FAILURE"}, {"FAILURE"}, {"NEVER"}]
    assert second.recipients == ("chris@example.org",)


@pytest.mark.parametrize(
    ("notify", "first", "others"),
    [
        ("SUCCESS", {"SUCCESS"}, {"NEVER"}),
        ("SUCCESS,DELAY", {"SUCCESS", "DELAY"}, {"DELAY"}),
        ("FAILURE", {"FAILURE"}, {"FAILURE"}),
        ("NEVER", {"NEVER"}, {"NEVER"}),
    ],
)
def test_success_is_reported_for_one_target(notify: str, first: set[str], others: set[str]) -> None:
    """The first target that is not a recipient already (RFC 3461 5.2.7.3 (b))."""
    known = Rcpt.decode("TO:<a@b.test>", {})
    alias = Rcpt.decode(f"TO:<info@b.test> NOTIFY={notify}", {"NOTIFY": NOTIFY})
    mail = smtp_trio.Mail.decode("FROM:<>", {})
    targets = {"info@b.test": tuple(path(f"{each}@b.test") for each in "abcd")}
    envelope = smtp_trio.Envelope("1", mail, (known, alias), {TARGETS: targets})
    assert [(each.recipient.local, each.params.get(NOTIFY)) for each in expanded(envelope)] == [
        ("a", None), ("b", first), ("c", others), ("d", others),
    ]  # fmt: skip


def test_recipient_that_is_too_long_for_orcpt() -> None:
    """Its xtext would have more than 500 octets (RFC 3461 4.2)."""
    long = path("+" * 200 + "@b.test")
    envelope = smtp_trio.Envelope(
        "1", smtp_trio.Mail.decode("FROM:<>", {}), (Rcpt(long),), {TARGETS: {long.raw: (path("a@b.test"),)}}
    )
    assert expanded(envelope) == (Rcpt(path("a@b.test")),)


async def test_targets_of_a_message_are_limited() -> None:
    """Each detail of a large alias is another recipient."""
    source = Dictionary({"all@x.test": [f"u{n}@x.test" for n in range(900)], "u0@x.test": MAILBOX})
    addresses = [f"all+{number}@x.test" for number in range(12)]
    replies = await codes(Recipients(None, source), *addresses, "u0@x.test")
    assert replies == [ACCEPTED] * 11 + ["452 4.5.3", ACCEPTED]


async def test_expanded_in_a_hook() -> None:
    found: list[tuple[tuple[str, ...], list[tuple[str, str | None]]]] = []

    class Application(Hooks):
        async def data(self, session: Session, body: smtp_trio.Body) -> None:
            await body.discard()
            sent = tuple(each.raw for each in body.envelope.recipients)
            found.append((sent, [(str(each.recipient), each.params.get(ORCPT)) for each in expanded(body.envelope)]))

    source = Dictionary({**ALIASES, "x" * 240 + "@b.test": ["anna@example.org"], '"a b"@b.test': ["a@b.test"]})
    for address, expected in {
        "büro@example.org": [(each, "utf-8;büro@example.org") for each in ("anna@example.org", "chris@example.org")],
        '"a b"@b.test': [("a@b.test", 'rfc822;"a b"@b.test')],
        "anna@example.org": [("anna@example.org", None)],
    }.items():
        async with connected(Server(Recipients(Application(), source), name=NAME)) as client:
            await begin(client)
            await client.command(f"RCPT TO:<{address}>", "250")
            await client.command("DATA", "354")
            await client.send(b".\r\n")
            await client.expect("250")
        assert found.pop() == ((address,), expected)


async def test_lmtp_store_for_some_recipients(tmp_path: Path) -> None:
    """`put` with ``rcpts`` stores the message for the targets of these; each recipient as sent has a reply."""

    class Partial(Maildir):
        async def data(self, session: Session, body: smtp_trio.Body) -> Sequence[Reply | None]:
            first, *_ = body.envelope.rcpts
            await self.put(session, body, rcpts=[first])
            return [None, Reply(452, "Mailbox full", "4.2.2")]

    server = Server(Recipients(Partial(tmp_path / "mail"), Dictionary(ALIASES)), name=NAME, lmtp=True)
    async with connected(server) as client:
        await client.expect("220")
        await client.command("LHLO client.test", "250")
        await client.command("MAIL FROM:<me@client.test>", "250")
        await client.command("RCPT TO:<info@example.org>", "250")
        await client.command("RCPT TO:<chris@example.org>", "250")
        await client.command("DATA", "354")
        await client.send(b"Subject: hi\r\n\r\n.\r\n")
        await client.expect("250")
        await client.expect("452 4.2.2")
    (file,) = (tmp_path / "mail" / "new").iterdir()
    assert read(file).recipients == ("anna@example.org", "bert@away.test")


# --- arguments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((None,), {}, ValueError, "sources must have at least one item"),
        ((None, "recipients"), {}, TypeError, "each item of sources must be Source, got 'recipients'"),
        (("recipients", Source()), {}, TypeError, "hooks must be an instance of smtp_trio.Hooks"),
        ((None, Source()), {"domains": "example.org"}, TypeError, "domains must be an iterable of str"),
        ((None, Source()), {"domains": ["a b"]}, ValueError, "each item of domains must be a domain, got 'a b'"),
        ((None, Source()), {"domains": ["."]}, ValueError, "each item of domains must be a domain, got '.'"),
        ((None, Source()), {"delimiter": None}, TypeError, "delimiter must be str, got None"),
        ((None, Source()), {"delimiter": "@"}, ValueError, "delimiter must be printable ASCII"),
        ((None, Source()), {"delimiter": "ä"}, ValueError, "delimiter must be printable ASCII"),
    ],
)
def test_arguments(arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        Recipients(*arguments, **options)
    assert text in str(caught.value)


async def test_base_class() -> None:
    source = Source()
    source.load()
    assert await source.has_domain(["example.org"]) is None
    with pytest.raises(NotImplementedError):
        await source.look_up(["a@example.org"])
