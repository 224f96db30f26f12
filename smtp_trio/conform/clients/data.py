"""Messages, line for line (RFC 5321 4.1.1.4, 4.5.2, 4.5.3.1)."""

from __future__ import annotations

from .._case import Level
from .._checks import Arrives, Once, Sends, Succeeds
from ._laws import Law, scene

DOTS = Law(
    "RFC 5321 4.5.2",
    "Before sending a line of mail text, the SMTP client checks the first character of the line. If it is a period, one "
    "additional period is inserted at the beginning of the line.",
)
END = Law("RFC 5321 4.1.1.4", "The mail data are terminated by a line containing only a period")
BARE = Law(
    "RFC 5321 2.3.8",
    "SMTP client implementations MUST NOT transmit these characters except when they are intended as line terminators and then "
    "MUST, as indicated above, transmit them only as a <CRLF> sequence.",
)
LONG = Law(
    "RFC 5321 4.5.3.1",
    "To the maximum extent possible, implementation techniques that impose no limits on the length of these objects should be "
    "used.",
    Level.RECOMMENDED,
)
LINES = Law(
    "RFC 5321 4.5.3.1.6",
    "The maximum total length of a text line including the <CRLF> is 1000 octets (not counting the leading dot duplicated for "
    "transparency).",
)
NO_BARE = Sends(rb"!(?<!\r)\n|\r(?!\n)", "a CR or an LF without the other was sent")

CASES = (
    scene(
        "data.dots",
        "dots at the beginning of lines arrive as they are",
        DOTS,
        checks=(Arrives(), Once()),
        letter="dots",
    ),
    scene(
        "data.dot-alone",
        "a message that is one dot is not its own end",
        DOTS,
        checks=(Arrives(), Once()),
        letter="dot-first",
    ),
    scene(
        "data.open",
        "a message without an end of its last line is given one",
        END,
        checks=(Arrives(), Once()),
        letter="open",
    ),
    scene("data.empty", "a message without a body", END, checks=(Succeeds(), Once()), letter="empty"),
    scene(
        "data.blank",
        "blank lines at the beginning and at the end arrive as they are",
        END,
        checks=(Arrives(to_the_end=True), Once()),
        letter="blank",
    ),
    scene(
        "data.998",
        "lines of 998 octets arrive as they are, one of dots among them",
        LINES,
        checks=(Arrives(),),
        letter="998",
    ),
    scene(
        "data.long",
        "a line of 3,000 octets is sent as it is, or not at all",
        LONG,
        checks=(Arrives(or_none=True),),
        letter="long",
    ),
    scene("data.bare-lf", "an LF alone is not sent as such", BARE, checks=(NO_BARE,), letter="bare-lf"),
    scene("data.bare-cr", "a CR alone is not sent as such", BARE, checks=(NO_BARE,), letter="bare-cr"),
    scene("data.large", "a megabyte arrives as it is", LINES, checks=(Arrives(), Once()), letter="large"),
)
