"""Servers that take their time, and servers that say no more: a client has timeouts (RFC 5321 4.5.3.2)."""

from __future__ import annotations

from .._checks import Fails, Succeeds
from .._moves import Pause, Silence, Slowly
from .._scene import On
from ._laws import PATIENCE, TIMEOUT, scene
from .replies import GOOD, lacks, what

NEEDS = ("--slow",)
MINUTES = {"GREETING": 5, "MAIL": 5, "RCPT": 5, "DATA": 2, "BODY": 10}

CASES = (
    *(
        scene(
            f"slow.silent-{event.lower()}",
            f"{what(event)} does not come",
            TIMEOUT,
            On(event, Silence()),
            checks=(Fails(),),
            needs=NEEDS,
        )
        for event in GOOD
        if event != "QUIT"
    ),
    scene(
        "slow.silent-quit",
        "the answer to QUIT does not come: the message was taken, and the client ends",
        TIMEOUT,
        On("QUIT", Silence()),
        checks=(Succeeds(),),
        needs=NEEDS,
    ),
    *(
        scene(
            f"slow.half-{event.lower()}",
            f"{what(event)} stops in the middle",
            TIMEOUT,
            On(event, code + b"-mx.test\r\n" + code[:2], Silence()),
            checks=(Fails(),),
            needs=NEEDS,
            lacks=lacks(event),
        )
        for event, code in GOOD.items()
        if event != "QUIT"
    ),
    scene(
        "slow.endless",
        "the answer to MAIL comes octet for octet, and has no end",
        TIMEOUT,
        On("MAIL", Slowly(b"250-" + b"x" * 2000, pause=1)),
        checks=(Fails(),),
        needs=NEEDS,
    ),
    *(
        scene(
            f"slow.patient-{event.lower()}",
            f"{what(event)} takes {minutes} minutes, less ten seconds: it is waited for",
            PATIENCE,
            On(event, Pause(minutes * 60 - 10), GOOD[event] + b" at last\r\n"),
            checks=(Succeeds(),),
            needs=NEEDS,
        )
        for event, minutes in MINUTES.items()
    ),
    scene(
        "slow.drop",
        "the answer to RCPT comes one octet a second: it is waited for",
        PATIENCE,
        On("RCPT", Slowly(b"250 2.1.5 Ok, after some thought\r\n", pause=1)),
        checks=(Succeeds(),),
        needs=NEEDS,
    ),
)
