"""What a server with a hole would take for the end of a message, or drown in. For servers of one's own."""

from __future__ import annotations

from .._case import Case, Level, Rule, State
from .._steps import Ask, Expect, ExpectAll, Send
from ._common import MESSAGE, NOOP, TEXT

END = (
    'The mail data are terminated by a line containing only a period, that is, the character sequence "<CRLF>.<CRLF>", where the '
    "first <CRLF> is actually the terminator of the previous line"
)
SECOND = (
    b"MAIL FROM:<smuggled@example.com>\r\nRCPT TO:<{to}>\r\nDATA\r\n"
    b"Subject: smuggled\r\n\r\nThis is another message.\r\n.\r\nQUIT\r\n"
)
#: What is not CRLF.CRLF, however much it looks like it.
SEQUENCES = (
    ("lf-dot-lf", b"\n.\n"),
    ("lf-dot-crlf", b"\n.\r\n"),
    ("crlf-dot-lf", b"\r\n.\n"),
    ("cr-dot-cr", b"\r.\r"),
    ("cr-dot-crlf", b"\r.\r\n"),
    ("cr-dot-lf", b"\r.\n"),
    ("crlf-dot-cr", b"\r\n.\r"),
    ("lf-dot-cr", b"\n.\r"),
    ("crlf-dot-cr-crlf", b"\r\n.\r\r\n"),
    ("crcrlf-dot-crcrlf", b"\r\r\n.\r\r\n"),
    ("crlf-nul-dot-crlf", b"\r\n\0.\r\n"),
    ("crlf-dot-nul-crlf", b"\r\n.\0\r\n"),
    ("crlf-dot-space-crlf", b"\r\n. \r\n"),
    ("crlf-space-dot-crlf", b"\r\n .\r\n"),
    ("crlf-dot-tab-crlf", b"\r\n.\t\r\n"),
    ("lf-lf-dot-crlf", b"\n\n.\r\n"),
    ("lf-lf-dot-lf-lf", b"\n\n.\n\n"),
    ("crlf-cr-dot-crlf", b"\r\n\r.\r\n"),
    ("vt-dot-vt", b"\x0b.\x0b"),
    ("fs-dot-fs", b"\x1c.\x1c"),
    ("nel-dot-nel", b"\xc2\x85.\xc2\x85"),
    ("ls-dot-ls", b"\xe2\x80\xa8.\xe2\x80\xa8"),
    ("wide-dot", b"\r\n\xef\xbc\x8e\r\n"),
)

CASES: tuple[Rule, ...] = (
    *(
        Case(
            id=f"danger.smuggle-{name}",
            title=f"{name.replace('-', ' ')} does not end a message",
            section="RFC 5321 4.1.1.4",
            sentence=END,
            state=State.DATA,
            danger=True,
            quits=False,
            steps=(
                Send(TEXT + b"Text." + sequence + SECOND),
                ExpectAll(r"(250|[45]..)( 221| 421)?", "there was one message, with one answer, and QUIT"),
            ),
        )
        for name, sequence in SEQUENCES
    ),
    Case(
        id="danger.smuggle-first-line",
        title="LF.CRLF right after 354 does not end a message",
        section="RFC 5321 4.1.1.4",
        sentence=END,
        state=State.DATA,
        danger=True,
        quits=False,
        steps=(Send(b"\n.\r\n" + SECOND), ExpectAll(r"(250|[45]..)( 221| 421)?", "there was one message, and QUIT")),
    ),
    Case(
        id="danger.true-end",
        title="CR CR LF . CR LF has a true end in it",
        section="RFC 5321 4.1.1.4",
        sentence=END,
        level=Level.MUST,
        state=State.DATA,
        danger=True,
        steps=(Send(TEXT + b"Text.\r\r\n.\r\n"), Expect("250|4..|5..", or_close=True)),
        quits=False,
    ),
    Case(
        id="danger.end-at-64k",
        title="the end is found wherever it is cut",
        section="RFC 5321 4.1.1.4",
        sentence=END,
        state=State.DATA,
        danger=True,
        steps=(Send(TEXT), Send((b"x" * 78 + b"\r\n") * 819 + b"x" * 12), Ask(b"\r\n.", "250"), NOOP),
    ),
    Case(
        id="danger.many-rset",
        title="5,000 RSET in one piece are answered, slowly maybe, until the server has had enough",
        section="RFC 2920 3.2",
        sentence="MUST respond to commands in the order they are received from the client.",
        danger=True,
        needs=("PIPELINING",),
        quits=False,
        steps=(
            Send(b"RSET\r\n" * 5000 + b"QUIT\r\n"),
            ExpectAll("(250 ?){10,}(221|421|554)?", "each is answered, or the server has had enough", within=5),
        ),
    ),
    Case(
        id="danger.many-rcpt",
        title="2,000 recipients in one piece: those too many are refused one by one",
        section="RFC 5321 4.5.3.1.10",
        sentence="If an SMTP server has an implementation limit on the number of RCPT commands and this limit is exhausted, it MUST "
        "use a response code of 452",
        danger=True,
        needs=("PIPELINING",),
        state=State.MAIL,
        quits=False,
        steps=(
            Send(b"RCPT TO:<{to}>\r\n" * 2000 + b"QUIT\r\n"),
            ExpectAll("(250 ){100,}(45. )*(221|421)", "a hundred are taken at least, and the rest answered with 452"),
        ),
    ),
    Case(
        id="danger.long-line",
        title="a command line of 4 MiB gets one answer, or the connection is closed",
        section="RFC 5321 4.2",
        sentence="Every command MUST generate exactly one reply.",
        danger=True,
        quits=False,
        steps=(
            Send(b"NOOP " + b"x" * 65536, times=64),
            Send(b"\r\nQUIT\r\n"),
            ExpectAll("((250|5..|421)( 221| 421)?)?", "there was one line, with one answer"),
        ),
    ),
    Case(
        id="danger.long-text-line",
        title="a text line of 1 MiB is one line, and its message gets one answer",
        section="RFC 5321 4.1.1.4",
        sentence=END,
        danger=True,
        state=State.DATA,
        quits=False,
        steps=(
            Send(TEXT + b"x" * 65536, times=16),
            Send(b"\r\n.\r\nQUIT\r\n"),
            ExpectAll(r"(250|[45]..)( 221| 421)?", "there was one message, with one answer"),
        ),
    ),
    Case(
        id="danger.header-flood",
        title="20,000 header fields get one answer",
        section="RFC 5321 4.1.1.4",
        sentence=END,
        danger=True,
        state=State.DATA,
        quits=False,
        steps=(
            Send(b"X-Conform: x\r\n" * 20000 + TEXT + b"Text.\r\n.\r\nQUIT\r\n"),
            ExpectAll(r"(250|[45]..)( 221| 421)?", "there was one message, with one answer"),
        ),
    ),
    Case(
        id="danger.slow-patterns",
        title="addresses that are slow to match are answered at once",
        section="RFC 5321 4.5.3.2",
        sentence="",
        level=Level.RECOMMENDED,
        danger=True,
        steps=(
            Ask(b"MAIL FROM:<" + b"a." * 200 + b"@>", "2..|5.."),
            Ask(b'MAIL FROM:<"' + b"\\a" * 200, "2..|5.."),
            Ask(b"MAIL FROM:<" + b"@a," * 120 + b">", "2..|5.."),
            NOOP,
        ),
    ),
    Case(
        id="danger.errors",
        title="errors are answered, some at least until the server has had enough",
        section="RFC 5321 3.8",
        sentence="",
        level=Level.RECOMMENDED,
        danger=True,
        needs=("PIPELINING",),
        quits=False,
        steps=(
            Send(b"XCONFORM\r\n" * 30 + b"QUIT\r\n"),
            ExpectAll("(5.. ?){3,}(221|421)?", "each is answered, until the server has had enough", within=5),
        ),
    ),
    Case(
        id="danger.after",
        title="after all this, a message is still taken",
        section="RFC 5321 4.1.1.4",
        sentence="",
        level=Level.RECOMMENDED,
        danger=True,
        state=State.DATA,
        steps=(MESSAGE,),
    ),
)
