"""The messages that clients are told to send."""

from __future__ import annotations

from collections.abc import Mapping

HEADER = (
    b"From: <conform@client.test>\r\n"
    b"To: <user@mx.test>\r\n"
    b"Date: Mon, 03 Mar 2025 10:00:00 +0000\r\n"
    b"Message-ID: <1@client.test>\r\n"
)
PLAIN = HEADER + b"Subject: smtp-trio conform\r\n\r\n"
MIME = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"

LETTERS: Mapping[str, bytes] = {
    "plain": PLAIN + b"One line.\r\nAnother.\r\n",
    "dots": PLAIN + b".\r\n..\r\n.a\r\n...b\r\nc.\r\n. \r\n.\r\n",
    "dot-first": HEADER + b"Subject: x\r\n\r\n.\r\n",
    "open": PLAIN + b"The last line has no end",
    "empty": PLAIN,
    "blank": PLAIN + b"\r\n\r\ntext\r\n\r\n\r\n",
    "998": PLAIN + b"x" * 998 + b"\r\n" + b"." * 998 + b"\r\nend\r\n",
    "long": PLAIN + b"short\r\n" + b"y" * 3000 + b"\r\nend\r\n",
    "bare-lf": PLAIN + b"one\ntwo\r\nthree\r\n",
    "bare-cr": PLAIN + b"one\rtwo\r\nthree\r\n",
    "8bit": HEADER + b"Subject: eight\r\n" + MIME + b"\r\nGr\xc3\xbc\xc3\x9fe\r\n",
    "utf8": HEADER + "Subject: Grüße\r\n".encode() + MIME + b"\r\nGr\xc3\xbc\xc3\x9fe\r\n",
    "large": PLAIN + b"0123456789012345678901234567890123456789012345678901234567890123456789\r\n" * 15_000,
    # What a server that takes LF.LF or CR.CR for the end would take for a second message.
    **{
        f"smuggle-{name}": PLAIN + b"first" + end + b"MAIL FROM:<evil@client.test>\r\n" + b"RCPT TO:<user@mx.test>\r\n"
        b"DATA\r\nSubject: second\r\n\r\nsecond\r\n"
        for name, end in (
            ("lf-lf", b"\n.\n"),
            ("lf-crlf", b"\n.\r\n"),
            ("crlf-lf", b"\r\n.\n"),
            ("cr-cr", b"\r.\r"),
            ("cr-crlf", b"\r.\r\n"),
            ("crlf-cr", b"\r\n.\r"),
            ("crlf-crlf", b"\r\n.\r\n"),
        )
    },
}
