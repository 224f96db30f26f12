"""DATA, its end, and what may stand in between (RFC 5321 4.1.1.4, 4.5.2, 4.5.3.1)."""

from __future__ import annotations

from .._case import Case, Level, State
from .._steps import Ask, Expect, ExpectSilence, Send, When
from ._common import DATA, END, MAIL, MESSAGE, NOOP, OUT_OF_ORDER, RCPT, TEXT

SIZES = "Every implementation MUST be able to receive objects of at least these sizes."
DEFECTS = (
    "Server SMTP systems SHOULD NOT reject messages based on perceived defects in the RFC 822 or MIME (RFC 2045 [21]) message "
    "header section or message body."
)
NOT_THE_END = "the message has not ended yet"


def goes_on(id: str, title: str, data: bytes, sentence: str) -> Case:
    """This does not end a message: what comes then is still text, and the end is heard."""
    return Case(
        id=id,
        title=title,
        section="RFC 5321 4.5.2" if "period" in sentence else "RFC 5321 4.1.1.4",
        sentence=sentence,
        state=State.DATA,
        steps=(Send(TEXT + data), ExpectSilence(0.3, NOT_THE_END), Ask(END, "250"), NOOP),
    )


def taken(id: str, title: str, data: bytes, section: str, sentence: str, level: Level = Level.MUST) -> Case:
    """A message that must be taken."""
    return Case(
        id=id,
        title=title,
        section=section,
        sentence=sentence,
        level=level,
        state=State.DATA,
        steps=(Ask(data + END, "250", "it is taken"),),
    )


CASES = (
    Case(
        id="data.accepted",
        title="DATA is answered with 354, and the message with 250",
        section="RFC 5321 4.1.1.4",
        sentence="The receiver normally sends a 354 response to DATA, and then treats the lines",
        state=State.RCPT,
        steps=(DATA, MESSAGE),
    ),
    Case(
        id="data.no-mail",
        title="no message without MAIL",
        section="RFC 5321 3.3",
        sentence='If there was no MAIL, or no RCPT, command, or all such commands were rejected, the server MAY return a "command '
        'out of sequence" (503) or "no valid recipients" (554) reply in response to the DATA command.',
        steps=(Ask(b"DATA", f"{OUT_OF_ORDER}|530|354"), When("354", (Ask(b".", "5.."),))),
    ),
    Case(
        id="data.no-rcpt",
        title="no message without RCPT",
        section="RFC 5321 3.3",
        sentence='If there was no MAIL, or no RCPT, command, or all such commands were rejected, the server MAY return a "command '
        'out of sequence" (503) or "no valid recipients" (554) reply in response to the DATA command.',
        state=State.MAIL,
        steps=(Ask(b"DATA", f"{OUT_OF_ORDER}|354"), When("354", (Ask(b".", "5.."),))),
    ),
    Case(
        id="data.clears",
        title="a message ends its transaction: DATA again is out of order",
        section="RFC 5321 4.1.1.4",
        sentence="Receipt of the end of mail data indication requires the server to process the stored mail transaction "
        "information. This processing consumes the information in the reverse-path buffer, the forward-path buffer, and the mail "
        "data buffer, and on the completion of this command these buffers are cleared.",
        state=State.DATA,
        steps=(MESSAGE, Ask(b"DATA", OUT_OF_ORDER)),
    ),
    Case(
        id="data.next",
        title="after a message, another",
        section="RFC 5321 4.1.1.4",
        sentence="on the completion of this command these buffers are cleared.",
        state=State.DATA,
        steps=(MESSAGE, MAIL, RCPT, DATA, MESSAGE),
    ),
    Case(
        id="data.empty",
        title="a message of nothing is taken or refused, with one answer",
        section="RFC 5321 4.1.1.4",
        sentence="",
        level=Level.RECOMMENDED,
        state=State.DATA,
        steps=(Ask(b".", "250|5.."), NOOP),
    ),
    Case(
        id="data.argument",
        title="DATA with an argument is refused",
        section="RFC 5321 4.3.2",
        sentence="commands that are specified in this document as not accepting arguments (DATA, RSET, QUIT) SHOULD return a 501 "
        "message if arguments are supplied",
        level=Level.SHOULD,
        state=State.RCPT,
        steps=(Ask(b"DATA now", "501"), DATA, MESSAGE),
    ),
    Case(
        id="data.trailing-space",
        title="DATA with a space at the end",
        section="RFC 5321 4.1.1",
        sentence="In the interest of improved interoperability, SMTP receivers SHOULD tolerate trailing white space before the "
        "terminating <CRLF>.",
        level=Level.SHOULD,
        state=State.RCPT,
        steps=(Ask(b"DATA ", "354"), MESSAGE),
    ),
    Case(
        id="data.late-answer",
        title="nothing is answered before the end of data",
        section="RFC 5321 4.2",
        sentence="Every command MUST generate exactly one reply.",
        state=State.DATA,
        steps=(Send(TEXT), ExpectSilence(0.3, NOT_THE_END), Ask(END, "250"), NOOP),
    ),
    goes_on(
        "data.two-dots",
        "a line of two dots does not end it",
        b"..\r\n",
        "When a line of mail text is received by the SMTP "
        "server, it checks the line. If the line is composed of a single period, it is treated as the end of mail indicator.",
    ),
    goes_on(
        "data.dot-text",
        "a line that begins with a dot does not end it",
        b".x\r\n",
        "If the first character is a period and "
        "there are other characters on the line, the first character is deleted.",
    ),
    goes_on(
        "data.text-dot",
        "a line that ends with a dot does not end it",
        b"x.\r\n",
        "The mail data are terminated by a line "
        'containing only a period, that is, the character sequence "<CRLF>.<CRLF>"',
    ),
    goes_on(
        "data.dot-space",
        "a dot and a space do not end it",
        b". \r\n",
        "If the first character is a period and "
        "there are other characters on the line, the first character is deleted.",
    ),
    goes_on(
        "data.commands",
        "commands in it are text",
        b"RSET\r\nQUIT\r\n",
        "treats the lines (strings ending in <CRLF> sequences, "
        "as described in Section 2.3.7) following the command as mail data from the sender.",
    ),
    Case(
        id="data.octets",
        title="the end may come an octet at a time",
        section="RFC 5321 4.1.1.4",
        sentence='The mail data are terminated by a line containing only a period, that is, the character sequence "<CRLF>.<CRLF>"',
        state=State.DATA,
        steps=(Send(TEXT + b"Text.\r\n.\r\n", chunk=1), Expect("250"), NOOP),
    ),
    taken(
        "data.line-1000",
        "a line of 1,000 octets, with its CRLF",
        TEXT + b"x" * 998 + b"\r\n",
        "RFC 5321 4.5.3.1.6",
        "The maximum total length of a text line including the <CRLF> is 1000 octets (not counting the leading dot duplicated for "
        "transparency).",
    ),
    taken(
        "data.line-1001",
        "a line of 1,000 octets and the dot put before it",
        TEXT + b".." + b"x" * 997 + b"\r\n",
        "RFC 5321 4.5.3.1.6",
        "The maximum total length of a text line including the <CRLF> is 1000 octets (not counting the "
        "leading dot duplicated for transparency).",
    ),
    taken(
        "data.64k",
        "a message of 64 KiB",
        TEXT + (b"x" * 70 + b"\r\n") * 910,
        "RFC 5321 4.5.3.1.7",
        "The maximum total length of a message content (including any message header section as well as the message body) MUST BE "
        "at least 64K octets.",
    ),
    taken(
        "data.ascii",
        "a message with all characters of ASCII that a line may have",
        TEXT + bytes(range(32, 127)) + b"\t\r\n",
        "RFC 5321 4.1.1.4",
        "The mail data may contain any of the 128 ASCII character codes",
    ),
    taken("data.no-header", "a message without a header", b"\r\n", "RFC 5321 3.3", DEFECTS, Level.SHOULD),
    taken(
        "data.two-froms",
        "a message with two From fields",
        b"From: <{from}>\r\n" + TEXT,
        "RFC 5321 3.3",
        DEFECTS,
        Level.SHOULD,
    ),
    taken(
        "data.no-colon",
        "a message with a line in its header that is no field",
        b"what is this\r\n" + TEXT,
        "RFC 5321 3.3",
        DEFECTS,
        Level.SHOULD,
    ),
    taken(
        "data.resent",
        "a message with Resent-To alone",
        b"Resent-To: <{to}>\r\n" + TEXT,
        "RFC 5321 3.3",
        "they MUST NOT reject messages in which the numbers of Resent-header fields do not match or Resent-to appears without "
        "Resent-from and/or Resent-date.",
    ),
    taken(
        "data.hops",
        "a message that has made 40 hops",
        b"Received: by conform.test; Thu, 01 Jan 2026 00:00:00 +0000\r\n" * 40 + TEXT,
        "RFC 5321 6.3",
        "SMTP servers using this technique SHOULD use a large rejection threshold, normally at least 100 Received entries.",
        Level.SHOULD,
    ),
    Case(
        id="data.loop",
        title="a message that has made 120 hops goes in circles",
        section="RFC 5321 6.3",
        sentence="Whatever mechanisms are used, servers MUST contain provisions for detecting and stopping trivial loops.",
        level=Level.RECOMMENDED,
        state=State.DATA,
        steps=(Ask(b"Received: by conform.test; Thu, 01 Jan 2026 00:00:00 +0000\r\n" * 120 + TEXT + END, "5.."),),
    ),
    Case(
        id="data.long-line",
        title="a line of 5,000 octets is taken or refused, with one answer at the end",
        section="RFC 5321 4.5.3.1.6",
        sentence="",
        level=Level.RECOMMENDED,
        state=State.DATA,
        steps=(Ask(TEXT + b"x" * 5000 + b"\r\n" + END, "250|5.."), NOOP),
    ),
)
