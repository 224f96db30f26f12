"""Connections that end too early, or wherever the server likes; a 421 that nobody has asked for."""

from __future__ import annotations

from .._checks import Arrives, Fails, NoText, Once, Succeeds
from .._moves import Gather, Hangup, Pause, Slowly
from .._scene import On
from .._steps import Send
from ._laws import CARE, LOST, MULTILINE, TEMPORARY, scene
from .replies import GOOD, what

BEFORE_BODY = ("MAIL", "RCPT", "DATA")

CASES = (
    *(
        scene(
            f"lost.closed-{event.lower()}",
            f"the connection is closed in place of {what(event)}",
            LOST,
            On(event, Hangup()),
            checks=(Fails(), *[NoText()] * (event != "BODY")),
        )
        for event in (*BEFORE_BODY, "BODY")
    ),
    *(
        scene(
            f"lost.reset-{event.lower()}",
            f"the connection is reset in place of {what(event)}",
            LOST,
            On(event, Hangup(reset=True)),
            checks=(Fails(),),
        )
        for event in (*BEFORE_BODY, "BODY")
    ),
    *(
        scene(
            f"lost.torn-{event.lower()}",
            f"the connection is closed in the middle of {what(event)}",
            LOST,
            On(event, code[:2], Hangup()),
            checks=(Fails(), *[NoText()] * (event != "BODY")),
        )
        for event, code in GOOD.items()
        if event != "QUIT"
    ),
    scene(
        "lost.torn-lines",
        "the connection is closed between two lines of the answer to the message",
        LOST,
        On("BODY", b"250-Taken\r\n", Hangup()),
        checks=(Fails(),),
        level=CARE.level,
    ),
    scene(
        "lost.torn-crlf",
        "the connection is closed before the CRLF of the answer to the message",
        LOST,
        On("BODY", b"250 Taken", Hangup()),
        checks=(Fails(),),
        level=CARE.level,
    ),
    scene(
        "lost.go-ahead",
        "the connection is closed after 354",
        LOST,
        On("DATA", b"354 Go ahead\r\n", Hangup()),
        checks=(Fails(),),
    ),
    scene(
        "lost.within",
        "the connection is closed within a message of a megabyte",
        LOST,
        On("DATA", b"354 Go ahead\r\n", Gather(100_000), Hangup()),
        checks=(Fails(),),
        letter="large",
    ),
    scene(
        "lost.within-reset",
        "the connection is reset within a message of a megabyte",
        LOST,
        On("DATA", b"354 Go ahead\r\n", Gather(100_000), Hangup(reset=True)),
        checks=(Fails(),),
        letter="large",
    ),
    scene(
        "lost.within-421",
        "421 comes within a message of a megabyte, and the connection is closed",
        TEMPORARY,
        On("DATA", b"354 Go ahead\r\n", Gather(100_000), Send(b"421 4.3.2 Shutting down\r\n"), Hangup()),
        checks=(Fails(),),
        letter="large",
    ),
    scene(
        "lost.within-554",
        "554 comes within a message of a megabyte, and the rest is read: it was not taken",
        TEMPORARY,
        On("DATA", b"354 Go ahead\r\n", Gather(100_000), Send(b"554 5.6.0 Refused\r\n")),
        On("BODY", always=False),
        checks=(Fails(),),
        letter="large",
    ),
    *(
        scene(
            f"lost.unasked-{event.lower()}",
            f"421 comes right behind {what(event)}, and the connection is closed",
            TEMPORARY,
            On(event, b"%b Ok\r\n421 4.3.2 Shutting down\r\n" % GOOD[event], Pause(0.05), Hangup()),
            checks=(Fails(),),
        )
        for event in ("MAIL", "RCPT")
    ),
    scene(
        "lost.unasked-body",
        "421 comes right behind the answer to the message: it was taken",
        LOST,
        On("BODY", b"250 2.0.0 Taken\r\n421 4.3.2 Shutting down\r\n", Hangup()),
        checks=(Succeeds(),),
        level=CARE.level,
    ),
    scene(
        "lost.slow-server",
        "a server that takes a megabyte in its own time gets all of it",
        MULTILINE,
        On("DATA", Slowly(b"354 Go ahead\r\n"), Pause(1)),
        checks=(Succeeds(), Arrives(), Once()),
        letter="large",
    ),
)
