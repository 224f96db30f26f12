"""The LIMITS extension (RFC 9422)."""

from __future__ import annotations

from typing import Any

import pytest

from smtp_trio.protocol import Extension, Reply
from smtp_trio.protocol.extensions import (
    STANDARD,
    Auth,
    Chunking,
    EightBitMime,
    EnhancedStatusCodes,
    LimitsExtension,
    Pipelining,
    Size,
    SmtpUtf8,
    StartTls,
    standard,
)
from smtp_trio.protocol.session_state import SessionState

from .driver import HELLO, RECIPIENT, SENDER, ServerDriver, codes

REFUSED = Reply(550, "no", "5.7.1")


@pytest.mark.parametrize(
    ("extension", "line"),
    [
        (
            LimitsExtension(mail_max=20, rcpt_max=100, rcpt_domain_max=3),
            "LIMITS MAILMAX=20 RCPTMAX=100 RCPTDOMAINMAX=3",
        ),
        (LimitsExtension(rcpt_max=999999), "LIMITS RCPTMAX=999999"),
        (LimitsExtension(mail_max=1), "LIMITS MAILMAX=1"),
    ],
)
def test_ehlo_line_round_trip(extension: LimitsExtension, line: str) -> None:
    assert f"250-{line}" in ServerDriver(extensions=(extension, *STANDARD)).send_lines(HELLO)[1].split("\n")
    assert LimitsExtension().parse_offer(line.split()[1:]) == extension


def test_limits_is_not_offered_without_limits() -> None:
    assert LimitsExtension().advertise(SessionState()) is None
    assert not any(isinstance(extension, LimitsExtension) for extension in STANDARD)


@pytest.mark.parametrize(
    "words",
    [
        ["RCPTMAX"], ["RCPTMAX="], ["RCPTMAX=0"], ["RCPTMAX=-1"], ["RCPTMAX=+5"], ["RCPTMAX=007"], ["RCPTMAX=1000000"],
        ["RCPTMAX=x"], ["RCPTMAX=1_0"], ["RCPTMAX=\u0661"], ["RCPTMAX=5=5"], ["FROMMAX=5"], ["=5"], [],
    ],
)  # fmt: skip
def test_invalid_limits_are_ignored(words: list[str]) -> None:
    assert LimitsExtension().parse_offer([*words, "mailmax=7"]) == LimitsExtension(mail_max=7)


def test_new_ehlo_reply_replaces_limits() -> None:
    """RFC 9422 3: limits may change after STARTTLS or AUTH; the last reply to EHLO counts."""
    assert LimitsExtension(rcpt_max=5, mail_max=5).parse_offer(["MAILMAX=6"]) == LimitsExtension(mail_max=6)


@pytest.mark.parametrize("value", [0, -1, 1000000])
@pytest.mark.parametrize("name", ["mail_max", "rcpt_max", "rcpt_domain_max"])
def test_invalid_limit_is_an_error(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be between 1 and 999999"):
        LimitsExtension(**{name: value})


# --- enforcing --------------------------------------------------------------------------------------------------------

MAIL_REPLY, RCPT_REPLY = "250 2.1.0", "250 2.1.5"


def limited(state: LimitsExtension, **options: Any) -> ServerDriver:
    return ServerDriver(extensions=standard(state), **options)


def test_mailmax() -> None:
    """RFC 9422 4.1: refused ones count, and so do those without a message."""
    driver = limited(LimitsExtension(mail_max=3), answer=lambda c: REFUSED if "bad" in c.encode() else None)
    replies = driver.begin().send_lines(SENDER, "RSET", "MAIL FROM:<bad@client.test>", SENDER, "RSET", SENDER, "NOOP")

    assert codes(replies) == [MAIL_REPLY, "250 2.0.0", "550 5.7.1", MAIL_REPLY, "250 2.0.0", "421 4.5.3"]
    assert driver.protocol.closed


def test_mailmax_of_messages() -> None:
    message = [SENDER, RECIPIENT, "DATA", "x", "."]
    driver = limited(LimitsExtension(mail_max=2)).begin()
    assert codes(driver.send_lines(*message, *message))[-1] == "250 2.0.0"
    assert codes(driver.send_lines(SENDER)) == ["421 4.5.3"]


def test_rcptmax() -> None:
    """RFC 9422 4.2: for each transaction. The accepted recipients get the message."""
    driver = limited(LimitsExtension(rcpt_max=2), answer=lambda c: REFUSED if "bad" in c.encode() else None)
    bad = "RCPT TO:<bad@mx.test>"
    driver.begin(SENDER)
    assert codes(driver.send_lines(RECIPIENT, bad, RECIPIENT, RECIPIENT, RECIPIENT)) == [
        RCPT_REPLY, "550 5.7.1", RCPT_REPLY, "452 4.5.3", "452 4.5.3",
    ]  # fmt: skip
    assert codes(driver.send_lines("DATA", "x", ".", SENDER, RECIPIENT)) == [
        "354", "250 2.0.0", MAIL_REPLY, RCPT_REPLY,
    ]  # fmt: skip


def test_rcptdomainmax() -> None:
    """RFC 9422 4.3: for the whole session; the case of letters does not matter."""
    driver = limited(LimitsExtension(rcpt_domain_max=2)).begin(SENDER)
    to = "RCPT TO:<{}>".format
    assert codes(driver.send_lines(to("a@one.test"), to("a@two.test"), to("b@ONE.test"), to("a@three.test"))) == [
        RCPT_REPLY, RCPT_REPLY, RCPT_REPLY, "452 4.5.3",
    ]  # fmt: skip
    assert codes(driver.send_lines("RSET", SENDER, to("a@three.test"), to("Postmaster"), to("c@two.test"))) == [
        "250 2.0.0", MAIL_REPLY, "452 4.5.3", "452 4.5.3", RCPT_REPLY,
    ]  # fmt: skip


def test_domains_do_not_count_the_recipients_that_are_too_many() -> None:
    driver = limited(LimitsExtension(rcpt_max=1, rcpt_domain_max=1)).begin(SENDER)
    lines = ("RCPT TO:<a@one.test>", "RCPT TO:<a@two.test>", "RSET", SENDER, "RCPT TO:<b@one.test>")
    assert codes(driver.send_lines(*lines))[1::3] == ["452 4.5.3", RCPT_REPLY]


def test_limits_are_not_enforced_after_helo() -> None:
    """They were not announced."""
    driver = limited(LimitsExtension(mail_max=1, rcpt_max=1, rcpt_domain_max=1))
    lines = ("HELO client.test", SENDER, "RCPT TO:<a@one.test>", "RCPT TO:<a@two.test>", "RSET", SENDER)
    assert codes(driver.send_lines(*lines))[2:] == [MAIL_REPLY, RCPT_REPLY, RCPT_REPLY, "250 2.0.0", MAIL_REPLY]


class MoreAfterAuth(LimitsExtension):
    """Other limits for users that have authenticated, and none under TLS."""

    def in_state(self, state: SessionState) -> LimitsExtension:
        if state.secure:
            return LimitsExtension()
        return LimitsExtension(rcpt_max=2, mail_max=9) if state.user else self


def test_limits_change_with_auth() -> None:
    extensions = standard(MoreAfterAuth(rcpt_max=1), Auth(cleartext=True))
    driver = ServerDriver(extensions=extensions, hooks={"auth"})
    assert "250 LIMITS RCPTMAX=1" in driver.send_lines(HELLO)[1].split("\n")
    driver.send_lines("AUTH PLAIN AHVzZXIAcGFzcw==")
    driver.protocol.set_authenticated("user") if driver.protocol.state.user is None else None
    assert "250 LIMITS MAILMAX=9 RCPTMAX=2" in driver.send_lines(HELLO)[0].split("\n")
    assert codes(driver.send_lines(SENDER, RECIPIENT, RECIPIENT, RECIPIENT))[1:] == [
        RCPT_REPLY,
        RCPT_REPLY,
        "452 4.5.3",
    ]


def test_limits_change_with_starttls() -> None:
    """The transactions before it count for the session."""
    driver = ServerDriver(extensions=standard(MoreAfterAuth(rcpt_max=1)), tls=True)
    assert "250 LIMITS RCPTMAX=1" in driver.send_lines(HELLO)[1].split("\n")
    driver.send_lines("STARTTLS")
    assert "LIMITS" not in driver.send_lines(HELLO)[0]
    assert codes(driver.send_lines(SENDER, RECIPIENT, RECIPIENT))[1:] == [RCPT_REPLY, RCPT_REPLY]


def test_example_of_rfc_9422() -> None:
    """The dialogue of section 5, and what its limits mean."""
    extensions: list[Extension] = [
        *(SmtpUtf8(), LimitsExtension(mail_max=5, rcpt_max=20), Size(), EightBitMime(), EnhancedStatusCodes()),
        *(Pipelining(), Chunking(), StartTls()),
    ]
    driver = ServerDriver(name="mail.example.com", size=100000000, extensions=extensions, tls=True)
    assert driver.send_lines("EHLO example.org")[1].split("\n") == [
        "250-mail.example.com", "250-SMTPUTF8", "250-LIMITS MAILMAX=5 RCPTMAX=20", "250-SIZE 100000000", "250-8BITMIME",
        "250-ENHANCEDSTATUSCODES", "250-PIPELINING", "250-CHUNKING", "250 STARTTLS",
    ]  # fmt: skip
    assert codes(driver.send_lines(SENDER, *[RECIPIENT] * 21))[-2:] == [RCPT_REPLY, "452 4.5.3"]
    assert codes(driver.send_lines(*["RSET", SENDER] * 5))[-2:] == ["250 2.0.0", "421 4.5.3"]
