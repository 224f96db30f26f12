"""Parameters of an envelope that is passed on which depend on time, on the other parameters or on the recipient."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from scripted import GO_AHEAD, ME, MESSAGE, OK, READ_BODY, YOU, Step, hello, scripted
from trio.testing import MockClock

from smtp_trio import AllRecipientsRejectedError, NotOfferedError, Rejected, ReplyError
from smtp_trio.dsn import Original, build_report, report_statuses
from smtp_trio.protocol import Mail, Params, Rcpt
from smtp_trio.protocol.extensions.deliverby import BY, ByTime
from smtp_trio.protocol.extensions.dsn import ENVID, NOTIFY, ORCPT, RET
from smtp_trio.protocol.extensions.mtrk import MTRK, Tracking
from smtp_trio.protocol.extensions.requiretls import REQUIRETLS
from smtp_trio.protocol.extensions.rrvs import RRVS
from smtp_trio.protocol.params import parse_params

BODY: tuple[Step, ...] = ("DATA", GO_AHEAD, READ_BODY, OK)
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
UTF8_MESSAGE = "Subject: \u00e9\r\n\r\nhello\r\n".encode()


def clock(seconds: float) -> Callable[[], datetime]:
    return lambda: NOON + timedelta(seconds=seconds)


# --- DSN: what cannot be written is left out --------------------------------------------------------------------------

#: More than 500 octets in ASCII (RFC 6533 3), and fewer in UTF-8.
LONG = f"utf-8;{chr(0xE9) * 206}@mx.test"


async def test_utf8_orcpt_is_ascii_if_that_is_short_enough(autojump_clock: MockClock) -> None:
    steps = ("MAIL FROM:<.*>", OK, r"RCPT TO:<you@mx\.test> ORCPT=utf-8;\\x\{E9\}@mx\.test", OK, *BODY)
    async with scripted(*hello("DSN"), *steps) as script, script.client() as client:
        await client.send(ME, [YOU], MESSAGE, rcpt_params={YOU: Params({ORCPT: "utf-8;\u00e9@mx.test"})})


@pytest.mark.parametrize("offers", [("DSN",), ("DSN", "SMTPUTF8", "8BITMIME")], ids=["not offered", "not in use"])
@pytest.mark.parametrize("named", [False, True])
async def test_long_utf8_orcpt_is_left_out_without_smtputf8(
    autojump_clock: MockClock, offers: tuple[str, ...], named: bool
) -> None:
    """The other parameters of the recipient, and those of the other recipients, are sent."""
    second = "ORCPT=.*" if named else "ORCPT=rfc822;b@mx.test"
    steps: tuple[Step, ...] = (
        *("MAIL FROM:<[^ ]*> RET=HDRS ENVID=x", OK, "RCPT TO:<you@mx.test> NOTIFY=DELAY", OK),
        *("RCPT TO:<b@mx.test> NOTIFY=NEVER" if named else f"RCPT TO:<b@mx.test> {second}", OK, *BODY),
    )
    given: dict[str, Any] = {"rcpt_params": {YOU: Params({NOTIFY: frozenset({"DELAY"}), ORCPT: LONG})}}
    if named:
        given = {"orcpt": LONG, "rcpt_params": {YOU: Params({NOTIFY: frozenset({"DELAY"})}),
                                               "b@mx.test": Params({NOTIFY: frozenset({"NEVER"})})}}  # fmt: skip
    else:
        given["rcpt_params"]["b@mx.test"] = Params({ORCPT: "rfc822;b@mx.test"})
    async with scripted(*hello(*offers), *steps) as script, script.client() as client:
        result = await client.send(
            ME, [YOU, "b@mx.test"], MESSAGE, mail_params=Params({RET: "HDRS", ENVID: "x"}), **given
        )
    assert result.complete


async def test_long_utf8_orcpt_is_sent_in_a_transaction_with_smtputf8(autojump_clock: MockClock) -> None:
    steps = ("MAIL FROM:<.*> .*SMTPUTF8.*", OK, f"RCPT TO:<you@mx.test> ORCPT={LONG}", OK, *BODY)
    async with scripted(*hello("DSN", "SMTPUTF8", "8BITMIME"), *steps) as script, script.client() as client:
        await client.send(ME, [YOU], UTF8_MESSAGE, rcpt_params={YOU: Params({ORCPT: LONG})})


@pytest.mark.parametrize(
    ("mail", "rcpt"),
    [
        (Params({ENVID: "x" * 100}), Params({ORCPT: "rfc822;" + "=" * 164 + "x"})),  # as long as they may be
        (Params({ENVID: "+" * 33 + "x"}), Params({NOTIFY: frozenset({"SUCCESS", "FAILURE", "DELAY"})})),
    ],
    ids=["long", "many"],
)
async def test_longest_values_are_sent(autojump_clock: MockClock, mail: Params, rcpt: Params) -> None:
    async with scripted(*hello("DSN"), "MAIL .*", OK, "RCPT .*", OK, *BODY) as script, script.client() as client:
        await client.send(ME, [YOU], MESSAGE, mail_params=mail, rcpt_params={YOU: rcpt})
    assert script.lines[1].endswith(f" {mail.encode()}")
    assert script.lines[2].endswith(f" {rcpt.encode()}")


@pytest.mark.parametrize(
    ("mail", "rcpt"),
    [
        (Params({ENVID: "x" * 101}), Params({ORCPT: "rfc822;" + "=" * 165})),
        (Params({ENVID: "+" * 34}), Params({ORCPT: "rfc822;" + "x" * 494})),
        (Params({ENVID: "\u00e9"}), Params({ORCPT: "rfc822;a\n@mx.test"})),
        (Params({RET: "HEADER"}), Params({NOTIFY: frozenset({"NEVER", "DELAY"})})),
    ],
    ids=["too long", "too long in xtext", "not printable", "invalid"],
)
async def test_value_that_no_server_accepts_is_left_out(autojump_clock: MockClock, mail: Params, rcpt: Params) -> None:
    steps = ("MAIL FROM:<me@client.test>", OK, "RCPT TO:<you@mx.test>", OK, *BODY)
    async with scripted(*hello("DSN"), *steps) as script, script.client() as client:
        assert (await client.send(ME, [YOU], MESSAGE, mail_params=mail, rcpt_params={YOU: rcpt})).complete


# --- RRVS: a condition of one recipient --------------------------------------------------------------------------------

RETURN = Params({RRVS: parse_params("RRVS=2024-05-01T12:00:00Z;R", {"RRVS": RRVS})[RRVS]})
CONTINUE = Params({RRVS: parse_params("RRVS=2024-05-01T12:00:00Z;C", {"RRVS": RRVS})[RRVS]})


async def test_recipient_whose_condition_cannot_be_passed_on_is_rejected(autojump_clock: MockClock) -> None:
    """RFC 7293 5.1.1. The others get the message, and so does one whose condition may be left out."""
    steps = ("MAIL .*", OK, "RCPT TO:<b@mx.test>", OK, "RCPT TO:<c@mx.test>", OK, *BODY)
    async with scripted(*hello(), *steps) as script, script.client() as client:
        names = [YOU, "b@mx.test", "c@mx.test"]
        result = await client.send(ME, names, MESSAGE, rcpt_params={YOU: RETURN, "b@mx.test": CONTINUE})
    assert [each.recipient for each in result.accepted] == ["b@mx.test", "c@mx.test"]
    (rejected,) = result.rejected
    assert (rejected.recipient, rejected.not_offered, rejected.permanent) == (YOU, True, True)
    assert (rejected.reply.code, rejected.reply.status) == (550, "5.7.19")
    assert isinstance(rejected.command, Rcpt)
    assert result.not_sent == ()


async def test_condition_is_passed_on_to_a_server_with_rrvs(autojump_clock: MockClock) -> None:
    rcpts = (
        "RCPT TO:<you@mx.test> RRVS=2024-05-01T12:00:00Z",
        OK,
        "RCPT TO:<b@mx.test> RRVS=2024-05-01T12:00:00Z;C",
        OK,
    )
    async with scripted(*hello("RRVS"), "MAIL .*", OK, *rcpts, *BODY) as script, script.client() as client:
        names = [YOU, "b@mx.test"]
        assert (await client.send(ME, names, MESSAGE, rcpt_params={YOU: RETURN, "b@mx.test": CONTINUE})).complete


async def test_message_is_not_sent_if_no_recipient_is_left(autojump_clock: MockClock) -> None:
    async with scripted(*hello()) as script, script.client() as client:
        with pytest.raises(NotOfferedError, match="RRVS") as caught:
            await client.send(ME, [YOU, "b@mx.test"], MESSAGE, rcpt_params={YOU: RETURN, "b@mx.test": RETURN})
    assert caught.value.status == "5.7.19"
    assert caught.value.result.not_sent == (YOU, "b@mx.test")


async def test_error_for_no_accepted_recipient_has_the_reply_of_the_server(autojump_clock: MockClock) -> None:
    steps = ("MAIL .*", OK, "RCPT TO:<b@mx.test>", b"450 4.2.1 later\r\n", "RSET", OK)
    async with scripted(*hello(), *steps) as script, script.client() as client:
        with pytest.raises(AllRecipientsRejectedError, match="later") as caught:
            await client.send(ME, [YOU, "b@mx.test"], MESSAGE, rcpt_params={YOU: RETURN})
    assert [each.not_offered for each in caught.value.result.rejected] == [True, False]
    assert caught.value.temporary


async def test_recipient_outside_ascii_is_rejected_without_smtputf8(autojump_clock: MockClock) -> None:
    """RFC 6531 3.2. The others get the message, also if one has a domain outside ASCII, and nothing is declared as UTF-8."""
    steps = ("MAIL FROM:<me@client.test>", OK, "RCPT TO:<b@xn--bcher-kva.test>", OK, *BODY)
    async with scripted(*hello(), *steps) as script, script.client() as client:
        result = await client.send(ME, ["j\u00f6rg@mx.test", "b@b\u00fccher.test"], MESSAGE)
        with pytest.raises(NotOfferedError, match="SMTPUTF8"):
            await client.send(ME, ["j\u00f6rg@mx.test"], MESSAGE)
    assert result.recipients == ("j\u00f6rg@mx.test", "b@b\u00fccher.test")
    assert [each.recipient for each in result.accepted] == ["b@b\u00fccher.test"]
    (rejected,) = result.rejected
    assert (rejected.not_offered, rejected.reply.code, rejected.reply.status) == (True, 554, "5.6.3")
    assert rejected.command.encode() == "RCPT TO:<j\u00f6rg@mx.test>"


async def test_send_many_rejects_one_recipient_and_goes_on(autojump_clock: MockClock) -> None:
    group = ("MAIL .*", "RCPT TO:<b@mx.test>", "DATA", OK * 2 + GO_AHEAD)
    steps: tuple[Step, ...] = (*group, READ_BODY, *group[:3], OK + OK * 2 + GO_AHEAD, READ_BODY, OK)
    async with scripted(*hello("PIPELINING"), *steps) as script, script.client() as client:
        items = [(ME, [YOU, "b@mx.test"], MESSAGE)] * 2
        results = await client.send_many(items, rcpt_params={YOU: RETURN})
    assert [[type(each) is Rejected for each in result.outcomes] for result in results] == [[True, False]] * 2


# --- DELIVERBY and MTRK: the time that has passed ----------------------------------------------------------------------

CERTIFIER = b"x" * 20
CERTIFIER_TEXT = "eHh4eHh4eHh4eHh4eHh4eHh4eHg"


@pytest.mark.parametrize(
    ("params", "kept", "mail"),
    [
        ({BY: ByTime(120, "R")}, 22.9, "BY=98;R"),
        ({BY: ByTime(120, "R", trace=True)}, 119, "BY=1;RT"),
        ({BY: ByTime(10, "N", trace=True)}, 40, "BY=-30;NT"),
        ({BY: ByTime(10, "N")}, 10, "BY=0;N"),
        ({BY: ByTime(10, "N")}, -5, "BY=10;N"),  # the clock was set back
        ({ENVID: "x", MTRK: Tracking(CERTIFIER, 60)}, 59, f"ENVID=x MTRK={CERTIFIER_TEXT}:1"),
        ({ENVID: "x", MTRK: Tracking(CERTIFIER, 60)}, 60, "ENVID=x"),  # RFC 3885 3.2: it must not be passed on
        ({ENVID: "x", MTRK: Tracking(CERTIFIER)}, 9999, f"ENVID=x MTRK={CERTIFIER_TEXT}"),
    ],
)
async def test_time_is_subtracted(autojump_clock: MockClock, params: dict[Any, Any], kept: float, mail: str) -> None:
    steps = (f"MAIL FROM:<me@client.test> {mail}", OK, "RCPT .*", OK, *BODY)
    async with scripted(*hello("DSN", "DELIVERBY", "MTRK"), *steps) as script, script.client() as client:
        await client.send(ME, [YOU], MESSAGE, mail_params=Params(params), received=NOON, now=clock(kept))


async def test_time_is_that_of_the_system_by_default(autojump_clock: MockClock) -> None:
    received = datetime.now(UTC) - timedelta(days=1)
    async with scripted(*hello("DELIVERBY"), "MAIL .*", OK, "RCPT .*", OK, *BODY) as script, script.client() as client:
        await client.send(ME, [YOU], MESSAGE, mail_params=Params({BY: ByTime(0, "N")}), received=received)
    seconds = int(script.lines[1].partition(" BY=")[2].removesuffix(";N"))
    assert -86400 - 3600 < seconds <= -86400


async def test_values_are_unchanged_without_a_time(autojump_clock: MockClock) -> None:
    steps = ("MAIL FROM:<.*> BY=120;R", OK, "RCPT .*", OK, *BODY)
    async with scripted(*hello("DELIVERBY"), *steps) as script, script.client() as client:
        await client.send(ME, [YOU], MESSAGE, mail_params=Params({BY: ByTime(120, "R")}), now=clock(50))


@pytest.mark.parametrize("kept", [120, 121])
async def test_message_whose_time_is_over_is_not_sent(autojump_clock: MockClock, kept: int) -> None:
    """RFC 2852 4.1.3."""
    async with scripted(*hello("DELIVERBY")) as script, script.client() as client:
        with pytest.raises(ReplyError) as caught:
            await client.send(
                ME, [YOU], MESSAGE, mail_params=Params({BY: ByTime(120, "R")}), received=NOON, now=clock(kept)
            )
    assert (caught.value.reply.code, caught.value.reply.status) == (554, "5.4.7")
    assert (type(caught.value.command), caught.value.temporary) == (Mail, False)


async def test_time_below_the_minimum_of_the_server(autojump_clock: MockClock) -> None:
    """RFC 2852 4.1.4.1. It is the time that is left which counts."""
    steps = ("MAIL FROM:<.*> BY=60;R", OK, "RCPT .*", OK, *BODY)
    by = Params({BY: ByTime(120, "R")})
    async with scripted(*hello("DELIVERBY 60"), *steps) as script, script.client() as client:
        await client.send(ME, [YOU], MESSAGE, mail_params=by, received=NOON, now=clock(60))
        with pytest.raises(NotOfferedError, match="60 seconds") as caught:
            await client.send(ME, [YOU], MESSAGE, mail_params=by, received=NOON, now=clock(61))
    assert caught.value.status == "5.4.7"


NAMES = [YOU, "b@mx.test", "c@mx.test", "d@mx.test"]
WANTED = {
    "b@mx.test": Params({NOTIFY: frozenset({"NEVER"})}),
    "c@mx.test": Params({NOTIFY: frozenset({"FAILURE"})}),
    "d@mx.test": Params({NOTIFY: frozenset({"SUCCESS"})}),
}


@pytest.mark.parametrize(
    ("offers", "by", "notify", "relayed"),
    [
        # RFC 2852 4.1.4.2: the server does not know the time, so delays are notified by DSN, and the relay is reported.
        (["DSN"], ByTime(9, "N"), ["FAILURE,DELAY", "NEVER", "FAILURE,DELAY", "SUCCESS,DELAY"], [0, 2, 3]),
        ([], ByTime(9, "N"), [""] * 4, [0, 2, 3]),
        (["DSN"], ByTime(5, "N"), ["", "NEVER", "FAILURE", "SUCCESS"], []),  # the time is over
        ([], ByTime(5, "N"), [""] * 4, [3]),  # only the report of RFC 3461 5.2.2
        (["DSN", "DELIVERBY"], ByTime(9, "N"), ["", "NEVER", "FAILURE", "SUCCESS"], []),
        # RFC 2852 4.1.4: each relay is reported.
        (["DSN", "DELIVERBY"], ByTime(9, "R", trace=True), ["", "NEVER", "FAILURE", "SUCCESS"], [0, 2, 3]),
        (["DELIVERBY"], ByTime(-9, "N", trace=True), [""] * 4, [0, 2, 3]),
        (["DSN", "DELIVERBY"], ByTime(9, "R"), ["", "NEVER", "FAILURE", "SUCCESS"], []),
    ],
)
async def test_recipients_for_which_the_relay_is_reported(
    autojump_clock: MockClock, offers: list[str], by: ByTime, notify: list[str], relayed: list[int]
) -> None:
    rcpts = [
        f"RCPT TO:<{name}>" + (f" NOTIFY={text}" if text else "") for name, text in zip(NAMES, notify, strict=True)
    ]
    steps: list[Step] = ["MAIL .*", OK, *(step for line in rcpts for step in (line, OK)), *BODY]
    async with scripted(*hello(*offers), *steps) as script, script.client() as client:
        result = await client.send(
            *(ME, NAMES, MESSAGE), mail_params=Params({BY: by}), rcpt_params=WANTED, received=NOON, now=clock(5)
        )
    assert result.relayed_without_dsn == tuple(NAMES[number] for number in relayed)
    original = Original(sender=ME, message=MESSAGE, mail_params=Params({BY: by}), rcpt_params=WANTED, arrived=NOON)
    report = build_report(original, report_statuses(result), reporting_mta="mx.test")
    reported = () if report is None else report.statuses
    assert tuple(each.recipient for each in reported if each.action == "relayed") == result.relayed_without_dsn
    if report is not None:
        date = NOON + timedelta(seconds=by.seconds)
        assert f"Deliver-By-Date: {format_datetime(date)}\r\n".encode() in report.message


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"received": 5}, TypeError), ({"received": NOON, "now": 5}, TypeError),
        ({"received": datetime(2026, 11, 28)}, ValueError),
    ],
)  # fmt: skip
async def test_invalid_times(autojump_clock: MockClock, params: dict[str, Any], error: type[Exception]) -> None:
    async with scripted(*hello()) as script, script.client() as client:
        with pytest.raises(error, match=r"^(received|now) must"):
            await client.send(ME, [YOU], MESSAGE, **params)


# --- parameters that depend on others, or on the sender ----------------------------------------------------------------


@pytest.mark.parametrize("offers", [("MTRK",), ("DSN",)], ids=["mtrk", "dsn"])
async def test_mtrk_is_not_sent_without_envid(autojump_clock: MockClock, offers: tuple[str, ...]) -> None:
    """RFC 3885 3.2 and 3.3."""
    mail = " ENVID=x" if "DSN" in offers else ""
    steps = (f"MAIL FROM:<me@client.test>{mail}", OK, "RCPT .*", OK, *BODY)
    params = Params({ENVID: "x", MTRK: Tracking(CERTIFIER)})
    async with scripted(*hello(*offers), *steps) as script, script.client() as client:
        await client.send(ME, [YOU], MESSAGE, mail_params=params)


async def test_envid_that_is_named_is_enough_for_mtrk(autojump_clock: MockClock) -> None:
    steps = (f"MAIL FROM:<.*> MTRK={CERTIFIER_TEXT} ENVID=y", OK, "RCPT .*", OK, *BODY)
    async with scripted(*hello("MTRK", "DSN"), *steps) as script, script.client() as client:
        await client.send(ME, [YOU], MESSAGE, mail_params=Params({MTRK: Tracking(CERTIFIER)}), envid="y")


@pytest.mark.parametrize("offers", [(), ("REQUIRETLS",)])
async def test_requiretls_without_tls(autojump_clock: MockClock, offers: tuple[str, ...]) -> None:
    """RFC 8689 4.2.1: 5.7.10, and 5.7.30 only for a server that is known and does not support it."""
    params = Params({REQUIRETLS: True})
    async with scripted(*hello(*offers), "MAIL FROM:<>", OK, "RCPT .*", OK, *BODY) as script, script.client() as client:
        with pytest.raises(NotOfferedError, match="REQUIRETLS needs TLS") as caught:
            await client.send(ME, [YOU], MESSAGE, mail_params=params)
        assert caught.value.status == "5.7.10"
        with pytest.raises(NotOfferedError, match="REQUIRETLS needs TLS"):
            await client.send("", [YOU], MESSAGE, requiretls=True)
        await client.send("", [YOU], MESSAGE, mail_params=params)  # RFC 8689 5: a notification is sent without it
