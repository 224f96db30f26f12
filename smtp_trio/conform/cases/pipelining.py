"""PIPELINING (RFC 2920)."""

from __future__ import annotations

from .._case import Case, Level, State
from .._steps import Expect, ExpectAll, Send, When
from ._common import TEXT

IN_ORDER = "MUST respond to commands in the order they are received from the client."
AT_ONCE = "MUST send all pending responses immediately whenever the local TCP input buffer is emptied."
ENVELOPE = b"MAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\n"
BODY = TEXT + b"Text.\r\n.\r\n"
NEEDS = ("PIPELINING", "MAIL")

CASES = (
    Case(
        id="pipelining.group",
        title="MAIL, RCPT, RCPT, DATA in one piece",
        section="RFC 2920 3.2",
        sentence=IN_ORDER,
        needs=NEEDS,
        steps=(
            Send(ENVELOPE + b"RCPT TO:<{to}>\r\nDATA\r\n"),
            *(Expect("250"), Expect("250|251"), Expect("250|251"), Expect("354")),
            *(Send(BODY), Expect("250")),
        ),
    ),
    Case(
        id="pipelining.next",
        title="the next transaction in one piece with a message",
        section="RFC 2920 3.1",
        sentence="a RSET/MAIL FROM sequence used to initiate a new message transaction can be placed in the same group as the "
        "final transfer of the headers and body of the previous message.",
        needs=NEEDS,
        state=State.DATA,
        steps=(
            Send(BODY + b"RSET\r\n" + ENVELOPE + b"DATA\r\n"),
            *(Expect("250"), Expect("250"), Expect("250"), Expect("250|251"), Expect("354")),
            *(Send(BODY), Expect("250")),
        ),
    ),
    Case(
        id="pipelining.quit",
        title="QUIT in one piece with a message",
        section="RFC 2920 3.2",
        sentence=IN_ORDER,
        needs=NEEDS,
        state=State.DATA,
        steps=(Send(BODY + b"QUIT\r\n"), ExpectAll("250 221", "the message is taken, and then goodbye said")),
        quits=False,
    ),
    Case(
        id="pipelining.two-messages",
        title="two messages, each in one piece with the next envelope",
        section="RFC 2920 3.2",
        sentence=IN_ORDER,
        needs=NEEDS,
        state=State.DATA,
        steps=(
            *(Send(BODY + ENVELOPE + b"DATA\r\n"), Expect("250"), Expect("250"), Expect("250|251"), Expect("354")),
            *(Send(BODY + b"QUIT\r\n"), ExpectAll("250 221", "the second message is taken, and then goodbye said")),
        ),
        quits=False,
    ),
    Case(
        id="pipelining.errors",
        title="a refusal in a group does not throw away what comes behind it",
        section="RFC 2920 3.2",
        sentence="MUST NOT flush or otherwise lose the contents of the TCP input buffer under any circumstances whatsoever.",
        needs=NEEDS,
        steps=(
            Send(b"MAIL FROM\r\n" + ENVELOPE + b"RSET\r\n"),
            *(Expect("5.."), Expect("250"), Expect("250|251"), Expect("250")),
        ),
    ),
    Case(
        id="pipelining.at-once",
        title="answers are not held back for a command that has begun",
        section="RFC 2920 3.2",
        sentence=AT_ONCE,
        needs=NEEDS,
        steps=(*(Send(ENVELOPE + b"RS"), Expect("250"), Expect("250|251"), Send(b"ET\r\n"), Expect("250")),),
    ),
    Case(
        id="pipelining.octets",
        title="a group may come an octet at a time",
        section="RFC 2920 3.2",
        sentence=IN_ORDER,
        needs=NEEDS,
        steps=(
            Send(ENVELOPE + b"DATA\r\n", chunk=1),
            *(Expect("250"), Expect("250|251"), Expect("354")),
            *(Send(BODY, chunk=1), Expect("250")),
        ),
    ),
    Case(
        id="pipelining.all-refused",
        title="a group whose recipients are all refused sends nothing",
        section="RFC 2920 3.2",
        sentence="send any message whatsoever to anybody.",
        needs=("PIPELINING", "MAIL", "--unknown"),
        steps=(
            Send(b"MAIL FROM:<{from}>\r\nRCPT TO:<{unknown}>\r\nRCPT TO:<{unknown}>\r\nDATA\r\n"),
            *(Expect("250"), Expect("55.|45."), Expect("55.|45."), Expect("503|554|354")),
            When("354", (Send(b".\r\n"), Expect("5.."))),
        ),
    ),
    Case(
        id="pipelining.many",
        title="eight RSET in one piece",
        section="RFC 2920 3.2",
        sentence=IN_ORDER,
        needs=("PIPELINING",),
        steps=(Send(b"RSET\r\n" * 8 + b"QUIT\r\n"), ExpectAll("(250 ){8}221", "each is answered")),
        quits=False,
    ),
    Case(
        id="pipelining.unit",
        title="the answers to a group come in the order of its commands, one each",
        section="RFC 5321 4.2",
        sentence="Every command MUST generate exactly one reply.",
        level=Level.MUST,
        needs=("PIPELINING",),
        steps=(
            Send(b"RSET\r\nXCONFORM\r\nRSET\r\nVRFY {to}\r\nNOOP\r\nQUIT\r\n"),
            ExpectAll("250 5.. 250 (2..|5..) 250 221", "each is answered in its turn"),
        ),
        quits=False,
    ),
)
