"""What the result of a client says to the sender of the message."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Any

import pytest
from trio.testing import MockClock

import smtp_trio
from smtp_trio import (
    Accepted,
    AllRecipientsRejectedError,
    Body,
    Hooks,
    Outcome,
    Rcpt,
    Rejected,
    Reply,
    Result,
    Server,
    Session,
    Unknown,
    standard,
)
from smtp_trio.dsn import Original, RecipientStatus, Report, build_report, report_statuses
from smtp_trio.protocol import Connect, Params, Path
from smtp_trio.protocol.commands import END_OF_DATA
from smtp_trio.protocol.extensions import Dsn
from smtp_trio.protocol.extensions.dsn import ENVID, NOTIFY
from smtp_trio.routing import send
from smtp_trio.stores import Maildir, SQLite, Stored, read
from smtp_trio.testing import Inbox, MemoryResolver, memory_network

from .reports import ME, MESSAGE, YOU, fields, notify, parse

RCPT = Rcpt(Path(YOU, "you", "mx.test"))
OUTCOMES: dict[str, Outcome | None] = {
    "accepted": Accepted(YOU, Reply(250, "queued", "2.0.0")),
    "permanent": Rejected(YOU, RCPT, Reply(550, "No such\nuser", "5.1.1")),
    "temporary": Rejected(YOU, END_OF_DATA, Reply(451, "later", "4.3.0")),
    "no status": Rejected(YOU, RCPT, Reply(550, "no", "")),
    "too many": Rejected(YOU, RCPT, Reply(552, "too many", "5.5.3")),  # RFC 5321 4.5.3.1.10
    "no connection": Rejected(YOU, Connect(), Reply(451, "no answer", "4.4.1")),
    "unknown": Unknown(YOU, "no reply"),
    "none": None,
}
#: The action, the status code, the diagnostic and the name of the server; without and with ``give_up``.
EXPECTED: dict[str, tuple[str, str | None]] = {
    "accepted": ("", ""),
    "permanent": ("failed 5.1.1 550 5.1.1 No such user @mx", "failed 5.1.1 550 5.1.1 No such user @mx"),
    "temporary": ("delayed 4.3.0 451 4.3.0 later @mx", "failed 4.3.0 451 4.3.0 later @mx"),
    "no status": ("failed 5.0.0 550 no @mx", "failed 5.0.0 550 no @mx"),
    "too many": ("delayed 4.5.3 552 5.5.3 too many @mx", "failed 4.5.3 552 5.5.3 too many @mx"),
    "no connection": ("delayed 4.4.1 451 4.4.1 no answer", "failed 4.4.1 451 4.4.1 no answer"),
    "unknown": ("", "failed 4.4.2 no reply; the message may have been delivered"),
    "none": ("delayed 4.4.2", "failed 4.4.2"),
}


def outline(statuses: tuple[RecipientStatus, ...]) -> str:
    return "; ".join(
        " ".join(filter(None, (each.action, each.status, each.diagnostic, each.remote_mta and f"@{each.remote_mta}")))
        for each in statuses
    )


@pytest.mark.parametrize("name", OUTCOMES)
def test_outcomes(name: str) -> None:
    outcome = OUTCOMES[name]
    result = Result(ME, (YOU,), () if outcome is None else (outcome,))

    assert outline(report_statuses(result, remote_mta="mx")) == EXPECTED[name][0]
    assert outline(report_statuses(result, remote_mta="mx", give_up=True)) == EXPECTED[name][1]


def test_dates() -> None:
    now = datetime(2026, 11, 28, tzinfo=UTC)
    result = Result(ME, ("a", "b"), (Rejected("a", RCPT, Reply(550)), Rejected("b", RCPT, Reply(450))))
    statuses = report_statuses(result, last_attempt=now, will_retry_until=now)
    assert [(each.last_attempt, each.will_retry_until) for each in statuses] == [(now, None), (now, now)]


def test_accepted_recipients() -> None:
    outcomes = tuple(Accepted(name, Reply(250, "ok", "2.0.0")) for name in "ab")
    result = Result(ME, ("a", "b"), outcomes, relayed_without_dsn=("b",))
    assert outline(report_statuses(result)) == "relayed 2.0.0 250 2.0.0 ok"
    assert [each.action for each in report_statuses(result, accepted="delivered")] == ["delivered", "delivered"]


@pytest.mark.parametrize(
    "options",
    [{"accepted": "relayed"}, {"give_up": 1}, {"remote_mta": 1}, {"will_retry_until": "tomorrow"}],
    ids=["accepted", "give_up", "remote_mta", "will_retry_until"],
)
def test_wrong_arguments(options: dict[str, object]) -> None:
    result = Result(ME, (YOU,), ())
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        report_statuses(result, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="result"):
        report_statuses(ME)  # type: ignore[arg-type]


# --- from a session to the report -------------------------------------------------------------------------------------


class Relay(Hooks):
    """Passes each message on, and sends the reports that follow from the result to the sender."""

    def __init__(self) -> None:
        self.reports: list[Report | None] = []

    async def data(self, session: Session, body: Body) -> None:
        message, envelope = await body.read(), body.envelope
        rcpt_params = {rcpt.recipient.raw: rcpt.params for rcpt in envelope.rcpts}
        async with smtp_trio.connect("next.test") as client:
            try:
                result = await client.send(
                    envelope.sender.raw,
                    list(rcpt_params),
                    message,
                    mail_params=envelope.params,
                    rcpt_params=rcpt_params,
                )
            except AllRecipientsRejectedError as error:
                result = error.result
        statuses = report_statuses(result, remote_mta="next.test")
        original = Original.from_envelope(envelope, message, session.server.now())
        report = build_report(original, statuses, reporting_mta="relay.test")
        self.reports.append(report)
        if report is not None:
            async with smtp_trio.connect("client.test") as client:
                await client.send("", [report.recipient], report.message, mail_params=report.mail_params)


class Refusing(Hooks):
    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return Reply(550, "No such user\r\nAction: delivered", "5.1.1") if rcpt.recipient.local == "bad" else None

    async def data(self, session: Session, body: Body) -> None:
        await body.read()


@pytest.mark.parametrize("dsn", [True, False])
async def test_relay(autojump_clock: MockClock, dsn: bool) -> None:
    """The whole way: a message with requests, its refusal by the next server, and the report in the sender's mailbox."""
    relay, inbox = Relay(), Inbox()
    extensions = standard(Dsn()) if dsn else standard(without=(Dsn,))
    servers: dict[str, Any] = {
        "relay.test": Server(relay, name="relay.test", extensions=standard(Dsn())),
        "next.test": Server(Refusing(), extensions=extensions),
        "client.test": inbox,
    }
    async with memory_network(servers), smtp_trio.connect("relay.test") as client:
        rcpt_params = {"bad@mx.test": notify("FAILURE"), "quiet@mx.test": notify("SUCCESS"), "c@mx.test": Params()}
        await client.send(ME, list(rcpt_params), MESSAGE, mail_params=Params({ENVID: "QQ 1"}), rcpt_params=rcpt_params)
        await client.send("", ["bad@mx.test"], MESSAGE)
        await client.send(ME, ["bad@mx.test"], MESSAGE, notify=("NEVER",))

    [mail] = inbox
    assert (mail.sender, mail.recipients) == ("", (ME,))
    [report, *others] = relay.reports
    assert report is not None
    assert others == [None, None]
    parse(report)
    assert mail.raw.endswith(report.message)
    groups = fields(report)
    assert groups[0][0] == ("Original-Envelope-Id", "QQ 1")
    assert [dict(group)["Action"] for group in groups[1:]] == (["failed"] if dsn else ["failed", "relayed"])
    assert dict(groups[1])["Diagnostic-Code"] == "smtp; 550 5.1.1 No such user Action: delivered"
    assert dict(groups[1])["Remote-MTA"] == "dns; next.test"


async def test_result_of_sending_to_domains(autojump_clock: MockClock) -> None:
    """It has the name of the exchanger. A domain without a connection has no Remote-MTA (RFC 3464 2.3.5)."""
    resolver = MemoryResolver(
        {
            "one.example": {"MX": [(10, "mx.one.example")]},
            "mx.one.example": {"A": ["192.0.2.1"]},
            "dead.example": {"A": ["192.0.2.9"]},
            "null.example": {"MX": [(0, "")]},
        }
    )
    names = ["bad@one.example", "a@dead.example", "a@null.example", "good@one.example"]
    async with memory_network({"192.0.2.1": Refusing()}):
        result = await send(MESSAGE, sender=ME, recipients=names, resolver=resolver)
    statuses = report_statuses(result)

    assert [(each.recipient, each.action, each.status, each.remote_mta) for each in statuses] == [
        ("bad@one.example", "failed", "5.1.1", "mx.one.example"),
        ("a@dead.example", "delayed", "4.4.1", None),
        ("a@null.example", "failed", "5.1.10", None),
    ]


@pytest.mark.parametrize("kind", [Maildir, SQLite])
async def test_stored_message(kind: type[Maildir | SQLite], tmp_path: FilePath) -> None:
    store = kind(tmp_path / "store")
    async with memory_network({"mx.test": Server(store, extensions=standard(Dsn()))}):
        async with smtp_trio.connect("mx.test") as client:
            params: dict[str, Any] = {
                "ret": "HDRS",
                "envid": "x y",
                "notify": ("SUCCESS",),
                "orcpt": "rfc822;A+b@mx.test",
            }
            result = await client.send(ME, [YOU], MESSAGE, **params)
    stored: Stored
    if isinstance(store, SQLite):
        stored = read(store.path, result.accepted[0].reply.text.split()[-1])
    else:
        [file] = (tmp_path / "store" / "new").iterdir()
        stored = read(file)
    original = Original.from_stored(stored)
    report = build_report(original, [RecipientStatus(YOU, "delivered", "2.1.5")], reporting_mta="mx.test")

    assert report is not None
    assert original.rcpt_params[YOU].get(NOTIFY) == frozenset({"SUCCESS"})
    assert fields(report)[0][0] == ("Original-Envelope-Id", "x y")
    assert fields(report)[1][0] == ("Original-Recipient", "rfc822; A+b@mx.test")
    with pytest.raises(TypeError, match="stored"):
        Original.from_stored(MESSAGE)  # type: ignore[arg-type]
