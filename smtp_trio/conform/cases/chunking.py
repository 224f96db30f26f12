"""BDAT and BINARYMIME (RFC 3030)."""

from __future__ import annotations

from .._case import Case, Level, State
from .._steps import Ask, Ehlo, Expect, ExpectAll, Send, When
from ._common import DATA, MAIL, MESSAGE, NOOP, RCPT, RSET, TEXT

EACH = "A 250 response MUST be sent to each successful BDAT data block within a mail transaction."
DISCARD = (
    "If a failure occurs after a BDAT command is received, the receiver-SMTP MUST accept and discard the associated message data "
    "before sending the appropriate 5XX or 4XX code."
)
BODY = b"Subject: chunk\r\n\r\nText.\r\n"
NEEDS = ("CHUNKING",)
BINARY = Ask(b"MAIL FROM:<{from}> BODY=BINARYMIME", "250")
#: What is no size, so that nobody can know where the commands go on.
NO_SIZE = (
    ("none", b"BDAT"),
    ("negative", b"BDAT -1"),
    ("plus", b"BDAT +5"),
    ("hex", b"BDAT 0x5"),
    ("underscore", b"BDAT 1_0"),
    ("word", b"BDAT five LAST"),
    ("end-marker", b"BDAT 0 FIRST"),
    ("40-digits", b"BDAT " + b"9" * 40),
)


def bdat(body: bytes, *, last: bool = False, verb: bytes = b"BDAT") -> Send:
    """A chunk with its command."""
    return Send(b"%b %d%b\r\n" % (verb, len(body), b" LAST" if last else b"") + body)


CASES = (
    Case(
        id="chunking.one",
        title="a message in one chunk",
        section="RFC 3030 2",
        sentence=EACH,
        needs=NEEDS,
        state=State.RCPT,
        steps=(bdat(BODY, last=True), Expect("250"), MAIL),
    ),
    Case(
        id="chunking.two",
        title="a message in two chunks",
        section="RFC 3030 2",
        sentence=EACH,
        needs=NEEDS,
        state=State.RCPT,
        steps=(bdat(BODY), Expect("250"), bdat(b"More.\r\n", last=True), Expect("250"), NOOP),
    ),
    Case(
        id="chunking.empty-last",
        title="a last chunk of nothing",
        section="RFC 3030 2",
        sentence="The last BDAT command MAY have a byte-count of zero indicating there is no additional data to be sent.",
        needs=NEEDS,
        state=State.RCPT,
        steps=(bdat(BODY), Expect("250"), bdat(b"", last=True), Expect("250"), NOOP),
    ),
    Case(
        id="chunking.case",
        title="bdat in small letters",
        section="RFC 5321 2.4",
        sentence='Verbs and argument values (e.g., "TO:" or "to:" in the RCPT command and extension name keywords) are not '
        "case sensitive",
        needs=NEEDS,
        state=State.RCPT,
        steps=(Send(b"bdat %d last\r\n" % len(BODY) + BODY), Expect("250")),
    ),
    Case(
        id="chunking.pipelined",
        title="all chunks and QUIT in one piece",
        section="RFC 3030 2",
        sentence=EACH,
        needs=("CHUNKING", "PIPELINING"),
        state=State.RCPT,
        steps=(
            Send(b"BDAT %d\r\n" % len(BODY) + BODY + b"BDAT 7 LAST\r\nMore.\r\nQUIT\r\n"),
            ExpectAll("250 250 221", "each chunk is answered, and QUIT"),
        ),
        quits=False,
    ),
    Case(
        id="chunking.octets",
        title="a chunk may come an octet at a time",
        section="RFC 3030 2",
        sentence=EACH,
        needs=NEEDS,
        state=State.RCPT,
        steps=(Send(b"BDAT %d LAST\r\n" % len(BODY) + BODY, chunk=1), Expect("250"), NOOP),
    ),
    Case(
        id="chunking.split-line",
        title="a CRLF in two chunks is one end of a line",
        section="RFC 3030 2",
        sentence=EACH,
        needs=NEEDS,
        state=State.RCPT,
        steps=(bdat(BODY + b"Text.\r"), Expect("250"), bdat(b"\nMore.\r\n", last=True), Expect("250"), NOOP),
    ),
    Case(
        id="chunking.end-of-data",
        title="CRLF.CRLF in a chunk ends nothing",
        section="RFC 3030 2",
        sentence="The first argument indicates the length, in octets, of the binary data chunk.",
        needs=NEEDS,
        state=State.RCPT,
        steps=(
            bdat(BODY + b".\r\nRSET\r\nRSET\r\n.\r\n", last=True),
            Send(b"QUIT\r\n"),
            ExpectAll("250 221", "there was one chunk, and QUIT"),
        ),
        quits=False,
    ),
    Case(
        id="chunking.no-rcpt",
        title="a chunk without recipients is read and thrown away",
        section="RFC 3030 2",
        sentence=DISCARD,
        needs=NEEDS,
        state=State.MAIL,
        steps=(
            Send(b"BDAT 12 LAST\r\nRSET\r\nRSET\r\nQUIT\r\n"),
            ExpectAll("5.. 221", "the chunk is refused, and not obeyed"),
        ),
        quits=False,
    ),
    Case(
        id="chunking.no-mail",
        title="a chunk without MAIL is read and thrown away",
        section="RFC 3030 2",
        sentence=DISCARD,
        needs=NEEDS,
        steps=(
            Send(b"BDAT 12 LAST\r\nRSET\r\nRSET\r\nQUIT\r\n"),
            ExpectAll("5.. 221", "the chunk is refused, and not obeyed"),
        ),
        quits=False,
    ),
    Case(
        id="chunking.after-last",
        title="a chunk after the last is out of order, and thrown away",
        section="RFC 3030 2",
        sentence='Any BDAT command sent after the BDAT LAST is illegal and MUST be replied to with a 503 "Bad sequence of '
        'commands" reply code.',
        needs=NEEDS,
        state=State.RCPT,
        steps=(bdat(BODY, last=True), Expect("250"), bdat(b"RSET\r\n", last=True), Expect("503"), RSET, NOOP),
    ),
    Case(
        id="chunking.then-data",
        title="DATA after a chunk is out of order",
        section="RFC 3030 2",
        sentence='If a DATA statement is issued after a BDAT for the current transaction, a 503 "Bad sequence of commands" MUST be '
        "issued.",
        needs=NEEDS,
        state=State.RCPT,
        steps=(bdat(BODY), Expect("250"), Ask(b"DATA", "503"), RSET, MAIL),
    ),
    Case(
        id="chunking.rset",
        title="RSET between chunks throws them away",
        section="RFC 3030 2",
        sentence="The RSET command, when issued after the first BDAT and before the BDAT LAST, clears all segments sent during "
        "that transaction and resets the session.",
        needs=NEEDS,
        state=State.RCPT,
        steps=(bdat(BODY), Expect("250"), RSET, Ask(b"DATA", "503|554"), MAIL, RCPT, DATA, MESSAGE),
    ),
    Case(
        id="chunking.data-still",
        title="DATA works where BDAT does",
        section="RFC 3030 2",
        sentence="Servers that offer the BDAT extension MUST continue to support the regular SMTP DATA command.",
        needs=NEEDS,
        state=State.RCPT,
        steps=(DATA, MESSAGE),
    ),
    Case(
        id="chunking.many",
        title="200 small chunks",
        section="RFC 3030 2",
        sentence=EACH,
        needs=NEEDS,
        state=State.RCPT,
        steps=(bdat(BODY), Expect("250"), *(bdat(b"a\r\n"), Expect("250")) * 200, bdat(b"", last=True), Expect("250")),
    ),
    Case(
        id="chunking.listed",
        title="CHUNKING has no parameter",
        section="RFC 3030 2",
        sentence='The EHLO keyword value associated with this extension is "CHUNKING".',
        state=State.GREETED,
        needs=NEEDS,
        steps=(Ehlo(lists="CHUNKING"),),
    ),
    Case(
        id="chunking.not-listed",
        title="BDAT that is not listed is refused",
        section="RFC 5321 4.2.4",
        sentence="",
        level=Level.RECOMMENDED,
        lacks=NEEDS,
        steps=(Ask(b"BDAT 0 LAST", "5.."),),
    ),
    *(
        Case(
            id=f"chunking.no-size-{name}",
            title=f"{line.decode()[:20]} is refused",
            section="RFC 3030 2",
            sentence="chunk-size ::= 1*DIGIT",
            level=Level.SHOULD,
            needs=NEEDS,
            state=State.RCPT,
            steps=(Ask(line, "5..", or_close=True),),
            quits=False,
        )
        for name, line in NO_SIZE
    ),
    Case(
        id="chunking.binary",
        title="a message of any octets, in binary",
        section="RFC 3030 3",
        sentence="",
        level=Level.RECOMMENDED,
        needs=("CHUNKING", "BINARYMIME", "MAIL"),
        steps=(
            BINARY,
            RCPT,
            bdat(TEXT.replace(b"{from}", b"a@b.example") + bytes(range(256)), last=True),
            Expect("250"),
            NOOP,
        ),
    ),
    Case(
        id="chunking.binary-data",
        title="DATA after BODY=BINARYMIME is out of order",
        section="RFC 3030 3",
        sentence='If a DATA command is issued after a MAIL command containing the body-value of "BINARYMIME", a 503 "Bad sequence '
        'of commands" response MUST be sent.',
        needs=("CHUNKING", "BINARYMIME", "MAIL"),
        steps=(BINARY, RCPT, Ask(b"DATA", "503")),
    ),
    Case(
        id="chunking.binary-chunking",
        title="who lists BINARYMIME lists CHUNKING",
        section="RFC 3030 3",
        sentence="",
        level=Level.RECOMMENDED,
        state=State.GREETED,
        needs=("BINARYMIME",),
        steps=(Ehlo(lists="CHUNKING"),),
    ),
    Case(
        id="chunking.binary-not-listed",
        title="BODY=BINARYMIME that is not listed is refused",
        section="RFC 6152 2",
        sentence='body-value = "7BIT" / "8BITMIME"',
        level=Level.SHOULD,
        lacks=("BINARYMIME",),
        needs=("8BITMIME", "MAIL"),
        steps=(Ask(b"MAIL FROM:<{from}> BODY=BINARYMIME", "5.."),),
    ),
    Case(
        id="chunking.refused-recipient",
        title="a chunk behind refused recipients is read and thrown away",
        section="RFC 3030 2",
        sentence=DISCARD,
        needs=("CHUNKING", "--unknown"),
        state=State.MAIL,
        steps=(
            Ask(b"RCPT TO:<{unknown}>", "55.|45."),
            When("55.|45.", (Send(b"BDAT 6 LAST\r\nRSET\r\n"), Expect("5.."), RSET, NOOP)),
        ),
    ),
)
