"""The work that a client may cause without sending a message: `Limits.work`, and the limits of a session."""

from __future__ import annotations

import pytest

from smtp_trio.protocol import BadCommandError, Limits
from smtp_trio.protocol.extensions import Auth, standard

from .driver import HELLO, RECIPIENT, SENDER, ServerDriver, codes

REFUSED = "RCPT TO:<no@mx.test>"
#: Commands that a client could repeat for ever, and how often it may do so by default: until 421, or until the session
#: is over. HELLO has already cost 10 units.
ENDLESS = [
    ([], ["NOOP"], 119),
    ([], ["RSET"], 119),
    ([], [HELLO], 119),
    ([], ["HELO client.test"], 119),
    ([], ["VRFY a"], 119),
    ([], [SENDER, HELLO], 119),
    ([], [SENDER, RECIPIENT, "RSET"], 119),
    ([SENDER], [REFUSED], 516),
    ([SENDER], ["RCPT TO:<later@mx.test>"], 516),
    ([], [SENDER, REFUSED, HELLO], 93),
    ([SENDER, RECIPIENT], ["BDAT 0"], 1010),
]


def repeat(driver: ServerDriver, lines: list[str], most: int) -> int:
    """Send the lines until the session is over; return how many times."""
    for count in range(1, most + 1):
        driver.send_lines(*lines)
        if driver.protocol.closed:
            return count
    raise AssertionError("the session is not over")


@pytest.mark.parametrize(("before", "lines", "times"), ENDLESS)
def test_no_command_can_be_repeated_for_ever(before: list[str], lines: list[str], times: int) -> None:
    driver = ServerDriver().begin(*before)
    assert repeat(driver, lines, 2000) == times
    assert driver.protocol.ended_by == "work"
    assert driver.protocol.limits_reached["work"] == 1


def test_cancelled_logins_are_limited() -> None:
    driver = ServerDriver(hooks={"auth"}, extensions=standard(Auth(cleartext=True))).begin()
    assert repeat(driver, ["AUTH PLAIN", "*"], 200) <= 60


def test_recipients_beyond_the_limit_are_limited() -> None:
    driver = ServerDriver(limits=Limits(recipients=100)).begin(SENDER, *[RECIPIENT] * 100)
    assert repeat(driver, [RECIPIENT], 2000) == 1010
    assert driver.protocol.limits_reached == {"recipients": 1010, "work": 1}


def test_refusal_is_sent_and_the_next_command_gets_421() -> None:
    driver = ServerDriver(limits=Limits(work=11, errors=2)).begin(SENDER)
    assert codes(driver.send_lines(REFUSED, REFUSED, "QUIT")) == ["550 5.1.1", "550 5.1.1", "421 4.7.0"]


def test_messages_with_refused_recipients_are_not_limited() -> None:
    """A mailing list of which a third of the addresses do not exist any more, in one session."""
    driver = ServerDriver().begin()
    for _ in range(30):
        replies = driver.send_lines(SENDER, *[REFUSED] * 300, *[RECIPIENT] * 700, "DATA", ".")
        assert replies[-1][:3] == "250"
    assert not driver.protocol.limits_reached


def test_work_without_a_limit() -> None:
    driver = ServerDriver(limits=Limits(work=0)).begin()
    assert {reply[:3] for reply in driver.send_lines(*["NOOP"] * 2000)} == {"250"}


@pytest.mark.parametrize(("errors", "first"), [(20, 11), (3, 2), (4, 3)])
def test_errors_are_delayed_from_half_of_the_limit_on(errors: int, first: int) -> None:
    core = ServerDriver(limits=Limits(errors=errors)).begin().protocol
    for count in range(1, errors):
        core.receive_data(b"NONSENSE\r\n")
        with pytest.raises(BadCommandError) as caught:
            core.next_event()
        core.send_reply(caught.value.reply)
        assert core.delayed is (count >= first)
        core.delayed = False


def test_further_message_gets_421() -> None:
    driver = ServerDriver(limits=Limits(messages=2)).begin()
    for _ in range(2):
        assert driver.send_lines(SENDER, RECIPIENT, "DATA", ".")[-1][:3] == "250"
    assert driver.send_lines(SENDER, RECIPIENT) == [
        "421 4.7.0 mx.test Too many messages in this session; closing the connection"
    ]
    assert driver.protocol.ended_by == "messages"


HEADER = "A: b\r\nC: d\r\n"  # 12 octets


@pytest.mark.parametrize("newlines", ["reject", "normalize", "preserve"])
@pytest.mark.parametrize("limit", range(1, 16))
@pytest.mark.parametrize("cut", range(len(HEADER) + 3))
def test_header_limit_does_not_depend_on_segments(newlines: str, limit: int, cut: int) -> None:
    message = f"{HEADER}\r\nText\r\n.\r\n".encode()
    driver = ServerDriver(limits=Limits(header=limit, received=0), newlines=newlines).begin(SENDER, RECIPIENT)
    driver.send_lines("DATA")
    replies = [*driver.send(message[:cut]), *driver.send(message[cut:])]
    if limit < len(HEADER):
        assert replies == ["552 5.3.4 Message header too large"]
        assert driver.protocol.limits_reached == {"header": 1}
    else:
        assert replies == ["250 2.0.0 Ok"]
