"""Reports of delivery (RFC 3461 6, RFC 3464): who gets one, and what it has."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone
from email.message import Message
from typing import Any

import pytest

from smtp_trio.dsn import Action, Original, RecipientStatus, build_report, is_requested
from smtp_trio.dsn._returned import transfer_encoding
from smtp_trio.protocol import Param, Params
from smtp_trio.protocol.extensions.dsn import ENVID, NOTIFY, ORCPT, RET
from smtp_trio.protocol.extensions.eightbitmime import BODY
from smtp_trio.protocol.extensions.futurerelease import HOLDFOR, HOLDUNTIL

from .reports import ME, MESSAGE, YOU, build, failed, fields, notify, original, parse, parts, status, types

# --- who gets one -----------------------------------------------------------------------------------------------------

ACTIONS: tuple[Action, ...] = ("failed", "delayed", "delivered", "relayed", "expanded")
#: RFC 3461 5.2.3, 5.2.5, 5.2.6 and 5.2.2: the actions that are reported.
REPORTED: list[tuple[Params, set[Action]]] = [
    (Params(), {"failed", "delayed"}),
    (notify("NEVER"), set()),
    (notify("FAILURE"), {"failed"}),
    (notify("DELAY"), {"delayed"}),
    (notify("SUCCESS"), {"delivered", "relayed", "expanded"}),
    (notify("FAILURE", "DELAY"), {"failed", "delayed"}),
    (notify("SUCCESS", "FAILURE", "DELAY"), set(ACTIONS)),
]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(("params", "reported"), REPORTED, ids=[params.encode() or "none" for params, _ in REPORTED])
def test_notify_decides_what_is_reported(params: Params, reported: set[Action], action: Action) -> None:
    about = original(rcpt_params={YOU: params})
    report = build_report(about, [status(action)], reporting_mta="mx.test")

    assert (report is not None) == is_requested(action, params) == (action in reported)


def test_report_has_only_the_recipients_of_which_the_sender_wants_to_know() -> None:
    """RFC 3461 5.2.8."""
    about = original(rcpt_params={"a@mx.test": notify("NEVER"), "b@mx.test": notify("FAILURE"), "c@mx.test": Params()})
    statuses = [failed(name) for name in ("a@mx.test", "b@mx.test", "c@mx.test")]
    report = build(about, *statuses)

    assert report.statuses == tuple(statuses[1:])
    assert [dict(group)["Final-Recipient"] for group in fields(report)[1:]] == [
        "rfc822; b@mx.test",
        "rfc822; c@mx.test",
    ]
    assert b"a@mx.test" not in report.message


@pytest.mark.parametrize("action", ACTIONS)
def test_null_sender_never_gets_a_report(action: Action) -> None:
    about = original(sender="", rcpt_params={YOU: notify("SUCCESS", "FAILURE", "DELAY")})
    assert build_report(about, [status(action)], reporting_mta="mx.test") is None


def test_nothing_to_report() -> None:
    assert build_report(original(), [], reporting_mta="mx.test") is None


# --- the examples of RFC 3461 10.6 to 10.9 ----------------------------------------------------------------------------

ALICE = "Alice@Example.ORG"
EXAMPLES: dict[str, tuple[str, RecipientStatus, Params, list[tuple[str, str]]]] = {
    "delivered": (
        "mail.Example.COM",
        RecipientStatus("Bob@Example.COM", "delivered", "2.0.0"),
        Params({NOTIFY: frozenset({"SUCCESS"}), ORCPT: "rfc822;Bob@Example.COM"}),
        [
            ("Original-Recipient", "rfc822; Bob@Example.COM"),
            ("Final-Recipient", "rfc822; Bob@Example.COM"),
            ("Action", "delivered"),
            ("Status", "2.0.0"),
        ],
    ),
    "failed": (
        "Example.ORG",
        RecipientStatus("Carol@Ivory.EDU", "failed", "5.0.0", "550 error - no such recipient", "Ivory.EDU"),
        Params({NOTIFY: frozenset({"FAILURE"}), ORCPT: "rfc822;Carol@Ivory.EDU"}),
        [
            ("Original-Recipient", "rfc822; Carol@Ivory.EDU"),
            ("Final-Recipient", "rfc822; Carol@Ivory.EDU"),
            ("Action", "failed"),
            ("Status", "5.0.0"),
            ("Remote-MTA", "dns; Ivory.EDU"),
            ("Diagnostic-Code", "smtp; 550 error - no such recipient"),
        ],
    ),
    "relayed": (
        "Ivory.EDU",
        RecipientStatus("Dana@Ivory.EDU", "relayed", "2.0.0"),
        Params({NOTIFY: frozenset({"SUCCESS", "FAILURE"}), ORCPT: "rfc822;Dana@Ivory.EDU"}),
        [
            ("Original-Recipient", "rfc822; Dana@Ivory.EDU"),
            ("Final-Recipient", "rfc822; Dana@Ivory.EDU"),
            ("Action", "relayed"),
            ("Status", "2.0.0"),
        ],
    ),
    "forwarded": (
        "Boondoggle.GOV",
        RecipientStatus(
            "George@Tax-ME.GOV", "failed", "4.2.2", "disk quota exceeded", final_recipient="Sam@Boondoggle.GOV"
        ),
        Params({NOTIFY: frozenset({"FAILURE"}), ORCPT: "rfc822;George@Tax-ME.GOV"}),
        [
            ("Original-Recipient", "rfc822; George@Tax-ME.GOV"),
            ("Final-Recipient", "rfc822; Sam@Boondoggle.GOV"),
            ("Action", "failed"),
            ("Status", "4.2.2"),
            ("Diagnostic-Code", "x-smtp-trio; disk quota exceeded"),
        ],
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_rfc_3461(name: str) -> None:
    mta, about, rcpt_params, expected = EXAMPLES[name]
    message = original(
        sender=ALICE, mail=Params({RET: "HDRS", ENVID: "QQ314159"}), rcpt_params={about.recipient: rcpt_params}
    )
    report = build(message, about, reporting_mta=mta)
    parsed = parse(report)

    assert (report.recipient, parsed["To"], parsed["From"]) == (
        ALICE,
        ALICE,
        f"Mail Delivery System <MAILER-DAEMON@{mta}>",
    )
    assert fields(report) == [[("Original-Envelope-Id", "QQ314159"), ("Reporting-MTA", f"dns; {mta}")], expected]
    assert types(report) == ["text/plain", "message/delivery-status", "text/rfc822-headers"]
    text = parts(report)[0].get_payload()
    assert "QQ314159" in str(text)
    assert about.recipient in str(text)


def test_dates_and_delay() -> None:
    zone = timezone(timedelta(hours=-5))
    arrived = datetime(2026, 11, 28, 9, 0, tzinfo=zone)
    about = original(arrived=arrived)
    delayed = RecipientStatus(
        YOU,
        "delayed",
        "4.4.1",
        "451 4.4.1 no answer",
        last_attempt=datetime(2026, 11, 28, 18, 0, tzinfo=UTC),
        will_retry_until=datetime(2026, 12, 3, 9, 0, tzinfo=zone),
    )
    report = build(about, delayed, now=datetime(2026, 11, 28, 19, 0, tzinfo=UTC), from_address="postmaster@mx.test")

    parsed = parse(report)
    assert (parsed["Date"], parsed["Subject"]) == ("Sat, 28 Nov 2026 19:00:00 +0000", "Delivery delayed")
    assert parsed["From"] == "Mail Delivery System <postmaster@mx.test>"
    assert (parsed["In-Reply-To"], parsed["References"]) == ("<1@client.test>", "<1@client.test>")
    assert fields(report) == [
        [("Reporting-MTA", "dns; mx.test"), ("Arrival-Date", "Sat, 28 Nov 2026 09:00:00 -0500")],
        [
            ("Final-Recipient", f"rfc822; {YOU}"),
            ("Action", "delayed"),
            ("Status", "4.4.1"),
            ("Diagnostic-Code", "smtp; 451 4.4.1 no answer"),
            ("Last-Attempt-Date", "Sat, 28 Nov 2026 18:00:00 +0000"),
            ("Will-Retry-Until", "Thu, 03 Dec 2026 09:00:00 -0500"),
        ],
    ]
    assert "2026-12-03 09:00 -0500" in str(parts(report)[0].get_payload())


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("mx.test", "dns; mx.test"),
        ("[192.0.2.1]", "dns; [192.0.2.1]"),
        ("localhost", "x-local-hostname; localhost"),
    ],
)
def test_name_that_is_not_a_domain_has_another_type(name: str, field: str) -> None:
    """RFC 3461 6.3 (b)."""
    assert fields(build(original(), failed(), reporting_mta=name))[0] == [("Reporting-MTA", field)]


def test_most_important_action_is_the_subject() -> None:
    about = original(rcpt_params={"a@mx.test": notify("SUCCESS"), "b@mx.test": notify("SUCCESS")})
    statuses = (status("expanded", "a@mx.test"), status("relayed", "b@mx.test"))
    assert parse(build(about, *statuses))["Subject"] == "Delivery successful"
    assert parse(build(about, *statuses, failed("c@mx.test")))["Subject"] == "Delivery failure"


# --- the original -----------------------------------------------------------------------------------------------------

HEADER = b"Subject: x\r\nX: \r\n"
BIG = HEADER + b"\r\n" + b"x" * 70 + b"\r\n"
EIGHT = HEADER + b"\r\nh\xfc\r\n"
BINARY = HEADER + b"\r\n\0\r\n"
REQUIRETLS: Param[bool] = Param("REQUIRETLS", lambda _: True, lambda _: None)


@pytest.mark.parametrize(
    ("ret", "action", "full"),
    [
        ("FULL", "failed", True),
        ("HDRS", "failed", False),
        (None, "failed", True),
        ("FULL", "delayed", False),  # RFC 3461 6.2
        ("FULL", "delivered", False),
    ],
)
def test_ret(ret: str | None, action: Action, full: bool) -> None:
    about = original(
        BIG, mail=Params({RET: ret} if ret else {}), rcpt_params={YOU: notify("FAILURE", "DELAY", "SUCCESS")}
    )
    report = build(about, status(action))

    assert types(report)[2] == ("message/rfc822" if full else "text/rfc822-headers")
    assert report.message.count(BIG if full else HEADER) == 1
    assert (b"xxx" in report.message) == full


def content(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload


@pytest.mark.parametrize("limit", [0, 5, 12, 17, 18, len(BIG) - 1, len(BIG)])
def test_limit_of_what_is_returned(limit: int) -> None:
    report = build(original(BIG), failed(), max_returned=limit)
    if limit == len(BIG):
        assert types(report)[2] == "message/rfc822"
    else:
        assert types(report)[2] == "text/rfc822-headers"
        assert content(parts(report)[2]) == (HEADER if limit >= 17 else b"Subject: x\r\n" if limit >= 12 else b"")


@pytest.mark.parametrize(
    ("message", "offers", "kind", "encoding", "returned"),
    [
        (EIGHT, ("8BITMIME",), "message/rfc822", "8bit", EIGHT),
        (EIGHT, (), "text/rfc822-headers", "7bit", HEADER),
        (BINARY, ("8BITMIME", "BINARYMIME"), "message/rfc822", "binary", BINARY),
        (BINARY, ("8BITMIME",), "text/rfc822-headers", "7bit", HEADER),
        (HEADER + b"\r\n" + b"x" * 999, (), "text/rfc822-headers", "7bit", HEADER),
        (HEADER + b"\r\n\n", ("8BITMIME",), "text/rfc822-headers", "7bit", HEADER),
    ],
    ids=["8bit", "no-8bitmime", "binary", "no-binarymime", "long-line", "bare-lf"],
)
def test_octets_are_returned_as_they_were(
    message: bytes, offers: tuple[str, ...], kind: str, encoding: str, returned: bytes
) -> None:
    report = build(original(message), failed(), offers=offers)

    assert report.message.endswith(
        f"Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode()
        + returned
        + report.message[-40:]
    )
    assert (report.mail_params.get(BODY) == "BINARYMIME") == (encoding == "binary")
    assert parse(report)["Content-Transfer-Encoding"] == encoding


@pytest.mark.parametrize(
    "header", [b"Subject: \xff\r\n", b"Subject: " + b"x" * 999 + b"\r\n"], ids=["not-utf8", "long"]
)
def test_header_that_is_not_text_is_encoded(header: bytes) -> None:
    report = build(original(header + b"\r\n\0"), failed())

    assert types(report)[2] == "text/rfc822-headers"
    assert report.message.isascii()
    assert content(parts(report)[2]) == header


@pytest.mark.parametrize(
    ("param", "value", "field"),
    [(HOLDFOR, 3600, "for;3600"), (HOLDUNTIL, 1893456000, "until;2030-01-01T00:00:00Z")],
)
def test_report_of_a_message_that_was_held(param: Param[int], value: int, field: str) -> None:
    """RFC 4865 5.1.2 (2)."""
    report = build(original(mail=Params({param: value})), failed())
    assert dict(fields(report)[0])["Future-Release-Request"] == field
    assert "Future-Release-Request" not in dict(fields(build(original(), failed()))[0])


def test_report_of_a_message_with_requiretls() -> None:
    """RFC 8689 5: its text is not returned, and the report requires TLS as well."""
    report = build(original(BIG, mail=Params({REQUIRETLS: True, RET: "FULL"})), failed())

    assert types(report)[2] == "text/rfc822-headers"
    assert report.mail_params == Params({REQUIRETLS: True})


# --- values from outside ----------------------------------------------------------------------------------------------

BREAKS = ["\r\n", "\n", "\r", "\0", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\ud800", "\r\n\r\n"]


@pytest.mark.parametrize("line_break", BREAKS, ids=ascii)
@pytest.mark.parametrize("offers", [(), ("8BITMIME", "SMTPUTF8")], ids=["ascii", "utf8"])
def test_no_value_can_add_a_field_or_a_part(line_break: str, offers: tuple[str, ...]) -> None:
    evil = f"x{line_break}Action: delivered{line_break}--x"
    about = Original(
        sender=f"me@client.test{evil}",
        message=MESSAGE,
        mail_params=Params({ENVID: evil}),
        rcpt_params={evil: Params({ORCPT: f"rfc822{line_break};{evil}"})},
    )
    one = RecipientStatus(evil, "failed", "5.1.1", f"550 {evil}", f"h.{evil}", final_recipient=f"ü{evil}")
    report = build(about, one, reporting_mta=f"mx.test{evil}", from_address=f"a@b{evil}", offers=offers)

    assert parse(report).keys() == [
        *("From", "To", "Subject", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted"),
        *("MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
    ]
    assert [[name for name, _ in group] for group in fields(report)] == [
        ["Original-Envelope-Id", "Reporting-MTA"],
        ["Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code"],
    ]
    assert dict(fields(report)[1])["Action"] == "failed"
    head = report.message[: report.message.rindex(b"Content-Type: message/rfc822")]
    assert not [octet for octet in head.replace(b"\r\n", b"") if octet < 32]


@pytest.mark.parametrize("word", ["x" * 5000, "x " * 2500, "用" * 3000, "550-" + "y" * 600 + "\r\n550 z"], ids=range(4))
def test_long_values_are_folded(word: str) -> None:
    one = RecipientStatus(word, "failed", "5.1.1", "550 " + word, "mx." + word)
    report = build(
        original(rcpt_params={word: Params({ORCPT: "rfc822;" + "o" * 490})}), one, offers=("8BITMIME", "SMTPUTF8")
    )
    parse(report)  # checks the length of lines
    assert dict(fields(report)[1])["Action"] == "failed"
    assert len(dict(fields(report)[1])["Diagnostic-Code"]) <= 1100


#: What a header field of a report has of an address.
ADDRESSES = {
    " ": '""',
    " " * 300: '""',
    "\r\n\t": '""',
    " a@mx.test \t": "a@mx.test",
    '" a"@mx.test': '" a"@mx.test',
    f'"{" " * 60}a{" " * 60}"@mx.test': f'"{" " * 60}a{" " * 60}"@mx.test',
    f'"{" " * 5000}a"@mx.test': f'"{" " * 64}a"@mx.test',
    f'"{" a" * 300}"@mx.test': f'"{" a" * 300}"@mx.test',
    "l" * 64 + "@" + "d." * 95 + "test": "l" * 64 + "@" + "d." * 95 + "test",
    "x" * 900: "x" * 900,
    "x" * 100_000: "x" * 900 + " " + "x" * 100,
    "a b@mx.test": "a b@mx.test",
}


@pytest.mark.parametrize("address", ADDRESSES, ids=range(12))
@pytest.mark.parametrize("place", ["recipient", "final_recipient", "orcpt"])
@pytest.mark.parametrize("utf8", [True, False])
def test_unusual_addresses(address: str, place: str, utf8: bool) -> None:
    """They are not changed if a line can have them, and no line of a report consists of spaces."""
    shown = ADDRESSES[address]
    one = (
        failed(address)
        if place == "recipient"
        else failed(final_recipient=address if place == "final_recipient" else None)
    )
    params = {YOU: Params({ORCPT: f"rfc822;{address}"})} if place == "orcpt" else {}
    report = build(original(rcpt_params=params), one, offers=("8BITMIME", "SMTPUTF8") if utf8 else ())

    parse(report)
    assert not [line for line in report.message.split(b"\r\n") if line and not line.strip()]
    [found] = fields(report)[1:]
    names = ["Original-Recipient"] * (place == "orcpt") + ["Final-Recipient", "Action", "Status"]
    assert [name for name, _ in found] == names
    if place == "orcpt" and len(address) > 1000:  # its type is a part of what is shown
        assert unfold(found[0][1]).startswith(f"rfc822; {shown[:60]}")
    else:
        assert unfold(found[0][1]) == f"rfc822; {shown}"


def unfold(value: str) -> str:
    """Return the value of a field that `email` has not unfolded (RFC 5322 2.2.3)."""
    return value.replace("\r\n", "")


@pytest.mark.parametrize("sender", ["x" * 901, "用" * 400 + "@x.test"])
def test_long_sender(sender: str) -> None:
    report = build(original(sender=sender), failed())
    assert report.recipient == sender
    assert parse(report)["To"] == "undisclosed-recipients:;"


@pytest.mark.parametrize("sender", ["", " ", "\r\n", "<>"])
def test_sender_that_is_nobody(sender: str) -> None:
    assert build_report(original(sender=sender), [failed()], reporting_mta="mx.test") is None


@pytest.mark.parametrize("name", ["", " ", "x" * 2000, "a b", "\r\n"])
def test_unusual_names_of_servers(name: str) -> None:
    report = build(original(), failed(remote_mta=name), reporting_mta=name)
    assert parse(report)["Message-ID"]
    assert [each for each, _ in fields(report)[0]] == ["Reporting-MTA"]
    assert dict(fields(report)[1])["Action"] == "failed"


@pytest.mark.parametrize(
    ("diagnostic", "kind"),
    [
        ("550 no", "smtp"),
        ("550", "smtp"),
        ("\u0665\u0665\u0660 no", "x-smtp-trio"),
        ("5500 no", "x-smtp-trio"),
        ("999 no", "x-smtp-trio"),
    ],
)
def test_type_of_the_diagnostic(diagnostic: str, kind: str) -> None:
    report = build(original(), failed(diagnostic=diagnostic), offers=("8BITMIME", "SMTPUTF8"))
    assert dict(fields(report)[1])["Diagnostic-Code"] == f"{kind}; {diagnostic}"


def test_text_in_utf8_is_encoded() -> None:
    report = build(original(), failed("a@mx.test", diagnostic="550 5.1.1 \u7528\u6237 = " * 20))
    text = parts(report)[0]
    assert (text["Content-Transfer-Encoding"], text.get_content_charset()) == ("quoted-printable", "utf-8")
    content = text.get_payload(decode=True)
    assert isinstance(content, bytes)
    assert "<a@mx.test>: 550 5.1.1 \u7528\u6237 = 550 5.1.1" in content.decode()
    assert max(map(len, content.decode().split("\r\n"))) <= 76
    assert report.message[: report.message.index(b"message/")].isascii()


def test_diagnostic_of_100_000_octets() -> None:
    for text in ("550 " + "x" * 100_000, "550 " + "用 " * 33_000, "550-a\r\n" * 14_000, "\r\n" * 50_000):
        report = build(original(), failed(diagnostic=text), offers=("8BITMIME", "SMTPUTF8"))
        parse(report)
        assert len(report.message) < 12_000
        assert dict(fields(report)[1])["Action"] == "failed"


@pytest.mark.parametrize("line", [998, 999, 60_000])
def test_long_lines_of_the_header(line: int) -> None:
    header = b"".join(b"X-%02d: " % number + b"y" * (line - 6) + b"\r\n" for number in range(60_000 // line))
    assert transfer_encoding(header) == ("7bit" if line == 998 else "binary")
    parse(build(original(header + b"\r\nx\r\n"), failed(), max_returned=1 << 20))


@pytest.mark.parametrize("value", [b"<a b>", b"<a>b", b"a@b", b"<>", b"<\xff@b>", b"<" + b"x" * 300 + b">", b"<a@b\0>"])
def test_message_id_that_is_not_plain_is_left_out(value: bytes) -> None:
    report = build(original(b"Message-ID: " + value + b"\r\n\r\n"), failed())
    assert "In-Reply-To" not in parse(report)


def test_message_id_of_the_text_is_not_taken() -> None:
    report = build(original(b"Subject: x\r\n\r\nMessage-ID: <a@b>\r\n"), failed())
    assert "In-Reply-To" not in parse(report)


# --- international mail -----------------------------------------------------------------------------------------------

UTF8 = "From: jürgen@bücher.test\r\nSubject: hü\r\n\r\nhallo ü\r\n".encode()
USER = "用+户@例子.test"


@pytest.mark.parametrize("full", [True, False])
def test_report_in_utf8(full: bool) -> None:
    """RFC 6533 4.1 to 4.3."""
    mail = Params({RET: "FULL" if full else "HDRS"})
    about = original(UTF8, "jürgen@bücher.test", mail, rcpt_params={USER: Params({ORCPT: f"utf-8;{USER}"})})
    report = build(about, failed(USER, diagnostic="550 5.1.1 用户 unbekannt", remote_mta="mx.test"))

    assert types(report)[1:] == [
        "message/global-delivery-status",
        "message/global" if full else "message/global-headers",
    ]
    assert report.mail_params.encode() == "SMTPUTF8"
    assert "To: <jürgen@bücher.test>\r\n".encode() in report.message
    assert (UTF8 if full else UTF8.partition(b"\r\n\r\n")[0]) in report.message
    start = report.message.index(b"Original-Recipient")
    assert report.message[start:].startswith(
        f"Original-Recipient: utf-8; {USER}\r\nFinal-Recipient: utf-8; {USER}\r\nAction: failed\r\nStatus: 5.1.1\r\n"
        "Remote-MTA: dns; mx.test\r\nDiagnostic-Code: smtp; 550 5.1.1 用户 unbekannt\r\n".encode()
    )


@pytest.mark.parametrize(
    ("orcpt", "shown"), [("é", '?; ""'), ("x-é;a@mx.test", "x-?; a@mx.test"), ("é;é", r"?; \x{E9}")]
)
def test_type_of_an_address_is_ascii(orcpt: str, shown: str) -> None:
    """A client cannot send another one, but an application can set the parameter."""
    about = original(rcpt_params={YOU: Params({ORCPT: orcpt})})
    report = build(about, failed(), offers=())
    assert report.message.isascii()
    assert fields(report)[1][0] == ("Original-Recipient", shown)


@pytest.mark.parametrize("full", [True, False])
def test_report_to_a_server_without_smtputf8(full: bool) -> None:
    """RFC 6533 3 and 4.5: addresses in ASCII, and the original encoded."""
    mail = Params({RET: "FULL" if full else "HDRS"})
    about = original(UTF8, mail=mail, rcpt_params={USER: Params({ORCPT: f"utf-8;{USER}"})})
    report = build(about, failed(USER, diagnostic="550 ü"), offers=("8BITMIME",))

    assert types(report)[1:] == ["message/delivery-status", "message/global" if full else "message/global-headers"]
    assert report.message.isascii()
    encoded = r"utf-8; \x{7528}\x{2B}\x{6237}@\x{4F8B}\x{5B50}.test"
    assert fields(report)[1][:2] == [("Original-Recipient", encoded), ("Final-Recipient", encoded)]
    assert dict(fields(report)[1])["Diagnostic-Code"] == "smtp; 550 ?"
    assert "From: jürgen" in base64_content(report.message)


def base64_content(message: bytes) -> str:
    encoded = message.rpartition(b"base64\r\n\r\n")[2].partition(b"\r\n\r\n--")[0]
    return base64.b64decode(encoded).decode()


def test_ascii_addresses_need_no_utf8() -> None:
    report = build(original(UTF8), failed(diagnostic="550 no"))
    assert (types(report)[1], report.mail_params.encode()) == ("message/delivery-status", "")


# --- arguments --------------------------------------------------------------------------------------------------------

NAIVE = datetime(2026, 11, 28)


@pytest.mark.parametrize(
    ("make", "error", "name"),
    [
        (lambda: RecipientStatus(YOU, "bounced", "5.0.0"), ValueError, "action"),  # type: ignore[arg-type]
        (lambda: RecipientStatus(YOU, "failed", "5.01.0"), ValueError, "status"),
        (lambda: RecipientStatus(YOU, "failed", "3.0.0"), ValueError, "status"),
        (lambda: RecipientStatus(YOU, "failed", "5.0.0", will_retry_until=datetime.now(UTC)), ValueError, "will_retry"),
        (lambda: RecipientStatus(YOU, "failed", "5.0.0", last_attempt=NAIVE), ValueError, "last_attempt"),
        (lambda: RecipientStatus(YOU, "failed", "5.0.0", 550), TypeError, "diagnostic"),  # type: ignore[arg-type]
        (lambda: original("text"), TypeError, "message"),  # type: ignore[arg-type]
        (lambda: original(arrived=NAIVE), ValueError, "arrived"),
        (lambda: original(rcpt_params={YOU: "NOTIFY=NEVER"}), TypeError, "rcpt_params"),
        (lambda: build(original(), YOU), TypeError, "statuses"),  # type: ignore[arg-type]
        (lambda: build(original(), max_returned=-1), ValueError, "max_returned"),
        (lambda: build(original(), offers="8BITMIME"), TypeError, "offers"),
        (lambda: build(original(), now=NAIVE), ValueError, "now"),
        (lambda: build(original(), reporting_mta=None), TypeError, "reporting_mta"),
        (lambda: build(ME), TypeError, "original"),  # type: ignore[arg-type]
    ],
    ids=range(15),
)
def test_wrong_arguments(make: Any, error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=name):
        make()


@pytest.mark.parametrize(
    ("offers", "expected"),
    [((), r"utf-8; b\x{F6}@example.com"), (("8BITMIME", "SMTPUTF8"), "utf-8; b\u00f6@example.com")],
)
def test_original_recipient_that_is_not_ascii(offers: tuple[str, ...], expected: str) -> None:
    """Postfix sends it with the type rfc822, which has ASCII addresses only (RFC 6533 3)."""
    about = original(rcpt_params={YOU: Params({ORCPT: "rfc822;b\u00f6@example.com"})})
    report = build_report(about, [RecipientStatus(YOU, "failed", "5.1.1")], reporting_mta="mx.test", offers=offers)
    assert report is not None
    assert f"Original-Recipient: {expected}\r\n".encode() in report.message
