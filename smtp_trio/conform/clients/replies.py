"""Replies that are not seen every day, after each command."""

from __future__ import annotations

from .._checks import Fails, NeverSays, NoText, Succeeds
from .._moves import Slowly
from .._scene import On
from ._laws import ANY_TEXT, CARE, FIRST_DIGIT, INTERMEDIATE, MULTILINE, NO_TEXT, OUT_OF_RANGE, scene

GOOD = {
    "GREETING": b"220",
    "EHLO": b"250",
    "MAIL": b"250",
    "RCPT": b"250",
    "DATA": b"354",
    "BODY": b"250",
    "QUIT": b"221",
}
WORDS = {"GREETING": "the greeting", "BODY": "the answer to the message"}
OTHER = {"EHLO": b"258", "MAIL": b"257", "RCPT": b"259", "BODY": b"299", "QUIT": b"289"}
"""Codes that nobody has given a meaning."""
BEFORE = {"EHLO": "MAIL", "MAIL": "DATA", "RCPT": "DATA"}


def what(event: str) -> str:
    return WORDS.get(event, f"the answer to {event}")


def lacks(event: str) -> tuple[str, ...]:
    """Where the answer to EHLO is ours, nothing is listed in it."""
    return ("--require-tls", "--login") if event == "EHLO" else ()


CASES = (
    *(
        scene(
            f"replies.lines-{event.lower()}",
            f"{what(event)} has three lines",
            MULTILINE,
            On(event, b"%b-mx.test\r\n%b-\r\n%b and so on\r\n" % (code, code, code)),
            checks=(Succeeds(),),
            lacks=lacks(event),
        )
        for event, code in GOOD.items()
    ),
    *(
        scene(
            f"replies.octets-{event.lower()}",
            f"{what(event)} comes octet for octet",
            MULTILINE,
            On(event, Slowly(b"%b-mx.test\r\n%b and so on\r\n" % (code, code), pause=0.01)),
            checks=(Succeeds(),),
            lacks=lacks(event),
        )
        for event, code in GOOD.items()
    ),
    *(
        scene(
            f"replies.text-{event.lower()}",
            f"{what(event)} has a text that says the contrary",
            ANY_TEXT,
            On(event, code + b" 550 5.1.1 Error: refused, try again later\r\n"),
            checks=(Succeeds(),),
            lacks=lacks(event),
        )
        for event, code in GOOD.items()
    ),
    *(
        scene(
            f"replies.space-{event.lower()}",
            f"{what(event)} is a code and a space",
            ANY_TEXT,
            On(event, code + b" \r\n"),
            checks=(Succeeds(),),
            lacks=lacks(event),
        )
        for event, code in GOOD.items()
    ),
    *(
        scene(
            f"replies.bare-{event.lower()}",
            f"{what(event)} is a code and nothing else",
            NO_TEXT,
            On(event, code + b"\r\n"),
            checks=(Succeeds(),),
            lacks=lacks(event),
        )
        for event, code in GOOD.items()
    ),
    *(
        scene(
            f"replies.other-{event.lower()}",
            f"{what(event)} is {code.decode()}, which nobody knows: it is as 250",
            FIRST_DIGIT,
            On(event, code + b" What is that?\r\n"),
            checks=(Succeeds(),),
            lacks=lacks(event),
        )
        for event, code in OTHER.items()
    ),
    scene(
        "replies.rcpt-251",
        "RCPT is answered 251: the recipient is accepted",
        FIRST_DIGIT,
        On("RCPT", b"251 User not local; will forward to <else@mx.test>\r\n"),
        checks=(Succeeds(),),
    ),
    scene(
        "replies.rcpt-252",
        "RCPT is answered 252: the recipient is accepted",
        FIRST_DIGIT,
        On("RCPT", b"252 Cannot verify\r\n"),
        checks=(Succeeds(),),
    ),
    *(
        scene(
            f"replies.intermediate-{event.lower()}",
            f"{what(event)} is 354: that is no yes",
            INTERMEDIATE,
            On(event, b"354 Go ahead\r\n"),
            On("RCPT", b"250 2.1.5 Ok\r\n", always=False),
            checks=(NeverSays(BEFORE[event], "BDAT"), Fails()),
        )
        for event in ("MAIL", "RCPT")
    ),
    scene(
        "replies.intermediate-body",
        "the answer to the message is 354: that is no yes",
        INTERMEDIATE,
        On("BODY", b"354 Go ahead\r\n"),
        checks=(Fails(),),
    ),
    *(
        scene(
            f"replies.range-{event.lower()}-{code.decode()}",
            f"{what(event)} is {code.decode()}",
            OUT_OF_RANGE,
            On(event, code + b" What is that?\r\n"),
            checks=(NoText(), Fails()),
            lacks=lacks(event),
        )
        for event in ("GREETING", "MAIL", "RCPT", "DATA")
        for code in (b"150", b"650", b"999")
    ),
    *(
        scene(
            f"replies.range-body-{code.decode()}",
            f"the answer to the message is {code.decode()}",
            OUT_OF_RANGE,
            On("BODY", code + b" What is that?\r\n"),
            checks=(Fails(),),
        )
        for code in (b"150", b"650", b"999")
    ),
    *(
        scene(
            f"replies.no-code-{event.lower()}",
            f"{what(event)} has no code",
            CARE,
            On(event, b"Ok\r\n"),
            checks=(NoText(), Fails()),
        )
        for event in ("MAIL", "RCPT", "DATA")
    ),
    scene(
        "replies.no-code-body", "the answer to the message has no code", CARE, On("BODY", b"Ok\r\n"), checks=(Fails(),)
    ),
    scene(
        "replies.mixed",
        "the lines of the answer to the message have two codes, 250 and 554: that is no yes",
        CARE,
        On("BODY", b"250-Taken\r\n554 5.6.0 and refused\r\n"),
        checks=(Fails(),),
    ),
    scene(
        "replies.mixed-back",
        "the lines of the answer to the message have two codes, 554 and 250: that is no yes",
        CARE,
        On("BODY", b"554-Refused\r\n250 2.0.0 and taken\r\n"),
        checks=(Fails(),),
    ),
    scene(
        "replies.nul",
        "there are NULs in all replies, and the message is refused",
        CARE,
        On("GREETING", b"220 mx\0test\r\n"),
        On("MAIL", b"250 \0Ok\0\r\n", always=False),
        On("BODY", b"554 \x00250 No\r\n", always=False),
        checks=(Fails(),),
    ),
    scene(
        "replies.terminal",
        "what would move the cursor of a terminal is in a refusal",
        CARE,
        On("MAIL", b"550 \x1b[2J\x1b]0;title\x07 \x9b31m\xff\xfe No\r\n"),
        checks=(Fails(),),
    ),
    scene(
        "replies.long",
        "a reply of 2,000 octets is read, or the client gives up",
        CARE,
        On("MAIL", b"250 " + b"x" * 2000 + b"\r\n"),
        checks=(),
    ),
    scene(
        "replies.lf",
        "replies end with LF alone: the client goes on, or gives up",
        CARE,
        On("GREETING", b"220 mx.test ESMTP\n"),
        On("MAIL", b"250 Ok\n", always=False),
        checks=(),
    ),
)
