"""PIPELINING (RFC 2920), and waiting where there is none."""

from __future__ import annotations

from .._checks import Arrives, Fails, NoText, Quits, Succeeds, Waits
from .._moves import Hangup
from .._scene import BASE, On
from ._laws import PERMANENT, TEMPORARY, WAIT, Law, scene

HOLD = 0.2
OFFERED = (*BASE, "PIPELINING")
LAST = Law(
    "RFC 2920 3.1",
    "The EHLO, DATA, VRFY, EXPN, TURN, QUIT, and NOOP commands can only appear as the last command in a group since their "
    "success or failure produces a change of state which the client SMTP must accommodate.",
)
CONFIRMED = Law(
    "RFC 2920 3.1",
    "Once the client SMTP has confirmed that support exists for the pipelining extension, the client SMTP may then elect to "
    "transmit groups of SMTP commands in batches",
)
NOBODY = Law(
    "RFC 2920 3.1",
    "if none of the RCPT TO recipient addresses were accepted the client must then check the response to the DATA command",
)
COUNTING = Law(
    "RFC 2920 3.1",
    "Command statuses MUST be coordinated with responses by counting each separate response and correlating that count with "
    "the number of commands known to have been issued.",
)

CASES = (
    scene(
        "pipelining.not-offered",
        "where PIPELINING is not offered, each command waits for its answer",
        WAIT,
        checks=(Waits("*"), Succeeds()),
        hold=HOLD,
    ),
    scene(
        "pipelining.helo",
        "after HELO, each command waits for its answer",
        WAIT,
        On("EHLO", b"500 5.5.1 What?\r\n"),
        checks=(Waits("*"),),
        hold=HOLD,
        lacks=("--require-tls", "--login"),
    ),
    scene(
        "pipelining.ehlo",
        "nothing is sent before EHLO was answered",
        CONFIRMED,
        checks=(Waits("EHLO"), Succeeds()),
        offers=OFFERED,
        hold=HOLD,
    ),
    scene(
        "pipelining.data",
        "no message is sent before DATA was answered",
        LAST,
        checks=(Waits("DATA"), Arrives()),
        offers=OFFERED,
        hold=HOLD,
    ),
    scene("pipelining.quit", "nothing is sent behind QUIT", LAST, checks=(Quits(),), offers=OFFERED),
    scene(
        "pipelining.answers",
        "many lines in each answer of a group do not confuse",
        COUNTING,
        On("MAIL", b"250-2.1.0 Ok\r\n250 and 354 is no code here\r\n"),
        On("RCPT", b"250-2.1.5 Ok\r\n250 354 Ok\r\n"),
        checks=(Arrives(),),
        offers=OFFERED,
    ),
    scene(
        "pipelining.mail-refused",
        "MAIL is refused, and all that came with it",
        PERMANENT,
        On("MAIL", b"550 5.7.1 No\r\n"),
        checks=(NoText(), Fails(), Quits()),
        offers=OFFERED,
    ),
    scene(
        "pipelining.rcpt-refused",
        "all recipients are refused, and DATA",
        NOBODY,
        On("RCPT", b"550 5.1.1 No such user\r\n"),
        checks=(NoText(), Fails(), Quits()),
        offers=OFFERED,
    ),
    scene(
        "pipelining.rcpt-data",
        "all recipients are refused, and DATA is not: nothing but a dot is sent",
        NOBODY,
        On("RCPT", b"550 5.1.1 No such user\r\n"),
        On("DATA", b"354 Go ahead\r\n"),
        On("BODY", b"554 5.5.1 No valid recipients\r\n", always=False),
        checks=(NoText(), Fails()),
        offers=OFFERED,
    ),
    scene(
        "pipelining.data-refused",
        "only DATA is refused",
        PERMANENT,
        On("DATA", b"451 4.3.0 Not now\r\n"),
        checks=(NoText(), Fails(), Quits()),
        offers=OFFERED,
    ),
    scene(
        "pipelining.data-250",
        "DATA is answered 250: no message data is sent",
        COUNTING,
        On("DATA", b"250 Ok\r\n"),
        checks=(NoText(), Fails()),
        offers=OFFERED,
    ),
    scene(
        "pipelining.421",
        "421 comes in the middle of a group, and the connection is closed",
        TEMPORARY,
        On("RCPT", b"421 4.3.2 Shutting down\r\n", Hangup()),
        checks=(NoText(), Fails()),
        offers=OFFERED,
    ),
    scene(
        "pipelining.large", "a megabyte arrives as it is", COUNTING, checks=(Arrives(),), offers=OFFERED, letter="large"
    ),
)
