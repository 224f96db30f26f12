"""NO-SOLICITING, MTRK, ETRN and ATRN."""

from __future__ import annotations

from typing import Any

import pytest

from smtp_trio.protocol import (
    BadCommandError,
    ClientProtocol,
    Command,
    Ehlo,
    Extension,
    LocalProtocolError,
    Mail,
    NotOfferedError,
    Params,
    Path,
    Reply,
    standard,
)
from smtp_trio.protocol.extensions import (
    AtrnExtension,
    Dsn,
    EtrnExtension,
    MessageTracking,
    NoSoliciting,
)
from smtp_trio.protocol.extensions.atrn import REVERSED, Atrn
from smtp_trio.protocol.extensions.dsn import ENVID
from smtp_trio.protocol.extensions.etrn import Etrn
from smtp_trio.protocol.extensions.mtrk import MTRK, Tracking
from smtp_trio.protocol.extensions.no_soliciting import SOLICIT, refuse_classes
from smtp_trio.protocol.grammar import Grammar

from .driver import HELLO, RECIPIENT, SENDER, ServerDriver, codes

ADVERTISING = "net.example:ADV"


def begun(*extensions: Extension, **settings: Any) -> ServerDriver:
    return ServerDriver(extensions=standard(*extensions), **settings).begin()


def mail(driver: ServerDriver, params: str) -> str:
    return codes(driver.send_lines(f"{SENDER} {params}"))[0]


def client(*lines: str) -> ClientProtocol:
    """Return a client to which a server has offered these extensions."""
    protocol = ClientProtocol()
    protocol.receive_data(b"220 mx.test\r\n")
    protocol.next_event()
    protocol.send_command(Ehlo("client.test"))
    protocol.receive_data("".join(f"250-{line}\r\n" for line in ("mx.test", *lines)).encode() + b"250 HELP\r\n")
    protocol.next_event()
    protocol.data_to_send()
    return protocol


# --- NO-SOLICITING, RFC 3865 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("SOLICIT=net.example:ADV", "250 2.1.0"), ("SOLICIT=net.example:ADV,org.example:ADV:ADLT", "250 2.1.0"),
        (f"SOLICIT={'a' * 1000}", "250 2.1.0"), (f"SOLICIT={'a' * 1001}", "501 5.5.4"), ("SOLICIT", "501 5.5.4"),
        ("SOLICIT=", "501 5.5.4"), ("SOLICIT=a,", "501 5.5.4"), ("SOLICIT=1a", "501 5.5.4"), ("SOLICIT=a;b", "501 5.5.4"),
        ("SOLICIT=a SOLICIT=a", "501 5.5.4"), ("SOLICIT=\u00e9", "501 5.5.4"),
    ],
)  # fmt: skip
def test_solicitation_classes(params: str, expected: str) -> None:
    assert mail(begun(NoSoliciting()), params) == expected


def test_unwanted_classes_are_announced_and_refused() -> None:
    driver = ServerDriver(extensions=standard(NoSoliciting([ADVERTISING, "a.b"])))
    assert "NO-SOLICITING a.b,net.example:ADV" in {line[4:] for line in driver.send_lines(HELLO)[1].split("\n")}
    assert driver.send_lines(f"{SENDER} SOLICIT=x,NET.example:adv") == ["550 5.7.1 SOLICIT=NET.example:adv"]
    assert mail(driver, "SOLICIT=x") == "250 2.1.0"
    assert driver.protocol.state.mail is not None
    assert driver.protocol.state.mail.params[SOLICIT] == {"x"}


def test_hook_refuses_a_class_for_a_recipient() -> None:
    driver = begun(
        NoSoliciting(ADVERTISING),
        answer=lambda c: refuse_classes(["org.example:ADV:ADLT"]) if c.verb == "RCPT" else None,
    )
    assert (
        driver.send_lines(f"{SENDER} SOLICIT=org.example:ADV:ADLT", RECIPIENT)[1]
        == "550 5.7.1 SOLICIT=org.example:ADV:ADLT"
    )


def test_client_knows_the_unwanted_classes() -> None:
    offers = {
        line: client(line).offered["NO-SOLICITING"]
        for line in ("NO-SOLICITING", "NO-SOLICITING 1", f"NO-SOLICITING {ADVERTISING}")
    }
    assert list(offers.values()) == [NoSoliciting(), NoSoliciting(), NoSoliciting(ADVERTISING)]
    assert Params({SOLICIT: frozenset({"b", "a"})}).encode() == "SOLICIT=a,b"
    for classes in ("not valid", [""], ["a,b"], ["a", "b,c"], ["a" * 1001]):
        with pytest.raises(ValueError, match="classes"):
            NoSoliciting(classes)


# --- MTRK, RFC 3885 --------------------------------------------------------------------------------------------------

#: The 160 bits of SHA-1 in base64, without "=".
CERTIFIER = "qZk+NkcGgWq6PiVxeFDCbJzQ2J0"


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (f"MTRK={CERTIFIER} ENVID=a@b", "250 2.1.0"), (f"ENVID=a@b MTRK={CERTIFIER}:86400", "250 2.1.0"),
        (f"MTRK={CERTIFIER}", "501 5.5.4"), (f"MTRK={CERTIFIER}: ENVID=a", "501 5.5.4"), ("MTRK=: ENVID=a", "501 5.5.4"),
        (f"MTRK={CERTIFIER}:1234567890 ENVID=a", "501 5.5.4"), ("MTRK=a ENVID=a", "501 5.5.4"), ("MTRK ENVID=a", "501 5.5.4"),
        ("MTRK=a*bc ENVID=a", "501 5.5.4"), (f"MTRK={'A' * 173} ENVID=a", "501 5.5.4"), (f"MTRK={'A' * 172} ENVID=a", "250 2.1.0"),
    ],
)  # fmt: skip
def test_tracking(params: str, expected: str) -> None:
    assert mail(begun(Dsn(), MessageTracking()), params) == expected


def test_certifier_is_decoded() -> None:
    driver = begun(Dsn(), MessageTracking())
    mail(driver, f"MTRK={CERTIFIER}:60 ENVID=a")
    assert driver.protocol.state.mail is not None
    tracking = driver.protocol.state.mail.params[MTRK]
    assert (len(tracking.certifier), tracking.timeout) == (20, 60)
    assert Params({MTRK: tracking}).encode() == f"MTRK={CERTIFIER}:60"
    assert Params({MTRK: Tracking(b"ABC")}).encode() == "MTRK=QUJD"


def test_time_that_a_relay_has_used() -> None:
    """RFC 3885 3.1."""
    assert Tracking(b"x", 60).after(59) == Tracking(b"x", 1)
    assert Tracking(b"x", 60).after(60) is None
    assert Tracking(b"x").after(60) == Tracking(b"x")


def test_tracking_needs_dsn() -> None:
    with pytest.raises(ValueError, match="MTRK requires DSN"):
        Grammar(standard(MessageTracking(), without=(Dsn,)))


def test_client_requires_an_envelope_id_for_tracking() -> None:
    protocol, path = client("DSN", "MTRK"), Path("a@b", "a", "b")
    tracked = Mail(path, Params({MTRK: Tracking(b"ABC", 5), ENVID: "x@y"}))
    assert protocol.encode_command(tracked) == b"MAIL FROM:<a@b> MTRK=QUJD:5 ENVID=x@y\r\n"
    assert protocol.encode_command(Mail(path, Params({ENVID: "x@y"}))) == b"MAIL FROM:<a@b> ENVID=x@y\r\n"
    with pytest.raises(LocalProtocolError, match=r"RFC 3885 3\.2"):
        protocol.send_command(Mail(path, Params({MTRK: Tracking(b"ABC")})))


# --- ETRN, RFC 1985 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("ETRN x.test", Etrn("x.test")), ("etrn @X.test", Etrn("X.test", "@")), ("ETRN #uucp", Etrn("uucp", "#")),
        ("ETRN   a-b.c.d ", Etrn("a-b.c.d")),
    ],
)  # fmt: skip
def test_etrn(line: str, command: Etrn) -> None:
    driver = begun(
        EtrnExtension(), hooks={"etrn"}, answer=lambda c: Reply(250, "Started") if isinstance(c, Etrn) else None
    )
    assert codes(driver.send_lines(line)) == ["250 2.0.0"]
    assert driver.events[-1] == command
    assert Etrn.decode(command.encode().removeprefix("ETRN "), {}) == command


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ETRN", "500 5.5.2"), ("ETRN localname", "501 5.5.4"), ("ETRN a.b c.d", "501 5.5.4"), ("ETRN #", "501 5.5.4"),
        ("ETRN @", "501 5.5.4"), ("ETRN a..b", "501 5.5.4"), ("ETRN a_b.c", "501 5.5.4"), ("ETRN \u00e9.test", "501 5.5.4"),
        ("ETRN @@a.b", "501 5.5.4"),
    ],
)  # fmt: skip
def test_invalid_etrn(line: str, expected: str) -> None:
    assert codes(begun(EtrnExtension(), hooks={"etrn"}).send_lines(line)) == [expected]


def test_etrn_is_not_allowed_in_a_transaction() -> None:
    driver = ServerDriver(extensions=standard(EtrnExtension()), hooks={"etrn"})
    assert codes(driver.send_lines("ETRN x.test", HELLO, SENDER, "ETRN x.test", RECIPIENT, "ETRN x.test"))[1:] == [
        "503 5.5.1", "250", "250 2.1.0", "503 5.5.1", "250 2.1.5", "503 5.5.1",
    ]  # fmt: skip


def test_etrn_without_its_hook_is_not_implemented() -> None:
    driver = ServerDriver(extensions=standard(EtrnExtension()))
    assert "ETRN" not in driver.send_lines(HELLO)[1]
    assert codes(driver.send_lines("ETRN x.test")) == ["502 5.5.1"]


# --- ATRN, RFC 2645 --------------------------------------------------------------------------------------------------


def provider(user: str | None = "example.org", reply: Reply | None = None) -> ServerDriver:
    reply = reply or Reply(250, "OK now reversing the connection")
    driver = begun(
        AtrnExtension(), hooks={"atrn", "auth"}, secure=True, answer=lambda c: reply if isinstance(c, Atrn) else None
    )
    if user is not None:
        driver.protocol.set_authenticated(user)
    return driver


@pytest.mark.parametrize(
    ("line", "domains"),
    [
        ("ATRN", ()),
        ("ATRN example.org", ("example.org",)),
        ("atrn example.org,a-b.example.com", ("example.org", "a-b.example.com")),
    ],
)
def test_roles_are_reversed(line: str, domains: tuple[str, ...]) -> None:
    driver = provider()
    assert codes(driver.send_lines(line)) == ["250 2.0.0"]
    assert driver.events[-1] == Atrn(domains)
    assert Atrn.decode(Atrn(domains).encode()[5:], {}) == Atrn(domains)
    assert driver.protocol.dialogue.phase is REVERSED
    assert codes(driver.send_lines("NOOP")) == ["503 5.5.1"]


@pytest.mark.parametrize(
    "argument", ["localname", "a.b,", ",a.b", "a.b,,c.d", "a.b c.d", "-a.b", "a-.b", "a..b", "a_b.c", "\u00e9.test"]
)
def test_invalid_atrn(argument: str) -> None:
    assert codes(provider().send_lines(f"ATRN {argument}")) == ["501 5.5.4"]


def test_atrn_requires_authentication() -> None:
    driver = provider(user=None)
    assert codes(driver.send_lines("ATRN", "ATRN x")) == ["530 5.7.0"] * 2
    assert "250-ATRN" in driver.send_lines(HELLO)[0] or "250 ATRN" in driver.send_lines(HELLO)[0]


@pytest.mark.parametrize("reply", [Reply(450, "Refused"), Reply(451, "Unable"), Reply(453, "You have no mail")])
def test_refused_atrn_changes_nothing(reply: Reply) -> None:
    driver = provider(reply=reply)
    assert codes(driver.send_lines("ATRN", SENDER, "ATRN"))[0][:3] == str(reply.code)
    assert codes(driver.send_lines("NOOP")) == ["250 2.0.0"]


def test_atrn_needs_auth() -> None:
    with pytest.raises(ValueError, match="ATRN requires AUTH"):
        Grammar([AtrnExtension()])


def test_client_after_atrn_sends_no_commands() -> None:
    protocol = client("ATRN")
    protocol.send_command(Atrn(("example.org",)))
    assert protocol.data_to_send() == b"ATRN example.org\r\n"
    protocol.receive_data(b"250 now reversing\r\n")
    protocol.next_event()
    assert not protocol.closed
    with pytest.raises(LocalProtocolError, match="after the roles were reversed"):
        protocol.send_command(Ehlo("x"))
    with pytest.raises(NotOfferedError, match="ATRN"):
        client().send_command(Atrn())


def test_decoding_needs_an_argument() -> None:
    command: type[Command] = Etrn
    with pytest.raises(BadCommandError):
        command.decode("", {})
