"""Attacks on clients: floods, replies that nobody has asked for, and what is smuggled in through a message or an address."""

from __future__ import annotations

from .._checks import Fails, NoLine, NoText, Once, Waits
from .._moves import Shake, Silence
from .._scene import BASE, On
from .._steps import Send
from ._laws import CARE, scene
from .data import BARE, DOTS, NO_BARE
from .replies import what
from .security import FORGET, GO

ENDS = {
    "lf-lf": "LF.LF",
    "lf-crlf": "LF.CRLF",
    "crlf-lf": "CRLF.LF",
    "cr-cr": "CR.CR",
    "cr-crlf": "CR.CRLF",
    "crlf-cr": "CRLF.CR",
}
NO_EVIL = NoLine(rb"evil@client\.test")
AHEAD = b"220 mx.test ESMTP\r\n250 mx.test\r\n250 Ok\r\n250 Ok\r\n354 Go ahead\r\n250 Taken\r\n221 Bye\r\n"

CASES = (
    *(
        scene(
            f"danger.lines-{event.lower()}",
            f"{what(event)} has lines without end",
            CARE,
            On(event, Send(b"250-x\r\n" * 1000 if event != "GREETING" else b"220-x\r\n" * 1000, times=5000)),
            checks=(Fails(),),
        )
        for event in ("GREETING", "EHLO", "RCPT", "BODY")
    ),
    *(
        scene(
            f"danger.line-{event.lower()}",
            f"{what(event)} is a line without end",
            CARE,
            On(event, b"250 " if event != "GREETING" else b"220 ", Send(b"x" * 10_000, times=3000)),
            checks=(Fails(),),
        )
        for event in ("GREETING", "EHLO", "RCPT", "BODY")
    ),
    scene(
        "danger.many",
        "EHLO lists a hundred thousand extensions",
        CARE,
        On("EHLO", b"250-mx.test\r\n", Send(b"250-XEXT a b c\r\n" * 1000, times=100), b"250 END\r\n"),
        checks=(),
    ),
    scene(
        "danger.garbage",
        "the greeting is a megabyte of random octets",
        CARE,
        On("GREETING", Send(bytes(range(256)) * 40, times=100)),
        checks=(Fails(),),
    ),
    scene(
        "danger.nul",
        "the greeting is NULs without end",
        CARE,
        On("GREETING", Send(bytes(10_000), times=3000)),
        checks=(Fails(),),
    ),
    scene(
        "danger.replies",
        "more and more replies come that nobody has asked for",
        CARE,
        On("MAIL", Send(b"250 Ok\r\n" * 1000, times=2000)),
        checks=(Fails(),),
    ),
    scene(
        "danger.ahead",
        "all replies come with the greeting: a client that notices sends no message",
        CARE,
        On("GREETING", AHEAD),
        On("EHLO", Silence()),
        checks=(NoText(), Fails()),
    ),
    scene(
        "danger.starttls",
        "an answer to EHLO comes in clear, with that to STARTTLS: it counts for nothing inside TLS",
        FORGET,
        On("STARTTLS", GO + b"250-mx.test\r\n250 SIZE 12345678\r\n", Shake()),
        checks=(NoLine(rb"^MAIL.*SIZE="), Waits("EHLO")),
        offers=(*BASE, "STARTTLS"),
        inside=(),
        hold=0.2,
    ),
    *(
        scene(
            f"danger.smuggle-{name}",
            f"{text} stands in a message, with a second one behind: it is not sent so",
            BARE,
            checks=(NO_EVIL, NO_BARE, Once()),
            letter=f"smuggle-{name}",
        )
        for name, text in ENDS.items()
    ),
    scene(
        "danger.smuggle-crlf-crlf",
        "CRLF.CRLF stands in a message, with a second one behind: it does not end it",
        DOTS,
        checks=(NO_EVIL, Once()),
        letter="smuggle-crlf-crlf",
    ),
    *(
        scene(
            f"danger.inject-{name}-{kind}",
            f"{text} stands in the {who}, and a command behind: it is not sent",
            CARE,
            checks=(NoLine(rb"^(RCPT TO:<evil|<?evil)"), NoLine(rb"[\r\n](?!\Z|\n\Z)")),
            values={name: f"user@mx.test>{end}RCPT TO:<evil@client.test"},
        )
        for name, who in (("from", "sender"), ("to", "recipient"))
        for kind, text, end in (("crlf", "CRLF", "\r\n"), ("lf", "LF", "\n"), ("cr", "CR", "\r"))
    ),
)
